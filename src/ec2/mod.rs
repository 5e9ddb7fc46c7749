//! The EC2 adapter: the only place that says `aws_`. Nothing of the SDK leaves it.

mod details;
mod fleet;
mod inspect;
mod key;
mod own;
#[cfg(all(test, feature = "esdb"))]
mod tests;

pub use crate::domain::ec2::classify;
pub use fleet::Ec2Fleet;
pub use own::{OwnMachine, own_machine};

/// Where and as whom EC2 is called. What is absent comes from the SDK's own chain: environment, profile, container, instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsConfig {
    /// Region, such as `eu-west-1`.
    pub region: Option<String>,
    /// Profile of the shared configuration files.
    pub profile: Option<String>,
    /// Role to assume with the credentials found.
    pub role_arn: Option<String>,
    /// URL to call in place of EC2's, for tests and private endpoints. Outranks `AWS_ENDPOINT_URL_EC2`; STS is not moved.
    pub endpoint: Option<String>,
}
