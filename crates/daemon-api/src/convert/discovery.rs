//! Conversions of the messages of the Discovery contract.

use std::collections::{BTreeMap, BTreeSet};

use virtual_server::{
    BadValue, DesiredChange, RealServer, ServiceRange, VirtualServer, VirtualServerId,
};

use super::{ConversionError, prefix, wire, without_real_servers};
use crate::discovery::v1::{self as discovery, watch_response::Event};

/// Largest number of parts of one virtual server.
pub const MOST_PARTS: usize = 256;

/// Largest number of real servers in one part.
pub const LARGEST_PART: usize = 256;

const _: () = assert!(VirtualServer::MOST_REAL_SERVERS <= MOST_PARTS * LARGEST_PART);

/// Largest number of messages of one change of `DiscoveryService.Watch`.
const LONGEST_CHANGE: usize = 1_024;

/// An event of a `DiscoveryService.Watch`: a change of one object, or the mark `synced`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredSetEvent {
    /// An object is new, has changed, or no longer exists.
    Change(DesiredChange),
    /// A message about an object is invalid; the receiver keeps the last good state of the object.
    Invalid {
        /// The virtual server of the message; `None` if the message does not identify one.
        id: Option<VirtualServerId>,
        error: ConversionError,
    },
    /// Every object that existed when the watch began has been sent.
    Synced,
}

/// Assembles the desired set from the messages of one `DiscoveryService.Watch` stream.
#[derive(Debug, Default)]
pub struct DesiredSetAssembly {
    virtual_servers: BTreeMap<VirtualServerId, ReceivedVirtualServer>,
    /// Virtual servers with a message in the unfinished change.
    touched: BTreeSet<VirtualServerId>,
    /// Events of the unfinished change about service ranges and invalid messages, and `Synced`.
    pending: Vec<DesiredSetEvent>,
    /// Number of messages of the unfinished change so far.
    messages: usize,
}

/// The newest head and the newest parts of one virtual server.
#[derive(Debug, Default)]
struct ReceivedVirtualServer {
    head: Option<Result<ReceivedHead, ConversionError>>,
    parts: BTreeMap<usize, Result<Vec<RealServer>, ConversionError>>,
}

#[derive(Debug)]
struct ReceivedHead {
    /// The virtual server without its real servers.
    virtual_server: VirtualServer,
    part_count: usize,
}

impl DesiredSetAssembly {
    /// Stores a message. Returns the events of the change if the message is the last of the change,
    /// otherwise nothing. Returns [`DesiredSetEvent::Invalid`] for a change that has too many
    /// messages, or whose message with `synced` is not marked as the last one.
    pub fn receive(&mut self, message: discovery::WatchResponse) -> Vec<DesiredSetEvent> {
        if let Some(event) = message.event
            && let Err((id, error)) = self.take(event)
        {
            self.pending.push(DesiredSetEvent::Invalid { id, error });
        }
        self.messages += 1;
        if message.complete {
            self.messages = 0;
            return self.complete();
        }
        if self.pending.last() == Some(&DesiredSetEvent::Synced) {
            return self.abandon("must be set in the message with `synced`".to_owned());
        }
        if self.messages == LONGEST_CHANGE {
            return self.abandon(format!(
                "is unset in {LONGEST_CHANGE} messages, the largest number in one change; set it in \
                 the last message of each change"
            ));
        }
        Vec::new()
    }

    /// Drops the events of a change that its sender does not complete, so that the events cannot
    /// fill the memory.
    fn abandon(&mut self, problem: String) -> Vec<DesiredSetEvent> {
        self.messages = 0;
        self.touched.clear();
        self.pending.clear();
        vec![DesiredSetEvent::Invalid {
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
                    let problem = format!(
                        "{number} is above {}, the largest part number",
                        MOST_PARTS - 1
                    );
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
                self.pending.push(DesiredSetEvent::Change(change));
            }
            Event::RemovedServiceRange(range) => {
                let range = ServiceRange::try_from(range)
                    .map_err(|error| (None, error.within("removed_service_range")))?;
                let change = DesiredChange::RemoveServiceRange(range);
                self.pending.push(DesiredSetEvent::Change(change));
            }
            Event::Synced(discovery::Synced {}) => self.pending.push(DesiredSetEvent::Synced),
        }
        Ok(())
    }

    /// Returns the events of the complete change. Removals of virtual servers come first, so that
    /// at no moment two virtual servers have the same ports of an address. Changes of service
    /// ranges keep the order of their messages.
    fn complete(&mut self) -> Vec<DesiredSetEvent> {
        let touched = std::mem::take(&mut self.touched);
        let mut events = Vec::new();
        let mut assembled = Vec::new();
        for id in touched {
            events.extend(match self.virtual_servers.get_mut(&id) {
                None => Some(DesiredSetEvent::Change(DesiredChange::RemoveVirtualServer(
                    id,
                ))),
                Some(received) => {
                    assembled.push(match received.assemble() {
                        Ok(server) => {
                            DesiredSetEvent::Change(DesiredChange::PutVirtualServer(server))
                        }
                        Err(error) => DesiredSetEvent::Invalid {
                            id: Some(id),
                            error,
                        },
                    });
                    None
                }
            });
        }
        events.append(&mut self.pending);
        // `synced` follows every object that exists, so the assembled virtual servers go before it.
        let synced = events
            .iter()
            .position(|event| *event == DesiredSetEvent::Synced);
        let synced = synced.unwrap_or(events.len());
        events.splice(synced..synced, assembled);
        events
    }
}

impl ReceivedVirtualServer {
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

/// Returns the event with the head of a virtual server whose real servers are in `part_count`
/// parts.
#[must_use]
pub fn virtual_server_head(server: &VirtualServer, part_count: usize) -> Event {
    Event::VirtualServerHead(discovery::VirtualServerHead {
        virtual_server: Some(without_real_servers(server)),
        part_count: u32::try_from(part_count).unwrap_or(u32::MAX),
    })
}

/// Returns the event with the part `number` of the real servers of a virtual server.
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

fn head(message: discovery::VirtualServerHead) -> Result<ReceivedHead, ConversionError> {
    let server = message.virtual_server.unwrap_or_default();
    if !server.real_servers.is_empty() {
        let problem = "must be empty; send the real servers in parts";
        return Err(ConversionError::new("virtual_server.real_servers", problem));
    }
    let part_count = usize::try_from(message.part_count).unwrap_or(usize::MAX);
    if part_count > MOST_PARTS {
        let problem = format!("{part_count} is above {MOST_PARTS}, the largest number of parts");
        return Err(ConversionError::new("part_count", problem));
    }
    let virtual_server =
        (VirtualServer::try_from(server)).map_err(|error| error.within("virtual_server"))?;
    Ok(ReceivedHead {
        virtual_server,
        part_count,
    })
}

fn real_servers(messages: Vec<wire::RealServer>) -> Result<Vec<RealServer>, ConversionError> {
    let count = messages.len();
    if count > LARGEST_PART {
        let problem =
            format!("{count} real servers are more than {LARGEST_PART}, the limit of a part");
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

    /// Converts the message and validates the result with [`ServiceRange::validate`].
    fn try_from(message: discovery::ServiceRange) -> Result<Self, ConversionError> {
        let range = Self {
            prefix: prefix("prefix", &message.prefix)?,
        };
        let refused = |reason: BadValue| ConversionError::new("prefix", reason.to_string());
        range.validate().map_err(refused)?;
        Ok(range)
    }
}
