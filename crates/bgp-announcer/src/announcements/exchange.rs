//! Inputs and outputs of the announcements.

use std::net::IpAddr;

use bgp_packet::{IpNet, PathAttributes};

/// An event that may change the announcements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A stream of the data plane has begun.
    DataPlaneOpened,
    /// The data plane reported a service address.
    ServiceAddress {
        /// Without host bits.
        prefix: IpNet,
        /// Whether it can be served.
        serving: bool,
        /// Why it cannot be served; empty if it can.
        detail: String,
    },
    /// The data plane dropped a service address.
    ServiceAddressRemoved(IpNet),
    /// The data plane has reported everything that exists.
    Synced,
    /// The data plane is alive.
    Heartbeat,
    /// The stream of the data plane has ended.
    DataPlaneLost(String),
    /// The node's kernel holds the route.
    NodeRouteHeld(IpNet),
    /// The node's kernel may not hold the route.
    NodeRouteLost {
        /// The prefix of the route.
        prefix: IpNet,
        /// The cause, for the operator.
        problem: String,
        /// The node-router does not answer, and the route stays as it is. Otherwise the node-router
        /// says that the node does not hold the route.
        is_unknown: bool,
    },
    /// Whether at least one BGP session is established.
    SessionsEstablished(bool),
    /// An operator asks to move traffic away.
    Drain,
    /// Traffic may come again.
    Undrain,
    /// As `Drain`, and the process ends afterwards.
    Stop,
    /// [`super::Announcements::next_deadline`] has come. Harmless at any other time.
    DeadlineReached,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Have the node route the prefix to the gateway until `Release`.
    Hold {
        /// The service address.
        prefix: IpNet,
        /// The address of this pod.
        gateway: IpAddr,
    },
    /// Give the node route up.
    Release(IpNet),
    /// Announce, or replace what was announced.
    Announce(IpNet, PathAttributes),
    /// Withdraw.
    Withdraw(IpNet),
    /// The drain is done.
    Drained,
    /// The process may end.
    Stopped,
}
