//! The instances.

use std::collections::BTreeMap;
use std::net::IpAddr;

use async_trait::async_trait;

pub use crate::domain::ec2::CallClass;
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::inspection::{Inspection, Unanswered};
use crate::domain::instance::{Instance, TypeInfo};

/// An EC2 call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed with {code}: {message}")]
pub struct FleetError {
    /// The call, such as `StopInstances`.
    pub call: String,
    /// What to do about it.
    pub class: CallClass,
    /// EC2's code, such as `IncorrectInstanceState`; ours (`Timeout`, `Unreachable`, `NoCredentials`) where EC2 gave none.
    pub code: String,
    /// EC2's message, without secrets.
    pub message: String,
    /// EC2's request id.
    pub request_id: Option<String>,
}

impl From<FleetError> for Unanswered {
    fn from(error: FleetError) -> Self {
        Unanswered { class: error.class, why: error.to_string() }
    }
}

/// A call that EC2 accepted (or that had nothing to do).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// EC2's request id.
    pub request_id: Option<String>,
}

/// How to find instances whose id is not known yet. Instances that are being terminated are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By one of these primary or secondary private addresses.
    PrivateIps(Vec<IpAddr>),
    /// By one of these private DNS names.
    PrivateDns(Vec<String>),
    /// By a tag with one of these values.
    Tag {
        /// Key of the tag.
        key: String,
        /// Values.
        values: Vec<String>,
    },
}

/// The instances. Calls that change something are sent once: each repeat needs an intent of its own.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// The instance that this process runs on, where that is known: where it is not, addresses must tell.
    fn own_instance(&self) -> Option<&InstanceId> {
        None
    }
    /// Whether this process runs on an instance of EC2, be it known which or not.
    fn runs_on_some_instance(&self) -> bool {
        false
    }
    /// One call for all ids. An id that EC2 does not know is missing in the answer.
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError>;
    /// Instances that match.
    async fn find(&self, wanted: &Wanted) -> Result<Vec<Instance>, FleetError>;
    /// What EC2 offers under this name; `None` if there is no such type.
    async fn type_info(&self, instance_type: &InstanceType) -> Result<Option<TypeInfo>, FleetError>;
    /// What else bears on these instances. Each is named with the types that it may be started with: none where nothing is done to it, and one
    /// alone where that is the type it has. Rights are tried for what is to be done: a policy may allow some instances and some types only.
    /// Changes nothing; what could not be asked is named in the answer.
    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection;
    /// Stops an instance (never by force).
    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError>;
    /// Changes the type of a stopped instance.
    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError>;
    /// Starts an instance.
    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError>;
    /// Reboots a running instance.
    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError>;
    /// Writes the tag [`FENCE_TAG`](crate::domain::instance::FENCE_TAG) on an instance; what it said before is lost.
    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError>;
    /// Removes that tag, if it has this value.
    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError>;
}
