//! What must not be touched now, and why. Missing knowledge is a reason.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::event::{Evidence, UpdatePlanned};
use super::limits::SILENT_FOR;
use super::state::State;
use crate::domain::agreement::{self, Agreement, Doubt};
use crate::domain::catch_up::{NotCaughtUp, level};
use crate::domain::cluster::NodeState;
use crate::domain::ids::NodeName;
use crate::domain::quorum::Voters;
use crate::domain::time::Moment;
use crate::domain::watch::ClusterWatch;

/// Why a node must not be stopped, or made to resign, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// The cluster does not agree on a leader (S2).
    NoAgreement(Vec<Doubt>),
    /// The node leads (S2).
    Leads,
    /// Some view still calls it leader (S2).
    CalledLeader,
    /// Another voter is not up and caught up (S3).
    VoterNotReady(NodeName, NotCaughtUp),
    /// Too few voters for a change without downtime (S3).
    TooFewVoters(Voters),
    /// Another node is out of service by our doing (S1).
    OutOfService(NodeName),
    /// The node is not in the plan (S5).
    NotPlanned,
    /// Gossip shows a voter that nobody expects, or misses one that is expected (S3).
    UnexpectedMember(String),
}

impl Blocker {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Blocker::NoAgreement(_) => "agreementAwaited",
            Blocker::Leads => "leads",
            Blocker::CalledLeader => "calledLeader",
            Blocker::VoterNotReady(..) => "voterNotReady",
            Blocker::TooFewVoters(_) => "tooFewVoters",
            Blocker::OutOfService(_) => "outOfService",
            Blocker::NotPlanned => "notPlanned",
            Blocker::UnexpectedMember(_) => "unexpectedMember",
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocker::NoAgreement(doubts) => {
                write!(f, "the cluster does not agree on its leader yet: ")?;
                for (i, doubt) in doubts.iter().enumerate() {
                    write!(f, "{}{doubt}", if i > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Blocker::Leads => write!(f, "it leads"),
            Blocker::CalledLeader => write!(f, "a view still calls it leader"),
            Blocker::VoterNotReady(node, why) => write!(f, "voter {node} {why}"),
            Blocker::TooFewVoters(voters) => {
                write!(f, "{} voters cannot lose one without downtime; acceptDowntime accepts it", voters.0)
            }
            Blocker::OutOfService(node) => write!(f, "{node} is out of service"),
            Blocker::NotPlanned => write!(f, "it is not in the plan"),
            Blocker::UnexpectedMember(who) => write!(f, "{who}"),
        }
    }
}

/// What a safety judgement needs to know.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The update.
    pub state: &'a State,
    /// The plan.
    pub plan: &'a UpdatePlanned,
    /// The cluster.
    pub watch: &'a ClusterWatch,
    /// Limit of replication and index delay.
    pub max_delay: Duration,
    /// Now.
    pub now: Moment,
}

impl<'a> Scene<'a> {
    /// Expected members.
    pub fn expected(&self) -> BTreeSet<NodeName> {
        self.plan.members.iter().map(|m| m.node.clone()).collect()
    }

    /// Voters among the expected members, by their own last word, else by the plan.
    pub fn is_voter(&self, node: &NodeName) -> bool {
        match self.watch.node(node).and_then(|t| t.last_own()) {
            Some(own) => !own.is_read_only_replica,
            None => self.state.member(node).is_some_and(|m| m.role != super::event::Role::ReadOnlyReplica),
        }
    }

    /// Agreement of all expected members but `excepted`.
    pub fn agreement(&self, excepted: Option<&NodeName>) -> Agreement {
        let excepted = excepted.into_iter().cloned().collect();
        agreement::judge(self.watch, &self.expected(), &excepted, self.now)
    }

    /// Whether a node answers at all.
    pub fn answers(&self, node: &NodeName) -> bool {
        self.watch.node(node).and_then(|t| t.own(self.now)).is_some()
    }

    /// Whether a node is down: one lost answer does not say so.
    pub fn is_down(&self, node: &NodeName) -> bool {
        let silent = self.watch.node(node).and_then(|t| t.silent_since);
        silent.is_some_and(|since| self.now.since(since) >= SILENT_FOR)
    }

    /// Voters other than `node` that are not up and caught up.
    pub fn voters_not_ready(&self, node: &NodeName) -> Vec<(NodeName, NotCaughtUp)> {
        let mut found = Vec::new();
        for member in self.plan.members.iter().map(|m| &m.node).filter(|n| *n != node && self.is_voter(n)) {
            let why = match self.watch.node(member) {
                Some(track) => level(track, self.watch.samples(), self.max_delay, self.now).err(),
                None => Some(NotCaughtUp::Silent),
            };
            if let Some(why) = why {
                found.push((member.clone(), why));
            }
        }
        found
    }

    /// Members that gossip shows alive and the plan does not know, and the reverse count (S3, S5).
    pub fn unexpected_members(&self) -> Option<String> {
        let planned: BTreeSet<_> = self.plan.members.iter().map(|m| &m.address).collect();
        for (name, track) in self.watch.nodes() {
            for m in track.fresh_view(self.now).into_iter().flat_map(|v| &v.members) {
                if m.is_alive && m.state != NodeState::Manager && !planned.contains(&m.address) {
                    return Some(format!("{name} sees a living member {} that the plan does not know", m.address));
                }
            }
        }
        let voters = self.plan.members.iter().filter(|m| self.is_voter(&m.node)).count();
        if voters != self.plan.voters.0 as usize {
            return Some(format!("{voters} members vote, {} are configured", self.plan.voters.0));
        }
        None
    }
}

/// Why `node` must not be stopped now; empty if it may.
pub fn stop_blockers(scene: &Scene<'_>, node: &NodeName) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    if scene.state.member(node).is_none() {
        return vec![Blocker::NotPlanned];
    }
    if let Some(hand) = scene.state.in_hand.as_ref().filter(|h| &h.node != node && h.step.out_of_service()) {
        blockers.push(Blocker::OutOfService(hand.node.clone()));
    }
    if let Some(who) = scene.unexpected_members() {
        blockers.push(Blocker::UnexpectedMember(who));
    }
    let accept_downtime = scene.state.request.as_ref().is_some_and(|r| r.accept_downtime == Some(true));
    let is_voter = scene.is_voter(node);
    if is_voter && scene.plan.voters.0 < 3 && !accept_downtime {
        blockers.push(Blocker::TooFewVoters(scene.plan.voters));
    }
    // A node that is down already cannot answer; everybody else must agree without it.
    let down = scene.is_down(node);
    let agreement = scene.agreement(down.then_some(node));
    let sole = scene.plan.voters.0 == 1;
    match &agreement {
        Agreement::Yes { node: leader, .. } => {
            if leader == node && !(sole && accept_downtime) {
                blockers.push(Blocker::Leads);
            }
        }
        Agreement::No(doubts) | Agreement::Unknown(doubts) => {
            // A sole voter that is down leaves nobody to agree with.
            if !(sole && is_voter && down && accept_downtime) {
                blockers.push(Blocker::NoAgreement(doubts.clone()));
            }
        }
    }
    let process = scene.watch.node(node).and_then(|t| t.last_own()).map(|own| own.process);
    if !down
        && !sole
        && process.is_some_and(|p| scene.watch.called_leader().contains(&p))
        && !blockers.contains(&Blocker::Leads)
    {
        blockers.push(Blocker::CalledLeader);
    }
    if is_voter {
        blockers.extend(scene.voters_not_ready(node).into_iter().map(|(n, why)| Blocker::VoterNotReady(n, why)));
    }
    blockers
}

/// Why the leader must not be made to resign now; empty if it may.
pub fn resign_blockers(scene: &Scene<'_>, node: &NodeName) -> Vec<Blocker> {
    let mut blockers: Vec<Blocker> = scene.unexpected_members().map(Blocker::UnexpectedMember).into_iter().collect();
    match scene.agreement(None) {
        Agreement::Yes { node: leader, .. } if &leader == node => {}
        Agreement::Yes { .. } => blockers.push(Blocker::NoAgreement(vec![Doubt::LeaderDenies(node.clone())])),
        Agreement::No(doubts) | Agreement::Unknown(doubts) => blockers.push(Blocker::NoAgreement(doubts)),
    }
    // Whoever leads next must have everything, and a resignation without a majority is answered 200 and does nothing.
    blockers.extend(scene.voters_not_ready(node).into_iter().map(|(n, why)| Blocker::VoterNotReady(n, why)));
    blockers
}

/// The evidence behind a judgement, for the fact that rests on it.
pub fn evidence(scene: &Scene<'_>) -> Vec<Evidence> {
    scene
        .watch
        .nodes()
        .filter_map(|(name, track)| {
            let (at, _) = track.last.as_ref()?;
            let own = track.own(scene.now)?;
            Some(Evidence {
                what: format!("{} epoch {} writer {} priority {}", own.state, own.epoch, own.writer, own.priority),
                by: name.to_string(),
                age_seconds: super::state::round_ms(scene.now.since(*at).as_secs_f64()),
            })
        })
        .collect()
}
