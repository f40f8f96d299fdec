//! Running health checks, one task for each distinct check.
//!
//! Virtual servers that check a real server with equal settings share one task.

mod key;
mod probe;
mod tracker;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};
use virtual_server::{RealServer, VirtualServer, VirtualServerId};

use crate::metrics::HealthCheckMetrics;
use tracker::HealthTracker;

pub(crate) use key::HealthCheckKey;
pub(crate) use probe::ProbeError;
pub use tracker::Health;

/// A result of a health check that differs from the previous result.
#[derive(Debug)]
pub(crate) struct HealthCheckEvent {
    key: HealthCheckKey,
    health: Health,
    last_error: Option<ProbeError>,
}

/// The health of a real server according to its health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthState {
    /// `Healthy` if the real server has no health check.
    pub(crate) health: Health,
    /// Error of the last probe. `None`: the last probe succeeded, or no probe has ended.
    pub(crate) last_error: Option<ProbeError>,
    /// Time of the last change of `health`, or of the start of the health check.
    pub(crate) changed: Instant,
}

/// The tasks and results of all running health checks.
#[derive(Debug)]
pub(crate) struct HealthChecks {
    events: mpsc::Sender<HealthCheckEvent>,
    metrics: HealthCheckMetrics,
    tasks: JoinSet<()>,
    running: HashMap<HealthCheckKey, RunningHealthCheck>,
    /// Change time reported for real servers without a health check.
    started: Instant,
}

#[derive(Debug)]
struct RunningHealthCheck {
    users: BTreeSet<VirtualServerId>,
    task: AbortHandle,
    state: HealthState,
    /// Duration of the last successful probe, in microseconds. 0: no probe has succeeded.
    microseconds: Arc<AtomicU32>,
}

impl HealthChecks {
    /// Returns an empty set of health checks, which will send changed results to `events`.
    pub(crate) fn new(events: mpsc::Sender<HealthCheckEvent>, metrics: HealthCheckMetrics) -> Self {
        Self {
            events,
            metrics,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            started: Instant::now(),
        }
    }

    /// Starts the health checks of `after`, the new state of a virtual server, and stops the health
    /// checks of `before` that no virtual server uses any longer.
    pub(crate) fn replace(
        &mut self,
        before: Option<&VirtualServer>,
        after: Option<&VirtualServer>,
    ) {
        let after_keys = after.map(keys).unwrap_or_default();
        for (id, key) in &after_keys {
            self.start(*key).users.insert(*id);
        }
        for (id, key) in before.map(keys).unwrap_or_default() {
            if after_keys.contains(&(id, key)) {
                continue;
            }
            if let Some(running) = self.running.get_mut(&key) {
                running.users.remove(&id);
                if running.users.is_empty() {
                    running.task.abort();
                    self.running.remove(&key);
                }
            }
        }
    }

    fn start(&mut self, key: HealthCheckKey) -> &mut RunningHealthCheck {
        let (tasks, events, metrics) = (&mut self.tasks, &self.events, &self.metrics);
        self.running.entry(key).or_insert_with(|| {
            let microseconds = Arc::new(AtomicU32::new(0));
            let task = run(
                key,
                events.clone(),
                Arc::clone(&microseconds),
                metrics.clone(),
            );
            RunningHealthCheck {
                users: BTreeSet::new(),
                task: tasks.spawn(task),
                state: HealthState {
                    health: Health::Unchecked,
                    last_error: None,
                    changed: Instant::now(),
                },
                microseconds,
            }
        })
    }

    /// Records a result. Returns the virtual servers that use this health check.
    pub(crate) fn record(&mut self, event: HealthCheckEvent) -> Vec<VirtualServerId> {
        // No running health check has this key if the health check was stopped after it had sent
        // the event.
        let Some(running) = self.running.get_mut(&event.key) else {
            return Vec::new();
        };
        if running.state.health != event.health {
            tracing::info!(
                target = %event.key.target(),
                before = ?running.state.health,
                health = ?event.health,
                error = event.last_error.as_ref().map(ToString::to_string),
                "health of a real server changed"
            );
            running.state.health = event.health;
            running.state.changed = Instant::now();
        }
        running.state.last_error = event.last_error;
        running.users.iter().copied().collect()
    }

    /// Returns the health of a real server.
    pub(crate) fn state(
        &self,
        virtual_server: &VirtualServer,
        real_server: &RealServer,
    ) -> HealthState {
        let running = HealthCheckKey::of(virtual_server, real_server)
            .and_then(|key| self.running.get(&key).map(|running| running.state.clone()));
        running.unwrap_or_else(|| HealthState {
            health: if virtual_server.health_check.is_some() {
                Health::Unchecked
            } else {
                Health::Healthy
            },
            last_error: None,
            changed: self.started,
        })
    }

    /// Returns the duration of the last successful probe of each health check. Health checks
    /// without a successful probe are not included.
    pub(crate) fn durations(&self) -> HashMap<HealthCheckKey, Duration> {
        self.running
            .iter()
            .map(|(key, running)| (*key, running.microseconds.load(Ordering::Relaxed)))
            .filter(|(_, microseconds)| *microseconds > 0)
            .map(|(key, microseconds)| (key, Duration::from_micros(microseconds.into())))
            .collect()
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.running.len()
    }

    /// Waits until a health check task panics.
    pub(crate) async fn panicked(&mut self) -> JoinError {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => return error,
                Some(Err(_) | Ok(())) => {}
                None => std::future::pending().await,
            }
        }
    }
}

fn keys(virtual_server: &VirtualServer) -> Vec<(VirtualServerId, HealthCheckKey)> {
    let real_servers = virtual_server.real_servers.iter();
    real_servers
        .filter_map(|real_server| HealthCheckKey::of(virtual_server, real_server))
        .map(|key| (virtual_server.id, key))
        .collect()
}

async fn run(
    key: HealthCheckKey,
    events: mpsc::Sender<HealthCheckEvent>,
    microseconds: Arc<AtomicU32>,
    metrics: HealthCheckMetrics,
) {
    let settings = key.settings();
    let jitter = settings
        .initial_jitter
        .mul_f64(rand::random_range(0.0..=1.0));
    sleep(jitter).await;
    let mut tracker = HealthTracker::new(settings.rise, settings.fall);
    let mut reported = None;
    let mut ticks = interval(settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let start = Instant::now();
        let result = key.probe().await;
        metrics.ended(result.is_ok(), start.elapsed());
        if result.is_ok() {
            let elapsed = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
            microseconds.store(elapsed.max(1), Ordering::Relaxed);
        }
        let health = tracker.record(result.is_ok());
        let last_error = result.err();
        if reported.as_ref() == Some(&(health, last_error)) {
            continue;
        }
        reported = Some((health, last_error));
        let event = HealthCheckEvent {
            key,
            health,
            last_error,
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use data_plane_testbed::checked_virtual_server as virtual_server;
    use tokio::{net::TcpListener, time::timeout};
    use virtual_server::{ForwardingMethod, HealthCheck, HealthCheckKind};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn local(id: &str, port: u16) -> VirtualServer {
        let mut server = virtual_server(id, ForwardingMethod::Masquerade);
        server.real_servers.truncate(1);
        server.real_servers[0].address = "127.0.0.1".parse().unwrap();
        server.real_servers[0].port = std::num::NonZeroU16::new(port);
        server.health_check = Some(HealthCheck {
            kind: HealthCheckKind::TcpConnect { port: None },
            interval: Duration::from_millis(50),
            timeout: Duration::from_millis(50),
            rise: 1,
            fall: 2,
            initial_jitter: Duration::ZERO,
        });
        server
    }

    async fn next(events: &mut mpsc::Receiver<HealthCheckEvent>) -> HealthCheckEvent {
        timeout(LIMIT, events.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_real_server_that_stops_listening_fails_until_it_listens_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = local("tcp/10.1.1.10:80", address.port());
        let (sender, mut events) = mpsc::channel(9);
        let mut health_checks = HealthChecks::new(sender, HealthCheckMetrics::default());
        health_checks.replace(None, Some(&server));
        assert_eq!(health_checks.record(next(&mut events).await), [server.id]);
        let state =
            |health_checks: &HealthChecks| health_checks.state(&server, &server.real_servers[0]);
        assert_eq!(state(&health_checks).health, Health::Healthy);

        drop(listener);
        let mut seen = Vec::new();
        while state(&health_checks).health == Health::Healthy {
            health_checks.record(next(&mut events).await);
            seen.push(state(&health_checks));
        }
        let [first, .., last] = seen.as_slice() else {
            panic!("expected at least two results, since fall is 2: {seen:?}")
        };
        assert_eq!(
            (first.health, last.health),
            (Health::Healthy, Health::Failed)
        );
        assert!(
            matches!(first.last_error, Some(ProbeError::Connect { target, .. }) if target == address),
            "{first:?}"
        );

        let _listener = TcpListener::bind(address).await.unwrap();
        while state(&health_checks).health == Health::Failed {
            health_checks.record(next(&mut events).await);
        }
        assert_eq!(state(&health_checks).last_error, None);
    }

    #[tokio::test]
    async fn virtual_servers_with_equal_settings_share_a_health_check() {
        let one = local("tcp/10.1.1.10:80", 9);
        let mut other = local("tcp/10.1.1.11:80", 9);
        let (sender, _events) = mpsc::channel(9);
        let mut health_checks = HealthChecks::new(sender, HealthCheckMetrics::default());
        health_checks.replace(None, Some(&one));
        health_checks.replace(None, Some(&other));
        assert_eq!(health_checks.count(), 1);
        let before = other.clone();
        other.health_check.as_mut().unwrap().fall = 7;
        health_checks.replace(Some(&before), Some(&other));
        assert_eq!(health_checks.count(), 2);
        health_checks.replace(Some(&one), None);
        assert_eq!(health_checks.count(), 1);
        health_checks.replace(Some(&other), None);
        assert_eq!(health_checks.count(), 0);
    }

    #[tokio::test]
    async fn a_real_server_without_health_check_is_healthy() {
        let mut server = local("tcp/10.1.1.10:80", 9);
        server.health_check = None;
        let (sender, _events) = mpsc::channel(9);
        let health_checks = HealthChecks::new(sender, HealthCheckMetrics::default());
        assert_eq!(
            health_checks.state(&server, &server.real_servers[0]).health,
            Health::Healthy
        );
    }
}
