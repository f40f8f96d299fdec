//! A TCP proxy that fails on command, to stand between a client and the API
//! server.

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

const PIECE: usize = 16 * 1024;
/// Pieces under way in one direction of one connection.
const UNDER_WAY: usize = 64;
/// How often a slow connection gets its share.
const TICK: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(10);

/// Listens on a port of its own at the target's address, so that the target's
/// certificate is good there too, and passes everything on at first. Each
/// method changes what happens from then on, also to connections that are open,
/// and returns when that has come true. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    control: watch::Sender<Control>,
    shared: Arc<Shared>,
    // Only an Option so that `drop` can take it.
    runtime: Option<Runtime>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Conduct {
    Pass,
    Refuse,
    Hang,
    Slow { bytes_per_second: u32 },
    Delay(Duration),
}

#[derive(Debug, Clone, Copy)]
struct Control {
    conduct: Conduct,
    // Connections that are older than the last cut are reset.
    cuts: usize,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    is_listening: bool,
    // Those that the listener has taken over: what it accepts from then on is not theirs.
    cuts: usize,
    accepted: usize,
    // By the number of cuts when they were accepted.
    open: BTreeMap<usize, usize>,
}

impl FaultProxy {
    /// Starts one in the calling thread's network namespace.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind((target.ip(), 0)).context("bind")?;
        listener.set_nonblocking(true).context("make it async")?;
        let address = listener.local_addr().context("ask for the port")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("make a runtime")?;
        let (control, controlled) = watch::channel(Control {
            conduct: Conduct::Pass,
            cuts: 0,
        });
        let shared = Arc::<Shared>::default();
        shared.lock().is_listening = true;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).context("take the socket over")?
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

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything passes, at once.
    pub fn pass(&self) -> Result<()> {
        self.set(Conduct::Pass)
    }

    /// As if no process were there: open connections are reset, new ones refused.
    pub fn refuse(&self) -> Result<()> {
        self.set(Conduct::Refuse)?;
        self.cut()
    }

    /// As if the target stood still: connections stay open and new ones are
    /// accepted, but nothing more is answered. What was sent meanwhile arrives
    /// when it passes again.
    pub fn hang(&self) -> Result<()> {
        self.set(Conduct::Hang)
    }

    /// Resets the connections that are open now; nothing else changes.
    pub fn cut(&self) -> Result<()> {
        let mut cuts = 0;
        self.control.send_modify(|control| {
            control.cuts += 1;
            cuts = control.cuts;
        });
        self.shared.wait_for("they are reset", SOON, |counts| {
            counts.cuts >= cuts && counts.open.range(..cuts).next().is_none()
        })
    }

    /// Each connection gets so much a second in each direction.
    pub fn slow(&self, bytes_per_second: u32) -> Result<()> {
        self.set(Conduct::Slow { bytes_per_second })
    }

    /// Everything arrives so much later, in each direction.
    pub fn delay(&self, by: Duration) -> Result<()> {
        self.set(Conduct::Delay(by))
    }

    /// How many connections have been accepted since the start.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.lock().open.values().sum()
    }

    /// Waits until `count` connections have been accepted since the start.
    pub fn wait_for_accepted(&self, count: usize, within: Duration) -> Result<()> {
        let what = format!("{count} connections are accepted");
        self.shared
            .wait_for(&what, within, |counts| counts.accepted >= count)
    }

    fn set(&self, conduct: Conduct) -> Result<()> {
        self.control
            .send_modify(|control| control.conduct = conduct);
        let listens = conduct != Conduct::Refuse;
        self.shared
            .wait_for("the listener follows", SOON, |counts| {
                counts.is_listening == listens
            })
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // Dropping the runtime itself would panic inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait_for(
        &self,
        what: &str,
        within: Duration,
        holds: impl Fn(&Counts) -> bool,
    ) -> Result<()> {
        let (counts, timeout) = self
            .changed
            .wait_timeout_while(self.lock(), within, |counts| !holds(counts))
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            bail!("not within {within:?}: {what}; last seen: {counts:?}");
        }
        Ok(())
    }
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut control: watch::Receiver<Control>,
    shared: Arc<Shared>,
) {
    let mut listening = Some(listener);
    loop {
        let Control { conduct, cuts } = *control.borrow_and_update();
        if conduct == Conduct::Refuse {
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

impl Counts {
    fn close(&mut self, cuts: usize) {
        if let Some(open) = self.open.get_mut(&cuts) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&cuts);
            }
        }
    }
}

/// One connection, until both sides have ended it or a cut resets it.
async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    cuts: usize,
    mut control: watch::Receiver<Control>,
) {
    let mut watched = control.clone();
    let is_cut = watched.wait_for(|control| control.cuts > cuts);
    let mut server = None;
    let carried = async {
        flowing(&mut control).await?;
        let server = server.insert(TcpStream::connect(target).await?);
        // Small pieces wait for no others; the peers have decided that already.
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
            // Fails only where the peer has reset it already.
            let _ = stream.set_zero_linger();
        }
    }
}

/// One direction of a connection, to its end and with it.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut control: watch::Receiver<Control>,
) -> io::Result<()> {
    let (queue, mut pieces) = mpsc::channel(UNDER_WAY);
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE];
            let length = from.read(&mut piece).await?;
            piece.truncate(length);
            if length == 0 || queue.send((Instant::now(), piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((read_at, piece)) = pieces.recv().await {
            deliver(&mut to, read_at, &piece, &mut control).await?;
        }
        flowing(&mut control).await?;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

async fn deliver(
    to: &mut (impl AsyncWrite + Unpin),
    read_at: Instant,
    mut piece: &[u8],
    control: &mut watch::Receiver<Control>,
) -> io::Result<()> {
    while !piece.is_empty() {
        let share = match flowing(control).await? {
            Conduct::Pass | Conduct::Refuse | Conduct::Hang => piece.len(),
            Conduct::Slow { bytes_per_second } => {
                sleep(TICK).await;
                let share = f64::from(bytes_per_second) * TICK.as_secs_f64();
                piece.len().min(share.ceil() as usize)
            }
            Conduct::Delay(by) => {
                tokio::select! {
                    () = sleep_until(read_at + by) => {}
                    // Perhaps it need not wait any longer.
                    _ = control.changed() => continue,
                }
                piece.len()
            }
        };
        let (now, later) = piece.split_at(share);
        to.write_all(now).await?;
        piece = later;
    }
    Ok(())
}

/// Waits until something may flow, and says how.
async fn flowing(control: &mut watch::Receiver<Control>) -> io::Result<Conduct> {
    let flows = |control: &Control| match control.conduct {
        Conduct::Hang | Conduct::Refuse => false,
        Conduct::Pass | Conduct::Slow { .. } | Conduct::Delay(_) => true,
    };
    match control.wait_for(flows).await {
        Ok(control) => Ok(control.conduct),
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

    /// Sends back what it gets, until its program ends.
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
    fn what_passes_is_unchanged_to_the_end_of_both_directions() {
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
    fn a_refusal_resets_what_is_open_and_ends_with_the_next_pass() {
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
    fn what_was_sent_while_it_hung_arrives_afterwards() {
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
    fn a_cut_resets_what_is_open_and_accepts_what_comes_then() {
        let proxy = FaultProxy::start(echo()).unwrap();
        let mut old = connect(&proxy);
        assert_eq!(ask(&mut old, "one").unwrap(), "one");
        proxy.cut().unwrap();
        let error = ask(&mut old, "two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(ask(&mut connect(&proxy), "three").unwrap(), "three");
    }

    #[test]
    fn slow_and_delayed_answers_take_their_time() {
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
