//! A test of many incomplete HTTP requests to the daemons.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::reference::{ReferenceOptions, reflector_address};
use lab::system::{DaemonInstance, System};
use lab::{MemoryLimit, Process};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::expect::{SOON, ensure_no_route_changed, metric, wait_until_ready};

/// Number of connections to one daemon that the hostile pod keeps open.
const OPEN: usize = 2_000;

/// A request without the empty line at its end, so that the daemon waits for more header fields.
const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: portlb\r\n";

/// A daemon process with the memory limit that the daemon's manifest sets.
struct FloodTarget {
    daemon: DaemonInstance,
    address: SocketAddr,
    process: Process,
    limit: u64,
    cgroup: MemoryLimit,
}

impl FloodTarget {
    fn limit(
        system: &System,
        daemon: DaemonInstance,
        address: IpAddr,
        port: u16,
        mib: u64,
    ) -> Result<Self> {
        let process = system.process(daemon)?.clone();
        let limit = mib * 1024 * 1024;
        Ok(Self {
            daemon,
            address: SocketAddr::new(address, port),
            cgroup: MemoryLimit::set(&process, limit)?,
            process,
            limit,
        })
    }

    /// Sends incomplete requests, and calls `probe` after the first request, then after every 1,000
    /// requests, and after the last request. Returns the first error of `probe`.
    async fn flood(&self, requests: usize, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
        let mut open = VecDeque::new();
        for number in 0..requests {
            let connection = timeout(SOON, TcpStream::connect(self.address)).await;
            let mut stream = connection.context("the connection was not established in time")??;
            // An error is ignored: it means that the daemon has closed this connection to accept a
            // newer one.
            let _ = stream.write_all(HALF).await;
            open.push_back(stream);
            if open.len() > OPEN {
                open.pop_front();
            }
            if number % 1_000 == 0 {
                probe()?;
            }
        }
        probe()
    }

    fn ensure_memory_below_half(&self) -> Result<()> {
        let resident = integration::memory::resident_mebibytes(&[self.process.pid()])?;
        let in_use = self.cgroup.in_use()?;
        let half = self.limit / 2;
        ensure!(
            in_use < half && resident < half as f64 / 1024.0 / 1024.0,
            "{}: the cgroup uses {in_use} octets, {resident} MiB are resident",
            self.daemon
        );
        ensure!(self.cgroup.kills()? == 0, "{} was killed", self.daemon);
        ensure!(self.process.is_running(), "{} has ended", self.daemon);
        Ok(())
    }
}

#[test]
fn thousands_of_incomplete_http_requests_affect_neither_sessions_nor_memory() {
    let mut system = System::new("input-half-sent", ReferenceOptions::default()).unwrap();
    for (program, port) in [
        ("bgp-announcer", 9153),
        ("node-router", 9155),
        ("route-reflector", 9154),
    ] {
        let anywhere = format!("0.0.0.0:{port}");
        system.set_flags(program, &[("--http-listen", &anywhere)]);
    }
    system.start_all().unwrap();
    system.wait_until_announced(&[0, 1, 2], SOON).unwrap();
    let changes = system.fib.changes().len();

    let lb_pod = system.network.lb_pods[0].address.into();
    let node = system.network.nodes[0].address.addr().into();
    let reflector = reflector_address(1).into();
    // All daemons use the HTTP server of one library. Before this server had limits, 2,163
    // incomplete requests exceeded the memory limit of node-router.
    let targets = [
        (DaemonInstance::BgpAnnouncer(0), lb_pod, 9153, 64, 10_000),
        (DaemonInstance::NodeRouter(0), node, 9155, 64, 2_500),
        (
            DaemonInstance::RouteReflector(0),
            reflector,
            9154,
            256,
            2_500,
        ),
    ];
    let hostile = system.network.lab.host(&system.network.web_pods[0].name);
    let hostile = hostile.unwrap();
    for (daemon, address, port, mib, requests) in targets {
        let target = FloodTarget::limit(&system, daemon, address, port, mib).unwrap();
        let probe = || {
            wait_until_ready(&system, daemon)?;
            target.ensure_memory_below_half()
        };
        hostile
            .inside_async(async || target.flood(requests, probe).await)
            .unwrap();
        let name = "portlb_server_connections_cut_total{server=\"http\",reason=\"limit\"}";
        let cut = metric(&system, daemon, name).unwrap();
        assert!(cut > 1_000.0, "{daemon}: {cut}");
    }
    ensure_no_route_changed(&system, changes).unwrap();
}
