//! From a request and a survey to a plan, or to the reasons why not.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::event::*;
use super::observed::{Observed, Survey};
use super::window;
use crate::domain::cluster::NodeState;
use crate::domain::ids::{InstanceType, NodeName};
use crate::domain::time::Moment;

/// What is wrong with the request itself, whatever the cluster.
pub fn check_request(request: &UpdateRequested, allowed_types: &[String]) -> Vec<Reason> {
    let mut reasons = request.strategy.check(request);
    let wanted: Vec<&InstanceType> =
        request.target_instance_type.iter().chain(request.fallback_types.iter().flatten()).collect();
    for t in wanted {
        if !allowed_types.is_empty() && !allowed_types.iter().any(|pattern| matches_pattern(pattern, t.as_str())) {
            reasons.push(Reason {
                code: "typeNotAllowed".into(),
                found: t.to_string(),
                wanted: format!("a type matching one of {}", allowed_types.join(", ")),
                remedy: "ask for an allowed type, or widen allowed_types of the cluster in the worker's configuration"
                    .into(),
            });
        }
    }
    let mut unsupported = |set: bool, field: &str, instead: &str| {
        if set {
            reasons.push(Reason {
                code: "unsupportedField".into(),
                found: field.to_owned(),
                wanted: "a request this worker can obey to the letter".into(),
                remedy: instead.to_owned(),
            });
        }
    };
    unsupported(request.plan_digest.is_some(), "planDigest", "leave it out");
    unsupported(request.replicas_together == Some(true), "replicasTogether", "leave it out: replicas go one at a time");
    reasons.extend(request.window.iter().flat_map(window::check));
    let spent = request.resumes.iter().flatten().map(|r| ("spentSeconds", r.spent_seconds));
    let given =
        [("nodeTimeoutSeconds", request.node_timeout_seconds), ("dwellSeconds", request.dwell_seconds)].into_iter();
    for (name, value) in given.chain(spent) {
        if value.is_some_and(|v| !(0.0..=1e7).contains(&v)) {
            reasons.push(Reason {
                code: "badNumber".into(),
                found: format!("{name} {}", value.unwrap_or_default()),
                wanted: "seconds, from 0 to 10000000".into(),
                remedy: "append a corrected UpdateRequested to a fresh stream".into(),
            });
        }
    }
    reasons
}

/// Whether a type matches a pattern in which `*` stands for anything.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            rest.is_empty()
                || (0..=tail.len()).filter(|i| tail.is_char_boundary(*i)).any(|i| matches_pattern(rest, &tail[i..]))
        }),
    }
}

/// A member that did not answer for this long while the survey was made is down, and not just slow.
const SILENT_LONG_ENOUGH: Duration = Duration::from_secs(10);

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

/// Plans.
pub fn plan(request: &UpdateRequested, survey: &Survey, observed: &Observed<'_>, now: Moment) -> Planning {
    let mut reasons = survey.reasons.clone();
    let mut missing = survey.missing.clone();

    for (t, info) in &survey.types {
        match info {
            None => reasons.push(Reason {
                code: "unknownInstanceType".into(),
                found: format!("EC2 knows no type {t} here"),
                wanted: "a type that EC2 offers in the cluster's region".into(),
                remedy: "correct the name; `aws ec2 describe-instance-type-offerings` lists them".into(),
            }),
            Some(info) => {
                for (node, m) in &survey.members {
                    if let Some(zone) =
                        m.instance.zone.as_ref().filter(|z| !info.zones.is_empty() && !info.zones.contains(z))
                    {
                        reasons.push(Reason {
                            code: "typeNotOffered".into(),
                            found: format!("{t} is not offered in {zone}, where {node} is"),
                            wanted: "a type offered in every node's zone".into(),
                            remedy: "choose another type".into(),
                        });
                    }
                    if let Some(arch) = m.instance.architecture.as_ref().filter(|a| !info.architectures.contains(a)) {
                        reasons.push(Reason {
                            code: "architectureDiffers".into(),
                            found: format!("{t} is {}, {node} is {arch}", info.architectures.join("/")),
                            wanted: "a type of the same architecture".into(),
                            remedy: "choose another type: an instance cannot change its architecture".into(),
                        });
                    }
                }
            }
        }
    }
    for (node, m) in &survey.members {
        let mut refuse = |bad: bool, code: &str, found: String, wanted: &str, remedy: &str| {
            if bad {
                reasons.push(Reason { code: code.into(), found, wanted: wanted.into(), remedy: remedy.into() });
            }
        };
        let i = &m.instance;
        refuse(
            m.is_own_machine,
            "ownMachine",
            format!("{node} runs on {}, as this worker does", i.id),
            "a worker that outlives every stop",
            "run the worker on a machine of its own",
        );
        refuse(
            i.root_device.as_deref() == Some("instance-store"),
            "instanceStoreRoot",
            format!("{} of {node} has an instance-store root", i.id),
            "an EBS root: others cannot be stopped",
            "replace the instance instead",
        );
        refuse(
            i.lifecycle.as_deref().is_some_and(|l| l == "spot"),
            "spotInstance",
            format!("{} of {node} is a Spot instance", i.id),
            "an on-demand instance: the type of others cannot be changed",
            "replace the instance instead",
        );
        refuse(
            i.hibernation,
            "hibernation",
            format!("{} of {node} has hibernation configured", i.id),
            "an instance whose type can be changed",
            "replace the instance instead",
        );
        refuse(
            i.auto_scaling_group.is_some(),
            "autoScalingGroup",
            format!("{} of {node} belongs to {}", i.id, i.auto_scaling_group.clone().unwrap_or_default()),
            "an instance that nobody replaces when it is stopped",
            "detach it from the group first",
        );
    }
    let Some(voters) = survey.voters else {
        missing.push("the number of voters".into());
        return if reasons.is_empty() { Planning::Incomplete(missing) } else { Planning::Refused(reasons) };
    };

    let mut members = Vec::new();
    for (node, m) in &survey.members {
        let track = observed.watch.node(node);
        let by_others = || {
            // A member that is down is known by the others' last word of it, once it has been silent for a while.
            let silent = track.and_then(|t| t.silent_since).is_some_and(|since| now.since(since) > SILENT_LONG_ENOUGH);
            let views = observed.watch.nodes().filter_map(|(_, t)| t.fresh_view(now));
            silent.then(|| views.filter_map(|v| v.member(&m.address)).find(|e| e.state != NodeState::Manager)).flatten()
        };
        let Some(own) = track.and_then(|t| t.own(now)).or_else(by_others) else {
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
        });
    }
    let voting = members.iter().filter(|m| m.role != Role::ReadOnlyReplica).count();
    if missing.is_empty() && voting != voters.0 as usize {
        reasons.push(Reason {
            code: "votersDiffer".into(),
            found: format!("{voting} voting members"),
            wanted: format!("{} as configured", voters.0),
            remedy: "bring the missing voters back, or correct `voters` of the cluster in the configuration".into(),
        });
    }
    if voters.0 < 3 && request.accept_downtime != Some(true) {
        reasons.push(Reason {
            code: "tooFewVoters".into(),
            found: format!("{} voters", voters.0),
            wanted: "three or more: fewer cannot lose one without downtime".into(),
            remedy: "set acceptDowntime to accept the downtime".into(),
        });
    }
    let resumed = request.resumes.iter().flatten();
    for r in resumed.clone().filter(|r| r.done) {
        let now = members.iter().find(|m| m.node == r.node).map(|m| m.priority);
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
    for node in named.into_iter().filter(|n| !survey.members.contains_key(*n)) {
        reasons.push(Reason {
            code: "unknownNode".into(),
            found: node.to_string(),
            wanted: format!("one of {}", survey.members.keys().map(NodeName::as_str).collect::<Vec<_>>().join(", ")),
            remedy: "correct the name".into(),
        });
    }
    if !reasons.is_empty() {
        return Planning::Refused(reasons);
    }
    if !missing.is_empty() {
        return Planning::Incomplete(missing);
    }

    let chosen = |m: &&PlannedMember| request.nodes.as_ref().is_none_or(|nodes| nodes.contains(&m.node));
    let mut order: Vec<&PlannedMember> = members.iter().filter(chosen).collect();
    order.sort_by_key(|m| (rank(m.role), m.node.clone()));
    let order: Vec<NodeName> = order.into_iter().map(|m| m.node.clone()).collect();
    let mut cluster: Vec<String> = members.iter().map(|m| m.address.to_string()).collect();
    cluster.sort();
    let checks = vec![
        PlannedCheck { code: "voters".into(), found: voters.0.to_string() },
        PlannedCheck { code: "members".into(), found: members.len().to_string() },
        PlannedCheck { code: "instances".into(), found: "exactly one for each node".into() },
    ];
    let digest = digest(&members, &order);
    Planning::Ready(Box::new(UpdatePlanned { voters, members, order, checks, digest }), cluster.join(","))
}

/// Order of roles: replicas never endanger the quorum, the leader costs an election.
pub fn rank(role: Role) -> u8 {
    match role {
        Role::ReadOnlyReplica => 0,
        Role::Follower => 1,
        Role::Leader => 2,
    }
}

fn digest(members: &[PlannedMember], order: &[NodeName]) -> String {
    let mut hash = Sha256::new();
    for m in members {
        hash.update(format!("{} {} {} {} {} {}\n", m.node, m.address, m.role, m.instance, m.old_type, m.new_type));
    }
    for n in order {
        hash.update(format!("{n}\n"));
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}
