//! The kernel's notifications: which of them ask for a look at the routes.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
    route::RouteProtocol,
};
use rtnetlink::sys::SocketAddr;
use tokio::sync::mpsc;

use super::{
    message::{concerns_us, interface_name},
    surroundings::Staleness,
};
use crate::{Policy, plan::PROTOCOL};

pub(super) type Notification = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// Follows the notifications of one network namespace.
pub(super) struct Changes {
    policy: Policy,
    staleness: Arc<Staleness>,
    /// Links by index, one entry for each interface of the node.
    links: BTreeMap<u32, LinkState>,
}

/// What routes depend on; the kernel reports a link for many other reasons, too.
#[derive(Debug, PartialEq, Eq)]
struct LinkState {
    flags: LinkFlags,
    name: Option<String>,
}

impl Changes {
    pub(super) fn new(policy: Policy, staleness: Arc<Staleness>) -> Self {
        Self {
            policy,
            staleness,
            links: BTreeMap::new(),
        }
    }

    /// Says that something has changed; an unread word is as good as two.
    pub(super) async fn follow(
        mut self,
        mut notifications: UnboundedReceiver<Notification>,
        changed: &mpsc::Sender<()>,
    ) {
        while let Some((message, _)) = notifications.next().await {
            if self.is_change(&message.payload) {
                // Full: the owner has yet to look, and will see this change too.
                let _ = changed.try_send(());
            }
        }
    }

    /// Reports whether the owner has to look, and marks the routes of other programs as stale where
    /// they may have changed.
    fn is_change(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, NewLink, NewRoute};
        if !concerns_us(payload, &self.policy) {
            return false;
        }
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "the kernel's messages are an open set, and the enum is not exhaustive"
        )]
        match payload {
            NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) => {
                if route.header.protocol != RouteProtocol::from(PROTOCOL) {
                    self.staleness.mark();
                }
                true
            }
            NetlinkPayload::InnerMessage(NewLink(link)) => self.link_changed(link, true),
            NetlinkPayload::InnerMessage(DelLink(link)) => self.link_changed(link, false),
            NetlinkPayload::InnerMessage(DelAddress(address)) => {
                // IPv4 routes with this source address go without a notification.
                if address.header.family == AddressFamily::Inet {
                    self.staleness.mark();
                }
                true
            }
            // Notifications were lost.
            NetlinkPayload::Overrun(_) => {
                self.links.clear();
                self.staleness.mark();
                true
            }
            _ => true,
        }
    }

    fn link_changed(&mut self, link: &LinkMessage, exists: bool) -> bool {
        // The port of a bridge, which no route knows.
        if link.header.interface_family == AddressFamily::Bridge {
            return false;
        }
        let index = link.header.index;
        let relevant = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
        let state = exists.then(|| LinkState {
            flags: link.header.flags & relevant,
            name: interface_name(link).cloned(),
        });
        let has_changed = self.links.get(&index) != state.as_ref();
        match state {
            Some(state) => self.links.insert(index, state),
            None => self.links.remove(&index),
        };
        // The first word about a link that has gone is a change, too.
        if has_changed || !exists {
            self.staleness.link_changed(index);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkAttribute;

    use super::*;

    fn changes() -> Changes {
        let policy = Policy {
            allowed_prefixes: vec!["10.1.1.0/24".parse().unwrap()],
            allowed_gateways: vec!["10.244.3.0/24".parse().unwrap()],
        };
        Changes::new(policy, Arc::default())
    }

    fn link(index: u32, flags: LinkFlags, mtu: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = flags;
        let name = LinkAttribute::IfName(format!("eth{index}"));
        link.attributes = vec![name, LinkAttribute::Mtu(mtu)];
        link
    }

    fn is_change(changes: &mut Changes, message: RouteNetlinkMessage) -> bool {
        changes.is_change(&NetlinkPayload::InnerMessage(message))
    }

    #[test]
    fn a_link_counts_when_its_state_or_name_changes() {
        use RouteNetlinkMessage::{DelLink, NewLink};
        let mut changes = changes();
        let up = LinkFlags::Up | LinkFlags::Running;
        for (message, expected) in [
            (NewLink(link(7, up, 1500)), true),
            (NewLink(link(7, up, 1400)), false),
            (NewLink(link(7, up | LinkFlags::Promisc, 1400)), false),
            (NewLink(link(7, LinkFlags::Up, 1400)), true),
            (NewLink(link(8, LinkFlags::Up, 1400)), true),
            (DelLink(link(7, LinkFlags::empty(), 1400)), true),
            (DelLink(link(7, LinkFlags::empty(), 1400)), true),
        ] {
            let text = format!("{message:?}");
            assert_eq!(is_change(&mut changes, message), expected, "{text}");
        }
        let mut port = link(8, LinkFlags::empty(), 1400);
        port.header.interface_family = AddressFamily::Bridge;
        assert!(!is_change(&mut changes, DelLink(port)));
        assert_eq!(changes.links.len(), 1);
    }

    #[test]
    fn routes_are_stale_when_a_link_that_they_use_changes() {
        use RouteNetlinkMessage::NewLink;
        let mut changes = changes();
        changes.staleness.forget(Some([7].into()));
        is_change(&mut changes, NewLink(link(8, LinkFlags::Up, 1500)));
        assert!(!changes.staleness.is_stale());
        is_change(&mut changes, NewLink(link(7, LinkFlags::Up, 1500)));
        assert!(changes.staleness.is_stale());
    }

    #[test]
    fn lost_notifications_make_the_routes_stale() {
        let mut changes = changes();
        changes.staleness.forget(Some([].into()));
        assert!(changes.is_change(&NetlinkPayload::Overrun(Vec::new())));
        assert!(changes.staleness.is_stale());
    }
}
