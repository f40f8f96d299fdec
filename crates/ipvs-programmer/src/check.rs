//! Health checks: one task for each real server and kind of check, shared by the virtual servers
//! that check it alike.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use daemon_runtime::timeout_after_poll;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};
use virtual_server::{HealthCheck, HealthCheckKind, RealServer, VirtualServer, VirtualServerId};

use crate::{
    health::{Health, HealthTracker},
    metrics::CheckMetrics,
    status::CheckState,
};

/// What is checked, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CheckKey {
    target: SocketAddr,
    check: HealthCheck,
}

/// What a check has found out.
#[derive(Debug)]
pub struct CheckEvent {
    key: CheckKey,
    health: Health,
    last_error: String,
}

/// The running checks.
#[derive(Debug)]
pub struct Checks {
    events: mpsc::Sender<CheckEvent>,
    metrics: CheckMetrics,
    tasks: JoinSet<()>,
    running: HashMap<CheckKey, Running>,
    /// What real servers that nobody checks are said to be since.
    started: Instant,
}

#[derive(Debug)]
struct Running {
    users: BTreeSet<VirtualServerId>,
    task: AbortHandle,
    state: CheckState,
    microseconds: Arc<AtomicU32>,
}

impl CheckKey {
    /// The check of a real server; `None`: it is not checked.
    pub fn of(virtual_server: &VirtualServer, real_server: &RealServer) -> Option<Self> {
        let port = virtual_server.health_check_port(real_server)?;
        let check = HealthCheck {
            // The target says it.
            kind: HealthCheckKind::TcpConnect { port: None },
            ..virtual_server.health_check?
        };
        Some(Self {
            target: SocketAddr::new(real_server.address, port.get()),
            check,
        })
    }
}

impl Checks {
    /// None are running; what they find out goes to `events`.
    pub fn new(events: mpsc::Sender<CheckEvent>, metrics: CheckMetrics) -> Self {
        Self {
            events,
            metrics,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            started: Instant::now(),
        }
    }

    /// Checks the real servers of a virtual server, and those of its earlier form no more.
    pub fn set(&mut self, before: Option<&VirtualServer>, after: Option<&VirtualServer>) {
        let keys = |virtual_server: Option<&VirtualServer>| -> Vec<CheckKey> {
            virtual_server
                .into_iter()
                .flat_map(|server| {
                    server
                        .real_servers
                        .iter()
                        .filter_map(|real| CheckKey::of(server, real))
                })
                .collect()
        };
        let after_keys = keys(after);
        for key in &after_keys {
            let id = after.expect("it has keys").id;
            self.start(*key).users.insert(id);
        }
        for key in keys(before) {
            if after_keys.contains(&key) {
                continue;
            }
            let id = before.expect("it has keys").id;
            if let Some(running) = self.running.get_mut(&key) {
                running.users.remove(&id);
                if running.users.is_empty() {
                    running.task.abort();
                    self.running.remove(&key);
                }
            }
        }
    }

    fn start(&mut self, key: CheckKey) -> &mut Running {
        let (tasks, events, metrics) = (&mut self.tasks, &self.events, &self.metrics);
        self.running.entry(key).or_insert_with(|| {
            let microseconds = Arc::new(AtomicU32::new(0));
            let check = run(
                key,
                events.clone(),
                Arc::clone(&microseconds),
                metrics.clone(),
            );
            Running {
                users: BTreeSet::new(),
                task: tasks.spawn(check),
                state: CheckState {
                    health: Health::Unchecked,
                    last_error: String::new(),
                    changed: Instant::now(),
                },
                microseconds,
            }
        })
    }

    /// Takes over what a check has found out; returns the virtual servers that it concerns.
    pub fn record(&mut self, event: CheckEvent) -> Vec<VirtualServerId> {
        // The event of a check that was stopped meanwhile concerns nobody.
        let Some(running) = self.running.get_mut(&event.key) else {
            return Vec::new();
        };
        if running.state.health != event.health {
            tracing::info!(
                target = %event.key.target,
                before = ?running.state.health,
                health = ?event.health,
                error = event.last_error,
                "the health of a real server has changed"
            );
            running.state.health = event.health;
            running.state.changed = Instant::now();
        }
        running.state.last_error = event.last_error;
        running.users.iter().copied().collect()
    }

    /// What is known of a real server.
    pub fn state(&self, virtual_server: &VirtualServer, real_server: &RealServer) -> CheckState {
        let running = CheckKey::of(virtual_server, real_server)
            .and_then(|key| self.running.get(&key).map(|running| running.state.clone()));
        running.unwrap_or_else(|| CheckState {
            health: if virtual_server.health_check.is_some() {
                Health::Unchecked
            } else {
                Health::Healthy
            },
            last_error: String::new(),
            changed: self.started,
        })
    }

    /// Duration of the last successful check of each.
    pub fn microseconds(&self) -> HashMap<CheckKey, u32> {
        self.running
            .iter()
            .map(|(key, running)| (*key, running.microseconds.load(Ordering::Relaxed)))
            .collect()
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.running.len()
    }

    /// Returns when a check has panicked.
    pub async fn panicked(&mut self) -> JoinError {
        loop {
            match self.tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => return error,
                Some(Err(_) | Ok(())) => {}
                None => std::future::pending().await,
            }
        }
    }
}

async fn run(
    key: CheckKey,
    events: mpsc::Sender<CheckEvent>,
    microseconds: Arc<AtomicU32>,
    metrics: CheckMetrics,
) {
    let check = key.check;
    let jitter = check.initial_jitter.mul_f64(rand::random_range(0.0..=1.0));
    sleep(jitter).await;
    let mut tracker = HealthTracker::new(check.rise, check.fall);
    let mut told = None;
    let mut ticks = interval(check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let start = Instant::now();
        let result = connect(key.target, check.timeout).await;
        metrics.ended(result.is_ok(), start.elapsed());
        if result.is_ok() {
            let elapsed = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
            microseconds.store(elapsed.max(1), Ordering::Relaxed);
        }
        let health = tracker.record(result.is_ok());
        let last_error = result.err().unwrap_or_default();
        let news = (health, last_error);
        if told.as_ref() != Some(&news) {
            let (health, last_error) = news.clone();
            if events
                .send(CheckEvent {
                    key,
                    health,
                    last_error,
                })
                .await
                .is_err()
            {
                return;
            }
            told = Some(news);
        }
    }
}

/// Opens a connection and closes it again.
async fn connect(target: SocketAddr, limit: Duration) -> Result<(), String> {
    match timeout_after_poll(limit, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => {
            // A reset leaves no TIME_WAIT behind; thousands of those would use up the ports.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Ok(())
        }
        Ok(Err(error)) => Err(format!("cannot connect to {target}: {error}")),
        Err(_) => Err(format!(
            "cannot connect to {target}: no answer within {limit:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::timeout};
    use virtual_server::ForwardingMethod;

    use super::*;
    use crate::testing::virtual_server;

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

    async fn next(events: &mut mpsc::Receiver<CheckEvent>) -> CheckEvent {
        timeout(LIMIT, events.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_real_server_that_stops_listening_fails_and_returns() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = local("tcp/10.1.1.10:80", address.port());
        let (sender, mut events) = mpsc::channel(9);
        let mut checks = Checks::new(sender, CheckMetrics::default());
        checks.set(None, Some(&server));
        assert_eq!(checks.record(next(&mut events).await), [server.id]);
        let state = |checks: &Checks| checks.state(&server, &server.real_servers[0]);
        assert_eq!(state(&checks).health, Health::Healthy);

        drop(listener);
        let mut seen = Vec::new();
        while state(&checks).health == Health::Healthy {
            checks.record(next(&mut events).await);
            seen.push(state(&checks));
        }
        let [first, .., last] = seen.as_slice() else {
            panic!("fall is 2: {seen:?}")
        };
        assert_eq!(
            (first.health, last.health),
            (Health::Healthy, Health::Failed)
        );
        assert!(
            first.last_error.starts_with("cannot connect to 127.0.0.1:"),
            "{first:?}"
        );

        let _listener = TcpListener::bind(address).await.unwrap();
        while state(&checks).health == Health::Failed {
            checks.record(next(&mut events).await);
        }
        assert_eq!(state(&checks).last_error, "");
    }

    #[tokio::test]
    async fn virtual_servers_that_check_alike_share_a_check() {
        let one = local("tcp/10.1.1.10:80", 9);
        let mut other = local("tcp/10.1.1.11:80", 9);
        let (sender, _events) = mpsc::channel(9);
        let mut checks = Checks::new(sender, CheckMetrics::default());
        checks.set(None, Some(&one));
        checks.set(None, Some(&other));
        assert_eq!(checks.count(), 1);
        let before = other.clone();
        other.health_check.as_mut().unwrap().fall = 7;
        checks.set(Some(&before), Some(&other));
        assert_eq!(checks.count(), 2);
        checks.set(Some(&one), None);
        assert_eq!(checks.count(), 1);
        checks.set(Some(&other), None);
        assert_eq!(checks.count(), 0);
    }

    #[tokio::test]
    async fn a_real_server_without_check_is_healthy() {
        let mut server = local("tcp/10.1.1.10:80", 9);
        server.health_check = None;
        let (sender, _events) = mpsc::channel(9);
        let checks = Checks::new(sender, CheckMetrics::default());
        assert_eq!(
            checks.state(&server, &server.real_servers[0]).health,
            Health::Healthy
        );
    }
}
