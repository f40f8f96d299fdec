//! Path attributes: what is understood has a field, the rest is carried as it came.

use std::{fmt, net::IpAddr, str::FromStr};

use bytes::Bytes;

use crate::{
    identifiers::{Asn, ClusterId, RouterId},
    update,
};

/// ORIGIN (RFC 4271 section 5.1.1). Ordered by preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Interior to the originating AS.
    Igp,
    /// Learned by the EGP protocol.
    Egp,
    /// Learned by other means.
    Incomplete,
}

/// One segment of an AS_PATH (RFC 4271 section 4.3; RFC 5065 for confederations).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AsPathSegment {
    /// Ordered.
    Sequence(Vec<Asn>),
    /// Unordered.
    Set(Vec<Asn>),
}

/// AS_PATH with four-octet numbers, whatever the session speaks (RFC 6793).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath {
    /// In the order of the wire: the most recent AS first.
    pub segments: Vec<AsPathSegment>,
}

/// AGGREGATOR (RFC 4271 section 5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// AS of the speaker that aggregated.
    pub asn: Asn,
    /// Its router id; zero is tolerated.
    pub router_id: RouterId,
}

/// A community (RFC 1997): the AS in the upper, a value in the lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// RFC 8326: the path is about to go away.
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// RFC 1997.
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// RFC 1997.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// Which of the optional transitive attributes that have a field came with the Partial bit: a
/// speaker on the way did not know them. It is never cleared (RFC 4271 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PartialAttributes {
    /// AGGREGATOR.
    pub aggregator: bool,
    /// COMMUNITIES.
    pub communities: bool,
    /// EXTENDED_COMMUNITIES.
    pub extended_communities: bool,
    /// LARGE_COMMUNITY.
    pub large_communities: bool,
}

/// An attribute that is carried without being understood.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawAttribute {
    /// Attribute flags without the extended-length bit.
    pub flags: u8,
    /// Attribute type code.
    pub type_code: u8,
    /// Value.
    pub value: Bytes,
}

/// The attributes of a path, without what belongs to single prefixes (MP_REACH, MP_UNREACH).
///
/// Shared between the prefixes of one UPDATE by `Arc`; equal values may be sent together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH.
    pub as_path: AsPath,
    /// NEXT_HOP, or the global next hop of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// MULTI_EXIT_DISC.
    pub multi_exit_disc: Option<u32>,
    /// LOCAL_PREF. Of internal sessions only.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES, in the order received.
    pub communities: Vec<Community>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST (RFC 4456), the most recent cluster first.
    pub cluster_list: Vec<ClusterId>,
    /// EXTENDED_COMMUNITIES (RFC 4360), each eight octets.
    pub extended_communities: Vec<[u8; 8]>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// Which of these have the Partial bit.
    pub partial: PartialAttributes,
    /// Optional attributes that nothing here uses, by ascending type: transitive ones, and AIGP of
    /// internal sessions.
    pub others: Vec<RawAttribute>,
}

impl RawAttribute {
    /// Whether the decoder knows the type, so that it has checked the value.
    pub fn is_checked(&self) -> bool {
        update::is_checked(self.type_code)
    }
}

impl PathAttributes {
    /// Attributes of a path of our own: ORIGIN IGP, empty AS_PATH.
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
    /// Length as the decision process counts it: a set counts one (RFC 4271 section 9.1.2.2 a).
    pub fn decision_length(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| match segment {
                AsPathSegment::Sequence(asns) => asns.len(),
                AsPathSegment::Set(_) => 1,
            })
            .sum()
    }

    /// Whether the AS occurs anywhere in the path (RFC 4271 section 9.1.2, loop detection).
    pub fn contains(&self, asn: Asn) -> bool {
        self.segments.iter().any(|segment| match segment {
            AsPathSegment::Sequence(asns) | AsPathSegment::Set(asns) => asns.contains(&asn),
        })
    }

    /// The AS that the path was received from, if the path starts with a sequence.
    pub fn neighbouring_asn(&self) -> Option<Asn> {
        match self.segments.first()? {
            AsPathSegment::Sequence(asns) => asns.first().copied(),
            AsPathSegment::Set(_) => None,
        }
    }
}

impl Community {
    /// RFC 1997 and RFC 8326 by name; the spelling of a name does not depend on its case.
    const NAMES: [(&str, Self); 3] = [
        ("GRACEFUL_SHUTDOWN", Self::GRACEFUL_SHUTDOWN),
        ("NO_EXPORT", Self::NO_EXPORT),
        ("NO_ADVERTISE", Self::NO_ADVERTISE),
    ];
}

/// The text is no community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseCommunityError {
    /// Allowed: two numbers, or one of the names.
    #[error(
        "a community is two numbers of 0 to 65535 with a colon between them, such as 65000:1, \
         or GRACEFUL_SHUTDOWN, NO_EXPORT or NO_ADVERTISE"
    )]
    Community,
    /// Allowed: three numbers.
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
    /// Numbers with spaces between them, a set in braces: `65001 65002 {65003 65004}`.
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
    fn communities_are_read_as_they_are_shown() {
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
    fn what_is_no_community_is_refused() {
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
    fn a_path_is_shown_with_its_sets_in_braces() {
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
