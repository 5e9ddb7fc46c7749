//! Ports with somebody in between who is told of each call before it leaves and after it was answered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use esdb_rollout::domain::cluster::{ReplicaSubscription, View};
use esdb_rollout::domain::ids::{Address, InstanceId, InstanceType, Revision, StreamName};
use esdb_rollout::domain::inspection::Inspection;
use esdb_rollout::domain::instance::{Instance, TypeInfo};
use esdb_rollout::ports::*;
use tokio::sync::mpsc;

use super::Rig;

/// A call of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Append,
    Read,
    /// A subscription is made.
    Subscribe,
    /// Asks a node.
    Node,
    /// Tells a node something.
    NodeChange,
    /// Asks EC2.
    Ec2,
    /// Changes an instance.
    Ec2Change,
}

/// Who is told.
#[async_trait]
pub trait Tap: Send + Sync {
    /// A call is about to leave; `to` is the stream, the node or the instance. Gives a number by which its answer is told.
    async fn before(&self, kind: Kind, to: &str) -> usize;
    /// It was answered.
    async fn after(&self, number: usize);
    /// Whether whoever answers shows nothing of a stream, as one does who led until a moment ago and has not heard of what came since.
    fn hides(&self, _stream: &str) -> bool {
        false
    }
    /// The instance that the worker runs on.
    fn own_instance(&self) -> Option<&InstanceId> {
        None
    }
    /// Whether the store gives no answer to reads of this stream and appends to it, nor its nodes to a probe (`gossip`).
    fn is_away(&self, _stream: &str) -> bool {
        false
    }
    /// Whether an append to this stream is taken, and its answer lost.
    fn loses_answers(&self, _stream: &str) -> bool {
        false
    }
    /// Whether whoever answers denies a read of a stream, or an append to it.
    fn denies(&self, _kind: Kind, _stream: &str) -> bool {
        false
    }
}

pub struct Tapped<T: ?Sized> {
    inner: Arc<T>,
    tap: Arc<dyn Tap>,
}

impl<T: ?Sized> Tapped<T> {
    async fn tell<A>(&self, kind: Kind, to: &str, call: impl Future<Output = A>) -> A {
        let number = self.tap.before(kind, to).await;
        let answer = call.await;
        self.tap.after(number).await;
        answer
    }
}

/// The same world through ports that tell.
pub fn tapped(rig: &Rig, tap: Arc<dyn Tap>) -> Rig {
    Rig {
        log: Arc::new(Tapped { inner: rig.log.clone(), tap: tap.clone() }),
        admin: Arc::new(Tapped { inner: rig.admin.clone(), tap: tap.clone() }),
        fleet: Arc::new(Tapped { inner: rig.fleet.clone(), tap }),
        ..rig.share()
    }
}

fn denied(tap: &dyn Tap, stream: &StreamName) -> Result<(), ReadError> {
    if tap.is_away(stream.as_str()) {
        return Err(ReadError::Unavailable { what: stream.to_string(), found: "no answer".into() });
    }
    let denied = tap.denies(Kind::Read, stream.as_str());
    if denied { Err(ReadError::Denied { what: stream.to_string(), found: "access denied".into() }) } else { Ok(()) }
}

#[async_trait]
impl EventLog for Tapped<dyn EventLog> {
    async fn append(&self, s: &StreamName, e: Expected, v: Vec<NewEvent>) -> Result<Appended, AppendError> {
        if self.tap.is_away(s.as_str()) {
            return Err(AppendError::Unavailable { stream: s.clone(), found: "no answer".into() });
        }
        if self.tap.denies(Kind::Append, s.as_str()) {
            return Err(AppendError::Denied { stream: s.clone(), found: "access denied".into() });
        }
        let answer = self.tell(Kind::Append, s.as_str(), self.inner.append(s, e, v)).await;
        if self.tap.loses_answers(s.as_str()) {
            return Err(AppendError::Unknown { stream: s.clone(), found: "no answer".into() });
        }
        answer
    }
    async fn read(&self, s: &StreamName, from: Revision, max: usize) -> Result<Vec<StoredEvent>, ReadError> {
        denied(&*self.tap, s)?;
        let found = self.tell(Kind::Read, s.as_str(), self.inner.read(s, from, max)).await;
        if self.tap.hides(s.as_str()) { Ok(vec![]) } else { found }
    }
    async fn read_last(&self, s: &StreamName) -> Result<Option<StoredEvent>, ReadError> {
        denied(&*self.tap, s)?;
        self.tell(Kind::Read, s.as_str(), self.inner.read_last(s)).await
    }
    async fn end_of_log(&self) -> Result<Option<Position>, ReadError> {
        denied(&*self.tap, &StreamName::from("$all"))?;
        self.tell(Kind::Read, "$all", self.inner.end_of_log()).await
    }
    async fn read_back(&self, p: &[&str], max: usize, look: usize) -> Result<(Vec<StoredEvent>, usize), ReadError> {
        denied(&*self.tap, &StreamName::from("$all"))?;
        self.tell(Kind::Read, "$all", self.inner.read_back(p, max, look)).await
    }
    async fn subscribe(&self, from: StartFrom, p: &[&str]) -> mpsc::Receiver<Feed> {
        self.tell(Kind::Subscribe, p.first().unwrap_or(&"$all"), self.inner.subscribe(from, p)).await
    }
    async fn set_max_count(&self, s: &StreamName, n: u64) -> Result<bool, AppendError> {
        self.tell(Kind::Read, s.as_str(), self.inner.set_max_count(s, n)).await
    }
    async fn let_read_all(&self, user: &str) -> Result<bool, AppendError> {
        self.tell(Kind::Read, "$all", self.inner.let_read_all(user)).await
    }
    async fn read_everywhere(&self, s: &StreamName) -> Vec<LocalRead> {
        if self.tap.is_away(s.as_str()) {
            return vec![];
        }
        self.tell(Kind::Read, s.as_str(), self.inner.read_everywhere(s)).await
    }
    async fn probe(&self) -> StoreProbe {
        if self.tap.is_away("gossip") {
            return StoreProbe { voters: 3, answered: 0, leader_reported: false };
        }
        self.tell(Kind::Read, "gossip", self.inner.probe()).await
    }
}

#[async_trait]
impl ClusterAdmin for Tapped<dyn ClusterAdmin> {
    async fn gossip(&self, n: &Address) -> Result<View, NodeError> {
        self.tell(Kind::Node, &n.host, self.inner.gossip(n)).await
    }
    async fn live(&self, n: &Address) -> Result<bool, NodeError> {
        self.tell(Kind::Node, &n.host, self.inner.live(n)).await
    }
    async fn cluster_size(&self, n: &Address) -> Result<Option<u32>, NodeError> {
        self.tell(Kind::Node, &n.host, self.inner.cluster_size(n)).await
    }
    async fn replication(&self, n: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        self.tell(Kind::Node, &n.host, self.inner.replication(n)).await
    }
    async fn scavenge(&self, n: &Address) -> Result<Option<String>, NodeError> {
        self.tell(Kind::Node, &n.host, self.inner.scavenge(n)).await
    }
    async fn set_priority(&self, n: &Address, p: i32) -> Result<(), NodeError> {
        self.tell(Kind::NodeChange, &n.host, self.inner.set_priority(n, p)).await
    }
    async fn resign(&self, n: &Address) -> Result<(), NodeError> {
        self.tell(Kind::NodeChange, &n.host, self.inner.resign(n)).await
    }
    async fn resolve(&self, h: &str) -> Result<Vec<IpAddr>, NodeError> {
        self.tell(Kind::Node, h, self.inner.resolve(h)).await
    }
}

#[async_trait]
impl Fleet for Tapped<dyn Fleet> {
    fn own_instance(&self) -> Option<&InstanceId> {
        self.tap.own_instance()
    }
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        self.tell(Kind::Ec2, "", self.inner.describe(ids)).await
    }
    async fn find(&self, w: &Wanted) -> Result<Vec<Instance>, FleetError> {
        self.tell(Kind::Ec2, "", self.inner.find(w)).await
    }
    async fn type_info(&self, t: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        self.tell(Kind::Ec2, &t.0, self.inner.type_info(t)).await
    }
    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        self.tell(Kind::Ec2, "", self.inner.inspect(instances)).await
    }
    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.tell(Kind::Ec2Change, &id.0, self.inner.stop(id)).await
    }
    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        self.tell(Kind::Ec2Change, &id.0, self.inner.modify_type(id, to)).await
    }
    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.tell(Kind::Ec2Change, &id.0, self.inner.start(id)).await
    }
    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.tell(Kind::Ec2Change, &id.0, self.inner.reboot(id)).await
    }
    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.tell(Kind::Ec2Change, &id.0, self.inner.tag(id, value)).await
    }
    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.tell(Kind::Ec2Change, &id.0, self.inner.untag(id, value)).await
    }
}
