//! What EC2 and the nodes say of themselves beside their states. All of it is sound at first; a test spoils what it wants to.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::inspection::{ScheduledEvent, Volume};
use crate::domain::instance::{InstanceDetails, TypeDetails, UEFI_PREFERRED};
use crate::sim::model::{Ec2Fault, NodeIx, WorldConfig};

/// What is said of one instance.
#[derive(Clone, Debug)]
pub struct InstanceFacts {
    /// `ebs` or `instance-store`.
    pub root_device: String,
    /// `spot`, or nothing.
    pub lifecycle: Option<String>,
    /// The Auto Scaling group it belongs to.
    pub auto_scaling_group: Option<String>,
    /// Whether hibernation is configured.
    pub hibernation: bool,
    /// What else `DescribeInstances` says.
    pub details: InstanceDetails,
    /// `disableApiStop`.
    pub stop_protected: bool,
    /// `instanceInitiatedShutdownBehavior`.
    pub shutdown_behavior: String,
    /// What AWS will do to it.
    pub events: Vec<ScheduledEvent>,
    /// Its volumes.
    pub volumes: Vec<Volume>,
}

/// What is said of everything.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Of each node's instance.
    pub instances: Vec<InstanceFacts>,
    /// Of types, where it is not what their names promise.
    pub types: BTreeMap<String, TypeDetails>,
    /// Types and zones that do not offer them.
    pub not_offered: BTreeSet<(String, String)>,
    /// Actions that are not authorized.
    pub denied: BTreeSet<String>,
    /// Instances that IAM lets nobody change in any way.
    pub denied_instances: BTreeSet<InstanceId>,
    /// Types that IAM lets nobody give an instance.
    pub denied_types: BTreeSet<String>,
    /// Scavenges that run, by node.
    pub scavenges: BTreeMap<NodeIx, String>,
}

impl Facts {
    pub(super) fn new(config: &WorldConfig) -> Facts {
        let instances = (0..config.voters + config.replicas).map(|n| {
            let volume = format!("vol-{:017x}", 10 + n);
            let instance = super::ec2::instance_id(n);
            InstanceFacts {
                root_device: "ebs".into(),
                lifecycle: None,
                auto_scaling_group: None,
                hibernation: false,
                details: InstanceDetails {
                    virtualization: Some("hvm".into()),
                    ena: Some(true),
                    boot_mode: Some(UEFI_PREFERRED.into()),
                    interfaces: 1,
                    volumes: vec![volume.clone()],
                    ebs_optimized: Some(false),
                    tenancy: Some("default".into()),
                    ..InstanceDetails::default()
                },
                stop_protected: false,
                shutdown_behavior: "stop".into(),
                events: Vec::new(),
                volumes: vec![Volume { id: volume, instance, iops: Some(3000), throughput: Some(125), kms_key: None }],
            }
        });
        Facts {
            instances: instances.collect(),
            types: BTreeMap::new(),
            not_offered: BTreeSet::new(),
            denied: BTreeSet::new(),
            denied_instances: BTreeSet::new(),
            denied_types: BTreeSet::new(),
            scavenges: BTreeMap::new(),
        }
    }

    /// What `DescribeInstanceTypes` says of an offered type.
    pub fn type_details(&self, instance_type: &str, architecture: &str) -> TypeDetails {
        self.types.get(instance_type).cloned().unwrap_or_else(|| by_name(instance_type, architecture))
    }
}

/// What a type's name promises, roughly as AWS names them.
fn by_name(instance_type: &str, architecture: &str) -> TypeDetails {
    let (family, size) = instance_type.split_once('.').unwrap_or((instance_type, "large"));
    let vcpus = match size.strip_suffix("xlarge") {
        Some("") => 4,
        Some(times) => times.parse::<u32>().unwrap_or(1) * 4,
        None => 2,
    };
    let metal = size.starts_with("metal");
    let xen = ["t2", "m4", "c4", "r4"].contains(&family);
    let gib_each = match family.as_bytes().first() {
        Some(b'c') => 2,
        Some(b'r') => 8,
        _ => 4,
    };
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
    TypeDetails {
        vcpus: Some(vcpus),
        cores: Some(vcpus / 2),
        threads_per_core: Some(2),
        memory_mib: Some(u64::from(vcpus) * gib_each * 1024),
        hypervisor: Some(if xen { "xen" } else { "nitro" }.into()).filter(|_| !metal),
        bare_metal: Some(metal),
        virtualization: words(&["hvm"]),
        ena: Some(if xen { "supported" } else { "required" }.into()),
        boot_modes: if architecture == "arm64" { words(&["uefi"]) } else { words(&["legacy-bios", "uefi"]) },
        max_interfaces: Some(if vcpus > 2 { 4 } else { 3 }),
        max_volumes: Some(if xen { 39 } else { 27 }),
        shared_attachments: true,
        ebs_optimized: Some(if family == "t2" { "unsupported" } else { "default" }.into()),
        baseline_iops: Some((vcpus * 1500).max(3600)),
        baseline_throughput: Some((vcpus * 40).max(125)),
        burstable: Some(family.starts_with('t')),
        instance_storage: Some(family.ends_with('d')),
    }
}

fn fault(code: &str, message: impl Into<String>) -> Ec2Fault {
    Ec2Fault { code: code.to_owned(), message: message.into() }
}

impl World {
    /// What is said of everything.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The same, to be spoilt.
    pub fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// Whether IAM lets this action pass.
    pub fn authorize(&self, action: &str) -> Result<(), Ec2Fault> {
        if self.facts.denied.contains(action) {
            return Err(fault("UnauthorizedOperation", "You are not authorized to perform this operation."));
        }
        Ok(())
    }

    /// Whether IAM lets this action change these instances.
    pub fn authorize_on(&self, action: &str, ids: &[InstanceId]) -> Result<(), Ec2Fault> {
        self.authorize(action)?;
        match ids.iter().find(|id| self.facts.denied_instances.contains(id)) {
            Some(id) => {
                let message = format!("You are not authorized to perform this operation on {id}.");
                Err(fault("UnauthorizedOperation", message))
            }
            None => Ok(()),
        }
    }

    /// Whether IAM lets an instance be given this type.
    pub fn authorize_type(&self, to: &InstanceType) -> Result<(), Ec2Fault> {
        if self.facts.denied_types.contains(to.as_str()) {
            let message = format!("You are not authorized to perform this operation with InstanceType {to}.");
            return Err(fault("UnauthorizedOperation", message));
        }
        Ok(())
    }

    /// An action with `DryRun`, which gives these instances these types: an error in any case, and which one is the answer.
    pub fn dry_run(&mut self, action: &str, ids: &[InstanceId], types: &[&InstanceType]) -> Result<(), Ec2Fault> {
        self.throttle()?;
        self.authorize_on(action, ids)?;
        types.iter().try_for_each(|to| self.authorize_type(to))?;
        Err(fault("DryRunOperation", "Request would have succeeded, but DryRun flag is set."))
    }

    /// `DescribeInstanceAttribute`: the value of one attribute.
    pub fn instance_attribute(&mut self, id: &InstanceId, attribute: &str) -> Result<String, Ec2Fault> {
        self.throttle()?;
        self.authorize("DescribeInstanceAttribute")?;
        let n = self.machine(id)?;
        let facts = &self.facts.instances[n];
        match attribute {
            "disableApiStop" => Ok(facts.stop_protected.to_string()),
            "instanceInitiatedShutdownBehavior" => Ok(facts.shutdown_behavior.clone()),
            "instanceType" => Ok(self.nodes[n].machine.instance_type.clone()),
            _ => {
                Err(fault("InvalidParameterValue", format!("Value ({attribute}) for parameter attribute is invalid.")))
            }
        }
    }

    /// `DescribeInstanceStatus`: what AWS will do to these instances.
    pub fn scheduled_events(&mut self, ids: &[InstanceId]) -> Result<Vec<(InstanceId, Vec<ScheduledEvent>)>, Ec2Fault> {
        self.throttle()?;
        self.authorize("DescribeInstanceStatus")?;
        let nodes = self.machines(ids)?;
        Ok(nodes
            .into_iter()
            .map(|n| (self.nodes[n].machine.id.clone(), self.facts.instances[n].events.clone()))
            .collect())
    }

    /// `DescribeVolumes`: the volumes of these instances.
    pub fn volumes(&mut self, ids: &[InstanceId]) -> Result<Vec<Volume>, Ec2Fault> {
        self.throttle()?;
        self.authorize("DescribeVolumes")?;
        Ok(self
            .facts
            .instances
            .iter()
            .flat_map(|i| &i.volumes)
            .filter(|v| ids.contains(&v.instance))
            .cloned()
            .collect())
    }
}
