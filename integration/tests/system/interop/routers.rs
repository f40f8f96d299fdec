//! Tests of foreign routers that receive paths from route-reflector.

use std::time::{Duration, Instant};

use anyhow::ensure;
use lab::bgp::{Program, RunningSpeaker};

use super::network::{
    CLIENTS, LinkMember, Network, ROUTERS, ReflectorProcess, SERVICE, SERVICE6, TRUSTED,
};
use crate::expect::{SOON, eventually};

const ROUTER: [(LinkMember, Program); 3] = [
    (LinkMember::Router(1), Program::Bird),
    (LinkMember::Router(2), Program::Frr),
    (LinkMember::Router(3), Program::GoBgp),
];
const MEMBERS: [LinkMember; 6] = [
    LinkMember::Reflector,
    LinkMember::Client(11),
    LinkMember::Client(12),
    LinkMember::Router(1),
    LinkMember::Router(2),
    LinkMember::Router(3),
];

fn start() -> (Network, ReflectorProcess, Vec<RunningSpeaker>) {
    // The name of the test is part of the paths of unix sockets, which have at most 107 octets. So the
    // name has at most 75 letters.
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let name = name.rsplit("::").next().unwrap_or("interop-routers");
    let network = Network::bring_up(name, &MEMBERS).unwrap();
    let peers = ROUTER.map(|(member, program)| {
        let name = match program {
            Program::Bird => "bird",
            Program::Frr => "frr",
            Program::GoBgp => "gobgp",
            Program::ExaBgp => "exabgp",
        };
        (name, member.address(), "routers")
    });
    let routers =
        ROUTER.map(|(member, program)| network.start(member, program, &member.router()).unwrap());
    let clients = format!("{CLIENTS}{TRUSTED}");
    let reflector = ReflectorProcess::start(&network, &[&clients, ROUTERS], &peers).unwrap();
    reflector
        .wait_until_established(&ROUTER.map(|(member, _)| member))
        .unwrap();
    (network, reflector, routers.into())
}

#[test]
fn a_router_of_any_program_receives_the_paths_and_withdrawals_of_clients() {
    let (network, reflector, routers) = start();
    let clients = [LinkMember::Client(11), LinkMember::Client(12)];
    let running = clients.map(|member| {
        network
            .start(member, Program::Bird, &member.client())
            .unwrap()
    });
    reflector.wait_for_announcers(&clients).unwrap();
    for router in &routers {
        let both = ["10.0.1.11", "10.0.1.12", "fd00:10::1:b", "fd00:10::1:c"];
        router.wait_for_table(&both, SOON).unwrap();
        router.wait_for_table(&[SERVICE, SERVICE6], SOON).unwrap();
    }

    let killed = Instant::now();
    running[0].process.kill().unwrap();
    for router in &routers {
        eventually("the router has lost the ended client's paths", || {
            let table = router.table()?;
            ensure!(!table.contains("10.0.1.11"), "{table}");
            ensure!(!table.contains("fd00:10::1:b"), "{table}");
            ensure!(table.contains("10.0.1.12"), "{table}");
            ensure!(table.contains("fd00:10::1:c"), "{table}");
            Ok(())
        })
        .unwrap();
    }
    // The limit includes the time of at least three queries. Each query starts a process.
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn an_ended_router_does_not_affect_others_and_gets_all_paths_on_return() {
    let (network, reflector, mut routers) = start();
    let clients = [LinkMember::Client(11), LinkMember::Client(12)];
    let running = clients.map(|member| {
        network
            .start(member, Program::Bird, &member.client())
            .unwrap()
    });
    reflector.wait_for_announcers(&clients).unwrap();
    let all = ["10.0.1.11", "10.0.1.12", "fd00:10::1:b", "fd00:10::1:c"];
    for router in &routers {
        router.wait_for_table(&all, SOON).unwrap();
    }

    let (member, program) = ROUTER[1];
    routers[1].process.kill().unwrap();
    running[0].process.kill().unwrap();
    for router in [&routers[0], &routers[2]] {
        eventually("the router has lost the ended client's paths", || {
            let table = router.table()?;
            ensure!(!table.contains("10.0.1.11"), "{table}");
            ensure!(table.contains("10.0.1.12"), "{table}");
            ensure!(table.contains("fd00:10::1:c"), "{table}");
            Ok(())
        })
        .unwrap();
    }
    reflector
        .wait_until_established(&[ROUTER[0].0, ROUTER[2].0])
        .unwrap();

    routers[1] = network.start(member, program, &member.router()).unwrap();
    routers[1].wait_for_table(&all[1..2], SOON).unwrap();
    routers[1].wait_for_table(&all[3..], SOON).unwrap();
}

#[test]
fn routers_receive_the_attributes_of_the_client_and_the_reflection_attributes() {
    let (network, _reflector, routers) = start();
    let client = LinkMember::Client(11);
    let config = Program::Bird.config(&client.client()).replace(
        "export where source = RTS_STATIC;",
        "export filter { if source != RTS_STATIC then reject; bgp_local_pref = 150; bgp_med = 7; \
         bgp_origin = ORIGIN_EGP; bgp_path.prepend(64999); bgp_path.prepend(4200000001); \
         bgp_community.add((65000,100)); bgp_community.add((65535,0)); \
         bgp_large_community.add((65000,1,2)); bgp_ext_community.add((rt,65000,3)); accept; };",
    );
    let _bird = network.start_bird(client, &config).unwrap();
    let expected: [&[&str]; 3] = [
        &[
            "BGP.origin: EGP",
            "BGP.as_path: 4200000001 64999",
            "BGP.next_hop: 10.0.1.11",
            "BGP.next_hop: fd00:10::1:b",
            "BGP.med: 7",
            "BGP.local_pref: 150",
            "BGP.community: (65000,100) (65535,0)",
            "BGP.large_community: (65000, 1, 2)",
            "BGP.ext_community: (rt, 65000, 3)",
            "BGP.originator_id: 10.0.1.11",
            "BGP.cluster_list: 10.0.0.1",
        ],
        &[
            "4200000001 64999",
            "Originator: 10.0.1.11, Cluster list: 10.0.0.1",
            "Origin EGP, metric 7, localpref 150",
            "graceful-shutdown",
            "65000:100",
            "Large Community: 65000:1:2",
            "Extended Community: RT:65000:3",
        ],
        &[
            "4200000001 64999",
            "{Origin: e}",
            "{Med: 7}",
            "{LocalPref: 150}",
            "{Communities: 65000:100",
            "{LargeCommunity: [ 65000:1:2]}",
            "{Extcomms: [65000:3]}",
            "{Originator: 10.0.1.11}",
            "{ClusterList: [10.0.0.1]}",
        ],
    ];
    let questions: [&[&str]; 3] = [
        &["show route all"],
        &["show bgp ipv4 unicast 10.1.1.0/24"],
        &["global rib 10.1.1.0/24"],
    ];
    for ((router, questions), expected) in routers.iter().zip(questions).zip(expected) {
        eventually("the router shows every attribute", || {
            for question in questions {
                let answer = router.ask(question)?;
                for text in expected {
                    ensure!(answer.contains(text), "no {text:?} in:\n{answer}");
                }
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn each_of_two_paths_of_a_client_is_withdrawn_separately() {
    let (network, reflector, routers) = {
        let members = [
            LinkMember::Reflector,
            LinkMember::Client(11),
            LinkMember::Client(12),
            LinkMember::Client(13),
            LinkMember::Router(1),
        ];
        let network = Network::bring_up("interop-two-paths", &members).unwrap();
        let router = LinkMember::Router(1);
        let running = network
            .start(router, Program::Bird, &router.router())
            .unwrap();
        let peers = [("bird", router.address(), "routers")];
        let reflector = ReflectorProcess::start(&network, &[CLIENTS, ROUTERS], &peers).unwrap();
        (network, reflector, running)
    };
    let clients = [11, 12, 13].map(|number| {
        let member = LinkMember::Client(number);
        let peer = lab::bgp::ForeignPeer::new("reflector", super::network::REFLECTOR.into());
        let speaker = member
            .speaker_of(peer.add_path(lab::bgp::AddPath::Send))
            .announce(super::network::prefix(SERVICE), member.address().into());
        let mut config = Program::Bird.config(&speaker);
        config.push_str(&format!(
            "protocol static second {{ ipv4; route {SERVICE} blackhole {{ bgp_next_hop = 10.0.3.{number}; }}; }}\n"
        ));
        network.start_bird(member, &config).unwrap()
    });
    let until = |expected: &[&str]| {
        eventually(&format!("the router has {expected:?}"), || {
            let table = routers.table()?;
            let mut next_hops: Vec<_> = table
                .lines()
                .filter_map(|line| line.trim().strip_prefix("BGP.next_hop: "))
                .collect();
            next_hops.sort_unstable();
            ensure!(next_hops == expected, "{next_hops:?}");
            Ok(())
        })
        .unwrap();
    };
    let mut all = vec![
        "10.0.1.11",
        "10.0.1.12",
        "10.0.1.13",
        "10.0.3.11",
        "10.0.3.12",
        "10.0.3.13",
    ];
    until(&all);
    assert_eq!(reflector.next_hops(SERVICE).unwrap().len(), 6);

    clients[0].ask("disable second").unwrap();
    all.retain(|next_hop| *next_hop != "10.0.3.11");
    until(&all);
    clients[1].process.kill().unwrap();
    all.retain(|next_hop| !next_hop.ends_with(".12"));
    until(&all);
    clients[0].ask("enable second").unwrap();
    all.insert(2, "10.0.3.11");
    until(&all);
}
