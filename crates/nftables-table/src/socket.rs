//! The netlink socket.

use std::{collections::BTreeMap, io};

use netlink_socket::{
    DUMP_ATTEMPTS, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, NetlinkSocket, messages, whole,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::{
    Error, Fingerprint, Table, answer,
    encode::{self, Request},
};

/// `NFNL_MSG_BATCH_BEGIN` and `_END` (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;

/// A transaction is one datagram.
const LARGEST_TRANSACTION: usize = 64 << 20;

/// A connection to the nftables of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Nftables {
    socket: NetlinkSocket,
}

impl Nftables {
    /// Opens the socket. Needs no privilege; the calls do.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the kernel has no netfilter netlink; else [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(|error| {
            if error.errno == Errno::EPROTONOSUPPORT {
                Error::refused("open a netfilter socket".into(), error.errno)
            } else {
                error.into()
            }
        })?;
        Ok(Self { socket })
    }

    /// Makes the kernel's table of this name equal to `table`, in one transaction.
    ///
    /// # Errors
    /// On any error nothing has changed. [`Error::Unsupported`] names the part of the table that
    /// the kernel has no code for.
    pub fn replace(&mut self, table: &Table) -> Result<(), Error> {
        table.validate()?;
        self.transact(&encode::replace(table))
    }

    /// The fingerprint of the kernel's table; `None` without such a table. A table that this
    /// crate did not make has the fingerprint 0, which [`Table::fingerprint`] never gives.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the kernel has no nftables at all.
    pub fn fingerprint(&mut self, name: &str) -> Result<Option<Fingerprint>, Error> {
        let request = encode::get(name);
        let mut datagram = Vec::new();
        let first = self
            .socket
            .append(&mut datagram, request.message_type, 0, &request.payload);
        self.send(&datagram)?;
        loop {
            let received = self.socket.receive()?;
            for message in messages(&received) {
                if message.sequence != first {
                    continue;
                }
                if message.message_type != NLMSG_ERROR {
                    return Ok(Some(answer::fingerprint(&message)));
                }
                return match message.errno() {
                    None => continue,
                    Some(Errno::ENOENT) => Ok(None),
                    // What nfnetlink says to a subsystem that is not there.
                    Some(Errno::EINVAL) => Err(Error::refused(request.what, Errno::EOPNOTSUPP)),
                    Some(errno) => Err(Error::refused(request.what, errno)),
                };
            }
        }
    }

    /// Whether the kernel's table is this one. Notices also rules that somebody added or took away,
    /// by their number, but not one that was changed in its place.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the kernel has no nftables at all.
    pub fn holds(&mut self, table: &Table) -> Result<bool, Error> {
        if self.fingerprint(&table.name)? != Some(table.fingerprint()) {
            return Ok(false);
        }
        let found = self.rules_by_chain(&table.name)?;
        let wanted = table
            .chains
            .iter()
            .map(|chain| (chain.name.clone(), chain.rules.len()));
        Ok(found == wanted.collect())
    }

    /// The number of rules of each chain of a table. A ruleset that changes meanwhile is read again.
    fn rules_by_chain(&mut self, name: &str) -> Result<BTreeMap<String, usize>, Error> {
        whole(|| self.read_rules_by_chain(name))?.ok_or_else(|| Error::Socket {
            what: "read the ruleset",
            source: io::Error::new(
                io::ErrorKind::Interrupted,
                format!("it changed during each of {DUMP_ATTEMPTS} attempts"),
            ),
        })
    }

    /// `None`: the ruleset changed while the kernel sent it, so chains may be missing.
    fn read_rules_by_chain(
        &mut self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, usize>>, Error> {
        let request = encode::get_chains();
        let mut datagram = Vec::new();
        let sequence = self.socket.append(
            &mut datagram,
            request.message_type,
            NLM_F_DUMP,
            &request.payload,
        );
        self.send(&datagram)?;
        let mut chains = BTreeMap::new();
        let mut is_interrupted = false;
        loop {
            let received = self.socket.receive()?;
            for message in messages(&received) {
                if message.sequence != sequence {
                    continue;
                }
                is_interrupted |= message.is_interrupted();
                match message.message_type {
                    NLMSG_DONE => return Ok((!is_interrupted).then_some(chains)),
                    NLMSG_ERROR => {
                        let errno = message.errno().unwrap_or(Errno::EBADMSG);
                        return Err(Error::refused(request.what, errno));
                    }
                    _ => {}
                }
                if let Some(chain) = answer::chain(&message)
                    && chain.table == name.as_bytes()
                {
                    chains.insert(chain.name, chain.rules);
                }
            }
        }
    }

    /// Sends requests as one transaction and waits for its end.
    fn transact(&mut self, requests: &[Request]) -> Result<(), Error> {
        let mut marker = [0, 0, 0, 0];
        marker[2..].copy_from_slice(&SUBSYSTEM.to_be_bytes());
        let mut datagram = Vec::new();
        let begin = self.socket.append(&mut datagram, BATCH_BEGIN, 0, &marker);
        let mut last = begin;
        for (index, request) in requests.iter().enumerate() {
            // Errors come unasked; one acknowledgement tells the end.
            let acknowledge = if index + 1 == requests.len() {
                NLM_F_ACK
            } else {
                0
            };
            let flags = request.flags | acknowledge;
            last = self
                .socket
                .append(&mut datagram, request.message_type, flags, &request.payload);
        }
        self.socket.append(&mut datagram, BATCH_END, 0, &marker);
        self.send(&datagram)?;
        loop {
            let received = self.socket.receive()?;
            for message in messages(&received) {
                if message.message_type != NLMSG_ERROR {
                    continue;
                }
                let index = message.sequence.wrapping_sub(begin);
                match message.errno() {
                    None if message.sequence == last => return Ok(()),
                    None => {}
                    Some(errno) => {
                        let what = match index {
                            // The kernel answers to the start of a batch that it takes no part of.
                            0 => "start a transaction".to_owned(),
                            _ => match requests.get(index as usize - 1) {
                                Some(request) => request.what.clone(),
                                // The answer to an earlier transaction that timed out.
                                None => continue,
                            },
                        };
                        return Err(Error::refused(what, errno));
                    }
                }
            }
        }
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Error> {
        // A datagram must fit into the send buffer. Only a privileged process may raise it over
        // the system's limit; without the privilege the kernel refuses the transaction anyway.
        if datagram.len() > (64 << 10) && datagram.len() <= LARGEST_TRANSACTION {
            let size = datagram.len() + (64 << 10);
            self.socket.set_send_buffer(size);
        }
        self.socket.send(datagram)?;
        Ok(())
    }
}
