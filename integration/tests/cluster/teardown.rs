//! The end: nothing of ours is left anywhere, but on each node the nftables table that
//! exempts the service ranges from connection tracking, and the routing rules and the table 112 of
//! the uplink guard (docs/how-to/operations.md says how to remove them): node-router keeps them so that its
//! own restart costs nothing.

use anyhow::{Result, ensure};

use crate::report::{Outcome, Price};
use crate::stage::{LONG, Stage, WEB, wait_until};

const APPLICATION: &str = "manifests/examples/web/tunnel";
const OVERLAY: &str = "manifests/overlays/flat-l2";

/// The application first, as its owner would.
pub(crate) fn delete_everything(stage: &mut Stage) -> Result<Outcome> {
    delete(stage, [APPLICATION, OVERLAY])
}

/// The application last, so that load balancers, node-router and reflectors end at one time and
/// while the Service still exists.
pub(crate) fn delete_while_it_works(stage: &mut Stage) -> Result<Outcome> {
    delete(stage, [OVERLAY, APPLICATION])
}

/// Deletes what was applied, and looks at every place where it had an effect.
fn delete(stage: &mut Stage, folders: [&str; 2]) -> Result<Outcome> {
    stage.is_applied = false;
    for folder in folders {
        stage.cluster.delete_folder(folder, LONG)?;
    }
    let prefix = ipnet::IpNet::from(std::net::IpAddr::V4(WEB));
    stage.fib.wait_for(prefix, &[], LONG)?;
    for node in &stage.cluster.nodes {
        wait_until(&format!("nothing is left on {}", node.name), || {
            let routes = node.output("ip", &["route", "show", "table", "all"])?;
            let left = |route: &&str| route.contains("10.1.") && !is_of_guard(route);
            let left: Vec<&str> = routes.lines().filter(left).collect();
            ensure!(left.is_empty(), "routes: {left:?}");
            let addresses = node.output("ip", &["address"])?;
            ensure!(!addresses.contains("10.1."), "addresses: {addresses}");
            // IPVS entries were in those of pods only.
            let namespaces = node.output("ls", &["/run/netns"])?;
            ensure!(
                namespaces.lines().count() <= left_pods(stage, &node.name)?,
                "network namespaces: {namespaces}"
            );
            Ok(())
        })?;
    }
    Ok(Outcome {
        price: Price::Everything,
        note: "no route, no address, no pod's namespace, in which IPVS was".to_owned(),
    })
}

/// Whether the uplink guard drops packets by this route.
fn is_of_guard(route: &str) -> bool {
    route.starts_with("blackhole ") && route.contains(" table 112 ")
}

/// Pods of others, cluster DNS; each has a network namespace.
fn left_pods(stage: &Stage, node: &str) -> Result<usize> {
    let selector = format!("spec.nodeName={node}");
    let pods = stage.cluster.kubectl(&[
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
