//! Path attributes of a BGP route.
//!
//! [`PathAttributes`] has one field for each attribute that portlb uses. The attributes that portlb
//! only passes on are in [`PathAttributes::others`], with unchanged values.

use std::{fmt, net::IpAddr, str::FromStr};

use bytes::Bytes;

use crate::{
    identifiers::{Asn, ClusterId, RouterId},
    update,
};

/// ORIGIN (RFC 4271 section 5.1.1). Routers prefer the path with the smallest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    Igp,
    Egp,
    Incomplete,
}

/// One segment of an AS_PATH (RFC 4271 section 4.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AsPathSegment {
    Sequence(Vec<Asn>),
    Set(Vec<Asn>),
}

/// AS_PATH with four-octet AS numbers. On a session with two-octet AS numbers, the decoder merges
/// AS4_PATH into this value (RFC 6793).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath {
    /// The AS that the path passed most recently is first.
    pub segments: Vec<AsPathSegment>,
}

/// AGGREGATOR (RFC 4271 section 5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    pub asn: Asn,
    /// Can be zero: the decoder does not check this router id.
    pub router_id: RouterId,
}

/// A community (RFC 1997): an AS number in the upper 16 bits, a value in the lower 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// The path will be withdrawn soon (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// The Partial bit of each optional transitive attribute that has a field in [`PathAttributes`].
///
/// A speaker that does not recognize an attribute sets its Partial bit before it passes the
/// attribute on. No speaker may clear the bit (RFC 4271 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PartialAttributes {
    pub aggregator: bool,
    pub communities: bool,
    pub extended_communities: bool,
    pub large_communities: bool,
}

/// An attribute that portlb passes on without using it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawAttribute {
    /// The optional bit, the transitive bit and the Partial bit.
    pub flags: u8,
    pub type_code: u8,
    pub value: Bytes,
}

/// The attributes of a path, except MP_REACH_NLRI and MP_UNREACH_NLRI, which contain prefixes.
///
/// The prefixes of one [`Announced`](crate::Announced) share one `Arc` of this type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    pub origin: Origin,
    pub as_path: AsPath,
    /// The address in NEXT_HOP, or the global address in the next hop of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    pub multi_exit_disc: Option<u32>,
    /// `None` in a path from an external peer, because the decoder ignores LOCAL_PREF on external
    /// sessions.
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<Aggregator>,
    /// In the order of the attribute on the wire.
    pub communities: Vec<Community>,
    /// RFC 4456. `None` in a path from an external peer, because the decoder ignores ORIGINATOR_ID
    /// on external sessions.
    pub originator_id: Option<RouterId>,
    /// RFC 4456. The cluster that the path passed most recently is first. Empty in a path from an
    /// external peer, because the decoder ignores CLUSTER_LIST on external sessions.
    pub cluster_list: Vec<ClusterId>,
    /// EXTENDED_COMMUNITIES (RFC 4360): eight octets each.
    pub extended_communities: Vec<[u8; 8]>,
    pub large_communities: Vec<LargeCommunity>,
    pub partial: PartialAttributes,
    /// Optional attributes that portlb does not use, sorted by type code: transitive attributes
    /// from any session, and AIGP from internal sessions.
    pub others: Vec<RawAttribute>,
}

impl RawAttribute {
    /// Reports whether the decoder has checked the value. The decoder does not check values of
    /// unknown types.
    pub fn is_checked(&self) -> bool {
        update::is_checked(self.type_code)
    }
}

impl PathAttributes {
    /// Returns the attributes of a path that this speaker originates: ORIGIN IGP, empty AS_PATH.
    pub fn originate(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            multi_exit_disc: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            partial: PartialAttributes::default(),
            others: Vec::new(),
        }
    }
}

impl AsPath {
    /// Returns the path length for the decision process. A set counts as one AS
    /// (RFC 4271 section 9.1.2.2 a).
    pub fn decision_length(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| match segment {
                AsPathSegment::Sequence(asns) => asns.len(),
                AsPathSegment::Set(_) => 1,
            })
            .sum()
    }

    /// Reports whether `asn` is in the path. A speaker refuses a path that contains its own AS,
    /// because such a path has gone in a circle (RFC 4271 section 9.1.2).
    pub fn contains(&self, asn: Asn) -> bool {
        self.segments.iter().any(|segment| match segment {
            AsPathSegment::Sequence(asns) | AsPathSegment::Set(asns) => asns.contains(&asn),
        })
    }

    /// Returns the first AS of the path: the neighbouring AS that sent the path to the AS of this
    /// speaker. `None` if the path is empty or begins with a set.
    pub fn neighbouring_asn(&self) -> Option<Asn> {
        match self.segments.first()? {
            AsPathSegment::Sequence(asns) => asns.first().copied(),
            AsPathSegment::Set(_) => None,
        }
    }
}

impl Community {
    /// Names of communities from RFC 1997 and RFC 8326. The parser accepts the names in upper and
    /// lower case.
    const NAMES: [(&str, Self); 3] = [
        ("GRACEFUL_SHUTDOWN", Self::GRACEFUL_SHUTDOWN),
        ("NO_EXPORT", Self::NO_EXPORT),
        ("NO_ADVERTISE", Self::NO_ADVERTISE),
    ];
}

/// The error of a text that is not a community. The message describes the allowed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCommunityError {
    #[error(
        "a community is two numbers of 0 to 65535 with a colon between them, such as 65000:1, \
         or GRACEFUL_SHUTDOWN, NO_EXPORT or NO_ADVERTISE"
    )]
    Community,
    #[error(
        "a large community is three numbers of 0 to 4294967295 with colons between them, such as \
         65000:1:2"
    )]
    LargeCommunity,
}

impl FromStr for Community {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMES
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        if let Some((_, community)) = named {
            return Ok(community);
        }
        text.split_once(':')
            .and_then(|(asn, value)| {
                let (asn, value): (u16, u16) = (asn.parse().ok()?, value.parse().ok()?);
                Some(Self(u32::from(asn) << 16 | u32::from(value)))
            })
            .ok_or(ParseCommunityError::Community)
    }
}

impl FromStr for LargeCommunity {
    type Err = ParseCommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':').map(|part| part.parse().ok());
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(global)), Some(Some(first)), Some(Some(second)), None) => {
                Ok(Self(global, first, second))
            }
            _ => Err(ParseCommunityError::LargeCommunity),
        }
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.into_iter().find(|(_, named)| named == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "IGP",
            Self::Egp => "EGP",
            Self::Incomplete => "INCOMPLETE",
        })
    }
}

impl fmt::Display for AsPath {
    /// Writes AS numbers with spaces between them and sets in braces: `65001 {65003 65004}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for segment in &self.segments {
            f.write_str(separator)?;
            match segment {
                AsPathSegment::Sequence(asns) => write_asns(asns, f)?,
                AsPathSegment::Set(asns) => {
                    f.write_str("{")?;
                    write_asns(asns, f)?;
                    f.write_str("}")?;
                }
            }
            separator = " ";
        }
        Ok(())
    }
}

fn write_asns(asns: &[Asn], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut separator = "";
    for asn in asns {
        write!(f, "{separator}{asn}")?;
        separator = " ";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displayed_community_parses_to_the_same_community() {
        for (text, community) in [
            ("65000:1", Community(0xfde8_0001)),
            ("0:0", Community(0)),
            ("GRACEFUL_SHUTDOWN", Community::GRACEFUL_SHUTDOWN),
            ("NO_EXPORT", Community::NO_EXPORT),
            ("NO_ADVERTISE", Community::NO_ADVERTISE),
        ] {
            assert_eq!(text.parse(), Ok(community));
            assert_eq!(community.to_string(), text);
        }
        assert_eq!("no_export".parse(), Ok(Community::NO_EXPORT));
        assert_eq!("65000:1:2".parse(), Ok(LargeCommunity(65000, 1, 2)));
        assert_eq!(LargeCommunity(65000, 1, 2).to_string(), "65000:1:2");
    }

    #[test]
    fn a_text_that_is_not_a_community_is_refused() {
        for text in [
            "", "1", "1:", ":1", "65536:1", "1:2:3", "-1:1", "x:y", "1: 2",
        ] {
            let parsed = text.parse::<Community>();
            assert_eq!(parsed, Err(ParseCommunityError::Community), "{text}");
        }
        for text in ["", "1:2", "1:2:3:4", "1:2:4294967296", "1:2:"] {
            let parsed = text.parse::<LargeCommunity>();
            assert_eq!(parsed, Err(ParseCommunityError::LargeCommunity), "{text}");
        }
    }

    #[test]
    fn an_as_path_is_displayed_with_its_sets_in_braces() {
        let path = AsPath {
            segments: vec![
                AsPathSegment::Sequence(vec![Asn(1), Asn(2)]),
                AsPathSegment::Set(vec![Asn(3), Asn(4)]),
            ],
        };
        assert_eq!(path.to_string(), "1 2 {3 4}");
        assert_eq!(AsPath::default().to_string(), "");
    }
}
