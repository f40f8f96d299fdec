//! Routes of other programs, read as a whole as rarely as possible.
//!
//! The kernel cannot be asked for the routes of a range, so all of its routes have to be read to know
//! the foreign ones among the service ranges: 100,000 routes take half a second. What was read
//! therefore stays in use until a notification says that it may have changed, and a reading is
//! followed by a rest of [`REST`] times its own duration, up to [`LONGEST_REST`]. Between a notification and the next reading
//! the kernel is asked for each prefix of a hold instead.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use netlink_packet_route::{RouteNetlinkMessage, route::RouteProtocol};
use rtnetlink::Handle;
use tokio::time::Instant;

use super::{
    NetlinkKernel, ROUTES_TIMEOUT, Reads, answered, answered_within,
    dump::dump,
    is_missing_version,
    message::{Surroundings, Winner, dump_request, look_up, sort_in_foreign, winner},
};
use crate::{KernelError, Policy, plan::ForeignRoute, uplink::IpVersion};

/// Pause after a reading of all routes, as a multiple of the reading's duration, and its bounds.
const REST: u32 = 20;
const SHORTEST_REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Longest time between two readings of all routes: the kernel drops a few kinds of routes without a
/// notification, such as those of a deleted nexthop object.
const LONGEST_USE: Duration = Duration::from_secs(300);

/// What one reading has found.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) surroundings: Surroundings,
    at: Instant,
    rest: Duration,
}

/// Whether a reading is still true; shared with the task that follows the kernel's notifications.
#[derive(Debug, Default)]
pub(super) struct Staleness {
    is_stale: AtomicBool,
    /// Interfaces of the routes that were read; `None`: not known, so any link may be one of them.
    links: Mutex<Option<BTreeSet<u32>>>,
}

impl Staleness {
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::SeqCst)
    }

    pub(super) fn mark(&self) {
        self.is_stale.store(true, Ordering::SeqCst);
    }

    /// Marks the reading as stale if it depends on this link.
    pub(super) fn link_changed(&self, link: u32) {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.as_ref().is_none_or(|links| links.contains(&link)) {
            self.mark();
        }
    }

    /// Forgets what has changed: a reading begins, and its routes use these links.
    pub(super) fn forget(&self, links: Option<BTreeSet<u32>>) {
        self.set_links(links);
        self.is_stale.store(false, Ordering::SeqCst);
    }

    fn set_links(&self, links: Option<BTreeSet<u32>>) {
        *self.links.lock().unwrap_or_else(PoisonError::into_inner) = links;
    }
}

impl Reading {
    fn is_over(&self, is_stale: bool) -> bool {
        let age = self.at.elapsed();
        age >= self.rest && (is_stale || age >= LONGEST_USE)
    }

    /// How long until the routes may be read again.
    pub(super) fn remaining_rest(&self) -> Duration {
        self.rest.saturating_sub(self.at.elapsed())
    }
}

impl NetlinkKernel {
    /// Reads all routes if those in use may be wrong and have rested.
    pub(super) async fn refresh_surroundings(&mut self) -> Result<(), KernelError> {
        let is_stale = self.staleness.is_stale();
        if let Some(reading) = &self.reading
            && !reading.is_over(is_stale)
        {
            return Ok(());
        }
        self.reading = None;
        // Before the question: what changes during the answer makes it stale at once.
        self.staleness.forget(None);
        let begin = Instant::now();
        let read = read_all(&self.handle, &self.policy, &self.reads).await;
        let surroundings = read.map_err(KernelError::ReadRoutes)?;
        self.staleness.set_links(Some(surroundings.links.clone()));
        self.reading = Some(Reading {
            surroundings,
            at: Instant::now(),
            rest: (begin.elapsed() * REST).clamp(SHORTEST_REST, LONGEST_REST),
        });
        Ok(())
    }

    /// Corrects the foreign routes of these prefixes by the kernel's own choice for each.
    pub(super) async fn check_conflicts(
        &mut self,
        prefixes: &BTreeSet<IpNet>,
        foreign: &mut Vec<ForeignRoute>,
    ) -> Result<(), KernelError> {
        let is_stale = self.staleness.is_stale();
        for &prefix in prefixes {
            let is_winner = |route: &ForeignRoute| route.prefix == prefix && route.wins();
            if !is_stale && !foreign.iter().any(is_winner) {
                continue;
            }
            match self.winner(prefix).await? {
                Winner::Foreign(route) => {
                    foreign.retain(|known| known.prefix != prefix || known.metric != route.metric);
                    foreign.push(route);
                }
                Winner::NoForeign => foreign.retain(|route| !is_winner(route)),
                Winner::Unknown => {}
            }
        }
        Ok(())
    }

    async fn winner(&mut self, prefix: IpNet) -> Result<Winner, KernelError> {
        use netlink_packet_route::route::RouteFlags;
        use nix::errno::Errno;
        let request = look_up(prefix.addr(), RouteFlags::FibMatch);
        match answered(self.route(request)).await {
            Ok(Some(route)) => Ok(winner(prefix, &route)),
            Ok(None) => Ok(Winner::Unknown),
            Err(source) if super::is(&source, Errno::ENETUNREACH) => Ok(Winner::NoForeign),
            // A route that throws packets away answers with its error.
            Err(source) if source.raw_os_error().is_some() => Ok(Winner::Unknown),
            Err(source) => Err(KernelError::ReadRoutes(source)),
        }
    }
}

async fn read_all(
    handle: &Handle,
    policy: &Policy,
    reads: &Reads,
) -> std::io::Result<Surroundings> {
    let mut all = Surroundings::default();
    reads.tables.inc();
    for version in [IpVersion::V4, IpVersion::V6] {
        let request = dump_request(version, RouteProtocol::Unspec);
        let before = all.clone();
        let add = |found: &mut Option<Surroundings>, message| {
            let found = found.get_or_insert_with(|| before.clone());
            if let RouteNetlinkMessage::NewRoute(route) = message {
                reads.routes.inc();
                sort_in_foreign(&route, policy, found);
            }
        };
        match answered_within(ROUTES_TIMEOUT, dump(handle, &request, add)).await {
            Err(source) if is_missing_version(&source) => {}
            result => all = result?.unwrap_or(before),
        }
    }
    Ok(all)
}
