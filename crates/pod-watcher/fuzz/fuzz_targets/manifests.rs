//! Fuzz target for the commands `validate` and `render`.
//!
//! No manifest makes the commands panic, block or use much memory. The output of `render` is a
//! valid file for `--file`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pod_watcher::{file_format, render, validate};
use service_catalog::settings::CatalogSettings;

fuzz_target!(|text: &str| {
    let settings = || CatalogSettings {
        load_balancer_class: "portlb.io/portlb".to_owned(),
        ..CatalogSettings::default()
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
