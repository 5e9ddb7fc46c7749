//! The small gRPC services, and those that the simulated nodes do not have.

use esdb_rollout::domain::cluster::NodeState;
use esdb_rollout::sim::wire::proto::gossip::gossip_client::GossipClient;
use esdb_rollout::sim::wire::proto::gossip::member_info::VNodeState;
use esdb_rollout::sim::wire::proto::operations::SetNodePriorityReq;
use esdb_rollout::sim::wire::proto::operations::operations_client::OperationsClient;
use esdb_rollout::sim::wire::proto::server_features::server_features_client::ServerFeaturesClient;
use esdb_rollout::sim::world::World;
use support::PATIENCE;
use support::recorded::{self, GRPC};

use super::*;

/// The answer to a recorded call; what the recording has beside it is compared here, and taken over.
pub async fn answer(cluster: &Cluster, node: Channel, recording: &Recording) -> Result<Value, Status> {
    let call = &recording["call"];
    let empty = || request(call, ());
    match call["method"].as_str().expect("a method") {
        "Operations/ResignNode" => {
            let led = cluster.leader();
            OperationsClient::new(node).resign_node(empty()).await?;
            assert_eq!(cluster.leader(), led, "who does not lead has nothing to resign");
            Ok(json!({}))
        }
        "Operations/SetNodePriority" => {
            let priority = call["request"]["priority"].as_i64().and_then(|n| i32::try_from(n).ok()).expect("a number");
            let asked = if call["to"] == "follower" { cluster.follower() } else { cluster.replica() };
            let request = request(call, SetNodePriorityReq { priority });
            OperationsClient::new(node).set_node_priority(request).await?;
            // Up to 2 s later the node's own gossip says so; a replica has none, as its recorded gossip shows.
            let priority = if call["to"] == "follower" { priority } else { 0 };
            let address = &cluster.addresses[asked];
            let says = |world: &mut World| {
                world.view(asked).members.iter().any(|m| m.address == *address && m.priority == priority)
            };
            let told = async {
                while !cluster.world.with(says) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(PATIENCE, told).await.expect("its own entry has the priority");
            Ok(json!({}))
        }
        "Gossip/Read" => {
            let members = GossipClient::new(node).read(empty()).await?.into_inner().members;
            let ours: Vec<Value> = members.into_iter().map(|m| {
                let id = m.instance_id.and_then(|id| id.value);
                assert!(matches!(id, Some(wire_uuid::Value::Structured(_))), "{id:?}");
                assert!(m.time_stamp > 17_000_000_000_000_000, "ticks since 1970: {}", m.time_stamp);
                let at = m.http_end_point.clone().expect("an address");
                let state = VNodeState::try_from(m.state).expect("a state");
                json!({"state": format!("{state:?}"), "is_alive": m.is_alive, "at": format!("{}:{}", at.address, at.port)})
            }).collect();
            same_members(cluster, &ours, &recording["ok"]);
            Ok(normal(&recording["ok"]))
        }
        "ServerFeatures/GetSupportedMethods" => {
            let ours = ServerFeaturesClient::new(node).get_supported_methods(empty()).await?.into_inner();
            let methods: Vec<Value> = ours
                .methods
                .iter()
                .map(|m| {
                    let mut shown = json!({"method_name": m.method_name, "service_name": m.service_name});
                    if !m.features.is_empty() {
                        shown["features"] = json!(m.features);
                    }
                    shown
                })
                .collect();
            // Services that are not here are not offered; the others are, as recorded.
            let here = |service: &Value| methods.iter().any(|m| m["service_name"] == *service);
            let recorded = recording["ok"]["methods"].as_array().expect("methods");
            let kept: Vec<Value> = recorded.iter().filter(|m| here(&m["service_name"])).cloned().collect();
            assert_eq!(methods, kept);
            let version = &recording["ok"]["event_store_server_version"];
            assert_eq!(version, &json!(ours.event_store_server_version));
            let http = reqwest::Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
            for method in recorded.iter().filter(|m| !here(&m["service_name"])) {
                let path = |key: &str| method[key].as_str().expect("a name").to_owned();
                not_implemented(&http, cluster, &format!("/{}/{}", path("service_name"), path("method_name"))).await;
            }
            Ok(normal(&recording["ok"]))
        }
        other => panic!("{other} is not replayed; excused lines stand in `support::recorded`"),
    }
}

/// Addresses and the order of the roles are each cluster's own: the roles as such, and addresses that descend, are not.
fn same_members(cluster: &Cluster, ours: &[Value], recorded: &Value) {
    let recorded = recorded["members"].as_array().expect("members");
    let states = |members: &[Value]| {
        let mut states: Vec<String> =
            members.iter().map(|m| m["state"].as_str().expect("a state").to_owned()).collect();
        states.sort();
        states
    };
    assert_eq!(states(ours), states(recorded));
    assert!(ours.iter().chain(recorded).all(|m| m["is_alive"] == true));
    let mut addresses: Vec<_> = cluster.addresses.clone();
    addresses.sort_by(|a, b| b.cmp(a));
    let shown: Vec<Value> = ours.iter().map(|m| m["at"].clone()).collect();
    assert_eq!(shown, addresses.iter().map(|a| json!(a.to_string())).collect::<Vec<_>>());
    let hosts: Vec<&str> = recorded.iter().filter_map(|m| m["http_end_point"]["address"].as_str()).collect();
    assert!(hosts.len() == 4 && hosts.is_sorted_by(|a, b| a > b), "{hosts:?}");
    let leader = ours.iter().find(|m| m["state"] == format!("{:?}", NodeState::Leader)).expect("a leader");
    assert_eq!(leader["at"], cluster.addresses[cluster.leader()].to_string());
}

/// A call that is not simulated is refused at once, with a sentence.
pub async fn is_not_implemented(http: &reqwest::Client, cluster: &Cluster, recording: &Recording) {
    let method = recording["call"]["method"].as_str().expect("a method");
    let service = method.split('/').next().unwrap_or_default();
    let package = recorded::package(service);
    let excuse = GRPC.excuse(recording).expect("an excuse");
    let sentence = not_implemented(http, cluster, &format!("/event_store.client.{package}.{method}")).await;
    assert!(sentence.contains(service), "{sentence}");
    assert!(excuse.contains("UNIMPLEMENTED"), "{excuse}");
}

/// Calls a method that the nodes do not have, and gives the sentence that says so.
pub async fn not_implemented(http: &reqwest::Client, cluster: &Cluster, path: &str) -> String {
    let call = http.post(cluster.http(cluster.leader(), path)).header("content-type", "application/grpc");
    // An empty message: no compression, no bytes.
    let response = call.body(vec![0; 5]).send().await.expect("an answer");
    let headers = response.headers();
    assert_eq!(headers.get("grpc-status").map(|s| s.to_str().expect("ASCII")), Some("12"), "{path}");
    let message = headers.get("grpc-message").expect("a sentence").to_str().expect("ASCII");
    percent_encoding::percent_decode_str(message).decode_utf8().expect("UTF-8").into_owned()
}
