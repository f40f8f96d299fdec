//! Tests of `--hold-proof=token`.

use std::{error::Error as _, path::Path, time::Duration};

use daemon_api::noderoute::v1::{HoldRequest, HoldResponse};
use node_router::{HoldProof, LONGEST_TOKEN, NamespacePrefixes, TokenSettings};
use serde_json::json;
use tokio::{net::UdpSocket, sync::mpsc};
use tonic::{Code, Request, Status, Streaming};

use crate::{
    signer::{ISSUER, SigningKey, claims, claims_with, encode, key_set, message, now},
    support::{DEADLINE, FakeKernelNode, KernelState, next, own_route, prefix},
};

const OF_WEB: &str = "10.1.1.0/24";
const OF_SHOP: &str = "10.1.2.0/24";
const GATEWAY: &str = "127.0.0.7";

/// A daemon with `--hold-proof=token`, and the folder of its keys file.
struct TokenNode {
    node: FakeKernelNode,
    folder: tempfile::TempDir,
}

/// The open streams of a granted hold.
type GrantedHold = (mpsc::Sender<HoldRequest>, Streaming<HoldResponse>);

impl TokenNode {
    async fn start(keys: &[&SigningKey]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys_file = folder.path().join("jwks.json");
        std::fs::write(&keys_file, key_set(keys)).unwrap();
        let node = FakeKernelNode::start_from(KernelState::default(), |config| {
            config.policy.allowed_gateways = vec![prefix("127.0.0.0/24"), prefix("::1/128")];
            let entries = ["web=10.1.1.0/24,fd00:1::/64", "shop=10.1.2.0/24"];
            let entries = entries.map(|entry| entry.parse().unwrap());
            let allowed = &config.policy.allowed_prefixes;
            config.hold_proof = HoldProof::Token(TokenSettings {
                keys_file,
                issuer: ISSUER.to_owned(),
                namespaces: NamespacePrefixes::new(&entries, allowed).unwrap(),
            });
        })
        .await;
        Self { node, folder }
    }

    /// Replaces the file by a rename, like an editor. The tests of the file watcher cover the links
    /// of a ConfigMap.
    fn write_keys(&self, text: &str) {
        let path = |name: &str| self.folder.path().join(name);
        replace(&path("jwks.json"), &path("next"), text);
    }

    /// Requests a hold, and sends each nonce that arrives at the gateway back on the stream. Checks
    /// that a refused hold has caused no datagram to the gateway.
    async fn hold(&self, service: &str, token: Option<&str>) -> Result<GrantedHold, Status> {
        let pod = UdpSocket::bind((GATEWAY, 0)).await.unwrap();
        let (requests, stream) = mpsc::channel(4);
        let first = HoldRequest {
            prefix: service.to_owned(),
            gateway: GATEWAY.to_owned(),
            proof_port: pod.local_addr().unwrap().port().into(),
            nonce: Vec::new(),
        };
        requests.send(first).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let mut request = Request::new(stream);
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = self.node.client();
        let answers = requests.clone();
        let pass_on = async {
            let mut nonce = [0; 32];
            while pod.recv(&mut nonce).await.is_ok() {
                let request = HoldRequest {
                    nonce: nonce.to_vec(),
                    ..HoldRequest::default()
                };
                let _ = answers.try_send(request);
            }
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(DEADLINE, client.hold(request)) => answer,
            () = pass_on => panic!("the socket of the pod failed"),
        };
        let answer = answer.expect("a response arrives in time");
        if answer.is_err() {
            assert_eq!(
                pod.try_recv(&mut [0; 32]).ok(),
                None,
                "a datagram was sent to the gateway"
            );
        }
        answer.map(|answer| (requests, answer.into_inner()))
    }

    async fn granted_hold(&self, service: &str, token: &str) -> GrantedHold {
        let (requests, mut stream) = self.hold(service, Some(token)).await.unwrap();
        assert!(next(&mut stream).await.unwrap().installed);
        (requests, stream)
    }

    /// Repeats the request until the response satisfies the condition.
    async fn hold_until(&self, token: &str, is_so: impl Fn(&Result<GrantedHold, Status>) -> bool) {
        let attempts = async {
            while !is_so(&self.hold(OF_WEB, Some(token)).await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(DEADLINE, attempts).await;
        seen.expect("the response changes in time");
    }

    async fn wait_for_metric(&self, line: &str) {
        let seen = async {
            while !self.node.metrics.encode().contains(line) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let seen = tokio::time::timeout(DEADLINE, seen).await;
        assert!(seen.is_ok(), "{line}: {}", self.node.metrics.encode());
    }

    #[track_caller]
    fn assert_refused(&self, status: &Status, code: Code, reason: &str, part: &str) {
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{part}: {status:?}");
        let metrics = self.node.metrics.encode();
        let refused = format!("refused_holds_total{{reason=\"{reason}\"}} ");
        assert!(metrics.contains(&refused), "{refused}: {metrics}");
    }
}

fn replace(path: &Path, next: &Path, text: &str) {
    std::fs::write(next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn is_unknown_key(answer: &Result<GrantedHold, Status>) -> bool {
    let status = answer.as_ref().err();
    status.is_some_and(|status| status.message().contains("--token-keys-file"))
}

#[tokio::test]
async fn a_pod_can_hold_the_prefixes_of_its_namespace() {
    let keys = [
        SigningKey::rsa("one"),
        SigningKey::p256("two"),
        SigningKey::p384("three"),
    ];
    let token_node = TokenNode::start(&keys.each_ref()).await;
    let mut held = Vec::new();
    for key in &keys {
        held.push(
            token_node
                .granted_hold(OF_WEB, &key.sign(&claims("web")))
                .await,
        );
    }
    held.push(
        token_node
            .granted_hold(OF_SHOP, &keys[0].sign(&claims("shop")))
            .await,
    );
    let expected = [OF_WEB, OF_SHOP].map(|service| own_route(service, &[GATEWAY]));
    assert_eq!(token_node.node.kernel.own(), expected);
    let metrics = token_node.node.metrics.encode();
    assert!(metrics.contains("node_router_token_keys 3"), "{metrics}");
    token_node.node.stop().await;
}

#[tokio::test]
async fn a_prefix_of_another_namespace_is_refused() {
    let key = SigningKey::p256("one");
    let token_node = TokenNode::start(&[&key]).await;
    for (namespace, service, part) in [
        (
            "web",
            OF_SHOP,
            "namespace web is not allowed to hold prefix 10.1.2.0/24",
        ),
        (
            "web",
            "10.1.0.0/16",
            "allowed for this namespace: 10.1.1.0/24, fd00:1::/64",
        ),
        (
            "shop",
            "10.1.1.10/32",
            "allowed for this namespace: 10.1.2.0/24",
        ),
        ("other", OF_WEB, "allowed for this namespace: none"),
    ] {
        let token = key.sign(&claims(namespace));
        let status = token_node.hold(service, Some(&token)).await.unwrap_err();
        let code = Code::PermissionDenied;
        token_node.assert_refused(&status, code, "namespace_not_allowed", part);
        let flag = "--namespace-prefixes";
        token_node.assert_refused(&status, code, "namespace_not_allowed", flag);
    }
    assert_eq!(token_node.node.kernel.changes(), [""; 0]);
    token_node.node.stop().await;
}

#[tokio::test]
async fn a_hold_with_an_invalid_token_is_refused_without_a_datagram_to_the_gateway() {
    let key = SigningKey::rsa("one");
    let forger = SigningKey::p256("two");
    let token_node = TokenNode::start(&[&key, &SigningKey::p256("two")]).await;
    let web = claims("web");
    let header = |algorithm: &str| json!({"alg": algorithm, "kid": "one"});
    let by_public_key = {
        let message = message(&header("HS256"), &web);
        let secret = key_set(&[&key]);
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let signature = ring::hmac::sign(&secret, message.as_bytes());
        format!("{message}.{}", encode(signature.as_ref()))
    };
    let unsigned = format!("{}.", message(&header("none"), &web));
    let with = |claim: &str, value: serde_json::Value| key.sign(&claims_with(claim, value));
    let unknown = SigningKey::p256("three").sign(&web);
    let no_pod = with("/kubernetes.io/pod", json!(null));
    for (token, reason, part) in [
        (with("/exp", json!(now() - 60)), "token_expired", "expired"),
        (
            with("/nbf", json!(now() + 60)),
            "token_not_yet_valid",
            "clocks",
        ),
        (with("/aud", json!(["vault"])), "token_audience", "`portlb`"),
        (with("/iss", json!("https://other")), "token_issuer", ISSUER),
        (unknown, "token_unknown_key", "key id \"three\""),
        (forger.sign(&web), "token_signature", "signature"),
        (unsigned, "token_malformed", "not a JSON Web Token"),
        (by_public_key, "token_algorithm", "algorithm"),
        (no_pod, "token_claims", "bound to a pod"),
        (
            "x".repeat(LONGEST_TOKEN + 1),
            "token_malformed",
            "8192 bytes",
        ),
    ] {
        let status = token_node.hold(OF_WEB, Some(&token)).await.unwrap_err();
        token_node.assert_refused(&status, Code::Unauthenticated, reason, part);
        assert!(!status.message().contains(&token), "{status:?}");
    }
    let status = token_node.hold(OF_WEB, None).await.unwrap_err();
    let part = "--hold-token-file";
    token_node.assert_refused(&status, Code::Unauthenticated, "token_missing", part);
    assert_eq!(token_node.node.kernel.changes(), [""; 0]);
    token_node.node.stop().await;
}

/// HTTP/2 rejects a request whose headers are too large. The daemon must continue to serve other
/// requests.
#[tokio::test]
async fn a_hold_with_a_token_that_exceeds_the_http_header_limit_is_refused() {
    let key = SigningKey::p256("one");
    let token_node = TokenNode::start(&[&key]).await;
    let token = "x".repeat(1024 * 1024);
    let status = token_node.hold(OF_WEB, Some(&token)).await.unwrap_err();
    // An error of the transport has a source. A status that the daemon sends has none.
    assert!(status.source().is_some(), "{status:?}");
    let _held = token_node
        .granted_hold(OF_WEB, &key.sign(&claims("web")))
        .await;
    token_node.node.stop().await;
}

#[tokio::test]
async fn a_valid_token_is_not_sufficient_for_the_gateway_of_another_pod() {
    let key = SigningKey::p256("one");
    let token_node = TokenNode::start(&[&key]).await;
    let other = UdpSocket::bind(("127.0.0.8", 0)).await.unwrap();
    let first = HoldRequest {
        prefix: OF_WEB.to_owned(),
        gateway: "127.0.0.8".to_owned(),
        proof_port: other.local_addr().unwrap().port().into(),
        nonce: Vec::new(),
    };
    let requests = futures::stream::iter([first]);
    let mut request = Request::new(futures::StreamExt::chain(
        requests,
        futures::stream::pending(),
    ));
    let value = format!("Bearer {}", key.sign(&claims("web")));
    let metadata = request.metadata_mut();
    metadata.insert("authorization", value.parse().unwrap());
    let mut client = token_node.node.client();
    let answer = tokio::time::timeout(DEADLINE, client.hold(request)).await;
    let status = answer.expect("a response arrives in time").unwrap_err();
    token_node.assert_refused(&status, Code::Unavailable, "not_proved", "nonce");
    assert_eq!(token_node.node.kernel.changes(), [""; 0]);
    token_node.node.stop().await;
}

#[tokio::test]
async fn holds_after_a_change_of_the_keys_file_are_verified_with_the_new_keys() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let token_node = TokenNode::start(&[&old]).await;
    let of_old = old.sign(&claims("web"));
    let of_new = new.sign(&claims("web"));
    let (_requests, mut stream) = token_node.granted_hold(OF_WEB, &of_old).await;
    assert!(is_unknown_key(
        &token_node.hold(OF_WEB, Some(&of_new)).await
    ));
    // The file contains both keys, as during a key rotation of the cluster.
    token_node.write_keys(&key_set(&[&old, &new]));
    token_node.hold_until(&of_new, Result::is_ok).await;
    let _held = token_node.granted_hold(OF_WEB, &of_old).await;
    token_node.write_keys(&key_set(&[&new]));
    token_node.hold_until(&of_old, is_unknown_key).await;
    let _held = token_node.granted_hold(OF_WEB, &of_new).await;
    // An existing hold stays, even though the key of its token was removed.
    let ended = tokio::time::timeout(Duration::ZERO, stream.message()).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(
        token_node.node.kernel.own(),
        [own_route(OF_WEB, &[GATEWAY])]
    );
    token_node.node.stop().await;
}

#[tokio::test]
async fn an_unusable_or_removed_keys_file_leaves_the_previous_keys_in_use() {
    let key = SigningKey::p256("one");
    let token_node = TokenNode::start(&[&key]).await;
    let token = key.sign(&claims("web"));
    let rejected = "node_router_rejected_token_keys_total";
    for (number, text) in ["{", r#"{"keys": []}"#].into_iter().enumerate() {
        token_node.write_keys(text);
        let line = format!("{rejected} {}", number + 1);
        token_node.wait_for_metric(&line).await;
        let _held = token_node.granted_hold(OF_WEB, &token).await;
    }
    std::fs::remove_file(token_node.folder.path().join("jwks.json")).unwrap();
    token_node.wait_for_metric(&format!("{rejected} 3")).await;
    let _held = token_node.granted_hold(OF_WEB, &token).await;
    let next = SigningKey::p256("next");
    token_node.write_keys(&key_set(&[&next]));
    token_node.hold_until(&token, is_unknown_key).await;
    let _held = token_node
        .granted_hold(OF_WEB, &next.sign(&claims("web")))
        .await;
    token_node.node.stop().await;
}

#[tokio::test]
async fn a_hold_stays_after_its_token_has_expired() {
    let key = SigningKey::p256("one");
    let token_node = TokenNode::start(&[&key]).await;
    // node-router accepts a token for 30 s after its expiry, so it rejects this token in one
    // second.
    let token = key.sign(&claims_with("/exp", json!(now() - 29)));
    let (_requests, mut stream) = token_node.granted_hold(OF_WEB, &token).await;
    token_node
        .hold_until(&token, |answer| {
            let status = answer.as_ref().err();
            status.is_some_and(|status| status.message().contains("expired"))
        })
        .await;
    let ended = tokio::time::timeout(Duration::ZERO, stream.message()).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(
        token_node.node.kernel.own(),
        [own_route(OF_WEB, &[GATEWAY])]
    );
    token_node.node.stop().await;
}
