//! A tree of nodes as an object of the API: every field that does not fit is named by its path.

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
    Problem, ProblemKind,
    node::{Node, Part, Position, Value, joined},
};

/// Fields of one object that are named; a file of garbage has as many as it has lines.
const MOST_PROBLEMS: usize = 100;

/// Reads an object. A field that does not fit becomes an error and is taken out, so that the rest is
/// read, too.
pub(super) fn read<T: DeserializeOwned + Serialize>(
    node: &mut Node,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let mut refused = Vec::new();
    let object: T = loop {
        match T::deserialize(&*node) {
            Ok(object) => break object,
            Err(error) if refused.len() < MOST_PROBLEMS && !error.path.is_empty() => {
                let path: Vec<Part<'_>> = error.path.iter().rev().map(OwnedPart::part).collect();
                node.remove(&path);
                let path = path
                    .iter()
                    .fold(String::new(), |path, part| joined(&path, *part));
                refused.push(Problem {
                    kind: ProblemKind::NotAllowed,
                    path,
                    position: error.position.unwrap_or(node.position),
                    message: error.message,
                });
            }
            Err(error) => {
                refused.push(Problem {
                    kind: ProblemKind::NotAllowed,
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

/// Fields that were written and not read: the API server would drop them, or refuse them.
fn unknown_fields(
    path: &str,
    written: &Node,
    read: &serde_json::Value,
    problems: &mut Vec<Problem>,
) {
    for (name, node) in written.fields() {
        let Some(known) = read.as_object() else { break };
        let path = joined(path, Part::Field(name));
        match known.get(&**name) {
            Some(read) => unknown_fields(&path, node, read, problems),
            None if node.value == Value::Null => {}
            None => {
                let known = known.keys().map(String::as_str);
                let known: Vec<&str> = known.chain(WORTH_A_HINT).collect();
                let hint = config_text::nearest(name, &known);
                let hint = hint.map_or_else(
                    || "remove it".to_owned(),
                    |nearest| format!("did you mean {nearest}?"),
                );
                problems.push(Problem {
                    kind: ProblemKind::UnknownField,
                    path,
                    position: node.position,
                    message: format!("is not a field of this kind; {hint}"),
                });
            }
        }
    }
    let read = read.as_array().map_or(&[][..], Vec::as_slice);
    for (index, (written, read)) in written.items().iter().zip(read).enumerate() {
        unknown_fields(&joined(path, Part::Index(index)), written, read, problems);
    }
}

/// Fields of Services that matter here and that one may misspell.
const WORTH_A_HINT: [&str; 16] = [
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

/// What does not fit, and where; the path is collected from its end.
#[derive(Debug)]
pub(super) struct Misfit {
    path: Vec<OwnedPart>,
    position: Option<Position>,
    message: String,
}

#[derive(Debug)]
enum OwnedPart {
    Field(Box<str>),
    Index(usize),
}

impl OwnedPart {
    fn part(&self) -> Part<'_> {
        match self {
            Self::Field(name) => Part::Field(name),
            Self::Index(index) => Part::Index(*index),
        }
    }
}

impl Misfit {
    fn new(message: String) -> Self {
        Self {
            path: Vec::new(),
            position: None,
            message,
        }
    }

    fn within(mut self, part: OwnedPart, node: &Node) -> Self {
        self.path.push(part);
        self.position.get_or_insert(node.position);
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a node is none of the other kinds of values that serde knows"
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
        let (kind, cure) = match expected.as_str() {
            "i32" | "i64" | "u32" | "u64" | "a 32-bit integer" => {
                ("a whole number", "write one".to_owned())
            }
            "a string" => ("text", format!("write it in quotes: \"{found}\"")),
            "a boolean" => ("true or false", "write one of them".to_owned()),
            "a sequence" => (
                "a list",
                "write one item a line beginning with -".to_owned(),
            ),
            "IntOrString" => ("a whole number or text", "write one of them".to_owned()),
            _ => ("a set of fields", "write name: value".to_owned()),
        };
        Self::new(format!("{found} is not {kind}; {cure}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        if let Unexpected::Signed(number) = found {
            return Self::new(format!("{number} is too large; write less"));
        }
        Self::invalid_type(found, expected)
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items {
                items: items.iter(),
                index: 0,
            }),
            Value::Fields(fields) => visitor.visit_map(Fields {
                fields: fields.iter(),
                current: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_none(),
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Fields(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Items<'de> {
    items: slice::Iter<'de, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Misfit> {
        let Some(item) = self.items.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        let read = seed.deserialize(item);
        read.map(Some)
            .map_err(|misfit| misfit.within(OwnedPart::Index(index), item))
    }
}

struct Fields<'de> {
    fields: slice::Iter<'de, (Box<str>, Node)>,
    current: Option<&'de (Box<str>, Node)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Misfit> {
        self.current = self.fields.next();
        let Some((name, _)) = self.current else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Misfit> = (**name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let Some((name, node)) = self.current.take() else {
            return Err(de::Error::custom("a value without a name"));
        };
        let read = seed.deserialize(node);
        read.map_err(|misfit| misfit.within(OwnedPart::Field(name.clone()), node))
    }
}
