//! The settings of a daemon as its command line and its environment give them.

use std::ffi::OsString;

use clap::{ArgMatches, Command};
use serde_json::{Map, Value};

const PREFIX: &str = "PORTLB_";

/// Most variables that are reported.
const MOST_REPORTED: usize = 16;

/// The settings of a daemon, and variables that set nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Startup {
    settings: Map<String, Value>,
    unknown: Vec<UnknownVariable>,
}

/// A variable of the environment whose name begins as ours do, and that no flag reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnknownVariable {
    name: String,
    nearest: Option<String>,
}

impl Startup {
    /// `variables` is the environment.
    pub(crate) fn new(
        command: &Command,
        matches: &ArgMatches,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut known = Vec::new();
        collect_variables(command, &mut known);
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let unknown = variables.filter_map(|(name, value)| {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            let is_unknown = name.starts_with(PREFIX)
                && !known.contains(&name.as_ref())
                && !is_service_link(&name, &value);
            is_unknown.then(|| UnknownVariable {
                nearest: config_text::nearest(&name, &known).map(str::to_owned),
                name: name.into_owned(),
            })
        });
        let mut unknown: Vec<UnknownVariable> = unknown.collect();
        unknown.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            settings: settings(command, matches),
            unknown,
        }
    }

    /// The value of each flag that has one, as text, by its name with underscores.
    pub(crate) fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// Logs the variables that set nothing.
    pub(crate) fn log_unknown_variables(&self) {
        for UnknownVariable { name, nearest } in self.unknown.iter().take(MOST_REPORTED) {
            let nearest = nearest.as_deref();
            tracing::warn!(
                variable = name,
                nearest,
                "no flag of this daemon reads the environment variable; it sets nothing"
            );
        }
        let more = self.unknown.len().saturating_sub(MOST_REPORTED);
        if more > 0 {
            tracing::warn!(more, "more environment variables are read by no flag");
        }
    }
}

fn collect_variables(command: &Command, known: &mut Vec<String>) {
    let variables = command.get_arguments().filter_map(clap::Arg::get_env);
    known.extend(variables.map(|name| name.to_string_lossy().into_owned()));
    for subcommand in command.get_subcommands() {
        collect_variables(subcommand, known);
    }
}

fn settings(command: &Command, matches: &ArgMatches) -> Map<String, Value> {
    let flags = command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some());
    let values = flags.filter_map(|arg| {
        let id = arg.get_id().as_str();
        let raw = matches.try_get_raw(id).ok()??;
        let mut values: Vec<Value> = raw
            .map(|value| value.to_string_lossy().into_owned().into())
            .collect();
        let value = if values.len() > 1 {
            Value::Array(values)
        } else {
            values.pop()?
        };
        Some((id.to_owned(), value))
    });
    values.collect()
}

/// Kubernetes gives every container variables about each Service of its namespace. Those of a Service
/// with a name such as `portlb-web` begin as ours do.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let of_port = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
        let suffixes = ["", "_PROTO", "_PORT", "_ADDR"];
        suffixes
            .iter()
            .any(|suffix| name.ends_with(&format!("{protocol}{suffix}")))
    });
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_url)
        || (name.contains("_PORT_") && of_port)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    #[allow(dead_code, reason = "read by clap alone")]
    struct TestArgs {
        #[arg(long, env = "PORTLB_ALLOWED_PREFIXES", value_delimiter = ',')]
        allowed_prefixes: Vec<String>,

        #[arg(long, env = "PORTLB_ASN", default_value = "64512")]
        asn: u32,

        #[arg(long)]
        gateway: Option<String>,

        #[arg(long)]
        check_config: bool,
    }

    fn startup(flags: &[&str], variables: &[(&str, &str)]) -> Startup {
        let matches = TestArgs::command().get_matches_from([&["test"], flags].concat());
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Startup::new(&TestArgs::command(), &matches, variables)
    }

    #[test]
    fn settings_are_those_that_are_given_and_the_defaults() {
        let given = startup(&["--allowed-prefixes=10.1.1.0/24,fd01::/64"], &[]);
        let expected = json!({
            "allowed_prefixes": ["10.1.1.0/24", "fd01::/64"],
            "asn": "64512",
            "check_config": "false",
        });
        assert_eq!(Value::Object(given.settings().clone()), expected);
    }

    #[test]
    fn a_misspelt_variable_is_reported_with_the_nearest_one() {
        let given = startup(
            &[],
            &[
                ("PATH", "/bin"),
                ("PORTLB_ASN", "64512"),
                ("PORTLB_ALOWED_PREFIXES", "10.1.1.0/24"),
                ("PORTLB_", ""),
            ],
        );
        let names: Vec<(&str, Option<&str>)> = given
            .unknown
            .iter()
            .map(|unknown| (unknown.name.as_str(), unknown.nearest.as_deref()))
            .collect();
        let misspelt = ("PORTLB_ALOWED_PREFIXES", Some("PORTLB_ALLOWED_PREFIXES"));
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0].0, "PORTLB_");
        assert_eq!(names[1], misspelt);
    }

    #[test]
    fn variables_that_kubernetes_makes_of_services_are_not_reported() {
        let given = startup(
            &[],
            &[
                ("PORTLB_WEB_SERVICE_HOST", "10.96.0.1"),
                ("PORTLB_WEB_SERVICE_PORT", "80"),
                ("PORTLB_WEB_SERVICE_PORT_HTTP", "80"),
                ("PORTLB_WEB_PORT", "tcp://10.96.0.1:80"),
                ("PORTLB_WEB_PORT_80_TCP", "tcp://10.96.0.1:80"),
                ("PORTLB_WEB_PORT_80_TCP_PROTO", "tcp"),
                ("PORTLB_WEB_PORT_80_TCP_PORT", "80"),
                ("PORTLB_WEB_PORT_80_TCP_ADDR", "10.96.0.1"),
            ],
        );
        assert_eq!(given.unknown, []);
    }
}
