//! Connection to the API server, and logs of failed writes.

use std::{fmt, time::Duration};

use kube::Client;
use kubernetes_client::{
    client::{self, ApiServerConnection, ApiServerOrigin},
    grant::ApiRequest,
};

use crate::metrics::StatusMetrics;

/// Returns the error text for an API server that has not answered a request within `time`.
pub(crate) fn silent_for(time: Duration) -> String {
    format!("the API server has not answered for {} s", time.as_secs())
}

/// Longest time between two bytes of an answer of the API server.
const SILENCE: Duration = Duration::from_secs(20);

/// The connection of one task to the API server.
pub(crate) struct ApiServer {
    origin: ApiServerOrigin,
    connection: Option<ApiServerConnection>,
    pub(crate) metrics: StatusMetrics,
}

/// The text of the last logged failure to write one kind of object. A failure with an equal text is
/// not logged again until a write has succeeded.
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

    /// Records a failed request. Drops the connection if the credentials or the address in the
    /// files differ from those of the connection, so that the next request uses the new ones.
    /// Always keeps the connection if the API server answered with an error other than 401.
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

    /// Counts and logs a request that could not be sent or that the API server refused.
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

    /// Counts a failure. Logs the failure unless its text is equal to the last logged text since
    /// the last success.
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
