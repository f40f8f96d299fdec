//! What a daemon still waits for, in the words that `/readyz` shows.

use tokio::sync::watch;

/// The steps of one daemon, in the order of their registration.
#[derive(Clone, Debug)]
pub struct Readiness {
    steps: watch::Sender<Vec<State>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    name: &'static str,
    ready: bool,
    detail: String,
}

/// One step; whoever owns what it speaks of holds it.
#[derive(Debug)]
pub struct Step {
    index: usize,
    steps: watch::Sender<Vec<State>>,
}

impl Readiness {
    pub(crate) fn new() -> Self {
        Self {
            steps: watch::Sender::new(Vec::new()),
        }
    }

    /// Adds a step that is missing until it is said to be ready.
    pub fn step(&self, name: &'static str, detail: &str) -> Step {
        let mut index = 0;
        self.steps.send_modify(|steps| {
            index = steps.len();
            steps.push(State {
                name,
                ready: false,
                detail: detail.to_owned(),
            });
        });
        Step {
            index,
            steps: self.steps.clone(),
        }
    }

    /// Whether no step is missing.
    pub fn is_ready(&self) -> bool {
        self.steps.borrow().iter().all(|step| step.ready)
    }

    /// A line for each step.
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
            // The sender lives in every Step and in this Readiness; its end is the daemon's end.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Step {
    /// The step is done; `detail` may hold a warning.
    pub fn ready(&self, detail: impl Into<String>) {
        self.set(true, detail.into());
    }

    /// The step is missing.
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
