//! A worker on the simulated world, in process and in virtual time.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod bomb;
pub mod tap;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use esdb_rollout::codec::{Writer, encode_command};
use esdb_rollout::domain::ids::{Address, ClusterName, Incarnation, Revision, UpdateId, WorkerName};
use esdb_rollout::domain::quorum::Voters;
use esdb_rollout::domain::time::Moment;
use esdb_rollout::ports::{Clock, ClusterAdmin, EventLog, Expected, Fleet, SystemClock};
use esdb_rollout::sim::model::{ExpectedRevision, Fault, WorldConfig, Write, WriteOutcome};
use esdb_rollout::sim::ports::SimPorts;
use esdb_rollout::sim::world::SimWorld;
use esdb_rollout::sim::world::World;
use esdb_rollout::update::event::{Event, UpdateRequested};
use esdb_rollout::update::limits::FIRST_ANSWER_TIMEOUT;
use esdb_rollout::update::observed::Policy;
use esdb_rollout::update::state::{Body, Recorded, State, fold};
use esdb_rollout::worker::{ClusterHandle, Limits, StartPoint, Stop, Worker, WorkerError, read_update};
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

/// The world at the real durations of EC2.
pub fn world(seed: u64) -> WorldConfig {
    WorldConfig {
        seed,
        voters: 3,
        replicas: 1,
        addresses: (1..=4).map(|n| Address::new(format!("10.0.1.{n}"), 2113)).collect(),
        names: (1..=4).map(|n| format!("esdb-{n}")).collect(),
        version: "23.10.5.0".into(),
        instance_type: "m6i.large".into(),
        offered_types: ["m6i.large", "m6i.xlarge", "m6i.2xlarge"].map(|t| (t.to_owned(), "x86_64".to_owned())).to_vec(),
        ec2_stop: Duration::from_secs(45),
        ec2_start: Duration::from_secs(25),
        boot: Duration::from_secs(3),
        catch_up_bytes_per_second: 50_000_000,
        load_bytes_per_second: 1_000_000,
        initial_log_bytes: 200_000_000,
        faults: Vec::<Fault>::new(),
    }
}

/// A small and quick world: for tests that run it many times.
pub fn quick_world(seed: u64) -> WorldConfig {
    WorldConfig {
        ec2_stop: Duration::from_secs(4),
        ec2_start: Duration::from_secs(3),
        boot: Duration::from_secs(1),
        load_bytes_per_second: 50_000,
        initial_log_bytes: 10_000_000,
        ..world(seed)
    }
}

pub fn request(target: &str) -> UpdateRequested {
    serde_json::from_value(json!({ "cluster": "prod", "targetInstanceType": target, "by": "test" })).unwrap()
}

pub struct Rig {
    pub world: SimWorld,
    pub log: Arc<dyn EventLog>,
    pub admin: Arc<dyn ClusterAdmin>,
    pub fleet: Arc<dyn Fleet>,
    pub clock: Arc<dyn Clock>,
    pub update: UpdateId,
}

impl Rig {
    pub fn new(config: WorldConfig) -> Self {
        let seed = config.seed;
        let world = SimWorld::new(World::new(config));
        let ports = SimPorts::new(world.clone(), seed);
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Rig {
            world,
            log: ports.event_log(),
            admin: ports.cluster_admin(),
            fleet: ports.fleet(),
            clock: Arc::new(SystemClock::start_at(start)),
            update: UpdateId(Uuid::from_u128(0xabc0_0000 + u128::from(seed))),
        }
    }

    pub fn worker(&self, number: u128) -> Worker {
        let seeds = self.world.with(|w| (0..w.node_count()).map(|n| w.address(n).clone()).collect());
        let voters = self.world.with(|w| w.config().voters as u32);
        let handle = ClusterHandle {
            seeds,
            voters: Some(Voters(voters)),
            nodes: BTreeMap::new(),
            policy: Policy {
                allowed_types: vec![],
                max_replication_delay: Duration::from_secs(5),
                first_answer_timeout: FIRST_ANSWER_TIMEOUT,
                fence: true,
            },
            admin: self.admin.clone(),
            fleet: self.fleet.clone(),
        };
        Worker {
            writer: Writer {
                worker: WorkerName::from("w1"),
                incarnation: Incarnation(Uuid::from_u128(0xf00 + number)),
            },
            clusters: Arc::new(BTreeMap::from([(ClusterName::from("prod"), handle)])),
            log: self.log.clone(),
            clock: self.clock.clone(),
            limits: Limits::default(),
        }
    }

    pub async fn append(&self, event: Event, id: u128) {
        let command = encode_command(&event, Uuid::from_u128(id), json!({})).unwrap();
        for _ in 0..50 {
            let history = self.history().await;
            let last = history.last().map(|r| r.revision);
            if self.log.append(&self.update.stream(), Expected::after(last), vec![command.clone()]).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the command could not be appended");
    }

    pub async fn history(&self) -> Vec<Recorded> {
        for _ in 0..200 {
            if let Ok(history) = read_update(&*self.log, self.update, Revision(0), Moment::default()).await {
                return history;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the history cannot be read");
    }

    pub fn spawn(&self, number: u128) -> (tokio::task::JoinHandle<Result<(), WorkerError>>, watch::Sender<Stop>) {
        let (stop, stopped) = watch::channel(Stop::No);
        (tokio::spawn(self.worker(number).run(StartPoint::CheckpointOrBeginning, stopped)), stop)
    }

    /// Another handle on the same world.
    pub fn share(&self) -> Rig {
        Rig {
            world: self.world.clone(),
            log: self.log.clone(),
            admin: self.admin.clone(),
            fleet: self.fleet.clone(),
            clock: self.clock.clone(),
            update: self.update,
        }
    }

    /// Deletes a stream for good.
    pub async fn tombstone(&self, stream: &str) {
        for _ in 0..200 {
            if let Some(leader) = self.world.with(|w| w.leader()) {
                let deleted = self.world.write(leader, true, stream, ExpectedRevision::Any, Write::Tombstone).await;
                if matches!(deleted, WriteOutcome::Done { .. }) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{stream} could not be deleted");
    }

    /// Waits until a fact of this type stands `times` times.
    pub async fn until(&self, fact: &str, times: usize) {
        for _ in 0..20_000 {
            if outline(&self.history().await).lines().filter(|l| l.split(' ').next() == Some(fact)).count() >= times {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{fact} does not come\n{}", lines(&self.history().await));
    }

    /// Waits until the update has ended; panics with its history after `limit`.
    pub async fn ended(&self, limit: Duration) -> (Vec<Recorded>, State) {
        let began = self.clock.now();
        loop {
            let history = self.history().await;
            let state = fold(&history);
            if state.end.is_some() {
                return (history, state);
            }
            if self.clock.now().since(began) > limit {
                panic!("not ended after {limit:?}; broken: {:?}\n{}", state.broken, lines(&history));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Runs one update with one worker to its end.
    pub async fn run(&self, request: UpdateRequested, limit: Duration) -> (Vec<Recorded>, State) {
        self.run_as(0, request, limit).await
    }

    /// The same with a worker of this number: each has an incarnation of its own.
    pub async fn run_as(&self, number: u128, request: UpdateRequested, limit: Duration) -> (Vec<Recorded>, State) {
        self.append(request.into(), 1 + 100 * number).await;
        let (worker, stop) = self.spawn(number);
        let ended = self.ended(limit).await;
        stop.send(Stop::AtSafePoint).unwrap();
        worker.await.unwrap().unwrap();
        ended
    }
}

/// A history, a line an event.
pub fn lines(history: &[Recorded]) -> String {
    let zero = history.first().map(|r| r.at).unwrap_or_default();
    let mut text = String::new();
    for r in history {
        let seconds = r.at.duration_since(zero).as_secs_f64();
        let what = match &r.body {
            Body::Event(event) => {
                let data = esdb_rollout::codec::event_data(event).unwrap();
                let mut picked = String::new();
                for key in [
                    "node",
                    "role",
                    "type",
                    "priority",
                    "newLeader",
                    "code",
                    "reason",
                    "gate",
                    "because",
                    "detail",
                    "found",
                    "command",
                    "reasons",
                    "dataKept",
                    "remedy",
                ] {
                    if let Some(v) = data.get(key).filter(|v| !v.is_null()) {
                        picked.push_str(&format!(" {key}={v}"));
                    }
                }
                format!("{}{picked}", event.type_name())
            }
            other => format!("{other:?}"),
        };
        text.push_str(&format!("{:>4} {seconds:>8.1} {what}\n", r.revision.0));
    }
    text
}

/// Type and node of each fact, without what is timing.
pub fn outline(history: &[Recorded]) -> String {
    let mut text = String::new();
    for r in history {
        if let Body::Event(event) = &r.body {
            let node = esdb_rollout::update::state::node_of(event).map(|n| format!(" {n}")).unwrap_or_default();
            text.push_str(&format!("{}{node}\n", event.type_name()));
        }
    }
    text
}

/// Looks at the world itself, all the time, and keeps what must not be.
pub struct Truth {
    found: Arc<std::sync::Mutex<Vec<String>>>,
    stops: Arc<std::sync::Mutex<Vec<u32>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Truth {
    /// How often each node's instance was stopped so far.
    pub fn stops(&self) -> Vec<u32> {
        self.stops.lock().unwrap().clone()
    }

    /// Panics with what was found wrong; gives how often each node's instance was stopped.
    pub fn check(self) -> Vec<u32> {
        self.task.abort();
        let found = self.found.lock().unwrap();
        assert!(found.is_empty(), "the rules were broken in the world:\n{}", found.join("\n"));
        self.stops.lock().unwrap().clone()
    }
}

impl Rig {
    /// S1: at most one voter is out of service by our doing. S2: no instance is stopped whose node led just before.
    pub fn watch_truth(&self) -> Truth {
        use esdb_rollout::domain::instance::InstanceState;
        let found = Arc::new(std::sync::Mutex::new(Vec::new()));
        let stops = Arc::new(std::sync::Mutex::new(vec![0; self.world.with(|w| w.node_count())]));
        let (world, sink, counts) = (self.world.clone(), found.clone(), stops.clone());
        let task = tokio::spawn(async move {
            let mut led = None;
            let mut was_running = [true; 16];
            loop {
                world.with(|w| {
                    let voters = w.config().voters;
                    let now = w.now().as_secs_f64();
                    let states: Vec<InstanceState> = (0..w.node_count()).map(|n| w.instance_state(n)).collect();
                    let down = states[..voters].iter().filter(|s| **s != InstanceState::Running).count();
                    let mut sink = sink.lock().unwrap();
                    if down > 1 {
                        sink.push(format!("S1 at {now:.1}: {down} voters are not running"));
                    }
                    for (n, state) in states.iter().enumerate() {
                        let running = *state == InstanceState::Running;
                        if was_running[n] && !running && led == Some(n) {
                            sink.push(format!("S2 at {now:.1}: node {n} was stopped while it led"));
                        }
                        if was_running[n] && !running {
                            counts.lock().unwrap()[n] += 1;
                        }
                        was_running[n] = running;
                    }
                    led = w.leader();
                });
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Truth { found, stops, task }
    }
}
