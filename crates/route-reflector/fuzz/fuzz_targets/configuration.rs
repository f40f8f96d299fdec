//! No text makes the reader of the configuration panic, block or eat memory; what it refuses has a
//! place, or names the field that is missing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use route_reflector::config::{Overrides, parse};

/// The reader opens the file that this field names, and no input may decide about that here.
const NAMES_A_FILE: &str = "md5KeyFile";

fuzz_target!(|text: &str| {
    if text.contains(NAMES_A_FILE) {
        return;
    }
    if let Err(problem) = parse(text, &Overrides::default()) {
        let is_empty = problem.message.starts_with("the file is empty");
        // The parser knows no place in an empty mapping.
        let names_missing = problem.message.starts_with("the field `");
        assert!(is_empty || names_missing || problem.place.is_some(), "{problem}");
        assert!(!problem.message.is_empty());
        assert!(problem.message.len() < 2_000 + 10 * text.len(), "{problem}");
        assert!(!problem.message.contains('\u{1b}'), "{problem}");
    }
});
