//! Time-outs and windows of an update. Each says why it is what it is.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::domain::ids::InstanceId;

/// From the first send of an intent to its call. An append takes milliseconds, an election up to 2 s; a worker that needed longer than
/// this to learn that its intent stands may have been replaced meanwhile.
pub const ACT_WINDOW: Duration = Duration::from_secs(5);

/// A call to EC2. Its control plane answers in well under a second; longer means a lost answer, and the call may have been carried out.
pub const EC2_CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A call to a node. A frozen process accepts the connection and never answers.
pub const NODE_CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// An intent whose call may have been lost is settled this long after window and call time-out: EC2's state is eventually consistent,
/// usually within seconds.
pub const SETTLE_AFTER: Duration = Duration::from_secs(30);

/// After a take-over nothing but the return of the node in hand is called before this has passed: a call of the worker before us may
/// still be on its way.
pub const TAKE_OVER_QUIET: Duration = Duration::from_secs(15);

/// From StopInstances to `stopped`. EC2 stops hard after a few minutes of an OS that does not; a host fault takes longer and needs AWS.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// From StartInstances to `running`. EC2 takes a minute at most; longer means a host that does not come up.
pub const START_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// From `running` to the first answer of the process. Verifying chunks and rebuilding the index of a large database takes minutes.
pub const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// So often a node that has rejoined may end and be started again by its supervisor: to truncate it does so once, twice from 24.6 on.
pub const SUPERVISED_STARTS: usize = 3;

/// Catch-up without any progress.
pub const CATCH_UP_STALL: Duration = Duration::from_secs(10 * 60);

/// A try to make the leader resign. Recorded: all roles settled after 1.5 s in the median, once 7.6 s, once 16.8 s.
pub const RESIGNATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Tries to make the leader resign. Recorded: with its priority lowered, 0 of 120 won again.
pub const RESIGNATIONS_MAX: u32 = 5;

/// A try to change a priority. It is a field in memory, gossiped at the next tick of at most 2 s.
pub const PRIORITY_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries to change a priority.
pub const PRIORITY_TRIES_MAX: u32 = 5;

/// Starts on the return ticket with a type of which that was the last hope. EC2 may take a start and find no capacity a moment later; of the
/// three, at least one is by a description that is newer than the start before.
pub const TICKET_STARTS_MAX: u32 = 3;

/// Calls that EC2 asks to repeat (throttling, internal errors), per step, before the step counts as failed.
pub const CALL_TRIES_MAX: u32 = 10;

/// Starts of one type that lacks capacity before the next type is tried: capacity shifts within a minute or two or not at all, and a
/// voter is down meanwhile.
pub const CAPACITY_TRIES_MAX: usize = 3;

/// Rest before a start of the same type is tried again. Of the last type it grows with the tries: nothing else is left to do.
pub const CAPACITY_RETRY_AFTER: Duration = Duration::from_secs(20);

/// The longest rest between two starts of the last type: a voter is down, and capacity or a right may come back at any moment.
pub const START_RETRY_MAX: Duration = Duration::from_secs(5 * 60);

/// What settles within seconds after any change, and has not within this, is told.
pub const LASTING: Duration = Duration::from_secs(60);

/// What was told of the node in hand while it is out of service, and goes on for this long, calls a person.
pub const DELAY_CALLS_AFTER: Duration = Duration::from_secs(10 * 60);

/// A node that has not answered for this long is down, and not just slow: three calls in a row ran into their time-out.
pub const SILENT_FOR: Duration = Duration::from_secs(10);

/// What keeps the node in hand down, and may pass by itself, for this long calls a person. What will not pass calls at once.
pub const PERSON_AFTER: Duration = Duration::from_secs(2 * 60);

/// A type that lacked capacity in a zone is not asked for there by the next node before this has passed: as long as such a lack is taken to
/// last elsewhere in the field, too. That node goes on serving meanwhile.
pub const CAPACITY_COOLS: Duration = Duration::from_secs(3 * 60);

/// EC2 has not described the instances for this long: nothing in service is touched, and it is said.
pub const UNSEEN_AFTER: Duration = Duration::from_secs(30);

/// Rest before an EC2 call that was throttled, or failed inside EC2, gets a new intent; grows linearly with the tries. See [`spread`].
pub const CALL_RETRY_AFTER: Duration = Duration::from_secs(2);

/// The store must have been without a leader for this long before the return ticket opens: an election takes 2 s, one after a frozen
/// leader 8 s (recorded).
pub const TICKET_AFTER: Duration = Duration::from_secs(10);

/// The same for a worker that did not ask for the stop itself: it took the update over since, or is not the one assigned last.
pub const TICKET_AFTER_REPLACEMENT: Duration = Duration::from_secs(60);

/// A store with a leader that takes no append, as when a volume hangs whose sockets live, is for the node in hand as one without a leader once
/// nothing could be written for this long; leaders that come and go meanwhile do not start that anew. No recording shows one; the longest that a
/// served store was seen to take nothing is an election.
pub const TICKET_AFTER_APPENDS_FAIL: Duration = Duration::from_secs(60);

/// Time to make the survey before a request is refused: nodes and EC2 must answer.
pub const SURVEY_TIMEOUT: Duration = Duration::from_secs(60);

/// A node's whole time limit where the request names none. Stop, start, first answer and a long catch-up fit; it never stops a node that
/// makes progress.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);

/// A description on which the fence's tag is written, or an instance stopped, or started on the return ticket, is no older than this: what
/// two installations may miss of each other is what happened since.
pub const FENCE_FRESH: Duration = Duration::from_secs(3);

/// Between the first description that says so of an instance's tag and the one that is believed: a tag that was written at the same moment
/// shows by then.
pub const FENCE_APART: Duration = Duration::from_secs(1);

/// Another update's tag is waited for this long: a node's turn takes minutes, with a slow catch-up perhaps half an hour.
pub const FENCE_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Tries to remove the tag. A tag that stands keeps nobody's data waiting, so a person may do it.
pub const UNTAG_TRIES_MAX: u32 = 5;

/// An instance that has not been described for this long is not waited for: neither in order to see its tag gone, nor to say at an end
/// whether it runs.
pub const FENCE_UNSEEN_MAX: Duration = Duration::from_secs(2 * 60);

/// A rest after that many tries: between three quarters and five quarters of `after`. EC2's bucket is one for the whole account, and what was
/// throttled at one moment must not come back at one moment. Drawn from the instance and the number of the try, so that the same history
/// rests for the same time, also in the worker that takes it over.
pub fn spread(after: Duration, instance: &InstanceId, tries: u32) -> Duration {
    let drawn = Sha256::new().chain_update(instance.as_str()).chain_update(tries.to_be_bytes()).finalize();
    let share = f64::from(u16::from_be_bytes([drawn[0], drawn[1]])) / f64::from(u16::MAX);
    after.mul_f64(0.75 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_spread_around_what_is_asked_for_and_are_the_same_each_time() {
        let after = Duration::from_secs(20);
        let rests: Vec<Duration> =
            (1..=200).map(|n| spread(after, &InstanceId(format!("i-{n:017x}")), 1 + n % CALL_TRIES_MAX)).collect();
        assert!(rests.iter().all(|r| (15.0..=25.0).contains(&r.as_secs_f64())), "{rests:?}");
        let mean = rests.iter().map(Duration::as_secs_f64).sum::<f64>() / 200.0;
        assert!((19.0..21.0).contains(&mean), "{mean}");
        let early = rests.iter().filter(|r| r.as_secs_f64() < 17.5).count();
        assert!((30..70).contains(&early), "a quarter comes in the first quarter of the time: {early}");
        let one = InstanceId("i-0a".into());
        assert_eq!(spread(after, &one, 3), spread(after, &one, 3));
        assert_ne!(spread(after, &one, 3), spread(after, &one, 4));
    }
}
