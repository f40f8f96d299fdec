//! Requests to the kernel over a netlink socket, many in one datagram.

use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use crate::error::to_errno;

/// More requests in one datagram can overflow the default receive buffer with their errors.
pub(crate) const LARGEST_BATCH: usize = 128;

/// The kernel answers before the send returns; what is not there after this time never comes. A lost
/// answer must be noticed, and the question repeated, before the announcer takes the programmer for
/// silent.
pub const NETLINK_TIMEOUT: Duration = Duration::from_secs(1);
const RECEIVE_BUFFER: usize = 8 << 20;
/// Most attempts to read a table that the kernel changes during each of them.
const DUMP_ATTEMPTS: u32 = 5;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

/// Why an exchange with the kernel failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel said no.
    #[error("the kernel refused the request")]
    Refused(#[source] Errno),
    /// The socket failed.
    #[error("netlink socket: {operation}")]
    Socket {
        /// The operation on the socket.
        operation: &'static str,
        /// Why.
        source: Errno,
    },
    /// Answers were lost or did not come; what was asked for may have happened.
    #[error("the kernel's answer was lost: {reason}")]
    AnswerLost {
        /// Why.
        reason: &'static str,
    },
    /// The table changed during each attempt to read it, so what was read may lack entries.
    #[error("the kernel's table changed during each of {attempts} attempts to read it")]
    Interrupted {
        /// How many.
        attempts: u32,
    },
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A request that failed, by its place in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailedRequest {
    pub(crate) index: usize,
    pub(crate) errno: Errno,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let failed = |operation| {
            move |error| NetlinkError::Socket {
                operation,
                source: to_errno(error),
            }
        };
        let mut socket = Socket::new(protocol).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        // Errors then repeat the header of the request only.
        socket
            .set_cap_ack(true)
            .map_err(failed("set NETLINK_CAP_ACK"))?;
        // Beyond the system's limit only with privilege; below it is better than nothing.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            socket
                .set_rx_buf_sz(RECEIVE_BUFFER as i32)
                .map_err(failed("set SO_RCVBUF"))?;
        }
        socket2::SockRef::from(&socket)
            .set_read_timeout(Some(NETLINK_TIMEOUT))
            .map_err(failed("set the timeout"))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends requests in datagrams of at most [`LARGEST_BATCH`] and returns those that failed.
    pub(crate) fn batch<M>(&mut self, requests: Vec<M>) -> Result<Vec<FailedRequest>, NetlinkError>
    where
        M: NetlinkSerializable,
        NetlinkMessage<M>: From<M>,
    {
        self.batch_with(requests, |_| 0)
    }

    /// As [`Netlink::batch`], with flags for each request.
    pub(crate) fn batch_with<M>(
        &mut self,
        requests: Vec<M>,
        flags: impl Fn(&M) -> u16,
    ) -> Result<Vec<FailedRequest>, NetlinkError>
    where
        M: NetlinkSerializable,
        NetlinkMessage<M>: From<M>,
    {
        let mut failed = Vec::new();
        let mut requests = requests.into_iter().peekable();
        let mut done = 0;
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut datagram = Vec::new();
            let mut count = 0;
            while let Some(request) = requests.next() {
                count += 1;
                let last = count == LARGEST_BATCH || requests.peek().is_none();
                // Errors come unasked; one acknowledgement tells the end.
                let acknowledge = if last { NLM_F_ACK } else { 0 };
                let flags = NLM_F_REQUEST | acknowledge | flags(&request);
                self.append(&mut datagram, request, flags);
                if last {
                    break;
                }
            }
            self.send(&datagram)?;
            self.await_end(first, count, |index, errno| {
                failed.push(FailedRequest {
                    index: done + index,
                    errno,
                });
            })?;
            done += count;
        }
        Ok(failed)
    }

    /// Asks for everything of a kind. Answers that cannot be decoded are left out: they are those
    /// of other programs. A table that changes meanwhile is read again.
    pub(crate) fn dump<M>(&mut self, request: M) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
        NetlinkMessage<M>: From<M>,
    {
        whole(|| self.ask(request.clone(), NLM_F_REQUEST | NLM_F_DUMP))
    }

    /// Asks for one object.
    pub(crate) fn get<M>(&mut self, request: M) -> Result<Option<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
        NetlinkMessage<M>: From<M>,
    {
        // The acknowledgement comes after the answer and so ends the exchange as a dump's end does.
        let mut answer = self.ask(request, NLM_F_REQUEST | NLM_F_ACK)?;
        Ok(answer.objects.pop())
    }

    fn ask<M>(&mut self, request: M, flags: u16) -> Result<Answer<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
        NetlinkMessage<M>: From<M>,
    {
        let mut datagram = Vec::new();
        self.append(&mut datagram, request, flags);
        self.send(&datagram)?;
        let sequence = self.sequence;
        let mut answer = Answer {
            objects: Vec::new(),
            is_interrupted: false,
        };
        loop {
            let received = self.receive()?;
            if answer.add(sequence, &received)? {
                return Ok(answer);
            }
        }
    }

    /// Waits for the answer to the last of `count` requests from `first` on.
    fn await_end(
        &mut self,
        first: u32,
        count: usize,
        mut failed: impl FnMut(usize, Errno),
    ) -> Result<(), NetlinkError> {
        loop {
            let received = self.receive()?;
            for (header, payload) in messages(&received) {
                let index = header.sequence_number.wrapping_sub(first) as usize;
                if index >= count || header.message_type != NLMSG_ERROR {
                    continue;
                }
                if let Some(errno) = errno(payload) {
                    failed(index, errno);
                }
                if index + 1 == count {
                    return Ok(());
                }
            }
        }
    }

    fn append<M>(&mut self, datagram: &mut Vec<u8>, request: M, flags: u16)
    where
        M: NetlinkSerializable,
        NetlinkMessage<M>: From<M>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut datagram[start..start + message.buffer_len()]);
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), NetlinkError> {
        self.socket
            .send(datagram, 0)
            .map_err(|error| NetlinkError::Socket {
                operation: "send",
                source: to_errno(error),
            })?;
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, NetlinkError> {
        loop {
            let errno = match self.socket.recv_from_full() {
                Ok((datagram, _)) => return Ok(datagram),
                Err(error) => to_errno(error),
            };
            let reason = if errno == Errno::EINTR {
                continue;
            } else if errno == Errno::EAGAIN {
                "timeout"
            } else if errno == Errno::ENOBUFS {
                "receive buffer overflow"
            } else {
                return Err(NetlinkError::Socket {
                    operation: "receive",
                    source: errno,
                });
            };
            return Err(NetlinkError::AnswerLost { reason });
        }
    }
}

/// What the kernel answered to one request.
#[derive(Debug)]
struct Answer<M> {
    objects: Vec<M>,
    /// The table changed while the kernel sent it: objects may be missing.
    is_interrupted: bool,
}

impl<M: NetlinkDeserializable> Answer<M> {
    /// Adds the messages of a datagram that answer the request; says whether the answer has ended.
    fn add(&mut self, sequence: u32, datagram: &[u8]) -> Result<bool, NetlinkError> {
        for (header, payload) in messages(datagram) {
            if header.sequence_number != sequence {
                continue;
            }
            self.is_interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
            match header.message_type {
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => {
                    return Err(NetlinkError::AnswerLost { reason: "overrun" });
                }
                NLMSG_ERROR | NLMSG_DONE => {
                    return match errno(payload) {
                        None => Ok(true),
                        Some(errno) => Err(NetlinkError::Refused(errno)),
                    };
                }
                _ => match M::deserialize(&header, payload) {
                    Ok(object) => self.objects.push(object),
                    Err(error) => {
                        tracing::debug!(%error, "a netlink message cannot be decoded");
                    }
                },
            }
        }
        Ok(false)
    }
}

/// The first answer that is whole, of a bounded number of attempts.
fn whole<M>(
    mut ask: impl FnMut() -> Result<Answer<M>, NetlinkError>,
) -> Result<Vec<M>, NetlinkError> {
    for _ in 0..DUMP_ATTEMPTS {
        let answer = ask()?;
        if !answer.is_interrupted {
            return Ok(answer.objects);
        }
    }
    Err(NetlinkError::Interrupted {
        attempts: DUMP_ATTEMPTS,
    })
}

/// The error of an `NLMSG_ERROR` or `NLMSG_DONE`; `None`: none.
fn errno(payload: &[u8]) -> Option<Errno> {
    let (code, _) = payload.split_first_chunk::<4>()?;
    match i32::from_ne_bytes(*code) {
        0 => None,
        code => Some(Errno::from_raw(code.saturating_neg())),
    }
}

/// The messages of a datagram, up to the first that is cut short.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let mut header = NetlinkHeader::default();
        header.length = buffer.length();
        header.message_type = buffer.message_type();
        header.flags = buffer.flags();
        header.sequence_number = buffer.sequence_number();
        header.port_number = buffer.port_number();
        let payload = buffer.payload();
        let next = (header.length as usize).next_multiple_of(4);
        rest = rest.get(next..).unwrap_or_default();
        Some((header, payload))
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DecodeError, NLM_F_MULTIPART};

    use super::*;

    /// A message without content.
    #[derive(Debug)]
    struct Empty;

    impl NetlinkDeserializable for Empty {
        type Error = DecodeError;

        fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Self::Error> {
            Ok(Self)
        }
    }

    const OBJECT: u16 = 0x20;

    /// Messages of type and flags, each with a payload of four zeros.
    fn datagram(messages: &[(u16, u16)]) -> Vec<u8> {
        let mut datagram = Vec::new();
        for (message_type, flags) in messages {
            datagram.extend(20_u32.to_ne_bytes());
            datagram.extend(message_type.to_ne_bytes());
            datagram.extend((flags | NLM_F_MULTIPART).to_ne_bytes());
            datagram.extend(7_u32.to_ne_bytes());
            datagram.extend(0_u32.to_ne_bytes());
            datagram.extend([0; 4]);
        }
        datagram
    }

    /// Reads a table of which each attempt gets the next answer; the last one is repeated.
    fn read(answers: &[&[(u16, u16)]]) -> (Result<usize, NetlinkError>, usize) {
        let mut attempts = 0;
        let objects = whole(|| {
            let messages = answers[attempts.min(answers.len() - 1)];
            attempts += 1;
            let mut answer = Answer::<Empty> {
                objects: Vec::new(),
                is_interrupted: false,
            };
            assert!(answer.add(7, &datagram(messages))?, "the answer has ended");
            Ok(answer)
        });
        (objects.map(|objects| objects.len()), attempts)
    }

    #[test]
    fn an_interrupted_dump_is_read_again_and_never_taken_for_a_whole_one() {
        let whole = [(OBJECT, 0), (OBJECT, 0), (NLMSG_DONE, 0)];
        assert!(matches!(read(&[&whole]), (Ok(2), 1)));
        let in_the_middle = [(OBJECT, NLM_F_DUMP_INTR), (NLMSG_DONE, 0)];
        assert!(matches!(read(&[&in_the_middle, &whole]), (Ok(2), 2)));
        let at_the_end = [(OBJECT, 0), (NLMSG_DONE, NLM_F_DUMP_INTR)];
        assert!(matches!(read(&[&at_the_end, &whole]), (Ok(2), 2)));
        let (result, attempts) = read(&[&at_the_end]);
        assert!(matches!(result, Err(NetlinkError::Interrupted { .. })));
        assert_eq!(attempts, 5);
    }
}
