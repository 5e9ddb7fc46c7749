//! An instance of which EC2 says nothing that matters here but its type and its state.

use esdb_rollout::domain::ids::{InstanceId, InstanceType};
use esdb_rollout::domain::instance::{Instance, InstanceDetails, InstanceState};

pub fn instance(id: InstanceId, instance_type: InstanceType, state: InstanceState) -> Instance {
    Instance {
        id,
        instance_type,
        state,
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
