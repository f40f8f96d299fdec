//! Dumps: answers with many messages, which are used only if they are complete.

use std::io;

use futures::{Stream, StreamExt};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;

use super::io_error;

type DumpMessage = NetlinkMessage<RouteNetlinkMessage>;

/// Maximum number of attempts to read a table that changes during each attempt.
const ATTEMPTS: u32 = 5;

/// Requests a dump and folds its objects into a value with `add`. The connection must forward the
/// message that marks the end of a dump.
///
/// # Errors
/// The kernel refused the request, its answer is incomplete, or (`Interrupted`) the table changed
/// during each of [`ATTEMPTS`] dumps.
pub(super) async fn dump<T: Default>(
    handle: &Handle,
    request: &RouteNetlinkMessage,
    add: impl FnMut(&mut T, RouteNetlinkMessage),
) -> io::Result<T> {
    let ask = || {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut handle = handle.clone();
        handle.request(message).map_err(io_error)
    };
    fold_complete(ask, add).await
}

async fn fold_complete<T: Default, S: Stream<Item = DumpMessage>>(
    mut ask: impl FnMut() -> io::Result<S>,
    mut add: impl FnMut(&mut T, RouteNetlinkMessage),
) -> io::Result<T> {
    for _ in 0..ATTEMPTS {
        if let Some(whole) = fold(ask()?, &mut add).await? {
            return Ok(whole);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::Interrupted,
        format!("the kernel's table changed during each of {ATTEMPTS} attempts to read it"),
    ))
}

/// Folds the objects of one dump. Returns `None` if the table changed during the dump
/// (`NLM_F_DUMP_INTR`), because objects can then be missing.
async fn fold<T: Default>(
    answers: impl Stream<Item = DumpMessage>,
    add: &mut impl FnMut(&mut T, RouteNetlinkMessage),
) -> io::Result<Option<T>> {
    let mut answers = std::pin::pin!(answers);
    let mut all = T::default();
    let mut is_interrupted = false;
    while let Some(answer) = answers.next().await {
        is_interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "the enum is not exhaustive, so later versions can add variants"
        )]
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => add(&mut all, message),
            NetlinkPayload::Done(done) if done.code == 0 => {
                return Ok((!is_interrupted).then_some(all));
            }
            NetlinkPayload::Done(done) => {
                return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
            }
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(error.to_io());
            }
            NetlinkPayload::Overrun(_) => {
                return Err(io::Error::other(
                    "the kernel dropped messages of the answer",
                ));
            }
            _ => {}
        }
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the kernel's answer ended before the message that marks the end of the dump",
    ))
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};
    use netlink_packet_core::{DoneMessage, ErrorMessage};
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    fn route(flags: u16) -> DumpMessage {
        let mut answer = DumpMessage::from(RouteNetlinkMessage::NewRoute(RouteMessage::default()));
        answer.header.flags = flags;
        answer
    }

    fn end(code: i32, flags: u16) -> DumpMessage {
        let mut done = DoneMessage::default();
        done.code = code;
        let mut answer = DumpMessage::new(Default::default(), NetlinkPayload::Done(done));
        answer.header.flags = flags;
        answer
    }

    /// Reads a dump from a fake kernel that answers attempt n with element n of `answers`, and all
    /// further attempts with the last element. Returns the number of routes in the result, and the
    /// number of attempts.
    fn read(answers: &[&[DumpMessage]]) -> (io::Result<usize>, usize) {
        let mut attempts = 0;
        let ask = || {
            let answer = answers[attempts.min(answers.len() - 1)];
            attempts += 1;
            Ok(stream::iter(answer.to_vec()))
        };
        let complete = fold_complete(ask, |count: &mut usize, _| *count += 1).now_or_never();
        (complete.unwrap(), attempts)
    }

    #[test]
    fn a_dump_during_which_the_table_changed_is_repeated() {
        let whole = [route(0), route(0), end(0, 0)];
        assert!(matches!(read(&[&whole]), (Ok(2), 1)));
        let in_the_middle = [route(0), route(NLM_F_DUMP_INTR), end(0, 0)];
        assert!(matches!(read(&[&in_the_middle, &whole]), (Ok(2), 2)));
        let at_the_end = [route(0), end(0, NLM_F_DUMP_INTR)];
        assert!(matches!(read(&[&at_the_end, &whole]), (Ok(2), 2)));
    }

    #[test]
    fn the_table_is_read_at_most_five_times_if_it_changes_during_each_dump() {
        let (result, attempts) = read(&[&[route(NLM_F_DUMP_INTR), end(0, 0)]]);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(attempts, 5);
    }

    #[test]
    fn a_dump_without_an_end_message_or_with_an_error_is_an_error() {
        let (result, _) = read(&[&[route(0)]]);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let busy = nix::errno::Errno::EBUSY as i32;
        let (result, _) = read(&[&[route(0), end(-busy, 0)]]);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(busy));
        let mut error = ErrorMessage::default();
        error.code = std::num::NonZeroI32::new(-busy);
        let refused = DumpMessage::new(Default::default(), NetlinkPayload::Error(error));
        let (result, _) = read(&[&[refused]]);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(busy));
    }
}
