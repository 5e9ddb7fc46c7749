//! The official Rust client starts an update, pauses it, and reads its whole history back.

use eventstore::{AppendToStreamOptions, Client, EventData, ExpectedRevision, ReadStreamOptions, Result};
use serde_json::{Value, json};
use uuid::Uuid;

/// Appends to the stream of an update.
async fn append(client: &Client, update: Uuid, expected: ExpectedRevision, kind: &str, data: Value) -> Result<()> {
    let options = AppendToStreamOptions::default().expected_revision(expected);
    let event = EventData::json(kind, &data).expect("JSON");
    client.append_to_stream(format!("clusterUpdate-{update}"), &options, event).await.map(|_| ())
}

/// Appends `UpdateRequested` to a fresh stream; gives the update's id.
pub async fn start(client: &Client, cluster: &str, instance_type: &str) -> Result<Uuid> {
    let update = Uuid::new_v4();
    let request = json!({ "cluster": cluster, "targetInstanceType": instance_type, "by": "rust" });
    append(client, update, ExpectedRevision::NoStream, "UpdateRequested", request).await?;
    Ok(update)
}

/// Appends `PauseRequested`.
pub async fn pause(client: &Client, update: Uuid) -> Result<()> {
    let why = json!({ "by": "rust", "why": "a look first" });
    append(client, update, ExpectedRevision::StreamExists, "PauseRequested", why).await
}

/// The whole history: type and data of each event.
pub async fn history(client: &Client, update: Uuid) -> Result<Vec<(String, Value)>> {
    let mut events = client.read_stream(format!("clusterUpdate-{update}"), &ReadStreamOptions::default()).await?;
    let mut history = Vec::new();
    while let Some(resolved) = events.next().await? {
        let event = resolved.get_original_event();
        history.push((event.event_type.clone(), event.as_json().expect("JSON")));
    }
    Ok(history)
}
