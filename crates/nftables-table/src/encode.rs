//! Encoder of tables as netlink requests.

use ipnet::IpNet;
use netlink_bindings::nftables::{
    Nfgenmsg, OpDeltableDo, OpNewchainDo, OpNewruleDo, OpNewsetDo, OpNewsetelemDo, OpNewtableDo,
    SetElemFlags, SetFlags, VerdictCode,
};

use crate::{
    Chain, ChainType, Hook, NftablesError, NftablesTable, Rule, TableFingerprint,
    expression::encode_expression, interval::intervals,
};

/// Message types: `NFT_MSG_*` with `NFNL_SUBSYS_NFTABLES` in the upper octet
/// (linux/netfilter/nf_tables.h).
pub(crate) const NEW_TABLE: u16 = 0x0a00;
pub(crate) const GET_TABLE: u16 = 0x0a01;
pub(crate) const DEL_TABLE: u16 = 0x0a02;
const NEW_CHAIN: u16 = 0x0a03;
pub(crate) const GET_CHAIN: u16 = 0x0a04;
const NEW_RULE: u16 = 0x0a06;
const NEW_SET: u16 = 0x0a09;
const NEW_SET_ELEMENTS: u16 = 0x0a0c;

/// Number of the family `inet` (linux/netfilter.h).
const NFPROTO_INET: u8 = 1;

/// Template of set names. The kernel replaces `%d` by a number that is free.
pub(crate) const SET_NAME: &std::ffi::CStr = c"__set%d";

const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// Maximum length of a name in bytes: `NFT_NAME_MAXLEN` without the NUL
/// (linux/netfilter/nf_tables.h).
const NAME_MAX: usize = 255;
/// Set elements in one message. Even with IPv6 keys, this number of elements is well below the
/// maximum of 64 KiB for a nested attribute.
const ELEMENTS_PER_MESSAGE: usize = 500;
/// Type of the table comment in the user data of a table (libnftnl, `NFTNL_UDATA_TABLE_COMMENT`).
const COMMENT: u8 = 0;
const COMMENT_PREFIX: &str = "contents ";

/// A request that is part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NftablesRequest {
    pub(crate) message_type: u16,
    /// Netlink flags without `NLM_F_REQUEST` and `NLM_F_ACK`, which are added when the request is
    /// sent.
    pub(crate) flags: u16,
    /// Octets after the netlink header, beginning with the `nfgenmsg` header.
    pub(crate) payload: Vec<u8>,
    /// Operation of the request as a verb phrase for an error, such as `add table inet portlb`.
    pub(crate) operation: String,
}

impl NftablesTable {
    /// Returns a hash of the requests that write the chains, sets and rules of the table. Equal
    /// tables have equal fingerprints.
    pub fn fingerprint(&self) -> TableFingerprint {
        // FNV-1a is short. In contrast to the hasher of the standard library, it returns the same
        // hash in every build.
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
        // `TableFingerprint(0)` is reserved for tables that another program wrote.
        TableFingerprint(hash.max(1))
    }

    /// Returns an error for a table that the kernel would refuse with an error number that does not
    /// show the cause.
    pub(crate) fn validate(&self) -> Result<(), NftablesError> {
        let invalid = |problem: String| Err(NftablesError::Invalid { problem });
        for name in std::iter::once(&self.name).chain(self.chains.iter().map(|chain| &chain.name)) {
            if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
                return invalid(format!(
                    "the name {name:?} is invalid; give 1 to {NAME_MAX} bytes without NUL"
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
                            "chain {:?}: a set of prefixes is empty, or contains IPv4 and IPv6 prefixes",
                            chain.name
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the transaction that makes the kernel's table equal to `table`.
pub(crate) fn replace(table: &NftablesTable) -> Vec<NftablesRequest> {
    let mut requests = vec![
        new_table(&table.name, None),
        delete(&table.name),
        new_table(&table.name, Some(table.fingerprint())),
    ];
    requests.extend(contents(table));
    requests
}

/// Returns the request that deletes a table. The kernel refuses the request if the table does not
/// exist.
fn delete(name: &str) -> NftablesRequest {
    let mut payload = Vec::new();
    OpDeltableDo::encode_request(&mut payload, &header()).push_name_bytes(name.as_bytes());
    NftablesRequest {
        message_type: DEL_TABLE,
        flags: 0,
        payload,
        operation: format!("delete table inet {name}"),
    }
}

/// Returns the request that reads the attributes of one table.
pub(crate) fn get(name: &str) -> NftablesRequest {
    let mut payload = Vec::new();
    OpNewtableDo::encode_request(&mut payload, &header()).push_name_bytes(name.as_bytes());
    NftablesRequest {
        message_type: GET_TABLE,
        flags: 0,
        payload,
        operation: format!("read table inet {name}"),
    }
}

/// Returns the request that reads all chains of the family `inet`.
pub(crate) fn get_chains() -> NftablesRequest {
    NftablesRequest {
        message_type: GET_CHAIN,
        flags: 0,
        payload: header().as_slice().to_vec(),
        operation: "read the chains of family inet".to_owned(),
    }
}

/// Returns the fingerprint in the user data of a table. Returns `None` if the comment contains no
/// fingerprint.
pub(crate) fn fingerprint_in(user_data: &[u8]) -> Option<TableFingerprint> {
    let mut rest = user_data;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == COMMENT {
            let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
            let digits = text.strip_prefix(COMMENT_PREFIX)?;
            return u64::from_str_radix(digits, 16).ok().map(TableFingerprint);
        }
        rest = &tail[usize::from(*length)..];
    }
    None
}

fn new_table(name: &str, fingerprint: Option<TableFingerprint>) -> NftablesRequest {
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
    NftablesRequest {
        message_type: NEW_TABLE,
        flags: NLM_F_CREATE,
        payload,
        operation: format!("add table inet {name}"),
    }
}

/// Returns the requests that add the chains, sets and rules of a table.
fn contents(table: &NftablesTable) -> Vec<NftablesRequest> {
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

fn new_chain(table: &NftablesTable, chain: &Chain) -> NftablesRequest {
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
            ChainType::Filter => c"filter",
            ChainType::Nat => c"nat",
        });
    NftablesRequest {
        message_type: NEW_CHAIN,
        flags: NLM_F_CREATE,
        payload,
        operation: format!("add chain {} of table inet {}", chain.name, table.name),
    }
}

/// Returns the requests that add an anonymous interval set and its elements.
fn new_set(
    table: &NftablesTable,
    chain: &Chain,
    id: u32,
    prefixes: &[IpNet],
) -> Vec<NftablesRequest> {
    let v4 = prefixes.iter().any(|prefix| matches!(prefix, IpNet::V4(_)));
    // Because of the type numbers 7 and 8, `nft` shows the elements as IPv4 and IPv6 addresses. The
    // kernel ignores the type number and uses only the key length.
    let (key_type, key_len) = if v4 { (7, 4) } else { (8, 16) };
    let name = SET_NAME;
    let operation = format!(
        "add a set for chain {} of table inet {}",
        chain.name, table.name
    );
    let mut payload = Vec::new();
    OpNewsetDo::encode_request(&mut payload, &header())
        .push_table_bytes(table.name.as_bytes())
        .push_name(name)
        .push_flags(
            SetFlags::Anonymous as u32 | SetFlags::Constant as u32 | SetFlags::Interval as u32,
        )
        .push_key_type(key_type)
        .push_key_len(key_len)
        // The kernel reads the set id in network byte order, but the bindings write the id in host
        // byte order.
        .push_id(id.to_be());
    let mut requests = vec![NftablesRequest {
        message_type: NEW_SET,
        flags: NLM_F_CREATE,
        payload,
        operation: operation.clone(),
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
        requests.push(NftablesRequest {
            message_type: NEW_SET_ELEMENTS,
            flags: NLM_F_CREATE,
            payload,
            operation: operation.clone(),
        });
    }
    requests
}

fn new_rule(
    table: &NftablesTable,
    chain: &Chain,
    index: usize,
    rule: &Rule,
    mut set_id: u32,
) -> NftablesRequest {
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
    NftablesRequest {
        message_type: NEW_RULE,
        flags: NLM_F_CREATE | NLM_F_APPEND,
        payload,
        operation: format!(
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

/// Returns the number of the hook in `enum nf_inet_hooks` (linux/netfilter.h).
fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}
