//! Node settings that can drop packets of service addresses.
//!
//! node-router reads and reports these settings. It does not change them, because they affect all
//! traffic of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use daemon_runtime::ReadinessStep;

use crate::{Policy, metrics::RouterMetrics, uplink::IpVersion};

/// Folder with the settings of the network namespace of the thread that reads it.
const NET: &str = "/proc/sys/net";

/// Settings of the node and its IPv4 uplinks, as node-router read them below `/proc`. A setting
/// that the kernel does not have is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NodeSettings {
    not_forwarding: BTreeSet<IpVersion>,
    /// `net.ipv4.conf.*.rp_filter` by interface. The kernel also has the pseudo-interfaces `all`
    /// and `default`.
    rp_filter: BTreeMap<String, String>,
    /// Interfaces of the IPv4 default routes.
    uplinks: Vec<String>,
}

/// Logs a warning for each new problem of the node settings, and keeps the metric and the readiness
/// current.
pub(crate) struct NodeSettingsMonitor {
    policy: Policy,
    step: ReadinessStep,
    metrics: RouterMetrics,
    reported: Vec<String>,
}

impl NodeSettingsMonitor {
    /// Creates the monitor and checks the settings once.
    pub(crate) fn begin(policy: Policy, step: ReadinessStep, metrics: RouterMetrics) -> Self {
        let mut monitor = Self {
            policy,
            step,
            metrics,
            reported: Vec::new(),
        };
        monitor.check();
        monitor
    }

    /// Checks the settings at each interval.
    pub(crate) async fn check_periodically(mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.check();
        }
    }

    fn check(&mut self) {
        let problems = problems(&NodeSettings::read(), &self.policy);
        for problem in &problems {
            if !self.reported.contains(problem) {
                tracing::warn!(problem, "a node setting drops packets of service addresses");
            }
        }
        let count = i64::try_from(problems.len()).unwrap_or(i64::MAX);
        self.metrics.unfit_settings.set(count);
        // The step is never missing. Whether a strict `rp_filter` drops packets depends on the
        // nodes of the web pods, and forwarding has its own readiness step.
        self.step.ready(problems.join("; "));
        self.reported = problems;
    }
}

/// Returns a sentence for each setting that can drop packets. The sentence contains a suggestion.
fn problems(settings: &NodeSettings, policy: &Policy) -> Vec<String> {
    let versions = policy.versions();
    let not_forwarding = settings.not_forwarding.intersection(&versions);
    let mut problems: Vec<String> = not_forwarding.copied().map(forwarding_problem).collect();
    if versions.contains(&IpVersion::V4) {
        problems.extend(strict_interfaces(settings).map(|interface| {
            format!(
                "net.ipv4.conf.{interface}.rp_filter is 1 (strict), which drops the replies of web pods, \
                 because their source is a service address; set it to 0 or 2"
            )
        }));
    }
    problems
}

/// Returns the sentence that the kernel does not forward packets of this IP version, with a
/// suggestion.
pub(crate) fn forwarding_problem(version: IpVersion) -> String {
    let sysctl = version.forwarding_sysctl();
    format!("{sysctl} is 0, so the node forwards no packets to its pods; set it to 1 on the node")
}

/// Returns the IP versions that the kernel does not forward in the network namespace of the calling
/// thread. A kernel without IPv6 lacks the setting, so IPv6 is not in the result.
pub(crate) fn not_forwarding() -> BTreeSet<IpVersion> {
    let versions = [
        (IpVersion::V4, "ipv4/ip_forward"),
        (IpVersion::V6, "ipv6/conf/all/forwarding"),
    ];
    let net = Path::new(NET);
    let off = versions
        .into_iter()
        .filter(|(_, path)| value(&net.join(path)).as_deref() == Some("0"));
    off.map(|(version, _)| version).collect()
}

/// Returns the interfaces with a strict reverse path filter, without uplinks and loopback. Such an
/// interface drops a packet if the route to the packet's source leads to another interface. The
/// kernel uses the higher one of the values of `all` and of the interface. A new interface of a pod
/// gets the value of `default`.
fn strict_interfaces(settings: &NodeSettings) -> impl Iterator<Item = &String> {
    const STRICT: &str = "1";
    let all = settings.rp_filter.get("all").map_or("0", String::as_str);
    settings
        .rp_filter
        .iter()
        .filter(move |(interface, value)| {
            let is_uplink = settings.uplinks.contains(interface) || *interface == "lo";
            value.as_str() == STRICT
                && !is_uplink
                && all != "2"
                && (all != STRICT || *interface == "all")
        })
        .map(|(interface, _)| interface)
}

impl NodeSettings {
    /// Reads the settings of the network namespace of the calling thread.
    fn read() -> Self {
        let net = Path::new(NET);
        let interfaces = fs::read_dir(net.join("ipv4/conf")).into_iter().flatten();
        let rp_filter = interfaces.flatten().filter_map(|interface| {
            let value = value(&interface.path().join("rp_filter"))?;
            Some((interface.file_name().to_string_lossy().into_owned(), value))
        });
        // The first line is a heading. Each other line begins with the interface and the
        // destination as a hexadecimal number.
        let routes = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
        let uplinks = routes.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            let interface = words.next()?;
            (words.next()? == "00000000").then(|| interface.to_owned())
        });
        Self {
            not_forwarding: not_forwarding(),
            rp_filter: rp_filter.collect(),
            uplinks: uplinks.collect(),
        }
    }
}

fn value(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks which settings are reported if IPv4 forwarding has this state, the interfaces have
    /// these `rp_filter` values, and `eth0` is the uplink.
    #[track_caller]
    fn check(is_forwarding: bool, rp_filter: &[(&str, &str)], expected: &[&str]) {
        let ipv4 = (!is_forwarding).then_some(IpVersion::V4);
        let settings = NodeSettings {
            not_forwarding: ipv4.into_iter().chain([IpVersion::V6]).collect(),
            rp_filter: rp_filter
                .iter()
                .map(|(interface, value)| ((*interface).to_owned(), (*value).to_owned()))
                .collect(),
            uplinks: vec!["eth0".to_owned()],
        };
        let policy = Policy {
            allowed_prefixes: vec!["10.1.1.0/24".parse().unwrap()],
            allowed_gateways: vec!["10.244.3.0/24".parse().unwrap()],
        };
        let problems = problems(&settings, &policy);
        let settings: Vec<_> = problems
            .iter()
            .map(|problem| problem.split(" is ").next().unwrap())
            .collect();
        assert_eq!(settings, expected);
    }

    #[test]
    fn disabled_forwarding_is_reported_for_the_ip_versions_of_the_allowed_prefixes() {
        check(false, &[], &["net.ipv4.ip_forward"]);
        check(true, &[], &[]);
    }

    #[test]
    fn a_strict_rp_filter_is_reported_except_on_uplinks_and_loopback() {
        check(
            true,
            &[
                ("all", "0"),
                ("default", "2"),
                ("eth0", "1"),
                ("veth1", "1"),
            ],
            &["net.ipv4.conf.veth1.rp_filter"],
        );
        check(
            true,
            &[("all", "0"), ("default", "1")],
            &["net.ipv4.conf.default.rp_filter"],
        );
        check(
            true,
            &[("all", "1"), ("veth1", "1")],
            &["net.ipv4.conf.all.rp_filter"],
        );
        check(true, &[("all", "2"), ("veth1", "1")], &[]);
        check(true, &[("all", "0"), ("eth0", "1"), ("lo", "1")], &[]);
    }

    #[test]
    fn the_settings_of_this_machine_can_be_read() {
        let settings = NodeSettings::read();
        assert!(settings.rp_filter.contains_key("all"), "{settings:?}");
    }
}
