//! The desired set in use.

use std::{collections::BTreeSet, net::SocketAddr};

use daemon_runtime::ReadinessStep;
use virtual_server::{DesiredChange, DesiredSet, Problems, VirtualServer, VirtualServerId};

use crate::{discovery::StreamLoss, metrics::DataPlaneMetrics};

/// The last valid desired set, including the draining real servers that the source no longer lists.
#[derive(Debug)]
pub(crate) struct DesiredState {
    set: Option<DesiredSet>,
    /// The reason why no stream of the desired set is open, as it was logged. `None`: a stream is
    /// open.
    loss: Option<StreamLoss>,
    step: ReadinessStep,
    metrics: DataPlaneMetrics,
}

impl DesiredState {
    pub(crate) fn new(step: ReadinessStep, metrics: DataPlaneMetrics) -> Self {
        Self {
            set: None,
            loss: None,
            step,
            metrics,
        }
    }

    /// Returns the desired set in use. `None`: no desired set has arrived yet.
    pub(crate) fn get(&self) -> Option<&DesiredSet> {
        self.set.as_ref()
    }

    pub(crate) fn virtual_server(&self, id: &VirtualServerId) -> Option<&VirtualServer> {
        self.get()?.virtual_servers.get(id)
    }

    /// Returns the changes from the set in use to `desired`. First adds the last valid state of
    /// each virtual server in `invalid` to `desired`. `listed` removes the draining real servers
    /// from this last valid state. Returns `None` if the resulting set is invalid.
    pub(crate) fn changes_to(
        &mut self,
        desired: &mut DesiredSet,
        invalid: BTreeSet<VirtualServerId>,
        listed: impl Fn(&VirtualServer) -> VirtualServer,
    ) -> Option<Vec<DesiredChange>> {
        self.metrics.discovery_connected.set(1);
        self.loss = None;
        for id in invalid {
            let server = self.virtual_server(&id).map(|server| (id, listed(server)));
            desired.virtual_servers.extend(server);
        }
        if let Err(invalid) = desired.validate() {
            self.reject(&invalid);
            return None;
        }
        self.step.ready("");
        Some(match &self.set {
            Some(set) => set.changes_to(desired),
            None => DesiredSet::default().changes_to(desired),
        })
    }

    /// Makes the set in use an empty set, so that the first desired set can be applied as changes.
    pub(crate) fn begin(&mut self) {
        self.set = Some(DesiredSet::default());
    }

    /// Applies a change to the set in use.
    pub(crate) fn apply(&mut self, change: DesiredChange) {
        if let Some(set) = &mut self.set {
            set.apply(change);
        }
    }

    /// Removes real servers by their addresses in the kernel's table. Returns the virtual server
    /// before and after the removal.
    pub(crate) fn remove_real_servers(
        &mut self,
        id: &VirtualServerId,
        addresses: &BTreeSet<SocketAddr>,
    ) -> Option<(VirtualServer, &VirtualServer)> {
        let server = self.set.as_mut()?.virtual_servers.get_mut(id)?;
        let before = server.clone();
        server
            .real_servers
            .retain(|real_server| !addresses.contains(&before.table_address(real_server)));
        Some((before, server))
    }

    /// Counts an invalid object whose last valid state stays in use.
    pub(crate) fn on_invalid_object(&self) {
        self.metrics.invalid_objects.inc();
    }

    /// Records that there is no stream of the desired set. The set in use is kept.
    pub(crate) fn on_loss(&mut self, loss: StreamLoss) {
        self.metrics.discovery_connected.set(0);
        self.set_step(&loss.to_string());
        if self.loss.as_ref() != Some(&loss) {
            tracing::info!(
                error = %loss,
                "no stream of the desired set; reconnecting"
            );
            self.loss = Some(loss);
        }
    }

    fn reject(&self, invalid: &Problems) {
        tracing::warn!(error = %invalid, "rejected an invalid desired set; keeping the previous one");
        self.metrics.invalid_objects.inc();
        self.set_step(&invalid.to_string());
    }

    fn set_step(&self, reason: &str) {
        if self.set.is_some() {
            self.step
                .ready(format!("the last desired set stays in force: {reason}"));
        } else {
            self.step.missing(reason);
        }
    }
}
