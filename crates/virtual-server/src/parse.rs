//! Values from the text that a person writes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    BadValue, FailureAction, ForwardingMethod, HealthCheckChoice, Ports, Protocol, RealServerState,
    Scheduler, SchedulerFlags, ServiceRange, TunnelKind, VirtualServerId,
    text::{self, FromText, TextError},
};

/// Gives each value of a type its word, the same one in every text.
macro_rules! words {
    ($type:ident, $problem:literal, [$($word:literal = $pattern:pat => $value:expr),*]) => {
        impl $type {
            /// Returns the word of the value.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $($pattern => $word,)*
                }
            }
        }

        impl FromText for $type {
            const EXPECTED: &'static str = "a word";

            fn from_text(text: &str) -> Result<Self, TextError> {
                match text {
                    $($word => Ok($value),)*
                    _ => Err(TextError::UnknownWord(&[$($word),*])),
                }
            }
        }

        impl FromStr for $type {
            type Err = BadValue;

            fn from_str(text: &str) -> Result<Self, BadValue> {
                Self::from_text(text)
                    .map_err(|_| BadValue::new(quoted(text), $problem, allowed(&[$($word),*])))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::word(deserializer, &[$($word),*])
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }
    };
}

words!(
    Protocol,
    "is not a transport protocol",
    [
        "tcp" = Self::Tcp => Self::Tcp,
        "udp" = Self::Udp => Self::Udp,
        "sctp" = Self::Sctp => Self::Sctp
    ]
);
// The flags of `sh` and `mh` are those of their defaults. A word is the kernel's name of the
// scheduler, as in `ip_vs_<name>`.
words!(
    Scheduler,
    "is not a scheduler",
    [
        "rr" = Self::Rr => Self::Rr,
        "wrr" = Self::Wrr => Self::Wrr,
        "lc" = Self::Lc => Self::Lc,
        "wlc" = Self::Wlc => Self::Wlc,
        "sh" = Self::Sh(_) => Self::SH_DEFAULT,
        "mh" = Self::Mh(_) => Self::MH_DEFAULT,
        "sed" = Self::Sed => Self::Sed,
        "nq" = Self::Nq => Self::Nq
    ]
);
// The kind of a tunnel is the default.
words!(
    ForwardingMethod,
    "is not a forwarding method",
    [
        "Masquerade" = Self::Masquerade => Self::Masquerade,
        "DirectRouting" = Self::DirectRouting => Self::DirectRouting,
        "Tunnel" = Self::Tunnel(_) => Self::default()
    ]
);
words!(
    TunnelKind,
    "is not a kind of tunnel",
    ["ipip" = Self::Ipip => Self::Ipip]
);
words!(
    HealthCheckChoice,
    "is not a kind of health check",
    [
        "tcpConnect" = Self::TcpConnect => Self::TcpConnect,
        "none" = Self::None => Self::None
    ]
);
words!(
    FailureAction,
    "is not known",
    [
        "quiesce" = Self::Quiesce => Self::Quiesce,
        "remove" = Self::Remove => Self::Remove
    ]
);
words!(
    RealServerState,
    "is not a state",
    [
        "ready" = Self::Ready => Self::Ready,
        "draining" = Self::Draining => Self::Draining
    ]
);

fn allowed(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => {
            format!("allowed are {} and {last}", first.join(", "))
        }
        words => format!("allowed is {}", words.join("")),
    }
}

impl FromStr for Ports {
    type Err = BadValue;

    /// Takes `80`, `8000-8999` and `*`.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let invalid = |problem: &'static str| {
            BadValue::new(
                quoted(text),
                problem,
                "allowed are a port from 1 to 65535 such as 80, a range such as 8000-8999, and * \
                 for all ports",
            )
        };
        if text == "*" {
            return Ok(Self::All);
        }
        let port = |text: &str| {
            // `parse` alone would take a leading plus sign.
            if !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(invalid("is not a port, a range of ports or *"));
            }
            text.parse::<NonZeroU16>()
                .map_err(|_| invalid("is not a port, a range of ports or *"))
        };
        match text.split_once('-') {
            None => Ok(Self::Single(port(text)?)),
            Some((first, last)) => {
                let (first, last) = (port(first)?, port(last)?);
                if first < last {
                    Ok(Self::Range(first, last))
                } else {
                    Err(invalid("does not end above its first port"))
                }
            }
        }
    }
}

impl FromStr for VirtualServerId {
    type Err = BadValue;

    /// Takes `tcp/10.1.1.10:80`, `udp/[fd00::1]:53`, `tcp/10.1.1.10:8000-8999`,
    /// `tcp/10.1.1.10:*`.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let invalid = |problem: &'static str| {
            BadValue::new(
                quoted(text),
                problem,
                "write it as tcp/10.1.1.10:80, udp/[fd00::1]:53, tcp/10.1.1.10:8000-8999 or \
                 tcp/10.1.1.10:*",
            )
        };
        let (protocol, rest) = text
            .split_once('/')
            .ok_or_else(|| invalid("names no protocol"))?;
        let (address, ports) = rest
            .rsplit_once(':')
            .ok_or_else(|| invalid("names no ports"))?;
        let address = match address
            .strip_prefix('[')
            .map(|address| address.strip_suffix(']'))
        {
            None => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Some(None) => None,
            Some(Some(address)) => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        };
        Ok(Self {
            address: address.ok_or_else(|| invalid("holds no IP address"))?,
            protocol: protocol.parse()?,
            ports: ports.parse()?,
        })
    }
}

impl FromStr for SchedulerFlags {
    type Err = BadValue;

    /// Takes a list such as `fallback,port`, and `none`.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let mut flags = Self::default();
        if text == "none" {
            return Ok(flags);
        }
        for flag in text.split(',').map(str::trim) {
            match flag {
                "fallback" => flags.fallback = true,
                "port" => flags.port = true,
                _ => {
                    return Err(BadValue::new(
                        quoted(text),
                        "is not a list of flags",
                        "allowed are fallback, port, both with a comma between them, and none",
                    ));
                }
            }
        }
        Ok(flags)
    }
}

impl FromStr for ServiceRange {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        text.parse::<IpNet>()
            .map(|prefix| Self { prefix })
            .map_err(|_| {
                BadValue::new(
                    quoted(text),
                    "is not a prefix",
                    "write an address and a length, such as 10.1.1.0/24 or fd00:1::/64",
                )
            })
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Result<String, String> {
        text.parse::<VirtualServerId>()
            .map(|id| id.to_string())
            .map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn an_identifier_reads_back_as_it_is_shown() {
        for text in [
            "tcp/10.1.1.10:80",
            "udp/[fd00::1]:53",
            "sctp/10.1.1.10:8000-8999",
            "tcp/[fd00::1]:*",
        ] {
            assert_eq!(id(text).unwrap(), text);
        }
    }

    #[test]
    fn an_identifier_that_is_none_says_how_to_write_it() {
        for text in [
            "",
            "10.1.1.10:80",
            "tcp/10.1.1.10",
            "tcp/fd00::1:80",
            "tcp/[10.1.1.10]:80",
            "tcp/[fd00::1:80",
        ] {
            let message = id(text).unwrap_err();
            assert!(message.contains("tcp/10.1.1.10:80"), "{message}");
        }
        assert!(
            id("icmp/10.1.1.10:80")
                .unwrap_err()
                .contains("tcp, udp and sctp")
        );
    }

    #[test]
    fn ports_outside_of_their_range_are_refused() {
        for text in [
            "0", "65536", "-1", "+80", "", "80-80", "90-80", "0-80", "80-", "http", "80 ",
        ] {
            assert!(text.parse::<Ports>().is_err(), "{text:?}");
        }
        assert_eq!(
            "90-80".parse::<Ports>().unwrap_err().to_string(),
            "\"90-80\" does not end above its first port; allowed are a port from 1 to \
             65535 such as 80, a range such as 8000-8999, and * for all ports"
        );
    }

    #[test]
    fn every_scheduler_is_found_by_its_name() {
        for name in ["rr", "wrr", "lc", "wlc", "sh", "mh", "sed", "nq"] {
            assert_eq!(name.parse::<Scheduler>().unwrap().word(), name);
        }
        assert!("maglev".parse::<Scheduler>().is_err());
    }

    #[test]
    fn flags_are_a_list() {
        let flags = |fallback, port| SchedulerFlags { fallback, port };
        assert_eq!("fallback, port".parse(), Ok(flags(true, true)));
        assert_eq!("port".parse(), Ok(flags(false, true)));
        assert_eq!("none".parse(), Ok(flags(false, false)));
        for text in ["", "fallback,", "none,port", "fallback port"] {
            assert!(text.parse::<SchedulerFlags>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_refused_with_those_that_are() {
        #[track_caller]
        fn check<T: FromStr<Err = BadValue> + std::fmt::Debug>(text: &str, expected: &str) {
            assert_eq!(text.parse::<T>().unwrap_err().to_string(), expected);
        }
        check::<ForwardingMethod>(
            "tunnel",
            "\"tunnel\" is not a forwarding method; allowed are Masquerade, \
             DirectRouting and Tunnel",
        );
        check::<TunnelKind>("gre", "\"gre\" is not a kind of tunnel; allowed is ipip");
        check::<HealthCheckChoice>(
            "http",
            "\"http\" is not a kind of health check; allowed are tcpConnect \
             and none",
        );
        check::<FailureAction>(
            "drop",
            "\"drop\" is not known; allowed are quiesce and remove",
        );
        check::<RealServerState>(
            "gone",
            "\"gone\" is not a state; allowed are ready and draining",
        );
    }
}
