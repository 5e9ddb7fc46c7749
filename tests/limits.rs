//! Several clusters and several workers on one store, in virtual time: how much is done at a time, by whom, and what is handed over.

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::ids::{ClusterName, InstanceId, UpdateId, WorkerName};
use esdb_rollout::ports::{Expected, NewEvent};
use esdb_rollout::sim::model::Fault;
use esdb_rollout::update::event::{AssignedBecause, CancelRequested, Event, WorkerAssigned};
use esdb_rollout::update::state::{Body, End, Recorded, State, fold};
use esdb_rollout::worker::{Limits, REVIEW_STREAM, REVIEWED, StartPoint, Stop, Worker, WorkerError};
use rig::tap::{Kind, Tap, tapped};
use rig::{Rig, lines, quick_world};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(3600);

/// Clusters `c0`, `c1`, …, each with an update of its own; the first holds the store.
struct Fleet {
    rigs: Vec<Rig>,
}

struct Working {
    task: JoinHandle<Result<(), WorkerError>>,
    stop: watch::Sender<Stop>,
}

impl Working {
    async fn leaves(self) {
        self.stop.send_replace(Stop::AtSafePoint);
        self.task.await.unwrap().unwrap();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.rigs.clear();
    }
}

impl Fleet {
    fn new(seed: u64, clusters: u64, faults: Vec<Fault>) -> Fleet {
        let mut rigs: Vec<Rig> = Vec::new();
        for n in 0..clusters {
            let mut config = quick_world(seed * 100 + n);
            if n == 0 {
                config.faults.clone_from(&faults);
            }
            let rig = Rig::new(config);
            let log = rigs.first().map_or(rig.log.clone(), |first| first.log.clone());
            let clock = rigs.first().map_or(rig.clock.clone(), |first| first.clock.clone());
            rigs.push(Rig { log, clock, ..rig });
        }
        Fleet { rigs }
    }

    fn worker(&self, name: &str, incarnation: u128, limits: Limits) -> Worker {
        let mut worker = self.rigs[0].worker(incarnation);
        let handle = |rig: &Rig| rig.worker(0).clusters.values().next().unwrap().clone();
        worker.clusters = Arc::new(
            self.rigs.iter().enumerate().map(|(n, rig)| (ClusterName(format!("c{n}")), handle(rig))).collect(),
        );
        worker.writer.worker = WorkerName::from(name);
        worker.limits = limits;
        worker
    }

    fn spawn(&self, name: &str, incarnation: u128, limits: Limits) -> Working {
        let (stop, stopped) = watch::channel(Stop::No);
        let worker = self.worker(name, incarnation, limits);
        Working { task: tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped)), stop }
    }

    async fn request(&self, n: usize) {
        let request = json!({ "cluster": format!("c{n}"), "targetInstanceType": "m6i.xlarge" });
        self.rigs[n].append(Event::UpdateRequested(serde_json::from_value(request).unwrap()), 1 + n as u128).await;
    }

    async fn ended(&self, n: usize) -> (Vec<Recorded>, End) {
        let (history, state) = self.rigs[n].ended(LIMIT).await;
        (history, state.end.unwrap())
    }
}

fn assigned(history: &[Recorded]) -> Vec<WorkerAssigned> {
    history
        .iter()
        .filter_map(|r| match &r.body {
            Body::Event(event) => match &**event {
                Event::WorkerAssigned(assigned) => Some(assigned.clone()),
                _ => None,
            },
            Body::Unreadable { .. } | Body::Newer { .. } => None,
        })
        .collect()
}

/// When an update was taken, and when it ended.
fn span(history: &[Recorded]) -> (jiff::Timestamp, jiff::Timestamp) {
    let taken = history.iter().find(|r| matches!(&r.body, Body::Event(e) if e.type_name() == "WorkerAssigned"));
    (taken.unwrap().at, history.last().unwrap().at)
}

const MANY: Limits = Limits { own: 10, fleet: 10, failures: None };

#[tokio::test(start_paused = true)]
async fn one_update_runs_at_a_time_over_all_clusters_and_workers_the_oldest_first() {
    for seed in 1..=6 {
        let fleet = Fleet::new(seed, 4, vec![]);
        // Asked for before any worker lives, in this order; the workers meet all of them at once.
        for n in [2, 0, 3, 1] {
            fleet.request(n).await;
        }
        let _workers = [0, 1, 2].map(|w| fleet.spawn(&format!("w{w}"), w, Limits::default()));
        let mut spans = BTreeMap::new();
        for n in 0..4 {
            let (history, end) = fleet.ended(n).await;
            assert!(matches!(end, End::Completed(_)), "seed {seed}: {}", lines(&history));
            assert_eq!(assigned(&history).len(), 1, "seed {seed}: {}", lines(&history));
            spans.insert(span(&history), n);
        }
        let order: Vec<usize> = spans.values().copied().collect();
        assert_eq!(order, [2, 0, 3, 1], "seed {seed}: the oldest first");
        let times: Vec<(jiff::Timestamp, jiff::Timestamp)> = spans.keys().copied().collect();
        for pair in times.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "seed {seed}: two ran at a time: {times:?}");
        }
    }
}

impl Fleet {
    /// Another request for a cluster.
    async fn ask_again(&self, n: usize, number: u128) -> Rig {
        let again = Rig { update: UpdateId(Uuid::from_u128(number)), ..self.rigs[n].share() };
        let request = json!({ "cluster": format!("c{n}"), "targetInstanceType": "m6i.xlarge" });
        again.append(Event::UpdateRequested(serde_json::from_value(request).unwrap()), number).await;
        again
    }
}

fn refused(state: &State) -> &str {
    match &state.end {
        Some(End::Rejected(end)) => &end.reasons[0].code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn admissions_that_the_store_refuses_hold_up_their_own_cluster_only() {
    let fleet = Fleet::new(10, 3, vec![]);
    // The streams of all clusters stand in the first one's world.
    let store = &fleet.rigs[0];
    store.tombstone("updatedCluster-c0").await;
    fleet.request(0).await;
    fleet.request(1).await;
    let _worker = fleet.spawn("w0", 0, Limits::default());
    let (_, state) = fleet.rigs[0].ended(LIMIT).await;
    assert_eq!(refused(&state), "admissionRefused");
    // One that ends and cannot be released is no reason for others to wait either.
    fleet.rigs[1].until("NodeUpdated", 1).await;
    store.tombstone("updatedCluster-c1").await;
    fleet.request(2).await;
    for n in [1, 2] {
        let (history, end) = fleet.ended(n).await;
        assert!(matches!(end, End::Completed(_)), "{}", lines(&history));
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_whose_stream_was_deleted_holds_up_its_own_cluster_only_and_that_only_if_anybody_ever_held_it() {
    let fleet = Fleet::new(11, 3, vec![]);
    let store = &fleet.rigs[0];
    let gone = |n: usize| fleet.rigs[n].update.stream();
    let _workers = [0, 1].map(|w| fleet.spawn(&format!("w{w}"), w, Limits::default()));
    // One at a time: the second waits for room, and is deleted before anybody has begun it.
    for n in [0, 1] {
        fleet.request(n).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    store.tombstone(gone(1).as_str()).await;
    // The first has a node in hand.
    fleet.rigs[0].until("InstanceStopped", 1).await;
    store.tombstone(gone(0).as_str()).await;
    fleet.request(2).await;
    let (history, end) = fleet.ended(2).await;
    assert!(matches!(end, End::Completed(_)), "{}", lines(&history));
    let again = fleet.ask_again(0, 0x70).await;
    let (_, state) = again.ended(LIMIT).await;
    assert_eq!(refused(&state), "clusterBusy");
    let again = fleet.ask_again(1, 0x71).await;
    let (history, state) = again.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    // A process that knows nothing of it touches it as little.
    let _next = fleet.spawn("w2", 2, Limits::default());
    tokio::time::sleep(Duration::from_secs(300)).await;
    let again = fleet.ask_again(0, 0x72).await;
    let (_, state) = again.ended(LIMIT).await;
    assert_eq!(refused(&state), "clusterBusy");
}

#[tokio::test(start_paused = true)]
async fn new_updates_are_spread_over_the_workers() {
    for seed in 1..=5 {
        let fleet = Fleet::new(seed, 3, vec![]);
        let _workers = [0, 1, 2].map(|w| fleet.spawn(&format!("w{w}"), w, MANY));
        // Until each has heard of the others.
        tokio::time::sleep(Duration::from_secs(12)).await;
        for n in 0..3 {
            fleet.request(n).await;
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
        let mut takers = BTreeSet::new();
        for n in 0..3 {
            let (history, end) = fleet.ended(n).await;
            assert!(matches!(end, End::Completed(_)), "{}", lines(&history));
            takers.insert(assigned(&history)[0].worker.clone());
        }
        assert_eq!(takers.len(), 3, "seed {seed}: {takers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_takes_no_more_than_it_may_and_resumes_what_was_begun_all_the_same() {
    let fleet = Fleet::new(7, 2, vec![]);
    let one_hand = Limits { own: 1, ..MANY };
    let elder = fleet.spawn("w0", 0, one_hand);
    fleet.request(0).await;
    fleet.rigs[0].until("WorkerAssigned", 1).await;
    let other = fleet.spawn("w1", 1, one_hand);
    fleet.request(1).await;
    fleet.rigs[1].until("InstanceStopRequested", 1).await;
    assert_eq!(assigned(&fleet.rigs[1].history().await)[0].worker, "w1".into(), "the elder has its hand full");
    // The elder dies; the other, whose hand is full, too, takes its update over: a node may be down.
    elder.task.abort();
    fleet.rigs[0].until("WorkerAssigned", 2).await;
    let (history, end) = fleet.ended(0).await;
    assert!(matches!(end, End::Completed(_)), "{}", lines(&history));
    assert_eq!(assigned(&history)[1].reason, AssignedBecause::Silent);
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn after_failures_in_a_row_nothing_new_begins_until_a_person_says_so() {
    let fails = Fault::StartFails { instance_type: "m6i.xlarge".into(), code: "Unsupported".into(), times: u32::MAX };
    let fleet = Fleet::new(8, 3, vec![fails]);
    let limits = Limits { failures: Some(1), ..MANY };
    let _worker = fleet.spawn("w0", 0, limits);
    fleet.request(0).await;
    let (history, end) = fleet.ended(0).await;
    assert!(matches!(end, End::Failed(_)), "{}", lines(&history));
    tokio::time::sleep(Duration::from_secs(5)).await;
    fleet.request(1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(fleet.rigs[1].history().await.len(), 1, "it waits");
    // One that came after it and is not wanted any more is answered meanwhile.
    fleet.request(2).await;
    fleet.rigs[2].append(Event::CancelRequested(CancelRequested::default()), 77).await;
    let (_, end) = fleet.ended(2).await;
    assert!(matches!(end, End::Rejected(e) if e.reasons[0].code == "cancelled"));

    let reviewed = NewEvent {
        id: Uuid::from_u128(0xfa11),
        event_type: REVIEWED.into(),
        data: json!({ "by": "ada" }),
        metadata: json!({}),
    };
    fleet.rigs[0].log.append(&REVIEW_STREAM.into(), Expected::NoStream, vec![reviewed]).await.unwrap();
    let (history, end) = fleet.ended(1).await;
    assert!(matches!(end, End::Completed(_)), "{}", lines(&history));
    // What was completed since starts the count again, and the cluster whose request was cancelled is free.
    let again = Rig { update: UpdateId(Uuid::from_u128(78)), ..fleet.rigs[2].share() };
    let request = json!({ "cluster": "c2", "targetInstanceType": "m6i.xlarge" });
    again.append(Event::UpdateRequested(serde_json::from_value(request).unwrap()), 79).await;
    let (history, state) = again.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_asked_to_stop_hands_over_and_nobody_waits_for_the_lease() {
    for (step, fact) in ["NodeSelected", "InstanceStopRequested", "NodeUpdated"].into_iter().enumerate() {
        for same_name in [false, true] {
            let fleet = Fleet::new(9, 1, vec![]);
            let truth = fleet.rigs[0].watch_truth();
            let first = fleet.spawn("w0", 0, Limits::default());
            let second = (!same_name).then(|| fleet.spawn("w1", 1, Limits::default()));
            fleet.request(0).await;
            fleet.rigs[0].until(fact, 1).await;
            let holder = assigned(&fleet.rigs[0].history().await)[0].worker.clone();
            let (leaver, _stays) = match second {
                Some(second) if holder == "w1".into() => (second, Some(first)),
                Some(second) => (first, Some(second)),
                None => (first, None),
            };
            leaver.leaves().await;
            let left = fleet.rigs[0].clock.now();
            // A restart under the same name overwrites the heartbeat that said so.
            let _next = same_name.then(|| fleet.spawn("w0", 2, Limits::default()));
            fleet.rigs[0].until("WorkerAssigned", 2).await;
            let waited = fleet.rigs[0].clock.now().since(left);
            assert!(waited < Duration::from_secs(8), "{fact}, {same_name}: {waited:?}");
            let (history, end) = fleet.ended(0).await;
            let shown = format!("step {step} ({fact}), same name: {same_name}\n{}", lines(&history));
            assert!(matches!(end, End::Completed(_)), "{shown}");
            let reasons: Vec<AssignedBecause> = assigned(&history).iter().map(|a| a.reason).collect();
            assert_eq!(reasons, [AssignedBecause::Admitted, AssignedBecause::HandedOver], "{shown}");
            assert_eq!(truth.check(), [1, 1, 1, 1], "{shown}");
        }
    }
}

/// A worker's machine is this instance.
struct Upon(InstanceId);

#[async_trait]
impl Tap for Upon {
    async fn before(&self, _: Kind, _: &str) -> usize {
        0
    }
    async fn after(&self, _: usize) {}
    fn own_instance(&self) -> Option<&InstanceId> {
        Some(&self.0)
    }
}

impl Fleet {
    fn spawn_upon(&self, name: &str, incarnation: u128, instance: &InstanceId) -> Working {
        let rigs = self.rigs.iter().map(|rig| tapped(rig, Arc::new(Upon(instance.clone())))).collect();
        Fleet { rigs }.spawn(name, incarnation, MANY)
    }
}

/// What the update was parked for, each time.
fn parked(history: &[Recorded]) -> Vec<String> {
    let events = history.iter().filter_map(|r| if let Body::Event(event) = &r.body { Some(&**event) } else { None });
    events.filter_map(|e| if let Event::UpdateParked(p) = e { Some(p.code.clone()) } else { None }).collect()
}

/// Whoever planned refused its own machine; whoever takes the update over may run on another one.
#[tokio::test(start_paused = true)]
async fn nobody_stops_the_instance_it_runs_on_and_another_worker_goes_on() {
    use AssignedBecause::{Admitted, HandedOver};
    // How many workers run on the machine that comes next, and what the first worker had done when it left.
    for (seed, upon, fact, times) in [(3, 1, "NodeUpdated", 1), (4, 1, "TagRequested", 3), (5, 2, "NodeUpdated", 1)] {
        for another in [true, false] {
            let fleet = Fleet::new(seed, 1, vec![]);
            let rig = &fleet.rigs[0];
            let truth = rig.watch_truth();
            let first = fleet.spawn("w0", 0, MANY);
            let request = json!({ "cluster": "c0", "targetInstanceType": "m6i.xlarge", "dwellSeconds": 5 });
            rig.append(Event::UpdateRequested(serde_json::from_value(request).unwrap()), 1).await;
            rig.until(fact, times).await;
            let plan = fold(&rig.history().await).plan.unwrap();
            let next = plan.members.iter().find(|m| m.node == plan.order[1]).unwrap().instance.clone();
            let _upon: Vec<Working> = (0..upon).map(|n| fleet.spawn_upon(&format!("w1{n}"), 10 + n, &next)).collect();
            let elsewhere = another.then(|| fleet.spawn("w2", 2, MANY));
            first.leaves().await;
            if !another {
                rig.until("UpdateParked", 1).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                let index = (0..4).find(|n| rig.world.with(|w| w.instance_of(*n).clone()) == next).unwrap();
                let history = rig.history().await;
                assert_eq!(truth.stops()[index], 0, "{}", lines(&history));
                assert_eq!(parked(&history), ["ownMachine"], "{}", lines(&history));
                assert!(assigned(&history).len() <= 1 + upon as usize, "{}", lines(&history));
            }
            let _elsewhere = elsewhere.unwrap_or_else(|| fleet.spawn("w2", 2, MANY));
            let (history, end) = fleet.ended(0).await;
            let shown = format!("seed {seed}, {upon} on it, another: {another}\n{}", lines(&history));
            assert!(matches!(end, End::Completed(_)), "{shown}");
            let reasons: Vec<AssignedBecause> = assigned(&history).iter().map(|a| a.reason).collect();
            assert_eq!(reasons[0], Admitted, "{shown}");
            assert!(reasons.len() <= 2 + upon as usize && reasons[1..].iter().all(|r| *r == HandedOver), "{shown}");
            assert_eq!(assigned(&history).last().unwrap().worker, "w2".into(), "{shown}");
            assert_eq!(parked(&history).is_empty(), another, "{shown}");
            assert_eq!(truth.check(), [1, 1, 1, 1], "{shown}");
        }
    }
}
