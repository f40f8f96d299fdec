//! Parser of manifests in files.
//!
//! The commands `render` and `validate` read manifests without a cluster.
//!
//! ```text
//!  paths ─► files ─► documents ─► nodes with lines ─► objects
//!                                   └► rules: checks of the API server
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
    documents::ManifestDocument,
    node::{YamlNode, YamlValue},
};
pub use self::{mirror::Endpoints, node::Position};
use super::objects;
use service_catalog::model::{EndpointSlice, ObjectKey, Pod, Service};

/// An object of a manifest, and its problems.
#[derive(Debug)]
pub struct Manifest {
    /// Place of the first field of the object.
    pub place: ManifestPlace,
    /// Kind, namespace and name, such as `Service shop/web`.
    pub title: String,
    /// Fields that the API server would refuse. `object` lacks these fields.
    pub problems: Vec<ManifestProblem>,
    /// `None`: the object has no name, or cannot be deserialized.
    pub object: Option<ManifestObject>,
    /// Positions of the fields in the metadata, and in the specification of a Service, by path.
    fields: Box<[(Box<str>, Position)]>,
}

/// An object of a kind that pod-watcher uses.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most of the objects in files are Services and slices"
)]
pub enum ManifestObject {
    Service(Service),
    EndpointSlice(EndpointSlice),
    /// An object of kind Endpoints (`v1`), which a cluster mirrors to EndpointSlices under the
    /// conditions that the module `mirror` checks.
    Endpoints(Endpoints),
    Pod(Pod),
}

/// A place in the files of a command. Displayed as `file:line (document 2)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestPlace {
    /// Number of the file in the order in which the command reads its files. Places are sorted by
    /// this number.
    number: usize,
    /// Path of the file.
    pub file: Arc<str>,
    /// Line and column in the file. `None`: the whole file.
    pub position: Option<Position>,
    /// Number of the document in the file, from 1. 0: the whole file.
    pub document: usize,
}

/// Kind of a [`ManifestProblem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestProblemKind {
    /// The API has no field with this name.
    UnknownField,
    /// The value of the field is not allowed, or a required field is missing.
    NotAllowed,
}

/// A field that the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestProblem {
    pub kind: ManifestProblemKind,
    /// Path of the field, such as `spec.ports[0].port`. Empty: the whole object.
    pub path: String,
    /// Line and column of the field. While a document is parsed, they count from the beginning of
    /// the document; in a [`Manifest`], from the beginning of the file.
    pub position: Position,
    /// Text with the problem and a suggestion.
    pub message: String,
}

/// A file or a document without a valid object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    pub place: ManifestPlace,
    /// Text with the problem and a suggestion.
    pub message: String,
}

/// Reads the manifests in files and folders; `-` is standard input. A file has one or several
/// documents, in YAML or JSON. Ignores objects of kinds that pod-watcher does not use.
///
/// Returns each object or its error, in the order of the files and documents.
#[must_use]
pub fn read(paths: &[PathBuf]) -> Vec<Result<Manifest, ManifestError>> {
    let mut results = Vec::new();
    let files = paths.iter().flat_map(|path| files::expand(path));
    for (number, path) in files.enumerate() {
        let read = path.and_then(|path| Ok((files::text(&path)?, path)));
        match read {
            Ok((text, path)) => {
                let file = ManifestPlace::of_file(number, &path);
                read_text(&file, &text, &mut results);
            }
            Err(unreadable) => results.push(Err(ManifestError {
                place: ManifestPlace::of_file(number, &unreadable.path),
                message: unreadable.message,
            })),
        }
    }
    results
}

/// Returns, for each object of kind Endpoints, its name and the EndpointSlices to which a cluster
/// mirrors the object, or the reason why the cluster does not mirror it. `has_selector` has, for
/// each Service of the manifests, whether the Service has a selector.
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

/// Parses the manifests in `text`. `file` is the name of the file in messages.
#[must_use]
pub fn parse(file: &str, text: &str) -> Vec<Result<Manifest, ManifestError>> {
    let mut results = Vec::new();
    let place = ManifestPlace::of_file(0, Path::new(file));
    read_text(&place, text, &mut results);
    results
}

fn read_text(file: &ManifestPlace, text: &str, results: &mut Vec<Result<Manifest, ManifestError>>) {
    for (document, number) in documents::of(text).zip(1..) {
        let place = ManifestPlace {
            document: number,
            ..file.clone()
        };
        match config_file::parse::<YamlNode>(document.text, "apiVersion and kind") {
            Ok(mut node) => {
                if is_of_other_kind(&node) {
                    continue;
                }
                // The place of an object is the place of its first field, not of a `---` before it.
                node.position = node
                    .fields()
                    .first()
                    .map_or(node.position, |(_, first)| first.position);
                let reader = ManifestReader {
                    place: &place,
                    document: &document,
                };
                reader.read(node, results);
            }
            Err(problem) => {
                let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
                let position = problem.place.map_or(Position::default(), |at| Position {
                    line: number(at.line),
                    column: number(at.column),
                });
                results.push(Err(ManifestError {
                    place: place.at(document.place(position)),
                    message: problem.message,
                }));
            }
        }
    }
}

/// Reports whether a document is an object of a kind that pod-watcher does not use, such as a
/// Deployment.
fn is_of_other_kind(node: &YamlNode) -> bool {
    let kind = node.get("kind").and_then(YamlNode::text);
    let has_version = node.get("apiVersion").and_then(YamlNode::text).is_some();
    has_version && kind.is_some_and(|kind| !kind.ends_with("List") && known(kind).is_none())
}

/// Kinds that pod-watcher uses, with the apiVersion of each.
const KINDS: [(&str, &str); 4] = [
    ("Service", "v1"),
    ("Endpoints", "v1"),
    ("Pod", "v1"),
    ("EndpointSlice", "discovery.k8s.io/v1"),
];

/// Returns the item of [`KINDS`] for a kind. Ignores the case of letters.
fn known(kind: &str) -> Option<(&'static str, &'static str)> {
    let mut kinds = KINDS.into_iter();
    kinds.find(|(known, _)| known.eq_ignore_ascii_case(kind))
}

/// Converter of one document to manifests.
struct ManifestReader<'a> {
    place: &'a ManifestPlace,
    document: &'a ManifestDocument<'a>,
}

impl ManifestReader<'_> {
    fn read(&self, mut node: YamlNode, results: &mut Vec<Result<Manifest, ManifestError>>) {
        let place = self.place.at(self.document.place(node.position));
        let refuse = |message: String| {
            Err(ManifestError {
                place: place.clone(),
                message,
            })
        };
        if !matches!(node.value, YamlValue::Fields(_)) {
            let message = "is not an object; write apiVersion, kind, metadata and spec";
            return results.push(refuse(message.to_owned()));
        }
        let text = |name: &str| node.get(name).and_then(YamlNode::text).unwrap_or_default();
        let (version, kind) = (text("apiVersion").to_owned(), text("kind").to_owned());
        if version.is_empty() || kind.is_empty() {
            let message = "has no apiVersion or no kind; write both";
            return results.push(refuse(message.to_owned()));
        }
        if let Some(kind) = kind.strip_suffix("List") {
            if let Some(YamlValue::List(items)) = node.take("items").map(|items| items.value) {
                for mut item in items {
                    item.position = item
                        .fields()
                        .first()
                        .map_or(item.position, |(_, first)| first.position);
                    // The items of a typed list, such as a ServiceList, can omit kind and
                    // apiVersion.
                    if !kind.is_empty() {
                        item.add_if_missing("kind", kind);
                        item.add_if_missing("apiVersion", &version);
                    }
                    self.read(item, results);
                }
            }
            return;
        }
        let Some((known, known_version)) = known(&kind) else {
            return;
        };
        let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned());
        if group(&version) != group(known_version) {
            return;
        }
        if known != kind {
            let message = format!("kind: {kind:?} does not exist; did you mean {known}?");
            return results.push(refuse(message));
        }
        if version != known_version {
            let message = format!(
                "apiVersion: {version:?} of {kind} does not exist in present API servers; write \
                 {known_version}"
            );
            return results.push(refuse(message));
        }
        results.push(Ok(self.manifest(place, known, node)));
    }

    fn manifest(&self, place: ManifestPlace, kind: &str, mut node: YamlNode) -> Manifest {
        let title = format!("{kind} {}", object_name(&mut node));
        let mut problems = Vec::new();
        rules::of_metadata(&node, &mut problems);
        remove_non_text(&mut node, &mut problems);
        let object = match kind {
            "Service" => {
                rules::of_service(&node, &mut problems);
                object(&mut node, &mut problems, |service: core::Service| {
                    ManifestObject::Service(objects::service(service))
                })
            }
            "EndpointSlice" => {
                rules::of_slice(&node, &mut problems);
                object(
                    &mut node,
                    &mut problems,
                    |slice: discovery::EndpointSlice| {
                        ManifestObject::EndpointSlice(objects::endpoint_slice(slice))
                    },
                )
            }
            "Endpoints" => {
                rules::of_endpoints(&node, &mut problems);
                object(&mut node, &mut problems, |endpoints: core::Endpoints| {
                    ManifestObject::Endpoints(endpoints.into())
                })
            }
            _ => object(&mut node, &mut problems, |pod: core::Pod| {
                ManifestObject::Pod(objects::pod(pod))
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
    node: &mut YamlNode,
    problems: &mut Vec<ManifestProblem>,
    convert: impl FnOnce(T) -> ManifestObject,
) -> Option<ManifestObject> {
    typed::read(node, problems).map(convert)
}

/// Returns `namespace/name` of an object. Adds the namespace `default` to an object without a
/// namespace.
fn object_name(node: &mut YamlNode) -> String {
    let metadata = node.fields_mut().and_then(|fields| {
        let mut fields = fields.iter_mut();
        fields.find(|(name, _)| &**name == "metadata")
    });
    let Some((_, metadata)) = metadata else {
        return String::new();
    };
    metadata.add_if_missing("namespace", "default");
    let text = |name: &str| {
        metadata
            .get(name)
            .and_then(YamlNode::text)
            .unwrap_or_default()
    };
    format!("{}/{}", text("namespace"), text("name"))
}

/// Removes annotations and labels that are not text, and adds a problem for each. A number without
/// quotes is not text in YAML.
fn remove_non_text(node: &mut YamlNode, problems: &mut Vec<ManifestProblem>) {
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
                problems.push(ManifestProblem {
                    kind: ManifestProblemKind::NotAllowed,
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
    /// Returns the Service; `None` if the object is of another kind.
    #[must_use]
    pub fn service(&self) -> Option<&Service> {
        match &self.object {
            Some(ManifestObject::Service(service)) => Some(service),
            Some(
                ManifestObject::EndpointSlice(_)
                | ManifestObject::Endpoints(_)
                | ManifestObject::Pod(_),
            )
            | None => None,
        }
    }

    /// Returns the place of a field or an annotation. If the object does not have the field or
    /// annotation: the place of the innermost field around it that the object has, or else the
    /// place of the object.
    #[must_use]
    pub fn place_of(&self, field: &str) -> ManifestPlace {
        let path = match field.strip_prefix("annotation ") {
            Some(name) => format!("metadata.annotations.{name}"),
            None => field.to_owned(),
        };
        let mut path = path.as_str();
        while !path.is_empty() {
            let field = self.fields.iter().find(|(known, _)| **known == *path);
            if let Some((_, position)) = field {
                return self.place.at(*position);
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
        self.place.clone()
    }

    /// Returns the place of the first annotation of portlb; the place of the object if the object
    /// has no such annotation.
    #[must_use]
    pub fn place_of_annotations(&self) -> ManifestPlace {
        let prefix = format!("metadata.annotations.{}", service_catalog::model::PREFIX);
        let fields = self.fields.iter();
        let annotations = fields.filter(|(path, _)| path.starts_with(&prefix));
        let first = annotations.map(|(_, position)| *position).min();
        first.map_or_else(|| self.place.clone(), |position| self.place.at(position))
    }

    /// Reports whether the manifest has a field directly in `part` (such as `spec`) that the API
    /// does not have.
    #[must_use]
    pub fn has_unknown_field_in(&self, part: &str) -> bool {
        let mut problems = self.problems.iter();
        problems.any(|problem| {
            let parent = problem.path.rsplit_once('.').map(|(parent, _)| parent);
            parent == Some(part) && problem.kind == ManifestProblemKind::UnknownField
        })
    }

    /// Returns the number of bytes of the paths of fields, of the title and of the file name that
    /// this manifest stores.
    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(path, _)| path.len());
        fields.sum::<usize>() + self.title.len() + self.place.file.len()
    }

    /// Reports whether the manifest has a problem in the field, in a field within this field, or in
    /// a field around it. In this case a check of the field would report a second problem with the
    /// cause of the first problem.
    #[must_use]
    pub fn is_in_doubt(&self, field: &str) -> bool {
        let mut problems = self.problems.iter();
        !field.is_empty()
            && problems
                .any(|problem| problem.path.starts_with(field) || field.starts_with(&problem.path))
    }
}

impl ManifestPlace {
    fn of_file(number: usize, path: &Path) -> Self {
        Self {
            number,
            file: path.display().to_string().into(),
            position: None,
            document: 0,
        }
    }

    /// Returns the place at `position` in the document of this place.
    fn at(&self, position: Position) -> Self {
        Self {
            position: Some(position),
            ..self.clone()
        }
    }

    /// Returns the place of a problem of the object at this place.
    #[must_use]
    pub fn of(&self, problem: &ManifestProblem) -> Self {
        self.at(problem.position)
    }
}

impl fmt::Display for ManifestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, .. } = self;
        match self.position {
            Some(Position { line, .. }) => write!(f, "{file}:{line} (document {document})"),
            None => f.write_str(file),
        }
    }
}

impl fmt::Display for ManifestProblem {
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
