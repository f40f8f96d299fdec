//! Takes over what Discovery says.

use daemon_runtime::Step;
use tokio::time::Instant;
use virtual_server::{DesiredChange, DesiredSet};

use super::{Programmer, Turn};
use crate::{desired::DesiredEvent, marks};

impl Programmer {
    /// Takes over one event; what it changes is left to the turn.
    pub(super) fn take_desired(&mut self, event: DesiredEvent, turn: &mut Turn) {
        match event {
            DesiredEvent::Set { mut desired, kept } => {
                self.metrics.discovery_connected.set(1);
                self.lost = None;
                let before = self.desired.take();
                for id in kept {
                    let server = before.as_ref().and_then(|set| set.virtual_servers.get(&id));
                    desired
                        .virtual_servers
                        .extend(server.map(|server| (id, self.draining.listed(server))));
                }
                if let Err(invalid) = desired.validate() {
                    tracing::warn!(error = %invalid, "the desired set cannot be; the last one stays");
                    self.metrics.invalid_objects.inc();
                    self.steps
                        .desired
                        .set_lasting(before.is_some(), &invalid.to_string());
                    self.desired = before;
                    return;
                }
                self.steps.desired.ready("");
                let first = before.is_none();
                let before = before.unwrap_or_default();
                let changes = before.changes_to(&desired);
                self.desired = Some(before);
                if first {
                    self.marks = marks::assign(desired.virtual_servers.keys());
                    self.adopt_settled(&desired);
                    turn.structure = true;
                    turn.keys.extend(self.table.owned_keys());
                }
                for change in changes {
                    self.take_change(change, turn);
                }
            }
            DesiredEvent::Change(change) => self.take_change(change, turn),
            DesiredEvent::InvalidObject => {
                self.metrics.invalid_objects.inc();
            }
            DesiredEvent::Lost(reason) => {
                self.metrics.discovery_connected.set(0);
                self.steps
                    .desired
                    .set_lasting(self.desired.is_some(), &reason);
                if self.lost.as_ref() != Some(&reason) {
                    tracing::info!(reason, "waiting for the desired set");
                    self.lost = Some(reason);
                }
            }
        }
    }

    /// A virtual server that an earlier run had in service needs no first check to go on serving.
    fn adopt_settled(&mut self, desired: &DesiredSet) {
        for id in desired.virtual_servers.keys() {
            let key = marks::entry_key(id, self.marks.get(id).copied());
            if key.is_some_and(|key| self.table.owns(key)) {
                self.settled.insert(*id);
            }
        }
    }

    fn take_change(&mut self, mut change: DesiredChange, turn: &mut Turn) {
        let Some(desired) = &mut self.desired else {
            return;
        };
        tracing::debug!(?change, "the desired set changes");
        match &mut change {
            DesiredChange::PutServiceRange(_) | DesiredChange::RemoveServiceRange(_) => {
                turn.structure = true;
            }
            DesiredChange::PutVirtualServer(server) => {
                let before = desired.virtual_servers.get(&server.id);
                turn.structure |= before
                    .is_none_or(|before| before.forwarding_method != server.forwarding_method);
                turn.virtual_servers.insert(server.id);
                let key = marks::entry_key(&server.id, self.marks.get(&server.id).copied());
                let actual = key.and_then(|key| self.table.actual(key));
                let health = |server: &_, real: &_| self.checks.state(server, real).health;
                self.draining
                    .keep(server, before, actual, health, Instant::now());
                self.checks.set(before, Some(server));
            }
            DesiredChange::RemoveVirtualServer(id) => {
                turn.structure = true;
                turn.virtual_servers.insert(*id);
                self.draining.forget(id);
                self.checks.set(desired.virtual_servers.get(id), None);
            }
        }
        desired.apply(change);
    }
}

/// What a readiness step says when news fail to come but the last ones stay in use.
trait Lasting {
    fn set_lasting(&self, has_set: bool, reason: &str);
}

impl Lasting for Step {
    fn set_lasting(&self, has_set: bool, reason: &str) {
        if has_set {
            self.ready(format!("the last desired set stays in use: {reason}"));
        } else {
            self.missing(reason);
        }
    }
}
