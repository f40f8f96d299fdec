//! Inputs and outputs of the state machine of the announcements.

use std::net::IpAddr;

use bgp_packet::{IpNet, PathAttributes};

/// An event that can change the announcements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnouncementInput {
    /// A stream from the data plane has been opened.
    DataPlaneOpened,
    /// The data plane reported the state of a service address.
    ServiceAddress {
        /// The prefix of the address, with all host bits set to 0.
        prefix: IpNet,
        serving: bool,
        /// The reason why the address cannot be served. Empty if it is served.
        detail: String,
    },
    /// The data plane removed a service address.
    ServiceAddressRemoved(IpNet),
    /// The data plane has reported every existing service address.
    Synced,
    /// The data plane sent a message without a change, which shows that the data plane is not
    /// silent.
    Heartbeat,
    /// The stream from the data plane has ended; the text has the reason.
    DataPlaneLost(String),
    /// The node's kernel holds the node route of the prefix.
    NodeRouteHeld(IpNet),
    /// node-router does not confirm the node route of the prefix, or no longer confirms it.
    NodeRouteLost {
        prefix: IpNet,
        /// The reason, shown to the operator.
        problem: String,
        /// `true`: node-router does not answer, and the kernel keeps the route as it was. `false`:
        /// node-router reports that the node does not hold the route.
        is_unknown: bool,
    },
    /// `true`: at least one BGP session is established. `false`: none is established.
    SessionsEstablished(bool),
    /// An operator requests that traffic moves to other load balancers.
    Drain,
    /// An operator reverts a drain.
    Undrain,
    /// A signal requests a drain after which the process exits.
    Stop,
    /// [`super::Announcements::next_deadline`] is reached. This input can also be sent at any other
    /// time.
    DeadlineReached,
}

/// An action for the owner of the state machine. The owner carries out the actions in the order in
/// which the state machine returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnouncementOutput {
    /// Hold a node route from the prefix to the gateway until `Release`.
    Hold {
        prefix: IpNet,
        /// The address of this pod to which the node route leads.
        gateway: IpAddr,
    },
    /// Release the node route of the prefix.
    Release(IpNet),
    /// Announce the prefix with these attributes, which replace the attributes of an earlier
    /// announcement.
    Announce(IpNet, PathAttributes),
    Withdraw(IpNet),
    /// The drain is done: every address is withdrawn, and the linger is over.
    Drained,
    /// The drain that a signal requested is done, so the process can exit.
    Stopped,
}
