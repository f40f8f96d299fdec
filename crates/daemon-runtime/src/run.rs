//! The main function of all daemons.

use std::{error::Error, fmt, process::ExitCode};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::{CommonArgs, Daemon, ListenAddress, error_chain, log};

/// Exit code for flags or files that cannot be used.
const UNUSABLE: u8 = 2;

/// The reason why flags or files cannot be used: a message with the flag or field, its value, the
/// allowed values and a suggestion.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ConfigError {}

/// Runs a daemon from the parsed flags to the exit code.
///
/// `resolve` reads the configuration from flags and files and opens no socket. `start` opens the
/// sockets and spawns the tasks. The exit code is 0 after a complete drain or if `--check-config`
/// finds no error, 1 after a failure, and 2 if flags or files cannot be used.
pub fn run<C, T, E>(
    name: &'static str,
    common: &CommonArgs,
    resolve: impl FnOnce() -> Result<C, ConfigError>,
    start: impl AsyncFnOnce(C, &mut Daemon) -> Result<T, E>,
) -> ExitCode
where
    C: fmt::Debug,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let unusable = |message: &dyn fmt::Display| {
        print_to_stderr(&format!("{name}: {message}"));
        ExitCode::from(UNUSABLE)
    };
    // The log is dropped last, so it still writes the reason why the daemon stopped.
    let log = match log::init(common.log_format, &common.log_level) {
        Ok(log) => log,
        Err(message) => return unusable(&message),
    };
    common.startup.log_unknown_variables();
    let resolved = resolve().and_then(|config| check_listen(common).map(|()| config));
    if resolved.is_err() || common.check_config {
        // The result is printed to standard error without the queue of the log, so the queued log
        // lines about flags and files are written first.
        log.flush();
    }
    let config = match resolved {
        Ok(config) => config,
        Err(error) => return unusable(&error),
    };
    if common.check_config {
        print_to_stderr(&format!("{name}: flags and files are usable"));
        return ExitCode::SUCCESS;
    }
    raise_file_limit();
    // This call seeds the random generator at the start of the process, when a descriptor is free.
    // On a kernel without getrandom(2) the generator opens a file for its seed, and panics if no
    // descriptor is free.
    let _: u64 = rand::random();
    // The runtime has one thread, so no event has to wake another thread on its way from one socket
    // to the next. This halved the time from a changed file to the kernel's rule on the slow guest
    // of the lab.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let outcome = runtime.block_on(async {
        let mut daemon = Daemon::new(name);
        daemon.metrics().register(
            "log_lines_dropped",
            "Log lines that were dropped because standard error was not read in time",
            log.dropped(),
        );
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        // The signal handlers are installed, so after this log line a termination signal starts a
        // drain. Before the installation, a termination signal ended the process.
        log.starting(common.startup.settings(), &config);
        start(config, &mut daemon).await.map_err(Into::into)?;
        daemon.serve_http(&common.http_listen).await?;
        let shutdown = daemon.shutdown().clone();
        let signals = async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("received a termination signal; draining");
            shutdown.request();
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            "a second signal has arrived"
        };
        // Without a handler, SIGHUP would end the process without a drain. The signal comes from a
        // closed terminal, or from an operator that expects a reload. A daemon that reloads a file
        // at SIGHUP has an additional handler.
        let hangups = async {
            while hangup.recv().await.is_some() {
                tracing::debug!("received SIGHUP; the process continues");
            }
            std::future::pending().await
        };
        let abort = async {
            tokio::select! { reason = signals => reason, reason = hangups => reason }
        };
        daemon.run_until_drained(abort).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    // The process does not wait for threads that are blocked, for example in reading a file.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => failed(error.as_ref()),
    }
}

/// Refuses equal addresses of the HTTP server and the gRPC server. Equal addresses with port 0 are
/// allowed, because the kernel chooses different ports.
fn check_listen(common: &CommonArgs) -> Result<(), ConfigError> {
    let (grpc, http) = (&common.grpc_listen, &common.http_listen);
    let is_any_port = matches!(grpc, ListenAddress::Tcp(address) if address.port() == 0);
    if grpc != http || is_any_port {
        return Ok(());
    }
    Err(ConfigError(format!(
        "--grpc-listen and --http-listen are both {grpc}: give two different addresses or ports"
    )))
}

/// Raises the limit of open files to the hard limit.
///
/// Each BGP session, health check and gRPC stream uses a file. Many systems start processes with a
/// limit of 1024, although the hard limit is higher.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files; keeping the current limit");
    }
}

fn failed(error: &dyn Error) -> ExitCode {
    tracing::error!(error = error_chain(error), "stopped");
    ExitCode::FAILURE
}

/// Writes to standard error directly, because the log filter could drop a log line.
fn print_to_stderr(message: &str) {
    use std::io::Write;
    // An error means that standard error is closed, so the error cannot be reported.
    let _ = std::io::stderr().write_all(format!("{message}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_listen_flags(grpc: &str, http: &str, expected: Result<(), &str>) {
        let common = CommonArgs {
            grpc_listen: grpc.parse().unwrap(),
            http_listen: http.parse().unwrap(),
            log_format: crate::LogFormat::Text,
            log_level: "info".to_owned(),
            check_config: true,
            startup: crate::startup::Startup::default(),
        };
        let result = check_listen(&common).map_err(|error| error.to_string());
        assert_eq!(result, expected.map_err(str::to_owned));
    }

    #[test]
    fn equal_addresses_of_the_http_server_and_the_grpc_server_are_refused() {
        check_listen_flags("127.0.0.1:1", "127.0.0.1:2", Ok(()));
        check_listen_flags("127.0.0.1:0", "127.0.0.1:0", Ok(()));
        check_listen_flags(
            "127.0.0.1:1",
            "127.0.0.1:1",
            Err(
                "--grpc-listen and --http-listen are both 127.0.0.1:1: give two different \
                 addresses or ports",
            ),
        );
        check_listen_flags(
            "unix:/run/x.sock",
            "unix:/run/x.sock",
            Err(
                "--grpc-listen and --http-listen are both unix:/run/x.sock: give two different \
                 addresses or ports",
            ),
        );
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_the_hard_limit() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most.min(512), most).unwrap();
        raise_file_limit();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (most, most));
    }
}
