//! What one owner does must not touch the others.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lab::open_loop::Count;

use crate::report::{Outcome, Price};
use crate::rolling::{settle, wait_for_answers};
use crate::stage::{LONG, PodOnNode, Stage, WEB, load_on, wait_until};

const SHOP: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 10);
const MASQUERADE: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 20);
const SECOND: &str = "manifests/examples/second-application";
const ANNOTATION: &str = "portlb.io/scheduler";

/// A bad annotation: the Service stays as it was served, and its owner is told
/// which annotation it is and what is allowed; mended, it is served as asked.
pub(crate) fn bad_annotation(stage: &mut Stage) -> Result<Outcome> {
    let annotate = |value: &str| {
        let pair = format!("{ANNOTATION}={value}");
        stage.cluster.kubectl(&[
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
    let event = wait_until("a Warning names the annotation", || {
        let events = stage.cluster.kubectl(&[
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
    let told = applied.elapsed();
    ensure!(
        event.contains("mh"),
        "the Event does not say what is allowed: {event}"
    );
    settle(stage, Instant::now())?;
    annotate("rr")?;
    wait_until("the mended scheduler is in the kernel", || {
        let schedulers = schedulers(stage)?;
        ensure!(schedulers.iter().all(|name| name == "rr"), "{schedulers:?}");
        Ok(())
    })?;
    let pair = format!("{ANNOTATION}-");
    stage
        .cluster
        .kubectl(&["annotate", "service", "-n", "web", "web", &pair])?;
    wait_until("the default scheduler is back", || {
        let schedulers = schedulers(stage)?;
        ensure!(schedulers.iter().all(|name| name == "mh"), "{schedulers:?}");
        Ok(())
    })?;
    Ok(Outcome {
        price: Price::Nothing,
        note: format!("told after {} ms: {event}", told.as_millis()),
    })
}

/// How each load-balancer pod's kernel schedules the application's port 80.
fn schedulers(stage: &Stage) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for pod in stage.pods("web", "load-balancer")? {
        let table = stage.ipvs_table(&pod)?;
        for line in table.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let ["TCP", _, scheduler, ..] = words[..] {
                found.push(scheduler.to_owned());
            }
        }
    }
    ensure!(!found.is_empty(), "no load balancer has a virtual server");
    Ok(found)
}

/// A second application comes, with load balancers and a service range of its own on the same nodes;
/// the first one must not notice. It stays for the next cases.
pub(crate) fn second_application(stage: &mut Stage) -> Result<Outcome> {
    stage.cluster.apply_folder(SECOND)?;
    stage.wait_for_rollout("shop", "deployment/load-balancer")?;
    stage.wait_for_rollout("shop", "deployment/web")?;
    let announced = stage.wait_for_next_hops("shop", SHOP)?;
    stage.wait_for_next_hops("web", WEB)?;
    let load = load_on(&stage.cluster, SHOP)?;
    wait_for_answers(&load, announced)?;
    stage.second = Some(load);
    settle(stage, Instant::now())?;
    Ok(Price::nothing("announced and answering"))
}

/// Counts the requests to the second application since `from`, and waits until requests that were
/// sent after `until` are answered. Fails if one was lost. `None` without a second application.
pub(crate) fn second_since(stage: &Stage, from: Instant, until: Instant) -> Result<Option<Count>> {
    let Some(load) = &stage.second else {
        return Ok(None);
    };
    wait_for_answers(load, until)?;
    let count = load.count(from, Instant::now());
    ensure!(count.lost() == 0, "the second application noticed: {count}");
    ensure_servers(&count, &stage.pods("shop", "web")?)?;
    Ok(Some(count))
}

/// The second application goes; the first one must not notice.
pub(crate) fn delete_second_application(stage: &mut Stage) -> Result<Outcome> {
    if let Some(load) = stage.second.take() {
        load.stop()?;
    }
    stage.cluster.delete_folder(SECOND, LONG)?;
    let prefix = ipnet::IpNet::from(IpAddr::V4(SHOP));
    stage.fib.wait_for(prefix, &[], LONG)?;
    settle(stage, Instant::now())?;
    Ok(Price::nothing("its address is withdrawn"))
}

/// Web pods without any preparation, whose answers return through the load balancers; applied beside
/// the others, and deleted.
pub(crate) fn masquerade(stage: &mut Stage) -> Result<Outcome> {
    let folder = "manifests/examples/web/masquerade";
    stage.cluster.apply_folder(folder)?;
    stage.wait_for_rollout("web", "deployment/web-masquerade")?;
    let announced = stage.wait_for_next_hops("web", MASQUERADE)?;
    let load = load_on(&stage.cluster, MASQUERADE)?;
    wait_for_answers(&load, announced)?;
    let count = load.count(announced, Instant::now());
    load.stop()?;
    ensure!(count.lost() == 0, "{count}");
    ensure_servers(&count, &stage.pods("web", "web-masquerade")?)?;

    stage.cluster.delete_folder(folder, LONG)?;
    let prefix = ipnet::IpNet::from(IpAddr::V4(MASQUERADE));
    stage.fib.wait_for(prefix, &[], LONG)?;
    settle(stage, Instant::now())?;
    Ok(Price::nothing(format!("masqueraded: {count}")))
}

fn ensure_servers(count: &Count, pods: &[PodOnNode]) -> Result<()> {
    for server in count.servers.keys() {
        let is_own = pods.iter().any(|pod| server.starts_with(&pod.name));
        ensure!(is_own, "{server} is none of its pods: {pods:?}");
    }
    Ok(())
}
