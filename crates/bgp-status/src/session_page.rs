//! A page of the sessions of a speaker.

use bgp_packet::Asn;
use bgp_speaker::{SpeakerGone, SpeakerHandle};
use daemon_api::{Page, PageRequest, bgp::v1 as wire, total_size};

use crate::{refused_session, session};

/// Sessions in the order of the names of their peers, and the addresses from which none came up.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionPage {
    /// The sessions of this page.
    pub page: Page<wire::Session>,
    /// The addresses from which none came up; empty after the first page.
    pub refused: Vec<wire::RefusedSession>,
    /// Number of all sessions.
    pub total_size: i32,
}

/// Asks a speaker of the AS `local_asn` for a page of its sessions.
///
/// # Errors
/// The speaker has ended.
pub async fn session_page(
    speaker: &SpeakerHandle,
    local_asn: Asn,
    request: PageRequest<String>,
) -> Result<SessionPage, SpeakerGone> {
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
