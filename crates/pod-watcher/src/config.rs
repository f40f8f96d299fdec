//! The resolved and validated configuration.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use daemon_runtime::{ConfigError, ListenAddress, config_file::FileError};
use kubernetes_client::client::ApiServerOrigin;
use service_catalog::{
    model::{ObjectKind, WatchScope},
    settings::{CatalogSettings, PodService},
};
use service_status::StatusConfig;
use virtual_server::IpNet;

use crate::{
    args::{Args, ClusterArgs, SourceKind, StatusArgs},
    file_source,
    source::SourceError,
};

/// Name of the virtual servers whose real servers are the pods that `--pod-selector` selects.
const POD_SERVICE: &str = "pod-selector";

const LONGEST_LINGER: Duration = Duration::from_secs(60 * 60);

/// Largest length of the name of a namespace, and of the Lease that --lease-name names. The Leases
/// of the reports are named `LEASE-POD`, so the name of the Lease must leave room for the name of a
/// pod.
const LONGEST_LEASE_NAME: usize = 63;

/// The resolved and validated configuration of the daemon.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: SourceConfig,
    pub grpc_listen: ListenAddress,
    /// Longest time for which pod-watcher continues after a termination signal while a client
    /// watches.
    pub linger: Duration,
}

/// Configuration of the source of the desired set.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// Path of the YAML file that lists the virtual servers.
    File(PathBuf),
    Kubernetes(Box<KubernetesConfig>),
}

/// Configuration of a cluster as the source.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    pub cluster: ClusterConfig,
    /// Configuration of the status and Events that pod-watcher writes. `None`: pod-watcher writes
    /// nothing to the cluster.
    pub status: Option<StatusConfig>,
}

/// Configuration of the connection to a cluster and of the objects to read.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Source of the API server's address and of the credentials.
    pub origin: ApiServerOrigin,
    /// URL of the API server.
    pub url: String,
    /// Namespace of the pod, or of the kubeconfig's context.
    pub namespace: String,
    /// Settings by which the catalog converts Services to virtual servers.
    pub settings: CatalogSettings,
    /// Label selector of the Services. `None`: no Service is left out by its labels.
    pub service_selector: Option<String>,
    /// Label selector of the pods. `None`: all pods.
    pub pod_selector: Option<String>,
    /// Time after which the API server ends a watch.
    pub watch_timeout: Duration,
}

impl Config {
    /// Resolves the flags, and reads the file or the credentials: a source that cannot be used at
    /// the start is an error of the start.
    ///
    /// # Errors
    /// A flag, the file or the credentials cannot be used. The error names the flag, or the file
    /// and the line.
    pub fn resolve(args: &Args) -> Result<Self, ConfigError> {
        if args.linger > LONGEST_LINGER {
            return Err(ConfigError(format!(
                "--linger {:?} is longer than 1h; write the time that the data plane needs to end, \
                 such as 30s",
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
                    "--file is not read with --source kubernetes; leave one of the two flags out"
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
        let suggestion = match &error {
            FileError::Read { .. } => {
                "; --file must name a readable file, see docs/reference/file-format.md"
            }
            FileError::Content { .. } => "",
        };
        ConfigError(format!("{}{suggestion}", SourceError::new(&error)))
    })?;
    Ok(path.to_owned())
}

impl ClusterConfig {
    /// Resolves the flags, and reads the credentials.
    ///
    /// # Errors
    /// A flag or the credentials cannot be used. The error names the flag or the file.
    pub fn resolve(args: &ClusterArgs) -> Result<Self, ConfigError> {
        let settings = settings(args)?;
        let origin = match &args.kubeconfig {
            Some(path) => ApiServerOrigin::Kubeconfig(path.clone()),
            None => ApiServerOrigin::InCluster,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| ConfigError(format!("cannot start the runtime: {error}")))?;
        let (url, namespace) = runtime
            .block_on(origin.url_and_namespace())
            .map_err(|error| {
                ConfigError(format!(
                    "{error}; or read the virtual servers from a file (--file)"
                ))
            })?;
        Ok(Self {
            origin,
            settings: CatalogSettings {
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

/// Returns the settings that do not depend on a cluster. The commands `render` and `validate` use
/// them for manifests.
///
/// # Errors
/// The value of a flag is invalid. The error has one line for each problem. The line names the
/// flag.
pub fn settings(args: &ClusterArgs) -> Result<CatalogSettings, ConfigError> {
    if let Some(name) = args.namespaces.iter().find(|name| !is_name(name)) {
        return Err(ConfigError(format!(
            "--namespaces: {name:?} is not the name of a namespace; write names of lowercase \
             letters, digits and `-` with a comma between two, such as web,api, or leave the flag \
             out for the namespace of pod-watcher"
        )));
    }
    let settings = CatalogSettings {
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
        // Without `--service-ranges`, `--address-pool` and `--allowed-prefixes` every address is
        // allowed, so that the author of a manifest can run `validate` without the flags of the
        // load balancer.
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

/// Returns a problem for each prefix that overlaps a reserved range, such as multicast: no address
/// of a reserved range belongs to a single host.
fn reserved_prefixes(allowed_prefixes: &[IpNet]) -> impl Iterator<Item = String> {
    allowed_prefixes.iter().filter_map(|prefix| {
        let reserved = daemon_api::overlapping_reserved_range(prefix)?;
        Some(format!(
            "--allowed-prefixes: {prefix} overlaps {reserved}, in which no address belongs to a \
             single host; give only service ranges, such as 10.1.1.0/24"
        ))
    })
}

/// Returns the scopes to list and watch: one for each kind of objects and each namespace.
fn scopes(args: &ClusterArgs, own_namespace: &str) -> Vec<WatchScope> {
    // A set, so that each namespace is listed once: the end of a list removes every object of the
    // namespace that this list did not have, so two lists of one namespace would remove the objects
    // of each other.
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
    let mut kinds = vec![ObjectKind::Service, ObjectKind::EndpointSlice];
    if args.pod_weights || args.pod_selector.is_some() {
        kinds.push(ObjectKind::Pod);
    }
    let mut scopes = Vec::new();
    for kind in kinds {
        for namespace in &namespaces {
            let namespace = namespace.clone();
            scopes.push(WatchScope { kind, namespace });
        }
    }
    scopes
}

/// Returns the configuration of the writer of status and Events. `None`: pod-watcher writes
/// nothing.
fn status_config(args: &StatusArgs, namespace: &str) -> Result<Option<StatusConfig>, ConfigError> {
    if !args.write_status {
        return Ok(None);
    }
    let name = &args.lease_name;
    if !is_name(name) {
        return Err(ConfigError(format!(
            "--lease-name: {name:?} is not the name of a Lease; write at most {LONGEST_LEASE_NAME} \
             lowercase letters, digits and `-`, such as portlb"
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

/// Returns the IP address of a URL; `None` if the URL has a host name.
fn address_of(url: &str) -> Option<IpAddr> {
    let url: http::Uri = url.parse().ok()?;
    let host = url.host()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Reports whether a text is a DNS label (RFC 1123), as names of namespaces are.
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
                "--pod-name: the default, the name of the host, cannot be read ({error}); set \
                 --pod-name, or --write-status false"
            ))
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    fn cluster(flags: &[&str]) -> ClusterArgs {
        let flags = std::iter::once("pod-watcher").chain(flags.iter().copied());
        CommandLine::try_parse_from(flags).unwrap().cluster
    }

    #[test]
    fn an_allowed_prefix_that_overlaps_a_reserved_range_is_refused() {
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
    fn a_namespace_that_is_listed_twice_is_watched_once() {
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
    fn an_invalid_name_of_a_namespace_is_refused_with_flag_value_and_suggestion() {
        for (flag, value) in [
            ("web,", "\"\""),
            ("web, api", "\" api\""),
            ("Web", "\"Web\""),
        ] {
            let error = settings(&cluster(&["--namespaces", flag])).unwrap_err().0;
            let expected = format!(
                "--namespaces: {value} is not the name of a namespace; write names of lowercase \
                 letters, digits and `-` with a comma between two, such as web,api, or leave the \
                 flag out for the namespace of pod-watcher"
            );
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn the_address_of_the_api_server_is_the_ip_address_of_its_url() {
        let ip = |url: &str| address_of(url).map(|address| address.to_string());
        assert_eq!(ip("https://10.96.0.1/").as_deref(), Some("10.96.0.1"));
        assert_eq!(ip("https://[fd00::1]:6443/").as_deref(), Some("fd00::1"));
        assert_eq!(ip("https://kubernetes.default.svc/"), None);
    }
}
