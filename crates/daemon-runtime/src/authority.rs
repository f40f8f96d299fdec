//! A filter for the authority of HTTP/2 requests on unix sockets.

/// Length of the connection preface in octets (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

/// Length of a frame header in octets: length (3), type, flags, stream (4).
const FRAME_HEADER: usize = 9;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const AUTHORITY: &[u8] = b":authority";

/// Index of the name `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: u8 = 1;

/// Longest string of a header block that the filter parses, in octets. From a longer string to the
/// end of the header block the filter changes nothing, and the server refuses the request.
const LONGEST_STRING: u32 = 1 << 20;

/// A filter that replaces `%` and `/` with `-` in each `:authority` that a client sends.
///
/// On a unix socket, clients send the path of the socket as the authority. gRPC C-core (C++,
/// Python) and Swift send it percent-encoded, Java sends it unchanged. Neither form is a valid
/// host, so the crate `h2` would refuse the request. The services ignore the authority, so they do
/// not need the original value.
///
/// The filter does not change the length of a string, so the HPACK tables (RFC 7541) of client and
/// server remain equal. The filter does not change Huffman-coded strings, because none of these
/// clients sends the authority Huffman-coded.
#[derive(Debug)]
pub(crate) struct AuthorityFilter {
    frame: FramePosition,
    field: FieldPosition,
}

/// The position in the sequence of frames.
#[derive(Debug)]
enum FramePosition {
    Preface {
        left: u32,
    },
    Header {
        bytes: [u8; FRAME_HEADER],
        read: usize,
    },
    /// The next octet is the length of the padding.
    PadLength {
        length: u32,
        flags: u8,
    },
    /// The next `left` octets are outside of a header block. `block` and `padding` are the lengths
    /// of the header block and the padding that follow these octets.
    Skip {
        left: u32,
        block: u32,
        padding: u32,
        flags: u8,
    },
    Block {
        left: u32,
        padding: u32,
        flags: u8,
    },
}

/// The position in a header block (RFC 7541 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldPosition {
    Start,
    /// The next octet belongs to an integer whose value the filter does not need.
    Integer(AfterIndex),
    Length {
        string: StringKind,
        /// The part of the length that is already read, and the number of its bits. `None` before
        /// the first octet of the length.
        read: Option<(u32, u32)>,
        is_huffman: bool,
    },
    Octets {
        string: StringKind,
        left: u32,
        /// The number of octets that match the name `:authority`. `None` after a mismatch.
        matched: Option<usize>,
        is_huffman: bool,
    },
    /// The header block is malformed or has a string longer than [`LONGEST_STRING`]. The filter
    /// changes nothing in the rest of the header block.
    Malformed,
}

/// The position after the index of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterIndex {
    Start,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringKind {
    Name,
    Value { is_authority: bool },
}

impl AuthorityFilter {
    pub(crate) fn new() -> Self {
        Self {
            frame: FramePosition::Preface { left: PREFACE },
            field: FieldPosition::Start,
        }
    }

    /// Filters the next received octets in place.
    pub(crate) fn filter(&mut self, mut octets: &mut [u8]) {
        while !octets.is_empty() {
            let passed = self.skip(octets.len());
            if passed > 0 {
                octets = octets.split_at_mut(passed).1;
            } else if let Some((octet, rest)) = octets.split_first_mut() {
                self.take(octet);
                octets = rest;
            } else {
                return;
            }
        }
    }

    /// Skips at most `most` octets that are not in a header block. Returns the number of skipped
    /// octets.
    fn skip(&mut self, most: usize) -> usize {
        let left = match &mut self.frame {
            FramePosition::Preface { left } | FramePosition::Skip { left, .. } => left,
            FramePosition::Header { .. }
            | FramePosition::PadLength { .. }
            | FramePosition::Block { .. } => return 0,
        };
        let passed = u32::try_from(most).unwrap_or(u32::MAX).min(*left);
        *left -= passed;
        if *left == 0 {
            self.frame = match self.frame {
                FramePosition::Skip {
                    block,
                    padding,
                    flags,
                    ..
                } if block > 0 => FramePosition::Block {
                    left: block,
                    padding,
                    flags,
                },
                FramePosition::Preface { .. }
                | FramePosition::Header { .. }
                | FramePosition::PadLength { .. }
                | FramePosition::Skip { .. }
                | FramePosition::Block { .. } => FramePosition::next(),
            };
        }
        usize::try_from(passed).unwrap_or(most)
    }

    fn take(&mut self, octet: &mut u8) {
        match &mut self.frame {
            FramePosition::Preface { .. } | FramePosition::Skip { .. } => {}
            FramePosition::Header { bytes, read } => {
                bytes[*read] = *octet;
                *read += 1;
                if *read == FRAME_HEADER {
                    let bytes = *bytes;
                    self.begin_frame(&bytes);
                }
            }
            FramePosition::PadLength { length, flags } => {
                let (length, flags) = (*length, *flags);
                self.begin_block(length, u32::from(*octet), flags);
            }
            FramePosition::Block {
                left,
                padding,
                flags,
            } => {
                self.field = self.field.next(octet);
                *left -= 1;
                if *left == 0 {
                    let (padding, flags) = (*padding, *flags);
                    self.end_block(padding, flags);
                }
            }
        }
    }

    fn begin_frame(&mut self, bytes: &[u8; FRAME_HEADER]) {
        let [high, middle, low, kind, flags, ..] = *bytes;
        let length = u32::from_be_bytes([0, high, middle, low]);
        match kind {
            HEADERS if flags & PADDED != 0 && length > 0 => {
                self.frame = FramePosition::PadLength {
                    length: length - 1,
                    flags,
                };
            }
            HEADERS => self.begin_block(length, 0, flags),
            CONTINUATION => self.begin_block(length, 0, flags & END_HEADERS),
            _ => self.frame = FramePosition::skip(length),
        }
    }

    /// Begins a header block in a payload of `length` octets. `length` excludes the octet with the
    /// length of the padding.
    fn begin_block(&mut self, length: u32, padding: u32, flags: u8) {
        let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
        let Some(block) = length.checked_sub(padding + priority) else {
            // The server refuses a frame with more padding than payload.
            self.frame = FramePosition::skip(length);
            return;
        };
        self.frame = match (priority, block) {
            (_, 0) => {
                self.end_block(priority + padding, flags);
                return;
            }
            (0, _) => FramePosition::Block {
                left: block,
                padding,
                flags,
            },
            _ => FramePosition::Skip {
                left: priority,
                block,
                padding,
                flags,
            },
        };
    }

    fn end_block(&mut self, padding: u32, flags: u8) {
        if flags & END_HEADERS != 0 {
            self.field = FieldPosition::Start;
        }
        self.frame = FramePosition::skip(padding);
    }
}

impl FramePosition {
    fn next() -> Self {
        Self::Header {
            bytes: [0; FRAME_HEADER],
            read: 0,
        }
    }

    fn skip(left: u32) -> Self {
        if left == 0 {
            return Self::next();
        }
        Self::Skip {
            left,
            block: 0,
            padding: 0,
            flags: 0,
        }
    }
}

impl FieldPosition {
    /// Returns the position after `octet`. Replaces `octet` if it is `%` or `/` in an authority.
    fn next(self, octet: &mut u8) -> Self {
        match self {
            Self::Start => Self::begin(*octet),
            Self::Integer(then) if *octet & 0x80 != 0 => Self::Integer(then),
            Self::Integer(AfterIndex::Start) => Self::Start,
            Self::Integer(AfterIndex::Value) => Self::value(false),
            Self::Length {
                string,
                read,
                is_huffman,
            } => {
                let (is_huffman, length, bits, is_last) = match read {
                    None => {
                        let length = u32::from(*octet & 0x7f);
                        (*octet & 0x80 != 0, length, 0, length < 0x7f)
                    }
                    Some((length, bits)) => {
                        let more = u32::from(*octet & 0x7f) << bits;
                        (is_huffman, length + more, bits + 7, *octet & 0x80 == 0)
                    }
                };
                if length > LONGEST_STRING || bits > 21 {
                    Self::Malformed
                } else if is_last {
                    Self::octets(string, length, is_huffman)
                } else {
                    Self::Length {
                        string,
                        read: Some((length, bits)),
                        is_huffman,
                    }
                }
            }
            Self::Octets {
                string,
                left,
                matched,
                is_huffman,
            } => {
                if string == (StringKind::Value { is_authority: true })
                    && !is_huffman
                    && matches!(*octet, b'%' | b'/')
                {
                    *octet = b'-';
                }
                let matched = matched.filter(|at| AUTHORITY.get(*at) == Some(&*octet));
                let matched = matched.map(|at| at + 1);
                if left > 1 {
                    Self::Octets {
                        string,
                        left: left - 1,
                        matched,
                        is_huffman,
                    }
                } else if string == StringKind::Name {
                    Self::value(!is_huffman && matched == Some(AUTHORITY.len()))
                } else {
                    Self::Start
                }
            }
            Self::Malformed => Self::Malformed,
        }
    }

    /// Returns the position after the first octet of a field. This octet contains the kind of the
    /// field and the start of its index.
    fn begin(octet: u8) -> Self {
        let (prefix, then) = match octet {
            // Indexed field (RFC 7541 section 6.1).
            0x80.. => (0x7f, AfterIndex::Start),
            // Literal field with incremental indexing (section 6.2.1).
            0x40.. => (0x3f, AfterIndex::Value),
            // Dynamic table size update (section 6.3).
            0x20.. => (0x1f, AfterIndex::Start),
            // Literal field without indexing (sections 6.2.2 and 6.2.3).
            _ => (0x0f, AfterIndex::Value),
        };
        let index = octet & prefix;
        match then {
            _ if index == prefix => Self::Integer(then),
            AfterIndex::Start => Self::Start,
            AfterIndex::Value if index == 0 => Self::Length {
                string: StringKind::Name,
                read: None,
                is_huffman: false,
            },
            AfterIndex::Value => Self::value(index == AUTHORITY_INDEX),
        }
    }

    fn value(is_authority: bool) -> Self {
        Self::Length {
            string: StringKind::Value { is_authority },
            read: None,
            is_huffman: false,
        }
    }

    fn octets(string: StringKind, length: u32, is_huffman: bool) -> Self {
        match (string, length) {
            (StringKind::Name, 0) => Self::value(false),
            (StringKind::Value { .. }, 0) => Self::Start,
            _ => Self::Octets {
                string,
                left: length,
                matched: Some(0),
                is_huffman,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let header = [0, 0, length, kind, flags, 0, 0, 0, 1];
        [&header[..], payload].concat()
    }

    /// Returns a literal field. `name` is an index with the bits of the field's kind, or the octet
    /// 0x40, 0x10 or 0x00 and a literal name.
    fn literal(name: &[u8], value: &str) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [name, &[length], value.as_bytes()].concat()
    }

    fn new_name(form: u8, name: &str) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        [&[form, length], name.as_bytes()].concat()
    }

    /// Checks that the filter turns `frames` into `expected`, for several sizes of the pieces in
    /// which the filter receives the octets.
    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: &[Vec<u8>]) {
        let sent = [&[PREFACE.to_vec()], frames].concat().concat();
        let expected = [&[PREFACE.to_vec()], expected].concat().concat();
        for size in [1, 2, 3, 7, 16, sent.len()] {
            let mut filter = AuthorityFilter::new();
            let mut octets = sent.clone();
            octets
                .chunks_mut(size)
                .for_each(|chunk| filter.filter(chunk));
            let text = String::from_utf8_lossy(&octets);
            assert_eq!(octets, expected, "in pieces of {size} octets: {text}");
        }
    }

    const ENCODED: &str = "run%2Fportlb%2Fx.sock";
    const PLAIN: &str = "run-2Fportlb-2Fx.sock";

    fn request(authority: &[u8], value: &str) -> Vec<u8> {
        [
            &[0x83, 0x86, 0x3f, 0xe1, 0x1f][..],
            &literal(&new_name(0x40, ":path"), "/a%2Fb/C"),
            &literal(authority, value),
            &literal(&new_name(0x00, "te"), "trailers"),
            &literal(&[0x7f, 0x05], "a%b"),
        ]
        .concat()
    }

    #[test]
    fn the_authority_is_filtered_in_every_form_of_its_field() {
        let names = [
            vec![0x41],
            vec![0x01],
            vec![0x11],
            new_name(0x40, ":authority"),
            new_name(0x00, ":authority"),
            new_name(0x10, ":authority"),
        ];
        for name in names {
            let sent = frame(HEADERS, END_HEADERS, &request(&name, ENCODED));
            let expected = frame(HEADERS, END_HEADERS, &request(&name, PLAIN));
            check(&[sent.clone(), sent], &[expected.clone(), expected]);
        }
        let sent = frame(HEADERS, END_HEADERS, &request(&[0x41], "/run/x.sock"));
        let expected = frame(HEADERS, END_HEADERS, &request(&[0x41], "-run-x.sock"));
        check(&[sent], &[expected]);
    }

    #[test]
    fn fields_other_than_the_authority_and_frames_without_fields_pass_unchanged() {
        let others = [
            frame(0x4, 0, b"\x00\x03\x00\x00%%"),
            frame(0x0, 0, b"\x41\x03a%b"),
            frame(
                HEADERS,
                END_HEADERS,
                &literal(&new_name(0x40, ":authorit"), ENCODED),
            ),
            frame(
                HEADERS,
                END_HEADERS,
                &literal(&new_name(0x40, ":authorityy"), ENCODED),
            ),
            frame(HEADERS, END_HEADERS, &literal(&[0x44], "/a%2Fb")),
            frame(HEADERS, END_HEADERS, b""),
            frame(0x6, 0, b"%%%%%%%%"),
        ];
        check(&others, &others);
    }

    #[test]
    fn a_huffman_coded_authority_passes_unchanged() {
        let sent = [frame(HEADERS, END_HEADERS, b"\x41\x83%/%\x83")];
        check(&sent, &sent);
    }

    #[test]
    fn the_authority_is_filtered_in_frames_with_padding_priority_or_continuation() {
        let frames = |value: &str| {
            let block = request(&[0x41], value);
            let padded = [&[3][..], &[0x41; 5], &block, b"%%%"].concat();
            let (first, second) = block.split_at(block.len() / 2);
            [
                frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded),
                frame(HEADERS, 0, first),
                frame(CONTINUATION, END_HEADERS, second),
                frame(HEADERS, END_HEADERS, &block),
            ]
        };
        check(&frames(ENCODED), &frames(PLAIN));
    }

    #[test]
    fn an_authority_of_more_than_127_octets_is_filtered() {
        let long = |value: &str| {
            let value = format!("{value}{}", "x".repeat(200 - value.len()));
            let block = [&[0x41, 0x7f, 200 - 127][..], value.as_bytes(), &[0x83]].concat();
            frame(HEADERS, END_HEADERS, &block)
        };
        check(&[long(ENCODED)], &[long(PLAIN)]);
    }

    #[test]
    fn malformed_octets_do_not_make_the_filter_panic() {
        let mut state = 1_u32;
        let mut octets: Vec<u8> = PREFACE.to_vec();
        for _ in 0..100_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            octets.push((state >> 24) as u8 & if state & 0x100 == 0 { 0x0f } else { 0xff });
        }
        AuthorityFilter::new().filter(&mut octets);
    }
}
