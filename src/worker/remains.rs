//! What the log still shows of an update whose stream was deleted for good.
//!
//! A tombstone ends a stream: nothing can follow it, so that what the log shows of the stream between the update's admission and its tombstone
//! is all that was ever written there since. An update is held by a `WorkerAssigned` after its admission; without one, nobody ever touched
//! a node for it. (A scavenge forgets the events of a deleted stream. It is looked for them within a minute of its end by a worker that
//! lives, and the next update of the cluster looks at every node and every tag by itself.)

use std::time::Duration;

use super::Worker;
use crate::domain::ids::UpdateId;
use crate::ports::{Feed, Position, StartFrom};

/// Type of the event that ends a stream for good.
const TOMBSTONE: &str = "$streamDeleted";

/// Time for one look; the next goes on where it ended.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// As far as it was looked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remains {
    looked: Position,
    held: bool,
    ended: bool,
}

impl Remains {
    /// Nothing looked at yet, of an update that was admitted there.
    pub fn since(admitted: Position) -> Self {
        Remains { looked: admitted, held: false, ended: false }
    }

    /// Whether it is proved that nobody ever held the update, and that nobody ever will.
    pub fn never_held(&self) -> bool {
        self.ended && !self.held
    }

    /// Looks on until the tombstone is found, or time is over.
    pub async fn look(&mut self, worker: &Worker, update: UpdateId) {
        if self.ended {
            return;
        }
        let stream = update.stream();
        let mut feed = worker.log.subscribe(StartFrom::After(self.looked), &[stream.as_str()]).await;
        let look = async {
            while let Some(item) = feed.recv().await {
                match item {
                    Feed::Event(event) => {
                        if event.stream == stream {
                            // Whoever wrote it: that it cannot be told is no proof.
                            self.held |= event.event_type == "WorkerAssigned";
                            self.ended |= event.event_type == TOMBSTONE;
                        }
                        self.looked = event.position.unwrap_or(self.looked).max(self.looked);
                        if self.ended {
                            return;
                        }
                    }
                    Feed::Looked(position) => self.looked = position.max(self.looked),
                    Feed::CaughtUp => {}
                    Feed::Reconnecting(why) => tracing::debug!(why, "the log is subscribed to anew"),
                }
            }
        };
        if tokio::time::timeout(LOOK_MAX, look).await.is_err() {
            tracing::debug!(%update, looked = %self.looked, "the end of its stream is not found yet");
        }
    }
}
