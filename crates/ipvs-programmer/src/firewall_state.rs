//! The nftables table as it is and as it has to be.

use daemon_runtime::{Step, in_words};
use nftables_table::{Error, Fingerprint, Table};
use virtual_server::ForwardingMethod;

use crate::{
    firewall::{TABLE_NAME, is_masquerade},
    kernel::KernelThread,
    metrics::IpvsMetrics,
};

#[derive(Debug)]
pub(crate) struct FirewallState {
    kernel: KernelThread,
    wanted: Option<Table>,
    in_force: Option<Fingerprint>,
    error: Option<Error>,
    step: Step,
    metrics: IpvsMetrics,
}

impl FirewallState {
    pub(crate) fn new(kernel: KernelThread, step: Step, metrics: IpvsMetrics) -> Self {
        Self {
            kernel,
            wanted: None,
            in_force: None,
            error: None,
            step,
            metrics,
        }
    }

    /// Whether what needs the firewall works.
    pub(crate) fn is_usable(&self) -> bool {
        self.error.is_none()
    }

    /// Whether the last attempt has failed and another may not.
    pub(crate) fn needs_retry(&self) -> bool {
        self.error.as_ref().is_some_and(|e| !e.is_unsupported())
    }

    /// Puts the table in force, unless it is.
    pub(crate) async fn set(&mut self, wanted: Table) {
        if self.wanted.as_ref() == Some(&wanted) && !self.needs_retry() {
            return;
        }
        self.wanted = Some(wanted.clone());
        self.ensure(wanted).await;
    }

    /// Puts the table in force again if another program has changed it.
    pub(crate) async fn audit(&mut self) {
        let (Some(wanted), None) = (&self.wanted, &self.error) else {
            return;
        };
        if self.ensure(wanted.clone()).await {
            tracing::warn!("another program has changed the nftables table; it is in force again");
            self.metrics.repaired.inc();
        }
    }

    /// Returns whether something had to be written.
    async fn ensure(&mut self, wanted: Table) -> bool {
        let fingerprint = wanted.fingerprint();
        let result = self
            .kernel
            .call(move |kernel| {
                let differs = !kernel.holds_firewall(&wanted)?;
                if differs {
                    kernel.replace_firewall(&wanted)?;
                }
                Ok::<_, Error>(differs)
            })
            .await;
        let written = match result {
            Ok(written) => {
                self.error = None;
                self.in_force = Some(fingerprint);
                written
            }
            Err(error) => {
                let kind = self.error.as_ref().map(std::mem::discriminant);
                if kind != Some(std::mem::discriminant(&error)) {
                    tracing::warn!(
                        error = in_words(&error),
                        "going on without nftables: connections may be reset while this pod \
                         starts, processes of this pod are reachable on service addresses, and \
                         Masquerade, port ranges and all-ports virtual servers do not work"
                    );
                }
                self.in_force = None;
                self.error = Some(error);
                false
            }
        };
        let is_usable = i64::from(self.is_usable());
        self.metrics.firewall_in_force.set(is_usable);
        self.step.ready(self.detail());
        written
    }

    /// For `/readyz`.
    fn detail(&self) -> String {
        match (&self.error, self.in_force) {
            (Some(error), _) => format!("going on without: {}", in_words(error)),
            (None, Some(fingerprint)) => format!("table {TABLE_NAME} {fingerprint}"),
            (None, None) => String::new(),
        }
    }

    /// Returns why a virtual server that needs nftables cannot be programmed.
    pub(crate) fn why_unusable(&self, method: ForwardingMethod) -> Option<String> {
        let cause = in_words(self.error.as_ref()?);
        let need = if is_masquerade(method) {
            "Masquerade needs nftables to bring replies back through this pod"
        } else {
            "port ranges need nftables to mark their packets"
        };
        Some(format!("{need}: {cause}"))
    }
}
