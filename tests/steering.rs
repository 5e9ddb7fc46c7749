//! What people say while an update runs, what the request says of failures, and what somebody else changes meanwhile.

mod rig;

use std::time::Duration;

use esdb_rollout::cli::command::{AgainArgs, Asked, retry, rollback};
use esdb_rollout::domain::catch_up::DataKept;
use esdb_rollout::domain::ids::{ClusterName, Revision, UpdateId};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::exit::Exit;
use esdb_rollout::sim::model::Fault;
use esdb_rollout::update::event::*;
use esdb_rollout::update::state::{Body, End, Recorded, State, fold};
use esdb_rollout::worker::{Stop, read_all};
use rig::{Rig, lines, outline, quick_world, request};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(2 * 3600);
const OLD: &str = "m6i.large";
const TARGET: &str = "m6i.xlarge";

fn asks(more: serde_json::Value) -> UpdateRequested {
    let mut request = serde_json::to_value(request(TARGET)).unwrap();
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(request).unwrap()
}

fn types(rig: &Rig) -> Vec<String> {
    rig.world.with(|w| (0..w.node_count()).map(|n| w.instance_type(n).to_owned()).collect())
}

fn all_run(rig: &Rig) -> bool {
    rig.world.with(|w| (0..w.node_count()).all(|n| w.instance_state(n) == InstanceState::Running))
}

fn results(state: &State) -> Vec<(String, NodeResult)> {
    state.results.iter().map(|(n, r)| (n.to_string(), r.result)).collect()
}

fn answering(answers: Revision) -> RetryRequested {
    RetryRequested { answers, check: None, node: None, until: None, by: Some("ann".into()), why: None }
}

fn last<T>(history: &[Recorded], find: impl Fn(&Event) -> Option<T>) -> (Revision, T) {
    let found = history.iter().rev().find_map(|r| match &r.body {
        Body::Event(event) => find(event).map(|found| (r.revision, found)),
        Body::Unreadable { .. } | Body::Newer { .. } => None,
    });
    found.unwrap_or_else(|| panic!("it is not there\n{}", lines(history)))
}

#[tokio::test(start_paused = true)]
async fn a_rollback_brings_back_what_was_done_and_is_a_cancellation() {
    let rig = Rig::new(quick_world(11));
    let truth = rig.watch_truth();
    rig.append(request(TARGET).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("NodeUpdated", 2).await;
    rig.until("InstanceStopped", 3).await;
    rig.append(Event::RollbackRequested(RollbackRequested { by: Some("ann".into()), why: Some("slower".into()) }), 2)
        .await;
    rig.append(Event::RollbackRequested(RollbackRequested::default()), 3).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    let Some(End::Cancelled(end)) = &state.end else { panic!("{shown}") };
    assert_eq!((end.why.as_deref(), end.not_running.len()), (Some("slower"), 0), "{shown}");
    assert_eq!(types(&rig), [OLD; 4], "{shown}");
    let back = results(&state).into_iter().filter(|(_, r)| *r == NodeResult::RolledBack).count();
    assert_eq!((back, state.unanswered.len()), (3, 0), "{shown}");
    assert!(outline(&history).contains("CommandRefused"), "a second one is refused\n{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    // Two done and brought back; the third brought back from where it was, or done just then and brought back as well.
    let stops = truth.check().iter().sum::<u32>();
    assert_eq!(stops as usize, outline(&history).matches("InstanceStopped").count(), "{shown}");
    assert!(matches!(stops, 5 | 6), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_a_rollback_is_told_whether_it_is_under_way_or_refused() {
    for cancelled in [false, true] {
        let rig = Rig::new(quick_world(18));
        rig.append(request(TARGET).into(), 1).await;
        let (worker, stop) = rig.spawn(0);
        rig.until("InstanceStopped", 2).await;
        if cancelled {
            rig.append(Event::CancelRequested(CancelRequested::default()), 2).await;
        }
        let asked = AgainArgs { id: rig.update, asked: Asked { by: Some("ann".into()), why: None } };
        let told = rollback(asked, &*rig.log, &*rig.clock).await;
        let so_far = rig.history().await;
        let shown = lines(&so_far);
        if cancelled {
            let refused = told.expect_err(&shown);
            assert_eq!(refused.exit(), Exit::Refused, "{refused}");
            assert!(refused.to_string().contains("nothingToRollBack"), "{refused}");
        } else {
            assert_eq!(told.unwrap_or_else(|e| panic!("{e}\n{shown}")), Exit::Completed);
            assert!(fold(&so_far).end.is_none(), "told before it has ended\n{shown}");
        }
        rig.ended(LIMIT).await;
        stop.send(Stop::AtSafePoint).unwrap();
        worker.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_everything_goes_back_where_the_request_says_so() {
    let mut config = quick_world(12);
    // The first two nodes start with the new type, the third does not.
    config.faults.push(Fault::FallsBackToStopped { node: Some(1), reason: "Client.InternalError".into(), times: 1 });
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    let (history, state) = rig.run(asks(json!({ "onFailure": "rollBackAll" })), LIMIT).await;
    truth.check();
    let shown = lines(&history);
    let Some(End::Failed(end)) = &state.end else { panic!("{shown}") };
    assert_eq!((end.code.as_str(), end.not_running.len()), ("Client.InternalError", 0), "{shown}");
    assert_eq!(types(&rig), [OLD; 4], "{shown}");
    assert!(results(&state).iter().all(|(_, r)| *r == NodeResult::RolledBack), "{shown}");
    assert!(all_run(&rig));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_held_until_somebody_retries() {
    let mut config = quick_world(13);
    config.faults.push(Fault::FallsBackToStopped { node: Some(1), reason: "Client.InternalError".into(), times: 1 });
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    rig.append(asks(json!({ "onFailure": "hold" })).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("UpdateParked", 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let held = rig.history().await;
    let (parked, code) = last(&held, |e| if let Event::UpdateParked(p) = e { Some(p.code.clone()) } else { None });
    assert_eq!(code, "heldAfterFailure", "{}", lines(&held));
    assert!(all_run(&rig), "held with every node running");
    rig.append(answering(Revision(0)).into(), 2).await;
    rig.append(answering(parked).into(), 3).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    assert_eq!(types(&rig), [TARGET; 4], "{shown}");
    let refused = outline(&history).matches("CommandRefused").count();
    assert_eq!((refused, state.unanswered.len()), (1, 0), "the retry that answers nothing is refused\n{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_rebooted_once_where_that_is_allowed_and_else_a_person_is_called() {
    for (policy, reboots) in [("hold", 0), ("reboot", 1)] {
        let mut config = quick_world(14);
        config.faults.push(Fault::StaysSilent { node: 3, for_: None });
        let rig = Rig::new(config);
        let truth = rig.watch_truth();
        rig.append(asks(json!({ "onSilentNode": policy })).into(), 1).await;
        let (worker, stop) = rig.spawn(0);
        if policy == "hold" {
            rig.until("UpdateParked", 1).await;
            // The person restarts it.
            rig.world.with(|w| {
                let id = w.instance_of(3).clone();
                w.reboot_instance(&id).unwrap();
            });
        }
        let (history, state) = rig.ended(LIMIT).await;
        let shown = lines(&history);
        assert!(matches!(state.end, Some(End::Completed(_))), "{policy}\n{shown}");
        assert_eq!(outline(&history).matches("InstanceRebooted").count(), reboots, "{policy}\n{shown}");
        stop.send(Stop::AtSafePoint).unwrap();
        worker.await.unwrap().unwrap();
        truth.check();
    }
}

/// A person changes the type of a machine that is down by our doing.
async fn changed_by_hand(rig: &Rig) -> usize {
    loop {
        let done = rig.world.with(|w| {
            let down = (0..w.node_count()).find(|n| w.instance_state(*n) == InstanceState::Stopped)?;
            let id = w.instance_of(down).clone();
            w.modify_instance_type(&id, &"r6i.large".into()).ok().map(|()| down)
        });
        if let Some(n) = done {
            return n;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_type_that_somebody_else_gave_is_left_to_a_person() {
    let mut config = quick_world(15);
    config.offered_types.push(("r6i.large".into(), "x86_64".into()));
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    rig.append(request(TARGET).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    let changed = changed_by_hand(&rig).await;
    rig.until("UpdatePaused", 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let paused = rig.history().await;
    assert!(all_run(&rig), "paused once the node in hand runs again\n{}", lines(&paused));
    assert_eq!(types(&rig)[changed], "r6i.large", "it is not overwritten");
    let (_, seen) = last(&paused, |e| if let Event::ForeignChangeSeen(f) = e { Some(f.clone()) } else { None });
    assert_eq!((seen.what.as_str(), seen.found.as_str()), ("instanceType", "r6i.large"));
    assert_ne!(seen.expected, seen.found);
    rig.append(Event::ResumeRequested(ResumeRequested { by: Some("ann".into()), why: None }), 2).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    assert_eq!(types(&rig), [TARGET; 4], "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

/// The person takes back their own pause, and has not heard of the change yet.
#[tokio::test(start_paused = true)]
async fn who_resumes_while_somebody_elses_type_is_in_hand_is_asked_about_it() {
    let mut config = quick_world(17);
    config.offered_types.push(("r6i.large".into(), "x86_64".into()));
    let rig = Rig::new(config);
    rig.append(request(TARGET).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("InstanceStopRequested", 1).await;
    rig.append(Event::PauseRequested(PauseRequested::default()), 2).await;
    let changed = changed_by_hand(&rig).await;
    rig.until("ForeignChangeSeen", 1).await;
    rig.append(Event::ResumeRequested(ResumeRequested::default()), 3).await;
    rig.until("NodeRolledBack", 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let history = rig.history().await;
    let shown = lines(&history);
    assert!(fold(&history).paused.is_some_and(|p| p.by.is_none()), "{shown}");
    assert_eq!(types(&rig)[changed], "r6i.large", "{shown}");
    rig.append(Event::ResumeRequested(ResumeRequested::default()), 4).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    assert_eq!(types(&rig), [TARGET; 4], "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_on_the_way_back_is_no_failure() {
    let rig = Rig::new(quick_world(18));
    let truth = rig.watch_truth();
    rig.append(request(TARGET).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("NodeUpdated", 1).await;
    rig.append(Event::RollbackRequested(RollbackRequested::default()), 2).await;
    rig.until("InstanceStopped", 2).await;
    rig.append(Event::CancelRequested(CancelRequested { superseded_by: None, by: None, why: None }), 3).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Cancelled(_))), "{shown}");
    assert!(all_run(&rig), "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_outside_the_window() {
    let rig = Rig::new(quick_world(16));
    // The world begins at midnight.
    let window = json!({ "window": { "cron": "0 2 * * *", "minutes": 60, "timeZone": "UTC" } });
    rig.append(asks(window).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("StepDelayed", 1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let waits = rig.history().await;
    assert!(!outline(&waits).contains("NodeSelected"), "{}", lines(&waits));
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    let begun = history.iter().find(|r| matches!(&r.body, Body::Event(e) if matches!(**e, Event::NodeSelected(_))));
    assert!(begun.unwrap().at >= "2026-01-01T02:00:00Z".parse().unwrap(), "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_an_update_that_has_ended_a_new_one_is_asked_for() {
    let mut config = quick_world(17);
    config.faults.push(Fault::FallsBackToStopped { node: Some(1), reason: "Client.InternalError".into(), times: 1 });
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    rig.append(request(TARGET).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    let (history, state) = rig.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Failed(_))), "{}", lines(&history));

    let again = |update| AgainArgs { id: update, asked: Asked { by: Some("ann".into()), why: None } };
    retry(again(rig.update), &*rig.log, &*rig.clock).await.unwrap();
    let retried = Rig { update: admitted(&rig, 2).await, ..rig.share() };
    let (history, state) = retried.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(types(&rig), [TARGET; 4], "{}", lines(&history));
    assert_eq!(state.request.unwrap().why, Some(format!("retry of {}", rig.update)));
    assert!(retry(again(retried.update), &*rig.log, &*rig.clock).await.is_err(), "what completed is not tried again");

    // Those that the second update changed: what the first had done stays.
    let changed = state.results.values().filter(|r| r.result == NodeResult::Updated).count();
    rollback(again(retried.update), &*rig.log, &*rig.clock).await.unwrap();
    let back = Rig { update: admitted(&rig, 3).await, ..rig.share() };
    let (history, state) = back.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(types(&rig).iter().filter(|t| *t == OLD).count(), changed, "{}", lines(&history));
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

/// The update that was admitted as the `n`th.
async fn admitted(rig: &Rig, n: usize) -> UpdateId {
    for _ in 0..10_000 {
        let stream = ClusterName::from("prod").admission_stream();
        let events = read_all(&*rig.log, &stream, Revision(0)).await.unwrap_or_default();
        let found = events.iter().filter(|e| e.event_type == "UpdateAdmitted").nth(n - 1);
        if let Some(id) = found.and_then(|e| e.data.get("update")?.as_str()?.parse().ok()) {
            return UpdateId(id);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no update is admitted");
}

#[tokio::test(start_paused = true)]
async fn while_paused_no_leader_is_asked_again_and_no_time_runs_out() {
    let mut config = quick_world(17);
    config.faults.push(Fault::ResignationsIgnored { times: u32::MAX });
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    rig.append(asks(json!({ "nodeTimeoutSeconds": 120 })).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("ResignationRequested", 1).await;
    rig.append(PauseRequested::default().into(), 2).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let paused = outline(&rig.history().await);
    assert_eq!(paused.matches("ResignationRequested").count(), 1, "{paused}");
    rig.append(ResumeRequested::default().into(), 3).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    let Some(End::Failed(end)) = &state.end else { panic!("{shown}") };
    assert_eq!(end.code, "leaderDoesNotResign", "its time stood still meanwhile\n{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

#[tokio::test(start_paused = true)]
async fn an_approval_covers_the_data_in_doubt_when_it_was_asked_for_and_no_later_doubt() {
    let rig = Rig::new(quick_world(19));
    let (history, _) = rig.run(asks(json!({})), LIMIT).await;
    let mut played = State::default();
    let say = |state: &mut State, like: &Recorded, event: Event| {
        let revision = state.last_revision().map_or(Revision(0), Revision::next);
        state.evolve(&Recorded { revision, body: Body::Event(Box::new(event)), ..like.clone() });
        revision
    };
    let mut doubts = Vec::new();
    for recorded in &history {
        let Body::Event(event) = &recorded.body else { panic!("{recorded:?}") };
        let mut event = (**event).clone();
        if let Event::CaughtUp(e) = &mut event {
            e.data_kept.kept = DataKept::Unknown;
        }
        let done = matches!(event, Event::NodeUpdated(_));
        say(&mut played, recorded, event);
        if done {
            doubts.push(played.data_unknown.len());
        }
        if done && doubts.len() == 1 {
            let (gate, node) = (Gate::DataUnknown, Some("esdb-2".into()));
            let asked = ApprovalAwaited { gate, node, detail: String::new() };
            let answers = say(&mut played, recorded, asked.into());
            let granted = ApprovalGranted { answers, check: None, node: None, until: None, by: None, why: None };
            say(&mut played, recorded, granted.into());
            say(&mut played, recorded, UpdateResumed::default().into());
            assert_eq!(played.data_unknown, [], "it is covered");
        }
    }
    assert_eq!(played.broken, None);
    assert_eq!(doubts, [1, 1, 2, 3], "each later one is in doubt again");
}

#[tokio::test(start_paused = true)]
async fn going_back_waits_at_no_gate_of_the_way_forwards() {
    let rig = Rig::new(quick_world(18));
    let truth = rig.watch_truth();
    rig.append(asks(json!({ "gates": ["afterFirst"] })).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("ApprovalAwaited", 1).await;
    rig.append(RollbackRequested::default().into(), 2).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Cancelled(_))), "{shown}");
    assert_eq!(types(&rig), [OLD; 4], "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

#[tokio::test(start_paused = true)]
async fn it_rests_before_the_next_node_also_where_the_one_before_is_to_be_taken_again() {
    let mut config = quick_world(20);
    // The replica, which is the first.
    config.faults.push(Fault::FallsBackToStopped { node: Some(3), reason: "Client.InternalError".into(), times: 1 });
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    rig.append(asks(json!({ "onFailure": "hold", "dwellSeconds": 60 })).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("UpdateParked", 1).await;
    let held = rig.history().await;
    let (parked, _) = last(&held, |e| matches!(e, Event::UpdateParked(_)).then_some(()));
    rig.append(answering(parked).into(), 2).await;
    let (history, _) = rig.ended(LIMIT).await;
    let at = |kind: &str, n: usize| {
        let is = |r: &&Recorded| matches!(&r.body, Body::Event(e) if e.type_name() == kind);
        history.iter().filter(is).nth(n).unwrap_or_else(|| panic!("no {kind}\n{}", lines(&history))).at
    };
    let rested = at("NodeSelected", 1).duration_since(at("NodeRolledBack", 0)).as_secs_f64();
    assert!(rested >= 60.0, "{rested} s\n{}", lines(&history));
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

#[tokio::test(start_paused = true)]
async fn a_node_in_hand_is_held_while_the_window_is_shut_and_its_time_stands_still() {
    let mut config = quick_world(22);
    config.faults.push(Fault::ResignationsIgnored { times: 2 });
    let rig = Rig::new(config);
    let truth = rig.watch_truth();
    // The world begins at midnight: the leader is asked to resign, and then the window shuts.
    let window = json!({ "cron": "0 * * * *", "minutes": 1, "timeZone": "UTC" });
    rig.append(asks(json!({ "window": window, "nodeTimeoutSeconds": 120 })).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("ResignationRequested", 1).await;
    rig.until("StepDelayed", 1).await;
    tokio::time::sleep(Duration::from_secs(1800)).await;
    let held = outline(&rig.history().await);
    assert!(held.trim_end().ends_with("StepDelayed esdb-1"), "{held}");
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    assert_eq!(types(&rig), [TARGET; 4], "{shown}");
    for recorded in &history {
        let Body::Event(event) = &recorded.body else { panic!("{recorded:?}") };
        if matches!(**event, Event::ResignationRequested(_) | Event::InstanceStopRequested(_)) {
            assert!(recorded.at.as_second() % 3600 <= 60, "at {}\n{shown}", recorded.at);
        }
    }
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_comes_to_lead_while_in_hand_waits_for_the_approval_of_the_leader() {
    let rig = Rig::new(quick_world(23));
    let truth = rig.watch_truth();
    rig.append(asks(json!({ "gates": ["beforeLeader"], "nodeTimeoutSeconds": 120 })).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    rig.until("NodeSelected", 2).await;
    let node = last(&rig.history().await, |e| match e {
        Event::NodeSelected(e) => Some(e.node.clone()),
        _ => None,
    })
    .1;
    // Somebody asks for elections until it leads: as long as the views differ there is no stop.
    let next = rig.world.with(|w| w.config().names.iter().position(|n| *n == node.as_str()).unwrap());
    rig.world.with(|w| w.set_priority(next, 5));
    for _ in 0..100 {
        match rig.world.with(|w| w.leader()) {
            Some(leader) if leader == next => break,
            Some(leader) => rig.world.with(|w| w.resign(leader)),
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    rig.until("ApprovalAwaited", 1).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let history = rig.history().await;
    let (answers, awaited) = last(&history, |e| match e {
        Event::ApprovalAwaited(e) => Some(e.clone()),
        _ => None,
    });
    assert_eq!((awaited.gate, awaited.node), (Gate::BeforeLeader, Some(node.clone())), "{}", lines(&history));
    assert_eq!(history.last().unwrap().revision, answers, "{}", lines(&history));
    let approval = |answers| ApprovalGranted { answers, check: None, node: None, until: None, by: None, why: None };
    rig.append(approval(answers).into(), 2).await;
    // The one that leads then is waited for as well.
    rig.until("ApprovalAwaited", 2).await;
    let (answers, second) = last(&rig.history().await, |e| match e {
        Event::ApprovalAwaited(e) => Some(e.clone()),
        _ => None,
    });
    assert_ne!(second.node, Some(node));
    rig.append(approval(answers).into(), 3).await;
    let (history, state) = rig.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(types(&rig), [TARGET; 4], "{}", lines(&history));
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}
