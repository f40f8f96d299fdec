//! Changes of devices, routes and routing rules over netlink.

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

use crate::{PodRoutingRule, Tunnel, TunnelInitError, TunnelPlan, plan::TABLE_LOCAL};

/// Incoming interface by which a routing rule recognizes packets that programs in this pod send.
const OWN_PACKETS: &str = "lo";
/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;
/// Value of `rp_filter`: the kernel accepts a packet if any interface leads to the source address
/// (Documentation/networking/ip-sysctl.rst). The kernel uses the higher value of the device and
/// `conf.all`, so 2 also overrides a strict `conf.all`.
const RP_FILTER_LOOSE: i32 = 2;
/// Value of `accept_local`: the device accepts packets whose source is an address of this pod. The
/// pod receives such a packet if it connects to its own service address and the load balancer
/// chooses this pod as real server.
const ACCEPT_LOCAL: i32 = 1;
/// Address of the tunnel device. Even with a loose `rp_filter`, the kernel drops all packets from a
/// device without an address (fib_frontend.c, `__fib_validate_source`). No packet uses this
/// address: RFC 7600, section 4.8 reserves it as a dummy address.
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// A netlink connection to the network namespace of this process.
#[derive(Clone, Debug)]
pub struct TunnelKernel {
    handle: Handle,
}

/// Applies the plan and reads the result back. Returns the tunnels for whose IP version the kernel
/// has no routing rules. For these tunnels the function adds no rules, but makes all other changes
/// of the plan.
///
/// # Errors
/// The kernel refuses a change, or another program undoes a change. The error contains a
/// suggestion.
pub async fn prepare(
    kernel: &TunnelKernel,
    plan: &TunnelPlan,
) -> Result<Vec<Tunnel>, TunnelInitError> {
    for tunnel in &plan.tunnels {
        let index = kernel.find_or_create(*tunnel).await?;
        kernel.configure_device(*tunnel, index).await?;
        kernel.check_device(*tunnel).await?;
    }
    for prefix in &plan.local {
        kernel.add_local_route(*prefix).await?;
        kernel.check_local_route(*prefix).await?;
    }
    let mut without_rules = Vec::new();
    for tunnel in &plan.tunnels {
        if !kernel.add_rules(plan, *tunnel).await? {
            without_rules.push(*tunnel);
            continue;
        }
        // The kernel's rule for the local table has preference 0, so this rule decides until it is
        // removed. It is removed after all rules of the plan were added, so that no packet meets
        // only some of these rules.
        kernel.remove_kernel_rule(*tunnel).await?;
        kernel.check_rules(plan, *tunnel).await?;
    }
    Ok(without_rules)
}

impl TunnelKernel {
    /// Opens a netlink connection. Must be called within a tokio runtime, which runs the
    /// connection.
    ///
    /// # Errors
    /// The kernel provides no netlink socket.
    pub fn open() -> Result<Self, TunnelInitError> {
        let (connection, handle, _) = new_connection().map_err(TunnelInitError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    async fn find_or_create(&self, tunnel: Tunnel) -> Result<u32, TunnelInitError> {
        if let Some(link) = self.find(tunnel).await? {
            return Ok(link.header.index);
        }
        // If the module of the tunnel was not loaded, this request makes the kernel load the
        // module, and the module creates the device. If `net.core.fb_tunnels_only_for_init_net`
        // keeps the module from creating the device, this request creates the device.
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(tunnel.device().to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind(tunnel))]),
        ];
        let made = self.handle.link().add(message).execute().await;
        match made.map_err(|error| errno(&error)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::EOPNOTSUPP) => return Err(no_tunnel(tunnel)),
            Err(other) => {
                return Err(refused(
                    format!("create the device {}", tunnel.device()),
                    other,
                ));
            }
        }
        let link = self.find(tunnel).await?.ok_or_else(|| no_tunnel(tunnel))?;
        Ok(link.header.index)
    }

    async fn find(&self, tunnel: Tunnel) -> Result<Option<LinkMessage>, TunnelInitError> {
        let request = self.handle.link().get();
        let mut links = request.match_name(tunnel.device().to_owned()).execute();
        match links.try_next().await.map_err(|error| errno(&error)) {
            Ok(link) => Ok(link),
            Err(Errno::ENODEV) => Ok(None),
            Err(other) => Err(refused(
                format!("read the device {}", tunnel.device()),
                other,
            )),
        }
    }

    async fn configure_device(&self, tunnel: Tunnel, index: u32) -> Result<(), TunnelInitError> {
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
        done.map_err(|error| {
            refused(
                format!("bring the device {} up", tunnel.device()),
                errno(&error),
            )
        })
    }

    async fn add_dummy_address(&self, index: u32) -> Result<(), TunnelInitError> {
        let mut request = self.handle.address().add(index, DUMMY.into(), 32);
        // The kernel never chooses an address with the scope "host" as source of a packet to
        // another host.
        request.message_mut().header.scope = AddressScope::Host;
        match request.execute().await.map_err(|error| errno(&error)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(other) => Err(refused(
                format!("add the address {DUMMY} to the device tunl0"),
                other,
            )),
        }
    }

    async fn check_device(&self, tunnel: Tunnel) -> Result<(), TunnelInitError> {
        let link = self.find(tunnel).await?.ok_or_else(|| no_tunnel(tunnel))?;
        let unexpected_state = |actual: String| TunnelInitError::UnexpectedDeviceState {
            device: tunnel.device(),
            actual,
        };
        if !link.header.flags.contains(LinkFlags::Up) {
            return Err(unexpected_state("down".to_owned()));
        }
        if tunnel == Tunnel::Ip6Tnl {
            return Ok(());
        }
        match settings(&link).map(|actual| (actual.rp_filter, actual.accept_local)) {
            Some((RP_FILTER_LOOSE, ACCEPT_LOCAL)) => Ok(()),
            actual => Err(unexpected_state(format!(
                "set to (rp_filter, accept_local) = {actual:?} instead of (2, 1)"
            ))),
        }
    }

    async fn add_local_route(&self, prefix: IpNet) -> Result<(), TunnelInitError> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix.addr(), prefix.prefix_len())
            .expect("the prefix length of an IpNet is valid for its IP version")
            .output_interface(LOOPBACK)
            .table_id(TABLE_LOCAL.into())
            .protocol(RouteProtocol::Static)
            .scope(RouteScope::Host)
            .kind(RouteType::Local)
            .build();
        let made = self.handle.route().add(route).replace().execute().await;
        made.map_err(|error| refused(format!("add the local route to {prefix}"), errno(&error)))
    }

    /// Adds the rules of the plan for this tunnel. Returns `false`, without adding a rule, if the
    /// kernel has no routing rules for the IP version of the tunnel.
    async fn add_rules(&self, plan: &TunnelPlan, tunnel: Tunnel) -> Result<bool, TunnelInitError> {
        for rule in plan.rules().filter(|rule| rule.tunnel == tunnel) {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule_message(rule);
            match request.execute().await.map_err(|error| errno(&error)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => return Ok(false),
                Err(other) => {
                    return Err(refused(format!("add the routing rule \"{rule}\""), other));
                }
            }
        }
        Ok(true)
    }

    /// Removes the kernel's own rule for the local table, which a rule of [`TunnelPlan::rules`]
    /// replaces.
    async fn remove_kernel_rule(&self, tunnel: Tunnel) -> Result<(), TunnelInitError> {
        let rule = PodRoutingRule::of_kernel(tunnel);
        let request = self.handle.rule().del(rule_message(rule));
        match request.execute().await.map_err(|error| errno(&error)) {
            // `ENOENT`: an earlier run removed the rule.
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(other) => Err(refused(
                format!("remove the routing rule \"{rule}\""),
                other,
            )),
        }
    }

    async fn check_rules(&self, plan: &TunnelPlan, tunnel: Tunnel) -> Result<(), TunnelInitError> {
        let version = match tunnel {
            Tunnel::Ipip => IpVersion::V4,
            Tunnel::Ip6Tnl => IpVersion::V6,
        };
        let unreadable = |error| refused("read the routing rules".to_owned(), errno(&error));
        let actual: Vec<PodRoutingRule> = self
            .handle
            .rule()
            .get(version)
            .execute()
            .try_filter_map(|message| std::future::ready(Ok(rule_of(tunnel, &message))))
            .try_collect()
            .await
            .map_err(unreadable)?;
        for rule in plan.rules().filter(|rule| rule.tunnel == tunnel) {
            if !actual.contains(&rule) {
                return Err(TunnelInitError::MissingRule { rule });
            }
        }
        if actual.contains(&PodRoutingRule::of_kernel(tunnel)) {
            return Err(TunnelInitError::KernelRuleNotRemoved {
                device: tunnel.device(),
            });
        }
        Ok(())
    }

    async fn check_local_route(&self, prefix: IpNet) -> Result<(), TunnelInitError> {
        let request = match prefix {
            IpNet::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpNet::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let mut routes = self.handle.route().get(request).execute();
        let unreadable = |error| refused("read the routes".to_owned(), errno(&error));
        while let Some(route) = routes.try_next().await.map_err(unreadable)? {
            let is_expected_route = route.header.destination_prefix_length == prefix.prefix_len()
                && route.header.kind == RouteType::Local
                && route.attributes.contains(&destination(prefix));
            if is_expected_route {
                return Ok(());
            }
        }
        Err(TunnelInitError::MissingLocalRoute { prefix })
    }
}

fn kind(tunnel: Tunnel) -> InfoKind {
    match tunnel {
        Tunnel::Ipip => InfoKind::IpIp,
        Tunnel::Ip6Tnl => InfoKind::Ip6Tnl,
    }
}

fn rule_message(rule: PodRoutingRule) -> RuleMessage {
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

/// Returns the rule that a message of the kernel describes. Returns `None` if the number of the
/// rule's table is above 255: this program uses no such table, so the rule belongs to another
/// program.
fn rule_of(tunnel: Tunnel, message: &RuleMessage) -> Option<PodRoutingRule> {
    let actual = RoutingRule::from_message(message);
    let is_own = actual.incoming_interface.as_deref() == Some(OWN_PACKETS);
    Some(PodRoutingRule {
        tunnel,
        preference: actual.preference,
        own_packets_to: actual.destination.filter(|_| is_own),
        table: u8::try_from(actual.table).ok()?,
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

fn no_tunnel(tunnel: Tunnel) -> TunnelInitError {
    TunnelInitError::NoTunnel {
        device: tunnel.device(),
        module: tunnel.module(),
    }
}

fn refused(operation: String, errno: Errno) -> TunnelInitError {
    if errno == Errno::EPERM {
        return TunnelInitError::NotAllowed { operation };
    }
    TunnelInitError::Refused {
        operation,
        source: errno.into(),
    }
}

/// Returns the error number in the kernel's answer. Returns `EIO` if the request failed without an
/// answer.
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
