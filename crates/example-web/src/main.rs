//! A small web server for the examples.
//!
//! Its answer names the pod and the address of the client.

use std::{
    fmt,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    extract::{ConnectInfo, Request, connect_info::Connected},
    http::{HeaderValue, header::CONNECTION},
    middleware::{Next, from_fn},
    response::Response,
    routing::get,
    serve::IncomingStream,
};
use clap::Parser;
use daemon_runtime::{listen_address, parse_duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

/// Version of the program: `0.1.0`, or `0.1.0+1a2b3c4` if the build sets `PORTLB_VERSION`.
const VERSION: &str = match option_env!("PORTLB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// A small web server for the examples. Its answer names the pod and the address of the client.
///
/// GET / answers with three lines: NAME and RELEASE of this server, the address of the client, and
/// the service address that the client connected to. GET /healthz answers with status 200. After
/// SIGTERM the server continues for --linger and sends `Connection: close` with each answer, so
/// that clients open new connections to other servers. A second SIGTERM ends the server
/// immediately.
#[derive(Debug, Parser)]
#[command(name = "example-web", version = VERSION)]
struct Args {
    /// Address to listen on: ADDRESS:PORT, or PORT alone for all addresses, IPv4 and IPv6
    #[arg(
        long,
        env = "PORTLB_LISTEN",
        value_name = "ADDRESS",
        default_value = "80"
    )]
    listen: WebListenAddress,

    /// Name of this server in its answers. The manifests set it to the name of the pod
    #[arg(long, env = "PORTLB_NAME", default_value = "example-web")]
    name: String,

    /// Release of the example in its answers. Change it to see a rollout in the answers
    #[arg(long, env = "PORTLB_RELEASE", default_value = "1")]
    release: String,

    /// Time for which the server continues after SIGTERM, such as 500ms or 10s. Set it longer than
    /// the load balancers need to stop sending new clients. 0: the server ends immediately
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    linger: Duration,
}

/// The parsed value of `--listen`.
#[derive(Clone, Copy, Debug)]
enum WebListenAddress {
    Address(SocketAddr),
    /// A port on all addresses, IPv4 and IPv6.
    Port(u16),
}

impl FromStr for WebListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `parse` also accepts "+80", which is not a valid PORT.
        let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
        let port = text.parse().map(Self::Port).ok();
        let port = port.filter(|_| is_number);
        port.or_else(|| listen_address(text).map(Self::Address))
            .ok_or(
                "expected ADDRESS:PORT, such as 0.0.0.0:80 or [::]:80, or PORT alone, such as 80",
            )
    }
}

impl fmt::Display for WebListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

impl WebListenAddress {
    /// Binds a listener. For a port alone, one socket accepts IPv4 and IPv6: the kubelet probes
    /// /healthz with the first family of the cluster, which can differ from the family of the
    /// service address.
    async fn bind(self) -> std::io::Result<TcpListener> {
        match self {
            Self::Address(address) => TcpListener::bind(address).await,
            Self::Port(port) => {
                match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                    Ok(listener) => Ok(listener),
                    // The kernel possibly lacks IPv6, so the server tries IPv4 alone.
                    Err(error) if error.kind() != ErrorKind::AddrInUse => {
                        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// The two addresses of a TCP connection.
#[derive(Clone, Copy, Debug)]
struct ConnectionAddresses {
    client: SocketAddr,
    /// Address that the client connected to: the service address, unless the load balancer rewrites
    /// the destination of packets.
    local: SocketAddr,
}

impl Connected<IncomingStream<'_, TcpListener>> for ConnectionAddresses {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            client: canonical(*stream.remote_addr()),
            local: canonical(stream.io().local_addr().unwrap_or(unknown)),
        }
    }
}

/// Converts an IPv4-mapped IPv6 address to the IPv4 address. A socket for IPv4 and IPv6 reports the
/// address of an IPv4 client in the mapped form.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(serve(args)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("example-web: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let (ending, is_ending) = watch::channel(false);
    let listener = args
        .listen
        .bind()
        .await
        .with_context(|| format!("listen on {}", args.listen))?;
    eprintln!(
        "example-web: {} {} listens on {}",
        args.name,
        args.release,
        listener.local_addr()?
    );

    let close_when_ending = from_fn(move |request: Request, next: Next| {
        let is_ending = is_ending.clone();
        async move {
            let mut response: Response = next.run(request).await;
            if *is_ending.borrow() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            response
        }
    });
    let answer = async move |ConnectInfo(addresses): ConnectInfo<ConnectionAddresses>| {
        format!(
            "{} {}\nclient {}\nservice address {}\n",
            args.name, args.release, addresses.client, addresses.local
        )
    };
    let router = Router::new()
        .route("/", get(answer))
        .route("/healthz", get(async || "ok\n"))
        .layer(close_when_ending);
    let served = axum::serve(
        listener,
        router.into_make_service_with_connect_info::<ConnectionAddresses>(),
    );

    tokio::select! {
        ended = served => ended.context("serve"),
        () = async {
            terminated.recv().await;
            ending.send_replace(true);
            tokio::select! {
                () = sleep(args.linger) => {}
                _ = terminated.recv() => {}
            }
        } => Ok(()),
    }
}
