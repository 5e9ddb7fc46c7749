//! What is done to each node. One file a strategy; this one only dispatches.

mod instance_restart;
mod instance_type;

use serde::{Deserialize, Serialize};

use super::event::{Reason, UpdateRequested};
use crate::domain::ids::{InstanceType, NodeName};
use crate::domain::instance::Instance;

/// What is done to each node, by its stored name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Strategy {
    /// Stop, change the type, start.
    #[default]
    Ec2InstanceTypeUpdate,
    /// Stop, start.
    Ec2InstanceRestart,
}

/// What the order of steps needs to know of a strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeChange {
    /// The type it shall run with.
    pub new_type: InstanceType,
    /// Types to start it with, in order; the type it has now is last.
    pub return_types: Vec<InstanceType>,
    /// Why nothing is to be done to it, if so (provided that it runs and has caught up).
    pub already: Option<String>,
}

impl Strategy {
    /// Names, for messages.
    pub const NAMES: &'static [&'static str] = &["Ec2InstanceTypeUpdate", "Ec2InstanceRestart"];

    /// What is wrong with the request, beyond what is wrong with any.
    pub fn check(self, request: &UpdateRequested) -> Vec<Reason> {
        match self {
            Strategy::Ec2InstanceTypeUpdate => instance_type::check(request),
            Strategy::Ec2InstanceRestart => instance_restart::check(request),
        }
    }

    /// What it does to this node's instance, whose type was `old_type` when planned.
    pub fn change(
        self,
        request: &UpdateRequested,
        node: &NodeName,
        instance: &Instance,
        old_type: &InstanceType,
    ) -> NodeChange {
        match self {
            Strategy::Ec2InstanceTypeUpdate => instance_type::change(request, instance, old_type),
            Strategy::Ec2InstanceRestart => instance_restart::change(request, node, old_type),
        }
    }

    /// The way back of a node that was done, whatever the strategy: to the type it had when planned, and with the one it has now if it will
    /// not start with that.
    pub fn way_back(instance: &Instance, had: &InstanceType, has: &InstanceType) -> NodeChange {
        let already = (&instance.instance_type == had).then(|| format!("its type is {had} again"));
        NodeChange { new_type: had.clone(), return_types: vec![had.clone(), has.clone()], already }
    }
}
