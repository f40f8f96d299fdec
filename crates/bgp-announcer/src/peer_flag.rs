//! Parser of `--peer ADDRESS[:PORT][,asn=NUMBER][,name=NAME][,source=ADDRESS][,md5-key-file=FILE]`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use bgp_packet::Asn;

/// TCP port of BGP (RFC 4271 section 8.2.1).
const BGP_PORT: u16 = 179;

/// A BGP peer, parsed from one value of the flag `--peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFlag {
    /// Address and port of the peer's BGP listener.
    pub address: SocketAddr,
    /// `None`: the AS of `--asn`.
    pub asn: Option<Asn>,
    /// `None`: the address is the name.
    pub name: Option<String>,
    /// Local address of the connection. `None`: the kernel chooses.
    pub source: Option<IpAddr>,
    /// `None`: the file of `--md5-key-file`.
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
                "`{field}` is not understood: give asn=NUMBER, name=NAME, source=ADDRESS or \
                 md5-key-file=FILE"
            )
        };
        let (key, value) = field.split_once('=').ok_or_else(not_understood)?;
        match key {
            "asn" => {
                let asn = value.parse().ok().filter(|asn| !is_reserved(*asn));
                let problem = || {
                    format!(
                        "asn `{value}` is not a usable AS number: give 1 to 4294967294 except the \
                         reserved numbers 23456 and 65535"
                    )
                };
                self.asn = Some(asn.ok_or_else(problem)?);
            }
            "name" if value.is_empty() => {
                return Err("name is empty: give name=NAME, or omit this option".to_owned());
            }
            "name" => self.name = Some(value.to_owned()),
            "source" => {
                let problem = |_| {
                    format!(
                        "source `{value}` is not an IP address: give an address of this host, \
                         such as 192.0.2.11"
                    )
                };
                let source = value.parse().map_err(problem)?;
                if matches!(source, IpAddr::V6(ipv6) if ipv6.is_unicast_link_local()) {
                    return Err(format!(
                        "source `{value}` is a link-local address without a zone: omit source=, \
                         so that the kernel chooses a source address in the zone of the peer"
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

/// Reports whether `asn` is reserved by RFC 7607, RFC 6793 section 9 or RFC 7300.
pub(crate) fn is_reserved(asn: Asn) -> bool {
    matches!(asn, Asn(0 | 23456 | 65535 | u32::MAX))
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, BGP_PORT),
        Err(_) => text.parse().map_err(|_| {
            format!(
                "`{text}` is not an address: give ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT, such as \
                 192.0.2.2 or [2001:db8::2]:1179"
            )
        })?,
    };
    if let SocketAddr::V6(ipv6) = address
        && ipv6.ip().is_unicast_link_local()
        && ipv6.scope_id() == 0
    {
        return Err(format!(
            "`{text}` is a link-local address without a zone: give [{}%NUMBER]:{} with the number \
             that `ip link` shows for the interface, or a global address",
            ipv6.ip(),
            ipv6.port()
        ));
    }
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        return Err(format!(
            "{address} is not the address of a host: give a unicast address and a port from 1 to \
             65535"
        ));
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
    fn a_peer_flag_is_an_address_followed_by_options() {
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
    fn an_invalid_peer_flag_is_rejected_with_the_reason() {
        check(
            "reflector",
            Err(
                "`reflector` is not an address: give ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT, such \
                 as 192.0.2.2 or [2001:db8::2]:1179",
            ),
        );
        check(
            "fe80::1",
            Err(
                "`fe80::1` is a link-local address without a zone: give [fe80::1%NUMBER]:179 with \
                 the number that `ip link` shows for the interface, or a global address",
            ),
        );
        check(
            "fd00::2,source=fe80::1",
            Err(
                "source `fe80::1` is a link-local address without a zone: omit source=, so that the \
                 kernel chooses a source address in the zone of the peer",
            ),
        );
        check("[fe80::1%2]:179", Ok("[fe80::1%2]:179 None None None"));
        check(
            "0.0.0.0",
            Err(
                "0.0.0.0:179 is not the address of a host: give a unicast address and a port from \
                 1 to 65535",
            ),
        );
        check(
            "192.0.2.2:0",
            Err(
                "192.0.2.2:0 is not the address of a host: give a unicast address and a port from \
                 1 to 65535",
            ),
        );
        check(
            "192.0.2.2,as=1",
            Err(
                "`as=1` is not understood: give asn=NUMBER, name=NAME, source=ADDRESS or \
                 md5-key-file=FILE",
            ),
        );
        check(
            "192.0.2.2,asn=0",
            Err(
                "asn `0` is not a usable AS number: give 1 to 4294967294 except the reserved \
                 numbers 23456 and 65535",
            ),
        );
        check(
            "192.0.2.2,source=x",
            Err(
                "source `x` is not an IP address: give an address of this host, such as 192.0.2.11",
            ),
        );
        check(
            "192.0.2.2,name=",
            Err("name is empty: give name=NAME, or omit this option"),
        );
    }
}
