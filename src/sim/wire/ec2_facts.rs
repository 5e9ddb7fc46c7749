//! EC2's answers about attributes, events, volumes and what types can do.

use std::net::IpAddr;

use super::ec2::{Parameters, element, fault, paged, text};
use crate::domain::ids::InstanceId;
use crate::domain::instance::{Instance, RESERVED_ONLY, TypeDetails, UEFI_PREFERRED};
use crate::sim::model::Ec2Fault;
use crate::sim::world::World;

fn of(tag: &str, inside: Option<impl ToString>) -> String {
    inside.map(|value| text(tag, &value.to_string())).unwrap_or_default()
}

fn items<'a>(values: impl IntoIterator<Item = &'a String>) -> String {
    values.into_iter().map(|v| text("item", v)).collect()
}

pub(super) fn instance_attribute(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let missing = |name: &str| fault("MissingParameter", format!("The request must contain the parameter {name}"));
    let id = InstanceId::from(parameters.get("InstanceId").ok_or_else(|| missing("instanceId"))?);
    let attribute = parameters.get("Attribute").ok_or_else(|| missing("attribute"))?;
    let value = world.instance_attribute(&id, attribute)?;
    Ok(text("instanceId", &id.0) + &element(attribute, &text("value", &value)))
}

pub(super) fn instance_status(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let all = parameters.flag("IncludeAllInstances");
    let instances = world.describe_instances(&parameters.instances()?)?;
    let ids: Vec<InstanceId> = instances.iter().map(|i| i.id.clone()).collect();
    let mut set = String::new();
    for (instance, (id, events)) in instances.iter().zip(world.scheduled_events(&ids)?) {
        if !all && instance.state != crate::domain::instance::InstanceState::Running {
            continue;
        }
        let mut list = String::new();
        for e in events {
            let what = text("code", &e.code) + &text("description", &e.description) + &of("notBefore", e.not_before);
            list += &element("item", &what);
        }
        let what = text("instanceId", &id.0)
            + &element("instanceState", &super::ec2::state(instance.state))
            + &element("eventsSet", &list);
        set += &element("item", &what);
    }
    Ok(element("instanceStatusSet", &set))
}

pub(super) fn volumes(world: &mut World, parameters: &Parameters) -> Result<String, Ec2Fault> {
    let filters = parameters.filters();
    let [(name, ids)] = filters.as_slice() else {
        return Err(fault("InvalidParameterValue", "this EC2 describes volumes by one filter"));
    };
    if name != "attachment.instance-id" {
        return Err(fault("InvalidParameterValue", format!("The filter '{name}' is invalid")));
    }
    let ids: Vec<InstanceId> = ids.iter().cloned().map(InstanceId).collect();
    let found = world.volumes(&ids)?;
    let (page, next) = paged(&found, parameters)?;
    let mut set = String::new();
    for v in page {
        let attachment = text("volumeId", &v.id) + &text("instanceId", &v.instance.0) + &text("status", "attached");
        let what = text("volumeId", &v.id)
            + &text("status", "in-use")
            + &text("volumeType", "gp3")
            + &of("iops", v.iops)
            + &of("throughput", v.throughput)
            + &text("encrypted", &v.kms_key.is_some().to_string())
            + &of("kmsKeyId", v.kms_key.as_ref())
            + &element("attachmentSet", &element("item", &attachment));
        set += &element("item", &what);
    }
    Ok(element("volumeSet", &set) + &next)
}

/// What `DescribeInstances` says beside what every caller asks for. The placement is told by [`placement`].
pub(super) fn instance_details(i: &Instance) -> String {
    let d = &i.details;
    let started_with = d.boot_mode.as_ref().map(|m| if m == UEFI_PREFERRED { "uefi" } else { m });
    let mut xml = of("virtualizationType", d.virtualization.as_ref())
        + &of("enaSupport", d.ena)
        + &of("ebsOptimized", d.ebs_optimized)
        + &element("cpuOptions", &(of("coreCount", d.cores) + &of("threadsPerCore", d.threads_per_core)))
        + &of("bootMode", d.boot_mode.as_ref())
        + &of("currentInstanceBootMode", started_with)
        + &of("ipAddress", d.public_ip)
        + &of("dnsName", d.public_dns.as_ref());
    let mut mappings = String::new();
    for id in &d.volumes {
        let ebs = element("ebs", &(text("volumeId", id) + &text("status", "attached")));
        mappings += &element("item", &(text("deviceName", "/dev/xvda") + &ebs));
    }
    xml += &element("blockDeviceMapping", &mappings);
    if let Some(target) = &d.capacity_reservation {
        let what = if target == RESERVED_ONLY {
            text("capacityReservationPreference", target)
        } else {
            element("capacityReservationTarget", &text("capacityReservationId", target))
        };
        xml += &element("capacityReservationSpecification", &what);
    }
    let mut interfaces = String::new();
    for n in 0..d.interfaces {
        let mut interface = String::new();
        // The first has the addresses.
        if n == 0 {
            let (mut v4, mut v6) = (String::new(), String::new());
            for ip in i.addresses() {
                let primary = text("primary", &(Some(ip) == i.private_ip).to_string());
                match ip {
                    IpAddr::V4(ip) => v4 += &element("item", &(text("privateIpAddress", &ip.to_string()) + &primary)),
                    IpAddr::V6(ip) => v6 += &element("item", &text("ipv6Address", &ip.to_string())),
                }
            }
            interface += &of("privateIpAddress", i.private_ip);
            interface += &(element("privateIpAddressesSet", &v4) + &element("ipv6AddressesSet", &v6));
        }
        if let Some(ip) = d.public_ip.filter(|_| n == 0) {
            let owner = if d.elastic_ip { super::ec2::OWNER } else { "amazon" };
            interface += &element("association", &(text("publicIp", &ip.to_string()) + &text("ipOwnerId", owner)));
        }
        interfaces += &element("item", &interface);
    }
    xml + &element("networkInterfaceSet", &interfaces)
}

pub(super) fn placement(i: &Instance) -> String {
    let d = &i.details;
    let inside = of("availabilityZone", i.zone.as_ref())
        + &text("groupName", d.placement_group.as_deref().unwrap_or_default())
        + &of("tenancy", d.tenancy.as_ref());
    element("placement", &inside)
}

pub(super) fn type_details(d: &TypeDetails) -> String {
    let mut xml = of("hypervisor", d.hypervisor.as_ref())
        + &of("bareMetal", d.bare_metal)
        + &element("supportedVirtualizationTypes", &items(&d.virtualization))
        + &element("supportedBootModes", &items(&d.boot_modes))
        + &of("burstablePerformanceSupported", d.burstable)
        + &of("instanceStorageSupported", d.instance_storage);
    let processors =
        of("defaultVCpus", d.vcpus) + &of("defaultCores", d.cores) + &of("defaultThreadsPerCore", d.threads_per_core);
    xml += &element("vCpuInfo", &processors);
    xml += &element("memoryInfo", &of("sizeInMiB", d.memory_mib));
    xml += &element(
        "networkInfo",
        &(of("maximumNetworkInterfaces", d.max_interfaces) + &of("enaSupport", d.ena.as_ref())),
    );
    let limit = if d.shared_attachments { "shared" } else { "dedicated" };
    let sustains = of("baselineIops", d.baseline_iops) + &of("baselineThroughputInMBps", d.baseline_throughput);
    let ebs = of("ebsOptimizedSupport", d.ebs_optimized.as_ref())
        + &element("ebsOptimizedInfo", &sustains)
        + &of("maximumEbsAttachments", d.max_volumes)
        + &text("attachmentLimitType", limit);
    xml + &element("ebsInfo", &ebs)
}
