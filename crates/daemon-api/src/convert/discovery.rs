//! The messages of the Discovery contract.

use virtual_server::{BadValue, DesiredChange, ServiceRange};

use super::{ConversionError, prefix};
use crate::discovery::v1::{self as discovery, watch_response::Event};

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

impl From<&DesiredChange> for Event {
    fn from(change: &DesiredChange) -> Self {
        match change {
            DesiredChange::RemoveServiceRange(range) => Self::RemovedServiceRange((*range).into()),
            DesiredChange::RemoveVirtualServer(id) => Self::RemovedVirtualServer(id.into()),
            DesiredChange::PutServiceRange(range) => Self::ServiceRange((*range).into()),
            DesiredChange::PutVirtualServer(server) => Self::VirtualServer(server.into()),
        }
    }
}

/// What an event of `Discovery.Watch` says. `None`: everything that exists has been sent.
///
/// # Errors
///
/// Names the field that the contract does not allow.
pub fn desired_change(event: Event) -> Result<Option<DesiredChange>, ConversionError> {
    Ok(Some(match event {
        Event::VirtualServer(server) => DesiredChange::PutVirtualServer(
            (server.try_into()).map_err(|e: ConversionError| e.within("virtual_server"))?,
        ),
        Event::RemovedVirtualServer(id) => DesiredChange::RemoveVirtualServer(
            (id.try_into()).map_err(|e: ConversionError| e.within("removed_virtual_server"))?,
        ),
        Event::ServiceRange(range) => DesiredChange::PutServiceRange(
            (range.try_into()).map_err(|e: ConversionError| e.within("service_range"))?,
        ),
        Event::RemovedServiceRange(range) => DesiredChange::RemoveServiceRange(
            (range.try_into()).map_err(|e: ConversionError| e.within("removed_service_range"))?,
        ),
        Event::Synced(discovery::Synced {}) => return Ok(None),
    }))
}
