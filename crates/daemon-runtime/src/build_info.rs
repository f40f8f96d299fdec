//! The version of this build.

/// The value of `PORTLB_VERSION` at build time, such as `0.1.0+1a2b3c4` with the commit. Without
/// this variable the version of the crate, such as `0.1.0`.
pub(crate) const VERSION: &str = match option_env!("PORTLB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
