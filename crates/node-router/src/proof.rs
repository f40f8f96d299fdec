//! Proof that a holder owns the gateway that it names.
//!
//! node-router sends a nonce by UDP to a port of the gateway that the holder names. The holder sends
//! the nonce back on its own stream; only then does the table learn of the hold. Another process that
//! reaches the socket can name the gateway, but does not receive what is sent there.
//!
//! A nonce is random, for one hold, and invalid after [`PROOF_TIMEOUT`]; a hold that follows a
//! restart of node-router is proved with another one.

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

use crate::error::Refusal;

/// Longest time for a proof, the wait for a place included.
pub const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between two datagrams to one gateway: the first may be lost while the neighbour is resolved.
const RESEND: Duration = Duration::from_millis(200);

/// Proofs at one time, which bounds the datagrams to gateways that do not answer to 320 a second.
/// Further holds wait.
const MOST_PROOFS: usize = 64;

/// Wrong answers to one nonce: another process may send datagrams to the port of the holder, which
/// passes them on.
const MOST_WRONG_ANSWERS: usize = 16;

/// Octets of a nonce.
const NONCE: usize = 32;

/// Sends nonces; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Prover {
    places: Arc<Semaphore>,
    ipv4: Option<Arc<UdpSocket>>,
    ipv6: Option<Arc<UdpSocket>>,
}

impl Prover {
    /// Opens the sockets. A node without one of the IP versions has none of its gateways.
    pub(crate) async fn open() -> io::Result<Self> {
        let ipv4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await;
        let ipv6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await;
        let (ipv4, ipv6) = match (ipv4, ipv6) {
            (Err(error), Err(_)) => return Err(error),
            sockets => sockets,
        };
        Ok(Self {
            places: Arc::new(Semaphore::new(MOST_PROOFS)),
            ipv4: ipv4.ok().map(Arc::new),
            ipv6: ipv6.ok().map(Arc::new),
        })
    }

    /// Returns when the holder has sent the nonce back.
    pub(crate) async fn prove(
        &self,
        gateway: IpAddr,
        port: u32,
        answers: &mut (impl Stream<Item = Result<HoldRequest, Status>> + Unpin),
    ) -> Result<(), Refusal> {
        let not_proved = |problem: &str| Refusal::NotProved {
            gateway,
            problem: problem.to_owned(),
        };
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        let Some(port) = port else {
            return Err(not_proved("the request names no UDP port in proof_port"));
        };
        let socket = match gateway {
            IpAddr::V4(_) => &self.ipv4,
            IpAddr::V6(_) => &self.ipv6,
        };
        let Some(socket) = socket else {
            return Err(not_proved("this node has no socket of its IP version"));
        };
        let deadline = Instant::now() + PROOF_TIMEOUT;
        let place = tokio::time::timeout_at(deadline, Arc::clone(&self.places).acquire_owned());
        let _place: OwnedSemaphorePermit = match place.await {
            Ok(Ok(place)) => place,
            // It says nothing about the holder, which asks again.
            Ok(Err(_)) | Err(_) => return Err(Refusal::Busy),
        };
        let nonce: [u8; NONCE] = rand::random();
        let exchange = exchange(socket, SocketAddr::new(gateway, port), &nonce, answers);
        match tokio::time::timeout_at(deadline, exchange).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(problem)) => Err(not_proved(problem)),
            // The answer may be late: that says nothing about the route.
            Err(_) => Err(Refusal::NotAnswered { gateway, port }),
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
            // A gateway that cannot be reached now may be reached by the next datagram.
            _ = resend.tick() => { let _ = socket.send_to(nonce, to).await; }
            answer = answers.next() => match answer {
                Some(Ok(answer)) if answer.nonce == nonce => return Ok(()),
                Some(Ok(_)) if wrong < MOST_WRONG_ANSWERS => wrong += 1,
                Some(Ok(_)) => return Err("too many wrong answers"),
                Some(Err(_)) | None => return Err("the stream of requests ended before the nonce"),
            }
        }
    }
}
