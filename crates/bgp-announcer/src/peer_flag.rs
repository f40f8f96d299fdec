//! `--peer ADDRESS[:PORT][,asn=NUMBER][,name=NAME][,source=ADDRESS][,md5-key-file=FILE]`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use bgp_packet::Asn;

/// Port of BGP (RFC 4271 section 8.2.1).
const BGP_PORT: u16 = 179;

/// One value of `--peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFlag {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its AS, if it is not ours.
    pub asn: Option<Asn>,
    /// What it is called, if not by its address.
    pub name: Option<String>,
    /// Source address of the connection.
    pub source: Option<IpAddr>,
    /// Where its key is, if it is not that of all peers.
    pub md5_key_file: Option<PathBuf>,
}

impl FromStr for PeerFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = text.split(',');
        let mut peer = Self {
            address: parse_address(fields.next().unwrap_or_default())?,
            asn: None,
            name: None,
            source: None,
            md5_key_file: None,
        };
        for field in fields {
            peer.set(field)?;
        }
        Ok(peer)
    }
}

impl PeerFlag {
    fn set(&mut self, field: &str) -> Result<(), String> {
        let not_understood = || {
            format!(
                "`{field}` is not understood: use asn=NUMBER, name=NAME, source=ADDRESS or \
                 md5-key-file=FILE"
            )
        };
        let (key, value) = field.split_once('=').ok_or_else(not_understood)?;
        match key {
            "asn" => {
                let asn = value.parse().ok().filter(|asn| !is_reserved(*asn));
                let problem = || {
                    format!(
                        "asn `{value}` is no AS number to use: give 1 to 4294967294, but none of \
                         the reserved 23456 and 65535"
                    )
                };
                self.asn = Some(asn.ok_or_else(problem)?);
            }
            "name" if value.is_empty() => return Err("name is empty: leave it out".to_owned()),
            "name" => self.name = Some(value.to_owned()),
            "source" => {
                let problem = |_| format!("source `{value}` is no IP address");
                let source = value.parse().map_err(problem)?;
                if matches!(source, IpAddr::V6(ipv6) if ipv6.is_unicast_link_local()) {
                    return Err(format!(
                        "source `{value}` is link-local, which says nothing without its zone: leave \
                         it out, the kernel chooses it by the zone of the peer"
                    ));
                }
                self.source = Some(source);
            }
            "md5-key-file" => self.md5_key_file = Some(value.into()),
            _ => return Err(not_understood()),
        }
        Ok(())
    }
}

/// RFC 7607, RFC 6793 section 9, RFC 7300.
pub(crate) fn is_reserved(asn: Asn) -> bool {
    matches!(asn, Asn(0 | 23456 | 65535 | u32::MAX))
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, BGP_PORT),
        Err(_) => text.parse().map_err(|_| {
            format!(
                "`{text}` is no address: use ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT, such as \
                 192.0.2.2 or [2001:db8::2]:1179"
            )
        })?,
    };
    if let SocketAddr::V6(ipv6) = address
        && ipv6.ip().is_unicast_link_local()
        && ipv6.scope_id() == 0
    {
        return Err(format!(
            "`{text}` is link-local and lacks its zone: use [{}%NUMBER]:{}, with the number that `ip \
             link` shows for the interface, or a global address",
            ipv6.ip(),
            ipv6.port()
        ));
    }
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        return Err(format!("nobody can be reached at {address}"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        let parsed = text.parse::<PeerFlag>().map(|peer| {
            let PeerFlag {
                address,
                asn,
                name,
                source,
                md5_key_file,
            } = peer;
            let key = md5_key_file.map(|file| format!(" {}", file.display()));
            let key = key.unwrap_or_default();
            format!("{address} {asn:?} {name:?} {source:?}{key}")
        });
        assert_eq!(parsed.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_peer_is_an_address_with_options() {
        check("192.0.2.2", Ok("192.0.2.2:179 None None None"));
        check("192.0.2.2:1179", Ok("192.0.2.2:1179 None None None"));
        check("2001:db8::2", Ok("[2001:db8::2]:179 None None None"));
        check(
            "[2001:db8::2]:1179",
            Ok("[2001:db8::2]:1179 None None None"),
        );
        check(
            "192.0.2.2,asn=64513,name=tor-a,source=192.0.2.9",
            Ok("192.0.2.2:179 Some(Asn(64513)) Some(\"tor-a\") Some(192.0.2.9)"),
        );
        check(
            "192.0.2.2,md5-key-file=/run/secrets/key",
            Ok("192.0.2.2:179 None None None /run/secrets/key"),
        );
    }

    #[test]
    fn what_is_wrong_with_a_peer_is_said() {
        check(
            "reflector",
            Err(
                "`reflector` is no address: use ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT, such as \
                 192.0.2.2 or [2001:db8::2]:1179",
            ),
        );
        check(
            "fe80::1",
            Err(
                "`fe80::1` is link-local and lacks its zone: use [fe80::1%NUMBER]:179, with the \
                 number that `ip link` shows for the interface, or a global address",
            ),
        );
        check(
            "fd00::2,source=fe80::1",
            Err(
                "source `fe80::1` is link-local, which says nothing without its zone: leave it out, \
                 the kernel chooses it by the zone of the peer",
            ),
        );
        check("[fe80::1%2]:179", Ok("[fe80::1%2]:179 None None None"));
        check("0.0.0.0", Err("nobody can be reached at 0.0.0.0:179"));
        check("192.0.2.2:0", Err("nobody can be reached at 192.0.2.2:0"));
        check(
            "192.0.2.2,as=1",
            Err(
                "`as=1` is not understood: use asn=NUMBER, name=NAME, source=ADDRESS or \
                 md5-key-file=FILE",
            ),
        );
        check(
            "192.0.2.2,asn=0",
            Err(
                "asn `0` is no AS number to use: give 1 to 4294967294, but none of the reserved \
                 23456 and 65535",
            ),
        );
        check("192.0.2.2,source=x", Err("source `x` is no IP address"));
        check("192.0.2.2,name=", Err("name is empty: leave it out"));
    }
}
