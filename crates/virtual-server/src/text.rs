//! Text forms of single values, for serde.

use std::{fmt, marker::PhantomData, net::IpAddr, num::NonZeroU16, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, EnumAccess, VariantAccess, Visitor},
};

use crate::{Ports, ServiceRange};

/// A value that is written as text. A number is accepted if its decimal text is a valid form of the
/// value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// A type whose values can be read from text.
pub trait FromText: Sized {
    /// The expected form, for error messages: "an IP address such as 10.1.1.10".
    const EXPECTED: &'static str;

    /// Reads a value from its text.
    ///
    /// # Errors
    ///
    /// Returns the problem and the allowed forms.
    fn from_text(text: &str) -> Result<Self, TextError>;
}

/// The reason why a text is not a valid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextError {
    /// The text is none of these words.
    UnknownWord(&'static [&'static str]),
    /// A complete message with the problem and the allowed forms.
    Refused(String),
}

/// Reads a value from its text.
///
/// # Errors
///
/// Fails if the text is not a valid value.
pub fn required<'de, T: FromText, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let Text(value) = Text::deserialize(deserializer)?;
    Ok(value)
}

/// Reads an optional value from its text. Null gives `None`.
///
/// # Errors
///
/// Fails if the text is not a valid value.
pub fn optional<'de, T: FromText, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<Text<T>>::deserialize(deserializer)?;
    Ok(text.map(|Text(value)| value))
}

/// Reads a value. Null gives the default.
pub(crate) fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a value that is written as one of `words`.
pub(crate) fn word<'de, T: FromText, D: Deserializer<'de>>(
    deserializer: D,
    words: &'static [&'static str],
) -> Result<T, D::Error> {
    deserializer.deserialize_enum("word", words, WordVisitor(PhantomData))
}

/// Reports whether a value is the default, so that a serializer can leave its field out.
#[must_use]
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Writes a duration in the largest unit in which it is a whole number.
///
/// # Errors
///
/// Fails if the serializer fails.
pub fn duration<S: Serializer>(period: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&config_text::format_duration(*period))
}

/// Writes an optional duration in the largest unit in which it is a whole number.
///
/// # Errors
///
/// Fails if the serializer fails.
pub fn optional_duration<S: Serializer>(
    period: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    period
        .map(config_text::format_duration)
        .serialize(serializer)
}

impl FromText for IpAddr {
    const EXPECTED: &'static str = "an IP address such as 10.1.1.10 or fd00::10";

    fn from_text(text: &str) -> Result<Self, TextError> {
        text.parse().map_err(|_| {
            TextError::Refused(format!(
                "{text:?} is not an IP address; write one such as 10.1.1.10 or fd00::10 (names \
                 are not looked up)"
            ))
        })
    }
}

impl FromText for Ports {
    const EXPECTED: &'static str = "a port such as 80, a range such as 8000-8999, or all";

    fn from_text(text: &str) -> Result<Self, TextError> {
        let refused = match text {
            "all" => return Ok(Self::All),
            "*" => "\"*\" is not accepted for all ports; write all".to_owned(),
            text => match text.parse() {
                Ok(ports) => return Ok(ports),
                Err(_) => format!(
                    "{text:?} is not a port; write one from 1 to 65535 such as 80, a range such \
                     as 8000-8999, or all"
                ),
            },
        };
        Err(TextError::Refused(refused))
    }
}

impl FromText for NonZeroU16 {
    const EXPECTED: &'static str = "a port such as 80";

    fn from_text(text: &str) -> Result<Self, TextError> {
        text.parse().map_err(|_| {
            TextError::Refused(format!("{text:?} is not a port; write one from 1 to 65535"))
        })
    }
}

impl FromText for ServiceRange {
    const EXPECTED: &'static str = "a prefix such as 10.1.1.0/24";

    fn from_text(text: &str) -> Result<Self, TextError> {
        text.parse().map_err(|_| {
            TextError::Refused(format!(
                "{text:?} is not a prefix; write one such as 10.1.1.0/24 or fd00:1::/64"
            ))
        })
    }
}

impl FromText for Duration {
    const EXPECTED: &'static str = "a time with its unit such as 500ms or 2s";

    fn from_text(text: &str) -> Result<Self, TextError> {
        config_text::parse_duration(text)
            .map_err(|expected| TextError::Refused(format!("{text:?} is not a time; {expected}")))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(|error| match error {
            TextError::UnknownWord(known) => E::unknown_variant(text, known),
            TextError::Refused(refused) => E::custom(refused),
        })
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

/// Reads a word in the way in which serde reads a unit variant of an enum. If the word were read as
/// a string, serde's errors would not contain its position in the file.
struct WordVisitor<T>(PhantomData<T>);

struct Word<T>(T);

impl<'de, T: FromText> Visitor<'de> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<T, A::Error> {
        let (Word(value), variant) = access.variant()?;
        variant.unit_variant()?;
        Ok(value)
    }
}

impl<'de, T: FromText> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_identifier(TextVisitor(PhantomData))?;
        Ok(Self(value))
    }
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(TextVisitor(PhantomData))?;
        Ok(Self(value))
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        required(deserializer)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Single(port) => port.serialize(serializer),
            Self::Range(..) => serializer.collect_str(self),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for ServiceRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        required(deserializer)
    }
}

impl Serialize for ServiceRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_without_a_unit_is_rejected() {
        assert_eq!(Duration::from_text("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(
            Duration::from_text("2"),
            Err(TextError::Refused(
                "\"2\" is not a time; expected a whole number with its unit: 500ms, 10s, 2m, 1h \
                 or 7d"
                    .to_owned()
            ))
        );
    }

    #[test]
    fn all_ports_are_read_from_the_word_all_and_not_from_an_asterisk() {
        assert_eq!(Ports::from_text("all"), Ok(Ports::All));
        let refused = "\"*\" is not accepted for all ports; write all";
        assert_eq!(
            Ports::from_text("*"),
            Err(TextError::Refused(refused.to_owned()))
        );
    }
}
