//! `history`: every event of an update, as stored.

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::{Output, print, update_id};
use crate::codec::decode;
use crate::domain::ids::{Revision, UpdateId};
use crate::exit::Exit;
use crate::ports::{Clock, EventLog, StoredEvent};
use crate::views::columns;
use crate::views::timeline::Line;
use crate::worker::read_all;

/// Options of `history`.
#[derive(Args, Debug)]
#[command(after_help = "\
--output json prints one event a line, as stored: {\"revision\", \"at\", \"type\", \"data\", \"metadata\"}.

Examples:
  esdb-rollout history 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6
  esdb-rollout history 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6 --output json | jq 'select(.type == \"CaughtUp\")'")]
pub struct HistoryArgs {
    /// The update
    #[arg(value_name = "ID", value_parser = update_id)]
    pub id: UpdateId,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Prints every event of an update.
pub async fn run(args: HistoryArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let events = read_all(log, &args.id.stream(), Revision(0))
        .await
        .map_err(|e| Failure::from(e).during(format!("reading update {}", args.id)))?;
    if events.is_empty() {
        let text = format!("there is no update {} in this store; `esdb-rollout list` shows those there are", args.id);
        return Err(Failure::other(anyhow::anyhow!(text)));
    }
    match args.output {
        Output::Table => {
            let lines = events.iter().map(|e| Line::of(&decode(e, clock.now())).cells());
            let rows: Vec<Vec<String>> = std::iter::once(Line::titles()).chain(lines).collect();
            print(&columns(&rows))?;
        }
        Output::Json => {
            for event in &events {
                print(&json_line(event, clock))?;
            }
        }
    }
    Ok(Exit::Completed)
}

/// An event as one line of JSON.
pub fn json_line(event: &StoredEvent, clock: &dyn Clock) -> String {
    json!({
        "revision": event.revision,
        "at": decode(event, clock.now()).at,
        "type": event.event_type,
        "data": event.data,
        "metadata": event.metadata,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::ports::SystemClock;

    #[tokio::test]
    async fn a_line_holds_the_event_as_stored() {
        let event = StoredEvent {
            stream: "clusterUpdate-x".into(),
            revision: Revision(3),
            position: None,
            id: Uuid::nil(),
            event_type: "PauseRequested".into(),
            data: json!({ "by": "ada", "unknown": [1] }),
            metadata: json!({ "at": "2026-01-01T00:00:01.5Z", "x": 1 }),
            is_json: true,
            created: "2026-01-01T00:00:02Z".parse().unwrap(),
        };
        let clock = SystemClock::start_at("2026-01-01T00:00:00Z".parse().unwrap());
        let line: Value = serde_json::from_str(&json_line(&event, &clock)).unwrap();
        assert_eq!(
            line,
            json!({
                "revision": 3, "at": "2026-01-01T00:00:01.5Z", "type": "PauseRequested",
                "data": { "by": "ada", "unknown": [1] }, "metadata": { "at": "2026-01-01T00:00:01.5Z", "x": 1 }
            })
        );
        let without = StoredEvent { metadata: Value::Null, ..event };
        let line: Value = serde_json::from_str(&json_line(&without, &clock)).unwrap();
        assert_eq!(line["at"], "2026-01-01T00:00:02Z", "else the store's time");
    }
}
