//! From our types to the generated ones.

use std::time::Duration;

use bgp_packet::Asn;
use bgp_rib::PrefixFilter;
use bgp_session::SessionState;
use bgp_speaker::{GroupConfig, PathStatus, PeerStatus, RefusedSession, RemovedPath};
use daemon_api::{
    bgp::v1 as bgp,
    reflector::v1::{self as wire, GetConfigurationResponse, PeerGroup},
};

use crate::reflector::InForce;

pub(super) fn session(local_asn: Asn, peer: &PeerStatus) -> bgp::Session {
    let status = &peer.session;
    let negotiated = status.negotiated.as_ref();
    let peer_asn = negotiated
        .map(|negotiated| negotiated.peer_asn)
        .or(peer.configured_asn);
    let hold_time = negotiated.and_then(|negotiated| negotiated.hold_time);
    bgp::Session {
        peer: peer.name.clone(),
        peer_address: peer.address.to_string(),
        peer_asn: peer_asn.map(|asn| asn.0).unwrap_or_default(),
        peer_router_id: negotiated
            .map(|negotiated| negotiated.peer_router_id.to_string())
            .unwrap_or_default(),
        group: peer.group.clone().unwrap_or_default(),
        state: state(status.state).into(),
        local_address: peer
            .local_address
            .map(|address| address.ip().to_string())
            .unwrap_or_default(),
        local_asn: local_asn.0,
        hold_time_seconds: hold_time.map(seconds).unwrap_or_default(),
        keepalive_interval_seconds: hold_time.map(|time| seconds(time / 3)).unwrap_or_default(),
        hold_timer_remaining_milliseconds: peer
            .hold_timer_remaining
            .map(milliseconds)
            .unwrap_or_default(),
        milliseconds_in_state: milliseconds(peer.in_state),
        established_count: status.counters.established,
        families: negotiated.map(families).unwrap_or_default(),
        last_error: status
            .last_error
            .as_ref()
            .map(|(_, error)| error.to_string())
            .unwrap_or_default(),
        messages_received: status.counters.messages_received,
        messages_sent: status.counters.messages_sent,
        updates_received: status.counters.updates_received,
        updates_sent: status.counters.updates_sent,
        paths_received: count(peer.counts.paths_received),
        paths_sent: count(peer.counts.paths_sent),
    }
}

pub(super) fn refused_session(refused: RefusedSession) -> wire::RefusedSession {
    wire::RefusedSession {
        address: refused.address.to_string(),
        peer: refused.peer,
        group: refused.group.unwrap_or_default(),
        reason: refused.reason.label().to_owned(),
        error: refused.error,
        count: refused.count,
        milliseconds_since_last: milliseconds(refused.since_last),
    }
}

fn state(state: SessionState) -> bgp::SessionState {
    match state {
        SessionState::Idle => bgp::SessionState::Idle,
        SessionState::Active => bgp::SessionState::Active,
        SessionState::Connect => bgp::SessionState::Connect,
        SessionState::OpenSent => bgp::SessionState::OpenSent,
        SessionState::OpenConfirm => bgp::SessionState::OpenConfirm,
        SessionState::Established => bgp::SessionState::Established,
    }
}

fn families(negotiated: &bgp_session::Negotiated) -> Vec<bgp::NegotiatedFamily> {
    let translate = |family: &bgp_session::NegotiatedFamily| {
        let add_path = match (family.add_path_receive, family.add_path_send) {
            (false, false) => bgp::AddPath::Unspecified,
            (true, false) => bgp::AddPath::Receive,
            (false, true) => bgp::AddPath::Send,
            (true, true) => bgp::AddPath::Both,
        };
        bgp::NegotiatedFamily {
            family: bgp::Family::from(family.family).into(),
            add_path: add_path.into(),
        }
    };
    negotiated.families.iter().map(translate).collect()
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

pub(super) fn path(path: PathStatus) -> bgp::Path {
    bgp::Path {
        prefix: path.prefix.to_string(),
        peer: path.peer.unwrap_or_default(),
        path_id: path.path_id.map(|id| id.0).unwrap_or_default(),
        attributes: Some(path.attributes.as_ref().into()),
        best: path.is_best,
        not_best_reason: path
            .not_best
            .map(|reason| reason.to_string())
            .unwrap_or_default(),
    }
}

pub(super) fn removed_path(path: RemovedPath) -> wire::RemovedPath {
    wire::RemovedPath {
        prefix: path.prefix.to_string(),
        peer: path.peer.unwrap_or_default(),
        path_id: path.path_id.map(|id| id.0).unwrap_or_default(),
    }
}

pub(super) fn configuration(in_force: &InForce) -> GetConfigurationResponse {
    let config = &in_force.config;
    GetConfigurationResponse {
        asn: config.speaker.local_asn.0,
        router_id: config.speaker.router_id.to_string(),
        cluster_id: config.speaker.cluster_id.to_string(),
        peer_groups: config.peers.groups.iter().map(group).collect(),
        static_peers: config
            .peers
            .peers
            .iter()
            .map(|peer| peer.name.clone())
            .collect(),
        file: in_force.file.display().to_string(),
        last_error: in_force.last_error.clone(),
    }
}

fn group(group: &GroupConfig) -> PeerGroup {
    PeerGroup {
        name: group.name.clone(),
        peer_asn: group.session.peer_asn.map(|asn| asn.0).unwrap_or_default(),
        dynamic_prefixes: group.prefixes.iter().map(ToString::to_string).collect(),
        client: group.session.is_client,
        import_prefixes: prefixes(&group.session.import.prefixes),
        maximum_paths: group.session.import.maximum_paths.unwrap_or_default(),
    }
}

/// A rule as `10.1.0.0/16`, with its bounds where they differ from the prefix's own length.
fn prefixes(filter: &PrefixFilter) -> Vec<String> {
    match filter {
        PrefixFilter::All => vec!["all".to_owned()],
        PrefixFilter::Only(rules) => rules.iter().map(ToString::to_string).collect(),
    }
}
