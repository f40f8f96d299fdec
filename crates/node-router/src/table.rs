//! Owner of the holds: the task that decides which routes exist.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    time::Duration,
};

use daemon_runtime::{
    Backoff, Publisher, ReadinessStep, Shutdown, SleepWatch, error_chain, wait_until,
};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    Policy, RouteKernel, RouteKernelError,
    error::HoldRefusal,
    hold::{HoldAnswer, HoldCommand, HoldId, HoldState, HolderProcess, RouteTableHandle},
    metrics::RouterMetrics,
    plan::{self, Desired, NextHop, OwnRoute, RouteChange},
    policy::RouteClaim,
    reconciliation::{Holders, PublishedRoute, Reconciliation},
    uplink::{self, DesiredGuard, IpVersion, Uplinks},
};

mod publish;

/// Shortest pause after a reconciliation before a notification of the kernel can cause the next
/// reconciliation. The pause is [`PAUSE_FACTOR`] times the duration of the last reconciliation, but
/// at least this time and at most [`LONGEST_PAUSE`]. So another program that changes routes all the
/// time cannot make node-router use a whole processor.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const PAUSE_FACTOR: u32 = 5;
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Maximum number of all holds, as a multiple of `--max-routes`. There can be more holds than
/// routes: several pods can hold one route, and for a moment a restarted pod has its old and its
/// new stream open.
pub(crate) const HOLDS_PER_ROUTE: usize = 4;
/// Maximum number of next hops of one route. For IPv6 the kernel stores one route for each next
/// hop.
const MOST_NEXT_HOPS: usize = 64;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) adopt_timeout: Duration,
    pub(crate) release_delay: Duration,
    pub(crate) audit_interval: Duration,
    pub(crate) max_routes: usize,
    pub(crate) uplinks: Uplinks,
}

/// Steps of `/readyz` that the owner of the holds reports.
pub(crate) struct RouterSteps {
    pub(crate) routes: ReadinessStep,
    pub(crate) uplink_guard: ReadinessStep,
    pub(crate) forwarding: ReadinessStep,
}

/// The holds, and the routes that follow from them. Only one task owns this value.
pub(crate) struct RouteTable<K> {
    kernel: K,
    settings: Settings,
    commands: mpsc::UnboundedReceiver<HoldCommand>,
    holds: BTreeMap<HoldId, ActiveHold>,
    /// Claims for the next hops that an earlier run left. A claim is removed when a pod holds this
    /// claim or when the gateway is not on a link. All claims are removed when the adoption timeout
    /// is over.
    adopted: BTreeSet<RouteClaim>,
    adopted_until: Instant,
    sleep_watch: SleepWatch,
    /// Released claims, and the time until which their next hops stay.
    released: BTreeMap<RouteClaim, Instant>,
    publisher: Publisher<IpNet, PublishedRoute>,
    steps: RouterSteps,
    /// Problem of the uplink guard at the last reconciliation, so that an unchanged problem is
    /// logged only once. `None`: the guard was in force.
    guard_problem: Option<String>,
    metrics: RouterMetrics,
    backoff: Backoff,
    next_reconciliation: Instant,
    /// Before this time, notifications of the kernel cause no reconciliation.
    paused_until: Instant,
}

#[derive(Debug)]
struct ActiveHold {
    claim: RouteClaim,
    process: HolderProcess,
    state: watch::Sender<HoldState>,
    /// Channel for the answer to the hold request. `None`: the hold has been granted.
    answer: Option<oneshot::Sender<HoldAnswer>>,
}

type GatewaysByPrefix = BTreeMap<IpNet, BTreeSet<IpAddr>>;

/// Reason for a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReconcileCause {
    Start,
    Commands,
    ReleaseDelayEnded,
    AdoptionEnded,
    Audit,
}

impl<K: RouteKernel> RouteTable<K> {
    /// Reads the kernel's routes and adopts routes of an earlier run. Removes routes of an earlier
    /// run that the policy does not allow or that exceed a limit.
    ///
    /// # Errors
    /// The kernel's routes cannot be read or changed.
    pub(crate) async fn adopt(
        mut kernel: K,
        settings: Settings,
        steps: RouterSteps,
        metrics: RouterMetrics,
    ) -> Result<(Self, RouteTableHandle), RouteKernelError> {
        let actual = kernel.read(&BTreeSet::new()).await?;
        let mut adopted = adopted_claims(&actual.routes.own);
        let adopted_before = adopted.len();
        adopted.retain(|claim| settings.policy.check(claim).is_ok());
        let excess = drop_over_limit(&mut adopted, settings.max_routes);
        if excess > 0 {
            tracing::warn!(
                limit = settings.max_routes,
                next_hops = excess,
                "an earlier run left more routes than --max-routes allows; removing the excess routes"
            );
        }
        if adopted_before > 0 {
            tracing::info!(
                adopted = adopted.len(),
                not_allowed = adopted_before - adopted.len() - excess,
                timeout = ?settings.adopt_timeout,
                "found routes of an earlier run; adopting the allowed routes"
            );
        }
        if settings.adopt_timeout.is_zero() {
            adopted.clear();
        }
        let publisher = Publisher::new();
        let (handle, commands) = RouteTableHandle::new(publisher.reader());
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
            next_reconciliation: now + settings.audit_interval,
            paused_until: now,
            settings,
        };
        table.reconcile_and_publish(ReconcileCause::Start).await?;
        table.publisher.synced();
        Ok((table, handle))
    }

    /// Processes commands and follows the kernel until a drain is requested. From then on it
    /// continues until no claim is left, but at most for `linger`. Routes that have a claim at the
    /// end of `linger` stay in the kernel.
    pub(crate) async fn run(
        mut self,
        mut kernel_changes: mpsc::Receiver<()>,
        shutdown: Shutdown,
        linger: Duration,
    ) {
        let linger_is_over = async {
            shutdown.drain_requested().await;
            tokio::time::sleep(linger).await;
        };
        tokio::pin!(linger_is_over);
        let mut is_draining = false;
        loop {
            if is_draining && self.claims().is_empty() {
                return;
            }
            let first_released = self.released.values().min().copied();
            let cause = tokio::select! {
                () = &mut linger_is_over => {
                    tracing::info!(
                        routes = self.published(),
                        "stopping; the held routes stay in the kernel"
                    );
                    return;
                }
                () = shutdown.drain_requested(), if !is_draining => {
                    is_draining = true;
                    continue;
                }
                Some(command) = self.commands.recv() => {
                    let mut gateways_by_prefix = self.gateways_by_prefix();
                    self.handle_command(command, &mut gateways_by_prefix);
                    while let Ok(command) = self.commands.try_recv() {
                        self.handle_command(command, &mut gateways_by_prefix);
                    }
                    ReconcileCause::Commands
                }
                Some(()) = kernel_changes.recv() => {
                    self.next_reconciliation = self.next_reconciliation.min(self.paused_until);
                    continue;
                }
                () = tokio::time::sleep_until(self.sleep_watch.due()) => {
                    self.postpone_removals();
                    continue;
                }
                () = tokio::time::sleep_until(self.adopted_until), if !self.adopted.is_empty() => {
                    if self.postpone_removals() {
                        continue;
                    }
                    tracing::info!(
                        next_hops = self.adopted.len(),
                        "the adoption timeout is over; removing routes of an earlier run that no pod holds"
                    );
                    self.adopted.clear();
                    ReconcileCause::AdoptionEnded
                }
                () = wait_until(first_released) => {
                    if self.postpone_removals() {
                        continue;
                    }
                    let now = Instant::now();
                    self.released.retain(|_, until| *until > now);
                    ReconcileCause::ReleaseDelayEnded
                }
                () = tokio::time::sleep_until(self.next_reconciliation) => ReconcileCause::Audit,
            };
            // A reconciliation can change routes for a claim before it refuses the claim. So
            // another reconciliation follows each refusal.
            while self.reconcile_or_schedule_retry(cause).await {}
        }
    }

    /// Postpones the removal of routes without a holder by the time for which this process did not
    /// run, for example because it was stopped. In this time the requests of the holders waited in
    /// the sockets of this process. Reports whether the process did not run for a while.
    fn postpone_removals(&mut self) -> bool {
        let slept = self.sleep_watch.slept();
        if slept.is_zero() {
            return false;
        }
        let now = Instant::now();
        let postponed = |until: Instant, whole: Duration| (until + slept).min(now + whole);
        self.adopted_until = postponed(self.adopted_until, self.settings.adopt_timeout);
        for until in self.released.values_mut() {
            *until = postponed(*until, self.settings.release_delay);
        }
        true
    }

    /// Processes a command. `gateways_by_prefix` contains at least the gateways of all current
    /// claims, and the function adds the gateway of a new hold.
    fn handle_command(&mut self, command: HoldCommand, gateways_by_prefix: &mut GatewaysByPrefix) {
        match command {
            HoldCommand::Hold {
                id,
                claim,
                process,
                answer,
            } => {
                let hold = ActiveHold {
                    claim,
                    process,
                    state: watch::Sender::new(HoldState::default()),
                    answer: None,
                };
                if self.over_limit(&claim, gateways_by_prefix).is_some() {
                    // `gateways_by_prefix` can contain claims that were released after it was
                    // computed. Only the current claims count towards the limits.
                    *gateways_by_prefix = self.gateways_by_prefix();
                }
                if let Some(refusal) = self.over_limit(&claim, gateways_by_prefix) {
                    refuse(&self.metrics, &hold, answer, refusal);
                } else {
                    let answer = Some(answer);
                    self.holds.insert(id, ActiveHold { answer, ..hold });
                    gateways_by_prefix
                        .entry(claim.prefix)
                        .or_default()
                        .insert(claim.gateway);
                }
            }
            HoldCommand::Release(id) => {
                if let Some(hold) = self.holds.remove(&id) {
                    tracing::info!(
                        prefix = %hold.claim.prefix,
                        gateway = %hold.claim.gateway,
                        process_id = hold.process.process_id,
                        user_id = hold.process.user_id,
                        "a hold ended"
                    );
                    let delay = self.settings.release_delay;
                    if !delay.is_zero() {
                        self.released.insert(hold.claim, Instant::now() + delay);
                    }
                }
            }
        }
    }

    /// Returns a refusal if one more hold of the claim would exceed a limit.
    fn over_limit(
        &self,
        claim: &RouteClaim,
        gateways_by_prefix: &GatewaysByPrefix,
    ) -> Option<HoldRefusal> {
        let limit = self.settings.max_routes;
        let holds = limit.saturating_mul(HOLDS_PER_ROUTE);
        if self.holds.len() >= holds {
            return Some(HoldRefusal::TooManyHolds { limit: holds });
        }
        match gateways_by_prefix.get(&claim.prefix) {
            None => {
                (gateways_by_prefix.len() >= limit).then_some(HoldRefusal::TooManyRoutes { limit })
            }
            Some(gateways) => {
                let is_full = gateways.len() >= MOST_NEXT_HOPS;
                let prefix = claim.prefix;
                (is_full && !gateways.contains(&claim.gateway)).then_some(
                    HoldRefusal::TooManyNextHops {
                        prefix,
                        limit: MOST_NEXT_HOPS,
                    },
                )
            }
        }
    }

    /// Returns the gateways of each prefix with a claim: held, recently released, or left by an
    /// earlier run.
    fn gateways_by_prefix(&self) -> GatewaysByPrefix {
        let mut gateways_by_prefix = GatewaysByPrefix::new();
        let held_claims = self.holds.values().map(|hold| &hold.claim);
        for claim in held_claims.chain(self.released.keys()).chain(&self.adopted) {
            gateways_by_prefix
                .entry(claim.prefix)
                .or_default()
                .insert(claim.gateway);
        }
        gateways_by_prefix
    }

    /// Reconciles the kernel with the claims. If the kernel cannot be read, refuses new holds and
    /// schedules a retry. Reports whether another reconciliation must follow immediately.
    async fn reconcile_or_schedule_retry(&mut self, cause: ReconcileCause) -> bool {
        match self.reconcile_and_publish(cause).await {
            Ok(has_refusals) => has_refusals,
            Err(error) => {
                let reason = error_chain(&error);
                tracing::error!(
                    error = reason,
                    "cannot read the kernel's routes; refusing new holds and retrying"
                );
                self.metrics.kernel_errors.inc();
                self.steps.routes.missing(reason.as_str());
                self.next_reconciliation = Instant::now() + self.backoff.next_delay();
                self.refuse_all_unanswered(&reason);
                // An immediate retry would also fail, so the retry waits for the backoff.
                false
            }
        }
    }

    /// Reconciles the kernel with the claims, and publishes the result to holders, watchers,
    /// metrics and readiness. Reports whether a claim was refused.
    async fn reconcile_and_publish(
        &mut self,
        cause: ReconcileCause,
    ) -> Result<bool, RouteKernelError> {
        let begin = Instant::now();
        let reconciliation = self.reconcile(cause).await?;
        // A gateway that is no longer on a link belonged to a pod that ended while node-router did
        // not run. Its adopted claims are dropped, so that a later pod with the same address does
        // not get the routes.
        self.adopted
            .retain(|claim| matches!(reconciliation.links.get(&claim.gateway), Some(Ok(_))));
        self.released
            .retain(|claim, _| !matches!(reconciliation.links.get(&claim.gateway), Some(Err(_))));
        let now = Instant::now();
        self.paused_until =
            now + ((now - begin) * PAUSE_FACTOR).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        if reconciliation.failures.is_empty() && !reconciliation.is_guard_failed() {
            self.backoff.reset();
            self.next_reconciliation = now + self.settings.audit_interval;
        } else {
            self.next_reconciliation = now + self.backoff.next_delay();
        }
        if reconciliation.is_guard_outdated {
            self.next_reconciliation = self.next_reconciliation.min(now + SHORTEST_PAUSE);
        }
        if let Some(wait) = reconciliation.actual.complete_in {
            self.next_reconciliation = self.next_reconciliation.min(now + wait.max(SHORTEST_PAUSE));
        }
        let refused = self.notify_holders(&reconciliation);
        self.publish(&reconciliation);
        self.publish_forwarding(&reconciliation.actual.not_forwarding);
        self.publish_guard(reconciliation.guard_problem, &reconciliation.uplinks);
        Ok(refused)
    }

    async fn reconcile(
        &mut self,
        cause: ReconcileCause,
    ) -> Result<Reconciliation, RouteKernelError> {
        let mut reconciliation = Reconciliation::default();
        let prefixes = self.claims().keys().map(|claim| claim.prefix).collect();
        reconciliation.actual = self.kernel.read(&prefixes).await?;
        self.refuse_not_forwarded(&reconciliation.actual.not_forwarding);
        for &claim in self.claims().keys() {
            let link = match reconciliation.links.entry(claim.gateway) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(self.kernel.link_to(claim.gateway).await?),
            };
            if let Ok(link) = link {
                let next_hop = NextHop {
                    gateway: claim.gateway,
                    interface: link.interface,
                };
                let next_hops = reconciliation.desired.entry(claim.prefix).or_default();
                next_hops.insert(next_hop);
            }
        }
        let plan = plan::plan(&reconciliation.desired, &reconciliation.actual.routes);
        reconciliation.conflicts = plan.conflicts;
        let desired_guard = self.desired_guard(&reconciliation);
        let guard_changes = desired_guard.changes(&reconciliation.actual.guard);
        reconciliation.describe_guard(&self.settings.uplinks, &desired_guard);
        if plan.changes.is_empty() && guard_changes.is_empty() {
            return Ok(reconciliation);
        }
        for change in &plan.changes {
            self.apply(change, cause, &mut reconciliation).await;
        }
        for change in &guard_changes {
            self.apply_guard(change, cause, &mut reconciliation).await;
        }
        reconciliation.actual = self.kernel.read(&prefixes).await?;
        for (&prefix, next_hops) in &reconciliation.desired {
            if !reconciliation.conflicts.contains_key(&prefix)
                && !plan::is_installed(prefix, next_hops, &reconciliation.actual.routes)
            {
                reconciliation.failures.entry(prefix).or_insert_with(|| {
                    "the kernel acknowledged the route, but does not list the route".to_owned()
                });
            }
        }
        // Compares the kernel's guard with the guard that was applied. If another program added a
        // default route during this reconciliation, the desired guard has changed, but no change
        // has failed.
        for change in desired_guard.changes(&reconciliation.actual.guard) {
            reconciliation.record_guard_failure(&change, || {
                "the kernel acknowledged the change, but the change has no effect".to_owned()
            });
        }
        reconciliation.is_guard_outdated = self.desired_guard(&reconciliation) != desired_guard;
        Ok(reconciliation)
    }

    /// Returns the uplink guard for the desired routes of this reconciliation.
    fn desired_guard(&self, reconciliation: &Reconciliation) -> DesiredGuard {
        let routes = reconciliation.desired.iter();
        let routes = routes.filter(|(prefix, _)| !reconciliation.conflicts.contains_key(prefix));
        let routes: Desired = routes
            .map(|(prefix, next_hops)| (*prefix, next_hops.clone()))
            .collect();
        DesiredGuard::new(
            &self.settings.uplinks,
            &self.settings.policy.allowed_prefixes,
            &routes,
            &reconciliation.actual.routes.foreign,
            &reconciliation.actual.guard,
        )
    }

    async fn apply_guard(
        &mut self,
        change: &uplink::GuardChange,
        cause: ReconcileCause,
        reconciliation: &mut Reconciliation,
    ) {
        match self.kernel.apply_guard(change).await {
            Ok(()) => {
                let labels = vec![("change", change.name().to_owned())];
                self.metrics.changes.get_or_create(&labels).inc();
                if cause == ReconcileCause::Audit && change.name() != "remove" {
                    self.metrics.repairs.inc();
                    tracing::warn!(
                        %change,
                        "the uplink guard differed from the desired guard; restored it"
                    );
                } else {
                    tracing::info!(%change, "changed the uplink guard");
                }
            }
            Err(error) => {
                let reason = error_chain(&error);
                tracing::debug!(
                    error = reason,
                    "the kernel refused a change of the uplink guard; retrying"
                );
                self.metrics.kernel_errors.inc();
                reconciliation.record_guard_failure(change, || reason);
            }
        }
    }

    async fn apply(
        &mut self,
        change: &RouteChange,
        cause: ReconcileCause,
        reconciliation: &mut Reconciliation,
    ) {
        match self.kernel.apply(change).await {
            Ok(()) => {
                let labels = vec![("change", change.name().to_owned())];
                self.metrics.changes.get_or_create(&labels).inc();
                if cause == ReconcileCause::Audit && !matches!(change, RouteChange::Remove { .. }) {
                    self.metrics.repairs.inc();
                    tracing::warn!(
                        %change,
                        "a route differed from the desired route; restored it"
                    );
                } else {
                    tracing::info!(%change, "changed a route in the kernel");
                }
            }
            Err(error) => {
                let reason = error_chain(&error);
                tracing::error!(
                    error = reason,
                    "the kernel refused a change of a route; retrying"
                );
                self.metrics.kernel_errors.inc();
                reconciliation.failures.insert(change.prefix(), reason);
            }
        }
    }

    /// Returns all claims that need a route, with their holders. Claims that an earlier run left,
    /// and released claims, have no holders. A released claim counts only if no pod holds its
    /// prefix, because a pod that holds the prefix serves it better than a pod that released it.
    fn claims(&self) -> BTreeMap<RouteClaim, Holders> {
        let held_prefixes: BTreeSet<IpNet> =
            self.holds.values().map(|hold| hold.claim.prefix).collect();
        let released = self.released.keys();
        let mut claims: BTreeMap<RouteClaim, Holders> = self
            .adopted
            .iter()
            .chain(released.filter(|claim| !held_prefixes.contains(&claim.prefix)))
            .map(|claim| (*claim, Holders::default()))
            .collect();
        for hold in self.holds.values() {
            let holders = claims.entry(hold.claim).or_default();
            if holders.count == 0 {
                holders.first = hold.process;
            }
            holders.count += 1;
        }
        claims
    }

    fn notify_holders(&mut self, reconciliation: &Reconciliation) -> bool {
        let mut refused = Vec::new();
        for (id, hold) in &mut self.holds {
            let state = reconciliation.state(&hold.claim);
            let Some(answer) = hold.answer.take() else {
                hold.state
                    .send_if_modified(|before| std::mem::replace(before, state.clone()) != state);
                continue;
            };
            let fields = (hold.claim.prefix, hold.claim.gateway);
            if let Some(refusal) = reconciliation.refusal(&hold.claim) {
                refused.push(*id);
                refuse(&self.metrics, hold, answer, refusal);
                continue;
            }
            tracing::info!(
                prefix = %fields.0,
                gateway = %fields.1,
                interface = state.interface,
                process_id = hold.process.process_id,
                user_id = hold.process.user_id,
                "granted a hold"
            );
            self.adopted.remove(&hold.claim);
            hold.state.send_replace(state);
            // If the caller no longer waits for the answer, the caller has released the hold with a
            // command.
            let _ = answer.send(Ok(hold.state.subscribe()));
        }
        for id in &refused {
            self.holds.remove(id);
        }
        !refused.is_empty()
    }

    fn refuse_all_unanswered(&mut self, problem: &str) {
        self.refuse_unanswered_if(|prefix| {
            let problem = problem.to_owned();
            Some(HoldRefusal::NotRead { prefix, problem })
        });
    }

    /// Refuses each hold that has no answer yet if the node does not forward packets of the hold's
    /// IP version. Called before routes are changed, so that the route of a refused hold is not
    /// installed.
    fn refuse_not_forwarded(&mut self, not_forwarding: &BTreeSet<IpVersion>) {
        self.refuse_unanswered_if(|prefix| {
            let is_off = not_forwarding.contains(&IpVersion::of(&prefix));
            is_off.then_some(HoldRefusal::NotForwarding { prefix })
        });
    }

    /// Refuses holds that have no answer yet, if `refusal` returns a reason for their prefix.
    fn refuse_unanswered_if(&mut self, refusal: impl Fn(IpNet) -> Option<HoldRefusal>) {
        let metrics = &self.metrics;
        self.holds.retain(|_, hold| {
            let Some(refusal) = refusal(hold.claim.prefix) else {
                return true;
            };
            let Some(answer) = hold.answer.take() else {
                return true;
            };
            refuse(metrics, hold, answer, refusal);
            false
        });
    }
}

fn refuse(
    metrics: &RouterMetrics,
    hold: &ActiveHold,
    answer: oneshot::Sender<HoldAnswer>,
    refusal: HoldRefusal,
) {
    tracing::info!(
        prefix = %hold.claim.prefix,
        gateway = %hold.claim.gateway,
        process_id = hold.process.process_id,
        user_id = hold.process.user_id,
        reason = %refusal,
        "refused a hold"
    );
    let labels = vec![("reason", refusal.name().to_owned())];
    metrics.refused.get_or_create(&labels).inc();
    // If the caller no longer waits, there is no receiver for the refusal.
    let _ = answer.send(Err(refusal));
}

/// Keeps only the claims of the first `limit` prefixes, and of each prefix only the first
/// [`MOST_NEXT_HOPS`] gateways. Returns the number of removed claims.
fn drop_over_limit(claims: &mut BTreeSet<RouteClaim>, limit: usize) -> usize {
    let claims_before = claims.len();
    let mut gateways_by_prefix = GatewaysByPrefix::new();
    claims.retain(|claim| {
        let is_known = gateways_by_prefix.contains_key(&claim.prefix);
        if !is_known && gateways_by_prefix.len() >= limit {
            return false;
        }
        let gateways = gateways_by_prefix.entry(claim.prefix).or_default();
        gateways.len() < MOST_NEXT_HOPS && gateways.insert(claim.gateway)
    });
    claims_before - claims.len()
}

fn adopted_claims(routes: &[OwnRoute]) -> BTreeSet<RouteClaim> {
    routes
        .iter()
        .flat_map(|route| {
            let prefix = route.prefix;
            let next_hops = route.next_hops.iter().flatten();
            next_hops.map(move |hop| RouteClaim {
                prefix,
                gateway: hop.gateway,
            })
        })
        .collect()
}
