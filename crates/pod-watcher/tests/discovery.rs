//! Tests of the whole daemon over gRPC, within the process of the test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::VecDeque,
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use daemon_api::{
    DesiredSetAssembly, DesiredSetEvent, MESSAGE_LIMIT,
    discovery::v1::{
        ListRequest, ListResponse, WatchRequest, WatchResponse,
        discovery_service_client::DiscoveryServiceClient,
    },
    message_size,
};
use daemon_runtime::{Daemon, DaemonError, ListenAddress, Metrics, Readiness, Shutdown};
use pod_watcher::{
    config::{Config, SourceConfig},
    source::{DesiredSetSource, SourceDescription, SourceError, SourceEvent},
};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tonic::{Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use virtual_server::{
    DesiredChange, DesiredSet, RealServer, RealServerHistory, RealServerState, VirtualServer,
    Weight,
};

const DEADLINE: Duration = Duration::from_secs(10);

struct TestDaemon {
    address: String,
    client: DiscoveryServiceClient<Channel>,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), DaemonError>>,
}

impl TestDaemon {
    async fn with_file(path: &Path) -> Self {
        let mut daemon = Daemon::new("pod-watcher");
        let config = Config {
            source: SourceConfig::File(path.to_owned()),
            grpc_listen: "127.0.0.1:0".parse().unwrap(),
            linger: Duration::ZERO,
        };
        let address = pod_watcher::start(config, &mut daemon).await.unwrap();
        Self::run(daemon, &address).await
    }

    async fn with_source(source: impl DesiredSetSource) -> Self {
        Self::with_linger(source, Duration::ZERO).await
    }

    async fn with_linger(source: impl DesiredSetSource, linger: Duration) -> Self {
        let mut daemon = Daemon::new("pod-watcher");
        let any_port = "127.0.0.1:0".parse().unwrap();
        let address = pod_watcher::start_with(source, &any_port, linger, &mut daemon)
            .await
            .unwrap();
        Self::run(daemon, &address).await
    }

    async fn run(daemon: Daemon, address: &ListenAddress) -> Self {
        let address = format!("http://{address}");
        let readiness = daemon.readiness().clone();
        let metrics = daemon.metrics().clone();
        let shutdown = daemon.shutdown().clone();
        let task = tokio::spawn(daemon.run_until_drained(std::future::pending()));
        let client = DiscoveryServiceClient::connect(address.clone())
            .await
            .unwrap();
        Self {
            address,
            client,
            readiness,
            metrics,
            shutdown,
            task,
        }
    }

    async fn watch(&self) -> TestWatch {
        let mut client = self.client.clone();
        let stream = client.watch(WatchRequest {}).await.unwrap().into_inner();
        TestWatch::new(stream)
    }

    async fn list(&self) -> ListResponse {
        let mut client = self.client.clone();
        client
            .list(ListRequest::default())
            .await
            .unwrap()
            .into_inner()
    }

    /// Repeats the request until `condition` accepts the answer.
    async fn list_until(&self, condition: impl Fn(&ListResponse) -> bool) -> ListResponse {
        timeout(DEADLINE, async {
            loop {
                let list = self.list().await;
                if condition(&list) {
                    return list;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the condition did not become true within the deadline")
    }

    fn metric(&self, name: &str) -> String {
        let text = self.metrics.encode();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    }
}

struct TestWatch {
    stream: Streaming<WatchResponse>,
    assembly: DesiredSetAssembly,
    received: VecDeque<DesiredSetEvent>,
}

impl TestWatch {
    fn new(stream: Streaming<WatchResponse>) -> Self {
        Self {
            stream,
            assembly: DesiredSetAssembly::default(),
            received: VecDeque::new(),
        }
    }

    async fn response(&mut self) -> WatchResponse {
        timeout(DEADLINE, self.stream.message())
            .await
            .expect("no event within the deadline")
            .unwrap()
            .expect("the stream has ended")
    }

    /// Returns the next event. Waits for all messages of its change.
    async fn event(&mut self) -> DesiredSetEvent {
        loop {
            if let Some(event) = self.received.pop_front() {
                return event;
            }
            let response = self.response().await;
            self.received.extend(self.assembly.receive(response));
        }
    }

    /// Returns the next event as a short text: `+ ID SERVER=WEIGHT`, `- ID` or `synced`.
    async fn next(&mut self) -> String {
        match self.event().await {
            DesiredSetEvent::Synced => "synced".to_owned(),
            DesiredSetEvent::Invalid { error, .. } => panic!("{error}"),
            DesiredSetEvent::Change(DesiredChange::PutVirtualServer(server)) => show(&server),
            DesiredSetEvent::Change(DesiredChange::RemoveVirtualServer(id)) => format!("- {id}"),
            DesiredSetEvent::Change(DesiredChange::PutServiceRange(range)) => format!("+ {range}"),
            DesiredSetEvent::Change(DesiredChange::RemoveServiceRange(range)) => {
                format!("- {range}")
            }
        }
    }

    async fn expect(&mut self, events: &[&str]) {
        for event in events {
            assert_eq!(self.next().await, *event);
        }
    }
}

fn show(server: &VirtualServer) -> String {
    let real_servers: Vec<String> = server
        .real_servers
        .iter()
        .map(|real_server| format!("{real_server}={}", real_server.weight.0))
        .collect();
    format!("+ {} {}", server.id, real_servers.join(" "))
}

/// Returns a document with a virtual server for each address. Each has a real server with the
/// weight.
fn document(servers: &[(&str, u16)]) -> String {
    let mut text = "apiVersion: portlb.io/v1\nkind: VirtualServers\n".to_owned();
    text.push_str("serviceRanges: [10.1.1.0/24]\nvirtualServers:");
    if servers.is_empty() {
        text.push_str(" []");
    }
    for (address, weight) in servers {
        text.push_str(&format!(
            "\n- name: web\n  addresses: [{address}]\n  ports: [80]\n  realServers:\n  \
             - {{address: 10.0.2.3, weight: {weight}}}"
        ));
    }
    text + "\n"
}

struct TestFile {
    directory: TempDir,
    path: PathBuf,
}

fn file(content: &str) -> TestFile {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("virtual-servers.yaml");
    fs::write(&path, content).unwrap();
    TestFile { directory, path }
}

const FIRST: &[&str] = &["+ 10.1.1.0/24", "+ tcp/10.1.1.10:80 10.0.2.3=1", "synced"];

#[tokio::test]
async fn a_watch_sends_every_object_then_synced_then_each_change() {
    let file = file(&document(&[("10.1.1.10", 1), ("10.1.1.11", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    watch
        .expect(&[
            "+ 10.1.1.0/24",
            "+ tcp/10.1.1.10:80 10.0.2.3=1",
            "+ tcp/10.1.1.11:80 10.0.2.3=1",
            "synced",
        ])
        .await;
    fs::write(&file.path, document(&[("10.1.1.10", 1), ("10.1.1.11", 7)])).unwrap();
    watch.expect(&["+ tcp/10.1.1.11:80 10.0.2.3=7"]).await;
    fs::write(&file.path, document(&[("10.1.1.11", 7)])).unwrap();
    watch.expect(&["- tcp/10.1.1.10:80"]).await;
    fs::write(&file.path, document(&[])).unwrap();
    watch.expect(&["- tcp/10.1.1.11:80"]).await;
}

#[tokio::test]
async fn a_metric_records_the_share_of_flows_that_a_change_of_weights_moves() {
    let (source, events) = mpsc::unbounded_channel();
    let daemon = TestDaemon::with_source(ChannelSource(events)).await;
    let mut watch = daemon.watch().await;
    source.send(SourceEvent::Snapshot(large_set(1))).unwrap();
    while !watch.next().await.contains("=1") {}
    let count = "portlb_desired_weight_change_moved_share_count";
    assert_eq!(daemon.metric(count), "0");
    // If all weights change in the same proportion, no flow moves. If one of 1,000 real servers
    // gets a different weight, many flows of the other real servers move, too. For this reason a
    // cluster as the source rounds all weights of so many real servers to 1; the source of this
    // test does not round.
    source.send(SourceEvent::Snapshot(large_set(2))).unwrap();
    while !watch.next().await.contains("=2") {}
    let mut set = large_set(2);
    for server in set.virtual_servers.values_mut() {
        server.real_servers[0].weight = Weight(1);
    }
    source.send(SourceEvent::Snapshot(set)).unwrap();
    while !watch.next().await.contains("=1") {}
    assert_eq!(daemon.metric(count), "2");
    let sum = daemon.metric("portlb_desired_weight_change_moved_share_sum");
    let sum: f64 = sum.parse().unwrap();
    assert!(sum > 0.1 && sum < 0.5, "{sum}");
}

#[tokio::test]
async fn the_revisions_of_a_watch_grow() {
    let file = file(&document(&[("10.1.1.10", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    let mut former = 0;
    for weight in 2..5 {
        fs::write(&file.path, document(&[("10.1.1.10", weight)])).unwrap();
        loop {
            let response = watch.response().await;
            assert!(response.revision >= former);
            former = response.revision;
            let is_newest = |event: &DesiredSetEvent| {
                matches!(event, DesiredSetEvent::Change(DesiredChange::PutVirtualServer(server))
                    if server.real_servers[0].weight == Weight(weight))
            };
            if watch.assembly.receive(response).iter().any(is_newest) {
                break;
            }
        }
    }
    assert_eq!(daemon.list().await.revision, former);
}

#[tokio::test]
async fn an_invalid_file_keeps_the_last_good_set_and_reports_the_error() {
    let file = file(&document(&[("10.1.1.10", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    watch.expect(FIRST).await;
    assert_eq!(daemon.metric("portlb_source_in_use"), "1");

    let bad = document(&[("10.1.1.10", 2)]).replace("weight", "wieght");
    fs::write(&file.path, bad).unwrap();
    let list = daemon
        .list_until(|list| !list.source.as_ref().unwrap().last_error.is_empty())
        .await;
    let source = list.source.unwrap();
    assert_eq!(source.kind, "file");
    assert_eq!(source.location, file.path.display().to_string());
    let place = format!("{}:9:25: unknown field `wieght`", file.path.display());
    assert!(
        source.last_error.starts_with(&place),
        "{}",
        source.last_error
    );
    assert_eq!(list.virtual_servers.len(), 1);
    assert!(list.synced);
    assert!(daemon.readiness.is_ready());
    assert!(daemon.readiness.report().contains("`wieght`"));
    assert_eq!(daemon.metric("portlb_source_failures_total"), "1");
    assert_eq!(daemon.metric("portlb_source_in_use"), "0");

    // The next event is from the repaired file, so no object was removed in the meantime.
    fs::write(&file.path, document(&[("10.1.1.10", 3)])).unwrap();
    watch.expect(&["+ tcp/10.1.1.10:80 10.0.2.3=3"]).await;
    let repaired = daemon
        .list_until(|list| list.source.as_ref().unwrap().last_error.is_empty())
        .await;
    assert!(repaired.synced);
    assert!(!daemon.readiness.report().contains("`wieght`"));
}

#[tokio::test]
async fn a_removed_file_keeps_the_last_good_set() {
    let file = file(&document(&[("10.1.1.10", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    watch.expect(FIRST).await;
    fs::remove_file(&file.path).unwrap();
    let list = daemon
        .list_until(|list| !list.source.as_ref().unwrap().last_error.is_empty())
        .await;
    assert_eq!(list.virtual_servers.len(), 1);
    fs::write(&file.path, document(&[("10.1.1.10", 2)])).unwrap();
    watch.expect(&["+ tcp/10.1.1.10:80 10.0.2.3=2"]).await;
}

#[tokio::test]
async fn a_file_that_becomes_a_device_a_folder_or_too_large_keeps_the_last_good_set() {
    let file = file(&document(&[("10.1.1.10", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    watch.expect(FIRST).await;
    let large = file.directory.path().join("large");
    let sparse = fs::File::create(&large).unwrap();
    sparse.set_len(17 * 1024 * 1024).unwrap();
    for (target, reason) in [
        (Path::new("/dev/zero"), "a device is not a regular file"),
        (file.directory.path(), "a directory is not a regular file"),
        (&large, "the maximum of 16777216 bytes"),
    ] {
        let link = file.directory.path().join("new");
        symlink(target, &link).unwrap();
        fs::rename(link, &file.path).unwrap();
        let has_reason = |list: &ListResponse| {
            let source = list.source.as_ref().unwrap();
            source.last_error.contains(reason)
        };
        assert_eq!(daemon.list_until(has_reason).await.virtual_servers.len(), 1);
    }
    // The file is larger than 64 KiB, so a thread parses it.
    let comment = format!("# {}\n", "x".repeat(100_000));
    fs::remove_file(&file.path).unwrap();
    fs::write(&file.path, document(&[("10.1.1.10", 2)]) + &comment).unwrap();
    watch.expect(&["+ tcp/10.1.1.10:80 10.0.2.3=2"]).await;
}

#[tokio::test]
async fn a_half_written_file_removes_no_virtual_server() {
    let file = file(&document(&[("10.1.1.10", 1), ("10.1.1.11", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    while watch.next().await != "synced" {}
    let new = document(&[("10.1.1.10", 2), ("10.1.1.11", 1)]);
    let (half, rest) = new.split_at(new.find("virtualServers:\n").unwrap() + 15);
    let mut writer = fs::File::create(&file.path).unwrap();
    writer.write_all(half.as_bytes()).unwrap();
    // The daemon reads the file with only the first half, because the writer pauses for longer than
    // the daemon waits for the end of a write.
    let list = daemon
        .list_until(|list| !list.source.as_ref().unwrap().last_error.is_empty())
        .await;
    assert_eq!(list.virtual_servers.len(), 2);
    writer.write_all(rest.as_bytes()).unwrap();
    drop(writer);
    watch.expect(&["+ tcp/10.1.1.10:80 10.0.2.3=2"]).await;
}

#[tokio::test]
async fn a_file_that_an_editor_replaces_by_a_rename_is_read_again() {
    let file = file(&document(&[("10.1.1.10", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    watch.expect(FIRST).await;
    for weight in 2..5 {
        let new = file.directory.path().join(".virtual-servers.yaml.swp");
        fs::write(&new, document(&[("10.1.1.10", weight)])).unwrap();
        fs::rename(&new, &file.path).unwrap();
        let expected = format!("+ tcp/10.1.1.10:80 10.0.2.3={weight}");
        watch.expect(&[&expected]).await;
    }
}

#[tokio::test]
async fn a_changed_config_map_mount_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mount = |weight: u16| {
        let version = format!("..{weight}");
        let data = directory.path().join(&version);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("file"), document(&[("10.1.1.10", weight)])).unwrap();
        let swap = directory.path().join("..data_tmp");
        symlink(&version, &swap).unwrap();
        fs::rename(&swap, directory.path().join("..data")).unwrap();
        if weight > 1 {
            fs::remove_dir_all(directory.path().join(format!("..{}", weight - 1))).unwrap();
        }
    };
    mount(1);
    let path = directory.path().join("file");
    symlink("..data/file", &path).unwrap();
    let daemon = TestDaemon::with_file(&path).await;
    let mut watch = daemon.watch().await;
    watch.expect(FIRST).await;
    for weight in 2..5 {
        mount(weight);
        let expected = format!("+ tcp/10.1.1.10:80 10.0.2.3={weight}");
        watch.expect(&[&expected]).await;
    }
    assert_eq!(daemon.metric("portlb_source_failures_total"), "0");
}

#[tokio::test]
async fn a_watch_that_begins_after_a_change_gets_the_present_state_and_each_later_change() {
    let file = file(&document(&[("10.1.1.10", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut early = daemon.watch().await;
    early.expect(FIRST).await;
    fs::write(&file.path, document(&[("10.1.1.10", 2), ("10.1.1.11", 1)])).unwrap();
    early
        .expect(&[
            "+ tcp/10.1.1.10:80 10.0.2.3=2",
            "+ tcp/10.1.1.11:80 10.0.2.3=1",
        ])
        .await;
    let mut late = daemon.watch().await;
    late.expect(&[
        "+ 10.1.1.0/24",
        "+ tcp/10.1.1.10:80 10.0.2.3=2",
        "+ tcp/10.1.1.11:80 10.0.2.3=1",
        "synced",
    ])
    .await;
    assert_eq!(daemon.metric("portlb_discovery_watchers"), "2");
    fs::write(&file.path, document(&[("10.1.1.10", 2)])).unwrap();
    early.expect(&["- tcp/10.1.1.11:80"]).await;
    late.expect(&["- tcp/10.1.1.11:80"]).await;
    drop(early);
    timeout(DEADLINE, async {
        while daemon.metric("portlb_discovery_watchers") != "1" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the metric still counts a closed watch");
}

/// A source that returns the events that a test sends.
struct ChannelSource(mpsc::UnboundedReceiver<SourceEvent>);

impl DesiredSetSource for ChannelSource {
    fn description(&self) -> SourceDescription {
        SourceDescription {
            kind: "test",
            location: "here".to_owned(),
        }
    }

    async fn next(&mut self) -> SourceEvent {
        match self.0.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn a_watch_gets_no_synced_before_the_first_desired_set_of_the_source() {
    let (source, events) = mpsc::unbounded_channel();
    let daemon = TestDaemon::with_source(ChannelSource(events)).await;
    assert!(!daemon.list().await.synced);
    let error = SourceError::new(&std::io::Error::other("not there yet"));
    source.send(SourceEvent::Failed(error)).unwrap();
    let list = daemon
        .list_until(|list| list.source.as_ref().unwrap().last_error == "not there yet")
        .await;
    assert!(!list.synced);
    assert!(!daemon.readiness.is_ready());
    assert!(daemon.readiness.report().contains("not there yet"));

    let mut watch = daemon.watch().await;
    source
        .send(SourceEvent::Snapshot(DesiredSet::default()))
        .unwrap();
    watch.expect(&["synced"]).await;
    assert!(daemon.readiness.is_ready());
}

#[tokio::test]
async fn the_largest_valid_virtual_servers_are_sent_in_parts_and_in_pages() {
    let (source, events) = mpsc::unbounded_channel();
    let daemon = TestDaemon::with_source(ChannelSource(events)).await;
    let mut set = DesiredSet::default();
    let most = u32::try_from(VirtualServer::MOST_REAL_SERVERS).unwrap();
    let first = std::net::Ipv6Addr::new(0xfdaa, 0xbbbb, 0xcccc, 0xdddd, 0xeeee, 0xffff, 0xffff, 0);
    let first = first.to_bits() - (0xffff << 16) + (0x1000 << 16);
    for id in ["tcp/[fd00:1::1]:80", "tcp/[fd00:1::2]:80"] {
        let (_, mut server) = large_set(u16::MAX).virtual_servers.pop_first().unwrap();
        server.id = id.parse().unwrap();
        server.scheduler = virtual_server::Scheduler::Rr;
        let template = server.real_servers.remove(0);
        let real_servers = (0..most).map(|index| RealServer {
            address: std::net::Ipv6Addr::from_bits(first + u128::from(index)).into(),
            ..template.clone()
        });
        server.real_servers = real_servers.collect();
        assert_eq!(server.validate(), Ok(()));
        set.virtual_servers.insert(server.id, server);
    }
    let mut watch = daemon.watch().await;
    source.send(SourceEvent::Snapshot(set)).unwrap();
    watch.next().await;
    watch.next().await;
    watch.expect(&["synced"]).await;
    let client = daemon.client.clone();
    let mut client = client.max_decoding_message_size(MESSAGE_LIMIT);
    // Each virtual server is larger than the limit of a page, so each page has one of the two.
    let mut request = ListRequest::default();
    for is_last in [false, true] {
        let page = client.list(request.clone()).await.unwrap().into_inner();
        assert!(message_size(&page) < MESSAGE_LIMIT / 8);
        assert_eq!(page.virtual_servers.len(), 1);
        assert_eq!(page.virtual_servers[0].real_servers.len(), most as usize);
        assert_eq!(page.next_page_token.is_empty(), is_last);
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn the_health_service_reports_serving_after_the_first_desired_set() {
    let (source, events) = mpsc::unbounded_channel();
    let daemon = TestDaemon::with_source(ChannelSource(events)).await;
    let channel = Channel::from_shared(daemon.address.clone()).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let request = HealthCheckRequest {
        service: "portlb.discovery.v1.DiscoveryService".to_owned(),
    };
    let mut statuses = health.watch(request).await.unwrap().into_inner();
    let first = timeout(DEADLINE, statuses.message()).await.unwrap();
    assert_eq!(first.unwrap().unwrap().status(), ServingStatus::NotServing);
    source
        .send(SourceEvent::Snapshot(DesiredSet::default()))
        .unwrap();
    let next = timeout(DEADLINE, statuses.message()).await.unwrap();
    assert_eq!(next.unwrap().unwrap().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_slow_watcher_gets_fewer_events_than_the_source_has_changes() {
    const CHANGES: u16 = 200;
    let (source, events) = mpsc::unbounded_channel();
    let daemon = TestDaemon::with_source(ChannelSource(events)).await;
    // The receive windows have room for a few objects, so the server must wait until the client
    // reads.
    let channel = Channel::from_shared(daemon.address.clone())
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let mut client = DiscoveryServiceClient::new(channel);
    let stream = client.watch(WatchRequest {}).await.unwrap().into_inner();
    let mut slow = TestWatch::new(stream);
    for weight in 1..=CHANGES {
        source
            .send(SourceEvent::Snapshot(large_set(weight)))
            .unwrap();
    }
    daemon
        .list_until(|list| {
            list.virtual_servers
                .first()
                .is_some_and(|server| server.real_servers[0].weight == u32::from(CHANGES))
        })
        .await;
    let mut count = 0;
    loop {
        let event = slow.next().await;
        count += 1;
        if event.contains(&format!("={CHANGES}")) {
            break;
        }
    }
    assert!(count < usize::from(CHANGES) / 2, "{count} events");
}

/// Returns a set with one virtual server of 1,000 real servers, about 20 kB in messages.
fn large_set(weight: u16) -> DesiredSet {
    let id = "tcp/10.1.1.10:80".parse().unwrap();
    let real_servers = (0..1000_u16)
        .map(|host| {
            let [high, low] = host.to_be_bytes();
            RealServer {
                address: [10, 2, high, low].into(),
                port: None,
                weight: Weight(weight),
                state: RealServerState::Ready,
                history: RealServerHistory::default(),
            }
        })
        .collect();
    let server = VirtualServer {
        id,
        name: "large".to_owned(),
        scheduler: virtual_server::Scheduler::default(),
        forwarding_method: virtual_server::ForwardingMethod::default(),
        persistence: None,
        real_servers,
        health_check: None,
        on_failure: virtual_server::FailureAction::default(),
        minimum_healthy: 1,
        drain_timeout: virtual_server::VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    };
    DesiredSet {
        virtual_servers: [(id, server)].into(),
        ..DesiredSet::default()
    }
}

/// Linger time that is much longer than [`DEADLINE`].
const LINGER: Duration = Duration::from_secs(600);

#[tokio::test]
async fn after_a_termination_signal_a_watcher_gets_changes_until_the_watcher_ends_its_watch() {
    let (source, events) = mpsc::unbounded_channel();
    let daemon = TestDaemon::with_linger(ChannelSource(events), LINGER).await;
    source.send(SourceEvent::Snapshot(large_set(1))).unwrap();
    let mut watch = daemon.watch().await;
    while !watch.next().await.contains("=1") {}
    daemon.shutdown.request();
    source.send(SourceEvent::Snapshot(large_set(2))).unwrap();
    while !watch.next().await.contains("=2") {}
    assert!(!daemon.task.is_finished());
    drop(watch);
    let ended = timeout(DEADLINE, daemon.task)
        .await
        .expect("the daemon did not end within the deadline");
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_watcher_the_daemon_ends_before_the_linger_time_is_over() {
    let (_source, events) = mpsc::unbounded_channel();
    let daemon = TestDaemon::with_linger(ChannelSource(events), LINGER).await;
    daemon.shutdown.request();
    let ended = timeout(DEADLINE, daemon.task)
        .await
        .expect("the daemon did not end within the deadline");
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn an_open_watch_ends_without_an_error_when_the_daemon_ends() {
    let file = file(&document(&[("10.1.1.10", 1)]));
    let daemon = TestDaemon::with_file(&file.path).await;
    let mut watch = daemon.watch().await;
    watch.expect(FIRST).await;
    daemon.shutdown.request();
    let ended = timeout(DEADLINE, daemon.task)
        .await
        .expect("the daemon did not end within the deadline");
    ended.unwrap().unwrap();
    let last = timeout(DEADLINE, watch.stream.message()).await.unwrap();
    assert!(matches!(last, Ok(None)), "{last:?}");
}
