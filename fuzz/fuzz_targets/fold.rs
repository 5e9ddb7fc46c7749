//! Any stream: decoded, folded, answered and shown, without a panic. A line is an event, as in `tests/projections/*.jsonl`.
#![no_main]

use std::collections::BTreeMap;

use esdb_rollout::codec::decode;
use esdb_rollout::domain::ids::{Incarnation, InstanceId, Revision, StreamName, UpdateId};
use esdb_rollout::domain::instance::{Instance, InstanceState};
use esdb_rollout::domain::time::Moment;
use esdb_rollout::domain::watch::ClusterWatch;
use esdb_rollout::ports::StoredEvent;
use esdb_rollout::update::audit::audit;
use esdb_rollout::update::limits::FIRST_ANSWER_TIMEOUT;
use esdb_rollout::update::observed::{InstanceSeen, Observed, Policy, StoreSeen};
use esdb_rollout::update::react::{Next, react};
use esdb_rollout::update::state::{Recorded, State, fold};
use esdb_rollout::views::article::StatusDocument;
use esdb_rollout::views::progress::Progress;
use esdb_rollout::views::timeline::Line;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::time::Duration;
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

/// What the worker that holds it would do with that state, where nobody answers and EC2 says this or nothing.
fn reacts(state: &State, says: Option<InstanceState>, now: Moment) {
    let members = state.plan.iter().flat_map(|p| &p.members);
    let instance = |m: &esdb_rollout::update::event::PlannedMember, state| Instance {
        id: m.instance.clone(),
        instance_type: m.new_type.clone(),
        state,
        state_reason: None,
        private_ip: None,
        private_dns: None,
        zone: None,
        name_tag: None,
        root_device: None,
        lifecycle: None,
        architecture: None,
        auto_scaling_group: None,
        hibernation: false,
        details: Default::default(),
    };
    let seen =
        |instance| InstanceSeen { instance, at: now, state_since: Moment::default(), times: 3, pending_seen: false };
    let instances: BTreeMap<InstanceId, InstanceSeen> = says
        .map(|says| members.clone().map(|m| (m.instance.clone(), seen(instance(m, says)))).collect())
        .unwrap_or_default();
    let watch = ClusterWatch::new(members.map(|m| m.node.clone()));
    let observed = Observed {
        me: state.holder.as_ref().map_or(Incarnation(Uuid::nil()), |h| h.incarnation),
        watch: &watch,
        instances: &instances,
        fleet_trouble: None,
        intent: None,
        ticket_called: None,
        store: &StoreSeen::default(),
        survey: None,
        policy: &Policy {
            allowed_types: vec![],
            max_replication_delay: Duration::from_secs(5),
            first_answer_timeout: FIRST_ANSWER_TIMEOUT,
        },
        took_over_at: None,
        wall: jiff::Timestamp::UNIX_EPOCH,
    };
    let next = react(state, &observed, now);
    assert_eq!(next, react(state, &observed, now), "one state, two answers");
    if let Next::Act(action) = &next {
        assert!(audit(action, state, &observed, now).is_err(), "nobody has been seen, and {} is let pass", action.call);
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
        reacts(&whole, says[usize::from(how) % says.len()], Moment(now));
    }
    let wall = jiff::Timestamp::UNIX_EPOCH;
    assert!(!Progress::of(UpdateId(Uuid::nil()), &whole, &history, wall).to_string().is_empty());
    serde_json::to_string(&StatusDocument::of(&whole, &history, wall)).expect("a document is JSON");
    assert!(history.iter().all(|recorded| !Line::of(recorded).to_string().is_empty()));
});
