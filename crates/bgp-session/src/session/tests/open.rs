//! Tests of the negotiation by OPEN messages, and of rejected OPEN messages.

use super::*;

/// Returns a session that has received `open` on connection `A`.
fn session_after_open(settings: SessionSettings, open: Open) -> SessionTranscript {
    let mut transcript = SessionTranscript::new(settings);
    let open = receive(A, Message::Open(open));
    transcript.feed_all([SessionInput::Start, SessionInput::Accepted(A), open]);
    transcript
}

#[track_caller]
fn check_rejected(settings: SessionSettings, open: Open, notification: &str, error: &str) {
    let transcript = session_after_open(settings, open);
    assert_eq!(transcript.last_error(), error);
    let expected = format!(
        "0.000: Start -> Active\n\
         0.000: Accepted(1) -> OpenSent\n    send OPEN on 1\n\
         0.000: OPEN from 1 -> Active\n    send NOTIFICATION {notification} on 1\n    \
         failed: {error}\n    close 1\n"
    );
    assert_eq!(transcript.text, expected);
}

#[test]
fn an_open_with_an_unexpected_as_is_rejected() {
    let open = Open {
        asn: Asn(65000),
        ..open(HIGHER)
    };
    check_rejected(
        passive(),
        open,
        "2/2",
        "peer has AS 65000, expected AS 64512",
    );
}

#[test]
fn an_open_with_the_router_id_of_this_speaker_is_rejected_only_from_an_internal_peer() {
    check_rejected(
        passive(),
        open(OURS),
        "2/3",
        "peer has the router id of this speaker, 10.0.0.5; give each speaker its own router id",
    );
    let settings = SessionSettings {
        peer_asn: None,
        ..passive()
    };
    let open = Open {
        asn: Asn(65000),
        ..open(OURS)
    };
    let external = session_after_open(settings, open);
    assert_eq!(external.session.state(), SessionState::OpenConfirm);
}

#[test]
fn a_peer_without_a_common_family_is_rejected() {
    let settings = SessionSettings {
        families: vec![OfferedFamily {
            family: Family::Ipv6Unicast,
            add_path: None,
        }],
        ..passive()
    };
    let open = Open {
        capabilities: Vec::new(),
        ..open(HIGHER)
    };
    check_rejected(
        settings,
        open,
        "2/7",
        "peer supports none of the address families [Ipv6Unicast]",
    );
}

#[test]
fn a_peer_that_offers_less_than_the_minimum_hold_time_is_rejected() {
    let settings = || SessionSettings {
        minimum_hold_time_seconds: 9,
        ..passive()
    };
    let offer = |hold_time_seconds| Open {
        hold_time_seconds,
        ..open(HIGHER)
    };
    for (offered, error) in [
        (0, "peer offers no hold time, at least 9 s are required"),
        (
            8,
            "peer offers a hold time of 8 s, at least 9 s are required",
        ),
    ] {
        check_rejected(settings(), offer(offered), "2/6", error);
    }
    for offered in [9, 90] {
        let accepted = session_after_open(settings(), offer(offered));
        assert_eq!(accepted.session.state(), SessionState::OpenConfirm);
    }
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
        let negotiated =
            Negotiated::new(&settings, &open).expect("both sides have a common family");
        let [v4, v6] = negotiated.families[..] else {
            panic!("expected two families: {negotiated:?}");
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
fn a_peer_without_capabilities_gets_ipv4_unicast_and_two_octet_as_numbers() {
    let open = Open {
        capabilities: Vec::new(),
        ..open(HIGHER)
    };
    let negotiated = Negotiated::new(&passive(), &open).expect("both sides support IPv4");
    let families: Vec<_> = negotiated.families.iter().map(|it| it.family).collect();
    assert_eq!(families, [Family::Ipv4Unicast]);
    assert!(!negotiated.four_octet_asn && !negotiated.extended_message);
    assert!(!negotiated.route_refresh);
}

#[test]
fn the_shorter_of_the_two_offered_hold_times_is_used() {
    for (ours, theirs, expected) in [(9, 90, 9), (90, 9, 9), (3, 65535, 3)] {
        let settings = SessionSettings {
            hold_time_seconds: ours,
            ..passive()
        };
        let open = Open {
            hold_time_seconds: theirs,
            ..open(HIGHER)
        };
        let negotiated =
            Negotiated::new(&settings, &open).expect("both sides have a common family");
        assert_eq!(negotiated.hold_time, Some(Duration::from_secs(expected)));
    }
}

#[test]
fn unusable_settings_are_rejected_with_the_reason() {
    let check = |change: fn(&mut SessionSettings), expected: Expect| {
        let mut settings = settings();
        change(&mut settings);
        let error = settings.validate().expect_err("the settings are unusable");
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
        expect![
            "shortest pause between attempts to connect is zero or longer than the longest pause"
        ],
    );
}
