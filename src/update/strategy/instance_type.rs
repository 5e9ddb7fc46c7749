//! `Ec2InstanceTypeUpdate`: stop, change the type, start.
//!
//! # Guarantees
//! A node that already has the wanted type is left alone. One that will not start with it is started with the next fallback, and in the
//! end with the type it had.
//! # Assumptions
//! The data is on volumes that outlive a stop (EBS).

use super::NodeChange;
use crate::domain::ids::InstanceType;
use crate::domain::instance::Instance;
use crate::update::event::{Reason, UpdateRequested};

pub(super) fn check(request: &UpdateRequested) -> Vec<Reason> {
    if request.target_instance_type.is_some() {
        return Vec::new();
    }
    vec![Reason {
        code: "targetTypeMissing".into(),
        found: "no targetInstanceType".into(),
        wanted: "the instance type every node shall have, such as m6i.large".into(),
        remedy: "ask again with targetInstanceType (`start --target-type TYPE`)".into(),
    }]
}

pub(super) fn change(request: &UpdateRequested, instance: &Instance, old_type: &InstanceType) -> NodeChange {
    let new_type = request.target_instance_type.clone().unwrap_or_else(|| old_type.clone());
    let mut return_types = vec![new_type.clone()];
    let later = request.fallback_types.iter().flatten().chain([old_type]);
    for t in later {
        if !return_types.contains(t) {
            return_types.push(t.clone());
        }
    }
    // The type it had surely starts: it goes last, wherever the request put it. Where that is the wanted one no other is tried.
    if &new_type == old_type {
        return_types.truncate(1);
    } else {
        return_types.retain(|t| t != old_type);
        return_types.push(old_type.clone());
    }
    let already = (instance.instance_type == new_type).then(|| format!("its type is {new_type} already"));
    NodeChange { new_type, return_types, already }
}
