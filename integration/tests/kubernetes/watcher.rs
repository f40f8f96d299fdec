//! A pod-watcher process, and the events of its Discovery stream.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use daemon_api::{
    DesiredSetAssembly, DesiredSetEvent,
    discovery::v1::{WatchRequest, discovery_service_client::DiscoveryServiceClient},
};
use lab::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virtual_server::DesiredChange;

use crate::cluster::TestNamespace;

/// Limit for waits. On an idle machine such a wait takes milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct PodWatcherProcess {
    pub(crate) process: Process,
    grpc: SocketAddr,
    http: SocketAddr,
}

/// A Discovery stream, and the events that it has sent so far.
pub(crate) struct DesiredStream {
    shared: Arc<(Mutex<Vec<DesiredSetEvent>>, Condvar)>,
    _runtime: tokio::runtime::Runtime,
}

impl PodWatcherProcess {
    /// Starts a pod-watcher that writes no status. `more` are additional flags.
    pub(crate) fn start(namespace: &TestNamespace<'_>, kubeconfig: &Path, more: &[&str]) -> Self {
        let flags = [&["--write-status=false"], more].concat();
        Self::start_as(namespace, "watcher", kubeconfig, &flags)
    }

    pub(crate) fn start_as(
        namespace: &TestNamespace<'_>,
        name: &str,
        kubeconfig: &Path,
        flags: &[&str],
    ) -> Self {
        let name = format!("{}-{name}", namespace.name);
        let mut command = lab::daemons::command("pod-watcher").unwrap();
        command
            .args(["--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"])
            .args(["--watch-timeout=5s", "--namespaces", namespace.name])
            .args(["--pod-namespace", namespace.name])
            .arg("--allowed-prefixes=10.1.1.0/24")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(flags);
        let log = namespace
            .cluster
            .directory
            .path()
            .join(format!("{name}.log"));
        let process = Process::spawn_bound(&name, &log, command).unwrap();
        let address = |what: &str| -> SocketAddr {
            let (_, line) = process.wait_for_line(what, SOON).unwrap();
            let (_, address) = line.rsplit_once("address=").unwrap();
            address.trim().parse().unwrap()
        };
        let grpc = address("gRPC is served");
        let http = address("HTTP is served");
        Self {
            process,
            grpc,
            http,
        }
    }

    /// Opens a Discovery stream.
    pub(crate) fn watch(&self) -> DesiredStream {
        let shared: Arc<(Mutex<Vec<DesiredSetEvent>>, Condvar)> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let target = format!("http://{}", self.grpc);
        let writer = shared.clone();
        runtime.spawn(async move {
            let mut client = DiscoveryServiceClient::connect(target).await.unwrap();
            let response = client.watch(WatchRequest {}).await.unwrap();
            let mut messages = response.into_inner();
            let mut assembly = DesiredSetAssembly::default();
            while let Ok(Some(message)) = messages.message().await {
                let (events, changed) = &*writer;
                events.lock().unwrap().extend(assembly.receive(message));
                changed.notify_all();
            }
        });
        DesiredStream {
            shared,
            _runtime: runtime,
        }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut stream = tokio::net::TcpStream::connect(self.http).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
    }

    /// Waits until the answer of `/readyz` contains all `words`, and returns the answer.
    pub(crate) fn wait_for_readyz(&self, words: &[&str], within: Duration) -> String {
        lab::wait_for("/readyz", within, || {
            let answer = self.get("/readyz");
            let holds = words.iter().all(|word| answer.contains(word));
            if holds { Ok(answer) } else { Err(answer) }
        })
        .unwrap()
    }

    /// Returns the value of a metric, or 0 if pod-watcher has no such metric. `name` includes the
    /// labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

impl Drop for PodWatcherProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.tail());
        }
        // An error is ignored: it means that the process has ended.
        let _ = self.process.kill();
    }
}

impl DesiredStream {
    /// Returns a line for each virtual server with its real servers, such as `tcp/10.1.1.10:80 ->
    /// 10.0.0.1, 10.0.0.2 draining`. Returns `None` if `synced` has not arrived.
    pub(crate) fn state(&self) -> Option<Vec<String>> {
        state(&self.shared.0.lock().unwrap())
    }

    /// Waits until the lines of [`Self::state`] are `expected`, and returns the time that this
    /// took.
    pub(crate) fn wait_for(&self, expected: &[&str], within: Duration) -> Duration {
        let began = Instant::now();
        let (events, changed) = &*self.shared;
        let (events, _) = changed
            .wait_timeout_while(events.lock().unwrap(), within, |events| {
                state(events).is_none_or(|state| state != expected)
            })
            .unwrap();
        assert_eq!(state(&events).as_deref(), Some(&strings(expected)[..]));
        began.elapsed()
    }

    /// Counts the events that remove a virtual server or a service range.
    pub(crate) fn removals(&self) -> usize {
        let events = self.shared.0.lock().unwrap();
        let is_removal = |event: &&DesiredSetEvent| {
            matches!(
                event,
                DesiredSetEvent::Change(
                    DesiredChange::RemoveVirtualServer(_) | DesiredChange::RemoveServiceRange(_)
                )
            )
        };
        events.iter().filter(is_removal).count()
    }

    pub(crate) fn event_count(&self) -> usize {
        self.shared.0.lock().unwrap().len()
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn state(events: &[DesiredSetEvent]) -> Option<Vec<String>> {
    let mut set = virtual_server::DesiredSet::default();
    let mut is_synced = false;
    for event in events {
        match event.clone() {
            DesiredSetEvent::Change(change) => set.apply(change),
            DesiredSetEvent::Invalid { error, .. } => panic!("{error}"),
            DesiredSetEvent::Synced => is_synced = true,
        }
    }
    let servers = set.virtual_servers.values().map(|server| {
        let real_servers: Vec<String> = server
            .real_servers
            .iter()
            .map(|real_server| {
                let state = match real_server.state {
                    virtual_server::RealServerState::Ready => "",
                    virtual_server::RealServerState::Draining => " draining",
                };
                format!("{}{state}", real_server.address)
            })
            .collect();
        format!("{} -> {}", server.id, real_servers.join(", "))
    });
    is_synced.then(|| servers.collect())
}
