//! No document makes the parser of virtual servers panic, block or eat memory; and what it accepts
//! is accepted again, with the same meaning, as it is rendered.

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
