//! Tests of the list and the counters of sessions that could not be established.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bgp_packet::{Asn, ClusterId, Family, RouterId};
use bgp_session::{FailureReason, OfferedFamily};
use bgp_speaker::{
    BgpSpeaker, Configuration, GroupConfig, RefusedSession, SessionConfig, SpeakerConfig,
    SpeakerHandle,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    task::yield_now,
    time::timeout,
};

const ASN: u16 = 64512;
const DEADLINE: Duration = Duration::from_secs(10);

const OPEN: u8 = 1;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

/// Optional parameter of an OPEN message with the capability for IPv4 unicast (RFC 4760).
const IPV4: &[u8] = &[2, 6, 1, 4, 0, 1, 0, 1];

async fn speaker() -> (SpeakerHandle, SocketAddr) {
    let local = Ipv4Addr::LOCALHOST;
    let speaker = BgpSpeaker::bind(SpeakerConfig {
        local_asn: Asn(ASN.into()),
        router_id: RouterId(local),
        cluster_id: ClusterId(local),
        listen: vec![(local, 0).into()],
    })
    .unwrap();
    let (handle, address) = (speaker.handle(), speaker.local_addresses()[0]);
    tokio::spawn(speaker.run());
    let ipv4 = OfferedFamily {
        family: Family::Ipv4Unicast,
        add_path: None,
    };
    let group = GroupConfig {
        name: "pods".into(),
        prefixes: vec!["127.78.0.0/16".parse().unwrap()],
        maximum_peers: 10,
        maximum_peers_per_address: 10,
        session: SessionConfig {
            minimum_hold_time_seconds: 9,
            families: vec![ipv4],
            ..SessionConfig::new(Some(Asn(ASN.into())))
        },
    };
    let configuration = Configuration {
        peers: Vec::new(),
        groups: vec![group],
    };
    handle.configure(configuration).await.unwrap().unwrap();
    (handle, address)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// The fields of an OPEN message. The speaker accepts the default values.
struct Offer {
    version: u8,
    asn: u16,
    hold_time: u16,
    router_id: [u8; 4],
    parameters: &'static [u8],
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            version: 4,
            asn: ASN,
            hold_time: 90,
            router_id: [10, 244, 1, 7],
            parameters: IPV4,
        }
    }
}

impl Offer {
    fn message(&self) -> Vec<u8> {
        let length = u8::try_from(self.parameters.len()).unwrap();
        let body = [
            &[self.version][..],
            &self.asn.to_be_bytes(),
            &self.hold_time.to_be_bytes(),
            &self.router_id,
            &[length],
            self.parameters,
        ];
        message(OPEN, &body.concat())
    }
}

/// Connects from `from`, sends the bytes, and closes the sending direction. Returns code and
/// subcode of the NOTIFICATION from the speaker, if the speaker sends one.
async fn answer(from: [u8; 4], to: SocketAddr, bytes: &[u8]) -> Option<(u8, u8)> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    let reading = timeout(DEADLINE, stream.read_to_end(&mut received)).await;
    reading.expect("the speaker closes in time").unwrap();
    let mut rest = &received[..];
    while let Some(&[high, low, kind]) = rest.get(16..19) {
        if kind == NOTIFICATION {
            return Some((rest[19], rest[20]));
        }
        rest = &rest[usize::from(u16::from_be_bytes([high, low]))..];
    }
    None
}

async fn wait_for_list(
    handle: &SpeakerHandle,
    description: &str,
    predicate: impl Fn(&[RefusedSession]) -> bool,
) -> Vec<RefusedSession> {
    let waiting = async {
        loop {
            let list = handle.refused_sessions().await.unwrap();
            if predicate(&list) {
                return list;
            }
            yield_now().await;
        }
    };
    let listed = timeout(DEADLINE, waiting).await;
    listed.unwrap_or_else(|_| {
        panic!("the list of refused sessions did not change in time: {description}")
    })
}

/// The bytes that the peer sends; expected code and subcode of the NOTIFICATION from the speaker;
/// expected reason; expected part of the error.
type OpenCase = (Vec<u8>, Option<(u8, u8)>, FailureReason, &'static str);

#[tokio::test]
async fn each_kind_of_refused_session_is_counted_and_listed_with_its_reason() {
    use FailureReason as Reason;
    let (handle, to) = speaker().await;
    let open = |offer: Offer| offer.message();
    let valid = Offer::default;
    let cases: [OpenCase; 13] = [
        (
            open(Offer {
                version: 3,
                ..valid()
            }),
            Some((2, 1)),
            Reason::UnsupportedVersion,
            "version",
        ),
        (
            open(Offer {
                asn: 64513,
                ..valid()
            }),
            Some((2, 2)),
            Reason::BadPeerAs,
            "peer has AS 64513, expected AS 64512",
        ),
        (
            open(Offer { asn: 0, ..valid() }),
            Some((2, 2)),
            Reason::BadPeerAs,
            "",
        ),
        (
            open(Offer {
                router_id: [0; 4],
                ..valid()
            }),
            Some((2, 3)),
            Reason::BadRouterId,
            "",
        ),
        (
            open(Offer {
                router_id: [127, 0, 0, 1],
                ..valid()
            }),
            Some((2, 3)),
            Reason::BadRouterId,
            "peer has the router id of this speaker, 127.0.0.1",
        ),
        (
            open(Offer {
                hold_time: 2,
                ..valid()
            }),
            Some((2, 6)),
            Reason::UnacceptableHoldTime,
            "",
        ),
        (
            open(Offer {
                hold_time: 0,
                ..valid()
            }),
            Some((2, 6)),
            Reason::UnacceptableHoldTime,
            "peer offers no hold time, at least 9 s are required",
        ),
        (
            // The optional parameter for authentication (type 1), which RFC 4271 has removed.
            open(Offer {
                parameters: &[1, 1, 0],
                ..valid()
            }),
            Some((2, 4)),
            Reason::UnsupportedParameter,
            "",
        ),
        (
            open(Offer {
                parameters: &[2, 200, 1, 4],
                ..valid()
            }),
            Some((2, 0)),
            Reason::MalformedOpen,
            "",
        ),
        (
            // The capability for IPv6 unicast only. The speaker does not offer this family.
            open(Offer {
                parameters: &[2, 6, 1, 4, 0, 2, 0, 1],
                ..valid()
            }),
            Some((2, 7)),
            Reason::UnsupportedCapability,
            "peer supports none of the address families",
        ),
        (
            message(KEEPALIVE, &[]),
            Some((5, 1)),
            Reason::UnexpectedMessage,
            "unexpected KEEPALIVE",
        ),
        (
            message(NOTIFICATION, &[6, 5]),
            None,
            Reason::ConnectionRejected,
            "peer sent NOTIFICATION Cease/Connection Rejected",
        ),
        (
            Vec::new(),
            None,
            Reason::ConnectionLost,
            "connection lost: closed by the peer",
        ),
    ];
    for (number, (bytes, expected, reason, error)) in (1..).zip(cases) {
        let from = [127, 78, 0, number];
        let before = handle.counters().sessions_refused.get(reason);
        assert_eq!(answer(from, to, &bytes).await, expected, "{reason}");
        let has_address = |refused: &RefusedSession| refused.address == IpAddr::from(from);
        let list =
            wait_for_list(&handle, reason.label(), |list| list.iter().any(has_address)).await;
        let refused = list.into_iter().find(has_address).unwrap();
        assert_eq!(
            (refused.reason, refused.count),
            (reason, 1),
            "{}",
            refused.error
        );
        assert!(refused.error.contains(error), "{}", refused.error);
        assert_eq!(refused.group.as_deref(), Some("pods"));
        assert_eq!(refused.peer, IpAddr::from(from).to_string());
        let after = handle.counters().sessions_refused.get(reason);
        assert_eq!(after, before + 1, "{reason}");
    }
    assert!(handle.peers().await.unwrap().is_empty());
    assert_eq!(handle.counters().sessions_lost.get(), 0);
}

#[tokio::test]
async fn an_address_with_refused_sessions_is_listed_until_a_session_is_established() {
    let (handle, to) = speaker().await;
    let from = [127, 78, 1, 1];
    let bad = Offer {
        asn: 64513,
        ..Offer::default()
    };
    for _ in 0..2 {
        answer(from, to, &bad.message()).await;
    }
    let list = wait_for_list(
        &handle,
        "one address with two failures",
        |list| matches!(list, [refused] if refused.count == 2),
    )
    .await;
    assert_eq!(list[0].address, IpAddr::from(from));
    let good = [Offer::default().message(), message(KEEPALIVE, &[])].concat();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(&good).await.unwrap();
    wait_for_list(&handle, "empty", <[_]>::is_empty).await;
    assert_eq!(handle.counters().sessions_established.get(), 1);
}
