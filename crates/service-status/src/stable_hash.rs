//! Hash that is equal in all versions and on all machines.

use std::fmt;

/// A 64-bit FNV-1a hash. It is part of the names of Events: load balancers of different versions,
/// built by different compilers, must compute the same name for the same finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StableHash(u64);

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// This byte never occurs in UTF-8 text, so it marks the end of each hashed text.
const SEPARATOR: u8 = 0xff;

impl StableHash {
    /// Returns the hash of a list of texts. The list `ab`, `c` and the list `a`, `bc` have
    /// different hashes, although their letters are equal.
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

impl fmt::Display for StableHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_known_text_does_not_change() {
        assert_eq!(StableHash::of([]).to_string(), "cbf29ce484222325");
        assert_eq!(
            StableHash::of(["uid-1", "BadAnnotation"]).to_string(),
            "53d58e07df8ec023"
        );
    }

    #[test]
    fn the_boundaries_between_texts_change_the_hash() {
        assert_ne!(StableHash::of(["ab", "c"]), StableHash::of(["a", "bc"]));
    }
}
