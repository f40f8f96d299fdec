//! What the benchmarks have in common.

pub mod memory;
pub mod report;
