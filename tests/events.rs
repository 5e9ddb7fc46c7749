//! The stored JSON of every type, frozen (`tests/events/*.json`). These files are the storage contract: they are changed by hand, by adding,
//! never by renaming. `Type.json` has every field; `Type.minimal.json` has none that may be absent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use esdb_rollout::codec::{
    CHECKPOINT, CheckpointMoved, HEARTBEAT, WorkerHeartbeat, Writer, decode, decode_admission, encode_admission,
    encode_command, encode_facts, encode_record, event_data,
};
use esdb_rollout::domain::catch_up::DataKept;
use esdb_rollout::domain::ids::{
    CHECKPOINT_STREAM, ClusterName, Incarnation, Revision, StreamName, UpdateId, WorkerName,
};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::domain::time::Moment;
use esdb_rollout::ports::{NewEvent, StoredEvent};
use esdb_rollout::update::event::{
    AssignedBecause, Event, Gate, Kind, NodeResult, OnFailure, OnSilentNode, RestoredBy, Role,
};
use esdb_rollout::update::state::Body;
use esdb_rollout::update::strategy::Strategy;
use esdb_rollout::worker::{FailuresReviewed, REVIEW_STREAM, REVIEWED};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

/// Types of the other streams.
const RECORDS: [&str; 5] = ["UpdateAdmitted", "UpdateReleased", HEARTBEAT, CHECKPOINT, REVIEWED];

/// Always written, and yet read where it is absent: people write these by hand.
const DEFAULTED: [(&str, &str); 1] = [("UpdateRequested", "strategy")];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events")
}

/// All files: name without `.json`, and text.
fn files() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().strip_suffix(".json").expect("a .json file").to_owned();
        found.insert(name, fs::read_to_string(path).unwrap());
    }
    found
}

fn type_of(file: &str) -> &str {
    file.strip_suffix(".minimal").unwrap_or(file)
}

fn is_of_an_update(file: &str) -> bool {
    !RECORDS.contains(&type_of(file))
}

/// The files of the events of an update's stream: name, and data.
fn update_files() -> Vec<(String, Value)> {
    let own = files().into_iter().filter(|(file, _)| is_of_an_update(file));
    own.map(|(file, text)| (file, serde_json::from_str(&text).unwrap())).collect()
}

/// Pretty, keys sorted, one line feed at the end.
fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let by_key: BTreeMap<&String, Value> = map.iter().map(|(k, v)| (k, sorted(v))).collect();
                by_key.into_iter().map(|(k, v)| (k.clone(), v)).collect()
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }
    serde_json::to_string_pretty(&sorted(value)).unwrap() + "\n"
}

/// Metadata as this program writes it.
fn ours() -> Value {
    json!({
        "worker": "worker-a",
        "incarnation": "7d1c2b3a-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
        "toolVersion": "0.1.0",
        "at": "2026-01-10T22:00:00.123Z",
    })
}

/// Metadata of anybody else.
fn theirs() -> Value {
    json!({ "at": "yesterday" })
}

fn stored(event_type: &str, data: Value, metadata: Value) -> StoredEvent {
    StoredEvent {
        stream: UpdateId(Uuid::from_u128(1)).stream(),
        revision: Revision(7),
        position: None,
        id: Uuid::from_u128(2),
        event_type: event_type.to_owned(),
        data,
        metadata,
        is_json: true,
        created: "2026-01-10T22:00:01Z".parse().unwrap(),
    }
}

fn body(event_type: &str, data: Value, metadata: Value) -> Body {
    decode(&stored(event_type, data, metadata), Moment::default()).body
}

fn event(event_type: &str, data: Value, metadata: Value) -> Event {
    match body(event_type, data, metadata) {
        Body::Event(event) => *event,
        other @ (Body::Unreadable { .. } | Body::Newer { .. }) => panic!("{event_type}: {other:?}"),
    }
}

fn writer() -> Writer {
    Writer { worker: WorkerName::from("worker-a"), incarnation: Incarnation(Uuid::from_u128(3)) }
}

fn at() -> jiff::Timestamp {
    "2026-01-10T22:00:00.123456Z".parse().unwrap()
}

/// Through the encoder that the product uses for this event.
fn encoded(event: &Event) -> NewEvent {
    match event.kind() {
        Kind::Command => encode_command(event, Uuid::from_u128(4), json!({})).unwrap(),
        Kind::Fact => {
            let facts = std::slice::from_ref(event);
            let last = Some((Revision(6), Uuid::from_u128(5)));
            encode_facts(UpdateId(Uuid::from_u128(1)), facts, last, &writer(), at()).unwrap().remove(0)
        }
    }
}

#[test]
fn every_type_has_a_file_and_every_file_a_type() {
    let types: BTreeSet<&str> = Event::TYPES.iter().copied().chain(RECORDS).collect();
    let files = files();
    let full: BTreeSet<&str> = files.keys().map(String::as_str).filter(|f| !f.ends_with(".minimal")).collect();
    assert_eq!(full, types);
    for file in files.keys() {
        assert!(types.contains(type_of(file)), "{file}.json is of no type");
    }
}

#[test]
fn files_decode_and_encode_back_to_the_byte() {
    for (file, text) in files().into_iter().filter(|(file, _)| is_of_an_update(file)) {
        let data: Value = serde_json::from_str(&text).unwrap();
        let event = event(type_of(&file), data, ours());
        assert_eq!(event.type_name(), type_of(&file));
        let new = encoded(&event);
        assert_eq!(new.event_type, type_of(&file));
        assert_eq!(canonical(&new.data), text, "{file}");
    }
}

#[test]
fn a_full_file_has_no_gap_and_a_minimal_one_only_what_must_be() {
    let files: BTreeMap<String, Value> = update_files().into_iter().collect();
    for (file, data) in &files {
        let fields = data.as_object().unwrap();
        let type_name = type_of(file);
        if type_name == file {
            assert!(fields.values().all(|v| !v.is_null()), "{file} leaves something out");
        } else {
            let full = files[type_name].as_object().unwrap();
            assert!(fields.keys().all(|k| full.contains_key(k)), "{file} has a field that {type_name} has not");
        }
    }
    // A field may be absent exactly if the minimal file, where there is one, does without it; without it all decodes the same way.
    for (type_name, full) in files.iter().filter(|(file, _)| !file.ends_with(".minimal")) {
        let minimal = files.get(&format!("{type_name}.minimal")).unwrap_or(full);
        for field in full.as_object().unwrap().keys() {
            let needed = minimal.get(field).is_some_and(|v| !v.is_null()) && !DEFAULTED.contains(&(type_name, field));
            let mut without = full.clone();
            without.as_object_mut().unwrap().remove(field);
            match body(type_name, without, theirs()) {
                Body::Event(_) => assert!(!needed, "{type_name} decodes without {field}"),
                Body::Unreadable { type_name: named, problem } => {
                    assert!(needed, "{type_name} does not decode without {field}: {problem}");
                    assert_eq!(&named, type_name);
                    assert!(problem.contains(&format!("missing field `{field}`")), "{type_name}, {field}: {problem}");
                }
                other @ Body::Newer { .. } => panic!("{type_name} without {field}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_fact_of_ours_that_lacks_a_field_is_of_a_newer_worker_and_a_command_is_not() {
    for type_name in Event::TYPES {
        let full: Value = serde_json::from_str(&files()[*type_name]).unwrap();
        let mut broken = full.as_object().unwrap().clone();
        // No field of any type is of this shape.
        broken.values_mut().for_each(|v| *v = json!({ "another": "shape" }));
        match (Event::kind_of(type_name).unwrap(), body(type_name, Value::Object(broken), ours())) {
            (Kind::Fact, Body::Newer { type_name: named }) => assert_eq!(&named, type_name),
            (Kind::Command, Body::Unreadable { type_name: named, .. }) => assert_eq!(&named, type_name),
            (_, other) => panic!("{type_name}: {other:?}"),
        }
    }
}

#[test]
fn unknown_fields_are_ignored() {
    for (file, data) in update_files() {
        let known = event(type_of(&file), data.clone(), ours());
        let mut more = data;
        add_unknown(&mut more);
        assert_eq!(event(type_of(&file), more, ours()), known, "{file}");
    }
}

/// Adds a field to every object, also to those within.
fn add_unknown(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(add_unknown);
            map.insert("addedLater".into(), json!({ "by": ["a newer worker"] }));
        }
        Value::Array(items) => items.iter_mut().for_each(add_unknown),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn unknown_types_are_newer_if_ours_and_unreadable_if_not() {
    for type_name in ["NodeTerminated", "updateRequested", "", HEARTBEAT, "UpdateAdmitted"] {
        assert_eq!(body(type_name, json!({}), ours()), Body::Newer { type_name: type_name.into() });
        match body(type_name, json!({}), theirs()) {
            Body::Unreadable { type_name: named, problem } => {
                assert_eq!(named, type_name);
                assert_eq!(problem, "no type of this contract");
            }
            other @ (Body::Event(_) | Body::Newer { .. }) => panic!("{type_name}: {other:?}"),
        }
    }
}

#[test]
fn data_that_is_no_json_is_unreadable() {
    let mut raw = stored("PauseRequested", Value::Null, Value::Null);
    raw.is_json = false;
    let problem = "its data is no JSON, or of more parts than are read".to_owned();
    assert_eq!(decode(&raw, Moment::default()).body, Body::Unreadable { type_name: "PauseRequested".into(), problem });
}

#[test]
fn who_and_why_of_a_command_may_stand_in_its_metadata() {
    let metadata = json!({ "by": "otto", "why": "by metadata" });
    for type_name in Event::TYPES.iter().filter(|t| Event::kind_of(t) == Some(Kind::Command)) {
        let minimal: Value = serde_json::from_str(&files()[&format!("{type_name}.minimal")]).unwrap();
        let data = event_data(&event(type_name, minimal, metadata.clone())).unwrap();
        assert_eq!((&data["by"], &data["why"]), (&json!("otto"), &json!("by metadata")), "{type_name}");
        let full: Value = serde_json::from_str(&files()[*type_name]).unwrap();
        let data = event_data(&event(type_name, full.clone(), metadata.clone())).unwrap();
        assert_eq!(data, full, "{type_name}: the data goes before the metadata");
    }
}

#[test]
fn the_moment_is_the_writers_if_it_is_ours_and_else_the_stores() {
    let at = |metadata| decode(&stored("PauseRequested", json!({}), metadata), Moment::default()).at.to_string();
    assert_eq!(at(ours()), "2026-01-10T22:00:00.123Z");
    assert_eq!(at(theirs()), "2026-01-10T22:00:01Z");
    assert_eq!(at(Value::Null), "2026-01-10T22:00:01Z");
}

#[test]
fn admission_events_decode_and_encode_back_to_the_byte() {
    for type_name in ["UpdateAdmitted", "UpdateReleased"] {
        let text = &files()[type_name];
        let data: Value = serde_json::from_str(text).unwrap();
        let event = decode_admission(&stored(type_name, data.clone(), ours())).expect("an admission event");
        let new = encode_admission(&ClusterName::from("prod"), &event, Some(Revision(6)), &writer(), at()).unwrap();
        assert_eq!(new.event_type, type_name);
        assert_eq!(&canonical(&new.data), text);
        let mut more = data;
        add_unknown(&mut more);
        assert_eq!(decode_admission(&stored(type_name, more, ours())), Some(event));
        assert_eq!(decode_admission(&stored(type_name, json!({}), ours())), None);
    }
}

#[test]
fn the_workers_own_records_decode_and_encode_back_to_the_byte() {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(stream: &StreamName, file: &str) {
        let (text, type_name) = (&files()[file], type_of(file));
        let record: T = serde_json::from_str(text).unwrap();
        let new = encode_record(stream, type_name, &record, None, &writer(), at()).unwrap();
        assert_eq!(new.event_type, type_name);
        assert_eq!(&canonical(&new.data), text);
        let mut more = new.data;
        add_unknown(&mut more);
        assert_eq!(serde_json::from_value::<T>(more).unwrap(), record);
    }
    check::<WorkerHeartbeat>(&WorkerName::from("worker-a").stream(), "WorkerHeartbeat");
    check::<WorkerHeartbeat>(&WorkerName::from("worker-a").stream(), "WorkerHeartbeat.minimal");
    check::<FailuresReviewed>(&StreamName::from(REVIEW_STREAM), REVIEWED);
    check::<CheckpointMoved>(&StreamName::from(CHECKPOINT_STREAM), "CheckpointMoved");
}

#[test]
fn metadata_and_ids_of_facts_are_frozen_too() {
    let fact = event("UpdateParked", serde_json::from_str(&files()["UpdateParked"]).unwrap(), ours());
    let new = encoded(&fact);
    let expected = json!({
        "$correlationId": "00000000-0000-0000-0000-000000000001",
        "$causationId": "00000000-0000-0000-0000-000000000005",
        "worker": "worker-a",
        "incarnation": "00000000-0000-0000-0000-000000000003",
        "toolVersion": env!("CARGO_PKG_VERSION"),
        "at": "2026-01-10T22:00:00.123Z",
    });
    assert_eq!(new.metadata, expected);
    // Computed apart, from the words of the contract.
    assert_eq!(new.id.to_string(), "55452c7b-bbbb-5ca8-841e-53c7ec30bee7");
}

/// The words of every enumeration that is stored, in every spelling that was ever written.
#[test]
fn words_are_frozen() {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(words: &[(&str, T)]) {
        for (word, value) in words {
            assert_eq!(serde_json::to_value(value).unwrap(), json!(word));
            assert_eq!(&serde_json::from_value::<T>(json!(word)).unwrap(), value);
        }
    }
    check(&[
        ("Ec2InstanceTypeUpdate", Strategy::Ec2InstanceTypeUpdate),
        ("Ec2InstanceRestart", Strategy::Ec2InstanceRestart),
    ]);
    check(&[
        ("rollBackNode", OnFailure::RollBackNode),
        ("rollBackAll", OnFailure::RollBackAll),
        ("hold", OnFailure::Hold),
    ]);
    check(&[("hold", OnSilentNode::Hold), ("reboot", OnSilentNode::Reboot)]);
    check(&[
        ("beforeLeader", Gate::BeforeLeader),
        ("afterFirst", Gate::AfterFirst),
        ("eachNode", Gate::EachNode),
        ("dataUnknown", Gate::DataUnknown),
    ]);
    check(&[
        ("admitted", AssignedBecause::Admitted),
        ("silent", AssignedBecause::Silent),
        ("handedOver", AssignedBecause::HandedOver),
    ]);
    check(&[("Leader", Role::Leader), ("Follower", Role::Follower), ("ReadOnlyReplica", Role::ReadOnlyReplica)]);
    check(&[("call", RestoredBy::Call), ("restart", RestoredBy::Restart)]);
    check(&[
        ("pending", NodeResult::Pending),
        ("skipped", NodeResult::Skipped),
        ("updated", NodeResult::Updated),
        ("rolledBack", NodeResult::RolledBack),
        ("failed", NodeResult::Failed),
    ]);
    check(&[("yes", DataKept::Yes), ("no", DataKept::No), ("unknown", DataKept::Unknown)]);
    check(&[
        ("pending", InstanceState::Pending),
        ("running", InstanceState::Running),
        ("shutting-down", InstanceState::ShuttingDown),
        ("terminated", InstanceState::Terminated),
        ("stopping", InstanceState::Stopping),
        ("stopped", InstanceState::Stopped),
    ]);
}
