//! nginx, the web server of a web pod.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;

use crate::host::Host;
use crate::process::Process;

/// Starts nginx on the ports `ports` of all IPv4 and IPv6 addresses of a host. nginx answers with
/// the name of the host. Returns before nginx listens, so callers wait for an answer.
pub fn start(host: &Host, ports: &[u16]) -> Result<Process> {
    let run = host.run_directory()?;
    let text = config(host.name(), ports, &run.to_string_lossy());
    let file = host.write("nginx.conf", &text)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(file).args(["-e", "stderr"]);
    host.start("nginx", command)
}

fn config(name: &str, ports: &[u16], run: &str) -> String {
    // Without a master process nginx starts faster and needs less memory. The limit of requests for
    // each connection is very high, so that nginx does not close a persistent connection of a test.
    let mut text = format!(
        "daemon off;\nmaster_process off;\npid {run}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 3600s;\n"
    );
    for temporary in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {temporary}_temp_path {run}/{temporary};");
    }
    text.push_str("  server {\n");
    for port in ports {
        let _ = writeln!(text, "    listen {port} backlog=4096;");
        let _ = writeln!(text, "    listen [::]:{port} backlog=4096 ipv6only=on;");
    }
    let _ = writeln!(text, "    return 200 \"{name}\\n\";\n  }}\n}}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_nginx_has_each_port_for_both_families_and_the_name_of_the_host() {
        let text = config("web-1", &[80, 8080], "/run/x");
        for line in [
            "listen 80 backlog=4096;",
            "listen [::]:80 backlog=4096 ipv6only=on;",
            "listen [::]:8080 backlog=4096 ipv6only=on;",
            "return 200 \"web-1\\n\";",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
