//! Observers of a changed endpoint.
//!
//! The observers are a plain watch of the EndpointSlices, a client of Discovery, and a reader of
//! the kernel's table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use daemon_api::discovery::v1::{
    WatchRequest, discovery_service_client::DiscoveryServiceClient, watch_response::Event,
};
use daemon_api::virtualserver::v1::RealServer;
use futures::AsyncBufReadExt as _;
use http::Request;
use ipvs_programmer::kernel::{IpvsTable as _, LinuxKernel};
use lab::Host;
use serde_json::Value;
use tonic::transport::Endpoint;

use crate::objects::NAMESPACE;
use crate::setup::{BenchSetup, DEADLINE};
use crate::sides::{in_use, key};

/// The shortest time between two reads of one entry of the kernel. It is the resolution of the
/// measured times.
const POLL_INTERVAL: Duration = Duration::from_micros(200);

/// The addresses of the real servers of each virtual server, by the address of the virtual server.
pub(crate) type Served = BTreeMap<String, BTreeSet<String>>;

/// The sender of an observer's channel. An observer sends the address of each new endpoint with the
/// time, or the error that ended the observer.
type Sender = mpsc::Sender<Result<(Ipv4Addr, Instant)>>;

/// The receiver of an observer's channel.
#[derive(Debug)]
struct EndpointEvents(Mutex<mpsc::Receiver<Result<(Ipv4Addr, Instant)>>>);

impl EndpointEvents {
    fn wait_for(&self, address: Ipv4Addr) -> Result<Instant> {
        loop {
            let (seen, at) = lock(&self.0)
                .recv_timeout(DEADLINE)
                .with_context(|| format!("the observer has received no event of {address}"))??;
            if seen == address {
                return Ok(at);
            }
        }
    }
}

/// A watch of the EndpointSlices on a separate connection, without other work. The time at which an
/// event arrives counts as the time at which the API server has sent the event.
#[derive(Debug)]
pub(crate) struct PlainWatch(EndpointEvents);

impl PlainWatch {
    pub(crate) fn start(setup: &BenchSetup) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let kubeconfig = setup.control_plane.kubeconfig();
        setup.router.spawn_inside(move || {
            let ended = block_on(async {
                let client = lab::kubernetes::client(&kubeconfig).await?;
                let path =
                    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
                let list: Value = client
                    .request(Request::get(format!("{path}?limit=1")).body(Vec::new())?)
                    .await?;
                let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
                let watch = format!("{path}?watch=1&resourceVersion={version}&timeoutSeconds=3600");
                let stream = client
                    .request_stream(Request::get(watch).body(Vec::new())?)
                    .await?;
                let _ = started.send(());
                let mut stream = std::pin::pin!(stream);
                let mut line = Vec::new();
                while stream.read_until(b'\n', &mut line).await? > 0 {
                    let at = Instant::now();
                    let event: Value = serde_json::from_slice(&line)?;
                    let endpoints = event["object"]["endpoints"].as_array();
                    for endpoint in endpoints.into_iter().flatten() {
                        send_if_new(&sender, endpoint["addresses"][0].as_str(), at);
                    }
                    line.clear();
                }
                bail!("the API server has ended the watch")
            });
            let _ = sender.send(ended.context("the plain watch has failed"));
        })?;
        start.recv().context("cannot start the plain watch")?;
        Ok(Self(EndpointEvents(Mutex::new(receiver))))
    }

    /// Waits for the event of a new endpoint, and returns the time at which the watch has received
    /// it.
    pub(crate) fn wait_for(&self, address: Ipv4Addr) -> Result<Instant> {
        self.0.wait_for(address)
    }
}

/// A client of the contract Discovery, which pod-watcher serves.
#[derive(Debug)]
pub(crate) struct Discovery {
    events: EndpointEvents,
    synced: Mutex<mpsc::Receiver<Instant>>,
    served: Arc<Mutex<Parts>>,
}

/// The parts of each virtual server, by the address of the virtual server. A part is a set of real
/// servers.
type Parts = BTreeMap<String, Vec<BTreeSet<String>>>;

impl Discovery {
    /// Starts the client. If pod-watcher does not listen at the call, the client waits for
    /// pod-watcher.
    pub(crate) fn start(host: &Host) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let (synced, syncs) = mpsc::channel();
        let served = Arc::<Mutex<Parts>>::default();
        let shared = served.clone();
        host.spawn_inside(move || {
            let ended = block_on(watch(&sender, &synced, &shared));
            let _ = sender.send(ended.context("the client of Discovery has failed"));
        })?;
        Ok(Self {
            events: EndpointEvents(Mutex::new(receiver)),
            synced: Mutex::new(syncs),
            served,
        })
    }

    pub(crate) fn wait_until_synced(&self, within: Duration) -> Result<Instant> {
        lock(&self.synced)
            .recv_timeout(within)
            .context("the watch of Discovery is not synced")
    }

    pub(crate) fn wait_for(&self, address: Ipv4Addr) -> Result<Instant> {
        self.events.wait_for(address)
    }

    pub(crate) fn served(&self) -> Served {
        let parts = lock(&self.served);
        let whole = |parts: &Vec<BTreeSet<String>>| parts.iter().flatten().cloned().collect();
        let servers = parts.iter();
        servers
            .map(|(address, parts)| (address.clone(), whole(parts)))
            .collect()
    }
}

async fn watch(
    sender: &Sender,
    synced: &mpsc::Sender<Instant>,
    served: &Mutex<Parts>,
) -> Result<(Ipv4Addr, Instant)> {
    let endpoint = Endpoint::from_static("http://127.0.0.1:50051");
    let began = Instant::now();
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(error) if began.elapsed() > DEADLINE => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let mut stream = DiscoveryServiceClient::new(channel)
        .watch(WatchRequest {})
        .await?
        .into_inner();
    let mut is_synced = false;
    while let Some(message) = stream.message().await? {
        let at = Instant::now();
        match message.event {
            Some(Event::VirtualServerHead(head)) => {
                let address = head.virtual_server.unwrap_or_default().address;
                let part_count = head.part_count as usize;
                lock(served)
                    .entry(address)
                    .or_default()
                    .resize(part_count, BTreeSet::new());
            }
            Some(Event::RealServerPart(part)) => {
                let in_use = |real_server: &RealServer| real_server.weight > 0;
                let real_servers = part.real_servers.into_iter().filter(in_use);
                let in_use: BTreeSet<_> = real_servers
                    .map(|real_server| real_server.address)
                    .collect();
                if is_synced {
                    for address in &in_use {
                        send_if_new(sender, Some(address), at);
                    }
                }
                let address = part.virtual_server.unwrap_or_default().address;
                let mut served = lock(served);
                // pod-watcher sends the head of a virtual server before the parts, so the part has
                // a place in the list.
                let parts = served.entry(address).or_default();
                if let Some(slot) = parts.get_mut(part.number as usize) {
                    *slot = in_use;
                }
            }
            Some(Event::RemovedVirtualServer(id)) => {
                lock(served).remove(&id.address);
            }
            Some(Event::Synced(_)) => {
                is_synced = true;
                let _ = synced.send(at);
            }
            Some(Event::ServiceRange(_) | Event::RemovedServiceRange(_)) | None => {}
        }
    }
    bail!("pod-watcher has ended the watch")
}

/// A thread that reads one entry of the kernel's table until the entry contains a given real
/// server.
#[derive(Debug)]
pub(crate) struct EntryWatcher(mpsc::Receiver<Result<Instant>>);

impl EntryWatcher {
    /// Starts the thread. Returns when the thread is about to read the entry for the first time.
    pub(crate) fn start(host: &Host, entry: SocketAddr, address: Ipv4Addr) -> Result<Self> {
        let (started, start) = mpsc::channel();
        let (sender, seen) = mpsc::channel();
        host.spawn_inside(move || {
            let kernel = LinuxKernel::open().map_err(anyhow::Error::from);
            // Errors are ignored: a send fails only if the measurement has already failed.
            let _ = started.send(());
            let _ = sender.send(kernel.and_then(|mut kernel| until(&mut kernel, entry, address)));
        })?;
        start.recv().context("cannot start the watching thread")?;
        Ok(Self(seen))
    }

    pub(crate) fn wait(self) -> Result<Instant> {
        self.0.recv().context("the watching thread has panicked")?
    }
}

fn until(kernel: &mut LinuxKernel, entry: SocketAddr, address: Ipv4Addr) -> Result<Instant> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let began = Instant::now();
        let found = kernel.read_entry(key(entry))?;
        if found.is_some_and(|entry| in_use(&entry).any(|found| found.ip() == address)) {
            return Ok(Instant::now());
        }
        if Instant::now() > deadline {
            bail!(
                "timed out after {DEADLINE:?}, waiting for: {address} among the real servers of {entry}"
            );
        }
        // The pause is at least as long as the last read, so that reads of a large entry use at
        // most half of a processor.
        thread::sleep(POLL_INTERVAL.max(began.elapsed()));
    }
}

/// Sends `address` and `at` if `address` is in 10.210.0.0/16. Only changed endpoints have such
/// addresses.
fn send_if_new(sender: &Sender, address: Option<&str>, at: Instant) {
    let new = address.filter(|address| address.starts_with("10.210."));
    if let Some(address) = new.and_then(|address| address.parse().ok()) {
        // An error is ignored: the send fails only if the measurement has already failed.
        let _ = sender.send(Ok((address, at)));
    }
}

fn block_on<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(task)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
