//! Connection to the API server, and logs of failed writes.

use std::{fmt, time::Duration};

use kube::Client;
use kubernetes_client::{
    client::{self, ApiServerConnection, ApiServerOrigin},
    grant::ApiRequest,
};

use crate::metrics::StatusMetrics;

/// Returns the error text for an API server that has not answered for this time.
pub(crate) fn silent_for(time: Duration) -> String {
    format!("the API server has not answered for {} s", time.as_secs())
}

/// Longest time without a byte from the API server while it answers.
const SILENCE: Duration = Duration::from_secs(20);

/// The connection of one task to the API server.
pub(crate) struct ApiServer {
    origin: ApiServerOrigin,
    connection: Option<ApiServerConnection>,
    pub(crate) metrics: StatusMetrics,
}

/// The last logged failure of one kind of write, so that a repeated failure is logged once.
#[derive(Debug)]
pub(crate) struct FailureLog {
    object: &'static str,
    last_logged: Option<String>,
}

impl ApiServer {
    pub(crate) fn new(origin: ApiServerOrigin, metrics: StatusMetrics) -> Self {
        Self {
            origin,
            connection: None,
            metrics,
        }
    }

    pub(crate) async fn client(&mut self) -> kube::Result<Client> {
        if let Some(connection) = &self.connection {
            return Ok(connection.client.clone());
        }
        let connection = self
            .origin
            .connect(SILENCE)
            .await
            .map_err(|error| kube::Error::Service(error.into()))?;
        let client = connection.client.clone();
        self.connection = Some(connection);
        Ok(client)
    }

    /// Drops the connection after a failed request if the credentials or the address in the files
    /// have changed, so that the next request uses the new credentials and address. Keeps the
    /// connection after an error answer other than 401.
    pub(crate) async fn failed(&mut self, error: &kube::Error) {
        if let kube::Error::Api(status) = error
            && status.code != 401
        {
            return;
        }
        if let Some(connection) = &self.connection
            && connection.is_outdated(&self.origin).await
        {
            self.connection = None;
        }
    }

    /// Counts and logs a request that cannot be sent or that the API server refused.
    pub(crate) async fn refused(
        &mut self,
        error: &kube::Error,
        asked: &ApiRequest<'_>,
        problems: &mut FailureLog,
    ) {
        self.failed(error).await;
        problems.log_failure(&self.metrics, &client::label(error), || {
            client::describe_error(error, &self.url(), asked)
        });
    }

    pub(crate) fn url(&self) -> String {
        self.connection
            .as_ref()
            .map_or_else(String::new, |connection| connection.url.clone())
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl FailureLog {
    pub(crate) fn new(object: &'static str) -> Self {
        Self {
            object,
            last_logged: None,
        }
    }

    /// Counts a failure. Logs the failure unless its text is equal to the last logged text.
    pub(crate) fn log_failure(
        &mut self,
        metrics: &StatusMetrics,
        reason: &str,
        text: impl FnOnce() -> String,
    ) {
        metrics.write_failed(self.object, reason);
        let text = text();
        if self.last_logged.as_ref() != Some(&text) {
            tracing::warn!(
                object = self.object,
                error = text,
                "cannot write to the cluster; retrying"
            );
            self.last_logged = Some(text);
        }
    }

    pub(crate) fn log_recovery(&mut self) {
        if self.last_logged.take().is_some() {
            tracing::info!(object = self.object, "writes to the cluster succeed again");
        }
    }
}
