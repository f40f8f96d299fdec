//! AS numbers of four octets on sessions of two (RFC 6793), as far as they are attributes.

use super::attribute;
use crate::{
    as_path::{self, AsnWidth, Confederation},
    attributes::{Aggregator, AsPath},
    identifiers::{Asn, RouterId},
    problem::AttributeProblem,
};

/// AGGREGATOR with a number of two octets.
pub(super) fn narrow_aggregator(value: &[u8]) -> Result<Aggregator, AttributeProblem> {
    let [a, b, router_id @ ..] = attribute::fixed::<6>(value)?;
    Ok(Aggregator {
        asn: aggregating(u32::from(u16::from_be_bytes([a, b])))?,
        router_id: RouterId(router_id.into()),
    })
}

/// AGGREGATOR with a number of four octets, and AS4_AGGREGATOR.
pub(super) fn wide_aggregator(value: &[u8]) -> Result<Aggregator, AttributeProblem> {
    let [a, b, c, d, router_id @ ..] = attribute::fixed::<8>(value)?;
    Ok(Aggregator {
        asn: aggregating(u32::from_be_bytes([a, b, c, d]))?,
        router_id: RouterId(router_id.into()),
    })
}

/// The AS number of AGGREGATOR and AS4_AGGREGATOR must not be 0 (RFC 7607 section 2).
fn aggregating(asn: u32) -> Result<Asn, AttributeProblem> {
    match asn {
        0 => Err(AttributeProblem::AggregatorZero),
        asn => Ok(Asn(asn)),
    }
}

/// AS4_PATH has at least one AS number (RFC 6793 section 6).
pub(super) fn as4_path(value: &[u8]) -> Result<AsPath, AttributeProblem> {
    if value.is_empty() {
        return Err(AttributeProblem::Length);
    }
    as_path::decode(value, AsnWidth::Four, Confederation::Dropped)
}

/// What both forms of the path and of the aggregator tell together (RFC 6793 section 4.2.3).
pub(super) fn merge(
    as_path: AsPath,
    as4_path: Option<AsPath>,
    aggregator: Option<Aggregator>,
    as4_aggregator: Option<Aggregator>,
) -> (AsPath, Option<Aggregator>) {
    match (aggregator, as4_aggregator) {
        // A speaker of two octets aggregated after the four-octet attributes were written.
        (Some(aggregator), Some(_)) if aggregator.asn != Asn::TRANS => (as_path, Some(aggregator)),
        (aggregator, as4_aggregator) => {
            let aggregator = aggregator.map(|old| as4_aggregator.unwrap_or(old));
            let as_path = match as4_path {
                Some(as4_path) => as_path::merge(as_path, as4_path),
                None => as_path,
            };
            (as_path, aggregator)
        }
    }
}
