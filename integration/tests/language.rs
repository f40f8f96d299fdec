//! Counts words and comments that the language of this project avoids (docs/how-to/contributing.md).
//!
//! `language.txt` has a count for each folder. A count may only fall: a folder with more fails, and so
//! does one with fewer until the file has the lower count. `UPDATE_EXPECT=1` writes lower counts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/language.txt");
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

/// The folders that have a count of their own.
fn folders() -> Vec<String> {
    let mut folders: Vec<String> = ["docs", "integration", "manifests", "proto"]
        .map(str::to_owned)
        .into();
    for entry in fs::read_dir(Path::new(ROOT).join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        folders.push(format!("crates/{name}"));
    }
    folders.sort();
    folders
}

/// Every text file below a folder, but for what a program wrote.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_text = [".rs", ".md", ".proto", ".yaml"]
            .iter()
            .any(|end| name.ends_with(end));
        if path.is_dir() {
            if !["corpus", "target"].contains(&name) {
                files(&path, found);
            }
        } else if name != "language.rs" && is_text {
            found.push(path);
        }
    }
}

/// How often `text` has an avoided word, in small or capital letters.
fn avoided_words(text: &str) -> usize {
    let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '\'');
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let counts = AVOIDED.iter().map(|avoided| {
        let avoided: Vec<&str> = avoided.split(' ').collect();
        let phrases = words.windows(avoided.len());
        phrases.filter(|phrase| *phrase == avoided).count()
    });
    counts.sum()
}

/// How many doc comments of `text` have three words or fewer.
fn short_comments(text: &str) -> usize {
    let comment = |line: &str| line.trim_start().strip_prefix("///").map(str::to_owned);
    let lines: Vec<Option<String>> = text.lines().map(comment).collect();
    let blocks = lines
        .split(Option::is_none)
        .filter(|block| !block.is_empty());
    let words = |block: &[Option<String>]| -> usize {
        let lines = block.iter().flatten();
        lines.map(|line| line.split_whitespace().count()).sum()
    };
    blocks.filter(|block| words(block) <= 3).count()
}

/// For each folder: avoided words, short doc comments.
type Counts = BTreeMap<String, (usize, usize)>;

fn count() -> Counts {
    let count_folder = |folder: String| {
        let mut paths = Vec::new();
        files(&Path::new(ROOT).join(&folder), &mut paths);
        let mut sums = (0, 0);
        for path in paths {
            let text = fs::read_to_string(&path).unwrap();
            sums.0 += avoided_words(&text);
            if path.extension().is_some_and(|extension| extension == "rs") {
                sums.1 += short_comments(&text);
            }
        }
        (folder, sums)
    };
    folders().into_iter().map(count_folder).collect()
}

fn recorded() -> Counts {
    let text = fs::read_to_string(RECORD).unwrap();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [folder, avoided, short] = words[..] else {
            panic!("language.txt: {line:?} is not a folder and two counts")
        };
        (
            folder.to_owned(),
            (avoided.parse().unwrap(), short.parse().unwrap()),
        )
    };
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(row)
        .collect()
}

#[test]
fn words_and_comments_that_the_project_avoids_only_become_fewer() {
    let (counted, recorded) = (count(), recorded());
    let mut text = String::from("# folder, avoided words, doc comments of three words or fewer\n");
    let (mut more, mut fewer) = (Vec::new(), Vec::new());
    for (folder, &(avoided, short)) in &counted {
        text.push_str(&format!("{folder} {avoided} {short}\n"));
        let &(old_avoided, old_short) = recorded.get(folder).unwrap_or(&(0, 0));
        if avoided > old_avoided || short > old_short {
            more.push(format!(
                "{folder}: {avoided} avoided words, was {old_avoided}; {short} short doc comments, was {old_short}"
            ));
        } else if (avoided, short) != (old_avoided, old_short) {
            fewer.push(folder.as_str());
        }
    }
    assert!(
        more.is_empty(),
        "rewrite these by docs/how-to/contributing.md:\n{}",
        more.join("\n")
    );
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(RECORD, text).unwrap();
        return;
    }
    let gone = recorded
        .keys()
        .filter(|folder| !counted.contains_key(*folder));
    let stale: Vec<&str> = fewer.into_iter().chain(gone.map(String::as_str)).collect();
    assert!(
        stale.is_empty(),
        "fewer than recorded, run with UPDATE_EXPECT=1: {}",
        stale.join(", ")
    );
}

#[test]
fn an_avoided_phrase_is_counted_by_whole_words() {
    assert_eq!(avoided_words("Nobody shall do this; no more of it"), 3);
    assert_eq!(
        avoided_words("marshall, besides, understands, what has been"),
        0
    );
}

#[test]
fn a_doc_comment_of_three_words_is_short_and_one_of_two_lines_is_counted_as_one() {
    assert_eq!(
        short_comments("/// Why not.\nfn a() {}\n/// Returns the\n    /// address of a peer.\n"),
        1
    );
}
