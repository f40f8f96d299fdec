//! Tests of encoding and decoding IPVS messages.
#![cfg(test)]

use netlink_packet_core::{
    DefaultNla, Emitable, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{GenlHeader, GenlMessage};
use netlink_packet_ipvs::{
    AF_INET, AF_INET6, DestAttribute, FAMILY_VERSION, Flags, IpvsAttribute, IpvsCommand,
    IpvsForwardingMethod, IpvsMessage, SVC_F_SCHED_MH_FALLBACK, SVC_F_SCHED_MH_PORT,
    ServiceAttribute, StatsAttribute, TunnelFlags, TunnelType, decode_address, encode_address,
};
use proptest::prelude::*;

fn encode(message: &IpvsMessage) -> Vec<u8> {
    let mut bytes = vec![0xee; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn decode(
    command: IpvsCommand,
    bytes: &[u8],
) -> Result<IpvsMessage, netlink_packet_core::DecodeError> {
    let header = GenlHeader {
        cmd: command.into(),
        version: FAMILY_VERSION,
    };
    IpvsMessage::parse_with_param(bytes, header)
}

fn check(message: &IpvsMessage, expected: &[u8]) {
    assert_eq!(encode(message), expected);
    assert_eq!(&decode(message.command, expected).unwrap(), message);
}

// The expected bytes are for a little-endian machine and follow the structures of `linux/ip_vs.h`.
#[cfg(target_endian = "little")]
#[test]
fn a_service_is_encoded_in_the_layout_of_the_kernel() {
    check(
        &IpvsMessage {
            command: IpvsCommand::NewService,
            attributes: vec![IpvsAttribute::Service(vec![
                ServiceAttribute::AddressFamily(AF_INET),
                ServiceAttribute::Protocol(6),
                ServiceAttribute::Address(encode_address("10.1.1.10".parse().unwrap())),
                ServiceAttribute::Port(80),
                ServiceAttribute::SchedulerName("mh".into()),
                ServiceAttribute::Flags(Flags {
                    flags: SVC_F_SCHED_MH_FALLBACK | SVC_F_SCHED_MH_PORT,
                    mask: u32::MAX,
                }),
                ServiceAttribute::Timeout(0),
                ServiceAttribute::Netmask(u32::MAX),
            ])],
        },
        &[
            84, 0, 1, 0, // IPVS_CMD_ATTR_SERVICE
            6, 0, 1, 0, 2, 0, 0, 0, // AF
            6, 0, 2, 0, 6, 0, 0, 0, // PROTOCOL
            20, 0, 3, 0, 10, 1, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // ADDR
            6, 0, 4, 0, 0, 80, 0, 0, // PORT
            7, 0, 6, 0, b'm', b'h', 0, 0, // SCHED_NAME
            12, 0, 7, 0, 0x18, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, // FLAGS
            8, 0, 8, 0, 0, 0, 0, 0, // TIMEOUT
            8, 0, 9, 0, 0xff, 0xff, 0xff, 0xff, // NETMASK
        ],
    );
}

#[cfg(target_endian = "little")]
#[test]
fn a_destination_with_a_gue_tunnel_is_encoded_in_the_layout_of_the_kernel() {
    check(
        &IpvsMessage {
            command: IpvsCommand::NewDest,
            attributes: vec![
                IpvsAttribute::Service(vec![
                    ServiceAttribute::AddressFamily(AF_INET6),
                    ServiceAttribute::FirewallMark(0x504c_0001),
                ]),
                IpvsAttribute::Dest(vec![
                    DestAttribute::AddressFamily(AF_INET6),
                    DestAttribute::Address(encode_address("fd00::1".parse().unwrap())),
                    DestAttribute::Port(0),
                    DestAttribute::ForwardingMethod(IpvsForwardingMethod::Tunnel),
                    DestAttribute::Weight(100),
                    DestAttribute::TunnelType(TunnelType::Gue),
                    DestAttribute::TunnelPort(6080),
                    DestAttribute::TunnelFlags(TunnelFlags::CHECKSUM),
                ]),
            ],
        },
        &[
            20, 0, 1, 0, // IPVS_CMD_ATTR_SERVICE
            6, 0, 1, 0, 10, 0, 0, 0, // AF
            8, 0, 5, 0, 1, 0, 0x4c, 0x50, // FWMARK
            80, 0, 2, 0, // IPVS_CMD_ATTR_DEST
            6, 0, 11, 0, 10, 0, 0, 0, // ADDR_FAMILY
            20, 0, 1, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // ADDR
            6, 0, 2, 0, 0, 0, 0, 0, // PORT
            8, 0, 3, 0, 2, 0, 0, 0, // FWD_METHOD
            8, 0, 4, 0, 100, 0, 0, 0, // WEIGHT
            5, 0, 13, 0, 1, 0, 0, 0, // TUN_TYPE
            6, 0, 14, 0, 0x17, 0xc0, 0, 0, // TUN_PORT
            6, 0, 15, 0, 1, 0, 0, 0, // TUN_FLAGS
        ],
    );
}

#[cfg(target_endian = "little")]
#[test]
fn a_netlink_message_has_a_netlink_header_and_a_generic_netlink_header() {
    let message = IpvsMessage {
        command: IpvsCommand::GetInfo,
        attributes: vec![],
    };
    let mut genl = GenlMessage::from_payload(message.clone());
    genl.set_resolved_family_id(0x23);
    let mut netlink = NetlinkMessage::from(genl);
    netlink.header.sequence_number = 7;
    netlink.finalize();
    let mut bytes = vec![0; netlink.buffer_len()];
    netlink.serialize(&mut bytes);
    let expected = [
        20, 0, 0, 0, 0x23, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 15, 1, 0, 0,
    ];
    assert_eq!(bytes, expected);
    let back = NetlinkMessage::<GenlMessage<IpvsMessage>>::deserialize(&bytes).unwrap();
    let NetlinkPayload::InnerMessage(inner) = back.payload else {
        panic!("{back:?}")
    };
    assert_eq!(inner.payload, message);
}

#[test]
fn attributes_are_decoded_as_info_attributes_only_for_the_command_set_info() {
    let info = IpvsMessage {
        command: IpvsCommand::SetInfo,
        attributes: vec![
            IpvsAttribute::InfoVersion(0x01_02_01),
            IpvsAttribute::InfoConnectionTableSize(4096),
        ],
    };
    assert_eq!(decode(IpvsCommand::SetInfo, &encode(&info)).unwrap(), info);
    check_decode_error(IpvsCommand::NewService, &encode(&info), "buffer has length");
}

#[test]
fn unknown_attributes_survive_decoding_and_encoding() {
    let message = IpvsMessage {
        command: IpvsCommand::NewDest,
        attributes: vec![
            IpvsAttribute::Other(DefaultNla::new(77, vec![1, 2, 3])),
            IpvsAttribute::Dest(vec![
                DestAttribute::Weight(1),
                DestAttribute::Other(DefaultNla::new(99, vec![4])),
            ]),
        ],
    };
    assert_eq!(
        decode(IpvsCommand::NewDest, &encode(&message)).unwrap(),
        message
    );
}

#[track_caller]
fn check_decode_error(command: IpvsCommand, bytes: &[u8], expected: &str) {
    let error = decode(command, bytes).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn decoding_an_attribute_with_a_wrong_length_is_an_error_that_names_the_attribute() {
    let bytes = [12, 0, 2, 0, 6, 0, 4, 0, 1, 2, 0, 0];
    check_decode_error(IpvsCommand::NewDest, &bytes, "DestAttribute::Weight");
}

#[test]
fn decoding_a_truncated_message_is_an_error() {
    let message = IpvsMessage {
        command: IpvsCommand::NewService,
        attributes: vec![IpvsAttribute::Service(vec![ServiceAttribute::Timeout(1)])],
    };
    let bytes = encode(&message);
    for len in 1..bytes.len() {
        check_decode_error(IpvsCommand::NewService, &bytes[..len], "buffer has length");
    }
}

#[test]
fn addresses_survive_encoding_and_decoding() {
    for text in ["10.1.1.10", "0.0.0.0", "fd00::1", "::ffff:10.0.0.1"] {
        let address: std::net::IpAddr = text.parse().unwrap();
        let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
        assert_eq!(
            decode_address(family, encode_address(address)),
            Some(address)
        );
    }
    assert_eq!(decode_address(7, [0; 16]), None);
}

fn other() -> impl Strategy<Value = DefaultNla> {
    (100_u16..0x3fff, prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(kind, value)| DefaultNla::new(kind, value))
}

fn stats() -> impl Strategy<Value = Vec<StatsAttribute>> {
    let one = prop_oneof![
        any::<u64>().prop_map(StatsAttribute::Connections),
        any::<u64>().prop_map(StatsAttribute::InBytes),
        any::<u64>().prop_map(StatsAttribute::OutBytesPerSecond),
        other().prop_map(StatsAttribute::Other),
    ];
    prop::collection::vec(one, 0..5)
}

fn service() -> impl Strategy<Value = Vec<ServiceAttribute>> {
    let one = prop_oneof![
        any::<u16>().prop_map(ServiceAttribute::AddressFamily),
        any::<u16>().prop_map(ServiceAttribute::Protocol),
        any::<[u8; 16]>().prop_map(ServiceAttribute::Address),
        any::<u16>().prop_map(ServiceAttribute::Port),
        any::<u32>().prop_map(ServiceAttribute::FirewallMark),
        "[a-z_]{0,15}".prop_map(ServiceAttribute::SchedulerName),
        any::<(u32, u32)>()
            .prop_map(|(flags, mask)| ServiceAttribute::Flags(Flags { flags, mask })),
        any::<u32>().prop_map(ServiceAttribute::Timeout),
        any::<u32>().prop_map(ServiceAttribute::Netmask),
        "[a-z]{0,15}".prop_map(ServiceAttribute::PersistenceEngineName),
        stats().prop_map(ServiceAttribute::Stats64),
        other().prop_map(ServiceAttribute::Other),
    ];
    prop::collection::vec(one, 0..8)
}

fn dest() -> impl Strategy<Value = Vec<DestAttribute>> {
    let one = prop_oneof![
        any::<[u8; 16]>().prop_map(DestAttribute::Address),
        any::<u16>().prop_map(DestAttribute::Port),
        any::<u32>().prop_map(|number| DestAttribute::ForwardingMethod(number.into())),
        any::<u32>().prop_map(DestAttribute::Weight),
        any::<u32>().prop_map(DestAttribute::UpperThreshold),
        any::<u32>().prop_map(DestAttribute::LowerThreshold),
        any::<u32>().prop_map(DestAttribute::ActiveConnections),
        any::<u32>().prop_map(DestAttribute::InactiveConnections),
        any::<u32>().prop_map(DestAttribute::PersistentConnections),
        any::<u16>().prop_map(DestAttribute::AddressFamily),
        stats().prop_map(DestAttribute::Stats64),
        any::<u8>().prop_map(|number| DestAttribute::TunnelType(number.into())),
        any::<u16>().prop_map(DestAttribute::TunnelPort),
        any::<u16>().prop_map(|flags| DestAttribute::TunnelFlags(flags.into())),
        other().prop_map(DestAttribute::Other),
    ];
    prop::collection::vec(one, 0..8)
}

fn message() -> impl Strategy<Value = IpvsMessage> {
    let one = prop_oneof![
        service().prop_map(IpvsAttribute::Service),
        dest().prop_map(IpvsAttribute::Dest),
        any::<u32>().prop_map(IpvsAttribute::TimeoutTcp),
        any::<u32>().prop_map(IpvsAttribute::TimeoutTcpFin),
        any::<u32>().prop_map(IpvsAttribute::TimeoutUdp),
        other().prop_map(IpvsAttribute::Other),
    ];
    let command = any::<u8>()
        .prop_map(IpvsCommand::from)
        .prop_filter("SetInfo uses other attributes", |command| {
            *command != IpvsCommand::SetInfo
        });
    (command, prop::collection::vec(one, 0..4)).prop_map(|(command, attributes)| IpvsMessage {
        command,
        attributes,
    })
}

proptest! {
    #[test]
    fn decoding_an_encoded_message_returns_an_equal_message(message in message()) {
        let bytes = encode(&message);
        prop_assert_eq!(decode(message.command, &bytes).unwrap(), message);
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(
        command in any::<u8>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = decode(command.into(), &bytes);
    }

    #[test]
    fn decoding_a_damaged_message_never_panics_and_its_result_can_be_encoded(
        message in message(),
        at in any::<prop::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let mut bytes = encode(&message);
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] = octet;
        if let Ok(decoded) = decode(message.command, &bytes) {
            // Only the numbers of attributes are compared: if the type of an unknown attribute has
            // both flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, netlink-packet-core 0.9 encodes
            // only one of the flags.
            let again = decode(message.command, &encode(&decoded)).unwrap();
            prop_assert_eq!(again.attributes.len(), decoded.attributes.len());
        }
    }
}
