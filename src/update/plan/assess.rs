//! Looks at everything, and makes a plan of it.

use std::collections::BTreeMap;

use super::catalogue::{self, CATALOGUE};
use super::check::{Check, Find, OneNode, Scene, Verdict, chosen, to_be_done};
use super::digest::digest;
use super::outlook::exposure;
use super::waiver::Waiver;
use crate::domain::cluster::{MemberEntry, NodeState};
use crate::domain::ids::{Address, InstanceType, NodeName};
use crate::domain::time::Moment;
use crate::update::event::*;
use crate::update::limits::SILENT_FOR;
use crate::update::observed::{Observed, Survey};

/// What came of trying to plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Planning {
    /// The plan, and the canonical id of the cluster.
    Ready(Box<UpdatePlanned>, String),
    /// It cannot be.
    Refused(Vec<Reason>),
    /// Something has not been seen yet.
    Incomplete(Vec<String>),
}

/// One step, as far as it can be foretold.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The node.
    pub node: NodeName,
    /// Elections it will cause.
    pub elections: u32,
    /// Predicted time out of service, seconds; absent where nothing is known to predict it from.
    pub out_of_service: Option<f64>,
    /// Why nothing is to be done to it, if so.
    pub already: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// Every check that applies, passed ones included.
    pub checks: Vec<PlannedCheck>,
    /// What refuses the update.
    pub reasons: Vec<Reason>,
    /// What has not been seen yet.
    pub missing: Vec<String>,
    /// The plan, as far as members have been seen.
    pub plan: Option<UpdatePlanned>,
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// Canonical id of the cluster.
    pub cluster_id: String,
}

impl Assessment {
    /// Checks that refuse nothing and yet should be known: failed or unknown, of severity warn, not waived.
    pub fn warnings(&self) -> impl Iterator<Item = &PlannedCheck> {
        self.checks.iter().filter(|c| {
            c.severity == Some(Severity::Warn) && c.outcome != Some(CheckOutcome::Passed) && c.waived_by.is_none()
        })
    }

    fn into_planning(self) -> Planning {
        if !self.reasons.is_empty() {
            return Planning::Refused(self.reasons);
        }
        match self.plan {
            Some(plan) if self.missing.is_empty() => Planning::Ready(Box::new(plan), self.cluster_id),
            Some(_) | None => Planning::Incomplete(self.missing),
        }
    }
}

/// Plans. `since`: since when the cluster has been looked at.
pub fn plan(
    request: &UpdateRequested,
    survey: &Survey,
    waivers: &[Waiver],
    observed: &Observed<'_>,
    since: Moment,
    now: Moment,
) -> Planning {
    assess(request, survey, waivers, observed, since, now).into_planning()
}

/// Looks at everything there is to check.
pub fn assess(
    request: &UpdateRequested,
    survey: &Survey,
    waivers: &[Waiver],
    observed: &Observed<'_>,
    since: Moment,
    now: Moment,
) -> Assessment {
    let mut missing = survey.missing.clone();
    let members = members(request, survey, observed, now, &mut missing);
    let order = order(request, &members);
    let mut scene = Scene { request, survey, observed, now, since, voters: survey.voters, members, order };
    let mut checks = request_checks(&scene);
    checks.extend(survey.reasons.iter().map(refused));
    for check in CATALOGUE {
        if !survey.reasons.iter().any(|r| r.code == check.code) {
            look(check, &scene, &mut checks, &mut missing);
        }
    }
    if survey.voters.is_none() && survey.reasons.is_empty() {
        missing.push("the number of voters".into());
    }
    missing.dedup();
    for c in &mut checks {
        waive(c, waivers, observed.wall);
    }
    for member in &mut scene.members {
        let taken =
            |c: &&PlannedCheck| c.code == "fence" && c.node.as_ref() == Some(&member.node) && c.waived_by.is_some();
        let left_behind = checks.iter().find(taken).and_then(|_| survey.members.get(&member.node));
        member.stale_fence = left_behind.and_then(|m| m.instance.fence()).map(str::to_owned);
    }
    checks.sort_by_key(|c| CATALOGUE.iter().position(|known| known.code == c.code));
    let digest = digest(request, &scene.members, &scene.order, &checks);
    if let Some(wanted) = request.plan_digest.as_ref().filter(|wanted| **wanted != digest && missing.is_empty()) {
        checks.push(refused(&Reason {
            found: format!("digest {digest}, and {wanted} in the request"),
            ..reason_of("planDigestDiffers")
        }));
    }
    let reasons = checks.iter().filter_map(as_reason).collect();
    let mut cluster: Vec<String> = scene.members.iter().map(|m| m.address.to_string()).collect();
    cluster.sort();
    let steps = steps(&scene);
    let Scene { members, order, .. } = scene;
    let plan = survey.voters.filter(|_| !members.is_empty()).map(|voters| UpdatePlanned {
        voters,
        members,
        order,
        checks: checks.clone(),
        digest,
    });
    Assessment { checks, reasons, missing, plan, steps, cluster_id: cluster.join(",") }
}

/// The members that have been seen; those that have not are missing.
fn members(
    request: &UpdateRequested,
    survey: &Survey,
    observed: &Observed<'_>,
    now: Moment,
    missing: &mut Vec<String>,
) -> Vec<PlannedMember> {
    let mut members = Vec::new();
    for (node, m) in &survey.members {
        let Some(own) = last_word(observed, node, &m.address, now) else {
            missing.push(format!("{node} has not answered"));
            continue;
        };
        let role = if own.state == NodeState::Leader {
            Role::Leader
        } else if own.is_read_only_replica {
            Role::ReadOnlyReplica
        } else {
            Role::Follower
        };
        let change = request.strategy.change(request, node, &m.instance, &m.instance.instance_type);
        members.push(PlannedMember {
            node: node.clone(),
            address: m.address.clone(),
            role,
            instance: m.instance.id.clone(),
            zone: m.instance.zone.clone(),
            old_type: m.instance.instance_type.clone(),
            new_type: change.new_type,
            priority: own.priority,
            version: own.version.clone(),
            instance_state: Some(m.instance.state),
            stale_fence: None,
        });
    }
    members
}

/// A member's own entry; one that is down is known by the others' last word of it, once it has been silent for a while.
fn last_word<'a>(
    observed: &'a Observed<'_>,
    node: &NodeName,
    address: &Address,
    now: Moment,
) -> Option<&'a MemberEntry> {
    let track = observed.watch.node(node)?;
    let by_others = || {
        let silent = track.silent_since.is_some_and(|since| now.since(since) > SILENT_FOR);
        let views = observed.watch.nodes().filter_map(|(_, t)| t.fresh_view(now));
        silent.then(|| views.filter_map(|v| v.member(address)).find(|e| e.state != NodeState::Manager)).flatten()
    };
    track.own(now).or_else(by_others)
}

/// Order of roles: replicas never endanger the quorum, the leader costs an election.
pub fn rank(role: Role) -> u8 {
    match role {
        Role::ReadOnlyReplica => 0,
        Role::Follower => 1,
        Role::Leader => 2,
    }
}

fn order(request: &UpdateRequested, members: &[PlannedMember]) -> Vec<NodeName> {
    let mut order: Vec<&PlannedMember> = members.iter().filter(|m| chosen(request, &m.node)).collect();
    order.sort_by_key(|m| (rank(m.role), m.node.clone()));
    order.into_iter().map(|m| m.node.clone()).collect()
}

fn steps(scene: &Scene<'_>) -> Vec<Step> {
    let predicted = exposure(scene.survey, &scene.order);
    let step = |node: &NodeName| {
        let planned = scene.planned(node)?;
        let instance = &scene.survey.members.get(node)?.instance;
        let already = scene.request.strategy.change(scene.request, node, instance, &planned.old_type).already;
        let leads = planned.role == Role::Leader && scene.voters.is_some_and(|v| v.0 > 1);
        Some(Step {
            node: node.clone(),
            elections: u32::from(leads && already.is_none()),
            out_of_service: if already.is_some() { Some(0.0) } else { predicted.get(node).copied() },
            already,
        })
    };
    scene.order.iter().filter_map(step).collect()
}

fn request_checks(scene: &Scene<'_>) -> Vec<PlannedCheck> {
    let request = scene.request;
    let mut reasons = Vec::new();
    let resumed = request.resumes.iter().flatten();
    for r in resumed.clone().filter(|r| r.done) {
        let now = scene.planned(&r.node).map(|m| m.priority);
        if let (Some(now), Some(was)) = (now, r.original_priority)
            && now != was
        {
            reasons.push(Reason {
                code: "priorityLeftLowered".into(),
                found: format!("{} has priority {now}, is said to be done, and had priority {was}", r.node),
                wanted: "the priority it had".into(),
                remedy: format!("set it to {was} (POST /admin/node/priority/{was}), or mark the node as not done"),
            });
        }
    }
    let mut named: Vec<&NodeName> = request.nodes.iter().flatten().chain(resumed.map(|r| &r.node)).collect();
    named.sort();
    named.dedup();
    let known = &scene.survey.members;
    // Nobody is unknown as long as nobody has been found.
    for node in named.into_iter().filter(|n| !known.is_empty() && !known.contains_key(*n)) {
        reasons.push(Reason {
            code: "unknownNode".into(),
            found: node.to_string(),
            wanted: format!("one of {}", known.keys().map(NodeName::as_str).collect::<Vec<_>>().join(", ")),
            remedy: "correct the name".into(),
        });
    }
    reasons.iter().map(refused).collect()
}

/// A reason of a check that is found out elsewhere, with what the catalogue says of it.
fn reason_of(code: &str) -> Reason {
    let known = catalogue::find(code);
    Reason {
        code: code.into(),
        found: String::new(),
        wanted: known.map(|c| c.wanted).unwrap_or_default().into(),
        remedy: known.map(|c| c.remedy).unwrap_or_default().into(),
    }
}

fn refused(reason: &Reason) -> PlannedCheck {
    PlannedCheck {
        code: reason.code.clone(),
        found: reason.found.clone(),
        outcome: Some(CheckOutcome::Failed),
        severity: Some(Severity::Refuse),
        wanted: Some(reason.wanted.clone()),
        remedy: Some(reason.remedy.clone()),
        ..PlannedCheck::default()
    }
}

fn as_reason(check: &PlannedCheck) -> Option<Reason> {
    let refuses = check.outcome == Some(CheckOutcome::Failed)
        && check.severity == Some(Severity::Refuse)
        && check.waived_by.is_none();
    refuses.then(|| Reason {
        code: check.code.clone(),
        found: check.found.clone(),
        wanted: check.wanted.clone().unwrap_or_default(),
        remedy: check.remedy.clone().unwrap_or_default(),
    })
}

fn waive(check: &mut PlannedCheck, waivers: &[Waiver], wall: jiff::Timestamp) {
    if check.outcome == Some(CheckOutcome::Passed) {
        return;
    }
    // Whatever a stream says: what may not be waived is not.
    let waivable = catalogue::find(&check.code).is_some_and(|c| c.waivable);
    let mut covering = waivers.iter().filter(|w| w.covers(&check.code, check.node.as_ref(), wall));
    if let Some(waiver) = covering.next_back().filter(|_| waivable) {
        check.waived_by = Some(waiver.by.clone().unwrap_or_else(|| "somebody unnamed".into()));
        check.why = waiver.why.clone();
        check.until = waiver.until;
    }
}

/// Makes one check, of the cluster or of each node.
fn look(check: &Check, scene: &Scene<'_>, into: &mut Vec<PlannedCheck>, missing: &mut Vec<String>) {
    let found: Vec<(Option<&NodeName>, Verdict)> = match check.find {
        Find::Elsewhere => return,
        Find::Survey(_) if scene.survey.members.is_empty() => return,
        Find::Survey(passed) => vec![(None, Verdict::Passed(passed.into()))],
        Find::Cluster(find) => vec![(None, find(scene))],
        Find::Member(find) => each_node(scene, find, |_| true),
        Find::Node(find) => each_node(scene, find, |n| n.to_be_done),
    };
    let mut passed: BTreeMap<String, Vec<&NodeName>> = BTreeMap::new();
    for (node, verdict) in found {
        let (outcome, severity, text) = match verdict {
            Verdict::NotApplicable => continue,
            Verdict::Pending(what) => {
                missing.push(what);
                continue;
            }
            Verdict::Passed(text) => {
                passed.entry(text).or_default().extend(node);
                continue;
            }
            Verdict::Unknown(text) => (CheckOutcome::Unknown, check.severity.max(Severity::Warn), text),
            Verdict::Warned(text) => (CheckOutcome::Failed, check.severity.max(Severity::Warn), text),
            Verdict::Failed(text) => (CheckOutcome::Failed, check.severity, text),
        };
        into.push(PlannedCheck {
            code: check.code.into(),
            found: text,
            outcome: Some(outcome),
            severity: Some(severity),
            node: node.cloned(),
            wanted: Some(check.wanted.into()),
            remedy: Some(check.remedy.into()),
            ..PlannedCheck::default()
        });
    }
    if !passed.is_empty() {
        into.push(PlannedCheck {
            code: check.code.into(),
            found: told(&passed),
            outcome: Some(CheckOutcome::Passed),
            severity: Some(check.severity),
            ..PlannedCheck::default()
        });
    }
}

/// What passed, said once for all nodes of which the same is said.
fn told(passed: &BTreeMap<String, Vec<&NodeName>>) -> String {
    let texts = passed.iter().map(|(text, nodes)| {
        let names: Vec<&str> = nodes.iter().map(|n| n.as_str()).collect();
        if names.is_empty() { text.clone() } else { format!("{}: {text}", names.join(", ")) }
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn each_node<'a>(
    scene: &'a Scene<'_>,
    find: fn(&Scene<'_>, &OneNode<'_>) -> Verdict,
    keep: impl Fn(&OneNode<'_>) -> bool,
) -> Vec<(Option<&'a NodeName>, Verdict)> {
    let nodes = scene.survey.members.iter().map(|(name, member)| {
        let instance = &member.instance;
        let change = scene.request.strategy.change(scene.request, name, instance, &instance.instance_type);
        let new_types: Vec<InstanceType> =
            change.return_types.into_iter().filter(|t| *t != instance.instance_type).collect();
        OneNode { name, member, instance, to_be_done: to_be_done(scene.request, name, instance), new_types }
    });
    nodes.filter(keep).map(|node| (Some(node.name), find(scene, &node))).collect()
}
