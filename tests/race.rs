//! Two workers race to append each kind of fact at one revision: exactly one wins, and each may repeat itself safely.

mod rig;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use esdb_rollout::codec::{Writer, encode_admission, encode_facts, fact_id};
use esdb_rollout::domain::ids::{ClusterName, Incarnation, Revision, StreamName, UpdateId, WorkerName};
use esdb_rollout::ports::{AppendError, Appended, EventLog, Expected, NewEvent, StoredEvent};
use esdb_rollout::sim::ports::SimPorts;
use esdb_rollout::sim::world::{SimWorld, World};
use esdb_rollout::update::event::{Admission, AdmissionEvent, Event, Kind};
use serde_json::{Value, json};
use uuid::Uuid;

const WON: Result<Appended, AppendError> = Ok(Appended { last: Revision(1) });

/// Every kind of fact, by its frozen example.
fn facts() -> Vec<Event> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events");
    let of_facts = Event::TYPES.iter().filter(|t| Event::kind_of(t) == Some(Kind::Fact));
    let facts: Vec<Event> = of_facts
        .map(|type_name| {
            let text = fs::read_to_string(folder.join(format!("{type_name}.json"))).unwrap();
            let data: Value = serde_json::from_str(&text).unwrap();
            serde_json::from_value(json!({ "type": type_name, "data": data })).unwrap()
        })
        .collect();
    assert!(facts.len() > 30, "{} facts", facts.len());
    facts
}

fn writer(name: &str, incarnation: u128) -> Writer {
    Writer { worker: WorkerName::from(name), incarnation: Incarnation(Uuid::from_u128(incarnation)) }
}

/// A store, and the ways of two workers to it: each with latencies of its own.
struct Store {
    one: Arc<dyn EventLog>,
    other: Arc<dyn EventLog>,
}

impl Store {
    fn new(seed: u64) -> Store {
        let world = SimWorld::new(World::new(rig::world(seed)));
        Store {
            one: SimPorts::new(world.clone(), seed).event_log(),
            other: SimPorts::new(world, seed + 1000).event_log(),
        }
    }

    /// A stream of an update that somebody asked for; says what stands in it.
    async fn requested(&self, update: UpdateId) -> (Revision, Uuid) {
        let id = Uuid::from_u128(update.0.as_u128() << 64);
        let data = json!({ "cluster": "prod" });
        let request = NewEvent { id, event_type: "UpdateRequested".into(), data, metadata: json!({}) };
        loop {
            // The cluster has to elect a leader first.
            match self.one.append(&update.stream(), Expected::NoStream, vec![request.clone()]).await {
                Ok(appended) => return (appended.last, id),
                Err(AppendError::Unavailable { .. } | AppendError::Unknown { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Both append at once where the stream ends with `last`.
    async fn race(
        &self,
        stream: &StreamName,
        last: Option<Revision>,
        one: &NewEvent,
        other: &NewEvent,
    ) -> [Result<Appended, AppendError>; 2] {
        let expected = Expected::after(last);
        let (first, second) = tokio::join!(
            self.one.append(stream, expected, vec![one.clone()]),
            self.other.append(stream, expected, vec![other.clone()]),
        );
        [first, second]
    }

    async fn stored(&self, stream: &StreamName) -> Vec<StoredEvent> {
        self.one.read(stream, Revision(0), 100).await.unwrap()
    }
}

fn update(number: usize) -> UpdateId {
    UpdateId(Uuid::from_u128(0xace_0000 + number as u128))
}

fn at() -> jiff::Timestamp {
    "2026-01-10T22:00:00Z".parse().unwrap()
}

fn encoded(update: UpdateId, fact: &Event, last: (Revision, Uuid), writer: &Writer) -> NewEvent {
    let mut events = encode_facts(update, std::slice::from_ref(fact), Some(last), writer, at()).unwrap();
    assert_eq!(events.len(), 1);
    events.remove(0)
}

/// Exactly one of the two has won; says which. The other was told of a conflict.
fn winner(what: &str, stream: &StreamName, outcomes: &[Result<Appended, AppendError>; 2], won: &Appended) -> usize {
    let conflict = Err(AppendError::Conflict { stream: stream.clone() });
    let winner = outcomes.iter().position(|o| o.as_ref() == Ok(won)).unwrap_or_else(|| panic!("{what}: {outcomes:?}"));
    assert_eq!(outcomes[1 - winner], conflict, "{what}: {outcomes:?}");
    winner
}

#[tokio::test(start_paused = true)]
async fn of_two_workers_exactly_one_appends_each_kind_of_fact() {
    let store = Store::new(1);
    let mut wins = [0, 0];
    for (number, fact) in facts().iter().enumerate() {
        let (update, what) = (update(number), fact.type_name());
        let last = store.requested(update).await;
        // The same fact of the same worker name: only the incarnations differ, as after a restart.
        let events = [encoded(update, fact, last, &writer("w1", 1)), encoded(update, fact, last, &writer("w1", 2))];
        assert_eq!(events[0].data, events[1].data);
        assert_ne!(events[0].id, events[1].id, "{what}");

        let stream = update.stream();
        let outcomes = store.race(&stream, Some(last.0), &events[0], &events[1]).await;
        let won = winner(what, &stream, &outcomes, &Appended { last: Revision(1) });
        wins[won] += 1;
        let stored = store.stored(&stream).await;
        let ids: Vec<Uuid> = stored.iter().map(|e| e.id).collect();
        assert_eq!(ids, [last.1, events[won].id], "{what}: what is stored is the winner's");
        assert_eq!((&stored[1].data, &stored[1].metadata), (&events[won].data, &events[won].metadata), "{what}");

        // Said again, the outcome is the same, also to who lost.
        let again = store.race(&stream, Some(last.0), &events[0], &events[1]).await;
        assert_eq!(again, outcomes, "{what}, said again");
        assert_eq!(store.stored(&stream).await.len(), 2, "{what}: once");
    }
    assert!(wins.iter().all(|n| *n > 0), "a race that one side always wins is none: {wins:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_repeats_its_append_is_told_the_same_also_after_others_went_on() {
    let store = Store::new(2);
    let (mine, others) = (writer("w1", 1), writer("w2", 2));
    for (number, fact) in facts().iter().enumerate() {
        let (update, what) = (update(number), fact.type_name());
        let stream = update.stream();
        let last = store.requested(update).await;
        let event = encoded(update, fact, last, &mine);
        // Encoded again, as after a lost answer: the same id.
        assert_eq!(encoded(update, fact, last, &mine).id, event.id, "{what}");
        assert_eq!(store.race(&stream, Some(last.0), &event, &event).await, [WON, WON], "{what}: both ways at once");

        let next = encoded(update, fact, (Revision(1), event.id), &others);
        let appended = store.other.append(&stream, Expected::Exact(Revision(1)), vec![next]).await;
        assert_eq!(appended, Ok(Appended { last: Revision(2) }), "{what}");
        let again = store.one.append(&stream, Expected::Exact(last.0), vec![event]).await;
        assert_eq!(again, WON, "{what}: its own revision, not the end's");
        assert_eq!(store.stored(&stream).await.len(), 3, "{what}: each once");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_incarnation_in_the_id_both_would_be_told_that_they_won() {
    let store = Store::new(3);
    for (number, fact) in facts().iter().enumerate() {
        let (update, what) = (update(number), fact.type_name());
        let stream = update.stream();
        let last = store.requested(update).await;
        let without = |writer: &Writer| {
            let event = encoded(update, fact, last, writer);
            let nobody = Incarnation(Uuid::nil());
            NewEvent { id: fact_id(&stream, last.0.next(), what, nobody, &event.data), ..event }
        };
        let (one, other) = (without(&writer("w1", 1)), without(&writer("w2", 2)));
        assert_ne!(one.metadata, other.metadata);
        assert_eq!(store.race(&stream, Some(last.0), &one, &other).await, [WON, WON], "{what}");
        assert_eq!(store.stored(&stream).await.len(), 2, "{what}: and only one of them is stored");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_workers_exactly_one_admits_and_one_releases() {
    let store = Store::new(4);
    store.requested(update(0)).await;
    let cluster = ClusterName::from("prod");
    let stream = cluster.admission_stream();
    let admission = Admission { update: update(0) };
    let steps = [
        (AdmissionEvent::UpdateAdmitted(admission.clone()), None, Revision(0)),
        (AdmissionEvent::UpdateReleased(admission), Some(Revision(0)), Revision(1)),
    ];
    for (event, last, revision) in steps {
        let encode = |w: &Writer| encode_admission(&cluster, &event, last, w, at()).unwrap();
        let (one, other) = (encode(&writer("w1", 1)), encode(&writer("w1", 2)));
        let outcomes = store.race(&stream, last, &one, &other).await;
        let won = winner(&one.event_type, &stream, &outcomes, &Appended { last: revision });
        let stored = store.stored(&stream).await;
        assert_eq!(stored.last().map(|e| e.id), Some([one.id, other.id][won]));
    }
    assert_eq!(store.stored(&stream).await.len(), 2);
}
