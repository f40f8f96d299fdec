//! Cases in which a part of the cluster fails.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::report::{AllowedLoss, CaseOutcome};
use crate::rolling::wait_for_web_answers;
use crate::runner::{CaseRunner, FRESH_PER_SECOND, LASTING, LONG, PodOnNode, WEB};

/// Time until health checks report a real server that does not answer as failed.
///
/// By default `interval` x `fall` + `timeout` is 2 s x 3 + 1 s = 7 s. The first probe after the
/// failure can start up to one `interval` later, so the time is at most 9 s.
const DETECTION: Duration = Duration::from_secs(9);
/// Time without an API server, except in a complete run. It is longer than the duration of
/// pod-watcher's Lease (15 s), so that the Lease expires.
const OUTAGE: Duration = Duration::from_secs(36);
/// Time without an API server in a complete run (`make test-all`).
const LONG_OUTAGE: Duration = Duration::from_secs(120);

/// Deletes an lb pod with `kubectl delete pod --force`, and allows no loss.
///
/// The BGP sessions of the lb pod end together with its processes, so the router stops using the lb
/// pod at once. Only packets in flight are lost, and TCP repeats these packets. Established
/// connections continue through the lb pod that was not deleted.
pub(crate) fn delete_load_balancer(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let balancers = runner.pods("web", "load-balancer")?;
    let pod = balancers.first().context("there is no lb pod")?;
    let began = Instant::now();
    runner.cluster.kubectl(&[
        "delete",
        "pod",
        "-n",
        "web",
        &pod.name,
        "--force",
        "--grace-period=0",
    ])?;
    runner.wait_for_rollout("web", "deployment/load-balancer")?;
    let since = runner.wait_for_next_hops("web", WEB)?;
    wait_for_web_answers(runner, since)?;
    Ok(AllowedLoss::no_loss(format!(
        "a new lb pod announced the address {} s after the deletion",
        (since - began).as_secs()
    )))
}

/// Stops kubelet and containerd of one node, and starts them after the node is `NotReady`.
///
/// The processes of the node's pods continue to run. While the node is `NotReady`, its web pods get
/// no new connections and keep their established connections. No request may be lost.
pub(crate) fn stop_kubelet_and_containerd(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let web = runner.pods("web", "web")?;
    let name = web.first().context("there is no web pod")?.node.clone();
    let (on_node, all) = (count_on_node(&web, &name), web.len());
    runner.cluster.node(&name)?.stop_kubelet_and_containerd()?;
    let node = format!("node/{name}");
    let until = "--for=condition=Ready=Unknown";
    runner.cluster.wait(&node, until, &[], LONG)?;
    runner.wait_for_servers(all - on_node)?;
    runner
        .cluster
        .node_mut(&name)?
        .start_kubelet_and_containerd()?;
    runner
        .cluster
        .wait(&node, "--for=condition=Ready", &[], LONG)?;
    runner.wait_for_rollout("web", "deployment/web")?;
    let since = runner.wait_for_next_hops("web", WEB)?;
    wait_for_web_answers(runner, since)?;
    Ok(AllowedLoss::no_loss(format!(
        "{name} was NotReady during the case and is Ready"
    )))
}

/// Stops the API server for [`OUTAGE`], or for [`LONG_OUTAGE`] in a complete run, and kills all
/// processes of a web pod at the beginning of the outage.
///
/// Without the API server only health checks can detect that the web pod has failed.
pub(crate) fn stop_api_server(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let web = runner.pods("web", "web")?;
    let (victim, all) = (
        web.first().context("there is no web pod")?.clone(),
        web.len(),
    );
    ensure!(all > 1, "the case needs a second web pod: {web:?}");
    runner.cluster.stop_api_server()?;
    let stopped = Instant::now();
    kill(runner, &victim)?;
    wait_for_web_answers(runner, stopped + DETECTION + Duration::from_secs(10))?;
    let quiet_from = stopped + DETECTION + Duration::from_secs(10);
    let outage = match lab::is_complete() {
        true => LONG_OUTAGE,
        false => OUTAGE,
    };
    std::thread::sleep((stopped + outage).saturating_duration_since(Instant::now()));
    let quiet = runner
        .load
        .count(quiet_from, Instant::now() - Duration::from_secs(11));
    runner.cluster.start_api_server()?;
    runner.wait_for_rollout("web", "deployment/web")?;
    runner.wait_for_servers(all)?;
    ensure!(
        quiet.lost() == 0,
        "requests were lost after health checks had detected the killed web pod: {quiet}"
    );
    let sent = FRESH_PER_SECOND as usize * DETECTION.as_secs() as usize;
    Ok(CaseOutcome {
        allowed_loss: AllowedLoss::Lost {
            // The client tries to replace each lost lasting connection once a second. A failed
            // attempt counts as a lost fresh request.
            fresh: sent / all + sent / 10 + LASTING,
            // `mh` does not spread this small number of connections evenly, so half of all lasting
            // connections is added.
            lasting: LASTING / all + LASTING / 2,
        },
        note: format!(
            "{} was killed; after its detection as failed no request was lost: {quiet}",
            victim.name
        ),
    })
}

/// Kills every process of a pod simultaneously.
fn kill(runner: &CaseRunner, pod: &PodOnNode) -> Result<()> {
    let script = format!(
        "killed=0; for cgroup in $(find /sys/fs/cgroup -type d -name 'pod{}'); do \
         echo 1 >$cgroup/cgroup.kill; killed=1; done; test $killed = 1",
        pod.uid
    );
    let node = runner.cluster.node(&pod.node)?;
    node.output("bash", &["-euc", &script]).map(drop)
}

fn count_on_node(pods: &[PodOnNode], node: &str) -> usize {
    pods.iter().filter(|pod| pod.node == node).count()
}
