//! Command-line flags.

use clap::Parser;
use virtual_server::{BadValue, ServiceRange};

/// Version of this program: `0.1.0`, or `0.1.0+1a2b3c4` if the build set the commit.
const VERSION: &str = match option_env!("PORTLB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Prepares a web pod to unpack the tunnel packets of load balancers, and exits.
///
/// The program brings the tunnel device up: tunl0 for IPv4, ip6tnl0 for IPv6. It sets rp_filter to
/// 2, so that the device accepts packets from clients whose replies leave by another interface. It
/// makes the service ranges local, so that a server in the pod receives packets for a service
/// address. It adds routing rules by which the pod's own packets to service addresses leave the
/// pod. The program reads all changes back from the kernel.
///
/// Run the program once in the network namespace of the web pod, as an init container with the
/// capability NET_ADMIN. No process stays after the program has exited.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tunnel-init",
    version = VERSION,
    after_help = "\
Example:
  tunnel-init --service-ranges 10.1.1.0/24,fd00:1::/64

Show the result:
  ip address show tunl0; ip route show table local proto static; ip rule

Exit codes: 0 the pod is prepared, 1 the kernel refused a change (the message contains a suggestion), 2 invalid flag."
)]
pub struct Args {
    /// Service ranges of the service addresses that this pod serves: IPv4 and IPv6 prefixes,
    /// separated by commas. Write a single address as 10.1.1.10/32. Required
    #[arg(
        long,
        env = "PORTLB_SERVICE_RANGES",
        value_name = "PREFIXES",
        value_delimiter = ',',
        required = true,
        value_parser = service_range
    )]
    pub service_ranges: Vec<ServiceRange>,
}

fn service_range(text: &str) -> Result<ServiceRange, BadValue> {
    let range: ServiceRange = text.parse()?;
    range.validate()?;
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_message(flags: &[&str]) -> String {
        let all = ["tunnel-init"].iter().chain(flags);
        let error = Args::try_parse_from(all).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn ranges_of_both_ip_versions_are_accepted() {
        let args = Args::try_parse_from([
            "tunnel-init",
            "--service-ranges",
            "10.1.1.0/24,fd00:1::/64,10.1.2.9/32",
        ])
        .unwrap();
        assert_eq!(args.service_ranges.len(), 3);
    }

    #[test]
    fn an_invalid_range_is_rejected_with_a_suggestion() {
        assert!(error_message(&[]).contains("--service-ranges"));
        assert!(error_message(&["--service-ranges", "10.1.1.10"]).contains("such as 10.1.1.0/24"));
        assert!(error_message(&["--service-ranges", "10.1.1.10/24"]).contains("write 10.1.1.0/24"));
        assert!(error_message(&["--service-ranges", "0.0.0.0/0"]).contains("length from"));
    }
}
