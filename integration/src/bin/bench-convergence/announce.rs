//! Times from an event at a load balancer to the change in the router's FIB.
//!
//! The events are: the data plane reports the service range as serving, a new file is written, an
//! announcer starts, and an announcer is killed. For the start and the kill, portlb's announcer is
//! compared with exabgp.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use daemon_api::dataplane::v1::{
    WatchServiceAddressesRequest, data_plane_service_client::DataPlaneServiceClient,
    watch_service_addresses_response::Event,
};
use ipnet::IpNet;
use lab::reference::{ReferenceOptions, SERVICE_RANGE};
use lab::system::{DaemonInstance, Desired, System};
use lab::{ensure_that, wait_for};
use tokio::sync::oneshot;
use tonic::transport::Endpoint;

use crate::rounds::{self, Announcer};
use integration::report::{BenchmarkTable, Figures};

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn measure(rounds: usize, report: &mut BenchmarkTable) -> Result<()> {
    let options = ReferenceOptions {
        web_pods: 3,
        ..ReferenceOptions::default()
    };
    let mut system = System::new("bench-announce", options)?;
    let served = system.unchecked_web();
    system.write_desired(&served)?;
    for daemon in [
        DaemonInstance::RouteReflector(0),
        DaemonInstance::NodeRouter(0),
        DaemonInstance::PodWatcher(0),
        DaemonInstance::IpvsProgrammer(0),
    ] {
        system.start(daemon)?;
    }
    wait_until_ready(&system, DaemonInstance::IpvsProgrammer(0))?;
    let _gobgp = rounds::start_gobgp(&system)?;
    let next_hops = [IpAddr::from(system.network.nodes[0].address.addr())];
    let sides = [Announcer::portlb(&system), Announcer::exabgp(&system)?];
    let [portlb_lifetimes, exabgp_lifetimes] = rounds::measure(rounds, &mut system, &sides)?;
    const OTHER: &str = "exabgp + GoBGP";
    report.compare(
        "announcer started -> next hop in the FIB",
        "ms",
        portlb_lifetimes.start,
        (OTHER, exabgp_lifetimes.start),
    );
    report.compare(
        "announcer killed -> next hop gone",
        "ms",
        portlb_lifetimes.death,
        (OTHER, exabgp_lifetimes.death),
    );
    report.single(
        "data plane ready -> next hop in the FIB",
        "ms",
        from_ready(&mut system, rounds, &served, &next_hops)?,
    );
    report.single(
        "file written -> next hop in the FIB",
        "ms",
        from_file(&mut system, rounds, &served, &next_hops)?,
    );
    report.single(
        "resident memory of exabgp alone",
        "MiB",
        exabgp_lifetimes.memory,
    );
    Ok(())
}

/// Measures the time from the data plane's event that the service range is serving to the next hop
/// in the router's FIB.
fn from_ready(
    system: &mut System,
    rounds: usize,
    served: &Desired,
    next_hops: &[IpAddr],
) -> Result<Figures> {
    let range = IpNet::from(SERVICE_RANGE);
    system.start(DaemonInstance::BgpAnnouncer(0))?;
    system.fib.wait_for(range, next_hops, DEADLINE)?;
    let mut figures = Figures::default();
    for _ in 0..rounds {
        withdraw(system)?;
        let (watching, watches) = oneshot::channel();
        let watcher = system
            .host(DaemonInstance::IpvsProgrammer(0))?
            .spawn_inside(move || served_at(range, watching))?;
        watches
            .blocking_recv()
            .context("the watch has ended before it was synced")?;
        system.write_desired(served)?;
        let up = system.fib.wait_for(range, next_hops, DEADLINE)?.at;
        let ready = watcher
            .join()
            .expect("the watching thread has not panicked")?;
        figures.add_time(up.saturating_duration_since(ready));
    }
    Ok(figures)
}

/// Measures the time from the write of a new file to the next hop in the router's FIB. In this time
/// the change passes the kernel's table, the node route and the reflector.
fn from_file(
    system: &mut System,
    rounds: usize,
    served: &Desired,
    next_hops: &[IpAddr],
) -> Result<Figures> {
    let range = IpNet::from(SERVICE_RANGE);
    let mut figures = Figures::default();
    for _ in 0..rounds {
        withdraw(system)?;
        let began = Instant::now();
        system.write_desired(served)?;
        figures.add_time(system.fib.wait_for(range, next_hops, DEADLINE)?.at - began);
    }
    Ok(figures)
}

/// Removes all virtual servers, and waits until the router has no next hop.
fn withdraw(system: &System) -> Result<()> {
    let range = IpNet::from(SERVICE_RANGE);
    system.write_desired(&Desired::new([range]))?;
    system.fib.wait_for(range, &[], DEADLINE)?;
    Ok(())
}

/// Watches the data plane, and returns the time at which the data plane reports `range` as serving.
/// Sends a message to `watching` when the watch is synced. Must run inside the lb pod's namespace.
fn served_at(range: IpNet, watching: oneshot::Sender<()>) -> Result<Instant> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let channel = Endpoint::from_static("http://127.0.0.1:50052")
            .connect()
            .await?;
        let request = WatchServiceAddressesRequest::default();
        let mut stream = DataPlaneServiceClient::new(channel)
            .watch_service_addresses(request)
            .await?
            .into_inner();
        let mut watching = Some(watching);
        while let Some(message) = stream.message().await? {
            match message.event {
                Some(Event::Synced(_)) => {
                    // An error is ignored: the send fails only if the receiving thread has stopped
                    // the measurement.
                    let _ = watching.take().map(|watching| watching.send(()));
                }
                Some(Event::ServiceAddress(address))
                    if address.serving && address.prefix == range.to_string() =>
                {
                    return Ok(Instant::now());
                }
                Some(
                    Event::ServiceAddress(_)
                    | Event::RemovedServiceAddress(_)
                    | Event::Heartbeat(_),
                )
                | None => {}
            }
        }
        anyhow::bail!("the data plane has ended the watch")
    })
}

fn wait_until_ready(system: &System, daemon: DaemonInstance) -> Result<()> {
    wait_for(&format!("{daemon} is ready"), DEADLINE, || {
        let (status, text) = system
            .readiness(daemon)
            .map_err(|error| format!("{error:#}"))?;
        ensure_that(status == 200, text)
    })
}

/// Returns the socket address of port 80 of a service address.
pub(crate) fn service(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), 80)
}
