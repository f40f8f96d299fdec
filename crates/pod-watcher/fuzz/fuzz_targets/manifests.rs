//! No manifests make `validate` or `render` panic, block or eat memory; and what `render` makes of
//! them is a file that can be read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pod_watcher::{file_format, render, validate};
use service_catalog::settings::Settings;

fuzz_target!(|text: &str| {
    let settings = || Settings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        ..Settings::default()
    };
    let report = validate::check_text("fuzz", text, settings());
    let _ = report.json(true);
    let _ = report.verdict(true);
    if let Ok(rendered) = render::from_text("fuzz", text, settings())
        && let Err(problem) = file_format::parse(&rendered.document)
    {
        panic!("{problem}\n{}", rendered.document);
    }
});
