//! The gRPC contract: translates, asks the owner, answers.

use std::pin::Pin;

use daemon_api::{
    PageRequest,
    noderoute::v1::{
        self as api, HoldRequest, HoldResponse, ListRoutesRequest, ListRoutesResponse,
        WatchRoutesRequest, WatchRoutesResponse, watch_routes_response,
    },
    total_size,
};
use daemon_runtime::Event;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming, transport::server::UdsConnectInfo};

use crate::{
    Policy,
    error::Refusal,
    hold::{Hold, HoldState, Peer, TableHandle},
    look::{PublishedNextHop, Route},
    metrics::RouterMetrics,
    policy::{Claim, shortened},
    proof::{PROOF_TIMEOUT, Prover},
    refusal_log::RefusalLog,
    token::{TokenGate, TokenProblem, UnverifiedToken},
};

/// Serves `portlb.noderoute.v1.NodeRouteService`.
#[derive(Debug)]
pub(crate) struct NodeRouteGrpc {
    pub(crate) policy: Policy,
    /// Holds at one time that have no answer yet.
    pub(crate) unanswered: Semaphore,
    /// Without it holders prove nothing.
    pub(crate) prover: Option<Prover>,
    /// Without it holders need no token.
    pub(crate) token_gate: Option<TokenGate>,
    pub(crate) refusal_log: RefusalLog,
    pub(crate) table: TableHandle,
    pub(crate) metrics: RouterMetrics,
}

type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl api::node_route_service_server::NodeRouteService for NodeRouteGrpc {
    type HoldStream = BoxedStream<HoldResponse>;
    type WatchRoutesStream = BoxedStream<WatchRoutesResponse>;

    async fn hold(
        &self,
        request: Request<Streaming<HoldRequest>>,
    ) -> Result<Response<Self::HoldStream>, Status> {
        let _unanswered = self.unanswered.try_acquire().map_err(|_| Refusal::Busy)?;
        let peer = peer(&request);
        let token = UnverifiedToken::of(request.metadata());
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(PROOF_TIMEOUT, requests.message()).await;
        let first = first.map_err(|_| Refusal::NoRequest)??;
        let first = first.ok_or(Refusal::NoRequest)?;
        let claim = match self.admit(&first, token, &mut requests).await {
            Ok(claim) => claim,
            Err(refusal) => {
                let HoldRequest {
                    prefix, gateway, ..
                } = &first;
                let (prefix, gateway) = (shortened(prefix), shortened(gateway));
                self.refusal_log.refused(&refusal, &prefix, &gateway, peer);
                let labels = vec![("reason", refusal.name().to_owned())];
                self.metrics.refused.get_or_create(&labels).inc();
                return Err(refusal.into());
            }
        };
        let hold = self.table.hold(claim, peer).await?;
        // The requests stay open as long as the responses.
        let states = states(hold).inspect(move |_| _ = &requests);
        Ok(Response::new(Box::pin(states)))
    }

    async fn list_routes(
        &self,
        request: Request<ListRoutesRequest>,
    ) -> Result<Response<ListRoutesResponse>, Status> {
        let request = request.get_ref();
        let request =
            PageRequest::new("ListRoutes".into(), request.page_size, &request.page_token)?;
        let routes = &self.table.routes;
        let snapshot = routes.snapshot_after(request.after.as_ref(), request.limit());
        let routes = snapshot.objects.into_iter();
        let page = request.page(routes.map(|(prefix, route)| (prefix, shown(&prefix, &route))));
        Ok(Response::new(ListRoutesResponse {
            revision: snapshot.revision,
            routes: page.items,
            next_page_token: page.next_page_token,
            total_size: total_size(snapshot.total),
        }))
    }

    async fn watch_routes(
        &self,
        _request: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        use watch_routes_response::Event as Sent;
        let events = self.table.routes.subscribe()?.into_stream();
        let responses = events.map_err(Status::from).map_ok(|(revision, event)| {
            let event = match event {
                Event::Changed(prefix, route) => Sent::Route(shown(&prefix, &route)),
                Event::Removed(prefix) => Sent::RemovedRoute(prefix.to_string()),
                Event::Synced => Sent::Synced(api::Synced {}),
            };
            WatchRoutesResponse {
                revision,
                event: Some(event),
            }
        });
        let stopping = stream::iter([Err(Refusal::Stopping.into())]);
        Ok(Response::new(Box::pin(responses.chain(stopping))))
    }
}

impl NodeRouteGrpc {
    /// Decides on a request and its token, and lets the holder prove that it owns the gateway. A holder
    /// whose token is refused causes no datagram.
    async fn admit(
        &self,
        request: &HoldRequest,
        token: Result<UnverifiedToken, TokenProblem>,
        answers: &mut Streaming<HoldRequest>,
    ) -> Result<Claim, Refusal> {
        let claim = self.policy.admit(&request.prefix, &request.gateway)?;
        if let Some(gate) = &self.token_gate {
            let holder = gate.admit(token, claim.prefix)?;
            tracing::info!(
                prefix = %claim.prefix,
                gateway = %claim.gateway,
                namespace = holder.namespace,
                pod = holder.pod,
                pod_uid = holder.pod_uid,
                service_account = holder.service_account,
                "accepted the token of a hold"
            );
        }
        if let Some(prover) = &self.prover {
            let port = request.proof_port;
            prover.prove(claim.gateway, port, answers).await?;
        }
        Ok(claim)
    }
}

/// The first state, then each change; an error when the owner ends.
fn states(hold: Hold) -> impl Stream<Item = Result<HoldResponse, Status>> + Send {
    let states = WatchStream::new(hold.state.clone()).map(|state| {
        let HoldState {
            installed,
            interface,
        } = state;
        Ok(HoldResponse {
            installed,
            interface,
        })
    });
    let stopping = stream::iter([Err(Refusal::Stopping.into())]);
    // The hold lives as long as the stream.
    states.chain(stopping).inspect(move |_| _ = &hold)
}

fn peer<T>(request: &Request<T>) -> Peer {
    let credentials = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    credentials.map_or_else(Peer::default, |credentials| Peer {
        process_id: credentials.pid().unwrap_or(0),
        user_id: credentials.uid(),
    })
}

fn shown(prefix: &IpNet, route: &Route) -> api::Route {
    let next_hops = route.next_hops.iter().map(|next_hop| {
        let PublishedNextHop {
            gateway,
            interface,
            holders,
            first_holder,
        } = next_hop;
        api::NextHop {
            gateway: gateway.to_string(),
            interface: interface.clone(),
            holders: *holders,
            holder_process_id: first_holder.process_id,
            holder_user_id: first_holder.user_id,
        }
    });
    api::Route {
        prefix: prefix.to_string(),
        next_hops: next_hops.collect(),
        installed: route.installed,
        last_error: route.last_error.clone(),
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NotAPrefix(_) | Refusal::NotAnAddress { .. } | Refusal::OtherFamily { .. } => {
                Self::invalid_argument(message)
            }
            Refusal::PrefixNotAllowed { .. }
            | Refusal::GatewayNotAllowed { .. }
            | Refusal::NamespaceNotAllowed { .. }
            | Refusal::NotProved { .. } => Self::permission_denied(message),
            Refusal::Token(_) => Self::unauthenticated(message),
            Refusal::GatewayNotOnLink { .. }
            | Refusal::ForeignRoute { .. }
            | Refusal::NotForwarding { .. } => Self::failed_precondition(message),
            Refusal::NotInstalled { .. } => Self::internal(message),
            Refusal::TooMany { .. }
            | Refusal::TooManyHolds { .. }
            | Refusal::TooManyNextHops { .. } => Self::resource_exhausted(message),
            // None says anything about the route: the holder asks again.
            Refusal::NotRead { .. }
            | Refusal::Stopping
            | Refusal::NotAnswered { .. }
            | Refusal::NoRequest
            | Refusal::Busy => Self::unavailable(message),
        }
    }
}
