//! Whether the worker that holds an update is heard, as far as a client can tell.
//!
//! Nothing is decided by it: who takes over is for workers ([`crate::lease`]). A person is told, since nobody else acts meanwhile.

use std::time::Duration;

use crate::codec::written_at;
use crate::domain::ids::{Incarnation, Revision};
use crate::domain::time::Moment;
use crate::lease::{HEARTBEAT_EVERY, LEASE};
use crate::ports::{Clock, EventLog};
use crate::update::state::{Holder, State, round_ms};
use crate::worker::beat_of;

/// By the calendars a heartbeat may look old because clocks differ: so long a living worker is given to show another one.
const CONFIRMED_AFTER: Duration = HEARTBEAT_EVERY.saturating_add(Duration::from_secs(2));

/// Rest between two looks of [`silence`].
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The heartbeats of the worker that holds an update, as one client sees them.
#[derive(Debug)]
pub struct Pulse {
    holder: Holder,
    last: Option<Revision>,
    /// Since when this process has looked without seeing a new one.
    since: Moment,
    /// How old the last one was when this process first looked, by that worker's calendar and this machine's.
    before: Duration,
}

impl Pulse {
    /// Begins to listen.
    pub fn of(holder: &Holder, now: Moment) -> Self {
        Self { holder: holder.clone(), last: None, since: now, before: Duration::ZERO }
    }

    /// Whether it is this holder's.
    pub fn is_of(&self, holder: &Holder) -> bool {
        self.holder.incarnation == holder.incarnation
    }

    /// Reads the last heartbeat.
    pub async fn look(&mut self, log: &dyn EventLog, clock: &dyn Clock) {
        match log.read_last(&self.holder.worker.stream()).await {
            Ok(found) => {
                let written = found.as_ref().map_or(clock.wall(), written_at);
                let age = Duration::try_from(clock.wall().duration_since(written)).unwrap_or_default();
                self.read(beat_of(found.as_ref()), age, clock.now());
            }
            Err(error) => {
                tracing::debug!(%error, worker = %self.holder.worker, "its heartbeats cannot be read");
                self.read_failed(clock.now());
            }
        }
    }

    /// Takes the last heartbeat under the worker's name, and how old it is by the calendars.
    fn read(&mut self, beat: Option<(Incarnation, Revision)>, age: Duration, now: Moment) {
        let first = self.last.is_none() && self.before.is_zero();
        match beat.filter(|(incarnation, _)| *incarnation == self.holder.incarnation) {
            Some((_, revision)) if self.last < Some(revision) => {
                (self.last, self.since) = (Some(revision), now);
                self.before = if first { age } else { Duration::ZERO };
            }
            Some(_) => {}
            // Another process beats under its name, or none ever did: whoever took the update is not there any more.
            None if first => self.before = LEASE,
            None => {}
        }
    }

    /// While the store is away nobody can be heard.
    fn read_failed(&mut self, now: Moment) {
        (self.since, self.before) = (now, Duration::ZERO);
    }

    /// For how many seconds it has been silent, if that is longer than a worker that lives is.
    pub fn silent(&self, now: Moment) -> Option<f64> {
        let looked = now.since(self.since);
        let silent = self.before + looked;
        (silent >= LEASE && looked >= CONFIRMED_AFTER).then(|| round_ms(silent.as_secs_f64()))
    }

    /// Whether it looks silent, and has not been listened to for long enough.
    fn in_doubt(&self, now: Moment) -> bool {
        self.before >= LEASE && self.silent(now).is_none()
    }
}

/// For how many seconds the worker that holds an update has been silent, if it is. Takes some seconds where it looks so.
pub async fn silence(log: &dyn EventLog, clock: &dyn Clock, state: &State) -> Option<f64> {
    silences(log, clock, &[state]).await.pop().flatten()
}

/// The same of several updates, which are listened to at once.
pub async fn silences(log: &dyn EventLog, clock: &dyn Clock, states: &[&State]) -> Vec<Option<f64>> {
    let held =
        |state: &&State| state.holder.as_ref().filter(|_| state.end.is_none()).map(|h| Pulse::of(h, clock.now()));
    let mut pulses: Vec<Option<Pulse>> = states.iter().map(held).collect();
    let mut unheard: Vec<&mut Pulse> = pulses.iter_mut().flatten().collect();
    while !unheard.is_empty() {
        for pulse in &mut unheard {
            pulse.look(log, clock).await;
        }
        unheard.retain(|pulse| pulse.in_doubt(clock.now()));
        if !unheard.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    let now = clock.now();
    pulses.iter().map(|pulse| pulse.as_ref().and_then(|p| p.silent(now))).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::update::event::AssignedBecause;

    const ITS: Incarnation = Incarnation(Uuid::from_u128(1));
    const ANOTHERS: Incarnation = Incarnation(Uuid::from_u128(2));

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn pulse() -> Pulse {
        let reason = AssignedBecause::Admitted;
        let holder = Holder { worker: "w1".into(), incarnation: ITS, reason, revision: Revision(1), seen: at(0) };
        Pulse::of(&holder, at(0))
    }

    #[test]
    fn a_worker_that_beats_is_heard_whatever_the_calendars_say() {
        let mut pulse = pulse();
        for second in 0..60 {
            pulse.read(Some((ITS, Revision(second / 5))), Duration::from_secs(3600), at(second));
            assert_eq!(pulse.silent(at(second)), None, "after {second} s");
        }
        assert!(pulse.silent(at(60 + LEASE.as_secs())).is_some());
    }

    #[test]
    fn one_that_has_long_been_silent_is_told_once_that_is_confirmed() {
        let old = Duration::from_secs(300);
        let mut pulse = pulse();
        pulse.read(Some((ITS, Revision(3))), old, at(0));
        assert!(pulse.in_doubt(at(6)) && pulse.silent(at(6)).is_none());
        pulse.read(Some((ITS, Revision(3))), old, at(7));
        assert_eq!((pulse.in_doubt(at(7)), pulse.silent(at(7))), (false, Some(307.0)));
        pulse.read(Some((ITS, Revision(4))), Duration::ZERO, at(8));
        assert_eq!((pulse.in_doubt(at(30)), pulse.silent(at(27))), (false, None));
    }

    #[test]
    fn another_process_of_its_name_is_not_it() {
        let mut pulse = pulse();
        for second in 0..8 {
            pulse.read(Some((ANOTHERS, Revision(second))), Duration::ZERO, at(second));
        }
        assert!(pulse.silent(at(7)).is_some());
    }

    #[test]
    fn while_the_store_is_away_nobody_is_silent() {
        let mut pulse = pulse();
        pulse.read(Some((ITS, Revision(3))), Duration::from_secs(300), at(0));
        pulse.read_failed(at(30));
        assert_eq!(pulse.silent(at(49)), None);
        pulse.read(Some((ITS, Revision(3))), Duration::from_secs(330), at(49));
        assert_eq!(pulse.silent(at(50)), Some(20.0));
    }
}
