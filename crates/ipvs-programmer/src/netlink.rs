//! Netlink socket that sends many requests in one datagram.

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_socket::{
    DUMP_ATTEMPTS, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, NetlinkSocket, ReceivedMessage,
    SocketError, messages, read_uninterrupted,
};
use nix::errno::Errno;

/// Largest number of requests in one datagram. The error messages of more requests could overflow
/// the default receive buffer.
pub(crate) const LARGEST_BATCH: usize = 128;

const RECEIVE_BUFFER: usize = 8 << 20;

const NLMSG_NOOP: u16 = 1;
const NLMSG_OVERRUN: u16 = 4;

/// The reason why an exchange with the kernel failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    #[error("the kernel refused the request")]
    Refused(#[source] Errno),
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Answers were lost or did not arrive. The kernel has possibly carried out the request.
    #[error("the answer of the kernel was lost: {reason}")]
    AnswerLost { reason: &'static str },
    /// The table changed during each attempt to read it, so the result could be incomplete.
    #[error("the kernel's table changed during each of {attempts} attempts to read it")]
    Interrupted { attempts: u32 },
}

/// A netlink socket of one netlink protocol.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: NetlinkSocket,
}

/// A failed request of a batch, with its index in the batch.
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

    /// Sends the requests in datagrams with at most [`LARGEST_BATCH`] requests. Returns the failed
    /// requests.
    pub(crate) fn batch<M>(&mut self, requests: Vec<M>) -> Result<Vec<FailedRequest>, NetlinkError>
    where
        M: NetlinkSerializable,
    {
        self.batch_with(requests, |_| 0)
    }

    /// Sends the requests like [`Netlink::batch`], with the flags that `flags` returns for each
    /// request.
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
                // The kernel reports a failed request also without the flag NLM_F_ACK. Only the
                // last request has this flag: its acknowledgement marks the end of the answers to
                // the datagram.
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

    /// Reads all objects of a table. Omits objects that cannot be decoded, because they belong to
    /// other programs. Reads the table again if it changed during the reading.
    pub(crate) fn dump<M>(&mut self, request: M) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let answer = read_uninterrupted(|| self.request_objects(&request, NLM_F_DUMP))?;
        answer.ok_or(NetlinkError::Interrupted {
            attempts: DUMP_ATTEMPTS,
        })
    }

    /// Reads one object. Returns `None` if the kernel sends no object.
    pub(crate) fn get<M>(&mut self, request: M) -> Result<Option<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        // The kernel sends the acknowledgement after the object, so the acknowledgement marks the
        // end like the end message of a dump.
        let answer = self.request_objects(&request, NLM_F_ACK)?;
        Ok(answer.and_then(|mut objects| objects.pop()))
    }

    /// Sends a request and collects its answer. Returns `None` if the table changed while the
    /// kernel sent it, so that objects are possibly missing.
    fn request_objects<M>(
        &mut self,
        request: &M,
        flags: u16,
    ) -> Result<Option<Vec<M>>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut datagram = Vec::new();
        let sequence = self.append(&mut datagram, request, flags);
        self.socket.send(&datagram)?;
        let mut answer = NetlinkAnswer {
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

    /// Waits for the answer to the last of `count` requests, whose sequence numbers begin with
    /// `first`. Calls `failed` for each failed request.
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

/// The answer of the kernel to one request.
#[derive(Debug)]
struct NetlinkAnswer<M> {
    objects: Vec<M>,
    /// The table changed while the kernel sent it, so objects are possibly missing.
    is_interrupted: bool,
}

impl<M: NetlinkDeserializable> NetlinkAnswer<M> {
    fn whole(self) -> Option<Vec<M>> {
        (!self.is_interrupted).then_some(self.objects)
    }

    /// Adds the messages of a datagram that answer the request. Returns whether the answer is
    /// complete.
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
                        tracing::debug!(%error, "cannot decode a netlink message; ignoring it");
                    }
                },
            }
        }
        Ok(false)
    }
}

fn header(message: &ReceivedMessage<'_>) -> NetlinkHeader {
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

    /// A decoded object without content.
    #[derive(Debug)]
    struct Empty;

    impl NetlinkDeserializable for Empty {
        type Error = DecodeError;

        fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Self::Error> {
            Ok(Self)
        }
    }

    const OBJECT: u16 = 0x20;

    /// Returns a datagram with messages of the given types and flags, each with a payload of four
    /// zeros.
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

    /// Reads a table. Each attempt gets the next element of `answers`; the last element is
    /// repeated. Returns the number of objects and the number of attempts.
    fn read(answers: &[&[(u16, u16)]]) -> (Result<Option<usize>, NetlinkError>, usize) {
        let mut attempts = 0;
        let objects = read_uninterrupted(|| {
            let messages = answers[attempts.min(answers.len() - 1)];
            attempts += 1;
            let mut answer = NetlinkAnswer::<Empty> {
                objects: Vec::new(),
                is_interrupted: false,
            };
            assert!(
                answer.add(7, &datagram(messages))?,
                "the answer is complete"
            );
            Ok(answer.whole())
        });
        let count = |objects: Option<Vec<Empty>>| objects.map(|objects| objects.len());
        (objects.map(count), attempts)
    }

    #[test]
    fn an_interrupted_dump_is_read_again_and_never_returned() {
        let whole = [(OBJECT, 0), (OBJECT, 0), (NLMSG_DONE, 0)];
        assert!(matches!(read(&[&whole]), (Ok(Some(2)), 1)));
        let interrupted_in_the_middle = [(OBJECT, NLM_F_DUMP_INTR), (NLMSG_DONE, 0)];
        assert!(matches!(
            read(&[&interrupted_in_the_middle, &whole]),
            (Ok(Some(2)), 2)
        ));
        let interrupted_at_the_end = [(OBJECT, 0), (NLMSG_DONE, NLM_F_DUMP_INTR)];
        assert!(matches!(
            read(&[&interrupted_at_the_end, &whole]),
            (Ok(Some(2)), 2)
        ));
        let (result, attempts) = read(&[&interrupted_at_the_end]);
        assert!(matches!(result, Ok(None)));
        assert_eq!(attempts, 5);
    }
}
