//! No octets make a message of the contracts or its conversion panic; and what converts is equal
//! after it was converted back, sent and received.
//!
//! The first octet chooses the message, the rest are its octets.

#![no_main]

use std::fmt::Debug;

use daemon_api::{
    ConversionError, DesiredEvent, DesiredSetAssembly, announcer::v1 as announcer, bgp::v1 as bgp,
    dataplane::v1 as dataplane, discovery::v1 as discovery, noderoute::v1 as noderoute,
    reflector::v1 as reflector, virtualserver::v1 as virtualserver,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use virtual_server::{
    DesiredChange, HealthCheck, RealServer, Scheduler, ServiceRange, VirtualServer, VirtualServerId,
};

/// Their order gives the numbers in the corpus: append only.
const CHECKS: &[fn(&[u8])] = &[
    desired,
    |octets| {
        converted::<_, VirtualServer>(
            octets,
            |m: virtualserver::VirtualServer| m.try_into(),
            |o| o.into(),
        )
    },
    |octets| {
        converted::<_, VirtualServerId>(
            octets,
            |m: virtualserver::VirtualServerId| m.try_into(),
            |o| o.into(),
        )
    },
    |octets| {
        converted::<_, RealServer>(
            octets,
            |m: virtualserver::RealServer| m.try_into(),
            |o| o.into(),
        )
    },
    |octets| {
        converted::<_, HealthCheck>(
            octets,
            |m: virtualserver::HealthCheck| m.try_into(),
            |o| (*o).into(),
        )
    },
    |octets| {
        converted::<_, Scheduler>(
            octets,
            |m: virtualserver::Scheduler| m.try_into(),
            |o| (*o).into(),
        )
    },
    |octets| {
        converted::<_, ServiceRange>(
            octets,
            |m: discovery::ServiceRange| m.try_into(),
            |o| (*o).into(),
        )
    },
    received::<discovery::WatchRequest>,
    received::<discovery::WatchResponse>,
    received::<discovery::ListRequest>,
    received::<discovery::ListResponse>,
    received::<dataplane::WatchServiceAddressesRequest>,
    received::<dataplane::WatchServiceAddressesResponse>,
    received::<dataplane::ListServiceAddressesRequest>,
    received::<dataplane::ListServiceAddressesResponse>,
    received::<dataplane::WatchVirtualServersRequest>,
    received::<dataplane::WatchVirtualServersResponse>,
    received::<dataplane::ListVirtualServersRequest>,
    received::<dataplane::ListVirtualServersResponse>,
    received::<announcer::ListAnnouncementsRequest>,
    received::<announcer::ListAnnouncementsResponse>,
    received::<announcer::WatchAnnouncementsRequest>,
    received::<announcer::WatchAnnouncementsResponse>,
    received::<announcer::ListSessionsRequest>,
    received::<announcer::ListSessionsResponse>,
    received::<announcer::WatchSessionsRequest>,
    received::<announcer::WatchSessionsResponse>,
    received::<announcer::DrainRequest>,
    received::<announcer::DrainResponse>,
    received::<announcer::UndrainRequest>,
    received::<announcer::UndrainResponse>,
    received::<noderoute::HoldRequest>,
    received::<noderoute::HoldResponse>,
    received::<noderoute::ListRoutesRequest>,
    received::<noderoute::ListRoutesResponse>,
    received::<noderoute::WatchRoutesRequest>,
    received::<noderoute::WatchRoutesResponse>,
    received::<reflector::ListSessionsRequest>,
    received::<reflector::ListSessionsResponse>,
    received::<reflector::WatchSessionsRequest>,
    received::<reflector::WatchSessionsResponse>,
    received::<reflector::ListPathsRequest>,
    received::<reflector::ListPathsResponse>,
    received::<reflector::WatchPathsRequest>,
    received::<reflector::WatchPathsResponse>,
    received::<reflector::GetConfigurationRequest>,
    received::<reflector::GetConfigurationResponse>,
    received::<bgp::PathAttributes>,
    stream,
];

fuzz_target!(|data: &[u8]| {
    let Some((&number, octets)) = data.split_first() else {
        return;
    };
    if let Some(check) = CHECKS.get(usize::from(number)) {
        check(octets);
    }
});

/// Checks a message that a daemon only reads or prints.
fn received<M: Message + Default + PartialEq + Debug>(octets: &[u8]) {
    if let Ok(message) = M::decode(octets) {
        assert_eq!(sent(&message), message);
    }
}

/// Checks a message that has a type of ours.
fn converted<M: Message + Default, T: PartialEq + Debug>(
    octets: &[u8],
    from_message: impl Fn(M) -> Result<T, ConversionError>,
    to_message: impl Fn(&T) -> M,
) {
    let Ok(message) = M::decode(octets) else {
        return;
    };
    match from_message(message) {
        Ok(ours) => assert_eq!(from_message(sent(&to_message(&ours))), Ok(ours)),
        Err(error) => assert!(!error.field.is_empty(), "{error}"),
    }
}

/// Checks an event of `DiscoveryService.Watch` as a whole change.
fn desired(octets: &[u8]) {
    let Ok(response) = discovery::WatchResponse::decode(octets) else {
        return;
    };
    let response = discovery::WatchResponse {
        complete: true,
        ..response
    };
    let received = DesiredSetAssembly::default().receive(response.clone());
    assert!(received.len() <= 1, "{received:?}");
    for event in received {
        match event {
            DesiredEvent::Change(_) | DesiredEvent::Synced => {
                let again = DesiredSetAssembly::default().receive(sent(&response));
                assert_eq!(again, [event]);
            }
            DesiredEvent::Invalid { error, .. } => assert!(!error.field.is_empty(), "{error}"),
        }
    }
}

/// Checks a stream of `DiscoveryService.Watch`, each message after its length.
fn stream(mut octets: &[u8]) {
    let mut assembly = DesiredSetAssembly::default();
    while let Ok(response) = discovery::WatchResponse::decode_length_delimited(&mut octets) {
        for event in assembly.receive(response) {
            match event {
                DesiredEvent::Change(DesiredChange::PutVirtualServer(server)) => {
                    assert_eq!(server.validate(), Ok(()));
                }
                DesiredEvent::Change(_) | DesiredEvent::Synced => {}
                DesiredEvent::Invalid { error, .. } => assert!(!error.field.is_empty(), "{error}"),
            }
        }
    }
}

fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("what was sent can be received")
}
