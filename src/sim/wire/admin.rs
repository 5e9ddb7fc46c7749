//! The small services: gossip, what the server can do, operations.

use tonic::{Request, Response, Status};

use super::Node;
use super::proto::gossip::{ClusterInfo, EndPoint, MemberInfo, gossip_server, member_info::VNodeState};
use super::proto::operations::{
    ScavengeResp, SetNodePriorityReq, StartScavengeReq, StopScavengeReq, operations_server,
};
use super::proto::server_features::{SupportedMethod, SupportedMethods, server_features_server};
use super::streams::structured;
use crate::domain::cluster::{MemberEntry, NodeState};

/// What this server can do: service, method, features. Services that are only named answer UNIMPLEMENTED, so they are not here.
const METHODS: [(&str, &str, &[&str]); 24] = [
    ("event_store.client.streams.streams", "read", &["position", "events"]),
    ("event_store.client.streams.streams", "append", &[]),
    ("event_store.client.streams.streams", "delete", &[]),
    ("event_store.client.streams.streams", "tombstone", &[]),
    ("event_store.client.streams.streams", "batchappend", &["deadline_duration"]),
    ("event_store.client.operations.operations", "startscavenge", &[]),
    ("event_store.client.operations.operations", "stopscavenge", &[]),
    ("event_store.client.operations.operations", "shutdown", &[]),
    ("event_store.client.operations.operations", "mergeindexes", &[]),
    ("event_store.client.operations.operations", "resignnode", &[]),
    ("event_store.client.operations.operations", "setnodepriority", &[]),
    ("event_store.client.operations.operations", "restartpersistentsubscriptions", &[]),
    ("event_store.client.gossip.gossip", "read", &[]),
    ("event_store.client.server_features.serverfeatures", "getsupportedmethods", &[]),
    ("event_store.client.projections.projections", "create", &["track_emitted_streams"]),
    ("event_store.client.projections.projections", "update", &[]),
    ("event_store.client.projections.projections", "delete", &[]),
    ("event_store.client.projections.projections", "statistics", &[]),
    ("event_store.client.projections.projections", "disable", &[]),
    ("event_store.client.projections.projections", "enable", &[]),
    ("event_store.client.projections.projections", "reset", &[]),
    ("event_store.client.projections.projections", "state", &[]),
    ("event_store.client.projections.projections", "result", &[]),
    ("event_store.client.projections.projections", "restartsubsystem", &[]),
];

#[tonic::async_trait]
impl gossip_server::Gossip for Node {
    async fn read(&self, _: Request<()>) -> Result<Response<ClusterInfo>, Status> {
        let view = self.world.with(|w| w.view(self.n));
        let members = view.members.into_iter().map(member).collect::<Result<_, _>>()?;
        Ok(Response::new(ClusterInfo { members }))
    }
}

fn member(entry: MemberEntry) -> Result<MemberInfo, Status> {
    let moment: jiff::Timestamp =
        entry.time_stamp.parse().map_err(|error| Status::internal(format!("the world tells no time: {error}")))?;
    let ticks = i64::try_from(moment.as_nanosecond() / 100)
        .map_err(|error| Status::internal(format!("the world is too old: {error}")))?;
    Ok(MemberInfo {
        instance_id: Some(structured(entry.process.0)),
        time_stamp: ticks,
        state: state(entry.state).into(),
        is_alive: entry.is_alive,
        http_end_point: Some(EndPoint { address: entry.address.host, port: entry.address.port.into() }),
    })
}

fn state(state: NodeState) -> VNodeState {
    match state {
        NodeState::Initializing => VNodeState::Initializing,
        NodeState::DiscoverLeader => VNodeState::DiscoverLeader,
        NodeState::Unknown | NodeState::Unrecognized => VNodeState::Unknown,
        NodeState::PreReplica => VNodeState::PreReplica,
        NodeState::CatchingUp => VNodeState::CatchingUp,
        NodeState::Clone => VNodeState::Clone,
        NodeState::Follower => VNodeState::Follower,
        NodeState::PreLeader => VNodeState::PreLeader,
        NodeState::Leader => VNodeState::Leader,
        NodeState::Manager => VNodeState::Manager,
        NodeState::ShuttingDown => VNodeState::ShuttingDown,
        NodeState::Shutdown => VNodeState::Shutdown,
        NodeState::ReadOnlyLeaderless => VNodeState::ReadOnlyLeaderless,
        NodeState::PreReadOnlyReplica => VNodeState::PreReadOnlyReplica,
        NodeState::ReadOnlyReplica => VNodeState::ReadOnlyReplica,
        NodeState::ResigningLeader => VNodeState::ResigningLeader,
    }
}

#[tonic::async_trait]
impl server_features_server::ServerFeatures for Node {
    async fn get_supported_methods(&self, _: Request<()>) -> Result<Response<SupportedMethods>, Status> {
        let methods = METHODS
            .iter()
            .map(|(service, method, features)| SupportedMethod {
                method_name: (*method).to_owned(),
                service_name: (*service).to_owned(),
                features: features.iter().map(|&f| f.to_owned()).collect(),
            })
            .collect();
        let version: Vec<&str> = self.version.text.split('.').take(3).collect();
        Ok(Response::new(SupportedMethods { methods, event_store_server_version: version.join(".") }))
    }
}

fn no_such_work(what: &str) -> Status {
    Status::unimplemented(format!("the simulated cluster has no {what}"))
}

#[tonic::async_trait]
impl operations_server::Operations for Node {
    async fn start_scavenge(&self, _: Request<StartScavengeReq>) -> Result<Response<ScavengeResp>, Status> {
        Err(no_such_work("scavenging: nothing is ever removed from its log"))
    }

    async fn stop_scavenge(&self, _: Request<StopScavengeReq>) -> Result<Response<ScavengeResp>, Status> {
        Err(no_such_work("scavenging: nothing is ever removed from its log"))
    }

    async fn shutdown(&self, _: Request<()>) -> Result<Response<()>, Status> {
        self.world.with(|w| w.shutdown(self.n));
        Ok(Response::new(()))
    }

    async fn merge_indexes(&self, _: Request<()>) -> Result<Response<()>, Status> {
        Err(no_such_work("index files to merge"))
    }

    async fn resign_node(&self, _: Request<()>) -> Result<Response<()>, Status> {
        self.world.with(|w| w.resign(self.n));
        Ok(Response::new(()))
    }

    async fn set_node_priority(&self, request: Request<SetNodePriorityReq>) -> Result<Response<()>, Status> {
        let priority = request.into_inner().priority;
        self.world.with(|w| w.set_priority(self.n, priority));
        Ok(Response::new(()))
    }

    async fn restart_persistent_subscriptions(&self, _: Request<()>) -> Result<Response<()>, Status> {
        Err(no_such_work("persistent subscriptions"))
    }
}
