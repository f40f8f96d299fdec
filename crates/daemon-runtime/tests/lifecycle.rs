//! Tests of task supervision: drain, deadline, abort and failure.

use std::{future::pending, io, time::Duration};

use daemon_runtime::{Daemon, DaemonError, ListenAddress, error_chain};
use tokio::sync::{mpsc, oneshot};

const DEADLINE: Duration = Duration::from_secs(10);

/// A task that never ends.
async fn forever() -> Result<(), io::Error> {
    pending().await
}

async fn ended(daemon: Daemon) -> Result<(), DaemonError> {
    tokio::time::timeout(DEADLINE, daemon.run_until_drained(pending()))
        .await
        .expect("the daemon ends before the deadline")
}

#[tokio::test]
async fn the_drain_waits_for_a_draining_task_but_not_for_a_service_task() {
    let mut daemon = Daemon::new("test");
    let shutdown = daemon.shutdown().clone();
    let (asked, mut drain_began) = mpsc::channel::<()>(1);
    let (finish, finished) = oneshot::channel::<()>();
    let task_shutdown = shutdown.clone();
    daemon.spawn("service", forever());
    daemon.spawn_until_drained("table", async move {
        task_shutdown.drain_requested().await;
        asked.send(()).await.unwrap();
        finished.await.map_err(io::Error::other)
    });
    let mut running = tokio::spawn(daemon.run_until_drained(pending()));

    shutdown.request();
    drain_began.recv().await.unwrap();
    assert!(!running.is_finished());
    assert!(
        futures::FutureExt::now_or_never(shutdown.stopping()).is_none(),
        "the servers do not stop while a task drains"
    );
    finish.send(()).unwrap();
    let result = tokio::time::timeout(DEADLINE, &mut running).await.unwrap();
    result.unwrap().unwrap();
    shutdown.stopping().await;
}

#[tokio::test]
async fn the_drain_waits_for_every_draining_task() {
    let mut daemon = Daemon::new("test");
    let shutdown = daemon.shutdown().clone();
    let (ended_first, mut first) = mpsc::channel::<()>(1);
    let (finish, finished) = oneshot::channel::<()>();
    let task_shutdown = shutdown.clone();
    daemon.spawn_until_drained("quick", async move {
        task_shutdown.drain_requested().await;
        ended_first.send(()).await.map_err(io::Error::other)
    });
    daemon.spawn_until_drained(
        "slow",
        async move { finished.await.map_err(io::Error::other) },
    );
    let running = tokio::spawn(daemon.run_until_drained(pending()));

    shutdown.request();
    first.recv().await.unwrap();
    tokio::task::yield_now().await;
    assert!(!running.is_finished());
    finish.send(()).unwrap();
    let result = tokio::time::timeout(DEADLINE, running).await.unwrap();
    result.unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_without_draining_tasks_ends_at_the_drain_request() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("service", forever());
    daemon.shutdown().request();
    ended(daemon).await.unwrap();
}

#[tokio::test]
async fn the_error_of_a_failed_task_has_the_name_of_the_task_and_the_cause() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("service", forever());
    daemon.spawn("table", async {
        Err(io::Error::other("cannot read the table"))
    });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(
        error_chain(&error),
        "table has failed: cannot read the table"
    );
}

#[tokio::test]
async fn a_task_that_ends_before_the_drain_request_stops_the_process() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("table", async { Ok::<_, io::Error>(()) });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(error.to_string(), "table has ended unexpectedly");
}

#[tokio::test]
async fn a_draining_task_that_ends_before_the_drain_request_stops_the_process() {
    let mut daemon = Daemon::new("test");
    daemon.spawn_until_drained("table", async { Ok::<_, io::Error>(()) });
    let error = ended(daemon).await.unwrap_err();
    assert!(matches!(error, DaemonError::TaskEnded { task: "table" }));
}

#[tokio::test]
async fn a_panic_of_a_task_stops_the_process() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("table", async {
        if !std::hint::black_box(false) {
            panic!("a panic of the test");
        }
        Ok::<_, io::Error>(())
    });
    let error = ended(daemon).await.unwrap_err();
    assert!(matches!(error, DaemonError::TaskPanicked(_)), "{error}");
}

#[tokio::test]
async fn a_task_that_fails_during_the_drain_stops_the_process_with_an_error() {
    let mut daemon = Daemon::new("test");
    let shutdown = daemon.shutdown().clone();
    shutdown.request();
    daemon.spawn_until_drained("withdrawal", async move {
        shutdown.drain_requested().await;
        Err(io::Error::other("the session has ended"))
    });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(
        error_chain(&error),
        "withdrawal has failed: the session has ended"
    );
}

#[tokio::test]
async fn a_drain_that_is_not_complete_at_its_deadline_ends_with_an_error() {
    let mut daemon = Daemon::new("test");
    daemon.set_drain_deadline(Duration::from_millis(20));
    daemon.spawn_until_drained("table", forever());
    daemon.shutdown().request();
    let error = ended(daemon).await.unwrap_err();
    assert!(error.to_string().contains("deadline"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_drain_deadline_starts_with_the_drain_request() {
    let mut daemon = Daemon::new("test");
    daemon.set_drain_deadline(Duration::from_secs(10));
    let shutdown = daemon.shutdown().clone();
    let task_shutdown = shutdown.clone();
    daemon.spawn_until_drained("table", async move {
        task_shutdown.drain_requested().await;
        tokio::time::sleep(Duration::from_secs(9)).await;
        Ok::<_, io::Error>(())
    });
    let running = tokio::spawn(daemon.run_until_drained(pending()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    shutdown.request();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_abort_ends_the_drain_immediately() {
    let mut daemon = Daemon::new("test");
    daemon.spawn_until_drained("table", forever());
    daemon.shutdown().request();
    let aborted = daemon.run_until_drained(async { "a second signal has arrived" });
    let error = tokio::time::timeout(DEADLINE, aborted)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "stopped before the drain was complete: a second signal has arrived"
    );
}

#[tokio::test]
async fn the_unix_socket_is_removed_after_a_task_has_failed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let mut daemon = Daemon::new("test");
    daemon
        .serve_http(&ListenAddress::Unix(path.clone()))
        .await
        .unwrap();
    assert!(path.exists());
    daemon.spawn("table", async { Err(io::Error::other("no table")) });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(error_chain(&error), "table has failed: no table");
    assert!(!path.exists());
}
