//! What a request asks for beside the type, and what people say: the rules of steering, judged by raw JSON. Shares no code with the product.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::judge::{Entry, goes_back};
use crate::people::APPROVER;

/// A decision is sent within this of the look at the clocks that it rests on, and the judge sees what stands a moment later. Seconds.
const HASTE: f64 = 1.0;

fn answers(e: &Entry) -> Option<u64> {
    e.data.get("answers").and_then(Value::as_u64)
}

/// Whether a pause stands: from the command on, until somebody resumes. An approval or a retry is acknowledged as well, and resumes nothing.
pub fn paused(history: &[Entry]) -> bool {
    let says = history.iter().rev().find_map(|e| match e.kind.as_str() {
        "PauseRequested" if e.data.is_object() => Some(true),
        "UpdatePaused" => Some(true),
        "UpdateResumed" if e.text("by") != APPROVER => Some(false),
        _ => None,
    });
    says == Some(true)
}

/// Whether the update failed and is to wait: nobody has said since what becomes of it.
fn held(history: &[Entry]) -> bool {
    let hold = history.first().is_some_and(|e| e.text("onFailure") == "hold");
    // The last word, whatever fails after it.
    let word = goes_back(history) || history.iter().any(|e| e.kind == "CancelRequested");
    let failed = history.iter().rposition(fails);
    let said = |at: usize| history[at..].iter().any(|e| says_what_becomes_of(history, e, at as u64));
    hold && !word && failed.is_some_and(|at| !said(at))
}

/// Whether somebody says what becomes of a failure at that revision.
pub fn says_what_becomes_of(history: &[Entry], e: &Entry, failure: u64) -> bool {
    let waits = |r: u64| history.get(r as usize).is_some_and(|f| f.kind == "UpdateParked" || fails(f));
    match e.kind.as_str() {
        "RollbackRequested" | "CancelRequested" => true,
        "RetryRequested" => answers(e).is_some_and(|r| (failure..e.revision).contains(&r) && waits(r)),
        _ => false,
    }
}

/// Whether the fact says that a node could not be done.
fn fails(e: &Entry) -> bool {
    let harmless = ["cancelled", "rolledBack", "foreignChange"];
    e.kind == "NodeFailed" || e.kind == "NodeRolledBack" && !harmless.contains(&e.text("code"))
}

/// Whether an approval for that gate and node stands: one that answers the last [`ApprovalAwaited`] before it.
fn approved(history: &[Entry], gate: &str, node: &str) -> bool {
    history.iter().enumerate().any(|(at, e)| {
        let awaited = history[..at].iter().rev().find(|f| f.kind == "ApprovalAwaited");
        e.kind == "ApprovalGranted"
            && awaited
                .is_some_and(|f| answers(e) == Some(f.revision) && f.text("gate") == gate && f.text("node") == node)
    })
}

/// The last result of each node.
pub fn results(history: &[Entry]) -> BTreeMap<&str, &Entry> {
    let kinds = ["NodeUpdated", "NodeRolledBack", "NodeFailed", "NodeSkipped"];
    history.iter().filter(|e| kinds.contains(&e.kind.as_str())).map(|e| (e.text("node"), e)).collect()
}

/// A fact against what was asked for. `wall` is what the calendars said when it was sent.
pub fn judge(
    history: &[Entry],
    entry: &Entry,
    sent: Duration,
    wall: Option<jiff::Timestamp>,
) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    let request = history.first().map(|e| &e.data).unwrap_or(&Value::Null);
    let node = entry.text("node");
    let since_selected = || history.iter().rev().take_while(|e| e.kind != "NodeSelected");
    let begins = match entry.kind.as_str() {
        "NodeSelected" | "PriorityLoweringRequested" | "ResignationRequested" => true,
        "InstanceStopRequested" => !since_selected().any(|e| e.kind == "InstanceStopped"),
        _ => false,
    };
    if begins && paused(history) {
        broken.push(("L3", "while paused".into()));
    }
    if (begins || entry.kind == "UpdateFailed") && held(history) {
        broken.push(("hold", "nobody has said what becomes of the failure".into()));
    }
    if entry.kind == "UpdateAccepted"
        && let Some(at) =
            request.get("notBefore").and_then(Value::as_str).and_then(|t| t.parse::<jiff::Timestamp>().ok())
        && wall.is_some_and(|wall| at.duration_since(wall).as_secs_f64() > HASTE)
    {
        broken.push(("window", format!("before {at}")));
    }
    if begins
        && !goes_back(history)
        && let (Some(window), Some(wall)) = (request.get("window"), wall)
        && !open(window, wall)
        && !open(window, wall - jiff::SignedDuration::from_secs_f64(HASTE))
    {
        broken.push(("window", format!("at {wall} the window is shut")));
    }
    let gates = request.get("gates").and_then(Value::as_array);
    if matches!(entry.kind.as_str(), "PriorityLoweringRequested" | "ResignationRequested")
        && !goes_back(history)
        && gates.is_some_and(|g| g.contains(&Value::from("beforeLeader")))
        && !approved(history, "beforeLeader", node)
    {
        broken.push(("gate", format!("{node} leads, and nobody approved of that")));
    }
    match entry.kind.as_str() {
        "NodeSelected" => selected(history, entry, request, sent, &mut broken),
        "InstanceRebootRequested" => {
            if request.get("onSilentNode").and_then(Value::as_str) != Some("reboot") {
                broken.push(("reboot", "nobody asked for it".into()));
            }
            let ours = since_selected().any(|e| e.kind == "InstanceStarted" && e.text("node") == node);
            if !ours || since_selected().any(|e| e.kind == "CaughtUp") {
                broken.push(("reboot", format!("{node} is not down by our doing")));
            }
            let anew = |e: &&Entry| e.kind == "RetryRequested" || e.kind == "NodeSelected";
            if history.iter().rev().take_while(|e| !anew(e)).any(|e| e.kind == "InstanceRebootRequested") {
                broken.push(("reboot", format!("{node} was rebooted already")));
            }
        }
        "CommandRefused" => {
            let refused = |e: &Entry| e.data.pointer("/command/revision").and_then(Value::as_u64);
            let twice = history.iter().any(|e| e.kind == "CommandRefused" && refused(e) == refused(entry));
            let command = refused(entry).and_then(|r| history.get(r as usize)).is_some_and(Entry::is_command);
            if twice || !command {
                broken.push(("S8", format!("refuses {:?}, no command or refused already", refused(entry))));
            }
        }
        "UpdateFailed" | "UpdateCancelled" => went_back(history, entry, &mut broken),
        _ => {}
    }
    broken
}

/// Whether a window is open: `*/n * * * *` for so many minutes, in a zone that is whole hours away.
fn open(window: &Value, at: jiff::Timestamp) -> bool {
    let every = window.get("cron").and_then(Value::as_str).and_then(|c| c.split(['/', ' ']).nth(1)?.parse().ok());
    let minutes = window.get("minutes").and_then(Value::as_i64);
    let minute = at.as_second().div_euclid(60).rem_euclid(60);
    every.zip(minutes).is_some_and(|(every, minutes): (i64, i64)| minute % every < minutes)
}

/// What must hold when a node is taken in hand.
fn selected(
    history: &[Entry],
    entry: &Entry,
    request: &Value,
    sent: Duration,
    broken: &mut Vec<(&'static str, String)>,
) {
    let node = entry.text("node");
    let named = request.get("nodes").and_then(Value::as_array);
    if named.is_some_and(|nodes| !nodes.iter().any(|n| n.as_str() == Some(node))) {
        broken.push(("S5", "nobody named it".into()));
    }
    // Each node of which it is unknown whether it kept its data needs an approval, asked for since, before the next voter.
    let unknown = |e: &Entry| e.kind == "CaughtUp" && e.data.pointer("/dataKept/kept") == Some(&Value::from("unknown"));
    let doubt = history.iter().rposition(unknown).map(|at| at as u64);
    let says_so = |e: &Entry| {
        history.iter().any(|g| g.kind == "ApprovalGranted" && g.revision > e.revision && answers(g) == Some(e.revision))
    };
    let granted = history.iter().filter(|e| e.kind == "ApprovalAwaited" && e.text("gate") == "dataUnknown");
    let granted = granted.filter(|e| says_so(e)).map(|e| e.revision).max();
    if entry.text("role") != "ReadOnlyReplica" && doubt > granted {
        broken.push(("gate", "it is unknown whether a node kept its data".into()));
    }
    if goes_back(history) {
        return;
    }
    let results = results(history);
    // One that was skipped had no turn.
    let turn_ends = |e: &&Entry| matches!(e.kind.as_str(), "NodeUpdated" | "NodeRolledBack" | "NodeFailed");
    if let Some(dwell) = request.get("dwellSeconds").and_then(Value::as_f64)
        && let Some(last) = history.iter().filter(turn_ends).map(|e| e.at).max()
        && sent.saturating_sub(last).as_secs_f64() + HASTE < dwell
    {
        broken.push(("dwell", format!("{:.1} s after the node before", sent.saturating_sub(last).as_secs_f64())));
    }
    let done = results.values().filter(|e| e.kind == "NodeUpdated").count();
    let gates = request.get("gates").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for gate in gates {
        let shut = match gate {
            "beforeLeader" => entry.text("role") == "Leader",
            "afterFirst" => done == 1,
            _ => done > 0,
        };
        if shut && !approved(history, gate, node) {
            broken.push(("gate", format!("{gate} of {node} was not approved")));
        }
    }
}

/// After a rollback each node that was done is back, or the history says which is not.
fn went_back(history: &[Entry], end: &Entry, broken: &mut Vec<(&'static str, String)>) {
    let cancelled = history.iter().any(|e| e.kind == "CancelRequested");
    let plan = history.iter().find(|e| e.kind == "UpdatePlanned");
    let failed = history.iter().any(|e| e.kind == "NodeFailed");
    let obeyed = plan.is_some_and(|p| {
        let by_command = history.iter().any(|e| e.kind == "RollbackRequested" && e.revision > p.revision);
        by_command || history.first().is_some_and(|e| e.text("onFailure") == "rollBackAll") && goes_back(history)
    });
    // A node that could not be brought back ends it there.
    if cancelled || failed || !obeyed || end.text("code") == "unexpectedMember" {
        return;
    }
    let members = plan.into_iter().flat_map(|p| p.list("members"));
    let old: BTreeMap<&str, &str> =
        members.filter_map(|m| Some((m.get("node")?.as_str()?, m.get("oldType")?.as_str()?))).collect();
    for (node, result) in results(history) {
        if result.kind == "NodeUpdated" && old.get(node) != Some(&result.text("type")) {
            broken.push(("rollback", format!("{node} was left as {}", result.text("type"))));
        }
    }
}
