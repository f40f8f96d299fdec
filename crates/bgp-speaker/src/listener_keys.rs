//! TCP MD5 keys of a listening socket.

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

/// Pause before the keys of the refused prefixes are set again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct ListenerKeys {
    /// Keys that are set on the socket.
    in_force: BTreeMap<IpNet, Md5Key>,
    /// Prefixes whose connections must be refused, with the error: the key could not be set, or the
    /// connections that were in the accept queue when the key was set could not be closed.
    refused: BTreeMap<IpNet, String>,
    retry_at: Option<Instant>,
}

impl ListenerKeys {
    /// Makes the keys of the socket equal to `desired`. A connection that entered the accept queue
    /// before a key was set is not signed with this key. Therefore all connections in the accept
    /// queue are closed after a change of the keys; their peers connect again.
    pub(crate) fn apply(&mut self, listener: &TcpListener, desired: &BTreeMap<IpNet, Md5Key>) {
        let local = listener.local_addr();
        let is_ipv4 = local.expect("a listening socket has an address").is_ipv4();
        let is_served = |prefix: &IpNet| matches!(prefix, IpNet::V4(_)) == is_ipv4;
        let mut has_changed = false;
        self.in_force.retain(|prefix, _| {
            let is_desired = desired.contains_key(prefix);
            if !is_desired {
                has_changed = true;
                if let Err(error) = md5_key::set(listener, *prefix, None) {
                    tracing::error!(
                        %prefix,
                        %error,
                        "cannot remove the TCP MD5 key of former peers from the listening socket; \
                         the kernel drops unsigned connections from this prefix"
                    );
                }
            }
            is_desired
        });
        let mut refused = BTreeMap::new();
        let mut new = Vec::new();
        for (prefix, key) in desired.iter().filter(|(prefix, _)| is_served(prefix)) {
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
            // Refuse the prefixes of the new keys: a connection that is still in the accept queue
            // could be unsigned.
            for prefix in new {
                refused.insert(prefix, format!("cannot close waiting connections: {error}"));
            }
        }
        for (prefix, error) in &refused {
            if self.refused.get(prefix) != Some(error) {
                tracing::error!(
                    %prefix,
                    error,
                    "cannot set the TCP MD5 key on the listening socket; refusing connections \
                     from this prefix until a retry succeeds"
                );
            }
        }
        self.retry_at = (!refused.is_empty()).then(|| Instant::now() + RETRY_INTERVAL);
        self.refused = refused;
    }

    /// Waits until [`ListenerKeys::apply`] must be called again. Waits forever if no prefix is
    /// refused.
    pub(crate) async fn retry(&self) {
        wait_until(self.retry_at).await;
    }

    /// Reports whether connections from the address must be refused. For an address in several
    /// prefixes, the longest prefix decides, as in the kernel.
    pub(crate) fn is_refused(&self, address: IpAddr) -> bool {
        let longest = |prefix: Option<&IpNet>| prefix.map(IpNet::prefix_len);
        let contains_address = |prefix: &&IpNet| prefix.contains(&address);
        let by_length = |prefix: &&IpNet| prefix.prefix_len();
        let refused = self
            .refused
            .keys()
            .filter(contains_address)
            .max_by_key(by_length);
        let in_force = self
            .in_force
            .keys()
            .filter(contains_address)
            .max_by_key(by_length);
        refused.is_some() && longest(refused) >= longest(in_force)
    }
}

/// Accepts and closes the connections in the accept queue, at most [`BACKLOG`] connections.
/// Bypasses tokio, which could report an empty queue before it has polled the socket.
fn close_waiting(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    let ended_before_accept = [ErrorKind::Interrupted, ErrorKind::ConnectionAborted];
    for _ in 0..BACKLOG {
        let error = socket.accept().err();
        match error {
            Some(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Some(error) if !ended_before_accept.contains(&error.kind()) => return Err(error),
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
    async fn a_connection_in_the_accept_queue_is_closed_when_a_key_is_set() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut early = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        early
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let key = Md5Key::parse(b"secret").unwrap();
        let mut keys = ListenerKeys::default();
        let prefixes = ["127.0.0.0/8", "::1/128"].map(|prefix| prefix.parse::<IpNet>().unwrap());
        let desired = prefixes.map(|prefix| (prefix, key.clone()));
        keys.apply(&listener, &desired.into());
        assert_eq!(early.read(&mut [0]).unwrap(), 0);
        // A socket that listens on an IPv4 address gets no keys of IPv6 prefixes.
        assert_eq!(keys.in_force.len(), 1);
        assert!(!keys.is_refused(Ipv4Addr::LOCALHOST.into()));
    }

    /// Each key uses option memory of the socket, so the kernel rejects keys that exceed
    /// net.core.optmem_max.
    #[tokio::test]
    async fn connections_are_refused_from_addresses_whose_key_the_kernel_rejects() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let key = Md5Key::parse(b"secret").unwrap();
        let address = |number: u32| Ipv4Addr::from(0x0a00_0000 + number);
        // More keys than the default of net.core.optmem_max allows.
        let too_many = 2_000;
        let peers = 0..too_many;
        let desired: BTreeMap<_, _> = peers
            .clone()
            .map(|number| (IpNet::from(IpAddr::from(address(number))), key.clone()))
            .collect();
        let mut keys = ListenerKeys::default();
        keys.apply(&listener, &desired);
        let refused = peers.filter(|number| keys.is_refused(address(*number).into()));
        let refused = u32::try_from(refused.count()).unwrap();
        assert!(refused > 0 && refused < too_many, "{refused}");
        assert!(keys.retry_at.is_some());
        keys.apply(&listener, &BTreeMap::new());
        assert!(keys.in_force.is_empty() && keys.refused.is_empty());
        assert!(keys.retry_at.is_none());
    }

    #[test]
    fn an_address_with_its_own_key_is_accepted_although_the_key_of_its_prefix_was_rejected() {
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
        // A prefix is also refused if its key is set but the connections in the accept queue could
        // not be closed.
        let mut keys = keys;
        keys.in_force.insert("10.0.0.0/16".parse().unwrap(), key);
        assert!(keys.is_refused("10.0.0.3".parse().unwrap()));
    }
}
