//! Fuzz target of the configuration parser. No text makes the parser panic, block or use much
//! memory. Each error has a place in the text, names a missing field, or says that the text is
//! empty.

#![no_main]

use libfuzzer_sys::fuzz_target;
use route_reflector::config::{Overrides, parse};

/// The field with the name of a key file. The parser opens this file, so texts with this field are
/// skipped.
const KEY_FILE_FIELD: &str = "md5KeyFile";

fuzz_target!(|text: &str| {
    if text.contains(KEY_FILE_FIELD) {
        return;
    }
    if let Err(problem) = parse(text, &Overrides::default()) {
        let is_empty = problem.message.starts_with("the file is empty");
        // An error about a missing field can be without a place: the parser reports no place for an
        // empty mapping.
        let names_missing = problem.message.starts_with("the field `");
        assert!(is_empty || names_missing || problem.place.is_some(), "{problem}");
        assert!(!problem.message.is_empty());
        assert!(problem.message.len() < 2_000 + 10 * text.len(), "{problem}");
        assert!(!problem.message.contains('\u{1b}'), "{problem}");
    }
});
