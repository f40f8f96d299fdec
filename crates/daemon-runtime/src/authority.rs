//! Makes the authority of requests on a unix socket one that the HTTP/2 server accepts.

/// Octets of the connection preface (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

/// Octets of a frame's header: length (3), type, flags, stream (4).
const FRAME_HEADER: usize = 9;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const AUTHORITY: &[u8] = b":authority";

/// Index of the name `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: u8 = 1;

/// Longest string that is followed; a client that sends a longer one is refused by the server.
const LONGEST_STRING: u32 = 1 << 20;

/// Replaces `%` and `/` by `-` in each `:authority` that a client sends.
///
/// Clients send the path of the socket as the authority: gRPC C-core (C++, Python) and Swift
/// percent-encoded, Java as it is. Neither is a host, so the `h2` crate refuses the request before
/// any service sees it. No service reads the authority.
///
/// The replacement changes no length, so that the tables of the header compression (HPACK, RFC 7541)
/// are equal on both sides. A string in Huffman code stays as it is: none of these clients sends the
/// authority so.
#[derive(Debug)]
pub(crate) struct AuthorityFilter {
    frame: Frame,
    field: Field,
}

/// The place in the sequence of frames.
#[derive(Debug)]
enum Frame {
    Preface {
        left: u32,
    },
    Header {
        bytes: [u8; FRAME_HEADER],
        read: usize,
    },
    /// The number of octets of padding behind the header block.
    PadLength {
        length: u32,
        flags: u8,
    },
    /// Octets that are no part of a header block, and the block and padding that follow them.
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

/// The place in a header block (RFC 7541 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Start,
    /// The further octets of an integer that does not matter.
    Integer(Then),
    Length {
        string: Text,
        /// The value so far, and its next bit, once the first octet is read.
        read: Option<(u32, u32)>,
        is_huffman: bool,
    },
    Octets {
        string: Text,
        left: u32,
        /// The octets so far are those of the name `:authority`.
        matched: Option<usize>,
        is_huffman: bool,
    },
    /// The block is malformed; the server ends the connection.
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Start,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Name,
    Value { is_authority: bool },
}

impl AuthorityFilter {
    pub(crate) fn new() -> Self {
        Self {
            frame: Frame::Preface { left: PREFACE },
            field: Field::Start,
        }
    }

    /// Filters the next octets that the client sent.
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

    /// Passes octets that do not matter, at most so many. Returns how many it passed.
    fn skip(&mut self, most: usize) -> usize {
        let left = match &mut self.frame {
            Frame::Preface { left } | Frame::Skip { left, .. } => left,
            Frame::Header { .. } | Frame::PadLength { .. } | Frame::Block { .. } => return 0,
        };
        let passed = u32::try_from(most).unwrap_or(u32::MAX).min(*left);
        *left -= passed;
        if *left == 0 {
            self.frame = match self.frame {
                Frame::Skip {
                    block,
                    padding,
                    flags,
                    ..
                } if block > 0 => Frame::Block {
                    left: block,
                    padding,
                    flags,
                },
                Frame::Preface { .. }
                | Frame::Header { .. }
                | Frame::PadLength { .. }
                | Frame::Skip { .. }
                | Frame::Block { .. } => Frame::next(),
            };
        }
        usize::try_from(passed).unwrap_or(most)
    }

    fn take(&mut self, octet: &mut u8) {
        match &mut self.frame {
            Frame::Preface { .. } | Frame::Skip { .. } => {}
            Frame::Header { bytes, read } => {
                bytes[*read] = *octet;
                *read += 1;
                if *read == FRAME_HEADER {
                    let bytes = *bytes;
                    self.begin_frame(&bytes);
                }
            }
            Frame::PadLength { length, flags } => {
                let (length, flags) = (*length, *flags);
                self.begin_block(length, u32::from(*octet), flags);
            }
            Frame::Block {
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
                self.frame = Frame::PadLength {
                    length: length - 1,
                    flags,
                };
            }
            HEADERS => self.begin_block(length, 0, flags),
            CONTINUATION => self.begin_block(length, 0, flags & END_HEADERS),
            _ => self.frame = Frame::skip(length),
        }
    }

    /// `length` is that of the payload without the octet of the pad length.
    fn begin_block(&mut self, length: u32, padding: u32, flags: u8) {
        let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
        let Some(block) = length.checked_sub(padding + priority) else {
            // The server refuses such a frame.
            self.frame = Frame::skip(length);
            return;
        };
        self.frame = match (priority, block) {
            (_, 0) => {
                self.end_block(priority + padding, flags);
                return;
            }
            (0, _) => Frame::Block {
                left: block,
                padding,
                flags,
            },
            _ => Frame::Skip {
                left: priority,
                block,
                padding,
                flags,
            },
        };
    }

    fn end_block(&mut self, padding: u32, flags: u8) {
        if flags & END_HEADERS != 0 {
            self.field = Field::Start;
        }
        self.frame = Frame::skip(padding);
    }
}

impl Frame {
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

impl Field {
    /// Returns the place behind this octet, which it changes where it must.
    fn next(self, octet: &mut u8) -> Self {
        match self {
            Self::Start => Self::begin(*octet),
            Self::Integer(then) if *octet & 0x80 != 0 => Self::Integer(then),
            Self::Integer(Then::Start) => Self::Start,
            Self::Integer(Then::Value) => Self::value(false),
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
                if string == (Text::Value { is_authority: true })
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
                } else if string == Text::Name {
                    Self::value(!is_huffman && matched == Some(AUTHORITY.len()))
                } else {
                    Self::Start
                }
            }
            Self::Malformed => Self::Malformed,
        }
    }

    /// The first octet of a field says its kind and begins its index.
    fn begin(octet: u8) -> Self {
        let (prefix, then) = match octet {
            // Indexed field.
            0x80.. => (0x7f, Then::Start),
            // Literal field that is added to the dynamic table.
            0x40.. => (0x3f, Then::Value),
            // New size of the dynamic table.
            0x20.. => (0x1f, Then::Start),
            // Literal field that is not added.
            _ => (0x0f, Then::Value),
        };
        let index = octet & prefix;
        match then {
            _ if index == prefix => Self::Integer(then),
            Then::Start => Self::Start,
            Then::Value if index == 0 => Self::Length {
                string: Text::Name,
                read: None,
                is_huffman: false,
            },
            Then::Value => Self::value(index == AUTHORITY_INDEX),
        }
    }

    fn value(is_authority: bool) -> Self {
        Self::Length {
            string: Text::Value { is_authority },
            read: None,
            is_huffman: false,
        }
    }

    fn octets(string: Text, length: u32, is_huffman: bool) -> Self {
        match (string, length) {
            (Text::Name, 0) => Self::value(false),
            (Text::Value { .. }, 0) => Self::Start,
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

    /// `name` is an index with the bits of its form, or an octet 0x40, 0x10 or 0x00 and a literal.
    fn literal(name: &[u8], value: &str) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [name, &[length], value.as_bytes()].concat()
    }

    fn new_name(form: u8, name: &str) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        [&[form, length], name.as_bytes()].concat()
    }

    /// However the octets are cut into pieces, the result is the same.
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
            assert_eq!(octets, expected, "in pieces of {size}: {text}");
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
    fn the_authority_is_a_host_in_every_form_of_its_field() {
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
    fn other_fields_and_frames_pass_unchanged() {
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
    fn a_string_in_huffman_code_passes_unchanged() {
        let sent = [frame(HEADERS, END_HEADERS, b"\x41\x83%/%\x83")];
        check(&sent, &sent);
    }

    #[test]
    fn padding_priority_and_continuation_are_known() {
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
    fn a_long_string_is_followed() {
        let long = |value: &str| {
            let value = format!("{value}{}", "x".repeat(200 - value.len()));
            let block = [&[0x41, 0x7f, 200 - 127][..], value.as_bytes(), &[0x83]].concat();
            frame(HEADERS, END_HEADERS, &block)
        };
        check(&[long(ENCODED)], &[long(PLAIN)]);
    }

    #[test]
    fn malformed_octets_never_panic() {
        let mut state = 1_u32;
        let mut octets: Vec<u8> = PREFACE.to_vec();
        for _ in 0..100_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            octets.push((state >> 24) as u8 & if state & 0x100 == 0 { 0x0f } else { 0xff });
        }
        AuthorityFilter::new().filter(&mut octets);
    }
}
