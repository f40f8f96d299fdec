//! UDP from inside a host: a server that answers with the host's name, and a
//! question to it.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;

const IDLE: Duration = Duration::from_millis(100);

/// Answers each datagram with the host's name, until dropped.
#[derive(Debug)]
pub struct NameServer {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Binds one address: from a wildcard address an answer to a tunnelled
    /// question would leave with the wrong source.
    pub fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let socket = host.inside(|| {
            let socket = UdpSocket::bind(address).with_context(|| format!("bind {address}"))?;
            socket
                .set_read_timeout(Some(IDLE))
                .context("limit a wait")?;
            Ok(socket)
        })?;
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (ended, name) = (ended.clone(), host.name().to_owned());
            move || {
                let mut question = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = socket.recv_from(&mut question) {
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

/// Sends one datagram from a port of its own and gives the answer; `None` when
/// none comes in time.
pub fn ask(host: &Host, server: SocketAddr, within: Duration) -> Result<Option<String>> {
    host.inside(|| {
        let any = match server {
            SocketAddr::V4(_) => "0.0.0.0:0",
            SocketAddr::V6(_) => "[::]:0",
        };
        let socket = UdpSocket::bind(any).context("bind")?;
        socket
            .connect(server)
            .with_context(|| format!("connect to {server}"))?;
        socket
            .set_read_timeout(Some(within))
            .context("limit a wait")?;
        socket
            .send(b"who")
            .with_context(|| format!("send to {server}"))?;
        let mut answer = [0; 2048];
        match socket.recv(&mut answer) {
            Ok(length) => Ok(Some(
                String::from_utf8_lossy(&answer[..length]).into_owned(),
            )),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("an answer from {server}")),
        }
    })
}
