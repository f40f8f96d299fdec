use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::{
    FailureAction, ForwardingMethod, RealServer, RealServerHistory, RealServerState, Scheduler,
    Weight,
};

fn virtual_server(id: VirtualServerId, real_servers: &[&str]) -> VirtualServer {
    VirtualServer {
        id,
        name: "web".into(),
        scheduler: Scheduler::default(),
        forwarding_method: ForwardingMethod::default(),
        persistence: None,
        real_servers: real_servers
            .iter()
            .map(|address| RealServer {
                address: address.parse().unwrap(),
                port: None,
                weight: Weight::default(),
                state: RealServerState::default(),
                history: RealServerHistory::default(),
            })
            .collect(),
        health_check: None,
        on_failure: FailureAction::default(),
        minimum_healthy: VirtualServer::DEFAULT_MINIMUM_HEALTHY,
        drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
    }
}

fn set(ids: &[&str], ranges: &[&str]) -> DesiredSet {
    DesiredSet {
        virtual_servers: ids
            .iter()
            .map(|id| id.parse().unwrap())
            .map(|id| (id, virtual_server(id, &["10.0.2.3"])))
            .collect(),
        service_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
    }
}

#[track_caller]
fn check(set: &DesiredSet, expected: &str) {
    let message = set
        .validate()
        .err()
        .map_or_else(String::new, |invalid| invalid.to_string());
    assert_eq!(message, expected);
}

#[test]
fn virtual_servers_of_one_address_with_overlapping_ports_are_rejected() {
    check(
        &set(
            &[
                "tcp/10.1.1.10:80",
                "udp/10.1.1.10:80",
                "tcp/10.1.1.11:80",
                "tcp/10.1.1.10:81-90",
            ],
            &[],
        ),
        "",
    );
    check(
        &set(&["tcp/10.1.1.10:8080", "tcp/10.1.1.10:8000-8999"], &[]),
        "virtualServers[tcp/10.1.1.10:8080].ports: 8080 overlaps the ports of \
         tcp/10.1.1.10:8000-8999; give each port of an address to one virtual server",
    );
    check(
        &set(&["tcp/10.1.1.10:8080", "tcp/10.1.1.10:*"], &[]),
        "virtualServers[tcp/10.1.1.10:8080].ports: 8080 overlaps the ports of tcp/10.1.1.10:*; \
         give each port of an address to one virtual server",
    );
}

#[test]
fn overlapping_service_ranges_are_rejected() {
    check(
        &set(&[], &["10.1.1.0/24", "10.1.2.0/24", "fd00:1::/64"]),
        "",
    );
    check(
        &set(&[], &["10.1.1.64/26", "10.1.1.0/24", "10.1.1.0/26"]),
        "serviceRanges[10.1.1.0/26]: 10.1.1.0/26 lies within the service range 10.1.1.0/24; \
         remove one of the two service ranges\n\
         serviceRanges[10.1.1.64/26]: 10.1.1.64/26 lies within the service range 10.1.1.0/24; \
         remove one of the two service ranges",
    );
    check(
        &set(&[], &["10.1.1.64/26", "10.1.1.0/24"]),
        "serviceRanges[10.1.1.64/26]: 10.1.1.64/26 lies within the service range 10.1.1.0/24; \
         remove one of the two service ranges",
    );
}

#[test]
fn a_real_server_with_a_service_address_is_rejected() {
    let mut servers = set(&["tcp/10.1.1.10:80", "tcp/10.1.1.11:80"], &[]);
    let id = "tcp/10.1.1.10:80".parse().unwrap();
    servers
        .virtual_servers
        .insert(id, virtual_server(id, &["10.1.1.11"]));
    check(
        &servers,
        "virtualServers[tcp/10.1.1.10:80].realServers[10.1.1.11].address: 10.1.1.11 is a service \
         address, so packets to it would not leave the load balancer; write the real server's \
         own address",
    );
    let mut within = set(&["tcp/10.1.1.10:80"], &["10.1.1.0/24"]);
    within
        .virtual_servers
        .insert(id, virtual_server(id, &["10.1.1.99"]));
    check(
        &within,
        "virtualServers[tcp/10.1.1.10:80].realServers[10.1.1.99].address: 10.1.1.99 lies within \
         the service range 10.1.1.0/24, so packets to it would not leave the load balancer; \
         write the real server's own address",
    );
}

#[test]
fn an_error_in_a_desired_set_names_the_virtual_server() {
    let id = "tcp/10.1.1.10:80".parse().unwrap();
    let mut servers = set(&["tcp/10.1.1.10:80"], &[]);
    servers
        .virtual_servers
        .insert(id, virtual_server(id, &["127.0.0.1"]));
    let invalid = servers.validate().unwrap_err();
    assert_eq!(
        invalid.listed()[0].field.to_string(),
        "virtualServers[tcp/10.1.1.10:80].realServers[127.0.0.1].address"
    );
}

#[test]
fn the_first_hundred_problems_of_a_desired_set_are_listed_and_further_problems_are_counted() {
    check(
        &set(
            &["tcp/10.1.1.10:*", "tcp/10.1.1.10:80", "tcp/10.1.1.10:443"],
            &[],
        ),
        "virtualServers[tcp/10.1.1.10:80].ports: 80 overlaps the ports of tcp/10.1.1.10:*; give \
         each port of an address to one virtual server\n\
         virtualServers[tcp/10.1.1.10:443].ports: 443 overlaps the ports of tcp/10.1.1.10:*; \
         give each port of an address to one virtual server",
    );
    let mut servers = set(&["tcp/10.1.1.10:80"], &[]);
    let id = "tcp/10.1.1.10:80".parse().unwrap();
    let loopback: Vec<String> = (0..103).map(|host| format!("127.0.0.{host}")).collect();
    let loopback: Vec<&str> = loopback.iter().map(String::as_str).collect();
    servers
        .virtual_servers
        .insert(id, virtual_server(id, &loopback));
    let problems = servers.validate().unwrap_err();
    assert_eq!(problems.listed().len(), Problems::<Invalid>::MAX_LISTED);
    let text = problems.to_string();
    assert_eq!(text.lines().count(), 101);
    assert!(text.ends_with("\n3 more problems are not listed"), "{text}");
}

fn any_set() -> impl Strategy<Value = DesiredSet> {
    let server = (0..6_u8, 1..4_u16, 1..4_u16).prop_map(|(host, port, weight)| {
        let id = VirtualServerId {
            address: [10, 1, 1, host].into(),
            protocol: Protocol::Tcp,
            ports: Ports::Single(NonZeroU16::new(port).unwrap()),
        };
        let mut virtual_server = virtual_server(id, &["10.0.2.3"]);
        virtual_server.real_servers[0].weight = Weight(weight);
        (id, virtual_server)
    });
    let range = (0..4_u8).prop_map(|subnet| format!("10.1.{subnet}.0/24").parse().unwrap());
    (
        prop::collection::btree_map(any::<u8>(), server, 0..12),
        prop::collection::btree_set(range, 0..4),
    )
        .prop_map(|(servers, service_ranges)| DesiredSet {
            virtual_servers: servers.into_values().collect(),
            service_ranges,
        })
}

proptest! {
    #[test]
    fn applied_changes_turn_the_old_desired_set_into_the_new_one(old in any_set(), new in any_set()) {
        let mut applied = old.clone();
        for change in old.changes_to(&new) {
            applied.apply(change);
        }
        prop_assert_eq!(applied, new);
    }

    #[test]
    fn every_change_between_two_desired_sets_is_necessary(old in any_set(), new in any_set()) {
        for skipped in 0..old.changes_to(&new).len() {
            let mut applied = old.clone();
            for (index, change) in old.changes_to(&new).into_iter().enumerate() {
                if index != skipped {
                    applied.apply(change);
                }
            }
            prop_assert_ne!(&applied, &new);
        }
    }

    #[test]
    fn equal_desired_sets_have_no_changes(set in any_set()) {
        prop_assert_eq!(set.changes_to(&set.clone()), []);
    }
}
