//! Tests of the streams of changes of sessions and paths.

use super::*;

#[tokio::test]
async fn the_first_change_from_a_speaker_without_peers_and_paths_is_synced() {
    let speaker = TestSpeaker::start();
    let mut changes = speaker
        .handle
        .changes(true)
        .await
        .expect("the speaker runs");
    let first = timeout(DEADLINE, changes.next())
        .await
        .expect("the changes arrive in time");
    assert_eq!(first, Ok(vec![SpeakerChange::Synced]));
}

#[tokio::test]
async fn the_last_change_arrives_although_earlier_calls_of_next_were_cancelled() {
    let speaker = TestSpeaker::start();
    let mut changes = speaker
        .handle
        .changes(true)
        .await
        .expect("the speaker runs");
    assert_eq!(changes.next().await, Ok(vec![SpeakerChange::Synced]));
    for index in 0..20 {
        // The call of `next` is cancelled while it waits, and sometimes after its reply has
        // arrived.
        let _ = timeout(Duration::from_micros(index * 50), changes.next()).await;
        speaker.originate(&format!("10.1.1.{index}/32")).await;
    }
    speaker.originate("10.1.2.1/32").await;
    let last = net("10.1.2.1/32");
    let waiting = async {
        loop {
            let changes = changes.next().await.expect("the speaker runs");
            if changes
                .iter()
                .any(|change| matches!(change, SpeakerChange::Path(path) if path.prefix == last))
            {
                return;
            }
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .expect("the last change arrives in time");
}

#[tokio::test]
async fn an_observer_gets_all_existing_peers_and_paths_then_synced_then_changes() {
    let (reflector, client) = pair().await;
    client.originate("10.1.1.10/32").await;
    reflector
        .wait_for_paths("one path", |paths| paths.len() == 1)
        .await;
    let mut changes = reflector
        .handle
        .changes(true)
        .await
        .expect("the speaker runs");
    let first = changes.next().await.expect("the speaker runs");
    assert!(
        matches!(
            &first[..],
            [
                SpeakerChange::Peer(_),
                SpeakerChange::Path(_),
                SpeakerChange::Synced
            ]
        ),
        "{first:#?}"
    );
    client.task.abort();
    let mut seen = Vec::new();
    let waiting = async {
        while seen.len() < 2 {
            seen.extend(changes.next().await.expect("the speaker runs"));
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .expect("the changes arrive in time");
    let name = client.ip().to_string();
    assert!(
        seen.contains(&SpeakerChange::PeerRemoved(name.clone())),
        "{seen:#?}"
    );
    let is_removed = seen.iter().any(
        |change| matches!(change, SpeakerChange::PathRemoved(path) if path.peer.as_ref() == Some(&name)),
    );
    assert!(is_removed, "{seen:#?}");
}
