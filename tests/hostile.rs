//! Streams that nobody should have written: whatever stands there is folded without a panic, and told apart from what is sound.

use std::path::Path;

use esdb_rollout::codec::decode;
use esdb_rollout::domain::ids::{Revision, StreamName};
use esdb_rollout::domain::time::Moment;
use esdb_rollout::ports::StoredEvent;
use esdb_rollout::update::event::{Event, Kind};
use esdb_rollout::update::react::answer_command;
use esdb_rollout::update::state::{Body, Recorded, fold};
use proptest::prelude::*;
use serde_json::{Value, json};
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
