//! Settings of one session.

use std::time::Duration;

use bgp_packet::{AddPathMode, Asn, Capability, Family, Open, RouterId};

/// An address family that this side offers to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfferedFamily {
    pub family: Family,
    /// Add-path mode of this side (RFC 7911). `None`: one path per prefix in both directions.
    pub add_path: Option<AddPathMode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    pub local_asn: Asn,
    /// Router id of this side.
    pub router_id: RouterId,
    /// AS that the peer must have. `None`: any AS.
    pub peer_asn: Option<Asn>,
    /// Whether this side opens connections. Otherwise the session waits for a connection of the
    /// peer.
    pub active: bool,
    /// Offered hold time in seconds: 0 (no hold timer and no keepalives), or 3 to 65535.
    pub hold_time_seconds: u16,
    /// Shortest hold time, in seconds, that this side accepts in the OPEN message of the peer. 0:
    /// this side accepts any hold time, including 0 (no hold timer and no keepalives).
    pub minimum_hold_time_seconds: u16,
    /// Longest wait for the OPEN message of the peer. RFC 4271 section 8.2.2 suggests 4 minutes,
    /// but a reachable peer answers within a round trip.
    pub open_timeout: Duration,
    /// Time after which the driver gives up an attempt to connect that has no result.
    pub connect_timeout: Duration,
    /// Pause after the first failed attempt to connect. The pause doubles with each further
    /// failure, up to `connect_retry_maximum`. A random part of up to a quarter shortens each
    /// pause.
    pub connect_retry_minimum: Duration,
    /// Longest pause between two attempts to connect.
    pub connect_retry_maximum: Duration,
    /// Offered address families: at least one, each at most once.
    pub families: Vec<OfferedFamily>,
}

/// A reason for which settings cannot be used for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// RFC 7607 reserves AS 0.
    #[error("AS 0 is reserved")]
    AsnZero,
    /// RFC 6286 does not allow the router id 0.0.0.0.
    #[error("router id 0.0.0.0 is not allowed")]
    RouterIdZero,
    /// RFC 4271 section 4.2 does not allow a hold time of 1 s or 2 s.
    #[error("hold time {0} s: must be 0 or at least 3 s")]
    HoldTime(u16),
    #[error("no address family")]
    NoFamily,
    #[error("address family {0:?} is listed twice")]
    FamilyTwice(Family),
    #[error("shortest pause between attempts to connect is zero or longer than the longest pause")]
    ConnectRetry,
}

impl SessionSettings {
    /// Returns default settings: the session dials, and offers IPv4 and IPv6 unicast without
    /// add-path and a hold time of 90 s.
    pub fn new(local_asn: Asn, router_id: RouterId, peer_asn: Option<Asn>) -> Self {
        Self {
            local_asn,
            router_id,
            peer_asn,
            active: true,
            hold_time_seconds: 90,
            minimum_hold_time_seconds: 0,
            open_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            connect_retry_minimum: Duration::from_millis(500),
            connect_retry_maximum: Duration::from_secs(10),
            families: [Family::Ipv4Unicast, Family::Ipv6Unicast]
                .map(|family| OfferedFamily {
                    family,
                    add_path: None,
                })
                .into(),
        }
    }

    /// Checks that a session can use the settings.
    ///
    /// # Errors
    /// Returns an error for the first setting that a session cannot use.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        if self.local_asn.0 == 0 || self.peer_asn == Some(Asn(0)) {
            return Err(InvalidSettings::AsnZero);
        }
        if self.router_id.0.is_unspecified() {
            return Err(InvalidSettings::RouterIdZero);
        }
        if matches!(self.hold_time_seconds, 1 | 2) {
            return Err(InvalidSettings::HoldTime(self.hold_time_seconds));
        }
        if self.families.is_empty() {
            return Err(InvalidSettings::NoFamily);
        }
        for (index, settings) in self.families.iter().enumerate() {
            let mut earlier = self.families[..index].iter();
            if earlier.any(|earlier| earlier.family == settings.family) {
                return Err(InvalidSettings::FamilyTwice(settings.family));
            }
        }
        if self.connect_retry_minimum.is_zero()
            || self.connect_retry_minimum > self.connect_retry_maximum
        {
            return Err(InvalidSettings::ConnectRetry);
        }
        Ok(())
    }

    /// Returns the OPEN message that offers these settings.
    pub(crate) fn open(&self) -> Open {
        let mut capabilities: Vec<_> = self
            .families
            .iter()
            .map(|settings| Capability::Multiprotocol(settings.family))
            .collect();
        capabilities.push(Capability::RouteRefresh);
        capabilities.push(Capability::ExtendedMessage);
        capabilities.push(Capability::FourOctetAsn(self.local_asn));
        let add_path: Vec<_> = self
            .families
            .iter()
            .filter_map(|settings| Some((settings.family, settings.add_path?)))
            .collect();
        if !add_path.is_empty() {
            capabilities.push(Capability::AddPath(add_path));
        }
        Open {
            asn: self.local_asn,
            hold_time_seconds: self.hold_time_seconds,
            router_id: self.router_id,
            capabilities,
        }
    }
}
