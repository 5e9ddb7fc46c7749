//! Any stream: decoded, folded, answered and shown, without a panic. A line is an event, as in `tests/projections/*.jsonl`.
#![no_main]

#[path = "../../tests/hostile/unseen.rs"]
mod unseen;

use std::time::Duration;

use esdb_rollout::codec::decode;
use esdb_rollout::domain::ids::{Revision, StreamName};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::domain::time::Moment;
use esdb_rollout::ports::StoredEvent;
use esdb_rollout::update::state::{Recorded, fold};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use uuid::Uuid;

/// More is only slower.
const EVENTS_MAX: usize = 64;

fn stored(n: usize, line: &[u8]) -> StoredEvent {
    let event: Option<Value> = serde_json::from_slice(line).ok();
    let field = |name: &str| event.as_ref().and_then(|e| e.get(name)).cloned().unwrap_or_default();
    StoredEvent {
        stream: StreamName::from("clusterUpdate-x"),
        revision: Revision(n as u64),
        position: None,
        id: Uuid::from_u128(n as u128),
        event_type: field("type").as_str().unwrap_or("PauseRequested").to_owned(),
        data: field("data"),
        metadata: field("metadata"),
        is_json: event.is_some(),
        created: jiff::Timestamp::UNIX_EPOCH,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let how = bytes.iter().fold(0_u8, |sum, b| sum.wrapping_mul(31).wrapping_add(*b));
    let lines = bytes.split(|b| *b == b'\n').take(EVENTS_MAX);
    let history: Vec<Recorded> =
        lines.enumerate().map(|(n, line)| decode(&stored(n, line), Moment::default())).collect();
    let whole = fold(&history);
    let cut = usize::from(how) % (history.len() + 1);
    let mut on = fold(&history[..cut]);
    history[cut..].iter().for_each(|recorded| on.evolve(recorded));
    // What was folded already is passed over.
    history[..cut].iter().for_each(|recorded| on.evolve(recorded));
    assert_eq!(on, whole, "folded in two parts");
    assert_eq!(fold(&history), whole, "folded again");
    let says = [None, Some(InstanceState::Running), Some(InstanceState::Stopped), Some(InstanceState::Terminated)];
    for now in [Duration::from_secs(1), Duration::from_secs(100_000_000)] {
        unseen::look(&history, &whole, says[usize::from(how) % says.len()], Moment(now));
    }
});
