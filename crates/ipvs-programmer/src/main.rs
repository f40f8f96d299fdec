//! The program ipvs-programmer.

use std::process::ExitCode;

use data_plane::Config;
use ipvs_programmer::{
    args::{Args, DEFAULTS},
    init_step,
};

fn main() -> ExitCode {
    let args: Args = daemon_runtime::parse(&DEFAULTS);
    if args.set_sysctls {
        return init_step::set_sysctls();
    }
    daemon_runtime::run(
        "ipvs-programmer",
        &args.common,
        || Ok(Config::from(&args)),
        ipvs_programmer::start,
    )
}
