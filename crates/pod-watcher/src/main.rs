//! Entry point of the program pod-watcher.

use std::process::ExitCode;

use pod_watcher::{
    args::{Args, DEFAULTS},
    command,
    config::Config,
    error::StartError,
};

fn main() -> ExitCode {
    let mut args: Args = daemon_runtime::parse(&DEFAULTS);
    if let Some(command) = args.command.take() {
        return command::run(command);
    }
    command::quiet_libraries(&mut args.common.log_level);
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
