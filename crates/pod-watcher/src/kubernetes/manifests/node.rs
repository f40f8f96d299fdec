//! YAML or JSON document as a tree with positions.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// A line and a column of a text, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    /// Column in characters, not in bytes.
    pub column: u32,
}

/// A value with its position in the document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct YamlNode {
    /// Position of the value. For the value of a field: position of the field's name.
    pub(super) position: Position,
    pub(super) value: YamlValue,
}

/// The value of a [`YamlNode`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum YamlValue {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Box<str>),
    List(Vec<YamlNode>),
    Fields(Vec<(Box<str>, YamlNode)>),
}

/// A part of the path to a value: the name of a field, or the index in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathPart<'a> {
    Field(&'a str),
    Index(usize),
}

impl YamlNode {
    /// Returns the value of a field; `None` if the node is not an object or lacks the field.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let mut fields = self.fields().iter();
        let (_, node) = fields.find(|(field, _)| **field == *name)?;
        Some(node)
    }

    /// Removes a field and returns its value.
    pub(super) fn take(&mut self, name: &str) -> Option<Self> {
        let fields = self.fields_mut()?;
        let index = fields.iter().position(|(field, _)| **field == *name)?;
        Some(fields.swap_remove(index).1)
    }

    /// Adds a field with a text, at the position of the node, if the node lacks the field.
    pub(super) fn add_if_missing(&mut self, name: &str, text: &str) {
        if self.get(name).is_some() {
            return;
        }
        let position = self.position;
        if let Some(fields) = self.fields_mut() {
            let value = YamlValue::Text(text.into());
            fields.push((name.into(), Self { position, value }));
        }
    }

    pub(super) fn fields_mut(&mut self) -> Option<&mut Vec<(Box<str>, Self)>> {
        if let YamlValue::Fields(fields) = &mut self.value {
            Some(fields)
        } else {
            None
        }
    }

    /// Returns the fields of the node; empty if the node is not an object.
    pub(super) fn fields(&self) -> &[(Box<str>, Self)] {
        if let YamlValue::Fields(fields) = &self.value {
            fields
        } else {
            &[]
        }
    }

    /// Returns the items of the node; empty if the node is not a list.
    pub(super) fn items(&self) -> &[Self] {
        if let YamlValue::List(items) = &self.value {
            items
        } else {
            &[]
        }
    }

    /// Returns the text of the node; `None` if the node is not a text.
    pub(super) fn text(&self) -> Option<&str> {
        if let YamlValue::Text(text) = &self.value {
            Some(text)
        } else {
            None
        }
    }

    /// Removes the field at a path. Replaces an item of a list by null, so that the indexes of the
    /// other items stay.
    pub(super) fn remove(&mut self, path: &[PathPart<'_>]) {
        let Some((first, rest)) = path.split_first() else {
            self.value = YamlValue::Null;
            return;
        };
        match (first, &mut self.value) {
            (PathPart::Field(name), YamlValue::Fields(fields)) => {
                if rest.is_empty() {
                    fields.retain(|(field, _)| **field != **name);
                } else if let Some((_, node)) =
                    fields.iter_mut().find(|(field, _)| **field == **name)
                {
                    node.remove(rest);
                }
            }
            (PathPart::Index(index), YamlValue::List(items)) => {
                if let Some(item) = items.get_mut(*index) {
                    item.remove(rest);
                }
            }
            (PathPart::Field(_) | PathPart::Index(_), _) => {}
        }
    }

    /// Adds the path and the position of each value below this node, whose path is `path`. A path
    /// is written as `spec.ports[0].port`.
    pub(super) fn positions(&self, path: &str, positions: &mut Vec<(Box<str>, Position)>) {
        for (name, node) in self.fields() {
            node.add_position(joined(path, PathPart::Field(name)), positions);
        }
        for (index, node) in self.items().iter().enumerate() {
            node.add_position(joined(path, PathPart::Index(index)), positions);
        }
    }

    fn add_position(&self, path: String, positions: &mut Vec<(Box<str>, Position)>) {
        self.positions(&path, positions);
        positions.push((path.into(), self.position));
    }
}

/// Appends a part to a path.
pub(super) fn joined(path: &str, part: PathPart<'_>) -> String {
    match part {
        PathPart::Field(name) if path.is_empty() => name.to_owned(),
        PathPart::Field(name) => format!("{path}.{name}"),
        PathPart::Index(index) => format!("{path}[{index}]"),
    }
}

impl fmt::Display for YamlNode {
    /// Writes a single value as JSON, and the words "a list" or "a set of fields" for other values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            YamlValue::Null => f.write_str("null"),
            YamlValue::Bool(value) => value.fmt(f),
            YamlValue::Integer(value) => value.fmt(f),
            YamlValue::Float(value) => value.fmt(f),
            YamlValue::Text(text) => write!(f, "{text:?}"),
            YamlValue::List(_) => f.write_str("a list"),
            YamlValue::Fields(_) => f.write_str("a set of fields"),
        }
    }
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned: Spanned<YamlValue> = Spanned::deserialize(deserializer)?;
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

impl<'de> Deserialize<'de> for YamlValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = YamlValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlValue, D::Error> {
        YamlValue::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<YamlValue, E> {
        Ok(YamlValue::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<YamlValue, E> {
        Ok(YamlValue::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<YamlValue, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "no field allows a number above i64::MAX: only messages show it"
        )]
        let float = value as f64;
        Ok(i64::try_from(value).map_or(YamlValue::Float(float), YamlValue::Integer))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<YamlValue, E> {
        Ok(YamlValue::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<YamlValue, E> {
        Ok(YamlValue::Text(text.into()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<YamlValue, E> {
        Ok(YamlValue::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<YamlValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(YamlValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<YamlValue, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            let value: YamlValue = map.next_value()?;
            let position = position(&name);
            fields.push((name.value.into(), YamlNode { position, value }));
        }
        Ok(YamlValue::Fields(fields))
    }
}
