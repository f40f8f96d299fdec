//! Supervised tasks and the servers that every daemon has.

use std::{convert::Infallible, error::Error, io, time::Duration};

use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::{
    GrpcContract, ListenAddress, Listener, Metrics, Readiness, Shutdown, SocketPermissions, grpc,
    grpc::MOST_STREAMS, http, server_metrics::AllServerMetrics,
};

/// Longest time that servers get to end their open streams once everything is drained.
const STOP_DEADLINE: Duration = Duration::from_millis(500);

/// Longest time from the request to drain until the servers stop, unless the daemon sets another.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

type TaskError = Box<dyn Error + Send + Sync>;

/// The tasks of one daemon and what they share.
#[derive(Debug)]
pub struct Daemon {
    tasks: JoinSet<Ended>,
    draining_tasks: usize,
    drain_deadline: Duration,
    metrics: Metrics,
    server_metrics: AllServerMetrics,
    readiness: Readiness,
    shutdown: Shutdown,
    grpc_socket_permissions: Option<SocketPermissions>,
    grpc_streams: u32,
}

#[derive(Debug)]
struct Ended {
    task: &'static str,
    ends_after_drain: bool,
    result: Result<(), TaskError>,
}

/// Why a daemon had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A socket cannot be opened.
    #[error("cannot listen on {address} ({flag})")]
    Listen {
        /// Where.
        address: ListenAddress,
        /// What the user changes to have another address.
        flag: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A task has failed.
    #[error("{task} has failed")]
    TaskFailed {
        /// Its name.
        task: &'static str,
        /// Why.
        source: TaskError,
    },
    /// A task has ended that should live as long as the process.
    #[error("{task} has ended unexpectedly")]
    TaskEnded {
        /// Its name.
        task: &'static str,
    },
    /// A task has panicked.
    #[error("a task has panicked")]
    TaskPanicked(#[source] tokio::task::JoinError),
    /// Draining took longer than its deadline, or a second signal came.
    #[error("stopped before everything was drained: {reason}")]
    Aborted {
        /// Deadline or signal.
        reason: &'static str,
    },
}

impl Daemon {
    /// A daemon without tasks. Component tests make one themselves; `run` makes it for `main`.
    pub fn new(name: &'static str) -> Self {
        let metrics = Metrics::new(name);
        Self {
            tasks: JoinSet::new(),
            draining_tasks: 0,
            drain_deadline: DRAIN_DEADLINE,
            server_metrics: AllServerMetrics::register(&metrics),
            metrics,
            readiness: Readiness::new(),
            shutdown: Shutdown::default(),
            grpc_socket_permissions: None,
            grpc_streams: MOST_STREAMS,
        }
    }

    /// Where metrics are registered.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where readiness steps are registered.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// How tasks learn of the end.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Sets the longest time from the request to drain until the servers stop (default 10 s).
    pub fn set_drain_deadline(&mut self, deadline: Duration) {
        self.drain_deadline = deadline;
    }

    /// Sets mode and group of the unix socket of the gRPC server, before it is served. Without
    /// them the umask and the group of this process apply.
    pub fn set_grpc_socket_permissions(&mut self, permissions: SocketPermissions) {
        self.grpc_socket_permissions = Some(permissions);
    }

    /// Sets the most streams of one connection of the gRPC server (default 256); a client holds
    /// further ones back until one of its streams ends.
    pub fn set_grpc_stream_limit(&mut self, limit: usize) {
        self.grpc_streams = u32::try_from(limit).unwrap_or(u32::MAX);
    }

    /// Starts a task that lives as long as the process: its end is an error.
    pub fn spawn<F, E>(&mut self, task: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskError>,
    {
        self.supervised(task, false, future);
    }

    /// Starts a task that has no state to lose: it is dropped when the servers stop.
    pub fn spawn_until_stopped<F>(&mut self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stopping = self.shutdown.stopping();
        self.spawn(task, async move {
            tokio::select! {
                () = future => {}
                () = stopping => {}
            }
            Ok::<_, Infallible>(())
        });
    }

    /// Starts a task that must end after a drain is requested, and that the process waits for.
    pub fn spawn_until_drained<F, E>(&mut self, task: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskError>,
    {
        self.draining_tasks += 1;
        self.supervised(task, true, future);
    }

    fn supervised<F, E>(&mut self, task: &'static str, ends_after_drain: bool, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskError>,
    {
        self.tasks.spawn(async move {
            Ended {
                task,
                ends_after_drain,
                result: future.await.map_err(Into::into),
            }
        });
    }

    /// Serves the contract with health and reflection; returns the address in use.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn serve_grpc(
        &mut self,
        address: &ListenAddress,
        contract: GrpcContract,
        routes: Routes,
    ) -> Result<ListenAddress, DaemonError> {
        let (listener, bound) = self
            .bind(
                address,
                "--grpc-listen",
                "gRPC socket",
                self.grpc_socket_permissions,
            )
            .await?;
        let (readiness, shutdown) = (self.readiness.clone(), self.shutdown.clone());
        let metrics = self.server_metrics.of("grpc");
        let streams = self.grpc_streams;
        self.spawn(
            "gRPC server",
            grpc::serve(
                listener, contract, routes, streams, metrics, readiness, shutdown,
            ),
        );
        tracing::info!(address = %bound, "gRPC is served");
        Ok(bound)
    }

    /// Serves `/metrics`, `/healthz` and `/readyz`; returns the address in use.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn serve_http(
        &mut self,
        address: &ListenAddress,
    ) -> Result<ListenAddress, DaemonError> {
        let (listener, bound) = self
            .bind(address, "--http-listen", "HTTP socket", None)
            .await?;
        let pages = http::pages(self.metrics.clone(), self.readiness.clone());
        let metrics = self.server_metrics.of("http");
        self.spawn(
            "HTTP server",
            http::serve(listener, pages, metrics, self.shutdown.clone()),
        );
        tracing::info!(address = %bound, "HTTP is served");
        Ok(bound)
    }

    /// `step` is the readiness step that says whether clients reach a unix socket.
    async fn bind(
        &self,
        address: &ListenAddress,
        flag: &'static str,
        step: &'static str,
        permissions: Option<SocketPermissions>,
    ) -> Result<(Listener, ListenAddress), DaemonError> {
        let listen_error = |source| DaemonError::Listen {
            address: address.clone(),
            flag,
            source,
        };
        let mut listener = Listener::bind(address, permissions)
            .await
            .map_err(listen_error)?;
        if let Listener::Unix(socket) = &mut listener {
            socket.report_to(self.readiness.step(step, ""));
        }
        let bound = listener.local_address().map_err(listen_error)?;
        Ok((listener, bound))
    }

    /// Runs until a drain is requested (by [`Shutdown::request`]) and done, or a task fails.
    ///
    /// `abort` ends the drain early; it resolves to the reason.
    ///
    /// # Errors
    /// A task failed or ended on its own, or draining did not end in time.
    pub async fn run_until_drained(
        mut self,
        abort: impl Future<Output = &'static str>,
    ) -> Result<(), DaemonError> {
        let result = self.supervise(abort).await;
        self.shutdown.stop();
        // What is left are servers and clients without state to lose.
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_DEADLINE, all_ended)
            .await
            .is_err()
        {
            // Waited for, since a server removes its socket's file when it is dropped.
            self.tasks.shutdown().await;
        }
        result
    }

    async fn supervise(
        &mut self,
        abort: impl Future<Output = &'static str>,
    ) -> Result<(), DaemonError> {
        let shutdown = self.shutdown.clone();
        let drain_deadline = self.drain_deadline;
        let deadline_passed = async {
            shutdown.drain_requested().await;
            tokio::time::sleep(drain_deadline).await;
        };
        tokio::pin!(abort, deadline_passed);
        while !(self.shutdown.is_requested() && self.draining_tasks == 0) {
            tokio::select! {
                Some(joined) = self.tasks.join_next() => {
                    let ended = joined.map_err(DaemonError::TaskPanicked)?;
                    let task = ended.task;
                    ended.result.map_err(|source| DaemonError::TaskFailed { task, source })?;
                    if !self.shutdown.is_requested() {
                        return Err(DaemonError::TaskEnded { task });
                    }
                    if ended.ends_after_drain {
                        self.draining_tasks -= 1;
                    }
                }
                () = shutdown.drain_requested(), if !self.shutdown.is_requested() => {}
                () = &mut deadline_passed => {
                    return Err(DaemonError::Aborted { reason: "the drain deadline has passed" });
                }
                reason = &mut abort => return Err(DaemonError::Aborted { reason }),
            }
        }
        Ok(())
    }
}
