//! What the operator chose.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr, num::NonZeroU16, str::FromStr};

use virtual_server::{BadValue, DesiredSet, IpNet, Ports, Protocol, ServiceRange};

use super::{annotations::Refusal, finding::Subject, model::Scope};

/// What the operator chose. Part of it is text that a person wrote: [`Settings::validate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Services of this class are served: `portlb.io/portlb`.
    pub load_balancer_class: String,
    /// Prefixes that are announced as a whole.
    pub service_ranges: BTreeSet<ServiceRange>,
    /// Where addresses come from that a Service does not name; the first that fits is taken.
    pub pools: Vec<AddressPool>,
    /// Pods that are served without a Service.
    pub pods: Option<PodService>,
    /// Addresses that no Service may have, since the load balancer's own pod needs them: that of
    /// the API server.
    pub reserved: BTreeSet<IpAddr>,
    /// Further addresses that Services may name.
    pub allowed_prefixes: Vec<IpNet>,
    /// A Service may name only addresses of the ranges, pools and allowed prefixes: a Service that
    /// names the address of a pod would take that pod from its own Service.
    pub is_confined: bool,
    /// What is listed and watched. Nothing is desired before each has been listed once.
    pub scopes: Vec<Scope>,
}

/// A named supply of service addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// Its name, for annotations.
    pub name: String,
    /// Where its addresses lie; taken in this order, each from its lowest address.
    pub prefixes: Vec<IpNet>,
}

/// What makes virtual servers of pods without a Service: every pod of the catalog is one of their
/// real servers, so that only those are to be watched that match the selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodService {
    /// What the virtual servers are called.
    pub name: String,
    /// Service addresses.
    pub addresses: Vec<IpAddr>,
    /// What clients connect to.
    pub ports: Vec<PodPorts>,
    /// Where the pods listen; `None`: on the port that the client addressed.
    pub target_port: Option<NonZeroU16>,
    /// As on a Service: name with prefix, and value.
    pub annotations: Vec<(String, String)>,
}

/// `80/TCP`, `443`, `8000-8999/UDP` or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPorts {
    /// Transport protocol; TCP where none is written.
    pub protocol: Protocol,
    /// The ports.
    pub ports: Ports,
}

impl Settings {
    /// Refuses what no Service can put right.
    ///
    /// # Errors
    /// Each setting that cannot be, named by its flag.
    pub fn validate(&self) -> Result<(), Vec<Refusal>> {
        let mut errors = Vec::new();
        let mut refuse = |flag: &'static str, text: String| {
            let subject = Subject::Setting(flag);
            errors.push(Refusal { subject, text });
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
                    "give each its own name, or all prefixes to one of them",
                ));
            }
            for (place, prefix) in pool.prefixes.iter().enumerate() {
                if let Err(reason) = (ServiceRange { prefix: *prefix }).validate() {
                    refuse(reason);
                }
                let others = before.iter().flat_map(|other| &other.prefixes);
                let overlapping = others
                    .chain(&pool.prefixes[..place])
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
            && let Err(findings) = super::service_spec::of_pods(pods)
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

impl Settings {
    /// Why no Service may name the address; `None`: one may.
    pub(super) fn refusal(&self, address: IpAddr) -> Option<String> {
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

    /// Takes `name=prefix[,prefix...]`.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let refused = |problem| {
            BadValue::new(
                format!("{text:?}"),
                problem,
                "write name=prefix[,prefix...], such as web=10.1.1.0/24,fd00:1::/64",
            )
        };
        let (name, prefixes) = text.split_once('=').ok_or_else(|| refused("has no name"))?;
        if name.trim().is_empty() {
            return Err(refused("has no name"));
        }
        let prefixes: Result<Vec<IpNet>, _> = prefixes
            .split(',')
            .map(|prefix| prefix.trim().parse())
            .collect();
        Ok(Self {
            name: name.trim().to_owned(),
            prefixes: prefixes.map_err(|_| refused("holds what is not a prefix"))?,
        })
    }
}

impl FromStr for PodPorts {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let refused = |problem: Cow<'static, str>| {
            BadValue::new(
                format!("{text:?}"),
                problem,
                "allowed are a port such as 80, a range such as 8000-8999, and all, each with \
                 /TCP, /UDP or /SCTP behind it where it is not TCP",
            )
        };
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err(refused("names another protocol".into())),
        };
        let ports = match ports {
            "all" => Ports::All,
            "*" => return Err(refused("is not how all ports are written".into())),
            ports => ports
                .parse()
                .map_err(|reason: BadValue| refused(reason.problem))?,
        };
        Ok(Self { protocol, ports })
    }
}
