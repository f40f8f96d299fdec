//! A pod-watcher, and what it says.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use daemon_api::{
    DesiredEvent, DesiredSetAssembly,
    discovery::v1::{WatchRequest, discovery_service_client::DiscoveryServiceClient},
};
use lab::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use virtual_server::DesiredChange;

use crate::cluster::Namespace;

/// Longest wait for what takes milliseconds on a machine that has nothing else to do.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Watcher {
    pub(crate) process: Process,
    grpc: SocketAddr,
    http: SocketAddr,
}

/// What a Discovery stream has told so far.
pub(crate) struct Told {
    shared: Arc<(Mutex<Vec<DesiredEvent>>, Condvar)>,
    _runtime: tokio::runtime::Runtime,
}

impl Watcher {
    /// Of the namespace's ServiceAccount, without status; watches end every 5 s.
    pub(crate) fn start(namespace: &Namespace<'_>, kubeconfig: &Path, more: &[&str]) -> Self {
        let flags = [&["--write-status=false"], more].concat();
        Self::start_as(namespace, "watcher", kubeconfig, &flags)
    }

    pub(crate) fn start_as(
        namespace: &Namespace<'_>,
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
    pub(crate) fn watch(&self) -> Told {
        let shared: Arc<(Mutex<Vec<DesiredEvent>>, Condvar)> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let target = format!("http://{}", self.grpc);
        let teller = shared.clone();
        runtime.spawn(async move {
            let mut client = DiscoveryServiceClient::connect(target).await.unwrap();
            let response = client.watch(WatchRequest {}).await.unwrap();
            let mut events = response.into_inner();
            let mut assembly = DesiredSetAssembly::default();
            while let Ok(Some(message)) = events.message().await {
                let (told, changed) = &*teller;
                told.lock().unwrap().extend(assembly.receive(message));
                changed.notify_all();
            }
        });
        Told {
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

    /// Waits until `/readyz` says all of it.
    pub(crate) fn wait_for_readyz(&self, words: &[&str], within: Duration) -> String {
        lab::wait_for("/readyz", within, || {
            let answer = self.get("/readyz");
            let holds = words.iter().all(|word| answer.contains(word));
            if holds { Ok(answer) } else { Err(answer) }
        })
        .unwrap()
    }

    /// The value of a metric, its labels included in the name.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.process.tail());
        }
        // It may have ended by itself.
        let _ = self.process.kill();
    }
}

impl Told {
    /// Real servers with their states and weights, by virtual server; `None` before `synced`.
    pub(crate) fn state(&self) -> Option<Vec<String>> {
        state(&self.shared.0.lock().unwrap())
    }

    /// Waits until the set is this: `tcp 10.1.1.10:80 -> 10.0.0.1, 10.0.0.2`.
    pub(crate) fn wait_for(&self, expected: &[&str], within: Duration) -> Duration {
        let began = Instant::now();
        let (told, changed) = &*self.shared;
        let (told, _) = changed
            .wait_timeout_while(told.lock().unwrap(), within, |told| {
                state(told).is_none_or(|state| state != expected)
            })
            .unwrap();
        assert_eq!(state(&told).as_deref(), Some(&strings(expected)[..]));
        began.elapsed()
    }

    /// How many objects have been taken back.
    pub(crate) fn removals(&self) -> usize {
        let told = self.shared.0.lock().unwrap();
        let is_removal = |event: &&DesiredEvent| {
            matches!(
                event,
                DesiredEvent::Change(
                    DesiredChange::RemoveVirtualServer(_) | DesiredChange::RemoveServiceRange(_)
                )
            )
        };
        told.iter().filter(is_removal).count()
    }

    pub(crate) fn events(&self) -> usize {
        self.shared.0.lock().unwrap().len()
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn state(told: &[DesiredEvent]) -> Option<Vec<String>> {
    let mut set = virtual_server::DesiredSet::default();
    let mut is_synced = false;
    for event in told {
        match event.clone() {
            DesiredEvent::Change(change) => set.apply(change),
            DesiredEvent::Invalid { error, .. } => panic!("{error}"),
            DesiredEvent::Synced => is_synced = true,
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
