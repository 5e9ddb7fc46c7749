//! A fleet reached with an access key that is given.

use aws_credential_types::Credentials;
use aws_sdk_ec2::config::SharedCredentialsProvider;

use super::{AwsConfig, Ec2Fleet};
use crate::ports::FleetError;

impl Ec2Fleet {
    /// [`connect`](Self::connect) with an access key in place of the SDK's chain: for an endpoint that checks none, such as the
    /// simulated one's.
    ///
    /// # Errors
    /// No region, with the remedy in the message.
    pub async fn connect_with_key(config: AwsConfig, access_key_id: &str, secret: &str) -> Result<Self, FleetError> {
        let key = Credentials::new(access_key_id, secret, None, None, "given");
        Self::with_credentials(config, Some(SharedCredentialsProvider::new(key))).await
    }
}
