//! Single nodes over HTTP.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Method, StatusCode};
use tokio_rustls::rustls;

use super::tls::Roots;
use super::unary::{self, Answer, Empty, SetNodePriorityReq};
use super::{ConfigError, Credentials, chain, gossip};
use crate::domain::cluster::{ReplicaSubscription, View};
use crate::domain::ids::Address;
use crate::ports::{ClusterAdmin, NodeError};

/// Time for one call, its connection included. A node that works answers within milliseconds, a booting one may hang for
/// more than a second; three seconds are still far below every window that rests on an answer.
const CALL_TIME_OUT: Duration = Duration::from_secs(3);

/// The longest answer that is held. The state of a projection may have 16 MiB on a server.
const BODY_MAX: usize = 32 << 20;

/// How to reach the nodes of a cluster.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Whether the nodes speak TLS.
    pub tls: bool,
    /// PEM file of the CA, trusted alone; else the system's certificates.
    pub ca_file: Option<PathBuf>,
    /// The user for priorities, resignations, statistics and options: `admin`, or a member of `$ops`.
    pub credentials: Option<Credentials>,
}

/// [`ClusterAdmin`] over HTTP. Follows no redirect and uses no proxy, since each call means exactly one node; keeps no
/// connection, since a kept one to a node that was stopped would hide that nobody listens.
#[derive(Clone, Debug)]
pub struct HttpAdmin {
    http: reqwest::Client,
    grpc: reqwest::Client,
    scheme: &'static str,
    credentials: Option<Credentials>,
    time_out: Duration,
}

impl HttpAdmin {
    /// Makes the clients; connects to nobody.
    ///
    /// # Errors
    /// A CA file that cannot be used.
    pub fn new(config: AdminConfig) -> Result<Self, ConfigError> {
        let AdminConfig { tls, ca_file, credentials } = config;
        Self::with(tls, true, ca_file.as_deref(), credentials, CALL_TIME_OUT)
    }

    pub(super) fn with(
        tls: bool,
        verify: bool,
        ca_file: Option<&std::path::Path>,
        credentials: Option<Credentials>,
        time_out: Duration,
    ) -> Result<Self, ConfigError> {
        let roots = if tls { Roots::load(ca_file)? } else { Roots::Native };
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(time_out)
                .timeout(time_out)
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .pool_max_idle_per_host(0)
                .danger_accept_invalid_certs(!verify)
                .https_only(tls);
            roots.apply(builder)
        };
        let bad = |e: reqwest::Error| {
            ConfigError::new(
                "the HTTP client",
                "one that can be made",
                chain(&e),
                "check the CA file and the system's certificates",
            )
        };
        let http = builder().http1_only().build().map_err(bad)?;
        let grpc = if tls { builder() } else { builder().http2_prior_knowledge() };
        let grpc = grpc.build().map_err(bad)?;
        Ok(Self { http, grpc, scheme: if tls { "https" } else { "http" }, credentials, time_out })
    }

    fn after_ms(&self) -> u64 {
        u64::try_from(self.time_out.as_millis()).unwrap_or(u64::MAX)
    }

    fn base(&self, node: &Address) -> String {
        format!("{}://{node}", self.scheme)
    }

    fn error(&self, node: &Address, what: &str, error: reqwest::Error) -> NodeError {
        let node = node.clone();
        if error.is_timeout() {
            NodeError::TimedOut { node, after_ms: self.after_ms() }
        } else if is_refused(&error) {
            NodeError::Refused { node }
        } else if let Some(tls) = tls_error(&error) {
            NodeError::Tls { node, found: tls.to_string() }
        } else {
            NodeError::Other { node, what: what.to_owned(), found: chain(&error.without_url()) }
        }
    }

    async fn send(
        &self,
        node: &Address,
        method: Method,
        path: &str,
        credentials: Option<&Credentials>,
    ) -> Result<(StatusCode, Vec<u8>), NodeError> {
        self.sent(node, method, path, credentials).await.map(|(status, _, body)| (status, body))
    }

    /// The same, and whether the node says that user and password do not match: with its challenge, which it leaves out for a user
    /// without the right.
    async fn sent(
        &self,
        node: &Address,
        method: Method,
        path: &str,
        credentials: Option<&Credentials>,
    ) -> Result<(StatusCode, bool, Vec<u8>), NodeError> {
        let what = format!("{method} {path}");
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base(node)));
        if method == Method::POST {
            // The server wants a length, and ignores the body.
            request = request.header(reqwest::header::CONTENT_LENGTH, 0).body("");
        }
        if let Some(Credentials { user, password }) = credentials {
            request = request.basic_auth(user, Some(password));
        }
        let mut response = request.send().await.map_err(|e| self.error(node, &what, e))?;
        let status = response.status();
        let challenged = response.headers().contains_key(WWW_AUTHENTICATE);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.error(node, &what, e))? {
            body.extend_from_slice(&chunk);
            if body.len() > BODY_MAX {
                let found = format!("an answer of more than {BODY_MAX} bytes, which no node gives");
                return Err(NodeError::Other { node: node.clone(), what, found });
            }
        }
        Ok((status, challenged, body))
    }

    /// A gRPC call with one request: `service.Service/Method`.
    ///
    /// # Errors
    /// Whatever kept the node from answering. A gRPC status is an answer.
    pub(super) async fn call(
        &self,
        node: &Address,
        method: &str,
        message: &impl prost::Message,
    ) -> Result<Answer, NodeError> {
        let called = unary::call(&self.grpc, &self.base(node), method, message, self.credentials.as_ref()).await;
        called.map_err(|e| self.error(node, method, e))
    }

    /// GET as the user of this client.
    pub(super) async fn get_known(&self, node: &Address, path: &str) -> Result<Vec<u8>, NodeError> {
        self.get(node, path, self.credentials.as_ref()).await
    }

    async fn get(&self, node: &Address, path: &str, credentials: Option<&Credentials>) -> Result<Vec<u8>, NodeError> {
        let (status, challenged, body) = self.sent(node, Method::GET, path, credentials).await?;
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(refused_with(node, explained(format!("GET {path}"), status, challenged, credentials), status.as_u16()))
        }
    }

    /// Whether the node knows the user with that password.
    ///
    /// # Errors
    /// `Status` 401 if it does not, and whatever kept it from being asked.
    pub(super) async fn check_user(&self, node: &Address) -> Result<(), NodeError> {
        self.get(node, "/gossip", self.credentials.as_ref()).await.map(drop)
    }

    /// A POST to an `/admin` route, or the same over gRPC where the node has none.
    async fn tell(
        &self,
        node: &Address,
        path: &str,
        method: &str,
        message: &impl prost::Message,
    ) -> Result<(), NodeError> {
        // Both calls together have the time of one.
        tokio::time::timeout(self.time_out, self.tell_either_way(node, path, method, message))
            .await
            .unwrap_or_else(|_| Err(NodeError::TimedOut { node: node.clone(), after_ms: self.after_ms() }))
    }

    async fn tell_either_way(
        &self,
        node: &Address,
        path: &str,
        method: &str,
        message: &impl prost::Message,
    ) -> Result<(), NodeError> {
        let credentials = self.credentials.as_ref();
        let (status, challenged, _) = self.sent(node, Method::POST, path, credentials).await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        if status != StatusCode::NOT_FOUND {
            let what = explained(format!("POST {path}"), status, challenged, credentials);
            return Err(refused_with(node, what, status.as_u16()));
        }
        let what = format!("Operations/{method} (POST {path} is not there)");
        let method = format!("operations.Operations/{method}");
        match unary::call(&self.grpc, &self.base(node), &method, message, credentials).await {
            Ok(Answer::Ok(_)) => Ok(()),
            Ok(Answer::Status(refusal)) => Err(refused_with(node, format!("{what}: {refusal}"), refusal.http)),
            Err(e) => Err(self.error(node, &what, e)),
        }
    }
}

fn refused_with(node: &Address, what: String, status: u16) -> NodeError {
    NodeError::Status { node: node.clone(), what, status }
}

/// What was asked, and what a 401 to it means.
fn explained(what: String, status: StatusCode, challenged: bool, credentials: Option<&Credentials>) -> String {
    if status != StatusCode::UNAUTHORIZED {
        return what;
    }
    match credentials {
        None => format!("{what} (no user was given)"),
        Some(Credentials { user, .. }) if challenged => format!("{what} (user `{user}` and its password do not match)"),
        Some(Credentials { user, .. }) => format!("{what} (user `{user}` has no right to it)"),
    }
}

fn unreadable(node: &Address, what: &str, found: impl ToString) -> NodeError {
    NodeError::Other { node: node.clone(), what: format!("answer to {what}"), found: found.to_string() }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) || error.source().is_some_and(is_refused)
}

/// The TLS library's own word, wherever it stands in the chain. An I/O error hides the one that it holds from `source`.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match held {
        Some(held) => tls_error(held),
        None => error.source().and_then(tls_error),
    }
}

#[async_trait]
impl ClusterAdmin for HttpAdmin {
    async fn gossip(&self, node: &Address) -> Result<View, NodeError> {
        // Without a user: one that cannot be checked turns the answer into 401 or 503.
        let body = self.get(node, "/gossip", None).await?;
        gossip::parse_view(&body).map_err(|e| unreadable(node, "GET /gossip", e))
    }

    async fn live(&self, node: &Address) -> Result<bool, NodeError> {
        let (status, _) = self.send(node, Method::GET, "/health/live", None).await?;
        match status {
            StatusCode::NO_CONTENT | StatusCode::OK => Ok(true),
            StatusCode::SERVICE_UNAVAILABLE => Ok(false),
            other => Err(refused_with(node, "GET /health/live".to_owned(), other.as_u16())),
        }
    }

    async fn cluster_size(&self, node: &Address) -> Result<Option<u32>, NodeError> {
        match self.get(node, "/info/options", self.credentials.as_ref()).await {
            Ok(body) => gossip::parse_cluster_size(&body).map_err(|e| unreadable(node, "GET /info/options", e)),
            Err(NodeError::Status { status: 404, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn replication(&self, node: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        let body = self.get(node, "/stats/replication", self.credentials.as_ref()).await?;
        gossip::parse_replication(&body).map_err(|e| unreadable(node, "GET /stats/replication", e))
    }

    async fn scavenge(&self, node: &Address) -> Result<Option<String>, NodeError> {
        let path = "/admin/scavenge/current";
        let body = self.get(node, path, self.credentials.as_ref()).await?;
        gossip::parse_scavenge(&body).ok_or_else(|| unreadable(node, path, String::from_utf8_lossy(&body)))
    }

    async fn set_priority(&self, node: &Address, priority: i32) -> Result<(), NodeError> {
        let path = format!("/admin/node/priority/{priority}");
        self.tell(node, &path, "SetNodePriority", &SetNodePriorityReq { priority }).await
    }

    async fn resign(&self, node: &Address) -> Result<(), NodeError> {
        self.tell(node, "/admin/node/resign", "ResignNode", &Empty {}).await
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NodeError> {
        let node = Address::new(host, 0);
        match tokio::time::timeout(self.time_out, tokio::net::lookup_host((host, 0))).await {
            Err(_) => Err(NodeError::TimedOut { node, after_ms: self.after_ms() }),
            Ok(Err(e)) => Err(NodeError::Other { node, what: format!("resolving `{host}`"), found: e.to_string() }),
            Ok(Ok(found)) => {
                let addresses: std::collections::BTreeSet<IpAddr> = found.map(|a| a.ip()).collect();
                Ok(addresses.into_iter().collect())
            }
        }
    }
}
