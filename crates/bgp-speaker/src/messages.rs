//! Messages between the tasks of a speaker.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use bgp_packet::{CodecOptions, DecodeError, Family, Message, PathAttributes, Update};
use bgp_rib::{NextHopFamilyMismatch, PeerId};
use bgp_session::{Cease, ConnectionId};
use ipnet::IpNet;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, oneshot},
    time::error::Elapsed,
};

use crate::{
    admission::AdmissionRules,
    config::{Configuration, InvalidConfiguration},
    observe::ObservedChanges,
    path_list::{PathQuery, PathStatus},
    refused_sessions::RefusedSession,
    status::PeerStatus,
};

/// An event from a connection, dial or listener task to the owner.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    Accepted {
        stream: TcpStream,
        remote: SocketAddr,
        /// The admission rules that the listener applied when it accepted the connection.
        admission: Arc<AdmissionRules>,
    },
    Dialled {
        peer: PeerId,
        attempt: u64,
        /// [`Elapsed`] if the peer did not answer within its `connect_timeout`.
        result: Result<io::Result<TcpStream>, Elapsed>,
    },
    Received {
        connection: ConnectionId,
        messages: Vec<Message>,
        /// Cost of `messages`: the number of messages plus the number of their prefixes.
        work: usize,
        end: Option<ConnectionEnd>,
        /// The connection sends no further share until the owner drops this permit at the end of
        /// its turn.
        turn: Option<OwnedSemaphorePermit>,
    },
    Written {
        connection: ConnectionId,
        updates: u64,
    },
    /// The answer to [`ConnectionOrder::Poll`].
    Polled {
        connection: ConnectionId,
    },
    SendHoldTimerExpired {
        connection: ConnectionId,
    },
}

/// The reason for which a connection delivers no further messages.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    Lost(String),
    Malformed(DecodeError),
}

/// An order from the owner to a connection task. The task closes the connection when the owner
/// drops the channel of orders.
#[derive(Debug)]
pub(crate) enum ConnectionOrder {
    Send(Message),
    /// Must follow every OPEN message of the peer: the connection decodes no further message before
    /// this order.
    SetCodecOptions {
        decoder: CodecOptions,
        encoder: CodecOptions,
    },
    /// Sets the send hold time: after this time without a successful write of waiting data, the
    /// connection sends [`ConnectionEvent::SendHoldTimerExpired`]. `None`: the connection waits
    /// without a limit.
    SetSendHoldTime(Option<Duration>),
    /// Read the socket until it is empty or a message is complete, send the decoded messages to the
    /// owner, then send [`ConnectionEvent::Polled`].
    Poll,
    /// Write the updates, then send [`ConnectionEvent::Written`] when all bytes are in the send
    /// buffer of the kernel.
    SendUpdates(Vec<Update>),
}

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// A command from a [`SpeakerHandle`](crate::SpeakerHandle) to the owner.
#[derive(Debug)]
pub(crate) enum SpeakerCommand {
    Configure(Configuration, Reply<Result<(), InvalidConfiguration>>),
    Originate(
        IpNet,
        Arc<PathAttributes>,
        Reply<Result<u64, NextHopFamilyMismatch>>,
    ),
    Withdraw(IpNet, Reply<u64>),
    Barrier(Reply<u64>),
    Reset(String, Cease),
    RequestRefresh(String, Family),
    ListPeers(Reply<Vec<PeerStatus>>),
    ListRefusedSessions(Reply<Vec<RefusedSession>>),
    ListPaths(PathQuery, Reply<Vec<PathStatus>>),
    Observe {
        observer: u64,
        alive: Weak<()>,
        paths: bool,
    },
    NextChanges {
        observer: u64,
        reply: Reply<ObservedChanges>,
    },
    Shutdown {
        cease: Cease,
        deadline: Duration,
        done: Reply<()>,
    },
}
