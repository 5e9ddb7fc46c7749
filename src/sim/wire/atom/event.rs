//! One event.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::feed::{Embed, Entry, one, text};
use super::{Asked, FOREVER, FRESH, Format, Node, OF_METADATA, PAGE, Refusal, json};
use crate::sim::model::Record;
use crate::sim::wire::read::{LINK, target};
use crate::sim::wire::users::ALL;

/// An event's data as part of an entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Content {
    event_stream_id: String,
    event_number: u64,
    event_type: String,
    event_id: Uuid,
    data: Box<RawValue>,
    metadata: Box<RawValue>,
}

impl Content {
    pub fn of(record: &Record) -> Content {
        Content {
            event_stream_id: record.stream.clone(),
            event_number: record.revision,
            event_type: record.event_type.clone(),
            event_id: record.id,
            data: value(&record.data),
            metadata: value(&record.metadata),
        }
    }
}

/// JSON as it is; what is none, as text. Nobody looked at it when it was appended.
fn value(bytes: &[u8]) -> Box<RawValue> {
    let text = utf8(bytes);
    let quoted = || serde_json::value::to_raw_value(&text);
    RawValue::from_string(text.clone()).or_else(|_| quoted()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

pub(super) fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) async fn event(
    State(node): State<Node>,
    Path((stream, number)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let asked = Asked { node, headers, uri, methods: PAGE };
    let outcome = if stream == ALL {
        let sentence = "the simulated nodes have of $all over HTTP the pages alone: filter over gRPC";
        Err(Refusal::NotHere(StatusCode::NOT_IMPLEMENTED, sentence))
    } else {
        numbered(&number).and_then(|number| shown(&asked, &stream, number, true))
    };
    asked.respond(outcome)
}

pub(super) async fn metadata(
    State(node): State<Node>,
    Path(stream): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let asked = Asked { node, headers, uri, methods: OF_METADATA };
    let outcome = shown(&asked, &format!("$${stream}"), None, false);
    asked.respond(outcome)
}

/// The number of an event; none for the last.
fn numbered(text: &str) -> Result<Option<u64>, Refusal> {
    if text == "head" {
        return Ok(None);
    }
    let number = text.parse().ok().filter(|n| i64::try_from(*n).is_ok());
    number.map(Some).ok_or_else(|| Refusal::Bad(format!("'{text}' is not valid event number")))
}

fn shown(asked: &Asked, stream: &str, number: Option<u64>, resolves: bool) -> Result<Response, Refusal> {
    let format = Format::of(&asked.headers)?;
    let resolves = asked.flag("ResolveLinkTos", resolves)?;
    let record = one(asked, stream, number)?;
    let body = match format {
        Format::Atom => text(&Entry::of(asked, &record, resolves, Embed::None, true))?,
        Format::Json => {
            let event = if resolves && record.event_type == LINK { target(&asked.node, &record) } else { Some(record) };
            let event = event.ok_or(Refusal::Plain(StatusCode::NOT_FOUND))?;
            json::indented(value(&event.data).get())
        }
        Format::Description => {
            return Err(Refusal::NotHere(
                StatusCode::NOT_ACCEPTABLE,
                "the simulated nodes show an event in application/json and application/vnd.eventstore.atom+json",
            ));
        }
    };
    let cache = if number.is_some() { FOREVER } else { FRESH };
    Ok(asked.found(format.content_type(), None, cache, body))
}
