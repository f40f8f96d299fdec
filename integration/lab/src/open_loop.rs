//! Load whose pace does not depend on the answers: a request that is lost or
//! slow holds no other one back, so each of them is seen and counted.

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
use crate::http::{Answer, exchange};

/// How often a count looks whether everything has come to its end.
const SETTLING: Duration = Duration::from_millis(50);

/// What is asked, and how often.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The server's address.
    pub server: SocketAddr,
    /// Requests a second, each over a connection of its own.
    pub fresh_per_second: u32,
    /// Connections that last.
    pub lasting: usize,
    /// Between two requests of one lasting connection.
    pub lasting_interval: Duration,
    /// An answer that takes longer is late.
    pub late: Duration,
    /// An answer that takes longer is lost.
    pub patience: Duration,
}

/// How a request travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Connection {
    /// One that was made for it.
    Fresh,
    /// One that had been there before.
    Lasting,
}

#[derive(Debug, Clone)]
struct Request {
    due: Instant,
    took: Duration,
    connection: Connection,
    // The first line of the answer, or what went wrong.
    outcome: Result<Arc<str>, String>,
}

#[derive(Debug, Default)]
struct Record {
    requests: Vec<Request>,
    // When those were due that are neither answered nor given up.
    in_flight: Vec<Instant>,
}

/// Load that goes on until it is stopped or dropped.
#[derive(Debug)]
pub struct OpenLoop {
    pace: Pace,
    record: Arc<Mutex<Record>>,
    ending: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What became of the requests that were due within a span of time.
#[derive(Debug, Clone, Default)]
pub struct Count {
    /// All of them.
    pub requests: usize,
    /// Not answered, over a connection that was made for it.
    pub fresh_lost: usize,
    /// Not answered, over a connection that should have lasted, each of which is lost once.
    pub lasting_lost: usize,
    /// Answered, but late.
    pub late: usize,
    /// The slowest answer.
    pub slowest: Duration,
    /// Answers by the first line of the body.
    pub servers: BTreeMap<String, usize>,
    /// Each lost or late request: when, after the beginning, and what happened.
    pub incidents: Vec<(Duration, Connection, String)>,
}

impl OpenLoop {
    /// Starts the load from a host.
    pub fn start(host: &Host, pace: Pace) -> Result<Self> {
        let record = Arc::default();
        let (ending, ends) = watch::channel(false);
        let thread = host.spawn_inside({
            let (pace, record) = (pace.clone(), Arc::clone(&record));
            move || block_on(run(pace, record, ends))
        })?;
        Ok(Self {
            pace,
            record,
            ending,
            thread: Some(thread),
        })
    }

    /// Waits until every request that was due until `until` has been answered
    /// or given up, then counts those due from `from` on.
    pub fn count(&self, from: Instant, until: Instant) -> Count {
        let give_up = until.max(Instant::now()) + self.pace.patience + SETTLING;
        let is_under_way = || lock(&self.record).in_flight.iter().any(|due| *due < until);
        std::thread::sleep(until.saturating_duration_since(Instant::now()) + SETTLING);
        while is_under_way() && Instant::now() < give_up {
            std::thread::sleep(SETTLING);
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

    /// The requests over connections of their own that have been answered or
    /// given up so far, of those due from `from` until `until`.
    pub fn fresh(&self, from: Instant, until: Instant) -> Count {
        let mut count = Count::default();
        for request in &lock(&self.record).requests {
            let is_due = request.due >= from && request.due < until;
            if is_due && request.connection == Connection::Fresh {
                count.add(request, from, self.pace.late);
            }
        }
        count
    }

    /// How many requests have been answered since `from`.
    pub fn answered_since(&self, from: Instant) -> usize {
        let record = lock(&self.record);
        let answered = |request: &&Request| request.due >= from && request.outcome.is_ok();
        record.requests.iter().filter(answered).count()
    }

    /// Waits until each lasting connection has had an answer.
    pub fn wait_until_lasting(&self, within: Duration) -> Result<()> {
        crate::wait_for("the lasting connections are there", within, || {
            std::thread::sleep(SETTLING);
            let record = lock(&self.record);
            let lasting = |r: &&Request| r.connection == Connection::Lasting && r.outcome.is_ok();
            let answered = record.requests.iter().filter(lasting).count();
            crate::ensure_that(answered >= self.pace.lasting, format!("{answered} answers"))
        })
    }

    /// When the first request after `from` was answered.
    pub fn first_answer(&self, from: Instant) -> Option<Instant> {
        let record = lock(&self.record);
        let answered = record.requests.iter().filter(|r| r.outcome.is_ok());
        answered
            .map(|request| request.due + request.took)
            .filter(|at| *at >= from)
            .min()
    }

    /// Ends the load.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// Stops the load and keeps its record. Returns the error of the load's thread.
    pub fn end(&mut self) -> Result<()> {
        self.ending.send_replace(true);
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
    /// All that got no answer.
    pub fn lost(&self) -> usize {
        self.fresh_lost + self.lasting_lost
    }

    fn add(&mut self, request: &Request, from: Instant, late: Duration) {
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
                    Connection::Fresh => self.fresh_lost += 1,
                    Connection::Lasting => self.lasting_lost += 1,
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

async fn run(pace: Pace, record: Arc<Mutex<Record>>, mut ends: watch::Receiver<bool>) {
    let mut lasting = tokio::task::JoinSet::new();
    let start = Instant::now();
    for number in 0..pace.lasting {
        let offset = pace
            .lasting_interval
            .mul_f64(number as f64 / pace.lasting as f64);
        lasting.spawn(last(pace.clone(), start + offset, record.clone()));
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
                lock(&record).add(due, Connection::Fresh, flat(outcome, patience));
            });
            due += interval;
        }
    };
    tokio::select! {
        () = fresh => {}
        _ = ends.wait_for(|ended| *ended) => {}
    }
    // Dropping the set ends the lasting connections.
}

/// One lasting connection; it is made anew when it is lost, and quietly when
/// the server asks for that.
async fn last(pace: Pace, mut due: Instant, record: Arc<Mutex<Record>>) {
    let mut open = None;
    // Who answered it, and how often.
    let mut server: (Arc<str>, usize) = ("nobody".into(), 0);
    loop {
        sleep_until(due.into()).await;
        lock(&record).in_flight.push(due);
        let connection = match open {
            Some(_) => Connection::Lasting,
            None => Connection::Fresh,
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
        let outcome = flat(outcome.await, pace.patience);
        let outcome = outcome.map_err(|failure| {
            let (name, answers) = &server;
            format!("{failure}, after {answers} answers of {name}")
        });
        server = match (&outcome, &open) {
            (Ok(name), Some(_)) => (name.clone(), server.1 + 1),
            (Ok(_) | Err(_), _) => ("nobody".into(), 0),
        };
        lock(&record).add(due, connection, outcome);
        // It cannot ask twice at once, so it does not make up for lost time.
        due = Instant::now().max(due + pace.lasting_interval);
    }
}

async fn once(server: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    exchange(&mut stream, server, "/").await
}

fn flat(
    outcome: Result<io::Result<Answer>, tokio::time::error::Elapsed>,
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

impl Record {
    fn add(&mut self, due: Instant, connection: Connection, outcome: Result<Arc<str>, String>) {
        let place = self.in_flight.iter().position(|other| *other == due);
        self.in_flight
            .swap_remove(place.expect("a request is under way before it ends"));
        self.requests.push(Request {
            due,
            took: due.elapsed(),
            connection,
            outcome,
        });
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Every request of half a second against a server that answers those whose
    /// number `answers` names, and leaves the others open.
    fn load(answers: fn(usize) -> bool) -> Count {
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
        let (ending, ends) = watch::channel(false);
        let thread = thread::spawn({
            let (pace, record) = (pace.clone(), Arc::clone(&record));
            move || block_on(run(pace, record, ends))
        });
        let load = OpenLoop {
            pace,
            record,
            ending,
            thread: Some(thread),
        };
        let from = Instant::now();
        let count = load.count(from, from + Duration::from_millis(500));
        load.stop().unwrap();
        count
    }

    #[test]
    fn lost_requests_are_counted_and_hold_no_other_one_back() {
        let count = load(|number| number % 5 != 0);
        assert!((20..=26).contains(&count.requests), "{count}");
        assert!((4..=6).contains(&count.fresh_lost), "{count}");
        assert_eq!(count.incidents.len(), count.lost() + count.late);
        assert_eq!(count.servers["me"], count.requests - count.lost());
    }

    #[test]
    fn nothing_is_lost_where_every_request_is_answered() {
        let count = load(|_| true);
        assert_eq!(count.lost(), 0, "{count}");
    }
}
