//! Capabilities (RFC 5492).
//!
//! ```text
//! +----------+------------+-------+
//! | Code (1) | Length (1) | Value |
//! +----------+------------+-------+
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    identifiers::{Asn, Family},
    reader::Reader,
};

/// Whether several paths of a prefix are exchanged (RFC 7911), seen from the speaker that says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddPathMode {
    /// Able to receive.
    Receive,
    /// Able to send.
    Send,
    /// Both.
    Both,
}

/// RFC 4724 section 3, with the notification bit of RFC 8538.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GracefulRestart {
    /// The speaker has restarted.
    pub restarting: bool,
    /// RFC 8538: a NOTIFICATION leads to a graceful restart, too.
    pub notification: bool,
    /// Estimated seconds until the session is back, 0 to 4095.
    pub restart_time_seconds: u16,
    /// Families, each with whether its forwarding state was kept.
    pub families: Vec<(Family, bool)>,
}

/// What a speaker can do. Entries for families that are not spoken here are left out on decode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// RFC 4760.
    Multiprotocol(Family),
    /// RFC 2918.
    RouteRefresh,
    /// RFC 8654.
    ExtendedMessage,
    /// RFC 4724.
    GracefulRestart(GracefulRestart),
    /// RFC 6793.
    FourOctetAsn(Asn),
    /// RFC 7911.
    AddPath(Vec<(Family, AddPathMode)>),
    /// Anything else, carried as it came: what is not known here, and what is known but malformed.
    Unknown {
        /// Capability code.
        code: u8,
        /// Value.
        value: Bytes,
    },
}

impl Capability {
    /// Returns the AS number of a capability that has one.
    pub(crate) fn four_octet_asn(&self) -> Option<Asn> {
        match self {
            Self::FourOctetAsn(asn) => Some(*asn),
            Self::Multiprotocol(_)
            | Self::RouteRefresh
            | Self::ExtendedMessage
            | Self::GracefulRestart(_)
            | Self::AddPath(_)
            | Self::Unknown { .. } => None,
        }
    }
}

/// Codes of capabilities: <https://www.iana.org/assignments/capability-codes/>.
pub mod code {
    /// RFC 4760. A family that is not spoken here arrives as an unknown capability with this code.
    pub const MULTIPROTOCOL: u8 = 1;
    /// RFC 2918.
    pub const ROUTE_REFRESH: u8 = 2;
    /// RFC 8654.
    pub const EXTENDED_MESSAGE: u8 = 6;
    /// RFC 4724.
    pub const GRACEFUL_RESTART: u8 = 64;
    /// RFC 6793.
    pub const FOUR_OCTET_ASN: u8 = 65;
    /// RFC 7911.
    pub const ADD_PATH: u8 = 69;
}

const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const RESTART_TIME: u16 = 0x0fff;
const FORWARDING_KEPT: u8 = 0x80;

/// One capability of the list could not be delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// Reads capabilities to the end of `list` and appends them.
pub(crate) fn decode_list(list: &[u8], capabilities: &mut Vec<Capability>) -> Result<(), Overrun> {
    let mut reader = Reader(list);
    while !reader.is_empty() {
        let [code, length] = reader.array().ok_or(Overrun)?;
        let value = reader.take(usize::from(length)).ok_or(Overrun)?;
        match decode(code, value) {
            Known::Yes(capability) => capabilities.push(capability),
            Known::No => capabilities.push(Capability::Unknown {
                code,
                value: Bytes::copy_from_slice(value),
            }),
        }
    }
    Ok(())
}

enum Known {
    Yes(Capability),
    No,
}

impl From<Option<Capability>> for Known {
    fn from(capability: Option<Capability>) -> Self {
        capability.map_or(Self::No, Self::Yes)
    }
}

/// A value that its specification does not allow counts as not understood (RFC 5492 section 3).
fn decode(code: u8, value: &[u8]) -> Known {
    match (code, value) {
        (code::MULTIPROTOCOL, &[afi_high, afi_low, _reserved, safi]) => {
            // A foreign family stays as an unknown capability: it says that the peer speaks RFC 4760.
            let family = Family::from_afi_safi(u16::from_be_bytes([afi_high, afi_low]), safi);
            family.map(Capability::Multiprotocol).into()
        }
        (code::ROUTE_REFRESH, []) => Known::Yes(Capability::RouteRefresh),
        (code::EXTENDED_MESSAGE, []) => Known::Yes(Capability::ExtendedMessage),
        (code::GRACEFUL_RESTART, value) => decode_graceful_restart(value).into(),
        (code::FOUR_OCTET_ASN, &[a, b, c, d]) => {
            Known::Yes(Capability::FourOctetAsn(Asn(u32::from_be_bytes([
                a, b, c, d,
            ]))))
        }
        (code::ADD_PATH, value) => decode_add_path(value).into(),
        _ => Known::No,
    }
}

fn decode_graceful_restart(value: &[u8]) -> Option<Capability> {
    let mut reader = Reader(value);
    let flags_and_time = reader.u16()?;
    let entries = family_entries(reader.0)?;
    Some(Capability::GracefulRestart(GracefulRestart {
        restarting: flags_and_time & RESTARTING != 0,
        notification: flags_and_time & NOTIFICATION != 0,
        restart_time_seconds: flags_and_time & RESTART_TIME,
        families: entries
            .filter_map(|(family, flags)| Some((family?, flags & FORWARDING_KEPT != 0)))
            .collect(),
    }))
}

fn decode_add_path(value: &[u8]) -> Option<Capability> {
    // An undefined mode makes the whole capability not understood (RFC 7911 section 4).
    let families = family_entries(value)?
        .map(|(family, mode)| {
            let mode = match mode {
                1 => AddPathMode::Receive,
                2 => AddPathMode::Send,
                3 => AddPathMode::Both,
                _ => return None,
            };
            Some((family, mode))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Capability::AddPath(
        families
            .into_iter()
            .filter_map(|(family, mode)| Some((family?, mode)))
            .collect(),
    ))
}

/// Entries of AFI, SAFI and one more octet.
fn family_entries(list: &[u8]) -> Option<impl Iterator<Item = (Option<Family>, u8)>> {
    let (entries, rest) = list.as_chunks::<4>();
    rest.is_empty().then(|| {
        entries.iter().map(|&[afi_high, afi_low, safi, octet]| {
            let afi = u16::from_be_bytes([afi_high, afi_low]);
            (Family::from_afi_safi(afi, safi), octet)
        })
    })
}

/// Appends code, length and value; nothing if the value exceeds 255 octets.
pub(crate) fn encode(capability: &Capability, buffer: &mut BytesMut) {
    let start = buffer.len();
    buffer.put_u8(match capability {
        Capability::Multiprotocol(_) => code::MULTIPROTOCOL,
        Capability::RouteRefresh => code::ROUTE_REFRESH,
        Capability::ExtendedMessage => code::EXTENDED_MESSAGE,
        Capability::GracefulRestart(_) => code::GRACEFUL_RESTART,
        Capability::FourOctetAsn(_) => code::FOUR_OCTET_ASN,
        Capability::AddPath(_) => code::ADD_PATH,
        Capability::Unknown { code, .. } => *code,
    });
    buffer.put_u8(0);
    match capability {
        Capability::Multiprotocol(family) => {
            buffer.put_u16(family.afi());
            buffer.put_u8(0);
            buffer.put_u8(family.safi());
        }
        Capability::RouteRefresh | Capability::ExtendedMessage => {}
        Capability::GracefulRestart(restart) => {
            let time = restart.restart_time_seconds.min(RESTART_TIME);
            let restarting = if restart.restarting { RESTARTING } else { 0 };
            let notification = if restart.notification {
                NOTIFICATION
            } else {
                0
            };
            buffer.put_u16(restarting | notification | time);
            for (family, kept) in &restart.families {
                put_family_entry(*family, if *kept { FORWARDING_KEPT } else { 0 }, buffer);
            }
        }
        Capability::FourOctetAsn(asn) => buffer.put_u32(asn.0),
        Capability::AddPath(families) => {
            for (family, mode) in families {
                let mode = match mode {
                    AddPathMode::Receive => 1,
                    AddPathMode::Send => 2,
                    AddPathMode::Both => 3,
                };
                put_family_entry(*family, mode, buffer);
            }
        }
        Capability::Unknown { value, .. } => buffer.put_slice(value),
    }
    match u8::try_from(buffer.len() - start - 2) {
        Ok(length) => buffer[start + 1] = length,
        Err(_) => buffer.truncate(start),
    }
}

fn put_family_entry(family: Family, octet: u8, buffer: &mut BytesMut) {
    buffer.put_u16(family.afi());
    buffer.put_u8(family.safi());
    buffer.put_u8(octet);
}
