//! The netlink socket.

use std::{collections::BTreeMap, io, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    Error, Family, Fingerprint, Table,
    answer::{HEADER_LEN, NLMSG_DONE, NLMSG_ERROR, messages},
    encode::{self, Request},
};

/// `NFNL_MSG_BATCH_BEGIN` and `_END` (linux/netfilter/nfnetlink.h).
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Most attempts to read a ruleset that changes during each of them.
const DUMP_ATTEMPTS: u32 = 5;

/// A transaction is one datagram.
const LARGEST_TRANSACTION: usize = 64 << 20;
/// The kernel answers before the send returns; a silence of this length is an error of the kernel
/// or of this crate. It must be noticed before other daemons take the caller for silent.
pub const NETLINK_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to the nftables of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
    sequence: u32,
}

impl Nftables {
    /// Opens the socket. Needs no privilege; the calls do.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the kernel has no netfilter netlink; else [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        let failed = |what| move |source| Error::Socket { what, source };
        let mut socket =
            Socket::new(NETLINK_NETFILTER).map_err(|source| match source.raw_os_error() {
                Some(errno) if Errno::from_raw(errno) == Errno::EPROTONOSUPPORT => {
                    Error::refused("open a netfilter socket".into(), errno)
                }
                Some(_) | None => Error::Socket {
                    what: "open",
                    source,
                },
            })?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        // Without it an error repeats the request, which may be larger than the receive buffer.
        socket
            .set_cap_ack(true)
            .map_err(failed("set NETLINK_CAP_ACK"))?;
        socket2::SockRef::from(&socket)
            .set_read_timeout(Some(NETLINK_TIMEOUT))
            .map_err(failed("set the timeout"))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Makes the kernel's table of this family and name equal to `table`, in one transaction.
    ///
    /// # Errors
    /// On any error nothing has changed. [`Error::Unsupported`] names the part of the table that
    /// the kernel has no code for.
    pub fn replace(&mut self, table: &Table) -> Result<(), Error> {
        table.validate()?;
        self.transact(&encode::replace(table))
    }

    /// Deletes a table and says whether there was one.
    ///
    /// # Errors
    /// On any error nothing has changed.
    pub fn delete(&mut self, family: Family, name: &str) -> Result<bool, Error> {
        if self.fingerprint(family, name)?.is_none() {
            return Ok(false);
        }
        self.transact(&[encode::delete(family, name)])?;
        Ok(true)
    }

    /// The fingerprint of the kernel's table; `None` without such a table. A table that this
    /// crate did not make has the fingerprint 0, which [`Table::fingerprint`] never gives.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the kernel has no nftables at all.
    pub fn fingerprint(
        &mut self,
        family: Family,
        name: &str,
    ) -> Result<Option<Fingerprint>, Error> {
        let request = encode::get(family, name);
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        self.append(&mut datagram, request.message_type, 0, &request.payload);
        self.send(&datagram)?;
        loop {
            let received = self.receive()?;
            for message in messages(&received) {
                if message.sequence != first {
                    continue;
                }
                if message.message_type != NLMSG_ERROR {
                    return Ok(Some(message.fingerprint()));
                }
                return match message.errno() {
                    errno if errno == Errno::ENOENT as i32 => Ok(None),
                    // What nfnetlink says to a subsystem that is not there.
                    errno if errno == Errno::EINVAL as i32 => {
                        Err(Error::refused(request.what, Errno::EOPNOTSUPP as i32))
                    }
                    errno => Err(Error::refused(request.what, errno)),
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
        if self.fingerprint(table.family, &table.name)? != Some(table.fingerprint()) {
            return Ok(false);
        }
        let found = self.rules_by_chain(table.family, &table.name)?;
        let wanted = table
            .chains
            .iter()
            .map(|chain| (chain.name.clone(), chain.rules.len()));
        Ok(found == wanted.collect())
    }

    /// The number of rules of each chain of a table. A ruleset that changes meanwhile is read again.
    fn rules_by_chain(
        &mut self,
        family: Family,
        name: &str,
    ) -> Result<BTreeMap<String, usize>, Error> {
        whole(|| self.read_rules_by_chain(family, name))
    }

    /// `None`: the ruleset changed while the kernel sent it, so chains may be missing.
    fn read_rules_by_chain(
        &mut self,
        family: Family,
        name: &str,
    ) -> Result<Option<BTreeMap<String, usize>>, Error> {
        let request = encode::get_chains(family);
        let sequence = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        self.append(
            &mut datagram,
            request.message_type,
            NLM_F_DUMP,
            &request.payload,
        );
        self.send(&datagram)?;
        let mut chains = BTreeMap::new();
        let mut is_interrupted = false;
        loop {
            let received = self.receive()?;
            for message in messages(&received) {
                if message.sequence != sequence {
                    continue;
                }
                is_interrupted |= message.is_interrupted();
                match message.message_type {
                    NLMSG_DONE => return Ok((!is_interrupted).then_some(chains)),
                    NLMSG_ERROR => return Err(Error::refused(request.what, message.errno())),
                    _ => {}
                }
                if let Some(chain) = message.chain()
                    && chain.table == name.as_bytes()
                {
                    chains.insert(chain.name, chain.rules);
                }
            }
        }
    }

    /// Sends requests as one transaction and waits for its end.
    fn transact(&mut self, requests: &[Request]) -> Result<(), Error> {
        let begin = self.sequence.wrapping_add(1);
        let mut marker = [0, 0, 0, 0];
        marker[2..].copy_from_slice(&SUBSYSTEM.to_be_bytes());
        let mut datagram = Vec::new();
        self.append(&mut datagram, BATCH_BEGIN, 0, &marker);
        for (index, request) in requests.iter().enumerate() {
            // Errors come unasked; one acknowledgement tells the end.
            let acknowledge = if index + 1 == requests.len() {
                NLM_F_ACK
            } else {
                0
            };
            let flags = request.flags | acknowledge;
            self.append(&mut datagram, request.message_type, flags, &request.payload);
        }
        let last = self.sequence;
        self.append(&mut datagram, BATCH_END, 0, &marker);
        self.send(&datagram)?;
        loop {
            let received = self.receive()?;
            for message in messages(&received) {
                if message.message_type != NLMSG_ERROR {
                    continue;
                }
                let index = message.sequence.wrapping_sub(begin);
                match message.errno() {
                    0 if message.sequence == last => return Ok(()),
                    0 => {}
                    errno => {
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

    fn append(&mut self, datagram: &mut Vec<u8>, message_type: u16, flags: u16, payload: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1);
        let len = (HEADER_LEN + payload.len()) as u32;
        datagram.extend(len.to_ne_bytes());
        datagram.extend(message_type.to_ne_bytes());
        datagram.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        datagram.extend(self.sequence.to_ne_bytes());
        datagram.extend(0_u32.to_ne_bytes());
        datagram.extend(payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Error> {
        // A datagram must fit into the send buffer. Only a privileged process may raise it over
        // the system's limit; without the privilege the kernel refuses the transaction anyway.
        if datagram.len() > (64 << 10) && datagram.len() <= LARGEST_TRANSACTION {
            let size = datagram.len() + (64 << 10);
            let _ = setsockopt(&self.socket, sockopt::SndBufForce, &size);
        }
        self.socket
            .send(datagram, 0)
            .map_err(|source| Error::Socket {
                what: "send",
                source,
            })?;
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => return Ok(datagram),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Socket {
                        what: "receive",
                        source,
                    });
                }
            }
        }
    }
}

/// The first whole answer, of a bounded number of attempts.
fn whole<T>(mut ask: impl FnMut() -> Result<Option<T>, Error>) -> Result<T, Error> {
    for _ in 0..DUMP_ATTEMPTS {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
    }
    Err(Error::Socket {
        what: "read the ruleset",
        source: io::Error::new(
            io::ErrorKind::Interrupted,
            format!("it changed during each of {DUMP_ATTEMPTS} attempts"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_dump_is_read_again_a_bounded_number_of_times() {
        let mut answers = [None, None, Some(7)].into_iter();
        assert_eq!(whole(|| Ok(answers.next().unwrap())).unwrap(), 7);
        let mut attempts = 0;
        let error = whole::<()>(|| {
            attempts += 1;
            Ok(None)
        });
        assert!(error.unwrap_err().to_string().contains("read the ruleset"));
        assert_eq!(attempts, DUMP_ATTEMPTS);
    }
}
