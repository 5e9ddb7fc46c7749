//! Finds what there is to do: new commands by a subscription to the whole log from a checkpoint, unfinished updates by the admission
//! streams of the configured clusters. Each command is admitted or answered before the checkpoint passes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::store::{read_all, read_update};
use super::supersede::{Turn, turn};
use super::{Found, Shared, Worker, WorkerError};
use crate::codec::{
    Admissions, CHECKPOINT, CheckpointMoved, HEARTBEAT, WorkerHeartbeat, encode_admission, encode_facts, encode_record,
};
use crate::domain::ids::{
    ADMISSION_PREFIX, CHECKPOINT_STREAM, ClusterName, Revision, StreamName, UPDATE_PREFIX, UpdateId, WORKER_PREFIX,
};
use crate::domain::time::Moment;
use crate::lease::{HEARTBEAT_EVERY, LEASE};
use crate::ports::{AppendError, Expected, Feed, Position, ReadError, StartFrom};
use crate::update::event::{Admission, AdmissionEvent, Event, Kind, Reason, UpdateRejected, UpdateRequested};
use crate::update::react::{answer_command, not_wanted};
use crate::update::state::{State, fold};

/// Rest between two looks at the admission streams: a look is one small read a cluster.
const ADMISSIONS_EVERY: Duration = Duration::from_secs(5);

/// Rest for each cluster after a look at all of them.
const LOOK_SPARINGLY: Duration = Duration::from_millis(5);

/// Updates that wait for room are looked at again this often: a worker with another configuration may have begun one.
const WAITING_EVERY: Duration = Duration::from_secs(60);

/// Rest before a failed look is repeated.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// The checkpoint is moved at most this often: it only saves reading again.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);

/// From where commands are obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPoint {
    /// From the checkpoint; without one the worker refuses.
    Checkpoint,
    /// From the checkpoint, or else from the beginning of the log.
    CheckpointOrBeginning,
}

async fn checkpoint(worker: &Worker) -> Result<(Option<Revision>, Option<Position>), ReadError> {
    let last = worker.log.read_last(&StreamName::from(CHECKPOINT_STREAM)).await?;
    let position = last.as_ref().filter(|e| e.event_type == CHECKPOINT).and_then(|e| {
        let moved: CheckpointMoved = serde_json::from_value(e.data.clone()).ok()?;
        Some(moved.into())
    });
    Ok((last.map(|e| e.revision), position))
}

/// The position after which commands are obeyed. Waits for the store.
pub(super) async fn start_position(worker: &Worker, start: StartPoint) -> Result<StartFrom, WorkerError> {
    loop {
        match checkpoint(worker).await {
            Ok((_, Some(position))) => return Ok(StartFrom::After(position)),
            Ok((_, None)) => match start {
                StartPoint::Checkpoint => return Err(WorkerError::NotInitialised),
                StartPoint::CheckpointOrBeginning => return Ok(StartFrom::Beginning),
            },
            Err(error @ ReadError::Refused { .. }) => return Err(WorkerError::Store(error.to_string())),
            Err(error @ ReadError::Unavailable { .. }) => {
                tracing::warn!(%error, "waiting for the store");
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
    }
}

/// Follows the whole log.
pub(super) async fn subscribe(
    worker: Worker,
    from: StartFrom,
    look: Arc<Notify>,
    wake: mpsc::Sender<Found>,
) -> Result<(), WorkerError> {
    let mut feed = worker.log.subscribe(from, &[UPDATE_PREFIX, ADMISSION_PREFIX]).await;
    let mut handled: Option<Position> = None;
    let mut moved = worker.clock.now();
    // Requests that are neither admitted nor answered yet, each with the position handled before it: the checkpoint does not pass them.
    // They are for clusters that this worker does not know, supersede an update that has not ended, or do not stand where they were read.
    let mut open: BTreeMap<Command, Option<Position>> = BTreeMap::new();
    let mut listeners: JoinSet<Command> = JoinSet::new();
    let mut waiters: JoinSet<Command> = JoinSet::new();
    let (freed, _) = watch::channel(());
    let mut unheard: VecDeque<Command> = VecDeque::new();
    // How far streams have been looked at: of many commands in one stream the first look answers all.
    let mut looked: BTreeMap<UpdateId, Revision> = BTreeMap::new();
    loop {
        let item = tokio::select! {
            item = feed.recv(), if waiters.len() < WAITERS_MAX => item,
            Some(settled) = listeners.join_next() => {
                match settled {
                    Ok(command) => {
                        open.remove(&command);
                        if let Some(next) = unheard.pop_front() {
                            listeners.spawn(leave_to_others(worker.clone(), next));
                        }
                    }
                    Err(panic) => tracing::error!(error = %panic, "a request for another's cluster is no longer watched"),
                }
                continue;
            }
            Some(settled) = waiters.join_next() => {
                match settled {
                    Ok(command) => drop(open.remove(&command)),
                    Err(panic) => tracing::error!(error = %panic, "a request that waits is no longer watched"),
                }
                continue;
            }
        };
        let Some(item) = item else { break };
        match item {
            Feed::Event(event) => {
                if let Some(update) = UpdateId::from_stream(&event.stream) {
                    if Event::kind_of(&event.event_type) != Some(Kind::Fact) {
                        if looked.get(&update).is_some_and(|at| *at >= event.revision) {
                            let _ = wake.send(Found { update, cluster: None }).await;
                        } else {
                            let command = Command { update, at: event.revision };
                            let (after, at) = handle(&worker, command, &look, &wake).await?;
                            if looked.len() >= LOOKED_MAX {
                                looked.clear();
                            }
                            looked.extend(at.map(|at| (update, at)));
                            let waits = open.keys().any(|open| open.update == update);
                            let (freed, look, wake) = (freed.subscribe(), look.clone(), wake.clone());
                            match after {
                                After::Nothing => {}
                                After::Turn | After::Others if waits => {}
                                After::Turn | After::Unseen => {
                                    open.insert(command, handled);
                                    waiters.spawn(wait_for_turn(worker.clone(), command, freed, look, wake));
                                }
                                After::Others => {
                                    open.insert(command, handled);
                                    if listeners.len() < LISTENERS_MAX {
                                        listeners.spawn(leave_to_others(worker.clone(), command));
                                    } else {
                                        unheard.push_back(command);
                                    }
                                }
                            }
                        }
                    } else {
                        // A fact: whoever follows that update looks again.
                        let _ = wake.send(Found { update, cluster: None }).await;
                    }
                } else {
                    // An admission or a release: somebody may begin.
                    look.notify_one();
                    freed.send_replace(());
                }
                handled = event.position.or(handled);
            }
            Feed::CaughtUp => {}
            Feed::Reconnecting(why) => tracing::debug!(why, "the subscription is made anew"),
        }
        let safe = open.values().copied().min().unwrap_or(handled);
        if let Some(position) = safe
            && worker.clock.now().since(moved) >= CHECKPOINT_EVERY
        {
            moved = worker.clock.now();
            if move_checkpoint(&worker, position).await && open.is_empty() {
                handled = None;
            }
        }
    }
    Err(WorkerError::Store("the subscription ended".into()))
}

async fn move_checkpoint(worker: &Worker, to: Position) -> bool {
    let stream = StreamName::from(CHECKPOINT_STREAM);
    let Ok((last, at)) = checkpoint(worker).await else { return false };
    if at.is_some_and(|at| at >= to) {
        return true;
    }
    let record = CheckpointMoved::from(to);
    let Ok(event) = encode_record(&stream, CHECKPOINT, &record, last, &worker.writer, worker.clock.wall()) else {
        return false;
    };
    match worker.log.append(&stream, Expected::after(last), vec![event]).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "the checkpoint stays where it is");
            false
        }
    }
}

/// A command, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Command {
    update: UpdateId,
    at: Revision,
}

/// What is left to do once a command has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Nothing.
    Nothing,
    /// Its cluster is none of ours; another worker may know it.
    Others,
    /// Its turn comes when the update that it supersedes has ended.
    Turn,
    /// It does not stand where it was read.
    Unseen,
}

/// Requests that wait for their turn, or to be seen, at a time. Of those that supersede one waits for each cluster; what is not seen is few.
const WAITERS_MAX: usize = 2_000;

/// A command that the subscription told of and that no read shows for this long was deleted. One who led until a moment ago, or was frozen
/// while others led, shows its own log until it has heard of the new leader: seconds.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

/// Requests for others' clusters that are listened for at a time.
const LISTENERS_MAX: usize = 50;

/// Streams of which it is remembered how far they have been looked at.
const LOOKED_MAX: usize = 10_000;

/// Admits or answers what stands in the stream of an update. Tries until that is done. Says to which revision it looked.
async fn handle(
    worker: &Worker,
    command: Command,
    look: &Notify,
    wake: &mpsc::Sender<Found>,
) -> Result<(After, Option<Revision>), WorkerError> {
    let mut seen = None;
    loop {
        match try_handle(worker, command, &mut seen).await {
            Ok(Handled::Done) => return Ok((After::Nothing, seen)),
            Ok(Handled::Unseen) => return Ok((After::Unseen, seen)),
            Ok(Handled::Stranger(_)) => return Ok((After::Others, seen)),
            Ok(Handled::Waits(_)) => return Ok((After::Turn, seen)),
            Ok(Handled::Drive) => {
                look.notify_one();
                let _ = wake.send(Found { update: command.update, cluster: None }).await;
                return Ok((After::Nothing, seen));
            }
            Ok(Handled::Again) => {}
            Err(why) => {
                tracing::warn!(update = %command.update, why, "the command waits for the store");
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
    }
}

enum Handled {
    /// Answered, or nothing to do.
    Done,
    /// It is the active update of a cluster of ours.
    Drive,
    /// Nobody holds it, and this worker does not know its cluster.
    Stranger(Box<(State, ClusterName)>),
    /// It takes the place of this update, once that has ended.
    Waits(UpdateId),
    /// Somebody else wrote meanwhile: look again.
    Again,
    /// The store does not show it: whoever answered may not lead any more, or it was deleted.
    Unseen,
}

/// Since when the store has not shown a command that was told of.
#[derive(Default)]
struct Unseen(Option<Moment>);

impl Unseen {
    /// Whether it will not be seen any more.
    fn for_good(&mut self, worker: &Worker, command: Command, handled: &Result<Handled, String>) -> bool {
        match handled {
            Ok(Handled::Unseen) => {}
            Ok(Handled::Done | Handled::Drive | Handled::Stranger(_) | Handled::Waits(_) | Handled::Again) => {
                self.0 = None;
                return false;
            }
            Err(_) => return false,
        }
        let now = worker.clock.now();
        let gone = now.since(*self.0.get_or_insert(now)) > UNSEEN_MAX;
        if gone {
            tracing::error!(update = %command.update, revision = %command.at, "passed over: no read shows it; was it deleted?");
        }
        gone
    }
}

/// How long the heartbeats are listened to before it is believed that no living worker knows a cluster: a worker that lives beats at
/// least once within its lease.
const LISTEN: Duration = LEASE.saturating_add(HEARTBEAT_EVERY);

/// Waits until another worker has admitted or answered a request for a cluster that this one does not know; answers it where no living
/// worker knows the cluster.
async fn leave_to_others(worker: Worker, command: Command) -> Command {
    let update = command.update;
    let mut unseen = Unseen::default();
    loop {
        let handled = try_handle(&worker, command, &mut None).await;
        if unseen.for_good(&worker, command, &handled) {
            return command;
        }
        let settled = match handled {
            // One that waits is listened to no more: its cluster is known.
            Ok(Handled::Done | Handled::Drive | Handled::Waits(_)) => return command,
            Ok(Handled::Again) => Ok(()),
            Ok(Handled::Unseen) => Err("the store does not show it".to_owned()),
            Ok(Handled::Stranger(found)) => {
                let (state, cluster) = *found;
                match known_to_another(&worker, &cluster).await {
                    Some(true) => {
                        tokio::time::sleep(ADMISSIONS_EVERY).await;
                        Ok(())
                    }
                    Some(false) => append(&worker, update, &state, unknown(&worker, &cluster)).await.map(|_| ()),
                    None => Err("the heartbeats cannot be heard".to_owned()),
                }
            }
            Err(why) => Err(why),
        };
        if let Err(why) = settled {
            tracing::warn!(%update, why, "the request waits for the store");
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }
}

/// Waits until a command is seen, until the update that a request supersedes has ended, and until the request has been admitted or answered.
async fn wait_for_turn(
    worker: Worker,
    command: Command,
    mut freed: watch::Receiver<()>,
    look: Arc<Notify>,
    wake: mpsc::Sender<Found>,
) -> Command {
    let update = command.update;
    let mut unseen = Unseen::default();
    loop {
        freed.mark_unchanged();
        let handled = try_handle(&worker, command, &mut None).await;
        if unseen.for_good(&worker, command, &handled) {
            return command;
        }
        let rest = match handled {
            Ok(Handled::Done) => return command,
            // Only now it is seen for whose cluster it is.
            Ok(Handled::Stranger(_)) => return leave_to_others(worker, command).await,
            Ok(Handled::Drive) => {
                look.notify_one();
                let _ = wake.send(Found { update, cluster: None }).await;
                return command;
            }
            Ok(Handled::Unseen) => RETRY_EVERY,
            Ok(Handled::Again) => continue,
            Ok(Handled::Waits(old)) => {
                // One that nobody has begun has nobody who ends it but us, if its cancellation was not heard.
                let old_one = Command { update: old, at: Revision(0) };
                if let Err(why) = try_handle(&worker, old_one, &mut None).await {
                    tracing::debug!(%update, %old, why, "it cannot be ended yet");
                }
                ADMISSIONS_EVERY
            }
            Err(why) => {
                tracing::warn!(%update, why, "the request waits for the store");
                RETRY_EVERY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            changed = freed.changed() => {
                if changed.is_err() {
                    // Discovery is gone, and this task is about to be.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Whether a living worker knows the cluster: whether a heartbeat that names it comes while they are listened to. `None` if not even this
/// worker's own came: then nothing was heard, and nothing is proved.
async fn known_to_another(worker: &Worker, cluster: &ClusterName) -> Option<bool> {
    let end = worker.log.end_of_log().await.ok()?;
    let mut feed = worker.log.subscribe(end.map_or(StartFrom::Beginning, StartFrom::After), &[WORKER_PREFIX]).await;
    let until = tokio::time::sleep(LISTEN);
    tokio::pin!(until);
    let mut own = 0;
    loop {
        tokio::select! {
            () = &mut until => return (own >= 2).then_some(false),
            item = feed.recv() => match item? {
                Feed::Event(event) if event.event_type == HEARTBEAT => {
                    let Ok(beat) = serde_json::from_value::<WorkerHeartbeat>(event.data) else { continue };
                    if beat.incarnation == worker.writer.incarnation {
                        own += 1;
                    } else if beat.clusters.contains(cluster) {
                        return Some(true);
                    }
                }
                Feed::Event(_) | Feed::CaughtUp => {}
                // What was missed meanwhile comes when it is made anew.
                Feed::Reconnecting(why) => tracing::debug!(why, "the heartbeats are subscribed to anew"),
            },
        }
    }
}

fn unknown(worker: &Worker, cluster: &ClusterName) -> Event {
    let known: Vec<&str> = worker.clusters.keys().map(ClusterName::as_str).collect();
    let reason = Reason {
        code: "unknownCluster".into(),
        found: cluster.to_string(),
        wanted: format!(
            "a cluster of a living worker's configuration; {} knows {}, and no other was heard to know it",
            worker.writer.worker,
            known.join(", ")
        ),
        remedy: "correct the name, or add the cluster to a worker's configuration".into(),
    };
    UpdateRejected { reasons: vec![reason] }.into()
}

async fn try_handle(worker: &Worker, command: Command, seen: &mut Option<Revision>) -> Result<Handled, String> {
    let update = command.update;
    let history = match read_update(&*worker.log, update, Revision(0), worker.clock.now()).await {
        Ok(history) => history,
        // Deleted, too long, or not ours to read: it will not become readable by waiting, and others must not wait for it.
        Err(error @ ReadError::Refused { .. }) => {
            tracing::error!(%update, %error, "passed over");
            return Ok(Handled::Done);
        }
        Err(error @ ReadError::Unavailable { .. }) => return Err(error.to_string()),
    };
    let state = fold(&history);
    *seen = state.last_revision();
    if seen.is_none_or(|last| last < command.at) {
        return Ok(Handled::Unseen);
    }
    if state.end.is_some() {
        if let Some(answer) = answer_command(&state) {
            return append(worker, update, &state, answer).await;
        }
        // Ended without ever having been held: nobody else may look at it soon.
        if state.holder.is_none()
            && let Some(cluster) = state.request.as_ref().map(|r| &r.cluster)
            && worker.clusters.contains_key(cluster)
            && !release(worker, update, cluster).await
        {
            return Err("its cluster cannot be released".into());
        }
        return Ok(Handled::Done);
    }
    let Some(request) = &state.request else {
        if state.holder.is_some() || state.bad_request.is_none() {
            return Ok(Handled::Done);
        }
        let reasons = state.bad_request.clone().into_iter().collect();
        return append(worker, update, &state, UpdateRejected { reasons }.into()).await;
    };
    let cluster = request.cluster.clone();
    if let (None, Some(cancel)) = (&state.holder, &state.cancelled) {
        return append(worker, update, &state, UpdateRejected { reasons: vec![not_wanted(cancel)] }.into()).await;
    }
    if !worker.clusters.contains_key(&cluster) {
        if state.holder.is_some() {
            return Ok(Handled::Done);
        }
        return Ok(Handled::Stranger(Box::new((state, cluster))));
    }
    let cause = history.first().map(|first| first.id);
    admit(worker, update, &state, request, cause).await
}

async fn admit(
    worker: &Worker,
    update: UpdateId,
    state: &State,
    request: &UpdateRequested,
    cause: Option<Uuid>,
) -> Result<Handled, String> {
    let cluster = &request.cluster;
    let stream = cluster.admission_stream();
    let events = read_all(&*worker.log, &stream, Revision(0)).await.map_err(|e| e.to_string())?;
    let admissions = Admissions::fold(&events);
    if admissions.active == Some(update) {
        return Ok(Handled::Drive);
    }
    match turn(worker, update, request, cause, &admissions).await? {
        Turn::Again => Ok(Handled::Again),
        Turn::After(active) => Ok(Handled::Waits(active)),
        Turn::Never(reasons) => append(worker, update, state, UpdateRejected { reasons }.into()).await,
        Turn::Now => {
            let event = AdmissionEvent::UpdateAdmitted(Admission { update });
            let event = encode_admission(cluster, &event, admissions.last, &worker.writer, worker.clock.wall())
                .map_err(|e| e.to_string())?;
            match worker.log.append(&stream, Expected::after(admissions.last), vec![event]).await {
                Ok(_) => Ok(Handled::Drive),
                Err(AppendError::Conflict { .. }) => Ok(Handled::Again),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}

/// Appends a fact to an update that nobody holds.
async fn append(worker: &Worker, update: UpdateId, state: &State, fact: Event) -> Result<Handled, String> {
    let facts =
        encode_facts(update, &[fact], state.last, &worker.writer, worker.clock.wall()).map_err(|e| e.to_string())?;
    match worker.log.append(&update.stream(), Expected::after(state.last_revision()), facts).await {
        Ok(_) | Err(AppendError::Conflict { .. }) => Ok(Handled::Again),
        Err(error @ AppendError::Refused { .. }) => {
            tracing::error!(%update, %error, "passed over");
            Ok(Handled::Done)
        }
        Err(error @ (AppendError::Unavailable { .. } | AppendError::Unknown { .. })) => Err(error.to_string()),
    }
}

/// Looks at the admission streams: an admitted update without an end is resumed, or begun where there is room, and one with an end is
/// released (by its driver). What waits for room is looked at only where somebody may have begun it all the same.
pub(super) async fn poll_admissions(
    worker: Worker,
    shared: Shared,
    wake: mpsc::Sender<Found>,
) -> Result<(), WorkerError> {
    let mut waiting: BTreeSet<UpdateId> = BTreeSet::new();
    let mut looked = worker.clock.now();
    loop {
        let unfinished = {
            let mut queue = shared.queue.lock().await;
            if let Err(error) = queue.read(&*worker.log, worker.clusters.keys()).await {
                tracing::warn!(%error, "admissions cannot be read");
            }
            queue.unfinished()
        };
        let fresh_look = worker.clock.now().since(looked) >= WAITING_EVERY;
        if fresh_look {
            looked = worker.clock.now();
        }
        waiting.retain(|update| !fresh_look && unfinished.iter().any(|(u, _)| u == update));
        for (ahead, (update, cluster)) in unfinished.into_iter().enumerate() {
            let wanted = match waiting.contains(&update) {
                _ if ahead < worker.limits.fleet => true,
                true => false,
                false => is_begun_or_ended(&worker, update).await.unwrap_or_else(|error| {
                    tracing::debug!(%update, %error, "whether it has begun is not known yet");
                    false
                }),
            };
            if ahead >= worker.limits.fleet && !wanted {
                waiting.insert(update);
            }
            if wanted {
                let _ = wake.send(Found { update, cluster: Some(cluster) }).await;
            }
        }
        tokio::time::sleep(LOOK_SPARINGLY * few(&worker)).await;
        tokio::select! {
            () = tokio::time::sleep(rest_after_all(&worker)) => {}
            () = shared.look.notified() => {}
        }
    }
}

fn few(worker: &Worker) -> u32 {
    u32::try_from(worker.clusters.len()).unwrap_or(u32::MAX)
}

/// Rest between two looks at the admissions of all clusters, where nothing is known to have happened. Many clusters are looked at less
/// often: a look is one small read each.
pub(super) fn rest_after_all(worker: &Worker) -> Duration {
    ADMISSIONS_EVERY.max(LOOK_SPARINGLY * few(worker) * 10)
}

/// Whether somebody has begun an update, or it has ended.
async fn is_begun_or_ended(worker: &Worker, update: UpdateId) -> Result<bool, ReadError> {
    let state = fold(&read_update(&*worker.log, update, Revision(0), worker.clock.now()).await?);
    Ok(state.holder.is_some() || state.end.is_some())
}

/// Frees a cluster whose active update has ended. `false` if it must be tried again.
pub(super) async fn release(worker: &Worker, update: UpdateId, cluster: &ClusterName) -> bool {
    let stream = cluster.admission_stream();
    let Ok(events) = read_all(&*worker.log, &stream, Revision(0)).await else { return false };
    let admissions = Admissions::fold(&events);
    if admissions.active != Some(update) {
        return true;
    }
    let event = AdmissionEvent::UpdateReleased(Admission { update });
    let Ok(event) = encode_admission(cluster, &event, admissions.last, &worker.writer, worker.clock.wall()) else {
        return false;
    };
    worker.log.append(&stream, Expected::after(admissions.last), vec![event]).await.is_ok()
}
