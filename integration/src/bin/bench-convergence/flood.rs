//! The delay of one client's changes, without a flood and while another client floods the
//! reflector.
//!
//! The delay is the time from a change to its arrival at the router. The flooding client changes
//! 100 prefixes as fast as it can. The benchmark runs with portlb's reflector, with BIRD and with
//! FRR.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::report::{BenchmarkTable, Figures};
use ipnet::Ipv4Net;
use lab::bgp::{ASN, ForeignPeer, ForeignSpeaker, Program};
use lab::{Lab, Process, Topology, daemons, wait_for};

const DEADLINE: Duration = Duration::from_secs(20);

/// The time between two changes of the client that does not flood.
const PAUSE: Duration = Duration::from_millis(100);

const REFLECTOR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const FLOODING: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
const CLIENTS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 1, 0), 24);
const ROUTERS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 2, 0), 24);

/// The prefix of the client that does not flood.
const CHANGED: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 10);

/// The number of prefixes that the flooding client changes: 10.1.0.0/32, 10.1.0.1/32 and so on.
const FLOODED: u32 = 100;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const KEEPALIVE: u8 = 4;

pub(crate) fn measure(rounds: usize, report: &mut BenchmarkTable) -> Result<()> {
    let mut topology = Topology::new();
    topology.host("switch").bridge("lan");
    for (name, address) in [
        ("reflector", REFLECTOR),
        ("flooding", FLOODING),
        ("other", OTHER),
        ("router", ROUTER),
    ] {
        topology.plug(name, ("switch", "lan"));
        let address = Ipv4Net::new(address, 16)?;
        topology.host(name).address("eth0", address);
    }
    let mut lab = Lab::new("bench-flood")?;
    lab.bring_up(&topology)?;
    let mut sides = Vec::new();
    for program in [None, Some(Program::Bird), Some(Program::Frr)] {
        let reflector = start(&lab, program)?;
        let figures = measure_side(&lab, rounds).with_context(|| reflector.tail())?;
        reflector.kill()?;
        sides.push(figures);
    }
    let [portlb, bird, frr] = <[_; 3]>::try_from(sides).expect("three sides");
    for (name, other) in [("BIRD", bird), ("FRR", frr)] {
        let (quiet, flooded) = portlb.clone();
        let what = "a client's change -> router";
        report.compare(what, "ms", quiet, (name, other.0));
        let what = "a client's change -> router, while another client floods";
        report.compare(what, "ms", flooded, (name, other.1));
    }
    Ok(())
}

/// Starts the reflector `program`, or portlb's reflector if `program` is `None`.
fn start(lab: &Lab, program: Option<Program>) -> Result<Process> {
    let host = lab.host("reflector")?;
    if let Some(program) = program {
        let speaker = ForeignSpeaker::new(REFLECTOR.into(), REFLECTOR)
            .peer(ForeignPeer::range("clients", CLIENTS.into()).client())
            .peer(ForeignPeer::range("routers", ROUTERS.into()));
        return Ok(program.start(&host, &speaker)?.process);
    }
    let config = format!(
        "apiVersion: portlb.io/v1\nkind: RouteReflector\nasn: {ASN}\nrouterId: {REFLECTOR}\n\
         listen: ['{REFLECTOR}:179']\npeerGroups:\n\
         - {{name: clients, role: client, dynamicPrefixes: [{CLIENTS}], importPrefixes: all, \
         med: pass, minimumHoldTime: 0s}}\n\
         - {{name: routers, role: non-client, dynamicPrefixes: [{ROUTERS}], exportPrefixes: all, \
         minimumHoldTime: 0s}}\n"
    );
    let mut command = daemons::command("route-reflector")?;
    command
        .arg("--config")
        .arg(host.write("reflector.yaml", &config)?);
    host.start("route-reflector", command)
}

/// Measures the reflector that runs. Returns the delays without a flood and the delays with a
/// flood.
fn measure_side(lab: &Lab, rounds: usize) -> Result<(Figures, Figures)> {
    let mut other = establish(lab, "other", OTHER)?;
    let router = establish(lab, "router", ROUTER)?;
    let arrivals = follow(router.try_clone()?);
    let mut changes = 1..;
    let mut measure = || -> Result<Figures> {
        let mut figures = Figures::default();
        for change in changes.by_ref().take(rounds) {
            thread::sleep(PAUSE);
            let began = Instant::now();
            other.write_all(&update(OTHER, CHANGED, change))?;
            loop {
                let (arrived, at) = arrivals.recv_timeout(DEADLINE)?;
                if arrived == change {
                    figures.add_time(at - began);
                    break;
                }
            }
        }
        Ok(figures)
    };
    let quiet = measure()?;
    let flooding = establish(lab, "flooding", FLOODING)?;
    let flood = flood(flooding.try_clone()?);
    let flooded = measure();
    ensure!(
        !flood.is_finished(),
        "the reflector closed the flooding session"
    );
    for stream in [flooding, router] {
        stream.shutdown(Shutdown::Both)?;
    }
    Ok((quiet, flooded?))
}

/// Starts a thread that sends changes of the flooding client's prefixes until the connection ends.
fn flood(mut stream: TcpStream) -> thread::JoinHandle<()> {
    let base = u32::from(Ipv4Addr::new(10, 1, 0, 0));
    let changes = (0..10 * FLOODED)
        .flat_map(|number| update(FLOODING, Ipv4Addr::from(base + number % FLOODED), number))
        .collect::<Vec<u8>>();
    thread::spawn(move || while stream.write_all(&changes).is_ok() {})
}

/// Starts a thread that reads the router's messages until the connection ends. Returns a channel
/// that receives the number (MED) and the arrival time of each change of [`CHANGED`].
fn follow(mut stream: TcpStream) -> Receiver<(u32, Instant)> {
    let (sender, arrivals) = mpsc::channel();
    let [a, b, c, d] = CHANGED.octets();
    let nlri = [32, a, b, c, d];
    thread::spawn(move || {
        while let Ok((kind, body)) = read(&mut stream) {
            let at = Instant::now();
            let med = body.windows(7).find(|bytes| bytes[..3] == [0x80, 4, 4]);
            if kind == UPDATE
                && body.ends_with(&nlri)
                && let Some(&[_, _, _, a, b, c, d]) = med
            {
                let arrival = (u32::from_be_bytes([a, b, c, d]), at);
                if sender.send(arrival).is_err() {
                    return;
                }
            }
        }
    });
    arrivals
}

/// Establishes a session of a host with the reflector, with a hold time of 0. For a client, starts
/// a thread that discards all messages of the reflector.
fn establish(lab: &Lab, host: &str, address: Ipv4Addr) -> Result<TcpStream> {
    let host = lab.host(host)?;
    let reflector = SocketAddr::new(IpAddr::from(REFLECTOR), 179);
    let mut stream = wait_for(
        "a session with the reflector is established",
        DEADLINE,
        || {
            host.inside(|| {
                let mut stream = TcpStream::connect(reflector)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.write_all(&open(address))?;
                while read(&mut stream)?.0 != KEEPALIVE {}
                Ok(stream)
            })
        },
    )?;
    stream.write_all(&message(KEEPALIVE, &[]))?;
    stream.set_read_timeout(None)?;
    if address != ROUTER {
        let mut reader = stream.try_clone()?;
        thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    }
    Ok(stream)
}

/// Returns the type and the body of the next message.
fn read(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 19];
    stream.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![
        0;
        length
            .checked_sub(19)
            .context("a BGP message is shorter than its header")?
    ];
    stream.read_exact(&mut body)?;
    Ok((header[18], body))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("the messages here are short");
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// Returns an OPEN message with the capabilities IPv4 unicast (RFC 4760) and four-octet AS numbers
/// (RFC 6793).
fn open(router_id: Ipv4Addr) -> Vec<u8> {
    let asn = u16::try_from(ASN).expect("the lab's AS has two octets");
    let capabilities = [&[1, 4, 0, 1, 0, 1, 65, 4][..], &ASN.to_be_bytes()].concat();
    let length = u8::try_from(capabilities.len()).expect("two capabilities");
    let hold_time = [0, 0];
    let body = [
        &[4][..],
        &asn.to_be_bytes(),
        &hold_time,
        &router_id.octets(),
        &[length + 2, 2, length],
        &capabilities,
    ];
    message(OPEN, &body.concat())
}

/// Returns an UPDATE message that announces a host route with this MULTI_EXIT_DISC.
fn update(next_hop: Ipv4Addr, prefix: Ipv4Addr, multi_exit_disc: u32) -> Vec<u8> {
    let attributes = [
        &[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4][..],
        &next_hop.octets(),
        &[0x80, 4, 4],
        &multi_exit_disc.to_be_bytes(),
        &[0x40, 5, 4, 0, 0, 0, 100],
    ]
    .concat();
    let length = u16::try_from(attributes.len()).expect("the attributes are short");
    let body = [
        &[0, 0][..],
        &length.to_be_bytes(),
        &attributes,
        &[32],
        &prefix.octets(),
    ];
    message(UPDATE, &body.concat())
}
