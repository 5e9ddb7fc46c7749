//! Which worker may act: when a worker counts as silent. No clock is shared between machines: only this process's own is used.
//!
//! Pure. Knows [`crate::domain`] only.

// A new event or state must be thought about everywhere.
#![deny(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use crate::domain::ids::{Incarnation, Revision};
use crate::domain::time::Moment;

/// Time between two heartbeats.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// A worker without a heartbeat for this long has lost its updates: three beats lost, and an election of 2 s in between.
pub const LEASE: Duration = Duration::from_secs(20);

/// Reads further apart than this count for nothing: between them the store may have been away, or this process asleep.
const READS_APART_MAX: Duration = Duration::from_secs(10);

/// How long one incarnation of a worker has given no sign of life, as far as that can be known: counted only between one's own
/// successful reads from the leader with one's own heartbeat acknowledged in between, so that a store that takes no writes from
/// anybody proves nothing.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    watched: Option<Incarnation>,
    last_beat: Option<Revision>,
    last_read: Option<(Moment, u64)>,
    silent: Duration,
}

impl Silence {
    /// Takes a successful read of the worker's heartbeat stream: the last event there, if it is of the incarnation in question.
    /// `own_beats` counts this process's own acknowledged heartbeats.
    pub fn read(&mut self, watched: Incarnation, last: Option<(Incarnation, Revision)>, own_beats: u64, now: Moment) {
        if self.watched != Some(watched) {
            // What was counted against another says nothing of this one.
            *self = Silence { watched: Some(watched), ..Silence::default() };
        }
        let beat = last.filter(|(incarnation, _)| *incarnation == watched).map(|(_, revision)| revision);
        if beat.is_some() && beat > self.last_beat {
            let first_look = self.last_beat.is_none();
            self.last_beat = beat;
            self.silent = Duration::ZERO;
            self.last_read = Some((now, own_beats));
            if first_look {
                return;
            }
        }
        match self.last_read {
            // An interval is counted when a heartbeat of our own was acknowledged within it; until then it goes on.
            Some((at, beats)) if own_beats > beats => {
                if now.since(at) <= READS_APART_MAX {
                    self.silent += now.since(at);
                }
                self.last_read = Some((now, own_beats));
            }
            Some((at, _)) if now.since(at) > READS_APART_MAX => self.last_read = Some((now, own_beats)),
            Some(_) => {}
            None => self.last_read = Some((now, own_beats)),
        }
    }

    /// A read that failed: what passes until the next one is not counted.
    pub fn read_failed(&mut self) {
        self.last_read = None;
    }

    /// For how long it has been silent, as far as known.
    pub fn known(&self) -> Duration {
        self.silent
    }

    /// Whether the lease has run out.
    pub fn expired(&self) -> bool {
        self.silent >= LEASE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const HOLDER: Incarnation = Incarnation(Uuid::from_u128(1));

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn silence_counts_only_with_own_heartbeats_between_reads() {
        let mut silence = Silence::default();
        for second in (0..60).step_by(2) {
            silence.read(HOLDER, Some((HOLDER, Revision(3))), 0, at(second));
        }
        assert_eq!(silence.known(), Duration::ZERO, "the store took no heartbeat of ours: nothing is known");

        let mut silence = Silence::default();
        let mut second = 0;
        while !silence.expired() {
            silence.read(HOLDER, Some((HOLDER, Revision(3))), second / 5, at(second));
            second += 1;
            assert!(second < 40);
        }
        assert!(second >= 20, "expired after {second} s");
    }

    #[test]
    fn a_heartbeat_starts_the_count_again_and_a_failed_read_interrupts_it() {
        let mut silence = Silence::default();
        for second in 0..18 {
            silence.read(HOLDER, Some((HOLDER, Revision(3))), second / 5, at(second));
        }
        assert!(silence.known() >= Duration::from_secs(10));
        silence.read(HOLDER, Some((HOLDER, Revision(4))), 4, at(18));
        assert_eq!(silence.known(), Duration::ZERO);
        for second in 19..30 {
            silence.read_failed();
            silence.read(HOLDER, Some((HOLDER, Revision(4))), second / 5, at(second));
        }
        assert_eq!(silence.known(), Duration::ZERO);
    }

    /// Nobody knows what was between reads that are far apart; an interval begins anew after them.
    #[test]
    fn reads_too_far_apart_begin_the_interval_anew() {
        let known = |reads: &[(u64, u64)]| {
            let mut silence = Silence::default();
            for (second, own_beats) in reads {
                silence.read(HOLDER, Some((HOLDER, Revision(3))), *own_beats, at(*second));
            }
            silence.known().as_secs()
        };
        assert_eq!(known(&[(0, 0), (12, 0), (15, 1)]), 3, "counted from the later one");
        assert_eq!(known(&[(0, 0), (10, 0), (11, 1)]), 0, "from the first on, and that is too long");
        assert_eq!(known(&[(0, 0), (10, 1)]), 10);
    }

    #[test]
    fn the_silence_of_one_is_not_held_against_the_next() {
        let mut silence = Silence::default();
        for second in 0..40 {
            silence.read(HOLDER, Some((HOLDER, Revision(3))), second / 5, at(second));
        }
        assert!(silence.expired());
        let next = Incarnation(Uuid::from_u128(2));
        silence.read(next, Some((next, Revision(1))), 8, at(40));
        assert_eq!(silence.known(), Duration::ZERO);
    }

    #[test]
    fn another_incarnation_of_the_same_name_is_no_sign_of_life() {
        let mut silence = Silence::default();
        let newcomer = Incarnation(Uuid::from_u128(2));
        for second in 0..40 {
            silence.read(HOLDER, Some((newcomer, Revision(second))), second / 5, at(second));
        }
        assert!(silence.expired());
    }
}
