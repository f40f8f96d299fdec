//! Tests of the data path of the reference network, without any daemon of portlb.
//!
//! If one of these tests fails, the lab is wrong, and the results of the tests of the daemons are
//! meaningless.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::IpNet;
use lab::baseline::Forwarding;
use lab::bgp::Program;
use lab::http::{Load, PersistentConnections};
use lab::nodes::LabPod;
use lab::reference::{
    Reception, Reference, ReferenceOptions, SERVICE, SERVICE_RANGE, SERVICE_RANGE6, SERVICE6,
    announcer, reflector,
};
use lab::{FibWatcher, Lab, Topology, baseline, http};

const SOON: Duration = Duration::from_secs(20);

fn service() -> SocketAddr {
    SocketAddr::new(SERVICE.into(), 80)
}

fn service6() -> SocketAddr {
    SocketAddr::new(SERVICE6.into(), 80)
}

/// Programs IPVS and routes for both service addresses in every lb pod. Also starts two BIRD
/// reflectors, and the program `announcing` as the announcer of every lb pod.
fn serve(reference: &Reference, announcing: Program) -> Result<()> {
    let ranges: [IpNet; 2] = [SERVICE_RANGE.into(), SERVICE_RANGE6.into()];
    for number in [1, 2] {
        let host = reference.reflector(number)?;
        Program::Bird.start(&host, &reflector(number))?;
    }
    for pod in &reference.lb_pods {
        let host = reference.lab.host(&pod.name)?;
        let node = reference.lab.host(&pod.node)?;
        baseline::accept(&host, &ranges)?;
        for service in [service(), service6()] {
            baseline::balance(&host, service, Forwarding::Tunnel, &reference.web_pods)?;
        }
        baseline::route(&node, &ranges, pod)?;
        if reference.lab.environment().has_nftables_for_ip() {
            baseline::exempt(&node, &ranges)?;
        }
        announcing.start(&host, &announcer(reference.node_of(pod)?, pod))?;
    }
    Ok(())
}

fn wait_for_routes(reference: &Reference, fib: &FibWatcher) -> Result<()> {
    let lb_pods: Vec<&LabPod> = reference.lb_pods.iter().collect();
    for (prefix, is_v6) in [(SERVICE_RANGE.into(), false), (SERVICE_RANGE6.into(), true)] {
        let next_hops = reference.next_hops(&lb_pods, is_v6)?;
        fib.wait_for(prefix, &next_hops, SOON)?;
    }
    Ok(())
}

#[test]
fn requests_reach_every_web_pod_through_every_lb_pod() {
    let began = Instant::now();
    let reference = Reference::bring_up("data-path", ReferenceOptions::default()).unwrap();
    eprintln!("the network runs after {:?}", began.elapsed());
    let fib = FibWatcher::start(&reference.router_host().unwrap()).unwrap();
    serve(&reference, Program::Bird).unwrap();
    wait_for_routes(&reference, &fib).unwrap();
    eprintln!("the router has all routes after {:?}", began.elapsed());

    let client = reference.client().unwrap();
    for service in [service(), service6()] {
        let answers = http::spread(&client, service, 60, SOON).unwrap();
        eprintln!("{service}: {answers:?}");
        assert_eq!(answers.len(), reference.web_pods.len(), "{answers:?}");
    }
    for pod in &reference.lb_pods {
        let host = reference.lab.host(&pod.name).unwrap();
        let table = host.output("ipvsadm", ["-L", "-n"]).unwrap();
        let connections: u32 = table
            .lines()
            .filter(|line| line.trim_start().starts_with("->") && line.contains("Tunnel"))
            .flat_map(|line| line.split_whitespace().skip(4))
            .map(|count| count.parse::<u32>().unwrap())
            .sum();
        assert!(
            connections > 0,
            "{} has received no connection:\n{table}",
            pod.name
        );
    }
}

#[test]
fn direct_routing_reaches_the_web_pods_on_the_node_of_the_lb_pod() {
    let options = ReferenceOptions {
        reception: Reception::Direct,
        ..ReferenceOptions::default()
    };
    let reference = Reference::bring_up("direct", options).unwrap();
    let ranges: [IpNet; 2] = [SERVICE_RANGE.into(), SERVICE_RANGE6.into()];
    let lb_pod = &reference.lb_pods[0];
    let node = reference.node_of(lb_pod).unwrap();
    let mut neighbours = reference.web_pods.clone();
    neighbours.retain(|pod| pod.node == node.name);

    let lb_host = reference.lab.host(&lb_pod.name).unwrap();
    let node_host = reference.lab.host(&node.name).unwrap();
    baseline::accept(&lb_host, &ranges).unwrap();
    baseline::route(&node_host, &ranges, lb_pod).unwrap();
    if reference.lab.environment().has_nftables_for_ip() {
        baseline::exempt(&node_host, &ranges).unwrap();
    }
    let to_node = format!(
        "route add {SERVICE_RANGE} via {}\nroute add {SERVICE_RANGE6} via {}",
        node.address.addr(),
        node.address6.addr()
    );
    reference.router_host().unwrap().ip(&to_node).unwrap();

    let client = reference.client().unwrap();
    for service in [service(), service6()] {
        baseline::balance(&lb_host, service, Forwarding::Direct, &neighbours).unwrap();
        let answers = http::spread(&client, service, 20, SOON).unwrap();
        assert_eq!(answers.len(), neighbours.len(), "{answers:?}");
    }
}

#[test]
fn connections_survive_when_an_lb_pod_is_disconnected_from_its_node() {
    let reference = Reference::bring_up("data-path-cut", ReferenceOptions::default()).unwrap();
    let fib = FibWatcher::start(&reference.router_host().unwrap()).unwrap();
    serve(&reference, Program::Bird).unwrap();
    wait_for_routes(&reference, &fib).unwrap();

    let client = reference.client().unwrap();
    let load = Load {
        server: service(),
        connections: 12,
        interval: Duration::from_millis(100),
        patience: SOON,
    };
    let connections = PersistentConnections::start(&client, load).unwrap();
    let cut = reference.lb_pods[0].clone();
    reference
        .lab
        .host(&cut.node)
        .unwrap()
        .ip(&format!("link set {} nomaster", cut.name))
        .unwrap();
    let others: Vec<&LabPod> = reference.lb_pods.iter().skip(1).collect();
    let next_hops = reference.next_hops(&others, false).unwrap();
    fib.wait_for(SERVICE_RANGE.into(), &next_hops, SOON)
        .unwrap();
    connections.wait_for_answers(48, SOON).unwrap();
    let tally = connections.stop().unwrap();
    assert_eq!(tally.lost(), 0, "{tally:?}");
}

#[test]
fn without_the_connection_tracking_exemption_nodes_drop_packets_of_direct_return() {
    let reference = Reference::bring_up("tracked", ReferenceOptions::default()).unwrap();
    if !reference.lab.environment().has_nftables_for_ip() {
        eprintln!("skipped: the packaged kernel cannot filter IP packets");
        return;
    }
    let fib = FibWatcher::start(&reference.router_host().unwrap()).unwrap();
    serve(&reference, Program::Bird).unwrap();
    wait_for_routes(&reference, &fib).unwrap();
    for node in &reference.nodes {
        let host = reference.lab.host(&node.name).unwrap();
        host.nft("delete table inet baseline").unwrap();
    }
    let client = reference.client().unwrap();
    let outcome = http::spread(&client, service(), 12, Duration::from_secs(1));
    assert!(outcome.is_err(), "{outcome:?}");
}

#[test]
fn paths_of_every_foreign_announcer_reach_the_router() {
    for announcing in lab::sample([Program::ExaBgp, Program::Frr, Program::GoBgp], 1) {
        let name = format!("announcer-{announcing:?}").to_lowercase();
        let reference = Reference::bring_up(
            &name,
            ReferenceOptions {
                web_pods: 1,
                ..ReferenceOptions::default()
            },
        )
        .unwrap();
        let fib = FibWatcher::start(&reference.router_host().unwrap()).unwrap();
        serve(&reference, announcing).unwrap();
        wait_for_routes(&reference, &fib).unwrap();
    }
}

#[test]
fn every_foreign_reflector_passes_paths_on_to_every_foreign_router() {
    let pairs = [
        (Program::Frr, Program::Bird),
        (Program::GoBgp, Program::Bird),
        (Program::Bird, Program::Frr),
    ];
    for (reflecting, router) in lab::sample(pairs, 1) {
        let name = format!("{reflecting:?}-to-{router:?}").to_lowercase();
        let options = ReferenceOptions {
            web_pods: 0,
            router,
            ..ReferenceOptions::default()
        };
        let reference = Reference::bring_up(&name, options).unwrap();
        let fib = FibWatcher::start(&reference.router_host().unwrap()).unwrap();
        let mut reflectors = Vec::new();
        for number in [1, 2] {
            let host = reference.reflector(number).unwrap();
            reflectors.push(reflecting.start(&host, &reflector(number)).unwrap());
        }
        for pod in &reference.lb_pods {
            let host = reference.lab.host(&pod.name).unwrap();
            let speaker = announcer(reference.node_of(pod).unwrap(), pod);
            Program::Bird.start(&host, &speaker).unwrap();
        }
        for reflector in &reflectors {
            let wanted = [
                "10.1.1.0/24",
                "10.0.1.11",
                "10.0.1.12",
                "10.0.1.13",
                "fd00:10:1:1::/64",
            ];
            reflector.wait_for_table(&wanted, SOON).unwrap();
        }
        wait_for_routes(&reference, &fib).unwrap();
    }
}

#[test]
fn a_web_pod_is_added_to_and_removed_from_a_running_network() {
    let mut reference = Reference::bring_up(
        "join",
        ReferenceOptions {
            web_pods: 1,
            ..ReferenceOptions::default()
        },
    )
    .unwrap();
    let pod = reference.add_web_pod().unwrap();
    let router = reference.router_host().unwrap();
    let server = SocketAddr::new(pod.address.into(), 80);
    assert_eq!(http::get(&router, server, SOON).unwrap().trim(), "web-2");
    reference.remove_web_pod(&pod).unwrap();
    assert!(http::get(&router, server, Duration::from_millis(300)).is_err());
}

#[test]
fn the_fib_watcher_reports_changes_of_multipath_routes_of_both_families() {
    let mut lab = Lab::new("watcher").unwrap();
    let mut topology = Topology::new();
    topology.veth(("a", "eth0"), ("b", "eth0"));
    topology
        .host("a")
        .address("eth0", "10.0.0.1/24".parse::<IpNet>().unwrap())
        .address("eth0", "fd00::1/64".parse::<IpNet>().unwrap());
    lab.bring_up(&topology).unwrap();
    let host = lab.host("a").unwrap();
    let fib = FibWatcher::start(&host).unwrap();
    for (prefix, hops) in [
        ("10.9.0.0/24", ["10.0.0.2", "10.0.0.3"]),
        ("fd09::/64", ["fd00::2", "fd00::3"]),
    ] {
        let net: IpNet = prefix.parse().unwrap();
        let [first, second] = hops.map(|hop| hop.parse::<IpAddr>().unwrap());
        host.ip(&format!(
            "route add {prefix} nexthop via {first} nexthop via {second}"
        ))
        .unwrap();
        fib.wait_for(net, &[first, second], SOON).unwrap();
        host.ip(&format!("route replace {prefix} via {second}"))
            .unwrap();
        fib.wait_for(net, &[second], SOON).unwrap();
        host.ip(&format!("route del {prefix}")).unwrap();
        fib.wait_for(net, &[], SOON).unwrap();
    }
}

#[test]
fn a_second_lab_waits_until_the_first_lab_is_dropped() {
    let first = Lab::new("turn-1").unwrap();
    let (began, entered) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || {
        let lab = Lab::new("turn-2").unwrap();
        began.send(()).unwrap();
        drop(lab);
    });
    let early = entered.recv_timeout(Duration::from_millis(200));
    assert_eq!(early, Err(RecvTimeoutError::Timeout));
    drop(first);
    entered.recv_timeout(SOON).unwrap();
    second.join().unwrap();
}

#[test]
fn a_panic_ends_every_process_and_removes_every_host() {
    let pid = std::sync::Mutex::new(0);
    let outcome = std::panic::catch_unwind(|| {
        let mut lab = Lab::new("panic").unwrap();
        let mut topology = Topology::new();
        topology.host("a");
        lab.bring_up(&topology).unwrap();
        let mut command = std::process::Command::new("sleep");
        command.arg("100");
        let process = lab.host("a").unwrap().start("sleep", command).unwrap();
        *pid.lock().unwrap() = process.pid();
        panic!("on purpose");
    });
    let panic = outcome.unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    let pid = pid.into_inner().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!std::path::Path::new("/run/netns/a").exists());
}
