//! Tests on a kernel with ipip and ip6_tunnel.
//!
//! Each test runs in its own network namespaces. The tests need root and the command `ip`.
#![cfg(test)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
    sync::mpsc::{Sender, channel},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{getpid, gettid},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// A thread in its own network namespace. The thread runs jobs in the order of their submission.
struct Namespace {
    path: String,
    jobs: Sender<Box<dyn FnOnce() + Send>>,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, todo) = channel::<Box<dyn FnOnce() + Send>>();
        let (entered, path) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("creating a network namespace needs root or CAP_SYS_ADMIN");
            let path = format!("/proc/{}/task/{}/ns/net", getpid(), gettid());
            entered.send(path).unwrap();
            for job in todo {
                job();
            }
        });
        let path = path.recv().unwrap();
        let namespace = Self { path, jobs };
        namespace.ip("link set lo up");
        namespace
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = Box::new(move || done.send(job()).unwrap());
        self.jobs.send(job).unwrap();
        result.recv().expect("the job did not panic")
    }

    fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.to_owned();
        self.run(move || {
            let words = arguments.split_whitespace();
            let output = Command::new("ip").args(words).output().unwrap();
            assert!(output.status.success(), "ip {arguments}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    fn tunnel_init(&self, ranges: &'static str) -> Output {
        self.run(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-init"));
            command.args(["--service-ranges", ranges]).output().unwrap()
        })
    }

    #[track_caller]
    fn prepare(&self, ranges: &'static str) {
        let output = self.tunnel_init(ranges);
        assert!(output.status.success(), "{output:?}");
    }

    fn set_strict_rp_filter(&self) {
        self.run(|| {
            for name in ["all", "default", "tunl0"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "1").unwrap();
            }
        });
    }
}

/// Returns the namespace of a load balancer. This namespace wraps packets to the service address in
/// outer packets, and sends the outer packets to the web pod.
fn load_balancer(web: &Namespace, family: &str) -> Namespace {
    let load_balancer = Namespace::new();
    web.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}",
        load_balancer.path
    ));
    let (lb, pod, client, service, tunnel) = match family {
        "-4" => (
            "10.244.1.1/24",
            "10.244.1.2/24",
            "198.51.100.7/32",
            "10.1.1.10",
            "ip tunnel add wrap mode ipip remote 10.244.1.2 local 10.244.1.1",
        ),
        _ => (
            "fd00:244::1/64",
            "fd00:244::2/64",
            "2001:db8::7/128",
            "fd00:1::10",
            "ip -6 tunnel add wrap mode ip6ip6 remote fd00:244::2 local fd00:244::1",
        ),
    };
    let address = |host: &Namespace, address: &str, device: &str| {
        let nodad = if family == "-6" { "nodad" } else { "" };
        host.ip(&format!(
            "{family} address add {address} dev {device} {nodad}"
        ));
    };
    web.ip("link set eth0 up");
    load_balancer.ip("link set eth0 up");
    address(web, pod, "eth0");
    address(&load_balancer, lb, "eth0");
    address(&load_balancer, client, "lo");
    web.ip(&format!(
        "{family} route add default via {}",
        lb.split('/').next().unwrap()
    ));
    load_balancer.ip(tunnel.trim_start_matches("ip "));
    load_balancer.ip("link set wrap up");
    load_balancer.ip(&format!(
        "{family} route add {service} dev wrap src {}",
        client.split('/').next().unwrap()
    ));
    load_balancer
}

/// Connects from the load balancer's namespace to a server in the web pod. Returns the text that
/// the server sends.
fn read_from_server(
    web: &Namespace,
    load_balancer: &Namespace,
    listen: &str,
    service: &str,
) -> String {
    let listen: SocketAddr = listen.parse().unwrap();
    let service: SocketAddr = service.parse().unwrap();
    let listener = web.run(move || TcpListener::bind(listen).unwrap());
    std::thread::spawn(move || {
        let (mut connection, client) = listener.accept().unwrap();
        write!(connection, "hello {}", client.ip()).unwrap();
    });
    load_balancer.run(move || {
        let mut connection = TcpStream::connect_timeout(&service, DEADLINE).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn a_client_reaches_the_pod_through_the_tunnel_despite_a_strict_rp_filter() {
    let web = Namespace::new();
    let load_balancer = load_balancer(&web, "-4");
    web.set_strict_rp_filter();
    web.prepare("10.1.1.0/24");
    assert_eq!(
        read_from_server(&web, &load_balancer, "0.0.0.0:80", "10.1.1.10:80"),
        "hello 198.51.100.7"
    );
}

#[test]
fn a_client_reaches_the_pod_through_the_ipv6_tunnel() {
    let web = Namespace::new();
    let load_balancer = load_balancer(&web, "-6");
    web.prepare("fd00:1::/64");
    assert_eq!(
        read_from_server(&web, &load_balancer, "[::]:80", "[fd00:1::10]:80"),
        "hello 2001:db8::7"
    );
}

/// Connects from the web pod to `service`. Returns the text that the server sends.
fn read_as_web_pod(web: &Namespace, service: &str) -> String {
    let service: SocketAddr = service.parse().unwrap();
    web.run(move || {
        let mut connection = TcpStream::connect_timeout(&service, DEADLINE).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    })
}

/// Sends `greeting` and the client's address on each accepted connection.
fn serve(host: &Namespace, listen: &str, greeting: &'static str) {
    let listen: SocketAddr = listen.parse().unwrap();
    let listener = host.run(move || TcpListener::bind(listen).unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let client = connection.peer_addr().unwrap().ip();
            write!(connection, "{greeting} {client}").unwrap();
        }
    });
}

#[test]
fn a_pod_reaches_a_service_address_of_another_pod_in_the_same_range() {
    let web = Namespace::new();
    let load_balancer = load_balancer(&web, "-4");
    web.prepare("10.1.1.0/24");
    load_balancer.ip("address add 10.1.1.11/32 dev lo");
    serve(&web, "0.0.0.0:80", "web");
    serve(&load_balancer, "10.1.1.11:80", "other");
    assert_eq!(read_as_web_pod(&web, "10.1.1.11:80"), "other 10.244.1.2");
}

#[test]
fn a_pod_reaches_an_ipv6_service_address_of_another_pod_in_the_same_range() {
    let web = Namespace::new();
    let load_balancer = load_balancer(&web, "-6");
    web.prepare("fd00:1::/64");
    load_balancer.ip("-6 address add fd00:1::11/128 dev lo nodad");
    serve(&web, "[::]:80", "web");
    serve(&load_balancer, "[fd00:1::11]:80", "other");
    assert_eq!(
        read_as_web_pod(&web, "[fd00:1::11]:80"),
        "other fd00:244::2"
    );
}

/// The pod is a real server of the service address to which it connects, so the load balancer sends
/// the pod's packet back to the pod. Only the system tests cover IPv6: in this test a tunnel device
/// replaces IPVS, and this device drops IPv6 packets whose source is the remote end of the tunnel.
#[test]
fn a_pod_can_be_the_real_server_of_its_own_connection() {
    let web = Namespace::new();
    let load_balancer = load_balancer(&web, "-4");
    web.set_strict_rp_filter();
    web.prepare("10.1.1.0/24");
    load_balancer.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    serve(&web, "0.0.0.0:80", "web");
    assert_eq!(read_as_web_pod(&web, "10.1.1.10:80"), "web 10.244.1.2");
    assert!(
        packets_received(&web, "tunl0") > 0,
        "the pod connected to itself without the load balancer"
    );
}

fn packets_received(host: &Namespace, device: &'static str) -> u64 {
    let counters = host.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = counters
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{device}:")));
    let received = line.and_then(|line| line.split_whitespace().nth(1));
    received.unwrap().parse().unwrap()
}

#[test]
fn a_second_run_of_tunnel_init_changes_nothing() {
    let web = Namespace::new();
    let state = |web: &Namespace| {
        let devices = web.ip("-o link show") + &web.ip("-o address show");
        let rules = web.ip("rule") + &web.ip("-6 rule");
        let routes = web.ip("route show table local") + &web.ip("-6 route show table local");
        devices + &rules + &routes
    };
    web.prepare("10.1.1.0/24,10.1.2.9/32,fd00:1::/64");
    let before = state(&web);
    assert!(before.contains("local 10.1.2.9"), "{before}");
    web.prepare("10.1.1.0/24,10.1.2.9/32,fd00:1::/64");
    assert_eq!(state(&web), before);
}

#[test]
fn a_blackhole_route_to_a_service_range_in_the_local_table_is_replaced() {
    let web = Namespace::new();
    web.ip("route add blackhole 10.1.1.0/24 table local");
    web.prepare("10.1.1.0/24");
    let routes = web.ip("route show table local");
    assert!(routes.contains("local 10.1.1.0/24 dev lo"), "{routes}");
    assert!(!routes.contains("blackhole"), "{routes}");
}

#[test]
fn without_net_admin_the_error_names_the_capability_to_add_to_the_manifest() {
    let web = Namespace::new();
    let output = web.run(|| {
        let mut command = Command::new("setpriv");
        let command = command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        let command = command.arg(env!("CARGO_BIN_EXE_tunnel-init"));
        command
            .args(["--service-ranges", "10.1.1.0/24"])
            .output()
            .unwrap()
    });
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("add: [NET_ADMIN]"), "{text}");
}
