//! What the user may type.

use clap::Parser;
use virtual_server::{BadValue, ServiceRange};

/// Such as `0.1.0`, or `0.1.0+1a2b3c4` where the build gave the commit.
const VERSION: &str = match option_env!("PORTLB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Prepares a web pod to unpack what load balancers send through tunnels, and ends.
///
/// It brings the tunnel device up (tunl0 for IPv4, ip6tnl0 for IPv6), lets it accept packets whose
/// sender is reached by another interface (rp_filter 2), and makes the service ranges local, so
/// that a server in the pod gets what clients sent to a service address. Packets that the pod itself
/// sends to a service address leave the pod. All of it is read back.
///
/// Runs once, in the network namespace of the web pod (as an init container) with the capability
/// NET_ADMIN, and leaves nothing running.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tunnel-init",
    version = VERSION,
    after_help = "\
Example:
  tunnel-init --service-ranges 10.1.1.0/24,fd00:1::/64

See what it made:
  ip address show tunl0; ip route show table local proto static; ip rule

Exit codes: 0 done, 1 the kernel refused it (the message says what to do), 2 unusable flag."
)]
pub struct Args {
    /// Prefixes that the service addresses of this pod lie in, separated by commas, IPv4 and IPv6;
    /// a single address is 10.1.1.10/32. Required
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

    fn refusal(flags: &[&str]) -> String {
        let all = ["tunnel-init"].iter().chain(flags);
        let error = Args::try_parse_from(all).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn both_families_may_be_given() {
        let args = Args::try_parse_from([
            "tunnel-init",
            "--service-ranges",
            "10.1.1.0/24,fd00:1::/64,10.1.2.9/32",
        ])
        .unwrap();
        assert_eq!(args.service_ranges.len(), 3);
    }

    #[test]
    fn a_range_that_cannot_be_used_is_refused_with_the_cure() {
        assert!(refusal(&[]).contains("--service-ranges"));
        assert!(refusal(&["--service-ranges", "10.1.1.10"]).contains("such as 10.1.1.0/24"));
        assert!(refusal(&["--service-ranges", "10.1.1.10/24"]).contains("write 10.1.1.0/24"));
        assert!(refusal(&["--service-ranges", "0.0.0.0/0"]).contains("length from"));
    }
}
