//! Checks of a single virtual server or service range.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use crate::{
    BadValue, Field, FieldPath, ForwardingMethod, HealthCheck, HealthCheckField, HealthCheckKind,
    Invalid, Persistence, Ports, Problems, Protocol, RealServer, RealServerField, Scheduler,
    SchedulerFlags, ServiceRange, Suggestion, VirtualServer,
};

const LONGEST_NAME: usize = 253;
const LONGEST_PERSISTENCE: Duration = Duration::from_secs(31 * 24 * 60 * 60);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60 * 60);
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);
const MOST_CHECKS_IN_A_ROW: u32 = 100;
/// Shortest allowed length of an IPv4 service range. A range with a shorter length would attract
/// traffic for more addresses than any site serves.
const SHORTEST_RANGE_V4: u8 = 8;
const SHORTEST_RANGE_V6: u8 = 16;

impl VirtualServer {
    /// Rejects values that the kernel would reject, and values that the kernel would accept but
    /// treat differently.
    ///
    /// # Errors
    ///
    /// Returns the problems of all invalid fields.
    pub fn validate(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        if let Err(reason) = check_address(self.id.address) {
            let field = Field::Address.into();
            problems.push(Invalid { field, reason });
        }
        let checks = [
            self.check_name(),
            self.check_ports(),
            self.check_scheduler(),
            self.check_real_server_count(),
        ];
        problems.extend(checks.into_iter().filter_map(Result::err));
        if let Some(persistence) = &self.persistence {
            check_persistence(persistence, self.id.address, &mut problems);
        }
        self.check_real_servers(&mut problems);
        if let Some(health_check) = &self.health_check {
            self.check_health_check(health_check, &mut problems);
        }
        if self.minimum_healthy == 0 {
            problems.push(Invalid::new(
                Field::MinimumHealthy,
                0,
                "would announce an address that no real server serves",
                "write 1 or more",
            ));
        }
        let drain_timeout = check_period(
            Field::DrainTimeout,
            self.drain_timeout,
            Duration::ZERO..=LONGEST_DRAIN,
            "write 0s (connections end immediately) to 24h",
        );
        problems.extend(drain_timeout.err());
        problems.or(())
    }

    fn check_name(&self) -> Result<(), Invalid> {
        let problem = if self.name.is_empty() {
            "is empty"
        } else if self.name.len() > LONGEST_NAME {
            "is longer than 253 bytes"
        } else if self.name.chars().any(char::is_control) {
            "contains a control character"
        } else {
            return Ok(());
        };
        Err(Invalid::new(
            Field::Name,
            format!("{:?}", self.name),
            problem,
            "write a name of 1 to 253 printable characters",
        ))
    }

    fn check_ports(&self) -> Result<(), Invalid> {
        match self.id.ports {
            Ports::Range(first, last) if first >= last => Err(Invalid::new(
                Field::Ports,
                self.id.ports,
                "has a last port that is not greater than its first port",
                "write the smaller port first, or one port alone",
            )),
            Ports::Single(_) | Ports::Range(..) | Ports::All => Ok(()),
        }
    }

    fn check_scheduler(&self) -> Result<(), Invalid> {
        let port_without_fallback = SchedulerFlags {
            fallback: false,
            port: true,
        };
        if self.scheduler != Scheduler::Mh(port_without_fallback) {
            return Ok(());
        }
        Err(Invalid::new(
            Field::SchedulerFlags,
            "port without fallback",
            "makes mh drop every new flow that hashes to a quiesced real server",
            "use fallback and port (the default), or no flag",
        ))
    }

    fn check_real_server_count(&self) -> Result<(), Invalid> {
        let (count, most) = (self.real_servers.len(), self.scheduler.most_real_servers());
        if count <= most {
            return Ok(());
        }
        let suggestion = if self.scheduler.is_mh() {
            format!(
                "list at most {most}, or use another scheduler and list at most {}",
                Self::MOST_REAL_SERVERS
            )
        } else {
            format!("list at most {most}")
        };
        Err(Invalid::new(
            Field::RealServers,
            count,
            format!("are more than {} can have", self.scheduler.word()),
            suggestion,
        ))
    }

    fn check_real_servers(&self, problems: &mut Problems) {
        // Real servers in strictly ascending order have no duplicates, so the keys are stored in
        // `seen` only if the list is not in this order.
        let key = |server: &RealServer| (server.address, self.real_server_port(server));
        let is_ascending = self.real_servers.is_sorted_by(|a, b| key(a) < key(b));
        let mut seen = BTreeSet::new();
        for real_server in &self.real_servers {
            if let Err(server_problems) = self.validate_real_server(real_server) {
                problems.append(server_problems, Some);
            }
            if !is_ascending && !seen.insert(key(real_server)) {
                problems.push(Invalid::new(
                    Field::RealServer(real_server.into(), RealServerField::Whole),
                    real_server,
                    "is listed more than once",
                    "list each real server once, and set its share with its weight",
                ));
            }
        }
    }

    /// Checks whether `real_server` can be a real server of this virtual server. The other real
    /// servers of the virtual server are not considered.
    ///
    /// # Errors
    ///
    /// Lists the invalid fields, the address first.
    pub fn validate_real_server(&self, real_server: &RealServer) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for (field, check) in [
            (
                RealServerField::Address,
                self.check_real_server_address(real_server.address),
            ),
            (
                RealServerField::Port,
                self.check_real_server_port(real_server),
            ),
        ] {
            if let Err(reason) = check {
                let field = Field::RealServer(real_server.into(), field).into();
                problems.push(Invalid { field, reason });
            }
        }
        problems.or(())
    }

    fn check_real_server_address(&self, address: IpAddr) -> Result<(), BadValue> {
        check_address(address)?;
        if address == self.id.address {
            return Err(BadValue::new(
                address,
                "is the service address itself, so packets would loop",
                "write the real server's own address",
            ));
        }
        let same_family = address.is_ipv4() == self.id.address.is_ipv4();
        // ip_vs_ctl.c rejects a real server of the other address family unless the forwarding
        // method is a tunnel.
        if !same_family && !matches!(self.forwarding_method, ForwardingMethod::Tunnel(_)) {
            return Err(BadValue::new(
                address,
                format!(
                    "is not of the family of the service address {}, and {} cannot reach another \
                     family",
                    self.id.address, self.forwarding_method
                ),
                "use forwarding method Tunnel or an address of the same family",
            ));
        }
        Ok(())
    }

    fn check_real_server_port(&self, real_server: &RealServer) -> Result<(), BadValue> {
        let Some(port) = real_server.port else {
            return Ok(());
        };
        match (self.id.ports, self.forwarding_method) {
            (Ports::Range(..) | Ports::All, _) => Err(BadValue::new(
                port,
                format!("would send all of the ports {} to one port", self.id.ports),
                "leave the port out, so that each connection keeps its port",
            )),
            (
                Ports::Single(service_port),
                method @ (ForwardingMethod::DirectRouting | ForwardingMethod::Tunnel(_)),
            ) if port != service_port => Err(BadValue::new(
                port,
                format!(
                    "differs from the virtual server's port {service_port}, which {method} \
                     cannot change"
                ),
                "leave the port out, or use forwarding method Masquerade",
            )),
            (
                Ports::Single(_),
                ForwardingMethod::Masquerade
                | ForwardingMethod::DirectRouting
                | ForwardingMethod::Tunnel(_),
            ) => Ok(()),
        }
    }

    fn check_health_check(&self, health_check: &HealthCheck, problems: &mut Problems) {
        let interval = check_period(
            HealthCheckField::Interval,
            health_check.interval,
            SHORTEST_INTERVAL..=LONGEST_INTERVAL,
            "write 10ms to 1h",
        );
        // An invalid interval must not cause a second error about the timeout.
        let longest_timeout = match interval {
            Ok(()) => health_check.interval,
            Err(_) => LONGEST_INTERVAL,
        };
        let timeout = check_period(
            HealthCheckField::Timeout,
            health_check.timeout,
            Duration::from_millis(1)..=longest_timeout,
            "write 1ms up to the interval",
        );
        let jitter = check_period(
            HealthCheckField::InitialJitter,
            health_check.initial_jitter,
            Duration::ZERO..=LONGEST_INTERVAL,
            "write 0ms to 1h",
        );
        problems.extend(
            [interval, timeout, jitter]
                .into_iter()
                .filter_map(Result::err),
        );
        for (field, count) in [
            (HealthCheckField::Rise, health_check.rise),
            (HealthCheckField::Fall, health_check.fall),
        ] {
            if !(1..=MOST_CHECKS_IN_A_ROW).contains(&count) {
                let problem = "is out of range";
                problems.push(Invalid::new(field, count, problem, "write 1 to 100"));
            }
        }
        problems.extend(self.check_health_check_port(health_check).err());
    }

    fn check_health_check_port(&self, health_check: &HealthCheck) -> Result<(), Invalid> {
        match (health_check.kind, self.id.protocol, self.id.ports) {
            (HealthCheckKind::TcpConnect { port: Some(_) }, _, _)
            | (HealthCheckKind::TcpConnect { port: None }, Protocol::Tcp, Ports::Single(_)) => {
                Ok(())
            }
            (HealthCheckKind::TcpConnect { port: None }, Protocol::Udp | Protocol::Sctp, _) => {
                Err(Invalid::new(
                    HealthCheckField::Port,
                    "none",
                    format!(
                        "is given, but a real server need not accept TCP on a port for {}",
                        self.id.protocol
                    ),
                    Suggestion::TextOrNoCheck("write a port on which the real servers accept TCP"),
                ))
            }
            (
                HealthCheckKind::TcpConnect { port: None },
                Protocol::Tcp,
                Ports::Range(..) | Ports::All,
            ) => Err(Invalid::new(
                HealthCheckField::Port,
                "none",
                format!(
                    "is given, but the check cannot choose one of the ports {}",
                    self.id.ports
                ),
                Suggestion::TextOrNoCheck("write the port to connect to"),
            )),
        }
    }
}

impl ServiceRange {
    /// Rejects prefixes that must not be announced.
    ///
    /// # Errors
    ///
    /// Returns the problem of the prefix.
    pub fn validate(&self) -> Result<(), BadValue> {
        let prefix = self.prefix;
        if prefix.trunc() != prefix {
            return Err(BadValue::new(
                prefix,
                "has bits set to the right of its length",
                format!("write {}", prefix.trunc()),
            ));
        }
        let (shortest, longest) = match prefix {
            ipnet::IpNet::V4(_) => (SHORTEST_RANGE_V4, 32),
            ipnet::IpNet::V6(_) => (SHORTEST_RANGE_V6, 128),
        };
        if prefix.prefix_len() < shortest {
            return Err(BadValue::new(
                prefix,
                "contains too many addresses to be announced",
                format!("write a length from {shortest} to {longest}"),
            ));
        }
        check_address(prefix.network()).map_err(|refused| BadValue {
            value: prefix.to_string(),
            ..refused
        })
    }
}

fn check_persistence(persistence: &Persistence, address: IpAddr, problems: &mut Problems) {
    let timeout = persistence.timeout;
    if timeout.subsec_nanos() != 0 || timeout.is_zero() || timeout > LONGEST_PERSISTENCE {
        problems.push(Invalid::new(
            Field::PersistenceTimeout,
            format!("{timeout:?}"),
            "is not a time that the kernel can keep",
            "write whole seconds from 1s to 31d",
        ));
    }
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = persistence.client_prefix_length;
    if length == 0 || length > longest {
        problems.push(Invalid::new(
            Field::ClientPrefixLength,
            length,
            format!("is not a prefix length for {address}"),
            format!("write 1 to {longest}; with {longest} each address counts as one client"),
        ));
    }
}

fn check_period(
    field: impl Into<FieldPath>,
    period: Duration,
    allowed: std::ops::RangeInclusive<Duration>,
    suggestion: &'static str,
) -> Result<(), Invalid> {
    let problem = if !allowed.contains(&period) {
        "is out of range"
    } else if !period.subsec_nanos().is_multiple_of(1_000_000) {
        "is not a whole number of milliseconds"
    } else {
        return Ok(());
    };
    Err(Invalid::new(
        field,
        format!("{period:?}"),
        problem,
        suggestion,
    ))
}

fn check_address(address: IpAddr) -> Result<(), BadValue> {
    let problem = match address {
        _ if address.is_unspecified() => "is the unspecified address",
        _ if address.is_multicast() => "is a multicast address",
        _ if address.is_loopback() => "is a loopback address, which is valid only within a host",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "belongs to 0.0.0.0/8, which no host can have",
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => "belongs to 240.0.0.0/4, which is reserved",
        IpAddr::V4(v4) if v4.is_link_local() => "is a link-local address, which is not routed",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "is a link-local address, which is not routed"
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4-mapped IPv6 address",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(()),
    };
    Err(BadValue::new(
        address,
        problem,
        "write a unicast address that is routed, such as 10.1.1.10 or fd00::10",
    ))
}

#[cfg(test)]
mod tests;
