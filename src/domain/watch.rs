//! What one observer has seen of a cluster: every node's own word about itself, the view it serves, and how both changed.
//!
//! Level-triggered: [`ClusterWatch::absorb`] takes answers in the order in which they came; everything else is computed
//! from what it keeps. Bounded: it keeps a fixed number of refreshes of each node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::catch_up::{Delay, LeaderSamples};
use super::cluster::{MemberEntry, NodeState, ReplicaSubscription, View};
use super::ids::{NodeName, ProcessId};
use super::time::Moment;

/// An answer older than this says nothing of now: the polling interval and one call's time-out (3 s), with a margin.
pub const ANSWER_MAX_AGE: Duration = Duration::from_secs(4);

/// Refreshes kept of each node: more than any rule needs (three), enough to show a trend.
const REFRESHES_KEPT: usize = 16;

/// Processes of one node whose first entry is kept: one that truncates exits up to twice before it follows.
const PROCESSES_KEPT: usize = 8;

/// What came of asking one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answered `/gossip`; `live` is what `/health/live` said, if that was asked and answered.
    View {
        /// The view it serves.
        view: View,
        /// Whether `/health/live` was 204.
        live: Option<bool>,
    },
    /// It did not.
    Silent {
        /// Why, for people.
        why: String,
    },
}

/// Whom a node's view named as leader, over all looks during one refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Nobody alive.
    Nobody,
    /// Exactly this process.
    One(ProcessId),
    /// More than one, or different ones at different looks.
    Several,
}

/// One refresh of a node's own entry, with what its view named while it lasted.
#[derive(Clone, Debug, PartialEq)]
pub struct Refresh {
    /// When it was first seen.
    pub at: Moment,
    /// The entry.
    pub own: MemberEntry,
    /// The living leaders in its view, once for each different look during this refresh.
    pub looks: Vec<Vec<ProcessId>>,
    /// How far behind the leader it was then; `None` while no leader's samples exist, and for the leader itself.
    pub delay: Option<Delay>,
}

impl Refresh {
    /// Whom the view named as leader while this refresh lasted.
    pub fn named(&self) -> Named {
        match self.looks.as_slice() {
            [look] => match look.as_slice() {
                [] => Named::Nobody,
                [one] => Named::One(*one),
                [_, _, ..] => Named::Several,
            },
            [] | [_, _, ..] => Named::Several,
        }
    }
}

/// The first entry seen of a process, and the worst seen since: whether the data came back with it is judged by these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstSeen {
    /// The process.
    pub process: ProcessId,
    /// When.
    pub at: Moment,
    /// Its state then.
    pub state: NodeState,
    /// Its epoch then.
    pub epoch: i32,
    /// Its writer position then, bytes.
    pub writer: i64,
    /// Its commit position then; its writer position if it was still initializing and had none.
    pub commit: i64,
    /// Whether any entry of this process had epoch −1.
    pub epoch_missing_seen: bool,
}

/// The leader's word on what it sent a replica over one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The subscription.
    pub subscription: uuid::Uuid,
    /// Bytes sent over it.
    pub bytes: u64,
    /// Whether it is the only subscription seen of this process.
    pub unbroken: bool,
    /// When it was said.
    pub at: Moment,
}

/// Everything seen of one node.
#[derive(Clone, Debug, Default)]
pub struct NodeTrack {
    /// The last answer and when it came.
    pub last: Option<(Moment, Answer)>,
    /// The last view it served, however old.
    pub last_view: Option<(Moment, View)>,
    /// What `/health/live` last said of this process, and when.
    pub live: Option<(Moment, bool)>,
    /// Its refreshes, oldest first.
    pub refreshes: VecDeque<Refresh>,
    /// The first entry of each process seen, the present one last.
    pub firsts: VecDeque<FirstSeen>,
    /// What the leader sent its present process.
    pub sent: Option<Sent>,
    /// When it last came further: its writer position beyond all before, or into a state that its process had not been in.
    pub moved_at: Option<Moment>,
    /// When its index last came further, or its process into a state that it had not been in.
    pub indexed_at: Option<Moment>,
    /// The furthest writer position seen, bytes; of a process that begins with less, where that one began.
    furthest: i64,
    /// The same of the position up to which it is indexed.
    furthest_indexed: i64,
    /// The states that its present process has been in.
    states: Vec<NodeState>,
    /// Since when it has not answered.
    pub silent_since: Option<Moment>,
}

impl NodeTrack {
    /// Its view, if it answered and that is not too old.
    pub fn fresh_view(&self, now: Moment) -> Option<&View> {
        match &self.last {
            Some((at, Answer::View { view, .. })) if now.since(*at) <= ANSWER_MAX_AGE => Some(view),
            Some((_, Answer::View { .. } | Answer::Silent { .. })) | None => None,
        }
    }

    /// Its own entry, if it answered and that is not too old.
    pub fn own(&self, now: Moment) -> Option<&MemberEntry> {
        self.fresh_view(now).and_then(View::own)
    }

    /// The first entry of a process seen after `moment`, with the worst of all those processes: one that lost its data may exit
    /// and start again before anybody looks twice. The process `before` is none of them, however late it was first seen.
    pub fn first_after(&self, moment: Moment, before: Option<ProcessId>) -> Option<FirstSeen> {
        let mut later = self.firsts.iter().filter(|f| f.at > moment && Some(f.process) != before);
        let mut worst = later.next()?.clone();
        for f in later {
            worst.epoch_missing_seen |= f.epoch_missing_seen;
            worst.commit = worst.commit.min(f.commit);
            worst.writer = worst.writer.min(f.writer);
        }
        Some(worst)
    }

    /// How many processes were first seen after `moment`; no more than are kept.
    pub fn starts_after(&self, moment: Moment) -> usize {
        self.firsts.iter().filter(|f| f.at > moment).count()
    }

    /// Its last own entry, however old.
    pub fn last_own(&self) -> Option<&MemberEntry> {
        self.last_view.as_ref().and_then(|(_, view)| view.own())
    }
}

impl FirstSeen {
    /// Of a process of which this is the first entry seen.
    pub fn of(own: &MemberEntry, at: Moment) -> Self {
        let initializing = own.state == NodeState::Initializing;
        Self {
            process: own.process,
            at,
            state: own.state,
            epoch: own.epoch,
            writer: own.writer,
            commit: if initializing && own.last_commit < 0 { own.writer } else { own.last_commit },
            epoch_missing_seen: own.epoch < 0 && !initializing,
        }
    }
}

/// What one observer has seen of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterWatch {
    nodes: BTreeMap<NodeName, NodeTrack>,
    samples: LeaderSamples,
    /// Since when a node has been heard without a gap, and when one last was.
    heard: Option<(Moment, Moment)>,
}

impl ClusterWatch {
    /// A watch that has seen nothing of these nodes.
    pub fn new(nodes: impl IntoIterator<Item = NodeName>) -> Self {
        Self {
            nodes: nodes.into_iter().map(|n| (n, NodeTrack::default())).collect(),
            samples: LeaderSamples::default(),
            heard: None,
        }
    }

    /// What was seen of a node.
    pub fn node(&self, name: &NodeName) -> Option<&NodeTrack> {
        self.nodes.get(name)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeTrack)> {
        self.nodes.iter()
    }

    /// For how long a node has not answered while others did. Whoever heard nobody, because it was cut off or did not run itself, knows
    /// nothing of this one: that time does not count. Of a node that is alone all of it does.
    pub fn silent_for(&self, name: &NodeName, now: Moment) -> Duration {
        let silent = self.nodes.get(name).and_then(|t| t.silent_since).map_or(Duration::ZERO, |at| now.since(at));
        let heard = match self.heard {
            Some((since, last)) if now.since(last) <= ANSWER_MAX_AGE => now.since(since),
            Some(_) | None => Duration::ZERO,
        };
        if self.nodes.len() > 1 { silent.min(heard) } else { silent }
    }

    /// The leader's positions with the moments at which each was first seen.
    pub fn samples(&self) -> &LeaderSamples {
        &self.samples
    }

    /// The node whose present process this is, by its own word.
    pub fn node_of(&self, process: ProcessId) -> Option<&NodeName> {
        self.nodes.iter().find(|(_, t)| t.last_own().is_some_and(|own| own.process == process)).map(|(name, _)| name)
    }

    /// Takes one answer of one node.
    pub fn absorb(&mut self, name: &NodeName, at: Moment, answer: Answer) {
        let Some(track) = self.nodes.get_mut(name) else { return };
        match &answer {
            Answer::Silent { .. } => {
                track.silent_since.get_or_insert(at);
            }
            Answer::View { view, live } => {
                track.silent_since = None;
                self.heard = match self.heard {
                    Some((since, last)) if at.since(last) <= ANSWER_MAX_AGE => Some((since, last.max(at))),
                    Some(_) | None => Some((at, at)),
                };
                track.last_view = Some((at, view.clone()));
                let look = living_leaders(view);
                if let Some(own) = view.own() {
                    let new_process = track.firsts.back().is_none_or(|f| f.process != own.process);
                    if new_process {
                        track.refreshes.clear();
                        track.states.clear();
                        // It truncated, or lost its data: from there it comes further again.
                        track.furthest = track.furthest.min(own.writer);
                        track.furthest_indexed = track.furthest_indexed.min(own.last_commit);
                        track.sent = None;
                        track.live = None;
                        track.firsts.push_back(FirstSeen::of(own, at));
                        while track.firsts.len() > PROCESSES_KEPT {
                            track.firsts.pop_front();
                        }
                    } else if let Some(first) = track.firsts.back_mut() {
                        first.epoch_missing_seen |= own.epoch < 0 && own.state != NodeState::Initializing;
                    }
                    if let Some(live) = live {
                        track.live = Some((at, *live));
                    }
                    if own.state == NodeState::Leader && self.samples.absorb(own, at) {
                        // Another leader, or another epoch: what was measured against the old one proves nothing.
                        for t in self.nodes.values_mut() {
                            t.refreshes.iter_mut().for_each(|r| r.delay = None);
                        }
                    }
                    if let Some(track) = self.nodes.get_mut(name) {
                        note_refresh(track, own, look, at, &self.samples);
                    }
                }
            }
        }
        if let Some(track) = self.nodes.get_mut(name) {
            track.last = Some((at, answer));
        }
    }

    /// Takes what the leader says of its replicas' subscriptions. Only a leader's word is given here.
    pub fn absorb_replication(&mut self, at: Moment, subscriptions: &[ReplicaSubscription]) {
        for track in self.nodes.values_mut() {
            let Some(own) = track.last_own() else { continue };
            let Some(found) = subscriptions.iter().find(|s| s.endpoint == own.replication) else { continue };
            let unbroken = track.sent.as_ref().is_none_or(|s| s.unbroken && s.subscription == found.subscription);
            track.sent = Some(Sent { subscription: found.subscription, bytes: found.total_bytes_sent, unbroken, at });
        }
    }

    /// Processes that any view, however old, shows alive and in charge: never to be stopped.
    pub fn called_leader(&self) -> BTreeSet<ProcessId> {
        let in_charge = [NodeState::Leader, NodeState::PreLeader, NodeState::ResigningLeader];
        self.nodes
            .values()
            .filter_map(|t| t.last_view.as_ref())
            .flat_map(|(_, view)| view.members.iter())
            .filter(|m| m.is_alive && in_charge.contains(&m.state))
            .map(|m| m.process)
            .collect()
    }
}

/// The processes that a view shows alive and leading. Entries that are not alive count for nothing.
pub fn living_leaders(view: &View) -> Vec<ProcessId> {
    view.members.iter().filter(|m| m.is_alive && m.state == NodeState::Leader).map(|m| m.process).collect()
}

fn note_refresh(track: &mut NodeTrack, own: &MemberEntry, look: Vec<ProcessId>, at: Moment, samples: &LeaderSamples) {
    if let Some(last) = track.refreshes.back_mut()
        && last.own.time_stamp == own.time_stamp
    {
        if !last.looks.contains(&look) {
            last.looks.push(look);
        }
        return;
    }
    let new_state = !track.states.contains(&own.state);
    if new_state {
        track.states.push(own.state);
    }
    // Going back and forth between states is no progress.
    if own.writer > track.furthest || new_state {
        track.moved_at = Some(at);
    }
    if own.last_commit > track.furthest_indexed || new_state {
        track.indexed_at = Some(at);
    }
    track.furthest = track.furthest.max(own.writer);
    track.furthest_indexed = track.furthest_indexed.max(own.last_commit);
    let delay = if own.state == NodeState::Leader { None } else { samples.delay_of(own, at) };
    track.refreshes.push_back(Refresh { at, own: own.clone(), looks: vec![look], delay });
    while track.refreshes.len() > REFRESHES_KEPT {
        track.refreshes.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::cluster::tests::entry;

    /// A node's own entry, as its process `process` serves it: state, epoch, writer.
    fn view(process: u128, state: NodeState, epoch: i32, writer: i64) -> Answer {
        Answer::View { view: view_of(process, state, epoch, writer), live: None }
    }

    fn view_of(process: u128, state: NodeState, epoch: i32, writer: i64) -> View {
        let server = crate::domain::ids::Address::new("10.0.0.1", 2113);
        let own = MemberEntry {
            process: ProcessId(Uuid::from_u128(process)),
            address: server.clone(),
            replication: server.clone(),
            ..entry(1, state, epoch, writer, writer.unsigned_abs())
        };
        View { server, members: vec![own] }
    }

    #[test]
    fn silence_counts_while_others_are_heard_without_a_gap() {
        let silent = || Answer::Silent { why: "no answer".into() };
        let other = |watch: &mut ClusterWatch, at| watch.absorb(&"b".into(), at, view(2, NodeState::Follower, 1, 5));
        let (name, at) = (NodeName::from("a"), |s| Moment(Duration::from_secs(s)));
        let mut watch = ClusterWatch::new(["a", "b"].map(NodeName::from));
        watch.absorb(&name, at(10), silent());
        assert_eq!(watch.silent_for(&name, at(40)), Duration::ZERO, "nobody is heard");
        for s in 40..=50 {
            other(&mut watch, at(s));
        }
        assert_eq!(watch.silent_for(&name, at(51)), Duration::from_secs(11));
        assert_eq!(watch.silent_for(&name, at(55)), Duration::ZERO, "nobody is heard any more");
        other(&mut watch, at(60));
        assert_eq!(watch.silent_for(&name, at(62)), Duration::from_secs(2), "cut off meanwhile, or asleep");
        watch.absorb(&name, at(63), view(1, NodeState::Follower, 1, 5));
        assert_eq!(watch.silent_for(&name, at(63)), Duration::ZERO);
        let mut alone = ClusterWatch::new([name.clone()]);
        alone.absorb(&name, at(10), silent());
        assert_eq!(alone.silent_for(&name, at(40)), Duration::from_secs(30));
    }

    #[test]
    fn the_first_that_is_seen_of_a_process_tells_whether_its_data_is_there() {
        use NodeState::{Follower, Initializing, Unknown};
        // What each process served, and whether it was seen without an epoch. One that initializes has none yet.
        let rows: [(&[(NodeState, i32)], bool); 6] = [
            (&[(Unknown, -1)], true),
            (&[(Unknown, 3)], false),
            (&[(Unknown, 0), (Follower, 0)], false),
            (&[(Initializing, -1)], false),
            (&[(Initializing, -1), (Unknown, -1), (Follower, 3)], true),
            (&[(Initializing, -1), (Initializing, -1), (Follower, 3)], false),
        ];
        let node = NodeName::from("a");
        for (served, missing) in rows {
            let mut watch = ClusterWatch::new([node.clone()]);
            for (n, (state, epoch)) in served.iter().enumerate() {
                watch.absorb(&node, Moment(Duration::from_secs(n as u64 + 1)), view(1, *state, *epoch, n as i64));
            }
            let first = watch.node(&node).and_then(|t| t.first_after(Moment::default(), None)).unwrap();
            assert_eq!((first.state, first.epoch_missing_seen), (served[0].0, missing), "{served:?}");
        }
    }

    /// An entry that is still to be read from the log has no commit position.
    #[test]
    fn the_first_entry_of_one_that_initializes_is_judged_by_its_writer() {
        let commit = |state, last_commit| {
            let mut own = view_of(1, state, 3, 500).members.remove(0);
            own.last_commit = last_commit;
            FirstSeen::of(&own, Moment::default()).commit
        };
        use NodeState::{Follower, Initializing};
        let told =
            [(Initializing, -1), (Initializing, 0), (Initializing, 7), (Follower, -1)].map(|(s, c)| commit(s, c));
        assert_eq!(told, [500, 0, 7, -1]);
    }

    #[test]
    fn what_a_node_gained_and_each_new_state_is_progress_and_nothing_else_is() {
        let node = NodeName::from("a");
        let mut watch = ClusterWatch::new([node.clone()]);
        // State, writer and commit position as they are served, and when the log and the index were last known to have grown.
        use NodeState::{CatchingUp, PreReplica};
        let rows: [(NodeState, i64, i64, u64, u64); 6] = [
            (PreReplica, 10, 5, 1, 1),
            (PreReplica, 20, 5, 2, 1),
            (PreReplica, 20, 6, 2, 3),
            (PreReplica, 15, 4, 2, 3),
            (CatchingUp, 15, 4, 5, 5),
            (PreReplica, 20, 6, 5, 5),
        ];
        for (n, (state, writer, commit, moved, indexed)) in rows.into_iter().enumerate() {
            let mut view = view_of(1, state, 3, writer);
            view.members[0].last_commit = commit;
            view.members[0].time_stamp = n.to_string();
            watch.absorb(&node, Moment(Duration::from_secs(n as u64 + 1)), Answer::View { view, live: None });
            let at = |s| Some(Moment(Duration::from_secs(s)));
            let found = watch.node(&node).map(|t| (t.moved_at, t.indexed_at));
            assert_eq!(found, Some((at(moved), at(indexed))), "row {n}");
        }
    }

    #[test]
    fn no_more_than_so_much_is_kept_of_a_node() {
        let node = NodeName::from("a");
        let mut watch = ClusterWatch::new([node.clone()]);
        let kept = |watch: &ClusterWatch| watch.node(&node).map(|t| (t.firsts.len(), t.refreshes.len()));
        for n in 1..=100_u32 {
            let at = Moment(Duration::from_secs(n.into()));
            watch.absorb(&node, at, view(n.into(), NodeState::Follower, 1, n.into()));
        }
        assert_eq!(kept(&watch), Some((PROCESSES_KEPT, 1)));
        for n in 101..=200_u32 {
            watch.absorb(&node, Moment(Duration::from_secs(n.into())), view(100, NodeState::Follower, 1, n.into()));
        }
        assert_eq!(kept(&watch), Some((PROCESSES_KEPT, REFRESHES_KEPT)));
    }

    #[test]
    fn what_the_leader_sent_is_unbroken_while_it_is_one_subscription() {
        let (node, at) = (NodeName::from("a"), Moment(Duration::from_secs(1)));
        let mut watch = ClusterWatch::new([node.clone()]);
        watch.absorb(&node, at, view(1, NodeState::Follower, 1, 5));
        let endpoint = crate::domain::ids::Address::new("10.0.0.1", 2113);
        let says = |watch: &mut ClusterWatch, subscription: u128, total_bytes_sent: u64| {
            let subscription = Uuid::from_u128(subscription);
            watch.absorb_replication(
                at,
                &[ReplicaSubscription { subscription, endpoint: endpoint.clone(), total_bytes_sent }],
            );
            watch.node(&node).and_then(|t| t.sent.as_ref()).map(|sent| (sent.bytes, sent.unbroken))
        };
        assert_eq!(says(&mut watch, 1, 10), Some((10, true)));
        assert_eq!(says(&mut watch, 1, 20), Some((20, true)));
        assert_eq!(says(&mut watch, 2, 5), Some((5, false)));
        assert_eq!(says(&mut watch, 2, 6), Some((6, false)), "what it was sent before is not known");
        watch.absorb(&node, at, view(2, NodeState::Follower, 1, 5));
        assert_eq!(says(&mut watch, 3, 1), Some((1, true)), "another process");
    }

    #[test]
    fn of_the_processes_since_the_worst_counts_and_those_before_do_not() {
        let node = NodeName::from("a");
        let at = |s: u64| Moment(Duration::from_secs(s));
        let mut watch = ClusterWatch::new([node.clone()]);
        for (second, process, epoch, writer) in [(1, 1, -1, 5), (2, 2, 1, 900), (3, 3, -1, 700), (4, 4, 1, 800)] {
            watch.absorb(&node, at(second), view(process, NodeState::Follower, epoch, writer));
        }
        let of = |f: FirstSeen| (f.process.0.as_u128(), f.writer, f.commit, f.epoch_missing_seen);
        let first =
            |after: u64, before: Option<ProcessId>| watch.node(&node).and_then(|t| t.first_after(at(after), before));
        let told = |after: u64| first(after, None).map(of);
        assert_eq!(told(1), Some((2, 700, 700, true)), "what was seen at that moment was before it");
        assert_eq!(told(3), Some((4, 800, 800, false)));
        assert_eq!(told(4), None);
        assert_eq!(watch.node(&node).map(|t| (t.starts_after(at(2)), t.starts_after(at(4)))), Some((2, 0)));
        let stopped = Some(ProcessId(Uuid::from_u128(3)));
        assert_eq!(first(1, stopped).map(of), Some((2, 800, 800, false)), "the one that was stopped has not come back");
        let stopped = Some(ProcessId(Uuid::from_u128(4)));
        assert_eq!(first(3, stopped).map(of), None);
    }
}
