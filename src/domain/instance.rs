//! An EC2 instance as it was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, InstanceType};

/// State of an instance, in EC2's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Starting.
    Pending,
    /// Running.
    Running,
    /// Being terminated.
    ShuttingDown,
    /// Gone for good.
    Terminated,
    /// Stopping.
    Stopping,
    /// Stopped.
    Stopped,
    /// A word that this program does not know. Never taken for anything good.
    #[serde(other)]
    Unrecognized,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InstanceState::Pending => "pending",
            InstanceState::Running => "running",
            InstanceState::ShuttingDown => "shutting-down",
            InstanceState::Terminated => "terminated",
            InstanceState::Stopping => "stopping",
            InstanceState::Stopped => "stopped",
            InstanceState::Unrecognized => "unrecognized",
        })
    }
}

/// What `DescribeInstances` says of one instance, as far as a rolling change needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its type now.
    pub instance_type: InstanceType,
    /// Its state now.
    pub state: InstanceState,
    /// Code of the reason for the last state change, such as `Server.InsufficientInstanceCapacity`.
    pub state_reason: Option<String>,
    /// Primary private address.
    pub private_ip: Option<IpAddr>,
    /// Private DNS name.
    pub private_dns: Option<String>,
    /// Availability zone.
    pub zone: Option<String>,
    /// Tag `Name`.
    pub name_tag: Option<String>,
    /// `ebs` or `instance-store`. An instance-store root cannot be stopped.
    pub root_device: Option<String>,
    /// `spot`, `scheduled` or `capacity-block`; absent for on-demand.
    pub lifecycle: Option<String>,
    /// `x86_64`, `arm64`, …
    pub architecture: Option<String>,
    /// Auto Scaling group that owns it (tag `aws:autoscaling:groupName`).
    pub auto_scaling_group: Option<String>,
    /// Whether hibernation is configured: the type cannot be changed then.
    pub hibernation: bool,
    /// What only a plan needs to know.
    pub details: InstanceDetails,
}

/// What `DescribeInstances` says of one instance, as far as it bears on whether it may be stopped and will start as another type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceDetails {
    /// `hvm` or `paravirtual`.
    pub virtualization: Option<String>,
    /// Whether enhanced networking with ENA is enabled.
    pub ena: Option<bool>,
    /// Boot mode that its image asks for: `uefi`, `legacy-bios`, `uefi-preferred`.
    pub boot_mode: Option<String>,
    /// Public address.
    pub public_ip: Option<IpAddr>,
    /// Whether the public address is an Elastic one, which outlives a stop.
    pub elastic_ip: bool,
    /// Network interfaces attached.
    pub interfaces: u32,
    /// EBS volumes attached.
    pub volumes: Vec<String>,
    /// Placement group.
    pub placement_group: Option<String>,
    /// `default`, `dedicated` or `host`.
    pub tenancy: Option<String>,
    /// Capacity reservation, or group of them, that it targets.
    pub capacity_reservation: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// What EC2 offers under a type's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeInfo {
    /// The type.
    pub instance_type: InstanceType,
    /// Architectures it supports.
    pub architectures: Vec<String>,
    /// Availability zones that offer it.
    pub zones: Vec<String>,
    /// What only a plan needs to know.
    pub details: TypeDetails,
}

/// What `DescribeInstanceTypes` says of a type, as far as it bears on whether an instance will start and serve with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeDetails {
    /// Virtual processors.
    pub vcpus: Option<u32>,
    /// Memory, MiB.
    pub memory_mib: Option<u64>,
    /// `nitro` or `xen`; absent for bare metal.
    pub hypervisor: Option<String>,
    /// `hvm`, `paravirtual`.
    pub virtualization: Vec<String>,
    /// `required`, `supported` or `unsupported`.
    pub ena: Option<String>,
    /// Boot modes it supports.
    pub boot_modes: Vec<String>,
    /// Most network interfaces.
    pub max_interfaces: Option<u32>,
    /// Most EBS volumes.
    pub max_volumes: Option<u32>,
    /// Whether interfaces count against the most EBS volumes (`shared`).
    pub shared_attachments: bool,
    /// I/O operations per second to EBS that it sustains.
    pub baseline_iops: Option<u32>,
    /// Whether its processors earn and spend credits.
    pub burstable: Option<bool>,
    /// Whether it has disks of its own, which are empty after a stop.
    pub instance_storage: Option<bool>,
}

/// Codes by which EC2 says, of a call or as an instance's state reason, that it has no room for the type now.
const CAPACITY_CODES: [&str; 7] = [
    "InsufficientInstanceCapacity",
    "InsufficientCapacity",
    "InsufficientCapacityOnHost",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "UnfulfillableCapacity",
    "ReservationCapacityExceeded",
];

/// Whether a code of EC2 (of a call, or of a state reason, which has `Server.` before it) says that there is no capacity for the type now.
pub fn lacks_capacity(code: &str) -> bool {
    CAPACITY_CODES.contains(&code.strip_prefix("Server.").unwrap_or(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_told_from_every_other_refusal() {
        for code in CAPACITY_CODES {
            assert!(lacks_capacity(code) && lacks_capacity(&format!("Server.{code}")), "{code}");
        }
        for code in
            ["", "Server.", "InternalError", "Server.InternalError", "InstanceLimitExceeded", "VcpuLimitExceeded"]
        {
            assert!(!lacks_capacity(code), "{code}");
        }
    }
}
