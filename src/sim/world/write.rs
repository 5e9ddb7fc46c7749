//! Writes: what an expectation means, what is written, and when a client is told.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::log::{DELETED, Stored};
use super::{Event, World};
use crate::domain::cluster::NodeState;
use crate::sim::model::{ExpectedRevision, NodeIx, NotHandled, ProposedEvent, Record, Write, WriteOutcome};

/// How often the load of other clients is written.
pub(super) const LOAD_INTERVAL: Duration = Duration::from_millis(100);
/// `MaxAppendSize`.
const MAX_APPEND: usize = 1_048_576;
/// `CommitTimeoutMs`.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);
const COMMIT_PHASE: &str = "Commit phase timeout.";
const FORWARDING: &str = "Forwarding timeout";
const CANCELED: &str = "Request canceled by server";
/// Stream of the load.
const LOAD_STREAM: &str = "load-1";

/// A write whose outcome is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(u64);

/// What a write came to at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteStart {
    /// It ended.
    Now(WriteOutcome),
    /// Ask [`World::write_outcome`].
    Pending(WriteId),
}

#[derive(Clone, Debug)]
pub(super) struct PendingWrite {
    /// The node that the client asked.
    client: NodeIx,
    stage: Stage,
}

impl PendingWrite {
    /// How it ended, if it did.
    pub fn outcome(&self) -> Option<&WriteOutcome> {
        match &self.stage {
            Stage::Ended(outcome) => Some(outcome),
            Stage::Forwarded { .. } | Stage::Written { .. } => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Stage {
    /// On its way to the leader, or given up by it in silence.
    Forwarded {
        leader: NodeIx,
        request: Option<Request>,
    },
    /// In the leader's log, awaits a quorum.
    Written {
        leader: NodeIx,
        len: usize,
        since: Duration,
        outcome: WriteOutcome,
    },
    Ended(WriteOutcome),
}

#[derive(Clone, Debug)]
struct Request {
    stream: String,
    expected: ExpectedRevision,
    write: Write,
}

/// What the leader makes of a write.
enum Verdict {
    Ended(WriteOutcome),
    /// Done once so many records are committed.
    Written(usize, WriteOutcome),
}

/// Whether a stream is as expected.
enum Check {
    /// It is: the event after its last gets this number.
    Write { next: u64, undelete: bool },
    /// The same events were written before, with these last number, position and index.
    Again { last: u64, position: u64, at: usize },
    /// It is not.
    Refused(WriteOutcome),
}

/// Bytes that a record takes in the log.
pub(super) fn record_size(stream: &str, data: usize, metadata: usize) -> u64 {
    (data + metadata + 2 * stream.len() + 100) as u64
}

impl World {
    /// Writes, as one client request to node `n`.
    pub fn write(
        &mut self,
        n: NodeIx,
        requires_leader: bool,
        stream: &str,
        expected: ExpectedRevision,
        write: Write,
    ) -> WriteStart {
        let Some(p) = self.nodes[n].up() else { return not_handled(NotHandled::NotReady) };
        match p.state {
            // It awaits its volume, and the client gives up.
            NodeState::Leader if self.nodes[n].volume_hangs => {
                let write = self.pend(n, Stage::Forwarded { leader: n, request: None });
                self.schedule(COMMIT_TIMEOUT, Event::ForwardTimesOut { write });
                WriteStart::Pending(write)
            }
            NodeState::Leader => match self.write_at_leader(n, stream, expected, write) {
                Verdict::Ended(outcome) => WriteStart::Now(outcome),
                Verdict::Written(len, outcome) => {
                    let stage = Stage::Written { leader: n, len, since: self.now, outcome };
                    let id = self.pend(n, stage);
                    self.complete_writes(n);
                    WriteStart::Pending(id)
                }
            },
            NodeState::PreReplica
            | NodeState::CatchingUp
            | NodeState::Clone
            | NodeState::Follower
            | NodeState::PreReadOnlyReplica
            | NodeState::ReadOnlyReplica
                if requires_leader =>
            {
                not_handled(self.not_leader(p))
            }
            NodeState::ReadOnlyLeaderless if requires_leader => {
                not_handled(NotHandled::NotLeader(self.nodes[n].address.clone()))
            }
            NodeState::PreReplica
            | NodeState::CatchingUp
            | NodeState::Clone
            | NodeState::Follower
            | NodeState::PreReadOnlyReplica
            | NodeState::ReadOnlyReplica
            | NodeState::ReadOnlyLeaderless => {
                // Without users everybody is the system user, whose writes replicas forward as well.
                let leader = p.leader.map_or(n, |(leader, _)| leader);
                let request = Some(Request { stream: stream.to_owned(), expected, write });
                let write = self.pend(n, Stage::Forwarded { leader, request });
                if leader != n {
                    let delay = self.random.latency.micros(300, 1500);
                    self.schedule(delay, Event::ForwardArrives { write });
                }
                let delay = self.random.latency.millis(4300, 4700);
                self.schedule(delay, Event::ForwardTimesOut { write });
                WriteStart::Pending(write)
            }
            NodeState::Initializing
            | NodeState::DiscoverLeader
            | NodeState::Unknown
            | NodeState::PreLeader
            | NodeState::ResigningLeader
            | NodeState::Manager
            | NodeState::ShuttingDown
            | NodeState::Shutdown
            | NodeState::Unrecognized => not_handled(NotHandled::NotReady),
        }
    }

    /// The outcome of a write that was pending; `None` while it still is. It is forgotten once it was given.
    pub fn write_outcome(&mut self, id: WriteId) -> Option<WriteOutcome> {
        let pending = self.writes.get(&id)?;
        if self.nodes[pending.client].frozen {
            return None;
        }
        let outcome = pending.outcome()?.clone();
        self.writes.remove(&id);
        Some(outcome)
    }

    fn pend(&mut self, client: NodeIx, stage: Stage) -> WriteId {
        self.written += 1;
        let id = WriteId(self.written);
        self.writes.insert(id, PendingWrite { client, stage });
        id
    }

    /// The node that a forwarded write is on its way to.
    pub(super) fn forwarded_to(&self, write: WriteId) -> Option<NodeIx> {
        match self.writes.get(&write)?.stage {
            Stage::Forwarded { leader, .. } => Some(leader),
            Stage::Written { .. } | Stage::Ended(_) => None,
        }
    }

    pub(super) fn forward_arrives(&mut self, write: WriteId) {
        let Some(PendingWrite { stage: Stage::Forwarded { leader, request }, .. }) = self.writes.get_mut(&write) else {
            return;
        };
        let (leader, request) = (*leader, request.take());
        let Some(request) = request else { return };
        if self.own_state(leader) != NodeState::Leader || self.nodes[leader].volume_hangs {
            // Nobody answers: the forwarding node waits until its time is over.
            return;
        }
        let stage = match self.write_at_leader(leader, &request.stream, request.expected, request.write) {
            Verdict::Ended(outcome) => Stage::Ended(outcome),
            Verdict::Written(len, outcome) => Stage::Written { leader, len, since: self.now, outcome },
        };
        if let Some(pending) = self.writes.get_mut(&write) {
            pending.stage = stage;
        }
        self.touch();
        self.complete_writes(leader);
    }

    pub(super) fn forward_times_out(&mut self, write: WriteId) {
        if let Some(pending) = self.writes.get_mut(&write)
            && !matches!(pending.stage, Stage::Ended(_))
        {
            pending.stage = Stage::Ended(WriteOutcome::TimedOut(FORWARDING));
            self.touch();
        }
    }

    /// Tells who waits for what is committed now.
    pub(super) fn complete_writes(&mut self, n: NodeIx) {
        let committed = self.nodes[n].committed;
        let mut some = false;
        for pending in self.writes.values_mut() {
            if let Stage::Written { leader, len, outcome, .. } = &pending.stage
                && *leader == n
                && *len <= committed
            {
                pending.stage = Stage::Ended(outcome.clone());
                some = true;
            }
        }
        if some {
            self.touch();
        }
    }

    /// Ends the writes that have waited too long for a quorum.
    pub(super) fn expire_writes(&mut self, n: NodeIx) {
        let now = self.now;
        let mut some = false;
        for pending in self.writes.values_mut() {
            if let Stage::Written { leader, since, .. } = pending.stage
                && leader == n
                && now.saturating_sub(since) >= COMMIT_TIMEOUT
            {
                pending.stage = Stage::Ended(WriteOutcome::TimedOut(COMMIT_PHASE));
                some = true;
            }
        }
        if some {
            self.touch();
        }
    }

    /// A leader stops leading: what was in flight is cancelled, though it may yet be replicated.
    pub(super) fn cancel_writes(&mut self, n: NodeIx) {
        for pending in self.writes.values_mut() {
            if let Stage::Written { leader, .. } = pending.stage
                && leader == n
            {
                pending.stage = if pending.client == n {
                    Stage::Ended(WriteOutcome::TimedOut(CANCELED))
                } else {
                    // Its own client hears nothing; the forwarding node waits on.
                    Stage::Forwarded { leader, request: None }
                };
            }
        }
        self.touch();
    }

    /// A process is gone, and the connections of its clients with it.
    pub(super) fn end_writes_of(&mut self, n: NodeIx) {
        for pending in self.writes.values_mut() {
            if pending.client == n && !matches!(pending.stage, Stage::Ended(_)) {
                pending.stage = Stage::Ended(WriteOutcome::TimedOut(CANCELED));
            }
        }
    }

    fn write_at_leader(&mut self, n: NodeIx, stream: &str, expected: ExpectedRevision, write: Write) -> Verdict {
        match write {
            Write::Append(events) => self.write_events(n, stream, expected, &events),
            Write::Delete => self.write_delete(n, stream, expected),
            Write::Tombstone => self.write_tombstone(n, stream, expected),
        }
    }

    fn write_events(
        &mut self,
        n: NodeIx,
        stream: &str,
        expected: ExpectedRevision,
        events: &[ProposedEvent],
    ) -> Verdict {
        let bytes: usize = events.iter().map(|e| e.data.len() + e.metadata.len()).sum();
        if bytes > MAX_APPEND {
            return Verdict::Ended(WriteOutcome::TooLarge);
        }
        let (next, undelete) = match self.check(n, stream, expected, events) {
            Check::Write { next, undelete } => (next, undelete),
            Check::Again { last, position, at } => {
                return Verdict::Written(at + 1, WriteOutcome::Done { last_revision: Some(last), position });
            }
            Check::Refused(outcome) => return Verdict::Ended(outcome),
        };
        if events.is_empty() {
            let position = self.nodes[n].log.end();
            return Verdict::Ended(WriteOutcome::Done { last_revision: next.checked_sub(1), position });
        }
        if undelete {
            self.write_metadata(n, stream, json!({ "$tb": next }));
        }
        let mut position = 0;
        for (event, revision) in events.iter().zip(next..) {
            position = self.write_record(n, stream, revision, event, 0);
            if let Some(p) = &mut self.nodes[n].process {
                p.ids.insert(event.id, stream, revision);
            }
        }
        let last = next + events.len() as u64 - 1;
        Verdict::Written(self.nodes[n].log.len(), WriteOutcome::Done { last_revision: Some(last), position })
    }

    /// Compares a stream with what is expected of it (`IndexWriter.CheckCommit`).
    fn check(&self, n: NodeIx, stream: &str, expected: ExpectedRevision, events: &[ProposedEvent]) -> Check {
        let log = &self.nodes[n].log;
        let current = log.last_revision(stream);
        if current == Some(DELETED) {
            return Check::Refused(WriteOutcome::StreamDeleted);
        }
        let wrong = || Check::Refused(WriteOutcome::WrongExpectedVersion { current });
        let deleted = log.is_soft_deleted(stream);
        let next = current.map_or(0, |c| c + 1);
        let write = Check::Write { next, undelete: deleted };
        match expected {
            ExpectedRevision::StreamExists if deleted => Check::Refused(WriteOutcome::StreamDeleted),
            ExpectedRevision::Any | ExpectedRevision::NoStream if deleted => write,
            ExpectedRevision::StreamExists if current.is_none() => wrong(),
            ExpectedRevision::Any | ExpectedRevision::StreamExists => {
                self.check_ids(n, stream, events).unwrap_or(write)
            }
            ExpectedRevision::NoStream if current.is_none() => write,
            ExpectedRevision::Exact(e) if current == Some(e) => write,
            ExpectedRevision::Exact(e) if current.is_none_or(|c| e > c) => wrong(),
            ExpectedRevision::NoStream | ExpectedRevision::Exact(_) if events.is_empty() => wrong(),
            ExpectedRevision::NoStream => self.check_again(n, stream, 0, events).unwrap_or_else(wrong),
            ExpectedRevision::Exact(e) => self.check_again(n, stream, e + 1, events).unwrap_or_else(wrong),
        }
    }

    /// Whether the stream holds exactly these events from `first` on.
    fn check_again(&self, n: NodeIx, stream: &str, first: u64, events: &[ProposedEvent]) -> Option<Check> {
        let log = &self.nodes[n].log;
        let mut found = None;
        for (event, revision) in events.iter().zip(first..) {
            let (at, record) = log.event(stream, revision).filter(|(_, r)| r.id == event.id)?;
            found = Some(Check::Again { last: revision, position: record.position, at });
        }
        found
    }

    /// Whether these events were written of late, by id. `None`: they were not.
    fn check_ids(&self, n: NodeIx, stream: &str, events: &[ProposedEvent]) -> Option<Check> {
        let ids = &self.nodes[n].process.as_ref()?.ids;
        let mut known = events.iter().map(|e| ids.revision(&e.id, stream));
        known.next()??;
        if events.iter().any(|e| ids.revision(&e.id, stream).is_none()) {
            let current = self.nodes[n].log.last_revision(stream);
            return Some(Check::Refused(WriteOutcome::WrongExpectedVersion { current }));
        }
        let last = events.last().and_then(|e| ids.revision(&e.id, stream))?;
        let (at, record) = self.nodes[n].log.event(stream, last)?;
        Some(Check::Again { last, position: record.position, at })
    }

    fn write_delete(&mut self, n: NodeIx, stream: &str, expected: ExpectedRevision) -> Verdict {
        let log = &self.nodes[n].log;
        let current = log.last_revision(stream);
        if current.is_none() && log.last_revision(&format!("$${stream}")).is_none() {
            return Verdict::Ended(WriteOutcome::WrongExpectedVersion { current });
        }
        if let Some(outcome) = self.check_no_events(n, stream, expected) {
            return Verdict::Ended(outcome);
        }
        let position = self.write_metadata(n, stream, json!({ "$tb": DELETED }));
        Verdict::Written(self.nodes[n].log.len(), WriteOutcome::Done { last_revision: current, position })
    }

    fn write_tombstone(&mut self, n: NodeIx, stream: &str, expected: ExpectedRevision) -> Verdict {
        if let Some(outcome) = self.check_no_events(n, stream, expected) {
            return Verdict::Ended(outcome);
        }
        let event = ProposedEvent {
            id: self.random.ids.uuid(),
            event_type: "$streamDeleted".to_owned(),
            is_json: false,
            data: Vec::new(),
            metadata: Vec::new(),
        };
        let position = self.write_record(n, stream, DELETED, &event, 0);
        Verdict::Written(self.nodes[n].log.len(), WriteOutcome::Done { last_revision: Some(DELETED), position })
    }

    /// What refuses a write that has no events of its own.
    fn check_no_events(&self, n: NodeIx, stream: &str, expected: ExpectedRevision) -> Option<WriteOutcome> {
        match self.check(n, stream, expected, &[]) {
            Check::Refused(outcome) => Some(outcome),
            Check::Write { .. } | Check::Again { .. } => None,
        }
    }

    fn write_metadata(&mut self, n: NodeIx, stream: &str, content: Value) -> u64 {
        let metastream = format!("$${stream}");
        let revision = self.nodes[n].log.last_revision(&metastream).map_or(0, |r| r + 1);
        let event = ProposedEvent {
            id: self.random.ids.uuid(),
            event_type: "$metadata".to_owned(),
            is_json: true,
            data: content.to_string().into_bytes(),
            metadata: Vec::new(),
        };
        self.write_record(n, &metastream, revision, &event, 0)
    }

    /// Appends one record that takes `more` bytes beyond its content, and says its position.
    fn write_record(&mut self, n: NodeIx, stream: &str, revision: u64, event: &ProposedEvent, more: u64) -> u64 {
        let position = self.nodes[n].log.end();
        let record = Record {
            position,
            size: record_size(stream, event.data.len(), event.metadata.len()) + more,
            stream: stream.to_owned(),
            revision,
            id: event.id,
            event_type: event.event_type.clone(),
            is_json: event.is_json,
            data: event.data.clone(),
            metadata: event.metadata.clone(),
            created_ticks: self.ticks(),
        };
        self.append(n, Arc::new(Stored { record, epoch: None }));
        position
    }

    /// Writes one record that takes `bytes` in the log, as another client would.
    fn write_filler(&mut self, n: NodeIx, bytes: u64) {
        let revision = self.nodes[n].log.last_revision(LOAD_STREAM).map_or(0, |r| r + 1);
        let id: Uuid = self.random.ids.uuid();
        let data = Value::Object(Map::new()).to_string().into_bytes();
        let event =
            ProposedEvent { id, event_type: "loadWritten".to_owned(), is_json: true, data, metadata: Vec::new() };
        let more = bytes.saturating_sub(record_size(LOAD_STREAM, event.data.len(), 0));
        self.write_record(n, LOAD_STREAM, revision, &event, more);
    }

    /// The load of other clients, as long as somebody leads.
    pub(super) fn load(&mut self) {
        let leader = self.leader().filter(|&n| !self.nodes[n].frozen && !self.nodes[n].volume_hangs);
        if let Some(n) = leader {
            let bytes = self.config.load_bytes_per_second / 10;
            self.write_filler(n, bytes);
        }
        self.schedule(LOAD_INTERVAL, Event::Load);
    }

    /// The log that exists at the start: pieces small enough that fetching it shows progress.
    pub(super) fn write_initial_log(&mut self, n: NodeIx) {
        let mut left = self.config.initial_log_bytes;
        let piece = (left / 256).max(4 << 20);
        while left > 0 {
            let bytes = left.min(piece);
            self.write_filler(n, bytes);
            left -= bytes;
        }
    }
}

fn not_handled(why: NotHandled) -> WriteStart {
    WriteStart::Now(WriteOutcome::NotHandled(why))
}
