//! Real clients, unchanged, against the simulated cluster: the official Rust client, an HTTP client, and the official clients for
//! Python and Node.js where `ESDB_ROLLOUT_PYTHON` and `ESDB_ROLLOUT_NODE_MODULES` say where they are.
#![cfg(feature = "esdb")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

#[path = "wire_support/mod.rs"]
mod support;

use std::time::Duration;

use esdb_rollout::domain::cluster::NodeState;
use esdb_rollout::sim::model::Reachability;
use eventstore::{
    AppendToStreamOptions, Client, CurrentRevision, DeleteStreamOptions, Error, EventData, ExpectedRevision,
    ReadAllOptions, ReadStreamOptions, StreamMetadataBuilder, StreamMetadataResult, StreamPosition,
    SubscribeToAllOptions, SubscribeToStreamOptions, SubscriptionEvent, SubscriptionFilter, TombstoneStreamOptions,
};
use serde_json::{Value, json};
use support::{Cluster, PATIENCE, config};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

fn client(connection: &str) -> Client {
    Client::new(connection.parse().expect("a connection string")).expect("a client")
}

fn event(n: u32) -> EventData {
    EventData::json("noted", &json!({"n": n})).expect("JSON").id(Uuid::from_u128(u128::from(n) + 1))
}

fn expecting(revision: ExpectedRevision) -> AppendToStreamOptions {
    AppendToStreamOptions::default().expected_revision(revision)
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_appends_and_reads() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let client = client(&cluster.voters());

    let first =
        client.append_to_stream("s", &expecting(ExpectedRevision::NoStream), event(0)).await.expect("an append");
    assert_eq!(first.next_expected_version, 0);
    let again =
        client.append_to_stream("s", &expecting(ExpectedRevision::NoStream), event(0)).await.expect("the same append");
    assert_eq!((again.next_expected_version, again.position), (0, first.position));
    let error = client
        .append_to_stream("s", &expecting(ExpectedRevision::NoStream), event(1))
        .await
        .expect_err("another event");
    assert!(
        matches!(
            error,
            Error::WrongExpectedVersion { expected: ExpectedRevision::NoStream, current: CurrentRevision::Current(0) }
        ),
        "{error:?}"
    );
    let second = client
        .append_to_stream("s", &expecting(ExpectedRevision::Exact(0)), vec![event(1), event(2)])
        .await
        .expect("two");
    assert_eq!(second.next_expected_version, 2);
    assert!(second.position > first.position);
    client.append_to_stream("s", &expecting(ExpectedRevision::StreamExists), event(3)).await.expect("an append");
    let error = client
        .append_to_stream("t", &expecting(ExpectedRevision::StreamExists), event(4))
        .await
        .expect_err("no such stream");
    assert!(matches!(error, Error::WrongExpectedVersion { current: CurrentRevision::NoStream, .. }), "{error:?}");

    let mut read = client.read_stream("s", &ReadStreamOptions::default()).await.expect("a read");
    let mut numbers = Vec::new();
    while let Some(resolved) = read.next().await.expect("an event") {
        let event = resolved.get_original_event();
        assert_eq!((event.stream_id.as_str(), event.event_type.as_str(), event.is_json), ("s", "noted", true));
        numbers.push((event.revision, event.as_json::<Value>().expect("JSON")["n"].clone()));
    }
    assert_eq!(numbers, (0..4).map(|n| (n, json!(n))).collect::<Vec<_>>());
    let backwards = ReadStreamOptions::default().position(StreamPosition::End).max_count(1);
    let mut read = client.read_stream("s", &backwards).await.expect("a read");
    assert_eq!(read.next().await.expect("an event").expect("the last").get_original_event().revision, 3);
    let mut read = client.read_stream("missing", &ReadStreamOptions::default()).await.expect("a read");
    assert!(matches!(read.next().await, Err(Error::ResourceNotFound)));

    let mut read = client.read_all(&ReadAllOptions::default()).await.expect("a read");
    let mut all = Vec::new();
    while let Some(resolved) = read.next().await.expect("an event") {
        let event = resolved.get_original_event();
        if event.stream_id == "s" {
            all.push(event.position);
        }
    }
    assert_eq!(all.len(), 4);
    assert!(all.is_sorted());

    let metadata = StreamMetadataBuilder::new().max_count(2).build();
    client.set_stream_metadata("s", &AppendToStreamOptions::default(), &metadata).await.expect("metadata");
    match client.get_stream_metadata("s", &ReadStreamOptions::default()).await.expect("metadata") {
        StreamMetadataResult::Success(known) => assert_eq!(known.metadata().max_count, Some(2)),
        other => panic!("{other:?}"),
    }
    let mut read = client.read_stream("s", &ReadStreamOptions::default()).await.expect("a read");
    assert_eq!(read.next().await.expect("an event").expect("the first kept").get_original_event().revision, 2);

    client.delete_stream("s", &DeleteStreamOptions::default()).await.expect("a deletion");
    let mut read = client.read_stream("s", &ReadStreamOptions::default()).await.expect("a read");
    assert!(matches!(read.next().await, Err(Error::ResourceNotFound)));
    client.tombstone_stream("s", &TombstoneStreamOptions::default()).await.expect("a tombstone");
    let read = client.read_stream("s", &ReadStreamOptions::default()).await;
    assert!(matches!(read, Err(Error::ResourceDeleted)), "{:?}", read.err());
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_follows() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let client = client(&cluster.voters());
    client
        .append_to_stream("follow-a", &expecting(ExpectedRevision::NoStream), vec![event(0), event(1)])
        .await
        .expect("appends");

    let mut stream = client
        .subscribe_to_stream("follow-a", &SubscribeToStreamOptions::default().start_from(StreamPosition::Position(0)))
        .await;
    let filter = SubscriptionFilter::on_stream_name().add_prefix("follow-").max(4);
    let mut all =
        client.subscribe_to_all(&SubscribeToAllOptions::default().position(StreamPosition::Start).filter(filter)).await;
    let mut missing = client
        .subscribe_to_stream("follow-later", &SubscribeToStreamOptions::default().start_from(StreamPosition::Start))
        .await;

    let kind = |event: SubscriptionEvent| match event {
        SubscriptionEvent::Confirmed(_) => "confirmed".to_owned(),
        SubscriptionEvent::CaughtUp => "caught up".to_owned(),
        SubscriptionEvent::Checkpoint(_) => "checkpoint".to_owned(),
        SubscriptionEvent::EventAppeared(e) => {
            let e = e.get_original_event();
            format!("{}@{}", e.revision, e.stream_id)
        }
        other => format!("{other:?}"),
    };
    let mut seen = Vec::new();
    while seen.last().is_none_or(|s| s != "caught up") {
        seen.push(kind(soon("caught up", stream.next_subscription_event()).await.expect("an event")));
    }
    assert_eq!(seen, ["confirmed", "1@follow-a", "caught up"]);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|s| s != "caught up") {
        seen.push(kind(soon("caught up", all.next_subscription_event()).await.expect("an event")));
    }
    seen.retain(|s| s != "checkpoint");
    assert_eq!(seen, ["confirmed", "0@follow-a", "1@follow-a", "caught up"]);
    assert_eq!(kind(soon("confirmed", missing.next_subscription_event()).await.expect("an event")), "confirmed");

    client.append_to_stream("follow-a", &expecting(ExpectedRevision::Exact(1)), event(2)).await.expect("an append");
    client.append_to_stream("follow-later", &expecting(ExpectedRevision::NoStream), event(3)).await.expect("an append");
    client
        .append_to_stream("other", &AppendToStreamOptions::default(), (10..20).map(event).collect::<Vec<_>>())
        .await
        .expect("appends");
    let next = soon("the live event", stream.next()).await.expect("an event");
    assert_eq!(next.get_original_event().revision, 2);
    let next = soon("the first event", missing.next()).await.expect("an event");
    assert_eq!(next.get_original_event().id, Uuid::from_u128(4));
    let mut seen = Vec::new();
    while seen.last().is_none_or(|s| s != "checkpoint") || seen.len() < 4 {
        seen.push(kind(soon("a checkpoint", all.next_subscription_event()).await.expect("an event")));
    }
    seen.retain(|s| s != "checkpoint");
    assert_eq!(seen, ["2@follow-a", "0@follow-later"]);
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_finds_the_new_leader() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let client = client(&cluster.voters());
    client.append_to_stream("s", &expecting(ExpectedRevision::NoStream), event(0)).await.expect("an append");
    let old = cluster.leader();
    let http = reqwest::Client::new();
    for path in ["/admin/node/priority/-1", "/admin/node/resign"] {
        let status = http.post(cluster.http(old, path)).send().await.expect("an answer").status();
        assert_eq!(status, 200);
    }
    let append = async {
        loop {
            match client.append_to_stream("s", &expecting(ExpectedRevision::Exact(0)), event(1)).await {
                Ok(result) if cluster.leader() != old => return result,
                Ok(_) => {}
                Err(Error::NotLeaderException(at)) => {
                    assert_eq!(at.host, "127.0.0.1");
                }
                Err(Error::ServerError(_) | Error::Grpc { .. } | Error::DeadlineExceeded) => {}
                Err(other) => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let result = soon("an append at the new leader", append).await;
    assert_eq!(result.next_expected_version, 1);
    // Whoever asks the old one for the leader is told who that is.
    cluster.until("the old leader follows", |w| w.own_state(old) == NodeState::Follower).await;
    let pinned = self::client(&format!("esdb://{}?tls=false&discoveryInterval=100", cluster.addresses[old]));
    let error = pinned.append_to_stream("s", &AppendToStreamOptions::default().requires_leader(true), event(2)).await;
    assert!(
        matches!(&error, Err(Error::NotLeaderException(at)) if at.port == u32::from(cluster.addresses[cluster.leader()].port)),
        "{error:?}"
    );
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_takes_its_connections_with_it() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let node = cluster.follower();
    let at = (cluster.addresses[node].host.clone(), cluster.addresses[node].port);
    let pinned =
        client(&format!("esdb://{}?tls=false&discoveryInterval=100&nodePreference=random", cluster.addresses[node]));
    let mut subscription =
        pinned.subscribe_to_all(&SubscribeToAllOptions::default().position(StreamPosition::End)).await;
    let confirmed = soon("confirmed", subscription.next_subscription_event()).await.expect("a confirmation");
    assert!(matches!(confirmed, SubscriptionEvent::Confirmed(_)));
    loop {
        let pending = timeout(Duration::from_millis(200), subscription.next_subscription_event()).await;
        match pending {
            Err(_) => break,
            Ok(event) => assert!(event.is_ok()),
        }
    }
    let open = TcpStream::connect(at.clone()).await.expect("a connection");

    cluster.world.with(|w| w.kill(node));
    soon("the end of the connection", open.readable()).await.expect("a state");
    let end = open.try_read(&mut [0]);
    assert!(matches!(&end, Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
    let refused = TcpStream::connect(at).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    cluster.until("it is back", |w| w.reachability(node) == Reachability::Answers).await;
    let health = async {
        loop {
            if reqwest::get(cluster.http(node, "/health/live")).await.is_ok_and(|r| r.status() == 204) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("it is live again", health).await;
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_says_nothing() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let node = cluster.follower();
    let http = reqwest::Client::new();
    let kept = http.get(cluster.http(node, "/info")).send().await.expect("an answer").text().await.expect("a body");
    assert!(kept.contains("\"follower\""), "{kept}");

    cluster.world.with(|w| w.freeze(node));
    // The face learns of it through the world's version.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waits = http.get(cluster.http(node, "/gossip")).send();
    tokio::pin!(waits);
    assert!(timeout(Duration::from_millis(400), &mut waits).await.is_err(), "a frozen node answered");
    let fresh =
        reqwest::Client::new().get(cluster.http(node, "/health/live")).timeout(Duration::from_millis(300)).send().await;
    assert!(fresh.is_err_and(|e| e.is_timeout()), "a frozen node answered");

    cluster.world.with(|w| w.unfreeze(node));
    let answer = soon("the late answer", waits).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_what_the_world_knows() {
    let cluster = Cluster::start(config("26.1.0")).await;
    let node = cluster.leader();
    let get = async |path: &str| {
        let response = reqwest::get(cluster.http(node, path)).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        response.json::<Value>().await.expect("JSON")
    };
    let gossip = get("/gossip").await;
    assert_eq!(gossip["serverPort"], cluster.addresses[node].port);
    let members = gossip["members"].as_array().expect("members");
    assert_eq!(members.len(), 4);
    assert_eq!(members[0]["internalHttpEndPointPort"], members[0]["httpEndPointPort"]);
    assert_eq!(members.iter().filter(|m| m["state"] == "Leader").count(), 1);
    let info = get("/info").await;
    assert_eq!((&info["dbVersion"], &info["state"]), (&json!("26.1.0"), &json!("leader")));
    let options = get("/info/options").await;
    let size = options.as_array().expect("options").iter().find(|o| o["name"] == "ClusterSize").expect("ClusterSize");
    assert_eq!(size["value"], "3");
    assert_eq!(get("/stats/replication").await.as_array().map(Vec::len), Some(3));
    let coded = reqwest::get(cluster.http(node, "/health/live?liveCode=200")).await.expect("an answer");
    assert_eq!(coded.status(), 200);

    let answer = reqwest::Client::new()
        .post(cluster.http(node, "/event_store.client.persistent_subscriptions.PersistentSubscriptions/Create"))
        .header("content-type", "application/grpc")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["grpc-status"], "12");

    let status =
        reqwest::Client::new().post(cluster.http(node, "/admin/shutdown")).send().await.expect("an answer").status();
    assert_eq!(status, 200);
    cluster.until("it is gone", |w| w.reachability(node) == Reachability::Refused).await;
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let taken = config("23.10.5.0");
    let _holder =
        std::net::TcpListener::bind((taken.addresses[2].host.as_str(), taken.addresses[2].port)).expect("a listener");
    let name = taken.addresses[2].to_string();
    let world = esdb_rollout::sim::world::SimWorld::new(esdb_rollout::sim::world::World::new(taken));
    let error = esdb_rollout::sim::wire::serve(world, None).await.expect_err("a taken port");
    assert!(error.to_string().contains(&name) && error.to_string().contains("choose other ports"), "{error}");
}

/// Runs a client in another language against a cluster of its own. Where CI runs, it must be there.
async fn official_client(variable: &str, what: &str, line: &[&str]) {
    let Some(program) = std::env::var_os(variable) else {
        assert!(std::env::var_os("CI").is_none(), "{variable} does not say where {what} is");
        eprintln!("skipped: {variable} does not say where {what} is");
        return;
    };
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let hosts: Vec<_> = cluster.addresses[..3].iter().map(ToString::to_string).collect();
    let mut command = tokio::process::Command::new(if variable == NODE { "node".into() } else { program.clone() });
    command.args(line).arg(hosts.join(",")).kill_on_drop(true);
    if variable == NODE {
        command.env("NODE_PATH", program);
    }
    let output = timeout(Duration::from_secs(90), command.output()).await.expect("an end").expect("a run");
    assert!(
        output.status.success(),
        "{line:?}: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    cluster.wire.shutdown().await;
}

/// Names an interpreter with the Python clients.
const PYTHON: &str = "ESDB_ROLLOUT_PYTHON";
/// Names the `node_modules` that hold the Node.js clients.
const NODE: &str = "ESDB_ROLLOUT_NODE_MODULES";

async fn python(library: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/official_client.py");
    official_client(PYTHON, "a Python with the official clients", &[script, library]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_esdbclient_works() {
    python("esdbclient").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_kurrentdbclient_works() {
    python("kurrentdbclient").await;
}

async fn node(package: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/official_client.js");
    official_client(NODE, "the Node.js clients", &[script, package]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_of_eventstore_works() {
    node("@eventstore/db-client").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_of_kurrent_works() {
    node("@kurrent/kurrentdb-client").await;
}
