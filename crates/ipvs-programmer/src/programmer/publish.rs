//! Says what has become of the desired set, to watchers, metrics and `/readyz`.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;
use virtual_server::{DesiredSet, VirtualServer};

use super::{Programmer, Turn};
use crate::{
    marks,
    status::{self, MissingStep, Observed, ServiceAddressStatus, VirtualServerStatus},
};

impl Programmer {
    /// Publishes what the turn may have changed.
    pub(super) fn publish(&mut self, desired: &DesiredSet, turn: &Turn) {
        let mut prefixes = BTreeSet::new();
        for id in &turn.virtual_servers {
            prefixes.insert(status::service_prefix(desired, id.address));
            let Some(server) = desired.virtual_servers.get(id) else {
                self.statuses.remove(id);
                self.virtual_server_publisher.remove(id);
                continue;
            };
            let status = Arc::new(self.virtual_server_status(server));
            self.virtual_server_publisher.set(*id, Arc::clone(&status));
            self.statuses.insert(*id, status);
        }
        if turn.structure {
            prefixes.extend(self.local_prefixes.wanted().iter().copied());
        }
        for prefix in prefixes {
            if self.local_prefixes.wanted().contains(&prefix) {
                self.publish_service_address(prefix);
            }
        }
        // After those that come, which may take their place.
        if turn.structure {
            let gone: Vec<IpNet> = (self.service_addresses.keys())
                .filter(|prefix| !self.local_prefixes.wanted().contains(prefix))
                .copied()
                .collect();
            for prefix in gone {
                self.service_addresses.remove(&prefix);
                self.service_address_publisher.remove(&prefix);
            }
        }
        self.virtual_server_publisher.synced();
        self.service_address_publisher.synced();
        self.show_progress();
    }

    fn virtual_server_status(&self, server: &VirtualServer) -> VirtualServerStatus {
        let id = server.id;
        let mark = self.marks.get(&id).copied();
        let key = marks::entry_key(&id, mark);
        let blocked = self.why_impossible(server);
        let observed = Observed {
            target: key.and_then(|key| self.table.target(key)),
            actual: key.and_then(|key| self.table.actual(key)),
            error: blocked
                .as_deref()
                .or_else(|| key.and_then(|key| self.table.error(key))),
            settled: self.settled.contains(&id),
            firewall_mark: mark,
        };
        VirtualServerStatus::new(server, observed, |real| self.checks.state(server, real))
    }

    fn publish_service_address(&mut self, prefix: IpNet) {
        let statuses = self
            .statuses
            .range(status::first_id(prefix.network())..)
            .take_while(|(id, _)| prefix.contains(&id.address))
            .map(|(_, status)| status.as_ref());
        let before = self.service_addresses.get(&prefix);
        let was_serving = before.is_some_and(ServiceAddressStatus::is_serving);
        let local = self.local_prefixes.state(prefix);
        let status = ServiceAddressStatus::new(prefix, statuses, local, was_serving);
        if before.map(|before| before.missing_step) != Some(status.missing_step) {
            tracing::info!(
                %prefix,
                serving = status.is_serving(),
                detail = status.detail,
                "the state of a service address has changed"
            );
        }
        self.service_address_publisher.set(prefix, status.clone());
        self.service_addresses.insert(prefix, status);
    }

    fn show_progress(&self) {
        let names = [
            ("serving", None),
            ("programmed", Some(MissingStep::Programmed)),
            ("checked", Some(MissingStep::Checked)),
            ("healthy", Some(MissingStep::Healthy)),
        ];
        for (name, step) in names {
            let count = self
                .statuses
                .values()
                .filter(|status| status.missing_step == step)
                .count();
            let labels = vec![("missing_step", name.to_owned())];
            self.metrics
                .virtual_servers
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut unprogrammed = self.statuses.values().filter(|status| !status.programmed);
        match unprogrammed.next() {
            None => self
                .steps
                .programmed
                .ready(format!("{} virtual servers", self.statuses.len())),
            Some(first) => self.steps.programmed.missing(format!(
                "{} and {} more: {}",
                first.desired.id,
                unprogrammed.count(),
                first.last_error
            )),
        }
    }
}
