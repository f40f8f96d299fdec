//! Fuzz target for the parser of `--file`.
//!
//! No text makes the parser panic, block or use much memory. If the parser accepts a text, the
//! rendered desired set parses to an equal desired set.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pod_watcher::file_format;

fuzz_target!(|text: &str| {
    let Ok(desired) = file_format::parse(text) else {
        return;
    };
    let rendered = file_format::render(&desired);
    let again = file_format::parse(&rendered).map_err(|problem| problem.to_string());
    assert_eq!(again, Ok(desired));
});
