//! Parsers and formats of texts in flags, files and annotations.
//!
//! The functions use no clock and no I/O.

mod duration;
mod name;
mod prefix;

pub use duration::{format_duration, parse_duration};
pub use name::nearest;
pub use prefix::parse_prefix;
