//! The program route-reflector.

use std::process::ExitCode;

use route_reflector::{
    args::{Args, DEFAULTS},
    config::Settings,
};

fn main() -> ExitCode {
    let args: Args = daemon_runtime::parse(&DEFAULTS);
    let common = args.common.clone();
    daemon_runtime::run(
        "route-reflector",
        &common,
        || Settings::resolve(args),
        route_reflector::start,
    )
}
