//! Tests of route-reflector with hostile BGP peers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::Process;
use lab::bgp::{ASN, Program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::expect::{SOON, eventually};
use crate::interop::network::{CLIENTS, LinkMember, Network, REFLECTOR, ReflectorProcess};

pub(super) const GOOD: LinkMember = LinkMember::Client(1);
pub(super) const HOSTILE: LinkMember = LinkMember::Client(2);
const STRANGER: LinkMember = LinkMember::Router(1);

pub(super) const OPEN: u8 = 1;
pub(super) const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
pub(super) const KEEPALIVE: u8 = 4;

pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("the tests' messages are short");
    framed(length, kind, body)
}

/// Returns a message with a length field that can differ from the real length.
fn framed(length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// Returns an OPEN with the capabilities of IPv4 unicast and of four-octet AS numbers.
fn open(version: u8, asn: u16, hold_time: u16, router_id: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![version];
    body.extend(asn.to_be_bytes());
    body.extend(hold_time.to_be_bytes());
    body.extend(router_id.octets());
    body.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4]);
    body.extend(u32::from(asn).to_be_bytes());
    message(OPEN, &body)
}

pub(super) fn lab_asn() -> u16 {
    u16::try_from(ASN).expect("the lab's AS has two octets")
}

fn valid_open() -> Vec<u8> {
    open(4, lab_asn(), 9, HOSTILE.address())
}

/// A BGP connection on which a test writes arbitrary octets.
pub(super) struct RawConnection(TcpStream);

impl RawConnection {
    async fn connect(from: Ipv4Addr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.into(), 0))?;
        let connection = socket.connect(SocketAddr::new(REFLECTOR.into(), 179));
        let stream = timeout(SOON, connection)
            .await
            .context("the connection was not established in time")??;
        Ok(Self(stream))
    }

    async fn establish(from: Ipv4Addr) -> Result<Self> {
        Self::establish_with(from, &open(4, lab_asn(), 3, from)).await
    }

    pub(super) async fn establish_with(from: Ipv4Addr, open: &[u8]) -> Result<Self> {
        let mut connection = Self::connect(from).await?;
        connection.send(open).await?;
        connection.send(&message(KEEPALIVE, &[])).await?;
        loop {
            match connection.read().await? {
                Some((KEEPALIVE, _)) => return Ok(connection),
                Some((OPEN, _)) => {}
                other => bail!("expected OPEN and KEEPALIVE, received {other:?}"),
            }
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes).await?)
    }

    /// Returns the next message, or `None` if the connection has ended.
    async fn read(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let read = async {
            let mut header = [0; 19];
            // A reset also counts as the end of the connection, because the reflector sends a reset
            // if it has not read all octets.
            if self.0.read_exact(&mut header).await.is_err() {
                return Ok(None);
            }
            let length = u16::from_be_bytes([header[16], header[17]]);
            let length = usize::from(length).checked_sub(19);
            let mut body = vec![0; length.context("the length is smaller than a header")?];
            self.0.read_exact(&mut body).await?;
            Ok(Some((header[18], body)))
        };
        timeout(SOON, read)
            .await
            .context("the reflector sent no message in time")?
    }

    /// Reads until the connection ends, and returns code and subcode of the last NOTIFICATION.
    async fn notification(&mut self) -> Result<Option<(u8, u8)>> {
        let mut seen = None;
        while let Some((kind, body)) = self.read().await? {
            if let (NOTIFICATION, [code, subcode, ..]) = (kind, &body[..]) {
                seen = Some((*code, *subcode));
            }
        }
        Ok(seen)
    }
}

/// Starts a reflector with one well-behaved client. `settings` are added to the clients' group.
fn start(name: &str, settings: &str) -> Result<(Network, ReflectorProcess)> {
    let members = [LinkMember::Reflector, GOOD, HOSTILE, STRANGER];
    let network = Network::bring_up(name, &members)?;
    let clients = format!("{CLIENTS}{settings}");
    let reflector = ReflectorProcess::start(&network, &[&clients], &[])?;
    network.start(GOOD, Program::Bird, &GOOD.client())?;
    reflector.wait_for_announcers(&[GOOD])?;
    Ok((network, reflector))
}

fn ensure_good_client_is_untouched(reflector: &ReflectorProcess) -> Result<()> {
    let session = reflector.session(GOOD)?;
    ensure!(session.established_count == 1, "{session:#?}");
    reflector.wait_for_announcers(&[GOOD])
}

fn resident_kib(process: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("the status file has no VmRSS")?.parse()?)
}

#[test]
fn a_malformed_or_unexpected_message_ends_the_session_with_the_notification_of_rfc_4271_and_6608() {
    let (network, reflector) = start("input-hostile", "").unwrap();
    let id = HOSTILE.address();
    let asn = lab_asn();
    let mut unsynchronized = valid_open();
    unsynchronized[3] = 0;
    let http = b"GET / HTTP/1.1\r\nHost: reflector\r\n\r\n".to_vec();
    // Expected codes and subcodes: RFC 4271 section 6, RFC 6608.
    let instead_of_open: [(&str, Vec<u8>, (u8, u8)); 14] = [
        ("a marker with a zero", unsynchronized, (1, 1)),
        ("HTTP", http, (1, 1)),
        ("a length below 19", framed(18, KEEPALIVE, &[]), (1, 2)),
        ("a length above 4096", framed(4097, OPEN, &[0; 100]), (1, 2)),
        ("the length 65535", framed(65535, UPDATE, &[0; 100]), (1, 2)),
        ("an OPEN of one octet", message(OPEN, &[4]), (1, 2)),
        ("a KEEPALIVE with a body", message(KEEPALIVE, &[0]), (1, 2)),
        ("an unknown type", message(9, &[]), (1, 3)),
        (
            "a KEEPALIVE before an OPEN",
            message(KEEPALIVE, &[]),
            (5, 1),
        ),
        (
            "an UPDATE before an OPEN",
            message(UPDATE, &[0, 0, 0, 0]),
            (5, 1),
        ),
        ("version 3", open(3, asn, 9, id), (2, 1)),
        ("another AS", open(4, 64999, 9, id), (2, 2)),
        (
            "router id 0",
            open(4, asn, 9, Ipv4Addr::UNSPECIFIED),
            (2, 3),
        ),
        ("a hold time of 1 s", open(4, asn, 1, id), (2, 6)),
    ];
    let when_established: [(&str, Vec<u8>, (u8, u8)); 6] = [
        (
            "attributes of one octet",
            message(UPDATE, &[0, 0, 0, 1, 0]),
            (3, 1),
        ),
        (
            "attributes beyond the end",
            message(UPDATE, &[0, 0, 0, 9, 0]),
            (3, 1),
        ),
        (
            "an unknown attribute with well-known flags",
            message(UPDATE, &[0, 0, 0, 3, 0x40, 99, 0, 24, 10, 1, 9]),
            (3, 2),
        ),
        (
            "withdrawn routes beyond the end",
            message(UPDATE, &[0, 9, 0, 0]),
            (3, 1),
        ),
        (
            "an UPDATE below its minimum length",
            message(UPDATE, &[0, 0]),
            (1, 2),
        ),
        ("a second OPEN", valid_open(), (5, 3)),
    ];
    let cases = instead_of_open
        .into_iter()
        .map(|case| (false, case))
        .chain(when_established.into_iter().map(|case| (true, case)));
    let host = network.host(HOSTILE).unwrap();
    let mut wrong = Vec::new();
    for (is_established, (what, bytes, expected)) in cases {
        let seen = host.inside_async(async || {
            let mut connection = if is_established {
                RawConnection::establish(id).await?
            } else {
                RawConnection::connect(id).await?
            };
            connection.send(&bytes).await?;
            connection.notification().await
        });
        match seen {
            Ok(Some(seen)) if seen == expected => {}
            other => wrong.push(format!("{what}: expected {expected:?}, received {other:?}")),
        }
        eventually("the reflector has removed the session", || {
            let sessions = reflector.sessions()?;
            ensure!(sessions.len() == 1, "{sessions:#?}");
            Ok(())
        })
        .unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure_good_client_is_untouched(&reflector).unwrap();
}

#[test]
fn an_update_with_a_malformed_attribute_withdraws_its_prefix_and_keeps_the_session() {
    let (network, reflector) = start("input-malformed", "").unwrap();
    let host = network.host(HOSTILE).unwrap();
    let id = HOSTILE.address();
    let [a, b, c, d] = id.octets();
    let prefix = [24, 10, 1, 9];
    let good = [
        0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, a, b, c, d, 0x40, 5, 4, 0, 0, 0, 100,
    ];
    let update = |attributes: &[u8]| {
        let mut body = vec![0, 0, 0, u8::try_from(attributes.len()).expect("short")];
        body.extend(attributes);
        body.extend(prefix);
        message(UPDATE, &body)
    };
    let wait_for_path = |expected: bool| {
        eventually(&format!("a path of 10.1.9.0/24 exists: {expected}"), || {
            let next_hops = reflector.next_hops("10.1.9.0/24")?;
            let wanted: &[IpAddr] = if expected { &[id.into()] } else { &[] };
            ensure!(next_hops == wanted, "{next_hops:?}");
            Ok(())
        })
    };
    // RFC 7606: the reflector treats each of these updates as a withdrawal.
    let malformed: [(&str, &[u8]); 4] = [
        (
            "an AS_PATH with one extra octet",
            &[0x40, 2, 7, 2, 1, 0, 0, 0xfd, 0xe9, 2],
        ),
        ("an ORIGIN of two octets", &[0x40, 1, 2, 0, 0]),
        (
            "no NEXT_HOP",
            &[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100],
        ),
        ("a MULTI_EXIT_DISC of three octets", &[0x80, 4, 3, 0, 0, 0]),
    ];
    host.inside_async(async || {
        let mut connection = RawConnection::establish(id).await?;
        for (what, attributes) in malformed {
            connection.send(&update(&good)).await?;
            wait_for_path(true).context(what)?;
            connection.send(&update(attributes)).await?;
            wait_for_path(false).context(what)?;
            connection.send(&message(KEEPALIVE, &[])).await?;
        }
        Ok(())
    })
    .unwrap();
    ensure_good_client_is_untouched(&reflector).unwrap();
}

#[test]
fn incomplete_messages_and_unknown_peers_need_little_memory_and_do_not_disturb_clients() {
    let (network, reflector) = start("input-flood", "").unwrap();
    let many = 100..200;
    let hostile = network.host(HOSTILE).unwrap();
    let addresses: Vec<_> = many
        .clone()
        .map(|number| format!("addr add 10.0.1.{number}/32 dev eth0"))
        .collect();
    hostile.ip(&addresses.join("\n")).unwrap();
    let before = resident_kib(&reflector.process).unwrap();
    let stranger = network.host(STRANGER).unwrap();
    stranger
        .inside_async(async || {
            let mut all = Vec::new();
            for _ in 0..200 {
                all.push(RawConnection::connect(STRANGER.address()).await?);
            }
            for connection in &mut all {
                // The reflector closes the connection immediately, with or without a NOTIFICATION.
                connection.notification().await?;
            }
            Ok(())
        })
        .unwrap();
    hostile
        .inside_async(async || {
            let mut all = Vec::new();
            for number in many {
                let mut connection =
                    RawConnection::connect(Ipv4Addr::new(10, 0, 1, number)).await?;
                connection.send(&valid_open()[..25]).await?;
                all.push(connection);
            }
            // An incomplete UPDATE does not restart the hold timer.
            let mut half = RawConnection::establish(HOSTILE.address()).await?;
            half.send(&framed(4096, UPDATE, &[0; 2000])).await?;
            let since = Instant::now();
            let end = half.notification().await?;
            ensure!(
                end == Some((4, 0)),
                "expected Hold Timer Expired, received {end:?}"
            );
            let took = since.elapsed();
            ensure!(
                took < Duration::from_secs(6),
                "the hold timer of 3 s expired only after {took:?}"
            );

            ensure_good_client_is_untouched(&reflector)?;
            // A new client is accepted while the reflector has 100 connections that send no
            // complete message.
            RawConnection::establish(HOSTILE.address()).await?;
            Ok(())
        })
        .unwrap();
    let after = resident_kib(&reflector.process).unwrap();
    assert!(
        after < before + 20_000,
        "the reflector's memory grew from {before} KiB to {after} KiB"
    );
    eventually("the reflector has removed the ended sessions", || {
        let sessions = reflector.sessions()?;
        ensure!(sessions.len() == 1, "{} sessions", sessions.len());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_reflector_accepts_at_most_the_configured_number_of_dynamic_peers_of_a_group() {
    let (network, reflector) = start("input-crowd", "\n  maximumPeers: 2").unwrap();
    let host = network.host(HOSTILE).unwrap();
    host.ip("addr add 10.0.1.100/32 dev eth0").unwrap();
    host.inside_async(async || {
        let _second = RawConnection::establish(HOSTILE.address()).await?;
        let third = Ipv4Addr::new(10, 0, 1, 100);
        let mut third = RawConnection::connect(third).await?;
        ensure!(
            third.read().await?.is_none(),
            "the reflector sent a message to the third peer"
        );
        ensure_good_client_is_untouched(&reflector)
    })
    .unwrap();
}
