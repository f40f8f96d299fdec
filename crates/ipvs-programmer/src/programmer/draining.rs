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
    Entry, Protocol, RealServer, RealServerState, Scheduler, VirtualServer, VirtualServerId, Weight,
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
    /// Since when each drains.
    since: BTreeMap<VirtualServerId, BTreeMap<SocketAddr, Instant>>,
    next_look: Instant,
    /// Virtual servers that this look has still to come to.
    queue: Vec<VirtualServerId>,
    metrics: ProgrammerMetrics,
}

/// What ends a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its last connection has ended.
    Idle,
    /// Its health check has failed.
    Failed,
    /// The drain timeout is over.
    Deadline,
    /// It is listed again.
    Listed,
    /// Its virtual server is gone, or has no place for it any more.
    Removed,
}

impl Draining {
    pub(super) fn new(metrics: ProgrammerMetrics) -> Self {
        Self {
            since: BTreeMap::new(),
            next_look: Instant::now(),
            queue: Vec::new(),
            metrics,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Returns when connections are to be counted.
    pub(super) async fn due(&self) {
        if self.queue.is_empty() {
            sleep_until(self.next_look).await;
        }
    }

    /// Adds to a virtual server what the table holds for it beyond its real servers, unless it has
    /// failed or has no place there. Each keeps the weight that it has in `former`, the virtual
    /// server before this change, since `mh` and `sh` place it by that weight. The
    /// drain timeout of a real server from an earlier run starts again.
    pub(super) fn keep(
        &mut self,
        server: &mut VirtualServer,
        former: Option<&VirtualServer>,
        actual: Option<&Entry>,
        health: impl Fn(&VirtualServer, &RealServer) -> Health,
        now: Instant,
    ) {
        let before = self.since.remove(&server.id).unwrap_or_default();
        let listed: BTreeSet<SocketAddr> = (server.real_servers.iter())
            .map(|real_server| table_address(server, real_server))
            .collect();
        let found = actual.filter(|entry| entry.settings.owned);
        let found = found
            .into_iter()
            .flat_map(|entry| entry.real_servers.keys());
        // What drains already may be there, too, where the table could not be read back.
        let candidates: BTreeSet<SocketAddr> = (found.chain(before.keys()))
            .filter(|address| !listed.contains(address))
            .copied()
            .collect();
        let configured: BTreeMap<SocketAddr, Weight> = former
            .into_iter()
            .flat_map(|former| {
                let real_servers = former.real_servers.iter();
                real_servers
                    .map(|real_server| (table_address(former, real_server), real_server.weight))
            })
            .filter(|(address, _)| candidates.contains(address))
            .collect();
        let mut since = BTreeMap::new();
        for address in candidates {
            let found = || actual.and_then(|entry| entry.real_servers.get(&address));
            let weight = configured.get(&address).copied().or_else(|| {
                let weight = u16::try_from(found()?.weight).ok()?;
                Some(Weight(weight))
            });
            let weight = weight.unwrap_or(Weight::QUIESCED);
            let real_server = draining_real_server(address, weight);
            // The kernel would refuse the whole entry for one that has no place in it.
            // A virtual server has a bounded number of places, which listed real servers get first.
            let has_place = server.real_servers.len() < server.scheduler.most_real_servers();
            let is_kept = has_place
                && keeps_connections(server)
                && server.validate_real_server(&real_server).is_ok()
                && health(server, &real_server) != Health::Failed;
            if !is_kept {
                continue;
            }
            if !before.contains_key(&address) {
                tracing::info!(
                    virtual_server = %server.id,
                    real_server = %address,
                    timeout = ?server.drain_timeout,
                    "a real server is listed no more and drains"
                );
            }
            since.insert(address, before.get(&address).copied().unwrap_or(now));
            server.real_servers.push(real_server);
        }
        for address in before.keys().filter(|address| !since.contains_key(address)) {
            let is_listed = listed.contains(address);
            let end = if is_listed { End::Listed } else { End::Removed };
            self.ended(&server.id, *address, end);
        }
        if !since.is_empty() {
            server.sort_real_servers();
            self.since.insert(server.id, since);
        }
    }

    /// A virtual server that is gone keeps nothing: its address is not accepted any more.
    pub(super) fn forget(&mut self, id: &VirtualServerId) {
        for address in self.since.remove(id).unwrap_or_default().keys() {
            self.ended(id, *address, End::Removed);
        }
    }

    /// The virtual server without what [`Draining::keep`] added.
    pub(super) fn listed(&self, server: &VirtualServer) -> VirtualServer {
        let mut listed = server.clone();
        if let Some(draining) = self.since.get(&server.id) {
            listed
                .real_servers
                .retain(|real_server| !draining.contains_key(&table_address(server, real_server)));
        }
        listed
    }

    /// Shows how many there are.
    pub(super) fn show(&self) {
        let count = self.since.values().map(BTreeMap::len).sum::<usize>();
        self.metrics
            .draining_real_servers
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The virtual servers whose connections are to be counted next.
    fn next_slice(&mut self) -> Vec<VirtualServerId> {
        if self.queue.is_empty() {
            self.queue = self.since.keys().copied().collect();
        }
        let rest = self.queue.len().saturating_sub(SLICE);
        let slice = self.queue.split_off(rest);
        if self.queue.is_empty() {
            self.next_look = Instant::now() + LOOK_INTERVAL;
        }
        slice
    }

    /// Those of a virtual server whose drain ends now. A real server that is not among the
    /// `connections` is not known to have none: a dump may miss some.
    fn due_to_end(
        &self,
        server: &VirtualServer,
        connections: &BTreeMap<SocketAddr, Connections>,
        now: Instant,
    ) -> Vec<(SocketAddr, End)> {
        let end = |(address, since): (&SocketAddr, &Instant)| {
            let found = connections.get(address);
            if found.is_some_and(|count| count.active == 0) {
                Some((*address, End::Idle))
            } else {
                let is_over = *since + server.drain_timeout <= now;
                is_over.then_some((*address, End::Deadline))
            }
        };
        let draining = self.since.get(&server.id);
        draining.into_iter().flatten().filter_map(end).collect()
    }

    fn end(&mut self, id: &VirtualServerId, address: SocketAddr, end: End) {
        if let Some(draining) = self.since.get_mut(id) {
            draining.remove(&address);
            if draining.is_empty() {
                self.since.remove(id);
            }
        }
        self.ended(id, address, end);
    }

    fn ended(&self, id: &VirtualServerId, address: SocketAddr, end: End) {
        let outcome = match end {
            End::Idle => "idle",
            End::Failed => "failed",
            End::Deadline => "deadline",
            End::Listed => "listed",
            End::Removed => "removed",
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
        let errors = read
            .iter()
            .filter_map(|(id, read)| Some((id, read.as_ref().err()?)));
        if let Some((id, error)) = errors.clone().next() {
            tracing::warn!(
                virtual_server = %id,
                more = errors.count() - 1,
                error = in_words(error),
                "connections could not be counted"
            );
        }
        let now = Instant::now();
        for (id, connections) in read {
            let server = self
                .desired
                .as_ref()
                .and_then(|set| set.virtual_servers.get(&id));
            let Some(server) = server else { continue };
            let connections = connections.unwrap_or_default();
            let ended = self.draining.due_to_end(server, &connections, now);
            self.end_drains(id, &ended, turn);
        }
    }

    /// Takes out of these virtual servers what drains and has failed its check.
    pub(super) fn end_failed_drains(&mut self, turn: &mut Turn) {
        if self.draining.is_empty() {
            return;
        }
        for id in turn.virtual_servers.clone() {
            let server = self
                .desired
                .as_ref()
                .and_then(|set| set.virtual_servers.get(&id));
            let (Some(server), Some(draining)) = (server, self.draining.since.get(&id)) else {
                continue;
            };
            let has_failed = |address: &&SocketAddr| {
                let real_server = draining_real_server(**address, Weight::QUIESCED);
                self.checks.state(server, &real_server).health == Health::Failed
            };
            let failed: Vec<_> = (draining.keys().filter(has_failed))
                .map(|address| (*address, End::Failed))
                .collect();
            self.end_drains(id, &failed, turn);
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
        server.real_servers.retain(|real_server| {
            let address = table_address(&before, real_server);
            ended.iter().all(|(ended, _)| *ended != address)
        });
        self.checks.set(Some(&before), Some(server));
        for (address, end) in ended {
            self.draining.end(&id, *address, *end);
        }
        turn.virtual_servers.insert(id);
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
        Scheduler::Sh { fallback, .. } | Scheduler::Mh { fallback, .. } => fallback,
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

    fn draining() -> Draining {
        let daemon = daemon_runtime::Daemon::new("ipvs-programmer");
        Draining::new(ProgrammerMetrics::register(daemon.metrics()))
    }

    fn in_table(server: &VirtualServer) -> Entry {
        desired_table::entry(server, |_| Health::Healthy, None)
    }

    fn without_real_servers(server: &VirtualServer) -> VirtualServer {
        VirtualServer {
            real_servers: Vec::new(),
            ..server.clone()
        }
    }

    /// How many of the real servers of `before` drain when `after` lists none.
    fn check(before: &VirtualServer, after: &VirtualServer, health: Health, expected: usize) {
        let mut after = without_real_servers(after);
        let mut draining = draining();
        draining.keep(
            &mut after,
            Some(before),
            Some(&in_table(before)),
            |_, _| health,
            Instant::now(),
        );
        assert_eq!(after.real_servers.len(), expected, "{after:?}");
        let weights = |server: &VirtualServer| -> Vec<Weight> {
            let real_servers = server.real_servers.iter();
            real_servers.map(|real_server| real_server.weight).collect()
        };
        if expected > 0 {
            assert_eq!(weights(&after), weights(before));
        }
        assert_eq!(draining.listed(&after).real_servers, []);
        assert_eq!(draining.is_empty(), expected == 0);
    }

    #[test]
    fn what_is_listed_no_more_drains_where_it_can() {
        let server = server("tcp", ForwardingMethod::Masquerade);
        let count = server.real_servers.len();
        check(&server, &server, Health::Healthy, count);
        check(&server, &server, Health::Unchecked, count);
        check(&server, &server, Health::Failed, 0);
        let change = |change: fn(&mut VirtualServer)| {
            let mut server = server.clone();
            change(&mut server);
            server
        };
        let sctp = change(|server| server.id.protocol = Protocol::Sctp);
        check(&sctp, &sctp, Health::Healthy, count);
        let udp = change(|server| server.id.protocol = Protocol::Udp);
        check(&udp, &udp, Health::Healthy, 0);
        let at_once = change(|server| server.drain_timeout = Duration::ZERO);
        check(&server, &at_once, Health::Healthy, 0);
        let port = false;
        let without_fallback = VirtualServer {
            scheduler: Scheduler::Mh {
                fallback: false,
                port,
            },
            ..server.clone()
        };
        check(&server, &without_fallback, Health::Healthy, 0);
    }

    #[test]
    fn what_another_forwarding_method_cannot_reach_does_not_hold_it_up() {
        let mut masquerade = server("tcp", ForwardingMethod::Masquerade);
        for real_server in &mut masquerade.real_servers {
            real_server.port = NonZeroU16::new(8080);
        }
        let tunnel = server("tcp", ForwardingMethod::default());
        check(&masquerade, &tunnel, Health::Healthy, 0);
    }

    #[test]
    fn an_entry_of_another_program_drains_nothing() {
        let server = server("tcp", ForwardingMethod::default());
        let mut foreign = in_table(&server);
        foreign.settings.owned = false;
        let mut draining = draining();
        let mut after = without_real_servers(&server);
        draining.keep(
            &mut after,
            None,
            Some(&foreign),
            |_, _| Health::Healthy,
            Instant::now(),
        );
        assert!(draining.is_empty());
    }

    #[test]
    fn a_drain_ends_without_connections_or_at_its_timeout_however_often_the_set_is_told() {
        let server = server("tcp", ForwardingMethod::default());
        let timeout = server.drain_timeout;
        let mut draining = draining();
        let begin = Instant::now();
        // The table could not be read back meanwhile.
        let told = [
            (Some(in_table(&server)), begin),
            (None, begin + timeout / 2),
        ];
        let mut after = server.clone();
        for (actual, now) in told {
            after = without_real_servers(&server);
            draining.keep(
                &mut after,
                None,
                actual.as_ref(),
                |_, _| Health::Healthy,
                now,
            );
            assert_eq!(after.real_servers.len(), server.real_servers.len());
        }
        let addresses: Vec<SocketAddr> = in_table(&server).real_servers.into_keys().collect();
        let counted = |active| Connections {
            active,
            inactive: 1,
        };
        // The dump has missed the last one.
        let found = [(addresses[0], counted(0)), (addresses[1], counted(1))].into();
        let soon = begin + timeout - Duration::from_secs(1);
        assert_eq!(
            draining.due_to_end(&after, &found, soon),
            [(addresses[0], End::Idle)]
        );
        let ends: Vec<End> = (draining
            .due_to_end(&after, &found, begin + timeout)
            .into_iter())
        .map(|(_, end)| end)
        .collect();
        assert_eq!(ends, [End::Idle, End::Deadline, End::Deadline]);

        after.drain_timeout = timeout * 2;
        assert_eq!(
            draining.due_to_end(&after, &found, begin + timeout).len(),
            1
        );
    }
}
