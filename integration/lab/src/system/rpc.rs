//! What the daemons say of themselves, asked inside their namespaces.

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

use super::{Daemon, System};
use crate::http;

/// A drain takes its own timeout and linger.
const ANSWER: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

impl System {
    /// One call to a daemon, for whatever the methods below do not cover.
    pub fn call<T: Send>(
        &self,
        daemon: Daemon,
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
            .with_context(|| format!("ask {daemon}"))
    }

    /// Every item of a list of a daemon. `page` asks for the page of a token.
    fn list<T: Send>(
        &self,
        daemon: Daemon,
        page: impl AsyncFnMut(Channel, String) -> Result<(Vec<T>, String), Status> + Send,
    ) -> Result<Vec<T>> {
        let mut page = page;
        self.call(daemon, async |channel| {
            let items = all_pages(async |token| page(channel.clone(), token).await);
            Ok(Response::new(items.await?))
        })
    }

    /// All pages of the desired set that a pod-watcher serves, and the state of its source.
    pub fn desired(&self, lb_pod: usize) -> Result<discovery::ListResponse> {
        self.call(Daemon::PodWatcher(lb_pod), async |channel| {
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

    /// What an ipvs-programmer has made of each virtual server.
    pub fn virtual_servers(&self, lb_pod: usize) -> Result<Vec<dataplane::VirtualServerStatus>> {
        self.list(
            Daemon::IpvsProgrammer(lb_pod),
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

    /// Which service addresses an ipvs-programmer serves.
    pub fn service_addresses(&self, lb_pod: usize) -> Result<Vec<dataplane::ServiceAddress>> {
        self.list(
            Daemon::IpvsProgrammer(lb_pod),
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

    /// What a bgp-announcer announces.
    pub fn announcements(&self, lb_pod: usize) -> Result<Vec<announcer::Announcement>> {
        self.list(Daemon::BgpAnnouncer(lb_pod), async |channel, page_token| {
            let request = announcer::ListAnnouncementsRequest {
                page_token,
                ..Default::default()
            };
            let mut client = AnnouncerServiceClient::new(channel);
            let page = client.list_announcements(request).await?.into_inner();
            Ok((page.announcements, page.next_page_token))
        })
    }

    /// Moves traffic away from an lb pod; returns when that is done, with what
    /// was withdrawn.
    pub fn drain(&self, lb_pod: usize) -> Result<Vec<String>> {
        let response = self.call(Daemon::BgpAnnouncer(lb_pod), async |channel| {
            AnnouncerServiceClient::new(channel)
                .drain(announcer::DrainRequest {})
                .await
        })?;
        Ok(response.withdrawn)
    }

    /// Reverts it.
    pub fn undrain(&self, lb_pod: usize) -> Result<()> {
        self.call(Daemon::BgpAnnouncer(lb_pod), async |channel| {
            AnnouncerServiceClient::new(channel)
                .undrain(announcer::UndrainRequest {})
                .await
        })
        .map(drop)
    }

    /// The BGP sessions of an announcer.
    pub fn announcer_sessions(&self, lb_pod: usize) -> Result<Vec<Session>> {
        self.list(Daemon::BgpAnnouncer(lb_pod), async |channel, page_token| {
            let request = announcer::ListSessionsRequest {
                page_token,
                ..Default::default()
            };
            let mut client = AnnouncerServiceClient::new(channel);
            let page = client.list_sessions(request).await?.into_inner();
            Ok((page.sessions, page.next_page_token))
        })
    }

    /// The BGP sessions of a reflector.
    pub fn reflector_sessions(&self, reflector: usize) -> Result<Vec<Session>> {
        self.list(
            Daemon::RouteReflector(reflector),
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

    /// What a reflector has received, of every prefix.
    pub fn reflector_paths(&self, reflector: usize) -> Result<Vec<Path>> {
        self.list(
            Daemon::RouteReflector(reflector),
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

    /// The routes that a node-router holds.
    pub fn node_routes(&self, node: usize) -> Result<Vec<noderoute::Route>> {
        self.list(Daemon::NodeRouter(node), async |channel, page_token| {
            let request = noderoute::ListRoutesRequest {
                page_token,
                ..Default::default()
            };
            let mut client = NodeRouteServiceClient::new(channel);
            let page = client.list_routes(request).await?.into_inner();
            Ok((page.routes, page.next_page_token))
        })
    }

    /// Status and text of a daemon's `/readyz`.
    pub fn readiness(&self, daemon: Daemon) -> Result<(u16, String)> {
        self.fetch(daemon, "/readyz")
    }

    /// A daemon's `/metrics`.
    pub fn metrics(&self, daemon: Daemon) -> Result<String> {
        Ok(self.fetch(daemon, "/metrics")?.1)
    }

    fn fetch(&self, daemon: Daemon, path: &str) -> Result<(u16, String)> {
        let server = SocketAddr::new([127, 0, 0, 1].into(), daemon.http_port());
        http::fetch(&self.host(daemon)?, server, path, CONNECT)
            .with_context(|| format!("ask {daemon}"))
    }
}

/// Every item of a list. `page` asks for the page of a token, and returns its items and the token of the
/// next page.
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
