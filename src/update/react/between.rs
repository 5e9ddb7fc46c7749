//! Between two nodes: the end, the reasons to hold, and which node is next.

use std::time::Duration;

use super::super::event::*;
use super::super::limits::{
    CAPACITY_COOLS, FENCE_UNSEEN_MAX, LASTING, PERSON_AFTER, RESIGNATION_TIMEOUT, SETTLE_AFTER, TAKE_OVER_QUIET,
    UNSEEN_AFTER,
};
use super::super::observed::{InstanceSeen, Observed};
use super::super::plan::{self};
use super::super::safety::{self, Blocker, Scene};
use super::super::state::{
    FOREIGN_STOP, FOREIGN_TYPE, HISTORY_ILLEGAL_REMEDY, State, UNANSWERED_MAX, WINDOW_CLOSED, round_ms,
};
use super::super::strategy::{NodeChange, Strategy};
use super::super::window;
use super::{Next, delayed, ec2_evidence, for_another, number, type_evidence, wait};
use crate::domain::agreement::Agreement;
use crate::domain::catch_up::{NotCaughtUp, level};
use crate::domain::cluster::NodeState;
use crate::domain::ec2::attributed;
use crate::domain::ids::{InstanceId, InstanceType, NodeName};
use crate::domain::instance::InstanceState;
use crate::domain::time::Moment;

pub(super) fn outcomes(state: &State) -> Vec<NodeOutcome> {
    let Some(plan) = &state.plan else { return Vec::new() };
    // An update whose history cannot be trusted may end with a node in hand.
    let left_in =
        |node: &NodeName| state.in_hand.as_ref().filter(|h| h.node == *node).map(|h| h.step.name().to_owned());
    let pending =
        |node: &NodeName| NodeOutcome { node: node.clone(), result: NodeResult::Pending, left_in: left_in(node) };
    plan.order.iter().map(|n| state.results.get(n).cloned().unwrap_or_else(|| pending(n))).collect()
}

pub(super) fn seconds_since_acceptance(state: &State, wall: jiff::Timestamp) -> f64 {
    state.accepted_at.map_or(0.0, |at| round_ms(wall.duration_since(at).as_secs_f64().max(0.0)))
}

/// Nodes of which nobody says that they run: EC2, or where that has said nothing for long, the node itself.
fn not_running(state: &State, observed: &Observed<'_>, now: Moment) -> Vec<NodeName> {
    let Some(plan) = &state.plan else { return Vec::new() };
    let runs = |m: &&PlannedMember| {
        let described = observed.instances.get(&m.instance).filter(|s| now.since(s.at) <= FENCE_UNSEEN_MAX);
        match described {
            Some(seen) => seen.instance.state == InstanceState::Running,
            None => observed.watch.node(&m.node).is_some_and(|t| t.own(now).is_some()),
        }
    };
    plan.members.iter().filter(|m| !runs(m)).map(|m| m.node.clone()).collect()
}

/// The end that a cancellation asks for: in favour of another update, or of none.
pub(super) fn cancelled(state: &State, observed: &Observed<'_>, cancel: &CancelRequested, now: Moment) -> Event {
    let (seconds, nodes) = (seconds_since_acceptance(state, observed.wall), outcomes(state));
    let (elections, not_running) = (state.elections, not_running(state, observed, now));
    match cancel.superseded_by {
        Some(superseded_by) => UpdateSuperseded { superseded_by, seconds, nodes, elections, not_running }.into(),
        None => {
            let (by, why) = (cancel.by.clone(), cancel.why.clone());
            UpdateCancelled { by, why, seconds, nodes, elections, not_running }.into()
        }
    }
}

/// What is left to do for an update whose history cannot be trusted: it waits for a person, and ends where one cancels it. Not before every
/// instance is seen to run since: what could not be folded may have stopped one.
pub(super) fn broken(
    state: &State,
    observed: &Observed<'_>,
    scene: Option<&Scene<'_>>,
    why: &str,
    now: Moment,
) -> Next {
    let mut found = why.to_owned();
    if let Some(cancel) = &state.cancelled {
        let off = match scene.map(|scene| may_be_off(state, observed, scene)) {
            None => Vec::new(),
            Some(Ok(off)) => off,
            Some(Err(unseen)) => return wait(state, "describingInstances", unseen, vec![]),
        };
        if off.is_empty() {
            return Next::Record(vec![cancelled(state, observed, cancel, now)]);
        }
        found = format!("{found}; cancelled, and ends once {} runs", off.join(", "));
    }
    match &state.parked {
        Some(p) if p.code == "historyIllegal" => wait(state, "historyIllegal", found, vec![]),
        Some(_) | None => park("historyIllegal", found, HISTORY_ILLEGAL_REMEDY),
    }
}

/// Members that do not run and that somebody can start, by what EC2 said since the last event; `Err` while it has not. One that it has
/// forgotten was terminated.
fn may_be_off<'a>(state: &State, observed: &Observed<'_>, scene: &Scene<'a>) -> Result<Vec<&'a str>, String> {
    use InstanceState::{Pending, Stopped, Stopping};
    let since = state.last_seen.unwrap_or(scene.now);
    let mut off = Vec::new();
    for member in &scene.plan.members {
        match observed.instances.get(&member.instance).filter(|seen| seen.at > since) {
            Some(seen) if matches!(seen.instance.state, Pending | Stopped | Stopping) => off.push(member.node.as_str()),
            Some(_) => {}
            None if observed.fleet_trouble.is_none() && scene.now.since(since) > FENCE_UNSEEN_MAX => {}
            None => return Err(format!("{} of {} before the end", member.instance, member.node)),
        }
    }
    Ok(off)
}

pub(super) fn between_nodes(state: &State, observed: &Observed<'_>, scene: &Scene<'_>, now: Moment) -> Next {
    if let Some(end) = end(state, observed, now) {
        return Next::Record(vec![end]);
    }
    if let Some(failure) = state.failure.as_ref().filter(|_| state.held()) {
        let found = format!("{}; held as it is, every node runs", failure.code);
        let remedy = "retry to take the node again, rollback to bring back those done so far, or cancel";
        return match &state.parked {
            Some(p) if p.code == "heldAfterFailure" => wait(state, "heldAfterFailure", found, vec![]),
            Some(_) | None => park("heldAfterFailure", found, remedy),
        };
    }
    if state.unanswered.len() > UNANSWERED_MAX {
        if state.parked.is_some() {
            return wait(state, "tooManyCommands", "too many unanswered commands", vec![]);
        }
        return park(
            "tooManyCommands",
            format!("{} unanswered commands", state.unanswered.len()),
            "find out who appends them",
        );
    }
    if let Some(paused) = &state.paused {
        let by = paused.by.as_ref().map(|b| format!(" by {b}")).unwrap_or_default();
        return wait(state, "paused", format!("paused{by}; resume to go on"), vec![]);
    }
    if let Some(foreign) = foreign_change(state, observed, now) {
        return Next::Record(vec![foreign]);
    }
    if let Some(foreign) = &state.foreign {
        let why = format!("{} of {} was changed by somebody else: {}", foreign.what, foreign.node, foreign.found);
        return Next::Record(vec![UpdatePaused { by: None, why: Some(why) }.into()]);
    }
    if let Some(next) = approval_awaited(state) {
        return next;
    }
    if let Some(quiet) = quiet_after_take_over(observed, now) {
        return wait(
            state,
            "tookOver",
            "calls of the worker before may still be under way",
            vec![number("seconds left", quiet)],
        );
    }
    let forwards = state.request.as_ref().filter(|_| !state.rolls_back());
    if let Some(window) = forwards.and_then(|r| shut_window(r, observed)) {
        return window_closed(state, window);
    }
    // After any node that was in hand, also one that is taken again since it has no result any more.
    if let (Some(dwell), Some(ended)) = (forwards.and_then(|r| r.dwell_seconds), state.turn_ended) {
        // By this process's own clock: a calendar may be set back by hours.
        let rested = now.since(ended).as_secs_f64();
        if rested < dwell {
            let left = vec![number("seconds left", round_ms(dwell - rested))];
            return delayed(state, "dwelling", "resting between two nodes", left);
        }
    }
    select(state, observed, scene)
}

pub(super) fn approval_awaited(state: &State) -> Option<Next> {
    let awaited = state.awaited.as_ref()?;
    let detail = format!("{} awaits an approval that answers revision {}", awaited.gate, awaited.revision);
    Some(wait(state, "approvalAwaited", detail, vec![]))
}

/// The window that a request asks for, while it is shut.
pub(super) fn shut_window<'a>(request: &'a UpdateRequested, observed: &Observed<'_>) -> Option<&'a Window> {
    request.window.as_ref().filter(|w| !window::is_open(w, observed.wall))
}

pub(super) fn window_closed(state: &State, window: &Window) -> Next {
    let detail = format!("outside the window: {} for {} min, {}", window.cron, window.minutes, window.time_zone);
    delayed(state, WINDOW_CLOSED, detail, vec![])
}

/// The end that is due, if every node that was to be done or brought back is.
fn end(state: &State, observed: &Observed<'_>, now: Moment) -> Option<Event> {
    let rolls_back = state.rolls_back();
    if rolls_back && state.to_roll_back().next().is_some() {
        return None;
    }
    if let Some(failure) = state.failure.as_ref().filter(|_| !state.held()) {
        return Some(failure_end(state, observed, &failure.code, &failure.remedy, now));
    }
    if let Some(cancel) = &state.cancelled {
        return Some(cancelled(state, observed, cancel, now));
    }
    if let Some(rollback) = &state.rollback {
        let (by, why) = (rollback.by.clone(), rollback.why.clone());
        return Some(cancelled(state, observed, &CancelRequested { superseded_by: None, by, why }, now));
    }
    if state.failure.is_some() || state.remaining().next().is_some() {
        return None;
    }
    Some(
        UpdateCompleted {
            seconds: seconds_since_acceptance(state, observed.wall),
            nodes: outcomes(state),
            elections: state.elections,
            not_running: not_running(state, observed, now),
        }
        .into(),
    )
}

/// What somebody else changed, of an instance that is not in hand, where that is certain: EC2 may go on saying for a while what was true
/// before our own last change.
fn foreign_change(state: &State, observed: &Observed<'_>, now: Moment) -> Option<Event> {
    let plan = state.plan.as_ref()?;
    let request = state.request.as_ref()?;
    plan.members.iter().filter(|m| !state.foreign_nodes.contains(&m.node)).find_map(|m| {
        let seen = observed.instances.get(&m.instance)?;
        let settled = state.last_seen.is_some_and(|last| seen.at.since(last) >= SETTLE_AFTER)
            && seen.at.since(seen.state_since) >= SETTLE_AFTER;
        let expected = state.types.get(&m.node).unwrap_or(&m.old_type);
        let found = &seen.instance.instance_type;
        let ours =
            [&m.old_type, &m.new_type].contains(&found) || request.fallback_types.iter().flatten().any(|t| t == found);
        let change = |what: &str, found: String, expected: String| -> Event {
            ForeignChangeSeen {
                node: m.node.clone(),
                attempt: 1,
                what: what.into(),
                found,
                expected,
                observed: if what == FOREIGN_TYPE { type_evidence(seen, now) } else { ec2_evidence(seen, now) },
            }
            .into()
        };
        if found != expected && (settled || !ours) {
            return Some(change(FOREIGN_TYPE, found.to_string(), expected.to_string()));
        }
        if ran_when_last_known(state, m) && is_off(seen.instance.state) && settled {
            return Some(change(FOREIGN_STOP, attributed(&seen.instance), "running".into()));
        }
        None
    })
}

/// What there is to wait for while EC2 does not describe the instances: what is not seen is not touched.
pub(super) fn unseen(state: &State, observed: &Observed<'_>, seen: &InstanceSeen, now: Moment) -> Option<Next> {
    let why = observed.fleet_trouble?;
    let age = now.since(seen.at);
    let numbers = vec![number("seconds", age.as_secs_f64())];
    Some(if age > UNSEEN_AFTER {
        delayed(state, "describingInstances", why, numbers)
    } else {
        wait(state, "describingInstances", why, numbers)
    })
}

pub(super) fn is_off(state: InstanceState) -> bool {
    matches!(
        state,
        InstanceState::Stopping | InstanceState::Stopped | InstanceState::ShuttingDown | InstanceState::Terminated
    )
}

/// Whether a node's instance ran when it was planned, or when this update was done with it.
fn ran_when_last_known(state: &State, member: &PlannedMember) -> bool {
    state.results.contains_key(&member.node) || member.instance_state == Some(InstanceState::Running)
}

/// What is to be done to a node now: the strategy's change, or its way back.
pub(super) fn change(
    state: &State,
    request: &UpdateRequested,
    node: &NodeName,
    seen: &InstanceSeen,
    old_type: &InstanceType,
    rolling_back: bool,
) -> NodeChange {
    match state.member(node).filter(|_| rolling_back) {
        Some(member) => Strategy::way_back(&seen.instance, &member.old_type, old_type),
        None => request.strategy.change(request, node, &seen.instance, old_type),
    }
}

pub(super) fn quiet_after_take_over(observed: &Observed<'_>, now: Moment) -> Option<f64> {
    let at = observed.took_over_at?;
    let passed = now.since(at);
    (passed < TAKE_OVER_QUIET).then(|| (TAKE_OVER_QUIET - passed).as_secs_f64())
}

/// What comes next needs the instance that this worker runs on, with which it would die: that is another worker's, or a person sees to it.
pub(super) fn own_machine(
    state: &State,
    observed: &Observed<'_>,
    node: &NodeName,
    instance: &InstanceId,
    now: Moment,
) -> Option<Next> {
    if observed.own_instance != Some(instance) {
        return None;
    }
    let found = format!("{node} runs on {instance}, as this worker does");
    let told = state.delayed.as_ref().is_some_and(|d| d.reason == OWN_MACHINE);
    let unheard = told && state.last_seen.is_some_and(|at| now.since(at) > PERSON_AFTER);
    if unheard && state.parked.as_ref().is_none_or(|p| p.code != OWN_MACHINE) {
        return Some(park(OWN_MACHINE, found, OWN_MACHINE_REMEDY));
    }
    Some(for_another(state, OWN_MACHINE, node, found))
}

/// Code of an update that this worker cannot go on with, since it runs on the instance that comes next.
const OWN_MACHINE: &str = "ownMachine";

/// What a person should do then.
const OWN_MACHINE_REMEDY: &str =
    "run the worker elsewhere, or another one beside it: that one takes the update over by itself";

pub(super) fn park(code: &str, found: String, remedy: &str) -> Next {
    Next::Record(vec![UpdateParked { code: code.into(), found, remedy: remedy.into() }.into()])
}

/// Code of an update whose plan does not fit the cluster any more.
pub(super) const UNEXPECTED_MEMBER: &str = "unexpectedMember";

/// What a person should do then.
pub(super) const PLAN_AGAIN: &str =
    "the cluster has members that the plan does not know, or other voters: start a new update, which plans anew";

/// An end says which nodes run, so it waits until all of them are described. One that EC2 has forgotten, an hour after it was terminated, is
/// described no more.
pub(super) fn described_before_the_end(
    next: Next,
    state: &State,
    observed: &Observed<'_>,
    plan: &UpdatePlanned,
    now: Moment,
) -> Next {
    let ends = |facts: &[Event]| facts.iter().any(Event::ends_the_update);
    let waited = state.last_seen.map_or(Duration::ZERO, |at| now.since(at));
    if !matches!(&next, Next::Record(facts) if ends(facts)) || waited > FENCE_UNSEEN_MAX {
        return next;
    }
    let described = plan.members.iter().all(|m| observed.instances.contains_key(&m.instance));
    match observed.fleet_trouble.or((!described).then_some("before the end")) {
        Some(why) => wait(state, "describingInstances", why, vec![]),
        None => next,
    }
}

fn failure_end(state: &State, observed: &Observed<'_>, code: &str, remedy: &str, now: Moment) -> Event {
    UpdateFailed {
        code: code.into(),
        remedy: remedy.into(),
        seconds: seconds_since_acceptance(state, observed.wall),
        nodes: outcomes(state),
        elections: state.elections,
        not_running: not_running(state, observed, now),
    }
    .into()
}

/// Takes the next node in hand: a voter that is down or lags first, then replicas, then followers, the leader last.
pub(super) fn select(state: &State, observed: &Observed<'_>, scene: &Scene<'_>) -> Next {
    let rolling_back = state.rolls_back();
    let nodes: Vec<&NodeName> = if rolling_back { state.to_roll_back().collect() } else { state.remaining().collect() };
    let mut candidates = Vec::new();
    for node in nodes {
        let Some(member) = state.member(node) else { continue };
        let Some(seen) = observed.instances.get(&member.instance) else {
            let why = observed.fleet_trouble.unwrap_or("not described yet");
            return delayed(state, "describingInstances", why, vec![]);
        };
        let own = observed.watch.node(node).and_then(|t| t.own(scene.now));
        let role = match own {
            Some(own) if own.is_read_only_replica => Role::ReadOnlyReplica,
            Some(own) if own.state == NodeState::Leader => Role::Leader,
            Some(_) => Role::Follower,
            None => member.role,
        };
        let level = match observed.watch.node(node) {
            Some(track) => level(track, scene.watch.samples(), scene.max_delay, scene.now),
            None => Err(NotCaughtUp::Silent),
        };
        candidates.push((node, member, seen, role, level));
    }
    let confirming =
        |l: &Result<(), NotCaughtUp>| matches!(l, Err(NotCaughtUp::Confirming { .. } | NotCaughtUp::NoLeader));
    let ill = |role: Role, l: &Result<(), NotCaughtUp>| role != Role::ReadOnlyReplica && l.is_err() && !confirming(l);
    // A voter that is down or lags weakens the quorum already: taking it costs nothing more, taking another might cost everything.
    let first =
        candidates.iter().min_by_key(|(node, _, _, role, l)| (!ill(*role, l), plan::rank(*role), (*node).clone()));
    let Some((node, member, seen, role, level)) = first else {
        return wait(state, "nothingLeft", "no node is left", vec![]);
    };
    let request = match &state.request {
        Some(request) => request,
        None => return wait(state, "noRequest", "there is no request", vec![]),
    };
    if is_off(seen.instance.state) && ran_when_last_known(state, member) && !state.foreign_nodes.contains(*node) {
        return wait(state, "foreignStopSettling", format!("EC2 says that {node} is {}", seen.instance.state), vec![]);
    }
    let has = state.types.get(*node).unwrap_or(&member.old_type);
    let change = change(state, request, node, seen, has, rolling_back);
    if let Some(already) = &change.already
        && seen.instance.state == InstanceState::Running
    {
        return match level {
            Ok(()) if matches!(scene.agreement(None), Agreement::Yes { .. }) => Next::Record(vec![
                NodeSkipped {
                    node: (*node).clone(),
                    attempt: 1,
                    role: *role,
                    because: format!("{already}, it runs and has caught up"),
                    observed: safety::evidence(scene),
                }
                .into(),
            ]),
            Ok(()) => {
                let doubts: Vec<String> = scene.agreement(None).doubts().iter().map(ToString::to_string).collect();
                wait(state, "agreementAwaited", doubts.join(", "), vec![])
            }
            Err(why) => delayed(state, "nodeNotReady", format!("{node} {why}"), vec![]),
        };
    }
    if let Some(next) = unseen(state, observed, seen, scene.now) {
        return next;
    }
    if let Some(next) = own_machine(state, observed, node, &member.instance, scene.now) {
        return next;
    }
    // While it serves, waiting costs nothing; once it is down, each start that lacks capacity does.
    let lacked = change.return_types.first().and_then(|t| state.lacked.get(&(t.clone(), member.zone.clone())));
    if let Some(at) = lacked.filter(|at| scene.now.since(**at) < CAPACITY_COOLS)
        && seen.instance.state == InstanceState::Running
    {
        let left = CAPACITY_COOLS.saturating_sub(scene.now.since(*at));
        let detail = format!("{} lacked capacity a moment ago where {node} is", change.new_type);
        return delayed(state, "capacityAwaited", detail, vec![number("seconds left", left.as_secs_f64())]);
    }
    if let Some(gate) = open_gate(state, request, node, *role, rolling_back) {
        let detail = match gate {
            Gate::DataUnknown => format!(
                "it is unknown whether {} kept its data; compare its size with the others' before the next voter is stopped",
                state.data_unknown.iter().map(|(_, node)| node.as_str()).collect::<Vec<_>>().join(", ")
            ),
            Gate::BeforeLeader | Gate::AfterFirst | Gate::EachNode => format!("{node} is next"),
        };
        return Next::Record(vec![ApprovalAwaited { gate, node: Some((*node).clone()), detail }.into()]);
    }
    // Nothing is taken in hand before it may be taken out of service: so a wait here holds nothing.
    let blockers: Vec<Blocker> = safety::stop_blockers(scene, node)
        .into_iter()
        .filter(|b| !matches!(b, Blocker::Leads | Blocker::CalledLeader))
        .collect();
    if blockers.iter().any(|b| matches!(b, Blocker::UnexpectedMember(_))) {
        return Next::Record(vec![failure_end(state, observed, UNEXPECTED_MEMBER, PLAN_AGAIN, scene.now)]);
    }
    if let Some(first) = blockers.first() {
        return blocked(state, first, &format!("before {node}"), scene.now);
    }
    let because = match (level, role) {
        _ if rolling_back => format!("brought back to {}", change.new_type),
        (Err(why), Role::Leader | Role::Follower) if ill(*role, &Err(why.clone())) => {
            format!("it {why}: taken before all others")
        }
        (_, Role::ReadOnlyReplica) => "read-only replicas first".to_owned(),
        (_, Role::Follower) => "followers before the leader".to_owned(),
        (_, Role::Leader) => "the leader last".to_owned(),
    };
    let observed = safety::evidence(scene);
    Next::Record(vec![NodeSelected { node: (*node).clone(), attempt: 1, role: *role, because, observed }.into()])
}

/// Codes that are part of every healthy update and last for seconds.
pub(super) fn ordinary(blocker: &Blocker) -> bool {
    match blocker {
        Blocker::NoAgreement(_) | Blocker::CalledLeader => true,
        Blocker::VoterNotReady(_, why) => matches!(why, NotCaughtUp::Confirming { .. } | NotCaughtUp::NoLeader),
        Blocker::Leads
        | Blocker::TooFewVoters(_)
        | Blocker::OutOfService(_)
        | Blocker::NotPlanned
        | Blocker::UnexpectedMember(_) => false,
    }
}

pub(super) fn blocked(state: &State, blocker: &Blocker, what: &str, now: Moment) -> Next {
    let numbers = match blocker {
        Blocker::VoterNotReady(_, NotCaughtUp::Behind(d)) => vec![
            number("seconds behind", d.replication.duration().as_secs_f64()),
            number("seconds behind in the index", d.index.duration().as_secs_f64()),
        ],
        Blocker::VoterNotReady(_, NotCaughtUp::Confirming { refreshes, span }) => {
            vec![number("refreshes", *refreshes as f64), number("seconds spanned", span.as_secs_f64())]
        }
        Blocker::NoAgreement(doubts) => vec![number("doubts", doubts.len() as f64)],
        Blocker::VoterNotReady(..)
        | Blocker::Leads
        | Blocker::CalledLeader
        | Blocker::TooFewVoters(_)
        | Blocker::OutOfService(_)
        | Blocker::NotPlanned
        | Blocker::UnexpectedMember(_) => vec![],
    };
    let detail = format!("{what}: {blocker}");
    // Roles settle within seconds of a change of leader (recorded: median 1.5 s, once 16.8 s); what lasts longer is recorded.
    let settling = matches!(blocker, Blocker::VoterNotReady(_, NotCaughtUp::State(_) | NotCaughtUp::Epoch { .. }))
        && state.in_hand.as_ref().is_some_and(|h| now.since(h.step_seen) < RESIGNATION_TIMEOUT);
    // What belongs to every healthy update lasts for seconds.
    let since = state.in_hand.as_ref().map(|h| h.step_seen).or(state.last_seen);
    let lasting = since.is_some_and(|at| now.since(at) > LASTING);
    if settling || ordinary(blocker) && !lasting {
        wait(state, blocker.code(), detail, numbers)
    } else {
        delayed(state, blocker.code(), detail, numbers)
    }
}

fn open_gate(
    state: &State,
    request: &UpdateRequested,
    node: &NodeName,
    role: Role,
    rolling_back: bool,
) -> Option<Gate> {
    let approved = |gate: Gate| state.approved.contains(&(gate, Some(node.clone())));
    // Whoever asks to go back has approved of going back.
    let asked = |gate: Gate| !rolling_back && request.gates.iter().flatten().any(|g| *g == gate) && !approved(gate);
    let begun = state.results.values().any(|r| matches!(r.result, NodeResult::Updated | NodeResult::RolledBack));
    let done = state.results.values().filter(|r| r.result == NodeResult::Updated).count();
    let gates = [
        // Each node whose data is in doubt needs an approval, before the next voter.
        (Gate::DataUnknown, !state.data_unknown.is_empty() && role != Role::ReadOnlyReplica),
        (Gate::AfterFirst, asked(Gate::AfterFirst) && done == 1),
        (Gate::EachNode, asked(Gate::EachNode) && begun),
        (Gate::BeforeLeader, asked(Gate::BeforeLeader) && role == Role::Leader),
    ];
    gates.into_iter().find(|(_, open)| *open).map(|(gate, _)| gate)
}
