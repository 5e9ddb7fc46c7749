//! What the client commands do with the store.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::failure::Failure;
use crate::cli::{fresh_id, note};
use crate::codec::{Admissions, encode_command};
use crate::config::{Config, DEFAULT_MAX_CONCURRENT};
use crate::domain::ids::{ClusterName, Revision, StreamName, UpdateId};
use crate::ports::{AppendError, Clock, EventLog, Expected, NewEvent, ReadError};
use crate::update::event::{Event, Number};
use crate::update::state::{Recorded, State, fold};
use crate::views::progress::Progress;
use crate::views::why::{Why, awaiting_its_turn};
use crate::worker::{FailuresReviewed, Queue, REVIEW_STREAM, REVIEWED, read_all, read_update};

/// Sends of a command whose outcome is unknown, and tries where the store has no leader. Each takes up to 5 s: an election, or two.
const SENDS_MAX: u32 = 3;

/// Conflicts after which a command is given up: somebody writes faster than we read.
const CONFLICTS_MAX: u32 = 20;

/// Rest between two sends.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// An update as it was read.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Which.
    pub update: UpdateId,
    /// Its history.
    pub history: Vec<Recorded>,
    /// What it folds to.
    pub state: State,
}

impl Followed {
    /// An update of which nothing has been read yet.
    pub fn unread(update: UpdateId) -> Self {
        Self { update, history: Vec::new(), state: State::default() }
    }

    /// Reads an update; an update without events is none.
    pub async fn read(log: &dyn EventLog, clock: &dyn Clock, update: UpdateId) -> Result<Self, Failure> {
        let mut followed = Self::unread(update);
        followed.read_on(log, clock).await.map_err(|e| Failure::from(e).during(format!("reading update {update}")))?;
        if followed.history.is_empty() {
            let text = format!("there is no update {update} in this store; `esdb-rollout list` shows those there are");
            return Err(Failure::other(anyhow::anyhow!(text)));
        }
        Ok(followed)
    }

    /// Reads what has come since, and says how many events that is.
    pub async fn read_on(&mut self, log: &dyn EventLog, clock: &dyn Clock) -> Result<usize, crate::ports::ReadError> {
        let from = self.state.last_revision().map_or(Revision(0), Revision::next);
        let news = read_update(log, self.update, from, clock.now()).await?;
        for recorded in &news {
            self.state.evolve(recorded);
        }
        let count = news.len();
        self.history.extend(news);
        Ok(count)
    }

    /// Whether it was asked for of this cluster.
    pub fn is_of(&self, cluster: &ClusterName) -> bool {
        self.state.request.as_ref().is_some_and(|request| &request.cluster == cluster)
    }

    /// Where it is now.
    pub fn progress(&self, clock: &dyn Clock) -> Progress {
        Progress::of(self.update, &self.state, &self.history, clock.wall())
    }
}

/// Tells of what the store does not let be read; the others are told all the same.
pub fn unreadable(error: ReadError, what: String) -> Result<(), Failure> {
    match error {
        ReadError::Denied { .. } | ReadError::Refused { .. } => {
            note(&format!("{what}: {error}"));
            Ok(())
        }
        ReadError::Unavailable { .. } => Err(Failure::from(error).during(format!("reading {what}"))),
    }
}

/// The admissions of a cluster.
pub async fn admissions(log: &dyn EventLog, cluster: &ClusterName) -> Result<Admissions, Failure> {
    let events = read_all(log, &cluster.admission_stream(), Revision(0)).await;
    events
        .map(|e| Admissions::fold(&e))
        .map_err(|e| Failure::from(e).during(format!("reading the updates of {cluster}")))
}

/// Failures in a row that are counted for people.
const FAILURES_SHOWN: usize = 20;

/// Why an update that was admitted and that no worker has taken does not begin, as far as the streams say.
pub async fn held_back(
    log: &dyn EventLog,
    clock: &dyn Clock,
    config: &Config,
    followed: &Followed,
) -> Result<Option<Why>, Failure> {
    if followed.state.holder.is_some() || followed.state.end.is_some() {
        return Ok(None);
    }
    let mut queue = Queue::default();
    match queue.read(log, config.clusters.keys()).await {
        Ok(()) => {}
        Err(error @ (ReadError::Denied { .. } | ReadError::Refused { .. })) => {
            note(&format!("what it waits for cannot be told: {error}"));
            return Ok(None);
        }
        Err(error @ ReadError::Unavailable { .. }) => {
            return Err(Failure::from(error).during("reading the admissions".to_owned()));
        }
    }
    let Some(ahead) = queue.ahead_of(followed.update) else { return Ok(None) };
    let limit = config.store.as_ref().map_or(DEFAULT_MAX_CONCURRENT, |s| s.max_concurrent_updates);
    let number = |name: &str, n: usize| Number { name: name.into(), value: n as f64 };
    if ahead >= limit {
        return Ok(Some(Why {
            code: "waitsForRoom".into(),
            detail: "as many updates as may run at a time over all clusters are ahead of it".into(),
            numbers: vec![number("updates ahead", ahead), number("may run", limit)],
            remedy: None,
        }));
    }
    let failed = queue.failures_in_a_row(log, clock, FAILURES_SHOWN).await;
    let failed = failed.map_err(|e| Failure::from(e).during("reading the updates before".to_owned()))?;
    Ok((failed > 0).then(|| Why {
        code: "failuresInARow".into(),
        detail: "no worker has taken it; the updates before it failed, and a worker told to stop after so many begins no new one".into(),
        numbers: vec![number("failed", failed)],
        remedy: Some("look at them with `list`, then: esdb-rollout resume --after-failures".into()),
    }))
}

/// What a request waits for that supersedes another update, as far as the streams say.
pub async fn awaited_turn(
    log: &dyn EventLog,
    clock: &dyn Clock,
    update: UpdateId,
    state: &State,
) -> Result<Option<Why>, Failure> {
    let waits = state.holder.is_none() && state.end.is_none();
    let Some(request) = state.request.as_ref().filter(|r| waits && r.supersedes.is_some()) else { return Ok(None) };
    let active = admissions(log, &request.cluster).await?.active.filter(|active| *active != update);
    let theirs = match active {
        Some(active) => Some((active, read_state(log, clock, active).await?.1)),
        None => None,
    };
    Ok(awaiting_its_turn(state, theirs.as_ref().map(|(active, state)| (*active, state)), clock.wall()))
}

/// Writes down that a person has looked at the updates that failed.
pub async fn review_failures(log: &dyn EventLog, clock: &dyn Clock, review: &FailuresReviewed) -> Result<(), Failure> {
    let stream = StreamName::from(REVIEW_STREAM);
    let mut metadata = Map::new();
    metadata.insert("toolVersion".into(), json!(env!("CARGO_PKG_VERSION")));
    metadata.insert("at".into(), json!(clock.wall()));
    let data = serde_json::to_value(review).map_err(Failure::other)?;
    let event = NewEvent { id: fresh_id(), event_type: REVIEWED.into(), data, metadata: Value::Object(metadata) };
    let mut tries = 0;
    loop {
        let last = log.read_last(&stream).await.map_err(Failure::from)?;
        if last.as_ref().is_some_and(|e| e.id == event.id) {
            return Ok(());
        }
        match log.append(&stream, Expected::after(last.map(|e| e.revision)), vec![event.clone()]).await {
            Ok(_) => return Ok(()),
            Err(error @ (AppendError::Denied { .. } | AppendError::Refused { .. })) => {
                return Err(Failure::from(error));
            }
            Err(error) if tries == SENDS_MAX => return Err(Failure::from(error)),
            Err(_) => {
                tries += 1;
                tokio::time::sleep(SEND_AGAIN_AFTER).await;
            }
        }
    }
}

/// Metadata of a command. Without an incarnation: that is what tells a worker's events apart.
fn command_metadata(update: UpdateId, at: jiff::Timestamp) -> Value {
    let mut map = Map::new();
    map.insert("$correlationId".into(), json!(update.0));
    map.insert("toolVersion".into(), json!(env!("CARGO_PKG_VERSION")));
    map.insert("at".into(), json!(jiff::Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)));
    Value::Object(map)
}

fn written(command: &Event, update: UpdateId, clock: &dyn Clock) -> Result<NewEvent, Failure> {
    encode_command(command, fresh_id(), command_metadata(update, clock.wall())).map_err(Failure::other)
}

/// Sends one append until its outcome is known or patience ends; the events' ids make repeats harmless.
async fn send(
    log: &dyn EventLog,
    update: UpdateId,
    expected: Expected,
    events: &[NewEvent],
) -> Result<Revision, AppendError> {
    let mut sends = 1;
    loop {
        match log.append(&update.stream(), expected, events.to_vec()).await {
            Ok(appended) => return Ok(appended.last),
            Err(AppendError::Unknown { .. } | AppendError::Unavailable { .. }) if sends < SENDS_MAX => {
                sends += 1;
                tokio::time::sleep(SEND_AGAIN_AFTER).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Begins an update: its request becomes the first event of its stream, with the waivers behind it in the same append.
pub async fn request(
    log: &dyn EventLog,
    clock: &dyn Clock,
    update: UpdateId,
    commands: &[Event],
) -> Result<(), Failure> {
    let events = commands.iter().map(|c| written(c, update, clock)).collect::<Result<Vec<_>, _>>()?;
    match send(log, update, Expected::NoStream, &events).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::from(error).during(format!("asking for update {update}"))),
    }
}

/// Appends a command to a running update, at exactly the revision that was read. Gives its revision.
pub async fn command(
    log: &dyn EventLog,
    clock: &dyn Clock,
    update: UpdateId,
    command: &Event,
) -> Result<Revision, Failure> {
    let name = command.type_name();
    let event = written(command, update, clock)?;
    let mut followed = Followed::read(log, clock, update).await?;
    for _ in 0..CONFLICTS_MAX {
        if followed.state.end.is_some() {
            let verdict = crate::update::react::verdict_word(&followed.state);
            return Err(Failure::refused(format!("update {update} has ended: {verdict}; start a new one")));
        }
        match send(log, update, Expected::after(followed.state.last_revision()), std::slice::from_ref(&event)).await {
            Ok(revision) => return Ok(revision),
            Err(AppendError::Conflict { .. }) => {}
            Err(error) => return Err(Failure::from(error).during(format!("appending {name} to update {update}"))),
        }
        followed.read_on(log, clock).await.map_err(|e| Failure::from(e).during(format!("reading update {update}")))?;
        // An earlier send with an unknown outcome may have been written after all.
        if let Some(ours) = followed.history.iter().find(|r| r.id == event.id) {
            return Ok(ours.revision);
        }
    }
    Err(Failure::other(anyhow::anyhow!(
        "{name} could not be appended to update {update}: somebody writes there all the time; try again"
    )))
}

/// An update by its whole history.
pub async fn read_state(
    log: &dyn EventLog,
    clock: &dyn Clock,
    update: UpdateId,
) -> Result<(Vec<Recorded>, State), Failure> {
    let history = read_update(log, update, Revision(0), clock.now())
        .await
        .map_err(|e| Failure::from(e).during(format!("reading update {update}")))?;
    let state = fold(&history);
    Ok((history, state))
}
