//! A time limit that does not count this process's own sleep.

use std::{future::pending, pin::pin, time::Duration};

use tokio::{
    task::yield_now,
    time::{Instant, error::Elapsed, sleep_until, timeout, timeout_at},
};

/// A timer that fires this late or later means that this process slept.
const SLEPT: Duration = Duration::from_millis(100);

/// What is left for an answer after this process slept: the tasks between a socket and the one that
/// waits have to run.
pub const TIME_AFTER_SLEEP: Duration = SLEPT;

/// Returns at the deadline; never without one.
pub async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Reports whether a timer for this deadline that fires now shows that this process slept.
#[must_use]
pub fn has_slept(deadline: Instant) -> bool {
    deadline + SLEPT <= Instant::now()
}

/// Runs `future` for `limit` at most. An expiry counts only after the runtime has polled its sockets
/// once more; after a sleep of this process the future gets [`TIME_AFTER_SLEEP`] more.
///
/// A process that was stopped wakes with expired timers while answers wait in its sockets. SIGCONT
/// interrupts `epoll_wait`, so the runtime sees the timer before the socket, and
/// [`tokio::time::timeout`] alone would report a silence that is this process's own.
///
/// # Errors
/// The future is not ready after the limit and that poll.
pub async fn timeout_after_poll<F: Future>(
    limit: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let deadline = Instant::now() + limit;
    if let Ok(output) = timeout_at(deadline, &mut future).await {
        return Ok(output);
    }
    if has_slept(deadline) {
        return timeout(TIME_AFTER_SLEEP, future).await;
    }
    // The runtime polls its sockets during the yield.
    yield_now().await;
    timeout(Duration::ZERO, future).await
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use tokio::time::{advance, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(10);

    /// Ready at its third poll, as a socket whose event the runtime sees after the timer.
    async fn late() {
        let mut polls = 0;
        poll_fn(|_| {
            polls += 1;
            if polls < 3 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    #[tokio::test]
    async fn an_answer_that_the_runtime_sees_after_the_limit_counts() {
        assert!(timeout(LIMIT, late()).await.is_err());
        assert!(timeout_after_poll(LIMIT, late()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrived_while_the_process_slept_counts() {
        // The connection's task reads the socket a moment after the process has woken.
        let message = async {
            sleep(LIMIT * 300).await;
            sleep(TIME_AFTER_SLEEP / 2).await;
        };
        let waiting = tokio::spawn(timeout_after_poll(LIMIT, message));
        tokio::task::yield_now().await;
        advance(LIMIT * 300).await;
        assert!(waiting.await.expect("no panic").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_without_a_sleep_is_not_prolonged() {
        let begin = Instant::now();
        assert!(timeout_after_poll(LIMIT, sleep(LIMIT * 2)).await.is_err());
        assert!(begin.elapsed() < LIMIT * 2);
    }

    #[tokio::test]
    async fn silence_expires() {
        assert!(timeout_after_poll(LIMIT, pending::<()>()).await.is_err());
    }
}
