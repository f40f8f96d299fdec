//! The file that says what is served, as a value.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// What pod-watcher reads; `docs/file-format.md` explains each field. What is
/// `None` is left out, so that the daemon's default holds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    api_version: &'static str,
    kind: &'static str,
    /// Announced as a whole.
    pub service_ranges: Vec<IpNet>,
    /// Each stands for every pair of an address and a port.
    pub virtual_servers: Vec<VirtualServer>,
}

/// One entry of the file.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "docs/file-format.md explains each field")]
pub struct VirtualServer {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Ports>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_flags: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding_method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    pub real_servers: Vec<RealServer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_healthy: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<&'static str>,
}

/// What clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// A single port.
    One(u16),
    /// First and last.
    Range(u16, u16),
    /// Every port.
    All,
}

/// One real server of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "docs/file-format.md explains each field")]
pub struct RealServer {
    pub address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
}

/// Times in the file's form, such as `300ms`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "docs/file-format.md explains each field")]
pub struct HealthCheck {
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_jitter: Option<&'static str>,
}

/// Binds a client to a real server.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "docs/file-format.md explains each field")]
pub struct Persistence {
    pub timeout: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_prefix_length: Option<u8>,
}

impl Desired {
    /// No virtual server, these service ranges.
    pub fn new(service_ranges: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            api_version: "portlb.io/v1",
            kind: "VirtualServers",
            service_ranges: service_ranges.into_iter().collect(),
            virtual_servers: Vec::new(),
        }
    }

    /// Adds an entry.
    pub fn with(mut self, virtual_server: VirtualServer) -> Self {
        self.virtual_servers.push(virtual_server);
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        // JSON is YAML. Nothing in here can fail to be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl VirtualServer {
    /// An entry with the defaults of the file format, but checked three times
    /// a second.
    pub fn new(
        name: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
        ports: impl IntoIterator<Item = Ports>,
        real_servers: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            addresses: addresses.into_iter().collect(),
            ports: ports.into_iter().collect(),
            real_servers: real_servers.into_iter().map(RealServer::new).collect(),
            health_check: Some(HealthCheck {
                kind: "tcpConnect",
                interval: Some("300ms"),
                timeout: Some("300ms"),
                rise: Some(2),
                fall: Some(2),
                initial_jitter: Some("50ms"),
                ..HealthCheck::default()
            }),
            ..Self::default()
        }
    }

    /// Real servers that are not checked.
    pub fn unchecked(mut self) -> Self {
        self.health_check = Some(HealthCheck {
            kind: "none",
            ..HealthCheck::default()
        });
        self
    }
}

impl RealServer {
    /// With the client's port and the default weight.
    pub fn new(address: IpAddr) -> Self {
        Self {
            address,
            port: None,
            weight: None,
            state: None,
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(port) => serializer.serialize_u16(*port),
            Self::Range(first, last) => serializer.collect_str(&format_args!("{first}-{last}")),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_what_was_set_and_leaves_the_rest_to_the_daemon() {
        let ports = [Ports::One(80), Ports::Range(8000, 8999), Ports::All];
        let virtual_server = VirtualServer {
            name: "web".to_owned(),
            addresses: vec!["10.1.1.1".parse().unwrap()],
            ports: ports.to_vec(),
            real_servers: vec![RealServer {
                weight: Some(3),
                ..RealServer::new("10.2.1.11".parse().unwrap())
            }],
            minimum_healthy: Some(2),
            ..VirtualServer::default()
        };
        let desired = Desired::new(["10.1.1.0/24".parse().unwrap()]).with(virtual_server);
        let text: String = desired.text().split_whitespace().collect();
        assert_eq!(
            text,
            "{\"apiVersion\":\"portlb.io/v1\",\"kind\":\"VirtualServers\",\
             \"serviceRanges\":[\"10.1.1.0/24\"],\"virtualServers\":[{\"name\":\"web\",\
             \"addresses\":[\"10.1.1.1\"],\"ports\":[80,\"8000-8999\",\"all\"],\
             \"realServers\":[{\"address\":\"10.2.1.11\",\"weight\":3}],\"minimumHealthy\":2}]}"
        );
    }
}
