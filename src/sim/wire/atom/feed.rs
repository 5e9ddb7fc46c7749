//! Feeds: pages of a stream or of `$all`, newest event first.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use uuid::Uuid;

use super::event::{Content, utf8};
use super::{ALL_PAGE, Asked, EmbedQuery, FOREVER, FRESH, Format, Refusal, STREAM, answer, json};
use super::{Node, PAGE};
use crate::sim::model::{AllStart, Direction, NotHandled, ReadOutcome, Record, StreamStart};
use crate::sim::wire::read::{LINK, linked, target};
use crate::sim::wire::users::ALL;

/// Events of a page, where no number is asked for.
const COUNT: u64 = 20;

/// How much of its event an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Embed {
    None,
    Content,
    Rich,
    Body,
    Pretty,
    TryHarder,
}

impl Embed {
    fn of(query: &EmbedQuery) -> Embed {
        match query.embed.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
            "content" => Embed::Content,
            "rich" => Embed::Rich,
            "body" => Embed::Body,
            "pretty" => Embed::Pretty,
            "tryharder" => Embed::TryHarder,
            _ => Embed::None,
        }
    }
}

/// A page in the order of its feed, and what leads on from it.
pub(super) struct Page {
    records: Vec<Record>,
    updated: Option<i64>,
    head: bool,
    /// Relation and address after the stream's own.
    links: Vec<(&'static str, String)>,
    tag: Option<String>,
    own_tag: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Author {
    name: &'static str,
}

impl Author {
    pub fn of(node: &Node) -> Author {
        Author { name: if node.version.at_least(25, 0) { "Kurrent" } else { "EventStore" } }
    }
}

#[derive(Serialize)]
pub(super) struct Link {
    uri: String,
    relation: &'static str,
    r#type: Option<&'static str>,
}

impl Link {
    pub fn new(relation: &'static str, uri: String) -> Link {
        Link { uri, relation, r#type: None }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Feed<'a> {
    title: String,
    id: String,
    updated: String,
    stream_id: Option<&'a str>,
    author: Author,
    head_of_stream: bool,
    self_url: Option<String>,
    e_tag: Option<String>,
    links: Vec<Link>,
    entries: Vec<Entry>,
}

/// An event in a feed, or alone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(flatten)]
    rich: Option<Rich>,
    title: String,
    id: String,
    updated: String,
    author: Author,
    summary: String,
    retry_count: Option<u32>,
    content: Option<Content>,
    links: Vec<Link>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rich {
    event_id: Uuid,
    event_type: String,
    event_number: u64,
    data: Option<String>,
    meta_data: Option<String>,
    link_meta_data: Option<String>,
    stream_id: String,
    is_json: bool,
    is_meta_data: bool,
    is_link_meta_data: bool,
    is_redacted: bool,
    position_event_number: u64,
    position_stream_id: String,
}

/// A moment as the server writes it.
pub(super) fn moment(ticks: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ticks) * 100).unwrap_or(jiff::Timestamp::MIN).to_string()
}

/// The moment of a feed without events: the beginning of the server's calendar.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Entry {
    /// An entry for this record; of a link, for what it leads to, if links are followed.
    pub fn of(asked: &Asked, record: &Record, resolves: bool, embed: Embed, alone: bool) -> Entry {
        let link = (resolves && record.event_type == LINK).then_some(record);
        let event = if link.is_some() { target(&asked.node, record) } else { Some(record.clone()) };
        let (number, stream) = match link {
            Some(link) => linked(link).unwrap_or((link.revision, &link.stream)),
            None => (record.revision, record.stream.as_str()),
        };
        let at = format!("{}/{number}", asked.stream_url(stream));
        let rich = event.as_ref().filter(|_| embed > Embed::Content).map(|event| Rich::of(event, record, embed));
        let content = event.as_ref().filter(|e| link.is_none() && (alone || embed == Embed::Content) && e.is_json);
        Entry {
            rich,
            title: format!("{number}@{stream}"),
            id: at.clone(),
            updated: moment(record.created_ticks),
            author: Author::of(&asked.node),
            summary: record.event_type.clone(),
            retry_count: None,
            content: content.map(Content::of),
            links: vec![Link::new("edit", at.clone()), Link::new("alternate", at)],
        }
    }
}

impl Rich {
    fn of(event: &Record, original: &Record, embed: Embed) -> Rich {
        let told = embed >= Embed::Body;
        let pretty = |text: String| {
            let object = embed >= Embed::Pretty && serde_json::from_str::<serde_json::Map<_, _>>(&text).is_ok();
            if object { json::indented(&text) } else { text }
        };
        let data = (told && (event.is_json || embed == Embed::TryHarder)).then(|| pretty(utf8(&event.data)));
        let text = |bytes: &[u8]| (told && !bytes.is_empty()).then(|| pretty(utf8(bytes)));
        let meta_data = text(&event.metadata);
        let link_meta_data =
            if std::ptr::eq(event, original) || event.id == original.id { None } else { text(&original.metadata) };
        Rich {
            event_id: event.id,
            event_type: event.event_type.clone(),
            event_number: event.revision,
            data,
            is_meta_data: meta_data.is_some(),
            is_link_meta_data: link_meta_data.is_some(),
            meta_data,
            link_meta_data,
            stream_id: event.stream.clone(),
            is_json: event.is_json,
            is_redacted: false,
            position_event_number: original.revision,
            position_stream_id: original.stream.clone(),
        }
    }
}

/// What a page starts at.
enum From {
    Head,
    At(String),
}

pub(super) async fn head(
    State(node): State<Node>,
    Path(stream): Path<String>,
    Query(query): Query<EmbedQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let methods = if stream == ALL { ALL_PAGE } else { STREAM };
    let mut asked = Asked { node, headers, uri, methods };
    let outcome = page(&mut asked, &stream, From::Head, None, Direction::Backwards, &query).await;
    asked.respond(outcome)
}

pub(super) async fn backward(
    State(node): State<Node>,
    Path((stream, from, count)): Path<(String, String, String)>,
    Query(query): Query<EmbedQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let mut asked = Asked { node, headers, uri, methods: PAGE };
    let from = if from == "head" { From::Head } else { From::At(from) };
    let outcome = page(&mut asked, &stream, from, Some(count), Direction::Backwards, &query).await;
    asked.respond(outcome)
}

pub(super) async fn forward(
    State(node): State<Node>,
    Path((stream, from, count)): Path<(String, String, String)>,
    Query(query): Query<EmbedQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let mut asked = Asked { node, headers, uri, methods: PAGE };
    let outcome = page(&mut asked, &stream, From::At(from), Some(count), Direction::Forwards, &query).await;
    asked.respond(outcome)
}

async fn page(
    asked: &mut Asked,
    stream: &str,
    from: From,
    count: Option<String>,
    direction: Direction,
    query: &EmbedQuery,
) -> Result<Response, Refusal> {
    let format = Format::of(&asked.headers)?;
    if format == Format::Description {
        return Ok(described(asked, stream));
    }
    let all = stream == ALL;
    let count = match count {
        None => COUNT,
        Some(text) => text.parse::<u32>().ok().filter(|n| *n > 0).map(u64::from).ok_or_else(|| {
            Refusal::Bad(if all {
                format!("Invalid count argument: {text}")
            } else {
                format!("'{text}' is not valid count. Should be positive integer")
            })
        })?,
    };
    if all && asked.methods == PAGE {
        asked.methods = ALL_PAGE;
    }
    let resolves = asked.flag("ResolveLinkTos", !all)?;
    let requires_leader = asked.requires_leader()?;
    let reader = Reader { asked, format, count, direction, requires_leader };
    let mut found = reader.read(stream, &from)?;
    if direction == Direction::Forwards && found.records.is_empty() {
        found = reader.poll(stream, &from, found).await?;
    }
    let (own, id) = (found.own_tag.take(), asked.stream_url(stream));
    let mut links = vec![Link::new("self", id.clone())];
    links.extend(found.links.into_iter().map(|(relation, path)| Link::new(relation, format!("{id}/{path}"))));
    links.push(Link::new("metadata", format!("{id}/metadata")));
    let embed = Embed::of(query);
    let feed = Feed {
        title: if all { "All events".to_owned() } else { format!("Event stream '{stream}'") },
        updated: found.updated.map_or_else(|| NEVER.to_owned(), moment),
        stream_id: (!all).then_some(stream),
        author: Author::of(&asked.node),
        head_of_stream: found.head,
        self_url: (!all && direction == Direction::Backwards).then(|| id.clone()),
        e_tag: own,
        id,
        links,
        entries: found.records.iter().map(|r| Entry::of(asked, r, resolves, embed, false)).collect(),
    };
    let cache = if found.tag.is_some() { FRESH } else { FOREVER };
    Ok(asked.found(format.content_type(), found.tag, cache, text(&feed)?))
}

/// JSON as the server prints it.
pub(super) fn text(value: &impl Serialize) -> Result<String, Refusal> {
    let compact = serde_json::to_string(value).map_err(|error| Refusal::Bad(error.to_string()))?;
    Ok(json::indented(&compact))
}

/// How a page is read.
struct Reader<'a> {
    asked: &'a Asked,
    format: Format,
    count: u64,
    direction: Direction,
    requires_leader: bool,
}

impl Reader<'_> {
    fn read(&self, stream: &str, from: &From) -> Result<Page, Refusal> {
        if stream == ALL { self.read_all(from) } else { self.read_stream(stream, from) }
    }

    /// Waits for events as long as the client wants to (`ES-LongPoll`, seconds).
    async fn poll(&self, stream: &str, from: &From, mut found: Page) -> Result<Page, Refusal> {
        let Some(given) = self.asked.header("longpoll") else { return Ok(found) };
        let seconds = given.parse::<u32>().ok().filter(|s| *s > 0).ok_or_else(|| self.asked.malformed("LongPoll"))?;
        let world = &self.asked.node.world;
        let wait = async {
            while found.records.is_empty() {
                let seen = world.with(|w| w.version());
                found = self.read(stream, from)?;
                if found.records.is_empty() {
                    world.changed(seen).await;
                }
            }
            Ok(())
        };
        match tokio::time::timeout(Duration::from_secs(seconds.into()), wait).await {
            Ok(Err(refusal)) => Err(refusal),
            Ok(Ok(())) | Err(_) => Ok(found),
        }
    }

    fn gone<T>(&self, outcome: ReadOutcome<T>) -> Result<T, Refusal> {
        match outcome {
            ReadOutcome::Found(page) => Ok(page),
            ReadOutcome::NoStream => Err(Refusal::Plain(StatusCode::NOT_FOUND)),
            ReadOutcome::StreamDeleted => Err(Refusal::Plain(StatusCode::GONE)),
            ReadOutcome::NotHandled(why) => Err(self.asked.not_handled(why)),
        }
    }

    fn read_stream(&self, stream: &str, from: &From) -> Result<Page, Refusal> {
        let start = match from {
            From::Head => None,
            From::At(text) => Some(
                text.parse::<u64>()
                    .ok()
                    .filter(|n| i64::try_from(*n).is_ok())
                    .ok_or_else(|| Refusal::Bad(format!("'{text}' is not valid event number")))?,
            ),
        };
        let at = start.map_or(StreamStart::End, StreamStart::Revision);
        let want = usize::try_from(self.count).unwrap_or(usize::MAX);
        let (node, direction) = (&self.asked.node, self.direction);
        let read = node.world.with(|w| w.read_stream(node.n, self.requires_leader, stream, at, direction, want));
        let page = self.gone(read)?;
        let tag = || self.format.tag(page.last);
        let count = self.count;
        let mut links = vec![("first", format!("head/backward/{count}"))];
        let older = |links: &mut Vec<_>, next: u64| {
            links.push(("last", format!("0/forward/{count}")));
            links.push(("next", format!("{next}/backward/{count}")));
        };
        let mut records = page.records;
        let updated;
        let (ends, full);
        match direction {
            Direction::Forwards => {
                let start = start.unwrap_or_default();
                // A page of numbers that have gone holds none of those that follow it.
                records.retain(|r| r.revision < start.saturating_add(count));
                ends = start.saturating_add(count) > page.last;
                full = !ends || start + count == page.last + 1;
                if let Some(next) = start.checked_sub(1) {
                    older(&mut links, next);
                }
                if !ends || !records.is_empty() {
                    let newer = (start + count - 1).min(page.last) + 1;
                    links.push(("previous", format!("{newer}/forward/{count}")));
                }
                updated = records.first().map(|r| r.created_ticks);
                records.reverse();
            }
            Direction::Backwards => {
                let from = start.unwrap_or(page.last);
                ends = start.is_none();
                full = start.is_some_and(|n| n <= page.last);
                if let Some(next) = from.checked_sub(count).filter(|next| *next >= page.first) {
                    older(&mut links, next);
                }
                links.push(("previous", format!("{}/forward/{count}", from.min(page.last) + 1)));
                updated = records.first().map(|r| r.created_ticks);
            }
        }
        let own_tag = (direction == Direction::Backwards && ends).then(|| tag().replace('"', ""));
        Ok(Page { records, updated, head: ends, links, tag: (!full).then(tag), own_tag })
    }

    fn read_all(&self, from: &From) -> Result<Page, Refusal> {
        let start = match from {
            From::Head => None,
            From::At(text) => {
                Some(position(text).ok_or_else(|| Refusal::Bad(format!("Invalid position argument: {text}")))?)
            }
        };
        let at = start.map_or(AllStart::End, AllStart::Position);
        let want = usize::try_from(self.count).unwrap_or(usize::MAX);
        let (node, direction, leader) = (&self.asked.node, self.direction, self.requires_leader);
        let (end, read) = node.world.with(|w| {
            let end = w.read_all(node.n, leader, AllStart::End, Direction::Forwards, None, 0, None);
            (end, w.read_all(node.n, leader, at, direction, None, want, None))
        });
        let (end, page) = (self.gone(end)?.next, self.gone(read)?);
        let start_at = start.unwrap_or(end);
        let full = match direction {
            Direction::Forwards => page.records.len() == want,
            Direction::Backwards => start.is_some_and(|p| p <= end),
        };
        let count = self.count;
        let mut links = vec![("first", format!("head/backward/{count}"))];
        let older = |links: &mut Vec<_>, next: u64| {
            links.push(("last", format!("{}/forward/{count}", shown(0))));
            links.push(("next", format!("{}/backward/{count}", shown(next))));
        };
        let mut records = page.records;
        let updated = match direction {
            Direction::Forwards => {
                if start_at != 0 {
                    older(&mut links, start_at);
                }
                if !page.end || !records.is_empty() {
                    links.push(("previous", format!("{}/forward/{count}", shown(page.next))));
                }
                records.reverse();
                records.first().map(|r| r.created_ticks)
            }
            Direction::Backwards => {
                if !page.end {
                    older(&mut links, page.next);
                }
                links.push(("previous", format!("{}/forward/{count}", shown(start_at))));
                records.first().map(|r| r.created_ticks)
            }
        };
        // The head of all is not told.
        Ok(Page { records, updated, head: false, links, tag: (!full).then(|| self.format.tag(end)), own_tag: None })
    }
}

/// A position as addresses have it: commit and prepare position, sixteen digits each.
fn shown(position: u64) -> String {
    format!("{position:016X}{position:016X}")
}

fn position(text: &str) -> Option<u64> {
    let (commit, prepare) = text.split_at_checked(16).filter(|(_, p)| p.len() == 16)?;
    let commit = u64::from_str_radix(commit, 16).ok()?;
    u64::from_str_radix(prepare, 16).ok()?;
    Some(commit)
}

/// Which formats there are: the answer to who asks for none.
fn described(asked: &Asked, stream: &str) -> Response {
    let named =
        asked.headers.get("accept").is_some_and(|a| a.as_bytes().starts_with(b"application/vnd.eventstore.streamdesc"));
    let path = format!("/streams/{}", percent_encoding::utf8_percent_encode(stream, super::NAME));
    let kind = |format: Format| format.content_type().split(';').next().unwrap_or_default();
    let body = serde_json::json!({
        "title": format!("Description document for '{stream}'"),
        "description": "The description document will be presented when no accept header is present or it was requested",
        "_links": {
            "self": {"href": path, "supportedContentTypes": [kind(Format::Description)]},
            "stream": {"href": path, "supportedContentTypes": [kind(Format::Atom), kind(Format::Json)]},
        },
    });
    let status = if named { StatusCode::OK } else { StatusCode::NOT_ACCEPTABLE };
    let body = json::indented(&body.to_string());
    answer(&asked.node.version, status, Some(asked.methods), Some(Format::Description.content_type()), body)
}

/// One event, by number or the last.
pub(super) fn one(asked: &Asked, stream: &str, number: Option<u64>) -> Result<Record, Refusal> {
    let node = &asked.node;
    let at = number.map_or(StreamStart::End, StreamStart::Revision);
    let leader = asked.requires_leader()?;
    let read = node.world.with(|w| w.read_stream(node.n, leader, stream, at, Direction::Backwards, 1));
    let missing = || Refusal::Plain(StatusCode::NOT_FOUND);
    match read {
        ReadOutcome::Found(page) => {
            page.records.into_iter().next().filter(|r| number.is_none_or(|n| n == r.revision)).ok_or_else(missing)
        }
        ReadOutcome::NoStream => Err(missing()),
        ReadOutcome::StreamDeleted => Err(Refusal::Plain(StatusCode::GONE)),
        ReadOutcome::NotHandled(why @ (NotHandled::NotReady | NotHandled::NotLeader(_) | NotHandled::NoLeaderInfo)) => {
            Err(asked.not_handled(why))
        }
    }
}
