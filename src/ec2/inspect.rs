//! What else can be asked of EC2 about instances: attributes, events, volumes, and rights by dry runs. Nothing here changes anything.

use std::collections::BTreeMap;
use std::error::Error;

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{AttributeValue, InstanceAttributeName};

use super::fleet::{Ec2Fleet, failed, fence_tag, filter, text};
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::inspection::{Answer, Attributes, Inspection, Right, ScheduledEvent, Unanswered, Verb, Volume};

/// A value that no update writes: should a dry run be taken for the call, nobody's tag is removed.
const NO_UPDATE: &str = "dry-run";

/// Instances to which something is done, and the types that each may be started with.
type Touched<'a> = BTreeMap<&'a InstanceId, &'a Vec<InstanceType>>;

impl Ec2Fleet {
    pub(super) async fn inspected(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        let ids: Vec<InstanceId> = instances.keys().cloned().collect();
        if ids.is_empty() {
            return Inspection::default();
        }
        let mut attributes = BTreeMap::new();
        for id in &ids {
            attributes.insert(id.clone(), self.attributes(id).await);
        }
        let mut rights = BTreeMap::new();
        // What is only looked at need not be allowed.
        let touched: Touched<'_> = instances.iter().filter(|(_, types)| !types.is_empty()).collect();
        if !touched.is_empty() {
            for verb in Verb::ALL {
                rights.extend(self.right(verb, &touched).await.map(|right| (verb, right)));
            }
        }
        Inspection {
            attributes,
            events: Some(self.events(&ids).await),
            volumes: Some(self.volumes(&ids).await),
            rights,
        }
    }

    async fn attributes(&self, id: &InstanceId) -> Attributes {
        let ask = |name| self.client.describe_instance_attribute().instance_id(id.as_str()).attribute(name).send();
        let none = |what: &str| Unanswered::silent(format!("EC2 does not say {what} of {id}"));
        let stop_protected = match ask(InstanceAttributeName::DisableApiStop).await {
            Ok(found) => found.disable_api_stop.and_then(|a| a.value).ok_or_else(|| none("disableApiStop")),
            Err(e) => Err(failed("DescribeInstanceAttribute", e).into()),
        };
        let shutdown_behavior = match ask(InstanceAttributeName::InstanceInitiatedShutdownBehavior).await {
            Ok(found) => found
                .instance_initiated_shutdown_behavior
                .and_then(|a| text(&a.value))
                .ok_or_else(|| none("instanceInitiatedShutdownBehavior")),
            Err(e) => Err(failed("DescribeInstanceAttribute", e).into()),
        };
        Attributes { stop_protected, shutdown_behavior }
    }

    async fn events(&self, ids: &[InstanceId]) -> Answer<BTreeMap<InstanceId, Vec<ScheduledEvent>>> {
        let request = self.client.describe_instance_status().include_all_instances(true);
        let request = request.set_instance_ids(Some(ids.iter().map(|id| id.0.clone()).collect()));
        let mut pages = request.into_paginator().items().send();
        let mut events = BTreeMap::new();
        while let Some(status) = pages.next().await {
            let status = status.map_err(|e| failed("DescribeInstanceStatus", e))?;
            let Some(id) = text(&status.instance_id) else { continue };
            let event = |e: &aws_sdk_ec2::types::InstanceStatusEvent| ScheduledEvent {
                code: e.code.as_ref().map_or("an event without a code", |c| c.as_str()).to_owned(),
                description: e.description.clone().unwrap_or_default(),
                not_before: e.not_before.and_then(|at| jiff::Timestamp::from_second(at.secs()).ok()),
            };
            events.insert(InstanceId(id), status.events().iter().map(event).collect());
        }
        Ok(events)
    }

    async fn volumes(&self, ids: &[InstanceId]) -> Answer<Vec<Volume>> {
        let of = filter("attachment.instance-id", ids.iter().map(InstanceId::as_str));
        let mut pages = self.client.describe_volumes().filters(of).into_paginator().items().send();
        let mut volumes = Vec::new();
        while let Some(found) = pages.next().await {
            let found = found.map_err(|e| failed("DescribeVolumes", e))?;
            let unnamed = || "an encryption key that EC2 does not name".to_owned();
            for instance in found.attachments().iter().filter_map(|a| text(&a.instance_id)) {
                volumes.push(Volume {
                    id: found.volume_id.clone().unwrap_or_default(),
                    instance: InstanceId(instance),
                    iops: found.iops.and_then(|n| u32::try_from(n).ok()),
                    throughput: found.throughput.and_then(|n| u32::try_from(n).ok()),
                    kms_key: (found.encrypted == Some(true)).then(|| text(&found.kms_key_id).unwrap_or_else(unnamed)),
                });
            }
        }
        Ok(volumes)
    }

    /// A dry run for all of them. `None` where there is nothing to try.
    async fn right(&self, verb: Verb, instances: &Touched<'_>) -> Option<Right> {
        let all = || Some(instances.keys().map(|id| id.0.clone()).collect());
        let ec2 = &self.client;
        Some(match verb {
            Verb::Stop => judged(verb, ec2.stop_instances().set_instance_ids(all()).dry_run(true).send().await),
            Verb::Start => judged(verb, ec2.start_instances().set_instance_ids(all()).dry_run(true).send().await),
            Verb::Reboot => judged(verb, ec2.reboot_instances().set_instance_ids(all()).dry_run(true).send().await),
            Verb::Tag => {
                let request = ec2.create_tags().set_resources(all()).tags(fence_tag(NO_UPDATE));
                judged(verb, request.dry_run(true).send().await)
            }
            Verb::Untag => {
                let request = ec2.delete_tags().set_resources(all()).tags(fence_tag(NO_UPDATE));
                judged(verb, request.dry_run(true).send().await)
            }
            Verb::Modify => return self.right_to_modify(instances).await,
        })
    }

    /// Dry runs with each type that each instance may be given, of which the worst answer counts: a policy may be bound to the type. `None`
    /// where none is to be given.
    async fn right_to_modify(&self, instances: &Touched<'_>) -> Option<Right> {
        let mut worst = None;
        let changed = instances.iter().filter(|(_, types)| types.len() > 1);
        let each: Vec<(&InstanceId, &InstanceType)> =
            changed.flat_map(|(id, types)| std::iter::repeat(*id).zip(*types)).collect();
        for (id, to) in each {
            let value = AttributeValue::builder().value(to.as_str()).build();
            let request = self.client.modify_instance_attribute().instance_id(id.as_str()).instance_type(value);
            let of_type = |why: String| format!("{id} as {to}: {why}");
            match judged(Verb::Modify, request.dry_run(true).send().await) {
                Right::Allowed => worst = worst.or(Some(Right::Allowed)),
                Right::Denied(why) => return Some(Right::Denied(of_type(why))),
                Right::Unknown(error) => {
                    worst = Some(Right::Unknown(Unanswered { why: of_type(error.why), ..error }));
                }
            }
        }
        worst
    }
}

/// The answer of a dry run that would have succeeded is an error.
fn judged<T, E>(verb: Verb, answer: Result<T, SdkError<E>>) -> Right
where
    E: Error + ProvideErrorMetadata + 'static,
{
    match answer {
        Ok(_) => Right::Unknown(Unanswered::silent(format!(
            "a dry run of {verb} was answered as if it had been carried out"
        ))),
        Err(e) if e.code() == Some("DryRunOperation") => Right::Allowed,
        Err(e) => Unanswered::from(failed(verb.action(), e)).into(),
    }
}
