//! Size limit of the messages between daemons.

use prost::Message;

/// Largest size of a message in bytes, for every server and every client. The largest valid virtual
/// server fits into one message, together with the status of its real servers.
pub const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;

/// Returns the size of a message in bytes. A sender must not send a message above
/// [`MESSAGE_LIMIT`]: a receiver refuses such a message, and the whole stream ends.
pub fn message_size(message: &impl Message) -> usize {
    message.encoded_len()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use virtual_server::{
        RealServer, RealServerHistory, RealServerState, Scheduler, Timestamp, VirtualServer,
        VirtualServerId, Weight,
    };

    use super::*;
    use crate::{
        LARGEST_PART, dataplane::v1 as dataplane, discovery::v1 as discovery, real_server_part,
        virtualserver::v1 as wire,
    };

    /// Returns a virtual server with the largest number of real servers, each with the longest
    /// address and the largest numbers.
    fn largest_virtual_server() -> VirtualServer {
        let id: VirtualServerId = "tcp/[fd00:1::1]:65535".parse().unwrap();
        let address = |index: u32| {
            let high = u128::from_be_bytes([0xff; 16]) >> 32 << 32;
            IpAddr::V6(Ipv6Addr::from_bits(
                high & !(0b11 << 120) | u128::from(u32::MAX - index),
            ))
        };
        let count = u32::try_from(VirtualServer::MOST_REAL_SERVERS).unwrap();
        VirtualServer {
            id,
            name: "n".repeat(253),
            scheduler: Scheduler::Rr,
            forwarding_method: virtual_server::ForwardingMethod::Masquerade,
            persistence: None,
            real_servers: (0..count)
                .rev()
                .map(|index| RealServer {
                    address: address(index),
                    port: std::num::NonZeroU16::new(u16::MAX),
                    weight: Weight(u16::MAX),
                    state: RealServerState::Draining,
                    history: RealServerHistory {
                        position: u64::MAX,
                        ready_since: Some(Timestamp(std::time::Duration::MAX)),
                        draining_since: Some(Timestamp(std::time::Duration::MAX)),
                    },
                })
                .collect(),
            health_check: None,
            on_failure: virtual_server::FailureAction::Quiesce,
            minimum_healthy: 1,
            drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
        }
    }

    #[test]
    fn the_largest_part_is_smaller_than_64_kib() {
        let server = largest_virtual_server();
        let real_servers = &server.real_servers[..LARGEST_PART];
        let message = discovery::WatchResponse {
            revision: u64::MAX,
            event: Some(real_server_part(&server.id, LARGEST_PART, real_servers)),
            complete: true,
        };
        assert!(message_size(&message) < 64 * 1024);
    }

    #[test]
    fn the_status_of_the_largest_valid_virtual_server_fits_into_a_message() {
        let server = largest_virtual_server();
        assert_eq!(server.validate(), Ok(()));
        let desired = wire::VirtualServer::from(&server);
        let longest = crate::Duration {
            seconds: 315_576_000_000,
            nanos: 999_999_999,
        };
        let status = |real_server: &wire::RealServer| dataplane::RealServerStatus {
            desired: Some(real_server.clone()),
            effective_weight: u32::MAX,
            programmed: true,
            health: dataplane::Health::Failed.into(),
            last_error: "e".repeat(500),
            time_since_change: Some(longest),
            active_connections: u32::MAX,
            inactive_connections: u32::MAX,
            check_duration: Some(longest),
        };
        let message = dataplane::WatchVirtualServersResponse {
            revision: u64::MAX,
            event: Some(
                dataplane::watch_virtual_servers_response::Event::VirtualServer(
                    dataplane::VirtualServerStatus {
                        real_servers: desired.real_servers.iter().map(status).collect(),
                        desired: Some(desired),
                        last_error: "e".repeat(500),
                        ..dataplane::VirtualServerStatus::default()
                    },
                ),
            ),
        };
        assert!(message_size(&message) <= MESSAGE_LIMIT);
        assert!(
            message_size(&message) > 4 * 1024 * 1024,
            "the message would fit into the default limit of gRPC, 4 MiB"
        );
    }
}
