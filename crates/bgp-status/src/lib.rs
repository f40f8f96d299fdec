//! Speaker status as messages of `portlb.bgp.v1` and as metrics.

mod messages;
mod session_page;
mod speaker_metrics;

pub use messages::{path, refused_session, session};
pub use session_page::{SessionPage, session_page};
pub use speaker_metrics::SpeakerMetrics;
