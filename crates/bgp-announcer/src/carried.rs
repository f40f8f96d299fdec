//! Comparison of the decided announcements with the BGP sessions.
//!
//! `Announcements` decides which addresses are announced. An address counts as announced only while
//! the Adj-RIB-Out of an established session contains it and the UPDATE message is written to the
//! socket.

use std::net::IpAddr;

use bgp_packet::{Community, Family, IpNet};
use bgp_speaker::PeerStatus;

use crate::{
    announcements::{AddressState, AnnouncementDecision},
    announcer::AnnouncementStatus,
};

/// Returns the published status of an announcement. `carried_by` has the names of the peers whose
/// sessions carry the announcement.
pub(crate) fn announcement_status(
    prefix: &IpNet,
    planned: AnnouncementDecision,
    carried_by: Vec<String>,
    communities: &[Community],
    sessions: &[PeerStatus],
) -> AnnouncementStatus {
    let mut shown = AnnouncementStatus {
        state: planned.state,
        detail: planned.detail,
        next_hop: planned.next_hop,
        announced_to: Vec::new(),
    };
    if !planned.state.is_handed_to_sessions() {
        return shown;
    }
    shown.announced_to = carried_by;
    if shown.announced_to.is_empty() {
        let reasons = sessions.iter().map(|peer| {
            let reason = reason_not_carriable(prefix, shown.next_hop, communities, peer);
            let reason = reason.unwrap_or_else(|| "not written to the socket yet".to_owned());
            format!("{}: {reason}", peer.name)
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        let decided_detail = match shown.detail.as_str() {
            "" => String::new(),
            detail => format!("; {detail}"),
        };
        shown.state = AddressState::WaitingForSession;
        shown.detail = format!("no session carries the address: {reasons}{decided_detail}");
    }
    shown
}

/// Reports whether at least one session is established and no established session can ever carry
/// the prefix.
pub(crate) fn no_session_can_carry(
    prefix: &IpNet,
    next_hop: Option<IpAddr>,
    communities: &[Community],
    sessions: &[PeerStatus],
) -> bool {
    let mut established = sessions
        .iter()
        .filter(|peer| peer.is_established())
        .peekable();
    established.peek().is_some()
        && established
            .all(|peer| reason_not_carriable(prefix, next_hop, communities, peer).is_some())
}

/// Returns why the current session of the peer cannot carry the prefix, by the export rules of
/// bgp-rib. Returns `None` if the session can carry the prefix.
fn reason_not_carriable(
    prefix: &IpNet,
    next_hop: Option<IpAddr>,
    communities: &[Community],
    peer: &PeerStatus,
) -> Option<String> {
    let Some(negotiated) = peer
        .session
        .negotiated
        .as_ref()
        .filter(|_| peer.is_established())
    else {
        return Some("the session is not established".to_owned());
    };
    let family = Family::of(*prefix);
    if !negotiated.families.iter().any(|it| it.family == family) {
        return Some(format!("the peer does not accept {family}"));
    }
    for community in communities {
        match *community {
            Community::NO_ADVERTISE => {
                return Some("--communities contains NO_ADVERTISE".to_owned());
            }
            Community::NO_EXPORT if !negotiated.internal => {
                return Some(
                    "--communities contains NO_EXPORT, and the peer belongs to another AS"
                        .to_owned(),
                );
            }
            _ => {}
        }
    }
    let next_hop = next_hop?;
    let local = peer.local_address.map(|local| local.ip());
    let is_self = next_hop.is_unspecified();
    if is_self && local.is_some_and(|local| local.is_ipv4() != prefix.addr().is_ipv4()) {
        let local_family = match local {
            Some(IpAddr::V4(_)) => "IPv4",
            Some(IpAddr::V6(_)) | None => "IPv6",
        };
        return Some(format!(
            "the session runs over {local_family}, so --next-hop self has no address for \
             {family}: add an address of this family to --next-hop"
        ));
    }
    (next_hop == peer.address.ip()).then(|| format!("the next hop {next_hop} is the peer itself"))
}

#[cfg(test)]
mod tests;
