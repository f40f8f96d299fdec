//! Target entries of the kernel's IPVS table.
//!
//! A target entry depends on the desired set and on the health of the real servers.

use std::{collections::BTreeMap, net::SocketAddr};

use data_plane::Health;
use virtual_server::{
    AddressFamily, EntryForwardingMethod, EntryKey, EntryScheduler, EntrySettings, FailureAction,
    Protocol, RealServer, RealServerEntry, RealServerState, Scheduler, TableEntry, VirtualServer,
};

use crate::marks::STANDING_MARK;

/// Returns the target entry of a virtual server. `actual` is the entry in the kernel's table. A
/// real server in `actual` that has not been checked yet stays in service (weight above 0) or out
/// of service (weight 0), so that a restarted daemon takes no real server out of service. A real
/// server that is not in `actual` gets no connections before its first check.
pub fn entry(
    virtual_server: &VirtualServer,
    health: impl Fn(&RealServer) -> Health,
    actual: Option<&TableEntry>,
) -> TableEntry {
    let mut real_servers = BTreeMap::new();
    for real_server in &virtual_server.real_servers {
        let address = virtual_server.table_address(real_server);
        let existing = actual.and_then(|entry| entry.real_servers.get(&address));
        let full = u32::from(real_server.weight.0);
        let draining = match real_server.state {
            RealServerState::Ready => false,
            RealServerState::Draining => true,
        };
        let out_of_service = match virtual_server.on_failure {
            FailureAction::Quiesce => Some(0),
            FailureAction::Remove => None,
        };
        let weight = match (health(real_server), existing) {
            (Health::Healthy, _) => Some(full),
            (Health::Unchecked, Some(existing)) if existing.weight > 0 => Some(full),
            (Health::Unchecked, Some(_)) => Some(0),
            (Health::Unchecked, None) | (Health::Failed, _) => out_of_service,
        };
        // A draining real server stays in the table with weight 0, also before its first check,
        // because it can have connections.
        let weight = if draining { weight.map(|_| 0) } else { weight };
        // The kernel sends all datagrams of one client port to one real server while the client
        // sends, even if the real server has weight 0. Only a removal moves this flow to another
        // real server.
        let weight = match virtual_server.id.protocol {
            Protocol::Udp => weight.filter(|weight| *weight > 0),
            Protocol::Tcp | Protocol::Sctp => weight,
        };
        if let Some(weight) = weight {
            let entry = RealServerEntry {
                weight,
                forwarding_method: EntryForwardingMethod::Known(virtual_server.forwarding_method),
                upper_threshold: 0,
                lower_threshold: 0,
            };
            real_servers.insert(address, entry);
        }
    }
    let settings = EntrySettings {
        owned: true,
        scheduler: EntryScheduler::Known(virtual_server.scheduler),
        persistence: virtual_server.persistence,
        one_packet: false,
    };
    TableEntry {
        settings,
        real_servers,
    }
}

/// Returns the configured weights of the real servers that have weight 0 in the entry. A scheduler
/// that hashes places real servers by these weights. Returns no weights for other schedulers.
pub fn placements(virtual_server: &VirtualServer, entry: &TableEntry) -> BTreeMap<SocketAddr, u32> {
    if !virtual_server.scheduler.is_hashing() {
        return BTreeMap::new();
    }
    let configured = virtual_server.real_servers.iter().map(|real_server| {
        let address = virtual_server.table_address(real_server);
        (address, u32::from(real_server.weight.0))
    });
    let is_quiesced = |address: &SocketAddr| {
        let in_entry = entry.real_servers.get(address);
        in_entry.is_some_and(|real_server| real_server.weight == 0)
    };
    configured
        .filter(|(address, weight)| *weight > 0 && is_quiesced(address))
        .collect()
}

/// Returns a standing entry: an entry with a firewall mark that no packet has. It keeps the IPVS
/// table from being empty. IPVS unregisters its hooks with its last entry, and the network stack of
/// the pod would then reset arriving connections.
pub fn standing_entry(family: AddressFamily) -> (EntryKey, TableEntry) {
    let settings = EntrySettings {
        owned: true,
        scheduler: EntryScheduler::Known(Scheduler::Rr),
        persistence: None,
        one_packet: false,
    };
    let key = EntryKey::FirewallMark {
        family,
        mark: STANDING_MARK,
    };
    (key, TableEntry::without_real_servers(settings))
}

#[cfg(test)]
mod tests {
    use data_plane_testbed::checked_virtual_server as virtual_server;
    use virtual_server::{ForwardingMethod, Weight};

    use super::*;

    fn real_server_entry(weight: u32) -> RealServerEntry {
        RealServerEntry {
            weight,
            forwarding_method: EntryForwardingMethod::Known(ForwardingMethod::DirectRouting),
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }

    /// Checks the weight of a real server with the configured weight 5. `expected` is the weight
    /// with TCP and SCTP; `None`: the real server is not in the table. With UDP, a real server with
    /// the expected weight 0 is not in the table.
    #[track_caller]
    fn check(
        on_failure: FailureAction,
        state: RealServerState,
        health: Health,
        in_table: Option<u32>,
        expected: Option<u32>,
    ) {
        for (protocol, expected) in [
            ("tcp", expected),
            ("sctp", expected),
            ("udp", expected.filter(|weight| *weight > 0)),
        ] {
            check_protocol(protocol, on_failure, (state, health), in_table, expected);
        }
    }

    #[track_caller]
    fn check_protocol(
        protocol: &str,
        on_failure: FailureAction,
        (state, health): (RealServerState, Health),
        in_table: Option<u32>,
        expected: Option<u32>,
    ) {
        let id = format!("{protocol}/10.1.1.10:80");
        let mut server = virtual_server(&id, ForwardingMethod::DirectRouting);
        server.on_failure = on_failure;
        server.real_servers.truncate(1);
        server.real_servers[0].weight = Weight(5);
        server.real_servers[0].state = state;
        let address = server.table_address(&server.real_servers[0]);
        let mut actual =
            TableEntry::without_real_servers(entry(&server, |_| Health::Healthy, None).settings);
        actual
            .real_servers
            .extend(in_table.map(|weight| (address, real_server_entry(weight))));
        let entry = entry(&server, |_| health, Some(&actual));
        assert_eq!(
            entry
                .real_servers
                .get(&address)
                .map(|real_server| real_server.weight),
            expected,
            "{protocol} {on_failure:?} {state:?} {health:?} {in_table:?}"
        );
    }

    #[test]
    fn the_weight_of_a_real_server_depends_on_its_health_and_its_state() {
        use FailureAction::{Quiesce, Remove};
        use Health::{Failed, Healthy};
        use RealServerState::{Draining, Ready};
        for in_table in [None, Some(0), Some(9)] {
            check(Quiesce, Ready, Healthy, in_table, Some(5));
            check(Quiesce, Draining, Healthy, in_table, Some(0));
            check(Quiesce, Ready, Failed, in_table, Some(0));
            check(Remove, Ready, Failed, in_table, None);
            check(Remove, Draining, Healthy, in_table, Some(0));
        }
    }

    #[test]
    fn a_scheduler_that_hashes_places_quiesced_real_servers_by_their_configured_weight() {
        let mut server = virtual_server("tcp/10.1.1.10:80", ForwardingMethod::DirectRouting);
        server.scheduler = Scheduler::MH_DEFAULT;
        server.real_servers.truncate(3);
        for (real_server, weight) in server.real_servers.iter_mut().zip([5, 6, 0]) {
            real_server.weight = Weight(weight);
        }
        server.real_servers[0].state = RealServerState::Draining;
        let address = server.table_address(&server.real_servers[0]);
        let table = entry(&server, |_| Health::Healthy, None);
        assert_eq!(placements(&server, &table), [(address, 5)].into());
        server.scheduler = Scheduler::Rr;
        assert_eq!(placements(&server, &table), BTreeMap::new());
    }

    #[test]
    fn a_udp_real_server_with_configured_weight_0_is_not_in_the_table() {
        let mut server = virtual_server("udp/10.1.1.10:80", ForwardingMethod::DirectRouting);
        server.real_servers[0].weight = Weight::QUIESCED;
        let count = server.real_servers.len();
        let entry = entry(&server, |_| Health::Healthy, None);
        assert_eq!(entry.real_servers.len(), count - 1);
    }

    #[test]
    fn an_unchecked_real_server_stays_in_or_out_of_service_and_a_new_real_server_waits_for_its_check()
     {
        use FailureAction::{Quiesce, Remove};
        use RealServerState::{Draining, Ready};
        for on_failure in [Quiesce, Remove] {
            check(on_failure, Ready, Health::Unchecked, Some(9), Some(5));
            check(on_failure, Ready, Health::Unchecked, Some(0), Some(0));
            check(on_failure, Draining, Health::Unchecked, Some(9), Some(0));
        }
        check(Quiesce, Ready, Health::Unchecked, None, Some(0));
        check(Remove, Ready, Health::Unchecked, None, None);
    }
}
