//! An update as the projection `update-state` has it (`projections/update-state.js`): what its state says, as far as it vouches for it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::Span;
use super::progress::Progress;
use crate::domain::ids::{InstanceType, NodeName, Revision, UpdateId};
use crate::domain::time::Moment;
use crate::update::event::*;
use crate::update::plan::Waiver;
use crate::update::state::{AwaitedApproval, Body, End, Failure, ForeignChange, Holder, InHand, Recorded, State, Step};

/// The form of the state that this program reads.
const FORMAT: u64 = 5;

/// Steps, as the projection numbers them.
const STEPS: [Step; 19] = [
    Step::Selected,
    Step::LoweringPriority,
    Step::PriorityLowered,
    Step::Resigning,
    Step::Transferred,
    Step::Tagging,
    Step::Tagged,
    Step::Stopping,
    Step::Stopped,
    Step::Modifying,
    Step::Modified,
    Step::Starting,
    Step::StartFailed,
    Step::Started,
    Step::Rebooting,
    Step::Rejoined,
    Step::CaughtUp,
    Step::RestoringPriority,
    Step::Untagging,
];

/// A state of the projection that can be believed.
#[derive(Clone, Debug)]
pub struct Projected {
    revision: Revision,
    state: State,
    spans: BTreeMap<NodeName, Span>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    format: u64,
    revision: Revision,
    requested_at: Option<jiff::Timestamp>,
    request: UpdateRequested,
    worker: Option<WorkerAssigned>,
    accepted_at: Option<jiff::Timestamp>,
    plan: Option<UpdatePlanned>,
    order: Vec<NodeName>,
    roles: BTreeMap<NodeName, Role>,
    results: BTreeMap<NodeName, NodeOutcome>,
    phases: BTreeMap<NodeName, PhaseSeconds>,
    types: BTreeMap<NodeName, InstanceType>,
    spans: BTreeMap<NodeName, StoredSpan>,
    in_hand: Option<StoredHand>,
    paused: Option<UpdatePaused>,
    foreign: Option<StoredForeign>,
    waivers: Vec<StoredWaiver>,
    cancelled: Option<CancelRequested>,
    rollback: Option<RollbackRequested>,
    rollback_failed: bool,
    awaited: Option<StoredApproval>,
    parked: Option<UpdateParked>,
    delayed: Option<StepDelayed>,
    failure: Option<StoredFailure>,
    elections: u32,
    end: Option<Value>,
    odd: Option<Value>,
}

#[derive(Deserialize)]
struct StoredSpan {
    from: jiff::Timestamp,
    to: Option<jiff::Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredHand {
    node: NodeName,
    rolling_back: bool,
    step: usize,
    marks: BTreeMap<String, jiff::Timestamp>,
}

#[derive(Deserialize)]
struct StoredApproval {
    gate: Gate,
    node: Option<NodeName>,
    revision: Revision,
}

/// A waiver that came before the plan, as it stands in the stream.
#[derive(Deserialize)]
struct StoredWaiver {
    revision: Revision,
    data: CheckWaived,
}

#[derive(Deserialize)]
struct StoredForeign {
    node: NodeName,
    what: String,
    found: String,
}

#[derive(Deserialize)]
struct StoredFailure {
    code: String,
    remedy: String,
    revision: Revision,
}

impl Projected {
    /// Reads a state; none if it is of another form, or of a stream for which the projection does not vouch.
    pub fn read(state: &Value) -> Option<Projected> {
        let stored: Stored = serde_json::from_value(state.clone()).ok()?;
        if stored.format != FORMAT || stored.odd.is_some() {
            return None;
        }
        let holder = |w: WorkerAssigned| Holder {
            worker: w.worker,
            incarnation: w.incarnation,
            reason: w.reason,
            revision: stored.revision,
            seen: Moment::default(),
        };
        let awaited = |a: StoredApproval| AwaitedApproval { gate: a.gate, node: a.node, revision: a.revision };
        let mut state = State {
            last: Some((stored.revision, Uuid::nil())),
            requested_at: stored.requested_at,
            request: Some(stored.request),
            holder: stored.worker.map(holder),
            accepted_at: stored.accepted_at,
            plan: stored.plan,
            order: stored.order,
            roles: stored.roles,
            results: stored.results,
            phases: stored.phases,
            types: stored.types,
            paused: stored.paused,
            foreign: stored.foreign.map(|f| ForeignChange { node: f.node, what: f.what, found: f.found }),
            waivers: stored.waivers.iter().filter_map(|w| Waiver::of(w.revision, &w.data)).collect(),
            cancelled: stored.cancelled,
            rollback: stored.rollback,
            rollback_failed: stored.rollback_failed,
            awaited: stored.awaited.map(awaited),
            parked: stored.parked,
            delayed: stored.delayed,
            failure: stored.failure.map(|f| Failure { code: f.code, remedy: f.remedy, revision: f.revision }),
            elections: stored.elections,
            end: stored.end.map(end).transpose().ok()?,
            ..State::default()
        };
        if let Some(hand) = stored.in_hand {
            state.in_hand = Some(in_hand(&state, &hand)?);
        }
        let spans = stored.spans.into_iter().map(|(node, s)| (node, Span { from: s.from, to: s.to })).collect();
        Some(Projected { revision: stored.revision, state, spans })
    }

    /// Revision of the last event that it has seen.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What it comes to, as far as the projection keeps it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether it knows when the update was asked for: the writer of a request need not say so, and projections are not told by the store.
    pub fn knows_when(&self) -> bool {
        self.state.requested_at.is_some()
    }

    /// Says when the update was asked for.
    pub fn requested(&mut self, at: jiff::Timestamp) {
        self.state.requested_at = Some(at);
    }

    /// Where the update is at `now`.
    pub fn progress(&self, update: UpdateId, now: jiff::Timestamp) -> Progress {
        Progress::with_spans(update, &self.state, &self.spans, now)
    }
}

fn end(stored: Value) -> Result<End, ()> {
    let event: Event = serde_json::from_value(stored).map_err(drop)?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "an end is one of five")]
    match event {
        Event::UpdateCompleted(e) => Ok(End::Completed(e)),
        Event::UpdateFailed(e) => Ok(End::Failed(e)),
        Event::UpdateCancelled(e) => Ok(End::Cancelled(e)),
        Event::UpdateRejected(e) => Ok(End::Rejected(e)),
        Event::UpdateSuperseded(e) => Ok(End::Superseded(e)),
        _ => Err(()),
    }
}

fn in_hand(state: &State, stored: &StoredHand) -> Option<InHand> {
    let member = state.member(&stored.node)?;
    let role = *state.roles.get(&stored.node)?;
    let named = |name: &str| STEPS.into_iter().find(|s| s.name() == name);
    let marks = stored.marks.iter().map(|(name, at)| Some((named(name)?, *at)));
    let marks: BTreeMap<Step, jiff::Timestamp> = marks.collect::<Option<_>>()?;
    let selected = Recorded {
        revision: Revision(0),
        id: Uuid::nil(),
        at: *marks.get(&Step::Selected)?,
        seen: Moment::default(),
        body: Body::Newer { type_name: String::new() },
    };
    Some(InHand {
        step: *STEPS.get(stored.step)?,
        marks,
        ..InHand::new(member, member.old_type.clone(), stored.rolling_back, role, &selected)
    })
}
