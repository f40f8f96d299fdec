//! A YAML or JSON document as a tree whose nodes know where they stand.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// A line and a column of a text, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// A value and where it stands: a field stands where its name does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Box<str>),
    List(Vec<Node>),
    Fields(Vec<(Box<str>, Node)>),
}

/// A part of a [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Field(&'a str),
    Index(usize),
}

impl Node {
    /// The field of that name.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Fields(fields) => {
                let mut fields = fields.iter();
                let (_, node) = fields.find(|(its, _)| **its == *name)?;
                Some(node)
            }
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => None,
        }
    }

    /// Takes the field of that name out.
    pub(super) fn take(&mut self, name: &str) -> Option<Self> {
        let fields = self.fields_mut()?;
        let place = fields.iter().position(|(its, _)| **its == *name)?;
        Some(fields.swap_remove(place).1)
    }

    /// Adds a field that is not there yet; it stands where the whole does.
    pub(super) fn add_if_missing(&mut self, name: &str, text: &str) {
        if self.get(name).is_some() {
            return;
        }
        let position = self.position;
        if let Some(fields) = self.fields_mut() {
            let value = Value::Text(text.into());
            fields.push((name.into(), Self { position, value }));
        }
    }

    pub(super) fn fields_mut(&mut self) -> Option<&mut Vec<(Box<str>, Self)>> {
        match &mut self.value {
            Value::Fields(fields) => Some(fields),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => None,
        }
    }

    /// Its fields; none if it is something else.
    pub(super) fn fields(&self) -> &[(Box<str>, Self)] {
        match &self.value {
            Value::Fields(fields) => fields,
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => &[],
        }
    }

    /// Its items; none if it is something else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Fields(_) => &[],
        }
    }

    /// The text, if it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Fields(_) => None,
        }
    }

    /// Takes out what stands at the path.
    pub(super) fn remove(&mut self, path: &[Part<'_>]) {
        let Some((first, rest)) = path.split_first() else {
            self.value = Value::Null;
            return;
        };
        match (first, &mut self.value) {
            (Part::Field(name), Value::Fields(fields)) => {
                if rest.is_empty() {
                    fields.retain(|(its, _)| **its != **name);
                } else if let Some((_, node)) = fields.iter_mut().find(|(its, _)| **its == **name) {
                    node.remove(rest);
                }
            }
            (Part::Index(index), Value::List(items)) => {
                if let Some(item) = items.get_mut(*index) {
                    item.remove(rest);
                }
            }
            (Part::Field(_) | Part::Index(_), _) => {}
        }
    }

    /// Where each field below stands, by its path, such as `spec.ports[0].port`.
    pub(super) fn positions(&self, path: &str, found: &mut Vec<(Box<str>, Position)>) {
        for (name, node) in self.fields() {
            node.add_position(joined(path, Part::Field(name)), found);
        }
        for (index, node) in self.items().iter().enumerate() {
            node.add_position(joined(path, Part::Index(index)), found);
        }
    }

    fn add_position(&self, path: String, found: &mut Vec<(Box<str>, Position)>) {
        self.positions(&path, found);
        found.push((path.into(), self.position));
    }
}

/// A path with one part more.
pub(super) fn joined(path: &str, part: Part<'_>) -> String {
    match part {
        Part::Field(name) if path.is_empty() => name.to_owned(),
        Part::Field(name) => format!("{path}.{name}"),
        Part::Index(index) => format!("{path}[{index}]"),
    }
}

impl fmt::Display for Node {
    /// As JSON writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => value.fmt(f),
            Value::Integer(value) => value.fmt(f),
            Value::Float(value) => value.fmt(f),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(_) => f.write_str("a list"),
            Value::Fields(_) => f.write_str("a set of fields"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned: Spanned<Value> = Spanned::deserialize(deserializer)?;
        Ok(Self {
            position: position(&spanned),
            value: spanned.value,
        })
    }
}

fn position<T>(spanned: &Spanned<T>) -> Position {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Position {
        line: number(spanned.referenced.line()),
        column: number(spanned.referenced.column()),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "no field takes such a number; it is only shown"
        )]
        let float = value as f64;
        Ok(i64::try_from(value).map_or(Value::Float(float), Value::Integer))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            let value: Value = map.next_value()?;
            let position = position(&name);
            fields.push((name.value.into(), Node { position, value }));
        }
        Ok(Value::Fields(fields))
    }
}
