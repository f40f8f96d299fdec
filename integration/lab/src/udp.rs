//! A UDP server that answers with the name of its host, and clients of this server.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;

/// The interval at which the server checks whether it must end.
const IDLE: Duration = Duration::from_millis(100);

/// A UDP server that answers each datagram with the name of its host. Dropping the value stops the
/// server.
#[derive(Debug)]
pub struct NameServer {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Starts the server on one address. A server on a wildcard address would answer a tunnelled
    /// datagram from the host's own address instead of the service address.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let socket = host.inside(|| {
            let socket =
                UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
            socket
                .set_read_timeout(Some(IDLE))
                .context("cannot set a receive timeout")?;
            Ok(socket)
        })?;
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (ended, name) = (ended.clone(), host.name().to_owned());
            move || {
                let mut datagram = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = socket.recv_from(&mut datagram) {
                        let _ = socket.send_to(name.as_bytes(), from);
                    }
                }
            }
        });
        Ok(Self {
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends one datagram from a free port and returns the answer. Returns `None` if no answer arrives
/// in time.
pub fn ask(host: &Host, server: SocketAddr, within: Duration) -> Result<Option<String>> {
    host.inside(|| answer(&bind_for(server)?, server, within))
}

/// Sends `count` datagrams one after the other and counts the answers by their text. A missing
/// answer counts as an empty text.
///
/// Each datagram is sent from a different source port. With one source port, IPVS would send all
/// datagrams to the real server of the first datagram, without calling the scheduler.
pub fn spread(
    host: &Host,
    server: SocketAddr,
    count: usize,
    within: Duration,
) -> Result<BTreeMap<String, usize>> {
    host.inside(|| {
        let sockets = (0..count)
            .map(|_| bind_for(server))
            .collect::<Result<Vec<_>>>()?;
        let mut answers = BTreeMap::new();
        for socket in &sockets {
            let answer = answer(socket, server, within)?.unwrap_or_default();
            *answers.entry(answer).or_default() += 1;
        }
        Ok(answers)
    })
}

/// A UDP client that sends all its datagrams from one source port.
#[derive(Debug)]
pub struct SteadyClient {
    socket: UdpSocket,
    server: SocketAddr,
}

impl SteadyClient {
    /// Creates a client that sends from a free port of the host to `server`.
    pub fn new(host: &Host, server: SocketAddr) -> Result<Self> {
        let socket = host.inside(|| bind_for(server))?;
        Ok(Self { socket, server })
    }

    /// Sends one datagram and returns the answer. Returns `None` if no answer arrives in time, or
    /// if the host of the server refuses the datagram because the server has ended.
    pub fn ask(&self, within: Duration) -> Result<Option<String>> {
        let is_refused = |error: &anyhow::Error| {
            let cause = error.downcast_ref::<std::io::Error>();
            cause.is_some_and(|cause| cause.kind() == ErrorKind::ConnectionRefused)
        };
        match answer(&self.socket, self.server, within) {
            Err(error) if is_refused(&error) => Ok(None),
            other => other,
        }
    }
}

/// Binds a socket to a free port, for the IP version of `server`.
fn bind_for(server: SocketAddr) -> Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    UdpSocket::bind(any).context("cannot bind a UDP socket")
}

fn answer(socket: &UdpSocket, server: SocketAddr, within: Duration) -> Result<Option<String>> {
    socket
        .connect(server)
        .with_context(|| format!("cannot connect to {server}"))?;
    socket
        .set_read_timeout(Some(within))
        .context("cannot set a receive timeout")?;
    socket
        .send(b"name?")
        .with_context(|| format!("cannot send to {server}"))?;
    let mut answer = [0; 2048];
    match socket.recv(&mut answer) {
        Ok(length) => Ok(Some(
            String::from_utf8_lossy(&answer[..length]).into_owned(),
        )),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot receive an answer from {server}")),
    }
}
