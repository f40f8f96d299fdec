//! Filter for the kernel's notifications.

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
    foreign_routes::Staleness,
    message::{interface_name, is_relevant},
};
use crate::{Policy, plan::PROTOCOL};

pub(super) type Notification = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// Receives the notifications of one network namespace, and reports relevant changes to the owner
/// of the routes.
pub(super) struct NotificationFollower {
    policy: Policy,
    staleness: Arc<Staleness>,
    /// State of each interface of the node, by interface index.
    links: BTreeMap<u32, LinkState>,
}

/// The properties of an interface on which routes depend. The kernel also sends notifications when
/// other properties change, and these notifications are ignored.
#[derive(Debug, PartialEq, Eq)]
struct LinkState {
    flags: LinkFlags,
    name: Option<String>,
}

impl NotificationFollower {
    pub(super) fn new(policy: Policy, staleness: Arc<Staleness>) -> Self {
        Self {
            policy,
            staleness,
            links: BTreeMap::new(),
        }
    }

    /// Sends a value over `changed` after each relevant notification. Several notifications that
    /// the owner has not yet received become one value.
    pub(super) async fn follow(
        mut self,
        mut notifications: UnboundedReceiver<Notification>,
        changed: &mpsc::Sender<()>,
    ) {
        while let Some((message, _)) = notifications.next().await {
            if self.is_change(&message.payload) {
                // If the channel is full, the owner has not yet read the routes after an earlier
                // notification. The owner's next read includes the change of this notification.
                let _ = changed.try_send(());
            }
        }
    }

    /// Reports whether the owner of the routes must read the kernel's state. Marks the cached
    /// foreign routes as stale if the notification is possibly about a cached route.
    fn is_change(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, NewLink, NewRoute};
        if !is_relevant(payload, &self.policy) {
            return false;
        }
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "the kernel sends other messages as well, and the enum is not exhaustive"
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
                // When an address is deleted, the kernel removes IPv4 routes with the deleted
                // address as preferred source without a notification.
                if address.header.family == AddressFamily::Inet {
                    self.staleness.mark();
                }
                true
            }
            // The kernel dropped notifications, so the state of all interfaces and routes is
            // unknown.
            NetlinkPayload::Overrun(_) => {
                self.links.clear();
                self.staleness.mark();
                true
            }
            _ => true,
        }
    }

    fn link_changed(&mut self, link: &LinkMessage, exists: bool) -> bool {
        // The notification is about an interface as port of a bridge. No route depends on the state
        // of this port.
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
        // If the first notification about an interface reports its removal, `links` has no entry,
        // but routes can have changed.
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

    fn changes() -> NotificationFollower {
        let policy = Policy {
            allowed_prefixes: vec!["10.1.1.0/24".parse().unwrap()],
            allowed_gateways: vec!["10.244.3.0/24".parse().unwrap()],
        };
        NotificationFollower::new(policy, Arc::default())
    }

    fn link(index: u32, flags: LinkFlags, mtu: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = flags;
        let name = LinkAttribute::IfName(format!("eth{index}"));
        link.attributes = vec![name, LinkAttribute::Mtu(mtu)];
        link
    }

    fn is_change(changes: &mut NotificationFollower, message: RouteNetlinkMessage) -> bool {
        changes.is_change(&NetlinkPayload::InnerMessage(message))
    }

    #[test]
    fn a_link_notification_is_relevant_if_it_reports_a_changed_state_or_a_removal() {
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
    fn foreign_routes_become_stale_when_a_link_of_these_routes_changes() {
        use RouteNetlinkMessage::NewLink;
        let mut changes = changes();
        changes.staleness.clear(Some([7].into()));
        is_change(&mut changes, NewLink(link(8, LinkFlags::Up, 1500)));
        assert!(!changes.staleness.is_stale());
        is_change(&mut changes, NewLink(link(7, LinkFlags::Up, 1500)));
        assert!(changes.staleness.is_stale());
    }

    #[test]
    fn foreign_routes_become_stale_when_notifications_are_lost() {
        let mut changes = changes();
        changes.staleness.clear(Some([].into()));
        assert!(changes.is_change(&NetlinkPayload::Overrun(Vec::new())));
        assert!(changes.staleness.is_stale());
    }
}
