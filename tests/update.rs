//! Whole updates in the simulated world, in virtual time.

mod rig;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esdb_rollout::codec::encode_command;
use esdb_rollout::domain::ids::{Revision, StreamName, UpdateId};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::ports::Expected;
use esdb_rollout::sim::model::{Fault, WorldConfig};
use esdb_rollout::update::event::{
    CancelRequested, Event, PauseRequested, ResumeRequested, RetryRequested, UpdateRequested,
};
use esdb_rollout::update::state::End;
use esdb_rollout::views::article;
use esdb_rollout::worker::{StartPoint, Stop, WorkerError};
use rig::{Rig, lines, outline, quick_world, request, world};

const LIMIT: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn the_facts_of_a_whole_update_are_as_the_golden_history_says() {
    let rig = Rig::new(world(1));
    let truth = rig.watch_truth();
    let (history, state) = rig.run(request("m6i.xlarge"), LIMIT).await;
    truth.check();
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(state.elections, 1);
    assert_eq!(rig.world.with(|w| w.elections()), 1, "the world's own count");
    assert_eq!(outline(&history), include_str!("golden/update-3-voters-1-replica.txt"), "{}", lines(&history));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wins_again_after_it_resigned_cost_two_elections() {
    let mut config = quick_world(7);
    config.faults.extend(Fault::by_name("leader-reelected", &config, "m6i.xlarge"));
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    let (history, state) = rig.run(request("m6i.xlarge"), LIMIT).await;
    truth.check();
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!((u64::from(state.elections), rig.world.with(|w| w.elections())), (2, 2), "{}", lines(&history));
}

#[tokio::test(start_paused = true)]
async fn pause_takes_hold_before_the_next_stop_and_cancel_ends_with_every_node_running() {
    let rig = Rig::new(quick_world(3));
    let truth = rig.watch_truth();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("InstanceStopped", 1).await;
    rig.append(Event::PauseRequested(PauseRequested { by: Some("ann".into()), why: None }), 2).await;
    rig.until("NodeUpdated", 1).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let paused = outline(&rig.history().await);
    assert!(paused.contains("UpdatePaused") && !paused.contains("NodeSelected esdb-1"), "{paused}");
    rig.append(Event::ResumeRequested(ResumeRequested::default()), 3).await;
    rig.until("InstanceStopped", 2).await;
    rig.append(
        Event::CancelRequested(CancelRequested {
            superseded_by: None,
            by: Some("ann".into()),
            why: Some("enough".into()),
        }),
        4,
    )
    .await;
    rig.append(
        Event::RetryRequested(RetryRequested {
            answers: Revision(0),
            check: None,
            node: None,
            until: None,
            by: None,
            why: None,
        }),
        5,
    )
    .await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    let Some(End::Cancelled(end)) = state.end else { panic!("{shown}") };
    assert_eq!((end.by.as_deref(), end.not_running.len()), (Some("ann"), 0), "{shown}");
    assert!(outline(&history).contains("CommandRefused"), "a command that is not supported is answered\n{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    assert_eq!(truth.check().iter().sum::<u32>(), 2, "{shown}");
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_already_is_skipped_and_a_restart_stops_each_node_once() {
    let rig = Rig::new(quick_world(4));
    let truth = rig.watch_truth();
    let (history, state) = rig.run(request("m6i.large"), LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(outline(&history).matches("NodeSkipped").count(), 4);
    assert_eq!(truth.check(), [0, 0, 0, 0]);

    let rig = Rig::new(quick_world(5));
    let truth = rig.watch_truth();
    let restart =
        serde_json::from_value(serde_json::json!({ "cluster": "prod", "strategy": "Ec2InstanceRestart" })).unwrap();
    let (history, state) = rig.run(restart, LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert!(!outline(&history).contains("TypeModif"));
    assert_eq!(truth.check(), [1, 1, 1, 1]);
}

/// A request made of a status document, as `start --from` makes it.
fn resumed(document: &serde_json::Value) -> UpdateRequested {
    let input: article::Input = serde_json::from_value(document.clone()).unwrap();
    input.into_request("prod".into())
}

/// What is logged, by whoever writes in this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_a_stream_whose_name_is_no_id_in_lower_case_is_told_of_once() {
    let (log, rig) = (Log::default(), Rig::new(quick_world(9)));
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(lines.finish());
    let stream = StreamName(rig.update.stream().0.to_uppercase().replace("CLUSTERUPDATE", "clusterUpdate"));
    assert_ne!(stream, rig.update.stream());
    let id = |n: u128| uuid::Uuid::from_u128(n);
    let asked = encode_command(&request("m6i.xlarge").into(), id(5), serde_json::json!({})).unwrap();
    while rig.log.append(&stream, Expected::NoStream, vec![asked.clone()]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (history, state) = rig.run(request("m6i.xlarge"), LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", rig::lines(&history));
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let told: Vec<&str> = logged.lines().filter(|l| l.contains("ERROR") && l.contains(stream.as_str())).collect();
    assert_eq!(told.len(), 1, "{logged}");
    assert!(told[0].contains("UUID in lower case"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_status_document_is_gone_on_from_and_what_it_says_is_verified() {
    let rig = Rig::new(quick_world(8));
    let truth = rig.watch_truth();
    let restart = serde_json::json!({ "cluster": "prod", "strategy": "Ec2InstanceRestart", "gates": ["afterFirst"] });
    rig.append(Event::UpdateRequested(serde_json::from_value(restart).unwrap()), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("ApprovalAwaited", 1).await;
    rig.append(Event::CancelRequested(CancelRequested::default()), 2).await;
    let (history, state) = rig.ended(LIMIT).await;
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    let status = article::StatusDocument::of(&state, &history, rig.clock.wall());
    let mut document = serde_json::to_value(status).unwrap();
    let statuses = |document: &serde_json::Value| {
        let nodes = document["EventStoreNodeUpdates"].as_array().unwrap();
        nodes.iter().map(|n| n["NodeUpdateStatus"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(statuses(&document), ["Success", "Pending", "Pending", "Pending"]);

    // A restart cannot be seen afterwards: the document is believed, once the node is seen to run and to have caught up.
    let next = Rig { update: UpdateId(uuid::Uuid::from_u128(77)), ..rig.share() };
    let (history, state) = next.run_as(1, resumed(&document), LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert!(outline(&history).contains("NodeSkipped esdb-4"), "{}", lines(&history));
    assert_eq!(truth.check(), [1, 1, 1, 1]);

    // A type can be seen: who is said to have it, and has not, is taken again. What is not listed is not touched.
    document["UpdateStrategy"] = "Ec2InstanceTypeUpdate".into();
    document["TargetInstanceType"] = "m6i.xlarge".into();
    document["EventStoreNodeUpdates"].as_array_mut().unwrap().truncate(1);
    let truth = rig.watch_truth();
    let next = Rig { update: UpdateId(uuid::Uuid::from_u128(78)), ..rig.share() };
    let (history, state) = next.run_as(2, resumed(&document), LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert!(outline(&history).contains("NodeUpdated esdb-4"), "{}", lines(&history));
    drop(truth);

    // Time already spent counts.
    document["EventStoreNodeUpdates"][0]["NodeUpdateStatus"] = "InProgress".into();
    document["EventStoreNodeUpdates"][0]["UpdateIterations"] = 21.into();
    document["MaxNumberOfIterationsPerNodeUpdate"] = 20.into();
    document["TargetInstanceType"] = "m6i.large".into();
    let next = Rig { update: UpdateId(uuid::Uuid::from_u128(79)), ..rig.share() };
    let (history, state) = next.run_as(3, resumed(&document), LIMIT).await;
    let Some(End::Failed(failed)) = state.end else { panic!("{}", lines(&history)) };
    assert_eq!(failed.code, "nodeTimedOut");
    assert!(!outline(&history).contains("InstanceStopRequested"), "{}", lines(&history));
}

#[tokio::test(start_paused = true)]
async fn bad_requests_are_rejected_with_a_code_and_a_remedy_and_nothing_is_stopped() {
    let table = [
        (serde_json::json!({ "cluster": "nope", "targetInstanceType": "m6i.xlarge" }), "unknownCluster"),
        (serde_json::json!({ "cluster": "prod", "targetInstanceType": "x9.huge" }), "unknownInstanceType"),
        (serde_json::json!({ "cluster": "prod" }), "targetTypeMissing"),
        (serde_json::json!({ "targetInstanceType": "m6i.xlarge" }), "badRequest"),
        (serde_json::json!({ "cluster": "prod", "targetInstanceType": 7 }), "badRequest"),
        (serde_json::json!("text"), "badRequest"),
        (
            serde_json::json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "nodes": ["esdb-9"] }),
            "unknownNode",
        ),
        (serde_json::json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "dwellSeconds": -1 }), "badNumber"),
        (
            serde_json::json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge",
                "resumes": [{ "node": "esdb-2", "done": true, "originalPriority": 3 }] }),
            "priorityLeftLowered",
        ),
        (
            serde_json::json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "resumes": [{ "node": "esdb-9" }] }),
            "unknownNode",
        ),
    ];
    for (data, code) in table {
        let rig = Rig::new(quick_world(6));
        let truth = rig.watch_truth();
        let event = esdb_rollout::ports::NewEvent {
            id: uuid::Uuid::from_u128(9),
            event_type: "UpdateRequested".into(),
            data: data.clone(),
            metadata: serde_json::Value::Null,
        };
        rig.log.append(&rig.update.stream(), esdb_rollout::ports::Expected::NoStream, vec![event]).await.unwrap();
        let (worker, stop) = rig.spawn(0);
        let (history, state) = rig.ended(LIMIT).await;
        let Some(End::Rejected(end)) = state.end else { panic!("{data}: {}", lines(&history)) };
        assert_eq!(end.reasons[0].code, code, "{data}: {:?}", end.reasons);
        assert!(!end.reasons[0].remedy.is_empty());
        stop.send(Stop::AtSafePoint).unwrap();
        worker.await.unwrap().unwrap();
        assert_eq!(truth.check(), [0, 0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_update_of_a_busy_cluster_is_rejected() {
    let rig = Rig::new(quick_world(8));
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("NodeSelected", 1).await;
    let second = Rig { update: UpdateId(uuid::Uuid::from_u128(77)), ..rig.share() };
    second.append(request("m6i.2xlarge").into(), 2).await;
    let (_, state) = second.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Rejected(e)) if e.reasons[0].code == "clusterBusy"));
    let (_, state) = rig.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))));
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cluster_is_unknown_only_if_no_living_worker_knows_it() {
    let rig = Rig::new(quick_world(9));
    let truth = rig.watch_truth();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let mut stranger = rig.worker(5);
    stranger.writer.worker = "w2".into();
    let handle = stranger.clusters.values().next().unwrap().clone();
    stranger.clusters = std::sync::Arc::new([("other".into(), handle)].into());
    let (stop_stranger, stopped) = tokio::sync::watch::channel(Stop::No);
    let stranger = tokio::spawn(stranger.run(StartPoint::CheckpointOrBeginning, stopped));
    // It listens; before it has heard nobody for long enough, one comes who knows the cluster.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(rig.history().await.len(), 1, "a stranger answers nothing in haste");
    let (worker, stop) = rig.spawn(0);
    let (history, state) = rig.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(truth.check(), [1, 1, 1, 1]);
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();

    // Now nobody lives who knows it: the stranger says so.
    let next = Rig { update: UpdateId(uuid::Uuid::from_u128(99)), ..rig.share() };
    next.append(request("m6i.large").into(), 2).await;
    let (history, state) = next.ended(LIMIT).await;
    let Some(End::Rejected(end)) = state.end else { panic!("{}", lines(&history)) };
    assert_eq!(end.reasons[0].code, "unknownCluster");
    stop_stranger.send(Stop::AtSafePoint).unwrap();
    stranger.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_living_namesake_makes_the_newcomer_leave_and_nothing_is_taken_from_it() {
    let rig = Rig::new(quick_world(9));
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (elder, stop) = rig.spawn(0);
    rig.until("NodeSelected", 1).await;
    let (newcomer, _stop) = rig.spawn(1);
    let left = tokio::time::timeout(Duration::from_secs(20), newcomer).await.expect("it leaves within the lease");
    assert!(matches!(left.unwrap(), Err(WorkerError::NamesakeAlive(_))));
    let (history, _) = rig.ended(LIMIT).await;
    assert_eq!(outline(&history).matches("WorkerAssigned").count(), 1, "{}", lines(&history));
    stop.send(Stop::AtSafePoint).unwrap();
    elder.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_deleted_holds_up_no_other() {
    let rig = Rig::new(quick_world(10));
    let gone = Rig { update: UpdateId(uuid::Uuid::from_u128(78)), ..rig.share() };
    gone.append(request("m6i.xlarge").into(), 1).await;
    rig.tombstone(gone.update.stream().as_str()).await;
    let (history, state) = rig.run(request("m6i.xlarge"), LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_begin_later_is_planned_by_what_is_there_then() {
    let rig = Rig::new(quick_world(12));
    let truth = rig.watch_truth();
    let later = serde_json::json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "notBefore": "2026-01-01T00:20:00Z" });
    rig.append(Event::UpdateRequested(serde_json::from_value(later).unwrap()), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("WorkerAssigned", 1).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    // A person changes the replica's type meanwhile.
    let replica = rig.world.with(|w| w.instance_of(3).clone());
    rig.world.with(|w| w.stop_instances(std::slice::from_ref(&replica))).unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    rig.world.with(|w| w.modify_instance_type(&replica, &"m6i.xlarge".into())).unwrap();
    rig.world.with(|w| w.start_instances(&[replica])).unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(rig.history().await.len(), 2, "neither accepted nor planned before its time");
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    let due: jiff::Timestamp = "2026-01-01T00:20:00Z".parse().unwrap();
    let waited = state.accepted_at.unwrap().duration_since(due).as_secs_f64();
    assert!((0.0..30.0).contains(&waited), "{waited}\n{shown}");
    let planned = state.member(&"esdb-4".into()).unwrap();
    assert_eq!(planned.old_type.as_str(), "m6i.xlarge", "{shown}");
    assert!(outline(&history).contains("NodeSkipped esdb-4"), "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    assert_eq!(truth.check(), [1, 1, 1, 1], "the person stopped the replica, the update the others\n{shown}");
}

/// Shows nothing of the updates' streams the first times.
struct Behind(std::sync::atomic::AtomicUsize);

#[async_trait::async_trait]
impl rig::tap::Tap for Behind {
    async fn before(&self, _kind: rig::tap::Kind, _to: &str) -> usize {
        0
    }
    async fn after(&self, _number: usize) {}
    fn hides(&self, stream: &str) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        stream.starts_with("clusterUpdate-") && self.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_whoever_answers_does_not_show_yet_is_not_passed_over() {
    let rig = Rig::new(quick_world(13));
    let behind = rig::tap::tapped(&rig, std::sync::Arc::new(Behind(20.into())));
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (worker, stop) = behind.spawn(0);
    let (history, state) = rig.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
}

/// Denies some calls while it is told to, for so long, or for good.
struct Denies {
    on: std::sync::atomic::AtomicBool,
    calls: &'static [(rig::tap::Kind, &'static str)],
    clock: std::sync::Arc<dyn esdb_rollout::ports::Clock>,
    until: Duration,
}

#[async_trait::async_trait]
impl rig::tap::Tap for Denies {
    async fn before(&self, _kind: rig::tap::Kind, _to: &str) -> usize {
        0
    }
    async fn after(&self, _number: usize) {}
    fn denies(&self, kind: rig::tap::Kind, stream: &str) -> bool {
        let on = self.on.load(std::sync::atomic::Ordering::SeqCst) && self.clock.now().0 < self.until;
        on && self.calls.iter().any(|(k, prefix)| *k == kind && stream.starts_with(prefix))
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_denied_for_a_moment_is_not_passed_over_and_for_good_it_is_answered_where_it_can_be() {
    use rig::tap::Kind::{Append, Read};
    let denied: [&[(rig::tap::Kind, &str)]; 4] = [
        &[(Read, "clusterUpdate-")],
        &[(Append, "clusterUpdate-")],
        &[(Read, "updatedCluster-")],
        &[(Append, "updatedCluster-")],
    ];
    for (n, calls) in denied.into_iter().enumerate() {
        for (until, ends) in [(Duration::from_secs(20), true), (Duration::MAX, n >= 2)] {
            let rig = Rig::new(quick_world(14));
            rig.append(request("m6i.xlarge").into(), 1).await;
            let denies = Denies { on: true.into(), calls, clock: rig.clock.clone(), until };
            let (worker, stop) = rig::tap::tapped(&rig, std::sync::Arc::new(denies)).spawn(0);
            if !ends {
                tokio::time::sleep(Duration::from_secs(600)).await;
                assert_eq!(rig.history().await.len(), 1);
            } else {
                let (history, state) = rig.ended(LIMIT).await;
                match state.end {
                    Some(End::Rejected(end)) if until == Duration::MAX => {
                        assert_eq!(end.reasons[0].code, "admissionRefused");
                        assert_eq!(history.len(), 2, "{}", lines(&history));
                    }
                    Some(End::Completed(_)) if until != Duration::MAX => {}
                    other => panic!("{calls:?} until {until:?}: {other:?}\n{}", lines(&history)),
                }
            }
            stop.send(Stop::AtSafePoint).unwrap();
            worker.await.unwrap().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_waits_for_the_store_ends_when_it_is_asked_to() {
    let rig = Rig::new(quick_world(15));
    rig.world.with(|w| (0..4).for_each(|n| w.freeze(n)));
    let (worker, stop) = rig.spawn(0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    stop.send(Stop::AtSafePoint).unwrap();
    tokio::time::timeout(Duration::from_secs(1), worker).await.expect("at once").unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_can_give_no_sign_of_life_brings_its_node_back_before_it_ends() {
    for (nodes, deleted) in [(1, true), (2, true), (2, false), (4, false)] {
        let rig = Rig::new(WorldConfig { ec2_stop: Duration::from_secs(90), ..quick_world(16) });
        let truth = rig.watch_truth();
        rig.append(request("m6i.xlarge").into(), 1).await;
        let denies = std::sync::Arc::new(Denies {
            on: false.into(),
            calls: &[(rig::tap::Kind::Append, "updateWorker-")],
            clock: rig.clock.clone(),
            until: Duration::MAX,
        });
        let denied = rig::tap::tapped(&rig, denies.clone());
        let (worker, _stop) = denied.spawn(0);
        rig.until("InstanceStopRequested", nodes).await;
        if deleted {
            rig.tombstone("updateWorker-w1").await;
        } else {
            denies.on.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        let left = tokio::time::timeout(LIMIT, worker).await.expect("it ends").unwrap();
        let history = rig.history().await;
        let states = rig.world.with(|w| (0..4).map(|n| w.instance_state(n)).collect::<Vec<_>>());
        assert_eq!(states, [InstanceState::Running; 4], "{left:?}\n{}", lines(&history));
        assert!(matches!(left, Err(WorkerError::NoHeartbeat(_))), "{left:?}");
        assert_eq!(outline(&history).matches("CaughtUp").count(), nodes, "{}", lines(&history));
        // One of its name takes nothing: without a heartbeat of its own nobody's silence is proved.
        let (namesake, _stop) = denied.spawn(1);
        let left = tokio::time::timeout(LIMIT, namesake).await.expect("it ends").unwrap();
        assert!(matches!(left, Err(WorkerError::NoHeartbeat(_))), "{left:?}");
        assert_eq!(outline(&rig.history().await).matches("WorkerAssigned").count(), 1);
        // One of another name takes over what the first cannot be heard to hold any more.
        let mut other = rig.worker(2);
        other.writer.worker = "w2".into();
        let (stop, stopped) = tokio::sync::watch::channel(Stop::No);
        let other = tokio::spawn(other.run(StartPoint::CheckpointOrBeginning, stopped));
        let (history, state) = rig.ended(LIMIT).await;
        assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
        assert_eq!(truth.check(), [1, 1, 1, 1], "{}", lines(&history));
        stop.send(Stop::AtSafePoint).unwrap();
        other.await.unwrap().unwrap();
    }
}
