//! The log on standard error.

mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Debug,
    io::IsTerminal,
    os::fd::AsFd,
    panic::PanicHookInfo,
    time::Duration,
};

use serde_json::{Map, Value, json};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        self,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{Counter, LogFormat, VERSION};

use queue::LogQueue;

/// Longest time that the process waits for its last log lines before it exits.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The log of this process. Dropping it writes the remaining lines, for at most [`FLUSH_TIMEOUT`].
///
/// The tasks of a daemon never wait for standard error. Otherwise a container runtime that does not
/// read the log pipe would stop the BGP sessions.
#[derive(Debug)]
pub(crate) struct Log {
    lines: LogQueue,
    format: LogFormat,
}

impl Log {
    /// Logs the start of the daemon with its settings. In the JSON format the settings are an
    /// object; `tracing` itself could only log them as one text.
    pub(crate) fn starting(&self, settings: &Map<String, Value>, config: &impl Debug) {
        match self.format {
            LogFormat::Text => tracing::info!(version = VERSION, ?config, "starting"),
            LogFormat::Json => {
                if tracing::enabled!(tracing::Level::INFO) {
                    self.lines.add(starting_line(settings).as_bytes(), false);
                }
                tracing::debug!(?config, "resolved the settings");
            }
        }
    }

    /// Writes the queued lines, for at most [`FLUSH_TIMEOUT`].
    pub(crate) fn flush(&self) {
        self.lines.flush(FLUSH_TIMEOUT);
    }

    /// Returns the counter of the dropped lines.
    pub(crate) fn dropped(&self) -> Counter {
        self.lines.dropped().clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts the log of the process.
pub(crate) fn init(format: LogFormat, filter: &str) -> Result<Log, String> {
    let filter = parse(filter).map_err(|problem| {
        format!(
            "--log-level: {filter:?} is not a filter ({problem}); give error, warn, info, debug \
             or trace, or directives such as info,bgp_speaker=debug"
        )
    })?;
    // The log writes to a duplicate of descriptor 2. With `std::io::stderr`, a blocked write would
    // keep the lock, and other writers would wait.
    let lines = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|output| LogQueue::start(output.into(), report_dropped))
        .map_err(|error| format!("cannot start the log: {error}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(lines.clone());
    let started = match format {
        LogFormat::Text => registry
            .with(layer.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| format!("cannot start the log: {error}"))?;
    let panicked = lines.clone();
    std::panic::set_hook(Box::new(move |panic| {
        log_panic(panic);
        panicked.flush(FLUSH_TIMEOUT);
    }));
    Ok(Log { lines, format })
}

/// Returns a log line with the field names of the JSON format of `tracing-subscriber`.
fn starting_line(settings: &Map<String, Value>) -> String {
    let mut timestamp = String::new();
    // If the time cannot be formatted, the timestamp is empty.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let line = json!({
        "timestamp": timestamp,
        "level": "INFO",
        "message": "starting",
        "version": VERSION,
        "config": settings,
        "target": module_path!(),
    });
    format!("{line}\n")
}

fn report_dropped(dropped: u64) {
    tracing::warn!(
        dropped,
        "log lines were dropped, because standard error was not read in time"
    );
}

/// Logs a panic. Replaces the panic hook of the standard library, which could wait for standard
/// error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        %panic,
        backtrace = backtrace.as_ref().map(tracing::field::display),
        "the daemon panicked"
    );
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    // `EnvFilter` reads a misspelt level as the name of a module, and then disables all other logs.
    let is_level = |word: &str| word == "off" || word.parse::<tracing::Level>().is_ok();
    let is_directive = |word: &str| word.contains(['=', '[']) || is_level(word);
    let mut words = filter.split(',');
    if let Some(word) = words.find(|word| !is_directive(word)) {
        return Err(format!("{word:?} is not a level"));
    }
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, expected: Result<(), &str>) {
        let result = parse(filter).map(drop);
        assert_eq!(result, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        check("info", Ok(()));
        check("WARN", Ok(()));
        check("off", Ok(()));
        check("info,bgp_speaker=debug", Ok(()));
        check("loud", Err("\"loud\" is not a level"));
        check("info,bgp_speaker", Err("\"bgp_speaker\" is not a level"));
        check("", Err("\"\" is not a level"));
    }
}
