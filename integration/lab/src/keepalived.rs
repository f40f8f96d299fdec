//! keepalived's checkers, the paper's way to fill the kernel's IPVS table.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::process::Process;

/// One virtual server by tunnel, every real server checked by a TCP connect.
#[derive(Debug, Clone)]
pub struct VirtualServer {
    /// What clients reach.
    pub address: SocketAddr,
    /// An IPVS scheduler with its flags, for instance `mh`.
    pub scheduler: String,
    /// Real servers, all of weight 1.
    pub real_servers: Vec<SocketAddr>,
    /// Between two checks.
    pub check_interval: Duration,
}

/// A running keepalived.
#[derive(Debug, Clone)]
pub struct Keepalived {
    /// Its parent process.
    pub process: Process,
    file: PathBuf,
}

impl Keepalived {
    /// Starts it with these virtual servers.
    pub fn start(host: &Host, virtual_servers: &[VirtualServer]) -> Result<Self> {
        let run = host.run_directory()?;
        let file = host.write("keepalived.conf", &config(virtual_servers))?;
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

    /// Writes a new file and sends SIGHUP, as the paper's controller does.
    pub fn reload(&self, virtual_servers: &[VirtualServer]) -> Result<()> {
        std::fs::write(&self.file, config(virtual_servers))?;
        self.process.signal(Signal::SIGHUP)
    }
}

fn config(virtual_servers: &[VirtualServer]) -> String {
    let mut text = String::from("global_defs { router_id lab }\n");
    for virtual_server in virtual_servers {
        let _ = writeln!(
            text,
            "virtual_server {} {} {{\n  delay_loop {}\n  lb_algo {}\n  lb_kind TUN\n  protocol TCP",
            virtual_server.address.ip(),
            virtual_server.address.port(),
            virtual_server.check_interval.as_secs_f32(),
            virtual_server.scheduler,
        );
        for real_server in &virtual_server.real_servers {
            let _ = writeln!(
                text,
                "  real_server {} {} {{ weight 1\n    TCP_CHECK {{ connect_timeout 1\n    }}\n  }}",
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
    fn a_virtual_server_checks_each_real_server() {
        let text = config(&[VirtualServer {
            address: "10.1.1.1:80".parse().unwrap(),
            scheduler: "mh".to_owned(),
            real_servers: vec![
                "10.2.1.2:80".parse().unwrap(),
                "10.2.2.2:80".parse().unwrap(),
            ],
            check_interval: Duration::from_millis(500),
        }]);
        assert!(text.contains("virtual_server 10.1.1.1 80 {\n  delay_loop 0.5\n  lb_algo mh\n"));
        assert_eq!(text.matches("TCP_CHECK").count(), 2);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
