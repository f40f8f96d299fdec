//! Cases that change applications: an invalid annotation, a second application, and `Masquerade`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lab::open_loop::Count;

use crate::report::{AllowedLoss, CaseOutcome};
use crate::rolling::{wait_for_answers, wait_for_web_answers};
use crate::runner::{CaseRunner, LONG, PodOnNode, WEB, start_load, wait_until};

const SHOP: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 10);
const MASQUERADE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 20);
const SECOND: &str = "manifests/examples/second-application";
const ANNOTATION: &str = "portlb.io/scheduler";

/// Sets an annotation of the Service `web` to an invalid value, then to a valid value, and removes
/// it.
///
/// While the value is invalid, requests are answered, and a Warning Event names the annotation and
/// the allowed values. The valid value takes effect in the kernel. After the removal of the
/// annotation the kernel has the default value.
pub(crate) fn bad_annotation(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let annotate = |value: &str| {
        let pair = format!("{ANNOTATION}={value}");
        runner.cluster.kubectl(&[
            "annotate",
            "service",
            "-n",
            "web",
            "web",
            "--overwrite",
            &pair,
        ])
    };
    annotate("fastest")?;
    let applied = Instant::now();
    let event = wait_until("a Warning Event names the annotation", || {
        let events = runner.cluster.kubectl(&[
            "get",
            "events",
            "-n",
            "web",
            "--field-selector=type=Warning",
            "-o",
            "jsonpath={range .items[*]}{.involvedObject.name}: {.message}{\"\\n\"}{end}",
        ])?;
        let named = |line: &&str| line.contains(ANNOTATION) && line.contains("fastest");
        events
            .lines()
            .find(named)
            .map(str::to_owned)
            .with_context(|| format!("{events:?}"))
    })?;
    let warned_after = applied.elapsed();
    ensure!(
        event.contains("mh"),
        "the Event does not list the allowed values: {event}"
    );
    wait_for_web_answers(runner, Instant::now())?;
    annotate("rr")?;
    wait_until("the kernel has the scheduler of the annotation", || {
        let schedulers = schedulers(runner)?;
        ensure!(schedulers.iter().all(|name| name == "rr"), "{schedulers:?}");
        Ok(())
    })?;
    let pair = format!("{ANNOTATION}-");
    runner
        .cluster
        .kubectl(&["annotate", "service", "-n", "web", "web", &pair])?;
    wait_until("every virtual server has the default scheduler", || {
        let schedulers = schedulers(runner)?;
        ensure!(schedulers.iter().all(|name| name == "mh"), "{schedulers:?}");
        Ok(())
    })?;
    Ok(CaseOutcome {
        allowed_loss: AllowedLoss::Nothing,
        note: format!(
            "Warning Event after {} ms: {event}",
            warned_after.as_millis()
        ),
    })
}

/// Returns the schedulers of the TCP virtual servers in the kernels of all lb pods.
fn schedulers(runner: &CaseRunner) -> Result<Vec<String>> {
    let mut schedulers = Vec::new();
    for pod in runner.pods("web", "load-balancer")? {
        let table = runner.ipvs_table(&pod)?;
        for line in table.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let ["TCP", _, scheduler, ..] = words[..] {
                schedulers.push(scheduler.to_owned());
            }
        }
    }
    ensure!(
        !schedulers.is_empty(),
        "no load balancer has a virtual server"
    );
    Ok(schedulers)
}

/// Applies a second application, and allows no loss for the first application, `web`.
///
/// The second application, `shop`, has separate load balancers and a separate service range, on the
/// nodes of the first application. It is not deleted at the end of this case.
pub(crate) fn second_application(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    runner.cluster.apply_folder(SECOND)?;
    runner.wait_for_rollout("shop", "deployment/load-balancer")?;
    runner.wait_for_rollout("shop", "deployment/web")?;
    let announced = runner.wait_for_next_hops("shop", SHOP)?;
    runner.wait_for_next_hops("web", WEB)?;
    let load = start_load(&runner.cluster, SHOP)?;
    wait_for_answers(&load, announced)?;
    runner.second = Some(load);
    wait_for_web_answers(runner, Instant::now())?;
    Ok(AllowedLoss::no_loss("the second application answers"))
}

/// Counts the requests to the second application that were due after `from`.
///
/// Waits before the count until the second application has answered 200 requests that were sent
/// after `until`. Returns an error if a request was lost or if a pod of another application
/// answered, and `None` if no second application is applied.
pub(crate) fn count_second_application(
    runner: &CaseRunner,
    from: Instant,
    until: Instant,
) -> Result<Option<Count>> {
    let Some(load) = &runner.second else {
        return Ok(None);
    };
    wait_for_answers(load, until)?;
    let count = load.count(from, Instant::now());
    ensure!(
        count.lost() == 0,
        "the second application lost requests: {count}"
    );
    ensure_servers(&count, &runner.pods("shop", "web")?)?;
    Ok(Some(count))
}

/// Deletes the second application, and allows no loss for the first application.
pub(crate) fn delete_second_application(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    if let Some(load) = runner.second.take() {
        load.stop()?;
    }
    runner.cluster.delete_folder(SECOND, LONG)?;
    let prefix = ipnet::IpNet::from(IpAddr::V4(SHOP));
    runner.fib.wait_for(prefix, &[], LONG)?;
    wait_for_web_answers(runner, Instant::now())?;
    Ok(AllowedLoss::no_loss(
        "the second application's address is withdrawn",
    ))
}

/// Applies web pods with the forwarding method `Masquerade`, sends requests to these web pods, and
/// deletes the web pods.
///
/// These web pods need no tunnel interface, because their answers return through the load
/// balancers.
pub(crate) fn masquerade(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let folder = "manifests/examples/web/masquerade";
    runner.cluster.apply_folder(folder)?;
    runner.wait_for_rollout("web", "deployment/web-masquerade")?;
    let announced = runner.wait_for_next_hops("web", MASQUERADE)?;
    let load = start_load(&runner.cluster, MASQUERADE)?;
    wait_for_answers(&load, announced)?;
    let count = load.count(announced, Instant::now());
    load.stop()?;
    ensure!(count.lost() == 0, "{count}");
    ensure_servers(&count, &runner.pods("web", "web-masquerade")?)?;

    runner.cluster.delete_folder(folder, LONG)?;
    let prefix = ipnet::IpNet::from(IpAddr::V4(MASQUERADE));
    runner.fib.wait_for(prefix, &[], LONG)?;
    wait_for_web_answers(runner, Instant::now())?;
    Ok(AllowedLoss::no_loss(format!("through Masquerade: {count}")))
}

fn ensure_servers(count: &Count, pods: &[PodOnNode]) -> Result<()> {
    for server in count.servers.keys() {
        let is_own = pods.iter().any(|pod| server.starts_with(&pod.name));
        ensure!(is_own, "{server} answered, but is not one of {pods:?}");
    }
    Ok(())
}
