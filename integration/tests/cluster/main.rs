//! Test of the whole system on a real cluster.
//!
//! The test applies the unchanged `manifests/`. A client outside of the cluster counts its lost
//! requests while each case changes something in the cluster.
//!
//! All cases run one after the other on one cluster, because a cluster needs a minute to start. If
//! a case fails, its details have the state of the cluster and the logs of all pods, and the next
//! case runs.
//!
//! kube-proxy starts in nftables mode. At the end kube-proxy changes to iptables mode, and the
//! cases that the rules of kube-proxy could disturb run a second time.
//!
//! `LAB_CASES=scale,drain` runs the cases whose names contain `scale` or `drain`, and
//! `first-address`, which every other case needs. A word that begins with `iptables-` also runs the
//! change to iptables mode.

mod applications;
mod faults;
mod proxy_mode;
mod report;
mod rolling;
mod runner;
mod teardown;

use anyhow::{Result, ensure};

use runner::CaseRunner;

#[test]
fn a_client_loses_at_most_the_requests_that_each_case_allows() -> Result<()> {
    let mut runner = CaseRunner::set_up()?;
    runner.case("first-address", rolling::first_address);
    runner.case("scale-web", rolling::scale_web);
    runner.case("roll-web", rolling::roll_web);
    runner.case("second-application", applications::second_application);
    runner.case("roll-load-balancers", rolling::roll_load_balancers);
    runner.case(
        "delete-second-application",
        applications::delete_second_application,
    );
    runner.case("delete-load-balancer", faults::delete_load_balancer);
    runner.case("restart-reflectors", rolling::restart_reflectors);
    runner.case("bad-annotation", applications::bad_annotation);
    runner.case("drain-node", rolling::drain_node);
    runner.case("masquerade", applications::masquerade);
    runner.case("stop-kubelet", faults::stop_kubelet_and_containerd);
    runner.case("stop-api-server", faults::stop_api_server);
    runner.case("delete-everything", teardown::delete_everything);
    if runner.is_chosen("iptables-") {
        runner.case("iptables-mode", proxy_mode::change_to_iptables);
        runner.case("iptables-first-address", rolling::first_address);
        runner.case("iptables-roll-load-balancers", rolling::roll_load_balancers);
        runner.case("iptables-delete-everything", teardown::delete_while_serving);
    }
    let failed = runner.finish();
    ensure!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    Ok(())
}
