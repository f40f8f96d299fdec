//! HTTP requests from inside a host.
//!
//! A test sends single requests, or opens many persistent connections and counts the connections
//! that are lost.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};

use crate::host::{Host, block_on};

/// Sends `GET /` to `server` over a new connection and returns the body. A status other than 200 is
/// an error.
pub fn get(host: &Host, server: SocketAddr, within: Duration) -> Result<String> {
    let (status, body) = fetch(host, server, "/", within)?;
    ensure!(status == 200, "GET http://{server}/: {status}: {body}");
    Ok(body)
}

/// Sends `GET path` over a new connection and returns the status and the body. An answer with any
/// status is a success, such as 503 of a daemon's `/readyz`.
pub fn fetch(
    host: &Host,
    server: SocketAddr,
    path: &str,
    within: Duration,
) -> Result<(u16, String)> {
    host.inside_async(async || {
        once(server, path, within)
            .await
            .with_context(|| format!("GET http://{server}{path}"))
    })
}

/// Sends `count` requests, each over a new connection, and counts the answers by their trimmed
/// body, which is the name of the web server.
pub fn spread(
    host: &Host,
    server: SocketAddr,
    count: usize,
    within: Duration,
) -> Result<BTreeMap<String, usize>> {
    host.inside_async(async || {
        let mut answers = BTreeMap::new();
        for number in 1..=count {
            let (_, body) = once(server, "/", within).await.with_context(|| {
                format!(
                    "cannot request {number} of {count} to http://{server}/; so far {answers:?}"
                )
            })?;
            *answers.entry(body.trim().to_owned()).or_default() += 1;
        }
        Ok(answers)
    })
}

/// The settings of a load of persistent connections.
#[derive(Debug, Clone)]
pub struct Load {
    pub server: SocketAddr,
    /// The number of connections that the load keeps open.
    pub connections: usize,
    /// The time between two requests of one connection.
    pub interval: Duration,
    /// The time limit of an attempt to connect, and of an answer. An attempt that takes longer
    /// counts as refused. A connection counts as lost if an answer takes longer.
    pub patience: Duration,
}

/// The results of all requests since the start of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Connections that were established, including the connections at the start of the load.
    pub connected: usize,
    pub answered: usize,
    /// Established connections that the server or the network has reset or closed.
    pub reset: usize,
    /// Established connections over which an answer took longer than `Load::patience`.
    pub timed_out: usize,
    /// Attempts to connect that failed.
    pub refused: usize,
    /// Answers, counted by the name of the web server.
    pub servers: BTreeMap<String, usize>,
    /// Descriptions of the first 20 failures.
    pub failures: Vec<String>,
}

impl RequestCounts {
    /// Returns the number of established connections that were reset, closed or did not answer in
    /// time.
    pub fn lost(&self) -> usize {
        self.reset + self.timed_out
    }
}

/// A load of persistent connections. Until [`PersistentConnections::stop`] the load counts each
/// lost connection and replaces it by a new connection.
#[derive(Debug)]
pub struct PersistentConnections {
    tally: Arc<Mutex<RequestCounts>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl PersistentConnections {
    /// Starts the load. Returns when at least `load.connections` connections have been established
    /// and at least as many answers have arrived.
    pub fn start(host: &Host, load: Load) -> Result<Self> {
        let tally = Arc::new(Mutex::new(RequestCounts::default()));
        let ended = Arc::new(AtomicBool::new(false));
        let (wanted, within) = (load.connections, load.patience * 2);
        let thread = host.spawn_inside({
            let (tally, ended) = (tally.clone(), ended.clone());
            move || block_on(run(load, tally, ended))
        })?;
        let this = Self {
            tally,
            ended,
            thread: Some(thread),
        };
        crate::wait_for("every connection has an answer", within, || {
            let tally = this.tally();
            let holds = tally.answered >= wanted && tally.connected >= wanted;
            crate::ensure_that(holds, format!("{tally:?}"))
        })?;
        Ok(this)
    }

    /// Returns the results of all requests since the start.
    pub fn tally(&self) -> RequestCounts {
        lock(&self.tally).clone()
    }

    /// Waits until `more` answers have arrived after the call.
    pub fn wait_for_answers(&self, more: usize, within: Duration) -> Result<()> {
        let goal = self.tally().answered + more;
        crate::wait_for(&format!("{more} more answers"), within, || {
            let tally = self.tally();
            crate::ensure_that(tally.answered >= goal, format!("{tally:?}"))
        })
    }

    /// Ends the load: each connection finishes its current request, or sends one last request if it
    /// waits for the time of its next request. Then closes all connections and returns the results
    /// of all requests.
    pub fn stop(mut self) -> Result<RequestCounts> {
        self.end()?;
        Ok(self.tally())
    }

    fn end(&mut self) -> Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the load's thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for PersistentConnections {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

async fn run(load: Load, tally: Arc<Mutex<RequestCounts>>, ended: Arc<AtomicBool>) {
    let mut tasks = tokio::task::JoinSet::new();
    let start = tokio::time::Instant::now();
    for number in 0..load.connections {
        let (load, tally, ended) = (load.clone(), tally.clone(), ended.clone());
        // The first requests of the connections are spread over one interval, so that requests do
        // not come in bursts.
        let offset = load
            .interval
            .mul_f64(number as f64 / load.connections as f64);
        tasks.spawn(async move {
            let mut next = start + offset;
            let mut stream = None;
            while !ended.load(Ordering::Relaxed) {
                sleep_until(next).await;
                next = tokio::time::Instant::now().max(next + load.interval);
                send_request(&load, &mut stream, &tally).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Sends one request over `stream`, or over a new connection if `stream` is `None`.
async fn send_request(load: &Load, stream: &mut Option<TcpStream>, tally: &Mutex<RequestCounts>) {
    let mut open = match stream.take() {
        Some(open) => open,
        None => match timeout(load.patience, TcpStream::connect(load.server)).await {
            Ok(Ok(open)) => {
                lock(tally).connected += 1;
                open
            }
            failed => {
                let mut tally = lock(tally);
                tally.refused += 1;
                record_failure(&mut tally, format!("connect: {failed:?}"));
                return;
            }
        },
    };
    let sent = Instant::now();
    let answer = timeout(load.patience, exchange(&mut open, load.server, "/")).await;
    let mut tally = lock(tally);
    match answer {
        Ok(Ok(answer)) => {
            tally.answered += 1;
            *tally
                .servers
                .entry(answer.body.trim().to_owned())
                .or_default() += 1;
            *stream = Some(open);
        }
        Ok(Err(error)) => {
            tally.reset += 1;
            let from = open.local_addr();
            record_failure(
                &mut tally,
                format!("{from:?}: {error} after {:?}", sent.elapsed()),
            );
        }
        Err(_) => {
            tally.timed_out += 1;
            let from = open.local_addr();
            record_failure(
                &mut tally,
                format!("{from:?}: no answer in {:?}", load.patience),
            );
        }
    }
}

fn record_failure(tally: &mut RequestCounts, failure: String) {
    if tally.failures.len() < 20 {
        tally.failures.push(failure);
    }
}

async fn once(server: SocketAddr, path: &str, within: Duration) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        exchange(&mut stream, server, path).await
    };
    let answer = timeout(within, exchange).await??;
    Ok((answer.status, answer.body))
}

/// A complete HTTP response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Whether the response has the header `Connection: close`.
    pub(crate) closes: bool,
}

/// Sends one request over an open connection and returns the response.
pub(crate) async fn exchange(
    stream: &mut TcpStream,
    server: SocketAddr,
    path: &str,
) -> io::Result<HttpResponse> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut received = Vec::new();
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if let Some(answer) = complete_answer(&received)? {
            return Ok(answer);
        }
    }
}

/// Returns the response, or `None` if `received` does not yet contain the whole body according to
/// `Content-Length`.
fn complete_answer(received: &[u8]) -> io::Result<Option<HttpResponse>> {
    let text = String::from_utf8_lossy(received);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    let invalid = || io::Error::new(ErrorKind::InvalidData, head.to_owned());
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    let status = status.ok_or_else(invalid)?;
    let (mut length, mut closes) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let length: usize = length.ok_or_else(invalid)?;
    Ok((body.len() >= length).then(|| HttpResponse {
        status,
        body: body.to_owned(),
        closes,
    }))
}

fn lock(tally: &Mutex<RequestCounts>) -> MutexGuard<'_, RequestCounts> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_response(received: &str, expected: Option<(u16, &str, bool)>) {
        let answer = complete_answer(received.as_bytes()).unwrap();
        let answer = answer
            .as_ref()
            .map(|answer| (answer.status, answer.body.as_str(), answer.closes));
        assert_eq!(answer, expected, "{received:?}");
    }

    #[test]
    fn a_response_is_complete_when_its_body_has_the_announced_length() {
        assert_response("HTTP/1.1 200 OK\r\nContent-Le", None);
        assert_response("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nweb", None);
        assert_response(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nweb-1",
            Some((200, "web-1", false)),
        );
        assert_response(
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            Some((503, "", true)),
        );
    }

    #[test]
    fn a_response_without_a_content_length_is_an_error() {
        let error = complete_answer(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
