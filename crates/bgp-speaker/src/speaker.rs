//! The speaker: its task.

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
    connections::Connections,
    counters::SpeakerCounters,
    handle::SpeakerHandle,
    messages::{Command, ConnectionEvent},
    owner::Owner,
    socket::{self, ListenError},
};

/// Events of all connections together that may wait for the owner.
const EVENTS: usize = 64;

/// Commands that may wait for the owner.
const COMMANDS: usize = 64;

/// The speaker cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// A defect of this program.
    #[error("a task of the BGP speaker has panicked")]
    TaskPanicked(#[source] JoinError),
}

/// A speaker that listens and waits to be run.
pub struct Speaker {
    pub(crate) owner: Owner,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Receiver<ConnectionEvent>,
    handle: SpeakerHandle,
    local_addresses: Vec<SocketAddr>,
}

impl Speaker {
    /// Opens the listening sockets. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// The configuration cannot be served.
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
        let connections = Connections::new(event_sender, counters.clone());
        let mut owner = Owner::new(config, connections, counters.clone(), rand::random());
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

    /// The addresses on which it listens, with the ports that the kernel chose.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// Returns a handle for commands and questions.
    pub fn handle(&self) -> SpeakerHandle {
        self.handle.clone()
    }

    /// Serves until it is shut down or every handle is gone.
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
                // The runtime polls the sockets of the other connections meanwhile.
                yield_now().await;
            }
            let deadline = owner.next_deadline().map(Into::into);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => owner.command(command, Instant::now()),
                    None => break,
                },
                event = events.recv() => {
                    let event = event.expect("the owner holds a sender itself");
                    is_busy = owner.take_turn(event, &mut events) >= SHARE;
                }
                ended = owner.task_ended() => match ended {
                    Err(error) if error.is_panic() => {
                        return Err(SpeakerError::TaskPanicked(error));
                    }
                    // An abandoned dial, or a connection that has closed.
                    Err(_) | Ok(()) => {}
                },
                () = wait_until(deadline) => {}
            }
        }
        owner.answer_shutdown();
        Ok(())
    }
}
