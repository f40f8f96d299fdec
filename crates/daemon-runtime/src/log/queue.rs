//! A bounded queue of log lines and the thread that writes them.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::Counter;

/// Largest size of the queued lines in octets.
const CAPACITY: usize = 1024 * 1024;

/// Additional octets for lines of level ERROR, so that the reason why the process exits is not
/// dropped.
const RESERVE: usize = 64 * 1024;

/// Pause before the next attempt to write to a full pipe. Needed only if another process has made
/// the descriptor non-blocking; otherwise the write itself waits.
const WRITE_PAUSE: Duration = Duration::from_millis(10);

/// A queue of log lines that a thread writes to a descriptor.
///
/// Adding a line never blocks. If the queue is full, the line is dropped and counted.
#[derive(Clone, Debug)]
pub(crate) struct LogQueue {
    shared: Arc<Shared>,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    octets: usize,
    is_writing: bool,
    /// Number of lines that were dropped since the last report.
    unreported: u64,
}

impl LogQueue {
    /// Starts the thread that writes. The thread calls `report` with the number of dropped lines
    /// when it can write again.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(output: File, report: fn(u64)) -> io::Result<Self> {
        let lines = Self {
            shared: Arc::default(),
            dropped: Counter::default(),
        };
        let writer = lines.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_all(output, report))?;
        Ok(lines)
    }

    /// Returns the counter of the dropped lines.
    pub(crate) fn dropped(&self) -> &Counter {
        &self.dropped
    }

    /// Adds a line to the queue. `line` includes the line break.
    pub(super) fn add(&self, line: &[u8], is_error: bool) {
        let capacity = CAPACITY + if is_error { RESERVE } else { 0 };
        let mut queue = self.lock();
        if queue.octets + line.len() > capacity {
            queue.unreported += 1;
            drop(queue);
            self.dropped.inc();
            return;
        }
        queue.octets += line.len();
        queue.lines.push_back(line.to_vec());
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Waits until every line is written, but at most for the time `within`.
    pub(crate) fn flush(&self, within: Duration) {
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.lock(), within, is_busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut output: File, report: fn(u64)) {
        loop {
            let line = self.take();
            let is_written = write_line(&mut output, &line).is_ok();
            if !is_written {
                self.dropped.inc();
            }
            if let Some(dropped) = self.write_finished(is_written) {
                report(dropped);
            }
        }
    }

    /// Waits for a line and removes it from the queue.
    fn take(&self) -> Vec<u8> {
        let is_empty = |queue: &mut Queue| queue.lines.is_empty();
        let queue = self.shared.changed.wait_while(self.lock(), is_empty);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        let line = queue.lines.pop_front().unwrap_or_default();
        queue.octets -= line.len();
        queue.is_writing = true;
        line
    }

    /// Marks the write of a line as finished. Returns the number of dropped lines if the caller
    /// must report it after this write.
    fn write_finished(&self, is_written: bool) -> Option<u64> {
        let mut queue = self.lock();
        queue.is_writing = false;
        queue.unreported += u64::from(!is_written);
        // The report itself is a log line, so it needs a working descriptor and space in the queue.
        let is_due = is_written && queue.unreported > 0 && queue.octets < CAPACITY / 2;
        let dropped = is_due.then(|| std::mem::take(&mut queue.unreported));
        drop(queue);
        self.shared.changed.notify_all();
        dropped
    }
}

fn write_line(output: &mut impl Write, line: &[u8]) -> io::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(WRITE_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The writer of one log event. `tracing-subscriber` writes each event with one call.
#[derive(Debug)]
pub(crate) struct EventWriter<'a> {
    lines: &'a LogQueue,
    is_error: bool,
}

impl Write for EventWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line, self.is_error);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = EventWriter<'a>;

    fn make_writer(&'a self) -> EventWriter<'a> {
        EventWriter {
            lines: self,
            is_error: false,
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> EventWriter<'a> {
        EventWriter {
            lines: self,
            is_error: *event.level() == Level::ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        sync::atomic::{AtomicU64, Ordering},
        time::Instant,
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// Returns a queue that writes to a pipe, and the reading end of the pipe.
    fn into_pipe(report: fn(u64)) -> (LogQueue, File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (LogQueue::start(write.into(), report).unwrap(), read.into())
    }

    #[test]
    fn log_lines_are_written_in_the_order_in_which_they_were_added() {
        let (lines, mut pipe) = into_pipe(|_| {});
        lines.add(b"one\n", false);
        lines.add(b"two\n", false);
        lines.flush(DEADLINE);
        let mut text = [0; 8];
        pipe.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one\ntwo\n");
        assert_eq!(lines.dropped().get(), 0);
    }

    #[test]
    fn log_lines_are_dropped_while_the_pipe_is_full_and_their_number_is_reported_when_it_is_read() {
        static REPORTED: AtomicU64 = AtomicU64::new(0);
        let (lines, mut pipe) = into_pipe(|dropped| {
            REPORTED.fetch_add(dropped, Ordering::Relaxed);
        });
        let line = vec![b'x'; 1000];
        for _ in 0..10_000 {
            lines.add(&line, false);
            assert!(lines.lock().octets <= CAPACITY);
        }
        let dropped = lines.dropped().get();
        assert!((8_000..9_000).contains(&dropped), "{dropped}");
        lines.add(&line, true);
        assert_eq!(lines.dropped().get(), dropped, "an ERROR line fits");
        lines.flush(Duration::from_millis(1));
        assert_eq!(REPORTED.load(Ordering::Relaxed), 0);

        thread::spawn(move || io::copy(&mut pipe, &mut io::sink()));
        let began = Instant::now();
        while REPORTED.load(Ordering::Relaxed) != dropped {
            assert!(began.elapsed() < DEADLINE, "{REPORTED:?} of {dropped}");
            thread::yield_now();
        }
        lines.flush(DEADLINE);
        let queue = lines.lock();
        assert_eq!((queue.octets, queue.unreported), (0, 0));
    }

    #[test]
    fn each_log_line_counts_as_dropped_if_the_pipe_is_closed() {
        let (lines, pipe) = into_pipe(|_| {});
        drop(pipe);
        lines.add(b"one\n", false);
        lines.add(b"two\n", false);
        lines.flush(DEADLINE);
        assert_eq!(lines.dropped().get(), 2);
    }
}
