//! `gobgpd` as a client or a reflector.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Result, bail};

use super::{AddPath, AnnouncedPrefix, ForeignSpeaker, HOLD_TIME_SECONDS, Remote, command, family};
use crate::host::Host;
use crate::process::Process;

/// Address of gobgpd's API. It is not gobgpd's default port, because a daemon of portlb listens on
/// that port.
const API: &str = "127.0.0.1:50099";

pub(super) fn config(speaker: &ForeignSpeaker) -> String {
    let mut text = format!(
        "[global.config]\nas = {}\nrouter-id = \"{}\"\nlocal-address-list = [\"{}\"]\n",
        speaker.asn, speaker.router_id, speaker.local
    );
    for peer in &speaker.peers {
        let (table, identity) = match peer.remote {
            Remote::Address(address) => ("neighbors", format!("neighbor-address = \"{address}\"")),
            Remote::Range(_) => (
                "peer-groups",
                format!("peer-group-name = \"{}\"", peer.name),
            ),
        };
        let password = match &peer.password {
            Some(password) => format!("auth-password = \"{password}\"\n"),
            None => String::new(),
        };
        let _ = write!(
            text,
            "[[{table}]]\n[{table}.config]\n{identity}\npeer-as = {}\n{password}\
             [{table}.timers.config]\nhold-time = {HOLD_TIME_SECONDS}\nkeepalive-interval = {}\n\
             connect-retry = 1\nidle-hold-time-after-reset = 1\n[{table}.transport.config]\nlocal-address = \"{}\"\n",
            peer.asn,
            HOLD_TIME_SECONDS / 3,
            speaker.local
        );
        if peer.is_passive {
            text.push_str("passive-mode = true\n");
        }
        if peer.is_client {
            let _ = write!(
                text,
                "[{table}.route-reflector.config]\nroute-reflector-client = true\n\
                 route-reflector-cluster-id = \"{}\"\n",
                speaker.router_id
            );
        }
        for family in ["ipv4", "ipv6"] {
            let _ = write!(
                text,
                "[[{table}.afi-safis]]\n[{table}.afi-safis.config]\nafi-safi-name = \"{family}-unicast\"\n"
            );
            let add_path = match peer.add_path {
                AddPath::No => continue,
                AddPath::Receive => "receive = true",
                AddPath::Send => "send-max = 64",
            };
            let _ = write!(text, "[{table}.afi-safis.add-paths.config]\n{add_path}\n");
        }
        if let Remote::Range(range) = peer.remote {
            let _ = write!(
                text,
                "[[dynamic-neighbors]]\n[dynamic-neighbors.config]\nprefix = \"{range}\"\npeer-group = \"{}\"\n",
                peer.name
            );
        }
    }
    text
}

pub(super) fn start(host: &Host, config: &str, speaker: &ForeignSpeaker) -> Result<Process> {
    if speaker.installs_routes {
        bail!(
            "gobgpd cannot install routes: it panics with Debian's zebra; use BIRD or FRR as the router"
        );
    }
    let file = host.write("gobgpd.toml", config)?;
    let mut gobgpd = command(
        "gobgpd",
        &["--api-hosts", API, "--pprof-disable", "-t", "toml", "-f"],
    );
    gobgpd.arg(file);
    let process = host.start("gobgpd", gobgpd)?;
    for AnnouncedPrefix { prefix, next_hop } in &speaker.announcements {
        let family = family(matches!(next_hop, IpAddr::V6(_)));
        let command = format!("global rib add {prefix} nexthop {next_hop} -a {family}");
        crate::wait_for("gobgpd accepts an announcement", super::START, || {
            ask(host, &command).map(drop)
        })?;
    }
    Ok(process)
}

pub(super) fn ask(host: &Host, command: &str) -> Result<String> {
    let port = API.split(':').nth(1).unwrap_or_default();
    let words = ["-p", port].into_iter().chain(command.split(' '));
    host.output("gobgp", words)
}
