//! Processes: start, end, supervision, freezing, and the change of their state.

use std::collections::BTreeMap;
use std::time::Duration;

use super::node::{Entry, IdCache, Life, Process};
use super::{Event, World};
use crate::domain::cluster::NodeState;
use crate::domain::ids::ProcessId;
use crate::domain::instance::InstanceState;
use crate::sim::model::{Fault, NodeIx};

/// `DiscoverLeader` lasts so long at most (`ClusterVNodeController`).
const DISCOVERY: Duration = Duration::from_secs(3);

impl World {
    /// A process as it is when it begins.
    pub(super) fn new_process(&mut self, n: NodeIx) -> Process {
        let seeds = (0..self.config.voters).filter(|m| *m != n).map(|m| (m, Entry::seed(self.now)));
        let view: BTreeMap<NodeIx, Entry> = seeds.collect();
        Process {
            id: ProcessId(self.random.ids.uuid()),
            state: NodeState::Initializing,
            priority: 0,
            live: false,
            view,
            gossip_rounds: 0,
            leader: None,
            connection: None,
            attempt: 0,
            reign: 0,
            won: 0,
            accepts: false,
            inaugurated_at: 0,
            alone_since: None,
            ids: IdCache::default(),
            hides_commit: true,
            exits_once: false,
            told_to_end: None,
        }
    }

    /// Starts a process that answers after `boot`.
    pub(super) fn start_process(&mut self, n: NodeIx, boot: Duration) {
        let node = &mut self.nodes[n];
        node.life = Life::Starting;
        node.generation += 1;
        let generation = node.generation;
        self.schedule(boot, Event::ProcessAnswers { n, generation });
        self.touch();
    }

    /// Starts a process that accepts connections and answers none of them, for a time or for ever.
    pub(super) fn mute_process(&mut self, n: NodeIx, for_: Option<Duration>) {
        let node = &mut self.nodes[n];
        node.life = Life::Mute;
        node.generation += 1;
        let generation = node.generation;
        if let Some(d) = for_ {
            self.schedule(d, Event::ProcessSpeaks { n, generation });
        }
        self.touch();
    }

    /// A mute process comes to its senses.
    pub(super) fn process_speaks(&mut self, n: NodeIx, generation: u64) {
        if self.nodes[n].generation == generation && self.nodes[n].life == Life::Mute {
            self.process_begins(n);
        }
    }

    /// The process listens. One that has to cut its log does so before; from 24.6 on it exits after that.
    pub(super) fn process_answers(&mut self, n: NodeIx, generation: u64) {
        let node = &mut self.nodes[n];
        if node.generation != generation || node.life != Life::Starting {
            return;
        }
        if let Some(len) = node.cut_to.take() {
            node.log.truncate(len);
            node.committed = node.committed.min(len);
            if self.version_at_least(24, 6) {
                self.end_process(n);
                self.await_supervisor(n);
                return;
            }
        }
        self.process_begins(n);
    }

    fn process_begins(&mut self, n: NodeIx) {
        let mut process = self.new_process(n);
        process.exits_once = self.play(|f| *f == Fault::ExitsOnceAfterRejoining { node: n }, 1).is_some();
        let node = &mut self.nodes[n];
        node.life = Life::Up;
        let generation = node.generation;
        node.process = Some(process);
        self.refresh(n);
        let first = self.random.gossip.millis(1, 60);
        self.schedule(first, Event::Gossip { n, generation });
        let ready = self.random.lifecycle.millis(20, 250);
        self.schedule(ready, Event::ProcessReady { n, generation });
        self.touch();
    }

    /// Storage services are up.
    pub(super) fn process_ready(&mut self, n: NodeIx) {
        let generation = self.nodes[n].generation;
        let voter = self.nodes[n].voter;
        if let Some(p) = &mut self.nodes[n].process {
            p.hides_commit = false;
        }
        if !voter {
            self.enter(n, NodeState::ReadOnlyLeaderless);
        } else if self.config.voters == 1 {
            self.enter(n, NodeState::Unknown);
            self.call_election(n, Duration::ZERO);
        } else {
            self.enter(n, NodeState::DiscoverLeader);
            self.schedule(DISCOVERY, Event::DiscoveryEnds { n, generation });
        }
        self.gossip_updated(n);
    }

    pub(super) fn discovery_ends(&mut self, n: NodeIx) {
        if self.own_state(n) == NodeState::DiscoverLeader {
            self.enter(n, NodeState::Unknown);
            self.call_election(n, Duration::ZERO);
        }
    }

    /// Asks a process to end (SIGTERM): it leaves without resigning, after 0.3 to 0.6 s.
    pub(super) fn terminate_process(&mut self, n: NodeIx, restart: bool) {
        let generation = self.nodes[n].generation;
        match self.nodes[n].life {
            Life::Off => {}
            Life::Starting | Life::Mute => {
                self.end_process(n);
                if restart {
                    self.await_supervisor(n);
                }
            }
            Life::Up => {
                // A frozen process obeys no signal but SIGKILL until it wakes; the end of its instance ends it all the same.
                if self.own_state(n) != NodeState::ShuttingDown && !self.nodes[n].frozen {
                    self.enter(n, NodeState::ShuttingDown);
                }
                if let Some(p) = &mut self.nodes[n].process {
                    p.told_to_end = Some(restart);
                }
                let delay = self.random.lifecycle.millis(300, 600);
                self.schedule(delay, Event::ProcessEnds { n, generation, restart });
            }
        }
    }

    pub(super) fn process_ends(&mut self, n: NodeIx, generation: u64, restart: bool) {
        if self.nodes[n].generation == generation && !self.nodes[n].frozen {
            self.end_process(n);
            if restart {
                self.await_supervisor(n);
            }
        }
    }

    /// The process is gone, at once, and its connections with it.
    pub(super) fn end_process(&mut self, n: NodeIx) {
        if self.nodes[n].life == Life::Off {
            return;
        }
        self.leave_leadership(n);
        let node = &mut self.nodes[n];
        node.life = Life::Off;
        node.generation += 1;
        node.frozen = false;
        node.deferred.clear();
        node.unwritten.clear();
        node.process = None;
        self.sever(n);
        self.end_writes_of(n);
        self.touch();
    }

    fn await_supervisor(&mut self, n: NodeIx) {
        let generation = self.nodes[n].generation;
        let delay = self.random.lifecycle.millis(950, 1100);
        self.schedule(delay, Event::ProcessStarts { n, generation });
    }

    pub(super) fn supervise(&mut self, n: NodeIx, generation: u64) {
        let node = &self.nodes[n];
        if node.generation == generation && node.life == Life::Off && node.machine.state == InstanceState::Running {
            let boot = self.process_boot();
            self.start_process(n, boot);
        }
    }

    /// Ends the process of a node as `/admin/shutdown` or SIGTERM does: exit code 0, and its supervisor leaves it at that.
    pub fn shutdown(&mut self, n: NodeIx) {
        self.terminate_process(n, false);
    }

    /// Kills the process of a node (SIGKILL); its supervisor starts it again after a second.
    pub fn kill(&mut self, n: NodeIx) {
        if self.nodes[n].life != Life::Off {
            self.end_process(n);
            self.await_supervisor(n);
        }
    }

    /// Freezes the process of a node (SIGSTOP): it answers nothing, its connections stay open.
    pub fn freeze(&mut self, n: NodeIx) {
        let node = &mut self.nodes[n];
        if node.life == Life::Up && !node.frozen {
            node.frozen = true;
            self.miss_heartbeats(n);
            self.touch();
        }
    }

    /// The volume of a node hangs: nothing is written there, so that a replica acknowledges nothing and a leader takes no write, while its sockets
    /// live and it goes on gossiping. It outlasts the process; the end of the machine ends it.
    pub fn hang_volume(&mut self, n: NodeIx) {
        if self.nodes[n].machine.state == InstanceState::Running {
            self.nodes[n].volume_hangs = true;
        }
    }

    /// The volume of a node crawls: it hangs, but for one moment out of every so many, in which all that awaits it is written.
    pub fn crawl_volume(&mut self, n: NodeIx, every: Duration) {
        self.hang_volume(n);
        self.schedule(every, Event::VolumeWrites { n, every });
    }

    /// Lets a volume that hangs go on, with all that awaited it at once.
    pub fn free_volume(&mut self, n: NodeIx) {
        self.nodes[n].volume_hangs = false;
        for event in std::mem::take(&mut self.nodes[n].unwritten) {
            self.schedule(Duration::ZERO, event);
        }
    }

    /// A volume that hangs writes what has awaited it, and hangs on until the next time.
    pub(super) fn volume_writes(&mut self, n: NodeIx, every: Duration) {
        if !self.nodes[n].volume_hangs {
            return;
        }
        self.nodes[n].volume_hangs = false;
        for event in std::mem::take(&mut self.nodes[n].unwritten) {
            self.happen(event);
        }
        self.nodes[n].volume_hangs = true;
        self.schedule(every, Event::VolumeWrites { n, every });
    }

    /// Lets a frozen process go on (SIGCONT), with all that it missed before it at once.
    pub fn unfreeze(&mut self, n: NodeIx) {
        let node = &mut self.nodes[n];
        if node.frozen {
            node.frozen = false;
            for event in std::mem::take(&mut node.deferred) {
                self.schedule(Duration::ZERO, event);
            }
            if let Some(restart) = self.nodes[n].process.as_ref().and_then(|p| p.told_to_end) {
                self.terminate_process(n, restart);
            }
            self.touch();
        }
    }

    /// Whether the machine runs and no process of its will answer without somebody's help: none is there and none is being started, or the
    /// one that is there is mute. (One that ended a moment ago and is about to be started again counts as well.)
    pub fn is_stuck(&self, n: NodeIx) -> bool {
        let node = &self.nodes[n];
        node.machine.state == InstanceState::Running && matches!(node.life, Life::Off | Life::Mute)
    }

    /// Sets the priority that a process holds in memory. A read-only replica ignores it.
    pub fn set_priority(&mut self, n: NodeIx, priority: i32) {
        let voter = self.nodes[n].voter;
        if let Some(p) = self.nodes[n].process.as_mut().filter(|_| voter) {
            p.priority = priority;
            self.touch();
        }
    }

    /// Changes the state of a process, its entry of itself, and what hangs on the state.
    pub(super) fn enter(&mut self, n: NodeIx, state: NodeState) {
        let Some(p) = &mut self.nodes[n].process else { return };
        if p.state == state {
            return;
        }
        let before = p.state;
        p.state = state;
        match state {
            NodeState::Follower | NodeState::ReadOnlyReplica | NodeState::Leader => p.live = true,
            NodeState::ShuttingDown => p.live = false,
            NodeState::Initializing
            | NodeState::DiscoverLeader
            | NodeState::Unknown
            | NodeState::PreReplica
            | NodeState::CatchingUp
            | NodeState::Clone
            | NodeState::PreLeader
            | NodeState::Manager
            | NodeState::Shutdown
            | NodeState::ReadOnlyLeaderless
            | NodeState::PreReadOnlyReplica
            | NodeState::ResigningLeader
            | NodeState::Unrecognized => {}
        }
        if before == NodeState::Leader {
            self.cancel_writes(n);
        }
        self.refresh(n);
        self.touch();
    }

    /// Whether the server is of this version or a later one.
    pub(super) fn version_at_least(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.config.version.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }
}
