//! Bad input: a hostile network, and an operator's first look.

mod attributes;
mod half_sent;
mod hostile;
mod look;
