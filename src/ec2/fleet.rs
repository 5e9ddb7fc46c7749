//! [`Fleet`] over the AWS SDK.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::SharedCredentialsProvider;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_sdk_ec2::types::{AttributeValue, Filter, InstanceStateName, LocationType, Tag};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;

use super::{AwsConfig, OwnMachine, classify, details};
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::inspection::Inspection;
use crate::domain::instance::{FENCE_TAG, Instance, InstanceState, TypeInfo};
use crate::ports::{CallClass, Done, Fleet, FleetError, Wanted};

/// Time for one call, the SDK's own repeats of it (reads only) and a look-up of credentials included. EC2 answers within a
/// second or two; a call that changes something must have ended before its window is taken to be over.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Time for one try of a read.
const READ_TRY_TIME: Duration = Duration::from_secs(4);
/// Time for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Tries of a read, by the SDK.
const READ_TRIES: u32 = 3;
/// States in which an instance can still become a node again.
const LASTING: [&str; 4] = ["pending", "running", "stopping", "stopped"];

/// The instances of one account and region, by EC2's API.
///
/// Reads are repeated by the SDK; calls that change something are sent once, since each repeat needs an intent of its own.
#[derive(Clone, Debug)]
pub struct Ec2Fleet {
    pub(super) client: Client,
    /// Whether another endpoint than EC2's own is asked.
    moved: bool,
    own: OwnMachine,
}

impl Ec2Fleet {
    /// Finds region and credentials, and makes a client. Credentials are fetched at the first call:
    /// [`check_credentials`](Self::check_credentials) makes one.
    ///
    /// # Errors
    /// No region, with the remedy in the message.
    pub async fn connect(config: AwsConfig) -> Result<Self, FleetError> {
        Self::with_credentials(config, None).await
    }

    /// [`connect`](Self::connect), with a provider of credentials in place of the SDK's chain.
    pub(super) async fn with_credentials(
        config: AwsConfig,
        credentials: Option<SharedCredentialsProvider>,
    ) -> Result<Self, FleetError> {
        let AwsConfig { region, profile, role_arn, endpoint } = config;
        let time_outs = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIME)
            .operation_attempt_timeout(READ_TRY_TIME)
            .operation_timeout(CALL_TIME);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(
                RetryConfig::standard().with_max_attempts(READ_TRIES).with_initial_backoff(Duration::from_millis(200)),
            )
            .timeout_config(time_outs.build());
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials);
        }
        let mut shared = loader.load().await;
        if shared.region().is_none() {
            return Err(ours(
                "LoadConfiguration",
                "NoRegion",
                "no AWS region is set; name it in the cluster's `aws` section, in AWS_REGION or in the profile",
            ));
        }
        if let Some(role) = role_arn {
            let provider =
                AssumeRoleProvider::builder(role).configure(&shared).session_name("esdb-rollout").build().await;
            shared = shared.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build();
        }
        let moved = endpoint.is_some() || shared.endpoint_url().is_some() || is_set(ENDPOINT_OF_EC2);
        let mut builder = aws_sdk_ec2::config::Builder::from(&shared);
        if let Some(endpoint) = endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Ok(Self { client: Client::from_conf(builder.build()), moved, own: OwnMachine::default() })
    }

    /// Whether another endpoint than EC2's own is asked: then the instances may be simulated ones, on which nothing runs.
    pub fn is_moved(&self) -> bool {
        self.moved
    }

    /// The same instances, of which this process runs on that one.
    pub fn running_on(self, own: OwnMachine) -> Self {
        Self { own, ..self }
    }

    /// Whether there are credentials that may describe instances: a dry run, which reads nothing. It proves nothing about the
    /// calls that change something.
    ///
    /// # Errors
    /// As of any call; [`CallClass::Denied`] or [`CallClass::Unauthenticated`], with a remedy, where rights or credentials are missing.
    pub async fn check_credentials(&self) -> Result<(), FleetError> {
        match self.client.describe_instances().dry_run(true).send().await {
            Ok(_) => Ok(()),
            // The answer of a dry run that would have succeeded is an error.
            Err(e) if e.code() == Some("DryRunOperation") => Ok(()),
            Err(e) => Err(failed("DescribeInstances", e)),
        }
    }

    /// All instances that match, page by page.
    async fn matching(&self, ids: &[InstanceId], filters: Vec<Filter>) -> Result<Vec<Instance>, FleetError> {
        let ids = (!ids.is_empty()).then(|| ids.iter().map(|id| id.0.clone()).collect());
        let filters = (!filters.is_empty()).then_some(filters);
        let request = self.client.describe_instances().set_instance_ids(ids).set_filters(filters);
        let mut reservations = request.into_paginator().items().send();
        let mut instances = Vec::new();
        while let Some(reservation) = reservations.next().await {
            let reservation = reservation.map_err(|e| failed("DescribeInstances", e))?;
            for instance in reservation.instances() {
                instances.push(observed(instance)?);
            }
        }
        Ok(instances)
    }

    /// What is there after a call that said `IncorrectInstanceState`: perhaps what was wanted all along.
    async fn already(
        &self,
        error: FleetError,
        id: &InstanceId,
        wanted: impl Fn(&Instance) -> bool,
    ) -> Result<Done, FleetError> {
        if error.class != CallClass::Wait {
            return Err(error);
        }
        match self.describe(std::slice::from_ref(id)).await {
            Ok(found) if found.iter().any(|i| i.id == *id && wanted(i)) => Ok(Done { request_id: error.request_id }),
            Ok(_) => Err(error),
            Err(look) => {
                tracing::debug!(%look, "no look at the instance after a refusal");
                Err(error)
            }
        }
    }
}

/// Names another endpoint for EC2 alone.
const ENDPOINT_OF_EC2: &str = "AWS_ENDPOINT_URL_EC2";

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// For calls that change something: one try, and its time.
fn once() -> aws_sdk_ec2::config::Builder {
    let time_outs = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIME)
        .operation_attempt_timeout(CALL_TIME)
        .operation_timeout(CALL_TIME)
        .build();
    aws_sdk_ec2::Config::builder().retry_config(RetryConfig::disabled()).timeout_config(time_outs)
}

pub(super) fn fence_tag(value: &str) -> Tag {
    Tag::builder().key(FENCE_TAG).value(value).build()
}

pub(super) fn filter(name: &str, values: impl IntoIterator<Item = impl AsRef<str>>) -> Filter {
    let values = values.into_iter().map(|v| literal(v.as_ref())).collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// A filter's value taken by the letter: `*` and `?` would match anything, and so somebody else's instance.
fn literal(value: &str) -> String {
    value.chars().flat_map(|c| matches!(c, '*' | '?' | '\\').then_some('\\').into_iter().chain([c])).collect()
}

pub(super) fn text(value: &Option<String>) -> Option<String> {
    value.clone().filter(|v| !v.is_empty())
}

fn observed(found: &aws_sdk_ec2::types::Instance) -> Result<Instance, FleetError> {
    let unreadable = |what: &str| ours("DescribeInstances", "Unreadable", format!("an instance without {what}"));
    let id = text(&found.instance_id).ok_or_else(|| unreadable("an id"))?;
    let instance_type = found.instance_type.as_ref().ok_or_else(|| unreadable(&format!("a type ({id})")))?;
    let tag = |key: &str| found.tags().iter().find(|t| t.key() == Some(key)).and_then(|t| text(&t.value));
    let state = found.state.as_ref().and_then(|s| s.name.as_ref());
    Ok(Instance {
        id: InstanceId(id),
        instance_type: InstanceType(instance_type.as_str().to_owned()),
        state: state.map_or(InstanceState::Unrecognized, state_of),
        state_reason: found.state_reason.as_ref().and_then(|r| text(&r.code)),
        transition_reason: text(&found.state_transition_reason),
        private_ip: found.private_ip_address.as_ref().and_then(|ip| ip.parse().ok()),
        private_dns: text(&found.private_dns_name),
        zone: found.placement.as_ref().and_then(|p| text(&p.availability_zone)),
        name_tag: tag("Name"),
        root_device: found.root_device_type.as_ref().map(|d| d.as_str().to_owned()),
        lifecycle: found.instance_lifecycle.as_ref().map(|l| l.as_str().to_owned()),
        architecture: found.architecture.as_ref().map(|a| a.as_str().to_owned()),
        auto_scaling_group: tag("aws:autoscaling:groupName"),
        hibernation: found.hibernation_options.as_ref().and_then(|h| h.configured).unwrap_or(false),
        details: details::instance(found),
    })
}

fn state_of(name: &InstanceStateName) -> InstanceState {
    match name.as_str() {
        "pending" => InstanceState::Pending,
        "running" => InstanceState::Running,
        "shutting-down" => InstanceState::ShuttingDown,
        "terminated" => InstanceState::Terminated,
        "stopping" => InstanceState::Stopping,
        "stopped" => InstanceState::Stopped,
        _ => InstanceState::Unrecognized,
    }
}

fn ours(call: &str, code: &str, message: impl Into<String>) -> FleetError {
    FleetError {
        call: call.to_owned(),
        class: classify(code),
        code: code.to_owned(),
        message: message.into(),
        request_id: None,
    }
}

/// An SDK error as ours: EC2's code if it sent one, else what stopped the call on its way.
pub(super) fn failed<E>(call: &str, error: SdkError<E>) -> FleetError
where
    E: Error + ProvideErrorMetadata + 'static,
{
    let request_id = error.request_id().map(str::to_owned);
    if let Some(code) = error.code().filter(|code| !code.is_empty()) {
        let message = error.message().unwrap_or("no message").to_owned();
        let message = match classify(code) {
            CallClass::Denied | CallClass::Unauthenticated => {
                format!("{message}; check the credentials, the role and its policy")
            }
            CallClass::Retry | CallClass::Unknown | CallClass::Wait | CallClass::Capacity | CallClass::Terminal => {
                message
            }
        };
        return FleetError { call: call.to_owned(), class: classify(code), code: code.to_owned(), message, request_id };
    }
    let status = error.raw_response().map(|r| r.status().as_u16());
    let shown = chain(&error);
    let (code, message) = match credentials_problem(&error) {
        Some(code) => {
            (code, format!("no usable AWS credentials: {shown}; check the profile, the role and the environment"))
        }
        None if is_timeout(&error) => ("Timeout", shown),
        None => match (&error, status) {
            // Without a code, the status must do: what the server broke, it may mend.
            (_, Some(500..)) => ("ServiceUnavailable", shown),
            (_, Some(401 | 403)) => ("AccessDenied", shown),
            (SdkError::ServiceError(_), _) => ("NoCode", shown),
            (SdkError::ResponseError(_), _) => ("Unreadable", shown),
            (SdkError::ConstructionFailure(_), _) => ("NotSent", shown),
            _ => ("Unreachable", shown),
        },
    };
    FleetError { request_id, ..ours(call, code, message) }
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = sources(error).map(ToString::to_string).collect();
    texts.join(": ")
}

fn is_timeout<E: Error + 'static>(error: &SdkError<E>) -> bool {
    matches!(error, SdkError::TimeoutError(_)) || matches!(error, SdkError::DispatchFailure(d) if d.is_timeout())
}

/// Our code for a call that found no credentials: ours to retry if the provider was only slow or unwell.
fn credentials_problem(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let problem = sources(error).find_map(|e| e.downcast_ref::<CredentialsError>())?;
    let refused_by_sts = sources(problem).find_map(|e| e.downcast_ref::<SdkError<AssumeRoleError>>());
    Some(match (problem, refused_by_sts) {
        (CredentialsError::ProviderTimedOut(_), _) => "Timeout",
        (_, Some(SdkError::ServiceError(refusal))) => match refusal.err().code().map(classify) {
            Some(CallClass::Retry | CallClass::Unknown) => "ServiceUnavailable",
            Some(
                CallClass::Wait
                | CallClass::Capacity
                | CallClass::Terminal
                | CallClass::Denied
                | CallClass::Unauthenticated,
            )
            | None => "NoCredentials",
        },
        (_, Some(SdkError::TimeoutError(_))) => "Timeout",
        (_, Some(SdkError::DispatchFailure(_) | SdkError::ResponseError(_))) => "Unreachable",
        _ => "NoCredentials",
    })
}

#[async_trait]
impl Fleet for Ec2Fleet {
    fn own_instance(&self) -> Option<&InstanceId> {
        self.own.instance.as_ref()
    }

    fn runs_on_some_instance(&self) -> bool {
        self.own.is_of_ec2
    }

    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        // Without ids EC2 describes all there are.
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        match self.matching(ids, Vec::new()).await {
            // One unknown id fails the whole call; as a filter it just matches nothing.
            Err(e) if e.code == "InvalidInstanceID.NotFound" => {
                self.matching(&[], vec![filter("instance-id", ids.iter().map(InstanceId::as_str))]).await
            }
            other => other,
        }
    }

    async fn find(&self, wanted: &Wanted) -> Result<Vec<Instance>, FleetError> {
        let lasting = filter("instance-state-name", LASTING);
        let filters: Vec<Filter> = match wanted {
            Wanted::PrivateIps(ips) => {
                let of = |name: &str, v4: bool| {
                    let ips: Vec<String> = ips.iter().filter(|ip| ip.is_ipv4() == v4).map(IpAddr::to_string).collect();
                    (!ips.is_empty()).then(|| filter(name, ips))
                };
                let v4 = of("network-interface.addresses.private-ip-address", true);
                let v6 = of("network-interface.ipv6-addresses.ipv6-address", false);
                v4.into_iter().chain(v6).collect()
            }
            Wanted::PrivateDns(names) if names.is_empty() => Vec::new(),
            Wanted::PrivateDns(names) => vec![filter("private-dns-name", names)],
            Wanted::Tag { values, .. } if values.is_empty() => Vec::new(),
            Wanted::Tag { key, values } => vec![filter(&format!("tag:{key}"), values)],
        };
        let mut found: Vec<Instance> = Vec::new();
        // Filters of one call must all match, and here one is enough: a call each.
        for one in filters {
            for instance in self.matching(&[], vec![one, lasting.clone()]).await? {
                if !found.iter().any(|f| f.id == instance.id) {
                    found.push(instance);
                }
            }
        }
        found.retain(|i| !matches!(i.state, InstanceState::ShuttingDown | InstanceState::Terminated));
        Ok(found)
    }

    async fn type_info(&self, instance_type: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        let wanted = aws_sdk_ec2::types::InstanceType::from(instance_type.as_str());
        let described = match self.client.describe_instance_types().instance_types(wanted).send().await {
            Ok(described) => described,
            Err(e) if e.code() == Some("InvalidInstanceType") => return Ok(None),
            Err(e) => return Err(failed("DescribeInstanceTypes", e)),
        };
        let named = |t: &&aws_sdk_ec2::types::InstanceTypeInfo| {
            t.instance_type.as_ref().is_some_and(|t| t.as_str() == instance_type.as_str())
        };
        let Some(info) = described.instance_types().iter().find(named) else { return Ok(None) };
        let architectures = info.processor_info.as_ref().map(|p| p.supported_architectures()).unwrap_or_default();
        let mut offerings = self
            .client
            .describe_instance_type_offerings()
            .location_type(LocationType::AvailabilityZone)
            .filters(filter("instance-type", [instance_type.as_str()]))
            .into_paginator()
            .items()
            .send();
        let mut zones = std::collections::BTreeSet::new();
        while let Some(offering) = offerings.next().await {
            let offering = offering.map_err(|e| failed("DescribeInstanceTypeOfferings", e))?;
            zones.extend(text(&offering.location));
        }
        Ok(Some(TypeInfo {
            instance_type: instance_type.clone(),
            architectures: architectures.iter().map(|a| a.as_str().to_owned()).collect(),
            zones: zones.into_iter().collect(),
            details: details::of_type(info),
        }))
    }

    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        self.inspected(instances).await
    }

    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        match self.client.stop_instances().instance_ids(id.as_str()).customize().config_override(once()).send().await {
            Ok(done) => Ok(Done { request_id: done.request_id().map(str::to_owned) }),
            Err(e) => {
                let stopped = |i: &Instance| matches!(i.state, InstanceState::Stopping | InstanceState::Stopped);
                self.already(failed("StopInstances", e), id, stopped).await
            }
        }
    }

    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        let value = AttributeValue::builder().value(to.as_str()).build();
        let request = self.client.modify_instance_attribute().instance_id(id.as_str()).instance_type(value);
        match request.customize().config_override(once()).send().await {
            Ok(done) => Ok(Done { request_id: done.request_id().map(str::to_owned) }),
            Err(e) => self.already(failed("ModifyInstanceAttribute", e), id, |i| i.instance_type == *to).await,
        }
    }

    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        match self.client.start_instances().instance_ids(id.as_str()).customize().config_override(once()).send().await {
            Ok(done) => Ok(Done { request_id: done.request_id().map(str::to_owned) }),
            Err(e) => {
                let started = |i: &Instance| matches!(i.state, InstanceState::Pending | InstanceState::Running);
                self.already(failed("StartInstances", e), id, started).await
            }
        }
    }

    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        let request = self.client.reboot_instances().instance_ids(id.as_str());
        match request.customize().config_override(once()).send().await {
            Ok(done) => Ok(Done { request_id: done.request_id().map(str::to_owned) }),
            Err(e) => Err(failed("RebootInstances", e)),
        }
    }

    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        let request = self.client.create_tags().resources(id.as_str()).tags(fence_tag(value));
        match request.customize().config_override(once()).send().await {
            Ok(done) => Ok(Done { request_id: done.request_id().map(str::to_owned) }),
            Err(e) => Err(failed("CreateTags", e)),
        }
    }

    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        // Given with its value, another's tag is not removed.
        let request = self.client.delete_tags().resources(id.as_str()).tags(fence_tag(value));
        match request.customize().config_override(once()).send().await {
            Ok(done) => Ok(Done { request_id: done.request_id().map(str::to_owned) }),
            Err(e) => Err(failed("DeleteTags", e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_their_values_by_the_letter() {
        assert_eq!(literal("esdb-*?\\x"), r"esdb-\*\?\\x");
        assert_eq!(literal("10.0.0.1"), "10.0.0.1");
    }
}
