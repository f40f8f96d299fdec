//! Lines and columns of the fields of a document.

use daemon_runtime::config_file::{self, FileLocation};
use serde::{Deserialize, de::IgnoredAny};
use serde_saphyr::Spanned;
use virtual_server::Field;

/// A value of the document whose place is stored and whose content is ignored.
type PlacedValue = Spanned<IgnoredAny>;

/// Lines and columns of the fields of a document.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Places {
    #[serde(default)]
    service_ranges: Vec<PlacedValue>,
    virtual_servers: Vec<Spanned<EntryPlaces>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryPlaces {
    name: PlacedValue,
    addresses: Vec<PlacedValue>,
    ports: Vec<PlacedValue>,
    scheduler_flags: Option<PlacedValue>,
    tunnel_kind: Option<PlacedValue>,
    persistence: Option<PlacedValue>,
    real_servers: Vec<PlacedValue>,
    health_check: Option<PlacedValue>,
    minimum_healthy: Option<PlacedValue>,
    drain_timeout: Option<PlacedValue>,
}

/// Indexes that identify a virtual server in a document.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EntryIndexes {
    /// Index of the entry in the list `virtualServers` of the document.
    pub(super) entry: usize,
    /// Index of the address in the list `addresses` of the entry.
    pub(super) address: usize,
    /// Index of the port, or range of ports, in the list `ports` of the entry.
    pub(super) ports: usize,
}

impl Places {
    /// Returns the places of the fields of a document; no places if the document cannot be parsed.
    pub(super) fn of(text: &str) -> Self {
        config_file::parse(text, "").unwrap_or_default()
    }

    pub(super) fn service_range(&self, index: usize) -> Option<FileLocation> {
        self.service_ranges.get(index).and_then(FileLocation::of)
    }

    /// Returns the place of a virtual server: the place of its address.
    pub(super) fn virtual_server(&self, origin: EntryIndexes) -> Option<FileLocation> {
        self.field(origin, Field::Address, None)
    }

    /// Returns the place of the first real server of an entry; the place of the entry if the entry
    /// has no real server.
    pub(super) fn first_real_server(&self, origin: EntryIndexes) -> Option<FileLocation> {
        let entry = self.virtual_servers.get(origin.entry)?;
        let first = entry.value.real_servers.first();
        first
            .and_then(FileLocation::of)
            .or_else(|| FileLocation::of(entry))
    }

    /// Returns the place of a field; the place of the entry if the document does not set the field.
    /// `real_server` is the index of the real server that has the field.
    pub(super) fn field(
        &self,
        origin: EntryIndexes,
        field: Field,
        real_server: Option<usize>,
    ) -> Option<FileLocation> {
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
        value
            .and_then(FileLocation::of)
            .or_else(|| FileLocation::of(entry))
    }
}
