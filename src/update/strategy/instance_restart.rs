//! `Ec2InstanceRestart`: stop and start, on the same type. A stop and a start move an instance to another host.
//!
//! # Guarantees
//! Every node is stopped and started once.
//! # Assumptions
//! The data is on volumes that outlive a stop (EBS).

use super::NodeChange;
use crate::domain::ids::{InstanceType, NodeName};
use crate::update::event::{Reason, UpdateRequested};

pub(super) fn check(request: &UpdateRequested) -> Vec<Reason> {
    let Some(target) = &request.target_instance_type else { return Vec::new() };
    vec![Reason {
        code: "targetTypeNotWanted".into(),
        found: format!("targetInstanceType {target}"),
        wanted: "none: Ec2InstanceRestart keeps each node's type".into(),
        remedy: "leave targetInstanceType out, or ask for Ec2InstanceTypeUpdate".into(),
    }]
}

pub(super) fn change(request: &UpdateRequested, node: &NodeName, old_type: &InstanceType) -> NodeChange {
    // Nothing that can be seen tells a restart that was asked for from another: here the other run is believed.
    let done = request.resumed(node).is_some_and(|r| r.done);
    let already = done.then(|| "the run before says that it was restarted".to_owned());
    NodeChange { new_type: old_type.clone(), return_types: vec![old_type.clone()], already }
}
