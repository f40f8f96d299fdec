//! Encoding of attribute values.

use netlink_packet_core::{DecodeError, Emitable, Nla, NlaBuffer, NlasIterator, Parseable};

/// Encodes values of type `T` as attribute payloads, and decodes attribute payloads.
pub(crate) trait Codec<T> {
    fn len(value: &T) -> usize;
    /// Writes the value into `buffer`, whose length must be exactly `Codec::len(value)`.
    fn emit(value: &T, buffer: &mut [u8]);
    fn parse(octets: &[u8]) -> Result<T, DecodeError>;
}

/// Codec of integers in the byte order of the host.
pub(crate) struct HostOrder;
/// Codec of integers in network byte order.
pub(crate) struct NetworkOrder;
/// Codec of strings that end with a NUL byte.
pub(crate) struct Text;
/// Codec of octets that are copied unchanged.
pub(crate) struct Octets;
/// Codec of a list of attributes inside of an attribute.
pub(crate) struct Nested;

macro_rules! integers {
    ($codec:ty, $to:ident, $from:ident, $($integer:ty),+) => {$(
        impl Codec<$integer> for $codec {
            fn len(_: &$integer) -> usize {
                size_of::<$integer>()
            }
            fn emit(value: &$integer, buffer: &mut [u8]) {
                buffer.copy_from_slice(&value.$to());
            }
            fn parse(octets: &[u8]) -> Result<$integer, DecodeError> {
                octets
                    .try_into()
                    .map(<$integer>::$from)
                    .map_err(|_| DecodeError::invalid_number(size_of::<$integer>(), octets.len()))
            }
        }
    )+};
}
integers!(HostOrder, to_ne_bytes, from_ne_bytes, u8, u16, u32, u64);
integers!(NetworkOrder, to_be_bytes, from_be_bytes, u16);

impl Codec<String> for Text {
    fn len(value: &String) -> usize {
        value.len() + 1
    }

    fn emit(value: &String, buffer: &mut [u8]) {
        buffer[..value.len()].copy_from_slice(value.as_bytes());
        buffer[value.len()] = 0;
    }

    fn parse(octets: &[u8]) -> Result<String, DecodeError> {
        let text = octets.split(|octet| *octet == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(DecodeError::from)
    }
}

impl Codec<[u8; 16]> for Octets {
    fn len(_: &[u8; 16]) -> usize {
        16
    }

    fn emit(value: &[u8; 16], buffer: &mut [u8]) {
        buffer.copy_from_slice(value);
    }

    fn parse(octets: &[u8]) -> Result<[u8; 16], DecodeError> {
        octets
            .try_into()
            .map_err(|_| DecodeError::invalid_ip_address(octets.len()))
    }
}

impl<A> Codec<Vec<A>> for Nested
where
    A: Nla + for<'a> Parseable<NlaBuffer<&'a [u8]>>,
{
    fn len(value: &Vec<A>) -> usize {
        value.as_slice().buffer_len()
    }

    fn emit(value: &Vec<A>, buffer: &mut [u8]) {
        value.as_slice().emit(buffer);
    }

    fn parse(octets: &[u8]) -> Result<Vec<A>, DecodeError> {
        NlasIterator::new(octets)
            .map(|attribute| A::parse(&attribute?))
            .collect()
    }
}

/// Declares an enum with one variant for each attribute: attribute number in the kernel, variant
/// name, value type and codec.
macro_rules! attributes {
    (
        $(#[$outer:meta])*
        $name:ident {
            $($(#[$inner:meta])* $number:literal $variant:ident($value:ty) $codec:ty,)+
        }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$inner])* $variant($value),)+
            /// An attribute with a number that this crate does not implement.
            Other(netlink_packet_core::DefaultNla),
        }

        impl netlink_packet_core::Nla for $name {
            fn value_len(&self) -> usize {
                match self {
                    $(Self::$variant(value) => {
                        <$codec as $crate::attribute::Codec<$value>>::len(value)
                    })+
                    Self::Other(other) => other.value_len(),
                }
            }

            fn kind(&self) -> u16 {
                match self {
                    $(Self::$variant(_) => $number,)+
                    Self::Other(other) => other.kind(),
                }
            }

            fn emit_value(&self, buffer: &mut [u8]) {
                match self {
                    $(Self::$variant(value) => {
                        <$codec as $crate::attribute::Codec<$value>>::emit(value, buffer);
                    })+
                    Self::Other(other) => other.emit_value(buffer),
                }
            }
        }

        impl<'a> netlink_packet_core::Parseable<netlink_packet_core::NlaBuffer<&'a [u8]>>
            for $name
        {
            fn parse(
                buffer: &netlink_packet_core::NlaBuffer<&'a [u8]>,
            ) -> Result<Self, netlink_packet_core::DecodeError> {
                use netlink_packet_core::ErrorContext;
                Ok(match buffer.kind() {
                    $($number => Self::$variant(
                        <$codec as $crate::attribute::Codec<$value>>::parse(buffer.value())
                            .context(concat!(stringify!($name), "::", stringify!($variant)))?,
                    ),)+
                    _ => Self::Other(netlink_packet_core::DefaultNla::parse(buffer)?),
                })
            }
        }
    };
}
pub(crate) use attributes;
