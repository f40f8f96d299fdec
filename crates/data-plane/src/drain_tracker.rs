//! Drains of real servers that the desired set no longer lists.
//!
//! A draining real server stays in the kernel's table, quiesced. Its drain ends when its last
//! active connection has ended, when its health check fails, or when the drain timeout of its
//! virtual server is over. If the real server still has a connection at the end of its drain, the
//! kernel removes the connection at its next packet (`expire_nodest_conn`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU16,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use virtual_server::{
    Protocol, RealServer, RealServerHistory, RealServerState, Scheduler, VirtualServer,
    VirtualServerId, Weight,
};

use crate::{
    forwarder::{ConnectionCounts, Observation},
    health_check::Health,
    metrics::DataPlaneMetrics,
};

/// Time from the end of a poll, which counts the connections of all draining real servers, to the
/// start of the next poll. Polling is needed because the kernel does not report the end of the last
/// connection.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Largest number of virtual servers whose connections are counted in one turn of the owner.
const SLICE_SIZE: usize = 32;

/// The draining real servers that the desired set no longer lists.
#[derive(Debug)]
pub(crate) struct DrainTracker {
    /// Start of the drain of each real server, by its address in the kernel's table.
    since: BTreeMap<VirtualServerId, BTreeMap<SocketAddr, Instant>>,
    next_poll: Instant,
    /// Virtual servers whose connections are not yet counted in the current poll.
    queue: Vec<VirtualServerId>,
    metrics: DataPlaneMetrics,
}

/// The reason why a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainEnd {
    /// The kernel counts no active connection of the real server.
    Idle,
    /// The health check of the real server has failed.
    Failed,
    /// The drain timeout of the virtual server is over.
    Deadline,
    /// The desired set lists the real server again.
    Listed,
    /// The virtual server was removed, or its new desired state does not allow the drain.
    Removed,
}

impl DrainTracker {
    pub(crate) fn new(metrics: DataPlaneMetrics) -> Self {
        Self {
            since: BTreeMap::new(),
            next_poll: Instant::now(),
            queue: Vec::new(),
            metrics,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Waits until the next count of connections is due.
    pub(crate) async fn due(&self) {
        if self.queue.is_empty() {
            sleep_until(self.next_poll).await;
        }
    }

    /// Adds draining real servers to `server`, the new desired state of a virtual server: all real
    /// servers that this daemon's entry in the kernel's table holds or that drain already, and that
    /// `server` does not list. Failed real servers, real servers that the virtual server cannot
    /// hold, and real servers whose connections it cannot keep are not added.
    ///
    /// A draining real server keeps its weight from `former`, the previous state of the virtual
    /// server, because the schedulers `mh` and `sh` select real servers by this weight. The drain
    /// of a real server from an earlier run of the daemon begins at `now`.
    pub(crate) fn retain_draining(
        &mut self,
        server: &mut VirtualServer,
        former: Option<&VirtualServer>,
        observation: &Observation,
        health: impl Fn(&VirtualServer, &RealServer) -> Health,
        now: Instant,
    ) {
        let before = self.since.remove(&server.id).unwrap_or_default();
        let listed: BTreeSet<SocketAddr> = (server.real_servers.iter())
            .map(|real_server| server.table_address(real_server))
            .collect();
        let actual = observation.is_owned.then_some(&observation.weights);
        let actual = actual.into_iter().flat_map(BTreeMap::keys);
        // If the kernel could not be read back, `actual` lacks the real servers that already drain,
        // although they can be in the kernel's table.
        let candidates: BTreeSet<SocketAddr> = (actual.chain(before.keys()))
            .filter(|address| !listed.contains(address))
            .copied()
            .collect();
        let configured: BTreeMap<SocketAddr, &RealServer> = former
            .into_iter()
            .flat_map(|former| {
                let real_servers = former.real_servers.iter();
                real_servers.map(|real_server| (former.table_address(real_server), real_server))
            })
            .filter(|(address, _)| candidates.contains(address))
            .collect();
        let mut since = BTreeMap::new();
        for address in candidates {
            let configured = configured.get(&address);
            let weight = configured
                .map(|real_server| real_server.weight)
                .or_else(|| {
                    let weight = observation.weights.get(&address)?;
                    Some(Weight(u16::try_from(*weight).ok()?))
                });
            let weight = weight.unwrap_or(Weight::QUIESCED);
            let real_server = RealServer {
                history: configured
                    .map(|real_server| real_server.history)
                    .unwrap_or_default(),
                ..draining_real_server(address, weight)
            };
            // A virtual server has a maximum number of real servers, and listed real servers take
            // precedence. The kernel would refuse the whole virtual server with one real server too
            // many.
            let has_place = server.real_servers.len() < server.scheduler.most_real_servers();
            let is_retained = has_place
                && keeps_connections(server)
                && server.validate_real_server(&real_server).is_ok()
                && health(server, &real_server) != Health::Failed;
            if !is_retained {
                continue;
            }
            if !before.contains_key(&address) {
                tracing::info!(
                    virtual_server = %server.id,
                    real_server = %address,
                    timeout = ?server.drain_timeout,
                    "draining a real server that the desired set no longer lists"
                );
            }
            since.insert(address, before.get(&address).copied().unwrap_or(now));
            server.real_servers.push(real_server);
        }
        for address in before.keys().filter(|address| !since.contains_key(address)) {
            let is_listed = listed.contains(address);
            let end = if is_listed {
                DrainEnd::Listed
            } else {
                DrainEnd::Removed
            };
            self.report_end(&server.id, *address, end);
        }
        if !since.is_empty() {
            server.sort_real_servers();
            self.since.insert(server.id, since);
        }
    }

    /// Ends all drains of a removed virtual server.
    pub(crate) fn remove_virtual_server(&mut self, id: &VirtualServerId) {
        for address in self.since.remove(id).unwrap_or_default().keys() {
            self.report_end(id, *address, DrainEnd::Removed);
        }
    }

    /// Returns the virtual server without the real servers that [`DrainTracker::retain_draining`]
    /// added.
    pub(crate) fn listed(&self, server: &VirtualServer) -> VirtualServer {
        let mut listed = server.clone();
        if let Some(draining) = self.since.get(&server.id) {
            listed
                .real_servers
                .retain(|real_server| !draining.contains_key(&server.table_address(real_server)));
        }
        listed
    }

    pub(crate) fn update_metrics(&self) {
        let count = self.since.values().map(BTreeMap::len).sum::<usize>();
        self.metrics
            .draining_real_servers
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Returns the next virtual servers whose connections must be counted.
    pub(crate) fn next_slice(&mut self) -> Vec<VirtualServerId> {
        if self.queue.is_empty() {
            self.queue = self.since.keys().copied().collect();
        }
        let rest = self.queue.len().saturating_sub(SLICE_SIZE);
        let slice = self.queue.split_off(rest);
        if self.queue.is_empty() {
            self.next_poll = Instant::now() + POLL_INTERVAL;
        }
        slice
    }

    /// Returns the real servers of `server` whose drain ends at the time `now`. A real server that
    /// is missing in `connections` does not count as idle, because the kernel's list can be
    /// incomplete.
    pub(crate) fn due_to_end(
        &self,
        server: &VirtualServer,
        connections: &BTreeMap<SocketAddr, ConnectionCounts>,
        now: Instant,
    ) -> Vec<(SocketAddr, DrainEnd)> {
        let end = |(address, since): (&SocketAddr, &Instant)| {
            let count = connections.get(address);
            if count.is_some_and(|count| count.active == 0) {
                Some((*address, DrainEnd::Idle))
            } else {
                let is_over = *since + server.drain_timeout <= now;
                is_over.then_some((*address, DrainEnd::Deadline))
            }
        };
        let draining = self.since.get(&server.id);
        draining.into_iter().flatten().filter_map(end).collect()
    }

    /// Returns the draining real servers of a virtual server that have failed their health check.
    pub(crate) fn failed(
        &self,
        server: &VirtualServer,
        health: impl Fn(&RealServer) -> Health,
    ) -> Vec<(SocketAddr, DrainEnd)> {
        let draining = self.since.get(&server.id);
        let has_failed = |address: &&SocketAddr| {
            let real_server = draining_real_server(**address, Weight::QUIESCED);
            health(&real_server) == Health::Failed
        };
        (draining.into_iter().flat_map(BTreeMap::keys))
            .filter(has_failed)
            .map(|address| (*address, DrainEnd::Failed))
            .collect()
    }

    pub(crate) fn end(&mut self, id: &VirtualServerId, address: SocketAddr, end: DrainEnd) {
        if let Some(draining) = self.since.get_mut(id) {
            draining.remove(&address);
            if draining.is_empty() {
                self.since.remove(id);
            }
        }
        self.report_end(id, address, end);
    }

    fn report_end(&self, id: &VirtualServerId, address: SocketAddr, end: DrainEnd) {
        let outcome = match end {
            DrainEnd::Idle => "idle",
            DrainEnd::Failed => "failed",
            DrainEnd::Deadline => "deadline",
            DrainEnd::Listed => "listed",
            DrainEnd::Removed => "removed",
        };
        tracing::info!(
            virtual_server = %id,
            real_server = %address,
            outcome,
            "ended the drain of a real server"
        );
        self.metrics
            .drained_real_servers
            .get_or_create(&vec![("outcome", outcome.to_owned())])
            .inc();
    }
}

/// Reports whether a quiesced real server can keep its connections without harm, for a drain
/// timeout above 0. UDP has no connections: the next datagram goes to another real server. A
/// hashing scheduler without fallback drops every new connection whose hash selects the quiesced
/// real server.
fn keeps_connections(server: &VirtualServer) -> bool {
    let has_connections = match server.id.protocol {
        Protocol::Tcp | Protocol::Sctp => true,
        Protocol::Udp => false,
    };
    let avoids_quiesced = match server.scheduler {
        Scheduler::Sh(flags) | Scheduler::Mh(flags) => flags.fallback,
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq => true,
    };
    has_connections && avoids_quiesced && !server.drain_timeout.is_zero()
}

fn draining_real_server(address: SocketAddr, weight: Weight) -> RealServer {
    RealServer {
        address: address.ip(),
        port: NonZeroU16::new(address.port()),
        weight,
        state: RealServerState::Draining,
        history: RealServerHistory::default(),
    }
}

#[cfg(test)]
mod tests;
