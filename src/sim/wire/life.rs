//! One life of a node's process as the network sees it: a listener, its connections, and whether anything in them moves.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What the process does with its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motion {
    /// It reads and writes.
    Moves,
    /// It is frozen: the kernel still accepts connections and bytes, nothing comes back.
    Frozen,
    /// It is gone.
    Ended,
}

/// Shared by all connections of one life.
#[derive(Debug)]
struct Gate {
    state: Mutex<(Motion, Vec<Waker>)>,
}

impl Gate {
    fn new() -> Arc<Gate> {
        Arc::new(Gate { state: Mutex::new((Motion::Moves, Vec::new())) })
    }

    fn lock(&self) -> MutexGuard<'_, (Motion, Vec<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, motion: Motion) {
        let waiting = {
            let mut state = self.lock();
            if state.0 == motion {
                return;
            }
            state.0 = motion;
            std::mem::take(&mut state.1)
        };
        for waker in waiting {
            waker.wake();
        }
    }

    /// Ready while the process moves.
    fn poll(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        match state.0 {
            Motion::Moves => Poll::Ready(Ok(())),
            Motion::Ended => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Motion::Frozen => {
                if !state.1.iter().any(|known| known.will_wake(cx.waker())) {
                    state.1.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// A connection that moves as its process does.
struct GatedStream {
    stream: TcpStream,
    gate: Arc<Gate>,
}

impl Drop for GatedStream {
    fn drop(&mut self) {
        if self.gate.lock().0 == Motion::Ended {
            // A dead process's peer sees a reset, not a farewell.
            if let Err(error) = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "the connection ends without a reset");
            }
        }
    }
}

impl AsyncRead for GatedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.gate.poll(cx))?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for GatedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.gate.poll(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.gate.poll(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.gate.poll(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.gate.poll(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A listener and its connections. Dropped, or ended, it takes them all with it.
#[derive(Debug)]
pub(super) struct Life {
    gate: Arc<Gate>,
    tasks: JoinSet<()>,
}

impl Life {
    /// Serves `router` on a bound socket: HTTP/1.1 and HTTP/2, told apart by the first bytes, over TLS if there is some.
    pub fn begin(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) -> Life {
        let gate = Gate::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&gate), tls, router));
        Life { gate, tasks }
    }

    /// Freezes the process or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        self.gate.set(if frozen { Motion::Frozen } else { Motion::Moves });
    }

    /// Ends the process: nobody listens afterwards, connections are reset.
    pub async fn end(mut self) {
        // Said without waking anyone: the listener goes first, so that who sees the reset finds the port closed.
        self.gate.lock().0 = Motion::Ended;
        self.tasks.shutdown().await;
    }
}

/// Binds an address. The error names it and says what to do.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)
    };
    bound().map_err(|error: io::Error| {
        let advice = [
            (io::ErrorKind::AddrInUse, "another program listens there: end it or choose other ports"),
            (
                io::ErrorKind::AddrNotAvailable,
                "this machine does not have that address: choose one that it has, such as 127.0.0.1",
            ),
            (io::ErrorKind::PermissionDenied, "ports below 1024 are privileged: choose a higher one"),
        ];
        let advice = advice
            .iter()
            .find(|(kind, _)| *kind == error.kind())
            .map_or("choose another address", |(_, advice)| advice);
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}; {advice}"))
    })
}

async fn accept(listener: TcpListener, gate: Arc<Gate>, tls: Option<TlsAcceptor>, router: Router) {
    let mut connections = JoinSet::new();
    // Declared last, dropped first.
    let listener = listener;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "small answers may be late: TCP_NODELAY is not set");
                    }
                    let stream = GatedStream { stream, gate: Arc::clone(&gate) };
                    connections.spawn(connection(stream, tls.clone(), router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
        }
    }
}

async fn connection(stream: GatedStream, tls: Option<TlsAcceptor>, router: Router) {
    match tls {
        None => speak(stream, router).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => speak(stream, router).await,
            Err(error) => tracing::debug!(%error, "a client does not take the certificate, or speaks no TLS"),
        },
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    if let Err(error) = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await {
        // Clients come and go as they like.
        tracing::debug!(error, "a connection ended");
    }
}
