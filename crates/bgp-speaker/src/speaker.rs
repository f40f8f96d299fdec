//! The speaker and its main task.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bounded_io::wait_until;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{JoinError, yield_now},
};

use crate::{
    config::SpeakerConfig,
    connection::SHARE,
    connections::ConnectionTasks,
    counters::SpeakerCounters,
    handle::SpeakerHandle,
    messages::{ConnectionEvent, SpeakerCommand},
    owner::SpeakerOwner,
    socket::{self, ListenError},
};

/// Capacity of the queue of events from the tasks of listeners, dials and connections to the owner.
const EVENTS: usize = 64;

/// Capacity of the queue of commands to the owner.
const COMMANDS: usize = 64;

/// An error that ends the speaker.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// A task panicked, because of a defect in this program.
    #[error("a task of the BGP speaker has panicked")]
    TaskPanicked(#[source] JoinError),
}

/// A speaker whose listening sockets are open. [`run`](Self::run) accepts their connections.
pub struct BgpSpeaker {
    pub(crate) owner: SpeakerOwner,
    commands: mpsc::Receiver<SpeakerCommand>,
    events: mpsc::Receiver<ConnectionEvent>,
    handle: SpeakerHandle,
    local_addresses: Vec<SocketAddr>,
}

impl BgpSpeaker {
    /// Opens the listening sockets. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A listening socket cannot be opened.
    pub fn bind(config: SpeakerConfig) -> Result<Self, ListenError> {
        let listeners = config
            .listen
            .iter()
            .map(|address| socket::listen(*address))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::new(config, listeners))
    }

    pub(crate) fn new(config: SpeakerConfig, listeners: Vec<TcpListener>) -> Self {
        let (event_sender, events) = mpsc::channel(EVENTS);
        let (command_sender, commands) = mpsc::channel(COMMANDS);
        let counters = Arc::new(SpeakerCounters::default());
        let connections = ConnectionTasks::new(event_sender, counters.clone());
        let mut owner = SpeakerOwner::new(config, connections, counters.clone(), rand::random());
        let local_addresses = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        for listener in listeners {
            owner.accept_from(listener);
        }
        Self {
            handle: SpeakerHandle::new(command_sender, owner.flushed(), counters),
            owner,
            commands,
            events,
            local_addresses,
        }
    }

    /// Returns the addresses of the listening sockets, with the ports that the kernel chose for
    /// port 0.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// Returns a handle for commands and queries.
    pub fn handle(&self) -> SpeakerHandle {
        self.handle.clone()
    }

    /// Serves the sessions. Returns when a [shutdown](SpeakerHandle::shutdown) has closed all
    /// connections or has reached its deadline, or when every handle is dropped.
    ///
    /// # Errors
    /// A task has panicked.
    pub async fn run(self) -> Result<(), SpeakerError> {
        let Self {
            mut owner,
            mut commands,
            mut events,
            handle,
            ..
        } = self;
        drop(handle);
        let mut is_busy = false;
        loop {
            owner.finish_turn(Instant::now());
            if owner.is_shut_down(Instant::now()) {
                break;
            }
            if std::mem::take(&mut is_busy) {
                // Let the runtime poll the sockets of other connections, which a busy owner would
                // delay.
                yield_now().await;
            }
            let deadline = owner.next_deadline().map(Into::into);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => owner.command(command, Instant::now()),
                    None => break,
                },
                event = events.recv() => {
                    let event = event.expect("the owner holds a sender of this channel");
                    is_busy = owner.take_turn(event, &mut events) >= SHARE;
                }
                ended = owner.task_ended() => match ended {
                    Err(error) if error.is_panic() => {
                        return Err(SpeakerError::TaskPanicked(error));
                    }
                    // The task of a dial, of a listener or of a closed connection has ended or was
                    // cancelled.
                    Err(_) | Ok(()) => {}
                },
                () = wait_until(deadline) => {}
            }
        }
        owner.answer_shutdown();
        Ok(())
    }
}
