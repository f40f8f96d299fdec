//! One expression of a rule to the expressions of the kernel (net/netfilter/nft_*.c). Pure.

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

/// linux/netfilter/nf_tables.h.
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_SET_ID: u16 = 4;

/// Before the quoted packet in an ICMP error (RFC 792, RFC 4443 section 3).
const ICMP_HEADER: u32 = 8;

const REGISTER: u32 = Registers::Reg1 as u32;

/// Where an IP header keeps an address.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Appends `expression`; `set_id` is that of its set, if it has one.
pub(crate) fn encode_expression<P: Pusher>(
    list: PushExprListAttrs<P>,
    expression: &Expression,
    set_id: u32,
) -> PushExprListAttrs<P> {
    match expression {
        Expression::Destination(prefix) => destination(list, prefix),
        Expression::SourceIn(prefixes) => address_in(list, Side::Source, prefixes, set_id),
        Expression::DestinationIn(prefixes) => {
            address_in(list, Side::Destination, prefixes, set_id)
        }
        Expression::OriginalDestination(prefix) => original_destination(list, prefix),
        Expression::Protocol(protocol) => {
            let list = load_meta(list, MetaKeys::L4Proto);
            compare(list, CmpOps::Eq, &[protocol_number(*protocol)])
        }
        Expression::TcpFlags { mask, value } => {
            let list = load(list, PayloadBase::TransportHeader, 13, 1);
            compare(and(list, &[*mask]), CmpOps::Eq, &[*value])
        }
        Expression::DestinationPorts(first, last) => ports(
            load(list, PayloadBase::TransportHeader, 2, 2),
            *first,
            *last,
        ),
        Expression::OriginalDestinationPorts(first, last) => {
            ports(load_original(list, CtKeys::ProtoDst), *first, *last)
        }
        Expression::IcmpTypeAndCode(icmp_type, code) => {
            let list = load(list, PayloadBase::TransportHeader, 0, 2);
            compare(list, CmpOps::Eq, &[*icmp_type, *code])
        }
        Expression::QuotedDestinationIn(prefixes) => {
            let first = prefixes.first().expect("validated: a set is not empty");
            let (offset, len) = address_at(first, Side::Destination);
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
    let list = ip_version(list, prefix);
    if prefix.prefix_len() == 0 {
        return list;
    }
    in_prefix(load_address(list, Side::Destination, prefix), prefix)
}

fn address_in<P: Pusher>(
    list: PushExprListAttrs<P>,
    side: Side,
    prefixes: &[IpNet],
    set_id: u32,
) -> PushExprListAttrs<P> {
    let first = prefixes.first().expect("validated: a set is not empty");
    let list = ip_version(list, first);
    lookup(load_address(list, side, first), set_id)
}

/// Looks the register up in a set.
fn lookup<P: Pusher>(list: PushExprListAttrs<P>, set_id: u32) -> PushExprListAttrs<P> {
    // The bindings number the attributes of a lookup wrongly (netlink-bindings 0.3.5).
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
    // These keys match the IP version by themselves.
    let key = match prefix {
        IpNet::V4(_) => CtKeys::DstIp,
        IpNet::V6(_) => CtKeys::DstIp6,
    };
    in_prefix(load_original(list, key), prefix)
}

/// What conntrack knows of the first packet's direction.
fn load_original<P: Pusher>(list: PushExprListAttrs<P>, key: CtKeys) -> PushExprListAttrs<P> {
    list.nested_elem()
        .nested_data_ct()
        .push_dreg(REGISTER)
        .push_key(key as u32)
        .push_direction(CtDirection::Original as u8)
        .end_nested()
        .end_nested()
}

/// Compares the register with the ports.
fn ports<P: Pusher>(list: PushExprListAttrs<P>, first: u16, last: u16) -> PushExprListAttrs<P> {
    if first == last {
        return compare(list, CmpOps::Eq, &first.to_be_bytes());
    }
    let list = compare(list, CmpOps::Gte, &first.to_be_bytes());
    compare(list, CmpOps::Lte, &last.to_be_bytes())
}

/// In a table for both IP versions, an address can only be loaded once its version is known.
fn ip_version<P: Pusher>(list: PushExprListAttrs<P>, prefix: &IpNet) -> PushExprListAttrs<P> {
    // NFPROTO_IPV4 and NFPROTO_IPV6 (linux/netfilter.h).
    let version = match prefix {
        IpNet::V4(_) => 2,
        IpNet::V6(_) => 10,
    };
    compare(load_meta(list, MetaKeys::Nfproto), CmpOps::Eq, &[version])
}

fn load_address<P: Pusher>(
    list: PushExprListAttrs<P>,
    side: Side,
    prefix: &IpNet,
) -> PushExprListAttrs<P> {
    let (offset, len) = address_at(prefix, side);
    load(list, PayloadBase::NetworkHeader, offset, len)
}

/// Offset and length of an address in the IP header (RFC 791 section 3.1, RFC 8200 section 3).
fn address_at(prefix: &IpNet, side: Side) -> (u32, u32) {
    match (prefix, side) {
        (IpNet::V4(_), Side::Source) => (12, 4),
        (IpNet::V4(_), Side::Destination) => (16, 4),
        (IpNet::V6(_), Side::Source) => (8, 16),
        (IpNet::V6(_), Side::Destination) => (24, 16),
    }
}

/// Compares the register with the prefix.
fn in_prefix<P: Pusher>(list: PushExprListAttrs<P>, prefix: &IpNet) -> PushExprListAttrs<P> {
    let (network, mask, whole) = match prefix {
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
    let list = if whole { list } else { and(list, &mask) };
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

fn and<P: Pusher>(list: PushExprListAttrs<P>, mask: &[u8]) -> PushExprListAttrs<P> {
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

/// Assigned protocol numbers of IANA.
fn protocol_number(protocol: L4Protocol) -> u8 {
    match protocol {
        L4Protocol::Tcp => 6,
        L4Protocol::Udp => 17,
        L4Protocol::Sctp => 132,
        L4Protocol::Icmp => 1,
        L4Protocol::Icmpv6 => 58,
    }
}
