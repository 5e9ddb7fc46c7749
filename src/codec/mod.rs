//! Between events and what the store holds: type, JSON data, JSON metadata, and ids that are derived from all of it.

#[cfg(test)]
mod schema;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::ids::{ClusterName, Incarnation, Revision, StreamName, UpdateId, WorkerName};
use crate::domain::time::Moment;
use crate::ports::{NewEvent, Position, StoredEvent};
use crate::update::event::{AdmissionEvent, CancelRequested, Event, Kind};
use crate::update::state::{Body, Recorded};

/// Namespace of the ids that this program derives.
const NAMESPACE: Uuid = Uuid::from_u128(0x6573_6462_2d72_6f6c_6c6f_7574_0000_0001);

/// Who writes, and why.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The worker.
    pub worker: WorkerName,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// A worker's sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerHeartbeat {
    /// The worker.
    pub worker: WorkerName,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Clusters it knows.
    pub clusters: Vec<ClusterName>,
    /// Version of this program.
    pub tool_version: String,
    /// How many updates it has in hand; absent in those of older workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates_in_hand: Option<u32>,
    /// Updates that this process, or one of its name before it, held and will not touch again: whoever wants may take them at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handed_over: Vec<HandedOver>,
}

/// An update that a worker has handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedOver {
    /// The update.
    pub update: UpdateId,
    /// The incarnation that held it.
    pub incarnation: Incarnation,
}

/// Every command up to this position of the whole log has been admitted or answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointMoved {
    /// Commit position, bytes.
    pub commit: u64,
    /// Prepare position, bytes.
    pub prepare: u64,
}

impl From<Position> for CheckpointMoved {
    fn from(p: Position) -> Self {
        Self { commit: p.commit, prepare: p.prepare }
    }
}

impl From<CheckpointMoved> for Position {
    fn from(c: CheckpointMoved) -> Self {
        Self { commit: c.commit, prepare: c.prepare }
    }
}

/// Why an event could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {what} as JSON")]
pub struct EncodeError {
    what: String,
    #[source]
    source: serde_json::Error,
}

/// Id of a fact: UUIDv5 of stream, revision, type, incarnation and the SHA-256 of the data. The incarnation keeps two workers at one
/// revision from sending the *same* id, which the server, being idempotent, would acknowledge to both.
pub fn fact_id(
    stream: &StreamName,
    revision: Revision,
    type_name: &str,
    incarnation: Incarnation,
    data: &Value,
) -> Uuid {
    let digest: String = Sha256::digest(data.to_string()).iter().map(|b| format!("{b:02x}")).collect();
    Uuid::new_v5(&NAMESPACE, format!("{stream}\n{revision}\n{type_name}\n{incarnation}\n{digest}").as_bytes())
}

/// Writes facts down, for the revisions that follow `last` (`None`: a stream that does not exist yet).
pub fn encode_facts(
    update: UpdateId,
    facts: &[Event],
    last: Option<(Revision, Uuid)>,
    writer: &Writer,
    at: jiff::Timestamp,
) -> Result<Vec<NewEvent>, EncodeError> {
    let stream = update.stream();
    let mut revision = last.map_or(Revision(0), |(r, _)| r.next());
    let mut cause = last.map(|(_, id)| id);
    let mut events = Vec::with_capacity(facts.len());
    for fact in facts {
        let data = event_data(fact)?;
        let id = fact_id(&stream, revision, fact.type_name(), writer.incarnation, &data);
        let metadata = metadata(Some(update), cause, writer, at);
        events.push(NewEvent { id, event_type: fact.type_name().to_owned(), data, metadata });
        cause = Some(id);
        revision = revision.next();
    }
    Ok(events)
}

/// Metadata of what this program writes.
pub fn metadata(update: Option<UpdateId>, cause: Option<Uuid>, writer: &Writer, at: jiff::Timestamp) -> Value {
    let mut map = Map::new();
    if let Some(update) = update {
        map.insert("$correlationId".into(), json!(update.0));
    }
    if let Some(cause) = cause {
        map.insert("$causationId".into(), json!(cause));
    }
    map.insert("worker".into(), json!(writer.worker));
    map.insert("incarnation".into(), json!(writer.incarnation));
    map.insert("toolVersion".into(), json!(env!("CARGO_PKG_VERSION")));
    map.insert("at".into(), json!(round_to_ms(at)));
    Value::Object(map)
}

fn round_to_ms(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// The data of an event, as stored.
pub fn event_data(event: &Event) -> Result<Value, EncodeError> {
    let fail = |source| EncodeError { what: event.type_name().to_owned(), source };
    match serde_json::to_value(event).map_err(fail)? {
        Value::Object(mut map) => Ok(map.remove("data").unwrap_or_else(|| json!({}))),
        other => Ok(other),
    }
}

/// A command of this program's own command line, ready to append. Its id is random by nature: two people may ask for the same.
pub fn encode_command(command: &Event, id: Uuid, metadata: Value) -> Result<NewEvent, EncodeError> {
    Ok(NewEvent { id, event_type: command.type_name().to_owned(), data: event_data(command)?, metadata })
}

/// The command by which a worker asks an update to end in favour of another. It is a command and no fact: whoever holds the update may be
/// another worker. Its id is derived from the two updates alone, so that it stands once, whoever sends it and however often.
pub fn encode_supersession(
    old: UpdateId,
    new: UpdateId,
    command: CancelRequested,
    cause: Option<Uuid>,
    writer: &Writer,
    at: jiff::Timestamp,
) -> Result<NewEvent, EncodeError> {
    let command = Event::CancelRequested(command);
    let stream = old.stream();
    let id = Uuid::new_v5(&NAMESPACE, format!("{stream}\n{}\n{new}", command.type_name()).as_bytes());
    let mut metadata = metadata(Some(old), cause, writer, at);
    if let Value::Object(map) = &mut metadata {
        // What tells a worker's facts apart.
        map.remove("incarnation");
    }
    encode_command(&command, id, metadata)
}

/// Reads an event of an update's stream, first seen at `seen`. Never fails: what cannot be read is told apart in [`Body`].
pub fn decode(stored: &StoredEvent, seen: Moment) -> Recorded {
    Recorded { revision: stored.revision, id: stored.id, at: written_at(stored), seen, body: body(stored) }
}

/// When an event was written, by its writer's calendar, else by the store's.
pub fn written_at(stored: &StoredEvent) -> jiff::Timestamp {
    stored.metadata.get("at").and_then(Value::as_str).and_then(|t| t.parse().ok()).unwrap_or(stored.created)
}

/// What is quoted of a text that anybody may have written, however long.
const QUOTED_MAX: usize = 300;

/// What is taken of who asked for something and why, in characters: it is written down again with the answer, which must be no larger than
/// the store takes.
const SAID_MAX: usize = 2_000;

/// The largest command that is obeyed, bytes of JSON without who and why. A request with a hundred nodes has a tenth of it.
const COMMAND_MAX: usize = 64 * 1024;

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn shortened(text: &str) -> String {
    cut(text, QUOTED_MAX)
}

fn body(stored: &StoredEvent) -> Body {
    let ours = stored.metadata.get("incarnation").is_some();
    let type_name = shortened(&stored.event_type);
    let unreadable = |problem: String| Body::Unreadable { type_name: type_name.clone(), problem: shortened(&problem) };
    let Some(kind) = Event::kind_of(&stored.event_type) else {
        return if ours { Body::Newer { type_name } } else { unreadable("no type of this contract".into()) };
    };
    if !stored.is_json {
        return unreadable("its data is no JSON, or of more parts than are read".into());
    }
    let mut data = stored.data.clone();
    if let (Kind::Command, Value::Object(map)) = (kind, &mut data) {
        for key in ["by", "why"] {
            if let (None, Some(Value::String(text))) = (map.get(key), stored.metadata.get(key)) {
                map.insert(key.to_owned(), Value::String(text.clone()));
            }
            if let Some(Value::String(text)) = map.get_mut(key) {
                *text = cut(text, SAID_MAX);
            }
        }
        let size = data.to_string().len();
        if size > COMMAND_MAX {
            return unreadable(format!("it has {size} bytes, and {COMMAND_MAX} are the most that is read"));
        }
    }
    match serde_json::from_value::<Event>(json!({ "type": stored.event_type, "data": data })) {
        Ok(event) => Body::Event(Box::new(event)),
        Err(_) if ours && kind == Kind::Fact => Body::Newer { type_name },
        Err(problem) => unreadable(problem.to_string()),
    }
}

/// Writes an admission event down for the revision after `last`.
pub fn encode_admission(
    cluster: &ClusterName,
    event: &AdmissionEvent,
    last: Option<Revision>,
    writer: &Writer,
    at: jiff::Timestamp,
) -> Result<NewEvent, EncodeError> {
    let (type_name, admission) = match event {
        AdmissionEvent::UpdateAdmitted(a) => ("UpdateAdmitted", a),
        AdmissionEvent::UpdateReleased(a) => ("UpdateReleased", a),
    };
    let data = serde_json::to_value(admission).map_err(|source| EncodeError { what: type_name.into(), source })?;
    let revision = last.map_or(Revision(0), Revision::next);
    let id = fact_id(&cluster.admission_stream(), revision, type_name, writer.incarnation, &data);
    Ok(NewEvent {
        id,
        event_type: type_name.into(),
        data,
        metadata: metadata(Some(admission.update), None, writer, at),
    })
}

/// Reads an admission event; `None` for anything else.
pub fn decode_admission(stored: &StoredEvent) -> Option<AdmissionEvent> {
    serde_json::from_value(json!({ "type": stored.event_type, "data": stored.data })).ok()
}

/// Writes one of the worker's own records (heartbeat, checkpoint) down for the revision after `last`.
pub fn encode_record<T: Serialize>(
    stream: &StreamName,
    type_name: &str,
    record: &T,
    last: Option<Revision>,
    writer: &Writer,
    at: jiff::Timestamp,
) -> Result<NewEvent, EncodeError> {
    let data = serde_json::to_value(record).map_err(|source| EncodeError { what: type_name.into(), source })?;
    let revision = last.map_or(Revision(0), Revision::next);
    let id = fact_id(stream, revision, type_name, writer.incarnation, &data);
    Ok(NewEvent { id, event_type: type_name.into(), data, metadata: metadata(None, None, writer, at) })
}

/// Stored type of [`WorkerHeartbeat`].
pub const HEARTBEAT: &str = "WorkerHeartbeat";
/// Stored type of [`CheckpointMoved`].
pub const CHECKPOINT: &str = "CheckpointMoved";

/// Which update of a cluster is active, by its admission stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admissions {
    /// Revision of the last event.
    pub last: Option<Revision>,
    /// The active update.
    pub active: Option<UpdateId>,
    /// Updates that were admitted at any time.
    pub ever: Vec<UpdateId>,
}

impl Admissions {
    /// Folds an admission stream. Events that are not ours are passed over.
    pub fn fold(events: &[StoredEvent]) -> Self {
        let mut folded = Self::default();
        for stored in events {
            folded.last = Some(stored.revision);
            match decode_admission(stored) {
                Some(AdmissionEvent::UpdateAdmitted(a)) => {
                    folded.active.get_or_insert(a.update);
                    folded.ever.push(a.update);
                }
                Some(AdmissionEvent::UpdateReleased(a)) if folded.active == Some(a.update) => folded.active = None,
                Some(AdmissionEvent::UpdateReleased(_)) | None => {}
            }
        }
        folded
    }
}
