//! The store's projections over the wire: deployed by the command, asked by `list`, and the service as recorded.
#![cfg(all(feature = "esdb", feature = "ec2"))]

#[path = "wire_support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use esdb_rollout::esdb::{Credentials, Projections, StoreConfig};
use esdb_rollout::sim::model::{
    Direction, ExpectedRevision, ProposedEvent, ReadOutcome, StreamStart, Write, WriteOutcome,
};
use esdb_rollout::sim::wire::proto::projections as wire;
use esdb_rollout::sim::wire::proto::projections::projections_client::ProjectionsClient;
use prost_types::value::Kind;
use serde_json::{Value, json};
use support::{Cluster, PATIENCE, config};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;

const LINKS: &str = "esdb-rollout-cluster-updates";
const STATES: &str = "esdb-rollout-update-state";

struct Stage {
    cluster: Cluster,
    dir: TempDir,
}

impl Stage {
    async fn new() -> Stage {
        let cluster = Cluster::start(config("23.10.5.0")).await;
        cluster.until("a leader", |w| w.leader().is_some()).await;
        let stage = Stage { cluster, dir: tempfile::tempdir().unwrap() };
        let seeds: Vec<String> = stage.cluster.addresses.iter().map(|a| format!("\"{a}\"")).collect();
        let text = format!(
            "[store]\nconnection = \"{}\"\n[clusters.prod]\nseeds = [{}]\nvoters = 3\ntls = false\n",
            stage.cluster.voters(),
            seeds.join(", ")
        );
        std::fs::write(stage.dir.path().join("esdb-rollout.toml"), text).unwrap();
        stage
    }

    async fn run(&self, line: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"));
        command.args(line).env("ESDB_ROLLOUT_CONFIG", self.dir.path().join("esdb-rollout.toml"));
        command.env("RUST_LOG", "error,esdb_rollout=debug").stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.expect("an end").expect("a run");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    async fn actions(&self, line: &[&str]) -> (i32, BTreeMap<String, (String, String)>) {
        let (code, stdout, stderr) = self.run(line).await;
        let row = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {stdout}\n{stderr}"));
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            (text("name"), (text("action"), text("status")))
        };
        (code, stdout.lines().map(row).collect())
    }

    async fn service(&self, n: usize) -> ProjectionsClient<Channel> {
        ProjectionsClient::connect(self.cluster.http(n, "")).await.expect("a connection")
    }

    /// Appends events at the leader.
    async fn append(&self, stream: &str, events: &[(String, Value, Value)]) {
        let leader = self.cluster.leader();
        for (event_type, data, metadata) in events {
            let proposed = ProposedEvent {
                id: Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{stream} {event_type} {data} {metadata}").as_bytes()),
                event_type: event_type.clone(),
                is_json: true,
                data: data.to_string().into_bytes(),
                metadata: metadata.to_string().into_bytes(),
            };
            let write = Write::Append(vec![proposed]);
            let done = self.cluster.world.write(leader, true, stream, ExpectedRevision::Any, write).await;
            assert!(matches!(done, WriteOutcome::Done { .. }), "{done:?}");
        }
    }

    /// The links of a stream, once there are so many.
    async fn links(&self, stream: &str, count: usize) -> Vec<String> {
        let leader = self.cluster.leader();
        let read = |w: &mut esdb_rollout::sim::world::World| match w.read_stream(
            leader,
            true,
            stream,
            StreamStart::Start,
            Direction::Forwards,
            1000,
        ) {
            ReadOutcome::Found(page) => page.records,
            ReadOutcome::NoStream | ReadOutcome::StreamDeleted | ReadOutcome::NotHandled(_) => Vec::new(),
        };
        self.cluster.until("the links", |w| read(w).len() >= count).await;
        let found = self.cluster.world.with(read);
        assert!(found.iter().all(|r| r.event_type == "$>" && !r.is_json));
        found.into_iter().map(|r| String::from_utf8(r.data).unwrap()).collect()
    }
}

fn history(name: &str) -> Vec<(String, Value, Value)> {
    let path = format!("{}/tests/projections/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["type"].as_str().unwrap().to_owned(), line["data"].clone(), line["metadata"].clone())
    };
    text.lines().map(line).collect()
}

fn update(number: u128) -> (Uuid, String) {
    let id = Uuid::from_u128(0xfeed_0000 + number);
    (id, format!("clusterUpdate-{id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deployed_stays_and_what_is_changed_or_faulted_is_mended() {
    let stage = Stage::new().await;
    let (code, missing) = stage.actions(&["projections", "status", "--output", "json"]).await;
    assert_eq!((code, missing[STATES].1.as_str(), missing["$by_category"].1.as_str()), (1, "missing", "Running"));

    // The events are there first: the projection that emits meets them before it may.
    let (_, stream) = update(1);
    stage.append(&stream, &history("completed")).await;
    let told = |action: &str| {
        let row = (action.to_owned(), "Running".to_owned());
        (0, BTreeMap::from([(STATES.to_owned(), row.clone()), (LINKS.to_owned(), row)]))
    };
    let deploy = ["projections", "deploy", "--output", "json"];
    assert_eq!(stage.actions(&deploy).await, told("created"));
    let links = stage.links("clusterUpdates-prod", 3).await;
    assert_eq!(links, [format!("0@{stream}"), format!("2@{stream}"), format!("49@{stream}")]);
    assert_eq!(stage.actions(&deploy).await, told("unchanged"));

    // Somebody takes the right to emit away.
    let mut service = stage.service(stage.cluster.leader()).await;
    let text = include_str!("../projections/cluster-updates.js");
    let change = |query: &str| wire::UpdateReq {
        options: Some(wire::update_req::Options {
            name: LINKS.to_owned(),
            query: query.to_owned(),
            emit_option: Some(wire::update_req::options::EmitOption::EmitEnabled(false)),
        }),
    };
    service.update(change(text)).await.unwrap();
    let (_, other) = update(2);
    stage.append(&other, &history("rejected")).await;
    let (code, stdout, _) = stage.run(&["projections", "status"]).await;
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("Faulted (Enabled)"), "{stdout}");
    let reason = format!("{LINKS}: 'emit' is not allowed by the projection/configuration/mode");
    assert!(stdout.contains(&reason), "{stdout}");
    let (code, rows) = stage.actions(&deploy).await;
    assert_eq!((code, rows[LINKS].0.as_str(), rows[STATES].0.as_str()), (0, "allowed to emit", "unchanged"));
    assert_eq!(stage.links("clusterUpdates-prod", 4).await.len(), 4);

    // Another text stands there: it begins anew, and the links stand twice.
    service.update(change(&format!("// older\n{text}"))).await.unwrap();
    let (code, rows) = stage.actions(&deploy).await;
    assert_eq!((code, rows[LINKS].0.as_str()), (0, "changed"));
    let links = stage.links("clusterUpdates-prod", 8).await;
    assert_eq!(links[..4], links[4..]);
    assert_eq!(stage.actions(&deploy).await, told("unchanged"));

    // A text that cannot be loaded, and one that somebody stopped.
    service.update(change("fromAll(")).await.unwrap();
    service.disable(wire::DisableReq { options: Some(disable(STATES)) }).await.unwrap();
    let (code, stdout, _) = stage.run(&["projections", "status"]).await;
    assert!(code == 1 && stdout.contains(&format!("{LINKS}: its text cannot be loaded")), "{stdout}");
    let (code, rows) = stage.actions(&deploy).await;
    assert_eq!((code, rows[LINKS].0.as_str(), rows[STATES].0.as_str()), (0, "changed", "started"));
    assert_eq!(stage.actions(&deploy).await, told("unchanged"));

    // Without the categories nothing comes in: said, and not changed.
    service.disable(wire::DisableReq { options: Some(disable("$by_category")) }).await.unwrap();
    let (code, _, stderr) = stage.run(&deploy).await;
    assert_eq!(code, 0);
    assert!(stderr.contains("$by_category is Stopped"), "{stderr}");
    stage.cluster.wire.shutdown().await;
}

fn disable(name: &str) -> wire::disable_req::Options {
    wire::disable_req::Options { name: name.to_owned(), write_checkpoint: true }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_is_told_who_has_it() {
    let (cluster, ca) = Cluster::start_secure(config("23.10.5.0"), |_| vec!["127.0.0.1".to_owned()]).await;
    cluster.until("a leader", |w| w.leader().is_some()).await;
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let hosts: Vec<String> = cluster.addresses[..3].iter().map(ToString::to_string).collect();
    for (user, password, may) in [("worker", "W0rker-secret", false), ("operator", "Op3rator-secret", true)] {
        let projections = Projections::new(&StoreConfig {
            connection: format!("esdb://{}?tls=true", hosts.join(",")),
            ca_file: Some(ca_file.clone()),
            credentials: Some(Credentials::new(user, password)),
            connection_name: String::new(),
        });
        let leader = projections.unwrap().leader().await.unwrap();
        let created = leader.create("a", UP_STATE).await.map_err(|e| e.to_string());
        if may {
            assert_eq!(created, Ok(()));
            let text = leader.text("a").await.unwrap().expect("a text");
            assert_eq!((text.text.as_str(), text.emit), (UP_STATE, false));
        } else {
            let error = created.unwrap_err();
            assert!(error.contains("the store refuses Create a") && error.contains("$admins or $ops"), "{error}");
            assert!(!error.contains(password), "{error}");
        }
        assert_eq!(leader.status("nobody").await.unwrap(), None);
        assert_eq!(leader.state("nobody", "").await.unwrap(), None);
    }
    cluster.wire.shutdown().await;
}

/// Lines of `list`, without what the clock alone moves.
fn without_seconds(lines: &str) -> Vec<Value> {
    let parse = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if line["verdict"] == "running" {
            line["seconds"] = Value::Null;
            line["waiting"]["detail"] = Value::Null;
            for node in line["nodes"].as_array_mut().into_iter().flatten() {
                node["seconds"] = Value::Null;
            }
        }
        line
    };
    lines.lines().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_the_same_from_the_projection_and_from_the_streams() {
    let stage = Stage::new().await;
    let cut = |mut events: Vec<_>, at: usize| {
        events.truncate(at);
        events
    };
    let stranger = ("SomethingElse".to_owned(), json!(5), Value::Null);
    let streams = [
        history("completed"),
        history("rolled-back"),
        history("paused-and-cancelled"),
        // In hand, and halfway.
        cut(history("completed"), 8),
        cut(history("completed"), 4),
        // Nobody has taken it.
        cut(history("completed"), 1),
        // Something that the projection does not vouch for.
        [cut(history("completed"), 6), vec![stranger]].concat(),
    ];
    for (number, events) in streams.iter().enumerate() {
        let (id, stream) = update(number as u128);
        stage.append(&stream, events).await;
        for event_type in ["UpdateAdmitted", "UpdateReleased"] {
            stage.append("updatedCluster-prod", &[(event_type.to_owned(), json!({ "update": id }), Value::Null)]).await;
        }
    }
    let list = ["list", "--cluster", "prod", "--output", "json"];
    let read = [&list[..], &["--no-projections"]].concat();
    let told = |stderr: &str| stderr.matches("told by the projection").count();

    let (code, folded, stderr) = stage.run(&read).await;
    assert_eq!((code, told(&stderr)), (0, 0), "{stderr}");
    assert_eq!(folded.lines().count(), streams.len());
    let (code, before, stderr) = stage.run(&list).await;
    assert_eq!((code, told(&stderr)), (0, 0), "no projection runs: {stderr}");
    assert_eq!(without_seconds(&before), without_seconds(&folded));

    stage.actions(&["projections", "deploy", "--output", "json"]).await;
    let (code, projected, stderr) = stage.run(&list).await;
    assert_eq!((code, told(&stderr)), (0, streams.len() - 1), "{stderr}");
    assert_eq!(without_seconds(&projected), without_seconds(&folded));

    // One event that the projection does not see any more.
    let mut service = stage.service(stage.cluster.leader()).await;
    service.disable(wire::DisableReq { options: Some(disable("$by_category")) }).await.unwrap();
    stage.append(&update(5).1, &history("completed")[1..2]).await;
    let (_, folded, _) = stage.run(&read).await;
    let (code, projected, stderr) = stage.run(&list).await;
    assert_eq!((code, told(&stderr)), (0, streams.len() - 2), "{stderr}");
    assert_eq!(without_seconds(&projected), without_seconds(&folded));
    stage.cluster.wire.shutdown().await;
}

// What was created when the answers were recorded is not among them; these texts make the same answers.
const UP_STATE: &str = "fromCategory('clusterUpdate').foreachStream().when({
    $init: function () { return { n: 0, types: [] }; },
    UpdateRequested: function (s, e) {
        s.n += 1; s.status = 'requested'; s.cluster = e.body.cluster; linkTo('clusterUpdates-' + e.body.cluster, e); return s;
    },
    NodeSelected: function (s, e) {
        s.n += 1; s.types.push(e.eventType); s.meta = null; s.seq = e.sequenceNumber; s.stream = e.streamId;
        return s;
    },
    UpdateCompleted: function (s, e) {
        s.n += 1; s.status = 'completed'; emit('fleet', 'UpdateSummarised', { id: e.streamId }, { $correlationId: 'x' }); return s;
    }
}).outputState()";
const THROWER: &str = "fromCategory('clusterUpdate').when({ NodeSelected: function () { throw new Error('boom'); } })";
const SUMMARY: &str = "options({ resultStreamName: 'my-result' });
fromCategory('clusterUpdate').when({
    $init: function () { return { count: 0, by: {} }; },
    $any: function (s, e) { s.count += 1; s.by[e.eventType] = (s.by[e.eventType] || 0) + 1; return s; }
}).transformBy(function (s) { return { Total: s.count, By: s.by }; }).outputState()";

/// Recorded lines that are not replayed, each with its reason.
const NOT_REPLAYED: &[(&str, &str)] = &[
    ("read clusterUpdates-prod", "it is compared by its data below"),
    ("read fleet", "the same"),
    ("read my-result", "the same"),
    (
        "read $projections-up-state-clusterUpdate-7eaf0baa-a637-4e2b-b7d6-08d1ca90393d-result",
        "the keys that it shows are the recorder's",
    ),
    ("read $projections-up-state-result", "links to partitions' results are not simulated"),
    ("read $projections-summary-result", "the same as my-result"),
];

fn shown(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => b.into(),
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(s)) => s.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(shown).collect(),
        Some(Kind::StructValue(s)) => Value::Object(s.fields.into_iter().map(|(k, v)| (k, shown(v))).collect()),
    }
}

/// A recorded `google.protobuf.Value` as plain JSON, numbers with a fraction as the service has them. `keys` is the recorder's own.
fn plain(value: &Value) -> Value {
    match value["kind"].as_str().or_else(|| value.as_object().and_then(|m| m.keys().next().map(String::as_str))) {
        Some("structValue") => {
            let fields = value["structValue"]["fields"].as_object().cloned().unwrap_or_default();
            Value::Object(fields.iter().filter(|(k, _)| *k != "keys").map(|(k, v)| (k.clone(), plain(v))).collect())
        }
        Some("listValue") => value["listValue"]["values"].as_array().into_iter().flatten().map(plain).collect(),
        Some("numberValue") => value["numberValue"].as_f64().into(),
        Some("stringValue") => value["stringValue"].clone(),
        Some("nullValue") => Value::Null,
        other => panic!("{other:?} in {value}"),
    }
}

fn refused(status: &Status) -> Value {
    json!({ "code": i32::from(status.code()), "details": status.message() })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_answers_as_recorded() {
    let stage = Stage::new().await;
    let recording = include_str!("recorded/projections-23.10.5.jsonl");
    let recording: Vec<Value> = recording.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let streams = ["7eaf0baa-a637-4e2b-b7d6-08d1ca90393d", "079a7397-c0c6-4a0e-b032-c9981c419f17"]
        .map(|id| format!("clusterUpdate-{id}"));
    for stream in &streams {
        let event = |event_type: &str, data| (event_type.to_owned(), data, Value::Null);
        let events = [
            event("UpdateRequested", json!({ "cluster": "prod" })),
            event("NodeSelected", json!({})),
            event("UpdateCompleted", json!({})),
        ];
        stage.append(stream, &events).await;
    }
    let mut leader = stage.service(stage.cluster.leader()).await;
    let mut follower = stage.service(stage.cluster.follower()).await;
    let mut replayed = 0;
    for line in &recording {
        let case = line["case"].as_str().unwrap();
        if NOT_REPLAYED.iter().any(|(c, _)| *c == case) {
            continue;
        }
        let found = answer(&mut leader, &mut follower, case, &streams[0]).await;
        let mut found = found.unwrap_or_else(|status| refused(&status));
        let mut expected = match line.get("ok") {
            Some(ok) if ok.get("state").is_some() => json!({ "ok": plain(&ok["state"]) }),
            Some(ok) if ok.get("result").is_some() => json!({ "ok": plain(&ok["result"]) }),
            Some(Value::Array(list)) => {
                let mut details = list[0]["details"].clone();
                // Times, caches and identities of one server's run.
                for key in
                    ["coreProcessingTime", "partitionsCached", "epoch", "version", "lastCheckpoint", "effectiveName"]
                {
                    details.as_object_mut().unwrap().remove(key);
                }
                details["progress"] = details["progress"].as_f64().into();
                json!({ "ok": details })
            }
            Some(ok) => json!({ "ok": ok }),
            None if line["code"] == 4 => json!({ "code": 4 }),
            None => json!({ "code": line["code"], "details": line["details"] }),
        };
        if case == "statistics of the thrower" {
            // The server shows the position before its page of events, and the progress within it; here there are no pages.
            for shown in [&mut found, &mut expected] {
                let details = shown["ok"].as_object_mut().expect("details");
                details
                    .retain(|key, _| !["position", "progress", "eventsProcessedAfterRestart"].contains(&key.as_str()));
            }
        }
        assert_eq!(found, expected, "{case}");
        replayed += 1;
    }
    assert_eq!(replayed + NOT_REPLAYED.len(), recording.len());

    for (stream, case) in
        [("clusterUpdates-prod", "read clusterUpdates-prod"), ("fleet", "read fleet"), ("my-result", "read my-result")]
    {
        let line = recording.iter().find(|l| l["case"] == case).unwrap();
        let data = |e: &Value| e["event"].get("link").unwrap_or(&e["event"]["event"])["data"].clone();
        let expected: Vec<Value> = line["out"].as_array().unwrap().iter().map(data).collect();
        let reader = stage.cluster.leader();
        let read = |w: &mut esdb_rollout::sim::world::World| match w.read_stream(
            reader,
            true,
            stream,
            StreamStart::Start,
            Direction::Forwards,
            100,
        ) {
            ReadOutcome::Found(page) => page.records,
            ReadOutcome::NoStream | ReadOutcome::StreamDeleted | ReadOutcome::NotHandled(_) => Vec::new(),
        };
        stage.cluster.until(case, |w| read(w).len() >= expected.len()).await;
        let found = stage.cluster.world.with(read).into_iter();
        let found: Vec<Value> = found.map(|r| String::from_utf8(r.data).unwrap().into()).collect();
        assert_eq!(found, expected, "{stream}");
    }
    stage.cluster.wire.shutdown().await;
}

/// Sends what belongs to a recorded case.
async fn answer(
    leader: &mut ProjectionsClient<Channel>,
    follower: &mut ProjectionsClient<Channel>,
    case: &str,
    partition: &str,
) -> Result<Value, Status> {
    let ok = json!({ "ok": {} });
    let name = match case {
        c if c.contains("thrower") || c == "create one that throws" => "thrower",
        c if c.contains("bad one") || c == "create with syntax error" => "bad",
        c if c.contains("q2") => "summary",
        c if c.contains("missing") => "missing",
        _ => "up-state",
    }
    .to_owned();
    let create = |text: &str| wire::CreateReq {
        options: Some(wire::create_req::Options {
            query: text.to_owned(),
            mode: Some(wire::create_req::options::Mode::Continuous(wire::create_req::options::Continuous {
                name: name.clone(),
                ..Default::default()
            })),
        }),
    };
    let state = |partition: &str| wire::StateReq {
        options: Some(wire::state_req::Options { name: name.clone(), partition: partition.to_owned() }),
    };
    let result = |partition: &str| wire::ResultReq {
        options: Some(wire::result_req::Options { name: name.clone(), partition: partition.to_owned() }),
    };
    match case {
        "create continuous" | "create again, same name" => drop(leader.create(create(UP_STATE)).await?),
        "create with syntax error" => drop(leader.create(create("fromAll(")).await?),
        "create one that throws" => drop(leader.create(create(THROWER)).await?),
        "create q2" => drop(leader.create(create(SUMMARY)).await?),
        "update with emit" => {
            let emit_option = Some(wire::update_req::options::EmitOption::EmitEnabled(true));
            let options = wire::update_req::Options { name, query: UP_STATE.to_owned(), emit_option };
            leader.update(wire::UpdateReq { options: Some(options) }).await?;
        }
        "enable" => {
            leader.enable(wire::EnableReq { options: Some(wire::enable_req::Options { name }) }).await?;
        }
        "disable" => drop(leader.disable(wire::DisableReq { options: Some(disable(&name)) }).await?),
        "reset" => {
            let options = wire::reset_req::Options { name, write_checkpoint: true };
            leader.reset(wire::ResetReq { options: Some(options) }).await?;
        }
        "delete" | "delete while enabled" => {
            let options = wire::delete_req::Options { name, ..Default::default() };
            leader.delete(wire::DeleteReq { options: Some(options) }).await?;
        }
        "state of partition" => return leader.state(state(partition)).await.map(|a| told(a.into_inner().state)),
        "state without partition" | "q2 state" | "state of missing projection" => {
            return leader.state(state("")).await.map(|a| told(a.into_inner().state));
        }
        "state of unknown partition" => return leader.state(state("nobody")).await.map(|a| told(a.into_inner().state)),
        "result of partition" => return leader.result(result(partition)).await.map(|a| told(a.into_inner().result)),
        "q2 result" => return leader.result(result("")).await.map(|a| told(a.into_inner().result)),
        "create on follower with requires-leader" | "create on follower without" | "state on follower" => {
            // The follower never answers: the client's own deadline ends the call.
            let short = Duration::from_millis(500);
            let ended = if case == "state on follower" {
                timeout(short, follower.state(state(""))).await.map(|_| ())
            } else {
                timeout(short, follower.create(create(UP_STATE))).await.map(|_| ())
            };
            assert!(ended.is_err(), "{case}");
            return Ok(json!({ "code": i32::from(Code::DeadlineExceeded) }));
        }
        c if c.contains("statistics") => {
            let mode = Some(wire::statistics_req::options::Mode::Name(name));
            let request = wire::StatisticsReq { options: Some(wire::statistics_req::Options { mode }) };
            let mut stream = leader.statistics(request).await?.into_inner();
            let d = stream.message().await?.expect("an answer").details.expect("details");
            let mut shown = json!({ "status": d.status, "name": d.name, "mode": d.mode, "position": d.position, "progress": d.progress });
            if !d.state_reason.is_empty() {
                shown["stateReason"] = d.state_reason.into();
            }
            if d.events_processed_after_restart > 0 {
                shown["eventsProcessedAfterRestart"] = d.events_processed_after_restart.to_string().into();
            }
            return Ok(json!({ "ok": shown }));
        }
        other => panic!("neither replayed nor excused: {other}"),
    }
    Ok(ok)
}

fn told(value: Option<prost_types::Value>) -> Value {
    json!({ "ok": shown(value.expect("a value")) })
}
