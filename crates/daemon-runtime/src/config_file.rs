//! Configuration files in YAML: errors with their place, and notices of changes.

mod cure;
mod watch;

use std::{
    fmt, io,
    panic::resume_unwind,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, MessageFormatter, UserMessageFormatter};

pub use config_text::nearest;
pub use watch::{FileWatcher, WatchError};

/// Largest size of a configuration file, in bytes. 50,000 real servers take 4 MB.
pub const LARGEST_FILE: u64 = 16 * 1024 * 1024;

/// More than a file of [`LARGEST_FILE`] bytes needs for data.
const MOST_NODES: usize = 10_000_000;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

/// What is wrong with the content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, if it has a place.
    pub place: Option<Place>,
    /// What, with the cure.
    pub message: String,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its content cannot be used. Shown as compilers do: `path:line:column: message`, a line each.
    #[error("{}", lines(path, problems))]
    Content {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong.
        problems: Vec<Problem>,
    },
}

/// Reads a text file of at most [`LARGEST_FILE`] bytes.
///
/// # Errors
/// The path leads to no regular file, or the file cannot be read, is too large or is not UTF-8.
pub fn read(path: &Path) -> Result<String, FileError> {
    let bytes = bounded_io::read_file(path, LARGEST_FILE);
    let text = bytes.and_then(|bytes| {
        let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
        String::from_utf8(bytes).map_err(not_text)
    });
    text.map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Runs `load`, which reads and parses files, on a thread for blocking work, since the largest file
/// takes seconds. Sessions and streams are served meanwhile.
///
/// # Panics
/// `load` panics.
pub async fn off_thread<T: Send + 'static>(load: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(load).await {
        Ok(loaded) => loaded,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Parses one YAML document. Give the type `#[serde(deny_unknown_fields)]`: a field that it does
/// not know is then refused with the nearest one that it knows. `least` names the fields of the
/// smallest usable document, for whoever gives an empty one.
///
/// # Errors
/// Says what is wrong, where, and what to write instead.
pub fn parse<T: DeserializeOwned>(text: &str, least: &str) -> Result<T, Problem> {
    if is_empty(text) {
        return Err(Problem {
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

fn lines(path: &Path, problems: &[Problem]) -> String {
    let line = |problem: &Problem| format!("{}:{problem}", path.display());
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn is_empty(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

impl Place {
    /// The place of a value that was read as [`serde_saphyr::Spanned`].
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

fn problem(error: &Error, text: &str) -> Problem {
    let error = error.without_snippet();
    let said = UserMessageFormatter.format_message(error);
    let place = error.location().and_then(Place::known);
    let place = match place {
        Some(place) => Some(cure::place(&said, text, place)),
        None => cure::tagged(&said, text),
    };
    Problem {
        place,
        message: message(error, &said, text, place),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's errors are many and may become more; the rest is worded by the parser"
)]
fn message(error: &Error, said: &str, text: &str, place: Option<Place>) -> String {
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
        // Control characters come from the file and must not reach the terminal.
        _ => cure::translated(said, text, place)
            .unwrap_or_else(|| said.chars().flat_map(printable).collect()),
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

impl fmt::Display for Problem {
    /// `line:column: message`, or the message after a space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(Place { line, column }) => write!(f, "{line}:{column}: {}", self.message),
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
    fn a_document_is_read() {
        let outer: Outer = parse("realServers: [{weight: 3}]\nmethod: Tunnel\n", LEAST).unwrap();
        assert_eq!(outer.real_servers[0].weight, 3);
        assert!(matches!(outer.method, Method::Tunnel));
        let outer: Outer = parse("method: Masquerade\n", LEAST).unwrap();
        assert!(matches!(outer.method, Method::Masquerade));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_place_and_the_nearest_name() {
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
    fn an_unknown_value_is_refused_with_the_nearest_one() {
        check(
            "method: tunnel\n",
            "1:9: unknown value `tunnel`; did you mean `Tunnel`? allowed here: Masquerade, Tunnel",
        );
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_its_place() {
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
    fn a_missing_field_and_a_doubled_one_are_named() {
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
    fn a_file_error_reads_as_compilers_write_it() {
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
