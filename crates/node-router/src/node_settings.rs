//! Settings of the node without which packets of a service address get lost. They are read and
//! reported, not changed: they concern all traffic of the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use daemon_runtime::Step;

use crate::{Policy, metrics::RouterMetrics, uplink::IpVersion};

/// The settings of the network namespace of the thread that reads them.
const NET: &str = "/proc/sys/net";

/// What the kernel shows under `net/`; a value is missing where the kernel has no such setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NodeSettings {
    not_forwarding: BTreeSet<IpVersion>,
    /// `net.ipv4.conf.*.rp_filter` by interface, with `all` and `default`.
    rp_filter: BTreeMap<String, String>,
    /// Interfaces that lead to everywhere.
    uplinks: Vec<String>,
}

/// Says what is wrong when that changes.
pub(crate) struct Watch {
    policy: Policy,
    step: Step,
    metrics: RouterMetrics,
    known: Vec<String>,
}

impl Watch {
    /// Looks for the first time.
    pub(crate) fn begin(policy: Policy, step: Step, metrics: RouterMetrics) -> Self {
        let mut watch = Self {
            policy,
            step,
            metrics,
            known: Vec::new(),
        };
        watch.look();
        watch
    }

    /// Looks again at each interval.
    pub(crate) async fn keep(mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.look();
        }
    }

    fn look(&mut self) {
        let problems = problems(&NodeSettings::read(), &self.policy);
        for problem in &problems {
            if !self.known.contains(problem) {
                tracing::warn!(problem, "a setting of the node loses packets");
            }
        }
        let count = i64::try_from(problems.len()).unwrap_or(i64::MAX);
        self.metrics.unfit_settings.set(count);
        // Never missing: which packets a strict rp_filter drops depends on where the web pods are,
        // and forwarding has a step of its own.
        self.step.ready(problems.join("; "));
        self.known = problems;
    }
}

/// One sentence for each setting that is wrong, with the cure.
fn problems(settings: &NodeSettings, policy: &Policy) -> Vec<String> {
    let versions = policy.versions();
    let not_forwarding = settings.not_forwarding.intersection(&versions);
    let mut problems: Vec<String> = not_forwarding.copied().map(forwarding_problem).collect();
    if versions.contains(&IpVersion::V4) {
        problems.extend(strict_interfaces(settings).map(|interface| {
            format!(
                "net.ipv4.conf.{interface}.rp_filter is 1 (strict), which drops the answers of web \
                 pods, since they come from a service address; set it to 0 or 2"
            )
        }));
    }
    problems
}

/// Says that the kernel forwards no packet of this version, with the remedy.
pub(crate) fn forwarding_problem(version: IpVersion) -> String {
    let sysctl = version.forwarding_sysctl();
    format!("{sysctl} is 0, so the node forwards nothing to its pods; set it to 1 on the node")
}

/// Returns the IP versions of which the kernel forwards no packet in the network namespace of this
/// thread. A kernel without IPv6 has no such setting, and no such packet.
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

/// Interfaces that check strictly whether a packet came the way that its answer would go. The
/// higher value of `all` and the interface counts; a pod's new interface starts with `default`.
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
    /// Those of the network namespace of this thread.
    fn read() -> Self {
        let net = Path::new(NET);
        let interfaces = fs::read_dir(net.join("ipv4/conf")).into_iter().flatten();
        let rp_filter = interfaces.flatten().filter_map(|interface| {
            let value = value(&interface.path().join("rp_filter"))?;
            Some((interface.file_name().to_string_lossy().into_owned(), value))
        });
        // Interface, then destination as a hexadecimal number; the first line is a heading.
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

    /// Whether IPv4 is forwarded, and the `rp_filter` of each interface; `eth0` is the uplink.
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
    fn a_node_that_does_not_forward_is_told_for_the_versions_in_use() {
        check(false, &[], &["net.ipv4.ip_forward"]);
        check(true, &[], &[]);
    }

    #[test]
    fn a_strict_filter_is_told_where_answers_of_pods_come_in() {
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
    fn this_machine_can_be_read() {
        let settings = NodeSettings::read();
        assert!(settings.rp_filter.contains_key("all"), "{settings:?}");
    }
}
