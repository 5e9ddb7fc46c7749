//! How far a node is behind its leader, in seconds, and whether it brought its data back.
//!
//! Bytes cannot tell: at 8 MB/s a healthy follower's own entry lies up to 16 MB behind, or ahead of, the leader's, because each is
//! a snapshot up to 2 s old (recorded). So the leader's positions are kept with the moment at which each was first seen; a node
//! whose value is `w`, refreshed at `t`, is behind by `t` − (the last moment at which the leader's known value was ≤ `w`).

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::{MemberEntry, NodeState};
use super::ids::ProcessId;
use super::time::Moment;
use super::watch::{ANSWER_MAX_AGE, FirstSeen, NodeTrack, Sent};

/// Samples kept of a leader: 15 minutes at the 2 s of its gossip. A node further behind than that is "at least" so far behind.
const SAMPLES_KEPT: usize = 450;

/// Refreshes in a row within the limit that make "caught up": one may be luck, two may be one gossip round.
pub const REFRESHES_NEEDED: usize = 3;

/// The refreshes must span this much: a starting node gossips every 100 ms, and three of those prove little.
pub const SPAN_NEEDED: Duration = Duration::from_secs(2);

/// Truncation by a server is refused beyond this (`MaxTruncation`, 256 MiB): more than that going backwards is loss of data.
pub const MAX_TRUNCATION: i64 = 256 * 1024 * 1024;

/// A time by which a node is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behind {
    /// By this much.
    By(Duration),
    /// By more than could be measured: at least this much.
    AtLeast(Duration),
}

impl Behind {
    /// Whether it is surely at most `max`.
    pub fn within(self, max: Duration) -> bool {
        match self {
            Behind::By(d) => d <= max,
            Behind::AtLeast(_) => false,
        }
    }

    /// The measured time, a lower bound for [`Behind::AtLeast`].
    pub fn duration(self) -> Duration {
        match self {
            Behind::By(d) | Behind::AtLeast(d) => d,
        }
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Behind::By(d) => write!(f, "{:.1} s", d.as_secs_f64()),
            Behind::AtLeast(d) => write!(f, "more than {:.1} s", d.as_secs_f64()),
        }
    }
}

/// Replication and index delay at one refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Of the log (`writerCheckpoint`).
    pub replication: Behind,
    /// Of the index (`lastCommitPosition`).
    pub index: Behind,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// When it was first heard, and when last.
    at: Moment,
    until: Moment,
    value: i64,
}

/// A leader's positions with the moments at which each was first seen.
#[derive(Clone, Debug, Default)]
pub struct LeaderSamples {
    of: Option<(ProcessId, i32)>,
    writer: VecDeque<Sample>,
    commit: VecDeque<Sample>,
}

impl LeaderSamples {
    /// The leader and epoch they belong to.
    pub fn leader(&self) -> Option<(ProcessId, i32)> {
        self.of
    }

    /// The leader's last known writer position, bytes.
    pub fn writer(&self) -> Option<i64> {
        self.writer.back().map(|s| s.value)
    }

    /// The leader's last known commit position, bytes.
    pub fn commit(&self) -> Option<i64> {
        self.commit.back().map(|s| s.value)
    }

    /// Takes the own entry of a node that says it leads. True if it is another leader or epoch: older samples are forgotten.
    /// A leader of an older epoch (one that woke up, and does not know yet) is ignored.
    pub fn absorb(&mut self, own: &MemberEntry, at: Moment) -> bool {
        let of = (own.process, own.epoch);
        if self.of.is_some_and(|(process, epoch)| process != own.process && own.epoch < epoch) {
            return false;
        }
        let reset = self.of != Some(of);
        if reset {
            *self = Self { of: Some(of), ..Self::default() };
        }
        push(&mut self.writer, own.writer, at);
        push(&mut self.commit, own.last_commit, at);
        reset
    }

    /// How far an entry refreshed at `at` is behind; `None` without samples, and where the leader has not been heard for a while: against where
    /// it was then, everybody looks level.
    pub fn delay_of(&self, own: &MemberEntry, at: Moment) -> Option<Delay> {
        if at.since(self.writer.back()?.until) > ANSWER_MAX_AGE {
            return None;
        }
        Some(Delay {
            replication: behind(&self.writer, own.writer, at)?,
            index: behind(&self.commit, own.last_commit, at)?,
        })
    }
}

fn push(samples: &mut VecDeque<Sample>, value: i64, at: Moment) {
    match samples.back_mut() {
        Some(last) if value <= last.value => last.until = last.until.max(at),
        Some(_) | None => samples.push_back(Sample { at, until: at, value }),
    }
    while samples.len() > SAMPLES_KEPT {
        samples.pop_front();
    }
}

fn behind(samples: &VecDeque<Sample>, value: i64, at: Moment) -> Option<Behind> {
    let oldest = samples.front()?;
    if oldest.value > value {
        return Some(Behind::AtLeast(at.since(oldest.at)));
    }
    // The leader's known value was ≤ `value` until the first greater one was seen; where it was not heard for a while before that, nobody knows
    // for how long it was so.
    let passed = samples.iter().zip(samples.iter().skip(1)).find(|(_, next)| next.value > value);
    let since = |(last, next): (&Sample, &Sample)| {
        let unheard = next.at.since(last.until) > ANSWER_MAX_AGE;
        if unheard { last.until } else { next.at }
    };
    Some(Behind::By(passed.map_or(Duration::ZERO, |pair| at.since(since(pair)))))
}

/// Why a node does not count as caught up yet. Agreement on the leader is judged apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCaughtUp {
    /// It gives no fresh answer.
    Silent,
    /// It is not yet what it has to be.
    State(NodeState),
    /// Another epoch than the leader's.
    Epoch {
        /// The node's.
        node: i32,
        /// The leader's.
        leader: i32,
    },
    /// No leader has been sampled.
    NoLeader,
    /// It is behind.
    Behind(Delay),
    /// Within the limit, but not for long enough.
    Confirming {
        /// Refreshes in a row within the limit.
        refreshes: usize,
        /// The time they span.
        span: Duration,
    },
}

impl fmt::Display for NotCaughtUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotCaughtUp::Silent => write!(f, "does not answer"),
            NotCaughtUp::State(state) => write!(f, "is {state}"),
            NotCaughtUp::Epoch { node, leader } => write!(f, "is in epoch {node}, the leader in {leader}"),
            NotCaughtUp::NoLeader => write!(f, "no leader to measure against"),
            NotCaughtUp::Behind(d) => write!(f, "is {} behind (index {})", d.replication, d.index),
            NotCaughtUp::Confirming { refreshes, span } => {
                write!(f, "confirmed {refreshes} of {REFRESHES_NEEDED} times over {:.1} s", span.as_secs_f64())
            }
        }
    }
}

/// Between two refreshes in a row. A node refreshes its entry every two seconds or less: where more than three are missing nobody looked, and
/// what was measured before, against a leader as it was then, proves nothing of now.
const REFRESH_GAP_MAX: Duration = Duration::from_secs(8);

/// Whether a node's log and index are level with its leader's: right state, the leader's epoch, and [`REFRESHES_NEEDED`] refreshes in a
/// row within `max` that span [`SPAN_NEEDED`]. The leader itself is.
pub fn level(track: &NodeTrack, samples: &LeaderSamples, max: Duration, now: Moment) -> Result<(), NotCaughtUp> {
    let own = track.own(now).ok_or(NotCaughtUp::Silent)?;
    let (leader, epoch) = samples.leader().ok_or(NotCaughtUp::NoLeader)?;
    if own.process == leader && own.state == NodeState::Leader {
        return Ok(());
    }
    let wanted = if own.is_read_only_replica { NodeState::ReadOnlyReplica } else { NodeState::Follower };
    if own.state != wanted {
        return Err(NotCaughtUp::State(own.state));
    }
    if own.epoch != epoch {
        return Err(NotCaughtUp::Epoch { node: own.epoch, leader: epoch });
    }
    let good = |d: &Delay| d.replication.within(max) && d.index.within(max);
    let newest = track.refreshes.back().and_then(|r| r.delay);
    if let Some(delay) = newest.filter(|d| !good(d)) {
        return Err(NotCaughtUp::Behind(delay));
    }
    let mut row: Vec<Moment> = Vec::new();
    for r in track.refreshes.iter().rev() {
        let sound = r.own.state == wanted && r.own.epoch == epoch && r.delay.as_ref().is_some_and(good);
        if !sound || row.last().is_some_and(|later| later.since(r.at) > REFRESH_GAP_MAX) {
            break;
        }
        row.push(r.at);
    }
    let span = row.first().zip(row.last()).map_or(Duration::ZERO, |(newest, oldest)| newest.since(*oldest));
    if row.len() >= REFRESHES_NEEDED && span >= SPAN_NEEDED {
        Ok(())
    } else {
        Err(NotCaughtUp::Confirming { refreshes: row.len(), span })
    }
}

/// Positions of a node and of its leader before the node was stopped, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// The node's writer position.
    pub node_writer: i64,
    /// The node's commit position.
    pub node_commit: i64,
    /// The leader's writer position.
    pub leader_writer: i64,
    /// The leader's commit position.
    pub leader_commit: i64,
}

/// Whether a node that was restarted still has its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum DataKept {
    /// It has.
    Yes,
    /// It lost it, and was filled again by the leader.
    No,
    /// It cannot be told.
    Unknown,
}

/// A judgement and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DataJudgement {
    /// The judgement.
    pub kept: DataKept,
    /// In words, with the numbers.
    pub how: String,
}

/// Judges whether the data came back with the node. *Missed* = leader's writer now − node's writer then;
/// T = 2 × missed + min(256 MiB, half of the leader's log). Measured on 23.10.5: 0.85–1.07 × *missed* is sent where the data was kept,
/// the whole log where it was gone.
pub fn judge_data(
    baseline: Option<&Baseline>,
    first: Option<&FirstSeen>,
    sent: Option<&Sent>,
    leader_writer_now: Option<i64>,
) -> DataJudgement {
    let told = |kept, how: String| DataJudgement { kept, how };
    let Some(first) = first else {
        return told(DataKept::Unknown, "the node's first entry was not seen".into());
    };
    if first.epoch_missing_seen {
        return told(DataKept::No, "an entry without an epoch was seen".into());
    }
    let Some(base) = baseline else {
        return told(DataKept::Unknown, "no position was recorded before the stop".into());
    };
    let lower_by = base.node_commit - first.commit;
    if lower_by > MAX_TRUNCATION {
        return told(DataKept::No, format!("its first commit position is {lower_by} bytes lower than before the stop"));
    }
    let (Some(sent), Some(leader_now)) = (sent, leader_writer_now) else {
        return told(DataKept::Unknown, "the leader did not say how much it sent".into());
    };
    let missed = (leader_now - base.node_writer).max(0);
    let threshold = 2 * missed + MAX_TRUNCATION.min(leader_now / 2);
    let bytes = i64::try_from(sent.bytes).unwrap_or(i64::MAX);
    if bytes > threshold {
        return told(
            DataKept::No,
            format!("the leader sent {bytes} bytes, at most {threshold} would have been missing"),
        );
    }
    if !sent.unbroken {
        return told(DataKept::Unknown, "the node's connection to the leader was made more than once".into());
    }
    if lower_by > 0 {
        return told(
            DataKept::Yes,
            format!("truncated by {lower_by} bytes; the leader sent {bytes} of at most {threshold} bytes"),
        );
    }
    told(
        DataKept::Yes,
        format!("first commit position not lower; the leader sent {bytes} of at most {threshold} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::cluster::View;
    use crate::domain::cluster::tests::entry;
    use crate::domain::ids::NodeName;
    use crate::domain::watch::{Answer, ClusterWatch};

    /// A leader that writes 1000 bytes a second, and a follower, both refreshed once a second. `lag` in seconds.
    fn watched(follower_state: NodeState, follower_epoch: i32, lag: u64) -> (ClusterWatch, NodeName, Moment) {
        let (leader, follower) = (NodeName::from("leader"), NodeName::from("follower"));
        let mut watch = ClusterWatch::new([leader.clone(), follower.clone()]);
        let mut now = Moment::default();
        for second in 0..20_u64 {
            now = Moment(Duration::from_secs(second));
            let leads = entry(1, NodeState::Leader, 4, 1000 * second as i64, second);
            let follows = entry(2, follower_state, follower_epoch, 1000 * second.saturating_sub(lag) as i64, second);
            for (name, own) in [(&leader, leads), (&follower, follows)] {
                let view = View { server: own.address.clone(), members: vec![own] };
                watch.absorb(name, now, Answer::View { view, live: Some(true) });
            }
        }
        (watch, follower, now)
    }

    #[test]
    fn level_needs_the_state_the_epoch_and_a_small_delay_in_seconds() {
        let max = Duration::from_secs(5);
        let judge = |state, epoch, lag| {
            let (watch, node, now) = watched(state, epoch, lag);
            level(watch.node(&node).unwrap(), watch.samples(), max, now)
        };
        assert_eq!(judge(NodeState::Follower, 4, 0), Ok(()));
        assert_eq!(judge(NodeState::Follower, 4, 4), Ok(()), "four seconds behind are within five");
        assert!(
            matches!(judge(NodeState::Follower, 4, 8), Err(NotCaughtUp::Behind(d)) if d.replication.duration() >= Duration::from_secs(7))
        );
        assert_eq!(judge(NodeState::Follower, 3, 0), Err(NotCaughtUp::Epoch { node: 3, leader: 4 }));
        assert_eq!(judge(NodeState::CatchingUp, 4, 0), Err(NotCaughtUp::State(NodeState::CatchingUp)));
        let (watch, node, now) = watched(NodeState::Follower, 4, 0);
        let late = now.after(Duration::from_secs(10));
        assert_eq!(
            level(watch.node(&node).unwrap(), watch.samples(), max, late),
            Err(NotCaughtUp::Silent),
            "an old answer"
        );
    }

    /// Whoever did not run for a while hears the node first, and measures it against a leader as it was then.
    #[test]
    fn what_was_measured_before_nobody_looked_does_not_count() {
        let (mut watch, node, now) = watched(NodeState::Follower, 4, 0);
        let later = now.after(Duration::from_secs(80));
        let own = entry(2, NodeState::Follower, 4, 20_000, 99);
        let view = View { server: own.address.clone(), members: vec![own] };
        watch.absorb(&node, later, Answer::View { view, live: Some(true) });
        let found = level(watch.node(&node).unwrap(), watch.samples(), Duration::from_secs(5), later);
        assert_eq!(found, Err(NotCaughtUp::Confirming { refreshes: 0, span: Duration::ZERO }));
        // Once the leader is heard again, the node is measured; refreshes of before the gap are none in a row. What the leader held meanwhile is
        // not known: a node that is not as far as it is now may have been there for as long.
        let (leader, name) = (entry(1, NodeState::Leader, 4, 100_000, 99), NodeName::from("leader"));
        let view = View { server: leader.address.clone(), members: vec![leader] };
        watch.absorb(&name, later, Answer::View { view, live: Some(true) });
        let soon = later.after(Duration::from_secs(1));
        let mut told = |writer: i64, stamp: u64| {
            let own = entry(2, NodeState::Follower, 4, writer, stamp);
            let view = View { server: own.address.clone(), members: vec![own] };
            watch.absorb(&node, soon, Answer::View { view, live: Some(true) });
            level(watch.node(&node).unwrap(), watch.samples(), Duration::from_secs(5), soon)
        };
        let behind = Behind::By(Duration::from_secs(81));
        assert_eq!(told(90_000, 100), Err(NotCaughtUp::Behind(Delay { replication: behind, index: behind })));
        assert_eq!(told(100_000, 101), Err(NotCaughtUp::Confirming { refreshes: 1, span: Duration::ZERO }));
    }

    #[test]
    fn a_leader_of_an_older_epoch_that_wakes_up_changes_nothing() {
        let (mut watch, node, now) = watched(NodeState::Follower, 4, 0);
        let mut frozen = entry(2, NodeState::Leader, 3, 99, 77);
        frozen.process = ProcessId(Uuid::from_u128(9));
        let view = View { server: frozen.address.clone(), members: vec![frozen] };
        watch.absorb(&node, now, Answer::View { view, live: Some(true) });
        assert_eq!(watch.samples().leader(), Some((ProcessId(Uuid::from_u128(1)), 4)));
    }

    /// In one epoch there is one leader: another process that says it leads has won an election since.
    #[test]
    fn another_leader_of_the_same_epoch_is_believed_and_positions_never_go_back() {
        let mut samples = LeaderSamples::default();
        let at = |second| Moment(Duration::from_secs(second));
        assert!(samples.absorb(&entry(1, NodeState::Leader, 4, 700, 1), at(1)));
        assert!(!samples.absorb(&entry(1, NodeState::Leader, 4, 600, 2), at(2)));
        assert_eq!((samples.writer(), samples.commit()), (Some(700), Some(700)));
        assert!(samples.absorb(&entry(2, NodeState::Leader, 4, 650, 1), at(3)));
        assert_eq!((samples.leader(), samples.writer()), (Some((ProcessId(Uuid::from_u128(2)), 4)), Some(650)));
    }

    #[test]
    fn as_many_positions_are_kept_as_are_said_and_a_gap_counts_from_its_beginning() {
        let mut samples = VecDeque::new();
        let at = |second: usize| Moment(Duration::from_secs(second as u64));
        for second in 0..SAMPLES_KEPT {
            push(&mut samples, second as i64, at(second));
        }
        let now = at(SAMPLES_KEPT);
        let since = |second: usize| now.since(at(second));
        assert_eq!(behind(&samples, 0, now), Some(Behind::By(since(1))));
        push(&mut samples, SAMPLES_KEPT as i64, now);
        assert_eq!(behind(&samples, 0, now), Some(Behind::AtLeast(since(1))));
        // A leader that was not heard for as long as an answer is believed may have gone on right after it was last heard.
        for (apart, known) in [(ANSWER_MAX_AGE, ANSWER_MAX_AGE), (ANSWER_MAX_AGE * 2, Duration::ZERO)] {
            let mut samples = VecDeque::new();
            push(&mut samples, 1, Moment::default());
            push(&mut samples, 2, Moment(apart));
            let late = Moment(Duration::from_secs(60));
            assert_eq!(behind(&samples, 1, late), Some(Behind::By(late.since(Moment(known)))));
        }
    }

    /// The leader is level with itself; who was named leader and does not lead, and who says so beside it, is not.
    #[test]
    fn only_the_leader_itself_is_level_without_a_measurement() {
        let (watch, _, now) = watched(NodeState::Follower, 4, 0);
        let max = Duration::from_secs(5);
        let leader = watch.node(&"leader".into()).unwrap();
        assert_eq!(level(leader, watch.samples(), max, now), Ok(()));
        let mut resigns = leader.clone();
        let mut own = entry(1, NodeState::ResigningLeader, 4, 19_000, 20);
        let view = |own: &MemberEntry| View { server: own.address.clone(), members: vec![own.clone()] };
        resigns.last = Some((now, Answer::View { view: view(&own), live: Some(true) }));
        let found = level(&resigns, watch.samples(), max, now);
        assert_eq!(found, Err(NotCaughtUp::State(NodeState::ResigningLeader)));
        (own.process, own.state) = (ProcessId(Uuid::from_u128(9)), NodeState::Leader);
        resigns.last = Some((now, Answer::View { view: view(&own), live: Some(true) }));
        assert_eq!(level(&resigns, watch.samples(), max, now), Err(NotCaughtUp::State(NodeState::Leader)));
    }

    #[test]
    fn refreshes_are_in_a_row_while_no_more_than_three_are_missing() {
        let (watch, node, now) = watched(NodeState::Follower, 4, 0);
        let found = |apart: Duration| {
            let mut track = watch.node(&node).unwrap().clone();
            let count = track.refreshes.len();
            for (back, refresh) in track.refreshes.iter_mut().rev().enumerate() {
                refresh.at = now.after(apart * u32::try_from(count - back).unwrap());
            }
            level(&track, watch.samples(), Duration::from_secs(5), now)
        };
        assert_eq!(found(REFRESH_GAP_MAX), Ok(()));
        let confirming = NotCaughtUp::Confirming { refreshes: 1, span: Duration::ZERO };
        assert_eq!(found(REFRESH_GAP_MAX + Duration::from_millis(1)), Err(confirming));
    }

    #[test]
    fn a_leader_is_measured_against_for_as_long_as_an_answer_is_believed() {
        let (mut samples, at) = (LeaderSamples::default(), Moment(Duration::from_secs(100)));
        assert!(samples.absorb(&entry(1, NodeState::Leader, 4, 700, 1), at));
        assert_eq!((samples.writer(), samples.commit()), (Some(700), Some(700)));
        let own = entry(2, NodeState::Follower, 4, 700, 1);
        let told = |after: Duration| samples.delay_of(&own, at.after(after)).is_some();
        assert_eq!((told(ANSWER_MAX_AGE), told(ANSWER_MAX_AGE + Duration::from_millis(1))), (true, false));
    }

    #[test]
    fn whether_the_data_came_back() {
        const MIB: i64 = 1024 * 1024;
        let base = Baseline {
            node_writer: 1000 * MIB,
            node_commit: 1000 * MIB,
            leader_writer: 1000 * MIB,
            leader_commit: 1000 * MIB,
        };
        let first = |commit: i64, epoch_missing_seen: bool| FirstSeen {
            process: ProcessId(Uuid::nil()),
            at: Moment::default(),
            state: NodeState::PreReplica,
            epoch: 1,
            writer: commit,
            commit,
            epoch_missing_seen,
        };
        let sent = |mib: u64, unbroken: bool| Sent {
            subscription: Uuid::nil(),
            bytes: mib * MIB as u64,
            unbroken,
            at: Moment::default(),
        };
        let now = Some(1100 * MIB);
        // Missed: 100 MiB; at most 2 × 100 + 256 MiB may be sent.
        let table = [
            (Some(base), Some(first(1000 * MIB, false)), Some(sent(105, true)), DataKept::Yes),
            (Some(base), Some(first(999 * MIB, false)), Some(sent(105, true)), DataKept::Yes),
            (Some(base), Some(first(1000 * MIB, true)), Some(sent(105, true)), DataKept::No),
            (Some(base), Some(first(700 * MIB, false)), Some(sent(105, true)), DataKept::No),
            (Some(base), Some(first(1000 * MIB, false)), Some(sent(456, true)), DataKept::Yes),
            (Some(base), Some(first(1000 * MIB, false)), Some(sent(457, true)), DataKept::No),
            (Some(base), Some(first(1000 * MIB, false)), Some(sent(105, false)), DataKept::Unknown),
            (Some(base), Some(first(1000 * MIB, false)), None, DataKept::Unknown),
            (None, Some(first(1000 * MIB, false)), Some(sent(105, true)), DataKept::Unknown),
            (Some(base), None, Some(sent(105, true)), DataKept::Unknown),
        ];
        for (base, first, sent, kept) in table {
            let told = judge_data(base.as_ref(), first.as_ref(), sent.as_ref(), now);
            assert_eq!(told.kept, kept, "{first:?} {sent:?}: {}", told.how);
        }
        // To the byte: 256 MiB lower are a truncation, one more is another log.
        for (lower_by, kept, how) in [
            (0, DataKept::Yes, "first commit position not lower"),
            (1, DataKept::Yes, "truncated by 1 bytes"),
            (MAX_TRUNCATION, DataKept::Yes, "truncated by 268435456 bytes"),
            (MAX_TRUNCATION + 1, DataKept::No, "268435457 bytes lower"),
        ] {
            let first = first(1000 * MIB - lower_by, false);
            let told = judge_data(Some(&base), Some(&first), Some(&sent(105, true)), now);
            assert!(told.kept == kept && told.how.contains(how), "{lower_by}: {told:?}");
        }
        // Of a small log half is the most that may be sent without doubt: all of it was sent to a node that lost it.
        let small =
            Baseline { node_writer: 4 * MIB, node_commit: 4 * MIB, leader_writer: 4 * MIB, leader_commit: 4 * MIB };
        for (mib, kept) in [(2, DataKept::Yes), (3, DataKept::No), (4, DataKept::No)] {
            let told = judge_data(Some(&small), Some(&first(4 * MIB, false)), Some(&sent(mib, true)), Some(4 * MIB));
            assert_eq!(told.kept, kept, "{mib} MiB: {}", told.how);
        }
    }
}
