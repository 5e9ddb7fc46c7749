//! What must hold of any history, where no node has been heard: for the tests here, and for `fuzz/`.

#[path = "instance.rs"]
mod instance;

use std::collections::BTreeMap;
use std::time::Duration;

use esdb_rollout::domain::ids::{Incarnation, InstanceId, UpdateId};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::domain::time::Moment;
use esdb_rollout::domain::watch::ClusterWatch;
use esdb_rollout::update::audit::audit;
use esdb_rollout::update::event::PlannedMember;
use esdb_rollout::update::limits::FIRST_ANSWER_TIMEOUT;
use esdb_rollout::update::observed::{InstanceSeen, Observed, Policy, StoreSeen};
use esdb_rollout::update::react::{Next, react};
use esdb_rollout::update::state::{Recorded, State};
use esdb_rollout::views::article::StatusDocument;
use esdb_rollout::views::progress::Progress;
use esdb_rollout::views::timeline::Line;
use uuid::Uuid;

/// Whoever holds it decides the same twice, and no call that it decides on is let pass; all that is shown of it can be shown. EC2 says `says`
/// of every instance, or nothing.
pub fn look(history: &[Recorded], state: &State, says: Option<InstanceState>, now: Moment) {
    let members = state.plan.iter().flat_map(|p| &p.members);
    let seen = |member: &PlannedMember, says| {
        let instance = instance::instance(member.instance.clone(), member.old_type.clone(), says);
        let first = InstanceSeen::first(instance, now);
        (member.instance.clone(), InstanceSeen { state_since: Moment::default(), times: 3, ..first })
    };
    let instances: BTreeMap<InstanceId, InstanceSeen> =
        says.map(|says| members.clone().map(|m| seen(m, says)).collect()).unwrap_or_default();
    let watch = ClusterWatch::new(members.map(|m| m.node.clone()));
    let observed = Observed {
        me: state.holder.as_ref().map_or(Incarnation(Uuid::nil()), |h| h.incarnation),
        update: UpdateId(Uuid::nil()),
        watch: &watch,
        instances: &instances,
        fleet_trouble: None,
        intent: None,
        ticket_called: None,
        ticket_type: None,
        appends_fail_since: None,
        store: &StoreSeen::default(),
        survey: None,
        policy: &Policy {
            allowed_types: vec![],
            max_replication_delay: Duration::from_secs(5),
            first_answer_timeout: FIRST_ANSWER_TIMEOUT,
            fence: true,
        },
        own_instance: None,
        took_over_at: None,
        ticket_spent: false,
        ticket_in_vain: false,
        wall: jiff::Timestamp::UNIX_EPOCH,
    };
    let next = react(state, &observed, now);
    assert_eq!(next, react(state, &observed, now), "one state, two answers");
    if let Next::Act(action) = &next {
        assert!(audit(action, state, &observed, now).is_err(), "nobody has been seen, and {} is let pass", action.call);
    }
    let wall = jiff::Timestamp::UNIX_EPOCH;
    assert!(!Progress::of(UpdateId(Uuid::nil()), state, history, wall).to_string().is_empty());
    serde_json::to_string(&StatusDocument::of(state, history, wall)).expect("a document is JSON");
    assert!(history.iter().all(|recorded| !Line::of(recorded).to_string().is_empty()));
}
