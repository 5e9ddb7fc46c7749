//! What a rehearsal found, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::waits::{Waits, tenths};
use crate::domain::ids::{InstanceType, NodeName};
use crate::esdb::{PROBE_EVENT, ProbeEvent, Seen};
use crate::exit::Exit;
use crate::ports::StoredEvent;
use crate::update::event::{Event, NodeResult, PhaseSeconds, Role};
use crate::update::state::{Body, End, Recorded, State};
use crate::views::{columns, plain};

/// How an update stood when it was last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// All nodes done.
    Completed,
    /// It failed.
    Failed,
    /// It was cancelled, or superseded.
    Cancelled,
    /// It was rejected.
    Rejected,
    /// It waits for a person.
    Parked,
    /// It goes on.
    Running,
}

impl Verdict {
    /// The verdict of a state.
    pub fn of(state: &State) -> Verdict {
        match &state.end {
            Some(End::Completed(_)) => Verdict::Completed,
            Some(End::Failed(_)) => Verdict::Failed,
            Some(End::Cancelled(_) | End::Superseded(_)) => Verdict::Cancelled,
            Some(End::Rejected(_)) => Verdict::Rejected,
            None if state.needs_a_person() => Verdict::Parked,
            None => Verdict::Running,
        }
    }

    /// As it is spelt.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Completed => "completed",
            Verdict::Failed => "failed",
            Verdict::Cancelled => "cancelled",
            Verdict::Rejected => "rejected",
            Verdict::Parked => "parked",
            Verdict::Running => "running",
        }
    }
}

/// What became of the probe's writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Writes {
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that are gone.
    pub lost: u64,
    /// Events that stand there more than once, each further one.
    pub duplicated: u64,
    /// Longest wall time without an acknowledgement.
    pub longest_gap_ms: u64,
    /// When that began, from the first acknowledgement on.
    #[serde(skip)]
    pub longest_gap_at: Duration,
}

impl Writes {
    /// Compares what the probe saw with what its stream holds.
    pub fn compare(seen: Seen, stored: &[StoredEvent]) -> Writes {
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        for event in stored.iter().filter(|e| e.event_type == PROBE_EVENT) {
            match serde_json::from_value::<ProbeEvent>(event.data.clone()) {
                Ok(ProbeEvent { number }) => *found.entry(number).or_default() += 1,
                Err(error) => {
                    tracing::error!(%error, revision = %event.revision, "an event of the probe cannot be read")
                }
            }
        }
        Writes {
            acknowledged: seen.acknowledged,
            lost: (0..seen.acknowledged).filter(|number| !found.contains_key(number)).count() as u64,
            duplicated: found.values().map(|times| times - 1).sum(),
            longest_gap_ms: u64::try_from(seen.longest_gap.as_millis()).unwrap_or(u64::MAX),
            longest_gap_at: seen.longest_gap_at,
        }
    }
}

/// One node, as the update left it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its name.
    pub name: NodeName,
    /// Its role when it was selected.
    pub role_at_selection: Option<Role>,
    /// Its type before.
    pub from_type: Option<InstanceType>,
    /// Its type afterwards; absent if it did not come to that.
    pub to_type: Option<InstanceType>,
    /// Seconds per phase; none if it did not come to that.
    #[serde(serialize_with = "phases")]
    pub seconds: Option<PhaseSeconds>,
    /// How it ended.
    pub result: NodeResult,
}

fn phases<S: serde::Serializer>(seconds: &Option<PhaseSeconds>, to: S) -> Result<S::Ok, S::Error> {
    match seconds {
        Some(seconds) => seconds.serialize(to),
        None => Value::Object(serde_json::Map::new()).serialize(to),
    }
}

/// What a rehearsal found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How the update ended.
    pub verdict: Verdict,
    /// Seed of the world.
    pub seed: u64,
    /// How much quicker than real EC2 was.
    pub speed: f64,
    /// Events in the update's stream.
    pub events: u64,
    /// Elections in the world from the request to the end.
    pub elections: u64,
    /// From the request to the end.
    pub wall_seconds: f64,
    /// What had to be waited for.
    pub waits: Waits,
    /// The probe's writes.
    pub writes: Writes,
    /// The nodes that were taken in hand, in that order.
    pub nodes: Vec<NodeReport>,
    /// The code to exit with.
    #[serde(skip)]
    pub exit: Exit,
    /// What a person should know beside the numbers.
    #[serde(skip)]
    pub remarks: Vec<String>,
}

/// What was measured of a run.
pub(super) struct Measured {
    pub seed: u64,
    pub speed: f64,
    pub elections: u64,
    pub wall: Duration,
    pub waits: Waits,
    pub writes: Writes,
    pub timed_out: bool,
}

impl Report {
    pub(super) fn new(history: &[Recorded], state: &State, measured: Measured, mut remarks: Vec<String>) -> Report {
        let Measured { seed, speed, elections, wall, waits, writes, timed_out } = measured;
        let unharmed = writes.lost == 0 && writes.duplicated == 0;
        let exit = match Exit::of(state) {
            Some(Exit::Completed) if !unharmed => Exit::Other,
            Some(exit) => exit,
            None if timed_out => Exit::TimedOut,
            None => Exit::Other,
        };
        if !unharmed {
            remarks.push(
                "acknowledged events were lost or doubled: this must never happen, please report it with the seed"
                    .to_owned(),
            );
        }
        if let Some(broken) = &state.broken {
            remarks.push(format!("the history cannot be trusted: {broken}"));
        }
        let told = match &state.end {
            Some(End::Completed(e)) => Some(e.elections),
            Some(End::Failed(e)) => Some(e.elections),
            Some(End::Cancelled(e)) => Some(e.elections),
            Some(End::Superseded(e)) => Some(e.elections),
            Some(End::Rejected(_)) | None => None,
        };
        if let Some(told) = told.filter(|told| u64::from(*told) != elections) {
            remarks.push(format!("the update says that it caused {told} elections, the world counted {elections}"));
        }
        Report {
            verdict: Verdict::of(state),
            seed,
            speed,
            events: history.len() as u64,
            elections,
            wall_seconds: tenths(wall),
            waits,
            writes,
            nodes: nodes(history, state),
            exit,
            remarks,
        }
    }

    /// The table of nodes and the figures.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.nodes.is_empty() {
            text.push_str(&columns(&self.rows()));
            text.push('\n');
        }
        let Waits { unavoidable_seconds, gates_seconds, ratio } = self.waits;
        let Writes { acknowledged, lost, duplicated, longest_gap_ms, longest_gap_at } = self.writes;
        let figures = [
            ("verdict", self.verdict.name().to_owned()),
            ("elections caused", self.elections.to_string()),
            ("events recorded", self.events.to_string()),
            (
                "writes meanwhile",
                format!(
                    "{acknowledged} acknowledged, {lost} lost, {duplicated} doubled; longest gap {longest_gap_ms} ms, after {:.1} s",
                    longest_gap_at.as_secs_f64()
                ),
            ),
            (
                "wall time",
                format!(
                    "{:.1} s, {ratio:.2} × the waits: {unavoidable_seconds:.1} s EC2, boot, catch-up and an election, \
                     {gates_seconds:.1} s our own gates",
                    self.wall_seconds
                ),
            ),
            ("to repeat", format!("--seed {} --speed {}", self.seed, self.speed)),
        ];
        for (name, value) in figures {
            let _ = writeln!(text, "{name:<18}{value}");
        }
        for remark in &self.remarks {
            let _ = writeln!(text, "{:<18}{}", "note", plain(remark));
        }
        text
    }

    fn rows(&self) -> Vec<Vec<String>> {
        const TITLES: [&str; 11] =
            ["NODE", "ROLE", "FROM", "TO", "PREPARE", "STOP", "MODIFY", "START", "REJOIN", "CATCH-UP", "TOTAL"];
        let mut rows = vec![TITLES.map(String::from).to_vec()];
        for node in &self.nodes {
            let of = |t: &Option<InstanceType>| t.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            let role = node.role_at_selection.map_or_else(|| "-".to_owned(), |r| r.to_string());
            let mut row = vec![node.name.to_string(), role, of(&node.from_type), of(&node.to_type)];
            match &node.seconds {
                Some(PhaseSeconds { prepare, stop, modify, start, rejoin, catch_up, total }) => {
                    row.extend([prepare, stop, modify, start, rejoin, catch_up, total].map(|s| format!("{s:.1}s")));
                }
                None => row.push(node.result.to_string()),
            }
            if node.result == NodeResult::RolledBack {
                row.push(node.result.to_string());
            }
            rows.push(row);
        }
        rows
    }
}

/// The nodes that were taken in hand, in the order in which they were let go; one that is still in hand is last.
fn nodes(history: &[Recorded], state: &State) -> Vec<NodeReport> {
    let mut nodes: Vec<NodeReport> = Vec::new();
    let mut report = |name: &NodeName, to_type: Option<&InstanceType>, seconds: Option<&PhaseSeconds>, result| {
        let planned = state.member(name);
        nodes.retain(|n| n.name != *name);
        nodes.push(NodeReport {
            name: name.clone(),
            role_at_selection: state.roles.get(name).copied(),
            from_type: planned.map(|p| p.old_type.clone()),
            to_type: to_type.cloned(),
            seconds: seconds.cloned(),
            result,
        });
    };
    for recorded in history {
        let Body::Event(event) = &recorded.body else { continue };
        if let Event::NodeUpdated(e) = &**event {
            report(&e.node, Some(&e.instance_type), Some(&e.seconds), NodeResult::Updated);
        } else if let Event::NodeRolledBack(e) = &**event {
            report(&e.node, Some(&e.instance_type), Some(&e.seconds), NodeResult::RolledBack);
        } else if let Event::NodeFailed(e) = &**event {
            report(&e.node, state.types.get(&e.node), None, NodeResult::Failed);
        }
    }
    if let Some(in_hand) = &state.in_hand {
        report(&in_hand.node, None, None, NodeResult::Pending);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::ids::{Revision, StreamName};

    fn stored(numbers: &[u64]) -> Vec<StoredEvent> {
        let event = |(revision, number): (u64, &u64)| StoredEvent {
            stream: StreamName::from("probe"),
            revision: Revision(revision),
            position: None,
            id: uuid::Uuid::nil(),
            event_type: PROBE_EVENT.to_owned(),
            data: json!({ "number": number }),
            metadata: Value::Null,
            is_json: true,
            created: jiff::Timestamp::UNIX_EPOCH,
        };
        (0..).zip(numbers).map(event).collect()
    }

    fn seen(acknowledged: u64) -> Seen {
        Seen { acknowledged, longest_gap: Duration::from_millis(912), ..Seen::default() }
    }

    #[test]
    fn writes_are_counted_against_the_stream() {
        let table: [(u64, &[u64], u64, u64); 5] = [
            (3, &[0, 1, 2], 0, 0),
            // Written, not acknowledged: neither lost nor doubled.
            (3, &[0, 1, 2, 3], 0, 0),
            (3, &[0, 2], 1, 0),
            (3, &[0, 1, 1, 2, 2, 2], 0, 3),
            (2, &[], 2, 0),
        ];
        for (acknowledged, numbers, lost, duplicated) in table {
            let writes = Writes::compare(seen(acknowledged), &stored(numbers));
            assert_eq!((writes.lost, writes.duplicated), (lost, duplicated), "{numbers:?}");
        }
    }

    #[test]
    fn json_is_as_the_contract_says() {
        let measured = |writes| Measured {
            seed: 7,
            speed: 10.0,
            elections: 1,
            wall: Duration::from_millis(61_234),
            waits: Waits { unavoidable_seconds: 34.5, gates_seconds: 22.0, ratio: 1.08 },
            writes,
            timed_out: false,
        };
        let report = Report::new(&[], &State::default(), measured(Writes::compare(seen(2), &stored(&[0, 1]))), vec![]);
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"verdict":"running","seed":7,"speed":10.0,"events":0,"elections":1,"wallSeconds":61.2,"waits":{"unavoidableSeconds":34.5,"gatesSeconds":22.0,"ratio":1.08},"writes":{"acknowledged":2,"lost":0,"duplicated":0,"longestGapMs":912},"nodes":[]}"#
        );
        let node = NodeReport {
            name: "esdb-1".into(),
            role_at_selection: Some(Role::Follower),
            from_type: Some("m6i.large".into()),
            to_type: None,
            seconds: None,
            result: NodeResult::Failed,
        };
        assert_eq!(
            serde_json::to_string(&node).unwrap(),
            r#"{"name":"esdb-1","roleAtSelection":"Follower","fromType":"m6i.large","toType":null,"seconds":{},"result":"failed"}"#
        );
    }

    #[test]
    fn a_loss_is_never_a_success() {
        let completed =
            crate::update::event::UpdateCompleted { seconds: 1.0, nodes: vec![], elections: 1, not_running: vec![] };
        let state = State { end: Some(End::Completed(completed)), ..State::default() };
        for (numbers, exit) in [(&[0, 1][..], Exit::Completed), (&[0], Exit::Other), (&[0, 1, 1], Exit::Other)] {
            let measured = Measured {
                seed: 7,
                speed: 10.0,
                elections: 1,
                wall: Duration::from_secs(60),
                waits: Waits { unavoidable_seconds: 1.0, gates_seconds: 1.0, ratio: 1.0 },
                writes: Writes::compare(seen(2), &stored(numbers)),
                timed_out: false,
            };
            assert_eq!(Report::new(&[], &state, measured, vec![]).exit, exit, "{numbers:?}");
        }
    }
}
