//! The keys of TCP MD5 that a listening socket has.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::IpAddr,
    time::Duration,
};

use bounded_io::wait_until;
use ipnet::IpNet;
use socket2::SockRef;
use tokio::{net::TcpListener, time::Instant};

use crate::{
    md5_key::{self, Md5Key},
    socket::BACKLOG,
};

/// When what the kernel did not take is tried again.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct ListenerKeys {
    /// What the kernel has.
    in_force: BTreeMap<IpNet, Md5Key>,
    /// Who cannot be believed, and why: the key is not in force, or not for all who wait.
    refused: BTreeMap<IpNet, String>,
    retry_at: Option<Instant>,
}

impl ListenerKeys {
    /// Sets, changes and takes away what differs. A connection that was made before its key was
    /// in force is not signed with it, so that what waits to be accepted is closed; whoever it
    /// was tries again.
    pub(crate) fn apply(&mut self, listener: &TcpListener, wanted: &BTreeMap<IpNet, Md5Key>) {
        let local = listener.local_addr();
        let is_ipv4 = local.expect("a listening socket has an address").is_ipv4();
        let is_served = |prefix: &IpNet| matches!(prefix, IpNet::V4(_)) == is_ipv4;
        let mut has_changed = false;
        self.in_force.retain(|prefix, _| {
            let is_wanted = wanted.contains_key(prefix);
            if !is_wanted {
                has_changed = true;
                if let Err(error) = md5_key::set(listener, *prefix, None) {
                    tracing::error!(%prefix, %error, "the key of former peers stays");
                }
            }
            is_wanted
        });
        let mut refused = BTreeMap::new();
        let mut new = Vec::new();
        for (prefix, key) in wanted.iter().filter(|(prefix, _)| is_served(prefix)) {
            let is_in_force = self.in_force.get(prefix) == Some(key);
            if is_in_force && !self.refused.contains_key(prefix) {
                continue;
            }
            match md5_key::set(listener, *prefix, Some(key)) {
                Ok(()) => {
                    has_changed = true;
                    self.in_force.insert(*prefix, key.clone());
                    new.push(*prefix);
                }
                Err(error) => {
                    refused.insert(*prefix, error.to_string());
                }
            }
        }
        if has_changed && let Err(error) = close_waiting(listener) {
            // Among what waits there may be somebody who was not asked for the key.
            for prefix in new {
                refused.insert(prefix, format!("what waits cannot be closed: {error}"));
            }
        }
        for (prefix, error) in &refused {
            if self.refused.get(prefix) != Some(error) {
                tracing::error!(%prefix, error, "peers from there are refused for now");
            }
        }
        self.retry_at = (!refused.is_empty()).then(|| Instant::now() + RETRY);
        self.refused = refused;
    }

    /// Returns when [`ListenerKeys::apply`] is to be tried again.
    pub(crate) async fn retry(&self) {
        wait_until(self.retry_at).await;
    }

    /// Of several prefixes the longest counts, as it does in the kernel.
    pub(crate) fn is_refused(&self, address: IpAddr) -> bool {
        let longest = |prefix: Option<&IpNet>| prefix.map(IpNet::prefix_len);
        let around = |prefix: &&IpNet| prefix.contains(&address);
        let by_length = |prefix: &&IpNet| prefix.prefix_len();
        let refused = self.refused.keys().filter(around).max_by_key(by_length);
        let in_force = self.in_force.keys().filter(around).max_by_key(by_length);
        refused.is_some() && longest(refused) >= longest(in_force)
    }
}

/// Asks the kernel itself, since the runtime may not have heard of a connection yet.
fn close_waiting(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    let ended_meanwhile = [ErrorKind::Interrupted, ErrorKind::ConnectionAborted];
    for _ in 0..BACKLOG {
        let error = socket.accept().err();
        match error {
            Some(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Some(error) if !ended_meanwhile.contains(&error.kind()) => return Err(error),
            Some(_) | None => {}
        }
    }
    Ok(())
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
        let key = Md5Key::parse(b"secret").unwrap();
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
        let key = Md5Key::parse(b"secret").unwrap();
        let address = |number: u32| Ipv4Addr::from(0x0a00_0000 + number);
        // Twice what Linux has room for by default.
        let too_many = 2_000;
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
        assert!(keys.retry_at.is_some());
        keys.apply(&listener, &BTreeMap::new());
        assert!(keys.in_force.is_empty() && keys.refused.is_empty());
        assert!(keys.retry_at.is_none());
    }

    #[test]
    fn who_has_a_key_of_his_own_is_not_refused_with_the_others_of_a_prefix() {
        let key = Md5Key::parse(b"secret").unwrap();
        let keys = ListenerKeys {
            in_force: [("10.0.0.2/32".parse().unwrap(), key.clone())].into(),
            refused: [("10.0.0.0/16".parse().unwrap(), "test".to_owned())].into(),
            retry_at: None,
        };
        let is_refused = |address: &str| keys.is_refused(address.parse().unwrap());
        assert!(is_refused("10.0.0.3"));
        assert!(!is_refused("10.0.0.2"));
        assert!(!is_refused("10.1.0.3"));
        // The kernel may have the key, and somebody waits who was not asked for it.
        let mut keys = keys;
        keys.in_force.insert("10.0.0.0/16".parse().unwrap(), key);
        assert!(keys.is_refused("10.0.0.3".parse().unwrap()));
    }
}
