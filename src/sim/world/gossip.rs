//! Gossip: what each process believes of the others, and how it comes to.

use std::time::Duration;

use uuid::Uuid;

use super::node::Entry;
use super::{Event, World};
use crate::domain::cluster::NodeState;
use crate::domain::ids::ProcessId;
use crate::sim::model::{NodeIx, Reachability};

/// Rounds of a new process that come quickly (`GossipServiceBase`).
pub(super) const STARTUP_ROUNDS: u32 = 20;
const STARTUP_INTERVAL: Duration = Duration::from_millis(100);
/// `GossipIntervalMs`.
const INTERVAL: Duration = Duration::from_secs(2);
/// `GossipTimeoutMs`.
pub(super) const TIMEOUT: Duration = Duration::from_millis(2500);
/// `DeadMemberRemovalPeriodSec`.
const RETENTION: Duration = Duration::from_secs(1800);

fn signed(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// Whether what a third party says of a member replaces what is known.
fn more_up_to_date(theirs: &Entry, ours: &Entry) -> bool {
    (theirs.epoch, theirs.writer, theirs.at) > (ours.epoch, ours.writer, ours.at)
}

impl World {
    /// What a process says of itself now.
    pub(super) fn own_entry(&self, n: NodeIx) -> Option<Entry> {
        let node = &self.nodes[n];
        let p = node.process.as_ref()?;
        let epoch = node.log.epoch();
        let indexed = node.committed.checked_sub(1).and_then(|last| node.log.get(last)).filter(|_| !p.hides_commit);
        let writer = signed(node.log.end());
        Some(Entry {
            process: p.id,
            at: self.now,
            state: p.state,
            alive: true,
            last_commit: indexed.map_or(-1, |s| signed(s.record.position)),
            writer,
            chaser: writer,
            epoch_position: epoch.map_or(-1, |e| signed(e.position)),
            epoch: epoch.map_or(-1, |e| e.number),
            epoch_id: epoch.map_or(Uuid::nil(), |e| e.id),
            priority: p.priority,
        })
    }

    /// Renews a process's entry of itself: at its own gossip rounds, when gossip arrives, and when its state changes.
    pub(super) fn refresh(&mut self, n: NodeIx) {
        if let (Some(entry), Some(p)) = (self.own_entry(n), &mut self.nodes[n].process) {
            p.view.insert(n, entry);
        }
    }

    /// A round: exchange with one random other member, dead ones and seeds included.
    pub(super) fn gossip(&mut self, n: NodeIx, generation: u64) {
        let Some(p) = &mut self.nodes[n].process else { return };
        p.gossip_rounds = p.gossip_rounds.saturating_add(1);
        let interval = if p.gossip_rounds < STARTUP_ROUNDS { STARTUP_INTERVAL } else { INTERVAL };
        let others: Vec<NodeIx> = p.view.keys().copied().filter(|m| *m != n).collect();
        let delay = interval + self.random.gossip.millis(0, 10);
        self.schedule(delay, Event::Gossip { n, generation });
        let Some(peer) = self.random.gossip.pick(&others) else { return };
        self.refresh(n);
        let failed = Event::GossipFailed { n, generation, peer, asked: self.now };
        match self.reachability(peer) {
            Reachability::Answers => self.exchange(n, peer),
            Reachability::Refused => {
                let delay = self.random.gossip.millis(2, 20);
                self.schedule(delay, failed);
            }
            Reachability::Silent => self.schedule(TIMEOUT, failed),
        }
    }

    fn exchange(&mut self, from: NodeIx, to: NodeIx) {
        self.merge(to, from);
        self.refresh(to);
        self.merge(from, to);
        self.gossip_updated(to);
        self.gossip_updated(from);
    }

    /// Merges into `n`'s view what `peer` says: oneself one knows best, of itself the peer knows best, of a third party the
    /// higher epoch, then the longer log, then the later time counts; but life and state of one's leader one sees for oneself.
    fn merge(&mut self, n: NodeIx, peer: NodeIx) {
        let Some(theirs) = self.nodes[peer].process.as_ref().map(|p| p.view.clone()) else { return };
        let now = self.now;
        let Some(p) = &mut self.nodes[n].process else { return };
        for (m, entry) in theirs {
            if m == n {
                continue;
            }
            match p.view.get(&m) {
                Some(_) if m == peer => {
                    p.view.insert(m, entry);
                }
                Some(ours) if more_up_to_date(&entry, ours) => {
                    let mine = p.leader.is_some_and(|(_, leader)| leader == entry.process);
                    let seen =
                        if mine { Entry { alive: ours.alive, state: ours.state, at: now, ..entry } } else { entry };
                    p.view.insert(m, seen);
                }
                Some(_) => {}
                None => {
                    p.view.insert(m, entry);
                }
            }
        }
        let settled = !matches!(
            p.state,
            NodeState::Initializing | NodeState::DiscoverLeader | NodeState::Unknown | NodeState::ReadOnlyLeaderless
        );
        if settled {
            p.view.retain(|_, e| e.alive || e.at + RETENTION > now);
        }
        self.touch();
    }

    /// A member did not answer gossip. Of the leader the replication connection decides.
    pub(super) fn gossip_failed(&mut self, n: NodeIx, peer: NodeIx, asked: Duration) {
        let Some(p) = &mut self.nodes[n].process else { return };
        let leads = p.leader.is_some_and(|(leader, _)| leader == peer);
        let heard = p.view.get(&peer).is_some_and(|e| e.at > asked && e.alive);
        if !leads && !heard {
            self.bury(n, peer);
        }
    }

    /// The replication connection to a member is gone, and it was asked directly: its view if it answers, else it is dead.
    pub(super) fn peer_lost(&mut self, n: NodeIx, peer: NodeIx, process: ProcessId) {
        if self.reachability(peer) == Reachability::Answers {
            self.merge(n, peer);
            self.gossip_updated(n);
        } else if self.nodes[n].process.as_ref().and_then(|p| p.view.get(&peer)).is_some_and(|e| e.process == process) {
            self.bury(n, peer);
        }
    }

    /// Marks a member dead, in this view. Its last state and numbers stay.
    fn bury(&mut self, n: NodeIx, peer: NodeIx) {
        let now = self.now;
        if let Some(entry) = self.nodes[n].process.as_mut().and_then(|p| p.view.get_mut(&peer))
            && entry.alive
        {
            entry.alive = false;
            entry.at = now;
            self.touch();
            self.gossip_updated(n);
        }
    }

    /// Asks a member directly after its replication connection was lost.
    pub(super) fn check_peer(&mut self, n: NodeIx, peer: NodeIx, process: ProcessId) {
        let generation = self.nodes[n].generation;
        let delay = match self.reachability(peer) {
            Reachability::Silent => TIMEOUT,
            Reachability::Refused => self.random.gossip.millis(20, 300),
            Reachability::Answers => self.random.gossip.millis(5, 100),
        };
        self.schedule(delay, Event::PeerLost { n, generation, peer, process });
    }

    /// The one living leader in a view; `None` if there is none or more than one.
    pub(super) fn sole_leader(&self, n: NodeIx) -> Option<(NodeIx, ProcessId)> {
        let p = self.nodes[n].process.as_ref()?;
        let mut leaders = p.view.iter().filter(|(_, e)| e.alive && e.state == NodeState::Leader);
        match (leaders.next(), leaders.next()) {
            (Some((&m, entry)), None) => Some((m, entry.process)),
            _ => None,
        }
    }

    /// What a process makes of a view that may have changed.
    pub(super) fn gossip_updated(&mut self, n: NodeIx) {
        let Some(p) = &self.nodes[n].process else { return };
        // What the view says of the leader this process believes in; nothing if it is another process by now.
        let leader = p
            .leader
            .and_then(|(leader, process)| p.view.get(&leader).filter(|e| e.process == process && e.alive))
            .map(|e| e.state);
        match p.state {
            NodeState::DiscoverLeader => {
                if let Some(found) = self.sole_leader(n) {
                    self.follow(n, found);
                }
            }
            NodeState::PreReplica | NodeState::CatchingUp | NodeState::Clone | NodeState::Follower => {
                if !matches!(leader, Some(NodeState::PreLeader | NodeState::Leader | NodeState::ResigningLeader)) {
                    self.call_election(n, Duration::ZERO);
                }
            }
            NodeState::ReadOnlyLeaderless => {
                if let Some(found) = self.sole_leader(n) {
                    self.follow(n, found);
                }
            }
            NodeState::PreReadOnlyReplica | NodeState::ReadOnlyReplica => {
                if leader != Some(NodeState::Leader) {
                    self.disconnect_replica(n);
                    if let Some(p) = &mut self.nodes[n].process {
                        p.leader = None;
                    }
                    self.enter(n, NodeState::ReadOnlyLeaderless);
                }
            }
            NodeState::Leader => {
                if p.view.iter().any(|(m, e)| *m != n && e.alive && e.state == NodeState::Leader) {
                    let delay = self.random.election.millis(150, 350);
                    self.call_election(n, delay);
                }
            }
            // Whoever missed the last election has it made up for.
            NodeState::Unknown => self.call_election(n, Duration::ZERO),
            NodeState::Initializing
            | NodeState::PreLeader
            | NodeState::Manager
            | NodeState::ShuttingDown
            | NodeState::Shutdown
            | NodeState::ResigningLeader
            | NodeState::Unrecognized => {}
        }
    }
}
