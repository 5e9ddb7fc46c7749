//! Elections, resignation, inauguration, and what a leader checks by the clock.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::log::{EPOCH_STREAM, Epoch, Stored};
use super::node::IdCache;
use super::{Event, World};
use crate::domain::cluster::NodeState;
use crate::domain::ids::ProcessId;
use crate::sim::model::{Fault, NodeIx, Reachability, Record};

/// `LeaderElectionTimeoutMs`: what a failed round costs.
const ROUND: Duration = Duration::from_secs(1);
/// How often a leader counts its followers.
const QUORUM_CHECK: Duration = Duration::from_millis(500);
/// `NoQuorumTimeout`: a leader with too few followers for so long retires.
const NO_QUORUM: Duration = Duration::from_secs(3);
/// Role assignment, request manager.
const TICK: Duration = Duration::from_secs(1);

/// The election that is on, if one is.
#[derive(Debug, Default)]
pub(super) struct Election {
    /// Number of the round that is due; rounds of other numbers are void.
    round: u64,
    /// Number of elections that were decided.
    decided: u64,
    due: bool,
    callers: BTreeSet<NodeIx>,
    first_caller: Option<NodeIx>,
    /// Who won last and when, until it is inaugurated.
    elected: Option<(ProcessId, Duration)>,
}

impl World {
    fn majority(&self) -> usize {
        self.config.voters / 2 + 1
    }

    /// Voters that take part in elections now.
    fn electors(&self) -> Vec<NodeIx> {
        (0..self.config.voters)
            .filter(|&n| self.reachability(n) == Reachability::Answers)
            .filter(|&n| {
                matches!(
                    self.own_state(n),
                    NodeState::Unknown
                        | NodeState::PreReplica
                        | NodeState::CatchingUp
                        | NodeState::Clone
                        | NodeState::Follower
                        | NodeState::PreLeader
                        | NodeState::Leader
                        | NodeState::ResigningLeader
                )
            })
            .collect()
    }

    /// A node wants an election, after a delay.
    pub(super) fn call_election(&mut self, n: NodeIx, delay: Duration) {
        self.election.callers.insert(n);
        if !self.election.due {
            self.election.first_caller = Some(n);
            let views = self.random.election.millis(10, 110);
            self.plan_round(delay + views);
        }
    }

    fn plan_round(&mut self, delay: Duration) {
        self.election.due = true;
        self.election.round += 1;
        let number = self.election.round;
        self.schedule(delay, Event::ElectionRound { number });
    }

    /// Whether a node that called for an election still needs one.
    fn needs_election(&self, n: NodeIx) -> bool {
        let Some(p) = self.nodes[n].up().filter(|_| !self.nodes[n].frozen) else { return false };
        let leader = p
            .leader
            .and_then(|(leader, id)| p.view.get(&leader).filter(|e| e.process == id && e.alive))
            .map(|e| e.state);
        match p.state {
            NodeState::Unknown => true,
            NodeState::PreReplica | NodeState::CatchingUp | NodeState::Clone | NodeState::Follower => {
                !matches!(leader, Some(NodeState::PreLeader | NodeState::Leader | NodeState::ResigningLeader))
            }
            NodeState::Leader => p.view.iter().any(|(m, e)| *m != n && e.alive && e.state == NodeState::Leader),
            NodeState::Initializing
            | NodeState::DiscoverLeader
            | NodeState::PreLeader
            | NodeState::Manager
            | NodeState::ShuttingDown
            | NodeState::Shutdown
            | NodeState::ReadOnlyLeaderless
            | NodeState::PreReadOnlyReplica
            | NodeState::ReadOnlyReplica
            | NodeState::ResigningLeader
            | NodeState::Unrecognized => false,
        }
    }

    /// One round: without a majority it fails; else the first majority of answers decides.
    pub(super) fn election_round(&mut self, number: u64) {
        if number != self.election.round {
            return;
        }
        let callers: BTreeSet<NodeIx> =
            self.election.callers.iter().copied().filter(|&n| self.needs_election(n)).collect();
        self.election.callers = callers;
        self.election.due = false;
        if self.election.callers.is_empty() {
            return;
        }
        let electors = self.electors();
        // Who won a moment ago is left in peace until it leads, or has had its time.
        let begun = self.election.elected.is_some_and(|(id, at)| {
            self.now.saturating_sub(at) < 2 * ROUND && electors.iter().any(|&n| self.process_id(n) == id)
        });
        if begun {
            self.plan_round(ROUND);
            return;
        }
        // A member that hangs may be the round's coordinator: then the round is lost.
        let hangs = (0..self.config.voters).any(|n| self.reachability(n) == Reachability::Silent);
        if electors.len() < self.majority() || (hangs && self.random.election.percent(50)) {
            self.plan_round(ROUND);
            return;
        }
        let Some(winner) = self.winner(&electors) else {
            self.plan_round(ROUND);
            return;
        };
        self.election.callers.clear();
        self.elect(winner, &electors);
    }

    /// The winner among the first majority of answers, or the leader before if it lives and does not resign. `None` if that one is
    /// believed alive and does not answer.
    fn winner(&mut self, electors: &[NodeIx]) -> Option<NodeIx> {
        // Whoever called first is near the coordinator more often than not: its answer is among the first.
        let first = self.election.first_caller;
        let mut answers: Vec<(u64, NodeIx)> = electors
            .iter()
            .map(|&n| (self.random.election.below(if Some(n) == first { 250 } else { 1000 }), n))
            .collect();
        answers.sort_unstable();
        let answers: Vec<NodeIx> = answers.into_iter().take(self.majority()).map(|(_, n)| n).collect();

        let resigned = electors.iter().copied().find(|&n| self.resigning.contains(&self.process_id(n)));
        if let Some(n) = resigned
            && let Some(times) = self
                .config
                .faults
                .iter()
                .find_map(|f| if let Fault::ResignedLeaderWinsAgain { times } = f { Some(*times) } else { None })
            && self.play(|f| matches!(f, Fault::ResignedLeaderWinsAgain { .. }), times).is_some()
        {
            return Some(n);
        }
        let newer = self.version_at_least(24, 10);
        let best = answers.iter().copied().max_by_key(|&n| {
            let log = &self.nodes[n].log;
            let (priority, id) =
                self.nodes[n].process.as_ref().map_or((0, ProcessId(uuid::Uuid::nil())), |p| (p.priority, p.id));
            let resigns = newer && self.resigning.contains(&id);
            (log.epoch().map_or(-1, |e| e.number), log.end(), Reverse(resigns), priority, id)
        })?;
        let Some(epoch) = self.nodes[best].log.epoch() else { return Some(best) };
        let before = epoch.leader;
        if self.resigning.contains(&before) {
            return Some(best);
        }
        if let Some(n) = electors.iter().copied().find(|&n| self.process_id(n) == before) {
            return Some(n);
        }
        let believed = answers.iter().any(|&n| {
            self.nodes[n].process.as_ref().is_some_and(|p| p.view.values().any(|e| e.process == before && e.alive))
        });
        (!believed).then_some(best)
    }

    /// All electors have promised: from now on none of them acknowledges anything to another leader.
    fn elect(&mut self, winner: NodeIx, electors: &[NodeIx]) {
        let leader = (winner, self.process_id(winner));
        self.resigning.clear();
        self.election.elected = Some((leader.1, self.now));
        self.election.decided += 1;
        let number = self.election.decided;
        if let Some(p) = &mut self.nodes[winner].process {
            p.won = number;
        }
        for &n in electors {
            self.nodes[n].promised = number;
        }
        for &n in electors.iter().filter(|n| **n != winner) {
            let elsewhere = self.nodes[n]
                .process
                .as_ref()
                .and_then(|p| p.connection)
                .filter(|c| self.connections.get(c).is_none_or(|c| c.leader != winner));
            if let Some(connection) = elsewhere {
                self.drop_connection(connection);
            }
        }
        let first = self.random.election.millis(3, 15);
        for n in 0..self.config.voters {
            if self.reachability(n) != Reachability::Answers {
                continue;
            }
            let later = if n == winner { Duration::ZERO } else { self.random.election.millis(2, 35) };
            let generation = self.nodes[n].generation;
            self.schedule(first + later, Event::ElectionsDone { n, generation, leader });
        }
    }

    /// A voter learns who won.
    pub(super) fn elections_done(&mut self, n: NodeIx, leader: (NodeIx, ProcessId)) {
        let state = self.own_state(n);
        let takes_part = !matches!(
            state,
            NodeState::Initializing | NodeState::DiscoverLeader | NodeState::ShuttingDown | NodeState::Shutdown
        );
        let Some(p) = self.nodes[n].process.as_mut().filter(|_| takes_part) else { return };
        // The entries keep their time: whatever somebody knows from later on replaces these guesses.
        for (m, entry) in &mut p.view {
            if *m != n {
                entry.state = if *m == leader.0 { NodeState::Leader } else { NodeState::Unknown };
            }
        }
        let same = p.leader == Some(leader);
        if n == leader.0 {
            if state == NodeState::Leader {
                self.election.elected = None;
                self.write_epoch(n);
                self.refresh(n);
            } else if state != NodeState::PreLeader {
                self.ascend(n, leader);
            }
        } else if !same
            || matches!(
                state,
                NodeState::Leader | NodeState::PreLeader | NodeState::ResigningLeader | NodeState::Unknown
            )
        {
            self.leave_leadership(n);
            self.follow(n, leader);
        }
        self.touch();
    }

    /// A winner begins its inauguration.
    fn ascend(&mut self, n: NodeIx, leader: (NodeIx, ProcessId)) {
        self.leave_leadership(n);
        self.disconnect_replica(n);
        let generation = self.nodes[n].generation;
        let Some(p) = &mut self.nodes[n].process else { return };
        p.reign += 1;
        p.leader = Some(leader);
        p.attempt += 1;
        let reign = p.reign;
        self.enter(n, NodeState::PreLeader);
        let delay = self.random.election.millis(10, 60);
        self.schedule(delay, Event::Inaugurate { n, generation, reign });
    }

    fn reigns(&self, n: NodeIx, reign: u64) -> Option<NodeState> {
        self.nodes[n].up().filter(|p| p.reign == reign).map(|p| p.state)
    }

    /// The winner writes its epoch and lets replicas subscribe.
    pub(super) fn inaugurate(&mut self, n: NodeIx, reign: u64) {
        if self.reigns(n, reign) != Some(NodeState::PreLeader) {
            return;
        }
        self.write_epoch(n);
        let len = self.nodes[n].log.len();
        if let Some(p) = &mut self.nodes[n].process {
            p.accepts = true;
            p.inaugurated_at = len;
            p.alone_since = None;
            p.ids = IdCache::default();
        }
        self.refresh(n);
        self.start_ticks(n);
        self.advance_commit(n);
    }

    /// The epoch record is committed: the winner leads, a moment later.
    pub(super) fn await_inauguration(&mut self, n: NodeIx) {
        let generation = self.nodes[n].generation;
        let Some(reign) = self.nodes[n].process.as_ref().map(|p| p.reign) else { return };
        let slow = self.version_at_least(25, 0);
        let delay = self.random.election.millis(2, if slow { 900 } else { 40 });
        self.schedule(delay, Event::Inaugurated { n, generation, reign });
    }

    pub(super) fn inaugurated(&mut self, n: NodeIx, reign: u64) {
        if self.reigns(n, reign) == Some(NodeState::PreLeader) {
            self.elections += 1;
            self.election.elected = None;
            self.enter(n, NodeState::Leader);
            self.gossip_updated(n);
        }
    }

    /// Writes the record that begins an epoch.
    pub(super) fn write_epoch(&mut self, n: NodeIx) {
        let leader = self.process_id(n);
        let id = self.random.ids.uuid();
        let record_id = self.random.ids.uuid();
        let log = &self.nodes[n].log;
        let position = log.end();
        // The number of the election: no two leaders begin an epoch of the same number.
        let won = self.nodes[n].process.as_ref().map_or(0, |p| p.won);
        let number = i32::try_from(won).unwrap_or(i32::MAX);
        let revision = log.last_revision(EPOCH_STREAM).map_or(0, |r| r + 1);
        let epoch = Epoch { number, id, position, leader };
        let data = format!(
            r#"{{"leaderInstanceId":"{}","epochNumber":{number},"epochPosition":{position},"epochId":"{id}"}}"#,
            leader.0
        )
        .into_bytes();
        let record = Record {
            position,
            size: super::write::record_size(EPOCH_STREAM, data.len(), 0),
            stream: EPOCH_STREAM.to_owned(),
            revision,
            id: record_id,
            event_type: EPOCH_STREAM.to_owned(),
            is_json: true,
            data,
            metadata: Vec::new(),
            created_ticks: self.ticks(),
        };
        self.append(n, Arc::new(Stored { record, epoch: Some(epoch) }));
    }

    /// Starts what a leader does by the clock.
    pub(super) fn start_ticks(&mut self, n: NodeIx) {
        let generation = self.nodes[n].generation;
        let Some(reign) = self.nodes[n].process.as_ref().map(|p| p.reign) else { return };
        self.schedule(QUORUM_CHECK, Event::QuorumTick { n, generation, reign });
        let role = self.random.election.millis(0, 1000);
        self.schedule(role, Event::RoleTick { n, generation, reign });
        let request = self.random.election.millis(0, 1000);
        self.schedule(request, Event::RequestTick { n, generation, reign });
    }

    /// A leader with too few voters subscribed for three seconds retires.
    pub(super) fn quorum_tick(&mut self, n: NodeIx, reign: u64) {
        let Some(state) = self.reigns(n, reign) else { return };
        let followers = self.connections.values().filter(|c| c.leader == n && self.nodes[c.replica].voter).count();
        let enough = followers >= self.config.voters / 2;
        let now = self.now;
        let generation = self.nodes[n].generation;
        let Some(p) = &mut self.nodes[n].process else { return };
        let since = if enough { None } else { Some(p.alone_since.unwrap_or(now)) };
        p.alone_since = since;
        let retires = since.is_some_and(|s| now.saturating_sub(s) >= NO_QUORUM)
            && matches!(state, NodeState::Leader | NodeState::PreLeader);
        if retires {
            self.abdicate(n);
        } else {
            self.schedule(QUORUM_CHECK, Event::QuorumTick { n, generation, reign });
        }
    }

    /// From leading to knowing no leader, and calling an election.
    fn abdicate(&mut self, n: NodeIx) {
        self.leave_leadership(n);
        if let Some(p) = &mut self.nodes[n].process {
            p.leader = None;
        }
        self.enter(n, NodeState::Unknown);
        self.call_election(n, Duration::ZERO);
    }

    /// Stops leading: subscriptions end, ticks are void, writes are cancelled.
    pub(super) fn leave_leadership(&mut self, n: NodeIx) {
        let Some(p) = &mut self.nodes[n].process else { return };
        p.reign += 1;
        p.accepts = false;
        p.alone_since = None;
        let state = p.state;
        if matches!(state, NodeState::Leader | NodeState::PreLeader | NodeState::ResigningLeader) {
            self.cancel_writes(n);
        }
        let ours: Vec<u64> = self.connections.iter().filter(|(_, c)| c.leader == n).map(|(id, _)| *id).collect();
        for connection in ours {
            self.drop_connection(connection);
        }
    }

    /// The leader gives its clones the follower's role.
    pub(super) fn role_tick(&mut self, n: NodeIx, reign: u64) {
        if self.reigns(n, reign).is_none() {
            return;
        }
        let generation = self.nodes[n].generation;
        let clones: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.leader == n && self.own_state(c.replica) == NodeState::Clone)
            .map(|(id, _)| *id)
            .collect();
        for connection in clones {
            let delay = self.random.latency.micros(500, 3000);
            self.schedule(delay, Event::Assign { connection });
        }
        self.schedule(TICK, Event::RoleTick { n, generation, reign });
    }

    /// The request manager's tick: writes that waited too long end, and a resigning leader with none left retires.
    pub(super) fn request_tick(&mut self, n: NodeIx, reign: u64) {
        let Some(state) = self.reigns(n, reign) else { return };
        self.expire_writes(n);
        if state == NodeState::ResigningLeader {
            self.abdicate(n);
        } else {
            let generation = self.nodes[n].generation;
            self.schedule(TICK, Event::RequestTick { n, generation, reign });
        }
    }

    /// Asks a node to resign. Nothing happens unless it leads and a majority of voters answers.
    pub fn resign(&mut self, n: NodeIx) {
        if self.own_state(n) != NodeState::Leader {
            return;
        }
        let times = self
            .config
            .faults
            .iter()
            .find_map(|f| if let Fault::ResignationsIgnored { times } = f { Some(*times) } else { None });
        if times.is_some_and(|t| self.play(|f| matches!(f, Fault::ResignationsIgnored { .. }), t).is_some()) {
            return;
        }
        self.resigning.insert(self.process_id(n));
        let generation = self.nodes[n].generation;
        let delay = self.random.election.millis(5, 60);
        self.schedule(delay, Event::ResignationAgreed { n, generation });
    }

    pub(super) fn resignation_agreed(&mut self, n: NodeIx) {
        if self.own_state(n) == NodeState::Leader && self.electors().len() >= self.majority() {
            self.enter(n, NodeState::ResigningLeader);
        }
    }
}
