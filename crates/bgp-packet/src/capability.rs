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
    reader::OctetReader,
};

/// The add-path mode that a speaker sends in its OPEN for one family: whether the speaker can
/// receive several paths of a prefix, send several paths of a prefix, or both (RFC 7911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddPathMode {
    Receive,
    Send,
    Both,
}

/// The graceful restart capability (RFC 4724 section 3) with the notification bit of RFC 8538.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GracefulRestart {
    /// The speaker has restarted.
    pub restarting: bool,
    /// RFC 8538: the speaker supports a graceful restart also if a NOTIFICATION ends the session.
    pub notification: bool,
    /// The time, in seconds, that the speaker expects to need after a restart until the session is
    /// established: 0 to 4095.
    pub restart_time_seconds: u16,
    /// The families of the capability. The flag of a family is true if the speaker kept its
    /// forwarding state of this family during the restart.
    pub families: Vec<(Family, bool)>,
}

/// One capability of an OPEN. The decoder omits unsupported families from the lists of
/// `GracefulRestart` and `AddPath`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    Multiprotocol(Family),
    RouteRefresh,
    ExtendedMessage,
    GracefulRestart(GracefulRestart),
    FourOctetAsn(Asn),
    AddPath(Vec<(Family, AddPathMode)>),
    /// A capability with a code that is not in [`code`], a multiprotocol capability with an
    /// unsupported family, or a capability with a malformed value.
    Unknown {
        code: u8,
        value: Bytes,
    },
}

impl Capability {
    /// Returns the AS number in the four-octet AS number capability. `None` for any other
    /// capability.
    pub(crate) fn four_octet_asn(&self) -> Option<Asn> {
        if let Self::FourOctetAsn(asn) = self {
            Some(*asn)
        } else {
            None
        }
    }
}

/// The codes of the capabilities that this crate decodes:
/// <https://www.iana.org/assignments/capability-codes/>.
pub mod code {
    /// RFC 4760. The decoder returns an unsupported family as `Capability::Unknown` with this code.
    pub const MULTIPROTOCOL: u8 = 1;
    pub const ROUTE_REFRESH: u8 = 2; // RFC 2918
    pub const EXTENDED_MESSAGE: u8 = 6; // RFC 8654
    pub const GRACEFUL_RESTART: u8 = 64; // RFC 4724
    pub const FOUR_OCTET_ASN: u8 = 65; // RFC 6793
    pub const ADD_PATH: u8 = 69; // RFC 7911
}

const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
const RESTART_TIME: u16 = 0x0fff;
const FORWARDING_KEPT: u8 = 0x80;

/// The error of a capability that is longer than the list that contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// Decodes all capabilities of `list` and appends them to `capabilities`.
pub(crate) fn decode_list(list: &[u8], capabilities: &mut Vec<Capability>) -> Result<(), Overrun> {
    let mut reader = OctetReader(list);
    while !reader.is_empty() {
        let [code, length] = reader.array().ok_or(Overrun)?;
        let value = reader.take(usize::from(length)).ok_or(Overrun)?;
        capabilities.push(decode(code, value).unwrap_or_else(|| Capability::Unknown {
            code,
            value: Bytes::copy_from_slice(value),
        }));
    }
    Ok(())
}

/// Decodes one capability. `None` if the code is unknown, if a multiprotocol capability has an
/// unsupported family, or if the value is malformed.
fn decode(code: u8, value: &[u8]) -> Option<Capability> {
    match (code, value) {
        (code::MULTIPROTOCOL, &[afi_high, afi_low, _reserved, safi]) => {
            // The caller keeps a capability with an unsupported family as `Unknown`, because the
            // capability shows that the peer supports RFC 4760.
            let family = Family::from_afi_safi(u16::from_be_bytes([afi_high, afi_low]), safi);
            family.map(Capability::Multiprotocol)
        }
        (code::ROUTE_REFRESH, []) => Some(Capability::RouteRefresh),
        (code::EXTENDED_MESSAGE, []) => Some(Capability::ExtendedMessage),
        (code::GRACEFUL_RESTART, value) => decode_graceful_restart(value),
        (code::FOUR_OCTET_ASN, &[a, b, c, d]) => {
            let asn = Asn(u32::from_be_bytes([a, b, c, d]));
            Some(Capability::FourOctetAsn(asn))
        }
        (code::ADD_PATH, value) => decode_add_path(value),
        _ => None,
    }
}

fn decode_graceful_restart(value: &[u8]) -> Option<Capability> {
    let mut reader = OctetReader(value);
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
    // A speaker ignores the whole capability if one mode is undefined (RFC 7911 section 4).
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

/// Decodes entries of four octets: AFI, SAFI and an octet whose meaning depends on the capability.
/// `None` if the length of `list` is not a multiple of four.
fn family_entries(list: &[u8]) -> Option<impl Iterator<Item = (Option<Family>, u8)>> {
    let (entries, rest) = list.as_chunks::<4>();
    rest.is_empty().then(|| {
        entries.iter().map(|&[afi_high, afi_low, safi, octet]| {
            let afi = u16::from_be_bytes([afi_high, afi_low]);
            (Family::from_afi_safi(afi, safi), octet)
        })
    })
}

/// Appends the code, length and value of `capability`. Appends nothing if the value has more than
/// 255 octets, because the length field has one octet.
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
