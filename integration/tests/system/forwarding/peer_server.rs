//! A TCP server that answers with its client's address, and requests to this server.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lab::Host;

/// A server that writes the client's address into each connection and then closes the connection.
#[derive(Debug)]
pub(super) struct PeerServer {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PeerServer {
    pub(super) fn start(host: &Host, address: SocketAddr) -> Result<Self> {
        let listener = host.inside(|| {
            let listener =
                TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
            listener
                .set_nonblocking(true)
                .context("cannot make the listening socket non-blocking")?;
            Ok(listener)
        })?;
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let ended = ended.clone();
            move || {
                while !ended.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((mut stream, from)) => {
                            let _ =
                                stream.write_all(from.ip().to_canonical().to_string().as_bytes());
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(2)),
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

impl Drop for PeerServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects to a server, sends nothing, and returns the answer.
pub(super) fn ask(host: &Host, server: SocketAddr, within: Duration) -> Result<String> {
    host.inside(|| {
        let mut stream = TcpStream::connect_timeout(&server, within)?;
        stream.set_read_timeout(Some(within))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// Returns the kind of the I/O error of [`ask`], such as refused or timed out, or `None` if `ask`
/// has no I/O error.
pub(super) fn failure(host: &Host, server: SocketAddr, within: Duration) -> Option<ErrorKind> {
    let error = ask(host, server, within).err()?;
    error.downcast_ref().map(std::io::Error::kind)
}
