//! The control plane as a program of its own, `control-plane`, and how a test commands it.
//!
//! In a guest it would take most of the time that nodes and pods need. So where there is a guest,
//! `floor/run` starts the program outside of it, on the machine's own kernel, and the cluster
//! reaches it over a cable. On the floor `host` it runs in the host `control` of the lab.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::network::{CABLE, CONTROL, CONTROL_HOST, NODES, ROUTER_HOST, name};
use crate::kubernetes::{ControlPlane, Settings};
use crate::{Lab, wait_for};

/// Where `control-plane` takes its orders.
const ORDERS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(CONTROL), 7000);
/// For etcd, the API server and this program itself to be there.
const READY: Duration = Duration::from_secs(120);
/// User and file name of kube-proxy's kubeconfig.
const PROXY: (&str, &str) = ("system:kube-proxy", "kube-proxy");

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Kubectl {
        arguments: Vec<String>,
        input: String,
    },
    StopApiServer,
    StartApiServer,
}

/// What was printed, or the complaint.
type Answer = Result<String, String>;

/// etcd, the API server, the controllers and the scheduler, from where the cluster is.
#[derive(Debug)]
pub struct Control {
    // That the router's network namespace reaches.
    from: crate::Host,
}

impl Control {
    /// Waits until it is ready; starts it in the host `control` where the lab has one. `program` is
    /// the binary `control-plane`.
    pub(super) fn connect(lab: &Lab, program: &Path) -> Result<Self> {
        if lab.hosts().any(|host| host == CONTROL_HOST) {
            let host = lab.host(CONTROL_HOST)?;
            host.start("control-plane", Command::new(program))?;
        }
        let this = Self {
            from: lab.host(ROUTER_HOST)?,
        };
        wait_for("the control plane takes orders", READY, || {
            let version = this.kubectl(&["version"], "");
            thread::sleep(Duration::from_millis(100));
            version.map_err(|error| format!("{error:#}"))
        })?;
        Ok(this)
    }

    /// Runs kubectl with every right and gives what it prints; its complaint is the error.
    pub(super) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.order(&Order::Kubectl {
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            input: input.to_owned(),
        })
    }

    /// Kills the API server; etcd keeps what it knows.
    pub(super) fn stop_api_server(&self) -> Result<()> {
        self.order(&Order::StopApiServer).map(drop)
    }

    /// Starts the API server again and waits until it is ready.
    pub(super) fn start_api_server(&self) -> Result<()> {
        self.order(&Order::StartApiServer).map(drop)
    }

    fn order(&self, order: &Order) -> Result<String> {
        let mut line = serde_json::to_string(order).context("write the order")?;
        line.push('\n');
        let answer = self.from.inside(|| {
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

/// Whether a cable leads out of this guest.
pub(super) fn is_outside() -> bool {
    Path::new("/sys/class/net").join(CABLE).exists()
}

/// The kubeconfig of a node's kubelet.
pub(super) fn kubelet_kubeconfig(node: &str) -> PathBuf {
    kubeconfig(node)
}

/// The kubeconfig of every node's kube-proxy.
pub(super) fn proxy_kubeconfig() -> PathBuf {
    kubeconfig(PROXY.1)
}

fn kubeconfig(file: &str) -> PathBuf {
    directory().join(format!("{file}.kubeconfig"))
}

/// On the file system that a guest shares with its machine.
fn directory() -> PathBuf {
    crate::repository().join("target/lab/control-plane")
}

/// What the program `control-plane` does: starts everything at its address, which this network
/// namespace has, then follows orders until it is killed, and everything with it.
pub fn serve() -> Result<()> {
    let users: Vec<(String, String, String)> = (1..=NODES)
        .map(name)
        .map(|node| (format!("system:node:{node}"), "system:nodes".into(), node))
        .chain([(PROXY.0.into(), String::new(), PROXY.1.into())])
        .collect();
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let settings = Settings {
        address: Some(CONTROL.into()),
        users: users
            .iter()
            .map(|(user, group, _)| (user.clone(), group.clone()))
            .collect(),
        // Nobody resolves the nodes' names.
        options: vec!["--kubelet-preferred-address-types=InternalIP".to_owned()],
    };
    let mut control_plane = ControlPlane::start_with(&directory, settings)?;
    // The token of a user is its name.
    for (user, _, file) in &users {
        control_plane.kubeconfig_for(file, control_plane.address(), user)?;
    }
    control_plane.start_controllers(&[])?;
    control_plane.start_scheduler()?;

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
        Order::StopApiServer => writer().stop().map(|()| String::new()),
        Order::StartApiServer => writer().restart().map(|()| String::new()),
    };
    let answer: Answer = done.map_err(|error| format!("{error:#}"));
    let mut text = serde_json::to_string(&answer).context("write the answer")?;
    text.push('\n');
    (&stream).write_all(text.as_bytes()).context("answer")
}
