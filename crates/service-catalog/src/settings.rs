//! Settings of the operator.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr, num::NonZeroU16, str::FromStr};

use virtual_server::{BadValue, DesiredSet, IpNet, Ports, Protocol, ServiceRange};

use super::{annotations::RefusedSetting, finding::Subject, model::WatchScope};

/// The settings of the operator. [`CatalogSettings::validate`] checks the service ranges, the
/// address pools, and the settings for pods without a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogSettings {
    /// The class of the Services that portlb serves: `portlb.io/portlb` by default.
    pub load_balancer_class: String,
    /// Prefixes that are announced as a whole.
    pub service_ranges: BTreeSet<ServiceRange>,
    /// Pools of addresses for Services that name no address. The first pool with a free address is
    /// used.
    pub pools: Vec<AddressPool>,
    /// `None` if no pods are served without a Service.
    pub pods: Option<PodService>,
    /// Addresses that no Service can have, because the lb pod itself needs them: the address of the
    /// API server.
    pub reserved: BTreeSet<IpAddr>,
    /// Prefixes whose addresses Services can name, in addition to service ranges and pools.
    pub allowed_prefixes: Vec<IpNet>,
    /// True if a Service can name only addresses in service ranges, pools and allowed prefixes. If
    /// it is false, a Service can name the address of a pod and take the traffic of this pod.
    pub is_confined: bool,
    /// The scopes that are listed and watched. The outputs are empty until each scope has been
    /// listed once.
    pub scopes: Vec<WatchScope>,
}

/// A named pool of service addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// The name by which the annotation `portlb.io/address-pool` selects the pool.
    pub name: String,
    /// The prefixes in the order in which they are used. From each prefix the lowest free address
    /// is used.
    pub prefixes: Vec<IpNet>,
}

/// Virtual servers for pods without a Service. Each pod of the catalog is a real server of these
/// virtual servers, so the catalog must get only the pods that match `--pod-selector`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodService {
    /// The name of the virtual servers.
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// The ports that clients connect to.
    pub ports: Vec<PodPorts>,
    /// The port on which the pods listen. `None` means the port to which the client connected.
    pub target_port: Option<NonZeroU16>,
    /// Annotations with the same meaning as on a Service: the name with the prefix `portlb.io/`,
    /// and the value.
    pub annotations: Vec<(String, String)>,
}

/// Ports with a protocol, written `80/TCP`, `443`, `8000-8999/UDP` or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPorts {
    /// Text without a protocol means TCP.
    pub protocol: Protocol,
    pub ports: Ports,
}

impl CatalogSettings {
    /// Checks the settings of the operator.
    ///
    /// # Errors
    ///
    /// Returns one error for each problem. Each error names the flag.
    pub fn validate(&self) -> Result<(), Vec<RefusedSetting>> {
        let mut errors = Vec::new();
        let mut refuse = |flag: &'static str, text: String| {
            let subject = Subject::Setting(flag);
            errors.push(RefusedSetting { subject, text });
        };
        let ranges = DesiredSet {
            service_ranges: self.service_ranges.clone(),
            ..DesiredSet::default()
        };
        if let Err(problems) = ranges.validate() {
            for invalid in problems.listed() {
                refuse("--service-ranges", invalid.reason.to_string());
            }
        }
        for (index, pool) in self.pools.iter().enumerate() {
            let mut refuse = |reason: BadValue| refuse("--address-pool", reason.to_string());
            let before = &self.pools[..index];
            if before.iter().any(|other| other.name == pool.name) {
                refuse(BadValue::new(
                    &pool.name,
                    "is the name of two pools",
                    "give each pool its own name, or put all prefixes into one pool",
                ));
            }
            for (index, prefix) in pool.prefixes.iter().enumerate() {
                if let Err(reason) = (ServiceRange { prefix: *prefix }).validate() {
                    refuse(reason);
                }
                let others = before.iter().flat_map(|other| &other.prefixes);
                let overlapping = others
                    .chain(&pool.prefixes[..index])
                    .find(|other| other.contains(prefix) || prefix.contains(*other));
                if let Some(other) = overlapping {
                    let problem = format!("overlaps {other}");
                    refuse(BadValue::new(
                        prefix,
                        problem,
                        "give each address to one pool",
                    ));
                }
            }
        }
        if let Some(pods) = &self.pods
            && let Err(findings) = super::service_spec::parse_pods(pods)
        {
            for finding in findings {
                let text = format!("the pods cannot be served; {}", finding.message);
                refuse("--pod-selector", text);
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

impl CatalogSettings {
    /// Returns the reason why no Service can name the address, or `None` if Services can.
    pub(super) fn refuse_address(&self, address: IpAddr) -> Option<String> {
        if self.reserved.contains(&address) {
            return Some(format!(
                "{address} is the address of the API server, which pod-watcher itself needs; \
                 write another address"
            ));
        }
        let ranges = self.service_ranges.iter().map(|range| range.prefix);
        let pools = self.pools.iter().flat_map(|pool| &pool.prefixes).copied();
        let others = self.allowed_prefixes.iter().copied();
        let allowed: BTreeSet<IpNet> = ranges.chain(pools).chain(others).collect();
        let is_within = allowed.iter().any(|prefix| prefix.contains(&address));
        if !self.is_confined || is_within {
            return None;
        }
        if allowed.is_empty() {
            return Some(format!(
                "{address} is not served, since no address is allowed; start pod-watcher with \
                 --service-ranges, --address-pool or --allowed-prefixes"
            ));
        }
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        Some(format!(
            "{address} lies outside of --service-ranges, --address-pool and --allowed-prefixes; \
             write an address within {}",
            allowed.join(", ")
        ))
    }
}

impl FromStr for AddressPool {
    type Err = BadValue;

    /// Accepts `name=prefix[,prefix...]`, such as `web=10.1.1.0/24,fd00:1::/64`.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad_value = |problem| {
            BadValue::new(
                format!("{text:?}"),
                problem,
                "write name=prefix[,prefix...], such as web=10.1.1.0/24,fd00:1::/64",
            )
        };
        let (name, prefixes) = text
            .split_once('=')
            .ok_or_else(|| bad_value("has no name"))?;
        if name.trim().is_empty() {
            return Err(bad_value("has no name"));
        }
        let prefixes: Result<Vec<IpNet>, _> = prefixes
            .split(',')
            .map(|prefix| prefix.trim().parse())
            .collect();
        Ok(Self {
            name: name.trim().to_owned(),
            prefixes: prefixes.map_err(|_| bad_value("has an entry that is not a prefix"))?,
        })
    }
}

impl FromStr for PodPorts {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad_value = |problem: Cow<'static, str>| {
            BadValue::new(
                format!("{text:?}"),
                problem,
                "allowed are a port such as 80, a range such as 8000-8999, and all, each optionally \
                 followed by /TCP (the default), /UDP or /SCTP",
            )
        };
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err(bad_value("has an unknown protocol".into())),
        };
        let ports = match ports {
            "all" => Ports::All,
            "*" => return Err(bad_value("is not accepted for all ports".into())),
            ports => ports
                .parse()
                .map_err(|reason: BadValue| bad_value(reason.problem))?,
        };
        Ok(Self { protocol, ports })
    }
}
