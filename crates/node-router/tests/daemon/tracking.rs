//! Tests that connections need the exemption from connection tracking.
//!
//! The node sees only one half of a connection, and has kube-proxy's rule that drops packets of
//! state INVALID.
//!
//! ```text
//!            ┌── uplink ── node ── pods0 ──┐
//!  client ───┤                             ├─── web pod (10.1.1.5)
//!            └────────── direct ───────────┘
//! ```

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    kernel::RealKernelNode,
    namespace::{Namespace, in_namespace, ip, run},
    support::DEADLINE,
};

const SERVER: &str = "10.1.1.5:8080";
const BYTES: usize = 200_000;
/// Time without progress after which a transfer counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The half of a connection that passes through the node.
#[derive(Clone, Copy)]
enum Half {
    Requests,
    Replies,
}

/// Connects the client and the web pod to the node in the network namespace of this thread.
fn wire(half: Half) -> (Namespace, Namespace) {
    let client = Namespace::new();
    let web = Namespace::new();
    ip("link add direct-client type veth peer name direct-web");
    for (link, namespace) in [
        ("router", &client),
        ("direct-client", &client),
        ("pod7-inside", &web),
        ("direct-web", &web),
    ] {
        ip(&format!("link set {link} netns {}", namespace.path()));
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    run("nft", "add table ip kube-proxy");
    run(
        "nft",
        "add chain ip kube-proxy forward { type filter hook forward priority 0 ; }",
    );
    run(
        "nft",
        "add rule ip kube-proxy forward ct state invalid drop",
    );
    let (request_way, reply_way) = match half {
        Half::Requests => ("192.0.2.2", "198.51.100.1"),
        Half::Replies => ("198.51.100.2", "10.244.3.1"),
    };
    client.run(move || {
        for line in [
            "link set router up",
            "link set direct-client up",
            "addr add 192.0.2.1/24 dev router",
            "addr add 198.51.100.1/24 dev direct-client",
        ] {
            ip(line);
        }
        ip(&format!(
            "route add 10.1.1.0/24 via {request_way} src 192.0.2.1"
        ));
    });
    web.run(move || {
        for line in [
            "link set lo up",
            "link set pod7-inside up",
            "link set direct-web up",
            "addr add 10.244.3.7/24 dev pod7-inside",
            "addr add 198.51.100.2/24 dev direct-web",
            "addr add 10.1.1.5/32 dev lo",
        ] {
            ip(line);
        }
        ip(&format!("route add 192.0.2.0/24 via {reply_way}"));
    });
    // The kernel drops packets until both ends of a veth pair are up.
    for link in ["uplink", "pod7", "pods0"] {
        wait_until_up(link);
    }
    client.run(|| ["router", "direct-client"].map(wait_until_up));
    web.run(|| ["pod7-inside", "direct-web"].map(wait_until_up));
    (client, web)
}

fn wait_until_up(link: &str) {
    let deadline = Instant::now() + DEADLINE;
    while !ip(&format!("-o link show dev {link}")).contains("state UP") {
        assert!(Instant::now() < deadline, "{link} does not come up");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends [`BYTES`] bytes from the client to the web pod, and back.
fn transfer(client: &Namespace, web: &Namespace) -> io::Result<()> {
    let (listening, is_listening) = std::sync::mpsc::channel();
    let server = web.spawn(move || -> io::Result<()> {
        let listener = TcpListener::bind(SERVER)?;
        listening.send(()).unwrap();
        socket_timeout(&listener)?;
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut received = vec![0; BYTES];
        stream.read_exact(&mut received)?;
        stream.write_all(&received)
    });
    is_listening.recv().unwrap();
    let sent = client.run(|| -> io::Result<()> {
        let address: SocketAddr = SERVER.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![7; BYTES])?;
        stream.read_exact(&mut vec![0; BYTES])
    });
    let served = server.recv().unwrap();
    sent.and(served)
}

/// Limits the wait of `accept` on this listener.
fn socket_timeout(listener: &TcpListener) -> io::Result<()> {
    use nix::sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    };
    let patience = TimeVal::new(2 * i64::try_from(PATIENCE.as_secs()).unwrap(), 0);
    setsockopt(listener, sockopt::ReceiveTimeout, &patience).map_err(io::Error::from)
}

fn check_exemption_is_needed(half: Half) {
    in_namespace(async move || {
        let (client, web) = wire(half);
        let node = RealKernelNode::start(|_| {}).await;
        let stream = node.hold("10.1.1.0/24", "10.244.3.7").await.unwrap();
        transfer(&client, &web).expect("the transfer succeeds with the exemption");
        run("nft", "delete table inet portlb-node-router");
        transfer(&client, &web).expect_err("the transfer fails without the exemption");
        drop(stream);
        node.stop().await;
    });
}

#[test]
fn a_connection_of_which_the_node_sees_only_replies_needs_the_exemption() {
    check_exemption_is_needed(Half::Replies);
}

#[test]
fn a_connection_of_which_the_node_sees_only_requests_needs_the_exemption() {
    check_exemption_is_needed(Half::Requests);
}
