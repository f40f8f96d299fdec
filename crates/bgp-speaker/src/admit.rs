//! Which peer an accepted connection belongs to.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bgp_rib::PeerId;
use bgp_session::{Cease, FailureReason};
use tokio::net::TcpStream;

use crate::{config::GroupConfig, owner::Owner, peer::Peer, refused_sessions::Refusal};

/// For so long after a session has come up, a further connection from its peer counts as the loser of
/// a collision (RFC 4271 section 6.8) that was still on its way.
const COLLISION_WINDOW: Duration = Duration::from_secs(5);

impl Owner {
    /// Finds the peer of an accepted connection, or makes it if it belongs to a group.
    pub(crate) fn admit(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        let address = remote.ip();
        let known = self.peers.iter().find(|(_, peer)| peer.owns(address));
        if let Some(id) = known.map(|(id, _)| *id) {
            self.note_duplicate(id, now);
            self.counters.connections_accepted.add(1);
            self.accepted(id, stream, now);
            return;
        }
        let Some(group) = self.groups.iter().find(|group| group.contains(address)) else {
            self.counters.strangers_refused.add(1);
            tracing::debug!(%remote, "connection of a stranger refused");
            return;
        };
        let group = group.clone();
        let of_address = self.dynamic_peers(|peer| peer.config.address.ip() == address);
        let of_group = self.dynamic_peers(|peer| peer.config.group.as_deref() == Some(&group.name));
        let is_full = of_address.len() >= group.maximum_peers_per_address;
        let has_room = of_group.len() < group.maximum_peers;
        if is_full || !has_room {
            let is_waiting = |id: &&PeerId| self.peers.get(id).is_some_and(Peer::waits_for_open);
            if let Some(oldest) = of_address.iter().find(is_waiting) {
                // Otherwise connections that send no OPEN would keep the address out.
                self.remove_peer(*oldest, Cease::ConnectionRejected, now);
            } else if is_full {
                self.refuse_full_address(remote, &group, of_address.len(), now);
                return;
            } else {
                self.refuse_full_group(remote, &group, now);
                return;
            }
        }
        if has_room {
            self.full_groups.remove(&group.name);
        }
        self.counters.connections_accepted.add(1);
        let mut config = group.peer(remote);
        config.name = self.free_name(config.name);
        let id = self.add_peer(config, true, now);
        self.accepted(id, stream, now);
    }

    /// The dynamic peers of this kind, in the order of their coming.
    fn dynamic_peers(&self, is_of_kind: impl Fn(&Peer) -> bool) -> Vec<PeerId> {
        let peers = self.peers.iter();
        let peers = peers.filter(|(_, peer)| peer.is_dynamic && is_of_kind(peer));
        peers.map(|(id, _)| *id).collect()
    }

    /// Counts a connection whose peer has an established session, which refuses it (RFC 4271 section
    /// 6.8), and logs it once for each session.
    fn note_duplicate(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.established.is_none() {
            return;
        }
        self.counters.duplicates_refused.add(1);
        let established_for = now.saturating_duration_since(peer.session.status().since);
        let address = peer.config.address.ip();
        let log = &mut self.session_log;
        warn_once!(
            established_for >= COLLISION_WINDOW
                && log.allows_once(&mut peer.logged.duplicate, address, now),
            peer = peer.config.name,
            %address,
            "connection refused: the session of this peer is established; the peer has lost its \
             connection, or a second speaker has the same address, in which case let it connect \
             from an address of its own"
        );
    }

    fn refuse_full_address(
        &mut self,
        remote: SocketAddr,
        group: &GroupConfig,
        peers: usize,
        now: Instant,
    ) {
        self.counters.connections_over_address_maximum.add(1);
        let address = remote.ip();
        let is_new = !self.full_addresses.contains(&address);
        let is_due = is_new && self.session_log.allows(address, now);
        if is_due {
            self.full_addresses.insert(address);
        }
        warn_once!(
            is_due,
            %remote,
            group = group.name,
            peers,
            "connection refused: its address has its maximum of peers; raise \
             maximumPeersPerAddress of the group if more speakers share the address"
        );
        let error = format!("the address has its maximum of {peers} peers");
        self.refused_by_group(address, group, FailureReason::AddressFull, error, now);
    }

    fn refuse_full_group(&mut self, remote: SocketAddr, group: &GroupConfig, now: Instant) {
        self.counters.strangers_refused.add(1);
        let address = remote.ip();
        let is_new = !self.full_groups.contains(&group.name);
        let is_due = is_new && self.session_log.allows(address, now);
        if is_due {
            self.full_groups.insert(group.name.clone());
        }
        warn_once!(
            is_due,
            %remote,
            group = group.name,
            "connection refused: the group is full"
        );
        let error = format!("the group has its maximum of {} peers", group.maximum_peers);
        self.refused_by_group(address, group, FailureReason::GroupFull, error, now);
    }

    fn refused_by_group(
        &mut self,
        address: IpAddr,
        group: &GroupConfig,
        reason: FailureReason,
        error: String,
        now: Instant,
    ) {
        let refusal = Refusal {
            peer: address.to_string(),
            group: Some(group.name.clone()),
            reason,
            error,
        };
        self.refused(address, refusal, now);
    }

    /// Returns the name, with a number where another peer has it: `10.0.0.1`, `10.0.0.1#2`.
    fn free_name(&self, name: String) -> String {
        let names: HashSet<&str> = self
            .peers
            .values()
            .map(|peer| peer.config.name.as_str())
            .collect();
        if !names.contains(name.as_str()) {
            return name;
        }
        let numbered = (2..).map(|number: u64| format!("{name}#{number}"));
        let mut free = numbered.filter(|name| !names.contains(name.as_str()));
        free.next().expect("there are more numbers than peers")
    }
}
