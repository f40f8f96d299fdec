//! Times from an event of the data plane, or from the start or the kill of an announcer, to the
//! change in the router's FIB.
//!
//! A fake data plane sends the events, so this part of the benchmark needs no IPVS and runs on any
//! kernel.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use daemon_api::dataplane::v1::MissingStep;
use ipnet::IpNet;
use lab::fake::{FakeDataPlaneServer, Heartbeats};
use lab::reference::{LbPods, ReferenceOptions, SERVICE_RANGE};
use lab::system::{DaemonInstance, System};

use crate::rounds::{self, Announcer};
use integration::report::{BenchmarkTable, Figures};

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn measure(rounds: usize, report: &mut BenchmarkTable) -> Result<()> {
    let options = ReferenceOptions {
        web_pods: 0,
        router_peers: vec![rounds::bird_announcer()],
        lb_pods: LbPods::Announce,
        ..ReferenceOptions::default()
    };
    let mut system = System::new("bench-route", options)?;
    let lb_pod = system.host(DaemonInstance::BgpAnnouncer(0))?;
    let data_plane = FakeDataPlaneServer::start(&lb_pod, Heartbeats::Sent)?;
    data_plane.set(MissingStep::None, "");
    system.start(DaemonInstance::RouteReflector(0))?;
    system.start(DaemonInstance::NodeRouter(0))?;
    let _gobgp = rounds::start_gobgp(&system)?;

    let sides = [
        Announcer::portlb(&system),
        Announcer::exabgp(&system)?,
        Announcer::bird(&system)?,
    ];
    let [portlb, exabgp, bird] = rounds::measure(rounds, &mut system, &sides)?;
    report.compare(
        "announcer started -> next hop in the FIB",
        "ms",
        portlb.start,
        ("exabgp + GoBGP", exabgp.start),
    );
    for (other, death) in [
        ("exabgp + GoBGP", exabgp.death),
        ("BIRD, no reflector", bird.death),
    ] {
        report.compare(
            "announcer killed -> next hop gone",
            "ms",
            portlb.death.clone(),
            (other, death),
        );
    }
    let (ready, missing) = from_data_plane(&mut system, rounds, &data_plane)?;
    report.single("data plane ready -> next hop in the FIB", "ms", ready);
    report.single("data plane stops serving -> next hop gone", "ms", missing);
    Ok(())
}

fn from_data_plane(
    system: &mut System,
    rounds: usize,
    data_plane: &FakeDataPlaneServer,
) -> Result<(Figures, Figures)> {
    let range = IpNet::from(SERVICE_RANGE);
    let next_hop = [IpAddr::from(system.network.nodes[0].address.addr())];
    system.start(DaemonInstance::BgpAnnouncer(0))?;
    system.fib.wait_for(range, &next_hop, DEADLINE)?;
    let (mut ready, mut missing) = (Figures::default(), Figures::default());
    for _ in 0..rounds {
        let began = Instant::now();
        data_plane.set(MissingStep::Healthy, "no real server is healthy");
        missing.add_time(system.fib.wait_for(range, &[], DEADLINE)?.at - began);
        let began = Instant::now();
        data_plane.set(MissingStep::None, "");
        ready.add_time(system.fib.wait_for(range, &next_hop, DEADLINE)?.at - began);
    }
    Ok((ready, missing))
}
