use data_plane_testbed::checked_virtual_server as virtual_server;
use virtual_server::{ForwardingMethod, SchedulerFlags};

use super::*;

const ADDRESS: &str = "10.1.1.10";

fn server(protocol: &str, method: ForwardingMethod) -> VirtualServer {
    virtual_server(&format!("{protocol}/{ADDRESS}:80"), method)
}

fn tracker() -> DrainTracker {
    DrainTracker::new(DataPlaneMetrics::default())
}

fn in_table(server: &VirtualServer) -> Observation {
    let weights = server.real_servers.iter().map(|real_server| {
        let weight = u32::from(real_server.weight.0);
        (server.table_address(real_server), weight)
    });
    Observation {
        is_owned: true,
        weights: weights.collect(),
        ..Observation::default()
    }
}

fn without_real_servers(server: &VirtualServer) -> VirtualServer {
    VirtualServer {
        real_servers: Vec::new(),
        ..server.clone()
    }
}

/// Checks how many real servers of `before` drain after the desired set lists none of them.
fn assert_drains(before: &VirtualServer, after: &VirtualServer, health: Health, expected: usize) {
    let mut after = without_real_servers(after);
    let mut drains = tracker();
    drains.retain_draining(
        &mut after,
        Some(before),
        &in_table(before),
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
    assert_eq!(drains.listed(&after).real_servers, []);
    assert_eq!(drains.is_empty(), expected == 0);
}

#[test]
fn a_real_server_that_is_no_longer_listed_drains_only_if_its_connections_can_be_kept() {
    let server = server("tcp", ForwardingMethod::Masquerade);
    let count = server.real_servers.len();
    assert_drains(&server, &server, Health::Healthy, count);
    assert_drains(&server, &server, Health::Unchecked, count);
    assert_drains(&server, &server, Health::Failed, 0);
    let change = |change: fn(&mut VirtualServer)| {
        let mut server = server.clone();
        change(&mut server);
        server
    };
    let sctp = change(|server| server.id.protocol = Protocol::Sctp);
    assert_drains(&sctp, &sctp, Health::Healthy, count);
    let udp = change(|server| server.id.protocol = Protocol::Udp);
    assert_drains(&udp, &udp, Health::Healthy, 0);
    let without_timeout = change(|server| server.drain_timeout = Duration::ZERO);
    assert_drains(&server, &without_timeout, Health::Healthy, 0);
    let port = false;
    let without_fallback = VirtualServer {
        scheduler: Scheduler::Mh(SchedulerFlags {
            fallback: false,
            port,
        }),
        ..server.clone()
    };
    assert_drains(&server, &without_fallback, Health::Healthy, 0);
}

#[test]
fn a_real_server_that_the_new_forwarding_method_cannot_reach_does_not_drain() {
    let mut masquerade = server("tcp", ForwardingMethod::Masquerade);
    for real_server in &mut masquerade.real_servers {
        real_server.port = NonZeroU16::new(8080);
    }
    let tunnel = server("tcp", ForwardingMethod::default());
    assert_drains(&masquerade, &tunnel, Health::Healthy, 0);
}

#[test]
fn the_real_servers_of_a_foreign_entry_do_not_drain() {
    let server = server("tcp", ForwardingMethod::default());
    let mut foreign = in_table(&server);
    foreign.is_owned = false;
    let mut drains = tracker();
    let mut after = without_real_servers(&server);
    drains.retain_draining(
        &mut after,
        None,
        &foreign,
        |_, _| Health::Healthy,
        Instant::now(),
    );
    assert!(drains.is_empty());
}

#[test]
fn a_drain_ends_when_no_connection_is_active_and_otherwise_at_the_drain_timeout() {
    let server = server("tcp", ForwardingMethod::default());
    let timeout = server.drain_timeout;
    let mut drains = tracker();
    let begin = Instant::now();
    // In the second turn the table cannot be read back.
    let turns = [
        (in_table(&server), begin),
        (Observation::default(), begin + timeout / 2),
    ];
    let mut after = server.clone();
    for (observation, now) in turns {
        after = without_real_servers(&server);
        drains.retain_draining(&mut after, None, &observation, |_, _| Health::Healthy, now);
        assert_eq!(after.real_servers.len(), server.real_servers.len());
    }
    let addresses: Vec<SocketAddr> = in_table(&server).weights.into_keys().collect();
    let counted = |active| ConnectionCounts {
        active,
        inactive: 1,
    };
    // The kernel's list of connections is incomplete: the third real server is missing.
    let connections = [(addresses[0], counted(0)), (addresses[1], counted(1))].into();
    let soon = begin + timeout - Duration::from_secs(1);
    assert_eq!(
        drains.due_to_end(&after, &connections, soon),
        [(addresses[0], DrainEnd::Idle)]
    );
    let ends: Vec<DrainEnd> = (drains
        .due_to_end(&after, &connections, begin + timeout)
        .into_iter())
    .map(|(_, end)| end)
    .collect();
    assert_eq!(
        ends,
        [DrainEnd::Idle, DrainEnd::Deadline, DrainEnd::Deadline]
    );

    after.drain_timeout = timeout * 2;
    assert_eq!(
        drains
            .due_to_end(&after, &connections, begin + timeout)
            .len(),
        1
    );
}
