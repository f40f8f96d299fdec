//! A check that zettabgp is a private dependency.
//!
//! A change of zettabgp must not change the public interface of this crate.

use std::{fs, path::Path};

/// The only source file, except tests, whose code may name zettabgp.
const USER: &str = "nlri.rs";

#[test]
fn no_public_signature_names_zettabgp() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.iter().any(|(name, _)| name == USER));
    for (name, text) in files {
        let code = || {
            text.lines()
                .filter(|line| !line.trim_start().starts_with("//"))
        };
        if name != USER {
            let named = code().find(|line| line.contains("zettabgp"));
            assert_eq!(named, None, "{name}");
            continue;
        }
        // No item of `nlri.rs` is public outside of this crate.
        for line in code() {
            let line = line.trim_start();
            assert!(
                !line.starts_with("pub ") && !line.starts_with("pub use"),
                "{line}"
            );
        }
    }
}

/// Collects the names and texts of all source files except tests.
fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}
