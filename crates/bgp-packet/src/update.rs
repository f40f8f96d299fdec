//! Decoding and encoding of UPDATE messages (RFC 4271 section 4.3, RFC 4760).
//!
//! ```text
//! +-----------------------------+
//! | Withdrawn Routes Length (2) |
//! +-----------------------------+
//! | Withdrawn Routes            |
//! +-----------------------------+
//! | Path Attribute Length (2)   |
//! +-----------------------------+
//! | Path Attributes             |
//! +-----------------------------+
//! | NLRI                        |  to the end of the message
//! +-----------------------------+
//! ```

mod attribute;
mod attribute_list;
mod decode;
mod encode;
mod four_octets;
mod multiprotocol;
mod parsed_attributes;
mod pass_through;

pub(crate) use decode::decode;
pub(crate) use encode::encode;

/// Reports whether the decoder checks the values of attributes with `type_code`.
pub(crate) fn is_checked(type_code: u8) -> bool {
    attribute::AttributeType::from_code(type_code).is_some()
}
