//! The store is the cluster being updated, and loses its leader while our node is down: bringing that node back is the cure.

mod rig;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::ids::{ADMISSION_PREFIX, ClusterName};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::domain::time::Moment;
use esdb_rollout::sim::model::{ExpectedRevision, Fault, ProposedEvent, Write, WriteOutcome};
use esdb_rollout::sim::world::World;
use esdb_rollout::update::event::{Event, UpdateRequested};
use esdb_rollout::update::limits::ACT_WINDOW;
use esdb_rollout::update::state::{Body, End, Recorded, State};
use esdb_rollout::worker::{StartPoint, Stop};
use rig::tap::{Kind, Tap, tapped};
use rig::{Rig, lines, outline, quick_world, request};
use tokio::sync::watch;

#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_another_voter_is_lost() {
    another_voter_is_lost(Who::Holder, Loss::Frozen, Duration::from_secs(60)).await;
}

/// Its sockets live, so that the store has a leader as ever, which answers reads, and can commit nothing.
#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_another_voters_volume_hangs() {
    another_voter_is_lost(Who::Holder, Loss::VolumeHangs, Duration::from_secs(120)).await;
}

#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_another_voters_volume_hangs_and_the_worker_is_lost_as_well() {
    another_voter_is_lost(Who::Successor { clusters: 1 }, Loss::VolumeHangs, Duration::from_secs(180)).await;
}

/// It takes each append, but too late for the call that is to follow: the client has given up by then, and sends it again.
#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_another_voters_volume_crawls() {
    another_voter_is_lost(Who::Holder, Loss::VolumeCrawls, Duration::from_secs(150)).await;
}

#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_another_voters_volume_crawls_and_the_worker_is_lost_as_well() {
    another_voter_is_lost(Who::Successor { clusters: 1 }, Loss::VolumeCrawls, Duration::from_secs(180)).await;
}

/// And loses its leader again and again, for too short a time to be without one.
#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_another_voters_volume_crawls_and_leaders_come_and_go() {
    another_voter_is_lost(Who::Holder, Loss::VolumeCrawlsWithoutLeadersThatLast, Duration::from_secs(150)).await;
}

/// It is the ticket of its own stop: nobody else's patience is asked of it.
#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_as_soon_by_a_worker_that_took_the_update_over_before() {
    another_voter_is_lost(Who::TookOver, Loss::Frozen, Duration::from_secs(60)).await;
}

/// The worst case: the worker is killed then too, and its successor finds a store that does not serve.
#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_the_worker_is_lost_as_well() {
    another_voter_is_lost(Who::Successor { clusters: 1 }, Loss::Frozen, Duration::from_secs(180)).await;
}

/// The stranded one is the last of a hundred clusters, and to ask the store's nodes for one stream takes three seconds.
#[tokio::test(start_paused = true)]
async fn a_node_of_many_clusters_is_brought_back_in_time_as_well() {
    another_voter_is_lost(Who::Successor { clusters: 100 }, Loss::Frozen, Duration::from_secs(180)).await;
}

/// Who brings the node back.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// Who has held the update from its beginning.
    Holder,
    /// Who took it over before the node was stopped.
    TookOver,
    /// Who finds it, and the store without a leader.
    Successor { clusters: usize },
}

/// What becomes of the other voter.
#[derive(Clone, Copy, PartialEq)]
enum Loss {
    Frozen,
    VolumeHangs,
    VolumeCrawls,
    VolumeCrawlsWithoutLeadersThatLast,
}

/// Reads of admissions take three seconds, until it is said that they do not.
#[derive(Default)]
struct Slow(AtomicBool);

#[async_trait]
impl Tap for Slow {
    async fn before(&self, kind: Kind, to: &str) -> usize {
        if kind == Kind::Read && to.starts_with(ADMISSION_PREFIX) && !self.0.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        0
    }
    async fn after(&self, _: usize) {}
}

/// A voter is down by our doing, and another one is lost: one of three is left, and nothing can be appended. Says which they are.
async fn loses_a_voter(rig: &Rig, loss: Loss) -> (usize, usize) {
    // The replica goes first; the voter after it is the one.
    rig.until("InstanceStopRequested", 2).await;
    let outline = outline(&rig.history().await);
    let node = outline.lines().rfind(|l| l.starts_with("InstanceStopRequested")).and_then(|l| l.split("esdb-").nth(1));
    let ours = node.unwrap().parse::<usize>().unwrap() - 1;
    while rig.world.with(|w| w.instance_state(ours)) == InstanceState::Running {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let leader = rig.world.with(|w| w.leader()).unwrap();
    let other = (0..3).find(|n| *n != ours && *n != leader).unwrap();
    rig.world.with(|w| match loss {
        Loss::Frozen => w.freeze(other),
        Loss::VolumeHangs => w.hang_volume(other),
        Loss::VolumeCrawls | Loss::VolumeCrawlsWithoutLeadersThatLast => w.crawl_volume(other, Duration::from_secs(12)),
    });
    (ours, other)
}

/// The worker dies as well. Says which voter is down by its doing, and which one is frozen.
async fn strands_a_node() -> (Rig, usize, usize) {
    let rig = slow_to_stop();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (worker, _stop) = rig.spawn(0);
    let (ours, other) = loses_a_voter(&rig, Loss::Frozen).await;
    worker.abort();
    (rig, ours, other)
}

fn slow_to_stop() -> Rig {
    let mut config = quick_world(21);
    config.ec2_stop = Duration::from_secs(20);
    config.ec2_start = Duration::from_secs(10);
    Rig::new(config)
}

fn started_by_ticket(history: &[Recorded]) -> usize {
    let by_ticket = |r: &&Recorded| match &r.body {
        Body::Event(event) => matches!(&**event, Event::InstanceStarted(s) if s.return_ticket),
        Body::Unreadable { .. } | Body::Newer { .. } => false,
    };
    history.iter().filter(by_ticket).count()
}

async fn another_voter_is_lost(who: Who, loss: Loss, back_within: Duration) {
    let rig = slow_to_stop();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (mut worker, mut stop) = rig.spawn(0);
    if who == Who::TookOver {
        rig.until("NodeUpdated", 1).await;
        stop.send_replace(Stop::AtSafePoint);
        worker.await.unwrap().unwrap();
        (worker, stop) = rig.spawn(1);
    }
    let (ours, other) = loses_a_voter(&rig, loss).await;
    let slow = Arc::new(Slow::default());
    if let Who::Successor { clusters } = who {
        worker.abort();
        let mut successor = if clusters > 1 { tapped(&rig, slow.clone()) } else { rig.share() }.worker(1);
        let (name, handle) = successor.clusters.first_key_value().map(|(n, h)| (n.clone(), h.clone())).unwrap();
        let others = (1..clusters).map(|n| (ClusterName(format!("a{n}")), handle.clone()));
        successor.clusters = Arc::new(others.chain([(name, handle.clone())]).collect());
        let stopped = watch::channel(Stop::No);
        stop = stopped.0;
        tokio::spawn(successor.run(StartPoint::CheckpointOrBeginning, stopped.1));
    }
    let lost_at = rig.clock.now();
    let mut killed_at = lost_at;
    while rig.world.with(|w| w.instance_state(ours)) != InstanceState::Running {
        if loss == Loss::VolumeCrawlsWithoutLeadersThatLast
            && rig.clock.now().since(killed_at) > Duration::from_secs(30)
        {
            killed_at = rig.clock.now();
            rig.world.with(|w| w.leader().into_iter().for_each(|leader| w.kill(leader)));
        }
        // The stop takes 20 s; the ticket opens after 10 s without a leader, for a successor, or with a leader that takes nothing, after 60 s;
        // the start takes 10 s.
        if rig.clock.now().since(lost_at) >= back_within {
            panic!("the node is not brought back\n{}", lines(&rig.history().await));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    slow.0.store(true, Ordering::Relaxed);
    match loss {
        Loss::Frozen => rig.until("StepDelayed", 1).await,
        Loss::VolumeHangs | Loss::VolumeCrawls | Loss::VolumeCrawlsWithoutLeadersThatLast => {
            rig.until("InstanceStarted", 2).await
        }
    };
    rig.world.with(|w| {
        w.unfreeze(other);
        w.free_volume(other);
    });
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    let shown = lines(&history);
    assert_eq!(started_by_ticket(&history), 1, "{shown}");
    assert!(!shown.contains("describingInstances"), "whoever took it over had not looked before\n{shown}");
    let Some(End::Failed(end)) = state.end else { panic!("{:?}\n{shown}", state.end) };
    assert_eq!((end.code.as_str(), end.not_running.len()), ("storeLost", 0), "{shown}");
    drop(stop);
}

/// There is no capacity for the type that it was given, and no majority that could say so: it comes back as it was.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_start_as_it_is_comes_back_with_the_type_that_it_had() {
    let mut config = quick_world(23);
    let (instance_type, code) = ("m6i.xlarge".to_owned(), "InsufficientInstanceCapacity".to_owned());
    config.faults.push(Fault::StartFails { instance_type, code, times: u32::MAX });
    let rig = Rig::new(config);
    let leader = loop {
        match rig.world.with(|w| w.leader()) {
            Some(leader) => break leader,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let (ours, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let node = rig.world.with(|w| w.config().names[ours].clone());
    rig.append(UpdateRequested { nodes: Some(vec![node.as_str().into()]), ..request("m6i.xlarge") }.into(), 1).await;
    let (_worker, _stop) = rig.spawn(0);
    rig.until("InstanceStartFailed", 1).await;
    rig.world.with(|w| w.freeze(other));
    let lost_at = rig.clock.now();
    while rig.world.with(|w| w.instance_state(ours)) != InstanceState::Running {
        assert!(rig.clock.now().since(lost_at) < Duration::from_secs(90), "the node is not brought back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    rig.world.with(|w| w.unfreeze(other));
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    let shown = lines(&history);
    let Some(End::Failed(end)) = state.end else { panic!("{:?}\n{shown}", state.end) };
    assert_eq!(end.not_running, [], "{shown}");
    let started = shown.lines().filter(|l| l.contains("InstanceStarted")).collect::<Vec<_>>();
    assert!(started.len() == 1 && started[0].contains("m6i.large"), "{shown}");
}

/// While the successor describes the stranded instance for the second time, with the minute over, the store comes back.
struct Returns {
    rig: Rig,
    /// The voter that is down.
    ours: usize,
    /// The voter that is frozen.
    other: usize,
    /// Since when.
    from: Moment,
    descriptions: AtomicUsize,
}

#[async_trait]
impl Tap for Returns {
    async fn before(&self, kind: Kind, _: &str) -> usize {
        let stranded = |w: &mut World| w.leader().is_none() && w.instance_state(self.ours) == InstanceState::Stopped;
        if kind != Kind::Ec2 || !self.rig.world.with(stranded) {
            return 0;
        }
        let second = self.descriptions.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        if second && self.rig.clock.now().since(self.from) > Duration::from_secs(50) {
            tokio::time::sleep(Duration::from_secs(20)).await;
            self.rig.world.with(|w| w.unfreeze(self.other));
            while self.rig.log.read_last(&ClusterName::from("prod").admission_stream()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        0
    }
    async fn after(&self, _: usize) {}
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_a_leader_again_leaves_the_node_to_its_holder() {
    let (rig, ours, other) = strands_a_node().await;
    let returns = Returns { rig: rig.share(), ours, other, from: rig.clock.now(), descriptions: AtomicUsize::new(0) };
    let (_successor, _stop) = tapped(&rig, Arc::new(returns)).spawn(1);
    let (history, _) = rig.ended(Duration::from_secs(3600)).await;
    assert_eq!(started_by_ticket(&history), 0, "{}", lines(&history));
}

/// The successor does not run for a minute between what EC2 said, with the minute over, and the start that follows from it.
struct Asleep {
    rig: Rig,
    /// The voter that is down.
    ours: usize,
    /// Since when another is frozen.
    from: Moment,
    described: Mutex<Option<Moment>>,
    slept: AtomicBool,
    /// How old what EC2 said was at each start.
    ages: Mutex<Vec<Duration>>,
}

#[async_trait]
impl Tap for Asleep {
    async fn before(&self, kind: Kind, _: &str) -> usize {
        let now = self.rig.clock.now();
        let mut described = self.described.lock().unwrap();
        match (kind, *described) {
            (Kind::Ec2, _) if self.rig.world.with(|w| w.instance_state(self.ours) == InstanceState::Stopped) => {
                *described = Some(now);
                let due = now.since(self.from) > Duration::from_secs(70);
                return usize::from(due && !self.slept.swap(true, Ordering::Relaxed));
            }
            (Kind::Ec2Change, Some(at)) => self.ages.lock().unwrap().push(now.since(at)),
            _ => {}
        }
        0
    }
    async fn after(&self, asleep: usize) {
        if asleep == 1 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}

/// Meanwhile somebody else may have started the node, and stopped it again for reasons of their own.
#[tokio::test(start_paused = true)]
async fn whoever_was_asleep_after_its_look_at_a_stranded_node_looks_again() {
    let (rig, ours, _) = strands_a_node().await;
    let tap = Arc::new(Asleep {
        rig: rig.share(),
        ours,
        from: rig.clock.now(),
        described: Mutex::default(),
        slept: AtomicBool::default(),
        ages: Mutex::default(),
    });
    let (_successor, _stop) = tapped(&rig, tap.clone()).spawn(1);
    until_state(&rig, ours, InstanceState::Running).await;
    assert!(tap.slept.load(Ordering::Relaxed), "it never slept");
    let ages = tap.ages.lock().unwrap();
    assert!(!ages.is_empty() && ages.iter().all(|age| age.as_secs() <= 30), "{ages:?}");
}

/// The store, which may be out of reach for one worker, or give no answer about updates' streams alone, or deny them, or take appends to them
/// that it acknowledges too late for any call, or never.
#[derive(Default)]
struct Door {
    shut: AtomicBool,
    shut_for_updates: AtomicBool,
    denies: AtomicBool,
    acknowledges_late: AtomicBool,
    acknowledges_nothing: AtomicBool,
}

#[async_trait]
impl Tap for Door {
    async fn before(&self, kind: Kind, to: &str) -> usize {
        if kind == Kind::Ec2Change {
            // Time enough for something to happen before it is made.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let late = self.acknowledges_late.load(Ordering::Relaxed);
        usize::from(late && kind == Kind::Append && to.starts_with("clusterUpdate-"))
    }
    async fn after(&self, late: usize) {
        if late == 1 {
            tokio::time::sleep(ACT_WINDOW + Duration::from_secs(1)).await;
        }
    }
    fn loses_answers(&self, stream: &str) -> bool {
        self.acknowledges_nothing.load(Ordering::Relaxed) && stream.starts_with("clusterUpdate-")
    }
    fn is_away(&self, stream: &str) -> bool {
        let of_update = stream.starts_with("clusterUpdate-") && self.shut_for_updates.load(Ordering::Relaxed);
        self.shut.load(Ordering::Relaxed) || of_update
    }
    fn denies(&self, _: Kind, stream: &str) -> bool {
        self.denies.load(Ordering::Relaxed) && stream.starts_with("clusterUpdate-")
    }
}

/// A stop is asked for, and the store is out of reach for whoever asked.
async fn stops_behind_a_door() -> (Rig, Arc<Door>, watch::Sender<Stop>) {
    let rig = slow_to_stop();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let door = Arc::new(Door::default());
    let (_worker, stop) = tapped(&rig, door.clone()).spawn(0);
    rig.until("InstanceStopRequested", 1).await;
    door.shut.store(true, Ordering::Relaxed);
    (rig, door, stop)
}

async fn until_state(rig: &Rig, n: usize, state: InstanceState) {
    for _ in 0..6_000 {
        if rig.world.with(|w| w.instance_state(n)) == state {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never {state}");
}

/// It goes on believing that it holds the update, for as long as it lives.
#[tokio::test(start_paused = true)]
async fn whoever_is_cut_off_brings_its_node_back_once_and_no_stop_of_anybody_after_it() {
    let (rig, _door, _stop_of_the_cut_off) = stops_behind_a_door().await;
    until_state(&rig, 3, InstanceState::Stopped).await;
    until_state(&rig, 3, InstanceState::Running).await;
    // Another takes the update over and ends it.
    let (_successor, _stop) = rig.spawn(1);
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    assert!(state.end.is_some(), "{}", lines(&history));
    // Then somebody stops the instance for reasons of their own.
    rig.world.with(|w| {
        let id = w.instance_of(3).clone();
        w.stop_instances(&[id]).unwrap();
    });
    until_state(&rig, 3, InstanceState::Stopped).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.world.with(|w| w.instance_state(3)), InstanceState::Stopped, "their stop is undone");
}

/// What a door does to a worker.
type Does = fn(&Door) -> &AtomicBool;

/// Either way each append is written, and no intent can be acted upon.
const SLOW: [Does; 2] = [|door| &door.acknowledges_late, |door| &door.acknowledges_nothing];

/// The node is started on its ticket while the door does that, and goes on to an end once it does not.
async fn comes_back_after_a_minute(does: Does) -> (String, State) {
    let (rig, door, _stop) = stops_behind_a_door().await;
    does(&door).store(true, Ordering::Relaxed);
    door.shut.store(false, Ordering::Relaxed);
    until_state(&rig, 3, InstanceState::Stopped).await;
    let stopped_at = rig.clock.now();
    until_state(&rig, 3, InstanceState::Running).await;
    // Its stop cannot be recorded in time from the moment on that EC2 says it, which it does within seconds; the start takes ten.
    let down = rig.clock.now().since(stopped_at).as_secs();
    assert!((60..100).contains(&down), "{down} s");
    does(&door).store(false, Ordering::Relaxed);
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    let shown = lines(&history);
    assert_eq!(started_by_ticket(&history), 1, "{shown}");
    (shown, state)
}

/// The store has a leader, which takes heartbeats as ever: nobody else has a reason to look after the node.
#[tokio::test(start_paused = true)]
async fn whoever_can_record_nothing_for_a_minute_starts_its_node_as_it_is() {
    let (shown, state) = comes_back_after_a_minute(|door| &door.shut_for_updates).await;
    assert!(matches!(state.end, Some(End::Failed(end)) if end.code == "storeLost"), "{shown}");
}

/// As with a volume whose burst credits are spent: everything is written, and no intent can be acted upon.
#[tokio::test(start_paused = true)]
async fn whoever_is_acknowledged_too_late_for_a_minute_starts_its_node_as_it_is() {
    for slow in SLOW {
        let (shown, state) = comes_back_after_a_minute(slow).await;
        assert!(state.end.is_some(), "{shown}");
    }
}

/// What was never tried has not failed: neither is the type given up, nor is anything waited for but the act window.
#[tokio::test(start_paused = true)]
async fn a_start_whose_intent_is_acknowledged_too_late_is_asked_for_anew() {
    for slow in SLOW {
        let (rig, door, _stop) = stops_behind_a_door().await;
        door.shut.store(false, Ordering::Relaxed);
        rig.until("TypeModificationRequested", 1).await;
        slow(&door).store(true, Ordering::Relaxed);
        let from = rig.clock.now();
        rig.until("InstanceStartRequested", 3).await;
        let waited = rig.clock.now().since(from).as_secs();
        assert!((10..30).contains(&waited), "{waited} s");
        slow(&door).store(false, Ordering::Relaxed);
        let (history, state) = rig.ended(Duration::from_secs(3600)).await;
        let shown = lines(&history);
        assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
        assert_eq!(started_by_ticket(&history), 0, "{shown}");
        assert!(!shown.contains("InstanceStartFailed"), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_denies_is_there_and_opens_no_ticket() {
    let (rig, door, _stop) = stops_behind_a_door().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    door.denies.store(true, Ordering::Relaxed);
    door.shut.store(false, Ordering::Relaxed);
    until_state(&rig, 3, InstanceState::Stopped).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(rig.world.with(|w| w.instance_state(3)), InstanceState::Stopped, "started on a ticket");
    door.denies.store(false, Ordering::Relaxed);
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    let shown = lines(&history);
    assert!(matches!(state.end, Some(End::Completed(_))), "{shown}");
    assert_eq!(started_by_ticket(&history), 0, "{shown}");
}

/// Its holder had only to read what was new.
#[tokio::test(start_paused = true)]
async fn a_stream_longer_than_anybody_holds_keeps_no_successor_from_bringing_its_node_back() {
    let rig = slow_to_stop();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (worker, _stop) = rig.spawn(0);
    rig.until("InstanceStopRequested", 1).await;
    let stream = rig.update.stream();
    for n in 0..70 {
        let leader = rig.world.with(|w| w.leader()).unwrap();
        let data = format!("{{\"of\":\"{}\"}}", "x".repeat(1_000_000)).into_bytes();
        let (id, event_type) = (uuid::Uuid::from_u128(1_000 + n), "SomethingElse".into());
        let event = ProposedEvent { id, event_type, is_json: true, data, metadata: vec![] };
        let write = Write::Append(vec![event]);
        let done = rig.world.write(leader, true, stream.as_str(), ExpectedRevision::Any, write).await;
        assert!(matches!(done, WriteOutcome::Done { .. }), "{done:?}");
    }
    worker.abort();
    until_state(&rig, 3, InstanceState::Stopped).await;
    let (_successor, _stop) = rig.spawn(1);
    until_state(&rig, 3, InstanceState::Running).await;
    for _ in 0..3600 {
        if rig.world.with(|w| (0..4).all(|n| w.instance_type(n) == "m6i.xlarge")) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("the update does not go on");
}
