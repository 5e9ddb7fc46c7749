//! What an update does when EC2 fails, and where it ends: one row a failure, in process, at real durations and in virtual time. The names are
//! those of `rehearse --fault`; `docs/ec2-failures.md` tells of each.

mod rig;

use std::time::Duration;

use esdb_rollout::domain::instance::{FENCE_TAG, Instance, InstanceState};
use esdb_rollout::exit::Exit;
use esdb_rollout::sim::model::{Fault, WorldConfig};
use esdb_rollout::sim::world::World;
use esdb_rollout::update::event::{Event, ResumeRequested, UpdateRequested};
use esdb_rollout::update::state::{End, Recorded, State, fold};
use esdb_rollout::worker::Stop;
use rig::{Rig, Truth, lines, request, world};
use serde_json::{Value, json};

const DOC: &str = include_str!("../docs/ec2-failures.md");
const TARGET: &str = "m6i.xlarge";

/// What somebody does about an update that waits.
enum Person {
    /// Nobody needs to do anything.
    Nobody,
    /// What failed is mended, whatever it was; the update goes on by itself.
    Mends,
    /// The machine is rebooted by hand.
    Reboots,
    /// Says that it shall go on with what is there.
    Resumes,
    /// Starts what somebody stopped.
    Starts,
    /// The same, and says that it shall go on.
    StartsAndResumes,
}

struct Row {
    name: &'static str,
    faults: Vec<Fault>,
    /// What the request says beside cluster and type.
    asks: Value,
    /// `completed`, `failed CODE`, `parked CODE` or `paused`.
    verdict: &'static str,
    exit: u8,
    /// What stands in the history by then.
    told: &'static [&'static str],
    /// What must not.
    untold: &'static [&'static str],
    person: Person,
    /// The verdict after that.
    then: &'static str,
}

impl Row {
    fn new(name: &'static str, verdict: &'static str, exit: u8, told: &'static [&'static str]) -> Row {
        let person = Person::Nobody;
        Row { name, faults: vec![], asks: json!({}), verdict, exit, told, untold: &[], person, then: "" }
    }

    fn named(name: &'static str, verdict: &'static str, exit: u8, told: &'static [&'static str]) -> Row {
        let faults = Fault::by_name(name, &config(), TARGET).into_iter().collect();
        Row { faults, ..Row::new(name, verdict, exit, told) }
    }

    /// These calls are refused, so often, with this code.
    fn calls(
        action: &str,
        code: &'static str,
        times: u32,
        verdict: &'static str,
        exit: u8,
        told: &'static [&'static str],
    ) -> Row {
        let faults = vec![Fault::CallFails { action: action.into(), code: code.into(), times }];
        Row { faults, ..Row::new(code, verdict, exit, told) }
    }

    fn asking(self, asks: Value) -> Row {
        Row { asks, ..self }
    }

    fn without(self, untold: &'static [&'static str]) -> Row {
        Row { untold, ..self }
    }

    fn then(self, person: Person, then: &'static str) -> Row {
        Row { person, then, ..self }
    }
}

/// EC2 takes its real time; the database is small.
fn config() -> WorldConfig {
    WorldConfig { load_bytes_per_second: 50_000, initial_log_bytes: 10_000_000, ..world(31) }
}

fn verdict(state: &State) -> String {
    match &state.end {
        Some(End::Completed(_)) => "completed".into(),
        Some(End::Failed(e)) => format!("failed {}", e.code),
        Some(other) => format!("{other:?}"),
        None => match (&state.parked, &state.paused) {
            (Some(p), _) => format!("parked {}", p.code),
            (None, Some(_)) => "paused".into(),
            (None, None) => "running".into(),
        },
    }
}

fn not_running(state: &State) -> usize {
    match &state.end {
        Some(End::Completed(e)) => e.not_running.len(),
        Some(End::Failed(e)) => e.not_running.len(),
        Some(End::Cancelled(_) | End::Rejected(_) | End::Superseded(_)) | None => 0,
    }
}

fn down(rig: &Rig) -> Vec<usize> {
    rig.world.with(|w| (0..w.node_count()).filter(|n| w.instance_state(*n) != InstanceState::Running).collect())
}

/// Waits for the end; or, where none comes, for an update that began to wait for a person longer ago than anything lasts that is over by
/// itself, and does so still.
async fn settled(rig: &Rig) -> (Vec<Recorded>, State) {
    let mut waits_since = None;
    for _ in 0..2 * 3600 / 5 {
        let history = rig.history().await;
        let state = fold(&history);
        let now = rig.clock.now();
        let waits = Exit::of(&state) == Some(Exit::Waiting);
        if state.end.is_some() || waits && now.since(*waits_since.get_or_insert(now)) > Duration::from_secs(600) {
            return (history, state);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    panic!("it comes to nothing\n{}", lines(&rig.history().await));
}

async fn act(rig: &Rig, person: &Person) {
    let resume = || Event::ResumeRequested(ResumeRequested { by: Some("ann".into()), why: None });
    match person {
        Person::Nobody => {}
        Person::Mends => rig.world.with(|w| w.cease_faults()),
        Person::Reboots => rig.world.with(|w| {
            let stuck = (0..w.node_count()).find(|n| w.is_stuck(*n)).expect("a silent node");
            let id = w.instance_of(stuck).clone();
            w.reboot_instance(&id).unwrap();
        }),
        Person::Resumes => rig.append(resume(), 7).await,
        Person::Starts => start(rig),
        Person::StartsAndResumes => {
            start(rig);
            tokio::time::sleep(Duration::from_secs(120)).await;
            rig.append(resume(), 7).await;
        }
    }
}

fn start(rig: &Rig) {
    rig.world.with(|w| {
        let id = w.instance_of(down_of(w)).clone();
        w.start_instances(&[id]).unwrap();
    });
}

async fn play(row: Row) {
    let rig = Rig::new(WorldConfig { faults: row.faults, ..config() });
    let truth: Truth = rig.watch_truth();
    let mut asked = serde_json::to_value(request(TARGET)).unwrap();
    asked.as_object_mut().unwrap().extend(row.asks.as_object().unwrap().clone());
    let asked: UpdateRequested = serde_json::from_value(asked).unwrap();
    rig.append(asked.into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    let name = row.name;
    let (mut history, mut state) = settled(&rig).await;
    let mut shown = lines(&history);
    assert_eq!(verdict(&state), row.verdict, "{name}\n{shown}");
    assert_eq!(Exit::of(&state).map(Exit::code), Some(row.exit), "{name}\n{shown}");
    for told in row.told {
        assert!(shown.contains(told), "{name}: `{told}` is not told\n{shown}");
    }
    for untold in row.untold {
        assert!(!shown.contains(untold), "{name}: `{untold}` is told\n{shown}");
    }
    // Nothing is down but what the history names.
    for n in down(&rig) {
        let named = format!("esdb-{}", n + 1);
        let loud = |l: &str| ["UpdateParked", "ForeignChangeSeen", "InstanceStartFailed"].iter().any(|w| l.contains(w));
        assert!(state.end.is_none(), "{name}: it ends with {named} down\n{shown}");
        assert!(shown.lines().any(|l| loud(l) && l.contains(&named)), "{name}: {named} is down\n{shown}");
    }
    if !row.then.is_empty() {
        act(&rig, &row.person).await;
        (history, state) = settled(&rig).await;
        shown = lines(&history);
        assert_eq!(verdict(&state), row.then, "{name}, after a person came\n{shown}");
        assert_eq!(down(&rig), Vec::<usize>::new(), "{name}\n{shown}");
    }
    assert_eq!(not_running(&state), down(&rig).len(), "{name}\n{shown}");
    let tagged =
        rig.world.with(|w| w.facts().instances.iter().filter(|i| i.details.tags.contains_key(FENCE_TAG)).count());
    assert!(state.end.is_none() || tagged == 0, "{name}: {tagged} tags are left\n{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    truth.check();
}

/// Every name of `rehearse --fault`, with the request's defaults.
fn named() -> Vec<Row> {
    let n = Row::named;
    vec![
        n("capacity", "failed InsufficientInstanceCapacity", 4, &["InstanceStartFailed", "NodeRolledBack"]),
        n("start-capacity", "completed", 0, &["InsufficientInstanceCapacity"]),
        n("falls-back-to-stopped", "completed", 0, &["Server.InsufficientInstanceCapacity"]),
        n("capacity-both-ways", "failed InsufficientInstanceCapacity", 4, &["instanceWillNotStart", "NodeRolledBack"]),
        n("start-unsupported", "failed Unsupported", 4, &["NodeRolledBack"]),
        n("quota", "failed VcpuLimitExceeded", 4, &["NodeRolledBack"]),
        n("kms", "parked instanceWillNotStart", 7, &["Client.InternalError", "type=\"m6i.large\""])
            .then(Person::Mends, "failed Client.InternalError"),
        n("host-fault", "completed", 0, &["Server.InternalError"]),
        n("throttled", "completed", 0, &[]),
        n("credentials-expire", "completed", 0, &["RequestExpired", "instanceUnseen"]),
        n("stop-hangs", "completed", 0, &["instanceStopsNot"]),
        n("no-rejoin", "parked nodeSilent", 7, &["has not answered"]).then(Person::Reboots, "completed"),
        n("stays-silent", "completed", 0, &[]),
        n("exits-once", "completed", 0, &[]),
        n("data-lost", "failed dataLost", 4, &["CaughtUp", "NodeFailed"]),
        n("resign-ignored", "completed", 0, &["LeadershipTransferred"]),
        n("leader-reelected", "completed", 0, &["LeadershipTransferred"]),
        n("store-lost", "failed storeLost", 4, &["NodeRolledBack"]),
        n("store-hangs", "failed storeLost", 4, &["NodeRolledBack"]),
        // What was never called has no unknown outcome.
        n("store-slow", "failed storeLost", 4, &["storeSlow", "NodeRolledBack"]).without(&["it is unknown whether"]),
        n("foreign-type", "paused", 7, &["ForeignChangeSeen", "m6i.2xlarge"]).then(Person::Resumes, "completed"),
        n("foreign-stop", "paused", 7, &["Client.UserInitiatedShutdown; User initiated (2026-01-01 00:"])
            .then(Person::Resumes, "completed"),
        n("scheduled-stop", "parked otherInstanceOff", 7, &["AWS stopped it for a scheduled event"])
            .then(Person::Starts, "completed"),
    ]
}

async fn play_all(rows: impl IntoIterator<Item = Row>) {
    for row in rows {
        play(row).await;
    }
}

#[test]
fn every_name_is_played_and_the_page_says_where_it_ends() {
    let names: Vec<&str> = Fault::NAMES.iter().map(|(name, _)| *name).collect();
    let rows = named();
    assert_eq!(rows.iter().map(|r| r.name).collect::<Vec<_>>(), names);
    let mut from = 0;
    for (row, (name, what)) in rows.iter().zip(Fault::NAMES) {
        let line = format!("| `{name}` | {what} | `{}` | {} |", row.verdict, row.exit);
        let at = DOC[from..].find(&line).unwrap_or_else(|| panic!("docs/ec2-failures.md lacks, here:\n{line}"));
        from += at;
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_keep_a_start_from_succeeding() {
    play_all(named().into_iter().take(8)).await;
}

#[tokio::test(start_paused = true)]
async fn names_of_calls_stops_and_processes() {
    play_all(named().into_iter().skip(8).take(7)).await;
}

#[tokio::test(start_paused = true)]
async fn names_of_leaders_stores_and_other_people() {
    play_all(named().into_iter().skip(15)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_request_says_decides() {
    let n = Row::named;
    play_all([
        // The next node in the zone that lacked capacity is let serve for a while, and asks again then.
        n("capacity", "completed", 0, &["capacityAwaited", "InsufficientInstanceCapacity"])
            .asking(json!({ "fallbackTypes": ["m6i.2xlarge"] })),
        n("capacity", "parked heldAfterFailure", 7, &["NodeRolledBack"]).asking(json!({ "onFailure": "hold" })),
        n("no-rejoin", "completed", 0, &["InstanceRebooted"]).asking(json!({ "onSilentNode": "reboot" })),
        // What somebody stops while nothing is in hand stays stopped, and is named.
        Row {
            faults: vec![Fault::SomebodyStops {
                node: 3,
                reason: "Server.ScheduledStop".into(),
                after: Duration::from_secs(30),
            }],
            ..Row::new("stopped between two nodes", "paused", 7, &["ForeignChangeSeen", "AWS stopped it"])
        }
        .asking(json!({ "dwellSeconds": 120 }))
        .then(Person::StartsAndResumes, "completed"),
        n("quota", "failed VcpuLimitExceeded", 4, &[])
            .asking(json!({ "fallbackTypes": ["m6i.xlarge"], "onFailure": "rollBackAll" })),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_passes_costs_time_and_nothing_else() {
    let c = Row::calls;
    play_all([
        c("StopInstances", "IncorrectInstanceState", 2, "completed", 0, &[]),
        c("ModifyInstanceAttribute", "IncorrectInstanceState", 2, "completed", 0, &[]),
        c("StartInstances", "IncorrectInstanceState", 2, "completed", 0, &["IncorrectInstanceState"]),
        c("DescribeInstances", "InvalidInstanceID.NotFound", 4, "completed", 0, &[]),
        c("StartInstances", "InvalidInstanceID.NotFound", 2, "completed", 0, &["InvalidInstanceID.NotFound"]),
        c("StartInstances", "RequestLimitExceeded", 6, "completed", 0, &["RequestLimitExceeded"]),
        c("StopInstances", "RequestLimitExceeded", 4, "completed", 0, &["ec2Refused"]),
        // Credentials that are renewed: nothing has failed, and the type is as good as before.
        c("StopInstances", "RequestExpired", 3, "completed", 0, &["credentialsRefused"]),
        c("ModifyInstanceAttribute", "AuthFailure", 3, "completed", 0, &["credentialsRefused"]),
        c("StartInstances", "ExpiredToken", 3, "completed", 0, &["credentialsRefused"]),
        // Somebody else writes tags of the same instance.
        c("CreateTags", "ConcurrentTagAccess", 2, "completed", 0, &["ec2Refused"]),
        c("DeleteTags", "ConcurrentTagAccess", 2, "completed", 0, &["ec2Refused"]),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_goes_back_or_calls_a_person() {
    let c = Row::calls;
    let falls = |reason: &'static str, times, verdict, exit, told| Row {
        faults: vec![Fault::FallsBackToStopped { node: Some(0), reason: reason.into(), times }],
        ..Row::new(reason, verdict, exit, told)
    };
    let starts = |code: &'static str, verdict, told| Row {
        faults: vec![Fault::StartFails { instance_type: TARGET.into(), code: code.into(), times: u32::MAX }],
        ..Row::new(code, verdict, 4, told)
    };
    let every = |code: &'static str, minutes: u64, verdict, told| Row {
        faults: vec![Fault::EveryStartFails { code: code.into(), for_: Duration::from_secs(60 * minutes) }],
        ..Row::new(code, verdict, 4, told)
    };
    play_all([
        // The stop is refused for good: the node goes on serving.
        c("StopInstances", "UnauthorizedOperation", 1, "failed stopRefused", 4, &["ForeignChangeSeen", "stopRefused"]),
        c("StopInstances", "OperationNotPermitted", 1, "failed stopRefused", 4, &["ForeignChangeSeen", "stopRefused"]),
        // The tag is not to be had, and nothing was done yet.
        c("CreateTags", "TagLimitExceeded", 1, "failed fenceNotWritten", 4, &["ForeignChangeSeen"]),
        c("CreateTags", "TagPolicyViolation", 1, "failed fenceNotWritten", 4, &["ForeignChangeSeen"]),
        // The right to change types is gone: the old type needs no change.
        c("ModifyInstanceAttribute", "UnauthorizedOperation", u32::MAX, "failed UnauthorizedOperation", 4, &[]),
        // The right to start is gone: no type helps, a person is called at once, and the node comes back with the right.
        c("StartInstances", "UnauthorizedOperation", 4, "failed UnauthorizedOperation", 4, &["instanceWillNotStart"]),
        every("PendingVerification", 1, "failed PendingVerification", &["instanceWillNotStart"]),
        starts("ReservationCapacityExceeded", "failed ReservationCapacityExceeded", &[]),
        starts("InsufficientHostCapacity", "failed InsufficientHostCapacity", &[]),
        starts("InvalidParameterCombination", "failed InvalidParameterCombination", &[]),
        falls("Client.VolumeLimitExceeded", 1, "failed Client.VolumeLimitExceeded", 4, &["NodeRolledBack"]),
        falls("Client.InvalidSnapshot.NotFound", u32::MAX, "parked instanceWillNotStart", 7, &[])
            .then(Person::Mends, "failed Client.InvalidSnapshot.NotFound"),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_calls_a_person_and_goes_on() {
    let rig = Rig::new(WorldConfig { ec2_start: Duration::from_secs(11 * 60), ..config() });
    let asked = json!({ "cluster": "prod", "targetInstanceType": TARGET, "nodes": ["esdb-4"] });
    let (history, state) = rig.run(serde_json::from_value(asked).unwrap(), Duration::from_secs(3600)).await;
    let shown = lines(&history);
    assert_eq!(verdict(&state), "completed", "{shown}");
    assert!(shown.contains("instanceStartsNot"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_terminated_instance_is_named_and_nothing_else_is_touched() {
    let rig = Rig::new(config());
    let truth = rig.watch_truth();
    rig.append(request(TARGET).into(), 1).await;
    let (worker, stop) = rig.spawn(0);
    // It is stopped for a tenth of a second only.
    let n = loop {
        match rig.world.with(|w| (0..w.node_count()).find(|n| w.instance_state(*n) == InstanceState::Stopped)) {
            Some(n) => break n,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    rig.world.with(|w| {
        let id = w.instance_of(n).clone();
        let is = w.describe_instances(&[id]).unwrap().remove(0);
        w.follow_instance(n, &Instance { state: InstanceState::Terminated, ..is });
    });
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    let shown = lines(&history);
    assert_eq!((verdict(&state).as_str(), not_running(&state)), ("failed instanceTerminated", 1), "{shown}");
    assert_eq!(Exit::of(&state), Some(Exit::NodeNotRunning), "{shown}");
    stop.send(Stop::AtSafePoint).unwrap();
    worker.await.unwrap().unwrap();
    assert_eq!(truth.check(), [0, 0, 0, 1], "{shown}");
}

fn down_of(w: &World) -> usize {
    (0..w.node_count()).find(|n| w.instance_state(*n) == InstanceState::Stopped).expect("a stopped one")
}
