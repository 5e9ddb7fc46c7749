//! Time. The worker sleeps with `tokio::time`, whose clock a simulation pauses; this trait only reads.

use crate::domain::time::Moment;

/// Reads the time.
pub trait Clock: Send + Sync {
    /// The monotonic clock of this process.
    fn now(&self) -> Moment;
    /// The calendar, for people and for the facts they read. Nothing is decided by it but what people say in its words: windows, `notBefore`,
    /// and until when a waiver holds.
    fn wall(&self) -> jiff::Timestamp;
}

/// The clock of the machine. What passes is measured over tokio's (so that a paused runtime pauses it as well).
#[derive(Clone, Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
    /// The calendar's moment at the start, counted on from there; absent: the machine's calendar, which is set right meanwhile.
    wall_at_start: Option<jiff::Timestamp>,
}

impl SystemClock {
    /// A clock that starts at zero now, with the machine's calendar.
    pub fn start() -> Self {
        Self { start: tokio::time::Instant::now(), wall_at_start: None }
    }

    /// A clock that starts at zero now and calls that moment `wall`.
    pub fn start_at(wall: jiff::Timestamp) -> Self {
        Self { start: tokio::time::Instant::now(), wall_at_start: Some(wall) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's calendar")]
    fn wall(&self) -> jiff::Timestamp {
        self.wall_at_start.map_or_else(jiff::Timestamp::now, |start| start + self.start.elapsed())
    }
}
