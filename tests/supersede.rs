//! A request that supersedes the active update of its cluster: that one ends by its own rules, and the new one begins when it has.

mod rig;

use std::sync::Arc;
use std::time::Duration;

use esdb_rollout::cli::store::awaited_turn;
use esdb_rollout::codec::{CHECKPOINT, CheckpointMoved};
use esdb_rollout::domain::ids::{CHECKPOINT_STREAM, ClusterName, Revision, StreamName, UpdateId};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::ports::Position;
use esdb_rollout::sim::model::Fault;
use esdb_rollout::update::event::*;
use esdb_rollout::update::state::{Body, End, Recorded, State, fold};
use esdb_rollout::views::why::Why;
use esdb_rollout::worker::{StartPoint, Stop, WorkerError, heir, preview, read_all};
use rig::bomb::{Bomb, When, mined};
use rig::{Rig, lines, outline, quick_world, request};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(2 * 3600);
const OLD: &str = "m6i.large";
const TARGET: &str = "m6i.xlarge";
const OTHER: &str = "m6i.2xlarge";

fn asks(more: serde_json::Value) -> UpdateRequested {
    let mut request = serde_json::to_value(request(TARGET)).unwrap();
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(request).unwrap()
}

fn superseding(old: UpdateId) -> UpdateRequested {
    asks(json!({ "targetInstanceType": OTHER, "supersedes": old, "by": "ann", "why": "larger still" }))
}

/// Another update of the same world.
fn another(rig: &Rig, number: u128) -> Rig {
    Rig { update: UpdateId(Uuid::from_u128(number)), ..rig.share() }
}

/// A worker of a name of its own.
fn named(rig: &Rig, name: &str, number: u128) -> (JoinHandle<Result<(), WorkerError>>, watch::Sender<Stop>) {
    let mut worker = rig.worker(number);
    worker.writer.worker = name.into();
    let (stop, stopped) = watch::channel(Stop::No);
    (tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped)), stop)
}

fn types(rig: &Rig) -> Vec<String> {
    rig.world.with(|w| (0..w.node_count()).map(|n| w.instance_type(n).to_owned()).collect())
}

fn all_run(rig: &Rig) -> bool {
    rig.world.with(|w| (0..w.node_count()).all(|n| w.instance_state(n) == InstanceState::Running))
}

/// In whose favour an update was asked to end, as often as that stands.
fn claims(history: &[Recorded]) -> Vec<UpdateId> {
    let claim = |r: &Recorded| match &r.body {
        Body::Event(event) => match &**event {
            Event::CancelRequested(c) => c.superseded_by,
            _ => None,
        },
        Body::Unreadable { .. } | Body::Newer { .. } => None,
    };
    history.iter().filter_map(claim).collect()
}

fn rejected(state: &State) -> &str {
    match &state.end {
        Some(End::Rejected(e)) => {
            assert!(e.reasons.iter().all(|r| !r.remedy.is_empty()), "{e:?}");
            &e.reasons[0].code
        }
        other => panic!("not rejected: {other:?}"),
    }
}

/// What stands in the admission stream: `+` and `-`, and which update.
async fn admissions(rig: &Rig) -> Vec<(char, UpdateId)> {
    let stream = ClusterName::from("prod").admission_stream();
    let events = read_all(&*rig.log, &stream, Revision(0)).await.unwrap();
    let which = |e: &esdb_rollout::ports::StoredEvent| serde_json::from_value(e.data["update"].clone()).unwrap();
    events.iter().map(|e| (if e.event_type == "UpdateAdmitted" { '+' } else { '-' }, which(e))).collect()
}

/// What people are told that it waits for.
async fn waiting(rig: &Rig) -> Option<Why> {
    let state = fold(&rig.history().await);
    awaited_turn(&*rig.log, &*rig.clock, rig.update, &state).await.unwrap()
}

async fn claimed(rig: &Rig, new: UpdateId) {
    for _ in 0..600 {
        if claims(&rig.history().await).contains(&new) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it is not asked to end\n{}", lines(&rig.history().await));
}

/// The one was asked once to end in favour of the other, which was admitted after its release, and completed.
async fn handed_over(rig: &Rig, next: &Rig) {
    let (old, new) = (rig.history().await, next.history().await);
    let shown = format!("{}\n{}", lines(&old), lines(&new));
    assert_eq!(claims(&old), [next.update], "{shown}");
    assert!(matches!(fold(&new).end, Some(End::Completed(_))), "{shown}");
    assert!(old.last().unwrap().at <= new.iter().find(|r| r.revision > Revision(0)).unwrap().at, "{shown}");
    let (a, b) = (rig.update, next.update);
    let mut found = admissions(rig).await;
    for _ in 0..100 {
        if found.len() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = admissions(rig).await;
    }
    assert_eq!(found, [('+', a), ('-', a), ('+', b), ('-', b)], "{shown}");
}

#[tokio::test(start_paused = true)]
async fn one_that_runs_ends_when_its_node_runs_and_the_new_one_begins() {
    for (seed, at) in [(21, "InstanceStopped"), (22, "InstanceStarted"), (23, "NodeUpdated"), (24, "NodeSelected")] {
        let rig = Rig::new(quick_world(seed));
        let truth = rig.watch_truth();
        rig.append(request(TARGET).into(), 1).await;
        let (_worker, _stop) = rig.spawn(0);
        rig.until(at, 1).await;
        let next = another(&rig, 77);
        next.append(superseding(rig.update).into(), 2).await;
        claimed(&rig, next.update).await;
        if let Some(why) = waiting(&next).await {
            assert_eq!(why.code, "waitsForSuperseded", "{at}");
            assert!(why.detail.contains(&format!("update {}, which must end first, is ending", rig.update)), "{why:?}");
        }
        let (old, state) = rig.ended(LIMIT).await;
        let shown = lines(&old);
        let Some(End::Superseded(end)) = &state.end else { panic!("{at}\n{shown}") };
        assert_eq!((end.superseded_by, end.not_running.len()), (next.update, 0), "{at}\n{shown}");
        assert!(state.unanswered.is_empty(), "{shown}");
        let outline = outline(&old);
        let stopped = outline.matches("InstanceStopped ").count();
        assert_eq!(outline.matches("CaughtUp").count(), stopped, "{at}: what it stopped has caught up\n{shown}");
        let since = outline.split("CancelRequested").nth(1).unwrap();
        assert!(!since.contains("NodeSelected"), "{at}: no other node was taken\n{shown}");
        next.ended(LIMIT).await;
        handed_over(&rig, &next).await;
        assert_eq!(types(&rig), [OTHER; 4]);
        truth.check();
    }
}

/// Holds still before it has ended.
struct Still {
    name: &'static str,
    request: serde_json::Value,
    fault: Option<Fault>,
    /// What stands then.
    at: &'static str,
    end: &'static str,
}

#[tokio::test(start_paused = true)]
async fn one_that_holds_still_ends_at_once() {
    let fails = Fault::FallsBackToStopped { node: Some(1), reason: "Client.InternalError".into(), times: 1 };
    let table = [
        Still {
            name: "gate",
            request: json!({ "gates": ["afterFirst"] }),
            fault: None,
            at: "ApprovalAwaited",
            end: "superseded",
        },
        Still {
            name: "held",
            request: json!({ "onFailure": "hold" }),
            fault: Some(fails),
            at: "UpdateParked",
            end: "failed",
        },
        Still {
            name: "window",
            request: json!({ "window": { "cron": "0 2 * * *", "minutes": 60, "timeZone": "Europe/Madrid" } }),
            fault: None,
            at: "StepDelayed",
            end: "superseded",
        },
        Still {
            name: "notBefore",
            request: json!({ "notBefore": "2026-02-01T00:00:00Z" }),
            fault: None,
            at: "WorkerAssigned",
            end: "rejected superseded",
        },
        Still { name: "paused", request: json!({}), fault: None, at: "NodeSelected", end: "superseded" },
    ];
    for still in table {
        let mut config = quick_world(25);
        config.faults.extend(still.fault);
        let rig = Rig::new(config);
        let truth = rig.watch_truth();
        rig.append(asks(still.request).into(), 1).await;
        let (_worker, _stop) = rig.spawn(0);
        rig.until(still.at, 1).await;
        if still.name == "paused" {
            rig.append(Event::PauseRequested(PauseRequested::default()), 2).await;
            rig.until("UpdatePaused", 1).await;
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        let next = another(&rig, 77);
        next.append(superseding(rig.update).into(), 3).await;
        let asked = rig.clock.now();
        let (old, state) = rig.ended(LIMIT).await;
        let took = rig.clock.now().since(asked);
        let shown = format!("{}\n{}", still.name, lines(&old));
        let end = match &state.end {
            Some(End::Superseded(_)) => "superseded".to_owned(),
            Some(End::Failed(_)) => "failed".to_owned(),
            Some(End::Rejected(_)) => format!("rejected {}", rejected(&state)),
            other => panic!("{other:?}\n{shown}"),
        };
        assert_eq!(end, still.end, "{shown}");
        assert!(took < Duration::from_secs(30), "{took:?}: {shown}");
        next.ended(LIMIT).await;
        handed_over(&rig, &next).await;
        assert_eq!(types(&rig), [OTHER; 4], "{shown}");
        truth.check();
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_node_will_not_start_is_waited_for_and_a_cancellation_of_the_new_one_leaves_it_ending() {
    let mut config = quick_world(26);
    for instance_type in [TARGET, OLD] {
        let code = "InsufficientInstanceCapacity".into();
        config.faults.push(Fault::StartFails { instance_type: instance_type.into(), code, times: u32::MAX });
    }
    let rig = Rig::new(config);
    rig.append(request(TARGET).into(), 1).await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("InstanceStartFailed", 1).await;
    let next = another(&rig, 77);
    next.append(superseding(rig.update).into(), 2).await;
    rig.until("UpdateParked", 1).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(next.history().await.len(), 1, "it waits");
    let parked = fold(&rig.history().await).parked.expect("parked while its node is down");
    let why = waiting(&next).await.unwrap();
    assert!(why.detail.contains(&parked.code) && why.remedy.as_deref() == Some(&*parked.remedy), "{why:?}");
    assert_eq!(
        heir(&*rig.log, &*rig.clock, rig.update, &"prod".into()).await,
        Ok(Some(next.update)),
        "`list` shows it"
    );

    next.append(Event::CancelRequested(CancelRequested { by: Some("ann".into()), ..Default::default() }), 3).await;
    let (_, state) = next.ended(Duration::from_secs(30)).await;
    assert_eq!(rejected(&state), "cancelled");
    assert_eq!(heir(&*rig.log, &*rig.clock, rig.update, &"prod".into()).await, Ok(None));
    let state = fold(&rig.history().await);
    assert!(state.end.is_none() && state.cancelled.is_some(), "what it asked for stands");

    // Its place is free for another.
    let third = another(&rig, 78);
    third.append(superseding(rig.update).into(), 4).await;
    claimed(&rig, third.update).await;
    rig.world.with(|w| w.cease_faults());
    let (old, state) = rig.ended(LIMIT).await;
    let shown = lines(&old);
    assert!(matches!(&state.end, Some(End::Failed(e)) if e.not_running.is_empty()), "{shown}");
    assert_eq!(claims(&old), [next.update, third.update], "{shown}");
    let obeyed = next.history().await;
    assert!(!outline(&obeyed).contains("CommandRefused"), "the rejection is the answer\n{}", lines(&obeyed));
    next.append(Event::CancelRequested(CancelRequested::default()), 5).await;
    next.until("CommandRefused", 1).await;
    let (new, state) = third.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&new));
    assert!(all_run(&rig));
}

#[tokio::test(start_paused = true)]
async fn the_store_dies_in_between_and_comes_back() {
    let cluster = Rig::new(quick_world(27));
    let store = Rig::new(quick_world(28));
    let rig = Rig { log: store.log.clone(), clock: store.clock.clone(), ..cluster.share() };
    let truth = cluster.watch_truth();
    rig.append(request(TARGET).into(), 1).await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("InstanceStopped", 1).await;
    let next = another(&rig, 77);
    next.append(superseding(rig.update).into(), 2).await;
    for pause in [0, 100, 2_000, 15_000] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        store.world.with(|w| (0..2).for_each(|n| w.freeze(n)));
        tokio::time::sleep(Duration::from_secs(40)).await;
        store.world.with(|w| (0..2).for_each(|n| w.unfreeze(n)));
    }
    rig.ended(LIMIT).await;
    next.ended(LIMIT).await;
    handed_over(&rig, &next).await;
    assert_eq!(types(&cluster), [OTHER; 4]);
    truth.check();
}

/// Intents may be written again after a crash, and what waits may be said again; everything else is said once.
fn said_once(history: &[Recorded]) {
    let outline = outline(history);
    let may_repeat =
        |l: &&str| l.contains("Requested") || l.starts_with("StepDelayed") || l.starts_with("WorkerAssigned");
    let mut once: Vec<&str> = outline.lines().filter(|l| !may_repeat(l)).collect();
    let all = once.len();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), all, "{}", lines(history));
}

/// The worker dies at this append or call of the hand-over; another process of its name goes on.
async fn dies_at(at: usize, when: When) -> bool {
    let rig = Rig::new(quick_world(29));
    rig.append(asks(json!({ "gates": ["afterFirst"] })).into(), 1).await;
    let (first, _stop) = rig.spawn(0);
    rig.until("ApprovalAwaited", 1).await;
    first.abort();
    let next = another(&rig, 77);
    next.append(asks(json!({ "targetInstanceType": OTHER, "nodes": ["esdb-4"], "supersedes": rig.update })).into(), 2)
        .await;
    let bomb = Bomb::new(at, when);
    let (worker, _stop) = mined(&rig, &bomb).spawn(1);
    let died = tokio::select! {
        () = bomb.gone.notified() => true,
        _ = next.ended(LIMIT) => false,
    };
    worker.abort();
    let _ = worker.await;
    if died {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (successor, _stop) = rig.spawn(2);
    next.ended(LIMIT).await;
    handed_over(&rig, &next).await;
    successor.abort();
    said_once(&rig.history().await);
    said_once(&next.history().await);
    assert!(matches!(fold(&rig.history().await).end, Some(End::Superseded(_))), "{}", lines(&rig.history().await));
    died
}

#[tokio::test(start_paused = true)]
async fn dying_around_each_append_of_the_hand_over_loses_nothing_and_says_nothing_twice() {
    for when in [When::Before, When::After] {
        // From the take-over of the old one to the plan of the new one; what follows is an update like any other.
        for at in 0..8 {
            assert!(dies_at(at, when).await, "the hand-over has more than {at} appends");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_workers_and_requests_the_first_in_the_log_takes_the_place() {
    for seed in 30..36 {
        let rig = Rig::new(quick_world(seed));
        let truth = rig.watch_truth();
        let workers = [0, 1, 2].map(|n| named(&rig, &format!("w{n}"), u128::from(n as u8)));
        rig.append(request(TARGET).into(), 1).await;
        rig.until("InstanceStopRequested", 1).await;
        let (next, late) = (another(&rig, 77), another(&rig, 78));
        next.append(superseding(rig.update).into(), 2).await;
        late.append(superseding(rig.update).into(), 3).await;
        // Whoever holds the old one dies before it has ended, on odd seeds.
        if seed % 2 == 1 {
            let state = fold(&rig.history().await);
            let holder = state.holder.unwrap().worker;
            let of = workers.iter().enumerate().find(|(n, _)| holder == format!("w{n}").as_str().into()).unwrap();
            of.1.0.abort();
        }
        let (history, state) = late.ended(LIMIT).await;
        let shown = || format!("seed {seed}\n{}", lines(&history));
        assert_eq!(rejected(&state), "clusterBusy", "{}", shown());
        rig.ended(LIMIT).await;
        next.ended(LIMIT).await;
        handed_over(&rig, &next).await;
        assert_eq!(types(&rig), [OTHER; 4], "seed {seed}");
        truth.check();
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_superseded_before_it_has_begun() {
    let rig = Rig::new(quick_world(37));
    rig.append(request(TARGET).into(), 1).await;
    let workers = [named(&rig, "w0", 0), named(&rig, "w1", 1)];
    rig.until("InstanceStopRequested", 1).await;
    let (second, third) = (another(&rig, 77), another(&rig, 78));
    second.append(superseding(rig.update).into(), 2).await;
    claimed(&rig, second.update).await;
    third.append(superseding(second.update).into(), 3).await;
    let (history, state) = second.ended(LIMIT).await;
    assert_eq!(rejected(&state), "superseded");
    assert_eq!(claims(&history), [third.update]);
    assert!(fold(&rig.history().await).end.is_none(), "before the first has ended\n{}", lines(&rig.history().await));
    assert_eq!(waiting(&third).await.unwrap().code, "waitsForSuperseded");
    // All workers die; what the third waits for stands in the streams.
    workers.iter().for_each(|(task, _)| task.abort());
    let _next = named(&rig, "w2", 2);
    let (history, state) = third.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    let (_, state) = rig.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Superseded(e)) if e.superseded_by == second.update));
    assert_eq!(types(&rig), [OTHER; 4]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_superseded_is_refused_with_a_code_and_a_remedy_and_nothing_is_asked_to_end() {
    let rig = Rig::new(quick_world(38));
    rig.append(asks(json!({ "gates": ["afterFirst"] })).into(), 1).await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("ApprovalAwaited", 1).await;
    let elsewhere = another(&rig, 0xe15e);
    elsewhere.append(asks(json!({ "cluster": "elsewhere" })).into(), 2).await;
    let ended = another(&rig, 0xdead);
    ended.append(request(OTHER).into(), 3).await;
    let (_, state) = ended.ended(LIMIT).await;
    assert_eq!(rejected(&state), "clusterBusy");
    let (active, unknown) = (rig.update, UpdateId(Uuid::from_u128(0x404)));
    let itself = UpdateId(Uuid::from_u128(0x5e1f));
    let table = [
        (0x900, json!({ "supersedes": unknown }), "supersedesUnknown"),
        (0x901, json!({ "supersedes": elsewhere.update }), "supersedesOtherCluster"),
        (0x5e1f, json!({ "supersedes": itself }), "supersedesItself"),
        (0x902, json!({ "supersedes": ended.update }), "clusterBusy"),
        // Refused for itself, it ends nothing.
        (0x903, json!({ "supersedes": active, "dwellSeconds": -1 }), "badNumber"),
        (0x904, json!({ "supersedes": active, "targetInstanceType": null }), "targetTypeMissing"),
    ];
    for (number, more, code) in table {
        let new = another(&rig, number);
        new.append(asks(more.clone()).into(), number).await;
        let (history, state) = new.ended(LIMIT).await;
        assert_eq!(rejected(&state), code, "{more}: {}", lines(&history));
        assert_eq!(claims(&rig.history().await), [], "{more}");
        if code == "clusterBusy" {
            let Some(End::Rejected(e)) = &state.end else { panic!() };
            assert!(e.reasons[0].found.contains(&active.to_string()), "it names the active one: {e:?}");
        }
    }
    // Where the named one has ended and nothing is active, there is nothing to supersede.
    rig.append(Event::CancelRequested(CancelRequested::default()), 4).await;
    rig.ended(LIMIT).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let new = another(&rig, 77);
    new.append(superseding(rig.update).into(), 5).await;
    let (history, state) = new.ended(LIMIT).await;
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    assert_eq!(claims(&rig.history().await), []);
}

/// What `plan` makes of a request: codes of what refuses it, and what it says of tags.
async fn foreseen(rig: &Rig, request: &UpdateRequested) -> (Vec<String>, Vec<CheckOutcome>) {
    let handle = rig.worker(99).clusters[&ClusterName::from("prod")].clone();
    let found = preview(&handle, &*rig.log, &rig.clock, request, &[]).await;
    let fences = found.assessment.checks.iter().filter(|c| c.code == "fence").filter_map(|c| c.outcome);
    (found.refused.into_iter().map(|r| r.code).collect(), fences.collect())
}

#[tokio::test(start_paused = true)]
async fn a_plan_foresees_what_a_worker_says_to_a_request_while_another_update_is_active() {
    let rig = Rig::new(quick_world(49));
    let nothing: &[&str] = &[];
    let (passed, failed) = (CheckOutcome::Passed, CheckOutcome::Failed);
    assert_eq!(foreseen(&rig, &asks(json!({}))).await.0, nothing, "before anything was asked for");
    rig.append(request(TARGET).into(), 1).await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("Tagged", 1).await;
    let (codes, fences) = foreseen(&rig, &asks(json!({}))).await;
    assert_eq!((codes, fences.contains(&failed)), (vec!["clusterBusy".to_owned()], true));
    rig.until("Tagged", 2).await;
    let (codes, fences) = foreseen(&rig, &superseding(rig.update)).await;
    assert_eq!(codes, nothing);
    assert!(
        !fences.is_empty() && fences.iter().all(|f| *f == passed),
        "the tag is of the one that ends first: {fences:?}"
    );
    let unknown = foreseen(&rig, &superseding(UpdateId(Uuid::from_u128(0x404)))).await.0;
    assert_eq!(unknown, ["supersedesUnknown"]);
    // One that waits to take its place has that place, and leaves it to whoever supersedes it.
    let next = another(&rig, 77);
    next.append(superseding(rig.update).into(), 2).await;
    claimed(&rig, next.update).await;
    assert_eq!(foreseen(&rig, &superseding(rig.update)).await.0, ["clusterBusy"]);
    assert_eq!(foreseen(&rig, &superseding(next.update)).await.0, nothing);
    assert_eq!(claims(&rig.history().await), [next.update], "nothing is asked for by looking");
    assert_eq!(claims(&next.history().await), []);
}

#[tokio::test(start_paused = true)]
async fn what_the_new_one_says_of_when_and_what_holds_for_it_and_not_for_the_end_of_the_old_one() {
    let rig = Rig::new(quick_world(39));
    let truth = rig.watch_truth();
    rig.append(request(TARGET).into(), 1).await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("InstanceStopped", 1).await;
    let next = another(&rig, 77);
    next.append(asks(json!({ "supersedes": rig.update, "notBefore": "2026-01-01T01:00:00Z" })).into(), 2).await;
    let (_, state) = rig.ended(Duration::from_secs(600)).await;
    assert!(matches!(state.end, Some(End::Superseded(_))));
    next.until("WorkerAssigned", 1).await;
    tokio::time::sleep(Duration::from_secs(1200)).await;
    assert_eq!(next.history().await.len(), 2, "it waits for its time: {}", lines(&next.history().await));

    // It is superseded in its turn, by one that fits no plan: what is not as it was planned is not done.
    let third = another(&rig, 78);
    third.append(asks(json!({ "supersedes": next.update, "planDigest": "0000000000000000" })).into(), 3).await;
    let (_, state) = next.ended(Duration::from_secs(60)).await;
    assert_eq!(rejected(&state), "superseded");
    let (_, state) = third.ended(Duration::from_secs(600)).await;
    assert_eq!(rejected(&state), "planDigestDiffers", "{:?}", state.end);
    assert_eq!(truth.check().iter().sum::<u32>(), 1, "nothing but the node that the first had in hand");
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_does_not_pass_a_request_that_waits() {
    let mut config = quick_world(40);
    // The log goes on meanwhile.
    config.load_bytes_per_second = 2_000_000;
    let code = || "InsufficientInstanceCapacity".to_owned();
    for instance_type in [TARGET, OLD] {
        config.faults.push(Fault::StartFails { instance_type: instance_type.into(), code: code(), times: u32::MAX });
    }
    let rig = Rig::new(config);
    rig.append(request(TARGET).into(), 1).await;
    let (worker, _stop) = rig.spawn(0);
    rig.until("InstanceStartFailed", 1).await;
    let next = another(&rig, 77);
    next.append(superseding(rig.update).into(), 2).await;
    claimed(&rig, next.update).await;
    // Others ask, and are answered, for long.
    for n in 0..10 {
        let other = another(&rig, 0x1000 + n);
        other.append(request(OTHER).into(), 0x1000 + n).await;
        let (_, state) = other.ended(LIMIT).await;
        assert_eq!(rejected(&state), "clusterBusy");
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    let asked = rig.log.read_last(&next.update.stream()).await.unwrap().unwrap().position.unwrap();
    let moved = rig.log.read_last(&StreamName::from(CHECKPOINT_STREAM)).await.unwrap();
    let moved = moved.filter(|e| e.event_type == CHECKPOINT).expect("it has moved");
    let at = Position::from(serde_json::from_value::<CheckpointMoved>(moved.data).unwrap());
    assert!(at < asked, "{at:?} is past the request at {asked:?}");
    worker.abort();
    rig.world.with(|w| w.cease_faults());
    // A process that knows nothing finds both.
    let (_successor, _stop) = rig.spawn(1);
    next.ended(LIMIT).await;
    handed_over(&rig, &next).await;
    // Once it has been admitted the checkpoint goes on.
    let other = another(&rig, 0x2000);
    tokio::time::sleep(Duration::from_secs(15)).await;
    other.append(asks(json!({ "dwellSeconds": -1 })).into(), 0x2000).await;
    other.ended(LIMIT).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let moved = rig.log.read_last(&StreamName::from(CHECKPOINT_STREAM)).await.unwrap().unwrap();
    assert!(Position::from(serde_json::from_value::<CheckpointMoved>(moved.data).unwrap()) > asked);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_admitted_and_waits_for_room_gives_its_place_up() {
    let rig = Rig::new(quick_world(41));
    // Another cluster's update takes the only room.
    let far = Rig::new(quick_world(42));
    let far = Rig { log: rig.log.clone(), clock: rig.clock.clone(), ..far };
    let mut worker = rig.worker(0);
    let handle = |rig: &Rig| rig.worker(0).clusters.values().next().unwrap().clone();
    worker.clusters = Arc::new([("prod".into(), handle(&rig)), ("far".into(), handle(&far))].into());
    let (_stop, stopped) = watch::channel(Stop::No);
    let _worker = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
    let far = Rig { update: UpdateId(Uuid::from_u128(0xfa4)), ..far };
    far.append(asks(json!({ "cluster": "far", "gates": ["afterFirst"] })).into(), 1).await;
    far.until("ApprovalAwaited", 1).await;
    rig.append(request(TARGET).into(), 2).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.history().await.len(), 1, "it waits for room");
    let next = another(&rig, 77);
    next.append(superseding(rig.update).into(), 3).await;
    let (history, state) = rig.ended(Duration::from_secs(60)).await;
    assert_eq!((rejected(&state), claims(&history)), ("superseded", vec![next.update]));
    far.append(Event::CancelRequested(CancelRequested::default()), 4).await;
    next.ended(LIMIT).await;
    handed_over(&rig, &next).await;
}
