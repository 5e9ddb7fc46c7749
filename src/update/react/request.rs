//! From a request to a plan, or to its rejection.

use super::super::event::*;
use super::super::limits::SURVEY_TIMEOUT;
use super::super::observed::Observed;
use super::super::plan::{self, Planning};
use super::super::state::State;
use super::{Next, wait};
use crate::domain::time::Moment;

/// Why a request that was cancelled before there was a plan is not carried out.
pub fn not_wanted(cancel: &CancelRequested) -> Reason {
    let by = cancel.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let (code, found, remedy) = match cancel.superseded_by {
        Some(new) => {
            ("superseded", format!("CancelRequested{by} in favour of {new}"), format!("follow {new} in its place"))
        }
        None => ("cancelled", format!("CancelRequested{by}"), "start a new update".to_owned()),
    };
    Reason { code: code.into(), found, wanted: "a request that is still wanted".into(), remedy }
}

pub(super) fn before_plan(state: &State, observed: &Observed<'_>, now: Moment) -> Next {
    let reject = |reasons: Vec<Reason>| Next::Record(vec![UpdateRejected { reasons }.into()]);
    let Some(request) = &state.request else {
        return reject(state.bad_request.clone().into_iter().collect());
    };
    if let Some(cancel) = &state.cancelled {
        return reject(vec![not_wanted(cancel)]);
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
    // Whoever was to begin later is looked at from then on.
    let since = request.not_before.map_or(taken, |at| {
        let due_for = observed.wall.duration_since(at).unsigned_abs();
        taken.max(Moment(now.0.saturating_sub(due_for)))
    });
    match plan::plan(request, survey, &state.waivers, observed, since, now) {
        Planning::Ready(plan, cluster_id) => {
            Next::Record(vec![UpdateAccepted { request: request.clone(), cluster_id }.into(), (*plan).into()])
        }
        Planning::Refused(reasons) => reject(reasons),
        Planning::Incomplete(missing) if now.since(since) > SURVEY_TIMEOUT => reject(vec![Reason {
            code: "clusterNotObservable".into(),
            found: missing.join(", "),
            wanted: "an answer from every expected member and its instance".into(),
            remedy: "mend the cluster, or the worker's way to it, and ask again".into(),
        }]),
        Planning::Incomplete(missing) => wait(state, "surveying", missing.join(", "), vec![]),
    }
}
