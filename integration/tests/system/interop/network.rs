//! A network of BGP speakers on one link, with route-reflector.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use daemon_api::bgp::v1::{Path, Session, SessionState};
use daemon_api::reflector::v1::route_reflector_service_client::RouteReflectorServiceClient;
use daemon_api::reflector::v1::{
    GetConfigurationRequest, GetConfigurationResponse, ListPathsRequest, ListSessionsRequest,
};
use ipnet::IpNet;
use lab::bgp::{AddPath, ForeignPeer, ForeignSpeaker, Program, RunningSpeaker};
use lab::system::all_pages;
use lab::{Host, Lab, Process, Signal, Topology, daemons};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::expect::eventually;

/// Converts a duration of a contract. An absent field becomes zero.
pub(crate) fn duration(duration: Option<daemon_api::Duration>) -> Duration {
    duration.unwrap_or_default().try_into().unwrap()
}

/// The address of the reflector; also its router id and its cluster id.
pub(crate) const REFLECTOR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// The IPv4 prefix that clients announce.
pub(crate) const SERVICE: &str = "10.1.1.0/24";
/// The IPv6 prefix that clients announce.
pub(crate) const SERVICE6: &str = "fd00:10:1:1::/64";

/// A peer group of clients that connect from 10.0.1.0/24.
pub(crate) const CLIENTS: &str = "
- name: clients
  role: client
  dynamicPrefixes: [10.0.1.0/24]
  holdTime: 3s
  importPrefixes:
  - {prefix: 10.1.0.0/16, minimumLength: 16, maximumLength: 32}
  - {prefix: 'fd00:10:1::/48', minimumLength: 48, maximumLength: 128}
  allowedNextHops: [10.0.0.0/16, 'fd00:10::/64']";

/// Lines that a test can append to [`CLIENTS`]. With these lines the reflector keeps LOCAL_PREF,
/// MED and communities of clients.
pub(crate) const TRUSTED: &str = "
  localPref: pass
  med: pass
  communities: all";

/// A peer group of routers that receive every path.
pub(crate) const ROUTERS: &str = "
- name: routers
  role: non-client
  addPath: send
  exportPrefixes: all";

/// A peer group of routers that connect from 10.0.2.0/24 and receive every path.
pub(crate) const DYNAMIC_ROUTERS: &str = "
- name: routers
  dynamicPrefixes: [10.0.2.0/24]
  role: non-client
  addPath: send
  exportPrefixes: all";

/// Hosts on one bridge, named `reflector`, `client-1`, `client-2`, `router-1` and so on.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) lab: Lab,
}

/// A host of the network: the reflector, or a client or a router with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkMember {
    Reflector,
    Client(u8),
    Router(u8),
}

impl LinkMember {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Reflector => "reflector".to_owned(),
            Self::Client(number) => format!("client-{number}"),
            Self::Router(number) => format!("router-{number}"),
        }
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        match self {
            Self::Reflector => REFLECTOR,
            Self::Client(number) => Ipv4Addr::new(10, 0, 1, number),
            Self::Router(number) => Ipv4Addr::new(10, 0, 2, number),
        }
    }

    pub(crate) fn address6(self) -> Ipv6Addr {
        let [.., group, number] = self.address().octets();
        let (group, number) = (u16::from(group), u16::from(number));
        Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, group, number)
    }

    /// Returns a speaker on this host whose only peer is `peer`.
    pub(crate) fn speaker_of(self, peer: ForeignPeer) -> ForeignSpeaker {
        ForeignSpeaker::new(self.address().into(), self.address()).peer(peer)
    }

    /// Returns a speaker that announces [`SERVICE`] and [`SERVICE6`] to the reflector.
    ///
    /// The next hop is the speaker's own address.
    pub(crate) fn client(self) -> ForeignSpeaker {
        self.client_of(ForeignPeer::new("reflector", REFLECTOR.into()))
    }

    /// Returns a speaker that announces [`SERVICE`] and [`SERVICE6`] to `peer`.
    pub(crate) fn client_of(self, peer: ForeignPeer) -> ForeignSpeaker {
        self.speaker_of(peer)
            .announce(prefix(SERVICE), self.address().into())
            .announce(prefix(SERVICE6), self.address6().into())
    }

    /// Returns a speaker that receives every path from the reflector.
    pub(crate) fn router(self) -> ForeignSpeaker {
        let reflector = ForeignPeer::new("reflector", REFLECTOR.into());
        self.speaker_of(reflector.add_path(AddPath::Receive))
    }
}

impl Network {
    pub(crate) fn bring_up(name: &str, members: &[LinkMember]) -> Result<Self> {
        let mut topology = Topology::new();
        topology.host("switch").bridge("lan");
        for member in members {
            topology.plug(&member.name(), ("switch", "lan"));
            let v4 = IpNet::new(member.address().into(), 16)?;
            let v6 = IpNet::new(member.address6().into(), 64)?;
            let host = topology.host(&member.name());
            host.address("eth0", v4).address("eth0", v6);
        }
        let mut lab = Lab::new(name)?;
        lab.bring_up(&topology)?;
        Ok(Self { lab })
    }

    pub(crate) fn host(&self, member: LinkMember) -> Result<Host> {
        self.lab.host(&member.name())
    }

    pub(crate) fn start(
        &self,
        member: LinkMember,
        program: Program,
        speaker: &ForeignSpeaker,
    ) -> Result<RunningSpeaker> {
        program.start(&self.host(member)?, speaker)
    }

    /// Writes `config` into a configuration file of the host `member`, and starts BIRD with it.
    pub(crate) fn start_bird(&self, member: LinkMember, config: &str) -> Result<BirdProcess> {
        let host = self.host(member)?;
        let socket = host.run_directory()?.join("bird.ctl");
        let mut command = Command::new("bird");
        command.arg("-f").arg("-s").arg(&socket);
        command.arg("-P").arg(socket.with_extension("pid"));
        command.arg("-c").arg(host.write("bird.conf", config)?);
        let process = host.start("bird", command)?;
        Ok(BirdProcess {
            process,
            host,
            socket,
        })
    }
}

/// A running BIRD whose configuration file the test has written.
#[derive(Debug)]
pub(crate) struct BirdProcess {
    pub(crate) process: Process,
    host: Host,
    socket: PathBuf,
}

impl BirdProcess {
    pub(crate) fn ask(&self, question: &str) -> Result<String> {
        let socket = self
            .socket
            .to_str()
            .context("the path of the socket is not UTF-8")?;
        let words = ["-s", socket].into_iter().chain(question.split(' '));
        self.host.output("birdc", words)
    }
}

/// A running route-reflector of portlb.
#[derive(Debug)]
pub(crate) struct ReflectorProcess {
    pub(crate) process: Process,
    host: Host,
}

impl ReflectorProcess {
    /// Starts route-reflector with the peer groups `groups` and the static peers `peers`, each
    /// `(name, address, group)`.
    pub(crate) fn start(
        network: &Network,
        groups: &[&str],
        peers: &[(&str, Ipv4Addr, &str)],
    ) -> Result<Self> {
        let host = network.host(LinkMember::Reflector)?;
        let mut command = daemons::command("route-reflector")?;
        command
            .arg("--config")
            .arg(host.write("reflector.yaml", &file(groups, peers))?);
        let process = host.start("route-reflector", command)?;
        let this = Self { process, host };
        eventually("the reflector answers or has ended", || {
            let answer = this.sessions();
            if this.process.is_running() {
                answer.map(drop)
            } else {
                Ok(())
            }
        })?;
        ensure!(this.process.is_running(), this.process.tail());
        Ok(this)
    }

    /// Writes a new configuration file, and sends SIGHUP so that the reflector reads it.
    pub(crate) fn reload(&self, text: &str) -> Result<()> {
        self.host.write("reflector.yaml", text)?;
        self.reread()
    }

    /// Sends SIGHUP, so that the reflector reads its configuration file.
    pub(crate) fn reread(&self) -> Result<()> {
        self.process.signal(Signal::SIGHUP)
    }

    fn call<T: Send>(
        &self,
        call: impl AsyncFnOnce(RouteReflectorServiceClient<Channel>) -> Result<Response<T>, Status>
        + Send,
    ) -> Result<T> {
        self.host.inside_async(async || {
            let channel = Endpoint::from_static("http://127.0.0.1:50054")
                .connect()
                .await?;
            anyhow::Ok(
                call(RouteReflectorServiceClient::new(channel))
                    .await?
                    .into_inner(),
            )
        })
    }

    pub(crate) fn sessions(&self) -> Result<Vec<Session>> {
        self.call(async |client| {
            let sessions = all_pages(async |page_token| {
                let request = ListSessionsRequest {
                    page_token,
                    ..Default::default()
                };
                let page = client.clone().list_sessions(request).await?.into_inner();
                Ok((page.sessions, page.next_page_token))
            });
            Ok(Response::new(sessions.await?))
        })
    }

    pub(crate) fn configuration(&self) -> Result<GetConfigurationResponse> {
        self.call(async |mut client| client.get_configuration(GetConfigurationRequest {}).await)
    }

    pub(crate) fn paths(&self) -> Result<Vec<Path>> {
        self.call(async |client| {
            let paths = all_pages(async |page_token| {
                let request = ListPathsRequest {
                    page_token,
                    ..Default::default()
                };
                let page = client.clone().list_paths(request).await?.into_inner();
                Ok((page.paths, page.next_page_token))
            });
            Ok(Response::new(paths.await?))
        })
    }

    /// Returns the reflector's session with `member`, which can be a dynamic or a static peer.
    pub(crate) fn session(&self, member: LinkMember) -> Result<Session> {
        let address = member.address().to_string();
        let sessions = self.sessions()?;
        let session = sessions
            .iter()
            .find(|session| session.peer_address == address);
        session
            .cloned()
            .with_context(|| format!("no session with {address}: {sessions:#?}"))
    }

    pub(crate) fn wait_until_established(&self, members: &[LinkMember]) -> Result<()> {
        for member in members {
            eventually(&format!("{} is established", member.name()), || {
                let session = self.session(*member)?;
                ensure!(is_established(&session), "{session:#?}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Returns the sorted next hops of the reflector's paths of a prefix.
    pub(crate) fn next_hops(&self, prefix: &str) -> Result<Vec<IpAddr>> {
        let mut next_hops = Vec::new();
        for path in self.paths()?.iter().filter(|path| path.prefix == prefix) {
            let attributes = path
                .attributes
                .as_ref()
                .context("the path has no attributes")?;
            next_hops.push(attributes.next_hop.parse()?);
        }
        next_hops.sort();
        Ok(next_hops)
    }

    /// Waits until the next hops of [`SERVICE`] and [`SERVICE6`] are exactly the hosts `members`.
    pub(crate) fn wait_for_announcers(&self, members: &[LinkMember]) -> Result<()> {
        let mut v4: Vec<IpAddr> = members
            .iter()
            .map(|member| member.address().into())
            .collect();
        let mut v6: Vec<IpAddr> = members
            .iter()
            .map(|member| member.address6().into())
            .collect();
        v4.sort();
        v6.sort();
        eventually(&format!("exactly {members:?} announce the service"), || {
            for (prefix, expected) in [(SERVICE, &v4), (SERVICE6, &v6)] {
                let next_hops = self.next_hops(prefix)?;
                ensure!(next_hops == *expected, "{prefix} via {next_hops:?}");
            }
            Ok(())
        })
    }
}

pub(crate) fn is_established(session: &Session) -> bool {
    session.state() == SessionState::Established
}

pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().expect("the tests' prefixes are well formed")
}

/// Returns the text of a configuration file with the peer groups `groups` and the static peers
/// `peers`, each `(name, address, group)`.
pub(crate) fn file(groups: &[&str], peers: &[(&str, Ipv4Addr, &str)]) -> String {
    let mut text = format!(
        "apiVersion: portlb.io/v1\nkind: RouteReflector\nasn: {}\nrouterId: {REFLECTOR}\n\
         listen: ['{REFLECTOR}:179']\npeerGroups:{}\n",
        lab::bgp::ASN,
        groups.concat(),
    );
    if !peers.is_empty() {
        text.push_str("peers:\n");
    }
    for (name, address, group) in peers {
        let _ = writeln!(
            text,
            "- {{name: {name}, address: {address}, group: {group}}}"
        );
    }
    text
}
