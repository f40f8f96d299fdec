//! Command line of pod-watcher.

use std::process::ExitCode;

use pod_watcher::{
    args::{Args, DEFAULTS},
    config::Config,
    error::StartError,
};

fn main() -> ExitCode {
    let args: Args = daemon_runtime::parse(&DEFAULTS);
    daemon_runtime::run(
        "pod-watcher",
        &args.common,
        || Config::resolve(&args),
        async |config, daemon| {
            pod_watcher::start(config, daemon).await?;
            Ok::<_, StartError>(())
        },
    )
}
