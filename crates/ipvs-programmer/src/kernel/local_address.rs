//! Prefixes that are accepted as local: routes `local PREFIX dev lo` with a routing protocol
//! number of our own, which is how they are found again.

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
    error::KernelError,
    netlink::{Netlink, NetlinkError},
};

/// Marks our routes; none of the numbers that linux/rtnetlink.h or a known daemon uses.
const PROTOCOL: u8 = 80;
/// `RT_TABLE_LOCAL`: the table that is asked first.
const TABLE_LOCAL: u8 = 255;
/// The loopback interface has this index in every network namespace.
const LOOPBACK: u32 = 1;
/// What is said of a change that failed.
const CHANGE: &str = "change a local route";

#[derive(Debug)]
pub(super) struct LocalAddresses {
    netlink: Netlink,
}

impl LocalAddresses {
    pub(super) fn open() -> Result<Self, KernelError> {
        let netlink = Netlink::open(NETLINK_ROUTE).map_err(|source| KernelError::Netlink {
            operation: "open the routes",
            source,
        })?;
        Ok(Self { netlink })
    }

    pub(super) fn read(&mut self) -> Result<BTreeSet<IpNet>, KernelError> {
        let mut prefixes = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.local_routes(family)?;
            let ours = routes.iter().filter(|route| is_ours(route));
            prefixes.extend(ours.filter_map(destination));
        }
        Ok(prefixes)
    }

    pub(super) fn add(&mut self, prefix: IpNet) -> Result<(), KernelError> {
        let request = RouteNetlinkMessage::NewRoute(route(prefix));
        match self.change(request, NLM_F_CREATE | NLM_F_EXCL)? {
            None => Ok(()),
            Some(Errno::EEXIST) => self.ensure_local(prefix),
            Some(Errno::ENETDOWN) => Err(KernelError::LoopbackDown),
            Some(errno) => Err(refused(errno)),
        }
    }

    pub(super) fn remove(&mut self, prefix: IpNet) -> Result<(), KernelError> {
        let request = RouteNetlinkMessage::DelRoute(route(prefix));
        match self.change(request, 0)? {
            None | Some(Errno::ESRCH) => Ok(()),
            Some(errno) => Err(refused(errno)),
        }
    }

    /// The kernel says that a route exists whatever its type is (fib_trie.c, `fib_table_insert`).
    fn ensure_local(&mut self, prefix: IpNet) -> Result<(), KernelError> {
        let routes = self.local_routes(family(prefix))?;
        // Of several the kernel lists the one that it uses first.
        let found = routes
            .iter()
            .find(|route| destination(route) == Some(prefix));
        match found.map(|route| route.header.kind) {
            // One that is gone meanwhile is missed by the next audit.
            None | Some(RouteType::Local) => Ok(()),
            Some(kind) => Err(KernelError::RouteInTheWay {
                prefix,
                kind: format!("{kind:?}").to_lowercase(),
            }),
        }
    }

    fn local_routes(&mut self, family: AddressFamily) -> Result<Vec<RouteMessage>, KernelError> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let request = RouteNetlinkMessage::GetRoute(question);
        let answers = match self.netlink.dump(request) {
            Ok(answers) => answers,
            // A kernel without this IP version.
            Err(NetlinkError::Refused(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => Vec::new(),
            Err(source) => return Err(KernelError::of("read the routes", source)),
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

    /// Makes a change; returns why the kernel refused it.
    fn change(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<Errno>, KernelError> {
        let failed = self
            .netlink
            .batch_with(vec![request], |_| flags)
            .map_err(|source| KernelError::of(CHANGE, source))?;
        Ok(failed.first().map(|failed| failed.errno))
    }
}

fn refused(errno: Errno) -> KernelError {
    KernelError::of(CHANGE, NetlinkError::Refused(errno))
}

fn family(prefix: IpNet) -> AddressFamily {
    match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

/// The kernel removes a route only if the protocol fits, so another's route is safe.
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

fn is_ours(route: &RouteMessage) -> bool {
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
    fn our_routes_are_found_again_and_others_are_not() {
        for text in ["10.1.1.0/24", "10.1.1.10/32", "fd00:1::/64"] {
            let prefix: IpNet = text.parse().unwrap();
            let ours = route(prefix);
            assert!(is_ours(&ours));
            assert_eq!(destination(&ours), Some(prefix));
            let mut foreign = ours;
            foreign.header.protocol = RouteProtocol::Boot;
            assert!(!is_ours(&foreign));
        }
    }

    #[test]
    fn a_prefix_is_local_until_it_is_removed() {
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
            let lo_up = ["link", "set", "lo", "up"];
            assert!(Command::new("ip").args(lo_up).status().unwrap().success());
            let mut local = LocalAddresses::open().unwrap();
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
