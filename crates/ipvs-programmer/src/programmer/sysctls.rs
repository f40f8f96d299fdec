//! Sets the sysctls that forwarding depends on, where it may, and says where it may not.

use daemon_runtime::Labels;
use virtual_server::{DesiredSet, VirtualServer};

use crate::{
    kernel::KernelThread,
    metrics::ProgrammerMetrics,
    sysctl::{Needs, Sysctl, essential, wanted},
};

#[derive(Debug, Default)]
pub(super) struct Sysctls {
    /// What was looked at.
    looked_at: Option<Needs>,
    /// Those that have another value, and why they keep it.
    missing: Vec<(Sysctl, String)>,
}

impl Sysctls {
    /// Looks at the sysctls if the needs have changed or some are missing; says whether others are
    /// missing than before.
    pub(super) async fn set(
        &mut self,
        kernel: &KernelThread,
        desired: &DesiredSet,
        metrics: &ProgrammerMetrics,
    ) -> bool {
        let needs = Needs::of(desired.virtual_servers.values());
        if self.looked_at == Some(needs) && self.missing.is_empty() {
            return false;
        }
        let missing = kernel
            .call(move |kernel| {
                let mut missing = Vec::new();
                for sysctl in wanted(needs) {
                    if kernel
                        .read_sysctl(sysctl.name)
                        .is_ok_and(|value| value == sysctl.value)
                    {
                        continue;
                    }
                    if let Err(error) = kernel.write_sysctl(sysctl.name, sysctl.value) {
                        missing.push((sysctl, error.to_string()));
                    }
                }
                missing
            })
            .await;
        self.looked_at = Some(needs);
        if missing == self.missing {
            return false;
        }
        for (value, some) in [(0, &self.missing), (1, &missing)] {
            for (sysctl, _) in some {
                let labels: Labels = vec![("name", sysctl.dotted_name())];
                metrics.sysctl_missing.get_or_create(&labels).set(value);
            }
        }
        self.missing = missing;
        if !self.missing.is_empty() {
            tracing::warn!(
                missing = self.detail(),
                "sysctls cannot be set from here; set them in the pod's securityContext.sysctls \
                 (the kubelet must allow them) or in a privileged init container"
            );
        }
        true
    }

    /// Which are missing, and what that costs; empty: none.
    pub(super) fn detail(&self) -> String {
        in_words(&self.missing)
    }

    /// Whether some virtual server is not served for want of one.
    pub(super) fn lacks_essential(&self) -> bool {
        !self
            .essential(self.looked_at.unwrap_or_default())
            .is_empty()
    }

    /// Why nobody could be served; somebody else may set them later.
    pub(super) fn why_unusable(&self, server: &VirtualServer) -> Option<String> {
        let missing = self.essential(Needs::of([server]));
        (!missing.is_empty()).then(|| in_words(missing))
    }

    /// The missing ones without which nobody with these needs is served.
    fn essential(&self, needs: Needs) -> Vec<&(Sysctl, String)> {
        let essential = essential(needs);
        let missing = self.missing.iter();
        missing
            .filter(|(sysctl, _)| essential.contains(sysctl))
            .collect()
    }
}

fn in_words<'a>(missing: impl IntoIterator<Item = &'a (Sysctl, String)>) -> String {
    let lines: Vec<String> = missing
        .into_iter()
        .map(|(sysctl, error)| {
            let name = sysctl.dotted_name();
            format!("{name} is not {} ({error}): {}", sysctl.value, sysctl.cost)
        })
        .collect();
    lines.join("; ")
}
