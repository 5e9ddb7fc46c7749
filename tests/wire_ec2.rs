//! The AWS SDK against the simulated EC2.
#![cfg(all(feature = "esdb", feature = "ec2"))]

#[path = "wire_support/mod.rs"]
mod support;

use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ec2::error::ProvideErrorMetadata;
use aws_sdk_ec2::types::{
    ArchitectureType, AttributeValue, Filter, InstanceStateName, InstanceType, LocationType, Tag,
};
use esdb_rollout::sim::model::Fault;
use support::{Cluster, PATIENCE, config};

fn client(cluster: &Cluster) -> Client {
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(format!("http://{}", cluster.wire.ec2_endpoint().expect("EC2 is served")))
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("nobody", "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

async fn state(client: &Client, id: &str) -> InstanceStateName {
    let found = client.describe_instances().instance_ids(id).send().await.expect("an answer");
    found.reservations()[0].instances()[0].state().and_then(|s| s.name()).cloned().expect("a state")
}

async fn until(client: &Client, id: &str, wanted: InstanceStateName) {
    let reached = async {
        while state(client, id).await != wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{id} is never {wanted:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_changes_its_type() {
    let mut config = config("23.10.5.0");
    config.names[1] = "node <2> & \"more\"".to_owned();
    let cluster = Cluster::start(config).await;
    let client = client(&cluster);

    let all =
        client.describe_instances().into_paginator().page_size(3).items().send().try_collect().await.expect("pages");
    let instances: Vec<_> = all.iter().flat_map(|r| r.instances()).collect();
    assert_eq!(instances.len(), 4);
    let named = Filter::builder().name("tag:Name").values("node <2>*").build();
    let found = client.describe_instances().filters(named).send().await.expect("an answer");
    let instance = &found.reservations()[0].instances()[0];
    assert_eq!(instance.tags()[0].value(), Some("node <2> & \"more\""));
    assert_eq!(instance.private_ip_address(), Some("127.0.0.1"));
    assert_eq!(instance.architecture().map(|a| a.as_str()), Some("x86_64"));
    assert_eq!(instance.hibernation_options().and_then(|h| h.configured()), Some(false));
    assert!(instance.placement().and_then(|p| p.availability_zone()).is_some());
    let id = instance.instance_id().expect("an id").to_owned();
    let by_address =
        Filter::builder().name("network-interface.addresses.private-ip-address").values("127.0.0.1").build();
    let running = Filter::builder().name("instance-state-name").values("running").build();
    let found = client.describe_instances().filters(by_address).filters(running).send().await.expect("an answer");
    assert_eq!(found.reservations().len(), 4);

    let larger = AttributeValue::builder().value("m6i.xlarge").build();
    let error = client
        .modify_instance_attribute()
        .instance_id(&id)
        .instance_type(larger.clone())
        .send()
        .await
        .expect_err("it runs");
    assert_eq!(error.code(), Some("IncorrectInstanceState"));

    let stopped = client.stop_instances().instance_ids(&id).send().await.expect("an answer");
    let change = &stopped.stopping_instances()[0];
    assert_eq!(change.previous_state().and_then(|s| s.name()), Some(&InstanceStateName::Running));
    assert_eq!(change.current_state().and_then(|s| s.name()), Some(&InstanceStateName::Stopping));
    until(&client, &id, InstanceStateName::Stopped).await;
    let found = client.describe_instances().instance_ids(&id).send().await.expect("an answer");
    let reason = found.reservations()[0].instances()[0].state_reason().and_then(|r| r.code()).map(str::to_owned);
    assert_eq!(reason.as_deref(), Some("Client.UserInitiatedShutdown"));

    client.modify_instance_attribute().instance_id(&id).instance_type(larger).send().await.expect("a change");
    let started = client.start_instances().instance_ids(&id).send().await.expect("an answer");
    assert_eq!(
        started.starting_instances()[0].current_state().and_then(|s| s.name()),
        Some(&InstanceStateName::Pending)
    );
    until(&client, &id, InstanceStateName::Running).await;
    let found = client.describe_instances().instance_ids(&id).send().await.expect("an answer");
    assert_eq!(found.reservations()[0].instances()[0].instance_type(), Some(&InstanceType::M6iXlarge));
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_written_over_and_removed_only_with_the_value_it_has() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let client = client(&cluster);
    let id = cluster.world.with(|w| w.instance_of(0).0.clone());
    let tag = |value: &str| Tag::builder().key("esdb-rollout:update").value(value).build();
    let seen = async || {
        let found = client.describe_instances().instance_ids(&id).send().await.expect("an answer");
        let tags = found.reservations()[0].instances()[0].tags().to_vec();
        tags.iter().find(|t| t.key() == Some("esdb-rollout:update")).and_then(|t| t.value()).map(str::to_owned)
    };
    for dry in [
        client
            .create_tags()
            .resources(&id)
            .tags(tag("u@1"))
            .dry_run(true)
            .send()
            .await
            .map(drop)
            .map_err(|e| e.code().map(str::to_owned)),
        client
            .delete_tags()
            .resources(&id)
            .tags(tag("u@1"))
            .dry_run(true)
            .send()
            .await
            .map(drop)
            .map_err(|e| e.code().map(str::to_owned)),
    ] {
        assert_eq!(dry, Err(Some("DryRunOperation".to_owned())));
    }
    assert_eq!(seen().await, None);
    for value in ["u@1", "u@2"] {
        client.create_tags().resources(&id).tags(tag(value)).send().await.expect("a tag");
        assert_eq!(seen().await.as_deref(), Some(value));
    }
    client.delete_tags().resources(&id).tags(tag("u@1")).send().await.expect("nothing to remove is no error");
    assert_eq!(seen().await.as_deref(), Some("u@2"));
    client.delete_tags().resources(&id).tags(tag("u@2")).send().await.expect("removed");
    assert_eq!(seen().await, None);
    cluster.world.with(|w| w.facts_mut().denied.insert("CreateTags".into()));
    let error = client.create_tags().resources(&id).tags(tag("u@3")).send().await.expect_err("denied");
    assert_eq!(error.code(), Some("UnauthorizedOperation"));
    let error =
        client.delete_tags().resources("i-00000000000000fff").tags(tag("u@3")).send().await.expect_err("unknown");
    assert_eq!(error.code(), Some("InvalidInstanceID.NotFound"));
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_and_offers_are_told() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let client = client(&cluster);
    let types =
        client.describe_instance_types().instance_types(InstanceType::M7gLarge).send().await.expect("an answer");
    let known = &types.instance_types()[0];
    assert_eq!(known.processor_info().expect("a processor").supported_architectures(), [ArchitectureType::Arm64]);
    let error = client
        .describe_instance_types()
        .instance_types(InstanceType::from("x9.huge"))
        .send()
        .await
        .expect_err("no such type");
    assert_eq!(error.code(), Some("InvalidInstanceType"));

    let filter = Filter::builder().name("instance-type").values("m6i.large").build();
    let offers = client
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .filters(filter)
        .send()
        .await
        .expect("an answer");
    let mut zones: Vec<_> = offers.instance_type_offerings().iter().filter_map(|o| o.location()).collect();
    zones.sort_unstable();
    assert_eq!(zones, ["eu-west-1a", "eu-west-1b", "eu-west-1c"]);
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_come_as_ec2_words_them() {
    let mut config = config("23.10.5.0");
    config.faults.push(Fault::Throttled { percent: 100 });
    let throttled = Cluster::start(config).await;
    let error = client(&throttled).describe_instances().send().await.expect_err("too many");
    assert_eq!(error.code(), Some("RequestLimitExceeded"));
    assert_eq!(error.raw_response().map(|r| r.status().as_u16()), Some(503));
    throttled.wire.shutdown().await;

    let cluster = Cluster::start(support::config("23.10.5.0")).await;
    let client = client(&cluster);
    let error =
        client.describe_instances().instance_ids("i-00000000000000fff").send().await.expect_err("no such instance");
    assert_eq!(error.code(), Some("InvalidInstanceID.NotFound"));
    let error = client.describe_instances().instance_ids("nonsense").send().await.expect_err("no id");
    assert_eq!(error.code(), Some("InvalidInstanceID.Malformed"));
    let id = cluster.world.with(|w| w.instance_of(0).0.clone());
    let error = client.stop_instances().instance_ids(&id).dry_run(true).send().await.expect_err("a dry run");
    assert_eq!(error.code(), Some("DryRunOperation"));
    assert_eq!(error.raw_response().map(|r| r.status().as_u16()), Some(412));
    assert_eq!(state(&client, &id).await, InstanceStateName::Running);
    let error = client.describe_vpcs().send().await.expect_err("no such action");
    assert_eq!(error.code(), Some("InvalidAction"));
    assert_eq!(error.meta().message(), Some("The action DescribeVpcs is not valid for this web service."));
    cluster.wire.shutdown().await;
}
