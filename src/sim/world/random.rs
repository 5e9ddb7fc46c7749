//! Randomness of the world: small, seeded, and split by name, so that one more draw in one place shifts no other.

use std::time::Duration;

use uuid::Uuid;

/// A stream of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator of its own for `name`, among all those of `seed`.
    pub fn named(seed: u64, name: &str) -> Random {
        // FNV-1a, so that equal names of different seeds and different names of one seed start apart.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        let mut random = Random { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash };
        random.next();
        random
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "no iterator: it never ends and is not consumed in a loop")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if that is 0. (The bias of the remainder does not matter here.)
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// Whether an event of this probability, in percent, happens.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// A duration between two numbers of microseconds, both included.
    pub fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from + self.below(to.saturating_sub(from) + 1))
    }

    /// A duration between two numbers of milliseconds, both included, with a part in microseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        self.micros(from * 1000, to * 1000)
    }

    /// One of the elements of a slice that is not empty; `None` if it is.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> Option<T> {
        let at = usize::try_from(self.below(among.len() as u64)).ok()?;
        among.get(at).copied()
    }

    /// An id in the form of a random one.
    pub fn uuid(&mut self) -> Uuid {
        let high = u128::from(self.next());
        let low = u128::from(self.next());
        uuid::Builder::from_random_bytes(((high << 64) | low).to_be_bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_generators_are_apart_and_repeatable() {
        let draw = |seed, name| {
            let mut r = Random::named(seed, name);
            (0..8).map(|_| r.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, "gossip"), draw(7, "gossip"));
        assert_ne!(draw(7, "gossip"), draw(7, "election"));
        assert_ne!(draw(7, "gossip"), draw(8, "gossip"));
    }
}
