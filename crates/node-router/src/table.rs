//! The owner of the holds: the one task that decides which routes there are.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    time::Duration,
};

use daemon_runtime::{Backoff, Publisher, Shutdown, SleepWatch, Step, in_words, wait_until};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    Kernel, KernelError, Policy,
    error::Refusal,
    hold::{Answer, Command, HoldId, HoldState, Peer, TableHandle},
    look::{Holders, Look, Route},
    metrics::RouterMetrics,
    node_settings::forwarding_problem,
    plan::{self, Change, Desired, NextHop, OwnRoute},
    policy::Claim,
    uplink::{self, IpVersion, Uplinks, Wanted},
};

/// Shortest time between two looks at the kernel that its notifications ask for, so that a quarrel
/// with another program does not eat a processor. A look that takes long is followed by a rest of
/// [`REST`] times its duration, up to [`LONGEST_REST`].
const QUIET: Duration = Duration::from_millis(20);
const REST: u32 = 5;
const LONGEST_REST: Duration = Duration::from_millis(500);
/// Most holds, as a multiple of the most routes: several pods hold one route, and for a moment the
/// old and the new stream of one pod.
pub(crate) const HOLDS_PER_ROUTE: usize = 4;
/// Most next hops of one route; IPv6 keeps a route for each.
const MOST_NEXT_HOPS: usize = 64;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The settings of the owner.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) adopt_timeout: Duration,
    pub(crate) release_delay: Duration,
    pub(crate) audit_interval: Duration,
    pub(crate) max_routes: usize,
    pub(crate) uplinks: Uplinks,
}

/// The steps of `/readyz` that the owner decides on.
pub(crate) struct Steps {
    pub(crate) routes: Step,
    pub(crate) uplink_guard: Step,
    pub(crate) forwarding: Step,
}

/// The owner.
pub(crate) struct RouteTable<K> {
    kernel: K,
    settings: Settings,
    commands: mpsc::UnboundedReceiver<Command>,
    holds: BTreeMap<HoldId, HeldClaim>,
    /// Next hops of an earlier run, until somebody holds them or their time is over.
    adopted: BTreeSet<Claim>,
    adopted_until: Instant,
    sleep_watch: SleepWatch,
    /// What was let go of a moment ago, until when it stays.
    released: BTreeMap<Claim, Instant>,
    publisher: Publisher<IpNet, Route>,
    steps: Steps,
    /// As logged last.
    guard_problem: Option<String>,
    metrics: RouterMetrics,
    backoff: Backoff,
    next_look: Instant,
    /// Notifications of the kernel ask for no look before this moment.
    rest_until: Instant,
}

#[derive(Debug)]
struct HeldClaim {
    claim: Claim,
    peer: Peer,
    state: watch::Sender<HoldState>,
    /// Until the first answer.
    answer: Option<oneshot::Sender<Answer>>,
}

/// Gateways by prefix.
type Routed = BTreeMap<IpNet, BTreeSet<IpAddr>>;

/// Why the owner looks at the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Start,
    Commands,
    ReleaseDelayEnded,
    AdoptionEnded,
    Audit,
}

impl<K: Kernel> RouteTable<K> {
    /// Reads the kernel's routes, adopts those of an earlier run, and removes what the policy does
    /// not allow.
    ///
    /// # Errors
    /// The kernel's routes cannot be read or changed.
    pub(crate) async fn adopt(
        mut kernel: K,
        settings: Settings,
        steps: Steps,
        metrics: RouterMetrics,
    ) -> Result<(Self, TableHandle), KernelError> {
        let actual = kernel.read(&BTreeSet::new()).await?;
        let mut adopted = adopted_claims(&actual.routes.own);
        let found = adopted.len();
        adopted.retain(|claim| settings.policy.check(claim).is_ok());
        let over = drop_over_limit(&mut adopted, settings.max_routes);
        if over > 0 {
            tracing::warn!(
                limit = settings.max_routes,
                next_hops = over,
                "an earlier run left more routes than --max-routes; the further ones are removed"
            );
        }
        if found > 0 {
            tracing::info!(
                adopted = adopted.len(),
                not_allowed = found - adopted.len() - over,
                timeout = ?settings.adopt_timeout,
                "an earlier run left routes"
            );
        }
        if settings.adopt_timeout.is_zero() {
            adopted.clear();
        }
        let publisher = Publisher::new();
        let (handle, commands) = TableHandle::new(publisher.reader());
        let now = Instant::now();
        let mut table = Self {
            kernel,
            commands,
            holds: BTreeMap::new(),
            adopted,
            adopted_until: now + settings.adopt_timeout,
            sleep_watch: SleepWatch::new(),
            released: BTreeMap::new(),
            publisher,
            steps,
            guard_problem: None,
            metrics,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            next_look: now + settings.audit_interval,
            rest_until: now,
            settings,
        };
        table.look(Cause::Start).await?;
        table.publisher.synced();
        Ok((table, handle))
    }

    /// Serves commands and follows the kernel until a drain is requested, and then for as long as
    /// `linger` while there are claims. The routes that are held then stay.
    pub(crate) async fn run(
        mut self,
        mut kernel_changes: mpsc::Receiver<()>,
        shutdown: Shutdown,
        linger: Duration,
    ) {
        let lingered = async {
            shutdown.drain_requested().await;
            tokio::time::sleep(linger).await;
        };
        tokio::pin!(lingered);
        let mut is_draining = false;
        loop {
            if is_draining && self.claims().is_empty() {
                return;
            }
            let first_released = self.released.values().min().copied();
            let cause = tokio::select! {
                () = &mut lingered => {
                    tracing::info!(routes = self.published(), "the routes stay in the kernel");
                    return;
                }
                () = shutdown.drain_requested(), if !is_draining => {
                    is_draining = true;
                    continue;
                }
                Some(command) = self.commands.recv() => {
                    let mut routed = self.routed();
                    self.take(command, &mut routed);
                    while let Ok(command) = self.commands.try_recv() {
                        self.take(command, &mut routed);
                    }
                    Cause::Commands
                }
                Some(()) = kernel_changes.recv() => {
                    self.next_look = self.next_look.min(self.rest_until);
                    continue;
                }
                () = tokio::time::sleep_until(self.sleep_watch.due()) => {
                    self.put_off_removals();
                    continue;
                }
                () = tokio::time::sleep_until(self.adopted_until), if !self.adopted.is_empty() => {
                    if self.put_off_removals() {
                        continue;
                    }
                    tracing::info!(
                        next_hops = self.adopted.len(),
                        "removed: nobody has held again what an earlier run left"
                    );
                    self.adopted.clear();
                    Cause::AdoptionEnded
                }
                () = wait_until(first_released) => {
                    if self.put_off_removals() {
                        continue;
                    }
                    let now = Instant::now();
                    self.released.retain(|_, until| *until > now);
                    Cause::ReleaseDelayEnded
                }
                () = tokio::time::sleep_until(self.next_look) => Cause::Audit,
            };
            // A refused claim may have been half installed, hence the second look.
            while self.look_and_report(cause).await {}
        }
    }

    /// Puts the removal of routes without a holder off by the time in which this process slept, as
    /// their holders may wait in its sockets. Returns whether it slept.
    fn put_off_removals(&mut self) -> bool {
        let slept = self.sleep_watch.slept();
        if slept.is_zero() {
            return false;
        }
        let now = Instant::now();
        let put_off = |until: Instant, whole: Duration| (until + slept).min(now + whole);
        self.adopted_until = put_off(self.adopted_until, self.settings.adopt_timeout);
        for until in self.released.values_mut() {
            *until = put_off(*until, self.settings.release_delay);
        }
        true
    }

    /// Takes a command. `routed` is what claims want a route, or more, and is kept up to date.
    fn take(&mut self, command: Command, routed: &mut Routed) {
        match command {
            Command::Hold {
                id,
                claim,
                peer,
                answer,
            } => {
                let held = HeldClaim {
                    claim,
                    peer,
                    state: watch::Sender::new(HoldState::default()),
                    answer: None,
                };
                if self.over_limit(&claim, routed).is_some() {
                    // Without what was released since it was read.
                    *routed = self.routed();
                }
                if let Some(refusal) = self.over_limit(&claim, routed) {
                    refuse(&self.metrics, &held, answer, refusal);
                } else {
                    let answer = Some(answer);
                    self.holds.insert(id, HeldClaim { answer, ..held });
                    routed
                        .entry(claim.prefix)
                        .or_default()
                        .insert(claim.gateway);
                }
            }
            Command::Release(id) => {
                if let Some(held) = self.holds.remove(&id) {
                    tracing::info!(
                        prefix = %held.claim.prefix,
                        gateway = %held.claim.gateway,
                        process_id = held.peer.process_id,
                        user_id = held.peer.user_id,
                        "a hold has ended"
                    );
                    let delay = self.settings.release_delay;
                    if !delay.is_zero() {
                        self.released.insert(held.claim, Instant::now() + delay);
                    }
                }
            }
        }
    }

    /// Returns the limit that one more hold of the claim would exceed.
    fn over_limit(&self, claim: &Claim, routed: &Routed) -> Option<Refusal> {
        let limit = self.settings.max_routes;
        let holds = limit.saturating_mul(HOLDS_PER_ROUTE);
        if self.holds.len() >= holds {
            return Some(Refusal::TooManyHolds { limit: holds });
        }
        match routed.get(&claim.prefix) {
            None => (routed.len() >= limit).then_some(Refusal::TooMany { limit }),
            Some(gateways) => {
                let is_full = gateways.len() >= MOST_NEXT_HOPS;
                let prefix = claim.prefix;
                (is_full && !gateways.contains(&claim.gateway)).then_some(
                    Refusal::TooManyNextHops {
                        prefix,
                        limit: MOST_NEXT_HOPS,
                    },
                )
            }
        }
    }

    /// The gateways of every prefix that has a route by a claim: a held one, one that was let go of a
    /// moment ago, or one of an earlier run.
    fn routed(&self) -> Routed {
        let mut routed = Routed::new();
        let held = self.holds.values().map(|held| &held.claim);
        for claim in held.chain(self.released.keys()).chain(&self.adopted) {
            routed
                .entry(claim.prefix)
                .or_default()
                .insert(claim.gateway);
        }
        routed
    }

    /// Looks at the kernel; says whether to look again at once.
    async fn look_and_report(&mut self, cause: Cause) -> bool {
        match self.look(cause).await {
            Ok(look_again) => look_again,
            Err(error) => {
                let reason = in_words(&error);
                tracing::error!(reason, "cannot look at the kernel's routes");
                self.metrics.kernel_errors.inc();
                self.steps.routes.missing(reason.as_str());
                self.next_look = Instant::now() + self.backoff.next_delay();
                self.refuse_unanswered(&reason);
                // The kernel could not be asked, so asking again at once is of no use.
                false
            }
        }
    }

    /// Makes the kernel's routes equal to the claims and tells everybody; says whether a claim was
    /// refused.
    async fn look(&mut self, cause: Cause) -> Result<bool, KernelError> {
        let begin = Instant::now();
        let look = self.reconcile(cause).await?;
        // A pod that went while nobody watched does not come back under its old claim.
        self.adopted
            .retain(|claim| matches!(look.links.get(&claim.gateway), Some(Ok(_))));
        self.released
            .retain(|claim, _| !matches!(look.links.get(&claim.gateway), Some(Err(_))));
        let now = Instant::now();
        self.rest_until = now + ((now - begin) * REST).clamp(QUIET, LONGEST_REST);
        if look.failures.is_empty() && !look.is_guard_failed() {
            self.backoff.reset();
            self.next_look = now + self.settings.audit_interval;
        } else {
            self.next_look = now + self.backoff.next_delay();
        }
        if look.is_guard_outdated {
            self.next_look = self.next_look.min(now + QUIET);
        }
        if let Some(wait) = look.actual.complete_in {
            self.next_look = self.next_look.min(now + wait.max(QUIET));
        }
        let refused = self.tell_holders(&look);
        self.publish(&look);
        self.publish_forwarding(&look.actual.not_forwarding);
        self.publish_guard(look.guard_problem, &look.uplinks);
        Ok(refused)
    }

    async fn reconcile(&mut self, cause: Cause) -> Result<Look, KernelError> {
        let mut look = Look::default();
        let prefixes = self.claims().keys().map(|claim| claim.prefix).collect();
        look.actual = self.kernel.read(&prefixes).await?;
        self.refuse_not_forwarded(&look.actual.not_forwarding);
        for &claim in self.claims().keys() {
            let link = match look.links.entry(claim.gateway) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(self.kernel.link_to(claim.gateway).await?),
            };
            if let Ok(link) = link {
                let next_hop = NextHop {
                    gateway: claim.gateway,
                    interface: link.interface,
                };
                let next_hops = look.desired.entry(claim.prefix).or_default();
                next_hops.insert(next_hop);
            }
        }
        let plan = plan::plan(&look.desired, &look.actual.routes);
        look.conflicts = plan.conflicts;
        let wanted = self.wanted_guard(&look);
        let guard_changes = wanted.changes(&look.actual.guard);
        look.describe_guard(&self.settings.uplinks, &wanted);
        if plan.changes.is_empty() && guard_changes.is_empty() {
            return Ok(look);
        }
        for change in &plan.changes {
            self.apply(change, cause, &mut look).await;
        }
        for change in &guard_changes {
            self.apply_guard(change, cause, &mut look).await;
        }
        look.actual = self.kernel.read(&prefixes).await?;
        for (&prefix, next_hops) in &look.desired {
            if !look.conflicts.contains_key(&prefix)
                && !plan::is_installed(prefix, next_hops, &look.actual.routes)
            {
                look.failures.entry(prefix).or_insert_with(|| {
                    "the route was acknowledged, but reads back different".to_owned()
                });
            }
        }
        // Compared with the guard that the changes were made for: a default route that another
        // program has added since then is no failure.
        for change in wanted.changes(&look.actual.guard) {
            look.guard_failed(&change, || {
                "the change was acknowledged, but has no effect".to_owned()
            });
        }
        look.is_guard_outdated = self.wanted_guard(&look) != wanted;
        Ok(look)
    }

    /// The uplink guard for the routes of this look.
    fn wanted_guard(&self, look: &Look) -> Wanted {
        let routes = look.desired.iter();
        let routes = routes.filter(|(prefix, _)| !look.conflicts.contains_key(prefix));
        let routes: Desired = routes
            .map(|(prefix, next_hops)| (*prefix, next_hops.clone()))
            .collect();
        Wanted::new(
            &self.settings.uplinks,
            &self.settings.policy.allowed_prefixes,
            &routes,
            &look.actual.routes.foreign,
            &look.actual.guard,
        )
    }

    async fn apply_guard(&mut self, change: &uplink::Change, cause: Cause, look: &mut Look) {
        match self.kernel.apply_guard(change).await {
            Ok(()) => {
                let labels = vec![("change", change.name().to_owned())];
                self.metrics.changes.get_or_create(&labels).inc();
                if cause == Cause::Audit && change.name() != "remove" {
                    self.metrics.repairs.inc();
                    tracing::warn!(%change, "the uplink guard was changed; repaired");
                } else {
                    tracing::info!(%change, "uplink guard changed");
                }
            }
            Err(error) => {
                let reason = in_words(&error);
                tracing::debug!(reason, "the kernel refused a change of the uplink guard");
                self.metrics.kernel_errors.inc();
                look.guard_failed(change, || reason);
            }
        }
    }

    async fn apply(&mut self, change: &Change, cause: Cause, look: &mut Look) {
        match self.kernel.apply(change).await {
            Ok(()) => {
                let labels = vec![("change", change.name().to_owned())];
                self.metrics.changes.get_or_create(&labels).inc();
                if cause == Cause::Audit && !matches!(change, Change::Remove { .. }) {
                    self.metrics.repairs.inc();
                    tracing::warn!(%change, "the kernel's route was not as left; repaired");
                } else {
                    tracing::info!(%change, "the kernel's routes have changed");
                }
            }
            Err(error) => {
                let reason = in_words(&error);
                tracing::error!(reason, "the kernel refused a change");
                self.metrics.kernel_errors.inc();
                look.failures.insert(change.prefix(), reason);
            }
        }
    }

    /// Everything that wants a route; what an earlier run left, and what was let go of a moment
    /// ago, has no holders. The latter stays only where the prefix would have no next hop without
    /// it: where another pod holds the prefix, that one serves it better.
    fn claims(&self) -> BTreeMap<Claim, Holders> {
        let held: BTreeSet<IpNet> = self.holds.values().map(|held| held.claim.prefix).collect();
        let released = self.released.keys();
        let mut claims: BTreeMap<Claim, Holders> = self
            .adopted
            .iter()
            .chain(released.filter(|claim| !held.contains(&claim.prefix)))
            .map(|claim| (*claim, Holders::default()))
            .collect();
        for held in self.holds.values() {
            let holders = claims.entry(held.claim).or_default();
            if holders.count == 0 {
                holders.first = held.peer;
            }
            holders.count += 1;
        }
        claims
    }

    fn tell_holders(&mut self, look: &Look) -> bool {
        let mut refused = Vec::new();
        for (id, held) in &mut self.holds {
            let state = look.state(&held.claim);
            let Some(answer) = held.answer.take() else {
                held.state
                    .send_if_modified(|before| std::mem::replace(before, state.clone()) != state);
                continue;
            };
            let fields = (held.claim.prefix, held.claim.gateway);
            if let Some(refusal) = look.refusal(&held.claim) {
                refused.push(*id);
                refuse(&self.metrics, held, answer, refusal);
                continue;
            }
            tracing::info!(
                prefix = %fields.0,
                gateway = %fields.1,
                interface = state.interface,
                process_id = held.peer.process_id,
                user_id = held.peer.user_id,
                "a route is held"
            );
            self.adopted.remove(&held.claim);
            held.state.send_replace(state);
            // A caller who has gone takes the hold along.
            let _ = answer.send(Ok(held.state.subscribe()));
        }
        for id in &refused {
            self.holds.remove(id);
        }
        !refused.is_empty()
    }

    fn refuse_unanswered(&mut self, problem: &str) {
        self.refuse_new(|prefix| {
            let problem = problem.to_owned();
            Some(Refusal::NotRead { prefix, problem })
        });
    }

    /// Refuses new holds of IP versions that the node does not forward, before they have a route.
    fn refuse_not_forwarded(&mut self, not_forwarding: &BTreeSet<IpVersion>) {
        self.refuse_new(|prefix| {
            let is_off = not_forwarding.contains(&IpVersion::of(&prefix));
            is_off.then_some(Refusal::NotForwarding { prefix })
        });
    }

    /// Refuses the holds without an answer for whose prefix there is a refusal.
    fn refuse_new(&mut self, refusal: impl Fn(IpNet) -> Option<Refusal>) {
        let metrics = &self.metrics;
        self.holds.retain(|_, held| {
            let Some(refusal) = refusal(held.claim.prefix) else {
                return true;
            };
            let Some(answer) = held.answer.take() else {
                return true;
            };
            refuse(metrics, held, answer, refusal);
            false
        });
    }

    fn publish_forwarding(&self, not_forwarding: &BTreeSet<IpVersion>) {
        let versions = self.settings.policy.versions();
        let off = versions.intersection(not_forwarding).copied();
        let problems: Vec<String> = off.map(forwarding_problem).collect();
        if problems.is_empty() {
            self.steps.forwarding.ready("");
        } else {
            self.steps.forwarding.missing(problems.join("; "));
        }
    }

    fn publish(&mut self, look: &Look) {
        let routes = look.routes(&self.claims());
        let broken: Vec<String> = routes
            .iter()
            .filter(|(_, route)| !route.installed)
            .map(|(prefix, route)| format!("{prefix}: {}", route.last_error))
            .collect();
        let installed = routes.len() - broken.len();
        if broken.is_empty() {
            self.steps.routes.ready(format!("{installed} installed"));
        } else {
            // One broken claim must not take the node out of service for the others.
            self.steps
                .routes
                .ready(format!("{installed} installed, not: {}", broken.join("; ")));
        }
        for (state, count) in [("installed", installed), ("missing", broken.len())] {
            self.metrics
                .routes
                .get_or_create(&vec![("state", state.to_owned())])
                .set(gauge(count));
        }
        self.metrics.holds.set(gauge(self.holds.len()));
        self.metrics.adopted.set(gauge(self.adopted.len()));
        self.publisher.replace_all(routes);
    }

    /// Without the guard the node still serves, so the step is never missing.
    fn publish_guard(&mut self, problem: Option<String>, uplinks: &str) {
        self.metrics.guard_installed.set(problem.is_none().into());
        self.steps.uplink_guard.ready(match &problem {
            None => uplinks,
            Some(problem) => problem,
        });
        let is_switched_off = self.settings.uplinks == Uplinks::None;
        if let Some(problem) = &problem
            && self.guard_problem.as_ref() != Some(problem)
            && !is_switched_off
        {
            tracing::warn!(
                problem,
                "packets from the uplink for service addresses without a route are not dropped; they \
                 may loop between the node and its router"
            );
        }
        self.guard_problem = problem;
    }

    fn published(&self) -> usize {
        self.publisher.reader().snapshot_after(None, 0).total
    }
}

fn refuse(
    metrics: &RouterMetrics,
    held: &HeldClaim,
    answer: oneshot::Sender<Answer>,
    refusal: Refusal,
) {
    tracing::info!(
        prefix = %held.claim.prefix,
        gateway = %held.claim.gateway,
        process_id = held.peer.process_id,
        user_id = held.peer.user_id,
        reason = %refusal,
        "a hold is refused"
    );
    let labels = vec![("reason", refusal.name().to_owned())];
    metrics.refused.get_or_create(&labels).inc();
    // A caller who has gone needs no answer.
    let _ = answer.send(Err(refusal));
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Keeps the claims of the first prefixes and of the first gateways of each; returns how many are gone.
fn drop_over_limit(claims: &mut BTreeSet<Claim>, limit: usize) -> usize {
    let found = claims.len();
    let mut routed = Routed::new();
    claims.retain(|claim| {
        let is_known = routed.contains_key(&claim.prefix);
        if !is_known && routed.len() >= limit {
            return false;
        }
        let gateways = routed.entry(claim.prefix).or_default();
        gateways.len() < MOST_NEXT_HOPS && gateways.insert(claim.gateway)
    });
    found - claims.len()
}

fn adopted_claims(routes: &[OwnRoute]) -> BTreeSet<Claim> {
    routes
        .iter()
        .flat_map(|route| {
            let prefix = route.prefix;
            let next_hops = route.next_hops.iter().flatten();
            next_hops.map(move |hop| Claim {
                prefix,
                gateway: hop.gateway,
            })
        })
        .collect()
}
