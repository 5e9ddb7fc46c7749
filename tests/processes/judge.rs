//! What the history of an update must be, whatever happened to its workers and to its store.

use std::collections::BTreeMap;

use serde_json::Value;

pub fn is_end(event: &Value) -> bool {
    ["UpdateCompleted", "UpdateFailed", "UpdateCancelled", "UpdateRejected"].iter().any(|end| event["type"] == *end)
}

fn shown(history: &[Value]) -> Vec<String> {
    history.iter().map(|e| format!("{} {}", e["type"], e["data"]["node"])).collect()
}

/// It ends once, and no fact stands twice. Gives each fact, with its node.
pub fn each_fact_once(history: &[Value]) -> Vec<(String, String)> {
    let shown = shown(history);
    assert_eq!(history.iter().filter(|e| is_end(e)).count(), 1, "{shown:#?}");
    let mut facts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in history {
        let name = event["type"].as_str().unwrap();
        // An intent may be written again by a successor, a wait may be said again, and a take-over is what this is about.
        if !name.ends_with("Requested") && name != "StepDelayed" && name != "WorkerAssigned" {
            *facts.entry((name.to_owned(), event["data"]["node"].to_string())).or_default() += 1;
        }
    }
    let twice: Vec<_> = facts.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}\n{shown:#?}");
    facts.into_keys().collect()
}

/// What an update's history must be: complete, each fact once, each node stopped and started once.
pub fn judge(history: &[Value]) {
    let facts = each_fact_once(history);
    let shown = shown(history);
    let planned = history.iter().find(|e| e["type"] == "UpdatePlanned").expect("a plan");
    let nodes = planned["data"]["members"].as_array().unwrap().len();
    for fact in ["InstanceStopped", "TypeModified", "InstanceStarted", "NodeRejoined", "CaughtUp", "NodeUpdated"] {
        assert_eq!(facts.iter().filter(|(name, _)| name == fact).count(), nodes, "each node's {fact}\n{shown:#?}");
    }
    assert!(facts.iter().any(|(name, _)| name == "UpdateCompleted"), "{shown:#?}");
}
