//! The node in hand is in service: it is made to follow, its stop is asked for, or it is let go.

use std::time::Duration;

use super::super::action::Call;
use super::super::event::*;
use super::super::limits::{
    NODE_TIMEOUT, PERSON_AFTER, PRIORITY_TIMEOUT, PRIORITY_TRIES_MAX, RESIGNATION_TIMEOUT, RESIGNATIONS_MAX,
};
use super::super::observed::InstanceSeen;
use super::super::safety::{self, Blocker};
use super::super::state::{CANCELLED, INSTANCE_TERMINATED, ROLLED_BACK, Step, WINDOW_CLOSED};
use super::between::{
    PLAN_AGAIN, UNEXPECTED_MEMBER, approval_awaited, blocked, cancelled, change, own_machine, shut_window, unseen,
    window_closed,
};
use super::stop::{self, REPLACE_NODE};
use super::{Hand, IntentStatus, Next, fence, number};
use crate::domain::agreement::Agreement;
use crate::domain::cluster::NodeState;
use crate::domain::instance::InstanceState;

impl Hand<'_> {
    /// The node is in service: lower, resign, stop; or give up while that costs nothing.
    pub(super) fn in_service(&self) -> Next {
        let told = self.state.delayed.as_ref().is_some_and(|d| d.reason == WINDOW_CLOSED);
        let mut next = self.take_out();
        // The node's time stands still as long as the shut window is the last thing told: what it waits for after that is told as well.
        if let Next::Wait(waiting) = &mut next {
            waiting.delay |= told;
        }
        next
    }

    fn take_out(&self) -> Next {
        if self.given_up() {
            return self.fail_in_service(CANCELLED, "start a new update when it is wanted");
        }
        if let Some(next) = approval_awaited(self.state) {
            return next;
        }
        // Nobody's time runs out while somebody has it paused.
        if let Some(paused) = &self.state.paused {
            let by = paused.by.as_ref().map(|b| format!(" by {b}")).unwrap_or_default();
            return self.wait("paused", format!("paused{by}; resume to go on"), vec![]);
        }
        if self.over_time() {
            return self.fail_in_service(
                "nodeTimedOut",
                "find out why the node could not be taken out of service; see the StepDelayed facts",
            );
        }
        if let Some(found) = &self.hand.stop_refused {
            let (code, remedy) = stop::why_not(found);
            return self.fail_in_service(code, &remedy);
        }
        if let Some(found) = &self.hand.fence_refused {
            let (code, remedy) = fence::why_not(found);
            return self.fail_in_service(code, &remedy);
        }
        let Some(seen) = self.seen() else { return self.no_description() };
        match seen.instance.state {
            InstanceState::Terminated | InstanceState::ShuttingDown => {
                return self.fail_in_service(INSTANCE_TERMINATED, REPLACE_NODE);
            }
            InstanceState::Pending
            | InstanceState::Running
            | InstanceState::Stopping
            | InstanceState::Stopped
            | InstanceState::Unrecognized => {}
        }
        if let Some(window) = self.shut_window() {
            return window_closed(self.state, window);
        }
        if let Some(next) = unseen(self.state, self.observed, seen, self.now) {
            return next;
        }
        if let Some(next) = self.own_machine() {
            return next;
        }
        if let Some(next) = self.fenced_by_another() {
            return next;
        }
        let blockers = safety::stop_blockers(&self.scene, &self.hand.node);
        if blockers.iter().any(|b| matches!(b, Blocker::UnexpectedMember(_))) {
            return self.fail_in_service(UNEXPECTED_MEMBER, PLAN_AGAIN);
        }
        if blockers.contains(&Blocker::Leads) {
            return self.make_follow();
        }
        if let Some(first) = blockers.first() {
            return blocked(self.state, first, "before its stop", self.now);
        }
        if let Some(next) = self.fence_first(seen) {
            return next;
        }
        self.request_stop(seen)
    }

    /// What there is to wait for where this worker runs on the instance in hand.
    pub(super) fn own_machine(&self) -> Option<Next> {
        own_machine(self.state, self.observed, &self.hand.node, &self.hand.instance, self.now)
    }

    pub(super) fn request_stop(&self, seen: &InstanceSeen) -> Next {
        let Some(request) = &self.state.request else {
            return self.wait("noRequest", "there is no request", vec![]);
        };
        let change = change(self.state, request, &self.hand.node, seen, &self.hand.old_type, self.hand.rolling_back);
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

    pub(super) fn lowest_other_priority(&self) -> i32 {
        let others =
            self.scene.plan.members.iter().map(|m| &m.node).filter(|n| **n != self.hand.node && self.scene.is_voter(n));
        others
            .filter_map(|n| self.observed.watch.node(n).and_then(|t| t.last_own()))
            .map(|own| own.priority)
            .min()
            .unwrap_or(0)
    }

    /// The node leads: its priority first, then it resigns, until it follows.
    pub(super) fn make_follow(&self) -> Next {
        if self.given_up() {
            return self.fail_in_service(CANCELLED, "start a new update when it is wanted");
        }
        let Some(own) = self.own() else { return self.wait("nodeSilent", "the leader does not answer", vec![]) };
        // It may have come to lead since it was taken in hand as a follower.
        if let Some(gate) = self.leaders_gate() {
            return gate;
        }
        let wanted = self.lowest_other_priority().saturating_sub(1);
        // Another run may have lowered it and left it so: then it is ours to give back.
        let before = self.resumed().and_then(|r| r.original_priority);
        let left_lowered = self.hand.lowered.is_none() && before.is_some_and(|before| before != own.priority);
        if own.priority > wanted || left_lowered {
            let attempt = self.hand.next_attempt(Step::LoweringPriority);
            if attempt > PRIORITY_TRIES_MAX {
                return self.fail_in_service(PRIORITY_NOT_LOWERED, NO_PRIORITY);
            }
            return Next::Record(vec![
                PriorityLoweringRequested {
                    node: self.node(),
                    attempt,
                    original: self.hand.lowered.map_or(before.unwrap_or(own.priority), |l| l.original),
                    priority: wanted.min(own.priority),
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
                epoch: Some(own.epoch),
                observed: safety::evidence(&self.scene),
            }
            .into(),
        ])
    }

    pub(super) fn lowering(&self) -> Next {
        let (Some(lowered), Some(own)) = (self.hand.lowered, self.own()) else {
            // Whatever is to end this, or holds it up, is found there.
            return if self.intent_age() < PRIORITY_TIMEOUT {
                self.wait("nodeSilent", "the node does not answer", vec![])
            } else {
                self.in_service()
            };
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
            // Let go, or held: no more of it now.
            IntentStatus::Called | IntentStatus::Refused { .. } | IntentStatus::Unresolved { .. }
                if self.turning_back() =>
            {
                self.in_service()
            }
            IntentStatus::Called | IntentStatus::Refused { .. } | IntentStatus::Unresolved { .. } => {
                if self.hand.attempt >= PRIORITY_TRIES_MAX {
                    return self.fail_in_service(PRIORITY_NOT_LOWERED, NO_PRIORITY);
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

    pub(super) fn intent_age(&self) -> Duration {
        self.hand.intent.as_ref().map_or(Duration::ZERO, |i| self.now.since(i.seen))
    }

    pub(super) fn resigning(&self) -> Next {
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
        let (age, numbers) = (self.intent_age(), vec![number("seconds", self.intent_age().as_secs_f64())]);
        if age < RESIGNATION_TIMEOUT || !leads_still && age < 2 * RESIGNATION_TIMEOUT {
            let doubts: Vec<String> = agreement.doubts().iter().map(ToString::to_string).collect();
            let detail = if leads_still { "it still leads".to_owned() } else { doubts.join(", ") };
            return self.wait("electionAwaited", detail, numbers);
        }
        if let Agreement::Yes { node: leader, .. } = &agreement
            && leader != &self.hand.node
            && !self.turning_back()
            && !self.over_time()
        {
            return self.delayed("electionAwaited", format!("{leader} leads, and it does not follow yet"), numbers);
        }
        if self.hand.resignations >= RESIGNATIONS_MAX {
            return self.fail_in_service(
                "leaderDoesNotResign",
                "the leader went on leading; look at its log, and whether every voter reaches every other",
            );
        }
        // Once more, unless it was let go or paused meanwhile.
        self.in_service()
    }

    /// Ends the node's turn while it is in service. An open intent is settled by its age: nothing it could still do would stop a node.
    pub(super) fn fail_in_service(&self, code: &str, remedy: &str) -> Next {
        if let Some(next) = self.unfence(vec![]) {
            return next;
        }
        match self.hand.lowered {
            Some(lowered) => self.restore(lowered.original, 1),
            None => Next::Record(vec![self.way_out(code, remedy)]),
        }
    }

    /// Whether the node is not to be changed any more: the update is cancelled, has failed, or goes back.
    pub(super) fn given_up(&self) -> bool {
        let forwards = !self.hand.rolling_back;
        self.state.cancelled.is_some() || forwards && (self.state.failure.is_some() || self.state.rollback.is_some())
    }

    /// The last fact about a node that goes on serving: the update's cancellation, or how this node ended.
    pub(super) fn way_out(&self, code: &str, remedy: &str) -> Event {
        if let (Some(cancel), None) = (&self.state.cancelled, &self.state.failure) {
            return cancelled(self.state, self.observed, cancel, self.now);
        }
        if self.state.rollback.is_some() && !self.hand.rolling_back {
            return NodeRolledBack {
                node: self.node(),
                attempt: 1,
                instance_type: self.hand.old_type.clone(),
                seconds: self.hand.phases(self.observed.wall),
                code: ROLLED_BACK.into(),
                remedy: "start a new update when it is wanted".into(),
                observed: safety::evidence(&self.scene),
            }
            .into();
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

    pub(super) fn restore(&self, priority: i32, attempt: u32) -> Next {
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

    pub(super) fn restoring(&self) -> Next {
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
        if let Some(seen) = self.seen()
            && matches!(seen.instance.state, InstanceState::Terminated | InstanceState::ShuttingDown)
        {
            return self.terminated(seen);
        }
        let Some(own) = self.own() else {
            let since = self.now.since(self.hand.step_seen);
            if since > PERSON_AFTER {
                return self.parked(
                    "priorityNotRestored",
                    format!("the node does not answer, and its priority is to be {} again", lowered.original),
                    "start the node's process, which begins with its configured priority; or terminate its instance for good",
                );
            }
            return self.delayed(
                "nodeSilent",
                "the node does not answer",
                vec![number("seconds", since.as_secs_f64())],
            );
        };
        // The call that lowered it may be under way still, and what the entry says may be older than either: it is called before it is
        // believed.
        let called = !matches!(self.intent(), IntentStatus::MayCall);
        if own.priority == lowered.original && called && self.refreshed_since_intent() {
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
    pub(super) fn failure_after_restoring(&self) -> Event {
        if let Some(found) = &self.hand.stop_refused {
            let (code, remedy) = stop::why_not(found);
            self.way_out(code, &remedy)
        } else if let Some(found) = &self.hand.fence_refused {
            let (code, remedy) = fence::why_not(found);
            self.way_out(code, &remedy)
        } else if self.hand.lowerings >= PRIORITY_TRIES_MAX && !self.hand.marks.contains_key(&Step::PriorityLowered) {
            self.way_out(PRIORITY_NOT_LOWERED, NO_PRIORITY)
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
        } else if self.scene.unexpected_members().is_some() {
            self.way_out(UNEXPECTED_MEMBER, PLAN_AGAIN)
        } else {
            self.way_out("nodeLetGo", "see the facts before this one")
        }
    }

    /// The approval to be asked for before the leader is touched.
    fn leaders_gate(&self) -> Option<Next> {
        let gates = self.state.request.as_ref().filter(|_| !self.hand.rolling_back)?.gates.as_ref()?;
        let (gate, node) = (Gate::BeforeLeader, Some(self.node()));
        if !gates.contains(&gate) || self.state.approved.contains(&(gate, node.clone())) {
            return None;
        }
        let detail = format!("{} is in hand, and leads by now", self.hand.node);
        Some(Next::Record(vec![ApprovalAwaited { gate, node, detail }.into()]))
    }

    /// The window within which the node may be taken out of service, while it is shut.
    pub(super) fn shut_window(&self) -> Option<&Window> {
        let forwards = self.state.request.as_ref().filter(|_| !self.hand.rolling_back)?;
        shut_window(forwards, self.observed)
    }

    pub(super) fn over_time(&self) -> bool {
        let limit = self.state.request.as_ref().and_then(|r| r.node_timeout_seconds);
        let limit = limit.map_or(NODE_TIMEOUT, seconds);
        let spent = self.resumed().and_then(|r| r.spent_seconds).unwrap_or_default();
        let until = self.state.still_since.unwrap_or(self.now);
        until.since(self.hand.selected_seen).saturating_add(seconds(spent)) > limit
    }

    /// What another run says of the node.
    fn resumed(&self) -> Option<&ResumedNode> {
        self.state.request.as_ref().and_then(|r| r.resumed(&self.hand.node))
    }
}

/// Code of a leader that was let go because it takes no priority.
const PRIORITY_NOT_LOWERED: &str = "priorityNotLowered";

/// What a person should do then.
const NO_PRIORITY: &str =
    "the node takes no priority: check the rights of the worker's user, and the node's /admin endpoints";

/// A number of a request. No plan is made with one that is out of bounds, but its facts may be forged.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::MAX)
}
