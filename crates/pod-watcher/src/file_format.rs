//! The YAML document that lists virtual servers, and what it means. Reference:
//! `docs/reference/file-format.md`.
//!
//! An entry with several addresses and ports stands for a virtual server for each pair of them.
//! Where its addresses are of both families, each real server serves those of its own.

mod convert;
mod places;
mod render;

use std::{net::IpAddr, time::Duration};

use daemon_runtime::config_file::{self, Problem};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_saphyr::{FlowMap, FlowSeq};
use virtual_server::{
    DesiredSet, FailureAction, ForwardingMethod, HealthCheckChoice, HealthCheckOptions, IpNet,
    Ports, Problems, Protocol, RealServer, Scheduler, SchedulerFlags, ServiceRange, TunnelKind,
    text::{self, Text},
};

pub use render::render;

const LEAST: &str =
    "apiVersion: portlb.io/v1, kind: VirtualServers and virtualServers: [], a line each";

/// A document that can be used.
#[derive(Debug)]
pub struct Content {
    /// What it means.
    pub desired: DesiredSet,
    /// What is most likely not meant, each with its place.
    pub doubts: Vec<Problem>,
}

/// Reads a document.
///
/// # Errors
/// Says everything that is wrong with it, where, and what to write instead. A syntax error, or a
/// value of another type than its field, hides the problems after it.
pub fn parse(text: &str) -> Result<DesiredSet, Problems<Problem>> {
    Ok(read(text)?.desired)
}

/// The same, with what its writer should look at again.
///
/// # Errors
/// As [`parse`].
pub fn read(text: &str) -> Result<Content, Problems<Problem>> {
    convert::content(config_file::parse(text, LEAST)?, text)
}

/// The document as it is written. [`parse`] checks what it means.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Document {
    api_version: ApiVersion,
    kind: Kind,
    /// Prefixes that are announced as a whole.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_ranges: Vec<ServiceRange>,
    /// Each stands for every pair of an address and a port.
    #[serde(deserialize_with = "list")]
    pub virtual_servers: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum ApiVersion {
    #[serde(rename = "portlb.io/v1")]
    V1,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum Kind {
    VirtualServers,
}

/// One entry of a document; a field that is left out has the default.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Entry {
    /// Name of the virtual servers.
    pub name: String,
    /// Service addresses, of one or both families.
    #[serde(deserialize_with = "addresses", serialize_with = "flow")]
    pub addresses: Vec<IpAddr>,
    /// What clients connect to.
    #[serde(deserialize_with = "list", serialize_with = "flow")]
    pub ports: Vec<Ports>,
    /// Transport protocol of all ports.
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub protocol: Protocol,
    /// How new connections are shared. Its flags are those of its default, or `scheduler_flags`.
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub scheduler: Scheduler,
    /// Flags of `sh` and `mh`.
    #[serde(serialize_with = "flow", skip_serializing_if = "Option::is_none")]
    pub scheduler_flags: Option<SchedulerFlags>,
    /// How packets reach the real servers.
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub forwarding_method: ForwardingMethod,
    /// Encapsulation of the method `Tunnel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_kind: Option<TunnelKind>,
    /// Whether a client stays with its real server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    /// Whether and how real servers are checked.
    #[serde(
        serialize_with = "health_check",
        skip_serializing_if = "Option::is_none"
    )]
    pub health_check: Option<HealthCheckOptions>,
    /// What happens to a real server that fails its check.
    #[serde(default, skip_serializing_if = "text::is_default")]
    pub on_failure: FailureAction,
    /// Least number of healthy real servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_healthy: Option<u32>,
    /// How long connections to a removed real server last.
    #[serde(
        default,
        deserialize_with = "text::optional",
        serialize_with = "text::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub drain_timeout: Option<Duration>,
    /// The real servers behind each address.
    #[serde(deserialize_with = "list")]
    pub real_servers: Vec<RealServer>,
}

/// Persistence of an entry.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Persistence {
    /// How long a client stays with its real server.
    #[serde(deserialize_with = "text::required", serialize_with = "text::duration")]
    pub timeout: Duration,
    /// What counts as one client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_prefix_length: Option<u8>,
}

impl Document {
    /// A document without virtual servers.
    pub fn new(service_ranges: impl IntoIterator<Item = IpNet>) -> Self {
        let service_ranges = service_ranges.into_iter();
        Self {
            api_version: ApiVersion::V1,
            kind: Kind::VirtualServers,
            service_ranges: service_ranges
                .map(|prefix| ServiceRange { prefix })
                .collect(),
            virtual_servers: Vec::new(),
        }
    }

    /// Adds an entry after the others.
    #[must_use]
    pub fn with(mut self, entry: Entry) -> Self {
        self.virtual_servers.push(entry);
        self
    }

    /// Returns the document's YAML, without fields that have their default.
    #[must_use]
    pub fn text(&self) -> String {
        // The reader takes YAML 1.2, where an address is no number.
        let options = serde_saphyr::ser_options! { yaml_12: true, no_lang_directive: true };
        serde_saphyr::to_string_with_options(self, options)
            .expect("every part of a document has a text")
    }
}

/// A list that is really there. A field without a value is what remains of a file that is cut off
/// in the middle, so it must not read as an empty list.
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

/// Writes a list in one line.
fn flow<T: Serialize, S: Serializer>(list: &T, serializer: S) -> Result<S::Ok, S::Error> {
    FlowSeq(list).serialize(serializer)
}

/// Writes a health check; its absence in one line.
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
