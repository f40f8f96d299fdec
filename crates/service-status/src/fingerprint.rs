//! A hash that is the same in every version and on every machine.

use std::fmt;

/// FNV-1a of 64 bits. Names of Events hold it: load balancers of different versions, built by
/// different compilers, must compute the same name for the same finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// Octet that no text in UTF-8 holds.
const SEPARATOR: u8 = 0xff;

impl Fingerprint {
    /// Hashes texts, each with its end.
    pub(crate) fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = OFFSET_BASIS;
        for text in texts {
            for octet in text.bytes().chain([SEPARATOR]) {
                hash = (hash ^ u64::from(octet)).wrapping_mul(PRIME);
            }
        }
        Self(hash)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_has_the_value_that_is_written_down() {
        assert_eq!(Fingerprint::of([]).to_string(), "cbf29ce484222325");
        assert_eq!(
            Fingerprint::of(["uid-1", "BadAnnotation"]).to_string(),
            "53d58e07df8ec023"
        );
    }

    #[test]
    fn the_ends_of_texts_count() {
        assert_ne!(Fingerprint::of(["ab", "c"]), Fingerprint::of(["a", "bc"]));
    }
}
