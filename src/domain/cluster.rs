//! A cluster as it was seen: what each node says of itself and of the others.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{Address, ProcessId};

/// State of a node's process, as gossip spells it (`VNodeState`, the same from 22.10 to 26.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum NodeState {
    /// Storage services are starting.
    Initializing,
    /// Looks for an existing leader.
    DiscoverLeader,
    /// Knows no leader; an election is on. Also what other views call a node whose state they do not know yet.
    Unknown,
    /// Connects to the leader.
    PreReplica,
    /// Receives the log.
    CatchingUp,
    /// Nearly caught up, awaits its role.
    Clone,
    /// Follows; counts for the quorum.
    Follower,
    /// Won an election, is being inaugurated.
    PreLeader,
    /// Leads.
    Leader,
    /// Stands for a seed that was not reached yet.
    Manager,
    /// Shuts down.
    ShuttingDown,
    /// Is shut down.
    Shutdown,
    /// Read-only replica without a leader.
    ReadOnlyLeaderless,
    /// Read-only replica that connects to the leader.
    PreReadOnlyReplica,
    /// Read-only replica, subscribed; it may be far behind.
    ReadOnlyReplica,
    /// Leader on its way out.
    ResigningLeader,
    /// A word that this program does not know. Never taken for anything good.
    #[serde(other)]
    Unrecognized,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// One entry of a gossip view: what the answering node believes of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberEntry {
    /// Life of the process; the zero id for a seed that was not reached yet.
    pub process: ProcessId,
    /// When the entry was last refreshed, by the member's own clock. Compared for inequality only.
    pub time_stamp: String,
    /// State.
    pub state: NodeState,
    /// Whether the answering node believes it alive. An entry that is not alive keeps its last state.
    pub is_alive: bool,
    /// HTTP and gRPC address, as advertised.
    pub address: Address,
    /// Host of the replication endpoint (`internalTcpIp`), to find the node in the leader's replication statistics.
    pub replication: Address,
    /// Position of the last *indexed* record (`lastCommitPosition`), bytes; −1 if unknown.
    pub last_commit: i64,
    /// Tail of the log (`writerCheckpoint`), bytes; −1 if unknown.
    pub writer: i64,
    /// `chaserCheckpoint`, bytes; −1 if unknown.
    pub chaser: i64,
    /// Position of the last epoch record, bytes; −1 if unknown.
    pub epoch_position: i64,
    /// Number of the epoch; −1 on a node without data.
    pub epoch: i32,
    /// Id of the epoch.
    pub epoch_id: Uuid,
    /// Priority in elections, as the process holds it now.
    pub priority: i32,
    /// Whether it is a read-only replica.
    pub is_read_only_replica: bool,
    /// Server version, such as `23.10.5.0`; absent before 23.10.
    pub version: Option<String>,
}

/// The answer of one node to `GET /gossip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The answering node's own advertised address: names its own entry.
    pub server: Address,
    /// All members it knows, dead ones and unreached seeds included.
    pub members: Vec<MemberEntry>,
}

impl View {
    /// The answering node's entry of itself.
    pub fn own(&self) -> Option<&MemberEntry> {
        self.members.iter().find(|m| m.address == self.server)
    }

    /// The entry of the member with this address.
    pub fn member(&self, address: &Address) -> Option<&MemberEntry> {
        self.members.iter().find(|m| &m.address == address)
    }
}

/// One replica's subscription, as the leader's `/stats/replication` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSubscription {
    /// Id of the subscription: a new one means the connection was made anew.
    pub subscription: Uuid,
    /// The replica's replication endpoint (`Unspecified/` removed).
    pub endpoint: Address,
    /// Bytes sent over this connection so far.
    pub total_bytes_sent: u64,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An entry of a node that listens on 10.0.0.1:`n`, as its process `n` serves it. All its positions are the writer's.
    pub fn entry(n: u16, state: NodeState, epoch: i32, writer: i64, stamp: u64) -> MemberEntry {
        MemberEntry {
            process: ProcessId(Uuid::from_u128(u128::from(n))),
            time_stamp: stamp.to_string(),
            state,
            is_alive: true,
            address: Address::new("10.0.0.1", n),
            replication: Address::new("10.0.0.1", n + 1000),
            last_commit: writer,
            writer,
            chaser: writer,
            epoch_position: 0,
            epoch,
            epoch_id: Uuid::nil(),
            priority: 0,
            is_read_only_replica: false,
            version: None,
        }
    }
}
