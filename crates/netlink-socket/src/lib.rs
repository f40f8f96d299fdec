//! A blocking netlink socket and the messages in its datagrams.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

/// Maximum time for which [`NetlinkSocket::receive`] waits for a datagram of the kernel.
///
/// The kernel answers before the send call returns, so an answer that is missing after this time
/// never arrives. The timeout is shorter than the grace periods after which other daemons react to
/// the silence of the daemon that waits.
pub const NETLINK_TIMEOUT: Duration = Duration::from_secs(1);

/// Message type that marks the end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// Message type of acknowledgements and errors.
pub const NLMSG_ERROR: u16 = 2;
/// Flag that marks a message as a request. Every message to the kernel has it.
const NLM_F_REQUEST: u16 = 1;
/// Flag that requests an acknowledgement.
pub const NLM_F_ACK: u16 = 4;
/// Flag that requests all objects of one kind.
pub const NLM_F_DUMP: u16 = 0x300;
/// Flag in the messages of a dump that can lack objects, because the table changed during the dump.
const NLM_F_DUMP_INTR: u16 = 0x10;

const HEADER_LEN: usize = 16;
/// Maximum number of attempts to read a table that changes during each attempt.
pub const DUMP_ATTEMPTS: u32 = 5;

/// A netlink socket in the network namespace of the thread that opened the socket.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
}

/// An operation on the socket that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("netlink socket: cannot {operation}")]
pub struct SocketError {
    pub operation: &'static str,
    #[source]
    pub errno: Errno,
}

/// A netlink message in a datagram from the kernel.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedMessage<'a> {
    pub message_type: u16,
    pub flags: u16,
    /// Sequence number of the request that this message answers.
    pub sequence: u32,
    /// Octets after the netlink header.
    pub payload: &'a [u8],
}

impl NetlinkSocket {
    /// Opens a netlink socket for a protocol such as `NETLINK_NETFILTER`.
    ///
    /// # Errors
    /// The kernel lacks the protocol, or has no memory for the socket.
    pub fn open(protocol: isize) -> Result<Self, SocketError> {
        let mut socket = Socket::new(protocol).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        // By default the kernel copies the request into each error message, and a large request
        // would overflow the receive buffer.
        socket
            .set_cap_ack(true)
            .map_err(failed("set NETLINK_CAP_ACK"))?;
        socket2::SockRef::from(&socket)
            .set_read_timeout(Some(NETLINK_TIMEOUT))
            .map_err(failed("set the receive timeout"))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sets the size of the receive buffer in bytes. An unprivileged process gets at most the limit
    /// of the system (`net.core.rmem_max`).
    ///
    /// # Errors
    /// The kernel accepts neither the requested size nor the limit of the system.
    pub fn set_receive_buffer(&mut self, size: usize) -> Result<(), SocketError> {
        if setsockopt(&self.socket, sockopt::RcvBufForce, &size).is_err() {
            let size = i32::try_from(size).unwrap_or(i32::MAX);
            self.socket
                .set_rx_buf_sz(size)
                .map_err(failed("set SO_RCVBUF"))?;
        }
        Ok(())
    }

    /// Sets the size of the send buffer in bytes if the process is privileged, and otherwise does
    /// nothing. The kernel refuses to send a datagram that is larger than the send buffer.
    pub fn set_send_buffer(&mut self, size: usize) {
        let _ = setsockopt(&self.socket, sockopt::SndBufForce, &size);
    }

    /// Appends a request to a datagram. Returns the sequence number of the request.
    pub fn append(
        &mut self,
        datagram: &mut Vec<u8>,
        message_type: u16,
        flags: u16,
        payload: &[u8],
    ) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let len = (HEADER_LEN + payload.len()) as u32;
        datagram.extend(len.to_ne_bytes());
        datagram.extend(message_type.to_ne_bytes());
        datagram.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        datagram.extend(self.sequence.to_ne_bytes());
        datagram.extend(0_u32.to_ne_bytes());
        datagram.extend(payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        self.sequence
    }

    /// Sends a datagram of requests that [`NetlinkSocket::append`] has written.
    ///
    /// # Errors
    /// The kernel does not accept the datagram.
    pub fn send(&self, datagram: &[u8]) -> Result<(), SocketError> {
        self.socket.send(datagram, 0).map_err(failed("send"))?;
        Ok(())
    }

    /// Waits for a datagram of the kernel.
    ///
    /// # Errors
    /// `EAGAIN`: no datagram arrived within [`NETLINK_TIMEOUT`]. `ENOBUFS`: the receive buffer was
    /// full, and the kernel dropped datagrams.
    pub fn receive(&self) -> Result<Vec<u8>, SocketError> {
        loop {
            match self.socket.recv_from_full().map_err(failed("receive")) {
                Ok((datagram, _)) => return Ok(datagram),
                Err(error) if error.errno == Errno::EINTR => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl ReceivedMessage<'_> {
    /// Reports whether the dumped table changed during the dump, so that objects can be missing.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// Returns the error in a message of type [`NLMSG_ERROR`] or [`NLMSG_DONE`]. Returns `None` if
    /// the message reports success.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        let Some((code, _)) = self.payload.split_first_chunk::<4>() else {
            return (self.message_type == NLMSG_ERROR).then_some(Errno::EBADMSG);
        };
        match i32::from_ne_bytes(*code) {
            0 => None,
            code => Some(Errno::from_raw(code.saturating_neg())),
        }
    }
}

/// Returns the messages of a datagram up to the first truncated message, which is not returned.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = ReceivedMessage<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<HEADER_LEN>()?;
        let number = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let len = number(0) as usize;
        let payload = rest.get(HEADER_LEN..len)?;
        let message = ReceivedMessage {
            message_type: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: number(8),
            payload,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Calls `ask` until `ask` returns an answer, at most [`DUMP_ATTEMPTS`] times. `ask` must return
/// `None` if the table changed during the dump. The function returns `None` if the table changed
/// during every dump.
///
/// # Errors
/// Returns the first error of `ask`.
pub fn read_uninterrupted<T, E>(
    mut ask: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    for _ in 0..DUMP_ATTEMPTS {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> SocketError {
    move |error| SocketError {
        operation,
        errno: Errno::try_from(error).unwrap_or(Errno::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_dump_is_recognized_by_the_flag_in_the_header() {
        let datagram = |flags: u16| {
            let mut datagram = Vec::new();
            datagram.extend((HEADER_LEN as u32).to_ne_bytes());
            datagram.extend(NLMSG_DONE.to_ne_bytes());
            datagram.extend(flags.to_ne_bytes());
            datagram.extend([0; 8]);
            datagram
        };
        let is_interrupted = |flags| messages(&datagram(flags)).next().unwrap().is_interrupted();
        assert!(is_interrupted(NLM_F_DUMP_INTR | 0x2));
        assert!(!is_interrupted(0x2));
    }

    #[test]
    fn a_dump_that_a_change_interrupts_is_repeated_up_to_five_attempts() {
        let mut answers = [None, None, Some(7)].into_iter();
        let answer = read_uninterrupted(|| Ok::<_, SocketError>(answers.next().unwrap()));
        assert_eq!(answer, Ok(Some(7)));
        let mut attempts = 0;
        let answer = read_uninterrupted(|| {
            attempts += 1;
            Ok::<Option<i32>, SocketError>(None)
        });
        assert_eq!((answer, attempts), (Ok(None), DUMP_ATTEMPTS));
    }
}
