//! The whole system on a real cluster: what a user applies, applied as it
//! stands, and a client outside that counts what it loses meanwhile.
//!
//! One cluster serves all cases in turn, since it takes a minute to come up. A
//! case that fails is reported, with the state of the cluster and the logs of
//! all pods, and the next one runs.
//!
//! kube-proxy is in its nftables mode. At the end it changes to its iptables mode, and the cases
//! run again that its rules could disturb.
//!
//! `LAB_CASES=scale,drain` runs the cases whose names contain one of these words, and the cases that
//! they depend on. A word that begins with `iptables-` also runs the change of the mode.

mod applications;
mod faults;
mod proxy_mode;
mod report;
mod rolling;
mod stage;
mod teardown;

use anyhow::{Result, ensure};

use stage::Stage;

#[test]
fn a_client_outside_loses_nothing_while_a_real_cluster_changes() -> Result<()> {
    let mut stage = Stage::set_up()?;
    stage.case("first-address", rolling::first_address);
    stage.case("scale-web", rolling::scale_web);
    stage.case("roll-web", rolling::roll_web);
    stage.case("second-application", applications::second_application);
    stage.case("roll-load-balancers", rolling::roll_load_balancers);
    stage.case(
        "second-application-gone",
        applications::delete_second_application,
    );
    stage.case("delete-load-balancer", faults::delete_load_balancer);
    stage.case("reflectors", rolling::restart_reflectors);
    stage.case("bad-annotation", applications::bad_annotation);
    stage.case("drain-node", rolling::drain_node);
    stage.case("masquerade", applications::masquerade);
    stage.case("stop-kubelet", faults::stop_kubelet_and_containerd);
    stage.case("stop-api-server", faults::stop_api_server);
    stage.case("delete-everything", teardown::delete_everything);
    if stage.is_chosen("iptables-") {
        stage.case("iptables-mode", proxy_mode::change_to_iptables);
        stage.case("iptables-first-address", rolling::first_address);
        stage.case("iptables-roll-load-balancers", rolling::roll_load_balancers);
        stage.case(
            "iptables-delete-everything",
            teardown::delete_while_it_works,
        );
    }
    let failed = stage.finish();
    ensure!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    Ok(())
}
