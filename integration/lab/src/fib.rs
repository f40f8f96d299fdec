//! A watch of the kernel's main routing table of one host.
//!
//! The watch records the gateways of each prefix and the time of each change. It ignores routes
//! without a gateway.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the netlink enums list every message of the kernel"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBufForce, ReceiveTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::host::Host;

/// `RTNLGRP_IPV4_ROUTE` and `RTNLGRP_IPV6_ROUTE` of `linux/rtnetlink.h`, as bits.
const ROUTE_GROUPS: u32 = 1 << 6 | 1 << 10;

/// The interval at which the watching thread checks whether it must end.
const IDLE: Duration = Duration::from_millis(200);

/// The next hops of one prefix after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FibChange {
    /// The time at which the watch received the kernel's notification.
    pub at: Instant,
    pub prefix: IpNet,
    /// The next hops, sorted by address. The list is empty if the route of the prefix was removed.
    pub next_hops: Vec<IpAddr>,
}

/// A thread that watches the main routing table of one host. Dropping the value ends the thread.
#[derive(Debug)]
pub struct FibWatcher {
    host: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Vec<FibChange>>,
    changed: Condvar,
    ended: AtomicBool,
}

impl FibWatcher {
    /// Subscribes to route changes, and then reads the table. In the reverse order, a change
    /// between both steps would be lost.
    pub fn start(host: &Host) -> Result<Self> {
        let (notifications, requests) = host.inside(|| {
            let mut notifications = open()?;
            notifications
                .bind(&SocketAddr::new(0, ROUTE_GROUPS))
                .context("cannot subscribe to route changes")?;
            Ok((notifications, open()?))
        })?;
        let shared = Arc::new(Shared::default());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for (prefix, next_hops) in dump(&requests, family)? {
                shared.record(Instant::now(), prefix, next_hops);
            }
        }
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || watch(&notifications, &requests, &shared)
        });
        Ok(Self {
            host: host.name().to_owned(),
            shared,
            thread: Some(thread),
        })
    }

    /// Returns the next hops of a prefix after the last change of this prefix. Returns an empty
    /// list if no change was recorded.
    pub fn next_hops(&self, prefix: IpNet) -> Vec<IpAddr> {
        last(&self.shared.lock(), prefix).map_or_else(Vec::new, |change| change.next_hops.clone())
    }

    /// Returns all changes in the order in which the watch recorded them. The first changes are the
    /// routes that the table had at the start of the watch.
    pub fn changes(&self) -> Vec<FibChange> {
        self.shared.lock().clone()
    }

    /// Waits until a prefix has exactly the next hops `next_hops`, in any order, and returns the
    /// change after which this is true. With an empty list, waits until the table has no route with
    /// a gateway to the prefix.
    pub fn wait_for(
        &self,
        prefix: IpNet,
        next_hops: &[IpAddr],
        within: Duration,
    ) -> Result<FibChange> {
        let mut wanted = next_hops.to_vec();
        wanted.sort();
        let deadline = Instant::now() + within;
        let mut changes = self.shared.lock();
        loop {
            let seen = last(&changes, prefix).cloned().unwrap_or(FibChange {
                at: Instant::now(),
                prefix,
                next_hops: Vec::new(),
            });
            if seen.next_hops == wanted {
                return Ok(seen);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "timed out after {within:?}, waiting for: {} routes {prefix} via {wanted:?}; last seen: via {:?}",
                    self.host,
                    seen.next_hops
                );
            }
            changes = self
                .shared
                .changed
                .wait_timeout(changes, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for FibWatcher {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<FibChange>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, at: Instant, prefix: IpNet, mut next_hops: Vec<IpAddr>) {
        next_hops.sort();
        let mut changes = self.lock();
        let before = last(&changes, prefix).map_or(&[][..], |change| &change.next_hops);
        if before != next_hops {
            changes.push(FibChange {
                at,
                prefix,
                next_hops,
            });
            self.changed.notify_all();
        }
    }
}

fn last(changes: &[FibChange], prefix: IpNet) -> Option<&FibChange> {
    changes.iter().rev().find(|change| change.prefix == prefix)
}

fn open() -> Result<Socket> {
    let socket = Socket::new(NETLINK_ROUTE).context("cannot open a route socket")?;
    // The notifications of a burst of 1,000 routes must fit into the buffer.
    setsockopt(&socket, RcvBufForce, &(8 << 20))
        .context("cannot enlarge a route socket's buffer")?;
    let idle = TimeVal::milliseconds(IDLE.as_millis().try_into().unwrap_or(i64::MAX));
    setsockopt(&socket, ReceiveTimeout, &idle)
        .context("cannot set the receive timeout of a route socket")?;
    Ok(socket)
}

fn watch(notifications: &Socket, requests: &Socket, shared: &Shared) {
    while !shared.ended.load(Ordering::Relaxed) {
        // `recv_from_full` returns an error when the receive timeout has passed. No other error is
        // expected.
        let Ok((datagram, _)) = notifications.recv_from_full() else {
            continue;
        };
        let at = Instant::now();
        for message in messages(&datagram) {
            let (route, is_new) = match message {
                RouteNetlinkMessage::NewRoute(route) => (route, true),
                RouteNetlinkMessage::DelRoute(route) => (route, false),
                _ => continue,
            };
            let Some((prefix, next_hops)) = gateways(&route) else {
                continue;
            };
            match prefix {
                IpNet::V4(_) if is_new => shared.record(at, prefix, next_hops),
                IpNet::V4(_) => shared.record(at, prefix, Vec::new()),
                // The kernel reports the next hops of an IPv6 route in one notification or in
                // several. So this thread reads the whole table instead of the notification.
                IpNet::V6(_) => {
                    let table = dump(requests, AddressFamily::Inet6).unwrap_or_default();
                    let current = table.into_iter().filter(|(other, _)| *other == prefix);
                    shared.record(at, prefix, current.flat_map(|(_, hops)| hops).collect());
                }
            }
        }
    }
}

/// Returns the prefix and the gateways of each route of one IP version that is in the main table
/// and has a gateway.
fn dump(socket: &Socket, family: AddressFamily) -> Result<Vec<(IpNet, Vec<IpAddr>)>> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(
        header,
        NetlinkPayload::from(RouteNetlinkMessage::GetRoute(request)),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket
        .send(&bytes, 0)
        .context("cannot request the routes")?;

    let mut routes = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().context("cannot read the routes")?;
        let mut rest = &datagram[..];
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            rest = &rest[aligned(&message).min(rest.len())..];
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(routes),
                NetlinkPayload::Error(error) => bail!("cannot read the routes: {error:?}"),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    routes.extend(gateways(&route));
                }
                _ => {}
            }
        }
    }
}

fn messages(datagram: &[u8]) -> Vec<RouteNetlinkMessage> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        rest = &rest[aligned(&message).min(rest.len())..];
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            messages.push(inner);
        }
    }
    messages
}

fn aligned(message: &NetlinkMessage<RouteNetlinkMessage>) -> usize {
    // A length of zero would make the loop of the caller endless.
    (message.header.length as usize).max(4).next_multiple_of(4)
}

/// Returns the destination and the gateways of a route. Returns `None` if the route has no gateway
/// or is not in the main table.
fn gateways(route: &RouteMessage) -> Option<(IpNet, Vec<IpAddr>)> {
    if route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut destination = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut next_hops = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::MultiPath(paths) => {
                let attributes = paths.iter().flat_map(|path| &path.attributes);
                next_hops.extend(attributes.filter_map(gateway));
            }
            other => next_hops.extend(gateway(other)),
        }
    }
    let prefix = IpNet::new(destination, route.header.destination_prefix_length).ok()?;
    (!next_hops.is_empty()).then_some((prefix, next_hops))
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
