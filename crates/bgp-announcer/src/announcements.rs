//! What is to be announced at a moment: pure, time is a parameter.
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
//! An address is withdrawn only when the data plane says that it is not served, or the node-router
//! that the node does not hold its route. One that the data plane stops serving again and again is
//! least preferred for a while instead (`flaps`). Silence of one of them makes an address that both have
//! confirmed in the life of this process least preferred: the kernels forward without these daemons,
//! and where all load balancers are silent, the last paths stay. An address that was never confirmed
//! is not announced.
//!
//! A drain waits only while a session is established: without one no router sends here because of
//! this process.
//!
//! A node route outlives its announcement by the linger, so that packets that are under way, or
//! come from a router that has not heard of the withdrawal yet, are still forwarded.

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

pub use self::announcement::{Announcement, DataPlaneState, State};
use self::data_plane::DataPlane;
pub use self::exchange::{Input, Output};
use self::flaps::Flaps;

/// What the user decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncementsConfig {
    /// Nothing outside of these is announced.
    pub allowed_prefixes: Vec<IpNet>,
    /// Next hop and node route of each family; a family without is refused.
    pub ipv4: Option<Via>,
    /// The same for IPv6.
    pub ipv6: Option<Via>,
    /// LOCAL_PREF of what is announced.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC of what is announced.
    pub multi_exit_disc: Option<u32>,
    /// COMMUNITIES of what is announced.
    pub communities: Vec<Community>,
    /// Silence of the data plane after which what it served is least preferred.
    pub data_plane_timeout: Duration,
    /// How long the node-router may be away before its routes are least preferred; zero: not at all.
    pub node_route_timeout: Duration,
    /// Time between the announcement as least preferred and the withdrawal.
    pub withdraw_delay: Duration,
    /// Time that a node route outlives its announcement.
    pub linger: Duration,
}

/// How traffic of one family gets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// Unspecified: this side's address of each session.
    pub next_hop: IpAddr,
    /// The pod's address, which the node routes to; `None`: no node route is needed.
    pub gateway: Option<IpAddr>,
}

/// The service addresses, and which of them are announced in which form.
#[derive(Clone, Debug)]
pub struct Announcements {
    config: AnnouncementsConfig,
    data_plane: DataPlane,
    entries: BTreeMap<IpNet, ServiceAddress>,
    drain: Drain,
    is_stopping: bool,
    withdrawn_by_drain: Vec<IpNet>,
    sessions: Sessions,
    /// When all deadlines were looked at last.
    evaluated_at: Instant,
}

#[derive(Clone, Debug)]
struct ServiceAddress {
    /// The last report of the data plane; `None`: it dropped the address.
    report: Option<ServingReport>,
    route: Route,
    /// The data plane and the node-router have both confirmed the address at one time.
    was_confirmed: bool,
    announced: Option<Form>,
    flaps: Flaps,
    /// When the node route is given up.
    release_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct ServingReport {
    serving: bool,
    detail: String,
    /// Number of the stream that brought it.
    stream: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Free,
    Asked {
        problem: String,
    },
    Held,
    /// Was held, and is still there as far as is known: the node-router does not answer.
    Lost {
        /// End of the node-router's grace period.
        until: Instant,
        problem: String,
    },
}

/// Addresses that an input concerns: with many service addresses most concern one.
enum Scope {
    One(IpNet),
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Normal,
    /// For a drain, and while the data plane or the node-router is silent.
    LeastPreferred,
}

/// What is known of a condition of an announcement; the worst of several counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// Known not to be so, or not confirmed yet.
    Missing,
    /// Confirmed before; the daemon that confirms it is silent for longer than its grace period.
    Silent,
    /// Confirmed.
    Confirmed,
}

/// Whether a router may send here because of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sessions {
    /// No session has been established yet.
    Never,
    /// At least one is established.
    Established,
    /// None is established. Its peer withdrew all of the announcements at that time.
    LostAt(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    Draining { until: Instant },
    Lingering { until: Instant },
    Done,
}

impl Announcements {
    /// Nothing is known.
    pub fn new(config: AnnouncementsConfig, now: Instant) -> Self {
        Self {
            data_plane: DataPlane::new(config.data_plane_timeout, now),
            config,
            entries: BTreeMap::new(),
            drain: Drain::No,
            is_stopping: false,
            withdrawn_by_drain: Vec::new(),
            sessions: Sessions::Never,
            evaluated_at: now,
        }
    }

    /// Handles an input. Returns what is to be done.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        match self.note(input, now) {
            Scope::One(prefix) => self.reconcile(prefix, now, &mut outputs),
            Scope::All => {
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

    /// Returns the addresses that the input concerns.
    fn note(&mut self, input: Input, now: Instant) -> Scope {
        match input {
            Input::DataPlaneOpened => self.data_plane.opened(),
            Input::ServiceAddress {
                prefix,
                serving,
                detail,
            } => {
                self.data_plane.heard(now);
                let report = ServingReport {
                    serving,
                    detail,
                    stream: self.data_plane.stream(),
                };
                let entry = self.entries.entry(prefix).or_insert(ServiceAddress {
                    report: None,
                    route: Route::Free,
                    was_confirmed: false,
                    announced: None,
                    flaps: Flaps::default(),
                    release_at: None,
                });
                entry.report = Some(report);
                return Scope::One(prefix);
            }
            Input::ServiceAddressRemoved(prefix) => {
                self.data_plane.heard(now);
                if let Some(entry) = self.entries.get_mut(&prefix) {
                    entry.report = None;
                }
                return Scope::One(prefix);
            }
            Input::Synced => {
                self.data_plane.synced(now);
                let stream = self.data_plane.stream();
                for entry in self.entries.values_mut() {
                    entry.report.take_if(|report| report.stream != stream);
                }
            }
            Input::Heartbeat => self.data_plane.heard(now),
            Input::DataPlaneLost(problem) => self.data_plane.lost(problem),
            Input::NodeRouteHeld(prefix) => {
                if let Some(entry) = self.entries.get_mut(&prefix)
                    && entry.route != Route::Free
                {
                    entry.route = Route::Held;
                }
                return Scope::One(prefix);
            }
            Input::NodeRouteLost {
                prefix,
                problem,
                is_unknown,
            } => {
                self.node_route_lost(prefix, problem, is_unknown, now);
                return Scope::One(prefix);
            }
            Input::SessionsEstablished(is_established) => {
                self.sessions = match (is_established, self.sessions) {
                    (true, _) => Sessions::Established,
                    (false, Sessions::Established) => Sessions::LostAt(now),
                    (false, Sessions::Never | Sessions::LostAt(_)) => self.sessions,
                };
            }
            Input::Drain => self.begin_drain(now),
            Input::Undrain => {
                if !self.is_stopping {
                    self.drain = Drain::No;
                }
            }
            Input::Stop => {
                self.is_stopping = true;
                self.begin_drain(now);
            }
            Input::DeadlineReached => {}
        }
        Scope::All
    }

    fn node_route_lost(&mut self, prefix: IpNet, problem: String, is_unknown: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return;
        };
        entry.route = match &entry.route {
            Route::Free => Route::Free,
            Route::Held if is_unknown => Route::Lost {
                until: now + self.config.node_route_timeout,
                problem,
            },
            // A failed attempt does not prolong the grace period.
            Route::Lost { until, .. } if is_unknown => Route::Lost {
                until: *until,
                problem,
            },
            Route::Asked { .. } | Route::Held | Route::Lost { .. } => Route::Asked { problem },
        };
    }

    fn begin_drain(&mut self, now: Instant) {
        if self.drain != Drain::No {
            return;
        }
        self.withdrawn_by_drain.clear();
        let is_announced = self.entries.values().any(|entry| entry.announced.is_some());
        // With nothing announced there is no traffic to wait for.
        let timeout = if is_announced {
            self.config.withdraw_delay
        } else {
            Duration::ZERO
        };
        self.drain = Drain::Draining {
            until: now + timeout,
        };
    }

    fn advance_drain(&mut self, now: Instant) {
        if let Drain::Draining { until } = self.drain
            && (until <= now || self.sessions != Sessions::Established)
        {
            let linger = self.config.linger;
            let withdrawn_at = match self.sessions {
                Sessions::Established => Some(now),
                Sessions::LostAt(lost_at) => Some(lost_at),
                Sessions::Never => None,
            };
            let announced = self.entries.iter().filter(|(_, it)| it.announced.is_some());
            self.withdrawn_by_drain = announced.map(|(prefix, _)| *prefix).collect();
            // What was withdrawn during the drain, as after the data plane has ended, lingers, too.
            let ends = self.entries.values().filter_map(|it| {
                let withdrawn_at = withdrawn_at.filter(|_| it.announced.is_some());
                withdrawn_at.map(|at| at + linger).or(it.release_at)
            });
            let until = ends.max().unwrap_or(now);
            self.drain = Drain::Lingering { until };
        }
    }

    fn finish_drain(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        match self.drain {
            Drain::Lingering { until } if until <= now => {
                self.drain = Drain::Done;
                outputs.push(Output::Drained);
            }
            // A process that is to stop may have been drained before.
            Drain::Done if self.is_stopping => {}
            Drain::No | Drain::Draining { .. } | Drain::Lingering { .. } | Drain::Done => return,
        }
        if self.is_stopping {
            outputs.push(Output::Stopped);
        }
    }

    /// Brings one service address to what it is to be.
    fn reconcile(&mut self, prefix: IpNet, now: Instant, outputs: &mut Vec<Output>) {
        let serving = self.serving(&prefix, now);
        let via = self.via(&prefix).ok();
        let drain = self.drain;
        let Some(entry) = self.entries.get_mut(&prefix) else {
            return;
        };
        let evidence = match via {
            Some(via) => serving.min(entry.has_route(via, now)),
            None => Evidence::Missing,
        };
        entry.was_confirmed |= evidence == Evidence::Confirmed;
        let is_served = serving != Evidence::Missing;
        let is_announced = entry.announced.is_some();
        entry.flaps.evaluate(is_served, is_announced, now);
        // While it flaps, an address that the data plane still reports counts as one of silence.
        let is_flapping = entry.flaps.is_flapping() && entry.report.is_some();
        let has_route = via.is_some_and(|via| entry.has_route(via, now) != Evidence::Missing);
        let possible = match evidence {
            Evidence::Confirmed if !is_flapping => Some(Form::Normal),
            Evidence::Confirmed => Some(Form::LeastPreferred),
            Evidence::Silent if entry.was_confirmed => Some(Form::LeastPreferred),
            Evidence::Missing if is_flapping && has_route && is_announced => {
                Some(Form::LeastPreferred)
            }
            Evidence::Silent | Evidence::Missing => None,
        };
        let wanted = match (via, drain) {
            (Some(_), Drain::No) => possible,
            (Some(_), Drain::Draining { .. })
                if possible.is_some() && entry.announced.is_some() =>
            {
                Some(Form::LeastPreferred)
            }
            (
                None | Some(_),
                Drain::No | Drain::Draining { .. } | Drain::Lingering { .. } | Drain::Done,
            ) => None,
        };
        let wants_route = wanted.is_some() || (is_served && drain == Drain::No);
        if wants_route {
            entry.release_at = None;
            if let Some(Via {
                gateway: Some(gateway),
                ..
            }) = via
                && entry.route == Route::Free
            {
                entry.route = Route::Asked {
                    problem: String::new(),
                };
                outputs.push(Output::Hold { prefix, gateway });
            }
        }
        if entry.announced != wanted {
            match (wanted, via) {
                (Some(form), Some(via)) => {
                    let attributes = self.config.attributes(form, via.next_hop);
                    outputs.push(Output::Announce(prefix, attributes));
                }
                (None, _) | (_, None) => {
                    entry.release_at = Some(now + self.config.linger);
                    outputs.push(Output::Withdraw(prefix));
                }
            }
            entry.announced = wanted;
        }
        if !wants_route
            && entry.route != Route::Free
            && entry.release_at.is_none_or(|release_at| release_at <= now)
        {
            entry.route = Route::Free;
            outputs.push(Output::Release(prefix));
        }
        if entry.report.is_none() && entry.announced.is_none() && entry.route == Route::Free {
            self.entries.remove(&prefix);
        }
    }

    /// Returns whether the data plane serves the prefix.
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

    /// # Errors
    /// In words, why the prefix is refused.
    fn via(&self, prefix: &IpNet) -> Result<Via, String> {
        let is_allowed = |allowed: &IpNet| allowed.contains(prefix);
        if !self.config.allowed_prefixes.iter().any(is_allowed) {
            return Err("outside of --allowed-prefixes".to_owned());
        }
        let (via, family) = match prefix {
            IpNet::V4(_) => (self.config.ipv4, "IPv4"),
            IpNet::V6(_) => (self.config.ipv6, "IPv6"),
        };
        via.ok_or_else(|| {
            format!("--next-hop or --gateway names no {family} address, which this prefix needs")
        })
    }

    /// When [`Input::DeadlineReached`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let drain = match self.drain {
            Drain::Draining { until } | Drain::Lingering { until } => Some(until),
            Drain::No | Drain::Done => None,
        };
        let entries = self.entries.values().flat_map(|entry| {
            let lost = match &entry.route {
                Route::Lost { until, .. } => Some(*until),
                Route::Free | Route::Asked { .. } | Route::Held => None,
            };
            [lost, entry.release_at, entry.flaps.deadline()]
        });
        entries
            .chain([drain])
            .chain(self.data_plane.deadlines())
            .flatten()
            // What is past was taken into account then.
            .filter(|deadline| *deadline > self.evaluated_at)
            .min()
    }

    /// How far the data plane is known.
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

    /// Returns the communities of every announcement.
    pub(crate) fn communities(&self) -> &[Community] {
        &self.config.communities
    }

    /// Whether a drain is under way or done.
    pub fn is_draining(&self) -> bool {
        self.drain != Drain::No
    }

    /// Whether a drain is done.
    pub fn is_drained(&self) -> bool {
        self.drain == Drain::Done
    }

    /// What the drain withdrew.
    pub fn withdrawn_by_drain(&self) -> &[IpNet] {
        &self.withdrawn_by_drain
    }
}

impl ServiceAddress {
    /// Returns whether the node routes the prefix to this pod.
    fn has_route(&self, via: Via, now: Instant) -> Evidence {
        match (via.gateway, &self.route) {
            (None, _) | (Some(_), Route::Held) => Evidence::Confirmed,
            // The grace period keeps an announcement; it does not begin one.
            (Some(_), Route::Lost { until, .. }) if self.announced.is_some() && *until > now => {
                Evidence::Confirmed
            }
            (Some(_), Route::Lost { .. }) => Evidence::Silent,
            (Some(_), Route::Free | Route::Asked { .. }) => Evidence::Missing,
        }
    }
}

impl AnnouncementsConfig {
    /// Returns what is announced. Towards peers of another AS, bgp-rib expresses GRACEFUL_SHUTDOWN
    /// by MULTI_EXIT_DISC and AS_PATH, since LOCAL_PREF is not sent there.
    fn attributes(&self, form: Form, next_hop: IpAddr) -> PathAttributes {
        let mut communities = self.communities.clone();
        let local_pref = match form {
            Form::Normal => self.local_pref,
            Form::LeastPreferred => {
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
