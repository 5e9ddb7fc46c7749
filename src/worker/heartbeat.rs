//! Signs of life, and the check that no namesake gives any.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use serde_json::from_value;
use tokio::sync::watch;

use super::hands::Hands;
use super::untaken::Untaken;
use super::{Acknowledged, Worker, WorkerError};
use crate::codec::{HEARTBEAT, WorkerHeartbeat, encode_record};
use crate::domain::ids::{Incarnation, Revision, StreamName};
use crate::domain::time::Moment;
use crate::lease::HEARTBEAT_EVERY;
use crate::ports::{AppendError, Expected, ReadError, StoredEvent};

/// Rest between two heartbeats at least, whatever changes.
const AT_LEAST: Duration = Duration::from_millis(500);

/// A worker whose heartbeats are denied for this long may not write them: a node that starts denies what it cannot look up yet.
const DENIED_MAX: Duration = Duration::from_secs(60);

/// Rest after the store denied that only the last heartbeat be kept: nothing rests on it, and a right may be given.
const LIMIT_AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// A stored heartbeat.
pub(super) fn heartbeat_of(stored: Option<&StoredEvent>) -> Option<WorkerHeartbeat> {
    let stored = stored.filter(|stored| stored.event_type == HEARTBEAT)?;
    from_value(stored.data.clone()).ok()
}

/// The incarnation and revision of a stored heartbeat.
pub fn beat_of(stored: Option<&StoredEvent>) -> Option<(Incarnation, Revision)> {
    heartbeat_of(stored).zip(stored).map(|(beat, stored)| (beat.incarnation, stored.revision))
}

/// Appends a heartbeat every five seconds, and when what is in hand changes, and counts those that were acknowledged. Ends only with an
/// error.
pub(super) async fn run(
    worker: Worker,
    hands: Arc<Hands>,
    acknowledged: watch::Sender<Acknowledged>,
) -> Result<(), WorkerError> {
    let stream = worker.writer.worker.stream();
    let mut told = hands.told();
    let mut beat = WorkerHeartbeat {
        worker: worker.writer.worker.clone(),
        incarnation: worker.writer.incarnation,
        clusters: worker.clusters.keys().cloned().collect(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        updates_in_hand: None,
        handed_over: Vec::new(),
    };
    let mut limit_due = Some(worker.clock.now());
    let mut begun = false;
    let mut denied_since: Option<Moment> = None;
    let mut elder: Option<(Incarnation, Revision)> = None;
    let mut elders_beats = 0;
    let mut untaken = Untaken::default();
    loop {
        let began = worker.clock.now();
        match worker.log.read_last(&stream).await {
            Ok(last) => {
                let revision = last.as_ref().map(|e| e.revision);
                let other = beat_of(last.as_ref()).filter(|(incarnation, _)| *incarnation != beat.incarnation);
                if !begun {
                    // Whoever beat last before our first acknowledged beat is the elder, if it lives.
                    if elder.is_none() && other.is_some() {
                        hands.inherit(heartbeat_of(last.as_ref()).map(|beat| beat.handed_over).unwrap_or_default());
                    }
                    elder = other;
                } else if let (Some((incarnation, revision)), Some((of_elder, newest))) = (other, elder)
                    && incarnation == of_elder
                    && revision > newest
                {
                    elder = other;
                    elders_beats += 1;
                }
                // One later beat may be the last append of a process that was killed; two are a life.
                if elders_beats >= 2 {
                    return Err(WorkerError::NamesakeAlive(worker.writer.worker.clone()));
                }
                let now = told.borrow_and_update().clone();
                beat.updates_in_hand = u32::try_from(now.in_hand.len()).ok();
                beat.handed_over.clone_from(&now.handed_over);
                let event = encode_record(&stream, HEARTBEAT, &beat, revision, &worker.writer, worker.clock.wall())
                    .map_err(|e| WorkerError::Store(e.to_string()))?;
                let sent = worker.clock.now();
                match worker.log.append(&stream, Expected::after(revision), vec![event]).await {
                    Ok(_) => {
                        begun = true;
                        denied_since = None;
                        untaken.acknowledged(sent, worker.clock.now());
                        acknowledged.send_modify(|a| (a.beats, a.told) = (a.beats + 1, now));
                    }
                    // Somebody beat between our read and our append, as the next round tells; or it was this process, and the store has not
                    // acknowledged that yet.
                    Err(AppendError::Conflict { .. }) => untaken.failed(sent, worker.clock.now()),
                    Err(error @ (AppendError::Unavailable { .. } | AppendError::Unknown { .. })) => {
                        tracing::warn!(%error, "no heartbeat");
                        untaken.failed(sent, worker.clock.now());
                    }
                    Err(error @ AppendError::Denied { .. }) => denied(&error, &mut denied_since, worker.clock.now())?,
                    Err(error @ AppendError::Refused { .. }) => return Err(refused(&error)),
                }
                let failing_since = untaken.since(worker.clock.now());
                acknowledged.send_modify(|a| a.failing_since = failing_since);
                if limit_due.is_some_and(|due| due <= worker.clock.now()) {
                    limit_due = limit(&worker, &stream).await;
                }
            }
            Err(error @ ReadError::Denied { .. }) => denied(&error, &mut denied_since, worker.clock.now())?,
            Err(error @ ReadError::Refused { .. }) => return Err(refused(&error)),
            Err(error @ ReadError::Unavailable { .. }) => tracing::warn!(%error, "no heartbeat"),
        }
        let spent = worker.clock.now().since(began);
        tokio::time::sleep(AT_LEAST).await;
        tokio::select! {
            () = tokio::time::sleep(HEARTBEAT_EVERY.saturating_sub(spent + AT_LEAST)) => {}
            Ok(()) = told.changed() => {}
        }
    }
}

/// Has the store keep the last heartbeat only. Says when to try again, if it is to be tried.
async fn limit(worker: &Worker, stream: &StreamName) -> Option<Moment> {
    let now = worker.clock.now();
    match worker.log.set_max_count(stream, 1).await {
        Ok(_) => None,
        Err(AppendError::Conflict { .. } | AppendError::Unavailable { .. } | AppendError::Unknown { .. }) => Some(now),
        Err(error @ (AppendError::Denied { .. } | AppendError::Refused { .. })) => {
            tracing::warn!(%error, "the store keeps every heartbeat: it needs the right to write the metadata of its stream ($mw)");
            Some(now.after(LIMIT_AGAIN_AFTER))
        }
    }
}

fn denied(error: &impl Display, since: &mut Option<Moment>, now: Moment) -> Result<(), WorkerError> {
    tracing::error!(%error, "no heartbeat");
    if now.since(*since.get_or_insert(now)) <= DENIED_MAX { Ok(()) } else { Err(refused(error)) }
}

/// Without a sign of life whatever this worker has in hand is another's soon.
fn refused(error: &impl Display) -> WorkerError {
    WorkerError::NoHeartbeat(error.to_string())
}
