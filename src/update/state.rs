//! The state of one update: the fold of its events. Silent: folding never acts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use uuid::Uuid;

use super::event::*;
use super::plan::Waiver;
use crate::domain::catch_up::{Baseline, DataKept};
use crate::domain::ec2::lacks_capacity;
use crate::domain::ids::{Incarnation, InstanceId, InstanceType, NodeName, ProcessId, Revision, WorkerName};
use crate::domain::time::Moment;

/// Unanswered commands beyond this park the update: somebody appends in a loop.
pub const UNANSWERED_MAX: usize = 100;

/// Unanswered commands that are held; with more of them the history is not folded on. One of the longest takes some 10 KB.
pub const UNANSWERED_HELD: usize = 10_000;

/// What a person does with an update whose history cannot be trusted.
pub const HISTORY_ILLEGAL_REMEDY: &str = "look at that event with `history`: a newer worker may have written it, or somebody forged it; \
    `cancel` ends the update as it is, once every instance runs";

/// An event of the stream, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its revision.
    pub revision: Revision,
    /// Its id.
    pub id: Uuid,
    /// When the writer (or else the store) says it was written. For people and reports.
    pub at: jiff::Timestamp,
    /// When this process first saw it. For decisions.
    pub seen: Moment,
    /// What it says.
    pub body: Body,
}

/// What an event says, as far as it can be understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// One of ours.
    Event(Box<Event>),
    /// Somebody's that cannot be read: to be answered by a refusal.
    Unreadable {
        /// Its stored type.
        type_name: String,
        /// What is wrong.
        problem: String,
    },
    /// Written by a worker newer than this one.
    Newer {
        /// Its stored type.
        type_name: String,
    },
}

/// Who holds the update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The worker.
    pub worker: WorkerName,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Why it took it.
    pub reason: AssignedBecause,
    /// Revision of the fact.
    pub revision: Revision,
    /// When this process first saw it.
    pub seen: Moment,
}

/// What a node's step is. Each `…ing` is an intent not yet followed by its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Selected; in service.
    Selected,
    /// Its priority is being lowered.
    LoweringPriority,
    /// Its priority is lowered.
    PriorityLowered,
    /// It is resigning.
    Resigning,
    /// Another node leads.
    Transferred,
    /// Its instance is being tagged.
    Tagging,
    /// Its instance carries the update's tag.
    Tagged,
    /// Its instance is being stopped: from here on it is out of service by our doing.
    Stopping,
    /// Its instance is stopped.
    Stopped,
    /// Its type is being changed.
    Modifying,
    /// Its type is changed.
    Modified,
    /// Its instance is being started.
    Starting,
    /// The last start failed.
    StartFailed,
    /// Its instance runs.
    Started,
    /// Its instance is being rebooted, since it runs and its process stays silent.
    Rebooting,
    /// Its process answers.
    Rejoined,
    /// It has caught up: back in service.
    CaughtUp,
    /// Its priority is being given back.
    RestoringPriority,
    /// The update's tag is being removed from its instance: after it has caught up, or on the way out of its turn.
    Untagging,
}

impl Step {
    /// Whether the node counts as out of service by our doing.
    pub fn out_of_service(self) -> bool {
        self >= Step::Stopping && self < Step::CaughtUp
    }

    /// The name people see.
    pub fn name(self) -> &'static str {
        match self {
            Step::Selected => "selected",
            Step::LoweringPriority => "lowering priority",
            Step::PriorityLowered => "priority lowered",
            Step::Resigning => "resigning",
            Step::Transferred => "follows",
            Step::Tagging => "tagging",
            Step::Tagged => "tagged",
            Step::Stopping => "stopping",
            Step::Stopped => "stopped",
            Step::Modifying => "changing type",
            Step::Modified => "type changed",
            Step::Starting => "starting",
            Step::StartFailed => "start failed",
            Step::Started => "booting",
            Step::Rebooting => "rebooting",
            Step::Rejoined => "catching up",
            Step::CaughtUp => "caught up",
            Step::RestoringPriority => "restoring priority",
            Step::Untagging => "removing the tag",
        }
    }
}

/// An intent without its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    /// Its revision.
    pub revision: Revision,
    /// When this process first saw it.
    pub seen: Moment,
}

/// A priority that we lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// What it was.
    pub original: i32,
    /// What it was set to.
    pub to: i32,
}

/// The update's tag on the instance in hand, from the first intent to write it until it is gone, or given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The value that was asked for last.
    pub value: String,
    /// When this process first saw that it was asked for: a call may be under way for a while after.
    pub asked_seen: Moment,
    /// Whether it was seen.
    pub stands: bool,
    /// The value whose removal was asked for last.
    pub remove: Option<String>,
}

/// Failed starts of a node that are held, the newest: at a start every five minutes those of three days.
const FAILED_STARTS_HELD: usize = 1_000;

/// What is held of a name that may have been forged: EC2's have some twenty characters.
fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}

/// A failed start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedStart {
    /// The type.
    pub instance_type: InstanceType,
    /// EC2's code.
    pub code: String,
    /// Whether the same type was worth another try.
    pub again: bool,
    /// When this process first saw it.
    pub seen: Moment,
}

/// The node in hand.
#[derive(Clone, Debug, PartialEq)]
pub struct InHand {
    /// The node.
    pub node: NodeName,
    /// Its role when selected.
    pub role: Role,
    /// Its instance, from the plan.
    pub instance: InstanceId,
    /// Its type when it was selected: it surely starts with that one.
    pub old_type: InstanceType,
    /// The type it shall have: the plan's new one, or the plan's old one where it is rolled back.
    pub wanted_type: InstanceType,
    /// Whether it was done, and is brought back to what it was before this update.
    pub rolling_back: bool,
    /// Where it is.
    pub step: Step,
    /// When this process first saw that step.
    pub step_seen: Moment,
    /// When this process first saw the selection, later by the time for which it was paused since.
    pub selected_seen: Moment,
    /// The intent without an outcome, if there is one.
    pub intent: Option<OpenIntent>,
    /// The priority we lowered, until it is restored.
    pub lowered: Option<Lowered>,
    /// Intents of the present kind so far.
    pub attempt: u32,
    /// Tries to lower its priority so far.
    pub lowerings: u32,
    /// Resignations asked for.
    pub resignations: u32,
    /// Epoch in which it led when the first was asked for.
    pub led_in: Option<i32>,
    /// Positions before the stop.
    pub baseline: Option<Baseline>,
    /// The process that was stopped.
    pub process_before: Option<ProcessId>,
    /// Types with which it may be started again, the old one last.
    pub return_types: Vec<InstanceType>,
    /// Revision of the last stop intent: the return ticket.
    pub ticket: Option<Revision>,
    /// When this process first saw the first stop intent.
    pub stop_seen: Option<Moment>,
    /// Type that the last modification was asked for.
    pub intended_type: Option<InstanceType>,
    /// Why EC2 refused the stop for good, if it did.
    pub stop_refused: Option<String>,
    /// The update's tag on its instance.
    pub fence: Option<Fence>,
    /// How often it was asked for.
    pub tags: u32,
    /// Why it is not to be had, if so.
    pub fence_refused: Option<String>,
    /// Type it was started with last.
    pub started_type: Option<InstanceType>,
    /// Whether it was started while the store had no leader.
    pub started_by_ticket: bool,
    /// A type that somebody else gave it while it was down by our doing.
    pub foreign_type: Option<InstanceType>,
    /// Whether its one reboot was asked for.
    pub rebooted: bool,
    /// Starts that failed.
    pub failed_starts: Vec<FailedStart>,
    /// Its first entry after the start, as recorded.
    pub rejoined: Option<NodeRejoined>,
    /// The recorded catch-up.
    pub caught_up: Option<CaughtUp>,
    /// Times of the steps, for the report.
    pub marks: BTreeMap<Step, jiff::Timestamp>,
}

/// Where the update waits for an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedApproval {
    /// The gate.
    pub gate: Gate,
    /// The node it is about.
    pub node: Option<NodeName>,
    /// Revision of the fact.
    pub revision: Revision,
}

/// How the update ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// All nodes done.
    Completed(UpdateCompleted),
    /// It failed.
    Failed(UpdateFailed),
    /// It was cancelled.
    Cancelled(UpdateCancelled),
    /// It was rejected.
    Rejected(UpdateRejected),
    /// Another took its place.
    Superseded(UpdateSuperseded),
}

/// A command that has not been answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Unanswered {
    /// Its revision.
    pub revision: Revision,
    /// Its stored type.
    pub type_name: String,
    /// What it says; `Err` with the problem if it cannot be read.
    pub command: Result<Box<Event>, String>,
}

/// The first failure: the update ends with it once every node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable code.
    pub code: String,
    /// What a person should do.
    pub remedy: String,
    /// Revision of the fact that says so.
    pub revision: Revision,
}

/// A change that somebody else made. Until a person says to go on, the update is paused between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChange {
    /// The node.
    pub node: NodeName,
    /// What.
    pub what: String,
    /// What was found.
    pub found: String,
}

/// The state of one update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Revision and id of the last event.
    pub last: Option<(Revision, Uuid)>,
    /// When the first event was written.
    pub requested_at: Option<jiff::Timestamp>,
    /// When the last event was written.
    pub last_at: Option<jiff::Timestamp>,
    /// When this process first saw the last event. For decisions.
    pub last_seen: Option<Moment>,
    /// The request.
    pub request: Option<UpdateRequested>,
    /// What is wrong with the first event, if it is no readable request.
    pub bad_request: Option<Reason>,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// When it was accepted (as written).
    pub accepted_at: Option<jiff::Timestamp>,
    /// The plan.
    pub plan: Option<UpdatePlanned>,
    /// Results of the nodes so far.
    pub results: BTreeMap<NodeName, NodeOutcome>,
    /// Order in which nodes were selected or skipped.
    pub order: Vec<NodeName>,
    /// Role of each node at its selection.
    pub roles: BTreeMap<NodeName, Role>,
    /// Seconds per phase of the nodes done.
    pub phases: BTreeMap<NodeName, PhaseSeconds>,
    /// The type each node was last seen with by a fact.
    pub types: BTreeMap<NodeName, InstanceType>,
    /// The node in hand.
    pub in_hand: Option<InHand>,
    /// Commands without an answer.
    pub unanswered: Vec<Unanswered>,
    /// Waivers that came before the plan, for the plan to take.
    pub waivers: Vec<Waiver>,
    /// Whether it is paused.
    pub paused: Option<UpdatePaused>,
    /// Whether it shall end, and the command that says so.
    pub cancelled: Option<CancelRequested>,
    /// The approval it waits for.
    pub awaited: Option<AwaitedApproval>,
    /// Unanswered commands that granted the approval awaited then.
    pub granting: BTreeSet<Revision>,
    /// Since when the time of the node in hand stands still, by this process's sight. For decisions.
    pub still_since: Option<Moment>,
    /// Approvals granted at the gates that a request asks for: gate, and the node it was about.
    pub approved: BTreeSet<(Gate, Option<NodeName>)>,
    /// Nodes of which it is unknown whether they kept their data, and which no approval has covered: with the fact that says so.
    pub data_unknown: Vec<(Revision, NodeName)>,
    /// What it is parked for.
    pub parked: Option<UpdateParked>,
    /// Revision of the fact that parked it.
    pub parked_at: Option<Revision>,
    /// The first failure.
    pub failure: Option<Failure>,
    /// Whether the nodes done so far shall be brought back, and the command that says so.
    pub rollback: Option<RollbackRequested>,
    /// Whether a node that was to be brought back could not be: nothing more is touched then.
    pub rollback_failed: bool,
    /// A change by somebody else that no person has acknowledged yet.
    pub foreign: Option<ForeignChange>,
    /// Nodes that were brought back, or are stopped, because of somebody else's change.
    pub foreign_nodes: BTreeSet<NodeName>,
    /// Why the next step waits, as last recorded.
    pub delayed: Option<StepDelayed>,
    /// When this process first saw it. For decisions.
    pub delayed_seen: Option<Moment>,
    /// When this process first saw that a node's turn ended. For decisions.
    pub turn_ended: Option<Moment>,
    /// Types that EC2 had no room for, by zone, and when this process last saw that.
    pub lacked: BTreeMap<(InstanceType, Option<String>), Moment>,
    /// Elections caused.
    pub elections: u32,
    /// How it ended.
    pub end: Option<End>,
    /// Revision of the fact that says so.
    pub ended_at: Option<Revision>,
    /// Why the history cannot be trusted, if so.
    pub broken: Option<String>,
}

/// Folds a history.
pub fn fold<'a>(history: impl IntoIterator<Item = &'a Recorded>) -> State {
    let mut state = State::default();
    for recorded in history {
        state.evolve(recorded);
    }
    state
}

impl State {
    /// The expected revision of the next append.
    pub fn last_revision(&self) -> Option<Revision> {
        self.last.map(|(revision, _)| revision)
    }

    /// A planned member.
    pub fn member(&self, node: &NodeName) -> Option<&PlannedMember> {
        self.plan.as_ref().and_then(|p| p.members.iter().find(|m| &m.node == node))
    }

    /// What to do after a failure.
    pub fn on_failure(&self) -> OnFailure {
        self.request.as_ref().and_then(|r| r.on_failure).unwrap_or(OnFailure::RollBackNode)
    }

    /// Whether the nodes done so far are to be brought back: a person asks for it, or the request does, after a failure. A
    /// cancellation leaves every node as it runs.
    pub fn rolls_back(&self) -> bool {
        // With a machine gone for good the quorum has nothing to spare for going back.
        let by_policy = self.failure.as_ref().is_some_and(|f| f.code != INSTANCE_TERMINATED)
            && self.on_failure() == OnFailure::RollBackAll;
        self.cancelled.is_none() && !self.rollback_failed && (self.rollback.is_some() || by_policy)
    }

    /// Whether it failed, and waits for a person who says what becomes of it.
    pub fn held(&self) -> bool {
        self.failure.is_some()
            && self.on_failure() == OnFailure::Hold
            && self.cancelled.is_none()
            && self.rollback.is_none()
    }

    /// Whether it stands still until a person does something: it is parked, awaits an approval, or was paused by somebody else's change.
    pub fn needs_a_person(&self) -> bool {
        self.parked.is_some() || self.awaited.is_some() || self.paused.is_some() && self.foreign.is_some()
    }

    /// Nodes that this update changed and that are to be brought back.
    pub fn to_roll_back(&self) -> impl Iterator<Item = &NodeName> {
        let changed = |m: &&PlannedMember| {
            self.results.get(&m.node).is_some_and(|r| r.result == NodeResult::Updated)
                && self.types.get(&m.node).is_some_and(|t| *t != m.old_type)
        };
        self.plan.iter().flat_map(|p| &p.members).filter(changed).map(|m| &m.node)
    }

    /// Nodes that are still to be taken in hand.
    pub fn remaining(&self) -> impl Iterator<Item = &NodeName> {
        let in_hand = self.in_hand.as_ref().map(|h| &h.node);
        self.plan.iter().flat_map(|p| &p.order).filter(move |n| !self.results.contains_key(*n) && in_hand != Some(*n))
    }

    /// Takes the next event. A fact that is illegal here is not applied; the state says so from then on.
    pub fn evolve(&mut self, recorded: &Recorded) {
        let expected = self.last.map_or(Revision(0), |(r, _)| r.next());
        if recorded.revision < expected {
            return;
        }
        let first = self.last.is_none();
        self.last = Some((recorded.revision, recorded.id));
        self.last_at = Some(recorded.at);
        self.last_seen = Some(recorded.seen);
        if recorded.revision != expected {
            self.break_at(recorded, format!("revision {expected} is missing"));
        }
        if first {
            self.requested_at = Some(recorded.at);
            self.evolve_first(&recorded.body);
            return;
        }
        match &recorded.body {
            Body::Newer { type_name } => self.break_at(recorded, format!("{type_name} was written by a newer worker")),
            Body::Unreadable { type_name, problem } => {
                self.hold(recorded, type_name, Err(problem.clone()));
            }
            Body::Event(event) => {
                if self.broken.is_some() && !self.counts_although_broken(event) {
                    return;
                }
                if let Err(why) = self.apply(recorded, event) {
                    self.break_at(recorded, why);
                }
                if self.end.is_some() {
                    self.ended_at.get_or_insert(recorded.revision);
                }
                // One that was skipped had no turn.
                if let Event::NodeUpdated(_) | Event::NodeRolledBack(_) | Event::NodeFailed(_) = **event {
                    self.turn_ended = Some(recorded.seen);
                }
                self.keep_time(recorded.seen);
            }
        }
    }

    /// What is folded even after something illegal: who holds the update, what answers and waits were written down, what becomes of
    /// the node that is down, and that a person ends it. Else the same would be recorded for ever, the node would stay down, and the
    /// cluster would never be free for another update.
    fn counts_although_broken(&self, event: &Event) -> bool {
        let returns = self.in_hand.as_ref().is_some_and(|h| h.step.out_of_service() && node_of(event) == Some(&h.node));
        let asks_to_end = matches!(event, Event::CancelRequested(_)) && self.cancelled.is_none() && self.end.is_none();
        let ends = matches!(event, Event::UpdateCancelled(_) | Event::UpdateSuperseded(_)) && self.cancelled.is_some();
        returns
            || asks_to_end
            || ends
            || matches!(
                event,
                Event::UpdateParked(_)
                    | Event::WorkerAssigned(_)
                    | Event::CommandRefused(_)
                    | Event::UpdatePaused(_)
                    | Event::UpdateResumed(_)
                    | Event::StepDelayed(_)
            )
    }

    /// Whether it waits for a person or for the calendar: nobody's time runs out meanwhile.
    pub fn stands_still(&self) -> bool {
        let window = self.delayed.as_ref().is_some_and(|d| d.reason == WINDOW_CLOSED);
        self.paused.is_some() || self.awaited.is_some() || window
    }

    /// What the node in hand has left of its time is not less after a standstill.
    fn keep_time(&mut self, seen: Moment) {
        if self.stands_still() {
            self.still_since.get_or_insert(seen);
        } else if let Some(at) = self.still_since.take()
            && let Some(hand) = &mut self.in_hand
        {
            hand.selected_seen = hand.selected_seen.after(seen.since(at.max(hand.selected_seen)));
        }
    }

    /// Holds a command until it is answered. Not where that would be one too many.
    fn hold(&mut self, recorded: &Recorded, type_name: &str, command: Result<Box<Event>, String>) -> bool {
        let held = self.unanswered.len() < UNANSWERED_HELD;
        if held {
            let (revision, type_name) = (recorded.revision, type_name.to_owned());
            self.unanswered.push(Unanswered { revision, type_name, command });
        } else {
            self.break_at(recorded, format!("more than {UNANSWERED_HELD} unanswered commands"));
        }
        held
    }

    fn break_at(&mut self, recorded: &Recorded, why: String) {
        self.broken.get_or_insert(format!("at revision {}: {why}", recorded.revision));
    }

    fn evolve_first(&mut self, body: &Body) {
        let bad = |found: String| Reason {
            code: "badRequest".into(),
            found,
            wanted: "UpdateRequested with the fields of the contract as the first event of the stream".into(),
            remedy: "append a corrected UpdateRequested to a fresh clusterUpdate-{uuid} stream".into(),
        };
        match body {
            Body::Event(event) => {
                if let Event::UpdateRequested(request) = &**event {
                    self.request = Some(request.clone());
                } else {
                    self.bad_request = Some(bad(format!("{} first", event.type_name())));
                }
            }
            Body::Unreadable { type_name, problem } => {
                self.bad_request = Some(bad(format!("{type_name}: {problem}")));
            }
            Body::Newer { type_name } => {
                self.broken = Some(format!("at revision 0: {type_name} was written by a newer worker"))
            }
        }
    }

    fn apply(&mut self, recorded: &Recorded, event: &Event) -> Result<(), String> {
        let illegal = |why: &str| Err(format!("{} {why}", event.type_name()));
        if self.end.is_some() && event.kind() == Kind::Fact {
            // Answers to commands that came after the end are the only facts that may follow it.
            let Event::CommandRefused(refused) = event else { return illegal("after the end") };
            return self.answer(refused.command.revision);
        }
        if event.kind() == Kind::Fact
            && !matches!(
                event,
                Event::StepDelayed(_) | Event::CommandRefused(_) | Event::WorkerAssigned(_) | Event::UpdateParked(_)
            )
        {
            // Any other fact is progress.
            self.delayed = None;
            self.parked = None;
        }
        match event {
            Event::UpdateRequested(_)
            | Event::PauseRequested(_)
            | Event::ResumeRequested(_)
            | Event::CancelRequested(_)
            | Event::RollbackRequested(_)
            | Event::RetryRequested(_)
            | Event::ApprovalGranted(_)
            | Event::CheckWaived(_) => {
                let held = self.hold(recorded, event.type_name(), Ok(Box::new(event.clone())));
                if held || matches!(event, Event::CancelRequested(_)) {
                    self.obey(recorded.revision, recorded.seen, event);
                }
            }
            Event::WorkerAssigned(e) => {
                self.holder = Some(Holder {
                    worker: e.worker.clone(),
                    incarnation: e.incarnation,
                    reason: e.reason,
                    revision: recorded.revision,
                    seen: recorded.seen,
                });
            }
            Event::UpdateAccepted(_) => {
                if self.holder.is_none() || self.accepted_at.is_some() {
                    return illegal("without a holder, or twice");
                }
                self.accepted_at = Some(recorded.at);
            }
            Event::UpdateRejected(e) => {
                if self.accepted_at.is_some() {
                    return illegal("after acceptance");
                }
                self.waivers_answered();
                self.end = Some(End::Rejected(e.clone()));
            }
            Event::UpdatePlanned(e) => {
                if self.accepted_at.is_none() || self.plan.is_some() {
                    return illegal("before acceptance, or twice");
                }
                self.types = e.members.iter().map(|m| (m.node.clone(), m.old_type.clone())).collect();
                self.waivers_answered();
                self.plan = Some(e.clone());
            }
            Event::CommandRefused(e) => self.answer(e.command.revision)?,
            Event::NodeSelected(e) => {
                let Some(member) = self.member(&e.node).cloned() else { return illegal("for a node outside the plan") };
                if self.in_hand.is_some() || !self.may_take(&e.node) {
                    return illegal("while a node is in hand, or for a node that is done");
                }
                self.taken(&e.node, e.role);
                let rolling_back = self.results.contains_key(&e.node);
                let has = self.types.get(&e.node).unwrap_or(&member.old_type).clone();
                self.in_hand = Some(InHand::new(&member, has, rolling_back, e.role, recorded));
            }
            Event::NodeSkipped(e) => {
                if self.in_hand.is_some() || self.member(&e.node).is_none() || !self.may_take(&e.node) {
                    return illegal("while a node is in hand, outside the plan, or for a node that is done");
                }
                self.taken(&e.node, e.role);
                self.settle(&e.node, NodeResult::Skipped, None);
            }
            Event::StepDelayed(e) => {
                self.delayed = Some(e.clone());
                self.delayed_seen = Some(recorded.seen);
            }
            Event::ApprovalAwaited(e) => {
                // Approvals are held for good: those of nodes that are there.
                let node = e.node.clone().filter(|node| self.member(node).is_some());
                self.awaited = Some(AwaitedApproval { gate: e.gate, node, revision: recorded.revision });
            }
            Event::UpdatePaused(e) => {
                // Somebody else's change pauses without a command.
                if self.answer_first("PauseRequested").is_err() && (self.foreign.is_none() || self.paused.is_some()) {
                    return illegal("without a reason to pause");
                }
                self.paused = Some(e.clone());
            }
            Event::UpdateResumed(_) => {
                if let Some(grant) = self.granting.pop_first() {
                    self.answer(grant)?;
                } else {
                    self.answer_first("ResumeRequested")?;
                    self.paused = None;
                    self.accept_foreign();
                }
            }
            Event::UpdateParked(e) => {
                self.parked = Some(e.clone());
                self.parked_at = Some(recorded.revision);
            }
            Event::ForeignChangeSeen(e) if self.in_hand.is_none() => {
                if self.member(&e.node).is_none() {
                    return illegal("for a node outside the plan");
                }
                if e.what == FOREIGN_TYPE {
                    self.types.insert(e.node.clone(), e.found.as_str().into());
                }
                self.foreign_change(e);
            }
            Event::UpdateCompleted(e) => self.finish(End::Completed(e.clone()))?,
            Event::UpdateFailed(e) => self.finish(End::Failed(e.clone()))?,
            Event::UpdateCancelled(e) => self.finish(End::Cancelled(e.clone()))?,
            Event::UpdateSuperseded(e) => self.finish(End::Superseded(e.clone()))?,
            Event::PriorityLoweringRequested(_)
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
            | Event::InstanceRebootRequested(_)
            | Event::InstanceRebooted(_)
            | Event::TagRequested(_)
            | Event::Tagged(_)
            | Event::Untagged(_)
            | Event::NodeRejoined(_)
            | Event::CaughtUp(_)
            | Event::ForeignChangeSeen(_)
            | Event::PriorityRestorationRequested(_)
            | Event::PriorityRestored(_)
            | Event::NodeUpdated(_)
            | Event::NodeRolledBack(_)
            | Event::NodeFailed(_) => self.apply_to_node(recorded, event)?,
        }
        Ok(())
    }

    /// The plan, or the rejection, answers the waivers it took.
    fn waivers_answered(&mut self) {
        let taken: BTreeSet<Revision> = self.waivers.iter().map(|w| w.revision).collect();
        self.unanswered.retain(|u| !taken.contains(&u.revision));
    }

    /// Commands take hold as soon as they stand in the stream; the fact that follows only acknowledges them.
    fn obey(&mut self, revision: Revision, seen: Moment, event: &Event) {
        if let Event::CancelRequested(c) = event
            && self.cancelled.is_none()
        {
            self.cancelled = Some(c.clone());
        }
        if let Event::CheckWaived(w) = event
            && self.plan.is_none()
        {
            self.waivers.extend(Waiver::of(revision, w));
        }
        if let Event::ApprovalGranted(a) = event
            && let Some(awaited) = &self.awaited
            && awaited.revision == a.answers
        {
            match awaited.gate {
                // It covers what was in doubt when it was asked for, and nothing that comes to be in doubt later.
                Gate::DataUnknown => {
                    let asked = awaited.revision;
                    self.data_unknown.retain(|(since, _)| *since > asked);
                }
                Gate::BeforeLeader | Gate::AfterFirst | Gate::EachNode => {
                    self.approved.insert((awaited.gate, awaited.node.clone()));
                }
            }
            self.granting.insert(revision);
            self.awaited = None;
        }
        if let Event::RollbackRequested(r) = event
            && self.plan.is_some()
            && self.rollback.is_none()
            && self.cancelled.is_none()
        {
            self.rollback = Some(r.clone());
            // Going back waits at no gate of the way forwards.
            self.awaited = self.awaited.take().filter(|a| a.gate == Gate::DataUnknown);
        }
        if let Event::RetryRequested(r) = event
            && self.may_retry(r.answers)
        {
            self.granting.insert(revision);
            self.retry(seen);
        }
    }

    /// Whether that fact is one that a retry can answer now: what parked the update, or the failure that it is held after.
    fn may_retry(&self, answers: Revision) -> bool {
        let parked = self.parked.is_some() && self.parked_at == Some(answers);
        let held = self.held() && self.failure.as_ref().is_some_and(|f| f.revision == answers);
        (parked || held) && self.cancelled.is_none()
    }

    /// The step that stands still begins anew; after a failure the node that failed is taken again.
    fn retry(&mut self, seen: Moment) {
        self.parked = None;
        self.lacked.clear();
        if self.held() {
            self.failure = None;
            self.results.retain(|_, r| !matches!(r.result, NodeResult::Failed | NodeResult::RolledBack));
        }
        if let Some(hand) = &mut self.in_hand {
            hand.step_seen = seen;
            hand.failed_starts.clear();
            hand.rebooted = false;
        }
    }

    /// Whether a node may be taken in hand: it has no result yet, or it is done and to be brought back.
    fn may_take(&self, node: &NodeName) -> bool {
        !self.results.contains_key(node) || self.rolls_back() && self.to_roll_back().any(|n| n == node)
    }

    fn taken(&mut self, node: &NodeName, role: Role) {
        if !self.order.contains(node) {
            self.order.push(node.clone());
        }
        self.roles.insert(node.clone(), role);
    }

    fn foreign_change(&mut self, e: &ForeignChangeSeen) {
        self.foreign = Some(ForeignChange { node: e.node.clone(), what: e.what.clone(), found: e.found.clone() });
        self.foreign_nodes.insert(e.node.clone());
    }

    /// A person says to go on with what is there: a node that was left to somebody else's change is taken again. On the way back there is
    /// nothing to take it again for.
    fn accept_foreign(&mut self) {
        if self.foreign.take().is_some() && !self.rolls_back() {
            let foreign = &self.foreign_nodes;
            self.results.retain(|n, r| !(r.result == NodeResult::RolledBack && foreign.contains(n)));
        }
    }

    fn answer(&mut self, revision: Revision) -> Result<(), String> {
        let before = self.unanswered.len();
        self.unanswered.retain(|u| u.revision != revision);
        if self.unanswered.len() == before {
            Err(format!("answers revision {revision}, which needs no answer"))
        } else {
            Ok(())
        }
    }

    fn answer_first(&mut self, type_name: &str) -> Result<(), String> {
        let at = self
            .unanswered
            .iter()
            .position(|u| u.type_name == type_name && u.command.is_ok())
            .ok_or_else(|| format!("no {type_name} to answer"))?;
        self.unanswered.remove(at);
        Ok(())
    }

    fn fail(&mut self, code: &str, remedy: &str, revision: Revision) {
        self.failure.get_or_insert(Failure { code: code.to_owned(), remedy: remedy.to_owned(), revision });
    }

    fn settle(&mut self, node: &NodeName, result: NodeResult, left_in: Option<String>) {
        self.results.insert(node.clone(), NodeOutcome { node: node.clone(), result, left_in });
    }

    fn finish(&mut self, end: End) -> Result<(), String> {
        if self.in_hand.as_ref().is_some_and(|h| h.step.out_of_service()) {
            return Err("an end while a node is out of service".into());
        }
        // Of one that a person ends because its history cannot be trusted, the next plan finds what is left on a node in service.
        let trusted = self.in_hand.as_ref().filter(|_| self.broken.is_none());
        if trusted.is_some_and(|h| h.intent.is_some() && h.step >= Step::Stopping) {
            return Err("an end while an intent is unresolved".into());
        }
        if trusted.is_some_and(|h| h.fence.is_some()) {
            return Err("an end while the update's tag is on an instance".into());
        }
        self.in_hand = None;
        self.end = Some(end);
        // The end is their answer.
        self.unanswered
            .retain(|u| !matches!(u.type_name.as_str(), "CancelRequested" | "RollbackRequested") || u.command.is_err());
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "`apply` lists every event and gives the facts about a node to this"
    )]
    fn apply_to_node(&mut self, recorded: &Recorded, event: &Event) -> Result<(), String> {
        let illegal = |why: String| Err(format!("{} {why}", event.type_name()));
        let Some(hand) = self.in_hand.as_mut() else { return illegal("without a node in hand".into()) };
        let node = node_of(event);
        if node != Some(&hand.node) {
            return illegal(format!("for another node than {}", hand.node));
        }
        let from = hand.step;
        // Where each fact may come from. A return ticket's facts need no intent.
        let legal = match event {
            Event::PriorityLoweringRequested(_) | Event::ResignationRequested(_) => from < Step::Stopping,
            Event::InstanceStopRequested(_) => from <= Step::Stopping,
            Event::PriorityLowered(_) => from == Step::LoweringPriority,
            Event::LeadershipTransferred(_) => from == Step::Resigning,
            Event::InstanceStopped(_) => from == Step::Stopping,
            Event::TypeModificationRequested(_) | Event::InstanceStartRequested(_) => {
                matches!(from, Step::Stopped | Step::Modifying | Step::Modified | Step::Starting | Step::StartFailed)
            }
            Event::TypeModified(e) => from == Step::Modifying || e.return_ticket,
            Event::InstanceStarted(e) => from == Step::Starting || e.return_ticket,
            Event::InstanceStartFailed(_) => matches!(from, Step::Starting | Step::Modifying),
            Event::InstanceRebootRequested(_) => matches!(from, Step::Started | Step::Rejoined) && !hand.rebooted,
            Event::InstanceRebooted(_) => from == Step::Rebooting,
            // Nothing is asked about tags of a node that is out of service.
            Event::TagRequested(e) if e.remove => hand.fence.is_some() && !from.out_of_service(),
            Event::TagRequested(_) => from < Step::Stopping,
            Event::Tagged(_) => from == Step::Tagging && hand.fence.is_some(),
            Event::Untagged(_) => hand.fence.is_some() && !from.out_of_service(),
            Event::NodeRejoined(_) => matches!(from, Step::Started | Step::Rejoined),
            Event::CaughtUp(_) => from == Step::Rejoined,
            Event::ForeignChangeSeen(_) => true,
            Event::PriorityRestorationRequested(_) => hand.lowered.is_some() && !from.out_of_service(),
            Event::PriorityRestored(_) => hand.lowered.is_some(),
            Event::NodeUpdated(_) => from == Step::CaughtUp && hand.lowered.is_none() && hand.fence.is_none(),
            // A node that goes on serving, since nothing was done to it yet, is as it was before.
            Event::NodeRolledBack(_) => {
                hand.lowered.is_none()
                    && hand.fence.is_none()
                    && (from == Step::CaughtUp || from < Step::Stopping || from == Step::RestoringPriority)
            }
            // What is terminated comes back by no call that may still be under way, and its tag goes with it.
            Event::NodeFailed(e) => {
                let settled = (hand.intent.is_none() || from < Step::Stopping) && hand.fence.is_none();
                settled || e.code == INSTANCE_TERMINATED
            }
            _ => true,
        };
        if !legal {
            return illegal(format!("while the node is {}", from.name()));
        }
        let intent = Some(OpenIntent { revision: recorded.revision, seen: recorded.seen });
        match event {
            Event::PriorityLoweringRequested(e) => {
                let original = hand.lowered.map_or(e.original, |l| l.original);
                hand.lowered = Some(Lowered { original, to: e.priority });
                hand.lowerings = e.attempt;
                hand.go(Step::LoweringPriority, intent, recorded);
                hand.attempt = e.attempt;
            }
            Event::PriorityLowered(_) => hand.go(Step::PriorityLowered, None, recorded),
            Event::ResignationRequested(e) => {
                hand.resignations += 1;
                hand.led_in = hand.led_in.or(e.epoch);
                hand.attempt = e.attempt;
                hand.go(Step::Resigning, intent, recorded);
            }
            Event::LeadershipTransferred(e) => {
                // A leader that resigned and won again was elected too: each election has an epoch of its own.
                let epochs = hand.led_in.map_or(1, |led_in| e.epoch.saturating_sub(led_in));
                self.elections = self.elections.saturating_add(u32::try_from(epochs).unwrap_or(0).max(1));
                hand.go(Step::Transferred, None, recorded);
            }
            Event::InstanceStopRequested(e) => {
                if e.instance != hand.instance {
                    return illegal(format!("for {} where the plan says {}", e.instance, hand.instance));
                }
                hand.return_types = e.return_types.clone();
                hand.baseline = e.baseline.or(hand.baseline);
                hand.process_before = e.process.or(hand.process_before);
                hand.ticket = Some(recorded.revision);
                hand.stop_seen.get_or_insert(recorded.seen);
                hand.attempt = e.attempt;
                hand.go(Step::Stopping, intent, recorded);
            }
            Event::InstanceStopped(e) => {
                self.types.insert(e.node.clone(), e.instance_type.clone());
                hand.go(Step::Stopped, None, recorded);
            }
            Event::TypeModificationRequested(e) => {
                if !hand.return_types.contains(&e.instance_type) {
                    return illegal(format!("to {}, which the return ticket does not name", e.instance_type));
                }
                hand.attempt = e.attempt;
                hand.intended_type = Some(e.instance_type.clone());
                hand.go(Step::Modifying, intent, recorded);
            }
            Event::TypeModified(e) => {
                self.types.insert(e.node.clone(), e.instance_type.clone());
                hand.go(Step::Modified, None, recorded);
            }
            Event::InstanceStartRequested(e) => {
                hand.attempt = e.attempt;
                hand.go(Step::Starting, intent, recorded);
            }
            Event::InstanceStarted(e) => {
                self.types.insert(e.node.clone(), e.instance_type.clone());
                hand.started_type = Some(e.instance_type.clone());
                hand.started_by_ticket |= e.return_ticket;
                hand.go(Step::Started, None, recorded);
            }
            Event::InstanceStartFailed(e) => {
                let instance_type = InstanceType(excerpt(&e.instance_type.0));
                if hand.failed_starts.len() >= FAILED_STARTS_HELD {
                    hand.failed_starts.remove(0);
                }
                if lacks_capacity(&e.code) && self.lacked.len() < FAILED_STARTS_HELD {
                    let members = self.plan.iter().flat_map(|p| &p.members);
                    let zone = members.filter(|m| m.node == e.node).find_map(|m| m.zone.clone());
                    self.lacked.insert((instance_type.clone(), zone), recorded.seen);
                }
                hand.failed_starts.push(FailedStart {
                    instance_type,
                    code: excerpt(&e.code),
                    again: e.again,
                    seen: recorded.seen,
                });
                hand.go(Step::StartFailed, None, recorded);
            }
            Event::InstanceRebootRequested(e) => {
                hand.attempt = e.attempt;
                hand.rebooted = true;
                hand.go(Step::Rebooting, intent, recorded);
            }
            Event::InstanceRebooted(_) => hand.go(Step::Started, None, recorded),
            Event::TagRequested(e) => {
                if e.instance != hand.instance {
                    return illegal(format!("for {} where the plan says {}", e.instance, hand.instance));
                }
                hand.attempt = e.attempt;
                match &mut hand.fence {
                    Some(fence) if e.remove => fence.remove = Some(e.value.clone()),
                    Some(_) | None => {
                        let (value, asked_seen) = (e.value.clone(), recorded.seen);
                        hand.tags += 1;
                        hand.fence = Some(Fence { value, asked_seen, stands: false, remove: None });
                    }
                }
                hand.go(if e.remove { Step::Untagging } else { Step::Tagging }, intent, recorded);
            }
            Event::Tagged(_) => {
                hand.fence.iter_mut().for_each(|fence| fence.stands = true);
                hand.go(Step::Tagged, None, recorded);
            }
            Event::Untagged(_) => {
                hand.fence = None;
                let back = if hand.caught_up.is_some() { Step::CaughtUp } else { Step::Selected };
                hand.go(back, None, recorded);
            }
            Event::NodeRejoined(e) => {
                hand.rejoined.get_or_insert_with(|| e.clone());
                hand.go(Step::Rejoined, None, recorded);
            }
            Event::CaughtUp(e) => {
                hand.caught_up = Some(e.clone());
                hand.go(Step::CaughtUp, None, recorded);
                if e.data_kept.kept == DataKept::Unknown {
                    self.data_unknown.push((recorded.revision, e.node.clone()));
                }
            }
            Event::ForeignChangeSeen(e) => {
                // Whoever stopped it after our start: bringing it back is still our duty.
                if e.what == FOREIGN_STOP && matches!(from, Step::Started | Step::Rejoined) {
                    hand.go(Step::Stopped, None, recorded);
                }
                if e.what == FOREIGN_TYPE {
                    hand.foreign_type = Some(e.found.as_str().into());
                }
                let foreign = !matches!(e.what.as_str(), STOP_NOT_DONE | FENCE_NOT_WRITTEN);
                if e.what == FENCE_NOT_WRITTEN && from < Step::Stopping {
                    hand.fence_refused = Some(e.found.clone());
                    hand.go(Step::Selected, None, recorded);
                }
                // A stop that did not and will not happen, or that was another machine's: the node goes on serving.
                if e.what == STOP_NOT_DONE && matches!(from, Step::Stopping | Step::Started) {
                    hand.stop_refused = (e.found != TURNED_BACK).then(|| e.found.clone());
                    hand.go(Step::Selected, None, recorded);
                }
                if foreign {
                    self.foreign_change(e);
                }
            }
            Event::PriorityRestorationRequested(e) => {
                hand.attempt = e.attempt;
                hand.go(Step::RestoringPriority, intent, recorded);
            }
            Event::PriorityRestored(_) => {
                hand.lowered = None;
                if from == Step::RestoringPriority {
                    hand.go(Step::Selected, None, recorded);
                }
            }
            Event::NodeUpdated(e) => {
                self.types.insert(e.node.clone(), e.instance_type.clone());
                self.phases.insert(e.node.clone(), e.seconds.clone());
                self.in_hand = None;
                self.settle(&e.node, NodeResult::Updated, None);
            }
            Event::NodeRolledBack(e) => {
                if e.code == FOREIGN_CHANGE && self.foreign.is_none() {
                    // Whoever resumed while it was in hand has not been asked about this.
                    let (what, found) = (FOREIGN_TYPE.to_owned(), e.instance_type.to_string());
                    self.foreign = Some(ForeignChange { node: e.node.clone(), what, found });
                } else if !matches!(e.code.as_str(), CANCELLED | ROLLED_BACK | FOREIGN_CHANGE) {
                    self.fail(&e.code, &e.remedy, recorded.revision);
                }
                self.types.insert(e.node.clone(), e.instance_type.clone());
                self.phases.insert(e.node.clone(), e.seconds.clone());
                self.in_hand = None;
                self.settle(&e.node, NodeResult::RolledBack, Some(format!("running as {}", e.instance_type)));
            }
            Event::NodeFailed(e) => {
                self.rollback_failed |= hand.rolling_back;
                self.fail(&e.code, &e.remedy, recorded.revision);
                self.in_hand = None;
                self.settle(&e.node, NodeResult::Failed, Some(e.left_in.clone()));
            }
            _ => return illegal("is no fact about a node".into()),
        }
        Ok(())
    }
}

/// `what` of a [`ForeignChangeSeen`] about an instance that somebody stopped.
pub const FOREIGN_STOP: &str = "instanceStopped";

/// `what` of a [`ForeignChangeSeen`] about an instance to which somebody gave another type.
pub const FOREIGN_TYPE: &str = "instanceType";

/// Code of a node that was left as somebody else made it: no failure, the update is paused.
pub const FOREIGN_CHANGE: &str = "foreignChange";

/// Code of a node that was brought back because the update is rolled back: no failure of its own.
pub const ROLLED_BACK: &str = "rolledBack";

/// Code of a node whose instance somebody terminated.
pub const INSTANCE_TERMINATED: &str = "instanceTerminated";

/// `what` of a [`ForeignChangeSeen`] that says a stop we asked for did not and will not happen.
pub const STOP_NOT_DONE: &str = "stopNotDone";

/// Code of a node that was never stopped, since the instance that was is not its own; `found` of such a fact begins with it then.
pub const INSTANCE_NOT_THE_NODES: &str = "instanceNotTheNodes";

/// `found` of such a fact where the stop was called off and not refused.
pub const TURNED_BACK: &str = "turnedBack";

/// `what` of a [`ForeignChangeSeen`] that says that the update's tag is not to be had on an instance, which is let go therefore.
pub const FENCE_NOT_WRITTEN: &str = "fenceNotWritten";

/// Code of a node that was let go because another update's tag is on an instance of the cluster; `found` of a [`ForeignChangeSeen`] begins
/// with it then.
pub const FENCED_BY_ANOTHER: &str = "fencedByAnother";

/// Code of a node that was let go, or brought back, because the update was cancelled: no failure.
pub const CANCELLED: &str = "cancelled";

/// Reason of a delay: the request's window is shut.
pub const WINDOW_CLOSED: &str = "windowClosed";

/// The node a fact is about.
pub fn node_of(event: &Event) -> Option<&NodeName> {
    Some(match event {
        Event::NodeSelected(e) => &e.node,
        Event::NodeSkipped(e) => &e.node,
        Event::PriorityLoweringRequested(e) => &e.node,
        Event::PriorityLowered(e) => &e.node,
        Event::ResignationRequested(e) => &e.node,
        Event::LeadershipTransferred(e) => &e.node,
        Event::InstanceStopRequested(e) => &e.node,
        Event::InstanceStopped(e) => &e.node,
        Event::TypeModificationRequested(e) => &e.node,
        Event::TypeModified(e) => &e.node,
        Event::InstanceStartRequested(e) => &e.node,
        Event::InstanceStarted(e) => &e.node,
        Event::InstanceStartFailed(e) => &e.node,
        Event::InstanceRebootRequested(e) => &e.node,
        Event::InstanceRebooted(e) => &e.node,
        Event::TagRequested(e) => &e.node,
        Event::Tagged(e) => &e.node,
        Event::Untagged(e) => &e.node,
        Event::NodeRejoined(e) => &e.node,
        Event::CaughtUp(e) => &e.node,
        Event::ForeignChangeSeen(e) => &e.node,
        Event::PriorityRestorationRequested(e) => &e.node,
        Event::PriorityRestored(e) => &e.node,
        Event::NodeUpdated(e) => &e.node,
        Event::NodeRolledBack(e) => &e.node,
        Event::NodeFailed(e) => &e.node,
        Event::StepDelayed(e) => return e.node.as_ref(),
        Event::ApprovalAwaited(e) => return e.node.as_ref(),
        Event::UpdateRequested(_)
        | Event::PauseRequested(_)
        | Event::ResumeRequested(_)
        | Event::CancelRequested(_)
        | Event::RollbackRequested(_)
        | Event::RetryRequested(_)
        | Event::ApprovalGranted(_)
        | Event::CheckWaived(_)
        | Event::WorkerAssigned(_)
        | Event::UpdateAccepted(_)
        | Event::UpdateRejected(_)
        | Event::UpdatePlanned(_)
        | Event::CommandRefused(_)
        | Event::UpdatePaused(_)
        | Event::UpdateResumed(_)
        | Event::UpdateParked(_)
        | Event::UpdateCompleted(_)
        | Event::UpdateFailed(_)
        | Event::UpdateCancelled(_)
        | Event::UpdateSuperseded(_) => return None,
    })
}

impl InHand {
    /// A node just taken in hand, with the type that its instance has.
    pub fn new(member: &PlannedMember, has: InstanceType, rolling_back: bool, role: Role, recorded: &Recorded) -> Self {
        Self {
            node: member.node.clone(),
            role,
            instance: member.instance.clone(),
            old_type: has,
            wanted_type: if rolling_back { &member.old_type } else { &member.new_type }.clone(),
            rolling_back,
            step: Step::Selected,
            step_seen: recorded.seen,
            selected_seen: recorded.seen,
            intent: None,
            lowered: None,
            attempt: 1,
            lowerings: 0,
            resignations: 0,
            led_in: None,
            baseline: None,
            process_before: None,
            return_types: Vec::new(),
            ticket: None,
            stop_seen: None,
            intended_type: None,
            stop_refused: None,
            fence: None,
            tags: 0,
            fence_refused: None,
            started_type: None,
            started_by_ticket: false,
            foreign_type: None,
            rebooted: false,
            failed_starts: Vec::new(),
            rejoined: None,
            caught_up: None,
            marks: BTreeMap::from([(Step::Selected, recorded.at)]),
        }
    }

    fn go(&mut self, step: Step, intent: Option<OpenIntent>, recorded: &Recorded) {
        if self.step != step {
            self.step_seen = recorded.seen;
            self.marks.entry(step).or_insert(recorded.at);
        }
        self.step = step;
        self.intent = intent;
    }

    /// The number of the next intent of the kind that leads to `step`.
    pub fn next_attempt(&self, step: Step) -> u32 {
        if self.step == step { self.attempt.saturating_add(1) } else { 1 }
    }

    /// Seconds per phase up to `now`, as the facts' writers dated them.
    pub fn phases(&self, now: jiff::Timestamp) -> PhaseSeconds {
        let mark = |step: Step| self.marks.get(&step).copied();
        let selected = mark(Step::Selected).unwrap_or(now);
        let stopping = mark(Step::Stopping).unwrap_or(now);
        let stopped = mark(Step::Stopped).unwrap_or(stopping);
        let modified = mark(Step::Modified).unwrap_or(stopped);
        let started = mark(Step::Started).unwrap_or(modified);
        let rejoined = mark(Step::Rejoined).unwrap_or(started);
        let caught_up = mark(Step::CaughtUp).unwrap_or(now);
        let between = |a: jiff::Timestamp, b: jiff::Timestamp| round_ms(b.duration_since(a).as_secs_f64().max(0.0));
        PhaseSeconds {
            prepare: between(selected, stopping),
            stop: between(stopping, stopped),
            modify: between(stopped, modified),
            start: between(modified, started),
            rejoin: between(started, rejoined),
            catch_up: between(rejoined, caught_up),
            total: between(selected, caught_up),
        }
    }
}

/// Rounds seconds to milliseconds, so that stored numbers are short.
pub fn round_ms(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
