//! Text forms that flags, files and annotations share. Pure: no clock, no IO.

#![warn(missing_docs)]

mod duration;
mod name;
mod prefix;

pub use duration::{format_duration, parse_duration};
pub use name::nearest;
pub use prefix::parse_prefix;
