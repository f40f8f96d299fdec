//! Conversion of a tree of nodes to an object of the API.

use std::{fmt, slice};

use serde::{
    Deserializer, Serialize,
    de::{
        self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    ManifestProblem, ManifestProblemKind,
    node::{PathPart, Position, YamlNode, YamlValue, joined},
};

/// Largest number of fields of the wrong type in one object. An object with more such fields cannot
/// be read: a file that is not a manifest could have such a field in each line.
const MOST_PROBLEMS: usize = 100;

/// Deserializes an object. Adds a problem for each field of the wrong type, and removes the field,
/// so that the other fields are read, too. Returns `None` if no object can be read.
pub(super) fn read<T: DeserializeOwned + Serialize>(
    node: &mut YamlNode,
    problems: &mut Vec<ManifestProblem>,
) -> Option<T> {
    let mut refused = Vec::new();
    let object: T = loop {
        match T::deserialize(&*node) {
            Ok(object) => break object,
            Err(error) if refused.len() < MOST_PROBLEMS && !error.path.is_empty() => {
                let path: Vec<PathPart<'_>> =
                    error.path.iter().rev().map(OwnedPathPart::part).collect();
                node.remove(&path);
                let path = path
                    .iter()
                    .fold(String::new(), |path, part| joined(&path, *part));
                refused.push(ManifestProblem {
                    kind: ManifestProblemKind::NotAllowed,
                    path,
                    position: error.position.unwrap_or(node.position),
                    message: error.message,
                });
            }
            Err(error) => {
                refused.push(ManifestProblem {
                    kind: ManifestProblemKind::NotAllowed,
                    path: String::new(),
                    position: node.position,
                    message: error.message,
                });
                problems.append(&mut refused);
                return None;
            }
        }
    };
    problems.append(&mut refused);
    if let Ok(read) = serde_json::to_value(&object) {
        unknown_fields("", node, &read, problems);
    }
    Some(object)
}

/// Adds a problem for each field that is in the manifest and not in the object: the API server
/// would drop or refuse the field.
fn unknown_fields(
    path: &str,
    written: &YamlNode,
    read: &serde_json::Value,
    problems: &mut Vec<ManifestProblem>,
) {
    for (name, node) in written.fields() {
        let Some(known) = read.as_object() else { break };
        let path = joined(path, PathPart::Field(name));
        match known.get(&**name) {
            Some(read) => unknown_fields(&path, node, read, problems),
            None if node.value == YamlValue::Null => {}
            None => {
                let known = known.keys().map(String::as_str);
                let known: Vec<&str> = known.chain(FIELDS_OF_SERVICES).collect();
                let hint = config_text::nearest(name, &known);
                let hint = hint.map_or_else(
                    || "remove it".to_owned(),
                    |nearest| format!("did you mean {nearest}?"),
                );
                problems.push(ManifestProblem {
                    kind: ManifestProblemKind::UnknownField,
                    path,
                    position: node.position,
                    message: format!("is not a field of this kind; {hint}"),
                });
            }
        }
    }
    let read = read.as_array().map_or(&[][..], Vec::as_slice);
    for (index, (written, read)) in written.items().iter().zip(read).enumerate() {
        unknown_fields(
            &joined(path, PathPart::Index(index)),
            written,
            read,
            problems,
        );
    }
}

/// Fields of Services that are suggested for a misspelt field, also if the object does not have
/// them.
const FIELDS_OF_SERVICES: [&str; 16] = [
    "annotations",
    "externalIPs",
    "externalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "nodePort",
    "protocol",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "targetPort",
    "trafficDistribution",
    "type",
];

/// A field of the wrong type.
#[derive(Debug)]
pub(super) struct WrongType {
    /// Path of the field. The innermost part comes first.
    path: Vec<OwnedPathPart>,
    position: Option<Position>,
    message: String,
}

#[derive(Debug)]
enum OwnedPathPart {
    Field(Box<str>),
    Index(usize),
}

impl OwnedPathPart {
    fn part(&self) -> PathPart<'_> {
        match self {
            Self::Field(name) => PathPart::Field(name),
            Self::Index(index) => PathPart::Index(*index),
        }
    }
}

impl WrongType {
    fn new(message: String) -> Self {
        Self {
            path: Vec::new(),
            position: None,
            message,
        }
    }

    fn within(mut self, part: OwnedPathPart, node: &YamlNode) -> Self {
        self.path.push(part);
        self.position.get_or_insert(node.position);
        self
    }
}

impl fmt::Display for WrongType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WrongType {}

impl de::Error for WrongType {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a node is none of the other types of values in serde"
    )]
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Str(text) => format!("{text:?}"),
            Unexpected::Signed(number) => number.to_string(),
            Unexpected::Float(number) => number.to_string(),
            Unexpected::Bool(value) => value.to_string(),
            Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a set of fields".to_owned(),
            other => other.to_string(),
        };
        let expected = expected.to_string();
        let (kind, suggestion) = match expected.as_str() {
            "i32" | "i64" | "u32" | "u64" | "a 32-bit integer" => {
                ("a whole number", "write a whole number".to_owned())
            }
            "a string" => ("text", format!("write it in quotes: \"{found}\"")),
            "a boolean" => ("true or false", "write true or false".to_owned()),
            "a sequence" => (
                "a list",
                "write each item in a line that begins with -".to_owned(),
            ),
            "IntOrString" => (
                "a whole number or text",
                "write a number or a name".to_owned(),
            ),
            _ => ("a set of fields", "write name: value".to_owned()),
        };
        Self::new(format!("{found} is not {kind}; {suggestion}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        if let Unexpected::Signed(number) = found {
            return Self::new(format!("{number} is too large; write a smaller number"));
        }
        Self::invalid_type(found, expected)
    }
}

impl<'de> Deserializer<'de> for &'de YamlNode {
    type Error = WrongType;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match &self.value {
            YamlValue::Null => visitor.visit_unit(),
            YamlValue::Bool(value) => visitor.visit_bool(*value),
            YamlValue::Integer(number) => visitor.visit_i64(*number),
            YamlValue::Float(number) => visitor.visit_f64(*number),
            YamlValue::Text(text) => visitor.visit_borrowed_str(text),
            YamlValue::List(items) => visitor.visit_seq(Items {
                items: items.iter(),
                index: 0,
            }),
            YamlValue::Fields(fields) => visitor.visit_map(Fields {
                fields: fields.iter(),
                current: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        if self.value == YamlValue::Null {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, WrongType> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Items<'de> {
    items: slice::Iter<'de, YamlNode>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = WrongType;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, WrongType> {
        let Some(item) = self.items.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        let read = seed.deserialize(item);
        read.map(Some)
            .map_err(|wrong_type| wrong_type.within(OwnedPathPart::Index(index), item))
    }
}

struct Fields<'de> {
    fields: slice::Iter<'de, (Box<str>, YamlNode)>,
    current: Option<&'de (Box<str>, YamlNode)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = WrongType;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, WrongType> {
        self.current = self.fields.next();
        let Some((name, _)) = self.current else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, WrongType> = (**name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, WrongType> {
        let Some((name, node)) = self.current.take() else {
            return Err(de::Error::custom("a value without a name"));
        };
        let read = seed.deserialize(node);
        read.map_err(|wrong_type| wrong_type.within(OwnedPathPart::Field(name.clone()), node))
    }
}
