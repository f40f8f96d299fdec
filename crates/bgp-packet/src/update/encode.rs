//! Encoding of announced and withdrawn prefixes as UPDATE messages.
//!
//! Each message has prefixes in only one field or attribute: withdrawn routes, NLRI, MP_REACH_NLRI
//! or MP_UNREACH_NLRI. MP_REACH_NLRI and MP_UNREACH_NLRI come before all other attributes (RFC 7606
//! section 5.1).

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

/// Length of the two length fields of the body in octets.
const LENGTHS: usize = 4;

/// Octets before the value of MP_REACH_NLRI and MP_UNREACH_NLRI: flags, type and two octets of
/// length.
const EXTENDED_ATTRIBUTE_HEADER: usize = 4;

/// Appends the messages of `update`. Returns the announced prefixes for which the attributes leave
/// no room in a message. The appended messages withdraw these prefixes.
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

/// The part of a message that contains its prefixes, with the encoded path attributes.
#[derive(Clone, Copy)]
enum PrefixField<'a> {
    WithdrawnRoutes,
    MpUnreach,
    /// The encoded attributes, which precede the NLRI field.
    Nlri(&'a [u8]),
    /// The next hop, and the encoded attributes, which follow MP_REACH_NLRI.
    MpReach(IpAddr, &'a [u8]),
}

impl PrefixField<'_> {
    /// Returns the length, in octets, of a message without prefixes.
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

/// Splits the prefixes of one family into messages and writes the messages.
struct Packer<'a> {
    family: Family,
    add_path: bool,
    /// Octets for prefixes in each message. `None` if the message is too long even without
    /// prefixes.
    room: Option<usize>,
    field: PrefixField<'a>,
}

impl<'a> Packer<'a> {
    fn new(family: Family, field: PrefixField<'a>, options: &CodecOptions) -> Self {
        Self {
            family,
            add_path: options.has_add_path(family),
            room: options
                .maximum_message_length()
                .checked_sub(field.overhead()),
            field,
        }
    }

    /// Appends the messages to `buffer`, and the prefixes that fit into no message to `oversized`.
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

    /// Writes the octets of the body before the prefixes. Returns the index of the body in
    /// `buffer`.
    fn begin_list(&self, buffer: &mut BytesMut) -> usize {
        let start = buffer.len();
        match self.field {
            PrefixField::WithdrawnRoutes => buffer.put_u16(0),
            PrefixField::Nlri(attributes) => {
                buffer.put_u16(0);
                buffer.put_u16(length_field(attributes.len()));
                buffer.put_slice(attributes);
            }
            PrefixField::MpUnreach => {
                self.begin_attribute(AttributeType::MpUnreach, buffer);
            }
            PrefixField::MpReach(next_hop, _) => {
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

    /// Writes the octets of the body after the prefixes, and all length fields that depend on the
    /// prefixes. `start` is the index of the body in `buffer`.
    fn finish_list(&self, start: usize, buffer: &mut BytesMut) {
        match self.field {
            PrefixField::WithdrawnRoutes => {
                put_length_at(start, buffer.len() - start - 2, buffer);
                buffer.put_u16(0);
            }
            PrefixField::Nlri(_) => {}
            PrefixField::MpUnreach => finish_attribute(start, buffer),
            PrefixField::MpReach(_, attributes) => {
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

/// Converts a length within a message to the value of a length field. `Packer` ensures that the
/// message is not too long.
fn length_field(length: usize) -> u16 {
    u16::try_from(length).expect("a message has at most 65535 octets")
}

fn withdraw(prefixes: &[Nlri], options: &CodecOptions, buffer: &mut BytesMut) {
    for family in Family::ALL {
        let field = match family {
            Family::Ipv4Unicast => PrefixField::WithdrawnRoutes,
            Family::Ipv6Unicast => PrefixField::MpUnreach,
        };
        let mut oversized = Vec::new();
        Packer::new(family, field, options).write(
            of_family(prefixes, family),
            buffer,
            &mut oversized,
        );
        debug_assert!(
            oversized.is_empty(),
            "every prefix fits into a message without attributes"
        );
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
                Packer::new(family, PrefixField::Nlri(&list), options)
                    .write(prefixes, buffer, oversized);
            }
            (Family::Ipv4Unicast, next_hop @ IpAddr::V6(_)) | (Family::Ipv6Unicast, next_hop) => {
                let list = attribute_list::encode(attributes, None, options);
                let next_hop = match next_hop {
                    IpAddr::V4(next_hop) => IpAddr::V6(next_hop.to_ipv6_mapped()),
                    IpAddr::V6(_) => next_hop,
                };
                Packer::new(family, PrefixField::MpReach(next_hop, &list), options)
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

/// Appends the End-of-RIB marker of `family` (RFC 4724 section 2).
fn end_of_rib(family: Family, buffer: &mut BytesMut) {
    let start = begin_message(MessageType::Update, buffer);
    match family {
        Family::Ipv4Unicast => buffer.put_u32(0),
        Family::Ipv6Unicast => {
            let packer = Packer {
                family,
                add_path: false,
                room: None,
                field: PrefixField::MpUnreach,
            };
            let list = packer.begin_list(buffer);
            packer.finish_list(list, buffer);
        }
    }
    finish_message(start, buffer);
}
