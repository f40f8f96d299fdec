//! Cases that delete portlb from the cluster.
//!
//! node-router leaves two parts on each node on purpose, so that its restart loses no packet: the
//! nftables table with the connection-tracking exemption, and the uplink guard with its routing
//! rules and its table 112. `docs/how-to/operations.md` explains how to remove these parts.

use anyhow::{Result, ensure};

use crate::report::{AllowedLoss, CaseOutcome};
use crate::runner::{CaseRunner, LONG, WEB, wait_until};

const APPLICATION: &str = "manifests/examples/web/tunnel";
const OVERLAY: &str = "manifests/overlays/flat-l2";

/// Deletes the application first and then the overlay, as a user does.
pub(crate) fn delete_everything(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    delete(runner, [APPLICATION, OVERLAY])
}

/// Deletes the overlay first and then the application.
///
/// Load balancers, node-router and reflectors end at the same time, while the Service exists.
pub(crate) fn delete_while_serving(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    delete(runner, [OVERLAY, APPLICATION])
}

/// Deletes the objects of the two folders of manifests, one folder after the other, and checks that
/// no node has a route, an address or a network namespace of portlb, except the routes of the
/// uplink guard.
fn delete(runner: &mut CaseRunner, folders: [&str; 2]) -> Result<CaseOutcome> {
    runner.is_applied = false;
    for folder in folders {
        runner.cluster.delete_folder(folder, LONG)?;
    }
    let prefix = ipnet::IpNet::from(std::net::IpAddr::V4(WEB));
    runner.fib.wait_for(prefix, &[], LONG)?;
    for node in &runner.cluster.nodes {
        wait_until(&format!("{} has no state of portlb", node.name), || {
            let routes = node.output("ip", &["route", "show", "table", "all"])?;
            let is_remaining =
                |route: &&str| route.contains("10.1.") && !is_uplink_guard_route(route);
            let remaining: Vec<&str> = routes.lines().filter(is_remaining).collect();
            ensure!(remaining.is_empty(), "routes: {remaining:?}");
            let addresses = node.output("ip", &["address"])?;
            ensure!(!addresses.contains("10.1."), "addresses: {addresses}");
            // Only network namespaces of lb pods have IPVS entries, so a node without such a
            // network namespace has no IPVS entry.
            let namespaces = node.output("ls", &["/run/netns"])?;
            ensure!(
                namespaces.lines().count() <= count_pods(runner, &node.name)?,
                "network namespaces: {namespaces}"
            );
            Ok(())
        })?;
    }
    Ok(CaseOutcome {
        allowed_loss: AllowedLoss::Everything,
        note: "no node has a route, an address or a pod's network namespace of portlb".to_owned(),
    })
}

/// Reports whether a line of `ip route show table all` is a route of the uplink guard.
fn is_uplink_guard_route(route: &str) -> bool {
    route.starts_with("blackhole ") && route.contains(" table 112 ")
}

/// Counts the pods of all namespaces that run on a node, such as cluster DNS.
fn count_pods(runner: &CaseRunner, node: &str) -> Result<usize> {
    let selector = format!("spec.nodeName={node}");
    let pods = runner.cluster.kubectl(&[
        "get",
        "pods",
        "-A",
        "--field-selector",
        &selector,
        "-o",
        "name",
    ])?;
    Ok(pods.lines().count())
}
