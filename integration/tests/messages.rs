//! A test that compares the WARN and ERROR messages of the daemons with
//! `docs/reference/messages.md`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const DOCUMENT: &str = "docs/reference/messages.md";
/// Macros that log at WARN or ERROR, and the level of each macro.
const MACROS: [(&str, &str); 3] = [
    ("warn!(", "WARN"),
    ("warn_once!(", "WARN"),
    ("error!(", "ERROR"),
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

/// Returns the string literal at the start of `text`, without its quotes. Escaped characters lose
/// their backslash, and a literal of several lines becomes one line.
fn literal(text: &str) -> Option<String> {
    let mut letters = text.strip_prefix('"')?.chars();
    let mut literal = String::new();
    loop {
        match letters.next()? {
            '"' => return Some(literal),
            '\\' => match letters.next()? {
                '\n' => {
                    let rest = letters.as_str().trim_start();
                    letters = rest.chars();
                }
                escaped => literal.push(escaped),
            },
            letter => literal.push(letter),
        }
    }
}

/// Returns the message of a log macro: the first argument that is a string literal. `arguments` is
/// the text after the opening parenthesis of the macro.
fn message(arguments: &str) -> Option<String> {
    let (mut depth, mut is_start) = (0, true);
    let mut rest = arguments;
    while let Some(letter) = rest.chars().next() {
        if letter == '"' {
            let literal = literal(rest)?;
            if depth == 0 && is_start {
                return Some(literal);
            }
            let mut is_escaped = false;
            let end = rest[1..].find(|letter| {
                let is_end = letter == '"' && !is_escaped;
                is_escaped = letter == '\\' && !is_escaped;
                is_end
            })?;
            rest = &rest[end + 2..];
            is_start = false;
            continue;
        }
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return None,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        is_start = (letter == ',' && depth == 0) || (is_start && letter.is_whitespace());
        rest = &rest[letter.len_utf8()..];
    }
    None
}

/// Returns the level and the text of each WARN or ERROR message in `crates/`, with the places
/// `file:line` that log the message.
fn messages_of_the_code() -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut files = Vec::new();
    collect_sources(&Path::new(ROOT).join("crates"), &mut files);
    let mut messages: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (name, level) in MACROS {
            for (at, _) in text.match_indices(name) {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
                    continue;
                }
                let file = path.strip_prefix(ROOT).unwrap().display().to_string();
                let line = text[..at].lines().count();
                let place = format!("{file}:{line}");
                // The definition of another macro forwards its arguments to the log macro, so it
                // has no message.
                if text[at + name.len()..].contains("$($fields)*")
                    && text[at + name.len()..]
                        .split(')')
                        .next()
                        .unwrap()
                        .contains('$')
                {
                    continue;
                }
                let message = message(&text[at + name.len()..])
                    .unwrap_or_else(|| panic!("{place}: the log line has no constant message"));
                assert!(
                    !message.contains('{'),
                    "{place}: write the value into a field of the log line: {message:?}"
                );
                let key = (level.to_owned(), message);
                messages.entry(key).or_default().insert(place);
            }
        }
    }
    messages
}

/// Returns the level and the message of each row of the document's tables. The cells of a row are
/// the message, its level, its meaning and the remedy.
fn messages_of_the_document() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(Path::new(ROOT).join(DOCUMENT)).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut messages = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [message, level, means, remedy] = cells[..] else {
            panic!("{DOCUMENT}: not a row of four cells: {row}");
        };
        assert!(means.len() > 10 && remedy.len() > 5, "{DOCUMENT}: {row}");
        let key = (level.to_owned(), message.trim_matches('`').to_owned());
        assert!(messages.insert(key), "{DOCUMENT}: twice: {row}");
    }
    messages
}

#[test]
fn each_warning_and_error_is_in_the_reference_of_messages() {
    let code = messages_of_the_code();
    assert!(
        code.len() > 40,
        "only {} messages were found in the code",
        code.len()
    );
    let document = messages_of_the_document();
    let missing: Vec<String> = code
        .iter()
        .filter(|(key, _)| !document.contains(*key))
        .map(|((level, message), places)| format!("| `{message}` | {level} | {places:?}"))
        .collect();
    let stale: Vec<_> = document
        .iter()
        .filter(|key| !code.contains_key(*key))
        .collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "{DOCUMENT} lacks\n{}\nand has messages that no daemon logs: {stale:#?}",
        missing.join("\n")
    );
}

#[test]
fn the_message_of_a_log_macro_is_its_first_argument_that_is_a_literal() {
    let arguments = "peer = name(\"x, y\"), a = \"b\", %error, \"session \\\n        lost\")";
    assert_eq!(message(arguments).unwrap(), "session lost");
    assert_eq!(message("\"alone\")").unwrap(), "alone");
    assert!(message("%error)").is_none());
}
