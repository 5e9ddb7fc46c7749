//! The wanted types: whether each instance will start with them, and serve as well as before.

use super::check::{OneNode, Scene, Verdict};
use crate::domain::ids::InstanceType;
use crate::domain::inspection::Volume;
use crate::domain::instance::{TypeDetails, TypeInfo, UEFI_PREFERRED};

pub(super) fn unknown_type(scene: &Scene<'_>) -> Verdict {
    let (known, unknown): (Vec<_>, Vec<_>) = scene.survey.types.iter().partition(|(_, info)| info.is_some());
    let names =
        |of: &[(&InstanceType, &Option<TypeInfo>)]| of.iter().map(|(t, _)| t.as_str()).collect::<Vec<_>>().join(", ");
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
        None => Verdict::Unknown(format!("{present} of {} was not asked about", node.name)),
        Some(Err(error)) => scene.unanswered(error),
        Some(Ok(None)) => Verdict::Failed(format!("EC2 offers no {present} any more, which {} has", node.name)),
        Some(Ok(Some(t))) => offered(node, t),
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
    if mode == Some(UEFI_PREFERRED) {
        return node.each_type(scene, |_| Verdict::Passed(UEFI_PREFERRED.into()));
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

pub(super) fn ebs_optimized(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    node.each_type(scene, |t| match (node.instance.details.ebs_optimized, t.details.ebs_optimized.as_deref()) {
        (Some(false), _) => Verdict::Passed("not set".into()),
        (Some(true), Some("unsupported")) => Verdict::Failed(format!(
            "{} of {} is set to be EBS-optimized, {} does not support it",
            node.instance.id, node.name, t.instance_type
        )),
        (_, Some(support)) if support != "unsupported" => Verdict::Passed(support.to_owned()),
        (Some(true) | None, _) => Verdict::Unknown(format!(
            "EC2 does not say whether {} is set to be EBS-optimized, or whether {} supports it",
            node.instance.id, t.instance_type
        )),
    })
}

/// As whose the disks of a type are named: bare metal has no hypervisor, and names them as nitro does.
fn names_disks_as(t: &TypeInfo) -> Option<&str> {
    let bare = || Some("nitro").filter(|_| t.details.bare_metal == Some(true));
    t.details.hypervisor.as_deref().or_else(bare)
}

/// Another hypervisor names disks otherwise, and disks of the type's own are counted among the others'.
pub(super) fn hypervisor(scene: &Scene<'_>, node: &OneNode<'_>) -> Verdict {
    let present = scene.present_type(node.instance);
    node.each_type(scene, |t| {
        let types = format!("{} and {}", node.instance.instance_type, t.instance_type);
        let own_disks = |t: &TypeInfo| t.details.instance_storage;
        match (present.and_then(names_disks_as), names_disks_as(t)) {
            (Some(from), Some(to)) if from != to => Verdict::Failed(format!(
                "{types} name disks as {from} and {to}: those of {} change their names",
                node.name
            )),
            (Some(_), Some(to)) => match (present.and_then(own_disks), own_disks(t)) {
                (Some(before), Some(after)) if before != after => Verdict::Failed(format!(
                    "one of {types} has disks of its own: names of those of {} may change",
                    node.name
                )),
                (Some(_), Some(_)) => Verdict::Passed(format!("as {to}")),
                (None, _) | (_, None) => {
                    Verdict::Unknown(format!("EC2 does not say which of {types} has disks of its own"))
                }
            },
            (None, _) | (_, None) => Verdict::Unknown(format!("EC2 does not say the hypervisors of {types}")),
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
        let shared = t.details.shared_attachments && t.details.hypervisor.as_deref() != Some("xen");
        let has = if shared { volumes.saturating_add(details.interfaces.saturating_sub(1)) } else { volumes };
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
    let sum = |of: fn(&Volume) -> Option<u32>| -> u32 {
        let mine = volumes.iter().filter(|v| v.instance == node.instance.id);
        mine.filter_map(of).fold(0, u32::saturating_add)
    };
    let (iops, throughput) = (sum(|v| v.iops), sum(|v| v.throughput));
    node.each_type(scene, |t| {
        Verdict::worst([
            sustained(scene, node, t, "IOPS", iops, |t| t.baseline_iops),
            sustained(scene, node, t, "MB/s", throughput, |t| t.baseline_throughput),
        ])
    })
}

/// Whether a type sustains what the volumes of a node are provisioned with, or at least what the present type does.
fn sustained(
    scene: &Scene<'_>,
    node: &OneNode<'_>,
    t: &TypeInfo,
    unit: &str,
    provisioned: u32,
    of: fn(&TypeDetails) -> Option<u32>,
) -> Verdict {
    let present = &node.instance.instance_type;
    let unknown = |t: &InstanceType| Verdict::Unknown(format!("EC2 does not say how many {unit} {t} sustains"));
    match (of(&t.details), scene.present_type(node.instance).and_then(|p| of(&p.details))) {
        _ if provisioned == 0 => Verdict::Passed(format!("no {unit} are provisioned")),
        (None, _) => unknown(&t.instance_type),
        (Some(after), _) if after >= provisioned => Verdict::Passed(format!("{provisioned} of {after} {unit}")),
        (Some(_), None) => unknown(present),
        (Some(after), Some(before)) => {
            let found = format!(
                "the volumes of {} are provisioned with {provisioned} {unit}, {present} sustains {before}, {} {after}",
                node.name, t.instance_type
            );
            Verdict::failed_if(after < before, found)
        }
    }
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
