//! Two gRPC calls of the Operations service, sent to exactly one node. They stay open where `DisableAdminUi` removes the HTTP
//! routes. The crate's own calls go where it likes and cannot send a negative priority; and tonic's channel, with two rustls
//! providers in the build, panics without a process-wide one, which nobody but the crate may install. A unary call is one
//! POST with a five-byte prefix, so it is made with the HTTP client that is there.

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
    /// Status 0.
    Ok,
    /// Another gRPC status, or an HTTP status without one, as the HTTP status that says the same.
    Status(u16, String),
}

/// Calls `method` of the Operations service at `base` (scheme, host, port).
///
/// # Errors
/// What the HTTP client met.
pub(super) async fn operations(
    http: &reqwest::Client,
    base: &str,
    method: &str,
    message: &impl Message,
    credentials: Option<&Credentials>,
) -> Result<Answer, reqwest::Error> {
    let mut request = http
        .post(format!("{base}/event_store.client.operations.Operations/{method}"))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(frame(message));
    if let Some(Credentials { user, password }) = credentials {
        request = request.basic_auth(user, Some(password));
    }
    let response = request.send().await?;
    let http_status = response.status().as_u16();
    if let Some(answer) = status(response.headers()) {
        return Ok(answer);
    }
    let body: reqwest::Body = axum::http::Response::<reqwest::Body>::from(response).into_body();
    let collected = body.collect().await?;
    let answer = collected.trailers().and_then(status);
    Ok(answer.unwrap_or_else(|| Answer::Status(http_status, "no gRPC status".to_owned())))
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

fn status(headers: &HeaderMap) -> Option<Answer> {
    let code: i32 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|m| m.to_str().ok()).unwrap_or_default();
    let http = match code {
        0 => return Some(Answer::Ok),
        3 => 400,
        4 => 504,
        5 | 12 => 404,
        7 => 403,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    Some(Answer::Status(http, format!("gRPC status {code} {message}")))
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
}
