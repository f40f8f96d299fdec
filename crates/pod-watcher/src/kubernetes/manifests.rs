//! Objects from files, for those who have no cluster at hand.
//!
//! ```text
//!  paths ─► files ─► documents ─► nodes, each with its line ─► objects
//!                                   └► rules: what an API server checks
//! ```

mod documents;
mod files;
mod mirror;
mod node;
mod rules;
mod typed;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use daemon_runtime::config_file;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Serialize, de::DeserializeOwned};

use self::{
    documents::Document,
    node::{Node, Value},
};
pub use self::{mirror::Endpoints, node::Position};
use super::objects;
use service_catalog::model::{EndpointSlice, ObjectKey, Pod, Service};

/// An object, and what is wrong with it.
#[derive(Debug)]
pub struct Manifest {
    /// Where it begins.
    pub place: Place,
    /// Kind and name.
    pub title: String,
    /// What an API server would refuse; that is not in the object.
    pub problems: Vec<Problem>,
    /// The object; `None`: it has too little to be one.
    pub object: Option<Object>,
    /// Where its fields stand: of the metadata, and of the specification of a Service.
    fields: Box<[(Box<str>, Position)]>,
}

/// An object of a kind that matters.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most of the objects in files are Services and slices"
)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// Endpoints, which a cluster may mirror to slices.
    Endpoints(Endpoints),
    /// A Pod.
    Pod(Pod),
}

/// Where something stands. Shown as `file:line (document 2)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which of the files it is, for the order.
    number: usize,
    /// The file's name.
    pub file: Arc<str>,
    /// Where in the file; `None`: it is about the file.
    pub position: Option<Position>,
    /// Number of the document in the file, from 1.
    pub document: usize,
}

/// Kind of a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The field does not exist.
    UnknownField,
    /// The field has a value that is not allowed, or is missing.
    NotAllowed,
}

/// A field that an API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// The field, such as `spec.ports[0].port`; empty: the whole object.
    pub path: String,
    /// Where it stands in its document, then in its file.
    pub position: Position,
    /// What is wrong with it, and what to do.
    pub message: String,
}

/// What is no object, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Where it stands.
    pub place: Place,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Reads files of one or several documents, YAML or JSON, and folders of them; `-` is standard
/// input. Kinds that do not matter are read too, but left out.
///
/// Returns what can be read, and what is wrong with the rest, in the order in which it stands there.
#[must_use]
pub fn read(paths: &[PathBuf]) -> Vec<Result<Manifest, ManifestError>> {
    let mut found = Vec::new();
    let files = paths.iter().flat_map(|path| files::expand(path));
    for (number, path) in files.enumerate() {
        let read = path.and_then(|path| Ok((files::text(&path)?, path)));
        match read {
            Ok((text, path)) => {
                let file = Place::of_file(number, &path);
                read_text(&file, &text, &mut found);
            }
            Err(unreadable) => found.push(Err(ManifestError {
                place: Place::of_file(number, &unreadable.path),
                message: unreadable.why,
            })),
        }
    }
    found
}

/// The slices that a cluster makes of Endpoints, or why it makes none: Services of the manifests
/// say whether they have a selector.
#[must_use]
pub fn mirror(
    endpoints: Vec<Endpoints>,
    has_selector: &BTreeMap<ObjectKey, bool>,
) -> Vec<(ObjectKey, Result<Vec<EndpointSlice>, String>)> {
    let mirrored = endpoints.into_iter().map(|endpoints| {
        let key = endpoints.key.clone();
        let has_selector = has_selector.get(&key).copied();
        (key, endpoints.mirrored(has_selector))
    });
    mirrored.collect()
}

/// Reads the documents of a text as [`read`] reads those of a file; its name is for messages.
#[must_use]
pub fn parse(file: &str, text: &str) -> Vec<Result<Manifest, ManifestError>> {
    let mut found = Vec::new();
    read_text(&Place::of_file(0, Path::new(file)), text, &mut found);
    found
}

fn read_text(file: &Place, text: &str, found: &mut Vec<Result<Manifest, ManifestError>>) {
    for (document, number) in documents::of(text).zip(1..) {
        let place = Place {
            document: number,
            ..file.clone()
        };
        match config_file::parse::<Node>(document.text, "apiVersion and kind") {
            Ok(mut node) => {
                if is_of_other_kind(&node) {
                    continue;
                }
                // An object begins where its first field does.
                node.position = node
                    .fields()
                    .first()
                    .map_or(node.position, |(_, first)| first.position);
                let reader = Reader {
                    place: &place,
                    document: &document,
                };
                reader.read(node, found);
            }
            Err(problem) => {
                let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
                let position = problem.place.map_or(Position::default(), |at| Position {
                    line: number(at.line),
                    column: number(at.column),
                });
                found.push(Err(ManifestError {
                    place: place.at(document.place(position)),
                    message: problem.message,
                }));
            }
        }
    }
}

/// Whether a document is an object of a kind that does not matter: a Deployment, say.
fn is_of_other_kind(node: &Node) -> bool {
    let kind = node.get("kind").and_then(Node::text);
    let has_version = node.get("apiVersion").and_then(Node::text).is_some();
    has_version && kind.is_some_and(|kind| !kind.ends_with("List") && known(kind).is_none())
}

/// The kinds that matter, and the version in which an API server has each.
const KINDS: [(&str, &str); 4] = [
    ("Service", "v1"),
    ("Endpoints", "v1"),
    ("Pod", "v1"),
    ("EndpointSlice", "discovery.k8s.io/v1"),
];

/// The kind that a text means, whatever the case of its letters.
fn known(kind: &str) -> Option<(&'static str, &'static str)> {
    let mut kinds = KINDS.into_iter();
    kinds.find(|(known, _)| known.eq_ignore_ascii_case(kind))
}

/// Reads the objects of one document.
struct Reader<'a> {
    place: &'a Place,
    document: &'a Document<'a>,
}

impl Reader<'_> {
    fn read(&self, mut node: Node, found: &mut Vec<Result<Manifest, ManifestError>>) {
        let place = self.place.at(self.document.place(node.position));
        let refuse = |message: String| {
            Err(ManifestError {
                place: place.clone(),
                message,
            })
        };
        if !matches!(node.value, Value::Fields(_)) {
            let message = "is not an object; write apiVersion, kind, metadata and spec";
            return found.push(refuse(message.to_owned()));
        }
        let text = |name: &str| node.get(name).and_then(Node::text).unwrap_or_default();
        let (version, kind) = (text("apiVersion").to_owned(), text("kind").to_owned());
        if version.is_empty() || kind.is_empty() {
            return found.push(refuse("names no apiVersion or kind; write both".to_owned()));
        }
        if let Some(kind) = kind.strip_suffix("List") {
            if let Some(Value::List(items)) = node.take("items").map(|items| items.value) {
                for mut item in items {
                    item.position = item
                        .fields()
                        .first()
                        .map_or(item.position, |(_, first)| first.position);
                    // The items of a typed list need not say their kind again.
                    if !kind.is_empty() {
                        item.add_if_missing("kind", kind);
                        item.add_if_missing("apiVersion", &version);
                    }
                    self.read(item, found);
                }
            }
            return;
        }
        let Some((known, its_version)) = known(&kind) else {
            return;
        };
        let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
        if group(&version) != group(its_version) {
            return;
        }
        if known != kind {
            let message = format!("kind: {kind:?} is not known; did you mean {known}?");
            return found.push(refuse(message));
        }
        if version != its_version {
            let message = format!(
                "apiVersion: {version:?} is not one of {kind} that an API server has; write \
                 {its_version}"
            );
            return found.push(refuse(message));
        }
        found.push(Ok(self.manifest(place, known, node)));
    }

    fn manifest(&self, place: Place, kind: &str, mut node: Node) -> Manifest {
        let title = format!("{kind} {}", object_name(&mut node));
        let mut problems = Vec::new();
        rules::of_metadata(&node, &mut problems);
        not_text(&mut node, &mut problems);
        let object = match kind {
            "Service" => {
                rules::of_service(&node, &mut problems);
                object(&mut node, &mut problems, |service: core::Service| {
                    Object::Service(objects::service(service))
                })
            }
            "EndpointSlice" => {
                rules::of_slice(&node, &mut problems);
                object(
                    &mut node,
                    &mut problems,
                    |slice: discovery::EndpointSlice| {
                        Object::EndpointSlice(objects::endpoint_slice(slice))
                    },
                )
            }
            "Endpoints" => {
                rules::of_endpoints(&node, &mut problems);
                object(&mut node, &mut problems, |endpoints: core::Endpoints| {
                    Object::Endpoints(endpoints.into())
                })
            }
            _ => object(&mut node, &mut problems, |pod: core::Pod| {
                Object::Pod(objects::pod(pod))
            }),
        };
        problems.sort_by_key(|problem| problem.position);
        problems.dedup_by(|one, other| one.path == other.path && one.position == other.position);
        let has_name = node
            .get("metadata")
            .is_some_and(|metadata| metadata.get("name").is_some());
        let mut fields = Vec::new();
        let parts: &[&str] = match kind {
            "Service" => &["metadata", "spec"],
            _ => &["metadata"],
        };
        for part in parts {
            if let Some(part_node) = node.get(part) {
                part_node.positions(part, &mut fields);
            }
        }
        for (_, position) in &mut fields {
            *position = self.document.place(*position);
        }
        for problem in &mut problems {
            problem.position = self.document.place(problem.position);
        }
        Manifest {
            place,
            title,
            problems,
            object: object.filter(|_| has_name),
            fields: fields.into(),
        }
    }
}

fn object<T: DeserializeOwned + Serialize>(
    node: &mut Node,
    problems: &mut Vec<Problem>,
    convert: impl FnOnce(T) -> Object,
) -> Option<Object> {
    typed::read(node, problems).map(convert)
}

/// `namespace/name`. Where no namespace is written, it is filled in.
fn object_name(node: &mut Node) -> String {
    let metadata = node.fields_mut().and_then(|fields| {
        let mut fields = fields.iter_mut();
        fields.find(|(name, _)| &**name == "metadata")
    });
    let Some((_, metadata)) = metadata else {
        return String::new();
    };
    metadata.add_if_missing("namespace", "default");
    let text = |name: &str| metadata.get(name).and_then(Node::text).unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Annotations and labels that are not text are told of and taken out: YAML reads a number where
/// quotes are missing.
fn not_text(node: &mut Node, problems: &mut Vec<Problem>) {
    let metadata = node.fields_mut().and_then(|fields| {
        let mut fields = fields.iter_mut();
        fields.find(|(name, _)| &**name == "metadata")
    });
    let metadata = metadata.and_then(|(_, metadata)| metadata.fields_mut());
    for (field, node) in metadata.into_iter().flatten() {
        let kind = match &**field {
            "annotations" => "annotation",
            "labels" => "label",
            _ => continue,
        };
        let Some(entries) = node.fields_mut() else {
            continue;
        };
        entries.retain(|(name, value)| {
            let is_text = value.text().is_some();
            if !is_text {
                problems.push(Problem {
                    kind: ProblemKind::NotAllowed,
                    path: format!("{kind} {name}"),
                    position: value.position,
                    message: format!("{value} is not text; write it in quotes: \"{value}\""),
                });
            }
            is_text
        });
    }
}

impl Manifest {
    /// The Service, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<&Service> {
        match &self.object {
            Some(Object::Service(service)) => Some(service),
            Some(Object::EndpointSlice(_) | Object::Endpoints(_) | Object::Pod(_)) | None => None,
        }
    }

    /// Where the field or the annotation stands, or what holds it.
    #[must_use]
    pub fn place_of(&self, field: &str) -> Place {
        let path = match field.strip_prefix("annotation ") {
            Some(name) => format!("metadata.annotations.{name}"),
            None => field.to_owned(),
        };
        let mut path = path.as_str();
        while !path.is_empty() {
            let found = self.fields.iter().find(|(its, _)| **its == *path);
            if let Some((_, position)) = found {
                return self.place.at(*position);
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
        self.place.clone()
    }

    /// Where the first of our annotations stands.
    #[must_use]
    pub fn place_of_annotations(&self) -> Place {
        let ours = format!("metadata.annotations.{}", service_catalog::model::PREFIX);
        let its = self
            .fields
            .iter()
            .filter(|(path, _)| path.starts_with(&ours));
        let first = its.map(|(_, position)| *position).min();
        first.map_or_else(|| self.place.clone(), |position| self.place.at(position))
    }

    /// Whether the part of the object has a field of its own that does not exist.
    #[must_use]
    pub fn has_unknown_field_in(&self, part: &str) -> bool {
        let mut problems = self.problems.iter();
        problems.any(|problem| {
            let parent = problem.path.rsplit_once('.').map(|(parent, _)| parent);
            parent == Some(part) && problem.kind == ProblemKind::UnknownField
        })
    }

    /// Bytes that are kept of the text that it was read from.
    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(path, _)| path.len());
        fields.sum::<usize>() + self.title.len() + self.place.file.len()
    }

    /// Whether a field cannot be judged, since something in it, or that it is in, is wrong.
    #[must_use]
    pub fn is_in_doubt(&self, field: &str) -> bool {
        let mut problems = self.problems.iter();
        !field.is_empty()
            && problems
                .any(|problem| problem.path.starts_with(field) || field.starts_with(&problem.path))
    }
}

impl Place {
    /// The place of a whole file.
    fn of_file(number: usize, path: &Path) -> Self {
        Self {
            number,
            file: path.display().to_string().into(),
            position: None,
            document: 0,
        }
    }

    /// Another position in the document.
    fn at(&self, position: Position) -> Self {
        Self {
            position: Some(position),
            ..self.clone()
        }
    }

    /// The place of a problem of the object that stands here.
    #[must_use]
    pub fn of(&self, problem: &Problem) -> Self {
        self.at(problem.position)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, .. } = self;
        match self.position {
            Some(Position { line, .. }) => write!(f, "{file}:{line} (document {document})"),
            None => f.write_str(file),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
