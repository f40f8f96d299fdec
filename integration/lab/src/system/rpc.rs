//! What the daemons say of themselves, asked inside their namespaces.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use daemon_api::announcer::v1 as announcer;
use daemon_api::announcer::v1::announcer_client::AnnouncerClient;
use daemon_api::bgp::v1::{Path, Session};
use daemon_api::dataplane::v1 as dataplane;
use daemon_api::dataplane::v1::data_plane_client::DataPlaneClient;
use daemon_api::discovery::v1 as discovery;
use daemon_api::discovery::v1::discovery_client::DiscoveryClient;
use daemon_api::noderoute::v1 as noderoute;
use daemon_api::noderoute::v1::node_route_client::NodeRouteClient;
use daemon_api::reflector::v1 as reflector;
use daemon_api::reflector::v1::reflector_client::ReflectorClient;
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

    /// The desired set that a pod-watcher serves, and the state of its source.
    pub fn desired(&self, lb_pod: usize) -> Result<discovery::ListResponse> {
        self.call(Daemon::PodWatcher(lb_pod), async |channel| {
            let mut client = DiscoveryClient::new(channel);
            client.list(discovery::ListRequest {}).await
        })
    }

    /// What an ipvs-programmer has made of each virtual server.
    pub fn virtual_servers(&self, lb_pod: usize) -> Result<Vec<dataplane::VirtualServerStatus>> {
        let response = self.call(Daemon::IpvsProgrammer(lb_pod), async |channel| {
            let mut client = DataPlaneClient::new(channel);
            let request = dataplane::ListVirtualServersRequest {};
            client.list_virtual_servers(request).await
        })?;
        Ok(response.virtual_servers)
    }

    /// Which service addresses an ipvs-programmer serves.
    pub fn service_addresses(&self, lb_pod: usize) -> Result<Vec<dataplane::ServiceAddress>> {
        let response = self.call(Daemon::IpvsProgrammer(lb_pod), async |channel| {
            let mut client = DataPlaneClient::new(channel);
            let request = dataplane::ListServiceAddressesRequest {};
            client.list_service_addresses(request).await
        })?;
        Ok(response.service_addresses)
    }

    /// What a bgp-announcer announces.
    pub fn announcements(&self, lb_pod: usize) -> Result<Vec<announcer::Announcement>> {
        let response = self.call(Daemon::BgpAnnouncer(lb_pod), async |channel| {
            let mut client = AnnouncerClient::new(channel);
            let request = announcer::ListAnnouncementsRequest {};
            client.list_announcements(request).await
        })?;
        Ok(response.announcements)
    }

    /// Moves traffic away from an lb pod; returns when that is done, with what
    /// was withdrawn.
    pub fn drain(&self, lb_pod: usize) -> Result<Vec<String>> {
        let response = self.call(Daemon::BgpAnnouncer(lb_pod), async |channel| {
            AnnouncerClient::new(channel)
                .drain(announcer::DrainRequest {})
                .await
        })?;
        Ok(response.withdrawn)
    }

    /// Reverts it.
    pub fn undrain(&self, lb_pod: usize) -> Result<()> {
        self.call(Daemon::BgpAnnouncer(lb_pod), async |channel| {
            AnnouncerClient::new(channel)
                .undrain(announcer::UndrainRequest {})
                .await
        })
        .map(drop)
    }

    /// The BGP sessions of an announcer.
    pub fn announcer_sessions(&self, lb_pod: usize) -> Result<Vec<Session>> {
        let response = self.call(Daemon::BgpAnnouncer(lb_pod), async |channel| {
            AnnouncerClient::new(channel)
                .list_sessions(announcer::ListSessionsRequest {})
                .await
        })?;
        Ok(response.sessions)
    }

    /// The BGP sessions of a reflector.
    pub fn reflector_sessions(&self, reflector: usize) -> Result<Vec<Session>> {
        let response = self.call(Daemon::RouteReflector(reflector), async |channel| {
            ReflectorClient::new(channel)
                .list_sessions(reflector::ListSessionsRequest {})
                .await
        })?;
        Ok(response.sessions)
    }

    /// What a reflector has received, of every prefix.
    pub fn reflector_paths(&self, reflector: usize) -> Result<Vec<Path>> {
        let response = self.call(Daemon::RouteReflector(reflector), async |channel| {
            ReflectorClient::new(channel)
                .list_paths(reflector::ListPathsRequest::default())
                .await
        })?;
        Ok(response.paths)
    }

    /// The routes that a node-router holds.
    pub fn node_routes(&self, node: usize) -> Result<Vec<noderoute::Route>> {
        let response = self.call(Daemon::NodeRouter(node), async |channel| {
            NodeRouteClient::new(channel)
                .list_routes(noderoute::ListRoutesRequest {})
                .await
        })?;
        Ok(response.routes)
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
