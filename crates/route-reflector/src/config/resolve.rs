//! Resolution of a parsed document to a valid configuration.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bgp_packet::{Asn, ClusterId, RouterId};
use bgp_rib::ExportPolicy;
use bgp_speaker::{
    Configuration, GroupConfig, InvalidConfiguration, PeerConfig, SessionConfig, SpeakerConfig,
};
use daemon_runtime::config_file::{self, FileLocation, FileProblem};
use serde_saphyr::Spanned;

use super::{
    Config, Overrides,
    document::{self, ConnectionSide, ReflectorDocument},
    import::import_policy,
    session::{families, hold_time, is_client, md5_key, minimum_hold_time, prefix_filter},
};

const DEFAULT_MAXIMUM_PEERS: u32 = 1000;
const DEFAULT_MAXIMUM_PEERS_PER_ADDRESS: u16 = 16;
const DEFAULT_MAXIMUM_PATHS: u32 = 1000;
const BGP_PORT: u16 = 179;

pub(super) fn problem_at<T>(value: &Spanned<T>, message: String) -> FileProblem {
    FileProblem {
        place: FileLocation::of(value),
        message,
    }
}

pub(super) fn resolve(
    document: &ReflectorDocument,
    overrides: &Overrides,
) -> Result<Config, FileProblem> {
    let local_asn = asn("asn", &document.asn)?;
    let speaker = speaker(document, local_asn, overrides)?;
    let mut groups = HashMap::new();
    for group in &document.peer_groups {
        let (name, config) = resolve_group(local_asn, group)?;
        if groups.insert(name.value.clone(), config).is_some() {
            let message = format!(
                "peerGroups: the name `{}` is given twice; rename one of the groups",
                name.value
            );
            return Err(problem_at(name, message));
        }
    }
    reject_overlaps(document)?;
    reject_shared_addresses(document)?;
    let peers = document
        .peers
        .iter()
        .map(|peer| resolve_peer(&peer.value, &groups))
        .collect::<Result<Vec<_>, _>>()?;
    let in_order =
        |group: &Spanned<document::PeerGroupFields>| groups.remove(&group.value.name.value);
    let groups = document.peer_groups.iter().filter_map(in_order).collect();
    let peers = Configuration { peers, groups };
    peers
        .validate(&speaker)
        .map_err(|problem| conflict_problem(document, &problem))?;
    Ok(Config { speaker, peers })
}

/// Describes a conflict between peers that are valid separately, with the place of the conflict in
/// the document.
fn conflict_problem(document: &ReflectorDocument, problem: &InvalidConfiguration) -> FileProblem {
    let last = |name: &str| {
        let mut peers = document.peers.iter().rev();
        peers.find(|peer| peer.value.name.value == name)
    };
    let (place, suggestion) = match problem {
        InvalidConfiguration::PeerNameTwice(name) => (
            last(name).and_then(|peer| FileLocation::of(&peer.value.name)),
            "; rename one of the peers",
        ),
        InvalidConfiguration::AddressTwice { second, .. } => (
            last(second).and_then(|peer| FileLocation::of(&peer.value.address)),
            "; leave one of them out",
        ),
        InvalidConfiguration::KeyMissing { name, .. } => (
            last(name).and_then(|peer| FileLocation::of(&peer.value.address)),
            "; write md5KeyFile for the peer or group without a key, or let only the reflector \
             connect (connection: active)",
        ),
        InvalidConfiguration::GroupNameTwice(_)
        | InvalidConfiguration::NeitherActiveNorPassive(_)
        | InvalidConfiguration::LocalAddressFamily { .. }
        | InvalidConfiguration::Settings { .. } => (None, ""),
    };
    FileProblem {
        place,
        message: format!("{problem}{suggestion}"),
    }
}

fn speaker(
    document: &ReflectorDocument,
    local_asn: Asn,
    overrides: &Overrides,
) -> Result<SpeakerConfig, FileProblem> {
    let written = document.router_id.as_ref();
    let written = written.map(|value| id("routerId", value)).transpose()?;
    let router_id = match overrides.router_id {
        Some(RouterId(router_id)) => router_id,
        None => written.ok_or_else(|| FileProblem {
            // The place of a missing field is the start of the document.
            place: Some(FileLocation { line: 1, column: 1 }),
            message: "the field `routerId` is missing; write an id that no other BGP speaker has, \
                      usually an address of this host, or give --router-id"
                .to_owned(),
        })?,
    };
    let cluster_id = match &document.cluster_id {
        Some(cluster_id) => id("clusterId", cluster_id)?,
        None => router_id,
    };
    let listen = match &document.listen {
        _ if !overrides.listen.is_empty() => overrides.listen.clone(),
        Some(endpoints) => endpoints.iter().map(|endpoint| endpoint.value.0).collect(),
        None => vec![
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, BGP_PORT)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, BGP_PORT)),
        ],
    };
    Ok(SpeakerConfig {
        local_asn,
        router_id: RouterId(router_id),
        cluster_id: ClusterId(cluster_id),
        listen,
    })
}

fn id(field: &str, value: &Spanned<document::Address4>) -> Result<Ipv4Addr, FileProblem> {
    let document::Address4(id) = value.value;
    if id.is_unspecified() {
        let message = format!(
            "{field}: 0.0.0.0 is not allowed; write an id that no other BGP speaker has, usually \
             an address of this host"
        );
        return Err(problem_at(value, message));
    }
    Ok(id)
}

/// Checks that the AS number is not reserved by RFC 7607, RFC 6793 section 9 or RFC 7300, and
/// returns the number.
fn asn(field: &str, value: &Spanned<u32>) -> Result<Asn, FileProblem> {
    match value.value {
        reserved @ (0 | 23456 | 65535 | u32::MAX) => {
            let message = format!(
                "{field}: {reserved} is reserved; write an AS number from 1 to 4294967294, or a \
                 private AS number such as 64512"
            );
            Err(problem_at(value, message))
        }
        number => Ok(Asn(number)),
    }
}

fn name<'a>(field: &str, value: &'a Spanned<String>) -> Result<&'a Spanned<String>, FileProblem> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if value.value.is_empty() || !value.value.chars().all(is_plain) {
        let message = format!(
            "{field}: {:?} is not a valid name; use letters, digits, `-`, `_`, `.` and `:`",
            value.value
        );
        return Err(problem_at(value, message));
    }
    Ok(value)
}

fn positive(field: &str, value: Option<&Spanned<u32>>, default: u32) -> Result<u32, FileProblem> {
    let Some(value) = value else {
        return Ok(default);
    };
    if value.value == 0 {
        let message = format!(
            "{field}: 0 is not allowed; write at least 1, or leave the field out for {default}"
        );
        return Err(problem_at(value, message));
    }
    Ok(value.value)
}

fn resolve_group(
    local_asn: Asn,
    entry: &Spanned<document::PeerGroupFields>,
) -> Result<(&Spanned<String>, GroupConfig), FileProblem> {
    let group = &entry.value;
    let name = name("peerGroups.name", &group.name)?;
    let peer_asn = match &group.asn {
        Some(value) => asn("peerGroups.asn", value)?,
        None => local_asn,
    };
    let is_client = is_client(entry, peer_asn == local_asn)?;
    let maximum_paths = positive(
        "maximumPaths",
        group.maximum_paths.as_ref(),
        DEFAULT_MAXIMUM_PATHS,
    )?;
    let import = import_policy(group, is_client, maximum_paths)?;
    let export = ExportPolicy {
        prefixes: prefix_filter(group.export_prefixes.as_ref())?,
        next_hop_self: group.next_hop_self,
    };
    let hold_time_seconds = hold_time(group.hold_time.as_ref())?;
    let session = SessionConfig {
        is_client,
        hold_time_seconds,
        minimum_hold_time_seconds: minimum_hold_time(
            group.minimum_hold_time.as_ref(),
            hold_time_seconds,
        )?,
        families: families(group)?,
        import,
        export,
        md5_key: md5_key(group.md5_key_file.as_ref())?,
        ..SessionConfig::new(Some(peer_asn))
    };
    let maximum_peers = positive(
        "maximumPeers",
        group.maximum_peers.as_ref(),
        DEFAULT_MAXIMUM_PEERS,
    )?;
    let maximum_peers_per_address = match &group.maximum_peers_per_address {
        None => DEFAULT_MAXIMUM_PEERS_PER_ADDRESS,
        Some(value) if value.value == 0 => {
            let message = format!(
                "maximumPeersPerAddress: 0 is not allowed; write 1 to 65535, or leave the field \
                 out for {DEFAULT_MAXIMUM_PEERS_PER_ADDRESS}"
            );
            return Err(problem_at(value, message));
        }
        Some(value) => value.value,
    };
    let config = GroupConfig {
        name: name.value.clone(),
        prefixes: group
            .dynamic_prefixes
            .iter()
            .map(|prefix| prefix.value.0)
            .collect(),
        maximum_peers: usize::try_from(maximum_peers).unwrap_or(usize::MAX),
        maximum_peers_per_address: maximum_peers_per_address.into(),
        session,
    };
    Ok((name, config))
}

/// Rejects overlapping prefixes of two groups, because a peer must not belong to two groups.
fn reject_overlaps(document: &ReflectorDocument) -> Result<(), FileProblem> {
    let mut seen: Vec<(&Spanned<document::Prefix>, &str)> = Vec::new();
    for group in &document.peer_groups {
        let name = group.value.name.value.as_str();
        for prefix in &group.value.dynamic_prefixes {
            let document::Prefix(net) = prefix.value;
            let overlapping = seen.iter().find(|(other, owner)| {
                let document::Prefix(other) = other.value;
                *owner != name && (other.contains(&net) || net.contains(&other))
            });
            if let Some((other, owner)) = overlapping {
                let message = format!(
                    "dynamicPrefixes: {net} overlaps {} of peer group `{owner}`; a peer can \
                     belong to only one group",
                    other.value.0
                );
                return Err(problem_at(prefix, message));
            }
            seen.push((prefix, name));
        }
    }
    Ok(())
}

/// Rejects two peers with equal addresses, because the reflector identifies the peer of a
/// connection by the remote address of the connection.
fn reject_shared_addresses(document: &ReflectorDocument) -> Result<(), FileProblem> {
    let mut seen: HashMap<IpAddr, &str> = HashMap::new();
    for peer in &document.peers {
        let document::Address(address) = peer.value.address.value;
        let name = peer.value.name.value.as_str();
        if let Some(first) = seen.insert(address, name)
            && first != name
        {
            let message = format!(
                "peers `{first}` and `{name}` have the same address {address}; leave one of them \
                 out"
            );
            return Err(problem_at(&peer.value.address, message));
        }
    }
    Ok(())
}

/// Rejects a link-local address, because each link of the host can use the address, and the file
/// cannot name the link.
fn reject_link_local(field: &str, value: &Spanned<document::Address>) -> Result<(), FileProblem> {
    let document::Address(address) = value.value;
    match address {
        IpAddr::V6(ipv6) if ipv6.is_unicast_link_local() => {
            let message = format!(
                "{field}: {address} is link-local and needs an interface (a zone), but this file \
                 cannot name an interface; write a global or unique local address, such as \
                 fd00::1"
            );
            Err(problem_at(value, message))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}

fn resolve_peer(
    peer: &document::PeerFields,
    groups: &HashMap<String, GroupConfig>,
) -> Result<PeerConfig, FileProblem> {
    let name = name("peers.name", &peer.name)?;
    let Some(group) = groups.get(&peer.group.value) else {
        let names: Vec<_> = groups.keys().map(String::as_str).collect();
        let hint = match config_file::nearest(&peer.group.value, &names) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "add it to peerGroups".to_owned(),
        };
        let message = format!(
            "group: peer group `{}` does not exist; {hint}",
            peer.group.value
        );
        return Err(problem_at(&peer.group, message));
    };
    let document::Address(address) = peer.address.value;
    if address.is_unspecified() || address.is_multicast() {
        let message = format!(
            "address: {address} is not the address of a host; write the address from which the peer \
             connects"
        );
        return Err(problem_at(&peer.address, message));
    }
    reject_link_local("address", &peer.address)?;
    if let Some(local) = &peer.local_address {
        reject_link_local("localAddress", local)?;
    }
    let port = match &peer.port {
        Some(port) if port.value == 0 => {
            let message =
                "port: 0 is not allowed; write 1 to 65535, or leave the field out for 179";
            return Err(problem_at(port, message.to_owned()));
        }
        Some(port) => port.value,
        None => BGP_PORT,
    };
    if let Some(local) = &peer.local_address
        && local.value.0.is_ipv4() != address.is_ipv4()
    {
        let message = format!(
            "localAddress: {} and the peer's address {address} have different address families",
            local.value.0
        );
        return Err(problem_at(local, message));
    }
    let mut session = SessionConfig {
        minimum_hold_time_seconds: 0,
        ..group.session.clone()
    };
    if let Some(key) = md5_key(peer.md5_key_file.as_ref())? {
        session.md5_key = Some(key);
    }
    Ok(PeerConfig {
        name: name.value.clone(),
        address: SocketAddr::new(address, port),
        local_address: peer.local_address.as_ref().map(|local| local.value.0),
        active: peer.connection != ConnectionSide::Passive,
        passive: peer.connection != ConnectionSide::Active,
        group: Some(group.name.clone()),
        session,
    })
}
