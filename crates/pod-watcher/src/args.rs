//! What the user may type.

use std::{net::IpAddr, num::NonZeroU16, path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use daemon_runtime::{CommonArgs, Defaults, Target, parse_duration};
use virtual_server::{IpNet, ServiceRange};

use service_catalog::settings::{AddressPool, PodPorts};

/// Default addresses of this daemon.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50051",
    http_listen: "127.0.0.1:9151",
};

/// Tells the data plane which virtual servers shall be served.
///
/// Reads them from a Kubernetes cluster or from a file, serves them over gRPC
/// (portlb.discovery.v1.DiscoveryService), and tells every watcher what has changed as soon as it has. A
/// source that cannot be read or used changes nothing: the last good state stays, the error is
/// logged once with its cure, shown in /readyz and in DiscoveryService.List, and counted.
#[derive(Debug, Parser)]
#[command(
    name = "pod-watcher",
    args_conflicts_with_subcommands = true,
    after_help = "\
In a cluster one flag is needed, the addresses that Services may have:
  pod-watcher --allowed-prefixes 10.1.1.0/24
Services of the pod's own namespace with
  spec.type: LoadBalancer and spec.loadBalancerClass: portlb.io/portlb
are served at the address that they name, at the latest when they have an endpoint:

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

docs/reference/annotations.md lists what else a Service can say. `kubectl describe service web` shows, as
Events, what is wrong with it and who announces it; `kubectl get -o yaml` has the conditions.

Without a cluster this file is all that a web server on two machines needs (--file):

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

Every field is explained in docs/reference/file-format.md; docs/examples has a file for each feature.

What would be served, as such a file, from a cluster or from manifests; nothing is written:
  pod-watcher render --kubeconfig ~/.kube/config --namespaces web --allowed-prefixes 10.1.1.0/24
  pod-watcher render service.yaml endpointslices.yaml
Services checked before they are applied (exit code 2 and every error, if any):
  pod-watcher validate service.yaml
See what is served:
  grpcurl -plaintext 127.0.0.1:50051 portlb.discovery.v1.DiscoveryService/List

Exit codes: 0 stopped by a signal, 1 failed while running, 2 unusable flag or file."
)]
pub struct Args {
    /// Something else than to run
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where the virtual servers come from. Default: `file` where --file is given, otherwise
    /// `kubernetes`
    #[arg(long, env = "PORTLB_SOURCE", value_enum)]
    pub source: Option<SourceKind>,

    /// The file that lists the virtual servers (YAML). It is read again when it changes, also
    /// where it is replaced by a rename or by the symbolic links of a mounted ConfigMap
    #[arg(long, env = "PORTLB_FILE", value_name = "PATH")]
    pub file: Option<PathBuf>,

    /// After a termination signal, how long to go on telling what changes while somebody watches:
    /// give it what the data plane's end takes, such as 30s, where one signal ends both. 0, the
    /// default, ends at once; the data plane keeps what it knows in any case
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "0",
        value_parser = parse_duration
    )]
    pub linger: Duration,

    /// What is read of a cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// What is written to a cluster.
    #[command(flatten)]
    pub status: StatusArgs,

    /// What every daemon has.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}

/// Where the virtual servers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceKind {
    /// A YAML file.
    File,
    /// A Kubernetes cluster.
    Kubernetes,
}

/// Something else than to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what would be served as a document for --file, from a cluster or from manifests
    ///
    /// Findings go to standard error as they would go to Events.
    Render {
        /// Manifests of Services, EndpointSlices, Endpoints and Pods (YAML or JSON), or folders of
        /// them; none: ask the cluster
        files: Vec<PathBuf>,
        /// What is read of a cluster.
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
    /// Check manifests of Services: every error is listed, and the exit code is 2 if there is one
    ///
    /// Checks what the API server checks, too: enumerations, ports, names, and fields that do not
    /// exist. Nothing is asked of a cluster.
    Validate {
        /// Manifests of Services, and of EndpointSlices, Endpoints and Pods (YAML or JSON); folders
        /// stand for the .yaml, .yml and .json files in them; - is standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Fail on remarks, too: what is served, but most likely not as it is meant
        #[arg(long)]
        strict: bool,
        /// How to say what was found: as text on standard error, or as JSON on standard output
        #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "text")]
        output: OutputFormat,
        /// What is read of a cluster.
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// A line for each message.
    Text,
    /// One object with all messages.
    Json,
}

/// What is read of a cluster.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Kubernetes")]
pub struct ClusterArgs {
    /// How to reach the API server: the current context of this file. Default: as a pod does, by
    /// its ServiceAccount
    #[arg(long, env = "PORTLB_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespaces whose Services are served, with commas between them. Default: the own one, for
    /// which a Role is enough
    #[arg(
        long,
        env = "PORTLB_NAMESPACES",
        value_name = "NAME,...",
        value_delimiter = ','
    )]
    pub namespaces: Vec<String>,

    /// Serve the Services of every namespace; needs a ClusterRole
    #[arg(long, env = "PORTLB_ALL_NAMESPACES", conflicts_with = "namespaces")]
    pub all_namespaces: bool,

    /// Services of this class are served (spec.loadBalancerClass)
    #[arg(
        long,
        env = "PORTLB_LOAD_BALANCER_CLASS",
        value_name = "CLASS",
        default_value = "portlb.io/portlb"
    )]
    pub load_balancer_class: String,

    /// Only Services with these labels are served, such as app=web,tier!=test. Default: every one
    #[arg(long, env = "PORTLB_SERVICE_SELECTOR", value_name = "SELECTOR")]
    pub service_selector: Option<String>,

    /// Prefixes that are announced as a whole, with commas between them. An address outside of
    /// them is announced by itself
    #[arg(
        long,
        env = "PORTLB_SERVICE_RANGES",
        value_name = "PREFIX,...",
        value_delimiter = ','
    )]
    pub service_ranges: Vec<ServiceRange>,

    /// Addresses for Services that name none: NAME=PREFIX[,PREFIX...]; once for each pool. The
    /// environment variable takes several with spaces between them
    #[arg(
        long = "address-pool",
        env = "PORTLB_ADDRESS_POOL",
        value_name = "NAME=PREFIX,...",
        value_delimiter = ' '
    )]
    pub address_pools: Vec<AddressPool>,

    /// Addresses that Services may name, in addition to those of --service-ranges and
    /// --address-pool; a Service that names another address is not served. Give what the
    /// bgp-announcer has as --allowed-prefixes. Default: none
    #[arg(
        long,
        env = "PORTLB_ALLOWED_PREFIXES",
        value_name = "PREFIX,...",
        value_delimiter = ','
    )]
    pub allowed_prefixes: Vec<IpNet>,

    /// Watch pods too, so that their annotation portlb.io/weight counts. Needs list and watch of
    /// pods
    #[arg(long, env = "PORTLB_POD_WEIGHTS")]
    pub pod_weights: bool,

    /// Serve the pods with these labels without any Service, at --pod-addresses and --pod-ports.
    /// Needs list and watch of pods
    #[arg(
        long,
        env = "PORTLB_POD_SELECTOR",
        value_name = "SELECTOR",
        requires_all = ["pod_addresses", "pod_ports"],
        conflicts_with = "pod_weights"
    )]
    pub pod_selector: Option<String>,

    /// Service addresses of the pods that --pod-selector selects
    #[arg(
        long,
        env = "PORTLB_POD_ADDRESSES",
        value_name = "ADDRESS,...",
        value_delimiter = ',',
        requires = "pod_selector"
    )]
    pub pod_addresses: Vec<IpAddr>,

    /// Ports of the pods that --pod-selector selects: 80, 80/TCP, 8000-8999/UDP, all
    #[arg(
        long,
        env = "PORTLB_POD_PORTS",
        value_name = "PORT,...",
        value_delimiter = ',',
        requires = "pod_selector"
    )]
    pub pod_ports: Vec<PodPorts>,

    /// Where those pods listen. Default: on the port that the client has asked for
    #[arg(
        long,
        env = "PORTLB_POD_TARGET_PORT",
        value_name = "PORT",
        requires = "pod_selector"
    )]
    pub pod_target_port: Option<NonZeroU16>,

    /// What an annotation on a Service would say, such as portlb.io/scheduler=rr; once for each
    #[arg(
        long = "pod-annotation",
        env = "PORTLB_POD_ANNOTATION",
        value_name = "NAME=VALUE",
        value_delimiter = ' ',
        value_parser = annotation,
        requires = "pod_selector"
    )]
    pub pod_annotations: Vec<(String, String)>,

    /// How long a watch may last; it goes on from where it was. One that is silent for 10 s longer
    /// counts as lost. 5s to 10m
    #[arg(
        long,
        env = "PORTLB_WATCH_TIMEOUT",
        value_name = "TIME",
        default_value = "1m",
        value_parser = watch_timeout
    )]
    pub watch_timeout: Duration,
}

/// What is written to a cluster.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Status of Services")]
pub struct StatusArgs {
    /// Write .status of Services, and Events: one of all pods with the same --lease-name does
    #[arg(
        long,
        env = "PORTLB_WRITE_STATUS",
        value_name = "true|false",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub write_status: bool,

    /// The bgp-announcer of this pod, which knows what is announced: http://ADDRESS:PORT or
    /// unix:PATH
    #[arg(
        long,
        env = "PORTLB_ANNOUNCER",
        value_name = "TARGET",
        default_value = "http://127.0.0.1:50053"
    )]
    pub announcer: Target,

    /// The Lease by which the pods of one load balancer agree on who writes. Their reports of what
    /// they announce are Leases named `LEASE-POD`: this name, a hyphen, and the name of the pod
    #[arg(
        long,
        env = "PORTLB_LEASE_NAME",
        value_name = "NAME",
        default_value = "portlb"
    )]
    pub lease_name: String,

    /// Name of this pod (downward API: metadata.name). Default: the host's name, which is the same
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// Namespace of this pod (metadata.namespace). Default: that of the ServiceAccount or of the
    /// kubeconfig's context. Leases are written there
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,

    /// Uid of this pod (metadata.uid), so that its report goes with it
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
