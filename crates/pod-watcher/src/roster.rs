//! Positions and parts of the real servers of one virtual server. Pure: time is a parameter.

use std::{mem, net::IpAddr, num::NonZeroU16, sync::Arc};

use daemon_api::{LARGEST_PART, MOST_PARTS};
use virtual_server::{RealServer, RealServerHistory, RealServerState, Timestamp, VirtualServer};

const _: () = assert!(MOST_PARTS <= u16::MAX as usize);

/// Published form of a virtual server: a change copies no part that it leaves alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parted {
    pub(crate) head: Arc<Head>,
    pub(crate) parts: Vec<Arc<Part>>,
}

impl Parted {
    /// Returns the virtual server with its real servers by their positions.
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
pub(crate) struct Head {
    /// Number of the change that made it.
    pub(crate) changed: u64,
    /// Its real servers are empty.
    pub(crate) server: VirtualServer,
    pub(crate) part_count: usize,
}

/// Some real servers of a virtual server.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// Number of the change that made it.
    pub(crate) changed: u64,
    pub(crate) real_servers: Vec<RealServer>,
}

/// A virtual server with the position and the part of each of its real servers.
#[derive(Debug)]
pub(crate) struct Roster {
    server: VirtualServer,
    /// The part of each real server, in their order.
    part_of: Vec<u16>,
    published: Parted,
    next_position: u64,
}

/// The real servers of a new state among the parts of the former one.
struct Merge {
    /// The part of each real server, in their order.
    part_of: Vec<u16>,
    /// Real servers in each part.
    sizes: Vec<usize>,
    is_dirty: Vec<bool>,
    /// Indexes of the real servers that have no part.
    newcomers: Vec<usize>,
}

/// The part of a real server that has none yet.
const NO_PART: u16 = u16::MAX;

impl Roster {
    /// A virtual server that the source lists for the first time. Its real servers may have existed
    /// for long, so nothing says since when they are ready.
    pub(crate) fn new(mut server: VirtualServer, change: u64) -> Self {
        let real_servers = mem::take(&mut server.real_servers);
        let empty = server.clone();
        server.real_servers = real_servers;
        let head = Head {
            changed: change,
            server: empty.clone(),
            part_count: 0,
        };
        let mut roster = Self {
            server: empty,
            part_of: Vec::new(),
            published: Parted {
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

    pub(crate) fn published(&self) -> &Parted {
        &self.published
    }

    /// Takes the newest state of the virtual server over, in which the source gives its own order
    /// as positions, or none. Returns the state before.
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

    /// Copies history and part to each real server that stays listed.
    fn merge(&self, real_servers: &mut [RealServer], now: Option<Timestamp>) -> Merge {
        let parts = &self.published.parts;
        let mut merge = Merge {
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
                merge.leave(*part);
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
        former.for_each(|(_, part)| merge.leave(*part));
        merge
    }

    /// Puts newcomers behind all others, in the order that the source gives, then by address and
    /// port. Numbers all real servers again if the source has another order.
    fn set_positions(&mut self, real_servers: &mut [RealServer], given: &[u64], merge: &mut Merge) {
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

    fn publish(&mut self, server: &mut VirtualServer, merge: &Merge, change: u64) {
        let part_count = merge.sizes.len();
        let mut changed: Vec<Option<Part>> = (merge.sizes.iter().zip(&merge.is_dirty))
            .map(|(size, is_dirty)| {
                is_dirty.then(|| Part {
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
            self.published.head = Arc::new(Head {
                changed: change,
                server: server.clone(),
                part_count,
            });
        }
        server.real_servers = real_servers;
    }
}

impl Merge {
    /// A real server has left its part.
    fn leave(&mut self, part: u16) {
        let part = usize::from(part);
        self.sizes[part] -= 1;
        self.is_dirty[part] = true;
    }

    /// Puts each newcomer into the first part with a free place, so that there are never more parts
    /// than the most real servers that were listed at once have needed.
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
