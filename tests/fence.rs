//! The fence outside the store: the tag on the instance in hand, in the world and in the history. Deaths around its appends and calls are
//! played in `crash.rs`.

mod rig;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::ec2::classify;
use esdb_rollout::domain::ids::{InstanceId, InstanceType, UpdateId};
use esdb_rollout::domain::inspection::Inspection;
use esdb_rollout::domain::instance::{FENCE_TAG, Instance, InstanceState, TypeInfo};
use esdb_rollout::ports::{Done, Fleet, FleetError, Wanted};
use esdb_rollout::sim::world::SimWorld;
use esdb_rollout::update::event::{CancelRequested, Event, UpdateRequested};
use esdb_rollout::update::state::{Body, End, Recorded, State};
use esdb_rollout::worker::{StartPoint, Stop, Worker};
use rig::{Rig, lines, outline, quick_world, request};
use serde_json::{Value, json};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(3600);
const ANOTHERS: &str = "11111111-2222-4333-8444-555555555555@8";

/// What becomes of one call about a tag.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Refused(&'static str),
    DoneUnheard,
    LostUnheard,
}

/// EC2, with a fate for the first calls that write a tag, and for those that remove one.
struct Fated {
    inner: Arc<dyn Fleet>,
    tags: Vec<Fate>,
    untags: Vec<Fate>,
    made: [AtomicUsize; 2],
}

impl Fated {
    async fn call(
        &self,
        name: &str,
        which: usize,
        done: impl Future<Output = Result<Done, FleetError>>,
    ) -> Result<Done, FleetError> {
        let fates = [&self.tags, &self.untags][which];
        match fates.get(self.made[which].fetch_add(1, Ordering::SeqCst)) {
            None => done.await,
            Some(Fate::Refused(code)) => Err(FleetError {
                call: name.into(),
                class: classify(code),
                code: (*code).into(),
                message: "as the test says".into(),
                request_id: None,
            }),
            Some(Fate::DoneUnheard) => {
                done.await?;
                std::future::pending().await
            }
            Some(Fate::LostUnheard) => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Fleet for Fated {
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        self.inner.describe(ids).await
    }
    async fn find(&self, w: &Wanted) -> Result<Vec<Instance>, FleetError> {
        self.inner.find(w).await
    }
    async fn type_info(&self, t: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        self.inner.type_info(t).await
    }
    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        self.inner.inspect(instances).await
    }
    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.stop(id).await
    }
    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        self.inner.modify_type(id, to).await
    }
    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.start(id).await
    }
    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.reboot(id).await
    }
    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.call("CreateTags", 0, self.inner.tag(id, value)).await
    }
    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.call("DeleteTags", 1, self.inner.untag(id, value)).await
    }
}

fn fated(rig: &Rig, tags: &[Fate], untags: &[Fate]) -> Rig {
    let inner = rig.fleet.clone();
    let (tags, untags) = (tags.to_vec(), untags.to_vec());
    let fleet = Arc::new(Fated { inner, tags, untags, made: Default::default() });
    Rig { fleet, ..rig.share() }
}

/// A worker whose cluster has no fence.
fn unfenced(rig: &Rig, number: u128) -> Worker {
    let worker = rig.worker(number);
    let mut clusters = (*worker.clusters).clone();
    clusters.values_mut().for_each(|handle| handle.policy.fence = false);
    Worker { clusters: Arc::new(clusters), ..worker }
}

fn tag_of(world: &SimWorld, n: usize) -> Option<String> {
    world.with(|w| w.facts().instances[n].details.tags.get(FENCE_TAG).cloned())
}

fn set_tag(world: &SimWorld, n: usize, value: Option<&str>) {
    world.with(|w| {
        let tags = &mut w.facts_mut().instances[n].details.tags;
        match value {
            Some(value) => drop(tags.insert(FENCE_TAG.into(), value.into())),
            None => drop(tags.remove(FENCE_TAG)),
        }
    });
}

fn tags(world: &SimWorld) -> Vec<Option<String>> {
    (0..world.with(|w| w.node_count())).map(|n| tag_of(world, n)).collect()
}

/// What was found wrong, and the values of the tag that were seen.
#[derive(Debug, Default)]
struct Seen {
    wrong: Vec<String>,
    values: Vec<String>,
}

impl Seen {
    fn look(&mut self, world: &SimWorld, update: UpdateId) {
        let ours: Vec<(usize, String)> = (0..4).filter_map(|n| Some((n, tag_of(world, n)?))).collect();
        for (_, value) in &ours {
            if !value.starts_with(&format!("{update}@")) {
                self.wrong.push(format!("a tag of another: {value}"));
            }
            if !self.values.contains(value) {
                self.values.push(value.clone());
            }
        }
        if ours.len() > 1 {
            self.wrong.push(format!("two carry a tag: {ours:?}"));
        }
        for n in 0..4 {
            let off = world.with(|w| w.instance_state(n)) != InstanceState::Running;
            if off && !ours.iter().any(|(tagged, _)| *tagged == n) {
                self.wrong.push(format!("node {n} is off and carries no tag"));
            }
        }
    }
}

/// Looks at the world itself, all the time: no instance is off without this update's tag, and no two carry one.
fn watch_tags(world: &SimWorld, update: UpdateId) -> Arc<Mutex<Seen>> {
    let found: Arc<Mutex<Seen>> = Arc::default();
    let (world, sink) = (world.clone(), found.clone());
    tokio::spawn(async move {
        loop {
            sink.lock().unwrap().look(&world, update);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    found
}

fn data_of(r: &Recorded) -> Value {
    let Body::Event(event) = &r.body else { panic!("{r:?}") };
    esdb_rollout::codec::event_data(event).unwrap()
}

fn of_type<'a>(history: &'a [Recorded], wanted: &str) -> Vec<&'a Recorded> {
    let is = |r: &&Recorded| matches!(&r.body, Body::Event(e) if e.type_name() == wanted);
    history.iter().filter(is).collect()
}

fn verdict(state: &State) -> String {
    match &state.end {
        Some(End::Completed(_)) => "completed".into(),
        Some(End::Failed(e)) => format!("failed {}", e.code),
        Some(End::Cancelled(_)) => "cancelled".into(),
        Some(End::Rejected(e)) => format!("rejected {}", e.reasons[0].code),
        other => format!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn each_instance_carries_the_tag_while_it_is_in_hand_and_the_value_names_its_fact() {
    let rig = Rig::new(quick_world(21));
    let truth = rig.watch_truth();
    let seen = watch_tags(&rig.world, rig.update);
    let (history, state) = rig.run(request("m6i.xlarge"), LIMIT).await;
    let shown = lines(&history);
    assert_eq!((verdict(&state).as_str(), truth.check()), ("completed", vec![1, 1, 1, 1]), "{shown}");
    let Seen { wrong, values } = &*seen.lock().unwrap();
    assert!(wrong.is_empty(), "{wrong:?}\n{shown}");
    assert_eq!(tags(&rig.world), [None, None, None, None]);
    let asked: Vec<String> = of_type(&history, "TagRequested")
        .into_iter()
        .filter(|r| data_of(r).get("remove").is_none())
        .map(|r| format!("{}@{}", rig.update, r.revision))
        .collect();
    assert_eq!((values.len(), values), (4, &asked), "{shown}");
    let of_facts: Vec<String> =
        of_type(&history, "Tagged").into_iter().map(|r| data_of(r)["value"].as_str().unwrap().to_owned()).collect();
    assert_eq!(of_facts, asked, "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_fence_is_updated_as_ever_whatever_its_tags_say() {
    let rig = Rig::new(quick_world(22));
    set_tag(&rig.world, 2, Some(ANOTHERS));
    rig.world.with(|w| w.facts_mut().denied.extend(["CreateTags".to_owned(), "DeleteTags".to_owned()]));
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (_stop, stopped) = watch::channel(Stop::No);
    tokio::spawn(unfenced(&rig, 0).run(StartPoint::CheckpointOrBeginning, stopped));
    let (history, state) = rig.ended(LIMIT).await;
    assert_eq!(verdict(&state), "completed", "{}", lines(&history));
    assert!(!outline(&history).contains("Tag"), "{}", lines(&history));
    assert_eq!(tags(&rig.world), [None, None, Some(ANOTHERS.to_owned()), None]);
}

/// What becomes of the calls, how the update must end, how often each instance is stopped, and what is left on the instances.
type Row = (&'static [Fate], &'static [Fate], &'static str, u32, usize);

const ROWS: &[Row] = &[
    (&[Fate::Refused("RequestLimitExceeded"); 3], &[], "completed", 1, 0),
    (&[Fate::DoneUnheard], &[], "completed", 1, 0),
    (&[Fate::LostUnheard; 2], &[], "completed", 1, 0),
    (&[Fate::Refused("RequestLimitExceeded"); 10], &[], "failed fenceNotWritten", 0, 0),
    (&[Fate::Refused("UnauthorizedOperation")], &[], "failed fenceNotWritten", 0, 0),
    (&[Fate::LostUnheard; 10], &[], "failed fenceNotWritten", 0, 0),
    (&[], &[Fate::Refused("RequestLimitExceeded"); 3], "completed", 1, 0),
    (&[], &[Fate::DoneUnheard], "completed", 1, 0),
    (&[], &[Fate::LostUnheard; 2], "completed", 1, 0),
    (&[], &[Fate::LostUnheard; 5], "completed", 1, 1),
    (&[], &[Fate::Refused("RequestLimitExceeded"); 5], "completed", 1, 1),
    (&[], &[Fate::Refused("UnauthorizedOperation"); 4], "completed", 1, 4),
];

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_the_calls_a_tag_keeps_no_node_down_and_no_update_from_its_end() {
    for (tag, untag, wanted, stops, left) in ROWS {
        let rig = Rig::new(quick_world(23));
        let truth = rig.watch_truth();
        let (history, state) = fated(&rig, tag, untag).run(request("m6i.xlarge"), LIMIT).await;
        let shown = format!("{tag:?} {untag:?}\n{}", lines(&history));
        assert_eq!((verdict(&state).as_str(), truth.check()), (*wanted, vec![*stops; 4]), "{shown}");
        let standing: Vec<String> = tags(&rig.world).into_iter().flatten().collect();
        assert_eq!(standing.len(), *left, "{standing:?} {shown}");
        let untagged = of_type(&history, "Untagged").into_iter().map(data_of);
        let told: Vec<String> =
            untagged.filter(|d| d.get("code").is_some()).map(|d| d["value"].as_str().unwrap().to_owned()).collect();
        assert!(standing.iter().all(|value| told.contains(value)) && told.len() == *left, "{told:?} {shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn anothers_tag_holds_the_update_up_for_a_while_and_is_never_touched() {
    for (removed, wanted) in [(true, "completed"), (false, "failed fencedByAnother")] {
        let rig = Rig::new(quick_world(24));
        let truth = rig.watch_truth();
        rig.append(request("m6i.xlarge").into(), 1).await;
        let (_worker, _stop) = rig.spawn(0);
        rig.until("NodeUpdated", 1).await;
        // On a node that is not the next one: another update is at work on this cluster, and that is enough.
        let leader = rig.world.with(|w| w.leader().unwrap());
        set_tag(&rig.world, leader, Some(ANOTHERS));
        let before = outline(&rig.history().await).matches("InstanceStopRequested").count();
        rig.until("StepDelayed", 1).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let history = rig.history().await;
        assert_eq!(outline(&history).matches("InstanceStopRequested").count(), before, "{}", lines(&history));
        let delayed = data_of(of_type(&history, "StepDelayed").last().unwrap());
        assert_eq!(delayed["reason"], "fencedByAnother");
        assert!(delayed["detail"].as_str().unwrap().contains(ANOTHERS), "{delayed}");
        if removed {
            set_tag(&rig.world, leader, None);
        }
        let (history, state) = rig.ended(LIMIT).await;
        let shown = lines(&history);
        assert_eq!(verdict(&state), wanted, "{shown}");
        let stops: u32 = truth.check().iter().sum();
        let mut left = vec![None; 4];
        if removed {
            assert_eq!(stops, 4, "{shown}");
        } else {
            left[leader] = Some(ANOTHERS.to_owned());
            assert_eq!(stops as usize, before, "{shown}");
            let Some(End::Failed(end)) = &state.end else { panic!("{shown}") };
            assert!(end.remedy.contains(ANOTHERS) && end.not_running.is_empty(), "{end:?}");
        }
        assert_eq!(tags(&rig.world), left, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_written_over_ours_calls_the_stop_off_and_one_that_is_removed_is_written_again() {
    for (by, wanted) in [(Some(ANOTHERS), "failed fencedByAnother"), (None, "completed")] {
        let rig = Rig::new(quick_world(25));
        let truth = rig.watch_truth();
        rig.append(request("m6i.xlarge").into(), 1).await;
        let (_worker, _stop) = rig.spawn(0);
        let n = loop {
            let tagged = tags(&rig.world).into_iter().position(|t| t.is_some());
            if let Some(n) = tagged {
                break n;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        // Within the second look at it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        set_tag(&rig.world, n, by);
        let (history, state) = rig.ended(LIMIT).await;
        let shown = lines(&history);
        assert_eq!(verdict(&state), wanted, "{shown}");
        let stops: u32 = truth.check().iter().sum();
        assert_eq!(stops, if by.is_some() { 0 } else { 4 }, "{shown}");
        assert_eq!(tag_of(&rig.world, n).as_deref(), by, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_cancels_after_the_tag_leaves_none_behind() {
    let rig = Rig::new(quick_world(26));
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("TagRequested", 1).await;
    rig.append(Event::CancelRequested(CancelRequested::default()), 2).await;
    let (history, state) = rig.ended(LIMIT).await;
    let shown = lines(&history);
    assert_eq!(verdict(&state), "cancelled", "{shown}");
    assert_eq!(tags(&rig.world), [None, None, None, None], "{shown}");
    assert_eq!(of_type(&history, "Untagged").len(), 1, "{shown}");
}

/// Plays an update without a fence up to a fact, by a worker as it was before there was one, and goes on with one that has it.
async fn goes_on_after(fact: &str, times: usize) -> (Rig, Vec<Recorded>, State) {
    let rig = Rig::new(quick_world(27));
    let truth = rig.watch_truth();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (_stop, stopped) = watch::channel(Stop::No);
    let old = tokio::spawn(unfenced(&rig, 0).run(StartPoint::CheckpointOrBeginning, stopped));
    rig.until(fact, times).await;
    old.abort();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_worker, _stop) = rig.spawn(1);
    let (history, state) = rig.ended(LIMIT).await;
    assert_eq!(truth.check(), [1, 1, 1, 1], "{}", lines(&history));
    (rig, history, state)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_stopped_without_a_tag_before_there_were_any_goes_on() {
    let facts = ["InstanceStopRequested", "InstanceStopped", "InstanceStartRequested", "CaughtUp", "NodeUpdated"];
    for fact in facts {
        let (rig, history, state) = goes_on_after(fact, 1).await;
        let shown = lines(&history);
        assert_eq!(verdict(&state), "completed", "{fact}\n{shown}");
        assert_eq!(tags(&rig.world), [None, None, None, None], "{fact}\n{shown}");
        let tagged = of_type(&history, "Tagged").len();
        assert_eq!(tagged, of_type(&history, "Untagged").len(), "{fact}\n{shown}");
        let taken = of_type(&history, "WorkerAssigned").last().unwrap().revision;
        let stops = of_type(&history, "InstanceStopRequested").into_iter().filter(|r| r.revision > taken).count();
        assert_eq!((tagged, stops >= 2), (stops, true), "{fact}\n{shown}");
    }
}

/// A request with a check waived: the command stands before a worker comes.
async fn waived(rig: &Rig, request: UpdateRequested, node: &str) {
    rig.append(request.into(), 1).await;
    let waiver = json!({ "answers": 0, "check": "fence", "node": node, "by": "ann", "why": "that worker is gone" });
    rig.append(Event::CheckWaived(serde_json::from_value(waiver).unwrap()), 2).await;
}

#[tokio::test(start_paused = true)]
async fn anothers_tag_refuses_the_plan_unless_a_person_takes_it_for_left_behind() {
    let rig = Rig::new(quick_world(28));
    set_tag(&rig.world, 1, Some(ANOTHERS));
    let (history, state) = rig.run(request("m6i.xlarge"), LIMIT).await;
    assert_eq!(verdict(&state), "rejected fence", "{}", lines(&history));
    let Some(End::Rejected(end)) = &state.end else { panic!() };
    assert!(end.reasons[0].found.contains(ANOTHERS) && end.reasons[0].remedy.contains("waive"), "{:?}", end.reasons);
    assert_eq!(tag_of(&rig.world, 1).as_deref(), Some(ANOTHERS));

    // Waived, it is overwritten when its node is in hand; the nodes before it are not held up.
    let rig = Rig { update: UpdateId(uuid::Uuid::from_u128(0xabc1)), ..rig.share() };
    waived(&rig, request("m6i.xlarge"), "esdb-2").await;
    let (_worker, stop) = rig.spawn(1);
    let (history, state) = rig.ended(LIMIT).await;
    stop.send(Stop::AtSafePoint).unwrap();
    let shown = lines(&history);
    assert_eq!(verdict(&state), "completed", "{shown}");
    let stale: BTreeMap<_, _> =
        state.plan.iter().flat_map(|p| &p.members).map(|m| (m.node.as_str(), m.stale_fence.as_deref())).collect();
    assert_eq!((stale["esdb-2"], stale["esdb-1"]), (Some(ANOTHERS), None));
    assert_eq!(tags(&rig.world), [None, None, None, None], "{shown}");

    // Another value than the one that was there when it was waived is another's tag.
    let rig = Rig::new(quick_world(29));
    set_tag(&rig.world, 1, Some(ANOTHERS));
    waived(&rig, request("m6i.xlarge"), "esdb-2").await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("NodeSelected", 1).await;
    let newer = ANOTHERS.replace("@8", "@9");
    set_tag(&rig.world, 1, Some(&newer));
    let (history, state) = rig.ended(LIMIT).await;
    assert_eq!(verdict(&state), "failed fencedByAnother", "{}", lines(&history));
    assert_eq!(tag_of(&rig.world, 1), Some(newer));
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_tag_an_update_is_refused_before_anything_is_touched() {
    for action in ["CreateTags", "DeleteTags"] {
        let rig = Rig::new(quick_world(30));
        rig.world.with(|w| w.facts_mut().denied.insert(action.into()));
        let (history, state) = rig.run(request("m6i.xlarge"), LIMIT).await;
        assert_eq!(verdict(&state), "rejected tagDenied", "{}", lines(&history));
        let Some(End::Rejected(end)) = &state.end else { panic!() };
        for word in ["ec2:CreateTags", "ec2:DeleteTags", "fence = false"] {
            assert!(end.reasons[0].remedy.contains(word), "{:?}", end.reasons);
        }
    }
}
