//! Encoding of path attributes.

use std::{collections::BTreeSet, net::Ipv4Addr};

use bytes::{BufMut, BytesMut};

use super::attribute::{self, AttributeType, EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE};
use crate::{
    as_path::{self, AsnWidth},
    attributes::{Aggregator, LargeCommunity, PathAttributes, RawAttribute},
    codec::CodecOptions,
};

/// Encodes all attributes except MP_REACH_NLRI and MP_UNREACH_NLRI, sorted by type code (RFC 4271
/// section 5).
///
/// `next_hop` is the value of NEXT_HOP; `None` omits NEXT_HOP.
pub(super) fn encode(
    attributes: &PathAttributes,
    next_hop: Option<Ipv4Addr>,
    options: &CodecOptions,
) -> BytesMut {
    let width = AsnWidth::of(options.four_octet_asn);
    let mut writer = AttributeWriter::new(attributes, options.internal);
    writer.put(AttributeType::Origin, |buffer| {
        buffer.put_u8(attribute::origin_code(attributes.origin));
    });
    writer.put(AttributeType::AsPath, |buffer| {
        as_path::encode(&attributes.as_path, width, buffer);
    });
    if let Some(next_hop) = next_hop {
        writer.put(AttributeType::NextHop, |buffer| {
            buffer.put_slice(&next_hop.octets());
        });
    }
    if let Some(multi_exit_disc) = attributes.multi_exit_disc {
        writer.put(AttributeType::MultiExitDisc, |buffer| {
            buffer.put_u32(multi_exit_disc);
        });
    }
    if let Some(local_pref) = attributes.local_pref.filter(|_| options.internal) {
        writer.put(AttributeType::LocalPref, |buffer| {
            buffer.put_u32(local_pref)
        });
    }
    if attributes.atomic_aggregate {
        writer.put(AttributeType::AtomicAggregate, |_| {});
    }
    if let Some(aggregator) = attributes.aggregator {
        let is_partial = attributes.partial.aggregator;
        writer.put_with(AttributeType::Aggregator, is_partial, |buffer| {
            put_aggregator(aggregator, width, buffer);
        });
    }
    writer.put_list(
        AttributeType::Communities,
        attributes.partial.communities,
        &attributes.communities,
        |community| community.0.to_be_bytes(),
    );
    if options.internal {
        if let Some(originator_id) = attributes.originator_id {
            writer.put(AttributeType::OriginatorId, |buffer| {
                buffer.put_slice(&originator_id.0.octets());
            });
        }
        writer.put_list(
            AttributeType::ClusterList,
            false,
            &attributes.cluster_list,
            |cluster| cluster.0.octets(),
        );
    }
    writer.put_list(
        AttributeType::ExtendedCommunities,
        attributes.partial.extended_communities,
        &attributes.extended_communities,
        |community| *community,
    );
    if !options.four_octet_asn {
        put_four_octet_attributes(attributes, &mut writer);
    }
    writer.put_list(
        AttributeType::LargeCommunity,
        attributes.partial.large_communities,
        &without_duplicates(&attributes.large_communities),
        |LargeCommunity(global, first, second)| {
            let mut octets = [0; 12];
            octets[..4].copy_from_slice(&global.to_be_bytes());
            octets[4..8].copy_from_slice(&first.to_be_bytes());
            octets[8..].copy_from_slice(&second.to_be_bytes());
            octets
        },
    );
    writer.finish()
}

/// Writes AS4_PATH if the path has an AS number above 65535, and AS4_AGGREGATOR if the AS number of
/// AGGREGATOR is above 65535 (RFC 6793 section 4.2.2).
fn put_four_octet_attributes(attributes: &PathAttributes, writer: &mut AttributeWriter<'_>) {
    if as_path::needs_four_octets(&attributes.as_path) {
        writer.put(AttributeType::As4Path, |buffer| {
            as_path::encode(&attributes.as_path, AsnWidth::Four, buffer);
        });
    }
    if let Some(aggregator) = attributes.aggregator
        && aggregator.asn.0 > u32::from(u16::MAX)
    {
        writer.put(AttributeType::As4Aggregator, |buffer| {
            put_aggregator(aggregator, AsnWidth::Four, buffer);
        });
    }
}

fn put_aggregator(aggregator: Aggregator, width: AsnWidth, buffer: &mut BytesMut) {
    width.put(aggregator.asn, buffer);
    buffer.put_slice(&aggregator.router_id.0.octets());
}

/// Removes duplicate values: RFC 8092 section 2 forbids a speaker to send duplicates.
fn without_duplicates(communities: &[LargeCommunity]) -> Vec<LargeCommunity> {
    let mut seen = BTreeSet::new();
    let is_new = |community: &LargeCommunity| seen.insert(*community);
    communities.iter().copied().filter(is_new).collect()
}

/// Writes attributes in the order of their type codes. Inserts each attribute of
/// [`PathAttributes::others`] at the position of its type code.
struct AttributeWriter<'a> {
    buffer: BytesMut,
    is_internal: bool,
    others: std::slice::Iter<'a, RawAttribute>,
}

impl<'a> AttributeWriter<'a> {
    fn new(attributes: &'a PathAttributes, is_internal: bool) -> Self {
        Self {
            buffer: BytesMut::with_capacity(128),
            is_internal,
            others: attributes.others.iter(),
        }
    }

    fn put(&mut self, attribute_type: AttributeType, value: impl FnOnce(&mut BytesMut)) {
        self.put_with(attribute_type, false, value);
    }

    fn put_with(
        &mut self,
        attribute_type: AttributeType,
        is_partial: bool,
        value: impl FnOnce(&mut BytesMut),
    ) {
        self.put_others_below(attribute_type.code());
        let start = self.buffer.len();
        let partial = if is_partial { PARTIAL } else { 0 };
        self.buffer.put_u8(attribute_type.flags() | partial);
        self.buffer.put_u8(attribute_type.code());
        self.buffer.put_u8(0);
        value(&mut self.buffer);
        self.finish_attribute(start);
    }

    /// Writes a list attribute. Omits an empty list, which receivers treat as malformed (RFC 7606
    /// section 7.8).
    fn put_list<T, const N: usize>(
        &mut self,
        attribute_type: AttributeType,
        is_partial: bool,
        elements: &[T],
        octets: impl Fn(&T) -> [u8; N],
    ) {
        if !elements.is_empty() {
            self.put_with(attribute_type, is_partial, |buffer| {
                for element in elements {
                    buffer.put_slice(&octets(element));
                }
            });
        }
    }

    fn put_others_below(&mut self, type_code: u8) {
        while let Some(other) = self.others.as_slice().first()
            && other.type_code < type_code
        {
            self.put_next_other();
        }
    }

    fn put_next_other(&mut self) {
        if let Some(other) = self.others.next()
            && self.is_sent(other)
        {
            let start = self.buffer.len();
            let flags = other.flags & (OPTIONAL | TRANSITIVE | PARTIAL);
            self.buffer.put_u8(flags);
            self.buffer.put_u8(other.type_code);
            self.buffer.put_u8(0);
            self.buffer.put_slice(&other.value);
            self.finish_attribute(start);
        }
    }

    /// Reports whether the UPDATE may contain this attribute of [`PathAttributes::others`].
    ///
    /// Returns false for a type that has a field in [`PathAttributes`], because the UPDATE would
    /// have the attribute twice. Returns false for a non-transitive attribute on an external
    /// session, because such an attribute must not leave the AS.
    fn is_sent(&self, other: &RawAttribute) -> bool {
        AttributeType::from_code(other.type_code).is_none_or(AttributeType::is_passed_through)
            && (self.is_internal || other.flags & TRANSITIVE != 0)
    }

    /// Writes the length of the attribute that begins at index `start`. Moves a value of more than
    /// 255 octets by one octet, because its length field needs two octets.
    fn finish_attribute(&mut self, start: usize) {
        let value = start + 3;
        let length = self.buffer.len() - value;
        if let Ok(length) = u8::try_from(length) {
            self.buffer[start + 2] = length;
            return;
        }
        self.buffer.put_u8(0);
        self.buffer.copy_within(value..value + length, value + 1);
        self.buffer[start] |= EXTENDED_LENGTH;
        // If the value has more than 65535 octets, the written length is wrong. This does no harm:
        // the attributes fit into no message, so the caller does not send them.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.buffer[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn finish(mut self) -> BytesMut {
        while !self.others.as_slice().is_empty() {
            self.put_next_other();
        }
        self.buffer
    }
}
