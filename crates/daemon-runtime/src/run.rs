//! From the command line to the exit code.

use std::{error::Error, fmt, process::ExitCode};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::{CommonArgs, Daemon, ListenAddress, in_words, log};

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
        say(&format!("{name}: {message}"));
        ExitCode::from(UNUSABLE)
    };
    // Dropped last, so that the reason of the end is written.
    let log = match log::init(common.log_format, &common.log_level) {
        Ok(log) => log,
        Err(message) => return unusable(&message),
    };
    common.startup.log_unknown_variables();
    let resolved = resolve().and_then(|config| check_listen(common).map(|()| config));
    if resolved.is_err() || common.check_config {
        // The lines about flags and files come before the result.
        log.flush();
    }
    let config = match resolved {
        Ok(config) => config,
        Err(error) => return unusable(&error),
    };
    if common.check_config {
        say(&format!("{name}: flags and files are usable"));
        return ExitCode::SUCCESS;
    }
    raise_file_limit();
    // Where the kernel has no getrandom(2), the generator opens a file for its seed, and panics
    // if that fails. Later there may be no free descriptor.
    let _: u64 = rand::random();
    // One thread: an event goes from socket to owner to socket without waking a second one, which
    // halved the time from a changed file to the kernel's rule on the lab's slow guest.
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
            "Log lines that standard error did not take in time",
            log.dropped(),
        );
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        // From this line on a signal drains: before its handler is there, it ends the process.
        log.starting(common.startup.settings(), &config);
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
        // Without a handler a closed terminal, or a habit from other daemons, would end the process
        // without a drain. A daemon that reads a file again at this signal has a handler of its own.
        let hangups = async {
            while hangup.recv().await.is_some() {
                tracing::debug!("SIGHUP does not end this process");
            }
            std::future::pending().await
        };
        let abort = async {
            tokio::select! { reason = signals => reason, reason = hangups => reason }
        };
        daemon.run_until_drained(abort).await?;
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

/// The two servers cannot share one socket; port 0 is another one each time.
fn check_listen(common: &CommonArgs) -> Result<(), ConfigError> {
    let (grpc, http) = (&common.grpc_listen, &common.http_listen);
    let is_any_port = matches!(grpc, ListenAddress::Tcp(address) if address.port() == 0);
    if grpc != http || is_any_port {
        return Ok(());
    }
    Err(ConfigError(format!(
        "--grpc-listen and --http-listen are both {grpc}: give each an address or port of its own"
    )))
}

/// A session, a check and a stream take a file each, and many systems start a process with 1024
/// although it may have more.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn failed(error: &dyn Error) -> ExitCode {
    tracing::error!(error = in_words(error), "stopped");
    ExitCode::FAILURE
}

/// To standard error, whatever the log filter says.
fn say(message: &str) {
    use std::io::Write;
    // Nobody is left to tell if standard error is closed.
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
    fn both_servers_on_one_address_are_refused() {
        check_listen_flags("127.0.0.1:1", "127.0.0.1:2", Ok(()));
        check_listen_flags("127.0.0.1:0", "127.0.0.1:0", Ok(()));
        check_listen_flags(
            "127.0.0.1:1",
            "127.0.0.1:1",
            Err(
                "--grpc-listen and --http-listen are both 127.0.0.1:1: give each an address or \
                 port of its own",
            ),
        );
        check_listen_flags(
            "unix:/run/x.sock",
            "unix:/run/x.sock",
            Err(
                "--grpc-listen and --http-listen are both unix:/run/x.sock: give each an address \
                 or port of its own",
            ),
        );
    }

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most.min(512), most).unwrap();
        raise_file_limit();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (most, most));
    }
}
