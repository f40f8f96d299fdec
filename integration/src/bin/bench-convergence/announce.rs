//! The whole way from a served address to the next hop in the router's FIB, and an announcer's
//! life beside exabgp's.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use daemon_api::dataplane::v1::{
    WatchServiceAddressesRequest, data_plane_service_client::DataPlaneServiceClient,
    watch_service_addresses_response::Event,
};
use ipnet::IpNet;
use lab::reference::{Options, SERVICE_RANGE};
use lab::system::{Daemon, Desired, System};
use lab::{ensure_that, wait_for};
use tokio::sync::oneshot;
use tonic::transport::Endpoint;

use crate::rounds::{self, Announcer};
use integration::report::{Figures, Report};

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let options = Options {
        web_pods: 3,
        ..Options::default()
    };
    let mut system = System::new("bench-announce", options)?;
    let served = system.unchecked_web();
    system.write_desired(&served)?;
    for daemon in [
        Daemon::RouteReflector(0),
        Daemon::NodeRouter(0),
        Daemon::PodWatcher(0),
        Daemon::IpvsProgrammer(0),
    ] {
        system.start(daemon)?;
    }
    wait_until_ready(&system, Daemon::IpvsProgrammer(0))?;
    let _gobgp = rounds::start_gobgp(&system)?;
    let ours = [IpAddr::from(system.network.nodes[0].address.addr())];
    let sides = [Announcer::ours(&system), Announcer::exabgp(&system)?];
    let [our_lives, their_lives] = rounds::measure(rounds, &mut system, &sides)?;
    const BESIDE: &str = "exabgp + GoBGP";
    report.compare(
        "announcer started -> next hop in the FIB",
        "ms",
        our_lives.start,
        (BESIDE, their_lives.start),
    );
    report.compare(
        "announcer killed -> next hop gone",
        "ms",
        our_lives.death,
        (BESIDE, their_lives.death),
    );
    report.ours_alone(
        "data plane ready -> next hop in the FIB",
        "ms",
        from_ready(&mut system, rounds, &served, &ours)?,
    );
    report.ours_alone(
        "file written -> next hop in the FIB",
        "ms",
        from_file(&mut system, rounds, &served, &ours)?,
    );
    report.ours_alone("resident memory of exabgp alone", "MiB", their_lives.memory);
    Ok(())
}

/// From the moment that the data plane tells its watchers that it serves.
fn from_ready(
    system: &mut System,
    rounds: usize,
    served: &Desired,
    ours: &[IpAddr],
) -> Result<Figures> {
    let range = IpNet::from(SERVICE_RANGE);
    system.start(Daemon::BgpAnnouncer(0))?;
    system.fib.wait_for(range, ours, DEADLINE)?;
    let mut figures = Figures::default();
    for _ in 0..rounds {
        take_back(system)?;
        let (watching, watches) = oneshot::channel();
        let watcher = system
            .host(Daemon::IpvsProgrammer(0))?
            .spawn_inside(move || served_at(range, watching))?;
        watches.blocking_recv().context("the watch has begun")?;
        system.write_desired(served)?;
        let up = system.fib.wait_for(range, ours, DEADLINE)?.at;
        let ready = watcher.join().expect("the watch does not panic")?;
        figures.add_time(up.saturating_duration_since(ready));
    }
    Ok(figures)
}

/// The whole way: file, kernel, node route, reflector, router.
fn from_file(
    system: &mut System,
    rounds: usize,
    served: &Desired,
    ours: &[IpAddr],
) -> Result<Figures> {
    let range = IpNet::from(SERVICE_RANGE);
    let mut figures = Figures::default();
    for _ in 0..rounds {
        take_back(system)?;
        let began = Instant::now();
        system.write_desired(served)?;
        figures.add_time(system.fib.wait_for(range, ours, DEADLINE)?.at - began);
    }
    Ok(figures)
}

/// Serves nothing, and waits until the router knows.
fn take_back(system: &System) -> Result<()> {
    let range = IpNet::from(SERVICE_RANGE);
    system.write_desired(&Desired::new([range]))?;
    system.fib.wait_for(range, &[], DEADLINE)?;
    Ok(())
}

/// When the data plane says that it serves the range. Runs inside the lb pod's namespace.
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
                    // Whoever waits for it may have given up.
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

fn wait_until_ready(system: &System, daemon: Daemon) -> Result<()> {
    wait_for(&format!("{daemon} is ready"), DEADLINE, || {
        let (status, text) = system
            .readiness(daemon)
            .map_err(|error| format!("{error:#}"))?;
        ensure_that(status == 200, text)
    })
}

/// A service address of the reference network, with its port.
pub(crate) fn service(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), 80)
}
