//! The program bgp-announcer.

use std::process::ExitCode;

use bgp_announcer::{
    args::{Args, DEFAULTS},
    config::Config,
};

fn main() -> ExitCode {
    let args: Args = daemon_runtime::parse(&DEFAULTS);
    daemon_runtime::run(
        "bgp-announcer",
        &args.common,
        || Config::resolve(&args),
        bgp_announcer::start,
    )
}
