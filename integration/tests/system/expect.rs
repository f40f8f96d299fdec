//! Waits with a deadline, and client load, for tests of the whole system.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use lab::http::{self, Load, PersistentConnections};
use lab::reference::{SERVICE, SERVICE_RANGE};
use lab::system::{DaemonInstance, System};
use lab::wait_for;

/// Limit for a wait. Every expected event happens within this time, also in the slowest
/// environment.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Number of connections that the load keeps open.
pub(crate) const CONNECTIONS: usize = 32;

/// Returns the IPv4 service range, for which the router has a route.
pub(crate) fn service_range() -> IpNet {
    SERVICE_RANGE.into()
}

/// Returns the IPv4 service address and the port that clients connect to.
pub(crate) fn service() -> SocketAddr {
    SocketAddr::new(SERVICE.into(), 80)
}

/// Repeats `attempt` until it succeeds, for at most [`SOON`].
pub(crate) fn eventually(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    wait_for(what, SOON, || {
        attempt().map_err(|error| format!("{error:#}"))
    })
}

/// Waits until a line of a daemon's `/readyz` begins with `step` and contains `detail`.
pub(crate) fn wait_for_readyz(
    system: &System,
    daemon: DaemonInstance,
    step: &str,
    detail: &str,
) -> Result<()> {
    let what = format!("/readyz of {daemon} has `{step}` with {detail:?}");
    eventually(&what, || {
        let (_, text) = system.readiness(daemon)?;
        let mut lines = text.lines();
        let has_step = lines.any(|line| line.starts_with(step) && line.contains(detail));
        ensure!(has_step, "{text}");
        Ok(())
    })
}

/// Waits until `/readyz` of a daemon answers with status 200.
pub(crate) fn wait_until_ready(system: &System, daemon: DaemonInstance) -> Result<()> {
    eventually(&format!("{daemon} is ready"), || {
        let (status, text) = system.readiness(daemon)?;
        ensure!(status == 200, "{status}: {text}");
        Ok(())
    })
}

/// Waits until the table of an lb pod has `real_server` with `weight`. With `None`, waits until the
/// table does not have the real server.
pub(crate) fn wait_for_weight(
    system: &System,
    lb_pod: usize,
    real_server: IpAddr,
    weight: Option<u32>,
) -> Result<()> {
    let what = format!("lb pod {lb_pod} has {real_server} with weight {weight:?}");
    eventually(&what, || {
        let virtual_servers = system.virtual_servers(lb_pod)?;
        let actual = virtual_servers
            .iter()
            .flat_map(|virtual_server| &virtual_server.real_servers)
            .filter(|status| status.programmed)
            .find(|status| {
                let desired = status.desired.as_ref();
                desired.is_some_and(|desired| desired.address == real_server.to_string())
            })
            .map(|status| status.effective_weight);
        ensure!(actual == weight, "weight {actual:?}");
        Ok(())
    })
}

/// Returns the value of a metric. `name` includes the labels.
pub(crate) fn metric(system: &System, daemon: DaemonInstance, name: &str) -> Result<f64> {
    let text = system.metrics(daemon)?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .with_context(|| format!("{daemon} has no metric {name}:\n{text}"))?;
    value.parse().with_context(|| format!("{name} is {value}"))
}

/// Starts connections that the client keeps open. Each connection sends ten requests a second.
pub(crate) fn persistent_connections(system: &System) -> Result<PersistentConnections> {
    PersistentConnections::start(
        &system.network.client()?,
        Load {
            server: service(),
            connections: CONNECTIONS,
            interval: Duration::from_millis(100),
            patience: Duration::from_secs(10),
        },
    )
}

/// Waits until the connections have received, on average, two more answers each, then stops the
/// load.
///
/// Returns an error if a connection was lost or refused.
pub(crate) fn ensure_no_connection_was_lost(connections: PersistentConnections) -> Result<()> {
    connections.wait_for_answers(2 * CONNECTIONS, SOON)?;
    let tally = connections.stop()?;
    ensure!(tally.lost() + tally.refused == 0, "lost: {tally:?}");
    Ok(())
}

/// Runs `event` while a client keeps connections open and continuously makes new connections.
///
/// Returns an error if a connection is lost or a request over a new connection fails.
pub(crate) fn under_load<T>(
    system: &mut System,
    event: impl FnOnce(&mut System) -> Result<T>,
) -> Result<T> {
    let connections = persistent_connections(system)?;
    let client = system.network.client()?;
    let is_over = AtomicBool::new(false);
    let (result, new) = std::thread::scope(|scope| {
        let new = scope.spawn(|| {
            let mut answered = 0;
            while !is_over.load(Ordering::Relaxed) {
                http::spread(&client, service(), 10, SOON)?;
                answered += 10;
            }
            anyhow::Ok(answered)
        });
        let result = event(system);
        is_over.store(true, Ordering::Relaxed);
        (result, new.join())
    });
    let value = result?;
    let answered = new.map_err(|_| anyhow::anyhow!("the thread of the load panicked"))??;
    ensure!(answered > 0, "no new connection was made");
    ensure_no_connection_was_lost(connections)?;
    Ok(value)
}

/// Returns an error if the router has recorded more than `changes` changes of routes since the
/// start of the lab.
pub(crate) fn ensure_no_route_changed(system: &System, changes: usize) -> Result<()> {
    let all = system.fib.changes();
    ensure!(all.len() == changes, "{:?}", &all[changes..]);
    Ok(())
}
