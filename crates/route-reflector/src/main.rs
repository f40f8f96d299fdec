//! The route-reflector daemon.

use std::process::ExitCode;

use route_reflector::{
    args::{Args, DEFAULTS},
    config::Settings,
    error::StartError,
};

fn main() -> ExitCode {
    let args: Args = daemon_runtime::parse(&DEFAULTS);
    let common = args.common.clone();
    daemon_runtime::run(
        "route-reflector",
        &common,
        || Settings::resolve(args),
        async |settings, daemon| {
            route_reflector::start(settings, daemon).await?;
            Ok::<_, StartError>(())
        },
    )
}
