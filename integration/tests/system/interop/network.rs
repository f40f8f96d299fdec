//! Speakers on one link, our route reflector among them.

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
use lab::bgp::{AddPath, Peer, Program, RunningSpeaker, Speaker};
use lab::system::all_pages;
use lab::{Host, Lab, Process, Signal, Topology, daemons};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::expect::eventually;

/// Returns a duration of a message; zero if it is absent.
pub(crate) fn duration(duration: Option<daemon_api::Duration>) -> Duration {
    duration.unwrap_or_default().try_into().unwrap()
}

/// The reflector's address, router id and cluster id.
pub(crate) const REFLECTOR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// What clients announce, in both families.
pub(crate) const SERVICE: &str = "10.1.1.0/24";
pub(crate) const SERVICE6: &str = "fd00:10:1:1::/64";

/// The group of the clients, which come from 10.0.1.0/24.
pub(crate) const CLIENTS: &str = "
- name: clients
  role: client
  dynamicPrefixes: [10.0.1.0/24]
  holdTime: 3s
  importPrefixes:
  - {prefix: 10.1.0.0/16, minimumLength: 16, maximumLength: 32}
  - {prefix: 'fd00:10:1::/48', minimumLength: 48, maximumLength: 128}
  allowedNextHops: [10.0.0.0/16, 'fd00:10::/64']";

/// Further fields of [`CLIENTS`]: what the clients send counts.
pub(crate) const TRUSTED: &str = "
  localPref: pass
  med: pass
  communities: all";

/// The group of the routers, which are sent every path.
pub(crate) const ROUTERS: &str = "
- name: routers
  role: non-client
  addPath: send
  exportPrefixes: all";

/// The group of routers that dial us from 10.0.2.0/24.
pub(crate) const DYNAMIC_ROUTERS: &str = "
- name: routers
  dynamicPrefixes: [10.0.2.0/24]
  role: non-client
  addPath: send
  exportPrefixes: all";

/// Hosts on one bridge: `reflector`, `client-1` and so on, `router-1` and so on.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) lab: Lab,
}

/// A host of the network: where it stands on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Reflector,
    Client(u8),
    Router(u8),
}

impl Place {
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

    /// A speaker here with one peer.
    pub(crate) fn speaker_of(self, peer: Peer) -> Speaker {
        Speaker::new(self.address().into(), self.address()).peer(peer)
    }

    /// A client that announces the service in both families, itself as the next hop.
    pub(crate) fn client(self) -> Speaker {
        self.client_of(Peer::new("reflector", REFLECTOR.into()))
    }

    /// The same of this peer.
    pub(crate) fn client_of(self, peer: Peer) -> Speaker {
        self.speaker_of(peer)
            .announce(prefix(SERVICE), self.address().into())
            .announce(prefix(SERVICE6), self.address6().into())
    }

    /// A router that takes every path.
    pub(crate) fn router(self) -> Speaker {
        let reflector = Peer::new("reflector", REFLECTOR.into());
        self.speaker_of(reflector.add_path(AddPath::Receive))
    }
}

impl Network {
    pub(crate) fn bring_up(name: &str, places: &[Place]) -> Result<Self> {
        let mut topology = Topology::new();
        topology.host("switch").bridge("lan");
        for place in places {
            topology.plug(&place.name(), ("switch", "lan"));
            let v4 = IpNet::new(place.address().into(), 16)?;
            let v6 = IpNet::new(place.address6().into(), 64)?;
            let host = topology.host(&place.name());
            host.address("eth0", v4).address("eth0", v6);
        }
        let mut lab = Lab::new(name)?;
        lab.bring_up(&topology)?;
        Ok(Self { lab })
    }

    pub(crate) fn host(&self, place: Place) -> Result<Host> {
        self.lab.host(&place.name())
    }

    pub(crate) fn start(
        &self,
        place: Place,
        program: Program,
        speaker: &Speaker,
    ) -> Result<RunningSpeaker> {
        program.start(&self.host(place)?, speaker)
    }

    /// BIRD with a configuration of the test's own.
    pub(crate) fn start_bird(&self, place: Place, config: &str) -> Result<Bird> {
        let host = self.host(place)?;
        let socket = host.run_directory()?.join("bird.ctl");
        let mut command = Command::new("bird");
        command.arg("-f").arg("-s").arg(&socket);
        command.arg("-P").arg(socket.with_extension("pid"));
        command.arg("-c").arg(host.write("bird.conf", config)?);
        let process = host.start("bird", command)?;
        Ok(Bird {
            process,
            host,
            socket,
        })
    }
}

/// A BIRD with a configuration of the test's own.
#[derive(Debug)]
pub(crate) struct Bird {
    pub(crate) process: Process,
    host: Host,
    socket: PathBuf,
}

impl Bird {
    pub(crate) fn ask(&self, question: &str) -> Result<String> {
        let socket = self.socket.to_str().context("the path is UTF-8")?;
        let words = ["-s", socket].into_iter().chain(question.split(' '));
        self.host.output("birdc", words)
    }
}

/// Our route reflector.
#[derive(Debug)]
pub(crate) struct Reflector {
    pub(crate) process: Process,
    host: Host,
}

impl Reflector {
    /// Starts it with these groups and static peers `(name, address, group)`.
    pub(crate) fn start(
        network: &Network,
        groups: &[&str],
        peers: &[(&str, Ipv4Addr, &str)],
    ) -> Result<Self> {
        let host = network.host(Place::Reflector)?;
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

    /// Writes another file and has it read.
    pub(crate) fn reload(&self, text: &str) -> Result<()> {
        self.host.write("reflector.yaml", text)?;
        self.read_again()
    }

    /// Has the file read.
    pub(crate) fn read_again(&self) -> Result<()> {
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

    /// The session with a peer, dynamic or static.
    pub(crate) fn session(&self, place: Place) -> Result<Session> {
        let address = place.address().to_string();
        let sessions = self.sessions()?;
        let found = sessions
            .iter()
            .find(|session| session.peer_address == address);
        found
            .cloned()
            .with_context(|| format!("no session with {address}: {sessions:#?}"))
    }

    pub(crate) fn wait_until_established(&self, places: &[Place]) -> Result<()> {
        for place in places {
            eventually(&format!("{} is established", place.name()), || {
                let session = self.session(*place)?;
                ensure!(is_established(&session), "{session:#?}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Next hops of a prefix, sorted.
    pub(crate) fn next_hops(&self, prefix: &str) -> Result<Vec<IpAddr>> {
        let mut next_hops = Vec::new();
        for path in self.paths()?.iter().filter(|path| path.prefix == prefix) {
            let attributes = path.attributes.as_ref().context("a path has attributes")?;
            next_hops.push(attributes.next_hop.parse()?);
        }
        next_hops.sort();
        Ok(next_hops)
    }

    /// Waits until exactly these announce the service, in both families.
    pub(crate) fn wait_for_announcers(&self, places: &[Place]) -> Result<()> {
        let mut v4: Vec<IpAddr> = places.iter().map(|place| place.address().into()).collect();
        let mut v6: Vec<IpAddr> = places.iter().map(|place| place.address6().into()).collect();
        v4.sort();
        v6.sort();
        eventually(&format!("the service comes from {places:?}"), || {
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

/// The reflector's configuration file.
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
