//! Options of a virtual server, with their defaults.

use std::{fmt, net::IpAddr, num::NonZeroU16, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    FailureAction, Field, ForwardingMethod, HealthCheck, HealthCheckField, HealthCheckKind,
    Invalid, Persistence, Scheduler, SchedulerFlags, Suggestion, TunnelKind, VirtualServer, text,
};

/// What a user said of how virtual servers behave, apart from their addresses, ports and real
/// servers; `None`: nothing. [`Options::resolve`] makes a whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The scheduler. Its flags are those of its default unless `scheduler_flags` names them.
    pub scheduler: Option<Scheduler>,
    /// Flags of the scheduler; only `sh` and `mh` have any.
    pub scheduler_flags: Option<SchedulerFlags>,
    /// The forwarding method. The kind of a tunnel is the default unless `tunnel_kind` names it.
    pub forwarding_method: Option<ForwardingMethod>,
    /// How tunnels encapsulate; only the forwarding method `Tunnel` has a kind.
    pub tunnel_kind: Option<TunnelKind>,
    /// Persistence.
    pub persistence: Option<PersistenceOptions>,
    /// The health check.
    pub health_check: HealthCheckOptions,
    /// What happens to a real server that fails its health check.
    pub on_failure: Option<FailureAction>,
    /// Least number of healthy real servers.
    pub minimum_healthy: Option<u32>,
    /// How long a real server that is listed no more keeps its connections.
    pub drain_timeout: Option<Duration>,
}

/// What a user said of persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PersistenceOptions {
    /// How long the binding outlives the client's last connection.
    pub timeout: Duration,
    /// Length of the prefix that counts as one client where clients have IPv4 addresses.
    pub ipv4_prefix_length: Option<u8>,
    /// The same for IPv6.
    pub ipv6_prefix_length: Option<u8>,
}

/// What a user said of health checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheckOptions {
    /// Whether and how real servers are checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<HealthCheckChoice>,
    /// What to connect to.
    #[serde(
        deserialize_with = "text::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub port: Option<NonZeroU16>,
    /// From the start of one check to the start of the next.
    #[serde(
        deserialize_with = "text::optional",
        serialize_with = "text::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub interval: Option<Duration>,
    /// A check without an answer fails after it.
    #[serde(
        deserialize_with = "text::optional",
        serialize_with = "text::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// Successful checks that make a failed real server healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// Failed checks that make a healthy real server failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// The first check starts at a random moment within it.
    #[serde(
        deserialize_with = "text::optional",
        serialize_with = "text::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub initial_jitter: Option<Duration>,
}

/// Whether and how real servers are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HealthCheckChoice {
    /// By a TCP connection.
    #[default]
    TcpConnect,
    /// Not at all: they count as healthy.
    None,
}

/// How virtual servers behave, with every default filled in. It has no `Default` of its own:
/// [`Options::default`] resolved is what holds where a user says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Behaviour {
    /// How new connections are shared.
    pub scheduler: Scheduler,
    /// How packets reach the real servers.
    pub forwarding_method: ForwardingMethod,
    /// Whether a client stays with its real server.
    pub persistence: Option<PersistenceOptions>,
    /// `None`: real servers are not checked.
    pub health_check: Option<HealthCheck>,
    /// What happens to a real server that fails its check.
    pub on_failure: FailureAction,
    /// A virtual server is serving while so many of its real servers are healthy.
    pub minimum_healthy: u32,
    /// How long a real server that is listed no more keeps its connections.
    pub drain_timeout: Duration,
}

impl Options {
    /// Fills the defaults in, as if every option without meaning beside the others were left out;
    /// returns those options, too.
    #[must_use]
    pub fn resolve(&self) -> (Behaviour, Vec<Invalid>) {
        let mut refused = Vec::new();
        let behaviour = Behaviour {
            scheduler: self.scheduler(&mut refused),
            forwarding_method: self.forwarding_method(&mut refused),
            persistence: self.persistence,
            health_check: self.health_check.resolve(&mut refused),
            on_failure: self.on_failure.unwrap_or_default(),
            minimum_healthy: self
                .minimum_healthy
                .unwrap_or(VirtualServer::DEFAULT_MINIMUM_HEALTHY),
            drain_timeout: self
                .drain_timeout
                .unwrap_or(VirtualServer::DEFAULT_DRAIN_TIMEOUT),
        };
        (behaviour, refused)
    }

    fn scheduler(&self, refused: &mut Vec<Invalid>) -> Scheduler {
        let scheduler = self.scheduler.unwrap_or_default();
        let Some(flags) = self.scheduler_flags else {
            return scheduler;
        };
        match scheduler {
            Scheduler::Sh(_) => Scheduler::Sh(flags),
            Scheduler::Mh(_) => Scheduler::Mh(flags),
            Scheduler::Rr
            | Scheduler::Wrr
            | Scheduler::Lc
            | Scheduler::Wlc
            | Scheduler::Sed
            | Scheduler::Nq => {
                refused.push(Invalid::new(
                    Field::SchedulerFlags,
                    scheduler,
                    "has no flags, only sh and mh have",
                    Suggestion::LeaveOut,
                ));
                scheduler
            }
        }
    }

    fn forwarding_method(&self, refused: &mut Vec<Invalid>) -> ForwardingMethod {
        let method = self.forwarding_method.unwrap_or_default();
        let Some(kind) = self.tunnel_kind else {
            return method;
        };
        match method {
            ForwardingMethod::Tunnel(_) => ForwardingMethod::Tunnel(kind),
            ForwardingMethod::Masquerade | ForwardingMethod::DirectRouting => {
                refused.push(Invalid::new(
                    Field::TunnelKind,
                    kind,
                    format!("is for forwardingMethod Tunnel, not for {method}"),
                    Suggestion::LeaveOut,
                ));
                method
            }
        }
    }
}

impl HealthCheckOptions {
    fn resolve(&self, refused: &mut Vec<Invalid>) -> Option<HealthCheck> {
        let default = HealthCheck::default();
        match self.kind.unwrap_or_default() {
            HealthCheckChoice::TcpConnect => {
                let interval = self.interval.unwrap_or(default.interval);
                Some(HealthCheck {
                    kind: HealthCheckKind::TcpConnect { port: self.port },
                    interval,
                    timeout: self.timeout.unwrap_or(default.timeout.min(interval)),
                    rise: self.rise.unwrap_or(default.rise),
                    fall: self.fall.unwrap_or(default.fall),
                    initial_jitter: self.initial_jitter.unwrap_or(default.initial_jitter),
                })
            }
            HealthCheckChoice::None => {
                let period = |period: Option<Duration>| period.map(|period| format!("{period:?}"));
                for (field, value) in [
                    (
                        HealthCheckField::Port,
                        self.port.map(|port| port.to_string()),
                    ),
                    (HealthCheckField::Interval, period(self.interval)),
                    (HealthCheckField::Timeout, period(self.timeout)),
                    (
                        HealthCheckField::Rise,
                        self.rise.map(|rise| rise.to_string()),
                    ),
                    (
                        HealthCheckField::Fall,
                        self.fall.map(|fall| fall.to_string()),
                    ),
                    (HealthCheckField::InitialJitter, period(self.initial_jitter)),
                ] {
                    let Some(value) = value else { continue };
                    refused.push(Invalid::new(
                        field,
                        value,
                        "has no meaning without a check",
                        Suggestion::LeaveOutOrCheck,
                    ));
                }
                None
            }
        }
    }
}

impl PersistenceOptions {
    /// What it is for clients of the family of `address`: each address is a client of its own
    /// unless a prefix length is given.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Persistence {
        let (given, longest) = match address {
            IpAddr::V4(_) => (self.ipv4_prefix_length, 32),
            IpAddr::V6(_) => (self.ipv6_prefix_length, 128),
        };
        Persistence {
            timeout: self.timeout,
            client_prefix_length: given.unwrap_or(longest),
        }
    }
}

impl fmt::Display for TunnelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FieldPath;

    #[test]
    fn options_that_say_nothing_resolve_to_the_defaults() {
        assert_eq!(
            Options::default().resolve().0,
            Behaviour {
                scheduler: Scheduler::MH_DEFAULT,
                forwarding_method: ForwardingMethod::Tunnel(TunnelKind::Ipip),
                persistence: None,
                health_check: Some(HealthCheck::default()),
                on_failure: FailureAction::Quiesce,
                minimum_healthy: 1,
                drain_timeout: Duration::from_secs(60),
            }
        );
    }

    #[test]
    fn the_timeout_of_a_short_interval_is_the_interval() {
        let mut options = Options::default();
        options.health_check.interval = Some(Duration::from_millis(300));
        let check = options.resolve().0.health_check.unwrap();
        assert_eq!(check.timeout, Duration::from_millis(300));
    }

    #[test]
    fn an_option_without_meaning_is_refused() {
        let mut options = Options {
            scheduler: Some(Scheduler::Rr),
            scheduler_flags: Some(SchedulerFlags::default()),
            ..Options::default()
        };
        assert_eq!(
            options.resolve().1[0].to_string(),
            "schedulerFlags: rr has no flags, only sh and mh have; leave it out"
        );
        options = Options {
            forwarding_method: Some(ForwardingMethod::Masquerade),
            tunnel_kind: Some(TunnelKind::Ipip),
            ..Options::default()
        };
        assert_eq!(
            options.resolve().1[0].to_string(),
            "tunnelKind: ipip is for forwardingMethod Tunnel, not for Masquerade; leave it out"
        );
        options = Options::default();
        options.health_check.kind = Some(HealthCheckChoice::None);
        options.health_check.rise = Some(2);
        assert_eq!(
            options.resolve().1[0].to_string(),
            "healthCheck.rise: 2 has no meaning without a check; leave it out, or write another \
             kind than none"
        );
    }

    #[test]
    fn what_is_refused_leaves_the_other_options_and_the_defaults_in_place() {
        let mut options = Options {
            scheduler: Some(Scheduler::Rr),
            scheduler_flags: Some(SchedulerFlags::default()),
            forwarding_method: Some(ForwardingMethod::Masquerade),
            tunnel_kind: Some(TunnelKind::Ipip),
            on_failure: Some(FailureAction::Remove),
            ..Options::default()
        };
        options.health_check.kind = Some(HealthCheckChoice::None);
        options.health_check.rise = Some(2);
        options.health_check.fall = Some(3);
        let (behaviour, refused) = options.resolve();
        let expected = Behaviour {
            scheduler: Scheduler::Rr,
            forwarding_method: ForwardingMethod::Masquerade,
            persistence: None,
            health_check: None,
            on_failure: FailureAction::Remove,
            minimum_healthy: VirtualServer::DEFAULT_MINIMUM_HEALTHY,
            drain_timeout: VirtualServer::DEFAULT_DRAIN_TIMEOUT,
        };
        assert_eq!(behaviour, expected);
        let fields: Vec<FieldPath> = refused.iter().map(|invalid| invalid.field).collect();
        let expected = [
            Field::SchedulerFlags.into(),
            Field::TunnelKind.into(),
            HealthCheckField::Rise.into(),
            HealthCheckField::Fall.into(),
        ];
        assert_eq!(fields, expected);
    }
}
