//! The wanted types: whether each instance will start with them, and serve as well as before.

use super::check::{OneNode, Scene, Verdict};
use crate::domain::instance::TypeInfo;

pub(super) fn unknown_type(scene: &Scene<'_>) -> Verdict {
    let (known, unknown): (Vec<_>, Vec<_>) = scene.survey.types.iter().partition(|(_, info)| info.is_some());
    let names = |of: &[(&crate::domain::ids::InstanceType, &Option<TypeInfo>)]| {
        of.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>().join(", ")
    };
    match (known.is_empty(), unknown.is_empty()) {
        (true, true) => Verdict::NotApplicable,
        (_, false) => Verdict::Failed(format!("EC2 knows no type {} here", names(&unknown))),
        (false, true) => Verdict::Passed(names(&known)),
    }
}

/// Whether a type is offered in the zone of a node.
fn offered(node: &OneNode<'_>, t: &TypeInfo) -> Verdict {
    let Some(zone) = &node.instance.zone else {
        return Verdict::Unknown(format!("EC2 does not say in which zone {} is", node.name));
    };
    if t.zones.is_empty() {
        Verdict::Unknown(format!("EC2 does not say where {} is offered", t.instance_type))
    } else if t.zones.contains(zone) {
        Verdict::Passed(format!("{} in {zone}", t.instance_type))
    } else {
        Verdict::Failed(format!("{} is not offered in {zone}, where {} is", t.instance_type, node.name))
    }
}

pub(super) fn not_offered(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    node.each_type(scene, |t| offered(node, t))
}

/// The type it has is what an instance is started with in the end, and all that one which is only restarted is started with.
pub(super) fn present_not_offered(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let present = &node.instance.instance_type;
    match scene.offered_as_present(node.instance) {
        None => Verdict::Unknown(format!("EC2 did not answer what it offers as {present}, which {} has", node.name)),
        Some(None) => Verdict::Failed(format!("EC2 offers no {present} any more, which {} has", node.name)),
        Some(Some(t)) => offered(node, t),
    }
}

/// A property of the instance that the type must list.
fn must_list(
    scene: &Scene<'_>,
    node: &OneNode<'_>,
    what: &str,
    has: Option<&str>,
    supported: impl Fn(&TypeInfo) -> &[String],
) -> Verdict {
    node.each_type(scene, |t| {
        let list = supported(t);
        match has {
            _ if list.is_empty() => Verdict::Unknown(format!("EC2 does not say the {what} of {}", t.instance_type)),
            None => Verdict::Unknown(format!("EC2 does not say the {what} of {}", node.instance.id)),
            Some(has) if list.iter().any(|s| s == has) => Verdict::Passed(has.to_owned()),
            Some(has) => Verdict::Failed(format!("{} is {}, {} is {has}", t.instance_type, list.join("/"), node.name)),
        }
    })
}

pub(super) fn architecture(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    must_list(scene, node, "architecture", node.instance.architecture.as_deref(), |t| &t.architectures)
}

pub(super) fn virtualization(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    must_list(scene, node, "virtualization", node.instance.details.virtualization.as_deref(), |t| {
        &t.details.virtualization
    })
}

pub(super) fn boot_mode(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let mode = node.instance.details.boot_mode.as_deref();
    // An image that only prefers UEFI boots either way; one that says nothing boots as x86 always did.
    if mode == Some("uefi-preferred") {
        return node.each_type(scene, |_| Verdict::Passed("uefi-preferred".into()));
    }
    let arm = node.instance.architecture.as_deref() == Some("arm64");
    let mode = mode.or(Some(if arm { "uefi" } else { "legacy-bios" }));
    must_list(scene, node, "boot modes", mode, |t| &t.details.boot_modes)
}

pub(super) fn ena(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    node.each_type(scene, |t| match (t.details.ena.as_deref(), node.instance.details.ena) {
        (None, _) => Verdict::Unknown(format!("EC2 does not say whether {} needs ENA", t.instance_type)),
        (Some("required"), Some(true)) => Verdict::Passed("enabled".into()),
        (Some("required"), Some(false)) => {
            Verdict::Failed(format!("{} needs ENA, {} of {} has it not", t.instance_type, node.instance.id, node.name))
        }
        (Some("required"), None) => {
            Verdict::Unknown(format!("EC2 does not say whether ENA is enabled for {}", node.instance.id))
        }
        (Some(_), _) => Verdict::Passed(format!("{} needs none", t.instance_type)),
    })
}

pub(super) fn hypervisor(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let present = scene.present_type(node.instance);
    node.each_type(scene, |t| {
        let from = present.and_then(|p| p.details.hypervisor.as_deref());
        match (from, t.details.hypervisor.as_deref()) {
            (Some("xen"), Some("nitro")) => Verdict::Failed(format!(
                "{} is xen, {} is nitro: disks of {} change their names",
                node.instance.instance_type, t.instance_type, node.name
            )),
            (Some(from), Some(to)) => Verdict::Passed(format!("{from} to {to}")),
            // Bare metal has none, and names its disks as nitro does.
            (None, Some(_)) if present.is_some() => Verdict::Passed("from bare metal".into()),
            (_, None) | (None, _) => Verdict::Unknown(format!(
                "EC2 does not say the hypervisors of {} and {}",
                node.instance.instance_type, t.instance_type
            )),
        }
    })
}

pub(super) fn too_many_interfaces(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let has = node.instance.details.interfaces;
    node.each_type(scene, |t| match t.details.max_interfaces {
        None => Verdict::Unknown(format!("EC2 does not say how many interfaces {} takes", t.instance_type)),
        Some(most) if has > most => {
            Verdict::Failed(format!("{} has {has} network interfaces, {} takes {most}", node.name, t.instance_type))
        }
        Some(most) => Verdict::Passed(format!("{has} of {most}")),
    })
}

pub(super) fn too_many_volumes(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let details = &node.instance.details;
    let volumes = u32::try_from(details.volumes.len()).unwrap_or(u32::MAX);
    node.each_type(scene, |t| {
        let has = if t.details.shared_attachments { volumes.saturating_add(details.interfaces) } else { volumes };
        match t.details.max_volumes {
            None => Verdict::Unknown(format!("EC2 does not say how many volumes {} takes", t.instance_type)),
            Some(most) if has > most => {
                Verdict::Failed(format!("{} has {has} attachments, {} takes {most}", node.name, t.instance_type))
            }
            Some(most) => Verdict::Passed(format!("{has} of {most}")),
        }
    })
}

pub(super) fn ebs_iops(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let volumes = match &scene.survey.inspection.volumes {
        None => return Verdict::Unknown(format!("the volumes of {} were not asked about", node.name)),
        Some(Err(error)) => return scene.unanswered(error),
        Some(Ok(volumes)) => volumes,
    };
    let provisioned: u32 =
        volumes.iter().filter(|v| v.instance == node.instance.id).filter_map(|v| v.iops).fold(0, u32::saturating_add);
    node.each_type(scene, |t| match t.details.baseline_iops {
        None => Verdict::Unknown(format!("EC2 does not say how many IOPS {} sustains", t.instance_type)),
        Some(baseline) if baseline < provisioned => Verdict::Failed(format!(
            "the volumes of {} are provisioned with {provisioned} IOPS, {} sustains {baseline}",
            node.name, t.instance_type
        )),
        Some(baseline) => Verdict::Passed(format!("{provisioned} of {baseline}")),
    })
}

pub(super) fn burstable(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    node.each_type(scene, |t| match t.details.burstable {
        None => Verdict::Unknown(format!("EC2 does not say whether {} is burstable", t.instance_type)),
        Some(true) => Verdict::Failed(format!("{} earns and spends processor credits", t.instance_type)),
        Some(false) => Verdict::Passed("no".into()),
    })
}

pub(super) fn memory_shrinks(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let before = scene.present_type(node.instance).and_then(|t| t.details.memory_mib);
    node.each_type(scene, |t| match (before, t.details.memory_mib) {
        (Some(before), Some(after)) => {
            let found = format!("{before} MiB to {after} MiB");
            Verdict::failed_if(after < before, found)
        }
        (None, _) | (_, None) => Verdict::Unknown(format!(
            "EC2 does not say the memory of {} and {}",
            node.instance.instance_type, t.instance_type
        )),
    })
}
