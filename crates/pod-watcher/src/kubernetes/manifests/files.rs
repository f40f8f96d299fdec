//! Manifest files at the paths on the command line.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// File name extensions of manifests in a folder, as for kubectl.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Configuration files of kustomize, which have no objects.
const KUSTOMIZE_FILES: [&str; 2] = ["kustomization.yaml", "kustomization.yml"];

/// Largest size of a file in bytes. A file with 50,000 Services is smaller.
const LARGEST_FILE: u64 = 64 << 20;

/// Largest depth of a folder below the folder on the command line.
const DEEPEST_FOLDER: usize = 32;

/// A path that cannot be read.
#[derive(Debug)]
pub(super) struct UnreadablePath {
    pub(super) path: PathBuf,
    /// Text with the problem and a suggestion.
    pub(super) message: String,
}

/// Returns the manifest files of a folder and of the folders in it, sorted by name; for a path that
/// is not a folder, the path itself. A manifest file of a folder is a regular file with one of
/// [`EXTENSIONS`] that is neither hidden nor one of [`KUSTOMIZE_FILES`].
pub(super) fn expand(path: &Path) -> Vec<Result<PathBuf, UnreadablePath>> {
    if !path.is_dir() {
        return vec![Ok(path.to_owned())];
    }
    let mut files = Vec::new();
    walk(path, 0, &mut files);
    if files.is_empty() {
        files.push(Err(UnreadablePath {
            path: path.to_owned(),
            message: "has no file that ends in .yaml, .yml or .json; write a folder with manifests"
                .into(),
        }));
    }
    files
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<Result<PathBuf, UnreadablePath>>) {
    let refuse = |message: String| {
        Err(UnreadablePath {
            path: folder.to_owned(),
            message,
        })
    };
    if depth > DEEPEST_FOLDER {
        let message = format!(
            "is within more than {DEEPEST_FOLDER} folders; write this folder on the command line"
        );
        return files.push(refuse(message));
    }
    let listed = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = match listed {
        Ok(entries) => entries,
        Err(error) => return files.push(refuse(unreadable(&error))),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // `file_type` does not follow a symbolic link, which can lead back to this folder.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let extension = path.extension().and_then(|extension| extension.to_str());
        if name.starts_with('.') || KUSTOMIZE_FILES.contains(&&*name) {
            continue;
        }
        if is_folder {
            walk(&path, depth + 1, files);
        } else if extension.is_some_and(|it| EXTENSIONS.contains(&it)) && path.is_file() {
            files.push(Ok(path));
        }
    }
}

/// Returns the text of a file; `-` is standard input.
pub(super) fn text(path: &Path) -> Result<String, UnreadablePath> {
    let read = if path.as_os_str() == "-" {
        limited(io::stdin().lock())
    } else {
        File::open(path).and_then(limited)
    };
    read.map_err(|error| UnreadablePath {
        path: path.to_owned(),
        message: unreadable(&error),
    })
}

fn limited(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        let message = format!("more than {} MiB", LARGEST_FILE >> 20);
        return Err(io::Error::other(message));
    }
    Ok(text)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}; write a readable file with manifests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_files_of_a_folder_are_listed_by_name() {
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
        let files = expand(folder.path()).into_iter();
        let files: Vec<PathBuf> = files.map(Result::unwrap).collect();
        assert_eq!(files, [at("a.yaml"), at("b/deep/x.yml"), at("c.json")]);
        let empty = expand(&at("empty")).pop().unwrap().unwrap_err();
        assert!(empty.message.contains("has no file"), "{empty:?}");
    }

    #[test]
    fn a_file_of_more_than_64_mib_and_a_missing_file_are_refused() {
        let error = limited(io::repeat(b' ')).unwrap_err();
        assert_eq!(error.to_string(), "more than 64 MiB");
        assert!(text(Path::new("/nonexistent")).is_err());
    }
}
