//! Translation between the table of `virtual-server` and the kernel's messages.

use std::{net::SocketAddr, time::Duration};

use data_plane::ConnectionCounts;
use netlink_packet_ipvs::{
    AF_INET, AF_INET6, DestAttribute, Flags, IpvsAttribute, IpvsCommand,
    IpvsForwardingMethod as KernelForwarding, IpvsMessage, SVC_F_ONEPACKET, SVC_F_PERSISTENT,
    SVC_F_SCHED_MH_FALLBACK, SVC_F_SCHED_MH_PORT, SVC_F_SCHED_SH_FALLBACK, SVC_F_SCHED_SH_PORT,
    ServiceAttribute, TunnelFlags, TunnelType, decode_address, encode_address,
};
use virtual_server::{
    AddressFamily, EntryForwardingMethod, EntryKey, EntryScheduler, EntrySettings,
    ForwardingMethod, Persistence, Protocol, RealServerEntry, Scheduler, SchedulerFlags,
    TableChange, TunnelKind,
};

/// The flag of services that this daemon owns. The kernel keeps flags that it does not know
/// (ip_vs_ctl.c, `ip_vs_add_service` and `ip_vs_edit_service`), so the flag exists as long as the
/// service, also after a restart of the daemon. The kernel assigns its own flags from the lowest
/// bit, so this high bit does not conflict.
const FLAG_OWNED: u32 = 1 << 30;

/// Returns the request that applies the change.
pub(crate) fn request(change: &TableChange) -> IpvsMessage {
    let (command, mut service, dest) = match change {
        TableChange::AddVirtualServer(key, settings) => {
            (IpvsCommand::NewService, with_settings(*key, settings), None)
        }
        TableChange::SetVirtualServer(key, settings) => {
            (IpvsCommand::SetService, with_settings(*key, settings), None)
        }
        TableChange::RemoveVirtualServer(key) => (IpvsCommand::DelService, service_key(*key), None),
        TableChange::AddRealServer(key, address, real_server) => (
            IpvsCommand::NewDest,
            service_key(*key),
            Some(destination(*address, real_server)),
        ),
        TableChange::SetRealServer(key, address, real_server) => (
            IpvsCommand::SetDest,
            service_key(*key),
            Some(destination(*address, real_server)),
        ),
        TableChange::RemoveRealServer(key, address) => (
            IpvsCommand::DelDest,
            service_key(*key),
            Some(destination_key(*address)),
        ),
    };
    service.shrink_to_fit();
    let mut attributes = vec![IpvsAttribute::Service(service)];
    attributes.extend(dest.map(IpvsAttribute::Dest));
    IpvsMessage {
        command,
        attributes,
    }
}

/// Returns the request for all services.
pub(crate) fn get_services() -> IpvsMessage {
    IpvsMessage {
        command: IpvsCommand::GetService,
        attributes: Vec::new(),
    }
}

/// Returns the request for one service.
pub(crate) fn get_service(key: EntryKey) -> IpvsMessage {
    let attributes = vec![IpvsAttribute::Service(service_key(key))];
    IpvsMessage {
        command: IpvsCommand::GetService,
        attributes,
    }
}

/// Returns the request for the destinations of a service.
pub(crate) fn get_destinations(key: EntryKey) -> IpvsMessage {
    let attributes = vec![IpvsAttribute::Service(service_key(key))];
    IpvsMessage {
        command: IpvsCommand::GetDest,
        attributes,
    }
}

/// Returns the service in an answer. Returns `None` for a service with a protocol that the table of
/// `virtual-server` does not support.
pub(crate) fn service(message: &IpvsMessage) -> Option<(EntryKey, EntrySettings)> {
    let attributes = message.attributes.iter().find_map(|attribute| {
        if let IpvsAttribute::Service(attributes) = attribute {
            Some(attributes)
        } else {
            None
        }
    })?;
    let mut received = KernelService::default();
    for attribute in attributes {
        match attribute {
            ServiceAttribute::AddressFamily(family) => received.family = *family,
            ServiceAttribute::Protocol(protocol) => received.protocol = *protocol,
            ServiceAttribute::Address(address) => received.address = *address,
            ServiceAttribute::Port(port) => received.port = *port,
            ServiceAttribute::FirewallMark(mark) => received.mark = *mark,
            ServiceAttribute::SchedulerName(name) => received.scheduler.clone_from(name),
            ServiceAttribute::Flags(flags) => received.flags = flags.flags,
            ServiceAttribute::Timeout(seconds) => received.timeout = *seconds,
            ServiceAttribute::Netmask(mask) => received.netmask = *mask,
            ServiceAttribute::PersistenceEngineName(_)
            | ServiceAttribute::Stats64(_)
            | ServiceAttribute::Other(_) => {}
        }
    }
    Some((received.key()?, received.settings()))
}

/// A real server in the kernel: its address, settings and connections.
pub(crate) type KernelRealServer = (SocketAddr, RealServerEntry, ConnectionCounts);

/// Returns the destination in an answer about a service with the address family `family`. Returns
/// `None` for a destination without a valid address.
pub(crate) fn real_server(
    message: &IpvsMessage,
    family: AddressFamily,
) -> Option<KernelRealServer> {
    let attributes = message.attributes.iter().find_map(|attribute| {
        if let IpvsAttribute::Dest(attributes) = attribute {
            Some(attributes)
        } else {
            None
        }
    })?;
    let mut address_family = family_number(family);
    let mut octets = None;
    let mut port = 0;
    let mut method = KernelForwarding::Masq;
    let mut tunnel = TunnelType::Ipip;
    let mut entry = RealServerEntry {
        weight: 0,
        forwarding_method: EntryForwardingMethod::Foreign,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let mut connections = ConnectionCounts::default();
    for attribute in attributes {
        match attribute {
            DestAttribute::Address(address) => octets = Some(*address),
            DestAttribute::Port(number) => port = *number,
            DestAttribute::ForwardingMethod(received) => method = *received,
            DestAttribute::Weight(weight) => entry.weight = *weight,
            DestAttribute::UpperThreshold(threshold) => entry.upper_threshold = *threshold,
            DestAttribute::LowerThreshold(threshold) => entry.lower_threshold = *threshold,
            DestAttribute::ActiveConnections(count) => connections.active = *count,
            DestAttribute::InactiveConnections(count) => connections.inactive = *count,
            DestAttribute::AddressFamily(received) => address_family = *received,
            DestAttribute::TunnelType(received) => tunnel = *received,
            DestAttribute::PersistentConnections(_)
            | DestAttribute::Stats64(_)
            | DestAttribute::TunnelPort(_)
            | DestAttribute::TunnelFlags(_)
            | DestAttribute::Other(_) => {}
        }
    }
    entry.forwarding_method = match (method, tunnel) {
        // The kernel reports LocalNode for a masqueraded destination whose address is an address of
        // the node.
        (KernelForwarding::Masq | KernelForwarding::LocalNode, _) => {
            EntryForwardingMethod::Known(ForwardingMethod::Masquerade)
        }
        (KernelForwarding::DirectRoute, _) => {
            EntryForwardingMethod::Known(ForwardingMethod::DirectRouting)
        }
        (KernelForwarding::Tunnel, TunnelType::Ipip) => {
            EntryForwardingMethod::Known(ForwardingMethod::Tunnel(TunnelKind::Ipip))
        }
        (KernelForwarding::Tunnel, TunnelType::Gue | TunnelType::Gre | TunnelType::Other(_))
        | (KernelForwarding::Bypass | KernelForwarding::Other(_), _) => {
            EntryForwardingMethod::Foreign
        }
    };
    let address = SocketAddr::new(decode_address(address_family, octets?)?, port);
    Some((address, entry, connections))
}

#[derive(Default)]
struct KernelService {
    family: u16,
    protocol: u16,
    address: [u8; 16],
    port: u16,
    mark: u32,
    scheduler: String,
    flags: u32,
    timeout: u32,
    netmask: u32,
}

impl KernelService {
    fn key(&self) -> Option<EntryKey> {
        let address = decode_address(self.family, self.address)?;
        if self.mark != 0 {
            let family = AddressFamily::of(address);
            return Some(EntryKey::FirewallMark {
                family,
                mark: self.mark,
            });
        }
        let protocol = protocol(self.protocol)?;
        Some(EntryKey::Address {
            protocol,
            address,
            port: self.port,
        })
    }

    fn settings(&self) -> EntrySettings {
        let has = |flag| self.flags & flag != 0;
        let flags = |fallback, port| SchedulerFlags {
            fallback: has(fallback),
            port: has(port),
        };
        let scheduler = match self.scheduler.parse() {
            Ok(Scheduler::Sh(_)) => EntryScheduler::Known(Scheduler::Sh(flags(
                SVC_F_SCHED_SH_FALLBACK,
                SVC_F_SCHED_SH_PORT,
            ))),
            Ok(Scheduler::Mh(_)) => EntryScheduler::Known(Scheduler::Mh(flags(
                SVC_F_SCHED_MH_FALLBACK,
                SVC_F_SCHED_MH_PORT,
            ))),
            Ok(known) => EntryScheduler::Known(known),
            Err(_) => EntryScheduler::Foreign(self.scheduler.clone()),
        };
        let persistence = has(SVC_F_PERSISTENT).then(|| Persistence {
            timeout: Duration::from_secs(self.timeout.into()),
            client_prefix_length: prefix_length(self.family, self.netmask),
        });
        EntrySettings {
            owned: has(FLAG_OWNED),
            scheduler,
            persistence,
            one_packet: has(SVC_F_ONEPACKET),
        }
    }
}

fn service_key(key: EntryKey) -> Vec<ServiceAttribute> {
    let family = ServiceAttribute::AddressFamily(family_number(key.family()));
    match key {
        EntryKey::Address {
            protocol,
            address,
            port,
        } => vec![
            family,
            ServiceAttribute::Protocol(protocol_number(protocol)),
            ServiceAttribute::Address(encode_address(address)),
            ServiceAttribute::Port(port),
        ],
        EntryKey::FirewallMark { mark, .. } => vec![family, ServiceAttribute::FirewallMark(mark)],
    }
}

fn with_settings(key: EntryKey, settings: &EntrySettings) -> Vec<ServiceAttribute> {
    let (name, mut flags) = scheduler(&settings.scheduler);
    let mut set = |is_set, flag| flags |= if is_set { flag } else { 0 };
    set(settings.owned, FLAG_OWNED);
    set(settings.one_packet, SVC_F_ONEPACKET);
    set(settings.persistence.is_some(), SVC_F_PERSISTENT);
    let (timeout, length) = match settings.persistence {
        Some(persistence) => (
            u32::try_from(persistence.timeout.as_secs()).unwrap_or(u32::MAX),
            persistence.client_prefix_length,
        ),
        None => (0, longest_prefix(key.family())),
    };
    let mut attributes = service_key(key);
    attributes.extend([
        ServiceAttribute::SchedulerName(name.to_owned()),
        ServiceAttribute::Flags(Flags {
            flags,
            mask: u32::MAX,
        }),
        ServiceAttribute::Timeout(timeout),
        ServiceAttribute::Netmask(netmask(key.family(), length)),
    ]);
    attributes
}

/// Returns the kernel's name of a scheduler and its flags.
pub(crate) fn scheduler(scheduler: &EntryScheduler) -> (&str, u32) {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    let scheduler = match scheduler {
        EntryScheduler::Known(scheduler) => scheduler,
        EntryScheduler::Foreign(name) => return (name, 0),
    };
    let flags = match scheduler {
        Scheduler::Sh(SchedulerFlags { fallback, port }) => {
            flag(*fallback, SVC_F_SCHED_SH_FALLBACK) | flag(*port, SVC_F_SCHED_SH_PORT)
        }
        Scheduler::Mh(SchedulerFlags { fallback, port }) => {
            flag(*fallback, SVC_F_SCHED_MH_FALLBACK) | flag(*port, SVC_F_SCHED_MH_PORT)
        }
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq => 0,
    };
    (scheduler.word(), flags)
}

fn destination_key(address: SocketAddr) -> Vec<DestAttribute> {
    vec![
        DestAttribute::AddressFamily(family_number(AddressFamily::of(address.ip()))),
        DestAttribute::Address(encode_address(address.ip())),
        DestAttribute::Port(address.port()),
    ]
}

fn destination(address: SocketAddr, real_server: &RealServerEntry) -> Vec<DestAttribute> {
    let method = match real_server.forwarding_method {
        EntryForwardingMethod::Known(ForwardingMethod::Masquerade) => KernelForwarding::Masq,
        EntryForwardingMethod::Known(ForwardingMethod::DirectRouting) => {
            KernelForwarding::DirectRoute
        }
        EntryForwardingMethod::Known(ForwardingMethod::Tunnel(TunnelKind::Ipip)) => {
            KernelForwarding::Tunnel
        }
        // A foreign forwarding method is never desired, so it is never sent.
        EntryForwardingMethod::Foreign => KernelForwarding::Bypass,
    };
    let mut attributes = destination_key(address);
    attributes.extend([
        DestAttribute::ForwardingMethod(method),
        DestAttribute::Weight(real_server.weight),
        DestAttribute::UpperThreshold(real_server.upper_threshold),
        DestAttribute::LowerThreshold(real_server.lower_threshold),
    ]);
    if method == KernelForwarding::Tunnel {
        attributes.extend([
            DestAttribute::TunnelType(TunnelType::Ipip),
            DestAttribute::TunnelPort(0),
            DestAttribute::TunnelFlags(TunnelFlags::NO_CHECKSUM),
        ]);
    }
    attributes
}

/// Returns the protocol number that IANA assigned.
fn protocol_number(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn protocol(number: u16) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol_number(*protocol) == number)
}

fn family_number(family: AddressFamily) -> u16 {
    match family {
        AddressFamily::V4 => AF_INET,
        AddressFamily::V6 => AF_INET6,
    }
}

fn longest_prefix(family: AddressFamily) -> u8 {
    match family {
        AddressFamily::V4 => 32,
        AddressFamily::V6 => 128,
    }
}

/// Returns the netmask attribute. The kernel expects a mask in network byte order for IPv4, and a
/// prefix length for IPv6.
fn netmask(family: AddressFamily, length: u8) -> u32 {
    match family {
        AddressFamily::V4 => u32::MAX
            .checked_shl(32 - u32::from(length.min(32)))
            .unwrap_or(0)
            .to_be(),
        AddressFamily::V6 => length.into(),
    }
}

/// Returns the prefix length of a netmask attribute. Returns 0, which is never desired, for a mask
/// with gaps.
fn prefix_length(family: u16, netmask: u32) -> u8 {
    if family == AF_INET6 {
        return u8::try_from(netmask).unwrap_or(0);
    }
    let mask = u32::from_be(netmask);
    if mask.leading_ones() + mask.trailing_zeros() == 32 {
        mask.leading_ones() as u8
    } else {
        0
    }
}

#[cfg(test)]
mod tests;
