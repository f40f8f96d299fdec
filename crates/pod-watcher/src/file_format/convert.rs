//! What a document means: pure, and each refusal has its place.

use std::collections::BTreeMap;

use daemon_runtime::config_file::{Place, Problem};
use serde_saphyr::Spanned;
use virtual_server::{
    DesiredSet, FailureAction, Field, FieldPath, ForwardingMethod, HealthCheckChoice,
    HealthCheckOptions, Invalid, Options, PersistenceOptions, Problems, Protocol, RealServer,
    RealServerKey, RealServerState, Scheduler, SchedulerFlags, ServiceRange, TunnelKind,
    VirtualServer, VirtualServerId, Weight,
};

use super::{Content, Document, Entry, value};

/// Where the objects of a set stand in the document.
#[derive(Default)]
struct Origins {
    virtual_servers: BTreeMap<VirtualServerId, Option<Place>>,
    service_ranges: BTreeMap<ServiceRange, Option<Place>>,
}

pub(super) fn content(document: Document) -> Result<Content, Problems<Problem>> {
    let mut desired = DesiredSet::default();
    let mut doubts = Vec::new();
    let mut origins = Origins::default();
    let mut problems = Problems::default();
    for prefix in document.service_ranges {
        let place = Place::of(&prefix);
        let value::Prefix(range) = prefix.value;
        if let Some(former) = origins.service_ranges.insert(range, place) {
            let object = format!("the service range {range}");
            problems.push(given_twice(&object, place, former));
        }
        if let Err(reason) = range.validate() {
            let field = FieldPath::ServiceRange(range);
            let message = Invalid { field, reason }.to_string();
            problems.push(Problem { place, message });
        } else {
            desired.service_ranges.insert(range);
        }
    }
    for entry in document.virtual_servers {
        for (place, mut virtual_server) in expand(&entry, &mut problems) {
            let id = virtual_server.id;
            doubts.extend(round_weights(&entry, &mut virtual_server));
            doubts.extend(doubt(&entry, &virtual_server));
            if let Some(former) = origins.virtual_servers.insert(id, place) {
                let object = format!("the virtual server {id}");
                problems.push(given_twice(&object, place, former));
            }
            desired.virtual_servers.insert(id, virtual_server);
        }
    }
    let mut together = Problems::default();
    desired.check_together(&mut together);
    problems.append(together, |invalid| {
        let (place, message) = (origins.place_of(&invalid), invalid.to_string());
        Some(Problem { place, message })
    });
    problems.or(Content { desired, doubts })
}

/// Rounds weights that the scheduler cannot keep apart, and says so.
fn round_weights(entry: &Spanned<Entry>, virtual_server: &mut VirtualServer) -> Option<Problem> {
    let levels = virtual_server.round_weights(None)?;
    let first = entry.value.real_servers.first();
    Some(Problem {
        place: first.and_then(Place::of).or_else(|| Place::of(entry)),
        message: format!(
            "{}: weights are rounded to {levels} levels, since {} cannot keep more apart for so \
             many real servers; write weights with small \
             whole-number ratios, such as 1, 2 and 4, or another scheduler",
            virtual_server.id,
            virtual_server.scheduler.name()
        ),
    })
}

/// Valid, but never serving.
fn doubt(entry: &Spanned<Entry>, virtual_server: &VirtualServer) -> Option<Problem> {
    let minimum = entry.value.minimum_healthy.as_ref()?;
    let count = virtual_server.real_servers.len();
    (u64::from(minimum.value) > count as u64).then(|| Problem {
        place: Place::of(minimum),
        message: format!(
            "{}: minimumHealthy: {} is more than the real servers that it has ({count}), so it is \
             never serving; list more of them, or write a smaller number",
            virtual_server.id, minimum.value
        ),
    })
}

impl Origins {
    fn place_of(&self, invalid: &Invalid) -> Option<Place> {
        match invalid.field {
            FieldPath::VirtualServer(id, _) => *self.virtual_servers.get(&id?)?,
            FieldPath::ServiceRange(range) => *self.service_ranges.get(&range)?,
        }
    }
}

/// The virtual servers of one entry, each with the place of its address.
fn expand(
    entry: &Spanned<Entry>,
    problems: &mut Problems<Problem>,
) -> Vec<(Option<Place>, VirtualServer)> {
    let fields = &entry.value;
    for (field, is_empty) in [
        ("addresses", fields.addresses.is_empty()),
        ("ports", fields.ports.is_empty()),
    ] {
        if is_empty {
            let message = format!("{field}: the list is empty; write at least one");
            let place = Place::of(entry);
            problems.push(Problem { place, message });
        }
    }
    let (behaviour, refused) = options(fields).resolve();
    problems.extend(refused.into_iter().map(|invalid| Problem {
        place: place_of(invalid.field, entry, None),
        message: invalid.to_string(),
    }));
    let mixed = [true, false].iter().all(|is_ipv4| {
        let of_family = |a: &Spanned<value::Address>| a.value.0.is_ipv4() == *is_ipv4;
        fields.addresses.iter().any(of_family)
    });
    let mut expanded = Vec::new();
    // What is wrong with an entry is wrong with each of its virtual servers.
    let mut reported: Vec<Invalid> = Vec::new();
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
                scheduler: behaviour.scheduler,
                forwarding_method: behaviour.forwarding_method,
                persistence: behaviour
                    .persistence
                    .map(|persistence| persistence.at(service_address)),
                real_servers: fields
                    .real_servers
                    .iter()
                    .map(|real_server| convert_real_server(&real_server.value))
                    .filter(|server| {
                        !mixed || server.address.is_ipv4() == service_address.is_ipv4()
                    })
                    .collect(),
                health_check: behaviour.health_check,
                on_failure: behaviour.on_failure,
                minimum_healthy: behaviour.minimum_healthy,
                drain_timeout: behaviour.drain_timeout,
            };
            if let Err(of_one) = virtual_server.validate() {
                problems.append(of_one, |invalid| {
                    if reported.contains(&invalid) {
                        return None;
                    }
                    let message = format!("{}: {invalid}", virtual_server.id);
                    let place = place_of(invalid.field, entry, Some((address, ports)));
                    reported.push(invalid);
                    Some(Problem { place, message })
                });
            }
            virtual_server.sort_real_servers();
            expanded.push((Place::of(address), virtual_server));
        }
    }
    expanded
}

/// The place of the field, as near as it is known.
fn place_of(
    field: FieldPath,
    entry: &Spanned<Entry>,
    pair: Option<(&Spanned<value::Address>, &Spanned<value::PortsText>)>,
) -> Option<Place> {
    let fields = &entry.value;
    let FieldPath::VirtualServer(_, field) = field else {
        return Place::of(entry);
    };
    let near = match field {
        Field::Address => pair.and_then(|(address, _)| Place::of(address)),
        Field::Ports => pair.and_then(|(_, ports)| Place::of(ports)),
        Field::Name => Place::of(&fields.name),
        Field::SchedulerFlags => fields.scheduler_flags.as_ref().and_then(Place::of),
        Field::TunnelKind => fields.tunnel_kind.as_ref().and_then(Place::of),
        Field::PersistenceTimeout | Field::ClientPrefixLength => {
            fields.persistence.as_ref().and_then(Place::of)
        }
        Field::HealthCheck(_) => fields.health_check.as_ref().and_then(Place::of),
        Field::MinimumHealthy => fields.minimum_healthy.as_ref().and_then(Place::of),
        Field::DrainTimeout => fields.drain_timeout.as_ref().and_then(Place::of),
        // The last one, since of two that are equal the second is too many.
        Field::RealServer(key, _) => {
            let mut servers = fields.real_servers.iter().rev();
            let named = servers
                .find(|server| RealServerKey::from(&convert_real_server(&server.value)) == key);
            named.and_then(Place::of)
        }
        Field::RealServers | Field::Scheduler | Field::ForwardingMethod | Field::OnFailure => None,
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

fn options(entry: &Entry) -> Options {
    Options {
        scheduler: Some(match entry.scheduler {
            super::Scheduler::Rr => Scheduler::Rr,
            super::Scheduler::Wrr => Scheduler::Wrr,
            super::Scheduler::Lc => Scheduler::Lc,
            super::Scheduler::Wlc => Scheduler::Wlc,
            super::Scheduler::Sh => Scheduler::SH_DEFAULT,
            super::Scheduler::Mh => Scheduler::MH_DEFAULT,
            super::Scheduler::Sed => Scheduler::Sed,
            super::Scheduler::Nq => Scheduler::Nq,
        }),
        scheduler_flags: entry.scheduler_flags.as_ref().map(|flags| SchedulerFlags {
            fallback: flags.value.contains(&super::SchedulerFlag::Fallback),
            port: flags.value.contains(&super::SchedulerFlag::Port),
        }),
        forwarding_method: Some(match entry.forwarding_method {
            super::ForwardingMethod::Tunnel => ForwardingMethod::default(),
            super::ForwardingMethod::Masquerade => ForwardingMethod::Masquerade,
            super::ForwardingMethod::DirectRouting => ForwardingMethod::DirectRouting,
        }),
        tunnel_kind: entry.tunnel_kind.as_ref().map(|kind| match kind.value {
            super::TunnelKind::Ipip => TunnelKind::Ipip,
        }),
        persistence: entry.persistence.as_ref().map(|persistence| {
            let client_prefix_length = persistence.value.client_prefix_length;
            PersistenceOptions {
                timeout: persistence.value.timeout.0,
                ipv4_prefix_length: client_prefix_length,
                ipv6_prefix_length: client_prefix_length,
            }
        }),
        health_check: entry
            .health_check
            .as_ref()
            .map_or_else(HealthCheckOptions::default, |check| {
                health_check(&check.value)
            }),
        on_failure: Some(match entry.on_failure {
            super::OnFailure::Quiesce => FailureAction::Quiesce,
            super::OnFailure::Remove => FailureAction::Remove,
        }),
        minimum_healthy: entry.minimum_healthy.as_ref().map(|minimum| minimum.value),
        drain_timeout: entry.drain_timeout.as_ref().map(|period| period.value.0),
    }
}

fn health_check(check: &super::HealthCheck) -> HealthCheckOptions {
    let period = |period: Option<value::Period>| period.map(|value::Period(period)| period);
    HealthCheckOptions {
        kind: Some(match check.kind {
            super::HealthCheckKind::TcpConnect => HealthCheckChoice::TcpConnect,
            super::HealthCheckKind::None => HealthCheckChoice::None,
        }),
        port: check.port.map(|value::Port(port)| port),
        interval: period(check.interval),
        timeout: period(check.timeout),
        rise: check.rise,
        fall: check.fall,
        initial_jitter: period(check.initial_jitter),
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
