//! The places of a document's fields, read only when a problem needs one.

use daemon_runtime::config_file::{self, Place};
use serde::{Deserialize, de::IgnoredAny};
use serde_saphyr::Spanned;
use virtual_server::Field;

/// A value of which only the place matters.
type Value = Spanned<IgnoredAny>;

/// The places of a document.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Places {
    #[serde(default)]
    service_ranges: Vec<Value>,
    virtual_servers: Vec<Spanned<EntryPlaces>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryPlaces {
    name: Value,
    addresses: Vec<Value>,
    ports: Vec<Value>,
    scheduler_flags: Option<Value>,
    tunnel_kind: Option<Value>,
    persistence: Option<Value>,
    real_servers: Vec<Value>,
    health_check: Option<Value>,
    minimum_healthy: Option<Value>,
    drain_timeout: Option<Value>,
}

/// Which virtual server of an entry, by the indices in its lists.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// Index of the entry in the document.
    pub(super) entry: usize,
    /// Index of the address in the entry.
    pub(super) address: usize,
    /// Index of the ports in the entry.
    pub(super) ports: usize,
}

impl Places {
    /// Reads the places of a document that has been read.
    pub(super) fn of(text: &str) -> Self {
        config_file::parse(text, "").unwrap_or_default()
    }

    /// The place of a service range.
    pub(super) fn service_range(&self, index: usize) -> Option<Place> {
        self.service_ranges.get(index).and_then(Place::of)
    }

    /// The place of a virtual server: that of its address.
    pub(super) fn virtual_server(&self, origin: Origin) -> Option<Place> {
        self.field(origin, Field::Address, None)
    }

    /// The place of the first real server of an entry.
    pub(super) fn first_real_server(&self, origin: Origin) -> Option<Place> {
        let entry = self.virtual_servers.get(origin.entry)?;
        let first = entry.value.real_servers.first();
        first.and_then(Place::of).or_else(|| Place::of(entry))
    }

    /// The place of a field, as near as it is known. `real_server`: the index of the one that has
    /// the field.
    pub(super) fn field(
        &self,
        origin: Origin,
        field: Field,
        real_server: Option<usize>,
    ) -> Option<Place> {
        let entry = self.virtual_servers.get(origin.entry)?;
        let fields = &entry.value;
        let value = match field {
            Field::Address => fields.addresses.get(origin.address),
            Field::Ports => fields.ports.get(origin.ports),
            Field::Name => Some(&fields.name),
            Field::SchedulerFlags => fields.scheduler_flags.as_ref(),
            Field::TunnelKind => fields.tunnel_kind.as_ref(),
            Field::PersistenceTimeout | Field::ClientPrefixLength => fields.persistence.as_ref(),
            Field::HealthCheck(_) => fields.health_check.as_ref(),
            Field::MinimumHealthy => fields.minimum_healthy.as_ref(),
            Field::DrainTimeout => fields.drain_timeout.as_ref(),
            Field::RealServer(..) => real_server.and_then(|index| fields.real_servers.get(index)),
            Field::RealServers | Field::Scheduler | Field::ForwardingMethod | Field::OnFailure => {
                None
            }
        };
        value.and_then(Place::of).or_else(|| Place::of(entry))
    }
}
