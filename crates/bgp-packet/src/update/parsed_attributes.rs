//! Decoding of the path attributes of an UPDATE, with error handling.
//!
//! RFC 7606 defines the reaction to each error.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use bytes::Bytes;

use super::{
    attribute::{self, Attribute, AttributeType, OPTIONAL, PARTIAL, TRANSITIVE},
    four_octets,
    multiprotocol::{self, Reach},
    pass_through,
};
use crate::{
    as_path::{self, AsnWidth, ConfederationSegments},
    attributes::{
        Aggregator, AsPath, Community, LargeCommunity, Origin, PartialAttributes, PathAttributes,
        RawAttribute,
    },
    codec::{CodecOptions, DecodeError},
    identifiers::{ClusterId, Family, RouterId},
    message::{AttributeError, Disposition, Nlri},
    problem::AttributeProblem,
    reader::OctetReader,
};

/// The attributes of an UPDATE. Each malformed, missing or repeated attribute has an entry in
/// `errors`. A malformed attribute has no value in any other field, except MP_REACH_NLRI with an
/// unusable next hop: `reach` has its prefixes, so that the decoder can withdraw them.
#[derive(Default)]
pub(super) struct ParsedAttributes {
    pub(super) next_hop: Option<Ipv4Addr>,
    pub(super) reach: Option<Reach>,
    pub(super) unreach: Option<(Family, Vec<Nlri>)>,
    pub(super) errors: Vec<AttributeError>,
    /// The UPDATE has an attribute that is not MP_UNREACH_NLRI.
    pub(super) has_other_than_unreach: bool,
    origin: Option<Origin>,
    as_path: Option<AsPath>,
    as4_path: Option<AsPath>,
    multi_exit_disc: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    aggregator: Option<Aggregator>,
    as4_aggregator: Option<Aggregator>,
    communities: Vec<Community>,
    originator_id: Option<RouterId>,
    cluster_list: Vec<ClusterId>,
    extended_communities: Vec<[u8; 8]>,
    large_communities: Vec<LargeCommunity>,
    partial: PartialAttributes,
    others: Vec<RawAttribute>,
    seen: TypeSet,
    repeated: TypeSet,
}

/// A set of attribute type codes with one bit for each code.
#[derive(Default)]
struct TypeSet([u64; 4]);

impl TypeSet {
    fn contains(&self, type_code: u8) -> bool {
        self.0[usize::from(type_code / 64)] & 1 << (type_code % 64) != 0
    }

    /// Adds the type code. Returns false if the set contained the type code before the call.
    fn insert(&mut self, type_code: u8) -> bool {
        let is_new = !self.contains(type_code);
        self.0[usize::from(type_code / 64)] |= 1 << (type_code % 64);
        is_new
    }
}

impl ParsedAttributes {
    /// Decodes all attributes of an UPDATE.
    ///
    /// # Errors
    /// Returns the first error that ends the session, and does not decode the attributes after this
    /// error: no error has a stronger reaction (RFC 7606 section 3 h).
    pub(super) fn parse(attributes: &[u8], options: &CodecOptions) -> Result<Self, DecodeError> {
        let mut parsed = Self::default();
        let mut list = OctetReader(attributes);
        while !list.is_empty() {
            let rest = list;
            let Some(attribute) = attribute::next_attribute(&mut list) else {
                // RFC 7606 section 4: the reaction to an attribute that is longer than the list is
                // treat-as-withdraw. The decoder finds the NLRI by the total length of the
                // attributes.
                parsed.has_other_than_unreach = true;
                let type_code = rest.0.get(1).copied().unwrap_or(0);
                parsed.record(
                    type_code,
                    AttributeProblem::Overrun,
                    Disposition::TreatAsWithdraw,
                    rest.0,
                )?;
                break;
            };
            parsed.has_other_than_unreach |= attribute.type_code != AttributeType::MpUnreach.code();
            match AttributeType::from_code(attribute.type_code) {
                Some(attribute_type) => parsed.take_known(attribute_type, attribute, options)?,
                None => parsed.take_unknown(attribute)?,
            }
        }
        parsed.others.sort_by_key(|attribute| attribute.type_code);
        Ok(parsed)
    }

    /// Returns the first of the errors with the strongest reaction (RFC 7606 section 3 h).
    pub(super) fn worst_error(&self) -> Option<&AttributeError> {
        let errors = self.errors.iter().rev();
        errors.max_by_key(|error| error.disposition)
    }

    /// Records an error for each missing mandatory attribute (RFC 7606 section 3 d).
    pub(super) fn check_mandatory(&mut self, needs_next_hop: bool) -> Result<(), DecodeError> {
        for (mandatory, needed) in [
            (AttributeType::Origin, true),
            (AttributeType::AsPath, true),
            (AttributeType::NextHop, needs_next_hop),
        ] {
            let code = mandatory.code();
            if needed && !self.seen.contains(code) {
                let disposition = Disposition::TreatAsWithdraw;
                self.record(code, AttributeProblem::Missing, disposition, &[code])?;
            }
        }
        Ok(())
    }

    /// Returns the attributes of a path. `None` if ORIGIN or AS_PATH is missing or malformed.
    pub(super) fn into_attributes(self, next_hop: IpAddr) -> Option<PathAttributes> {
        let (as_path, aggregator) = four_octets::merge(
            self.as_path?,
            self.as4_path,
            self.aggregator,
            self.as4_aggregator,
        );
        Some(PathAttributes {
            origin: self.origin?,
            as_path,
            next_hop,
            multi_exit_disc: self.multi_exit_disc,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator,
            communities: self.communities,
            originator_id: self.originator_id,
            cluster_list: self.cluster_list,
            extended_communities: self.extended_communities,
            large_communities: self.large_communities,
            partial: self.partial,
            others: self.others,
        })
    }

    fn record(
        &mut self,
        type_code: u8,
        problem: AttributeProblem,
        disposition: Disposition,
        attribute: &[u8],
    ) -> Result<(), DecodeError> {
        let error = problem.of(type_code, disposition, attribute);
        match disposition {
            Disposition::SessionReset => Err(error.into()),
            Disposition::AttributeDiscard | Disposition::TreatAsWithdraw => {
                self.errors.push(error);
                Ok(())
            }
        }
    }

    /// Reports whether `attribute` is the first of its type. Records one error for all repetitions
    /// of a type (RFC 7606 section 3 g).
    fn is_first(&mut self, attribute: Attribute<'_>) -> Result<bool, DecodeError> {
        let type_code = attribute.type_code;
        let is_first = self.seen.insert(type_code);
        if !is_first && self.repeated.insert(type_code) {
            self.record(
                type_code,
                AttributeProblem::Repeated,
                Disposition::AttributeDiscard,
                attribute.whole,
            )?;
        }
        Ok(is_first)
    }

    fn take_unknown(&mut self, attribute: Attribute<'_>) -> Result<(), DecodeError> {
        if attribute.flags & OPTIONAL == 0 {
            // RFC 4271 section 6.3: an unknown attribute that is not optional ends the session. RFC
            // 7606 does not change this rule.
            return self.record(
                attribute.type_code,
                AttributeProblem::WellKnownUnknown,
                Disposition::SessionReset,
                attribute.whole,
            );
        }
        if !self.is_first(attribute)? || attribute.flags & TRANSITIVE == 0 {
            return Ok(());
        }
        self.others.push(RawAttribute {
            // RFC 4271 section 5: a speaker that passes on an attribute of an unknown type sets the
            // Partial bit.
            flags: OPTIONAL | TRANSITIVE | PARTIAL,
            type_code: attribute.type_code,
            // A slice of the message would keep the whole message in memory while the path exists.
            value: Bytes::copy_from_slice(attribute.value),
        });
        Ok(())
    }

    /// Stores a valid attribute in `others`, with the Partial bit as received if the attribute is
    /// transitive.
    fn pass_through(&mut self, attribute: Attribute<'_>) {
        let partial = match attribute.flags & TRANSITIVE {
            0 => 0,
            _ => attribute.flags & PARTIAL,
        };
        self.others.push(RawAttribute {
            flags: attribute.flags & (OPTIONAL | TRANSITIVE) | partial,
            type_code: attribute.type_code,
            value: Bytes::copy_from_slice(attribute.value),
        });
    }

    fn take_known(
        &mut self,
        attribute_type: AttributeType,
        attribute: Attribute<'_>,
        options: &CodecOptions,
    ) -> Result<(), DecodeError> {
        if attribute_type.is_internal_only() && !options.internal
            || attribute_type.is_two_octet_only() && options.four_octet_asn
        {
            return Ok(());
        }
        if matches!(
            attribute_type,
            AttributeType::MpReach | AttributeType::MpUnreach
        ) {
            if !self.seen.insert(attribute.type_code) {
                let problem = AttributeProblem::MultiprotocolRepeated;
                let disposition = Disposition::SessionReset;
                return self.record(attribute.type_code, problem, disposition, attribute.whole);
            }
        } else if !self.is_first(attribute)? {
            return Ok(());
        }
        if (attribute.flags ^ attribute_type.flags()) & (OPTIONAL | TRANSITIVE) != 0 {
            return self.record(
                attribute.type_code,
                AttributeProblem::Flags,
                attribute_type.flags_disposition(),
                attribute.whole,
            );
        }
        match self.read(attribute_type, attribute, options) {
            Ok(()) => Ok(()),
            Err(problem) => {
                let disposition = problem
                    .disposition_for_every_type()
                    .unwrap_or_else(|| attribute_type.disposition());
                self.record(attribute.type_code, problem, disposition, attribute.whole)
            }
        }
    }

    /// Checks and stores the value of an attribute.
    fn read(
        &mut self,
        attribute_type: AttributeType,
        attribute: Attribute<'_>,
        options: &CodecOptions,
    ) -> Result<(), AttributeProblem> {
        let value = attribute.value;
        let is_partial = attribute.flags & PARTIAL != 0;
        match attribute_type {
            AttributeType::Origin => self.origin = Some(attribute::origin(value)?),
            AttributeType::AsPath => {
                let width = AsnWidth::of(options.four_octet_asn);
                self.as_path = Some(as_path::decode(
                    value,
                    width,
                    ConfederationSegments::Malformed,
                )?);
            }
            AttributeType::NextHop => self.next_hop = Some(attribute::next_hop(value)?),
            AttributeType::MultiExitDisc => {
                self.multi_exit_disc = Some(u32::from_be_bytes(attribute::fixed(value)?));
            }
            AttributeType::LocalPref => {
                self.local_pref = Some(u32::from_be_bytes(attribute::fixed(value)?));
            }
            AttributeType::AtomicAggregate => {
                let [] = attribute::fixed(value)?;
                self.atomic_aggregate = true;
            }
            AttributeType::Aggregator => {
                self.aggregator = Some(if options.four_octet_asn {
                    four_octets::four_octet_aggregator(value)?
                } else {
                    four_octets::two_octet_aggregator(value)?
                });
                self.partial.aggregator = is_partial;
            }
            AttributeType::Communities => {
                self.communities = attribute::list(value)?
                    .iter()
                    .map(|octets| Community(u32::from_be_bytes(*octets)))
                    .collect();
                self.partial.communities = is_partial;
            }
            AttributeType::OriginatorId => {
                self.originator_id = Some(RouterId(attribute::fixed::<4>(value)?.into()));
            }
            AttributeType::ClusterList => {
                self.cluster_list = attribute::list::<4>(value)?
                    .iter()
                    .map(|octets| ClusterId((*octets).into()))
                    .collect();
            }
            AttributeType::MpReach => {
                let reach = multiprotocol::reach(value, options)?;
                let is_unusable = matches!(reach, Reach::Supported { next_hop: None, .. });
                self.reach = Some(reach);
                if is_unusable {
                    return Err(AttributeProblem::MultiprotocolNextHopUnusable);
                }
            }
            AttributeType::MpUnreach => {
                self.unreach = multiprotocol::unreach(value, options)?;
            }
            AttributeType::ExtendedCommunities => {
                self.extended_communities = attribute::list(value)?.to_vec();
                self.partial.extended_communities = is_partial;
            }
            AttributeType::As4Path => self.as4_path = Some(four_octets::as4_path(value)?),
            AttributeType::As4Aggregator => {
                self.as4_aggregator = Some(four_octets::four_octet_aggregator(value)?);
            }
            AttributeType::LargeCommunity => {
                self.large_communities = large_communities(attribute::list(value)?);
                self.partial.large_communities = is_partial;
            }
            AttributeType::PmsiTunnel => pass_through::check_pmsi_tunnel(value)?,
            AttributeType::TunnelEncapsulation => pass_through::check_tunnel_encapsulation(value)?,
            AttributeType::Ipv6ExtendedCommunities => {
                pass_through::check_ipv6_extended_communities(value)?;
            }
            AttributeType::Aigp => pass_through::check_aigp(value)?,
            AttributeType::OnlyToCustomer => pass_through::check_only_to_customer(value)?,
            AttributeType::PrefixSid => pass_through::check_prefix_sid(value)?,
        }
        if attribute_type.is_passed_through() {
            self.pass_through(attribute);
        }
        Ok(())
    }
}

/// Decodes large communities. Removes duplicates and keeps the order of the first occurrences (RFC
/// 8092 section 2).
fn large_communities(elements: &[[u8; 12]]) -> Vec<LargeCommunity> {
    let mut seen = BTreeSet::new();
    elements
        .iter()
        .filter(|element| seen.insert(**element))
        .map(|element| {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *element;
            LargeCommunity(
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
                u32::from_be_bytes([i, j, k, l]),
            )
        })
        .collect()
}
