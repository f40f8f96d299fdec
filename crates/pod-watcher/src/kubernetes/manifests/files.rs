//! The files that paths of the command line name.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Endings of the files of a folder that are read, as by kubectl.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// Files of a folder that are for kustomize and hold no objects.
const OF_KUSTOMIZE: [&str; 2] = ["kustomization.yaml", "kustomization.yml"];

/// Largest file, in bytes: that of 50,000 Services is smaller.
const LARGEST: u64 = 64 << 20;

/// Most folders within each other.
const DEEPEST: usize = 32;

/// What a path cannot be read for.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) why: String,
}

/// A folder stands for its files of manifests and those of its folders, by name; what is hidden and
/// what is not a regular file in it is left out.
pub(super) fn expand(path: &Path) -> Vec<Result<PathBuf, Unreadable>> {
    if !path.is_dir() {
        return vec![Ok(path.to_owned())];
    }
    let mut found = Vec::new();
    walk(path, 0, &mut found);
    if found.is_empty() {
        found.push(Err(Unreadable {
            path: path.to_owned(),
            why: "holds no file that ends in .yaml, .yml or .json; name a folder that does".into(),
        }));
    }
    found
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<Result<PathBuf, Unreadable>>) {
    let refuse = |why: String| {
        Err(Unreadable {
            path: folder.to_owned(),
            why,
        })
    };
    if depth > DEEPEST {
        let why = format!("lies within more than {DEEPEST} folders; name it by itself");
        return found.push(refuse(why));
    }
    let listed = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = match listed {
        Ok(entries) => entries,
        Err(error) => return found.push(refuse(unreadable(&error))),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // A link to a folder may lead back to this one.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let ending = path.extension().and_then(|ending| ending.to_str());
        if name.starts_with('.') || OF_KUSTOMIZE.contains(&&*name) {
            continue;
        }
        if is_folder {
            walk(&path, depth + 1, found);
        } else if ending.is_some_and(|ending| ENDINGS.contains(&ending)) && path.is_file() {
            found.push(Ok(path));
        }
    }
}

/// The text of a file; `-` is standard input.
pub(super) fn text(path: &Path) -> Result<String, Unreadable> {
    let read = if path.as_os_str() == "-" {
        limited(io::stdin().lock())
    } else {
        File::open(path).and_then(limited)
    };
    read.map_err(|error| Unreadable {
        path: path.to_owned(),
        why: unreadable(&error),
    })
}

fn limited(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        let why = format!("more than {} MiB", LARGEST >> 20);
        return Err(io::Error::other(why));
    }
    Ok(text)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}; name a readable file of manifests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/deep")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        for name in [
            "c.json",
            "a.yaml",
            "b/deep/x.yml",
            ".hidden.yaml",
            "kustomization.yaml",
            "read.me",
        ] {
            fs::write(at(name), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), at("loop.yaml")).unwrap();
        let found = expand(folder.path()).into_iter();
        let found: Vec<PathBuf> = found.map(Result::unwrap).collect();
        assert_eq!(found, [at("a.yaml"), at("b/deep/x.yml"), at("c.json")]);
        let nothing = expand(&at("empty")).pop().unwrap().unwrap_err();
        assert!(nothing.why.contains("holds no file"), "{nothing:?}");
    }

    #[test]
    fn a_file_without_an_end_is_read_up_to_the_limit() {
        let error = limited(io::repeat(b' ')).unwrap_err();
        assert_eq!(error.to_string(), "more than 64 MiB");
        assert!(text(Path::new("/nonexistent")).is_err());
    }
}
