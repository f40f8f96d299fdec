//! The kernel part of a data plane: what a backend implements.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::SocketAddr,
};

use ipnet::IpNet;
use virtual_server::{DesiredSet, RealServer, VirtualServer, VirtualServerId};

use crate::health_check::Health;

/// Forwards packets to real servers: one backend of this crate.
///
/// The owner calls [`Forwarder::read_local_prefixes`] at its start, and [`Forwarder::adopt`] once, with
/// the first desired set. A turn after that calls, in this order: [`Forwarder::remove_local_prefix`]
/// and [`Forwarder::follow_structure`] if addresses, ports or forwarding methods have changed,
/// [`Forwarder::set_target`] or [`Forwarder::remove_target`] for each virtual server that may differ,
/// [`Forwarder::program`], [`Forwarder::add_local_prefix`], [`Forwarder::observe`] and
/// [`Forwarder::why_impossible`] for the status. [`Forwarder::observe`] also serves to find the real
/// servers that start to drain when a virtual server changes. While real servers drain the owner calls
/// [`Forwarder::connections`]. Once in each audit interval it calls
/// [`Forwarder::read_local_prefixes`], then [`Forwarder::audit`] until the last slice.
pub trait Forwarder: Send + 'static {
    /// Why an operation on the kernel failed. Equal errors are logged once.
    type Error: Error + PartialEq + Send + Sync + 'static;
    /// Reads connections for lists.
    type Counters: ConnectionCounters;

    /// Returns a reader of connections that does not wait for the owner.
    fn counters(&self) -> Self::Counters;

    /// Takes over what an earlier run left. Returns the virtual servers of `desired` that were
    /// found in service: they serve on before their first health check.
    fn adopt(&mut self, desired: &DesiredSet) -> BTreeSet<VirtualServerId>;

    /// Prepares the kernel for a set of virtual servers on these service prefixes, and retries what
    /// the kernel refused. Returns the virtual servers whose target may differ now.
    fn follow_structure(
        &mut self,
        desired: &DesiredSet,
        prefixes: &BTreeSet<IpNet>,
    ) -> impl Future<Output = BTreeSet<VirtualServerId>> + Send;

    /// Sets what the kernel has to hold for a virtual server. Returns whether it can hold it.
    fn set_target(
        &mut self,
        virtual_server: &VirtualServer,
        health: impl Fn(&RealServer) -> Health,
    ) -> bool;

    /// Sets that the kernel has to hold nothing for a virtual server.
    fn remove_target(&mut self, id: &VirtualServerId);

    /// Makes the kernel equal to the targets, and reads back what it changed.
    fn program(&mut self) -> impl Future<Output = ()> + Send;

    /// Returns what the kernel holds for a virtual server, as it was read back.
    fn observe(&self, id: &VirtualServerId) -> Observation;

    /// Returns why this kernel cannot forward for a virtual server at all.
    fn why_impossible(&self, virtual_server: &VirtualServer) -> Option<String>;

    /// Whether an operation has failed that may succeed later. The owner then repeats
    /// [`Forwarder::follow_structure`] after a while.
    fn needs_retry(&self) -> bool;

    /// Counts the connections of each real server, by its address in the kernel's table. A virtual
    /// server that the kernel cannot hold is left out.
    fn connections(
        &mut self,
        ids: Vec<VirtualServerId>,
    ) -> impl Future<Output = Vec<CountedConnections<Self::Error>>> + Send;

    /// Reads one slice of the kernel back. What another program has changed is programmed again in
    /// this turn. The first slice after the last one of a round begins the next round.
    fn audit(&mut self) -> impl Future<Output = AuditedSlice> + Send;

    /// Returns the prefixes that this daemon made local.
    fn read_local_prefixes(
        &mut self,
    ) -> impl Future<Output = Result<BTreeSet<IpNet>, Self::Error>> + Send;

    /// Accepts a prefix as local. One that is local already is no failure.
    fn add_local_prefix(
        &mut self,
        prefix: IpNet,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Reverts [`Forwarder::add_local_prefix`]; the route of another program stays.
    fn remove_local_prefix(
        &mut self,
        prefix: IpNet,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Reads connections next to the owner, so that a long list delays no change.
pub trait ConnectionCounters: Clone + Send + Sync + 'static {
    /// Counts the connections of each real server, by its address in the kernel's table. Empty if
    /// they cannot be read. `firewall_mark` is that of the last [`Observation`].
    fn read(
        &self,
        id: VirtualServerId,
        firewall_mark: Option<u32>,
    ) -> impl Future<Output = BTreeMap<SocketAddr, Connections>> + Send;
}

/// The connections of each real server of a virtual server, or why they cannot be counted.
pub type CountedConnections<E> = (
    VirtualServerId,
    Result<BTreeMap<SocketAddr, Connections>, E>,
);

/// Connections of a real server, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established, or on the way to it.
    pub active: u32,
    /// In any other state.
    pub inactive: u32,
}

/// What the kernel holds for a virtual server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The kernel has to hold something for it. `false`: no target is set, or the kernel cannot hold one.
    pub has_target: bool,
    /// The kernel was read back and holds the target.
    pub is_programmed: bool,
    /// What the kernel holds was written by this daemon or by an earlier run of it.
    pub is_owned: bool,
    /// The weight of each real server, by its address in the kernel's table.
    pub weights: BTreeMap<SocketAddr, u32>,
    /// Why the kernel does not hold the target.
    pub error: Option<String>,
    /// The firewall mark of its ports in the kernel; `None` if the data plane uses no marks.
    pub firewall_mark: Option<u32>,
}

/// What one slice of an audit has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditedSlice {
    /// Virtual servers that another program has changed.
    pub changed: BTreeSet<VirtualServerId>,
    /// Nothing of this round is left to read.
    pub is_last: bool,
}
