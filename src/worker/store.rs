//! Reading the store.

use serde_json::Value;
use uuid::Uuid;

use crate::codec::decode;
use crate::domain::ids::{Revision, StreamName, UpdateId};
use crate::domain::time::Moment;
use crate::ports::{EventLog, ReadError, StoredEvent};
use crate::update::state::{Recorded, State};

/// Events asked for at once: the store takes up to 1 MiB each, and all of a page is held.
const PAGE: usize = 100;

/// Events of one stream that this program is willing to hold: an update has a few hundred; more is no history but an attack.
const STREAM_MAX: usize = 50_000;

/// Bytes of one stream that this program is willing to hold; a large update has less than one of them in a hundred.
const BYTES_MAX: usize = 64 << 20;

/// About how many bytes a value takes.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(text) => 32 + text.len(),
        Value::Array(items) => 32 + items.iter().map(weight).sum::<usize>(),
        Value::Object(map) => 32 + map.iter().map(|(key, value)| 32 + key.len() + weight(value)).sum::<usize>(),
    }
}

/// A stream from `from` on, page by page.
pub async fn read_all(log: &dyn EventLog, stream: &StreamName, from: Revision) -> Result<Vec<StoredEvent>, ReadError> {
    let mut events: Vec<StoredEvent> = Vec::new();
    let mut next = from;
    let mut bytes = 0;
    loop {
        let page = log.read(stream, next, PAGE).await?;
        let full = page.len() == PAGE;
        if let Some(last) = page.last() {
            next = last.revision.next();
        }
        bytes += page.iter().map(|e| weight(&e.data) + weight(&e.metadata)).sum::<usize>();
        events.extend(page);
        if events.len() > STREAM_MAX || bytes > BYTES_MAX {
            return Err(ReadError::Refused {
                what: stream.to_string(),
                found: format!("more than {STREAM_MAX} events, or {} MiB", BYTES_MAX >> 20),
            });
        }
        if !full {
            return Ok(events);
        }
    }
}

/// What is left of a history, however long it is.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// What it comes to.
    pub state: State,
    /// The id of its first event.
    pub first: Option<Uuid>,
}

/// Folds an update page by page: whoever floods its stream keeps nobody from bringing its node back.
pub(super) async fn fold_update(log: &dyn EventLog, update: UpdateId, seen: Moment) -> Result<Folded, ReadError> {
    let mut folded = Folded::default();
    loop {
        let Page { events, is_last } = read_page(log, update, folded.state.last_revision(), seen).await?;
        folded.first = folded.first.or(events.first().map(|first| first.id));
        events.iter().for_each(|recorded| folded.state.evolve(recorded));
        if is_last {
            return Ok(folded);
        }
    }
}

/// A part of a history.
pub(super) struct Page {
    /// Its events, in order.
    pub events: Vec<Recorded>,
    /// Whether nothing came after it.
    pub is_last: bool,
}

/// The next events of an update after the last that is known, as first seen at `seen`.
pub(super) async fn read_page(
    log: &dyn EventLog,
    update: UpdateId,
    last: Option<Revision>,
    seen: Moment,
) -> Result<Page, ReadError> {
    let page = log.read(&update.stream(), last.map_or(Revision(0), Revision::next), PAGE).await?;
    Ok(Page { events: page.iter().map(|e| decode(e, seen)).collect(), is_last: page.len() < PAGE })
}

/// The history of an update from `from` on, as first seen at `seen`.
pub async fn read_update(
    log: &dyn EventLog,
    update: UpdateId,
    from: Revision,
    seen: Moment,
) -> Result<Vec<Recorded>, ReadError> {
    Ok(read_all(log, &update.stream(), from).await?.iter().map(|e| decode(e, seen)).collect())
}
