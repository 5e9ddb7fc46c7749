//! The return ticket in the hands of a replacement: the store has had no leader for a minute, and a node that an update stopped is down.
//! Perhaps that very node is what the store lacks. Nothing can be recorded, so nothing is decided: the instance is started as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::perform::perform;
use super::{ClusterHandle, Worker, WorkerError};
use crate::codec::{Admissions, decode};
use crate::domain::ids::{InstanceId, StreamName, UpdateId};
use crate::domain::instance::InstanceState;
use crate::domain::time::Moment;
use crate::ports::{ReadError, StoredEvent};
use crate::update::action::{Action, Call, Warrant};
use crate::update::audit::{Stranded, audit_rescue};
use crate::update::state::{State, fold};

/// Rest between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Watches the store, and brings stranded nodes back while it has no leader. Never ends.
pub(super) async fn run(worker: Worker) -> Result<(), WorkerError> {
    let mut away_since: Option<Moment> = None;
    let mut stopped: BTreeMap<InstanceId, u32> = BTreeMap::new();
    loop {
        let began = worker.clock.now();
        if leaderless(&worker).await {
            let since = *away_since.get_or_insert(began);
            for cluster in worker.clusters.iter().map(|(name, handle)| (name.admission_stream(), handle)) {
                look(&worker, &cluster.0, cluster.1, since, &mut stopped).await;
            }
        } else {
            away_since = None;
            stopped.clear();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the store does not serve, and no node of it that answers reports a leader.
async fn leaderless(worker: &Worker) -> bool {
    let Some(cluster) = worker.clusters.keys().next() else { return false };
    // A refusal is an answer.
    if let Ok(_) | Err(ReadError::Refused { .. }) = worker.log.read_last(&cluster.admission_stream()).await {
        return false;
    }
    let probe = worker.log.probe().await;
    probe.answered > 0 && !probe.leader_reported
}

/// The longest history that any node of the store holds.
async fn longest(worker: &Worker, stream: &StreamName) -> Vec<StoredEvent> {
    let reads = worker.log.read_everywhere(stream).await;
    reads.into_iter().map(|r| r.events).max_by_key(Vec::len).unwrap_or_default()
}

async fn look(
    worker: &Worker,
    admissions: &StreamName,
    cluster: &ClusterHandle,
    away_since: Moment,
    stopped: &mut BTreeMap<InstanceId, u32>,
) {
    let Some(update) = Admissions::fold(&longest(worker, admissions).await).active else { return };
    let seen = worker.clock.now();
    let history: Vec<_> = longest(worker, &update.stream()).await.iter().map(|e| decode(e, seen)).collect();
    let state = fold(&history);
    let Some((instance, ticket)) = stranded(&state) else { return };
    if state.holder.as_ref().is_some_and(|h| h.incarnation == worker.writer.incarnation) {
        // Our own update: its driver holds the ticket.
        return;
    }
    let described = match cluster.fleet.describe(std::slice::from_ref(&instance)).await {
        Ok(described) => described,
        Err(error) => {
            tracing::warn!(%update, %error, "the stranded instance cannot be described");
            return;
        }
    };
    let is_stopped = described.iter().any(|i| i.id == instance && i.state == InstanceState::Stopped);
    let times = stopped.entry(instance.clone()).or_default();
    *times = if is_stopped { *times + 1 } else { 0 };
    let Some(hand) = &state.in_hand else { return };
    let action = Action {
        node: hand.node.clone(),
        call: Call::StartInstance { instance: instance.clone() },
        warrant: Warrant::ReturnTicket(ticket),
    };
    let scene = Stranded { away_for: worker.clock.now().since(away_since), stopped_times: *times };
    match audit_rescue(&action, &state, &scene) {
        Ok(()) => start(worker, update, cluster, &action).await,
        Err(violations) => {
            let why: Vec<String> = violations.iter().map(ToString::to_string).collect();
            tracing::info!(%update, %instance, why = why.join("; "), "a node is stranded; not yet brought back");
        }
    }
    if is_stopped && *times >= 2 {
        // The next call, if one is needed, rests on two new descriptions.
        *times = 0;
    }
}

fn stranded(state: &State) -> Option<(InstanceId, crate::domain::ids::Revision)> {
    let hand = state.in_hand.as_ref().filter(|h| h.step.out_of_service())?;
    Some((hand.instance.clone(), hand.ticket?))
}

async fn start(worker: &Worker, update: UpdateId, cluster: &ClusterHandle, action: &Action) {
    tracing::warn!(%update, action = %action.call, "the store has no leader: the node is brought back on its return ticket");
    let outcome = perform(&action.call, &*cluster.admin, &*cluster.fleet).await;
    tracing::warn!(%update, worker = %worker.writer.worker, ?outcome, "brought back; the facts follow when the store is back");
}
