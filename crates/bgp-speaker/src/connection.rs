//! Task of one TCP connection: reads, decodes, encodes and writes messages.

use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};

use bgp_packet::{CodecOptions, Decoder, Message, encode};
use bgp_session::ConnectionId;
use bounded_io::wait_until;
use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout},
};

use crate::{
    counters::SpeakerCounters,
    messages::{ConnectionEnd, ConnectionEvent, ConnectionOrder},
};

/// Largest number of bytes in one read from the socket.
const READ_SIZE: usize = 16 * 1024;

/// Limit of a share, in messages plus prefixes: a connection sends at most one share to the owner
/// for each turn of the owner. The last message of a share can exceed the limit. The owner handles
/// a share in a fraction of a millisecond, so a peer that sends too many messages does not delay
/// the other peers noticeably.
pub(crate) const SHARE: usize = 32;

/// Time after which a closing connection no longer tries to send its last messages and no longer
/// waits until the peer has closed its side.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

pub(crate) struct ConnectionTask {
    id: ConnectionId,
    stream: TcpStream,
    counters: Arc<SpeakerCounters>,
    decoder: Decoder,
    encoder: CodecOptions,
    input: BytesMut,
    output: BytesMut,
    /// Decoded messages that the next share for the owner will contain.
    received: Vec<Message>,
    /// Cost of `received`: the number of messages plus the number of their prefixes.
    received_work: usize,
    /// Semaphore with one permit. The permit goes to the owner with each share, and comes back when
    /// the owner drops it at the end of its turn.
    turns: Arc<Semaphore>,
    /// The permit for the next share. `None` from the sending of a share until the end of the turn
    /// in which the owner handles this share.
    turn: Option<OwnedSemaphorePermit>,
    end: Option<ConnectionEnd>,
    has_ended: bool,
    /// Whether the connection has decoded an OPEN message and waits until the owner sends the codec
    /// options for the messages that follow.
    waits_for_options: bool,
    /// Whether the owner waits for [`ConnectionEvent::Polled`].
    is_polled: bool,
    /// Number of UPDATE messages of the batch in `output`. `None`: the owner does not wait for
    /// [`ConnectionEvent::Written`].
    updates: Option<u64>,
    /// Error of a failed write. After a failed write, the connection reads the messages that are in
    /// the receive buffer of the kernel, and then ends.
    write_problem: Option<String>,
    send_hold_time: Option<Duration>,
    /// Time at which the send hold timer expires. `None`: the timer does not run.
    send_deadline: Option<Instant>,
    send_hold_timer_expired: bool,
    has_warned_of_unsendable: bool,
}

impl ConnectionTask {
    pub(crate) fn new(id: ConnectionId, stream: TcpStream, counters: Arc<SpeakerCounters>) -> Self {
        let turns = Arc::new(Semaphore::new(1));
        Self {
            id,
            stream,
            counters,
            decoder: Decoder::new(),
            encoder: CodecOptions::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            received: Vec::new(),
            received_work: 0,
            turn: turns.clone().try_acquire_owned().ok(),
            turns,
            end: None,
            has_ended: false,
            waits_for_options: false,
            is_polled: false,
            updates: None,
            write_problem: None,
            send_hold_time: None,
            send_deadline: None,
            send_hold_timer_expired: false,
            has_warned_of_unsendable: false,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut orders: mpsc::Receiver<ConnectionOrder>,
        events: mpsc::Sender<ConnectionEvent>,
    ) {
        loop {
            if self.write_problem.is_some() {
                self.poll();
                self.send_events(&events);
            }
            let can_write = !self.output.is_empty();
            let can_read = self.can_read();
            let has_event = self.has_event();
            let has_no_turn = self.turn.is_none();
            let turns = self.turns.clone();
            let send_deadline = self.send_deadline;
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.execute(order),
                    None => break,
                },
                _ = self.stream.writable(), if can_write => self.write(),
                _ = self.stream.readable(), if can_read => self.read(),
                permit = events.reserve(), if has_event => match permit {
                    Ok(permit) => permit.send(self.take_event()),
                    Err(_) => break,
                },
                turn = turns.acquire_owned(), if has_no_turn => self.turn = turn.ok(),
                () = wait_until(send_deadline) => self.send_deadline_reached(),
            }
            self.send_events(&events);
        }
        self.close().await;
    }

    fn execute(&mut self, order: ConnectionOrder) {
        match order {
            ConnectionOrder::Send(message) => {
                encode(&message, &self.encoder, &mut self.output);
                self.write();
            }
            ConnectionOrder::SetCodecOptions { decoder, encoder } => {
                self.decoder.set_options(decoder);
                self.encoder = encoder;
                self.waits_for_options = false;
                self.decode();
            }
            ConnectionOrder::SetSendHoldTime(time) => self.send_hold_time = time,
            ConnectionOrder::Poll => {
                self.poll();
                self.is_polled = true;
            }
            ConnectionOrder::SendUpdates(updates) => {
                let start = self.output.len();
                for update in updates {
                    let unsendable =
                        encode(&Message::Update(update), &self.encoder, &mut self.output);
                    if !unsendable.is_empty() {
                        self.counters.paths_unsendable.add(unsendable.len() as u64);
                        warn_once!(
                            !std::mem::replace(&mut self.has_warned_of_unsendable, true),
                            count = unsendable.len(),
                            "withdrew paths whose attributes do not fit into one message"
                        );
                    }
                }
                self.updates = Some(count_messages(&self.output[start..]));
                self.write();
            }
        }
    }

    fn can_read(&self) -> bool {
        self.received.is_empty() && !self.has_ended && !self.waits_for_options
    }

    fn read(&mut self) {
        self.input.reserve(READ_SIZE);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => self.connection_lost("closed by the peer"),
            Ok(_) => self.decode(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.connection_lost(&error.to_string()),
        }
    }

    /// Reads until the receive buffer of the kernel is empty, or until at least one message is
    /// decoded. Bypasses tokio: after this process was suspended, `try_read_buf` reports an empty
    /// socket until the runtime has polled the socket.
    fn poll(&mut self) {
        let mut chunk = vec![0; READ_SIZE];
        while self.can_read() {
            match (&*SockRef::from(&self.stream)).read(&mut chunk) {
                Ok(0) => self.connection_lost("closed by the peer"),
                Ok(length) => {
                    self.input.extend_from_slice(&chunk[..length]);
                    self.decode();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(problem) = self.write_problem.clone() {
                        self.connection_lost(&problem);
                    }
                    return;
                }
                Err(error) => self.connection_lost(&error.to_string()),
            }
        }
    }

    fn decode(&mut self) {
        while !self.waits_for_options && self.received_work < SHARE && !self.has_ended {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(message)) => {
                    self.waits_for_options = matches!(message, Message::Open(_));
                    self.received_work += message_cost(&message);
                    self.received.push(message);
                }
                Ok(None) => break,
                Err(error) => {
                    self.has_ended = true;
                    self.end = Some(ConnectionEnd::Malformed(error));
                }
            }
        }
        if self.input.is_empty() {
            // Free the buffer: a speaker can have thousands of sessions, and most of them receive
            // only KEEPALIVE messages most of the time.
            self.input = BytesMut::new();
        }
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(written) => {
                    self.output.advance(written);
                    self.send_deadline = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.send_deadline.is_none() && !self.send_hold_timer_expired {
                        self.send_deadline = self.send_hold_time.map(|time| Instant::now() + time);
                    }
                    return;
                }
                Err(error) => {
                    self.output.clear();
                    // The batch was not written, so the owner must not receive `Written`.
                    self.updates = None;
                    self.write_problem.get_or_insert(error.to_string());
                }
            }
        }
        self.send_deadline = None;
        if self.output.capacity() > READ_SIZE {
            self.output = BytesMut::new();
        }
    }

    /// Tries one more write after the send deadline: if this process was suspended, the peer can
    /// have read from its socket during the suspension. The send hold timer expires only if the
    /// send buffer of the kernel is still full.
    fn send_deadline_reached(&mut self) {
        self.send_deadline = None;
        match (&*SockRef::from(&self.stream)).write(&self.output) {
            Ok(written) => {
                self.output.advance(written);
                self.write();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.send_hold_timer_expired = true;
            }
            Err(_) => self.write(),
        }
    }

    fn connection_lost(&mut self, problem: &str) {
        if !self.has_ended {
            self.has_ended = true;
            let problem = self.write_problem.as_deref().unwrap_or(problem);
            self.end = Some(ConnectionEnd::Lost(problem.to_owned()));
        }
    }

    fn has_event(&self) -> bool {
        let is_written = self.updates.is_some() && self.output.is_empty();
        let is_share_due = if self.has_share() {
            self.turn.is_some()
        } else {
            self.is_polled
        };
        is_share_due || is_written || self.send_hold_timer_expired
    }

    /// Reports whether the connection has messages for the owner, or has to report its end.
    fn has_share(&self) -> bool {
        !self.received.is_empty() || self.end.is_some()
    }

    /// Sends pending events to the owner until no event is pending or the queue of the owner is
    /// full. Does not wait.
    fn send_events(&mut self, events: &mpsc::Sender<ConnectionEvent>) {
        while self.has_event() {
            let Ok(permit) = events.try_reserve() else {
                return;
            };
            permit.send(self.take_event());
        }
    }

    /// Returns the next event. The caller must have checked [`Self::has_event`].
    fn take_event(&mut self) -> ConnectionEvent {
        let connection = self.id;
        if self.updates.is_some() && self.output.is_empty() {
            let updates = self.updates.take().unwrap_or_default();
            return ConnectionEvent::Written {
                connection,
                updates,
            };
        }
        if self.send_hold_timer_expired {
            self.send_hold_timer_expired = false;
            return ConnectionEvent::SendHoldTimerExpired { connection };
        }
        if !self.has_share() {
            self.is_polled = false;
            return ConnectionEvent::Polled { connection };
        }
        let event = ConnectionEvent::Received {
            connection,
            messages: std::mem::take(&mut self.received),
            work: std::mem::take(&mut self.received_work),
            end: self.end.take(),
            turn: self.turn.take(),
        };
        self.decode();
        event
    }

    /// Sends the last messages and closes the connection. Reads until the peer closes its side, at
    /// most until [`CLOSE_DEADLINE`]: a closed socket answers further data of the peer with a TCP
    /// reset, and the reset makes the kernel of the peer discard an unread NOTIFICATION.
    async fn close(mut self) {
        let finish = async {
            self.stream.write_all(&self.output).await?;
            self.stream.shutdown().await?;
            loop {
                self.stream.readable().await?;
                self.input.clear();
                self.input.reserve(READ_SIZE);
                match self.stream.try_read_buf(&mut self.input) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let ended: Result<io::Result<()>, _> = timeout(CLOSE_DEADLINE, finish).await;
        tracing::trace!(connection = self.id.0, ?ended, "connection closed");
    }
}

/// Returns the cost of handling a message: 1 for the message plus 1 for each prefix.
fn message_cost(message: &Message) -> usize {
    match message {
        Message::Update(update) => {
            let announced = update
                .announced
                .iter()
                .map(|announced| announced.nlri.len());
            1 + update.withdrawn.len() + announced.sum::<usize>()
        }
        Message::Open(_)
        | Message::Notification(_)
        | Message::Keepalive
        | Message::RouteRefresh(_) => 1,
    }
}

/// Counts the messages in an encoded buffer. Each message has its length after the marker of 16
/// octets.
fn count_messages(mut encoded: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(&[high, low]) = encoded.get(16..18) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        encoded = encoded.get(length..).unwrap_or_default();
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests;
