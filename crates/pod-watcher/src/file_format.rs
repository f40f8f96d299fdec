//! The YAML document that lists virtual servers, and what it means. Reference:
//! `docs/file-format.md`.
//!
//! An entry with several addresses and ports stands for a virtual server for each pair of them.
//! Where its addresses are of both families, each real server serves those of its own.

mod convert;
mod render;
mod value;

use daemon_runtime::config_file::{self, Problem};
use serde::Deserialize;
use serde_saphyr::Spanned;
use virtual_server::{DesiredSet, Problems};

pub use render::render;
use value::{Address, Period, Port, PortsText, Prefix};

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
/// Says everything that is wrong with it, where, and what to write instead. What is not YAML, or of
/// another type than its field, hides what comes after it.
pub fn parse(text: &str) -> Result<DesiredSet, Problems<Problem>> {
    Ok(read(text)?.desired)
}

/// The same, with what its writer should look at again.
///
/// # Errors
/// As [`parse`].
pub fn read(text: &str) -> Result<Content, Problems<Problem>> {
    convert::content(config_file::parse(text, LEAST).map_err(Problems::from)?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    #[expect(
        dead_code,
        reason = "there is one version; another is refused by its name"
    )]
    api_version: ApiVersion,
    #[expect(
        dead_code,
        reason = "there is one kind; another is refused by its name"
    )]
    kind: Kind,
    #[serde(default, deserialize_with = "value::list")]
    service_ranges: Vec<Spanned<Prefix>>,
    #[serde(deserialize_with = "value::list")]
    virtual_servers: Vec<Spanned<Entry>>,
}

#[derive(Debug, Deserialize)]
enum ApiVersion {
    #[serde(rename = "portlb.io/v1")]
    V1,
}

#[derive(Debug, Deserialize)]
enum Kind {
    VirtualServers,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    name: Spanned<String>,
    #[serde(deserialize_with = "value::list")]
    addresses: Vec<Spanned<Address>>,
    #[serde(deserialize_with = "value::list")]
    ports: Vec<Spanned<PortsText>>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    scheduler: Scheduler,
    scheduler_flags: Option<Spanned<Vec<SchedulerFlag>>>,
    #[serde(default)]
    forwarding_method: ForwardingMethod,
    tunnel_kind: Option<Spanned<TunnelKind>>,
    persistence: Option<Spanned<Persistence>>,
    #[serde(deserialize_with = "value::list")]
    real_servers: Vec<Spanned<RealServer>>,
    health_check: Option<Spanned<HealthCheck>>,
    #[serde(default)]
    on_failure: OnFailure,
    minimum_healthy: Option<Spanned<u32>>,
    drain_timeout: Option<Spanned<Period>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scheduler {
    Rr,
    Wrr,
    Lc,
    Wlc,
    Sh,
    #[default]
    Mh,
    Sed,
    Nq,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum SchedulerFlag {
    Fallback,
    Port,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum ForwardingMethod {
    Masquerade,
    DirectRouting,
    #[default]
    Tunnel,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TunnelKind {
    Ipip,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Persistence {
    timeout: Period,
    client_prefix_length: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RealServer {
    address: Address,
    port: Option<Port>,
    weight: Option<u16>,
    #[serde(default)]
    state: RealServerState,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RealServerState {
    #[default]
    Ready,
    Draining,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HealthCheck {
    #[serde(default)]
    kind: HealthCheckKind,
    port: Option<Port>,
    interval: Option<Period>,
    timeout: Option<Period>,
    rise: Option<u32>,
    fall: Option<u32>,
    initial_jitter: Option<Period>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum HealthCheckKind {
    #[default]
    TcpConnect,
    None,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnFailure {
    #[default]
    Quiesce,
    Remove,
}

#[cfg(test)]
mod tests;
