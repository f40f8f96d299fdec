//! A load of HTTP requests at a fixed pace.
//!
//! A lost or slow request does not delay requests over other connections. So the load also sends
//! requests while the service is interrupted, and counts their losses.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use crate::host::{Host, block_on};
use crate::http::{HttpResponse, exchange};

/// The interval at which a waiting caller checks whether requests have been answered or lost.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The settings of a load: the server, the rate of requests over new connections, the number of
/// lasting connections and the interval of their requests, and the times after which a request is
/// late or lost.
#[derive(Debug, Clone)]
pub struct Pace {
    pub server: SocketAddr,
    /// The number of requests per second that each use a new connection.
    pub fresh_per_second: u32,
    /// The number of lasting connections. Each lasting connection carries many requests.
    pub lasting: usize,
    /// The time between two requests of one lasting connection.
    pub lasting_interval: Duration,
    /// A request is late if its answer takes longer than this time.
    pub late: Duration,
    /// A request is lost if its answer takes longer than this time.
    pub patience: Duration,
}

/// The kind of connection over which a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionKind {
    /// A new connection, opened for this request.
    Fresh,
    /// A connection that at least one earlier request has used.
    Lasting,
}

#[derive(Debug, Clone)]
struct RequestRecord {
    due: Instant,
    took: Duration,
    connection: ConnectionKind,
    // The first line of the answer's body, or the reason for which the request is lost.
    outcome: Result<Arc<str>, String>,
}

#[derive(Debug, Default)]
struct RequestLog {
    requests: Vec<RequestRecord>,
    // The due times of requests that are neither answered nor lost.
    in_flight: Vec<Instant>,
}

/// A load that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct OpenLoop {
    pace: Pace,
    record: Arc<Mutex<RequestLog>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// The results of the requests that were due in a span of time.
#[derive(Debug, Clone, Default)]
pub struct Count {
    pub requests: usize,
    /// Lost requests over new connections.
    pub fresh_lost: usize,
    /// Lost requests over lasting connections. A lost connection counts as one lost request here,
    /// because the next request opens a new connection and counts as fresh.
    pub lasting_lost: usize,
    /// Answered requests that took longer than [`Pace::late`].
    pub late: usize,
    /// The longest time from the due time of a request to its answer.
    pub slowest: Duration,
    /// Answers, counted by the first line of the body, which is the name of the web server.
    pub servers: BTreeMap<String, usize>,
    /// All lost and late requests: the time from the beginning of the span to the due time of the
    /// request, the kind of connection, and a description.
    pub incidents: Vec<(Duration, ConnectionKind, String)>,
}

impl OpenLoop {
    /// Starts the load. The requests are sent from `host`.
    pub fn start(host: &Host, pace: Pace) -> Result<Self> {
        let record = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let thread = host.spawn_inside({
            let (pace, record) = (pace.clone(), Arc::clone(&record));
            move || block_on(run(pace, record, stopped))
        })?;
        Ok(Self {
            pace,
            record,
            stop,
            thread: Some(thread),
        })
    }

    /// Waits until each request that was due before `until` has been answered or lost. Then counts
    /// the requests that were due between `from` and `until`.
    pub fn count(&self, from: Instant, until: Instant) -> Count {
        let deadline = until.max(Instant::now()) + self.pace.patience + POLL_INTERVAL;
        let has_in_flight = || lock(&self.record).in_flight.iter().any(|due| *due < until);
        std::thread::sleep(until.saturating_duration_since(Instant::now()) + POLL_INTERVAL);
        while has_in_flight() && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
        let mut count = Count::default();
        for request in &lock(&self.record).requests {
            if request.due >= from && request.due < until {
                count.add(request, from, self.pace.late);
            }
        }
        count.incidents.sort();
        count
    }

    /// Counts the requests over new connections that were due between `from` and `until` and have
    /// been answered or lost before the call. Does not wait for other requests.
    pub fn fresh(&self, from: Instant, until: Instant) -> Count {
        let mut count = Count::default();
        for request in &lock(&self.record).requests {
            let is_due = request.due >= from && request.due < until;
            if is_due && request.connection == ConnectionKind::Fresh {
                count.add(request, from, self.pace.late);
            }
        }
        count
    }

    /// Returns the number of answered requests that were due at or after `from`.
    pub fn answered_since(&self, from: Instant) -> usize {
        let record = lock(&self.record);
        let answered = |request: &&RequestRecord| request.due >= from && request.outcome.is_ok();
        record.requests.iter().filter(answered).count()
    }

    /// Waits until the number of answers over lasting connections is at least the number of lasting
    /// connections.
    pub fn wait_until_lasting(&self, within: Duration) -> Result<()> {
        crate::wait_for("the lasting connections are established", within, || {
            std::thread::sleep(POLL_INTERVAL);
            let record = lock(&self.record);
            let lasting =
                |r: &&RequestRecord| r.connection == ConnectionKind::Lasting && r.outcome.is_ok();
            let answered = record.requests.iter().filter(lasting).count();
            crate::ensure_that(answered >= self.pace.lasting, format!("{answered} answers"))
        })
    }

    /// Returns the time of the first answer at or after `from`.
    pub fn first_answer(&self, from: Instant) -> Option<Instant> {
        let record = lock(&self.record);
        let answered = record.requests.iter().filter(|r| r.outcome.is_ok());
        answered
            .map(|request| request.due + request.took)
            .filter(|at| *at >= from)
            .min()
    }

    /// Stops the load. Returns an error if the load's thread has failed.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// Stops the load, and keeps its results for the caller. Returns an error if the load's thread
    /// has failed.
    pub fn end(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the load's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for OpenLoop {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Count {
    /// Returns the number of all lost requests.
    pub fn lost(&self) -> usize {
        self.fresh_lost + self.lasting_lost
    }

    fn add(&mut self, request: &RequestRecord, from: Instant, late: Duration) {
        self.requests += 1;
        let at = request.due - from;
        match &request.outcome {
            Ok(server) => {
                *self.servers.entry(server.to_string()).or_default() += 1;
                self.slowest = self.slowest.max(request.took);
                if request.took > late {
                    self.late += 1;
                    let text = format!("late: {:?} from {server}", request.took);
                    self.incidents.push((at, request.connection, text));
                }
            }
            Err(failure) => {
                match request.connection {
                    ConnectionKind::Fresh => self.fresh_lost += 1,
                    ConnectionKind::Lasting => self.lasting_lost += 1,
                }
                let text = format!("{failure}, after {:?}", request.took);
                self.incidents.push((at, request.connection, text));
            }
        }
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, lost {} fresh + {} lasting, {} late, slowest {} ms",
            self.requests,
            self.fresh_lost,
            self.lasting_lost,
            self.late,
            self.slowest.as_millis()
        )
    }
}

async fn run(pace: Pace, record: Arc<Mutex<RequestLog>>, mut stopped: watch::Receiver<bool>) {
    let mut lasting = tokio::task::JoinSet::new();
    let start = Instant::now();
    for number in 0..pace.lasting {
        let offset = pace
            .lasting_interval
            .mul_f64(number as f64 / pace.lasting as f64);
        lasting.spawn(send_over_lasting_connection(
            pace.clone(),
            start + offset,
            record.clone(),
        ));
    }
    let interval = Duration::from_secs(1)
        .checked_div(pace.fresh_per_second)
        .unwrap_or(Duration::MAX);
    let fresh = async {
        let mut due = start;
        loop {
            sleep_until(due.into()).await;
            let (server, patience, record) = (pace.server, pace.patience, record.clone());
            tokio::spawn(async move {
                lock(&record).in_flight.push(due);
                let outcome = timeout(patience, once(server)).await;
                lock(&record).add(due, ConnectionKind::Fresh, flatten(outcome, patience));
            });
            due += interval;
        }
    };
    tokio::select! {
        () = fresh => {}
        _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
    }
    // At the end of this function `lasting` is dropped, and with it the tasks of the lasting
    // connections end.
}

/// Sends requests over one lasting connection. Opens a new connection after a loss, and after an
/// answer with `Connection: close`. Such an answer does not count as a loss.
async fn send_over_lasting_connection(
    pace: Pace,
    mut due: Instant,
    record: Arc<Mutex<RequestLog>>,
) {
    let mut open = None;
    // The web server at the other end of the connection, and the number of its answers over this
    // connection. The text of a failure contains both values.
    let mut server: (Arc<str>, usize) = ("no server".into(), 0);
    loop {
        sleep_until(due.into()).await;
        lock(&record).in_flight.push(due);
        let connection = match open {
            Some(_) => ConnectionKind::Lasting,
            None => ConnectionKind::Fresh,
        };
        let outcome = timeout(pace.patience, async {
            let mut stream = match open.take() {
                Some(stream) => stream,
                None => TcpStream::connect(pace.server).await?,
            };
            let answer = exchange(&mut stream, pace.server, "/").await?;
            open = (!answer.closes).then_some(stream);
            Ok(answer)
        });
        let outcome = flatten(outcome.await, pace.patience);
        let outcome = outcome.map_err(|failure| {
            let (name, answers) = &server;
            format!("{failure}, after {answers} answers from {name}")
        });
        server = match (&outcome, &open) {
            (Ok(name), Some(_)) => (name.clone(), server.1 + 1),
            (Ok(_) | Err(_), _) => ("no server".into(), 0),
        };
        lock(&record).add(due, connection, outcome);
        // An answer that takes longer than the interval delays the next request. Requests whose due
        // time has passed in the meantime are not sent.
        due = Instant::now().max(due + pace.lasting_interval);
    }
}

async fn once(server: SocketAddr) -> io::Result<HttpResponse> {
    let mut stream = TcpStream::connect(server).await?;
    exchange(&mut stream, server, "/").await
}

fn flatten(
    outcome: Result<io::Result<HttpResponse>, tokio::time::error::Elapsed>,
    patience: Duration,
) -> Result<Arc<str>, String> {
    match outcome {
        Ok(Ok(answer)) if answer.status == 200 => {
            Ok(answer.body.lines().next().unwrap_or_default().into())
        }
        Ok(Ok(answer)) => Err(format!("status {}", answer.status)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {patience:?}")),
    }
}

impl RequestLog {
    fn add(&mut self, due: Instant, connection: ConnectionKind, outcome: Result<Arc<str>, String>) {
        let index = self.in_flight.iter().position(|other| *other == due);
        self.in_flight
            .swap_remove(index.expect("a request is in flight until it is recorded"));
        self.requests.push(RequestRecord {
            due,
            took: due.elapsed(),
            connection,
            outcome,
        });
    }
}

fn lock(record: &Mutex<RequestLog>) -> MutexGuard<'_, RequestLog> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Runs a load for half a second and returns its results. The test server answers the first
    /// request of a connection if `answers` returns true for the number of the connection. It reads
    /// no request of other connections.
    fn run_load(answers: fn(usize) -> bool) -> Count {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut open = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                if answers(number) {
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nme");
                }
                open.push(stream);
            }
        });
        let pace = Pace {
            server,
            fresh_per_second: 50,
            lasting: 0,
            lasting_interval: Duration::from_secs(1),
            late: Duration::from_secs(1),
            patience: Duration::from_secs(2),
        };
        let record = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let thread = thread::spawn({
            let (pace, record) = (pace.clone(), Arc::clone(&record));
            move || block_on(run(pace, record, stopped))
        });
        let load = OpenLoop {
            pace,
            record,
            stop,
            thread: Some(thread),
        };
        let from = Instant::now();
        let count = load.count(from, from + Duration::from_millis(500));
        load.stop().unwrap();
        count
    }

    #[test]
    fn lost_requests_are_counted_and_do_not_delay_other_requests() {
        let count = run_load(|number| number % 5 != 0);
        assert!((20..=26).contains(&count.requests), "{count}");
        assert!((4..=6).contains(&count.fresh_lost), "{count}");
        assert_eq!(count.incidents.len(), count.lost() + count.late);
        assert_eq!(count.servers["me"], count.requests - count.lost());
    }

    #[test]
    fn no_request_is_lost_if_the_server_answers_every_request() {
        let count = run_load(|_| true);
        assert_eq!(count.lost(), 0, "{count}");
    }
}
