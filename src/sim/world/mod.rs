//! The world: a cluster and its instances as a deterministic discrete-event model. No clock, no threads, no I/O: whoever
//! holds it says what time it is. The same seed and the same calls at the same times give the same bytes.
//!
//! Behaviour follows the source of EventStoreDB 23.10 and, where they differ, recordings of real clusters.

mod ec2;
mod election;
mod facts;
mod faults;
mod filter;
mod gossip;
mod handle;
mod lifecycle;
mod log;
mod node;
mod random;
mod replication;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

pub use ec2::StateChange;
pub use facts::{Facts, InstanceFacts};
pub use filter::CompiledFilter;
pub use handle::SimWorld;
pub use log::{AllPage, DELETED};
pub use random::Random;
pub use write::{WriteId, WriteStart};

use crate::domain::cluster::{MemberEntry, NodeState, ReplicaSubscription, View};
use crate::domain::ids::{Address, ProcessId};
use crate::sim::model::{
    AllStart, Direction, NodeIx, NotHandled, Reachability, ReadOutcome, Record, StreamPage, StreamStart, WorldConfig,
};
use ec2::Machine;
use election::Election;
use log::{Log, Stored};
use node::{Entry, Life, Node, Process};
use replication::Connection;
use write::PendingWrite;

/// Seconds from 1970 to the beginning of a world, unless it is said otherwise: 2026-01-01T00:00:00Z.
pub const EPOCH_SECONDS: i64 = 1_767_225_600;
/// Port of the replication endpoints.
pub const REPLICATION_PORT: u16 = 1112;

/// Something that falls due. Those with a generation are void once that process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    MachineStopped { n: NodeIx, transition: u64 },
    MachineStarted { n: NodeIx, transition: u64 },
    SomebodyStops { n: NodeIx, transition: u64 },
    Thaws { n: NodeIx },
    VolumeGoesOn { n: NodeIx },
    VolumeWrites { n: NodeIx, every: Duration },
    ProcessStarts { n: NodeIx, generation: u64 },
    ProcessSpeaks { n: NodeIx, generation: u64 },
    ProcessAnswers { n: NodeIx, generation: u64 },
    ProcessReady { n: NodeIx, generation: u64 },
    ProcessExits { n: NodeIx, generation: u64, restart: bool },
    ProcessEnds { n: NodeIx, generation: u64, restart: bool },
    DiscoveryEnds { n: NodeIx, generation: u64 },
    Gossip { n: NodeIx, generation: u64 },
    GossipFailed { n: NodeIx, generation: u64, peer: NodeIx, asked: Duration },
    PeerLost { n: NodeIx, generation: u64, peer: NodeIx, process: ProcessId },
    Connect { n: NodeIx, generation: u64, attempt: u64 },
    ConnectionLost { n: NodeIx, generation: u64, leader: (NodeIx, ProcessId) },
    HeartbeatMissed { connection: u64, frozen: NodeIx },
    Pump { connection: u64 },
    Deliver { connection: u64, len: usize },
    Acknowledge { connection: u64, len: usize },
    Announce { connection: u64, len: usize },
    Assign { connection: u64 },
    QuorumTick { n: NodeIx, generation: u64, reign: u64 },
    RoleTick { n: NodeIx, generation: u64, reign: u64 },
    RequestTick { n: NodeIx, generation: u64, reign: u64 },
    Inaugurate { n: NodeIx, generation: u64, reign: u64 },
    Inaugurated { n: NodeIx, generation: u64, reign: u64 },
    ResignationAgreed { n: NodeIx, generation: u64 },
    ElectionRound { number: u64 },
    ElectionsDone { n: NodeIx, generation: u64, leader: (NodeIx, ProcessId) },
    ForwardArrives { write: WriteId },
    ForwardTimesOut { write: WriteId },
    Load,
}

/// A generator each for what must not disturb the others.
#[derive(Debug)]
struct Randoms {
    ec2: Random,
    election: Random,
    gossip: Random,
    ids: Random,
    latency: Random,
    lifecycle: Random,
}

/// A cluster, its instances and their time.
#[derive(Debug)]
pub struct World {
    config: WorldConfig,
    /// Seconds from 1970 to its beginning.
    epoch_seconds: i64,
    now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    version: u64,
    random: Randoms,
    nodes: Vec<Node>,
    connections: BTreeMap<u64, Connection>,
    connected: u64,
    election: Election,
    resigning: BTreeSet<ProcessId>,
    elections: u64,
    writes: BTreeMap<WriteId, PendingWrite>,
    written: u64,
    /// Records that a quorum has acknowledged, whatever becomes of the nodes.
    truth: Vec<Arc<Stored>>,
    /// How often each fault of the configuration was played.
    played: Vec<u32>,
    /// When each fault that lasts for a time began.
    begun: Vec<Option<Duration>>,
    facts: Facts,
}

impl World {
    /// A settled cluster at time 0: all nodes run, one voter leads, the others follow, the replicas are subscribed, and gossip
    /// agrees.
    ///
    /// # Panics
    /// If the configuration has no voter, or not an address and a name for each node.
    pub fn new(config: WorldConfig) -> World {
        let count = config.voters + config.replicas;
        assert!(config.voters > 0, "a world needs a voting node");
        assert!(
            config.addresses.len() >= count && config.names.len() >= count,
            "each node needs an address and a name"
        );
        let seed = config.seed;
        let mut world = World {
            epoch_seconds: EPOCH_SECONDS,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            scheduled: 0,
            version: 1,
            random: Randoms {
                ec2: Random::named(seed, "ec2"),
                election: Random::named(seed, "election"),
                gossip: Random::named(seed, "gossip"),
                ids: Random::named(seed, "ids"),
                latency: Random::named(seed, "latency"),
                lifecycle: Random::named(seed, "lifecycle"),
            },
            nodes: Vec::new(),
            connections: BTreeMap::new(),
            connected: 0,
            election: Election::default(),
            resigning: BTreeSet::new(),
            elections: 0,
            writes: BTreeMap::new(),
            written: 0,
            truth: Vec::new(),
            played: vec![0; config.faults.len()],
            begun: vec![None; config.faults.len()],
            facts: Facts::new(&config),
            config,
        };
        for n in 0..count {
            let address = world.config.addresses[n].clone();
            let replication = Address::new(address.host.clone(), REPLICATION_PORT);
            let machine = Machine::new(n, &world.config);
            world.nodes.push(Node {
                address,
                replication,
                voter: n < world.config.voters,
                log: Log::default(),
                committed: 0,
                cut_to: None,
                promised: 0,
                machine,
                life: Life::Off,
                process: None,
                generation: 0,
                frozen: false,
                volume_hangs: false,
                unwritten: Vec::new(),
                deferred: Vec::new(),
            });
        }
        world.settle();
        world
    }

    /// Makes the state that a cluster is in after it has run for a while.
    fn settle(&mut self) {
        let count = self.nodes.len();
        let leader = usize::try_from(self.random.election.below(self.config.voters as u64)).unwrap_or(0);
        for n in 0..count {
            self.nodes[n].life = Life::Up;
            self.nodes[n].generation = 1;
            let process = self.new_process(n);
            self.nodes[n].process = Some(process);
        }
        let leads = (leader, self.process_id(leader));
        self.write_epoch(leader);
        self.write_initial_log(leader);
        let log = self.nodes[leader].log.clone();
        self.truth = log.records().to_vec();
        for n in 0..count {
            self.nodes[n].committed = log.len();
            if n != leader {
                self.nodes[n].log = log.clone();
            }
            if let Some(p) = &mut self.nodes[n].process {
                p.hides_commit = false;
                p.gossip_rounds = gossip::STARTUP_ROUNDS;
                p.leader = Some(leads);
                p.state = if n == leader {
                    NodeState::Leader
                } else if n < self.config.voters {
                    NodeState::Follower
                } else {
                    NodeState::ReadOnlyReplica
                };
                p.live = true;
                p.accepts = n == leader;
                p.inaugurated_at = 1;
            }
        }
        for n in (0..count).filter(|n| *n != leader) {
            self.connect_live(n, leader);
        }
        let entries: BTreeMap<NodeIx, Entry> = (0..count).filter_map(|n| Some((n, self.own_entry(n)?))).collect();
        for n in 0..count {
            if let Some(p) = &mut self.nodes[n].process {
                p.view.clone_from(&entries);
            }
            let first = self.random.gossip.millis(0, 2000);
            self.schedule(first, Event::Gossip { n, generation: 1 });
        }
        self.start_ticks(leader);
        if self.config.load_bytes_per_second > 0 {
            self.schedule(write::LOAD_INTERVAL, Event::Load);
        }
    }

    /// How the world began.
    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// Time since the world began.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Has the world begun at this many seconds since 1970: a world that is met over the wire shares the calendar of its visitors.
    pub fn begin_at(&mut self, epoch_seconds: i64) {
        self.epoch_seconds = epoch_seconds;
    }

    /// The world's calendar: .NET ticks (100 ns) since 1970-01-01.
    pub fn ticks(&self) -> i64 {
        self.epoch_seconds * 10_000_000 + i64::try_from(self.now.as_nanos() / 100).unwrap_or(i64::MAX / 2)
    }

    /// The world's calendar.
    pub(super) fn wall(&self) -> jiff::Timestamp {
        calendar(self.epoch_seconds, self.now)
    }

    /// Lets everything happen that falls due up to `t`, in order.
    pub fn advance_to(&mut self, t: Duration) {
        while let Some((&(due, number), _)) = self.queue.first_key_value() {
            if due > t {
                break;
            }
            let Some(event) = self.queue.remove(&(due, number)) else { break };
            self.now = self.now.max(due);
            self.happen(event);
        }
        self.now = self.now.max(t);
    }

    /// When the next thing falls due.
    pub fn next_due(&self) -> Duration {
        self.queue.first_key_value().map_or(Duration::MAX, |(&(due, _), _)| due)
    }

    /// Grows with every change that a waiting reader could care about: logs, roles, reachability, outcomes of writes.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn touch(&mut self) {
        self.version += 1;
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at, self.scheduled), event);
    }

    /// The node in whose process an event happens, and the generation it is meant for.
    fn whose(&self, event: &Event) -> Option<(NodeIx, Option<u64>)> {
        match *event {
            Event::ProcessReady { n, generation }
            | Event::ProcessExits { n, generation, .. }
            | Event::DiscoveryEnds { n, generation }
            | Event::Gossip { n, generation }
            | Event::GossipFailed { n, generation, .. }
            | Event::PeerLost { n, generation, .. }
            | Event::Connect { n, generation, .. }
            | Event::ConnectionLost { n, generation, .. }
            | Event::QuorumTick { n, generation, .. }
            | Event::RoleTick { n, generation, .. }
            | Event::RequestTick { n, generation, .. }
            | Event::Inaugurate { n, generation, .. }
            | Event::Inaugurated { n, generation, .. }
            | Event::ResignationAgreed { n, generation }
            | Event::ElectionsDone { n, generation, .. } => Some((n, Some(generation))),
            Event::Deliver { connection, .. } | Event::Announce { connection, .. } | Event::Assign { connection } => {
                self.connections.get(&connection).map(|c| (c.replica, None))
            }
            Event::Acknowledge { connection, .. } | Event::Pump { connection } => {
                self.connections.get(&connection).map(|c| (c.leader, None))
            }
            Event::ForwardArrives { write } => self.forwarded_to(write).map(|n| (n, None)),
            Event::MachineStopped { .. }
            | Event::MachineStarted { .. }
            | Event::SomebodyStops { .. }
            | Event::Thaws { .. }
            | Event::VolumeGoesOn { .. }
            | Event::VolumeWrites { .. }
            | Event::ProcessStarts { .. }
            | Event::ProcessSpeaks { .. }
            | Event::ProcessAnswers { .. }
            | Event::ProcessEnds { .. }
            | Event::HeartbeatMissed { .. }
            | Event::ElectionRound { .. }
            | Event::ForwardTimesOut { .. }
            | Event::Load => None,
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some((n, generation)) = self.whose(&event) {
            let node = &mut self.nodes[n];
            if generation.is_some_and(|g| g != node.generation) {
                return;
            }
            if node.frozen {
                node.deferred.push(event);
                return;
            }
            if node.volume_hangs && matches!(event, Event::Deliver { .. } | Event::Inaugurate { .. }) {
                node.unwritten.push(event);
                return;
            }
        }
        match event {
            Event::MachineStopped { n, transition } => self.machine_stopped(n, transition),
            Event::MachineStarted { n, transition } => self.machine_started(n, transition),
            Event::SomebodyStops { n, transition } => self.somebody_stops(n, transition),
            Event::Thaws { n } => self.unfreeze(n),
            Event::VolumeGoesOn { n } => self.free_volume(n),
            Event::VolumeWrites { n, every } => self.volume_writes(n, every),
            Event::ProcessStarts { n, generation } => self.supervise(n, generation),
            Event::ProcessSpeaks { n, generation } => self.process_speaks(n, generation),
            Event::ProcessAnswers { n, generation } => self.process_answers(n, generation),
            Event::ProcessReady { n, .. } => self.process_ready(n),
            Event::ProcessExits { n, restart, .. } => self.terminate_process(n, restart),
            Event::ProcessEnds { n, generation, restart } => self.process_ends(n, generation, restart),
            Event::DiscoveryEnds { n, .. } => self.discovery_ends(n),
            Event::Gossip { n, generation } => self.gossip(n, generation),
            Event::GossipFailed { n, peer, asked, .. } => self.gossip_failed(n, peer, asked),
            Event::PeerLost { n, peer, process, .. } => self.peer_lost(n, peer, process),
            Event::Connect { n, attempt, .. } => self.connect(n, attempt),
            Event::ConnectionLost { n, leader, .. } => self.connection_lost(n, leader),
            Event::HeartbeatMissed { connection, frozen } => self.heartbeat_missed(connection, frozen),
            Event::Pump { connection } => self.pump(connection),
            Event::Deliver { connection, len } => self.deliver(connection, len),
            Event::Acknowledge { connection, len } => self.acknowledge(connection, len),
            Event::Announce { connection, len } => self.announced(connection, len),
            Event::Assign { connection } => self.assigned(connection),
            Event::QuorumTick { n, reign, .. } => self.quorum_tick(n, reign),
            Event::RoleTick { n, reign, .. } => self.role_tick(n, reign),
            Event::RequestTick { n, reign, .. } => self.request_tick(n, reign),
            Event::Inaugurate { n, reign, .. } => self.inaugurate(n, reign),
            Event::Inaugurated { n, reign, .. } => self.inaugurated(n, reign),
            Event::ResignationAgreed { n, .. } => self.resignation_agreed(n),
            Event::ElectionRound { number } => self.election_round(number),
            Event::ElectionsDone { n, leader, .. } => self.elections_done(n, leader),
            Event::ForwardArrives { write } => self.forward_arrives(write),
            Event::ForwardTimesOut { write } => self.forward_times_out(write),
            Event::Load => self.load(),
        }
    }

    // What others see.

    /// Number of nodes, replicas included.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// HTTP and gRPC address of a node.
    pub fn address(&self, n: NodeIx) -> &Address {
        &self.nodes[n].address
    }

    /// Whether and how a node answers now.
    pub fn reachability(&self, n: NodeIx) -> Reachability {
        let node = &self.nodes[n];
        match node.life {
            Life::Off | Life::Starting => Reachability::Refused,
            Life::Mute => Reachability::Silent,
            Life::Up if node.frozen => Reachability::Silent,
            Life::Up => Reachability::Answers,
        }
    }

    /// Grows at each start and end of a node's process: what was open with it is gone.
    pub fn process_generation(&self, n: NodeIx) -> u64 {
        self.nodes[n].generation
    }

    /// Id of the process, the zero id if there is none.
    pub fn process_id(&self, n: NodeIx) -> ProcessId {
        self.nodes[n].process.as_ref().map_or(ProcessId(Uuid::nil()), |p| p.id)
    }

    /// What `/gossip` of a node answers; no members if there is no process. Members descend by address.
    pub fn view(&self, n: NodeIx) -> View {
        let node = &self.nodes[n];
        let mut members: Vec<MemberEntry> =
            node.up().map_or_else(Vec::new, |p| p.view.iter().map(|(&m, entry)| self.member(m, entry)).collect());
        members.sort_by(|a, b| b.address.cmp(&a.address));
        View { server: node.address.clone(), members }
    }

    fn member(&self, m: NodeIx, entry: &Entry) -> MemberEntry {
        let node = &self.nodes[m];
        let seed = entry.state == NodeState::Manager;
        MemberEntry {
            process: entry.process,
            time_stamp: time_stamp(self.epoch_seconds, entry.at),
            state: entry.state,
            is_alive: entry.alive,
            address: node.address.clone(),
            replication: node.replication.clone(),
            last_commit: entry.last_commit,
            writer: entry.writer,
            chaser: entry.chaser,
            epoch_position: entry.epoch_position,
            epoch: entry.epoch,
            epoch_id: entry.epoch_id,
            priority: entry.priority,
            is_read_only_replica: !seed && !node.voter,
            version: (!self.config.version.starts_with("22."))
                .then(|| if seed { "old_version".to_owned() } else { self.config.version.clone() }),
        }
    }

    /// State of a node's process at this moment, as `/info` says it; `Shutdown` if there is none.
    pub fn own_state(&self, n: NodeIx) -> NodeState {
        self.nodes[n].up().map_or(NodeState::Shutdown, |p| p.state)
    }

    /// The priority that a node's process holds; of a node that is down, the one it begins with.
    pub fn priority(&self, n: NodeIx) -> i32 {
        self.nodes[n].up().map_or(0, |p| p.priority)
    }

    /// Whether `/health/live` of a node answers 204 (projections are on): from the first Follower, ReadOnlyReplica or Leader of
    /// the process until it shuts down.
    pub fn live(&self, n: NodeIx) -> bool {
        self.nodes[n].up().is_some_and(|p| p.live)
    }

    /// What `/stats/replication` of a node answers: empty unless it leads.
    pub fn replication(&self, n: NodeIx) -> Vec<ReplicaSubscription> {
        if self.own_state(n) != NodeState::Leader {
            return Vec::new();
        }
        self.connections
            .values()
            .filter(|c| c.leader == n)
            .map(|c| ReplicaSubscription {
                subscription: c.subscription,
                endpoint: self.nodes[c.replica].replication.clone(),
                total_bytes_sent: c.bytes,
            })
            .collect()
    }

    /// Leaders inaugurated since the world began; one that resigned and won again counts, a new epoch of the same reign does not.
    pub fn elections(&self) -> u64 {
        self.elections
    }

    /// The node that leads with the newest epoch.
    pub fn leader(&self) -> Option<NodeIx> {
        (0..self.config.voters)
            .filter(|&n| self.own_state(n) == NodeState::Leader)
            .max_by_key(|&n| self.nodes[n].log.epoch().map(|e| e.number))
    }

    /// All records that a quorum has acknowledged, in the order of the log.
    pub fn committed(&self) -> Vec<Record> {
        self.truth.iter().map(|s| s.record.clone()).collect()
    }

    /// How many records a quorum has acknowledged.
    pub fn committed_len(&self) -> usize {
        self.truth.len()
    }

    /// The acknowledged records from the `at`th on.
    pub fn committed_from(&self, at: usize) -> impl Iterator<Item = &Record> {
        self.truth.iter().skip(at).map(|s| &s.record)
    }

    /// From now on no fault of the configuration is played any more. What they did so far stays done.
    pub fn cease_faults(&mut self) {
        self.config.faults.clear();
        self.played.clear();
        self.begun.clear();
    }

    /// A stopped machine's volume loses all but `percent` of its log (100: nothing). Without effect while a process runs, and where that would
    /// lose what a majority has acknowledged: see [`World::may_lose_data`].
    pub fn lose_data(&mut self, n: NodeIx, percent: u32) {
        if self.nodes[n].life == Life::Off && self.may_lose_data(n) {
            let node = &mut self.nodes[n];
            let keep = node.log.len() * percent.min(100) as usize / 100;
            node.log.truncate(keep);
            node.committed = node.committed.min(keep);
        }
    }

    /// Whether every other voter leads or follows, and so has, or is about to have, what was acknowledged. A volume that is lost while another
    /// voter lags or is down takes acknowledged data with it on a real cluster, too: no rule of anybody's survives that.
    fn may_lose_data(&self, n: NodeIx) -> bool {
        n >= self.config.voters
            || (0..self.config.voters).filter(|m| *m != n).all(|m| {
                self.reachability(m) == Reachability::Answers
                    && matches!(self.own_state(m), NodeState::Leader | NodeState::Follower)
            })
    }

    // Reads.

    /// Whether a node serves a read now.
    fn reads(&self, n: NodeIx, requires_leader: bool) -> Result<&Node, NotHandled> {
        let node = &self.nodes[n];
        let p = node.up().ok_or(NotHandled::NotReady)?;
        match p.state {
            NodeState::Initializing
            | NodeState::ShuttingDown
            | NodeState::Shutdown
            | NodeState::Manager
            | NodeState::Unrecognized => Err(NotHandled::NotReady),
            NodeState::PreLeader | NodeState::Leader | NodeState::ResigningLeader => Ok(node),
            _ if !requires_leader => Ok(node),
            NodeState::DiscoverLeader | NodeState::Unknown | NodeState::ReadOnlyLeaderless => Err(NotHandled::NotReady),
            NodeState::PreReplica
            | NodeState::CatchingUp
            | NodeState::Clone
            | NodeState::Follower
            | NodeState::PreReadOnlyReplica
            | NodeState::ReadOnlyReplica => Err(self.not_leader(p)),
        }
    }

    fn not_leader(&self, p: &Process) -> NotHandled {
        p.leader
            .map_or(NotHandled::NoLeaderInfo, |(leader, _)| NotHandled::NotLeader(self.nodes[leader].address.clone()))
    }

    /// Reads a stream as node `n` holds it: what it knows to be committed.
    pub fn read_stream(
        &self,
        n: NodeIx,
        requires_leader: bool,
        stream: &str,
        from: StreamStart,
        direction: Direction,
        max: usize,
    ) -> ReadOutcome<StreamPage> {
        match self.reads(n, requires_leader) {
            Ok(node) => node.log.read_stream(node.committed, self.ticks(), stream, from, direction, max),
            Err(why) => ReadOutcome::NotHandled(why),
        }
    }

    /// Reads the whole log as node `n` holds it; looks at `max_search` records at most.
    #[expect(clippy::too_many_arguments, reason = "one argument for each thing a request says")]
    pub fn read_all(
        &self,
        n: NodeIx,
        requires_leader: bool,
        from: AllStart,
        direction: Direction,
        filter: Option<&CompiledFilter>,
        max: usize,
        max_search: Option<usize>,
    ) -> ReadOutcome<AllPage> {
        match self.reads(n, requires_leader) {
            Ok(node) => ReadOutcome::Found(node.log.read_all(node.committed, from, direction, filter, max, max_search)),
            Err(why) => ReadOutcome::NotHandled(why),
        }
    }
}

/// A moment of the world as gossip writes it: RFC 3339, UTC, seven digits of a second.
fn time_stamp(epoch_seconds: i64, at: Duration) -> String {
    format!("{:.7}", calendar(epoch_seconds, at))
}

fn calendar(epoch_seconds: i64, at: Duration) -> jiff::Timestamp {
    let seconds = epoch_seconds + i64::try_from(at.as_secs()).unwrap_or(0);
    let nanos = i32::try_from(at.subsec_nanos()).unwrap_or(0);
    jiff::Timestamp::new(seconds, nanos).unwrap_or(jiff::Timestamp::MAX)
}
