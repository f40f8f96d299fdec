//! A control plane as a program of its own, `control-plane`, and how a test or a benchmark commands
//! it.
//!
//! In a guest it would take most of the time that nodes and pods need. So where there is a guest,
//! `environment/run` starts the program outside of it, on the machine's own kernel, and one host of the
//! lab reaches it over a cable. On the floor `host` it runs in a host of the lab.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{ControlPlane, Settings};
use crate::{Host, Lab, Topology, daemons, wait_for};

/// The control plane, and the host that reaches it (`environment/control-plane-host`).
const CONTROL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 201, 0, 1), 24);
const CABLE_END: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 201, 0, 2), 24);
/// The guest's end of the cable.
const CABLE: &str = "vec0";
/// The lab's host that has the control plane where there is no guest.
const CONTROL_HOST: &str = "control";
/// Where `control-plane` takes its orders.
const ORDERS: SocketAddr = SocketAddr::new(IpAddr::V4(CONTROL.addr()), 7000);
/// For etcd, the API server and this program itself to be there.
const READY: Duration = Duration::from_secs(120);

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Kubectl {
        arguments: Vec<String>,
        input: String,
    },
    StartControllers,
    StopApiServer,
    StartApiServer,
}

/// What was printed, or the complaint.
type Answer = Result<String, String>;

/// etcd and the API server, and what else is ordered, at the other end of the cable. The cable's
/// host has to forward for others to reach them.
#[derive(Debug)]
pub struct OutsideControlPlane {
    host: Host,
}

/// Lays the cable from `host`, as far as that is the topology's business.
pub fn plug(topology: &mut Topology, host: &str) {
    if !is_outside() {
        topology.veth((CONTROL_HOST, "eth0"), (host, CABLE));
        topology.host(host).address(CABLE, CABLE_END);
        topology
            .host(CONTROL_HOST)
            .address("eth0", CONTROL)
            .route(format!("default via {}", CABLE_END.addr()));
    }
}

impl OutsideControlPlane {
    /// Gives the cable to `host`, where the topology has not; waits until the control plane is
    /// ready.
    pub fn connect(lab: &Lab, host: &str) -> Result<Self> {
        let host = lab.host(host)?;
        if is_outside() {
            bring_in_cable(&host)?;
        } else {
            let command = daemons::command("control-plane")?;
            lab.host(CONTROL_HOST)?.start("control-plane", command)?;
        }
        let this = Self { host };
        wait_for("the control plane takes orders", READY, || {
            this.kubectl(&["version"], "").map_err(|error| {
                // What is awaited needs the CPU.
                thread::sleep(Duration::from_millis(100));
                format!("{error:#}")
            })
        })?;
        Ok(this)
    }

    /// Starts the controllers and the scheduler.
    pub fn start_controllers(&self) -> Result<()> {
        self.order(&Order::StartControllers).map(drop)
    }

    /// A kubeconfig with every right.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin")
    }

    /// The kubeconfig of one of [`USERS`], by the name of its file.
    pub fn kubeconfig_of(&self, file: &str) -> PathBuf {
        directory().join(format!("{file}.kubeconfig"))
    }

    /// Runs kubectl with every right and gives what it prints; its complaint is the error.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.order(&Order::Kubectl {
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            input: input.to_owned(),
        })
    }

    /// Kills the API server; etcd keeps what it knows.
    pub fn stop_api_server(&self) -> Result<()> {
        self.order(&Order::StopApiServer).map(drop)
    }

    /// Starts the API server again and waits until it is ready.
    pub fn start_api_server(&self) -> Result<()> {
        self.order(&Order::StartApiServer).map(drop)
    }

    fn order(&self, order: &Order) -> Result<String> {
        let mut line = serde_json::to_string(order).context("write the order")?;
        line.push('\n');
        let answer = self.host.inside(|| {
            let mut stream = TcpStream::connect(ORDERS)
                .with_context(|| format!("reach the control plane at {ORDERS}"))?;
            stream.write_all(line.as_bytes()).context("send an order")?;
            let mut answer = String::new();
            BufReader::new(stream)
                .read_line(&mut answer)
                .context("receive an answer")?;
            Ok(answer)
        })?;
        let answer: Answer = serde_json::from_str(&answer).context("read the answer")?;
        answer.map_err(|complaint| anyhow!(complaint))
    }
}

/// Whether a cable leads out of this guest that no host has yet.
fn is_outside() -> bool {
    Path::new("/sys/class/net").join(CABLE).exists()
}

/// It is routed, not bridged: the device sees its own outgoing frames again, and drops only those
/// with its own source address.
fn bring_in_cable(host: &Host) -> Result<()> {
    let output = Command::new("ip")
        .args(["link", "set", CABLE, "netns"])
        .arg(host.namespace())
        .output()
        .context("start ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{CABLE}: {complaint}");
    host.ip(&format!(
        "address add {CABLE_END} dev {CABLE}\nlink set {CABLE} up\n"
    ))
}

/// On the file system that a guest shares with its machine.
fn directory() -> PathBuf {
    crate::repository().join("target/lab/control-plane-host/control-plane")
}

/// Who may have a kubeconfig: user, group, name of the file.
pub const USERS: [(&str, &str, &str); 4] = [
    ("system:node:n1", "system:nodes", "n1"),
    ("system:node:n2", "system:nodes", "n2"),
    ("system:node:n3", "system:nodes", "n3"),
    ("system:kube-proxy", "", "kube-proxy"),
];

/// What the program `control-plane` does: starts etcd and the API server at its address, which this
/// network namespace has, then follows orders until it is killed, and everything with it.
pub fn serve() -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let users = USERS.map(|(user, group, _)| (user.to_owned(), group.to_owned()));
    let settings = Settings {
        address: Some(CONTROL.addr().into()),
        users: users.to_vec(),
        // Nobody resolves the nodes' names.
        options: vec!["--kubelet-preferred-address-types=InternalIP".to_owned()],
    };
    let control_plane = ControlPlane::start_with(&directory, settings)?;
    for (user, _, file) in USERS {
        // The token of a user is its name.
        control_plane.kubeconfig_for(file, control_plane.address(), user)?;
    }

    let control_plane = RwLock::new(control_plane);
    let listener = TcpListener::bind(ORDERS).with_context(|| format!("listen on {ORDERS}"))?;
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let control_plane = &control_plane;
            scope.spawn(move || {
                let ended = stream
                    .context("accept")
                    .and_then(|stream| follow(stream, control_plane));
                if let Err(error) = ended {
                    eprintln!("control-plane: {error:#}");
                }
            });
        }
    });
    Ok(())
}

/// One connection brings one order.
fn follow(stream: TcpStream, control_plane: &RwLock<ControlPlane>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(&stream)
        .read_line(&mut line)
        .context("receive an order")?;
    let order = serde_json::from_str(&line).with_context(|| format!("read the order {line:?}"))?;
    let reader = || control_plane.read().unwrap_or_else(PoisonError::into_inner);
    let writer = || {
        control_plane
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let done = match order {
        Order::Kubectl { arguments, input } => {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            reader().kubectl_with_input(&arguments, &input)
        }
        Order::StartControllers => start_controllers(&mut writer()).map(|()| String::new()),
        Order::StopApiServer => writer().stop().map(|()| String::new()),
        Order::StartApiServer => writer().restart().map(|()| String::new()),
    };
    let answer: Answer = done.map_err(|error| format!("{error:#}"));
    let mut text = serde_json::to_string(&answer).context("write the answer")?;
    text.push('\n');
    (&stream).write_all(text.as_bytes()).context("answer")
}

fn start_controllers(control_plane: &mut ControlPlane) -> Result<()> {
    control_plane.start_controllers(&[])?;
    control_plane.start_scheduler()
}
