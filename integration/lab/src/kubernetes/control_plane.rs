//! etcd and kube-apiserver, on loopback or on an address of a lab's host.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::credentials;
use crate::host::block_on;
use crate::process::Process;
use crate::{ensure_that, wait_for};

const API_PORT: u16 = 6443;
const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
/// Much longer than it takes, for a machine where others build.
const READY: Duration = Duration::from_secs(120);
const SERVICE_CLUSTER_IPS: &str = "10.96.0.0/12,fd00:10:96::/112";

/// A Kubernetes API server with an etcd of its own. Ready when `start` returns;
/// killed when it is dropped, and also when this program is killed.
///
/// No controller runs unless [`start_controllers`](Self::start_controllers) is
/// called: nobody makes EndpointSlices, ServiceAccounts of new namespaces, nor
/// pods out of Deployments, so that a test has the whole say.
#[derive(Debug)]
pub struct ControlPlane {
    directory: PathBuf,
    address: SocketAddr,
    options: Vec<String>,
    etcd: Process,
    api_server: Option<Process>,
    others: Vec<Process>,
    starts: usize,
}

/// What a control plane has beyond the usual.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where it listens, in the calling thread's network namespace; a loopback
    /// address that nobody else has, when it is not given.
    pub address: Option<IpAddr>,
    /// More options of kube-apiserver, for instance `--max-requests-inflight=2`.
    pub options: Vec<String>,
    /// More users, with their groups; a user's token is the user's name.
    pub users: Vec<(String, String)>,
}

impl ControlPlane {
    /// Starts one with its files in `directory`, which is emptied.
    pub fn start(directory: &Path) -> Result<Self> {
        Self::start_with(directory, Settings::default())
    }

    /// The same with more than the usual.
    pub fn start_with(directory: &Path, settings: Settings) -> Result<Self> {
        let directory = std::path::absolute(directory).context("find the working directory")?;
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("empty {}", directory.display()));
            }
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let address = match settings.address {
            Some(address) => address,
            None => free_loopback_address()?.into(),
        };
        let server = SocketAddr::new(address, API_PORT);
        credentials::write(&directory, server, &settings.users)?;

        let mut control_plane = Self {
            etcd: start_etcd(&directory, address)?,
            address: server,
            options: settings.options,
            api_server: None,
            others: Vec::new(),
            starts: 0,
            directory,
        };
        control_plane.restart()?;
        Ok(control_plane)
    }

    /// Where the API server listens; the port of a stopped one stays its own.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as `https://...`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificates that vouch for the API server's, as PEM.
    pub fn authority(&self) -> PathBuf {
        credentials::authority(&self.directory)
    }

    /// A kubeconfig with every right.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// A kubeconfig for `token` through `server`, for instance a
    /// [`FaultProxy`](super::FaultProxy). It names the file `<name>.token`
    /// beside it, so that a test can put another token there.
    pub fn kubeconfig_for(&self, name: &str, server: SocketAddr, token: &str) -> Result<PathBuf> {
        credentials::write_kubeconfig(&self.directory, name, server, token)
    }

    /// A token of this ServiceAccount, valid for `lifetime` (at least 10 minutes).
    pub fn token(&self, namespace: &str, account: &str, lifetime: Duration) -> Result<String> {
        let duration = format!("--duration={}s", lifetime.as_secs());
        let token = self.kubectl(&["create", "token", account, "-n", namespace, &duration])?;
        Ok(token.trim().to_owned())
    }

    /// Makes a namespace with the ServiceAccount `default`, which pods need.
    pub fn create_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["create", "namespace", name])?;
        self.kubectl(&["create", "serviceaccount", "default", "-n", name])?;
        Ok(())
    }

    /// Runs kubectl with every right and gives what it prints; its complaint is
    /// the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with_input(arguments, "")
    }

    /// The same with standard input, for `apply -f -`.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(binaries()?.join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments)
            .env("KUBECACHEDIR", self.directory.join("cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        let mut stdin = child.stdin.take().context("its input is a pipe")?;
        // It may say what is wrong before it has read everything.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().context("wait for kubectl")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl {} failed: {}",
            arguments.join(" "),
            complaint.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A client with every right; to be made inside a tokio runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig()).await
    }

    /// The process of the API server, while it is not stopped.
    pub fn api_server(&self) -> Option<&Process> {
        self.api_server.as_ref()
    }

    /// Kills the API server; etcd keeps its data.
    pub fn stop(&mut self) -> Result<()> {
        match self.api_server.take() {
            Some(api_server) => api_server.kill(),
            None => Ok(()),
        }
    }

    /// Starts the API server on the same address and data, and waits until it
    /// is ready. It cannot resume watches from before: they get 410 Gone.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        let mut command = Command::new(binaries()?.join("kube-apiserver"));
        command
            .args(credentials::api_server_options(&self.directory))
            .args([
                format!(
                    "--etcd-servers=http://{}",
                    SocketAddr::new(self.address.ip(), ETCD_PORT)
                ),
                format!("--bind-address={}", self.address.ip()),
                format!("--advertise-address={}", self.address.ip()),
                format!("--secure-port={}", self.address.port()),
                format!("--service-cluster-ip-range={SERVICE_CLUSTER_IPS}"),
            ])
            .args(["--authorization-mode=Node,RBAC", "--allow-privileged=true"])
            .args(&self.options);
        if self.address.ip().is_loopback() {
            // An endpoint on loopback would be refused, again and again.
            command.arg("--endpoint-reconciler-type=none");
        }
        let name = match self.starts {
            0 => "kube-apiserver".to_owned(),
            restarts => format!("kube-apiserver.{restarts}"),
        };
        self.starts += 1;
        let process = spawn(&self.directory, &name, command)?;
        self.api_server = Some(process.clone());
        wait_for("the API server is ready", READY, || {
            if process.is_running() {
                self.readiness().map_err(|error| format!("{error:#}"))
            } else {
                // Waiting on would show nothing else; the caller sees the log.
                Ok(())
            }
        })
        .and_then(|()| {
            ensure_that(process.is_running(), "it has ended").map_err(anyhow::Error::msg)
        })
        .with_context(|| process.tail())
    }

    /// The same with a new key and a new certificate authority; clients that
    /// trust only the old one see a stranger.
    pub fn restart_with_new_authority(&mut self) -> Result<()> {
        self.stop()?;
        credentials::forget_authority(&self.directory)?;
        self.restart()
    }

    /// Starts kube-controller-manager with all that it has by default and these
    /// options: it makes EndpointSlices and pods, ServiceAccounts of namespaces,
    /// collects garbage.
    pub fn start_controllers(&mut self, options: &[&str]) -> Result<()> {
        let mut all = credentials::controller_options(&self.directory);
        all.extend(options.iter().map(|&option| option.to_owned()));
        self.start_component(credentials::CONTROLLERS, &all)
    }

    /// Starts kube-scheduler.
    pub fn start_scheduler(&mut self) -> Result<()> {
        self.start_component(credentials::SCHEDULER, &[])
    }

    fn start_component(&mut self, name: &str, options: &[String]) -> Result<()> {
        let kubeconfig = self.kubeconfig_for(name, self.address, &format!("system:{name}"))?;
        let mut command = Command::new(binaries()?.join(name));
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            // It is alone, and nobody asks it anything.
            .args(["--leader-elect=false", "--secure-port=0"])
            .args(options);
        self.others.push(spawn(&self.directory, name, command)?);
        Ok(())
    }

    fn readiness(&self) -> Result<()> {
        let ask = async {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let client = self.client().await?;
            anyhow::Ok(client.request_text(request).await?)
        };
        // On a thread of its own, since a test may call from inside a runtime.
        let answer = thread::scope(|scope| {
            let answer = scope.spawn(|| block_on(ask)?).join();
            answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure!(answer == "ok", "{answer}");
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Not SIGTERM: without its etcd the API server takes a minute to follow.
        for process in self
            .others
            .iter()
            .chain(&self.api_server)
            .chain([&self.etcd])
        {
            let _ = process.kill();
        }
    }
}

/// A client as a kubeconfig says; to be made inside a tokio runtime.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("understand the kubeconfig")?;
    kube::Client::try_from(config).context("make a client")
}

/// Where `environment/install kubernetes` puts what it builds, for the version that
/// `KUBERNETES_VERSION` selects.
pub fn binaries() -> Result<PathBuf> {
    let places = crate::repository().join("integration/lab/environment/paths");
    let output = Command::new("bash")
        .args(["-euc", r#". "$0"; printf %s "$kubernetes_dir""#])
        .arg(&places)
        .output()
        .with_context(|| format!("ask {}", places.display()))?;
    let directory = PathBuf::from(String::from_utf8(output.stdout).context("read the answer")?);
    if !directory.join("kube-apiserver").exists() {
        bail!(
            "there is no kube-apiserver in {}; run: integration/lab/environment/install packages kubernetes",
            directory.display()
        );
    }
    Ok(directory)
}

fn start_etcd(directory: &Path, address: IpAddr) -> Result<Process> {
    let clients = format!("http://{}", SocketAddr::new(address, ETCD_PORT));
    let peers = format!("http://{}", SocketAddr::new(address, ETCD_PEER_PORT));
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", &clients])
        .args(["--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers])
        .args(["--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        // It is alone: nobody else may be elected while the machine is busy.
        .args(["--heartbeat-interval", "500", "--election-timeout", "5000"])
        .args(["--log-level", "warn"]);
    spawn(directory, "etcd", command)
}

fn spawn(directory: &Path, name: &str, command: Command) -> Result<Process> {
    Process::spawn_bound(name, &directory.join(format!("{name}.log")), command)
}

/// Of 127.0.0.0/8, so that the ports may be the usual ones, which no outgoing
/// connection takes while the API server is stopped.
fn free_loopback_address() -> Result<Ipv4Addr> {
    let seed = std::time::UNIX_EPOCH
        .elapsed()
        .context("the clock is before 1970")?
        .subsec_nanos();
    for attempt in 0..100_u32 {
        let [_, a, b, c] = seed
            .wrapping_add(attempt)
            .wrapping_mul(2_654_435_761)
            .to_be_bytes();
        let address = Ipv4Addr::new(127, a | 1, b, c.clamp(1, 254));
        let is_free = |port| TcpListener::bind((address, port)).is_ok();
        if [API_PORT, ETCD_PORT, ETCD_PEER_PORT]
            .into_iter()
            .all(is_free)
        {
            return Ok(address);
        }
    }
    bail!("no loopback address has ports {API_PORT}, {ETCD_PORT} and {ETCD_PEER_PORT} free")
}
