//! The nftables table as it is and as it shall be.

use daemon_runtime::in_words;
use nftables_table::{Fingerprint, Table};
use virtual_server::ForwardingMethod;

use crate::{
    firewall::{TABLE_NAME, is_masquerade},
    kernel::KernelThread,
};

#[derive(Debug)]
pub(super) struct FirewallState {
    kernel: KernelThread,
    wanted: Option<Table>,
    in_force: Option<Fingerprint>,
    error: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    words: String,
    unsupported: bool,
}

impl FirewallState {
    pub(super) fn new(kernel: KernelThread) -> Self {
        Self {
            kernel,
            wanted: None,
            in_force: None,
            error: None,
        }
    }

    /// Whether what needs the firewall works.
    pub(super) fn is_usable(&self) -> bool {
        self.error.is_none()
    }

    /// Whether trying again may help.
    pub(super) fn has_failed(&self) -> bool {
        self.error
            .as_ref()
            .is_some_and(|failure| !failure.unsupported)
    }

    /// Puts the table in force, unless it is.
    pub(super) async fn set(&mut self, wanted: Table) {
        if self.wanted.as_ref() == Some(&wanted) && !self.has_failed() {
            return;
        }
        self.wanted = Some(wanted.clone());
        self.ensure(wanted).await;
    }

    /// Puts the table in force again if somebody has changed it; says whether that was so.
    pub(super) async fn audit(&mut self) -> bool {
        match (&self.wanted, &self.error) {
            (Some(wanted), None) => {
                let wanted = wanted.clone();
                self.ensure(wanted).await
            }
            (Some(_) | None, _) => false,
        }
    }

    /// Says whether something had to be written.
    async fn ensure(&mut self, wanted: Table) -> bool {
        let fingerprint = wanted.fingerprint();
        let result = self
            .kernel
            .call(move |kernel| {
                let differs = !kernel.holds_firewall(&wanted)?;
                if differs {
                    kernel.replace_firewall(&wanted)?;
                }
                Ok::<_, nftables_table::Error>(differs)
            })
            .await;
        match result {
            Ok(written) => {
                self.error = None;
                self.in_force = Some(fingerprint);
                written
            }
            Err(error) => {
                let failure = Failure {
                    words: in_words(&error),
                    unsupported: error.is_unsupported(),
                };
                let known = self
                    .error
                    .as_ref()
                    .is_some_and(|e| e.words == failure.words);
                if !known {
                    tracing::warn!(
                        error = failure.words,
                        "going on without nftables: connections may be reset while this pod \
                         starts, processes of this pod are reachable on service addresses, and \
                         Masquerade, port ranges and all-ports virtual servers do not work"
                    );
                }
                self.in_force = None;
                self.error = Some(failure);
                false
            }
        }
    }

    /// For `/readyz`.
    pub(super) fn detail(&self) -> String {
        match (&self.error, self.in_force) {
            (Some(failure), _) => format!("going on without: {}", failure.words),
            (None, Some(fingerprint)) => format!("table {TABLE_NAME} {fingerprint}"),
            (None, None) => String::new(),
        }
    }

    /// Why a virtual server that needs it cannot be programmed.
    pub(super) fn why_unusable(&self, method: ForwardingMethod) -> String {
        let cause = self
            .error
            .as_ref()
            .map_or("", |failure| failure.words.as_str());
        let need = if is_masquerade(method) {
            "Masquerade needs nftables to bring replies back through this pod"
        } else {
            "port ranges need nftables to mark their packets"
        };
        format!("{need}: {cause}")
    }
}
