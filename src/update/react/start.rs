//! It is stopped: its type, its start, and the return ticket.

use super::super::action::{Action, Again, Call, Warrant};
use super::super::event::*;
use super::super::limits::{
    CALL_RETRY_AFTER, CALL_TRIES_MAX, CAPACITY_RETRY_AFTER, CAPACITY_TRIES_MAX, EC2_CALL_TIMEOUT, FENCE_FRESH,
    NODE_CALL_TIMEOUT, PERSON_AFTER, SETTLE_AFTER, START_RETRY_MAX, START_TIMEOUT, STOP_TIMEOUT, TICKET_AFTER,
    TICKET_AFTER_APPENDS_FAIL, TICKET_AFTER_REPLACEMENT, spread,
};
use super::super::observed::InstanceSeen;
use super::super::state::{FOREIGN_TYPE, FailedStart, Step};
use super::between::park;
use super::{Hand, IntentStatus, Next, number, type_evidence};
use crate::domain::ec2::{CallClass, classify, lacks_capacity, may_pass, stopped_by};
use crate::domain::ids::InstanceType;
use crate::domain::instance::InstanceState;
use crate::domain::time::Moment;

impl Hand<'_> {
    /// The type the node is to be started with now.
    pub(super) fn type_to_start(&self) -> InstanceType {
        let types = &self.hand.return_types;
        let last = types.last().unwrap_or(&self.hand.old_type);
        let last = self.as_it_is(last).unwrap_or(last).clone();
        if self.hurries() || self.is_elsewhere() {
            return last;
        }
        let usable = |t: &&InstanceType| {
            let fails: Vec<_> = self.failed_as(t).collect();
            let lacking = fails.iter().filter(|f| lacks_capacity(&f.code)).count();
            fails.iter().all(|f| f.again) && lacking < CAPACITY_TRIES_MAX && fails.len() < CALL_TRIES_MAX as usize
        };
        // Somebody else's type is kept while it is there; it is never given, since the return ticket does not name it.
        let has = self.seen().map(|seen| &seen.instance.instance_type);
        let foreign = self.hand.foreign_type.iter().filter(|t| has == Some(*t));
        foreign.chain(types).find(usable).cloned().unwrap_or(last)
    }

    fn failed_as(&self, t: &InstanceType) -> impl Iterator<Item = &FailedStart> {
        self.hand.failed_starts.iter().filter(move |f| f.instance_type == *t)
    }

    /// The type that the instance has, where it cannot be given the last one: it is started so once after every other try to change it.
    fn as_it_is(&self, last: &InstanceType) -> Option<&InstanceType> {
        let has = &self.seen()?.instance.instance_type;
        self.hand.failed_starts.last().filter(|f| f.instance_type == *last)?;
        let not_given = has != last && self.hand.return_types.contains(has);
        (not_given && self.failed_as(last).count() % 2 == 1).then_some(has)
    }

    /// Whether only the type that surely starts will do.
    fn hurries(&self) -> bool {
        self.given_up() || !self.others_fine()
    }

    /// The fact about a type that somebody else gave the instance, where that is certain: EC2 may go on saying a type of ours for a while.
    fn foreign_type(&self, seen: &InstanceSeen) -> Option<Event> {
        let hand = self.hand;
        let found = &seen.instance.instance_type;
        let ours = hand.return_types.contains(found)
            || [&hand.old_type, &hand.wanted_type].contains(&found)
            || hand.foreign_type.as_ref() == Some(found);
        (!ours).then(|| {
            ForeignChangeSeen {
                node: self.node(),
                attempt: 1,
                what: FOREIGN_TYPE.into(),
                found: found.to_string(),
                // What it was seen with since may be that very type.
                expected: hand.intended_type.as_ref().unwrap_or(&hand.old_type).to_string(),
                observed: type_evidence(seen, self.now),
            }
            .into()
        })
    }

    /// Whether every other voter answers. If one does not, the quorum hangs by a thread, and only the type that surely starts will do.
    pub(super) fn others_fine(&self) -> bool {
        self.scene.plan.members.iter().map(|m| &m.node).filter(|n| **n != self.hand.node && self.scene.is_voter(n)).all(
            |n| {
                self.observed
                    .watch
                    .node(n)
                    .is_some_and(|t| t.silent_since.is_none_or(|since| self.now.since(since) < NODE_CALL_TIMEOUT))
            },
        )
    }

    /// Whether this worker took the update over after the stop that the ticket is of: then the ticket is another's, who may still use it.
    fn is_replacement(&self) -> bool {
        let since = self.state.holder.as_ref().filter(|_| self.observed.took_over_at.is_some());
        since.is_some_and(|holder| self.hand.ticket.is_none_or(|ticket| ticket < holder.revision))
    }

    /// Whether the return ticket is open: the store has had no leader for long enough and nobody in it reports one, or it takes no append; and
    /// the node has not been back since. Whoever is cut off from the store for long may have been replaced, and then the next stop is not its
    /// own: another's tag says so, too.
    pub(super) fn ticket_open(&self) -> bool {
        if self.observed.ticket_spent || self.seen().is_some_and(|seen| self.carries_anothers_tag(seen)) {
            return false;
        }
        self.is_leaderless() || self.takes_no_append()
    }

    fn is_leaderless(&self) -> bool {
        let store = self.observed.store;
        let after = if self.is_replacement() { TICKET_AFTER_REPLACEMENT } else { TICKET_AFTER };
        store.away_since.is_some_and(|since| self.now.since(since) >= after) && store.leader_reported == Some(false)
    }

    fn takes_no_append(&self) -> bool {
        self.observed.appends_fail_since.is_some_and(|since| self.now.since(since) >= TICKET_AFTER_APPENDS_FAIL)
    }

    pub(super) fn stopped(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        match seen.instance.state {
            InstanceState::Running | InstanceState::Pending => return self.runs_without_us(seen),
            InstanceState::Terminated | InstanceState::ShuttingDown => return self.terminated(seen),
            InstanceState::Stopping | InstanceState::Unrecognized => return self.stops(seen),
            InstanceState::Stopped => {}
        }
        if self.ticket_open() {
            return self.use_ticket(seen);
        }
        if let Some(given) = self.given_on_ticket(seen) {
            return Next::Record(vec![given]);
        }
        if let Some(foreign) = self.foreign_type(seen).filter(|_| !self.hurries()) {
            return Next::Record(vec![foreign]);
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

    pub(super) fn starts_so_far(&self) -> u32 {
        u32::try_from(self.hand.failed_starts.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn rest_after_failure(&self, last: &FailedStart, wanted: &InstanceType) -> Option<Next> {
        if &last.instance_type != wanted {
            return None;
        }
        let fails = self.failed_as(wanted).count();
        let tries = u32::try_from(fails).unwrap_or(u32::MAX);
        if let Some(next) = self.unauthenticated(&last.code, last.seen, tries) {
            return Some(next);
        }
        let first = self.failed_as(wanted).next().map_or(last.seen, |f| f.seen);
        let is_last = self.hand.return_types.last() == Some(wanted);
        let numbers = vec![number("failed starts", fails as f64)];
        // With the last type nothing is left but to go on trying: a person is called, at once where no time will cure it.
        let calls = is_last && (!last.again || self.now.since(first) > PERSON_AFTER);
        let found = format!("{} does not start as {}: {}", self.hand.instance, wanted, last.code);
        if calls && self.state.parked.as_ref().is_none_or(|p| p.code != "instanceWillNotStart") {
            let remedy = "mend what the code names, or start the instance by hand, with any type; the update goes on trying, and when it runs";
            return Some(park("instanceWillNotStart", found, remedy));
        }
        let rest = match classify(&last.code) {
            CallClass::Retry | CallClass::Unknown | CallClass::Wait => CALL_RETRY_AFTER.saturating_mul(tries),
            CallClass::Capacity | CallClass::Terminal | CallClass::Denied | CallClass::Unauthenticated if is_last => {
                CAPACITY_RETRY_AFTER.saturating_mul(tries)
            }
            CallClass::Capacity | CallClass::Terminal | CallClass::Denied | CallClass::Unauthenticated => {
                CAPACITY_RETRY_AFTER
            }
        };
        if self.now.since(last.seen) >= spread(rest.min(START_RETRY_MAX), &self.hand.instance, tries) {
            return None;
        }
        Some(if calls {
            self.wait("instanceWillNotStart", found, numbers)
        } else {
            self.delayed("startFailed", format!("{} as {}", last.code, last.instance_type), numbers)
        })
    }

    /// A call was refused for the credentials: none will succeed before they are renewed, and the first sign of that is that the instances are
    /// described again. Nothing has failed; a person is called where it lasts. `None`: try it again.
    pub(super) fn unauthenticated(&self, code: &str, refused: Moment, tries: u32) -> Option<Next> {
        if classify(code) != CallClass::Unauthenticated {
            return None;
        }
        let described = self.observed.fleet_trouble.is_none() && self.seen().is_some_and(|seen| seen.at > refused);
        let waited = self.now.since(refused);
        if described && waited >= self.rest_after(tries.min(CALL_TRIES_MAX)) {
            return None;
        }
        let found = format!("EC2 does not accept the worker's credentials: {code}");
        if waited > PERSON_AFTER {
            let remedy = "renew the worker's credentials (profile, role or environment); it goes on by itself then";
            return Some(self.parked("credentialsRefused", found, remedy));
        }
        Some(self.delayed("credentialsRefused", found, vec![number("try", f64::from(tries))]))
    }

    /// The instance runs although no start of ours stands in the stream: the return ticket, a worker before us, or a person.
    pub(super) fn runs_without_us(&self, seen: &InstanceSeen) -> Next {
        // Nobody asked for this start, and EC2 may be saying what was true before the stop.
        if seen.instance.state == InstanceState::Pending || seen.times < 2 {
            let detail = format!("EC2 says {}", seen.instance.state);
            return if self.now.since(self.hand.step_seen) > START_TIMEOUT {
                self.delayed("instanceStarting", detail, vec![])
            } else {
                self.wait("instanceStarting", detail, vec![])
            };
        }
        self.runs(seen, true)
    }

    /// The instance runs; with which type, and whether that is somebody else's, is told with it.
    fn runs(&self, seen: &InstanceSeen, return_ticket: bool) -> Next {
        let started = InstanceStarted {
            node: self.node(),
            attempt: self.starts_so_far() + 1,
            instance: self.hand.instance.clone(),
            instance_type: seen.instance.instance_type.clone(),
            ec2: self.ec2(seen),
            return_ticket,
            observed: self.ec2_evidence(seen),
        };
        let given = self.given_on_ticket(seen).filter(|_| return_ticket);
        Next::Record(self.foreign_type(seen).into_iter().chain(given).chain([started.into()]).collect())
    }

    /// The fact about a type that this worker gave the instance on the return ticket, until it stands.
    pub(super) fn given_on_ticket(&self, seen: &InstanceSeen) -> Option<Event> {
        let has = &seen.instance.instance_type;
        let stands = self.state.types.get(&self.hand.node) == Some(has);
        let given = self.observed.ticket_type.filter(|given| *given == has && !stands)?;
        let modified = TypeModified {
            node: self.node(),
            attempt: self.hand.next_attempt(Step::Modifying),
            instance: self.hand.instance.clone(),
            instance_type: given.clone(),
            ec2: self.ec2(seen),
            return_ticket: true,
            observed: self.ec2_evidence(seen),
        };
        Some(modified.into())
    }

    /// The store is gone, perhaps because this very node is down: bringing it back is the cure.
    pub(super) fn use_ticket(&self, seen: &InstanceSeen) -> Next {
        let Some(ticket) = self.hand.ticket else {
            return self.delayed(
                "storeAway",
                "nothing can be recorded, and no stop intent entitles to a start",
                vec![],
            );
        };
        // What was said before our last call proves nothing about what came of it, and what is said once may be what was true a while ago.
        if seen.times < 2 || self.now.since(seen.at) > FENCE_FRESH {
            return self.wait("storeAway", "waiting for EC2 to say stopped twice, and just now", vec![]);
        }
        if let Some(at) = self.observed.ticket_called
            && self.now.since(at) < EC2_CALL_TIMEOUT
        {
            return self.delayed(
                "storeAway",
                "nothing can be recorded; the node in hand is being brought back",
                vec![],
            );
        }
        // What came of these starts can be recorded nowhere: the type that surely starts is the one that it had.
        let in_vain = self.observed.ticket_in_vain;
        let last = self.hand.return_types.last().filter(|_| in_vain);
        let wanted = last.cloned().unwrap_or_else(|| self.type_to_start());
        let of_majority = self.is_leaderless() && self.observed.store.folded_from_majority;
        let may_modify = !self.is_replacement() && (of_majority || in_vain);
        let call = if seen.instance.instance_type != wanted && may_modify && self.hand.return_types.contains(&wanted) {
            Call::ModifyType { instance: self.hand.instance.clone(), to: wanted }
        } else {
            Call::StartInstance { instance: self.hand.instance.clone() }
        };
        Next::Act(Action { node: self.node(), call, warrant: Warrant::ReturnTicket(ticket) })
    }

    pub(super) fn modifying(&self) -> Next {
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
            IntentStatus::Refused { again: Again::AfterMending, at, code, .. }
                if classify(code) == CallClass::Unauthenticated && self.hand.attempt < CALL_TRIES_MAX =>
            {
                self.unauthenticated(code, at, self.hand.attempt).unwrap_or_else(|| self.stopped())
            }
            IntentStatus::Refused { again: Again::Soon | Again::WithCapacity, at, code, message }
                if self.hand.attempt < CALL_TRIES_MAX =>
            {
                if self.now.since(at) < self.rest_after(self.hand.attempt) {
                    return self.delayed(
                        "ec2Refused",
                        format!("{code}: {message}"),
                        vec![number("try", f64::from(self.hand.attempt))],
                    );
                }
                self.stopped()
            }
            IntentStatus::Refused { code, .. } => self.start_failed(seen, &wanted, code, false),
            // A modification done twice is the same modification: no need to wait until it is settled, but for EC2 to be heard again, and
            // not in haste.
            IntentStatus::Called | IntentStatus::Unresolved { .. } => {
                if seen.times == 0 {
                    return self.no_description();
                }
                if self.intent_age() < self.rest_after(self.hand.attempt.min(CALL_TRIES_MAX)) {
                    let numbers = vec![number("try", f64::from(self.hand.attempt))];
                    let unknown = self.delayed("ec2Unanswered", "it is unknown whether the type was changed", numbers);
                    return self.unless_too_late(unknown);
                }
                if self.hand.attempt >= CALL_TRIES_MAX {
                    return self.start_failed(seen, &wanted, "typeNotModified", false);
                }
                self.stopped()
            }
        }
    }

    pub(super) fn start_failed(
        &self,
        seen: &InstanceSeen,
        instance_type: &InstanceType,
        code: &str,
        again: bool,
    ) -> Next {
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

    pub(super) fn starting(&self) -> Next {
        let Some(seen) = self.seen() else { return self.no_description() };
        let now_type = seen.instance.instance_type.clone();
        let expected = self.state.types.get(&self.hand.node).is_none_or(|t| *t == now_type);
        match seen.instance.state {
            InstanceState::Running if !expected && seen.at.since(seen.state_since) < SETTLE_AFTER => {
                // Running with another type than it was to start with: most likely what was true before the stop.
                return self.wait("instanceStarting", format!("EC2 says running as {now_type}"), vec![]);
            }
            InstanceState::Running => return self.runs(seen, false),
            InstanceState::Pending => {
                let since = self.intent_age();
                if since > START_TIMEOUT {
                    return self.parked(
                        "instanceStartsNot",
                        format!("{} is pending after {} s", seen.instance.id, since.as_secs()),
                        "look at the instance in EC2; AWS support frees a stuck host",
                    );
                }
                return self.wait("instanceStarting", "EC2 says pending", vec![number("seconds", since.as_secs_f64())]);
            }
            InstanceState::Terminated | InstanceState::ShuttingDown => return self.terminated(seen),
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
                    // Without credentials no type starts: this one is as good as any, once they are back.
                    Again::AfterMending => classify(code) == CallClass::Unauthenticated,
                    Again::Never => false,
                };
                self.start_failed(seen, &now_type, code, again)
            }
            // Its append was acknowledged too late. Nothing was tried, so that nothing failed and nothing is waited for: it is asked for anew.
            IntentStatus::Unresolved { .. } if self.never_called() && seen.instance.state == InstanceState::Stopped => {
                self.stopped()
            }
            IntentStatus::Called | IntentStatus::Unresolved { .. } => {
                let age = self.intent_age();
                let fell_back = seen.pending_seen || age > SETTLE_AFTER;
                if seen.instance.state == InstanceState::Stopped && fell_back && seen.times >= 2 {
                    // A start that never showed may have been lost; one that fell back for a reason that does not pass will again.
                    let code = seen.instance.state_reason.clone().filter(|_| seen.pending_seen);
                    // Who stopped it meanwhile had nothing against the type (and EC2 may be repeating what it said of our own stop).
                    let again = code.as_deref().is_none_or(|code| may_pass(code) || stopped_by(code).is_some());
                    let code = code.unwrap_or_else(|| "startDidNotHappen".into());
                    return self.start_failed(seen, &now_type, &code, again);
                }
                if seen.instance.state == InstanceState::Stopping && age > STOP_TIMEOUT {
                    return self.parked(
                        "instanceStopsNot",
                        format!(
                            "{} is {} {} s after its start was asked for",
                            seen.instance.id,
                            seen.instance.state,
                            age.as_secs()
                        ),
                        "look at the instance in EC2; AWS support frees a stuck host",
                    );
                }
                self.wait(
                    "instanceStarting",
                    format!("EC2 says {}", seen.instance.state),
                    vec![number("seconds", age.as_secs_f64())],
                )
            }
        }
    }
}
