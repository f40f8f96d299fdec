//! gRPC service `portlb.noderoute.v1.NodeRouteService`.

use std::pin::Pin;

use daemon_api::{
    PageRequest,
    noderoute::v1::{
        self as api, HoldRequest, HoldResponse, ListRoutesRequest, ListRoutesResponse,
        WatchRoutesRequest, WatchRoutesResponse, watch_routes_response,
    },
    total_size,
};
use daemon_runtime::PublishedEvent;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming, transport::server::UdsConnectInfo};

use crate::{
    Policy,
    error::HoldRefusal,
    hold::{HoldState, HolderProcess, RouteHold, RouteTableHandle},
    metrics::RouterMetrics,
    policy::{RouteClaim, shortened},
    proof::{PROOF_TIMEOUT, Prover},
    reconciliation::{PublishedNextHop, PublishedRoute},
    refusal_log::RefusalLog,
    token::{TokenGate, TokenProblem, UnverifiedToken},
};

/// Translates gRPC requests into commands to the owner of the routes.
#[derive(Debug)]
pub(crate) struct NodeRouteGrpc {
    pub(crate) policy: Policy,
    /// Limits the number of hold requests that have no response yet.
    pub(crate) pending_holds: Semaphore,
    /// `None`: holders need no proof of their gateway.
    pub(crate) prover: Option<Prover>,
    /// `None`: holders need no token.
    pub(crate) token_gate: Option<TokenGate>,
    pub(crate) refusal_log: RefusalLog,
    pub(crate) table: RouteTableHandle,
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
        let _pending = self
            .pending_holds
            .try_acquire()
            .map_err(|_| HoldRefusal::Busy)?;
        let process = holder_process(&request);
        let token = UnverifiedToken::of(request.metadata());
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(PROOF_TIMEOUT, requests.message()).await;
        let first = first.map_err(|_| HoldRefusal::NoRequest)??;
        let first = first.ok_or(HoldRefusal::NoRequest)?;
        let claim = match self.admit(&first, token, &mut requests).await {
            Ok(claim) => claim,
            Err(refusal) => {
                let HoldRequest {
                    prefix, gateway, ..
                } = &first;
                let (prefix, gateway) = (shortened(prefix), shortened(gateway));
                self.refusal_log
                    .refused(&refusal, &prefix, &gateway, process);
                let labels = vec![("reason", refusal.name().to_owned())];
                self.metrics.refused.get_or_create(&labels).inc();
                return Err(refusal.into());
            }
        };
        let hold = self.table.hold(claim, process).await?;
        // The closure owns `requests`, so the stream of requests stays open as long as the stream
        // of responses.
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
        let page = request.page(routes.map(|(prefix, route)| (prefix, api_route(&prefix, &route))));
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
                PublishedEvent::Changed(prefix, route) => Sent::Route(api_route(&prefix, &route)),
                PublishedEvent::Removed(prefix) => Sent::RemovedRoute(prefix.to_string()),
                PublishedEvent::Synced => Sent::Synced(api::Synced {}),
            };
            WatchRoutesResponse {
                revision,
                event: Some(event),
            }
        });
        let stopping = stream::iter([Err(HoldRefusal::Stopping.into())]);
        Ok(Response::new(Box::pin(responses.chain(stopping))))
    }
}

impl NodeRouteGrpc {
    /// Returns the claim of a hold request if the policy allows this claim. Verifies the holder's
    /// token, then waits until the holder has proved that it owns the gateway. If the token is
    /// rejected, node-router sends no datagram to the gateway.
    async fn admit(
        &self,
        request: &HoldRequest,
        token: Result<UnverifiedToken, TokenProblem>,
        answers: &mut Streaming<HoldRequest>,
    ) -> Result<RouteClaim, HoldRefusal> {
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

/// Returns a stream with the current state of the hold and later states. A holder that reads slowly
/// receives only the newest of several states. The stream ends with an error when the owner of the
/// routes stops.
fn states(hold: RouteHold) -> impl Stream<Item = Result<HoldResponse, Status>> + Send {
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
    let stopping = stream::iter([Err(HoldRefusal::Stopping.into())]);
    // The closure owns `hold`. Dropping the stream drops `hold`, which releases the claim.
    states.chain(stopping).inspect(move |_| _ = &hold)
}

fn holder_process<T>(request: &Request<T>) -> HolderProcess {
    let credentials = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    credentials.map_or_else(HolderProcess::default, |credentials| HolderProcess {
        process_id: credentials.pid().unwrap_or(0),
        user_id: credentials.uid(),
    })
}

fn api_route(prefix: &IpNet, route: &PublishedRoute) -> api::Route {
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

impl From<HoldRefusal> for Status {
    fn from(refusal: HoldRefusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            HoldRefusal::NotAPrefix(_)
            | HoldRefusal::NotAnAddress { .. }
            | HoldRefusal::OtherFamily { .. } => Self::invalid_argument(message),
            HoldRefusal::PrefixNotAllowed { .. }
            | HoldRefusal::GatewayNotAllowed { .. }
            | HoldRefusal::NamespaceNotAllowed { .. }
            | HoldRefusal::NotProved { .. } => Self::permission_denied(message),
            HoldRefusal::Token(_) => Self::unauthenticated(message),
            HoldRefusal::GatewayNotOnLink { .. }
            | HoldRefusal::ForeignRoute { .. }
            | HoldRefusal::NotForwarding { .. } => Self::failed_precondition(message),
            HoldRefusal::NotInstalled { .. } => Self::internal(message),
            HoldRefusal::TooManyRoutes { .. }
            | HoldRefusal::TooManyHolds { .. }
            | HoldRefusal::TooManyNextHops { .. } => Self::resource_exhausted(message),
            // These refusals say nothing about the state of the route. With `unavailable` the
            // holder retries.
            HoldRefusal::NotRead { .. }
            | HoldRefusal::Stopping
            | HoldRefusal::NotAnswered { .. }
            | HoldRefusal::NoRequest
            | HoldRefusal::Busy => Self::unavailable(message),
        }
    }
}
