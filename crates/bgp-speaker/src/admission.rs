//! Admission rules of the listeners: addresses and keys of peers.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{config::Configuration, md5_key::Md5Key};

/// The addresses and prefixes from which a listener passes connections to the owner, and the TCP
/// MD5 keys of the listening sockets. A listener closes a connection from any other address without
/// work for the owner.
#[derive(Debug, Default)]
pub(crate) struct AdmissionRules {
    addresses: HashSet<IpAddr>,
    prefixes: Vec<IpNet>,
    /// TCP MD5 keys of connections from these prefixes. For an address in several prefixes, the key
    /// of the longest prefix applies.
    pub(crate) keys: BTreeMap<IpNet, Md5Key>,
}

impl AdmissionRules {
    pub(crate) fn new(configuration: &Configuration) -> Self {
        Self {
            addresses: configuration
                .peers
                .iter()
                .filter(|peer| peer.passive)
                .map(|peer| peer.address.ip())
                .collect(),
            prefixes: configuration
                .groups
                .iter()
                .flat_map(|group| group.prefixes.iter().copied())
                .collect(),
            keys: keys(configuration),
        }
    }

    pub(crate) fn is_admitted(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
            || self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }
}

fn keys(configuration: &Configuration) -> BTreeMap<IpNet, Md5Key> {
    let mut keys = BTreeMap::new();
    for group in &configuration.groups {
        let Some(key) = &group.session.md5_key else {
            continue;
        };
        for prefix in &group.prefixes {
            // If two groups have an equal prefix, peers that connect from this prefix belong to the
            // first of the two groups in the configuration.
            keys.entry(prefix.trunc()).or_insert_with(|| key.clone());
        }
    }
    for peer in configuration.peers.iter().filter(|peer| peer.passive) {
        if let Some(key) = &peer.session.md5_key {
            keys.insert(IpNet::from(peer.address.ip()), key.clone());
        }
    }
    keys
}
