//! The store of events.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::domain::ids::{Address, Revision, StreamName};

/// A position in the whole log (`$all`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Commit position, bytes.
    pub commit: u64,
    /// Prepare position, bytes.
    pub prepare: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C:{}/P:{}", self.commit, self.prepare)
    }
}

/// What an append demands of its stream. There is deliberately no "any": only these make a repeat safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The stream does not exist.
    NoStream,
    /// The stream's last event has this revision.
    Exact(Revision),
}

impl Expected {
    /// The demand that a stream still ends where it was read to.
    pub fn after(last: Option<Revision>) -> Self {
        last.map_or(Expected::NoStream, Expected::Exact)
    }
}

/// An event to append. The id is derived from the content, so that repeating an append repeats it to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Its id.
    pub id: Uuid,
    /// Its type.
    pub event_type: String,
    /// Its data, JSON.
    pub data: Value,
    /// Its metadata, JSON.
    pub metadata: Value,
}

/// An event as the store gave it. Data that is no JSON arrives as [`Value::Null`] with `is_json` false.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Its stream.
    pub stream: StreamName,
    /// Its number in the stream.
    pub revision: Revision,
    /// Its position in the whole log, where the store said it.
    pub position: Option<Position>,
    /// Its id.
    pub id: Uuid,
    /// Its type.
    pub event_type: String,
    /// Its data.
    pub data: Value,
    /// Its metadata; `Null` if there was none or it was no JSON.
    pub metadata: Value,
    /// Whether the data was JSON.
    pub is_json: bool,
    /// When the store wrote it (the store's calendar, perhaps in whole seconds).
    pub created: jiff::Timestamp,
}

/// An acknowledged append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Revision of the last event appended.
    pub last: Revision,
}

/// Why an append was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Somebody else wrote there first. Nothing of ours was written.
    #[error("the stream {stream} is not where it was expected")]
    Conflict {
        /// Which stream.
        stream: StreamName,
    },
    /// Nothing was written, for want of a leader or of a store that answers; trying again may help.
    #[error("the store does not take the append to {stream}: {found}")]
    Unavailable {
        /// Which stream.
        stream: StreamName,
        /// What the store said, or did not.
        found: String,
    },
    /// It may have been written or not. Sending the same again is safe and settles it.
    #[error("whether the append to {stream} was written is unknown: {found}")]
    Unknown {
        /// Which stream.
        stream: StreamName,
        /// What happened.
        found: String,
    },
    /// The user may not, or may not yet: a node that starts denies what it cannot look up. Rights may be given, and taken.
    #[error("the store denies the append to {stream}: {found}")]
    Denied {
        /// Which stream.
        stream: StreamName,
        /// What the store said.
        found: String,
    },
    /// The store refuses it for good: size, deleted stream.
    #[error("the store refuses the append to {stream}: {found}")]
    Refused {
        /// Which stream.
        stream: StreamName,
        /// What the store said.
        found: String,
    },
}

/// Why a read gave nothing. A stream that does not exist reads as empty, which is no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader, or no answer; trying again may help.
    #[error("the store does not answer the read of {what}: {found}")]
    Unavailable {
        /// What was read.
        what: String,
        /// What the store said, or did not.
        found: String,
    },
    /// The user may not, or may not yet: a node that starts denies what it cannot look up. Rights may be given, and taken.
    #[error("the store denies the read of {what}: {found}")]
    Denied {
        /// What was read.
        what: String,
        /// What the store said.
        found: String,
    },
    /// Refused for good: a deleted stream, or more than anybody is willing to hold.
    #[error("the store refuses the read of {what}: {found}")]
    Refused {
        /// What was read.
        what: String,
        /// What the store said.
        found: String,
    },
}

/// Where a subscription starts. Never "at the end": an event written while it reconnects would be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// The first event of the log.
    Beginning,
    /// The event after this position.
    After(Position),
}

/// What a subscription yields. It never ends by itself: the adapter makes it anew, from where it was, whatever fails.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// An event.
    Event(StoredEvent),
    /// Everything up to this position was looked at; what of it passes the filter has been yielded.
    Looked(Position),
    /// Everything that existed when the subscription was made (again) has been yielded.
    CaughtUp,
    /// The subscription broke and is being made anew; why.
    Reconnecting(String),
}

/// A stream as one node of the store holds it, read without asking for the leader.
#[derive(Clone, Debug)]
pub struct LocalRead {
    /// The node that answered.
    pub node: Address,
    /// The events of the stream there, from its beginning.
    pub events: Vec<StoredEvent>,
}

/// What the store's nodes say about themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreProbe {
    /// Voting nodes of the store, as configured or gossiped.
    pub voters: u32,
    /// Nodes that answered.
    pub answered: u32,
    /// Whether any node that answered reports a leader (its own state included).
    pub leader_reported: bool,
}

/// The store of events, reached through its leader unless said otherwise. Each call returns within a bounded time (about 5 s).
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends `events` in one transaction where the stream is as `expected`. Repeats itself safely while time is left.
    async fn append(
        &self,
        stream: &StreamName,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError>;

    /// Events of a stream from `from` on, at most `max`, asked of the leader. Empty if the stream does not exist.
    async fn read(&self, stream: &StreamName, from: Revision, max: usize) -> Result<Vec<StoredEvent>, ReadError>;

    /// The last event of a stream, asked of the leader.
    async fn read_last(&self, stream: &StreamName) -> Result<Option<StoredEvent>, ReadError>;

    /// The position of the last event of the whole log; `None` if it is empty.
    async fn end_of_log(&self) -> Result<Option<Position>, ReadError>;

    /// Up to `max` events of the whole log, backwards from its end, those of streams with one of `prefixes` only;
    /// stops after `look_at_most` events of any stream. Also says how many it looked at.
    async fn read_back(
        &self,
        prefixes: &[&str],
        max: usize,
        look_at_most: usize,
    ) -> Result<(Vec<StoredEvent>, usize), ReadError>;

    /// Subscribes to the whole log, filtered by stream name prefix. Drop the receiver to end it.
    async fn subscribe(&self, from: StartFrom, prefixes: &[&str]) -> mpsc::Receiver<Feed>;

    /// Sets `$maxCount` of a stream, if it is not so already. Says whether it wrote.
    async fn set_max_count(&self, stream: &StreamName, max_count: u64) -> Result<bool, AppendError>;

    /// Lets a user read the whole log, if it may not already: adds it to `$r` of the log's `$acl`. Says whether it wrote. Needs a member
    /// of `$admins` where the store has users.
    async fn let_read_all(&self, user: &str) -> Result<bool, AppendError>;

    /// The stream as each node that answers holds it, without asking for the leader. For the return ticket only.
    async fn read_everywhere(&self, stream: &StreamName) -> Vec<LocalRead>;

    /// Asks every known node of the store whether it sees a leader.
    async fn probe(&self) -> StoreProbe;
}
