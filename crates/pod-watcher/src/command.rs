//! The commands `render` and `validate`.

use std::{fmt, io::Write, process::ExitCode};

use daemon_runtime::{ConfigError, Daemon};

use crate::{
    args::{ClusterArgs, PodWatcherCommand},
    config::{self, ClusterConfig},
    kubernetes::tasks,
    metrics::ClusterMetrics,
    render::{self, Rendered},
    source::{DesiredSetSource, SourceError, SourceEvent},
    validate,
};

/// Exit code if the cluster cannot be read or the output cannot be written.
const FAILED: u8 = 1;

/// Exit code if a flag or a file cannot be used.
const UNUSABLE: u8 = 2;

/// Libraries that log an error at every failed attempt to reach the API server. pod-watcher itself
/// logs each of these errors once.
const LIBRARIES: [&str; 3] = ["kube_client", "kube_runtime", "tower"];

/// Runs a command. The exit code is 2 if a flag or a file of the command cannot be used.
pub fn run(command: PodWatcherCommand) -> ExitCode {
    match command {
        PodWatcherCommand::Render { files, cluster } if files.is_empty() => {
            render_cluster(&cluster)
        }
        PodWatcherCommand::Render { files, cluster } => {
            let rendered = config::settings(&cluster).map(|settings| {
                render::from_manifests(&files, settings)
                    .map_err(|errors| ConfigError(errors.join("\n")))
            });
            match rendered.and_then(|rendered| rendered) {
                Ok(rendered) => print(&rendered),
                Err(error) => fail(UNUSABLE, &error),
            }
        }
        PodWatcherCommand::Validate {
            files,
            strict,
            output,
            cluster,
        } => match config::settings(&cluster) {
            Ok(settings) => validate::run(&files, settings, strict, output),
            Err(error) => fail(UNUSABLE, &error),
        },
    }
}

/// Turns the logs of `LIBRARIES` off in a log filter, except for libraries that the filter names.
pub fn quiet_libraries(filter: &mut String) {
    for library in LIBRARIES {
        if !filter.contains(library) {
            filter.push_str(&format!(",{library}=off"));
        }
    }
}

fn render_cluster(args: &ClusterArgs) -> ExitCode {
    let config = match ClusterConfig::resolve(args) {
        Ok(config) => config,
        Err(error) => return fail(UNUSABLE, &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error),
    };
    let rendered = runtime.block_on(render_after_lists(&config));
    runtime.shutdown_background();
    match rendered {
        Ok(rendered) => print(&rendered),
        Err(error) => fail(FAILED, &error),
    }
}

/// Renders the objects of the cluster after each scope was listed once. Returns the first failure
/// of a list or a watch as the error.
async fn render_after_lists(config: &ClusterConfig) -> Result<Rendered, SourceError> {
    let mut daemon = Daemon::new("pod-watcher");
    let metrics = ClusterMetrics::default();
    let mut source = tasks::source(config, &metrics, &mut daemon);
    loop {
        match source.next().await {
            SourceEvent::Failed(error) => return Err(error),
            SourceEvent::Recovered => {}
            SourceEvent::Snapshot(_) | SourceEvent::Changes(_) => {
                return Ok(render::of(source.catalog()));
            }
        }
    }
}

fn print(rendered: &Rendered) -> ExitCode {
    for (key, finding) in &rendered.findings {
        write_to_stderr(&format!("{key}: {finding}"));
    }
    match std::io::stdout().write_all(rendered.document.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &error),
    }
}

fn fail(code: u8, error: &dyn fmt::Display) -> ExitCode {
    write_to_stderr(&format!("pod-watcher: {error}"));
    ExitCode::from(code)
}

/// Writes a line to standard error. Ignores an error, because no other stream could show it.
fn write_to_stderr(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
