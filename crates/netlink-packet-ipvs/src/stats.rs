//! Traffic counters.

use crate::attribute::{HostOrder, attributes};

attributes! {
    /// `IPVS_STATS_ATTR_*`, in the 64-bit form of `IPVS_SVC_ATTR_STATS64` and
    /// `IPVS_DEST_ATTR_STATS64` (Linux 4.1). The older 32-bit form is left undecoded.
    StatsAttribute {
        /// Connections scheduled.
        1 Connections(u64) HostOrder,
        /// Incoming packets.
        2 InPackets(u64) HostOrder,
        /// Outgoing packets; none with tunnel and direct routing.
        3 OutPackets(u64) HostOrder,
        /// Incoming bytes.
        4 InBytes(u64) HostOrder,
        /// Outgoing bytes.
        5 OutBytes(u64) HostOrder,
        /// New connections per second.
        6 ConnectionsPerSecond(u64) HostOrder,
        /// Incoming packets per second.
        7 InPacketsPerSecond(u64) HostOrder,
        /// Outgoing packets per second.
        8 OutPacketsPerSecond(u64) HostOrder,
        /// Incoming bytes per second.
        9 InBytesPerSecond(u64) HostOrder,
        /// Outgoing bytes per second.
        10 OutBytesPerSecond(u64) HostOrder,
    }
}
