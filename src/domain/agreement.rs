//! Whether a cluster agrees on who leads it: one three-valued answer that stop, resign and caught-up all rest on.
//!
//! Views contradict each other for up to 2.5 s after every leader change (recorded on 23.10.5): two living leaders in one view,
//! none, or the new one called `Unknown`. Only two consecutive refreshes of every view that name the same process prove anything.

use std::collections::BTreeSet;
use std::fmt;

use super::cluster::NodeState;
use super::ids::{NodeName, ProcessId};
use super::time::Moment;
use super::watch::{ClusterWatch, Named};

/// Whether all expected members agree on one leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// They do.
    Yes {
        /// The leader's process.
        leader: ProcessId,
        /// The node it runs on.
        node: NodeName,
        /// Its epoch, by its own word.
        epoch: i32,
    },
    /// They do not: who says what.
    No(Vec<Doubt>),
    /// Not known yet, or not from everybody: who is missing.
    Unknown(Vec<Doubt>),
}

/// One reason why agreement is not *yes*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The node gives no fresh answer.
    Silent(NodeName),
    /// The node's view has no entry for itself.
    NoOwnEntry(NodeName),
    /// The node's view names no living leader.
    NamesNobody(NodeName),
    /// The node's view names several, or changed its mind within a refresh.
    NamesSeveral(NodeName),
    /// The node's view named another leader than the rest, or than one refresh ago.
    NamesAnother(NodeName),
    /// Only one refresh of the node has been seen that names the leader.
    SecondRefreshAwaited(NodeName),
    /// The process named is none of the expected members'.
    LeaderNotExpected(ProcessId),
    /// The node named does not itself say that it leads.
    LeaderDenies(NodeName),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::Silent(n) => write!(f, "{n} does not answer"),
            Doubt::NoOwnEntry(n) => write!(f, "{n} does not list itself"),
            Doubt::NamesNobody(n) => write!(f, "{n} sees no leader"),
            Doubt::NamesSeveral(n) => write!(f, "{n} sees more than one leader"),
            Doubt::NamesAnother(n) => write!(f, "{n} named another leader"),
            Doubt::SecondRefreshAwaited(n) => write!(f, "{n} has yet to confirm the leader"),
            Doubt::LeaderNotExpected(p) => write!(f, "the leader {p} is no expected member"),
            Doubt::LeaderDenies(n) => write!(f, "{n} is named but does not say that it leads"),
        }
    }
}

impl Agreement {
    /// The leader's node, if they agree.
    pub fn leader_node(&self) -> Option<&NodeName> {
        match self {
            Agreement::Yes { node, .. } => Some(node),
            Agreement::No(_) | Agreement::Unknown(_) => None,
        }
    }

    /// The doubts, none if they agree.
    pub fn doubts(&self) -> &[Doubt] {
        match self {
            Agreement::Yes { .. } => &[],
            Agreement::No(doubts) | Agreement::Unknown(doubts) => doubts,
        }
    }
}

/// Judges agreement among `expected`, leaving out `excepted` (only the node in hand while it is down, and members missing by waiver).
pub fn judge(
    watch: &ClusterWatch,
    expected: &BTreeSet<NodeName>,
    excepted: &BTreeSet<NodeName>,
    now: Moment,
) -> Agreement {
    // A single node gossips with nobody, so its entry is refreshed at its changes of state only; and nobody can contradict it.
    let alone = expected.len() == 1;
    let mut contradictions = Vec::new();
    let mut missing = Vec::new();
    let mut named: BTreeSet<ProcessId> = BTreeSet::new();

    for name in expected.difference(excepted) {
        let Some(track) = watch.node(name).filter(|t| t.fresh_view(now).is_some()) else {
            missing.push(Doubt::Silent(name.clone()));
            continue;
        };
        if track.own(now).is_none() {
            missing.push(Doubt::NoOwnEntry(name.clone()));
            continue;
        }
        let mut latest = track.refreshes.iter().rev();
        let leader = match latest.next().map(|r| r.named()) {
            Some(Named::One(leader)) => leader,
            Some(Named::Nobody) => {
                contradictions.push(Doubt::NamesNobody(name.clone()));
                continue;
            }
            Some(Named::Several) => {
                contradictions.push(Doubt::NamesSeveral(name.clone()));
                continue;
            }
            None => {
                missing.push(Doubt::NoOwnEntry(name.clone()));
                continue;
            }
        };
        named.insert(leader);
        if alone {
            continue;
        }
        match latest.next().map(|r| r.named()) {
            Some(Named::One(before)) if before == leader => {}
            Some(Named::One(_)) => missing.push(Doubt::NamesAnother(name.clone())),
            Some(Named::Nobody | Named::Several) | None => missing.push(Doubt::SecondRefreshAwaited(name.clone())),
        }
    }

    if named.len() > 1 {
        for name in expected.difference(excepted) {
            if watch.node(name).and_then(|t| t.refreshes.back()).is_some_and(|r| matches!(r.named(), Named::One(_))) {
                contradictions.push(Doubt::NamesAnother(name.clone()));
            }
        }
    }
    let leader = named.first().copied();
    let leader_node = leader.and_then(|l| watch.node_of(l)).filter(|n| expected.contains(*n));
    if let Some(leader) = leader
        && named.len() == 1
    {
        match leader_node.and_then(|n| watch.node(n).and_then(|t| t.own(now)).map(|own| (n, own))) {
            None => missing.push(Doubt::LeaderNotExpected(leader)),
            Some((node, own)) => {
                if own.state != NodeState::Leader || !own.is_alive {
                    contradictions.push(Doubt::LeaderDenies(node.clone()));
                } else if contradictions.is_empty() && missing.is_empty() {
                    return Agreement::Yes { leader, node: node.clone(), epoch: own.epoch };
                }
            }
        }
    }
    if contradictions.is_empty() { Agreement::Unknown(missing) } else { Agreement::No(contradictions) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::cluster::tests::entry;
    use crate::domain::cluster::{MemberEntry, View};
    use crate::domain::watch::Answer;

    /// What one node says: its own state, whether its entry is alive, and whom its view shows as leader beside itself.
    type Said = (NodeState, bool, &'static [u16]);

    const LEADS: Said = (NodeState::Leader, true, &[]);
    const FOLLOWS_1: Said = (NodeState::Follower, true, &[1]);

    fn own(n: u16, state: NodeState, is_alive: bool, stamp: u64) -> MemberEntry {
        MemberEntry { is_alive, ..entry(n, state, 4, 0, stamp) }
    }

    fn name(n: u16) -> NodeName {
        NodeName::from(format!("esdb-{n}").as_str())
    }

    /// What is made of three nodes that say the same in so many refreshes.
    fn judged(said: [Said; 3], refreshes: u64) -> Agreement {
        let expected: BTreeSet<NodeName> = (1..=3).map(name).collect();
        let mut watch = ClusterWatch::new(expected.iter().cloned());
        let mut now = Moment::default();
        for second in 0..refreshes {
            now = Moment(Duration::from_secs(second));
            for (n, (state, is_alive, names)) in (1..).zip(said) {
                let own = own(n, state, is_alive, second);
                let leaders = names.iter().map(|n| entry(*n, NodeState::Leader, 4, 0, second));
                let view = View { server: own.address.clone(), members: std::iter::once(own).chain(leaders).collect() };
                watch.absorb(&name(n), now, Answer::View { view, live: Some(true) });
            }
        }
        judge(&watch, &expected, &BTreeSet::new(), now)
    }

    #[test]
    fn two_refreshes_of_every_view_that_name_one_leader_agree() {
        let agreed = judged([LEADS, FOLLOWS_1, FOLLOWS_1], 2);
        assert_eq!(agreed, Agreement::Yes { leader: ProcessId(Uuid::from_u128(1)), node: name(1), epoch: 4 });
        assert_eq!((agreed.leader_node(), agreed.doubts()), (Some(&name(1)), &[][..]));
        let awaited: Vec<Doubt> = (1..=3).map(|n| Doubt::SecondRefreshAwaited(name(n))).collect();
        let unknown = judged([LEADS, FOLLOWS_1, FOLLOWS_1], 1);
        assert_eq!((unknown.leader_node(), unknown.doubts()), (None, &awaited[..]));
        assert_eq!(unknown, Agreement::Unknown(awaited));
    }

    #[test]
    fn whoever_contradicts_is_named() {
        let follows_2: Said = (NodeState::Follower, true, &[2]);
        let another = |n| Doubt::NamesAnother(name(n));
        let table: [(&str, [Said; 3], Vec<Doubt>); 6] = [
            ("two leaders", [LEADS, LEADS, FOLLOWS_1], vec![another(1), another(2), another(3)]),
            ("one sees another", [LEADS, FOLLOWS_1, follows_2], vec![another(1), another(2), another(3)]),
            (
                "two in one view",
                [LEADS, FOLLOWS_1, (NodeState::Follower, true, &[1, 2])],
                vec![Doubt::NamesSeveral(name(3))],
            ),
            ("one sees none", [LEADS, FOLLOWS_1, (NodeState::Unknown, true, &[])], vec![Doubt::NamesNobody(name(3))]),
            (
                "it says that it follows",
                [
                    (NodeState::Follower, true, &[2]),
                    (NodeState::Follower, true, &[2]),
                    (NodeState::Follower, true, &[2]),
                ],
                vec![Doubt::LeaderDenies(name(2))],
            ),
            (
                "it is not alive",
                [(NodeState::Leader, false, &[1]), FOLLOWS_1, FOLLOWS_1],
                vec![Doubt::LeaderDenies(name(1))],
            ),
        ];
        for (what, said, doubts) in table {
            assert_eq!(judged(said, 3), Agreement::No(doubts), "{what}");
        }
        let follow_a_stranger: Said = (NodeState::Follower, true, &[9]);
        let stranger = vec![Doubt::LeaderNotExpected(ProcessId(Uuid::from_u128(9)))];
        assert_eq!(judged([follow_a_stranger; 3], 3), Agreement::Unknown(stranger));
    }
}
