//! State machine that decides which service addresses are announced.
//!
//! The state machine has no I/O, and the current time is a parameter.
//!
//! ```text
//!              serving              node route held
//!  NotServing ─────────► Waiting ───────────────────► Announced ◄───┐ silent for its timeout,
//!      ▲                    │                          │  │  │  ▲   │ and confirmed again
//!      └────────────────────┴──────────────────────────┘  │  └──┼───▼
//!           not serving, node route refused               │     LeastPreferred
//!                                                         │ Drain, Stop   │
//!                                                         ▼               │
//!      ┌────────┐  linger: node routes stay            Draining ◄─────────┘
//!      │ Idle   │ ◄───────────────────── Drained ◄────────┘ withdraw delay
//!      └────────┘                       withdrawn
//! ```
//!
//! Outside of a drain, an address is withdrawn only when the data plane reports that the address is
//! not served, or when node-router reports that the node does not hold the node route of the
//! address. An address that flaps is announced as least preferred for a limited time instead of
//! being withdrawn (module `flaps`).
//!
//! An address that the data plane and node-router have both confirmed since the start of this
//! process becomes least preferred while one of these daemons is silent for longer than its grace
//! period. The address is not withdrawn, because the kernel forwards without these daemons: if the
//! daemons of all load balancers are silent, the last paths stay in use. An address that was never
//! confirmed by both daemons is not announced.
//!
//! The withdraw delay of a drain applies only while a BGP session is established. Without a
//! session, no router has a path from this process, so no traffic has to move.
//!
//! A node route is held for the linger after the withdrawal of its prefix. So the node forwards
//! packets that are in flight, and packets of routers that have not received the withdrawal yet.

mod announcement;
mod data_plane;
mod exchange;
mod flaps;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use bgp_packet::{Community, IpNet, PathAttributes};

pub use self::announcement::{AddressState, AnnouncementDecision, DataPlaneState};
use self::data_plane::DataPlaneLiveness;
pub use self::exchange::{AnnouncementInput, AnnouncementOutput};
use self::flaps::FlapDetector;

/// The settings of the announcements, from the flags of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementsConfig {
    /// Only prefixes within one of these prefixes are announced.
    pub allowed_prefixes: Vec<IpNet>,
    /// Next hop and gateway of IPv4 prefixes. `None`: IPv4 prefixes are refused.
    pub ipv4: Option<InboundRoute>,
    /// Next hop and gateway of IPv6 prefixes. `None`: IPv6 prefixes are refused.
    pub ipv6: Option<InboundRoute>,
    /// LOCAL_PREF of announcements that are not least preferred.
    pub local_pref: u32,
    /// `None`: MULTI_EXIT_DISC is not sent.
    pub multi_exit_disc: Option<u32>,
    pub communities: Vec<Community>,
    /// Grace period of the data plane. After a silence of the data plane for this time, the
    /// addresses that the data plane served become least preferred.
    pub data_plane_timeout: Duration,
    /// Grace period of node-router. After node-router has been away for this time, the addresses
    /// with node routes become least preferred. Zero: they become least preferred immediately.
    pub node_route_timeout: Duration,
    /// Time in a drain between the announcement as least preferred and the withdrawal.
    pub withdraw_delay: Duration,
    /// Time for which a node route is held after the withdrawal of its prefix.
    pub linger: Duration,
}

/// The next hop and the gateway through which packets to service addresses of one address family
/// reach this load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundRoute {
    /// Next hop of the announcements. Unspecified address: the local address of each BGP session.
    pub next_hop: IpAddr,
    /// Address to which node routes lead: an address of this pod. `None`: no node route is needed.
    pub gateway: Option<IpAddr>,
}

/// The state machine that decides for each service address whether the address is announced, and in
/// which form.
#[derive(Clone, Debug)]
pub struct Announcements {
    config: AnnouncementsConfig,
    data_plane: DataPlaneLiveness,
    entries: BTreeMap<IpNet, ServiceAddress>,
    drain: DrainPhase,
    is_stopping: bool,
    withdrawn_by_drain: Vec<IpNet>,
    sessions: SessionPresence,
    /// Time of the last evaluation of all deadlines.
    evaluated_at: Instant,
}

#[derive(Clone, Debug)]
struct ServiceAddress {
    /// The last report of the data plane. `None`: the data plane no longer has the address.
    report: Option<ServingReport>,
    route: NodeRouteState,
    /// Whether the data plane and node-router have both confirmed the address at one time, at least
    /// once.
    was_confirmed: bool,
    announced: Option<AnnouncementForm>,
    flaps: FlapDetector,
    /// When the node route is released after a withdrawal. `None`: the node route is needed, or no
    /// announcement of the address has been withdrawn.
    release_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct ServingReport {
    serving: bool,
    detail: String,
    /// Number of the stream from the data plane that contained the report.
    stream: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NodeRouteState {
    Free,
    Requested {
        problem: String,
    },
    Held,
    /// The node route was held when node-router stopped answering. The kernel probably holds the
    /// route while node-router is away.
    Lost {
        /// End of the grace period of node-router.
        until: Instant,
        problem: String,
    },
}

/// The addresses that have to be evaluated after an input. A report about one address, the most
/// frequent input, can change only the announcement of this address.
enum AffectedAddresses {
    One(IpNet),
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnnouncementForm {
    Normal,
    /// Used during a drain, while the data plane or node-router is silent for longer than its grace
    /// period, and while the address flaps.
    LeastPreferred,
}

/// How well a condition for an announcement is confirmed. The variants are ordered from the worst
/// evidence to the best. If an announcement has several conditions, the worst evidence counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// The condition is known not to hold, or is not confirmed yet.
    Missing,
    /// The condition was confirmed, but the confirming daemon is silent for longer than its grace
    /// period.
    Silent,
    Confirmed,
}

/// Whether a BGP session is established. Without a session, no router has a path from this process,
/// so a drain skips the withdraw delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionPresence {
    /// No session has been established yet.
    Never,
    /// At least one session is established.
    Established,
    /// No session is established. The value is the time at which the last session ended. Its peer
    /// then removed all paths of this process.
    LostAt(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainPhase {
    No,
    Draining { until: Instant },
    Lingering { until: Instant },
    Done,
}

impl Announcements {
    /// Creates the state machine before the first message of the data plane.
    pub fn new(config: AnnouncementsConfig, now: Instant) -> Self {
        Self {
            data_plane: DataPlaneLiveness::new(config.data_plane_timeout, now),
            config,
            entries: BTreeMap::new(),
            drain: DrainPhase::No,
            is_stopping: false,
            withdrawn_by_drain: Vec::new(),
            sessions: SessionPresence::Never,
            evaluated_at: now,
        }
    }

    /// Handles an input. Returns the actions for the caller to carry out.
    pub fn handle(&mut self, input: AnnouncementInput, now: Instant) -> Vec<AnnouncementOutput> {
        let mut outputs = Vec::new();
        match self.record_input(input, now) {
            AffectedAddresses::One(prefix) => self.reconcile(prefix, now, &mut outputs),
            AffectedAddresses::All => {
                self.evaluated_at = now;
                self.advance_drain(now);
                for prefix in self.entries.keys().copied().collect::<Vec<_>>() {
                    self.reconcile(prefix, now, &mut outputs);
                }
                self.finish_drain(now, &mut outputs);
            }
        }
        outputs
    }

    /// Records the input. Returns the addresses whose announcements the input can change.
    fn record_input(&mut self, input: AnnouncementInput, now: Instant) -> AffectedAddresses {
        match input {
            AnnouncementInput::DataPlaneOpened => self.data_plane.opened(),
            AnnouncementInput::ServiceAddress {
                prefix,
                serving,
                detail,
            } => {
                self.data_plane.message_received(now);
                let report = ServingReport {
                    serving,
                    detail,
                    stream: self.data_plane.stream(),
                };
                let entry = self.entries.entry(prefix).or_insert(ServiceAddress {
                    report: None,
                    route: NodeRouteState::Free,
                    was_confirmed: false,
                    announced: None,
                    flaps: FlapDetector::default(),
                    release_at: None,
                });
                entry.report = Some(report);
                return AffectedAddresses::One(prefix);
            }
            AnnouncementInput::ServiceAddressRemoved(prefix) => {
                self.data_plane.message_received(now);
                if let Some(entry) = self.entries.get_mut(&prefix) {
                    entry.report = None;
                }
                return AffectedAddresses::One(prefix);
            }
            AnnouncementInput::Synced => {
                self.data_plane.synced(now);
                let stream = self.data_plane.stream();
                for entry in self.entries.values_mut() {
                    entry.report.take_if(|report| report.stream != stream);
                }
            }
            AnnouncementInput::Heartbeat => self.data_plane.message_received(now),
            AnnouncementInput::DataPlaneLost(problem) => self.data_plane.lost(problem),
            AnnouncementInput::NodeRouteHeld(prefix) => {
                if let Some(entry) = self.entries.get_mut(&prefix)
                    && entry.route != NodeRouteState::Free
                {
                    entry.route = NodeRouteState::Held;
                }
                return AffectedAddresses::One(prefix);
            }
            AnnouncementInput::NodeRouteLost {
                prefix,
                problem,
                is_unknown,
            } => {
                self.node_route_lost(prefix, problem, is_unknown, now);
                return AffectedAddresses::One(prefix);
            }
            AnnouncementInput::SessionsEstablished(is_established) => {
                self.sessions = match (is_established, self.sessions) {
                    (true, _) => SessionPresence::Established,
                    (false, SessionPresence::Established) => SessionPresence::LostAt(now),
                    (false, SessionPresence::Never | SessionPresence::LostAt(_)) => self.sessions,
                };
            }
            AnnouncementInput::Drain => self.begin_drain(now),
            AnnouncementInput::Undrain => {
                if !self.is_stopping {
                    self.drain = DrainPhase::No;
                }
            }
            AnnouncementInput::Stop => {
                self.is_stopping = true;
                self.begin_drain(now);
            }
            AnnouncementInput::DeadlineReached => {}
        }
        AffectedAddresses::All
    }

    fn node_route_lost(&mut self, prefix: IpNet, problem: String, is_unknown: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return;
        };
        entry.route = match &entry.route {
            NodeRouteState::Free => NodeRouteState::Free,
            NodeRouteState::Held if is_unknown => NodeRouteState::Lost {
                until: now + self.config.node_route_timeout,
                problem,
            },
            // A further failed attempt to hold the route does not prolong the grace period.
            NodeRouteState::Lost { until, .. } if is_unknown => NodeRouteState::Lost {
                until: *until,
                problem,
            },
            NodeRouteState::Requested { .. }
            | NodeRouteState::Held
            | NodeRouteState::Lost { .. } => NodeRouteState::Requested { problem },
        };
    }

    fn begin_drain(&mut self, now: Instant) {
        if self.drain != DrainPhase::No {
            return;
        }
        self.withdrawn_by_drain.clear();
        let is_announced = self.entries.values().any(|entry| entry.announced.is_some());
        // If no address is announced, there is no traffic to wait for.
        let timeout = if is_announced {
            self.config.withdraw_delay
        } else {
            Duration::ZERO
        };
        self.drain = DrainPhase::Draining {
            until: now + timeout,
        };
    }

    fn advance_drain(&mut self, now: Instant) {
        if let DrainPhase::Draining { until } = self.drain
            && (until <= now || self.sessions != SessionPresence::Established)
        {
            let linger = self.config.linger;
            let withdrawn_at = match self.sessions {
                SessionPresence::Established => Some(now),
                SessionPresence::LostAt(lost_at) => Some(lost_at),
                SessionPresence::Never => None,
            };
            let announced = self.entries.iter().filter(|(_, it)| it.announced.is_some());
            self.withdrawn_by_drain = announced.map(|(prefix, _)| *prefix).collect();
            // The node routes of addresses that were withdrawn earlier in this drain, for example
            // because the data plane stopped serving the addresses, are also held for the linger.
            let ends = self.entries.values().filter_map(|it| {
                let withdrawn_at = withdrawn_at.filter(|_| it.announced.is_some());
                withdrawn_at.map(|at| at + linger).or(it.release_at)
            });
            let until = ends.max().unwrap_or(now);
            self.drain = DrainPhase::Lingering { until };
        }
    }

    fn finish_drain(&mut self, now: Instant, outputs: &mut Vec<AnnouncementOutput>) {
        match self.drain {
            DrainPhase::Lingering { until } if until <= now => {
                self.drain = DrainPhase::Done;
                outputs.push(AnnouncementOutput::Drained);
            }
            // The process was drained by an operator before a signal stopped it. `Drained` has been
            // output by this earlier drain, so only `Stopped` follows.
            DrainPhase::Done if self.is_stopping => {}
            DrainPhase::No
            | DrainPhase::Draining { .. }
            | DrainPhase::Lingering { .. }
            | DrainPhase::Done => return,
        }
        if self.is_stopping {
            outputs.push(AnnouncementOutput::Stopped);
        }
    }

    /// Decides about one service address, and adds the outputs that carry out the decision.
    fn reconcile(&mut self, prefix: IpNet, now: Instant, outputs: &mut Vec<AnnouncementOutput>) {
        let serving = self.serving(&prefix, now);
        let inbound = self.inbound_route(&prefix).ok();
        let drain = self.drain;
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return;
        };
        let evidence = match inbound {
            Some(inbound) => serving.min(entry.has_route(inbound, now)),
            None => Evidence::Missing,
        };
        entry.was_confirmed |= evidence == Evidence::Confirmed;
        let is_served = serving != Evidence::Missing;
        let is_announced = entry.announced.is_some();
        entry.flaps.evaluate(is_served, is_announced, now);
        // An address that flaps is least preferred as long as the data plane reports the address,
        // whether as served or as not served.
        let is_flapping = entry.flaps.is_flapping() && entry.report.is_some();
        let has_route =
            inbound.is_some_and(|inbound| entry.has_route(inbound, now) != Evidence::Missing);
        let possible = match evidence {
            Evidence::Confirmed if !is_flapping => Some(AnnouncementForm::Normal),
            Evidence::Confirmed => Some(AnnouncementForm::LeastPreferred),
            Evidence::Silent if entry.was_confirmed => Some(AnnouncementForm::LeastPreferred),
            Evidence::Missing if is_flapping && has_route && is_announced => {
                Some(AnnouncementForm::LeastPreferred)
            }
            Evidence::Silent | Evidence::Missing => None,
        };
        let target_form = match (inbound, drain) {
            (Some(_), DrainPhase::No) => possible,
            (Some(_), DrainPhase::Draining { .. })
                if possible.is_some() && entry.announced.is_some() =>
            {
                Some(AnnouncementForm::LeastPreferred)
            }
            (
                None | Some(_),
                DrainPhase::No
                | DrainPhase::Draining { .. }
                | DrainPhase::Lingering { .. }
                | DrainPhase::Done,
            ) => None,
        };
        let needs_route = target_form.is_some() || (is_served && drain == DrainPhase::No);
        if needs_route {
            entry.release_at = None;
            if let Some(InboundRoute {
                gateway: Some(gateway),
                ..
            }) = inbound
                && entry.route == NodeRouteState::Free
            {
                entry.route = NodeRouteState::Requested {
                    problem: String::new(),
                };
                outputs.push(AnnouncementOutput::Hold { prefix, gateway });
            }
        }
        if entry.announced != target_form {
            match (target_form, inbound) {
                (Some(form), Some(inbound)) => {
                    let attributes = self.config.attributes(form, inbound.next_hop);
                    outputs.push(AnnouncementOutput::Announce(prefix, attributes));
                }
                (None, _) | (_, None) => {
                    entry.release_at = Some(now + self.config.linger);
                    outputs.push(AnnouncementOutput::Withdraw(prefix));
                }
            }
            entry.announced = target_form;
        }
        if !needs_route
            && entry.route != NodeRouteState::Free
            && entry.release_at.is_none_or(|release_at| release_at <= now)
        {
            entry.route = NodeRouteState::Free;
            outputs.push(AnnouncementOutput::Release(prefix));
        }
        if entry.report.is_none()
            && entry.announced.is_none()
            && entry.route == NodeRouteState::Free
        {
            self.entries.remove(&prefix);
        }
    }

    /// Returns the evidence that the data plane serves the prefix.
    fn serving(&self, prefix: &IpNet, now: Instant) -> Evidence {
        let entry = self.entries.get(prefix);
        match entry.and_then(|entry| entry.report.as_ref()) {
            Some(report) if report.serving => {
                if self.data_plane.is_confirmed(report.stream, now) {
                    Evidence::Confirmed
                } else {
                    Evidence::Silent
                }
            }
            Some(_) | None => Evidence::Missing,
        }
    }

    /// Returns the next hop and the gateway for `prefix`.
    ///
    /// # Errors
    /// Returns the reason why the prefix is refused.
    fn inbound_route(&self, prefix: &IpNet) -> Result<InboundRoute, String> {
        let is_allowed = |allowed: &IpNet| allowed.contains(prefix);
        if !self.config.allowed_prefixes.iter().any(is_allowed) {
            return Err("outside of --allowed-prefixes".to_owned());
        }
        let (inbound, family) = match prefix {
            IpNet::V4(_) => (self.config.ipv4, "IPv4"),
            IpNet::V6(_) => (self.config.ipv6, "IPv6"),
        };
        inbound.ok_or_else(|| {
            format!("--next-hop or --gateway has no {family} address, but this prefix needs one")
        })
    }

    /// Returns when the caller has to send [`AnnouncementInput::DeadlineReached`].
    pub fn next_deadline(&self) -> Option<Instant> {
        let drain = match self.drain {
            DrainPhase::Draining { until } | DrainPhase::Lingering { until } => Some(until),
            DrainPhase::No | DrainPhase::Done => None,
        };
        let entries = self.entries.values().flat_map(|entry| {
            let lost = match &entry.route {
                NodeRouteState::Lost { until, .. } => Some(*until),
                NodeRouteState::Free | NodeRouteState::Requested { .. } | NodeRouteState::Held => {
                    None
                }
            };
            [lost, entry.release_at, entry.flaps.deadline()]
        });
        entries
            .chain([drain])
            .chain(self.data_plane.deadlines())
            .flatten()
            // Deadlines up to `evaluated_at` have been evaluated.
            .filter(|deadline| *deadline > self.evaluated_at)
            .min()
    }

    /// Returns the state of the stream from the data plane.
    pub fn data_plane(&self) -> DataPlaneState {
        self.data_plane.state(self.evaluated_at)
    }

    /// Returns how many service addresses are least preferred because they flap.
    pub fn flapping(&self) -> usize {
        let mut flapping = 0;
        for entry in self.entries.values() {
            flapping += usize::from(entry.flaps.is_flapping() && entry.announced.is_some());
        }
        flapping
    }

    /// Returns the configured communities, which every announcement has.
    pub(crate) fn communities(&self) -> &[Community] {
        &self.config.communities
    }

    /// Reports whether a drain is in progress or done.
    pub fn is_draining(&self) -> bool {
        self.drain != DrainPhase::No
    }

    /// Reports whether a drain is done.
    pub fn is_drained(&self) -> bool {
        self.drain == DrainPhase::Done
    }

    /// Returns the prefixes that the last drain withdrew.
    pub fn withdrawn_by_drain(&self) -> &[IpNet] {
        &self.withdrawn_by_drain
    }
}

impl ServiceAddress {
    /// Returns the evidence that the node has the node route of the prefix to this pod.
    fn has_route(&self, inbound: InboundRoute, now: Instant) -> Evidence {
        match (inbound.gateway, &self.route) {
            (None, _) | (Some(_), NodeRouteState::Held) => Evidence::Confirmed,
            // During the grace period of node-router, an existing announcement stays, but no new
            // announcement begins.
            (Some(_), NodeRouteState::Lost { until, .. })
                if self.announced.is_some() && *until > now =>
            {
                Evidence::Confirmed
            }
            (Some(_), NodeRouteState::Lost { .. }) => Evidence::Silent,
            (Some(_), NodeRouteState::Free | NodeRouteState::Requested { .. }) => Evidence::Missing,
        }
    }
}

impl AnnouncementsConfig {
    /// Returns the attributes of an announcement. A peer of another AS does not receive LOCAL_PREF,
    /// so bgp-rib expresses GRACEFUL_SHUTDOWN to this peer with MULTI_EXIT_DISC and AS_PATH.
    fn attributes(&self, form: AnnouncementForm, next_hop: IpAddr) -> PathAttributes {
        let mut communities = self.communities.clone();
        let local_pref = match form {
            AnnouncementForm::Normal => self.local_pref,
            AnnouncementForm::LeastPreferred => {
                communities.push(Community::GRACEFUL_SHUTDOWN);
                0
            }
        };
        PathAttributes {
            local_pref: Some(local_pref),
            multi_exit_disc: self.multi_exit_disc,
            communities,
            ..PathAttributes::originate(next_hop)
        }
    }
}

#[cfg(test)]
mod tests;
