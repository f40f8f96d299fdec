//! Translation of types of this crate to generated types.

use bgp_rib::PrefixFilter;
use bgp_speaker::{GroupConfig, PathName};
use daemon_api::reflector::v1::{self as wire, GetConfigurationResponse, PeerGroup};

use crate::reflector::RunningConfiguration;

pub(super) fn removed_path(path: PathName) -> wire::RemovedPath {
    wire::RemovedPath {
        prefix: path.prefix.to_string(),
        peer: path.peer.unwrap_or_default(),
        path_id: path.path_id.map(|id| id.0).unwrap_or_default(),
    }
}

pub(super) fn configuration(running: &RunningConfiguration) -> GetConfigurationResponse {
    let config = &running.config;
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
        file: running.file.display().to_string(),
        last_error: running.last_error.clone(),
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

/// Formats the rules of a filter. Each rule has its length bounds if they differ from the length of
/// its prefix.
fn prefixes(filter: &PrefixFilter) -> Vec<String> {
    match filter {
        PrefixFilter::All => vec!["all".to_owned()],
        PrefixFilter::Only(rules) => rules.iter().map(ToString::to_string).collect(),
    }
}
