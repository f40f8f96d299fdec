//! Access to the kernel's routes and routing rules.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use daemon_runtime::Counter;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::RuleMessage,
};
use nix::errno::Errno;
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_connection_with_strict_check,
    new_multicast_connection,
};
use tokio::sync::mpsc;

use crate::{
    Policy, RouteKernelError, node_settings,
    plan::{Actual, METRIC, NextHops, PROTOCOL, RouteChange},
    uplink::{self, ActualGuard, IpVersion},
};

mod dump;
mod foreign_routes;
pub mod message;
mod notifications;

use dump::dump;
use foreign_routes::{CachedForeignRoutes, Staleness};
use message::{
    ForeignRoutes, TABLE_MAIN, add_own_route, direct_interface, dump_request, fallback_message,
    family, interface_name, lookup_request, parse_own_rule, route_message, rule_message,
};
use notifications::NotificationFollower;

/// Longest wait for an answer of the kernel. The kernel answers within microseconds, so an answer
/// that is missing after this time is lost.
pub const NETLINK_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest wait for a dump of routes of one IP version, including repetitions of the dump. The
/// kernel needs half a second for 100,000 routes.
pub const ROUTES_TIMEOUT: Duration = Duration::from_secs(5);

/// The interface of this node that leads directly to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLink {
    pub interface: u32,
    pub name: String,
}

/// Reason why an address cannot be the gateway of a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOnLink {
    #[error("no route leads to the gateway")]
    NoRoute,
    #[error("the gateway is behind the router {0}, so it is not a pod of this node")]
    BehindRouter(IpAddr),
    #[error(
        "the gateway is an address of the node itself; a pod in the host network needs no route"
    )]
    Local,
    /// The route to the gateway drops packets, leads into a tunnel, or has an unknown type.
    #[error("the route to the gateway has the type {0}")]
    OtherType(String),
}

/// The kernel's routes, rules and settings that are relevant for this daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSnapshot {
    /// Routes of this daemon in the main table, and foreign routes in the tables `main` and
    /// `local`.
    pub routes: Actual,
    /// Rules of the uplink guard, and routes in the guard's table.
    pub guard: ActualGuard,
    /// IP versions that the kernel does not forward.
    pub not_forwarding: BTreeSet<IpVersion>,
    /// `None`: foreign routes and the interfaces of default routes are current. `Some`: they are
    /// possibly outdated, and the next read after this time reads them from the kernel.
    pub complete_in: Option<Duration>,
}

/// Counters of reads from the kernel. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct KernelReadCounters {
    /// Routes in answers of the kernel.
    pub routes: Counter,
    /// Reads of all routes of the node, including routes of other programs.
    pub tables: Counter,
}

/// Operations on the kernel that the owner of the routes needs.
pub trait RouteKernel: Send + 'static {
    /// Reads the routes, rules and settings that are relevant for this daemon. If the foreign
    /// routes are possibly outdated, the function asks the kernel for the current route to each of
    /// `prefixes`. Foreign routes to other prefixes can be outdated, see
    /// [`RouteSnapshot::complete_in`].
    fn read(
        &mut self,
        prefixes: &BTreeSet<IpNet>,
    ) -> impl Future<Output = Result<RouteSnapshot, RouteKernelError>> + Send;

    /// Returns the interface that leads directly to the gateway, or the reason why there is no such
    /// interface.
    fn link_to(
        &mut self,
        gateway: IpAddr,
    ) -> impl Future<Output = Result<Result<GatewayLink, NotOnLink>, RouteKernelError>> + Send;

    /// Applies one change to the main table. The removal of a missing route succeeds.
    fn apply(
        &mut self,
        change: &RouteChange,
    ) -> impl Future<Output = Result<(), RouteKernelError>> + Send;

    /// Applies one change to the uplink guard. The removal of a missing route or rule succeeds.
    fn apply_guard(
        &mut self,
        change: &uplink::GuardChange,
    ) -> impl Future<Output = Result<(), RouteKernelError>> + Send;
}

/// The kernel, seen from the network namespace in which the sockets were opened.
#[derive(Debug)]
pub struct NetlinkKernel {
    handle: Handle,
    policy: Policy,
    /// Result of the last read of other programs' routes. `None`: these routes were never read, or
    /// the last read failed.
    cached_foreign_routes: Option<CachedForeignRoutes>,
    staleness: Arc<Staleness>,
    reads: KernelReadCounters,
}

/// The kernel after its sockets were opened, with the future that serves the sockets.
pub struct OpenedKernel {
    pub kernel: NetlinkKernel,
    /// Receives a value when the kernel reports a change, by any program, that is possibly relevant
    /// for routes in the policy's prefixes.
    pub changes: mpsc::Receiver<()>,
    /// Drives the sockets, and must run while `kernel` and `changes` are in use. Completes only
    /// with an error.
    pub serving: BoxFuture<'static, Result<(), RouteKernelError>>,
    pub reads: KernelReadCounters,
}

impl NetlinkKernel {
    /// Opens the netlink sockets.
    ///
    /// # Errors
    /// The kernel provides no netlink socket.
    pub fn open(policy: Policy) -> Result<OpenedKernel, RouteKernelError> {
        // Kernels before Linux 4.20 have no strict check. They ignore the filter of a request and
        // send all routes, so the daemon filters the routes in the answers as well.
        let opened = new_connection_with_strict_check().or_else(|_| new_connection());
        let (mut requests, handle, _) = opened.map_err(RouteKernelError::Open)?;
        requests.set_forward_done(true);
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (multicast, listening, notifications) =
            new_multicast_connection(&groups).map_err(RouteKernelError::Open)?;
        let (sender, changes) = mpsc::channel(1);
        let staleness = Arc::new(Staleness::default());
        let following = NotificationFollower::new(policy.clone(), Arc::clone(&staleness));
        let reads = KernelReadCounters::default();
        // A connection ends when its last handle is dropped. These handles keep the connection open
        // even if the owner of the routes drops its handle before the daemon ends.
        let handles = (listening, handle.clone());
        let serving = async move {
            let _handles = handles;
            tokio::select! {
                () = requests => {}
                () = multicast => {}
                () = following.follow(notifications, &sender) => {}
            }
            Err(RouteKernelError::NotificationsEnded)
        };
        Ok(OpenedKernel {
            kernel: Self {
                handle,
                policy,
                cached_foreign_routes: None,
                staleness,
                reads: reads.clone(),
            },
            changes,
            serving: serving.boxed(),
            reads,
        })
    }
}

impl RouteKernel for NetlinkKernel {
    async fn read(
        &mut self,
        prefixes: &BTreeSet<IpNet>,
    ) -> Result<RouteSnapshot, RouteKernelError> {
        let mut snapshot = RouteSnapshot {
            not_forwarding: node_settings::not_forwarding(),
            ..self.read_own().await?
        };
        for version in [IpVersion::V4, IpVersion::V6] {
            self.read_rules(version, &mut snapshot.guard).await?;
        }
        self.refresh_foreign_routes().await?;
        let Some(cached) = &self.cached_foreign_routes else {
            return Ok(snapshot);
        };
        let ForeignRoutes {
            foreign,
            interfaces,
            links: _,
        } = cached.foreign_routes.clone();
        if self.staleness.is_stale() {
            snapshot.complete_in = Some(cached.remaining_pause());
        }
        snapshot.routes.foreign = foreign;
        self.check_conflicts(prefixes, &mut snapshot.routes.foreign)
            .await?;
        let pod_interfaces = interfaces.pod_interfaces(&self.policy);
        for (version, interface) in interfaces.of_default_routes {
            // An interface that was removed after its route was read is no uplink.
            let name = self.interface_name(interface).await;
            if let Some(name) = name.map_err(RouteKernelError::ReadRoutes)? {
                if pod_interfaces.contains(&interface) {
                    snapshot.guard.pod_uplinks.insert(name.clone());
                }
                snapshot.guard.default_uplinks.insert((version, name));
            }
        }
        Ok(snapshot)
    }

    async fn link_to(
        &mut self,
        gateway: IpAddr,
    ) -> Result<Result<GatewayLink, NotOnLink>, RouteKernelError> {
        let failed = |source| RouteKernelError::LookUp { gateway, source };
        let request = lookup_request(gateway, RouteFlags::empty());
        let route = match with_timeout(self.query_route(request)).await {
            Ok(Some(route)) => route,
            Ok(None) => return Ok(Err(NotOnLink::NoRoute)),
            Err(source)
                if is_errno(&source, Errno::ENETUNREACH)
                    || is_errno(&source, Errno::EHOSTUNREACH) =>
            {
                return Ok(Err(NotOnLink::NoRoute));
            }
            Err(source) => return Err(failed(source)),
        };
        let interface = match direct_interface(&route) {
            Ok(interface) => interface,
            Err(reason) => return Ok(Err(reason)),
        };
        let name = self.interface_name(interface).await.map_err(failed)?;
        Ok(match name {
            Some(name) => Ok(GatewayLink { interface, name }),
            // The interface was removed after its route was read.
            None => Err(NotOnLink::NoRoute),
        })
    }

    async fn apply(&mut self, change: &RouteChange) -> Result<(), RouteKernelError> {
        let result = self.change_route(TABLE_MAIN, change).await;
        result.map_err(|source| RouteKernelError::Apply {
            change: change.clone(),
            source,
        })
    }

    async fn apply_guard(&mut self, change: &uplink::GuardChange) -> Result<(), RouteKernelError> {
        use RouteNetlinkMessage::{DelRoute, DelRule, NewRoute, NewRule};
        let add = NLM_F_CREATE | NLM_F_EXCL;
        let result = match change {
            uplink::GuardChange::Route(change) => self.change_route(uplink::TABLE, change).await,
            uplink::GuardChange::AddFallback(prefix, kind) => {
                self.request(NewRoute(fallback_message(*prefix, *kind)), add)
                    .await
            }
            uplink::GuardChange::RemoveFallback(prefix, kind) => {
                let result = self
                    .request(DelRoute(fallback_message(*prefix, *kind)), 0)
                    .await;
                ignore_missing(true, result)
            }
            uplink::GuardChange::AddRule(guard_rule) => {
                self.request(NewRule(rule_message(guard_rule)), add).await
            }
            uplink::GuardChange::RemoveRule(guard_rule) => ignore_missing(
                true,
                self.request(DelRule(rule_message(guard_rule)), 0).await,
            ),
        };
        result.map_err(|source| RouteKernelError::ApplyGuard {
            change: change.clone(),
            source,
        })
    }
}

/// Turns the error of a removal into success if the object was already missing: `ESRCH` for a
/// route, `ENOENT` for a rule.
fn ignore_missing(is_removal: bool, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(source)
            if is_removal
                && (is_errno(&source, Errno::ESRCH) || is_errno(&source, Errno::ENOENT)) =>
        {
            Ok(())
        }
        result => result,
    }
}

impl NetlinkKernel {
    async fn change_route(&mut self, table: u32, change: &RouteChange) -> io::Result<()> {
        let (message, flags) = match change {
            RouteChange::Add { prefix, next_hops } => (
                RouteNetlinkMessage::NewRoute(route_message(table, *prefix, METRIC, next_hops)),
                NLM_F_CREATE | NLM_F_EXCL,
            ),
            // Without `NLM_F_CREATE` the kernel refuses to replace a missing route. The next plan,
            // based on a new snapshot, then decides whether to add the route.
            RouteChange::Replace { prefix, next_hops } => (
                RouteNetlinkMessage::NewRoute(route_message(table, *prefix, METRIC, next_hops)),
                NLM_F_REPLACE,
            ),
            RouteChange::Remove { prefix, metric } => {
                let mut message = route_message(table, *prefix, *metric, &NextHops::new());
                // The request matches a route of any type and scope, because an earlier version can
                // have written the route in another form.
                message.header.kind = RouteType::Unspec;
                message.header.scope = RouteScope::NoWhere;
                (RouteNetlinkMessage::DelRoute(message), 0)
            }
        };
        let result = self.request(message, flags).await;
        ignore_missing(matches!(change, RouteChange::Remove { .. }), result)
    }

    /// Reads this daemon's routes. With the strict check (`NETLINK_GET_STRICT_CHK`, Linux 4.20) the
    /// kernel sends only these routes.
    async fn read_own(&mut self) -> Result<RouteSnapshot, RouteKernelError> {
        let mut own = RouteSnapshot::default();
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = dump_request(version, RouteProtocol::from(PROTOCOL));
            let reads = self.reads.clone();
            let add = |routes: &mut Vec<RouteMessage>, message| {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    reads.routes.inc();
                    routes.push(route);
                }
            };
            match with_timeout_of(ROUTES_TIMEOUT, dump(&self.handle, &request, add)).await {
                // A kernel without IPv6 has no IPv6 routes.
                Err(source) if is_missing_version(&source) => {}
                Err(source) => return Err(RouteKernelError::ReadRoutes(source)),
                Ok(routes) => routes
                    .iter()
                    .for_each(|route| add_own_route(route, &mut own)),
            }
        }
        Ok(own)
    }

    /// Requests one route. Returns `None` if the kernel answers without a route.
    async fn query_route(&mut self, request: RouteMessage) -> io::Result<Option<RouteMessage>> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(request));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.request(request).map_err(io_error)?;
        while let Some(answer) = answers.next().await {
            #[allow(
                clippy::wildcard_enum_match_arm,
                reason = "the enum is not exhaustive, so later versions can add variants"
            )]
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    self.reads.routes.inc();
                    return Ok(Some(route));
                }
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Reads this daemon's rules of one IP version into `guard`.
    async fn read_rules(
        &mut self,
        version: IpVersion,
        guard: &mut ActualGuard,
    ) -> Result<(), RouteKernelError> {
        let mut request = RuleMessage::default();
        request.header.family = family(version);
        let request = RouteNetlinkMessage::GetRule(request);
        let add = |rules: &mut BTreeSet<uplink::GuardRule>, message| {
            if let RouteNetlinkMessage::NewRule(rule) = message {
                rules.extend(parse_own_rule(&rule));
            }
        };
        match with_timeout(dump(&self.handle, &request, add)).await {
            // A kernel without routing rules has only one routing table. A route for the guard's
            // table would go to the main table, so this IP version gets no guard.
            Err(source) if is_missing_version(&source) => Ok(()),
            Ok(rules) => {
                guard.rules.extend(rules);
                guard.versions.insert(version);
                Ok(())
            }
            Err(source) => Err(RouteKernelError::ReadRoutes(source)),
        }
    }

    /// Returns the name of an interface, or `None` if the interface is missing.
    async fn interface_name(&mut self, interface: u32) -> io::Result<Option<String>> {
        let link = async {
            let request = self.handle.link().get().match_index(interface);
            let mut links = std::pin::pin!(request.execute());
            links.try_next().await.map_err(io_error)
        };
        match with_timeout(link).await {
            Ok(link) => Ok(link.and_then(|link| interface_name(&link).cloned())),
            Err(source) if is_errno(&source, Errno::ENODEV) => Ok(None),
            Err(source) => Err(source),
        }
    }

    async fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let acknowledged = async {
            let mut answers = self.handle.request(request).map_err(io_error)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(error.to_io());
                }
            }
            Ok(())
        };
        with_timeout(acknowledged).await
    }
}

fn is_errno(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// Reports whether `error` shows that the kernel lacks the requested IP version, or routing rules
/// for this IP version.
fn is_missing_version(error: &io::Error) -> bool {
    is_errno(error, Errno::EOPNOTSUPP) || is_errno(error, Errno::EAFNOSUPPORT)
}

/// Waits for an answer for at most [`NETLINK_TIMEOUT`].
async fn with_timeout<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    with_timeout_of(NETLINK_TIMEOUT, answer).await
}

async fn with_timeout_of<T>(
    timeout: Duration,
    answer: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(error) = error {
        error.to_io()
    } else {
        io::Error::other(error)
    }
}
