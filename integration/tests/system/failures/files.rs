//! A file that cannot be used, or is gone for a while.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

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
fn a_file_that_cannot_be_used_or_is_gone_changes_nothing_until_it_is_corrected() {
    let system = System::up("file-invalid", Options::default()).unwrap();
    let connections = persistent_connections(&system).unwrap();
    let changes = system.fib.changes().len();
    let file = system.desired_file(0).unwrap();
    let good = system.web().text();
    let unknown_field = good.replacen("addresses:", "adresses:", 1);
    assert_ne!(unknown_field, good);
    fs::write(&file, unknown_field).unwrap();
    until_in_use(&system, false).unwrap();
    // It still serves the last good state, so the pod stays ready, and says why the state is old.
    until_readyz(&system, WATCHER, "ready source", "`addresses`").unwrap();
    assert_eq!(system.desired(0).unwrap().virtual_servers.len(), 2);
    fs::remove_file(&file).unwrap();
    until_readyz(&system, WATCHER, "ready source", "No such file").unwrap();
    assert_eq!(system.desired(0).unwrap().virtual_servers.len(), 2);
    fs::write(&file, &good).unwrap();
    until_in_use(&system, true).unwrap();
    ensure_none_was_lost(connections).unwrap();

    // The corrected file takes effect, at once also where connections last.
    let mut fewer = System::web_of(&system.network.web_pods[1..]);
    for virtual_server in &mut fewer.virtual_servers {
        virtual_server.drain_timeout = Some(Duration::ZERO);
    }
    let connections = persistent_connections(&system).unwrap();
    fs::write(&file, fewer.text()).unwrap();
    let gone = IpAddr::from(system.network.web_pods[0].address);
    until_weight(&system, 0, gone, None).unwrap();
    fs::write(&file, &good).unwrap();
    until_weight(&system, 0, gone, Some(1)).unwrap();
    ensure_no_route_changed(&system, changes).unwrap();
    drop(connections);
}
