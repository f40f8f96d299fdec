//! exabgp as a BGP speaker that only announces.

use std::fmt::Write as _;

use anyhow::Result;

use super::{ForeignSpeaker, HOLD_TIME_SECONDS, Remote, command};
use crate::host::Host;
use crate::process::Process;

pub(super) fn config(speaker: &ForeignSpeaker) -> String {
    let mut text = String::new();
    for peer in &speaker.peers {
        let (Remote::Address(address), asn) = (peer.remote, peer.asn) else {
            continue;
        };
        let password = match &peer.password {
            Some(password) => format!("md5-password \"{password}\";"),
            None => String::new(),
        };
        let _ = write!(
            text,
            "neighbor {address} {{\n  router-id {};\n  local-address {};\n  local-as {};\n  \
             peer-as {asn};\n  hold-time {HOLD_TIME_SECONDS};\n  {password}\n  \
             family {{ ipv4 unicast; ipv6 unicast; }}\n  static {{\n",
            speaker.router_id, speaker.local, speaker.asn
        );
        for announcement in &speaker.announcements {
            let _ = writeln!(
                text,
                "    route {} next-hop {};",
                announcement.prefix, announcement.next_hop
            );
        }
        text.push_str("  }\n}\n");
    }
    text
}

pub(super) fn start(host: &Host, config: &str) -> Result<Process> {
    let file = host.write("exabgp.conf", config)?;
    let mut exabgp = command("exabgp", &[]);
    exabgp
        .arg(file)
        .env("exabgp.daemon.user", "root")
        .env("exabgp.daemon.drop", "false")
        .env("exabgp.api.cli", "false")
        .env("exabgp.log.destination", "stdout");
    host.start("exabgp", exabgp)
}
