//! Batch append: many appends over one call, answered as they complete. The Node and .NET clients append this way.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures::channel::mpsc;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, SinkExt, Stream, StreamExt};
use prost::Message;
use tonic::{Code, Status, Streaming};

use super::proto::event_store::client::{
    BadRequest, MaximumAppendSizeExceeded, StreamDeleted, StreamIdentifier, Timeout, Uuid as WireUuid,
    WrongExpectedVersion, wrong_expected_version,
};
use super::proto::google::rpc;
use super::proto::streams::batch_append_req::options::{DeadlineOption, ExpectedStreamPosition};
use super::proto::streams::batch_append_resp::{Result as Answer, Success, success};
use super::proto::streams::{BatchAppendReq, BatchAppendResp, batch_append_req};
use super::read::position;
use super::streams::{proposed, stream_identifier, stream_name};
use super::users::{Caller, Right};
use super::{MAX_APPEND_SIZE, Node, status};
use crate::sim::model::{ExpectedRevision, NotHandled, ProposedEvent, Write, WriteOutcome};

/// The messages of one call.
pub(super) type Responses = Pin<Box<dyn Stream<Item = Result<BatchAppendResp, Status>> + Send>>;

/// The server's own limit of an append (`WriteTimeoutMs`).
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// An append of which not all parts are in yet.
struct Part {
    stream: String,
    expected: ExpectedRevision,
    deadline: Duration,
    events: Vec<ProposedEvent>,
}

/// An append that is on its way.
type Pending = Pin<Box<dyn Future<Output = Result<BatchAppendResp, Status>> + Send>>;

/// Answers a call until the client closes its half and all its appends are answered, or until one finds no leader.
pub(super) fn batch_append(
    node: Node,
    caller: Caller,
    requires_leader: bool,
    requests: Streaming<BatchAppendReq>,
) -> Responses {
    let (answers, responses) = mpsc::channel(16);
    let call = Call { node, caller, requires_leader, parts: BTreeMap::new(), pending: FuturesOrdered::new(), answers };
    // The call ends with its connection: the response stream carries the work.
    let work = call.run(requests).into_stream().filter_map(|()| std::future::ready(None));
    Box::pin(futures::stream::select(responses, work))
}

struct Call {
    node: Node,
    caller: Caller,
    requires_leader: bool,
    parts: BTreeMap<Vec<u8>, Part>,
    /// Answered in the order of the log.
    pending: FuturesOrdered<Pending>,
    answers: mpsc::Sender<Result<BatchAppendResp, Status>>,
}

impl Call {
    async fn run(mut self, mut requests: Streaming<BatchAppendReq>) {
        let mut open = true;
        loop {
            let answer = tokio::select! {
                request = requests.message(), if open => match request {
                    Ok(Some(request)) => self.request(request),
                    Ok(None) => {
                        open = false;
                        None
                    }
                    Err(error) => Some(Err(error)),
                },
                Some(answer) = self.pending.next() => Some(answer),
                else => return,
            };
            let Some(answer) = answer else { continue };
            let last = answer.is_err();
            if self.answers.send(answer).await.is_err() || last {
                return;
            }
        }
    }

    /// Takes one message; gives the answer if there is one at once.
    fn request(&mut self, request: BatchAppendReq) -> Option<Result<BatchAppendResp, Status>> {
        let Some(id) = request.correlation_id else {
            let answer = bad_request("Value cannot be null. (Parameter 'dto')");
            let stream_identifier = request.options.and_then(|o| o.stream_identifier);
            return Some(Ok(BatchAppendResp { result: Some(answer), stream_identifier, ..BatchAppendResp::default() }));
        };
        let key = id.encode_to_vec();
        if let Some(options) = request.options {
            let stream = options.stream_identifier.clone();
            match part(options) {
                Ok(part) => {
                    self.parts.insert(key.clone(), part);
                }
                Err(error) => return Some(Ok(response(id, stream, bad_request(error.message())))),
            }
        }
        // Parts of an append that never had options are not answered, as the server does not.
        let part = self.parts.get_mut(&key)?;
        for m in request.proposed_messages {
            match proposed(m.id, m.metadata, m.custom_metadata, m.data) {
                Ok(event) => part.events.push(event),
                Err(error) => {
                    let stream = stream_identifier(&part.stream);
                    self.parts.remove(&key);
                    return Some(Ok(response(id, Some(stream), bad_request(error.message()))));
                }
            }
        }
        if !request.is_final {
            return None;
        }
        let part = self.parts.remove(&key)?;
        if !self.node.may(&self.caller, Right::Write, &part.stream) {
            let what = detail("event_store.client.AccessDenied", &());
            let answer = error(Code::PermissionDenied, "AccessDenied", what);
            return Some(Ok(response(id, Some(stream_identifier(&part.stream)), answer)));
        }
        let mut append = append(self.node.clone(), self.requires_leader, id, part).boxed();
        // Begun now: appends reach the log in the order of their requests.
        if let Some(answer) = (&mut append).now_or_never() {
            return Some(answer);
        }
        self.pending.push_back(append);
        None
    }
}

fn part(options: batch_append_req::Options) -> Result<Part, Status> {
    let expected = match options.expected_stream_position {
        Some(ExpectedStreamPosition::NoStream(()) | ExpectedStreamPosition::StreamPosition(u64::MAX)) => {
            ExpectedRevision::NoStream
        }
        Some(ExpectedStreamPosition::StreamPosition(n)) => ExpectedRevision::Exact(n),
        Some(ExpectedStreamPosition::Any(())) => ExpectedRevision::Any,
        Some(ExpectedStreamPosition::StreamExists(())) => ExpectedRevision::StreamExists,
        None => return Err(status::not_valid("None", "ExpectedStreamPositionOneofCase")),
    };
    let deadline = match options.deadline_option {
        None => WRITE_TIMEOUT,
        Some(DeadlineOption::Deadline(d)) => Duration::try_from(d).unwrap_or(Duration::ZERO),
        Some(DeadlineOption::Deadline21100(at)) => until(&at),
    };
    Ok(Part {
        stream: stream_name(options.stream_identifier)?,
        expected,
        deadline: deadline.min(WRITE_TIMEOUT),
        events: Vec::new(),
    })
}

/// Time until a moment of the clients' calendar, which is this machine's.
#[expect(clippy::disallowed_methods, reason = "old clients give a deadline by the calendar")]
fn until(at: &prost_types::Timestamp) -> Duration {
    let now = jiff::Timestamp::now();
    let at = jiff::Timestamp::new(at.seconds, at.nanos).unwrap_or(jiff::Timestamp::MIN);
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

async fn append(node: Node, requires_leader: bool, id: WireUuid, part: Part) -> Result<BatchAppendResp, Status> {
    let Part { stream, expected, deadline, events } = part;
    let timeout = || error(Code::DeadlineExceeded, "Timeout", detail("event_store.client.Timeout", &Timeout {}));
    let outcome = if deadline.is_zero() {
        None
    } else {
        let write = node.world.write(node.n, requires_leader, &stream, expected, Write::Append(events));
        tokio::time::timeout(deadline, write).await.ok()
    };
    let answer = match outcome {
        None | Some(WriteOutcome::TimedOut(_)) => timeout(),
        Some(WriteOutcome::Done { last_revision, position: at }) => Answer::Success(Success {
            current_revision_option: Some(match last_revision {
                Some(n) => success::CurrentRevisionOption::CurrentRevision(n),
                None => success::CurrentRevisionOption::NoStream(()),
            }),
            position_option: Some(success::PositionOption::Position(position(at))),
        }),
        Some(WriteOutcome::WrongExpectedVersion { current }) => {
            let what = wrong_expected(expected, current);
            error(Code::AlreadyExists, "WrongExpectedVersion", detail("event_store.client.WrongExpectedVersion", &what))
        }
        Some(WriteOutcome::StreamDeleted) => {
            let what = StreamDeleted { stream_identifier: Some(stream_identifier(&stream)) };
            error(Code::NotFound, "StreamDeleted", detail("event_store.client.StreamDeleted", &what))
        }
        Some(WriteOutcome::TooLarge) => {
            let what = MaximumAppendSizeExceeded { max_append_size: MAX_APPEND_SIZE };
            let what = detail("event_store.client.MaximumAppendSizeExceeded", &what);
            error(Code::InvalidArgument, "MaximumAppendSizeExceeded", what)
        }
        // The server forgets the code here; clients see 0.
        Some(WriteOutcome::NotHandled(NotHandled::NotReady)) => {
            error(Code::Ok, "Server Is Not Ready", detail("google.protobuf.Empty", &()))
        }
        Some(WriteOutcome::NotHandled(why @ (NotHandled::NotLeader(_) | NotHandled::NoLeaderInfo))) => {
            return Err(status::not_handled(&why));
        }
    };
    Ok(response(id, Some(stream_identifier(&stream)), answer))
}

fn response(id: WireUuid, stream: Option<StreamIdentifier>, answer: Answer) -> BatchAppendResp {
    // The expected position is not echoed: recorded servers do not.
    BatchAppendResp {
        correlation_id: Some(id),
        result: Some(answer),
        stream_identifier: stream,
        expected_stream_position: None,
    }
}

fn wrong_expected(expected: ExpectedRevision, current: Option<u64>) -> WrongExpectedVersion {
    use wrong_expected_version::{CurrentStreamRevisionOption as Current, ExpectedStreamPositionOption as Expected};
    WrongExpectedVersion {
        current_stream_revision_option: Some(match current {
            Some(n) => Current::CurrentStreamRevision(n),
            None => Current::CurrentNoStream(()),
        }),
        expected_stream_position_option: Some(match expected {
            ExpectedRevision::Any => Expected::ExpectedAny(()),
            ExpectedRevision::NoStream => Expected::ExpectedNoStream(()),
            ExpectedRevision::StreamExists => Expected::ExpectedStreamExists(()),
            ExpectedRevision::Exact(n) => Expected::ExpectedStreamPosition(n),
        }),
    }
}

fn bad_request(message: &str) -> Answer {
    let what = detail("event_store.client.BadRequest", &BadRequest { message: message.to_owned() });
    error(Code::InvalidArgument, "BadRequest", what)
}

fn error(code: Code, message: &str, details: prost_types::Any) -> Answer {
    Answer::Error(rpc::Status { code: i32::from(code), message: message.to_owned(), details: Some(details) })
}

fn detail(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}
