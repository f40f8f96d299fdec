//! The key of TCP MD5 signatures (RFC 2385), and the kernel's socket option that takes it.

use std::{
    fmt,
    io::{self, Read},
    net::IpAddr,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bounded_io::open_file;
use ipnet::IpNet;
use nix::{errno::Errno, libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};

/// `TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h.
const LONGEST: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h: the prefix length counts.
const FLAG_PREFIX: u8 = 1;

/// Others than owner and group may read it.
const OTHERS_READ: u32 = 0o004;

/// Both sides of a session have the same one; 1 to 80 bytes. Nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Key(Arc<[u8]>);

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
pub enum Md5KeyError {
    /// It is not there, or this user may not read it.
    #[error(
        "cannot read {}, which must be a file with the key of the peers that this user may read",
        path.display()
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds no key.
    #[error(
        "{} holds {found} in the place of a key; write the key of the peers into it, one line of \
         1 to {LONGEST} bytes",
        path.display()
    )]
    NoKey {
        /// Which file.
        path: PathBuf,
        /// What it holds instead.
        found: &'static str,
    },
}

impl Md5Key {
    /// Reads the key that a file holds; a line end behind it does not belong to it. A file that
    /// everybody may read is warned of, and used.
    ///
    /// # Errors
    /// The file cannot be read or holds no key. What it holds is not repeated.
    pub fn read(path: &Path) -> Result<Self, Md5KeyError> {
        let (bytes, mode) = read_start(path).map_err(|source| Md5KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        if mode & OTHERS_READ != 0 {
            tracing::warn!(
                file = %path.display(),
                mode = format!("{:03o}", mode & 0o777),
                "everybody may read the key of TCP MD5: take that right away"
            );
        }
        Self::parse(&bytes).map_err(|found| Md5KeyError::NoKey {
            path: path.to_owned(),
            found,
        })
    }

    /// Says what stands in the place of a key.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, &'static str> {
        let line = file.strip_suffix(b"\n").unwrap_or(file);
        let key = line.strip_suffix(b"\r").unwrap_or(line);
        if key.is_empty() {
            return Err("nothing");
        }
        // A router's configuration could not have it.
        if key.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
            return Err("several lines or a zero byte");
        }
        if key.len() > LONGEST {
            return Err("more than 80 bytes");
        }
        Ok(Self(key.into()))
    }
}

impl fmt::Debug for Md5Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Key(hidden)")
    }
}

/// No more than tells a key from what is none, so that a wrong path costs nothing; and the mode.
fn read_start(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let (file, metadata) = open_file(path)?;
    let mode = metadata.permissions().mode();
    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 3).read_to_end(&mut bytes)?;
    Ok((bytes, mode))
}

/// `struct tcp_md5sig` of linux/tcp.h, in the machine's byte order:
///
/// ```text
///    0  address     sockaddr_storage: family (2), port (2), IPv4 address (4),
///                   or port (2), flow label (4), IPv6 address (16)
///  128  flags       1
///  129  prefix      length of the prefix
///  130  key length  2; 0 takes the key away
///  132  interface   4
///  136  key         80
/// ```
type Md5Signature = [u8; 136 + LONGEST];

sockopt_impl!(
    /// Of Linux 4.13 and later: with a prefix length.
    TcpMd5SigExt,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_MD5SIG_EXT,
    Md5Signature
);

fn signature(prefix: IpNet, key: Option<&Md5Key>) -> Md5Signature {
    let mut bytes = [0; size_of::<Md5Signature>()];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let family = match prefix.addr() {
        IpAddr::V4(address) => {
            put(4, &address.octets());
            libc::AF_INET
        }
        IpAddr::V6(address) => {
            put(8, &address.octets());
            libc::AF_INET6
        }
    };
    let family = u16::try_from(family).expect("families are small numbers");
    put(0, &family.to_ne_bytes());
    put(128, &[FLAG_PREFIX, prefix.prefix_len()]);
    if let Some(Md5Key(key)) = key {
        let length = u16::try_from(key.len()).expect("no key is longer than 80 bytes");
        put(130, &length.to_ne_bytes());
        put(136, key);
    }
    bytes
}

/// Demands and makes signatures with this key in every segment from and to the prefix; `None`: in
/// none any longer. Of several prefixes the longest counts.
///
/// # Errors
/// The kernel cannot do it.
pub(crate) fn set(socket: &impl AsFd, prefix: IpNet, key: Option<&Md5Key>) -> io::Result<()> {
    let reason = match setsockopt(socket, TcpMd5SigExt, &signature(prefix, key)) {
        Ok(()) => return Ok(()),
        Err(Errno::ENOPROTOOPT) => {
            "it has no TCP MD5 signatures (it needs CONFIG_TCP_MD5SIG and Linux 4.13 at least)"
                .to_owned()
        }
        Err(Errno::ENOMEM) => "no memory is left for it (net.core.optmem_max)".to_owned(),
        Err(other) => other.to_string(),
    };
    let problem = format!("the kernel does not take the key of TCP MD5: {reason}");
    Err(io::Error::other(problem))
}

/// Signs what goes over a socket that is about to connect. The key holds for any address, since
/// the socket will have one peer only, and a network may put another address in the place of
/// the one that is connected to.
///
/// # Errors
/// The kernel cannot do it.
pub(crate) fn set_for_only_peer(socket: &impl AsFd, peer: IpAddr, key: &Md5Key) -> io::Result<()> {
    let any = IpNet::new(peer, 0).expect("0 is a length of every family");
    set(socket, any, Some(key))
}

#[cfg(test)]
mod tests {
    use std::{error::Error, net::TcpListener};

    use super::*;

    #[track_caller]
    fn check(file: &[u8], expected: Result<&[u8], &str>) {
        let key = Md5Key::parse(file);
        assert_eq!(
            key.as_ref().map(|key| &*key.0).map_err(|found| *found),
            expected
        );
    }

    #[test]
    fn a_key_is_one_line_without_its_end() {
        check(b"secret", Ok(b"secret"));
        check(b"secret\n", Ok(b"secret"));
        check(b"secret\r\n", Ok(b"secret"));
        check(b" two words \n", Ok(b" two words "));
        check(&[b'x'; 80], Ok(&[b'x'; 80]));
        check(b"", Err("nothing"));
        check(b"\n", Err("nothing"));
        check(b"secret\n\n", Err("several lines or a zero byte"));
        check(b"secret\0", Err("several lines or a zero byte"));
        check(&[b'x'; 81], Err("more than 80 bytes"));
    }

    #[test]
    fn a_file_without_a_key_is_named_with_the_cure_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let refused = |path: &Path| Md5Key::read(path).unwrap_err();
        let missing = refused(&path);
        let expected = format!(
            "cannot read {}, which must be a file with the key of the peers that this user may read",
            path.display()
        );
        assert_eq!(missing.to_string(), expected);
        let source = missing.source().unwrap().to_string();
        assert!(source.starts_with("No such file"), "{source}");
        assert!(matches!(refused(folder.path()), Md5KeyError::Read { .. }));
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let source = refused(&fifo).source().unwrap().to_string();
        assert!(source.starts_with("a FIFO is no regular file"), "{source}");
        let zero = Path::new("/dev/zero");
        let source = refused(zero).source().unwrap().to_string();
        assert!(
            source.starts_with("a device is no regular file"),
            "{source}"
        );

        std::fs::write(&path, "secret".repeat(14)).unwrap();
        let expected = format!(
            "{} holds more than 80 bytes in the place of a key; write the key of the peers into \
             it, one line of 1 to 80 bytes",
            path.display()
        );
        assert_eq!(refused(&path).to_string(), expected);
        std::fs::write(&path, "secret\n").unwrap();
        assert_eq!(
            Md5Key::read(&path).unwrap(),
            Md5Key::parse(b"secret").unwrap()
        );
    }

    #[test]
    fn nothing_prints_a_key() {
        let key = Md5Key::parse(b"secret").unwrap();
        assert_eq!(
            format!("{:?} {:#?}", key, Some(&key)),
            "Md5Key(hidden) Some(\n    Md5Key(hidden),\n)"
        );
    }

    /// What stands in the bytes beside zeros, from which place on.
    #[track_caller]
    fn check_layout(prefix: &str, key: Option<&[u8]>, expected: &[(usize, &[u8])]) {
        let key = key.map(|key| Md5Key::parse(key).unwrap());
        let mut bytes = [0; 216];
        for (at, value) in expected {
            bytes[*at..*at + value.len()].copy_from_slice(value);
        }
        assert_eq!(signature(prefix.parse().unwrap(), key.as_ref()), bytes);
    }

    #[test]
    fn the_bytes_are_those_of_the_kernels_struct() {
        let family = |family: i32| (family as u16).to_ne_bytes();
        let length = |length: u16| length.to_ne_bytes();
        check_layout(
            "10.0.1.0/24",
            Some(b"secret"),
            &[
                (0, &family(libc::AF_INET)),
                (4, &[10, 0, 1, 0]),
                (128, &[1, 24]),
                (130, &length(6)),
                (136, b"secret"),
            ],
        );
        let address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let longest = [b'x'; 80];
        check_layout(
            "fd00::7/128",
            Some(&longest),
            &[
                (0, &family(libc::AF_INET6)),
                (8, &address),
                (128, &[1, 128]),
                (130, &length(80)),
                (136, &longest),
            ],
        );
        check_layout(
            "fd00::7/128",
            None,
            &[
                (0, &family(libc::AF_INET6)),
                (8, &address),
                (128, &[1, 128]),
            ],
        );
    }

    /// The kernel knows no key that was not set, so that taking one away tells of it.
    #[test]
    fn the_kernel_has_what_was_set_until_it_is_taken_away() {
        for (listen, prefixes) in [
            ("127.0.0.1:0", ["10.0.1.0/24", "10.0.1.7/32", "0.0.0.0/0"]),
            ("[::1]:0", ["fd00::/64", "fd00::7/128", "::/0"]),
        ] {
            let listener = TcpListener::bind(listen).unwrap();
            let key = Md5Key::parse(&[b'x'; 80]).unwrap();
            for prefix in prefixes {
                let prefix = prefix.parse().unwrap();
                set(&listener, prefix, Some(&key)).unwrap();
                set(&listener, prefix, Some(&key)).unwrap();
                set(&listener, prefix, None).unwrap();
                let problem = set(&listener, prefix, None).unwrap_err().to_string();
                let expected = "the kernel does not take the key of TCP MD5: ENOENT";
                assert!(problem.starts_with(expected), "{problem}");
            }
        }
    }

    #[test]
    fn a_socket_that_knows_no_signatures_says_so() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = Md5Key::parse(b"secret").unwrap();
        let problem = set_for_only_peer(&socket, [127, 0, 0, 1].into(), &key).unwrap_err();
        let expected = "the kernel does not take the key of TCP MD5: it has no TCP MD5 signatures \
                        (it needs CONFIG_TCP_MD5SIG and Linux 4.13 at least)";
        assert_eq!(problem.to_string(), expected);
    }
}
