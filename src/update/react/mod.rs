//! What comes next. Level-triggered: the answer follows from the state and from what is observed, never from what woke us.

mod between;
mod commands;
mod fence;
mod rejoin;
mod request;
mod service;
mod start;
mod stop;

use std::fmt;
use std::time::Duration;

use super::action::{Action, Again, Call, CallOutcome, Warrant};
use super::event::*;
use super::limits::{
    ACT_WINDOW, CALL_RETRY_AFTER, DELAY_CALLS_AFTER, EC2_CALL_TIMEOUT, PERSON_AFTER, SETTLE_AFTER, UNSEEN_AFTER, spread,
};
use super::observed::{InstanceSeen, IntentInHand, Observed};
use super::safety::Scene;
use super::state::{End, InHand, State, Step, UNANSWERED_MAX, round_ms};
use crate::domain::cluster::MemberEntry;
use crate::domain::ids::{NodeName, Revision};
use crate::domain::instance::InstanceState;
use crate::domain::time::Moment;
use between::{between_nodes, broken, described_before_the_end, quiet_after_take_over};
use request::before_plan;

pub use commands::answer_command;
pub use request::not_wanted;

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
    /// Whether another worker is to take the update: this one must not do what comes next.
    pub for_another: bool,
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
    let scene = state.plan.as_ref().map(|plan| Scene {
        state,
        plan,
        watch: observed.watch,
        max_delay: observed.policy.max_replication_delay,
        now,
    });
    let hand = state.in_hand.as_ref().zip(scene.as_ref());
    let hand = hand.map(|(hand, scene)| Hand { state, hand, observed, scene: *scene, now });
    // What brings a node back waits for no answer to a command, which the store may refuse, or be away for: it has taken hold already. To call
    // a person brings none back, and whoever has just said what to do is answered first.
    let next_of_hand = match hand.map(|hand| (hand.is_down(), hand.overdue(hand.react()))) {
        Some((true, next @ Next::Act(_))) => return next,
        Some((true, Next::Record(facts))) if !facts.iter().all(|f| matches!(f, Event::UpdateParked(_))) => {
            return Next::Record(facts);
        }
        next => next.map(|(_, next)| next),
    };
    // A flood of commands does not keep a node from coming back.
    let flooded =
        state.unanswered.len() > UNANSWERED_MAX && state.in_hand.as_ref().is_some_and(|h| h.step.out_of_service());
    if !flooded && let Some(answer) = answer_command(state) {
        return Next::Record(vec![answer]);
    }
    if state.end.is_some() {
        return Next::Done(Verdict::Ended);
    }
    if let Some(why) = &state.broken
        && state.in_hand.as_ref().is_none_or(|h| !h.step.out_of_service())
    {
        return broken(state, observed, scene.as_ref(), why, now);
    }
    match (next_of_hand, scene) {
        (next, Some(scene)) => {
            let next = next.unwrap_or_else(|| between_nodes(state, observed, &scene, now));
            described_before_the_end(next, state, observed, scene.plan, now)
        }
        (Some(next), None) => next,
        (None, None) => before_plan(state, observed, now),
    }
}

fn waiting(state: &State, code: &'static str, detail: String, numbers: Vec<Number>, delay: bool) -> Waiting {
    let node = state.in_hand.as_ref().map(|h| h.node.clone());
    let step = state.in_hand.as_ref().map_or("between nodes", |h| h.step.name()).to_owned();
    Waiting { code, detail, numbers, node, step, delay, for_another: false }
}

fn wait(state: &State, code: &'static str, detail: impl Into<String>, numbers: Vec<Number>) -> Next {
    Next::Wait(waiting(state, code, detail.into(), numbers, false))
}

fn delayed(state: &State, code: &'static str, detail: impl Into<String>, numbers: Vec<Number>) -> Next {
    Next::Wait(waiting(state, code, detail.into(), numbers, true))
}

/// What comes next is for another worker to do, to that node.
fn for_another(state: &State, code: &'static str, node: &NodeName, detail: String) -> Next {
    let waiting = waiting(state, code, detail, vec![], true);
    Next::Wait(Waiting { node: Some(node.clone()), for_another: true, ..waiting })
}

/// What EC2 said of an instance, and how long ago.
fn ec2_evidence(seen: &InstanceSeen, now: Moment) -> Vec<Evidence> {
    vec![Evidence {
        what: format!("{} is {} as {}", seen.instance.id, seen.instance.state, seen.instance.instance_type),
        by: "ec2".into(),
        age_seconds: round_ms(now.since(seen.at).as_secs_f64()),
    }]
}

/// What EC2 said of an instance whose type is somebody else's.
fn type_evidence(seen: &InstanceSeen, now: Moment) -> Vec<Evidence> {
    let unnamed = Evidence {
        what: "who changes a type is told by CloudTrail alone, as ModifyInstanceAttribute".into(),
        by: "ec2".into(),
        age_seconds: 0.0,
    };
    ec2_evidence(seen, now).into_iter().chain([unnamed]).collect()
}

fn number(name: &str, value: f64) -> Number {
    Number { name: name.into(), value: round_ms(value) }
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
        let next = match step {
            Step::Selected | Step::PriorityLowered | Step::Transferred | Step::Tagged => self.in_service(),
            Step::LoweringPriority => self.lowering(),
            Step::Resigning => self.resigning(),
            Step::Tagging => self.tagging(),
            Step::Stopping => self.stopping(),
            Step::Stopped | Step::Modified | Step::StartFailed => self.stopped(),
            Step::Modifying => self.modifying(),
            Step::Starting => self.starting(),
            Step::Started => self.started(),
            Step::Rebooting => self.rebooting(),
            Step::Rejoined => self.rejoined(),
            Step::CaughtUp => self.caught_up(),
            Step::RestoringPriority => self.restoring(),
            Step::Untagging => self.untagging(),
        };
        match next {
            Next::Wait(waiting) if step.out_of_service() && step < Step::Started => self.unseen(waiting),
            Next::Wait(_) | Next::Act(_) | Next::Record(_) | Next::Done(_) => next,
        }
    }

    /// A wait that was told long ago, while the node is out of service, is a person's.
    fn overdue(&self, next: Next) -> Next {
        let Next::Wait(waiting) = &next else { return next };
        let told = self.state.delayed.as_ref().is_some_and(|d| d.reason == waiting.code);
        let since = self.state.delayed_seen.map_or(Duration::ZERO, |at| self.now.since(at));
        if !(self.hand.step.out_of_service() && waiting.delay && told && since > DELAY_CALLS_AFTER) {
            return next;
        }
        let remedy = "see to what it waits for; the update goes on by itself once that is over";
        self.parked(waiting.code, waiting.detail.clone(), remedy)
    }

    /// The node is down, and EC2 does not say how its instance is: that is said, the update is offered to whoever does hear EC2, and a person is
    /// called where it lasts.
    fn unseen(&self, untold: Waiting) -> Next {
        let trouble = self.observed.fleet_trouble;
        let why = trouble.unwrap_or("the instance is not described any more");
        // Whoever takes an update over has not looked before.
        let held = self.state.holder.as_ref().map_or(self.hand.step_seen, |holder| holder.seen);
        let since = self.seen().map_or(held, |seen| seen.at).max(held).max(self.hand.step_seen);
        let age = self.now.since(since);
        if age <= UNSEEN_AFTER {
            return Next::Wait(untold);
        }
        let called = self.state.parked.is_some();
        if age > PERSON_AFTER && !called {
            let remedy = "see to it that the worker may describe the instances; it goes on by itself then";
            return self.parked("instanceUnseen", why.to_owned(), remedy);
        }
        let told = if called {
            untold
        } else {
            let numbers = vec![number("seconds", age.as_secs_f64())];
            waiting(self.state, "describingInstances", why.to_owned(), numbers, true)
        };
        Next::Wait(Waiting { for_another: trouble.is_some(), ..told })
    }

    /// Whether its instance does not serve, by our doing: its stop is recorded, or seen.
    fn is_down(&self) -> bool {
        let stopped = self.seen().is_some_and(|seen| seen.instance.state == InstanceState::Stopped);
        self.hand.step.out_of_service() && (self.hand.step > Step::Stopping || stopped)
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
        ec2_evidence(seen, self.now)
    }

    fn no_description(&self) -> Next {
        match self.observed.fleet_trouble {
            Some(why) => self.delayed("describingInstances", why, vec![]),
            None => self.wait("describingInstances", "the instance has not been described yet", vec![]),
        }
    }

    /// Rest before a call that did not succeed is tried again.
    fn rest_after(&self, tries: u32) -> Duration {
        spread(CALL_RETRY_AFTER.saturating_mul(tries), &self.hand.instance, tries)
    }

    fn act(&self, call: Call) -> Next {
        let revision = self.hand.intent.as_ref().map_or(Revision(0), |i| i.revision);
        Next::Act(Action { node: self.node(), call, warrant: Warrant::Intent(revision) })
    }

    /// The open intent, where this worker appended it.
    fn own_intent(&self) -> Option<&IntentInHand> {
        let open = self.hand.intent.as_ref()?.revision;
        self.observed.intent.filter(|i| i.revision == open)
    }

    /// Whether the open intent is this worker's own, was never acted upon, and now never will be.
    fn never_called(&self) -> bool {
        self.own_intent().is_some_and(|i| i.called.is_none() && self.now.since(i.first_sent) > ACT_WINDOW)
    }

    /// Whether that is since the store did not acknowledge it in time.
    fn came_too_late(&self) -> bool {
        let in_time = |i: &IntentInHand| i.acknowledged.is_some_and(|at| at.since(i.first_sent) <= ACT_WINDOW);
        self.never_called() && self.own_intent().is_some_and(|i| !in_time(i))
    }

    /// What is waited for before an intent is written anew; or that its call could not be made.
    fn unless_too_late(&self, otherwise: Next) -> Next {
        if !self.came_too_late() {
            return otherwise;
        }
        let seconds = ACT_WINDOW.as_secs();
        let detail = format!("no call was made: the store did not acknowledge within {seconds} s what announces it");
        self.delayed("storeSlow", detail, vec![])
    }

    fn intent(&self) -> IntentStatus<'_> {
        let Some(open) = &self.hand.intent else { return IntentStatus::Unresolved { settled: true } };
        match self.own_intent() {
            Some(i) => match &i.called {
                None if self.never_called() => IntentStatus::Unresolved { settled: true },
                None if i.acknowledged.is_some() => IntentStatus::MayCall,
                None => IntentStatus::Unresolved { settled: false },
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
}

/// The verdict of an ended update, in the words of `--output json`.
pub fn verdict_word(state: &State) -> &'static str {
    match &state.end {
        Some(End::Completed(_)) => "completed",
        Some(End::Failed(_)) => "failed",
        Some(End::Cancelled(_) | End::Superseded(_)) => "cancelled",
        Some(End::Rejected(_)) => "rejected",
        None if state.needs_a_person() => "parked",
        None => "running",
    }
}
