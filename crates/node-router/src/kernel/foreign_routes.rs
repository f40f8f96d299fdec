//! Cache of other programs' routes.
//!
//! The kernel cannot filter routes by prefix. To find the foreign routes in the service ranges,
//! node-router must read all routes of the node, which takes half a second for 100,000 routes.
//! Therefore node-router caches the foreign routes until a notification of the kernel reports a
//! possible change. After each read of all routes follows a pause of [`PAUSE_FACTOR`] times the
//! duration of the read, at least [`SHORTEST_PAUSE`] and at most [`LONGEST_PAUSE`]. If a
//! notification arrives in the pause, node-router asks the kernel only for the route to each held
//! prefix until the pause is over.

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
    KernelReadCounters, NetlinkKernel, ROUTES_TIMEOUT,
    dump::dump,
    is_missing_version,
    message::{ForeignRoutes, Winner, add_foreign_route, dump_request, lookup_request, winner},
    with_timeout, with_timeout_of,
};
use crate::{Policy, RouteKernelError, plan::ForeignRoute, uplink::IpVersion};

/// Pause after a read of all routes as a multiple of the duration of the read, but at least
/// [`SHORTEST_PAUSE`] and at most [`LONGEST_PAUSE`].
const PAUSE_FACTOR: u32 = 20;
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Age at which the cached routes are read again without a notification. The kernel removes some
/// kinds of routes without a notification, such as routes of a deleted nexthop object.
const LONGEST_AGE: Duration = Duration::from_secs(300);

/// The foreign routes that one read returned.
#[derive(Debug)]
pub(super) struct CachedForeignRoutes {
    pub(super) foreign_routes: ForeignRoutes,
    at: Instant,
    pause: Duration,
}

/// Mark that the cached foreign routes are possibly outdated. The owner of the routes and the task
/// that receives the kernel's notifications share this value.
#[derive(Debug, Default)]
pub(super) struct Staleness {
    is_stale: AtomicBool,
    /// Interfaces of the cached routes. `None`: a read of all routes is in progress, so a change of
    /// any interface makes the result stale.
    links: Mutex<Option<BTreeSet<u32>>>,
}

impl Staleness {
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::SeqCst)
    }

    pub(super) fn mark(&self) {
        self.is_stale.store(true, Ordering::SeqCst);
    }

    /// Marks the cached routes as stale if one of them uses this interface, or if a read of all
    /// routes is in progress.
    pub(super) fn link_changed(&self, link: u32) {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.as_ref().is_none_or(|links| links.contains(&link)) {
            self.mark();
        }
    }

    /// Clears the mark at the start of a read. `links` are the interfaces of the cached routes, or
    /// `None` until the read has returned them.
    pub(super) fn clear(&self, links: Option<BTreeSet<u32>>) {
        self.set_links(links);
        self.is_stale.store(false, Ordering::SeqCst);
    }

    fn set_links(&self, links: Option<BTreeSet<u32>>) {
        *self.links.lock().unwrap_or_else(PoisonError::into_inner) = links;
    }
}

impl CachedForeignRoutes {
    fn is_expired(&self, is_stale: bool) -> bool {
        let age = self.at.elapsed();
        age >= self.pause && (is_stale || age >= LONGEST_AGE)
    }

    /// Returns the remaining time of the pause after the last read of all routes.
    pub(super) fn remaining_pause(&self) -> Duration {
        self.pause.saturating_sub(self.at.elapsed())
    }
}

impl NetlinkKernel {
    /// Reads all routes if no routes are cached, or if the pause after the last read is over and
    /// the cached routes are stale or older than [`LONGEST_AGE`].
    pub(super) async fn refresh_foreign_routes(&mut self) -> Result<(), RouteKernelError> {
        let is_stale = self.staleness.is_stale();
        if let Some(cached) = &self.cached_foreign_routes
            && !cached.is_expired(is_stale)
        {
            return Ok(());
        }
        self.cached_foreign_routes = None;
        // The mark is cleared before the request, so that a change during the read makes the new
        // routes stale.
        self.staleness.clear(None);
        let begin = Instant::now();
        let read = read_all(&self.handle, &self.policy, &self.reads).await;
        let foreign_routes = read.map_err(RouteKernelError::ReadRoutes)?;
        self.staleness.set_links(Some(foreign_routes.links.clone()));
        self.cached_foreign_routes = Some(CachedForeignRoutes {
            foreign_routes,
            at: Instant::now(),
            pause: (begin.elapsed() * PAUSE_FACTOR).clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
        });
        Ok(())
    }

    /// Corrects the routes to these prefixes in `foreign`. For each prefix for which `foreign` is
    /// stale or contains a conflict, the function asks the kernel which route the kernel uses.
    pub(super) async fn check_conflicts(
        &mut self,
        prefixes: &BTreeSet<IpNet>,
        foreign: &mut Vec<ForeignRoute>,
    ) -> Result<(), RouteKernelError> {
        let is_stale = self.staleness.is_stale();
        for &prefix in prefixes {
            let is_winner = |route: &ForeignRoute| route.prefix == prefix && route.wins();
            if !is_stale && !foreign.iter().any(is_winner) {
                continue;
            }
            match self.winner(prefix).await? {
                Winner::Foreign(route) => {
                    foreign.retain(|other| other.prefix != prefix || other.metric != route.metric);
                    foreign.push(route);
                }
                Winner::NoForeign => foreign.retain(|route| !is_winner(route)),
                Winner::Unknown => {}
            }
        }
        Ok(())
    }

    async fn winner(&mut self, prefix: IpNet) -> Result<Winner, RouteKernelError> {
        use netlink_packet_route::route::RouteFlags;
        use nix::errno::Errno;
        let request = lookup_request(prefix.addr(), RouteFlags::FibMatch);
        match with_timeout(self.query_route(request)).await {
            Ok(Some(route)) => Ok(winner(prefix, &route)),
            Ok(None) => Ok(Winner::Unknown),
            Err(source) if super::is_errno(&source, Errno::ENETUNREACH) => Ok(Winner::NoForeign),
            // If the kernel uses a route that drops packets, the answer is the error of this route
            // and does not name the route.
            Err(source) if source.raw_os_error().is_some() => Ok(Winner::Unknown),
            Err(source) => Err(RouteKernelError::ReadRoutes(source)),
        }
    }
}

async fn read_all(
    handle: &Handle,
    policy: &Policy,
    reads: &KernelReadCounters,
) -> std::io::Result<ForeignRoutes> {
    let mut all = ForeignRoutes::default();
    reads.tables.inc();
    for version in [IpVersion::V4, IpVersion::V6] {
        let request = dump_request(version, RouteProtocol::Unspec);
        let before = all.clone();
        let add = |routes: &mut Option<ForeignRoutes>, message| {
            let routes = routes.get_or_insert_with(|| before.clone());
            if let RouteNetlinkMessage::NewRoute(route) = message {
                reads.routes.inc();
                add_foreign_route(&route, policy, routes);
            }
        };
        match with_timeout_of(ROUTES_TIMEOUT, dump(handle, &request, add)).await {
            Err(source) if is_missing_version(&source) => {}
            result => all = result?.unwrap_or(before),
        }
    }
    Ok(all)
}
