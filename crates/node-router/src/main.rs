use std::process::ExitCode;

use node_router::{Args, Config, DEFAULTS, start};

fn main() -> ExitCode {
    let args: Args = daemon_runtime::parse(&DEFAULTS);
    let common = args.common.clone();
    daemon_runtime::run("node-router", &common, || Config::resolve(args), start)
}
