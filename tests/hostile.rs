//! Streams that nobody should have written: whatever stands there is folded without a panic, and told apart from what is sound; the worker
//! answers or parks that one update, and the others go on.

mod rig;
#[path = "hostile/unseen.rs"]
mod unseen;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use esdb_rollout::codec::decode;
use esdb_rollout::domain::ids::{ClusterName, Revision, StreamName, UpdateId};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::domain::time::Moment;
use esdb_rollout::ports::StoredEvent;
use esdb_rollout::sim::model::{ExpectedRevision, ProposedEvent, Write, WriteOutcome};
use esdb_rollout::update::event::{CancelRequested, Event, Kind};
use esdb_rollout::update::react::answer_command;
use esdb_rollout::update::state::{Body, End, Recorded, State, UNANSWERED_HELD, fold};
use esdb_rollout::worker::{Limits, StartPoint, Stop, Worker, WorkerError};
use proptest::prelude::*;
use rig::tap::{Kind as CallKind, Tap, tapped};
use rig::{Rig, lines, outline, quick_world, request};
use serde_json::{Value, json};
use unseen::look;
use uuid::Uuid;

/// Every frozen example: stored type and data.
fn vocabulary() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events");
    let mut found: Vec<(String, Value)> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let name = stem.split(['.', '-']).next().unwrap().to_owned();
        if path.extension().is_some_and(|e| e == "json") && Event::kind_of(&name).is_some() {
            found.push((name, serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.to_string().cmp(&b.1.to_string())));
    assert!(found.len() >= Event::TYPES.len(), "{} examples", found.len());
    found
}

fn stored(revision: usize, event_type: &str, data: Value, ours: bool) -> StoredEvent {
    StoredEvent {
        stream: StreamName::from("clusterUpdate-x"),
        revision: Revision(revision as u64),
        position: None,
        id: Uuid::from_u128(revision as u128),
        event_type: event_type.to_owned(),
        data,
        metadata: if ours { json!({ "worker": "w", "incarnation": Uuid::nil() }) } else { Value::Null },
        is_json: true,
        created: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z$]{1,8}", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_under_any_type_is_decoded_to_something(which in 0..200_usize, data in json_value(), ours in any::<bool>()) {
        let types = Event::TYPES;
        let event_type = types.get(which % (types.len() + 1)).copied().unwrap_or("SomethingElse");
        let recorded = decode(&stored(0, event_type, data, ours), Moment::default());
        if let Body::Event(event) = &recorded.body {
            prop_assert_eq!(event.type_name(), event_type);
        }
        let state = fold([&recorded]);
        prop_assert!(state.request.is_some() || state.bad_request.is_some() || state.broken.is_some());
    }

    #[test]
    fn any_order_of_events_folds_and_folding_on_is_folding_from_the_start(picks in prop::collection::vec(0..1000_usize, 1..40), cut in 0..40_usize) {
        let words = vocabulary();
        let request = words.iter().position(|(name, _)| name == "UpdateRequested").unwrap();
        let order: Vec<usize> = [request].into_iter().chain(picks.into_iter().map(|p| p % words.len())).collect();
        let history: Vec<Recorded> = order
            .iter()
            .enumerate()
            .map(|(i, w)| decode(&stored(i, &words[*w].0, words[*w].1.clone(), true), Moment::default()))
            .collect();
        let whole = fold(&history);
        let cut = cut.min(history.len());
        let mut on = fold(&history[..cut]);
        for recorded in &history[cut..] {
            on.evolve(recorded);
        }
        // What was folded already is passed over.
        for recorded in &history[..cut] {
            on.evolve(recorded);
        }
        prop_assert_eq!(&on, &whole);
        prop_assert_eq!(whole.last_revision(), Some(Revision(history.len() as u64 - 1)));
        // A node counts as out of service, or as done, only by facts in a legal order.
        if let Some(hand) = &whole.in_hand {
            prop_assert!(whole.plan.as_ref().is_some_and(|p| p.members.iter().any(|m| m.node == hand.node)));
            prop_assert!(!hand.step.out_of_service() || !hand.return_types.is_empty());
        }
        if let Some(answer) = answer_command(&whole) {
            prop_assert_eq!(answer.kind(), Kind::Fact);
        }
    }
}

/// The stream of an update that really ran.
fn real_history() -> &'static [StoredEvent] {
    static HISTORY: OnceLock<Vec<StoredEvent>> = OnceLock::new();
    HISTORY.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new(quick_world(21));
            let (history, state) = rig.run(request("m6i.xlarge"), Duration::from_secs(3600)).await;
            assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
            rig.log.read(&rig.update.stream(), Revision(0), 1000).await.unwrap()
        })
    })
}

/// One thing that is done to a history.
#[derive(Clone, Debug)]
enum Forgery {
    Drop(usize),
    Repeat(usize, usize),
    Swap(usize, usize),
    Cut(usize),
    Say(usize, usize),
    /// Another leaf at this place of this event.
    Leaf(usize, usize, Value),
}

fn forgery() -> impl Strategy<Value = Forgery> {
    let at = 0..400_usize;
    let leaf = prop::sample::select(vec![
        json!(-1),
        json!(0),
        json!(i32::MIN),
        json!(i32::MAX),
        json!(u32::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(-1e308),
        json!(""),
        json!("9999-12-31T23:59:59Z"),
        json!("-009999-01-01T00:00:00Z"),
        json!("esdb-1"),
        json!(null),
        json!([]),
    ]);
    prop_oneof![
        1 => at.clone().prop_map(Forgery::Drop),
        1 => (at.clone(), at.clone()).prop_map(|(a, b)| Forgery::Repeat(a, b)),
        1 => (at.clone(), at.clone()).prop_map(|(a, b)| Forgery::Swap(a, b)),
        2 => at.clone().prop_map(Forgery::Cut),
        1 => (at.clone(), at.clone()).prop_map(|(a, b)| Forgery::Say(a, b)),
        6 => (at.clone(), at, leaf).prop_map(|(a, b, v)| Forgery::Leaf(a, b, v)),
    ]
}

/// Every leaf of a value, in order.
fn leaves(value: &mut Value) -> Vec<&mut Value> {
    let is_leaf = match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    match value {
        leaf if is_leaf => vec![leaf],
        Value::Array(items) => items.iter_mut().flat_map(leaves).collect(),
        Value::Object(map) => map.values_mut().flat_map(leaves).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn forged(forgeries: &[Forgery]) -> Vec<StoredEvent> {
    let mut history = real_history().to_vec();
    for forgery in forgeries {
        let len = history.len();
        match forgery {
            Forgery::Drop(a) if len > 1 => drop(history.remove(a % len)),
            Forgery::Repeat(a, b) => history.insert(b % len, history[a % len].clone()),
            Forgery::Swap(a, b) => history.swap(a % len, b % len),
            Forgery::Cut(a) => history.truncate(1 + a % len),
            Forgery::Say(a, b) => {
                let words = vocabulary();
                let (name, data) = &words[a % words.len()];
                history.insert(b % len, stored(0, name, data.clone(), true));
            }
            Forgery::Leaf(a, b, with) => {
                let event = &mut history[a % len];
                let (mut data, mut metadata) = (event.data.take(), event.metadata.take());
                {
                    let mut all = leaves(&mut data);
                    all.extend(leaves(&mut metadata));
                    let count = all.len();
                    *all[b % count] = with.clone();
                }
                (event.data, event.metadata) = (data, metadata);
            }
            Forgery::Drop(_) => {}
        }
    }
    for (n, event) in history.iter_mut().enumerate() {
        event.revision = Revision(n as u64);
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_history_that_was_tampered_with_is_folded_judged_and_shown_without_a_panic(
        forgeries in prop::collection::vec(forgery(), 1..8),
        which in 0..4_usize,
        late in any::<bool>(),
    ) {
        let instance_state =
            [InstanceState::Running, InstanceState::Stopped, InstanceState::Stopping, InstanceState::Terminated][which];
        let now = Moment(Duration::from_secs(if late { 100_000_000 } else { 1 }));
        let history: Vec<Recorded> =
            forged(&forgeries).iter().map(|e| decode(e, Moment::default())).collect();
        let mut state = State::default();
        for (n, recorded) in history.iter().enumerate() {
            state.evolve(recorded);
            if n % 7 == 0 || n + 1 == history.len() {
                look(&history[..=n], &state, Some(instance_state), now);
            }
        }
    }
}

#[test]
fn a_time_limit_that_no_plan_accepts_stops_no_worker() {
    let selected = real_history().iter().position(|e| e.event_type == "NodeSelected").unwrap();
    for number in [-1.0, 0.0, 1e18, 1e30, f64::MAX] {
        let mut history = real_history()[..=selected].to_vec();
        let node = history[selected].data["node"].clone();
        history[0].data["nodeTimeoutSeconds"] = json!(number);
        history[0].data["resumes"] = json!([{ "node": node, "spentSeconds": number }]);
        let history: Vec<Recorded> = history.iter().map(|e| decode(e, Moment::default())).collect();
        let state = fold(&history);
        assert!(state.in_hand.is_some() && state.broken.is_none(), "{number}: {:?}", state.broken);
        look(&history, &state, Some(InstanceState::Running), Moment(Duration::from_secs(60)));
    }
}

/// What somebody writes who wishes us ill: type, data, metadata.
fn ill(incarnation: Uuid) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let ours = serde_json::to_vec(&json!({ "worker": "w1", "incarnation": incarnation })).unwrap();
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let nested = format!("{}1{}", "{\"a\":".repeat(120), "}".repeat(120)).into_bytes();
    let huge = format!("{{\"by\":\"{}\"}}", "x".repeat(900_000)).into_bytes();
    let long = format!("\"{}\"", "y".repeat(900_000)).into_bytes();
    vec![
        ("PauseRequested", vec![0xff, 0xfe, 0x00, 0x80], vec![]),
        ("PauseRequested", deep.clone(), deep),
        ("ResumeRequested", nested.clone(), nested),
        ("CheckWaived", huge, vec![]),
        ("ApprovalGranted", long, ours.clone()),
        ("ApprovalGranted", b"{\"answers\":18446744073709551615}".to_vec(), vec![]),
        ("ApprovalGranted", b"{\"answers\":1e400}".to_vec(), vec![]),
        ("UpdateRequested", b"{\"cluster\":\"prod\"}".to_vec(), vec![]),
        ("$>", b"0@clusterUpdate-x".to_vec(), vec![]),
        ("", b"".to_vec(), b"null".to_vec()),
        ("SomethingElse", b"{}".to_vec(), b"[]".to_vec()),
    ]
}

/// A second cluster whose store is the first one's, and a worker for both.
fn two_clusters(seed: u64) -> (Rig, Rig, Worker) {
    let (one, other) = (Rig::new(quick_world(seed)), Rig::new(quick_world(seed + 1000)));
    let other = Rig { log: one.log.clone(), clock: one.clock.clone(), ..other };
    let mut worker = one.worker(0);
    let handle = |rig: &Rig| rig.worker(0).clusters.values().next().unwrap().clone();
    let clusters = [(ClusterName::from("prod"), handle(&one)), (ClusterName::from("other"), handle(&other))];
    worker.clusters = Arc::new(clusters.into());
    worker.limits = Limits { own: 5, fleet: 5, failures: None };
    (one, other, worker)
}

async fn write(rig: &Rig, stream: &str, id: u128, event: (&str, Vec<u8>, Vec<u8>)) {
    let (event_type, data, metadata) = event;
    let event = ProposedEvent { id: Uuid::from_u128(id), event_type: event_type.into(), is_json: true, data, metadata };
    for _ in 0..200 {
        if let Some(leader) = rig.world.with(|w| w.leader()) {
            let write = Write::Append(vec![event.clone()]);
            if let WriteOutcome::Done { .. } = rig.world.write(leader, true, stream, ExpectedRevision::Any, write).await
            {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{event_type} could not be written to {stream}");
}

#[tokio::test(start_paused = true)]
async fn ill_written_events_are_answered_and_the_update_and_the_others_go_on() {
    let (one, other, worker) = two_clusters(31);
    let truth = one.watch_truth();
    let ill = ill(Uuid::from_u128(0xbad));
    let (stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let working = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    one.append(request("m6i.xlarge").into(), 1).await;
    let other_request = json!({ "cluster": "other", "targetInstanceType": "m6i.xlarge" });
    other.append(Event::UpdateRequested(serde_json::from_value(other_request).unwrap()), 2).await;
    let update = one.update.stream();
    let mut id = 1000;
    for fact in ["UpdatePlanned", "InstanceStopRequested", "InstanceStarted", "NodeUpdated"] {
        one.until(fact, 1).await;
        for event in ill.clone() {
            id += 1;
            write(&one, update.as_str(), id, event.clone()).await;
            // In streams of its own, of nobody, of workers and of clusters, too.
            for stream in ["clusterUpdate-7f1c2a34-0000-4000-8000-000000000001", "clusterUpdate-x", "updateWorker-w9"] {
                id += 1;
                write(&one, stream, id, event.clone()).await;
            }
            for stream in ["updatedCluster-prod", "updatedCluster-other", "updateFailures"] {
                id += 1;
                write(&one, stream, id, event.clone()).await;
            }
        }
    }
    let (history, state) = one.ended(Duration::from_secs(7200)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{:?}\n{}", state.broken, lines(&history));
    assert_eq!(truth.check(), [1, 1, 1, 1], "{}", lines(&history));
    let refused = outline(&history).matches("CommandRefused").count();
    assert!(refused >= ill.len() * 3, "{refused} answers\n{}", lines(&history));
    let (history, state) = other.ended(Duration::from_secs(7200)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    stop.send(Stop::AtSafePoint).unwrap();
    working.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn forged_facts_park_that_update_with_every_node_running_and_the_others_go_on() {
    let forgeries: [(&str, &str, &[&str]); 3] = [
        ("UpdatePlanned", "UpdateCompleted", &[]),
        ("InstanceStopRequested", "NodeUpdated", &["caught up"]),
        ("CaughtUp", "NoSuchFact", &["caught up"]),
    ];
    for (number, (when, fact, left)) in forgeries.into_iter().enumerate() {
        let (one, other, worker) = two_clusters(41 + number as u64);
        let truth = one.watch_truth();
        let me = worker.writer.incarnation;
        let (stop, stopped) = tokio::sync::watch::channel(Stop::No);
        let working = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
        one.append(request("m6i.xlarge").into(), 1).await;
        one.until(when, 1).await;
        let metadata = serde_json::to_vec(&json!({ "worker": "w1", "incarnation": me })).unwrap();
        write(&one, one.update.stream().as_str(), 900, (fact, b"{\"node\":\"esdb-1\"}".to_vec(), metadata)).await;
        one.until("UpdateParked", 1).await;
        let history = one.history().await;
        let state = fold(&history);
        let parked = state.parked.as_ref().map(|p| p.code.as_str());
        assert_eq!(parked, Some("historyIllegal"), "{fact}: {}", lines(&history));
        assert!(state.in_hand.is_none_or(|h| !h.step.out_of_service()), "{fact}: {}", lines(&history));
        let other_request = json!({ "cluster": "other", "targetInstanceType": "m6i.xlarge" });
        other.append(Event::UpdateRequested(serde_json::from_value(other_request).unwrap()), 2).await;
        let (history, state) = other.ended(Duration::from_secs(7200)).await;
        assert!(matches!(state.end, Some(End::Completed(_))), "{fact}: {}", lines(&history));
        // The next node may have been taken before the forgery stood.
        assert!(truth.check().iter().all(|stops| *stops <= 1), "{fact}");
        let parked = one.history().await;
        assert!(parked.len() < 60, "{fact}: nothing is said again and again\n{}", lines(&parked));
        // A person ends it, once every instance runs: what was not folded may have stopped one.
        let instance = one.world.with(|w| w.instance_of(1).clone());
        one.world.with(|w| w.stop_instances(std::slice::from_ref(&instance))).unwrap();
        one.append(CancelRequested { superseded_by: None, by: None, why: None }.into(), 901).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(fold(&one.history().await).end.is_none(), "{fact}");
        one.world.with(|w| w.start_instances(std::slice::from_ref(&instance))).unwrap();
        let (history, state) = one.ended(Duration::from_secs(900)).await;
        let Some(End::Cancelled(cancelled)) = &state.end else {
            panic!("{fact}: {:?}\n{}", state.end, lines(&history))
        };
        assert_eq!(cancelled.not_running, [], "{fact}");
        let found: Vec<_> = cancelled.nodes.iter().filter_map(|n| n.left_in.as_deref()).collect();
        assert_eq!(found, left, "{fact}");
        // The cluster is free for another, whose plan finds what was left on the node in hand.
        let next = Rig { update: UpdateId(Uuid::from_u128(902)), ..one.share() };
        next.append(request("m6i.xlarge").into(), 903).await;
        let (_, state) = next.ended(Duration::from_secs(7200)).await;
        match &state.end {
            Some(End::Completed(_)) => assert!(left.is_empty(), "{fact}"),
            Some(End::Rejected(r)) => assert!(!left.is_empty() && r.reasons[0].code == "fence", "{fact}: {r:?}"),
            end => panic!("{fact}: {end:?}"),
        }
        stop.send(Stop::AtSafePoint).unwrap();
        working.await.unwrap().unwrap();
    }
}

/// The answer repeats who asked and why, with metadata of its own, and must be no larger than the store takes.
#[tokio::test(start_paused = true)]
async fn a_command_as_large_as_the_store_takes_is_answered() {
    let (one, _, worker) = two_clusters(61);
    let truth = one.watch_truth();
    let (stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let working = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    one.append(request("m6i.xlarge").into(), 1).await;
    let update = one.update.stream();
    let most = |key: &str| format!("{{\"{key}\":\"{}\"}}", "x".repeat((1 << 20) - key.len() - 7)).into_bytes();
    let commands =
        [("PauseRequested", "why"), ("ResumeRequested", "by"), ("PauseRequested", "other"), ("CancelRequested", "why")];
    for (n, (command, key)) in commands.into_iter().enumerate() {
        one.until(["InstanceStopped", "UpdatePaused", "NodeUpdated", "CommandRefused"][n], 1).await;
        write(&one, update.as_str(), 100 + n as u128, (command, most(key), vec![])).await;
    }
    let (history, state) = one.ended(Duration::from_secs(900)).await;
    assert!(matches!(state.end, Some(End::Cancelled(_))), "{:?}", state.broken);
    let outline = outline(&history);
    for fact in ["UpdatePaused", "UpdateResumed", "CommandRefused"] {
        assert_eq!(outline.matches(fact).count(), 1, "{outline}");
    }
    stop.send(Stop::AtSafePoint).unwrap();
    working.await.unwrap().unwrap();
    truth.check();
}

/// Of commands without an answer so many are held, and no more: the update is not folded on, and can still be cancelled.
#[test]
fn no_more_unanswered_commands_are_held_than_a_worker_can_bear() {
    let request = stored(0, "UpdateRequested", json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge" }), false);
    let mut state = State::default();
    state.evolve(&decode(&request, Moment::default()));
    for n in 1..=UNANSWERED_HELD + 500 {
        let (event_type, data) = [("PauseRequested", json!({})), ("ResumeRequested", json!(7))][n % 2].clone();
        state.evolve(&decode(&stored(n, event_type, data, false), Moment::default()));
    }
    assert_eq!(state.unanswered.len(), UNANSWERED_HELD);
    assert!(state.broken.as_ref().is_some_and(|why| why.contains("unanswered")), "{:?}", state.broken);
    let cancel = stored(UNANSWERED_HELD + 501, "CancelRequested", json!({}), false);
    state.evolve(&decode(&cancel, Moment::default()));
    assert!(state.cancelled.is_some());
}

/// Facts that look legal, as long as the store takes them and as many as there may be, fill nobody's memory.
#[test]
fn no_more_of_forged_facts_is_held_than_of_written_ones() {
    let real = real_history();
    let upto = |event_type: &str| real.iter().position(|e| e.event_type == event_type).unwrap() + 1;
    let mut state = State::default();
    let mut next = 0;
    let mut go = |state: &mut State, event: &StoredEvent, data: Value| {
        state.evolve(&decode(&StoredEvent { revision: Revision(next), data, ..event.clone() }, Moment::default()));
        next += 1;
    };
    let begun = upto("InstanceStartRequested");
    real[..begun].iter().for_each(|e| go(&mut state, e, e.data.clone()));
    let asked = &real[begun - 1];
    let failed: Vec<_> = vocabulary().into_iter().filter(|(t, _)| t == "InstanceStartFailed").map(|(_, d)| d).collect();
    for attempt in 1..=2_000 {
        let mut data = failed[0].clone();
        for key in ["node", "instance", "type"] {
            data[key] = asked.data[key].clone();
        }
        (data["attempt"], data["code"]) = (json!(attempt), json!("x".repeat(10_000)));
        let event = StoredEvent { event_type: "InstanceStartFailed".into(), ..asked.clone() };
        go(&mut state, &event, data);
        let mut again = asked.data.clone();
        again["attempt"] = json!(attempt + 1);
        go(&mut state, asked, again);
        assert_eq!(state.broken, None, "attempt {attempt}");
    }
    let held = &state.in_hand.as_ref().unwrap().failed_starts;
    assert_eq!((held.len(), held.iter().map(|f| f.code.len()).max()), (1_000, Some(200)));
    let awaited = StoredEvent { event_type: "ApprovalAwaited".into(), ..asked.clone() };
    go(&mut state, &awaited, json!({ "gate": "eachNode", "node": "y".repeat(10_000), "detail": "" }));
    assert_eq!((state.awaited.as_ref().map(|a| a.node.clone()), state.broken), (Some(None), None));
}

/// A request that could not be written down again with its answer begins nothing.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_is_rejected() {
    let (one, _, worker) = two_clusters(62);
    let nodes: Vec<String> = (0..20_000).map(|n| format!("esdb-{n}")).collect();
    let request = json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "nodes": nodes });
    let data = serde_json::to_vec(&request).unwrap();
    write(&one, one.update.stream().as_str(), 1, ("UpdateRequested", data, vec![])).await;
    let (_stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let working = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    let (_, state) = one.ended(Duration::from_secs(900)).await;
    let Some(End::Rejected(rejected)) = state.end else { panic!("{:?}", state.end) };
    assert!(rejected.reasons[0].found.contains("65536 are the most"), "{:?}", rejected.reasons);
    working.abort();
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_commands_does_not_keep_a_node_from_coming_back() {
    let (one, other, worker) = two_clusters(51);
    let truth = one.watch_truth();
    let (_stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let working = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    one.append(request("m6i.xlarge").into(), 1).await;
    one.until("InstanceStopped", 1).await;
    let many = |from: u128| -> Vec<ProposedEvent> {
        (0..2_000)
            .map(|n| ProposedEvent {
                id: Uuid::from_u128(from + n),
                event_type: "PauseRequested".into(),
                is_json: true,
                data: b"7".to_vec(),
                metadata: vec![],
            })
            .collect()
    };
    for batch in 0..3 {
        let leader = one.world.with(|w| w.leader()).unwrap();
        let write = Write::Append(many(1_000_000 + batch * 10_000));
        let stream = one.update.stream();
        let done = one.world.write(leader, true, stream.as_str(), ExpectedRevision::Any, write).await;
        assert!(matches!(done, WriteOutcome::Done { .. }), "{done:?}");
    }
    let other_request = json!({ "cluster": "other", "targetInstanceType": "m6i.xlarge" });
    other.append(Event::UpdateRequested(serde_json::from_value(other_request).unwrap()), 2).await;
    let began = one.clock.now();
    one.until("InstanceStarted", 1).await;
    let waited = one.clock.now().since(began);
    assert!(waited < Duration::from_secs(60), "the node was down for {waited:?}");
    let (history, state) = other.ended(Duration::from_secs(7200)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    // Once the node is back, each is answered, and then the update goes on.
    let (_, state) = one.ended(Duration::from_secs(7200)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{:?}", state.broken);
    assert_eq!(truth.check(), [1, 1, 1, 1]);
    working.abort();
}

/// A store in which one stream cannot be read, as one of large events over a slow link, or the whole log may not.
struct Withheld {
    stream: String,
    withheld: AtomicBool,
}

impl Withheld {
    fn new(stream: &str) -> Arc<Withheld> {
        Arc::new(Withheld { stream: stream.into(), withheld: AtomicBool::new(true) })
    }
    fn give(&self) {
        self.withheld.store(false, Ordering::Relaxed);
    }
    fn withholds(&self, stream: &str) -> bool {
        stream == self.stream && self.withheld.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl Tap for Withheld {
    async fn before(&self, _: CallKind, _: &str) -> usize {
        0
    }
    async fn after(&self, _: usize) {}
    fn is_away(&self, stream: &str) -> bool {
        stream != "$all" && self.withholds(stream)
    }
    fn denies(&self, _: CallKind, stream: &str) -> bool {
        stream == "$all" && self.withholds(stream)
    }
}

/// Nothing of the worker's is ever the next that the stream takes.
#[tokio::test(start_paused = true)]
async fn a_flood_that_does_not_end_does_not_keep_a_node_from_coming_back_either() {
    let rig = Rig::new(quick_world(52));
    let (_working, _stop) = rig.spawn(0);
    rig.append(request("m6i.xlarge").into(), 1).await;
    rig.until("InstanceStopRequested", 1).await;
    let (world, stream) = (rig.world.clone(), rig.update.stream());
    let flood = tokio::spawn(async move {
        for n in 0_u128.. {
            let leader = world.with(|w| w.leader()).unwrap();
            let event = ProposedEvent {
                id: Uuid::from_u128(1_000_000 + n),
                event_type: "PauseRequested".into(),
                is_json: true,
                data: b"7".to_vec(),
                metadata: vec![],
            };
            let write = Write::Append(vec![event]);
            world.write(leader, true, stream.as_str(), ExpectedRevision::Any, write).await;
        }
    });
    let node = |state| rig.world.with(|w| w.instance_state(3)) == state;
    while !node(InstanceState::Stopped) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let began = rig.clock.now();
    while !node(InstanceState::Running) {
        let waited = rig.clock.now().since(began);
        assert!(waited < Duration::from_secs(120), "the node is down");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    flood.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_read_keeps_no_other_waiting() {
    let (one, other, worker) = two_clusters(63);
    let withheld = Withheld::new(one.update.stream().as_str());
    let worker = Worker { log: tapped(&one, withheld.clone()).log.clone(), ..worker };
    let (_stop, stopped) = tokio::sync::watch::channel(Stop::No);
    let working = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    one.append(request("m6i.xlarge").into(), 1).await;
    let other_request = json!({ "cluster": "other", "targetInstanceType": "m6i.xlarge" });
    other.append(Event::UpdateRequested(serde_json::from_value(other_request).unwrap()), 2).await;
    let (history, state) = other.ended(Duration::from_secs(900)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(one.history().await.len(), 1, "nothing was read of it");
    withheld.give();
    let (history, state) = one.ended(Duration::from_secs(900)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    working.abort();
}

/// A node that starts denies for a while what it cannot look up.
#[tokio::test(start_paused = true)]
async fn whoever_may_not_read_the_whole_log_waits_for_a_minute_and_then_says_so() {
    let rig = Rig::new(quick_world(64));
    let withheld = Withheld::new("$all");
    let (denied, _stop) = tapped(&rig, withheld.clone()).spawn(0);
    let ended = denied.await.unwrap();
    assert!(matches!(ended, Err(WorkerError::MayNotReadAll(_))), "{ended:?}");
    let (let_in, stop) = tapped(&rig, withheld.clone()).spawn(1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    withheld.give();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (history, state) = rig.ended(Duration::from_secs(900)).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    stop.send(Stop::AtSafePoint).unwrap();
    let_in.await.unwrap().unwrap();
}
