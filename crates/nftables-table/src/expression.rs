//! Encoder of rule expressions (net/netfilter/nft_*.c).

use ipnet::IpNet;
use netlink_bindings::{
    nftables::{
        BitwiseOps, CmpOps, CtDirection, CtKeys, MetaKeys, PayloadBase, PushExprListAttrs,
        Registers, VerdictCode,
    },
    traits::Pusher,
    utils::{finalize_nested_header, push_header, push_nested_header},
};

use crate::{Expression, L4Protocol, encode::SET_NAME};

/// Numbers of netlink attributes (linux/netfilter/nf_tables.h).
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_SET_ID: u16 = 4;

/// Length of the ICMP header in octets. In an ICMP error the quoted packet follows this header (RFC
/// 792, RFC 4443 section 3).
const ICMP_HEADER: u32 = 8;

const REGISTER: u32 = Registers::Reg1 as u32;

/// An address field of an IP header.
#[derive(Clone, Copy)]
enum AddressField {
    Source,
    Destination,
}

/// Appends the kernel's encoding of `expression` to `list`. `set_id` identifies the set of an
/// expression that has a set.
pub(crate) fn encode_expression<P: Pusher>(
    list: PushExprListAttrs<P>,
    expression: &Expression,
    set_id: u32,
) -> PushExprListAttrs<P> {
    match expression {
        Expression::Destination(prefix) => destination(list, prefix),
        Expression::SourceIn(prefixes) => address_in(list, AddressField::Source, prefixes, set_id),
        Expression::DestinationIn(prefixes) => {
            address_in(list, AddressField::Destination, prefixes, set_id)
        }
        Expression::OriginalDestination(prefix) => original_destination(list, prefix),
        Expression::Protocol(protocol) => {
            let list = load_meta(list, MetaKeys::L4Proto);
            compare(list, CmpOps::Eq, &[protocol_number(*protocol)])
        }
        Expression::TcpFlags { mask, value } => {
            let list = load(list, PayloadBase::TransportHeader, 13, 1);
            compare(apply_mask(list, &[*mask]), CmpOps::Eq, &[*value])
        }
        Expression::DestinationPorts(first, last) => match_ports(
            load(list, PayloadBase::TransportHeader, 2, 2),
            *first,
            *last,
        ),
        Expression::OriginalDestinationPorts(first, last) => {
            match_ports(load_original(list, CtKeys::ProtoDst), *first, *last)
        }
        Expression::IcmpTypeAndCode(icmp_type, code) => {
            let list = load(list, PayloadBase::TransportHeader, 0, 2);
            compare(list, CmpOps::Eq, &[*icmp_type, *code])
        }
        Expression::QuotedDestinationIn(prefixes) => {
            let first = prefixes.first().expect("validate() rejects empty sets");
            let (offset, len) = address_at(first, AddressField::Destination);
            let list = load(
                list,
                PayloadBase::TransportHeader,
                ICMP_HEADER + offset,
                len,
            );
            lookup(list, set_id)
        }
        Expression::Counter => list
            .nested_elem()
            .nested_data_counter()
            .end_nested()
            .end_nested(),
        Expression::SetMark(mark) => list
            .nested_elem()
            .nested_data_immediate()
            .push_dreg(REGISTER)
            .nested_data()
            .push_value(&mark.to_ne_bytes())
            .end_nested()
            .end_nested()
            .end_nested()
            .nested_elem()
            .nested_data_meta()
            .push_key(MetaKeys::Mark as u32)
            .push_sreg(REGISTER)
            .end_nested()
            .end_nested(),
        Expression::NoTrack => list.nested_elem().push_name(c"notrack").end_nested(),
        Expression::Masquerade => list.nested_elem().push_name(c"masq").end_nested(),
        Expression::Drop => drop_packet(list),
    }
}

fn destination<P: Pusher>(list: PushExprListAttrs<P>, prefix: &IpNet) -> PushExprListAttrs<P> {
    let list = match_ip_version(list, prefix);
    if prefix.prefix_len() == 0 {
        return list;
    }
    match_prefix(
        load_address(list, AddressField::Destination, prefix),
        prefix,
    )
}

fn address_in<P: Pusher>(
    list: PushExprListAttrs<P>,
    field: AddressField,
    prefixes: &[IpNet],
    set_id: u32,
) -> PushExprListAttrs<P> {
    let first = prefixes.first().expect("validate() rejects empty sets");
    let list = match_ip_version(list, first);
    lookup(load_address(list, field, first), set_id)
}

/// Appends an expression that matches if the set contains the value of [`REGISTER`].
fn lookup<P: Pusher>(list: PushExprListAttrs<P>, set_id: u32) -> PushExprListAttrs<P> {
    // netlink-bindings 0.3.5 has wrong numbers for the attributes of a lookup, so this function
    // writes the attributes without the bindings.
    let mut element = list.nested_elem().push_name(c"lookup");
    let data = push_nested_header(element.as_vec_mut(), NFTA_EXPR_DATA);
    let name = SET_NAME.to_bytes_with_nul();
    let mut push = |attribute, value: &[u8]| {
        let bytes = element.as_vec_mut();
        push_header(bytes, attribute, value.len() as u16);
        bytes.extend(value);
    };
    push(NFTA_LOOKUP_SET, name);
    push(NFTA_LOOKUP_SREG, &REGISTER.to_be_bytes());
    push(NFTA_LOOKUP_SET_ID, &set_id.to_be_bytes());
    finalize_nested_header(element.as_vec_mut(), data);
    element.end_nested()
}

fn original_destination<P: Pusher>(
    list: PushExprListAttrs<P>,
    prefix: &IpNet,
) -> PushExprListAttrs<P> {
    // The key `DstIp` matches only IPv4 packets, and the key `DstIp6` only IPv6 packets. So no
    // comparison of the IP version is necessary.
    let key = match prefix {
        IpNet::V4(_) => CtKeys::DstIp,
        IpNet::V6(_) => CtKeys::DstIp6,
    };
    match_prefix(load_original(list, key), prefix)
}

/// Appends an expression that loads a field of the original direction from the connection-tracking
/// entry into [`REGISTER`].
fn load_original<P: Pusher>(list: PushExprListAttrs<P>, key: CtKeys) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_ct()
        .push_dreg(REGISTER)
        .push_key(key as u32)
        .push_direction(CtDirection::Original as u8)
        .end_nested()
        .end_nested()
}

/// Appends expressions that match if [`REGISTER`] holds a port from `first` to `last`.
fn match_ports<P: Pusher>(
    list: PushExprListAttrs<P>,
    first: u16,
    last: u16,
) -> PushExprListAttrs<P> {
    if first == last {
        return compare(list, CmpOps::Eq, &first.to_be_bytes());
    }
    let list = compare(list, CmpOps::Gte, &first.to_be_bytes());
    compare(list, CmpOps::Lte, &last.to_be_bytes())
}

/// Appends expressions that match the IP version of `prefix`. A table of the family `inet` sees
/// IPv4 and IPv6 packets, and the layout of the IP header depends on the version.
fn match_ip_version<P: Pusher>(list: PushExprListAttrs<P>, prefix: &IpNet) -> PushExprListAttrs<P> {
    // NFPROTO_IPV4 and NFPROTO_IPV6 (linux/netfilter.h).
    let version = match prefix {
        IpNet::V4(_) => 2,
        IpNet::V6(_) => 10,
    };
    compare(load_meta(list, MetaKeys::Nfproto), CmpOps::Eq, &[version])
}

fn load_address<P: Pusher>(
    list: PushExprListAttrs<P>,
    field: AddressField,
    prefix: &IpNet,
) -> PushExprListAttrs<P> {
    let (offset, len) = address_at(prefix, field);
    load(list, PayloadBase::NetworkHeader, offset, len)
}

/// Returns offset and length in octets of an address in the IP header (RFC 791 section 3.1, RFC
/// 8200 section 3).
fn address_at(prefix: &IpNet, field: AddressField) -> (u32, u32) {
    match (prefix, field) {
        (IpNet::V4(_), AddressField::Source) => (12, 4),
        (IpNet::V4(_), AddressField::Destination) => (16, 4),
        (IpNet::V6(_), AddressField::Source) => (8, 16),
        (IpNet::V6(_), AddressField::Destination) => (24, 16),
    }
}

/// Appends expressions that match if [`REGISTER`] holds an address in `prefix`.
fn match_prefix<P: Pusher>(list: PushExprListAttrs<P>, prefix: &IpNet) -> PushExprListAttrs<P> {
    let (network, mask, is_single_address) = match prefix {
        IpNet::V4(prefix) => (
            prefix.network().octets().to_vec(),
            prefix.netmask().octets().to_vec(),
            prefix.prefix_len() == 32,
        ),
        IpNet::V6(prefix) => (
            prefix.network().octets().to_vec(),
            prefix.netmask().octets().to_vec(),
            prefix.prefix_len() == 128,
        ),
    };
    let list = if is_single_address {
        list
    } else {
        apply_mask(list, &mask)
    };
    compare(list, CmpOps::Eq, &network)
}

fn load<P: Pusher>(
    list: PushExprListAttrs<P>,
    base: PayloadBase,
    offset: u32,
    len: u32,
) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_payload()
        .push_dreg(REGISTER)
        .push_base(base as u32)
        .push_offset(offset)
        .push_len(len)
        .end_nested()
        .end_nested()
}

fn load_meta<P: Pusher>(list: PushExprListAttrs<P>, key: MetaKeys) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_meta()
        .push_dreg(REGISTER)
        .push_key(key as u32)
        .end_nested()
        .end_nested()
}

fn apply_mask<P: Pusher>(list: PushExprListAttrs<P>, mask: &[u8]) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_bitwise()
        .push_sreg(REGISTER)
        .push_dreg(REGISTER)
        .push_len(mask.len() as u32)
        .push_op(BitwiseOps::MaskXor as u32)
        .nested_mask()
        .push_value(mask)
        .end_nested()
        .nested_xor()
        .push_value(&vec![0; mask.len()])
        .end_nested()
        .end_nested()
        .end_nested()
}

fn compare<P: Pusher>(
    list: PushExprListAttrs<P>,
    operator: CmpOps,
    value: &[u8],
) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_cmp()
        .push_sreg(REGISTER)
        .push_op(operator as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn drop_packet<P: Pusher>(list: PushExprListAttrs<P>) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict()
        .push_code(VerdictCode::Drop as u32)
        .end_nested()
        .end_nested()
        .end_nested()
        .end_nested()
}

/// Returns the protocol number that IANA assigned.
fn protocol_number(protocol: L4Protocol) -> u8 {
    match protocol {
        L4Protocol::Tcp => 6,
        L4Protocol::Udp => 17,
        L4Protocol::Sctp => 132,
        L4Protocol::Icmp => 1,
        L4Protocol::Icmpv6 => 58,
    }
}
