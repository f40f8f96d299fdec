//! The steps of the demo.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use lab::{
    Signal, ensure_that,
    http::{self, Load, PersistentConnections, RequestCounts},
    reference::{SERVICE, SERVICE_RANGE, SERVICE6, reflector_address},
    system::{DaemonInstance, System, real_server},
    wait_for,
};
use virtual_server::{RealServer, RealServerState};

use crate::step_printer::StepResult;

/// The longest time from the start of a step to its effect, in the slowest environment.
const DEADLINE: Duration = Duration::from_secs(20);
/// The number of connections that a client keeps open while load balancers end and start.
const CONNECTIONS: usize = 48;

pub(crate) struct DemoStep {
    pub(crate) title: &'static str,
    pub(crate) run: fn(&mut System) -> Result<StepResult>,
}

pub(crate) const ANNOUNCED: DemoStep = DemoStep {
    title: "three load balancers announce: the router has 3 next hops",
    run: announced,
};

pub(crate) const ALL: &[DemoStep] = &[
    ANNOUNCED,
    DemoStep {
        title: "requests are spread over all six web pods, IPv4 and IPv6",
        run: spread,
    },
    DemoStep {
        title: "a web pod is added to the file and gets requests",
        run: web_pod_added,
    },
    DemoStep {
        title: "the web pod is drained and removed from the file",
        run: web_pod_removed,
    },
    DemoStep {
        title: "a web server is killed: the health check quiesces its web pod",
        run: web_server_dies,
    },
    DemoStep {
        title: "the killed web server is started and gets requests",
        run: web_server_returns,
    },
    DemoStep {
        title: "a load balancer is killed under load",
        run: load_balancer_killed,
    },
    DemoStep {
        title: "the killed load balancer is started and adopts its table",
        run: load_balancer_returns,
    },
    DemoStep {
        title: "a second load balancer is drained under load",
        run: load_balancer_drained,
    },
    DemoStep {
        title: "a reflector is killed under load: no route changes",
        run: reflector_dies,
    },
];

pub(crate) fn announced(system: &mut System) -> Result<StepResult> {
    let began = Instant::now();
    system.start_all()?;
    system.wait_until_announced(&[0, 1, 2], DEADLINE)?;
    let hops = system.fib.next_hops(IpNet::from(SERVICE_RANGE));
    let hops: Vec<_> = hops.iter().map(ToString::to_string).collect();
    Ok(StepResult::after(
        began.elapsed(),
        format!("{SERVICE_RANGE} via {}", hops.join(" ")),
    ))
}

fn spread(system: &mut System) -> Result<StepResult> {
    let client = system.network.client()?;
    let mut answers = BTreeMap::new();
    for address in [IpAddr::from(SERVICE), SERVICE6.into()] {
        let server = SocketAddr::new(address, 80);
        let seen = http::spread(&client, server, 60, DEADLINE)?;
        ensure!(
            seen.len() == 6,
            "only {} of 6 web pods answered on {address}: {seen:?}",
            seen.len()
        );
        for (name, count) in seen {
            *answers.entry(name).or_insert(0) += count;
        }
    }
    let counts: Vec<_> = answers
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    Ok(StepResult::new(counts.join(", ")))
}

fn web_pod_added(system: &mut System) -> Result<StepResult> {
    let pod = system.network.add_web_pod()?;
    let began = Instant::now();
    system.write_desired(&system.web())?;
    for lb_pod in 0..3 {
        wait_for_weight(system, lb_pod, pod.address.into(), Some(1))?;
    }
    let programmed = began.elapsed();
    wait_for_answer_of(system, &pod.name)?;
    Ok(StepResult::after(
        programmed,
        format!("{} is in the tables of all three load balancers", pod.name),
    ))
}

fn web_pod_removed(system: &mut System) -> Result<StepResult> {
    let pod = system
        .network
        .web_pods
        .pop()
        .context("the seventh web pod does not exist")?;
    let mut draining = system.web();
    for virtual_server in &mut draining.virtual_servers {
        for address in [IpAddr::from(pod.address), pod.address6.into()] {
            let real_server = RealServer {
                state: RealServerState::Draining,
                ..real_server(address)
            };
            virtual_server.real_servers.push(real_server);
        }
    }
    system.write_desired(&draining)?;
    for lb_pod in 0..3 {
        wait_for_weight(system, lb_pod, pod.address.into(), Some(0))?;
    }
    let began = Instant::now();
    system.write_desired(&system.web())?;
    for lb_pod in 0..3 {
        wait_for_weight(system, lb_pod, pod.address.into(), None)?;
    }
    Ok(StepResult::after(
        began.elapsed(),
        format!("{} was drained, then removed", pod.name),
    ))
}

fn web_server_dies(system: &mut System) -> Result<StepResult> {
    let pod = system.network.web_pods[0].clone();
    let began = Instant::now();
    system
        .network
        .web_servers
        .get(&pod.name)
        .context("the web server of the first web pod does not run")?
        .kill()?;
    for lb_pod in 0..3 {
        wait_for_weight(system, lb_pod, pod.address.into(), Some(0))?;
    }
    let quiesced = began.elapsed();
    let server = SocketAddr::new(SERVICE.into(), 80);
    let answers = http::spread(&system.network.client()?, server, 60, DEADLINE)?;
    ensure!(
        !answers.contains_key(&pod.name),
        "{} answers although its web server was killed: {answers:?}",
        pod.name
    );
    Ok(StepResult::after(
        quiesced,
        format!(
            "{} has weight 0 in all tables; 60 of 60 requests answered",
            pod.name
        ),
    ))
}

fn web_server_returns(system: &mut System) -> Result<StepResult> {
    let pod = system.network.web_pods[0].clone();
    let began = Instant::now();
    system.network.start_web_server(&pod)?;
    for lb_pod in 0..3 {
        wait_for_weight(system, lb_pod, pod.address.into(), Some(1))?;
    }
    let returned = began.elapsed();
    wait_for_answer_of(system, &pod.name)?;
    Ok(StepResult::after(
        returned,
        format!("{} has its previous weight", pod.name),
    ))
}

fn load_balancer_killed(system: &mut System) -> Result<StepResult> {
    under_load(system, |system| {
        let began = Instant::now();
        system.kill_lb_pod(0)?;
        system.wait_until_announced(&[1, 2], DEADLINE)?;
        Ok((
            began.elapsed(),
            "SIGKILL to all three daemons of lb-a".to_owned(),
        ))
    })
}

fn load_balancer_returns(system: &mut System) -> Result<StepResult> {
    under_load(system, |system| {
        let began = Instant::now();
        system.start_all()?;
        system.wait_until_announced(&[0, 1, 2], DEADLINE)?;
        Ok((began.elapsed(), "the router has 3 next hops".to_owned()))
    })
}

fn load_balancer_drained(system: &mut System) -> Result<StepResult> {
    under_load(system, |system| {
        let began = Instant::now();
        system.drain(1)?;
        system.wait_until_announced(&[0, 2], DEADLINE)?;
        let drained = began.elapsed();
        system.undrain(1)?;
        system.wait_until_announced(&[0, 1, 2], DEADLINE)?;
        Ok((drained, "lb-b was drained and undrained".to_owned()))
    })
}

fn reflector_dies(system: &mut System) -> Result<StepResult> {
    under_load(system, |system| {
        let changes = system.fib.changes().len();
        system
            .process(DaemonInstance::RouteReflector(0))?
            .signal(Signal::SIGKILL)?;
        let began = Instant::now();
        let address = reflector_address(1).to_string();
        wait_for(
            "every announcer has lost its session with the reflector",
            DEADLINE,
            || {
                for lb_pod in 0..3 {
                    let sessions = system
                        .announcer_sessions(lb_pod)
                        .map_err(|error| format!("{error:#}"))?;
                    let lost = sessions.iter().any(|session| {
                        session.peer_address == address && !session.last_error.is_empty()
                    });
                    ensure_that(lost, format!("lb pod {lb_pod}: {sessions:?}"))?;
                }
                Ok::<(), String>(())
            },
        )?;
        let noticed = began.elapsed();
        let seen = system.fib.changes().len() - changes;
        ensure!(seen == 0, "the router changed its routes {seen} times");
        Ok((noticed, "no route changed".to_owned()))
    })
}

/// Runs an event while a client keeps connections open. Returns an error if the client loses a
/// connection.
fn under_load(
    system: &mut System,
    event: impl FnOnce(&mut System) -> Result<(Duration, String)>,
) -> Result<StepResult> {
    let load = PersistentConnections::start(
        &system.network.client()?,
        Load {
            server: SocketAddr::new(SERVICE.into(), 80),
            connections: CONNECTIONS,
            interval: Duration::from_millis(100),
            patience: Duration::from_secs(10),
        },
    )?;
    let (took, text) = event(system)?;
    // The wait ends after every connection has been used at least once after the event.
    load.wait_for_answers(2 * CONNECTIONS, DEADLINE)?;
    let tally = load.stop()?;
    ensure!(
        lost(&tally) == 0,
        "{} of {CONNECTIONS} connections were lost: {tally:?}",
        lost(&tally)
    );
    let answered = tally.answered;
    Ok(StepResult::after(
        took,
        format!("{text}; lost 0 of {CONNECTIONS} connections, {answered} answers"),
    ))
}

fn lost(tally: &RequestCounts) -> usize {
    tally.lost() + tally.refused
}

/// Waits until an lb pod's table has the real server with this weight. With `None`, waits until the
/// table does not have the real server.
fn wait_for_weight(
    system: &System,
    lb_pod: usize,
    address: IpAddr,
    weight: Option<u32>,
) -> Result<()> {
    let what = format!("lb pod {lb_pod} has {address} with weight {weight:?}");
    wait_for(&what, DEADLINE, || {
        let virtual_servers = system
            .virtual_servers(lb_pod)
            .map_err(|error| format!("{error:#}"))?;
        let found = virtual_servers
            .iter()
            .flat_map(|virtual_server| &virtual_server.real_servers)
            .find(|real_server| {
                real_server.programmed
                    && real_server
                        .desired
                        .as_ref()
                        .is_some_and(|desired| desired.address == address.to_string())
            })
            .map(|real_server| real_server.effective_weight);
        ensure_that(found == weight, format!("weight {found:?}"))
    })
}

fn wait_for_answer_of(system: &System, web_pod: &str) -> Result<()> {
    let client = system.network.client()?;
    let server = SocketAddr::new(SERVICE.into(), 80);
    wait_for(&format!("{web_pod} answers a client"), DEADLINE, || {
        let answer = http::get(&client, server, DEADLINE).map_err(|error| format!("{error:#}"))?;
        ensure_that(answer.trim() == web_pod, answer)
    })
}
