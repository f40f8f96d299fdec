//! A test of the signals of a daemon.
//!
//! A signal reaches the whole process, so this file must have only one test.

use std::{
    io,
    process::ExitCode,
    sync::mpsc::{self, TryRecvError},
    thread,
    time::Duration,
};

use clap::Parser;
use daemon_runtime::{CommonArgs, run};
use nix::sys::signal::{Signal, raise};

const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

#[test]
fn the_first_sigterm_starts_a_drain_the_second_ends_the_drain_and_sighup_has_no_effect() {
    let args = Args::parse_from([
        "test",
        "--grpc-listen=127.0.0.1:0",
        "--http-listen=127.0.0.1:0",
    ]);
    let (started, has_started) = mpsc::channel();
    let (draining, is_draining) = mpsc::channel();
    let (exited, has_exited) = mpsc::channel();
    thread::spawn(move || {
        let exit_code = run(
            "test",
            &args.common,
            || Ok(()),
            async |(), daemon| {
                let shutdown = daemon.shutdown().clone();
                daemon.spawn_until_drained("endless drain", async move {
                    started.send(()).map_err(io::Error::other)?;
                    shutdown.drain_requested().await;
                    draining.send(()).map_err(io::Error::other)?;
                    std::future::pending::<io::Result<()>>().await
                });
                Ok::<_, io::Error>(())
            },
        );
        exited.send(exit_code).unwrap();
    });
    has_started.recv_timeout(DEADLINE).unwrap();
    // Without a handler, SIGHUP would end this process.
    raise(Signal::SIGHUP).unwrap();
    raise(Signal::SIGTERM).unwrap();
    is_draining.recv_timeout(DEADLINE).unwrap();
    raise(Signal::SIGHUP).unwrap();
    let exited = has_exited.try_recv();
    assert_eq!(
        exited,
        Err(TryRecvError::Empty),
        "SIGHUP does not end the drain"
    );
    raise(Signal::SIGINT).unwrap();
    let exit_code = has_exited.recv_timeout(DEADLINE).unwrap();
    assert_eq!(exit_code, ExitCode::FAILURE);
}
