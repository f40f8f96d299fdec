//! Transactions and reads over a netlink socket.

use std::{collections::BTreeMap, io};

use netlink_socket::{
    DUMP_ATTEMPTS, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, NetlinkSocket, messages,
    read_uninterrupted,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::{
    NftablesError, NftablesTable, TableFingerprint, answer,
    encode::{self, NftablesRequest},
};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Number of nftables among the subsystems of nfnetlink: `NFNL_SUBSYS_NFTABLES`
/// (linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u16 = 10;

/// Size in bytes up to which the send buffer is enlarged for a transaction. A transaction must fit
/// into one datagram.
const LARGEST_TRANSACTION: usize = 64 << 20;

/// A connection to the nftables of the kernel, in the network namespace of the thread that opened
/// the connection.
#[derive(Debug)]
pub struct Nftables {
    socket: NetlinkSocket,
}

impl Nftables {
    /// Opens the netlink socket. Opening needs no privilege, in contrast to the other functions.
    ///
    /// # Errors
    /// [`NftablesError::Unsupported`] if the kernel lacks the netlink protocol of netfilter,
    /// otherwise [`NftablesError::Socket`].
    pub fn open() -> Result<Self, NftablesError> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(|error| {
            if error.errno == Errno::EPROTONOSUPPORT {
                NftablesError::from_errno("open a netfilter socket".into(), error.errno)
            } else {
                error.into()
            }
        })?;
        Ok(Self { socket })
    }

    /// Makes the kernel's table with the name of `table` equal to `table`, in one transaction.
    ///
    /// # Errors
    /// After every error the kernel has the previous table. [`NftablesError::Unsupported`] names
    /// the part of the table that the kernel does not support.
    pub fn replace(&mut self, table: &NftablesTable) -> Result<(), NftablesError> {
        table.validate()?;
        self.transact(&encode::replace(table))
    }

    /// Returns the fingerprint of the kernel's table, or `None` if the kernel has no table of this
    /// name. A table that this crate did not write has the fingerprint 0.
    /// [`NftablesTable::fingerprint`] never returns 0.
    ///
    /// # Errors
    /// [`NftablesError::Unsupported`] if the kernel lacks nftables.
    pub fn fingerprint(&mut self, name: &str) -> Result<Option<TableFingerprint>, NftablesError> {
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
                    // nfnetlink answers `EINVAL` if the kernel lacks the nftables subsystem.
                    Some(Errno::EINVAL) => Err(NftablesError::from_errno(
                        request.operation,
                        Errno::EOPNOTSUPP,
                    )),
                    Some(errno) => Err(NftablesError::from_errno(request.operation, errno)),
                };
            }
        }
    }

    /// Reports whether the kernel's table is equal to `table`. The function compares the
    /// fingerprint and the number of rules of each chain. So it detects rules that another program
    /// added or removed, but no rule that another program replaced.
    ///
    /// # Errors
    /// [`NftablesError::Unsupported`] if the kernel lacks nftables.
    pub fn holds(&mut self, table: &NftablesTable) -> Result<bool, NftablesError> {
        if self.fingerprint(&table.name)? != Some(table.fingerprint()) {
            return Ok(false);
        }
        let actual = self.rules_by_chain(&table.name)?;
        let desired = table
            .chains
            .iter()
            .map(|chain| (chain.name.clone(), chain.rules.len()));
        Ok(actual == desired.collect())
    }

    /// Returns the number of rules of each chain of a table. Reads the chains again if the ruleset
    /// changes during the read.
    fn rules_by_chain(&mut self, name: &str) -> Result<BTreeMap<String, usize>, NftablesError> {
        read_uninterrupted(|| self.read_rules_by_chain(name))?.ok_or_else(|| {
            NftablesError::Socket {
                what: "read the ruleset",
                source: io::Error::new(
                    io::ErrorKind::Interrupted,
                    format!("the ruleset changed during each of {DUMP_ATTEMPTS} attempts"),
                ),
            }
        })
    }

    /// Returns the number of rules of each chain of a table. Returns `None` if the ruleset changed
    /// while the kernel sent the chains, because chains can then be missing.
    fn read_rules_by_chain(
        &mut self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, usize>>, NftablesError> {
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
                        return Err(NftablesError::from_errno(request.operation, errno));
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

    /// Sends requests as one transaction, and waits until the kernel has applied or refused the
    /// transaction.
    fn transact(&mut self, requests: &[NftablesRequest]) -> Result<(), NftablesError> {
        let mut marker = [0, 0, 0, 0];
        marker[2..].copy_from_slice(&SUBSYSTEM.to_be_bytes());
        let mut datagram = Vec::new();
        let begin = self.socket.append(&mut datagram, BATCH_BEGIN, 0, &marker);
        let mut last = begin;
        for (index, request) in requests.iter().enumerate() {
            // The kernel reports the error of every request, also without `NLM_F_ACK`. Only the
            // last request asks for an acknowledgement, which shows that all requests succeeded.
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
                            // If the kernel rejects the whole batch, its answer refers to the
                            // header of the batch, which is the message with index 0.
                            0 => "start a transaction".to_owned(),
                            _ => match requests.get(index as usize - 1) {
                                Some(request) => request.operation.clone(),
                                // The message answers an earlier transaction whose answer did not
                                // arrive in time.
                                None => continue,
                            },
                        };
                        return Err(NftablesError::from_errno(what, errno));
                    }
                }
            }
        }
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), NftablesError> {
        // A datagram must fit into the send buffer. Only a privileged process can enlarge the
        // buffer beyond `net.core.wmem_max`. For an unprivileged process the kernel would refuse
        // the transaction even if the datagram fitted.
        if datagram.len() > (64 << 10) && datagram.len() <= LARGEST_TRANSACTION {
            let size = datagram.len() + (64 << 10);
            self.socket.set_send_buffer(size);
        }
        self.socket.send(datagram)?;
        Ok(())
    }
}
