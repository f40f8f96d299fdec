//! What this program does besides running: `render` and `validate`.

use std::{fmt, io::Write, process::ExitCode};

use daemon_runtime::{ConfigError, Daemon};

use crate::{
    args::{ClusterArgs, Command},
    config::{self, ClusterConfig},
    kubernetes::tasks,
    metrics::ClusterMetrics,
    render::{self, Rendered},
    source::{Source, SourceError, SourceEvent},
    validate,
};

/// Exit codes.
const FAILED: u8 = 1;
const UNUSABLE: u8 = 2;

/// The default log filter keeps these out: they repeat, at each attempt, what is told once here.
const LIBRARIES: [&str; 3] = ["kube_client", "kube_runtime", "tower"];

/// Runs it; the exit code is 0, 1 (the cluster cannot be read), or 2 (a flag or a file cannot be
/// used).
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Render { files, cluster } if files.is_empty() => render_cluster(&cluster),
        Command::Render { files, cluster } => {
            let rendered = config::settings(&cluster).map(|settings| {
                render::from_manifests(&files, settings)
                    .map_err(|errors| ConfigError(errors.join("\n")))
            });
            match rendered.and_then(|rendered| rendered) {
                Ok(rendered) => print(&rendered),
                Err(error) => fail(UNUSABLE, &error),
            }
        }
        Command::Validate {
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

/// Adds the libraries that this program speaks for to a log filter that does not name them.
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
    let rendered = runtime.block_on(listed(&config));
    runtime.shutdown_background();
    match rendered {
        Ok(rendered) => print(&rendered),
        Err(error) => fail(FAILED, &error),
    }
}

/// What the cluster says once all of it is listed; the first trouble ends it.
async fn listed(config: &ClusterConfig) -> Result<Rendered, SourceError> {
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
        say(&format!("{key}: {finding}"));
    }
    match std::io::stdout().write_all(rendered.document.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &error),
    }
}

fn fail(code: u8, error: &dyn fmt::Display) -> ExitCode {
    say(&format!("pod-watcher: {error}"));
    ExitCode::from(code)
}

/// To standard error; nobody is left to tell if it is closed.
fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
