//! Flags that all daemons have.

use clap::{Args, CommandFactory, FromArgMatches, ValueEnum};

use crate::{ListenAddress, VERSION, startup::Startup};

/// Flags that all daemons have. A daemon flattens this struct into its own flags.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Address on which the gRPC server listens: ADDRESS:PORT, or unix:PATH for a unix socket.
    /// Brackets around an IPv6 address are optional. The server does not authenticate its clients,
    /// so use a loopback address or a unix socket
    #[arg(long, env = "PORTLB_GRPC_LISTEN", value_name = "ADDRESS")]
    pub grpc_listen: ListenAddress,

    /// Address on which the HTTP server with /metrics, /healthz and /readyz listens: ADDRESS:PORT.
    /// Brackets around an IPv6 address are optional. In a cluster, give the pod's address
    /// (status.podIP), so that probes and the monitoring reach the server
    #[arg(long, env = "PORTLB_HTTP_LISTEN", value_name = "ADDRESS")]
    pub http_listen: ListenAddress,

    /// Format of the log lines on standard error
    #[arg(long, env = "PORTLB_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// Filter for log lines: the least severe level that is logged (error, warn, info, debug or
    /// trace; off disables the log). A level can also apply to one module only, such as
    /// `info,bgp_speaker=debug`
    #[arg(
        long,
        env = "PORTLB_LOG_LEVEL",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log_level: String,

    /// Check the flags and the files that they name, print the errors, and exit. The exit code is 0
    /// if all are usable, and 2 if not. The daemon opens no socket and changes nothing
    #[arg(long)]
    pub check_config: bool,

    /// Not a flag: [`parse`] sets this field after clap has parsed the flags.
    #[arg(skip)]
    pub(crate) startup: Startup,
}

/// The format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for human readers, one line for each event
    Text,
    /// One JSON object for each line
    Json,
}

/// Default values of the common flags that differ between daemons.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub grpc_listen: &'static str,
    pub http_listen: &'static str,
}

/// Parses the command line. Prints and exits on `--help`, `--version` and bad usage (exit code 2).
pub fn parse<A>(defaults: &Defaults) -> A
where
    A: CommandFactory + FromArgMatches + AsMut<CommonArgs>,
{
    let command = command::<A>(defaults);
    let matches = command.clone().get_matches();
    let mut args = A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    args.as_mut().startup = Startup::new(&command, &matches, std::env::vars_os());
    args
}

/// Returns the clap command with the defaults of the daemon and the version.
pub(crate) fn command<A: CommandFactory>(defaults: &Defaults) -> clap::Command {
    A::command()
        .version(VERSION)
        // Without `allow_negative_numbers`, clap refuses the value -1 as an unknown flag, and the
        // message lacks the allowed range.
        .mut_args(|arg| {
            let takes_value = arg.get_action().takes_values();
            if takes_value {
                arg.allow_negative_numbers(true)
            } else {
                arg
            }
        })
        .mut_arg("grpc_listen", |arg| {
            arg.required(false).default_value(defaults.grpc_listen)
        })
        .mut_arg("http_listen", |arg| {
            arg.required(false).default_value(defaults.http_listen)
        })
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};

    use super::*;

    #[derive(Parser, Debug)]
    struct TestArgs {
        #[arg(long)]
        number: Option<u16>,

        #[command(flatten)]
        common: CommonArgs,
    }

    const DEFAULTS: Defaults = Defaults {
        grpc_listen: "127.0.0.1:50051",
        http_listen: "127.0.0.1:9151",
    };

    #[test]
    fn the_defaults_of_the_daemon_apply_to_the_common_flags() {
        let matches = command::<TestArgs>(&DEFAULTS).get_matches_from(["test", "--number=7"]);
        let args = TestArgs::from_arg_matches(&matches).unwrap();
        assert_eq!(args.common.grpc_listen.to_string(), "127.0.0.1:50051");
        assert_eq!(args.common.log_format, LogFormat::Text);
        assert_eq!(args.number, Some(7));
    }

    #[track_caller]
    fn check_refused(flag: &str, parts: &[&str]) {
        let error = command::<TestArgs>(&DEFAULTS)
            .try_get_matches_from(["test", flag])
            .unwrap_err();
        assert_eq!(error.exit_code(), 2, "{flag}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_message_about_an_unusable_flag_has_the_value_and_the_allowed_form() {
        check_refused("--number=-1", &["--number", "-1", "0..=65535"]);
        check_refused(
            "--grpc-listen=localhost",
            &[
                "--grpc-listen",
                "'localhost'",
                "127.0.0.1:50051",
                "unix:PATH",
            ],
        );
        check_refused(
            "--http-listen=127.0.0.1:99999",
            &["--http-listen", "127.0.0.1:99999", "ADDRESS:PORT"],
        );
        check_refused("--log-format=xml", &["--log-format", "'xml'", "text, json"]);
        check_refused("--frobnicate", &["--frobnicate", "--help"]);
    }
}
