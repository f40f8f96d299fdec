//! A test that each public type of the workspace has a unique name.
//!
//! With unique names, a search for the name of a type finds one definition.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Type names that the crate of each program may define. Such types cannot be confused, because no
/// crate imports a program.
const OF_EACH_PROGRAM: [&str; 4] = ["Args", "Config", "Settings", "StartError"];
const PROGRAMS: [&str; 6] = [
    "bgp-announcer",
    "ipvs-programmer",
    "node-router",
    "pod-watcher",
    "route-reflector",
    "tunnel-init",
];

/// Collects the Rust files below `folder`, except the files of tests and of fuzz targets.
fn collect_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["fuzz", "target", "tests"].contains(&name) {
                collect_sources(&path, files);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}

/// Returns the public types that a file defines at its top level.
fn public_types(text: &str) -> impl Iterator<Item = &str> {
    let definitions = text.lines().filter_map(|line| line.strip_prefix("pub "));
    definitions.filter_map(|definition| {
        let (kind, rest) = definition.split_once(' ')?;
        let is_type = ["enum", "struct", "trait", "type", "union"].contains(&kind);
        let end = rest.find(|letter: char| !letter.is_alphanumeric())?;
        is_type.then_some(&rest[..end])
    })
}

#[test]
fn each_public_type_has_a_unique_name() {
    let mut files = Vec::new();
    for folder in ["crates", "integration"] {
        collect_sources(&Path::new(ROOT).join(folder), &mut files);
    }
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(ROOT).unwrap().display().to_string();
        let is_program = PROGRAMS
            .iter()
            .any(|program| file.starts_with(&format!("crates/{program}/")));
        for name in public_types(&text) {
            if !(is_program && OF_EACH_PROGRAM.contains(&name)) {
                let places = definitions.entry(name.to_owned()).or_default();
                places.push(file.clone());
            }
        }
    }
    assert!(definitions.len() > 300, "{} types", definitions.len());
    let shared: Vec<String> = definitions
        .into_iter()
        .filter(|(_, files)| files.len() > 1)
        .map(|(name, files)| format!("{name}: {}", files.join(", ")))
        .collect();
    assert!(
        shared.is_empty(),
        "give each of these types a unique name:\n{}",
        shared.join("\n")
    );
}

#[test]
fn a_public_type_is_found_by_its_definition() {
    let text =
        "pub struct Peer<T> {\n    pub name: u8,\n}\npub(crate) enum Hidden {}\npub enum State {";
    assert_eq!(public_types(text).collect::<Vec<_>>(), ["Peer", "State"]);
}
