//! Optional settings of a virtual server, and their defaults.

use std::{fmt, net::IpAddr, num::NonZeroU16, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    FailureAction, Field, ForwardingMethod, HealthCheck, HealthCheckField, HealthCheckKind,
    Invalid, Persistence, Scheduler, SchedulerFlags, Suggestion, TunnelKind, VirtualServer, text,
};

/// The settings of virtual servers that a user can leave out. `None` means that the user left the
/// setting out. [`Options::resolve`] fills in the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// If `scheduler_flags` is `None`, the flags of this value apply.
    pub scheduler: Option<Scheduler>,
    /// Only `sh` and `mh` have flags.
    pub scheduler_flags: Option<SchedulerFlags>,
    /// If `tunnel_kind` is `None`, the tunnel kind of this value applies.
    pub forwarding_method: Option<ForwardingMethod>,
    /// Only the forwarding method `Tunnel` has a tunnel kind.
    pub tunnel_kind: Option<TunnelKind>,
    pub persistence: Option<PersistenceOptions>,
    pub health_check: HealthCheckOptions,
    pub on_failure: Option<FailureAction>,
    /// Smallest number of healthy real servers with which a virtual server is serving.
    pub minimum_healthy: Option<u32>,
    /// Time for which a real server keeps its established connections after it has left the desired
    /// set.
    pub drain_timeout: Option<Duration>,
}

/// The settings of persistence that a user gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PersistenceOptions {
    /// Time after the client's last connection until the kernel forgets the client.
    pub timeout: Duration,
    /// Clients whose IPv4 addresses have a common prefix of this length count as one client. `None`
    /// means 32.
    pub ipv4_prefix_length: Option<u8>,
    /// Clients whose IPv6 addresses have a common prefix of this length count as one client. `None`
    /// means 128.
    pub ipv6_prefix_length: Option<u8>,
}

/// The settings of a health check that a user gave. `None` means that the user left the setting
/// out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheckOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<HealthCheckChoice>,
    #[serde(
        deserialize_with = "text::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub port: Option<NonZeroU16>,
    /// Time from the start of one probe to the start of the next.
    #[serde(
        deserialize_with = "text::optional",
        serialize_with = "text::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub interval: Option<Duration>,
    /// A probe without an answer fails after this time.
    #[serde(
        deserialize_with = "text::optional",
        serialize_with = "text::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout: Option<Duration>,
    /// Successful probes in a row that make a failed real server healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// Failed probes in a row that make a healthy real server failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// The first probe starts at a random moment within this time.
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
    /// A probe opens a TCP connection to the real server.
    #[default]
    TcpConnect,
    /// Real servers are not checked and count as healthy.
    None,
}

/// The settings of virtual servers with all defaults filled in. The type does not implement
/// `Default`: the defaults are the result of [`Options::resolve`] for empty options.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Behaviour {
    pub scheduler: Scheduler,
    pub forwarding_method: ForwardingMethod,
    pub persistence: Option<PersistenceOptions>,
    /// `None` means that real servers are not checked and count as healthy.
    pub health_check: Option<HealthCheck>,
    pub on_failure: FailureAction,
    /// A virtual server is serving while at least this many real servers are healthy.
    pub minimum_healthy: u32,
    /// Time for which a real server keeps its established connections after it has left the desired
    /// set.
    pub drain_timeout: Duration,
}

impl Options {
    /// Fills in the defaults. Options that have no effect together with the other options, such as
    /// flags of a scheduler without flags, are ignored and returned as errors.
    #[must_use]
    pub fn resolve(&self) -> (Behaviour, Vec<Invalid>) {
        let mut unused = Vec::new();
        let behaviour = Behaviour {
            scheduler: self.scheduler(&mut unused),
            forwarding_method: self.forwarding_method(&mut unused),
            persistence: self.persistence,
            health_check: self.health_check.resolve(&mut unused),
            on_failure: self.on_failure.unwrap_or_default(),
            minimum_healthy: self
                .minimum_healthy
                .unwrap_or(VirtualServer::DEFAULT_MINIMUM_HEALTHY),
            drain_timeout: self
                .drain_timeout
                .unwrap_or(VirtualServer::DEFAULT_DRAIN_TIMEOUT),
        };
        (behaviour, unused)
    }

    fn scheduler(&self, unused: &mut Vec<Invalid>) -> Scheduler {
        let scheduler = self.scheduler.unwrap_or_default();
        let Some(flags) = self.scheduler_flags else {
            return scheduler;
        };
        scheduler.with_flags(flags).unwrap_or_else(|| {
            unused.push(Invalid::new(
                Field::SchedulerFlags,
                scheduler,
                "has no flags (only sh and mh have flags)",
                Suggestion::LeaveOut,
            ));
            scheduler
        })
    }

    fn forwarding_method(&self, unused: &mut Vec<Invalid>) -> ForwardingMethod {
        let method = self.forwarding_method.unwrap_or_default();
        let Some(kind) = self.tunnel_kind else {
            return method;
        };
        match method {
            ForwardingMethod::Tunnel(_) => ForwardingMethod::Tunnel(kind),
            ForwardingMethod::Masquerade | ForwardingMethod::DirectRouting => {
                unused.push(Invalid::new(
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
    fn resolve(&self, unused: &mut Vec<Invalid>) -> Option<HealthCheck> {
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
                    unused.push(Invalid::new(
                        field,
                        value,
                        "has no effect without a health check",
                        Suggestion::LeaveOutOrCheck,
                    ));
                }
                None
            }
        }
    }
}

impl PersistenceOptions {
    /// Returns the persistence of a virtual server with this address. If the user gave no prefix
    /// length for the family of the address, each address counts as one client.
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
    fn empty_options_resolve_to_the_defaults() {
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
    fn the_default_health_check_timeout_is_at_most_the_interval() {
        let mut options = Options::default();
        options.health_check.interval = Some(Duration::from_millis(300));
        let check = options.resolve().0.health_check.unwrap();
        assert_eq!(check.timeout, Duration::from_millis(300));
    }

    #[test]
    fn an_option_without_effect_is_rejected() {
        let mut options = Options {
            scheduler: Some(Scheduler::Rr),
            scheduler_flags: Some(SchedulerFlags::default()),
            ..Options::default()
        };
        assert_eq!(
            options.resolve().1[0].to_string(),
            "schedulerFlags: rr has no flags (only sh and mh have flags); leave it out"
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
            "healthCheck.rise: 2 has no effect without a health check; leave it out, or use a \
             health check"
        );
    }

    #[test]
    fn a_rejected_option_does_not_change_the_other_options() {
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
        let (behaviour, unused) = options.resolve();
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
        let fields: Vec<FieldPath> = unused.iter().map(|invalid| invalid.field).collect();
        let expected = [
            Field::SchedulerFlags.into(),
            Field::TunnelKind.into(),
            HealthCheckField::Rise.into(),
            HealthCheckField::Fall.into(),
        ];
        assert_eq!(fields, expected);
    }
}
