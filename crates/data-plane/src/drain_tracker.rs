//! Real servers that the desired set does not list any longer: they stay in the table, quiesced,
//! until their last connection has ended, they fail their health check, or their virtual server's
//! drain timeout is over. A connection that is left then is reset at its next packet (`expire_nodest_conn`).

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
    forwarder::{Connections, Observation},
    health_check::Health,
    metrics::DataPlaneMetrics,
};

/// How often connections are counted: the kernel does not report when the last one has ended.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Virtual servers whose connections are counted before the owner turns to other events.
const SLICE: usize = 32;

/// Draining real servers that the desired set does not list.
#[derive(Debug)]
pub(crate) struct DrainTracker {
    /// Since when each drains, by its address in the kernel's table.
    since: BTreeMap<VirtualServerId, BTreeMap<SocketAddr, Instant>>,
    next_poll: Instant,
    /// Virtual servers that are left to count in this round.
    queue: Vec<VirtualServerId>,
    metrics: DataPlaneMetrics,
}

/// What ends a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainEnd {
    /// Its last connection has ended.
    Idle,
    /// Its health check has failed.
    Failed,
    /// The drain timeout is over.
    Deadline,
    /// It is listed again.
    Listed,
    /// Its virtual server is gone, or has no place for it.
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

    /// Returns when connections are to be counted.
    pub(crate) async fn due(&self) {
        if self.queue.is_empty() {
            sleep_until(self.next_poll).await;
        }
    }

    /// Adds to a virtual server what the forwarder holds for it beyond its real servers, unless it
    /// has failed or has no place there. Each keeps the weight that it has in `former`, the virtual
    /// server before this change, since `mh` and `sh` place it by that weight. The drain timeout of
    /// a real server from an earlier run starts again.
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
        let held = observation.is_owned.then_some(&observation.weights);
        let held = held.into_iter().flat_map(BTreeMap::keys);
        // What drains already may be there, too, where the kernel could not be read back.
        let candidates: BTreeSet<SocketAddr> = (held.chain(before.keys()))
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
            let weight = configured.map(|it| it.weight).or_else(|| {
                let weight = observation.weights.get(&address)?;
                Some(Weight(u16::try_from(*weight).ok()?))
            });
            let weight = weight.unwrap_or(Weight::QUIESCED);
            let real_server = RealServer {
                history: configured.map(|it| it.history).unwrap_or_default(),
                ..draining_real_server(address, weight)
            };
            // The kernel would refuse the whole entry for one that has no place in it.
            // A virtual server has a bounded number of places, which listed real servers get first.
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
                    "a real server is not listed any longer and drains"
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

    /// Ends the drains of a virtual server that is gone: its address is not accepted.
    pub(crate) fn forget(&mut self, id: &VirtualServerId) {
        for address in self.since.remove(id).unwrap_or_default().keys() {
            self.report_end(id, *address, DrainEnd::Removed);
        }
    }

    /// The virtual server without what [`DrainTracker::retain_draining`] added.
    pub(crate) fn listed(&self, server: &VirtualServer) -> VirtualServer {
        let mut listed = server.clone();
        if let Some(draining) = self.since.get(&server.id) {
            listed
                .real_servers
                .retain(|real_server| !draining.contains_key(&server.table_address(real_server)));
        }
        listed
    }

    /// Shows how many there are.
    pub(crate) fn show(&self) {
        let count = self.since.values().map(BTreeMap::len).sum::<usize>();
        self.metrics
            .draining_real_servers
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The virtual servers whose connections are to be counted next.
    pub(crate) fn next_slice(&mut self) -> Vec<VirtualServerId> {
        if self.queue.is_empty() {
            self.queue = self.since.keys().copied().collect();
        }
        let rest = self.queue.len().saturating_sub(SLICE);
        let slice = self.queue.split_off(rest);
        if self.queue.is_empty() {
            self.next_poll = Instant::now() + POLL_INTERVAL;
        }
        slice
    }

    /// Returns the real servers of a virtual server whose drain ends now. A real server that is not
    /// among the `connections` is not known to have none: a dump may miss some.
    pub(crate) fn due_to_end(
        &self,
        server: &VirtualServer,
        connections: &BTreeMap<SocketAddr, Connections>,
        now: Instant,
    ) -> Vec<(SocketAddr, DrainEnd)> {
        let end = |(address, since): (&SocketAddr, &Instant)| {
            let found = connections.get(address);
            if found.is_some_and(|count| count.active == 0) {
                Some((*address, DrainEnd::Idle))
            } else {
                let is_over = *since + server.drain_timeout <= now;
                is_over.then_some((*address, DrainEnd::Deadline))
            }
        };
        let draining = self.since.get(&server.id);
        draining.into_iter().flatten().filter_map(end).collect()
    }

    /// Returns the real servers of a virtual server that drain and have failed their health check.
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

    /// Ends one drain.
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
            "the drain of a real server has ended"
        );
        self.metrics
            .drained_real_servers
            .get_or_create(&vec![("outcome", outcome.to_owned())])
            .inc();
    }
}

/// UDP has no connections: the next datagram goes to another real server. And a hashing scheduler
/// without fallback drops every new connection that hashes to a quiesced one.
fn keeps_connections(server: &VirtualServer) -> bool {
    let has_connections = match server.id.protocol {
        Protocol::Tcp | Protocol::Sctp => true,
        Protocol::Udp => false,
    };
    let goes_round_it = match server.scheduler {
        Scheduler::Sh(flags) | Scheduler::Mh(flags) => flags.fallback,
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq => true,
    };
    has_connections && goes_round_it && !server.drain_timeout.is_zero()
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
