//! Decoding of AGGREGATOR, AS4_PATH and AS4_AGGREGATOR (RFC 6793).

use super::attribute;
use crate::{
    as_path::{self, AsnWidth, ConfederationSegments},
    attributes::{Aggregator, AsPath},
    identifiers::{Asn, RouterId},
    problem::AttributeProblem,
};

/// Decodes AGGREGATOR with a two-octet AS number.
pub(super) fn two_octet_aggregator(value: &[u8]) -> Result<Aggregator, AttributeProblem> {
    let [a, b, router_id @ ..] = attribute::fixed::<6>(value)?;
    Ok(Aggregator {
        asn: check_aggregator_asn(u32::from(u16::from_be_bytes([a, b])))?,
        router_id: RouterId(router_id.into()),
    })
}

/// Decodes AS4_AGGREGATOR, or AGGREGATOR with a four-octet AS number.
pub(super) fn four_octet_aggregator(value: &[u8]) -> Result<Aggregator, AttributeProblem> {
    let [a, b, c, d, router_id @ ..] = attribute::fixed::<8>(value)?;
    Ok(Aggregator {
        asn: check_aggregator_asn(u32::from_be_bytes([a, b, c, d]))?,
        router_id: RouterId(router_id.into()),
    })
}

/// Refuses AS 0 in AGGREGATOR and AS4_AGGREGATOR (RFC 7607 section 2).
fn check_aggregator_asn(asn: u32) -> Result<Asn, AttributeProblem> {
    match asn {
        0 => Err(AttributeProblem::AggregatorZero),
        asn => Ok(Asn(asn)),
    }
}

/// Decodes AS4_PATH, which must not be empty (RFC 6793 section 6).
pub(super) fn as4_path(value: &[u8]) -> Result<AsPath, AttributeProblem> {
    if value.is_empty() {
        return Err(AttributeProblem::Length);
    }
    as_path::decode(value, AsnWidth::Four, ConfederationSegments::Dropped)
}

/// Merges AS4_PATH into AS_PATH, and AS4_AGGREGATOR into AGGREGATOR (RFC 6793 section 4.2.3).
pub(super) fn merge(
    as_path: AsPath,
    as4_path: Option<AsPath>,
    aggregator: Option<Aggregator>,
    as4_aggregator: Option<Aggregator>,
) -> (AsPath, Option<Aggregator>) {
    match (aggregator, as4_aggregator) {
        // An AGGREGATOR without AS_TRANS shows that a two-octet speaker aggregated the path after
        // the AS4 attributes were written. So AS4_PATH and AS4_AGGREGATOR are out of date.
        (Some(aggregator), Some(_)) if aggregator.asn != Asn::TRANS => (as_path, Some(aggregator)),
        (aggregator, as4_aggregator) => {
            let aggregator = aggregator.map(|two_octets| as4_aggregator.unwrap_or(two_octets));
            let as_path = match as4_path {
                Some(as4_path) => as_path::merge(as_path, as4_path),
                None => as_path,
            };
            (as_path, aggregator)
        }
    }
}
