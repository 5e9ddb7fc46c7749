//! The store is the very cluster that is updated, and is lost while a node is down by our doing: separate processes, in real time.
//! `tests/return_ticket.rs` plays more of it in virtual time.
#![cfg(all(feature = "esdb", feature = "ec2"))]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use judge::{each_fact_once, judge};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use stage::Stage;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

#[path = "processes/judge.rs"]
mod judge;
#[path = "processes/stage.rs"]
mod stage;

const FORM: &str = "application/x-www-form-urlencoded";

/// A call that changes an instance: what is done, and to which.
type Change = (String, String);

/// What a request to EC2 changes, if it changes something.
fn change(form: &str) -> Option<Change> {
    let pairs: Vec<(&str, &str)> = form.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let (_, action) = pairs.iter().find(|(name, _)| *name == "Action")?;
    let (_, instance) = pairs.iter().find(|(_, value)| value.starts_with("i-"))?;
    let changes = !action.starts_with("Describe") && !pairs.contains(&("DryRun", "true"));
    changes.then(|| ((*action).to_owned(), (*instance).to_owned()))
}

/// Three voters that are the store and the cluster, and a person who reaches EC2 and the nodes.
struct Scene {
    stage: Stage,
    runtime: Runtime,
    http: Client,
    /// All but the last number of the addresses.
    net: String,
    /// What the workers called at EC2.
    calls: Arc<Mutex<Vec<Change>>>,
}

impl Scene {
    /// The workers reach EC2 by a proxy that notes their calls: the stream tells of intents only, and of what came of them.
    fn new(block: u8, speed: &str) -> Scene {
        let stage = Stage::with(block, &["--speed", speed, "--replicas", "0"]);
        let runtime = Runtime::new().unwrap();
        let http = Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        let net = stage.first.trim_end_matches('1').to_owned();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let scene = Scene { stage, runtime, http: http.clone(), net, calls: calls.clone() };
        let ec2 = scene.ec2();
        let pass_on = move |form: String| async move {
            calls.lock().unwrap().extend(change(&form));
            let request = http.post(ec2).header(CONTENT_TYPE, FORM).body(form);
            let answer = request.send().await.expect("EC2 answers");
            (answer.status(), [(CONTENT_TYPE, "text/xml;charset=UTF-8")], answer.text().await.expect("a body"))
        };
        let proxy = format!("{}101:4577", scene.net);
        let listener = scene.runtime.block_on(TcpListener::bind(&proxy)).unwrap();
        scene.runtime.spawn(async { axum::serve(listener, Router::new().fallback(pass_on)).await });
        let config = std::fs::read_to_string(scene.stage.file()).unwrap();
        assert!(config.contains(&scene.ec2()), "{config}");
        std::fs::write(scene.stage.file(), config.replace(&scene.ec2(), &format!("http://{proxy}"))).unwrap();
        scene
    }

    fn ec2(&self) -> String {
        format!("http://{}100:4577", self.net)
    }

    fn text(&self, request: RequestBuilder) -> reqwest::Result<String> {
        self.runtime.block_on(async { request.send().await?.text().await })
    }

    /// What EC2 answers to a person.
    fn ask(&self, form: String) -> String {
        let answer = self.text(self.http.post(self.ec2()).header(CONTENT_TYPE, FORM).body(form)).expect("EC2 answers");
        assert!(!answer.contains("<Error>"), "{answer}");
        answer
    }

    /// Stops, starts or reboots an instance.
    fn do_to(&self, instance: &str, action: &str) {
        self.ask(format!("Action={action}&Version=2016-11-15&InstanceId.1={instance}"));
    }

    /// The instances of which this is so, by DescribeInstances.
    fn instances(&self, filter: &str, value: &str) -> Vec<String> {
        let filter = format!("Filter.1.Name={filter}&Filter.1.Value.1={value}");
        let answer = self.ask(format!("Action=DescribeInstances&Version=2016-11-15&{filter}"));
        answer.split("<instanceId>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    }

    fn is(&self, instance: &str, state: &str) -> bool {
        self.instances("instance-state-name", state).iter().any(|i| i == instance)
    }

    /// The node that says of itself that it leads: its process, and its instance.
    fn leader(&self) -> Option<(String, String)> {
        (1..=3).find_map(|n| {
            let ip = format!("{}{n}", self.net);
            let request = self.http.get(format!("http://{ip}:2177/gossip")).timeout(Duration::from_millis(500));
            let gossip: Value = serde_json::from_str(&self.text(request).ok()?).ok()?;
            let own = gossip["members"].as_array()?.iter().find(|m| m["httpEndPointIp"] == ip.as_str())?;
            let leads = own["state"] == "Leader";
            leads.then(|| (text(&own["instanceId"]), self.instances("private-ip-address", &ip).remove(0)))
        })
    }

    #[expect(clippy::disallowed_methods, reason = "the processes under test live in real time")]
    fn until<T>(&self, what: &str, seconds: u64, mut found: impl FnMut() -> Option<T>) -> T {
        let limit = std::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = found() {
                return found;
            }
            let logs = || ["worker-1.log", "worker-2.log"].map(|log| self.stage.log(log)).join("\n\n");
            assert!(std::time::Instant::now() < limit, "not within {seconds} s: {what}\n{}", logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts an update, and waits until it has asked EC2 to stop an instance. Gives both.
    fn stops_a_voter(&self) -> (String, String) {
        let update = self.stage.try_run(&["start", "--cluster", "sim", "--target-type", "m6i.xlarge"]).unwrap();
        let ours = self.until("a stop", 90, || self.instances("instance-state-name", "stopping").pop());
        (update.trim().to_owned(), ours)
    }

    /// How an update has ended: by its exit code, and as `status` tells.
    fn verdict(&self, update: &str) -> (Option<i32>, Value) {
        let output = self.stage.command().args(["status", update, "--exit-code", "--output", "json"]).output().unwrap();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    }

    /// What the workers did to an instance, in order.
    fn done_to(&self, instance: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(_, of)| of == instance).map(|(action, _)| action.clone()).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn facts<'a>(history: &'a [Value], fact: &str) -> Vec<&'a Value> {
    history.iter().filter(|e| e["type"] == fact).map(|e| &e["data"]).collect()
}

/// The nodes of an update, each with its instance.
fn members(history: &[Value]) -> Vec<(String, String)> {
    let planned = facts(history, "UpdatePlanned")[0]["members"].as_array().expect("members");
    planned.iter().map(|m| (text(&m["node"]), text(&m["instance"]))).collect()
}

/// The worst case: nothing can be recorded, and nobody is left who knows what was in hand.
#[test]
fn a_worker_that_finds_the_store_lost_brings_back_the_node_that_its_predecessor_stopped() {
    let scene = Scene::new(90, "10");
    let dies = scene.stage.worker(1);
    let (update, ours) = scene.stops_a_voter();
    let (_, leads) = scene.leader().expect("a leader");
    let other =
        scene.instances("instance-state-name", "running").into_iter().find(|i| *i != leads).expect("a follower");
    scene.do_to(&other, "StopInstances");
    drop(dies);
    let mut worker = scene.stage.worker(2);
    scene.until("our node is stopped", 60, || scene.is(&ours, "stopped").then_some(()));
    // The ticket of a stop that is not its own opens after a minute without a leader; with two silent nodes each look takes seconds.
    scene.until("our node is brought back", 150, || scene.is(&ours, "running").then_some(()));
    assert!(!scene.is(&other, "running"), "what a person stopped is not ours to start");

    scene.stage.until(&mut worker, 2, &update, "NodeRejoined", 1);
    let members = members(&scene.stage.history(&update));
    let (missing, _) = members.iter().find(|(_, instance)| *instance == other).expect("a member");
    let waits = format!("code=\"agreementAwaited\" detail=\"{missing} does not answer\"");
    scene.until(&waits, 30, || scene.stage.log("worker-2.log").contains(&waits).then_some(()));
    scene.do_to(&other, "StartInstances");
    scene.stage.until(&mut worker, 2, &update, "UpdateFailed", 1);

    let history = scene.stage.history(&update);
    each_fact_once(&history);
    assert_eq!(facts(&history, "WorkerAssigned").len(), 2, "{history:#?}");
    let started = facts(&history, "InstanceStarted");
    assert!(started.len() == 1 && started[0]["returnTicket"] == true, "{started:#?}");
    assert_eq!(scene.done_to(&ours), ["CreateTags", "StopInstances", "StartInstances", "DeleteTags"]);
    assert_eq!(scene.calls.lock().unwrap().len(), 4, "no other instance is touched");
    let (code, status) = scene.verdict(&update);
    let (verdict, why, down) = (&status["verdict"], &status["code"], &status["notRunning"]);
    assert_eq!((code, text(verdict), text(why)), (Some(4), "failed".into(), "storeLost".into()), "{status}");
    assert_eq!(down.as_array().map(Vec::len), Some(0), "{status}");
}

#[test]
fn an_update_goes_on_after_the_store_lost_its_leader_twice_while_a_node_was_down() {
    let scene = Scene::new(91, "10");
    let mut worker = scene.stage.worker(1);
    let (update, ours) = scene.stops_a_voter();
    let mut led = Vec::new();
    let next = |led: &[String]| scene.until("a new leader", 60, || scene.leader().filter(|(by, _)| !led.contains(by)));
    // The first goes while the instance stops, the next once the worker has written to it: without that, both were one absence of the leader,
    // and long enough for the return ticket.
    for fact in ["InstanceStopRequested", "InstanceStopped"] {
        let recorded = format!("recorded fact=\"{fact}\"");
        scene.until(&recorded, 60, || scene.stage.log("worker-1.log").contains(&recorded).then_some(()));
        let (process, instance) = next(&led);
        scene.do_to(&instance, "RebootInstances");
        assert!(!scene.is(&ours, "running"), "our node is down meanwhile");
        led.push(process);
    }
    next(&led);
    scene.stage.until(&mut worker, 1, &update, "UpdateCompleted", 1);

    let history = scene.stage.history(&update);
    judge(&history);
    assert_eq!(facts(&history, "WorkerAssigned").len(), 1, "{history:#?}");
    for (node, instance) in members(&history) {
        let once = ["CreateTags", "StopInstances", "ModifyInstanceAttribute", "StartInstances", "DeleteTags"];
        assert_eq!(scene.done_to(&instance), once, "{node}");
    }
    assert_eq!(scene.verdict(&update).0, Some(0));
}
