//! Client of node-router. Each node route is held by its own task.

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, time::Duration};

use bgp_packet::IpNet;
use daemon_api::noderoute::v1::{
    HoldRequest, HoldResponse, node_route_service_client::NodeRouteServiceClient,
};
use daemon_runtime::{Backoff, GrpcTarget, error_chain};
use futures::stream;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};
use tonic::{Code, Request, Status, transport::Channel};

use super::data_plane::describe_status;
use crate::{announcements::AnnouncementInput, hold_token::HoldToken};

/// Length in bytes of the nonces of node-router's hold proof.
const NONCE_LENGTH: usize = 32;

/// Largest number of datagrams that are read in one attempt to hold a route. Above ten, because
/// node-router sends its nonce ten times.
const MAX_FORWARDED_DATAGRAMS: usize = 16;

/// The node routes that this process holds at node-router.
#[derive(Debug)]
pub struct NodeRoutes {
    client: Option<NodeRouteServiceClient<Channel>>,
    longest_retry: Duration,
    token: Option<HoldToken>,
    tasks: JoinSet<()>,
    /// Number and task of the hold of each prefix. The number distinguishes events of this hold
    /// from events of an earlier hold of this prefix that are still in the channel.
    holds: BTreeMap<IpNet, (u64, tokio::task::AbortHandle)>,
    next_hold: u64,
    sender: mpsc::Sender<HoldEvent>,
    events: mpsc::Receiver<HoldEvent>,
}

#[derive(Debug)]
struct HoldEvent {
    hold: u64,
    prefix: IpNet,
    input: AnnouncementInput,
}

impl NodeRoutes {
    /// Creates a client without holds. If `target` is `None`, no node route is needed and
    /// [`Self::hold`] does nothing. `longest_retry` is the longest pause between two attempts to
    /// hold a node route. `token` is sent with each attempt.
    pub fn new(
        target: Option<&GrpcTarget>,
        longest_retry: Duration,
        token: Option<HoldToken>,
    ) -> Self {
        let (sender, events) = mpsc::channel(64);
        Self {
            client: target.map(|target| NodeRouteServiceClient::new(target.channel())),
            longest_retry,
            token,
            tasks: JoinSet::new(),
            holds: BTreeMap::new(),
            next_hold: 0,
            sender,
            events,
        }
    }

    /// Holds the node route from `prefix` to `gateway` until [`Self::release`]. Sends a new request
    /// whenever the stream to node-router has ended or could not be opened.
    pub fn hold(&mut self, prefix: IpNet, gateway: IpAddr) {
        let Some(client) = self.client.clone() else {
            return;
        };
        self.release(prefix);
        self.next_hold += 1;
        let route_hold = NodeRouteHolder {
            hold: self.next_hold,
            prefix,
            gateway,
            client,
            longest_retry: self.longest_retry,
            token: self.token.clone(),
            events: self.sender.clone(),
        };
        let task = self.tasks.spawn(route_hold.run());
        self.holds.insert(prefix, (self.next_hold, task));
    }

    /// Ends the stream that holds the node route of `prefix`. node-router then removes the route,
    /// unless another stream holds it.
    pub fn release(&mut self, prefix: IpNet) {
        if let Some((_, task)) = self.holds.remove(&prefix) {
            task.abort();
        }
    }

    /// Waits for the next event of a hold. Drops events of holds that have been released.
    pub async fn next(&mut self) -> AnnouncementInput {
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    let event = event.expect("self.sender keeps the channel open");
                    let current = self.holds.get(&event.prefix);
                    if current.is_some_and(|(hold, _)| *hold == event.hold) {
                        return event.input;
                    }
                }
                // Removes the tasks of released holds.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }
}

/// Reports whether node-router itself reports that the node does not hold the route. Every other
/// status means that node-router does not answer, and that the kernel keeps the route as it was.
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

fn local_port(socket: Option<&UdpSocket>) -> u32 {
    let address = socket.and_then(|socket| socket.local_addr().ok());
    address.map_or(0, |address| address.port().into())
}

/// Reads up to [`MAX_FORWARDED_DATAGRAMS`] datagrams that arrive at the gateway, and sends each
/// datagram that can be a nonce back to node-router on the stream. Datagrams of other processes are
/// sent back too, because only node-router can recognize its own nonce.
async fn forward_nonces(
    socket: Option<&UdpSocket>,
    requests: &mpsc::Sender<HoldRequest>,
) -> Infallible {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    let mut last = Vec::new();
    for _ in 0..MAX_FORWARDED_DATAGRAMS {
        let mut buffer = [0; NONCE_LENGTH];
        // A datagram that is shorter than a nonce, or equal to the last datagram that was sent
        // back, is not sent back.
        match socket.recv(&mut buffer).await {
            Ok(NONCE_LENGTH) if last != buffer => {
                last = buffer.to_vec();
                let request = HoldRequest {
                    nonce: buffer.to_vec(),
                    ..HoldRequest::default()
                };
                // If the channel is full, node-router does not read, and the datagram is dropped.
                let _ = requests.try_send(request);
            }
            Ok(_) | Err(_) => {}
        }
    }
    std::future::pending().await
}

struct NodeRouteHolder {
    hold: u64,
    prefix: IpNet,
    gateway: IpAddr,
    client: NodeRouteServiceClient<Channel>,
    longest_retry: Duration,
    token: Option<HoldToken>,
    events: mpsc::Sender<HoldEvent>,
}

impl NodeRouteHolder {
    async fn run(mut self) {
        let mut backoff = Backoff::for_neighbouring_daemon(self.longest_retry);
        loop {
            let status = self.hold_once(&mut backoff).await;
            let lost = AnnouncementInput::NodeRouteLost {
                prefix: self.prefix,
                problem: describe_status(&status),
                is_unknown: !is_refusal(&status),
            };
            self.send_event(lost).await;
            backoff.wait().await;
        }
    }

    /// Holds the route until the stream ends. Returns the reason of the end.
    async fn hold_once(&mut self, backoff: &mut Backoff) -> Status {
        // node-router holds the route as long as this sender exists.
        let (requests, stream) = mpsc::channel(MAX_FORWARDED_DATAGRAMS + 1);
        let socket = self.socket().await;
        let request = HoldRequest {
            prefix: self.prefix.to_string(),
            gateway: self.gateway.to_string(),
            proof_port: local_port(socket.as_ref()),
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
                never = forward_nonces(socket.as_ref(), &requests) => match never {},
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
                    self.send_event(AnnouncementInput::NodeRouteHeld(self.prefix))
                        .await;
                }
                Ok(Some(HoldResponse {
                    installed: false, ..
                })) => {
                    self.send_event(AnnouncementInput::NodeRouteLost {
                        prefix: self.prefix,
                        problem: "the kernel of the node does not hold the route".to_owned(),
                        is_unknown: false,
                    })
                    .await;
                }
                Ok(None) => return Status::unavailable("node-router has ended the stream"),
                Err(status) => return status,
            }
        }
    }

    /// Adds the token to a request. If the file cannot be read, the request is sent without a
    /// token. node-router decides whether it requires a token.
    fn with_token<T>(&self, requests: T) -> Request<T> {
        let mut request = Request::new(requests);
        let token = self.token.as_ref().map(HoldToken::read);
        match token {
            Some(Ok(token)) => {
                request.metadata_mut().insert("authorization", token);
            }
            Some(Err(error)) => tracing::warn!(
                prefix = %self.prefix,
                error = error_chain(&error),
                "cannot read the hold token (--hold-token-file); requesting the node route without \
                 a token"
            ),
            None => {}
        }
        request
    }

    /// Opens the socket that receives the nonces of node-router at the gateway address of this pod.
    async fn socket(&self) -> Option<UdpSocket> {
        match UdpSocket::bind((self.gateway, 0)).await {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(
                    gateway = %self.gateway,
                    %error,
                    "cannot open a UDP socket at the gateway; requesting the node route without a \
                     hold proof"
                );
                None
            }
        }
    }

    async fn send_event(&self, input: AnnouncementInput) {
        let event = HoldEvent {
            hold: self.hold,
            prefix: self.prefix,
            input,
        };
        // The send fails only if the receiver is dropped, which happens when the process exits.
        let _ = self.events.send(event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_between_attempts_to_hold_a_node_route_grow_up_to_the_longest_retry() {
        let target: GrpcTarget = "unix:/nowhere/node-router.sock".parse().unwrap();
        let longest_retry = Duration::from_millis(500);
        let mut routes = NodeRoutes::new(Some(&target), longest_retry, None);
        routes.hold("10.1.1.10/32".parse().unwrap(), [10, 244, 1, 7].into());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let begin = tokio::time::Instant::now();
            let input = routes.next().await;
            let is_unknown = matches!(
                input,
                AnnouncementInput::NodeRouteLost {
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
    fn only_a_status_of_node_router_itself_is_a_refusal() {
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
