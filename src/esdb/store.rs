//! [`EventLog`] over the `eventstore` crate.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventstore::{
    AppendToStreamOptions, Client, EventData, ExpectedRevision, ReadAllOptions, ReadStream, ReadStreamOptions,
    RecordedEvent, ResolvedEvent, StreamPosition,
};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use super::connection::{Ask, StoreConfig, Target};
use super::error::{Outcome, Verdict};
use super::generation::Generations;
use super::{ConfigError, Credentials, HttpAdmin, diagnosis, everywhere, subscription};
use crate::domain::ids::{Revision, StreamName};
use crate::ports::{
    AppendError, Appended, EventLog, Expected, Feed, LocalRead, NewEvent, Position, ReadError, StartFrom, StoreProbe,
    StoredEvent,
};

/// Time for one call of the port. An election takes 0.2 to 2.6 s, a client 0.1 to 1 s to connect: five seconds outlast
/// either, and are short against the windows in which a worker must notice that it lost its store.
const CALL_BUDGET: Duration = Duration::from_secs(5);
/// Time for one try. A server without quorum says so after 2.2 s; waiting longer only waits for the dead.
const TRY_TIME: Duration = Duration::from_millis(2500);
/// Pause between tries with the same client: half of the quickest election.
const RETRY_PAUSE: Duration = Duration::from_millis(150);
/// Tries with one client that answers but will not serve (no leader, not ready), after which another is made: the crate stays
/// with a node that has been left behind, or goes round in circles between wrong hints.
const PATIENCE: u32 = 5;
/// Tries that a denied call gets: a node that starts denies what it cannot look up yet.
const DENIED_TRIES: u32 = 4;
/// Events in one page of [`EventLog::read_back`].
const PAGE: usize = 500;

/// The store of events, in EventStoreDB.
///
/// Appends are sent again, to the byte the same, while time is left; reads and appends go to the leader and demand that it is one. Clients
/// that died are replaced. Nothing here panics or hangs because the client library does.
#[derive(Clone)]
pub struct EventStoreLog {
    inner: Arc<Inner>,
}

/// What the calls and the subscriptions share.
pub(super) struct Inner {
    pub(super) target: Target,
    pub(super) generations: Generations,
    pub(super) nodes: HttpAdmin,
    /// What was last learnt about the store's nodes: needed most when none of those that know is left.
    pub(super) known: Mutex<everywhere::Known>,
}

impl EventStoreLog {
    /// Checks the configuration; connects to nobody yet.
    ///
    /// # Errors
    /// A connection string, CA file or set of system certificates with which no client can be made.
    pub fn new(config: StoreConfig) -> Result<Self, ConfigError> {
        let target = Target::of(&config)?;
        let settings = target.settings(Ask::Leader)?;
        let nodes = HttpAdmin::with(
            target.tls,
            target.verify,
            target.ca_file.as_deref(),
            target.credentials.clone(),
            everywhere::NODE_TIME,
        )?;
        let inner = Inner { generations: Generations::new(settings), nodes, known: Mutex::default(), target };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// How a call ended that did not succeed.
struct GivenUp {
    verdict: Verdict,
    /// Whether any try may have been done, and what it met.
    unknown: Option<String>,
}

impl Inner {
    pub(super) fn credentials(&self) -> Option<eventstore::Credentials> {
        self.target.credentials.as_ref().map(to_crate)
    }

    /// Tries until a try succeeds, is refused, or `deadline` comes.
    async fn persist<T, F, Fut>(&self, deadline: Instant, call: F) -> Result<T, GivenUp>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = eventstore::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let mut unknown = None;
        let mut waits = 0;
        let mut denials = 0;
        let mut last = None;
        // Asked beside the tries, so that no try waits for it.
        let mut diagnosis = JoinSet::new();
        loop {
            let generation = match timeout_at(deadline, self.generations.current()).await {
                Ok(Ok(generation)) => generation,
                Ok(Err(fault)) => return Err(GivenUp { verdict: fault.verdict(), unknown }),
                Err(_) => return Err(explained(out_of_time(last, unknown), &mut diagnosis)),
            };
            let until = deadline.min(Instant::now() + TRY_TIME);
            let mut verdict = match generation.run(until, &call).await {
                Ok(value) => {
                    self.generations.worked();
                    return Ok(value);
                }
                Err(fault) => fault.verdict(),
            };
            tracing::debug!(outcome = ?verdict.outcome, renew = verdict.renew, text = %verdict.text, "a call to the store failed");
            match verdict.outcome {
                Outcome::Unknown => unknown = Some(verdict.text.clone()),
                Outcome::NotDone => waits += 1,
                Outcome::Denied => denials += 1,
                Outcome::Conflict | Outcome::Refused => return Err(GivenUp { verdict, unknown }),
            }
            if denials >= DENIED_TRIES {
                if let Some(found) = diagnosis::of(&self.nodes, &self.target.hosts).await {
                    verdict.text = found;
                }
                return Err(GivenUp { verdict, unknown });
            }
            if waits >= PATIENCE {
                verdict.renew = true;
            }
            if verdict.renew {
                waits = 0;
                if diagnosis.is_empty() {
                    let (nodes, hosts) = (self.nodes.clone(), self.target.hosts.clone());
                    diagnosis.spawn(async move { diagnosis::of(&nodes, &hosts).await });
                }
                self.generations.retire(generation.number, &verdict.text).await;
            }
            last = Some(verdict);
            let next = Instant::now() + RETRY_PAUSE;
            if next >= deadline {
                return Err(explained(out_of_time(last, unknown), &mut diagnosis));
            }
            sleep_until(next).await;
        }
    }

    /// Adds the hosts that were asked: the client library does not name them.
    fn whom(&self, found: &str) -> String {
        let hosts: Vec<String> = self.target.hosts.iter().map(ToString::to_string).collect();
        format!("{found} (asked {})", hosts.join(", "))
    }

    async fn persist_reading<T, F, Fut>(&self, what: &str, deadline: Instant, call: F) -> Result<T, ReadError>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = eventstore::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        self.persist(deadline, call).await.map_err(|given_up| {
            let (what, found) = (what.to_owned(), given_up.verdict.text);
            match given_up.verdict.outcome {
                Outcome::NotDone | Outcome::Unknown => ReadError::Unavailable { what, found: self.whom(&found) },
                Outcome::Denied => ReadError::Denied { what, found },
                Outcome::Conflict | Outcome::Refused => ReadError::Refused { what, found },
            }
        })
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamPosition<u64>,
        max: usize,
        deadline: Instant,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let options = stream_options(from, max, self.credentials());
        self.persist_reading(stream.as_str(), deadline, |client| {
            let (options, stream) = (options.clone(), stream.0.clone());
            async move { read_stream(&client, &stream, &options).await }
        })
        .await
    }

    /// A page of the whole log, backwards from before `from`, or from the end.
    async fn read_all_back(
        &self,
        from: StreamPosition<eventstore::Position>,
        max: usize,
        deadline: Instant,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let mut options = ReadAllOptions::default().position(from).backwards().max_count(max);
        if let Some(credentials) = self.credentials() {
            options = options.authenticated(credentials);
        }
        self.persist_reading("$all", deadline, |client| {
            let options = options.clone();
            async move { drain(client.read_all(&options).await?).await }
        })
        .await
    }

    /// See [`EventLog::append`].
    async fn append(
        &self,
        stream: &StreamName,
        expected: Expected,
        events: &[NewEvent],
        deadline: Instant,
    ) -> Result<Appended, AppendError> {
        let refused = |found: String| AppendError::Refused { stream: stream.clone(), found };
        if events.is_empty() {
            return Err(refused("an append without events proves nothing".to_owned()));
        }
        let proposals =
            events.iter().map(proposed).collect::<Result<Vec<_>, _>>().map_err(|e| refused(format!("no JSON: {e}")))?;
        let mut options = AppendToStreamOptions::default().expected_revision(match expected {
            Expected::NoStream => ExpectedRevision::NoStream,
            Expected::Exact(revision) => ExpectedRevision::Exact(revision.0),
        });
        if let Some(credentials) = self.credentials() {
            options = options.authenticated(credentials);
        }
        let sent = self.persist(deadline, |client| {
            let (options, stream, proposals) = (options.clone(), stream.0.clone(), proposals.clone());
            async move { client.append_to_stream(stream, &options, proposals).await }
        });
        let given_up = match sent.await {
            Ok(written) => return Ok(Appended { last: Revision(written.next_expected_version) }),
            Err(given_up) => given_up,
        };
        let (stream, found) = (stream.clone(), given_up.verdict.text);
        match (given_up.verdict.outcome, given_up.unknown) {
            (Outcome::Conflict, unknown) => {
                // An earlier send, of this call or of one before it, may be what we collide with.
                let ids: Vec<Uuid> = events.iter().map(|e| e.id).collect();
                match (self.is_ours(&stream, expected, &ids, deadline).await, unknown) {
                    (Ok(Some(last)), _) => Ok(Appended { last }),
                    (Ok(None), _) | (Err(_), None) => Err(AppendError::Conflict { stream }),
                    (Err(e), Some(unknown)) => {
                        Err(AppendError::Unknown { stream, found: format!("{unknown}; then a conflict; then {e}") })
                    }
                }
            }
            (_, Some(unknown)) => {
                Err(AppendError::Unknown { stream, found: self.whom(&format!("{unknown}; last: {found}")) })
            }
            (Outcome::NotDone | Outcome::Unknown, None) => {
                Err(AppendError::Unavailable { stream, found: self.whom(&found) })
            }
            (Outcome::Denied, None) => Err(AppendError::Denied { stream, found }),
            (Outcome::Refused, None) => Err(AppendError::Refused { stream, found }),
        }
    }

    /// Changes a stream's metadata, keeping what it says otherwise; `change` says whether there is anything to write. Says whether it wrote.
    async fn change_metadata(
        &self,
        stream: &StreamName,
        change: impl FnOnce(&mut BTreeMap<String, Value>) -> bool,
    ) -> Result<bool, AppendError> {
        let deadline = Instant::now() + CALL_BUDGET;
        let metadata_stream = StreamName(format!("$${stream}"));
        let last = self.read_stream(&metadata_stream, StreamPosition::End, 1, deadline).await.map_err(|e| match e {
            ReadError::Unavailable { found, .. } => AppendError::Unavailable { stream: stream.clone(), found },
            ReadError::Denied { found, .. } => AppendError::Denied { stream: stream.clone(), found },
            ReadError::Refused { found, .. } => AppendError::Refused { stream: stream.clone(), found },
        })?;
        let last = last.into_iter().next();
        // Metadata that is no object means nothing to the server, so nothing of it is lost.
        let mut metadata: BTreeMap<String, Value> = match last.as_ref().map(|e| e.data.clone()) {
            Some(Value::Object(map)) => map.into_iter().collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) | None => {
                BTreeMap::new()
            }
        };
        if !change(&mut metadata) {
            return Ok(false);
        }
        let data = Value::Object(metadata.into_iter().collect());
        let revision = last.map(|e| e.revision);
        // Whoever sets the same at the same revision does the same: one id for all.
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{metadata_stream} {revision:?} {data}").as_bytes());
        let event = NewEvent { id, event_type: "$metadata".to_owned(), data, metadata: Value::Null };
        self.append(&metadata_stream, Expected::after(revision), &[event], deadline).await.map(|_| true)
    }

    /// Whether exactly these events follow `expected`: they are ours if their ids are, since ids hold our incarnation.
    async fn is_ours(
        &self,
        stream: &StreamName,
        expected: Expected,
        ids: &[Uuid],
        deadline: Instant,
    ) -> Result<Option<Revision>, ReadError> {
        let from = match expected {
            Expected::NoStream => 0,
            Expected::Exact(revision) => revision.next().0,
        };
        let found = self.read_stream(stream, StreamPosition::Position(from), ids.len(), deadline).await?;
        let same = found.len() == ids.len()
            && found.iter().zip(ids).zip(from..).all(|((e, id), at)| e.id == *id && e.revision == Revision(at));
        Ok(found.last().filter(|_| same).map(|e| e.revision))
    }
}

/// Adds a user to those who may read, in a stream's metadata; whether that changed it. Who could read without it, by the default for
/// system streams, still can.
fn admit_reader(metadata: &mut BTreeMap<String, Value>, user: &str) -> bool {
    let acl = metadata.entry("$acl".to_owned()).or_insert_with(|| Value::Object(Map::new()));
    if !acl.is_object() {
        *acl = Value::Object(Map::new());
    }
    let Value::Object(acl) = acl else { return false };
    let mut readers: Vec<String> = match acl.get("$r") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => vec!["$admins".to_owned()],
    };
    // `$all` in a list of roles is every user.
    if readers.iter().any(|r| r == user || r == "$all") {
        return false;
    }
    readers.push(user.to_owned());
    acl.insert("$r".to_owned(), Value::from(readers));
    true
}

fn out_of_time(last: Option<Verdict>, unknown: Option<String>) -> GivenUp {
    let verdict = last.unwrap_or_else(|| Verdict {
        outcome: Outcome::NotDone,
        renew: false,
        text: "no client could be made in time".to_owned(),
    });
    GivenUp { verdict, unknown }
}

/// Adds what is wrong with TLS or the user, if that was found meanwhile.
fn explained(mut given_up: GivenUp, diagnosis: &mut JoinSet<Option<String>>) -> GivenUp {
    if let Some(Ok(Some(found))) = diagnosis.try_join_next() {
        given_up.verdict.text = found;
    }
    given_up
}

pub(super) fn to_crate(credentials: &Credentials) -> eventstore::Credentials {
    eventstore::Credentials::new(credentials.user.clone(), credentials.password.clone())
}

/// Position first, direction last: a position at an end overrides an earlier direction.
pub(super) fn stream_options(
    from: StreamPosition<u64>,
    max: usize,
    credentials: Option<eventstore::Credentials>,
) -> ReadStreamOptions {
    let options = match from {
        StreamPosition::End => ReadStreamOptions::default().position(from).backwards(),
        StreamPosition::Start | StreamPosition::Position(_) => ReadStreamOptions::default().position(from).forwards(),
    };
    let options = options.max_count(max);
    match credentials {
        Some(credentials) => options.authenticated(credentials),
        None => options,
    }
}

/// Reads a stream to the end of what was asked for. A stream that does not exist is empty.
pub(super) async fn read_stream(
    client: &Client,
    stream: &str,
    options: &ReadStreamOptions,
) -> eventstore::Result<Vec<StoredEvent>> {
    // A status "not found" of the call itself is a not-leader answer that names no leader: that one is an error.
    let reading = client.read_stream(stream, options).await?;
    match drain(reading).await {
        Err(eventstore::Error::ResourceNotFound) => Ok(Vec::new()),
        other => other,
    }
}

async fn drain(mut reading: ReadStream) -> eventstore::Result<Vec<StoredEvent>> {
    let mut events = Vec::new();
    while let Some(event) = reading.next().await? {
        events.extend(stored(event));
    }
    Ok(events)
}

/// Brackets, colons and commas of JSON above which it is not read. Each may cost 200 bytes of memory, so that a page of events as large as
/// the store takes them would cost 10 GB. The plan of a cluster of four nodes has some 700.
const JSON_PARTS_MAX: usize = 10_000;

/// What JSON says, where it is JSON and can be held.
fn json(bytes: &[u8]) -> Option<Value> {
    let parts = bytes.iter().filter(|b| matches!(b, b'{' | b'[' | b':' | b',')).count();
    (parts <= JSON_PARTS_MAX).then(|| serde_json::from_slice(bytes).ok()).flatten()
}

/// The event as it stands in its place: a link as the link. `None` if the server sent neither. Data that cannot be held is as none.
pub(super) fn stored(event: ResolvedEvent) -> Option<StoredEvent> {
    let RecordedEvent {
        stream_id,
        id,
        revision,
        event_type,
        data,
        metadata,
        custom_metadata,
        is_json,
        position,
        created,
    } = event.link.or(event.event)?;
    let value = if is_json { json(&data) } else { None };
    // The crate drops the fraction; the server's 100-ns ticks have it.
    let ticks = metadata.get("created").and_then(|ticks| ticks.parse::<i128>().ok());
    let created = ticks
        .and_then(|ticks| jiff::Timestamp::from_nanosecond(ticks * 100).ok())
        .or_else(|| jiff::Timestamp::from_second(created.timestamp()).ok())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    Some(StoredEvent {
        stream: StreamName(stream_id),
        revision: Revision(revision),
        // The greatest number stands for "not said" in reads of a stream.
        position: (position.commit != u64::MAX)
            .then_some(Position { commit: position.commit, prepare: position.prepare }),
        id,
        event_type,
        is_json: value.is_some(),
        data: value.unwrap_or(Value::Null),
        metadata: json(&custom_metadata).unwrap_or(Value::Null),
        created,
    })
}

fn proposed(event: &NewEvent) -> Result<EventData, serde_json::Error> {
    let data = EventData::json(&event.event_type, &event.data)?.id(event.id);
    if event.metadata.is_null() { Ok(data) } else { data.metadata_as_json(&event.metadata) }
}

#[async_trait]
impl EventLog for EventStoreLog {
    async fn append(
        &self,
        stream: &StreamName,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        self.inner.append(stream, expected, &events, Instant::now() + CALL_BUDGET).await
    }

    async fn read(&self, stream: &StreamName, from: Revision, max: usize) -> Result<Vec<StoredEvent>, ReadError> {
        let deadline = Instant::now() + CALL_BUDGET;
        self.inner.read_stream(stream, StreamPosition::Position(from.0), max, deadline).await
    }

    async fn read_last(&self, stream: &StreamName) -> Result<Option<StoredEvent>, ReadError> {
        let deadline = Instant::now() + CALL_BUDGET;
        Ok(self.inner.read_stream(stream, StreamPosition::End, 1, deadline).await?.pop())
    }

    async fn end_of_log(&self) -> Result<Option<Position>, ReadError> {
        let deadline = Instant::now() + CALL_BUDGET;
        let last = self.inner.read_all_back(StreamPosition::End, 1, deadline).await?;
        match last.first() {
            None => Ok(None),
            Some(event) => event.position.map(Some).ok_or_else(|| ReadError::Refused {
                what: "$all".to_owned(),
                found: "an event without a position".to_owned(),
            }),
        }
    }

    /// Reads page by page. If time ends after the first page, what was found so far is the answer: the number says how far.
    async fn read_back(
        &self,
        prefixes: &[&str],
        max: usize,
        look_at_most: usize,
    ) -> Result<(Vec<StoredEvent>, usize), ReadError> {
        let deadline = Instant::now() + CALL_BUDGET;
        let mut found = Vec::new();
        let mut looked_at = 0;
        let mut before: Option<Position> = None;
        while found.len() < max && looked_at < look_at_most {
            let from = before.map_or(StreamPosition::End, |p| {
                StreamPosition::Position(eventstore::Position { commit: p.commit, prepare: p.prepare })
            });
            // One more than wanted, should the server include the position itself.
            let page = (look_at_most - looked_at).min(PAGE);
            let events = match self.inner.read_all_back(from, page + usize::from(before.is_some()), deadline).await {
                Ok(events) => events,
                Err(ReadError::Unavailable { .. }) if before.is_some() => break,
                Err(e) => return Err(e),
            };
            let earlier = |e: &StoredEvent| before.is_none_or(|b| e.position.is_some_and(|p| p < b));
            let fresh: Vec<StoredEvent> = events.into_iter().filter(earlier).take(page).collect();
            let Some(last) = fresh.last().and_then(|e| e.position) else { break };
            for event in fresh {
                looked_at += 1;
                if prefixes.iter().any(|p| event.stream.0.starts_with(p)) {
                    found.push(event);
                    if found.len() == max {
                        break;
                    }
                }
            }
            before = Some(last);
        }
        Ok((found, looked_at))
    }

    async fn subscribe(&self, from: StartFrom, prefixes: &[&str]) -> mpsc::Receiver<Feed> {
        subscription::start(self.inner.clone(), from, prefixes.iter().map(ToString::to_string).collect())
    }

    async fn set_max_count(&self, stream: &StreamName, max_count: u64) -> Result<bool, AppendError> {
        self.inner
            .change_metadata(stream, |metadata| {
                if metadata.get("$maxCount").and_then(Value::as_u64) == Some(max_count) {
                    return false;
                }
                metadata.insert("$maxCount".to_owned(), Value::from(max_count));
                true
            })
            .await
    }

    async fn let_read_all(&self, user: &str) -> Result<bool, AppendError> {
        self.inner.change_metadata(&StreamName::from("$all"), |metadata| admit_reader(metadata, user)).await
    }

    async fn read_everywhere(&self, stream: &StreamName) -> Vec<LocalRead> {
        everywhere::read(&self.inner, stream).await
    }

    async fn probe(&self) -> StoreProbe {
        everywhere::probe(&self.inner).await.probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_many_parts_is_not_read() {
        let of = |n: usize| format!("[{}]", vec!["{}"; n].join(","));
        assert!(json(of(JSON_PARTS_MAX / 2).as_bytes()).is_some_and(|v| v.is_array()));
        assert_eq!(json(of(JSON_PARTS_MAX / 2 + 1).as_bytes()), None);
        let long = format!("{{\"why\":\"{}\"}}", "x".repeat(1 << 20));
        assert!(json(long.as_bytes()).is_some(), "it is long, and has three parts");
        assert_eq!(json(b"{"), None);
    }
}
