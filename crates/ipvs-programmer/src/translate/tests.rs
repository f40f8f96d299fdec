use proptest::prelude::*;

use super::*;

fn key() -> impl Strategy<Value = EntryKey> {
    let protocol = prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ];
    let address = any::<std::net::IpAddr>();
    prop_oneof![
        (protocol, address, any::<u16>()).prop_map(|(protocol, address, port)| EntryKey::Address {
            protocol,
            address,
            port
        }),
        (
            prop_oneof![Just(AddressFamily::V4), Just(AddressFamily::V6)],
            1_u32..
        )
            .prop_map(|(family, mark)| EntryKey::FirewallMark { family, mark }),
    ]
}

fn settings(family: AddressFamily) -> impl Strategy<Value = EntrySettings> {
    let flags = || any::<(bool, bool)>();
    let scheduler = prop_oneof![
        Just(Scheduler::Rr),
        Just(Scheduler::Wrr),
        Just(Scheduler::Lc),
        Just(Scheduler::Wlc),
        Just(Scheduler::Sed),
        Just(Scheduler::Nq),
        flags().prop_map(|(fallback, port)| Scheduler::Sh(SchedulerFlags { fallback, port })),
        flags().prop_map(|(fallback, port)| Scheduler::Mh(SchedulerFlags { fallback, port })),
    ];
    let persistence = (1_u64..2_678_400, 1..=longest_prefix(family)).prop_map(
        |(seconds, client_prefix_length)| Persistence {
            timeout: Duration::from_secs(seconds),
            client_prefix_length,
        },
    );
    (
        any::<bool>(),
        scheduler,
        prop::option::of(persistence),
        any::<bool>(),
    )
        .prop_map(
            |(owned, scheduler, persistence, one_packet)| EntrySettings {
                owned,
                scheduler: EntryScheduler::Known(scheduler),
                persistence,
                one_packet,
            },
        )
}

fn entry() -> impl Strategy<Value = RealServerEntry> {
    let method = prop_oneof![
        Just(ForwardingMethod::Masquerade),
        Just(ForwardingMethod::DirectRouting),
        Just(ForwardingMethod::Tunnel(TunnelKind::Ipip)),
    ];
    (any::<u32>(), method, any::<u32>(), any::<u32>()).prop_map(
        |(weight, method, upper_threshold, lower_threshold)| RealServerEntry {
            weight,
            forwarding_method: EntryForwardingMethod::Known(method),
            upper_threshold,
            lower_threshold,
        },
    )
}

proptest! {
    // The kernel answers with the attributes of the request, so a request is also a valid answer.
    #[test]
    fn a_virtual_server_is_equal_after_translation_to_a_message_and_back(
        (key, settings) in key().prop_flat_map(|key| (Just(key), settings(key.family()))),
    ) {
        let request = request(&TableChange::AddVirtualServer(key, settings.clone()));
        prop_assert_eq!(service(&request), Some((key, settings)));
    }

    #[test]
    fn a_real_server_is_equal_after_translation_to_a_message_and_back(
        key in key(),
        address in any::<SocketAddr>(),
        entry in entry(),
    ) {
        let address = SocketAddr::new(address.ip(), address.port());
        let request = request(&TableChange::AddRealServer(key, address, entry));
        let expected = (address, entry, ConnectionCounts::default());
        prop_assert_eq!(real_server(&request, key.family()), Some(expected));
    }
}

#[test]
fn a_netmask_with_gaps_has_prefix_length_0() {
    assert_eq!(prefix_length(AF_INET, 0xff00_ff00_u32.to_be()), 0);
    assert_eq!(prefix_length(AF_INET, 0xffff_ff00_u32.to_be()), 24);
    assert_eq!(prefix_length(AF_INET, u32::MAX), 32);
}

#[test]
fn a_service_with_an_unsupported_protocol_is_omitted() {
    let attributes = vec![IpvsAttribute::Service(vec![
        ServiceAttribute::AddressFamily(AF_INET),
        ServiceAttribute::Protocol(51),
        ServiceAttribute::Address([0; 16]),
    ])];
    assert_eq!(
        service(&IpvsMessage {
            command: IpvsCommand::NewService,
            attributes
        }),
        None
    );
}

#[test]
fn the_owner_flag_differs_from_all_flags_of_the_kernel() {
    assert_eq!(FLAG_OWNED & 0xffff, 0);
}
