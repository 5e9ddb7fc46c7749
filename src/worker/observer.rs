//! Looks at nodes and instances all the time, each in a task of its own: a node that does not answer must not slow the others down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::domain::cluster::{NodeState, ReplicaSubscription};
use crate::domain::ids::{Address, InstanceId, NodeName};
use crate::domain::instance::Instance;
use crate::domain::time::Moment;
use crate::domain::watch::Answer;
use crate::ports::{CallClass, Clock, ClusterAdmin, Fleet};
use crate::update::limits::{EC2_CALL_TIMEOUT, NODE_CALL_TIMEOUT};

/// How often to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cadence {
    /// At each node.
    pub nodes: Duration,
    /// At the instances.
    pub instances: Duration,
    /// Whether to ask the leader what it sent to whom.
    pub replication: bool,
}

impl Cadence {
    /// A node is in hand: its entry lives for two seconds or less, and its first entry perhaps for 20 ms.
    pub const BUSY: Cadence =
        Cadence { nodes: Duration::from_millis(250), instances: Duration::from_secs(10), replication: false };
    /// A node is about to be stopped, or let go: the fence on its instance must be seen fresh.
    pub const TAKING: Cadence =
        Cadence { nodes: Duration::from_millis(250), instances: Duration::from_secs(2), replication: false };
    /// An instance changes its state: EC2 is asked once a second, one call for all (its bucket refills by 20 a second).
    pub const CHANGING: Cadence =
        Cadence { nodes: Duration::from_millis(250), instances: Duration::from_secs(1), replication: false };
    /// A node comes back: its first entries tell whether its data came with it.
    pub const RETURNING: Cadence =
        Cadence { nodes: Duration::from_millis(100), instances: Duration::from_secs(5), replication: true };
    /// Nothing is in hand: often enough to miss no refresh of two seconds.
    pub const IDLE: Cadence =
        Cadence { nodes: Duration::from_millis(500), instances: Duration::from_secs(15), replication: false };
}

/// Something that was seen.
#[derive(Clone, Debug)]
pub(super) enum Sight {
    /// A node's answer.
    Node(NodeName, Moment, Answer),
    /// The instances. `Err` with the reason.
    Instances(Moment, Result<Vec<Instance>, String>),
    /// The leader's word on its replicas.
    Replication(Moment, Vec<ReplicaSubscription>),
}

/// The eyes of one driver. Dropping it closes them.
pub(super) struct Observer {
    tasks: JoinSet<()>,
    /// What was seen.
    pub sights: mpsc::Receiver<Sight>,
    cadence: watch::Sender<Cadence>,
    look_now: Arc<Notify>,
}

impl Observer {
    /// Opens its eyes.
    pub fn new(
        nodes: BTreeMap<NodeName, Address>,
        instances: Vec<InstanceId>,
        admin: Arc<dyn ClusterAdmin>,
        fleet: Arc<dyn Fleet>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (tx, sights) = mpsc::channel(1024);
        let (cadence, rx) = watch::channel(Cadence::IDLE);
        let look_now = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        for (name, address) in nodes {
            tasks.spawn(watch_node(name, address, Arc::clone(&admin), Arc::clone(&clock), rx.clone(), tx.clone()));
        }
        tasks.spawn(watch_instances(instances, fleet, clock, rx, tx, Arc::clone(&look_now)));
        Self { tasks, sights, cadence, look_now }
    }

    /// Sets how often to look.
    pub fn set_cadence(&self, cadence: Cadence) {
        self.cadence.send_if_modified(|c| {
            let changed = *c != cadence;
            *c = cadence;
            changed
        });
    }

    /// Describes the instances at once.
    pub fn look_at_instances_now(&self) {
        self.look_now.notify_one();
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

async fn pause(duration: Duration, cadence: &mut watch::Receiver<Cadence>) {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        changed = cadence.changed() => {
            if changed.is_err() {
                // The observer is gone, and this task is about to be.
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn watch_node(
    name: NodeName,
    address: Address,
    admin: Arc<dyn ClusterAdmin>,
    clock: Arc<dyn Clock>,
    mut cadence: watch::Receiver<Cadence>,
    out: mpsc::Sender<Sight>,
) {
    loop {
        let now = *cadence.borrow_and_update();
        let began = clock.now();
        let answer = match tokio::time::timeout(NODE_CALL_TIMEOUT, admin.gossip(&address)).await {
            Ok(Ok(view)) => {
                let own_state = view.own().map(|own| own.state);
                let serves =
                    matches!(own_state, Some(NodeState::Follower | NodeState::ReadOnlyReplica | NodeState::Leader));
                let live = if serves { admin.live(&address).await.ok() } else { None };
                if now.replication
                    && own_state == Some(NodeState::Leader)
                    && let Ok(subscriptions) = admin.replication(&address).await
                    && out.send(Sight::Replication(clock.now(), subscriptions)).await.is_err()
                {
                    return;
                }
                Answer::View { view, live }
            }
            Ok(Err(error)) => Answer::Silent { why: error.to_string() },
            Err(_) => Answer::Silent { why: format!("no answer within {} s", NODE_CALL_TIMEOUT.as_secs()) },
        };
        if out.send(Sight::Node(name.clone(), clock.now(), answer)).await.is_err() {
            return;
        }
        pause(now.nodes.saturating_sub(clock.now().since(began)).max(Duration::from_millis(20)), &mut cadence).await;
    }
}

async fn watch_instances(
    ids: Vec<InstanceId>,
    fleet: Arc<dyn Fleet>,
    clock: Arc<dyn Clock>,
    mut cadence: watch::Receiver<Cadence>,
    out: mpsc::Sender<Sight>,
    look_now: Arc<Notify>,
) {
    let mut failures: u32 = 0;
    loop {
        let now = *cadence.borrow_and_update();
        let (found, slow_down) = match tokio::time::timeout(EC2_CALL_TIMEOUT, fleet.describe(&ids)).await {
            Ok(Ok(instances)) => (Ok(instances), false),
            Ok(Err(error)) => {
                let mends = matches!(
                    error.class,
                    CallClass::Retry | CallClass::Unknown | CallClass::Denied | CallClass::Unauthenticated
                );
                (Err(error.to_string()), mends)
            }
            Err(_) => (Err(format!("EC2 did not answer within {} s", EC2_CALL_TIMEOUT.as_secs())), true),
        };
        failures = if slow_down { (failures + 1).min(5) } else { 0 };
        if out.send(Sight::Instances(clock.now(), found)).await.is_err() {
            return;
        }
        tokio::select! {
            () = pause(now.instances * (1 + failures), &mut cadence) => {}
            () = look_now.notified() => {}
        }
    }
}
