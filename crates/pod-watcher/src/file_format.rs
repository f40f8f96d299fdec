//! Format of the YAML file that lists virtual servers.
//!
//! `docs/reference/file-format.md` is the reference. An entry can have several items in `addresses`
//! and in `ports`: each pair of an address and an item of `ports` is a virtual server. If an entry
//! has addresses of both families, a virtual server gets only the real servers of the family of its
//! address.

mod convert;
mod places;
mod render;

use std::{net::IpAddr, time::Duration};

use daemon_runtime::config_file::{self, FileProblem};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_saphyr::{FlowMap, FlowSeq};
use virtual_server::{
    DesiredSet, FailureAction, ForwardingMethod, HealthCheckChoice, HealthCheckOptions, IpNet,
    Ports, Problems, Protocol, RealServer, Scheduler, SchedulerFlags, ServiceRange, TunnelKind,
    text::{self, Text},
};

pub use render::render;

/// Fields of the smallest valid document, for the error about an empty file.
const SMALLEST_DOCUMENT: &str =
    "apiVersion: portlb.io/v1, kind: VirtualServers and virtualServers: [], a line each";

/// Content of a valid document.
#[derive(Debug)]
pub struct Content {
    pub desired: DesiredSet,
    /// Warnings about valid values that are most likely a mistake, each with its line.
    pub warnings: Vec<FileProblem>,
}

/// Parses a document to a desired set.
///
/// # Errors
/// The document is invalid. The error lists every problem with its line and a suggestion. A syntax
/// error, or a value of the wrong type, hides the problems after it.
pub fn parse(text: &str) -> Result<DesiredSet, Problems<FileProblem>> {
    Ok(read(text)?.desired)
}

/// Parses a document to a desired set and warnings.
///
/// # Errors
/// The document is invalid: see [`parse`].
pub fn read(text: &str) -> Result<Content, Problems<FileProblem>> {
    convert::content(config_file::parse(text, SMALLEST_DOCUMENT)?, text)
}

/// A YAML document with virtual servers, before its values are checked against each other.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VirtualServersDocument {
    api_version: DocumentApiVersion,
    kind: DocumentKind,
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_ranges: Vec<ServiceRange>,
    #[serde(deserialize_with = "list")]
    pub virtual_servers: Vec<VirtualServersEntry>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum DocumentApiVersion {
    #[serde(rename = "portlb.io/v1")]
    V1,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum DocumentKind {
    VirtualServers,
}

/// An entry of a document: a virtual server for each pair of an address and an item of `ports`. A
/// field that the document does not set has its default.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VirtualServersEntry {
    pub name: String,
    /// Service addresses, of one or both families.
    #[serde(deserialize_with = "addresses", serialize_with = "flow")]
    pub addresses: Vec<IpAddr>,
    #[serde(deserialize_with = "list", serialize_with = "flow")]
    pub ports: Vec<Ports>,
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub protocol: Protocol,
    /// Scheduler with its default flags. `scheduler_flags` replaces these flags.
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub scheduler: Scheduler,
    /// Flags of `sh` and `mh`. `None`: the default flags of the scheduler.
    #[serde(serialize_with = "flow", skip_serializing_if = "Option::is_none")]
    pub scheduler_flags: Option<SchedulerFlags>,
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub forwarding_method: ForwardingMethod,
    /// Encapsulation of the forwarding method `Tunnel`. `None`: `ipip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_kind: Option<TunnelKind>,
    /// Persistence. `None`: clients are not remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence: Option<EntryPersistence>,
    /// Options of the health check. `None`: the default health check. The kind `none` means that
    /// the real servers are not checked.
    #[serde(
        serialize_with = "health_check",
        skip_serializing_if = "Option::is_none"
    )]
    pub health_check: Option<HealthCheckOptions>,
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub on_failure: FailureAction,
    /// Number of healthy real servers that a virtual server needs to be serving. `None`: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_healthy: Option<u32>,
    /// Time for which a real server that was removed from the file keeps its connections. `None`:
    /// 60 s.
    #[serde(
        default,
        deserialize_with = "text::optional",
        serialize_with = "text::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub drain_timeout: Option<Duration>,
    #[serde(deserialize_with = "list")]
    pub real_servers: Vec<RealServer>,
}

/// The persistence of all virtual servers of an entry.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EntryPersistence {
    /// Time for which the load balancer remembers a client after the client's last connection.
    #[serde(deserialize_with = "text::required", serialize_with = "text::duration")]
    pub timeout: Duration,
    /// Length of the address prefix that counts as one client. `None`: the whole address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_prefix_length: Option<u8>,
}

impl VirtualServersDocument {
    /// Returns a document with these service ranges and without virtual servers.
    pub fn new(service_ranges: impl IntoIterator<Item = IpNet>) -> Self {
        let service_ranges = service_ranges.into_iter();
        Self {
            api_version: DocumentApiVersion::V1,
            kind: DocumentKind::VirtualServers,
            service_ranges: service_ranges
                .map(|prefix| ServiceRange { prefix })
                .collect(),
            virtual_servers: Vec::new(),
        }
    }

    /// Appends an entry to the document.
    #[must_use]
    pub fn with(mut self, entry: VirtualServersEntry) -> Self {
        self.virtual_servers.push(entry);
        self
    }

    /// Returns the document as YAML, without the fields that have their default.
    #[must_use]
    pub fn text(&self) -> String {
        // The document is written for YAML 1.2, because `parse` reads YAML 1.2. In YAML 1.2 an
        // address without quotes is a text and not a number.
        let options = serde_saphyr::ser_options! { yaml_12: true, no_lang_directive: true };
        serde_saphyr::to_string_with_options(self, options)
            .expect("every value of a document can be written as YAML")
    }
}

/// Deserializes a list, and refuses a field without a value: a file that is only half written can
/// end after the name of the field, and must not remove all virtual servers as an empty list would.
fn list<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer)?
        .ok_or_else(|| de::Error::custom("a list is missing here; write [] for an empty list"))
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let addresses = list(deserializer)?.into_iter();
    Ok(addresses.map(|Text(address)| address).collect())
}

/// Serializes a list in one line.
fn flow<T: Serialize, S: Serializer>(list: &T, serializer: S) -> Result<S::Ok, S::Error> {
    FlowSeq(list).serialize(serializer)
}

/// Serializes a health check: the kind `none` in one line, other kinds in several lines.
fn health_check<S: Serializer>(
    check: &Option<HealthCheckOptions>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match check {
        Some(options) if options.kind == Some(HealthCheckChoice::None) => {
            FlowMap(options).serialize(serializer)
        }
        check => check.serialize(serializer),
    }
}

#[cfg(test)]
mod tests;
