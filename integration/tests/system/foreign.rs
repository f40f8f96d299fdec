//! Tests with entries, routes and tables of other programs.
//!
//! portlb changes no foreign state, except an IPVS entry of a virtual server in the desired set:
//! portlb adopts this entry. When another program changes the state of portlb, portlb repairs its
//! state.

use std::{net::SocketAddr, process::Command, time::Duration};

use lab::{
    Host, Signal, ensure_that, http,
    reference::{ReferenceOptions, SERVICE_RANGE, SERVICE_RANGE6},
    system::{DaemonInstance, Desired, System, port},
    wait_for,
};
use virtual_server::Ports;

use crate::forwarding::{
    SOON, one_lb_pod, only_ranges, service, start_one_lb_pod, table, virtual_server,
    wait_for_table, wait_until_serving,
};

/// Input of `ipvsadm`: foreign virtual servers. No desired set of the tests contains their
/// addresses or their firewall mark.
const FOREIGN_ENTRIES: &str = "\
-A -t 10.9.9.9:80 -s wlc -p 120
-a -t 10.9.9.9:80 -r 10.9.9.1:8080 -m -w 3
-a -t 10.9.9.9:80 -r 10.9.9.2:80 -m -w 700
-A -u [fd00:9::9]:53 -s sh -b sh-port
-a -u [fd00:9::9]:53 -r [fd00:9::1]:53 -g -w 0
-A -f 77 -s mh
-a -f 77 -r 10.9.9.3:0 -i -w 5
";
/// Input of `ipvsadm` after the daemons have started: two foreign virtual servers. The second one
/// uses a service address of portlb, with a port that portlb does not use.
const LATER_ENTRIES: &str = "\
-A -t 10.9.9.10:443 -s rr
-a -t 10.9.9.10:443 -r 10.9.9.1:443 -g -w 1
-A -t 10.1.1.1:2222 -s rr
-a -t 10.1.1.1:2222 -r 10.9.9.1:2222 -g -w 1
";
const FOREIGN_TABLE: &str = "\
table inet mine {
  chain input {
    type filter hook input priority filter; policy accept;
    ip saddr 10.9.9.9 drop
  }
}
table ip portlb-ipvs {
  chain other-family {
  }
}
";
/// Routes of another program. The test adds all of them to the lb pod, and only the first two to a
/// node.
const FOREIGN_ROUTES: &str = "\
route add 10.77.0.0/16 via 10.2.1.11
route add 10.1.1.77/32 via 10.2.1.11 metric 9 proto static
route add local 10.9.9.0/24 dev lo
route add local fd00:9::/64 dev lo
";

/// Returns the routes and nftables tables of a host that do not belong to portlb. If `is_lb_pod` is
/// true, also returns the host's IPVS entries that do not belong to portlb.
fn foreign_state(host: &Host, is_lb_pod: bool) -> String {
    let output = |program, arguments: &[&str]| host.output(program, arguments).unwrap();
    let mut routes = output("ip", &["-4", "route", "show", "table", "all"]);
    routes += &output("ip", &["-6", "route", "show", "table", "all"]);
    let mut lines: Vec<_> = routes.lines().collect();
    // ipvs-programmer writes routes with protocol 80, and node-router with protocol 112.
    lines.retain(|line| !line.contains("proto 80") && !line.contains("proto 112"));
    // `ip route` prints the next hops of node-router's multipath routes in separate lines, which
    // begin with a tab.
    lines.retain(|line| !line.starts_with('\t'));
    lines.sort_unstable();
    let mut state = lines.join("\n");
    for name in output("nft", &["list", "tables"]).lines() {
        if !name.contains("inet portlb-") {
            let arguments: Vec<_> = ["-s", "list"].into_iter().chain(name.split(' ')).collect();
            state += &output("nft", &arguments);
        }
    }
    if is_lb_pod {
        let entries = output("ipvsadm", &["--save", "--numeric"]);
        let is_foreign = |line: &&str| {
            ["10.9.9.", "fd00:9:", "-f 77", ":2222"]
                .iter()
                .any(|part| line.contains(part))
        };
        let mut entries: Vec<_> = entries.lines().filter(is_foreign).collect();
        entries.sort_unstable();
        state += &entries.join("\n");
    }
    state
}

#[test]
fn foreign_entries_routes_and_tables_survive_start_change_restart_and_end_of_the_daemons() {
    let mut system = System::new(
        "foreign",
        ReferenceOptions {
            web_pods: 3,
            ..ReferenceOptions::default()
        },
    )
    .unwrap();
    for program in ["ipvs-programmer", "node-router"] {
        system.set_flags(program, &[("--audit-interval", "1s")]);
    }
    system.write_desired(&web(&system)).unwrap();
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
    let node = system.host(DaemonInstance::NodeRouter(0)).unwrap();
    lb_host.ipvs(FOREIGN_ENTRIES).unwrap();
    for (host, routes) in [(&lb_host, 4), (&node, 2)] {
        host.nft(FOREIGN_TABLE).unwrap();
        let lines: Vec<_> = FOREIGN_ROUTES.lines().take(routes).collect();
        host.ip(&lines.join("\n")).unwrap();
    }
    let state = || [foreign_state(&lb_host, true), foreign_state(&node, false)];
    let mut expected = state();
    assert!(expected[0].contains("-f 77") && expected[0].contains("chain other-family"));
    let check = |expected: &[String; 2], when: &str| {
        let actual = state();
        for (actual, expected) in actual.iter().zip(expected) {
            assert!(
                actual == expected,
                "{when}\nactual:\n{actual}\nexpected:\n{expected}"
            );
        }
    };

    start_one_lb_pod(&mut system);
    wait_until_serving(&system, 0);
    check(&expected, "after the start");

    lb_host.ipvs(LATER_ENTRIES).unwrap();
    expected = state();
    assert!(expected[0].contains("10.1.1.1:2222"));
    system
        .write_desired(&only_ranges().with(virtual_server(2, Ports::All, &system.network.web_pods)))
        .unwrap();
    wait_for_table(
        &system,
        0,
        "the new virtual server replaces the previous one",
        |table| {
            !table.iter().any(|line| line.contains("10.1.1.1:80"))
                && table.iter().any(|line| is_own_mark_entry(line))
        },
    );
    check(&expected, "after a change");
    wait_for_audits(&system, 2);
    check(&expected, "after an audit");
    system.write_desired(&Desired::new([])).unwrap();
    wait_for("ipvs-programmer has removed its routes", SOON, || {
        let routes = lb_host.output("ip", ["route", "show", "table", "all", "proto", "80"]);
        let routes = routes.map_err(|error| format!("{error:#}"))?;
        ensure_that(routes.is_empty(), routes)
    })
    .unwrap();
    check(&expected, "with an empty desired set");
    system.write_desired(&web(&system)).unwrap();
    system.wait_until_announced(&[0], SOON).unwrap();

    for daemon in [
        DaemonInstance::IpvsProgrammer(0),
        DaemonInstance::NodeRouter(0),
    ] {
        system.kill(daemon).unwrap();
        check(&expected, "after a kill");
        system.start(daemon).unwrap();
    }
    wait_until_serving(&system, 0);
    wait_for_audits(&system, 2);
    check(&expected, "after a restart");
    for daemon in [
        DaemonInstance::BgpAnnouncer(0),
        DaemonInstance::IpvsProgrammer(0),
        DaemonInstance::NodeRouter(0),
    ] {
        assert!(system.stop(daemon).unwrap().success(), "{daemon}");
    }
    check(&expected, "after the end");
    // After ipvs-programmer has ended, its entries stay in the kernel.
    assert!(
        table(&system, 0)
            .iter()
            .any(|line| line.contains("10.1.1.1:80"))
    );
}

fn web(system: &System) -> Desired {
    only_ranges().with(virtual_server(1, port(80), &system.network.web_pods))
}

/// Waits until ipvs-programmer has finished `count` audits that have started after the call.
fn wait_for_audits(system: &System, count: u32) {
    // Each round sets a wrong weight and waits until an audit has repaired the weight. So the
    // repairing audit has read the weight after the round began.
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
    for _ in 0..count {
        let line = table(system, 0)
            .into_iter()
            .find(|line| line.starts_with("-a -t 10.1.1.1:80"));
        let line = line.unwrap_or_else(|| {
            let mark = table(system, 0)
                .into_iter()
                .find(|line| is_own_mark_entry(line));
            mark.expect("ipvs-programmer has an entry with real servers")
        });
        let words: Vec<_> = line.split(' ').collect();
        let edit = ["-e", words[1], words[2], "-r", words[4], "-i", "-w", "9"];
        lb_host.output("ipvsadm", edit).unwrap();
        wait_for_table(system, 0, "an audit has repaired the weight", |table| {
            !table.iter().any(|line| line.contains("-w 9"))
        });
    }
}

fn is_own_mark_entry(line: &str) -> bool {
    line.starts_with("-a -f") && !line.starts_with("-a -f 77") && !line.contains(" -6 ")
}

#[test]
fn a_conflicting_entry_is_adopted_and_a_conflicting_route_is_used_but_not_adopted() {
    let mut system = System::new(
        "taken-over",
        ReferenceOptions {
            web_pods: 3,
            ..ReferenceOptions::default()
        },
    )
    .unwrap();
    system.set_flags("ipvs-programmer", &[("--audit-interval", "1s")]);
    system.write_desired(&web(&system)).unwrap();
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
    let first = &system.network.web_pods[0];
    lb_host
        .ipvs(&format!(
            "-A -t 10.1.1.1:80 -s wlc -p 60\n-a -t 10.1.1.1:80 -r {}:80 -m -w 3\n\
             -a -t 10.1.1.1:80 -r 10.9.9.1:80 -i -w 5\n",
            first.address
        ))
        .unwrap();
    let routes =
        format!("route add local {SERVICE_RANGE} dev lo\nroute add local {SERVICE_RANGE6} dev lo");
    lb_host.ip(&routes).unwrap();
    start_one_lb_pod(&mut system);
    wait_until_serving(&system, 0);

    let lines = table(&system, 0);
    let of_entry = |lines: &[String]| {
        let mut entry = lines.to_vec();
        entry.retain(|line| line.contains(" -t 10.1.1.1:80 "));
        entry
    };
    let entry = of_entry(&lines);
    assert_eq!(entry.len(), 4, "{entry:?}");
    assert_eq!(entry[0], "-A -t 10.1.1.1:80 -s rr");
    assert!(
        entry[1..].iter().all(|line| line.contains(" -i -w 1")),
        "{entry:?}"
    );
    let client = system.network.client().unwrap();
    for address in service(1) {
        let answers = http::spread(&client, SocketAddr::new(address, 80), 6, SOON).unwrap();
        assert_eq!(answers.len(), 3, "{answers:?}");
    }

    system.write_desired(&Desired::new([])).unwrap();
    wait_for_table(
        &system,
        0,
        "ipvs-programmer removes the adopted entry",
        |table| of_entry(table).is_empty(),
    );
    for (version, range) in [
        ("-4", SERVICE_RANGE.to_string()),
        ("-6", SERVICE_RANGE6.to_string()),
    ] {
        let routes = lb_host
            .output("ip", [version, "route", "show", "table", "local"])
            .unwrap();
        assert!(routes.contains(&range), "{routes}");
    }
}

#[test]
fn the_audit_repairs_entries_routes_and_guards_that_another_program_changes() {
    let mut system = System::new(
        "drift",
        ReferenceOptions {
            web_pods: 3,
            ..ReferenceOptions::default()
        },
    )
    .unwrap();
    system.set_flags("ipvs-programmer", &[("--audit-interval", "1s")]);
    let range = virtual_server(2, "80-99".parse().unwrap(), &system.network.web_pods);
    system.write_desired(&web(&system).with(range)).unwrap();
    start_one_lb_pod(&mut system);
    wait_until_serving(&system, 0);
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
    let pod = &system.network.web_pods[1];
    let server6 = SocketAddr::new(service(1)[1], 80);
    let real_server = SocketAddr::new(pod.address.into(), 80);
    let real_server6 = SocketAddr::new(pod.address6.into(), 80);
    let all = |host: &Host| {
        let mut lines = table(&system, 0);
        lines.sort();
        let local = ["-4", "-6"].map(|version| {
            host.output(
                "ip",
                [version, "route", "show", "table", "local", "proto", "80"],
            )
            .unwrap()
        });
        let guards = host.output("nft", ["-s", "list", "ruleset"]).unwrap();
        (lines, local, guards)
    };
    let correct = all(&lb_host);
    assert!(
        correct.1.iter().all(|routes| !routes.is_empty()),
        "{correct:?}"
    );

    let mut repaired = 0;
    for drifts in [
        vec![
            "ipvsadm -D -t 10.1.1.1:80".to_owned(),
            format!("ipvsadm -d -t {server6} -r {real_server6}"),
            "ip route del local 10.1.1.0/24 dev lo table local".to_owned(),
            "nft flush chain inet portlb-ipvs output".to_owned(),
        ],
        vec![
            "ipvsadm -a -t 10.1.1.1:80 -r 10.9.9.9:80 -i".to_owned(),
            format!("ipvsadm -e -t 10.1.1.1:80 -r {real_server} -m -w 7"),
            // `ipvsadm -E` also clears the flag by which ipvs-programmer recognizes its own
            // entries.
            format!("ipvsadm -E -t {server6} -s wlc -p 60"),
            "ip -6 route del local fd00:10:1:1::/64 dev lo table local".to_owned(),
            "nft delete chain inet portlb-ipvs marks".to_owned(),
        ],
        vec!["ipvsadm -C".to_owned(), "nft flush ruleset".to_owned()],
    ] {
        let programmer = system.process(DaemonInstance::IpvsProgrammer(0)).unwrap();
        // While the process is stopped, no audit can run before all changes are made.
        programmer.signal(Signal::SIGSTOP).unwrap();
        for drift in &drifts {
            let before = all(&lb_host);
            let (program, arguments) = drift.split_once(' ').unwrap();
            lb_host.output(program, arguments.split(' ')).unwrap();
            assert!(all(&lb_host) != before, "{drift}");
        }
        programmer.signal(Signal::SIGCONT).unwrap();
        wait_for(&format!("the audit repairs {drifts:?}"), SOON, || {
            let actual = all(&lb_host);
            ensure_that(actual == correct, format!("{actual:#?}"))
        })
        .unwrap();
        let metrics = system.metrics(DaemonInstance::IpvsProgrammer(0)).unwrap();
        let count = metric(&metrics, "portlb_ipvs_repaired_total");
        assert!(count > repaired, "{metrics}");
        repaired = count;
    }
    let client = system.network.client().unwrap();
    for number in [1, 2] {
        for address in service(number) {
            let answers = http::spread(&client, SocketAddr::new(address, 80), 6, SOON).unwrap();
            assert_eq!(answers.len(), 3, "{answers:?}");
        }
    }
}

fn metric(metrics: &str, name: &str) -> u64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no metric {name} in\n{metrics}"))
        .parse()
        .unwrap()
}

#[test]
fn a_restarted_ipvs_programmer_writes_only_the_entries_that_differ_from_the_desired_set() {
    let mut system = one_lb_pod(
        "restart",
        ReferenceOptions {
            web_pods: 3,
            ..ReferenceOptions::default()
        },
        |system| {
            let range = virtual_server(2, "80-99".parse().unwrap(), &system.network.web_pods);
            web(system).with(range)
        },
    );
    let lb_host = system.host(DaemonInstance::IpvsProgrammer(0)).unwrap();
    let client = system.network.client().unwrap();
    let server = SocketAddr::new(service(1)[0], 80);
    http::spread(&client, server, 6, SOON).unwrap();
    // A new real server changes the order of the real servers, so an unchanged table shows that
    // ipvs-programmer has not replaced a single real server.
    let entries = || {
        lb_host
            .output("ipvsadm", ["-L", "-n"])
            .map(without_inactive)
            .unwrap()
    };
    let expected = entries();

    // `ip monitor` and `nft monitor` print each change of routes and of nftables. No monitor exists
    // for changes of IPVS.
    let monitors = [("ip", "monitor route"), ("nft", "monitor")].map(|(program, arguments)| {
        let mut command = Command::new(program);
        command.args(arguments.split(' '));
        lb_host
            .start(&format!("{program}-monitor"), command)
            .unwrap()
    });
    flush_monitors(&lb_host, &monitors, "10.66.0.1", "before");
    let own_words = ["proto 80", "portlb-ipvs"];
    let saw_own_change = || {
        let mut both = monitors.iter().zip(own_words);
        both.any(|(monitor, own)| monitor.lines().iter().any(|line| line.contains(own)))
    };
    for (signal, drift, changes) in [
        (Signal::SIGKILL, false, 0),
        (Signal::SIGTERM, false, 0),
        (Signal::SIGTERM, true, 1),
    ] {
        let process = system.process(DaemonInstance::IpvsProgrammer(0)).unwrap();
        process.signal(signal).unwrap();
        process.wait(SOON).unwrap();
        if drift {
            let real_server = SocketAddr::new(system.network.web_pods[1].address.into(), 80);
            let edit = format!("-e -t {server} -r {real_server} -i -w 7");
            lb_host.output("ipvsadm", edit.split(' ')).unwrap();
        }
        system.start(DaemonInstance::IpvsProgrammer(0)).unwrap();
        wait_until_serving(&system, 0);
        let metrics = system.metrics(DaemonInstance::IpvsProgrammer(0)).unwrap();
        let counted = metric(&metrics, "portlb_ipvs_changes_total");
        assert_eq!(counted, changes, "{signal}");
        assert_eq!(entries(), expected, "{signal}");
    }
    flush_monitors(&lb_host, &monitors, "10.66.0.2", "after");
    assert!(!saw_own_change(), "{:?}", monitors.map(|m| m.lines()));

    system.kill(DaemonInstance::IpvsProgrammer(0)).unwrap();
    lb_host
        .nft("flush chain inet portlb-ipvs output\nflush chain inet portlb-ipvs input")
        .unwrap();
    lb_host
        .ip(&format!(
            "route del local {SERVICE_RANGE} dev lo table local"
        ))
        .unwrap();
    flush_monitors(&lb_host, &monitors, "10.66.0.3", "between");
    let skipped = monitors.each_ref().map(|monitor| monitor.lines().len());
    system.start(DaemonInstance::IpvsProgrammer(0)).unwrap();
    for ((monitor, own), skipped) in monitors.iter().zip(own_words).zip(skipped) {
        monitor.wait_for_line_after(skipped, own, SOON).unwrap();
    }
    wait_until_serving(&system, 0);
}

/// Makes a change of a route and a change of nftables, and waits until each monitor has printed its
/// change.
///
/// After this wait the monitors have also printed every earlier change.
fn flush_monitors(host: &Host, monitors: &[lab::Process; 2], address: &str, name: &str) {
    wait_for("both monitors print a change", SOON, || {
        let route = format!("local {address} dev lo proto 99");
        host.ip(&format!("route add {route}\nroute del {route}"))?;
        host.nft(&format!("table ip {name} {{}}\ndelete table ip {name}"))?;
        let within = Duration::from_millis(200);
        monitors[0].wait_for_line(address, within)?;
        monitors[1].wait_for_line(name, within).map(drop)
    })
    .unwrap();
}

/// Returns the lines of an IPVS table without the numbers of active and inactive connections.
///
/// Connections end and expire while the test runs, so these numbers change without a change by a
/// program.
fn without_inactive(table: String) -> Vec<String> {
    let words = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        if words.first() == Some(&"->") {
            words.truncate(4);
        }
        words.join(" ")
    };
    table.lines().map(words).collect()
}
