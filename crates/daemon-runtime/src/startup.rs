//! The settings from the command line and the environment.

use std::ffi::OsString;

use clap::{ArgMatches, Command};
use serde_json::{Map, Value};

const PREFIX: &str = "PORTLB_";

/// Largest number of unknown variables that are logged.
const MOST_REPORTED: usize = 16;

/// The settings of a daemon, and the unknown variables of its environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Startup {
    settings: Map<String, Value>,
    unknown: Vec<UnknownVariable>,
}

/// An environment variable whose name begins with `PORTLB_`, but which no flag reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnknownVariable {
    name: String,
    /// The most similar variable that a flag reads.
    nearest: Option<String>,
}

impl Startup {
    /// Collects the settings of the parsed flags and the unknown variables among `variables`.
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

    /// Returns the value of each flag as text, or as a list of texts if the flag has several
    /// values. The key is the name of the flag with underscores. Flags without a value are omitted.
    pub(crate) fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// Logs the unknown variables, which are probably misspelt.
    pub(crate) fn log_unknown_variables(&self) {
        for UnknownVariable { name, nearest } in self.unknown.iter().take(MOST_REPORTED) {
            let nearest = nearest.as_deref();
            tracing::warn!(
                variable = name,
                nearest,
                "no flag of this daemon reads the environment variable; ignoring the variable"
            );
        }
        let more = self.unknown.len().saturating_sub(MOST_REPORTED);
        if more > 0 {
            tracing::warn!(
                more,
                "ignoring more environment variables that no flag of this daemon reads"
            );
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

/// Reports whether Kubernetes has set the variable for a Service.
///
/// Every container gets variables about each Service of its namespace. The variables of a Service
/// with a name such as `portlb-web` begin with `PORTLB_`.
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
    #[allow(dead_code, reason = "only clap reads the fields")]
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
    fn the_settings_are_the_given_flags_and_the_defaults() {
        let given = startup(&["--allowed-prefixes=10.1.1.0/24,fd01::/64"], &[]);
        let expected = json!({
            "allowed_prefixes": ["10.1.1.0/24", "fd01::/64"],
            "asn": "64512",
            "check_config": "false",
        });
        assert_eq!(Value::Object(given.settings().clone()), expected);
    }

    #[test]
    fn a_misspelt_variable_is_reported_with_the_most_similar_variable() {
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
    fn variables_that_kubernetes_sets_for_services_are_not_reported() {
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
