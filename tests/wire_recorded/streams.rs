//! The gRPC calls of one recording, in its order: the Streams service here, the small ones in `services`.

use std::collections::BTreeMap;

use esdb_rollout::sim::wire::proto::streams::streams_client::StreamsClient;
use esdb_rollout::sim::wire::proto::streams::*;
use futures::stream;
use tonic::Code;

use super::support::recorded::GRPC;
use super::support::{PATIENCE, config};
use super::*;

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
    let content = if given["uuid_option"].get("structured").is_some() {
        uuid_option::Content::Structured(())
    } else {
        uuid_option::Content::String(())
    };
    read_req::Options {
        stream_option: Some(read_from(given)),
        read_direction: match given["read_direction"].as_str() {
            Some("Backwards") => ReadDirection::Backwards,
            _ => ReadDirection::Forwards,
        }
        .into(),
        resolve_links: false,
        count_option: Some(match given["count"].as_str() {
            Some(count) => CountOption::Count(count.parse().expect("a count")),
            None => CountOption::Subscription(SubscriptionOptions {}),
        }),
        filter_option: Some(match given.get("filter") {
            Some(filter) => FilterOption::Filter(filter_options(filter)),
            None => FilterOption::NoFilter(()),
        }),
        uuid_option: Some(UuidOption { content: Some(content) }),
        control_option: None,
    }
}

/// What a recorded read is of, and where it starts.
fn read_from(given: &Value) -> read_req::options::StreamOption {
    use read_req::options::*;
    if let Some(all) = given.get("all") {
        let all_option =
            if all.get("end").is_some() { all_options::AllOption::End(()) } else { all_options::AllOption::Start(()) };
        return StreamOption::All(AllOptions { all_option: Some(all_option) });
    }
    let stream = &given["stream"];
    let revision_option = if let Some(n) = stream["revision"].as_str() {
        stream_options::RevisionOption::Revision(n.parse().expect("a revision"))
    } else if stream.get("end").is_some() {
        stream_options::RevisionOption::End(())
    } else {
        stream_options::RevisionOption::Start(())
    };
    StreamOption::Stream(StreamOptions {
        stream_identifier: name(stream["stream_identifier"]["stream_name"].as_str().expect("a stream")),
        revision_option: Some(revision_option),
    })
}

fn filter_options(given: &Value) -> read_req::options::FilterOptions {
    use read_req::options::{FilterOptions, filter_options};
    let prefix = given["stream_identifier"]["prefix"].as_array().expect("prefixes");
    let expression = filter_options::Expression {
        regex: String::new(),
        prefix: prefix.iter().map(|p| p.as_str().expect("a prefix").to_owned()).collect(),
    };
    let number = |key: &str| given[key].as_u64().and_then(|n| u32::try_from(n).ok()).expect("a number");
    FilterOptions {
        filter: Some(filter_options::Filter::StreamIdentifier(expression)),
        window: Some(filter_options::Window::Max(number("max"))),
        checkpoint_interval_multiplier: number("checkpointIntervalMultiplier"),
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
            if !event.custom_metadata.is_empty() {
                let text = String::from_utf8(event.custom_metadata).expect("UTF-8");
                map.insert("custom_metadata".to_owned(), text.into());
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
/// An append of events of this type, as a client sends it.
async fn append(client: &mut StreamsClient<Channel>, stream: &str, events: Vec<append_req::ProposedMessage>) {
    use append_req::{Content, Options, options::ExpectedStreamRevision};
    let options =
        Options { stream_identifier: name(stream), expected_stream_revision: Some(ExpectedStreamRevision::Any(())) };
    let messages: Vec<_> = std::iter::once(Content::Options(options))
        .chain(events.into_iter().map(Content::ProposedMessage))
        .map(|content| AppendReq { content: Some(content) })
        .collect();
    client.append(stream::iter(messages)).await.expect("an append");
}

fn proposed(recorded: &Value) -> append_req::ProposedMessage {
    let text = |key: &str| recorded[key].as_str().unwrap_or_default().as_bytes().to_vec();
    let metadata = |key: &str| (key.to_owned(), recorded["metadata"][key].as_str().expect(key).to_owned());
    append_req::ProposedMessage {
        id: id("random"),
        metadata: BTreeMap::from([metadata("type"), metadata("content-type")]),
        custom_metadata: text("custom_metadata"),
        data: text("data"),
    }
}

/// What the recorded cluster had in its log before: the events that its reads of `$all` show, written by the server itself and
/// by its projections, and others. Each is appended just before it is read.
async fn write_what_was_there(client: &mut StreamsClient<Channel>, recording: &Recording) {
    let events = recording["out"].as_array().expect("events");
    for event in events.iter().map(|e| &e["event"]["event"]) {
        let revision: usize = event["stream_revision"].as_str().unwrap_or("0").parse().expect("a revision");
        let stream = event["stream_identifier"]["stream_name"].as_str().expect("a stream");
        append(client, stream, vec![proposed(event); revision + 1]).await;
    }
}

/// The events between the server's own and those of the recorded calls: the filter finds none on the first page of 32.
const BETWEEN: usize = 58;

async fn read(
    client: &mut StreamsClient<Channel>,
    recording: &Recording,
    known: &[String],
) -> Result<Vec<Value>, Status> {
    let call = &recording["call"];
    let messages = client.read(request(call, ReadReq { options: Some(read_options(call)) })).await?;
    let (messages, error, open) = collected(messages.into_inner()).await;
    if let Some(error) = error {
        return Err(error);
    }
    let subscribes = recording.contains_key("open") || recording.contains_key("kinds");
    assert_eq!(open, subscribes, "{}: open", recording["case"]);
    Ok(messages.into_iter().map(|m| shown_read(m, known)).collect())
}

/// A long answer in the recorder's form: how many messages of each kind, and the first and the last.
fn summary(messages: &[Value], recording: &Recording) -> Value {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for key in messages.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        *kinds.entry(key).or_default() += 1;
    }
    let count = |key: &str| recording[key].as_array().expect("messages").len();
    json!({
        "kinds": kinds,
        "first": &messages[..count("first").min(messages.len())],
        "last": &messages[messages.len().saturating_sub(count("last"))..],
    })
}

#[tokio::test]
async fn calls_answer_as_recorded() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let nodes = Nodes::of(&cluster).await;
    let http = reqwest::Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    let all = GRPC.lines();
    let known: Vec<String> = all
        .iter()
        .flat_map(|r| r["call"]["events"].as_array().cloned().unwrap_or_default())
        .filter_map(|e| e["id"].as_str().map(str::to_owned))
        .collect();
    let first = all.iter().find(|r| r["case"] == "read $all forwards 2").expect("what was first in the log");
    let mut leader = StreamsClient::new(nodes.leader.clone());
    write_what_was_there(&mut leader, first).await;
    let filler = json!({"metadata": {"type": "t", "content-type": "application/json"}, "data": "{}"});
    append(&mut leader, "others", vec![proposed(&filler); BETWEEN]).await;
    for recording in &all {
        let case = recording["case"].as_str().expect("a case");
        if GRPC.excuse(recording).is_some() {
            services::is_not_implemented(&http, &cluster, recording).await;
            continue;
        }
        let call = &recording["call"];
        let mut client = StreamsClient::new(nodes.to(call));
        let normal_or_error = |key: &str| recording.get(key).map(normal);
        let (answer, expected) = match call["method"].as_str().expect("a method") {
            "Streams/Append" => {
                let answer = client.append(request(call, stream::iter(append_messages(call)))).await;
                (answer.map(|r| shown_append(r.into_inner())), normal_or_error("ok"))
            }
            "Streams/Delete" => {
                let options = delete_req::Options {
                    stream_identifier: name(asked_stream(call)),
                    expected_stream_revision: Some(delete_req::options::ExpectedStreamRevision::Any(())),
                };
                let answer = client.delete(request(call, DeleteReq { options: Some(options) })).await;
                (answer.map(|_| json!({"position": {}})), normal_or_error("ok"))
            }
            "Streams/Tombstone" => {
                let options = tombstone_req::Options {
                    stream_identifier: name(asked_stream(call)),
                    expected_stream_revision: Some(tombstone_req::options::ExpectedStreamRevision::Any(())),
                };
                let answer = client.tombstone(request(call, TombstoneReq { options: Some(options) })).await;
                (answer.map(|_| json!({"position": {}})), normal_or_error("ok"))
            }
            "Streams/Read" => {
                if case == "read $all backwards 1" {
                    write_what_was_there(&mut client, recording).await;
                }
                // A node other than the leader knows of a write a moment later.
                cluster.until("all nodes know all", support::all_know_all).await;
                let answer = read(&mut client, recording, &known).await;
                if recording.contains_key("kinds") {
                    let recorded = json!({
                        "kinds": recording["kinds"],
                        "first": recorded_messages(&recording["first"], &known),
                        "last": recorded_messages(&recording["last"], &known),
                    });
                    (answer.map(|messages| summary(&messages, recording)), Some(recorded))
                } else {
                    let recorded = recording.get("out").map(|out| recorded_messages(out, &known));
                    (answer.map(Value::Array), recorded.filter(|_| !recording.contains_key("code")))
                }
            }
            _ => (services::answer(&cluster, nodes.to(call), recording).await, normal_or_error("ok")),
        };
        match (answer, expected) {
            (Ok(answer), Some(expected)) => assert_eq!(answer, expected, "{case}"),
            (Err(error), None) => {
                assert_eq!(refused(&error), recorded_refusal(recording), "{case}");
                if error.code() == Code::NotFound {
                    names_the_leader(&error, &cluster);
                }
            }
            (answer, expected) => panic!("{case}: {answer:?} instead of {expected:?}"),
        }
    }
    cluster.wire.shutdown().await;
}

fn asked_stream(call: &Value) -> &str {
    call["request"]["options"]["stream_identifier"]["stream_name"].as_str().expect("a stream")
}

fn recorded_messages(recorded: &Value, known: &[String]) -> Value {
    let mut messages = normal(recorded);
    forget_random(&mut messages, known);
    messages
}

fn names_the_leader(error: &Status, cluster: &Cluster) {
    let leader = &cluster.addresses[cluster.leader()];
    assert_eq!(error.metadata().get("leader-endpoint-host").expect("a host"), leader.host.as_str());
    assert_eq!(error.metadata().get("leader-endpoint-port").expect("a port"), leader.port.to_string().as_str());
}
