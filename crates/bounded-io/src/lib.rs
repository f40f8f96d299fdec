//! File reads, timeouts and pauses of accept loops, with fixed bounds of time and memory.

mod accept_retry;
mod file;
mod timeout;

pub use accept_retry::{AcceptRetry, FIRST_PAUSE, LONGEST_PAUSE};
pub use file::{open_file, read_file};
pub use timeout::{TIME_AFTER_SLEEP, has_slept, timeout_after_poll, wait_until};
