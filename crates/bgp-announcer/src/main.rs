//! Command line of bgp-announcer.

use std::process::ExitCode;

use bgp_announcer::{
    args::{Args, DEFAULTS},
    config::Config,
    error::StartError,
};

fn main() -> ExitCode {
    let args: Args = daemon_runtime::parse(&DEFAULTS);
    daemon_runtime::run(
        "bgp-announcer",
        &args.common,
        || Config::resolve(&args),
        async |config, daemon| {
            bgp_announcer::start(config, daemon).await?;
            Ok::<_, StartError>(())
        },
    )
}
