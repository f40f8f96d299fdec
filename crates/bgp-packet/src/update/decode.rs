//! Decoding of the body of an UPDATE.

use std::{net::IpAddr, sync::Arc};

use super::{multiprotocol::Reach, parsed_attributes::ParsedAttributes};
use crate::{
    codec::{CodecOptions, DecodeError},
    identifiers::Family,
    message::{Announced, Disposition, Nlri, Update},
    nlri::{self, SyntacticallyIncorrect},
    problem::MessageProblem,
    reader::OctetReader,
};

/// Decodes the body of an UPDATE: the octets after the header. The caller has checked that the body
/// has at least four octets.
pub(crate) fn decode(body: &[u8], options: &CodecOptions) -> Result<Update, DecodeError> {
    let sections = Sections::split(body).map_err(MessageProblem::without_data)?;
    let family = Family::Ipv4Unicast;
    let add_path = options.has_add_path(family);
    let mut withdrawn = Vec::new();
    nlri::decode(sections.withdrawn, family, add_path, &mut withdrawn)
        .map_err(|SyntacticallyIncorrect| MessageProblem::UpdateWithdrawnSyntax.without_data())?;
    let mut parsed = ParsedAttributes::parse(sections.attributes, options)?;
    let mut nlri = Vec::new();
    nlri::decode(sections.nlri, family, add_path, &mut nlri)
        .map_err(|SyntacticallyIncorrect| MessageProblem::UpdateNlriSyntax.without_data())?;

    let (reached, multiprotocol_next_hop, has_unsupported_nlri) = match parsed.reach.take() {
        Some(Reach::Supported { next_hop, nlri }) => (nlri, next_hop, false),
        Some(Reach::Unsupported { has_nlri }) => (Vec::new(), None, has_nlri),
        None => (Vec::new(), None, false),
    };
    let announces_prefixes = !nlri.is_empty() || !reached.is_empty() || has_unsupported_nlri;
    if announces_prefixes {
        parsed.check_mandatory(!nlri.is_empty())?;
    }
    let treat_as_withdraw = match parsed.worst_error() {
        None => false,
        Some(error) => match error.disposition {
            Disposition::AttributeDiscard => false,
            Disposition::TreatAsWithdraw | Disposition::SessionReset => {
                // RFC 7606 section 5.2: in an UPDATE without announced prefixes, treat-as-withdraw
                // has no prefix to withdraw, so the error ends the session.
                if !announces_prefixes {
                    return Err(error.clone().into());
                }
                true
            }
        },
    };

    let is_end_of_rib_of_ipv4 = body.len() == Sections::LENGTHS;
    let has_only_unreach =
        withdrawn.is_empty() && nlri.is_empty() && !parsed.has_other_than_unreach;
    let mut end_of_rib = is_end_of_rib_of_ipv4.then_some(Family::Ipv4Unicast);
    if let Some((family, unreached)) = parsed.unreach.take() {
        if has_only_unreach && unreached.is_empty() {
            end_of_rib = Some(family);
        }
        append(&mut withdrawn, unreached);
    }

    let errors = std::mem::take(&mut parsed.errors);
    let mut announced = Vec::new();
    if treat_as_withdraw {
        append(&mut withdrawn, nlri);
        append(&mut withdrawn, reached);
    } else {
        let next_hop = parsed.next_hop.map(IpAddr::V4);
        let groups = [(next_hop, nlri), (multiprotocol_next_hop, reached)];
        announce(parsed, groups, &mut announced);
    }
    Ok(Update {
        withdrawn,
        announced,
        end_of_rib,
        errors,
    })
}

/// Appends one [`Announced`] for each of `groups` that has prefixes. The caller has checked that
/// the UPDATE has the mandatory attributes.
fn announce(
    parsed: ParsedAttributes,
    groups: [(Option<IpAddr>, Vec<Nlri>); 2],
    announced: &mut Vec<Announced>,
) {
    let mut groups = groups
        .into_iter()
        .filter(|(_, nlri)| !nlri.is_empty())
        .filter_map(|(next_hop, nlri)| Some((next_hop?, nlri)));
    let Some((next_hop, nlri)) = groups.next() else {
        return;
    };
    let Some(attributes) = parsed.into_attributes(next_hop) else {
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

/// Moves all prefixes of `from` to the end of `to`. Copies no prefix if `to` is empty.
fn append(to: &mut Vec<Nlri>, mut from: Vec<Nlri>) {
    if to.is_empty() {
        *to = from;
    } else {
        to.append(&mut from);
    }
}

/// The three lists in the body of an UPDATE, not decoded yet.
struct Sections<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    nlri: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Length, in octets, of the two length fields of the body. The body of an UPDATE without
    /// content has only these fields.
    const LENGTHS: usize = 4;

    fn split(body: &'a [u8]) -> Result<Self, MessageProblem> {
        let mut reader = OctetReader(body);
        let withdrawn =
            length_prefixed(&mut reader).ok_or(MessageProblem::UpdateWithdrawnOverrun)?;
        let attributes =
            length_prefixed(&mut reader).ok_or(MessageProblem::UpdateAttributesOverrun)?;
        Ok(Self {
            withdrawn,
            attributes,
            nlri: reader.0,
        })
    }
}

fn length_prefixed<'a>(reader: &mut OctetReader<'a>) -> Option<&'a [u8]> {
    let length = reader.u16()?;
    reader.take(usize::from(length))
}
