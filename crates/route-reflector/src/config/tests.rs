use bgp_packet::{AddPathMode, Asn, ClusterId, Community};
use bgp_rib::{
    AttributePolicy, CommunityPolicy, LocalPrefPolicy, MaximumPathsAction, MedPolicy, PrefixFilter,
    PrefixRule, ReflectionPolicy, UnknownAttributes,
};
use bgp_speaker::{GroupConfig, Md5Key};

use super::*;

const HEAD: &str = "apiVersion: portlb.io/v1\nkind: RouteReflector\nasn: 64512\n\
                    routerId: 192.0.2.10\n";

fn parse(text: &str) -> Result<Config, FileProblem> {
    super::parse(text, &Overrides::default())
}

fn with_head(text: &str) -> String {
    format!("{HEAD}{text}")
}

/// Checks the error of a document that consists of [`HEAD`], which has four lines, and `text`.
#[track_caller]
fn check_rejected(text: &str, expected: &str) {
    let problem = parse(&with_head(text)).unwrap_err();
    assert_eq!(problem.to_string(), expected);
}

#[track_caller]
fn group(text: &str) -> GroupConfig {
    let text = with_head(&format!("peerGroups:\n- name: lb\n  role: client\n{text}"));
    match parse(&text) {
        Ok(mut config) => config.peers.groups.remove(0),
        Err(problem) => panic!("{problem}"),
    }
}

#[test]
fn the_example_file_of_the_documents_resolves_to_a_client_group_and_a_router_group() {
    let text = include_str!("../../../../docs/examples/route-reflector.yaml");
    let config = parse(text).unwrap();
    assert_eq!(config.speaker.local_asn, Asn(64512));
    assert_eq!(config.speaker.listen.len(), 2);
    let [pods, routers] = config.peers.groups.as_slice() else {
        panic!("{:?}", config.peers)
    };
    assert!(pods.session.is_client && !routers.session.is_client);
    assert_eq!(pods.session.hold_time_seconds, 3);
    assert!(pods.session.export.prefixes.is_none());
    assert!(
        pods.session
            .import
            .prefixes
            .is_match(&"10.1.1.10/32".parse().unwrap())
    );
    assert!(
        !pods
            .session
            .import
            .prefixes
            .is_match(&"10.1.0.0/16".parse().unwrap())
    );
    // The maximum is one path for each of the 256 addresses of the IPv4 range, and more for IPv6.
    assert!(pods.session.import.maximum_paths.unwrap() > 256);
    assert_eq!(pods.session.import.at_maximum, MaximumPathsAction::Block);
    assert_eq!(routers.session.export.prefixes, PrefixFilter::All);
    assert!(routers.session.import.prefixes.is_none());
    let names: Vec<_> = config
        .peers
        .peers
        .iter()
        .map(|peer| peer.name.as_str())
        .collect();
    assert_eq!(names, ["router-1", "router-2"]);
    assert_eq!(config.peers.peers[0].group.as_deref(), Some("routers"));
}

#[test]
fn omitted_fields_have_safe_defaults() {
    let config = parse(HEAD).unwrap();
    assert_eq!(config.speaker.cluster_id, ClusterId([192, 0, 2, 10].into()));
    let listen: Vec<_> = config
        .speaker
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(listen, ["0.0.0.0:179", "[::]:179"]);
    assert_eq!(config.peers, Configuration::default());

    let group = group("");
    assert_eq!(group.session.peer_asn, Some(Asn(64512)));
    assert_eq!(group.session.hold_time_seconds, 9);
    assert_eq!(group.session.minimum_hold_time_seconds, 3);
    assert!(group.session.import.prefixes.is_none() && group.session.export.prefixes.is_none());
    assert_eq!(group.session.import.maximum_paths, Some(1000));
    assert!(
        group
            .session
            .families
            .iter()
            .all(|f| f.add_path == Some(AddPathMode::Both))
    );
}

#[test]
fn maximum_paths_action_is_block_unless_the_group_sets_restart() {
    let action = |text: &str| group(text).session.import.at_maximum;
    assert_eq!(action(""), MaximumPathsAction::Block);
    let block = action("  maximumPathsAction: block\n");
    assert_eq!(block, MaximumPathsAction::Block);
    let restart = action("  maximumPathsAction: restart\n");
    assert_eq!(restart, MaximumPathsAction::Restart);
}

#[test]
fn at_most_sixteen_peers_connect_from_one_address_unless_the_group_sets_another_maximum() {
    let maximum = |text: &str| group(text).maximum_peers_per_address;
    assert_eq!(maximum(""), 16);
    assert_eq!(maximum("  maximumPeersPerAddress: 1\n"), 1);
    assert_eq!(maximum("  maximumPeersPerAddress: 65535\n"), 65535);
}

#[test]
fn unknown_attributes_are_discarded_unless_the_group_passes_them() {
    let policy = |text: &str| group(text).session.import.unknown_attributes;
    assert_eq!(policy(""), UnknownAttributes::Discard);
    let discard = policy("  unknownAttributes: discard\n");
    assert_eq!(discard, UnknownAttributes::Discard);
    let pass = policy("  unknownAttributes: pass\n");
    assert_eq!(pass, UnknownAttributes::Pass);
    let text = "peerGroups:\n- name: lb\n  role: client\n  unknownAttributes: keep\n";
    let problem = parse(&with_head(text)).unwrap_err().to_string();
    assert!(problem.starts_with("8:22: "), "{problem}");
    assert!(
        problem.contains("discard") && problem.contains("pass"),
        "{problem}"
    );
}

#[test]
fn the_attribute_policy_of_dynamic_clients_is_strict_unless_the_group_relaxes_it() {
    let policy = |text: &str| group(text).session.import.attributes;
    let dynamic = "  dynamicPrefixes: [10.244.0.0/16]\n";
    assert_eq!(policy(dynamic), AttributePolicy::strict());
    assert_eq!(policy(""), AttributePolicy::default());
    let strict = "  localPref: clamp\n  med: remove\n  communities: []\n  \
                  reflectionAttributes: discard\n";
    assert_eq!(policy(strict), AttributePolicy::strict());
    let relaxed = "  localPref: pass\n  med: pass\n  communities: all\n  \
                   reflectionAttributes: pass\n";
    assert_eq!(
        policy(&format!("{dynamic}{relaxed}")),
        AttributePolicy::default()
    );
    let some = policy(&format!("{dynamic}  communities: [64512:100, NO_EXPORT]\n"));
    let listed = vec![Community(64512 << 16 | 100), Community::NO_EXPORT];
    assert_eq!(
        some,
        AttributePolicy {
            communities: CommunityPolicy::Only(listed),
            local_pref: LocalPrefPolicy::Clamp,
            med: MedPolicy::Remove,
            reflection: ReflectionPolicy::Discard,
        }
    );
    // Routers that connect from a prefix are not clients, so their attributes are kept.
    let text = "peerGroups:\n- name: r\n  role: non-client\n  dynamicPrefixes: [10.0.0.0/8]\n";
    let groups = parse(&with_head(text)).unwrap().peers.groups;
    assert_eq!(
        groups[0].session.import.attributes,
        AttributePolicy::default()
    );
    check_rejected(
        "peerGroups:\n- {name: lb, role: client, communities: [100]}\n",
        "6:42: \"100\" is not a community; a community is two numbers of 0 to 65535 with a colon \
         between them, such as 65000:1, or GRACEFUL_SHUTDOWN, NO_EXPORT or NO_ADVERTISE",
    );
}

#[test]
fn client_rules_limit_prefixes_and_next_hops_of_single_clients() {
    let import = |text: &str| group(text).session.import;
    let next_hops = import("  allowedNextHops: [peer, 192.0.2.0/24]\n").next_hops;
    assert!(next_hops.is_peer_allowed);
    assert_eq!(next_hops.prefixes, ["192.0.2.0/24".parse().unwrap()]);
    let clients = import(
        "  clients:\n  - {prefixes: [10.244.1.0/24], allowedNextHops: [192.0.2.11/32]}\n  - \
         prefixes: [10.244.2.0/24, 10.244.3.0/24]\n    importPrefixes: [10.1.2.0/24]\n",
    )
    .clients;
    let [first, second] = clients.as_slice() else {
        panic!("{clients:?}");
    };
    assert_eq!(first.clients, ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(first.prefixes, PrefixFilter::All);
    assert_eq!(first.next_hops.prefixes, ["192.0.2.11/32".parse().unwrap()]);
    assert_eq!(second.clients.len(), 2);
    assert!(second.prefixes.is_match(&"10.1.2.0/24".parse().unwrap()));
    assert!(!second.prefixes.is_match(&"10.1.1.0/24".parse().unwrap()));
    check_rejected(
        "peerGroups:\n- name: lb\n  role: client\n  clients: [{prefixes: []}]\n",
        "8:13: clients.prefixes: the list is empty, so the entry matches no client; write prefixes \
         with the addresses of the clients, such as 10.244.1.0/24",
    );
}

#[test]
fn a_link_local_address_of_a_peer_is_rejected_because_the_file_cannot_name_a_zone() {
    let groups = "peerGroups:\n- name: routers\n  role: non-client\npeers:\n";
    let check = |text: &str, expected: &str| {
        check_rejected(
            &format!("{groups}{text}"),
            &format!(
                "{expected} is link-local and needs an interface (a zone), but this file cannot name \
                 an interface; write a global or unique local address, such as fd00::1"
            ),
        );
    };
    check(
        "- {name: r, address: 'fe80::1', group: routers}\n",
        "9:22: address: fe80::1",
    );
    check(
        "- {name: r, address: 'fd00::2', localAddress: 'fe80::1', group: routers}\n",
        "9:47: localAddress: fe80::1",
    );
}

#[test]
fn a_prefix_filter_is_the_word_all_or_a_list_of_prefixes_with_or_without_length_bounds() {
    let filter = |text: &str| {
        group(&format!("  importPrefixes: {text}\n"))
            .session
            .import
            .prefixes
    };
    let rule = |text: &str, minimum, maximum| {
        PrefixRule::new(text.parse().unwrap(), minimum, maximum).unwrap()
    };
    assert_eq!(filter("all"), PrefixFilter::All);
    assert_eq!(filter("[]"), PrefixFilter::none());
    assert_eq!(
        filter("[10.1.1.0/24, {prefix: 10.2.0.0/16, minimumLength: 24, maximumLength: 32}]"),
        PrefixFilter::Only(vec![
            rule("10.1.1.0/24", 24, 24),
            rule("10.2.0.0/16", 24, 32)
        ])
    );
    assert_eq!(
        filter("[{prefix: 10.2.0.0/16, maximumLength: 24}]"),
        PrefixFilter::Only(vec![rule("10.2.0.0/16", 16, 24)])
    );
}

#[test]
fn a_misspelled_field_is_reported_with_its_place_and_the_nearest_field() {
    check_rejected(
        "peerGroup:\n- name: a\n",
        "5:1: unknown field `peerGroup`; did you mean `peerGroups`? allowed here: apiVersion, \
         kind, asn, routerId, clusterId, listen, peerGroups, peers",
    );
    let problem = parse(&with_head(
        "peerGroups:\n- name: a\n  role: client\n  importPrefixes:\n  - {prefix: 10.0.0.0/8, \
         minimumLenght: 9}\n",
    ));
    let text = problem.unwrap_err().to_string();
    assert!(text.starts_with("9:"), "{text}");
    assert!(text.contains("did you mean `minimumLength`?"), "{text}");
}

#[test]
fn invalid_values_of_the_speaker_are_rejected_with_a_suggestion() {
    let head = "apiVersion: portlb.io/v1\nkind: RouteReflector\n";
    let check = |text: &str, expected: &str| {
        let problem = parse(&format!("{head}{text}")).unwrap_err().to_string();
        assert!(problem.starts_with(expected), "{problem}");
    };
    check(
        "asn: 0\nrouterId: 192.0.2.1\n",
        "3:6: asn: 0 is reserved; write an AS number",
    );
    check(
        "asn: 23456\nrouterId: 192.0.2.1\n",
        "3:6: asn: 23456 is reserved",
    );
    check(
        "asn: 64512\nrouterId: 0.0.0.0\n",
        "4:11: routerId: 0.0.0.0 is not allowed",
    );
    check(
        "asn: 64512\nrouterId: fd00::1\n",
        "4:11: \"fd00::1\" is not an id",
    );
    check("routerId: 192.0.2.1\n", "3:1: the field `asn` is missing");
    check(
        "asn: 64512\n",
        "1:1: the field `routerId` is missing; write",
    );
    check(
        "asn: 64512\nrouterId: 192.0.2.1\nlisten: [192.0.2.1]\n",
        "5:10: \"192.0.2.1\" is not ADDRESS:PORT",
    );
}

#[test]
fn the_minimum_hold_time_applies_only_to_dynamic_peers() {
    let minimum = |text: &str| group(text).session.minimum_hold_time_seconds;
    assert_eq!(minimum("  holdTime: 30s\n  minimumHoldTime: 30s\n"), 30);
    assert_eq!(minimum("  minimumHoldTime: 0s\n"), 0);
    assert_eq!(minimum("  holdTime: 0s\n"), 0);
    let text = "peerGroups:\n- name: lb\n  role: client\n  minimumHoldTime: 9s\n\
                peers:\n- {name: router, address: 192.0.2.1, group: lb}\n";
    let config = parse(&with_head(text)).unwrap();
    let session = &config.peers.peers[0].session;
    assert_eq!(session.minimum_hold_time_seconds, 0);
    assert_eq!(session.hold_time_seconds, 9);
}

#[test]
fn invalid_peer_groups_are_rejected_with_the_place_of_the_error() {
    let check = |text: &str, expected: &str| {
        check_rejected(
            &format!("peerGroups:\n- name: lb\n  role: client\n{text}"),
            expected,
        );
    };
    check(
        "  holdTime: 2s\n",
        "8:13: holdTime: 2s is not allowed; write whole seconds from 3s to 65535s, or 0s for no \
         hold time",
    );
    check(
        "  holdTime: 3500ms\n",
        "8:13: holdTime: 3.5s is not allowed; write whole seconds from 3s to 65535s, or 0s for no \
         hold time",
    );
    check(
        "  holdTime: 1d\n",
        "8:13: holdTime: 86400s is not allowed; write whole seconds from 3s to 65535s, or 0s for no \
         hold time",
    );
    check(
        "  holdTime: 9\n",
        "8:13: \"9\" is not a time; expected a whole number with its unit: 500ms, 10s, 2m, 1h or \
         7d",
    );
    check(
        "  minimumHoldTime: 2s\n",
        "8:20: minimumHoldTime: 2s is not allowed; write whole seconds from 3s to the 9s of \
         holdTime, or 0s to allow a peer to disable the hold timer",
    );
    check(
        "  minimumHoldTime: 10s\n",
        "8:20: minimumHoldTime: 10s is not allowed; write whole seconds from 3s to the 9s of \
         holdTime, or 0s to allow a peer to disable the hold timer",
    );
    check(
        "  minimumHoldTime: 3s\n  holdTime: 0s\n",
        "8:20: minimumHoldTime: 3s is not allowed; write 0s, because holdTime 0s disables the hold \
         timer",
    );
    check(
        "  maximumPaths: 0\n",
        "8:17: maximumPaths: 0 is not allowed; write at least 1, or leave the field out for 1000",
    );
    check(
        "  maximumPeers: 0\n",
        "8:17: maximumPeers: 0 is not allowed; write at least 1, or leave the field out for 1000",
    );
    check(
        "  maximumPeersPerAddress: 0\n",
        "8:27: maximumPeersPerAddress: 0 is not allowed; write 1 to 65535, or leave the field out \
         for 16",
    );
    check(
        "  maximumPeersPerAddress: 65536\n",
        "8:27: maximumPeersPerAddress: 65536 is not a whole number from 0 to 65535; write one",
    );
    check(
        "  families: [ipv5]\n",
        "8:14: unknown value `ipv5`; did you mean `ipv6`? allowed here: ipv4, ipv6",
    );
    check(
        "  families: [ipv4, ipv4]\n",
        "8:13: families: write ipv4, ipv6 or both, each at most once",
    );
    check(
        "  dynamicPrefixes: [10.244.1.0/16]\n",
        "8:21: 10.244.1.0/16 has bits set to the right of its length; write 10.244.0.0/16",
    );
    check(
        "  importPrefixes: [10.1.1.1/24]\n",
        "8:20: 10.1.1.1/24 has bits set to the right of its length; write 10.1.1.0/24",
    );
    check(
        "  importPrefixes:\n  - {prefix: 10.1.0.0/16, minimumLength: 8}\n",
        "9:5: lengths 8 to 8 are not valid for 10.1.0.0/16: give lengths between 16 and 32, the \
         smaller length first",
    );
    check(
        "- name: lb\n  role: client\n",
        "8:9: peerGroups: the name `lb` is given twice; rename one of the groups",
    );
    check(
        "  dynamicPrefixes: [10.0.0.0/8]\n- name: other\n  role: client\n  dynamicPrefixes: \
         [10.1.0.0/16]\n",
        "11:21: dynamicPrefixes: 10.1.0.0/16 overlaps 10.0.0.0/8 of peer group `lb`; a peer can \
         belong to only one group",
    );
}

#[test]
fn internal_groups_need_a_role_and_external_groups_must_not_have_a_role() {
    check_rejected(
        "peerGroups:\n- name: lb\n",
        "6:3: role: missing in peer group `lb`; write client for load-balancer pods, whose paths are \
         sent to all peers, or non-client for other reflectors and routers",
    );
    check_rejected(
        "peerGroups:\n- name: lb\n  asn: 65001\n  role: client\n",
        "8:9: role: peer group `lb` belongs to another AS, and only peers of the own AS have a role; \
         leave the field out",
    );
}

#[test]
fn invalid_peers_are_rejected_with_the_place_of_the_error() {
    let groups = "peerGroups:\n- name: routers\n  role: non-client\npeers:\n";
    let check = |text: &str, expected: &str| check_rejected(&format!("{groups}{text}"), expected);
    check(
        "- {name: r, address: 192.0.2.1, group: router}\n",
        "9:40: group: peer group `router` does not exist; did you mean `routers`?",
    );
    check(
        "- {name: r, address: router.example, group: routers}\n",
        "9:22: \"router.example\" is not an IP address; write one such as 192.0.2.1 or fd00::1 \
         (names are not looked up)",
    );
    check(
        "- {name: r, address: 192.0.2.1, port: 0, group: routers}\n",
        "9:39: port: 0 is not allowed; write 1 to 65535, or leave the field out for 179",
    );
    check(
        "- {name: r, address: 192.0.2.1, localAddress: fd00::1, group: routers}\n",
        "9:47: localAddress: fd00::1 and the peer's address 192.0.2.1 have different address families",
    );
    check(
        "- {name: r, address: 192.0.2.1, group: routers}\n- {name: r, address: 192.0.2.2, group: \
         routers}\n",
        "10:10: peer name `r` is used twice; rename one of the peers",
    );
    check(
        "- {name: r, address: 192.0.2.1, group: routers}\n- {name: s, address: 192.0.2.1, group: \
         routers}\n",
        "10:22: peers `r` and `s` have the same address 192.0.2.1; leave one of them out",
    );
    // Two peers with one address are also rejected if neither accepts connections and their ports
    // differ.
    check(
        "- {name: r, address: 192.0.2.1, group: routers, connection: active}\n- {name: s, address: \
         192.0.2.1, port: 1179, group: routers, connection: active}\n",
        "10:22: peers `r` and `s` have the same address 192.0.2.1; leave one of them out",
    );
    let text = with_head(&format!(
        "{groups}- {{name: r, address: 192.0.2.1, group: routers, connection: passive}}\n"
    ));
    let peer = parse(&text).unwrap().peers.peers.remove(0);
    assert_eq!(peer.address, "192.0.2.1:179".parse().unwrap());
    assert!(!peer.active && peer.passive && !peer.session.is_client);
}

#[test]
fn a_peer_uses_its_own_key_or_the_key_of_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    for name in ["group", "own"] {
        std::fs::write(file(name), name).unwrap();
    }
    let (of_group, own) = (file("group"), file("own"));
    let groups = format!(
        "peerGroups:\n- {{name: routers, role: non-client, dynamicPrefixes: [192.0.2.0/24],\n   \
         md5KeyFile: {of_group}}}\n- {{name: others, role: client}}\npeers:\n"
    );
    let text = format!(
        "{groups}- {{name: r, address: 192.0.2.1, group: routers}}\n- {{name: s, address: \
         192.0.2.2, group: routers, md5KeyFile: {own}}}\n- {{name: t, address: 192.0.3.1, group: \
         others}}\n"
    );
    let config = parse(&with_head(&text)).unwrap();
    let read = |path: &str| Some(Md5Key::read(path.as_ref()).unwrap());
    assert_eq!(config.peers.groups[0].session.md5_key, read(&of_group));
    let keys = config
        .peers
        .peers
        .iter()
        .map(|peer| peer.session.md5_key.clone());
    assert_eq!(Vec::from_iter(keys), [read(&of_group), read(&own), None]);

    check_rejected(
        &format!("{groups}- {{name: r, address: 192.0.2.1, group: others}}\n"),
        "10:22: peer or group `r` has no TCP MD5 key, but 192.0.2.1/32 lies within 192.0.2.0/24 of \
         group `routers`, which requires a key; write md5KeyFile for the peer or group without a \
         key, or let only the reflector connect (connection: active)",
    );
    check_rejected(
        "peerGroups:\n- {name: lb, role: client, md5KeyFile: key}\n",
        "6:40: md5KeyFile: this is not an absolute path; write a path such as \
         /run/secrets/bgp-tcp-md5/key",
    );
    check_rejected(
        "peerGroups:\n- {name: lb, role: client, md5KeyFile: /nowhere/key}\n",
        "6:40: md5KeyFile: cannot read the TCP MD5 key file /nowhere/key; it must be a regular file \
         that this user has permission to read: No such file or directory (os error 2)",
    );
}

#[test]
fn flags_override_values_of_the_file() {
    let overrides = Overrides {
        listen: vec!["127.0.0.1:1179".parse().unwrap()],
        router_id: Some("192.0.2.77".parse().unwrap()),
    };
    let without = HEAD.replace("routerId: 192.0.2.10\n", "");
    for text in [HEAD, &without] {
        let speaker = super::parse(text, &overrides).unwrap().speaker;
        assert_eq!(speaker.listen, overrides.listen);
        assert_eq!(speaker.router_id.to_string(), "192.0.2.77");
        assert_eq!(speaker.cluster_id.to_string(), "192.0.2.77");
    }
}

#[test]
fn errors_of_the_yaml_parser_are_reported_with_the_field_and_a_suggestion() {
    let check = |text: &str, expected: &str| {
        assert_eq!(parse(text).unwrap_err().to_string(), expected);
    };
    check(
        &HEAD.replace("64512", "AS64512"),
        "3:6: asn: AS64512 is not a whole number from 0 to 4294967295; write one",
    );
    check(
        &with_head("listen: 0.0.0.0:179\n"),
        "5:9: listen: a list is expected; write one item a line beginning with -",
    );
    check(
        "",
        " the file is empty; write at least apiVersion: portlb.io/v1, kind: RouteReflector, asn \
         and routerId, a line each",
    );
}

#[test]
fn every_field_of_the_configuration_file_is_described_in_the_reference() {
    let reference = include_str!("../../../../docs/reference/route-reflector.md");
    let group = "peerGroups:\n- name: lb\n  role: client\n";
    let mut fields = 0;
    for document in [
        "unknown: 1\n".to_owned(),
        "peerGroups: [{unknown: 1}]\n".to_owned(),
        format!("{group}  importPrefixes: [{{unknown: 1}}]\n"),
        format!("{group}  clients: [{{unknown: 1}}]\n"),
        format!("{group}peers: [{{unknown: 1}}]\n"),
    ] {
        let message = parse(&with_head(&document)).unwrap_err().message;
        let (_, fields_of_error) = message.split_once("allowed here: ").unwrap();
        for field in fields_of_error.split(", ") {
            assert!(reference.contains(&format!("| `{field}` |")), "{field}");
            fields += 1;
        }
    }
    assert!(fields > 25, "only {fields} fields");
}

#[test]
fn the_example_in_the_reference_of_the_configuration_file_is_valid() {
    let reference = include_str!("../../../../docs/reference/route-reflector.md");
    let (_, example) = reference.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    assert_eq!(parse(example).unwrap().peers.groups.len(), 2);
}
