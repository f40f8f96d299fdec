//! Proof that a holder owns its gateway.
//!
//! node-router sends a nonce by UDP to the gateway, to a port that the holder names. The holder
//! returns the nonce on its own stream. Only then does the owner of the routes receive the hold.
//! Another process that can open the gRPC socket can also name this gateway, but does not receive
//! the datagram.
//!
//! A nonce is random, belongs to one hold, and expires after at most [`PROOF_TIMEOUT`]. After a
//! restart of node-router each hold is proved with a new nonce.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use daemon_api::noderoute::v1::HoldRequest;
use futures::{Stream, StreamExt};
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::Status;

use crate::error::HoldRefusal;

/// Maximum duration of a proof, including the wait for a free proof slot.
pub const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between two datagrams with the same nonce. The kernel can drop the first datagram while it
/// resolves the neighbour.
const RESEND: Duration = Duration::from_millis(200);

/// Maximum number of proofs in progress; further holds wait. Each proof repeats its datagram every
/// [`RESEND`], so all proofs together repeat at most 320 datagrams a second.
const MOST_PROOFS: usize = 64;

/// Maximum number of wrong answers to one nonce; at the next wrong answer node-router refuses the
/// hold. An honest holder can send wrong answers, because other processes can send datagrams to its
/// port, and the holder returns the content of every datagram.
const MOST_WRONG_ANSWERS: usize = 16;

/// Length of a nonce in octets.
const NONCE: usize = 32;

/// Sends nonces to gateways and checks the answers. Clones share the sockets and the proof slots.
#[derive(Clone, Debug)]
pub(crate) struct Prover {
    slots: Arc<Semaphore>,
    ipv4: Option<Arc<UdpSocket>>,
    ipv6: Option<Arc<UdpSocket>>,
}

impl Prover {
    /// Opens a UDP socket for each IP version. Succeeds if at least one socket can be opened: on a
    /// node without an IP version no gateway of this version can exist.
    pub(crate) async fn open() -> io::Result<Self> {
        let ipv4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await;
        let ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await;
        let (ipv4, ipv6) = match (ipv4, ipv6) {
            (Err(error), Err(_)) => return Err(error),
            sockets => sockets,
        };
        Ok(Self {
            slots: Arc::new(Semaphore::new(MOST_PROOFS)),
            ipv4: ipv4.ok().map(Arc::new),
            ipv6: ipv6.ok().map(Arc::new),
        })
    }

    /// Sends a nonce to the gateway, and returns when the holder has returned the nonce on its
    /// stream.
    pub(crate) async fn prove(
        &self,
        gateway: IpAddr,
        port: u32,
        answers: &mut (impl Stream<Item = Result<HoldRequest, Status>> + Unpin),
    ) -> Result<(), HoldRefusal> {
        let not_proved = |problem: &str| HoldRefusal::NotProved {
            gateway,
            problem: problem.to_owned(),
        };
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        let Some(port) = port else {
            return Err(not_proved(
                "the request has no valid UDP port in proof_port",
            ));
        };
        let socket = match gateway {
            IpAddr::V4(_) => &self.ipv4,
            IpAddr::V6(_) => &self.ipv6,
        };
        let Some(socket) = socket else {
            return Err(not_proved(
                "this node has no UDP socket of the gateway's IP version",
            ));
        };
        let deadline = Instant::now() + PROOF_TIMEOUT;
        let slot = tokio::time::timeout_at(deadline, Arc::clone(&self.slots).acquire_owned());
        let _slot: OwnedSemaphorePermit = match slot.await {
            Ok(Ok(slot)) => slot,
            // All proof slots were in use until the deadline. The holder did nothing wrong, so the
            // status of this refusal lets the holder retry.
            Ok(Err(_)) | Err(_) => return Err(HoldRefusal::Busy),
        };
        let nonce: [u8; NONCE] = rand::random();
        let exchange = exchange(socket, SocketAddr::new(gateway, port), &nonce, answers);
        match tokio::time::timeout_at(deadline, exchange).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(problem)) => Err(not_proved(problem)),
            // A missing answer says nothing about the state of the route, so the status of this
            // refusal lets the holder retry.
            Err(_) => Err(HoldRefusal::NotAnswered { gateway, port }),
        }
    }
}

async fn exchange(
    socket: &UdpSocket,
    to: SocketAddr,
    nonce: &[u8; NONCE],
    answers: &mut (impl Stream<Item = Result<HoldRequest, Status>> + Unpin),
) -> Result<(), &'static str> {
    let mut resend = tokio::time::interval(RESEND);
    let mut wrong = 0;
    loop {
        tokio::select! {
            // An error is ignored, because the datagram is sent repeatedly and a later one can
            // reach the gateway.
            _ = resend.tick() => { let _ = socket.send_to(nonce, to).await; }
            answer = answers.next() => match answer {
                Some(Ok(answer)) if answer.nonce == nonce => return Ok(()),
                Some(Ok(_)) if wrong < MOST_WRONG_ANSWERS => wrong += 1,
                Some(Ok(_)) => return Err("too many wrong answers to the nonce"),
                Some(Err(_)) | None => {
                    return Err("the stream of requests ended before the nonce arrived");
                }
            }
        }
    }
}
