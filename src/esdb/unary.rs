//! gRPC calls to exactly one node, of those that the crate makes badly or sends where it likes. It cannot set a negative priority, and
//! what it takes for "track emitted streams" the server reads as the right to emit. The calls stay open where `DisableAdminUi` removes
//! HTTP routes. tonic's channel, with two rustls providers in the build, panics without a process-wide one, which nobody but the crate
//! may install. A call with one request is one POST with a five-byte prefix, so it is made with the HTTP client that is there.

use http_body_util::BodyExt;
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};

use super::Credentials;

/// `event_store.client.operations.SetNodePriorityReq`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SetNodePriorityReq {
    #[prost(int32, tag = "1")]
    pub(super) priority: i32,
}

/// `event_store.client.Empty`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

/// How a call ended that reached a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Status 0: the messages, as they came.
    Ok(Vec<Vec<u8>>),
    /// Another gRPC status, or none.
    Status(Refusal),
}

/// A gRPC status other than 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The code; 2 (UNKNOWN) where there was none.
    pub(super) code: i32,
    /// The HTTP status that says the same, or the one that came without a gRPC status.
    pub(super) http: u16,
    /// The sentence.
    pub(super) message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "gRPC status {} {}", self.code, self.message)
    }
}

/// Calls `method`, such as `operations.Operations/ResignNode`, at `base` (scheme, host, port).
///
/// # Errors
/// What the HTTP client met.
pub(super) async fn call(
    http: &reqwest::Client,
    base: &str,
    method: &str,
    message: &impl Message,
    credentials: Option<&Credentials>,
) -> Result<Answer, reqwest::Error> {
    let mut request = http
        .post(format!("{base}/event_store.client.{method}"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(frame(message));
    if let Some(Credentials { user, password }) = credentials {
        request = request.basic_auth(user, Some(password));
    }
    let response = request.send().await?;
    let http_status = response.status().as_u16();
    let at_once = status(response.headers());
    if let Some(Err(refusal)) = at_once {
        return Ok(Answer::Status(refusal));
    }
    let body: reqwest::Body = axum::http::Response::<reqwest::Body>::from(response).into_body();
    let collected = body.collect().await?;
    let ended = collected.trailers().and_then(status).or(at_once);
    let none = || Refusal { code: 2, http: http_status, message: format!("none, but HTTP status {http_status}") };
    Ok(match ended.unwrap_or_else(|| Err(none())) {
        Ok(()) => messages(&collected.to_bytes()).map_or_else(Answer::Status, Answer::Ok),
        Err(refusal) => Answer::Status(refusal),
    })
}

/// A message behind its prefix: not compressed, and its length.
fn frame(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}

/// The messages behind their prefixes.
fn messages(mut body: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
    let broken = |what: &str| Refusal { code: 13, http: 500, message: format!("the answer is {what}") };
    let mut found = Vec::new();
    while !body.is_empty() {
        let (prefix, rest) = body.split_at_checked(5).ok_or_else(|| broken("cut off"))?;
        if prefix[0] != 0 {
            return Err(broken("compressed, which was not offered"));
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let length = usize::try_from(length).map_err(|_| broken("too long"))?;
        let (message, rest) = rest.split_at_checked(length).ok_or_else(|| broken("cut off"))?;
        found.push(message.to_vec());
        body = rest;
    }
    Ok(found)
}

fn status(headers: &HeaderMap) -> Option<Result<(), Refusal>> {
    let code: i32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let http = match code {
        0 => return Some(Ok(())),
        3 => 400,
        4 => 504,
        5 | 12 => 404,
        7 => 403,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    let message = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
    let message = percent_encoding::percent_decode(message).decode_utf8_lossy().into_owned();
    Some(Err(Refusal { code, http, message }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_priorities_are_sent_as_such() {
        let framed = frame(&SetNodePriorityReq { priority: -1 });
        assert_eq!(framed[..5], [0, 0, 0, 0, 11]);
        assert_eq!(SetNodePriorityReq::decode(&framed[5..]).unwrap().priority, -1);
        assert_eq!(frame(&Empty {}), [0; 5]);
    }

    #[test]
    fn messages_are_taken_out_of_their_frames() {
        let two = [frame(&SetNodePriorityReq { priority: 3 }), frame(&Empty {})].concat();
        assert_eq!(messages(&two), Ok(vec![vec![8, 3], vec![]]));
        for (body, what) in [(&two[..4], "cut off"), (&two[..6], "cut off"), (&[1, 0, 0, 0, 0], "compressed")] {
            assert!(messages(body).unwrap_err().message.contains(what), "{body:?}");
        }
    }
}
