//! A small web server for the examples: says which pod answered, and to whom.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

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
    /// Where it listens
    #[arg(
        long,
        env = "PORTLB_LISTEN",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:80"
    )]
    listen: SocketAddr,

    /// What it calls itself: the pod's name
    #[arg(long, env = "PORTLB_NAME", default_value = "example-web")]
    name: String,

    /// A word that tells one release of the example from the next
    #[arg(long, env = "PORTLB_RELEASE", default_value = "1")]
    release: String,

    /// Seconds that it goes on after SIGTERM: longer than load balancers need to hear of it
    #[arg(
        long,
        env = "PORTLB_LINGER",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    linger: u64,
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
            client: *stream.remote_addr(),
            here: stream.io().local_addr().unwrap_or(unknown),
        }
    }
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
    let linger = Duration::from_secs(args.linger);
    let listener = TcpListener::bind(args.listen)
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
                () = sleep(linger) => {}
                _ = terminated.recv() => {}
            }
        } => Ok(()),
    }
}
