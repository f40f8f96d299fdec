//! Actual and desired state of the nftables table.

use daemon_runtime::{ReadinessStep, error_chain};
use nftables_table::{NftablesError, NftablesTable, TableFingerprint};
use virtual_server::ForwardingMethod;

use crate::{
    firewall::{TABLE_NAME, is_masquerade},
    kernel::KernelThread,
    metrics::IpvsMetrics,
};

#[derive(Debug)]
pub(crate) struct FirewallState {
    kernel: KernelThread,
    desired: Option<NftablesTable>,
    written_fingerprint: Option<TableFingerprint>,
    error: Option<NftablesError>,
    step: ReadinessStep,
    metrics: IpvsMetrics,
}

impl FirewallState {
    pub(crate) fn new(kernel: KernelThread, step: ReadinessStep, metrics: IpvsMetrics) -> Self {
        Self {
            kernel,
            desired: None,
            written_fingerprint: None,
            error: None,
            step,
            metrics,
        }
    }

    /// Reports whether virtual servers that need nftables work: the last write of the nftables
    /// table did not fail.
    pub(crate) fn is_usable(&self) -> bool {
        self.error.is_none()
    }

    /// Reports whether the last attempt to write the table failed with an error that can disappear
    /// at a retry.
    pub(crate) fn needs_retry(&self) -> bool {
        self.error.as_ref().is_some_and(|e| !e.is_unsupported())
    }

    /// Writes the desired table if it has changed, or if the last attempt to write the table failed
    /// with an error that can disappear at a retry.
    pub(crate) async fn set(&mut self, desired: NftablesTable) {
        if self.desired.as_ref() == Some(&desired) && !self.needs_retry() {
            return;
        }
        self.desired = Some(desired.clone());
        self.ensure(desired).await;
    }

    /// Writes the desired table again if another program has changed it.
    pub(crate) async fn audit(&mut self) {
        let (Some(desired), None) = (&self.desired, &self.error) else {
            return;
        };
        if self.ensure(desired.clone()).await {
            tracing::warn!("another program changed the nftables table; wrote it again");
            self.metrics.repaired.inc();
        }
    }

    /// Makes the kernel's table equal to the desired table. Returns whether the table had to be
    /// written.
    async fn ensure(&mut self, desired: NftablesTable) -> bool {
        let fingerprint = desired.fingerprint();
        let result = self
            .kernel
            .call(move |kernel| {
                let differs = !kernel.holds_firewall(&desired)?;
                if differs {
                    kernel.replace_firewall(&desired)?;
                }
                Ok::<_, NftablesError>(differs)
            })
            .await;
        let written = match result {
            Ok(written) => {
                self.error = None;
                self.written_fingerprint = Some(fingerprint);
                written
            }
            Err(error) => {
                let kind = self.error.as_ref().map(std::mem::discriminant);
                if kind != Some(std::mem::discriminant(&error)) {
                    tracing::warn!(
                        error = error_chain(&error),
                        "cannot write the nftables table; continuing without it: connections \
                         can be reset while this pod starts, clients can reach processes of \
                         this pod on service addresses, and virtual servers with Masquerade, \
                         port ranges or all ports do not work"
                    );
                }
                self.written_fingerprint = None;
                self.error = Some(error);
                false
            }
        };
        let is_usable = i64::from(self.is_usable());
        self.metrics.nftables_in_force.set(is_usable);
        self.step.ready(self.detail());
        written
    }

    fn detail(&self) -> String {
        match (&self.error, self.written_fingerprint) {
            (Some(error), _) => format!("continuing without nftables: {}", error_chain(error)),
            (None, Some(fingerprint)) => format!("table {TABLE_NAME} {fingerprint}"),
            (None, None) => String::new(),
        }
    }

    /// Returns why a virtual server that needs nftables cannot be programmed.
    pub(crate) fn why_unusable(&self, method: ForwardingMethod) -> Option<String> {
        let cause = error_chain(self.error.as_ref()?);
        let need = if is_masquerade(method) {
            "Masquerade needs nftables to return replies through this pod"
        } else {
            "port ranges need nftables to mark packets"
        };
        Some(format!("{need}: {cause}"))
    }
}
