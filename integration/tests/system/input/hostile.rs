//! A hostile network before our route reflector.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::Process;
use lab::bgp::{ASN, Program};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::expect::{SOON, eventually};
use crate::interop::network::{CLIENTS, Network, Place, REFLECTOR, Reflector};

pub(super) const GOOD: Place = Place::Client(1);
pub(super) const HOSTILE: Place = Place::Client(2);
const STRANGER: Place = Place::Router(1);

pub(super) const OPEN: u8 = 1;
pub(super) const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
pub(super) const KEEPALIVE: u8 = 4;

pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("the tests' messages are short");
    framed(length, kind, body)
}

/// With a length that need not be the true one.
fn framed(length: u16, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// IPv4 unicast and four-octet AS numbers.
fn open(version: u8, asn: u16, hold_time: u16, router_id: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![version];
    body.extend(asn.to_be_bytes());
    body.extend(hold_time.to_be_bytes());
    body.extend(router_id.octets());
    body.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4]);
    body.extend(u32::from(asn).to_be_bytes());
    message(OPEN, &body)
}

pub(super) fn our_asn() -> u16 {
    u16::try_from(ASN).expect("the lab's AS has two octets")
}

fn good_open() -> Vec<u8> {
    open(4, our_asn(), 9, HOSTILE.address())
}

/// One BGP connection, octet by octet.
pub(super) struct Wire(TcpStream);

impl Wire {
    async fn connect(from: Ipv4Addr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from.into(), 0))?;
        let connection = socket.connect(SocketAddr::new(REFLECTOR.into(), 179));
        let stream = timeout(SOON, connection)
            .await
            .context("no connection in time")??;
        Ok(Self(stream))
    }

    async fn establish(from: Ipv4Addr) -> Result<Self> {
        Self::establish_with(from, &open(4, our_asn(), 3, from)).await
    }

    pub(super) async fn establish_with(from: Ipv4Addr, open: &[u8]) -> Result<Self> {
        let mut wire = Self::connect(from).await?;
        wire.send(open).await?;
        wire.send(&message(KEEPALIVE, &[])).await?;
        loop {
            match wire.read().await? {
                Some((KEEPALIVE, _)) => return Ok(wire),
                Some((OPEN, _)) => {}
                other => bail!("{other:?} in place of OPEN and KEEPALIVE"),
            }
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes).await?)
    }

    /// The next message; `None` at the end of the connection.
    async fn read(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let read = async {
            let mut header = [0; 19];
            // An end of either kind: we may have sent what was not read.
            if self.0.read_exact(&mut header).await.is_err() {
                return Ok(None);
            }
            let length = u16::from_be_bytes([header[16], header[17]]);
            let length = usize::from(length).checked_sub(19);
            let mut body = vec![0; length.context("a length of less than a header")?];
            self.0.read_exact(&mut body).await?;
            Ok(Some((header[18], body)))
        };
        timeout(SOON, read).await.context("no message in time")?
    }

    /// Reads to the end: code and subcode of the NOTIFICATION before it.
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

/// A reflector with one good client.
fn start(name: &str, settings: &str) -> Result<(Network, Reflector)> {
    let places = [Place::Reflector, GOOD, HOSTILE, STRANGER];
    let network = Network::bring_up(name, &places)?;
    let clients = format!("{CLIENTS}{settings}");
    let reflector = Reflector::start(&network, &[&clients], &[])?;
    network.start(GOOD, Program::Bird, &GOOD.client())?;
    reflector.wait_for_announcers(&[GOOD])?;
    Ok((network, reflector))
}

fn ensure_good_client_is_untouched(reflector: &Reflector) -> Result<()> {
    let session = reflector.session(GOOD)?;
    ensure!(session.established_count == 1, "{session:#?}");
    reflector.wait_for_announcers(&[GOOD])
}

fn resident_kib(process: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

#[test]
fn what_is_no_bgp_ends_with_the_notification_that_the_rfc_names() {
    let (network, reflector) = start("input-hostile", "").unwrap();
    let id = HOSTILE.address();
    let asn = our_asn();
    let mut unsynchronized = good_open();
    unsynchronized[3] = 0;
    let http = b"GET / HTTP/1.1\r\nHost: reflector\r\n\r\n".to_vec();
    // RFC 4271 section 6, RFC 6608.
    let in_place_of_open: [(&str, Vec<u8>, (u8, u8)); 14] = [
        ("a marker with a zero", unsynchronized, (1, 1)),
        ("HTTP", http, (1, 1)),
        (
            "a length below a header's",
            framed(18, KEEPALIVE, &[]),
            (1, 2),
        ),
        (
            "a length above the largest",
            framed(4097, OPEN, &[0; 100]),
            (1, 2),
        ),
        (
            "the largest number",
            framed(65535, UPDATE, &[0; 100]),
            (1, 2),
        ),
        ("an OPEN too short for one", message(OPEN, &[4]), (1, 2)),
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
            "one octet of attributes",
            message(UPDATE, &[0, 0, 0, 1, 0]),
            (3, 1),
        ),
        (
            "attributes beyond the end",
            message(UPDATE, &[0, 0, 0, 9, 0]),
            (3, 1),
        ),
        (
            "an unknown attribute that calls itself well-known",
            message(UPDATE, &[0, 0, 0, 3, 0x40, 99, 0, 24, 10, 1, 9]),
            (3, 2),
        ),
        (
            "withdrawals beyond the end",
            message(UPDATE, &[0, 9, 0, 0]),
            (3, 1),
        ),
        (
            "an UPDATE below its least",
            message(UPDATE, &[0, 0]),
            (1, 2),
        ),
        ("a second OPEN", good_open(), (5, 3)),
    ];
    let cases = in_place_of_open
        .into_iter()
        .map(|case| (false, case))
        .chain(when_established.into_iter().map(|case| (true, case)));
    let host = network.host(HOSTILE).unwrap();
    let mut wrong = Vec::new();
    for (is_established, (what, bytes, expected)) in cases {
        let seen = host.inside_async(async || {
            let mut wire = if is_established {
                Wire::establish(id).await?
            } else {
                Wire::connect(id).await?
            };
            wire.send(&bytes).await?;
            wire.notification().await
        });
        match seen {
            Ok(Some(seen)) if seen == expected => {}
            other => wrong.push(format!("{what}: {other:?}, not {expected:?}")),
        }
        eventually("the session is forgotten", || {
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
    let is_there = |expected: bool| {
        eventually(&format!("10.1.9.0/24 is there: {expected}"), || {
            let next_hops = reflector.next_hops("10.1.9.0/24")?;
            let wanted: &[IpAddr] = if expected { &[id.into()] } else { &[] };
            ensure!(next_hops == wanted, "{next_hops:?}");
            Ok(())
        })
    };
    // RFC 7606: each of them is treated as a withdrawal.
    let malformed: [(&str, &[u8]); 4] = [
        (
            "an AS_PATH with an octet too many",
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
        let mut wire = Wire::establish(id).await?;
        for (what, attributes) in malformed {
            wire.send(&update(&good)).await?;
            is_there(true).context(what)?;
            wire.send(&update(attributes)).await?;
            is_there(false).context(what)?;
            wire.send(&message(KEEPALIVE, &[])).await?;
        }
        Ok(())
    })
    .unwrap();
    ensure_good_client_is_untouched(&reflector).unwrap();
}

#[test]
fn half_messages_and_strangers_cost_little_and_others_are_served() {
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
                all.push(Wire::connect(STRANGER.address()).await?);
            }
            for wire in &mut all {
                // Closed at once, perhaps with a word.
                wire.notification().await?;
            }
            Ok(())
        })
        .unwrap();
    hostile
        .inside_async(async || {
            let mut all = Vec::new();
            for number in many {
                let mut wire = Wire::connect(Ipv4Addr::new(10, 0, 1, number)).await?;
                wire.send(&good_open()[..25]).await?;
                all.push(wire);
            }
            // Half an UPDATE keeps no session alive.
            let mut half = Wire::establish(HOSTILE.address()).await?;
            half.send(&framed(4096, UPDATE, &[0; 2000])).await?;
            let since = Instant::now();
            let end = half.notification().await?;
            ensure!(
                end == Some((4, 0)),
                "{end:?} in place of Hold Timer Expired"
            );
            let took = since.elapsed();
            ensure!(
                took < Duration::from_secs(6),
                "the hold time of 3 s took {took:?}"
            );

            ensure_good_client_is_untouched(&reflector)?;
            // A new client finds its place among a hundred that do nothing.
            Wire::establish(HOSTILE.address()).await?;
            Ok(())
        })
        .unwrap();
    let after = resident_kib(&reflector.process).unwrap();
    assert!(after < before + 20_000, "{before} KiB, then {after} KiB");
    eventually("those that have gone are forgotten", || {
        let sessions = reflector.sessions()?;
        ensure!(sessions.len() == 1, "{} sessions", sessions.len());
        Ok(())
    })
    .unwrap();
}

#[test]
fn no_more_dynamic_peers_than_configured_are_let_in() {
    let (network, reflector) = start("input-crowd", "\n  maximumPeers: 2").unwrap();
    let host = network.host(HOSTILE).unwrap();
    host.ip("addr add 10.0.1.100/32 dev eth0").unwrap();
    host.inside_async(async || {
        let _second = Wire::establish(HOSTILE.address()).await?;
        let third = Ipv4Addr::new(10, 0, 1, 100);
        let mut third = Wire::connect(third).await?;
        ensure!(third.read().await?.is_none(), "the third is spoken to");
        ensure_good_client_is_untouched(&reflector)
    })
    .unwrap();
}
