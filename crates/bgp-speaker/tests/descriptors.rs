//! Test of a listener without free file descriptors.
//!
//! The test needs a separate process, because the limit of file descriptors applies to a process.

use std::{net::Ipv4Addr, time::Duration};

use bgp_packet::{Asn, ClusterId, RouterId};
use bgp_speaker::{BgpSpeaker, Configuration, GroupConfig, SessionConfig, SpeakerConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::AsyncReadExt,
    net::TcpSocket,
    task::yield_now,
    time::{Instant, timeout},
};

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_listener_without_free_descriptors_pauses_and_accepts_after_one_is_free() {
    let local = Ipv4Addr::LOCALHOST;
    let speaker = BgpSpeaker::bind(SpeakerConfig {
        local_asn: Asn(64512),
        router_id: RouterId(local),
        cluster_id: ClusterId(local),
        listen: vec![(local, 0).into()],
    })
    .expect("the loopback address is available");
    let (handle, address) = (speaker.handle(), speaker.local_addresses()[0]);
    tokio::spawn(speaker.run());
    let group = GroupConfig {
        name: "clients".into(),
        prefixes: vec!["127.0.0.0/8".parse().expect("the prefix is valid")],
        maximum_peers: 10,
        maximum_peers_per_address: 10,
        session: SessionConfig::new(None),
    };
    let configuration = Configuration {
        peers: Vec::new(),
        groups: vec![group],
    };
    let configured = handle.configure(configuration).await;
    configured
        .expect("the speaker runs")
        .expect("the configuration is valid");

    let socket = TcpSocket::new_v4().expect("a socket can be created");
    let (limit, hard_limit) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit is readable");
    // The number of the next free descriptor. As the limit of descriptors, it leaves no descriptor
    // free.
    let free = {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/").expect("the root folder exists");
        u64::try_from(file.as_raw_fd()).expect("descriptors are not negative")
    };
    setrlimit(Resource::RLIMIT_NOFILE, free, hard_limit).expect("the lower limit is set");
    let began = Instant::now();
    let mut stream = socket
        .connect(address)
        .await
        .expect("the kernel accepts the connection");
    let failures = || handle.counters().accept_failures.get();
    let five_failures = async {
        while failures() < 5 {
            yield_now().await;
        }
    };
    let in_time = timeout(DEADLINE, five_failures).await;
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard_limit).expect("the former limit is restored");
    in_time.expect("accept(2) fails five times");
    // Between the five failures are four pauses of 10, 20, 40 and 80 ms.
    let passed = began.elapsed();
    assert!(passed >= Duration::from_millis(150), "{passed:?}");
    let mut marker = [0; 16];
    let open = timeout(DEADLINE, stream.read_exact(&mut marker)).await;
    open.expect("an OPEN arrives in time")
        .expect("the connection is accepted");
    assert_eq!(marker, [0xff; 16]);
}
