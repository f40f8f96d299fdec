//! What is announced and withdrawn to UPDATE messages.
//!
//! Each message holds prefixes of one kind (RFC 7606 section 5.1): withdrawn or announced, in the
//! fields of RFC 4271 or in an attribute of RFC 4760, which then stands first.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use super::{
    attribute::{AttributeType, EXTENDED_LENGTH},
    attribute_list,
};
use crate::{
    attributes::PathAttributes,
    codec::{CodecOptions, HEADER_LENGTH, MessageType, begin_message, finish_message},
    identifiers::Family,
    message::{Nlri, Update},
    nlri,
};

/// Octets of the two length fields of the body.
const LENGTHS: usize = 4;

/// Octets of MP_REACH_NLRI and MP_UNREACH_NLRI before their value: flags, type, two of length.
const EXTENDED_ATTRIBUTE_HEADER: usize = 4;

/// Appends as many messages as it takes; returns what had to be withdrawn instead of announced.
pub(crate) fn encode(update: &Update, options: &CodecOptions, buffer: &mut BytesMut) -> Vec<Nlri> {
    withdraw(&update.withdrawn, options, buffer);
    let mut oversized = Vec::new();
    for announced in &update.announced {
        announce(
            &announced.attributes,
            &announced.nlri,
            options,
            buffer,
            &mut oversized,
        );
    }
    withdraw(&oversized, options, buffer);
    if let Some(family) = update.end_of_rib {
        end_of_rib(family, buffer);
    }
    oversized
}

/// Where the prefixes of a message stand, and with them what precedes each list.
#[derive(Clone, Copy)]
enum Place<'a> {
    WithdrawnRoutes,
    MpUnreach,
    /// Behind these attributes.
    Nlri(&'a [u8]),
    /// Before these attributes.
    MpReach(IpAddr, &'a [u8]),
}

impl Place<'_> {
    /// Octets of a message beside its prefixes.
    fn overhead(self) -> usize {
        HEADER_LENGTH
            + LENGTHS
            + match self {
                Self::WithdrawnRoutes => 0,
                Self::MpUnreach => EXTENDED_ATTRIBUTE_HEADER + 3,
                Self::Nlri(attributes) => attributes.len(),
                Self::MpReach(next_hop, attributes) => {
                    let next_hop = match next_hop {
                        IpAddr::V4(_) => 4,
                        IpAddr::V6(_) => 16,
                    };
                    EXTENDED_ATTRIBUTE_HEADER + 3 + 1 + next_hop + 1 + attributes.len()
                }
            }
    }
}

/// Writes prefixes of one family, split over as many messages as it takes.
struct Packer<'a> {
    family: Family,
    add_path: bool,
    room: Option<usize>,
    place: Place<'a>,
}

impl<'a> Packer<'a> {
    fn new(family: Family, place: Place<'a>, options: &CodecOptions) -> Self {
        Self {
            family,
            add_path: options.has_add_path(family),
            room: options
                .maximum_message_length()
                .checked_sub(place.overhead()),
            place,
        }
    }

    /// Appends the messages; prefixes that no message can hold go to `oversized`.
    fn write<'n>(
        &self,
        prefixes: impl Iterator<Item = &'n Nlri>,
        buffer: &mut BytesMut,
        oversized: &mut Vec<Nlri>,
    ) {
        let mut fitting = prefixes
            .filter(|nlri| {
                let fits = self.room.is_some_and(|room| self.length(nlri) <= room);
                if !fits {
                    oversized.push(**nlri);
                }
                fits
            })
            .peekable();
        while fitting.peek().is_some() {
            let mut room = self.room.unwrap_or(0);
            let start = begin_message(MessageType::Update, buffer);
            let list = self.begin_list(buffer);
            while let Some(nlri) = fitting.next_if(|nlri| self.length(nlri) <= room) {
                room -= self.length(nlri);
                nlri::encode(nlri, self.add_path, buffer);
            }
            self.finish_list(list, buffer);
            finish_message(start, buffer);
        }
    }

    fn length(&self, nlri: &Nlri) -> usize {
        nlri::encoded_length(nlri, self.add_path)
    }

    /// Writes what precedes the prefixes; returns where the fields of length stand.
    fn begin_list(&self, buffer: &mut BytesMut) -> usize {
        let start = buffer.len();
        match self.place {
            Place::WithdrawnRoutes => buffer.put_u16(0),
            Place::Nlri(attributes) => {
                buffer.put_u16(0);
                buffer.put_u16(length_field(attributes.len()));
                buffer.put_slice(attributes);
            }
            Place::MpUnreach => {
                self.begin_attribute(AttributeType::MpUnreach, buffer);
            }
            Place::MpReach(next_hop, _) => {
                self.begin_attribute(AttributeType::MpReach, buffer);
                match next_hop {
                    IpAddr::V4(next_hop) => {
                        buffer.put_u8(4);
                        buffer.put_slice(&next_hop.octets());
                    }
                    IpAddr::V6(next_hop) => {
                        buffer.put_u8(16);
                        buffer.put_slice(&next_hop.octets());
                    }
                }
                buffer.put_u8(0);
            }
        }
        start
    }

    fn begin_attribute(&self, attribute: AttributeType, buffer: &mut BytesMut) {
        buffer.put_u32(0);
        buffer.put_u8(attribute.flags() | EXTENDED_LENGTH);
        buffer.put_u8(attribute.code());
        buffer.put_u16(0);
        buffer.put_u16(self.family.afi());
        buffer.put_u8(self.family.safi());
    }

    /// Writes what follows the prefixes, and the fields of length that depend on them.
    fn finish_list(&self, start: usize, buffer: &mut BytesMut) {
        match self.place {
            Place::WithdrawnRoutes => {
                put_length_at(start, buffer.len() - start - 2, buffer);
                buffer.put_u16(0);
            }
            Place::Nlri(_) => {}
            Place::MpUnreach => finish_attribute(start, buffer),
            Place::MpReach(_, attributes) => {
                finish_attribute(start, buffer);
                buffer.put_slice(attributes);
                put_length_at(start + 2, buffer.len() - start - LENGTHS, buffer);
            }
        }
    }
}

fn finish_attribute(start: usize, buffer: &mut BytesMut) {
    let attribute = buffer.len() - start - LENGTHS;
    put_length_at(start + 2, attribute, buffer);
    put_length_at(start + 6, attribute - EXTENDED_ATTRIBUTE_HEADER, buffer);
}

fn put_length_at(at: usize, length: usize, buffer: &mut BytesMut) {
    buffer[at..at + 2].copy_from_slice(&length_field(length).to_be_bytes());
}

/// A length of what is about to be sent, which the packer has found to fit a message.
fn length_field(length: usize) -> u16 {
    u16::try_from(length).expect("a message has at most 65535 octets")
}

fn withdraw(prefixes: &[Nlri], options: &CodecOptions, buffer: &mut BytesMut) {
    for family in Family::ALL {
        let place = match family {
            Family::Ipv4Unicast => Place::WithdrawnRoutes,
            Family::Ipv6Unicast => Place::MpUnreach,
        };
        let mut oversized = Vec::new();
        Packer::new(family, place, options).write(
            of_family(prefixes, family),
            buffer,
            &mut oversized,
        );
        debug_assert!(oversized.is_empty(), "any prefix fits beside no attributes");
    }
}

fn announce(
    attributes: &PathAttributes,
    prefixes: &[Nlri],
    options: &CodecOptions,
    buffer: &mut BytesMut,
    oversized: &mut Vec<Nlri>,
) {
    for family in Family::ALL {
        let mut prefixes = of_family(prefixes, family).peekable();
        if prefixes.peek().is_none() {
            continue;
        }
        match (family, attributes.next_hop) {
            (Family::Ipv4Unicast, IpAddr::V4(next_hop)) => {
                let list = attribute_list::encode(attributes, Some(next_hop), options);
                Packer::new(family, Place::Nlri(&list), options).write(prefixes, buffer, oversized);
            }
            (Family::Ipv4Unicast, next_hop @ IpAddr::V6(_)) | (Family::Ipv6Unicast, next_hop) => {
                let list = attribute_list::encode(attributes, None, options);
                let next_hop = match next_hop {
                    IpAddr::V4(next_hop) => IpAddr::V6(next_hop.to_ipv6_mapped()),
                    IpAddr::V6(_) => next_hop,
                };
                Packer::new(family, Place::MpReach(next_hop, &list), options)
                    .write(prefixes, buffer, oversized);
            }
        }
    }
}

fn of_family(prefixes: &[Nlri], family: Family) -> impl Iterator<Item = &Nlri> {
    prefixes
        .iter()
        .filter(move |nlri| Family::of(nlri.prefix) == family)
}

/// RFC 4724 section 2.
fn end_of_rib(family: Family, buffer: &mut BytesMut) {
    let start = begin_message(MessageType::Update, buffer);
    match family {
        Family::Ipv4Unicast => buffer.put_u32(0),
        Family::Ipv6Unicast => {
            let packer = Packer {
                family,
                add_path: false,
                room: None,
                place: Place::MpUnreach,
            };
            let list = packer.begin_list(buffer);
            packer.finish_list(list, buffer);
        }
    }
    finish_message(start, buffer);
}
