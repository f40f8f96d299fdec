//! A TCP proxy that simulates network faults between a client and the API server.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// The largest number of bytes of one read from a connection.
const CHUNK: usize = 16 * 1024;
/// The largest number of queued chunks in one direction of one connection.
const QUEUED_CHUNKS: usize = 64;
/// The interval between two writes to a connection in the mode `Slow`.
const TICK: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(10);

/// A TCP proxy whose behaviour a test can change at any time.
///
/// The proxy listens at the target's address on another port, so that the target's certificate is
/// valid for the proxy, too. After its start the proxy forwards all data. Each method that changes
/// the behaviour also affects open connections. The methods `refuse` and `cut` return when the open
/// connections are reset. Dropping the value closes all connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    control: watch::Sender<ProxyState>,
    shared: Arc<Shared>,
    // With an Option, `drop` can take the runtime out of the value.
    runtime: Option<Runtime>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum TrafficMode {
    Pass,
    Refuse,
    Hang,
    Slow { bytes_per_second: u32 },
    Delay(Duration),
}

#[derive(Debug, Clone, Copy)]
struct ProxyState {
    mode: TrafficMode,
    // The number of calls of `cut`. A connection is reset if `cut` is called after the proxy has
    // accepted the connection.
    cuts: usize,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<ConnectionCounts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    is_listening: bool,
    // The number of cuts that the listener has seen. These cuts do not reset connections that it
    // accepts after this number has changed.
    cuts: usize,
    accepted: usize,
    // The number of open connections, by the number of cuts at the time when each was accepted.
    open: BTreeMap<usize, usize>,
}

impl FaultProxy {
    /// Starts a proxy in the calling thread's network namespace.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind((target.ip(), 0))
            .context("cannot open the listening socket")?;
        listener
            .set_nonblocking(true)
            .context("cannot make the listening socket non-blocking")?;
        let address = listener
            .local_addr()
            .context("cannot read the port of the listening socket")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot create a runtime")?;
        let (control, controlled) = watch::channel(ProxyState {
            mode: TrafficMode::Pass,
            cuts: 0,
        });
        let shared = Arc::<Shared>::default();
        shared.lock().is_listening = true;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).context("cannot register the listening socket")?
        };
        runtime.spawn(accept(
            listener,
            address,
            target,
            controlled,
            shared.clone(),
        ));
        Ok(Self {
            address,
            control,
            shared,
            runtime: Some(runtime),
        })
    }

    /// Returns the address to which clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards all data without a delay. Ends the mode that another method has set.
    pub fn pass(&self) -> Result<()> {
        self.set(TrafficMode::Pass)
    }

    /// Resets all open connections and refuses new connections, as if no process listened.
    pub fn refuse(&self) -> Result<()> {
        self.set(TrafficMode::Refuse)?;
        self.cut()
    }

    /// Forwards no data, as if the target had stopped. Connections stay open and new connections
    /// are accepted. The proxy keeps the data that arrives, and forwards it after
    /// [`pass`](Self::pass).
    pub fn hang(&self) -> Result<()> {
        self.set(TrafficMode::Hang)
    }

    /// Resets all open connections. New connections are accepted as before.
    pub fn cut(&self) -> Result<()> {
        let mut cuts = 0;
        self.control.send_modify(|control| {
            control.cuts += 1;
            cuts = control.cuts;
        });
        self.shared
            .wait_for("all connections before the cut are reset", SOON, |counts| {
                counts.cuts >= cuts && counts.open.range(..cuts).next().is_none()
            })
    }

    /// Limits the rate of each connection to `bytes_per_second` in each direction.
    pub fn slow(&self, bytes_per_second: u32) -> Result<()> {
        self.set(TrafficMode::Slow { bytes_per_second })
    }

    /// Delays all data by `delay`, in each direction.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        self.set(TrafficMode::Delay(delay))
    }

    /// Returns the number of connections that the proxy has accepted since its start.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.shared.lock().open.values().sum()
    }

    /// Waits until `count` connections have been accepted since the start of the proxy.
    pub fn wait_for_accepted(&self, count: usize, within: Duration) -> Result<()> {
        let what = format!("the proxy has accepted {count} connections");
        self.shared
            .wait_for(&what, within, |counts| counts.accepted >= count)
    }

    fn set(&self, mode: TrafficMode) -> Result<()> {
        self.control.send_modify(|control| control.mode = mode);
        let listens = mode != TrafficMode::Refuse;
        self.shared
            .wait_for("the listening socket is opened or closed", SOON, |counts| {
                counts.is_listening == listens
            })
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // Inside another runtime, an ordinary drop of a runtime panics.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ConnectionCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut ConnectionCounts)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait_for(
        &self,
        what: &str,
        within: Duration,
        holds: impl Fn(&ConnectionCounts) -> bool,
    ) -> Result<()> {
        let (counts, timeout) = self
            .changed
            .wait_timeout_while(self.lock(), within, |counts| !holds(counts))
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            bail!("timed out after {within:?}, waiting for: {what}; last seen: {counts:?}");
        }
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut control: watch::Receiver<ProxyState>,
    shared: Arc<Shared>,
) {
    let mut listening = Some(listener);
    loop {
        let ProxyState { mode, cuts } = *control.borrow_and_update();
        if mode == TrafficMode::Refuse {
            listening = None;
        } else if listening.is_none() {
            listening = TcpListener::bind(address).await.ok();
        }
        shared.change(|counts| {
            counts.is_listening = listening.is_some();
            counts.cuts = cuts;
        });
        let accepted = async {
            match &listening {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = control.changed() => if changed.is_err() {
                return;
            },
            Ok((client, _)) = accepted => {
                shared.change(|counts| {
                    counts.accepted += 1;
                    *counts.open.entry(cuts).or_default() += 1;
                });
                let (control, shared) = (control.clone(), shared.clone());
                tokio::spawn(async move {
                    serve(client, target, cuts, control).await;
                    shared.change(|counts| counts.close(cuts));
                });
            }
        }
    }
}

impl ConnectionCounts {
    fn close(&mut self, cuts: usize) {
        if let Some(open) = self.open.get_mut(&cuts) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&cuts);
            }
        }
    }
}

/// Forwards one connection until both sides have closed it or `cut` resets it.
async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    cuts: usize,
    mut control: watch::Receiver<ProxyState>,
) {
    let mut watched = control.clone();
    let is_cut = watched.wait_for(|control| control.cuts > cuts);
    let mut server = None;
    let carried = async {
        wait_until_flowing(&mut control).await?;
        let server = server.insert(TcpStream::connect(target).await?);
        // Turns Nagle's algorithm off, so that the proxy adds no delay to small messages.
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::try_join!(
            carry(from_client, to_server, control.clone()),
            carry(from_server, to_client, control.clone()),
        )
    };
    let has_failed = tokio::select! {
        carried = carried => carried.is_err(),
        _ = is_cut => true,
    };
    if has_failed {
        for stream in [Some(&client), server.as_ref()].into_iter().flatten() {
            // An error is ignored: it means that the peer has reset the connection.
            let _ = stream.set_zero_linger();
        }
    }
}

/// Forwards the data of one direction of a connection, and closes this direction after the last
/// data.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut control: watch::Receiver<ProxyState>,
) -> io::Result<()> {
    let (queue, mut chunks) = mpsc::channel(QUEUED_CHUNKS);
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            let length = from.read(&mut chunk).await?;
            chunk.truncate(length);
            if length == 0 || queue.send((Instant::now(), chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((read_at, chunk)) = chunks.recv().await {
            deliver(&mut to, read_at, &chunk, &mut control).await?;
        }
        wait_until_flowing(&mut control).await?;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

async fn deliver(
    to: &mut (impl AsyncWrite + Unpin),
    read_at: Instant,
    mut chunk: &[u8],
    control: &mut watch::Receiver<ProxyState>,
) -> io::Result<()> {
    while !chunk.is_empty() {
        let share = match wait_until_flowing(control).await? {
            TrafficMode::Pass | TrafficMode::Refuse | TrafficMode::Hang => chunk.len(),
            TrafficMode::Slow { bytes_per_second } => {
                sleep(TICK).await;
                let share = f64::from(bytes_per_second) * TICK.as_secs_f64();
                chunk.len().min(share.ceil() as usize)
            }
            TrafficMode::Delay(delay) => {
                tokio::select! {
                    () = sleep_until(read_at + delay) => {}
                    // The loop computes the wait of this chunk with the new mode.
                    _ = control.changed() => continue,
                }
                chunk.len()
            }
        };
        let (now, later) = chunk.split_at(share);
        to.write_all(now).await?;
        chunk = later;
    }
    Ok(())
}

/// Waits while data must not be forwarded, and returns the mode in which it is forwarded.
async fn wait_until_flowing(control: &mut watch::Receiver<ProxyState>) -> io::Result<TrafficMode> {
    let flows = |control: &ProxyState| match control.mode {
        TrafficMode::Hang | TrafficMode::Refuse => false,
        TrafficMode::Pass | TrafficMode::Slow { .. } | TrafficMode::Delay(_) => true,
    };
    match control.wait_for(flows).await {
        Ok(control) => Ok(control.mode),
        Err(_) => Err(io::ErrorKind::Interrupted.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    /// Starts a server that sends all received data back, and returns its address. The server ends
    /// with the test program.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        address
    }

    fn connect(proxy: &FaultProxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }

    fn ask(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[test]
    fn pass_forwards_data_and_the_end_of_both_directions_unchanged() {
        let proxy = FaultProxy::start(echo()).unwrap();
        let mut stream = connect(&proxy);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut writing = stream.try_clone().unwrap();
        let writer = thread::spawn({
            let sent = sent.clone();
            move || {
                writing.write_all(&sent).unwrap();
                writing.shutdown(std::net::Shutdown::Write).unwrap();
            }
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writer.join().unwrap();
        assert!(received == sent);
        assert_eq!(proxy.accepted(), 1);
    }

    #[test]
    fn refuse_resets_open_connections_and_refuses_new_ones_until_pass() {
        let proxy = FaultProxy::start(echo()).unwrap();
        let mut stream = connect(&proxy);
        assert_eq!(ask(&mut stream, "one").unwrap(), "one");
        proxy.refuse().unwrap();
        assert_eq!(proxy.open(), 0);
        let error = ask(&mut stream, "two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = TcpStream::connect(proxy.address()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        proxy.pass().unwrap();
        assert_eq!(ask(&mut connect(&proxy), "three").unwrap(), "three");
    }

    #[test]
    fn data_that_is_sent_during_hang_arrives_after_pass() {
        let proxy = FaultProxy::start(echo()).unwrap();
        let mut old = connect(&proxy);
        assert_eq!(ask(&mut old, "one").unwrap(), "one");
        proxy.hang().unwrap();
        let mut new = connect(&proxy);
        proxy.wait_for_accepted(2, SOON).unwrap();
        for stream in [&mut old, &mut new] {
            stream.set_read_timeout(Some(SHORT)).unwrap();
            stream.write_all(b"two").unwrap();
            let error = stream.read(&mut [0; 3]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        proxy.pass().unwrap();
        for stream in [&mut old, &mut new] {
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"two");
        }
    }

    #[test]
    fn cut_resets_open_connections_and_new_connections_are_accepted() {
        let proxy = FaultProxy::start(echo()).unwrap();
        let mut old = connect(&proxy);
        assert_eq!(ask(&mut old, "one").unwrap(), "one");
        proxy.cut().unwrap();
        let error = ask(&mut old, "two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(ask(&mut connect(&proxy), "three").unwrap(), "three");
    }

    #[test]
    fn delay_and_slow_make_answers_arrive_later() {
        let proxy = FaultProxy::start(echo()).unwrap();
        let mut stream = connect(&proxy);
        proxy.delay(SHORT).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(ask(&mut stream, "one").unwrap(), "one");
        assert!(began.elapsed() >= 2 * SHORT, "{:?}", began.elapsed());

        proxy.slow(1000).unwrap();
        let began = std::time::Instant::now();
        let text = "a".repeat(300);
        assert_eq!(ask(&mut stream, &text).unwrap(), text);
        assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
    }
}
