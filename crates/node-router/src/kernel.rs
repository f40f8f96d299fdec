//! The kernel's routes: what the owner needs of them, and the real thing over rtnetlink.

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
    KernelError, Policy, node_settings,
    plan::{Actual, Change, METRIC, NextHops, PROTOCOL},
    uplink::{self, Guard, IpVersion},
};

mod changes;
mod dump;
pub mod message;
mod surroundings;

use changes::Changes;
use dump::dump;
use message::{
    Surroundings, TABLE_MAIN, directly_reached, dump_request, fallback, family, interface_name,
    look_up, own_rule, route, rule, sort_in_own,
};
use surroundings::{Reading, Staleness};

/// The kernel answers within microseconds; a silence of this length is a lost answer.
pub const NETLINK_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time for the answer about all routes: 100,000 routes take half a second.
pub const ROUTES_TIMEOUT: Duration = Duration::from_secs(5);

/// The interface that leads to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub interface: u32,
    /// Its name.
    pub name: String,
}

/// Why an address cannot be a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOnLink {
    /// No route leads there.
    #[error("no route leads to it")]
    NoRoute,
    /// Only reached through another router.
    #[error("it is reached by way of {0}, so it is no pod of this node")]
    BehindRouter(IpAddr),
    /// An address of the node itself.
    #[error("it is an address of the node itself; a pod in the host's network needs no route")]
    Local,
    /// A route that throws packets away, or something odd.
    #[error("the route to it is of type {0}")]
    OtherType(String),
}

/// Everything in the kernel that concerns this daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The routes of the main table.
    pub routes: Actual,
    /// The rules, and the routes of their table.
    pub guard: Guard,
    /// IP versions of which the kernel forwards no packet.
    pub not_forwarding: BTreeSet<IpVersion>,
    /// Routes of other programs and default routes may have changed since they were read, and can be
    /// read again after this time; `None`: they are as here.
    pub complete_in: Option<Duration>,
}

/// What was asked of the kernel; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// Routes that the kernel sent in answers.
    pub routes: Counter,
    /// Readings of all routes of the node, those of other programs included.
    pub tables: Counter,
}

/// What the owner of the routes asks of the kernel.
pub trait Kernel: Send + 'static {
    /// The routes and rules that concern this daemon. Foreign routes to `prefixes` that win over ours
    /// are those of this moment; see [`Snapshot::complete_in`] for all others.
    fn read(
        &mut self,
        prefixes: &BTreeSet<IpNet>,
    ) -> impl Future<Output = Result<Snapshot, KernelError>> + Send;

    /// The interface that a gateway is on.
    fn link_to(
        &mut self,
        gateway: IpAddr,
    ) -> impl Future<Output = Result<Result<Link, NotOnLink>, KernelError>> + Send;

    /// Makes one change of the main table. Removing what is gone is no error.
    fn apply(&mut self, change: &Change) -> impl Future<Output = Result<(), KernelError>> + Send;

    /// Makes one change of the uplink guard. Removing what is gone is no error.
    fn apply_guard(
        &mut self,
        change: &uplink::Change,
    ) -> impl Future<Output = Result<(), KernelError>> + Send;
}

/// The kernel of the network namespace that it was opened in.
#[derive(Debug)]
pub struct NetlinkKernel {
    handle: Handle,
    policy: Policy,
    /// Of the routes of other programs.
    reading: Option<Reading>,
    staleness: Arc<Staleness>,
    reads: Reads,
}

/// An open kernel with what serves it.
pub struct OpenedKernel {
    /// For the owner of the routes.
    pub kernel: NetlinkKernel,
    /// Brings a value for changes by anybody that may concern routes in the policy's prefixes.
    pub changes: mpsc::Receiver<()>,
    /// Must run for the other two to work; ends with an error only.
    pub serving: BoxFuture<'static, Result<(), KernelError>>,
    /// Counts of what is asked of the kernel.
    pub reads: Reads,
}

impl NetlinkKernel {
    /// Opens the sockets.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn open(policy: Policy) -> Result<OpenedKernel, KernelError> {
        // Before Linux 4.20 the kernel sends all routes where it is asked for some.
        let opened = new_connection_with_strict_check().or_else(|_| new_connection());
        let (mut requests, handle, _) = opened.map_err(KernelError::Open)?;
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
            new_multicast_connection(&groups).map_err(KernelError::Open)?;
        let (sender, changes) = mpsc::channel(1);
        let staleness = Arc::new(Staleness::default());
        let following = Changes::new(policy.clone(), Arc::clone(&staleness));
        let reads = Reads::default();
        // A connection ends with its last handle; the owner's may go before the daemon does.
        let handles = (listening, handle.clone());
        let serving = async move {
            let _handles = handles;
            tokio::select! {
                () = requests => {}
                () = multicast => {}
                () = following.follow(notifications, &sender) => {}
            }
            Err(KernelError::NotificationsEnded)
        };
        Ok(OpenedKernel {
            kernel: Self {
                handle,
                policy,
                reading: None,
                staleness,
                reads: reads.clone(),
            },
            changes,
            serving: serving.boxed(),
            reads,
        })
    }
}

impl Kernel for NetlinkKernel {
    async fn read(&mut self, prefixes: &BTreeSet<IpNet>) -> Result<Snapshot, KernelError> {
        let mut snapshot = Snapshot {
            not_forwarding: node_settings::not_forwarding(),
            ..self.read_own().await?
        };
        for version in [IpVersion::V4, IpVersion::V6] {
            self.read_rules(version, &mut snapshot.guard).await?;
        }
        self.refresh_surroundings().await?;
        let Some(reading) = &self.reading else {
            return Ok(snapshot);
        };
        let Surroundings {
            foreign,
            interfaces,
            links: _,
        } = reading.surroundings.clone();
        if self.staleness.is_stale() {
            snapshot.complete_in = Some(reading.remaining_rest());
        }
        snapshot.routes.foreign = foreign;
        self.check_conflicts(prefixes, &mut snapshot.routes.foreign)
            .await?;
        let of_pods = interfaces.of_pods(&self.policy);
        for (version, interface) in interfaces.of_defaults {
            // An interface that went between the two questions is no uplink.
            let name = self.interface_name(interface).await;
            if let Some(name) = name.map_err(KernelError::ReadRoutes)? {
                if of_pods.contains(&interface) {
                    snapshot.guard.pod_uplinks.insert(name.clone());
                }
                snapshot.guard.default_uplinks.insert((version, name));
            }
        }
        Ok(snapshot)
    }

    async fn link_to(&mut self, gateway: IpAddr) -> Result<Result<Link, NotOnLink>, KernelError> {
        let failed = |source| KernelError::LookUp { gateway, source };
        let request = look_up(gateway, RouteFlags::empty());
        let route = match answered(self.route(request)).await {
            Ok(Some(route)) => route,
            Ok(None) => return Ok(Err(NotOnLink::NoRoute)),
            Err(source) if is(&source, Errno::ENETUNREACH) || is(&source, Errno::EHOSTUNREACH) => {
                return Ok(Err(NotOnLink::NoRoute));
            }
            Err(source) => return Err(failed(source)),
        };
        let interface = match directly_reached(&route) {
            Ok(interface) => interface,
            Err(reason) => return Ok(Err(reason)),
        };
        let name = self.interface_name(interface).await.map_err(failed)?;
        Ok(match name {
            Some(name) => Ok(Link { interface, name }),
            // The interface went between the two questions.
            None => Err(NotOnLink::NoRoute),
        })
    }

    async fn apply(&mut self, change: &Change) -> Result<(), KernelError> {
        let result = self.change_route(TABLE_MAIN, change).await;
        result.map_err(|source| KernelError::Apply {
            change: change.clone(),
            source,
        })
    }

    async fn apply_guard(&mut self, change: &uplink::Change) -> Result<(), KernelError> {
        use RouteNetlinkMessage::{DelRoute, DelRule, NewRoute, NewRule};
        let add = NLM_F_CREATE | NLM_F_EXCL;
        let result = match change {
            uplink::Change::Route(change) => self.change_route(uplink::TABLE, change).await,
            uplink::Change::AddFallback(prefix, kind) => {
                self.request(NewRoute(fallback(*prefix, *kind)), add).await
            }
            uplink::Change::RemoveFallback(prefix, kind) => {
                let result = self.request(DelRoute(fallback(*prefix, *kind)), 0).await;
                forgiving(true, result)
            }
            uplink::Change::AddRule(its) => self.request(NewRule(rule(its)), add).await,
            uplink::Change::RemoveRule(its) => {
                forgiving(true, self.request(DelRule(rule(its)), 0).await)
            }
        };
        result.map_err(|source| KernelError::ApplyGuard {
            change: change.clone(),
            source,
        })
    }
}

/// What was removed already is no error: `ESRCH` of a route, `ENOENT` of a rule.
fn forgiving(is_removal: bool, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(source) if is_removal && (is(&source, Errno::ESRCH) || is(&source, Errno::ENOENT)) => {
            Ok(())
        }
        result => result,
    }
}

impl NetlinkKernel {
    async fn change_route(&mut self, table: u32, change: &Change) -> io::Result<()> {
        let (message, flags) = match change {
            Change::Add { prefix, next_hops } => (
                RouteNetlinkMessage::NewRoute(route(table, *prefix, METRIC, next_hops)),
                NLM_F_CREATE | NLM_F_EXCL,
            ),
            // Without CREATE: a route that is gone is added by the next plan, which has seen why.
            Change::Replace { prefix, next_hops } => (
                RouteNetlinkMessage::NewRoute(route(table, *prefix, METRIC, next_hops)),
                NLM_F_REPLACE,
            ),
            Change::Remove { prefix, metric } => {
                let mut message = route(table, *prefix, *metric, &NextHops::new());
                // Any type and scope: an earlier version may have made it in another form.
                message.header.kind = RouteType::Unspec;
                message.header.scope = RouteScope::NoWhere;
                (RouteNetlinkMessage::DelRoute(message), 0)
            }
        };
        let result = self.request(message, flags).await;
        forgiving(matches!(change, Change::Remove { .. }), result)
    }

    /// This daemon's routes. The kernel leaves all others out (`NETLINK_GET_STRICT_CHK`, Linux 4.20).
    async fn read_own(&mut self) -> Result<Snapshot, KernelError> {
        let mut own = Snapshot::default();
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = dump_request(version, RouteProtocol::from(PROTOCOL));
            let reads = self.reads.clone();
            let add = |routes: &mut Vec<RouteMessage>, message| {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    reads.routes.inc();
                    routes.push(route);
                }
            };
            match answered_within(ROUTES_TIMEOUT, dump(&self.handle, &request, add)).await {
                // A kernel without IPv6 has no such routes.
                Err(source) if is_missing_version(&source) => {}
                Err(source) => return Err(KernelError::ReadRoutes(source)),
                Ok(routes) => routes.iter().for_each(|route| sort_in_own(route, &mut own)),
            }
        }
        Ok(own)
    }

    /// The kernel's answer to a question about one route.
    async fn route(&mut self, request: RouteMessage) -> io::Result<Option<RouteMessage>> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(request));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.request(request).map_err(io_error)?;
        while let Some(answer) = answers.next().await {
            #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is not exhaustive")]
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

    /// The rules of one IP version.
    async fn read_rules(
        &mut self,
        version: IpVersion,
        guard: &mut Guard,
    ) -> Result<(), KernelError> {
        let mut request = RuleMessage::default();
        request.header.family = family(version);
        let request = RouteNetlinkMessage::GetRule(request);
        let add = |rules: &mut BTreeSet<uplink::Rule>, message| {
            if let RouteNetlinkMessage::NewRule(rule) = message {
                rules.extend(own_rule(&rule));
            }
        };
        match answered(dump(&self.handle, &request, add)).await {
            // A kernel without rules has one table: a route for another one would stand in it.
            Err(source) if is_missing_version(&source) => Ok(()),
            Ok(rules) => {
                guard.rules.extend(rules);
                guard.versions.insert(version);
                Ok(())
            }
            Err(source) => Err(KernelError::ReadRoutes(source)),
        }
    }

    /// The name of an interface; `None` if it is gone.
    async fn interface_name(&mut self, interface: u32) -> io::Result<Option<String>> {
        let link = async {
            let request = self.handle.link().get().match_index(interface);
            let mut links = std::pin::pin!(request.execute());
            links.try_next().await.map_err(io_error)
        };
        match answered(link).await {
            Ok(link) => Ok(link.and_then(|link| interface_name(&link).cloned())),
            Err(source) if is(&source, Errno::ENODEV) => Ok(None),
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
        answered(acknowledged).await
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// A kernel without IPv6, or without routing rules.
fn is_missing_version(error: &io::Error) -> bool {
    is(error, Errno::EOPNOTSUPP) || is(error, Errno::EAFNOSUPPORT)
}

/// The answer, or an error where it does not come in time.
async fn answered<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    answered_within(NETLINK_TIMEOUT, answer).await
}

async fn answered_within<T>(
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
