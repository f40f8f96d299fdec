//! Publication of the status to watchers, metrics and `/readyz`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use daemon_runtime::{Publisher, Reader, ReadinessStep};
use ipnet::IpNet;
use virtual_server::VirtualServerId;

use crate::{
    metrics::DataPlaneMetrics,
    status::{self, MissingStep, ServiceAddressStatus, VirtualServerStatus},
};

/// The published status of each virtual server and service address.
#[derive(Debug)]
pub(crate) struct StatusPublisher {
    /// Virtual servers that an earlier run of the daemon already had in service, or whose real
    /// servers have all had a first health check. A virtual server stays in this set although a new
    /// real server is added.
    checked: BTreeSet<VirtualServerId>,
    virtual_servers: BTreeMap<VirtualServerId, Arc<VirtualServerStatus>>,
    service_addresses: BTreeMap<IpNet, ServiceAddressStatus>,
    virtual_server_publisher: Publisher<VirtualServerId, Arc<VirtualServerStatus>>,
    service_address_publisher: Publisher<IpNet, ServiceAddressStatus>,
    programmed: ReadinessStep,
    metrics: DataPlaneMetrics,
}

impl StatusPublisher {
    pub(crate) fn new(programmed: ReadinessStep, metrics: DataPlaneMetrics) -> Self {
        Self {
            checked: BTreeSet::new(),
            virtual_servers: BTreeMap::new(),
            service_addresses: BTreeMap::new(),
            virtual_server_publisher: Publisher::new(),
            service_address_publisher: Publisher::new(),
            programmed,
            metrics,
        }
    }

    pub(crate) fn virtual_servers(&self) -> Reader<VirtualServerId, Arc<VirtualServerStatus>> {
        self.virtual_server_publisher.reader()
    }

    pub(crate) fn service_addresses(&self) -> Reader<IpNet, ServiceAddressStatus> {
        self.service_address_publisher.reader()
    }

    /// Records virtual servers whose real servers have all had a first health check, or that an
    /// earlier run of the daemon had in service.
    pub(crate) fn set_checked(&mut self, ids: impl IntoIterator<Item = VirtualServerId>) {
        self.checked.extend(ids);
    }

    pub(crate) fn is_checked(&self, id: &VirtualServerId) -> bool {
        self.checked.contains(id)
    }

    /// Returns the virtual servers that are not programmed in the kernel.
    pub(crate) fn unprogrammed(&self) -> impl Iterator<Item = VirtualServerId> {
        let statuses = self.virtual_servers.iter();
        let unprogrammed = statuses.filter(|(_, status)| !status.programmed);
        unprogrammed.map(|(id, _)| *id)
    }

    pub(crate) fn set_virtual_server(&mut self, id: VirtualServerId, status: VirtualServerStatus) {
        let status = Arc::new(status);
        self.virtual_server_publisher.set(id, Arc::clone(&status));
        self.virtual_servers.insert(id, status);
    }

    pub(crate) fn remove_virtual_server(&mut self, id: &VirtualServerId) {
        self.checked.remove(id);
        self.virtual_servers.remove(id);
        self.virtual_server_publisher.remove(id);
    }

    /// Publishes a service address. Its status is derived from the virtual servers in `prefix`,
    /// whose status the caller must set first.
    pub(crate) fn set_service_address(&mut self, prefix: IpNet, local: Result<(), String>) {
        let statuses = self
            .virtual_servers
            .range(status::first_id(prefix.network())..)
            .take_while(|(id, _)| prefix.contains(&id.address))
            .map(|(_, status)| status.as_ref());
        let before = self.service_addresses.get(&prefix);
        let was_serving = before.is_some_and(ServiceAddressStatus::is_serving);
        let status = ServiceAddressStatus::new(prefix, statuses, local, was_serving);
        if before.map(|before| before.missing_step) != Some(status.missing_step) {
            tracing::info!(
                %prefix,
                serving = status.is_serving(),
                detail = status.detail,
                "state of a service address changed"
            );
        }
        self.service_address_publisher.set(prefix, status.clone());
        self.service_addresses.insert(prefix, status);
    }

    /// Removes all service addresses that are not in `prefixes`.
    pub(crate) fn retain_service_addresses(&mut self, prefixes: &BTreeSet<IpNet>) {
        let publisher = &mut self.service_address_publisher;
        self.service_addresses.retain(|prefix, _| {
            let is_retained = prefixes.contains(prefix);
            if !is_retained {
                publisher.remove(prefix);
            }
            is_retained
        });
    }

    /// Ends a turn: marks the published tables as synced, and updates the metrics and the readiness
    /// step.
    pub(crate) fn finish_turn(&mut self) {
        self.virtual_server_publisher.synced();
        self.service_address_publisher.synced();
        let names = [
            ("none", None),
            ("programmed", Some(MissingStep::Programmed)),
            ("checked", Some(MissingStep::Checked)),
            ("healthy", Some(MissingStep::Healthy)),
        ];
        for (name, step) in names {
            let count = self
                .virtual_servers
                .values()
                .filter(|status| status.missing_step == step)
                .count();
            let labels = vec![("missing_step", name.to_owned())];
            self.metrics
                .virtual_servers
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let statuses = self.virtual_servers.values();
        let mut unprogrammed = statuses.filter(|status| !status.programmed);
        match unprogrammed.next() {
            None => {
                let count = self.virtual_servers.len();
                self.programmed.ready(format!("{count} virtual servers"));
            }
            Some(first) => self.programmed.missing(format!(
                "{} and {} more: {}",
                first.desired.id,
                unprogrammed.count(),
                first.last_error
            )),
        }
    }
}
