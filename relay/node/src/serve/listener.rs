//! One listener: accepts connections, serves a router on each, and lets them finish when it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use gateway::ClientAddress;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a client may take to send its request's head; also ends idle connections that never send one.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of a request's head.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Pause after the system refuses to accept (no file descriptors left), so that a full process does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket that does not accept yet.
pub(super) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The origin of this listener, without a trailing slash; with port 0 the port that the system gave.
    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Accepts until `stop`, then waits for the connections under way, until `cut` ends them.
    pub(super) async fn run(self, router: Router, stop: CancellationToken, cut: CancellationToken, connections: TaskTracker) {
        let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (service, client) = (TowerToHyperService::new(router.clone()), ClientAddress(peer.ip()));
            let service = service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(client);
                service.call(request)
            });
            let connection = builder.serve_connection(io_of(stream), service).into_owned();
            let watched = graceful.watch(connection);
            let cut = cut.clone();
            connections.spawn(async move {
                tokio::select! {
                    () = cut.cancelled() => {}
                    // A client that breaks off is no event; what it did is on record already.
                    ended = watched => drop(ended.inspect_err(|error| tracing::debug!(%error, "connection ended"))),
                }
            });
        }
        drop(self.socket);
        tokio::select! {
            () = cut.cancelled() => {}
            () = graceful.shutdown() => {}
        }
    }
}

/// How long bytes may wait for a client that takes none: then it is gone, and what it asked for is cancelled.
const WRITE_STALL_MS: u32 = 60_000;

/// Answers go out at once: a streamed chunk must not wait for the next (Nagle's algorithm, RFC 896).
fn io_of(stream: TcpStream) -> TokioIo<TcpStream> {
    stream.set_nodelay(true).inspect_err(|error| tracing::debug!(%error, "TCP_NODELAY is not set")).ok();
    let stall = rustix::net::sockopt::set_tcp_user_timeout(&stream, WRITE_STALL_MS);
    stall.inspect_err(|error| tracing::debug!(%error, "TCP_USER_TIMEOUT is not set")).ok();
    TokioIo::new(stream)
}
