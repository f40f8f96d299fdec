//! Shared code of the benchmarks.

pub mod memory;
pub mod report;
