//! Addresses of gRPC servers for clients.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

/// Longest time for one attempt to connect to a daemon on the same node. It is short, so that a
/// client can retry within a grace period of a few seconds if a listener does not answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The address of a gRPC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcTarget {
    /// `http://ADDRESS:PORT` with a numeric address.
    Tcp(Uri),
    /// The PATH of `unix:PATH`.
    Unix(PathBuf),
}

impl GrpcTarget {
    /// Returns a channel that connects at its first use, and again after the connection was lost.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Tcp(uri) => Endpoint::from(uri.clone())
                .connect_timeout(CONNECT_TIMEOUT)
                .connect_lazy(),
            Self::Unix(path) => {
                let path = path.clone();
                // The connection does not use this URI, but HTTP/2 requires an authority.
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

impl FromStr for GrpcTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected http://ADDRESS:PORT with a numeric address, such as \
                                http://127.0.0.1:PORT, or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("the path after `unix:` is empty".to_owned());
            }
            return Ok(Self::Unix(path.into()));
        }
        if text.parse::<SocketAddr>().is_ok() {
            return Err(format!(
                "the scheme is missing: write http://{text}, or unix:PATH"
            ));
        }
        let uri: Uri = text.parse().map_err(|_| EXPECTED.to_owned())?;
        let (Some("http"), Some(authority), Some(port)) =
            (uri.scheme_str(), uri.authority(), uri.port())
        else {
            return Err(EXPECTED.to_owned());
        };
        // Names are refused, because a static binary has no reliable resolver, and because the
        // address of a name can change.
        if authority.as_str().parse::<SocketAddr>().is_err() {
            return Err(match authority.host() {
                "localhost" => format!(
                    "\"localhost\" is not a numeric address; write http://127.0.0.1:{port} or \
                     http://[::1]:{port} (names are not resolved)"
                ),
                host => format!(
                    "{host:?} is not a numeric address; write http://ADDRESS:{port} (names are not \
                     resolved)"
                ),
            });
        }
        Ok(Self::Tcp(uri))
    }
}

impl fmt::Display for GrpcTarget {
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
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = text.parse::<GrpcTarget>().map(|target| target.to_string());
        assert_eq!(parsed.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_target_is_a_tcp_address_or_a_unix_socket() {
        check("http://127.0.0.1:50051", Ok("http://127.0.0.1:50051"));
        check("http://[::1]:50051", Ok("http://[::1]:50051"));
        check(
            "unix:/run/portlb/node-router.sock",
            Ok("unix:/run/portlb/node-router.sock"),
        );
    }

    #[test]
    fn a_target_without_scheme_or_port_is_refused() {
        let expected = "expected http://ADDRESS:PORT with a numeric address, such as \
                        http://127.0.0.1:PORT, or unix:PATH";
        check(
            "127.0.0.1:50051",
            Err("the scheme is missing: write http://127.0.0.1:50051, or unix:PATH"),
        );
        check("http://127.0.0.1", Err(expected));
        check("https://127.0.0.1:1", Err(expected));
        check("unix:", Err("the path after `unix:` is empty"));
    }

    #[test]
    fn the_message_about_a_host_name_has_a_suggestion() {
        check(
            "http://localhost:50051",
            Err(
                "\"localhost\" is not a numeric address; write http://127.0.0.1:50051 or \
                 http://[::1]:50051 (names are not resolved)",
            ),
        );
        check(
            "http://programmer.example:50052",
            Err(
                "\"programmer.example\" is not a numeric address; write http://ADDRESS:50052 (names \
                 are not resolved)",
            ),
        );
    }
}
