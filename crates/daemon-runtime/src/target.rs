//! Where a client finds the daemon before it.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

/// Longest time for a connection to a daemon of the same pod or node: a part of each grace period, so
/// that a listener that does not answer leaves time for further attempts.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Where a gRPC server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `http://ADDRESS:PORT`, the address numeric.
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
        // A static binary has no resolver to rely on, and a name can lead elsewhere tomorrow.
        if authority.as_str().parse::<SocketAddr>().is_err() {
            return Err(match authority.host() {
                "localhost" => format!(
                    "`localhost` is a name, and names are not resolved: write \
                     http://127.0.0.1:{port} or http://[::1]:{port}"
                ),
                host => format!(
                    "`{host}` is no numeric address, and names are not resolved: write \
                     http://ADDRESS:{port}"
                ),
            });
        }
        Ok(Self::Tcp(uri))
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
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = text.parse::<Target>().map(|target| target.to_string());
        assert_eq!(parsed.as_deref().map_err(String::as_str), expected);
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
    fn a_name_is_refused_with_the_cure() {
        check(
            "http://localhost:50051",
            Err(
                "`localhost` is a name, and names are not resolved: write http://127.0.0.1:50051 \
                 or http://[::1]:50051",
            ),
        );
        check(
            "http://programmer.example:50052",
            Err(
                "`programmer.example` is no numeric address, and names are not resolved: write \
                 http://ADDRESS:50052",
            ),
        );
    }
}
