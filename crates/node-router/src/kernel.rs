//! The kernel's routes: what the owner needs of them, and the real thing over rtnetlink.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use futures::{
    FutureExt, StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver, future::BoxFuture,
};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkAttribute,
    route::{RouteScope, RouteType},
};
use nix::errno::Errno;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    sys::SocketAddr,
};
use tokio::sync::mpsc;

use crate::{
    KernelError, Policy, node_settings,
    plan::{Actual, Change, METRIC, NextHops},
    uplink::{self, Guard, IpVersion},
};

mod message;

use message::{
    Interfaces, TABLE_MAIN, concerns_us, directly_reached, fallback, own_rule, route, rule, sort_in,
};

/// The kernel answers within microseconds; a silence of this length is a lost answer.
const TIMEOUT: Duration = Duration::from_secs(5);

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
}

/// What the owner of the routes asks of the kernel.
pub trait Kernel: Send + 'static {
    /// The routes and rules that concern this daemon.
    fn read(&mut self) -> impl Future<Output = Result<Snapshot, KernelError>> + Send;

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
}

/// An open kernel with what serves it.
pub struct OpenedKernel {
    /// For the owner of the routes.
    pub kernel: NetlinkKernel,
    /// Brings a value for changes by anybody that may concern routes in the policy's prefixes.
    pub changes: mpsc::Receiver<()>,
    /// Must run for the other two to work; ends with an error only.
    pub serving: BoxFuture<'static, Result<(), KernelError>>,
}

type Notification = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

impl NetlinkKernel {
    /// Opens the sockets.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn open(policy: Policy) -> Result<OpenedKernel, KernelError> {
        let (requests, handle, _) = new_connection().map_err(KernelError::Open)?;
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
        let watched = policy.clone();
        // A connection ends with its last handle; the owner's may go before the daemon does.
        let handles = (listening, handle.clone());
        let serving = async move {
            let _handles = handles;
            tokio::select! {
                () = requests => {}
                () = multicast => {}
                () = watch(notifications, &watched, &sender) => {}
            }
            Err(KernelError::NotificationsEnded)
        };
        Ok(OpenedKernel {
            kernel: Self { handle, policy },
            changes,
            serving: serving.boxed(),
        })
    }
}

/// Says that something has changed; an unread word is as good as two.
async fn watch(
    mut notifications: UnboundedReceiver<Notification>,
    policy: &Policy,
    changed: &mpsc::Sender<()>,
) {
    while let Some((message, _)) = notifications.next().await {
        if concerns_us(&message.payload, policy) {
            // Full: the owner has yet to look, and will see this change too.
            let _ = changed.try_send(());
        }
    }
}

impl Kernel for NetlinkKernel {
    async fn read(&mut self) -> Result<Snapshot, KernelError> {
        let mut snapshot = Snapshot {
            not_forwarding: node_settings::not_forwarding(),
            ..Snapshot::default()
        };
        let mut interfaces = Interfaces::default();
        let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for family in [ipv4, ipv6] {
            let dump = async {
                let mut routes = std::pin::pin!(self.handle.route().get(family).execute());
                while let Some(route) = routes.try_next().await? {
                    sort_in(&route, &self.policy, &mut snapshot, &mut interfaces);
                }
                Ok(())
            };
            match answered(dump).await {
                // A kernel without IPv6 has no such routes.
                Err(source)
                    if is(&source, Errno::EOPNOTSUPP) || is(&source, Errno::EAFNOSUPPORT) => {}
                result => result.map_err(KernelError::ReadRoutes)?,
            }
        }
        for version in [IpVersion::V4, IpVersion::V6] {
            self.read_rules(version, &mut snapshot.guard).await?;
        }
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
        let look_up = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(gateway, if gateway.is_ipv4() { 32 } else { 128 })
            .expect("a host route fits its own family")
            .build();
        let way = async {
            let mut routes = std::pin::pin!(self.handle.route().get(look_up).execute());
            routes.try_next().await
        };
        let route = match answered(way).await {
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

    /// The rules of one IP version.
    async fn read_rules(
        &mut self,
        version: IpVersion,
        guard: &mut Guard,
    ) -> Result<(), KernelError> {
        let of_netlink = match version {
            IpVersion::V4 => rtnetlink::IpVersion::V4,
            IpVersion::V6 => rtnetlink::IpVersion::V6,
        };
        let dump = async {
            let mut rules = std::pin::pin!(self.handle.rule().get(of_netlink).execute());
            while let Some(rule) = rules.try_next().await? {
                guard.rules.extend(own_rule(&rule));
            }
            Ok(())
        };
        match answered(dump).await {
            // A kernel without rules has one table: a route for another one would stand in it.
            Err(source) if is(&source, Errno::EOPNOTSUPP) || is(&source, Errno::EAFNOSUPPORT) => {
                Ok(())
            }
            Ok(()) => {
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
            links.try_next().await
        };
        let attributes = match answered(link).await {
            Ok(Some(link)) => link.attributes,
            Ok(None) => return Ok(None),
            Err(source) if is(&source, Errno::ENODEV) => return Ok(None),
            Err(source) => return Err(source),
        };
        Ok(attributes.into_iter().find_map(|attribute| {
            #[allow(
                clippy::wildcard_enum_match_arm,
                reason = "the kernel's attributes are an open set"
            )]
            match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            }
        }))
    }

    async fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let acknowledged = async {
            let mut answers = self.handle.request(request)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(rtnetlink::Error::NetlinkError(error));
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

/// The answer, or an error of the operating system's kind.
async fn answered<T>(answer: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(rtnetlink::Error::NetlinkError(error))) => Err(error.to_io()),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
