//! Conversion of speaker types to messages of `portlb.bgp.v1`.

use std::time::Duration;

use bgp_packet::Asn;
use bgp_session::{NegotiatedFamily, SessionState};
use bgp_speaker::{PathStatus, PeerStatus, RefusedSession};
use daemon_api::{bgp::v1 as wire, duration};

/// Converts the status of a peer to a session message. `local_asn` is the AS of the speaker.
pub fn session(local_asn: Asn, peer: &PeerStatus) -> wire::Session {
    let status = &peer.session;
    let negotiated = status.negotiated.as_ref();
    let peer_asn = negotiated
        .map(|negotiated| negotiated.peer_asn)
        .or(peer.configured_asn);
    let router_id = negotiated.map(|negotiated| negotiated.peer_router_id.to_string());
    let local_address = peer.local_address.map(|address| address.ip().to_string());
    // In the contract, a hold time and a keepalive interval of zero mean that the session has no
    // hold timer and sends no periodic KEEPALIVE messages.
    let seconds = |time: Option<Duration>| duration(time.unwrap_or_default());
    let last_error = status.last_error.as_ref();
    wire::Session {
        peer: peer.name.clone(),
        peer_address: peer.address.ip().to_string(),
        peer_port: peer.address.port().into(),
        peer_asn: peer_asn.map_or(0, |asn| asn.0),
        peer_router_id: router_id.unwrap_or_default(),
        group: peer.group.clone().unwrap_or_default(),
        state: state(status.state).into(),
        local_address: local_address.unwrap_or_default(),
        local_asn: local_asn.0,
        hold_time: negotiated.map(|negotiated| seconds(negotiated.hold_time)),
        keepalive_interval: negotiated.map(|negotiated| seconds(negotiated.keepalive_interval())),
        hold_timer_remaining: peer.hold_timer_remaining.map(duration),
        time_in_state: Some(duration(peer.in_state)),
        established_count: status.counters.established,
        families: negotiated
            .map(|negotiated| negotiated.families.iter().map(family).collect())
            .unwrap_or_default(),
        last_error: last_error
            .map(|(_, error)| error.to_string())
            .unwrap_or_default(),
        messages_received: status.counters.messages_received,
        messages_sent: status.counters.messages_sent,
        updates_received: status.counters.updates_received,
        updates_sent: status.counters.updates_sent,
        paths_received: peer.counts.paths_received as u64,
        paths_sent: peer.counts.paths_sent as u64,
    }
}

/// Converts the record of the refused sessions of one address.
pub fn refused_session(refused: RefusedSession) -> wire::RefusedSession {
    wire::RefusedSession {
        address: refused.address.to_string(),
        peer: refused.peer,
        group: refused.group.unwrap_or_default(),
        reason: refused.reason.label().to_owned(),
        error: refused.error,
        count: refused.count,
        time_since_last: Some(duration(refused.since_last)),
    }
}

/// Converts the status of a path to a path message.
pub fn path(path: PathStatus) -> wire::Path {
    wire::Path {
        prefix: path.prefix.to_string(),
        peer: path.peer.unwrap_or_default(),
        path_id: path.path_id.map_or(0, |id| id.0),
        attributes: Some(path.attributes.as_ref().into()),
        best: path.is_best,
        not_best_reason: path
            .not_best
            .map(|reason| reason.to_string())
            .unwrap_or_default(),
    }
}

fn state(state: SessionState) -> wire::SessionState {
    match state {
        SessionState::Idle => wire::SessionState::Idle,
        SessionState::Active => wire::SessionState::Active,
        SessionState::Connect => wire::SessionState::Connect,
        SessionState::OpenSent => wire::SessionState::OpenSent,
        SessionState::OpenConfirm => wire::SessionState::OpenConfirm,
        SessionState::Established => wire::SessionState::Established,
    }
}

fn family(family: &NegotiatedFamily) -> wire::NegotiatedFamily {
    let add_path = match (family.add_path_receive, family.add_path_send) {
        (false, false) => wire::AddPath::None,
        (true, false) => wire::AddPath::Receive,
        (false, true) => wire::AddPath::Send,
        (true, true) => wire::AddPath::Both,
    };
    wire::NegotiatedFamily {
        family: wire::Family::from(family.family).into(),
        add_path: add_path.into(),
    }
}

#[cfg(test)]
mod tests;
