//! The fence outside the store: a tag on the instance in hand. Written before the stop and removed when the node is done, so that whoever works
//! on the cluster by another store, or under another name of it, sees it; another update's tag holds this one up.
//!
//! EC2 compares nothing when it writes a tag, and says for a while what was true before: hence the looks, two of them, and fresh.

use super::super::action::{Again, Call};
use super::super::event::*;
use super::super::limits::{
    ACT_WINDOW, CALL_TRIES_MAX, EC2_CALL_TIMEOUT, FENCE_APART, FENCE_FRESH, FENCE_PATIENCE, FENCE_UNSEEN_MAX,
    SETTLE_AFTER, UNTAG_TRIES_MAX,
};
use super::super::observed::InstanceSeen;
use super::super::state::{FENCE_NOT_WRITTEN, FENCED_BY_ANOTHER, Step, round_ms};
use super::{Hand, IntentStatus, Next, number};
use crate::domain::ec2::{CallClass, classify};
use crate::domain::ids::Revision;
use crate::domain::instance::{FENCE_TAG, InstanceState, is_fence_of};

/// Whose tag an instance carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence<'a> {
    /// Nobody's, or one that a person took for left behind.
    None,
    /// This update's, written by any of its intents.
    Ours(&'a str),
    /// Another update's.
    Anothers(&'a str),
}

/// How it begins that no tag could be written for want of a store that is quick enough.
const STORE_SLOW: &str = "the store acknowledges too late what announces a call";

/// Code and remedy of a node that was let go for want of its tag.
pub(super) fn why_not(found: &str) -> (&'static str, String) {
    if found.starts_with(FENCED_BY_ANOTHER) {
        let remedy = format!(
            "{found}: see who works on this cluster, from another store or under another name; if nobody does, remove the tag {FENCE_TAG} from \
             the instance, then start a new update"
        );
        return (FENCED_BY_ANOTHER, remedy);
    }
    if found.starts_with(STORE_SLOW) {
        let remedy =
            format!("{found}: see to the disks of the store's nodes, and to what else writes, then start a new update");
        return (FENCE_NOT_WRITTEN, remedy);
    }
    let else_unfenced = "or set fence = false for the cluster in the worker's configuration";
    let mend = if found.starts_with("TagLimitExceeded") {
        "remove a tag from the instance, which has as many as EC2 takes (50)".to_owned()
    } else if found.starts_with("TagPolicyViolation") {
        format!("let the organization's tag policy take the key {FENCE_TAG}")
    } else {
        "let the worker's role ec2:CreateTags and ec2:DeleteTags".to_owned()
    };
    let remedy = format!("{found}: {mend}, {else_unfenced}");
    (FENCE_NOT_WRITTEN, remedy)
}

impl Hand<'_> {
    fn is_ours(&self, value: &str) -> bool {
        is_fence_of(value, self.observed.update)
    }

    /// Whether an instance carries the tag of another update, where such a tag is respected.
    pub(super) fn carries_anothers_tag(&self, seen: &InstanceSeen) -> bool {
        self.observed.policy.fence && matches!(self.fence_seen(seen), Fence::Anothers(_))
    }

    fn fence_on<'a>(&self, member: &PlannedMember, seen: &'a InstanceSeen) -> Fence<'a> {
        match seen.instance.fence() {
            None => Fence::None,
            Some(value) if self.is_ours(value) => Fence::Ours(value),
            Some(value) if member.stale_fence.as_deref() == Some(value) => Fence::None,
            Some(value) => Fence::Anothers(value),
        }
    }

    /// Whose tag the instance in hand carries.
    fn fence_seen<'a>(&self, seen: &'a InstanceSeen) -> Fence<'a> {
        match self.state.member(&self.hand.node) {
            Some(member) => self.fence_on(member, seen),
            None => Fence::Anothers("no planned instance"),
        }
    }

    fn fresh(&self, seen: &InstanceSeen) -> bool {
        self.now.since(seen.at) <= FENCE_FRESH
    }

    /// Whether what EC2 says of the tag was said just now, and before.
    fn said_twice(&self, seen: &InstanceSeen) -> bool {
        self.fresh(seen) && seen.fence_times >= 2 && seen.at.since(seen.fence_since) >= FENCE_APART
    }

    /// Another update is at work on this cluster, wherever its tag is: nothing more is begun. It is waited for, and then the node let go.
    pub(super) fn fenced_by_another(&self) -> Option<Next> {
        if !self.observed.policy.fence {
            return None;
        }
        let (member, seen, value) = self.scene.plan.members.iter().find_map(|m| {
            let seen = self.observed.instances.get(&m.instance)?;
            match self.fence_on(m, seen) {
                Fence::Anothers(value) => Some((m, seen, value)),
                Fence::None | Fence::Ours(_) => None,
            }
        })?;
        let found = format!("{} of {} is tagged {FENCE_TAG} = {value}", seen.instance.id, member.node);
        let since = self.now.since(seen.fence_since);
        if since > FENCE_PATIENCE {
            return Some(self.not_tagged(format!("{FENCED_BY_ANOTHER}: {found}")));
        }
        Some(self.delayed(FENCED_BY_ANOTHER, found, vec![number("seconds", since.as_secs_f64())]))
    }

    /// What comes before the stop: the tag, seen.
    pub(super) fn fence_first(&self, seen: &InstanceSeen) -> Option<Next> {
        match self.fence_holds(seen) {
            Some(true) => None,
            Some(false) => Some(self.request_tag(seen)),
            None => Some(self.fence_unseen()),
        }
    }

    /// Whether the fence stands on the instance, as far as the stop is concerned; nothing, if that cannot be told now.
    pub(super) fn fence_holds(&self, seen: &InstanceSeen) -> Option<bool> {
        if !self.observed.policy.fence {
            return Some(true);
        }
        if !self.fresh(seen) {
            return None;
        }
        let stands = self.hand.fence.as_ref().is_some_and(|f| f.stands);
        match self.fence_seen(seen) {
            Fence::Ours(_) if stands => Some(true),
            Fence::None | Fence::Ours(_) | Fence::Anothers(_) => self.said_twice(seen).then_some(false),
        }
    }

    pub(super) fn fence_unseen(&self) -> Next {
        match self.observed.fleet_trouble {
            Some(why) => self.delayed("describingInstances", why, vec![]),
            None => self.wait("fenceUnseen", "waiting for EC2 to say twice which tag the instance carries", vec![]),
        }
    }

    fn request_tag(&self, seen: &InstanceSeen) -> Next {
        if let Fence::Anothers(value) = self.fence_seen(seen) {
            return self.wait(FENCED_BY_ANOTHER, value, vec![]);
        }
        let attempt = self.hand.tags + 1;
        if attempt > CALL_TRIES_MAX {
            let tries = self.hand.tags;
            return self.not_tagged(if self.came_too_late() {
                format!("{STORE_SLOW}, after {tries} tries")
            } else {
                format!("the tag does not stay, after {tries} tries")
            });
        }
        // The fact stands at this revision, or not at all.
        let revision = self.state.last_revision().map_or(Revision(0), Revision::next);
        let value = format!("{}@{revision}", self.observed.update);
        Next::Record(vec![self.tag_requested(seen, attempt, value, false)])
    }

    fn tag_requested(&self, seen: &InstanceSeen, attempt: u32, value: String, remove: bool) -> Event {
        TagRequested {
            node: self.node(),
            attempt,
            instance: self.hand.instance.clone(),
            instance_type: seen.instance.instance_type.clone(),
            value,
            remove,
            observed: self.tag_evidence(seen),
        }
        .into()
    }

    fn tag_evidence(&self, seen: &InstanceSeen) -> Vec<Evidence> {
        let said = seen.instance.fence().map_or_else(|| "no tag".to_owned(), |value| format!("the tag {value}"));
        vec![Evidence {
            what: format!("{} is {} with {said}", seen.instance.id, seen.instance.state),
            by: "ec2".into(),
            age_seconds: round_ms(self.now.since(seen.at).as_secs_f64()),
        }]
    }

    /// The tag is not to be had: the node, to which nothing was done, is let go.
    fn not_tagged(&self, found: String) -> Next {
        Next::Record(vec![
            ForeignChangeSeen {
                node: self.node(),
                attempt: self.hand.attempt,
                what: FENCE_NOT_WRITTEN.into(),
                found,
                expected: "an instance that carries this update's tag".into(),
                observed: self.seen().map(|s| self.tag_evidence(s)).unwrap_or_default(),
            }
            .into(),
        ])
    }

    /// Its tag stands in the stream: until EC2 says so.
    pub(super) fn tagging(&self) -> Next {
        // Whatever is to end this, or holds it up, is found there; there it is asked for again as well.
        let Some(seen) = self.seen() else { return self.in_service() };
        let value = match self.fence_seen(seen) {
            Fence::Ours(value) if self.said_twice(seen) => {
                return Next::Record(vec![
                    Tagged {
                        node: self.node(),
                        attempt: self.hand.attempt,
                        instance: self.hand.instance.clone(),
                        instance_type: seen.instance.instance_type.clone(),
                        value: value.to_owned(),
                        ec2: self.ec2(seen),
                        observed: self.tag_evidence(seen),
                    }
                    .into(),
                ]);
            }
            Fence::None | Fence::Ours(_) => self.hand.fence.as_ref().map(|f| f.value.clone()).unwrap_or_default(),
            // Written over ours, or before it.
            Fence::Anothers(_) => return self.in_service(),
        };
        let rest = self.rest_after(self.hand.attempt);
        match self.intent() {
            IntentStatus::MayCall if self.given_up() => self.in_service(),
            IntentStatus::MayCall if self.fenced_by_another().is_some() => self.in_service(),
            IntentStatus::MayCall if self.observed.policy.fence && self.said_twice(seen) => {
                self.act(Call::Tag { instance: self.hand.instance.clone(), value })
            }
            IntentStatus::MayCall => self.fence_unseen(),
            IntentStatus::Called if self.intent_age() < SETTLE_AFTER => {
                self.wait("tagAwaited", "EC2 does not say yet that the instance carries the tag", vec![])
            }
            IntentStatus::Refused { again: Again::Soon | Again::WithCapacity, at, code, message }
                if self.hand.attempt < CALL_TRIES_MAX =>
            {
                if self.now.since(at) < rest && !self.given_up() {
                    let numbers = vec![number("try", f64::from(self.hand.attempt))];
                    return self.delayed("ec2Refused", format!("{code}: {message}"), numbers);
                }
                self.in_service()
            }
            IntentStatus::Refused { again: Again::AfterMending, at, code, .. }
                if classify(code) == CallClass::Unauthenticated && self.hand.attempt < CALL_TRIES_MAX =>
            {
                // Nothing has failed, and a cancellation is obeyed meanwhile.
                let waits = self.unauthenticated(code, at, self.hand.attempt).filter(|_| !self.given_up());
                waits.unwrap_or_else(|| self.in_service())
            }
            IntentStatus::Refused { code, message, .. } => self.not_tagged(format!("{code}: {message}")),
            // Written twice it is the same tag: no need to wait until it is settled, but for EC2 to be heard again.
            IntentStatus::Called | IntentStatus::Unresolved { .. } => {
                if !self.given_up() && (seen.fence_times == 0 || self.intent_age() < rest) {
                    let numbers = vec![number("try", f64::from(self.hand.attempt))];
                    let unknown = self.wait("tagUnresolved", "it is unknown whether the instance was tagged", numbers);
                    return self.unless_too_late(unknown);
                }
                self.in_service()
            }
        }
    }

    /// What comes before the node's turn ends: the tag, gone. Nothing, if there is none. `before` is recorded with the intent.
    pub(super) fn unfence(&self, before: Vec<Event>) -> Option<Next> {
        let fence = self.hand.fence.as_ref()?;
        if let Some(next) = self.quiet() {
            return Some(next);
        }
        let asked = self.now.since(fence.asked_seen);
        if asked < ACT_WINDOW + EC2_CALL_TIMEOUT {
            // A call that is under way would write it after it was removed.
            return Some(self.wait("tagUnresolved", "the instance may be about to be tagged", vec![]));
        }
        let Some(seen) = self.seen() else { return Some(self.tag_not_seen(before)) };
        Some(match self.fence_seen(seen) {
            Fence::Ours(value) => self.request_untag(seen, value, before),
            Fence::None | Fence::Anothers(_) => self.gone(seen, before),
        })
    }

    fn request_untag(&self, seen: &InstanceSeen, value: &str, mut before: Vec<Event>) -> Next {
        let attempt = self.hand.next_attempt(Step::Untagging);
        before.push(self.tag_requested(seen, attempt, value.to_owned(), true));
        Next::Record(before)
    }

    /// EC2 says that the tag is gone: that is believed once it was said twice, and just now.
    fn gone(&self, seen: &InstanceSeen, before: Vec<Event>) -> Next {
        if self.said_twice(seen) { self.untagged(before, None) } else { self.tag_not_seen(before) }
    }

    /// Nobody says whether the tag is gone. That is waited for, but not for ever: an update does not hang on a tag.
    fn tag_not_seen(&self, before: Vec<Event>) -> Next {
        let last = self.seen().map_or(self.hand.step_seen, |seen| seen.at);
        if self.now.since(last) > FENCE_UNSEEN_MAX {
            return self.untagged(before, Some("notDescribed"));
        }
        self.fence_unseen()
    }

    fn untagged(&self, mut before: Vec<Event>, code: Option<&str>) -> Next {
        let hand = self.hand;
        let fence = hand.fence.as_ref();
        let seen = self.seen();
        let known = self.state.types.get(&hand.node).unwrap_or(&hand.old_type);
        before.push(
            Untagged {
                node: self.node(),
                attempt: hand.attempt,
                instance: hand.instance.clone(),
                instance_type: seen.map_or(known, |s| &s.instance.instance_type).clone(),
                value: fence.map(|f| f.remove.as_ref().unwrap_or(&f.value).clone()).unwrap_or_default(),
                ec2: match seen {
                    Some(seen) => self.ec2(seen),
                    None => Ec2Word { state: InstanceState::Unrecognized, reason: None, request_id: None },
                },
                code: code.map(str::to_owned),
                observed: seen.map(|s| self.tag_evidence(s)).unwrap_or_default(),
            }
            .into(),
        );
        Next::Record(before)
    }

    /// The removal of its tag stands in the stream: until EC2 says that it is gone, or until it has refused for long enough.
    pub(super) fn untagging(&self) -> Next {
        let Some(seen) = self.seen() else { return self.tag_not_seen(vec![]) };
        let value = match self.fence_seen(seen) {
            Fence::Ours(value) => value,
            Fence::None | Fence::Anothers(_) => return self.gone(seen, vec![]),
        };
        let asked_for = self.hand.fence.as_ref().and_then(|f| f.remove.as_deref()) == Some(value);
        let rest = self.rest_after(self.hand.attempt);
        let last_try = self.hand.attempt >= UNTAG_TRIES_MAX;
        let numbers = || vec![number("try", f64::from(self.hand.attempt))];
        match self.intent() {
            IntentStatus::MayCall if asked_for => {
                self.act(Call::Untag { instance: self.hand.instance.clone(), value: value.to_owned() })
            }
            IntentStatus::MayCall => self.wait("tagUnresolved", "EC2 says another value of the tag", vec![]),
            IntentStatus::Called if self.intent_age() < SETTLE_AFTER => {
                self.wait("tagAwaited", "EC2 still says that the instance carries the tag", vec![])
            }
            IntentStatus::Refused { again: Again::Soon | Again::WithCapacity, at, code, message } if !last_try => {
                if self.now.since(at) < rest {
                    return self.delayed("ec2Refused", format!("{code}: {message}"), numbers());
                }
                self.request_untag(seen, value, vec![])
            }
            IntentStatus::Refused { code, .. } => self.untagged(vec![], Some(code)),
            // Removed twice it is gone as well.
            IntentStatus::Called | IntentStatus::Unresolved { .. } => {
                if self.intent_age() < rest || seen.fence_times == 0 && self.now.since(seen.at) <= FENCE_UNSEEN_MAX {
                    let unknown = self.wait("tagUnresolved", "it is unknown whether the tag was removed", numbers());
                    return self.unless_too_late(unknown);
                }
                if last_try {
                    return self.untagged(vec![], Some("tagNotRemoved"));
                }
                self.request_untag(seen, value, vec![])
            }
        }
    }
}
