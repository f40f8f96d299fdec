//! Objects from files, for those who have no cluster at hand.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use daemon_runtime::config_file;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::model::{EndpointSlice, Pod, Service};

/// An object and where it stands.
#[derive(Debug)]
pub struct Manifest {
    /// Where it stands.
    pub place: Place,
    /// The object.
    pub object: Object,
}

/// An object of a kind that matters.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are as many as a person has written files"
)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
}

/// Where something stands. Shown as `file:line (document 2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: String,
    line: usize,
    document: usize,
    /// The document, for the line of a word in it.
    text: String,
}

/// What is wrong, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    place: String,
    message: String,
}

/// Reads files of one or several documents, YAML or JSON; `-` is standard input. Kinds that do not
/// matter are read too, but left out.
///
/// Returns what can be read, and what is wrong with the rest, in the order in which it stands there.
#[must_use]
pub fn read(paths: &[PathBuf]) -> Vec<Result<Manifest, ManifestError>> {
    let mut found = Vec::new();
    for path in paths {
        match text_of(path) {
            Ok(text) => parse(&path.display().to_string(), &text, &mut found),
            Err(error) => found.push(Err(ManifestError {
                place: path.display().to_string(),
                message: format!("cannot be read: {error}; name a readable file of manifests"),
            })),
        }
    }
    found
}

fn text_of(path: &Path) -> std::io::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

/// Reads the documents of a text; the file's name is for messages.
pub(crate) fn parse(file: &str, text: &str, found: &mut Vec<Result<Manifest, ManifestError>>) {
    for place in documents(file, text) {
        match config_file::parse::<Value>(&place.text, "apiVersion and kind") {
            Ok(value) => read_value(&place, value, found),
            Err(problem) => {
                let line = problem.place.map_or(1, |at| at.line);
                let line = place.line + usize::try_from(line - 1).unwrap_or_default();
                found.push(Err(ManifestError {
                    place: Place { line, ..place }.to_string(),
                    message: problem.message,
                }));
            }
        }
    }
}

/// A line that begins with `---` begins a document, wherever it stands (YAML 1.2, section 9.1.2).
fn documents(file: &str, text: &str) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let place = |line: usize| Place {
        file: file.to_owned(),
        line,
        document: 1,
        text: String::new(),
    };
    let mut current = place(1);
    for (line, number) in text.lines().zip(1..) {
        let begins = line == "---" || line.starts_with("--- ");
        if begins {
            places.push(std::mem::replace(&mut current, place(number)));
        } else {
            current.text.push_str(line);
        }
        current.text.push('\n');
    }
    places.push(current);
    let says_nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    places.retain(|place| !place.text.lines().all(says_nothing));
    for (place, document) in places.iter_mut().zip(1..) {
        place.document = document;
    }
    places
}

fn read_value(place: &Place, value: Value, found: &mut Vec<Result<Manifest, ManifestError>>) {
    let mut refuse = |message: &str| {
        found.push(Err(ManifestError {
            place: place.to_string(),
            message: message.to_owned(),
        }));
    };
    let Value::Object(mut fields) = value else {
        return refuse("is not an object; write apiVersion, kind, metadata and spec");
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion").to_owned(), text("kind").to_owned());
    if version.is_empty() || kind.is_empty() {
        return refuse("names no apiVersion or kind; write both");
    }
    if let Some(kind) = kind.strip_suffix("List") {
        if let Some(Value::Array(items)) = fields.remove("items") {
            for mut item in items {
                // The items of a typed list need not say their kind again.
                if let (Value::Object(item), false) = (&mut item, kind.is_empty()) {
                    item.entry("kind").or_insert_with(|| kind.into());
                    item.entry("apiVersion")
                        .or_insert_with(|| version.as_str().into());
                }
                read_value(place, item, found);
            }
        }
        return;
    }
    let name = object_name(&mut fields);
    let object = match (version.as_str(), kind.as_str()) {
        ("v1", "Service") => typed::<core::Service>(fields).map(|o| Object::Service(o.into())),
        ("v1", "Pod") => typed::<core::Pod>(fields).map(|o| Object::Pod(o.into())),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            typed::<discovery::EndpointSlice>(fields).map(|o| Object::EndpointSlice(o.into()))
        }
        _ => return,
    };
    match object {
        Ok(object) => found.push(Ok(Manifest {
            place: place.clone(),
            object,
        })),
        Err(problems) => {
            let at = |problem: String| (place.at(subject(&problem)), problem);
            let mut problems: Vec<(Place, String)> = problems.into_iter().map(at).collect();
            problems.sort_by_key(|(place, _)| place.line);
            found.extend(problems.into_iter().map(|(place, problem)| {
                Err(ManifestError {
                    place: place.to_string(),
                    message: format!("{kind} {name}: {problem}"),
                })
            }));
        }
    }
}

/// `namespace/name`. Where no namespace is written, it is filled in.
fn object_name(fields: &mut Map<String, Value>) -> String {
    let Some(Value::Object(metadata)) = fields.get_mut("metadata") else {
        return String::new();
    };
    metadata
        .entry("namespace")
        .or_insert_with(|| "default".into());
    let text = |name: &str| {
        metadata
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    format!("{}/{}", text("namespace"), text("name"))
}

/// An object of a known type; fields that the type does not have are refused, since the API server
/// would drop them or refuse them too.
fn typed<T: DeserializeOwned + Serialize>(fields: Map<String, Value>) -> Result<T, Vec<String>> {
    let mut problems = Vec::new();
    let metadata = fields.get("metadata");
    if metadata.and_then(|metadata| metadata.get("name")).is_none() {
        problems.push("metadata.name: is missing; write it".to_owned());
    }
    let annotations = metadata.and_then(|metadata| metadata.get("annotations"));
    for (name, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        if !value.is_string() {
            problems.push(format!(
                "annotation {name}: {value} is not text; write it in quotes: \"{value}\""
            ));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let written = Value::Object(fields);
    let object: T =
        serde_json::from_value(written.clone()).map_err(|error| vec![error.to_string()])?;
    let read = serde_json::to_value(&object).unwrap_or_default();
    unknown_fields("", &written, &read, &mut problems);
    if problems.is_empty() {
        Ok(object)
    } else {
        Err(problems)
    }
}

/// Fields that were written and not read.
fn unknown_fields(path: &str, written: &Value, read: &Value, problems: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (name, value) in written {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                match read.get(name) {
                    Some(read) => unknown_fields(&path, value, read, problems),
                    None if value.is_null() => {}
                    None => {
                        let known: Vec<&str> = read.keys().map(String::as_str).collect();
                        let hint = config_file::nearest(name, &known);
                        let hint = hint.or_else(|| config_file::nearest(name, &WORTH_A_HINT));
                        let hint = hint.map_or_else(
                            || "remove it".to_owned(),
                            |nearest| format!("did you mean {nearest}?"),
                        );
                        problems.push(format!("{path}: is not a field of this kind; {hint}"));
                    }
                }
            }
        }
        (Value::Array(written), Value::Array(read)) => {
            for (index, (written, read)) in written.iter().zip(read).enumerate() {
                unknown_fields(&format!("{path}[{index}]"), written, read, problems);
            }
        }
        _ => {}
    }
}

/// Fields of Services that matter here and that one may misspell.
const WORTH_A_HINT: [&str; 12] = [
    "annotations",
    "externalIPs",
    "externalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "targetPort",
];

/// The annotation or the last part of the field that a message begins with.
pub(crate) fn subject(message: &str) -> &str {
    let subject = message.strip_prefix("annotation ").unwrap_or(message);
    let subject = subject.split(": ").next().unwrap_or(subject);
    if subject.contains('/') {
        return subject;
    }
    subject.rsplit('.').next().unwrap_or(subject)
}

impl Place {
    /// The same document, at the line of the word if it has it.
    #[must_use]
    pub fn at(&self, word: &str) -> Self {
        let lines = self.text.lines().zip(0..);
        let mut found = lines.filter(|(line, _)| line.contains(word));
        let offset = found.next().map_or(0, |(_, offset)| offset);
        Self {
            line: self.line + offset,
            ..self.clone()
        }
    }

    /// Its line in the file, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            document,
            ..
        } = self;
        write!(f, "{file}:{line} (document {document})")
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
