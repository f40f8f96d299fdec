//! Random histories of peers that come, announce, withdraw, read and go.

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
    ExportPolicy, FamilySettings, ImportPolicy, LocalAddresses, NotBestReason, PathKey, PeerId,
    PeerKind, PeerSettings, PrefixFilter, PrefixRule, Rib, RibConfig, Source,
};
use proptest::prelude::*;

const LOCAL_ASN: Asn = Asn(64512);
const PEERS: u32 = 6;

#[derive(Clone, Debug)]
enum Step {
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

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..PEERS;
    let prefix = 0..6_u8;
    let path_id = prop_oneof![Just(None), (0..3_u32).prop_map(Some)];
    let family = prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)];
    prop_oneof![
        2 => peer.clone().prop_map(Step::PeerUp),
        1 => peer.clone().prop_map(Step::PeerDown),
        12 => (peer.clone(), prefix.clone(), path_id.clone(), any::<u8>()).prop_map(
            |(peer, prefix, path_id, attributes)| {
                Step::Announce { peer, prefix, path_id, attributes }
            }
        ),
        4 => (peer.clone(), prefix.clone(), path_id)
            .prop_map(|(peer, prefix, path_id)| Step::Withdraw { peer, prefix, path_id }),
        1 => (prefix.clone(), any::<u8>())
            .prop_map(|(prefix, attributes)| Step::Originate { prefix, attributes }),
        1 => prefix.prop_map(|prefix| Step::WithdrawOriginated { prefix }),
        1 => (peer.clone(), family).prop_map(|(peer, family)| Step::Refresh { peer, family }),
        2 => (peer.clone(), 0..4_u8)
            .prop_map(|(peer, variant)| Step::SetPolicies { peer, variant }),
        6 => (peer, 1..8_usize).prop_map(|(peer, limit)| Step::Read { peer, limit }),
    ]
}

fn prefix(number: u8) -> IpNet {
    if number.is_multiple_of(2) {
        format!("10.1.{number}.0/24").parse().unwrap()
    } else {
        format!("fd00:{number}::/32").parse().unwrap()
    }
}

/// Few values of each attribute, so that ties reach every step of the decision process.
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
            .map(|family| FamilySettings {
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

/// The settings with one of four sets of policies, and of roles.
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

/// What a peer holds that does what it is told.
type Received = BTreeMap<(IpNet, Option<PathId>), PathAttributes>;

#[derive(Default)]
struct World {
    peers: BTreeMap<u32, Received>,
    /// Which policies each peer has.
    variants: BTreeMap<u32, u8>,
    /// What each source last said of each path, whether it is accepted or not.
    said: BTreeMap<PathKey, PathAttributes>,
    followed: BTreeMap<PathKey, (PathAttributes, Option<NotBestReason>)>,
}

impl World {
    fn take(&mut self, rib: &mut Rib, step: Step) {
        match step {
            Step::PeerUp(peer) => {
                self.forget(peer);
                self.peers.insert(peer, Received::new());
                self.variants.insert(peer, 0);
                rib.add_peer(PeerId(peer), settings(peer));
            }
            Step::PeerDown(peer) => {
                self.forget(peer);
                rib.remove_peer(PeerId(peer));
            }
            Step::Announce {
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
                        source: Source::Peer(PeerId(peer)),
                        path_id,
                    };
                    self.said.insert(key, attributes.clone());
                }
                rib.receive(PeerId(peer), announcement(prefix, path_id, attributes))
                    .unwrap();
            }
            Step::Withdraw {
                peer,
                prefix: number,
                path_id,
            } => {
                let nlri = Nlri {
                    prefix: prefix(number),
                    path_id: path_id.map(PathId),
                };
                self.said.remove(&PathKey {
                    prefix: nlri.prefix,
                    source: Source::Peer(PeerId(peer)),
                    path_id: nlri.path_id,
                });
                let update = Update {
                    withdrawn: vec![nlri],
                    ..Update::default()
                };
                rib.receive(PeerId(peer), update).unwrap();
            }
            Step::Originate {
                prefix: number,
                attributes: seed,
            } => {
                let prefix = prefix(number);
                let attributes = attributes(seed, &prefix, None);
                let key = PathKey {
                    prefix,
                    source: Source::Own,
                    path_id: None,
                };
                self.said.insert(key, attributes.clone());
                rib.originate(prefix, Arc::new(attributes)).unwrap();
            }
            Step::WithdrawOriginated { prefix: number } => {
                let prefix = prefix(number);
                self.said.remove(&PathKey {
                    prefix,
                    source: Source::Own,
                    path_id: None,
                });
                rib.withdraw_originated(prefix);
            }
            Step::Refresh { peer, family } => rib.refresh(PeerId(peer), family),
            Step::SetPolicies { peer, variant } => self.set_policies(rib, peer, variant),
            Step::Read { peer, limit } => self.read(rib, peer, limit),
        }
    }

    /// A peer that is asked for its routes announces them all again.
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
        for (key, attributes) in &self.said {
            let is_asked_for = families.contains(&Family::of(key.prefix));
            if key.source == Source::Peer(PeerId(peer)) && is_asked_for {
                let update = announcement(key.prefix, key.path_id, attributes.clone());
                rib.receive(PeerId(peer), update).unwrap();
            }
        }
    }

    fn forget(&mut self, peer: u32) {
        self.peers.remove(&peer);
        self.said
            .retain(|key, _| key.source != Source::Peer(PeerId(peer)));
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
                    "{nlri:?} was withdrawn without having been announced"
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

    /// What a rib holds that never saw anything but the last word of each source.
    fn recomputed(&self) -> Rib {
        let mut rib = Rib::new(config());
        for peer in self.peers.keys() {
            let settings = changed_settings(*peer, self.variants[peer]);
            rib.add_peer(PeerId(*peer), settings);
        }
        for (key, attributes) in &self.said {
            match key.source {
                Source::Own => rib
                    .originate(key.prefix, Arc::new(attributes.clone()))
                    .unwrap(),
                Source::Peer(id) => {
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
                    self.followed
                        .insert(key, (path.attributes.as_ref().clone(), path.not_best));
                }
                None => {
                    self.followed.remove(&key);
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

/// Path ids depend on the order of events; which path has which does not matter here.
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

fn check_history(steps: Vec<Step>) {
    let mut rib = Rib::new(config());
    rib.follow_changes(true);
    let mut world = World::default();
    let mut ids: BTreeMap<(u32, PathKey), PathId> = BTreeMap::new();
    for step in steps {
        world.take(&mut rib, step);
        world.follow(&mut rib);
        for (peer, received) in &world.peers {
            assert_eq!(
                adj_rib_out(&rib, *peer),
                *received,
                "what peer {peer} was sent"
            );
            let in_use: HashSet<_> = received.keys().collect();
            assert_eq!(in_use.len(), received.len());
        }
        check_ids_are_stable(&rib, &mut ids);
    }
    assert_eq!(world.followed, loc_rib(&rib), "what the changes told");

    world.read_everything(&mut rib);
    let mut recomputed = world.recomputed();
    assert_eq!(loc_rib(&rib), loc_rib(&recomputed));
    for (peer, received) in &world.peers {
        while recomputed.has_pending(PeerId(*peer)) {
            recomputed.take_pending(PeerId(*peer), 100);
        }
        let expected = adj_rib_out(&recomputed, *peer);
        assert_eq!(without_ids(received), without_ids(&expected), "peer {peer}");
        assert_eq!(rib.counts(PeerId(*peer)).pending, 0);
        let expected: BTreeSet<_> = loc_rib(&rib)
            .into_keys()
            .filter(|key| key.source == Source::Peer(PeerId(*peer)))
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
    assert_eq!(rib.prefix_count(), 0, "nothing stays behind");
}

/// A path that a peer has had all the time has had the same id all the time.
fn check_ids_are_stable(rib: &Rib, ids: &mut BTreeMap<(u32, PathKey), PathId>) {
    let mut current = BTreeMap::new();
    for peer in 0..PEERS {
        for sent in rib.adj_rib_out(PeerId(peer)) {
            let (Some(source), Some(path_id)) = (sent.source, sent.path_id) else {
                continue;
            };
            // Two paths of one source are told apart by the id that the source gave, which an
            // Adj-RIB-Out does not list.
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
    fn any_history_leads_where_its_last_words_lead(steps in prop::collection::vec(step(), 1..80)) {
        check_history(steps);
    }
}
