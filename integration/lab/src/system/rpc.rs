//! gRPC and HTTP requests to the daemons, from inside their namespaces.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use daemon_api::announcer::v1 as announcer;
use daemon_api::announcer::v1::announcer_service_client::AnnouncerServiceClient;
use daemon_api::bgp::v1::{Path, Session};
use daemon_api::dataplane::v1 as dataplane;
use daemon_api::dataplane::v1::data_plane_service_client::DataPlaneServiceClient;
use daemon_api::discovery::v1 as discovery;
use daemon_api::discovery::v1::discovery_service_client::DiscoveryServiceClient;
use daemon_api::noderoute::v1 as noderoute;
use daemon_api::noderoute::v1::node_route_service_client::NodeRouteServiceClient;
use daemon_api::reflector::v1 as reflector;
use daemon_api::reflector::v1::route_reflector_service_client::RouteReflectorServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use super::{DaemonInstance, System};
use crate::http;

/// The longest time until a daemon answers a request. The request `Drain` is answered after the
/// withdraw delay.
const ANSWER: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

impl System {
    /// Sends one gRPC request to a daemon. The methods below send the requests that most tests
    /// need.
    pub fn call<T: Send>(
        &self,
        daemon: DaemonInstance,
        call: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status> + Send,
    ) -> Result<T> {
        let target = self.grpc_target(daemon)?;
        self.host(daemon)?
            .inside_async(async || {
                let endpoint = Endpoint::from_shared(target)?
                    .connect_timeout(CONNECT)
                    .timeout(ANSWER);
                let channel = endpoint.connect().await?;
                anyhow::Ok(call(channel).await?.into_inner())
            })
            .with_context(|| format!("cannot send a request to {daemon}"))
    }

    /// Returns the items of all pages of a daemon's list. `page` requests the page at a page token,
    /// and returns its items and the token of the next page.
    fn list<T: Send>(
        &self,
        daemon: DaemonInstance,
        page: impl AsyncFnMut(Channel, String) -> Result<(Vec<T>, String), Status> + Send,
    ) -> Result<Vec<T>> {
        let mut page = page;
        self.call(daemon, async |channel| {
            let items = all_pages(async |token| page(channel.clone(), token).await);
            Ok(Response::new(items.await?))
        })
    }

    /// Returns the desired set of a pod-watcher, collected from all pages, and the state of the
    /// source of this pod-watcher.
    pub fn desired(&self, lb_pod: usize) -> Result<discovery::ListResponse> {
        self.call(DaemonInstance::PodWatcher(lb_pod), async |channel| {
            let mut client = DiscoveryServiceClient::new(channel);
            let mut request = discovery::ListRequest::default();
            let mut all = client.list(request.clone()).await?;
            while !all.get_ref().next_page_token.is_empty() {
                request.page_token = std::mem::take(&mut all.get_mut().next_page_token);
                let page = client.list(request.clone()).await?.into_inner();
                let all = all.get_mut();
                all.virtual_servers.extend(page.virtual_servers);
                all.service_ranges.extend(page.service_ranges);
                all.next_page_token = page.next_page_token;
            }
            Ok(all)
        })
    }

    /// Returns the state of each virtual server, as an ipvs-programmer reports it.
    pub fn virtual_servers(&self, lb_pod: usize) -> Result<Vec<dataplane::VirtualServerStatus>> {
        self.list(
            DaemonInstance::IpvsProgrammer(lb_pod),
            async |channel, page_token| {
                let request = dataplane::ListVirtualServersRequest {
                    page_token,
                    ..Default::default()
                };
                let mut client = DataPlaneServiceClient::new(channel);
                let page = client.list_virtual_servers(request).await?.into_inner();
                Ok((page.virtual_servers, page.next_page_token))
            },
        )
    }

    /// Returns the service addresses that an ipvs-programmer reports, and whether each address is
    /// serving.
    pub fn service_addresses(&self, lb_pod: usize) -> Result<Vec<dataplane::ServiceAddress>> {
        self.list(
            DaemonInstance::IpvsProgrammer(lb_pod),
            async |channel, page_token| {
                let request = dataplane::ListServiceAddressesRequest {
                    page_token,
                    ..Default::default()
                };
                let mut client = DataPlaneServiceClient::new(channel);
                let page = client.list_service_addresses(request).await?.into_inner();
                Ok((page.service_addresses, page.next_page_token))
            },
        )
    }

    /// Returns the announcements of a bgp-announcer.
    pub fn announcements(&self, lb_pod: usize) -> Result<Vec<announcer::Announcement>> {
        self.list(
            DaemonInstance::BgpAnnouncer(lb_pod),
            async |channel, page_token| {
                let request = announcer::ListAnnouncementsRequest {
                    page_token,
                    ..Default::default()
                };
                let mut client = AnnouncerServiceClient::new(channel);
                let page = client.list_announcements(request).await?.into_inner();
                Ok((page.announcements, page.next_page_token))
            },
        )
    }

    /// Drains the bgp-announcer of an lb pod. Returns the withdrawn prefixes, after their
    /// withdrawal.
    pub fn drain(&self, lb_pod: usize) -> Result<Vec<String>> {
        let response = self.call(DaemonInstance::BgpAnnouncer(lb_pod), async |channel| {
            AnnouncerServiceClient::new(channel)
                .drain(announcer::DrainRequest {})
                .await
        })?;
        Ok(response.withdrawn)
    }

    /// Ends the drain of the bgp-announcer of an lb pod, so that it announces its addresses as
    /// before the drain.
    pub fn undrain(&self, lb_pod: usize) -> Result<()> {
        self.call(DaemonInstance::BgpAnnouncer(lb_pod), async |channel| {
            AnnouncerServiceClient::new(channel)
                .undrain(announcer::UndrainRequest {})
                .await
        })
        .map(drop)
    }

    /// Returns the BGP sessions of a bgp-announcer.
    pub fn announcer_sessions(&self, lb_pod: usize) -> Result<Vec<Session>> {
        self.list(
            DaemonInstance::BgpAnnouncer(lb_pod),
            async |channel, page_token| {
                let request = announcer::ListSessionsRequest {
                    page_token,
                    ..Default::default()
                };
                let mut client = AnnouncerServiceClient::new(channel);
                let page = client.list_sessions(request).await?.into_inner();
                Ok((page.sessions, page.next_page_token))
            },
        )
    }

    /// Returns the BGP sessions of a reflector.
    pub fn reflector_sessions(&self, reflector: usize) -> Result<Vec<Session>> {
        self.list(
            DaemonInstance::RouteReflector(reflector),
            async |channel, page_token| {
                let request = reflector::ListSessionsRequest {
                    page_token,
                    ..Default::default()
                };
                let mut client = RouteReflectorServiceClient::new(channel);
                let page = client.list_sessions(request).await?.into_inner();
                Ok((page.sessions, page.next_page_token))
            },
        )
    }

    /// Returns all paths that a reflector has received.
    pub fn reflector_paths(&self, reflector: usize) -> Result<Vec<Path>> {
        self.list(
            DaemonInstance::RouteReflector(reflector),
            async |channel, page_token| {
                let request = reflector::ListPathsRequest {
                    page_token,
                    ..Default::default()
                };
                let mut client = RouteReflectorServiceClient::new(channel);
                let page = client.list_paths(request).await?.into_inner();
                Ok((page.paths, page.next_page_token))
            },
        )
    }

    /// Returns the node routes of a node-router.
    pub fn node_routes(&self, node: usize) -> Result<Vec<noderoute::Route>> {
        self.list(
            DaemonInstance::NodeRouter(node),
            async |channel, page_token| {
                let request = noderoute::ListRoutesRequest {
                    page_token,
                    ..Default::default()
                };
                let mut client = NodeRouteServiceClient::new(channel);
                let page = client.list_routes(request).await?.into_inner();
                Ok((page.routes, page.next_page_token))
            },
        )
    }

    /// Returns the HTTP status and the body of a daemon's `/readyz`.
    pub fn readiness(&self, daemon: DaemonInstance) -> Result<(u16, String)> {
        self.fetch(daemon, "/readyz")
    }

    /// Returns the body of a daemon's `/metrics`.
    pub fn metrics(&self, daemon: DaemonInstance) -> Result<String> {
        Ok(self.fetch(daemon, "/metrics")?.1)
    }

    fn fetch(&self, daemon: DaemonInstance, path: &str) -> Result<(u16, String)> {
        let server = SocketAddr::new([127, 0, 0, 1].into(), daemon.http_port());
        http::fetch(&self.host(daemon)?, server, path, CONNECT)
            .with_context(|| format!("cannot send a request to {daemon}"))
    }
}

/// Returns the items of all pages of a list. `page` requests the page at a page token, and returns
/// its items and the token of the next page.
pub async fn all_pages<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Status> {
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let (more, next) = page(token).await?;
        items.extend(more);
        if next.is_empty() {
            return Ok(items);
        }
        token = next;
    }
}
