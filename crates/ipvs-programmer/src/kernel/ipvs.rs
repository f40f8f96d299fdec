//! Access to the IPVS table over generic netlink.

use std::{collections::BTreeMap, net::SocketAddr};

use data_plane::ConnectionCounts;
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_ipvs::{FAMILY_NAME, IpvsMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;
use virtual_server::{EntryKey, EntrySettings, TableChange, TableEntry, VirtualServerTable};

use super::FailedChange;
use crate::{
    error::IpvsKernelError,
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
    pub(super) fn open() -> Result<Self, IpvsKernelError> {
        let failed = |source| IpvsKernelError::Netlink {
            operation: "open the netlink socket of IPVS",
            source,
        };
        let mut netlink = Netlink::open(NETLINK_GENERIC).map_err(failed)?;
        // This request makes the kernel load the module ip_vs, if the host has the module.
        let family_id = match family_id(&mut netlink) {
            Ok(Some(family_id)) => family_id,
            Ok(None) | Err(NetlinkError::Refused(Errno::ENOENT)) => {
                return Err(IpvsKernelError::NoIpvs);
            }
            Err(source) => return Err(failed(source)),
        };
        let mut ipvs = Self { netlink, family_id };
        ipvs.read_settings()?;
        Ok(ipvs)
    }

    pub(super) fn read_table(&mut self) -> Result<VirtualServerTable, IpvsKernelError> {
        let mut table = VirtualServerTable::default();
        for (key, settings) in self.read_settings()? {
            // An entry that was removed after the request for the settings of all entries is
            // omitted.
            if let Some(real_servers) = self.read_real_servers(key)? {
                let real_servers = real_servers
                    .into_iter()
                    .map(|(address, entry, _)| (address, entry))
                    .collect();
                table.entries.insert(
                    key,
                    TableEntry {
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
    ) -> Result<BTreeMap<EntryKey, EntrySettings>, IpvsKernelError> {
        let request = self.message(translate::get_services());
        let answers = self
            .netlink
            .dump(request)
            .map_err(kernel_error("read the IPVS table"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| translate::service(&answer.payload))
            .collect())
    }

    pub(super) fn read_entry(
        &mut self,
        key: EntryKey,
    ) -> Result<Option<TableEntry>, IpvsKernelError> {
        let request = self.message(translate::get_service(key));
        let answer = match self.netlink.get(request) {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(NetlinkError::Refused(Errno::ESRCH)) => return Ok(None),
            Err(source) => return Err(kernel_error("read a virtual server")(source)),
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
        Ok(Some(TableEntry {
            settings,
            real_servers,
        }))
    }

    pub(super) fn read_connections(
        &mut self,
        key: EntryKey,
    ) -> Result<BTreeMap<SocketAddr, ConnectionCounts>, IpvsKernelError> {
        let real_servers = self.read_real_servers(key)?.unwrap_or_default();
        Ok(real_servers
            .into_iter()
            .map(|(address, _, connections)| (address, connections))
            .collect())
    }

    fn read_real_servers(
        &mut self,
        key: EntryKey,
    ) -> Result<Option<Vec<translate::KernelRealServer>>, IpvsKernelError> {
        let request = self.message(translate::get_destinations(key));
        match self.netlink.dump(request) {
            Ok(answers) => Ok(Some(
                answers
                    .iter()
                    .filter_map(|answer| translate::real_server(&answer.payload, key.family()))
                    .collect(),
            )),
            Err(NetlinkError::Refused(Errno::ESRCH)) => Ok(None),
            Err(source) => Err(kernel_error("read real servers")(source)),
        }
    }

    pub(super) fn apply(
        &mut self,
        changes: &[TableChange],
    ) -> Result<Vec<FailedChange>, IpvsKernelError> {
        let requests = changes
            .iter()
            .map(|change| self.message(translate::request(change)))
            .collect();
        let failed = self
            .netlink
            .batch(requests)
            .map_err(kernel_error("change the IPVS table"))?;
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

/// Returns the generic netlink family id of IPVS, or `None` if the kernel has no IPVS.
fn family_id(netlink: &mut Netlink) -> Result<Option<u16>, NetlinkError> {
    let request = GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY_NAME.to_owned())],
    };
    let answer = netlink.get(GenlMessage::from_payload(request))?;
    let attributes = answer.map(|answer| answer.payload.nlas).unwrap_or_default();
    Ok(attributes.into_iter().find_map(|attribute| {
        if let GenlCtrlAttrs::FamilyId(id) = attribute {
            Some(id)
        } else {
            None
        }
    }))
}

/// Reports whether the error means that the entry is already in the requested state (ip_vs_ctl.c).
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

fn kernel_error(operation: &'static str) -> impl Fn(NetlinkError) -> IpvsKernelError {
    move |source| IpvsKernelError::of(operation, source)
}
