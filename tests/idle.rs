//! What a worker does while nothing happens, and while a thousand updates wait: every call is counted, in virtual time.

mod rig;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::codec::{CHECKPOINT, CheckpointMoved, Writer, encode_facts};
use esdb_rollout::domain::ids::{
    ADMISSION_PREFIX, ClusterName, Incarnation, UPDATE_PREFIX, UpdateId, WORKER_PREFIX, WorkerName,
};
use esdb_rollout::ports::{Expected, NewEvent};
use esdb_rollout::sim::model::WorldConfig;
use esdb_rollout::update::event::Event;
use esdb_rollout::update::state::End;
use esdb_rollout::worker::{Limits, StartPoint, Stop};
use rig::tap::{Kind, Tap, tapped};
use rig::{Rig, quick_world};
use serde_json::json;
use tokio::sync::watch;
use uuid::Uuid;

/// Clusters of a large fleet, each with an update that waits.
const MANY: u128 = 1000;

/// Calls by kind and by what they are about: a kind of stream, a node, EC2.
#[derive(Default)]
struct Counted(Mutex<BTreeMap<(Kind, &'static str), u64>>);

#[async_trait]
impl Tap for Counted {
    async fn before(&self, kind: Kind, to: &str) -> usize {
        let prefixes = [UPDATE_PREFIX, ADMISSION_PREFIX, WORKER_PREFIX];
        let about = prefixes.into_iter().find(|prefix| to.starts_with(prefix)).unwrap_or("other");
        *self.0.lock().unwrap().entry((kind, about)).or_default() += 1;
        0
    }

    async fn after(&self, _number: usize) {}
}

/// Calls a minute.
#[derive(Debug)]
struct PerMinute(BTreeMap<(Kind, &'static str), f64>);

impl PerMinute {
    fn of(&self, kind: Kind, about: &str) -> f64 {
        self.0.iter().filter(|((k, a), _)| *k == kind && *a == about).map(|(_, n)| n).sum()
    }

    fn all(&self, kind: Kind) -> f64 {
        self.0.iter().filter(|((k, _), _)| *k == kind).map(|(_, n)| n).sum()
    }
}

impl Counted {
    /// Counts what happens in so many minutes from now.
    async fn over(&self, minutes: u64) -> PerMinute {
        self.0.lock().unwrap().clear();
        tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
        let counted = self.0.lock().unwrap().clone();
        let found = PerMinute(counted.into_iter().map(|(what, n)| (what, n as f64 / minutes as f64)).collect());
        println!("{found:?}");
        found
    }
}

/// A worker that knows `clusters` clusters, all on the nodes of one world, and is told of.
fn watched(rig: &Rig, clusters: u128, limits: Limits) -> (Arc<Counted>, watch::Sender<Stop>) {
    let counted = Arc::new(Counted::default());
    let mut worker = tapped(rig, counted.clone()).worker(0);
    let handle = worker.clusters.values().next().unwrap().clone();
    worker.clusters = Arc::new((0..clusters).map(|n| (ClusterName(format!("c{n}")), handle.clone())).collect());
    worker.limits = limits;
    let (stop, stopped) = watch::channel(Stop::No);
    tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    (counted, stop)
}

/// Asks for an update of each cluster.
async fn ask(rig: &Rig, clusters: u128) {
    for n in 0..clusters {
        let update = UpdateId(Uuid::from_u128(0xa00_0000 + n));
        let data = json!({ "cluster": format!("c{n}"), "targetInstanceType": "m6i.xlarge", "notBefore": "2026-01-09T00:00:00Z" });
        let id = Uuid::from_u128(0xb00_0000 + n);
        let request = NewEvent { id, event_type: "UpdateRequested".into(), data, metadata: json!({}) };
        while rig.log.append(&update.stream(), Expected::NoStream, vec![request.clone()]).await.is_err() {}
    }
}

/// How many streams of updates have so many events.
fn streams_of(rig: &Rig, events: usize) -> usize {
    let mut lengths: BTreeMap<String, usize> = BTreeMap::new();
    for record in rig.world.with(|w| w.committed()).into_iter().filter(|r| r.stream.starts_with(UPDATE_PREFIX)) {
        *lengths.entry(record.stream).or_default() += 1;
    }
    lengths.values().filter(|length| **length == events).count()
}

/// Waits until something holds, up to an hour.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..3600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("it does not come");
}

/// What a worker does in any case: a heartbeat every 5 s (a read, an append), a look at the admissions every 5 s (a read a cluster, up to
/// a hundred clusters; 20 a second at most beyond), and a look whether the store has a leader every 5 s (a read).
fn idle_apart_from(found: &PerMinute, clusters: f64) {
    assert!(found.of(Kind::Append, WORKER_PREFIX) <= 12.5 && found.all(Kind::Append) <= 12.5, "{found:?}");
    assert!(found.of(Kind::Read, WORKER_PREFIX) <= 12.5, "{found:?}");
    let looks = if clusters > 100.0 { 1.2 } else { 12.5 };
    assert!(found.of(Kind::Read, ADMISSION_PREFIX) <= clusters * looks + 12.5, "{found:?}");
    for kind in [Kind::Subscribe, Kind::Node, Kind::NodeChange, Kind::Ec2, Kind::Ec2Change] {
        assert!(found.all(kind) == 0.0, "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_beats_and_looks_every_five_seconds_and_does_nothing_else() {
    let rig = Rig::new(quick_world(51));
    let (counted, _stop) = watched(&rig, 1, Limits::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let found = counted.over(10).await;
    idle_apart_from(&found, 1.0);
    assert_eq!(found.of(Kind::Read, UPDATE_PREFIX), 0.0, "{found:?}");
    // It lives.
    assert!(found.of(Kind::Append, WORKER_PREFIX) >= 11.0, "{found:?}");
}

/// Positions of the checkpoint, as it was moved.
fn checkpoints(rig: &Rig) -> Vec<u64> {
    let records = rig.world.with(|w| w.committed()).into_iter().filter(|r| r.event_type == CHECKPOINT);
    records.map(|r| serde_json::from_slice::<CheckpointMoved>(&r.data).unwrap().commit).collect()
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_follows_a_log_in_which_nothing_is_ours_seldom_and_our_own_heartbeats_not_at_all() {
    let mut config = quick_world(54);
    config.load_bytes_per_second = 4_000_000;
    let rig = Rig::new(config);
    let (counted, _stop) = watched(&rig, 1, Limits::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let found = counted.over(30).await;
    assert!(found.of(Kind::Append, "other") <= 1.0, "{found:?}");
    let end = rig.log.end_of_log().await.unwrap().unwrap().commit;
    let at = *checkpoints(&rig).last().expect("it moves");
    assert!(end - at < 2 * 4_000_000 * 120, "{at} of {end}");
    assert!(checkpoints(&rig).is_sorted());

    let rig = Rig::new(WorldConfig { load_bytes_per_second: 0, ..quick_world(55) });
    let (_counted, _stop) = watched(&rig, 1, Limits::default());
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    assert_eq!(checkpoints(&rig), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_update_that_waits_for_room_costs_a_read_a_minute() {
    let rig = Rig::new(quick_world(52));
    ask(&rig, MANY).await;
    let (counted, _stop) = watched(&rig, MANY, Limits::default());
    until(|| streams_of(&rig, 2) == 1).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(
        (streams_of(&rig, 1), streams_of(&rig, 2)),
        (MANY as usize - 1, 1),
        "one has begun, and waits for its time"
    );
    let found = counted.over(2).await;
    idle_apart_from(&found, MANY as f64);
    assert!(found.of(Kind::Read, UPDATE_PREFIX) <= MANY as f64 * 1.1, "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_waits_for_its_time_costs_a_read_a_minute_and_nobody_is_asked() {
    let rig = Rig::new(quick_world(53));
    ask(&rig, MANY).await;
    let all = Limits { own: MANY as usize, fleet: MANY as usize, failures: None };
    let (counted, _stop) = watched(&rig, MANY, all);
    until(|| streams_of(&rig, 2) == MANY as usize).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    let found = counted.over(2).await;
    idle_apart_from(&found, MANY as f64);
    assert!(found.of(Kind::Read, UPDATE_PREFIX) <= MANY as f64 * 1.1, "{found:?}");
}

/// Another worker has taken the update, and will fall silent: until then it is its own to look at.
#[tokio::test(start_paused = true)]
async fn an_update_that_another_holds_costs_a_look_a_second_and_nobody_is_asked() {
    let rig = Rig::new(quick_world(54));
    rig.append(rig::request("m6i.xlarge").into(), 1).await;
    let counted = Arc::new(Counted::default());
    let (_worker, _stop) = tapped(&rig, counted.clone()).spawn(0);
    rig.until("InstanceStopRequested", 1).await;
    let ghost = Writer { worker: WorkerName::from("ghost"), incarnation: Incarnation(Uuid::from_u128(0xbad)) };
    let assigned = json!({ "worker": "ghost", "incarnation": ghost.incarnation, "reason": "silent" });
    let assigned: Event = serde_json::from_value(json!({ "type": "WorkerAssigned", "data": assigned })).unwrap();
    loop {
        let last = rig.history().await.last().map(|r| (r.revision, r.id));
        let fact = encode_facts(rig.update, std::slice::from_ref(&assigned), last, &ghost, rig.clock.wall()).unwrap();
        if rig.log.append(&rig.update.stream(), Expected::after(last.map(|(r, _)| r)), fact).await.is_ok() {
            break;
        }
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    counted.0.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let counts = counted.0.lock().unwrap().clone();
    let of = |kind: Kind| counts.iter().filter(|((k, _), _)| *k == kind).map(|(_, n)| n).sum::<u64>();
    for kind in [Kind::Node, Kind::NodeChange, Kind::Ec2, Kind::Ec2Change] {
        assert_eq!(of(kind), 0, "{counts:?}");
    }
    // The holder's heartbeat and the stream once a second, and its own heartbeat.
    assert!(counts[&(Kind::Read, WORKER_PREFIX)] <= 14 && counts[&(Kind::Read, UPDATE_PREFIX)] <= 11, "{counts:?}");
    // It takes the update back, looks anew, and goes on.
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", rig::lines(&history));
}
