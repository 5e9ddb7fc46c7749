//! An EC2 instance as it was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, InstanceType, UpdateId};

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
    /// EC2's words about the last transition, such as `User initiated (2026-01-01 00:00:00 GMT)`.
    pub transition_reason: Option<String>,
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
    /// Its tags, and what only a plan needs to know.
    pub details: InstanceDetails,
}

/// Key of the tag with which an update marks the instance that it has in hand, for those to see who do not read its store.
pub const FENCE_TAG: &str = "esdb-rollout:update";

/// Whether a value of that tag is one of an update's.
pub fn is_fence_of(value: &str, update: UpdateId) -> bool {
    value.split_once('@').is_some_and(|(of, _)| of == update.to_string())
}

impl Instance {
    /// Value of the tag with which an update says that it has this instance in hand.
    pub fn fence(&self) -> Option<&str> {
        self.details.tags.get(FENCE_TAG).map(String::as_str)
    }

    /// Whether an update other than this one says that it has this instance in hand.
    pub fn fenced_by_another(&self, update: UpdateId) -> bool {
        self.fence().is_some_and(|value| !is_fence_of(value, update))
    }

    /// All its private addresses, the primary one first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let others = self.details.addresses.iter().filter(|ip| Some(**ip) != self.private_ip);
        self.private_ip.into_iter().chain(others.copied())
    }

    /// Whether a private address is its own, be it a secondary one or of IPv6.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses().any(|own| own == ip)
    }
}

/// What `DescribeInstances` says of one instance, as far as it bears on whether it may be stopped and will start as another type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceDetails {
    /// `hvm` or `paravirtual`.
    pub virtualization: Option<String>,
    /// Whether enhanced networking with ENA is enabled.
    pub ena: Option<bool>,
    /// Boot mode: `uefi-preferred` where its image boots either way, else the one it was started with (`uefi`, `legacy-bios`).
    pub boot_mode: Option<String>,
    /// Private addresses of all its network interfaces, secondary ones and those of IPv6 included.
    pub addresses: BTreeSet<IpAddr>,
    /// Public address.
    pub public_ip: Option<IpAddr>,
    /// Public DNS name: inside of its network it resolves to the private address, and a stop takes it away with the public one.
    pub public_dns: Option<String>,
    /// Whether the public address is an Elastic one, which outlives a stop.
    pub elastic_ip: bool,
    /// Network interfaces attached.
    pub interfaces: u32,
    /// EBS volumes attached.
    pub volumes: Vec<String>,
    /// Whether it is set to be optimized for EBS, which some types do not support.
    pub ebs_optimized: Option<bool>,
    /// Processor cores it runs with: fewer than its type's, where its CPU options say so.
    pub cores: Option<u32>,
    /// Threads of each, likewise.
    pub threads_per_core: Option<u32>,
    /// Placement group.
    pub placement_group: Option<String>,
    /// `default`, `dedicated` or `host`.
    pub tenancy: Option<String>,
    /// Capacity reservation, or group of them, that it targets; without one, the preference [`RESERVED_ONLY`], if it has that.
    pub capacity_reservation: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// Preference of an instance that starts with capacity that is reserved for its type, and with no other.
pub const RESERVED_ONLY: &str = "capacity-reservations-only";

/// Boot mode of an image that boots with UEFI where the type supports that, and else as x86 always did.
pub const UEFI_PREFERRED: &str = "uefi-preferred";

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
    /// Processor cores, unless CPU options say otherwise.
    pub cores: Option<u32>,
    /// Threads of each, likewise.
    pub threads_per_core: Option<u32>,
    /// Memory, MiB.
    pub memory_mib: Option<u64>,
    /// `nitro` or `xen`; absent for bare metal.
    pub hypervisor: Option<String>,
    /// Whether it is bare metal.
    pub bare_metal: Option<bool>,
    /// `hvm`, `paravirtual`.
    pub virtualization: Vec<String>,
    /// `required`, `supported` or `unsupported`.
    pub ena: Option<String>,
    /// Boot modes it supports.
    pub boot_modes: Vec<String>,
    /// Most network interfaces.
    pub max_interfaces: Option<u32>,
    /// Most EBS volumes, beside the primary network interface.
    pub max_volumes: Option<u32>,
    /// Whether other interfaces count against the most EBS volumes (`shared`, of which Xen types are said to be, too, and are not).
    pub shared_attachments: bool,
    /// Whether it is optimized for EBS: `unsupported`, `supported` or `default`.
    pub ebs_optimized: Option<String>,
    /// I/O operations per second to EBS that it sustains.
    pub baseline_iops: Option<u32>,
    /// Throughput to EBS that it sustains, MB/s, rounded down.
    pub baseline_throughput: Option<u32>,
    /// Whether its processors earn and spend credits.
    pub burstable: Option<bool>,
    /// Whether it has disks of its own, which are empty after a stop.
    pub instance_storage: Option<bool>,
}

#[cfg(test)]
pub(super) mod tests {
    use uuid::Uuid;

    use super::*;

    /// An instance that is stopped, and of which nothing else is known.
    pub fn stopped_instance() -> Instance {
        Instance {
            id: "i-0abc".into(),
            instance_type: "m6i.large".into(),
            state: InstanceState::Stopped,
            state_reason: None,
            transition_reason: None,
            private_ip: None,
            private_dns: None,
            zone: None,
            name_tag: None,
            root_device: None,
            lifecycle: None,
            architecture: None,
            auto_scaling_group: None,
            hibernation: false,
            details: InstanceDetails::default(),
        }
    }

    #[test]
    fn its_addresses_are_the_primary_one_and_each_other_once() {
        let [first, second, stranger]: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().expect("an address"));
        let mut instance = Instance { private_ip: Some(first), ..stopped_instance() };
        instance.details.addresses.extend([first, second]);
        assert_eq!(instance.addresses().collect::<Vec<_>>(), [first, second]);
        assert_eq!([first, second, stranger].map(|ip| instance.has_address(ip)), [true, true, false]);
    }

    #[test]
    fn a_tag_of_another_update_and_one_that_is_no_update_s_is_anothers() {
        let (ours, theirs) = (UpdateId(Uuid::from_u128(1)), UpdateId(Uuid::from_u128(2)));
        let fenced = |value: Option<String>| {
            let mut instance = stopped_instance();
            instance.details.tags.extend(value.map(|value| (FENCE_TAG.to_owned(), value)));
            instance.fenced_by_another(ours)
        };
        for (value, anothers) in [
            (None, false),
            (Some(format!("{ours}@7")), false),
            (Some(format!("{theirs}@7")), true),
            (Some(ours.to_string()), true),
            (Some("ada".to_owned()), true),
        ] {
            assert_eq!(fenced(value.clone()), anothers, "{value:?}");
        }
    }
}
