//! Exactly what the user may type.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bgp_packet::RouterId;
use clap::Parser;
use daemon_runtime::{CommonArgs, Defaults, listen_address};

/// Ports of this daemon.
pub const DEFAULTS: Defaults = Defaults {
    grpc_listen: "127.0.0.1:50054",
    http_listen: "127.0.0.1:9154",
};

/// Reflects the announcements of load-balancer pods to the upstream routers.
///
/// Clients (the bgp-announcer of each load-balancer pod) connect from configured prefixes; routers
/// are dialled, or dial. A router that speaks add-path (RFC 7911) learns every next hop of a
/// service address and can spread traffic over all of them. Nothing is accepted from a peer and
/// nothing sent to one that the configuration does not name.
///
/// The configuration file is read again when it changes and at SIGHUP. Sessions whose settings did
/// not change are not touched, and a file that cannot be used changes nothing: it is logged, and
/// shown by /readyz and by RouteReflectorService.GetConfiguration.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "route-reflector",
    after_help = "Try:\n  \
        route-reflector --config route-reflector.yaml --check-config\n  \
        grpcurl -plaintext 127.0.0.1:50054 portlb.reflector.v1.RouteReflectorService/ListSessions\n  \
        grpcurl -plaintext -d '{\"prefix\": \"10.1.1.0/24\"}' 127.0.0.1:50054 \\\n    \
        portlb.reflector.v1.RouteReflectorService/ListPaths\n\n\
        Port 179 needs the capability NET_BIND_SERVICE (or another --listen); nothing else needs \
        a privilege.\nFields of the file: docs/reference/route-reflector.md; an example: \
        docs/examples/route-reflector.yaml"
)]
pub struct Args {
    /// Flags of every daemon.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Configuration file in YAML: AS, router id, peer groups, peers
    #[arg(long, env = "PORTLB_CONFIG", value_name = "FILE")]
    pub config: PathBuf,

    /// Where BGP connections are accepted: ADDRESS:PORT, several separated by commas; brackets around
    /// an IPv6 address may be left out. Takes the place of `listen` in the file
    #[arg(
        long,
        env = "PORTLB_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        value_parser = listen
    )]
    pub listen: Vec<SocketAddr>,

    /// BGP identifier, in the form of an IPv4 address. Takes the place of `routerId` in the file, so
    /// that several reflectors may share one file; in Kubernetes from status.podIPs: of an IPv4 and
    /// an IPv6 address, separated by a comma, it is the IPv4 one
    #[arg(
        long,
        env = "PORTLB_ROUTER_ID",
        value_name = "ID",
        value_parser = router_id
    )]
    pub router_id: Option<RouterId>,

    /// How long after the start /readyz waits for every router (a peer under `peers` that is sent
    /// something), such as 60s; later one router is enough. 0: one is enough from the start
    #[arg(
        long,
        env = "PORTLB_ROUTER_TIMEOUT",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = daemon_runtime::parse_duration
    )]
    pub router_timeout: Duration,

    /// What the peers' operators read when the reflector shuts down (RFC 9003), at most 255 octets
    #[arg(
        long,
        env = "PORTLB_SHUTDOWN_TEXT",
        value_name = "TEXT",
        default_value = "the route reflector is shutting down",
        value_parser = shutdown_text
    )]
    pub shutdown_text: String,

    /// How long the peers get at a shutdown to take the goodbye and close their side, such as 2s;
    /// 0 waits for nobody
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

/// A pod has one address, or one of each family in the cluster's order.
fn router_id(text: &str) -> Result<RouterId, String> {
    let expected = || "expected the form of an IPv4 address, such as 10.244.1.7".to_owned();
    let addresses: Result<Vec<IpAddr>, _> = text.split(',').map(str::parse).collect();
    match addresses.map_err(|_| expected())?.as_slice() {
        [IpAddr::V4(id)] | [IpAddr::V4(id), IpAddr::V6(_)] | [IpAddr::V6(_), IpAddr::V4(id)] => {
            Ok(RouterId(*id))
        }
        [IpAddr::V6(_)] => Err(
            "is an IPv6 address, and an id has the form of an IPv4 address; give \
             one that no other BGP speaker has, such as 10.244.1.7"
                .to_owned(),
        ),
        _ => Err(expected()),
    }
}

fn shutdown_text(text: &str) -> Result<String, String> {
    if text.len() > 255 {
        return Err(format!(
            "has {} octets, RFC 9003 allows 255; shorten it",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(flags: &[&str], expected: &str) {
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
    fn of_a_pods_addresses_the_ipv4_one_is_the_router_id() {
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
        check_refused(&["--router-id", "fd00::5"], "such as 10.244.1.7");
    }

    #[test]
    fn bgp_listens_where_brackets_are_left_out() {
        assert_eq!(
            listen("fd00::5:1179"),
            Ok("[fd00::5]:1179".parse().unwrap())
        );
    }

    #[test]
    fn flags_that_cannot_be_used_are_refused() {
        check_refused(&["--listen", "179"], "such as 0.0.0.0:179");
        check_refused(
            &["--shutdown-text", &"x".repeat(256)],
            "RFC 9003 allows 255",
        );
        check_refused(&["--shutdown-timeout", "soon"], "soon");
        check_refused(&["--router-timeout", "60"], "with its unit");
    }
}
