//! The command line: flags, commands and their help texts.

use std::{net::IpAddr, num::NonZeroU16, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use daemon_runtime::{CommonArgs, Defaults, GrpcTarget, parse_duration};
use virtual_server::{IpNet, ServiceRange};

use service_catalog::settings::{AddressPool, PodPorts};

/// Default addresses of the servers of pod-watcher.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50051",
    http_listen: "127.0.0.1:9151",
};

/// Serves the desired virtual servers to the data plane.
///
/// pod-watcher reads the virtual servers from a Kubernetes cluster or from a file, and serves them
/// over gRPC (portlb.discovery.v1.DiscoveryService). Every client that watches gets each change
/// immediately. If the source fails or becomes invalid, pod-watcher keeps the last good state.
/// pod-watcher logs the error of the source once with a suggestion, shows the error in /readyz and
/// in DiscoveryService.List, and counts it.
#[derive(Debug, Parser)]
#[command(
    name = "pod-watcher",
    args_conflicts_with_subcommands = true,
    after_help = "\
In a cluster one flag is necessary, the addresses that Services may have:
  pod-watcher --allowed-prefixes 10.1.1.0/24
pod-watcher then serves the Services of its own namespace that have
  spec.type: LoadBalancer and spec.loadBalancerClass: portlb.io/portlb
Each Service is served at the address of its annotation. Example of a Service:

  apiVersion: v1
  kind: Service
  metadata:
    name: web
    annotations:
      portlb.io/address: 10.1.1.10
  spec:
    type: LoadBalancer
    loadBalancerClass: portlb.io/portlb
    allocateLoadBalancerNodePorts: false
    selector: {app: web}
    ports: [{port: 80}]

docs/reference/annotations.md lists all annotations of a Service. The Events in `kubectl describe service web`
show the problems of the Service and the pods that announce it. The conditions of its status are in
`kubectl get service web -o yaml`.

Without a cluster, use a file (--file). Example for a web server on two machines:

  apiVersion: portlb.io/v1
  kind: VirtualServers
  serviceRanges: [10.1.1.0/24]
  virtualServers:
  - name: web
    addresses: [10.1.1.10]
    ports: [80]
    realServers:
    - address: 10.0.2.3
    - address: 10.0.2.4

docs/reference/file-format.md explains every field; docs/examples has a file for each feature.

Print the virtual servers of a cluster or of manifests in the format of --file. Nothing is changed:
  pod-watcher render --kubeconfig ~/.kube/config --namespaces web --allowed-prefixes 10.1.1.0/24
  pod-watcher render service.yaml endpointslices.yaml
Check Services before you apply them. The exit code is 2 if there is an error:
  pod-watcher validate service.yaml
Show the virtual servers that a running pod-watcher serves:
  grpcurl -plaintext 127.0.0.1:50051 portlb.discovery.v1.DiscoveryService/List

Exit codes: 0 stopped by a signal, 1 failed while running, 2 unusable flag or file."
)]
pub struct Args {
    /// Command that runs instead of the daemon
    #[command(subcommand)]
    pub command: Option<PodWatcherCommand>,

    /// Source of the virtual servers. Default: `file` with --file, otherwise `kubernetes`
    #[arg(long, env = "PORTLB_SOURCE", value_enum)]
    pub source: Option<SourceKind>,

    /// YAML file that lists the virtual servers. pod-watcher reads the file again when it changes,
    /// also if a rename or a mounted ConfigMap replaces it
    #[arg(long, env = "PORTLB_FILE", value_name = "PATH")]
    pub file: Option<PathBuf>,

    /// Time, at most 1h, for which pod-watcher continues to send changes after a termination signal
    /// while a client watches. If one signal ends pod-watcher and the data plane together, set the
    /// time that the data plane needs to end, such as 30s. With 0, the default, pod-watcher ends
    /// immediately. The data plane keeps its virtual servers when pod-watcher ends
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "0",
        value_parser = parse_duration
    )]
    pub linger: Duration,

    #[command(flatten)]
    pub cluster: ClusterArgs,

    #[command(flatten)]
    pub status: StatusArgs,

    #[command(flatten)]
    pub common: CommonArgs,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}

/// Kind of the source of the virtual servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceKind {
    /// The YAML file of --file
    File,
    /// The Services and endpoints of a Kubernetes cluster
    Kubernetes,
}

/// A command that runs instead of the daemon.
#[derive(Debug, Subcommand)]
pub enum PodWatcherCommand {
    /// Print the virtual servers of a cluster or of manifests in the format of --file
    ///
    /// The command writes the findings about Services to standard error; the daemon would write
    /// them as Events. Nothing is changed in the cluster.
    Render {
        /// Manifests of Services, EndpointSlices, Endpoints and Pods (YAML or JSON), or folders
        /// with manifests. Without a file, the command reads the cluster
        files: Vec<PathBuf>,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
    /// Check manifests of Services and list every error. The exit code is 2 if there is an error
    ///
    /// The command also checks the rules of the API server: allowed values, ports, names, and
    /// fields that do not exist. It does not connect to a cluster.
    Validate {
        /// Manifests of Services, EndpointSlices, Endpoints and Pods (YAML or JSON). For a folder,
        /// the command reads the .yaml, .yml and .json files in it. - is standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Fail on remarks, too. A remark is about a Service that is served, but most likely not as
        /// its author intended
        #[arg(long)]
        strict: bool,
        /// Format of the result: `text` on standard error, or `json` on standard output
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text")]
        output: OutputFormat,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
}

/// Output format of `validate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One line for each message
    Text,
    /// One JSON object with all messages
    Json,
}

/// Flags for the objects that pod-watcher reads from a cluster.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Kubernetes")]
pub struct ClusterArgs {
    /// Kubeconfig whose current context names the API server and the credentials. Default: the
    /// ServiceAccount of the pod
    #[arg(long, env = "PORTLB_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespaces whose Services are served, separated by commas. Default: the namespace of the pod
    /// or of the kubeconfig. pod-watcher needs a Role in each namespace
    #[arg(
        long,
        env = "PORTLB_NAMESPACES",
        value_name = "NAME,...",
        value_delimiter = ','
    )]
    pub namespaces: Vec<String>,

    /// Serve the Services of all namespaces. pod-watcher then needs a ClusterRole
    #[arg(long, env = "PORTLB_ALL_NAMESPACES", conflicts_with = "namespaces")]
    pub all_namespaces: bool,

    /// Class of the Services that are served: the value of spec.loadBalancerClass. To run several
    /// load balancers in one cluster, give each load balancer a different class
    #[arg(
        long,
        env = "PORTLB_LOAD_BALANCER_CLASS",
        value_name = "CLASS",
        default_value = "portlb.io/portlb"
    )]
    pub load_balancer_class: String,

    /// Label selector of the Services that are served, such as app=web,tier!=test. Default: all
    /// Services of the class
    #[arg(long, env = "PORTLB_SERVICE_SELECTOR", value_name = "SELECTOR")]
    pub service_selector: Option<String>,

    /// Prefixes that are announced as a whole, separated by commas. A service address outside of
    /// these prefixes is announced as a host route. Default: none
    #[arg(
        long,
        env = "PORTLB_SERVICE_RANGES",
        value_name = "PREFIX,...",
        value_delimiter = ','
    )]
    pub service_ranges: Vec<ServiceRange>,

    /// Address pool for Services that name no address: NAME=PREFIX[,PREFIX...]. Repeat the flag for
    /// each pool; in the environment variable separate pools by spaces. Default: no pool
    #[arg(
        long = "address-pool",
        env = "PORTLB_ADDRESS_POOL",
        value_name = "NAME=PREFIX,...",
        value_delimiter = ' '
    )]
    pub address_pools: Vec<AddressPool>,

    /// Prefixes whose addresses Services may name, separated by commas, in addition to the prefixes
    /// of --service-ranges and --address-pool. A Service that names an address outside of all these
    /// prefixes is not served. Set the same value as --allowed-prefixes of bgp-announcer. Default:
    /// none
    #[arg(
        long,
        env = "PORTLB_ALLOWED_PREFIXES",
        value_name = "PREFIX,...",
        value_delimiter = ','
    )]
    pub allowed_prefixes: Vec<IpNet>,

    /// Watch pods, too, and use their annotation portlb.io/weight. pod-watcher then needs the right
    /// to list and watch pods
    #[arg(long, env = "PORTLB_POD_WEIGHTS")]
    pub pod_weights: bool,

    /// Label selector of pods that are served without a Service, at --pod-addresses and
    /// --pod-ports. pod-watcher then needs the right to list and watch pods
    #[arg(
        long,
        env = "PORTLB_POD_SELECTOR",
        value_name = "SELECTOR",
        requires_all = ["pod_addresses", "pod_ports"],
        conflicts_with = "pod_weights"
    )]
    pub pod_selector: Option<String>,

    /// Service addresses of the pods that --pod-selector selects, separated by commas
    #[arg(
        long,
        env = "PORTLB_POD_ADDRESSES",
        value_name = "ADDRESS,...",
        value_delimiter = ',',
        requires = "pod_selector"
    )]
    pub pod_addresses: Vec<IpAddr>,

    /// Ports that clients connect to for the pods that --pod-selector selects, separated by commas:
    /// 80, 80/TCP, 8000-8999/UDP, all
    #[arg(
        long,
        env = "PORTLB_POD_PORTS",
        value_name = "PORT,...",
        value_delimiter = ',',
        requires = "pod_selector"
    )]
    pub pod_ports: Vec<PodPorts>,

    /// Port on which the pods that --pod-selector selects listen. Default: the port that the client
    /// connects to
    #[arg(
        long,
        env = "PORTLB_POD_TARGET_PORT",
        value_name = "PORT",
        requires = "pod_selector"
    )]
    pub pod_target_port: Option<NonZeroU16>,

    /// Annotation for the pods that --pod-selector selects, as on a Service, such as
    /// portlb.io/scheduler=rr. Repeat the flag for each annotation
    #[arg(
        long = "pod-annotation",
        env = "PORTLB_POD_ANNOTATION",
        value_name = "NAME=VALUE",
        value_delimiter = ' ',
        value_parser = annotation,
        requires = "pod_selector"
    )]
    pub pod_annotations: Vec<(String, String)>,

    /// Time after which the API server ends a watch, 5s to 10m. The next watch continues after the
    /// last event. A watch that is silent for 10 s longer than this time counts as lost, so a
    /// shorter time detects a lost API server earlier
    #[arg(
        long,
        env = "PORTLB_WATCH_TIMEOUT",
        value_name = "TIME",
        default_value = "1m",
        value_parser = watch_timeout
    )]
    pub watch_timeout: Duration,
}

/// Flags for the status and the Events that pod-watcher writes to a cluster.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Status of Services")]
pub struct StatusArgs {
    /// Write .status of Services, and Events. Only one of the pods with the same --lease-name
    /// writes. Set the flag to false if another program writes the status
    #[arg(
        long,
        env = "PORTLB_WRITE_STATUS",
        value_name = "true|false",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub write_status: bool,

    /// gRPC address of the bgp-announcer of this pod, which reports the announced addresses:
    /// http://ADDRESS:PORT or unix:PATH
    #[arg(
        long,
        env = "PORTLB_ANNOUNCER",
        value_name = "TARGET",
        default_value = "http://127.0.0.1:50053"
    )]
    pub announcer: GrpcTarget,

    /// Name of the Lease that elects the pod that writes. All pods of one load balancer use the
    /// same name. Each pod reports its announced addresses in another Lease: this name, a hyphen,
    /// and the name of the pod
    #[arg(
        long,
        env = "PORTLB_LEASE_NAME",
        value_name = "NAME",
        default_value = "portlb"
    )]
    pub lease_name: String,

    /// Name of this pod (downward API: metadata.name). Default: the host name, which is the name of
    /// the pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Namespace of this pod (downward API: metadata.namespace), in which the Leases are written.
    /// Default: the namespace of the ServiceAccount or of the kubeconfig's context
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,

    /// Uid of this pod (downward API: metadata.uid). With the uid, Kubernetes deletes the report of
    /// the pod together with the pod
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
}

fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE, such as portlb.io/scheduler=rr".to_owned()),
    }
}

fn watch_timeout(text: &str) -> Result<Duration, String> {
    let timeout = daemon_runtime::parse_duration(text)?;
    if (Duration::from_secs(5)..=Duration::from_secs(600)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("expected a time from 5s to 10m".to_owned())
    }
}
