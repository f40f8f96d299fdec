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
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(question);
            let answers = match self.netlink.dump(request) {
                Ok(answers) => answers,
                // A kernel without this IP version.
                Err(NetlinkError::Refused(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => continue,
                Err(source) => return Err(KernelError::of("read the routes", source)),
            };
            prefixes.extend(answers.iter().filter_map(our_prefix));
        }
        Ok(prefixes)
    }

    pub(super) fn add(&mut self, prefix: IpNet) -> Result<(), KernelError> {
        let request = RouteNetlinkMessage::NewRoute(route(prefix));
        self.change(request, NLM_F_CREATE | NLM_F_EXCL, Errno::EEXIST)
    }

    pub(super) fn remove(&mut self, prefix: IpNet) -> Result<(), KernelError> {
        let request = RouteNetlinkMessage::DelRoute(route(prefix));
        self.change(request, 0, Errno::ESRCH)
    }

    fn change(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        done_already: Errno,
    ) -> Result<(), KernelError> {
        let failed = self
            .netlink
            .batch_with(vec![request], |_| flags)
            .map_err(|source| KernelError::of("change a local route", source))?;
        match failed.first() {
            Some(failed) if failed.errno == Errno::ENETDOWN => Err(KernelError::LoopbackDown),
            Some(failed) if failed.errno != done_already => {
                let source = NetlinkError::Refused(failed.errno);
                Err(KernelError::of("change a local route", source))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The kernel removes a route only if the protocol fits, so another's route is safe.
fn route(prefix: IpNet) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: match prefix {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        },
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

fn our_prefix(message: &RouteNetlinkMessage) -> Option<IpNet> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    let header = &route.header;
    let ours = header.protocol == RouteProtocol::Other(PROTOCOL)
        && header.kind == RouteType::Local
        && header.table == TABLE_LOCAL;
    if !ours {
        return None;
    }
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
    IpNet::new(address, header.destination_prefix_length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_routes_are_found_again_and_others_are_not() {
        for text in ["10.1.1.0/24", "10.1.1.10/32", "fd00:1::/64"] {
            let prefix: IpNet = text.parse().unwrap();
            let ours = route(prefix);
            assert_eq!(
                our_prefix(&RouteNetlinkMessage::NewRoute(ours.clone())),
                Some(prefix)
            );
            let mut foreign = ours;
            foreign.header.protocol = RouteProtocol::Boot;
            assert_eq!(our_prefix(&RouteNetlinkMessage::NewRoute(foreign)), None);
        }
    }
}
