//! A gRPC server layer that counts open streams.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    Request, Response,
    body::{Body as HttpBody, Bytes, Frame, SizeHint},
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    connection_slots::{OpenStream, StreamRefused},
    grpc_connection::ConnectInfo,
};

/// A layer that counts the open streams of each connection and passes the connection information
/// `T` of the transport to the services.
pub(crate) struct CountStreams<T>(PhantomData<fn() -> T>);

impl<T> CountStreams<T> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for CountStreams<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for CountStreams<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountStreams")
    }
}

impl<T, S> Layer<S> for CountStreams<T> {
    type Service = CountingService<T, S>;

    fn layer(&self, inner: S) -> Self::Service {
        CountingService {
            inner,
            transport: PhantomData,
        }
    }
}

/// The service that [`CountStreams`] puts around another service.
#[derive(Clone, Debug)]
pub(crate) struct CountingService<T, S> {
    inner: S,
    transport: PhantomData<fn() -> T>,
}

impl<T, S> Service<Request<Body>> for CountingService<T, S>
where
    T: Clone + Send + Sync + 'static,
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(info) = request.extensions_mut().remove::<ConnectInfo<T>>() else {
            return Box::pin(self.inner.call(request));
        };
        let stream = match info.stream_counter.open_stream() {
            Ok(stream) => stream,
            Err(refused) => {
                let code = match refused {
                    StreamRefused::Evicted => Code::Unavailable,
                    StreamRefused::TooManyConnections(_) => Code::ResourceExhausted,
                };
                let answer = Status::new(code, refused.to_string()).into_http();
                return Box::pin(std::future::ready(Ok(answer)));
            }
        };
        request.extensions_mut().insert(info.transport);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| {
                Body::new(CountedBody {
                    body,
                    _stream: stream,
                })
            }))
        })
    }
}

/// The body of a response. The stream counts as open until the body is dropped.
struct CountedBody {
    body: Body,
    _stream: OpenStream,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
