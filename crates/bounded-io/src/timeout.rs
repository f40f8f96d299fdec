//! Timeouts that tolerate a suspension of this process.

use std::{future::pending, pin::pin, time::Duration};

use tokio::{
    task::yield_now,
    time::{Instant, error::Elapsed, sleep_until, timeout, timeout_at},
};

/// A timer that fires this long after its deadline, or even later, shows that this process was
/// suspended.
const SLEPT: Duration = Duration::from_millis(100);

/// Additional time for an answer after this process was suspended. In this time the tasks between
/// the socket and the waiting task can process the answer.
pub const TIME_AFTER_SLEEP: Duration = SLEPT;

/// Waits until the deadline. `None`: waits forever.
pub async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Reports whether this process was suspended. The caller calls the function when a timer for
/// `deadline` fires: a timer that fires 100 ms or more after its deadline shows a suspension.
#[must_use]
pub fn has_slept(deadline: Instant) -> bool {
    deadline + SLEPT <= Instant::now()
}

/// Runs `future` for at most `limit`. At the end of `limit`, the runtime polls its sockets, and the
/// future is polled once more. If this process was suspended at the end of `limit`, the future gets
/// [`TIME_AFTER_SLEEP`] instead of this one poll.
///
/// When a suspended process resumes, its timers have expired while answers wait in its sockets.
/// SIGCONT interrupts `epoll_wait`, so the runtime handles the timer before the socket.
/// [`tokio::time::timeout`] would then report a timeout although the answer has arrived.
///
/// # Errors
/// The future is not ready after `limit` and the additional poll, or, after a suspension, not ready
/// after `limit` and [`TIME_AFTER_SLEEP`].
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

    /// A future that is ready at its third poll, like a socket whose event the runtime handles
    /// after the timer.
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
    async fn an_answer_that_the_runtime_handles_after_the_timer_is_in_time() {
        assert!(timeout(LIMIT, late()).await.is_err());
        assert!(timeout_after_poll(LIMIT, late()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_arrived_during_a_suspension_is_in_time() {
        // Models a task that reads the socket and passes the answer on shortly after the process
        // resumes.
        let message = async {
            sleep(LIMIT * 300).await;
            sleep(TIME_AFTER_SLEEP / 2).await;
        };
        let waiting = tokio::spawn(timeout_after_poll(LIMIT, message));
        tokio::task::yield_now().await;
        advance(LIMIT * 300).await;
        assert!(waiting.await.expect("the task does not panic").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_without_a_suspension_is_not_prolonged() {
        let begin = Instant::now();
        assert!(timeout_after_poll(LIMIT, sleep(LIMIT * 2)).await.is_err());
        assert!(begin.elapsed() < LIMIT * 2);
    }

    #[tokio::test]
    async fn a_future_that_is_never_ready_times_out() {
        assert!(timeout_after_poll(LIMIT, pending::<()>()).await.is_err());
    }
}
