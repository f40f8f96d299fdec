//! A time limit that does not count this process's own sleep.

use std::{pin::pin, time::Duration};

use tokio::{
    task::yield_now,
    time::{error::Elapsed, timeout},
};

/// Runs `future` for `limit` at most. An expiry counts only after the runtime has polled its sockets
/// once more.
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
    if let Ok(output) = timeout(limit, &mut future).await {
        return Ok(output);
    }
    // The runtime polls its sockets during the yield.
    yield_now().await;
    timeout(Duration::ZERO, future).await
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        task::Poll,
    };

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

    #[tokio::test]
    async fn silence_expires() {
        assert!(timeout_after_poll(LIMIT, pending::<()>()).await.is_err());
    }
}
