//! Batch append.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use esdb_rollout::sim::wire::proto::streams::streams_client::StreamsClient;
use esdb_rollout::sim::wire::proto::streams::*;
use futures::{StreamExt, stream};
use tonic::Code;

use super::support::config;
use super::support::recorded::BATCH_APPEND;
use super::*;

fn batch_request(given: &Value) -> BatchAppendReq {
    use batch_append_req::options::{DeadlineOption, ExpectedStreamPosition as Expected};
    use batch_append_req::{Options, ProposedMessage};
    let options = given.get("options").map(|o| Options {
        stream_identifier: name(o["stream_identifier"]["stream_name"].as_str().expect("a stream")),
        expected_stream_position: Some(if let Some(n) = o["stream_position"].as_str() {
            Expected::StreamPosition(n.parse().expect("a position"))
        } else if o.get("no_stream").is_some() {
            Expected::NoStream(())
        } else if o.get("stream_exists").is_some() {
            Expected::StreamExists(())
        } else {
            Expected::Any(())
        }),
        deadline_option: o.get("deadline").map(|d| {
            let seconds = d["seconds"].as_str().expect("seconds").parse().expect("a number");
            DeadlineOption::Deadline(prost_types::Duration { seconds, nanos: 0 })
        }),
    });
    let correlation_id = given.get("correlation_id").map(|c| WireUuid {
        value: Some(match c["string"].as_str() {
            Some(text) => wire_uuid::Value::String(text.to_owned()),
            None => {
                let half = |key: &str| c["structured"][key].as_str().expect(key).parse().expect("a number");
                wire_uuid::Value::Structured(wire_uuid::Structured {
                    most_significant_bits: half("most_significant_bits"),
                    least_significant_bits: half("least_significant_bits"),
                })
            }
        }),
    });
    let proposed_messages = given["proposed_messages"].as_array().expect("events").iter().map(|e| ProposedMessage {
        id: id(e["id"]["string"].as_str().expect("an id")),
        metadata: e["metadata"]
            .as_object()
            .expect("metadata")
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().expect("text").to_owned()))
            .collect(),
        custom_metadata: Vec::new(),
        data: data(e["data"].as_str().expect("data")),
    });
    BatchAppendReq {
        correlation_id,
        options,
        proposed_messages: proposed_messages.collect(),
        is_final: given["is_final"] == true,
    }
}

fn shown_batch(response: BatchAppendResp) -> Value {
    use batch_append_resp::{Result, success};
    assert!(response.expected_stream_position.is_none());
    let mut map = Map::new();
    if let Some(id) = response.correlation_id {
        let id = match id.value.expect("a value") {
            wire_uuid::Value::String(text) => json!({"string": text}),
            wire_uuid::Value::Structured(s) => json!({"structured": {
                "most_significant_bits": s.most_significant_bits.to_string(),
                "least_significant_bits": s.least_significant_bits.to_string(),
            }}),
        };
        map.insert("correlation_id".to_owned(), id);
    }
    if let Some(stream) = response.stream_identifier {
        map.insert(
            "stream_identifier".to_owned(),
            json!({"stream_name": String::from_utf8(stream.stream_name).expect("UTF-8")}),
        );
    }
    match response.result.expect("a result") {
        Result::Success(s) => {
            let revision = match s.current_revision_option.expect("a revision") {
                success::CurrentRevisionOption::CurrentRevision(n) => n.to_string(),
                success::CurrentRevisionOption::NoStream(()) => "none".to_owned(),
            };
            map.insert("success".to_owned(), json!({"current_revision": revision, "position": {}}));
        }
        Result::Error(e) => {
            let code = match Code::from(e.code) {
                Code::AlreadyExists => "ALREADY_EXISTS",
                Code::NotFound => "NOT_FOUND",
                Code::InvalidArgument => "INVALID_ARGUMENT",
                other => panic!("unexpected {other:?}"),
            };
            let details = e.details.expect("details");
            let details =
                json!({"type_url": details.type_url, "value": format!("base64:{}", STANDARD.encode(details.value))});
            map.insert("error".to_owned(), json!({"code": code, "message": e.message, "details": details}));
        }
    }
    Value::Object(map)
}

#[tokio::test]
async fn batch_appends_answer_as_recorded() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let nodes = Nodes::of(&cluster).await;
    for recording in BATCH_APPEND.lines() {
        let case = recording["case"].as_str().expect("a case").to_owned();
        let call = &recording["call"];
        if case == "tombstoned stream, after" {
            let options = tombstone_req::Options {
                stream_identifier: name("tomb-batch-01b6f080"),
                expected_stream_revision: Some(tombstone_req::options::ExpectedStreamRevision::Any(())),
            };
            StreamsClient::new(nodes.leader.clone())
                .tombstone(TombstoneReq { options: Some(options) })
                .await
                .expect("a tombstone");
        }
        let requests: Vec<_> = call["requests"].as_array().expect("requests").iter().map(batch_request).collect();
        let half_closes = recording.contains_key("ended");
        let requests = stream::iter(requests);
        let requests = if half_closes { requests.boxed() } else { requests.chain(stream::pending()).boxed() };
        let answer = StreamsClient::new(nodes.to(call)).batch_append(request(call, requests)).await;
        let (responses, error, open) = match answer {
            Ok(messages) => collected(messages.into_inner()).await,
            Err(error) => (Vec::new(), Some(error), false),
        };
        match error {
            Some(error) => assert_eq!(refused(&error), recorded_refusal(&recording), "{case}"),
            None => {
                assert!(!recording.contains_key("code"), "{case}: no error");
                assert_eq!(open, !half_closes, "{case}: open");
            }
        }
        let responses: Value = responses.into_iter().map(shown_batch).collect();
        assert_eq!(responses, normal(&recording["responses"]), "{case}");
    }
    cluster.wire.shutdown().await;
}
