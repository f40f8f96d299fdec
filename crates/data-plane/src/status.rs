//! Status of virtual servers and service addresses.
//!
//! The status tells whether a virtual server or service address is serving, and which step is
//! missing otherwise. The functions of this module have no side effects.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use virtual_server::{
    DesiredSet, Ports, Protocol, RealServer, RealServerState, VirtualServer, VirtualServerId,
};

use crate::{
    forwarder::Observation,
    health_check::{Health, HealthState},
};

/// A missing step. The variants are in the order in which a service address comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MissingStep {
    /// The kernel's table has not been programmed and read back.
    Programmed,
    /// At least one real server has not had its first health check.
    Checked,
    /// The virtual server has fewer available real servers than its minimum. For a service address:
    /// this is true for each of its virtual servers.
    Healthy,
    /// The address is not accepted as local.
    LocalAddress,
}

/// The desired state of a virtual server with its actual state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VirtualServerStatus {
    pub(crate) desired: VirtualServer,
    /// Whether the kernel's table was read back and holds the virtual server.
    pub(crate) programmed: bool,
    /// Whether this kernel can never hold the virtual server.
    pub(crate) impossible: bool,
    /// `None`: the virtual server is serving.
    pub(crate) missing_step: Option<MissingStep>,
    /// The mark that the kernel uses for the ports of the virtual server.
    pub(crate) firewall_mark: Option<u32>,
    /// Number of real servers that receive new connections.
    pub(crate) available_real_servers: u32,
    /// Status of the real servers, in the order of `desired`.
    pub(crate) real_servers: Vec<RealServerStatus>,
    /// The reason why the kernel's table does not hold the virtual server. Empty: the table holds
    /// it.
    pub(crate) last_error: String,
}

/// The desired state of a real server with its actual state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RealServerStatus {
    pub(crate) desired: RealServer,
    /// Address and port of the real server in the kernel's table.
    pub(crate) table_address: SocketAddr,
    /// Weight in the kernel's table. `None`: the real server is not in the table.
    pub(crate) effective_weight: Option<u32>,
    pub(crate) health: HealthState,
}

/// The status of a service address: a single address or a service range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAddressStatus {
    /// `None`: the service address is serving.
    pub(crate) missing_step: Option<MissingStep>,
    /// For the operator: the explanation of `missing_step`, or the number of serving virtual
    /// servers.
    pub(crate) detail: String,
    /// Number of virtual servers in the service address.
    pub(crate) virtual_servers: u32,
    /// Number of virtual servers in the service address that are serving.
    pub(crate) serving_virtual_servers: u32,
}

/// The actual state from which the status of a virtual server is derived.
#[derive(Clone, Debug)]
pub(crate) struct StatusInputs {
    /// The kernel state as the forwarder read it back.
    pub(crate) observation: Observation,
    /// The reason why the kernel can never hold the virtual server. `None`: the kernel can hold it.
    pub(crate) impossible_reason: Option<String>,
    /// Whether all real servers have had a first health check, or an earlier run of the daemon
    /// already had the virtual server in service.
    pub(crate) is_checked: bool,
}

impl VirtualServerStatus {
    /// Derives the status of a virtual server.
    pub(crate) fn new(
        desired: &VirtualServer,
        inputs: StatusInputs,
        health: impl Fn(&RealServer) -> HealthState,
    ) -> Self {
        let observation = inputs.observation;
        let real_servers: Vec<_> = desired
            .real_servers
            .iter()
            .map(|real_server| {
                let table_address = desired.table_address(real_server);
                RealServerStatus {
                    desired: real_server.clone(),
                    table_address,
                    effective_weight: observation.weights.get(&table_address).copied(),
                    health: health(real_server),
                }
            })
            .collect();
        let programmed = observation.is_programmed;
        let available = real_servers
            .iter()
            .filter(|server| server.is_available())
            .count();
        let available_real_servers = u32::try_from(available).unwrap_or(u32::MAX);
        let missing_step = if !programmed {
            Some(MissingStep::Programmed)
        } else if !inputs.is_checked {
            Some(MissingStep::Checked)
        } else if available_real_servers < desired.minimum_healthy {
            Some(MissingStep::Healthy)
        } else {
            None
        };
        let error = inputs.impossible_reason.or(observation.error);
        let last_error = match (programmed, error) {
            (true, _) => String::new(),
            (false, Some(error)) => error,
            (false, None) => "not in the kernel's table yet".to_owned(),
        };
        Self {
            desired: desired.clone(),
            programmed,
            impossible: !observation.has_target,
            missing_step,
            firewall_mark: observation.firewall_mark,
            available_real_servers,
            real_servers,
            last_error,
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.missing_step.is_none()
    }

    /// Explains the missing step for the operator.
    fn detail(&self) -> String {
        let id = &self.desired.id;
        let all = self.real_servers.len();
        match self.missing_step {
            None => format!("{id} is serving"),
            Some(MissingStep::Programmed) => format!("{id}: {}", self.last_error),
            Some(MissingStep::Checked) => {
                let unchecked = self
                    .real_servers
                    .iter()
                    .filter(|server| server.health.health == Health::Unchecked)
                    .count();
                format!(
                    "{id}: {unchecked} of {all} real servers have no result of a health check yet"
                )
            }
            Some(MissingStep::Healthy | MissingStep::LocalAddress) => {
                let minimum = self.desired.minimum_healthy;
                let mut failed = (self.real_servers.iter())
                    .filter(|server| server.health.health == Health::Failed)
                    .filter_map(|server| server.health.last_error);
                let cause = match failed.next() {
                    Some(error) => format!(": {error}"),
                    None => String::new(),
                };
                let available = self.available_real_servers;
                format!(
                    "{id}: {available} of {all} real servers are in service, the minimum is {minimum}{cause}"
                )
            }
        }
    }
}

impl RealServerStatus {
    fn is_available(&self) -> bool {
        let ready = match self.desired.state {
            RealServerState::Ready => true,
            RealServerState::Draining => false,
        };
        ready && self.effective_weight.is_some_and(|weight| weight > 0)
    }
}

impl ServiceAddressStatus {
    /// Derives the status of a service address from the virtual servers in `prefix`.
    ///
    /// An address starts to serve when it is local, all its virtual servers are programmed and
    /// checked, and at least one of them is serving. Then all load balancers that announce the
    /// address forward a connection in the same way. A serving address stays serving while it is
    /// local and at least one of its virtual servers is serving, so that a new or failed virtual
    /// server does not affect the other virtual servers of the address. A virtual server that this
    /// kernel can never hold is ignored.
    pub(crate) fn new<'a>(
        prefix: IpNet,
        virtual_servers: impl Iterator<Item = &'a VirtualServerStatus> + Clone,
        local_address: Result<(), String>,
        was_serving: bool,
    ) -> Self {
        let count = virtual_servers.clone().count();
        let serving = virtual_servers
            .clone()
            .filter(|status| status.is_serving())
            .count();
        let incomplete = virtual_servers
            .clone()
            .filter(|status| !was_serving && !status.impossible)
            .filter(|status| {
                matches!(
                    status.missing_step,
                    Some(MissingStep::Programmed | MissingStep::Checked)
                )
            })
            .min_by_key(|status| status.missing_step);
        let (missing_step, detail) = if let Some(status) = incomplete {
            (status.missing_step, status.detail())
        } else if serving == 0 {
            let first = virtual_servers.clone().next();
            let none = || format!("no virtual server in {prefix}");
            let step = virtual_servers
                .clone()
                .filter_map(|status| status.missing_step)
                .max()
                .unwrap_or(MissingStep::Healthy);
            (
                Some(step),
                first.map_or_else(none, VirtualServerStatus::detail),
            )
        } else if let Err(error) = local_address {
            (Some(MissingStep::LocalAddress), error)
        } else {
            (
                None,
                format!("{serving} of {count} virtual servers are serving"),
            )
        };
        let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            missing_step,
            detail,
            virtual_servers: number(count),
            serving_virtual_servers: number(serving),
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.missing_step.is_none()
    }
}

/// Returns the prefix with which an address is announced: its service range, or the address as a
/// host route.
pub(crate) fn service_prefix(desired: &DesiredSet, address: IpAddr) -> IpNet {
    desired
        .service_range_of(address)
        .map_or_else(|| address.into(), |range| range.prefix)
}

/// Returns the prefixes with which the addresses and ranges of a desired set are announced.
pub(crate) fn service_prefixes(desired: &DesiredSet) -> BTreeSet<IpNet> {
    let addresses = desired.virtual_servers.keys().map(|id| id.address);
    addresses
        .map(|address| service_prefix(desired, address))
        .chain(desired.service_ranges.iter().map(|range| range.prefix))
        .collect()
}

/// Returns the smallest id with this address, the start of a range search over the ids of a prefix.
pub(crate) fn first_id(address: IpAddr) -> VirtualServerId {
    let first = std::num::NonZeroU16::MIN;
    VirtualServerId {
        address,
        protocol: Protocol::Tcp,
        ports: Ports::Single(first),
    }
}

#[cfg(test)]
mod tests;
