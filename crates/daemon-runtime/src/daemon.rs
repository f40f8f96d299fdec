//! Task supervision and the servers of a daemon.

use std::{convert::Infallible, error::Error, io, time::Duration};

use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::{
    GrpcContract, ListenAddress, Listener, Metrics, Readiness, Shutdown, SocketPermissions, grpc,
    grpc::MOST_STREAMS, http, server_metrics::AllServerMetrics,
};

/// Longest time in which the servers may end their open streams after the drain.
const STOP_DEADLINE: Duration = Duration::from_millis(500);

/// Default of the longest time from the drain request until the servers stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

type TaskError = Box<dyn Error + Send + Sync>;

/// The tasks of one daemon, with the metrics, the readiness and the shutdown that they share.
#[derive(Debug)]
pub struct Daemon {
    tasks: JoinSet<EndedTask>,
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
struct EndedTask {
    task: &'static str,
    /// Whether the drain waits for the end of this task.
    ends_after_drain: bool,
    result: Result<(), TaskError>,
}

/// The reason why a daemon stopped with an error.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot listen on {address} ({flag})")]
    Listen {
        address: ListenAddress,
        /// The flag that sets the address.
        flag: &'static str,
        source: io::Error,
    },
    #[error("{task} has failed")]
    TaskFailed {
        task: &'static str,
        source: TaskError,
    },
    /// A task has ended without an error before the drain request.
    #[error("{task} has ended unexpectedly")]
    TaskEnded { task: &'static str },
    #[error("a task has panicked")]
    TaskPanicked(#[source] tokio::task::JoinError),
    /// The drain was not complete at its deadline or at a second signal.
    #[error("stopped before the drain was complete: {reason}")]
    Aborted { reason: &'static str },
}

impl Daemon {
    /// Returns a daemon without tasks. [`run`](crate::run) calls it for `main`; component tests
    /// call it directly.
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

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Returns the handle with which tasks request a drain and wait for a drain request.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Sets the longest time from the drain request until the servers stop. The default is 10 s.
    pub fn set_drain_deadline(&mut self, deadline: Duration) {
        self.drain_deadline = deadline;
    }

    /// Sets mode and group of the unix socket of the gRPC server. Call it before
    /// [`Self::serve_grpc`]. Without this call, the umask and the group of this process apply.
    pub fn set_grpc_socket_permissions(&mut self, permissions: SocketPermissions) {
        self.grpc_socket_permissions = Some(permissions);
    }

    /// Sets the largest number of open streams on one connection of the gRPC server. The default is
    /// 256. A client delays further streams until one of its streams ends.
    pub fn set_grpc_stream_limit(&mut self, limit: usize) {
        self.grpc_streams = u32::try_from(limit).unwrap_or(u32::MAX);
    }

    /// Starts a task that runs until the process exits. The end of the task before a drain request
    /// is an error, and an error of the task always is.
    pub fn spawn<F, E>(&mut self, task: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<TaskError>,
    {
        self.supervised(task, false, future);
    }

    /// Starts a task that can be dropped at any time. The daemon drops it when the servers stop.
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

    /// Starts a task that must end after a drain request. The process waits for its end.
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
            EndedTask {
                task,
                ends_after_drain,
                result: future.await.map_err(Into::into),
            }
        });
    }

    /// Starts the gRPC server with the contract, health and reflection. Returns the bound address.
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

    /// Starts the HTTP server with `/metrics`, `/healthz` and `/readyz`. Returns the bound address.
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

    /// Binds `address`. For a unix socket, registers the readiness step `step`, which is ready
    /// while the path leads to the socket.
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

    /// Runs until the drain is complete or a task fails. [`Shutdown::request`] starts the drain.
    ///
    /// The completion of `abort` ends the drain early. Its value is the reason.
    ///
    /// # Errors
    /// A task failed or panicked, a task ended before the drain request, or the drain was not
    /// complete at its deadline or at the completion of `abort`.
    pub async fn run_until_drained(
        mut self,
        abort: impl Future<Output = &'static str>,
    ) -> Result<(), DaemonError> {
        let result = self.supervise(abort).await;
        self.shutdown.stop();
        // The remaining tasks are servers and clients, which the daemon may drop.
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_DEADLINE, all_ended)
            .await
            .is_err()
        {
            // Waits until the tasks are dropped, because a dropped server removes its unix socket.
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
