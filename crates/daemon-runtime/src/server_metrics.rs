//! Metrics of the HTTP server and the gRPC server.

use crate::{Counter, Family, Gauge, Labels, Metrics};

/// The reason why the server closed or refused a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseReason {
    /// The connection limit of the server is reached.
    Limit,
    /// The handshake, the request or the response took too long.
    Timeout,
}

/// The metrics of all servers of a daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllServerMetrics {
    open: Family<Labels, Gauge>,
    cut: Family<Labels, Counter>,
    accept_failures: Family<Labels, Counter>,
}

/// The metrics of one server.
#[derive(Clone, Debug)]
pub(crate) struct ServerMetrics {
    server: &'static str,
    open: Gauge,
    limit: Counter,
    timeout: Counter,
    accept_failures: Counter,
}

impl AllServerMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        Self {
            open: metrics.create(
                "server_connections",
                "Open connections by server: http, grpc",
            ),
            cut: metrics.create(
                "server_connections_cut",
                "Connections that the server closed or refused, by reason: limit, timeout",
            ),
            accept_failures: metrics.create(
                "server_accept_failures",
                "Failed attempts to accept a connection, for example without a free file descriptor",
            ),
        }
    }

    pub(crate) fn of(&self, server: &'static str) -> ServerMetrics {
        let label = vec![("server", server.to_owned())];
        let with_reason = |reason: &str| {
            let labels = [label.clone(), vec![("reason", reason.to_owned())]].concat();
            self.cut.get_or_create_owned(&labels)
        };
        ServerMetrics {
            server,
            open: self.open.get_or_create_owned(&label),
            limit: with_reason("limit"),
            timeout: with_reason("timeout"),
            accept_failures: self.accept_failures.get_or_create_owned(&label),
        }
    }
}

impl ServerMetrics {
    #[cfg(test)]
    pub(crate) fn for_test(server: &'static str) -> Self {
        AllServerMetrics::default().of(server)
    }

    pub(crate) fn server(&self) -> &'static str {
        self.server
    }

    pub(crate) fn set_open(&self, open: usize) {
        self.open.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    pub(crate) fn count_closed_connection(&self, reason: CloseReason) {
        match reason {
            CloseReason::Limit => self.limit.inc(),
            CloseReason::Timeout => self.timeout.inc(),
        };
    }

    pub(crate) fn accept_failed(&self) {
        self.accept_failures.inc();
    }

    #[cfg(test)]
    pub(crate) fn accept_failures(&self) -> u64 {
        self.accept_failures.get()
    }
}
