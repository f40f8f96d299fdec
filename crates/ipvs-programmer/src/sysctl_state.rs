//! Actual state of the sysctls that forwarding needs.

use std::io;

use daemon_runtime::{Labels, ReadinessStep};
use nix::errno::Errno;
use virtual_server::{DesiredSet, VirtualServer};

use crate::{
    kernel::KernelThread,
    metrics::IpvsMetrics,
    sysctl::{Sysctl, SysctlNeeds, all_sysctls, essential_sysctls},
};

#[derive(Debug)]
pub(crate) struct SysctlState {
    kernel: KernelThread,
    /// The needs for which the sysctls were read last.
    needs: Option<SysctlNeeds>,
    missing: Vec<MissingSysctl>,
    step: ReadinessStep,
    metrics: IpvsMetrics,
}

/// A sysctl with a wrong value, and the error of the attempt to set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MissingSysctl {
    sysctl: Sysctl,
    errno: Errno,
}

impl SysctlState {
    pub(crate) fn new(kernel: KernelThread, step: ReadinessStep, metrics: IpvsMetrics) -> Self {
        Self {
            kernel,
            needs: None,
            missing: Vec::new(),
            step,
            metrics,
        }
    }

    /// Reads and sets the sysctls if the needs of the desired set have changed since the last call,
    /// or if sysctls are missing. Returns whether the missing sysctls or their errors have changed.
    pub(crate) async fn set(&mut self, desired: &DesiredSet) -> bool {
        let needs = SysctlNeeds::of(desired.virtual_servers.values());
        if self.needs == Some(needs) && self.missing.is_empty() {
            return false;
        }
        let missing = self
            .kernel
            .call(move |kernel| {
                let mut missing = Vec::new();
                for sysctl in all_sysctls(needs) {
                    if kernel
                        .read_sysctl(sysctl.name)
                        .is_ok_and(|value| value == sysctl.value)
                    {
                        continue;
                    }
                    if let Err(errno) = kernel.write_sysctl(sysctl.name, sysctl.value) {
                        missing.push(MissingSysctl { sysctl, errno });
                    }
                }
                missing
            })
            .await;
        self.needs = Some(needs);
        let differs = missing != self.missing;
        if differs {
            self.record_missing(missing);
        }
        self.step.ready(describe(&self.missing));
        differs
    }

    fn record_missing(&mut self, missing: Vec<MissingSysctl>) {
        for (value, some) in [(0, &self.missing), (1, &missing)] {
            for MissingSysctl { sysctl, .. } in some {
                let labels: Labels = vec![("name", sysctl.dotted_name())];
                self.metrics
                    .sysctl_missing
                    .get_or_create(&labels)
                    .set(value);
            }
        }
        self.missing = missing;
        if !self.missing.is_empty() {
            tracing::warn!(
                missing = describe(&self.missing),
                "cannot set sysctls that forwarding needs; set them in the pod's \
                 securityContext.sysctls (the kubelet must allow them) or in a privileged init \
                 container"
            );
        }
    }

    /// Reports whether a virtual server is not served because an essential sysctl is missing.
    pub(crate) fn lacks_essential(&self) -> bool {
        !self.essential(self.needs.unwrap_or_default()).is_empty()
    }

    /// Returns why `server` cannot be served with the current sysctls.
    pub(crate) fn why_unusable(&self, server: &VirtualServer) -> Option<String> {
        let missing = self.essential(SysctlNeeds::of([server]));
        (!missing.is_empty()).then(|| describe(missing))
    }

    /// Returns the missing sysctls without which no virtual server with these needs is served.
    fn essential(&self, needs: SysctlNeeds) -> Vec<&MissingSysctl> {
        let essential = essential_sysctls(needs);
        let missing = self.missing.iter();
        missing
            .filter(|missing| essential.contains(&missing.sysctl))
            .collect()
    }
}

/// Describes the missing sysctls with their consequences. Returns an empty text if no sysctl is
/// missing.
fn describe<'a>(missing: impl IntoIterator<Item = &'a MissingSysctl>) -> String {
    let lines: Vec<String> = missing
        .into_iter()
        .map(|MissingSysctl { sysctl, errno }| {
            let (name, error) = (sysctl.dotted_name(), io::Error::from(*errno));
            format!(
                "{name} is not {} ({error}): {}",
                sysctl.value, sysctl.consequence
            )
        })
        .collect();
    lines.join("; ")
}
