//! Planned changes: none of them may cost the client outside a request.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::open_loop::OpenLoop;

use crate::applications::second_since;
use crate::report::{Outcome, Price};
use crate::stage::{LASTING, LONG, Stage, WEB, wait_until};

/// From the first `kubectl apply` on; the issue's own limit.
const FIRST_ADDRESS: Duration = Duration::from_secs(60);

/// What a first user does: the overlay, then the application. Until the address
/// is announced nobody can answer, so this one case may lose everything.
pub(crate) fn first_address(stage: &mut Stage) -> Result<Outcome> {
    let applied = Instant::now();
    stage.cluster.apply_folder("manifests/overlays/flat-l2")?;
    stage
        .cluster
        .apply_folder("manifests/examples/web/tunnel")?;
    stage.is_applied = true;
    let prefix = ipnet::IpNet::from(std::net::IpAddr::V4(WEB));
    wait_until("the address is announced", || {
        ensure!(!stage.fib.next_hops(prefix).is_empty(), "no route");
        Ok(())
    })?;
    let announced = applied.elapsed();
    let answered = wait_until("a request is answered", || {
        stage.load.first_answer(applied).context("no answer")
    })?;
    stage.wait_for_rollout("portlb-system", "daemonset/node-router")?;
    stage.wait_for_rollout("portlb-system", "statefulset/route-reflector")?;
    stage.wait_for_rollout("web", "deployment/load-balancer")?;
    stage.wait_for_rollout("web", "deployment/web")?;
    stage.wait_for_next_hops("web", WEB)?;
    stage.wait_for_servers(2)?;
    // From then on it works, though pods of both tiers are still to come.
    let since = stage.load.count(answered, Instant::now());
    ensure!(since.fresh_lost == 0, "after the first answer: {since}");
    ensure!(
        announced < FIRST_ADDRESS,
        "announced only {} s after the first apply",
        announced.as_secs()
    );
    Ok(Outcome {
        price: Price::Everything,
        note: format!(
            "announced {} s after apply, first answer after {} s",
            announced.as_secs(),
            (answered - applied).as_secs()
        ),
    })
}

/// 2 -> 6 -> 3 web pods.
pub(crate) fn scale_web(stage: &mut Stage) -> Result<Outcome> {
    let mut note = Vec::new();
    for replicas in [6, 3] {
        let began = Instant::now();
        let argument = format!("--replicas={replicas}");
        let web = "deployment/web";
        stage
            .cluster
            .kubectl(&["scale", "-n", "web", web, &argument])?;
        stage.wait_for_rollout("web", web)?;
        stage.wait_for_servers(replicas)?;
        note.push(format!(
            "{replicas} pods after {} s",
            began.elapsed().as_secs()
        ));
    }
    Ok(Price::nothing(note.join(", ")))
}

/// Each web pod is replaced by one of the next release.
pub(crate) fn roll_web(stage: &mut Stage) -> Result<Outcome> {
    let before = stage.pods("web", "web")?;
    stage
        .cluster
        .kubectl(&["rollout", "restart", "-n", "web", "deployment/web"])?;
    stage.wait_for_rollout("web", "deployment/web")?;
    let count = stage.wait_for_servers(before.len())?;
    for pod in &before {
        let answers = count
            .servers
            .keys()
            .filter(|server| server.starts_with(&pod.name));
        ensure!(
            answers.count() == 0,
            "{} answers still: {:?}",
            pod.name,
            count.servers
        );
    }
    Ok(Price::nothing(format!("{} pods replaced", before.len())))
}

/// Each load-balancer pod is replaced; neither its own clients nor those of a second application
/// notice.
pub(crate) fn roll_load_balancers(stage: &mut Stage) -> Result<Outcome> {
    let began = Instant::now();
    roll(stage, "web", "deployment/load-balancer")?;
    let since = stage.wait_for_next_hops("web", WEB)?;
    settle(stage, since)?;
    let note = match second_since(stage, began, since)? {
        Some(count) => format!("every load-balancer pod replaced; the second application: {count}"),
        None => "every load-balancer pod replaced".to_owned(),
    };
    Ok(Price::nothing(note))
}

/// Both reflectors are replaced, one after the other; the router must keep
/// every path from the one that stays.
pub(crate) fn restart_reflectors(stage: &mut Stage) -> Result<Outcome> {
    let prefix = ipnet::IpNet::from(std::net::IpAddr::V4(WEB));
    let next_hops = stage.fib.next_hops(prefix).len();
    let changes = stage.fib.changes().len();
    roll(stage, "portlb-system", "statefulset/route-reflector")?;
    let since = stage.wait_for_next_hops("web", WEB)?;
    settle(stage, since)?;
    let seen = stage.fib.changes();
    let worst = seen[changes..]
        .iter()
        .filter(|change| change.prefix == prefix);
    let fewest = worst
        .map(|change| change.next_hops.len())
        .min()
        .unwrap_or(next_hops);
    ensure!(
        fewest == next_hops,
        "the router had only {fewest} of {next_hops} next hops"
    );
    Ok(Price::nothing(format!("{fewest} next hops all the time")))
}

/// `kubectl drain` of a node that has a load balancer and web pods. Both tiers change: the web tier is
/// made up elsewhere, then a load balancer comes that knows the web pods of now only. Of the
/// connections that the router moves there, a half, it sends on to newcomers what hashes to them, and
/// each of the other pods may be one.
pub(crate) fn drain_node(stage: &mut Stage) -> Result<Outcome> {
    let balancers = stage.pods("web", "load-balancer")?;
    let node = balancers
        .first()
        .context("a load-balancer pod")?
        .node
        .clone();
    let timeout = format!("--timeout={}s", LONG.as_secs());
    stage.cluster.kubectl(&[
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        &timeout,
    ])?;
    stage.wait_for_rollout("web", "deployment/load-balancer")?;
    stage.wait_for_rollout("web", "deployment/web")?;
    let since = stage.wait_for_next_hops("web", WEB)?;
    settle(stage, since)?;
    stage.cluster.kubectl(&["uncordon", &node])?;
    stage.wait_for_rollout("portlb-system", "statefulset/route-reflector")?;
    Ok(Outcome {
        price: Price::Lost {
            fresh: 0,
            lasting: LASTING / 2,
        },
        note: format!("{node} emptied"),
    })
}

fn roll(stage: &Stage, namespace: &str, what: &str) -> Result<()> {
    stage
        .cluster
        .kubectl(&["rollout", "restart", "-n", namespace, what])?;
    stage.wait_for_rollout(namespace, what)
}

/// Goes on until requests that were sent after `since` have been answered for a
/// while, so that trouble just after a change is part of the case.
pub(crate) fn settle(stage: &Stage, since: Instant) -> Result<()> {
    wait_for_answers(&stage.load, since)
}

/// The same of another load.
pub(crate) fn wait_for_answers(load: &OpenLoop, since: Instant) -> Result<()> {
    wait_until("requests are answered after the change", || {
        let answered = load.answered_since(since);
        ensure!(answered >= 200, "{answered} answers");
        Ok(())
    })
}
