//! Time. The worker sleeps with `tokio::time`, whose clock a simulation pauses; this trait only reads.

use crate::domain::time::Moment;

/// Reads the time.
pub trait Clock: Send + Sync {
    /// The monotonic clock of this process.
    fn now(&self) -> Moment;
    /// The calendar, for people and for the facts they read. Nothing is decided by it.
    fn wall(&self) -> jiff::Timestamp;
}

/// The clock of the machine, over tokio's (so that a paused runtime pauses it as well).
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
    wall_at_start: jiff::Timestamp,
}

impl SystemClock {
    /// A clock that starts at zero now, at the machine's calendar time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's calendar")]
    pub fn start() -> Self {
        Self::start_at(jiff::Timestamp::now())
    }

    /// A clock that starts at zero now and calls that moment `wall`.
    pub fn start_at(wall: jiff::Timestamp) -> Self {
        Self { start: tokio::time::Instant::now(), wall_at_start: wall }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    fn wall(&self) -> jiff::Timestamp {
        self.wall_at_start + self.start.elapsed()
    }
}
