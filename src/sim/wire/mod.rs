//! The wire face: each node on a port of its own with gRPC and HTTP, as the official clients know it, and EC2's Query API.

mod admin;
mod atom;
mod batch;
mod ec2;
mod ec2_facts;
mod http;
mod life;
mod projections;
pub mod proto;
mod read;
mod status;
mod streams;
mod tls;
mod users;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::metadata::MetadataMap;

pub use self::tls::Certificates;
pub use self::users::{ADMINS, OPS, User};

use self::life::Life;
use super::model::{NodeIx, Reachability};
use super::world::SimWorld;
use crate::domain::ids::Address;

/// Bytes that one append may have (`MaxAppendSize`).
const MAX_APPEND_SIZE: u32 = 1024 * 1024;
/// Bytes that one message to the Streams service may have.
const MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;
/// How long to wait before a port that was not free is tried again.
const BIND_RETRY: Duration = Duration::from_millis(200);

/// A simulated cluster and its EC2, served on loopback. Dropped, it is gone at once.
#[derive(Debug)]
pub struct WireCluster {
    ec2: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What makes a cluster secure.
#[derive(Clone, Debug)]
pub struct Security {
    certificates: Certificates,
    users: Vec<Arc<User>>,
}

impl Security {
    /// A secure cluster: a certificate a node, and these users.
    pub fn new(certificates: Certificates, users: Vec<User>) -> Security {
        Security { certificates, users: users.into_iter().map(Arc::new).collect() }
    }
}

/// How the nodes are started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// TLS and users; none: an insecure cluster.
    pub security: Option<Security>,
    /// Streams over plain HTTP as well (`EnableAtomPubOverHttp`).
    pub atom_pub: bool,
}

impl From<Option<Security>> for Options {
    fn from(security: Option<Security>) -> Options {
        Options { security, ..Options::default() }
    }
}

/// Where a node that advertises this address listens.
///
/// # Errors
/// A name that does not resolve.
pub async fn listens_at(address: &Address) -> io::Result<SocketAddr> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot resolve {address}: {error}; give an IP address"))
    })?;
    let found: Vec<SocketAddr> = found.collect();
    // Names of this machine resolve to both kinds, and EC2's private addresses are of version 4.
    let first = found.iter().find(|at| at.is_ipv4()).or(found.first()).copied();
    first.ok_or_else(|| io::Error::other(format!("{address} resolves to nothing; give an IP address")))
}

/// Serves each node of the world at its address, and EC2 at `ec2` (at a free port of 127.0.0.1 if `None`).
///
/// Follows the world: a node whose process is gone refuses connections and has reset the old ones, a frozen one accepts
/// and says nothing.
pub async fn serve(world: SimWorld, ec2: Option<SocketAddr>) -> io::Result<WireCluster> {
    serve_with(world, ec2, None).await
}

/// The same with nodes that are started with these options; EC2 stays as it is.
///
/// # Errors
/// An address that is not free, a name that does not resolve, or a node without a certificate.
pub async fn serve_with(
    world: SimWorld,
    ec2: Option<SocketAddr>,
    options: impl Into<Options>,
) -> io::Result<WireCluster> {
    let listener = life::bind(ec2.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into()))?;
    let ec2 = listener.local_addr()?;
    let mut cluster = serve_nodes(world.clone(), options).await?;
    cluster.ec2 = Some(ec2);
    let life = Life::begin(listener, None, ec2::router(world));
    let mut stopped = cluster.stop.subscribe();
    cluster.tasks.spawn(async move {
        stop_asked(&mut stopped).await;
        life.end().await;
    });
    Ok(cluster)
}

/// Serves each node of the world at its address, and no EC2: somebody else's says which instances run.
///
/// # Errors
/// An address that is not free, a name that does not resolve, or a node without a certificate.
pub async fn serve_nodes(world: SimWorld, options: impl Into<Options>) -> io::Result<WireCluster> {
    let Options { security, atom_pub } = options.into();
    let security = security.map(Arc::new);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();

    let mut nodes = Vec::new();
    for n in 0..world.with(|w| w.node_count()) {
        let address = world.with(|w| w.address(n).clone());
        let at = listens_at(&address).await?;
        nodes.push((n, at, life::bind(at)?));
    }

    let projections = projections::Shared::default();
    tasks.spawn(projections.clone().drive(world.clone(), stopped.clone()));
    for (n, at, listener) in nodes {
        let version = world.with(|w| Version::parse(&w.config().version));
        let tls = security.as_ref().map(|s| s.certificates.acceptor(n)).transpose()?;
        let (world, security, projections) = (world.clone(), security.clone(), projections.clone());
        let node = Node { world, n, version, security, atom_pub, projections };
        tasks.spawn(follow(node, at, listener, tls, stopped.clone()));
    }
    Ok(WireCluster { ec2: None, stop, tasks })
}

impl WireCluster {
    /// Where EC2's Query API answers, if it is served; `http://` before it makes it an endpoint URL.
    pub fn ec2_endpoint(&self) -> Option<SocketAddr> {
        self.ec2
    }

    /// Ends all connections and frees all ports.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a node's task failed");
            }
        }
    }
}

async fn stop_asked(stopped: &mut watch::Receiver<bool>) {
    // An error means that the cluster was dropped, which ends it as well.
    if let Err(error) = stopped.wait_for(|stop| *stop).await {
        tracing::debug!(%error, "the cluster was dropped");
    }
}

/// Serves one node for as long as it is asked to: through all lives of its process.
async fn follow(
    node: Node,
    at: SocketAddr,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut spare = Some(listener);
    let mut life: Option<(u64, Life)> = None;
    loop {
        let (version, reachability, generation) =
            node.world.with(|w| (w.version(), w.reachability(node.n), w.process_generation(node.n)));
        if let Some((_, old)) = life.take_if(|(lived, _)| *lived != generation || reachability == Reachability::Refused)
        {
            old.end().await;
        }
        let mut retry = None;
        if reachability == Reachability::Refused {
            spare = None;
        } else {
            if life.is_none() {
                match spare.take().map_or_else(|| life::bind(at), Ok) {
                    Ok(listener) => {
                        life = Some((generation, Life::begin(listener, tls.clone(), router(node.clone()))));
                    }
                    Err(error) => {
                        tracing::error!(%error, node = node.n, "the node cannot come back yet");
                        retry = Some(BIND_RETRY);
                    }
                }
            }
            if let Some((_, life)) = &life {
                life.freeze(reachability == Reachability::Silent);
            }
        }
        tokio::select! {
            _ = node.world.changed(version) => {}
            () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            () = stop_asked(&mut stopped) => break,
        }
    }
    if let Some((_, life)) = life {
        life.end().await;
    }
}

/// Everything that one port serves.
fn router(node: Node) -> Router {
    use proto::gossip::gossip_server::GossipServer;
    use proto::operations::operations_server::OperationsServer;
    use proto::projections::projections_server::ProjectionsServer;
    use proto::server_features::server_features_server::ServerFeaturesServer;
    use proto::streams::streams_server::StreamsServer;

    let streams = StreamsServer::new(node.clone())
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(usize::MAX);
    http::router(node.clone())
        .route_service("/event_store.client.streams.Streams/*method", streams)
        .route_service("/event_store.client.gossip.Gossip/*method", GossipServer::new(node.clone()))
        .route_service("/event_store.client.operations.Operations/*method", OperationsServer::new(node.clone()))
        .merge(projections::router(node.clone()))
        .route_service("/event_store.client.projections.Projections/*method", ProjectionsServer::new(node.clone()))
        .route_service(
            "/event_store.client.server_features.ServerFeatures/*method",
            ServerFeaturesServer::new(node.clone()),
        )
        .layer(axum::middleware::from_fn_with_state(node.clone(), users::guard))
        .layer(axum::middleware::from_fn_with_state(node, while_it_lives))
}

/// Never answers for a process that has ended meanwhile: the connection's end is the answer.
async fn while_it_lives(State(node): State<Node>, request: Request, next: Next) -> Response {
    let generation = node.generation();
    let response = next.run(request).await;
    if node.generation() != generation {
        return std::future::pending().await;
    }
    response
}

/// A node as its services know it.
#[derive(Clone, Debug)]
struct Node {
    world: SimWorld,
    n: NodeIx,
    version: Version,
    security: Option<Arc<Security>>,
    atom_pub: bool,
    projections: projections::Shared,
}

impl Node {
    fn generation(&self) -> u64 {
        self.world.with(|w| w.process_generation(self.n))
    }
}

/// The server version, as far as answers depend on it.
#[derive(Clone, Debug)]
struct Version {
    text: String,
    major: u32,
    minor: u32,
}

impl Version {
    fn parse(text: &str) -> Version {
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        Version { text: text.to_owned(), major, minor }
    }

    fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

/// Whether the client asks for the leader.
fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata.get("requires-leader").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"true"))
}
