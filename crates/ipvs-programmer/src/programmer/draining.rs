//! Real servers that the desired set lists no more: they stay in the table, quiesced, until their
//! last connection has ended, they fail their health check, or their virtual server's drain timeout
//! is over. A connection that is left then is reset at its next packet (`expire_nodest_conn`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU16,
    time::Duration,
};

use daemon_runtime::in_words;
use tokio::time::{Instant, sleep_until};
use virtual_server::{
    Entry, Protocol, RealServer, RealServerState, VirtualServer, VirtualServerId, Weight,
};

use super::{Programmer, Turn};
use crate::{
    desired_table::table_address, health::Health, marks, metrics::ProgrammerMetrics,
    translate::Connections,
};

/// How often connections are counted: nobody tells when the last one has ended.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Entries that are read between two looks at what else there is to do.
const SLICE: usize = 32;

/// Real servers in the table that are listed no more.
#[derive(Debug)]
pub(super) struct Draining {
    /// When they leave at the latest.
    deadlines: BTreeMap<VirtualServerId, BTreeMap<SocketAddr, Instant>>,
    next_look: Instant,
    /// Virtual servers that this look has still to come to.
    queue: Vec<VirtualServerId>,
    metrics: ProgrammerMetrics,
}

/// What ends a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Idle,
    Failed,
    Deadline,
}

impl Draining {
    pub(super) fn new(metrics: ProgrammerMetrics) -> Self {
        Self {
            deadlines: BTreeMap::new(),
            next_look: Instant::now(),
            queue: Vec::new(),
            metrics,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// Returns when connections are to be counted.
    pub(super) async fn due(&self) {
        if self.queue.is_empty() {
            sleep_until(self.next_look).await;
        }
    }

    /// Adds to a virtual server what the table holds for it beyond its real servers, unless it has
    /// failed or has no place there. What an earlier run of the daemon left behind begins its time anew.
    pub(super) fn keep(
        &mut self,
        server: &mut VirtualServer,
        actual: Option<&Entry>,
        health: impl Fn(&VirtualServer, &RealServer) -> Health,
        now: Instant,
    ) {
        let before = self.deadlines.remove(&server.id).unwrap_or_default();
        let actual = actual.filter(|entry| entry.settings.owned && keeps_connections(server));
        if let Some(entry) = actual {
            let listed: BTreeSet<SocketAddr> = (server.real_servers.iter())
                .map(|real_server| table_address(server, real_server))
                .collect();
            let deadline = now + server.drain_timeout;
            let mut deadlines = BTreeMap::new();
            let found = entry.real_servers.keys();
            for address in found.filter(|address| !listed.contains(address)) {
                let real_server = draining_real_server(*address);
                // Another forwarding method may have no place for it, and the kernel would refuse all.
                let has_place = server.validate_real_server(&real_server).is_ok();
                let has_failed = health(server, &real_server) == Health::Failed;
                if !has_place || has_failed {
                    continue;
                }
                if !before.contains_key(address) {
                    tracing::info!(
                        virtual_server = %server.id,
                        real_server = %address,
                        timeout = ?server.drain_timeout,
                        "a real server is listed no more and drains"
                    );
                }
                let given = before.get(address).copied().unwrap_or(deadline);
                deadlines.insert(*address, given.min(deadline));
                server.real_servers.push(real_server);
            }
            if !deadlines.is_empty() {
                server.sort_real_servers();
                self.deadlines.insert(server.id, deadlines);
            }
        }
        self.count();
    }

    /// A virtual server that is gone keeps nothing: its address is not accepted any more.
    pub(super) fn forget(&mut self, id: &VirtualServerId) {
        self.deadlines.remove(id);
        self.count();
    }

    /// The virtual server without what [`Draining::keep`] added.
    pub(super) fn listed(&self, server: &VirtualServer) -> VirtualServer {
        let mut listed = server.clone();
        if let Some(draining) = self.deadlines.get(&server.id) {
            listed
                .real_servers
                .retain(|real_server| !draining.contains_key(&table_address(server, real_server)));
        }
        listed
    }

    /// The virtual servers whose connections are to be counted next.
    fn next_slice(&mut self) -> Vec<VirtualServerId> {
        if self.queue.is_empty() {
            self.queue = self.deadlines.keys().rev().copied().collect();
            self.next_look = Instant::now() + LOOK_INTERVAL;
        }
        let rest = self.queue.len().saturating_sub(SLICE);
        self.queue.split_off(rest)
    }

    /// Those of a virtual server whose drain ends now. `connections` is `None` where the kernel
    /// could not be asked.
    fn ended(
        &self,
        id: &VirtualServerId,
        connections: Option<&BTreeMap<SocketAddr, Connections>>,
        now: Instant,
    ) -> Vec<(SocketAddr, End)> {
        let is_idle = |address: &SocketAddr| {
            connections
                .is_some_and(|found| found.get(address).is_none_or(|count| count.active == 0))
        };
        let end = |(address, deadline): (&SocketAddr, &Instant)| {
            if is_idle(address) {
                Some((*address, End::Idle))
            } else {
                (*deadline <= now).then_some((*address, End::Deadline))
            }
        };
        let deadlines = self.deadlines.get(id);
        deadlines.into_iter().flatten().filter_map(end).collect()
    }

    fn end(&mut self, id: &VirtualServerId, address: SocketAddr, end: End) {
        if let Some(deadlines) = self.deadlines.get_mut(id) {
            deadlines.remove(&address);
            if deadlines.is_empty() {
                self.deadlines.remove(id);
            }
        }
        let outcome = match end {
            End::Idle => "idle",
            End::Failed => "failed",
            End::Deadline => "deadline",
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
        self.count();
    }

    fn count(&self) {
        let count = self.deadlines.values().map(BTreeMap::len).sum::<usize>();
        self.metrics
            .draining_real_servers
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Programmer {
    /// Counts the connections of one slice, and takes out whoever has none left or no time left.
    pub(super) async fn look_at_draining(&mut self, turn: &mut Turn) {
        let keys: Vec<_> = (self.draining.next_slice().into_iter())
            .filter_map(|id| Some((id, marks::entry_key(&id, self.marks.get(&id).copied())?)))
            .collect();
        let read = self
            .kernel
            .call(move |kernel| -> Vec<_> {
                let read = |(id, key)| (id, kernel.read_connections(key));
                keys.into_iter().map(read).collect()
            })
            .await;
        let now = Instant::now();
        for (id, connections) in read {
            if let Err(error) = &connections {
                tracing::warn!(error = in_words(error), "connections could not be counted");
            }
            let ended = self.draining.ended(&id, connections.as_ref().ok(), now);
            self.end_drains(id, &ended, turn);
        }
    }

    /// Takes out of these virtual servers what drains and has failed its check.
    pub(super) fn end_failed_drains(&mut self, turn: &mut Turn) {
        let mut failed = Vec::new();
        for id in &turn.virtual_servers {
            let desired = self.desired.as_ref();
            let server = desired.and_then(|desired| desired.virtual_servers.get(id));
            let (Some(server), Some(draining)) = (server, self.draining.deadlines.get(id)) else {
                continue;
            };
            let has_failed = |address: &&SocketAddr| {
                let real_server = draining_real_server(**address);
                self.checks.state(server, &real_server).health == Health::Failed
            };
            let addresses = draining.keys().filter(has_failed);
            failed.push((
                *id,
                addresses.map(|a| (*a, End::Failed)).collect::<Vec<_>>(),
            ));
        }
        for (id, ended) in failed {
            self.end_drains(id, &ended, turn);
        }
    }

    fn end_drains(&mut self, id: VirtualServerId, ended: &[(SocketAddr, End)], turn: &mut Turn) {
        let desired = self.desired.as_mut();
        let Some(server) = desired.and_then(|desired| desired.virtual_servers.get_mut(&id)) else {
            return;
        };
        if ended.is_empty() {
            return;
        }
        let before = server.clone();
        let gone = |real_server: &RealServer| {
            let address = table_address(&before, real_server);
            ended.iter().any(|(ended, _)| *ended == address)
        };
        server.real_servers.retain(|real_server| !gone(real_server));
        self.checks.set(Some(&before), Some(server));
        for (address, end) in ended {
            self.draining.end(&id, *address, *end);
        }
        turn.virtual_servers.insert(id);
    }
}

/// UDP has no connections: the next datagram goes to another real server.
fn keeps_connections(server: &VirtualServer) -> bool {
    match server.id.protocol {
        Protocol::Tcp | Protocol::Sctp => !server.drain_timeout.is_zero(),
        Protocol::Udp => false,
    }
}

fn draining_real_server(address: SocketAddr) -> RealServer {
    RealServer {
        address: address.ip(),
        port: NonZeroU16::new(address.port()),
        weight: Weight::QUIESCED,
        state: RealServerState::Draining,
    }
}

#[cfg(test)]
mod tests {
    use virtual_server::ForwardingMethod;

    use super::*;
    use crate::{desired_table, testing::virtual_server};

    const ADDRESS: &str = "10.1.1.10";

    fn server(protocol: &str, method: ForwardingMethod) -> VirtualServer {
        virtual_server(&format!("{protocol}/{ADDRESS}:80"), method)
    }

    /// How many of the real servers of `before` drain when `after` lists none.
    fn check(before: &VirtualServer, mut after: VirtualServer, health: Health, expected: usize) {
        after.real_servers.clear();
        let actual = desired_table::entry(before, |_| Health::Healthy, None);
        let daemon = daemon_runtime::Daemon::new("ipvs-programmer");
        let mut draining = Draining::new(ProgrammerMetrics::register(daemon.metrics()));
        let now = Instant::now();
        draining.keep(&mut after, Some(&actual), |_, _| health, now);
        assert_eq!(after.real_servers.len(), expected, "{after:?}");
        assert_eq!(draining.listed(&after).real_servers, []);
        assert_eq!(draining.is_empty(), expected == 0);

        let late = now + after.drain_timeout;
        let ended = draining.ended(&after.id, None, late);
        assert!(ended.iter().all(|(_, end)| *end == End::Deadline));
        assert_eq!(ended.len(), expected);
        assert_eq!(draining.ended(&after.id, None, now), []);
        let none = BTreeMap::new();
        let ended = draining.ended(&after.id, Some(&none), now);
        assert_eq!(ended.len(), expected, "what has no connections is idle");
    }

    #[test]
    fn what_is_listed_no_more_drains_where_it_can() {
        let masquerade = server("tcp", ForwardingMethod::Masquerade);
        let count = masquerade.real_servers.len();
        check(&masquerade, masquerade.clone(), Health::Healthy, count);
        check(&masquerade, masquerade.clone(), Health::Unchecked, count);
        check(&masquerade, masquerade.clone(), Health::Failed, 0);
        let udp = server("udp", ForwardingMethod::Masquerade);
        check(&udp, udp.clone(), Health::Healthy, 0);
    }

    #[test]
    fn what_another_forwarding_method_cannot_reach_does_not_hold_it_up() {
        let mut masquerade = server("tcp", ForwardingMethod::Masquerade);
        for real_server in &mut masquerade.real_servers {
            real_server.port = NonZeroU16::new(8080);
        }
        let tunnel = server("tcp", ForwardingMethod::default());
        check(&masquerade, tunnel, Health::Healthy, 0);
    }
}
