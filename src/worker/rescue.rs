//! The return ticket in the hands of a replacement: the store has had no leader for a minute, or takes no heartbeat, and a node that an update
//! stopped is down. Perhaps that very node is what the store lacks. Nothing can be recorded, so nothing is decided: the instance is started as
//! it is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::perform::perform;
use super::{Acknowledged, ClusterHandle, Worker, WorkerError};
use crate::codec::{Admissions, decode};
use crate::domain::ids::{ClusterName, InstanceId, StreamName, UpdateId};
use crate::domain::instance::InstanceState;
use crate::domain::time::Moment;
use crate::ports::{ReadError, StoredEvent};
use crate::update::action::{Action, Call, Warrant};
use crate::update::audit::{Stranded, audit_rescue};
use crate::update::state::{State, fold};

/// Rest between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Clusters that are looked at at a time. Each costs clients for every node of the store and the time-outs of those that do not answer:
/// one after the other, a hundred would take minutes.
const AT_A_TIME: usize = 16;

/// Heartbeats that fail for this long are looked into: to read from each node of the store costs as many clients, and one beat fails now and then.
const BEATS_FAIL_FOR: Duration = Duration::from_secs(15);

/// What was looked at is acted upon within this time from when EC2 was asked: 10 s for its answer, 5 s for a read, 9 s for a probe of machines that
/// are off, and some to spare.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// A node that is down while nothing can be written to the store.
#[derive(Clone, Debug)]
struct Sighting {
    instance: InstanceId,
    /// Events of the update's stream.
    events: usize,
    /// How often in a row EC2 said that it is stopped, and since when.
    stopped_times: u32,
    stopped_since: Moment,
}

/// Why nothing can be written, and since when.
#[derive(Clone, Copy, Debug)]
struct Away {
    since: Moment,
    /// Whether it has a leader that takes no heartbeat of ours.
    leads: bool,
}

/// Watches the store, and brings stranded nodes back while it has no leader, or takes no heartbeat. Never ends.
pub(super) async fn run(worker: Worker, beats: watch::Receiver<Acknowledged>) -> Result<(), WorkerError> {
    let (mut leaderless_since, mut led_since) = (None, None);
    let mut stranded = BTreeMap::new();
    loop {
        let began = worker.clock.now();
        let away = if leaderless(&worker).await {
            led_since = None;
            Some(Away { since: *leaderless_since.get_or_insert(began), leads: false })
        } else {
            leaderless_since = None;
            let led: Moment = *led_since.get_or_insert(began);
            // Beats that failed for want of a leader say nothing of those that come when there is one.
            let since = beats.borrow().failing_since.map(|since| since.max(led));
            since.filter(|since| began.since(*since) >= BEATS_FAIL_FOR).map(|since| Away { since, leads: true })
        };
        stranded = match away {
            Some(away) => round(&worker, away, &stranded).await,
            None => BTreeMap::new(),
        };
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks at each cluster once, at those first of which a node was stranded the last time. Gives those of which one is.
async fn round(
    worker: &Worker,
    away: Away,
    before: &BTreeMap<ClusterName, Sighting>,
) -> BTreeMap<ClusterName, Sighting> {
    let (first, rest): (Vec<_>, Vec<_>) = worker.clusters.iter().partition(|(name, _)| before.contains_key(*name));
    let mut clusters = first.into_iter().chain(rest);
    let mut looks = JoinSet::new();
    let mut stranded = BTreeMap::new();
    loop {
        while looks.len() < AT_A_TIME
            && let Some((name, handle)) = clusters.next()
        {
            let (worker, name, handle) = (worker.clone(), name.clone(), handle.clone());
            let last = before.get(&name).cloned();
            looks.spawn(async move {
                let sighting = look(&worker, &name.admission_stream(), &handle, away, last).await;
                (name, sighting)
            });
        }
        match looks.join_next().await {
            None => return stranded,
            Some(Ok((name, sighting))) => stranded.extend(sighting.map(|sighting| (name, sighting))),
            Some(Err(panic)) => tracing::error!(error = %panic, "a look for a stranded node died; it is made again"),
        }
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
    away: Away,
    last: Option<Sighting>,
) -> Option<Sighting> {
    let update = Admissions::fold(&longest(worker, admissions).await).active?;
    let seen = worker.clock.now();
    let history: Vec<_> = longest(worker, &update.stream()).await.iter().map(|e| decode(e, seen)).collect();
    let state = fold(&history);
    let (instance, ticket) = stranded(&state)?;
    // Also of an update of our own: its driver may not know that it holds it, and a start beside the driver's does no harm. What has grown since
    // is taken by the store after all, whatever becomes of our heartbeats.
    let events = history.len();
    let last = last.filter(|last| last.instance == instance && (!away.leads || last.events == events));
    let first = Sighting { instance: instance.clone(), events, stopped_times: 0, stopped_since: seen };
    let mut sighting = last.unwrap_or(first);
    sighting.events = events;
    let asked = worker.clock.now();
    let described = match cluster.fleet.describe(std::slice::from_ref(&instance)).await {
        Ok(described) => described,
        Err(error) => {
            tracing::warn!(%update, %error, "the stranded instance cannot be described");
            return Some(sighting);
        }
    };
    let described = described.iter().find(|i| i.id == instance);
    let is_stopped = described.is_some_and(|i| i.state == InstanceState::Stopped);
    let anothers = cluster.policy.fence && described.is_some_and(|i| i.fenced_by_another(update));
    if sighting.stopped_times == 0 || !is_stopped {
        sighting.stopped_since = worker.clock.now();
    }
    sighting.stopped_times = if is_stopped { sighting.stopped_times + 1 } else { 0 };
    let hand = state.in_hand.as_ref()?;
    let action = Action {
        node: hand.node.clone(),
        call: Call::StartInstance { instance: instance.clone() },
        warrant: Warrant::ReturnTicket(ticket),
    };
    let mut scene = Stranded {
        away_for: worker.clock.now().since(away.since),
        stopped_times: sighting.stopped_times,
        stopped_for: worker.clock.now().since(sighting.stopped_since),
        leads: away.leads,
        anothers,
    };
    // That was so when the round began: by now the store may have a leader, and the node somebody who brings it back.
    if !away.leads && audit_rescue(&action, &state, &scene).is_ok() && !leaderless(worker).await {
        (scene.leads, scene.away_for) = (true, Duration::ZERO);
    }
    match audit_rescue(&action, &state, &scene) {
        // Whoever did not run meanwhile would act on what was so before: another may have brought the node back, and a person stopped it.
        Ok(()) if worker.clock.now().since(asked) > LOOK_WITHIN => {
            tracing::warn!(%update, %instance, "the look at a stranded node took too long; it is made again");
            sighting.stopped_times = 0;
        }
        Ok(()) => {
            start(worker, update, cluster, &action).await;
            // The next call, if one is needed, rests on two new descriptions.
            sighting.stopped_times = 0;
        }
        Err(violations) => {
            let why: Vec<String> = violations.iter().map(ToString::to_string).collect();
            tracing::info!(%update, %instance, why = why.join("; "), "a node is stranded; not yet brought back");
        }
    }
    Some(sighting)
}

fn stranded(state: &State) -> Option<(InstanceId, crate::domain::ids::Revision)> {
    let hand = state.in_hand.as_ref().filter(|h| h.step.out_of_service())?;
    Some((hand.instance.clone(), hand.ticket?))
}

async fn start(worker: &Worker, update: UpdateId, cluster: &ClusterHandle, action: &Action) {
    tracing::warn!(%update, action = %action.call, "nothing can be written to the store: the node is brought back on its return ticket");
    let outcome = perform(&action.call, &*cluster.admin, &*cluster.fleet).await;
    tracing::warn!(%update, worker = %worker.writer.worker, ?outcome, "brought back; the facts follow when the store is back");
}
