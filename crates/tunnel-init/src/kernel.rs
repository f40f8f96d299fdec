//! The kernel's devices and routes, by netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_core::ErrorMessage;
use netlink_packet_route::{
    AddressFamily,
    address::AddressScope,
    link::{
        AfSpecInet, AfSpecUnspec, InetDevConf, InfoKind, LinkAttribute, LinkFlags, LinkHeader,
        LinkInfo, LinkMessage,
    },
    route::{RouteAddress, RouteAttribute, RouteProtocol, RouteScope, RouteType},
    rule::RuleMessage,
};
use nix::errno::Errno;
use routing_rule::RoutingRule;
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder, new_connection};

use crate::{Error, Plan, Rule, Tunnel, plan::TABLE_LOCAL};

/// The interface that packets of this pod's own programs come in by.
const OWN_PACKETS: &str = "lo";
/// The loopback interface has this index in every network namespace.
const LOOPBACK: u32 = 1;
/// The sender must be reachable, by whatever interface (Documentation/networking/ip-sysctl.rst).
/// The kernel takes the greater one of this and `conf.all`, so it also loosens a strict `all`.
const RP_FILTER_LOOSE: i32 = 2;
/// The pod calls its own service address and a load balancer sends the packet back: its source is an
/// address of this pod.
const ACCEPT_LOCAL: i32 = 1;
/// A device without any address accepts nothing with a loose rp_filter either (fib_frontend.c,
/// `__fib_validate_source`). This one means nothing to anybody: RFC 7600, section 4.8.
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// The network namespace of this process.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: Handle,
}

/// Makes it as the plan says, and reads it back. Returns the tunnels for whose IP version the kernel has
/// no routing rules: the rest is done for them.
///
/// # Errors
/// What the kernel refuses, with the cure where there is one.
pub async fn prepare(kernel: &Kernel, plan: &Plan) -> Result<Vec<Tunnel>, Error> {
    for tunnel in &plan.tunnels {
        let index = kernel.find_or_make(*tunnel).await?;
        kernel.set_up(*tunnel, index).await?;
        kernel.ensure_up(*tunnel).await?;
    }
    for prefix in &plan.local {
        kernel.make_local(*prefix).await?;
        kernel.ensure_local(*prefix).await?;
    }
    let mut without_rules = Vec::new();
    for tunnel in &plan.tunnels {
        if !kernel.add_rules(plan, *tunnel).await? {
            without_rules.push(*tunnel);
            continue;
        }
        // Last: until then the rule of preference 0 decides before all others.
        kernel.remove_first_rule(*tunnel).await?;
        kernel.ensure_rules(plan, *tunnel).await?;
    }
    Ok(without_rules)
}

impl Kernel {
    /// Within a tokio runtime, which carries the connection.
    ///
    /// # Errors
    /// There is no netlink socket to be had.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    async fn find_or_make(&self, tunnel: Tunnel) -> Result<u32, Error> {
        if let Some(link) = self.find(tunnel).await? {
            return Ok(link.header.index);
        }
        // Where the module was not loaded this loads it, and the device is there at once. Where
        // net.core.fb_tunnels_only_for_init_net keeps it away, this makes one.
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(tunnel.device().to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind(tunnel))]),
        ];
        let made = self.handle.link().add(message).execute().await;
        match made.map_err(|error| errno(&error)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::EOPNOTSUPP) => return Err(no_tunnel(tunnel)),
            Err(other) => return Err(refused(format!("make {}", tunnel.device()), other)),
        }
        let link = self.find(tunnel).await?.ok_or_else(|| no_tunnel(tunnel))?;
        Ok(link.header.index)
    }

    async fn find(&self, tunnel: Tunnel) -> Result<Option<LinkMessage>, Error> {
        let request = self.handle.link().get();
        let mut links = request.match_name(tunnel.device().to_owned()).execute();
        match links.try_next().await.map_err(|error| errno(&error)) {
            Ok(link) => Ok(link),
            Err(Errno::ENODEV) => Ok(None),
            Err(other) => Err(refused(format!("look for {}", tunnel.device()), other)),
        }
    }

    async fn set_up(&self, tunnel: Tunnel, index: u32) -> Result<(), Error> {
        if tunnel == Tunnel::Ipip {
            self.add_dummy_address(index).await?;
        }
        let mut message = LinkMessage::default();
        message.header = LinkHeader {
            index,
            flags: LinkFlags::Up,
            change_mask: LinkFlags::Up,
            ..LinkHeader::default()
        };
        if tunnel == Tunnel::Ipip {
            let mut settings = InetDevConf::default();
            settings.rp_filter = RP_FILTER_LOOSE;
            settings.accept_local = ACCEPT_LOCAL;
            let settings = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
            message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![settings])];
        }
        let done = self.handle.link().change(message).execute().await;
        done.map_err(|error| refused(format!("bring {} up", tunnel.device()), errno(&error)))
    }

    async fn add_dummy_address(&self, index: u32) -> Result<(), Error> {
        let mut request = self.handle.address().add(index, DUMMY.into(), 32);
        // Nothing is ever sent from it.
        request.message_mut().header.scope = AddressScope::Host;
        match request.execute().await.map_err(|error| errno(&error)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(other) => Err(refused(format!("give tunl0 the address {DUMMY}"), other)),
        }
    }

    async fn ensure_up(&self, tunnel: Tunnel) -> Result<(), Error> {
        let link = self.find(tunnel).await?.ok_or_else(|| no_tunnel(tunnel))?;
        let not_in_force = |found: String| Error::NotInForce {
            device: tunnel.device(),
            found,
        };
        if !link.header.flags.contains(LinkFlags::Up) {
            return Err(not_in_force("down".to_owned()));
        }
        if tunnel == Tunnel::Ip6Tnl {
            return Ok(());
        }
        match settings(&link).map(|found| (found.rp_filter, found.accept_local)) {
            Some((RP_FILTER_LOOSE, ACCEPT_LOCAL)) => Ok(()),
            found => Err(not_in_force(format!(
                "without rp_filter 2 and accept_local 1 ({found:?})"
            ))),
        }
    }

    async fn make_local(&self, prefix: IpNet) -> Result<(), Error> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix.addr(), prefix.prefix_len())
            .expect("an IpNet's length fits its family")
            .output_interface(LOOPBACK)
            .table_id(TABLE_LOCAL.into())
            .protocol(RouteProtocol::Static)
            .scope(RouteScope::Host)
            .kind(RouteType::Local)
            .build();
        let made = self.handle.route().add(route).replace().execute().await;
        made.map_err(|error| refused(format!("make {prefix} local"), errno(&error)))
    }

    /// Returns false if the kernel has no rules for this IP version. Then none is added.
    async fn add_rules(&self, plan: &Plan, tunnel: Tunnel) -> Result<bool, Error> {
        for rule in plan.rules().filter(|rule| rule.tunnel == tunnel) {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule_message(rule);
            match request.execute().await.map_err(|error| errno(&error)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => return Ok(false),
                Err(other) => return Err(refused(format!("add the rule \"{rule}\""), other)),
            }
        }
        Ok(true)
    }

    /// Removes the kernel's own rule for the local table, which a rule of [`Plan::rules`] replaces.
    async fn remove_first_rule(&self, tunnel: Tunnel) -> Result<(), Error> {
        let rule = Rule::first(tunnel);
        let request = self.handle.rule().del(rule_message(rule));
        match request.execute().await.map_err(|error| errno(&error)) {
            // An earlier run removed it.
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(other) => Err(refused(format!("remove the rule \"{rule}\""), other)),
        }
    }

    async fn ensure_rules(&self, plan: &Plan, tunnel: Tunnel) -> Result<(), Error> {
        let version = match tunnel {
            Tunnel::Ipip => IpVersion::V4,
            Tunnel::Ip6Tnl => IpVersion::V6,
        };
        let unreadable = |error| refused("read the rules".to_owned(), errno(&error));
        let found: Vec<Rule> = self
            .handle
            .rule()
            .get(version)
            .execute()
            .try_filter_map(|message| std::future::ready(Ok(rule_of(tunnel, &message))))
            .try_collect()
            .await
            .map_err(unreadable)?;
        for rule in plan.rules().filter(|rule| rule.tunnel == tunnel) {
            if !found.contains(&rule) {
                return Err(Error::NoRule { rule });
            }
        }
        if found.contains(&Rule::first(tunnel)) {
            return Err(Error::FirstRule {
                device: tunnel.device(),
            });
        }
        Ok(())
    }

    async fn ensure_local(&self, prefix: IpNet) -> Result<(), Error> {
        let question = match prefix {
            IpNet::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpNet::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let mut routes = self.handle.route().get(question).execute();
        let unreadable = |error| refused("read the routes".to_owned(), errno(&error));
        while let Some(route) = routes.try_next().await.map_err(unreadable)? {
            let here = route.header.destination_prefix_length == prefix.prefix_len()
                && route.header.kind == RouteType::Local
                && route.attributes.contains(&destination(prefix));
            if here {
                return Ok(());
            }
        }
        Err(Error::NotLocal { prefix })
    }
}

fn kind(tunnel: Tunnel) -> InfoKind {
    match tunnel {
        Tunnel::Ipip => InfoKind::IpIp,
        Tunnel::Ip6Tnl => InfoKind::Ip6Tnl,
    }
}

fn rule_message(rule: Rule) -> RuleMessage {
    let family = match rule.tunnel {
        Tunnel::Ipip => AddressFamily::Inet,
        Tunnel::Ip6Tnl => AddressFamily::Inet6,
    };
    RoutingRule {
        family,
        preference: rule.preference,
        incoming_interface: rule.own_packets_to.map(|_| OWN_PACKETS.to_owned()),
        destination: rule.own_packets_to,
        table: rule.table.into(),
        protocol: 0,
    }
    .to_message()
}

/// The parts of the kernel's rule that rules of this program use; `None` for a rule that looks in a
/// table of which they know no number.
fn rule_of(tunnel: Tunnel, message: &RuleMessage) -> Option<Rule> {
    let found = RoutingRule::from_message(message);
    let is_own = found.incoming_interface.as_deref() == Some(OWN_PACKETS);
    Some(Rule {
        tunnel,
        preference: found.preference,
        own_packets_to: found.destination.filter(|_| is_own),
        table: u8::try_from(found.table).ok()?,
    })
}

fn destination(prefix: IpNet) -> RouteAttribute {
    RouteAttribute::Destination(match prefix.network() {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    })
}

fn settings(link: &LinkMessage) -> Option<&InetDevConf> {
    link.attributes
        .iter()
        .filter_map(|attribute| {
            if let LinkAttribute::AfSpecUnspec(families) = attribute {
                Some(families)
            } else {
                None
            }
        })
        .flatten()
        .filter_map(|family| {
            if let AfSpecUnspec::Inet(settings) = family {
                Some(settings)
            } else {
                None
            }
        })
        .flatten()
        .find_map(|settings| {
            if let AfSpecInet::DevConf(settings) = settings {
                Some(settings)
            } else {
                None
            }
        })
}

fn no_tunnel(tunnel: Tunnel) -> Error {
    Error::NoTunnel {
        device: tunnel.device(),
        module: tunnel.module(),
    }
}

fn refused(operation: String, errno: Errno) -> Error {
    if errno == Errno::EPERM {
        return Error::NotAllowed { operation };
    }
    Error::Refused {
        operation,
        source: errno.into(),
    }
}

/// What the kernel answered; EIO where it did not answer at all.
fn errno(error: &rtnetlink::Error) -> Errno {
    if let rtnetlink::Error::NetlinkError(ErrorMessage {
        code: Some(code), ..
    }) = error
    {
        Errno::from_raw(code.get().saturating_neg())
    } else {
        Errno::EIO
    }
}
