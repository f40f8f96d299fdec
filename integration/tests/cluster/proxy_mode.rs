//! A case that changes kube-proxy from nftables mode to iptables mode on every node.

use anyhow::{Result, ensure};
use lab::cluster::ProxyMode;

use crate::report::{AllowedLoss, CaseOutcome};
use crate::runner::{CaseRunner, wait_until};

/// Changes kube-proxy to iptables mode, and waits until every node has iptables rules and no
/// nftables table of kube-proxy.
///
/// Requests may be lost, because kube-proxy removes the nftables rules before it writes the
/// iptables rules.
pub(crate) fn change_to_iptables(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    for node in &mut runner.cluster.nodes {
        node.set_proxy_mode(ProxyMode::Iptables)?;
    }
    for node in &runner.cluster.nodes {
        wait_until(
            &format!("kube-proxy of {} has changed to iptables mode", node.name),
            || {
                let rules = node.output("iptables-save", &["-t", "nat"])?;
                ensure!(rules.contains("KUBE-SVC-"), "iptables: {rules}");
                let tables = node.output("nft", &["list", "tables"])?;
                ensure!(!tables.contains("kube-proxy"), "nftables: {tables}");
                Ok(())
            },
        )?;
    }
    Ok(CaseOutcome {
        allowed_loss: AllowedLoss::Everything,
        note: "kube-proxy is in iptables mode on every node".to_owned(),
    })
}
