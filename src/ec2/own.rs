//! The instance that this process runs on, as its metadata service says, or its firmware.

use std::path::Path;
use std::time::Duration;

use aws_config::imds::Client;

use crate::domain::ids::InstanceId;

/// Time for a connection and for an answer: the service is in the machine itself and answers within milliseconds.
const ANSWER_TIME: Duration = Duration::from_millis(700);
/// Time for both of its answers, the token and the id.
const TIME: Duration = Duration::from_secs(2);
/// Forbids to ask, for every AWS tool.
const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";

/// Where Linux shows what the firmware says of the machine, in containers too.
const FIRMWARE: &str = "/sys/devices/virtual/dmi/id";
/// Whom an instance of the Nitro system names as its vendor.
const VENDOR: &str = "Amazon EC2";

/// What this process knows of the machine that it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnMachine {
    /// The instance that it is.
    pub instance: Option<InstanceId>,
    /// Whether it is some instance of EC2.
    pub is_of_ec2: bool,
}

impl From<InstanceId> for OwnMachine {
    fn from(instance: InstanceId) -> Self {
        OwnMachine { instance: Some(instance), is_of_ec2: true }
    }
}

/// Asks the metadata service (version 2) for the id of the instance that this process runs on; and where nobody answers in time, as outside of
/// EC2, and in a container with a network of its own whose instance lets such answers travel one hop only, the firmware.
pub async fn own_machine() -> OwnMachine {
    let disabled = std::env::var(DISABLED).is_ok_and(|value| value.eq_ignore_ascii_case("true"));
    let told = if disabled { None } else { ask(&patient(Client::builder()).build()).await };
    match told {
        Some(id) => id.into(),
        None => by_firmware(Path::new(FIRMWARE)).await,
    }
}

/// What the firmware says: of Nitro it names the vendor, and the instance's id as the tag of its board.
pub(super) async fn by_firmware(directory: &Path) -> OwnMachine {
    let read = |name: &'static str| async move {
        match tokio::fs::read_to_string(directory.join(name)).await {
            Ok(text) => text.trim().to_owned(),
            Err(error) => {
                tracing::debug!(%error, name, "the firmware says nothing of the machine");
                String::new()
            }
        }
    };
    if read("sys_vendor").await != VENDOR {
        return OwnMachine::default();
    }
    let id = Some(read("board_asset_tag").await).filter(|tag| tag.starts_with("i-")).map(InstanceId);
    OwnMachine { instance: id, is_of_ec2: true }
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
