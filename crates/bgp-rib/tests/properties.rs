//! Property test of the tables with random sequences of events.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use bgp_packet::{
    Announced, AsPath, AsPathSegment, Asn, ClusterId, Community, Family, IpNet, Nlri,
    PathAttributes, PathId, RouterId, Update,
};
use bgp_rib::{
    ExportPolicy, ImportPolicy, LocalAddresses, NotBestReason, PathKey, PathSource, PeerId,
    PeerKind, PeerSettings, PrefixFilter, PrefixRule, Rib, RibConfig, RibFamily,
};
use proptest::prelude::*;

const LOCAL_ASN: Asn = Asn(64512);
const PEERS: u32 = 6;

#[derive(Clone, Debug)]
enum RibEvent {
    PeerUp(u32),
    PeerDown(u32),
    Announce {
        peer: u32,
        prefix: u8,
        path_id: Option<u32>,
        attributes: u8,
    },
    Withdraw {
        peer: u32,
        prefix: u8,
        path_id: Option<u32>,
    },
    Originate {
        prefix: u8,
        attributes: u8,
    },
    WithdrawOriginated {
        prefix: u8,
    },
    Refresh {
        peer: u32,
        family: Family,
    },
    SetPolicies {
        peer: u32,
        variant: u8,
    },
    Read {
        peer: u32,
        limit: usize,
    },
}

fn step() -> impl Strategy<Value = RibEvent> {
    let peer = 0..PEERS;
    let prefix = 0..6_u8;
    let path_id = prop_oneof![Just(None), (0..3_u32).prop_map(Some)];
    let family = prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)];
    prop_oneof![
        2 => peer.clone().prop_map(RibEvent::PeerUp),
        1 => peer.clone().prop_map(RibEvent::PeerDown),
        12 => (peer.clone(), prefix.clone(), path_id.clone(), any::<u8>()).prop_map(
            |(peer, prefix, path_id, attributes)| {
                RibEvent::Announce { peer, prefix, path_id, attributes }
            }
        ),
        4 => (peer.clone(), prefix.clone(), path_id)
            .prop_map(|(peer, prefix, path_id)| RibEvent::Withdraw { peer, prefix, path_id }),
        1 => (prefix.clone(), any::<u8>())
            .prop_map(|(prefix, attributes)| RibEvent::Originate { prefix, attributes }),
        1 => prefix.prop_map(|prefix| RibEvent::WithdrawOriginated { prefix }),
        1 => (peer.clone(), family).prop_map(|(peer, family)| RibEvent::Refresh { peer, family }),
        2 => (peer.clone(), 0..4_u8)
            .prop_map(|(peer, variant)| RibEvent::SetPolicies { peer, variant }),
        6 => (peer, 1..8_usize).prop_map(|(peer, limit)| RibEvent::Read { peer, limit }),
    ]
}

fn prefix(number: u8) -> IpNet {
    if number.is_multiple_of(2) {
        format!("10.1.{number}.0/24").parse().unwrap()
    } else {
        format!("fd00:{number}::/32").parse().unwrap()
    }
}

/// Returns attributes that depend on the bits of `seed`. Each attribute has few different values,
/// so that paths are often equal up to any step of the decision process.
fn attributes(seed: u8, prefix: &IpNet, first_asn: Option<Asn>) -> PathAttributes {
    let next_hop = match prefix {
        IpNet::V4(_) => [10, 7, 0, seed & 1].into(),
        IpNet::V6(_) => format!("fd07::{}", seed & 1).parse().unwrap(),
    };
    let mut attributes = PathAttributes::originate(next_hop);
    let asns: Vec<_> = first_asn
        .into_iter()
        .chain((seed & 2 != 0).then_some(Asn(if seed & 4 != 0 { 1 } else { 2 })))
        .collect();
    if !asns.is_empty() {
        attributes.as_path = AsPath {
            segments: vec![AsPathSegment::Sequence(asns)],
        };
    }
    attributes.multi_exit_disc = (seed & 8 != 0).then_some(u32::from(seed & 4));
    attributes.originator_id = (seed & 16 != 0).then_some(RouterId([10, 0, 0, 3].into()));
    if seed & 32 != 0 {
        attributes.cluster_list = vec![ClusterId([10, 9, 9, 9 - (seed & 1)].into())];
    }
    if seed & 192 == 192 {
        attributes.communities = vec![Community::NO_EXPORT];
    }
    if seed & 192 == 64 {
        attributes.local_pref = Some(90);
    }
    attributes
}

fn config() -> RibConfig {
    let own = Ipv4Addr::new(10, 9, 9, 9);
    RibConfig {
        local_asn: LOCAL_ASN,
        router_id: RouterId(own),
        cluster_id: ClusterId(own),
    }
}

fn settings(peer: u32) -> PeerSettings {
    let last = u8::try_from(peer + 1).unwrap();
    let kind = match peer {
        0..3 => PeerKind::Client,
        3 => PeerKind::NonClient,
        _ => PeerKind::External,
    };
    let mut import = ImportPolicy::accept_all();
    if peer == 1 {
        import.prefixes = PrefixFilter::Only(vec![PrefixRule::or_longer(prefix(0))]);
    }
    PeerSettings {
        kind,
        peer_asn: first_asn(peer).unwrap_or(LOCAL_ASN),
        peer_router_id: RouterId([10, 0, 0, last].into()),
        peer_address: [10, 0, 0, last].into(),
        local_addresses: LocalAddresses {
            ipv4: Some([10, 9, 9, 9].into()),
            ipv6: Some("fd09::9".parse().unwrap()),
        },
        families: [Family::Ipv4Unicast, Family::Ipv6Unicast]
            .map(|family| RibFamily {
                family,
                add_path_send: peer.is_multiple_of(2),
            })
            .to_vec(),
        import,
        export: ExportPolicy {
            next_hop_self: peer == 4,
            ..ExportPolicy::send_all()
        },
    }
}

/// Returns the settings of a peer with one of four combinations of policies and peer kind, which
/// `variant` selects.
fn changed_settings(peer: u32, variant: u8) -> PeerSettings {
    let mut settings = settings(peer);
    match variant {
        0 => {}
        1 => {
            settings.import.prefixes = PrefixFilter::Only(vec![PrefixRule::or_longer(prefix(2))]);
            settings.export = ExportPolicy::default();
        }
        2 => {
            settings.import.next_hops.prefixes = vec!["10.7.0.1/32".parse().unwrap()];
            settings.export.next_hop_self = !settings.export.next_hop_self;
        }
        _ => {
            settings.import.prefixes = PrefixFilter::All;
            settings.export.prefixes = PrefixFilter::Only(vec![PrefixRule::or_longer(prefix(4))]);
            settings.kind = match settings.kind {
                PeerKind::External => PeerKind::External,
                PeerKind::Client => PeerKind::NonClient,
                PeerKind::NonClient => PeerKind::Client,
            };
        }
    }
    settings
}

fn first_asn(peer: u32) -> Option<Asn> {
    (peer > 3).then_some(Asn(65000 + peer))
}

/// The paths that a peer stores from the received UPDATE messages.
type Received = BTreeMap<(IpNet, Option<PathId>), PathAttributes>;

#[derive(Default)]
struct RibModel {
    peers: BTreeMap<u32, Received>,
    /// The combination of policies of each peer, for [`changed_settings`].
    variants: BTreeMap<u32, u8>,
    /// The last announcement of each path by its source, accepted or not.
    last_announcements: BTreeMap<PathKey, PathAttributes>,
    paths_from_changes: BTreeMap<PathKey, (PathAttributes, Option<NotBestReason>)>,
}

impl RibModel {
    fn apply(&mut self, rib: &mut Rib, step: RibEvent) {
        match step {
            RibEvent::PeerUp(peer) => {
                self.forget(peer);
                self.peers.insert(peer, Received::new());
                self.variants.insert(peer, 0);
                rib.add_peer(PeerId(peer), settings(peer));
            }
            RibEvent::PeerDown(peer) => {
                self.forget(peer);
                rib.remove_peer(PeerId(peer));
            }
            RibEvent::Announce {
                peer,
                prefix: number,
                path_id,
                attributes: seed,
            } => {
                let prefix = prefix(number);
                let attributes = attributes(seed, &prefix, first_asn(peer));
                let path_id = path_id.map(PathId);
                if self.peers.contains_key(&peer) {
                    let key = PathKey {
                        prefix,
                        source: PathSource::Peer(PeerId(peer)),
                        path_id,
                    };
                    self.last_announcements.insert(key, attributes.clone());
                }
                rib.receive(PeerId(peer), announcement(prefix, path_id, attributes))
                    .unwrap();
            }
            RibEvent::Withdraw {
                peer,
                prefix: number,
                path_id,
            } => {
                let nlri = Nlri {
                    prefix: prefix(number),
                    path_id: path_id.map(PathId),
                };
                self.last_announcements.remove(&PathKey {
                    prefix: nlri.prefix,
                    source: PathSource::Peer(PeerId(peer)),
                    path_id: nlri.path_id,
                });
                let update = Update {
                    withdrawn: vec![nlri],
                    ..Update::default()
                };
                rib.receive(PeerId(peer), update).unwrap();
            }
            RibEvent::Originate {
                prefix: number,
                attributes: seed,
            } => {
                let prefix = prefix(number);
                let attributes = attributes(seed, &prefix, None);
                let key = PathKey {
                    prefix,
                    source: PathSource::Own,
                    path_id: None,
                };
                self.last_announcements.insert(key, attributes.clone());
                rib.originate(prefix, Arc::new(attributes)).unwrap();
            }
            RibEvent::WithdrawOriginated { prefix: number } => {
                let prefix = prefix(number);
                self.last_announcements.remove(&PathKey {
                    prefix,
                    source: PathSource::Own,
                    path_id: None,
                });
                rib.withdraw_originated(prefix);
            }
            RibEvent::Refresh { peer, family } => rib.refresh(PeerId(peer), family),
            RibEvent::SetPolicies { peer, variant } => self.set_policies(rib, peer, variant),
            RibEvent::Read { peer, limit } => self.read(rib, peer, limit),
        }
    }

    /// Changes the policies of a peer. The peer then announces all of its paths of the families
    /// that [`Rib::set_policies`] returns.
    fn set_policies(&mut self, rib: &mut Rib, peer: u32, variant: u8) {
        let PeerSettings {
            kind,
            import,
            export,
            ..
        } = changed_settings(peer, variant);
        let families = rib.set_policies(PeerId(peer), kind, import, export);
        if !self.peers.contains_key(&peer) {
            assert_eq!(families, []);
            return;
        }
        self.variants.insert(peer, variant);
        for (key, attributes) in &self.last_announcements {
            let is_asked_for = families.contains(&Family::of(key.prefix));
            if key.source == PathSource::Peer(PeerId(peer)) && is_asked_for {
                let update = announcement(key.prefix, key.path_id, attributes.clone());
                rib.receive(PeerId(peer), update).unwrap();
            }
        }
    }

    fn forget(&mut self, peer: u32) {
        self.peers.remove(&peer);
        self.last_announcements
            .retain(|key, _| key.source != PathSource::Peer(PeerId(peer)));
    }

    fn read(&mut self, rib: &mut Rib, peer: u32, limit: usize) {
        let updates = rib.take_pending(PeerId(peer), limit);
        let Some(received) = self.peers.get_mut(&peer) else {
            assert_eq!(updates, []);
            return;
        };
        let count = |update: &Update| {
            let announced: usize = update.announced.iter().map(|group| group.nlri.len()).sum();
            update.withdrawn.len() + announced
        };
        assert!(updates.iter().map(count).sum::<usize>() <= limit);
        for update in updates {
            for nlri in update.withdrawn {
                let held = received.remove(&(nlri.prefix, nlri.path_id));
                assert!(
                    held.is_some(),
                    "{nlri:?} was withdrawn without an earlier announcement"
                );
            }
            for group in update.announced {
                for nlri in group.nlri {
                    let attributes = group.attributes.as_ref().clone();
                    received.insert((nlri.prefix, nlri.path_id), attributes);
                }
            }
        }
    }

    fn read_everything(&mut self, rib: &mut Rib) {
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            while rib.has_pending(PeerId(peer)) {
                self.read(rib, peer, 5);
            }
        }
    }

    /// Builds new tables from only the last announcement of each path.
    fn rebuild(&self) -> Rib {
        let mut rib = Rib::new(config());
        for peer in self.peers.keys() {
            let settings = changed_settings(*peer, self.variants[peer]);
            rib.add_peer(PeerId(*peer), settings);
        }
        for (key, attributes) in &self.last_announcements {
            match key.source {
                PathSource::Own => rib
                    .originate(key.prefix, Arc::new(attributes.clone()))
                    .unwrap(),
                PathSource::Peer(id) => {
                    let update = announcement(key.prefix, key.path_id, attributes.clone());
                    rib.receive(id, update).unwrap();
                }
            }
        }
        rib
    }

    fn follow(&mut self, rib: &mut Rib) {
        for key in rib.take_changes() {
            match rib.path(&key) {
                Some(path) => {
                    self.paths_from_changes
                        .insert(key, (path.attributes.as_ref().clone(), path.not_best));
                }
                None => {
                    self.paths_from_changes.remove(&key);
                }
            }
        }
    }
}

fn announcement(prefix: IpNet, path_id: Option<PathId>, attributes: PathAttributes) -> Update {
    let nlri = vec![Nlri { prefix, path_id }];
    let announced = vec![Announced {
        attributes: Arc::new(attributes),
        nlri,
    }];
    Update {
        announced,
        ..Update::default()
    }
}

fn loc_rib(rib: &Rib) -> BTreeMap<PathKey, (PathAttributes, Option<NotBestReason>)> {
    let entry =
        |path: bgp_rib::RibPath<'_>| (path.key, (path.attributes.as_ref().clone(), path.not_best));
    rib.paths().map(entry).collect()
}

fn adj_rib_out(rib: &Rib, peer: u32) -> Received {
    rib.adj_rib_out(PeerId(peer))
        .map(|path| {
            (
                (path.prefix, path.path_id),
                path.attributes.as_ref().clone(),
            )
        })
        .collect()
}

/// Returns the paths without their path ids, because path ids depend on the order of events.
fn without_ids(received: &Received) -> BTreeMap<IpNet, Vec<String>> {
    let mut paths: BTreeMap<IpNet, Vec<String>> = BTreeMap::new();
    for ((prefix, _), attributes) in received {
        paths
            .entry(*prefix)
            .or_default()
            .push(format!("{attributes:?}"));
    }
    paths.values_mut().for_each(|paths| paths.sort_unstable());
    paths
}

fn check_steps(steps: Vec<RibEvent>) {
    let mut rib = Rib::new(config());
    rib.follow_changes(true);
    let mut model = RibModel::default();
    let mut ids: BTreeMap<(u32, PathKey), PathId> = BTreeMap::new();
    for step in steps {
        model.apply(&mut rib, step);
        model.follow(&mut rib);
        for (peer, received) in &model.peers {
            assert_eq!(
                adj_rib_out(&rib, *peer),
                *received,
                "the Adj-RIB-Out of peer {peer} lists the sent paths"
            );
            let in_use: HashSet<_> = received.keys().collect();
            assert_eq!(in_use.len(), received.len());
        }
        check_ids_are_stable(&rib, &mut ids);
    }
    assert_eq!(
        model.paths_from_changes,
        loc_rib(&rib),
        "the collected changes lead to the current paths"
    );

    model.read_everything(&mut rib);
    let mut rebuilt = model.rebuild();
    assert_eq!(loc_rib(&rib), loc_rib(&rebuilt));
    for (peer, received) in &model.peers {
        while rebuilt.has_pending(PeerId(*peer)) {
            rebuilt.take_pending(PeerId(*peer), 100);
        }
        let expected = adj_rib_out(&rebuilt, *peer);
        assert_eq!(without_ids(received), without_ids(&expected), "peer {peer}");
        assert_eq!(rib.counts(PeerId(*peer)).pending, 0);
        let expected: BTreeSet<_> = loc_rib(&rib)
            .into_keys()
            .filter(|key| key.source == PathSource::Peer(PeerId(*peer)))
            .collect();
        let listed: BTreeSet<_> = rib.adj_rib_in(PeerId(*peer)).map(|path| path.key).collect();
        assert_eq!(listed, expected);
        for path in rib.adj_rib_in(PeerId(*peer)) {
            assert_eq!(path.not_best, rib.path(&path.key).unwrap().not_best);
        }
    }

    for peer in 0..PEERS {
        rib.remove_peer(PeerId(peer));
    }
    for number in 0..6 {
        rib.withdraw_originated(prefix(number));
    }
    assert_eq!(rib.prefix_count(), 0, "all entries of the table are freed");
}

/// Checks that each sent path has the path id that it had at the previous call of this function.
/// `ids` has the path ids of the previous call, and is replaced with the current path ids.
fn check_ids_are_stable(rib: &Rib, ids: &mut BTreeMap<(u32, PathKey), PathId>) {
    let mut current = BTreeMap::new();
    for peer in 0..PEERS {
        for sent in rib.adj_rib_out(PeerId(peer)) {
            let (Some(source), Some(path_id)) = (sent.source, sent.path_id) else {
                continue;
            };
            // If a source has several paths of the prefix, they differ only in the path id from the
            // source, and an Adj-RIB-Out does not list this path id. So a sent path is checked only
            // if its source has exactly one path of the prefix.
            let of_source: Vec<_> = rib
                .paths_of(sent.prefix)
                .filter(|path| path.key.source == source)
                .collect();
            if let [path] = of_source.as_slice() {
                current.insert((peer, path.key), path_id);
            }
        }
    }
    for (key, path_id) in &current {
        if let Some(before) = ids.get(key) {
            assert_eq!(before, path_id, "{key:?}");
        }
    }
    *ids = current;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_sequence_of_events_the_tables_depend_only_on_the_last_announcements(steps in prop::collection::vec(step(), 1..80)) {
        check_steps(steps);
    }
}
