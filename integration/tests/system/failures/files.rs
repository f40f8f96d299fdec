//! Tests of invalid and missing files of virtual servers.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::reference::ReferenceOptions;
use lab::system::{DaemonInstance, System};

use crate::expect::{
    ensure_no_connection_was_lost, ensure_no_route_changed, eventually, metric,
    persistent_connections, wait_for_readyz, wait_for_weight,
};

const WATCHER: DaemonInstance = DaemonInstance::PodWatcher(0);

/// Waits until pod-watcher reports that it uses the current content of the file, or, if `is_in_use`
/// is false, that it does not use this content.
fn wait_until_in_use(system: &System, is_in_use: bool) -> Result<()> {
    eventually(&format!("pod-watcher uses the file: {is_in_use}"), || {
        let value = metric(system, WATCHER, "portlb_source_in_use")?;
        ensure!(value == f64::from(u8::from(is_in_use)), "{value}");
        Ok(())
    })
}

#[test]
fn an_invalid_or_missing_file_of_virtual_servers_changes_nothing_until_it_is_corrected() {
    let system = System::up("file-invalid", ReferenceOptions::default()).unwrap();
    let connections = persistent_connections(&system).unwrap();
    let changes = system.fib.changes().len();
    let file = system.desired_file(0).unwrap();
    let good = system.web().text();
    let unknown_field = good.replacen("addresses:", "adresses:", 1);
    assert_ne!(unknown_field, good);
    fs::write(&file, unknown_field).unwrap();
    wait_until_in_use(&system, false).unwrap();
    // pod-watcher serves the last good state, so the pod stays ready. `/readyz` has the error.
    wait_for_readyz(&system, WATCHER, "ready source", "`addresses`").unwrap();
    assert_eq!(system.desired(0).unwrap().virtual_servers.len(), 2);
    fs::remove_file(&file).unwrap();
    wait_for_readyz(&system, WATCHER, "ready source", "No such file").unwrap();
    assert_eq!(system.desired(0).unwrap().virtual_servers.len(), 2);
    fs::write(&file, &good).unwrap();
    wait_until_in_use(&system, true).unwrap();
    ensure_no_connection_was_lost(connections).unwrap();

    // The corrected file takes effect. With a drain timeout of 0 the removed real server leaves the
    // table immediately, although it has established connections.
    let mut fewer = System::web_of(&system.network.web_pods[1..]);
    for virtual_server in &mut fewer.virtual_servers {
        virtual_server.drain_timeout = Some(Duration::ZERO);
    }
    let connections = persistent_connections(&system).unwrap();
    fs::write(&file, fewer.text()).unwrap();
    let removed = IpAddr::from(system.network.web_pods[0].address);
    wait_for_weight(&system, 0, removed, None).unwrap();
    fs::write(&file, &good).unwrap();
    wait_for_weight(&system, 0, removed, Some(1)).unwrap();
    ensure_no_route_changed(&system, changes).unwrap();
    drop(connections);
}
