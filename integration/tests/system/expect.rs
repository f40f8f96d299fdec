//! What tests of failures wait for, each with a deadline, and the load under which they do it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use lab::http::{self, Load, PersistentConnections};
use lab::reference::{SERVICE, SERVICE_RANGE};
use lab::system::{Daemon, System};
use lab::wait_for;

/// For anything that is to happen, on the slowest floor.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Connections that a client keeps open.
pub(crate) const CONNECTIONS: usize = 32;

/// What the router has a route for.
pub(crate) fn service_range() -> IpNet {
    SERVICE_RANGE.into()
}

/// What a client connects to.
pub(crate) fn service() -> SocketAddr {
    SocketAddr::new(SERVICE.into(), 80)
}

/// Asks until `attempt` succeeds.
pub(crate) fn eventually(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    wait_for(what, SOON, || {
        attempt().map_err(|error| format!("{error:#}"))
    })
}

/// Waits until a line of a daemon's `/readyz` begins and goes on like this.
pub(crate) fn until_readyz(
    system: &System,
    daemon: Daemon,
    step: &str,
    detail: &str,
) -> Result<()> {
    let what = format!("/readyz of {daemon} says `{step}` and {detail:?}");
    eventually(&what, || {
        let (_, text) = system.readiness(daemon)?;
        let mut lines = text.lines();
        let is_there = lines.any(|line| line.starts_with(step) && line.contains(detail));
        ensure!(is_there, "{text}");
        Ok(())
    })
}

/// Waits until a daemon is ready.
pub(crate) fn until_ready(system: &System, daemon: Daemon) -> Result<()> {
    eventually(&format!("{daemon} is ready"), || {
        let (status, text) = system.readiness(daemon)?;
        ensure!(status == 200, "{status}: {text}");
        Ok(())
    })
}

/// Waits until an lb pod's table has a real server with this weight; `None`: not at all.
pub(crate) fn until_weight(
    system: &System,
    lb_pod: usize,
    real_server: IpAddr,
    weight: Option<u32>,
) -> Result<()> {
    let what = format!("lb pod {lb_pod} has {real_server} with weight {weight:?}");
    eventually(&what, || {
        let virtual_servers = system.virtual_servers(lb_pod)?;
        let found = virtual_servers
            .iter()
            .flat_map(|virtual_server| &virtual_server.real_servers)
            .filter(|status| status.programmed)
            .find(|status| {
                let desired = status.desired.as_ref();
                desired.is_some_and(|desired| desired.address == real_server.to_string())
            })
            .map(|status| status.effective_weight);
        ensure!(found == weight, "weight {found:?}");
        Ok(())
    })
}

/// The value of a metric without labels.
pub(crate) fn metric(system: &System, daemon: Daemon, name: &str) -> Result<f64> {
    let text = system.metrics(daemon)?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .with_context(|| format!("{daemon} has no metric {name}:\n{text}"))?;
    value.parse().with_context(|| format!("{name} is {value}"))
}

/// Connections that a client uses ten times a second until they are stopped.
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

/// Every connection is used twice more, and none was lost.
pub(crate) fn ensure_none_was_lost(connections: PersistentConnections) -> Result<()> {
    connections.wait_for_answers(2 * CONNECTIONS, SOON)?;
    let tally = connections.stop()?;
    ensure!(tally.lost() + tally.refused == 0, "lost: {tally:?}");
    Ok(())
}

/// Runs `event` while a client keeps connections open and makes new ones without pause; an error
/// if it loses a connection or a single request fails.
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
    let answered = new.map_err(|_| anyhow::anyhow!("the load's thread has panicked"))??;
    ensure!(answered > 0, "no new connection was made");
    ensure_none_was_lost(connections)?;
    Ok(value)
}

/// An error if the router's routes have changed since it had `changes`.
pub(crate) fn ensure_no_route_changed(system: &System, changes: usize) -> Result<()> {
    let all = system.fib.changes();
    ensure!(all.len() == changes, "{:?}", &all[changes..]);
    Ok(())
}
