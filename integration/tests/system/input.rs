//! Bad input: unusable flags and files, a hostile network, and an operator's first look.

mod flags;
mod hostile;
mod look;
