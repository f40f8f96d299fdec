//! Log lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::LogFormat;

/// Starts logging for the whole process.
pub(crate) fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = parse(filter).map_err(|problem| {
        format!(
            "--log-level: {filter:?} is not a filter ({problem}); give error, warn, info, debug \
             or trace, or directives such as info,bgp_speaker=debug"
        )
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => registry
            .with(lines.with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    started.map_err(|error| format!("logging: {error}"))
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    // To the library a misspelt level is the name of a module, and everything else falls silent.
    let is_level = |word: &str| word == "off" || word.parse::<tracing::Level>().is_ok();
    let is_directive = |word: &str| word.contains(['=', '[']) || is_level(word);
    let mut words = filter.split(',');
    if let Some(word) = words.find(|word| !is_directive(word)) {
        return Err(format!("{word:?} is no level"));
    }
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, expected: Result<(), &str>) {
        let result = parse(filter).map(drop);
        assert_eq!(result, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        check("info", Ok(()));
        check("WARN", Ok(()));
        check("off", Ok(()));
        check("info,bgp_speaker=debug", Ok(()));
        check("loud", Err("\"loud\" is no level"));
        check("info,bgp_speaker", Err("\"bgp_speaker\" is no level"));
        check("", Err("\"\" is no level"));
    }
}
