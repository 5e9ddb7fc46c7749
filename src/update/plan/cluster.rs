//! The nodes as a whole: health, quorum, versions.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{OneNode, Scene, Verdict};
use crate::domain::agreement::{self, Agreement, Doubt};
use crate::domain::catch_up::{NotCaughtUp, level};
use crate::domain::cluster::NodeState;
use crate::domain::ids::NodeName;
use crate::update::event::Role;
use crate::update::limits::SILENT_FOR;

/// How a member is.
enum Health {
    /// Up and level.
    Ready,
    /// It has not been seen for long enough.
    Unseen(String),
    /// It answers, and is not level.
    NotLevel(String),
    /// It does not answer.
    Down(String),
}

fn health(scene: &Scene<'_>, node: &NodeName) -> Health {
    let Some(track) = scene.observed.watch.node(node) else {
        return Health::Unseen(format!("{node} has not been asked"));
    };
    if track.own(scene.now).is_none() {
        let silent = scene.observed.watch.silent_for(node, scene.now);
        return if silent > SILENT_FOR {
            Health::Down(format!("{node} has not answered for {} s", silent.as_secs()))
        } else {
            Health::Unseen(format!("{node} has not answered"))
        };
    }
    match level(track, scene.observed.watch.samples(), scene.observed.policy.max_replication_delay, scene.now) {
        // One refresh within the limit is enough to plan on: three are asked for before a node is stopped.
        Ok(()) | Err(NotCaughtUp::Confirming { refreshes: 1.., .. }) => Health::Ready,
        Err(why @ NotCaughtUp::Confirming { .. }) => Health::Unseen(format!("{node} {why}")),
        Err(
            why @ (NotCaughtUp::Silent
            | NotCaughtUp::NoLeader
            | NotCaughtUp::State(_)
            | NotCaughtUp::Epoch { .. }
            | NotCaughtUp::Behind(_)),
        ) => Health::NotLevel(format!("{node} {why}")),
    }
}

pub(super) fn member_down(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match health(scene, node.name) {
        Health::Ready | Health::NotLevel(_) => Verdict::Passed("it answers".into()),
        // The members must be seen for there to be a plan at all.
        Health::Unseen(why) => Verdict::Pending(why),
        Health::Down(why) => Verdict::Failed(why),
    }
}

pub(super) fn not_caught_up(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match health(scene, node.name) {
        Health::Ready => Verdict::Passed("level with the leader".into()),
        Health::Unseen(why) => scene.unless_patient(why, Verdict::Unknown),
        Health::NotLevel(why) => scene.unless_patient(why, Verdict::Failed),
        Health::Down(_) => Verdict::NotApplicable,
    }
}

pub(super) fn leader_not_agreed(scene: &Scene<'_>) -> Verdict {
    let expected: BTreeSet<NodeName> = scene.survey.members.keys().cloned().collect();
    let down = |n: &&NodeName| matches!(health(scene, n), Health::Down(_));
    let excepted: BTreeSet<NodeName> = expected.iter().filter(down).cloned().collect();
    let sole_voter_down = scene.voters.is_some_and(|v| v.0 == 1)
        && scene.members.iter().any(|m| m.role != Role::ReadOnlyReplica && excepted.contains(&m.node));
    if expected.is_empty() || sole_voter_down {
        return Verdict::NotApplicable;
    }
    let agreement = agreement::judge(scene.observed.watch, &expected, &excepted, scene.now);
    let confirming = |doubts: &[Doubt]| doubts.iter().all(|d| matches!(d, Doubt::SecondRefreshAwaited(_)));
    match &agreement {
        Agreement::Yes { node, .. } => Verdict::Passed(format!("every node names {node}")),
        Agreement::Unknown(doubts) if confirming(doubts) => {
            let leader = scene.members.iter().find(|m| m.role == Role::Leader).map(|m| m.node.as_str());
            Verdict::Passed(format!("every node names {}", leader.unwrap_or("the same one")))
        }
        Agreement::No(doubts) | Agreement::Unknown(doubts) => {
            let doubts: Vec<String> = doubts.iter().map(ToString::to_string).collect();
            scene.unless_patient(doubts.join(", "), Verdict::Failed)
        }
    }
}

/// Before a voter is stopped every other must be up and level. One that is not is taken first, if it is to be taken at all.
pub(super) fn quorum_margin(scene: &Scene<'_>) -> Verdict {
    let voting: Vec<&NodeName> =
        scene.members.iter().filter(|m| m.role != Role::ReadOnlyReplica).map(|m| &m.node).collect();
    if !voting.iter().any(|n| scene.order.contains(*n)) {
        return Verdict::NotApplicable;
    }
    let mut not_ready = Vec::new();
    for node in &voting {
        match health(scene, node) {
            Health::Ready => {}
            Health::Unseen(why) | Health::NotLevel(why) => match scene.unless_patient(why, Verdict::Failed) {
                pending @ Verdict::Pending(_) => return pending,
                Verdict::Failed(why) | Verdict::Passed(why) | Verdict::Unknown(why) | Verdict::Warned(why) => {
                    not_ready.push((*node, why))
                }
                Verdict::NotApplicable => {}
            },
            Health::Down(why) => not_ready.push((*node, why)),
        }
    }
    let others = voting.len().saturating_sub(1);
    match not_ready.as_slice() {
        [] => Verdict::Passed(format!("{} voters up and level: {others} stay while one is stopped", voting.len())),
        [(node, _)] if scene.order.contains(node) => {
            Verdict::Passed(format!("{node} is taken first; the other {others} voters are up and level"))
        }
        [(_, why)] => {
            Verdict::Failed(format!("{why}, and is not among the nodes to be done: no other voter can be stopped"))
        }
        several => {
            let texts: Vec<&str> = several.iter().map(|(_, why)| why.as_str()).collect();
            Verdict::Failed(texts.join(", "))
        }
    }
}

pub(super) fn voters_differ(scene: &Scene<'_>) -> Verdict {
    let Some(voters) = scene.voters else { return Verdict::NotApplicable };
    if scene.members.len() < scene.survey.members.len() || scene.members.is_empty() {
        return Verdict::NotApplicable;
    }
    let voting = scene.members.iter().filter(|m| m.role != Role::ReadOnlyReplica).count();
    Verdict::failed_if(voting != voters.0 as usize, format!("{voting} voting members, {} configured", voters.0))
}

pub(super) fn too_few_voters(scene: &Scene<'_>) -> Verdict {
    let Some(voters) = scene.voters else { return Verdict::NotApplicable };
    let found = format!("{} voters", voters.0);
    match (voters.0 < 3, scene.request.accept_downtime) {
        (false, _) => Verdict::Passed(found),
        (true, Some(true)) => Verdict::Warned(format!("{found}; the downtime is accepted by the request")),
        (true, Some(false) | None) => Verdict::Failed(found),
    }
}

pub(super) fn even_voters(scene: &Scene<'_>) -> Verdict {
    let Some(voters) = scene.voters else { return Verdict::NotApplicable };
    Verdict::failed_if(voters.0.is_multiple_of(2), format!("{} voters", voters.0))
}

pub(super) fn unknown_member(scene: &Scene<'_>) -> Verdict {
    let expected: BTreeSet<_> = scene.survey.members.values().map(|m| &m.address).collect();
    for (name, track) in scene.observed.watch.nodes() {
        for m in track.fresh_view(scene.now).into_iter().flat_map(|v| &v.members) {
            if m.is_alive && m.state != NodeState::Manager && !expected.contains(&m.address) {
                return Verdict::Failed(format!("{name} sees a living member {} that was not found before", m.address));
            }
        }
    }
    Verdict::Passed(format!("{} members, no other seen", expected.len()))
}

pub(super) fn missing_member(scene: &Scene<'_>) -> Verdict {
    if scene.survey.members.is_empty() {
        return Verdict::NotApplicable;
    }
    match scene.survey.absent.as_slice() {
        [] => Verdict::Passed("every configured seed and node is a member".into()),
        absent => Verdict::Failed(absent.join("; ")),
    }
}

pub(super) fn mixed_versions(scene: &Scene<'_>) -> Verdict {
    let mut versions: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for m in &scene.members {
        versions.entry(m.version.as_deref()).or_default().push(m.node.as_str());
    }
    let said: Vec<String> = versions
        .iter()
        .map(|(version, nodes)| format!("{} on {}", version.unwrap_or("an untold version"), nodes.join(", ")))
        .collect();
    match versions.len() {
        0 => Verdict::NotApplicable,
        1 => match versions.keys().next() {
            Some(Some(version)) => Verdict::Passed((*version).to_owned()),
            Some(None) | None => {
                Verdict::Unknown("the nodes' gossip does not tell their version (before 23.10)".into())
            }
        },
        _ => Verdict::Failed(said.join("; ")),
    }
}

pub(super) fn scavenge_running(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match scene.survey.scavenges.get(node.name) {
        None => Verdict::NotApplicable,
        Some(Ok(None)) => Verdict::Passed("no scavenge runs".into()),
        Some(Ok(Some(id))) => Verdict::Failed(format!("scavenge {id} runs on {}", node.name)),
        Some(Err(why)) => Verdict::Unknown(why.clone()),
    }
}

pub(super) fn restart_policy(_: &Scene<'_>) -> Verdict {
    Verdict::Unknown("what restarts the nodes' processes cannot be seen from here".into())
}
