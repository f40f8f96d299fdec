//! Who this speaker is and with whom it speaks.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bgp_packet::{Asn, ClusterId, RouterId};
use bgp_rib::{ExportPolicy, ImportPolicy};
use bgp_session::{FamilySettings, InvalidSettings, Settings};
use ipnet::IpNet;

use crate::md5_key::Md5Key;

/// What stays for the life of a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Its AS.
    pub local_asn: Asn,
    /// Its BGP identifier.
    pub router_id: RouterId,
    /// RFC 4456; usually the router id.
    pub cluster_id: ClusterId,
    /// Where connections are accepted; empty: nowhere.
    pub listen: Vec<SocketAddr>,
}

/// The peers, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Peers with a known address.
    pub peers: Vec<PeerConfig>,
    /// Peers that are known by the prefix that they come from.
    pub groups: Vec<GroupConfig>,
}

/// A peer with a known address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Unique.
    pub name: String,
    /// Where it listens. It may connect from any port of the address.
    pub address: SocketAddr,
    /// Source of connections to it; `None`: the kernel's choice.
    pub local_address: Option<IpAddr>,
    /// Whether this side connects.
    pub active: bool,
    /// Whether connections from the peer are accepted.
    pub passive: bool,
    /// Group that is shown with it.
    pub group: Option<String>,
    /// The rest.
    pub session: SessionConfig,
}

/// Peers that connect from within a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Unique.
    pub name: String,
    /// Where its peers come from.
    pub prefixes: Vec<IpNet>,
    /// Most peers at a time; more are refused.
    pub maximum_peers: usize,
    /// Most peers of one address at a time. The speaker refuses further connections from the
    /// address.
    pub maximum_peers_per_address: usize,
    /// The rest.
    pub session: SessionConfig,
}

/// What single peers and groups have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// AS that the peer must have; `None`: any.
    pub peer_asn: Option<Asn>,
    /// Of an internal peer: whether it is a client of this reflector (RFC 4456).
    pub is_client: bool,
    /// Offered hold time: 0 (none), or at least 3.
    pub hold_time_seconds: u16,
    /// Least hold time that the peer must offer, in seconds. 0: any, also none.
    pub minimum_hold_time_seconds: u16,
    /// What is offered.
    pub families: Vec<FamilySettings>,
    /// An attempt to connect is given up after this time.
    pub connect_timeout: Duration,
    /// Pause before the second attempt to connect; it doubles with each failure.
    pub connect_retry_minimum: Duration,
    /// Longest pause between two attempts to connect.
    pub connect_retry_maximum: Duration,
    /// What is accepted from the peer.
    pub import: ImportPolicy,
    /// What the peer is sent.
    pub export: ExportPolicy,
    /// How long a peer is kept out that sent too many paths.
    pub maximum_paths_pause: Duration,
    /// What all segments are signed with (RFC 2385); `None`: they are not.
    pub md5_key: Option<Md5Key>,
}

/// Peers that cannot be served together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfiguration {
    /// Names tell peers apart.
    #[error("peer name `{0}` is used twice")]
    PeerNameTwice(String),
    /// Names tell groups apart.
    #[error("group name `{0}` is used twice")]
    GroupNameTwice(String),
    /// A connection would belong to both.
    #[error("peers `{first}` and `{second}` have the same address {address}")]
    AddressTwice {
        /// The one.
        first: String,
        /// The other.
        second: String,
        /// What they share.
        address: IpAddr,
    },
    /// It could never come up.
    #[error("peer `{0}` neither connects nor accepts: set active, passive or both")]
    NeitherActiveNorPassive(String),
    /// Source and destination of a connection are of one family.
    #[error("peer `{name}`: local address {local} is not of the family of {remote}")]
    LocalAddressFamily {
        /// The peer.
        name: String,
        /// Source.
        local: IpAddr,
        /// Destination.
        remote: IpAddr,
    },
    /// The kernel makes no exception within a prefix that it has a key for.
    #[error(
        "peer or group `{name}` has no key of TCP MD5, but {prefix} of group `{group}` has one, \
         and {inside} lies within it"
    )]
    KeyMissing {
        /// The peer or group.
        name: String,
        /// Its address or prefix.
        inside: IpNet,
        /// Where a key is demanded.
        prefix: IpNet,
        /// By whom.
        group: String,
    },
    /// No session can have these.
    #[error("peer or group `{name}`: {problem}")]
    Settings {
        /// The peer or group.
        name: String,
        /// What is wrong.
        problem: InvalidSettings,
    },
}

impl SessionConfig {
    /// Usual values for a peer of this AS: hold time 90 s, both families, nothing accepted and
    /// nothing sent.
    pub fn new(peer_asn: Option<Asn>) -> Self {
        // The AS and the router id of the template are replaced when a session is made.
        let settings = Settings::new(Asn(1), RouterId([0, 0, 0, 1].into()), peer_asn);
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

    pub(crate) fn settings(&self, speaker: &SpeakerConfig, active: bool) -> Settings {
        Settings {
            active,
            hold_time_seconds: self.hold_time_seconds,
            minimum_hold_time_seconds: self.minimum_hold_time_seconds,
            families: self.families.clone(),
            connect_timeout: self.connect_timeout,
            connect_retry_minimum: self.connect_retry_minimum,
            connect_retry_maximum: self.connect_retry_maximum,
            ..Settings::new(speaker.local_asn, speaker.router_id, self.peer_asn)
        }
    }
}

impl PeerConfig {
    /// A peer that this side connects to and accepts connections from, named by its address.
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

    /// The peer of this group that comes from the address.
    pub(crate) fn peer(&self, address: SocketAddr) -> PeerConfig {
        PeerConfig {
            active: false,
            group: Some(self.name.clone()),
            ..PeerConfig::new(address, self.session.clone())
        }
    }
}

impl Configuration {
    /// # Errors
    /// Names the peer or group, what is wrong with it, and what is allowed.
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
    fn peers_that_cannot_be_served_together_are_named() {
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
    fn peers_that_could_never_come_up_are_named() {
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
        let mut impatient = peer("10.0.0.2:179");
        impatient.session.hold_time_seconds = 2;
        check(
            vec![impatient],
            "peer or group `10.0.0.2`: hold time 2 s: must be 0 or at least 3 s",
        );
    }

    #[test]
    fn who_lacks_a_key_within_a_prefix_that_has_one_is_named() {
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
            "peer or group `10.0.0.2` has no key of TCP MD5, but 10.0.0.0/16 of group `pods` has \
             one, and 10.0.0.2/32 lies within it",
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
            "peer or group `some` has no key of TCP MD5, but 10.0.0.0/16 of group `pods` has one, \
             and 10.0.1.0/24 lies within it",
        );
        check(
            vec![],
            vec![group("all", "0.0.0.0/0", None), keyed],
            "usable",
        );
    }
}
