//! Finds what there is to do: new commands by a subscription to the whole log from a checkpoint, unfinished updates by the admission
//! streams of the configured clusters. Each command is admitted or answered before the checkpoint passes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::store::{Folded, fold_update, read_all};
use super::supersede::{Turn, turn};
use super::{Found, Shared, Worker, WorkerError};
use crate::codec::{
    Admissions, CHECKPOINT, CheckpointMoved, EncodeError, HEARTBEAT, WorkerHeartbeat, encode_admission, encode_facts,
    encode_record,
};
use crate::domain::ids::{
    ADMISSION_PREFIX, CHECKPOINT_STREAM, ClusterName, Revision, StreamName, UPDATE_PREFIX, UpdateId, WORKER_PREFIX,
};
use crate::domain::time::Moment;
use crate::lease::{HEARTBEAT_EVERY, LEASE};
use crate::ports::{AppendError, EventLog, Expected, Feed, Position, ReadError, StartFrom};
use crate::update::event::{self, AdmissionEvent, Event, Kind, Reason, UpdateRejected, UpdateRequested};
use crate::update::react::{answer_command, not_wanted};
use crate::update::state::State;

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

/// Where nothing of ours was found, the checkpoint is moved at most this often.
const LOOKED_ON_EVERY: Duration = Duration::from_secs(60);

/// Bytes of the log without anything of ours after which the checkpoint is worth moving: a restart reads as many again in a second or so.
/// Our own heartbeats move the log, too: those of one worker make as much in a week.
const LOOKED_ON_BYTES: u64 = 64 << 20;

/// From where commands are obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPoint {
    /// From the checkpoint; without one the worker refuses.
    Checkpoint,
    /// From the checkpoint, or else from the beginning of the log.
    CheckpointOrBeginning,
}

/// The last event of the checkpoint's stream, and the position after which requests are obeyed; none before `init`.
pub async fn checkpoint(log: &dyn EventLog) -> Result<(Option<Revision>, Option<Position>), ReadError> {
    let last = log.read_last(&StreamName::from(CHECKPOINT_STREAM)).await?;
    let position = last.as_ref().filter(|e| e.event_type == CHECKPOINT).and_then(|e| {
        let moved: CheckpointMoved = serde_json::from_value(e.data.clone()).ok()?;
        Some(moved.into())
    });
    Ok((last.map(|e| e.revision), position))
}

/// The position after which commands are obeyed, once the whole log is known to be readable: a worker that may not read it would see no
/// request, and say nothing. Waits for the store.
pub(super) async fn start_position(worker: &Worker, start: StartPoint) -> Result<StartFrom, WorkerError> {
    let mut patience = Patience::default();
    let mut reads_all = false;
    loop {
        let read = async {
            if !reads_all {
                worker.log.end_of_log().await?;
                reads_all = true;
            }
            checkpoint(&*worker.log).await
        };
        match read.await {
            Ok((_, Some(position))) => return Ok(StartFrom::After(position)),
            Ok((_, None)) => match start {
                StartPoint::Checkpoint => return Err(WorkerError::NotInitialised),
                StartPoint::CheckpointOrBeginning => return Ok(StartFrom::Beginning),
            },
            Err(error @ ReadError::Denied { .. }) if patience.is_left(worker.clock.now()) => {
                patience.spend(worker.clock.now());
                tracing::warn!(%error, "waiting for the store");
            }
            Err(error @ ReadError::Denied { .. }) if !reads_all => return Err(WorkerError::MayNotReadAll(error)),
            Err(error @ (ReadError::Denied { .. } | ReadError::Refused { .. })) => {
                return Err(WorkerError::Store(error.to_string()));
            }
            Err(error @ ReadError::Unavailable { .. }) => {
                tracing::warn!(%error, "waiting for the store");
            }
        }
        tokio::time::sleep(RETRY_EVERY).await;
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
    let mut handled: Option<Position> = match from {
        StartFrom::Beginning => None,
        StartFrom::After(position) => Some(position),
    };
    // Where the checkpoint stands at least, and when it was moved.
    let mut stands = handled;
    let mut moved = worker.clock.now();
    // Requests that are neither admitted nor answered yet, each with the position handled before it: the checkpoint does not pass them.
    // They are for clusters that this worker does not know, supersede an update that has not ended, or cannot be read where they were told of.
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
        let mut ours = false;
        match item {
            Feed::Event(event) => {
                ours = true;
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
                                After::Turn | After::NotYet => {
                                    open.insert(command, handled);
                                    waiters.spawn(wait_for_turn(worker.clone(), command, freed, look, wake));
                                }
                                // Whoever floods the store with requests for clusters that nobody knows fills nobody's memory.
                                After::Others if open.len() >= OPEN_MAX => {
                                    tracing::error!(%update, "left unanswered: {OPEN_MAX} requests wait for a worker that knows their cluster");
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
                } else if event.stream.0.starts_with(UPDATE_PREFIX) {
                    if Event::kind_of(&event.event_type) == Some(Kind::Command) {
                        tracing::error!(
                            stream = ?event.stream.0,
                            revision = %event.revision,
                            command = event.event_type,
                            "passed over: the name of an update's stream ends with a UUID in lower case, with hyphens; append it to such a stream"
                        );
                    }
                } else {
                    // An admission or a release: somebody may begin.
                    look.notify_one();
                    freed.send_replace(());
                }
                handled = event.position.or(handled);
            }
            Feed::Looked(position) => handled = handled.max(Some(position)),
            Feed::CaughtUp => {}
            Feed::Reconnecting(why) => tracing::debug!(why, "the subscription is made anew"),
        }
        let safe = open.values().copied().min().unwrap_or(handled);
        let Some(position) = safe.filter(|_| safe > stands) else { continue };
        let rested = worker.clock.now().since(moved);
        let far = position.commit.saturating_sub(stands.map_or(0, |at| at.commit)) >= LOOKED_ON_BYTES;
        if ours && rested >= CHECKPOINT_EVERY || far && rested >= LOOKED_ON_EVERY {
            moved = worker.clock.now();
            let least = if ours { 0 } else { LOOKED_ON_BYTES };
            stands = move_checkpoint(&worker, position, least).await.or(stands);
        }
    }
    Err(WorkerError::Died("the subscription ended".into()))
}

/// Moves the checkpoint, if it stands at least so many bytes before that. Says where it stands, if that is known.
async fn move_checkpoint(worker: &Worker, to: Position, least: u64) -> Option<Position> {
    let stream = StreamName::from(CHECKPOINT_STREAM);
    let (last, at) = checkpoint(&*worker.log).await.ok()?;
    // Another worker may have moved it.
    if let Some(at) = at.filter(|at| *at >= to || to.commit - at.commit < least) {
        return Some(at);
    }
    let record = CheckpointMoved::from(to);
    let event = encode_record(&stream, CHECKPOINT, &record, last, &worker.writer, worker.clock.wall()).ok()?;
    match worker.log.append(&stream, Expected::after(last), vec![event]).await {
        Ok(_) => Some(to),
        Err(error) => {
            tracing::debug!(%error, "the checkpoint stays where it is");
            None
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
    /// It does not stand where it was told of, is denied, or cannot be read: that may change soon.
    NotYet,
}

/// Requests that wait for their turn, or to be seen, at a time. Of those that supersede one waits for each cluster; what is not seen is few.
const WAITERS_MAX: usize = 2_000;

/// A command that the subscription told of and that no read shows for this long was deleted; what is denied for so long, this user may not.
/// One who led until a moment ago, or was frozen while others led, shows its own log until it has heard of the new leader: seconds. One who
/// starts denies what it cannot look up yet: seconds as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it is believed that what is not shown, or denied, will be shown and allowed.
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Moment>);

impl Patience {
    /// Whether any is left.
    pub fn is_left(&self, now: Moment) -> bool {
        self.0.is_none_or(|since| now.since(since) <= PATIENCE)
    }

    /// It was not shown, or denied; counted from the first time on.
    pub fn spend(&mut self, now: Moment) {
        self.0.get_or_insert(now);
    }

    /// It was shown, or allowed.
    pub fn restore(&mut self) {
        self.0 = None;
    }
}

/// Why a look came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The store does not answer, or somebody else wrote: try again.
    Away(String),
    /// Denied, perhaps for the moment.
    Denied(String),
    /// Refused for good.
    Refused(String),
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable { .. } => Trouble::Away(error.to_string()),
            ReadError::Denied { .. } => Trouble::Denied(error.to_string()),
            ReadError::Refused { .. } => Trouble::Refused(error.to_string()),
        }
    }
}

impl From<AppendError> for Trouble {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } | AppendError::Unavailable { .. } | AppendError::Unknown { .. } => {
                Trouble::Away(error.to_string())
            }
            AppendError::Denied { .. } => Trouble::Denied(error.to_string()),
            AppendError::Refused { .. } => Trouble::Refused(error.to_string()),
        }
    }
}

impl From<EncodeError> for Trouble {
    fn from(error: EncodeError) -> Self {
        Trouble::Refused(error.to_string())
    }
}

/// Requests for others' clusters that are listened for at a time.
const LISTENERS_MAX: usize = 50;

/// Requests that are remembered until they were listened for, or had their turn: 10 MB of them.
const OPEN_MAX: usize = 100_000;

/// Streams of which it is remembered how far they have been looked at.
const LOOKED_MAX: usize = 10_000;

/// A command that cannot be looked at for this long waits beside the others: its stream may be the only one that cannot be read.
const IN_THE_WAY: Duration = Duration::from_secs(10);

/// Admits or answers what stands in the stream of an update. Tries for a while. Says to which revision it looked.
async fn handle(
    worker: &Worker,
    command: Command,
    look: &Notify,
    wake: &mpsc::Sender<Found>,
) -> Result<(After, Option<Revision>), WorkerError> {
    let mut seen = None;
    let began = worker.clock.now();
    loop {
        match try_handle(worker, command, &mut seen, true).await {
            Ok(Handled::Done) => return Ok((After::Nothing, seen)),
            Ok(Handled::NotYet(why)) => {
                tracing::warn!(update = %command.update, why, "the command is looked for again");
                return Ok((After::NotYet, seen));
            }
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
                if worker.clock.now().since(began) >= IN_THE_WAY {
                    return Ok((After::NotYet, seen));
                }
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
    /// The store does not show it, or denies what it takes: whoever answered may not lead any more, or have started just now.
    NotYet(String),
}

/// Looks at a command once more, as long as patience is left for it.
async fn look_again(worker: &Worker, command: Command, patience: &mut Patience) -> Result<Handled, String> {
    let handled = try_handle(worker, command, &mut None, patience.is_left(worker.clock.now())).await;
    match &handled {
        Ok(Handled::NotYet(_)) => patience.spend(worker.clock.now()),
        Ok(Handled::Done | Handled::Drive | Handled::Stranger(_) | Handled::Waits(_) | Handled::Again) => {
            patience.restore();
        }
        // That nobody answers says nothing of it.
        Err(_) => {}
    }
    handled
}

/// How long the heartbeats are listened to before it is believed that no living worker knows a cluster: a worker that lives beats at
/// least once within its lease.
const LISTEN: Duration = LEASE.saturating_add(HEARTBEAT_EVERY);

/// Waits until another worker has admitted or answered a request for a cluster that this one does not know; answers it where no living
/// worker knows the cluster.
async fn leave_to_others(worker: Worker, command: Command) -> Command {
    let update = command.update;
    let mut patience = Patience::default();
    let mut answering = Patience::default();
    loop {
        let settled = match look_again(&worker, command, &mut patience).await {
            // One that waits is listened to no more: its cluster is known.
            Ok(Handled::Done | Handled::Drive | Handled::Waits(_)) => return command,
            Ok(Handled::Again) => Ok(()),
            Ok(Handled::NotYet(why)) => Err(why),
            Ok(Handled::Stranger(found)) => {
                let (state, cluster) = *found;
                match known_to_another(&worker, &cluster).await {
                    Some(true) => {
                        tokio::time::sleep(ADMISSIONS_EVERY).await;
                        Ok(())
                    }
                    Some(false) => match append(&worker, update, &state, unknown(&worker, &cluster)).await {
                        Ok(_) => Ok(()),
                        Err(Trouble::Away(why)) => Err(why),
                        Err(Trouble::Denied(why)) if answering.is_left(worker.clock.now()) => {
                            answering.spend(worker.clock.now());
                            Err(why)
                        }
                        Err(Trouble::Denied(why) | Trouble::Refused(why)) => {
                            tracing::error!(%update, revision = %command.at, why, "passed over");
                            return command;
                        }
                    },
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
    let mut patience = Patience::default();
    loop {
        freed.mark_unchanged();
        let rest = match look_again(&worker, command, &mut patience).await {
            Ok(Handled::Done) => return command,
            // Only now it is seen for whose cluster it is.
            Ok(Handled::Stranger(_)) => return leave_to_others(worker, command).await,
            Ok(Handled::Drive) => {
                look.notify_one();
                let _ = wake.send(Found { update, cluster: None }).await;
                return command;
            }
            Ok(Handled::NotYet(why)) => {
                tracing::debug!(%update, why, "looked for again");
                RETRY_EVERY
            }
            Ok(Handled::Again) => continue,
            Ok(Handled::Waits(old)) => {
                // One that nobody has begun has nobody who ends it but us, if its cancellation was not heard.
                let old_one = Command { update: old, at: Revision(0) };
                if let Err(why) = try_handle(&worker, old_one, &mut None, true).await {
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
                Feed::Event(_) | Feed::Looked(_) | Feed::CaughtUp => {}
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

/// Looks at a command. Without patience, what is not shown or denied is passed over, loudly; an error says that the store does not answer.
async fn try_handle(
    worker: &Worker,
    command: Command,
    seen: &mut Option<Revision>,
    patient: bool,
) -> Result<Handled, String> {
    let update = command.update;
    let why = match look_at(worker, command, seen, patient).await {
        Ok(Handled::NotYet(why)) => why,
        Ok(handled) => return Ok(handled),
        Err(Trouble::Away(why)) => return Err(why),
        Err(Trouble::Denied(why)) => why,
        // It will not be readable by waiting, and others must not wait for it.
        Err(Trouble::Refused(why)) => {
            tracing::error!(%update, revision = %command.at, why, "passed over");
            return Ok(Handled::Done);
        }
    };
    if patient {
        return Ok(Handled::NotYet(why));
    }
    tracing::error!(%update, revision = %command.at, why, "passed over");
    Ok(Handled::Done)
}

async fn look_at(
    worker: &Worker,
    command: Command,
    seen: &mut Option<Revision>,
    patient: bool,
) -> Result<Handled, Trouble> {
    let update = command.update;
    let Folded { state, first } = fold_update(&*worker.log, update, worker.clock.now()).await?;
    *seen = state.last_revision();
    if seen.is_none_or(|last| last < command.at) {
        return Ok(Handled::NotYet("no read shows it; was it deleted?".into()));
    }
    if state.end.is_some() {
        if let Some(answer) = answer_command(&state) {
            return append(worker, update, &state, answer).await;
        }
        // Ended without ever having been held: nobody else may look at it soon.
        if state.holder.is_none()
            && let Some(cluster) = state.request.as_ref().map(|r| &r.cluster)
            && worker.clusters.contains_key(cluster)
        {
            release(worker, update, cluster).await?;
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
    let why = match admit(worker, update, request, first).await {
        Ok(Admission::Admitted) => return Ok(Handled::Drive),
        Ok(Admission::Waits(active)) => return Ok(Handled::Waits(active)),
        Ok(Admission::Again) => return Ok(Handled::Again),
        Ok(Admission::Never(reasons)) => {
            return append(worker, update, &state, UpdateRejected { reasons }.into()).await;
        }
        Err(trouble @ Trouble::Away(_)) => return Err(trouble),
        Err(trouble @ Trouble::Denied(_)) if patient => return Err(trouble),
        Err(Trouble::Denied(why) | Trouble::Refused(why)) => why,
    };
    tracing::error!(%update, %cluster, why, "the store refuses what admitting an update of this cluster takes");
    if state.holder.is_some() {
        // It is its holder's.
        return Ok(Handled::Done);
    }
    append(worker, update, &state, UpdateRejected { reasons: vec![not_admissible(&cluster, why)] }.into()).await
}

/// Why nothing of a cluster can be admitted.
fn not_admissible(cluster: &ClusterName, found: String) -> Reason {
    let stream = cluster.admission_stream();
    Reason {
        code: "admissionRefused".into(),
        found,
        wanted: format!("a store that lets worker and clusters' streams be read and written, {stream} above all"),
        remedy: format!(
            "give the worker's user the right to read and write it, and ask again in a fresh stream; {stream} once deleted for good, or with \
             more events than anybody reads, the cluster needs another name in the configuration of every worker"
        ),
    }
}

/// What became of a request of one of our clusters.
enum Admission {
    /// It is the active update.
    Admitted,
    /// It takes the place of this update, once that has ended.
    Waits(UpdateId),
    /// It will not be.
    Never(Vec<Reason>),
    /// Something was written meanwhile: look again.
    Again,
}

async fn admit(
    worker: &Worker,
    update: UpdateId,
    request: &UpdateRequested,
    cause: Option<Uuid>,
) -> Result<Admission, Trouble> {
    let cluster = &request.cluster;
    let stream = cluster.admission_stream();
    let admissions = Admissions::fold(&read_all(&*worker.log, &stream, Revision(0)).await?);
    if admissions.active == Some(update) {
        return Ok(Admission::Admitted);
    }
    match turn(worker, update, request, cause, &admissions).await? {
        Turn::Again => Ok(Admission::Again),
        Turn::After(active) => Ok(Admission::Waits(active)),
        Turn::Never(reasons) => Ok(Admission::Never(reasons)),
        Turn::Now => {
            let event = AdmissionEvent::UpdateAdmitted(event::Admission { update });
            let event = encode_admission(cluster, &event, admissions.last, &worker.writer, worker.clock.wall())?;
            match worker.log.append(&stream, Expected::after(admissions.last), vec![event]).await {
                Ok(_) => Ok(Admission::Admitted),
                Err(AppendError::Conflict { .. }) => Ok(Admission::Again),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// Appends a fact to an update that nobody holds.
async fn append(worker: &Worker, update: UpdateId, state: &State, fact: Event) -> Result<Handled, Trouble> {
    let facts = encode_facts(update, &[fact], state.last, &worker.writer, worker.clock.wall())?;
    match worker.log.append(&update.stream(), Expected::after(state.last_revision()), facts).await {
        Ok(_) | Err(AppendError::Conflict { .. }) => Ok(Handled::Again),
        Err(error) => Err(error.into()),
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
        let (unfinished, set_aside) = {
            let mut queue = shared.queue.lock().await;
            if let Err(error) = queue.read(&*worker.log, worker.clusters.keys()).await {
                tracing::warn!(%error, "admissions cannot be read");
            }
            (queue.unfinished(), queue.set_aside().clone())
        };
        let fresh_look = worker.clock.now().since(looked) >= WAITING_EVERY;
        if fresh_look {
            looked = worker.clock.now();
        }
        waiting.retain(|update| !fresh_look && unfinished.iter().any(|(u, _)| u == update));
        let mut ahead = 0;
        for (update, cluster) in unfinished {
            let may_begin = ahead < worker.limits.fleet;
            let aside = set_aside.contains(&update);
            ahead += usize::from(!aside);
            let wanted = match waiting.contains(&update) {
                _ if may_begin || aside => true,
                true => false,
                false => is_begun_or_ended(&worker, update).await.unwrap_or_else(|error| {
                    tracing::debug!(%update, %error, "whether it has begun is not known yet");
                    false
                }),
            };
            if !wanted {
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
    let Folded { state, .. } = fold_update(&*worker.log, update, worker.clock.now()).await?;
    Ok(state.holder.is_some() || state.end.is_some())
}

/// Frees a cluster whose active update has ended.
pub(super) async fn release(worker: &Worker, update: UpdateId, cluster: &ClusterName) -> Result<(), Trouble> {
    let stream = cluster.admission_stream();
    let admissions = Admissions::fold(&read_all(&*worker.log, &stream, Revision(0)).await?);
    if admissions.active != Some(update) {
        return Ok(());
    }
    let event = AdmissionEvent::UpdateReleased(event::Admission { update });
    let event = encode_admission(cluster, &event, admissions.last, &worker.writer, worker.clock.wall())?;
    worker.log.append(&stream, Expected::after(admissions.last), vec![event]).await?;
    Ok(())
}
