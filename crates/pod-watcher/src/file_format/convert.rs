//! What a document means: pure, and each refusal has its place.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use daemon_runtime::config_file::{Place, Problem};
use serde_saphyr::Spanned;
use virtual_server::{
    DesiredSet, FailureAction, ForwardingMethod, HealthCheck, HealthCheckKind, Invalid,
    Persistence, Protocol, RealServer, RealServerState, Scheduler, ServiceRange, TunnelKind,
    VirtualServer, VirtualServerId, Weight,
};

use super::{Document, Entry, value};

/// Where the objects of a set stand in the document.
#[derive(Default)]
struct Origins {
    virtual_servers: BTreeMap<VirtualServerId, Option<Place>>,
    service_ranges: BTreeMap<ServiceRange, Option<Place>>,
}

pub(super) fn desired_set(document: Document) -> Result<DesiredSet, Problem> {
    let mut desired = DesiredSet::default();
    let mut origins = Origins::default();
    for prefix in document.service_ranges {
        let place = Place::of(&prefix);
        let value::Prefix(range) = prefix.value;
        if let Some(former) = origins.service_ranges.insert(range, place) {
            return Err(given_twice(
                &format!("the service range {range}"),
                place,
                former,
            ));
        }
        desired.service_ranges.insert(range);
    }
    for entry in document.virtual_servers {
        for (place, virtual_server) in expand(&entry)? {
            let id = virtual_server.id;
            if let Some(former) = origins.virtual_servers.insert(id, place) {
                return Err(given_twice(
                    &format!("the virtual server {id}"),
                    place,
                    former,
                ));
            }
            desired.virtual_servers.insert(id, virtual_server);
        }
    }
    desired.validate().map_err(|invalid| Problem {
        place: origins.place_of(&invalid),
        message: invalid.to_string(),
    })?;
    Ok(desired)
}

impl Origins {
    fn place_of(&self, invalid: &Invalid) -> Option<Place> {
        let servers = self
            .virtual_servers
            .iter()
            .map(|(id, place)| (format!("virtualServers[{id}]"), place));
        let ranges = self
            .service_ranges
            .iter()
            .map(|(range, place)| (format!("serviceRanges[{range}]"), place));
        servers
            .chain(ranges)
            .find(|(object, _)| invalid.field.starts_with(object))
            .and_then(|(_, place)| *place)
    }
}

/// The virtual servers of one entry, each with the place of its address.
fn expand(entry: &Spanned<Entry>) -> Result<Vec<(Option<Place>, VirtualServer)>, Problem> {
    let place = Place::of(entry);
    let fields = &entry.value;
    for (field, is_empty) in [
        ("addresses", fields.addresses.is_empty()),
        ("ports", fields.ports.is_empty()),
    ] {
        if is_empty {
            let message = format!("{field}: the list is empty; write at least one");
            return Err(Problem { place, message });
        }
    }
    let scheduler = scheduler(fields)?;
    let forwarding_method = forwarding_method(fields)?;
    let health_check = health_check(fields)?;
    let mixed = [true, false].iter().all(|is_ipv4| {
        let of_family = |a: &Spanned<value::Address>| a.value.0.is_ipv4() == *is_ipv4;
        fields.addresses.iter().any(of_family)
    });
    let mut expanded = Vec::new();
    for address in &fields.addresses {
        for ports in &fields.ports {
            let service_address = address.value.0;
            let mut virtual_server = VirtualServer {
                id: VirtualServerId {
                    address: service_address,
                    protocol: match fields.protocol {
                        super::Protocol::Tcp => Protocol::Tcp,
                        super::Protocol::Udp => Protocol::Udp,
                        super::Protocol::Sctp => Protocol::Sctp,
                    },
                    ports: ports.value.0,
                },
                name: fields.name.value.clone(),
                scheduler,
                forwarding_method,
                persistence: fields.persistence.as_ref().map(|persistence| Persistence {
                    timeout: persistence.value.timeout.0,
                    client_prefix_length: persistence
                        .value
                        .client_prefix_length
                        .unwrap_or(if service_address.is_ipv4() { 32 } else { 128 }),
                }),
                real_servers: fields
                    .real_servers
                    .iter()
                    .map(|real_server| convert_real_server(&real_server.value))
                    .filter(|server| {
                        !mixed || server.address.is_ipv4() == service_address.is_ipv4()
                    })
                    .collect(),
                health_check,
                on_failure: match fields.on_failure {
                    super::OnFailure::Quiesce => FailureAction::Quiesce,
                    super::OnFailure::Remove => FailureAction::Remove,
                },
                minimum_healthy: fields
                    .minimum_healthy
                    .as_ref()
                    .map_or(VirtualServer::DEFAULT_MINIMUM_HEALTHY, |minimum| {
                        minimum.value
                    }),
            };
            virtual_server.validate().map_err(|invalid| Problem {
                place: place_of(&invalid, entry, address, ports),
                message: format!("{}: {invalid}", virtual_server.id),
            })?;
            virtual_server.sort_real_servers();
            expanded.push((Place::of(address), virtual_server));
        }
    }
    Ok(expanded)
}

/// The place of the field that is invalid, as near as it is known.
fn place_of(
    invalid: &Invalid,
    entry: &Spanned<Entry>,
    address: &Spanned<value::Address>,
    ports: &Spanned<value::PortsText>,
) -> Option<Place> {
    let fields = &entry.value;
    let field = invalid.field.as_str();
    let near = match field.split(['.', '[']).next().unwrap_or(field) {
        "address" => Place::of(address),
        "ports" => Place::of(ports),
        "name" => Place::of(&fields.name),
        "schedulerFlags" => fields.scheduler_flags.as_ref().and_then(Place::of),
        "persistence" => fields.persistence.as_ref().and_then(Place::of),
        "healthCheck" => fields.health_check.as_ref().and_then(Place::of),
        "minimumHealthy" => fields.minimum_healthy.as_ref().and_then(Place::of),
        "realServers" => {
            // The last one, since of two that are equal the second is too many.
            let named = fields.real_servers.iter().rev().find(|real_server| {
                let shown = convert_real_server(&real_server.value).to_string();
                field.starts_with(&format!("realServers[{shown}]")) || invalid.value == shown
            });
            named.and_then(Place::of)
        }
        _ => None,
    };
    near.or_else(|| Place::of(entry))
}

fn convert_real_server(real_server: &super::RealServer) -> RealServer {
    RealServer {
        address: real_server.address.0,
        port: real_server.port.map(|value::Port(port)| port),
        weight: real_server.weight.map_or_else(Weight::default, Weight),
        state: match real_server.state {
            super::RealServerState::Ready => RealServerState::Ready,
            super::RealServerState::Draining => RealServerState::Draining,
        },
    }
}

fn scheduler(entry: &Entry) -> Result<Scheduler, Problem> {
    let scheduler = match entry.scheduler {
        super::Scheduler::Rr => Scheduler::Rr,
        super::Scheduler::Wrr => Scheduler::Wrr,
        super::Scheduler::Lc => Scheduler::Lc,
        super::Scheduler::Wlc => Scheduler::Wlc,
        super::Scheduler::Sh => Scheduler::SH_DEFAULT,
        super::Scheduler::Mh => Scheduler::MH_DEFAULT,
        super::Scheduler::Sed => Scheduler::Sed,
        super::Scheduler::Nq => Scheduler::Nq,
    };
    let Some(flags) = &entry.scheduler_flags else {
        return Ok(scheduler);
    };
    let fallback = flags.value.contains(&super::SchedulerFlag::Fallback);
    let port = flags.value.contains(&super::SchedulerFlag::Port);
    match scheduler {
        Scheduler::Sh { .. } => Ok(Scheduler::Sh { fallback, port }),
        Scheduler::Mh { .. } => Ok(Scheduler::Mh { fallback, port }),
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq => Err(Problem {
            place: Place::of(flags),
            message: format!(
                "schedulerFlags: {scheduler} has no flags, only sh and mh have; leave the field \
                 out"
            ),
        }),
    }
}

fn forwarding_method(entry: &Entry) -> Result<ForwardingMethod, Problem> {
    let kind = entry.tunnel_kind.as_ref().map(|kind| match kind.value {
        super::TunnelKind::Ipip => TunnelKind::Ipip,
    });
    let method = match entry.forwarding_method {
        super::ForwardingMethod::Tunnel => {
            return Ok(kind.map_or_else(ForwardingMethod::default, ForwardingMethod::Tunnel));
        }
        super::ForwardingMethod::Masquerade => ForwardingMethod::Masquerade,
        super::ForwardingMethod::DirectRouting => ForwardingMethod::DirectRouting,
    };
    match &entry.tunnel_kind {
        None => Ok(method),
        Some(kind) => Err(Problem {
            place: Place::of(kind),
            message: format!(
                "tunnelKind: is for forwardingMethod Tunnel, not for {method}; leave it out"
            ),
        }),
    }
}

fn health_check(entry: &Entry) -> Result<Option<HealthCheck>, Problem> {
    let default = HealthCheck::default();
    let Some(spanned) = &entry.health_check else {
        return Ok(Some(default));
    };
    let check = &spanned.value;
    match check.kind {
        super::HealthCheckKind::TcpConnect => {
            let or = |given: Option<value::Period>, default: Duration| {
                given.map_or(default, |period| period.0)
            };
            let interval = or(check.interval, default.interval);
            Ok(Some(HealthCheck {
                kind: HealthCheckKind::TcpConnect {
                    port: check.port.map(|value::Port(port)| port),
                },
                interval,
                timeout: or(check.timeout, default.timeout.min(interval)),
                rise: check.rise.unwrap_or(default.rise),
                fall: check.fall.unwrap_or(default.fall),
                initial_jitter: or(check.initial_jitter, default.initial_jitter),
            }))
        }
        super::HealthCheckKind::None => {
            let superfluous: BTreeSet<&str> = [
                ("port", check.port.is_some()),
                ("interval", check.interval.is_some()),
                ("timeout", check.timeout.is_some()),
                ("rise", check.rise.is_some()),
                ("fall", check.fall.is_some()),
                ("initialJitter", check.initial_jitter.is_some()),
            ]
            .into_iter()
            .filter_map(|(field, is_given)| is_given.then_some(field))
            .collect();
            match superfluous.first() {
                None => Ok(None),
                Some(field) => Err(Problem {
                    place: Place::of(spanned),
                    message: format!(
                        "healthCheck.{field}: has no meaning without a check; leave it out, or \
                         write another kind than none"
                    ),
                }),
            }
        }
    }
}

fn given_twice(object: &str, place: Option<Place>, former: Option<Place>) -> Problem {
    let former = former.map_or_else(String::new, |place| {
        format!(", first in line {}", place.line)
    });
    Problem {
        place,
        message: format!("{object} is given twice{former}; leave one of them out"),
    }
}
