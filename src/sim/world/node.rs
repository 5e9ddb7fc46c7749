//! A node: its data, its process, and what that process believes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use super::Event;
use super::ec2::Machine;
use super::log::Log;
use crate::domain::cluster::NodeState;
use crate::domain::ids::{Address, ProcessId};
use crate::sim::model::NodeIx;

/// How far a node's process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// There is none.
    Off,
    /// It starts, and listens to nobody yet.
    Starting,
    /// It accepts connections and answers none.
    Mute,
    /// It answers.
    Up,
}

#[derive(Debug)]
pub(super) struct Node {
    pub address: Address,
    pub replication: Address,
    pub voter: bool,
    pub log: Log,
    /// Number of records that are committed as far as this node knows. Kept over a restart.
    pub committed: usize,
    /// Length to which the log is cut when the process starts, since a leader found that the rest is nobody else's.
    pub cut_to: Option<usize>,
    /// Number of the newest election in which it took part: it heeds no leader of an earlier one.
    pub promised: u64,
    pub machine: Machine,
    pub life: Life,
    pub process: Option<Process>,
    pub generation: u64,
    pub frozen: bool,
    /// What happened to a frozen process, for when it wakes.
    pub deferred: Vec<Event>,
    /// Its volume hangs: nothing is written, while its sockets and what it tells of itself live.
    pub volume_hangs: bool,
    /// What awaits the volume.
    pub unwritten: Vec<Event>,
}

/// What a process holds in memory.
#[derive(Debug)]
pub(super) struct Process {
    pub id: ProcessId,
    pub state: NodeState,
    pub priority: i32,
    pub live: bool,
    pub view: BTreeMap<NodeIx, Entry>,
    pub gossip_rounds: u32,
    /// The leader it believes in.
    pub leader: Option<(NodeIx, ProcessId)>,
    /// Its subscription to that leader's log.
    pub connection: Option<u64>,
    /// Number of the newest plan to connect; older ones are void.
    pub attempt: u64,
    /// Grows with each change between leading and not leading: ticks of an earlier reign are void.
    pub reign: u64,
    /// Number of the newest election that it won.
    pub won: u64,
    /// While it leads: whether replicas may subscribe yet.
    pub accepts: bool,
    /// While it leads: number of records up to and including its own epoch record.
    pub inaugurated_at: usize,
    /// Since when too few voters are subscribed.
    pub alone_since: Option<Duration>,
    /// Ids written in this reign, for expectations that name no number.
    pub ids: IdCache,
    /// Whether the numbers of its own entry lack a commit position yet (storage is still starting).
    pub hides_commit: bool,
    /// Exits by itself after it has rejoined.
    pub exits_once: bool,
    /// Once it was told to end: whether its supervisor starts it again.
    pub told_to_end: Option<bool>,
}

/// What a process believes of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub process: ProcessId,
    pub at: Duration,
    pub state: NodeState,
    pub alive: bool,
    pub last_commit: i64,
    pub writer: i64,
    pub chaser: i64,
    pub epoch_position: i64,
    pub epoch: i32,
    pub epoch_id: Uuid,
    pub priority: i32,
}

impl Entry {
    /// A seed that was not reached yet.
    pub fn seed(at: Duration) -> Entry {
        Entry {
            process: ProcessId(Uuid::nil()),
            at,
            state: NodeState::Manager,
            alive: true,
            last_commit: -1,
            writer: -1,
            chaser: -1,
            epoch_position: -1,
            epoch: -1,
            epoch_id: Uuid::nil(),
            priority: 0,
        }
    }
}

/// The ids that a leader remembers of late: bounded, in memory.
#[derive(Debug, Default)]
pub(super) struct IdCache {
    events: BTreeMap<Uuid, (String, u64)>,
    order: VecDeque<Uuid>,
}

impl IdCache {
    const MOST: usize = 10_000;

    pub fn insert(&mut self, id: Uuid, stream: &str, revision: u64) {
        if self.events.insert(id, (stream.to_owned(), revision)).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
    }

    /// Number of the event with this id in this stream.
    pub fn revision(&self, id: &Uuid, stream: &str) -> Option<u64> {
        self.events.get(id).filter(|(s, _)| s == stream).map(|(_, revision)| *revision)
    }
}

impl Node {
    /// The process, if it answers.
    pub fn up(&self) -> Option<&Process> {
        self.process.as_ref().filter(|_| self.life == Life::Up)
    }
}
