//! The whole daemon in process, over real gRPC, with a fake kernel. One file of cases over the world
//! that its modules make.
#![cfg(test)]

mod discovery;
mod draining;
mod fake_kernel;
mod lagging;
mod large;
mod world;

use std::time::Duration;

use daemon_api::dataplane::v1::{
    Health, MissingStep, ServiceAddress, WatchServiceAddressesRequest,
    watch_service_addresses_response::Event,
};
use daemon_api::discovery::v1 as discovery_v1;
use ipvs_programmer::Connections;
use tokio::time::timeout;
use virtual_server::{
    DesiredChange, Entry, EntryKey, EntryScheduler, EntrySettings, FailureAction, ForwardingMethod,
    HealthCheckKind, Protocol, RealServer, RealServerState, Scheduler, VirtualServerId,
};

use discovery::StandIn;
use fake_kernel::{FakeKernel, State};
use world::{LIMIT, World, desired, real_server, run, virtual_server};

const RANGE: &str = "10.1.1.0/24";
const ID: &str = "tcp/10.1.1.10:8080";
const ONE: &str = "10.244.0.1:8080";
const TWO: &str = "10.244.0.2:8080";

fn key(id: &str) -> EntryKey {
    let id: VirtualServerId = id.parse().unwrap();
    let (port, _) = id.ports.bounds();
    EntryKey::Address {
        protocol: id.protocol,
        address: id.address,
        port,
    }
}

fn weight(state: &State, id: &str, real: &str) -> Option<u32> {
    let entry = state.table.entries.get(&key(id))?;
    entry
        .real_servers
        .get(&real.parse().unwrap())
        .map(|real| real.weight)
}

fn foreign_entry() -> Entry {
    Entry::without_real_servers(EntrySettings {
        owned: false,
        scheduler: EntryScheduler::Foreign("lblc".into()),
        persistence: None,
        one_packet: false,
    })
}

#[test]
fn a_virtual_server_comes_up_guard_first_then_table_then_address() {
    run(|| async {
        let (_one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE, TWO])]));
        let address = world.wait_until_serving(RANGE).await;
        assert_eq!(address.detail, "1 of 1 virtual servers are serving");
        assert_eq!(address.virtual_servers, 1);

        let writes = kernel.take_writes();
        let at = |text: &str| {
            writes
                .iter()
                .position(|write| write.contains(text))
                .unwrap()
        };
        assert!(
            at("replace firewall") < at("AddVirtualServer"),
            "{writes:#?}"
        );
        assert!(
            at("AddRealServer") < at("add local 10.1.1.0/24"),
            "{writes:#?}"
        );
        assert_eq!(weight(&kernel.state(), ID, ONE), Some(1));
        assert_eq!(weight(&kernel.state(), ID, TWO), Some(1));
        assert!(world.readiness.is_ready(), "{}", world.readiness.report());
        world.stop().await;
        assert_eq!(
            kernel.take_writes(),
            Vec::<String>::new(),
            "the end leaves the kernel alone"
        );
    });
}

#[test]
fn without_a_desired_set_nothing_is_touched() {
    run(|| async {
        let kernel = FakeKernel::default();
        kernel
            .state()
            .table
            .entries
            .insert(key(ID), foreign_entry());
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        assert_eq!(world.service_addresses().await, []);
        // Several audit intervals.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(kernel.take_writes(), Vec::<String>::new());
        assert!(!world.readiness.is_ready());
        assert!(world.readiness.report().contains("missing desired-set"));
    });
}

#[test]
fn a_restart_writes_nothing_and_goes_on_serving() {
    run(|| async {
        let one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut set = desired(&[virtual_server(ID, &[ONE, TWO])]);
        stand_in.say(&set);
        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        world.stop().await;
        kernel.take_writes();

        // With checks that never end, only what was found can tell.
        for server in set.virtual_servers.values_mut() {
            server.health_check.as_mut().unwrap().initial_jitter = Duration::from_secs(3600);
        }
        drop(one);
        stand_in.say(&set);
        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        let real_servers = &world.virtual_servers().await[0].real_servers;
        let weights: Vec<_> = real_servers
            .iter()
            .map(|real| real.effective_weight)
            .collect();
        assert_eq!(weights, [1, 0], "the second had failed before the restart");
        assert_eq!(kernel.take_writes(), Vec::<String>::new());
    });
}

#[test]
fn what_an_earlier_run_left_and_nobody_desires_is_removed_and_what_is_foreign_stays() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let foreign = key("tcp/10.9.9.9:80");
        let foreign_on_our_address = key("tcp/10.1.1.10:9999");
        let left = key("tcp/10.1.1.11:80");
        {
            let mut state = kernel.state();
            let entries = &mut state.table.entries;
            entries.insert(foreign, foreign_entry());
            entries.insert(foreign_on_our_address, foreign_entry());
            let mut ours = foreign_entry();
            ours.settings.owned = true;
            entries.insert(left, ours);
            state.local.insert("10.7.0.0/16".parse().unwrap());
        }
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        let state = kernel.state();
        assert_eq!(state.table.entries.get(&foreign), Some(&foreign_entry()));
        assert_eq!(
            state.table.entries.get(&foreign_on_our_address),
            Some(&foreign_entry())
        );
        assert_eq!(state.table.entries.get(&left), None);
        assert_eq!(state.local, [RANGE.parse().unwrap()].into());
    });
}

#[test]
fn a_real_server_that_fails_is_quiesced_or_removed_and_returns() {
    run(|| async {
        let (one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut removing = virtual_server("tcp/10.1.1.11:8080", &[ONE, TWO]);
        removing.on_failure = FailureAction::Remove;
        let other = removing.id.to_string();
        stand_in.say(&desired(&[virtual_server(ID, &[ONE, TWO]), removing]));
        world.wait_until_serving(RANGE).await;
        world
            .wait_for_kernel(|state| weight(state, &other, ONE) == Some(1))
            .await;
        drop(one);
        world
            .wait_for_kernel(|state| weight(state, ID, ONE) == Some(0))
            .await;
        world
            .wait_for_kernel(|state| weight(state, &other, ONE).is_none())
            .await;
        let servers = world.virtual_servers().await;
        let failed = &servers[0].real_servers[0];
        assert_eq!(failed.health(), Health::Failed);
        assert!(
            failed.last_error.contains("refused"),
            "{}",
            failed.last_error
        );
        assert_eq!(servers[0].healthy_real_servers, 1);
        assert!(servers[0].real_servers[1].check_duration_microseconds > 0);

        let _one = real_server(ONE).await;
        world
            .wait_for_kernel(|state| weight(state, ID, ONE) == Some(1))
            .await;
        world
            .wait_for_kernel(|state| weight(state, &other, ONE) == Some(1))
            .await;
    });
}

#[test]
fn an_address_stops_serving_below_the_minimum_and_says_why() {
    run(|| async {
        let one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        drop(one);
        let address = world.wait_for(|address| !address.serving).await;
        assert_eq!(address.missing_step(), MissingStep::Healthy);
        let expected = "tcp/10.1.1.10:8080: 0 of 1 real servers are in service, 1 wanted";
        assert!(address.detail.starts_with(expected), "{}", address.detail);
        assert!(address.detail.contains("refused"), "{}", address.detail);
    });
}

#[test]
fn a_check_that_has_not_ended_keeps_the_address_down() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut server = virtual_server(ID, &[ONE]);
        server.health_check.as_mut().unwrap().initial_jitter = Duration::from_secs(3600);
        stand_in.say(&desired(std::slice::from_ref(&server)));
        let address = world.wait_for(|address| address.prefix == RANGE).await;
        assert_eq!(address.missing_step(), MissingStep::Checked);
        assert_eq!(
            weight(&kernel.state(), ID, ONE),
            Some(0),
            "programmed, but out of service"
        );
        server.health_check = None;
        stand_in.say(&desired(&[server]));
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn a_new_virtual_server_takes_nothing_from_the_others() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let first = virtual_server(ID, &[ONE]);
        stand_in.say(&desired(std::slice::from_ref(&first)));
        world.wait_until_serving(RANGE).await;
        let mut second = virtual_server("tcp/10.1.1.11:8080", &[TWO]);
        second.health_check.as_mut().unwrap().initial_jitter = Duration::from_secs(3600);
        stand_in.say(&desired(&[first, second]));
        let address = world.wait_for(|address| address.virtual_servers == 2).await;
        assert!(address.serving, "{address:?}");
    });
}

#[test]
fn an_endpoint_change_costs_what_it_changes() {
    run(|| async {
        let (_one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut servers: Vec<_> = (1..=50)
            .map(|last| {
                let mut server = virtual_server(&format!("tcp/10.1.1.{last}:8080"), &[ONE, TWO]);
                server.health_check = None;
                server
            })
            .collect();
        stand_in.say(&desired(&servers));
        world.wait_until_serving(RANGE).await;
        kernel.take_writes();
        servers[7].real_servers[1].state = RealServerState::Draining;
        let id = servers[7].id.to_string();
        stand_in.say(&desired(&servers));
        world
            .wait_for_kernel(|state| weight(state, &id, TWO) == Some(0))
            .await;
        let writes = kernel.take_writes();
        assert_eq!(writes.len(), 1, "{writes:#?}");
        assert!(writes[0].starts_with("SetRealServer"), "{writes:#?}");
    });
}

#[test]
fn the_last_set_stays_when_discovery_is_lost_and_a_new_one_is_found_again() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let address = stand_in.address;
        let mut world = World::start(&kernel, address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        drop(stand_in);
        timeout(LIMIT, async {
            while !world
                .readiness
                .report()
                .contains("the last desired set stays in use")
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        assert!(world.service_addresses().await[0].serving);
        assert!(world.readiness.is_ready(), "{}", world.readiness.report());

        let stand_in = StandIn::silent(&address.to_string()).await;
        stand_in.say(&desired(&[]));
        world
            .wait_for_kernel(|state| !state.table.entries.contains_key(&key(ID)))
            .await;
        let standing = kernel.state().table.entries.len();
        assert_eq!(standing, 1, "a standing entry keeps the hooks registered");
    });
}

#[test]
fn a_virtual_server_that_goes_loses_its_address_before_its_entry() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let alone = virtual_server("tcp/10.5.0.1:8080", &[ONE]);
        stand_in.say(&desired(&[alone]));
        world.wait_until_serving("10.5.0.1/32").await;
        kernel.take_writes();
        stand_in.say(&desired(&[]));
        world
            .wait_for_kernel(|state| !state.table.entries.contains_key(&key("tcp/10.5.0.1:8080")))
            .await;
        let writes = kernel.take_writes();
        let at = |text: &str| {
            writes
                .iter()
                .position(|write| write.contains(text))
                .unwrap()
        };
        assert!(
            at("remove local 10.5.0.1/32") < at("RemoveVirtualServer"),
            "{writes:#?}"
        );
    });
}

#[test]
fn an_address_that_moves_into_a_range_or_out_of_it_stays_local_all_the_while() {
    run(|| async {
        let _one = real_server(ONE).await;
        let in_range = desired(&[virtual_server(ID, &[ONE])]);
        let mut alone = in_range.clone();
        alone.service_ranges.clear();
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        stand_in.say(&alone);
        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving("10.1.1.10/32").await;
        for (set, comes, goes) in [
            (&in_range, RANGE, "10.1.1.10/32"),
            (&alone, "10.1.1.10/32", RANGE),
        ] {
            kernel.take_writes();
            stand_in.say(set);
            world.wait_until_serving(comes).await;
            let local = [comes.parse().unwrap()].into();
            world.wait_for_kernel(|state| state.local == local).await;
            let writes = kernel.take_writes();
            let at = |text: String| writes.iter().position(|write| *write == text);
            let (added, removed) = (
                at(format!("add local {comes}")),
                at(format!("remove local {goes}")),
            );
            assert!(added.is_some() && added < removed, "{writes:#?}");
        }
    });
}

#[test]
fn a_kernel_without_nftables_serves_tunnels_and_says_what_it_cannot() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        kernel.state().without_nftables = true;
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut masquerade = virtual_server("tcp/10.1.1.11:8080", &[ONE]);
        masquerade.forwarding_method = ForwardingMethod::Masquerade;
        let mut range = virtual_server("tcp/10.1.1.12:8000-8999", &["10.244.0.1:0"]);
        range.health_check = None;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE]), masquerade, range]));
        let address = world.wait_until_serving(RANGE).await;
        assert_eq!(
            (address.virtual_servers, address.serving_virtual_servers),
            (3, 1)
        );
        let servers = world.virtual_servers().await;
        assert_eq!(servers[0].last_error, "");
        assert!(
            servers[1]
                .last_error
                .starts_with("Masquerade needs nftables")
        );
        assert!(
            servers[2]
                .last_error
                .starts_with("port ranges need nftables")
        );
        assert_eq!(servers[1].missing_step(), MissingStep::Programmed);
        assert!(world.readiness.report().contains("going on without"));
        let entries = kernel.state().table.entries.len();
        assert_eq!(entries, 2, "the tunnel and the standing entry");
    });
}

#[test]
fn a_refused_nftables_transaction_takes_nothing_out_of_service() {
    run(|| async {
        let _one = real_server(ONE).await;
        let masquerade = |id| {
            let mut server = virtual_server(id, &[ONE]);
            server.forwarding_method = ForwardingMethod::Masquerade;
            server
        };
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        stand_in.say(&desired(&[masquerade(ID)]));
        let mut world = World::start(&kernel, stand_in.address).await;
        world.wait_until_serving(RANGE).await;
        kernel.state().nftables_fails = true;
        const NEXT: &str = "tcp/10.1.1.11:8080";
        stand_in.say(&desired(&[masquerade(ID), masquerade(NEXT)]));
        let two = |address: &ServiceAddress| address.virtual_servers == 2;
        let address = world.wait_for(two).await;
        assert_eq!(
            (address.serving, address.serving_virtual_servers),
            (true, 1)
        );
        assert!(!kernel.state().table.entries.contains_key(&key(NEXT)));
        assert_eq!(weight(&kernel.state(), ID, ONE), Some(1));
        kernel.state().nftables_fails = false;
        world
            .wait_for(|address| address.serving_virtual_servers == 2)
            .await;
    });
}

#[test]
fn a_port_range_is_an_entry_by_firewall_mark() {
    run(|| async {
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut server = virtual_server("udp/10.1.1.12:8000-8999", &["10.244.0.1:0"]);
        server.health_check = None;
        stand_in.say(&desired(&[server]));
        world.wait_until_serving(RANGE).await;
        let mark = world.virtual_servers().await[0].firewall_mark;
        let state = kernel.state();
        let found =
            state.table.entries.keys().any(
                |key| matches!(key, EntryKey::FirewallMark { mark: found, .. } if *found == mark),
            );
        assert!(found, "{:#?}", state.table);
        let chains = &state.firewall.as_ref().unwrap().chains;
        assert!(
            chains.iter().any(|chain| chain.name == "marks"),
            "{chains:#?}"
        );
    });
}

#[test]
fn a_missing_scheduler_is_named_with_its_module_and_tried_again() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        kernel.state().without_mh = true;
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut other = virtual_server("tcp/10.5.0.1:8080", &[ONE]);
        other.scheduler = Scheduler::Wlc;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE]), other]));
        world.wait_until_serving("10.5.0.1/32").await;
        let address = world
            .wait_for(|address| address.missing_step() == MissingStep::Programmed)
            .await;
        assert!(
            address.detail.contains("modprobe ip_vs_mh"),
            "{}",
            address.detail
        );
        assert!(world.readiness.report().contains("missing programmed"));
        kernel.state().without_mh = false;
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn an_interface_that_is_down_is_named_and_the_address_follows_it() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        kernel.state().lo_down = true;
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        let address = world
            .wait_for(|address| address.missing_step() == MissingStep::LocalAddress)
            .await;
        assert!(
            address.detail.contains("ip link set lo up"),
            "{}",
            address.detail
        );
        kernel.state().lo_down = false;
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn a_lost_answer_is_followed_by_a_look_and_not_by_a_second_write() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        kernel.state().lose_next_answer = true;
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        let writes = kernel.take_writes();
        let added = writes
            .iter()
            .filter(|write| write.contains("AddVirtualServer"))
            .count();
        assert_eq!(added, 2, "one and the standing entry: {writes:#?}");
    });
}

#[test]
fn what_another_program_breaks_is_repaired() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        {
            let mut state = kernel.state();
            state.table.entries.remove(&key(ID));
            state.local.clear();
            state.firewall = None;
        }
        world
            .wait_for_kernel(|state| {
                weight(state, ID, ONE) == Some(1)
                    && state.local.len() == 1
                    && state.firewall.is_some()
            })
            .await;
        assert!(world.service_addresses().await[0].serving);
    });
}

#[test]
fn an_entry_of_another_program_with_a_desired_key_is_taken_over() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        kernel
            .state()
            .table
            .entries
            .insert(key(ID), foreign_entry());
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        assert!(kernel.state().table.entries[&key(ID)].settings.owned);
        let writes = kernel.take_writes();
        assert!(
            !writes.iter().any(|write| write.contains("RemoveVirtual")),
            "{writes:#?}"
        );
    });
}

#[test]
fn an_object_that_cannot_be_keeps_its_last_good_state() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let server = virtual_server(ID, &[ONE]);
        stand_in.say(&desired(std::slice::from_ref(&server)));
        world.wait_until_serving(RANGE).await;
        let range = desired(&[]).service_ranges.first().copied().unwrap();
        let mut broken = discovery::event(&DesiredChange::PutVirtualServer(server));
        if let discovery_v1::watch_response::Event::VirtualServer(server) = &mut broken {
            server.minimum_healthy = 0;
        }
        let other = virtual_server("tcp/10.5.0.1:8080", &[ONE]);
        stand_in.say_events(vec![
            discovery::event(&DesiredChange::PutServiceRange(range)),
            broken,
            discovery::event(&DesiredChange::PutVirtualServer(other)),
        ]);
        world.wait_until_serving("10.5.0.1/32").await;
        assert_eq!(weight(&kernel.state(), ID, ONE), Some(1));
        assert!(
            world
                .service_addresses()
                .await
                .iter()
                .all(|address| address.serving)
        );
    });
}

#[test]
fn an_oversized_virtual_server_does_not_hold_up_the_others() {
    run(|| async {
        let (_one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        // More than 4 MiB, the default limit of a message.
        let mut oversized = virtual_server("tcp/[fd00:1::1]:8080", &[]);
        oversized.scheduler = Scheduler::Rr;
        let first = u128::from_be_bytes([
            0xfd, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xff, 1, 1, 1, 1, 1, 1, 0, 0,
        ]);
        let template = virtual_server(ID, &[ONE]).real_servers.remove(0);
        oversized.real_servers = (0..110_000_u32)
            .map(|index| RealServer {
                address: std::net::Ipv6Addr::from_bits(first + u128::from(index)).into(),
                ..template.clone()
            })
            .collect();
        let oversized = discovery::event(&DesiredChange::PutVirtualServer(oversized));
        let range = desired(&[]).service_ranges.first().copied().unwrap();
        let range = discovery::event(&DesiredChange::PutServiceRange(range));
        for real_servers in [&[ONE][..], &[ONE, TWO]] {
            let other = virtual_server(ID, real_servers);
            stand_in.say_events(vec![
                range.clone(),
                oversized.clone(),
                discovery::event(&DesiredChange::PutVirtualServer(other)),
            ]);
            let last = real_servers[real_servers.len() - 1];
            world
                .wait_for_kernel(|state| weight(state, ID, last) == Some(1))
                .await;
        }
        world.wait_until_serving(RANGE).await;
        let metrics = world.metrics.encode();
        assert!(
            metrics.contains("portlb_discovery_invalid_objects_total 2"),
            "{metrics}"
        );
    });
}

#[test]
fn a_stream_that_breaks_before_it_is_synced_is_opened_after_growing_pauses() {
    run(|| async {
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        stand_in.break_streams(true);
        stand_in.say(&desired(&[]));
        let begin = std::time::Instant::now();
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut opened = stand_in.opened();
        let sixth = timeout(LIMIT, opened.wait_for(|count| *count >= 6)).await;
        drop(sixth.unwrap().unwrap());
        // 20 + 40 + 80 + 160 + 320 ms, each shorter by a fifth at most.
        let elapsed = begin.elapsed();
        assert!(elapsed >= Duration::from_millis(490), "{elapsed:?}");
        let _one = real_server(ONE).await;
        stand_in.break_streams(false);
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn lists_carry_the_kernels_connection_counters() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let counters = Connections {
            active: 12,
            inactive: 34,
        };
        kernel
            .state()
            .connections
            .insert(ONE.parse().unwrap(), counters);
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        let real = &world.virtual_servers().await[0].real_servers[0];
        assert_eq!(
            (real.active_connections, real.inactive_connections),
            (12, 34)
        );
        assert!(real.programmed);
        assert_eq!(real.health(), Health::Healthy);
    });
}

#[test]
fn a_silent_watch_gets_heartbeats() {
    run(|| async {
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let request = WatchServiceAddressesRequest {
            heartbeat_interval_milliseconds: 1,
        };
        let mut stream = world
            .client
            .watch_service_addresses(request)
            .await
            .unwrap()
            .into_inner();
        for _ in 0..3 {
            let response = timeout(LIMIT, stream.message())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert!(
                matches!(response.event, Some(Event::Heartbeat(_))),
                "{response:?}"
            );
        }
    });
}

#[test]
fn masquerade_sets_the_sysctls_that_it_needs() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        kernel
            .state()
            .sysctls
            .insert("net/ipv4/vs/sloppy_tcp".into(), "1".into());
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut server = virtual_server(ID, &[ONE]);
        server.forwarding_method = ForwardingMethod::Masquerade;
        assert_eq!(server.id.protocol, Protocol::Tcp);
        stand_in.say(&desired(&[server]));
        world.wait_until_serving(RANGE).await;
        let writes = kernel.take_writes();
        assert!(
            writes.contains(&"net/ipv4/vs/conntrack=1".to_owned()),
            "{writes:#?}"
        );
        assert!(
            writes.contains(&"net/ipv4/ip_forward=1".to_owned()),
            "{writes:#?}"
        );
        assert!(
            !writes.iter().any(|write| write.contains("sloppy_tcp")),
            "{writes:#?}"
        );
    });
}

#[test]
fn what_could_answer_nobody_is_not_served_until_somebody_sets_the_sysctl() {
    run(|| async {
        const FORWARD: &str = "net/ipv4/ip_forward";
        let _one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        kernel.state().read_only_sysctl = Some(FORWARD);
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut server = virtual_server(ID, &[ONE]);
        stand_in.say(&desired(std::slice::from_ref(&server)));
        world.wait_until_serving(RANGE).await;
        // The entry is there, and would go on as one that is not answered.
        server.forwarding_method = ForwardingMethod::Masquerade;
        stand_in.say(&desired(&[server]));
        world
            .wait_for(|address| !address.serving && address.detail.contains("ip_forward"))
            .await;
        assert!(weight(&kernel.state(), ID, ONE).is_none());
        kernel.state().sysctls.insert(FORWARD.into(), "1".into());
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn a_udp_server_leaves_the_table_and_is_not_served_without_the_sysctl_that_frees_its_clients() {
    run(|| async {
        const EXPIRE: &str = "net/ipv4/vs/expire_nodest_conn";
        let id = "udp/10.1.1.10:8080";
        let (one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeKernel::default();
        kernel.state().read_only_sysctl = Some(EXPIRE);
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let mut world = World::start(&kernel, stand_in.address).await;
        let mut server = virtual_server(id, &[ONE, TWO]);
        server.health_check.as_mut().unwrap().kind = HealthCheckKind::TcpConnect {
            port: 8080.try_into().ok(),
        };
        stand_in.say(&desired(std::slice::from_ref(&server)));
        world
            .wait_for(|address| !address.serving && address.detail.contains("expire_nodest_conn"))
            .await;
        assert!(weight(&kernel.state(), id, TWO).is_none());
        kernel.state().sysctls.insert(EXPIRE.into(), "1".into());
        world.wait_until_serving(RANGE).await;

        // A failed check, with the default of a virtual server: quiesce.
        world
            .wait_for_kernel(|state| weight(state, id, ONE) == Some(1))
            .await;
        drop(one);
        world
            .wait_for_kernel(|state| weight(state, id, ONE).is_none())
            .await;
        server.real_servers[1].state = RealServerState::Draining;
        stand_in.say(&desired(&[server]));
        world
            .wait_for_kernel(|state| weight(state, id, TWO).is_none())
            .await;
        let written = kernel.take_writes();
        let quiesced = written.iter().find(|write| write.contains("SetRealServer"));
        assert_eq!(quiesced, None, "{written:#?}");
        world.wait_for(|address| !address.serving).await;
    });
}

#[test]
fn it_goes_on_after_the_signal_while_an_announcer_watches_and_ends_with_it() {
    run(|| async {
        let one = real_server(ONE).await;
        let kernel = FakeKernel::default();
        let stand_in = StandIn::silent("127.0.0.1:0").await;
        let linger = Duration::from_secs(3600);
        let mut world = World::start_lingering(&kernel, stand_in.address, linger).await;
        stand_in.say(&desired(&[virtual_server(ID, &[ONE])]));
        world.wait_until_serving(RANGE).await;
        let request = WatchServiceAddressesRequest {
            heartbeat_interval_milliseconds: 0,
        };
        let announcer = world.client.watch_service_addresses(request).await.unwrap();
        world.request_stop();
        drop(one);
        world
            .wait_for_kernel(|state| weight(state, ID, ONE) == Some(0))
            .await;
        drop(announcer);
        world.stop().await;
    });
}
