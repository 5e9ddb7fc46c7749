//! For how long a store has taken nothing in time.

use std::time::Duration;

use crate::domain::time::Moment;
use crate::update::limits::ACT_WINDOW;

/// Appends with more than this between them are none in a row: one takes five seconds to fail, and a call to EC2 that comes between two of them
/// ten. Whoever waited longer for one was asleep.
const APART: Duration = Duration::from_secs(30);

/// The appends that came to nothing, or were acknowledged too late for a call to follow them, one after the other. A store that crawls takes one
/// of several in time: two in a row end such a row, one alone does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Untaken {
    /// When the first was sent, and the last was known to be one.
    row: Option<(Moment, Moment)>,
    /// Whether the last append was acknowledged in time.
    in_time: bool,
}

impl Untaken {
    /// An append that was sent then came to nothing, or nobody knows to what.
    pub fn failed(&mut self, sent: Moment, now: Moment) {
        let awake = now.since(sent) <= APART;
        let before = self.row.filter(|(_, last)| sent.since(*last) <= APART);
        let first = before.map_or(sent, |(first, _)| first);
        self.row = awake.then_some((first, now));
        self.in_time = false;
    }

    /// An append that was sent then was acknowledged.
    pub fn acknowledged(&mut self, sent: Moment, now: Moment) {
        if now.since(sent) > ACT_WINDOW {
            self.failed(sent, now);
        } else if std::mem::replace(&mut self.in_time, true) {
            self.row = None;
        }
    }

    /// Whatever came of appends until now counts no more.
    pub fn forget(&mut self) {
        self.row = None;
    }

    /// Since when nothing has been taken in time, as far as is known now.
    pub fn since(&self, now: Moment) -> Option<Moment> {
        self.row.filter(|(_, last)| now.since(*last) <= APART).map(|(first, _)| first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What became of an append: sent and known then, in seconds.
    enum Was {
        Failed(u64, u64),
        Acknowledged(u64, u64),
        Forgotten,
    }
    use Was::{Acknowledged, Failed, Forgotten};

    #[test]
    fn a_row_is_ended_by_two_in_time_and_by_what_nobody_saw() {
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let rows: &[(&str, &[Was], u64, Option<u64>)] = &[
            ("nothing was sent", &[], 9, None),
            ("it counts from when the first was sent", &[Failed(1, 3), Failed(4, 6)], 9, Some(1)),
            ("late is not in time", &[Acknowledged(1, 7), Acknowledged(8, 14)], 15, Some(1)),
            ("within the window is in time", &[Acknowledged(1, 6), Acknowledged(8, 13)], 15, None),
            ("one in time ends nothing", &[Failed(1, 3), Acknowledged(4, 5)], 9, Some(1)),
            ("two do", &[Failed(1, 3), Acknowledged(4, 5), Acknowledged(6, 7)], 9, None),
            (
                "not with one between",
                &[Failed(1, 3), Acknowledged(4, 5), Failed(6, 8), Acknowledged(9, 10)],
                11,
                Some(1),
            ),
            ("forgotten", &[Failed(1, 3), Forgotten], 9, None),
            ("a new row begins after that", &[Failed(1, 3), Forgotten, Failed(5, 7)], 9, Some(5)),
            ("nothing for half a minute", &[Failed(1, 3)], 33, Some(1)),
            ("nothing for longer", &[Failed(1, 3)], 34, None),
            ("whoever was away between two begins anew", &[Failed(1, 3), Failed(34, 36)], 37, Some(34)),
            ("whoever was asleep knows nothing", &[Failed(1, 3), Failed(4, 35)], 36, None),
        ];
        for (what, became, now, since) in rows {
            let mut untaken = Untaken::default();
            for was in *became {
                match *was {
                    Failed(sent, known) => untaken.failed(at(sent), at(known)),
                    Acknowledged(sent, known) => untaken.acknowledged(at(sent), at(known)),
                    Forgotten => untaken.forget(),
                }
            }
            assert_eq!(untaken.since(at(*now)), since.map(at), "{what}");
        }
    }
}
