//! The store of events over real gRPC, against the simulated cluster's wire face.
#![cfg(feature = "esdb")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use esdb_rollout::domain::ids::{Address, Revision, StreamName};
use esdb_rollout::esdb::{EventStoreLog, StoreConfig};
use esdb_rollout::ports::{AppendError, EventLog, Expected, Feed, NewEvent, ReadError, StartFrom};
use esdb_rollout::sim::model::{NodeIx, WorldConfig};
use esdb_rollout::sim::wire::{WireCluster, serve};
use esdb_rollout::sim::world::{SimWorld, World};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// What a call may take: its budget of 5 s, and some slack for a busy machine.
const BUDGET: Duration = Duration::from_millis(5800);

struct Store {
    log: EventStoreLog,
    world: SimWorld,
    _wire: WireCluster,
}

/// Ports that no client's socket gets by chance: below the ranges that systems give out by themselves.
fn free_addresses(count: usize) -> Vec<Address> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let free = || {
        let at = 10_000 + (std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = u16::try_from(at).unwrap();
        std::net::TcpListener::bind(("127.0.0.1", port)).ok().map(|_| Address::new("127.0.0.1", port))
    };
    std::iter::repeat_with(free).flatten().take(count).collect()
}

async fn store() -> Store {
    let nodes = 4;
    let addresses = free_addresses(nodes);
    let world = SimWorld::new(World::new(WorldConfig {
        seed: 7,
        voters: 3,
        replicas: 1,
        names: (0..nodes).map(|n| format!("n{n}")).collect(),
        version: "23.10.5.0".into(),
        instance_type: "m6i.large".into(),
        offered_types: vec![("m6i.large".into(), "x86_64".into())],
        ec2_stop: Duration::from_secs(1),
        ec2_start: Duration::from_secs(1),
        boot: Duration::from_secs(1),
        catch_up_bytes_per_second: 10_000_000,
        load_bytes_per_second: 0,
        initial_log_bytes: 10_000,
        faults: vec![],
        addresses: addresses.clone(),
    }));
    let wire = serve(world.clone(), None).await.unwrap();
    let hosts: Vec<String> = addresses.iter().take(3).map(ToString::to_string).collect();
    let connection = format!("esdb://{}?tls=false", hosts.join(","));
    let log = EventStoreLog::new(StoreConfig { connection, ..StoreConfig::default() }).unwrap();
    let store = Store { log, world, _wire: wire };
    store.until("a leader", |w| w.leader().is_some()).await;
    store
}

impl Store {
    async fn until(&self, what: &str, mut holds: impl FnMut(&mut World) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.world.with(&mut holds) {
            assert!(Instant::now() < deadline, "no {what} within a minute");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn leader(&self) -> NodeIx {
        self.world.with(|w| w.leader()).unwrap()
    }

    /// Appends until it succeeds, as the worker does.
    async fn persist(&self, stream: &StreamName, expected: Expected, event: NewEvent) -> Revision {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.log.append(stream, expected, vec![event.clone()]).await {
                Ok(appended) => return appended.last,
                Err(AppendError::Unknown { .. } | AppendError::Unavailable { .. }) => {}
                Err(e @ (AppendError::Conflict { .. } | AppendError::Denied { .. } | AppendError::Refused { .. })) => {
                    panic!("{e}")
                }
            }
            assert!(Instant::now() < deadline, "not appended within a minute");
        }
    }
}

fn event(n: u128) -> NewEvent {
    NewEvent {
        id: Uuid::from_u128(n),
        event_type: "Tested".into(),
        data: json!({"n": n as u64}),
        metadata: json!({"by": "test"}),
    }
}

fn stream(name: &str) -> StreamName {
    StreamName::from(name)
}

fn after(n: u64) -> Expected {
    Expected::Exact(Revision(n))
}

/// The next event; reconnections and the end of the past are passed over.
async fn next_event(feed: &mut mpsc::Receiver<Feed>) -> u64 {
    loop {
        match timeout(Duration::from_secs(45), feed.recv()).await.expect("silence").expect("the feed never ends") {
            Feed::Event(event) => return event.data["n"].as_u64().unwrap(),
            Feed::CaughtUp | Feed::Looked(_) | Feed::Reconnecting(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_and_reads() {
    let store = store().await;
    let (log, s) = (&store.log, stream("clusterUpdate-a"));
    assert_eq!(log.read(&s, Revision(0), 10).await.unwrap(), [], "a missing stream is empty");
    assert_eq!(log.read_last(&s).await.unwrap(), None);
    assert_eq!(log.append(&s, Expected::NoStream, vec![event(1), event(2)]).await.unwrap().last, Revision(1));
    assert_eq!(log.append(&s, after(1), vec![event(3)]).await.unwrap().last, Revision(2));
    assert_eq!(log.append(&s, after(1), vec![event(3)]).await.unwrap().last, Revision(2), "the same again is the same");
    assert_eq!(log.append(&s, after(1), vec![event(4)]).await, Err(AppendError::Conflict { stream: s.clone() }));
    assert_eq!(
        log.append(&s, Expected::NoStream, vec![event(4)]).await,
        Err(AppendError::Conflict { stream: s.clone() })
    );
    assert!(matches!(log.append(&s, after(2), vec![]).await, Err(AppendError::Refused { .. })));
    let mut large = event(9);
    large.data = Value::String("x".repeat(2_000_000));
    assert!(matches!(log.append(&s, after(2), vec![large]).await, Err(AppendError::Refused { .. })));

    let all = log.read(&s, Revision(0), 100).await.unwrap();
    let seen: Vec<(u64, Uuid)> = all.iter().map(|e| (e.revision.0, e.id)).collect();
    assert_eq!(seen, [(0, event(1).id), (1, event(2).id), (2, event(3).id)]);
    assert_eq!((&all[0].data, &all[0].metadata, all[0].is_json), (&event(1).data, &event(1).metadata, true));
    assert_eq!((all[0].event_type.as_str(), &all[0].stream), ("Tested", &s));
    assert_eq!(log.read(&s, Revision(1), 1).await.unwrap(), all[1..2]);
    assert_eq!(log.read(&s, Revision(3), 5).await.unwrap(), []);
    assert_eq!(log.read_last(&s).await.unwrap().unwrap().revision, Revision(2));

    let end = log.end_of_log().await.unwrap().unwrap();
    assert_eq!(Some(end), all[2].position.or(Some(end)));
    let (found, looked) = log.read_back(&["clusterUpdate-"], 2, 1000).await.unwrap();
    assert_eq!(found.iter().map(|e| e.revision.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(looked, 2);
    let (found, looked) = log.read_back(&["nothing-"], 2, 3).await.unwrap();
    assert_eq!((found.len(), looked), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn read_back_goes_over_pages() {
    let store = store().await;
    let (log, s) = (&store.log, stream("busy"));
    log.append(&stream("clusterUpdate-old"), Expected::NoStream, vec![event(1)]).await.unwrap();
    let many: Vec<NewEvent> = (0..1200).map(|n| event(1000 + n)).collect();
    log.append(&s, Expected::NoStream, many).await.unwrap();
    let (found, looked) = log.read_back(&["clusterUpdate-"], 1, 10_000).await.unwrap();
    assert_eq!((found.len(), looked), (1, 1201));
    let (found, looked) = log.read_back(&["clusterUpdate-"], 1, 1100).await.unwrap();
    assert_eq!((found.len(), looked), (0, 1100));
    let (found, _) = log.read_back(&["busy"], 2000, 10_000).await.unwrap();
    assert!(found.iter().map(|e| e.revision.0).eq((0..1200).rev()), "no event twice, none left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_keeps_what_it_held() {
    let store = store().await;
    let (log, s, meta) = (&store.log, stream("updateWorker-w"), stream("$$updateWorker-w"));
    assert!(log.set_max_count(&s, 1).await.unwrap());
    assert!(!log.set_max_count(&s, 1).await.unwrap());
    let other = NewEvent {
        id: Uuid::from_u128(5),
        event_type: "$metadata".into(),
        data: json!({"$maxAge": 9, "mine": {"a": 1}}),
        metadata: Value::Null,
    };
    log.append(&meta, after(0), vec![other]).await.unwrap();
    assert!(log.set_max_count(&s, 3).await.unwrap());
    let last = log.read_last(&meta).await.unwrap().unwrap();
    assert_eq!(last.data, json!({"$maxAge": 9, "mine": {"a": 1}, "$maxCount": 3}));
    assert_eq!(last.revision, Revision(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_has_no_gap_and_nothing_twice_while_leaders_come_and_go() {
    let store = store().await;
    let s = stream("clusterUpdate-a");
    store.log.append(&stream("other"), Expected::NoStream, vec![event(99)]).await.unwrap();
    store.log.append(&s, Expected::NoStream, vec![event(0)]).await.unwrap();
    let mut feed = store.log.subscribe(StartFrom::Beginning, &["clusterUpdate-", "updatedCluster-"]).await;
    assert_eq!(next_event(&mut feed).await, 0);
    assert_eq!(timeout(Duration::from_secs(5), feed.recv()).await.unwrap(), Some(Feed::CaughtUp));

    for n in 1..=6u64 {
        let leader = store.leader();
        match n {
            2 => store.world.with(|w| w.resign(leader)),
            4 => store.world.with(|w| w.kill(leader)),
            _ => {}
        }
        let at = store.persist(&s, after(n - 1), event(n.into())).await;
        assert_eq!(at, Revision(n));
        store.until("a leader", |w| w.leader().is_some()).await;
    }
    for n in 1..=6 {
        assert_eq!(next_event(&mut feed).await, n);
    }

    let mut tail = store
        .log
        .subscribe(StartFrom::After(store.log.end_of_log().await.unwrap().unwrap()), &["clusterUpdate-"])
        .await;
    assert_eq!(timeout(Duration::from_secs(10), tail.recv()).await.unwrap(), Some(Feed::CaughtUp));
    store.persist(&s, after(6), event(7)).await;
    assert_eq!(next_event(&mut tail).await, 7);
    assert_eq!(next_event(&mut feed).await, 7);

    // Where nothing passes the filter, it is told how far the log was looked at.
    let other = stream("other");
    let begin = store.log.end_of_log().await.unwrap().unwrap();
    for last in (0..1100).step_by(100) {
        store
            .log
            .append(&other, after(last), (1..=100).map(|i| event((1000 + last + i).into())).collect())
            .await
            .unwrap();
    }
    let end = store.log.end_of_log().await.unwrap().unwrap();
    loop {
        match timeout(Duration::from_secs(10), tail.recv()).await.unwrap().unwrap() {
            Feed::Looked(at) if at > begin => break assert!(at <= end),
            Feed::Looked(_) | Feed::CaughtUp | Feed::Reconnecting(_) => {}
            Feed::Event(event) => panic!("{event:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_resigns_or_dies_is_left_within_the_budget() {
    let store = store().await;
    let s = stream("clusterUpdate-a");
    store.log.append(&s, Expected::NoStream, vec![event(0)]).await.unwrap();
    for (n, trouble) in (1u64..).zip(["resigns", "is killed", "freezes"]) {
        let leader = store.leader();
        store.world.with(|w| match trouble {
            "resigns" => w.resign(leader),
            "is killed" => w.kill(leader),
            _ => w.freeze(leader),
        });
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let began = Instant::now();
            let result = store.log.append(&s, after(n - 1), vec![event(n.into())]).await;
            assert!(began.elapsed() < BUDGET, "{trouble}: {:?}", began.elapsed());
            match result {
                Ok(appended) => break assert_eq!(appended.last, Revision(n)),
                Err(AppendError::Unknown { .. } | AppendError::Unavailable { .. }) => {}
                Err(e) => panic!("the leader {trouble}: {e}"),
            }
            assert!(Instant::now() < deadline, "the leader {trouble}, and no append since");
        }
        store
            .until("all nodes back", |w| {
                w.unfreeze(leader);
                (0..3).filter(|n| w.live(*n)).count() == 3 && w.leader().is_some()
            })
            .await;
    }
    let all = store.log.read(&s, Revision(0), 100).await.unwrap();
    assert!(all.iter().map(|e| e.data["n"].as_u64().unwrap()).eq(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_claimed_and_every_node_is_read() {
    let store = store().await;
    let s = stream("clusterUpdate-a");
    store.log.append(&s, Expected::NoStream, vec![event(0), event(1)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let probe = store.log.probe().await;
    assert_eq!((probe.voters, probe.answered, probe.leader_reported), (3, 3, true));
    assert_eq!(store.log.read_everywhere(&s).await.len(), 3, "a replica is no voter");

    let leader = store.leader();
    let follower = (0..3).find(|n| *n != leader).unwrap();
    store.world.with(|w| {
        w.shutdown(leader);
        w.shutdown(follower);
    });
    let began = Instant::now();
    let error = store.log.append(&s, after(1), vec![event(2)]).await.unwrap_err();
    assert!(began.elapsed() < BUDGET, "{:?}", began.elapsed());
    assert!(matches!(error, AppendError::Unknown { .. } | AppendError::Unavailable { .. }), "{error}");
    store.until("the end of the last leader", |w| w.leader().is_none()).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let began = Instant::now();
    let error = store.log.read(&s, Revision(0), 10).await.unwrap_err();
    assert!(matches!(error, ReadError::Unavailable { .. }), "{error}");
    assert!(began.elapsed() < BUDGET, "{:?}", began.elapsed());

    let began = Instant::now();
    let probe = store.log.probe().await;
    assert_eq!((probe.voters, probe.answered, probe.leader_reported), (3, 1, false));
    let reads = store.log.read_everywhere(&s).await;
    assert!(began.elapsed() < 2 * BUDGET);
    assert_eq!(reads.len(), 1);
    assert_eq!(reads[0].events.iter().map(|e| e.id).collect::<Vec<_>>(), [event(0).id, event(1).id]);
    let missing = store.log.read_everywhere(&stream("missing")).await;
    assert_eq!((missing.len(), missing[0].events.len()), (1, 0), "a node that answers with nothing has answered");
}
