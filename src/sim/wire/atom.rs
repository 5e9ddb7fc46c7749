//! AtomPub: streams over plain HTTP, with which `curl` can append and read. Off unless it is asked for, as on a server. Of the server's
//! formats only those in JSON are here; what is asked for in XML is refused with a sentence.

mod event;
mod feed;
mod json;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, LOCATION, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{delete, get, post};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use uuid::Uuid;

use super::http::{answer, other_method};
use super::{MAX_APPEND_SIZE, Node};
use crate::sim::model::{ExpectedRevision, NotHandled, ProposedEvent, Write, WriteOutcome};

/// What `Uri.EscapeDataString` leaves as it is.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Type of an event that holds a stream's metadata.
const METADATA: &str = "$metadata";
const TEXT: &str = "text/plain; charset=utf-8";
const STREAM: &str = "POST, DELETE, GET, OPTIONS";
const PAGE: &str = "GET, OPTIONS";
const ALL_PAGE: &str = "GET, GET, OPTIONS";
const INCOMING: &str = "POST, OPTIONS";
const OF_METADATA: &str = "POST, GET, OPTIONS";
/// Not kept by caches.
const FRESH: &str = "max-age=0, no-cache, must-revalidate";
/// What can no longer change may be kept for a year.
const FOREVER: &str = "max-age=31536000, private";

/// The routes below `/streams`.
pub(super) fn router() -> Router<Node> {
    let others = |methods: &'static str| {
        move |State(node): State<Node>, method: Method| async move { other_method(&node, &method, methods) }
    };
    let stream = post(append).merge(delete(remove)).merge(get(feed::head));
    Router::new()
        .route("/streams/:stream", stream.fallback(others(STREAM)))
        .route("/streams/:stream/incoming/:id", post(append_incoming).fallback(others(INCOMING)))
        .route("/streams/:stream/metadata", post(append_metadata).get(event::metadata).fallback(others(OF_METADATA)))
        .route("/streams/:stream/:event", get(event::event).fallback(others(PAGE)))
        .route("/streams/:stream/:event/:count", get(feed::backward).fallback(others(PAGE)))
        .route("/streams/:stream/:event/backward/:count", get(feed::backward).fallback(others(PAGE)))
        .route("/streams/:stream/:event/forward/:count", get(feed::forward).fallback(others(PAGE)))
}

/// Why a request is not answered as wished.
enum Refusal {
    /// 400 with a sentence.
    Bad(String),
    /// A status without a body.
    Plain(StatusCode),
    /// Another node, or another address, is to be asked.
    Elsewhere(StatusCode, String),
    /// The stream's last event has this number, −1 if there is none.
    WrongVersion(i64),
    /// What the simulated nodes do not do.
    NotHere(StatusCode, &'static str),
}

/// A request as the handlers know it.
struct Asked {
    node: Node,
    headers: HeaderMap,
    uri: Uri,
    /// What `Access-Control-Allow-Methods` says at this address.
    methods: &'static str,
}

impl Asked {
    /// A header by its name without `ES-`, which from 25.0 on may be `Kurrent-`.
    fn header(&self, name: &str) -> Option<&str> {
        let newer = self.node.version.at_least(25, 0).then(|| self.headers.get(format!("kurrent-{name}"))).flatten();
        let value = newer.or_else(|| self.headers.get(format!("es-{name}")))?;
        value.to_str().ok().filter(|v| !v.is_empty())
    }

    fn prefix(&self) -> &'static str {
        if self.node.version.at_least(25, 0) { "Kurrent" } else { "ES" }
    }

    fn malformed(&self, name: &str) -> Refusal {
        Refusal::Bad(format!("{}-{name} header in wrong format.", self.prefix()))
    }

    /// A header that says true or false.
    fn flag(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        match self.header(&name.to_ascii_lowercase()) {
            None => Ok(default),
            Some(v) if v.eq_ignore_ascii_case("true") => Ok(true),
            Some(v) if v.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(self.malformed(name)),
        }
    }

    fn requires_leader(&self) -> Result<bool, Refusal> {
        let old = self.headers.get("es-requiremaster").is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"true"));
        Ok(self.flag("RequireLeader", false)? || old)
    }

    fn expected(&self) -> Result<ExpectedRevision, Refusal> {
        let Some(given) = self.header("expectedversion") else { return Ok(ExpectedRevision::Any) };
        match given.parse::<i64>() {
            Ok(-1) => Ok(ExpectedRevision::NoStream),
            Ok(-2) => Ok(ExpectedRevision::Any),
            Ok(-4) => Ok(ExpectedRevision::StreamExists),
            Ok(n) => u64::try_from(n).map(ExpectedRevision::Exact).map_err(|_| self.malformed("ExpectedVersion")),
            Err(_) => Err(self.malformed("ExpectedVersion")),
        }
    }

    /// `http://host:port`, as the client wrote it.
    fn base(&self) -> String {
        let scheme = if self.node.security.is_some() { "https" } else { "http" };
        let host = self.headers.get(HOST).and_then(|h| h.to_str().ok()).map(str::to_owned);
        let host = host.or_else(|| self.uri.authority().map(ToString::to_string));
        let host = host.unwrap_or_else(|| self.node.world.with(|w| w.address(self.node.n).to_string()));
        format!("{scheme}://{host}")
    }

    fn stream_url(&self, stream: &str) -> String {
        format!("{}/streams/{}", self.base(), utf8_percent_encode(stream, NAME))
    }

    /// What a node says that does not handle a request.
    fn not_handled(&self, why: NotHandled) -> Refusal {
        match why {
            NotHandled::NotReady => Refusal::Plain(StatusCode::SERVICE_UNAVAILABLE),
            NotHandled::NoLeaderInfo => Refusal::Plain(StatusCode::INTERNAL_SERVER_ERROR),
            NotHandled::NotLeader(leader) => {
                let (scheme, path) = (if self.node.security.is_some() { "https" } else { "http" }, &self.uri);
                let path = path.path_and_query().map_or("/", |p| p.as_str());
                Refusal::Elsewhere(StatusCode::TEMPORARY_REDIRECT, format!("{scheme}://{leader}{path}"))
            }
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        let say = |status, content_type, body: String| {
            answer(&self.node.version, status, Some(self.methods), Some(content_type), body)
        };
        match refusal {
            Refusal::Bad(sentence) => say(StatusCode::BAD_REQUEST, "text/plain", sentence),
            Refusal::Plain(status) => say(status, TEXT, String::new()),
            Refusal::NotHere(status, sentence) => say(status, TEXT, sentence.to_owned()),
            Refusal::Elsewhere(status, location) => {
                let mut response = say(status, TEXT, String::new());
                put(&mut response, LOCATION, &location);
                response
            }
            Refusal::WrongVersion(current) => {
                let mut response = say(StatusCode::BAD_REQUEST, TEXT, String::new());
                put(&mut response, HeaderName::from_static("es-currentversion"), &current.to_string());
                if self.node.version.at_least(25, 0) {
                    put(&mut response, HeaderName::from_static("kurrent-currentversion"), &current.to_string());
                }
                response
            }
        }
    }

    /// 200 with JSON. With a tag it is not kept, without one it never changes.
    fn found(&self, content_type: &'static str, tag: Option<String>, cache: &str, body: String) -> Response {
        let known = self.headers.get(IF_NONE_MATCH).and_then(|t| t.to_str().ok());
        if tag.is_some() && tag.as_deref() == known {
            return answer(&self.node.version, StatusCode::NOT_MODIFIED, Some(self.methods), Some(TEXT), Body::empty());
        }
        let mut response = answer(&self.node.version, StatusCode::OK, Some(self.methods), Some(content_type), body);
        put(&mut response, CACHE_CONTROL, cache);
        put(&mut response, VARY, "Accept");
        if let Some(tag) = tag {
            put(&mut response, ETAG, &tag);
        }
        response
    }

    fn respond(&self, outcome: Result<Response, Refusal>) -> Response {
        outcome.unwrap_or_else(|refusal| self.refuse(refusal))
    }
}

/// Sets a header to a value that comes from a request. One that no header can hold is left out.
fn put(response: &mut Response, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => {
            response.headers_mut().insert(name, value);
        }
        Err(error) => tracing::warn!(%error, %name, "a header is left out of an answer"),
    }
}

/// Content type of an append or an answer, without its parameters.
fn media_type(header: Option<&HeaderValue>) -> Option<String> {
    let text = header?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

async fn append(
    State(node): State<Node>,
    Path(stream): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let asked = Asked { node, headers, uri, methods: STREAM };
    let id = asked.header("eventid").map(|id| Uuid::parse_str(id).map_err(|_| asked.malformed("EventId"))).transpose();
    let outcome = match id {
        Ok(id) => write(&asked, &stream, id, None, &body).await,
        Err(refusal) => Err(refusal),
    };
    asked.respond(outcome)
}

async fn append_incoming(
    State(node): State<Node>,
    Path((stream, id)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let asked = Asked { node, headers, uri, methods: INCOMING };
    let outcome = match Uuid::parse_str(&id) {
        Ok(id) => write(&asked, &stream, Some(id), None, &body).await,
        Err(_) => Err(Refusal::Bad("Invalid request. Unable to parse guid".to_owned())),
    };
    asked.respond(outcome)
}

async fn append_metadata(
    State(node): State<Node>,
    Path(stream): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let asked = Asked { node, headers, uri, methods: OF_METADATA };
    let outcome = match asked.header("eventid").map(Uuid::parse_str).transpose() {
        Ok(id) => write(&asked, &format!("$${stream}"), id, Some(METADATA), &body).await,
        Err(_) => Err(asked.malformed("EventId")),
    };
    asked.respond(outcome)
}

/// Appends the events of a request.
async fn write(
    asked: &Asked,
    stream: &str,
    id: Option<Uuid>,
    event_type: Option<&str>,
    body: &Bytes,
) -> Result<Response, Refusal> {
    let media = media_type(asked.headers.get(CONTENT_TYPE));
    let events = match media.as_deref() {
        Some("application/vnd.eventstore.events+json") => json::events(body).map_err(Refusal::Bad)?,
        Some(single @ ("application/json" | "application/octet-stream")) => {
            let is_json = single == "application/json";
            match (event_type.or_else(|| asked.header("eventtype")), id) {
                (None, _) => {
                    let header = asked.prefix();
                    return Err(Refusal::Bad(format!(
                        "Must include an event type with the request either in body or as {header}-EventType header."
                    )));
                }
                // The client repeats the request at an address that makes it one that may be repeated.
                (Some(_), None) => return Err(incoming(asked, stream)),
                (Some(event_type), Some(id)) => {
                    let event_type = event_type.to_owned();
                    vec![ProposedEvent { id, event_type, is_json, data: body.to_vec(), metadata: Vec::new() }]
                }
            }
        }
        _ => {
            return Err(Refusal::NotHere(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the simulated nodes take application/json, application/octet-stream and application/vnd.eventstore.events+json",
            ));
        }
    };
    if events.is_empty() {
        return Err(Refusal::Bad("Write request body invalid.".to_owned()));
    }
    let size: usize = events.iter().map(|e| e.data.len() + e.metadata.len()).sum();
    if size > MAX_APPEND_SIZE as usize {
        return Err(Refusal::Plain(StatusCode::PAYLOAD_TOO_LARGE));
    }
    let count = events.len() as u64;
    let last = written(asked, stream, Write::Append(events)).await?;
    // The first of the events; a repeated append tells the same.
    let first = last.map_or(0, |last| (last + 1).saturating_sub(count));
    let mut response = answer(&asked.node.version, StatusCode::CREATED, Some(asked.methods), Some(TEXT), Body::empty());
    put(&mut response, LOCATION, &format!("{}/{first}", asked.stream_url(stream)));
    Ok(response)
}

/// Where a request without an event id is repeated.
#[expect(clippy::disallowed_methods, reason = "the server draws the id of an event that has none")]
fn incoming(asked: &Asked, stream: &str) -> Refusal {
    let at = format!("{}/incoming/{}", asked.stream_url(stream), Uuid::new_v4());
    Refusal::Elsewhere(StatusCode::TEMPORARY_REDIRECT, at)
}

/// Writes, and gives the number of the last event.
async fn written(asked: &Asked, stream: &str, write: Write) -> Result<Option<u64>, Refusal> {
    let expected = asked.expected()?;
    let requires_leader = asked.requires_leader()?;
    let node = &asked.node;
    let replica = node.world.with(|w| node.n >= w.config().voters);
    // A replica of a secure cluster forwards nothing: its users are no system user.
    let forwards = node.security.is_none() || !replica;
    match node.world.write(node.n, requires_leader || !forwards, stream, expected, write).await {
        WriteOutcome::Done { last_revision, .. } => Ok(last_revision),
        WriteOutcome::WrongExpectedVersion { current } => {
            Err(Refusal::WrongVersion(current.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX))))
        }
        WriteOutcome::StreamDeleted => Err(Refusal::Plain(StatusCode::GONE)),
        WriteOutcome::TooLarge => Err(Refusal::Plain(StatusCode::PAYLOAD_TOO_LARGE)),
        WriteOutcome::NotHandled(why) => Err(asked.not_handled(why)),
        WriteOutcome::TimedOut(_) => Err(Refusal::Plain(StatusCode::INTERNAL_SERVER_ERROR)),
    }
}

async fn remove(State(node): State<Node>, Path(stream): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    let asked = Asked { node, headers, uri, methods: STREAM };
    let outcome = async {
        let write = if asked.flag("HardDelete", false)? { Write::Tombstone } else { Write::Delete };
        written(&asked, &stream, write).await?;
        let status = StatusCode::NO_CONTENT;
        Ok(answer(&asked.node.version, status, Some(asked.methods), Some(TEXT), Body::empty()))
    };
    let outcome = outcome.await;
    asked.respond(outcome)
}

/// The formats of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `application/vnd.eventstore.atom+json`: feeds and entries.
    Atom,
    /// `application/json`: feeds, and of an event its data alone.
    Json,
    /// No format, or any: what formats there are.
    Description,
}

impl Format {
    fn of(headers: &HeaderMap) -> Result<Format, Refusal> {
        let Some(accept) = headers.get(ACCEPT).and_then(|a| a.to_str().ok()) else { return Ok(Format::Description) };
        let known =
            accept.split(',').find_map(|one| match media_type(HeaderValue::from_str(one).ok().as_ref())?.as_str() {
                "application/vnd.eventstore.atom+json" => Some(Format::Atom),
                "application/json" | "text/json" => Some(Format::Json),
                "application/vnd.eventstore.streamdesc+json" | "*/*" => Some(Format::Description),
                _ => None,
            });
        known.ok_or(Refusal::NotHere(
            StatusCode::NOT_ACCEPTABLE,
            "the simulated nodes answer in application/json and application/vnd.eventstore.atom+json",
        ))
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Atom => "application/vnd.eventstore.atom+json; charset=utf-8",
            Format::Json => "application/json; charset=utf-8",
            Format::Description => "application/vnd.eventstore.streamdesc+json; charset=utf-8",
        }
    }

    /// The tag of what has this number or position, in this format.
    fn tag(self, position: impl std::fmt::Display) -> String {
        // The server tags with a hash of the content type that differs from process to process.
        let kind = match self {
            Format::Atom => 1,
            Format::Json => 2,
            Format::Description => 3,
        };
        format!("\"{position};{kind}\"")
    }
}

#[derive(Deserialize)]
struct EmbedQuery {
    embed: Option<String>,
}
