//! YAML configuration files: parsing, errors and change notification.

mod file_watcher;
mod suggestion;

use std::{
    fmt, io,
    panic::resume_unwind,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, MessageFormatter, UserMessageFormatter};

pub use config_text::nearest;
pub use file_watcher::{FileWatcher, WatchError};

/// Largest size of a configuration file in bytes. A file with 50,000 real servers has 4 MB.
pub const LARGEST_FILE: u64 = 16 * 1024 * 1024;

/// Largest number of YAML nodes that the parser accepts in a file. A valid file of [`LARGEST_FILE`]
/// bytes has fewer nodes.
const MOST_NODES: usize = 10_000_000;

/// A line and a column of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileLocation {
    /// The number of the line; the first line has number 1.
    pub line: u64,
    /// The number of the character in the line; the first character has number 1.
    pub column: u64,
}

/// An error in the content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// `None` if the error concerns the whole file or its position is unknown.
    pub place: Option<FileLocation>,
    /// The error and a suggestion how to fix it.
    pub message: String,
}

/// The reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The content has errors. Displayed in the form of compilers, with one line for each error:
    /// `path:line:column: message`.
    #[error("{}", lines(path, problems))]
    Content {
        path: PathBuf,
        problems: Vec<FileProblem>,
    },
}

/// Reads a text file of at most [`LARGEST_FILE`] bytes.
///
/// # Errors
/// The path does not lead to a regular file, or the file cannot be read, is too large or is not
/// UTF-8.
pub fn read(path: &Path) -> Result<String, FileError> {
    let bytes = bounded_io::read_file(path, LARGEST_FILE);
    let text = bytes.and_then(|bytes| {
        let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "the file is not UTF-8 text");
        String::from_utf8(bytes).map_err(not_text)
    });
    text.map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Runs `load` on a thread for blocking work.
///
/// `load` reads and parses files. The largest file takes seconds, and the runtime must serve
/// sessions and streams in this time.
///
/// # Panics
/// Panics if `load` panics.
pub async fn off_thread<T: Send + 'static>(load: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // This error occurs only while the runtime shuts down. The runtime then drops this
            // task.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Parses one YAML document.
///
/// `T` needs `#[serde(deny_unknown_fields)]`, so that the parser refuses unknown fields and
/// suggests the most similar known field. `least` has the fields of the smallest usable document,
/// for the message about an empty file.
///
/// # Errors
/// The text is empty, or it is not one document of the type `T`. The message has the error and a
/// suggestion how to fix it.
pub fn parse<T: DeserializeOwned>(text: &str, least: &str) -> Result<T, FileProblem> {
    if is_empty(text) {
        return Err(FileProblem {
            place: None,
            message: format!("the file is empty; write at least {least}"),
        });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
        },
        with_snippet: false,
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| problem(&error, text))
}

fn lines(path: &Path, problems: &[FileProblem]) -> String {
    let line = |problem: &FileProblem| format!("{}:{problem}", path.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn is_empty(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

impl FileLocation {
    /// Returns the line and the column of a value. `None` if the parser does not know them.
    #[must_use]
    pub fn of<T>(value: &serde_saphyr::Spanned<T>) -> Option<Self> {
        Self::known(value.referenced)
    }

    fn known(location: serde_saphyr::Location) -> Option<Self> {
        (location.line() > 0).then(|| Self {
            line: location.line(),
            column: location.column(),
        })
    }
}

fn problem(error: &Error, text: &str) -> FileProblem {
    let error = error.without_snippet();
    let parser_message = UserMessageFormatter.format_message(error);
    let place = error.location().and_then(FileLocation::known);
    let place = match place {
        Some(place) => Some(suggestion::tab_place(&parser_message, text, place)),
        None => suggestion::tagged_field(&parser_message, text),
    };
    FileProblem {
        place,
        message: message(error, &parser_message, text, place),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser has many errors; all others keep the message of the parser"
)]
fn message(error: &Error, parser_message: &str, text: &str, place: Option<FileLocation>) -> String {
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => unknown("field", field, expected),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => unknown("value", variant, expected),
        Error::SerdeMissingField { field, .. } => {
            format!("the field `{field}` is missing here; add it")
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the field `{key}` is given twice; leave one of them out")
        }
        // The message of the parser can contain control characters of the file, which must not
        // reach the terminal.
        _ => suggestion::reworded(parser_message, text, place)
            .unwrap_or_else(|| parser_message.chars().flat_map(printable).collect()),
    }
}

fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    let hint = match nearest(name, known) {
        Some(nearest) => format!("did you mean `{nearest}`? "),
        None => String::new(),
    };
    let allowed = match known {
        [] => "no fields are allowed here".to_owned(),
        known => format!("allowed here: {}", known.join(", ")),
    };
    let name = name.escape_debug();
    format!("unknown {kind} `{name}`; {hint}{allowed}")
}

fn printable(character: char) -> impl Iterator<Item = char> {
    let (plain, escaped) = if character.is_control() {
        (None, Some(character.escape_debug()))
    } else {
        (Some(character), None)
    };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

impl fmt::Display for FileProblem {
    /// Writes `line:column: message`, or only a space and the message if the place is unknown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(FileLocation { line, column }) => write!(f, "{line}:{column}: {}", self.message),
            None => write!(f, " {}", self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const LEAST: &str = "method: Tunnel";

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Outer {
        #[serde(default)]
        real_servers: Vec<Inner>,
        method: Method,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        weight: u16,
    }

    #[derive(Debug, Deserialize)]
    enum Method {
        Masquerade,
        Tunnel,
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let problem = parse::<Outer>(text, LEAST).unwrap_err();
        assert_eq!(problem.to_string(), expected);
    }

    #[test]
    fn a_valid_document_is_parsed() {
        let outer: Outer = parse("realServers: [{weight: 3}]\nmethod: Tunnel\n", LEAST).unwrap();
        assert_eq!(outer.real_servers[0].weight, 3);
        assert!(matches!(outer.method, Method::Tunnel));
        let outer: Outer = parse("method: Masquerade\n", LEAST).unwrap();
        assert!(matches!(outer.method, Method::Masquerade));
    }

    #[test]
    fn the_message_about_an_unknown_field_has_its_place_and_the_most_similar_field() {
        check(
            "method: Tunnel\nrealServer:\n- weight: 1\n",
            "2:1: unknown field `realServer`; did you mean `realServers`? allowed here: \
             realServers, method",
        );
        check(
            "method: Tunnel\nrealServers:\n- wieght: 1\n",
            "3:3: unknown field `wieght`; did you mean `weight`? allowed here: weight",
        );
        check(
            "method: Tunnel\ncolour: red\n",
            "2:1: unknown field `colour`; allowed here: realServers, method",
        );
    }

    #[test]
    fn the_message_about_an_unknown_value_has_the_most_similar_value() {
        check(
            "method: tunnel\n",
            "1:9: unknown value `tunnel`; did you mean `Tunnel`? allowed here: Masquerade, Tunnel",
        );
    }

    #[test]
    fn the_message_about_a_value_of_a_wrong_type_has_its_place() {
        let place = |text: &str| {
            let problem = parse::<Outer>(text, LEAST).unwrap_err();
            let place = problem.place.unwrap();
            (place.line, place.column)
        };
        assert_eq!(
            place("method: Tunnel\nrealServers:\n- weight: heavy\n"),
            (3, 11)
        );
        assert_eq!(
            place("method: Tunnel\nrealServers:\n- weight: 70000\n"),
            (3, 11)
        );
        assert_eq!(place("method: Tunnel\nrealServers: 7\n"), (2, 14));
        assert_eq!(place("method: Tunnel\nrealServers: [\n").0, 2);
    }

    #[test]
    fn the_message_about_a_missing_or_duplicate_field_has_the_field() {
        check(
            "realServers:\n- {}\nmethod: Tunnel\n",
            "2:3: the field `weight` is missing here; add it",
        );
        check(
            "method: Tunnel\nmethod: Tunnel\n",
            "2:1: the field `method` is given twice; leave one of them out",
        );
        check(
            "method: Tunnel\n!pi method: Tunnel\n",
            "2:1: the field `method` is given twice; leave one of them out",
        );
        check(
            "{method: Tunnel, realServers: [], !pi 'method': Tunnel}\n",
            "1:35: the field `method` is given twice; leave one of them out",
        );
    }

    #[test]
    fn an_empty_file_and_a_file_of_comments_are_refused() {
        for text in ["", " \n", "# nothing but a comment\n", "---\n"] {
            check(text, " the file is empty; write at least method: Tunnel");
        }
    }

    #[test]
    fn a_file_error_is_displayed_with_path_line_and_column() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.yaml");
        assert!(matches!(read(&path).unwrap_err(), FileError::Read { .. }));
        let problem = parse::<Outer>("method: Tunel\n", LEAST).unwrap_err();
        let problems = vec![problem];
        let message = FileError::Content { path, problems }.to_string();
        let path = directory.path().join("file.yaml");
        let expected = format!("{}:1:9: unknown value `Tunel`", path.display());
        assert!(message.starts_with(&expected), "{message}");
    }

    #[test]
    fn control_characters_of_the_file_do_not_reach_the_message() {
        let problem = parse::<Outer>("method: \"\\u001b[31m\"\n", LEAST).unwrap_err();
        assert!(!problem.message.contains('\u{1b}'), "{problem}");
    }
}
