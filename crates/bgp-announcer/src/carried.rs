//! Which announcements the BGP sessions carry, and why a session does not carry one.
//!
//! `Announcements` decides what is to be announced. An address counts as announced only while it stands in
//! the Adj-RIB-Out of an established session, with everything that was pending written before.

use std::net::IpAddr;

use bgp_packet::{Community, Family, IpNet};
use bgp_speaker::PeerStatus;

use crate::{
    announcements::{self, State},
    announcer::Announcement,
};

/// Returns what others see of an announcement. `carried_by` has the names of the peers.
pub(crate) fn published(
    prefix: &IpNet,
    planned: announcements::Announcement,
    carried_by: Vec<String>,
    communities: &[Community],
    sessions: &[PeerStatus],
) -> Announcement {
    let mut shown = Announcement {
        state: planned.state,
        detail: planned.detail,
        next_hop: planned.next_hop,
        announced_to: Vec::new(),
    };
    match planned.state {
        State::Announced | State::LeastPreferred | State::Draining => {
            shown.announced_to = carried_by;
        }
        State::NotServing
        | State::Refused
        | State::WaitingForNodeRoute
        | State::WaitingForSession
        | State::Drained => return shown,
    }
    if shown.announced_to.is_empty() {
        let reasons = sessions.iter().map(|peer| {
            let reason = obstacle(prefix, shown.next_hop, communities, peer);
            let reason = reason.unwrap_or_else(|| "not written to its socket yet".to_owned());
            format!("{}: {reason}", peer.name)
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        let plan = match shown.detail.as_str() {
            "" => String::new(),
            detail => format!("; {detail}"),
        };
        shown.state = State::WaitingForSession;
        shown.detail = format!("no session carries it: {reasons}{plan}");
    }
    shown
}

/// Whether sessions are established and none of them can ever carry the prefix.
pub(crate) fn is_impossible(
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
        && established.all(|peer| obstacle(prefix, next_hop, communities, peer).is_some())
}

/// Returns why the session of the peer cannot carry the prefix as it is. The rules are those of
/// bgp-rib's export.
fn obstacle(
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
        return Some("its session is not established".to_owned());
    };
    let family = Family::of(*prefix);
    if !negotiated.families.iter().any(|it| it.family == family) {
        return Some(format!("the peer does not take {family}"));
    }
    for community in communities {
        match *community {
            Community::NO_ADVERTISE => return Some("--communities has NO_ADVERTISE".to_owned()),
            Community::NO_EXPORT if !negotiated.internal => {
                return Some(
                    "--communities has NO_EXPORT, and the peer is of another AS".to_owned(),
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
             {family}: give --next-hop an address of that family"
        ));
    }
    (next_hop == peer.address.ip()).then(|| format!("the next hop {next_hop} is the peer itself"))
}

#[cfg(test)]
mod tests;
