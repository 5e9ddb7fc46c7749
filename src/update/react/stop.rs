//! Its stop stands in the stream: until it is stopped, or until it is sure that it will not be.

use super::super::action::{Again, Call};
use super::super::event::*;
use super::super::limits::{
    ACT_WINDOW, CALL_TRIES_MAX, EC2_CALL_TIMEOUT, NODE_CALL_TIMEOUT, SETTLE_AFTER, STOP_TIMEOUT,
};
use super::super::observed::InstanceSeen;
use super::super::safety::{self, Blocker};
use super::super::state::{INSTANCE_NOT_THE_NODES, INSTANCE_TERMINATED, STOP_NOT_DONE, TURNED_BACK};
use super::between::{blocked, park};
use super::{Hand, IntentStatus, Next, number};
use crate::domain::ec2::{CallClass, classify};
use crate::domain::instance::InstanceState;

/// What a person should do where an instance is gone.
pub(super) const REPLACE_NODE: &str = "somebody terminated the instance: replace the node, then start a new update";

/// The code and the remedy of a node that was not stopped, from what was found.
pub(super) fn why_not(found: &str) -> (&'static str, String) {
    if found.starts_with(INSTANCE_NOT_THE_NODES) {
        let remedy = "correct instance_id and address of the cluster's nodes in the worker's configuration: another machine was stopped, and \
                      started again as it was; look whether its own node has come back";
        return (INSTANCE_NOT_THE_NODES, remedy.to_owned());
    }
    ("stopRefused", format!("EC2 refused the stop: {found}"))
}

impl Hand<'_> {
    pub(super) fn stopping(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        match seen.instance.state {
            InstanceState::Stopped if self.ticket_open() => return self.use_ticket(seen),
            InstanceState::Stopped if self.own().is_some() && seen.at.since(seen.state_since) < SETTLE_AFTER => {
                // EC2 says what was true some seconds ago: on a stopped instance nobody answers. Where it goes on saying so, that instance
                // is down by our doing, whoever answers.
                return self.wait("instanceStopping", "EC2 says stopped, and the node answers", vec![]);
            }
            InstanceState::Stopped => {
                let stopped = self.was_stopped(seen, self.ec2_evidence(seen));
                return Next::Record([stopped].into_iter().chain(self.given_on_ticket(seen)).collect());
            }
            InstanceState::Stopping | InstanceState::Pending => return self.stops(seen),
            InstanceState::Terminated | InstanceState::ShuttingDown => return self.terminated(seen),
            InstanceState::Running | InstanceState::Unrecognized => {}
        }
        // A supervisor restarts a process as well: then EC2 has said `running` all the time since the stop was asked for.
        let asked = self.hand.intent.as_ref().map_or(self.hand.step_seen, |i| i.seen);
        let restarted = self.own().is_some_and(|own| Some(own.process) != self.hand.process_before)
            && self.hand.process_before.is_some()
            && seen.state_since > asked;
        if seen.instance.state == InstanceState::Running && (restarted || self.observed.ticket_called.is_some()) {
            // Stopped and started again while nothing could be recorded: by the return ticket, or by a person.
            return self.stopped_and_started(seen);
        }
        // Running: the call was not made yet, or did not come to pass, or EC2 does not show it yet.
        match self.intent() {
            IntentStatus::MayCall if self.state.broken.is_some() => {
                self.wait("historyIllegal", "the stop was called off", vec![])
            }
            IntentStatus::MayCall if self.turning_back() => {
                self.wait("stopCalledOff", "the update is not to go on now", vec![])
            }
            IntentStatus::MayCall => {
                let blockers = safety::stop_blockers(&self.scene, &self.hand.node);
                match blockers.first() {
                    None if self.fence_holds(seen) != Some(true) => {
                        self.wait("fenceUnseen", "EC2 does not say that the instance carries this update's tag", vec![])
                    }
                    None => self.act(Call::StopInstance { instance: self.hand.instance.clone() }),
                    // What was true a moment ago is not any more: let the window pass, and begin again.
                    Some(first) => blocked(self.state, first, "the stop was called off", self.now),
                }
            }
            IntentStatus::Called if self.intent_age() < ACT_WINDOW + EC2_CALL_TIMEOUT + SETTLE_AFTER => {
                self.wait("instanceStopping", "EC2 accepted the stop and still says running", vec![])
            }
            IntentStatus::Refused { code, again: Again::AfterMending, at, .. }
                if classify(code) == CallClass::Unauthenticated && self.hand.attempt < CALL_TRIES_MAX =>
            {
                if self.turning_back() {
                    return self.not_stopped(TURNED_BACK, "");
                }
                self.unauthenticated(code, at, self.hand.attempt).unwrap_or_else(|| self.stop_again(seen))
            }
            IntentStatus::Refused { code, message, again, at } => {
                let rest = self.rest_after(self.hand.attempt);
                let may_repeat =
                    matches!(again, Again::Soon | Again::WithCapacity) && self.hand.attempt < CALL_TRIES_MAX;
                if may_repeat && self.now.since(at) < rest {
                    return self.delayed(
                        "ec2Refused",
                        format!("{code}: {message}"),
                        vec![number("try", f64::from(self.hand.attempt))],
                    );
                }
                match (may_repeat, self.turning_back()) {
                    (true, true) => self.not_stopped(TURNED_BACK, ""),
                    (true, false) => self.stop_again(seen),
                    (false, _) => self.not_stopped(code, message),
                }
            }
            // Accepted, and not to be seen for so long: it came to nothing, or somebody started the instance again before anybody looked.
            IntentStatus::Called | IntentStatus::Unresolved { .. } => {
                let settled = !matches!(self.intent(), IntentStatus::Unresolved { settled: false });
                // By now no call is under way any more: what answers goes on serving.
                let alive = seen.times >= 2 && self.own().is_some() && self.refreshed_since_intent();
                let open_since = self.hand.intent.as_ref().map_or(self.hand.step_seen, |i| i.seen);
                let told = seen.at.since(open_since) >= ACT_WINDOW + EC2_CALL_TIMEOUT + 2 * SETTLE_AFTER;
                if settled && told && self.own().is_none() {
                    // It may have been stopped and started again, by whomever: bringing it back may be our duty.
                    return self.parked(
                        "stopUnresolved",
                        format!(
                            "whether {} was stopped is unknown: it runs, and its node does not answer",
                            seen.instance.id
                        ),
                        "look at the node's own log, and start its process; the update goes on once it answers",
                    );
                }
                if !settled || !alive {
                    let numbers = vec![number("seconds", self.intent_age().as_secs_f64())];
                    let unknown = self.wait("stopUnresolved", "it is unknown whether the stop was called", numbers);
                    return self.unless_too_late(unknown);
                }
                if self.turning_back() { self.not_stopped(TURNED_BACK, "") } else { self.stop_again(seen) }
            }
        }
    }

    /// It is on its way to `stopped`, by whomever: that takes a minute or two. It is never forced.
    pub(super) fn stops(&self, seen: &InstanceSeen) -> Next {
        let since = self.now.since(self.hand.step_seen);
        if since > STOP_TIMEOUT {
            return self.parked(
                "instanceStopsNot",
                format!("{} is {} after {} s", seen.instance.id, seen.instance.state, since.as_secs()),
                "look at the instance in EC2; AWS support frees a stuck host",
            );
        }
        let numbers = vec![number("seconds", since.as_secs_f64())];
        self.wait("instanceStopping", format!("EC2 says {}", seen.instance.state), numbers)
    }

    pub(super) fn stopped_and_started(&self, seen: &InstanceSeen) -> Next {
        let stopped = self.was_stopped(seen, safety::evidence(&self.scene));
        let Next::Record(started) = self.runs_without_us(seen) else {
            return self.wait("instanceStarting", format!("EC2 says {}", seen.instance.state), vec![]);
        };
        Next::Record([stopped].into_iter().chain(started).collect())
    }

    /// It was stopped with the type that it has, or had before it was given another on the return ticket.
    fn was_stopped(&self, seen: &InstanceSeen, observed: Vec<Evidence>) -> Event {
        let instance_type = match self.given_on_ticket(seen) {
            Some(_) => self.state.types.get(&self.hand.node).unwrap_or(&self.hand.old_type),
            None => &seen.instance.instance_type,
        };
        InstanceStopped {
            node: self.node(),
            attempt: self.hand.attempt,
            instance: self.hand.instance.clone(),
            instance_type: instance_type.clone(),
            ec2: self.ec2(seen),
            observed,
        }
        .into()
    }

    pub(super) fn turning_back(&self) -> bool {
        let held = self.state.paused.is_some() || self.state.broken.is_some() || self.shut_window().is_some();
        self.given_up() || held
    }

    /// Nothing brings it back: a machine that is terminated is gone for good.
    pub(super) fn terminated(&self, seen: &InstanceSeen) -> Next {
        let found = format!("{} is {}", seen.instance.id, seen.instance.state);
        if seen.times < 2 {
            return self.wait(INSTANCE_TERMINATED, found, vec![]);
        }
        Next::Record(vec![
            NodeFailed {
                node: self.node(),
                attempt: 1,
                code: INSTANCE_TERMINATED.into(),
                remedy: REPLACE_NODE.into(),
                left_in: found,
                observed: self.ec2_evidence(seen),
            }
            .into(),
        ])
    }

    /// The process that was to be stopped answers, although its instance is known to have been stopped: it runs on another machine.
    pub(super) fn is_elsewhere(&self) -> bool {
        // An answer may have been under way when the stop was recorded.
        let since = self.hand.step_seen.after(NODE_CALL_TIMEOUT);
        let last = self.observed.watch.node(&self.hand.node).and_then(|t| t.refreshes.back());
        last.is_some_and(|r| r.at > since && Some(r.own.process) == self.hand.process_before)
    }

    /// The node's own entry has been refreshed after the intent's call could have been made. A node that has nobody to gossip with refreshes
    /// its entry at changes of its state only: there its answer must do.
    pub(super) fn refreshed_since_intent(&self) -> bool {
        let Some(open) = &self.hand.intent else { return true };
        let Some(track) = self.observed.watch.node(&self.hand.node) else { return false };
        let alone = self.scene.plan.members.len() == 1;
        let last = if alone { track.last.as_ref().map(|(at, _)| *at) } else { track.refreshes.back().map(|r| r.at) };
        last.is_some_and(|at| at > open.seen)
    }

    pub(super) fn stop_again(&self, seen: &InstanceSeen) -> Next {
        if let Some(next) = self.quiet() {
            return next;
        }
        let blockers = safety::stop_blockers(&self.scene, &self.hand.node);
        let hopeless = |b: &Blocker| matches!(b, Blocker::Leads | Blocker::UnexpectedMember(_));
        if self.over_time() || self.own_machine().is_some() || blockers.iter().any(hopeless) {
            return self.not_stopped(TURNED_BACK, "");
        }
        match blockers.first() {
            Some(first) => blocked(self.state, first, "before its stop", self.now),
            None => match self.fence_holds(seen) {
                Some(true) => self.request_stop(seen),
                // It is in service, and nothing is under way: from there it is tagged anew, or let go.
                Some(false) => self.not_stopped(TURNED_BACK, ""),
                None => self.fence_unseen(),
            },
        }
    }

    /// The stop did not happen and will not: EC2 says running, the node goes on serving.
    pub(super) fn not_stopped(&self, code: &str, message: &str) -> Next {
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

    pub(super) fn parked(&self, code: &'static str, found: String, remedy: &str) -> Next {
        match &self.state.parked {
            Some(p) if p.code == code => self.wait(code, found, vec![]),
            Some(_) | None => park(code, found, remedy),
        }
    }
}
