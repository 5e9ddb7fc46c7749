//! Why an update does not go on right now, as far as its own stream says.

use serde::Serialize;

use super::{seconds_between, short_seconds};
use crate::domain::ids::UpdateId;
use crate::update::event::Number;
use crate::update::state::{HISTORY_ILLEGAL_REMEDY, InHand, State, Step};

/// Why the next step is not taken yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// Stable code.
    pub code: String,
    /// In words.
    pub detail: String,
    /// The numbers behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<Number>,
    /// What a person should do; absent where nothing is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Why {
    /// Without numbers, and without anything for a person to do.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self { code: code.into(), detail: detail.into(), numbers: Vec::new(), remedy: None }
    }

    /// The same, with what a person should do.
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// Detail, numbers and remedy in one line.
    pub fn line(&self) -> String {
        let mut text = format!("{}: {}", self.code, self.detail);
        if !self.numbers.is_empty() {
            text.push_str(&format!(" ({})", numbers(&self.numbers)));
        }
        if let Some(remedy) = &self.remedy {
            text.push_str(&format!("; {remedy}"));
        }
        text
    }
}

/// `3.2 seconds behind, 4 doubts`.
pub fn numbers(numbers: &[Number]) -> String {
    numbers.iter().map(|n| format!("{} {}", n.value, n.name)).collect::<Vec<_>>().join(", ")
}

/// What the update is waiting for, from the most to the least pressing; `None` once it has ended.
pub fn why(update: UpdateId, state: &State, now: jiff::Timestamp) -> Option<Why> {
    if state.end.is_some() {
        return None;
    }
    Some(
        broken(state)
            .or_else(|| parked(state))
            .or_else(|| held_up(update, state))
            .or_else(|| delayed(state))
            .or_else(|| not_begun(state, now))
            .or_else(|| in_hand(state, now))
            .or_else(|| going_back(state))
            .unwrap_or_else(|| Why::new("betweenNodes", "the next node is being chosen")),
    )
}

fn broken(state: &State) -> Option<Why> {
    let why = state.broken.as_ref()?;
    Some(Why::new("historyIllegal", why.as_str()).remedy(HISTORY_ILLEGAL_REMEDY))
}

fn parked(state: &State) -> Option<Why> {
    let parked = state.parked.as_ref()?;
    Some(Why::new(&parked.code, parked.found.as_str()).remedy(parked.remedy.as_str()))
}

fn delayed(state: &State) -> Option<Why> {
    let delayed = state.delayed.as_ref()?;
    Some(Why { numbers: delayed.numbers.clone(), ..Why::new(&delayed.reason, delayed.detail.as_str()) })
}

fn not_begun(state: &State, now: jiff::Timestamp) -> Option<Why> {
    if state.plan.is_some() {
        return None;
    }
    let waited = state.requested_at.map_or(0.0, |at| seconds_between(at, now));
    if state.last.is_none() {
        return Some(Why::new("noRequest", "its stream holds no event"));
    }
    if let Some(bad) = &state.bad_request {
        return Some(Why::new(&bad.code, bad.found.as_str()).remedy(bad.remedy.as_str()));
    }
    if state.holder.is_none() {
        return Some(match state.request.as_ref().and_then(|r| r.supersedes) {
            // Whether that one has ended stands in another stream.
            Some(old) => Why::new(
                "waitsForSuperseded",
                format!("update {old} must have ended first; asked for {} ago", short_seconds(waited)),
            )
            .remedy(format!("see what that one does: esdb-rollout status {old}")),
            None => no_worker(waited),
        });
    }
    if let Some(at) = state.request.as_ref().and_then(|r| r.not_before).filter(|at| *at > now) {
        return Some(Why::new("notBefore", format!("not before {at}")));
    }
    Some(Why::new("surveying", "the worker looks at the cluster and its instances"))
}

/// Code of an update that no worker has taken.
pub const NO_WORKER: &str = "noWorker";

fn no_worker(waited: f64) -> Why {
    Why::new(NO_WORKER, format!("no worker has taken it; asked for {} ago", short_seconds(waited)))
        .remedy("see that a worker runs, on this store, with this cluster in its configuration")
}

/// What a request waits for that supersedes another update, as its stream and the other's say: `active` is the update that has to end
/// first, the one it names or one that that superseded; none if its cluster is free.
pub fn awaiting_its_turn(state: &State, active: Option<(UpdateId, &State)>, now: jiff::Timestamp) -> Option<Why> {
    let waits = state.holder.is_none() && state.end.is_none() && state.broken.is_none();
    let named = state.request.as_ref().and_then(|r| r.supersedes).filter(|_| waits)?;
    let waited = state.requested_at.map_or(0.0, |at| seconds_between(at, now));
    let Some((old, theirs)) = active else { return Some(no_worker(waited)) };
    if old != named && theirs.cancelled.is_none() {
        // It will be refused.
        return Some(no_worker(waited));
    }
    let asked = if theirs.cancelled.is_some() { "is ending" } else { "has not been asked to end yet" };
    let (does, remedy) = match why(old, theirs, now) {
        Some(why) => (format!("; {}: {}", why.code, why.detail), why.remedy),
        None => ("; it has ended, and its cluster is about to be free".to_owned(), None),
    };
    let remedy = remedy.unwrap_or_else(|| format!("see what that one does: esdb-rollout status {old}"));
    Some(Why::new("waitsForSuperseded", format!("update {old}, which must end first, {asked}{does}")).remedy(remedy))
}

fn in_hand(state: &State, now: jiff::Timestamp) -> Option<Why> {
    let hand = state.in_hand.as_ref()?;
    let since = hand.marks.get(&hand.step).map_or(0.0, |at| seconds_between(*at, now));
    let what = match hand.step {
        Step::Selected => "is about to be taken out of service",
        Step::LoweringPriority => "is having its priority lowered",
        Step::PriorityLowered => "is about to resign",
        Step::Resigning => "is resigning",
        Step::Transferred => "follows, and is about to be stopped",
        Step::Tagging => "is having its instance tagged",
        Step::Tagged => "is tagged, and is about to be stopped",
        Step::Stopping => "is being stopped",
        Step::Stopped => "is stopped",
        Step::Modifying => "is having its type changed",
        Step::Modified => "has its new type, and is about to be started",
        Step::Starting => "is being started",
        Step::StartFailed => "would not start, and is tried again",
        Step::Started => "boots: its instance runs, its process does not answer yet",
        Step::Rebooting => "is being rebooted: its instance ran, its process stayed silent",
        Step::Rejoined => "catches up",
        Step::CaughtUp => "has caught up",
        Step::RestoringPriority => "is having its priority restored",
        Step::Untagging => "is having its instance's tag removed",
    };
    let code = match hand.step {
        Step::Selected | Step::PriorityLowered | Step::Transferred | Step::Tagged => "safeToStopAwaited",
        Step::Tagging | Step::Untagging => "tagAwaited",
        Step::LoweringPriority | Step::RestoringPriority => "priorityAwaited",
        Step::Resigning => "resignationAwaited",
        Step::Stopping => "stopAwaited",
        Step::Stopped | Step::Modifying | Step::Modified => "typeAwaited",
        Step::Starting | Step::StartFailed => "startAwaited",
        Step::Started | Step::Rebooting => "answerAwaited",
        Step::Rejoined | Step::CaughtUp => "catchUpAwaited",
    };
    Some(Why::new(code, format!("{} {what}, for {}", hand.node, short_seconds(since))))
}

/// The pause, else the approval, at which it stands: between two nodes, or with a node in hand that is to be taken out of service.
fn held_up(update: UpdateId, state: &State) -> Option<Why> {
    // One that is let go waits for nobody.
    let to_be_taken = |hand: &InHand| {
        hand.step < Step::Stopping && (hand.rolling_back || state.failure.is_none() && state.rollback.is_none())
    };
    if state.plan.is_none() || state.cancelled.is_some() || !state.in_hand.as_ref().is_none_or(to_be_taken) {
        return None;
    }
    paused(update, state).or_else(|| awaited(update, state))
}

fn paused(update: UpdateId, state: &State) -> Option<Why> {
    let paused = state.paused.as_ref()?;
    let by = paused.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let why = paused.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    Some(Why::new("paused", format!("paused{by}{why}")).remedy(format!("to go on: esdb-rollout resume {update}")))
}

fn awaited(update: UpdateId, state: &State) -> Option<Why> {
    let awaited = state.awaited.as_ref()?;
    let node = awaited.node.as_ref().map(|n| format!(" for {n}")).unwrap_or_default();
    Some(
        Why::new("approvalAwaited", format!("the gate {}{node} awaits an approval", awaited.gate))
            .remedy(format!("to grant it: esdb-rollout approve {update} --answers {}", awaited.revision)),
    )
}

fn going_back(state: &State) -> Option<Why> {
    if state.cancelled.is_some() {
        return Some(Why::new("cancelling", "it ends as soon as every node runs"));
    }
    let back = || Why::new("rollingBack", "the nodes done so far are brought back to their old types");
    state.rolls_back().then(back)
}

#[cfg(test)]
mod tests {
    use super::super::stories::{self, Story};
    use super::*;
    use crate::update::event::*;
    use crate::update::state::fold;

    fn of(story: &Story) -> Why {
        why(stories::UPDATE, &fold(&story.history), story.now()).expect("it has not ended")
    }

    #[test]
    fn nobody_has_heard() {
        let mut story = Story::requested();
        story.pass(12);
        let why = of(&story);
        assert_eq!(why.code, "noWorker");
        assert_eq!(why.detail, "no worker has taken it; asked for 12s ago");
        assert!(why.remedy.is_some());
    }

    #[test]
    fn a_step_and_how_long_it_lasts() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).stop("esdb-2").pass(40);
        assert_eq!(of(&story).line(), "stopAwaited: esdb-2 is being stopped, for 40s");
    }

    #[test]
    fn a_recorded_delay_outranks_the_step_and_brings_its_numbers() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower);
        story.say(StepDelayed {
            node: Some("esdb-2".into()),
            step: "selected".into(),
            reason: "voterNotReady".into(),
            detail: "esdb-3 is behind".into(),
            numbers: vec![Number { name: "seconds behind".into(), value: 7.5 }],
        });
        assert_eq!(of(&story).line(), "voterNotReady: esdb-3 is behind (7.5 seconds behind)");
    }

    #[test]
    fn people_are_told_what_to_type() {
        let mut story = Story::planned();
        story.say(ApprovalAwaited {
            gate: Gate::BeforeLeader,
            node: Some("esdb-1".into()),
            detail: "esdb-1 is next".into(),
        });
        let at = story.last().0;
        assert_eq!(
            of(&story).remedy.unwrap(),
            format!("to grant it: esdb-rollout approve {} --answers {at}", stories::UPDATE)
        );
        story.say(PauseRequested::default()).say(UpdatePaused { by: Some("ada".into()), why: Some("lunch".into()) });
        assert_eq!(of(&story).detail, "paused by ada: lunch");
        story.say(CancelRequested::default());
        assert_eq!(of(&story).code, "cancelling");
    }

    #[test]
    fn with_a_node_in_hand_that_serves_they_are_told_as_well_and_with_one_that_is_down_they_are_not() {
        let awaited = |gate| ApprovalAwaited { gate, node: Some("esdb-1".into()), detail: "it leads".into() };
        let mut story = Story::planned();
        story.select("esdb-1", Role::Leader).say(awaited(Gate::BeforeLeader));
        assert_eq!(of(&story).code, "approvalAwaited");
        let mut paused = Story::planned();
        paused.select("esdb-2", Role::Follower).say(PauseRequested::default()).say(UpdatePaused::default());
        let told = of(&paused);
        assert_eq!((told.code.as_str(), told.remedy.is_some()), ("paused", true));
        paused.say(RollbackRequested::default());
        assert_eq!(of(&paused).code, "safeToStopAwaited", "it is let go whoever has paused");
        let mut down = Story::planned();
        down.select("esdb-2", Role::Follower).stop("esdb-2");
        down.say(PauseRequested::default()).say(UpdatePaused::default());
        assert_eq!(of(&down).code, "stopAwaited");
        let mut back = Story::planned();
        back.select("esdb-2", Role::Follower).change("esdb-2").say(RollbackRequested::default());
        assert_eq!(of(&back).code, "rollingBack");
        back.say(awaited(Gate::DataUnknown));
        assert_eq!(of(&back).code, "approvalAwaited");
    }

    #[test]
    fn an_ended_update_waits_for_nothing() {
        let story = Story::completed();
        assert_eq!(why(stories::UPDATE, &fold(&story.history), story.now()), None);
    }
}
