//! The Streams service: append, delete, tombstone. Reading is in `read`, batch append in `batch`.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::proto::event_store::client::{StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use super::proto::streams::{
    AppendReq, AppendResp, BatchAppendReq, DeleteReq, DeleteResp, ReadReq, TombstoneReq, TombstoneResp, append_req,
    append_resp, delete_req, delete_resp, streams_server, tombstone_req, tombstone_resp,
};
use super::users::{Caller, Right};
use super::{MAX_APPEND_SIZE, Node, batch, read, status};
use crate::sim::model::{ExpectedRevision, ProposedEvent, Write, WriteOutcome};

/// Old clients know "no stream" as this number.
const NO_STREAM: u64 = u64::MAX;

/// An expected revision, from each of the requests' own types for it.
macro_rules! expected {
    ($oneof:path, $given:expr) => {{
        use $oneof as Given;
        match $given {
            Some(Given::Revision(NO_STREAM)) | Some(Given::NoStream(())) => Ok(ExpectedRevision::NoStream),
            Some(Given::Revision(n)) => Ok(ExpectedRevision::Exact(n)),
            Some(Given::Any(())) => Ok(ExpectedRevision::Any),
            Some(Given::StreamExists(())) => Ok(ExpectedRevision::StreamExists),
            None => Err(status::not_valid("None", "ExpectedStreamRevisionOneofCase")),
        }
    }};
}

#[tonic::async_trait]
impl streams_server::Streams for Node {
    type ReadStream = read::Responses;
    type BatchAppendStream = batch::Responses;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<read::Responses>, Status> {
        let requires_leader = self.requires_leader(request.metadata());
        let caller = Caller::of(request.extensions());
        let options = request.into_inner().options.ok_or_else(status::handler_threw)?;
        read::read(self, &caller, requires_leader, options).map(Response::new)
    }

    async fn append(&self, request: Request<Streaming<AppendReq>>) -> Result<Response<AppendResp>, Status> {
        let requires_leader = self.requires_leader(request.metadata());
        let caller = Caller::of(request.extensions());
        let mut messages = request.into_inner();
        let Some(append_req::Content::Options(options)) = messages.message().await?.and_then(|m| m.content) else {
            return Err(status::not_valid("ProposedMessage", "AppendReq.Options"));
        };
        let stream = stream_name(options.stream_identifier)?;
        self.authorize(&caller, Right::Write, &stream)?;
        let expected = expected!(append_req::options::ExpectedStreamRevision, options.expected_stream_revision)?;

        let mut events = Vec::new();
        let mut size = 0;
        while let Some(message) = messages.message().await? {
            let Some(append_req::Content::ProposedMessage(m)) = message.content else {
                return Err(status::not_valid("Options", "AppendReq.ProposedMessage"));
            };
            size += m.data.len() + m.custom_metadata.len();
            if size > MAX_APPEND_SIZE as usize {
                return Err(status::append_too_large());
            }
            events.push(proposed(m.id, m.metadata, m.custom_metadata, m.data)?);
        }

        let outcome = self.world.write(self.n, requires_leader, &stream, expected, Write::Append(events)).await;
        let result = match outcome {
            WriteOutcome::Done { last_revision, position } => {
                append_resp::Result::Success(success(last_revision, position))
            }
            WriteOutcome::WrongExpectedVersion { current } => {
                append_resp::Result::WrongExpectedVersion(wrong_expected_version(expected, current))
            }
            WriteOutcome::StreamDeleted => return Err(status::stream_deleted(&stream)),
            WriteOutcome::TooLarge => return Err(status::append_too_large()),
            WriteOutcome::NotHandled(why) => return Err(status::not_handled(&why)),
            WriteOutcome::TimedOut(text) => return Err(status::timed_out(text)),
        };
        Ok(Response::new(AppendResp { result: Some(result) }))
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        let requires_leader = self.requires_leader(request.metadata());
        let caller = Caller::of(request.extensions());
        let options = request.into_inner().options.ok_or_else(status::handler_threw)?;
        let expected = expected!(delete_req::options::ExpectedStreamRevision, options.expected_stream_revision)?;
        let at =
            self.remove(&caller, requires_leader, "Delete", options.stream_identifier, expected, Write::Delete).await?;
        let position = delete_resp::Position { commit_position: at, prepare_position: at };
        Ok(Response::new(DeleteResp { position_option: Some(delete_resp::PositionOption::Position(position)) }))
    }

    async fn tombstone(&self, request: Request<TombstoneReq>) -> Result<Response<TombstoneResp>, Status> {
        let requires_leader = self.requires_leader(request.metadata());
        let caller = Caller::of(request.extensions());
        let options = request.into_inner().options.ok_or_else(status::handler_threw)?;
        let expected = expected!(tombstone_req::options::ExpectedStreamRevision, options.expected_stream_revision)?;
        let at = self
            .remove(&caller, requires_leader, "Tombstone", options.stream_identifier, expected, Write::Tombstone)
            .await?;
        let position = tombstone_resp::Position { commit_position: at, prepare_position: at };
        Ok(Response::new(TombstoneResp { position_option: Some(tombstone_resp::PositionOption::Position(position)) }))
    }

    async fn batch_append(
        &self,
        request: Request<Streaming<BatchAppendReq>>,
    ) -> Result<Response<batch::Responses>, Status> {
        let requires_leader = self.requires_leader(request.metadata());
        let caller = Caller::of(request.extensions());
        Ok(Response::new(batch::batch_append(self.clone(), caller, requires_leader, request.into_inner())))
    }
}

impl Node {
    /// Deletes or tombstones a stream; gives the position of the record that says so.
    async fn remove(
        &self,
        caller: &Caller,
        requires_leader: bool,
        operation: &str,
        stream: Option<StreamIdentifier>,
        expected: ExpectedRevision,
        write: Write,
    ) -> Result<u64, Status> {
        let stream = stream_name(stream)?;
        self.authorize(caller, Right::Delete, &stream)?;
        match self.world.write(self.n, requires_leader, &stream, expected, write).await {
            WriteOutcome::Done { position, .. } => Ok(position),
            WriteOutcome::WrongExpectedVersion { current } => {
                Err(status::wrong_expected_version(operation, &stream, expected, current))
            }
            WriteOutcome::StreamDeleted => Err(status::stream_deleted(&stream)),
            WriteOutcome::TooLarge => Err(status::append_too_large()),
            WriteOutcome::NotHandled(why) => Err(status::not_handled(&why)),
            WriteOutcome::TimedOut(text) => Err(status::timed_out(text)),
        }
    }
}

/// The name of a stream in a request; an empty one is more than the server can bear.
pub(super) fn stream_name(id: Option<StreamIdentifier>) -> Result<String, Status> {
    let name = id.map(|id| String::from_utf8_lossy(&id.stream_name).into_owned()).unwrap_or_default();
    if name.is_empty() { Err(status::handler_threw()) } else { Ok(name) }
}

/// A stream's name as the wire has it.
pub(super) fn stream_identifier(name: &str) -> StreamIdentifier {
    StreamIdentifier { stream_name: name.as_bytes().to_vec() }
}

/// An id in a request, in either form.
pub(super) fn uuid(id: Option<WireUuid>) -> Option<Uuid> {
    match id?.value? {
        wire_uuid::Value::String(text) => Uuid::parse_str(&text).ok(),
        wire_uuid::Value::Structured(halves) => Some(Uuid::from_u64_pair(
            halves.most_significant_bits.cast_unsigned(),
            halves.least_significant_bits.cast_unsigned(),
        )),
    }
}

/// An id as two halves.
pub(super) fn structured(id: Uuid) -> WireUuid {
    let (most, least) = id.as_u64_pair();
    WireUuid {
        value: Some(wire_uuid::Value::Structured(wire_uuid::Structured {
            most_significant_bits: most.cast_signed(),
            least_significant_bits: least.cast_signed(),
        })),
    }
}

/// An id as text.
pub(super) fn text(id: Uuid) -> WireUuid {
    WireUuid { value: Some(wire_uuid::Value::String(id.to_string())) }
}

/// An event of an append.
pub(super) fn proposed(
    id: Option<WireUuid>,
    mut metadata: BTreeMap<String, String>,
    custom_metadata: Vec<u8>,
    data: Vec<u8>,
) -> Result<ProposedEvent, Status> {
    let event_type = metadata.remove("type").ok_or_else(|| status::missing_metadata("type"))?;
    let content_type = metadata.remove("content-type").ok_or_else(|| status::missing_metadata("content-type"))?;
    let id = uuid(id).ok_or_else(status::handler_threw)?;
    if event_type.is_empty() {
        return Err(status::handler_threw());
    }
    Ok(ProposedEvent { id, event_type, is_json: content_type == "application/json", data, metadata: custom_metadata })
}

fn success(last_revision: Option<u64>, position: u64) -> append_resp::Success {
    use append_resp::success::{CurrentRevisionOption, PositionOption};
    append_resp::Success {
        current_revision_option: Some(match last_revision {
            Some(n) => CurrentRevisionOption::CurrentRevision(n),
            None => CurrentRevisionOption::NoStream(()),
        }),
        position_option: Some(PositionOption::Position(append_resp::Position {
            commit_position: position,
            prepare_position: position,
        })),
    }
}

/// Both generations of fields: clients read one or the other, and some fail if theirs is missing.
fn wrong_expected_version(expected: ExpectedRevision, current: Option<u64>) -> append_resp::WrongExpectedVersion {
    use append_resp::wrong_expected_version::{
        CurrentRevisionOption as Current, CurrentRevisionOption2060 as OldCurrent, ExpectedRevisionOption as Expected,
        ExpectedRevisionOption2060 as OldExpected,
    };
    let (current, old_current) = match current {
        Some(n) => (Current::CurrentRevision(n), OldCurrent::CurrentRevision2060(n)),
        None => (Current::CurrentNoStream(()), OldCurrent::NoStream2060(())),
    };
    let (expected, old_expected) = match expected {
        ExpectedRevision::Any => (Expected::ExpectedAny(()), OldExpected::Any2060(())),
        ExpectedRevision::NoStream => (Expected::ExpectedNoStream(()), OldExpected::ExpectedRevision2060(NO_STREAM)),
        ExpectedRevision::StreamExists => (Expected::ExpectedStreamExists(()), OldExpected::StreamExists2060(())),
        ExpectedRevision::Exact(n) => (Expected::ExpectedRevision(n), OldExpected::ExpectedRevision2060(n)),
    };
    append_resp::WrongExpectedVersion {
        current_revision_option_20_6_0: Some(old_current),
        expected_revision_option_20_6_0: Some(old_expected),
        current_revision_option: Some(current),
        expected_revision_option: Some(expected),
    }
}
