//! The configuration of one session.

use std::time::Duration;

use bgp_packet::{AddPathMode, Asn, Capability, Family, Open, RouterId};

/// A family that is offered to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilySettings {
    /// The family.
    pub family: Family,
    /// RFC 7911, seen from this side; `None`: one path per prefix.
    pub add_path: Option<AddPathMode>,
}

/// Settings of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// AS of this side.
    pub local_asn: Asn,
    /// Router id of this side.
    pub router_id: RouterId,
    /// AS that the peer must have; `None`: any.
    pub peer_asn: Option<Asn>,
    /// Whether this side opens connections. A session that doesn't waits for the peer.
    pub active: bool,
    /// Offered hold time in whole seconds: 0 (no keepalives), or 3 to 65535.
    pub hold_time_seconds: u16,
    /// Least hold time that the peer must offer, in seconds. 0: any that RFC 4271 allows, also none.
    pub minimum_hold_time_seconds: u16,
    /// A connection without an OPEN of the peer is given up after this time. RFC 4271 section
    /// 8.2.2 suggests 4 minutes; a peer that is there answers within a round trip.
    pub open_timeout: Duration,
    /// An attempt to connect is given up after this time.
    pub connect_timeout: Duration,
    /// Pause before the second attempt to connect. It doubles with each failure.
    pub connect_retry_minimum: Duration,
    /// Longest pause between two attempts to connect.
    pub connect_retry_maximum: Duration,
    /// What is offered, at least one family, each once.
    pub families: Vec<FamilySettings>,
}

/// Settings that no session can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// RFC 7607.
    #[error("AS 0 is reserved")]
    AsnZero,
    /// RFC 6286.
    #[error("router id 0.0.0.0 is not allowed")]
    RouterIdZero,
    /// RFC 4271 section 4.2.
    #[error("hold time {0} s: must be 0 or at least 3 s")]
    HoldTime(u16),
    /// Nothing could be exchanged.
    #[error("no address family")]
    NoFamily,
    /// One entry would override the other.
    #[error("address family {0:?} is listed twice")]
    FamilyTwice(Family),
    /// The pause could not grow.
    #[error("the shortest pause between connects is zero or longer than the longest")]
    ConnectRetry,
}

impl Settings {
    /// Usual settings for a peer, both families without add-path.
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
                .map(|family| FamilySettings {
                    family,
                    add_path: None,
                })
                .into(),
        }
    }

    /// # Errors
    /// Says what no session can have.
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
