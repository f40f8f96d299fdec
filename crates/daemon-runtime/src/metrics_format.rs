//! The formats of `/metrics` and their negotiation.

/// A format of the response of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// OpenMetrics 1.0.0, for clients that accept it.
    OpenMetrics,
    /// The Prometheus text format 0.0.4, for all other clients.
    Text,
}

impl MetricsFormat {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_client::encoding::prometheus_text::CONTENT_TYPE,
        }
    }

    /// Chooses the format from the values of the header `Accept` (RFC 9110 section 12.5.1).
    ///
    /// Returns OpenMetrics if the header lists it with at least the quality of `text/plain`.
    /// Wildcards do not select OpenMetrics.
    pub(crate) fn negotiate<'a>(accepted: impl Iterator<Item = &'a str>) -> Self {
        let ranges = accepted.flat_map(|value| value.split(','));
        let (mut open_metrics, mut text) = (0.0, 0.0);
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let best: &mut f32 = match parts.next() {
                Some(kind) if kind.eq_ignore_ascii_case("application/openmetrics-text") => {
                    &mut open_metrics
                }
                Some(kind) if kind.eq_ignore_ascii_case("text/plain") => &mut text,
                Some(_) | None => continue,
            };
            let quality = parts.find_map(|part| {
                let (name, value) = part.split_once('=')?;
                let is_quality = name.trim().eq_ignore_ascii_case("q");
                is_quality.then(|| value.trim().parse().unwrap_or(0.0))
            });
            *best = best.max(quality.unwrap_or(1.0));
        }
        if open_metrics > 0.0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accepted: &[&str], expected: MetricsFormat) {
        let format = MetricsFormat::negotiate(accepted.iter().copied());
        assert_eq!(format, expected, "{accepted:?}");
    }

    #[test]
    fn open_metrics_is_chosen_only_for_clients_that_list_it() {
        use MetricsFormat::{OpenMetrics, Text};
        check(&[], Text);
        check(&["*/*"], Text);
        check(&["text/plain;version=0.0.4"], Text);
        check(&["application/json"], Text);
        check(&["application/openmetrics-text"], OpenMetrics);
        check(
            &["Application/OpenMetrics-Text; version=1.0.0"],
            OpenMetrics,
        );
        // The `Accept` headers of Prometheus 2 and Prometheus 3.
        check(
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
               version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            OpenMetrics,
        );
        check(
            &[
                "text/plain;version=0.0.4;q=0.3",
                "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.6",
            ],
            OpenMetrics,
        );
        check(&["application/openmetrics-text;q=0.2, text/plain"], Text);
        check(&["application/openmetrics-text;q=0, */*"], Text);
        check(&["application/openmetrics-text;q=x"], Text);
    }
}
