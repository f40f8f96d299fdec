//! Component tests of ipvs-programmer. The daemon runs in the test process with a fake kernel, and
//! the tests use its real gRPC server.
#![cfg(test)]

mod draining;
mod fake_kernel;

use std::time::Duration;

use daemon_api::dataplane::v1::{Health, MissingStep, ServiceAddress};
use data_plane::ConnectionCounts;
use data_plane_testbed::{
    ID, ONE, RANGE, TWO, TestDataPlane, TestKernel, TestKernelState, desired, real_server, run,
    virtual_server,
};
use virtual_server::{
    EntryKey, EntryScheduler, EntrySettings, FailureAction, ForwardingMethod, HealthCheckKind,
    Protocol, RealServerState, Scheduler, TableEntry, VirtualServerId,
};

use fake_kernel::FakeIpvsKernel;

fn key(id: &str) -> EntryKey {
    let id: VirtualServerId = id.parse().unwrap();
    let (port, _) = id.ports.bounds();
    EntryKey::Address {
        protocol: id.protocol,
        address: id.address,
        port,
    }
}

fn foreign_entry() -> TableEntry {
    TableEntry::without_real_servers(EntrySettings {
        owned: false,
        scheduler: EntryScheduler::Foreign("lblc".into()),
        persistence: None,
        one_packet: false,
    })
}

#[test]
fn a_virtual_server_gets_first_the_guard_then_the_table_entry_then_the_local_address() {
    run(|| async {
        let (_one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        world.publish(&[virtual_server(ID, &[ONE, TWO])]);
        let address = world.wait_until_serving(RANGE).await;
        assert_eq!(address.detail, "1 of 1 virtual servers are serving");
        assert_eq!(address.virtual_servers, 1);

        let writes = kernel.take_writes();
        let position_of = |text: &str| {
            writes
                .iter()
                .position(|write| write.contains(text))
                .unwrap()
        };
        assert!(
            position_of("replace firewall") < position_of("AddVirtualServer"),
            "{writes:#?}"
        );
        assert!(
            position_of("AddRealServer") < position_of("add local 10.1.1.0/24"),
            "{writes:#?}"
        );
        assert_eq!(kernel.state().weight(ID, ONE), Some(1));
        assert_eq!(kernel.state().weight(ID, TWO), Some(1));
        assert!(world.readiness.is_ready(), "{}", world.readiness.report());
        world.stop().await;
        assert_eq!(
            kernel.take_writes(),
            [""; 0],
            "the end of the daemon does not change the kernel"
        );
    });
}

#[test]
fn without_a_desired_set_the_kernel_is_not_changed() {
    run(|| async {
        let kernel = FakeIpvsKernel::default();
        kernel
            .state()
            .table
            .entries
            .insert(key(ID), foreign_entry());
        let mut world = TestDataPlane::start(&kernel).await;
        assert_eq!(world.service_addresses().await, []);
        // The sleep is longer than several audit intervals.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(kernel.take_writes(), [""; 0]);
        assert!(!world.readiness.is_ready());
        assert!(world.readiness.report().contains("missing desired-set"));
    });
}

#[test]
fn a_restarted_daemon_writes_nothing_and_continues_to_serve() {
    run(|| async {
        let one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        let mut server = virtual_server(ID, &[ONE, TWO]);
        let world = TestDataPlane::serving(&kernel, std::slice::from_ref(&server)).await;
        let discovery = world.stop().await.unwrap();
        kernel.take_writes();

        // The first check happens after an hour, so the weights come only from the existing entry.
        server.health_check.as_mut().unwrap().initial_jitter = Duration::from_secs(3600);
        drop(one);
        discovery.publish(&desired(&[server]));
        let mut world = TestDataPlane::start_with(&kernel, discovery).await;
        world.wait_until_serving(RANGE).await;
        let real_servers = &world.virtual_servers().await[0].real_servers;
        let weights: Vec<_> = real_servers
            .iter()
            .map(|real| real.effective_weight)
            .collect();
        assert_eq!(
            weights,
            [1, 0],
            "the second real server had failed its check before the restart"
        );
        assert_eq!(kernel.take_writes(), [""; 0]);
    });
}

#[test]
fn owned_entries_that_are_not_desired_are_removed_and_foreign_entries_stay() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        let foreign = key("tcp/10.9.9.9:80");
        let foreign_on_service_address = key("tcp/10.1.1.10:9999");
        let left_by_earlier_run = key("tcp/10.1.1.11:80");
        {
            let mut state = kernel.state();
            let entries = &mut state.table.entries;
            entries.insert(foreign, foreign_entry());
            entries.insert(foreign_on_service_address, foreign_entry());
            let mut ours = foreign_entry();
            ours.settings.owned = true;
            entries.insert(left_by_earlier_run, ours);
            state.local.insert("10.7.0.0/16".parse().unwrap());
        }
        let _world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
        let state = kernel.state();
        assert_eq!(state.table.entries.get(&foreign), Some(&foreign_entry()));
        assert_eq!(
            state.table.entries.get(&foreign_on_service_address),
            Some(&foreign_entry())
        );
        assert_eq!(state.table.entries.get(&left_by_earlier_run), None);
        assert_eq!(state.local, [RANGE.parse().unwrap()].into());
    });
}

#[test]
fn a_failed_real_server_is_quiesced_or_removed_and_returns_when_it_is_healthy() {
    run(|| async {
        let (one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let mut removing = virtual_server("tcp/10.1.1.11:8080", &[ONE, TWO]);
        removing.on_failure = FailureAction::Remove;
        let other = removing.id.to_string();
        world.publish(&[virtual_server(ID, &[ONE, TWO]), removing]);
        world.wait_until_serving(RANGE).await;
        world.wait_for_weight(&other, ONE, Some(1)).await;
        drop(one);
        world.wait_for_weight(ID, ONE, Some(0)).await;
        world.wait_for_weight(&other, ONE, None).await;
        let servers = world.virtual_servers().await;
        let failed = &servers[0].real_servers[0];
        assert_eq!(failed.health(), Health::Failed);
        assert!(
            failed.last_error.contains("refused"),
            "{}",
            failed.last_error
        );
        assert_eq!(servers[0].healthy_real_servers, 1);
        assert!(servers[0].real_servers[1].check_duration.is_some());

        let _one = real_server(ONE).await;
        world.wait_for_weight(ID, ONE, Some(1)).await;
        world.wait_for_weight(&other, ONE, Some(1)).await;
    });
}

#[test]
fn a_change_of_one_real_server_writes_one_change_to_the_kernel() {
    run(|| async {
        let (_one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let mut servers: Vec<_> = (1..=50)
            .map(|last| {
                let mut server = virtual_server(&format!("tcp/10.1.1.{last}:8080"), &[ONE, TWO]);
                server.health_check = None;
                server
            })
            .collect();
        world.publish(&servers);
        world.wait_until_serving(RANGE).await;
        kernel.take_writes();
        servers[7].real_servers[1].state = RealServerState::Draining;
        let id = servers[7].id.to_string();
        world.publish(&servers);
        world.wait_for_weight(&id, TWO, Some(0)).await;
        let writes = kernel.take_writes();
        assert_eq!(writes.len(), 1, "{writes:#?}");
        assert!(writes[0].starts_with("SetRealServer"), "{writes:#?}");
    });
}

#[test]
fn a_removed_virtual_server_loses_its_local_address_before_its_entry() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let alone = virtual_server("tcp/10.5.0.1:8080", &[ONE]);
        world.publish(&[alone]);
        world.wait_until_serving("10.5.0.1/32").await;
        kernel.take_writes();
        world.publish(&[]);
        world
            .wait_for_kernel(|state| !state.table.entries.contains_key(&key("tcp/10.5.0.1:8080")))
            .await;
        let writes = kernel.take_writes();
        let position_of = |text: &str| {
            writes
                .iter()
                .position(|write| write.contains(text))
                .unwrap()
        };
        assert!(
            position_of("remove local 10.5.0.1/32") < position_of("RemoveVirtualServer"),
            "{writes:#?}"
        );
        let standing = kernel.state().table.entries.len();
        assert_eq!(standing, 1, "a standing entry keeps the hooks registered");
    });
}

#[test]
fn without_nftables_direct_routing_works_and_other_virtual_servers_report_the_reason() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        kernel.state().without_nftables = true;
        let mut world = TestDataPlane::start(&kernel).await;
        let mut masquerade = virtual_server("tcp/10.1.1.11:8080", &[ONE]);
        masquerade.forwarding_method = ForwardingMethod::Masquerade;
        let mut range = virtual_server("tcp/10.1.1.12:8000-8999", &["10.244.0.1:0"]);
        range.health_check = None;
        world.publish(&[virtual_server(ID, &[ONE]), masquerade, range]);
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
        assert!(
            world
                .readiness
                .report()
                .contains("continuing without nftables")
        );
        let entries = kernel.state().table.entries.len();
        assert_eq!(entries, 2, "one virtual server and the standing entry");
    });
}

#[test]
fn a_failed_nftables_transaction_takes_no_virtual_server_out_of_service() {
    run(|| async {
        let _one = real_server(ONE).await;
        let masquerade = |id| {
            let mut server = virtual_server(id, &[ONE]);
            server.forwarding_method = ForwardingMethod::Masquerade;
            server
        };
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::serving(&kernel, &[masquerade(ID)]).await;
        kernel.state().nftables_fails = true;
        const NEXT: &str = "tcp/10.1.1.11:8080";
        world.publish(&[masquerade(ID), masquerade(NEXT)]);
        let two = |address: &ServiceAddress| address.virtual_servers == 2;
        let address = world.wait_for(two).await;
        assert_eq!(
            (address.serving, address.serving_virtual_servers),
            (true, 1)
        );
        assert!(!kernel.state().table.entries.contains_key(&key(NEXT)));
        assert_eq!(kernel.state().weight(ID, ONE), Some(1));
        kernel.state().nftables_fails = false;
        world
            .wait_for(|address| address.serving_virtual_servers == 2)
            .await;
    });
}

#[test]
fn a_port_range_is_programmed_as_an_entry_with_a_firewall_mark() {
    run(|| async {
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::start(&kernel).await;
        let mut server = virtual_server("udp/10.1.1.12:8000-8999", &["10.244.0.1:0"]);
        server.health_check = None;
        world.publish(&[server]);
        world.wait_until_serving(RANGE).await;
        let mark = world.virtual_servers().await[0].firewall_mark;
        let state = kernel.state();
        let exists = state.table.entries.keys().any(
            |key| matches!(key, EntryKey::FirewallMark { mark: exists, .. } if *exists == mark),
        );
        assert!(exists, "{:#?}", state.table);
        let chains = &state.firewall.as_ref().unwrap().chains;
        assert!(
            chains.iter().any(|chain| chain.name == "marks"),
            "{chains:#?}"
        );
    });
}

#[test]
fn a_missing_scheduler_is_reported_with_its_module_and_retried() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        kernel.state().without_mh = true;
        let mut world = TestDataPlane::start(&kernel).await;
        let mut other = virtual_server("tcp/10.5.0.1:8080", &[ONE]);
        other.scheduler = Scheduler::Wlc;
        world.publish(&[virtual_server(ID, &[ONE]), other]);
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
fn a_down_loopback_interface_is_reported_and_the_local_address_is_added_when_it_is_up() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        kernel.state().lo_down = true;
        let mut world = TestDataPlane::start(&kernel).await;
        world.publish(&[virtual_server(ID, &[ONE])]);
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
fn after_a_lost_answer_of_the_kernel_the_entry_is_read_back_and_not_written_again() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        kernel.state().lose_next_answer = true;
        let _world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
        let writes = kernel.take_writes();
        let added = writes
            .iter()
            .filter(|write| write.contains("AddVirtualServer"))
            .count();
        assert_eq!(
            added, 2,
            "one virtual server and the standing entry: {writes:#?}"
        );
    });
}

#[test]
fn changes_of_another_program_are_repaired() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        let mut world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
        {
            let mut state = kernel.state();
            state.table.entries.remove(&key(ID));
            state.local.clear();
            state.firewall = None;
        }
        world
            .wait_for_kernel(|state| {
                state.weight(ID, ONE) == Some(1)
                    && state.local.len() == 1
                    && state.firewall.is_some()
            })
            .await;
        assert!(world.service_addresses().await[0].serving);
    });
}

#[test]
fn a_foreign_entry_with_a_desired_key_is_changed_to_an_owned_entry() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        kernel
            .state()
            .table
            .entries
            .insert(key(ID), foreign_entry());
        let _world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
        assert!(kernel.state().table.entries[&key(ID)].settings.owned);
        let writes = kernel.take_writes();
        assert!(
            !writes.iter().any(|write| write.contains("RemoveVirtual")),
            "{writes:#?}"
        );
    });
}

#[test]
fn listed_real_servers_have_the_kernels_connection_counters() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        let counters = ConnectionCounts {
            active: 12,
            inactive: 34,
        };
        kernel
            .state()
            .connections
            .insert(ONE.parse().unwrap(), counters);
        let mut world = TestDataPlane::serving(&kernel, &[virtual_server(ID, &[ONE])]).await;
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
fn missing_sysctls_that_masquerade_needs_are_set() {
    run(|| async {
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        kernel
            .state()
            .sysctls
            .insert("net/ipv4/vs/sloppy_tcp".into(), "1".into());
        let mut world = TestDataPlane::start(&kernel).await;
        let mut server = virtual_server(ID, &[ONE]);
        server.forwarding_method = ForwardingMethod::Masquerade;
        assert_eq!(server.id.protocol, Protocol::Tcp);
        world.publish(&[server]);
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
fn a_masquerade_virtual_server_is_not_served_until_ip_forward_is_set() {
    run(|| async {
        const FORWARD: &str = "net/ipv4/ip_forward";
        let _one = real_server(ONE).await;
        let kernel = FakeIpvsKernel::default();
        kernel.state().read_only_sysctl = Some(FORWARD);
        let mut world = TestDataPlane::start(&kernel).await;
        let mut server = virtual_server(ID, &[ONE]);
        world.publish(std::slice::from_ref(&server));
        world.wait_until_serving(RANGE).await;
        // The existing entry has to be removed: with Masquerade, clients would get no answer.
        server.forwarding_method = ForwardingMethod::Masquerade;
        world.publish(&[server]);
        world
            .wait_for(|address| !address.serving && address.detail.contains("ip_forward"))
            .await;
        assert!(kernel.state().weight(ID, ONE).is_none());
        kernel.state().sysctls.insert(FORWARD.into(), "1".into());
        world.wait_until_serving(RANGE).await;
    });
}

#[test]
fn a_udp_virtual_server_is_not_served_without_expire_nodest_conn_and_removes_failed_real_servers() {
    run(|| async {
        const EXPIRE: &str = "net/ipv4/vs/expire_nodest_conn";
        let id = "udp/10.1.1.10:8080";
        let (one, _two) = (real_server(ONE).await, real_server(TWO).await);
        let kernel = FakeIpvsKernel::default();
        kernel.state().read_only_sysctl = Some(EXPIRE);
        let mut world = TestDataPlane::start(&kernel).await;
        let mut server = virtual_server(id, &[ONE, TWO]);
        server.health_check.as_mut().unwrap().kind = HealthCheckKind::TcpConnect {
            port: 8080.try_into().ok(),
        };
        world.publish(std::slice::from_ref(&server));
        world
            .wait_for(|address| !address.serving && address.detail.contains("expire_nodest_conn"))
            .await;
        assert!(kernel.state().weight(id, TWO).is_none());
        kernel.state().sysctls.insert(EXPIRE.into(), "1".into());
        world.wait_until_serving(RANGE).await;

        // `on_failure` has its default `Quiesce`, but with UDP a failed real server leaves the
        // table.
        world.wait_for_weight(id, ONE, Some(1)).await;
        drop(one);
        world.wait_for_weight(id, ONE, None).await;
        server.real_servers[1].state = RealServerState::Draining;
        world.publish(&[server]);
        world.wait_for_weight(id, TWO, None).await;
        let written = kernel.take_writes();
        let quiesced = written.iter().find(|write| write.contains("SetRealServer"));
        assert_eq!(quiesced, None, "{written:#?}");
        world.wait_for(|address| !address.serving).await;
    });
}
