//! From the command line to the exit code.

use std::{error::Error, fmt, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use crate::{CommonArgs, Daemon, log};

/// Exit code for flags or files that cannot be used.
const UNUSABLE: u8 = 2;

/// Why flags or files cannot be used: one message that names the field, the value, what is
/// allowed, and the cure.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ConfigError {}

/// The life of a daemon: logs, configuration, tasks, signals, exit code.
///
/// `resolve` turns flags and files into a configuration without opening a socket; `start` opens
/// them and spawns the tasks. Exit codes: 0 drained, 1 failed while running, 2 unusable flags.
pub fn run<C, E>(
    name: &'static str,
    common: &CommonArgs,
    resolve: impl FnOnce() -> Result<C, ConfigError>,
    start: impl AsyncFnOnce(C, &mut Daemon) -> Result<(), E>,
) -> ExitCode
where
    C: fmt::Debug,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let unusable = |message: &dyn fmt::Display| {
        say(&format!("{name}: {message}"));
        ExitCode::from(UNUSABLE)
    };
    if let Err(message) = log::init(common.log_format, &common.log_level) {
        return unusable(&message);
    }
    let config = match resolve() {
        Ok(config) => config,
        Err(error) => return unusable(&error),
    };
    if common.check_config {
        say(&format!("{name}: flags and files are usable"));
        return ExitCode::SUCCESS;
    }
    tracing::info!(version = crate::VERSION, ?config, "starting");
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let outcome = runtime.block_on(async {
        let mut daemon = Daemon::new(name);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        start(config, &mut daemon).await.map_err(Into::into)?;
        daemon.serve_http(&common.http_listen).await?;
        let shutdown = daemon.shutdown().clone();
        let signals = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("draining: a termination signal has arrived");
            shutdown.request();
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            "a second signal has arrived"
        };
        daemon.run_until_drained(signals).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    // Blocking reads of a dead peer must not hold the process back.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => failed(error.as_ref()),
    }
}

fn failed(error: &dyn Error) -> ExitCode {
    let mut causes = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        causes = format!("{causes}: {cause}");
        source = cause.source();
    }
    tracing::error!(error = causes, "stopped");
    ExitCode::FAILURE
}

/// To standard error, whatever the log filter says.
fn say(message: &str) {
    use std::io::Write;
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{message}");
}
