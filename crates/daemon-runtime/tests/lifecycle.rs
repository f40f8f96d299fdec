//! The life of a daemon's tasks: drain, deadline, abort, failure.

use std::{future::pending, io, time::Duration};

use daemon_runtime::{Daemon, DaemonError, ListenAddress, in_words};
use tokio::sync::{mpsc, oneshot};

const DEADLINE: Duration = Duration::from_secs(10);

/// A task that never ends on its own.
async fn forever() -> Result<(), io::Error> {
    pending().await
}

async fn ended(daemon: Daemon) -> Result<(), DaemonError> {
    tokio::time::timeout(DEADLINE, daemon.run_until_drained(pending()))
        .await
        .expect("the daemon ends before the deadline")
}

#[tokio::test]
async fn a_draining_task_is_waited_for_and_a_service_task_is_not() {
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
        "servers must not stop while a task still drains"
    );
    finish.send(()).unwrap();
    let result = tokio::time::timeout(DEADLINE, &mut running).await.unwrap();
    result.unwrap().unwrap();
    shutdown.stopping().await;
}

#[tokio::test]
async fn every_draining_task_is_waited_for() {
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
async fn a_daemon_without_draining_tasks_ends_at_the_request() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("service", forever());
    daemon.shutdown().request();
    ended(daemon).await.unwrap();
}

#[tokio::test]
async fn a_failed_task_stops_the_process_and_is_named_with_its_cause() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("service", forever());
    daemon.spawn("table", async {
        Err(io::Error::other("the kernel is gone"))
    });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(in_words(&error), "table has failed: the kernel is gone");
}

#[tokio::test]
async fn a_task_that_ends_on_its_own_stops_the_process() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("table", async { Ok::<_, io::Error>(()) });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(error.to_string(), "table has ended unexpectedly");
}

#[tokio::test]
async fn a_draining_task_that_ends_before_the_request_stops_the_process() {
    let mut daemon = Daemon::new("test");
    daemon.spawn_until_drained("table", async { Ok::<_, io::Error>(()) });
    let error = ended(daemon).await.unwrap_err();
    assert!(matches!(error, DaemonError::TaskEnded { task: "table" }));
}

#[tokio::test]
async fn a_panic_stops_the_process() {
    let mut daemon = Daemon::new("test");
    daemon.spawn("table", async {
        if !std::hint::black_box(false) {
            panic!("an invariant is broken");
        }
        Ok::<_, io::Error>(())
    });
    let error = ended(daemon).await.unwrap_err();
    assert!(matches!(error, DaemonError::TaskPanicked(_)), "{error}");
}

#[tokio::test]
async fn a_failure_while_draining_is_an_error() {
    let mut daemon = Daemon::new("test");
    let shutdown = daemon.shutdown().clone();
    shutdown.request();
    daemon.spawn_until_drained("withdrawal", async move {
        shutdown.drain_requested().await;
        Err(io::Error::other("the peer is gone"))
    });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(in_words(&error), "withdrawal has failed: the peer is gone");
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_with_an_error() {
    let mut daemon = Daemon::new("test");
    daemon.set_drain_deadline(Duration::from_millis(20));
    daemon.spawn_until_drained("table", forever());
    daemon.shutdown().request();
    let error = ended(daemon).await.unwrap_err();
    assert!(error.to_string().contains("deadline"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_starts_with_the_request() {
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
async fn an_abort_ends_the_drain_at_once() {
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
        "stopped before everything was drained: a second signal has arrived"
    );
}

#[tokio::test]
async fn a_failed_task_leaves_no_socket_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let mut daemon = Daemon::new("test");
    daemon
        .serve_http(&ListenAddress::Unix(path.clone()))
        .await
        .unwrap();
    assert!(path.exists());
    daemon.spawn("table", async { Err(io::Error::other("gone")) });
    let error = ended(daemon).await.unwrap_err();
    assert_eq!(in_words(&error), "table has failed: gone");
    assert!(!path.exists());
}
