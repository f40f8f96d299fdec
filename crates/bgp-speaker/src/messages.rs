//! The messages between the tasks of a speaker.

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
    admission::Admission,
    config::{Configuration, InvalidConfiguration},
    observe::Changes,
    path_list::{PathQuery, PathStatus},
    refused_sessions::RefusedSession,
    status::PeerStatus,
};

/// From the tasks of connections, dials and listeners to the owner.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    Accepted {
        stream: TcpStream,
        remote: SocketAddr,
        /// By which it was admitted.
        admission: Arc<Admission>,
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
        /// Messages and prefixes in `messages`.
        work: usize,
        end: Option<ConnectionEnd>,
        /// The connection hands over no other share until the owner drops it.
        turn: Option<OwnedSemaphorePermit>,
    },
    Written {
        connection: ConnectionId,
        updates: u64,
    },
    /// The answer to [`Order::Poll`].
    Polled {
        connection: ConnectionId,
    },
    SendHoldTimerExpired {
        connection: ConnectionId,
    },
}

/// Why a connection brings no further messages.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    Lost(String),
    Malformed(DecodeError),
}

/// From the owner to a connection, which closes once the owner drops their channel.
#[derive(Debug)]
pub(crate) enum Order {
    Send(Message),
    /// Follows every OPEN of the peer; nothing is decoded before it.
    SetCodecOptions {
        decoder: CodecOptions,
        encoder: CodecOptions,
    },
    /// How long the peer may take nothing off its socket.
    SetSendHoldTime(Option<Duration>),
    /// Read the socket until it is empty. Answered by [`ConnectionEvent::Polled`], after the messages
    /// that were found.
    Poll,
    /// Answered by [`ConnectionEvent::Written`] when all of it is in the kernel's buffer.
    SendUpdates(Vec<Update>),
}

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// From a [`SpeakerHandle`](crate::SpeakerHandle) to the owner.
#[derive(Debug)]
pub(crate) enum Command {
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
        reply: Reply<Changes>,
    },
    Shutdown {
        cease: Cease,
        deadline: Duration,
        done: Reply<()>,
    },
}
