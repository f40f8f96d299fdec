//! Cases with planned changes: first apply, scaling, rollouts, drain of a node.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::open_loop::OpenLoop;

use crate::applications::count_second_application;
use crate::report::{AllowedLoss, CaseOutcome};
use crate::runner::{CaseRunner, LASTING, LONG, WEB, wait_until};

/// Longest allowed time from the first `kubectl apply` to the announcement of the service address.
const FIRST_ADDRESS: Duration = Duration::from_secs(60);

/// Applies the overlay and then the application, as a new user does.
///
/// Every request may be lost before the first answer, since the address is not announced. After the
/// first answer no request over a new connection may be lost.
pub(crate) fn first_address(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let applied = Instant::now();
    runner.cluster.apply_folder("manifests/overlays/flat-l2")?;
    runner
        .cluster
        .apply_folder("manifests/examples/web/tunnel")?;
    runner.is_applied = true;
    let prefix = ipnet::IpNet::from(std::net::IpAddr::V4(WEB));
    wait_until("the address is announced", || {
        ensure!(!runner.fib.next_hops(prefix).is_empty(), "no route");
        Ok(())
    })?;
    let announced = applied.elapsed();
    let answered = wait_until("a request is answered", || {
        runner
            .load
            .first_answer(applied)
            .context("no request was answered")
    })?;
    runner.wait_for_rollout("portlb-system", "daemonset/node-router")?;
    runner.wait_for_rollout("portlb-system", "statefulset/route-reflector")?;
    runner.wait_for_rollout("web", "deployment/load-balancer")?;
    runner.wait_for_rollout("web", "deployment/web")?;
    runner.wait_for_next_hops("web", WEB)?;
    runner.wait_for_servers(2)?;
    // Requests must succeed although some lb pods and web pods start after the first answer.
    let since = runner.load.count(answered, Instant::now());
    ensure!(
        since.fresh_lost == 0,
        "requests were lost after the first answer: {since}"
    );
    ensure!(
        announced < FIRST_ADDRESS,
        "the address was announced {} s after the first apply, which is too late",
        announced.as_secs()
    );
    Ok(CaseOutcome {
        allowed_loss: AllowedLoss::Everything,
        note: format!(
            "announced {} s after apply, first answer after {} s",
            announced.as_secs(),
            (answered - applied).as_secs()
        ),
    })
}

/// Scales the web pods from 2 to 6 and then to 3.
pub(crate) fn scale_web(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let mut note = Vec::new();
    for replicas in [6, 3] {
        let began = Instant::now();
        let argument = format!("--replicas={replicas}");
        let web = "deployment/web";
        runner
            .cluster
            .kubectl(&["scale", "-n", "web", web, &argument])?;
        runner.wait_for_rollout("web", web)?;
        runner.wait_for_servers(replicas)?;
        note.push(format!(
            "{replicas} web pods after {} s",
            began.elapsed().as_secs()
        ));
    }
    Ok(AllowedLoss::no_loss(note.join(", ")))
}

/// Replaces all web pods with a rollout restart. Afterwards no replaced web pod may answer.
pub(crate) fn roll_web(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let before = runner.pods("web", "web")?;
    runner
        .cluster
        .kubectl(&["rollout", "restart", "-n", "web", "deployment/web"])?;
    runner.wait_for_rollout("web", "deployment/web")?;
    let count = runner.wait_for_servers(before.len())?;
    for pod in &before {
        let answers = count
            .servers
            .keys()
            .filter(|server| server.starts_with(&pod.name));
        ensure!(
            answers.count() == 0,
            "{} answers after its replacement: {:?}",
            pod.name,
            count.servers
        );
    }
    Ok(AllowedLoss::no_loss(format!(
        "{} web pods were replaced",
        before.len()
    )))
}

/// Replaces all lb pods of `web` with a rollout restart, and allows no loss for either application.
pub(crate) fn roll_load_balancers(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let began = Instant::now();
    restart_rollout(runner, "web", "deployment/load-balancer")?;
    let since = runner.wait_for_next_hops("web", WEB)?;
    wait_for_web_answers(runner, since)?;
    let note = match count_second_application(runner, began, since)? {
        Some(count) => format!("every lb pod was replaced; the second application: {count}"),
        None => "every lb pod was replaced".to_owned(),
    };
    Ok(AllowedLoss::no_loss(note))
}

/// Replaces both reflectors, one after the other.
///
/// The router must keep every next hop of [`WEB`], because at any time at least one reflector has a
/// session with the router.
pub(crate) fn restart_reflectors(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let prefix = ipnet::IpNet::from(std::net::IpAddr::V4(WEB));
    let next_hops = runner.fib.next_hops(prefix).len();
    let changes = runner.fib.changes().len();
    restart_rollout(runner, "portlb-system", "statefulset/route-reflector")?;
    let since = runner.wait_for_next_hops("web", WEB)?;
    wait_for_web_answers(runner, since)?;
    let seen = runner.fib.changes();
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
    Ok(AllowedLoss::no_loss(format!(
        "the router had {fewest} next hops during the whole restart"
    )))
}

/// Runs `kubectl drain` on a node that has an lb pod and web pods.
///
/// The web pods and the lb pod of the node are replaced by pods on other nodes. The new lb pod
/// hashes connections over the new set of web pods. So it sends a part of the established
/// connections to other web pods than before, and these connections are lost. The router moves half
/// of all connections to the new lb pod, so at most half of the lasting connections may be lost.
pub(crate) fn drain_node(runner: &mut CaseRunner) -> Result<CaseOutcome> {
    let balancers = runner.pods("web", "load-balancer")?;
    let node = balancers
        .first()
        .context("there is no lb pod")?
        .node
        .clone();
    let timeout = format!("--timeout={}s", LONG.as_secs());
    runner.cluster.kubectl(&[
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        &timeout,
    ])?;
    runner.wait_for_rollout("web", "deployment/load-balancer")?;
    runner.wait_for_rollout("web", "deployment/web")?;
    let since = runner.wait_for_next_hops("web", WEB)?;
    wait_for_web_answers(runner, since)?;
    runner.cluster.kubectl(&["uncordon", &node])?;
    runner.wait_for_rollout("portlb-system", "statefulset/route-reflector")?;
    Ok(CaseOutcome {
        allowed_loss: AllowedLoss::Lost {
            fresh: 0,
            lasting: LASTING / 2,
        },
        note: format!("{node} is drained"),
    })
}

fn restart_rollout(runner: &CaseRunner, namespace: &str, what: &str) -> Result<()> {
    runner
        .cluster
        .kubectl(&["rollout", "restart", "-n", namespace, what])?;
    runner.wait_for_rollout(namespace, what)
}

/// Waits until the application `web` has answered 200 requests that were sent after `since`.
///
/// With this wait the case also counts requests that are lost shortly after its change.
pub(crate) fn wait_for_web_answers(runner: &CaseRunner, since: Instant) -> Result<()> {
    wait_for_answers(&runner.load, since)
}

/// Waits until 200 requests of `load` that were sent after `since` are answered.
pub(crate) fn wait_for_answers(load: &OpenLoop, since: Instant) -> Result<()> {
    wait_until("requests are answered after the change", || {
        let answered = load.answered_since(since);
        ensure!(answered >= 200, "{answered} answers");
        Ok(())
    })
}
