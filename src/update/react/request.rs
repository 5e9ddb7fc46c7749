//! From a request to a plan, or to its rejection.

use super::super::event::*;
use super::super::limits::SURVEY_TIMEOUT;
use super::super::observed::Observed;
use super::super::plan::{self, Planning};
use super::super::state::State;
use super::{Next, wait};
use crate::domain::time::Moment;

pub(super) fn before_plan(state: &State, observed: &Observed<'_>, now: Moment) -> Next {
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
