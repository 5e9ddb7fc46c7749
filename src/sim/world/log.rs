//! The log of one node: records shared between nodes, an index by stream, and what a read makes of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::filter::CompiledFilter;
use crate::domain::ids::ProcessId;
use crate::sim::model::{AllStart, Direction, ReadOutcome, Record, StreamPage, StreamStart};

/// Number of a tombstone in its stream, and the `$tb` of a softly deleted stream (`long.MaxValue`).
pub const DELETED: u64 = u64::MAX >> 1;
/// Stream of the epoch records: hidden from reads of `$all`.
pub const EPOCH_STREAM: &str = "$epoch-information";

/// A page of `$all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllPage {
    /// The records that match.
    pub records: Vec<Record>,
    /// Where the next page starts: forwards the position after the last record looked at, backwards that record's own.
    pub next: u64,
    /// How many records were looked at.
    pub looked: usize,
    /// Position of the last record looked at.
    pub last: Option<u64>,
    /// Whether the end (backwards: the beginning) was reached.
    pub end: bool,
}

/// An epoch: one reign, begun by a record in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    pub number: i32,
    pub id: Uuid,
    pub position: u64,
    pub leader: ProcessId,
}

/// A record, and the epoch that it begins if it is an epoch record.
#[derive(Debug)]
pub(super) struct Stored {
    pub record: Record,
    pub epoch: Option<Epoch>,
}

/// What the stream's metadata says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamRules {
    pub max_count: Option<u64>,
    pub max_age: Option<Duration>,
    pub truncate_before: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    records: Vec<Arc<Stored>>,
    streams: BTreeMap<String, Vec<usize>>,
    epochs: Vec<Epoch>,
}

impl Log {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes: the position at which the next record goes.
    pub fn end(&self) -> u64 {
        self.end_of(self.records.len())
    }

    /// Bytes of the first `len` records.
    pub fn end_of(&self, len: usize) -> u64 {
        len.min(self.records.len())
            .checked_sub(1)
            .map_or(0, |last| self.records[last].record.position + self.records[last].record.size)
    }

    pub fn get(&self, at: usize) -> Option<&Arc<Stored>> {
        self.records.get(at)
    }

    pub fn records(&self) -> &[Arc<Stored>] {
        &self.records
    }

    pub fn epoch(&self) -> Option<&Epoch> {
        self.epochs.last()
    }

    pub fn push(&mut self, stored: Arc<Stored>) {
        let at = self.records.len();
        match self.streams.get_mut(stored.record.stream.as_str()) {
            Some(list) => list.push(at),
            None => {
                self.streams.insert(stored.record.stream.clone(), vec![at]);
            }
        }
        self.epochs.extend(stored.epoch);
        self.records.push(stored);
    }

    /// Forgets all but the first `len` records.
    pub fn truncate(&mut self, len: usize) {
        while self.records.len() > len {
            let Some(gone) = self.records.pop() else { break };
            if gone.epoch.is_some() {
                self.epochs.pop();
            }
            if let Some(list) = self.streams.get_mut(gone.record.stream.as_str()) {
                list.pop();
                if list.is_empty() {
                    self.streams.remove(gone.record.stream.as_str());
                }
            }
        }
    }

    /// Number of records that this log and another have in common from the beginning. Logs that part never meet again.
    pub fn common(&self, other: &Log) -> usize {
        let (mut same, mut parted) = (0, self.len().min(other.len()) + 1);
        // Invariant: the first `same` records are common, the first `parted` are not (or do not exist).
        while parted - same > 1 {
            let middle = usize::midpoint(same, parted);
            if Arc::ptr_eq(&self.records[middle - 1], &other.records[middle - 1]) {
                same = middle;
            } else {
                parted = middle;
            }
        }
        same
    }

    /// Number of the last event of a stream, uncommitted ones included.
    pub fn last_revision(&self, stream: &str) -> Option<u64> {
        self.streams.get(stream).and_then(|list| list.last()).map(|&at| self.records[at].record.revision)
    }

    /// The event with this number and its index in the log.
    pub fn event(&self, stream: &str, revision: u64) -> Option<(usize, &Record)> {
        let list = self.streams.get(stream)?;
        let at = *list.get(usize::try_from(revision).ok()?)?;
        let record = &self.records[at].record;
        (record.revision == revision).then_some((at, record))
    }

    /// What the metadata of a stream says, as of the first `visible` records.
    pub fn rules(&self, stream: &str, visible: usize) -> StreamRules {
        if stream.starts_with("$$") {
            return StreamRules { max_count: Some(1), ..StreamRules::default() };
        }
        let newest = self.streams.get(&format!("$${stream}")).and_then(|list| {
            let known = list.partition_point(|&at| at < visible);
            known.checked_sub(1).map(|last| &self.records[list[last]].record)
        });
        let Some(Value::Object(meta)) = newest.and_then(|r| serde_json::from_slice::<Value>(&r.data).ok()) else {
            return StreamRules::default();
        };
        StreamRules {
            max_count: meta.get("$maxCount").and_then(Value::as_u64),
            max_age: meta.get("$maxAge").and_then(Value::as_u64).map(Duration::from_secs),
            truncate_before: meta.get("$tb").and_then(Value::as_u64),
        }
    }

    /// Whether the stream is softly deleted, uncommitted records included.
    pub fn is_soft_deleted(&self, stream: &str) -> bool {
        self.rules(stream, usize::MAX).truncate_before == Some(DELETED)
    }

    /// Reads a stream among the first `visible` records; `now_ticks` is the calendar, for `$maxAge`.
    pub fn read_stream(
        &self,
        visible: usize,
        now_ticks: i64,
        stream: &str,
        from: StreamStart,
        direction: Direction,
        max: usize,
    ) -> ReadOutcome<StreamPage> {
        let list = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let list = &list[..list.partition_point(|&at| at < visible)];
        let Some(&last_at) = list.last() else { return ReadOutcome::NoStream };
        let last = self.records[last_at].record.revision;
        if last == DELETED {
            return ReadOutcome::StreamDeleted;
        }
        let rules = self.rules(stream, visible);
        if rules.truncate_before == Some(DELETED) {
            return ReadOutcome::NoStream;
        }
        let mut first = rules.truncate_before.unwrap_or(0);
        if let Some(count) = rules.max_count {
            first = first.max((last + 1).saturating_sub(count));
        }
        if let Some(age) = rules.max_age {
            let oldest = now_ticks.saturating_sub(i64::try_from(age.as_nanos() / 100).unwrap_or(i64::MAX));
            first = first.max(list.partition_point(|&at| self.records[at].record.created_ticks < oldest) as u64);
        }
        let first = first.min(last + 1);
        // Numbers are indices: nothing is ever scavenged here.
        let range = |low: u64, high: u64| {
            (low..high).filter_map(|n| usize::try_from(n).ok()).map(|n| self.records[list[n]].record.clone())
        };
        let records = match direction {
            Direction::Forwards => {
                let low = match from {
                    StreamStart::Start => 0,
                    StreamStart::End => last + 1,
                    StreamStart::Revision(n) => n,
                };
                let low = low.max(first).min(last + 1);
                range(low, last + 1).take(max).collect()
            }
            Direction::Backwards => {
                let high = match from {
                    StreamStart::Start => 0,
                    StreamStart::End => last,
                    StreamStart::Revision(n) => n.min(last),
                };
                range(first, (high + 1).max(first)).rev().take(max).collect()
            }
        };
        ReadOutcome::Found(StreamPage { records, first, last })
    }

    /// Reads the log among its first `visible` records; looks at `max_search` records at most.
    pub fn read_all(
        &self,
        visible: usize,
        from: AllStart,
        direction: Direction,
        filter: Option<&CompiledFilter>,
        max: usize,
        max_search: Option<usize>,
    ) -> AllPage {
        let known = &self.records[..visible.min(self.records.len())];
        let at = |position: u64| known.partition_point(|s| s.record.position < position);
        let start = match from {
            AllStart::Start => 0,
            AllStart::End => known.len(),
            AllStart::Position(p) => at(p),
        };
        let mut page = AllPage { records: Vec::new(), next: 0, looked: 0, last: None, end: false };
        let full = |page: &AllPage| page.records.len() >= max || max_search.is_some_and(|most| page.looked >= most);
        let shown = |record: &Record| {
            record.stream != EPOCH_STREAM && filter.is_none_or(|f| f.matches(&record.stream, &record.event_type))
        };
        match direction {
            Direction::Forwards => {
                let mut i = start;
                while i < known.len() && !full(&page) {
                    let record = &known[i].record;
                    if shown(record) {
                        page.records.push(record.clone());
                    }
                    i += 1;
                    page.looked += 1;
                    page.last = Some(record.position);
                }
                page.end = i == known.len();
                page.next = match from {
                    AllStart::Position(p) if page.looked == 0 => p,
                    AllStart::Start | AllStart::End | AllStart::Position(_) => self.end_of(i),
                };
            }
            Direction::Backwards => {
                let mut i = start;
                while i > 0 && !full(&page) {
                    i -= 1;
                    let record = &known[i].record;
                    if shown(record) {
                        page.records.push(record.clone());
                    }
                    page.looked += 1;
                    page.last = Some(record.position);
                }
                page.end = i == 0;
                page.next = self.end_of(i);
            }
        }
        page
    }
}
