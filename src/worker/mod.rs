//! The loop: wake → fold → observe → react → audit → act → append.
//!
//! Knows every pure room and the ports; no adapter by name. A wake-up carries no input: whatever woke a driver, it reads on, looks,
//! and decides anew.

mod discovery;
mod driver;
mod hands;
mod heartbeat;
mod inspect;
mod observer;
mod own_machine;
mod peers;
mod perform;
mod preview;
mod queue;
mod remains;
mod rescue;
mod store;
mod supersede;
mod survey;
mod untaken;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::codec::Writer;
use crate::domain::ids::{Address, ClusterName, InstanceId, NodeName, UpdateId};
use crate::domain::quorum::Voters;
use crate::domain::time::Moment;
use crate::ports::{Clock, ClusterAdmin, EventLog, Fleet, ReadError};
use crate::update::observed::Policy;

pub use discovery::{StartPoint, checkpoint};
pub use heartbeat::beat_of;
pub use preview::{Preview, preview};
pub use queue::{FailuresReviewed, Limits, Queue, REVIEW_STREAM, REVIEWED, Waits};
pub use store::{read_all, read_update};
pub use supersede::heir;
pub use survey::survey;

/// What a worker knows of one cluster.
#[derive(Clone)]
pub struct ClusterHandle {
    /// Nodes to ask first.
    pub seeds: Vec<Address>,
    /// Voting nodes, if configured; else `/info/options` is asked.
    pub voters: Option<Voters>,
    /// Nodes that are named by the configuration.
    pub nodes: BTreeMap<NodeName, NodeMapping>,
    /// Limits.
    pub policy: Policy,
    /// Its nodes.
    pub admin: Arc<dyn ClusterAdmin>,
    /// Its instances.
    pub fleet: Arc<dyn Fleet>,
}

/// How a configured node is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMapping {
    /// Its instance.
    pub instance: InstanceId,
    /// Its address in gossip, where that cannot be matched with the instance's.
    pub address: Option<Address>,
    /// Whether that address is none of the instance's own, since something between them translates it (NAT).
    pub address_translated: bool,
}

/// A worker.
#[derive(Clone)]
pub struct Worker {
    /// Who it is.
    pub writer: Writer,
    /// The clusters it may touch.
    pub clusters: Arc<BTreeMap<ClusterName, ClusterHandle>>,
    /// The store.
    pub log: Arc<dyn EventLog>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How much it does at a time.
    pub limits: Limits,
}

/// What the parts of one worker share.
#[derive(Clone)]
struct Shared {
    hands: Arc<hands::Hands>,
    peers: Arc<peers::Peers>,
    queue: Arc<Mutex<Queue>>,
    /// Reads of the queue that have begun.
    reads: Arc<AtomicU64>,
    /// Rings when the admissions are worth a look.
    look: Arc<Notify>,
    /// This worker's own heartbeats.
    beats: watch::Receiver<Acknowledged>,
}

/// Why a worker stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// There is no checkpoint: nobody said from where commands are to be obeyed.
    #[error(
        "the store holds no checkpoint: run `esdb-rollout init` once, which obeys requests from now on, or start with --from-beginning"
    )]
    NotInitialised,
    /// A namesake lives.
    #[error("another worker named {0} is alive: give each worker a name of its own (--name)")]
    NamesakeAlive(crate::domain::ids::WorkerName),
    /// The store takes none of its heartbeats.
    #[error(
        "this worker cannot give a sign of life: {0}; correct the user's rights, or where its heartbeats' stream was deleted for good, give it \
         another name (--name)"
    )]
    NoHeartbeat(String),
    /// Nobody has let this worker's user read the whole log, in which requests are found.
    #[error("{0}")]
    MayNotReadAll(ReadError),
    /// The store does not answer, or refuses.
    #[error("the store cannot be used: {0}")]
    Store(String),
    /// A part of this program ended that does not end: a fault of ours.
    #[error("a part of this worker died: {0}")]
    Died(String),
}

/// How a worker is asked to stop: at a safe point (no node out of service by its doing), or at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Go on.
    No,
    /// Take nothing new in hand, and stop as soon as every node runs.
    AtSafePoint,
}

impl Worker {
    /// Runs until asked to stop. Resumes every unfinished update of its clusters, admits new ones, and drives them all.
    pub async fn run(self, start: StartPoint, stop: watch::Receiver<Stop>) -> Result<(), WorkerError> {
        let (wake_tx, mut wake_rx) = mpsc::channel::<Found>(256);
        let (beats_tx, beats_rx) = watch::channel(Acknowledged::default());
        let queue = Queue::default();
        let shared = Shared {
            reads: queue.reads(),
            hands: Arc::new(hands::Hands::new(self.limits.own)),
            peers: Arc::default(),
            queue: Arc::new(Mutex::new(queue)),
            look: Arc::default(),
            beats: beats_rx.clone(),
        };
        let mut services: JoinSet<Result<(), WorkerError>> = JoinSet::new();
        // Before anything that waits for the store: bringing a node back may be what the store waits for.
        services.spawn(rescue::run(self.clone(), beats_rx.clone()));
        let mut stop = stop;
        let position = tokio::select! {
            biased;
            // Nothing is in hand.
            () = told(&mut stop) => return Ok(()),
            position = discovery::start_position(&self, start) => position?,
        };
        let clusters: Vec<&ClusterName> = self.clusters.keys().collect();
        tracing::info!(worker = %self.writer.worker, incarnation = %self.writer.incarnation, ?clusters, "begins");
        services.spawn(heartbeat::run(self.clone(), shared.hands.clone(), beats_tx));
        services.spawn(peers::run(self.clone(), shared.peers.clone()));
        services.spawn(discovery::subscribe(self.clone(), position, shared.look.clone(), wake_tx.clone()));
        // A sender is kept: news end with the services, and what is in hand is brought to a safe point without them.
        services.spawn(discovery::poll_admissions(self.clone(), shared.clone(), wake_tx.clone()));
        let (halt, halted) = watch::channel(Stop::No);
        let mut failed: Option<WorkerError> = None;

        let mut drivers: BTreeMap<UpdateId, mpsc::Sender<Rung>> = BTreeMap::new();
        let mut running: JoinSet<UpdateId> = JoinSet::new();
        loop {
            tokio::select! {
                found = wake_rx.recv() => {
                    let Some(Found { update, cluster }) = found else { continue };
                    if let Some(driver) = drivers.get(&update) {
                        // A full queue means that it is about to look anyway.
                        let _ = driver.try_send(if cluster.is_none() { Rung::News } else { Rung::ToLook });
                    } else if *halted.borrow() == Stop::No
                        && let Some(cluster) = cluster
                        && let Some(handle) = self.clusters.get(&cluster)
                    {
                        let (tx, rx) = mpsc::channel(8);
                        drivers.insert(update, tx);
                        let driver = driver::Driver::new(self.clone(), update, cluster, handle.clone(), halted.clone(), shared.clone(), rx);
                        running.spawn(async move {
                            driver.run().await;
                            update
                        });
                    }
                }
                Some(ended) = running.join_next() => {
                    match ended {
                        Ok(update) => {
                            drivers.remove(&update);
                            // Somebody who waits for room may have it now.
                            shared.look.notify_one();
                        }
                        Err(panic) => {
                            tracing::error!(error = %panic, "an update's driver died; its update is resumed from its stream");
                            drivers.retain(|_, tx| !tx.is_closed());
                        }
                    }
                }
                Some(ended) = services.join_next() => {
                    let error = match ended {
                        Ok(Err(error)) => error,
                        Ok(Ok(())) => WorkerError::Died("it ended".into()),
                        Err(panic) => WorkerError::Died(panic.to_string()),
                    };
                    tracing::error!(%error, "takes nothing new in hand, and ends when no node is out of service by its doing");
                    failed.get_or_insert(error);
                    halt.send_replace(Stop::AtSafePoint);
                }
                () = asked(&mut stop) => {
                    if *stop.borrow() == Stop::AtSafePoint {
                        halt.send_replace(Stop::AtSafePoint);
                    }
                }
            }
            if *halted.borrow() != Stop::No && running.is_empty() {
                break;
            }
        }
        say_what_was_handed_over(&shared.hands, beats_rx).await;
        failed.map_or(Ok(()), Err)
    }
}

/// Waits until the heartbeat has said what was handed over. Where the store takes none, others wait for the lease.
async fn say_what_was_handed_over(hands: &hands::Hands, mut beats: watch::Receiver<Acknowledged>) {
    let last = hands.told().borrow().clone();
    if last.handed_over.is_empty() {
        return;
    }
    let said = beats.wait_for(|acknowledged| acknowledged.told == last);
    if !matches!(tokio::time::timeout(LAST_WORD_WITHIN, said).await, Ok(Ok(_))) {
        tracing::warn!("the store takes no last heartbeat: others take over when the lease has run out");
    }
}

/// For so long a worker that stops waits for its last heartbeat to be acknowledged.
const LAST_WORD_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The heartbeats that the store has acknowledged: how many, what the last one said, and since when those that were sent were not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Acknowledged {
    beats: u64,
    told: hands::Told,
    failing_since: Option<Moment>,
}

/// Waits until it is asked to stop. If nobody is left to ask, for ever.
async fn told(stop: &mut watch::Receiver<Stop>) {
    if stop.wait_for(|stop| *stop != Stop::No).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until something else is asked for. If nobody is left to ask, for ever.
pub(crate) async fn asked(stop: &mut watch::Receiver<Stop>) {
    if stop.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Why a driver that rests is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Something was written to its stream.
    News,
    /// The admissions were looked at: there may be room, or a hand.
    ToLook,
}

/// An update that deserves a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The update.
    pub update: UpdateId,
    /// Its cluster, where it is to be driven; `None` if only a driver that exists is to be woken.
    pub cluster: Option<ClusterName>,
}
