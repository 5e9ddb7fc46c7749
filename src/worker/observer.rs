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

/// An answer, unless it took longer than it may: then this process did not run meanwhile, and what it says is of before.
fn in_time<T>(answer: T, took: Duration, within: Duration) -> Result<T, String> {
    if took <= within { Ok(answer) } else { Err(format!("its answer is {} s old", took.as_secs())) }
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
            Ok(Ok(view)) => Ok(view),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", NODE_CALL_TIMEOUT.as_secs())),
        };
        // What a view says was true no later than now: whatever is asked after it may take seconds, of a node that froze meanwhile.
        let at = clock.now();
        let answer = answer.and_then(|view| in_time(view, at.since(began), NODE_CALL_TIMEOUT));
        let own_state = answer.as_ref().ok().and_then(|view| view.own()).map(|own| own.state);
        let seen = match &answer {
            Ok(view) => Answer::View { view: view.clone(), live: None },
            Err(why) => Answer::Silent { why: why.clone() },
        };
        if out.send(Sight::Node(name.clone(), at, seen)).await.is_err() {
            return;
        }
        let serves = matches!(own_state, Some(NodeState::Follower | NodeState::ReadOnlyReplica | NodeState::Leader));
        if serves
            && let Ok(view) = answer
            && let Ok(live) = admin.live(&address).await
        {
            // The same view once more, still as old as it is.
            let alive = Sight::Node(name.clone(), at, Answer::View { view, live: Some(live) });
            if out.send(alive).await.is_err() {
                return;
            }
        }
        if now.replication && own_state == Some(NodeState::Leader) {
            // Bytes sent only grow. Told of a moment too early they are too many, and a refill looks larger than it is, never smaller.
            let asked = clock.now();
            if let Ok(subscriptions) = admin.replication(&address).await
                && out.send(Sight::Replication(asked, subscriptions)).await.is_err()
            {
                return;
            }
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
        let began = clock.now();
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
        let found = found.and_then(|found| in_time(found, clock.now().since(began), EC2_CALL_TIMEOUT));
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use async_trait::async_trait;
    use uuid::Uuid;

    use super::*;
    use crate::domain::cluster::{MemberEntry, View};
    use crate::domain::ids::ProcessId;
    use crate::domain::watch::{ANSWER_MAX_AGE, ClusterWatch};
    use crate::ports::{NodeError, SystemClock};

    /// A leader that answers `/gossip` once, after 200 ms, and freezes.
    #[derive(Default)]
    struct Freezes(std::sync::atomic::AtomicBool);

    const CALL: Duration = Duration::from_secs(3);

    impl Freezes {
        async fn silent<T>(&self, node: &Address) -> Result<T, NodeError> {
            tokio::time::sleep(CALL).await;
            Err(NodeError::TimedOut { node: node.clone(), after_ms: 3000 })
        }
    }

    #[async_trait]
    impl ClusterAdmin for Freezes {
        async fn gossip(&self, node: &Address) -> Result<View, NodeError> {
            if self.0.swap(true, std::sync::atomic::Ordering::Relaxed) {
                return self.silent(node).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let own = MemberEntry {
                process: ProcessId(Uuid::from_u128(1)),
                time_stamp: "1".into(),
                state: NodeState::Leader,
                is_alive: true,
                address: node.clone(),
                replication: node.clone(),
                last_commit: 1,
                writer: 1,
                chaser: 1,
                epoch_position: 0,
                epoch: 1,
                epoch_id: Uuid::nil(),
                priority: 0,
                is_read_only_replica: false,
                version: None,
            };
            Ok(View { server: node.clone(), members: vec![own] })
        }
        async fn live(&self, node: &Address) -> Result<bool, NodeError> {
            self.silent(node).await
        }
        async fn cluster_size(&self, node: &Address) -> Result<Option<u32>, NodeError> {
            self.silent(node).await
        }
        async fn replication(&self, _: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
            tokio::time::sleep(CALL - Duration::from_millis(1)).await;
            Ok(vec![])
        }
        async fn scavenge(&self, node: &Address) -> Result<Option<String>, NodeError> {
            self.silent(node).await
        }
        async fn set_priority(&self, node: &Address, _: i32) -> Result<(), NodeError> {
            self.silent(node).await
        }
        async fn resign(&self, node: &Address) -> Result<(), NodeError> {
            self.silent(node).await
        }
        async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, NodeError> {
            Ok(vec![])
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_is_as_old_as_the_answer_that_brought_it_whatever_is_asked_after_it() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start_at(jiff::Timestamp::UNIX_EPOCH));
        let node = NodeName::from("a");
        let (tx, mut sights) = mpsc::channel(16);
        let (_cadence, cadence) = watch::channel(Cadence::RETURNING);
        let looks = watch_node(
            node.clone(),
            Address::new("10.0.0.1", 2113),
            Arc::new(Freezes::default()),
            clock.clone(),
            cadence,
            tx,
        );
        let _looks = tokio::spawn(looks);
        let answered = Moment(Duration::from_millis(200));

        let Some(Sight::Node(_, at, answer)) = sights.recv().await else { panic!("its view comes first") };
        assert_eq!((at, clock.now()), (answered, answered), "at once, and of that moment");
        let mut watch = ClusterWatch::new([node.clone()]);
        watch.absorb(&node, at, answer);
        let track = watch.node(&node).unwrap();
        let limit = answered.after(ANSWER_MAX_AGE);
        assert!(track.own(limit).is_some() && track.own(limit.after(Duration::from_millis(1))).is_none());

        let Some(Sight::Replication(at, _)) = sights.recv().await else { panic!("then what it sent to whom") };
        assert_eq!(at, answered.after(CALL), "of the moment at which that was asked");
        let Some(Sight::Node(_, _, Answer::Silent { .. })) = sights.recv().await else { panic!("then nothing") };
    }
}
