//! Decoding, encoding and merging of AS_PATH (RFC 4271) and AS4_PATH (RFC 6793).
//!
//! ```text
//! +-----------+-------------+---------------------------------+
//! | Type (1)  | Count (1)   | AS numbers (2 or 4 octets each) |  one or more segments
//! +-----------+-------------+---------------------------------+
//! ```

use bytes::{BufMut, BytesMut};

use crate::{
    attributes::{AsPath, AsPathSegment},
    identifiers::Asn,
    problem::AttributeProblem,
    reader::OctetReader,
};

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
const CONFEDERATION_SEQUENCE: u8 = 3;
const CONFEDERATION_SET: u8 = 4;

/// The number of octets that an AS number has on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsnWidth {
    Two,
    Four,
}

impl AsnWidth {
    pub(crate) fn of(four_octet_asn: bool) -> Self {
        if four_octet_asn {
            Self::Four
        } else {
            Self::Two
        }
    }

    fn octets(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Appends an AS number. With two octets, AS_TRANS replaces a number above 65535.
    pub(crate) fn put(self, asn: Asn, buffer: &mut BytesMut) {
        match self {
            Self::Two => buffer.put_u16(asn.two_octets()),
            Self::Four => buffer.put_u32(asn.0),
        }
    }

    fn read(self, octets: &[u8]) -> Asn {
        Asn(octets
            .iter()
            .fold(0, |number, octet| number << 8 | u32::from(*octet)))
    }
}

/// The treatment of confederation segments (RFC 5065). portlb does not support confederations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConfederationSegments {
    /// For AS_PATH: a confederation segment makes the attribute malformed (RFC 5065 section 5).
    Malformed,
    /// For AS4_PATH: the decoder skips confederation segments (RFC 6793 section 6).
    Dropped,
}

/// Decodes the value of AS_PATH or AS4_PATH. Refuses malformed segments (RFC 7606 section 7.2) and
/// AS 0 (RFC 7607 section 2).
pub(crate) fn decode(
    value: &[u8],
    width: AsnWidth,
    confederation: ConfederationSegments,
) -> Result<AsPath, AttributeProblem> {
    let mut segments = Vec::new();
    let mut reader = OctetReader(value);
    while !reader.is_empty() {
        let [segment_type, count] = reader.array().ok_or(AttributeProblem::AsPathOverrun)?;
        if !(SET..=CONFEDERATION_SET).contains(&segment_type) {
            return Err(AttributeProblem::AsPathSegmentType);
        }
        if count == 0 {
            return Err(AttributeProblem::AsPathSegmentEmpty);
        }
        let numbers = reader
            .take(usize::from(count) * width.octets())
            .ok_or(AttributeProblem::AsPathOverrun)?;
        let asns: Vec<Asn> = numbers
            .chunks_exact(width.octets())
            .map(|octets| width.read(octets))
            .collect();
        if asns.contains(&Asn(0)) {
            return Err(AttributeProblem::AsPathZero);
        }
        match (segment_type, confederation) {
            (SET, _) => segments.push(AsPathSegment::Set(asns)),
            (SEQUENCE, _) => segments.push(AsPathSegment::Sequence(asns)),
            (CONFEDERATION_SEQUENCE | CONFEDERATION_SET, ConfederationSegments::Dropped) => {}
            _ => return Err(AttributeProblem::AsPathSegmentType),
        }
    }
    Ok(AsPath { segments })
}

/// Appends the value of AS_PATH or AS4_PATH. Splits a segment of more than 255 AS numbers into
/// several segments, and omits empty segments.
pub(crate) fn encode(path: &AsPath, width: AsnWidth, buffer: &mut BytesMut) {
    for segment in &path.segments {
        let (segment_type, asns) = match segment {
            AsPathSegment::Set(asns) => (SET, asns),
            AsPathSegment::Sequence(asns) => (SEQUENCE, asns),
        };
        for part in asns.chunks(usize::from(u8::MAX)) {
            buffer.put_u8(segment_type);
            buffer.put_u8(u8::try_from(part.len()).expect("a segment has at most 255 AS numbers"));
            for asn in part {
                width.put(*asn, buffer);
            }
        }
    }
}

/// Reports whether the path has an AS number above 65535. An UPDATE to a two-octet peer needs
/// AS4_PATH for such a path.
pub(crate) fn needs_four_octets(path: &AsPath) -> bool {
    path.segments.iter().any(|segment| match segment {
        AsPathSegment::Sequence(asns) | AsPathSegment::Set(asns) => {
            asns.iter().any(|asn| asn.0 > u32::from(u16::MAX))
        }
    })
}

/// Replaces the end of the AS_PATH of a two-octet peer by the AS4_PATH of this peer (RFC 6793
/// section 4.2.3). Ignores an AS4_PATH that is longer than the AS_PATH. In both
/// lengths, a set counts as one AS.
pub(crate) fn merge(two_octets: AsPath, four_octets: AsPath) -> AsPath {
    let Some(mut leading) = two_octets
        .decision_length()
        .checked_sub(four_octets.decision_length())
    else {
        return two_octets;
    };
    let mut segments = Vec::with_capacity(four_octets.segments.len() + 1);
    for segment in two_octets.segments {
        if leading == 0 {
            break;
        }
        match segment {
            AsPathSegment::Sequence(mut asns) => {
                asns.truncate(leading);
                leading -= asns.len();
                segments.push(AsPathSegment::Sequence(asns));
            }
            AsPathSegment::Set(asns) => {
                leading -= 1;
                segments.push(AsPathSegment::Set(asns));
            }
        }
    }
    let mut rest = four_octets.segments.into_iter().peekable();
    if let (Some(AsPathSegment::Sequence(front)), Some(AsPathSegment::Sequence(next))) =
        (segments.last_mut(), rest.peek())
        && front.len() + next.len() <= usize::from(u8::MAX)
    {
        front.extend_from_slice(next);
        rest.next();
    }
    segments.extend(rest);
    AsPath { segments }
}
