//! What an error of the crate means for the call that met it. The table is the one of the client's error variants and the
//! server's messages, as recorded of 23.10.5 and 26.1.0; the crate keeps only text of most of them, so text it is.

use eventstore::Error;

/// Why one try of one call failed.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The crate said so.
    Client(Error),
    /// Our own time-out: the crate enforces none.
    TimedOut,
    /// The crate panicked, as it does on answers it did not expect.
    Panicked,
    /// No client could be made.
    NoClient(String),
}

/// What a failed try left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing was done; the same may succeed.
    NotDone,
    /// Perhaps it was done.
    Unknown,
    /// The stream is not at the expected revision.
    Conflict,
    /// The user may not, or may not yet: a starting node denies what it cannot look up.
    Denied,
    /// It will not succeed.
    Refused,
}

/// What to make of a failed try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    /// Whether the client is dead or stuck, and must be made anew.
    pub(super) renew: bool,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn verdict(&self) -> Verdict {
        let (outcome, renew, text) = match self {
            Fault::Client(error) => {
                let (outcome, renew) = classify(error);
                (outcome, renew, describe(error))
            }
            Fault::TimedOut => (Outcome::Unknown, true, "no answer in time".to_owned()),
            Fault::Panicked => (Outcome::Unknown, true, "the client library panicked".to_owned()),
            Fault::NoClient(found) => (Outcome::NotDone, true, found.clone()),
        };
        Verdict { outcome, renew, text }
    }
}

fn classify(error: &Error) -> (Outcome, bool) {
    match error {
        Error::NotLeaderException(_) => (Outcome::NotDone, false),
        Error::ServerError(text) => classify_text(text),
        // One failed connect ends the client's background task: it never connects again.
        Error::ConnectionClosed | Error::GrpcConnectionError(_) | Error::InitializationError(_) => {
            (Outcome::NotDone, true)
        }
        Error::Grpc { code, .. } => match i32::from(*code) {
            // InvalidArgument (too large), OutOfRange
            3 | 11 => (Outcome::Refused, false),
            // FailedPrecondition
            9 => (Outcome::Conflict, false),
            // Cancelled, ResourceExhausted, Aborted: a write in flight may yet be committed.
            1 | 8 | 10 => (Outcome::Unknown, false),
            _ => (Outcome::Unknown, true),
        },
        Error::DeadlineExceeded => (Outcome::Unknown, false),
        Error::WrongExpectedVersion { .. } => (Outcome::Conflict, false),
        Error::AccessDenied => (Outcome::Denied, false),
        // Of a status: a not-leader answer that names no leader. A missing stream is told apart before.
        Error::ResourceNotFound => (Outcome::NotDone, false),
        Error::ResourceDeleted | Error::ResourceAlreadyExists | Error::UnsupportedFeature => (Outcome::Refused, false),
        Error::InternalParsingError(_) | Error::InternalClientError | Error::IllegalStateError(_) => {
            (Outcome::Unknown, true)
        }
    }
}

/// `ServerError` stands for Unavailable, Internal, DataLoss and Unknown, and holds the status as text.
fn classify_text(text: &str) -> (Outcome, bool) {
    const WAITS: [&str; 5] =
        ["Server Is Not Ready", "Server not ready", "Server Is Too Busy", "Server Is Busy", "No leader info available"];
    const NOT_SENT: [&str; 4] = ["client error (Connect)", "tcp connect error", "dns error", "Connection refused"];
    if WAITS.iter().any(|w| text.contains(w)) {
        (Outcome::NotDone, false)
    } else if NOT_SENT.iter().any(|w| text.contains(w)) {
        (Outcome::NotDone, true)
    } else {
        (Outcome::Unknown, true)
    }
}

fn describe(error: &Error) -> String {
    match error {
        // The crate's text ends where the leader should stand.
        Error::NotLeaderException(leader) => format!("not the leader; the node names {}:{}", leader.host, leader.port),
        Error::ServerError(text) => text.clone(),
        Error::ConnectionClosed => "the client lost its connection".to_owned(),
        Error::Grpc { message, .. } if !message.is_empty() => message.clone(),
        Error::AccessDenied => "access denied: the user may not do this, or user and password do not match".to_owned(),
        Error::GrpcConnectionError(_)
        | Error::Grpc { .. }
        | Error::InternalParsingError(_)
        | Error::ResourceAlreadyExists
        | Error::ResourceNotFound
        | Error::ResourceDeleted
        | Error::UnsupportedFeature
        | Error::InternalClientError
        | Error::DeadlineExceeded
        | Error::InitializationError(_)
        | Error::IllegalStateError(_)
        | Error::WrongExpectedVersion { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eventstore::{CurrentRevision, Endpoint, ExpectedRevision, GrpcConnectionError};

    #[test]
    fn table() {
        let server = |text: &str| Error::ServerError(format!("status: Unavailable, message: \"{text}\""));
        let grpc = |code: i32| Error::Grpc { code: tonic::Code::from(code), message: "m".into() };
        let rows = [
            (Error::NotLeaderException(Endpoint { host: "h".into(), port: 1 }), Outcome::NotDone, false),
            (server("Server Is Not Ready"), Outcome::NotDone, false),
            (server("Server Is Too Busy"), Outcome::NotDone, false),
            (server("No leader info available in response"), Outcome::NotDone, false),
            (server("client error (Connect)"), Outcome::NotDone, true),
            (server("http2 error"), Outcome::Unknown, true),
            (server("h2 protocol error: error reading a body from connection"), Outcome::Unknown, true),
            (server("Exception was thrown by handler."), Outcome::Unknown, true),
            (Error::ConnectionClosed, Outcome::NotDone, true),
            (Error::GrpcConnectionError(GrpcConnectionError::MaxDiscoveryAttemptReached(3)), Outcome::NotDone, true),
            (Error::InitializationError("tls".into()), Outcome::NotDone, true),
            (grpc(10), Outcome::Unknown, false),
            (grpc(1), Outcome::Unknown, false),
            (grpc(8), Outcome::Unknown, false),
            (grpc(9), Outcome::Conflict, false),
            (grpc(3), Outcome::Refused, false),
            (grpc(11), Outcome::Refused, false),
            (grpc(2), Outcome::Unknown, true),
            (Error::DeadlineExceeded, Outcome::Unknown, false),
            (
                Error::WrongExpectedVersion {
                    expected: ExpectedRevision::NoStream,
                    current: CurrentRevision::Current(3),
                },
                Outcome::Conflict,
                false,
            ),
            (Error::AccessDenied, Outcome::Denied, false),
            (Error::ResourceNotFound, Outcome::NotDone, false),
            (Error::ResourceDeleted, Outcome::Refused, false),
            (Error::ResourceAlreadyExists, Outcome::Refused, false),
            (Error::UnsupportedFeature, Outcome::Refused, false),
            (Error::InternalParsingError("p".into()), Outcome::Unknown, true),
            (Error::InternalClientError, Outcome::Unknown, true),
            (Error::IllegalStateError("i".into()), Outcome::Unknown, true),
        ];
        for (error, outcome, renew) in rows {
            let verdict = Fault::Client(error.clone()).verdict();
            assert_eq!((verdict.outcome, verdict.renew), (outcome, renew), "{error:?}");
            assert!(!verdict.text.is_empty(), "{error:?}");
        }
        assert_eq!(Fault::TimedOut.verdict().outcome, Outcome::Unknown);
        assert_eq!(Fault::Panicked.verdict().outcome, Outcome::Unknown);
        assert_eq!(Fault::NoClient("n".into()).verdict().outcome, Outcome::NotDone);
    }
}
