//! One node of a cluster, asked and told over HTTP. Every call addresses exactly one node.

use std::net::IpAddr;

use async_trait::async_trait;

use crate::domain::cluster::{ReplicaSubscription, View};
use crate::domain::ids::Address;

/// Why a node gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The connection was refused: no process listens.
    #[error("connection to {node} refused")]
    Refused {
        /// Who was asked.
        node: Address,
    },
    /// No answer in time.
    #[error("no answer from {node} within {after_ms} ms")]
    TimedOut {
        /// Who was asked.
        node: Address,
        /// The time given.
        after_ms: u64,
    },
    /// An answer that says no: 401, 404, 503, …
    #[error("{node} answered {status} to {what}")]
    Status {
        /// Who was asked.
        node: Address,
        /// What for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// No secure connection: the node's certificate is not accepted, or it speaks no TLS. Nothing was asked or told.
    #[error("TLS with {node} failed: {found}")]
    Tls {
        /// Who was to be asked.
        node: Address,
        /// What went wrong.
        found: String,
    },
    /// Anything else: a name that does not resolve, an answer that does not parse.
    #[error("{what} at {node}: {found}")]
    Other {
        /// Who was asked.
        node: Address,
        /// What for.
        what: String,
        /// What went wrong.
        found: String,
    },
}

/// Asks and tells single nodes. Calls that read need no credentials unless they say so. A call returns within the
/// adapter's time-out (default 3 s).
#[async_trait]
pub trait ClusterAdmin: Send + Sync {
    /// `GET /gossip`, without credentials.
    async fn gossip(&self, node: &Address) -> Result<View, NodeError>;
    /// `GET /health/live`: whether the node says it is ready (sticky; not proof of having caught up).
    async fn live(&self, node: &Address) -> Result<bool, NodeError>;
    /// The configured number of voting nodes (`ClusterSize`) from `GET /info/options`; `None` if the node does not say.
    async fn cluster_size(&self, node: &Address) -> Result<Option<u32>, NodeError>;
    /// `GET /stats/replication`: non-empty on the leader only. Needs credentials on a secure cluster.
    async fn replication(&self, node: &Address) -> Result<Vec<ReplicaSubscription>, NodeError>;
    /// `GET /admin/scavenge/current`: the scavenge that runs on the node, if one does. Needs credentials on a secure cluster.
    async fn scavenge(&self, node: &Address) -> Result<Option<String>, NodeError>;
    /// Sets the node's priority in memory. Success says nothing of the effect.
    async fn set_priority(&self, node: &Address, priority: i32) -> Result<(), NodeError>;
    /// Asks the node to resign. Success says nothing of the effect: a node that does not lead says yes and does nothing.
    async fn resign(&self, node: &Address) -> Result<(), NodeError>;
    /// Addresses of a host name (an IP address resolves to itself).
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NodeError>;
}
