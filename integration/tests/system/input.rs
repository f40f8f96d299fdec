//! Bad input: unusable flags and files, a hostile network, and an operator's first look.

mod attributes;
mod flags;
mod half_sent;
mod hostile;
mod look;
