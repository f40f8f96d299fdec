//! TCP MD5 keys (RFC 2385) and their socket option.

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

/// Longest key in bytes: `TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h.
const MAX_LENGTH: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h: the kernel uses the prefix length in the structure.
const FLAG_PREFIX: u8 = 1;

/// Mode bit: a user that neither owns the file nor belongs to its group has permission to read the
/// file.
const OTHERS_READ: u32 = 0o004;

/// A TCP MD5 key of 1 to 80 bytes, which both sides of a session share. `Debug` does not print the
/// bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Key(Arc<[u8]>);

/// An error while a key was read from a file.
#[derive(Debug, thiserror::Error)]
pub enum Md5KeyError {
    #[error(
        "cannot read the TCP MD5 key file {}; it must be a regular file that this user has \
         permission to read",
        path.display()
    )]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the TCP MD5 key file {} contains {content} instead of a key; write the key of the peers \
         into the file, one line of 1 to {MAX_LENGTH} bytes",
        path.display()
    )]
    NoKey {
        path: PathBuf,
        /// Description of the content. Never the content itself, which could be a secret.
        content: &'static str,
    },
}

impl Md5Key {
    /// Reads a key from a file. A line end after the key is not part of the key. Logs a warning if
    /// all users have permission to read the file.
    ///
    /// # Errors
    /// The file cannot be read or contains no key. The error does not contain the content of the
    /// file.
    pub fn read(path: &Path) -> Result<Self, Md5KeyError> {
        let (bytes, mode) = read_start(path).map_err(|source| Md5KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        if mode & OTHERS_READ != 0 {
            tracing::warn!(
                file = %path.display(),
                mode = format!("{:03o}", mode & 0o777),
                "all users have permission to read a TCP MD5 key file; remove this permission"
            );
        }
        Self::parse(&bytes).map_err(|content| Md5KeyError::NoKey {
            path: path.to_owned(),
            content,
        })
    }

    /// Parses the content of a key file. The error describes the content without quoting it.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, &'static str> {
        let line = file.strip_suffix(b"\n").unwrap_or(file);
        let key = line.strip_suffix(b"\r").unwrap_or(line);
        if key.is_empty() {
            return Err("nothing");
        }
        // The configuration of a router cannot express a key with a line end or a zero byte.
        if key.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
            return Err("several lines or a zero byte");
        }
        if key.len() > MAX_LENGTH {
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

/// Reads at most three bytes more than the longest key: a line end of two bytes, and one byte that
/// shows that the key is too long. A wrong path to a huge file therefore costs no memory. Returns
/// the bytes and the mode of the file.
fn read_start(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let (file, metadata) = open_file(path)?;
    let mode = metadata.permissions().mode();
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH as u64 + 3).read_to_end(&mut bytes)?;
    Ok((bytes, mode))
}

/// `struct tcp_md5sig` of linux/tcp.h, in the byte order of the machine. Each line has the offset
/// of a field, its name, and its length in bytes:
///
/// ```text
///    0  address     128, sockaddr_storage: family (2), port (2), then IPv4 address (4),
///                   or flow label (4) and IPv6 address (16)
///  128  flags       1
///  129  prefix      1, the length of the prefix
///  130  key length  2, the value 0 removes the key
///  132  interface   4
///  136  key         80
/// ```
type Md5Signature = [u8; 136 + MAX_LENGTH];

sockopt_impl!(
    /// The socket option with a prefix length, which Linux has since 4.13.
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

/// Sets the key for all segments from and to the prefix: the kernel signs sent segments and drops
/// received segments without a valid signature. `None` removes the key. For an address in several
/// prefixes, the kernel uses the key of the longest prefix.
///
/// # Errors
/// The kernel rejects the key.
pub(crate) fn set(socket: &impl AsFd, prefix: IpNet, key: Option<&Md5Key>) -> io::Result<()> {
    let reason = match setsockopt(socket, TcpMd5SigExt, &signature(prefix, key)) {
        Ok(()) => return Ok(()),
        Err(Errno::ENOPROTOOPT) => {
            "no support for TCP MD5 signatures (requires Linux 4.13 or later with \
             CONFIG_TCP_MD5SIG)"
                .to_owned()
        }
        Err(Errno::ENOMEM) => {
            "no option memory left on the socket; raise net.core.optmem_max".to_owned()
        }
        Err(other) => other.to_string(),
    };
    let problem = format!("the kernel rejected the TCP MD5 key: {reason}");
    Err(io::Error::other(problem))
}

/// Sets the key of a socket before it connects to `peer`. The key applies to all addresses of the
/// family of `peer`, because the socket connects to one peer only, and NAT can translate the
/// address of this peer.
///
/// # Errors
/// The kernel rejects the key.
pub(crate) fn set_for_only_peer(socket: &impl AsFd, peer: IpAddr, key: &Md5Key) -> io::Result<()> {
    let any = IpNet::new(peer, 0).expect("0 is a valid prefix length for every family");
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
            key.as_ref().map(|key| &*key.0).map_err(|content| *content),
            expected
        );
    }

    #[test]
    fn a_key_is_one_line_without_the_line_end() {
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
    fn the_error_about_a_bad_key_file_has_its_path_but_not_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let refused = |path: &Path| Md5Key::read(path).unwrap_err();
        let missing = refused(&path);
        let expected = format!(
            "cannot read the TCP MD5 key file {}; it must be a regular file that this user has \
             permission to read",
            path.display()
        );
        assert_eq!(missing.to_string(), expected);
        let source = missing.source().unwrap().to_string();
        assert!(source.starts_with("No such file"), "{source}");
        assert!(matches!(refused(folder.path()), Md5KeyError::Read { .. }));
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let source = refused(&fifo).source().unwrap().to_string();
        assert!(
            source.starts_with("a FIFO is not a regular file"),
            "{source}"
        );
        let zero = Path::new("/dev/zero");
        let source = refused(zero).source().unwrap().to_string();
        assert!(
            source.starts_with("a device is not a regular file"),
            "{source}"
        );

        std::fs::write(&path, "secret".repeat(14)).unwrap();
        let expected = format!(
            "the TCP MD5 key file {} contains more than 80 bytes instead of a key; write the key \
             of the peers into the file, one line of 1 to 80 bytes",
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
    fn debug_output_hides_the_key() {
        let key = Md5Key::parse(b"secret").unwrap();
        assert_eq!(
            format!("{:?} {:#?}", key, Some(&key)),
            "Md5Key(hidden) Some(\n    Md5Key(hidden),\n)"
        );
    }

    /// Checks the encoded structure. `expected` lists the offset and value of each field that is
    /// not zero.
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
    fn the_encoded_bytes_match_the_struct_of_the_kernel() {
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

    /// The kernel rejects the removal of a key that is not set. The error of the second removal
    /// therefore shows that the first removal worked.
    #[test]
    fn a_key_is_set_in_the_kernel_until_it_is_removed() {
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
                let expected = "the kernel rejected the TCP MD5 key: ENOENT";
                assert!(problem.starts_with(expected), "{problem}");
            }
        }
    }

    #[test]
    fn setting_a_key_fails_on_a_socket_without_support_for_signatures() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = Md5Key::parse(b"secret").unwrap();
        let problem = set_for_only_peer(&socket, [127, 0, 0, 1].into(), &key).unwrap_err();
        let expected = "the kernel rejected the TCP MD5 key: no support for TCP MD5 signatures \
                        (requires Linux 4.13 or later with CONFIG_TCP_MD5SIG)";
        assert_eq!(problem.to_string(), expected);
    }
}
