//! Keeps service addresses out of the node's connection tracking.
//!
//! With direct return a node sees one half of each connection at most: a load balancer's node what
//! the client sends, a web pod's node what the server answers. To connection tracking the answers
//! belong to nothing, hence state INVALID, and kube-proxy drops packets of that state. So packets
//! from and to the service ranges are not tracked. Tunnelled packets between pods carry pod
//! addresses outside and are tracked like all traffic of pods.
//!
//! Untracked packets pass no translation either, so kube-proxy does not rewrite a service address
//! that it also knows as an external address of a Service.

use std::time::Duration;

use daemon_runtime::{Step, in_words};
use ipnet::IpNet;
use nftables_table::{Chain, Error, Expression, Hook, Kind, Nftables, Rule, Table, priority};

use crate::metrics::RouterMetrics;

/// Name of the nftables table, of family inet.
pub const TABLE_NAME: &str = "portlb-node-router";

/// What is asked of the kernel's nftables. The calls may block for milliseconds.
pub trait Firewall: Send + 'static {
    /// Whether the kernel holds the table as it is wanted.
    ///
    /// # Errors
    /// The kernel has no nftables, or refused the question.
    fn holds(&mut self, table: &Table) -> Result<bool, Error>;

    /// Makes the kernel's table of that name equal to it.
    ///
    /// # Errors
    /// The kernel has no nftables, or refused the table.
    fn replace(&mut self, table: &Table) -> Result<(), Error>;
}

impl Firewall for Nftables {
    fn holds(&mut self, table: &Table) -> Result<bool, Error> {
        Ok(self.fingerprint(&table.name)? == Some(table.fingerprint()))
    }

    fn replace(&mut self, table: &Table) -> Result<(), Error> {
        Self::replace(self, table)
    }
}

/// Packets from and to the prefixes are not tracked, whether they come in or are sent by the node.
pub(crate) fn table(prefixes: &[IpNet]) -> Table {
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
        kind: Kind::Filter,
        hook,
        priority: priority::RAW,
        rules: rules.clone(),
    };
    Table {
        name: TABLE_NAME.to_owned(),
        chains: vec![
            chain("prerouting", Hook::Prerouting),
            chain("output", Hook::Output),
        ],
    }
}

/// The exemption of one node.
pub(crate) struct Exemption<F> {
    firewall: F,
    table: Table,
    step: Step,
    metrics: RouterMetrics,
    is_reported_lost: bool,
}

/// What a look at the kernel led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Held,
    Replaced,
}

/// Installs the exemption; `None` if the kernel cannot, which is said once.
///
/// # Errors
/// The kernel could, but refused.
pub(crate) async fn install<F: Firewall>(
    open: impl FnOnce() -> Result<F, Error>,
    prefixes: &[IpNet],
    step: Step,
    metrics: RouterMetrics,
) -> Result<Option<Exemption<F>>, Error> {
    let without = |error: &Error, step: &Step| {
        let reason = in_words(error);
        tracing::warn!(
            reason,
            "connections through this node break where a rule drops packets of state INVALID: \
             service addresses are not exempt from connection tracking"
        );
        step.ready(format!("the kernel cannot: {reason}"));
    };
    let firewall = match open() {
        Ok(firewall) => firewall,
        Err(error) if error.is_unsupported() => {
            without(&error, &step);
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
            let adopted = outcome == Outcome::Held;
            tracing::info!(
                table = TABLE_NAME,
                adopted,
                "service addresses are exempt from connection tracking"
            );
            exemption.report_installed();
            Ok(Some(exemption))
        }
        Err(error) if error.is_unsupported() => {
            without(&error, &exemption.step);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl<F: Firewall> Exemption<F> {
    /// Compares the kernel's table with the wanted one at each interval, and repairs it.
    pub(crate) async fn keep(mut self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let outcome;
            (self, outcome) = self.ensure().await;
            match outcome {
                Ok(Outcome::Held) => {}
                Ok(Outcome::Replaced) => {
                    self.metrics.exemption_repairs.inc();
                    tracing::warn!(
                        table = TABLE_NAME,
                        "somebody changed the exemption from connection tracking; it is restored"
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

    /// Once a loss, not at each look.
    fn report_lost(&mut self, error: &Error) {
        let reason = in_words(error);
        if !self.is_reported_lost {
            tracing::error!(
                reason,
                "cannot restore the exemption from connection tracking"
            );
        }
        self.is_reported_lost = true;
        self.metrics.exemption_installed.set(0);
        self.step.missing(reason);
    }

    /// Looks, and replaces the table unless it is right. The netlink calls block.
    async fn ensure(mut self) -> (Self, Result<Outcome, Error>) {
        tokio::task::spawn_blocking(move || {
            let outcome = match self.firewall.holds(&self.table) {
                Ok(true) => Ok(Outcome::Held),
                Ok(false) => self
                    .firewall
                    .replace(&self.table)
                    .map(|()| Outcome::Replaced),
                Err(error) => Err(error),
            };
            (self, outcome)
        })
        .await
        .expect("neither this nor a firewall panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_of_each_ip_version_are_exempt_at_both_entrances() {
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
    fn a_version_without_service_range_has_no_rules() {
        let table = table(&["fd00:1::/64".parse().unwrap()]);
        assert!(table.chains.iter().all(|chain| chain.rules.len() == 2));
    }
}
