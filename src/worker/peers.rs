//! The other workers, as their heartbeats show them: so that a new update is taken by the one with the fewest in hand.
//!
//! Nothing rests on it but who tries first: all may try, and the stream's revision lets one win.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Worker;
use crate::codec::{HEARTBEAT, WorkerHeartbeat};
use crate::domain::ids::{ClusterName, Incarnation, WORKER_PREFIX, WorkerName};
use crate::domain::time::Moment;
use crate::lease::LEASE;
use crate::ports::{Feed, StartFrom, StoredEvent};

/// Head start of each worker that has fewer in hand: an append, and the second after which streams are read on.
const HEAD_START: Duration = Duration::from_millis(1500);

/// No more head starts than this are given, however many heartbeats anybody writes.
const HEAD_STARTS_MAX: u32 = 3;

/// Workers that are remembered.
const PEERS_MAX: usize = 200;

/// Rest before the heartbeats are subscribed to again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Peer {
    incarnation: Incarnation,
    clusters: Vec<ClusterName>,
    in_hand: u32,
    heard: Moment,
}

/// The workers that were heard.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<BTreeMap<WorkerName, Peer>>);

impl Peers {
    fn hear(&self, stored: StoredEvent, me: &Worker, now: Moment) {
        if stored.event_type != HEARTBEAT {
            return;
        }
        let Ok(mut beat) = serde_json::from_value::<WorkerHeartbeat>(stored.data) else { return };
        // Whoever writes here may name as many as it likes.
        beat.clusters.retain(|cluster| me.clusters.contains_key(cluster));
        beat.clusters.sort_unstable();
        beat.clusters.dedup();
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, peer| now.since(peer.heard) <= LEASE);
        if peers.len() < PEERS_MAX || peers.contains_key(&beat.worker) {
            let in_hand = beat.updates_in_hand.unwrap_or_default();
            let peer = Peer { incarnation: beat.incarnation, clusters: beat.clusters, in_hand, heard: now };
            peers.insert(beat.worker, peer);
        }
    }

    /// How long to leave a new update of this cluster to those with fewer in hand; among equals, names decide.
    pub fn head_start(&self, me: &Worker, cluster: &ClusterName, in_hand: usize) -> Duration {
        let now = me.clock.now();
        let mine = (u32::try_from(in_hand).unwrap_or(u32::MAX), &me.writer.worker);
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = peers.iter().filter(|(name, peer)| {
            peer.incarnation != me.writer.incarnation
                && now.since(peer.heard) <= LEASE
                && peer.clusters.contains(cluster)
                && (peer.in_hand, *name) < mine
        });
        HEAD_START * u32::try_from(first.count()).unwrap_or(u32::MAX).min(HEAD_STARTS_MAX)
    }
}

/// Listens to the heartbeats. Never ends.
pub(super) async fn run(worker: Worker, peers: Arc<Peers>) -> Result<(), super::WorkerError> {
    loop {
        if let Ok(end) = worker.log.end_of_log().await {
            let from = end.map_or(StartFrom::Beginning, StartFrom::After);
            let mut feed = worker.log.subscribe(from, &[WORKER_PREFIX]).await;
            while let Some(item) = feed.recv().await {
                match item {
                    Feed::Event(event) => peers.hear(event, &worker, worker.clock.now()),
                    Feed::CaughtUp | Feed::Looked(_) => {}
                    Feed::Reconnecting(why) => tracing::debug!(why, "the heartbeats are subscribed to anew"),
                }
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
