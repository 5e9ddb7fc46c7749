//! The instance that this process runs on, as its metadata service says.

use std::time::Duration;

use aws_config::imds::Client;

use crate::domain::ids::InstanceId;

/// Time for a connection and for an answer: the service is in the machine itself and answers within milliseconds.
const ANSWER_TIME: Duration = Duration::from_millis(700);
/// Time for both of its answers, the token and the id.
const TIME: Duration = Duration::from_secs(2);
/// Forbids to ask, for every AWS tool.
const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";

/// Asks the metadata service (version 2) for the id of the instance that this process runs on. `None` where nobody answers in time: outside
/// of EC2, and in a container with a network of its own whose instance lets such answers travel one hop only.
pub async fn own_instance() -> Option<InstanceId> {
    if std::env::var(DISABLED).is_ok_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    ask(&patient(Client::builder()).build()).await
}

pub(super) fn patient(client: aws_config::imds::client::Builder) -> aws_config::imds::client::Builder {
    client
        .max_attempts(1)
        .connect_timeout(ANSWER_TIME)
        .read_timeout(ANSWER_TIME)
        .operation_attempt_timeout(ANSWER_TIME)
        .operation_timeout(TIME)
}

pub(super) async fn ask(client: &Client) -> Option<InstanceId> {
    match tokio::time::timeout(TIME, client.get("/latest/meta-data/instance-id")).await {
        Ok(Ok(id)) => Some(String::from(id)).filter(|id| id.starts_with("i-")).map(InstanceId),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no metadata service says on which instance this process runs");
            None
        }
        Err(_) => None,
    }
}
