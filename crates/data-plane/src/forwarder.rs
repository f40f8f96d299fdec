//! Interface of the kernel part of a data plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::SocketAddr,
};

use ipnet::IpNet;
use virtual_server::{DesiredSet, RealServer, VirtualServer, VirtualServerId};

use crate::health_check::Health;

/// The kernel part of a data plane, which forwards packets to real servers.
///
/// The owner calls [`Forwarder::read_local_prefixes`] at its start, and [`Forwarder::adopt`] once,
/// with the first desired set. After that, each turn makes these calls in this order:
///
/// 1. [`Forwarder::remove_local_prefix`] and [`Forwarder::apply_structure`], if addresses, ports,
///    ranges or forwarding methods have changed, if the turn repeats refused operations, and in
///    the first slice of an audit round;
/// 2. [`Forwarder::set_target`] or [`Forwarder::remove_target`] for each virtual server that might
///    differ from the kernel;
/// 3. [`Forwarder::program`];
/// 4. [`Forwarder::add_local_prefix`], then [`Forwarder::remove_local_prefix`] for the prefixes
///    that an added prefix replaces;
/// 5. [`Forwarder::observe`] and [`Forwarder::impossible_reason`], for the status.
///
/// When a virtual server changes, the owner also calls [`Forwarder::observe`] to find the real
/// servers that start to drain. While real servers drain, the owner calls
/// [`Forwarder::connections`]. Once in each audit interval the owner calls
/// [`Forwarder::read_local_prefixes`], then [`Forwarder::audit`] until the last slice.
pub trait Forwarder: Send + 'static {
    /// Error of an operation on the kernel. If adding or removing one local prefix fails repeatedly
    /// with equal errors, the owner logs the error once.
    type Error: Error + PartialEq + Send + Sync + 'static;
    /// Reader of connection counts for lists of virtual servers.
    type Counters: ConnectionCounters;

    /// Returns a reader of connection counts that works independently of the owner.
    fn counters(&self) -> Self::Counters;

    /// Adopts the kernel state of an earlier run of the daemon. Returns the virtual servers of
    /// `desired` that are already in service in the kernel. They continue to serve before their
    /// first health check.
    fn adopt(&mut self, desired: &DesiredSet) -> BTreeSet<VirtualServerId>;

    /// Prepares the kernel, for example guards and marks, for the virtual servers on these service
    /// prefixes. Also repeats the operations that the kernel refused in an earlier call. Returns
    /// the virtual servers whose target might have changed.
    fn apply_structure(
        &mut self,
        desired: &DesiredSet,
        prefixes: &BTreeSet<IpNet>,
    ) -> impl Future<Output = BTreeSet<VirtualServerId>> + Send;

    /// Sets the target of a virtual server. Returns false if the kernel cannot hold this target.
    fn set_target(
        &mut self,
        virtual_server: &VirtualServer,
        health: impl Fn(&RealServer) -> Health,
    ) -> bool;

    /// Removes the target of a virtual server, so that [`Forwarder::program`] removes its kernel
    /// entries.
    fn remove_target(&mut self, id: &VirtualServerId);

    /// Makes the kernel equal to the targets, and reads the changed entries back.
    fn program(&mut self) -> impl Future<Output = ()> + Send;

    /// Returns the kernel state of a virtual server as it was last read back.
    fn observe(&self, id: &VirtualServerId) -> Observation;

    /// Returns the reason why this kernel can never forward for a virtual server. `None`: the
    /// kernel can forward for it.
    fn impossible_reason(&self, virtual_server: &VirtualServer) -> Option<String>;

    /// Reports whether an operation failed and might succeed when it is repeated. The owner then
    /// calls [`Forwarder::apply_structure`] again after a pause.
    fn needs_retry(&self) -> bool;

    /// Counts the connections of each real server, by its address in the kernel's table. The result
    /// does not contain a virtual server that the kernel cannot hold.
    fn connections(
        &mut self,
        ids: Vec<VirtualServerId>,
    ) -> impl Future<Output = Vec<CountedConnections<Self::Error>>> + Send;

    /// Reads one slice of the kernel state back. The owner repairs changes of other programs in the
    /// current turn. After the last slice of a round, the next call begins a new round.
    fn audit(&mut self) -> impl Future<Output = AuditedSlice> + Send;

    /// Returns the prefixes that this daemon has made local.
    fn read_local_prefixes(
        &mut self,
    ) -> impl Future<Output = Result<BTreeSet<IpNet>, Self::Error>> + Send;

    /// Makes a prefix local. Succeeds if the prefix is local already.
    fn add_local_prefix(
        &mut self,
        prefix: IpNet,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Reverts [`Forwarder::add_local_prefix`]. Does not remove a route of another program.
    fn remove_local_prefix(
        &mut self,
        prefix: IpNet,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// A reader of connection counts that runs concurrently with the owner, so that a long list of
/// virtual servers does not delay the owner.
pub trait ConnectionCounters: Clone + Send + Sync + 'static {
    /// Counts the connections of each real server, by its address in the kernel's table. Returns an
    /// empty map if the kernel cannot be read. `firewall_mark` is the mark in the last
    /// [`Observation`] of the virtual server.
    fn read(
        &self,
        id: VirtualServerId,
        firewall_mark: Option<u32>,
    ) -> impl Future<Output = BTreeMap<SocketAddr, ConnectionCounts>> + Send;
}

/// The connections of each real server of a virtual server, or the error of the count.
pub type CountedConnections<E> = (
    VirtualServerId,
    Result<BTreeMap<SocketAddr, ConnectionCounts>, E>,
);

/// Numbers of connections of a real server, counted by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Connections that are established or being established.
    pub active: u32,
    /// Connections that are neither established nor being established.
    pub inactive: u32,
}

/// The kernel state of a virtual server as it was read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Whether the virtual server has a target, set by [`Forwarder::set_target`]. False also if the
    /// kernel cannot hold the target.
    pub has_target: bool,
    /// Whether the kernel was read back and holds the target.
    pub is_programmed: bool,
    /// Whether this daemon, or an earlier run of it, wrote the entries in the kernel.
    pub is_owned: bool,
    /// The weight of each real server, by its address in the kernel's table.
    pub weights: BTreeMap<SocketAddr, u32>,
    /// The reason why the kernel does not hold the target.
    pub error: Option<String>,
    /// The firewall mark of the ports of the virtual server. `None`: the data plane uses no mark.
    pub firewall_mark: Option<u32>,
}

/// The result of one slice of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditedSlice {
    /// Virtual servers that another program has changed.
    pub changed: BTreeSet<VirtualServerId>,
    /// Whether this slice was the last slice of the round.
    pub is_last: bool,
}
