//! A request that supersedes another update: that one is asked to end in its favour, and it waits until that has ended and the cluster is
//! free. Nothing of it is kept in memory: the `CancelRequested` that names it, in the other's stream, holds its place.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::Worker;
use super::discovery::{Trouble, release};
use super::store::read_update;
use crate::codec::{Admissions, encode_supersession};
use crate::domain::ids::{ClusterName, Revision, UpdateId};
use crate::ports::{AppendError, Clock, EventLog, Expected, ReadError};
use crate::update::event::{CancelRequested, Event, Reason, UpdateRequested};
use crate::update::plan::check_request;
use crate::update::state::{Body, End, Recorded, State, fold};

/// Requests that are looked at for whose turn is next. A cluster has one that waits; the others that named the same update were refused.
const CLAIMS_MAX: usize = 32;

/// Whether a request may be admitted.
pub(super) enum Turn {
    /// It may.
    Now,
    /// When this update has ended: it has been asked to.
    After(UpdateId),
    /// It will not be.
    Never(Vec<Reason>),
    /// Something was written: look again.
    Again,
}

/// An update as its stream says, and those in whose favour it was asked to end.
struct Told {
    state: State,
    claims: Vec<UpdateId>,
}

/// `None` where there is no such stream, or none that can be read.
async fn told(log: &dyn EventLog, clock: &dyn Clock, update: UpdateId) -> Result<Option<Told>, ReadError> {
    match read_update(log, update, Revision(0), clock.now()).await {
        Ok(history) if history.is_empty() => Ok(None),
        Ok(history) => Ok(Some(Told { claims: claims(&history), state: fold(&history) })),
        Err(ReadError::Refused { .. }) => Ok(None),
        Err(error @ (ReadError::Denied { .. } | ReadError::Unavailable { .. })) => Err(error),
    }
}

/// Those in whose favour an update was asked to end, the first to ask first.
fn claims(history: &[Recorded]) -> Vec<UpdateId> {
    let mut claims = Vec::new();
    for recorded in history {
        if let Body::Event(event) = &recorded.body
            && let Event::CancelRequested(CancelRequested { superseded_by: Some(by), .. }) = &**event
            && !claims.contains(by)
        {
            claims.push(*by);
        }
    }
    claims
}

/// The request that takes the place of an update once that has ended: the first that asked for it and is still wanted. One that was
/// superseded itself before it began left its place to whoever superseded it.
///
/// # Errors
/// The store does not answer.
pub async fn heir(
    log: &dyn EventLog,
    clock: &dyn Clock,
    of: UpdateId,
    cluster: &ClusterName,
) -> Result<Option<UpdateId>, ReadError> {
    let Some(told) = told(log, clock, of).await? else { return Ok(None) };
    Ok(heir_of(log, clock, of, &told, cluster).await?.map(|(heir, _)| heir))
}

async fn heir_of(
    log: &dyn EventLog,
    clock: &dyn Clock,
    of: UpdateId,
    as_told: &Told,
    cluster: &ClusterName,
) -> Result<Option<(UpdateId, Told)>, ReadError> {
    let mut seen = BTreeSet::from([of]);
    let mut next: Vec<(UpdateId, UpdateId)> = as_told.claims.iter().rev().map(|claimant| (*claimant, of)).collect();
    while let Some((claimant, before)) = next.pop() {
        if seen.len() > CLAIMS_MAX || !seen.insert(claimant) {
            continue;
        }
        let Some(told) = told(log, clock, claimant).await? else { continue };
        let Told { state, claims } = &told;
        let asked = state.request.as_ref().is_some_and(|r| r.cluster == *cluster && r.supersedes == Some(before));
        let begun = state.holder.is_some() || !matches!(state.end, None | Some(End::Rejected(_)));
        if !asked || begun {
            continue;
        }
        if state.end.is_none() && state.cancelled.is_none() {
            return Ok(Some((claimant, told)));
        }
        next.extend(claims.iter().rev().map(|further| (*further, claimant)));
    }
    Ok(None)
}

/// Where a request stands among the updates of its cluster, by what the streams say.
pub(super) enum Standing {
    /// Nothing is ahead of it.
    Free,
    /// It will not be admitted.
    Refused(Vec<Reason>),
    /// This update is active and has ended: its cluster is about to be released.
    Ended(UpdateId),
    /// This update has been asked to end in its favour.
    Claimed(UpdateId),
    /// The first may ask the second to end in its favour. `active` is the one that has nodes in hand, if there is one.
    MayClaim {
        /// Whom it asks: the active update, or a request that waits to take that one's place.
        of: UpdateId,
        /// What that one's stream says.
        state: Box<State>,
        /// The active update.
        active: Option<UpdateId>,
    },
}

/// Where a request stands. `allowed_types` are those of its cluster.
///
/// # Errors
/// The store does not answer.
pub(super) async fn standing(
    log: &dyn EventLog,
    clock: &dyn Clock,
    update: UpdateId,
    request: &UpdateRequested,
    allowed_types: &[String],
    admissions: &Admissions,
) -> Result<Standing, ReadError> {
    let cluster = &request.cluster;
    if let Some(old) = request.supersedes {
        // Refused before anything is asked to end for it.
        let mut reasons = check_request(request, allowed_types);
        reasons.extend(unfit(log, clock, update, cluster, old).await?);
        if !reasons.is_empty() {
            return Ok(Standing::Refused(reasons));
        }
    }
    let Some(newest) = admissions.active.or(admissions.ever.last().copied()) else { return Ok(Standing::Free) };
    let refused = |heir| Ok(Standing::Refused(vec![busy(cluster, newest, heir)]));
    let active = admissions.active;
    if active.is_some() && request.supersedes.is_none() {
        return refused(None);
    }
    let Some(theirs) = told(log, clock, newest).await? else {
        return if active.is_some() { refused(None) } else { Ok(Standing::Free) };
    };
    let heir = heir_of(log, clock, newest, &theirs, cluster).await?;
    let claimed = matches!(&heir, Some((heir, _)) if *heir == update);
    if let Some((heir, told)) = heir.filter(|_| !claimed) {
        if request.supersedes != Some(heir) {
            return refused(Some(heir));
        }
        // It waits itself, and leaves its place.
        return Ok(Standing::MayClaim { of: heir, state: Box::new(told.state), active });
    }
    if active.is_none() {
        return Ok(Standing::Free);
    }
    if !claimed && request.supersedes != Some(newest) {
        return refused(None);
    }
    if theirs.state.end.is_some() {
        return Ok(Standing::Ended(newest));
    }
    if claimed {
        return Ok(Standing::Claimed(newest));
    }
    if theirs.claims.contains(&update) {
        // It stands and does not count: more are ahead of it than anybody will read.
        return refused(None);
    }
    Ok(Standing::MayClaim { of: newest, state: Box::new(theirs.state), active })
}

/// Whether it is a request's turn to be admitted. Asks the update that it supersedes to end in its favour, if nobody else has.
/// `cause` is the event by which it was asked for.
pub(super) async fn turn(
    worker: &Worker,
    update: UpdateId,
    request: &UpdateRequested,
    cause: Option<Uuid>,
    admissions: &Admissions,
) -> Result<Turn, Trouble> {
    let allowed = worker.clusters.get(&request.cluster).map(|handle| &*handle.policy.allowed_types).unwrap_or_default();
    let found = standing(&*worker.log, &*worker.clock, update, request, allowed, admissions).await?;
    match found {
        Standing::Free => Ok(Turn::Now),
        Standing::Refused(reasons) => Ok(Turn::Never(reasons)),
        Standing::Ended(before) => {
            release(worker, before, &request.cluster).await?;
            Ok(Turn::Again)
        }
        Standing::Claimed(before) => Ok(Turn::After(before)),
        Standing::MayClaim { of, state, .. } => claim(worker, of, &state, update, request, cause).await,
    }
}

/// What is wrong with superseding that update, whatever is active.
async fn unfit(
    log: &dyn EventLog,
    clock: &dyn Clock,
    update: UpdateId,
    cluster: &ClusterName,
    old: UpdateId,
) -> Result<Option<Reason>, ReadError> {
    let refused = |code: &str, found: String| {
        Some(Reason {
            code: code.into(),
            found,
            wanted: format!("the active update of cluster {cluster}"),
            remedy: "look for its id with `list`, and ask again with that (`supersedes`, `start --supersede ID`), or without it where none is active"
                .into(),
        })
    };
    if old == update {
        return Ok(refused("supersedesItself", format!("its own id, {old}")));
    }
    Ok(match told(log, clock, old).await?.and_then(|told| told.state.request) {
        None => refused("supersedesUnknown", format!("{old}, which is no update in this store")),
        Some(of) if of.cluster != *cluster => {
            refused("supersedesOtherCluster", format!("{old}, which is an update of cluster {}", of.cluster))
        }
        Some(_) => None,
    })
}

fn busy(cluster: &ClusterName, active: UpdateId, heir: Option<UpdateId>) -> Reason {
    let waits = heir.map(|heir| format!("; {heir} waits to take its place")).unwrap_or_default();
    let id = heir.unwrap_or(active);
    Reason {
        code: "clusterBusy".into(),
        found: format!("update {active} of cluster {cluster} has not ended{waits}"),
        wanted: "one update of a cluster at a time".into(),
        remedy: format!(
            "wait for it, cancel it, or name it in `supersedes` (`start --supersede {id}`): `esdb-rollout status {id}`"
        ),
    }
}

/// Asks an update to end in favour of another, once: at exactly the revision at which nobody had.
async fn claim(
    worker: &Worker,
    old: UpdateId,
    as_told: &State,
    new: UpdateId,
    request: &UpdateRequested,
    cause: Option<Uuid>,
) -> Result<Turn, Trouble> {
    let command = CancelRequested { superseded_by: Some(new), by: request.by.clone(), why: request.why.clone() };
    let event = encode_supersession(old, new, command, cause, &worker.writer, worker.clock.wall())?;
    match worker.log.append(&old.stream(), Expected::after(as_told.last_revision()), vec![event]).await {
        Ok(_) | Err(AppendError::Conflict { .. }) => Ok(Turn::Again),
        Err(error @ AppendError::Refused { .. }) => Ok(Turn::Never(vec![Reason {
            code: "cannotSupersede".into(),
            found: error.to_string(),
            wanted: format!("update {old} asked to end in favour of this one"),
            remedy: format!("look at `esdb-rollout status {old}`, cancel it by hand, and ask again once it has ended"),
        }])),
        Err(error @ (AppendError::Denied { .. } | AppendError::Unavailable { .. } | AppendError::Unknown { .. })) => {
            Err(error.into())
        }
    }
}
