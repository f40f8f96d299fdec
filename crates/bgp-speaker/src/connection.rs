//! One TCP connection: bytes to messages and back.

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
    messages::{ConnectionEnd, ConnectionEvent, Order},
};

/// Bytes that are read at a time.
const READ_SIZE: usize = 16 * 1024;

/// Messages and prefixes that a connection hands to the owner in one of the owner's turns. One
/// message may exceed it. Large enough to pay for a turn, small enough that the other peers of a
/// peer that floods wait a fraction of a millisecond.
pub(crate) const SHARE: usize = 32;

/// What the last messages may take to reach the peer, and the peer to close its side.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    id: ConnectionId,
    stream: TcpStream,
    counters: Arc<SpeakerCounters>,
    decoder: Decoder,
    encoder: CodecOptions,
    input: BytesMut,
    output: BytesMut,
    /// To be handed to the owner.
    received: Vec<Message>,
    /// Messages and prefixes in `received`.
    received_work: usize,
    /// One permit: the owner has at most one share of this connection.
    turns: Arc<Semaphore>,
    /// Taken while the owner has none.
    turn: Option<OwnedSemaphorePermit>,
    end: Option<ConnectionEnd>,
    has_ended: bool,
    /// The codec changes after an OPEN.
    waits_for_options: bool,
    /// The owner waits for [`ConnectionEvent::Polled`].
    is_polled: bool,
    /// UPDATE messages in `output`, while the owner waits for their being written.
    updates: Option<u64>,
    /// A write has failed. What the peer sent before it closed is still to be read.
    write_problem: Option<String>,
    send_hold_time: Option<Duration>,
    /// While `output` holds something.
    send_deadline: Option<Instant>,
    send_hold_timer_expired: bool,
    has_warned_of_unsendable: bool,
}

impl Connection {
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
        mut orders: mpsc::Receiver<Order>,
        events: mpsc::Sender<ConnectionEvent>,
    ) {
        loop {
            if self.write_problem.is_some() {
                self.poll();
                self.report(&events);
            }
            let can_write = !self.output.is_empty();
            let can_read = self.can_read();
            let has_event = self.has_event();
            let has_no_turn = self.turn.is_none();
            let turns = self.turns.clone();
            let send_deadline = self.send_deadline;
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.follow(order),
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
            self.report(&events);
        }
        self.close().await;
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Send(message) => {
                encode(&message, &self.encoder, &mut self.output);
                self.write();
            }
            Order::SetCodecOptions { decoder, encoder } => {
                self.decoder.set_options(decoder);
                self.encoder = encoder;
                self.waits_for_options = false;
                self.decode();
            }
            Order::SetSendHoldTime(time) => self.send_hold_time = time,
            Order::Poll => {
                self.poll();
                self.is_polled = true;
            }
            Order::SendUpdates(updates) => {
                let start = self.output.len();
                for update in updates {
                    let unsendable =
                        encode(&Message::Update(update), &self.encoder, &mut self.output);
                    if !unsendable.is_empty() {
                        self.counters.paths_unsendable.add(unsendable.len() as u64);
                        warn_once!(
                            !std::mem::replace(&mut self.has_warned_of_unsendable, true),
                            count = unsendable.len(),
                            "attributes fit into no message: withdrawn"
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
            Ok(0) => self.lose("closed by the peer"),
            Ok(_) => self.decode(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.lose(&error.to_string()),
        }
    }

    /// Reads until the kernel has nothing more, or a message is there. Asks the kernel: tokio's
    /// `try_read_buf` reports an empty socket until its runtime has seen the socket's event, which
    /// is still to come when this process has slept.
    fn poll(&mut self) {
        let mut chunk = vec![0; READ_SIZE];
        while self.can_read() {
            match (&*SockRef::from(&self.stream)).read(&mut chunk) {
                Ok(0) => self.lose("closed by the peer"),
                Ok(length) => {
                    self.input.extend_from_slice(&chunk[..length]);
                    self.decode();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(problem) = self.write_problem.clone() {
                        self.lose(&problem);
                    }
                    return;
                }
                Err(error) => self.lose(&error.to_string()),
            }
        }
    }

    fn decode(&mut self) {
        while !self.waits_for_options && self.received_work < SHARE && !self.has_ended {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(message)) => {
                    self.waits_for_options = matches!(message, Message::Open(_));
                    self.received_work += work(&message);
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
            // Sessions are idle most of the time, and there may be thousands.
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
                    // They have not been written.
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

    /// The peer has taken nothing off its socket for the send hold time, as far as this process
    /// knows. If this process has slept, the kernel knows better: one attempt to write decides.
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

    fn lose(&mut self, problem: &str) {
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

    /// Whether there is something that waits for the owner's turn.
    fn has_share(&self) -> bool {
        !self.received.is_empty() || self.end.is_some()
    }

    /// Hands the owner what there is, without waiting for room in its queue.
    fn report(&mut self, events: &mpsc::Sender<ConnectionEvent>) {
        while self.has_event() {
            let Ok(permit) = events.try_reserve() else {
                return;
            };
            permit.send(self.take_event());
        }
    }

    /// Returns the next event; [`Self::has_event`] holds.
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

    /// Lets the last messages reach the peer. Without reading on, the kernel would answer what
    /// the peer still sends with a reset, and that would discard our NOTIFICATION over there.
    async fn close(mut self) {
        let goodbye = async {
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
        let ended: Result<io::Result<()>, _> = timeout(CLOSE_DEADLINE, goodbye).await;
        tracing::trace!(connection = self.id.0, ?ended, "connection closed");
    }
}

/// What a message costs the owner, in messages and prefixes.
fn work(message: &Message) -> usize {
    match message {
        Message::Update(update) => {
            let announced = update.announced.iter().map(|it| it.nlri.len());
            1 + update.withdrawn.len() + announced.sum::<usize>()
        }
        Message::Open(_)
        | Message::Notification(_)
        | Message::Keepalive
        | Message::RouteRefresh(_) => 1,
    }
}

/// Messages in encoded form: each tells its length after the 16 octets of the marker.
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
