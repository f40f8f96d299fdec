//! Where a server listens: TCP or a unix socket.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// Path of a unix socket; a stale one is replaced.
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

/// Reads ADDRESS:PORT. An IPv6 address needs no brackets: Kubernetes writes it without them in
/// `$(POD_IP):9151`, and since the port is never left out, the last colon stands before it.
///
/// For places to listen only, where the port is required: an address alone whose last group could be
/// a port is taken for one with a port. `None`: the text is neither form.
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        let (address, port) = text.rsplit_once(':')?;
        let address: Ipv6Addr = address.parse().ok()?;
        // The standard library's numbers may have a sign.
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

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix, with its path, which is unlinked when the listener is dropped.
    Unix(UnixListener, UnlinkOnDrop),
}

/// Removes the socket's file.
#[derive(Debug)]
pub(crate) struct UnlinkOnDrop(PathBuf);

impl Drop for UnlinkOnDrop {
    fn drop(&mut self) {
        // A socket that somebody else removed or replaced is not an error worth a word.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    /// As bind(2); a unix path where a living server listens is `AddrInUse`.
    pub(crate) async fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            ListenAddress::Unix(path) => {
                remove_stale_socket(path).await?;
                let listener =
                    UnixListener::bind(path).map_err(|error| missing_directory(path, error))?;
                Ok(Self::Unix(listener, UnlinkOnDrop(path.clone())))
            }
        }
    }

    /// The address in use, with the port that the kernel chose.
    pub(crate) fn local_address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Self::Unix(_, path) => Ok(ListenAddress::Unix(path.0.clone())),
        }
    }
}

/// The kernel's "no such file" is about the directory.
fn missing_directory(path: &Path, error: io::Error) -> io::Error {
    match path.parent() {
        Some(directory) if error.kind() == io::ErrorKind::NotFound => io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the directory {} does not exist; create or mount it",
                directory.display()
            ),
        ),
        Some(_) | None => error,
    }
}

/// A socket file outlives the process that made it; one that answers belongs to a living server.
async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    // The kernel refuses to connect to any file; only a socket is ours to remove.
    if path
        .symlink_metadata()
        .is_ok_and(|file| !file.file_type().is_socket())
    {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "{} exists and is no socket; give another path",
                path.display()
            ),
        ));
    }
    match tokio::net::UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another process serves {}", path.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
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
    fn a_place_to_listen_is_address_and_port_or_a_path() {
        check("10.244.1.7:9151", Some("10.244.1.7:9151"));
        check("[fd00::5]:9151", Some("[fd00::5]:9151"));
        check("[::]:0", Some("[::]:0"));
        check("unix:/run/x.sock", Some("unix:/run/x.sock"));
    }

    #[test]
    fn the_last_colon_of_ipv6_without_brackets_stands_before_the_port() {
        check("fd00::5:9151", Some("[fd00::5]:9151"));
        check(":::9151", Some("[::]:9151"));
        check("::1:9151", Some("[::1]:9151"));
        check("fd00:1:2:3:4:5:6:7:9151", Some("[fd00:1:2:3:4:5:6:7]:9151"));
        check("::ffff:10.1.1.1:80", Some("[::ffff:10.1.1.1]:80"));
    }

    #[test]
    fn a_place_without_address_or_port_is_refused() {
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
