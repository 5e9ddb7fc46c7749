//! No wait without an end: whatever a node, an instance or EC2 never does, the update ends, goes on or calls a person, and a stop whose
//! outcome nobody knows is not taken for one that was refused.

mod rig;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::cluster::{NodeState, ReplicaSubscription, View};
use esdb_rollout::domain::ec2::classify;
use esdb_rollout::domain::ids::{Address, InstanceId, InstanceType};
use esdb_rollout::domain::inspection::Inspection;
use esdb_rollout::domain::instance::{Instance, InstanceState, TypeInfo};
use esdb_rollout::ports::{ClusterAdmin, Done, Fleet, FleetError, NodeError, Wanted};
use esdb_rollout::sim::model::{Fault, Reachability};
use esdb_rollout::sim::world::World;
use esdb_rollout::update::event::*;
use esdb_rollout::update::state::{Body, End, Recorded, State, Step, fold};
use esdb_rollout::worker::{NodeMapping, StartPoint, Stop, Worker};
use rig::tap::{Kind, Tap, tapped};
use rig::{Rig, lines, outline, quick_world, request};
use serde_json::json;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(2 * 3600);
const TARGET: &str = "m6i.xlarge";

fn asks(more: serde_json::Value) -> UpdateRequested {
    let mut request = serde_json::to_value(request(TARGET)).unwrap();
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(request).unwrap()
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// EC2 between the worker and the simulated one.
struct Between {
    inner: Arc<dyn Fleet>,
    /// What the next stops are answered with, and whether they are carried out.
    stops: Mutex<Vec<(&'static str, bool)>>,
    /// An instance that is terminated, and was forgotten.
    forgotten: Mutex<Option<InstanceId>>,
    /// An instance that never gets from `stopping` to `stopped`.
    stuck: Mutex<Option<InstanceId>>,
    /// A type that nobody may give an instance.
    kept_from: Mutex<Option<InstanceType>>,
}

impl Between {
    fn put(rig: &mut Rig, stops: &[(&'static str, bool)]) -> Arc<Between> {
        let stops = Mutex::new(stops.iter().rev().copied().collect());
        let (forgotten, stuck, kept_from) = Default::default();
        let between = Arc::new(Between { inner: rig.fleet.clone(), stops, forgotten, stuck, kept_from });
        rig.fleet = between.clone();
        between
    }
}

fn fails(call: &str, code: &str) -> FleetError {
    let (call, message) = (call.into(), "as the test says".into());
    FleetError { call, class: classify(code), code: code.into(), message, request_id: None }
}

#[async_trait]
impl Fleet for Between {
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        let mut found = self.inner.describe(ids).await?;
        let forgotten = self.forgotten.lock().unwrap().clone();
        found.retain(|i| Some(&i.id) != forgotten.as_ref());
        let stuck = self.stuck.lock().unwrap().clone();
        found.iter_mut().filter(|i| Some(&i.id) == stuck.as_ref()).for_each(|i| i.state = InstanceState::Stopping);
        Ok(found)
    }

    async fn find(&self, wanted: &Wanted) -> Result<Vec<Instance>, FleetError> {
        self.inner.find(wanted).await
    }

    async fn type_info(&self, instance_type: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        self.inner.type_info(instance_type).await
    }

    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        self.inner.inspect(instances).await
    }

    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        let answer = self.stops.lock().unwrap().pop();
        let Some((code, carried_out)) = answer else { return self.inner.stop(id).await };
        if carried_out {
            self.inner.stop(id).await?;
        }
        Err(fails("StopInstances", code))
    }

    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        if self.kept_from.lock().unwrap().as_ref() == Some(to) {
            return Err(fails("ModifyInstanceAttribute", "UnauthorizedOperation"));
        }
        self.inner.modify_type(id, to).await
    }

    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.start(id).await
    }

    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.reboot(id).await
    }

    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.inner.tag(id, value).await
    }

    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.inner.untag(id, value).await
    }
}

/// What becomes of a priority that a node is told.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// It takes it.
    Takes,
    /// The first is not answered, and waits in the node's queue.
    TakesTheFirstLate,
    /// This one waits in its queue.
    Late(i32),
    /// It denies it.
    Denies,
}

/// The nodes, with somebody in between.
struct Nodes {
    inner: Arc<dyn ClusterAdmin>,
    priorities: Mutex<Told>,
    /// Whether a host name says anything of where the node runs.
    resolves: bool,
}

#[async_trait]
impl ClusterAdmin for Nodes {
    async fn gossip(&self, node: &Address) -> Result<View, NodeError> {
        self.inner.gossip(node).await
    }

    async fn live(&self, node: &Address) -> Result<bool, NodeError> {
        self.inner.live(node).await
    }

    async fn cluster_size(&self, node: &Address) -> Result<Option<u32>, NodeError> {
        self.inner.cluster_size(node).await
    }

    async fn replication(&self, node: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        self.inner.replication(node).await
    }

    async fn scavenge(&self, node: &Address) -> Result<Option<String>, NodeError> {
        self.inner.scavenge(node).await
    }

    async fn set_priority(&self, node: &Address, priority: i32) -> Result<(), NodeError> {
        let told = *self.priorities.lock().unwrap();
        match told {
            Told::Takes => self.inner.set_priority(node, priority).await,
            Told::TakesTheFirstLate => {
                *self.priorities.lock().unwrap() = Told::Late(priority);
                tokio::time::sleep(seconds(3)).await;
                Err(NodeError::TimedOut { node: node.clone(), after_ms: 3_000 })
            }
            Told::Late(first) => {
                *self.priorities.lock().unwrap() = Told::Takes;
                self.inner.set_priority(node, first).await?;
                self.inner.set_priority(node, priority).await
            }
            Told::Denies => Err(NodeError::Status { node: node.clone(), what: "priority".into(), status: 403 }),
        }
    }

    async fn resign(&self, node: &Address) -> Result<(), NodeError> {
        self.inner.resign(node).await
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NodeError> {
        if self.resolves { self.inner.resolve(host).await } else { Ok(vec![]) }
    }
}

fn nodes(rig: &mut Rig, priorities: Told) -> Arc<Nodes> {
    let nodes = Arc::new(Nodes { inner: rig.admin.clone(), priorities: Mutex::new(priorities), resolves: true });
    rig.admin = nodes.clone();
    nodes
}

/// Plays an update; `meddle` has the world while it runs. The rules hold in it.
async fn play<F: Future<Output = ()>>(rig: &Rig, asked: UpdateRequested, meddle: F) -> (Vec<Recorded>, State) {
    let truth = rig.watch_truth();
    let found = play_unwatched(rig, asked, meddle).await;
    truth.check();
    found
}

/// The same, where somebody else breaks the rules.
async fn play_unwatched<F: Future<Output = ()>>(
    rig: &Rig,
    asked: UpdateRequested,
    meddle: F,
) -> (Vec<Recorded>, State) {
    rig.append(asked.into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    meddle.await;
    let found = rig.ended(LIMIT).await;
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    found
}

/// The update waits for a person, with this code.
async fn parked(rig: &Rig, code: &str) {
    for _ in 0..2 * 3600 {
        let history = rig.history().await;
        if fold(&history).parked.is_some_and(|p| p.code == code) {
            return;
        }
        tokio::time::sleep(seconds(1)).await;
    }
    panic!("no person is called for {code}\n{}", lines(&rig.history().await));
}

fn ended_as(found: &(Vec<Recorded>, State)) -> String {
    match &found.1.end {
        Some(End::Completed(_)) => "completed".into(),
        Some(End::Failed(e)) => format!("failed {}", e.code),
        Some(End::Cancelled(e)) => format!("cancelled, {} down", e.not_running.len()),
        other => panic!("{other:?}\n{}", lines(&found.0)),
    }
}

fn in_hand(w: &World) -> usize {
    (0..w.node_count()).find(|n| w.instance_type(*n) == TARGET).expect("the first")
}

fn terminate(w: &mut World, n: usize) {
    let id = w.instance_of(n).clone();
    let is = w.describe_instances(&[id]).unwrap().remove(0);
    w.follow_instance(n, &Instance { state: InstanceState::Terminated, ..is });
}

fn cancel() -> Event {
    CancelRequested { superseded_by: None, by: Some("ann".into()), why: None }.into()
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_ends_in_a_fault_may_have_been_carried_out() {
    for code in ["ServiceUnavailable", "InternalError", "Unreadable", "NoCode"] {
        let mut rig = Rig::new(quick_world(41));
        Between::put(&mut rig, &[(code, true)]);
        let pauses = async {
            rig.until("InstanceStopRequested", 1).await;
            rig.append(PauseRequested::default().into(), 2).await;
            rig.until("CaughtUp", 1).await;
            tokio::time::sleep(seconds(60)).await;
            let history = rig.history().await;
            let running = rig.world.with(|w| (0..4).all(|n| w.instance_state(n) == InstanceState::Running));
            assert!(running, "{code}: paused with a node down\n{}", lines(&history));
            rig.append(ResumeRequested::default().into(), 3).await;
        };
        let found = play(&rig, request(TARGET), pauses).await;
        assert_eq!(ended_as(&found), "completed", "{code}\n{}", lines(&found.0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unresolved_stop_of_a_node_that_is_silent_calls_a_person() {
    let mut rig = Rig::new(quick_world(42));
    Between::put(&mut rig, &[("ServiceUnavailable", false)]);
    let dies = async {
        rig.until("InstanceStopRequested", 1).await;
        // The replica's process ends for good, and its instance runs on.
        rig.world.with(|w| w.shutdown(3));
        rig.append(cancel(), 2).await;
        parked(&rig, "stopUnresolved").await;
        rig.world.with(|w| {
            let id = w.instance_of(3).clone();
            w.reboot_instance(&id).unwrap();
        });
    };
    let found = play(&rig, request(TARGET), dies).await;
    assert_eq!(ended_as(&found), "cancelled, 0 down", "{}", lines(&found.0));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_process_keeps_ending_calls_a_person() {
    let rig = Rig::new(quick_world(44));
    let flaps = async {
        rig.until("NodeRejoined", 1).await;
        let n = rig.world.with(|w| in_hand(w));
        let flapping = async {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if rig.world.with(|w| w.reachability(n)) == Reachability::Answers {
                    // Too short to prove anything.
                    tokio::time::sleep(Duration::from_millis(1300)).await;
                    rig.world.with(|w| w.kill(n));
                }
            }
        };
        tokio::select! {
            () = parked(&rig, "nodeKeepsEnding") => {}
            () = flapping => {}
        }
    };
    let found = play(&rig, request(TARGET), flaps).await;
    assert_eq!(ended_as(&found), "completed", "{}", lines(&found.0));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_terminated_after_its_start_ends_the_update() {
    for fact in ["InstanceStarted", "NodeRejoined"] {
        let rig = Rig::new(quick_world(45));
        let ends = async {
            rig.until(fact, 1).await;
            rig.world.with(|w| {
                let n = in_hand(w);
                terminate(w, n);
            });
        };
        let found = play(&rig, request(TARGET), ends).await;
        assert_eq!(ended_as(&found), "failed instanceTerminated", "after {fact}\n{}", lines(&found.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_terminated_while_it_is_made_to_follow_ends_the_update() {
    for fact in ["PriorityLoweringRequested", "PriorityLowered", "ResignationRequested"] {
        let mut config = quick_world(46);
        config.faults.push(Fault::ResignationsIgnored { times: u32::MAX });
        let rig = Rig::new(config);
        let ends = async {
            rig.until(fact, 1).await;
            rig.world.with(|w| {
                let leader = w.leader().unwrap();
                terminate(w, leader);
            });
        };
        let found = play_unwatched(&rig, request(TARGET), ends).await;
        assert_eq!(ended_as(&found), "failed instanceTerminated", "after {fact}\n{}", lines(&found.0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_election_that_nobody_can_agree_on_does_not_keep_a_cancelled_update() {
    let mut config = quick_world(47);
    config.faults.push(Fault::ResignationsIgnored { times: u32::MAX });
    let rig = Rig::new(config);
    let goes = async {
        rig.until("ResignationRequested", 1).await;
        // The replica goes for good: from now on there is no agreement of all.
        rig.world.with(|w| w.shutdown(3));
        tokio::time::sleep(seconds(5)).await;
        rig.append(cancel(), 2).await;
    };
    let found = play(&rig, request(TARGET), goes).await;
    let shown = lines(&found.0);
    assert_eq!(ended_as(&found), "cancelled, 0 down", "{shown}");
    assert!(outline(&found.0).contains("PriorityRestored"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_lowered_leader_that_falls_silent_calls_a_person() {
    let mut config = quick_world(48);
    config.faults.push(Fault::ResignationsIgnored { times: u32::MAX });
    let rig = Rig::new(config);
    let freezes = async {
        rig.until("ResignationRequested", 1).await;
        let leader = rig.world.with(|w| w.leader().unwrap());
        rig.world.with(|w| w.freeze(leader));
        rig.append(cancel(), 2).await;
        parked(&rig, "priorityNotRestored").await;
        rig.world.with(|w| w.unfreeze(leader));
    };
    let found = play(&rig, request(TARGET), freezes).await;
    assert_eq!(ended_as(&found), "cancelled, 0 down", "{}", lines(&found.0));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ec2_has_forgotten_does_not_keep_an_end_from_being_recorded() {
    let mut rig = Rig::new(quick_world(49));
    let between = Between::put(&mut rig, &[]);
    let forgets = async {
        rig.until("NodeUpdated", 1).await;
        rig.append(PauseRequested::default().into(), 2).await;
        rig.until("UpdatePaused", 1).await;
        // A follower that is not in hand is terminated, and an hour later EC2 knows nothing of it.
        let (n, id) = rig.world.with(|w| {
            let n = (0..3).find(|n| w.own_state(*n) == NodeState::Follower).unwrap();
            terminate(w, n);
            (n, w.instance_of(n).clone())
        });
        tokio::time::sleep(seconds(60)).await;
        *between.forgotten.lock().unwrap() = Some(id);
        tokio::time::sleep(seconds(600)).await;
        assert!(n < 3);
        rig.append(cancel(), 3).await;
    };
    let found = play(&rig, request(TARGET), forgets).await;
    assert_eq!(ended_as(&found), "cancelled, 1 down", "{}", lines(&found.0));
}

#[tokio::test(start_paused = true)]
async fn no_node_is_stopped_on_a_history_that_cannot_be_trusted() {
    let mut rig = Rig::new(quick_world(50));
    Between::put(&mut rig, &[("ServiceUnavailable", false)]);
    rig.append(request(TARGET).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("InstanceStopRequested", 1).await;
    // The call came to nothing; and somebody claims what cannot be.
    let claimed = TypeModified {
        node: "esdb-4".into(),
        attempt: 1,
        instance: rig.world.with(|w| w.instance_of(3).clone()),
        instance_type: TARGET.into(),
        ec2: Ec2Word { state: InstanceState::Running, reason: None, request_id: None },
        return_ticket: false,
        observed: vec![],
    };
    rig.append(claimed.into(), 2).await;
    parked(&rig, "historyIllegal").await;
    let history = rig.history().await;
    assert_eq!(outline(&history).matches("InstanceStopRequested").count(), 1, "{}", lines(&history));
    assert_eq!(rig.world.with(|w| w.instance_state(3)), InstanceState::Running);
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_rest_between_two_nodes_is_counted_from_the_end_of_the_first() {
    let rig = Rig::new(quick_world(51));
    let asked = asks(json!({ "gates": ["afterFirst"], "dwellSeconds": 60, "nodes": ["esdb-4", "esdb-1"] }));
    let approves = async {
        rig.until("ApprovalAwaited", 1).await;
        let answers = rig.history().await.last().unwrap().revision;
        tokio::time::sleep(seconds(30)).await;
        let approval = ApprovalGranted { answers, check: None, node: None, until: None, by: None, why: None };
        rig.append(approval.into(), 2).await;
    };
    let (history, state) = play(&rig, asked, approves).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    let at = |fact: &str, nth: usize| {
        let found = shown.lines().filter(|l| l.contains(fact)).nth(nth).unwrap_or_else(|| panic!("{shown}"));
        found.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    let rested = at("NodeSelected", 1) - at("NodeUpdated", 0);
    assert!((90.0..100.0).contains(&rested), "{rested}\n{shown}");
    let dwells = |r: &&Recorded| matches!(&r.body, Body::Event(e) if matches!(&**e, Event::StepDelayed(d) if d.reason == "dwelling"));
    assert_eq!(history.iter().filter(dwells).count(), 1, "a status can tell\n{shown}");
}

#[tokio::test(start_paused = true)]
async fn there_is_no_rest_after_a_node_that_was_skipped() {
    let rig = Rig::new(quick_world(52));
    let request = json!({ "cluster": "prod", "strategy": "Ec2InstanceRestart", "dwellSeconds": 600, "nodes": ["esdb-4", "esdb-2"],
        "resumes": [{ "node": "esdb-4", "done": true }, { "node": "esdb-2" }] });
    let (history, state) = play(&rig, serde_json::from_value(request).unwrap(), async {}).await;
    let shown = lines(&history);
    assert!(matches!(&state.end, Some(End::Completed(e)) if e.seconds < 600.0), "{shown}");
    assert!(outline(&history).contains("NodeSkipped esdb-4"), "{shown}");
}

/// Two instances stand under each other's names in the worker's configuration.
#[tokio::test(start_paused = true)]
async fn a_machine_that_is_not_the_nodes_is_started_again_as_it_was_and_the_update_fails() {
    let mut rig = Rig::new(quick_world(53));
    // From where the worker runs nothing speaks against it.
    rig.admin = Arc::new(Nodes { inner: rig.admin.clone(), priorities: Mutex::new(Told::Takes), resolves: false });
    let worker = rig.worker(0);
    let mut clusters = (*worker.clusters).clone();
    let (node, machine) = rig.world.with(|w| {
        let leader = w.leader().unwrap();
        ((0..3).find(|n| *n != leader).unwrap(), leader)
    });
    for n in 0..4 {
        let its = if n == node {
            machine
        } else if n == machine {
            node
        } else {
            n
        };
        let (instance, address) = rig.world.with(|w| (w.instance_of(its).clone(), w.address(n).clone()));
        let mapping = NodeMapping { instance, address: Some(address), address_translated: false };
        clusters.values_mut().next().unwrap().nodes.insert(format!("esdb-{}", n + 1).as_str().into(), mapping);
    }
    let worker = Worker { clusters: Arc::new(clusters), ..worker };
    rig.append(asks(json!({ "nodes": [format!("esdb-{}", node + 1)] })).into(), 1).await;
    let (stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let working = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    let found = rig.ended(seconds(900)).await;
    let shown = lines(&found.0);
    assert_eq!(ended_as(&found), "failed instanceNotTheNodes", "{shown}");
    rig.world.with(|w| {
        assert_eq!(w.instance_state(machine), InstanceState::Running, "{shown}");
        assert_eq!(w.instance_type(machine), "m6i.large", "as it was\n{shown}");
    });
    assert!(outline(&found.0).contains("Untagged"), "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    working.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_its_supervisor_restarts_while_the_stop_is_not_carried_out_was_not_stopped() {
    for strategy in ["Ec2InstanceTypeUpdate", "Ec2InstanceRestart"] {
        let mut rig = Rig::new(quick_world(54));
        Between::put(&mut rig, &[("RequestLimitExceeded", false); 3]);
        let target = (strategy == "Ec2InstanceTypeUpdate").then_some(TARGET);
        let asked =
            json!({ "cluster": "prod", "strategy": strategy, "nodes": ["esdb-4"], "targetInstanceType": target });
        let truth = rig.watch_truth();
        rig.append(Event::UpdateRequested(serde_json::from_value(asked).unwrap()), 1).await;
        let (worker, stop) = rig.spawn(0);
        rig.until("InstanceStopRequested", 1).await;
        rig.world.with(|w| w.kill(3));
        let found = rig.ended(LIMIT).await;
        let shown = lines(&found.0);
        assert_eq!(ended_as(&found), "completed", "{strategy}\n{shown}");
        assert_eq!(truth.check(), [0, 0, 0, 1], "{strategy}\n{shown}");
        stop.send(Stop::AtSafePoint).unwrap();
        worker.await.unwrap().unwrap();
    }
}

/// The process that is to be stopped is first seen by the successor after the intent to stop it, and has more data than may be missing.
#[tokio::test(start_paused = true)]
async fn a_take_over_before_the_stop_takes_no_restart_for_lost_data() {
    for seed in 55..60 {
        let mut config = quick_world(seed);
        config.initial_log_bytes = 600_000_000;
        let mut rig = Rig::new(config);
        Between::put(&mut rig, &[("ServiceUnavailable", false)]);
        rig.append(asks(json!({ "nodes": ["esdb-4"] })).into(), 1).await;
        let (worker, _stop) = rig.spawn(0);
        rig.until("InstanceStopRequested", 1).await;
        worker.abort();
        let (successor, stop) = rig.spawn(1);
        let found = rig.ended(LIMIT).await;
        assert_eq!(ended_as(&found), "completed", "seed {seed}\n{}", lines(&found.0));
        stop.send(Stop::AtSafePoint).unwrap();
        successor.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_further_and_never_arrives_calls_a_person() {
    let mut config = quick_world(60);
    (config.load_bytes_per_second, config.catch_up_bytes_per_second) = (50_000, 20_000);
    let rig = Rig::new(config);
    let asked = asks(json!({ "nodes": ["esdb-4"], "nodeTimeoutSeconds": 900 }));
    rig.append(asked.into(), 1).await;
    let (worker, _stop) = rig.spawn(0);
    parked(&rig, "catchUpTakesLong").await;
    let history = rig.history().await;
    let began = fold(&history).in_hand.map(|h| h.step);
    assert_eq!(began, Some(Step::Rejoined), "it is left running\n{}", lines(&history));
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_in_stopping_while_it_is_to_start_calls_a_person() {
    let mut rig = Rig::new(quick_world(61));
    let between = Between::put(&mut rig, &[]);
    let hangs = async {
        rig.until("InstanceStartRequested", 1).await;
        *between.stuck.lock().unwrap() = Some(rig.world.with(|w| w.instance_of(3).clone()));
        parked(&rig, "instanceStopsNot").await;
        *between.stuck.lock().unwrap() = None;
    };
    let found = play(&rig, asks(json!({ "nodes": ["esdb-4"] })), hangs).await;
    assert_eq!(ended_as(&found), "completed", "{}", lines(&found.0));
}

/// It had no room for the new type, and the right to go back is gone: what is left is the type that it has.
#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_be_given_its_old_type_back_is_started_as_it_is() {
    let mut config = quick_world(63);
    let code = "InsufficientInstanceCapacity".to_owned();
    config.faults.push(Fault::StartFails { instance_type: TARGET.into(), code, times: 5 });
    let mut rig = Rig::new(config);
    let between = Between::put(&mut rig, &[]);
    *between.kept_from.lock().unwrap() = Some("m6i.large".into());
    let found = play(&rig, asks(json!({ "nodes": ["esdb-1"] })), async {}).await;
    let shown = lines(&found.0);
    assert_eq!(ended_as(&found), "completed", "{shown}");
    let count = |fact: &str, of: &str| shown.lines().filter(|l| l.contains(fact) && l.contains(of)).count();
    assert_ne!(count("UpdateParked", "instanceWillNotStart"), 0, "{shown}");
    // Three for want of room, then two, each between two tries to change the type; before the third it has room.
    assert_eq!((count("InstanceStartFailed", TARGET), count("InstanceStartFailed", "m6i.large")), (5, 5), "{shown}");
}

/// Whether EC2 gives this worker no answer.
#[derive(Default)]
struct Deaf(AtomicBool);

#[async_trait]
impl Tap for Deaf {
    async fn before(&self, kind: Kind, _: &str) -> usize {
        if matches!(kind, Kind::Ec2 | Kind::Ec2Change) && self.0.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        0
    }
    async fn after(&self, _: usize) {}
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_hear_ec2_leaves_a_node_that_is_down_to_whoever_does() {
    for another in [true, false] {
        let rig = Rig::new(quick_world(62));
        rig.append(request(TARGET).into(), 1).await;
        let deaf = Arc::new(Deaf::default());
        let (_worker, _stop) = tapped(&rig, deaf.clone()).spawn(0);
        rig.until("WorkerAssigned", 1).await;
        let (_stop_of_other, stopped) = watch::channel(Stop::No);
        if another {
            let mut other = rig.worker(1);
            other.writer.worker = "w2".into();
            tokio::spawn(other.run(StartPoint::CheckpointOrBeginning, stopped));
        }
        rig.until("InstanceStopRequested", 2).await;
        deaf.0.store(true, Ordering::Relaxed);
        let deaf_since = rig.clock.now();
        if another {
            rig.until("InstanceStarted", 2).await;
            let down = rig.clock.now().since(deaf_since);
            assert!(down < seconds(75), "{down:?}");
        } else {
            parked(&rig, "instanceUnseen").await;
            tokio::time::sleep(seconds(300)).await;
        }
        deaf.0.store(false, Ordering::Relaxed);
        let found = rig.ended(LIMIT).await;
        let shown = lines(&found.0);
        assert_eq!(ended_as(&found), "completed", "{shown}");
        let assigned = |r: &Recorded| match &r.body {
            Body::Event(event) => matches!(&**event, Event::WorkerAssigned(_)),
            Body::Unreadable { .. } | Body::Newer { .. } => false,
        };
        let takers = found.0.iter().filter(|r| assigned(r)).count();
        assert_eq!(takers, if another { 2 } else { 1 }, "{shown}");
    }
}

fn leader(rig: &Rig) -> usize {
    rig.world.with(|w| w.leader().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_is_lowered_late_is_given_back_all_the_same() {
    let mut rig = Rig::new(quick_world(62));
    let told = nodes(&mut rig, Told::TakesTheFirstLate);
    let n = leader(&rig);
    let cancels = async {
        rig.until("PriorityLoweringRequested", 1).await;
        rig.append(cancel(), 2).await;
    };
    let found = play(&rig, asks(json!({ "nodes": [format!("esdb-{}", n + 1)] })), cancels).await;
    let shown = lines(&found.0);
    assert_eq!(ended_as(&found), "cancelled, 0 down", "{shown}");
    let late = *told.priorities.lock().unwrap();
    assert!(late == Told::Takes, "nothing is left in its queue\n{shown}");
    assert_eq!(rig.world.with(|w| w.priority(n)), 0, "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_takes_no_priority_is_let_go_with_the_reason() {
    let mut rig = Rig::new(quick_world(63));
    nodes(&mut rig, Told::Denies);
    let n = leader(&rig);
    let found = play(&rig, asks(json!({ "nodes": [format!("esdb-{}", n + 1)] })), async {}).await;
    assert_eq!(ended_as(&found), "failed priorityNotLowered", "{}", lines(&found.0));
}
