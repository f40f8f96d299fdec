//! The way to the API server: address, credentials, timeouts, and what an error means.

use std::{
    collections::hash_map::DefaultHasher,
    error::Error,
    hash::{Hash, Hasher},
    path::PathBuf,
    time::Duration,
};

use kube::{
    Client,
    client::{ClientBuilder, retry::RetryPolicy},
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::sync::watch;
use tower::{buffer::BufferLayer, retry::RetryLayer, util::MapResponseLayer};

use crate::grant::Asked;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What an API server that is overloaded (429), or about to end (503), is asked again without
/// telling anybody: this often, after as long as it says, or after these times.
const RETRIES: u32 = 2;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// Requests that wait for the connection of one client; each task has a client of its own.
const QUEUE: usize = 16;

/// Where the address of the API server and the credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The ServiceAccount of the pod.
    InCluster,
    /// The current context of a kubeconfig.
    Kubeconfig(PathBuf),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not in a pod, or without a token.
    #[error(
        "{0}; without --kubeconfig this must run in a pod whose ServiceAccount token is mounted"
    )]
    InCluster(InClusterError),
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {}: {error}", path.display())]
    Kubeconfig {
        /// Which one.
        path: PathBuf,
        /// Why not.
        error: KubeconfigError,
    },
    /// The credentials cannot be used.
    #[error("the credentials cannot be used: {0}")]
    Client(String),
}

/// A client, and what it was made of.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// URL of the API server.
    pub url: String,
    /// Counts the answers that were no refusals.
    pub answers: watch::Receiver<u64>,
    files: u64,
}

impl Origin {
    /// The URL of the API server and the namespace that the origin names.
    ///
    /// # Errors
    /// The files cannot be used.
    pub async fn place(&self) -> Result<(String, String), ConnectError> {
        let config = self.config().await?;
        Ok((config.cluster_url.to_string(), config.default_namespace))
    }

    /// A client that counts a connection without a byte for `silence` as lost.
    pub async fn connect(&self, silence: Duration) -> Result<Connection, ConnectError> {
        let mut config = self.config().await?;
        let files = files(&config);
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(silence);
        config.reset_reader_on_write = true;
        // kube's own asks for minutes before anybody hears of it.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let retry = RetryPolicy::new(FIRST_RETRY, LONGEST_RETRY, RETRIES, true)
            .expect("the shortest delay is below the longest");
        let (answered, answers) = watch::channel(0_u64);
        let client = ClientBuilder::try_from(config)
            .map_err(|error| ConnectError::Client(innermost(&error)))?
            .with_layer(&BufferLayer::new(QUEUE))
            .with_layer(&RetryLayer::new(retry))
            .with_layer(&MapResponseLayer::new(
                move |response: http::Response<_>| {
                    if response.status().is_success() {
                        answered.send_modify(|count| *count += 1);
                    }
                    response
                },
            ))
            .build();
        Ok(Connection {
            client,
            url,
            answers,
            files,
        })
    }

    async fn config(&self) -> Result<kube::Config, ConnectError> {
        match self {
            Self::InCluster => kube::Config::incluster().map_err(ConnectError::InCluster),
            Self::Kubeconfig(path) => {
                let unusable = |error| ConnectError::Kubeconfig {
                    path: path.clone(),
                    error,
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
                let ca = certificate_authority(&kubeconfig);
                let options = KubeConfigOptions::default();
                let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(unusable)?;
                config.root_cert_file = ca;
                Ok(config)
            }
        }
    }
}

impl Connection {
    /// Whether the files that hold token, CA or client certificate have changed since. kube reads
    /// token and CA again once a minute; who has just been refused need not wait for that.
    pub async fn is_outdated(&self, origin: &Origin) -> bool {
        match origin.config().await {
            Ok(config) => files(&config) != self.files,
            Err(_) => false,
        }
    }
}

/// The CA file of the current context, where it is a file.
fn certificate_authority(kubeconfig: &Kubeconfig) -> Option<PathBuf> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == *current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter().find(|c| c.name == *name)?;
    let cluster = cluster.cluster.as_ref()?;
    if cluster.certificate_authority_data.is_some() {
        return None;
    }
    cluster.certificate_authority.as_ref().map(PathBuf::from)
}

/// Fingerprint of the credentials and of the files that they name.
fn files(config: &kube::Config) -> u64 {
    let auth = &config.auth_info;
    let mut hasher = DefaultHasher::new();
    config.cluster_url.to_string().hash(&mut hasher);
    config.root_cert.hash(&mut hasher);
    auth.client_certificate_data.hash(&mut hasher);
    let named = [&auth.token_file, &auth.client_certificate, &auth.client_key];
    for path in named.into_iter().flatten() {
        std::fs::read(path).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// What an error of the API server, or of the way to it, means for who runs this daemon.
pub fn in_words(error: &kube::Error, url: &str, asked: &Asked<'_>) -> String {
    let kube::Error::Api(status) = error else {
        return format!("cannot reach the API server {url}: {}", innermost(error));
    };
    let message = status.message.trim();
    match status.code {
        401 => format!(
            "the API server does not accept the credentials (401 {message}): the token has \
             expired or is of another cluster; it is read again at each attempt"
        ),
        403 => asked.forbidden(message),
        429 => format!("the API server is too busy (429 {message})"),
        code => format!("the API server answers {code} {message}"),
    }
}

/// One word for metrics.
pub fn label(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        status.code.to_string()
    } else {
        "unreachable".to_owned()
    }
}

/// The cause of all causes: what is around it repeats it, or says only that it failed.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use kube::core::Status;

    use super::*;
    use crate::grant::Resource;

    #[track_caller]
    fn check(code: u16, message: &str, expected: &str) {
        let status = Status::failure(message, "Reason").with_code(code);
        let asked = Asked {
            verb: "list",
            resource: &Resource::of::<Service>(Some("web".to_owned())),
            subresource: None,
            verbs: &["list", "watch"],
        };
        let words = in_words(&kube::Error::Api(status.boxed()), "https://x", &asked);
        assert_eq!(words, expected);
    }

    #[test]
    fn a_refusal_is_told_with_its_cure() {
        check(
            401,
            "Unauthorized",
            "the API server does not accept the credentials (401 Unauthorized): the token has \
             expired or is of another cluster; it is read again at each attempt",
        );
        check(
            403,
            "User x cannot",
            "the API server forbids to list services in namespace web (User x cannot); add to a \
             Role of namespace web that is bound to this ServiceAccount: {apiGroups: [\"\"], \
             resources: [\"services\"], verbs: [\"list\", \"watch\"]}",
        );
        check(
            500,
            "etcd is away",
            "the API server answers 500 etcd is away",
        );
    }

    #[tokio::test]
    async fn an_unreadable_kubeconfig_is_named() {
        let origin = Origin::Kubeconfig("/nowhere/kubeconfig".into());
        let error = origin.place().await.unwrap_err().to_string();
        assert!(
            error.contains("--kubeconfig /nowhere/kubeconfig"),
            "{error}"
        );
    }
}
