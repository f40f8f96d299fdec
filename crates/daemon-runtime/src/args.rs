//! Flags that every daemon has.

use clap::{Args, CommandFactory, FromArgMatches, ValueEnum};

use crate::{ListenAddress, VERSION, startup::Startup};

/// Flags that every daemon has; flatten them into its own.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Where gRPC is served: ADDRESS:PORT, or unix:PATH for a unix socket. Brackets around an IPv6
    /// address may be left out. Whoever reaches it may use it, so keep it on loopback or on a socket
    #[arg(long, env = "PORTLB_GRPC_LISTEN", value_name = "ADDRESS")]
    pub grpc_listen: ListenAddress,

    /// Where /metrics, /healthz and /readyz are served over HTTP: ADDRESS:PORT; brackets around an
    /// IPv6 address may be left out. In a cluster give the pod's address (status.podIP), so that
    /// probes and the monitoring reach it
    #[arg(long, env = "PORTLB_HTTP_LISTEN", value_name = "ADDRESS")]
    pub http_listen: ListenAddress,

    /// Form of the log lines on standard error
    #[arg(long, env = "PORTLB_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace), or directives by module such as
    /// `info,bgp_speaker=debug`
    #[arg(
        long,
        env = "PORTLB_LOG_LEVEL",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log_level: String,

    /// Check flags and files, say what is wrong, and exit: 0 if they are usable, 2 if not.
    /// Nothing is opened or changed
    #[arg(long)]
    pub check_config: bool,

    /// Where the settings come from; filled in by [`parse`].
    #[arg(skip)]
    pub(crate) startup: Startup,
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What differs between the daemons' common flags.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Default of `--grpc-listen`.
    pub grpc_listen: &'static str,
    /// Default of `--http-listen`.
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

/// The command with the daemon's defaults and the version filled in.
pub(crate) fn command<A: CommandFactory>(defaults: &Defaults) -> clap::Command {
    A::command()
        .version(VERSION)
        // Otherwise -1 counts as an unknown flag, and the message does not tell the range.
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
    fn daemon_defaults_fill_the_common_flags() {
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
    fn an_unusable_flag_is_refused_with_its_value_and_what_is_allowed() {
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
