//! Configuration of bgp-announcer, resolved from its flags.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    time::Duration,
};

use bgp_packet::{ClusterId, IpNet, RouterId, overlapping_reserved_range};
use bgp_rib::{ExportPolicy, ImportPolicy};
use bgp_speaker::{Configuration, Md5Key, PeerConfig, SessionConfig, SpeakerConfig};
use daemon_runtime::{
    ConfigError, GracePeriod, GrpcTarget, ListenAddress, error_chain, longest_retry,
    parse_duration, parse_prefix,
};

use crate::{
    announcements::{AnnouncementsConfig, InboundRoute},
    args::Args,
    hold_token::HoldToken,
    peer_flag::{PeerFlag, is_reserved},
};

/// With a shorter timeout, an ordinary pause of a busy machine would count as silence of the data
/// plane.
const SHORTEST_DATA_PLANE_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest pause between two attempts to connect to a lost peer. It is short, so that the session
/// is soon established again after the peer returns.
const CONNECT_RETRY_MAXIMUM: Duration = Duration::from_secs(3);

/// The configuration of the daemon, valid and with all defaults resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address on which the gRPC contract is served.
    pub grpc_listen: ListenAddress,
    pub data_plane: GrpcTarget,
    /// `None`: no node route is needed.
    pub node_router: Option<GrpcTarget>,
    /// Token that is sent with each hold. `None`: no token is sent.
    pub hold_token: Option<HoldToken>,
    /// Longest pause between two attempts to reach the data plane or node-router.
    pub longest_retry: Duration,
    pub announcements: AnnouncementsConfig,
    pub speaker: SpeakerConfig,
    pub peers: Configuration,
}

impl Config {
    /// Resolves the flags.
    ///
    /// # Errors
    /// Returns an error with the invalid flag, its value, the allowed values and a suggestion.
    pub fn resolve(args: &Args) -> Result<Self, ConfigError> {
        let node_router = match args.node_router.as_str() {
            "none" => None,
            target => Some(target.parse::<GrpcTarget>().map_err(|problem| {
                ConfigError(format!(
                    "--node-router `{target}`: {problem}, or `none` if no node route is needed"
                ))
            })?),
        };
        let gateways = ByFamily::parse("--gateway", &args.gateway, false)?;
        if node_router.is_some() && gateways.is_empty() {
            return Err(ConfigError(
                "--gateway is missing: give the addresses of this pod as the targets of node \
                 routes, such as --gateway 10.244.1.7, or --node-router none if no node route \
                 is needed"
                    .to_owned(),
            ));
        }
        let next_hops = ByFamily::parse("--next-hop", &args.next_hop, true)?;
        if is_reserved(args.asn) {
            return Err(ConfigError(format!(
                "--asn {} is reserved: give an AS number from 1 to 4294967294, or a private AS \
                 number such as 64512",
                args.asn.0
            )));
        }
        if args.data_plane_timeout < SHORTEST_DATA_PLANE_TIMEOUT {
            return Err(ConfigError(format!(
                "--data-plane-timeout {} ms is too short: a pause of a busy data plane would make \
                 every address least preferred; give at least 500ms",
                args.data_plane_timeout.as_millis()
            )));
        }
        let grace_periods = [
            GracePeriod {
                flag: "--data-plane-timeout",
                period: args.data_plane_timeout,
            },
            GracePeriod {
                flag: "--node-route-timeout",
                period: args.node_route_timeout,
            },
        ];
        let longest_retry = longest_retry("--longest-retry", args.longest_retry, &grace_periods)?;
        let router_id = router_id(args.router_id, &gateways)?;
        let speaker = SpeakerConfig {
            local_asn: args.asn,
            router_id,
            cluster_id: ClusterId(router_id.0),
            listen: Vec::new(),
        };
        let hold_token = hold_token(args.hold_token_file.as_deref(), node_router.as_ref())?;
        let needs_gateway = node_router.is_some();
        let config = Self {
            grpc_listen: args.common.grpc_listen.clone(),
            data_plane: args.data_plane.clone(),
            hold_token,
            longest_retry,
            announcements: AnnouncementsConfig {
                allowed_prefixes: allowed_prefixes(&args.allowed_prefixes)?,
                ipv4: inbound_route(next_hops.ipv4, gateways.ipv4, needs_gateway),
                ipv6: inbound_route(next_hops.ipv6, gateways.ipv6, needs_gateway),
                local_pref: args.local_pref,
                multi_exit_disc: args.med,
                communities: args.communities.clone(),
                data_plane_timeout: args.data_plane_timeout,
                node_route_timeout: args.node_route_timeout,
                withdraw_delay: args.withdraw_delay,
                linger: args.linger,
            },
            peers: peers(args)?,
            speaker,
            node_router,
        };
        config.peers.validate(&config.speaker).map_err(|problem| {
            ConfigError(format!(
                "--peer: {problem}; list each peer once, or give each peer its own name=NAME"
            ))
        })?;
        for prefix in &config.announcements.allowed_prefixes {
            config.announcements.check_family(prefix)?;
            next_hops.check_outside("--next-hop", prefix)?;
            gateways.check_outside("--gateway", prefix)?;
        }
        Ok(config)
    }
}

impl AnnouncementsConfig {
    /// Rejects a prefix of an address family for which the flags give no next hop or no gateway.
    fn check_family(&self, prefix: &IpNet) -> Result<(), ConfigError> {
        let (inbound, family) = match prefix {
            IpNet::V4(_) => (&self.ipv4, "IPv4"),
            IpNet::V6(_) => (&self.ipv6, "IPv6"),
        };
        if inbound.is_some() {
            return Ok(());
        }
        Err(ConfigError(format!(
            "--allowed-prefixes: {prefix} can never be announced, because --next-hop or --gateway \
             has no {family} address; add an {family} address, or omit {prefix}"
        )))
    }
}

/// At most one IPv4 address and one IPv6 address, parsed from a flag.
#[derive(Clone, Copy, Debug, Default)]
struct ByFamily {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

impl ByFamily {
    /// Parses the addresses of a flag. The value `self` gives the unspecified address to each
    /// family without an address.
    fn parse(flag: &str, values: &[String], allows_self: bool) -> Result<Self, ConfigError> {
        let allowed = if allows_self {
            "an IPv4 address, an IPv6 address, both, or self"
        } else {
            "an IPv4 address, an IPv6 address, or both"
        };
        let refuse = |value: &str, problem: &str| {
            ConfigError(format!(
                "{flag} `{value}` {problem}: give {allowed}, separated by a comma"
            ))
        };
        let mut addresses = Self::default();
        let mut has_self = false;
        for value in values {
            if allows_self && value == "self" {
                has_self = true;
                continue;
            }
            let address: IpAddr = value
                .parse()
                .map_err(|_| refuse(value, "is not an IP address"))?;
            // A gateway can be any unicast address: the gateway is used only on this node and is
            // never sent in an UPDATE message.
            let is_usable = match allows_self {
                true => bgp_rib::is_reachable_unicast(address),
                false => {
                    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
                }
            };
            if !is_usable {
                return Err(refuse(value, "is not a unicast address of a host"));
            }
            let is_second = match address {
                IpAddr::V4(address) => addresses.ipv4.replace(address).is_some(),
                IpAddr::V6(address) => addresses.ipv6.replace(address).is_some(),
            };
            if is_second {
                return Err(refuse(value, "is the second address of its family"));
            }
        }
        if has_self {
            addresses.ipv4.get_or_insert(Ipv4Addr::UNSPECIFIED);
            addresses.ipv6.get_or_insert(Ipv6Addr::UNSPECIFIED);
        }
        Ok(addresses)
    }

    /// Rejects an address that lies within `prefix`. `prefix` contains service addresses, and the
    /// route to a service address must not lead to an address that packets reach only by this
    /// route.
    fn check_outside(&self, flag: &str, prefix: &IpNet) -> Result<(), ConfigError> {
        let ipv4 = self.ipv4.map(IpAddr::from);
        let ipv6 = self.ipv6.map(IpAddr::from);
        let mut given = [ipv4, ipv6].into_iter().flatten();
        // The unspecified address means `self`.
        match given.find(|address| !address.is_unspecified() && prefix.contains(address)) {
            None => Ok(()),
            Some(address) => Err(ConfigError(format!(
                "{flag} `{address}` lies within {prefix} of --allowed-prefixes, but the address of \
                 a pod or node cannot be a service address; give service ranges without this \
                 address"
            ))),
        }
    }

    fn is_empty(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }
}

fn inbound_route<A: Into<IpAddr>>(
    next_hop: Option<A>,
    gateway: Option<A>,
    needs_gateway: bool,
) -> Option<InboundRoute> {
    let next_hop = next_hop?.into();
    let gateway = if needs_gateway {
        Some(gateway?.into())
    } else {
        None
    };
    Some(InboundRoute { next_hop, gateway })
}

fn router_id(given: Option<RouterId>, gateways: &ByFamily) -> Result<RouterId, ConfigError> {
    match (given, gateways.ipv4) {
        (Some(RouterId(Ipv4Addr::UNSPECIFIED)), _) => Err(ConfigError(
            "--router-id 0.0.0.0 is not allowed: give an id that no other BGP speaker has, such as \
             the IPv4 address of this pod"
                .to_owned(),
        )),
        (Some(router_id), _) => Ok(router_id),
        (None, Some(gateway)) => Ok(RouterId(gateway)),
        (None, None) => Err(ConfigError(
            "--router-id is missing, and --gateway has no IPv4 address as its default: give an id \
             that no other BGP speaker has, such as --router-id 10.244.1.7"
                .to_owned(),
        )),
    }
}

fn allowed_prefixes(values: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let parse = |value: &String| {
        let prefix = parse_prefix(value)
            .map_err(|problem| ConfigError(format!("--allowed-prefixes: {problem}")))?;
        if prefix.prefix_len() == 0 {
            return Err(ConfigError(format!(
                "--allowed-prefixes {prefix} contains every address: give only the service ranges, \
                 such as 10.1.1.0/24"
            )));
        }
        if let Some(reserved) = overlapping_reserved_range(&prefix) {
            return Err(ConfigError(format!(
                "--allowed-prefixes {prefix} overlaps {reserved}, in which no address belongs to a \
                 single host: give only the service ranges, such as 10.1.1.0/24"
            )));
        }
        Ok(prefix)
    };
    values.iter().map(parse).collect()
}

fn peers(args: &Args) -> Result<Configuration, ConfigError> {
    let hold_time_seconds = hold_time_seconds(&args.hold_time)?;
    for (index, flag) in args.peers.iter().enumerate() {
        if args.peers[..index]
            .iter()
            .any(|earlier| earlier.address == flag.address)
        {
            return Err(ConfigError(format!(
                "--peer: {} is given twice; each address may be listed once, a different name= does \
                 not make a second peer",
                flag.address
            )));
        }
    }
    let shared_key = md5_key("--md5-key-file", args.md5_key_file.as_deref())?;
    let peer = |flag: &PeerFlag| {
        let own_key = md5_key("--peer: md5-key-file", flag.md5_key_file.as_deref())?;
        let session = SessionConfig {
            hold_time_seconds,
            connect_retry_maximum: CONNECT_RETRY_MAXIMUM,
            // The announcer only announces paths. The default import policy rejects all paths of
            // its peers.
            import: ImportPolicy::default(),
            export: ExportPolicy::send_all(),
            md5_key: own_key.or_else(|| shared_key.clone()),
            ..SessionConfig::new(Some(flag.asn.unwrap_or(args.asn)))
        };
        let mut peer = PeerConfig::new(flag.address, session);
        peer.local_address = flag.source;
        peer.passive = false;
        if let Some(name) = &flag.name {
            peer.name.clone_from(name);
        }
        Ok(peer)
    };
    Ok(Configuration {
        peers: args.peers.iter().map(peer).collect::<Result<_, _>>()?,
        groups: Vec::new(),
    })
}

fn md5_key(flag: &str, file: Option<&Path>) -> Result<Option<Md5Key>, ConfigError> {
    let key = file.map(Md5Key::read).transpose();
    key.map_err(|problem| ConfigError(format!("{flag}: {}", error_chain(&problem))))
}

/// Returns the hold token. Rejects a node-router that is not reached over a unix socket, because
/// the token must not leave the node.
fn hold_token(
    file: Option<&Path>,
    node_router: Option<&GrpcTarget>,
) -> Result<Option<HoldToken>, ConfigError> {
    let Some(file) = file else {
        return Ok(None);
    };
    match node_router {
        Some(GrpcTarget::Unix(_)) => {}
        Some(GrpcTarget::Tcp(_)) => {
            return Err(ConfigError(
                "--hold-token-file: a token is sent only over a unix socket, because http:// shows the \
                 token to the network; give --node-router unix:PATH, or omit --hold-token-file"
                    .to_owned(),
            ));
        }
        None => {
            return Err(ConfigError(
                "--hold-token-file has no effect with --node-router none; omit one of these flags"
                    .to_owned(),
            ));
        }
    }
    let token = HoldToken::new(file);
    match token.read() {
        Ok(_) => Ok(Some(token)),
        Err(problem) => Err(ConfigError(format!(
            "--hold-token-file: {}",
            error_chain(&problem)
        ))),
    }
}

fn hold_time_seconds(text: &str) -> Result<u16, ConfigError> {
    let hold_time = parse_duration(text).ok();
    hold_time
        .filter(|hold_time| hold_time.subsec_nanos() == 0)
        .and_then(|hold_time| u16::try_from(hold_time.as_secs()).ok())
        .filter(|seconds| !matches!(seconds, 1 | 2))
        .ok_or_else(|| {
            ConfigError(format!(
                "--hold-time `{text}` is not allowed: give whole seconds from 3s to 65535s, or 0 for \
                 no hold time; BGP allows no hold time below 3s"
            ))
        })
}

#[cfg(test)]
mod tests;
