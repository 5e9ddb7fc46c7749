//! The files of `projections/` in a JavaScript engine that refuses what the server's refuses: golden states of recorded histories, the
//! same answer as the fold, and streams that nobody should have written.
#![cfg(feature = "projections")]

#[path = "projections/play.rs"]
mod play;
mod rig;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use esdb_rollout::codec::decode;
use esdb_rollout::domain::ids::{Revision, StreamName, UpdateId};
use esdb_rollout::domain::time::Moment;
use esdb_rollout::ports::StoredEvent;
use esdb_rollout::sim::model::Record;
use esdb_rollout::sim::projections::{Catalog, CatalogError, EMIT_REFUSED, Run, Script};
use esdb_rollout::update::event::Event;
use esdb_rollout::update::state::{Body, Recorded, fold};
use esdb_rollout::views::progress::Progress;
use esdb_rollout::views::projected::Projected;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

const UPDATE_STATE: &str = include_str!("../projections/update-state.js");
const CLUSTER_UPDATES: &str = include_str!("../projections/cluster-updates.js");
const STREAM: &str = "clusterUpdate-00000000-0000-0000-0000-000000000abc";
const HISTORIES: [&str; 9] = [
    "completed",
    "rolled-back",
    "paused-and-cancelled",
    "rejected",
    "rolled-back-on-request",
    "changed-by-others",
    "rebooted",
    "held-and-retried",
    "superseded",
];

fn update() -> UpdateId {
    UpdateId::from_stream(&StreamName::from(STREAM)).unwrap()
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/projections").join(name)
}

/// One event as it is kept in a history's file.
#[derive(Clone, Debug)]
struct Line {
    event_type: String,
    data: String,
    metadata: String,
}

impl Line {
    fn new(event_type: &str, data: &Value) -> Line {
        let metadata = json!({ "at": "2026-01-01T00:00:00Z", "worker": "w1", "incarnation": Uuid::nil() });
        Line { event_type: event_type.to_owned(), data: data.to_string(), metadata: metadata.to_string() }
    }
}

fn recorded(name: &str) -> Vec<Line> {
    let path = file(&format!("{name}.jsonl"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].to_string();
        Line { event_type: line["type"].as_str().unwrap().to_owned(), data: text("data"), metadata: text("metadata") }
    });
    lines.collect()
}

fn record(stream: &str, revision: usize, line: &Line) -> Record {
    Record {
        position: revision as u64 * 1000,
        size: 1000,
        stream: stream.to_owned(),
        revision: revision as u64,
        id: Uuid::from_u128(revision as u128 + 1),
        event_type: line.event_type.clone(),
        is_json: true,
        data: line.data.clone().into_bytes(),
        metadata: line.metadata.clone().into_bytes(),
        created_ticks: 17_672_256_000_000_000,
    }
}

fn records(lines: &[Line]) -> Vec<Record> {
    lines.iter().enumerate().map(|(i, line)| record(STREAM, i, line)).collect()
}

/// As the adapter of the store reads it.
fn event(record: &Record) -> Recorded {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    let data = if record.is_json { json(&record.data) } else { None };
    let created = jiff::Timestamp::from_nanosecond(i128::from(record.created_ticks) * 100).unwrap();
    let stored = StoredEvent {
        stream: StreamName::from(record.stream.as_str()),
        revision: Revision(record.revision),
        position: None,
        id: record.id,
        event_type: record.event_type.clone(),
        is_json: data.is_some(),
        data: data.unwrap_or_default(),
        metadata: json(&record.metadata).unwrap_or_default(),
        created,
    };
    decode(&stored, Moment::default())
}

fn engine(text: &str, emit: bool) -> Run {
    Run::new("test", Script::load(text).unwrap(), emit)
}

fn state_after(records: &[Record]) -> Value {
    let mut run = engine(UPDATE_STATE, false);
    for record in records {
        run.process(record).unwrap_or_else(|fault| panic!("it may never fault: {fault}"));
    }
    run.state(STREAM).unwrap_or_default()
}

/// What the projection says and what the fold says, where the projection vouches for it.
fn both(records: &[Record]) -> Option<(Progress, Progress)> {
    compared(&state_after(records), records)
}

fn compared(state: &Value, records: &[Record]) -> Option<(Progress, Progress)> {
    let now: jiff::Timestamp = "2026-01-01T06:00:00Z".parse().unwrap();
    let mut projected = Projected::read(state)?;
    let history: Vec<Recorded> = records.iter().map(event).collect();
    assert_eq!(Some(projected.revision()), history.last().map(|r| r.revision));
    if !projected.knows_when() {
        projected.requested(history[0].at);
    }
    Some((projected.progress(update(), now), Progress::of(update(), &fold(&history), &history, now)))
}

/// Plays the histories; with `ESDB_ROLLOUT_REFRESH_HISTORIES` it writes them down.
#[tokio::test(start_paused = true)]
async fn histories_played_now_are_vouched_for_from_the_first_event_to_the_last() {
    for name in HISTORIES {
        let mut played = play::play(name).await;
        for record in &mut played {
            record.stream = STREAM.to_owned();
        }
        if std::env::var_os("ESDB_ROLLOUT_REFRESH_HISTORIES").is_some() {
            let line = |r: &Record| {
                let json = |b: &[u8]| serde_json::from_slice::<Value>(b).unwrap();
                json!({ "type": r.event_type, "data": json(&r.data), "metadata": json(&r.metadata) }).to_string() + "\n"
            };
            std::fs::write(file(&format!("{name}.jsonl")), played.iter().map(line).collect::<String>()).unwrap();
        }
        for end in 1..=played.len() {
            let (projected, folded) = both(&played[..end]).unwrap_or_else(|| {
                panic!("{name}: {} at {end}", state_after(&played[..end]));
            });
            assert_eq!(projected, folded, "{name} after {end} events");
        }
    }
}

fn golden(name: &str, found: &Value) {
    let path = file(name);
    let text = format!("{found:#}\n");
    if std::env::var_os("ESDB_ROLLOUT_REFRESH_STATES").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(text == kept, "{name} is not as kept; if that is meant: ESDB_ROLLOUT_REFRESH_STATES=1\n{text}");
}

#[test]
fn states_of_the_recorded_histories_are_as_kept() {
    for name in HISTORIES {
        let records = records(&recorded(name));
        golden(&format!("{name}.state.json"), &state_after(&records));
        let (projected, folded) = both(&records).expect("it vouches for it");
        assert_eq!(projected, folded);
    }
}

#[test]
fn a_request_that_supersedes_says_what_it_waits_for() {
    let old = Uuid::from_u128(5);
    let line = Line::new(
        "UpdateRequested",
        &json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge", "supersedes": old }),
    );
    let records = records(&[line]);
    let (projected, folded) = both(&records).expect("it vouches for it");
    assert_eq!(projected, folded);
    let waiting = &state_after(&records)["waiting"];
    assert_eq!(waiting["code"], json!(folded.waiting.unwrap().code));
    assert!(waiting["detail"].as_str().unwrap().contains(&old.to_string()));
}

#[test]
fn clusters_have_an_active_update_a_last_result_and_a_stream_of_links() {
    let mut run = engine(CLUSTER_UPDATES, true);
    let mut links = Vec::new();
    let mut active = Vec::new();
    for (number, name) in HISTORIES.into_iter().enumerate() {
        let stream = format!("clusterUpdate-{}", Uuid::from_u128(number as u128));
        for (i, line) in recorded(name).iter().enumerate() {
            let done = run.process(&record(&stream, i, line)).unwrap();
            links.extend(done.emitted.into_iter().map(|e| json!([e.stream, e.event_type, e.is_json, e.data])));
            active.push(run.state("").is_some_and(|s| !s["clusters"]["prod"]["active"].is_null()));
        }
    }
    assert!(active.iter().any(|a| *a) && active.iter().any(|a| !*a));
    golden("cluster-updates.state.json", &json!({ "state": run.state("").unwrap(), "links": links }));
}

#[test]
fn what_nobody_should_have_written_faults_neither_and_is_odd() {
    let good = json!({ "cluster": "prod" }).to_string();
    let deep = format!("{{\"cluster\":\"prod\",\"x\":{}1{}}}", "[".repeat(120), "]".repeat(120));
    let hostile: Vec<(&str, Vec<u8>, bool)> = vec![
        ("UpdateRequested", b"7".to_vec(), true),
        ("UpdateRequested", b"\"prod\"".to_vec(), true),
        ("UpdateRequested", b"null".to_vec(), true),
        ("UpdateRequested", b"{".to_vec(), true),
        ("UpdateRequested", vec![0xff, 0xfe], true),
        ("UpdateRequested", b"  ".to_vec(), true),
        ("UpdateRequested", good.clone().into_bytes(), false),
        ("UpdateRequested", deep.into_bytes(), true),
        ("UpdateRequested", b"{\"cluster\":\"\"}".to_vec(), true),
        ("UpdateRequested", b"{\"cluster\":\"__proto__\"}".to_vec(), true),
        ("UpdateRequested", b"{\"cluster\":\"a\\nb\"}".to_vec(), true),
        ("UpdateRequested", b"{\"cluster\":{\"toString\":1}}".to_vec(), true),
        ("UpdateAccepted", b"{\"request\":[]}".to_vec(), true),
        ("UpdateAccepted", b"{\"request\":{\"cluster\":\"prod\",\"toJSON\":1}}".to_vec(), true),
        ("UpdateCompleted", b"{\"notRunning\":[{\"toString\":1}],\"seconds\":\"x\"}".to_vec(), true),
        ("UpdateCompleted", b"[]".to_vec(), true),
        ("$metadata", b"1".to_vec(), true),
        ("toString", b"{}".to_vec(), true),
        ("__proto__", b"{}".to_vec(), true),
    ];
    for (event_type, data, is_json) in hostile {
        for metadata in [&b""[..], b"null", b"5", b"{", b"{\"at\":3,\"by\":{}}", &[0xff]] {
            let mut bad = record(STREAM, 0, &Line::new(event_type, &json!({})));
            (bad.data, bad.metadata, bad.is_json) = (data.clone(), metadata.to_vec(), is_json);
            let after = record(STREAM, 1, &Line::new("PauseRequested", &json!({})));
            let shown =
                format!("{event_type} {:?} {:?}", String::from_utf8_lossy(&data), String::from_utf8_lossy(metadata));

            let state = state_after(&[bad.clone(), after.clone()]);
            let agreed = both(&[bad.clone(), after.clone()]);
            assert!(
                state["odd"]["count"].as_u64() >= Some(1) || agreed.is_some_and(|(a, b)| a == b),
                "{shown}: {state}"
            );

            let mut run = engine(CLUSTER_UPDATES, true);
            for r in [&bad, &after] {
                let done = run.process(r).unwrap_or_else(|fault| panic!("{shown}: {fault}"));
                assert!(done.emitted.iter().all(|e| e.stream == "clusterUpdates-prod"), "{shown}: {done:?}");
            }
        }
    }
}

/// More than this the server does not keep of a state, and faults.
const STATE_MOST: usize = 16 << 20;

#[test]
fn what_nobody_should_have_written_does_not_make_a_state_too_long_for_the_server() {
    let long = "ü".repeat(120_000);
    let request = recorded("completed").remove(0);
    // A command that is no longer than those that are obeyed, and one that is.
    for (unread, length, odd) in
        [("x", 9_000, false), ("x", 120_000, true), ("why", 1_900, false), ("why", 120_000, true)]
    {
        let mut run = engine(UPDATE_STATE, false);
        run.process(&record(STREAM, 0, &request)).unwrap();
        for i in 1..150 {
            let mut waiver = json!({ "answers": 0, "check": "stopProtection", "by": "ada", "why": "x" });
            waiver[unread] = json!("ü".repeat(length));
            run.process(&record(STREAM, i, &Line::new("CheckWaived", &waiver))).unwrap();
        }
        let state = run.state(STREAM).unwrap();
        assert!(state.to_string().len() < STATE_MOST, "{unread}");
        assert_eq!(!state["odd"].is_null(), odd, "{unread} {length}: {}", state["odd"]);
    }

    let mut run = engine(CLUSTER_UPDATES, true);
    for i in 0..120 {
        let stream = format!("clusterUpdate-{}", Uuid::from_u128(i));
        let request = json!({ "cluster": format!("c{i}") });
        let names = vec![&long[..2_000]; 100];
        let lines = [
            Line::new("UpdateRequested", &request),
            Line::new("UpdateAccepted", &json!({ "request": request, "clusterId": "x" })),
            Line::new("UpdateFailed", &json!({ "seconds": 1, "code": long, "notRunning": names })),
        ];
        for (at, line) in lines.iter().enumerate() {
            run.process(&record(&stream, at, line)).unwrap();
        }
    }
    let state = run.state("").unwrap();
    assert!(state["clusters"]["c0"]["last"]["notRunning"][0].is_string(), "{}", state["odd"]);
    assert!(state.to_string().len() * 500 / 120 < STATE_MOST, "{}", state.to_string().len());
}

#[test]
fn it_says_at_which_pause_or_approval_it_stands_also_with_a_node_in_hand_and_on_the_way_back() {
    let lines = recorded("rolled-back-on-request");
    let at = |kind: &str| lines.iter().position(|l| l.event_type == kind).unwrap();
    let awaited = |gate: &str| Line::new("ApprovalAwaited", &json!({ "gate": gate, "node": "esdb-1", "detail": "x" }));
    let (pause, paused) = (Line::new("PauseRequested", &json!({})), Line::new("UpdatePaused", &json!({})));
    let selected = lines[..=at("NodeSelected")].to_vec();
    let done = lines[..=at("NodeUpdated")].to_vec();
    let back = Line::new("RollbackRequested", &json!({}));
    for (said, more, code) in [
        (&selected, vec![awaited("beforeLeader")], "approvalAwaited"),
        (&selected, vec![pause.clone(), paused.clone()], "paused"),
        (&selected, vec![pause, paused, back.clone()], "safeToStopAwaited"),
        (&done, vec![back.clone()], "rollingBack"),
        (&done, vec![back, awaited("dataUnknown")], "approvalAwaited"),
    ] {
        let records = records(&[said.clone(), more].concat());
        let (projected, folded) = both(&records).expect("it vouches for it");
        assert_eq!(projected, folded);
        assert_eq!(folded.waiting.unwrap().code, code);
        let said = state_after(&records)["waiting"]["code"].clone();
        assert!(said == json!(code) || said.is_null() && projected.in_hand.is_some(), "{said} where it is {code}");
    }
}

#[test]
fn a_stream_that_lacks_an_event_is_odd_for_good_and_the_others_are_not() {
    let mut run = engine(UPDATE_STATE, false);
    let lines = recorded("completed");
    for (i, line) in lines.iter().enumerate().filter(|(i, _)| *i != 5) {
        run.process(&record(STREAM, i, line)).unwrap();
    }
    let other = "clusterUpdate-00000000-0000-0000-0000-000000000def";
    run.process(&record(other, 0, &lines[0])).unwrap();
    let odd = json!({ "count": lines.len() - 6, "revision": 6, "type": lines[6].event_type, "what": "an event is missing before it" });
    assert_eq!(run.state(STREAM).unwrap()["odd"], odd);
    assert_eq!(run.state(other).unwrap()["odd"], Value::Null);
    assert_eq!(run.partitions().collect::<Vec<_>>(), [STREAM, other]);
}

/// Every value below an object or a list, and what it may be mistaken for.
fn spoilt(value: &Value) -> Vec<Value> {
    let others = [json!(null), json!("x"), json!(-1), json!(1.5), json!(1e12), json!([]), json!({}), json!(true)];
    let mut all: Vec<Value> = others.into_iter().filter(|o| o != value).collect();
    if let Value::Object(map) = value {
        for (key, inner) in map {
            let mut without = map.clone();
            without.remove(key);
            all.push(Value::Object(without));
            all.extend(spoilt(inner).into_iter().map(|i| {
                let mut other = map.clone();
                other.insert(key.clone(), i);
                Value::Object(other)
            }));
        }
    }
    if let Value::Array(list) = value
        && let Some(first) = list.first()
    {
        all.extend(spoilt(first).into_iter().map(|i| Value::Array([vec![i], list[1..].to_vec()].concat())));
    }
    all
}

/// The engine as it is once `before` was made; anew where nothing was.
fn resume(run: &mut Run, before: &Option<Value>) {
    match before {
        Some(state) => run.load(STREAM, state),
        None => *run = engine(UPDATE_STATE, false),
    }
}

#[test]
fn whatever_the_reader_cannot_read_the_projection_does_not_vouch_for() {
    let (mut tried, mut vouched, mut seen) = (0, 0, BTreeSet::new());
    let mut run = engine(UPDATE_STATE, false);
    for name in HISTORIES {
        let lines = recorded(name);
        let records = records(&lines);
        let mut before = None;
        for (at, line) in lines.iter().enumerate() {
            let mut cases = Vec::new();
            if seen.insert(line.event_type.clone()) {
                let data: Value = serde_json::from_str(&line.data).unwrap();
                cases.extend(spoilt(&data).iter().map(Value::to_string));
                // A whole number in the form of a fraction is the same number to JavaScript.
                cases.push(line.data.replace("\"attempt\":1", "\"attempt\":1.0"));
                cases.push(line.data.replace("\"attempt\":1", "\"\\u0061ttempt\":1.0"));
            }
            for case in cases {
                let mut records = records[..=at].to_vec();
                records[at].data = case.clone().into_bytes();
                resume(&mut run, &before);
                run.process(&records[at]).unwrap();
                tried += 1;
                if let Some((projected, folded)) = compared(&run.state(STREAM).unwrap(), &records) {
                    vouched += 1;
                    let readable = matches!(event(&records[at]).body, Body::Event(_));
                    assert!(readable, "{name} {at} {}: {case}", line.event_type);
                    assert_eq!(projected, folded, "{name} {at}: {case}");
                }
            }
            resume(&mut run, &before);
            run.process(&records[at]).unwrap();
            before = run.state(STREAM);
        }
    }
    assert!(
        seen.len() >= 25 && tried > 2000 && vouched > 200,
        "{} types, {tried} tried, {vouched} vouched for",
        seen.len()
    );
}

/// The stored examples of every event of an update's stream.
fn vocabulary() -> Vec<Line> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events");
    let mut found: Vec<Line> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let name = stem.split(['.', '-']).next().unwrap().to_owned();
        if path.extension().is_some_and(|e| e == "json") && Event::kind_of(&name).is_some() {
            found.push(Line::new(&name, &serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()));
        }
    }
    assert!(found.len() >= Event::TYPES.len());
    found
}

/// An example made to fit the node in hand, so that only its place in the order can be wrong.
fn fitted(example: &Line, state: &Value) -> Line {
    let mut data: Value = serde_json::from_str(&example.data).unwrap();
    let hand = &state["inHand"];
    for key in ["node", "instance"] {
        if data.get(key).is_some() && hand.get(key).is_some() {
            data[key] = hand[key].clone();
        }
    }
    if data.get("type").is_some() && hand["returnTypes"][0].is_string() {
        data["type"] = hand["returnTypes"][0].clone();
    }
    let waiting = state["unanswered"].as_array().and_then(|u| u.first());
    if let (Some(command), Some(first)) = (data.get_mut("command"), waiting) {
        command["revision"] = first["revision"].clone();
    }
    if let Some(answers) = data.get_mut("answers") {
        let parked = if state["parked"].is_null() { &Value::Null } else { &state["parkedAt"] };
        let asked = [&state["awaited"]["revision"], parked, &state["failure"]["revision"]];
        *answers = asked.into_iter().find(|r| r.is_u64()).cloned().unwrap_or(json!(0));
    }
    Line { data: data.to_string(), ..example.clone() }
}

#[test]
fn every_event_at_every_point_is_taken_as_the_fold_takes_it_or_is_odd() {
    let words = vocabulary();
    let mut run = engine(UPDATE_STATE, false);
    let (mut points, mut tried, mut vouched) = (BTreeSet::new(), 0, 0);
    for name in HISTORIES {
        let records = records(&recorded(name));
        let mut before = None;
        for at in 0..records.len() {
            resume(&mut run, &before);
            run.process(&records[at]).unwrap();
            before = run.state(STREAM);
            let state = before.as_ref().unwrap();
            let hand = &state["inHand"];
            let commands: Vec<&Value> = state["unanswered"].as_array().unwrap().iter().map(|u| &u["type"]).collect();
            let point = json!([
                hand["step"],
                hand["intent"],
                hand["lowered"],
                state["status"],
                state["plan"].is_null(),
                state["acceptedAt"].is_null(),
                state["paused"].is_null(),
                state["results"],
                state["request"]["onFailure"],
                state["failure"].is_null(),
                state["foreign"],
                state["rollback"].is_null(),
                commands
            ]);
            if !points.insert(point.to_string()) {
                continue;
            }
            for word in &words {
                let mut records = records[..=at].to_vec();
                records.push(record(STREAM, at + 1, &fitted(word, state)));
                resume(&mut run, &before);
                run.process(&records[at + 1]).unwrap();
                tried += 1;
                if let Some((projected, folded)) = compared(&run.state(STREAM).unwrap(), &records) {
                    vouched += 1;
                    assert_eq!(projected, folded, "{name} {at}: {word:?}");
                }
            }
        }
    }
    assert!(tried > 2000 && vouched > 500, "{} points, {tried} tried, {vouched} vouched for", points.len());
}

#[test]
fn after_a_failure_a_node_that_is_done_is_taken_again_only_by_policy_and_with_every_machine_there() {
    for (policy, code, taken) in [
        ("rollBackAll", "nodeTimeout", true),
        ("rollBackAll", "instanceTerminated", false),
        ("rollBackNode", "nodeTimeout", false),
        ("hold", "nodeTimeout", false),
    ] {
        let mut lines = recorded("rolled-back-on-request");
        lines.retain(|line| line.event_type != "RollbackRequested");
        let mut request: Value = serde_json::from_str(&lines[0].data).unwrap();
        request["onFailure"] = policy.into();
        lines[0].data = request.to_string();
        let failed = lines.iter().rposition(|line| line.event_type == "NodeUpdated").unwrap();
        let mut end: Value = serde_json::from_str(&lines[failed].data).unwrap();
        (end["code"], end["remedy"]) = (code.into(), "look".into());
        (lines[failed].event_type, lines[failed].data) = ("NodeRolledBack".to_owned(), end.to_string());
        lines.truncate(failed + 2);
        let records = records(&lines);
        let history: Vec<Recorded> = records.iter().map(event).collect();
        assert_eq!(fold(&history).broken.is_none(), taken, "{policy} {code}");
        let agreed = both(&records).map(|(projected, folded)| assert_eq!(projected, folded));
        assert_eq!(agreed.is_some(), taken, "{policy} {code}: {}", state_after(&records));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Events lost, doubled and exchanged.
    #[test]
    fn where_it_vouches_it_says_what_the_fold_says(
        which in 0..HISTORIES.len(), cuts in prop::collection::vec((0..3_u8, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
        end in any::<prop::sample::Index>(),
    ) {
        let mut lines = recorded(HISTORIES[which]);
        for (what, a, b) in cuts {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            match what {
                0 if lines.len() > 2 => drop(lines.remove(a)),
                1 => { let line = lines[a].clone(); lines.insert(b, line); }
                _ => lines.swap(a, b),
            }
        }
        lines.truncate(end.index(lines.len()) + 1);
        if let Some((projected, folded)) = both(&records(&lines)) {
            prop_assert_eq!(projected, folded);
        }
    }
}

/// What the server refuses while a text loads, and while it runs.
#[test]
fn what_the_server_refuses_is_refused() {
    let loading = [
        ("fromAll(", "expected"),
        ("var x = 1;", "None of streams"),
        ("fromAll().transformBy(function (s) { return s; })", "not a function"),
        ("fromStream('a').foreachStream().when({})", "not a function"),
        ("fromCategory('a', 'b').foreachStream().when({})", "not supported on stream based sources"),
        (
            "fromCategory('a').when({ A: function () {}, $any: function () {} })",
            "Both AllEvents and specific event filters",
        ),
        ("fromCategory('a').when({ $deleted: function () {} })", "only supported with foreachStream"),
        ("options({ reorderEvents: true }); fromAll().when({})", "only available in fromStreams"),
        ("options({ unknown: true }); fromAll().when({})", "Unrecognized option: unknown"),
        ("options({ biState: 1 }); fromAll().when({})", "Invalid value"),
        ("eval('1'); fromAll().when({})", "not a function"),
        ("(function () {}).constructor('return 1')(); fromAll()", "not a function"),
    ];
    for (text, why) in loading {
        let fault = Script::load(text).map(drop).expect_err(text);
        assert!(fault.0.contains(why), "{text}: {fault}");
    }
    let running = [
        ("throw new Error('boom')", "boom"),
        ("return e.body.x", "Unable to cast"),
        ("fromAll()", "not defined"),
        ("while (true) {}", "too long"),
        ("emit('a', 'b', 5)", "object expected (Parameter 'eventBody')"),
        ("emit('', 'b', {})", "Value cannot be null. (Parameter 'streamId')"),
        ("emit('a', 'b')", "invalid number of parameters"),
        ("linkTo('a', { streamId: 's' })", "Invalid link to event undefined@s"),
        ("linkTo('a')", "wrong number of parameters"),
    ];
    for (code, why) in running {
        let mut run =
            engine(&format!("fromCategory('clusterUpdate').when({{ A: function (s, e) {{ {code} }} }})"), true);
        let fault = run.process(&record(STREAM, 0, &Line::new("A", &json!(5)))).map(drop).expect_err(code);
        assert!(fault.0.starts_with("The test projection failed to process an event.\r\nHandler: "), "{fault}");
        assert!(fault.0.contains("Event Position: $ce-clusterUpdate: 0\r\n\r\nMessage:\r\n\r\n"), "{fault}");
        assert!(fault.0.contains(why), "{code}: {fault}");
        assert_eq!((run.position(), run.state("")), ("$ce-clusterUpdate: -1".to_owned(), None));
    }
}

/// A deployment resets, updates and resets: should it end before the second reset, nothing of the old text is left.
#[test]
fn a_text_that_changes_takes_the_old_states_over_unless_they_are_forgotten_first() {
    let log = records(&recorded("completed"));
    for forgotten in [false, true] {
        let mut catalog = Catalog::new();
        catalog.create("states", UPDATE_STATE, false).unwrap();
        catalog.advance(0, &log);
        catalog.disable("states", true).unwrap();
        let old = catalog.state("states", STREAM).unwrap().unwrap();
        if forgotten {
            catalog.reset("states").unwrap();
        }
        let newer = UPDATE_STATE.replace("var FORMAT = 5;", "var FORMAT = 6;");
        catalog.update("states", &newer, Some(false)).unwrap();
        catalog.enable("states").unwrap();
        catalog.advance(0, &log);
        let state = catalog.state("states", STREAM).unwrap().unwrap();
        assert_eq!(
            (&state["format"], state["revision"] == old["revision"]),
            (&json!(if forgotten { 6 } else { 5 }), true)
        );
    }
}

#[test]
fn a_projection_lives_as_its_manager_lets_it() {
    let log: Vec<Record> = records(&recorded("completed"));
    let mut catalog = Catalog::new();
    catalog.create("links", CLUSTER_UPDATES, false).unwrap();
    assert_eq!(catalog.create("links", CLUSTER_UPDATES, false), Err(CatalogError::Conflict));
    catalog.advance(0, &log);
    let found = catalog.statistics("links").unwrap();
    assert_eq!((found.status.as_str(), found.reason.as_str()), ("Faulted (Enabled)", EMIT_REFUSED));
    assert_eq!((found.position.as_str(), found.progress), ("$ce-clusterUpdate: -1", -1.0));

    catalog.update("links", CLUSTER_UPDATES, Some(true)).unwrap();
    catalog.advance(0, &log);
    assert_eq!(catalog.statistics("links").unwrap().status, "Faulted (Enabled)", "until it is enabled");
    catalog.enable("links").unwrap();
    catalog.advance(0, &log);
    let found = catalog.statistics("links").unwrap();
    assert_eq!((found.status.as_str(), found.progress), ("Running", 100.0));
    assert_eq!(found.position, format!("$ce-clusterUpdate: {}", log.len() - 1));
    let links = catalog.emissions();
    assert_eq!(links.iter().map(|l| l.event.data.clone()).collect::<Vec<_>>().len(), 3);

    assert_eq!(catalog.delete("links"), Err(CatalogError::OperationFailed("it is enabled")));
    catalog.disable("links", true).unwrap();
    assert_eq!(catalog.statistics("links").unwrap().checkpoint, found.position);
    catalog.reset("links").unwrap();
    assert_eq!(catalog.statistics("links").unwrap().position, "$ce-clusterUpdate: -1");
    catalog.enable("links").unwrap();
    catalog.advance(0, &log);
    let again = catalog.emissions();
    assert_eq!(again.len(), links.len(), "after a reset links stand twice");
    assert!(again.iter().zip(&links).all(|(a, b)| a.id != b.id && a.event.data == b.event.data));

    // Without the categories there is nothing to read.
    catalog.disable("$by_category", true).unwrap();
    catalog.reset("links").unwrap();
    let more = [log.clone(), records(&recorded("rejected"))].concat();
    catalog.advance(0, &more);
    assert_eq!(catalog.statistics("links").unwrap().position, found.position);
    catalog.disable("links", false).unwrap();
    catalog.delete("links").unwrap();
    assert_eq!(catalog.statistics("links"), Err(CatalogError::NotFound));
}
