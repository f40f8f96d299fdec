//! Who may connect, known to the listeners, so that a stranger costs the owner nothing.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;

use crate::config::Configuration;

#[derive(Debug, Default)]
pub(crate) struct Admission {
    addresses: HashSet<IpAddr>,
    prefixes: Vec<IpNet>,
}

impl Admission {
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
        }
    }

    pub(crate) fn is_admitted(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
            || self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }
}
