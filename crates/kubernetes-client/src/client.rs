//! Clients of the API server, and descriptions of their errors.

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

use crate::grant::ApiRequest;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of times that a client repeats a request after an answer with status 429, 503 or
/// 504. The caller gets such a status as an error only if the answer to the last repetition has it
/// as well.
const RETRIES: u32 = 2;

/// Shortest pause before a client repeats a request.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Longest pause before a client repeats a request, unless the header `Retry-After` of the answer
/// names a longer time.
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// Maximum number of requests of one client that wait to be sent. The number is small, because each
/// client belongs to one task.
const QUEUE: usize = 16;

/// The source of the API server's address and of the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiServerOrigin {
    /// The ServiceAccount of the pod.
    InCluster,
    /// The current context of the kubeconfig with this path.
    Kubeconfig(PathBuf),
}

/// The reason why no client can be created.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The process does not run in a pod, or the pod has no ServiceAccount token.
    #[error(
        "{0}; without --kubeconfig the program must run in a pod with a mounted ServiceAccount token"
    )]
    InCluster(InClusterError),
    #[error("--kubeconfig {}: {error}", path.display())]
    Kubeconfig {
        path: PathBuf,
        error: KubeconfigError,
    },
    #[error("the credentials cannot be used: {0}")]
    Client(String),
}

/// A client of the API server, with the credentials that were read when the client was created.
#[derive(Clone)]
pub struct ApiServerConnection {
    pub client: Client,
    /// URL of the API server.
    pub url: String,
    /// Number of answers with a success status that this client has received.
    pub answers: watch::Receiver<u64>,
    /// Fingerprint of the credentials of this client.
    credentials: u64,
}

impl ApiServerOrigin {
    /// Returns the URL of the API server, and the namespace of the pod or of the kubeconfig's
    /// context.
    ///
    /// # Errors
    /// The files with the credentials cannot be read or used.
    pub async fn url_and_namespace(&self) -> Result<(String, String), ConnectError> {
        let config = self.config().await?;
        Ok((config.cluster_url.to_string(), config.default_namespace))
    }

    /// Returns a client that closes a connection on which no byte arrives for `silence`.
    pub async fn connect(&self, silence: Duration) -> Result<ApiServerConnection, ConnectError> {
        let mut config = self.config().await?;
        let credentials = fingerprint(&config);
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(silence);
        config.reset_reader_on_write = true;
        // The default retry policy of kube would hide an error for minutes. The retry layer below
        // has a shorter policy.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let retry = RetryPolicy::new(FIRST_RETRY, LONGEST_RETRY, RETRIES, true)
            .expect("the shortest pause is below the longest");
        let (answered, answers) = watch::channel(0_u64);
        let client = ClientBuilder::try_from(config)
            .map_err(|error| ConnectError::Client(root_cause(&error)))?
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
        Ok(ApiServerConnection {
            client,
            url,
            answers,
            credentials,
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

impl ApiServerConnection {
    /// Reports whether the URL, the CA, the client certificate, or the content of the token file or
    /// key file of `origin` has changed since this client was created. kube itself reads token and
    /// CA again only once a minute. That is too slow after the API server has refused the
    /// credentials.
    pub async fn is_outdated(&self, origin: &ApiServerOrigin) -> bool {
        match origin.config().await {
            Ok(config) => fingerprint(&config) != self.credentials,
            Err(_) => false,
        }
    }
}

/// Returns the path of the CA file of the current context. Returns `None` if the kubeconfig
/// contains the CA itself, or names no CA file.
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

/// Returns a hash of the API server's URL, the CA and the client certificate, and of the content of
/// the token, certificate and key files that the configuration names.
fn fingerprint(config: &kube::Config) -> u64 {
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

/// Returns a description of a failed request, for operators. For status 401 and 403 the description
/// contains a suggestion. `url` is the address of the API server.
pub fn describe_error(error: &kube::Error, url: &str, asked: &ApiRequest<'_>) -> String {
    let kube::Error::Api(status) = error else {
        return format!("cannot reach the API server {url}: {}", root_cause(error));
    };
    let message = status.message.trim();
    match status.code {
        401 => format!(
            "the API server does not accept the credentials (401 {message}): the token has \
             expired or belongs to another cluster; the next attempt reads the token again"
        ),
        403 => asked.forbidden(message),
        429 => format!("the API server is too busy (429 {message})"),
        code => format!("the API server answers {code} {message}"),
    }
}

/// Returns the value of the metrics' label `reason` for an error: the HTTP status or `unreachable`.
pub fn label(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        status.code.to_string()
    } else {
        "unreachable".to_owned()
    }
}

/// Returns the text of the root cause of an error. The outer errors of the chain only repeat this
/// text.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
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
        let asked = ApiRequest {
            verb: "list",
            resource: &Resource::of::<Service>(Some("web".to_owned())),
            subresource: None,
            verbs: &["list", "watch"],
        };
        let description = describe_error(&kube::Error::Api(status.boxed()), "https://x", &asked);
        assert_eq!(description, expected);
    }

    #[test]
    fn an_error_status_is_described_and_401_and_403_get_a_suggestion() {
        check(
            401,
            "Unauthorized",
            "the API server does not accept the credentials (401 Unauthorized): the token has \
             expired or belongs to another cluster; the next attempt reads the token again",
        );
        check(
            403,
            "User x cannot",
            "the API server forbids this daemon to list services in namespace web (User x \
             cannot); add to a Role of namespace web that is bound to this ServiceAccount: \
             {apiGroups: [\"\"], resources: [\"services\"], verbs: [\"list\", \"watch\"]}",
        );
        check(
            500,
            "etcd is away",
            "the API server answers 500 etcd is away",
        );
    }

    #[tokio::test]
    async fn the_error_of_a_missing_kubeconfig_names_its_path() {
        let origin = ApiServerOrigin::Kubeconfig("/nowhere/kubeconfig".into());
        let error = origin.url_and_namespace().await.unwrap_err().to_string();
        assert!(
            error.contains("--kubeconfig /nowhere/kubeconfig"),
            "{error}"
        );
    }
}
