//! An EC2 instance as it was seen.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, InstanceType};

/// State of an instance, in EC2's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
