//! Exemption of service addresses from the node's connection tracking.
//!
//! With direct return a node sees at most one half of each connection: the node of a load balancer
//! sees the packets of the client, and the node of a web pod sees the replies. For connection
//! tracking such replies belong to no connection and have the state INVALID, and kube-proxy drops
//! packets of this state. Therefore the node does not track packets from and to the service ranges.
//! Tunnelled packets between pods have pod addresses in the outer header, and the node tracks them
//! like all traffic of pods.
//!
//! An untracked packet passes no address translation either. So kube-proxy does not rewrite a
//! service address that is also an external address of a Service.

use std::time::Duration;

use daemon_runtime::{ReadinessStep, error_chain};
use ipnet::IpNet;
use nftables_table::{
    Chain, ChainType, Expression, Hook, Nftables, NftablesError, NftablesTable, Rule, priority,
};

use crate::metrics::RouterMetrics;

/// Name of the nftables table. The table has the family `inet`.
pub const TABLE_NAME: &str = "portlb-node-router";

/// Access to the kernel's nftables. Each call can block for milliseconds.
pub trait ExemptionFirewall: Send + 'static {
    /// Reports whether the kernel's table is equal to `table`.
    ///
    /// # Errors
    /// The kernel lacks nftables, or refused the request.
    fn holds(&mut self, table: &NftablesTable) -> Result<bool, NftablesError>;

    /// Makes the kernel's table with the name of `table` equal to `table`.
    ///
    /// # Errors
    /// The kernel lacks nftables, or refused the table.
    fn replace(&mut self, table: &NftablesTable) -> Result<(), NftablesError>;
}

impl ExemptionFirewall for Nftables {
    fn holds(&mut self, table: &NftablesTable) -> Result<bool, NftablesError> {
        Self::holds(self, table)
    }

    fn replace(&mut self, table: &NftablesTable) -> Result<(), NftablesError> {
        Self::replace(self, table)
    }
}

/// Returns the table whose rules exclude packets from and to the prefixes from connection tracking.
/// The rules apply to incoming packets and to packets of the node itself.
pub(crate) fn table(prefixes: &[IpNet]) -> NftablesTable {
    let (ipv4, ipv6): (Vec<IpNet>, Vec<IpNet>) =
        prefixes.iter().partition(|prefix| prefix.addr().is_ipv4());
    let rules: Vec<Rule> = [ipv4, ipv6]
        .into_iter()
        .filter(|prefixes| !prefixes.is_empty())
        .flat_map(|prefixes| {
            [
                Expression::DestinationIn(prefixes.clone()),
                Expression::SourceIn(prefixes),
            ]
        })
        .map(|addresses| vec![addresses, Expression::Counter, Expression::NoTrack])
        .collect();
    let chain = |name: &str, hook| Chain {
        name: name.to_owned(),
        kind: ChainType::Filter,
        hook,
        priority: priority::RAW,
        rules: rules.clone(),
    };
    NftablesTable {
        name: TABLE_NAME.to_owned(),
        chains: vec![
            chain("prerouting", Hook::Prerouting),
            chain("output", Hook::Output),
        ],
    }
}

/// The installed exemption of this node. Each audit repairs it.
pub(crate) struct Exemption<F> {
    firewall: F,
    table: NftablesTable,
    step: ReadinessStep,
    metrics: RouterMetrics,
    is_reported_lost: bool,
}

/// Action that made the kernel's table equal to the desired table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EnsureOutcome {
    AlreadyInstalled,
    Replaced,
}

/// Installs the exemption. Returns `None` and logs a warning if the kernel lacks nftables.
///
/// # Errors
/// The kernel has nftables, but an operation failed.
pub(crate) async fn install<F: ExemptionFirewall>(
    open: impl FnOnce() -> Result<F, NftablesError>,
    prefixes: &[IpNet],
    step: ReadinessStep,
    metrics: RouterMetrics,
) -> Result<Option<Exemption<F>>, NftablesError> {
    let report_unsupported = |error: &NftablesError, step: &ReadinessStep| {
        let error = error_chain(error);
        tracing::warn!(
            error,
            "cannot exempt service addresses from connection tracking; connections through this \
             node break if a firewall rule drops packets of state INVALID"
        );
        step.ready(format!("not supported by the kernel: {error}"));
    };
    let firewall = match open() {
        Ok(firewall) => firewall,
        Err(error) if error.is_unsupported() => {
            report_unsupported(&error, &step);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut exemption = Exemption {
        firewall,
        table: table(prefixes),
        step,
        metrics,
        is_reported_lost: false,
    };
    let (ensured, outcome);
    (ensured, outcome) = exemption.ensure().await;
    exemption = ensured;
    match outcome {
        Ok(outcome) => {
            let adopted = outcome == EnsureOutcome::AlreadyInstalled;
            tracing::info!(
                table = TABLE_NAME,
                adopted,
                "exempted service addresses from connection tracking"
            );
            exemption.report_installed();
            Ok(Some(exemption))
        }
        Err(error) if error.is_unsupported() => {
            report_unsupported(&error, &exemption.step);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl<F: ExemptionFirewall> Exemption<F> {
    /// Compares the kernel's table with the desired table at each interval. Replaces the kernel's
    /// table if it differs from the desired table.
    pub(crate) async fn repair_periodically(mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let outcome;
            (self, outcome) = self.ensure().await;
            match outcome {
                Ok(EnsureOutcome::AlreadyInstalled) => {}
                Ok(EnsureOutcome::Replaced) => {
                    self.metrics.exemption_repairs.inc();
                    tracing::warn!(
                        table = TABLE_NAME,
                        "another program changed the exemption from connection tracking; restored it"
                    );
                }
                Err(error) => {
                    self.report_lost(&error);
                    continue;
                }
            }
            self.report_installed();
        }
    }

    fn report_installed(&mut self) {
        self.is_reported_lost = false;
        self.metrics.exemption_installed.set(1);
        self.step.ready(format!("table {TABLE_NAME}"));
    }

    /// Reports in metric and readiness that the exemption cannot be checked or restored. Of
    /// successive failures, only the first is logged as an ERROR.
    fn report_lost(&mut self, error: &NftablesError) {
        let error = error_chain(error);
        if !self.is_reported_lost {
            tracing::error!(
                error,
                "cannot check or restore the exemption from connection tracking; retrying at the next \
                 audit"
            );
        }
        self.is_reported_lost = true;
        self.metrics.exemption_installed.set(0);
        self.step.missing(error);
    }

    /// Replaces the kernel's table unless it is equal to the desired table. The netlink calls
    /// block, so they run in a blocking task.
    async fn ensure(mut self) -> (Self, Result<EnsureOutcome, NftablesError>) {
        tokio::task::spawn_blocking(move || {
            let outcome = match self.firewall.holds(&self.table) {
                Ok(true) => Ok(EnsureOutcome::AlreadyInstalled),
                Ok(false) => self
                    .firewall
                    .replace(&self.table)
                    .map(|()| EnsureOutcome::Replaced),
                Err(error) => Err(error),
            };
            (self, outcome)
        })
        .await
        .expect("the blocking task does not panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_from_and_to_service_ranges_of_both_ip_versions_are_exempt_in_each_chain() {
        let table = table(&[
            "10.1.1.0/24".parse().unwrap(),
            "fd00:1::/64".parse().unwrap(),
            "10.1.9.0/24".parse().unwrap(),
        ]);
        let hooks: Vec<_> = table.chains.iter().map(|chain| chain.hook).collect();
        assert_eq!(hooks, [Hook::Prerouting, Hook::Output]);
        for chain in &table.chains {
            assert_eq!(chain.priority, -300);
            assert_eq!(chain.rules.len(), 4);
            for rule in &chain.rules {
                assert_eq!(rule.last(), Some(&Expression::NoTrack));
            }
        }
    }

    #[test]
    fn an_ip_version_without_a_service_range_has_no_exemption_rules() {
        let table = table(&["fd00:1::/64".parse().unwrap()]);
        assert!(table.chains.iter().all(|chain| chain.rules.len() == 2));
    }
}
