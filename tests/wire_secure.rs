//! A secure simulated cluster answers as a recorded one did: TLS, users, and what each kind of caller gets.
#![cfg(feature = "esdb")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

#[path = "wire_support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use esdb_rollout::sim::wire::proto::event_store::client::{StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use esdb_rollout::sim::wire::proto::gossip::gossip_client::GossipClient;
use esdb_rollout::sim::wire::proto::operations::SetNodePriorityReq;
use esdb_rollout::sim::wire::proto::operations::operations_client::OperationsClient;
use esdb_rollout::sim::wire::proto::streams::streams_client::StreamsClient;
use esdb_rollout::sim::wire::proto::streams::*;
use futures::stream;
use serde_json::{Map, Value, json};
use support::recorded::{GRPC_SECURE, HTTP_SECURE};
use support::{Cluster, PATIENCE, config};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status};
use uuid::Uuid;

async fn secure() -> (Cluster, String) {
    // Several tests of this process may be first; this binary has no other user of a provider.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let (cluster, ca) = Cluster::start_secure(config("23.10.5.0"), |_| vec!["127.0.0.1".to_owned()]).await;
    cluster.until("a leader", |w| w.leader().is_some()).await;
    (cluster, ca)
}

/// A line of credentials, by the recorder's name of the caller.
fn authorization(caller: &str) -> Option<String> {
    let (user, password) = match caller {
        "anonymous" => return None,
        "admin" => ("admin", "changeit"),
        "ops" => ("ops", "changeit"),
        "worker" => ("worker", "W0rker-secret"),
        "wrong password" => ("admin", "wrong"),
        "unknown user" => ("nobody", "changeit"),
        other => panic!("{other} is unknown"),
    };
    Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn request<T>(caller: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(line) = authorization(caller) {
        request.metadata_mut().insert("authorization", line.parse().expect("ASCII"));
    }
    request
}

async fn channel(cluster: &Cluster, ca: &str, n: usize) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let channel = Channel::from_shared(cluster.https(n, "")).expect("an address").tls_config(tls).expect("TLS");
    channel.connect().await.expect("a connection")
}

fn name(stream: &str) -> Option<StreamIdentifier> {
    Some(StreamIdentifier { stream_name: stream.as_bytes().to_vec() })
}

#[expect(clippy::disallowed_methods, reason = "a client's own id")]
fn appended(stream: &str, event_type: &str, data: &str) -> Vec<AppendReq> {
    use append_req::{Content, Options, ProposedMessage, options::ExpectedStreamRevision};
    let content_type = if event_type == "$>" { "application/octet-stream" } else { "application/json" };
    let options = Content::Options(Options {
        stream_identifier: name(stream),
        expected_stream_revision: Some(ExpectedStreamRevision::Any(())),
    });
    let message = Content::ProposedMessage(ProposedMessage {
        id: Some(WireUuid { value: Some(wire_uuid::Value::String(Uuid::new_v4().to_string())) }),
        metadata: BTreeMap::from([
            ("type".to_owned(), event_type.to_owned()),
            ("content-type".to_owned(), content_type.to_owned()),
        ]),
        custom_metadata: Vec::new(),
        data: data.as_bytes().to_vec(),
    });
    [options, message].into_iter().map(|content| AppendReq { content: Some(content) }).collect()
}

async fn append(channel: &Channel, caller: &str, stream: &str, event_type: &str, data: &str) -> Result<Value, Status> {
    let messages = stream::iter(appended(stream, event_type, data));
    let answer = StreamsClient::new(channel.clone()).append(request(caller, messages)).await?;
    match answer.into_inner().result.expect("a result") {
        append_resp::Result::Success(append_resp::Success {
            current_revision_option: Some(append_resp::success::CurrentRevisionOption::CurrentRevision(n)),
            ..
        }) => Ok(json!({"ok": {"current_revision": n.to_string()}})),
        other => panic!("unexpected {other:?}"),
    }
}

/// Reads up to `count` events, or subscribes for 0; what is asked is a stream or, without one, all.
async fn read(channel: &Channel, caller: &str, stream: Option<&str>, count: u64) -> Result<Value, Status> {
    use read_req::options::*;
    let prefix = filter_options::Expression { regex: String::new(), prefix: vec!["clusterUpdate-".to_owned()] };
    let options = read_req::Options {
        stream_option: Some(match stream {
            Some(stream) => StreamOption::Stream(StreamOptions {
                stream_identifier: name(stream),
                revision_option: Some(stream_options::RevisionOption::Start(())),
            }),
            None => StreamOption::All(AllOptions { all_option: Some(all_options::AllOption::Start(())) }),
        }),
        read_direction: ReadDirection::Forwards.into(),
        resolve_links: false,
        count_option: Some(match count {
            0 => CountOption::Subscription(SubscriptionOptions {}),
            count => CountOption::Count(count),
        }),
        filter_option: Some(match count {
            0 => FilterOption::Filter(FilterOptions {
                filter: Some(filter_options::Filter::StreamIdentifier(prefix)),
                window: Some(filter_options::Window::Max(32)),
                checkpoint_interval_multiplier: 1,
            }),
            _ => FilterOption::NoFilter(()),
        }),
        uuid_option: Some(UuidOption { content: Some(uuid_option::Content::String(())) }),
        control_option: None,
    };
    let answer = StreamsClient::new(channel.clone()).read(request(caller, ReadReq { options: Some(options) })).await?;
    let mut messages = answer.into_inner();
    let mut kinds = Vec::new();
    let open = loop {
        match tokio::time::timeout(Duration::from_millis(250), messages.message()).await {
            Err(_) => break true,
            Ok(message) => match message? {
                None => break false,
                Some(message) => kinds.push(match message.content.expect("content") {
                    read_resp::Content::Event(_) => "event",
                    read_resp::Content::Confirmation(_) => "confirmation",
                    read_resp::Content::CaughtUp(_) => "caught_up",
                    read_resp::Content::Checkpoint(_) => "checkpoint",
                    other => panic!("unexpected {other:?}"),
                }),
            },
        }
    };
    let number = kinds.len();
    kinds.truncate(2);
    let mut shown = json!({"out": kinds, "count": number});
    if open {
        shown["open"] = true.into();
        // How many checkpoints came between depends on what else is in the log.
        shown["count"] = Value::Null;
    }
    Ok(shown)
}

/// A unary call to a service that is not simulated: its status.
async fn status_of(http: &reqwest::Client, cluster: &Cluster, caller: &str, method: &str) -> Result<Value, Status> {
    let mut call = http
        .post(cluster.https(cluster.leader(), &format!("/event_store.client.{method}")))
        .version(reqwest::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(vec![0; 5]);
    if let Some(line) = authorization(caller) {
        call = call.header("authorization", line);
    }
    let answer = call.send().await.expect("an answer");
    let mut status = Status::from_header_map(answer.headers()).expect("a status");
    if let Some(value) = answer.headers().get("exception") {
        status.metadata_mut().insert("exception", value.to_str().expect("ASCII").parse().expect("ASCII"));
    }
    Err(status)
}

fn refused(error: &Status) -> Value {
    let mut trailers = Map::new();
    for key in ["exception", "leader-endpoint-host", "leader-endpoint-port"] {
        if let Some(value) = error.metadata().get(key) {
            trailers.insert(key.to_owned(), value.to_str().expect("ASCII").into());
        }
    }
    json!({"code": i32::from(error.code()), "details": error.message(), "trailers": trailers})
}

fn client(ca: &str) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
    let builder = reqwest::Client::builder().tls_built_in_root_certs(false).add_root_certificate(ca);
    builder.timeout(PATIENCE).build().expect("a client")
}

#[tokio::test]
async fn each_caller_gets_over_grpc_what_was_recorded() {
    const STREAM: &str = "clusterUpdate-95aa05cd-180d-4c86-bd47-2025b645afed";
    const CATEGORY: &str = "$ce-clusterUpdate";
    const ANYBODY_READS: &str = r#"{"$acl":{"$r":"$all"}}"#;
    const WORKER_READS: &str = r#"{"$acl":{"$r":["worker","$admins"]}}"#;
    const WORKER_ONLY: &str = r#"{"$acl":{"$r":["worker","$admins"],"$w":["worker","$admins"],"$d":"$admins","$mr":"$admins","$mw":"$admins"}}"#;

    let (cluster, ca) = secure().await;
    let http = client(&ca);
    let leader = channel(&cluster, &ca, cluster.leader()).await;
    let follower = channel(&cluster, &ca, cluster.follower()).await;
    let replica = channel(&cluster, &ca, cluster.replica()).await;
    // The category projection is not run here: what it writes, and for whom, is written by hand.
    append(&leader, "admin", &format!("$${CATEGORY}"), "$metadata", ANYBODY_READS).await.expect("metadata");

    let mut replayed = 0;
    for recording in GRPC_SECURE.lines() {
        let (case, caller) = (recording["case"].as_str().expect("a case"), recording["as"].as_str().expect("a caller"));
        if GRPC_SECURE.excuse(&recording).is_some() {
            continue;
        }
        let metadata = format!("$${STREAM}");
        let what = case.split_once(": ").filter(|(when, _)| when.starts_with("after")).map_or(case, |(_, what)| what);
        let answer = match what {
            "append clusterUpdate-…" => append(&leader, caller, STREAM, "t", "{}").await,
            "append $system" => append(&leader, caller, "$system-of-a-test", "t", "{}").await,
            "append over replica, with user, no requires-leader" => append(&replica, caller, STREAM, "t", "{}").await,
            "append over follower, with user, no requires-leader" => append(&follower, caller, STREAM, "t", "{}").await,
            "write metadata $$clusterUpdate-…" => append(&leader, caller, &metadata, "$metadata", "{}").await,
            "write ACL of $all ($$$all): $r worker" => {
                append(&leader, caller, "$$$all", "$metadata", WORKER_READS).await
            }
            "write ACL of stream: only worker and $admins" => {
                append(&leader, caller, &metadata, "$metadata", WORKER_ONLY).await
            }
            "read clusterUpdate-…" => read(&leader, caller, Some(STREAM), 5).await,
            "read $ce-clusterUpdate" => read(&leader, caller, Some(CATEGORY), 5).await,
            "read $all" => read(&leader, caller, None, 2).await,
            "subscribe $all, prefix filter" => read(&leader, caller, None, 0).await,
            "SetNodePriority 0 on follower" => {
                let message = request(caller, SetNodePriorityReq { priority: 0 });
                let answer = OperationsClient::new(follower.clone()).set_node_priority(message).await;
                answer.map(|_| json!({"ok": {}}))
            }
            "ResignNode on follower" => {
                let answer = OperationsClient::new(follower.clone()).resign_node(request(caller, ())).await;
                answer.map(|_| json!({"ok": {}}))
            }
            "Gossip read" => {
                let answer = GossipClient::new(leader.clone()).read(request(caller, ())).await;
                answer.map(|a| json!({"ok": {"members": a.into_inner().members.len()}}))
            }
            "projection create" => status_of(&http, &cluster, caller, "projections.Projections/Create").await,
            "projection state" => status_of(&http, &cluster, caller, "projections.Projections/State").await,
            "persistent subscription create" => {
                status_of(&http, &cluster, caller, "persistent_subscriptions.PersistentSubscriptions/Create").await
            }
            other => panic!("neither replayed nor excused: {other} as {caller}"),
        };
        if what.starts_with("append clusterUpdate") && answer.is_ok() || what.starts_with("append over follower") {
            append(&leader, "admin", CATEGORY, "$>", &format!("0@{STREAM}")).await.expect("a link");
        }
        let shown = answer.unwrap_or_else(|error| refused(&error));
        let mut expected = Value::Object(recording.clone());
        for key in ["case", "as"] {
            expected.as_object_mut().expect("an object").remove(key);
        }
        let map = expected.as_object_mut().expect("an object");
        if map.contains_key("open") {
            map.insert("count".to_owned(), Value::Null);
        }
        if let Some(trailers) = map.get_mut("trailers").filter(|t| t.get("leader-endpoint-host").is_some()) {
            let leader = &cluster.addresses[cluster.leader()];
            trailers["leader-endpoint-host"] = leader.host.as_str().into();
            trailers["leader-endpoint-port"] = leader.port.to_string().into();
        }
        assert_eq!(shown, expected, "{case} as {caller}");
        replayed += 1;
    }
    assert_eq!(replayed, 104, "all lines but those that are excused");
    cluster.wire.shutdown().await;
}

/// The keys of a pretty-printed JSON text, in their order; of a list of likes only the first.
fn keys(body: &str) -> Vec<&str> {
    let mut seen = Vec::new();
    for (key, _) in body.lines().filter_map(|line| line.split_once("\":")) {
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    seen
}

#[tokio::test]
async fn each_caller_gets_over_http_what_was_recorded() {
    let (cluster, ca) = secure().await;
    cluster.until("a live follower", |w| (0..4).all(|n| w.live(n))).await;
    let http = client(&ca);
    let (leader, follower, replica) = (cluster.leader(), cluster.follower(), cluster.replica());
    let mut replayed = 0;
    for recording in HTTP_SECURE.lines() {
        let case = recording["case"].as_str().expect("a case");
        if HTTP_SECURE.excuse(&recording).is_some() {
            continue;
        }
        if case == "leaderless node: gossip with admin" {
            for n in (0..3).filter(|&n| n != follower) {
                cluster.world.with(|w| w.shutdown(n));
            }
            cluster.until("no leader", |w| w.leader().is_none()).await;
        }
        if case == "restarted leaderless node: gossip anonymous" {
            let before = cluster.world.with(|w| {
                w.kill(follower);
                w.process_generation(follower)
            });
            cluster
                .until("the node is back", |w| {
                    w.process_generation(follower) >= before
                        && w.reachability(follower) == esdb_rollout::sim::model::Reachability::Answers
                })
                .await;
        }
        let node = match case {
            _ if case.starts_with("replica") => replica,
            _ if case.starts_with("stats replication") => leader,
            _ => follower,
        };
        let (method, path) = recording["request"].as_str().and_then(|r| r.split_once(' ')).expect("a request");
        // A node that has just come back refuses until its port is open again.
        let mut tries = 0;
        let response = loop {
            let mut request = http.request(method.parse().expect("a method"), cluster.https(node, path));
            for (key, value) in recording["requestHeaders"].as_object().expect("headers") {
                request = request.header(key, value.as_str().expect("text"));
            }
            match request.send().await {
                Ok(response) => break response,
                Err(error) if error.is_connect() && tries < 50 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{case}: {error:?}"),
            }
        };
        assert_eq!(u64::from(response.status().as_u16()), recording["status"].as_u64().expect("a status"), "{case}");
        let recorded_headers = recording["headers"].as_object().expect("headers");
        assert_eq!(
            response.headers().contains_key("www-authenticate"),
            recorded_headers.contains_key("WWW-Authenticate"),
            "{case}"
        );
        for (key, value) in recorded_headers.iter().filter(|(key, _)| *key != "Content-Length") {
            let ours = response.headers().get(key).map(|v| v.to_str().expect("ASCII"));
            if key == "ETag" {
                // A position and a hash: both are each cluster's own.
                let is_tag = |t: &str| t.trim_matches('"').split(';').all(|n| n.parse::<u64>().is_ok());
                assert!(ours.is_some_and(is_tag) && value.as_str().is_some_and(is_tag), "{case}: {ours:?}");
            } else {
                assert_eq!(ours, value.as_str(), "{case}: {key}");
            }
        }
        let recorded = recording["body"].as_str().expect("a body");
        let ours = response.text().await.expect("a body");
        if recorded.starts_with(['{', '[']) && recorded.len() > 2 {
            // Long bodies were cut by the recorder.
            let whole = serde_json::from_str::<Value>(recorded).is_ok();
            let cut = if whole { usize::MAX } else { keys(recorded).len() };
            assert_eq!(keys(&ours).into_iter().take(cut).collect::<Vec<_>>(), keys(recorded), "{case}");
        } else {
            assert_eq!(ours, recorded, "{case}");
        }
        if case.starts_with("info") {
            let parsed = |text: &str| serde_json::from_str::<Value>(text).ok().map(|v| v["authentication"].clone());
            assert_eq!(parsed(&ours), parsed(recorded), "{case}");
        }
        if case.starts_with("gossip, a") {
            for line in ["\"internalTcpPort\": 0,", "\"externalTcpPort\": 0,", "\"externalSecureTcpPort\": 1113,"] {
                assert!(ours.contains(line) && recorded.contains(line), "{case}: {line}");
            }
        }
        replayed += 1;
    }
    assert_eq!(replayed, 42, "all lines but those that are excused");
    cluster.wire.shutdown().await;
}

/// A batch append to a stream that the user may not write is answered as such, and the call goes on.
#[tokio::test]
async fn a_batch_append_without_the_right_is_answered_and_the_next_one_taken() {
    let (cluster, ca) = secure().await;
    let leader = channel(&cluster, &ca, cluster.leader()).await;
    let batch = |stream: &str, id: u128| {
        use batch_append_req::{Options, ProposedMessage, options::ExpectedStreamPosition};
        let id = Some(WireUuid { value: Some(wire_uuid::Value::String(Uuid::from_u128(id).to_string())) });
        BatchAppendReq {
            correlation_id: id.clone(),
            options: Some(Options {
                stream_identifier: name(stream),
                expected_stream_position: Some(ExpectedStreamPosition::Any(())),
                deadline_option: None,
            }),
            proposed_messages: vec![ProposedMessage {
                id,
                metadata: BTreeMap::from([
                    ("type".to_owned(), "t".to_owned()),
                    ("content-type".to_owned(), "application/json".to_owned()),
                ]),
                custom_metadata: Vec::new(),
                data: b"{}".to_vec(),
            }],
            is_final: true,
        }
    };
    let requests = request("worker", stream::iter([batch("$system-of-a-test", 1), batch("orders-1", 2)]));
    let mut answers = StreamsClient::new(leader).batch_append(requests).await.expect("a call").into_inner();
    let mut codes = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        codes.push(match answer.result.expect("a result") {
            batch_append_resp::Result::Error(e) => (e.code, e.message),
            batch_append_resp::Result::Success(_) => (0, String::new()),
        });
    }
    assert_eq!(codes, [(7, "AccessDenied".to_owned()), (0, String::new())]);
    cluster.wire.shutdown().await;
}

/// Nobody who does not trust the CA is served, nor who speaks without TLS.
#[tokio::test]
async fn a_client_without_the_ca_or_without_tls_gets_nothing() {
    let (cluster, ca) = secure().await;
    let other = Cluster::start_secure(config("23.10.5.0"), |_| vec!["127.0.0.1".to_owned()]).await;
    let error = client(&other.1).get(cluster.https(0, "/gossip")).send().await.expect_err("another CA");
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
    let error = client(&ca).get(cluster.http(0, "/gossip")).send().await.expect_err("no TLS");
    assert!(!error.is_timeout(), "{error:?}");
    let protocol = client(&ca).get(cluster.https(0, "/gossip")).send().await.expect("an answer").version();
    assert_eq!(protocol, reqwest::Version::HTTP_2, "the dearer of the protocols that ALPN offers");
    cluster.wire.shutdown().await;
    other.0.wire.shutdown().await;
}
