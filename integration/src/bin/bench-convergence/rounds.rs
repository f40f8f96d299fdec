//! Times from the start or the kill of an announcer to the change in the router's FIB.
//!
//! In each round all announcers are measured in turn.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::IpNet;
use lab::bgp::{AddPath, ForeignPeer, ForeignSpeaker, Program, RunningSpeaker};
use lab::reference::{ROUTER, SERVICE_RANGE, reflector_address};
use lab::system::{DaemonInstance, System};
use lab::{Host, Process, Signal};

use integration::memory;
use integration::report::Figures;

const DEADLINE: Duration = Duration::from_secs(20);

/// An announcer that the benchmark measures: portlb's or a foreign one. At most one announcer runs
/// at a time.
#[derive(Debug)]
pub(crate) struct Announcer {
    next_hop: IpAddr,
    /// `None` for the announcer of portlb.
    foreign: Option<Foreign>,
}

#[derive(Debug)]
struct Foreign {
    program: Program,
    host: Host,
    speaker: ForeignSpeaker,
}

/// The figures of one announcer: the time from its start to the next hop (ms), the time from its
/// kill to the removal of the next hop (ms), and its resident memory (MiB).
#[derive(Debug, Clone, Default)]
pub(crate) struct LifetimeFigures {
    pub(crate) start: Figures,
    pub(crate) death: Figures,
    pub(crate) memory: Figures,
}

impl Announcer {
    /// Returns portlb's announcer in lb-a, which announces through portlb's reflector.
    pub(crate) fn portlb(system: &System) -> Self {
        Self {
            next_hop: system.network.nodes[0].address.addr().into(),
            foreign: None,
        }
    }

    /// Returns exabgp in lb-b, which announces through the reflector of [`start_gobgp`].
    pub(crate) fn exabgp(system: &System) -> Result<Self> {
        let reflector = ForeignPeer::new("reflector-2", reflector_address(2).into());
        Self::foreign(system, 1, Program::ExaBgp, reflector)
    }

    /// Returns BIRD in lb-c, which announces directly to the router. The router must have the peer
    /// [`bird_announcer`].
    pub(crate) fn bird(system: &System) -> Result<Self> {
        Self::foreign(
            system,
            2,
            Program::Bird,
            ForeignPeer::new("router", ROUTER.into()),
        )
    }

    fn foreign(
        system: &System,
        lb_pod: usize,
        program: Program,
        peer: ForeignPeer,
    ) -> Result<Self> {
        let next_hop = system.network.nodes[lb_pod].address.addr().into();
        let pod = &system.network.lb_pods[lb_pod];
        let speaker = ForeignSpeaker::new(pod.address.into(), pod.address)
            .peer(peer)
            .announce(SERVICE_RANGE.into(), next_hop);
        Ok(Self {
            next_hop,
            foreign: Some(Foreign {
                program,
                host: system.host(DaemonInstance::BgpAnnouncer(lb_pod))?,
                speaker,
            }),
        })
    }

    fn start(&self, system: &mut System) -> Result<Process> {
        match &self.foreign {
            None => Ok(system.start(DaemonInstance::BgpAnnouncer(0))?.clone()),
            Some(foreign) => {
                let running = foreign.program.start(&foreign.host, &foreign.speaker)?;
                Ok(running.process)
            }
        }
    }

    fn measure_lifetime(&self, system: &mut System, lifetimes: &mut LifetimeFigures) -> Result<()> {
        let range = IpNet::from(SERVICE_RANGE);
        let began = Instant::now();
        let process = self.start(system)?;
        let up = system.fib.wait_for(range, &[self.next_hop], DEADLINE)?;
        lifetimes.start.add_time(up.at - began);
        lifetimes
            .memory
            .add(memory::resident_mebibytes(&[process.pid()])?);
        let began = Instant::now();
        process.signal(Signal::SIGKILL)?;
        let down = system.fib.wait_for(range, &[], DEADLINE)?;
        lifetimes.death.add_time(down.at - began);
        process.wait(DEADLINE)?;
        Ok(())
    }
}

/// Starts GoBGP, the paper's reflector. Of the pods, only the pods of node-b can be its clients.
/// The router is its client, too.
pub(crate) fn start_gobgp(system: &System) -> Result<RunningSpeaker> {
    let address = reflector_address(2);
    let pods = system.network.nodes[1].pods.trunc();
    let speaker = ForeignSpeaker::new(address.into(), address)
        .peer(ForeignPeer::range("lb-pods", pods.into()).client())
        .peer(
            ForeignPeer::new("router", ROUTER.into())
                .client()
                .add_path(AddPath::Send),
        );
    Program::GoBgp.start(&system.network.reflector(2)?, &speaker)
}

/// Returns the peer that the router needs for [`Announcer::bird`]. Its address is the address of
/// the pod lb-c.
pub(crate) fn bird_announcer() -> ForeignPeer {
    ForeignPeer::new("announcer", IpAddr::from([10, 2, 3, 2])).passive()
}

/// Starts, measures and kills each announcer in each round.
pub(crate) fn measure<const N: usize>(
    rounds: usize,
    system: &mut System,
    announcers: &[Announcer; N],
) -> Result<[LifetimeFigures; N]> {
    // This round is not measured, because it includes the time until the reflectors have sessions
    // with the router.
    for announcer in announcers {
        announcer.measure_lifetime(system, &mut LifetimeFigures::default())?;
    }
    let mut lifetimes = std::array::from_fn(|_| LifetimeFigures::default());
    for _ in 0..rounds {
        for (announcer, lifetimes) in announcers.iter().zip(&mut lifetimes) {
            announcer.measure_lifetime(system, lifetimes)?;
        }
    }
    Ok(lifetimes)
}
