//! What EC2's answers say of instances and types, in our words.

use std::collections::BTreeMap;

use aws_sdk_ec2::types;

use super::fleet::text;
use crate::domain::instance::{InstanceDetails, RESERVED_ONLY, TypeDetails, UEFI_PREFERRED};

/// Owner of addresses that a stop takes away; an Elastic IP has the account for owner.
const AMAZON: &str = "amazon";

pub(super) fn instance(found: &types::Instance) -> InstanceDetails {
    let interfaces = found.network_interfaces();
    let public_ip = text(&found.public_ip_address);
    // Another interface, or another of its addresses, may have an address of its own.
    let associations = interfaces.iter().flat_map(|i| {
        let of_addresses = i.private_ip_addresses().iter().filter_map(|a| a.association.as_ref());
        i.association.as_ref().into_iter().chain(of_addresses)
    });
    let owner = associations.filter(|a| text(&a.public_ip) == public_ip).find_map(|a| text(&a.ip_owner_id));
    let placement = found.placement.as_ref();
    let reservation = found.capacity_reservation_specification.as_ref();
    let target = reservation.and_then(|s| s.capacity_reservation_target.as_ref());
    let preference = reservation.and_then(|s| s.capacity_reservation_preference.as_ref()).map(|p| p.as_str());
    let reserved_only = || preference.filter(|p| *p == RESERVED_ONLY).map(str::to_owned);
    let of_target = |t: &types::CapacityReservationTargetResponse| {
        text(&t.capacity_reservation_id).or_else(|| text(&t.capacity_reservation_resource_group_arn))
    };
    let addresses = interfaces.iter().flat_map(|i| {
        let v4 = i.private_ip_addresses().iter().filter_map(|a| a.private_ip_address.as_deref());
        let v6 = i.ipv6_addresses().iter().filter_map(|a| a.ipv6_address.as_deref());
        i.private_ip_address.as_deref().into_iter().chain(v4).chain(v6)
    });
    let mappings = found.block_device_mappings().iter();
    let tags = found.tags().iter();
    // An image that boots either way outranks what the instance was started with, which its next type need not support.
    let of_image = found.boot_mode.as_ref().map(|m| m.as_str().to_owned());
    let current = found.current_instance_boot_mode.as_ref().map(|m| m.as_str().to_owned());
    let either = of_image.clone().filter(|m| m == UEFI_PREFERRED);
    InstanceDetails {
        virtualization: found.virtualization_type.as_ref().map(|v| v.as_str().to_owned()),
        ena: found.ena_support,
        boot_mode: either.or(current).or(of_image),
        addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
        elastic_ip: public_ip.is_some() && owner.is_some_and(|owner| owner != AMAZON),
        public_ip: public_ip.and_then(|ip| ip.parse().ok()),
        public_dns: text(&found.public_dns_name),
        interfaces: u32::try_from(interfaces.len()).unwrap_or(u32::MAX),
        ebs_optimized: found.ebs_optimized,
        cores: positive(found.cpu_options.as_ref().and_then(|c| c.core_count)),
        threads_per_core: positive(found.cpu_options.as_ref().and_then(|c| c.threads_per_core)),
        volumes: mappings.filter_map(|m| text(&m.ebs.as_ref()?.volume_id)).collect(),
        placement_group: placement.and_then(|p| text(&p.group_name)),
        tenancy: placement.and_then(|p| p.tenancy.as_ref()).map(|t| t.as_str().to_owned()),
        capacity_reservation: target.and_then(of_target).or_else(reserved_only),
        tags: tags.filter_map(|t| Some((t.key.clone()?, t.value.clone()?))).collect::<BTreeMap<_, _>>(),
    }
}

fn positive(n: Option<i32>) -> Option<u32> {
    n.and_then(|n| u32::try_from(n).ok())
}

pub(super) fn of_type(found: &types::InstanceTypeInfo) -> TypeDetails {
    let network = found.network_info.as_ref();
    let ebs = found.ebs_info.as_ref();
    let processors = found.v_cpu_info.as_ref();
    let optimized = ebs.and_then(|e| e.ebs_optimized_info.as_ref());
    let limit = ebs.and_then(|e| e.attachment_limit_type.as_ref());
    TypeDetails {
        vcpus: positive(processors.and_then(|v| v.default_v_cpus)),
        cores: positive(processors.and_then(|v| v.default_cores)),
        threads_per_core: positive(processors.and_then(|v| v.default_threads_per_core)),
        memory_mib: found.memory_info.as_ref().and_then(|m| m.size_in_mib).and_then(|m| u64::try_from(m).ok()),
        hypervisor: found.hypervisor.as_ref().map(|h| h.as_str().to_owned()).filter(|h| !h.is_empty()),
        bare_metal: found.bare_metal,
        virtualization: found.supported_virtualization_types().iter().map(|v| v.as_str().to_owned()).collect(),
        ena: network.and_then(|n| n.ena_support.as_ref()).map(|e| e.as_str().to_owned()),
        boot_modes: found.supported_boot_modes().iter().map(|m| m.as_str().to_owned()).collect(),
        max_interfaces: positive(network.and_then(|n| n.maximum_network_interfaces)),
        max_volumes: positive(ebs.and_then(|e| e.maximum_ebs_attachments)),
        shared_attachments: limit.is_some_and(|l| l.as_str() == "shared"),
        ebs_optimized: ebs.and_then(|e| e.ebs_optimized_support.as_ref()).map(|s| s.as_str().to_owned()),
        baseline_iops: positive(optimized.and_then(|o| o.baseline_iops)),
        baseline_throughput: optimized.and_then(|o| o.baseline_throughput_in_m_bps).map(|t| t as u32),
        burstable: found.burstable_performance_supported,
        instance_storage: found.instance_storage_supported,
    }
}
