//! A table to netlink messages. Pure.

use ipnet::IpNet;
use netlink_bindings::nftables::{
    Nfgenmsg, OpDeltableDo, OpNewchainDo, OpNewruleDo, OpNewsetDo, OpNewsetelemDo, OpNewtableDo,
    SetElemFlags, SetFlags, VerdictCode,
};

use crate::{
    Chain, Error, Fingerprint, Hook, Kind, Rule, Table, expression::encode_expression,
    interval::intervals,
};

/// `NFT_MSG_*` with `NFNL_SUBSYS_NFTABLES` in the upper octet (linux/netfilter/nf_tables.h).
pub(crate) const NEW_TABLE: u16 = 0x0a00;
pub(crate) const GET_TABLE: u16 = 0x0a01;
pub(crate) const DEL_TABLE: u16 = 0x0a02;
const NEW_CHAIN: u16 = 0x0a03;
pub(crate) const GET_CHAIN: u16 = 0x0a04;
const NEW_RULE: u16 = 0x0a06;
const NEW_SET: u16 = 0x0a09;
const NEW_SET_ELEMENTS: u16 = 0x0a0c;

/// `NFPROTO_INET` (linux/netfilter.h).
const NFPROTO_INET: u8 = 1;

/// The kernel numbers anonymous sets by this template.
pub(crate) const SET_NAME: &std::ffi::CStr = c"__set%d";

const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// `NFT_NAME_MAXLEN` without the NUL (linux/netfilter/nf_tables.h).
const NAME_MAX: usize = 255;
/// Elements per message: with the longest key well under the 64 KiB of a nested attribute.
const ELEMENTS_PER_MESSAGE: usize = 500;
/// Type of a table's comment in its user data (libnftnl, `NFTNL_UDATA_TABLE_COMMENT`).
const COMMENT: u8 = 0;
const COMMENT_PREFIX: &str = "contents ";

/// One request of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) message_type: u16,
    /// Without `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(crate) flags: u16,
    /// From the `nfgenmsg` header on.
    pub(crate) payload: Vec<u8>,
    /// For an error: what the request was to do.
    pub(crate) what: String,
}

impl Table {
    /// Tells this table from any other. Two tables with the same fingerprint hold the same rules.
    pub fn fingerprint(&self) -> Fingerprint {
        // FNV-1a: short, and the same in every build, unlike the standard library's hasher.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        add(&[NFPROTO_INET]);
        for request in contents(self) {
            add(&request.message_type.to_be_bytes());
            add(&(request.payload.len() as u64).to_be_bytes());
            add(&request.payload);
        }
        // 0 stands for the table of somebody else.
        Fingerprint(hash.max(1))
    }

    /// Checks what the kernel would refuse without saying why.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let invalid = |problem: String| Err(Error::Invalid { problem });
        for name in std::iter::once(&self.name).chain(self.chains.iter().map(|chain| &chain.name)) {
            if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
                return invalid(format!(
                    "name {name:?} is not 1 to {NAME_MAX} bytes without NUL"
                ));
            }
        }
        for chain in &self.chains {
            for expression in chain.rules.iter().flatten() {
                if let Some(set) = expression.set() {
                    let versions = (
                        set.iter().any(|prefix| matches!(prefix, IpNet::V4(_))),
                        set.iter().any(|prefix| matches!(prefix, IpNet::V6(_))),
                    );
                    if versions.0 == versions.1 {
                        return invalid(format!(
                            "chain {:?}: a set of prefixes that is empty or mixes IP versions",
                            chain.name
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The transaction that makes the kernel's table equal to `table`.
pub(crate) fn replace(table: &Table) -> Vec<Request> {
    let mut requests = vec![
        new_table(&table.name, None),
        delete(&table.name),
        new_table(&table.name, Some(table.fingerprint())),
    ];
    requests.extend(contents(table));
    requests
}

/// The request that deletes a table that exists.
fn delete(name: &str) -> Request {
    let mut payload = Vec::new();
    OpDeltableDo::encode_request(&mut payload, &header()).push_name_bytes(name.as_bytes());
    Request {
        message_type: DEL_TABLE,
        flags: 0,
        payload,
        what: format!("delete table inet {name}"),
    }
}

/// The question for one table.
pub(crate) fn get(name: &str) -> Request {
    let mut payload = Vec::new();
    OpNewtableDo::encode_request(&mut payload, &header()).push_name_bytes(name.as_bytes());
    Request {
        message_type: GET_TABLE,
        flags: 0,
        payload,
        what: format!("read table inet {name}"),
    }
}

/// The question for all chains of the family `inet`.
pub(crate) fn get_chains() -> Request {
    Request {
        message_type: GET_CHAIN,
        flags: 0,
        payload: header().as_slice().to_vec(),
        what: "read the chains of family inet".to_owned(),
    }
}

/// The fingerprint in the user data of a table.
pub(crate) fn fingerprint_in(user_data: &[u8]) -> Option<Fingerprint> {
    let mut rest = user_data;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == COMMENT {
            let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
            let digits = text.strip_prefix(COMMENT_PREFIX)?;
            return u64::from_str_radix(digits, 16).ok().map(Fingerprint);
        }
        rest = &tail[usize::from(*length)..];
    }
    None
}

fn new_table(name: &str, fingerprint: Option<Fingerprint>) -> Request {
    let mut payload = Vec::new();
    let mut attributes =
        OpNewtableDo::encode_request(&mut payload, &header()).push_name_bytes(name.as_bytes());
    if let Some(fingerprint) = fingerprint {
        let text = format!("{COMMENT_PREFIX}{fingerprint}\0");
        let mut user_data = vec![COMMENT, text.len() as u8];
        user_data.extend(text.as_bytes());
        attributes = attributes.push_userdata(&user_data);
    }
    drop(attributes);
    Request {
        message_type: NEW_TABLE,
        flags: NLM_F_CREATE,
        payload,
        what: format!("add table inet {name}"),
    }
}

/// Chains, sets and rules.
fn contents(table: &Table) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut set_id = 0;
    for chain in &table.chains {
        requests.push(new_chain(table, chain));
        for (index, rule) in chain.rules.iter().enumerate() {
            let first_set_id = set_id;
            for expression in rule {
                if let Some(prefixes) = expression.set() {
                    set_id += 1;
                    requests.extend(new_set(table, chain, set_id, prefixes));
                }
            }
            requests.push(new_rule(table, chain, index, rule, first_set_id));
        }
    }
    requests
}

fn new_chain(table: &Table, chain: &Chain) -> Request {
    let mut payload = Vec::new();
    OpNewchainDo::encode_request(&mut payload, &header())
        .push_table_bytes(table.name.as_bytes())
        .push_name_bytes(chain.name.as_bytes())
        .nested_hook()
        .push_num(hook_number(chain.hook))
        .push_priority(chain.priority)
        .end_nested()
        .push_policy(VerdictCode::Accept as u32)
        .push_type(match chain.kind {
            Kind::Filter => c"filter",
            Kind::Nat => c"nat",
        });
    Request {
        message_type: NEW_CHAIN,
        flags: NLM_F_CREATE,
        payload,
        what: format!("add chain {} of table inet {}", chain.name, table.name),
    }
}

/// An anonymous interval set of prefixes and its elements.
fn new_set(table: &Table, chain: &Chain, id: u32, prefixes: &[IpNet]) -> Vec<Request> {
    let v4 = prefixes.iter().any(|prefix| matches!(prefix, IpNet::V4(_)));
    // Numbers that `nft` knows the types by; the kernel only looks at the length.
    let (key_type, key_len) = if v4 { (7, 4) } else { (8, 16) };
    let name = SET_NAME;
    let what = format!("add a set for chain {} of table {}", chain.name, table.name);
    let mut payload = Vec::new();
    OpNewsetDo::encode_request(&mut payload, &header())
        .push_table_bytes(table.name.as_bytes())
        .push_name(name)
        .push_flags(
            SetFlags::Anonymous as u32 | SetFlags::Constant as u32 | SetFlags::Interval as u32,
        )
        .push_key_type(key_type)
        .push_key_len(key_len)
        // The bindings write this one in host order; the kernel reads network order.
        .push_id(id.to_be());
    let mut requests = vec![Request {
        message_type: NEW_SET,
        flags: NLM_F_CREATE,
        payload,
        what: what.clone(),
    }];
    let elements: Vec<(Vec<u8>, bool)> = intervals(prefixes)
        .into_iter()
        .flat_map(|(start, end)| std::iter::once((start, false)).chain(end.map(|end| (end, true))))
        .collect();
    for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
        let mut payload = Vec::new();
        let mut list = OpNewsetelemDo::encode_request(&mut payload, &header())
            .push_table_bytes(table.name.as_bytes())
            .push_set(name)
            .push_set_id(id.to_be())
            .nested_elements();
        for (key, is_end) in part {
            let mut element = list.nested_elem();
            if *is_end {
                element = element.push_flags(&(SetElemFlags::IntervalEnd as u32).to_be_bytes());
            }
            list = element
                .nested_key()
                .push_value(key)
                .end_nested()
                .end_nested();
        }
        drop(list);
        requests.push(Request {
            message_type: NEW_SET_ELEMENTS,
            flags: NLM_F_CREATE,
            payload,
            what: what.clone(),
        });
    }
    requests
}

fn new_rule(table: &Table, chain: &Chain, index: usize, rule: &Rule, mut set_id: u32) -> Request {
    let mut payload = Vec::new();
    let mut list = OpNewruleDo::encode_request(&mut payload, &header())
        .push_table_bytes(table.name.as_bytes())
        .push_chain_bytes(chain.name.as_bytes())
        .nested_expressions();
    for expression in rule {
        if expression.set().is_some() {
            set_id += 1;
        }
        list = encode_expression(list, expression, set_id);
    }
    drop(list);
    Request {
        message_type: NEW_RULE,
        flags: NLM_F_CREATE | NLM_F_APPEND,
        payload,
        what: format!(
            "add rule {} of chain {} in table {}",
            index + 1,
            chain.name,
            table.name
        ),
    }
}

fn header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = NFPROTO_INET;
    header
}

/// `enum nf_inet_hooks` (linux/netfilter.h).
fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}
