use super::*;

fn reflector() -> ForeignSpeaker {
    ForeignSpeaker::new("10.0.1.21".parse().unwrap(), "10.0.1.21".parse().unwrap())
        .peer(ForeignPeer::range("clients", "10.2.0.0/16".parse().unwrap()).client())
        .peer(
            ForeignPeer::new("router", "10.0.1.1".parse().unwrap())
                .client()
                .add_path(AddPath::Send),
        )
}

fn announcer() -> ForeignSpeaker {
    ForeignSpeaker::new("10.2.1.2".parse().unwrap(), "10.2.1.2".parse().unwrap())
        .peer(ForeignPeer::new(
            "reflector-1",
            "10.0.1.21".parse().unwrap(),
        ))
        .announce("10.1.1.0/24".parse().unwrap(), "10.0.1.11".parse().unwrap())
        .announce(
            "fd00:10:1:1::/64".parse().unwrap(),
            "fd00:10:0:1::11".parse().unwrap(),
        )
}

fn assert_config_contains(program: Program, speaker: &ForeignSpeaker, expected: &[&str]) {
    let text = program.config(speaker);
    for line in expected {
        assert!(
            text.contains(line),
            "the configuration of {program:?} lacks {line:?}:\n{text}"
        );
    }
}

#[test]
fn the_configuration_of_a_reflector_has_a_range_of_clients_and_sends_all_paths_to_the_router() {
    assert_config_contains(
        Program::Bird,
        &reflector(),
        &[
            "neighbor range 10.2.0.0/16 as 65000;",
            "rr client;",
            "add paths tx;",
        ],
    );
    assert_config_contains(
        Program::Frr,
        &reflector(),
        &[
            "bgp listen range 10.2.0.0/16 peer-group clients",
            "neighbor clients route-reflector-client",
            "neighbor 10.0.1.1 addpath-tx-all-paths",
        ],
    );
    assert_config_contains(
        Program::GoBgp,
        &reflector(),
        &[
            "prefix = \"10.2.0.0/16\"",
            "route-reflector-client = true",
            "send-max = 64",
        ],
    );
}

#[test]
fn the_configuration_of_an_announcer_has_a_next_hop_for_the_prefix_of_each_family() {
    assert_config_contains(
        Program::Bird,
        &announcer(),
        &[
            "route 10.1.1.0/24 blackhole { bgp_next_hop = 10.0.1.11; };",
            "route fd00:10:1:1::/64 blackhole { bgp_next_hop = fd00:10:0:1::11; };",
            "export where source = RTS_STATIC;",
        ],
    );
    assert_config_contains(
        Program::ExaBgp,
        &announcer(),
        &[
            "neighbor 10.0.1.21 {",
            "route 10.1.1.0/24 next-hop 10.0.1.11;",
        ],
    );
    assert_config_contains(
        Program::Frr,
        &announcer(),
        &[
            "network 10.1.1.0/24 route-map via-10.0.1.11",
            "set ipv6 next-hop global fd00:10:0:1::11",
        ],
    );
}

#[test]
fn the_configuration_of_a_router_installs_all_paths_and_announces_no_prefix() {
    let router = ForeignSpeaker::new("10.0.1.1".parse().unwrap(), "10.0.1.1".parse().unwrap())
        .peer(
            ForeignPeer::new("reflector-1", "10.0.1.21".parse().unwrap())
                .add_path(AddPath::Receive),
        )
        .install_routes();
    assert_config_contains(
        Program::Bird,
        &router,
        &["merge paths yes", "add paths rx;", "export none;"],
    );
    assert_config_contains(Program::Frr, &router, &["maximum-paths ibgp 64"]);
}

#[test]
fn the_configuration_of_every_program_has_the_password_of_the_peer() {
    let peer = ForeignPeer::new("reflector", "10.0.1.21".parse().unwrap()).password("secret");
    let speaker =
        ForeignSpeaker::new("10.2.1.2".parse().unwrap(), "10.2.1.2".parse().unwrap()).peer(peer);
    for (program, line) in [
        (Program::Bird, "password \"secret\";"),
        (Program::Frr, "neighbor 10.0.1.21 password secret"),
        (Program::GoBgp, "auth-password = \"secret\""),
        (Program::ExaBgp, "md5-password \"secret\";"),
    ] {
        assert_config_contains(program, &speaker, &[line]);
    }
}
