//! What both OPEN messages agree on, and OPENs that are refused.

use super::*;

#[test]
fn a_wrong_as_is_refused() {
    let mut transcript = Transcript::new(passive());
    let open = Open {
        asn: Asn(65000),
        ..open(HIGHER)
    };
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
    ]);
    assert_eq!(
        transcript.last_error(),
        "peer has AS 65000, expected AS 64512"
    );
    transcript.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> Active
            send NOTIFICATION 2/2 on 1
            failed: peer has AS 65000, expected AS 64512
            close 1
    "#]]);
}

#[test]
fn our_own_router_id_is_refused_inside_the_as_only() {
    let mut internal = Transcript::new(passive());
    internal.feed_all([Input::Start, Input::Accepted(A), open_from(A, OURS)]);
    assert_eq!(internal.last_error(), "peer has our own router id 10.0.0.5");
    internal.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> Active
            send NOTIFICATION 2/3 on 1
            failed: peer has our own router id 10.0.0.5
            close 1
    "#]]);

    let mut external = Transcript::new(Settings {
        peer_asn: None,
        ..passive()
    });
    let open = Open {
        asn: Asn(65000),
        ..open(OURS)
    };
    external.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
    ]);
    assert_eq!(external.session.state(), SessionState::OpenConfirm);
}

#[test]
fn a_peer_without_a_common_family_is_told_which_are_lacking() {
    let mut transcript = Transcript::new(Settings {
        families: vec![FamilySettings {
            family: Family::Ipv6Unicast,
            add_path: None,
        }],
        ..passive()
    });
    let open = Open {
        capabilities: Vec::new(),
        ..open(HIGHER)
    };
    transcript.feed_all([
        Input::Start,
        Input::Accepted(A),
        receive(A, Message::Open(open)),
    ]);
    transcript.check(&expect![[r#"
        0.000: Start -> Active
        0.000: Accepted(1) -> OpenSent
            send OPEN on 1
        0.000: OPEN from 1 -> Active
            send NOTIFICATION 2/7 on 1
            failed: peer speaks none of [Ipv6Unicast]
            close 1
    "#]]);
}

#[test]
fn a_peer_that_offers_less_than_the_minimum_hold_time_is_refused() {
    let check = |offered: u16, expected: &str| {
        let mut transcript = Transcript::new(Settings {
            minimum_hold_time_seconds: 9,
            ..passive()
        });
        let offer = Open {
            hold_time_seconds: offered,
            ..open(HIGHER)
        };
        transcript.feed_all([Input::Start, Input::Accepted(A)]);
        let outputs = transcript.feed(receive(A, Message::Open(offer)));
        let refusal = Notification::new(NotificationError::UNACCEPTABLE_HOLD_TIME);
        let is_refused = outputs.contains(&Output::Send(A, Message::Notification(refusal)));
        assert_eq!(is_refused, !expected.is_empty());
        if is_refused {
            assert_eq!(transcript.last_error(), expected);
        }
    };
    check(0, "peer offers no hold time, at least 9 s are required");
    check(
        8,
        "peer offers a hold time of 8 s, at least 9 s are required",
    );
    check(9, "");
    check(90, "");
}

#[test]
fn add_path_is_negotiated_per_family_and_direction() {
    use AddPathMode::{Both, Receive, Send};
    let check = |ours, theirs: Option<AddPathMode>, send, receive| {
        let mut settings = passive();
        settings.families[0].add_path = ours;
        let mut open = open(HIGHER);
        open.capabilities
            .extend(theirs.map(|mode| Capability::AddPath(vec![(Family::Ipv4Unicast, mode)])));
        let negotiated = Negotiated::new(&settings, &open).expect("families are common");
        let [v4, v6] = negotiated.families[..] else {
            panic!("two families: {negotiated:?}");
        };
        let expected = NegotiatedFamily {
            family: Family::Ipv4Unicast,
            add_path_send: send,
            add_path_receive: receive,
        };
        assert_eq!(v4, expected, "{ours:?} {theirs:?}");
        assert!(!v6.add_path_send && !v6.add_path_receive);
        assert_eq!(!negotiated.encoder_options().add_path.is_empty(), send);
        assert_eq!(!negotiated.decoder_options().add_path.is_empty(), receive);
    };
    check(Some(Send), Some(Receive), true, false);
    check(Some(Receive), Some(Send), false, true);
    check(Some(Both), Some(Both), true, true);
    check(Some(Both), Some(Send), false, true);
    check(Some(Send), Some(Send), false, false);
    check(Some(Both), None, false, false);
    check(None, Some(Both), false, false);
}

#[test]
fn a_peer_without_capabilities_speaks_ipv4_with_two_octet_numbers() {
    let open = Open {
        capabilities: Vec::new(),
        ..open(HIGHER)
    };
    let negotiated = Negotiated::new(&passive(), &open).expect("IPv4 is common");
    let families: Vec<_> = negotiated.families.iter().map(|it| it.family).collect();
    assert_eq!(families, [Family::Ipv4Unicast]);
    assert!(!negotiated.four_octet_asn && !negotiated.extended_message);
    assert!(!negotiated.route_refresh);
}

#[test]
fn the_shorter_hold_time_holds() {
    for (ours, theirs, expected) in [(9, 90, 9), (90, 9, 9), (3, 65535, 3)] {
        let settings = Settings {
            hold_time_seconds: ours,
            ..passive()
        };
        let open = Open {
            hold_time_seconds: theirs,
            ..open(HIGHER)
        };
        let negotiated = Negotiated::new(&settings, &open).expect("families are common");
        assert_eq!(negotiated.hold_time, Some(Duration::from_secs(expected)));
    }
}

#[test]
fn settings_that_no_session_can_have_are_named() {
    let check = |change: fn(&mut Settings), expected: Expect| {
        let mut settings = settings();
        change(&mut settings);
        let error = settings.validate().expect_err("must be refused");
        expected.assert_eq(&error.to_string());
    };
    assert_eq!(settings().validate(), Ok(()));
    check(
        |it| it.hold_time_seconds = 2,
        expect!["hold time 2 s: must be 0 or at least 3 s"],
    );
    check(|it| it.local_asn = Asn(0), expect!["AS 0 is reserved"]);
    check(|it| it.peer_asn = Some(Asn(0)), expect!["AS 0 is reserved"]);
    check(
        |it| it.router_id = RouterId(Ipv4Addr::UNSPECIFIED),
        expect!["router id 0.0.0.0 is not allowed"],
    );
    check(|it| it.families.clear(), expect!["no address family"]);
    check(
        |it| it.families.push(it.families[0]),
        expect!["address family Ipv4Unicast is listed twice"],
    );
    check(
        |it| it.connect_retry_maximum = Duration::ZERO,
        expect!["the shortest pause between connects is zero or longer than the longest"],
    );
}
