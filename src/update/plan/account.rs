//! Rights and quotas of the account.

use super::check::{Scene, Verdict, to_be_done};
use crate::domain::ids::InstanceType;
use crate::domain::inspection::{Right, Verb};
use crate::update::event::OnSilentNode;

fn right(scene: &Scene<'_>, verb: Verb) -> Verdict {
    if scene.survey.members.iter().all(|(node, m)| !to_be_done(scene.request, node, &m.instance)) {
        return Verdict::NotApplicable;
    }
    match scene.survey.inspection.rights.get(&verb) {
        None => Verdict::Unknown(format!("{verb} was not tried")),
        Some(Right::Allowed) => Verdict::Passed(format!("a dry run of {verb} is allowed")),
        Some(Right::Denied(why)) => Verdict::Failed(why.clone()),
        Some(Right::Unknown(error)) => scene.unanswered(error),
    }
}

pub(super) fn stop_denied(scene: &Scene<'_>) -> Verdict {
    right(scene, Verb::Stop)
}

pub(super) fn start_denied(scene: &Scene<'_>) -> Verdict {
    right(scene, Verb::Start)
}

pub(super) fn modify_denied(scene: &Scene<'_>) -> Verdict {
    let changes = scene.members.iter().any(|m| scene.order.contains(&m.node) && m.old_type != m.new_type);
    if changes { right(scene, Verb::Modify) } else { Verdict::NotApplicable }
}

pub(super) fn reboot_denied(scene: &Scene<'_>) -> Verdict {
    match scene.request.on_silent_node {
        Some(OnSilentNode::Reboot) => right(scene, Verb::Reboot),
        Some(OnSilentNode::Hold) | None => Verdict::NotApplicable,
    }
}

pub(super) fn tag_denied(scene: &Scene<'_>) -> Verdict {
    if !scene.observed.policy.fence {
        return Verdict::NotApplicable;
    }
    Verdict::worst([right(scene, Verb::Tag), right(scene, Verb::Untag)])
}

/// The quota of running on-demand instances against which a type counts, by the letters of its family: most share one, G and VT share one,
/// and each of the others has its own.
fn quota(t: &InstanceType) -> &str {
    let name = t.as_str();
    let letters = name.find(|c: char| !c.is_ascii_alphabetic()).map_or(name, |end| &name[..end]);
    match letters {
        "a" | "c" | "d" | "h" | "i" | "im" | "is" | "m" | "r" | "t" | "z" => "standard",
        "g" | "vt" => "g",
        other => other,
    }
}

/// The quota itself is a matter of another service than EC2; what it must leave room for can be said.
pub(super) fn vcpu_quota(scene: &Scene<'_>) -> Verdict {
    let mut more: u64 = 0;
    for node in scene.order.iter().filter_map(|n| scene.planned(n)) {
        let Some(member) = scene.survey.members.get(&node.node) else { continue };
        let before = scene.present_type(&member.instance).and_then(|t| t.details.vcpus);
        let change = scene.request.strategy.change(scene.request, &node.node, &member.instance, &node.old_type);
        let others = change.return_types.iter().filter(|t| **t != node.old_type);
        let mut most: u64 = 0;
        for info in others.filter_map(|t| scene.survey.types.get(t).and_then(Option::as_ref)) {
            let wanted = &info.instance_type;
            if quota(wanted) != quota(&node.old_type) {
                return Verdict::Unknown(format!(
                    "{wanted} counts against another quota than {}, and the quota cannot be asked of EC2",
                    node.old_type
                ));
            }
            let (Some(before), Some(after)) = (before, info.details.vcpus) else {
                return Verdict::Unknown(format!("EC2 does not say the vCPUs of {} and {wanted}", node.old_type));
            };
            most = most.max(u64::from(after.saturating_sub(before)));
        }
        more += most;
    }
    if more == 0 {
        Verdict::Passed("no more vCPUs than now, of the same quota".into())
    } else {
        Verdict::Unknown(format!("up to {more} vCPUs more than now, and the quota cannot be asked of EC2"))
    }
}
