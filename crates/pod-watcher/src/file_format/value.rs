//! Single values as they are written in a file.

use std::{fmt, marker::PhantomData, net::IpAddr, num::NonZeroU16, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};
use virtual_server::{Ports, ServiceRange};

/// `10.1.1.10` or `fd00::10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) IpAddr);

/// `80`, `8000-8999` or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortsText(pub(super) Ports);

/// `80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port(pub(super) NonZeroU16);

/// `10.1.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix(pub(super) ServiceRange);

/// `500ms`, `2s`, `5m`, `1h`, `31d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

/// A value that is written as text, or as a number that reads the same as its text.
trait FromText: Sized {
    const EXPECTED: &'static str;
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for Address {
    const EXPECTED: &'static str = "an IP address such as 10.1.1.10 or fd00::10";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "{text:?} is not an IP address; write one such as 10.1.1.10 or fd00::10 (names \
                 are not looked up)"
            )
        })
    }
}

impl FromText for PortsText {
    const EXPECTED: &'static str = "a port such as 80, a range such as 8000-8999, or all";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(Ports::All)),
            "*" => Err("\"*\" is not how all ports are written; write all".to_owned()),
            text => text.parse().map(Self).map_err(|_| {
                format!(
                    "{text:?} is not a port; write one from 1 to 65535 such as 80, a range such \
                     as 8000-8999, or all"
                )
            }),
        }
    }
}

impl FromText for Port {
    const EXPECTED: &'static str = "a port such as 80";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("{text:?} is not a port; write one from 1 to 65535"))
    }
}

impl FromText for Prefix {
    const EXPECTED: &'static str = "a prefix such as 10.1.1.0/24";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("{text:?} is not a prefix; write one such as 10.1.1.0/24 or fd00:1::/64")
        })
    }
}

impl FromText for Period {
    const EXPECTED: &'static str = "a time with its unit such as 500ms or 2s";

    fn from_text(text: &str) -> Result<Self, String> {
        daemon_runtime::parse_duration(text)
            .map(Self)
            .map_err(|expected| format!("{text:?} is not a time; {expected}"))
    }
}

/// A list that is really there. A field without a value is what remains of a file that is cut off
/// in the middle, so it must not read as an empty list.
pub(super) fn list<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer)?
        .ok_or_else(|| de::Error::custom("a list is missing here; write [] if it shall be empty"))
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! deserialize_from_text {
    ($($value:ty),*) => {$(
        impl<'de> Deserialize<'de> for $value {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextVisitor(PhantomData))
            }
        }
    )*};
}
deserialize_from_text!(Address, PortsText, Port, Prefix, Period);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        let period = Period(Duration::from_millis(500));
        assert_eq!(Period::from_text("500ms"), Ok(period));
        assert!(
            Period::from_text("2")
                .unwrap_err()
                .starts_with("\"2\" is not a time")
        );
    }

    #[test]
    fn all_ports_are_written_as_a_word() {
        assert_eq!(PortsText::from_text("all"), Ok(PortsText(Ports::All)));
        assert!(PortsText::from_text("*").unwrap_err().contains("write all"));
    }
}
