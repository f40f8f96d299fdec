//! Foreign BGP speakers behind one description, so that a test can put any of
//! them in the place of any other.

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

/// The autonomous system of the lab.
pub const ASN: u32 = 65000;

/// Until a program answers its own tool.
const START: Duration = Duration::from_secs(10);

/// Every speaker here proposes it, in seconds.
pub const HOLD_TIME_SECONDS: u16 = 9;

/// What a speaker is to do, in no program's words. Everything that a peer
/// sends is accepted.
#[derive(Debug, Clone)]
pub struct Speaker {
    /// Its autonomous system.
    pub asn: u32,
    /// Also its cluster id where it reflects.
    pub router_id: Ipv4Addr,
    /// Where its sessions start and end.
    pub local: IpAddr,
    /// All of its peers.
    pub peers: Vec<Peer>,
    /// What it announces of its own.
    pub announcements: Vec<Announcement>,
    /// Whether it puts what it learns into the kernel, all equal paths at once.
    pub installs_routes: bool,
}

/// A peer, or all peers of a range.
#[derive(Debug, Clone)]
pub struct Peer {
    /// A word.
    pub name: String,
    /// Where it is.
    pub remote: Remote,
    /// Its autonomous system.
    pub asn: u32,
    /// Whether we reflect to and from it (RFC 4456).
    pub is_client: bool,
    /// What we do of RFC 7911 with it, in both families.
    pub add_path: AddPath,
    /// Whether we only wait for its connection; always so for a range.
    pub is_passive: bool,
    /// Key of TCP MD5 (RFC 2385).
    pub password: Option<String>,
}

/// Where a peer is.
#[derive(Debug, Clone, Copy)]
pub enum Remote {
    /// One peer.
    Address(IpAddr),
    /// Peers come and go; they dial us.
    Range(IpNet),
}

/// RFC 7911, seen from the speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddPath {
    /// One path a prefix.
    No,
    /// We can receive several.
    Receive,
    /// We send all.
    Send,
}

/// An announced prefix.
#[derive(Debug, Clone, Copy)]
pub struct Announcement {
    /// What is reachable.
    pub prefix: IpNet,
    /// Where; of the same family.
    pub next_hop: IpAddr,
}

/// The programs that can be a speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// BIRD 2.
    Bird,
    /// FRR's `bgpd`, with `zebra` where routes are installed.
    Frr,
    /// `gobgpd`; cannot install routes here.
    GoBgp,
    /// exabgp; can only announce.
    ExaBgp,
}

/// A foreign speaker that runs.
#[derive(Debug, Clone)]
pub struct RunningSpeaker {
    /// Its main process.
    pub process: Process,
    program: Program,
    host: Host,
    run: PathBuf,
}

impl Speaker {
    /// A speaker of the lab's autonomous system without peers.
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

    /// Adds a peer.
    pub fn peer(mut self, peer: Peer) -> Self {
        self.peers.push(peer);
        self
    }

    /// Announces a prefix.
    pub fn announce(mut self, prefix: IpNet, next_hop: IpAddr) -> Self {
        self.announcements.push(Announcement { prefix, next_hop });
        self
    }

    /// Puts what it learns into the kernel.
    pub fn install_routes(mut self) -> Self {
        self.installs_routes = true;
        self
    }

    fn reflects(&self) -> bool {
        self.peers.iter().any(|peer| peer.is_client)
    }
}

impl Peer {
    /// An ordinary iBGP peer that we dial.
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

    /// iBGP peers of a range, which dial us.
    pub fn range(name: &str, range: IpNet) -> Self {
        Self {
            remote: Remote::Range(range),
            is_passive: true,
            ..Self::new(name, range.addr())
        }
    }

    /// We reflect to and from it.
    pub fn client(mut self) -> Self {
        self.is_client = true;
        self
    }

    /// Sets add-path.
    pub fn add_path(mut self, add_path: AddPath) -> Self {
        self.add_path = add_path;
        self
    }

    /// It dials us.
    pub fn passive(mut self) -> Self {
        self.is_passive = true;
        self
    }

    /// Signs its session.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }
}

impl Program {
    /// The configuration file of this program for a speaker.
    pub fn config(self, speaker: &Speaker) -> String {
        match self {
            Self::Bird => bird::config(speaker),
            Self::Frr => frr::config(speaker),
            Self::GoBgp => gobgp::config(speaker),
            Self::ExaBgp => exabgp::config(speaker),
        }
    }

    /// Starts it on a host. Sessions come up on their own; wait for what they
    /// bring.
    pub fn start(self, host: &Host, speaker: &Speaker) -> Result<RunningSpeaker> {
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
    /// Asks the speaker in the words of its own tool: `birdc`, `vtysh -c`,
    /// `gobgp`.
    pub fn ask(&self, question: &str) -> Result<String> {
        match self.program {
            Program::Bird => bird::ask(&self.host, &self.run, question),
            Program::Frr => frr::ask(&self.host, question),
            Program::GoBgp => gobgp::ask(&self.host, question),
            Program::ExaBgp => bail!("exabgp is not asked"),
        }
    }

    /// Its table of both families, as its own tool prints it.
    pub fn table(&self) -> Result<String> {
        let questions: &[&str] = match self.program {
            Program::Bird => &["show route all"],
            Program::Frr => &["show bgp ipv4 unicast", "show bgp ipv6 unicast"],
            Program::GoBgp => &["global rib -a ipv4", "global rib -a ipv6"],
            Program::ExaBgp => &[],
        };
        let mut table = String::new();
        for question in questions {
            let _ = writeln!(table, "{}", self.ask(question)?);
        }
        Ok(table)
    }

    /// Waits until the table names each of these, prefixes or next hops.
    pub fn wait_for_table(&self, wanted: &[&str], within: Duration) -> Result<()> {
        let what = format!("{} knows {wanted:?}", self.process.name());
        crate::wait_for(&what, within, || {
            let table = self.table()?;
            let missing: Vec<_> = wanted
                .iter()
                .filter(|text| !table.contains(**text))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            bail!("without {missing:?}:\n{table}")
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
