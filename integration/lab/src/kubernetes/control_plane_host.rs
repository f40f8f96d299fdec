//! The program `control-plane`, and the client with which tests and benchmarks control this
//! program.
//!
//! Inside a guest, a control plane would take most of the CPU time that nodes and pods need. So in
//! the environment `lab`, `environment/run` starts the program on the control-plane host: outside
//! of the guest, on the machine's own kernel. One host of the lab reaches the control-plane host
//! over a network cable. In the environment `host` the program runs in a host of the lab.

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

use super::{ControlPlane, ControlPlaneSettings};
use crate::{Host, Lab, Topology, daemons, wait_for};

/// The address of the control plane. The script `environment/control-plane-host` contains this
/// address, too.
const CONTROL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 201, 0, 1), 24);
/// The address of the lab's host at the other end of the control plane's cable. The script
/// `environment/control-plane-host` contains this address, too.
const CABLE_END: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 201, 0, 2), 24);
/// The name of the cable's device in the lab's host.
const CABLE: &str = "vec0";
/// The name of the lab's host in which the control plane runs if there is no guest.
const CONTROL_HOST: &str = "control";
/// The address on which the program `control-plane` receives requests.
const REQUEST_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(CONTROL.addr()), 7000);
/// The longest time until etcd, the API server and the program `control-plane` have started.
const READY: Duration = Duration::from_secs(120);

#[derive(Debug, Serialize, Deserialize)]
enum ControlRequest {
    Kubectl {
        arguments: Vec<String>,
        input: String,
    },
    StartControllers,
    StopApiServer,
    StartApiServer,
}

/// The standard output of kubectl, or the text of an error.
type ControlReply = Result<String, String>;

/// A client of the program `control-plane`, which runs at the other end of the cable. Hosts of the
/// lab without the cable reach the control plane only if the host with the cable forwards packets.
#[derive(Debug)]
pub struct RemoteControlPlane {
    host: Host,
}

/// Adds to a topology the control-plane host and a cable between it and `host`, unless this process
/// runs in a guest. A guest has a cable from its start, which [`RemoteControlPlane::connect`] moves
/// into `host`.
pub fn plug(topology: &mut Topology, host: &str) {
    if !is_in_guest() {
        topology.veth((CONTROL_HOST, "eth0"), (host, CABLE));
        topology.host(host).address(CABLE, CABLE_END);
        topology
            .host(CONTROL_HOST)
            .address("eth0", CONTROL)
            .route(format!("default via {}", CABLE_END.addr()));
    }
}

impl RemoteControlPlane {
    /// Connects `host` to the control plane and waits until the control plane is ready. In a guest,
    /// moves the guest's end of the cable into `host`. Without a guest, starts the program
    /// `control-plane`.
    pub fn connect(lab: &Lab, host: &str) -> Result<Self> {
        let host = lab.host(host)?;
        if is_in_guest() {
            bring_in_cable(&host)?;
        } else {
            let command = daemons::command("control-plane")?;
            lab.host(CONTROL_HOST)?.start("control-plane", command)?;
        }
        let this = Self { host };
        wait_for("the control plane answers requests", READY, || {
            this.kubectl(&["version"], "").map_err(|error| {
                // With this pause the requests take less CPU time from the control plane, which is
                // starting.
                thread::sleep(Duration::from_millis(100));
                format!("{error:#}")
            })
        })?;
        Ok(this)
    }

    /// Starts kube-controller-manager and kube-scheduler.
    pub fn start_controllers(&self) -> Result<()> {
        self.request(&ControlRequest::StartControllers).map(drop)
    }

    /// Returns the path of a kubeconfig with all rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin")
    }

    /// Returns the path of the file `<file>.kubeconfig`. `file` must be `admin` or the third value
    /// of an entry of [`USERS`].
    pub fn kubeconfig_of(&self, file: &str) -> PathBuf {
        directory().join(format!("{file}.kubeconfig"))
    }

    /// Runs kubectl with all rights and `input` as standard input, and returns its standard output.
    /// If kubectl fails, the error contains its standard error.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.request(&ControlRequest::Kubectl {
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            input: input.to_owned(),
        })
    }

    /// Kills the API server. etcd continues to run and keeps its data.
    pub fn stop_api_server(&self) -> Result<()> {
        self.request(&ControlRequest::StopApiServer).map(drop)
    }

    /// Starts the API server after [`stop_api_server`](Self::stop_api_server), and waits until it
    /// is ready.
    pub fn start_api_server(&self) -> Result<()> {
        self.request(&ControlRequest::StartApiServer).map(drop)
    }

    fn request(&self, request: &ControlRequest) -> Result<String> {
        let mut line = serde_json::to_string(request).context("cannot encode a request")?;
        line.push('\n');
        let answer = self.host.inside(|| {
            let mut stream = TcpStream::connect(REQUEST_ADDRESS)
                .with_context(|| format!("cannot reach the control plane at {REQUEST_ADDRESS}"))?;
            stream
                .write_all(line.as_bytes())
                .context("cannot send a request")?;
            let mut answer = String::new();
            BufReader::new(stream)
                .read_line(&mut answer)
                .context("cannot receive an answer")?;
            Ok(answer)
        })?;
        let answer: ControlReply =
            serde_json::from_str(&answer).context("cannot decode the answer")?;
        answer.map_err(|error| anyhow!(error))
    }
}

/// Reports whether this process runs in a guest with a cable to the control-plane host. After the
/// cable has been moved into a host of the lab, the result is false.
fn is_in_guest() -> bool {
    Path::new("/sys/class/net").join(CABLE).exists()
}

/// Moves the guest's end of the cable into `host` and gives it an address.
///
/// `host` routes between the cable and the other networks of `host`. A bridge would not work,
/// because the cable's device also receives its own outgoing frames, and drops only frames whose
/// source is the link-layer address of the device.
fn bring_in_cable(host: &Host) -> Result<()> {
    let output = Command::new("ip")
        .args(["link", "set", CABLE, "netns"])
        .arg(host.namespace())
        .output()
        .context("cannot start ip")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cannot move {CABLE} into the host {}: {}",
        host.name(),
        stderr.trim()
    );
    host.ip(&format!(
        "address add {CABLE_END} dev {CABLE}\nlink set {CABLE} up\n"
    ))
}

/// Returns the folder of the control plane's files. A guest can read it, because it is on the file
/// system that the guest shares with the machine.
fn directory() -> PathBuf {
    crate::repository().join("target/lab/control-plane-host/control-plane")
}

/// The users, in addition to `admin`, with a kubeconfig: the name of the user, its group, and the
/// file name of the kubeconfig without its extension.
pub const USERS: [(&str, &str, &str); 4] = [
    ("system:node:n1", "system:nodes", "n1"),
    ("system:node:n2", "system:nodes", "n2"),
    ("system:node:n3", "system:nodes", "n3"),
    ("system:kube-proxy", "", "kube-proxy"),
];

/// Runs the program `control-plane`: starts etcd and the API server in this network namespace, then
/// handles requests until the program is killed. The kernel then also kills etcd and the API
/// server.
pub fn serve() -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let users = USERS.map(|(user, group, _)| (user.to_owned(), group.to_owned()));
    let settings = ControlPlaneSettings {
        address: Some(CONTROL.addr().into()),
        users: users.to_vec(),
        // The names of the nodes are not in DNS, so the API server must connect to the addresses of
        // the nodes.
        options: vec!["--kubelet-preferred-address-types=InternalIP".to_owned()],
    };
    let control_plane = ControlPlane::start_with(&directory, settings)?;
    for (user, _, file) in USERS {
        // The token of a user is the name of the user.
        control_plane.kubeconfig_for(file, control_plane.address(), user)?;
    }

    let control_plane = RwLock::new(control_plane);
    let listener = TcpListener::bind(REQUEST_ADDRESS)
        .with_context(|| format!("cannot listen on {REQUEST_ADDRESS}"))?;
    thread::scope(|scope| {
        for stream in listener.incoming() {
            let control_plane = &control_plane;
            scope.spawn(move || {
                let ended = stream
                    .context("cannot accept a connection")
                    .and_then(|stream| carry_out(stream, control_plane));
                if let Err(error) = ended {
                    eprintln!("control-plane: {error:#}");
                }
            });
        }
    });
    Ok(())
}

/// Reads one request from a connection, handles the request and sends the answer.
fn carry_out(stream: TcpStream, control_plane: &RwLock<ControlPlane>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(&stream)
        .read_line(&mut line)
        .context("cannot receive a request")?;
    let request = serde_json::from_str(&line)
        .with_context(|| format!("cannot decode the request {line:?}"))?;
    let reader = || control_plane.read().unwrap_or_else(PoisonError::into_inner);
    let writer = || {
        control_plane
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    };
    let done = match request {
        ControlRequest::Kubectl { arguments, input } => {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            reader().kubectl_with_input(&arguments, &input)
        }
        ControlRequest::StartControllers => {
            start_controllers(&mut writer()).map(|()| String::new())
        }
        ControlRequest::StopApiServer => writer().stop().map(|()| String::new()),
        ControlRequest::StartApiServer => writer().restart().map(|()| String::new()),
    };
    let answer: ControlReply = done.map_err(|error| format!("{error:#}"));
    let mut text = serde_json::to_string(&answer).context("cannot encode the answer")?;
    text.push('\n');
    (&stream)
        .write_all(text.as_bytes())
        .context("cannot send the answer")
}

fn start_controllers(control_plane: &mut ControlPlane) -> Result<()> {
    control_plane.start_controllers(&[])?;
    control_plane.start_scheduler()
}
