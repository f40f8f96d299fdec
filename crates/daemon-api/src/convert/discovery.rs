//! The messages of the Discovery contract.

use std::collections::{BTreeMap, BTreeSet};

use virtual_server::{
    BadValue, DesiredChange, RealServer, ServiceRange, VirtualServer, VirtualServerId,
};

use super::{ConversionError, prefix, wire, without_real_servers};
use crate::discovery::v1::{self as discovery, watch_response::Event};

/// Most parts of the real servers of a virtual server.
pub const MOST_PARTS: usize = 256;

/// Most real servers in a part.
pub const LARGEST_PART: usize = 256;

const _: () = assert!(VirtualServer::MOST_REAL_SERVERS <= MOST_PARTS * LARGEST_PART);

/// Most messages of one change of `DiscoveryService.Watch`.
const LONGEST_CHANGE: usize = 1_024;

/// Meaning of one change of `DiscoveryService.Watch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredEvent {
    /// An object is new, differs or is gone.
    Change(DesiredChange),
    /// An object is invalid.
    Invalid {
        /// The virtual server that it belongs to, where that is known.
        id: Option<VirtualServerId>,
        /// Names the field and the problem.
        error: ConversionError,
    },
    /// Everything that exists has been sent.
    Synced,
}

/// Puts the objects of one stream of `DiscoveryService.Watch` together from its events.
#[derive(Debug, Default)]
pub struct DesiredSetAssembly {
    virtual_servers: BTreeMap<VirtualServerId, Received>,
    /// Virtual servers that the change under way touches.
    touched: BTreeSet<VirtualServerId>,
    /// Other events of the change under way.
    pending: Vec<DesiredEvent>,
    /// Messages of the change under way.
    messages: usize,
}

/// The newest messages about one virtual server.
#[derive(Debug, Default)]
struct Received {
    head: Option<Result<Head, ConversionError>>,
    parts: BTreeMap<usize, Result<Vec<RealServer>, ConversionError>>,
}

#[derive(Debug)]
struct Head {
    /// The virtual server without its real servers.
    virtual_server: VirtualServer,
    part_count: usize,
}

impl DesiredSetAssembly {
    /// Takes a message over. Returns what has changed if it is the last message of a change.
    pub fn receive(&mut self, message: discovery::WatchResponse) -> Vec<DesiredEvent> {
        if let Some(event) = message.event
            && let Err((id, error)) = self.take(event)
        {
            self.pending.push(DesiredEvent::Invalid { id, error });
        }
        self.messages += 1;
        if message.complete {
            self.messages = 0;
            return self.complete();
        }
        if self.pending.last() == Some(&DesiredEvent::Synced) {
            return self.abandon("must be set in the message with `synced`".to_owned());
        }
        if self.messages == LONGEST_CHANGE {
            return self.abandon(format!(
                "is unset in {LONGEST_CHANGE} messages, the most of a change; set it in the last \
                 message of each change"
            ));
        }
        Vec::new()
    }

    /// Ends a change whose sender does not end it, so that it does not grow. The change has no effect.
    fn abandon(&mut self, problem: String) -> Vec<DesiredEvent> {
        self.messages = 0;
        self.touched.clear();
        self.pending.clear();
        vec![DesiredEvent::Invalid {
            id: None,
            error: ConversionError::new("complete", problem),
        }]
    }

    fn take(&mut self, event: Event) -> Result<(), (Option<VirtualServerId>, ConversionError)> {
        match event {
            Event::VirtualServerHead(message) => {
                let id = id_of(message.virtual_server.as_ref())
                    .map_err(|error| (None, error.within("virtual_server_head.virtual_server")))?;
                let head = head(message).map_err(|error| error.within("virtual_server_head"));
                self.touched.insert(id);
                self.virtual_servers.entry(id).or_default().head = Some(head);
            }
            Event::RealServerPart(message) => {
                let id = message
                    .virtual_server
                    .ok_or_else(|| ConversionError::unset("virtual_server"))
                    .and_then(VirtualServerId::try_from)
                    .map_err(|error| (None, error.within("real_server_part.virtual_server")))?;
                let number = usize::try_from(message.number).unwrap_or(usize::MAX);
                if number >= MOST_PARTS {
                    let problem =
                        format!("{number} is above {}, the largest number", MOST_PARTS - 1);
                    let error = ConversionError::new("real_server_part.number", problem);
                    return Err((Some(id), error));
                }
                let part = real_servers(message.real_servers)
                    .map_err(|error| error.within(format!("real_server_part[{number}]")));
                self.touched.insert(id);
                let received = self.virtual_servers.entry(id).or_default();
                received.parts.insert(number, part);
            }
            Event::RemovedVirtualServer(id) => {
                let id = VirtualServerId::try_from(id)
                    .map_err(|error| (None, error.within("removed_virtual_server")))?;
                self.touched.insert(id);
                self.virtual_servers.remove(&id);
            }
            Event::ServiceRange(range) => {
                let range = ServiceRange::try_from(range)
                    .map_err(|error| (None, error.within("service_range")))?;
                let change = DesiredChange::PutServiceRange(range);
                self.pending.push(DesiredEvent::Change(change));
            }
            Event::RemovedServiceRange(range) => {
                let range = ServiceRange::try_from(range)
                    .map_err(|error| (None, error.within("removed_service_range")))?;
                let change = DesiredChange::RemoveServiceRange(range);
                self.pending.push(DesiredEvent::Change(change));
            }
            Event::Synced(discovery::Synced {}) => self.pending.push(DesiredEvent::Synced),
        }
        Ok(())
    }

    /// Removals come first, so that no two objects claim the same ports or addresses.
    fn complete(&mut self) -> Vec<DesiredEvent> {
        let touched = std::mem::take(&mut self.touched);
        let mut events = Vec::new();
        let mut assembled = Vec::new();
        for id in touched {
            events.extend(match self.virtual_servers.get_mut(&id) {
                None => Some(DesiredEvent::Change(DesiredChange::RemoveVirtualServer(id))),
                Some(received) => {
                    assembled.push(match received.assemble() {
                        Ok(server) => DesiredEvent::Change(DesiredChange::PutVirtualServer(server)),
                        Err(error) => DesiredEvent::Invalid {
                            id: Some(id),
                            error,
                        },
                    });
                    None
                }
            });
        }
        events.append(&mut self.pending);
        // A stream that is synced has sent what exists before.
        let rest = events
            .iter()
            .position(|event| *event == DesiredEvent::Synced);
        let rest = rest.unwrap_or(events.len());
        events.splice(rest..rest, assembled);
        events
    }
}

impl Received {
    fn assemble(&mut self) -> Result<VirtualServer, ConversionError> {
        let head = match &self.head {
            Some(head) => head.as_ref().map_err(ConversionError::clone)?,
            None => return Err(ConversionError::unset("virtual_server_head")),
        };
        self.parts.split_off(&head.part_count);
        let mut real_servers = Vec::new();
        for number in 0..head.part_count {
            match self.parts.get(&number) {
                Some(Ok(part)) => real_servers.extend_from_slice(part),
                Some(Err(error)) => return Err(error.clone()),
                None => {
                    return Err(ConversionError::unset(format!(
                        "real_server_part[{number}]"
                    )));
                }
            }
        }
        let mut server = VirtualServer {
            real_servers,
            ..head.virtual_server.clone()
        };
        server.sort_real_servers();
        server.validate()?;
        Ok(server)
    }
}

/// Returns the event of the head of a virtual server, whose real servers are in this many parts.
#[must_use]
pub fn virtual_server_head(server: &VirtualServer, part_count: usize) -> Event {
    Event::VirtualServerHead(discovery::VirtualServerHead {
        virtual_server: Some(without_real_servers(server)),
        part_count: u32::try_from(part_count).unwrap_or(u32::MAX),
    })
}

/// Returns the event of a part of the real servers of a virtual server.
#[must_use]
pub fn real_server_part(id: &VirtualServerId, number: usize, real_servers: &[RealServer]) -> Event {
    Event::RealServerPart(discovery::RealServerPart {
        virtual_server: Some(id.into()),
        number: u32::try_from(number).unwrap_or(u32::MAX),
        real_servers: real_servers.iter().map(Into::into).collect(),
    })
}

fn id_of(message: Option<&wire::VirtualServer>) -> Result<VirtualServerId, ConversionError> {
    let message = message.ok_or_else(|| ConversionError::unset("address"))?;
    wire::VirtualServerId {
        address: message.address.clone(),
        ports: message.ports,
        protocol: message.protocol,
    }
    .try_into()
}

fn head(message: discovery::VirtualServerHead) -> Result<Head, ConversionError> {
    let server = message.virtual_server.unwrap_or_default();
    if !server.real_servers.is_empty() {
        let problem = "must be empty: the real servers travel in parts";
        return Err(ConversionError::new("virtual_server.real_servers", problem));
    }
    let part_count = usize::try_from(message.part_count).unwrap_or(usize::MAX);
    if part_count > MOST_PARTS {
        let problem = format!("{part_count} is above {MOST_PARTS}, the most parts");
        return Err(ConversionError::new("part_count", problem));
    }
    let virtual_server =
        (VirtualServer::try_from(server)).map_err(|error| error.within("virtual_server"))?;
    Ok(Head {
        virtual_server,
        part_count,
    })
}

fn real_servers(messages: Vec<wire::RealServer>) -> Result<Vec<RealServer>, ConversionError> {
    let count = messages.len();
    if count > LARGEST_PART {
        let problem =
            format!("{count} real servers are more than {LARGEST_PART}, the most in a part");
        return Err(ConversionError::new("real_servers", problem));
    }
    let messages = messages.into_iter().enumerate();
    messages
        .map(|(index, message)| {
            RealServer::try_from(message)
                .map_err(|error| error.within(format!("real_servers[{index}]")))
        })
        .collect()
}

impl From<ServiceRange> for discovery::ServiceRange {
    fn from(range: ServiceRange) -> Self {
        Self {
            prefix: range.prefix.to_string(),
        }
    }
}

impl TryFrom<discovery::ServiceRange> for ServiceRange {
    type Error = ConversionError;

    /// Refuses also what [`ServiceRange::validate`] refuses.
    fn try_from(message: discovery::ServiceRange) -> Result<Self, ConversionError> {
        let range = Self {
            prefix: prefix("prefix", &message.prefix)?,
        };
        let refused = |reason: BadValue| ConversionError::new("prefix", reason.to_string());
        range.validate().map_err(refused)?;
        Ok(range)
    }
}
