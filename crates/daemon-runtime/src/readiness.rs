//! The readiness steps of a daemon.

use tokio::sync::watch;

/// The readiness steps of one daemon, in the order of their registration.
#[derive(Clone, Debug)]
pub struct Readiness {
    steps: watch::Sender<Vec<StepState>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StepState {
    name: &'static str,
    ready: bool,
    detail: String,
}

/// The handle with which a task reports the state of one readiness step.
#[derive(Debug)]
pub struct ReadinessStep {
    index: usize,
    steps: watch::Sender<Vec<StepState>>,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        Self {
            steps: watch::Sender::new(Vec::new()),
        }
    }

    /// Adds a step. The step is missing until its owner calls [`ReadinessStep::ready`].
    pub fn step(&self, name: &'static str, detail: &str) -> ReadinessStep {
        let mut index = 0;
        self.steps.send_modify(|steps| {
            index = steps.len();
            steps.push(StepState {
                name,
                ready: false,
                detail: detail.to_owned(),
            });
        });
        ReadinessStep {
            index,
            steps: self.steps.clone(),
        }
    }

    /// Reports whether all steps are ready.
    pub fn is_ready(&self) -> bool {
        self.steps.borrow().iter().all(|step| step.ready)
    }

    /// Returns the body of `/readyz`: one line for each step.
    pub fn report(&self) -> String {
        self.steps
            .borrow()
            .iter()
            .map(|step| {
                let mark = if step.ready { "ready" } else { "missing" };
                let separator = if step.detail.is_empty() { "" } else { ": " };
                format!("{mark} {}{separator}{}\n", step.name, step.detail)
            })
            .collect()
    }

    /// Returns at the next change of any step.
    pub(crate) fn changes(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.steps.subscribe();
        async move {
            // Every `ReadinessStep` and every `Readiness` owns a sender, so this error occurs only
            // when the daemon ends.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl ReadinessStep {
    /// Marks the step as ready. `detail` is for example a warning, or empty.
    pub fn ready(&self, detail: impl Into<String>) {
        self.set(true, detail.into());
    }

    /// Marks the step as missing. `detail` has the reason.
    pub fn missing(&self, detail: impl Into<String>) {
        self.set(false, detail.into());
    }

    fn set(&self, ready: bool, detail: String) {
        self.steps.send_if_modified(|steps| {
            let step = &mut steps[self.index];
            let changed = step.ready != ready || step.detail != detail;
            step.ready = ready;
            step.detail = detail;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_ready_when_no_step_is_missing() {
        let readiness = Readiness::new();
        let table = readiness.step("table", "not read");
        let peer = readiness.step("peer", "");
        assert!(!readiness.is_ready());
        table.ready("");
        peer.ready("with a warning");
        assert!(readiness.is_ready());
        table.missing("lost");
        assert!(!readiness.is_ready());
        assert_eq!(
            readiness.report(),
            "missing table: lost\nready peer: with a warning\n"
        );
    }
}
