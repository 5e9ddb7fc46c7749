//! The commands as a person runs them, against a simulated cluster on loopback ports.
#![cfg(all(feature = "esdb", feature = "ec2"))]

mod wire_support;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use esdb_rollout::sim::model::{ExpectedRevision, WorldConfig, Write, WriteOutcome};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use wire_support::{Cluster, config, free_addresses};

/// Longest that one command may take; an update of three nodes takes about half a minute of real gossip.
const PATIENCE: Duration = Duration::from_secs(180);

struct Stage {
    cluster: Cluster,
    dir: TempDir,
}

impl Stage {
    async fn new() -> Stage {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut WorldConfig)) -> Stage {
        let mut world = config("23.10.5.0");
        world.replicas = 0;
        world.addresses.truncate(3);
        world.names.truncate(3);
        change(&mut world);
        let cluster = Cluster::start(world).await;
        cluster.until("a leader", |w| w.leader().is_some()).await;
        let stage = Stage { cluster, dir: tempfile::tempdir().expect("a directory") };
        std::fs::write(stage.file(), stage.configuration()).expect("the configuration");
        stage
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("esdb-rollout.toml")
    }

    fn configuration(&self) -> String {
        let (ec2, addresses) = (self.cluster.wire.ec2_endpoint().expect("EC2 is served"), &self.cluster.addresses);
        let seeds: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
        let mut text = format!(
            "[store]\nconnection = \"{}\"\n\n[clusters.prod]\nseeds = [{}]\nvoters = 3\ntls = false\n\
             aws = {{ region = \"eu-west-1\", endpoint = \"http://{ec2}\" }}\n",
            self.cluster.voters(),
            seeds.join(", ")
        );
        for (n, address) in addresses.iter().enumerate() {
            let instance = self.cluster.world.with(|w| w.instance_of(n).clone());
            text.push_str(&format!(
                "[clusters.prod.nodes.esdb-{}]\ninstance_id = \"{instance}\"\naddress = \"{address}\"\n",
                n + 1
            ));
        }
        text
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"));
        command.args(line).env("ESDB_ROLLOUT_CONFIG", self.file()).env("USER", "ada").env_remove("RUST_LOG");
        command.env("AWS_ACCESS_KEY_ID", "simulated").env("AWS_SECRET_ACCESS_KEY", "simulated");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, line: &[&str]) -> (i32, String, String) {
        let output =
            timeout(PATIENCE, self.command(line).output()).await.unwrap_or_else(|_| panic!("never ended: {line:?}"));
        told(output.expect("the command runs"))
    }

    /// Runs a command that must succeed, and gives its stdout.
    async fn data(&self, line: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(line).await;
        assert_eq!(code, 0, "{line:?}\n{stdout}\n{stderr}");
        stdout
    }

    fn worker(&self) -> Child {
        self.worker_named("w1")
    }

    fn worker_named(&self, name: &str) -> Child {
        let mut command = self.command(&["worker", "--name", name, "--log-format", "json"]);
        command.stderr(std::fs::File::create(self.dir.path().join("worker.log")).expect("a log"));
        command.spawn().expect("a worker")
    }

    /// Asks for the status until it is so.
    async fn until(&self, id: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        let looked = async {
            loop {
                let status = json(&self.data(&["status", id, "--output", "json"]).await);
                if so(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("never so: {what}\n{}", self.worker_log()))
    }

    fn worker_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("worker.log")).expect("the worker's log")
    }
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_update_by_command_line() {
    let stage = Stage::new().await;

    // A worker does not begin before somebody said from where requests are obeyed.
    let (code, _, stderr) = stage.run(&["worker", "--name", "w1"]).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("esdb-rollout init"), "{stderr}");

    let dry = stage.data(&["init", "--dry-run"]).await;
    assert!(dry.contains("would set the checkpoint at C:"), "{dry}");
    let old = stage.data(&["start", "--cluster", "prod", "--target-type", "m6i.xlarge"]).await;
    let (code, set, stderr) = stage.run(&["init"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(set.contains("the checkpoint stands at C:") && set.contains("$maxCount 1"), "{set}");
    assert!(set.contains(old.trim()) && stderr.contains("1 found"), "the request of before is listed: {set}{stderr}");
    let again = stage.data(&["init"]).await;
    assert!(again.contains("it was not moved") && !again.contains("$maxCount"), "{again}");

    let mut worker = stage.worker();
    let line = [
        "start",
        "--target-type",
        "m6i.xlarge",
        "--why",
        "more memory",
        "--wait",
        "--timeout",
        "170",
        "--output",
        "json",
    ];
    let (code, stdout, stderr) = stage.run(&line).await;
    assert_eq!(code, 0, "{stdout}\n{stderr}\n{}", stage.worker_log());
    let done = json(&stdout);
    assert_eq!((done["verdict"].as_str(), done["by"].as_str()), (Some("completed"), Some("ada")));
    assert_eq!((&done["notRunning"], done["nodes"].as_array().map(Vec::len)), (&Value::Array(vec![]), Some(3)));
    assert!(
        done["nodes"]
            .as_array()
            .is_some_and(|n| n.iter().all(|n| n["type"] == "m6i.xlarge" && n["result"] == "updated"))
    );
    assert_eq!(done["nodes"][2]["roleAtSelection"], "Leader", "the leader last");
    assert!(
        stderr.contains("UpdatePlanned") && stderr.contains("UpdateCompleted"),
        "events are told meanwhile: {stderr}"
    );
    let id = done["update"].as_str().expect("an id").to_owned();

    let history = stage.data(&["history", &id, "--output", "json"]).await;
    let events: Vec<Value> = history.lines().map(json).collect();
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event["revision"], n);
        let keys: Vec<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["at", "data", "metadata", "revision", "type"]);
    }
    assert_eq!((&events[0]["type"], &events[0]["data"]["why"]), (&"UpdateRequested".into(), &"more memory".into()));
    let table = stage.data(&["history", &id]).await;
    assert_eq!(table.lines().count(), events.len() + 1);

    let status = stage.data(&["status", "--cluster", "prod"]).await;
    assert!(status.contains("completed") && status.contains(&id), "{status}");
    let (code, _, _) = stage.run(&["status", &id, "--exit-code"]).await;
    assert_eq!(code, 0);
    let article = json(&stage.data(&["status", &id, "--output", "article"]).await);
    assert_eq!(article["ClusterUpdateStatus"], "Success");
    assert_eq!(article["EventStoreNodeUpdates"][0]["NodeUpdateStatusDetail"], "Success");

    // Commands to an update that has ended are refused without being written.
    let (code, _, stderr) = stage.run(&["pause", &id]).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("has ended: completed"), "{stderr}");

    // A second one: every node has its type, so it waits for nobody; paused first, it waits for us.
    let line = ["start", "--strategy", "Ec2InstanceRestart", "--gates", "afterFirst", "--wait", "--output", "json"];
    let (code, stdout, stderr) = stage.run(&line).await;
    assert_eq!(code, 7, "{stdout}\n{stderr}");
    let waiting = json(&stdout);
    assert_eq!(
        (waiting["verdict"].as_str(), waiting["waiting"]["code"].as_str()),
        (Some("parked"), Some("approvalAwaited"))
    );
    let second = waiting["update"].as_str().expect("an id").to_owned();
    stage.data(&["pause", &second, "--why", "lunch"]).await;
    let (code, _, stderr) = stage.run(&["pause", &second]).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("alreadyPaused"), "{stderr}");
    let (code, _, stderr) = stage.run(&["approve", &second]).await;
    assert_eq!(code, 2, "{stderr}");
    let answers = stderr.rsplit_once("--answers ").expect("what to type").1.trim().to_owned();
    stage.data(&["approve", &second, "--answers", &answers]).await;
    stage.data(&["cancel", &second]).await;
    let (code, stdout, stderr) = stage.run(&["watch", &second, "--timeout", "60"]).await;
    assert_eq!(code, 6, "{stdout}\n{stderr}");
    assert!(stdout.contains("UpdateCancelled") && stdout.contains("cancelled after"), "{stdout}");

    let list = stage.data(&["list", "--output", "json"]).await;
    let ids: Vec<String> = list.lines().map(|l| json(l)["update"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids, [second.as_str(), &id], "newest first, and only what was admitted");
    // One that the store does not show any more is named, and the others are told all the same.
    let leader = stage.cluster.world.with(|w| w.leader()).expect("a leader");
    let stream = format!("clusterUpdate-{id}");
    let gone = stage.cluster.world.write(leader, true, &stream, ExpectedRevision::Any, Write::Tombstone).await;
    assert!(matches!(gone, WriteOutcome::Done { .. }), "{gone:?}");
    let (code, stdout, stderr) = stage.run(&["list"]).await;
    assert_eq!((code, stdout.contains(&second)), (1, true), "{stdout}\n{stderr}");
    assert!(stderr.contains(&format!("update {id} of prod: the store refuses the read")), "{stderr}");

    let log = stage.worker_log();
    assert!(!log.contains("tlsCAFile"), "it warns of what nobody gave: {log}");

    // SIGTERM: nothing is in hand, so it ends at once, and well.
    let pid = worker.id().expect("a process").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs").success());
    let ended = timeout(Duration::from_secs(20), worker.wait()).await.expect("it ends").expect("its status");
    assert_eq!(ended.code(), Some(0), "{}", stage.worker_log());
    stage.cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_person_is_told() {
    let stage = Stage::new().await;
    let (_, early, stderr) = stage.run(&["start", "--target-type", "m6i.large"]).await;
    assert!(stderr.contains("never initialised"), "{stderr}");
    let early = early.trim();
    assert!(stage.data(&["status", early]).await.contains("storeNotInitialised"));
    stage.data(&["init"]).await;
    let told = stage.data(&["status", early]).await;
    assert!(told.contains("askedTooEarly") && told.contains("not begun"), "{told}");

    let (code, stdout, stderr) = stage.run(&["start", "--cluster", "prdo", "--target-type", "m6i.xlarge"]).await;
    assert!(code == 0 && stderr.contains("cluster prdo is not in the configuration here, which has prod"), "{stderr}");
    let elsewhere = stdout.trim().to_owned();

    let (code, stdout, stderr) =
        stage.run(&["start", "--target-type", "m6i.xlarge", "--wait", "--timeout", "12"]).await;
    assert_eq!(code, 8, "{stdout}\n{stderr}");
    assert!(!stderr.contains("never initialised"), "{stderr}");
    assert!(stderr.contains("no worker has been heard for 10 s"), "{stderr}");
    let id = stdout.lines().next().expect("the id").to_owned();
    let (code, stdout, _) = stage.run(&["status", &id, "--exit-code"]).await;
    assert_eq!(code, 1, "it runs by itself, as far as anybody knows");
    assert!(stdout.contains("noWorker"), "{stdout}");
    let list = stage.data(&["list"]).await;
    assert!(list.contains(&id) && list.contains("not begun"), "{list}");
    assert!(
        !list.contains(early) && !list.contains(&elsewhere),
        "one is obeyed by nobody, one is another cluster's: {list}"
    );
    let of_cluster = stage.data(&["status", "--cluster", "prod"]).await;
    assert!(of_cluster.contains(&id), "{of_cluster}");
    let (code, stdout, stderr) = stage.run(&["pause", &id]).await;
    assert_eq!((code, stdout.trim()), (0, "1"), "{stderr}");
    assert!(stderr.contains("no worker has answered"), "{stderr}");
    stage.cluster.wire.shutdown().await;
}

/// At night the machine of the only worker dies while a node is stopped: whoever looks must see it.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_is_told_that_the_worker_is_silent_and_a_node_is_down() {
    // Long enough for the worker to be killed in between.
    let stage = Stage::with(|world| world.ec2_stop = Duration::from_secs(15)).await;
    stage.data(&["init"]).await;
    let mut worker = stage.worker();
    let id = stage.data(&["start", "--target-type", "m6i.xlarge"]).await.trim().to_owned();
    let status = stage.until(&id, "a node is down", |s| s["notRunning"] != Value::Array(vec![])).await;
    worker.kill().await.expect("it is killed");
    let down = status["notRunning"][0].as_str().expect("a node").to_owned();
    assert!(status.get("workerSilentSeconds").is_none(), "{status}");

    let watch = stage.command(&["watch", &id]).spawn().expect("a watch");
    let status = stage.until(&id, "it is silent", |s| s["workerSilentSeconds"].as_f64() > Some(19.0)).await;
    assert_eq!((status["verdict"].as_str(), status["worker"].as_str()), (Some("running"), Some("w1")));
    let says = "has not been heard for";
    let (table, list) = (stage.data(&["status", &id]).await, stage.data(&["list"]).await);
    for told in [&table, &list] {
        assert!(told.contains(says) && told.contains(&format!("NOT RUNNING by its last fact: {down}")), "{told}");
    }
    let (code, _, stderr) = stage.run(&["cancel", &id]).await;
    assert!(code == 0 && stderr.contains(says), "{stderr}");
    let table = stage.data(&["status", &id]).await;
    assert!(table.contains("to be cancelled"), "{table}");
    let (code, _, stderr) = stage.run(&["retry", &id]).await;
    assert!(code == 3 && stderr.contains("is being cancelled"), "{code}: {stderr}");

    // The watch has listened for itself by now; Ctrl-C ends it, and says that nothing else ends.
    let pid = watch.id().expect("a process").to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.expect("kill runs").success());
    let (code, stdout, stderr) =
        told(timeout(PATIENCE, watch.wait_with_output()).await.expect("it ends").expect("told"));
    assert_eq!(code, 130, "{stdout}\n{stderr}");
    assert!(stderr.contains(says) && stderr.contains("the update goes on"), "{stderr}");

    let successor = stage.worker_named("w2");
    let (code, stdout, stderr) = stage.run(&["watch", &id]).await;
    assert_eq!(code, 6, "cancelled, every node runs\n{stdout}\n{stderr}\n{}", stage.worker_log());
    drop(successor);
    stage.cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_ends_with_its_code_and_a_remedy() {
    let stage = Stage::new().await;
    let nobody = free_addresses(1);
    let nobody = format!("esdb://{}?tls=false", nobody[0]);
    let unknown = "6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6";
    let table: [(&[&str], i32, &str); 8] = [
        (&["status", unknown], 1, "there is no update"),
        (&["history", unknown], 1, "there is no update"),
        (&["status", "prod"], 2, "esdb-rollout list"),
        (&["status", "--cluster", "test"], 1, "has had no update"),
        (&["start"], 3, "targetTypeMissing"),
        (&["start", "--strategy", "Ec2InstanceRestart", "--from", "/nonexistent.json"], 2, "cannot be read"),
        (&["status", unknown, "--store", &nobody], 9, "check the connection string"),
        (&["status", unknown, "--store", "http://a"], 2, "change the scheme"),
    ];
    for (line, code, says) in table {
        let (found, stdout, stderr) = stage.run(line).await;
        assert_eq!(found, code, "{line:?}\n{stdout}\n{stderr}");
        assert!(stderr.contains(says) && stdout.is_empty(), "{line:?}: {stderr}");
    }
    // One line, which names the host: not the client library's lines about its tries.
    let (_, _, stderr) = stage.run(&["status", unknown, "--store", &nobody]).await;
    let host = nobody.trim_start_matches("esdb://").trim_end_matches("?tls=false");
    assert!(stderr.lines().count() == 1 && stderr.contains(host), "{stderr}");
    std::fs::write(stage.file(), "[stoer]\n").expect("a configuration");
    let (code, _, stderr) = stage.run(&["list"]).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("esdb-rollout.toml: stoer: expected one of store, clusters"), "{stderr}");
    stage.cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_is_no_fault() {
    let stage = Stage::new().await;
    let id = stage.data(&["start", "--target-type", "m6i.xlarge"]).await;
    let mut watch = stage.command(&["watch", id.trim()]).spawn().expect("a watch");
    let mut lines = BufReader::new(watch.stdout.take().expect("its stdout")).lines();
    let first = timeout(PATIENCE, lines.next_line()).await.expect("a line").expect("a line").expect("a line");
    assert!(first.contains("UpdateRequested"), "{first}");
    drop(lines);
    stage.data(&["cancel", id.trim()]).await;
    let ended = timeout(Duration::from_secs(20), watch.wait()).await.expect("it ends").expect("its status");
    assert_eq!(ended.code(), Some(0));
    stage.cluster.wire.shutdown().await;
}
