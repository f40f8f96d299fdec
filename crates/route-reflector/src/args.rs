//! Command-line flags of route-reflector.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bgp_packet::RouterId;
use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, listen_address};

/// Default listen addresses of route-reflector.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50054",
    http_listen: "127.0.0.1:9154",
};

/// Reflects the BGP announcements of load-balancer pods to the upstream routers.
///
/// Clients are the bgp-announcers of load-balancer pods. They connect to the reflector from
/// prefixes that the configuration lists. The reflector connects to routers, or routers connect to
/// the reflector. A router with add-path (RFC 7911) receives every next hop of a service address
/// and can spread traffic over all next hops. The reflector accepts and sends only paths that the
/// configuration allows.
///
/// The reflector reads the configuration file again when the file changes and at SIGHUP. Sessions
/// whose settings did not change stay. If the file is invalid, the reflector keeps the running
/// configuration and reports the error in its log, in /readyz and in
/// RouteReflectorService.GetConfiguration.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "route-reflector",
    after_help = "Check the configuration file, and list sessions and paths:\n  \
        route-reflector --config route-reflector.yaml --check-config\n  \
        grpcurl -plaintext 127.0.0.1:50054 portlb.reflector.v1.RouteReflectorService/ListSessions\n  \
        grpcurl -plaintext -d '{\"prefix\": \"10.1.1.0/24\"}' 127.0.0.1:50054 \\\n    \
        portlb.reflector.v1.RouteReflectorService/ListPaths\n\n\
        Listening on a port below 1024, such as 179, needs the capability NET_BIND_SERVICE; \
        --listen sets another port.\nFields of the file: docs/reference/route-reflector.md; example: \
        docs/examples/route-reflector.yaml"
)]
pub struct Args {
    /// Flags of every portlb daemon.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Configuration file in YAML with the AS number, the router id, the peer groups and the peers.
    /// docs/reference/route-reflector.md describes all fields
    #[arg(long, env = "PORTLB_CONFIG", value_name = "FILE")]
    pub config: PathBuf,

    /// Addresses on which BGP connections are accepted: ADDRESS:PORT, separated by commas. Brackets
    /// around an IPv6 address can be omitted. Overrides `listen` in the file. Default: port 179 of
    /// all IPv4 and IPv6 addresses
    #[arg(
        long,
        env = "PORTLB_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        value_parser = listen
    )]
    pub listen: Vec<SocketAddr>,

    /// BGP identifier of the reflector, in the form of an IPv4 address. Overrides `routerId` in the
    /// file, so that several reflectors can use one file. In Kubernetes, take it from
    /// status.podIPs: if the value is an IPv4 and an IPv6 address, separated by a comma, the
    /// reflector uses the IPv4 address
    #[arg(
        long,
        env = "PORTLB_ROUTER_ID",
        value_name = "ID",
        value_parser = router_id
    )]
    pub router_id: Option<RouterId>,

    /// Time after the start in which the reflector is ready only after every router has had an
    /// established session. A router is a peer under `peers` with `exportPrefixes`. Later, one
    /// router with an established session is enough. 0: one router is enough from the start
    #[arg(
        long,
        env = "PORTLB_ROUTER_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = daemon_runtime::parse_duration
    )]
    pub router_timeout: Duration,

    /// Text that the peers' operators see when the reflector shuts down (RFC 9003), at most 255
    /// bytes
    #[arg(
        long,
        env = "PORTLB_SHUTDOWN_TEXT",
        value_name = "TEXT",
        default_value = "the route reflector is shutting down",
        value_parser = shutdown_text
    )]
    pub shutdown_text: String,

    /// Longest time for which a shutdown waits until the peers have received the Cease message and
    /// closed their connections, such as 2s. 0: do not wait
    #[arg(
        long,
        env = "PORTLB_SHUTDOWN_TIMEOUT",
        value_name = "DURATION",
        default_value = "2s",
        value_parser = daemon_runtime::parse_duration
    )]
    pub shutdown_timeout: Duration,
}

impl AsMut<CommonArgs> for Args {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    listen_address(text)
        .ok_or_else(|| "expected ADDRESS:PORT, such as 0.0.0.0:179 or [::]:179".to_owned())
}

/// Parses a router id, or the addresses of a pod: one address, or one address of each family in any
/// order.
fn router_id(text: &str) -> Result<RouterId, String> {
    let expected =
        || "expected an id in the form of an IPv4 address, such as 10.244.1.7".to_owned();
    let addresses: Result<Vec<IpAddr>, _> = text.split(',').map(str::parse).collect();
    match addresses.map_err(|_| expected())?.as_slice() {
        [IpAddr::V4(id)] | [IpAddr::V4(id), IpAddr::V6(_)] | [IpAddr::V6(_), IpAddr::V4(id)] => {
            Ok(RouterId(*id))
        }
        [IpAddr::V6(_)] => Err(
            "it is an IPv6 address, but an id has the form of an IPv4 address; give an id that no \
             other BGP speaker has, such as 10.244.1.7"
                .to_owned(),
        ),
        _ => Err(expected()),
    }
}

fn shutdown_text(text: &str) -> Result<String, String> {
    if text.len() > 255 {
        return Err(format!(
            "it has {} bytes, but RFC 9003 allows 255; shorten it",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_rejected(flags: &[&str], expected: &str) {
        let required = [
            "route-reflector",
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
            "--config",
            "file.yaml",
        ];
        let all = required.iter().chain(flags);
        let error = Args::try_parse_from(all).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[track_caller]
    fn check_router_id(text: &str, expected: Option<&str>) {
        let id = router_id(text).ok().map(|id| id.to_string());
        assert_eq!(id.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn the_router_id_is_the_ipv4_address_among_the_addresses_of_a_pod() {
        check_router_id("10.244.1.7", Some("10.244.1.7"));
        check_router_id("10.244.1.7,fd00::5", Some("10.244.1.7"));
        check_router_id("fd00::5,10.244.1.7", Some("10.244.1.7"));
        for text in [
            "",
            "7",
            "fd00::5",
            "fd00::5,fd00::6",
            "10.244.1.7,10.244.1.8",
            "10.244.1.7,",
        ] {
            check_router_id(text, None);
        }
        check_rejected(&["--router-id", "fd00::5"], "such as 10.244.1.7");
    }

    #[test]
    fn brackets_around_an_ipv6_listen_address_can_be_omitted() {
        assert_eq!(
            listen("fd00::5:1179"),
            Ok("[fd00::5]:1179".parse().unwrap())
        );
    }

    #[test]
    fn invalid_flags_are_rejected() {
        check_rejected(&["--listen", "179"], "such as 0.0.0.0:179");
        check_rejected(
            &["--shutdown-text", &"x".repeat(256)],
            "RFC 9003 allows 255",
        );
        check_rejected(&["--shutdown-timeout", "soon"], "soon");
        check_rejected(&["--router-timeout", "60"], "with its unit");
    }
}
