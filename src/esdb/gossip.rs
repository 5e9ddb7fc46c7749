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
    let options: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let get = |option: &serde_json::Map<String, serde_json::Value>, key: &str| {
        option
            .iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
    };
    let named = |name: String| name.replace(['-', '_', ' '], "").eq_ignore_ascii_case("ClusterSize");
    let Some(option) = options.iter().find(|o| get(o, "name").is_some_and(named)) else { return Ok(None) };
    let value = get(option, "value").ok_or("ClusterSize has no value")?;
    match value.trim().parse::<u32>() {
        Ok(size) if size > 0 => Ok(Some(size)),
        Ok(_) | Err(_) => Err(format!("ClusterSize is `{value}`, expected a positive number")),
    }
}

/// The scavenge that the answer to `GET /admin/scavenge/current` names (`ScavengeId: …, ScavengeLink: …`, both empty where none runs);
/// `None` if it is no such answer.
pub(super) fn parse_scavenge(text: &[u8]) -> Option<Option<String>> {
    let (id, _) = std::str::from_utf8(text).ok()?.strip_prefix("ScavengeId:")?.split_once(',')?;
    Some(Some(id.trim().to_owned()).filter(|id| !id.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V23: &str = include_str!("../../tests/recorded/gossip-23.10.5.json");
    const V26: &str = include_str!("../../tests/recorded/gossip-26.1.0.json");

    #[test]
    fn scavenges() {
        assert_eq!(parse_scavenge(b"ScavengeId: , ScavengeLink: "), Some(None), "recorded on 23.10.5 and 26.1.0");
        let runs = b"ScavengeId: 9cd55be2-b38c-4bfa-921d-b9e8a8da0733, ScavengeLink: /admin/scavenge/9cd55be2";
        assert_eq!(parse_scavenge(runs), Some(Some("9cd55be2-b38c-4bfa-921d-b9e8a8da0733".into())));
        assert_eq!(parse_scavenge(b"<html>"), None);
    }

    #[test]
    fn recorded_views() {
        // The recordings were cut near their ends; the last lines are completed.
        for (json, host, version, members) in [(V23, "127.0.1.2", "23.10.5.0", 4), (V26, "127.0.2.3", "26.1.0", 3)] {
            let view = parse_view(json.as_bytes()).unwrap();
            assert_eq!(view.server, Address::new(host, 2113));
            assert_eq!(view.members.len(), members);
            let own = view.own().unwrap();
            assert_eq!((own.state, own.is_alive, own.priority), (NodeState::Follower, true, 0));
            assert_eq!(own.replication, Address::new(host, 1112));
            assert!(own.version.as_ref().unwrap().starts_with(version));
            assert!(own.writer > 0 && own.last_commit > 0 && own.chaser > 0 && own.epoch >= 0);
            let replicas: Vec<_> = view.members.iter().filter(|m| m.is_read_only_replica).collect();
            assert_eq!(replicas.len(), 1);
            assert_eq!(replicas[0].state, NodeState::ReadOnlyReplica);
        }
    }

    #[test]
    fn versions_before_and_after() {
        // 22.10 says no version; a state of tomorrow is nothing good; under TLS only the secure port is set.
        let edited = V23
            .replace(",\n      \"esVersion\": \"23.10.5.0\"", "")
            .replace("\"Follower\"", "\"Archivist\"")
            .replace("\"internalTcpPort\": 1112", "\"internalTcpPort\": 0")
            .replace("\"internalSecureTcpPort\": 0", "\"internalSecureTcpPort\": 1112");
        let view = parse_view(edited.as_bytes()).unwrap();
        let own = view.own().unwrap();
        assert_eq!((own.state, &own.version), (NodeState::Unrecognized, &None));
        assert_eq!(own.replication.port, 1112);
    }

    #[test]
    fn what_decisions_rest_on_must_be_there() {
        for key in [
            "instanceId",
            "timeStamp",
            "state",
            "isAlive",
            "httpEndPointIp",
            "nodePriority",
            "isReadOnlyReplica",
            "serverIp",
        ] {
            let edited = V23.replace(&format!("\"{key}\":"), "\"other\":");
            let error = parse_view(edited.as_bytes()).expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(parse_view(b"<html>").is_err());
    }

    #[test]
    fn every_state_by_its_word() {
        for word in "Initializing DiscoverLeader Unknown PreReplica CatchingUp Clone Follower PreLeader Leader Manager ShuttingDown \
                     Shutdown ReadOnlyLeaderless PreReadOnlyReplica ReadOnlyReplica ResigningLeader"
            .split_whitespace()
        {
            assert_eq!(state(word).to_string(), word);
        }
        assert_eq!(state("leader"), NodeState::Unrecognized);
    }

    #[test]
    fn replication_statistics() {
        let json = include_str!("../../tests/recorded/replication-23.10.5.json");
        let found = parse_replication(json.as_bytes()).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].endpoint, Address::new("127.0.1.4", 1112));
        assert_eq!(found[0].total_bytes_sent, 10533);
        assert_eq!(parse_replication(b"[]").unwrap(), []);
        assert!(parse_replication(br#"[{"subscriptionId":"x"}]"#).is_err());
    }

    #[test]
    fn cluster_sizes() {
        let size = |json: &str| parse_cluster_size(json.as_bytes());
        assert_eq!(size(r#"[{"name":"Log"},{"name":"ClusterSize","description":"d","value":"3"}]"#), Ok(Some(3)));
        assert_eq!(size(r#"[{"Name":"CLUSTER_SIZE","Value":5}]"#), Ok(Some(5)));
        assert_eq!(size("[]"), Ok(None));
        assert!(size(r#"[{"name":"ClusterSize","value":"0"}]"#).is_err());
        assert!(size(r#"[{"name":"ClusterSize","value":null}]"#).is_err());
        assert!(size(r#"[{"name":"ClusterSize"}]"#).is_err());
        assert!(size("{}").is_err());
    }
}
