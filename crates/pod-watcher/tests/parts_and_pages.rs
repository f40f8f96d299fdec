//! Tests of the parts and pages of a large desired set over gRPC.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use daemon_api::{
    DesiredSetAssembly, DesiredSetEvent, LARGEST_PART, MESSAGE_LIMIT,
    discovery::v1::{
        ListRequest, WatchRequest, WatchResponse, discovery_service_client::DiscoveryServiceClient,
        watch_response::Event,
    },
};
use daemon_runtime::{Daemon, Shutdown};
use pod_watcher::source::{DesiredSetSource, SourceDescription, SourceEvent};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Code, Streaming, transport::Channel};
use virtual_server::{
    DesiredChange, DesiredSet, RealServer, RealServerHistory, RealServerState, ServiceRange,
    VirtualServer, Weight,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// Number of measured changes of one real server.
const ROUNDS: u16 = 50;

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

struct TestDaemon {
    source: mpsc::UnboundedSender<SourceEvent>,
    client: DiscoveryServiceClient<Channel>,
    shutdown: Shutdown,
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

impl TestDaemon {
    async fn start() -> Self {
        let mut daemon = Daemon::new("pod-watcher");
        let any_port = "127.0.0.1:0".parse().unwrap();
        let (source, events) = mpsc::unbounded_channel();
        let address = pod_watcher::start_with(
            ChannelSource(events),
            &any_port,
            Duration::ZERO,
            &mut daemon,
        )
        .await
        .unwrap();
        let shutdown = daemon.shutdown().clone();
        tokio::spawn(daemon.run_until_drained(std::future::pending()));
        let client = DiscoveryServiceClient::connect(format!("http://{address}"));
        let client = client.await.unwrap();
        Self {
            source,
            client: client.max_decoding_message_size(MESSAGE_LIMIT),
            shutdown,
        }
    }

    async fn watch(&self) -> TestWatch {
        let mut client = self.client.clone();
        TestWatch {
            stream: client.watch(WatchRequest {}).await.unwrap().into_inner(),
            assembly: DesiredSetAssembly::default(),
        }
    }
}

struct TestWatch {
    stream: Streaming<WatchResponse>,
    assembly: DesiredSetAssembly,
}

impl TestWatch {
    /// Returns the messages of the next change, and the event that they form together.
    async fn change(&mut self) -> (Vec<Event>, DesiredSetEvent) {
        let mut messages = Vec::new();
        loop {
            let message = timeout(DEADLINE, self.stream.message()).await;
            let message = message.expect("no event within the deadline");
            let message = message.unwrap().unwrap();
            messages.extend(message.event.clone());
            if let Some(event) = self.assembly.receive(message).pop() {
                return (messages, event);
            }
        }
    }
}

fn server(id: &str, real_servers: u16) -> VirtualServer {
    let real_servers = (0..real_servers).map(|host| {
        let [high, low] = host.to_be_bytes();
        RealServer {
            address: [10, 2, high, low].into(),
            port: None,
            weight: Weight(1),
            state: RealServerState::Ready,
            history: RealServerHistory::default(),
        }
    });
    VirtualServer {
        id: id.parse().unwrap(),
        name: "large".to_owned(),
        scheduler: virtual_server::Scheduler::Wrr,
        forwarding_method: virtual_server::ForwardingMethod::default(),
        persistence: None,
        real_servers: real_servers.collect(),
        health_check: None,
        on_failure: virtual_server::FailureAction::default(),
        minimum_healthy: 1,
        drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    }
}

fn set(servers: impl IntoIterator<Item = VirtualServer>) -> DesiredSet {
    DesiredSet {
        virtual_servers: servers
            .into_iter()
            .map(|server| (server.id, server))
            .collect(),
        ..DesiredSet::default()
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The test also prints two median durations for comparison: from a change of one of 10,000 real
/// servers to the message with the changed part, and of a call of List that returns all 10,000 real
/// servers.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_of_ten_thousand_real_servers_sends_one_part() {
    let daemon = TestDaemon::start().await;
    let mut server = server("tcp/10.1.1.10:80", 10_000);
    daemon
        .source
        .send(SourceEvent::Snapshot(set([server.clone()])))
        .unwrap();
    let mut watch = daemon.watch().await;
    let (messages, event) = watch.change().await;
    assert_eq!(messages.len(), 1 + 10_000_usize.div_ceil(LARGEST_PART));
    assert!(matches!(
        event,
        DesiredSetEvent::Change(DesiredChange::PutVirtualServer(_))
    ));
    assert_eq!(watch.change().await.1, DesiredSetEvent::Synced);
    let [mut parts, mut whole] = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        server.real_servers[5_000].weight = Weight(2 + round);
        let changes = vec![DesiredChange::PutVirtualServer(server.clone())];
        let began = Instant::now();
        daemon.source.send(SourceEvent::Changes(changes)).unwrap();
        let message = watch.stream.message().await.unwrap().unwrap();
        parts.push(began.elapsed());
        let Some(Event::RealServerPart(part)) = &message.event else {
            panic!("{message:?}");
        };
        assert_eq!(part.real_servers.len(), LARGEST_PART);
        let [event] = watch.assembly.receive(message).try_into().unwrap();
        let DesiredSetEvent::Change(DesiredChange::PutVirtualServer(received)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(received.real_servers[5_000].weight, Weight(2 + round));
        assert_eq!(received.real_servers.len(), 10_000);

        let mut client = daemon.client.clone();
        let began = Instant::now();
        let listed = client.list(ListRequest::default()).await.unwrap();
        whole.push(began.elapsed());
        assert_eq!(
            listed.into_inner().virtual_servers[0].real_servers.len(),
            10_000
        );
    }
    let [parts, whole] = [median(parts), median(whole)];
    eprintln!(
        "1 x 10,000, one change, p50 of {ROUNDS}: one part {parts:?}, all real servers {whole:?}, \
         ratio {:.1}",
        whole.as_secs_f64() / parts.as_secs_f64()
    );
}

#[tokio::test]
async fn a_watcher_that_skips_states_gets_every_part_that_has_changed() {
    let daemon = TestDaemon::start().await;
    let mut server = server("tcp/10.1.1.10:80", 1_000);
    daemon
        .source
        .send(SourceEvent::Snapshot(set([server.clone()])))
        .unwrap();
    let mut watch = daemon.watch().await;
    watch.change().await;
    watch.change().await;
    // The daemon can coalesce several of the changes into one event.
    for round in 0..100_u16 {
        let index = usize::from(round) * 9;
        server.real_servers[index].weight = Weight(100 + round);
        if round % 7 == 0 {
            server.real_servers.remove(index + 1);
        }
        let changes = vec![DesiredChange::PutVirtualServer(server.clone())];
        daemon.source.send(SourceEvent::Changes(changes)).unwrap();
    }
    loop {
        let (_, event) = watch.change().await;
        let DesiredSetEvent::Change(DesiredChange::PutVirtualServer(received)) = event else {
            panic!("{event:?}");
        };
        let state = |server: &VirtualServer| -> Vec<_> {
            let real_servers = server.real_servers.iter();
            real_servers.map(|it| (it.address, it.weight)).collect()
        };
        if state(&received) == state(&server) {
            break;
        }
    }
}

#[tokio::test]
async fn all_pages_of_a_list_together_have_each_object_once() {
    let daemon = TestDaemon::start().await;
    let ranges: Vec<ServiceRange> = (1..=3)
        .map(|number| format!("10.1.{number}.0/24").parse().unwrap())
        .collect();
    let ids: Vec<String> = (1..=4)
        .map(|host| format!("tcp/10.1.1.{host}:80"))
        .collect();
    let mut desired = set(ids.iter().map(|id| server(id, 2)));
    desired.service_ranges = ranges.iter().copied().collect();
    daemon.source.send(SourceEvent::Snapshot(desired)).unwrap();
    let mut watch = daemon.watch().await;
    while watch.change().await.1 != DesiredSetEvent::Synced {}
    let mut client = daemon.client.clone();
    let mut request = ListRequest {
        page_size: 2,
        page_token: String::new(),
    };
    let [mut listed_ranges, mut listed_servers, mut sizes] = [Vec::new(), Vec::new(), Vec::new()];
    loop {
        let page = client.list(request.clone()).await.unwrap().into_inner();
        assert!(page.synced);
        sizes.push((page.service_ranges.len() + page.virtual_servers.len()).to_string());
        listed_ranges.extend(page.service_ranges.into_iter().map(|range| range.prefix));
        listed_servers.extend(
            page.virtual_servers
                .into_iter()
                .map(|server| server.address),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(sizes, ["2", "2", "2", "1"]);
    assert_eq!(listed_ranges, ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"]);
    assert_eq!(
        listed_servers,
        ["10.1.1.1", "10.1.1.2", "10.1.1.3", "10.1.1.4"]
    );

    for (page_size, page_token, expected) in [
        (-1, "", "`page_size`: -1 is negative"),
        (0, "x", "`page_token`: not a token of this list"),
    ] {
        let request = ListRequest {
            page_size,
            page_token: page_token.to_owned(),
        };
        let status = client.list(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{status}");
    }
}
