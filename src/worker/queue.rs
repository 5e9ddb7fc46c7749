//! Which admitted updates may begin now: the oldest first, as many as may run at a time over all clusters, and none while too many have
//! failed in a row. Computed from the streams at each look; nothing is kept that they do not say.
//!
//! An update's place is the position of its admission in the whole log. What is committed at a position has everything before it committed
//! too: whoever sees an admission, and reads the other admission streams *after that*, sees every admission ahead of it. So two workers
//! that begin two updates at one moment never exceed the limit, and need no lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::store::{fold_update, read_all};
use crate::codec::decode_admission;
use crate::domain::ids::{ClusterName, Revision, StreamName, UpdateId};
use crate::ports::{Clock, EventLog, Position, ReadError, StoredEvent};
use crate::update::event::AdmissionEvent;
use crate::update::state::End;

/// Stream of [`FailuresReviewed`].
pub const REVIEW_STREAM: &str = "updateFailures";
/// Stored type of [`FailuresReviewed`].
pub const REVIEWED: &str = "FailuresReviewed";

/// Releases of one cluster that are remembered: as many failures in a row can be counted.
const RELEASES_MAX: usize = 32;

/// A person has looked at the updates that failed before this event: they are not held against new ones any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailuresReviewed {
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How much is done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Updates that one worker has in hand.
    pub own: usize,
    /// Updates that run over all clusters that the worker knows.
    pub fleet: usize,
    /// Failed updates in a row after which no new one begins.
    pub failures: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { own: 1, fleet: 1, failures: None }
    }
}

/// Where something stands in the whole log. A store too old to say positions (before 22.10) is believed its calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    position: Option<Position>,
    written: jiff::Timestamp,
    revision: Revision,
}

impl Place {
    fn of(stored: &StoredEvent) -> Self {
        Place { position: stored.position, written: stored.created, revision: stored.revision }
    }
}

/// Why an admitted update does not begin yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// As many as may run at a time are ahead of it.
    Room {
        /// How many are ahead of it.
        ahead: usize,
        /// How many may run at a time.
        limit: usize,
    },
    /// Too many updates have failed in a row.
    Failures {
        /// How many.
        failed: usize,
    },
    /// Its admission does not stand, or not any more.
    NotAdmitted,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waits::Room { ahead, limit } => {
                write!(f, "{ahead} updates are ahead of it, and {limit} may run at a time over all clusters")
            }
            Waits::Failures { failed } => write!(
                f,
                "the last {failed} updates failed: look at them, then `esdb-rollout resume --after-failures` lets new ones begin"
            ),
            Waits::NotAdmitted => f.write_str("its admission does not stand"),
        }
    }
}

/// Reads of one stream denied one after the other until nobody waits for it any more: a node that starts denies what it cannot look up yet.
/// Looks are five seconds apart.
const DENIALS_MAX: u32 = 12;

#[derive(Clone, Debug, Default)]
struct OfCluster {
    last: Option<Revision>,
    /// Reads that were denied since one was answered.
    denied: u32,
    active: Option<(Place, UpdateId)>,
    /// The latest, oldest first.
    released: VecDeque<(Place, UpdateId)>,
}

impl OfCluster {
    fn evolve(&mut self, stored: &StoredEvent) {
        self.last = Some(stored.revision);
        match decode_admission(stored) {
            Some(AdmissionEvent::UpdateAdmitted(a)) => {
                self.active.get_or_insert((Place::of(stored), a.update));
            }
            Some(AdmissionEvent::UpdateReleased(a)) if self.active.is_some_and(|(_, u)| u == a.update) => {
                self.active = None;
                if self.released.len() == RELEASES_MAX {
                    self.released.pop_front();
                }
                self.released.push_back((Place::of(stored), a.update));
            }
            Some(AdmissionEvent::UpdateReleased(_)) | None => {}
        }
    }
}

/// How an update ended, as far as it counts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Well,
    Failed,
    /// Cancelled, rejected, superseded: that says nothing of the next one.
    Otherwise,
}

/// The admissions of all clusters of a worker, as last read.
#[derive(Debug, Default)]
pub struct Queue {
    clusters: BTreeMap<ClusterName, OfCluster>,
    ended: BTreeMap<UpdateId, Ended>,
    /// Looks at how an update ended that were denied since one was answered.
    denied: BTreeMap<UpdateId, u32>,
    /// Updates that hold their own cluster, and nobody else up.
    set_aside: BTreeSet<UpdateId>,
    /// Reads that have begun: told to those who wait for their turn to read.
    begun: Arc<AtomicU64>,
    /// The last read that reached every cluster, by its number.
    complete: u64,
}

impl Queue {
    /// Reads the admission streams of these clusters on.
    ///
    /// # Errors
    /// The first stream that could not be read; the others have been read on.
    pub async fn read(
        &mut self,
        log: &dyn EventLog,
        clusters: impl IntoIterator<Item = &ClusterName>,
    ) -> Result<(), ReadError> {
        let mut failed = None;
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        for cluster in clusters {
            let known = self.clusters.entry(cluster.clone()).or_default();
            let from = known.last.map_or(Revision(0), Revision::next);
            match read_all(log, &cluster.admission_stream(), from).await {
                Ok(events) => {
                    known.denied = 0;
                    events.iter().for_each(|stored| known.evolve(stored));
                }
                // Deleted, too long, or not ours to read: nothing begins there, and the others do not wait for it.
                Err(error @ ReadError::Refused { .. }) => tracing::error!(%cluster, %error, "passed over"),
                Err(error @ ReadError::Denied { .. }) if known.denied >= DENIALS_MAX => {
                    tracing::error!(%cluster, %error, "passed over");
                }
                Err(error @ ReadError::Denied { .. }) => {
                    known.denied += 1;
                    failed.get_or_insert(error);
                }
                Err(error @ ReadError::Unavailable { .. }) => {
                    failed.get_or_insert(error);
                }
            }
        }
        let clusters = &self.clusters;
        self.set_aside.retain(|aside| clusters.values().any(|k| k.active.is_some_and(|(_, u)| u == *aside)));
        match failed {
            None => {
                self.complete = number;
                Ok(())
            }
            Some(error) => Err(error),
        }
    }

    /// How many reads have begun, for [`Queue::may_begin`].
    pub fn reads(&self) -> Arc<AtomicU64> {
        self.begun.clone()
    }

    /// Updates that were admitted and not released, the oldest first.
    pub fn unfinished(&self) -> Vec<(UpdateId, ClusterName)> {
        let mut found: Vec<(Place, UpdateId, &ClusterName)> =
            self.clusters.iter().filter_map(|(c, k)| k.active.map(|(place, update)| (place, update, c))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, update, cluster)| (update, cluster.clone())).collect()
    }

    /// How many unfinished updates are ahead of this one, by what was read last; without those that were set aside.
    pub fn ahead_of(&self, update: UpdateId) -> Option<usize> {
        let unfinished = self.unfinished();
        let place = unfinished.iter().position(|(u, _)| *u == update)?;
        Some(unfinished.iter().take(place).filter(|(u, _)| !self.set_aside.contains(u)).count())
    }

    /// Sets an update aside that nobody can go on with, since the store refuses its stream: it holds its own cluster, and no other up.
    /// Or takes it in again. Says whether that changed anything.
    pub fn put_aside(&mut self, update: UpdateId, aside: bool) -> bool {
        if aside { self.set_aside.insert(update) } else { self.set_aside.remove(&update) }
    }

    /// The updates that were set aside.
    pub fn set_aside(&self) -> &BTreeSet<UpdateId> {
        &self.set_aside
    }

    /// Where an update was admitted in the whole log, where the store says positions.
    pub fn admitted_at(&self, update: UpdateId) -> Option<Position> {
        let mut active = self.clusters.values().filter_map(|known| known.active);
        active.find(|(_, active)| *active == update).and_then(|(place, _)| place.position)
    }

    /// Updates that failed, one after the other, since one completed or a person reviewed them; at most `enough`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn failures_in_a_row(
        &mut self,
        log: &dyn EventLog,
        clock: &dyn Clock,
        enough: usize,
    ) -> Result<usize, ReadError> {
        let review = log.read_last(&StreamName::from(REVIEW_STREAM)).await?;
        let reviewed = review.filter(|e| e.event_type == REVIEWED).map(|e| Place::of(&e));
        let mut released: Vec<(Place, UpdateId)> = self.clusters.values().flat_map(|k| &k.released).copied().collect();
        released.sort_unstable();
        let after = |place: &Place| reviewed.is_none_or(|r| (place.position, place.written) > (r.position, r.written));
        let mut failed = 0;
        for (_, update) in released.iter().rev().take_while(|(place, _)| after(place)) {
            match self.ended(log, clock, *update).await? {
                Ended::Well => break,
                Ended::Failed => failed += 1,
                Ended::Otherwise => {}
            }
            if failed == enough {
                break;
            }
        }
        self.ended.retain(|update, _| released.iter().any(|(_, u)| u == update));
        self.denied.retain(|update, _| released.iter().any(|(_, u)| u == update));
        Ok(failed)
    }

    async fn ended(&mut self, log: &dyn EventLog, clock: &dyn Clock, update: UpdateId) -> Result<Ended, ReadError> {
        if let Some(known) = self.ended.get(&update) {
            return Ok(*known);
        }
        let ended = match fold_update(log, update, clock.now()).await {
            Ok(folded) => match folded.state.end {
                Some(End::Completed(_)) => Ended::Well,
                Some(End::Failed(_)) => Ended::Failed,
                Some(End::Cancelled(_) | End::Rejected(_) | End::Superseded(_)) | None => Ended::Otherwise,
            },
            // Deleted since.
            Err(ReadError::Refused { .. }) => Ended::Otherwise,
            Err(error @ ReadError::Denied { .. }) => {
                let denied = self.denied.entry(update).or_default();
                *denied = denied.saturating_add(1);
                return if *denied > DENIALS_MAX { Ok(Ended::Otherwise) } else { Err(error) };
            }
            Err(error @ ReadError::Unavailable { .. }) => return Err(error),
        };
        self.ended.insert(update, ended);
        Ok(ended)
    }

    /// Whether an update may begin, by what stands now: the streams are read on first, unless all were since `asked`, the number of reads
    /// that had begun when this update's admission had been seen. Of a thousand that ask at one moment the first reads for all.
    ///
    /// # Errors
    /// The store does not answer, or not for every cluster: then nothing new begins.
    pub async fn may_begin(
        &mut self,
        log: &dyn EventLog,
        clock: &dyn Clock,
        clusters: impl IntoIterator<Item = &ClusterName>,
        limits: Limits,
        update: UpdateId,
        asked: u64,
    ) -> Result<Result<(), Waits>, ReadError> {
        if self.ahead_of(update).is_none() {
            return Ok(Err(Waits::NotAdmitted));
        }
        // Its admission has been seen; what is ahead of it is seen from here on.
        if self.complete <= asked {
            self.read(log, clusters).await?;
        }
        let Some(ahead) = self.ahead_of(update) else { return Ok(Err(Waits::NotAdmitted)) };
        if ahead >= limits.fleet {
            return Ok(Err(Waits::Room { ahead, limit: limits.fleet }));
        }
        if let Some(most) = limits.failures {
            let failed = self.failures_in_a_row(log, clock, most).await?;
            if failed >= most {
                return Ok(Err(Waits::Failures { failed }));
            }
        }
        Ok(Ok(()))
    }
}
