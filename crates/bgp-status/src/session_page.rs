//! Pages of the sessions of a speaker.

use bgp_packet::Asn;
use bgp_speaker::{SpeakerEnded, SpeakerHandle};
use daemon_api::{Page, PageRequest, bgp::v1 as wire, total_size};

use crate::{refused_session, session};

/// One page of the sessions, sorted by the names of their peers, and, on the first page, the
/// refused sessions.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionPage {
    pub page: Page<wire::Session>,
    /// The refused sessions of each address. Empty on all pages except the first page.
    pub refused: Vec<wire::RefusedSession>,
    /// Number of sessions on all pages.
    pub total_size: i32,
}

/// Requests a page of sessions from a speaker and, for the first page, the refused sessions.
/// `local_asn` is the AS of the speaker.
///
/// # Errors
/// The speaker has ended.
pub async fn session_page(
    speaker: &SpeakerHandle,
    local_asn: Asn,
    request: PageRequest<String>,
) -> Result<SessionPage, SpeakerEnded> {
    let refused = match request.after {
        None => speaker.refused_sessions().await?,
        Some(_) => Vec::new(),
    };
    let mut peers = speaker.peers().await?;
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    let total_size = total_size(peers.len());
    let sessions = peers
        .iter()
        .map(|peer| (peer.name.clone(), session(local_asn, peer)));
    Ok(SessionPage {
        page: request.page(sessions),
        refused: refused.into_iter().map(refused_session).collect(),
        total_size,
    })
}
