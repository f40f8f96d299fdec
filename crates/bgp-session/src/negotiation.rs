//! The result of two OPEN messages.

use std::time::Duration;

use bgp_packet::{
    AddPathMode, Asn, Capability, CodecOptions, Family, Open, RouterId, capability_code,
};

use crate::{error::SessionError, settings::Settings};

/// A family that both sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiatedFamily {
    /// The family.
    pub family: Family,
    /// RFC 7911: this side may send several paths of a prefix, and must send path ids.
    pub add_path_send: bool,
    /// RFC 7911: the peer may.
    pub add_path_receive: bool,
}

/// What holds for a connection after both OPEN messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// AS of the peer.
    pub peer_asn: Asn,
    /// Router id of the peer.
    pub peer_router_id: RouterId,
    /// Whether both sides are of one AS.
    pub internal: bool,
    /// The shorter of both offers; `None`: neither hold timer nor keepalives.
    pub hold_time: Option<Duration>,
    /// In the order of our settings, at least one.
    pub families: Vec<NegotiatedFamily>,
    /// RFC 2918: the peer answers to ROUTE-REFRESH.
    pub route_refresh: bool,
    /// RFC 8654.
    pub extended_message: bool,
    /// RFC 6793.
    pub four_octet_asn: bool,
}

impl Negotiated {
    /// Checks the peer's OPEN (RFC 4271 section 6.2) and joins it with our offer.
    pub(crate) fn new(settings: &Settings, open: &Open) -> Result<Self, SessionError> {
        if let Some(expected) = settings.peer_asn
            && expected != open.asn
        {
            return Err(SessionError::UnexpectedPeerAsn {
                expected,
                received: open.asn,
            });
        }
        let internal = open.asn == settings.local_asn;
        // RFC 6286 section 2.2: the id must be unique within an AS only.
        if internal && open.router_id == settings.router_id {
            return Err(SessionError::OwnRouterId(open.router_id));
        }
        // RFC 4271 section 4.2: a speaker may refuse a connection for its hold time.
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

    /// A third of the hold time (RFC 4271 section 4.4); `None`: no keepalives.
    pub fn keepalive_interval(&self) -> Option<Duration> {
        self.hold_time.map(|hold_time| hold_time / 3)
    }

    /// A peer that takes nothing off its socket for this long is given up (RFC 9687 section 3.2);
    /// `None`: never.
    pub fn send_hold_time(&self) -> Option<Duration> {
        const MINIMUM: Duration = Duration::from_secs(8 * 60);
        self.hold_time.map(|hold_time| (hold_time * 2).max(MINIMUM))
    }

    /// For what the peer sends.
    pub fn decoder_options(&self) -> CodecOptions {
        self.codec_options(|family| family.add_path_receive)
    }

    /// For what the peer is sent.
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

/// The capabilities of an OPEN, each kind together. One that is repeated counts as one
/// (RFC 5492 section 4), and of add-path the last entry of a family holds (RFC 7911 section 4).
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
            // A speaker without RFC 4760 exchanges IPv4 unicast.
            offered.families.push(Family::Ipv4Unicast);
        }
        offered
    }

    fn add_path(&self, family: Family) -> Option<AddPathMode> {
        let mut modes = self.add_path.iter().rev();
        modes.find_map(|(of, mode)| (*of == family).then_some(*mode))
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
