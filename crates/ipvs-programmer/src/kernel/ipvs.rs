//! The IPVS table over generic netlink.

use std::{collections::BTreeMap, net::SocketAddr};

use data_plane::Connections;
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_ipvs::{FAMILY_NAME, IpvsMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;
use virtual_server::{Entry, EntryKey, EntrySettings, Table, TableChange};

use super::FailedChange;
use crate::{
    error::KernelError,
    netlink::{Netlink, NetlinkError},
    translate,
};

/// The IPVS table of one network namespace.
#[derive(Debug)]
pub(super) struct Ipvs {
    netlink: Netlink,
    family_id: u16,
}

impl Ipvs {
    pub(super) fn open() -> Result<Self, KernelError> {
        let failed = |source| KernelError::Netlink {
            operation: "open the IPVS table",
            source,
        };
        let mut netlink = Netlink::open(NETLINK_GENERIC).map_err(failed)?;
        // The kernel loads the module ip_vs at this question, where the host has it.
        let family_id = match family_id(&mut netlink) {
            Ok(Some(family_id)) => family_id,
            Ok(None) | Err(NetlinkError::Refused(Errno::ENOENT)) => {
                return Err(KernelError::NoIpvs);
            }
            Err(source) => return Err(failed(source)),
        };
        let mut ipvs = Self { netlink, family_id };
        ipvs.read_settings()?;
        Ok(ipvs)
    }

    pub(super) fn read_table(&mut self) -> Result<Table, KernelError> {
        let mut table = Table::default();
        for (key, settings) in self.read_settings()? {
            // One that is gone since is left out.
            if let Some(real_servers) = self.read_real_servers(key)? {
                let real_servers = real_servers
                    .into_iter()
                    .map(|(address, entry, _)| (address, entry))
                    .collect();
                table.entries.insert(
                    key,
                    Entry {
                        settings,
                        real_servers,
                    },
                );
            }
        }
        Ok(table)
    }

    pub(super) fn read_settings(
        &mut self,
    ) -> Result<BTreeMap<EntryKey, EntrySettings>, KernelError> {
        let request = self.message(translate::get_services());
        let answers = self
            .netlink
            .dump(request)
            .map_err(permitted("read the IPVS table"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| translate::service(&answer.payload))
            .collect())
    }

    pub(super) fn read_entry(&mut self, key: EntryKey) -> Result<Option<Entry>, KernelError> {
        let request = self.message(translate::get_service(key));
        let answer = match self.netlink.get(request) {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(NetlinkError::Refused(Errno::ESRCH)) => return Ok(None),
            Err(source) => return Err(permitted("read a virtual server")(source)),
        };
        let Some((_, settings)) = translate::service(&answer.payload) else {
            return Ok(None);
        };
        let Some(real_servers) = self.read_real_servers(key)? else {
            return Ok(None);
        };
        let real_servers = real_servers
            .into_iter()
            .map(|(address, entry, _)| (address, entry))
            .collect();
        Ok(Some(Entry {
            settings,
            real_servers,
        }))
    }

    pub(super) fn read_connections(
        &mut self,
        key: EntryKey,
    ) -> Result<BTreeMap<SocketAddr, Connections>, KernelError> {
        let real_servers = self.read_real_servers(key)?.unwrap_or_default();
        Ok(real_servers
            .into_iter()
            .map(|(address, _, connections)| (address, connections))
            .collect())
    }

    fn read_real_servers(
        &mut self,
        key: EntryKey,
    ) -> Result<Option<Vec<translate::FoundRealServer>>, KernelError> {
        let request = self.message(translate::get_destinations(key));
        match self.netlink.dump(request) {
            Ok(answers) => Ok(Some(
                answers
                    .iter()
                    .filter_map(|answer| translate::real_server(&answer.payload, key.family()))
                    .collect(),
            )),
            Err(NetlinkError::Refused(Errno::ESRCH)) => Ok(None),
            Err(source) => Err(permitted("read real servers")(source)),
        }
    }

    pub(super) fn apply(
        &mut self,
        changes: &[TableChange],
    ) -> Result<Vec<FailedChange>, KernelError> {
        let requests = changes
            .iter()
            .map(|change| self.message(translate::request(change)))
            .collect();
        let failed = self
            .netlink
            .batch(requests)
            .map_err(permitted("change the IPVS table"))?;
        Ok(failed
            .into_iter()
            .filter(|failed| !is_done_already(&changes[failed.index], failed.errno))
            .map(|failed| FailedChange {
                index: failed.index,
                errno: failed.errno,
            })
            .collect())
    }

    fn message(&self, message: IpvsMessage) -> GenlMessage<IpvsMessage> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family_id);
        message
    }
}

/// The number that the kernel gave the family; `None` without IPVS.
fn family_id(netlink: &mut Netlink) -> Result<Option<u16>, NetlinkError> {
    let question = GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY_NAME.to_owned())],
    };
    let answer = netlink.get(GenlMessage::from_payload(question))?;
    let attributes = answer.map(|answer| answer.payload.nlas).unwrap_or_default();
    Ok(attributes.into_iter().find_map(|attribute| {
        if let GenlCtrlAttrs::FamilyId(id) = attribute {
            Some(id)
        } else {
            None
        }
    }))
}

/// The kernel's words for "it is as you want it" (ip_vs_ctl.c).
fn is_done_already(change: &TableChange, errno: Errno) -> bool {
    match change {
        TableChange::AddVirtualServer(..) | TableChange::AddRealServer(..) => {
            errno == Errno::EEXIST
        }
        TableChange::RemoveVirtualServer(_) => errno == Errno::ESRCH,
        TableChange::RemoveRealServer(..) => errno == Errno::ENOENT || errno == Errno::ESRCH,
        TableChange::SetVirtualServer(..) | TableChange::SetRealServer(..) => false,
    }
}

fn permitted(operation: &'static str) -> impl Fn(NetlinkError) -> KernelError {
    move |source| KernelError::of(operation, source)
}
