//! Tests of the kernel's choice of real servers for flows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use ipvs_programmer::kernel::{IpvsTable as _, LinuxKernel};
use socket2::{Domain, Socket, Type};
use virtual_server::{
    EntryKey, FailureAction, ForwardingMethod, Persistence, Placements, Protocol, RealServer,
    RealServerHistory, RealServerState, Scheduler, TableEntry, VirtualServer, VirtualServerTable,
    Weight, plan_keys,
};

use crate::{MH, apply_plan, key, real_server, run, settings, shell};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const FLOWS: std::ops::Range<u16> = 20_000..20_300;

/// Sets up a network in which IPVS receives flows from [`CLIENT`] to `10.1.1.LAST` and forwards
/// them to `10.244.0.0/24`.
fn prepare_network(last: impl IntoIterator<Item = u8>) {
    shell("ip link add dummy0 type dummy");
    shell("ip link set dummy0 up");
    shell("ip addr add 10.244.0.254/24 dev dummy0");
    shell("ip addr add 10.9.9.9/32 dev lo");
    for last in last {
        shell(&format!("ip route add local {} dev lo", service(last)));
    }
}

fn service(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 1, last)
}

fn key_of(last: u8) -> EntryKey {
    EntryKey::Address {
        protocol: Protocol::Udp,
        address: service(last).into(),
        port: 80,
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 244, 0, last).into(), 80)
}

/// Returns a table with the virtual server `10.1.1.LAST`. It has one real server for each weight,
/// with the addresses 10.244.0.1, 10.244.0.2 and so on.
fn table(
    last: u8,
    scheduler: Scheduler,
    weights: impl IntoIterator<Item = u32>,
) -> VirtualServerTable {
    let weights = (1..).zip(weights);
    let real_servers = weights.map(|(real, weight)| {
        (
            address(real),
            real_server(weight, ForwardingMethod::DirectRouting),
        )
    });
    let entry = TableEntry {
        settings: settings(scheduler),
        real_servers: real_servers.collect(),
    };
    VirtualServerTable {
        entries: [(key_of(last), entry)].into(),
    }
}

fn program(
    kernel: &mut LinuxKernel,
    actual: &VirtualServerTable,
    desired: &VirtualServerTable,
    placements: &Placements,
) {
    let keys = desired.entries.keys().copied();
    let changes = plan_keys(actual, desired, placements, keys);
    assert!(kernel.apply(&changes).unwrap().is_empty());
}

/// Sends a datagram for each flow. Returns the chosen real server for each client port. While the
/// kernel resizes its connection table, a list of connections can be incomplete, so lists are read
/// until all lists together contain all flows.
fn placed_flows(service: Ipv4Addr, flows: std::ops::Range<u16>) -> BTreeMap<u16, String> {
    for port in flows.clone() {
        send(service, port);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut placed = BTreeMap::new();
    while placed.len() < flows.len() {
        assert!(Instant::now() < deadline, "{} flows", placed.len());
        placed.extend(listed_flows(service));
    }
    placed
}

fn send(service: Ipv4Addr, port: u16) {
    let socket = UdpSocket::bind((CLIENT, port)).unwrap();
    socket.send_to(b"x", (service, 80)).unwrap();
}

fn listed_flows(service: Ipv4Addr) -> Vec<(u16, String)> {
    let service_in_hex = format!("{:08X}", service.to_bits());
    let connections = std::fs::read_to_string("/proc/thread-self/net/ip_vs_conn").unwrap();
    connections
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(2);
            let port = u16::from_str_radix(words.next()?, 16).ok()?;
            let is_of_service = words.next()? == service_in_hex;
            let real_server = words.nth(1)?.to_owned();
            // A connection with port 0 is the persistence template of a client.
            (is_of_service && port > 0).then_some((port, real_server))
        })
        .collect()
}

fn differing(one: &BTreeMap<u16, String>, other: &BTreeMap<u16, String>) -> usize {
    one.iter()
        .filter(|(port, real)| other[*port] != **real)
        .count()
}

#[test]
fn a_new_mh_table_places_flows_like_an_existing_table_while_a_real_server_has_weight_0() {
    run(|mut kernel| {
        let [existing, new, without_placement] = [10, 11, 12];
        prepare_network([existing, new, without_placement]);
        let with_first = |last: u8, weight: u32| {
            let weights = (1..=10).map(|real| if real == 1 { weight } else { 10 });
            table(last, MH, weights)
        };
        let mut program =
            |actual: &VirtualServerTable, desired: &VirtualServerTable, placements: &Placements| {
                program(&mut kernel, actual, desired, placements);
            };
        let none = (VirtualServerTable::default(), Placements::new());
        program(&none.0, &with_first(existing, 10), &none.1);
        program(&with_first(existing, 10), &with_first(existing, 0), &none.1);
        let placements = [(key_of(new), [(address(1), 10)].into())].into();
        program(&none.0, &with_first(new, 0), &placements);
        program(&none.0, &with_first(without_placement, 0), &none.1);

        let expected = placed_flows(service(existing), FLOWS);
        assert_eq!(placed_flows(service(new), FLOWS), expected);
        // If the plan has no configured weight for the real server with weight 0, the kernel places
        // flows differently.
        let differing = differing(&expected, &placed_flows(service(without_placement), FLOWS));
        assert!(differing >= 10, "{differing} flows differ");
    });
}

/// Rounds the weights of real servers like a discovery service.
fn rounded(weights: &[u16]) -> Vec<u32> {
    let mut server = VirtualServer {
        id: "udp/10.1.1.10:80".parse().unwrap(),
        name: "web".into(),
        scheduler: MH,
        forwarding_method: ForwardingMethod::DirectRouting,
        persistence: None,
        real_servers: (1..)
            .zip(weights)
            .map(|(real, weight)| RealServer {
                address: address(real).ip(),
                port: None,
                weight: Weight(*weight),
                state: RealServerState::Ready,
                history: RealServerHistory::default(),
            })
            .collect(),
        health_check: None,
        on_failure: FailureAction::Quiesce,
        minimum_healthy: 1,
        drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    };
    server.round_weights(None);
    let weights = server.real_servers.iter();
    weights.map(|real| real.weight.0.into()).collect()
}

#[test]
fn rounded_weights_keep_each_of_100_real_servers_in_use_and_move_few_flows() {
    // Enough flows that each of 100 real servers gets flows.
    const MANY: std::ops::Range<u16> = 20_000..24_000;
    run(|mut kernel| {
        let [equal, rounded_99, one_halved, not_rounded] = [10, 11, 12, 13];
        prepare_network([equal, rounded_99, one_halved, not_rounded]);
        let with_first = |weight: u16| {
            let mut weights = vec![100; 100];
            weights[0] = weight;
            weights
        };
        let mixed: Vec<u16> = (0..100).map(|index| 100 - index % 2).collect();
        let mut placed = |last: u8, weights: Vec<u32>| {
            let desired = table(last, MH, weights);
            program(
                &mut kernel,
                &VirtualServerTable::default(),
                &desired,
                &Placements::default(),
            );
            placed_flows(service(last), MANY)
        };
        let equal = placed(equal, rounded(&with_first(100)));
        let servers: BTreeSet<&String> = equal.values().collect();
        assert_eq!(servers.len(), 100);

        // The weights 100 and 99 are rounded to equal weights.
        let after = placed(rounded_99, rounded(&mixed));
        assert_eq!(differing(&equal, &after), 0);

        // If one of 100 real servers gets half of its weight, about half of its flows move, and
        // some flows of other real servers.
        let halved = placed(one_halved, rounded(&with_first(50)));
        let servers: BTreeSet<&String> = halved.values().collect();
        assert_eq!(servers.len(), 100);
        let moved = differing(&equal, &halved);
        assert!(moved < MANY.len() / 10, "{moved} flows moved");

        // Without the rounding, the small differences between the weights move many flows.
        let weights = mixed.iter().map(|weight| u32::from(*weight)).collect();
        let not_rounded = placed(not_rounded, weights);
        let moved = differing(&equal, &not_rounded);
        assert!(moved > MANY.len() / 4, "{moved} flows moved");
    });
}

fn set_sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/vs/{name}"), value).unwrap();
}

/// Returns the real server of one flow of a client with persistence.
fn placed_flow(service: Ipv4Addr, port: u16) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut flows = listed_flows(service).into_iter();
        if let Some((_, real_server)) = flows.find(|(listed, _)| *listed == port) {
            return real_server;
        }
        assert!(
            Instant::now() < deadline,
            "the kernel lists no flow of port {port}"
        );
    }
}

/// Returns the key and a table of a virtual server with persistence and two real servers.
fn with_persistence(protocol: Protocol) -> (EntryKey, VirtualServerTable) {
    let mut table = table(10, Scheduler::Rr, [1, 1]);
    let (_, mut entry) = table.entries.pop_first().unwrap();
    entry.settings.persistence = Some(Persistence {
        timeout: Duration::from_secs(300),
        client_prefix_length: 32,
    });
    let key = match protocol {
        Protocol::Udp => key_of(10),
        Protocol::Tcp | Protocol::Sctp => key(80),
    };
    table.entries.insert(key, entry);
    (key, table)
}

/// Formats the address of a real server like the kernel's list of connections.
fn listed(address: &SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(address) => format!("{:08X}", address.to_bits()),
        IpAddr::V6(address) => panic!("{address}"),
    }
}

fn connect(service: Ipv4Addr, port: u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let bind = SocketAddr::new(CLIENT.into(), port);
    socket.bind(&bind.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    // Only the SYN is needed. The non-blocking `connect` sends it and returns the error
    // EINPROGRESS, which is ignored.
    let _ = socket.connect(&SocketAddr::new(service.into(), 80).into());
}

#[test]
fn new_tcp_connections_of_a_client_with_persistence_leave_a_quiesced_real_server() {
    run(|mut kernel| {
        prepare_network([10]);
        let (key, mut desired) = with_persistence(Protocol::Tcp);
        assert_eq!(apply_plan(&mut kernel, &desired), []);
        set_sysctl("expire_quiescent_template", "1");
        let mut ports = 20_000..;
        let mut flow = || {
            let port = ports.next().unwrap();
            connect(service(10), port);
            placed_flow(service(10), port)
        };
        let first = flow();
        for _ in 0..5 {
            assert_eq!(
                flow(),
                first,
                "persistence keeps the client on one real server"
            );
        }
        let entry = desired.entries.get_mut(&key).unwrap();
        let chosen = entry.real_servers.iter_mut();
        let mut chosen = chosen.filter(|(address, _)| listed(address) == first);
        chosen.next().unwrap().1.weight = 0;
        assert_eq!(apply_plan(&mut kernel, &desired), []);
        let second = flow();
        assert_ne!(
            second, first,
            "a new connection leaves the quiesced real server"
        );
        for _ in 0..5 {
            assert_eq!(flow(), second, "the client has a new persistence template");
        }
        // The connection from port 20000, which existed before its real server was quiesced, stays
        // on this real server.
        assert_eq!(placed_flow(service(10), 20_000), first);
    });
}

#[test]
fn without_expire_quiescent_template_persistence_keeps_a_client_on_a_quiesced_real_server() {
    run(|mut kernel| {
        prepare_network([10]);
        let (key, mut desired) = with_persistence(Protocol::Tcp);
        assert_eq!(apply_plan(&mut kernel, &desired), []);
        set_sysctl("expire_quiescent_template", "0");
        connect(service(10), 20_000);
        let first = placed_flow(service(10), 20_000);
        let entry = desired.entries.get_mut(&key).unwrap();
        for (address, real_server) in &mut entry.real_servers {
            if listed(address) == first {
                real_server.weight = 0;
            }
        }
        assert_eq!(apply_plan(&mut kernel, &desired), []);
        connect(service(10), 20_001);
        assert_eq!(placed_flow(service(10), 20_001), first);
    });
}

#[test]
fn udp_flows_of_a_client_with_persistence_leave_a_removed_real_server() {
    run(|mut kernel| {
        prepare_network([10]);
        let (key, mut desired) = with_persistence(Protocol::Udp);
        assert_eq!(apply_plan(&mut kernel, &desired), []);
        set_sysctl("expire_nodest_conn", "1");
        let flow = |port: u16| {
            send(service(10), port);
            placed_flow(service(10), port)
        };
        let first = flow(20_000);
        assert_eq!(
            flow(20_001),
            first,
            "persistence keeps the client on one real server"
        );
        // With UDP, a real server that gets no new flows is removed from the table.
        let entry = desired.entries.get_mut(&key).unwrap();
        entry
            .real_servers
            .retain(|address, _| listed(address) != first);
        assert_eq!(apply_plan(&mut kernel, &desired), []);
        assert_ne!(flow(20_002), first, "a new flow leaves the removed server");
        // The first datagram after the removal ends the connection entry of the existing flow. The
        // next datagram creates a new connection entry.
        let deadline = Instant::now() + Duration::from_secs(10);
        while flow(20_000) == first {
            assert!(
                Instant::now() < deadline,
                "the existing flow stays on {first}"
            );
        }
    });
}
