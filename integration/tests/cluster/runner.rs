//! The runner of the cases, with the cluster, the load and the results of the cases.

use std::env;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ipnet::IpNet;
use lab::cluster::{ClusterOptions, LabCluster, ProxyMode};
use lab::open_loop::{Count, OpenLoop, Pace};
use lab::{FibWatcher, wait_for};

use crate::report::{CaseOutcome, CaseRow};

/// The namespaces of the two applications, and the namespace of the overlay.
pub(crate) const NAMESPACES: [&str; 3] = ["web", "shop", "portlb-system"];
/// The service address of the application `web`.
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 10);
/// Number of lasting connections of the load on each application.
pub(crate) const LASTING: usize = 20;
/// Requests per second of the load on each application, each over a new connection.
pub(crate) const FRESH_PER_SECOND: u32 = 20;
/// Time limit for a wait, long enough for a rolling update in a guest with two CPUs.
pub(crate) const LONG: Duration = Duration::from_secs(300);

const IMAGES: &[&str] = &[
    "pod-watcher",
    "ipvs-programmer",
    "bgp-announcer",
    "node-router",
    "route-reflector",
    "tunnel-init",
    "example-web",
];

/// Runs the cases one after the other on one cluster, and collects their results.
#[derive(Debug)]
pub(crate) struct CaseRunner {
    /// The load on the application `web`. Fields are dropped in the order of their declaration, so
    /// the load ends before `cluster`.
    pub(crate) load: OpenLoop,
    /// The load on the second application; `None` while this application is not applied.
    pub(crate) second: Option<OpenLoop>,
    pub(crate) fib: FibWatcher,
    pub(crate) cluster: LabCluster,
    /// Whether the application `web` is applied. While it is not applied, no request is answered.
    pub(crate) is_applied: bool,
    rows: Vec<CaseRow>,
    chosen: Vec<String>,
    began: Instant,
    /// The case after which the load could not be restarted, or `None` if every restart of the load
    /// has succeeded. After a failed restart no case is run, since each case would wait for the
    /// load until a timeout.
    broken_after: Option<&'static str>,
}

impl CaseRunner {
    pub(crate) fn set_up() -> Result<Self> {
        let began = Instant::now();
        let options = ClusterOptions {
            proxy_mode: ProxyMode::Nftables,
            images: images()?,
        };
        let cluster = LabCluster::start("cluster", &options)?;
        eprintln!(
            "three nodes and cluster DNS are ready after {} s",
            began.elapsed().as_secs()
        );
        let fib = FibWatcher::start(&cluster.router_host()?)?;
        let chosen = env::var("LAB_CASES").unwrap_or_default();
        Ok(Self {
            load: start_load(&cluster, WEB)?,
            second: None,
            fib,
            cluster,
            is_applied: false,
            rows: Vec::new(),
            chosen: chosen
                .split(',')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect(),
            began,
            broken_after: None,
        })
    }

    /// Reports whether `name` contains a word of `LAB_CASES`, or a word of `LAB_CASES` begins with
    /// `name`.
    ///
    /// Without `LAB_CASES` every case is chosen.
    pub(crate) fn is_chosen(&self, name: &str) -> bool {
        let is_meant = |word: &String| name.contains(word.as_str()) || word.starts_with(name);
        self.chosen.is_empty() || self.chosen.iter().any(is_meant)
    }

    /// Runs a case under load, unless `LAB_CASES` excludes the case. The case fails if its losses
    /// exceed the losses that it allows.
    pub(crate) fn case(
        &mut self,
        name: &'static str,
        run: impl FnOnce(&mut Self) -> Result<CaseOutcome>,
    ) {
        // These cases bring the cluster into the state that other cases need, so they run also if
        // `LAB_CASES` does not name them.
        let always_run = ["first-address", "iptables-mode", "iptables-first-address"];
        if !always_run.contains(&name) && !self.is_chosen(name) {
            return;
        }
        let broken_after = self.broken_after;
        let ready = match broken_after {
            Some(earlier) => Err(anyhow!(
                "not run, because the restart of the load failed after {earlier}"
            )),
            None => self
                .restart_load()
                .context("cannot restart the load before the case"),
        };
        if ready.is_err() && broken_after.is_none() {
            self.broken_after = self.rows.last().map(|row| row.case);
        }
        let from = Instant::now();
        let result = ready.and_then(|()| run(self));
        let until = Instant::now();
        let count = self.load.count(from, until);
        let result = match result {
            Ok(outcome) if outcome.allowed_loss.allows(&count) => Ok(outcome),
            Ok(outcome) => Err(format!(
                "lost {} fresh + {} lasting, slowest {} ms, allowed {}; {}",
                count.fresh_lost,
                count.lasting_lost,
                count.slowest.as_millis(),
                outcome.allowed_loss,
                outcome.note
            )),
            Err(error) => Err(format!("{error:#}")),
        };
        let row = CaseRow {
            case: name,
            took: until - from,
            count,
            result,
        };
        eprintln!("{row}");
        if broken_after.is_none() {
            self.write_details(&row, from);
        }
        self.rows.push(row);
    }

    /// Ends the load, waits until no load balancer drains a web pod, and starts the load with new
    /// lasting connections.
    ///
    /// The previous case can have changed the web pods. Its lasting connections were hashed over
    /// another set of web pods, so they could be lost when another load balancer receives their
    /// packets.
    fn restart_load(&mut self) -> Result<()> {
        if !self.is_applied {
            self.load = start_load(&self.cluster, WEB)?;
            return Ok(());
        }
        // A web pod drains until its last connection ends, so the load must end before the wait.
        self.load.end()?;
        wait_until("no load balancer drains a web pod", || {
            let web = self.pods("web", "web")?.len();
            for pod in self.pods("web", "load-balancer")? {
                let table = self.ipvs_table(&pod)?;
                let real_servers = table.lines().filter(|line| line.contains("Tunnel"));
                ensure!(real_servers.count() == web, "{}: {table}", pod.name);
            }
            Ok(())
        })?;
        self.load = start_load(&self.cluster, WEB)?;
        self.load.wait_until_lasting(Duration::from_secs(30))
    }

    /// Prints the report, and returns one line for each failed case and for each word of
    /// `LAB_CASES` that is in the name of no case.
    pub(crate) fn finish(self) -> Vec<String> {
        let mut table = CaseRow::heading();
        for row in &self.rows {
            let _ = write!(table, "\n{row}");
        }
        let _ = write!(table, "\nwhole run: {} s", self.began.elapsed().as_secs());
        eprintln!("\n{table}");
        let failed = self.rows.iter().filter_map(|row| {
            let problem = row.result.as_ref().err()?;
            let line = problem.lines().next().unwrap_or_default();
            Some(format!("{}: {line}", row.case))
        });
        let is_a_case = |word: &&String| self.rows.iter().any(|row| row.case.contains(*word));
        let unknown = self.chosen.iter().filter(|word| !is_a_case(word));
        failed
            .chain(
                unknown.map(|word| format!("LAB_CASES: no case of the run has {word} in its name")),
            )
            .collect()
    }

    /// Writes a file with each lost or late request and each change of the router's routes during a
    /// case, and prints the error of a failed case.
    ///
    /// If the case has failed, the file also has the state of the cluster.
    fn write_details(&self, row: &CaseRow, from: Instant) {
        let mut text = format!("{}\n{row}\n{:?}\n", CaseRow::heading(), row.count.servers);
        for (at, connection, what) in &row.count.incidents {
            let _ = writeln!(text, "{:8.3} s {connection:?}: {what}", at.as_secs_f64());
        }
        for change in self.fib.changes().iter().filter(|change| change.at >= from) {
            let (at, hops) = ((change.at - from).as_secs_f64(), &change.next_hops);
            let _ = writeln!(
                text,
                "{at:8.3} s the router has {} via {hops:?}",
                change.prefix
            );
        }
        if let Err(problem) = &row.result {
            let _ = writeln!(text, "{problem}\n{}", self.state());
            eprintln!("{problem}");
        }
        let written = self.cluster.lab.write(&format!("case.{}", row.case), &text);
        match written {
            Ok(file) if row.result.is_err() => eprintln!("details: {}", file.display()),
            Ok(_) => {}
            Err(error) => eprintln!("{error:#}\n{text}"),
        }
    }

    fn state(&self) -> String {
        let mut text = String::new();
        let mut ask = |arguments: &[&str]| {
            let answer = self.cluster.kubectl(arguments);
            let answer = answer.unwrap_or_else(|error| format!("{error:#}"));
            let _ = writeln!(text, "--- kubectl {}\n{answer}", arguments.join(" "));
            answer
        };
        ask(&[
            "get",
            "nodes,pods,services,endpointslices",
            "-A",
            "-o",
            "wide",
        ]);
        ask(&["get", "events", "-A", "--sort-by=.lastTimestamp"]);
        for namespace in NAMESPACES {
            let pods = ask(&["get", "pods", "-n", namespace, "-o", "name"]);
            for pod in pods.lines().filter(|line| line.starts_with("pod/")) {
                ask(&[
                    "logs",
                    "-n",
                    namespace,
                    pod,
                    "--all-containers",
                    "--prefix",
                    "--tail=60",
                ]);
            }
        }
        for name in ["web", "shop"] {
            ask(&["describe", "service", "-n", name, "web"]);
        }
        for pod in self.pods("web", "load-balancer").unwrap_or_default() {
            let table = self.run_in_pod(&pod, "cat /proc/net/ip_vs; sysctl net.ipv4.vs");
            let _ = writeln!(text, "--- {}\n{table:?}", pod.name);
        }
        let _ = writeln!(text, "--- {:?}", self.cluster.router.table());
        for node in &self.cluster.nodes {
            let routes = node.output("ip", &["route"]);
            let rules = node.output("nft", &["list", "ruleset"]);
            let _ = writeln!(text, "--- {}\n{routes:?}\n{rules:?}", node.name);
        }
        text
    }

    /// Returns the pods in `namespace` that have a node and whose label `app.kubernetes.io/name` is
    /// `name`, except pods that are being deleted.
    pub(crate) fn pods(&self, namespace: &str, name: &str) -> Result<Vec<PodOnNode>> {
        let selector = format!("app.kubernetes.io/name={name}");
        let columns = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.metadata.uid} \
                       {.metadata.deletionTimestamp}{\"\\n\"}{end}";
        let text = self.cluster.kubectl(&[
            "get", "pods", "-n", namespace, "-l", &selector, "-o", columns,
        ])?;
        let pods = text.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                // Pods that are being deleted are left out: their line has a fourth word, the
                // deletion time.
                [name, node, uid] => Some(PodOnNode {
                    name: name.to_owned(),
                    node: node.to_owned(),
                    uid: uid.to_owned(),
                }),
                _ => None,
            }
        });
        Ok(pods.collect())
    }

    /// Returns `/proc/net/ip_vs` of a pod: the IPVS table of its network namespace.
    pub(crate) fn ipvs_table(&self, pod: &PodOnNode) -> Result<String> {
        self.run_in_pod(pod, "cat /proc/net/ip_vs")
    }

    /// Runs a command of the node in the network namespace of a pod. The pod's images have no
    /// shell.
    fn run_in_pod(&self, pod: &PodOnNode, command: &str) -> Result<String> {
        let script = format!(
            "cgroup=$(find /sys/fs/cgroup -type d -name 'pod{}'); \
             pid=$(cat $cgroup/*/cgroup.procs | head -1); nsenter --target $pid --net bash -c '{command}'",
            pod.uid
        );
        let node = self.cluster.node(&pod.node)?;
        node.output("bash", &["-euc", &script])
    }

    /// Waits until the router's next hops of a service address are exactly the nodes that have an
    /// lb pod in `namespace`. Returns the time of the router's last change of these next hops.
    pub(crate) fn wait_for_next_hops(&self, namespace: &str, address: Ipv4Addr) -> Result<Instant> {
        let mut nodes: Vec<_> = self.pods(namespace, "load-balancer")?;
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        nodes.dedup_by(|a, b| a.node == b.node);
        ensure!(!nodes.is_empty(), "there is no lb pod in {namespace}");
        let next_hops: Vec<IpAddr> = nodes
            .iter()
            .map(|pod| Ok(self.cluster.node(&pod.node)?.address.into()))
            .collect::<Result<_>>()?;
        let prefix = IpNet::from(IpAddr::V4(address));
        Ok(self.fib.wait_for(prefix, &next_hops, LONG)?.at)
    }

    /// Waits for the rollout of a Deployment, StatefulSet or DaemonSet.
    pub(crate) fn wait_for_rollout(&self, namespace: &str, what: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", LONG.as_secs());
        self.cluster
            .kubectl(&["rollout", "status", "-n", namespace, what, &timeout])
            .map(drop)
    }

    /// Waits until the fresh requests of the last 6 s were answered by exactly `wanted` different
    /// pods.
    ///
    /// After this wait every load balancer has applied the last change of the real servers.
    pub(crate) fn wait_for_servers(&self, wanted: usize) -> Result<Count> {
        // In 6 s the load sends enough requests that each of six web pods answers at least one.
        let span = Duration::from_secs(6);
        let asked = Instant::now();
        wait_until(&format!("{wanted} pods answer"), || {
            let now = Instant::now();
            ensure!(
                now > asked + span,
                "less than {span:?} have passed since the start of the wait"
            );
            let count = self.load.fresh(now - span, now);
            ensure!(count.servers.len() == wanted, "{:?}", count.servers);
            Ok(count)
        })
    }
}

/// Repeats `attempt` until it succeeds, for at most `LONG`. Returns the last error after `LONG`.
///
/// A pause of 300 ms after each failed attempt leaves CPU time to the cluster.
pub(crate) fn wait_until<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    wait_for(what, LONG, || {
        let result = attempt();
        if result.is_err() {
            std::thread::sleep(Duration::from_millis(300));
        }
        result
    })
}

/// A pod that is not being deleted.
#[derive(Debug, Clone)]
pub(crate) struct PodOnNode {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) uid: String,
}

/// Starts the load of the client outside of the cluster, to port 80 of the service address
/// `address`.
pub(crate) fn start_load(cluster: &LabCluster, address: Ipv4Addr) -> Result<OpenLoop> {
    let pace = Pace {
        server: SocketAddr::new(address.into(), 80),
        fresh_per_second: FRESH_PER_SECOND,
        lasting: LASTING,
        lasting_interval: Duration::from_secs(1),
        late: Duration::from_secs(1),
        patience: Duration::from_secs(10),
    };
    OpenLoop::start(&cluster.client()?, pace)
}

fn images() -> Result<Vec<PathBuf>> {
    let target = lab::repository().join("target");
    let images = IMAGES.iter().map(|name| format!("images/{name}.tar"));
    let archives = ["lab-images/pause.tar".to_owned()]
        .into_iter()
        .chain(images);
    archives
        .map(|archive| {
            let archive = target.join(archive);
            archive
                .exists()
                .then_some(archive.clone())
                .with_context(|| format!("there is no {}; run `make images`", archive.display()))
        })
        .collect()
}
