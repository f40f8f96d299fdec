//! The body of an UPDATE to what it announces and withdraws.

use std::{net::IpAddr, sync::Arc};

use super::{
    multiprotocol::Reach,
    walk::{Walk, walk},
};
use crate::{
    codec::{CodecOptions, DecodeError},
    identifiers::Family,
    message::{Announced, Disposition, Nlri, Update},
    nlri::{self, SyntacticallyIncorrect},
    problem::Problem,
    reader::Reader,
};

/// Reads the body: what follows the header, of at least four octets.
pub(crate) fn decode(body: &[u8], options: &CodecOptions) -> Result<Update, DecodeError> {
    let sections = Sections::split(body).map_err(Problem::without_data)?;
    let family = Family::Ipv4Unicast;
    let add_path = options.has_add_path(family);
    let mut withdrawn = Vec::new();
    nlri::decode(sections.withdrawn, family, add_path, &mut withdrawn)
        .map_err(|SyntacticallyIncorrect| Problem::UpdateWithdrawnSyntax.without_data())?;
    let mut walk = walk(sections.attributes, options)?;
    let mut nlri = Vec::new();
    nlri::decode(sections.nlri, family, add_path, &mut nlri)
        .map_err(|SyntacticallyIncorrect| Problem::UpdateNlriSyntax.without_data())?;

    let (reached, multiprotocol, foreign_nlri) = match walk.reach.take() {
        Some(Reach::Spoken { next_hop, nlri }) => (nlri, next_hop, false),
        Some(Reach::Foreign { has_nlri }) => (Vec::new(), None, has_nlri),
        None => (Vec::new(), None, false),
    };
    let is_reachable = !nlri.is_empty() || !reached.is_empty() || foreign_nlri;
    if is_reachable {
        walk.check_mandatory(!nlri.is_empty())?;
    }
    let treat_as_withdraw = match walk.worst_error() {
        None => false,
        Some(error) => match error.disposition {
            Disposition::AttributeDiscard => false,
            Disposition::TreatAsWithdraw | Disposition::SessionReset => {
                // RFC 7606 section 5.2: nothing shows that the prefixes were found at all. Where
                // MP_UNREACH_NLRI stands alone, it ends the session itself or has no error.
                if !is_reachable {
                    return Err(error.clone().into());
                }
                true
            }
        },
    };

    let is_end_of_rib_of_ipv4 = body.len() == Sections::LENGTHS;
    let holds_only_unreach =
        withdrawn.is_empty() && nlri.is_empty() && !walk.has_other_than_unreach;
    let mut end_of_rib = is_end_of_rib_of_ipv4.then_some(Family::Ipv4Unicast);
    if let Some((family, unreached)) = walk.unreach.take() {
        if holds_only_unreach && unreached.is_empty() {
            end_of_rib = Some(family);
        }
        append(&mut withdrawn, unreached);
    }

    let errors = std::mem::take(&mut walk.errors);
    let mut announced = Vec::new();
    if treat_as_withdraw {
        append(&mut withdrawn, nlri);
        append(&mut withdrawn, reached);
    } else {
        let classic = walk.next_hop.map(IpAddr::V4);
        let groups = [(classic, nlri), (multiprotocol, reached)];
        announce(walk, groups, &mut announced);
    }
    Ok(Update {
        withdrawn,
        announced,
        end_of_rib,
        errors,
    })
}

/// Builds the groups that have prefixes. Their mandatory attributes were checked before.
fn announce(walk: Walk, groups: [(Option<IpAddr>, Vec<Nlri>); 2], announced: &mut Vec<Announced>) {
    let mut groups = groups
        .into_iter()
        .filter(|(_, nlri)| !nlri.is_empty())
        .filter_map(|(next_hop, nlri)| Some((next_hop?, nlri)));
    let Some((next_hop, nlri)) = groups.next() else {
        return;
    };
    let Some(attributes) = walk.into_attributes(next_hop) else {
        return;
    };
    let second = groups.next().map(|(next_hop, nlri)| {
        let mut attributes = attributes.clone();
        attributes.next_hop = next_hop;
        Announced {
            attributes: Arc::new(attributes),
            nlri,
        }
    });
    announced.push(Announced {
        attributes: Arc::new(attributes),
        nlri,
    });
    announced.extend(second);
}

/// Moves the prefixes, without a copy where there are none yet.
fn append(to: &mut Vec<Nlri>, mut from: Vec<Nlri>) {
    if to.is_empty() {
        *to = from;
    } else {
        to.append(&mut from);
    }
}

/// The three lists of the body.
struct Sections<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    nlri: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Octets of the two length fields, which are all of an empty UPDATE.
    const LENGTHS: usize = 4;

    fn split(body: &'a [u8]) -> Result<Self, Problem> {
        let mut reader = Reader(body);
        let withdrawn = length_prefixed(&mut reader).ok_or(Problem::UpdateWithdrawnOverrun)?;
        let attributes = length_prefixed(&mut reader).ok_or(Problem::UpdateAttributesOverrun)?;
        Ok(Self {
            withdrawn,
            attributes,
            nlri: reader.0,
        })
    }
}

fn length_prefixed<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = reader.u16()?;
    reader.take(usize::from(length))
}
