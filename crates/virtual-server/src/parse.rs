//! Parsers of the words and values that users write.

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

/// Implements the conversions between the values of an enum and their words. Each value has the
/// same word in flags, files and annotations.
macro_rules! words {
    ($type:ident, $problem:literal, [$($word:literal = $pattern:pat => $value:expr),*]) => {
        impl $type {
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
// Each word is the kernel's name of the scheduler, as in the module name `ip_vs_<name>`. The words
// `sh` and `mh` give the default flags.
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
// The word `Tunnel` gives the default tunnel kind.
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
    "is not a failure action",
    [
        "quiesce" = Self::Quiesce => Self::Quiesce,
        "remove" = Self::Remove => Self::Remove
    ]
);
words!(
    RealServerState,
    "is not a real server state",
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

    /// Accepts `80`, `8000-8999` and `*`.
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
            // `parse::<NonZeroU16>` would accept a leading plus sign.
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
                    Err(invalid(
                        "has a last port that is not greater than its first port",
                    ))
                }
            }
        }
    }
}

impl FromStr for VirtualServerId {
    type Err = BadValue;

    /// Accepts `tcp/10.1.1.10:80`, `udp/[fd00::1]:53`, `tcp/10.1.1.10:8000-8999` and
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
            .ok_or_else(|| invalid("has no protocol"))?;
        let (address, ports) = rest
            .rsplit_once(':')
            .ok_or_else(|| invalid("has no ports"))?;
        let address = match address
            .strip_prefix('[')
            .map(|address| address.strip_suffix(']'))
        {
            None => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Some(None) => None,
            Some(Some(address)) => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        };
        Ok(Self {
            address: address.ok_or_else(|| invalid("has no valid IP address"))?,
            protocol: protocol.parse()?,
            ports: ports.parse()?,
        })
    }
}

impl FromStr for SchedulerFlags {
    type Err = BadValue;

    /// Accepts a list such as `fallback,port`, and `none`.
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
                        "is not a list of scheduler flags",
                        "write none, fallback, port, or both flags with a comma (fallback,port)",
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
                    "write one such as 10.1.1.0/24 or fd00:1::/64",
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
    fn a_virtual_server_id_parses_to_the_text_that_it_displays() {
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
    fn an_invalid_virtual_server_id_is_rejected_with_the_valid_forms() {
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
    fn invalid_ports_are_rejected() {
        for text in [
            "0", "65536", "-1", "+80", "", "80-80", "90-80", "0-80", "80-", "http", "80 ",
        ] {
            assert!(text.parse::<Ports>().is_err(), "{text:?}");
        }
        assert_eq!(
            "90-80".parse::<Ports>().unwrap_err().to_string(),
            "\"90-80\" has a last port that is not greater than its first port; allowed are a port \
             from 1 to 65535 such as 80, a range such as 8000-8999, and * for all ports"
        );
    }

    #[test]
    fn every_scheduler_is_parsed_from_its_name() {
        for name in ["rr", "wrr", "lc", "wlc", "sh", "mh", "sed", "nq"] {
            assert_eq!(name.parse::<Scheduler>().unwrap().word(), name);
        }
        assert!("maglev".parse::<Scheduler>().is_err());
    }

    #[test]
    fn scheduler_flags_are_parsed_from_a_list_or_none() {
        let flags = |fallback, port| SchedulerFlags { fallback, port };
        assert_eq!("fallback, port".parse(), Ok(flags(true, true)));
        assert_eq!("port".parse(), Ok(flags(false, true)));
        assert_eq!("none".parse(), Ok(flags(false, false)));
        for text in ["", "fallback,", "none,port", "fallback port"] {
            assert!(text.parse::<SchedulerFlags>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_unknown_word_is_rejected_with_the_allowed_words() {
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
            "\"drop\" is not a failure action; allowed are quiesce and remove",
        );
        check::<RealServerState>(
            "gone",
            "\"gone\" is not a real server state; allowed are ready and draining",
        );
    }
}
