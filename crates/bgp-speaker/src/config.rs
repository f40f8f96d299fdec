//! Configuration of a speaker and its peers.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bgp_packet::{Asn, ClusterId, RouterId};
use bgp_rib::{ExportPolicy, ImportPolicy};
use bgp_session::{InvalidSettings, OfferedFamily, SessionSettings};
use ipnet::IpNet;

use crate::md5_key::Md5Key;

/// The settings that cannot change while the speaker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    pub local_asn: Asn,
    /// BGP identifier of this speaker.
    pub router_id: RouterId,
    /// Cluster id of this speaker as a route reflector (RFC 4456), usually equal to the router id.
    pub cluster_id: ClusterId,
    /// Addresses on which the speaker accepts connections. Empty: the speaker accepts no
    /// connections.
    pub listen: Vec<SocketAddr>,
}

/// All peers and peer groups of a speaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub peers: Vec<PeerConfig>,
    pub groups: Vec<GroupConfig>,
}

/// A configured peer with a fixed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Unique among all peers.
    pub name: String,
    /// Address and port on which the peer listens. The peer can connect from any port of the
    /// address.
    pub address: SocketAddr,
    /// Local address of connections to the peer. `None`: the kernel chooses the address.
    pub local_address: Option<IpAddr>,
    /// Whether the speaker dials the peer.
    pub active: bool,
    /// Whether the speaker accepts connections from the peer.
    pub passive: bool,
    /// Name of the peer group, for lists and logs. `None`: the peer belongs to no group.
    pub group: Option<String>,
    pub session: SessionConfig,
}

/// A group of dynamic peers: the speaker adds a peer for a connection from a prefix of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Unique among all groups.
    pub name: String,
    /// Prefixes from which the peers of the group connect.
    pub prefixes: Vec<IpNet>,
    /// Largest number of peers that the group has at one time. At this number, the speaker refuses
    /// a connection that would add a peer, unless a peer of the same address has sent no OPEN
    /// message: the new peer then replaces this peer.
    pub maximum_peers: usize,
    /// Largest number of peers that one address has at one time. At this number, the speaker
    /// refuses a further connection from the address, unless a peer of the address has sent no OPEN
    /// message: the new peer then replaces this peer.
    pub maximum_peers_per_address: usize,
    pub session: SessionConfig,
}

/// The session settings of a peer, or of all peers of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// AS that the peer must have. `None`: any AS.
    pub peer_asn: Option<Asn>,
    /// Whether a peer in the AS of the speaker is a client of this route reflector (RFC 4456). Has
    /// no effect on a peer in another AS.
    pub is_client: bool,
    /// Hold time that the speaker offers, in seconds: 0 (no hold timer), or at least 3.
    pub hold_time_seconds: u16,
    /// Shortest hold time that the speaker accepts in the OPEN message of the peer, in seconds. 0:
    /// every hold time that RFC 4271 allows, including 0 (no hold timer).
    pub minimum_hold_time_seconds: u16,
    /// Address families that the speaker offers: at least one family, and each family at most once.
    pub families: Vec<OfferedFamily>,
    /// Time after which an attempt to connect fails if the peer does not answer.
    pub connect_timeout: Duration,
    /// Pause after the first failed attempt to connect. The pause doubles with each further
    /// failure, up to `connect_retry_maximum`. A random part of up to a quarter shortens each
    /// pause.
    pub connect_retry_minimum: Duration,
    /// Longest pause between two attempts to connect.
    pub connect_retry_maximum: Duration,
    /// Policy for paths from the peer.
    pub import: ImportPolicy,
    /// Policy for paths to the peer.
    pub export: ExportPolicy,
    /// Time for which the speaker refuses connections of a peer after this peer exceeded its
    /// maximum of paths (`maximum_paths` of `import`, with `at_maximum` set to `Restart`).
    pub maximum_paths_pause: Duration,
    /// TCP MD5 key that signs all segments between the speaker and the peer (RFC 2385). `None`: the
    /// segments are not signed.
    pub md5_key: Option<Md5Key>,
}

/// A reason for which a speaker rejects a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfiguration {
    #[error("peer name `{0}` is used twice")]
    PeerNameTwice(String),
    #[error("group name `{0}` is used twice")]
    GroupNameTwice(String),
    /// Two passive peers have one address, so that the peer of an accepted connection is ambiguous.
    #[error("peers `{first}` and `{second}` have the same address {address}")]
    AddressTwice {
        first: String,
        second: String,
        address: IpAddr,
    },
    /// The speaker would neither dial the peer nor accept its connections, so the session of this
    /// peer could never be established.
    #[error("peer `{0}` neither connects nor accepts: set active, passive or both")]
    NeitherActiveNorPassive(String),
    #[error("peer `{name}`: local address {local} is not of the family of {remote}")]
    LocalAddressFamily {
        name: String,
        local: IpAddr,
        remote: IpAddr,
    },
    /// The kernel drops unsigned segments from every address in a prefix that has a key, so a peer
    /// without a key could not connect.
    #[error(
        "peer or group `{name}` has no TCP MD5 key, but {inside} lies within {prefix} of group \
         `{group}`, which requires a key"
    )]
    KeyMissing {
        /// Name of the peer or group without a key.
        name: String,
        /// Address of the peer without a key, or prefix of the group without a key.
        inside: IpNet,
        /// Prefix of the group that requires a key.
        prefix: IpNet,
        group: String,
    },
    #[error("peer or group `{name}`: {problem}")]
    Settings {
        /// Name of the peer or group.
        name: String,
        problem: InvalidSettings,
    },
}

impl SessionConfig {
    /// Returns the default settings for a peer whose AS must be `peer_asn`, or can be any AS if
    /// `peer_asn` is `None`: hold time 90 s, IPv4 and IPv6 unicast, and policies that accept no
    /// path and send no path.
    pub fn new(peer_asn: Option<Asn>) -> Self {
        // The local AS and the router id in `settings` are placeholders. The code below does not
        // copy them.
        let settings = SessionSettings::new(Asn(1), RouterId([0, 0, 0, 1].into()), peer_asn);
        Self {
            peer_asn,
            is_client: false,
            hold_time_seconds: settings.hold_time_seconds,
            minimum_hold_time_seconds: settings.minimum_hold_time_seconds,
            families: settings.families,
            connect_timeout: settings.connect_timeout,
            connect_retry_minimum: settings.connect_retry_minimum,
            connect_retry_maximum: settings.connect_retry_maximum,
            import: ImportPolicy::default(),
            export: ExportPolicy::default(),
            maximum_paths_pause: Duration::from_secs(60),
            md5_key: None,
        }
    }

    pub(crate) fn settings(&self, speaker: &SpeakerConfig, active: bool) -> SessionSettings {
        SessionSettings {
            active,
            hold_time_seconds: self.hold_time_seconds,
            minimum_hold_time_seconds: self.minimum_hold_time_seconds,
            families: self.families.clone(),
            connect_timeout: self.connect_timeout,
            connect_retry_minimum: self.connect_retry_minimum,
            connect_retry_maximum: self.connect_retry_maximum,
            ..SessionSettings::new(speaker.local_asn, speaker.router_id, self.peer_asn)
        }
    }
}

impl PeerConfig {
    /// Returns a peer that the speaker dials and whose connections the speaker accepts. The name of
    /// the peer is its IP address.
    pub fn new(address: SocketAddr, session: SessionConfig) -> Self {
        Self {
            name: address.ip().to_string(),
            address,
            local_address: None,
            active: true,
            passive: true,
            group: None,
            session,
        }
    }
}

impl GroupConfig {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    /// Returns the configuration of a dynamic peer that connects from `address`.
    pub(crate) fn peer(&self, address: SocketAddr) -> PeerConfig {
        PeerConfig {
            active: false,
            group: Some(self.name.clone()),
            ..PeerConfig::new(address, self.session.clone())
        }
    }
}

impl Configuration {
    /// Checks that the speaker can serve all peers and groups together.
    ///
    /// # Errors
    /// Returns the first problem, with the name of the peer or group.
    pub fn validate(&self, speaker: &SpeakerConfig) -> Result<(), InvalidConfiguration> {
        let mut names = HashSet::new();
        let mut accepting = HashMap::new();
        for peer in &self.peers {
            let name = || peer.name.clone();
            if !names.insert(&peer.name) {
                return Err(InvalidConfiguration::PeerNameTwice(name()));
            }
            if !peer.active && !peer.passive {
                return Err(InvalidConfiguration::NeitherActiveNorPassive(name()));
            }
            let remote = peer.address.ip();
            if let Some(local) = peer.local_address
                && local.is_ipv4() != remote.is_ipv4()
            {
                return Err(InvalidConfiguration::LocalAddressFamily {
                    name: name(),
                    local,
                    remote,
                });
            }
            if peer.passive
                && let Some(first) = accepting.insert(remote, &peer.name)
            {
                return Err(InvalidConfiguration::AddressTwice {
                    first: first.clone(),
                    second: name(),
                    address: remote,
                });
            }
            validate_session(speaker, &peer.session, &peer.name)?;
        }
        let mut names = HashSet::new();
        for group in &self.groups {
            if !names.insert(&group.name) {
                return Err(InvalidConfiguration::GroupNameTwice(group.name.clone()));
            }
            validate_session(speaker, &group.session, &group.name)?;
        }
        self.validate_keys()
    }

    fn validate_keys(&self) -> Result<(), InvalidConfiguration> {
        let peers = self.peers.iter().filter(|peer| peer.passive);
        let peers = peers.map(|peer| (&peer.name, &peer.session, IpNet::from(peer.address.ip())));
        let groups = self.groups.iter().flat_map(|group| {
            let prefixes = group.prefixes.iter();
            prefixes.map(|prefix| (&group.name, &group.session, *prefix))
        });
        let accepted: Vec<_> = peers.chain(groups.clone()).collect();
        for (group, _, prefix) in groups.filter(|(_, session, _)| session.md5_key.is_some()) {
            let without = accepted
                .iter()
                .find(|(_, session, inside)| session.md5_key.is_none() && prefix.contains(inside));
            if let Some((name, _, inside)) = without {
                return Err(InvalidConfiguration::KeyMissing {
                    name: (*name).clone(),
                    inside: *inside,
                    prefix,
                    group: group.clone(),
                });
            }
        }
        Ok(())
    }
}

fn validate_session(
    speaker: &SpeakerConfig,
    session: &SessionConfig,
    name: &str,
) -> Result<(), InvalidConfiguration> {
    let settings = session.settings(speaker, true);
    settings
        .validate()
        .map_err(|problem| InvalidConfiguration::Settings {
            name: name.to_owned(),
            problem,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> PeerConfig {
        PeerConfig::new(
            address.parse().unwrap(),
            SessionConfig::new(Some(Asn(64512))),
        )
    }

    #[track_caller]
    fn check(peers: Vec<PeerConfig>, expected: &str) {
        let speaker = SpeakerConfig {
            local_asn: Asn(64512),
            router_id: RouterId([10, 0, 0, 1].into()),
            cluster_id: ClusterId([10, 0, 0, 1].into()),
            listen: Vec::new(),
        };
        let configuration = Configuration {
            peers,
            groups: Vec::new(),
        };
        let text = match configuration.validate(&speaker) {
            Ok(()) => "usable".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn two_peers_with_equal_names_or_addresses_are_rejected() {
        check(vec![peer("10.0.0.2:179"), peer("10.0.0.3:179")], "usable");
        check(
            vec![peer("10.0.0.2:179"), peer("10.0.0.2:179")],
            "peer name `10.0.0.2` is used twice",
        );
        let named = |name: &str, peer| PeerConfig {
            name: name.to_owned(),
            ..peer
        };
        check(
            vec![
                named("a", peer("10.0.0.2:179")),
                named("b", peer("10.0.0.2:1179")),
            ],
            "peers `a` and `b` have the same address 10.0.0.2",
        );
        let active = |peer| PeerConfig {
            passive: false,
            ..peer
        };
        check(
            vec![
                active(named("a", peer("10.0.0.2:179"))),
                active(named("b", peer("10.0.0.2:1179"))),
            ],
            "usable",
        );
    }

    #[test]
    fn a_peer_whose_session_could_never_be_established_is_rejected() {
        check(
            vec![PeerConfig {
                active: false,
                passive: false,
                ..peer("10.0.0.2:179")
            }],
            "peer `10.0.0.2` neither connects nor accepts: set active, passive or both",
        );
        check(
            vec![PeerConfig {
                local_address: Some("fd00::1".parse().unwrap()),
                ..peer("10.0.0.2:179")
            }],
            "peer `10.0.0.2`: local address fd00::1 is not of the family of 10.0.0.2",
        );
        let mut short_hold_time = peer("10.0.0.2:179");
        short_hold_time.session.hold_time_seconds = 2;
        check(
            vec![short_hold_time],
            "peer or group `10.0.0.2`: hold time 2 s: must be 0 or at least 3 s",
        );
    }

    #[test]
    fn a_peer_or_group_without_a_key_within_a_prefix_with_a_key_is_rejected() {
        let key = Md5Key::parse(b"secret").unwrap();
        let group = |name: &str, prefix: &str, key: Option<&Md5Key>| GroupConfig {
            name: name.to_owned(),
            prefixes: vec![prefix.parse().unwrap()],
            maximum_peers: 1,
            maximum_peers_per_address: 1,
            session: SessionConfig {
                md5_key: key.cloned(),
                ..SessionConfig::new(None)
            },
        };
        let check = |peers: Vec<PeerConfig>, groups: Vec<GroupConfig>, expected: &str| {
            let keys = Configuration { peers, groups }.validate_keys();
            let text = keys.map_or_else(|error| error.to_string(), |()| "usable".to_owned());
            assert_eq!(text, expected);
        };
        let keyed = group("pods", "10.0.0.0/16", Some(&key));
        let without = peer("10.0.0.2:179");
        check(vec![peer("10.1.0.2:179")], vec![keyed.clone()], "usable");
        check(
            vec![without.clone()],
            vec![keyed.clone()],
            "peer or group `10.0.0.2` has no TCP MD5 key, but 10.0.0.2/32 lies within 10.0.0.0/16 \
             of group `pods`, which requires a key",
        );
        let mut with = without.clone();
        with.session.md5_key = Some(key);
        check(vec![with], vec![keyed.clone()], "usable");
        let active = PeerConfig {
            passive: false,
            ..without
        };
        check(vec![active], vec![keyed.clone()], "usable");
        check(
            vec![],
            vec![group("some", "10.0.1.0/24", None), keyed.clone()],
            "peer or group `some` has no TCP MD5 key, but 10.0.1.0/24 lies within 10.0.0.0/16 of \
             group `pods`, which requires a key",
        );
        check(
            vec![],
            vec![group("all", "0.0.0.0/0", None), keyed],
            "usable",
        );
    }
}
