//! Tests of wrk, nginx, UDP and keepalived in the lab.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use lab::keepalived::{Keepalived, KeepalivedVirtualServer};
use lab::reference::{Reference, ReferenceOptions, SERVICE, SERVICE_RANGE};
use lab::wrk::Wrk;
use lab::{Host, Lab, Topology, baseline, ensure_that, nginx, udp, wait_for};

const SOON: Duration = Duration::from_secs(20);

fn two_hosts(name: &str) -> (Lab, Host, Host) {
    let mut lab = Lab::new(name).unwrap();
    let mut topology = Topology::new();
    topology.veth(("client", "eth0"), ("server", "eth0"));
    for (host, address) in [("client", "10.0.0.1/24"), ("server", "10.0.0.2/24")] {
        let address: IpNet = address.parse().unwrap();
        topology.host(host).address("eth0", address);
    }
    lab.bring_up(&topology).unwrap();
    let [client, server] = ["client", "server"].map(|name| lab.host(name).unwrap());
    (lab, client, server)
}

#[test]
fn wrk_counts_answers_of_nginx_and_errors_after_nginx_is_killed() {
    let (_lab, client, server) = two_hosts("wrk");
    let nginx = nginx::start(&server, &[80]).unwrap();
    wait_for("nginx answers", SOON, || {
        lab::http::get(&client, "10.0.0.2:80".parse().unwrap(), SOON)
    })
    .unwrap();
    let wrk = Wrk::start(&client, "http://10.0.0.2/", 4, Duration::from_secs(1)).unwrap();
    let report = wrk.finish().unwrap();
    assert!(report.requests > 10 && report.errors() == 0, "{report:?}");

    let wrk = Wrk::start(&client, "http://10.0.0.2/", 4, Duration::from_secs(2)).unwrap();
    wait_for("wrk is connected", SOON, || {
        let sockets = server.output("ss", ["-Htn", "state", "established"]);
        ensure_that(
            !sockets.map_err(|e| e.to_string())?.is_empty(),
            "no connection",
        )
    })
    .unwrap();
    nginx.kill().unwrap();
    let report = wrk.finish().unwrap();
    assert!(report.errors() > 0, "{report:?}");
}

#[test]
fn a_udp_datagram_is_answered_or_refused_without_a_server_or_lost_without_a_link() {
    let (_lab, client, server) = two_hosts("udp");
    let address: SocketAddr = "10.0.0.2:53".parse().unwrap();
    let names = udp::NameServer::start(&server, address).unwrap();
    let answer = udp::ask(&client, address, SOON).unwrap();
    assert_eq!(answer.as_deref(), Some("server"));
    let answers = udp::spread(&client, address, 3, SOON).unwrap();
    assert_eq!(answers, BTreeMap::from([("server".to_owned(), 3)]));
    drop(names);
    let refused = udp::ask(&client, address, SOON).unwrap_err();
    let cause = refused.downcast_ref::<io::Error>().map(io::Error::kind);
    assert_eq!(cause, Some(ErrorKind::ConnectionRefused), "{refused:?}");
    server.ip("link set eth0 down").unwrap();
    let lost = udp::ask(&client, address, Duration::from_millis(100));
    assert!(!matches!(lost, Ok(Some(_))), "{lost:?}");
}

#[test]
fn keepalived_writes_the_configured_and_healthy_real_servers_into_ipvs() {
    let reference = Reference::bring_up("keepalived", ReferenceOptions::default()).unwrap();
    let lb_pod = reference.lab.host(&reference.lb_pods[0].name).unwrap();
    baseline::accept(&lb_pod, &[SERVICE_RANGE.into()]).unwrap();
    let virtual_server = |pods: usize| KeepalivedVirtualServer {
        address: SocketAddr::new(SERVICE.into(), 80),
        scheduler: "mh".to_owned(),
        real_servers: reference.web_pods[..pods]
            .iter()
            .map(|pod| SocketAddr::new(pod.address.into(), 80))
            .collect(),
        check_interval: Some(Duration::from_millis(500)),
    };
    let wait_for_real_servers = |count: usize| {
        wait_for(&format!("{count} real servers"), SOON, || {
            let table = lb_pod
                .output("ipvsadm", ["-L", "-n"])
                .map_err(|e| e.to_string())?;
            ensure_that(table.matches("Tunnel  1").count() == count, table)
        })
    };
    let keepalived = Keepalived::start(&lb_pod, &[virtual_server(6)]).unwrap();
    wait_for_real_servers(6).unwrap();
    keepalived.reload(&[virtual_server(3)]).unwrap();
    wait_for_real_servers(3).unwrap();
    reference.web_servers["web-1"].kill().unwrap();
    wait_for_real_servers(2).unwrap();
}
