//! What people ask for beside the type, what they say meanwhile, and how they answer when an update waits for them. Swarm-style as the rest:
//! most of it is off in most seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use esdb_rollout::sim::model::Fault;
use esdb_rollout::sim::world::Random;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::judge::{Entry, goes_back};
use crate::policy::says_what_becomes_of;
use crate::scenario::{Act, Command, Scenario};

/// `by` of a command that answers a fact: what it says is acknowledged under this name.
pub const APPROVER: &str = "cat";

/// Somebody who watches an update and answers what waits for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// An answer takes between these, milliseconds.
    pub after: (u64, u64),
    /// Says everything twice, in percent of the answers.
    pub twice: u32,
    /// Answers an older fact first, in percent.
    pub old: u32,
    /// Goes away without an answer, in percent.
    pub silent: u32,
}

/// A cluster of fewer than three voters, now and then: its owner accepts the downtime and keeps the store elsewhere.
pub fn few_voters(s: &mut Scenario) -> bool {
    let mut r = Random::named(s.seed, "few voters");
    let few = r.percent(6);
    if few {
        s.world.voters = 1 + r.below(2) as usize;
    }
    few
}

/// What this seed draws beside the faults, and after them.
pub fn draw(s: &mut Scenario) {
    let mut r = Random::named(s.seed, "people");
    let count = s.world.voters + s.world.replicas;
    let few = s.world.voters < 3;
    if few {
        s.request["acceptDowntime"] = json!(r.percent(90));
        if s.world.voters == 2 && r.percent(90) {
            s.acts.push((Duration::ZERO, Act::Command(Command::Waive("evenVoters"))));
        }
        // The only copies there are.
        s.acts.retain(|(_, act)| !matches!(act, Act::LoseData(..)));
        s.world.faults.retain(|fault| !matches!(fault, Fault::ComesBackEmpty { .. }));
        s.steered = true;
    }
    policy(&mut r, s, count);
    if r.percent(40) {
        let slow = r.percent(30);
        s.person = Some(Person {
            after: (200, if slow { 90_000 } else { 10_000 }),
            twice: if r.percent(25) { 50 } else { 0 },
            old: if r.percent(25) { 50 } else { 0 },
            silent: if r.percent(25) { 30 } else { 0 },
        });
        s.steered = true;
    }
    commands(&mut r, s);
}

fn policy(r: &mut Random, s: &mut Scenario, count: usize) {
    let before = s.request.clone();
    let request = &mut s.request;
    if r.percent(25) {
        request["onFailure"] = json!(r.pick(&["rollBackNode", "rollBackAll", "hold"]));
    }
    if r.percent(15) {
        request["onSilentNode"] = json!(r.pick(&["hold", "reboot", "reboot"]));
        s.first_answer_timeout = Duration::from_secs(30 + r.below(90));
        if r.percent(70) {
            // Until somebody reboots it.
            s.world.faults.push(Fault::StaysSilent { node: r.below(count as u64) as usize, for_: None });
        }
    }
    if r.percent(12) {
        let gates: Vec<&str> =
            ["beforeLeader", "afterFirst", "eachNode"].into_iter().filter(|_| r.percent(50)).collect();
        request["gates"] = json!(gates);
    }
    if r.percent(8) {
        // A window that is shut for a while, and is open again soon.
        let every = 2 + r.below(3);
        let zone = r.pick(&["UTC", "Europe/Madrid", "America/New_York"]);
        request["window"] =
            json!({ "cron": format!("*/{every} * * * *"), "minutes": 1 + r.below(every - 1), "timeZone": zone });
    }
    if r.percent(6) {
        request["notBefore"] = json!(format!("2026-01-01T00:0{}:{:02}Z", r.below(2), r.below(60)));
    }
    if r.percent(8) {
        let nodes: Vec<&String> = s.world.names.iter().filter(|_| r.percent(50)).collect();
        request["nodes"] = json!(nodes);
        if nodes.is_empty() {
            request["nodes"] = json!([s.world.names[0]]);
        }
    }
    s.steered |= *request != before;
}

fn commands(r: &mut Random, s: &mut Scenario) {
    let end = s.heal_at.as_millis() as u64;
    let checks = ["evenVoters", "publicAddress", "noSuchCheck", "instanceNotFound"];
    for kind in 0..4 {
        if !r.percent(8) {
            continue;
        }
        for _ in 0..1 + r.below(2) {
            let at = r.millis(0, end);
            let act = match kind {
                0 => Command::Rollback,
                1 => Command::Approve(r.below(40)),
                // Before the plan as well as after it.
                2 => Command::Waive(checks[r.below(4) as usize]),
                _ => Command::RetryOf(r.below(60)),
            };
            let at = if kind == 2 && r.percent(70) { Duration::from_millis(r.below(1500)) } else { at };
            s.acts.push((at, Act::Command(act)));
            s.steered = true;
        }
    }
    s.acts.sort_by_key(|(at, _)| *at);
}

/// A command that somebody is about to give.
#[derive(Clone, Debug)]
pub struct Said {
    pub at: Duration,
    pub update: Uuid,
    pub kind: &'static str,
    pub data: Value,
}

/// What a person has noticed, and will say.
#[derive(Debug, Default)]
pub struct Answering {
    read: BTreeMap<Uuid, usize>,
    answered: BTreeSet<(Uuid, u64)>,
    due: Vec<Said>,
}

impl Answering {
    /// Reads on, and makes up an answer to each fact that waits for one.
    pub fn notice(&mut self, person: &Person, r: &mut Random, now: Duration, all: &BTreeMap<Uuid, Vec<Entry>>) {
        for (update, history) in all {
            let from = self.read.insert(*update, history.len()).unwrap_or(0);
            for e in &history[from..] {
                let answers = |revision: u64| json!({ "answers": revision, "by": APPROVER });
                let answer = match (e.kind.as_str(), e.text("code")) {
                    ("ApprovalAwaited", _) => ("ApprovalGranted", answers(e.revision)),
                    ("UpdateParked", "heldAfterFailure") => match r.below(4) {
                        0 => ("RollbackRequested", json!({ "by": "ann" })),
                        1 => ("CancelRequested", json!({ "by": "ann" })),
                        _ => ("RetryRequested", answers(e.revision)),
                    },
                    ("UpdateParked", _) => ("RetryRequested", answers(e.revision)),
                    _ => continue,
                };
                if !self.answered.insert((*update, e.revision)) || r.percent(person.silent) {
                    continue;
                }
                let at = now + r.millis(person.after.0, person.after.1);
                let says = |at, data: &Value| Said { at, update: *update, kind: answer.0, data: data.clone() };
                if r.percent(person.old) {
                    let old = json!({ "answers": r.below(e.revision.max(1)), "by": APPROVER });
                    self.due.push(Said { kind: "ApprovalGranted", ..says(at, &old) });
                }
                self.due.push(says(at, &answer.1));
                if r.percent(person.twice) {
                    let later = at + r.millis(0, 5_000);
                    self.due.push(says(later, &answer.1));
                }
            }
        }
    }

    /// What is to be said now.
    pub fn due(&mut self, now: Duration) -> Vec<Said> {
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|s| s.at <= now);
        self.due = later;
        due
    }
}

/// What a person says once everything is well: lets go on what waits for one.
pub fn helps(history: &[Entry]) -> Option<(&'static str, Value)> {
    let newest = |kinds: &[&str]| history.iter().rev().find(|e| kinds.contains(&e.kind.as_str()));
    let resuming = newest(&["UpdatePaused", "ResumeRequested"]).is_some_and(|e| e.kind == "ResumeRequested");
    let paused = crate::policy::paused(history);
    let granted = |a: &Entry| {
        let answers = |e: &Entry| e.data.get("answers").and_then(Value::as_u64) == Some(a.revision);
        history.iter().any(|e| e.kind == "ApprovalGranted" && e.revision > a.revision && answers(e))
    };
    // An approval that nothing has followed yet but what people say.
    let awaited = newest(&["ApprovalAwaited", "NodeSelected"]).filter(|e| e.kind == "ApprovalAwaited");
    let held = newest(&["UpdateParked"]).filter(|e| {
        e.text("code") == "heldAfterFailure"
            && !history.iter().any(|f| says_what_becomes_of(history, f, e.revision) && f.revision > e.revision)
    });
    if history.last()?.is_end() {
        return None;
    }
    if paused && !resuming {
        return Some(("ResumeRequested", json!({ "by": "ann" })));
    }
    if let Some(held) = held {
        let tried = history.iter().filter(|e| e.kind == "RetryRequested").count();
        return Some(if tried < 3 {
            ("RetryRequested", json!({ "answers": held.revision, "by": APPROVER }))
        } else {
            ("CancelRequested", json!({ "by": "ann" }))
        });
    }
    // Going back waits at no gate but that of the data.
    let awaited = awaited.filter(|a| a.text("gate") == "dataUnknown" || !goes_back(history));
    let awaited = awaited.filter(|a| !paused && !granted(a))?;
    Some(("ApprovalGranted", json!({ "answers": awaited.revision, "by": APPROVER })))
}
