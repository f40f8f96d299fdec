//! Validation of the command-line flags.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use daemon_runtime::{
    ConfigError, GracePeriod, LONGEST_RETRY, ListenAddress, error_chain, parse_prefix,
};
use ipnet::IpNet;

use crate::{Args, HoldProofKind, NamespacePrefixes, Policy, token::TokenKeys, uplink::Uplinks};

const LONGEST_LINGER: Duration = Duration::from_secs(60 * 60);
/// `IFNAMSIZ` of the kernel without the terminating NUL.
const LONGEST_INTERFACE_NAME: usize = 15;
const SHORTEST_AUDIT_INTERVAL: Duration = Duration::from_millis(100);

/// Validated settings of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub grpc_listen: ListenAddress,
    /// Prefixes and gateways that pods may claim.
    pub policy: Policy,
    /// Interfaces to which the uplink guard applies.
    pub uplinks: Uplinks,
    /// Time for which routes of an earlier run stay if no pod holds them again. Zero: the routes
    /// are removed at the start.
    pub adopt_timeout: Duration,
    /// Time for which a route stays after the last pod has released it.
    pub release_delay: Duration,
    /// Maximum time for which the daemon continues after a termination signal while a pod holds a
    /// route.
    pub linger: Duration,
    /// Interval at which the kernel is compared with the desired state.
    pub audit_interval: Duration,
    /// Maximum number of routed prefixes.
    pub max_routes: usize,
    pub hold_proof: HoldProof,
    pub socket_mode: SocketMode,
    /// Group of the unix socket. `None`: the group of the process.
    pub socket_group: Option<u32>,
}

/// Proof that a holder must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldProof {
    Off,
    /// The holder returns a nonce that it receives at the gateway.
    Address,
    /// The holder returns a nonce that it receives at the gateway, and sends a token of a namespace
    /// that may hold the prefix.
    Token(TokenSettings),
}

/// Settings for the verification of hold tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// File with the public keys of the cluster (a JSON Web Key Set).
    pub keys_file: PathBuf,
    /// Issuer that each token must name.
    pub issuer: String,
    /// Prefixes that the pods of each namespace may hold.
    pub namespaces: NamespacePrefixes,
}

/// Permission bits of the unix socket. The debug format is octal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl fmt::Debug for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Config {
    /// Validates the flags.
    ///
    /// # Errors
    /// A flag is missing or invalid. The error names the flag, its value, the allowed values and a
    /// suggestion.
    pub fn resolve(args: Args) -> Result<Self, ConfigError> {
        let allowed_prefixes = prefixes(
            "--allowed-prefixes",
            &args.allowed_prefixes,
            "name the service ranges that pods of this node may serve, such as \
             --allowed-prefixes 10.1.1.0/24",
        )?;
        let allowed_gateways = prefixes(
            "--allowed-gateways",
            &args.allowed_gateways,
            "name the ranges of this node's pod addresses (in Kubernetes .spec.podCIDRs of the \
             node), such as --allowed-gateways 10.244.3.0/24",
        )?;
        for prefix in &allowed_prefixes {
            if let Some(reserved) = daemon_api::overlapping_reserved_range(prefix) {
                return Err(ConfigError(format!(
                    "--allowed-prefixes: {prefix} overlaps {reserved}, which contains no address of a \
                     single host; give only service ranges, such as 10.1.1.0/24"
                )));
            }
            if let Some(gateways) = allowed_gateways
                .iter()
                .find(|gateways| gateways.contains(prefix) || prefix.contains(*gateways))
            {
                return Err(ConfigError(format!(
                    "--allowed-prefixes: {prefix} overlaps {gateways} of --allowed-gateways, but a \
                     pod's address cannot be a service address; give ranges that do not overlap"
                )));
            }
            let is_ipv4 = prefix.addr().is_ipv4();
            if !allowed_gateways
                .iter()
                .any(|g| g.addr().is_ipv4() == is_ipv4)
            {
                let version = if is_ipv4 { "IPv4" } else { "IPv6" };
                return Err(ConfigError(format!(
                    "--allowed-gateways: no {version} range, but --allowed-prefixes has {prefix}; \
                     add this node's {version} pod range, or remove {prefix}"
                )));
            }
        }
        if args.audit_interval < SHORTEST_AUDIT_INTERVAL {
            return Err(ConfigError(format!(
                "--audit-interval: {:?} is too short; give at least {SHORTEST_AUDIT_INTERVAL:?}",
                args.audit_interval
            )));
        }
        let shortest = GracePeriod::shortest_for(LONGEST_RETRY);
        if !args.adopt_timeout.is_zero() && args.adopt_timeout < shortest {
            return Err(ConfigError(format!(
                "--adopt-timeout: {} ms is too short, because a bgp-announcer can pause for {} ms between two \
                 attempts; give at least {} ms, or 0",
                args.adopt_timeout.as_millis(),
                LONGEST_RETRY.as_millis(),
                shortest.as_millis(),
            )));
        }
        if args.linger > LONGEST_LINGER {
            return Err(ConfigError(format!(
                "--linger: {:?} is longer than 1h; give the duration of a bgp-announcer's drain, such as \
                 20s",
                args.linger
            )));
        }
        let hold_proof = hold_proof(&args, &allowed_prefixes)?;
        Ok(Self {
            grpc_listen: args.common.grpc_listen,
            policy: Policy {
                allowed_prefixes,
                allowed_gateways,
            },
            uplinks: uplinks(&args.uplink)?,
            adopt_timeout: args.adopt_timeout,
            release_delay: args.release_delay,
            linger: args.linger,
            audit_interval: args.audit_interval,
            max_routes: usize::try_from(args.max_routes).unwrap_or(usize::MAX),
            hold_proof,
            socket_mode: socket_mode(&args.socket_mode)?,
            socket_group: args.socket_group,
        })
    }
}

fn hold_proof(args: &Args, allowed_prefixes: &[IpNet]) -> Result<HoldProof, ConfigError> {
    let other = match args.hold_proof {
        HoldProofKind::Token => {
            return Ok(HoldProof::Token(token_settings(args, allowed_prefixes)?));
        }
        HoldProofKind::Off => ("off", HoldProof::Off),
        HoldProofKind::Address => ("address", HoldProof::Address),
    };
    let unused = [
        ("--token-keys-file", args.token_keys_file.is_some()),
        ("--token-issuer", args.token_issuer.is_some()),
        ("--namespace-prefixes", !args.namespace_prefixes.is_empty()),
    ];
    let (kind, hold_proof) = other;
    match unused.iter().find(|(_, is_given)| *is_given) {
        None => Ok(hold_proof),
        Some((flag, _)) => Err(ConfigError(format!(
            "{flag} has no effect with --hold-proof={kind}; give --hold-proof=token, or remove {flag}"
        ))),
    }
}

fn token_settings(args: &Args, allowed_prefixes: &[IpNet]) -> Result<TokenSettings, ConfigError> {
    let missing = |flag: &str, suggestion: &str| {
        ConfigError(format!(
            "{flag} is missing, but --hold-proof=token requires it; {suggestion}"
        ))
    };
    let keys_file = args.token_keys_file.clone().ok_or_else(|| {
        missing(
            "--token-keys-file",
            "name a file with the output of `kubectl get --raw /openid/v1/jwks`, such as \
             --token-keys-file /etc/portlb/token-keys/jwks.json",
        )
    })?;
    let issuer = args
        .token_issuer
        .clone()
        .filter(|issuer| !issuer.is_empty());
    let issuer = issuer.ok_or_else(|| {
        missing(
            "--token-issuer",
            "give the field `issuer` in the output of `kubectl get --raw \
             /.well-known/openid-configuration`, such as \
             --token-issuer https://kubernetes.default.svc.cluster.local",
        )
    })?;
    if args.namespace_prefixes.is_empty() {
        return Err(missing(
            "--namespace-prefixes",
            "give each namespace the prefixes that its load balancers may hold, such as \
             --namespace-prefixes web=10.1.1.0/24",
        ));
    }
    let namespaces = NamespacePrefixes::new(&args.namespace_prefixes, allowed_prefixes);
    let namespaces =
        namespaces.map_err(|problem| ConfigError(format!("--namespace-prefixes: {problem}")))?;
    TokenKeys::read(&keys_file)
        .map_err(|error| ConfigError(format!("--token-keys-file: {}", error_chain(&error))))?;
    Ok(TokenSettings {
        keys_file,
        issuer,
        namespaces,
    })
}

fn prefixes(flag: &str, texts: &[String], suggestion: &str) -> Result<Vec<IpNet>, ConfigError> {
    let mut prefixes = Vec::new();
    for text in texts {
        let prefix =
            parse_prefix(text).map_err(|problem| ConfigError(format!("{flag}: {problem}")))?;
        if prefix.prefix_len() == 0 {
            return Err(ConfigError(format!(
                "{flag}: {prefix} contains every address; {suggestion}"
            )));
        }
        prefixes.push(prefix);
    }
    if prefixes.is_empty() {
        return Err(ConfigError(format!(
            "{flag} is missing, and without it node-router would refuse every hold; {suggestion}"
        )));
    }
    prefixes.sort();
    prefixes.dedup();
    Ok(prefixes)
}

fn uplinks(names: &[String]) -> Result<Uplinks, ConfigError> {
    match names {
        [] => return Ok(Uplinks::OfDefaultRoutes),
        [name] if name == "none" => return Ok(Uplinks::None),
        _ => {}
    }
    let is_usable = |name: &&String| {
        !name.is_empty()
            && name.len() <= LONGEST_INTERFACE_NAME
            && !name.contains(|c: char| c == '/' || c.is_whitespace())
            && *name != "none"
    };
    if let Some(name) = names.iter().find(|name| !is_usable(name)) {
        return Err(ConfigError(format!(
            "--uplink: {name:?} is not a name of an interface; give the names of the interfaces to the \
             routers, such as --uplink eth0, or only `none`"
        )));
    }
    Ok(Uplinks::Named(
        names.iter().cloned().collect::<BTreeSet<_>>(),
    ))
}

fn socket_mode(text: &str) -> Result<SocketMode, ConfigError> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .map(SocketMode)
        .ok_or_else(|| {
            ConfigError(format!(
                "--socket-mode: {text:?} is not an octal mode; give 0 to 0777, such as 0660"
            ))
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const VALID: &[&str] = &[
        "--grpc-listen=unix:/tmp/test.sock",
        "--http-listen=127.0.0.1:0",
        "--allowed-prefixes=10.1.1.0/24,fd00:1::/64",
        "--allowed-gateways=10.244.3.0/24,fd00:244:3::/64",
    ];

    fn resolve(flags: &[&str]) -> Result<Config, String> {
        let args = ["node-router"].iter().chain(flags);
        Config::resolve(Args::parse_from(args)).map_err(|error| error.0)
    }

    /// Replaces or adds one flag in a list of valid flags. Checks that this list is rejected with
    /// an error that contains the name of the flag and all `parts`.
    #[track_caller]
    fn check_rejected(flag: &str, parts: &[&str]) {
        let (name, _) = flag.split_once('=').unwrap();
        let mut flags: Vec<&str> = VALID
            .iter()
            .copied()
            .filter(|valid| !valid.starts_with(name))
            .collect();
        flags.push(flag);
        let message = resolve(&flags).unwrap_err();
        for part in parts.iter().chain(&[name]) {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn valid_flags_are_resolved() {
        let config = resolve(VALID).unwrap();
        assert_eq!(config.policy.allowed_prefixes.len(), 2);
        assert_eq!(config.adopt_timeout, Duration::from_secs(10));
        assert_eq!(config.release_delay, Duration::from_secs(1));
        assert_eq!(config.socket_mode, SocketMode(0o660));
    }

    #[test]
    fn uplinks_default_to_the_interfaces_of_default_routes() {
        let uplinks = |flag: &[&str]| resolve(&[VALID, flag].concat()).unwrap().uplinks;
        assert_eq!(uplinks(&[]), Uplinks::OfDefaultRoutes);
        assert_eq!(uplinks(&["--uplink=none"]), Uplinks::None);
        let named = ["eth0", "bond1"].map(str::to_owned);
        assert_eq!(
            uplinks(&["--uplink=eth0,bond1"]),
            Uplinks::Named(named.into())
        );
    }

    #[test]
    fn a_missing_range_is_rejected_with_a_suggestion() {
        for (index, name) in [(2, "--allowed-prefixes"), (3, "--allowed-gateways")] {
            let mut flags = VALID.to_vec();
            flags.remove(index);
            let message = resolve(&flags).unwrap_err();
            assert!(
                message.starts_with(&format!("{name} is missing")),
                "{message}"
            );
            assert!(
                message.contains(&format!("such as {name} 10.")),
                "{message}"
            );
        }
    }

    #[test]
    fn an_invalid_range_is_rejected_with_its_value_and_a_suggestion() {
        check_rejected(
            "--allowed-prefixes=10.1.1.1/24",
            &["10.1.1.1/24", "write 10.1.1.0/24"],
        );
        check_rejected("--allowed-prefixes=10.1.1.0", &["is not a prefix"]);
        check_rejected("--allowed-prefixes=0.0.0.0/0", &["every address"]);
        for (prefix, reserved) in [
            ("127.0.0.0/8", "127.0.0.0/8"),
            ("127.1.0.0/24", "127.0.0.0/8"),
            ("224.0.0.0/4", "224.0.0.0/4"),
            ("64.0.0.0/2", "127.0.0.0/8"),
            ("fe80::/64", "fe80::/10"),
        ] {
            let flag = format!("--allowed-prefixes={prefix}");
            check_rejected(&flag, &[prefix, &format!("overlaps {reserved}")]);
        }
        check_rejected("--allowed-prefixes=10.1.1.0/24,", &["\"\""]);
        check_rejected("--allowed-gateways=::/0", &["every address"]);
    }

    #[test]
    fn an_allowed_prefix_that_overlaps_an_allowed_gateway_range_is_rejected() {
        check_rejected(
            "--allowed-prefixes=10.244.0.0/16",
            &["overlaps 10.244.3.0/24"],
        );
        check_rejected(
            "--allowed-prefixes=10.244.3.9/32",
            &["overlaps 10.244.3.0/24"],
        );
    }

    #[test]
    fn a_service_range_without_a_gateway_range_of_its_ip_version_is_rejected() {
        check_rejected("--allowed-gateways=10.244.3.0/24", &["no IPv6 range"]);
        check_rejected("--allowed-gateways=fd00:244::/64", &["no IPv4 range"]);
    }

    /// The key set has one key of RFC 7517, appendix A.1.
    const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "kid": "1",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

    /// Resolves the flags of `--hold-proof=token` without the flag `without` and with additional
    /// flags. `keys` is the content of the keys file.
    fn resolve_token(without: &str, keys: &str, more: &[&str]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), keys).unwrap();
        let keys_file = format!("--token-keys-file={}", file.path().display());
        let mut flags = VALID.to_vec();
        flags.extend([
            "--hold-proof=token",
            &keys_file,
            "--token-issuer=https://kubernetes.default.svc",
            "--namespace-prefixes=web=10.1.1.0/25,fd00:1::/64",
        ]);
        flags.retain(|flag| without.is_empty() || !flag.starts_with(without));
        flags.extend(more);
        resolve(&flags)
    }

    #[test]
    fn hold_proof_token_requires_keys_an_issuer_and_namespace_prefixes() {
        let config = resolve_token("", KEYS, &[]).unwrap();
        let HoldProof::Token(settings) = config.hold_proof else {
            panic!("{:?}", config.hold_proof);
        };
        assert_eq!(settings.issuer, "https://kubernetes.default.svc");
        for (flag, suggestion) in [
            ("--token-keys-file", "kubectl get --raw /openid/v1/jwks"),
            ("--token-issuer", "/.well-known/openid-configuration"),
            ("--namespace-prefixes", "web=10.1.1.0/24"),
        ] {
            let message = resolve_token(flag, KEYS, &[]).unwrap_err();
            let missing = format!("{flag} is missing, but --hold-proof=token requires it; ");
            assert!(message.starts_with(&missing), "{message}");
            assert!(message.contains(suggestion), "{message}");
        }
        for keys in ["", "{}", r#"{"keys": []}"#] {
            let message = resolve_token("", keys, &[]).unwrap_err();
            assert!(message.starts_with("--token-keys-file: "), "{message}");
            assert!(message.contains("kubectl get --raw"), "{message}");
        }
        let more = ["--namespace-prefixes=shop=10.1.2.0/24"];
        let message = resolve_token("", KEYS, &more).unwrap_err();
        assert!(message.starts_with("--namespace-prefixes: "), "{message}");
        assert!(message.contains("--allowed-prefixes"), "{message}");
    }

    #[test]
    fn token_flags_are_rejected_without_hold_proof_token() {
        for mode in ["off", "address"] {
            let mode = format!("--hold-proof={mode}");
            for flag in [
                "--token-keys-file=/nowhere",
                "--token-issuer=https://kubernetes.default.svc",
                "--namespace-prefixes=web=10.1.1.0/24",
            ] {
                let message = resolve(&[VALID, &[&mode, flag]].concat()).unwrap_err();
                let name = flag.split('=').next().unwrap();
                assert!(message.starts_with(name), "{message}");
                assert!(message.contains(&mode), "{message}");
                assert!(message.contains("--hold-proof=token"), "{message}");
            }
        }
    }

    #[test]
    fn invalid_intervals_interface_names_and_socket_modes_are_rejected() {
        check_rejected("--audit-interval=1ms", &["at least 100ms"]);
        check_rejected(
            "--adopt-timeout=7s",
            &["can pause for 2000 ms", "at least 8000 ms, or 0"],
        );
        check_rejected("--uplink=eth0,", &["\"\"", "such as --uplink eth0"]);
        check_rejected("--uplink=eth0,none", &["\"none\""]);
        check_rejected(
            "--uplink=a-name-that-is-too-long",
            &["not a name of an interface"],
        );
        check_rejected("--socket-mode=rw", &["octal"]);
        for mode in ["999", "1777"] {
            let flag = format!("--socket-mode={mode}");
            check_rejected(&flag, &[mode, "0 to 0777, such as 0660"]);
        }
    }
}
