//! Faults: what each may cost the client outside, and not more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::report::{Outcome, Price};
use crate::rolling::settle;
use crate::stage::{FRESH_PER_SECOND, LASTING, LONG, PodOnNode, Stage, WEB};

/// Until health checks call a silent real server failed: `interval` x `fall` +
/// `timeout`, by default 2 s x 3 + 1 s, and the grid on which they run.
const DETECTION: Duration = Duration::from_secs(9);
/// Longer than the lease of the watcher that writes the Service's status (15 s), so that it ends.
const OUTAGE: Duration = Duration::from_secs(36);
/// The same where the run takes its time (`make test-all`).
const LONG_OUTAGE: Duration = Duration::from_secs(120);

/// `kubectl delete pod --force` of a load balancer: its sessions end with its
/// processes, so packets in flight are all that is lost, and TCP repeats them.
/// Established connections go on through the other one.
pub(crate) fn delete_load_balancer(stage: &mut Stage) -> Result<Outcome> {
    let balancers = stage.pods("web", "load-balancer")?;
    let pod = balancers.first().context("a load-balancer pod")?;
    let began = Instant::now();
    stage.cluster.kubectl(&[
        "delete",
        "pod",
        "-n",
        "web",
        &pod.name,
        "--force",
        "--grace-period=0",
    ])?;
    stage.wait_for_rollout("web", "deployment/load-balancer")?;
    let since = stage.wait_for_next_hops("web", WEB)?;
    settle(stage, since)?;
    Ok(Price::nothing(format!(
        "replaced and announced after {} s",
        (since - began).as_secs()
    )))
}

/// Pods go on without them. When the cluster calls the node lost, its web pods get no new
/// connections; those that they have go on, and all is as before when the node is back.
pub(crate) fn stop_kubelet_and_containerd(stage: &mut Stage) -> Result<Outcome> {
    let web = stage.pods("web", "web")?;
    let name = web.first().context("a web pod")?.node.clone();
    let (here, all) = (on(&web, &name), web.len());
    stage.cluster.node(&name)?.stop_kubelet_and_containerd()?;
    let node = format!("node/{name}");
    let until = "--for=condition=Ready=Unknown";
    stage.cluster.wait(&node, until, &[], LONG)?;
    stage.wait_for_servers(all - here)?;
    stage
        .cluster
        .node_mut(&name)?
        .start_kubelet_and_containerd()?;
    stage
        .cluster
        .wait(&node, "--for=condition=Ready", &[], LONG)?;
    stage.wait_for_rollout("web", "deployment/web")?;
    let since = stage.wait_for_next_hops("web", WEB)?;
    settle(stage, since)?;
    Ok(Price::nothing(format!(
        "{name} was lost to the cluster and came back"
    )))
}

/// The API server is away for [`OUTAGE`]; meanwhile a web pod dies with all
/// of its processes, of which only the health checks can tell.
pub(crate) fn stop_api_server(stage: &mut Stage) -> Result<Outcome> {
    let web = stage.pods("web", "web")?;
    let (victim, all) = (web.first().context("a web pod")?.clone(), web.len());
    ensure!(all > 1, "nobody would be left: {web:?}");
    stage.cluster.stop_api_server()?;
    let stopped = Instant::now();
    kill(stage, &victim)?;
    settle(stage, stopped + DETECTION + Duration::from_secs(10))?;
    let quiet_from = stopped + DETECTION + Duration::from_secs(10);
    let outage = match lab::is_complete() {
        true => LONG_OUTAGE,
        false => OUTAGE,
    };
    std::thread::sleep((stopped + outage).saturating_duration_since(Instant::now()));
    let quiet = stage
        .load
        .count(quiet_from, Instant::now() - Duration::from_secs(11));
    stage.cluster.start_api_server()?;
    stage.wait_for_rollout("web", "deployment/web")?;
    stage.wait_for_servers(all)?;
    ensure!(
        quiet.lost() == 0,
        "lost while only the API server was away: {quiet}"
    );
    let sent = FRESH_PER_SECOND as usize * DETECTION.as_secs() as usize;
    Ok(Outcome {
        price: Price::Lost {
            // The latter try again each second.
            fresh: sent / all + sent / 10 + LASTING,
            // The hash is not fair to so few.
            lasting: LASTING / all + LASTING / 2,
        },
        note: format!(
            "{} died, nothing was lost once it was out: {quiet}",
            victim.name
        ),
    })
}

/// Kills every process of a pod at once.
fn kill(stage: &Stage, pod: &PodOnNode) -> Result<()> {
    let script = format!(
        "found=0; for cgroup in $(find /sys/fs/cgroup -type d -name 'pod{}'); do \
         echo 1 >$cgroup/cgroup.kill; found=1; done; test $found = 1",
        pod.uid
    );
    let node = stage.cluster.node(&pod.node)?;
    node.output("bash", &["-euc", &script]).map(drop)
}

fn on(pods: &[PodOnNode], node: &str) -> usize {
    pods.iter().filter(|pod| pod.node == node).count()
}
