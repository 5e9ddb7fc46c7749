//! The JSON of `/gossip`, `/stats/replication` and `/info/options`, read tolerantly: keys that are new are ignored, keys that
//! some versions lack may be absent, and a state that is new is [`NodeState::Unrecognized`]. What a decision rests on must
//! be there.

use serde::Deserialize;
use uuid::Uuid;

use crate::domain::cluster::{MemberEntry, NodeState, ReplicaSubscription, View};
use crate::domain::ids::{Address, ProcessId};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    members: Vec<Member>,
    server_ip: String,
    server_port: u16,
}

fn unknown() -> i64 {
    -1
}

fn unknown_epoch() -> i32 {
    -1
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    instance_id: Uuid,
    time_stamp: String,
    state: String,
    is_alive: bool,
    #[serde(default)]
    internal_tcp_ip: String,
    #[serde(default)]
    internal_tcp_port: u16,
    #[serde(default)]
    internal_secure_tcp_port: u16,
    http_end_point_ip: String,
    http_end_point_port: u16,
    #[serde(default = "unknown")]
    last_commit_position: i64,
    #[serde(default = "unknown")]
    writer_checkpoint: i64,
    #[serde(default = "unknown")]
    chaser_checkpoint: i64,
    #[serde(default = "unknown")]
    epoch_position: i64,
    #[serde(default = "unknown_epoch")]
    epoch_number: i32,
    #[serde(default)]
    epoch_id: Uuid,
    node_priority: i32,
    is_read_only_replica: bool,
    es_version: Option<String>,
}

fn state(word: &str) -> NodeState {
    match word {
        "Initializing" => NodeState::Initializing,
        "DiscoverLeader" => NodeState::DiscoverLeader,
        "Unknown" => NodeState::Unknown,
        "PreReplica" => NodeState::PreReplica,
        "CatchingUp" => NodeState::CatchingUp,
        "Clone" => NodeState::Clone,
        "Follower" => NodeState::Follower,
        "PreLeader" => NodeState::PreLeader,
        "Leader" => NodeState::Leader,
        "Manager" => NodeState::Manager,
        "ShuttingDown" => NodeState::ShuttingDown,
        "Shutdown" => NodeState::Shutdown,
        "ReadOnlyLeaderless" => NodeState::ReadOnlyLeaderless,
        "PreReadOnlyReplica" => NodeState::PreReadOnlyReplica,
        "ReadOnlyReplica" => NodeState::ReadOnlyReplica,
        "ResigningLeader" => NodeState::ResigningLeader,
        _ => NodeState::Unrecognized,
    }
}

/// Parses the answer to `GET /gossip`.
pub(super) fn parse_view(json: &[u8]) -> Result<View, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(json)?;
    let members = answer
        .members
        .into_iter()
        .map(|m| {
            // The port of the transport that is off is 0: plain under TLS, secure without.
            let port = if m.internal_tcp_port == 0 { m.internal_secure_tcp_port } else { m.internal_tcp_port };
            MemberEntry {
                process: ProcessId(m.instance_id),
                time_stamp: m.time_stamp,
                state: state(&m.state),
                is_alive: m.is_alive,
                address: Address::new(m.http_end_point_ip, m.http_end_point_port),
                replication: Address::new(m.internal_tcp_ip, port),
                last_commit: m.last_commit_position,
                writer: m.writer_checkpoint,
                chaser: m.chaser_checkpoint,
                epoch_position: m.epoch_position,
                epoch: m.epoch_number,
                epoch_id: m.epoch_id,
                priority: m.node_priority,
                is_read_only_replica: m.is_read_only_replica,
                version: m.es_version,
            }
        })
        .collect();
    Ok(View { server: Address::new(answer.server_ip, answer.server_port), members })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    subscription_id: Uuid,
    subscription_endpoint: String,
    total_bytes_sent: u64,
}

/// Parses the answer to `GET /stats/replication`.
pub(super) fn parse_replication(json: &[u8]) -> Result<Vec<ReplicaSubscription>, String> {
    let answer: Vec<Subscription> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    answer
        .into_iter()
        .map(|s| {
            // .NET prints a DNS endpoint with its address family: `Unspecified/127.0.1.4:1112`.
            let endpoint = s.subscription_endpoint.rsplit('/').next().unwrap_or_default().parse()?;
            Ok(ReplicaSubscription { subscription: s.subscription_id, endpoint, total_bytes_sent: s.total_bytes_sent })
        })
        .collect()
}

/// `ClusterSize` from the answer to `GET /info/options`: an array of objects with `name` and `value` (text).
pub(super) fn parse_cluster_size(json: &[u8]) -> Result<Option<u32>, String> {
    let options: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let get = |option: &serde_json::Map<String, serde_json::Value>, key: &str| {
        option.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| match v {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let named = |name: String| name.replace(['-', '_', ' '], "").eq_ignore_ascii_case("ClusterSize");
    let Some(option) = options.iter().find(|o| get(o, "name").is_some_and(named)) else { return Ok(None) };
    let value = get(option, "value").ok_or("ClusterSize has no value")?;
    match value.trim().parse::<u32>() {
        Ok(size) if size > 0 => Ok(Some(size)),
        Ok(_) | Err(_) => Err(format!("ClusterSize is `{value}`, expected a positive number")),
    }
}
