//! From an announcer's start to the next hop in the router's FIB, and from its death to the next
//! hop's removal: each announcer in turn, round by round.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::IpNet;
use lab::bgp::{AddPath, Peer, Program, RunningSpeaker, Speaker};
use lab::reference::{ROUTER, SERVICE_RANGE, reflector_address};
use lab::system::{Daemon, System};
use lab::{Host, Process, Signal};

use integration::memory;
use integration::report::Figures;

const DEADLINE: Duration = Duration::from_secs(20);

/// Announces the service range, alone.
#[derive(Debug)]
pub(crate) struct Announcer {
    next_hop: IpAddr,
    /// Ours, otherwise.
    foreign: Option<Foreign>,
}

#[derive(Debug)]
struct Foreign {
    program: Program,
    host: Host,
    speaker: Speaker,
}

/// Of one announcer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lives {
    pub(crate) start: Figures,
    pub(crate) death: Figures,
    pub(crate) memory: Figures,
}

impl Announcer {
    /// In lb-a, by our reflector.
    pub(crate) fn ours(system: &System) -> Self {
        Self {
            next_hop: system.network.nodes[0].address.addr().into(),
            foreign: None,
        }
    }

    /// The paper's, in lb-b, by the reflector of [`start_gobgp`].
    pub(crate) fn exabgp(system: &System) -> Result<Self> {
        let reflector = Peer::new("reflector-2", reflector_address(2).into());
        Self::foreign(system, 1, Program::ExaBgp, reflector)
    }

    /// In lb-c, straight to the router, which has to have [`bird_announcer`] as a peer.
    pub(crate) fn bird(system: &System) -> Result<Self> {
        Self::foreign(system, 2, Program::Bird, Peer::new("router", ROUTER.into()))
    }

    fn foreign(system: &System, lb_pod: usize, program: Program, peer: Peer) -> Result<Self> {
        let next_hop = system.network.nodes[lb_pod].address.addr().into();
        let pod = &system.network.lb_pods[lb_pod];
        let speaker = Speaker::new(pod.address.into(), pod.address)
            .peer(peer)
            .announce(SERVICE_RANGE.into(), next_hop);
        Ok(Self {
            next_hop,
            foreign: Some(Foreign {
                program,
                host: system.host(Daemon::BgpAnnouncer(lb_pod))?,
                speaker,
            }),
        })
    }

    fn start(&self, system: &mut System) -> Result<Process> {
        match &self.foreign {
            None => Ok(system.start(Daemon::BgpAnnouncer(0))?.clone()),
            Some(foreign) => {
                let running = foreign.program.start(&foreign.host, &foreign.speaker)?;
                Ok(running.process)
            }
        }
    }

    fn live(&self, system: &mut System, lives: &mut Lives) -> Result<()> {
        let range = IpNet::from(SERVICE_RANGE);
        let began = Instant::now();
        let process = self.start(system)?;
        let up = system.fib.wait_for(range, &[self.next_hop], DEADLINE)?;
        lives.start.add_time(up.at - began);
        lives
            .memory
            .add(memory::resident_mebibytes(&[process.pid()])?);
        let began = Instant::now();
        process.signal(Signal::SIGKILL)?;
        let down = system.fib.wait_for(range, &[], DEADLINE)?;
        lives.death.add_time(down.at - began);
        process.wait(DEADLINE)?;
        Ok(())
    }
}

/// The paper's reflector, for the pods of node-b alone.
pub(crate) fn start_gobgp(system: &System) -> Result<RunningSpeaker> {
    let address = reflector_address(2);
    let pods = system.network.nodes[1].pods.trunc();
    let speaker = Speaker::new(address.into(), address)
        .peer(Peer::range("lb-pods", pods.into()).client())
        .peer(
            Peer::new("router", ROUTER.into())
                .client()
                .add_path(AddPath::Send),
        );
    Program::GoBgp.start(&system.network.reflector(2)?, &speaker)
}

/// What [`Announcer::bird`] is to the router; it has the address of the pod lb-c.
pub(crate) fn bird_announcer() -> Peer {
    Peer::new("announcer", IpAddr::from([10, 2, 3, 2])).passive()
}

/// Each announcer lives and dies in each round.
pub(crate) fn measure<const N: usize>(
    rounds: usize,
    system: &mut System,
    announcers: &[Announcer; N],
) -> Result<[Lives; N]> {
    // The first round waits for the reflectors' own sessions and is not counted.
    for announcer in announcers {
        announcer.live(system, &mut Lives::default())?;
    }
    let mut lives = std::array::from_fn(|_| Lives::default());
    for _ in 0..rounds {
        for (announcer, lives) in announcers.iter().zip(&mut lives) {
            announcer.live(system, lives)?;
        }
    }
    Ok(lives)
}
