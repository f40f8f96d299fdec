//! A test of hold tokens that a real API server has issued.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use daemon_api::noderoute::v1::HoldRequest;
use daemon_api::noderoute::v1::node_route_service_client::NodeRouteServiceClient;
use daemon_runtime::GrpcTarget;
use lab::Process;
use tonic::{Code, Request, Status};

use crate::cluster::TestControlPlane;

const SOON: Duration = Duration::from_secs(10);

/// A node-router in its own network namespace.
struct NodeRouterProcess {
    socket: PathBuf,
    _process: Process,
}

impl NodeRouterProcess {
    fn start(folder: &Path, flags: &[String]) -> Self {
        let socket = folder.join("node-router.sock");
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--net"])
            .arg(lab::daemons::binary("node-router").unwrap())
            .args(["--allowed-prefixes=10.1.0.0/16", "--uplink=none"])
            .arg("--allowed-gateways=10.244.3.0/24")
            .arg(format!("--grpc-listen=unix:{}", socket.display()))
            .arg(format!("--http-listen=unix:{}/http.sock", folder.display()))
            .args(flags);
        let log = folder.join("node-router.log");
        let process = Process::spawn_bound("node-router", &log, command).unwrap();
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(process.is_running(), "{}", process.tail());
            assert!(begin.elapsed() < SOON, "{}", process.tail());
            std::thread::sleep(Duration::from_millis(5));
        }
        Self {
            socket,
            _process: process,
        }
    }

    /// Sends a hold without `proof_port`, and returns node-router's error.
    ///
    /// Every such hold is refused. node-router verifies the token first, so an error about the
    /// missing proof shows that the token was accepted.
    fn hold_error(&self, prefix: &str, token: &str) -> Status {
        let request = HoldRequest {
            prefix: prefix.to_owned(),
            gateway: "10.244.3.7".to_owned(),
            ..HoldRequest::default()
        };
        let mut request = Request::new(futures::stream::iter([request]));
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let channel = GrpcTarget::Unix(self.socket.clone()).channel();
            let mut client = NodeRouteServiceClient::new(channel);
            let answer = tokio::time::timeout(SOON, client.hold(request)).await;
            answer.expect("node-router answers in time").unwrap_err()
        })
    }
}

#[test]
fn node_router_accepts_the_token_of_a_pod_for_the_prefixes_of_its_namespace() {
    let namespace = TestControlPlane::shared().namespace("hold-token");
    namespace.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: load-balancer}, spec: {serviceAccountName: \
         portlb, containers: [{name: bgp-announcer, image: bgp-announcer}]}}",
    );
    let folder = tempfile::tempdir().unwrap();
    let keys_file = folder.path().join("jwks.json");
    std::fs::write(
        &keys_file,
        namespace.kubectl(&["get", "--raw", "/openid/v1/jwks"]),
    )
    .unwrap();
    let discovery = ["get", "--raw", "/.well-known/openid-configuration"];
    let discovery: serde_json::Value =
        serde_json::from_str(&namespace.kubectl(&discovery)).unwrap();
    let router = NodeRouterProcess::start(
        folder.path(),
        &[
            "--hold-proof=token".to_owned(),
            format!("--token-keys-file={}", keys_file.display()),
            format!("--token-issuer={}", discovery["issuer"].as_str().unwrap()),
            "--namespace-prefixes=hold-token=10.1.1.0/24".to_owned(),
            "--namespace-prefixes=other=10.1.2.0/24".to_owned(),
        ],
    );
    let token = |flags: &[&str]| {
        let create = [&["create", "token", "portlb"], flags].concat();
        namespace.kubectl(&create).trim().to_owned()
    };
    let audience = "--audience=portlb";
    let kind = "--bound-object-kind=Pod";
    let name = "--bound-object-name=load-balancer";
    let hold_token = token(&[audience, kind, name]);
    for (prefix, token, code, part) in [
        // The token is valid, so the error is about the missing hold proof.
        (
            "10.1.1.10/32",
            &hold_token,
            Code::PermissionDenied,
            "proof_port",
        ),
        (
            "10.1.2.10/32",
            &hold_token,
            Code::PermissionDenied,
            "namespace hold-token is not allowed to hold prefix 10.1.2.10/32",
        ),
        (
            "10.1.1.10/32",
            &token(&[kind, name]),
            Code::Unauthenticated,
            "audience",
        ),
        (
            "10.1.1.10/32",
            &token(&[audience]),
            Code::Unauthenticated,
            "bound to a pod",
        ),
    ] {
        let status = router.hold_error(prefix, token);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{part}: {status:?}");
    }
}
