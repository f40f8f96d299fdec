//! Tests of the negotiated families with encoded OPEN messages.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use bgp_packet::{Asn, Decoder, Message, NotificationError, RouterId};
use bgp_session::{ConnectionId, Session, SessionInput, SessionOutput, SessionSettings};
use bytes::BytesMut;

const CONNECTION: ConnectionId = ConnectionId(1);

/// Returns the outputs of a session for an OPEN message of AS 64512 with the encoded
/// `capabilities`.
fn answer(capabilities: &[u8]) -> Vec<SessionOutput> {
    let parameter = u8::try_from(capabilities.len()).unwrap();
    let mut octets = vec![0xff; 16];
    octets.extend([0, 29 + 2 + parameter, 1, 4, 0xfc, 0x00, 0, 90, 10, 0, 0, 9]);
    octets.extend([parameter + 2, 2, parameter]);
    octets.extend(capabilities);
    let mut octets = BytesMut::from(&octets[..]);
    let open = Decoder::new().decode(&mut octets).unwrap().unwrap();
    let now = Instant::now();
    let settings =
        SessionSettings::new(Asn(64512), RouterId([10, 0, 0, 5].into()), Some(Asn(64512)));
    let mut session = Session::new(settings, 1, now);
    session.handle(SessionInput::Start, now);
    session.handle(SessionInput::Accepted(CONNECTION), now);
    session.handle(SessionInput::MessageReceived(CONNECTION, open), now)
}

#[test]
fn a_peer_that_offers_only_unknown_families_is_rejected_with_the_capabilities_that_it_lacks() {
    const EVPN: [u8; 6] = [1, 4, 0, 25, 0, 70];
    const VPNV4: [u8; 6] = [1, 4, 0, 1, 0, 128];
    for capabilities in [EVPN.to_vec(), VPNV4.to_vec(), [EVPN, VPNV4].concat()] {
        let outputs = answer(&capabilities);
        let notification = outputs.iter().find_map(|output| {
            let SessionOutput::Send(CONNECTION, Message::Notification(notification)) = output
            else {
                return None;
            };
            Some(notification)
        });
        let notification = notification.unwrap_or_else(|| panic!("{outputs:?}"));
        assert_eq!(
            notification.error,
            NotificationError::UNSUPPORTED_CAPABILITY
        );
        // RFC 5492 section 3: the NOTIFICATION contains the missing capabilities.
        let missing = [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
        assert_eq!(notification.data[..], missing);
        assert!(
            outputs.contains(&SessionOutput::Close(CONNECTION)),
            "{outputs:?}"
        );
    }
}

#[test]
fn a_peer_with_a_common_and_an_unknown_family_is_accepted() {
    let outputs = answer(&[1, 4, 0, 25, 0, 70, 1, 4, 0, 2, 0, 1]);
    assert!(
        outputs.contains(&SessionOutput::Send(CONNECTION, Message::Keepalive)),
        "{outputs:?}"
    );
}

/// RFC 4760 section 8: a peer without the multiprotocol capability exchanges only IPv4 unicast
/// routes.
#[test]
fn a_peer_without_a_multiprotocol_capability_is_accepted_for_ipv4_unicast() {
    let outputs = answer(&[2, 0]);
    assert!(
        outputs.contains(&SessionOutput::Send(CONNECTION, Message::Keepalive)),
        "{outputs:?}"
    );
}
