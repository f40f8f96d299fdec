//! Requests to the kernel over a netlink socket, many in one datagram.

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_socket::{
    DUMP_ATTEMPTS, Message, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, NetlinkSocket,
    SocketError, messages, whole,
};
use nix::errno::Errno;

/// More requests in one datagram can overflow the default receive buffer with their errors.
pub(crate) const LARGEST_BATCH: usize = 128;

const RECEIVE_BUFFER: usize = 8 << 20;

const NLMSG_NOOP: u16 = 1;
const NLMSG_OVERRUN: u16 = 4;

/// Why an exchange with the kernel failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel said no.
    #[error("the kernel refused the request")]
    Refused(#[source] Errno),
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] SocketError),
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

/// A netlink socket that answers in the messages of a protocol.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: NetlinkSocket,
}

/// A request that failed, by its place in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailedRequest {
    pub(crate) index: usize,
    pub(crate) errno: Errno,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = NetlinkSocket::open(protocol)?;
        socket.set_receive_buffer(RECEIVE_BUFFER)?;
        Ok(Self { socket })
    }

    /// Sends requests in datagrams of at most [`LARGEST_BATCH`] and returns those that failed.
    pub(crate) fn batch<M>(&mut self, requests: Vec<M>) -> Result<Vec<FailedRequest>, NetlinkError>
    where
        M: NetlinkSerializable,
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
    {
        let mut failed = Vec::new();
        let mut requests = requests.into_iter().peekable();
        let mut done = 0;
        while requests.peek().is_some() {
            let mut datagram = Vec::new();
            let mut first = None;
            let mut count = 0;
            while let Some(request) = requests.next() {
                count += 1;
                let last = count == LARGEST_BATCH || requests.peek().is_none();
                // Errors come unasked; one acknowledgement tells the end.
                let acknowledge = if last { NLM_F_ACK } else { 0 };
                let flags = acknowledge | flags(&request);
                let sequence = self.append(&mut datagram, &request, flags);
                first.get_or_insert(sequence);
                if last {
                    break;
                }
            }
            self.socket.send(&datagram)?;
            let first = first.unwrap_or_default();
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
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let answer = whole(|| self.ask(&request, NLM_F_DUMP))?;
        answer.ok_or(NetlinkError::Interrupted {
            attempts: DUMP_ATTEMPTS,
        })
    }

    /// Asks for one object.
    pub(crate) fn get<M>(&mut self, request: M) -> Result<Option<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        // The acknowledgement comes after the answer and so ends the exchange as a dump's end does.
        let answer = self.ask(&request, NLM_F_ACK)?;
        Ok(answer.and_then(|mut objects| objects.pop()))
    }

    /// `None`: the table changed while the kernel sent it, so objects may be missing.
    fn ask<M>(&mut self, request: &M, flags: u16) -> Result<Option<Vec<M>>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut datagram = Vec::new();
        let sequence = self.append(&mut datagram, request, flags);
        self.socket.send(&datagram)?;
        let mut answer = Answer {
            objects: Vec::new(),
            is_interrupted: false,
        };
        loop {
            let received = self.receive()?;
            if answer.add(sequence, &received)? {
                return Ok(answer.whole());
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
            for message in messages(&received) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index >= count || message.message_type != NLMSG_ERROR {
                    continue;
                }
                if let Some(errno) = message.errno() {
                    failed(index, errno);
                }
                if index + 1 == count {
                    return Ok(());
                }
            }
        }
    }

    fn append(
        &mut self,
        datagram: &mut Vec<u8>,
        request: &impl NetlinkSerializable,
        flags: u16,
    ) -> u32 {
        let mut payload = vec![0; request.buffer_len()];
        request.serialize(&mut payload);
        self.socket
            .append(datagram, request.message_type(), flags, &payload)
    }

    fn receive(&mut self) -> Result<Vec<u8>, NetlinkError> {
        self.socket.receive().map_err(|error| {
            let reason = if error.errno == Errno::EAGAIN {
                "timeout"
            } else if error.errno == Errno::ENOBUFS {
                "receive buffer overflow"
            } else {
                return error.into();
            };
            NetlinkError::AnswerLost { reason }
        })
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
    fn whole(self) -> Option<Vec<M>> {
        (!self.is_interrupted).then_some(self.objects)
    }

    /// Adds the messages of a datagram that answer the request; says whether the answer has ended.
    fn add(&mut self, sequence: u32, datagram: &[u8]) -> Result<bool, NetlinkError> {
        for message in messages(datagram) {
            if message.sequence != sequence {
                continue;
            }
            self.is_interrupted |= message.is_interrupted();
            match message.message_type {
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => {
                    return Err(NetlinkError::AnswerLost { reason: "overrun" });
                }
                NLMSG_ERROR | NLMSG_DONE => {
                    return match message.errno() {
                        None => Ok(true),
                        Some(errno) => Err(NetlinkError::Refused(errno)),
                    };
                }
                _ => match M::deserialize(&header(&message), message.payload) {
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

fn header(message: &Message<'_>) -> NetlinkHeader {
    let mut header = NetlinkHeader::default();
    header.message_type = message.message_type;
    header.flags = message.flags;
    header.sequence_number = message.sequence;
    header
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DecodeError, NLM_F_DUMP_INTR, NLM_F_MULTIPART};

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
    fn read(answers: &[&[(u16, u16)]]) -> (Result<Option<usize>, NetlinkError>, usize) {
        let mut attempts = 0;
        let objects = whole(|| {
            let messages = answers[attempts.min(answers.len() - 1)];
            attempts += 1;
            let mut answer = Answer::<Empty> {
                objects: Vec::new(),
                is_interrupted: false,
            };
            assert!(answer.add(7, &datagram(messages))?, "the answer has ended");
            Ok(answer.whole())
        });
        let count = |objects: Option<Vec<Empty>>| objects.map(|objects| objects.len());
        (objects.map(count), attempts)
    }

    #[test]
    fn an_interrupted_dump_is_read_again_and_never_taken_for_a_whole_one() {
        let whole = [(OBJECT, 0), (OBJECT, 0), (NLMSG_DONE, 0)];
        assert!(matches!(read(&[&whole]), (Ok(Some(2)), 1)));
        let in_the_middle = [(OBJECT, NLM_F_DUMP_INTR), (NLMSG_DONE, 0)];
        assert!(matches!(read(&[&in_the_middle, &whole]), (Ok(Some(2)), 2)));
        let at_the_end = [(OBJECT, 0), (NLMSG_DONE, NLM_F_DUMP_INTR)];
        assert!(matches!(read(&[&at_the_end, &whole]), (Ok(Some(2)), 2)));
        let (result, attempts) = read(&[&at_the_end]);
        assert!(matches!(result, Ok(None)));
        assert_eq!(attempts, 5);
    }
}
