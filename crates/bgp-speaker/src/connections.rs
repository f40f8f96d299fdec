//! Tasks of listeners, dials and connections, and their channels.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc};

use bgp_packet::{Message, Update};
use bgp_rib::PeerId;
use bgp_session::{ConnectionId, SessionInput};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::{AbortHandle, JoinError, JoinSet},
};

use crate::{
    admission::AdmissionRules,
    config::PeerConfig,
    connection::ConnectionTask,
    counters::SpeakerCounters,
    messages::{ConnectionEvent, ConnectionOrder},
    socket,
};

/// Capacity of the queue of orders to one connection. At most one order in the queue is a batch of
/// updates. Most of the other orders are KEEPALIVE messages.
const ORDERS: usize = 16;

pub(crate) struct ConnectionTasks {
    links: HashMap<ConnectionId, ConnectionLink>,
    events: mpsc::Sender<ConnectionEvent>,
    counters: Arc<SpeakerCounters>,
    /// Tasks of listeners and dials.
    tasks: JoinSet<()>,
    connections: JoinSet<()>,
    last_dial: u64,
    last_connection: u64,
}

/// The owner's record of an open connection.
struct ConnectionLink {
    peer: PeerId,
    orders: mpsc::Sender<ConnectionOrder>,
    /// Whether the owner has ordered a batch of updates that the connection has not yet written.
    is_writing: bool,
    addresses: ConnectionAddresses,
}

/// The local and the remote address of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionAddresses {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// A pending attempt to connect to a peer.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) attempt: u64,
    task: AbortHandle,
}

impl Dial {
    pub(crate) fn cancel(self) {
        self.task.abort();
    }
}

impl ConnectionTasks {
    pub(crate) fn new(
        events: mpsc::Sender<ConnectionEvent>,
        counters: Arc<SpeakerCounters>,
    ) -> Self {
        Self {
            links: HashMap::new(),
            events,
            counters,
            tasks: JoinSet::new(),
            connections: JoinSet::new(),
            last_dial: 0,
            last_connection: 0,
        }
    }

    pub(crate) fn accept_from(
        &mut self,
        listener: TcpListener,
        admission: watch::Receiver<Arc<AdmissionRules>>,
    ) {
        let (counters, events) = (self.counters.clone(), self.events.clone());
        self.tasks
            .spawn(socket::accept(listener, admission, counters, events));
    }

    pub(crate) fn dial(&mut self, peer: PeerId, config: &PeerConfig) -> Dial {
        self.last_dial += 1;
        let attempt = self.last_dial;
        self.counters.dials.add(1);
        let (remote, local) = (config.address, config.local_address);
        let key = config.session.md5_key.clone();
        let timeout = config.session.connect_timeout;
        let events = self.events.clone();
        let task = self.tasks.spawn(async move {
            let result = socket::connect_within(timeout, remote, local, key).await;
            let dialled = ConnectionEvent::Dialled {
                peer,
                attempt,
                result,
            };
            // An error of `send` means that the owner has ended and does not need the result.
            let _ = events.send(dialled).await;
        });
        Dial { attempt, task }
    }

    /// Starts the task of a new connection of the peer.
    pub(crate) fn open(&mut self, peer: PeerId, stream: TcpStream) -> io::Result<ConnectionId> {
        let addresses = ConnectionAddresses {
            local: stream.local_addr()?,
            remote: stream.peer_addr()?,
        };
        stream.set_nodelay(true)?;
        let (connection, orders) = self.link(peer, addresses);
        let task = ConnectionTask::new(connection, stream, self.counters.clone());
        self.connections
            .spawn(task.run(orders, self.events.clone()));
        Ok(connection)
    }

    /// Registers a new connection of the peer. Returns the id of the connection and the receiver of
    /// the orders for it.
    pub(crate) fn link(
        &mut self,
        peer: PeerId,
        addresses: ConnectionAddresses,
    ) -> (ConnectionId, mpsc::Receiver<ConnectionOrder>) {
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        let (orders, receiver) = mpsc::channel(ORDERS);
        let link = ConnectionLink {
            peer,
            orders,
            is_writing: false,
            addresses,
        };
        self.links.insert(connection, link);
        (connection, receiver)
    }

    /// Closes the connection. The task of the connection first executes the orders in its queue.
    pub(crate) fn close(&mut self, connection: ConnectionId) {
        self.links.remove(&connection);
    }

    pub(crate) fn peer_of(&self, connection: ConnectionId) -> Option<PeerId> {
        self.links.get(&connection).map(|link| link.peer)
    }

    pub(crate) fn addresses(&self, connection: ConnectionId) -> Option<ConnectionAddresses> {
        self.links.get(&connection).map(|link| link.addresses)
    }

    /// Sends an order to the task of the connection. If the queue is full, drops a KEEPALIVE
    /// message, and for any other order returns the session input that ends the connection.
    pub(crate) fn order(
        &self,
        connection: ConnectionId,
        order: ConnectionOrder,
    ) -> Option<SessionInput> {
        match self.links.get(&connection)?.orders.try_send(order) {
            Ok(()) | Err(TrySendError::Full(ConnectionOrder::Send(Message::Keepalive))) => None,
            // The task has ended. The owner receives the last event of the task separately.
            Err(TrySendError::Closed(_)) => None,
            Err(TrySendError::Full(_)) => {
                let problem = "the peer reads nothing from its socket".to_owned();
                Some(SessionInput::ConnectionLost(connection, problem))
            }
        }
    }

    /// Reports whether the connection can take a batch of updates: it is open and has written its
    /// previous batch.
    pub(crate) fn takes_updates(&self, connection: ConnectionId) -> bool {
        let link = self.links.get(&connection);
        link.is_some_and(|link| !link.is_writing)
    }

    pub(crate) fn order_updates(
        &mut self,
        connection: ConnectionId,
        updates: Vec<Update>,
    ) -> Option<SessionInput> {
        self.links.get_mut(&connection)?.is_writing = true;
        self.order(connection, ConnectionOrder::SendUpdates(updates))
    }

    /// Records that the connection has written its batch of updates. Returns the peer of the
    /// connection.
    pub(crate) fn updates_written(&mut self, connection: ConnectionId) -> Option<PeerId> {
        let link = self.links.get_mut(&connection)?;
        link.is_writing = false;
        Some(link.peer)
    }

    pub(crate) fn end_listeners_and_dials(&mut self) {
        self.tasks.abort_all();
    }

    /// Reports whether the task of every connection has ended.
    pub(crate) fn are_closed(&self) -> bool {
        self.connections.is_empty()
    }

    /// Waits until the task of a listener, dial or connection has ended, and returns its result.
    pub(crate) async fn next_ended(&mut self) -> Result<(), JoinError> {
        tokio::select! {
            Some(ended) = self.tasks.join_next() => ended,
            Some(ended) = self.connections.join_next() => ended,
            else => std::future::pending().await,
        }
    }
}
