//! Reading: pages of a stream or of `$all`, and subscriptions to them. One request serves both.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::Status;
use uuid::Uuid;

use super::proto::event_store::client::AllStreamPosition;
use super::proto::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, FilterOptions, ReadDirection, StreamOption, StreamOptions, all_options,
    filter_options, stream_options, uuid_option,
};
use super::proto::streams::read_resp::read_event::{Position, RecordedEvent};
use super::proto::streams::read_resp::{
    CaughtUp, Checkpoint, Content, ReadEvent, StreamNotFound, SubscriptionConfirmation,
};
use super::proto::streams::{ReadResp, read_req};
use super::streams::{stream_identifier, stream_name, structured, text};
use super::users::{ALL, Caller, Right};
use super::{Node, status};
use crate::sim::model::{AllStart, Direction, Filter, NotHandled, Reachability, ReadOutcome, Record, StreamStart};
use crate::sim::world::CompiledFilter;

/// The messages of one call.
pub(super) type Responses = Pin<Box<dyn Stream<Item = Result<ReadResp, Status>> + Send>>;

/// Events of a page, as the server reads them.
const PAGE: u64 = 32;
/// Records that one look at `$all` goes over while it filters.
const SEARCH: usize = 2048;
/// Type of a link: its data is `number@stream`.
pub(super) const LINK: &str = "$>";

/// Answers a read. Errors of the first page are the answer; later ones come in the stream.
pub(super) fn read(
    node: &Node,
    caller: &Caller,
    requires_leader: bool,
    options: read_req::Options,
) -> Result<Responses, Status> {
    match &options.stream_option {
        Some(StreamOption::Stream(stream)) => {
            node.authorize(caller, Right::Read, &stream_name(stream.stream_identifier.clone())?)?;
        }
        Some(StreamOption::All(_)) => node.authorize(caller, Right::Read, ALL)?,
        None => {}
    }
    let form = Form::of(node, &options)?;
    let direction = match options.read_direction() {
        ReadDirection::Forwards => Direction::Forwards,
        ReadDirection::Backwards => Direction::Backwards,
    };
    let compatibility = options.control_option.map_or(0, |c| c.compatibility);
    let combination = format!(
        "The combination of ({}, {}, {:?}, {}) is invalid.",
        options.stream_option.as_ref().map_or("None", |o| match o {
            StreamOption::Stream(_) => "Stream",
            StreamOption::All(_) => "All",
        }),
        options.count_option.as_ref().map_or("None", |o| match o {
            CountOption::Count(_) => "Count",
            CountOption::Subscription(_) => "Subscription",
        }),
        direction,
        options.filter_option.as_ref().map_or("None", |o| match o {
            FilterOption::Filter(_) => "Filter",
            FilterOption::NoFilter(()) => "NoFilter",
        }),
    );
    match (options.stream_option, options.count_option, options.filter_option) {
        (Some(StreamOption::Stream(stream)), Some(CountOption::Count(count)), Some(FilterOption::NoFilter(()))) => {
            let (stream, from) = stream_start(stream)?;
            let node = node.clone();
            pages(StreamPages {
                node,
                form,
                requires_leader,
                stream,
                from,
                direction,
                left: count,
                compatibility,
                first: true,
            })
        }
        (Some(StreamOption::All(all)), Some(CountOption::Count(count)), Some(filter)) => {
            let filter = compiled(filter)?.map(|(filter, _)| filter);
            let from = all_start(&all)?;
            pages(AllPages { node: node.clone(), form, requires_leader, from, direction, filter, left: count })
        }
        (Some(StreamOption::Stream(stream)), Some(CountOption::Subscription(_)), Some(FilterOption::NoFilter(())))
            if direction == Direction::Forwards =>
        {
            let (stream, from) = stream_start(stream)?;
            let next = match from {
                StreamStart::Start => 0,
                StreamStart::Revision(n) => n.saturating_add(1),
                StreamStart::End => after_last(node, &stream)?,
            };
            let source = Source::Stream { name: stream, next };
            Subscription::open(node, form, requires_leader, source, from == StreamStart::End)
        }
        (Some(StreamOption::All(all)), Some(CountOption::Subscription(_)), Some(filter))
            if direction == Direction::Forwards =>
        {
            let window = compiled(filter)?;
            if window.as_ref().is_some_and(|(_, interval)| *interval == 0) {
                return Err(status::handler_threw());
            }
            let from = all_start(&all)?;
            let (next, after) = match from {
                AllStart::Start => (0, None),
                AllStart::Position(p) => (p, Some(p)),
                AllStart::End => (end_of_log(node)?, None),
            };
            let filter = window.map(|(filter, interval)| Window { filter, interval, considered: 0 });
            Subscription::open(node, form, requires_leader, Source::All { next, after, filter }, from == AllStart::End)
        }
        _ => Err(Status::invalid_argument(combination)),
    }
}

/// How events are written into responses.
#[derive(Clone, Copy, Debug)]
struct Form {
    structured: bool,
    resolve_links: bool,
}

impl Form {
    fn of(node: &Node, options: &read_req::Options) -> Result<Form, Status> {
        let structured = match options.uuid_option.as_ref().and_then(|o| o.content.as_ref()) {
            Some(uuid_option::Content::Structured(())) => true,
            Some(uuid_option::Content::String(())) => false,
            None if node.version.at_least(24, 10) => {
                return Err(status::not_valid("None", "UUIDOption.ContentOneofCase"));
            }
            None => false,
        };
        Ok(Form { structured, resolve_links: options.resolve_links })
    }

    fn recorded(self, record: &Record) -> RecordedEvent {
        let content_type = if record.is_json { "application/json" } else { "application/octet-stream" };
        RecordedEvent {
            id: Some(if self.structured { structured(record.id) } else { text(record.id) }),
            stream_identifier: Some(stream_identifier(&record.stream)),
            stream_revision: record.revision,
            prepare_position: record.position,
            commit_position: record.position,
            metadata: BTreeMap::from([
                ("type".to_owned(), record.event_type.clone()),
                ("created".to_owned(), record.created_ticks.to_string()),
                ("content-type".to_owned(), content_type.to_owned()),
            ]),
            custom_metadata: record.metadata.clone(),
            data: record.data.clone(),
        }
    }

    /// The response with this event. A link is followed if the client wants it; one that leads nowhere comes alone.
    fn event(self, node: &Node, record: &Record) -> ReadResp {
        let (event, link) = if self.resolve_links && record.event_type == LINK {
            (target(node, record).map(|r| self.recorded(&r)), Some(self.recorded(record)))
        } else {
            (Some(self.recorded(record)), None)
        };
        response(Content::Event(ReadEvent { event, link, position: Some(Position::CommitPosition(record.position)) }))
    }
}

/// Number and stream of the event that a link leads to.
pub(super) fn linked(link: &Record) -> Option<(u64, &str)> {
    let (number, stream) = std::str::from_utf8(&link.data).ok()?.split_once('@')?;
    Some((number.parse().ok()?, stream))
}

/// The event that a link leads to.
pub(super) fn target(node: &Node, link: &Record) -> Option<Record> {
    let (number, stream) = linked(link)?;
    let read = node
        .world
        .with(|w| w.read_stream(node.n, false, stream, StreamStart::Revision(number), Direction::Forwards, 1));
    match read {
        ReadOutcome::Found(page) => page.records.into_iter().next().filter(|r| r.revision == number),
        ReadOutcome::NoStream | ReadOutcome::StreamDeleted | ReadOutcome::NotHandled(_) => None,
    }
}

fn response(content: Content) -> ReadResp {
    ReadResp { content: Some(content) }
}

fn stream_start(options: StreamOptions) -> Result<(String, StreamStart), Status> {
    let from = match options.revision_option {
        Some(stream_options::RevisionOption::Start(())) => StreamStart::Start,
        Some(stream_options::RevisionOption::End(()) | stream_options::RevisionOption::Revision(u64::MAX)) => {
            StreamStart::End
        }
        Some(stream_options::RevisionOption::Revision(n)) => StreamStart::Revision(n),
        None => return Err(status::not_valid("None", "RevisionOptionOneofCase")),
    };
    Ok((stream_name(options.stream_identifier)?, from))
}

fn all_start(options: &AllOptions) -> Result<AllStart, Status> {
    Ok(match &options.all_option {
        Some(all_options::AllOption::Start(())) => AllStart::Start,
        Some(all_options::AllOption::End(())) => AllStart::End,
        Some(all_options::AllOption::Position(p)) if p.commit_position == u64::MAX => AllStart::End,
        Some(all_options::AllOption::Position(p)) => AllStart::Position(p.commit_position),
        None => return Err(status::not_valid("None", "AllOptionOneofCase")),
    })
}

/// A filter as a client sends it. Clients that exclude send a regular expression that is one negative look-ahead, which the
/// world's expressions do not have: here it is the expression inside, and a no.
struct Matcher {
    filter: CompiledFilter,
    excludes: bool,
}

impl Matcher {
    fn compile(options: filter_options::Filter) -> Result<Matcher, Status> {
        let of_stream = matches!(options, filter_options::Filter::StreamIdentifier(_));
        let (filter_options::Filter::StreamIdentifier(e) | filter_options::Filter::EventType(e)) = options;
        let excluded = excluded(&e.regex);
        let excludes = excluded.is_some();
        let regex = excluded.unwrap_or(e.regex);
        let filter = match (of_stream, regex.is_empty()) {
            (true, true) => Filter::StreamPrefix(e.prefix),
            (true, false) => Filter::StreamRegex(regex),
            (false, true) => Filter::TypePrefix(e.prefix),
            (false, false) => Filter::TypeRegex(regex),
        };
        match CompiledFilter::compile(&filter) {
            Ok(filter) => Ok(Matcher { filter, excludes }),
            Err(why) => Err(Status::invalid_argument(format!("the filter is not understood: {why}"))),
        }
    }

    fn matches(&self, record: &Record) -> bool {
        self.filter.matches(&record.stream, &record.event_type) != self.excludes
    }

    /// The part of the work that the world can do while it reads.
    fn in_world(&self) -> Option<&CompiledFilter> {
        (!self.excludes).then_some(&self.filter)
    }
}

/// What `^(?!…)` and nothing else excludes, as an expression of its own.
fn excluded(regex: &str) -> Option<String> {
    let inside = regex.strip_prefix("^(?!")?.strip_suffix(')')?;
    let (mut depth, mut escaped) = (0_i32, false);
    for c in inside.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    (depth == 0 && !escaped).then(|| format!("^(?:{inside})"))
}

/// The filter and the number of records after which a subscription is due a checkpoint.
fn compiled(option: FilterOption) -> Result<Option<(Matcher, u64)>, Status> {
    let FilterOption::Filter(options) = option else { return Ok(None) };
    let FilterOptions { filter, window, checkpoint_interval_multiplier } = options;
    let matcher = Matcher::compile(filter.ok_or_else(|| status::not_valid("None", "FilterOneofCase"))?)?;
    let window = match window {
        Some(filter_options::Window::Max(n)) => u64::from(n),
        Some(filter_options::Window::Count(())) => PAGE,
        None => return Err(status::not_valid("None", "WindowOneofCase")),
    };
    Ok(Some((matcher, window * u64::from(checkpoint_interval_multiplier))))
}

fn after_last(node: &Node, stream: &str) -> Result<u64, Status> {
    match node.world.with(|w| w.read_stream(node.n, false, stream, StreamStart::End, Direction::Backwards, 1)) {
        ReadOutcome::Found(page) => Ok(page.last + 1),
        ReadOutcome::NoStream => Ok(0),
        ReadOutcome::StreamDeleted => Err(status::stream_deleted(stream)),
        ReadOutcome::NotHandled(why) => Err(status::not_handled(&why)),
    }
}

fn end_of_log(node: &Node) -> Result<u64, Status> {
    match node.world.with(|w| w.read_all(node.n, false, AllStart::End, Direction::Forwards, None, 0, None)) {
        ReadOutcome::Found(page) => Ok(page.next),
        ReadOutcome::NotHandled(why) => Err(status::not_handled(&why)),
        ReadOutcome::NoStream | ReadOutcome::StreamDeleted => Err(status::handler_threw()),
    }
}

/// A read that gives its answer in pages.
trait Pages: Sized + Send + 'static {
    /// The next page and whether it was the last.
    fn page(&mut self) -> Result<(Vec<ReadResp>, bool), Status>;
}

fn pages(mut source: impl Pages) -> Result<Responses, Status> {
    let (first, done) = source.page()?;
    let rest = stream::try_unfold((source, done), |(mut source, done)| async move {
        if done {
            return Ok::<_, Status>(None);
        }
        let (page, done) = source.page()?;
        Ok(Some((page, (source, done))))
    });
    Ok(items(first, rest))
}

fn items(first: Vec<ReadResp>, rest: impl Stream<Item = Result<Vec<ReadResp>, Status>> + Send + 'static) -> Responses {
    Box::pin(
        stream::iter(first.into_iter().map(Ok))
            .chain(rest.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten()),
    )
}

/// The sentence for a count of zero.
fn no_count(node: &Node, result: &str) -> Status {
    let more =
        if node.version.at_least(25, 0) { " >> maxCount should be positive. (Parameter 'maxCount')" } else { "" };
    Status::unknown(format!("Unexpected {result}: Error{more}"))
}

/// Pages of a stream.
struct StreamPages {
    node: Node,
    form: Form,
    requires_leader: bool,
    stream: String,
    from: StreamStart,
    direction: Direction,
    left: u64,
    compatibility: u32,
    first: bool,
}

impl Pages for StreamPages {
    fn page(&mut self) -> Result<(Vec<ReadResp>, bool), Status> {
        if self.left == 0 {
            return Err(no_count(&self.node, "ReadStreamResult"));
        }
        let want = self.left.min(PAGE);
        let read = self.node.world.with(|w| {
            w.read_stream(
                self.node.n,
                self.requires_leader,
                &self.stream,
                self.from,
                self.direction,
                usize::try_from(want).unwrap_or(usize::MAX),
            )
        });
        let page = match read {
            ReadOutcome::Found(page) => page,
            ReadOutcome::NoStream => {
                let missing = StreamNotFound { stream_identifier: Some(stream_identifier(&self.stream)) };
                return Ok((vec![response(Content::StreamNotFound(missing))], true));
            }
            ReadOutcome::StreamDeleted => return Err(status::stream_deleted(&self.stream)),
            ReadOutcome::NotHandled(why) => return Err(status::not_handled(&why)),
        };

        let mut responses = Vec::new();
        if self.first && self.compatibility >= 1 && self.direction == Direction::Forwards {
            // The server's first page covers the numbers asked for, whether they still exist or not.
            let start = match self.from {
                StreamStart::Start => 0,
                StreamStart::Revision(n) => n,
                StreamStart::End => page.last + 1,
            };
            if start.saturating_add(want) <= page.first {
                responses.push(response(Content::FirstStreamPosition(page.first)));
            }
        }
        self.first = false;

        responses.extend(page.records.iter().map(|r| self.form.event(&self.node, r)));
        self.left -= page.records.len() as u64;
        let next = page.records.last().and_then(|r| match self.direction {
            Direction::Forwards => (r.revision < page.last).then(|| r.revision + 1),
            Direction::Backwards => (r.revision > page.first).then(|| r.revision - 1),
        });
        let done = self.left == 0 || next.is_none();
        if let Some(next) = next {
            self.from = StreamStart::Revision(next);
        }
        if done && self.compatibility >= 1 {
            responses.push(response(Content::LastStreamPosition(page.last)));
        }
        Ok((responses, done))
    }
}

/// Pages of `$all`.
struct AllPages {
    node: Node,
    form: Form,
    requires_leader: bool,
    from: AllStart,
    direction: Direction,
    filter: Option<Matcher>,
    left: u64,
}

impl Pages for AllPages {
    fn page(&mut self) -> Result<(Vec<ReadResp>, bool), Status> {
        if self.left == 0 {
            let result = if self.filter.is_some() { "FilteredReadAllResult" } else { "ReadAllResult" };
            return Err(no_count(&self.node, result));
        }
        let want = usize::try_from(self.left.min(PAGE)).unwrap_or(usize::MAX);
        let filter = self.filter.as_ref().and_then(Matcher::in_world);
        let read = self.node.world.with(|w| {
            w.read_all(self.node.n, self.requires_leader, self.from, self.direction, filter, want, Some(SEARCH))
        });
        let page = match read {
            ReadOutcome::Found(page) => page,
            ReadOutcome::NotHandled(why) => return Err(status::not_handled(&why)),
            ReadOutcome::NoStream | ReadOutcome::StreamDeleted => return Err(status::handler_threw()),
        };
        let shown = page.records.iter().filter(|r| self.filter.as_ref().is_none_or(|f| f.matches(r)));
        let responses: Vec<_> = shown.map(|r| self.form.event(&self.node, r)).collect();
        self.left -= responses.len() as u64;
        self.from = AllStart::Position(page.next);
        Ok((responses, page.end || self.left == 0))
    }
}

/// What a subscription follows.
enum Source {
    Stream {
        name: String,
        /// Number of the next event.
        next: u64,
    },
    All {
        /// Position from which to look on.
        next: u64,
        /// Position of the event after which the client wants to begin.
        after: Option<u64>,
        filter: Option<Window>,
    },
}

/// A filter, and when it is due a checkpoint.
struct Window {
    filter: Matcher,
    interval: u64,
    considered: u64,
}

/// A catch-up subscription. It ends with an error or with its connection, never well.
struct Subscription {
    node: Node,
    form: Form,
    /// Asked of the node until the subscription is live; afterwards its role no longer matters.
    requires_leader: bool,
    source: Source,
    live: bool,
    /// Life of the process that serves it.
    generation: u64,
    /// Version of the world when it last looked.
    seen: u64,
    /// The process was frozen since the last event.
    was_frozen: bool,
}

/// What a look at the log found.
enum Look {
    /// Messages to send; there may be more.
    More(Vec<ReadResp>),
    /// The last messages there are now; `exists` tells whether there is a stream at all.
    End { messages: Vec<ReadResp>, exists: bool },
}

impl Subscription {
    fn open(
        node: &Node,
        form: Form,
        requires_leader: bool,
        source: Source,
        from_end: bool,
    ) -> Result<Responses, Status> {
        let mut subscription = Subscription {
            node: node.clone(),
            form,
            requires_leader: requires_leader && !from_end,
            source,
            live: false,
            generation: node.generation(),
            seen: 0,
            was_frozen: false,
        };
        let confirmation = response(Content::Confirmation(SubscriptionConfirmation {
            subscription_id: subscription_id().to_string(),
        }));
        let mut first = vec![confirmation];
        match subscription.advance() {
            Ok(messages) => first.extend(messages),
            // Up to 23.10 the confirmation waits for the first page, later it does not.
            Err(error) if subscription.node.version.at_least(24, 10) => {
                return Ok(Box::pin(stream::iter([Ok(first.remove(0)), Err(error)])));
            }
            Err(error) => return Err(error),
        }
        let rest = stream::try_unfold(subscription, |mut subscription| async move {
            let messages = subscription.next().await?;
            Ok::<_, Status>(Some((messages, subscription)))
        });
        Ok(items(first, rest))
    }

    /// Waits for messages.
    async fn next(&mut self) -> Result<Vec<ReadResp>, Status> {
        loop {
            let (reachability, generation) =
                self.node.world.with(|w| (w.reachability(self.node.n), w.process_generation(self.node.n)));
            if generation != self.generation || reachability == Reachability::Refused {
                // The process is gone, and the connection goes with it.
                return std::future::pending().await;
            }
            if reachability == Reachability::Silent {
                self.was_frozen = true;
                self.seen = self.node.world.with(|w| w.version());
            } else {
                let messages = self.advance()?;
                if !messages.is_empty() {
                    if self.was_frozen && self.live && !self.node.version.at_least(24, 10) {
                        return Err(status::timed_out(
                            "Consumer too slow to handle event while live. Client resubscription required.",
                        ));
                    }
                    self.was_frozen = false;
                    return Ok(messages);
                }
            }
            self.node.world.changed(self.seen).await;
        }
    }

    /// Looks until there is something to send or nothing more to see.
    fn advance(&mut self) -> Result<Vec<ReadResp>, Status> {
        loop {
            match self.look()? {
                Look::More(messages) if messages.is_empty() => {}
                Look::More(messages) => return Ok(messages),
                Look::End { mut messages, exists } => {
                    if !self.live && (exists || self.node.version.at_least(24, 10)) {
                        self.live = true;
                        self.requires_leader = false;
                        if self.node.version.at_least(23, 10) {
                            messages.push(response(Content::CaughtUp(CaughtUp {})));
                        }
                    }
                    return Ok(messages);
                }
            }
        }
    }

    /// A node that does not serve reads now: an answer to who catches up, a pause to who is live.
    fn paused(&self, why: &NotHandled) -> Result<Look, Status> {
        if self.live { Ok(Look::End { messages: Vec::new(), exists: false }) } else { Err(status::not_handled(why)) }
    }

    /// One page. Notes the version of the world it saw.
    fn look(&mut self) -> Result<Look, Status> {
        let (n, requires_leader, limit) = (self.node.n, self.requires_leader, PAGE as usize);
        match &mut self.source {
            Source::Stream { name, next } => {
                let (read, seen) = self.node.world.with(|w| {
                    (
                        w.read_stream(
                            n,
                            requires_leader,
                            name,
                            StreamStart::Revision(*next),
                            Direction::Forwards,
                            limit,
                        ),
                        w.version(),
                    )
                });
                self.seen = seen;
                match read {
                    ReadOutcome::Found(page) => {
                        // A node that was truncated may hold less than was already sent.
                        let fresh = page.records.iter().filter(|r| r.revision >= *next);
                        let messages: Vec<_> = fresh.map(|r| self.form.event(&self.node, r)).collect();
                        let read_to = page.records.last().map(|r| r.revision);
                        *next = read_to.map_or(*next, |r| (r + 1).max(*next));
                        let more = page.records.len() == limit && read_to < Some(page.last);
                        Ok(if more { Look::More(messages) } else { Look::End { messages, exists: true } })
                    }
                    ReadOutcome::NoStream => Ok(Look::End { messages: Vec::new(), exists: false }),
                    ReadOutcome::StreamDeleted => Err(status::stream_deleted(name)),
                    ReadOutcome::NotHandled(why) => self.paused(&why),
                }
            }
            Source::All { next, after, filter } => {
                let start = *next;
                let (read, seen) = self.node.world.with(|w| {
                    (
                        w.read_all(
                            n,
                            requires_leader,
                            AllStart::Position(start),
                            Direction::Forwards,
                            None,
                            limit,
                            None,
                        ),
                        w.version(),
                    )
                });
                self.seen = seen;
                let page = match read {
                    ReadOutcome::Found(page) => page,
                    ReadOutcome::NotHandled(why) => return self.paused(&why),
                    ReadOutcome::NoStream | ReadOutcome::StreamDeleted => return Err(status::handler_threw()),
                };
                *next = page.next.max(start);
                let records: Vec<_> = page
                    .records
                    .iter()
                    .filter(|r| r.position >= start && after.is_none_or(|a| r.position > a))
                    .collect();
                let messages = match filter {
                    None => records.iter().map(|r| self.form.event(&self.node, r)).collect(),
                    Some(window) => window.messages(&records, start, self.live, |r| self.form.event(&self.node, r)),
                };
                Ok(if page.end { Look::End { messages, exists: true } } else { Look::More(messages) })
            }
        }
    }
}

impl Window {
    /// The events that match and the checkpoints that are due. While it catches up, the server looks at whole pages and
    /// names the page's last match, or its beginning if there is none; while it is live, the record it is at.
    fn messages(
        &mut self,
        records: &[&Record],
        start: u64,
        live: bool,
        event: impl Fn(&Record) -> ReadResp,
    ) -> Vec<ReadResp> {
        let mut messages = Vec::new();
        let mut last_match = start;
        for record in records {
            self.considered += 1;
            if self.filter.matches(record) {
                messages.push(event(record));
                last_match = record.position;
            }
            if live && self.considered >= self.interval {
                self.considered = 0;
                messages.push(checkpoint(record.position));
            }
        }
        if !live && self.considered >= self.interval {
            self.considered = 0;
            messages.push(checkpoint(last_match));
        }
        messages
    }
}

fn checkpoint(position: u64) -> ReadResp {
    response(Content::Checkpoint(Checkpoint { commit_position: position, prepare_position: position }))
}

/// An id for the confirmation. Nothing refers to it later.
#[expect(clippy::disallowed_methods, reason = "an id that only the connection sees; nothing is appended under it")]
fn subscription_id() -> Uuid {
    Uuid::new_v4()
}

/// A position as shared messages have it.
pub(super) fn position(at: u64) -> AllStreamPosition {
    AllStreamPosition { commit_position: at, prepare_position: at }
}

#[cfg(test)]
mod tests {
    use super::excluded;

    #[test]
    fn an_exclusion_is_told_from_other_expressions() {
        for (regex, inside) in [
            (r"^(?!(\$.+$|Config\d+$))", Some(r"^(?:(\$.+$|Config\d+$))")),
            (r"^(?!a\)b)", Some(r"^(?:a\)b)")),
            (r"^(?!a)(b)", None),
            (r"^(?!a).*", None),
            (r"^a", None),
        ] {
            assert_eq!(excluded(regex).as_deref(), inside, "{regex}");
        }
    }
}
