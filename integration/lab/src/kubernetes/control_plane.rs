//! etcd and kube-apiserver, on a loopback address or on a host's address.

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
/// The longest time until the API server is ready. The limit is long, because compilers can run on
/// the machine at the same time.
const READY: Duration = Duration::from_secs(120);
const SERVICE_CLUSTER_IPS: &str = "10.96.0.0/12,fd00:10:96::/112";

/// A Kubernetes API server with its own etcd. Dropping the value kills all processes of the control
/// plane. The kernel also kills these processes if the program that started them is killed.
///
/// No controller runs until [`start_controllers`](Self::start_controllers) is called. So no program
/// creates the objects that controllers create: EndpointSlices of Services, ServiceAccounts of new
/// namespaces, and pods of Deployments.
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

/// Optional settings of a control plane.
#[derive(Debug, Clone, Default)]
pub struct ControlPlaneSettings {
    /// The address on which etcd and the API server listen, in the calling thread's network
    /// namespace. `None`: an unused loopback address.
    pub address: Option<IpAddr>,
    /// Additional command-line options of kube-apiserver, such as `--max-requests-inflight=2`.
    pub options: Vec<String>,
    /// Additional users: the name of each user, and the groups of the user, separated by commas.
    /// The token of a user is the user's name.
    pub users: Vec<(String, String)>,
}

impl ControlPlane {
    /// Starts etcd and the API server with their files in `directory`, and returns when the API
    /// server is ready. Deletes all files that `directory` contains before the start.
    pub fn start(directory: &Path) -> Result<Self> {
        Self::start_with(directory, ControlPlaneSettings::default())
    }

    /// Starts a control plane like [`start`](Self::start), with optional settings.
    pub fn start_with(directory: &Path, settings: ControlPlaneSettings) -> Result<Self> {
        let directory =
            std::path::absolute(directory).context("cannot read the working directory")?;
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", directory.display()));
            }
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
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

    /// Returns the address of the API server. While the API server is stopped, the kernel does not
    /// choose the port of this address as the source port of a connection.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of the API server.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Returns the path of the PEM file with the certificates that a client must trust to connect
    /// to the API server.
    pub fn authority(&self) -> PathBuf {
        credentials::authority(&self.directory)
    }

    /// Returns the path of a kubeconfig with all rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig that connects with `token` to `server`, which can be the address of a
    /// [`FaultProxy`](super::FaultProxy). The token is in the file `<name>.token` next to the
    /// kubeconfig, so that a test can replace the token.
    pub fn kubeconfig_for(&self, name: &str, server: SocketAddr, token: &str) -> Result<PathBuf> {
        credentials::write_kubeconfig(&self.directory, name, server, token)
    }

    /// Requests a token of a ServiceAccount, valid for `lifetime` (at least 10 minutes).
    pub fn token(&self, namespace: &str, account: &str, lifetime: Duration) -> Result<String> {
        let duration = format!("--duration={}s", lifetime.as_secs());
        let token = self.kubectl(&["create", "token", account, "-n", namespace, &duration])?;
        Ok(token.trim().to_owned())
    }

    /// Creates a namespace and its ServiceAccount `default`. Without this ServiceAccount the API
    /// server accepts no pods in the namespace.
    pub fn create_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["create", "namespace", name])?;
        self.kubectl(&["create", "serviceaccount", "default", "-n", name])?;
        Ok(())
    }

    /// Runs kubectl with all rights and returns its standard output. If kubectl fails, the error
    /// contains its standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with_input(arguments, "")
    }

    /// Runs kubectl like [`kubectl`](Self::kubectl), with `input` as standard input, such as for
    /// `apply -f -`.
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
        let mut child = command.spawn().context("cannot start kubectl")?;
        let mut stdin = child
            .stdin
            .take()
            .context("cannot open the standard input of kubectl")?;
        // A write error is ignored, because it means that kubectl has failed before it has read all
        // input. In this case kubectl's own error is more useful.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child
            .wait_with_output()
            .context("cannot wait for kubectl")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl {} failed: {}",
            arguments.join(" "),
            stderr.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Creates an API client with all rights. Must be called inside a tokio runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig()).await
    }

    /// Returns the process of the API server, or `None` while the API server is stopped.
    pub fn api_server(&self) -> Option<&Process> {
        self.api_server.as_ref()
    }

    /// Kills the API server. etcd continues to run and keeps its data.
    pub fn stop(&mut self) -> Result<()> {
        match self.api_server.take() {
            Some(api_server) => api_server.kill(),
            None => Ok(()),
        }
    }

    /// Kills the API server if it runs, starts it with its previous address and data, and waits
    /// until it is ready. A client that continues a watch from before the restart can get 410 Gone.
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
            // The API server cannot write its address into the object of kind Endpoints of the
            // Service `kubernetes` if the address is a loopback address. Without this option the
            // API server would retry forever.
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
                // An ended process also ends the wait. `ensure_that` below then reports the end,
                // with the last lines of the log.
                Ok(())
            }
        })
        .and_then(|()| {
            ensure_that(process.is_running(), "the API server has ended")
                .map_err(anyhow::Error::msg)
        })
        .with_context(|| process.tail())
    }

    /// Restarts the API server with a new key and a new certificate authority. Clients that trust
    /// only the old certificate authority refuse the new certificate.
    pub fn restart_with_new_authority(&mut self) -> Result<()> {
        self.stop()?;
        credentials::remove_authority(&self.directory)?;
        self.restart()
    }

    /// Starts kube-controller-manager with its default controllers and additional command-line
    /// options. The controllers then create EndpointSlices, pods and ServiceAccounts, and collect
    /// garbage.
    pub fn start_controllers(&mut self, options: &[&str]) -> Result<()> {
        let mut all = credentials::controller_options(&self.directory);
        all.extend(options.iter().map(|&option| option.to_owned()));
        self.start_component(credentials::CONTROLLERS, &all)
    }

    pub fn start_scheduler(&mut self) -> Result<()> {
        self.start_component(credentials::SCHEDULER, &[])
    }

    fn start_component(&mut self, name: &str, options: &[String]) -> Result<()> {
        let kubeconfig = self.kubeconfig_for(name, self.address, &format!("system:{name}"))?;
        let mut command = Command::new(binaries()?.join(name));
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            // Only one instance of the component runs, so it needs no leader election. No client
            // uses its HTTPS port.
            .args(["--leader-elect=false", "--secure-port=0"])
            .args(options);
        self.others.push(spawn(&self.directory, name, command)?);
        Ok(())
    }

    fn readiness(&self) -> Result<()> {
        let request = async {
            let readyz = http::Request::get("/readyz").body(Vec::new())?;
            let client = self.client().await?;
            anyhow::Ok(client.request_text(readyz).await?)
        };
        // A test can call this function inside a tokio runtime, and such a thread cannot block on a
        // second runtime. So a new thread sends the request.
        let answer = thread::scope(|scope| {
            let answer = scope.spawn(|| block_on(request)?).join();
            answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        ensure!(answer == "ok", "{answer}");
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // The processes get SIGKILL, because after SIGTERM the API server can take a minute to end.
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

/// Creates an API client with the settings of a kubeconfig. Must be called inside a tokio runtime.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("cannot apply the kubeconfig")?;
    kube::Client::try_from(config).context("cannot create an API client")
}

/// Returns the folder of the programs that `environment/install` builds with the argument
/// `api-server` or `kubernetes`, for the version of Kubernetes that the environment variable
/// `KUBERNETES_VERSION` selects.
pub fn binaries() -> Result<PathBuf> {
    let paths = crate::repository().join("integration/lab/environment/paths");
    let output = Command::new("bash")
        .args(["-euc", r#". "$0"; printf %s "$kubernetes_dir""#])
        .arg(&paths)
        .output()
        .with_context(|| format!("cannot source {}", paths.display()))?;
    let directory = PathBuf::from(
        String::from_utf8(output.stdout)
            .context("cannot read the folder of Kubernetes' programs")?,
    );
    if !directory.join("kube-apiserver").exists() {
        bail!(
            "kube-apiserver does not exist in {}; run: integration/lab/environment/install packages kubernetes",
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
        // The intervals are long, because a busy machine could otherwise cause an election,
        // although this etcd cluster has one member.
        .args(["--heartbeat-interval", "500", "--election-timeout", "5000"])
        .args(["--log-level", "warn"]);
    spawn(directory, "etcd", command)
}

fn spawn(directory: &Path, name: &str, command: Command) -> Result<Process> {
    Process::spawn_bound(name, &directory.join(format!("{name}.log")), command)
}

/// Returns an address of 127.0.0.0/8 on which all ports of the control plane are free.
///
/// On an unused address, etcd and the API server can have their usual ports. These ports are
/// outside of the range from which the kernel takes the source ports of connections. So no
/// connection takes a port of the API server while the API server is stopped.
fn free_loopback_address() -> Result<Ipv4Addr> {
    let seed = std::time::UNIX_EPOCH
        .elapsed()
        .context("the clock shows a time before 1970")?
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
