//! Traffic counters of services and destinations.

use crate::attribute::{HostOrder, attributes};

attributes! {
    /// A counter in `IPVS_SVC_ATTR_STATS64` or `IPVS_DEST_ATTR_STATS64`: `IPVS_STATS_ATTR_*` with
    /// 64-bit values (since Linux 4.1). This crate does not decode the older 32-bit counters.
    StatsAttribute {
        1 Connections(u64) HostOrder,
        2 InPackets(u64) HostOrder,
        /// Packets from destinations to clients. Always 0 for tunnel and direct routing, because
        /// replies bypass the load balancer.
        3 OutPackets(u64) HostOrder,
        4 InBytes(u64) HostOrder,
        5 OutBytes(u64) HostOrder,
        6 ConnectionsPerSecond(u64) HostOrder,
        7 InPacketsPerSecond(u64) HostOrder,
        8 OutPacketsPerSecond(u64) HostOrder,
        9 InBytesPerSecond(u64) HostOrder,
        10 OutBytesPerSecond(u64) HostOrder,
    }
}
