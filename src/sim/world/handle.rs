//! The one way both faces reach the world: shared, and driven by tokio's clock (so a paused runtime makes it virtual).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{World, WriteStart};
use crate::sim::model::{ExpectedRevision, NodeIx, Write, WriteOutcome};

/// A world that lives in the time of tokio's clock. Clones share it.
#[derive(Clone, Debug)]
pub struct SimWorld {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    world: World,
    /// Tokio's time at which the world's time is zero.
    zero: Instant,
    stopped: bool,
}

impl SimWorld {
    /// Lets the world live from now on: its present is now.
    pub fn new(world: World) -> SimWorld {
        let now = Instant::now();
        let zero = now.checked_sub(world.now()).unwrap_or(now);
        let version = watch::Sender::new(world.version());
        SimWorld { shared: Arc::new(Shared { inner: Mutex::new(Inner { world, zero, stopped: false }), version }) }
    }

    /// Brings the world up to now, does `f` to it, and wakes who waits for a change if there was one.
    pub fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        let mut inner = self.lock();
        if !inner.stopped {
            let now = inner.zero.elapsed();
            inner.world.advance_to(now);
        }
        let answer = f(&mut inner.world);
        let version = inner.world.version();
        drop(inner);
        self.shared.version.send_if_modified(|known| {
            let grew = version > *known;
            *known = version.max(*known);
            grew
        });
        answer
    }

    /// Waits until the version of the world is above `since`, and returns it. Makes the world go on by itself.
    /// Waits for ever once the world is stopped.
    pub async fn changed(&self, since: u64) -> u64 {
        let mut versions = self.shared.version.subscribe();
        loop {
            let (version, due) = self.with(|w| (w.version(), w.next_due()));
            if version > since {
                return version;
            }
            let (zero, stopped) = {
                let inner = self.lock();
                (inner.zero, inner.stopped)
            };
            if stopped {
                return std::future::pending().await;
            }
            // A little later than due: tokio's timer counts milliseconds, and one wake-up serves what falls due together.
            let wake = zero + due + Duration::from_micros(500);
            tokio::select! {
                // The sender lives as long as `self`: this cannot fail while we are here.
                Ok(_) = versions.wait_for(|v| *v > since) => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Writes as one client request to node `n`, and awaits the outcome: as long as the node makes its client wait, so for
    /// ever if it is frozen for ever. A process that ends takes the connection with it: its pending writes end in
    /// [`WriteOutcome::TimedOut`], and [`World::process_generation`] tells why.
    pub async fn write(
        &self,
        n: NodeIx,
        requires_leader: bool,
        stream: &str,
        expected: ExpectedRevision,
        write: Write,
    ) -> WriteOutcome {
        let (start, mut version) = self.with(|w| (w.write(n, requires_leader, stream, expected, write), w.version()));
        let id = match start {
            WriteStart::Now(outcome) => return outcome,
            WriteStart::Pending(id) => id,
        };
        loop {
            let outcome = self.with(|w| {
                version = w.version();
                w.write_outcome(id)
            });
            if let Some(outcome) = outcome {
                return outcome;
            }
            self.changed(version).await;
        }
    }

    /// Stops the world's time for good.
    pub fn stop(&self) {
        self.with(|_| ());
        self.lock().stopped = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a caller's closure leaves the world as consistent as that closure did.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
