//! Reading the store.

use crate::codec::decode;
use crate::domain::ids::{Revision, StreamName, UpdateId};
use crate::domain::time::Moment;
use crate::ports::{EventLog, ReadError, StoredEvent};
use crate::update::state::Recorded;

/// Events asked for at once.
const PAGE: usize = 500;

/// Events of one stream that this program is willing to hold: an update has a few hundred; more is no history but an attack.
const STREAM_MAX: usize = 50_000;

/// A stream from `from` on, page by page.
pub async fn read_all(log: &dyn EventLog, stream: &StreamName, from: Revision) -> Result<Vec<StoredEvent>, ReadError> {
    let mut events: Vec<StoredEvent> = Vec::new();
    let mut next = from;
    loop {
        let page = log.read(stream, next, PAGE).await?;
        let full = page.len() == PAGE;
        if let Some(last) = page.last() {
            next = last.revision.next();
        }
        events.extend(page);
        if events.len() > STREAM_MAX {
            return Err(ReadError::Refused {
                what: stream.to_string(),
                found: format!("more than {STREAM_MAX} events"),
            });
        }
        if !full {
            return Ok(events);
        }
    }
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
