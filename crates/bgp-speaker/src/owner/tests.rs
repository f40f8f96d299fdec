use std::net::Ipv4Addr;

use bgp_packet::{Asn, ClusterId, RouterId};

use super::*;
use crate::{Md5Key, SessionConfig};

/// A connection from 127.0.0.1 that was admitted by this.
async fn accepted(admission: Arc<Admission>) -> News {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let connect = TcpStream::connect(listener.local_addr().unwrap());
    let (accepted, connected) = tokio::join!(listener.accept(), connect);
    connected.unwrap();
    let (stream, remote) = accepted.unwrap();
    News::Accepted {
        stream,
        remote,
        admission,
    }
}

#[tokio::test]
async fn who_was_admitted_without_the_key_of_after_a_change_is_not_served() {
    let local = Ipv4Addr::LOCALHOST;
    let config = SpeakerConfig {
        local_asn: Asn(64512),
        router_id: RouterId(local),
        cluster_id: ClusterId(local),
        listen: Vec::new(),
    };
    let mut owner = Speaker::new(config, Vec::new()).owner;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "secret").unwrap();
    let mut group = GroupConfig {
        name: "pods".to_owned(),
        prefixes: vec!["127.0.0.0/8".parse().unwrap()],
        maximum_peers: 10,
        session: SessionConfig::new(None),
    };
    let configuration = |group: &GroupConfig| Configuration {
        peers: Vec::new(),
        groups: vec![group.clone()],
    };
    let now = Instant::now();
    owner.configure(configuration(&group), now).unwrap();
    let before = owner.admission.borrow().clone();
    let waiting = accepted(before.clone()).await;
    group.session.md5_key = Some(Md5Key::read(&file).unwrap());
    owner.configure(configuration(&group), now).unwrap();
    owner.hear(waiting);
    assert!(owner.peers.is_empty());

    let after = owner.admission.borrow().clone();
    owner.hear(accepted(after).await);
    assert_eq!(owner.peers.len(), 1);
}
