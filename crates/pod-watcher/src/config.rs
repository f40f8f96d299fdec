//! What the flags mean.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use daemon_runtime::{ConfigError, ListenAddress, config_file::FileError};
use kubernetes_client::client::Origin;
use service_catalog::{
    model::{Kind, Scope},
    settings::{PodService, Settings},
};
use service_status::StatusConfig;
use virtual_server::IpNet;

use crate::{
    args::{Args, ClusterArgs, SourceKind, StatusArgs},
    file_source,
    source::SourceError,
};

/// What the virtual servers of `--pod-selector` are called.
const POD_SERVICE: &str = "pod-selector";

const LONGEST_LINGER: Duration = Duration::from_secs(60 * 60);

/// Longest name of a namespace, and of a Lease, so that a pod's name fits behind it.
const LONGEST_LEASE_NAME: usize = 63;

/// Resolved and valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the virtual servers come from.
    pub source: SourceConfig,
    /// Where the contract is served.
    pub grpc_listen: ListenAddress,
    /// How long to go on after a termination signal while somebody watches.
    pub linger: Duration,
}

/// Where the virtual servers come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// The file that lists them.
    File(PathBuf),
    /// A cluster.
    Kubernetes(Box<KubernetesConfig>),
}

/// A cluster as the source.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// Where it is.
    pub cluster: ClusterConfig,
    /// What is written to it; `None`: nothing.
    pub status: Option<StatusConfig>,
}

/// What is read of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Address and credentials.
    pub origin: Origin,
    /// The API server.
    pub url: String,
    /// The namespace that the pod, or the kubeconfig, is in.
    pub namespace: String,
    /// What its objects mean.
    pub settings: Settings,
    /// Only these Services.
    pub service_selector: Option<String>,
    /// Only these pods.
    pub pod_selector: Option<String>,
    /// How long a watch may last.
    pub watch_timeout: Duration,
}

impl Config {
    /// Reads the file, or the credentials, too: what cannot be used at start is an error of whoever
    /// starts us.
    ///
    /// # Errors
    /// Names the flag, what is wrong with the file and where.
    pub fn resolve(args: &Args) -> Result<Self, ConfigError> {
        if args.linger > LONGEST_LINGER {
            return Err(ConfigError(format!(
                "--linger {:?} is longer than 1h; give it what the data plane's end takes, such as \
                 30s",
                args.linger
            )));
        }
        let kind = match (args.source, &args.file) {
            (None | Some(SourceKind::File), Some(file)) => SourceConfig::File(read(file)?),
            (Some(SourceKind::File), None) => {
                return Err(ConfigError(
                    "--source file needs --file PATH, the file that lists the virtual servers; \
                     see docs/reference/file-format.md"
                        .to_owned(),
                ));
            }
            (Some(SourceKind::Kubernetes), Some(_)) => {
                return Err(ConfigError(
                    "--file is not read with --source kubernetes: leave one of the two out"
                        .to_owned(),
                ));
            }
            (None | Some(SourceKind::Kubernetes), None) => {
                let mut cluster = ClusterConfig::resolve(&args.cluster)?;
                if let Some(namespace) = &args.status.pod_namespace {
                    cluster.namespace.clone_from(namespace);
                }
                cluster.settings.scopes = scopes(&args.cluster, &cluster.namespace);
                let status = status_config(&args.status, &cluster.namespace)?;
                SourceConfig::Kubernetes(Box::new(KubernetesConfig { cluster, status }))
            }
        };
        Ok(Self {
            source: kind,
            grpc_listen: args.common.grpc_listen.clone(),
            linger: args.linger,
        })
    }
}

fn read(path: &std::path::Path) -> Result<PathBuf, ConfigError> {
    file_source::load(path).map_err(|error| {
        let cure = match &error {
            FileError::Read { .. } => {
                "; --file must name a readable file, see docs/reference/file-format.md"
            }
            FileError::Content { .. } => "",
        };
        ConfigError(format!("{}{cure}", SourceError::new(&error)))
    })?;
    Ok(path.to_owned())
}

impl ClusterConfig {
    /// Reads the credentials.
    ///
    /// # Errors
    /// Names the flag or the file.
    pub fn resolve(args: &ClusterArgs) -> Result<Self, ConfigError> {
        let settings = settings(args)?;
        let origin = match &args.kubeconfig {
            Some(path) => Origin::Kubeconfig(path.clone()),
            None => Origin::InCluster,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| ConfigError(format!("cannot start: {error}")))?;
        let (url, namespace) = runtime.block_on(origin.place()).map_err(|error| {
            ConfigError(format!(
                "{error}; or take the virtual servers from a file (--file)"
            ))
        })?;
        Ok(Self {
            origin,
            settings: Settings {
                scopes: scopes(args, &namespace),
                reserved: address_of(&url).into_iter().collect(),
                is_confined: true,
                ..settings
            },
            url,
            namespace,
            service_selector: args.service_selector.clone(),
            pod_selector: args.pod_selector.clone(),
            watch_timeout: args.watch_timeout,
        })
    }
}

/// What the flags say of the meaning of objects, whatever cluster they come from.
///
/// # Errors
/// Every problem, each with its flag.
pub fn settings(args: &ClusterArgs) -> Result<Settings, ConfigError> {
    if let Some(name) = args.namespaces.iter().find(|name| !is_name(name)) {
        return Err(ConfigError(format!(
            "--namespaces: {name:?} is not the name of a namespace; write names of lowercase \
             letters, digits and `-` with a comma between two, such as web,api, or leave the flag \
             out for the own namespace"
        )));
    }
    let settings = Settings {
        load_balancer_class: args.load_balancer_class.clone(),
        service_ranges: args.service_ranges.iter().copied().collect(),
        pools: args.address_pools.clone(),
        pods: args.pod_selector.as_ref().map(|_| PodService {
            name: POD_SERVICE.to_owned(),
            addresses: args.pod_addresses.clone(),
            ports: args.pod_ports.clone(),
            target_port: args.pod_target_port,
            annotations: args.pod_annotations.clone(),
        }),
        reserved: BTreeSet::new(),
        allowed_prefixes: args.allowed_prefixes.clone(),
        // Manifests can be checked without the flags of the load balancer.
        is_confined: !args.service_ranges.is_empty()
            || !args.address_pools.is_empty()
            || !args.allowed_prefixes.is_empty(),
        scopes: Vec::new(),
    };
    let refused = settings.validate().err().unwrap_or_default();
    let mut problems: Vec<String> = refused.iter().map(ToString::to_string).collect();
    problems.extend(reserved_prefixes(&settings.allowed_prefixes));
    if problems.is_empty() {
        return Ok(settings);
    }
    Err(ConfigError(problems.join("\n")))
}

/// Refuses prefixes in which no address belongs to a single host.
fn reserved_prefixes(allowed_prefixes: &[IpNet]) -> impl Iterator<Item = String> {
    allowed_prefixes.iter().filter_map(|prefix| {
        let reserved = daemon_api::overlapping_reserved_range(prefix)?;
        Some(format!(
            "--allowed-prefixes: {prefix} overlaps {reserved}, in which no address belongs to a \
             single host; give the service ranges alone, such as 10.1.1.0/24"
        ))
    })
}

/// A list and watch for each kind and namespace.
fn scopes(args: &ClusterArgs, own_namespace: &str) -> Vec<Scope> {
    // Two lists of the same namespace would take away what the other one has told.
    let namespaces: BTreeSet<Option<Box<str>>> = if args.all_namespaces {
        [None].into()
    } else if args.namespaces.is_empty() {
        [Some(own_namespace.into())].into()
    } else {
        args.namespaces
            .iter()
            .map(|namespace| Some(namespace.as_str().into()))
            .collect()
    };
    let mut kinds = vec![Kind::Service, Kind::EndpointSlice];
    if args.pod_weights || args.pod_selector.is_some() {
        kinds.push(Kind::Pod);
    }
    let mut scopes = Vec::new();
    for kind in kinds {
        for namespace in &namespaces {
            let namespace = namespace.clone();
            scopes.push(Scope { kind, namespace });
        }
    }
    scopes
}

/// Which pod writes status, and where; `None`: nothing is written.
fn status_config(args: &StatusArgs, namespace: &str) -> Result<Option<StatusConfig>, ConfigError> {
    if !args.write_status {
        return Ok(None);
    }
    let name = &args.lease_name;
    if !is_name(name) {
        return Err(ConfigError(format!(
            "--lease-name {name:?}: expected a name of at most {LONGEST_LEASE_NAME} lowercase \
             letters, digits and `-`, such as portlb"
        )));
    }
    let pod_name = match &args.pod_name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    Ok(Some(StatusConfig {
        announcer: args.announcer.clone(),
        lease_name: name.clone(),
        pod_name,
        namespace: namespace.to_owned(),
        pod_uid: args.pod_uid.clone().filter(|uid| !uid.is_empty()),
    }))
}

/// The host of an URL, if it is an address.
fn address_of(url: &str) -> Option<IpAddr> {
    let url: http::Uri = url.parse().ok()?;
    let host = url.host()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// What Kubernetes calls a DNS label (RFC 1123).
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_LEASE_NAME
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn host_name() -> Result<String, ConfigError> {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_lowercase())
        .map_err(|error| {
            ConfigError(format!(
                "--pod-name: the host's name cannot be read ({error}): give it, or write nothing \
                 (--write-status false)"
            ))
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    fn cluster(flags: &[&str]) -> ClusterArgs {
        let flags = std::iter::once("pod-watcher").chain(flags.iter().copied());
        Line::try_parse_from(flags).unwrap().cluster
    }

    #[test]
    fn allowed_prefixes_without_addresses_of_hosts_are_refused() {
        for prefix in [
            "0.0.0.0/0",
            "127.0.0.0/8",
            "224.0.0.0/4",
            "::1/128",
            "fe80::/10",
        ] {
            let error = settings(&cluster(&["--allowed-prefixes", prefix])).unwrap_err();
            let expected = format!("{prefix} overlaps ");
            assert!(error.to_string().contains(&expected), "{error}");
            assert!(error.to_string().contains("--allowed-prefixes"), "{error}");
        }
        settings(&cluster(&["--allowed-prefixes", "10.1.1.0/24,fd00::/64"])).unwrap();
    }

    #[test]
    fn a_namespace_that_is_named_twice_is_watched_once() {
        let args = cluster(&["--namespaces", "web,api,web"]);
        settings(&args).unwrap();
        let shown: Vec<String> = scopes(&args, "own")
            .iter()
            .map(|scope| format!("{:?} {:?}", scope.kind, scope.namespace.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                "Service Some(\"api\")",
                "Service Some(\"web\")",
                "EndpointSlice Some(\"api\")",
                "EndpointSlice Some(\"web\")",
            ]
        );
    }

    #[test]
    fn what_is_no_name_of_a_namespace_is_refused_with_flag_value_and_cure() {
        for (flag, value) in [
            ("web,", "\"\""),
            ("web, api", "\" api\""),
            ("Web", "\"Web\""),
        ] {
            let error = settings(&cluster(&["--namespaces", flag])).unwrap_err().0;
            let expected = format!(
                "--namespaces: {value} is not the name of a namespace; write names of lowercase \
                 letters, digits and `-` with a comma between two, such as web,api, or leave the \
                 flag out for the own namespace"
            );
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn the_address_of_the_api_server_is_that_of_its_url() {
        let ip = |url: &str| address_of(url).map(|address| address.to_string());
        assert_eq!(ip("https://10.96.0.1/").as_deref(), Some("10.96.0.1"));
        assert_eq!(ip("https://[fd00::1]:6443/").as_deref(), Some("fd00::1"));
        assert_eq!(ip("https://kubernetes.default.svc/"), None);
    }
}
