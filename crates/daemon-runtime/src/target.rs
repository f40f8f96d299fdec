//! Where a client finds the daemon before it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a gRPC server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `http://ADDRESS:PORT`
    Tcp(Uri),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl Target {
    /// A channel that connects when it is first used, and again after a loss.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Tcp(uri) => Endpoint::from(uri.clone())
                .connect_timeout(CONNECT_TIMEOUT)
                .connect_lazy(),
            Self::Unix(path) => {
                let path = path.clone();
                // The URI is not used for the connection, but HTTP/2 wants an authority.
                Endpoint::from_static("http://localhost")
                    .connect_timeout(CONNECT_TIMEOUT)
                    .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                        let path = path.clone();
                        async move {
                            tokio::net::UnixStream::connect(path)
                                .await
                                .map(TokioIo::new)
                        }
                    }))
            }
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "expected http://ADDRESS:PORT such as http://127.0.0.1:50051, or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("the path after `unix:` is empty".to_owned());
            }
            return Ok(Self::Unix(path.into()));
        }
        let uri: Uri = text.parse().map_err(|_| EXPECTED.to_owned())?;
        let usable = uri.scheme_str() == Some("http") && uri.port().is_some();
        if usable {
            Ok(Self::Tcp(uri))
        } else {
            Err(EXPECTED.to_owned())
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(uri) => write!(f, "{}", uri.to_string().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, ()>) {
        let parsed = text.parse::<Target>();
        assert_eq!(
            parsed.as_ref().map(ToString::to_string).map_err(|_| ()),
            expected.map(str::to_owned)
        );
    }

    #[test]
    fn targets_are_tcp_or_unix() {
        check("http://127.0.0.1:50051", Ok("http://127.0.0.1:50051"));
        check("http://[::1]:50051", Ok("http://[::1]:50051"));
        check(
            "unix:/run/portlb/node-router.sock",
            Ok("unix:/run/portlb/node-router.sock"),
        );
    }

    #[test]
    fn a_target_without_scheme_or_port_is_refused() {
        check("127.0.0.1:50051", Err(()));
        check("http://127.0.0.1", Err(()));
        check("https://127.0.0.1:1", Err(()));
        check("unix:", Err(()));
    }
}
