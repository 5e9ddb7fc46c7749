//! What a worker has in hand, and what it has handed over: told by its heartbeat.

use std::collections::BTreeSet;

use tokio::sync::watch;

use crate::codec::HandedOver;
use crate::domain::ids::{Incarnation, UpdateId};

/// Updates handed over that are remembered: more than one worker ever holds.
pub(super) const HANDED_OVER_MAX: usize = 100;

/// What is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub in_hand: BTreeSet<UpdateId>,
    pub handed_over: Vec<HandedOver>,
}

impl Told {
    fn offer(&mut self, update: UpdateId, incarnation: Incarnation) -> bool {
        let offered = HandedOver { update, incarnation };
        let new = !self.handed_over.contains(&offered);
        if new {
            self.handed_over.push(offered);
        }
        new
    }

    fn withdraw(&mut self, update: UpdateId, incarnation: Incarnation) -> bool {
        let before = self.handed_over.len();
        self.handed_over.retain(|h| h.update != update || h.incarnation != incarnation);
        self.handed_over.len() < before
    }
}

/// The updates that one worker process holds, or is about to take.
#[derive(Debug)]
pub(super) struct Hands {
    limit: usize,
    told: watch::Sender<Told>,
}

impl Hands {
    pub fn new(limit: usize) -> Self {
        Hands { limit, told: watch::Sender::new(Told::default()) }
    }

    /// What is to be told, whenever it changes.
    pub fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// How many are in hand.
    pub fn count(&self) -> usize {
        self.told.borrow().in_hand.len()
    }

    /// Takes an update in hand, if there is a hand free.
    pub fn reserve(&self, update: UpdateId) -> bool {
        let mut taken = false;
        self.told.send_if_modified(|told| {
            taken = told.in_hand.contains(&update) || told.in_hand.len() < self.limit;
            taken && told.in_hand.insert(update)
        });
        taken
    }

    /// Takes an update in hand whatever the limit: one that somebody has begun is never refused.
    pub fn hold(&self, update: UpdateId) {
        self.told.send_if_modified(|told| told.in_hand.insert(update));
    }

    /// Lets go of an update.
    pub fn let_go(&self, update: UpdateId) {
        self.told.send_if_modified(|told| told.in_hand.remove(&update));
    }

    /// Lets go of an update that it holds and will not touch again: another may take it at once.
    pub fn hand_over(&self, update: UpdateId, incarnation: Incarnation) {
        self.told.send_modify(|told| {
            told.in_hand.remove(&update);
            told.offer(update, incarnation);
        });
    }

    /// Offers an update that it holds to whoever can go on with it, or does so no more.
    pub fn offer(&self, update: UpdateId, incarnation: Incarnation, offered: bool) {
        self.told.send_if_modified(|told| {
            if offered { told.offer(update, incarnation) } else { told.withdraw(update, incarnation) }
        });
    }

    /// What a process of the same name handed over before this one stays told: its own heartbeat is gone from the stream.
    pub fn inherit(&self, handed_over: Vec<HandedOver>) {
        self.told.send_modify(|told| {
            told.handed_over.extend(handed_over);
            let surplus = told.handed_over.len().saturating_sub(HANDED_OVER_MAX);
            told.handed_over.drain(..surplus);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_new_update_needs_a_free_hand_and_one_that_was_begun_does_not() {
        let hands = Hands::new(1);
        let update = |n| UpdateId(Uuid::from_u128(n));
        assert!(hands.reserve(update(1)) && hands.reserve(update(1)), "the same again is the same");
        assert!(!hands.reserve(update(2)));
        hands.hold(update(3));
        hands.let_go(update(1));
        assert!(!hands.reserve(update(2)), "what was resumed takes a hand, too");
        let me = Incarnation(Uuid::from_u128(9));
        hands.hand_over(update(3), me);
        assert!(hands.reserve(update(2)));
        assert_eq!(hands.told().borrow().handed_over, [HandedOver { update: update(3), incarnation: me }]);
    }
}
