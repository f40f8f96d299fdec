//! What has become of the desired set: which virtual server serves, which service address can be
//! announced, and which step is missing if not. Pure.

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

/// The order in which a service address comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MissingStep {
    /// The kernel's table has not been programmed and read back.
    Programmed,
    /// At least one real server has not had its first health check.
    Checked,
    /// No virtual server of this address has its minimum of healthy real servers.
    Healthy,
    /// The address is not accepted as local.
    LocalAddress,
}

/// A virtual server as it is desired, and what has become of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VirtualServerStatus {
    /// As it is desired.
    pub(crate) desired: VirtualServer,
    /// The kernel's table was read back and holds it.
    pub(crate) programmed: bool,
    /// This kernel cannot hold it at all; waiting does not help.
    pub(crate) impossible: bool,
    /// `None`: it is serving.
    pub(crate) missing_step: Option<MissingStep>,
    /// The mark that stands for its ports in the kernel.
    pub(crate) firewall_mark: Option<u32>,
    /// Real servers that receive new connections.
    pub(crate) available_real_servers: u32,
    /// In the order of the desired ones.
    pub(crate) real_servers: Vec<RealServerStatus>,
    /// Why the kernel's table does not hold it; empty if it does.
    pub(crate) last_error: String,
}

/// A real server as it is desired, and what has become of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RealServerStatus {
    /// As it is desired.
    pub(crate) desired: RealServer,
    /// Its address and port in the kernel's table.
    pub(crate) table_address: SocketAddr,
    /// Its weight in the kernel's table; `None`: it is not there.
    pub(crate) effective_weight: Option<u32>,
    /// What its health checks say.
    pub(crate) health: HealthState,
}

/// An address, or a range of addresses, that can be announced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAddressStatus {
    /// `None`: clients that are sent here are served.
    pub(crate) missing_step: Option<MissingStep>,
    /// The same in words.
    pub(crate) detail: String,
    /// Virtual servers in it.
    pub(crate) virtual_servers: u32,
    /// How many of them are serving.
    pub(crate) serving_virtual_servers: u32,
}

/// What is known of a virtual server.
#[derive(Clone, Debug)]
pub(crate) struct Knowledge {
    /// What the forwarder holds.
    pub(crate) observation: Observation,
    /// Why the forwarder cannot hold it at all.
    pub(crate) why_impossible: Option<String>,
    /// Every real server has had its first health check at some time, or the virtual server was
    /// found in service.
    pub(crate) is_checked: bool,
}

impl VirtualServerStatus {
    /// Puts together what is known.
    pub(crate) fn new(
        desired: &VirtualServer,
        knowledge: Knowledge,
        health: impl Fn(&RealServer) -> HealthState,
    ) -> Self {
        let observation = knowledge.observation;
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
        } else if !knowledge.is_checked {
            Some(MissingStep::Checked)
        } else if available_real_servers < desired.minimum_healthy {
            Some(MissingStep::Healthy)
        } else {
            None
        };
        let error = knowledge.why_impossible.or(observation.error);
        let last_error = match (programmed, error) {
            (true, _) => String::new(),
            (false, Some(error)) => error,
            (false, None) => "the kernel's table does not hold it yet".to_owned(),
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

    /// Whether its clients are served.
    pub(crate) fn is_serving(&self) -> bool {
        self.missing_step.is_none()
    }

    /// Why it is not serving.
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
                format!("{id}: {unchecked} of {all} real servers have not had their first check")
            }
            Some(MissingStep::Healthy | MissingStep::LocalAddress) => {
                let wanted = self.desired.minimum_healthy;
                let mut failed = (self.real_servers.iter())
                    .filter(|server| server.health.health == Health::Failed)
                    .filter_map(|server| server.health.last_error);
                let cause = match failed.next() {
                    Some(error) => format!(": {error}"),
                    None => String::new(),
                };
                let available = self.available_real_servers;
                format!(
                    "{id}: {available} of {all} real servers are in service, {wanted} wanted{cause}"
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
    /// Puts together what is known of the virtual servers in `prefix`.
    ///
    /// An address comes up when every virtual server in it is programmed and checked and one is
    /// serving, so that all load balancers that announce it treat a connection alike. One that is
    /// up stays up while any of them is serving: a new virtual server beside it, or a failed one,
    /// takes nothing from the others. One that this kernel can never hold holds up nobody.
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
        let waited_for = virtual_servers
            .clone()
            .filter(|status| !was_serving && !status.impossible)
            .filter(|status| {
                matches!(
                    status.missing_step,
                    Some(MissingStep::Programmed | MissingStep::Checked)
                )
            })
            .min_by_key(|status| status.missing_step);
        let (missing_step, detail) = if let Some(status) = waited_for {
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

    /// Whether clients that are sent here are served.
    pub(crate) fn is_serving(&self) -> bool {
        self.missing_step.is_none()
    }
}

/// The prefix that an address is announced by: the service range that holds it, or itself.
pub(crate) fn service_prefix(desired: &DesiredSet, address: IpAddr) -> IpNet {
    desired
        .service_range_of(address)
        .map_or_else(|| address.into(), |range| range.prefix)
}

/// Returns the prefixes by which a desired set is announced.
pub(crate) fn service_prefixes(desired: &DesiredSet) -> BTreeSet<IpNet> {
    let addresses = desired.virtual_servers.keys().map(|id| id.address);
    addresses
        .map(|address| service_prefix(desired, address))
        .chain(desired.service_ranges.iter().map(|range| range.prefix))
        .collect()
}

/// The least id with this address, where a search over the ids of a prefix begins.
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
