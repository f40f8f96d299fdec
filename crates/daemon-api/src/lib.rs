//! The gRPC contracts of the daemons: generated code and conversions.
//!
//! Only this crate, `bgp-status`, `service-status`, `data-plane-testbed`, and those modules of the
//! daemons that send, receive or serve messages use the generated types.

mod convert;
mod message_limit;
mod page;

pub use bgp_packet::overlapping_reserved_range;
pub use convert::{
    ConversionError, DesiredSetAssembly, DesiredSetEvent, LARGEST_PART, MOST_PARTS, duration,
    period, prefix, real_server_part, virtual_server_head,
};
pub use message_limit::{MESSAGE_LIMIT, message_size};
pub use page::{Page, PageBuilder, PageRequest, total_size};

pub use prost_types::Duration;

/// Encoded descriptors of all contracts, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Types that are generated from `proto/portlb/`.
#[allow(
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::wildcard_enum_match_arm,
    reason = "generated code"
)]
mod generated {
    pub mod portlb {
        pub mod announcer {
            pub mod v1 {
                tonic::include_proto!("portlb.announcer.v1");
            }
        }
        pub mod bgp {
            pub mod v1 {
                tonic::include_proto!("portlb.bgp.v1");
            }
        }
        pub mod dataplane {
            pub mod v1 {
                tonic::include_proto!("portlb.dataplane.v1");
            }
        }
        pub mod discovery {
            pub mod v1 {
                tonic::include_proto!("portlb.discovery.v1");
            }
        }
        pub mod noderoute {
            pub mod v1 {
                tonic::include_proto!("portlb.noderoute.v1");
            }
        }
        pub mod reflector {
            pub mod v1 {
                tonic::include_proto!("portlb.reflector.v1");
            }
        }
        pub mod virtualserver {
            pub mod v1 {
                tonic::include_proto!("portlb.virtualserver.v1");
            }
        }
    }
}

pub use generated::portlb::{
    announcer, bgp, dataplane, discovery, noderoute, reflector, virtualserver,
};

/// The README, so that its example runs as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    #[test]
    fn the_descriptors_have_the_comments_that_grpcurl_shows() {
        let has = |text: &str| {
            let mut windows = super::FILE_DESCRIPTOR_SET.windows(text.len());
            windows.any(|window| window == text.as_bytes())
        };
        assert!(has("Routes a service address to a pod of this node"));
        assert!(has("CIDR notation without host bits"));
    }
}
