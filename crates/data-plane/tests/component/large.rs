//! Test of the largest valid virtual server.

use std::time::Duration;

use daemon_api::{MESSAGE_LIMIT, dataplane::v1::ListVirtualServersRequest, message_size};
use data_plane_testbed::{ID, ONE, TestDataPlane, run, virtual_server};
use tokio::time::timeout;
use virtual_server::{RealServer, Scheduler, VirtualServer, Weight};

use crate::fake_kernel::MemoryKernel;

#[test]
fn the_largest_valid_virtual_server_is_programmed_and_listed_with_more_than_4_mib() {
    run(|| async {
        let mut largest = virtual_server("tcp/[fd00:1::1]:8080", &[]);
        largest.scheduler = Scheduler::Rr;
        largest.health_check = None;
        let template = virtual_server(ID, &[ONE]).real_servers.remove(0);
        let first = u128::from_be_bytes([
            0xfd, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xff, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0,
            0,
        ]);
        largest.real_servers = (0..VirtualServer::MOST_REAL_SERVERS)
            .map(|index| RealServer {
                address: std::net::Ipv6Addr::from_bits(first + index as u128).into(),
                weight: Weight(u16::MAX),
                ..template.clone()
            })
            .collect();
        largest.sort_real_servers();
        assert_eq!(largest.validate(), Ok(()));
        let count = largest.real_servers.len();
        let world = TestDataPlane::start(&MemoryKernel::default()).await;
        world.publish(&[largest]);
        let client = world.client.clone();
        let mut client = client.max_decoding_message_size(MESSAGE_LIMIT);
        let listed = async {
            loop {
                let listed = client.list_virtual_servers(ListVirtualServersRequest::default());
                let listed = listed.await.unwrap().into_inner();
                let mut real_servers = listed
                    .virtual_servers
                    .iter()
                    .flat_map(|server| &server.real_servers);
                if real_servers.any(|real_server| real_server.programmed) {
                    return listed;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let listed = timeout(Duration::from_secs(120), listed).await.unwrap();
        assert!(message_size(&listed) > 4 * 1024 * 1024);
        let real_servers = &listed.virtual_servers[0].real_servers;
        assert_eq!(
            real_servers
                .iter()
                .filter(|real_server| real_server.programmed)
                .count(),
            count
        );
    });
}
