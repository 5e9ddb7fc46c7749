//! What comes next. Level-triggered: the answer follows from the state and from what is observed, never from what woke us.

use std::fmt;
use std::time::Duration;

use super::action::{Action, Again, Call, CallOutcome, Warrant};
use super::event::*;
use super::limits::*;
use super::observed::{InstanceSeen, Observed};
use super::plan::{self, Planning};
use super::safety::{self, Blocker, Scene};
use super::state::{
    CANCELLED, End, FOREIGN_STOP, InHand, STOP_NOT_DONE, State, Step, TURNED_BACK, UNANSWERED_MAX, round_ms,
};
use crate::domain::agreement::Agreement;
use crate::domain::catch_up::{DataKept, NotCaughtUp, judge_data, level};
use crate::domain::cluster::{MemberEntry, NodeState};
use crate::domain::ids::{InstanceType, NodeName, Revision};
use crate::domain::instance::InstanceState;
use crate::domain::time::Moment;

/// What comes next. Never nothing.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a decision that is not carried out is lost"]
pub enum Next {
    /// Make this call, after the audit.
    Act(Action),
    /// Append these facts, at exactly the revision that was folded.
    Record(Vec<Event>),
    /// Wait, and say why.
    Wait(Waiting),
    /// Nothing more will come, for this worker or at all.
    Done(Verdict),
}

/// Why nothing is done now, with the numbers a person would ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Stable code.
    pub code: &'static str,
    /// In words.
    pub detail: String,
    /// The numbers.
    pub numbers: Vec<Number>,
    /// The node in hand.
    pub node: Option<NodeName>,
    /// The step that waits.
    pub step: String,
    /// Whether it is out of the ordinary: then it is recorded as `StepDelayed`, once.
    pub delay: bool,
}

/// Why there is nothing more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The update has ended.
    Ended,
    /// Another worker holds it.
    HeldByAnother,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// Decides what comes next.
pub fn react(state: &State, observed: &Observed<'_>, now: Moment) -> Next {
    let Some(holder) = &state.holder else {
        return wait(state, "notAssigned", "no worker holds the update", vec![]);
    };
    if holder.incarnation != observed.me {
        return Next::Done(Verdict::HeldByAnother);
    }
    if let Some(answer) = answer_command(state) {
        return Next::Record(vec![answer]);
    }
    if state.end.is_some() {
        return Next::Done(Verdict::Ended);
    }
    if let Some(why) = &state.broken
        && state.in_hand.as_ref().is_none_or(|h| !h.step.out_of_service())
    {
        if state.parked.as_ref().is_some_and(|p| p.code == "historyIllegal") {
            return wait(state, "historyIllegal", why, vec![]);
        }
        return Next::Record(vec![
            UpdateParked {
                code: "historyIllegal".into(),
                found: why.clone(),
                remedy: "look at that event with `history`; a newer worker may have written it, or somebody forged it"
                    .into(),
            }
            .into(),
        ]);
    }
    let Some(plan) = &state.plan else { return before_plan(state, observed, now) };
    let scene = Scene { state, plan, watch: observed.watch, max_delay: observed.policy.max_replication_delay, now };
    match &state.in_hand {
        Some(hand) => Hand { state, hand, observed, scene, now }.react(),
        None => between_nodes(state, observed, &scene, now),
    }
}

fn waiting(state: &State, code: &'static str, detail: String, numbers: Vec<Number>, delay: bool) -> Next {
    let node = state.in_hand.as_ref().map(|h| h.node.clone());
    let step = state.in_hand.as_ref().map_or("between nodes", |h| h.step.name()).to_owned();
    Next::Wait(Waiting { code, detail, numbers, node, step, delay })
}

fn wait(state: &State, code: &'static str, detail: impl Into<String>, numbers: Vec<Number>) -> Next {
    waiting(state, code, detail.into(), numbers, false)
}

fn delayed(state: &State, code: &'static str, detail: impl Into<String>, numbers: Vec<Number>) -> Next {
    waiting(state, code, detail.into(), numbers, true)
}

fn number(name: &str, value: f64) -> Number {
    Number { name: name.into(), value: round_ms(value) }
}

fn refusal(command: CommandRef, code: &str, found: String, wanted: &str, remedy: &str) -> Event {
    let reasons = vec![Reason { code: code.into(), found, wanted: wanted.into(), remedy: remedy.into() }];
    CommandRefused { command, reasons }.into()
}

/// The fact that answers the oldest command that needs one now.
pub fn answer_command(state: &State) -> Option<Event> {
    for u in &state.unanswered {
        let command = CommandRef { type_name: u.type_name.clone(), revision: u.revision };
        let event = match &u.command {
            Err(problem) => {
                return Some(refusal(
                    command,
                    "unreadable",
                    problem.clone(),
                    "a command of the contract, as JSON",
                    "append a corrected command",
                ));
            }
            Ok(event) => event,
        };
        if state.end.is_some() {
            return Some(refusal(
                command,
                "ended",
                "an update that has ended".into(),
                "a running update",
                "start a new one",
            ));
        }
        let answer = match &**event {
            Event::UpdateRequested(_) => refusal(
                command,
                "secondRequest",
                "a second request".into(),
                "one request a stream",
                "append it to a fresh stream",
            ),
            Event::PauseRequested(c) if state.paused.is_none() => {
                UpdatePaused { by: c.by.clone(), why: c.why.clone() }.into()
            }
            Event::PauseRequested(_) => refusal(
                command,
                "alreadyPaused",
                "a paused update".into(),
                "a running update",
                "nothing needs to be done",
            ),
            Event::ResumeRequested(c) if state.paused.is_some() => {
                UpdateResumed { by: c.by.clone(), why: c.why.clone() }.into()
            }
            Event::ResumeRequested(_) => refusal(
                command,
                "notPaused",
                "an update that is not paused".into(),
                "a paused update",
                "nothing needs to be done",
            ),
            // Answered by its end, once every node runs.
            Event::CancelRequested(_) => continue,
            Event::ApprovalGranted(c) => {
                if state.granting.first() == Some(&u.revision) {
                    UpdateResumed { by: c.by.clone(), why: c.why.clone() }.into()
                } else {
                    refusal(
                        command,
                        "nothingToApprove",
                        format!("an answer to revision {}", c.answers),
                        "the revision of the last ApprovalAwaited, once",
                        "look for ApprovalAwaited with `history`",
                    )
                }
            }
            Event::RollbackRequested(_) | Event::RetryRequested(_) | Event::CheckWaived(_) => refusal(
                command,
                "notSupported",
                format!("{} to this version", u.type_name),
                "pause, resume, cancel or approve",
                "cancel, and start a new update with what is wanted",
            ),
            Event::WorkerAssigned(_)
            | Event::UpdateAccepted(_)
            | Event::UpdateRejected(_)
            | Event::UpdatePlanned(_)
            | Event::CommandRefused(_)
            | Event::NodeSelected(_)
            | Event::NodeSkipped(_)
            | Event::PriorityLoweringRequested(_)
            | Event::PriorityLowered(_)
            | Event::ResignationRequested(_)
            | Event::LeadershipTransferred(_)
            | Event::InstanceStopRequested(_)
            | Event::InstanceStopped(_)
            | Event::TypeModificationRequested(_)
            | Event::TypeModified(_)
            | Event::InstanceStartRequested(_)
            | Event::InstanceStarted(_)
            | Event::InstanceStartFailed(_)
            | Event::NodeRejoined(_)
            | Event::CaughtUp(_)
            | Event::ForeignChangeSeen(_)
            | Event::PriorityRestorationRequested(_)
            | Event::PriorityRestored(_)
            | Event::NodeUpdated(_)
            | Event::NodeRolledBack(_)
            | Event::NodeFailed(_)
            | Event::StepDelayed(_)
            | Event::ApprovalAwaited(_)
            | Event::UpdatePaused(_)
            | Event::UpdateResumed(_)
            | Event::UpdateParked(_)
            | Event::UpdateCompleted(_)
            | Event::UpdateFailed(_)
            | Event::UpdateCancelled(_)
            | Event::UpdateSuperseded(_) => continue,
        };
        return Some(answer);
    }
    None
}

fn before_plan(state: &State, observed: &Observed<'_>, now: Moment) -> Next {
    let reject = |reasons: Vec<Reason>| Next::Record(vec![UpdateRejected { reasons }.into()]);
    let Some(request) = &state.request else {
        return reject(state.bad_request.clone().into_iter().collect());
    };
    if let Some(cancel) = &state.cancelled {
        let found = format!("CancelRequested{}", cancel.by.as_ref().map(|b| format!(" by {b}")).unwrap_or_default());
        return reject(vec![Reason {
            code: "cancelled".into(),
            found,
            wanted: "a request that is still wanted".into(),
            remedy: "start a new update".into(),
        }]);
    }
    let reasons = plan::check_request(request, &observed.policy.allowed_types);
    if !reasons.is_empty() {
        return reject(reasons);
    }
    if let Some(at) = request.not_before.filter(|at| *at > observed.wall) {
        return wait(state, "notBefore", format!("not before {at}"), vec![]);
    }
    let taken = state.holder.as_ref().map_or(now, |h| h.seen);
    let Some(survey) = observed.survey else {
        return wait(state, "surveying", "the cluster and its instances are being looked at", vec![]);
    };
    match plan::plan(request, survey, observed, now) {
        Planning::Ready(plan, cluster_id) => {
            Next::Record(vec![UpdateAccepted { request: request.clone(), cluster_id }.into(), (*plan).into()])
        }
        Planning::Refused(reasons) => reject(reasons),
        Planning::Incomplete(missing) if now.since(taken) > SURVEY_TIMEOUT => reject(vec![Reason {
            code: "clusterNotObservable".into(),
            found: missing.join(", "),
            wanted: "an answer from every expected member and its instance".into(),
            remedy: "mend the cluster, or the worker's way to it, and ask again".into(),
        }]),
        Planning::Incomplete(missing) => wait(state, "surveying", missing.join(", "), vec![]),
    }
}

fn outcomes(state: &State) -> Vec<NodeOutcome> {
    let Some(plan) = &state.plan else { return Vec::new() };
    let pending = |node: &NodeName| NodeOutcome { node: node.clone(), result: NodeResult::Pending, left_in: None };
    plan.order.iter().map(|n| state.results.get(n).cloned().unwrap_or_else(|| pending(n))).collect()
}

fn seconds_since_acceptance(state: &State, wall: jiff::Timestamp) -> f64 {
    state.accepted_at.map_or(0.0, |at| round_ms(wall.duration_since(at).as_secs_f64().max(0.0)))
}

fn not_running(state: &State, observed: &Observed<'_>) -> Vec<NodeName> {
    let Some(plan) = &state.plan else { return Vec::new() };
    let runs = |m: &&PlannedMember| {
        observed.instances.get(&m.instance).is_some_and(|s| s.instance.state == InstanceState::Running)
    };
    plan.members.iter().filter(|m| !runs(m)).map(|m| m.node.clone()).collect()
}

fn cancelled(state: &State, observed: &Observed<'_>, cancel: &CancelRequested) -> Event {
    UpdateCancelled {
        by: cancel.by.clone(),
        why: cancel.why.clone(),
        seconds: seconds_since_acceptance(state, observed.wall),
        nodes: outcomes(state),
        elections: state.elections,
        not_running: not_running(state, observed),
    }
    .into()
}

fn between_nodes(state: &State, observed: &Observed<'_>, scene: &Scene<'_>, now: Moment) -> Next {
    let seconds = seconds_since_acceptance(state, observed.wall);
    if state.failure.is_some() || state.cancelled.is_some() || state.remaining().next().is_none() {
        // An end says which nodes run, so all of them must have been described since.
        if observed.fleet_trouble.is_some()
            || !scene.plan.members.iter().all(|m| observed.instances.contains_key(&m.instance))
        {
            return wait(state, "describingInstances", observed.fleet_trouble.unwrap_or("before the end"), vec![]);
        }
    }
    if let Some(failure) = &state.failure {
        return Next::Record(vec![
            UpdateFailed {
                code: failure.code.clone(),
                remedy: failure.remedy.clone(),
                seconds,
                nodes: outcomes(state),
                elections: state.elections,
                not_running: not_running(state, observed),
            }
            .into(),
        ]);
    }
    if let Some(cancel) = &state.cancelled {
        return Next::Record(vec![cancelled(state, observed, cancel)]);
    }
    if state.remaining().next().is_none() {
        return Next::Record(vec![
            UpdateCompleted {
                seconds,
                nodes: outcomes(state),
                elections: state.elections,
                not_running: not_running(state, observed),
            }
            .into(),
        ]);
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
    if let Some(awaited) = &state.awaited {
        return wait(
            state,
            "approvalAwaited",
            format!("{} awaits an approval that answers revision {}", awaited.gate, awaited.revision),
            vec![],
        );
    }
    if let Some(quiet) = quiet_after_take_over(observed, now) {
        return wait(
            state,
            "tookOver",
            "calls of the worker before may still be under way",
            vec![number("seconds left", quiet)],
        );
    }
    if let Some(dwell) = state.request.as_ref().and_then(|r| r.dwell_seconds).filter(|_| !state.results.is_empty()) {
        // By this process's own clock: a calendar may be set back by hours.
        let rested = state.last_seen.map_or(0.0, |at| now.since(at).as_secs_f64());
        if rested < dwell {
            return wait(state, "dwelling", "resting between two nodes", vec![number("seconds left", dwell - rested)]);
        }
    }
    select(state, observed, scene)
}

fn quiet_after_take_over(observed: &Observed<'_>, now: Moment) -> Option<f64> {
    let at = observed.took_over_at?;
    let passed = now.since(at);
    (passed < TAKE_OVER_QUIET).then(|| (TAKE_OVER_QUIET - passed).as_secs_f64())
}

fn park(code: &str, found: String, remedy: &str) -> Next {
    Next::Record(vec![UpdateParked { code: code.into(), found, remedy: remedy.into() }.into()])
}

/// Takes the next node in hand: a voter that is down or lags first, then replicas, then followers, the leader last.
fn select(state: &State, observed: &Observed<'_>, scene: &Scene<'_>) -> Next {
    let mut candidates = Vec::new();
    for node in state.remaining() {
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
    let change = request.strategy.change(request, &seen.instance, &member.old_type);
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
    if let Some(gate) = open_gate(state, request, node, *role) {
        let detail = match gate {
            Gate::DataUnknown => format!(
                "it is unknown whether {} kept its data; compare its size with the others' before the next voter is stopped",
                state.data_unknown.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
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
    if let Some(first) = blockers.first() {
        return blocked(state, first, &format!("before {node}"), scene.now);
    }
    let because = match (level, role) {
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
fn ordinary(blocker: &Blocker) -> bool {
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

fn blocked(state: &State, blocker: &Blocker, what: &str, now: Moment) -> Next {
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
    if settling || ordinary(blocker) {
        wait(state, blocker.code(), detail, numbers)
    } else {
        delayed(state, blocker.code(), detail, numbers)
    }
}

fn open_gate(state: &State, request: &UpdateRequested, node: &NodeName, role: Role) -> Option<Gate> {
    let asked = |gate: Gate| request.gates.iter().flatten().any(|g| *g == gate);
    let approved = |gate: Gate| state.approved.contains(&(gate, Some(node.clone())));
    let begun = state.results.values().any(|r| matches!(r.result, NodeResult::Updated | NodeResult::RolledBack));
    let done = state.results.values().filter(|r| r.result == NodeResult::Updated).count();
    let gates = [
        (Gate::DataUnknown, !state.data_unknown.is_empty() && role != Role::ReadOnlyReplica && !data_approved(state)),
        (Gate::AfterFirst, asked(Gate::AfterFirst) && done == 1),
        (Gate::EachNode, asked(Gate::EachNode) && begun),
        (Gate::BeforeLeader, asked(Gate::BeforeLeader) && role == Role::Leader),
    ];
    gates.into_iter().find(|(gate, open)| *open && !approved(*gate)).map(|(gate, _)| gate)
}

/// Each node whose data is in doubt needs an approval of its own.
fn data_approved(state: &State) -> bool {
    state.approved.iter().filter(|(gate, _)| *gate == Gate::DataUnknown).count() >= state.data_unknown.len()
}

/// The node in hand and everything to judge it by.
struct Hand<'a> {
    state: &'a State,
    hand: &'a InHand,
    observed: &'a Observed<'a>,
    scene: Scene<'a>,
    now: Moment,
}

/// What became of the open intent.
enum IntentStatus<'a> {
    /// It stands, within its window, and its call has not been made.
    MayCall,
    /// Its call is being made, or was accepted.
    Called,
    /// Its call was refused.
    Refused { code: &'a str, message: &'a str, again: Again, at: Moment },
    /// Whether a call was made, and with which outcome, is unknown: a call may still be under way until `settled`.
    Unresolved { settled: bool },
}

impl Hand<'_> {
    fn react(&self) -> Next {
        let step = self.hand.step;
        if !step.out_of_service()
            && step != Step::CaughtUp
            && let Some(next) = self.quiet()
        {
            return next;
        }
        match step {
            Step::Selected | Step::PriorityLowered | Step::Transferred => self.in_service(),
            Step::LoweringPriority => self.lowering(),
            Step::Resigning => self.resigning(),
            Step::Stopping => self.stopping(),
            Step::Stopped | Step::Modified | Step::StartFailed => self.stopped(),
            Step::Modifying => self.modifying(),
            Step::Starting => self.starting(),
            Step::Started => self.started(),
            Step::Rejoined => self.rejoined(),
            Step::CaughtUp => self.caught_up(),
            Step::RestoringPriority => self.restoring(),
        }
    }

    /// What there is to wait for after a take-over, if that was a moment ago.
    fn quiet(&self) -> Option<Next> {
        let left = quiet_after_take_over(self.observed, self.now)?;
        Some(self.wait(
            "tookOver",
            "calls of the worker before may still be under way",
            vec![number("seconds left", left)],
        ))
    }

    fn wait(&self, code: &'static str, detail: impl Into<String>, numbers: Vec<Number>) -> Next {
        wait(self.state, code, detail, numbers)
    }

    fn delayed(&self, code: &'static str, detail: impl Into<String>, numbers: Vec<Number>) -> Next {
        delayed(self.state, code, detail, numbers)
    }

    fn node(&self) -> NodeName {
        self.hand.node.clone()
    }

    fn own(&self) -> Option<&MemberEntry> {
        self.observed.watch.node(&self.hand.node).and_then(|t| t.own(self.now))
    }

    fn seen(&self) -> Option<&InstanceSeen> {
        self.observed.instances.get(&self.hand.instance)
    }

    fn ec2(&self, seen: &InstanceSeen) -> Ec2Word {
        let request_id = match self.observed.intent.and_then(|i| i.called.as_ref()) {
            Some((_, Some(CallOutcome::Accepted { request_id }))) => request_id.clone(),
            Some((_, Some(CallOutcome::Refused { .. } | CallOutcome::Unknown { .. }) | None)) | None => None,
        };
        Ec2Word { state: seen.instance.state, reason: seen.instance.state_reason.clone(), request_id }
    }

    fn ec2_evidence(&self, seen: &InstanceSeen) -> Vec<Evidence> {
        vec![Evidence {
            what: format!("{} is {} as {}", seen.instance.id, seen.instance.state, seen.instance.instance_type),
            by: "ec2".into(),
            age_seconds: round_ms(self.now.since(seen.at).as_secs_f64()),
        }]
    }

    fn no_description(&self) -> Next {
        match self.observed.fleet_trouble {
            Some(why) => self.delayed("describingInstances", why, vec![]),
            None => self.wait("describingInstances", "the instance has not been described yet", vec![]),
        }
    }

    fn act(&self, call: Call) -> Next {
        let revision = self.hand.intent.as_ref().map_or(Revision(0), |i| i.revision);
        Next::Act(Action { node: self.node(), call, warrant: Warrant::Intent(revision) })
    }

    fn intent(&self) -> IntentStatus<'_> {
        let Some(open) = &self.hand.intent else { return IntentStatus::Unresolved { settled: true } };
        let mine = self.observed.intent.filter(|i| i.revision == open.revision);
        match mine {
            Some(i) => match &i.called {
                None if self.now.since(i.first_sent) <= ACT_WINDOW => IntentStatus::MayCall,
                // Ours, never called, and now never to be.
                None => IntentStatus::Unresolved { settled: true },
                Some((_, None | Some(CallOutcome::Accepted { .. }))) => IntentStatus::Called,
                Some((at, Some(CallOutcome::Refused { code, message, again }))) => {
                    IntentStatus::Refused { code, message, again: *again, at: *at }
                }
                Some((at, Some(CallOutcome::Unknown { .. }))) => {
                    IntentStatus::Unresolved { settled: self.now.since(*at) >= EC2_CALL_TIMEOUT + SETTLE_AFTER }
                }
            },
            // Found on reading: another process wrote it, or this one before it lost its memory of it.
            None => IntentStatus::Unresolved {
                settled: self.now.since(open.seen) >= ACT_WINDOW + EC2_CALL_TIMEOUT + SETTLE_AFTER,
            },
        }
    }

    /// The node is in service: lower, resign, stop; or give up while that costs nothing.
    fn in_service(&self) -> Next {
        if self.state.cancelled.is_some() || self.state.failure.is_some() {
            return self.fail_in_service(CANCELLED, "start a new update when it is wanted");
        }
        if self.over_time() {
            return self.fail_in_service(
                "nodeTimedOut",
                "find out why the node could not be taken out of service; see the StepDelayed facts",
            );
        }
        if let Some(paused) = &self.state.paused {
            let by = paused.by.as_ref().map(|b| format!(" by {b}")).unwrap_or_default();
            return self.wait("paused", format!("paused{by}; resume to go on"), vec![]);
        }
        if let Some(found) = &self.hand.stop_refused {
            return self.fail_in_service("stopRefused", &format!("EC2 refused the stop: {found}"));
        }
        let Some(seen) = self.seen() else { return self.no_description() };
        match seen.instance.state {
            InstanceState::Terminated | InstanceState::ShuttingDown => {
                return self
                    .fail_in_service("instanceTerminated", "somebody terminated the instance; replace the node");
            }
            InstanceState::Pending
            | InstanceState::Running
            | InstanceState::Stopping
            | InstanceState::Stopped
            | InstanceState::Unrecognized => {}
        }
        let blockers = safety::stop_blockers(&self.scene, &self.hand.node);
        if blockers.contains(&Blocker::Leads) {
            return self.make_follow();
        }
        if let Some(first) = blockers.first() {
            return blocked(self.state, first, "before its stop", self.now);
        }
        self.request_stop(seen)
    }

    fn request_stop(&self, seen: &InstanceSeen) -> Next {
        let Some(request) = &self.state.request else {
            return self.wait("noRequest", "there is no request", vec![]);
        };
        let change = request.strategy.change(request, &seen.instance, &self.hand.old_type);
        let own = self.own();
        let samples = self.observed.watch.samples();
        let baseline = own.zip(samples.writer().zip(samples.commit())).map(|(own, (leader_writer, leader_commit))| {
            crate::domain::catch_up::Baseline {
                node_writer: own.writer,
                node_commit: own.last_commit,
                leader_writer,
                leader_commit,
            }
        });
        Next::Record(vec![
            InstanceStopRequested {
                node: self.node(),
                attempt: self.hand.next_attempt(Step::Stopping),
                instance: self.hand.instance.clone(),
                return_types: change.return_types,
                baseline,
                process: own.map(|o| o.process),
                observed: safety::evidence(&self.scene),
            }
            .into(),
        ])
    }

    fn lowest_other_priority(&self) -> i32 {
        let others =
            self.scene.plan.members.iter().map(|m| &m.node).filter(|n| **n != self.hand.node && self.scene.is_voter(n));
        others
            .filter_map(|n| self.observed.watch.node(n).and_then(|t| t.last_own()))
            .map(|own| own.priority)
            .min()
            .unwrap_or(0)
    }

    /// The node leads: its priority first, then it resigns, until it follows.
    fn make_follow(&self) -> Next {
        if self.state.cancelled.is_some() || self.state.failure.is_some() {
            return self.fail_in_service(CANCELLED, "start a new update when it is wanted");
        }
        let Some(own) = self.own() else { return self.wait("nodeSilent", "the leader does not answer", vec![]) };
        let wanted = self.lowest_other_priority().saturating_sub(1);
        if own.priority > wanted {
            let attempt = self.hand.next_attempt(Step::LoweringPriority);
            if attempt > PRIORITY_TRIES_MAX {
                return self.fail_in_service(
                    "priorityNotLowered",
                    "the node takes no priority: check its rights and its /admin endpoints",
                );
            }
            return Next::Record(vec![
                PriorityLoweringRequested {
                    node: self.node(),
                    attempt,
                    original: self.hand.lowered.map_or(own.priority, |l| l.original),
                    priority: wanted,
                    observed: safety::evidence(&self.scene),
                }
                .into(),
            ]);
        }
        if self.hand.resignations >= RESIGNATIONS_MAX {
            return self.fail_in_service(
                "leaderDoesNotResign",
                "the leader went on leading; look at its log, and whether every voter reaches every other",
            );
        }
        let blockers = safety::resign_blockers(&self.scene, &self.hand.node);
        if let Some(first) = blockers.first() {
            return blocked(self.state, first, "before its resignation", self.now);
        }
        Next::Record(vec![
            ResignationRequested {
                node: self.node(),
                attempt: self.hand.resignations + 1,
                from: own.process,
                observed: safety::evidence(&self.scene),
            }
            .into(),
        ])
    }

    fn lowering(&self) -> Next {
        let (Some(lowered), Some(own)) = (self.hand.lowered, self.own()) else {
            return self.wait("nodeSilent", "the node does not answer", vec![]);
        };
        if own.priority == lowered.to {
            return Next::Record(vec![
                PriorityLowered {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    original: lowered.original,
                    priority: lowered.to,
                    observed: safety::evidence(&self.scene),
                }
                .into(),
            ]);
        }
        match self.intent() {
            IntentStatus::MayCall => self.act(Call::SetPriority { address: own.address.clone(), priority: lowered.to }),
            IntentStatus::Called | IntentStatus::Refused { .. } | IntentStatus::Unresolved { .. }
                if self.intent_age() < PRIORITY_TIMEOUT =>
            {
                self.wait("priorityAwaited", format!("its entry still says {}", own.priority), vec![])
            }
            IntentStatus::Called | IntentStatus::Refused { .. } | IntentStatus::Unresolved { .. } => {
                if self.hand.attempt >= PRIORITY_TRIES_MAX {
                    return self.fail_in_service(
                        "priorityNotLowered",
                        "the node takes no priority: check its rights and its /admin endpoints",
                    );
                }
                Next::Record(vec![
                    PriorityLoweringRequested {
                        node: self.node(),
                        attempt: self.hand.attempt + 1,
                        original: lowered.original,
                        priority: lowered.to,
                        observed: safety::evidence(&self.scene),
                    }
                    .into(),
                ])
            }
        }
    }

    fn intent_age(&self) -> Duration {
        self.hand.intent.as_ref().map_or(Duration::ZERO, |i| self.now.since(i.seen))
    }

    fn resigning(&self) -> Next {
        let agreement = self.scene.agreement(None);
        if let Agreement::Yes { node: leader, epoch, .. } = &agreement
            && leader != &self.hand.node
            && self.own().is_some_and(|own| own.state == NodeState::Follower)
        {
            return Next::Record(vec![
                LeadershipTransferred {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    new_leader: leader.clone(),
                    epoch: *epoch,
                    observed: safety::evidence(&self.scene),
                }
                .into(),
            ]);
        }
        if let IntentStatus::MayCall = self.intent() {
            return match self.own() {
                Some(own) => self.act(Call::Resign { address: own.address.clone() }),
                None => self.wait("nodeSilent", "the leader does not answer", vec![]),
            };
        }
        let leads_still = agreement.leader_node() == Some(&self.hand.node);
        if self.intent_age() < RESIGNATION_TIMEOUT || !leads_still {
            let doubts: Vec<String> = agreement.doubts().iter().map(ToString::to_string).collect();
            let detail = if leads_still { "it still leads".to_owned() } else { doubts.join(", ") };
            let numbers = vec![number("seconds", self.intent_age().as_secs_f64())];
            if self.intent_age() > 2 * RESIGNATION_TIMEOUT {
                return self.delayed("electionAwaited", detail, numbers);
            }
            return self.wait("electionAwaited", detail, numbers);
        }
        if self.hand.resignations >= RESIGNATIONS_MAX {
            return self.fail_in_service(
                "leaderDoesNotResign",
                "the leader went on leading; look at its log, and whether every voter reaches every other",
            );
        }
        self.make_follow()
    }

    /// Ends the node's turn while it is in service. An open intent is settled by its age: nothing it could still do would stop a node.
    fn fail_in_service(&self, code: &str, remedy: &str) -> Next {
        match self.hand.lowered {
            Some(lowered) => self.restore(lowered.original, 1),
            None => Next::Record(vec![self.way_out(code, remedy)]),
        }
    }

    /// The last fact about a node that goes on serving: the update's cancellation, or this node's failure.
    fn way_out(&self, code: &str, remedy: &str) -> Event {
        if let (Some(cancel), None) = (&self.state.cancelled, &self.state.failure) {
            return cancelled(self.state, self.observed, cancel);
        }
        let left_in = match self.seen() {
            Some(seen) => format!("{} as {}", seen.instance.state, seen.instance.instance_type),
            None => "not described".to_owned(),
        };
        NodeFailed {
            node: self.node(),
            attempt: 1,
            code: code.into(),
            remedy: remedy.into(),
            left_in,
            observed: safety::evidence(&self.scene),
        }
        .into()
    }

    fn restore(&self, priority: i32, attempt: u32) -> Next {
        Next::Record(vec![
            PriorityRestorationRequested {
                node: self.node(),
                attempt,
                priority,
                observed: safety::evidence(&self.scene),
            }
            .into(),
        ])
    }

    fn restoring(&self) -> Next {
        let Some(lowered) = self.hand.lowered else { return self.in_service() };
        let restored = |by| {
            Next::Record(vec![
                PriorityRestored {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    priority: lowered.original,
                    by,
                    observed: safety::evidence(&self.scene),
                }
                .into(),
                self.failure_after_restoring(),
            ])
        };
        let Some(own) = self.own() else { return self.delayed("nodeSilent", "the node does not answer", vec![]) };
        if own.priority == lowered.original {
            return restored(RestoredBy::Call);
        }
        match self.intent() {
            IntentStatus::MayCall => {
                self.act(Call::SetPriority { address: own.address.clone(), priority: lowered.original })
            }
            IntentStatus::Called | IntentStatus::Refused { .. } | IntentStatus::Unresolved { .. }
                if self.intent_age() < PRIORITY_TIMEOUT * self.hand.attempt.min(12) =>
            {
                self.wait("priorityAwaited", format!("its entry still says {}", own.priority), vec![])
            }
            // It is given back whatever it takes: a node left at the lowest priority would lose every election to come.
            IntentStatus::Called | IntentStatus::Refused { .. } | IntentStatus::Unresolved { .. } => {
                self.restore(lowered.original, self.hand.attempt + 1)
            }
        }
    }

    /// Restoring is only ever done on the way out: why is told by what else stands in the stream.
    fn failure_after_restoring(&self) -> Event {
        if let Some(found) = &self.hand.stop_refused {
            self.way_out("stopRefused", &format!("EC2 refused the stop: {found}"))
        } else if self.hand.resignations >= RESIGNATIONS_MAX {
            self.way_out(
                "leaderDoesNotResign",
                "the leader went on leading; look at its log, and whether every voter reaches every other",
            )
        } else if self.over_time() {
            self.way_out(
                "nodeTimedOut",
                "find out why the node could not be taken out of service; see the StepDelayed facts",
            )
        } else {
            self.way_out("nodeLetGo", "see the facts before this one")
        }
    }

    fn over_time(&self) -> bool {
        let limit = self.state.request.as_ref().and_then(|r| r.node_timeout_seconds);
        let limit = limit.map_or(NODE_TIMEOUT, Duration::from_secs_f64);
        self.now.since(self.hand.selected_seen) > limit
    }

    fn stopping(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        match seen.instance.state {
            InstanceState::Stopped if self.ticket_open() => return self.use_ticket(seen),
            InstanceState::Stopped if self.own().is_some() => {
                // EC2 says what was true some seconds ago: on a stopped instance nobody answers.
                return self.wait("instanceStopping", "EC2 says stopped, and the node answers", vec![]);
            }
            InstanceState::Stopped => {
                return Next::Record(vec![
                    InstanceStopped {
                        node: self.node(),
                        attempt: self.hand.attempt,
                        instance: self.hand.instance.clone(),
                        instance_type: seen.instance.instance_type.clone(),
                        ec2: self.ec2(seen),
                        observed: self.ec2_evidence(seen),
                    }
                    .into(),
                ]);
            }
            InstanceState::Stopping | InstanceState::Pending => {
                let since = self.now.since(self.hand.step_seen);
                let numbers = vec![number("seconds", since.as_secs_f64())];
                if since > STOP_TIMEOUT {
                    return self.parked(
                        "instanceStopsNot",
                        format!("{} is {} after {} s", seen.instance.id, seen.instance.state, since.as_secs()),
                        "look at the instance in EC2; AWS support frees a stuck host",
                    );
                }
                return self.wait("instanceStopping", format!("EC2 says {}", seen.instance.state), numbers);
            }
            InstanceState::Terminated | InstanceState::ShuttingDown => {
                return self.parked(
                    "instanceTerminated",
                    format!("{} is {}", seen.instance.id, seen.instance.state),
                    "somebody terminated the instance; replace the node",
                );
            }
            InstanceState::Running | InstanceState::Unrecognized => {}
        }
        let restarted = self.own().is_some_and(|own| Some(own.process) != self.hand.process_before)
            && self.hand.process_before.is_some();
        if seen.instance.state == InstanceState::Running && (restarted || self.observed.ticket_called.is_some()) {
            // Stopped and started again while nothing could be recorded: by the return ticket, or by a person.
            return self.stopped_and_started(seen);
        }
        // Running: the call was not made yet, or did not come to pass, or EC2 does not show it yet.
        match self.intent() {
            IntentStatus::MayCall => {
                let blockers = safety::stop_blockers(&self.scene, &self.hand.node);
                match blockers.first() {
                    None => self.act(Call::StopInstance { instance: self.hand.instance.clone() }),
                    // What was true a moment ago is not any more: let the window pass, and begin again.
                    Some(first) => blocked(self.state, first, "the stop was called off", self.now),
                }
            }
            IntentStatus::Called => {
                self.wait("instanceStopping", "EC2 accepted the stop and still says running", vec![])
            }
            IntentStatus::Refused { code, message, again, at } => {
                let rest = CALL_RETRY_AFTER * self.hand.attempt;
                let may_repeat =
                    matches!(again, Again::Soon | Again::WithCapacity) && self.hand.attempt < CALL_TRIES_MAX;
                if may_repeat && self.now.since(at) < rest {
                    return self.delayed(
                        "ec2Refused",
                        format!("{code}: {message}"),
                        vec![number("try", f64::from(self.hand.attempt))],
                    );
                }
                if may_repeat && !self.turning_back() {
                    return self.stop_again(seen);
                }
                self.not_stopped(code, message)
            }
            IntentStatus::Unresolved { settled } => {
                let alive = seen.times >= 2 && seen.state_since.0 <= self.now.0 && self.refreshed_since_intent();
                if !settled || !alive {
                    let numbers = vec![number("seconds", self.intent_age().as_secs_f64())];
                    return self.wait("stopUnresolved", "it is unknown whether the stop was called", numbers);
                }
                if self.turning_back() { self.not_stopped(TURNED_BACK, "") } else { self.stop_again(seen) }
            }
        }
    }

    fn stopped_and_started(&self, seen: &InstanceSeen) -> Next {
        let stopped = InstanceStopped {
            node: self.node(),
            attempt: self.hand.attempt,
            instance: self.hand.instance.clone(),
            instance_type: seen.instance.instance_type.clone(),
            ec2: self.ec2(seen),
            observed: safety::evidence(&self.scene),
        };
        let Next::Record(started) = self.runs_without_us(seen) else {
            return self.wait("instanceStarting", format!("EC2 says {}", seen.instance.state), vec![]);
        };
        Next::Record([stopped.into()].into_iter().chain(started).collect())
    }

    fn turning_back(&self) -> bool {
        self.state.cancelled.is_some() || self.state.paused.is_some() || self.state.failure.is_some()
    }

    /// The node's own entry has been refreshed after the intent's call could have been made.
    fn refreshed_since_intent(&self) -> bool {
        let Some(open) = &self.hand.intent else { return true };
        let last = self.observed.watch.node(&self.hand.node).and_then(|t| t.refreshes.back());
        last.is_some_and(|r| r.at > open.seen)
    }

    fn stop_again(&self, seen: &InstanceSeen) -> Next {
        if let Some(next) = self.quiet() {
            return next;
        }
        let blockers = safety::stop_blockers(&self.scene, &self.hand.node);
        if blockers.contains(&Blocker::Leads) {
            return self.not_stopped(TURNED_BACK, "");
        }
        match blockers.first() {
            Some(first) => blocked(self.state, first, "before its stop", self.now),
            None => self.request_stop(seen),
        }
    }

    /// The stop did not happen and will not: EC2 says running, the node goes on serving.
    fn not_stopped(&self, code: &str, message: &str) -> Next {
        let detail = if message.is_empty() { code.to_owned() } else { format!("{code}: {message}") };
        Next::Record(vec![
            ForeignChangeSeen {
                node: self.node(),
                attempt: self.hand.attempt,
                what: STOP_NOT_DONE.into(),
                found: detail,
                expected: "an instance that stops".into(),
                observed: self.seen().map(|s| self.ec2_evidence(s)).unwrap_or_default(),
            }
            .into(),
        ])
    }

    fn parked(&self, code: &'static str, found: String, remedy: &str) -> Next {
        match &self.state.parked {
            Some(p) if p.code == code => self.wait(code, found, vec![]),
            Some(_) | None => park(code, found, remedy),
        }
    }

    /// The type the node is to be started with now, and why if that is not the wanted one.
    fn type_to_start(&self) -> InstanceType {
        let types = &self.hand.return_types;
        let last = types.last().cloned().unwrap_or_else(|| self.hand.old_type.clone());
        let hurry = self.state.failure.is_some() || self.state.cancelled.is_some() || !self.others_fine();
        if hurry {
            return last;
        }
        let usable = |t: &&InstanceType| {
            let fails: Vec<_> = self.hand.failed_starts.iter().filter(|f| &f.instance_type == *t).collect();
            let lacking = fails.iter().filter(|f| lacks_capacity(&f.code)).count();
            fails.iter().all(|f| f.again) && lacking < CAPACITY_TRIES_MAX && fails.len() < CALL_TRIES_MAX as usize
        };
        types.iter().find(usable).cloned().unwrap_or(last)
    }

    /// Whether every other voter answers. If one does not, the quorum hangs by a thread, and only the type that surely starts will do.
    fn others_fine(&self) -> bool {
        self.scene.plan.members.iter().map(|m| &m.node).filter(|n| **n != self.hand.node && self.scene.is_voter(n)).all(
            |n| {
                self.observed
                    .watch
                    .node(n)
                    .is_some_and(|t| t.silent_since.is_none_or(|since| self.now.since(since) < NODE_CALL_TIMEOUT))
            },
        )
    }

    /// Whether the return ticket is open: the store has had no leader for long enough, and nobody in it reports one.
    fn ticket_open(&self) -> bool {
        let store = self.observed.store;
        let after = if self.observed.took_over_at.is_some() { TICKET_AFTER_REPLACEMENT } else { TICKET_AFTER };
        store.away_since.is_some_and(|since| self.now.since(since) >= after) && store.leader_reported == Some(false)
    }

    fn stopped(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        match seen.instance.state {
            InstanceState::Running | InstanceState::Pending => return self.runs_without_us(seen),
            InstanceState::Terminated | InstanceState::ShuttingDown => {
                return self.parked(
                    "instanceTerminated",
                    format!("{} is {}", seen.instance.id, seen.instance.state),
                    "somebody terminated the instance; replace the node",
                );
            }
            InstanceState::Stopping | InstanceState::Unrecognized => {
                return self.wait("instanceStopping", format!("EC2 says {}", seen.instance.state), vec![]);
            }
            InstanceState::Stopped => {}
        }
        if self.ticket_open() {
            return self.use_ticket(seen);
        }
        let wanted = self.type_to_start();
        if let Some(last) = self.hand.failed_starts.last().filter(|_| self.hand.step == Step::StartFailed)
            && let Some(next) = self.rest_after_failure(last, &wanted)
        {
            return next;
        }
        if seen.instance.instance_type == wanted {
            return Next::Record(vec![
                InstanceStartRequested {
                    node: self.node(),
                    attempt: self.starts_so_far() + 1,
                    instance: self.hand.instance.clone(),
                    instance_type: wanted,
                    observed: self.ec2_evidence(seen),
                }
                .into(),
            ]);
        }
        Next::Record(vec![
            TypeModificationRequested {
                node: self.node(),
                attempt: self.hand.next_attempt(Step::Modifying),
                instance: self.hand.instance.clone(),
                instance_type: wanted,
                observed: self.ec2_evidence(seen),
            }
            .into(),
        ])
    }

    fn starts_so_far(&self) -> u32 {
        u32::try_from(self.hand.failed_starts.len()).unwrap_or(u32::MAX)
    }

    fn rest_after_failure(&self, last: &super::state::FailedStart, wanted: &InstanceType) -> Option<Next> {
        if &last.instance_type != wanted {
            return None;
        }
        let fails = self.hand.failed_starts.iter().filter(|f| &f.instance_type == wanted).count();
        let first = self.hand.failed_starts.iter().find(|f| &f.instance_type == wanted).map_or(last.seen, |f| f.seen);
        let is_last = self.hand.return_types.last() == Some(wanted);
        let numbers = vec![number("failed starts", fails as f64)];
        if is_last && self.now.since(first) > START_TIMEOUT {
            let found = format!("{} does not start as {}: {}", self.hand.instance, wanted, last.code);
            let remedy = "start the instance by hand, with any type; the update goes on when it runs";
            // It is still tried again, slowly: capacity may come back while the person is on the way.
            if self.state.parked.as_ref().is_none_or(|p| p.code != "instanceWillNotStart") {
                return Some(park("instanceWillNotStart", found, remedy));
            }
            if self.now.since(last.seen) < START_TIMEOUT {
                return Some(self.wait("instanceWillNotStart", found, numbers));
            }
            return None;
        }
        let rest = if lacks_capacity(&last.code) {
            CAPACITY_RETRY_AFTER
        } else {
            CALL_RETRY_AFTER * u32::try_from(fails).unwrap_or(u32::MAX).min(CALL_TRIES_MAX)
        };
        if self.now.since(last.seen) < rest {
            return Some(self.delayed("startFailed", format!("{} as {}", last.code, last.instance_type), numbers));
        }
        None
    }

    /// The instance runs although no start of ours stands in the stream: the return ticket, a worker before us, or a person.
    fn runs_without_us(&self, seen: &InstanceSeen) -> Next {
        // Nobody asked for this start, and EC2 may be saying what was true before the stop.
        if seen.instance.state == InstanceState::Pending || seen.times < 2 {
            return self.wait("instanceStarting", format!("EC2 says {}", seen.instance.state), vec![]);
        }
        Next::Record(vec![
            InstanceStarted {
                node: self.node(),
                attempt: self.starts_so_far() + 1,
                instance: self.hand.instance.clone(),
                instance_type: seen.instance.instance_type.clone(),
                ec2: self.ec2(seen),
                return_ticket: true,
                observed: self.ec2_evidence(seen),
            }
            .into(),
        ])
    }

    /// The store is gone, perhaps because this very node is down: bringing it back is the cure.
    fn use_ticket(&self, seen: &InstanceSeen) -> Next {
        let Some(ticket) = self.hand.ticket else {
            return self.delayed(
                "storeAway",
                "the store has no leader, and no stop intent entitles to a start",
                vec![],
            );
        };
        let replacement = self.observed.took_over_at.is_some();
        if replacement && seen.times < 2 {
            return self.wait("storeAway", "waiting for EC2 to say stopped twice", vec![]);
        }
        if let Some(at) = self.observed.ticket_called
            && self.now.since(at) < EC2_CALL_TIMEOUT
        {
            return self.delayed(
                "storeAway",
                "the store has no leader; the node in hand is being brought back",
                vec![],
            );
        }
        let wanted = self.type_to_start();
        let may_modify = !replacement && self.observed.store.folded_from_majority;
        let call = if seen.instance.instance_type != wanted && may_modify && self.hand.return_types.contains(&wanted) {
            Call::ModifyType { instance: self.hand.instance.clone(), to: wanted }
        } else {
            Call::StartInstance { instance: self.hand.instance.clone() }
        };
        Next::Act(Action { node: self.node(), call, warrant: Warrant::ReturnTicket(ticket) })
    }

    fn modifying(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        if matches!(seen.instance.state, InstanceState::Running | InstanceState::Pending) {
            return self.runs_without_us(seen);
        }
        if self.ticket_open() && seen.instance.state == InstanceState::Stopped {
            return self.use_ticket(seen);
        }
        let wanted = match self.hand.intended_type.clone() {
            Some(t) => t,
            None => self.type_to_start(),
        };
        if seen.instance.instance_type == wanted {
            return Next::Record(vec![
                TypeModified {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    instance: self.hand.instance.clone(),
                    instance_type: wanted,
                    ec2: self.ec2(seen),
                    return_ticket: false,
                    observed: self.ec2_evidence(seen),
                }
                .into(),
            ]);
        }
        match self.intent() {
            IntentStatus::MayCall => self.act(Call::ModifyType { instance: self.hand.instance.clone(), to: wanted }),
            IntentStatus::Called if self.intent_age() < SETTLE_AFTER => {
                self.wait("typeAwaited", format!("EC2 still says {}", seen.instance.instance_type), vec![])
            }
            IntentStatus::Refused { again: Again::Soon | Again::WithCapacity, at, code, message }
                if self.hand.attempt < CALL_TRIES_MAX =>
            {
                if self.now.since(at) < CALL_RETRY_AFTER * self.hand.attempt {
                    return self.delayed(
                        "ec2Refused",
                        format!("{code}: {message}"),
                        vec![number("try", f64::from(self.hand.attempt))],
                    );
                }
                self.stopped()
            }
            IntentStatus::Refused { code, .. } => self.start_failed(seen, &wanted, code, false),
            // A modification done twice is the same modification: no need to wait until it is settled.
            IntentStatus::Called | IntentStatus::Unresolved { .. } => self.stopped(),
        }
    }

    fn start_failed(&self, seen: &InstanceSeen, instance_type: &InstanceType, code: &str, again: bool) -> Next {
        Next::Record(vec![
            InstanceStartFailed {
                node: self.node(),
                attempt: self.starts_so_far() + 1,
                instance: self.hand.instance.clone(),
                instance_type: instance_type.clone(),
                code: code.to_owned(),
                again,
                ec2: self.ec2(seen),
                observed: self.ec2_evidence(seen),
            }
            .into(),
        ])
    }

    fn starting(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        let now_type = seen.instance.instance_type.clone();
        let expected = self.state.types.get(&self.hand.node).is_none_or(|t| *t == now_type);
        match seen.instance.state {
            InstanceState::Running if !expected && seen.times < 3 => {
                // Running with another type than it was to start with: most likely what was true before the stop.
                return self.wait("instanceStarting", format!("EC2 says running as {now_type}"), vec![]);
            }
            InstanceState::Running => {
                return Next::Record(vec![
                    InstanceStarted {
                        node: self.node(),
                        attempt: self.starts_so_far() + 1,
                        instance: self.hand.instance.clone(),
                        instance_type: now_type,
                        ec2: self.ec2(seen),
                        return_ticket: false,
                        observed: self.ec2_evidence(seen),
                    }
                    .into(),
                ]);
            }
            InstanceState::Pending => {
                return self.wait(
                    "instanceStarting",
                    "EC2 says pending",
                    vec![number("seconds", self.intent_age().as_secs_f64())],
                );
            }
            InstanceState::Terminated | InstanceState::ShuttingDown => {
                return self.parked(
                    "instanceTerminated",
                    format!("{} is {}", seen.instance.id, seen.instance.state),
                    "somebody terminated the instance; replace the node",
                );
            }
            InstanceState::Stopped | InstanceState::Stopping | InstanceState::Unrecognized => {}
        }
        if self.ticket_open() && seen.instance.state == InstanceState::Stopped {
            return self.use_ticket(seen);
        }
        match self.intent() {
            IntentStatus::MayCall => self.act(Call::StartInstance { instance: self.hand.instance.clone() }),
            IntentStatus::Refused { code, again, .. } => {
                let again = match again {
                    Again::Soon | Again::WithCapacity => true,
                    Again::Never | Again::AfterMending => false,
                };
                self.start_failed(seen, &now_type, code, again)
            }
            IntentStatus::Called | IntentStatus::Unresolved { .. } => {
                let age = self.intent_age();
                let fell_back = seen.pending_seen || age > SETTLE_AFTER;
                if seen.instance.state == InstanceState::Stopped && fell_back && seen.times >= 2 {
                    // A start that never showed may have been lost; one that fell back for another reason than capacity will again.
                    let code = seen.instance.state_reason.clone().filter(|_| seen.pending_seen);
                    let again = code.as_deref().is_none_or(lacks_capacity);
                    let code = code.unwrap_or_else(|| "startDidNotHappen".into());
                    return self.start_failed(seen, &now_type, &code, again);
                }
                self.wait(
                    "instanceStarting",
                    format!("EC2 says {}", seen.instance.state),
                    vec![number("seconds", age.as_secs_f64())],
                )
            }
        }
    }

    fn foreign_stop(&self, seen: &InstanceSeen) -> Next {
        Next::Record(vec![
            ForeignChangeSeen {
                node: self.node(),
                attempt: self.hand.attempt,
                what: FOREIGN_STOP.into(),
                found: format!("{} ({})", seen.instance.state, seen.instance.state_reason.clone().unwrap_or_default()),
                expected: "running, as started".into(),
                observed: self.ec2_evidence(seen),
            }
            .into(),
        ])
    }

    fn started(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        if matches!(seen.instance.state, InstanceState::Stopped | InstanceState::Stopping) && seen.times >= 2 {
            return self.foreign_stop(seen);
        }
        let since = self.now.since(self.hand.step_seen);
        let fresh = self.own().filter(|own| Some(own.process) != self.hand.process_before);
        if let Some(own) = fresh {
            let first = self.first_seen();
            let (epoch, writer, commit, state) = first
                .map_or((own.epoch, own.writer, own.last_commit, own.state), |f| {
                    (f.epoch, f.writer, f.commit, f.state)
                });
            return Next::Record(vec![
                NodeRejoined {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    instance_id_of_process: own.process,
                    state,
                    epoch,
                    writer,
                    commit,
                    observed: safety::evidence(&self.scene),
                }
                .into(),
            ]);
        }
        if since > FIRST_ANSWER_TIMEOUT {
            return self.parked(
                "nodeSilent",
                format!("the instance runs, the node has not answered for {} s", since.as_secs()),
                "look at the node's own log; its supervisor must restart it on any exit (Restart=always)",
            );
        }
        self.wait("nodeBooting", "instance runs, node silent", vec![number("seconds", since.as_secs_f64())])
    }

    /// The first entry seen since the stop: the watch's and the recorded one, the worse of both.
    fn first_seen(&self) -> Option<crate::domain::watch::FirstSeen> {
        let after = self.hand.stop_seen.unwrap_or_default();
        let mut first = self.observed.watch.node(&self.hand.node).and_then(|t| t.first_after(after));
        if first.as_ref().is_some_and(|f| Some(f.process) == self.hand.process_before) {
            first = None;
        }
        let recorded = self.hand.rejoined.as_ref();
        match (first, recorded) {
            (Some(mut f), Some(r)) => {
                f.epoch_missing_seen |= r.epoch < 0 && r.state != NodeState::Initializing;
                f.commit = f.commit.min(r.commit);
                Some(f)
            }
            (first, None) => first,
            (None, Some(r)) => Some(crate::domain::watch::FirstSeen {
                process: r.instance_id_of_process,
                at: self.hand.step_seen,
                state: r.state,
                epoch: r.epoch,
                writer: r.writer,
                commit: r.commit,
                epoch_missing_seen: r.epoch < 0 && r.state != NodeState::Initializing,
            }),
        }
    }

    fn rejoined(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        if matches!(seen.instance.state, InstanceState::Stopped | InstanceState::Stopping) && seen.times >= 2 {
            return self.foreign_stop(seen);
        }
        let Some(track) = self.observed.watch.node(&self.hand.node) else {
            return self.wait("nodeSilent", "not watched", vec![]);
        };
        let samples = self.observed.watch.samples();
        let since = self.now.since(self.hand.step_seen);
        match level(track, samples, self.scene.max_delay, self.now) {
            Err(NotCaughtUp::Silent) => {
                let silent = track.silent_since.map_or(Duration::ZERO, |at| self.now.since(at));
                if silent > FIRST_ANSWER_TIMEOUT {
                    return self.parked(
                        "nodeSilent",
                        format!("the instance runs, the node has been silent for {} s", silent.as_secs()),
                        "look at the node's own log; its supervisor must restart it on any exit (Restart=always)",
                    );
                }
                return self.wait(
                    "nodeSilent",
                    "instance runs, node silent",
                    vec![number("seconds", silent.as_secs_f64())],
                );
            }
            Err(why) => {
                let behind = match &why {
                    NotCaughtUp::Behind(d) => d.replication.duration().as_secs_f64(),
                    NotCaughtUp::State(_)
                    | NotCaughtUp::Epoch { .. }
                    | NotCaughtUp::NoLeader
                    | NotCaughtUp::Confirming { .. }
                    | NotCaughtUp::Silent => 0.0,
                };
                let numbers = vec![
                    number("seconds", since.as_secs_f64()),
                    number("seconds behind", behind),
                    number("bytes behind", self.bytes_behind() as f64),
                ];
                if self.stalled() {
                    return self.parked(
                        "catchUpStalled",
                        format!("{why}; no progress for {} s", CATCH_UP_STALL.as_secs()),
                        "look at the node's log, its volume, and its connection to the leader; it is left running",
                    );
                }
                return self.wait("catchingUp", format!("{why}"), numbers);
            }
            Ok(()) => {}
        }
        let agreement = self.scene.agreement(None);
        let Agreement::Yes { epoch, .. } = agreement else {
            let doubts: Vec<String> = agreement.doubts().iter().map(ToString::to_string).collect();
            let numbers = vec![number("seconds", since.as_secs_f64())];
            // Views settle within seconds of any change; what lasts longer is for a person to see.
            let lasting = since > 4 * RESIGNATION_TIMEOUT;
            return if lasting {
                self.delayed("agreementAwaited", doubts.join(", "), numbers)
            } else {
                self.wait("agreementAwaited", doubts.join(", "), numbers)
            };
        };
        if track.live.map(|(_, live)| live) != Some(true) {
            return self.wait(
                "healthAwaited",
                "caught up, but /health/live does not say 204 yet",
                vec![number("seconds", since.as_secs_f64())],
            );
        }
        let Some(own) = self.own() else { return self.wait("nodeSilent", "the node does not answer", vec![]) };
        let first = self.first_seen();
        let data_kept = judge_data(self.hand.baseline.as_ref(), first.as_ref(), track.sent.as_ref(), samples.writer());
        let taken: Vec<CatchUpSample> = track
            .refreshes
            .iter()
            .rev()
            .filter_map(|r| r.delay.map(|d| (r, d)))
            .take(3)
            .map(|(r, d)| CatchUpSample {
                age_seconds: round_ms(self.now.since(r.at).as_secs_f64()),
                delay_seconds: round_ms(d.replication.duration().as_secs_f64()),
                index_delay_seconds: round_ms(d.index.duration().as_secs_f64()),
                writer: r.own.writer,
            })
            .collect();
        let newest = taken.first();
        Next::Record(vec![
            CaughtUp {
                node: self.node(),
                attempt: self.hand.attempt,
                instance_id_of_process: own.process,
                state: own.state,
                epoch,
                delay_seconds: newest.map_or(0.0, |s| s.delay_seconds),
                index_delay_seconds: newest.map_or(0.0, |s| s.index_delay_seconds),
                samples: taken.clone(),
                data_kept,
                observed: safety::evidence(&self.scene),
            }
            .into(),
        ])
    }

    fn bytes_behind(&self) -> i64 {
        let leader = self.observed.watch.samples().writer();
        leader.zip(self.own()).map_or(0, |(leader, own)| (leader - own.writer).max(0))
    }

    /// No refresh of the node moved its writer, or its state, for [`CATCH_UP_STALL`].
    fn stalled(&self) -> bool {
        if self.now.since(self.hand.step_seen) < CATCH_UP_STALL {
            return false;
        }
        let Some(track) = self.observed.watch.node(&self.hand.node) else { return false };
        track.moved_at.is_none_or(|at| self.now.since(at) > CATCH_UP_STALL)
    }

    fn caught_up(&self) -> Next {
        let mut facts: Vec<Event> = Vec::new();
        if let Some(lowered) = self.hand.lowered {
            // The process that was told is gone; the new one started with its configured priority.
            let restarted = self.hand.caught_up.as_ref().map(|c| c.instance_id_of_process) != self.hand.process_before;
            let Some(own) = self.own() else { return self.wait("nodeSilent", "the node does not answer", vec![]) };
            if !restarted {
                return self.wait("priorityAwaited", "the process was not restarted", vec![]);
            }
            facts.push(
                PriorityRestored {
                    node: self.node(),
                    attempt: self.hand.attempt,
                    priority: own.priority,
                    by: RestoredBy::Restart,
                    observed: vec![Evidence {
                        what: format!("priority {}, {} before", own.priority, lowered.original),
                        by: self.hand.node.to_string(),
                        age_seconds: 0.0,
                    }],
                }
                .into(),
            );
        }
        let seconds = self.hand.phases(self.observed.wall);
        let started = self.hand.started_type.clone().unwrap_or_else(|| self.hand.old_type.clone());
        let kept = self.hand.caught_up.as_ref().map(|c| c.data_kept.clone());
        if let Some(lost) = kept.filter(|k| k.kept == DataKept::No) {
            facts.push(
                NodeFailed {
                    node: self.node(),
                    attempt: 1,
                    code: "dataLost".into(),
                    remedy: "find out why the data volume was not there; the node was filled again from the leader"
                        .into(),
                    left_in: format!("running as {started}, refilled: {}", lost.how),
                    observed: vec![],
                }
                .into(),
            );
            return Next::Record(facts);
        }
        let wanted = self.state.member(&self.hand.node).map(|m| m.new_type.clone()).unwrap_or_else(|| started.clone());
        let fallback =
            self.state.request.as_ref().is_some_and(|r| r.fallback_types.iter().flatten().any(|t| t == &started));
        let outcome: Event = if started == wanted || (fallback && started != self.hand.old_type) {
            NodeUpdated { node: self.node(), attempt: 1, instance_type: started, seconds, observed: vec![] }.into()
        } else {
            let (code, remedy) = match self.hand.failed_starts.last() {
                Some(f) => (
                    f.code.clone(),
                    format!("{} would not start as {}; see InstanceStartFailed", self.hand.instance, f.instance_type),
                ),
                None if self.state.cancelled.is_some() => {
                    (CANCELLED.into(), "start a new update when it is wanted".into())
                }
                None if self.hand.started_by_ticket => (
                    "storeLost".into(),
                    "the store had no leader while the node was down, so the node was started as it was; mend the store first, or keep it \
                     elsewhere"
                        .into(),
                ),
                None => (
                    "voterLost".into(),
                    "another voter fell silent meanwhile, so the node was started as it was; mend the cluster first"
                        .into(),
                ),
            };
            NodeRolledBack {
                node: self.node(),
                attempt: 1,
                instance_type: started,
                seconds,
                code,
                remedy,
                observed: vec![],
            }
            .into()
        };
        facts.push(outcome);
        Next::Record(facts)
    }
}

/// Whether a code of EC2 (of a call, or of a state reason) says that there is no capacity for the type now.
fn lacks_capacity(code: &str) -> bool {
    const CODES: [&str; 5] = [
        "InsufficientInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientHostCapacity",
        "ReservationCapacityExceeded",
        "UnfulfillableCapacity",
    ];
    CODES.contains(&code.trim_start_matches("Server."))
}

/// The verdict of an ended update, in the words of `--output json`.
pub fn verdict_word(state: &State) -> &'static str {
    match &state.end {
        Some(End::Completed(_)) => "completed",
        Some(End::Failed(_)) => "failed",
        Some(End::Cancelled(_) | End::Superseded(_)) => "cancelled",
        Some(End::Rejected(_)) => "rejected",
        None if state.parked.is_some() || state.awaited.is_some() => "parked",
        None => "running",
    }
}
