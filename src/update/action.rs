//! Things to do to the world, as data.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::ids::{Address, InstanceId, InstanceType, NodeName, Revision};

/// One call that changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Set a node's priority.
    SetPriority {
        /// Where the node listens.
        address: Address,
        /// To.
        priority: i32,
    },
    /// Make the leader resign.
    Resign {
        /// Where the node listens.
        address: Address,
    },
    /// Stop an instance.
    StopInstance {
        /// Which.
        instance: InstanceId,
    },
    /// Change the type of a stopped instance.
    ModifyType {
        /// Which.
        instance: InstanceId,
        /// To.
        to: InstanceType,
    },
    /// Start an instance.
    StartInstance {
        /// Which.
        instance: InstanceId,
    },
    /// Reboot an instance that runs while its node is silent.
    RebootInstance {
        /// Which.
        instance: InstanceId,
    },
    /// Write the update's tag on an instance: the fence that is seen outside the store.
    Tag {
        /// Which.
        instance: InstanceId,
        /// The tag's value.
        value: String,
    },
    /// Remove the update's tag, if it has this value.
    Untag {
        /// Which.
        instance: InstanceId,
        /// The value that is removed, and no other.
        value: String,
    },
}

/// What entitles to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Warrant {
    /// The intent at this revision.
    Intent(Revision),
    /// The return ticket: the stop intent at this revision, while the store has no leader.
    ReturnTicket(Revision),
}

/// A call, the node it is about, and what entitles to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// The node in hand.
    pub node: NodeName,
    /// The call.
    pub call: Call,
    /// What entitles to it.
    pub warrant: Warrant,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::SetPriority { address, priority } => write!(f, "set the priority of {address} to {priority}"),
            Call::Resign { address } => write!(f, "make {address} resign"),
            Call::StopInstance { instance } => write!(f, "stop {instance}"),
            Call::ModifyType { instance, to } => write!(f, "change the type of {instance} to {to}"),
            Call::StartInstance { instance } => write!(f, "start {instance}"),
            Call::RebootInstance { instance } => write!(f, "reboot {instance}"),
            Call::Tag { instance, value } => write!(f, "tag {instance} with {value}"),
            Call::Untag { instance, value } => write!(f, "remove the tag {value} of {instance}"),
        }
    }
}

/// What became of a call. `revision` of the intent tells a straggler's answer from the present one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It was accepted.
    Accepted {
        /// EC2's request id.
        request_id: Option<String>,
    },
    /// It was refused: nothing was done.
    Refused {
        /// Code.
        code: String,
        /// Message.
        message: String,
        /// Whether the same may succeed later.
        again: Again,
    },
    /// Whether it was done is unknown.
    Unknown {
        /// What happened.
        message: String,
    },
}

/// Whether a refused call may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Soon.
    Soon,
    /// Perhaps, when there is capacity for the type.
    WithCapacity,
    /// Not with these arguments.
    Never,
    /// Not before a person mends rights or credentials.
    AfterMending,
}
