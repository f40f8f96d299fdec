//! The keys of TCP MD5 that a listening socket has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use socket2::SockRef;
use tokio::net::TcpListener;

use crate::{
    md5_key::{self, Md5Key},
    socket::BACKLOG,
};

#[derive(Debug, Default)]
pub(crate) struct ListenerKeys {
    in_force: BTreeMap<IpNet, Md5Key>,
    /// The kernel took no key for these: nobody can be believed who comes from there.
    refused: BTreeSet<IpNet>,
}

impl ListenerKeys {
    /// Sets, changes and takes away what differs. A connection that was made before its key was
    /// in force is not signed with it, so that what waits to be accepted is closed; whoever it
    /// was tries again.
    pub(crate) fn apply(&mut self, listener: &TcpListener, wanted: &BTreeMap<IpNet, Md5Key>) {
        let local = listener.local_addr();
        let is_ipv4 = local.expect("a listening socket has an address").is_ipv4();
        let is_served = |prefix: &IpNet| matches!(prefix, IpNet::V4(_)) == is_ipv4;
        self.in_force.retain(|prefix, _| {
            let is_wanted = wanted.contains_key(prefix);
            if !is_wanted && let Err(error) = md5_key::set(listener, *prefix, None) {
                tracing::error!(%prefix, %error, "the key of former peers stays");
            }
            is_wanted
        });
        self.refused.clear();
        let mut has_new = false;
        for (prefix, key) in wanted.iter().filter(|(prefix, _)| is_served(prefix)) {
            if self.in_force.get(prefix) == Some(key) {
                continue;
            }
            match md5_key::set(listener, *prefix, Some(key)) {
                Ok(()) => {
                    self.in_force.insert(*prefix, key.clone());
                    has_new = true;
                }
                Err(error) => {
                    tracing::error!(%prefix, %error, "peers from there are refused");
                    self.refused.insert(*prefix);
                }
            }
        }
        if has_new {
            close_waiting(listener);
        }
    }

    pub(crate) fn is_refused(&self, address: IpAddr) -> bool {
        self.refused.iter().any(|prefix| prefix.contains(&address))
    }
}

/// Asks the kernel itself, since the runtime may not have heard of a connection yet.
fn close_waiting(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    for _ in 0..BACKLOG {
        if socket.accept().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{Ipv4Addr, TcpStream},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_from_before_its_key_is_closed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut early = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        early
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "secret").unwrap();
        let key = Md5Key::read(&file).unwrap();
        let mut keys = ListenerKeys::default();
        let prefixes = ["127.0.0.0/8", "::1/128"].map(|prefix| prefix.parse::<IpNet>().unwrap());
        let wanted = prefixes.map(|prefix| (prefix, key.clone()));
        keys.apply(&listener, &wanted.into());
        assert_eq!(early.read(&mut [0]).unwrap(), 0);
        // The other family has sockets of its own.
        assert_eq!(keys.in_force.len(), 1);
        assert!(!keys.is_refused(Ipv4Addr::LOCALHOST.into()));
    }

    /// Each key takes some of a socket's option memory, so that many are one too many.
    #[tokio::test]
    async fn whose_key_the_kernel_does_not_take_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "secret").unwrap();
        let key = Md5Key::read(&file).unwrap();
        let address = |number: u32| Ipv4Addr::from(0x0a00_0000 + number);
        let memory = std::fs::read_to_string("/proc/sys/net/core/optmem_max").unwrap();
        // A key takes more than 64 bytes.
        let too_many = memory.trim().parse::<u32>().unwrap() / 64;
        let peers = 0..too_many;
        let wanted: BTreeMap<_, _> = peers
            .clone()
            .map(|number| (IpNet::from(IpAddr::from(address(number))), key.clone()))
            .collect();
        let mut keys = ListenerKeys::default();
        keys.apply(&listener, &wanted);
        let refused = peers.filter(|number| keys.is_refused(address(*number).into()));
        let refused = u32::try_from(refused.count()).unwrap();
        assert!(refused > 0 && refused < too_many, "{refused}");
        keys.apply(&listener, &BTreeMap::new());
        assert!(keys.in_force.is_empty() && keys.refused.is_empty());
    }
}
