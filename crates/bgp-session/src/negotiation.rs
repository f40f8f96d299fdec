//! Session parameters that result from both OPEN messages.

use std::time::Duration;

use bgp_packet::{
    AddPathMode, Asn, Capability, CodecOptions, Family, Open, RouterId, capability_code,
};

use crate::{error::SessionError, settings::SessionSettings};

/// An address family whose routes both sides exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiatedFamily {
    pub family: Family,
    /// RFC 7911: this side is allowed to send several paths of a prefix, and must send path ids.
    pub add_path_send: bool,
    /// RFC 7911: the peer is allowed to send several paths of a prefix, and must send path ids.
    pub add_path_receive: bool,
}

/// Parameters of a connection, negotiated by both OPEN messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub peer_asn: Asn,
    pub peer_router_id: RouterId,
    /// Whether the peer is in the AS of this speaker.
    pub internal: bool,
    /// The shorter of the two offered hold times. `None`: the connection has no hold timer and
    /// sends no keepalives.
    pub hold_time: Option<Duration>,
    /// The families that both sides offer, at least one, in the order of the settings of this side.
    pub families: Vec<NegotiatedFamily>,
    /// Whether the peer sends its routes again on request (RFC 2918).
    pub route_refresh: bool,
    /// Whether messages can be longer than 4096 octets (RFC 8654).
    pub extended_message: bool,
    /// Whether AS numbers have four octets in UPDATE messages (RFC 6793).
    pub four_octet_asn: bool,
}

impl Negotiated {
    /// Checks the OPEN message of the peer (RFC 4271 section 6.2) and combines the message with the
    /// settings of this side.
    pub(crate) fn new(settings: &SessionSettings, open: &Open) -> Result<Self, SessionError> {
        if let Some(expected) = settings.peer_asn
            && expected != open.asn
        {
            return Err(SessionError::UnexpectedPeerAsn {
                expected,
                received: open.asn,
            });
        }
        let internal = open.asn == settings.local_asn;
        // RFC 6286 section 2.2: a router id must be unique only within an AS, so the check applies
        // only to internal peers.
        if internal && open.router_id == settings.router_id {
            return Err(SessionError::OwnRouterId(open.router_id));
        }
        // RFC 4271 section 4.2 allows a speaker to reject a connection because of the hold time
        // that the peer offers.
        if open.hold_time_seconds < settings.minimum_hold_time_seconds {
            return Err(SessionError::UnacceptableHoldTime {
                offered_seconds: open.hold_time_seconds,
                minimum_seconds: settings.minimum_hold_time_seconds,
            });
        }
        let offered = Offered::new(open);
        let families: Vec<_> = settings
            .families
            .iter()
            .filter(|ours| offered.families.contains(&ours.family))
            .map(|ours| {
                let theirs = offered.add_path(ours.family);
                NegotiatedFamily {
                    family: ours.family,
                    add_path_send: sends(ours.add_path) && receives(theirs),
                    add_path_receive: receives(ours.add_path) && sends(theirs),
                }
            })
            .collect();
        if families.is_empty() {
            return Err(SessionError::NoCommonFamily(
                settings.families.iter().map(|ours| ours.family).collect(),
            ));
        }
        let hold_time_seconds = settings.hold_time_seconds.min(open.hold_time_seconds);
        Ok(Self {
            peer_asn: open.asn,
            peer_router_id: open.router_id,
            internal,
            hold_time: (hold_time_seconds > 0)
                .then(|| Duration::from_secs(hold_time_seconds.into())),
            families,
            route_refresh: offered.route_refresh,
            extended_message: offered.extended_message,
            four_octet_asn: offered.four_octet_asn,
        })
    }

    /// Returns a third of the hold time (RFC 4271 section 4.4). `None`: this side sends no
    /// keepalives.
    pub fn keepalive_interval(&self) -> Option<Duration> {
        self.hold_time.map(|hold_time| hold_time / 3)
    }

    /// Returns the time for which a peer can leave its socket unread before this side closes the
    /// connection: twice the hold time, at least 8 minutes (RFC 9687 section 3.2). `None`: no
    /// limit.
    pub fn send_hold_time(&self) -> Option<Duration> {
        const MINIMUM: Duration = Duration::from_secs(8 * 60);
        self.hold_time.map(|hold_time| (hold_time * 2).max(MINIMUM))
    }

    /// Returns the options for decoding messages from the peer.
    pub fn decoder_options(&self) -> CodecOptions {
        self.codec_options(|family| family.add_path_receive)
    }

    /// Returns the options for encoding messages to the peer.
    pub fn encoder_options(&self) -> CodecOptions {
        self.codec_options(|family| family.add_path_send)
    }

    fn codec_options(&self, has_path_ids: impl Fn(&NegotiatedFamily) -> bool) -> CodecOptions {
        CodecOptions {
            four_octet_asn: self.four_octet_asn,
            add_path: self
                .families
                .iter()
                .filter(|family| has_path_ids(family))
                .map(|family| family.family)
                .collect(),
            extended_message: self.extended_message,
            internal: self.internal,
        }
    }
}

/// The capabilities of the peer's OPEN message, grouped by kind. A repeated capability counts once
/// (RFC 5492 section 4). Of several add-path entries of a family, the last entry counts (RFC 7911
/// section 4).
#[derive(Default)]
struct Offered {
    families: Vec<Family>,
    add_path: Vec<(Family, AddPathMode)>,
    route_refresh: bool,
    extended_message: bool,
    four_octet_asn: bool,
}

impl Offered {
    fn new(open: &Open) -> Self {
        let mut offered = Self::default();
        let mut is_multiprotocol = false;
        for capability in &open.capabilities {
            match capability {
                Capability::Multiprotocol(family) => {
                    is_multiprotocol = true;
                    offered.families.push(*family);
                }
                Capability::RouteRefresh => offered.route_refresh = true,
                Capability::ExtendedMessage => offered.extended_message = true,
                Capability::FourOctetAsn(_) => offered.four_octet_asn = true,
                Capability::AddPath(modes) => offered.add_path.extend(modes),
                Capability::Unknown { code, .. } => {
                    is_multiprotocol |= *code == capability_code::MULTIPROTOCOL;
                }
                Capability::GracefulRestart(_) => {}
            }
        }
        if !is_multiprotocol {
            // A speaker without the multiprotocol capability (RFC 4760) exchanges IPv4 unicast
            // routes.
            offered.families.push(Family::Ipv4Unicast);
        }
        offered
    }

    fn add_path(&self, family: Family) -> Option<AddPathMode> {
        let mut modes = self.add_path.iter().rev();
        modes.find_map(|(offered, mode)| (*offered == family).then_some(*mode))
    }
}

fn sends(mode: Option<AddPathMode>) -> bool {
    match mode {
        Some(AddPathMode::Send | AddPathMode::Both) => true,
        Some(AddPathMode::Receive) | None => false,
    }
}

fn receives(mode: Option<AddPathMode>) -> bool {
    match mode {
        Some(AddPathMode::Receive | AddPathMode::Both) => true,
        Some(AddPathMode::Send) | None => false,
    }
}
