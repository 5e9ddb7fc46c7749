//! Separate processes: `sim`, a worker that is killed again and again, and others that ask and audit: a client in another language, and curl.
#![cfg(all(feature = "esdb", feature = "ec2"))]

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stage::Stage;
use uuid::Uuid;

#[path = "processes/stage.rs"]
mod stage;

#[expect(clippy::disallowed_methods, reason = "the example is a client's: the id of a new update is random")]
#[path = "rust/update.rs"]
mod rust_example;

/// Facts at which the worker is killed (with SIGKILL), each with which one of its type it is.
const DEATHS: &[(&str, usize)] =
    &[("InstanceStopRequested", 1), ("TypeModified", 2), ("InstanceStarted", 3), ("ResignationRequested", 1)];

fn python(script: &Path, line: &[&str]) -> Option<String> {
    let Some(python) = std::env::var_os("ESDB_ROLLOUT_PYTHON") else {
        eprintln!("not asked by Python: ESDB_ROLLOUT_PYTHON names no interpreter with esdbclient");
        return None;
    };
    let output = Command::new(python).arg(script).args(line).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_worker_that_is_killed_is_resumed_and_nothing_is_done_twice() {
    let stage = Stage::new(77);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/start_update.py");
    let net = stage.first.trim_end_matches('1').to_owned();
    let uri = &format!("esdb://{net}1:2177,{net}2:2177,{net}3:2177?Tls=false");
    let update = match python(&script, &[uri, "start", "sim", "m6i.xlarge"]) {
        Some(id) => id.trim().to_owned(),
        None => stage.try_run(&["start", "--cluster", "sim", "--target-type", "m6i.xlarge"]).unwrap().trim().to_owned(),
    };

    for (n, (fact, times)) in DEATHS.iter().enumerate() {
        let mut worker = stage.worker(n + 1);
        stage.until(&mut worker, n + 1, &update, fact, *times);
        drop(worker);
    }
    let mut last = stage.worker(DEATHS.len() + 1);
    stage.until(&mut last, DEATHS.len() + 1, &update, "UpdateCompleted", 1);

    let history = stage.history(&update);
    let shown: Vec<String> = history.iter().map(|e| format!("{} {}", e["type"], e["data"]["node"])).collect();
    let facts = |name: &str| history.iter().filter(|e| e["type"] == name).count();
    assert_eq!(facts("WorkerAssigned"), DEATHS.len() + 1, "{shown:#?}");
    for fact in [
        "NodeSelected",
        "InstanceStopped",
        "TypeModified",
        "InstanceStarted",
        "NodeRejoined",
        "CaughtUp",
        "NodeUpdated",
    ] {
        assert_eq!(facts(fact), 4, "each node's {fact} stands once\n{shown:#?}");
    }
    for fact in ["UpdateAccepted", "UpdatePlanned", "LeadershipTransferred", "PriorityRestored", "UpdateCompleted"] {
        assert_eq!(facts(fact), 1, "{shown:#?}");
    }

    if let Some(read) = python(&script, &[uri, "history", &update]) {
        let read: Vec<Value> = read.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let ours: Vec<(&Value, &Value)> = history.iter().map(|e| (&e["type"], &e["data"])).collect();
        let theirs: Vec<(&Value, &Value)> = read.iter().map(|e| (&e["type"], &e["data"])).collect();
        assert_eq!(theirs, ours, "the history as an official client reads it");
    }
}

/// Runs curl, and gives what it prints: the headers of each answer, and the last body.
fn curl(url: &str, headers: &[&str], data: Option<&str>) -> String {
    let mut command = Command::new("curl");
    command.args(["-sSi", "-L", "--max-time", "60", url]);
    command.args(headers.iter().flat_map(|h| ["-H", h]));
    command.args(data.into_iter().flat_map(|d| ["-d", d]));
    let output = command.output().expect("curl");
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The types of the facts of a stream from a number on; waits for one if there is none yet.
fn facts(stream: &str, from: usize) -> Vec<String> {
    let headers = ["Accept: application/vnd.eventstore.atom+json", "ES-LongPoll: 30"];
    let answer = curl(&format!("{stream}/{from}/forward/100?embed=rich"), &headers, None);
    let (_, feed) = answer.split_once("\r\n\r\n").expect("a body");
    let feed: Value = serde_json::from_str(feed).unwrap_or_else(|e| panic!("{e}: {answer}"));
    let entries = feed["entries"].as_array().expect("entries").iter().rev();
    entries.map(|e| e["eventType"].as_str().expect("a type").to_owned()).collect()
}

#[test]
fn curl_starts_steers_and_audits() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no curl");
        eprintln!("skipped: there is no curl");
        return;
    }
    let stage = Stage::new(78);
    let _worker = stage.worker(1);
    let update = "00000000-0000-4000-8000-0000000000c1";
    let stream = format!("http://{}:2177/streams/clusterUpdate-{update}", stage.first);
    let append = |event_type: &str, data: &str, more: &[&str]| {
        let event_type = format!("ES-EventType: {event_type}");
        let headers = [&["Content-Type: application/json", event_type.as_str()][..], more].concat();
        let answer = curl(&stream, &headers, Some(data));
        assert!(answer.contains("201 Created"), "{answer}");
    };
    let until = |fact: &str| {
        let mut seen = facts(&stream, 0);
        while !seen.iter().any(|f| f == fact) {
            let more = facts(&stream, seen.len());
            assert!(!more.is_empty(), "{fact} does not come after {seen:?}\n{}", stage.log("worker-1.log"));
            seen.extend(more);
        }
        seen
    };
    let request = r#"{"cluster": "sim", "targetInstanceType": "m6i.xlarge", "by": "curl"}"#;
    append("UpdateRequested", request, &["ES-ExpectedVersion: -1"]);
    until("NodeSelected");
    append("PauseRequested", r#"{"by": "curl"}"#, &[]);
    until("UpdatePaused");
    append("CancelRequested", r#"{"by": "curl", "why": "enough"}"#, &[]);
    let seen = until("UpdateCancelled");
    let history: Vec<String> =
        stage.history(update).iter().map(|e| e["type"].as_str().expect("a type").to_owned()).collect();
    assert_eq!(seen, history, "the history as curl reads it");
    // Who cancels breaks nothing off: the node that was begun is brought to its end.
    assert!(seen.iter().any(|f| f == "NodeUpdated") || !seen.iter().any(|f| f == "InstanceStopped"), "{seen:?}");
}

/// An example of `docs/events.md`: what it is called with before *start*, *pause* or *history*.
fn example(program: &str, line: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(line).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What an example prints.
fn told(mut command: Command, line: &[&str]) -> String {
    let output = command.args(line).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Starts an update, pauses it once it is under way, and compares its history with the product's own.
fn start_steer_and_audit(
    block: u8,
    start: impl Fn(&Stage) -> String,
    pause: impl Fn(&Stage, &str),
    history: impl Fn(&Stage, &str) -> Vec<(String, Value)>,
) {
    let stage = Stage::new(block);
    let mut worker = stage.worker(1);
    let update = start(&stage);
    stage.until(&mut worker, 1, &update, "NodeSelected", 1);
    pause(&stage, &update);
    stage.until(&mut worker, 1, &update, "UpdatePaused", 1);
    drop(worker);
    let ours: Vec<(String, Value)> = stage.history(&update).into_iter().map(type_and_data).collect();
    assert_eq!(ours[0].0, "UpdateRequested");
    assert!(ours.iter().any(|(name, _)| name == "PauseRequested"));
    assert_eq!(history(&stage, &update), ours, "the history as the example reads it");
}

fn type_and_data(mut event: Value) -> (String, Value) {
    (event["type"].as_str().expect("a type").to_owned(), plain(event["data"].take()))
}

/// JSON has one kind of number, and not every language writes `1.0` as it read it.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, plain(value))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
}

/// An example whose history is one event a line.
fn line_by_line(block: u8, command: impl Fn(&Stage) -> Command) {
    start_steer_and_audit(
        block,
        |stage| told(command(stage), &["start", "sim", "m6i.xlarge"]).trim().to_owned(),
        |stage, update| _ = told(command(stage), &["pause", update]),
        |stage, update| {
            let lines = told(command(stage), &["history", update]);
            lines.lines().map(|l| type_and_data(serde_json::from_str(l).expect("JSON"))).collect()
        },
    );
}

/// What a variable says; nothing, but not where CI runs.
fn given(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{variable} is not set");
        eprintln!("skipped: {variable} is not set");
    }
    value
}

fn connection(stage: &Stage) -> String {
    let net = stage.first.trim_end_matches('1');
    format!("esdb://{net}1:2177,{net}2:2177,{net}3:2177?tls=false")
}

fn node_example(block: u8, package: &str) {
    let Some(modules) = given("ESDB_ROLLOUT_NODE_MODULES") else { return };
    line_by_line(block, |stage| {
        let mut command = example("node", &["tests/node/update.js", &connection(stage)]);
        command.env("NODE_PATH", &modules).env("CLIENT", package);
        command
    });
}

#[test]
fn the_example_for_node() {
    node_example(80, "@kurrent/kurrentdb-client");
}

#[test]
fn the_example_for_node_by_its_older_name() {
    node_example(81, "@eventstore/db-client");
}

#[test]
fn the_example_for_python() {
    let Some(interpreter) = given("ESDB_ROLLOUT_PYTHON") else { return };
    line_by_line(84, |stage| example(&interpreter, &["tests/python/start_update.py", &connection(stage)]));
}

#[test]
fn the_example_for_curl() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no curl");
        eprintln!("skipped: there is no curl");
        return;
    }
    let command = |stage: &Stage| {
        let node = format!("http://{}:2177", stage.first);
        example("sh", &["tests/curl/update.sh", &node])
    };
    start_steer_and_audit(
        82,
        |stage| told(command(stage), &["start", "sim", "m6i.xlarge"]).trim().to_owned(),
        |stage, update| _ = told(command(stage), &["pause", update]),
        |stage, update| {
            let text = told(command(stage), &["history", update]);
            let pages = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
            let entries = pages.flat_map(|page| {
                let entries = page.expect("a page")["entries"].as_array().expect("entries").clone();
                entries.into_iter().rev()
            });
            let event = |entry: Value| {
                let data = entry["data"].as_str().expect("data");
                let name = entry["eventType"].as_str().expect("a type").to_owned();
                (name, plain(serde_json::from_str(data).expect("JSON")))
            };
            entries.map(event).collect()
        },
    );
}

#[test]
fn the_example_for_rust() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = |stage: &Stage| {
        let _inside = runtime.enter();
        eventstore::Client::new(connection(stage).parse().expect("a connection string")).expect("a client")
    };
    let id = |update: &str| update.parse::<Uuid>().expect("an id");
    start_steer_and_audit(
        83,
        |stage| {
            runtime.block_on(rust_example::start(&client(stage), "sim", "m6i.xlarge")).expect("a start").to_string()
        },
        |stage, update| runtime.block_on(rust_example::pause(&client(stage), id(update))).expect("a pause"),
        |stage, update| {
            let read = runtime.block_on(rust_example::history(&client(stage), id(update))).expect("a history");
            read.into_iter().map(|(name, data)| (name, plain(data))).collect()
        },
    );
}
