//! Local routes for service prefixes.
//!
//! A route `local PREFIX dev lo` makes the kernel accept all addresses of a prefix as local. Each
//! route has the routing protocol number of this daemon, so that a later run recognizes it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::{
    error::IpvsKernelError,
    netlink::{Netlink, NetlinkError},
};

/// Routing protocol number of the routes of this daemon. Neither linux/rtnetlink.h nor a known
/// daemon uses this number.
const PROTOCOL: u8 = 80;
/// `RT_TABLE_LOCAL`, the first routing table that the kernel searches.
const TABLE_LOCAL: u8 = 255;
/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;
/// Name of the operation in error texts.
const CHANGE_OPERATION: &str = "change a local route";

#[derive(Debug)]
pub(super) struct LocalRoutes {
    netlink: Netlink,
}

impl LocalRoutes {
    pub(super) fn open() -> Result<Self, IpvsKernelError> {
        let netlink = Netlink::open(NETLINK_ROUTE).map_err(|source| IpvsKernelError::Netlink {
            operation: "open the netlink socket of routes",
            source,
        })?;
        Ok(Self { netlink })
    }

    pub(super) fn read(&mut self) -> Result<BTreeSet<IpNet>, IpvsKernelError> {
        let mut prefixes = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.local_routes(family)?;
            let owned = routes.iter().filter(|route| is_owned(route));
            prefixes.extend(owned.filter_map(destination));
        }
        Ok(prefixes)
    }

    pub(super) fn add(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        let request = RouteNetlinkMessage::NewRoute(route(prefix));
        match self.change(request, NLM_F_CREATE | NLM_F_EXCL)? {
            None => Ok(()),
            Some(Errno::EEXIST) => self.ensure_local(prefix),
            Some(Errno::ENETDOWN) => Err(IpvsKernelError::LoopbackDown),
            Some(errno) => Err(refused(errno)),
        }
    }

    pub(super) fn remove(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        let request = RouteNetlinkMessage::DelRoute(route(prefix));
        match self.change(request, 0)? {
            None | Some(Errno::ESRCH) => Ok(()),
            Some(errno) => Err(refused(errno)),
        }
    }

    /// Checks that an existing route to `prefix` is a local route. The kernel reports EEXIST for a
    /// route of any type (fib_trie.c, `fib_table_insert`).
    fn ensure_local(&mut self, prefix: IpNet) -> Result<(), IpvsKernelError> {
        let routes = self.local_routes(family(prefix))?;
        // If several routes to the prefix exist, the first route in the list is the route that the
        // kernel uses.
        let existing = routes
            .iter()
            .find(|route| destination(route) == Some(prefix));
        match existing.map(|route| route.header.kind) {
            // `None`: the route was removed after the kernel had reported EEXIST. The next audit
            // adds the route.
            None | Some(RouteType::Local) => Ok(()),
            Some(kind) => Err(IpvsKernelError::RouteInTheWay {
                prefix,
                kind: format!("{kind:?}").to_lowercase(),
            }),
        }
    }

    fn local_routes(
        &mut self,
        family: AddressFamily,
    ) -> Result<Vec<RouteMessage>, IpvsKernelError> {
        let mut request_message = RouteMessage::default();
        request_message.header.address_family = family;
        let request = RouteNetlinkMessage::GetRoute(request_message);
        let answers = match self.netlink.dump(request) {
            Ok(answers) => answers,
            // The kernel does not support this address family.
            Err(NetlinkError::Refused(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => Vec::new(),
            Err(source) => return Err(IpvsKernelError::of("read the routes", source)),
        };
        let routes = answers.into_iter().filter_map(|answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                Some(route)
            } else {
                None
            }
        });
        Ok(routes
            .filter(|route| route.header.table == TABLE_LOCAL)
            .collect())
    }

    /// Sends a change. Returns the error number if the kernel refused the change.
    fn change(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<Errno>, IpvsKernelError> {
        let failed = self
            .netlink
            .batch_with(vec![request], |_| flags)
            .map_err(|source| IpvsKernelError::of(CHANGE_OPERATION, source))?;
        Ok(failed.first().map(|failed| failed.errno))
    }
}

fn refused(errno: Errno) -> IpvsKernelError {
    IpvsKernelError::of(CHANGE_OPERATION, NetlinkError::Refused(errno))
}

fn family(prefix: IpNet) -> AddressFamily {
    match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

/// Returns the message of the local route to `prefix`. The kernel removes a route only if its
/// protocol number is equal, so routes of other programs are safe.
fn route(prefix: IpNet) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: family(prefix),
        destination_prefix_length: prefix.prefix_len(),
        table: TABLE_LOCAL,
        protocol: RouteProtocol::Other(PROTOCOL),
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    route.attributes = vec![
        RouteAttribute::Destination(prefix.network().into()),
        RouteAttribute::Oif(LOOPBACK),
    ];
    route
}

fn is_owned(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.protocol == RouteProtocol::Other(PROTOCOL)
        && header.kind == RouteType::Local
        && header.table == TABLE_LOCAL
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address: IpAddr = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(destination) = attribute else {
            return None;
        };
        if let RouteAddress::Inet(address) = destination {
            Some((*address).into())
        } else if let RouteAddress::Inet6(address) = destination {
            Some((*address).into())
        } else {
            None
        }
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn routes_of_this_daemon_are_recognized_and_foreign_routes_are_not() {
        for text in ["10.1.1.0/24", "10.1.1.10/32", "fd00:1::/64"] {
            let prefix: IpNet = text.parse().unwrap();
            let owned = route(prefix);
            assert!(is_owned(&owned));
            assert_eq!(destination(&owned), Some(prefix));
            let mut foreign = owned;
            foreign.header.protocol = RouteProtocol::Boot;
            assert!(!is_owned(&foreign));
        }
    }

    #[test]
    fn a_prefix_is_local_until_it_is_removed() {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("a network namespace can be created; run the test as root");
            let lo_up = ["link", "set", "lo", "up"];
            assert!(Command::new("ip").args(lo_up).status().unwrap().success());
            let mut local = LocalRoutes::open().unwrap();
            for text in ["10.1.1.0/24", "fd00:1::/64"] {
                let prefix: IpNet = text.parse().unwrap();
                for _ in 0..2 {
                    local.add(prefix).unwrap();
                    assert_eq!(local.read().unwrap(), [prefix].into());
                }
                for _ in 0..2 {
                    local.remove(prefix).unwrap();
                    assert_eq!(local.read().unwrap(), BTreeSet::new());
                }
            }
        };
        std::thread::spawn(test).join().unwrap();
    }
}
