//! The simulated cluster answers as a recorded one did. `tests/recorded/` holds excerpts of recordings of a real cluster of
//! 23.10.5: three voters and a replica.
#![cfg(feature = "esdb")]

#[path = "wire_support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use esdb_rollout::sim::wire::proto::event_store::client::{StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use esdb_rollout::sim::wire::proto::streams::streams_client::StreamsClient;
use esdb_rollout::sim::wire::proto::streams::*;
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};
use support::{Cluster, PATIENCE, config};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use uuid::Uuid;

type Recording = Map<String, Value>;

fn recordings(text: &str) -> Vec<Recording> {
    text.lines().map(|line| serde_json::from_str(line).expect("a recording")).collect()
}

fn name(stream: &str) -> Option<StreamIdentifier> {
    Some(StreamIdentifier { stream_name: stream.as_bytes().to_vec() })
}

/// An id as recorded; a random one if the recording says so.
#[expect(clippy::disallowed_methods, reason = "the recording says random")]
fn id(text: &str) -> Option<WireUuid> {
    let text = if text == "random" { Uuid::new_v4().to_string() } else { text.to_owned() };
    Some(WireUuid { value: Some(wire_uuid::Value::String(text)) })
}

/// Data as recorded: literally, or by its length.
fn data(text: &str) -> Vec<u8> {
    match text.strip_prefix('<').and_then(|t| t.strip_suffix(" bytes>")) {
        Some(length) => vec![b'x'; length.parse().expect("a length")],
        None => text.as_bytes().to_vec(),
    }
}

struct Clients {
    leader: StreamsClient<Channel>,
    follower: StreamsClient<Channel>,
    replica: StreamsClient<Channel>,
}

impl Clients {
    async fn of(cluster: &Cluster) -> Clients {
        let client = async |n| {
            let channel =
                Channel::from_shared(cluster.http(n, "")).expect("an address").connect().await.expect("a connection");
            StreamsClient::new(channel)
        };
        Clients {
            leader: client(cluster.leader()).await,
            follower: client(cluster.follower()).await,
            replica: client(cluster.replica()).await,
        }
    }

    fn to(&self, call: &Value) -> StreamsClient<Channel> {
        match call["to"].as_str() {
            Some("follower") => self.follower.clone(),
            Some("replica") => self.replica.clone(),
            _ => self.leader.clone(),
        }
    }
}

fn request<T>(call: &Value, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if call["metadata"]["requires-leader"] == "true" {
        request.metadata_mut().insert("requires-leader", "true".parse().expect("ASCII"));
    }
    request
}

/// A recorded message without what differs from cluster to cluster, and without the recorder's own additions.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| {
                let added = key.contains("_option")
                    || ["content", "result", "value"].contains(&key.as_str()) && value.is_string();
                let named = *key == "position" && value.is_string();
                let own = ["commit_position", "prepare_position", "created", "subscription_id"].contains(&key.as_str());
                (!added || value.as_str().is_some_and(|v| v.starts_with("base64:"))) && !named && !own
            });
            Value::Object(kept.map(|(key, value)| (key.clone(), normal(value))).collect())
        }
        Value::Array(list) => list.iter().map(normal).collect(),
        other => other.clone(),
    }
}

/// Our error in the recorder's form.
fn refused(error: &Status) -> Value {
    let mut trailers = Map::new();
    for key in ["exception", "stream-name", "maximum-append-size", "required-metadata-properties"] {
        if let Some(value) = error.metadata().get(key) {
            trailers.insert(key.to_owned(), value.to_str().expect("ASCII").into());
        }
    }
    json!({"code": i32::from(error.code()), "details": error.message(), "trailers": trailers})
}

/// A recorded error; its leader's address is not ours.
fn recorded_refusal(recording: &Recording) -> Value {
    let mut trailers = recording["trailers"].as_object().cloned().unwrap_or_default();
    trailers.retain(|key, _| {
        !["content-type", "content-length", "leader-endpoint-host", "leader-endpoint-port"].contains(&key.as_str())
    });
    json!({"code": recording["code"], "details": recording["details"], "trailers": trailers})
}

fn shown_append(response: AppendResp) -> Value {
    use append_resp::wrong_expected_version as wrong;
    use append_resp::{Result, success};
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    match response.result.expect("a result") {
        Result::Success(s) => {
            match s.current_revision_option.expect("a revision") {
                success::CurrentRevisionOption::CurrentRevision(n) => put("current_revision", n.to_string().into()),
                success::CurrentRevisionOption::NoStream(()) => put("no_stream", json!({})),
            };
            match s.position_option.expect("a position") {
                success::PositionOption::Position(p) => {
                    assert_eq!(p.commit_position, p.prepare_position);
                    put("position", json!({}))
                }
                success::PositionOption::NoPosition(()) => put("no_position", json!({})),
            };
            json!({"success": map})
        }
        Result::WrongExpectedVersion(w) => {
            match w.current_revision_option_20_6_0.expect("for old clients") {
                wrong::CurrentRevisionOption2060::CurrentRevision2060(n) => {
                    put("current_revision_20_6_0", n.to_string().into())
                }
                wrong::CurrentRevisionOption2060::NoStream2060(()) => put("no_stream_20_6_0", json!({})),
            };
            match w.expected_revision_option_20_6_0.expect("for old clients") {
                wrong::ExpectedRevisionOption2060::ExpectedRevision2060(n) => {
                    put("expected_revision_20_6_0", n.to_string().into())
                }
                wrong::ExpectedRevisionOption2060::Any2060(()) => put("any_20_6_0", json!({})),
                wrong::ExpectedRevisionOption2060::StreamExists2060(()) => put("stream_exists_20_6_0", json!({})),
            };
            match w.current_revision_option.expect("for clients") {
                wrong::CurrentRevisionOption::CurrentRevision(n) => put("current_revision", n.to_string().into()),
                wrong::CurrentRevisionOption::CurrentNoStream(()) => put("current_no_stream", json!({})),
            };
            match w.expected_revision_option.expect("for clients") {
                wrong::ExpectedRevisionOption::ExpectedRevision(n) => put("expected_revision", n.to_string().into()),
                wrong::ExpectedRevisionOption::ExpectedAny(()) => put("expected_any", json!({})),
                wrong::ExpectedRevisionOption::ExpectedStreamExists(()) => put("expected_stream_exists", json!({})),
                wrong::ExpectedRevisionOption::ExpectedNoStream(()) => put("expected_no_stream", json!({})),
            };
            json!({"wrong_expected_version": map})
        }
    }
}

fn append_messages(call: &Value) -> Vec<AppendReq> {
    use append_req::options::ExpectedStreamRevision as Expected;
    use append_req::{Content, Options, ProposedMessage};
    let expected = match &call["options"]["expected"] {
        Value::Number(n) => Expected::Revision(n.as_u64().expect("a revision")),
        Value::String(word) if word == "none" => Expected::NoStream(()),
        Value::String(word) if word == "exists" => Expected::StreamExists(()),
        _ => Expected::Any(()),
    };
    let options = Options {
        stream_identifier: name(call["options"]["stream"].as_str().expect("a stream")),
        expected_stream_revision: Some(expected),
    };
    let events = call["events"].as_array().expect("events").iter().map(|e| {
        let text = |key: &str| e[key].as_str().expect(key).to_owned();
        Content::ProposedMessage(ProposedMessage {
            id: id(&text("id")),
            metadata: BTreeMap::from([
                ("type".to_owned(), text("type")),
                ("content-type".to_owned(), text("contentType")),
            ]),
            custom_metadata: Vec::new(),
            data: data(&text("data")),
        })
    });
    std::iter::once(Content::Options(options))
        .chain(events)
        .map(|content| AppendReq { content: Some(content) })
        .collect()
}

fn read_options(call: &Value) -> read_req::Options {
    use read_req::options::*;
    let given = &call["options"];
    let stream = &given["stream"];
    let revision_option = if let Some(n) = stream["revision"].as_str() {
        stream_options::RevisionOption::Revision(n.parse().expect("a revision"))
    } else if stream.get("end").is_some() {
        stream_options::RevisionOption::End(())
    } else {
        stream_options::RevisionOption::Start(())
    };
    let content = if given["uuid_option"].get("structured").is_some() {
        uuid_option::Content::Structured(())
    } else {
        uuid_option::Content::String(())
    };
    read_req::Options {
        stream_option: Some(StreamOption::Stream(StreamOptions {
            stream_identifier: name(stream["stream_identifier"]["stream_name"].as_str().expect("a stream")),
            revision_option: Some(revision_option),
        })),
        read_direction: if given["read_direction"] == "Backwards" {
            ReadDirection::Backwards
        } else {
            ReadDirection::Forwards
        }
        .into(),
        resolve_links: false,
        count_option: Some(match given["count"].as_str() {
            Some(count) => CountOption::Count(count.parse().expect("a count")),
            None => CountOption::Subscription(SubscriptionOptions {}),
        }),
        filter_option: Some(FilterOption::NoFilter(())),
        uuid_option: Some(UuidOption { content: Some(content) }),
        control_option: None,
    }
}

fn shown_read(response: ReadResp, known: &[String]) -> Value {
    use read_resp::Content;
    match response.content.expect("content") {
        Content::Event(e) => {
            assert!(e.link.is_none());
            let event = e.event.expect("an event");
            assert_eq!(event.commit_position, event.prepare_position);
            let created: i64 = event.metadata["created"].parse().expect("ticks");
            assert!(created > 17_000_000_000_000_000, "ticks since 1970: {created}");
            let id = match event.id.and_then(|id| id.value).expect("an id") {
                wire_uuid::Value::String(text) => {
                    json!({"string": if known.contains(&text) { text } else { "random".to_owned() }})
                }
                wire_uuid::Value::Structured(s) => json!({"structured": {
                    "most_significant_bits": s.most_significant_bits.to_string(),
                    "least_significant_bits": s.least_significant_bits.to_string(),
                }}),
            };
            let mut shown = json!({
                "id": id,
                "stream_identifier": {"stream_name": String::from_utf8(event.stream_identifier.expect("a stream").stream_name).expect("UTF-8")},
                "metadata": {"type": event.metadata["type"], "content-type": event.metadata["content-type"]},
            });
            let map = shown.as_object_mut().expect("an object");
            if event.stream_revision > 0 {
                map.insert("stream_revision".to_owned(), event.stream_revision.to_string().into());
            }
            if !event.data.is_empty() {
                map.insert("data".to_owned(), String::from_utf8(event.data).expect("UTF-8").into());
            }
            json!({"event": {"event": shown}})
        }
        Content::Confirmation(c) => {
            assert!(Uuid::parse_str(&c.subscription_id).is_ok());
            json!({"confirmation": {}})
        }
        Content::Checkpoint(_) => json!({"checkpoint": {}}),
        Content::StreamNotFound(s) => {
            let stream = String::from_utf8(s.stream_identifier.expect("a stream").stream_name).expect("UTF-8");
            json!({"stream_not_found": {"stream_identifier": {"stream_name": stream}}})
        }
        Content::CaughtUp(_) => json!({"caught_up": {}}),
        other => panic!("unexpected {other:?}"),
    }
}

/// Ids that were drawn at random while recording are called so.
fn forget_random(value: &mut Value, known: &[String]) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("string")
                && !known.contains(text)
            {
                *text = "random".to_owned();
            }
            map.values_mut().for_each(|v| forget_random(v, known));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| forget_random(v, known)),
        _ => {}
    }
}

/// What comes of a call until it ends, or until nothing came for a while.
async fn collected<T>(mut messages: tonic::Streaming<T>) -> (Vec<T>, Option<Status>, bool) {
    let mut all = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(250), messages.message()).await {
            Err(_) => return (all, None, true),
            Ok(Ok(Some(message))) => all.push(message),
            Ok(Ok(None)) => return (all, None, false),
            Ok(Err(error)) => return (all, Some(error), false),
        }
    }
}

#[tokio::test]
async fn streams_answer_as_recorded() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let clients = Clients::of(&cluster).await;
    let all = recordings(include_str!("recorded/grpc-23.10.5.jsonl"));
    let known: Vec<String> = all
        .iter()
        .flat_map(|r| r["call"]["events"].as_array().cloned().unwrap_or_default())
        .filter_map(|e| e["id"].as_str().map(str::to_owned))
        .collect();
    let mut replayed = 0;
    for recording in all {
        let case = recording["case"].as_str().expect("a case").to_owned();
        let call = &recording["call"];
        let mut client = clients.to(call);
        let (answer, expected) = match call["method"].as_str().expect("a method") {
            "Streams/Append" => {
                let answer = client.append(request(call, stream::iter(append_messages(call)))).await;
                (answer.map(|r| shown_append(r.into_inner())), recording.get("ok").map(normal))
            }
            "Streams/Delete" => {
                let stream = call["request"]["options"]["stream_identifier"]["stream_name"].as_str().expect("a stream");
                let options = delete_req::Options {
                    stream_identifier: name(stream),
                    expected_stream_revision: Some(delete_req::options::ExpectedStreamRevision::Any(())),
                };
                let answer = client.delete(request(call, DeleteReq { options: Some(options) })).await;
                (answer.map(|_| json!({"position": {}})), recording.get("ok").map(normal))
            }
            "Streams/Tombstone" => {
                let stream = call["request"]["options"]["stream_identifier"]["stream_name"].as_str().expect("a stream");
                let options = tombstone_req::Options {
                    stream_identifier: name(stream),
                    expected_stream_revision: Some(tombstone_req::options::ExpectedStreamRevision::Any(())),
                };
                let answer = client.tombstone(request(call, TombstoneReq { options: Some(options) })).await;
                (answer.map(|_| json!({"position": {}})), recording.get("ok").map(normal))
            }
            "Streams/Read" => {
                // A node other than the leader knows of a write a moment later.
                tokio::time::sleep(Duration::from_millis(if call["to"] == "leader" { 0 } else { 50 })).await;
                let answer = match client.read(request(call, ReadReq { options: Some(read_options(call)) })).await {
                    Err(error) => Err(error),
                    Ok(messages) => match collected(messages.into_inner()).await {
                        (_, Some(error), _) => Err(error),
                        (messages, None, open) => {
                            assert_eq!(open, recording.contains_key("open"), "{case}: open");
                            Ok(messages.into_iter().map(|m| shown_read(m, &known)).collect())
                        }
                    },
                };
                let expected = (!recording.contains_key("code")).then(|| {
                    let mut out = normal(&recording["out"]);
                    forget_random(&mut out, &known);
                    out
                });
                (answer, expected)
            }
            other => panic!("{other} is not replayed"),
        };
        match (answer, expected) {
            (Ok(answer), Some(expected)) => assert_eq!(answer, expected, "{case}"),
            (Err(error), None) => {
                assert_eq!(refused(&error), recorded_refusal(&recording), "{case}");
                if error.code() == Code::NotFound {
                    let leader = &cluster.addresses[cluster.leader()];
                    assert_eq!(error.metadata().get("leader-endpoint-host").expect("a host"), leader.host.as_str());
                    assert_eq!(
                        error.metadata().get("leader-endpoint-port").expect("a port"),
                        leader.port.to_string().as_str()
                    );
                }
            }
            (answer, expected) => panic!("{case}: {answer:?} instead of {expected:?}"),
        }
        replayed += 1;
    }
    assert!(replayed >= 40, "only {replayed} were replayed");
    cluster.wire.shutdown().await;
}

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
    let clients = Clients::of(&cluster).await;
    for recording in recordings(include_str!("recorded/batch-append-23.10.5.jsonl")) {
        let case = recording["case"].as_str().expect("a case").to_owned();
        let call = &recording["call"];
        if case == "tombstoned stream, after" {
            let options = tombstone_req::Options {
                stream_identifier: name("tomb-batch-01b6f080"),
                expected_stream_revision: Some(tombstone_req::options::ExpectedStreamRevision::Any(())),
            };
            clients.leader.clone().tombstone(TombstoneReq { options: Some(options) }).await.expect("a tombstone");
        }
        let requests: Vec<_> = call["requests"].as_array().expect("requests").iter().map(batch_request).collect();
        let half_closes = recording.contains_key("ended");
        let requests = stream::iter(requests);
        let requests = if half_closes { requests.boxed() } else { requests.chain(stream::pending()).boxed() };
        let answer = clients.to(call).batch_append(request(call, requests)).await;
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

/// The keys of a pretty-printed JSON text, each with its depth, in their order; of a list of likes only the first.
fn keys(body: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for line in body.lines() {
        if let Some((key, _)) = line.split_once("\":")
            && !seen.contains(&key.to_owned())
        {
            seen.push(key.to_owned());
        }
    }
    seen
}

#[tokio::test]
async fn http_answers_as_recorded() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
    for recording in recordings(include_str!("recorded/http-23.10.5.jsonl")) {
        let case = recording["case"].as_str().expect("a case").to_owned();
        let node = if case.contains("replica") && !case.contains("replication") {
            cluster.replica()
        } else if case.contains("follower") || case.starts_with("resign with") {
            // The leader resigns only where a test is about that.
            cluster.follower()
        } else {
            cluster.leader()
        };
        let (method, path) = recording["request"].as_str().and_then(|r| r.split_once(' ')).expect("a request");
        let mut request = http.request(method.parse().expect("a method"), cluster.http(node, path));
        for (key, value) in recording["requestHeaders"].as_object().expect("headers") {
            request = request.header(key, value.as_str().expect("text"));
        }
        let response = request.send().await.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(u64::from(response.status().as_u16()), recording["status"].as_u64().expect("a status"), "{case}");
        for (key, value) in recording["headers"].as_object().expect("headers") {
            let ours = response.headers().get(key).map(|v| v.to_str().expect("ASCII"));
            if key != "Content-Length" {
                assert_eq!(ours, value.as_str(), "{case}: {key}");
            }
        }
        let recorded = recording["body"].as_str().expect("a body");
        let ours = response.text().await.expect("a body");
        if recorded.starts_with(['{', '[']) && recorded.len() > 2 {
            // Long bodies were cut by the recorder.
            let cut = if serde_json::from_str::<Value>(recorded).is_ok() { usize::MAX } else { keys(recorded).len() };
            assert_eq!(keys(&ours).into_iter().take(cut).collect::<Vec<_>>(), keys(recorded), "{case}");
        } else {
            assert_eq!(ours, recorded, "{case}");
        }
    }
    cluster.wire.shutdown().await;
}
