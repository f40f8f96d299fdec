//! Fake node-router that serves NodeRouteService.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use daemon_api::noderoute::v1::{
    HoldRequest, HoldResponse, ListRoutesRequest, ListRoutesResponse, WatchRoutesRequest,
    WatchRoutesResponse,
    node_route_service_server::{NodeRouteService, NodeRouteServiceServer},
};
use futures::{Stream, StreamExt};
use tokio::{net::UdpSocket, sync::watch};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

use crate::environment::{DEADLINE, KillableServer, ReservedPort};

pub(crate) struct FakeNodeRouter {
    pub(crate) port: ReservedPort,
    state: Arc<FakeNodeRouterState>,
    process: Option<KillableServer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HoldAnswer {
    Installed,
    NotInstalled,
    Refuse(String),
}

struct FakeNodeRouterState {
    answer: watch::Sender<HoldAnswer>,
    /// Prefix and gateway of each open hold.
    holds: watch::Sender<Vec<(String, String)>>,
    /// Value of the metadata `authorization` of each attempt.
    tokens: watch::Sender<Vec<Option<String>>>,
    asks_for_proof: AtomicBool,
}

impl FakeNodeRouter {
    pub(crate) async fn start_new() -> Self {
        let mut fake = Self {
            port: ReservedPort::new(),
            state: Arc::new(FakeNodeRouterState {
                answer: watch::Sender::new(HoldAnswer::Installed),
                holds: watch::Sender::new(Vec::new()),
                tokens: watch::Sender::new(Vec::new()),
                asks_for_proof: AtomicBool::new(false),
            }),
            process: None,
        };
        fake.start().await;
        fake
    }

    pub(crate) async fn start(&mut self) {
        let service = NodeRouteServiceServer::new(NodeRouteServer(self.state.clone()));
        self.process = Some(KillableServer::serve(self.port.address, service).await);
    }

    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    pub(crate) fn ask_for_proof(&self) {
        self.state.asks_for_proof.store(true, Ordering::Relaxed);
    }

    pub(crate) fn install(&self) {
        self.state.answer.send_replace(HoldAnswer::Installed);
    }

    /// Makes the fake report, from this call on, that the kernel holds no route.
    pub(crate) fn withhold(&self) {
        self.state.answer.send_replace(HoldAnswer::NotInstalled);
    }

    pub(crate) fn refuse(&self, problem: &str) {
        self.state
            .answer
            .send_replace(HoldAnswer::Refuse(problem.to_owned()));
    }

    pub(crate) fn holds(&self) -> Vec<(String, String)> {
        self.state.holds.borrow().clone()
    }

    /// Waits for an attempt with `token` as the value of the metadata `authorization`.
    pub(crate) async fn wait_for_token(&self, token: Option<&str>) {
        let mut tokens = self.state.tokens.subscribe();
        let waiting = tokens.wait_for(|tokens| {
            let last = tokens.last();
            last.is_some_and(|last| last.as_deref() == token)
        });
        let seen = tokio::time::timeout(DEADLINE, waiting).await;
        seen.expect("the attempt arrives in time")
            .expect("the fake exists");
    }

    pub(crate) async fn wait_for_holds(&self, count: usize) {
        let mut holds = self.state.holds.subscribe();
        let waiting = holds.wait_for(|holds| holds.len() == count);
        let holds = tokio::time::timeout(DEADLINE, waiting).await;
        holds
            .expect("the number of holds is reached in time")
            .expect("the fake exists");
    }
}

struct NodeRouteServer(Arc<FakeNodeRouterState>);

/// An open hold, which removes its prefix and gateway from the list when it is dropped.
struct OpenHold(Arc<FakeNodeRouterState>, (String, String));

impl Drop for OpenHold {
    fn drop(&mut self) {
        self.0.holds.send_modify(|holds| {
            let index = holds.iter().position(|hold| *hold == self.1);
            holds.remove(index.expect("the hold is in the list"));
        });
    }
}

/// Sends a nonce and other datagrams to the gateway. Waits until the announcer has sent the nonce
/// back.
async fn ask_for_proof(
    first: &HoldRequest,
    requests: &mut Streaming<HoldRequest>,
) -> Result<(), Status> {
    let nonce = [7; 32];
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let port = u16::try_from(first.proof_port).expect("proof_port is a port");
    for datagram in [&b"short"[..], &[9; 32], &nonce, &nonce] {
        socket.send_to(datagram, (&*first.gateway, port)).await?;
    }
    let mut answers = Vec::new();
    while answers.last() != Some(&nonce.to_vec()) {
        let answer = requests.message().await?;
        answers.push(answer.expect("the stream stays open").nonce);
    }
    assert_eq!(answers, [vec![9; 32], nonce.to_vec()]);
    Ok(())
}

type WireStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NodeRouteService for NodeRouteServer {
    type HoldStream = WireStream<HoldResponse>;

    async fn hold(
        &self,
        request: Request<Streaming<HoldRequest>>,
    ) -> Result<Response<Self::HoldStream>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.map(|token| token.to_str().expect("the token is ASCII").to_owned());
        self.0.tokens.send_modify(|tokens| tokens.push(token));
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .expect("the stream begins with a request");
        if let HoldAnswer::Refuse(problem) = &*self.0.answer.borrow() {
            return Err(Status::permission_denied(problem));
        }
        if self.0.asks_for_proof.load(Ordering::Relaxed) {
            ask_for_proof(&first, &mut requests).await?;
        }
        let entry = (first.prefix, first.gateway);
        self.0.holds.send_modify(|holds| holds.push(entry.clone()));
        let hold = OpenHold(self.0.clone(), entry);
        let answers = WatchStream::new(self.0.answer.subscribe());
        let responses = answers.map(move |answer| {
            let _ = (&hold, &requests);
            Ok(HoldResponse {
                installed: answer == HoldAnswer::Installed,
                interface: "eth7".to_owned(),
            })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn list_routes(
        &self,
        _: Request<ListRoutesRequest>,
    ) -> Result<Response<ListRoutesResponse>, Status> {
        Err(Status::unimplemented(
            "the announcer does not call this method",
        ))
    }

    type WatchRoutesStream = WireStream<WatchRoutesResponse>;

    async fn watch_routes(
        &self,
        _: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        Err(Status::unimplemented(
            "the announcer does not call this method",
        ))
    }
}
