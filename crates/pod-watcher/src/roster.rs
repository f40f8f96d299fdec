//! Positions and parts of the real servers of one virtual server.
//!
//! The module uses no clock: the time is a parameter.

use std::{mem, net::IpAddr, num::NonZeroU16, sync::Arc};

use daemon_api::{LARGEST_PART, MOST_PARTS};
use virtual_server::{RealServer, RealServerHistory, RealServerState, Timestamp, VirtualServer};

const _: () = assert!(MOST_PARTS <= u16::MAX as usize);

/// Published form of a virtual server. A change copies only the parts that it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedVirtualServer {
    pub(crate) head: Arc<PublishedHead>,
    pub(crate) parts: Vec<Arc<PublishedPart>>,
}

impl PublishedVirtualServer {
    /// Returns the virtual server with its real servers, sorted by position.
    pub(crate) fn whole(&self) -> VirtualServer {
        let mut server = self.head.server.clone();
        let real_servers = self.parts.iter().flat_map(|part| &part.real_servers);
        server.real_servers.extend(real_servers.cloned());
        server
            .real_servers
            .sort_by_key(|real_server| real_server.history.position);
        server
    }
}

/// A virtual server without its real servers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PublishedHead {
    /// Number of the change that created this head.
    pub(crate) changed: u64,
    /// The virtual server with an empty list of real servers.
    pub(crate) server: VirtualServer,
    pub(crate) part_count: usize,
}

/// A part of the real servers of a virtual server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishedPart {
    /// Number of the change that created this part.
    pub(crate) changed: u64,
    pub(crate) real_servers: Vec<RealServer>,
}

/// A virtual server with the position and the part of each of its real servers.
#[derive(Debug)]
pub(crate) struct Roster {
    server: VirtualServer,
    /// Number of the part of each real server, in the order of `server.real_servers`.
    part_of: Vec<u16>,
    published: PublishedVirtualServer,
    next_position: u64,
}

/// Assignment of the real servers of an updated virtual server to parts.
struct PartAssignment {
    /// Number of the part of each real server, in the order of the updated virtual server.
    part_of: Vec<u16>,
    /// Number of real servers in each part.
    sizes: Vec<usize>,
    /// Whether each part differs from the published part.
    is_dirty: Vec<bool>,
    /// Indexes of the real servers that the virtual server did not have before the update, and that
    /// have no part.
    newcomers: Vec<usize>,
}

/// Value in `part_of` for a real server that is not assigned to a part.
const NO_PART: u16 = u16::MAX;

impl Roster {
    /// Returns the roster of a new virtual server. Its real servers get no time of their last
    /// change of state, because they can have had their state for a long time.
    pub(crate) fn new(mut server: VirtualServer, change: u64) -> Self {
        let real_servers = mem::take(&mut server.real_servers);
        let empty = server.clone();
        server.real_servers = real_servers;
        let head = PublishedHead {
            changed: change,
            server: empty.clone(),
            part_count: 0,
        };
        let mut roster = Self {
            server: empty,
            part_of: Vec::new(),
            published: PublishedVirtualServer {
                head: Arc::new(head),
                parts: Vec::new(),
            },
            next_position: 0,
        };
        roster.update(server, None, change);
        roster
    }

    pub(crate) fn server(&self) -> &VirtualServer {
        &self.server
    }

    pub(crate) fn published(&self) -> &PublishedVirtualServer {
        &self.published
    }

    /// Replaces the virtual server by `server`, and returns the previous virtual server. The
    /// positions in `server` are the order of the source; all positions are 0 if the source has no
    /// order. A new real server, and a real server whose `state` changes, gets `now` as the time of
    /// this change, or no time if `now` is `None`. `change` is the number of this update among the
    /// changes of all virtual servers.
    pub(crate) fn update(
        &mut self,
        mut server: VirtualServer,
        now: Option<Timestamp>,
        change: u64,
    ) -> VirtualServer {
        server.sort_real_servers();
        let given: Vec<u64> = (server.real_servers.iter())
            .map(|real_server| real_server.history.position)
            .collect();
        let mut merge = self.merge(&mut server.real_servers, now);
        self.set_positions(&mut server.real_servers, &given, &mut merge);
        merge.assign_parts();
        self.publish(&mut server, &merge, change);
        self.part_of = merge.part_of;
        mem::replace(&mut self.server, server)
    }

    /// Gives each real server that the virtual server already had its previous position, times and
    /// part. A new real server, and a real server whose `state` has changed, gets `now` as the time
    /// of this change.
    fn merge(&self, real_servers: &mut [RealServer], now: Option<Timestamp>) -> PartAssignment {
        let parts = &self.published.parts;
        let mut merge = PartAssignment {
            part_of: vec![NO_PART; real_servers.len()],
            sizes: parts.iter().map(|part| part.real_servers.len()).collect(),
            is_dirty: vec![false; parts.len()],
            newcomers: Vec::new(),
        };
        let mut former = self
            .server
            .real_servers
            .iter()
            .zip(&self.part_of)
            .peekable();
        for (index, real_server) in real_servers.iter_mut().enumerate() {
            while let Some((_, part)) = former.next_if(|(old, _)| key(old) < key(real_server)) {
                merge.remove_from(*part);
            }
            match former.next_if(|(old, _)| key(old) == key(real_server)) {
                Some((old, part)) => {
                    real_server.history = old.history;
                    if old.state != real_server.state {
                        set_since(real_server, now);
                    }
                    merge.part_of[index] = *part;
                    merge.is_dirty[usize::from(*part)] |= old != real_server;
                }
                None => {
                    real_server.history = RealServerHistory::default();
                    set_since(real_server, now);
                    merge.newcomers.push(index);
                }
            }
        }
        former.for_each(|(_, part)| merge.remove_from(*part));
        merge
    }

    /// Gives newcomers positions after all other real servers, in the order of the source, then by
    /// address and port. If the source has an order and the positions differ from this order,
    /// numbers all real servers from 0 in the order of the source.
    fn set_positions(
        &mut self,
        real_servers: &mut [RealServer],
        given: &[u64],
        merge: &mut PartAssignment,
    ) {
        merge.newcomers.sort_by_key(|index| given[*index]);
        for index in &merge.newcomers {
            real_servers[*index].history.position = self.next_position;
            self.next_position += 1;
        }
        if given.iter().all(|position| *position == 0) {
            return;
        }
        let mut order: Vec<usize> = (0..real_servers.len()).collect();
        order.sort_by_key(|index| given[*index]);
        let position = |index: &usize| real_servers[*index].history.position;
        if order.is_sorted_by_key(position) {
            return;
        }
        self.next_position = 0;
        for index in order {
            let history = &mut real_servers[index].history;
            if let Some(is_dirty) = merge.is_dirty.get_mut(usize::from(merge.part_of[index])) {
                *is_dirty |= history.position != self.next_position;
            }
            history.position = self.next_position;
            self.next_position += 1;
        }
    }

    fn publish(&mut self, server: &mut VirtualServer, merge: &PartAssignment, change: u64) {
        let part_count = merge.sizes.len();
        let mut changed: Vec<Option<PublishedPart>> = (merge.sizes.iter().zip(&merge.is_dirty))
            .map(|(size, is_dirty)| {
                is_dirty.then(|| PublishedPart {
                    changed: change,
                    real_servers: Vec::with_capacity(*size),
                })
            })
            .collect();
        for (real_server, part) in server.real_servers.iter().zip(&merge.part_of) {
            if let Some(part) = &mut changed[usize::from(*part)] {
                part.real_servers.push(real_server.clone());
            }
        }
        let parts = &mut self.published.parts;
        parts.resize_with(part_count, Arc::default);
        for (part, changed) in parts.iter_mut().zip(changed) {
            if let Some(changed) = changed {
                *part = Arc::new(changed);
            }
        }
        let real_servers = mem::take(&mut server.real_servers);
        let head = &self.published.head;
        if head.server != *server || head.part_count != part_count {
            self.published.head = Arc::new(PublishedHead {
                changed: change,
                server: server.clone(),
                part_count,
            });
        }
        server.real_servers = real_servers;
    }
}

impl PartAssignment {
    /// Removes one real server from a part.
    fn remove_from(&mut self, part: u16) {
        let part = usize::from(part);
        self.sizes[part] -= 1;
        self.is_dirty[part] = true;
    }

    /// Puts each newcomer into the first part that is not full, and removes empty parts at the end.
    /// So a virtual server never has more parts than its largest number of real servers so far
    /// needs.
    fn assign_parts(&mut self) {
        let mut free = 0;
        for index in &self.newcomers {
            while self
                .sizes
                .get(free)
                .is_some_and(|size| *size >= LARGEST_PART)
            {
                free += 1;
            }
            if free == self.sizes.len() {
                self.sizes.push(0);
                self.is_dirty.push(true);
            }
            self.sizes[free] += 1;
            self.is_dirty[free] = true;
            self.part_of[*index] = u16::try_from(free).unwrap_or(NO_PART);
        }
        while self.sizes.last() == Some(&0) {
            self.sizes.pop();
            self.is_dirty.pop();
        }
    }
}

fn key(real_server: &RealServer) -> (IpAddr, Option<NonZeroU16>) {
    (real_server.address, real_server.port)
}

fn set_since(real_server: &mut RealServer, now: Option<Timestamp>) {
    let history = &mut real_server.history;
    (history.ready_since, history.draining_since) = match real_server.state {
        RealServerState::Ready => (now, None),
        RealServerState::Draining => (None, now),
    };
}

#[cfg(test)]
mod tests;
