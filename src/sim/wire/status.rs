//! Errors as a node words them: code, sentence and trailers.

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};

use super::MAX_APPEND_SIZE;
use crate::sim::model::{ExpectedRevision, NotHandled};

/// Trailers from their names and values. What is not ASCII in a value becomes `?`.
fn trailers(pairs: &[(&'static str, &str)]) -> MetadataMap {
    let mut map = MetadataMap::new();
    for (name, value) in pairs {
        let ascii: String = value.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
        map.insert(*name, AsciiMetadataValue::try_from(ascii).unwrap_or_else(|_| AsciiMetadataValue::from_static("?")));
    }
    map
}

fn with_trailers(code: Code, message: impl Into<String>, pairs: &[(&'static str, &str)]) -> Status {
    Status::with_metadata(code, message, trailers(pairs))
}

/// The node does not handle the request now.
pub(super) fn not_handled(why: &NotHandled) -> Status {
    match why {
        NotHandled::NotReady => Status::unavailable("Server Is Not Ready"),
        NotHandled::NoLeaderInfo => Status::unknown("No leader info available in response"),
        NotHandled::NotLeader(leader) => with_trailers(
            Code::NotFound,
            "Leader info available",
            &[
                ("exception", "not-leader"),
                ("leader-endpoint-host", &leader.host),
                ("leader-endpoint-port", &leader.port.to_string()),
            ],
        ),
    }
}

/// The user may not, or there is none.
pub(super) fn access_denied() -> Status {
    with_trailers(Code::PermissionDenied, "Access Denied", &[("exception", "access-denied")])
}

/// ABORTED: the outcome is unknown to the client.
pub(super) fn timed_out(text: &str) -> Status {
    Status::aborted(format!("Operation timed out: {text}"))
}

/// The stream is tombstoned.
pub(super) fn stream_deleted(stream: &str) -> Status {
    with_trailers(
        Code::FailedPrecondition,
        format!("Event stream '{stream}' is deleted."),
        &[("exception", "stream-deleted"), ("stream-name", stream)],
    )
}

/// The append is over the limit.
pub(super) fn append_too_large() -> Status {
    let limit = MAX_APPEND_SIZE.to_string();
    with_trailers(
        Code::InvalidArgument,
        format!("Maximum Append Size of {limit} Exceeded."),
        &[("exception", "maximum-append-size-exceeded"), ("maximum-append-size", &limit)],
    )
}

/// A proposed event lacks a property that it must have.
pub(super) fn missing_metadata(property: &str) -> Status {
    with_trailers(
        Code::InvalidArgument,
        format!("Required Metadata Property '{property}' is missing"),
        &[("exception", "missing-required-metadata-property"), ("required-metadata-properties", "type,content-type")],
    )
}

/// A delete or tombstone met another revision. (An append says so in its response.)
pub(super) fn wrong_expected_version(
    operation: &str,
    stream: &str,
    expected: ExpectedRevision,
    current: Option<u64>,
) -> Status {
    let expected = match expected {
        ExpectedRevision::Any => "-2".to_owned(),
        ExpectedRevision::NoStream => "-1".to_owned(),
        ExpectedRevision::StreamExists => "-4".to_owned(),
        ExpectedRevision::Exact(n) => n.to_string(),
    };
    let actual = current.map_or_else(|| "-1".to_owned(), |n| n.to_string());
    with_trailers(
        Code::FailedPrecondition,
        format!(
            "{operation} failed due to WrongExpectedVersion. Stream: {stream}, Expected version: {expected}, Actual version: {actual}"
        ),
        &[
            ("exception", "wrong-expected-version"),
            ("stream-name", stream),
            ("expected-version", &expected),
            ("actual-version", &actual),
        ],
    )
}

/// What a node answers when it did not foresee the request.
pub(super) fn handler_threw() -> Status {
    Status::unknown("Exception was thrown by handler.")
}

/// A field has a value, or lacks one, that the request cannot do without.
pub(super) fn not_valid(value: &str, what: &str) -> Status {
    Status::invalid_argument(format!("'{value}' is not a valid {what}"))
}
