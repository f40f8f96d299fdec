//! Version of this build.

/// Such as `0.1.0`, or `0.1.0+1a2b3c4` where the build gave the commit in `PORTLB_VERSION`.
pub(crate) const VERSION: &str = match option_env!("PORTLB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
