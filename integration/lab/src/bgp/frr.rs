//! FRR's `bgpd` as a client, a reflector or, with `zebra`, a router.

use std::fmt::Write as _;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, Result};
use nix::unistd::User;

use super::{AddPath, ForeignSpeaker, HOLD_TIME_SECONDS, Remote, command, family};
use crate::host::Host;
use crate::process::Process;

pub(super) fn config(speaker: &ForeignSpeaker) -> String {
    let mut text = format!(
        "log stdout\nrouter bgp {}\n bgp router-id {}\n bgp cluster-id {}\n bgp log-neighbor-changes\n \
         no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n \
         timers bgp {} {HOLD_TIME_SECONDS}\n",
        speaker.asn,
        speaker.router_id,
        speaker.router_id,
        HOLD_TIME_SECONDS / 3
    );
    let mut names = Vec::new();
    for peer in &speaker.peers {
        let name = match peer.remote {
            Remote::Address(address) => address.to_string(),
            Remote::Range(_) => {
                let _ = writeln!(text, " neighbor {} peer-group", peer.name);
                peer.name.clone()
            }
        };
        let _ = writeln!(text, " neighbor {name} remote-as {}", peer.asn);
        if let Some(password) = &peer.password {
            let _ = writeln!(text, " neighbor {name} password {password}");
        }
        if let Remote::Range(range) = peer.remote {
            let _ = writeln!(text, " bgp listen range {range} peer-group {name}");
        } else {
            let _ = writeln!(text, " neighbor {name} timers connect 1");
            let _ = writeln!(text, " neighbor {name} update-source {}", speaker.local);
            if peer.is_passive {
                let _ = writeln!(text, " neighbor {name} passive");
            }
        }
        names.push(name);
    }
    for is_v6 in [false, true] {
        let _ = writeln!(text, " address-family {} unicast", family(is_v6));
        let _ = writeln!(text, "  maximum-paths ibgp 64");
        for announcement in &speaker.announcements {
            if announcement.next_hop.is_ipv6() == is_v6 {
                let route_map = route_map(announcement.next_hop);
                let _ = writeln!(
                    text,
                    "  network {} route-map {route_map}",
                    announcement.prefix
                );
            }
        }
        for (peer, name) in speaker.peers.iter().zip(&names) {
            let _ = writeln!(text, "  neighbor {name} activate");
            if peer.is_client {
                let _ = writeln!(text, "  neighbor {name} route-reflector-client");
            }
            if peer.add_path == AddPath::Send {
                let _ = writeln!(text, "  neighbor {name} addpath-tx-all-paths");
            }
        }
        text.push_str(" exit-address-family\n");
    }
    text.push_str("exit\n");
    for announcement in &speaker.announcements {
        let set = match announcement.next_hop.is_ipv6() {
            false => format!("ip next-hop {}", announcement.next_hop),
            true => format!("ipv6 next-hop global {}", announcement.next_hop),
        };
        let name = route_map(announcement.next_hop);
        let _ = writeln!(text, "route-map {name} permit 10\n set {set}\nexit");
    }
    text
}

fn route_map(next_hop: std::net::IpAddr) -> String {
    format!("via-{next_hop}")
}

pub(super) fn start(host: &Host, config: &str, speaker: &ForeignSpeaker) -> Result<Process> {
    let file = host.write("bgpd.conf", config)?;
    // With the option `-N NAME` FRR keeps its sockets in /run/frr/NAME, so several FRR can run.
    let space = host.name().to_owned();
    let sockets = Path::new("/run/frr").join(&space);
    let here = || format!("create {}", sockets.display());
    std::fs::create_dir_all(&sockets).with_context(here)?;
    // zebra changes from root to the user frr, so frr must own the folder.
    let user = User::from_name("frr")?
        .context("the user frr does not exist; install the Debian package frr")?;
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    chown(&sockets, Some(uid), Some(gid)).with_context(here)?;
    let common = ["-N", &space, "-P", "0", "--log", "stdout"];
    if speaker.installs_routes {
        let mut zebra = command("/usr/lib/frr/zebra", &common);
        zebra.args(["-f", "/dev/null", "-i"]);
        zebra.arg(sockets.join("zebra.pid"));
        host.start("zebra", zebra)?;
        crate::wait_for("zebra has created its socket", super::START, || {
            crate::ensure_that(
                sockets.join("zserv.api").exists(),
                "the socket zserv.api does not exist",
            )
        })?;
    }
    let mut bgpd = command("/usr/lib/frr/bgpd", &common);
    bgpd.args(["-S", "-l", &speaker.local.to_string(), "-f"]);
    bgpd.arg(file).arg("-i").arg(sockets.join("bgpd.pid"));
    if !speaker.installs_routes {
        bgpd.args(["-Z", "-n"]);
    }
    host.start("bgpd", bgpd)
}

pub(super) fn ask(host: &Host, command: &str) -> Result<String> {
    host.output("vtysh", ["-N", host.name(), "-d", "bgpd", "-c", command])
}
