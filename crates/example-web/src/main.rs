//! A small web server for the examples: says which pod answered, and to whom.

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

/// Such as `0.1.0`, or `0.1.0+1a2b3c4` where the build gave the commit.
const VERSION: &str = match option_env!("PORTLB_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// A small web server for the examples: says which pod answered, and to whom.
///
/// GET / answers `NAME RELEASE`, then the client and the service address as this server sees them;
/// GET /healthz answers 200. On SIGTERM it goes on for --linger, each answer with
/// `Connection: close`, so that clients leave before it does. A second signal ends it at once.
#[derive(Debug, Parser)]
#[command(name = "example-web", version = VERSION)]
struct Args {
    /// Where it listens: ADDRESS:PORT, or PORT alone for every address, IPv4 and IPv6
    #[arg(
        long,
        env = "PORTLB_LISTEN",
        value_name = "ADDRESS",
        default_value = "80"
    )]
    listen: Listen,

    /// What it calls itself: the pod's name
    #[arg(long, env = "PORTLB_NAME", default_value = "example-web")]
    name: String,

    /// A word that tells one release of the example from the next
    #[arg(long, env = "PORTLB_RELEASE", default_value = "1")]
    release: String,

    /// How long it goes on after SIGTERM: longer than load balancers need to hear of it. 500ms,
    /// 10s; 0 ends it at once
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "TIME",
        default_value = "10s",
        value_parser = parse_duration
    )]
    linger: Duration,
}

/// Where it listens.
#[derive(Clone, Copy, Debug)]
enum Listen {
    At(SocketAddr),
    Everywhere(u16),
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The standard library's numbers may have a sign.
        let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
        let port = text.parse().map(Self::Everywhere).ok();
        let port = port.filter(|_| is_number);
        port.or_else(|| listen_address(text).map(Self::At)).ok_or(
            "expected ADDRESS:PORT, such as 0.0.0.0:80 or [::]:80, or PORT alone, such as 80",
        )
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Everywhere(port) => write!(f, "port {port}"),
        }
    }
}

impl Listen {
    /// The kubelet asks for /healthz by the family that the cluster has first, whatever that of
    /// the service address is: so one socket takes both.
    async fn bind(self) -> std::io::Result<TcpListener> {
        match self {
            Self::At(address) => TcpListener::bind(address).await,
            Self::Everywhere(port) => {
                match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                    Ok(listener) => Ok(listener),
                    // A kernel may be without IPv6.
                    Err(error) if error.kind() != ErrorKind::AddrInUse => {
                        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
struct Ends {
    client: SocketAddr,
    here: SocketAddr,
}

impl Connected<IncomingStream<'_, TcpListener>> for Ends {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            client: as_written(*stream.remote_addr()),
            here: as_written(stream.io().local_addr().unwrap_or(unknown)),
        }
    }
}

/// A socket of both families shows an IPv4 address as one of IPv6.
fn as_written(address: SocketAddr) -> SocketAddr {
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
    let answer = async move |ConnectInfo(ends): ConnectInfo<Ends>| {
        format!(
            "{} {}\nclient {}\nservice address {}\n",
            args.name, args.release, ends.client, ends.here
        )
    };
    let router = Router::new()
        .route("/", get(answer))
        .route("/healthz", get(async || "ok\n"))
        .layer(close_when_ending);
    let served = axum::serve(
        listener,
        router.into_make_service_with_connect_info::<Ends>(),
    );

    tokio::select! {
        ended = served => ended.context("serve"),
        () = async {
            terminated.recv().await;
            ending.send_replace(true);
            // Either is fine: the time is over, or somebody insists.
            tokio::select! {
                () = sleep(args.linger) => {}
                _ = terminated.recv() => {}
            }
        } => Ok(()),
    }
}
