//! The simulated cluster answers as a recorded one did. `tests/recorded/` holds recordings of a real cluster of 23.10.5: three
//! voters and a replica. What is not replayed is listed in `tests/wire_support/recorded.rs`, with the reason.
#![cfg(feature = "esdb")]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

mod batch;
mod docs;
mod http;
mod services;
mod streams;
#[path = "../wire_support/mod.rs"]
mod support;

use std::time::Duration;

use esdb_rollout::sim::wire::proto::event_store::client::{StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use serde_json::{Map, Value, json};
use support::Cluster;
use support::recorded::Recording;
use tonic::transport::Channel;
use tonic::{Request, Status};
use uuid::Uuid;

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

/// A connection to each kind of node.
struct Nodes {
    leader: Channel,
    follower: Channel,
    replica: Channel,
}

impl Nodes {
    async fn of(cluster: &Cluster) -> Nodes {
        let channel = async |n| {
            Channel::from_shared(cluster.http(n, "")).expect("an address").connect().await.expect("a connection")
        };
        Nodes {
            leader: channel(cluster.leader()).await,
            follower: channel(cluster.follower()).await,
            replica: channel(cluster.replica()).await,
        }
    }

    /// The node that a recorded call went to.
    fn to(&self, call: &Value) -> Channel {
        match call["to"].as_str() {
            Some("leader") => self.leader.clone(),
            Some("follower") => self.follower.clone(),
            Some("replica") => self.replica.clone(),
            other => panic!("to {other:?}?"),
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
