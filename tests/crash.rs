//! The worker dies at each append and around each call of an update, one by one; another process of the same name goes on.

mod rig;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::cluster::{ReplicaSubscription, View};
use esdb_rollout::domain::ids::{Address, InstanceId, InstanceType, Revision, StreamName};
use esdb_rollout::domain::inspection::Inspection;
use esdb_rollout::domain::instance::{Instance, TypeInfo};
use esdb_rollout::ports::*;
use esdb_rollout::update::state::End;
use rig::{Rig, lines, outline, quick_world, request};
use tokio::sync::{Notify, mpsc};

/// Whether the process dies before the call leaves it, or after its effect and before it hears of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Before,
    After,
}

/// Counts appends and calls, and dies at one of them.
struct Bomb {
    count: AtomicUsize,
    at: usize,
    when: When,
    gone: Notify,
}

impl Bomb {
    fn new(at: usize, when: When) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), at, when, gone: Notify::new() })
    }

    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        let here = self.count.fetch_add(1, Ordering::SeqCst) == self.at;
        if here && self.when == When::Before {
            self.gone.notify_one();
            std::future::pending::<()>().await;
        }
        let answer = call.await;
        if here {
            self.gone.notify_one();
            std::future::pending::<()>().await;
        }
        answer
    }
}

struct Mined<T: ?Sized> {
    inner: Arc<T>,
    bomb: Arc<Bomb>,
}

#[async_trait]
impl EventLog for Mined<dyn EventLog> {
    async fn append(&self, s: &StreamName, e: Expected, v: Vec<NewEvent>) -> Result<Appended, AppendError> {
        if s.as_str().starts_with("clusterUpdate-") || s.as_str().starts_with("updatedCluster-") {
            self.bomb.around(self.inner.append(s, e, v)).await
        } else {
            self.inner.append(s, e, v).await
        }
    }
    async fn read(&self, s: &StreamName, from: Revision, max: usize) -> Result<Vec<StoredEvent>, ReadError> {
        self.inner.read(s, from, max).await
    }
    async fn read_last(&self, s: &StreamName) -> Result<Option<StoredEvent>, ReadError> {
        self.inner.read_last(s).await
    }
    async fn end_of_log(&self) -> Result<Option<Position>, ReadError> {
        self.inner.end_of_log().await
    }
    async fn read_back(&self, p: &[&str], max: usize, look: usize) -> Result<(Vec<StoredEvent>, usize), ReadError> {
        self.inner.read_back(p, max, look).await
    }
    async fn subscribe(&self, from: StartFrom, p: &[&str]) -> mpsc::Receiver<Feed> {
        self.inner.subscribe(from, p).await
    }
    async fn set_max_count(&self, s: &StreamName, n: u64) -> Result<bool, AppendError> {
        self.inner.set_max_count(s, n).await
    }
    async fn let_read_all(&self, user: &str) -> Result<bool, AppendError> {
        self.inner.let_read_all(user).await
    }
    async fn read_everywhere(&self, s: &StreamName) -> Vec<LocalRead> {
        self.inner.read_everywhere(s).await
    }
    async fn probe(&self) -> StoreProbe {
        self.inner.probe().await
    }
}

#[async_trait]
impl ClusterAdmin for Mined<dyn ClusterAdmin> {
    async fn gossip(&self, n: &Address) -> Result<View, NodeError> {
        self.inner.gossip(n).await
    }
    async fn live(&self, n: &Address) -> Result<bool, NodeError> {
        self.inner.live(n).await
    }
    async fn cluster_size(&self, n: &Address) -> Result<Option<u32>, NodeError> {
        self.inner.cluster_size(n).await
    }
    async fn replication(&self, n: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        self.inner.replication(n).await
    }
    async fn scavenge(&self, n: &Address) -> Result<Option<String>, NodeError> {
        self.inner.scavenge(n).await
    }
    async fn set_priority(&self, n: &Address, p: i32) -> Result<(), NodeError> {
        self.bomb.around(self.inner.set_priority(n, p)).await
    }
    async fn resign(&self, n: &Address) -> Result<(), NodeError> {
        self.bomb.around(self.inner.resign(n)).await
    }
    async fn resolve(&self, h: &str) -> Result<Vec<IpAddr>, NodeError> {
        self.inner.resolve(h).await
    }
}

#[async_trait]
impl Fleet for Mined<dyn Fleet> {
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        self.inner.describe(ids).await
    }
    async fn find(&self, w: &Wanted) -> Result<Vec<Instance>, FleetError> {
        self.inner.find(w).await
    }
    async fn type_info(&self, t: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        self.inner.type_info(t).await
    }
    async fn inspect(&self, ids: &[InstanceId]) -> Inspection {
        self.inner.inspect(ids).await
    }
    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.bomb.around(self.inner.stop(id)).await
    }
    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        self.bomb.around(self.inner.modify_type(id, to)).await
    }
    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.bomb.around(self.inner.start(id)).await
    }
    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.bomb.around(self.inner.reboot(id)).await
    }
    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.bomb.around(self.inner.tag(id, value)).await
    }
    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.bomb.around(self.inner.untag(id, value)).await
    }
}

fn mined(rig: &Rig, bomb: &Arc<Bomb>) -> Rig {
    Rig {
        log: Arc::new(Mined { inner: rig.log.clone(), bomb: bomb.clone() }),
        admin: Arc::new(Mined { inner: rig.admin.clone(), bomb: bomb.clone() }),
        fleet: Arc::new(Mined { inner: rig.fleet.clone(), bomb: bomb.clone() }),
        ..rig.share()
    }
}

/// Intents may be written again after a crash, and what waits may be said again; everything else is said once.
fn may_repeat(line: &str) -> bool {
    let name = line.split(' ').next().unwrap_or_default();
    name.ends_with("Requested") || name == "StepDelayed" || name == "WorkerAssigned"
}

async fn dies_at(at: usize, when: When) -> bool {
    let rig = Rig::new(quick_world(11));
    let truth = rig.watch_truth();
    rig.append(request("m6i.xlarge").into(), 1).await;
    let bomb = Bomb::new(at, when);
    let (worker, _stop) = mined(&rig, &bomb).spawn(0);
    tokio::select! {
        () = bomb.gone.notified() => {}
        // An update of a few minutes that ends without reaching that many appends and calls: there are no more.
        _ = rig.ended(Duration::from_secs(3600)) => {
            worker.abort();
            return false;
        }
    }
    worker.abort();
    let _ = worker.await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (successor, _stop) = rig.spawn(1);
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    successor.abort();
    let shown = lines(&history);
    let which = format!("died {when:?} number {at}");
    assert!(matches!(state.end, Some(End::Completed(_))), "{which}: {:?}\n{shown}", state.end);
    assert_eq!(truth.check(), [1, 1, 1, 1], "{which}: each instance is stopped once\n{shown}");
    let outline = outline(&history);
    let mut once: Vec<&str> = outline.lines().filter(|l| !may_repeat(l)).collect();
    let all = once.len();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), all, "{which}: each fact stands once\n{shown}");
    true
}

async fn dies_at_each(when: When) {
    let mut at = 0;
    while dies_at(at, when).await {
        at += 1;
    }
    assert!(at > 60, "an update has more than 60 appends and calls, this one had {at}");
}

#[tokio::test(start_paused = true)]
async fn dying_before_each_append_and_call_loses_nothing_and_stops_nothing_twice() {
    dies_at_each(When::Before).await;
}

#[tokio::test(start_paused = true)]
async fn dying_after_each_append_and_call_loses_nothing_and_stops_nothing_twice() {
    dies_at_each(When::After).await;
}
