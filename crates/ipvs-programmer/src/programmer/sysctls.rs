//! Sets the sysctls that forwarding depends on, where it may, and says where it may not.

use daemon_runtime::Labels;
use virtual_server::DesiredSet;

use crate::{
    firewall::is_masquerade,
    kernel::KernelThread,
    metrics::ProgrammerMetrics,
    sysctl::{Needs, Sysctl, wanted},
};

#[derive(Debug, Default)]
pub(super) struct Sysctls {
    /// What was looked at, and what came of it.
    done: Option<(Needs, String)>,
}

impl Sysctls {
    /// Looks at the sysctls if the needs have changed; says which are missing.
    pub(super) async fn set(
        &mut self,
        kernel: &KernelThread,
        desired: &DesiredSet,
        metrics: &ProgrammerMetrics,
    ) -> String {
        let mut needs = Needs::default();
        for server in desired.virtual_servers.values() {
            if is_masquerade(server.forwarding_method) {
                needs.masquerade(server.id.address.into());
            }
        }
        if let Some((before, missing)) = &self.done
            && *before == needs
        {
            return missing.clone();
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
        let missing = report(&missing, metrics);
        self.done = Some((needs, missing.clone()));
        missing
    }
}

fn report(missing: &[(Sysctl, String)], metrics: &ProgrammerMetrics) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = missing
        .iter()
        .map(|(sysctl, error)| {
            let name = sysctl.dotted_name();
            let labels: Labels = vec![("name", name.clone())];
            metrics.sysctl_missing.get_or_create(&labels).set(1);
            format!("{name} is not {} ({error}): {}", sysctl.value, sysctl.cost)
        })
        .collect();
    let missing = lines.join("; ");
    tracing::warn!(
        missing,
        "sysctls cannot be set from here; set them in the pod's securityContext.sysctls (the \
         kubelet must allow them) or in a privileged init container"
    );
    missing
}
