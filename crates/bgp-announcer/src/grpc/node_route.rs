//! Holds node routes: one task a prefix, for as long as it is wanted.

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, time::Duration};

use bgp_packet::IpNet;
use daemon_api::noderoute::v1::{
    HoldRequest, HoldResponse, node_route_service_client::NodeRouteServiceClient,
};
use daemon_runtime::{Backoff, Target, in_words};
use futures::stream;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};
use tonic::{Code, Request, Status, transport::Channel};

use super::data_plane::describe;
use crate::{announcements::Input, hold_token::HoldToken};

/// Octets of a nonce of node-router.
const NONCE: usize = 32;

/// Most datagrams that one attempt takes: node-router repeats its nonce ten times.
const PASSED_ON: usize = 16;

/// The holds of this process.
#[derive(Debug)]
pub struct NodeRoutes {
    client: Option<NodeRouteServiceClient<Channel>>,
    longest_retry: Duration,
    token: Option<HoldToken>,
    tasks: JoinSet<()>,
    /// The number tells the news of a hold from those of an earlier one of the same prefix.
    holds: BTreeMap<IpNet, (u64, tokio::task::AbortHandle)>,
    next_hold: u64,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

#[derive(Debug)]
struct News {
    hold: u64,
    prefix: IpNet,
    input: Input,
}

impl NodeRoutes {
    /// Without a target no route can be held, nor is one asked for. `longest_retry` is the longest
    /// pause between two attempts; the token goes with each of them.
    pub fn new(target: Option<&Target>, longest_retry: Duration, token: Option<HoldToken>) -> Self {
        let (sender, news) = mpsc::channel(64);
        Self {
            client: target.map(|target| NodeRouteServiceClient::new(target.channel())),
            longest_retry,
            token,
            tasks: JoinSet::new(),
            holds: BTreeMap::new(),
            next_hold: 0,
            sender,
            news,
        }
    }

    /// Holds the route until it is released, again and again if need be.
    pub fn hold(&mut self, prefix: IpNet, gateway: IpAddr) {
        let Some(client) = self.client.clone() else {
            return;
        };
        self.release(prefix);
        self.next_hold += 1;
        let holder = Holder {
            hold: self.next_hold,
            prefix,
            gateway,
            client,
            longest_retry: self.longest_retry,
            token: self.token.clone(),
            news: self.sender.clone(),
        };
        let task = self.tasks.spawn(holder.run());
        self.holds.insert(prefix, (self.next_hold, task));
    }

    /// Ends the stream, and with it the route.
    pub fn release(&mut self, prefix: IpNet) {
        if let Some((_, task)) = self.holds.remove(&prefix) {
            task.abort();
        }
    }

    /// What has become of the routes that are wanted.
    pub async fn next(&mut self) -> Input {
        loop {
            tokio::select! {
                news = self.news.recv() => {
                    let news = news.expect("this side holds a sender");
                    let current = self.holds.get(&news.prefix);
                    if current.is_some_and(|(hold, _)| *hold == news.hold) {
                        return news.input;
                    }
                }
                // Reaps what was released.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }
}

/// Whether node-router itself says that the node does not hold the route. Every other status says
/// that node-router does not answer, and nothing about the route, which stays in the kernel.
fn is_refusal(status: &Status) -> bool {
    let is_of_transport = std::error::Error::source(status).is_some();
    let is_refusal = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Internal
    );
    is_refusal && !is_of_transport
}

fn port(socket: Option<&UdpSocket>) -> u32 {
    let address = socket.and_then(|socket| socket.local_addr().ok());
    address.map_or(0, |address| address.port().into())
}

/// Sends what arrives at the gateway back on the stream. node-router knows its own nonce from the
/// datagrams of other processes, of which a bounded number is passed on.
async fn pass_on_nonces(
    socket: Option<&UdpSocket>,
    requests: &mpsc::Sender<HoldRequest>,
) -> Infallible {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    let mut last = Vec::new();
    for _ in 0..PASSED_ON {
        let mut buffer = [0; NONCE];
        // A datagram that is repeated needs no second answer.
        match socket.recv(&mut buffer).await {
            Ok(NONCE) if last != buffer => {
                last = buffer.to_vec();
                let request = HoldRequest {
                    nonce: buffer.to_vec(),
                    ..HoldRequest::default()
                };
                // Full: node-router does not read.
                let _ = requests.try_send(request);
            }
            Ok(_) | Err(_) => {}
        }
    }
    std::future::pending().await
}

struct Holder {
    hold: u64,
    prefix: IpNet,
    gateway: IpAddr,
    client: NodeRouteServiceClient<Channel>,
    longest_retry: Duration,
    token: Option<HoldToken>,
    news: mpsc::Sender<News>,
}

impl Holder {
    async fn run(mut self) {
        let mut backoff = Backoff::for_neighbouring_daemon(self.longest_retry);
        loop {
            let status = self.hold_once(&mut backoff).await;
            let lost = Input::NodeRouteLost {
                prefix: self.prefix,
                problem: describe(&status),
                is_unknown: !is_refusal(&status),
            };
            self.tell(lost).await;
            backoff.wait().await;
        }
    }

    /// Returns why the stream ended.
    async fn hold_once(&mut self, backoff: &mut Backoff) -> Status {
        // Open as long as the stream is.
        let (requests, stream) = mpsc::channel(PASSED_ON + 1);
        let socket = self.socket().await;
        let request = HoldRequest {
            prefix: self.prefix.to_string(),
            gateway: self.gateway.to_string(),
            proof_port: port(socket.as_ref()),
            nonce: Vec::new(),
        };
        let _ = requests.try_send(request);
        let requests_out = stream::poll_fn({
            let mut stream = stream;
            move |context| stream.poll_recv(context)
        });
        let answer = {
            let call = self.client.hold(self.with_token(requests_out));
            tokio::pin!(call);
            tokio::select! {
                answer = &mut call => answer,
                never = pass_on_nonces(socket.as_ref(), &requests) => match never {},
            }
        };
        let mut stream = match answer {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        drop(socket);
        loop {
            match stream.message().await {
                Ok(Some(HoldResponse {
                    installed: true, ..
                })) => {
                    backoff.reset();
                    self.tell(Input::NodeRouteHeld(self.prefix)).await;
                }
                Ok(Some(HoldResponse {
                    installed: false, ..
                })) => {
                    self.tell(Input::NodeRouteLost {
                        prefix: self.prefix,
                        problem: "the node's kernel does not hold it".to_owned(),
                        is_unknown: false,
                    })
                    .await;
                }
                Ok(None) => return Status::unavailable("the node-router has ended the stream"),
                Err(status) => return status,
            }
        }
    }

    /// Adds the token. Without a file that can be read the hold goes out alone: a node-router that wants
    /// a token refuses it, and another one takes it.
    fn with_token<T>(&self, requests: T) -> Request<T> {
        let mut request = Request::new(requests);
        let token = self.token.as_ref().map(HoldToken::read);
        match token {
            Some(Ok(token)) => {
                request.metadata_mut().insert("authorization", token);
            }
            Some(Err(error)) => tracing::warn!(
                prefix = %self.prefix,
                error = in_words(&error),
                "cannot read the token of this pod (--hold-token-file); holding the node route without it"
            ),
            None => {}
        }
        request
    }

    /// Where nonces of node-router arrive: at the gateway, which this pod owns.
    async fn socket(&self) -> Option<UdpSocket> {
        match UdpSocket::bind((self.gateway, 0)).await {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(
                    gateway = %self.gateway,
                    %error,
                    "cannot receive at the gateway, so node-router gets no proof that this pod owns it"
                );
                None
            }
        }
    }

    async fn tell(&self, input: Input) {
        let news = News {
            hold: self.hold,
            prefix: self.prefix,
            input,
        };
        // The owner is gone only when the process ends.
        let _ = self.news.send(news).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_between_attempts_to_hold_a_route_grow_up_to_the_longest_retry() {
        let target: Target = "unix:/nowhere/node-router.sock".parse().unwrap();
        let longest_retry = Duration::from_millis(500);
        let mut routes = NodeRoutes::new(Some(&target), longest_retry, None);
        routes.hold("10.1.1.10/32".parse().unwrap(), [10, 244, 1, 7].into());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let begin = tokio::time::Instant::now();
            let input = routes.next().await;
            let is_unknown = matches!(
                input,
                Input::NodeRouteLost {
                    is_unknown: true,
                    ..
                }
            );
            assert!(is_unknown, "{input:?}");
            pauses.push(begin.elapsed());
        }
        let longest = pauses.iter().max().copied().unwrap_or_default();
        assert!(
            longest <= longest_retry + Duration::from_millis(2),
            "{pauses:?}"
        );
        assert!(pauses[1] < pauses[11], "{pauses:?}");
        assert!(pauses[11] > longest_retry / 2, "{pauses:?}");
    }

    #[test]
    fn only_an_answer_of_node_router_itself_is_a_refusal() {
        for status in [
            Status::invalid_argument("no prefix"),
            Status::permission_denied("not within --allowed-prefixes"),
            Status::unauthenticated("the token has expired"),
            Status::failed_precondition("a foreign route"),
            Status::resource_exhausted("--max-routes"),
            Status::internal("the kernel does not hold the route"),
        ] {
            assert!(is_refusal(&status), "{status:?}");
        }
        let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for status in [
            Status::unavailable("stopping"),
            Status::unknown("no status"),
            Status::cancelled("timeout"),
            Status::deadline_exceeded("timeout"),
            Status::unimplemented("another program has the socket"),
            Status::from_error(Box::new(cut)),
        ] {
            assert!(!is_refusal(&status), "{status:?}");
        }
    }
}
