//! Listening addresses and sockets: TCP and unix.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use tokio::net::TcpListener;

use crate::{SocketPermissions, unix_socket::UnixSocket};

/// The address on which a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// With port 0 the kernel chooses the port.
    Tcp(SocketAddr),
    /// The path of a unix socket. Binding replaces a socket that no process serves.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("the path after `unix:` is empty".to_owned());
            }
            return Ok(Self::Unix(path.into()));
        }
        listen_address(text).map(Self::Tcp).ok_or_else(|| {
            "expected ADDRESS:PORT with a numeric address, such as 127.0.0.1:50051 or \
             [::1]:50051, or unix:PATH"
                .to_owned()
        })
    }
}

/// Parses ADDRESS:PORT. `None` if the text has another form.
///
/// Brackets around an IPv6 address are optional, because Kubernetes expands `$(POD_IP):9151`
/// without brackets. The port is required, so it follows the last colon. An IPv6 address without a
/// port can be misread as an address with a port, so use this function only for listening
/// addresses, which always have a port.
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        let (address, port) = text.rsplit_once(':')?;
        let address: Ipv6Addr = address.parse().ok()?;
        // The port must have only digits: the parser of the standard library also accepts a plus
        // sign.
        let is_number = port.bytes().all(|octet| octet.is_ascii_digit());
        let port = if is_number {
            port.parse().ok()?
        } else {
            return None;
        };
        Some(SocketAddr::new(IpAddr::V6(address), port))
    })
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl Listener {
    /// Binds `address`. `permissions` apply only to a unix socket.
    ///
    /// # Errors
    /// The errors of bind(2). `AddrInUse` if another process serves the unix socket.
    pub(crate) async fn bind(
        address: &ListenAddress,
        permissions: Option<SocketPermissions>,
    ) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            ListenAddress::Unix(path) => Ok(Self::Unix(UnixSocket::bind(path, permissions).await?)),
        }
    }

    /// Returns the bound address with the port that the kernel chose.
    pub(crate) fn local_address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(socket) => Ok(ListenAddress::Unix(socket.path().to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let parsed = text.parse::<ListenAddress>().ok();
        assert_eq!(
            parsed.map(|address| address.to_string()).as_deref(),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn a_listening_address_is_address_and_port_or_a_path() {
        check("10.244.1.7:9151", Some("10.244.1.7:9151"));
        check("[fd00::5]:9151", Some("[fd00::5]:9151"));
        check("[::]:0", Some("[::]:0"));
        check("unix:/run/x.sock", Some("unix:/run/x.sock"));
    }

    #[test]
    fn in_an_ipv6_address_without_brackets_the_port_follows_the_last_colon() {
        check("fd00::5:9151", Some("[fd00::5]:9151"));
        check(":::9151", Some("[::]:9151"));
        check("::1:9151", Some("[::1]:9151"));
        check("fd00:1:2:3:4:5:6:7:9151", Some("[fd00:1:2:3:4:5:6:7]:9151"));
        check("::ffff:10.1.1.1:80", Some("[::ffff:10.1.1.1]:80"));
    }

    #[test]
    fn a_listening_address_without_address_or_port_is_refused() {
        for text in [
            "",
            "9151",
            ":9151",
            "10.244.1.7",
            "10.244.1.7:",
            "10.244.1.7:65536",
            "fd00:1:2:3:4:5:6:7",
            "[fd00::5]",
            "fd00::5:",
            "fd00::5:65536",
            "fd00::5:+80",
            "fd00::5:http",
            "localhost:80",
            "unix:",
        ] {
            check(text, None);
        }
    }
}
