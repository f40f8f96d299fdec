//! BIRD, FRR, GoBGP and exabgp, configured from one description.
//!
//! A test can replace one of these programs by another one without a change of the description.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::host::Host;
use crate::process::Process;

/// The number of the lab's autonomous system.
pub const ASN: u32 = 65000;

/// The longest time from the start of a program until it answers its command-line tool.
const START: Duration = Duration::from_secs(10);

/// The hold time that every foreign speaker of the lab proposes, in seconds.
pub const HOLD_TIME_SECONDS: u16 = 9;

/// The configuration of a foreign BGP speaker, in a form that is independent of the program. The
/// speaker accepts every path that a peer sends.
#[derive(Debug, Clone)]
pub struct ForeignSpeaker {
    pub asn: u32,
    /// The router id. A route reflector uses this value as its cluster id, too.
    pub router_id: Ipv4Addr,
    /// The address that the speaker uses as its own address in every session.
    pub local: IpAddr,
    pub peers: Vec<ForeignPeer>,
    pub announcements: Vec<AnnouncedPrefix>,
    /// Whether the speaker writes the best paths that it has received to the kernel. Several best
    /// paths of one prefix with equal cost become one route with several next hops (ECMP).
    pub installs_routes: bool,
}

/// A peer of a foreign speaker, or several peers whose addresses are in one range.
#[derive(Debug, Clone)]
pub struct ForeignPeer {
    /// The name of the peer in the program's configuration. It must be one word.
    pub name: String,
    pub remote: Remote,
    pub asn: u32,
    /// Whether this speaker is a route reflector and the peer is its client (RFC 4456).
    pub is_client: bool,
    /// The add-path mode of the session, for IPv4 and for IPv6 paths.
    pub add_path: AddPath,
    /// Whether the speaker waits for the peer's connection and does not connect itself. For a range
    /// this is always true.
    pub is_passive: bool,
    /// The key of TCP MD5 (RFC 2385). `None`: the session is not signed.
    pub password: Option<String>,
}

/// The address of a peer, or the range of the addresses of several peers.
#[derive(Debug, Clone, Copy)]
pub enum Remote {
    Address(IpAddr),
    /// Any number of peers with addresses in this range. They connect to the speaker.
    Range(IpNet),
}

/// The add-path mode of a session (RFC 7911), from the view of the foreign speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddPath {
    /// The session carries one path for each prefix, in both directions.
    No,
    /// The foreign speaker can receive several paths of one prefix.
    Receive,
    /// The foreign speaker sends all paths of a prefix.
    Send,
}

/// A prefix that a foreign speaker announces from its configuration.
#[derive(Debug, Clone, Copy)]
pub struct AnnouncedPrefix {
    pub prefix: IpNet,
    /// The next hop of the path. It must have the address family of the prefix.
    pub next_hop: IpAddr,
}

/// A program that can be a foreign speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Bird,
    /// FRR's `bgpd`. A speaker that installs routes also starts `zebra`.
    Frr,
    /// `gobgpd`. It cannot install routes in the lab, because it panics with Debian's `zebra`.
    GoBgp,
    /// exabgp. It can only announce, because it has no table and no tool for queries.
    ExaBgp,
}

/// A started foreign speaker.
#[derive(Debug, Clone)]
pub struct RunningSpeaker {
    /// The process of BIRD, bgpd, gobgpd or exabgp. FRR's zebra is another process.
    pub process: Process,
    program: Program,
    host: Host,
    run: PathBuf,
}

impl ForeignSpeaker {
    /// Returns a speaker in the lab's autonomous system, without a peer and without an
    /// announcement.
    pub fn new(local: IpAddr, router_id: Ipv4Addr) -> Self {
        Self {
            asn: ASN,
            router_id,
            local,
            peers: Vec::new(),
            announcements: Vec::new(),
            installs_routes: false,
        }
    }

    pub fn peer(mut self, peer: ForeignPeer) -> Self {
        self.peers.push(peer);
        self
    }

    pub fn announce(mut self, prefix: IpNet, next_hop: IpAddr) -> Self {
        self.announcements
            .push(AnnouncedPrefix { prefix, next_hop });
        self
    }

    /// Makes the speaker write its best paths to the kernel.
    pub fn install_routes(mut self) -> Self {
        self.installs_routes = true;
        self
    }

    fn reflects(&self) -> bool {
        self.peers.iter().any(|peer| peer.is_client)
    }
}

impl ForeignPeer {
    /// Returns an iBGP peer to which the speaker connects.
    pub fn new(name: &str, address: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            remote: Remote::Address(address),
            asn: ASN,
            is_client: false,
            add_path: AddPath::No,
            is_passive: false,
            password: None,
        }
    }

    /// Returns the iBGP peers whose addresses are in a range. These peers connect to the speaker.
    pub fn range(name: &str, range: IpNet) -> Self {
        Self {
            remote: Remote::Range(range),
            is_passive: true,
            ..Self::new(name, range.addr())
        }
    }

    /// Makes this speaker a route reflector for the peer, which becomes a client (RFC 4456).
    pub fn client(mut self) -> Self {
        self.is_client = true;
        self
    }

    pub fn add_path(mut self, add_path: AddPath) -> Self {
        self.add_path = add_path;
        self
    }

    /// Makes the speaker wait for the peer's connection, and not connect itself.
    pub fn passive(mut self) -> Self {
        self.is_passive = true;
        self
    }

    /// Signs the session with the key `password` (TCP MD5).
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }
}

impl Program {
    /// Returns the text of the configuration file of `self`, such as BIRD, for `speaker`.
    pub fn config(self, speaker: &ForeignSpeaker) -> String {
        match self {
            Self::Bird => bird::config(speaker),
            Self::Frr => frr::config(speaker),
            Self::GoBgp => gobgp::config(speaker),
            Self::ExaBgp => exabgp::config(speaker),
        }
    }

    /// Starts the program on a host. Returns before any session is established, so callers wait for
    /// paths with [`RunningSpeaker::wait_for_table`] or [`FibWatcher`](crate::FibWatcher).
    pub fn start(self, host: &Host, speaker: &ForeignSpeaker) -> Result<RunningSpeaker> {
        let config = self.config(speaker);
        let run = host.run_directory()?;
        let process = match self {
            Self::Bird => bird::start(host, &config, &run)?,
            Self::Frr => frr::start(host, &config, speaker)?,
            Self::GoBgp => gobgp::start(host, &config, speaker)?,
            Self::ExaBgp => exabgp::start(host, &config)?,
        };
        Ok(RunningSpeaker {
            process,
            program: self,
            host: host.clone(),
            run,
        })
    }
}

impl RunningSpeaker {
    /// Runs a command of the program's own tool (`birdc`, `vtysh -c`, `gobgp`) and returns its
    /// output.
    pub fn ask(&self, command: &str) -> Result<String> {
        match self.program {
            Program::Bird => bird::ask(&self.host, &self.run, command),
            Program::Frr => frr::ask(&self.host, command),
            Program::GoBgp => gobgp::ask(&self.host, command),
            Program::ExaBgp => bail!("exabgp has no tool for queries"),
        }
    }

    /// Returns the BGP tables of IPv4 and IPv6, as the program's own tool prints them. For exabgp
    /// the text is empty.
    pub fn table(&self) -> Result<String> {
        let commands: &[&str] = match self.program {
            Program::Bird => &["show route all"],
            Program::Frr => &["show bgp ipv4 unicast", "show bgp ipv6 unicast"],
            Program::GoBgp => &["global rib -a ipv4", "global rib -a ipv6"],
            Program::ExaBgp => &[],
        };
        let mut table = String::new();
        for command in commands {
            let _ = writeln!(table, "{}", self.ask(command)?);
        }
        Ok(table)
    }

    /// Waits until the output of [`table`](Self::table) contains each text of `wanted`, such as a
    /// prefix or a next hop.
    pub fn wait_for_table(&self, wanted: &[&str], within: Duration) -> Result<()> {
        let what = format!("the table of {} contains {wanted:?}", self.process.name());
        crate::wait_for(&what, within, || {
            let table = self.table()?;
            let missing: Vec<_> = wanted
                .iter()
                .filter(|text| !table.contains(**text))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            bail!("{missing:?} is missing in:\n{table}")
        })
        .with_context(|| self.process.tail())
    }
}

fn family(is_v6: bool) -> &'static str {
    if is_v6 { "ipv6" } else { "ipv4" }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
