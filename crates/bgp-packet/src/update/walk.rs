//! One pass over the attributes of an UPDATE: checks, values, and what RFC 7606 says of errors.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use bytes::Bytes;

use super::{
    attribute::{self, Attribute, AttributeType, OPTIONAL, PARTIAL, TRANSITIVE},
    carried, four_octets,
    multiprotocol::{self, Reach},
};
use crate::{
    as_path::{self, AsnWidth, Confederation},
    attributes::{
        Aggregator, AsPath, Community, LargeCommunity, Origin, PartialAttributes, PathAttributes,
        RawAttribute,
    },
    codec::{CodecOptions, DecodeError},
    identifiers::{ClusterId, Family, RouterId},
    message::{AttributeError, Disposition, Nlri},
    problem::AttributeProblem,
    reader::Reader,
};

/// What the attributes of an UPDATE hold. A value that was malformed is absent.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) next_hop: Option<Ipv4Addr>,
    pub(super) reach: Option<Reach>,
    pub(super) unreach: Option<(Family, Vec<Nlri>)>,
    pub(super) errors: Vec<AttributeError>,
    /// Whether there is anything but MP_UNREACH_NLRI.
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

/// Attribute types, one bit each.
#[derive(Default)]
struct TypeSet([u64; 4]);

impl TypeSet {
    fn contains(&self, type_code: u8) -> bool {
        self.0[usize::from(type_code / 64)] & 1 << (type_code % 64) != 0
    }

    /// Whether the type is new to the set.
    fn insert(&mut self, type_code: u8) -> bool {
        let is_new = !self.contains(type_code);
        self.0[usize::from(type_code / 64)] |= 1 << (type_code % 64);
        is_new
    }
}

/// Reads all attributes.
///
/// An attribute that asks for the end of the session ends the walk; what follows could not make it
/// milder (RFC 7606 section 3 h).
pub(super) fn walk(attributes: &[u8], options: &CodecOptions) -> Result<Walk, DecodeError> {
    let mut walk = Walk::default();
    let mut list = Reader(attributes);
    while !list.is_empty() {
        let rest = list;
        let Some(attribute) = attribute::next(&mut list) else {
            // RFC 7606 section 4: the total length is right, the rest of the list is not.
            walk.has_other_than_unreach = true;
            let type_code = rest.0.get(1).copied().unwrap_or(0);
            walk.record(
                type_code,
                AttributeProblem::Overrun,
                Disposition::TreatAsWithdraw,
                rest.0,
            )?;
            break;
        };
        walk.has_other_than_unreach |= attribute.type_code != AttributeType::MpUnreach.code();
        match AttributeType::from_code(attribute.type_code) {
            Some(known) => walk.take_known(known, attribute, options)?,
            None => walk.take_unknown(attribute)?,
        }
    }
    walk.others.sort_by_key(|attribute| attribute.type_code);
    Ok(walk)
}

impl Walk {
    /// The first of the errors that ask for the strongest action (RFC 7606 section 3 h).
    pub(super) fn worst_error(&self) -> Option<&AttributeError> {
        let errors = self.errors.iter().rev();
        errors.max_by_key(|error| error.disposition)
    }

    /// Notes that mandatory attributes are missing (RFC 7606 section 3 d).
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

    /// The attributes of the path; `None` unless all mandatory ones were found and sound.
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

    /// RFC 7606 section 3 g. Each type is reported once, however often it is repeated.
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
            // RFC 4271 section 6.3, which RFC 7606 leaves as it is.
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
            // RFC 4271 section 5: passed on with the partial bit.
            flags: OPTIONAL | TRANSITIVE | PARTIAL,
            type_code: attribute.type_code,
            // A copy, as a slice would keep the whole message in memory for as long as the path.
            value: Bytes::copy_from_slice(attribute.value),
        });
        Ok(())
    }

    /// Keeps a sound attribute that nothing here uses, with the partial bit that it came with.
    fn carry(&mut self, attribute: Attribute<'_>) {
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
        known: AttributeType,
        attribute: Attribute<'_>,
        options: &CodecOptions,
    ) -> Result<(), DecodeError> {
        if is_meaningless(known, options) {
            return Ok(());
        }
        if matches!(known, AttributeType::MpReach | AttributeType::MpUnreach) {
            if !self.seen.insert(attribute.type_code) {
                let problem = AttributeProblem::MultiprotocolRepeated;
                let disposition = Disposition::SessionReset;
                return self.record(attribute.type_code, problem, disposition, attribute.whole);
            }
        } else if !self.is_first(attribute)? {
            return Ok(());
        }
        if (attribute.flags ^ known.flags()) & (OPTIONAL | TRANSITIVE) != 0 {
            return self.record(
                attribute.type_code,
                AttributeProblem::Flags,
                known.flags_disposition(),
                attribute.whole,
            );
        }
        let value = if known.is_carried() {
            carried::check(known, attribute.value).map(|()| self.carry(attribute))
        } else {
            let is_partial = attribute.flags & PARTIAL != 0;
            self.read(known, attribute.value, options)
                .map(|()| self.note_partial(known, is_partial))
        };
        match value {
            Ok(()) => Ok(()),
            Err(problem) => {
                let disposition = match problem {
                    // The prefixes were read, so they can be withdrawn.
                    AttributeProblem::MultiprotocolNextHopUnusable => Disposition::TreatAsWithdraw,
                    // RFC 9012 section 13; the path is sound without the attribute.
                    AttributeProblem::TlvMissing | AttributeProblem::RefusedByRouters => {
                        Disposition::AttributeDiscard
                    }
                    AttributeProblem::Overrun
                    | AttributeProblem::Repeated
                    | AttributeProblem::MultiprotocolRepeated
                    | AttributeProblem::WellKnownUnknown
                    | AttributeProblem::Missing
                    | AttributeProblem::Flags
                    | AttributeProblem::Length
                    | AttributeProblem::OriginUndefined
                    | AttributeProblem::NextHopUnusable
                    | AttributeProblem::AsPathSegmentType
                    | AttributeProblem::AsPathSegmentEmpty
                    | AttributeProblem::AsPathOverrun
                    | AttributeProblem::AsPathZero
                    | AttributeProblem::AggregatorZero
                    | AttributeProblem::TunnelType
                    | AttributeProblem::TunnelIdentifier
                    | AttributeProblem::TlvOverrun
                    | AttributeProblem::TlvLength
                    | AttributeProblem::OnlyToCustomerZero
                    | AttributeProblem::MultiprotocolTooShort
                    | AttributeProblem::MultiprotocolNextHopLength
                    | AttributeProblem::MultiprotocolSyntax => known.disposition(),
                };
                self.record(attribute.type_code, problem, disposition, attribute.whole)
            }
        }
    }

    fn note_partial(&mut self, known: AttributeType, is_partial: bool) {
        let noted = match known {
            AttributeType::Aggregator => &mut self.partial.aggregator,
            AttributeType::Communities => &mut self.partial.communities,
            AttributeType::ExtendedCommunities => &mut self.partial.extended_communities,
            AttributeType::LargeCommunity => &mut self.partial.large_communities,
            // Not transitive, made here for each session, or carried with their flags.
            AttributeType::Origin
            | AttributeType::AsPath
            | AttributeType::NextHop
            | AttributeType::MultiExitDisc
            | AttributeType::LocalPref
            | AttributeType::AtomicAggregate
            | AttributeType::OriginatorId
            | AttributeType::ClusterList
            | AttributeType::MpReach
            | AttributeType::MpUnreach
            | AttributeType::As4Path
            | AttributeType::As4Aggregator
            | AttributeType::PmsiTunnel
            | AttributeType::TunnelEncapsulation
            | AttributeType::Ipv6ExtendedCommunities
            | AttributeType::Aigp
            | AttributeType::OnlyToCustomer
            | AttributeType::PrefixSid => return,
        };
        *noted = is_partial;
    }

    fn read(
        &mut self,
        known: AttributeType,
        value: &[u8],
        options: &CodecOptions,
    ) -> Result<(), AttributeProblem> {
        match known {
            AttributeType::Origin => self.origin = Some(attribute::origin(value)?),
            AttributeType::AsPath => {
                let width = AsnWidth::of(options.four_octet_asn);
                self.as_path = Some(as_path::decode(value, width, Confederation::Malformed)?);
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
                    four_octets::wide_aggregator(value)?
                } else {
                    four_octets::narrow_aggregator(value)?
                });
            }
            AttributeType::Communities => {
                self.communities = attribute::list(value)?
                    .iter()
                    .map(|octets| Community(u32::from_be_bytes(*octets)))
                    .collect();
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
                let is_unusable = matches!(reach, Reach::Spoken { next_hop: None, .. });
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
            }
            AttributeType::As4Path => self.as4_path = Some(four_octets::as4_path(value)?),
            AttributeType::As4Aggregator => {
                self.as4_aggregator = Some(four_octets::wide_aggregator(value)?);
            }
            AttributeType::LargeCommunity => {
                self.large_communities = large_communities(attribute::list(value)?);
            }
            AttributeType::PmsiTunnel
            | AttributeType::TunnelEncapsulation
            | AttributeType::Ipv6ExtendedCommunities
            | AttributeType::Aigp
            | AttributeType::OnlyToCustomer
            | AttributeType::PrefixSid => {}
        }
        Ok(())
    }
}

/// Attributes that the kind of session makes void, whatever they hold.
fn is_meaningless(known: AttributeType, options: &CodecOptions) -> bool {
    match known {
        // RFC 7606 sections 7.5, 7.9 and 7.10; RFC 7311 section 3.1.
        AttributeType::LocalPref
        | AttributeType::OriginatorId
        | AttributeType::ClusterList
        | AttributeType::Aigp => !options.internal,
        // RFC 6793 section 4.1.
        AttributeType::As4Path | AttributeType::As4Aggregator => options.four_octet_asn,
        AttributeType::Origin
        | AttributeType::AsPath
        | AttributeType::NextHop
        | AttributeType::MultiExitDisc
        | AttributeType::AtomicAggregate
        | AttributeType::Aggregator
        | AttributeType::Communities
        | AttributeType::MpReach
        | AttributeType::MpUnreach
        | AttributeType::ExtendedCommunities
        | AttributeType::LargeCommunity
        | AttributeType::PmsiTunnel
        | AttributeType::TunnelEncapsulation
        | AttributeType::Ipv6ExtendedCommunities
        | AttributeType::OnlyToCustomer
        | AttributeType::PrefixSid => false,
    }
}

/// RFC 8092 section 2: repeated values are removed; the first of each keeps its place.
fn large_communities(elements: &[[u8; 12]]) -> Vec<LargeCommunity> {
    let mut known = BTreeSet::new();
    elements
        .iter()
        .filter(|element| known.insert(**element))
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
