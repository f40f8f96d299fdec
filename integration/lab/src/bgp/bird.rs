//! BIRD 2 as a client, a reflector or a router.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use super::{AddPath, ForeignPeer, ForeignSpeaker, HOLD_TIME_SECONDS, Remote, command, family};
use crate::host::Host;
use crate::process::Process;

pub(super) fn config(speaker: &ForeignSpeaker) -> String {
    let mut text = format!(
        "log stderr all;\n\
         router id {};\n\
         protocol device {{ scan time 1; }}\n\
         protocol direct {{ ipv4; ipv6; }}\n",
        speaker.router_id
    );
    if speaker.installs_routes {
        for family in ["ipv4", "ipv6"] {
            let _ = writeln!(
                text,
                "protocol kernel {{ merge paths yes limit 64; {family} {{ import none; \
                 export where source = RTS_BGP; }}; }}"
            );
        }
    }
    for is_v6 in [false, true] {
        let own = |a: &&super::AnnouncedPrefix| a.next_hop.is_ipv6() == is_v6;
        if !speaker.announcements.iter().any(|a| own(&a)) {
            continue;
        }
        let family = family(is_v6);
        let _ = writeln!(text, "protocol static own_{family} {{ {family};");
        for announcement in speaker.announcements.iter().filter(own) {
            let _ = writeln!(
                text,
                "  route {} blackhole {{ bgp_next_hop = {}; }};",
                announcement.prefix, announcement.next_hop
            );
        }
        text.push_str("}\n");
    }
    for peer in &speaker.peers {
        write_peer(&mut text, speaker, peer);
    }
    text
}

fn write_peer(text: &mut String, speaker: &ForeignSpeaker, peer: &ForeignPeer) {
    let _ = writeln!(
        text,
        "protocol bgp peer_{} {{\n  local {} as {};\n  hold time {HOLD_TIME_SECONDS};\n  \
         connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 1;",
        peer.name.replace('-', "_"),
        speaker.local,
        speaker.asn
    );
    match peer.remote {
        Remote::Address(address) => {
            let _ = writeln!(text, "  neighbor {address} as {};", peer.asn);
        }
        Remote::Range(range) => {
            let _ = writeln!(text, "  neighbor range {range} as {};", peer.asn);
        }
    }
    if let Some(password) = &peer.password {
        let _ = writeln!(text, "  password \"{password}\";");
    }
    if peer.is_passive {
        text.push_str("  passive;\n");
    }
    if peer.is_client {
        let _ = writeln!(text, "  rr client;\n  rr cluster id {};", speaker.router_id);
    }
    let export = match (speaker.reflects(), speaker.announcements.is_empty()) {
        (true, _) => "export where source = RTS_BGP || source = RTS_STATIC",
        (false, false) => "export where source = RTS_STATIC",
        (false, true) => "export none",
    };
    let add_path = match peer.add_path {
        AddPath::No => "",
        AddPath::Receive => " add paths rx;",
        AddPath::Send => " add paths tx;",
    };
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(text, "  {family} {{ import all; {export};{add_path} }};");
    }
    text.push_str("}\n");
}

pub(super) fn start(host: &Host, config: &str, run: &Path) -> Result<Process> {
    let file = host.write("bird.conf", config)?;
    let mut bird = command("bird", &["-f", "-c"]);
    bird.arg(file).arg("-s").arg(run.join("bird.ctl"));
    bird.arg("-P").arg(run.join("bird.pid"));
    host.start("bird", bird)
}

pub(super) fn ask(host: &Host, run: &Path, command: &str) -> Result<String> {
    let socket = run.join("bird.ctl");
    let socket = socket
        .to_str()
        .context("the path of the socket is not UTF-8")?;
    let words = ["-s", socket].into_iter().chain(command.split(' '));
    host.output("birdc", words)
}
