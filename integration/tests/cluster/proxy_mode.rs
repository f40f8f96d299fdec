//! kube-proxy changes its mode on every node.

use anyhow::{Result, ensure};
use lab::cluster::ProxyMode;

use crate::report::{Outcome, Price};
use crate::stage::{Stage, wait_until};

/// Ends when every node has the rules of the iptables mode and none of the nftables mode. Requests may
/// be lost: kube-proxy removes the rules of one mode before it writes those of the other.
pub(crate) fn change_to_iptables(stage: &mut Stage) -> Result<Outcome> {
    for node in &mut stage.cluster.nodes {
        node.set_proxy_mode(ProxyMode::Iptables)?;
    }
    for node in &stage.cluster.nodes {
        wait_until(
            &format!("kube-proxy of {} has its rules", node.name),
            || {
                let rules = node.output("iptables-save", &["-t", "nat"])?;
                ensure!(rules.contains("KUBE-SVC-"), "iptables: {rules}");
                let tables = node.output("nft", &["list", "tables"])?;
                ensure!(!tables.contains("kube-proxy"), "nftables: {tables}");
                Ok(())
            },
        )?;
    }
    Ok(Outcome {
        price: Price::Everything,
        note: "on every node".to_owned(),
    })
}
