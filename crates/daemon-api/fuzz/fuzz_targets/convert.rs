//! Fuzz target for the messages of the contracts and their conversions.
//!
//! No input makes decoding or conversion panic. A value that a conversion returns is equal after it
//! was converted to a message, encoded, decoded and converted again. The first octet of the input
//! chooses the message type, the other octets are the encoded message.

#![no_main]

use std::fmt::Debug;

use daemon_api::{
    ConversionError, DesiredSetAssembly, DesiredSetEvent, announcer::v1 as announcer,
    bgp::v1 as bgp, dataplane::v1 as dataplane, discovery::v1 as discovery,
    noderoute::v1 as noderoute, reflector::v1 as reflector, virtualserver::v1 as virtualserver,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use virtual_server::{
    DesiredChange, HealthCheck, RealServer, Scheduler, ServiceRange, VirtualServer, VirtualServerId,
};

/// The check of each message type. The first octet of a corpus file is an index into this list, so
/// new checks are only appended.
const CHECKS: &[fn(&[u8])] = &[
    complete_change,
    |octets| {
        conversion_round_trip::<_, VirtualServer>(
            octets,
            |m: virtualserver::VirtualServer| m.try_into(),
            |o| o.into(),
        )
    },
    |octets| {
        conversion_round_trip::<_, VirtualServerId>(
            octets,
            |m: virtualserver::VirtualServerId| m.try_into(),
            |o| o.into(),
        )
    },
    |octets| {
        conversion_round_trip::<_, RealServer>(
            octets,
            |m: virtualserver::RealServer| m.try_into(),
            |o| o.into(),
        )
    },
    |octets| {
        conversion_round_trip::<_, HealthCheck>(
            octets,
            |m: virtualserver::HealthCheck| m.try_into(),
            |o| (*o).into(),
        )
    },
    |octets| {
        conversion_round_trip::<_, Scheduler>(
            octets,
            |m: virtualserver::Scheduler| m.try_into(),
            |o| (*o).into(),
        )
    },
    |octets| {
        conversion_round_trip::<_, ServiceRange>(
            octets,
            |m: discovery::ServiceRange| m.try_into(),
            |o| (*o).into(),
        )
    },
    round_trip::<discovery::WatchRequest>,
    round_trip::<discovery::WatchResponse>,
    round_trip::<discovery::ListRequest>,
    round_trip::<discovery::ListResponse>,
    round_trip::<dataplane::WatchServiceAddressesRequest>,
    round_trip::<dataplane::WatchServiceAddressesResponse>,
    round_trip::<dataplane::ListServiceAddressesRequest>,
    round_trip::<dataplane::ListServiceAddressesResponse>,
    round_trip::<dataplane::WatchVirtualServersRequest>,
    round_trip::<dataplane::WatchVirtualServersResponse>,
    round_trip::<dataplane::ListVirtualServersRequest>,
    round_trip::<dataplane::ListVirtualServersResponse>,
    round_trip::<announcer::ListAnnouncementsRequest>,
    round_trip::<announcer::ListAnnouncementsResponse>,
    round_trip::<announcer::WatchAnnouncementsRequest>,
    round_trip::<announcer::WatchAnnouncementsResponse>,
    round_trip::<announcer::ListSessionsRequest>,
    round_trip::<announcer::ListSessionsResponse>,
    round_trip::<announcer::WatchSessionsRequest>,
    round_trip::<announcer::WatchSessionsResponse>,
    round_trip::<announcer::DrainRequest>,
    round_trip::<announcer::DrainResponse>,
    round_trip::<announcer::UndrainRequest>,
    round_trip::<announcer::UndrainResponse>,
    round_trip::<noderoute::HoldRequest>,
    round_trip::<noderoute::HoldResponse>,
    round_trip::<noderoute::ListRoutesRequest>,
    round_trip::<noderoute::ListRoutesResponse>,
    round_trip::<noderoute::WatchRoutesRequest>,
    round_trip::<noderoute::WatchRoutesResponse>,
    round_trip::<reflector::ListSessionsRequest>,
    round_trip::<reflector::ListSessionsResponse>,
    round_trip::<reflector::WatchSessionsRequest>,
    round_trip::<reflector::WatchSessionsResponse>,
    round_trip::<reflector::ListPathsRequest>,
    round_trip::<reflector::ListPathsResponse>,
    round_trip::<reflector::WatchPathsRequest>,
    round_trip::<reflector::WatchPathsResponse>,
    round_trip::<reflector::GetConfigurationRequest>,
    round_trip::<reflector::GetConfigurationResponse>,
    round_trip::<bgp::PathAttributes>,
    watch_stream,
];

fuzz_target!(|data: &[u8]| {
    let Some((&number, octets)) = data.split_first() else {
        return;
    };
    if let Some(check) = CHECKS.get(usize::from(number)) {
        check(octets);
    }
});

/// Checks a message type without a conversion: an encoded message decodes to an equal message.
fn round_trip<M: Message + Default + PartialEq + Debug>(octets: &[u8]) {
    if let Ok(message) = M::decode(octets) {
        assert_eq!(encoded_and_decoded(&message), message);
    }
}

/// Checks a message type with a conversion to a type of portlb.
fn conversion_round_trip<M: Message + Default, T: PartialEq + Debug>(
    octets: &[u8],
    from_message: impl Fn(M) -> Result<T, ConversionError>,
    to_message: impl Fn(&T) -> M,
) {
    let Ok(message) = M::decode(octets) else {
        return;
    };
    match from_message(message) {
        Ok(ours) => assert_eq!(
            from_message(encoded_and_decoded(&to_message(&ours))),
            Ok(ours)
        ),
        Err(error) => assert!(!error.field.is_empty(), "{error}"),
    }
}

/// Checks one message of `DiscoveryService.Watch` as a complete change.
fn complete_change(octets: &[u8]) {
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
            DesiredSetEvent::Change(_) | DesiredSetEvent::Synced => {
                let again = DesiredSetAssembly::default().receive(encoded_and_decoded(&response));
                assert_eq!(again, [event]);
            }
            DesiredSetEvent::Invalid { error, .. } => assert!(!error.field.is_empty(), "{error}"),
        }
    }
}

/// Checks the messages of a `DiscoveryService.Watch`, each after its encoded length.
fn watch_stream(mut octets: &[u8]) {
    let mut assembly = DesiredSetAssembly::default();
    while let Ok(response) = discovery::WatchResponse::decode_length_delimited(&mut octets) {
        for event in assembly.receive(response) {
            match event {
                DesiredSetEvent::Change(DesiredChange::PutVirtualServer(server)) => {
                    assert_eq!(server.validate(), Ok(()));
                }
                DesiredSetEvent::Change(_) | DesiredSetEvent::Synced => {}
                DesiredSetEvent::Invalid { error, .. } => {
                    assert!(!error.field.is_empty(), "{error}")
                }
            }
        }
    }
}

fn encoded_and_decoded<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("an encoded message can be decoded")
}
