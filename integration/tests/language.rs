//! Tests of the language of this project (docs/how-to/contributing.md).
//!
//! A test fails if a text has an avoided word, or if a doc comment has three words or fewer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Archaic or literary words, and pronouns in the place of a named thing.
const AVOIDED: [&str; 27] = [
    "anew",
    "be it",
    "beside",
    "cure",
    "cured",
    "cures",
    "for want of",
    "go on",
    "goes on",
    "in vain",
    "is heard",
    "is told",
    "likewise",
    "mend",
    "mended",
    "mends",
    "no more",
    "nobody",
    "shall",
    "somebody",
    "stand in",
    "stands",
    "those that",
    "what is",
    "who",
    "whoever",
    "whom",
];

/// Collects every text file below `folder`, except this file and the files in folders with the
/// names `corpus`, `target` and `.git`.
fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["corpus", "target", ".git"].contains(&name) {
                collect_files(&path, files);
            }
            continue;
        }
        let is_text = [".rs", ".md", ".proto", ".yaml", ".toml", "Makefile"]
            .iter()
            .any(|end| name.ends_with(end));
        let is_script = || fs::read(&path).unwrap().starts_with(b"#!");
        if name != "language.rs" && (is_text || is_script()) {
            files.push(path);
        }
    }
}

/// Returns each avoided word or phrase of `text` with the number of its line. A phrase may continue
/// in the next line, also in the next line of a comment.
fn avoided_words(text: &str) -> Vec<String> {
    let words_of = |line: &str| -> Vec<String> {
        let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '\'');
        let words = words.filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    let words: Vec<(usize, String)> = (1..)
        .zip(text.lines())
        .flat_map(|(number, line)| words_of(line).into_iter().map(move |word| (number, word)))
        .collect();
    let mut findings = Vec::new();
    for avoided in AVOIDED {
        let phrase: Vec<&str> = avoided.split(' ').collect();
        for window in words.windows(phrase.len()) {
            if window.iter().map(|(_, word)| word).eq(&phrase) {
                findings.push(format!("{}: {avoided:?}", window[0].0));
            }
        }
    }
    findings
}

/// Returns each doc comment of `text` that has three words or fewer, with the number of its last
/// line.
fn short_comments(text: &str) -> Vec<String> {
    let comment = |line: &'_ str| line.trim_start().strip_prefix("///").map(str::to_owned);
    let mut findings = Vec::new();
    let mut block: Vec<String> = Vec::new();
    for (number, line) in (1..).zip(text.lines().chain([""])) {
        if let Some(line) = comment(line) {
            block.push(line);
            continue;
        }
        let text = std::mem::take(&mut block).join(" ");
        if (1..=3).contains(&text.split_whitespace().count()) {
            findings.push(format!("{}: {:?}", number - 1, text.trim()));
        }
    }
    findings
}

#[test]
fn texts_have_no_avoided_words_and_doc_comments_have_more_than_three_words() {
    let mut files = Vec::new();
    collect_files(Path::new(ROOT), &mut files);
    assert!(files.len() > 500, "only {} files were found", files.len());
    let mut findings = Vec::new();
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else {
            continue; // An input of a test that is not UTF-8.
        };
        let name = path.strip_prefix(ROOT).unwrap().display().to_string();
        let mut of_file = avoided_words(&text);
        if name.ends_with(".rs") {
            of_file.extend(short_comments(&text));
        }
        findings.extend(of_file.iter().map(|finding| format!("{name}:{finding}")));
    }
    assert!(
        findings.is_empty(),
        "{} texts need other words (docs/how-to/contributing.md, Language):\n{}",
        findings.len(),
        findings.join("\n")
    );
}

#[test]
fn an_avoided_phrase_is_found_by_whole_words_and_over_the_end_of_a_line() {
    assert_eq!(
        avoided_words("Nobody shall do this; no\n/// more of it"),
        ["1: \"no more\"", "1: \"nobody\"", "1: \"shall\""]
    );
    let allowed = avoided_words("marshall, besides, understands, what has been");
    assert!(allowed.is_empty(), "{allowed:?}");
}

#[test]
fn a_doc_comment_of_three_words_is_short_and_a_comment_of_two_lines_is_counted_as_one() {
    assert_eq!(
        short_comments("/// Why not.\nfn a() {}\n/// Returns the\n    /// address of a peer.\n"),
        ["1: \"Why not.\""]
    );
}
