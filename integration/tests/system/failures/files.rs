//! Files that cannot be used, are gone for a while, or are swapped as Kubernetes does.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use lab::reference::Options;
use lab::system::{Daemon, System};

use crate::expect::{
    ensure_no_route_changed, ensure_none_was_lost, eventually, metric, persistent_connections,
    until_readyz, until_weight,
};

const WATCHER: Daemon = Daemon::PodWatcher(0);

/// Waits until the newest state of the file is in use, or is not.
fn until_in_use(system: &System, is_in_use: bool) -> Result<()> {
    eventually(&format!("the file is in use: {is_in_use}"), || {
        let value = metric(system, WATCHER, "portlb_source_in_use")?;
        ensure!(value == f64::from(u8::from(is_in_use)), "{value}");
        Ok(())
    })
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing_until_it_is_corrected() {
    let system = System::up("file-invalid", Options::default()).unwrap();
    let connections = persistent_connections(&system).unwrap();
    let changes = system.fib.changes().len();
    let good = system.web().text();
    let unknown_field = good.replacen("\"addresses\"", "\"adresses\"", 1);
    let half = &good[..good.len() / 2];
    let invalid = [
        (unknown_field.as_str(), "addresses"),
        (half, ":"),
        ("", ":"),
        (
            "apiVersion: portlb.io/v1\nkind: VirtualServers\nvirtualServers:\n",
            ":3:",
        ),
    ];
    let mut failures = 0.0;
    for (text, words) in invalid {
        system.write_desired_text(0, text).unwrap();
        until_in_use(&system, false).unwrap();
        // Its service goes on, so the pod stays ready, and says why it is not up to date.
        until_readyz(&system, WATCHER, "ready source", words).unwrap();
        let source = system.desired(0).unwrap().source.unwrap();
        assert!(source.last_error.contains(words), "{source:?}");
        let counted = metric(&system, WATCHER, "portlb_source_failures_total").unwrap();
        assert!(counted > failures, "{counted}");
        failures = counted;
        assert_eq!(system.desired(0).unwrap().virtual_servers.len(), 2);
    }
    // The corrected file takes effect, at once also where connections last.
    let mut fewer = System::web_of(&system.network.web_pods[1..]);
    for virtual_server in &mut fewer.virtual_servers {
        virtual_server.drain_timeout = Some("0s");
    }
    system.write_desired_text(0, &fewer.text()).unwrap();
    until_in_use(&system, true).unwrap();
    let gone = IpAddr::from(system.network.web_pods[0].address);
    until_weight(&system, 0, gone, None).unwrap();
    assert!(
        system
            .desired(0)
            .unwrap()
            .source
            .unwrap()
            .last_error
            .is_empty()
    );
    system.write_desired_text(0, &good).unwrap();
    until_weight(&system, 0, gone, Some(1)).unwrap();
    ensure_no_route_changed(&system, changes).unwrap();
    drop(connections);
}

#[test]
fn a_file_that_is_deleted_or_truncated_in_place_keeps_the_last_good_state() {
    let system = System::up("file-deleted", Options::default()).unwrap();
    let connections = persistent_connections(&system).unwrap();
    let changes = system.fib.changes().len();
    let file = system.desired_file(0).unwrap();
    fs::remove_file(&file).unwrap();
    until_in_use(&system, false).unwrap();
    assert_eq!(system.desired(0).unwrap().virtual_servers.len(), 2);
    fs::write(&file, system.web().text()).unwrap();
    until_in_use(&system, true).unwrap();

    fs::write(&file, "").unwrap();
    until_in_use(&system, false).unwrap();
    fs::write(&file, system.web().text()).unwrap();
    until_in_use(&system, true).unwrap();
    ensure_none_was_lost(connections).unwrap();
    ensure_no_route_changed(&system, changes).unwrap();
}

#[test]
fn the_symlink_swap_of_a_mounted_config_map_is_followed() {
    let mut system = System::new("file-configmap", Options::default()).unwrap();
    // As the kubelet mounts it: KEY -> ..data/KEY, ..data -> ..VERSION.
    let volume = system.host(WATCHER).unwrap().run_directory().unwrap();
    let volume = volume.join("config");
    fs::create_dir(&volume).unwrap();
    publish(&volume, "..2026_01", &system.web().text());
    symlink("..data/web.yaml", volume.join("web.yaml")).unwrap();
    let until_real_servers = |system: &System, count: usize| {
        eventually(&format!("{count} real servers are desired"), || {
            let desired = system.desired(0)?;
            let servers = desired.virtual_servers.first();
            let seen = servers.map_or(0, |server| server.real_servers.len());
            ensure!(seen == count, "{seen}");
            Ok(())
        })
    };
    let path = volume.join("web.yaml").display().to_string();
    let versions = [("..2026_02", 5), ("..2026_03", 4), ("..2026_04", 6)];
    let texts: Vec<_> = versions
        .iter()
        .map(|(version, count)| {
            let desired = System::web_of(&system.network.web_pods[..*count]);
            (*version, *count, desired.text())
        })
        .collect();
    system.set_flags("pod-watcher", &[("--file", &path)]);
    system.start(WATCHER).unwrap();
    until_real_servers(&system, 6).unwrap();
    for (version, count, text) in texts {
        publish(&volume, version, &text);
        until_real_servers(&system, count).unwrap();
    }
    let failures = metric(&system, WATCHER, "portlb_source_failures_total").unwrap();
    assert!(failures == 0.0, "{failures}");
}

/// A new directory, a new link to it, renamed over the old one; then the old directory goes.
fn publish(volume: &Path, version: &str, text: &str) {
    let data = volume.join("..data");
    let old = fs::read_link(&data).ok();
    fs::create_dir(volume.join(version)).unwrap();
    fs::write(volume.join(version).join("web.yaml"), text).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), data).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old)).unwrap();
    }
}
