//! Replication: subscriptions of replicas to a leader's log, and what a quorum of them commits.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::log::Stored;
use super::{Event, World};
use crate::domain::cluster::NodeState;
use crate::domain::ids::ProcessId;
use crate::sim::model::{NodeIx, Reachability};

/// `LeaderReconnectionDelay`, `LeaderSubscriptionRetryDelay`.
const RETRY: Duration = Duration::from_millis(500);
/// `LeaderSubscriptionTimeout`.
const SUBSCRIPTION_TIMEOUT: Duration = Duration::from_secs(1);
/// `CloneThreshold`: bytes behind the leader up to which a replica counts as caught up.
const CLONE_THRESHOLD: u64 = 1024;
/// Bytes that a new subscription is sent at once.
const FIRST_BURST: u64 = 64 * 1024;
/// How often a subscription that is behind is served at most.
const PUMP: Duration = Duration::from_millis(10);

/// A replica's subscription.
#[derive(Debug)]
pub(super) struct Connection {
    pub leader: NodeIx,
    pub replica: NodeIx,
    pub subscription: Uuid,
    /// Number of records sent.
    pub sent: usize,
    /// Number of records that the replica is known to have.
    pub acknowledged: usize,
    /// Bytes sent.
    pub bytes: u64,
    /// Whether it is sent each record as it is written. Otherwise it is behind and is sent old ones at the rate of the world.
    current: bool,
    /// Bytes that may be sent but were not yet, since the next record is larger.
    credit: u64,
    pumped: Duration,
    /// When what was sent last arrives: nothing overtakes.
    arrives: Duration,
}

impl World {
    /// Makes a process a replica of this leader, which it tries to reach from now on.
    pub(super) fn follow(&mut self, n: NodeIx, leader: (NodeIx, ProcessId)) {
        self.disconnect_replica(n);
        let voter = self.nodes[n].voter;
        if let Some(p) = &mut self.nodes[n].process {
            p.leader = Some(leader);
        }
        self.enter(n, if voter { NodeState::PreReplica } else { NodeState::PreReadOnlyReplica });
        let delay = self.random.latency.millis(5, 60);
        self.plan_connect(n, delay);
    }

    fn plan_connect(&mut self, n: NodeIx, delay: Duration) {
        let generation = self.nodes[n].generation;
        let Some(p) = &mut self.nodes[n].process else { return };
        p.attempt += 1;
        let attempt = p.attempt;
        self.schedule(delay, Event::Connect { n, generation, attempt });
    }

    /// Tries to subscribe to the leader it believes in.
    pub(super) fn connect(&mut self, n: NodeIx, attempt: u64) {
        let Some(p) = self.nodes[n].process.as_ref().filter(|p| p.attempt == attempt && p.connection.is_none()) else {
            return;
        };
        let Some((leader, process)) = p.leader else { return };
        match p.state {
            NodeState::PreReplica | NodeState::PreReadOnlyReplica => {}
            NodeState::CatchingUp | NodeState::Clone | NodeState::Follower => self.enter(n, NodeState::PreReplica),
            NodeState::ReadOnlyReplica => self.enter(n, NodeState::PreReadOnlyReplica),
            NodeState::Initializing
            | NodeState::DiscoverLeader
            | NodeState::Unknown
            | NodeState::PreLeader
            | NodeState::Leader
            | NodeState::Manager
            | NodeState::ShuttingDown
            | NodeState::Shutdown
            | NodeState::ReadOnlyLeaderless
            | NodeState::ResigningLeader
            | NodeState::Unrecognized => return,
        }
        match self.reachability(leader) {
            Reachability::Answers if self.process_id(leader) == process => {
                let promised = self.nodes[n].promised;
                if self.nodes[leader].process.as_ref().is_some_and(|p| p.accepts && p.won >= promised) {
                    self.subscribe(n, leader);
                } else {
                    self.plan_connect(n, RETRY);
                }
            }
            Reachability::Answers | Reachability::Refused => {
                self.check_peer(n, leader, process);
                self.plan_connect(n, RETRY);
            }
            Reachability::Silent => {
                self.check_peer(n, leader, process);
                self.plan_connect(n, SUBSCRIPTION_TIMEOUT);
            }
        }
    }

    fn subscribe(&mut self, n: NodeIx, leader: NodeIx) {
        let common = self.nodes[n].log.common(&self.nodes[leader].log);
        if common < self.nodes[n].log.len() {
            // The rest is nobody else's: the process exits (code 0) in order to cut it off at its next start.
            self.nodes[n].cut_to = Some(common);
            let generation = self.nodes[n].generation;
            let delay = self.random.lifecycle.millis(50, 300);
            self.schedule(delay, Event::ProcessExits { n, generation, restart: true });
            return;
        }
        let connection = self.open_connection(n, leader, false);
        for (here, there) in [(n, leader), (leader, n)] {
            let process = self.process_id(there);
            if let Some(entry) =
                self.nodes[here].process.as_mut().and_then(|p| p.view.get_mut(&there)).filter(|e| e.process == process)
            {
                entry.alive = true;
            }
        }
        let behind = self.nodes[leader].log.end() - self.nodes[n].log.end();
        let state = match self.nodes[n].voter {
            false => NodeState::ReadOnlyReplica,
            true if behind <= CLONE_THRESHOLD => NodeState::Clone,
            true => NodeState::CatchingUp,
        };
        self.enter(n, state);
        self.schedule(Duration::ZERO, Event::Pump { connection });
        let len = self.nodes[n].log.len();
        let delay = self.random.latency.micros(300, 1500);
        self.schedule(delay, Event::Acknowledge { connection, len });
        let exits = self.nodes[n].process.as_mut().is_some_and(|p| std::mem::take(&mut p.exits_once));
        if exits {
            let generation = self.nodes[n].generation;
            let delay = self.random.lifecycle.millis(200, 600);
            self.schedule(delay, Event::ProcessExits { n, generation, restart: true });
        }
    }

    fn open_connection(&mut self, n: NodeIx, leader: NodeIx, current: bool) -> u64 {
        self.connected += 1;
        let connection = self.connected;
        let sent = self.nodes[n].log.len();
        let subscription = self.random.ids.uuid();
        self.connections.insert(
            connection,
            Connection {
                leader,
                replica: n,
                subscription,
                sent,
                acknowledged: if current { sent } else { 0 },
                bytes: 0,
                current,
                credit: FIRST_BURST,
                pumped: self.now,
                arrives: self.now,
            },
        );
        if let Some(p) = &mut self.nodes[n].process {
            p.connection = Some(connection);
        }
        connection
    }

    /// A subscription that has been there for a while.
    pub(super) fn connect_live(&mut self, n: NodeIx, leader: NodeIx) {
        self.open_connection(n, leader, true);
    }

    /// Ends a connection; both sides notice.
    pub(super) fn drop_connection(&mut self, connection: u64) {
        let Some(c) = self.connections.remove(&connection) else { return };
        let leader = (c.leader, self.process_id(c.leader));
        if self.nodes[c.leader].process.is_some() {
            let replica = self.process_id(c.replica);
            self.check_peer(c.leader, c.replica, replica);
        }
        let generation = self.nodes[c.replica].generation;
        let Some(p) = self.nodes[c.replica].process.as_mut().filter(|p| p.connection == Some(connection)) else {
            return;
        };
        p.connection = None;
        let believed = p.leader.unwrap_or(leader);
        let delay = self.random.latency.millis(1, 4);
        self.schedule(delay, Event::ConnectionLost { n: c.replica, generation, leader: believed });
    }

    /// Ends a replica's connection from its own side.
    pub(super) fn disconnect_replica(&mut self, n: NodeIx) {
        if let Some(connection) = self.nodes[n].process.as_mut().and_then(|p| p.connection.take()) {
            self.connections.remove(&connection);
        }
    }

    /// Ends all connections of a process that is gone. The other sides notice at once.
    pub(super) fn sever(&mut self, n: NodeIx) {
        let gone: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.leader == n || c.replica == n).map(|(id, _)| *id).collect();
        for connection in gone {
            let Some(c) = self.connections.get(&connection) else { continue };
            let (leader, replica) = (c.leader, c.replica);
            if leader == n {
                self.drop_connection(connection);
            } else {
                self.connections.remove(&connection);
                let process = self.nodes[leader].process.as_ref().and_then(|p| p.view.get(&replica)).map(|e| e.process);
                if let Some(process) = process {
                    self.check_peer(leader, replica, process);
                }
            }
        }
    }

    /// A replica notices that its connection is gone.
    pub(super) fn connection_lost(&mut self, n: NodeIx, leader: (NodeIx, ProcessId)) {
        let Some(p) = self.nodes[n].process.as_ref().filter(|p| p.connection.is_none() && p.leader == Some(leader))
        else {
            return;
        };
        if !matches!(
            p.state,
            NodeState::PreReplica
                | NodeState::CatchingUp
                | NodeState::Clone
                | NodeState::Follower
                | NodeState::PreReadOnlyReplica
                | NodeState::ReadOnlyReplica
        ) {
            return;
        }
        self.check_peer(n, leader.0, leader.1);
        self.plan_connect(n, RETRY);
    }

    /// Those who are connected to a process that froze miss its heartbeats (700 ms interval, 700 ms time-out).
    pub(super) fn miss_heartbeats(&mut self, n: NodeIx) {
        let ours: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.leader == n || c.replica == n).map(|(id, _)| *id).collect();
        for connection in ours {
            let delay = self.random.latency.millis(1400, 2200);
            self.schedule(delay, Event::HeartbeatMissed { connection, frozen: n });
        }
    }

    pub(super) fn heartbeat_missed(&mut self, connection: u64, frozen: NodeIx) {
        if !self.nodes[frozen].frozen {
            return;
        }
        let Some(c) = self.connections.get(&connection) else { return };
        debug_assert!(c.leader == frozen || c.replica == frozen, "heartbeats are missed by the two ends only");
        // The frozen side notices when it wakes: what happens to it is deferred.
        self.drop_connection(connection);
    }

    /// Sends a replica that is behind what it may be sent by now.
    pub(super) fn pump(&mut self, connection: u64) {
        let now = self.now;
        let rate = self.config.catch_up_bytes_per_second.max(1);
        let Some(c) = self.connections.get_mut(&connection).filter(|c| !c.current) else { return };
        let log = &self.nodes[c.leader].log;
        let earned = u128::from(rate) * now.saturating_sub(c.pumped).as_micros() / 1_000_000;
        c.credit = c.credit.saturating_add(u64::try_from(earned).unwrap_or(u64::MAX));
        c.pumped = now;
        let before = c.sent;
        let mut next = None;
        while let Some(stored) = log.get(c.sent) {
            let size = stored.record.size;
            if size > c.credit {
                next = Some(size - c.credit);
                break;
            }
            c.credit -= size;
            c.bytes += size;
            c.sent += 1;
        }
        let (sent, moved) = (c.sent, c.sent > before);
        c.current = next.is_none();
        if moved {
            self.deliver_later(connection, sent);
        }
        if let Some(missing) = next {
            let wait = Duration::from_secs_f64(missing as f64 / rate as f64).max(PUMP);
            self.schedule(wait, Event::Pump { connection });
        }
    }

    fn deliver_later(&mut self, connection: u64, len: usize) {
        let delay = self.random.latency.micros(400, 2500);
        let Some(c) = self.connections.get_mut(&connection) else { return };
        let at = (self.now + delay).max(c.arrives);
        c.arrives = at;
        self.schedule_at(at, Event::Deliver { connection, len });
    }

    /// Appends a record to a leader's log and sends it to who is up to date.
    pub(super) fn append(&mut self, n: NodeIx, stored: Arc<Stored>) {
        let size = stored.record.size;
        self.nodes[n].log.push(stored);
        let len = self.nodes[n].log.len();
        let current: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.leader == n && c.current).map(|(id, _)| *id).collect();
        for connection in current {
            if let Some(c) = self.connections.get_mut(&connection) {
                c.sent = len;
                c.bytes += size;
            }
            self.deliver_later(connection, len);
        }
        self.advance_commit(n);
        self.touch();
    }

    /// Records arrive at a replica.
    pub(super) fn deliver(&mut self, connection: u64, len: usize) {
        let Some(c) = self.connections.get(&connection) else { return };
        let (leader, n) = (c.leader, c.replica);
        let have = self.nodes[n].log.len();
        let new: Vec<Arc<Stored>> =
            self.nodes[leader].log.records().get(have..len).map_or_else(Vec::new, <[_]>::to_vec);
        for stored in new {
            self.nodes[n].log.push(stored);
        }
        if self.own_state(n) == NodeState::CatchingUp
            && self.nodes[leader].log.end() - self.nodes[n].log.end() <= CLONE_THRESHOLD
        {
            self.enter(n, NodeState::Clone);
        }
        let delay = self.random.latency.micros(300, 1500);
        self.schedule(delay, Event::Acknowledge { connection, len });
        let committed = self.nodes[leader].committed;
        self.learn_commit(n, committed);
        self.touch();
    }

    /// A replica's acknowledgement arrives at the leader.
    pub(super) fn acknowledge(&mut self, connection: u64, len: usize) {
        let Some(c) = self.connections.get_mut(&connection) else { return };
        c.acknowledged = c.acknowledged.max(len);
        let leader = c.leader;
        self.advance_commit(leader);
        let committed = self.nodes[leader].committed;
        self.announce(connection, committed);
    }

    /// Tells one replica how far the log is committed.
    fn announce(&mut self, connection: u64, len: usize) {
        let delay = self.random.latency.micros(300, 1500);
        self.schedule(delay, Event::Announce { connection, len });
    }

    pub(super) fn announced(&mut self, connection: u64, len: usize) {
        let Some(n) = self.connections.get(&connection).map(|c| c.replica) else { return };
        self.learn_commit(n, len);
    }

    fn learn_commit(&mut self, n: NodeIx, len: usize) {
        let node = &mut self.nodes[n];
        let known = len.min(node.log.len());
        if known > node.committed {
            node.committed = known;
            self.touch();
        }
    }

    pub(super) fn assigned(&mut self, connection: u64) {
        let Some(n) = self.connections.get(&connection).map(|c| c.replica) else { return };
        if self.own_state(n) == NodeState::Clone {
            self.enter(n, NodeState::Follower);
        }
    }

    /// Commits what a majority of all voters, the leader included, has; of an earlier reign only together with this reign's epoch.
    pub(super) fn advance_commit(&mut self, n: NodeIx) {
        let Some(p) =
            self.nodes[n].up().filter(|p| p.accepts && matches!(p.state, NodeState::Leader | NodeState::PreLeader))
        else {
            return;
        };
        if p.won < self.nodes[n].promised {
            return;
        }
        let inaugurated_at = p.inaugurated_at;
        let mut have = vec![0; self.config.voters];
        have[n] = self.nodes[n].log.len();
        for c in self.connections.values().filter(|c| c.leader == n && self.nodes[c.replica].voter) {
            have[c.replica] = have[c.replica].max(c.acknowledged);
        }
        have.sort_unstable_by(|a, b| b.cmp(a));
        let len = have[self.config.voters / 2];
        if len < inaugurated_at || len <= self.nodes[n].committed {
            return;
        }
        let before = self.nodes[n].committed;
        self.nodes[n].committed = len;
        debug_assert!(
            self.truth
                .len()
                .min(len)
                .checked_sub(1)
                .is_none_or(|last| { self.nodes[n].log.get(last).is_some_and(|s| Arc::ptr_eq(s, &self.truth[last])) }),
            "what a quorum has acknowledged stays"
        );
        for at in self.truth.len()..len {
            if let Some(stored) = self.nodes[n].log.get(at) {
                self.truth.push(Arc::clone(stored));
            }
        }
        self.touch();
        self.complete_writes(n);
        let caught_up: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.leader == n && c.current).map(|(id, _)| *id).collect();
        for connection in caught_up {
            self.announce(connection, len);
        }
        if before < inaugurated_at && self.own_state(n) == NodeState::PreLeader {
            self.await_inauguration(n);
        }
    }
}
