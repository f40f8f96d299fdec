//! keepalived, a program that fills the kernel's IPVS table and checks real servers.
//!
//! The load balancer of the paper (docs/decisions/0001-contracts-before-code.md) uses keepalived,
//! so the benchmarks compare portlb with keepalived.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::process::Process;

/// A virtual server in keepalived's configuration. Its forwarding method is `Tunnel`.
#[derive(Debug, Clone)]
pub struct KeepalivedVirtualServer {
    pub address: SocketAddr,
    /// The name of an IPVS scheduler, such as `mh`.
    pub scheduler: String,
    /// The real servers, each with weight 1.
    pub real_servers: Vec<SocketAddr>,
    /// The time between two TCP checks of a real server. `None`: keepalived does not check real
    /// servers.
    pub check_interval: Option<Duration>,
}

/// A started keepalived and its configuration file.
#[derive(Debug, Clone)]
pub struct Keepalived {
    /// keepalived's parent process. A child process of it checks the real servers.
    pub process: Process,
    file: PathBuf,
}

impl Keepalived {
    /// Starts keepalived with these virtual servers.
    pub fn start(host: &Host, virtual_servers: &[KeepalivedVirtualServer]) -> Result<Self> {
        let run = host.run_directory()?;
        // The file is in memory, like the files of portlb's daemons, so that a benchmark does not
        // compare disks.
        let file = run.join("keepalived.conf");
        std::fs::write(&file, config(virtual_servers))
            .context("cannot write keepalived's configuration file")?;
        let mut command = Command::new("keepalived");
        command
            .args(["--dont-fork", "--log-console", "--no-syslog", "--check"])
            .arg("--use-file")
            .arg(&file)
            .arg("--pid")
            .arg(run.join("keepalived.pid"))
            .arg("--checkers_pid")
            .arg(run.join("checkers.pid"));
        let process = host.start("keepalived", command)?;
        Ok(Self { process, file })
    }

    /// Writes a new configuration file and sends SIGHUP to keepalived. The controller of the
    /// paper's load balancer (docs/decisions/0001-contracts-before-code.md) does the same.
    pub fn reload(&self, virtual_servers: &[KeepalivedVirtualServer]) -> Result<()> {
        self.reload_text(&config(virtual_servers))
    }

    /// Writes `text`, a result of [`config`], to the configuration file and sends SIGHUP to
    /// keepalived.
    pub fn reload_text(&self, text: &str) -> Result<()> {
        std::fs::write(&self.file, text).context("cannot write keepalived's configuration file")?;
        self.process.signal(Signal::SIGHUP)
    }
}

/// Returns the text of keepalived's configuration file.
pub fn config(virtual_servers: &[KeepalivedVirtualServer]) -> String {
    let mut text = String::from("global_defs { router_id lab }\n");
    for virtual_server in virtual_servers {
        let _ = writeln!(
            text,
            "virtual_server {} {} {{\n  lb_algo {}\n  lb_kind TUN\n  protocol TCP",
            virtual_server.address.ip(),
            virtual_server.address.port(),
            virtual_server.scheduler,
        );
        let check = match virtual_server.check_interval {
            Some(interval) => {
                let _ = writeln!(text, "  delay_loop {}", interval.as_secs_f32());
                "\n    TCP_CHECK { connect_timeout 1\n    }\n "
            }
            None => "",
        };
        for real_server in &virtual_server.real_servers {
            let _ = writeln!(
                text,
                "  real_server {} {} {{ weight 1{check} }}",
                real_server.ip(),
                real_server.port()
            );
        }
        text.push_str("}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_real_server_has_a_check_if_the_virtual_server_has_a_check_interval() {
        let virtual_server = |check_interval| KeepalivedVirtualServer {
            address: "10.1.1.1:80".parse().unwrap(),
            scheduler: "mh".to_owned(),
            real_servers: vec![
                "10.2.1.2:80".parse().unwrap(),
                "10.2.2.2:80".parse().unwrap(),
            ],
            check_interval,
        };
        let text = config(&[virtual_server(Some(Duration::from_millis(500)))]);
        assert!(text.contains("virtual_server 10.1.1.1 80 {\n  lb_algo mh\n"));
        assert!(text.contains("\n  delay_loop 0.5\n"));
        assert_eq!(text.matches("TCP_CHECK").count(), 2);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(!config(&[virtual_server(None)]).contains("CHECK"));
    }
}
