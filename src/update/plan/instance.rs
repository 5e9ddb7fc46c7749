//! The instances: whether they can be stopped, and come back with their data.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::check::{OneNode, Scene, Verdict};
use crate::domain::inspection::{Answer, Attributes};
use crate::domain::instance::{FENCE_TAG, InstanceState};

/// An event that AWS may begin within this time, beside the rests that are asked for, is as good as begun: an update of a few nodes takes
/// hours at most.
const EVENT_IS_NEAR: SignedDuration = SignedDuration::from_hours(24);

pub(super) fn instance_state(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let found = format!("{} of {} is {}", node.instance.id, node.name, node.instance.state);
    match node.instance.state {
        InstanceState::Running => Verdict::Passed("running".into()),
        // A node that is down is taken before every other.
        InstanceState::Stopped | InstanceState::Pending | InstanceState::Stopping => Verdict::Warned(found),
        InstanceState::ShuttingDown | InstanceState::Terminated | InstanceState::Unrecognized => Verdict::Failed(found),
    }
}

pub(super) fn instance_store_root(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match node.instance.root_device.as_deref() {
        None => Verdict::Unknown(format!("EC2 does not say what the root device of {} is", node.instance.id)),
        Some("instance-store") => {
            Verdict::Failed(format!("{} of {} has an instance-store root", node.instance.id, node.name))
        }
        Some(other) => Verdict::Passed(other.to_owned()),
    }
}

pub(super) fn instance_store_data(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let present = &node.instance.instance_type;
    match scene.present_type(node.instance).and_then(|t| t.details.instance_storage) {
        None => Verdict::Unknown(format!("EC2 does not say whether {present} has disks of its own")),
        Some(false) => Verdict::Passed("no disks of its own".into()),
        Some(true) => {
            Verdict::Failed(format!("{present} of {} has disks of its own, which are empty after a stop", node.name))
        }
    }
}

fn attribute<T>(
    scene: &Scene<'_>,
    node: &OneNode<'_>,
    pick: impl Fn(&Attributes) -> &Answer<T>,
    judge: impl Fn(&T) -> Verdict,
) -> Verdict {
    match scene.survey.inspection.attributes.get(&node.instance.id).map(pick) {
        None => Verdict::Unknown(format!("{} was not asked about", node.instance.id)),
        Some(Err(error)) => scene.unanswered(error),
        Some(Ok(value)) => judge(value),
    }
}

pub(super) fn stop_protection(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    attribute(
        scene,
        node,
        |a| &a.stop_protected,
        |protected| {
            let found =
                if *protected { format!("{} of {} is protected", node.instance.id, node.name) } else { "off".into() };
            Verdict::failed_if(*protected, found)
        },
    )
}

pub(super) fn terminate_on_shutdown(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    attribute(
        scene,
        node,
        |a| &a.shutdown_behavior,
        |behavior| {
            let found = if behavior == "stop" {
                behavior.clone()
            } else {
                format!("{} of {} is set to {behavior}", node.instance.id, node.name)
            };
            Verdict::failed_if(behavior != "stop", found)
        },
    )
}

pub(super) fn spot_instance(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match node.instance.lifecycle.as_deref() {
        Some("spot") => Verdict::Failed(format!("{} of {} is a Spot instance", node.instance.id, node.name)),
        Some(other) => Verdict::Passed(other.to_owned()),
        None => Verdict::Passed("on-demand".into()),
    }
}

pub(super) fn hibernation(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    if node.new_types.is_empty() {
        return Verdict::NotApplicable;
    }
    if node.instance.hibernation {
        Verdict::Failed(format!("{} of {} has hibernation configured", node.instance.id, node.name))
    } else {
        Verdict::Passed("not configured".into())
    }
}

pub(super) fn auto_scaling_group(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match &node.instance.auto_scaling_group {
        Some(group) => Verdict::Failed(format!("{} of {} belongs to {group}", node.instance.id, node.name)),
        None => Verdict::Passed("none".into()),
    }
}

/// Until when the update may go on; `None` where a window or a gate may hold it for any time. Events are read once, before the plan.
fn may_last_until(scene: &Scene<'_>) -> Option<jiff::Timestamp> {
    let request = scene.request;
    if request.window.is_some() || request.gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return None;
    }
    let begins = request.not_before.map_or(scene.observed.wall, |at| at.max(scene.observed.wall));
    let rests = request.dwell_seconds.unwrap_or(0.0) * scene.order.len() as f64;
    let lasts = SignedDuration::try_from_secs_f64(rests).ok()?.checked_add(EVENT_IS_NEAR)?;
    begins.checked_add(lasts).ok()
}

/// Of every member: what AWS does to another voter than the one in hand costs the quorum as well.
pub(super) fn scheduled_event(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let events = match &scene.survey.inspection.events {
        None => return Verdict::Unknown(format!("{} was not asked about", node.instance.id)),
        Some(Err(error)) => return scene.unanswered(error),
        Some(Ok(events)) => events.get(&node.instance.id),
    };
    // AWS keeps what is over for a week, and marks it in its words only.
    let over = |text: &str| text.starts_with("[Completed]") || text.starts_with("[Canceled]");
    let judge = |e: &crate::domain::inspection::ScheduledEvent| {
        let when = e.not_before.map_or("at a time not told".into(), |at| format!("not before {at}"));
        let left_alone = if node.to_be_done { "" } else { ", to which nothing is to be done" };
        let found = format!("{} of {}: {} {when}{left_alone}", node.instance.id, node.name, e.code);
        match (e.not_before, may_last_until(scene)) {
            (Some(at), Some(until)) if at > until => Verdict::Warned(found),
            (Some(_) | None, _) => Verdict::Failed(found),
        }
    };
    let live = events.into_iter().flatten().filter(|e| !over(&e.description)).map(judge);
    Verdict::worst(live.chain([Verdict::Passed("none".into())]))
}

pub(super) fn fence(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    if !scene.observed.policy.fence {
        return Verdict::NotApplicable;
    }
    match node.instance.fence() {
        Some(value) if node.instance.fenced_by_another(scene.observed.update) => {
            Verdict::Failed(format!("{} of {} is tagged {FENCE_TAG} = {value}", node.instance.id, node.name))
        }
        Some(_) | None => Verdict::Passed("no tag of another update".into()),
    }
}

pub(super) fn placement_group(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match &node.instance.details.placement_group {
        Some(group) => Verdict::Failed(format!("{} of {} is in {group}", node.instance.id, node.name)),
        None => Verdict::Passed("none".into()),
    }
}

pub(super) fn dedicated_host(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    match node.instance.details.tenancy.as_deref() {
        Some("host") => Verdict::Failed(format!("{} of {} runs on a dedicated host", node.instance.id, node.name)),
        Some(other) => Verdict::Passed(other.to_owned()),
        None => Verdict::Unknown(format!("EC2 does not say the tenancy of {}", node.instance.id)),
    }
}

pub(super) fn capacity_reservation(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    if node.new_types.is_empty() {
        return Verdict::NotApplicable;
    }
    match &node.instance.details.capacity_reservation {
        Some(target) => Verdict::Failed(format!("{} of {} is bound to {target}", node.instance.id, node.name)),
        None => Verdict::Passed("none".into()),
    }
}

/// Credits of T3 and later are kept for a week.
pub(super) fn credits_lost(_: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let present = &node.instance.instance_type;
    if present.as_str().starts_with("t2.") {
        Verdict::Failed(format!("{} is {present}: a stop takes the credits that it has earned", node.name))
    } else {
        Verdict::Passed("none that a stop takes".into())
    }
}

/// A change of the type sets CPU options to what the new one has, and so does the way back.
pub(super) fn cpu_options(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    if node.new_types.is_empty() {
        return Verdict::NotApplicable;
    }
    let present = &node.instance.instance_type;
    let details = &node.instance.details;
    let usual = scene.present_type(node.instance).map(|t| &t.details);
    let cores = details.cores.zip(usual.and_then(|t| t.cores));
    let threads = details.threads_per_core.zip(usual.and_then(|t| t.threads_per_core));
    match (cores, threads) {
        (Some((cores, usual_cores)), Some((threads, usual_threads))) => {
            let found = format!(
                "{} has {cores} cores with {threads} threads each, {present} by itself {usual_cores} with {usual_threads}",
                node.name
            );
            Verdict::failed_if((cores, threads) != (usual_cores, usual_threads), found)
        }
        (None, _) | (_, None) => {
            Verdict::Unknown(format!("EC2 does not say the processor cores of {} and {present}", node.instance.id))
        }
    }
}

pub(super) fn encrypted_volumes(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let volumes = match &scene.survey.inspection.volumes {
        None => return Verdict::Unknown(format!("the volumes of {} were not asked about", node.name)),
        Some(Err(error)) => return scene.unanswered(error),
        Some(Ok(volumes)) => volumes,
    };
    let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for v in volumes.iter().filter(|v| v.instance == node.instance.id) {
        if let Some(key) = &v.kms_key {
            keys.entry(key).or_default().push(&v.id);
        }
    }
    if keys.is_empty() {
        return Verdict::Passed("no encrypted volume".into());
    }
    let by_key = keys.iter().map(|(key, volumes)| format!("{} with {key}", volumes.join(" and ")));
    Verdict::Unknown(format!("volumes of {} are encrypted: {}", node.name, by_key.collect::<Vec<_>>().join(", ")))
}
