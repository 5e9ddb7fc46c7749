//! An update's history for people: one line an event.

use std::fmt;

use super::why::numbers;
use super::{plain, short_seconds};
use crate::domain::catch_up::DataKept;
use crate::domain::ids::{InstanceId, InstanceType, NodeName, Revision};
use crate::update::event::*;
use crate::update::state::{Body, Recorded, node_of};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub at: jiff::Timestamp,
    /// Its revision.
    pub revision: Revision,
    /// Its stored type.
    pub type_name: String,
    /// The node it is about.
    pub node: Option<NodeName>,
    /// What it says beside that.
    pub essence: String,
}

impl Line {
    /// The line of an event.
    pub fn of(recorded: &Recorded) -> Self {
        let (type_name, node, essence) = match &recorded.body {
            Body::Event(event) => (event.type_name().to_owned(), node_of(event).cloned(), essence(event)),
            Body::Unreadable { type_name, problem } => (type_name.clone(), None, format!("cannot be read: {problem}")),
            Body::Newer { type_name } => {
                (type_name.clone(), None, "written by a newer version of this program".to_owned())
            }
        };
        Self { at: recorded.at, revision: recorded.revision, type_name, node, essence }
    }

    /// Its cells: time, revision, type, node, essence.
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            self.revision.to_string(),
            self.type_name.clone(),
            self.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            self.essence.clone(),
        ]
    }

    /// Titles of the cells.
    pub fn titles() -> Vec<String> {
        ["TIME", "REVISION", "TYPE", "NODE", "WHAT"].map(String::from).to_vec()
    }
}

/// In columns that fit nearly every event, for lines that are printed as they come.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.strftime("%H:%M:%SZ");
        let node = self.node.as_ref().map_or("", NodeName::as_str);
        let text = format!("{at}  {:>4}  {:<28}  {node:<10}  {}", self.revision.0, self.type_name, self.essence);
        f.write_str(plain(&text).trim_end())
    }
}

fn asked(by: &Option<String>, why: &Option<String>) -> String {
    match (by, why) {
        (Some(by), Some(why)) => format!("by {by}: {why}"),
        (Some(by), None) => format!("by {by}"),
        (None, Some(why)) => why.clone(),
        (None, None) => String::new(),
    }
}

fn join(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
}

fn answers(answers: Revision, check: &Option<String>, by: &Option<String>, why: &Option<String>) -> String {
    join([
        format!("answers {answers}"),
        check.as_ref().map(|c| format!("check {c}")).unwrap_or_default(),
        asked(by, why),
    ])
}

fn reasons(reasons: &[Reason]) -> String {
    reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join("; ")
}

fn types(types: &[InstanceType]) -> String {
    types.iter().map(InstanceType::as_str).collect::<Vec<_>>().join(", ")
}

fn names(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

fn attempt(attempt: u32) -> String {
    if attempt > 1 { format!("attempt {attempt}") } else { String::new() }
}

fn ticket(used: bool) -> String {
    if used { "by return ticket".into() } else { String::new() }
}

fn tag(instance: &InstanceId, value: &str) -> String {
    format!("{instance} with {value}")
}

fn request(e: &UpdateRequested) -> String {
    join([
        format!("{:?} of {}", e.strategy, e.cluster),
        e.target_instance_type.as_ref().map(|t| format!("to {t}")).unwrap_or_default(),
        e.nodes.as_ref().map(|n| format!("nodes {}", names(n))).unwrap_or_default(),
        asked(&e.by, &e.why),
    ])
}

fn end(seconds: f64, elections: u32, not_running: &[NodeName]) -> String {
    let down = if not_running.is_empty() { String::new() } else { format!("NOT RUNNING: {}", names(not_running)) };
    let plural = if elections == 1 { "" } else { "s" };
    join([format!("after {}", short_seconds(seconds)), format!("{elections} election{plural}"), down])
}

/// What an event says beside its type and node, in a few words.
pub fn essence(event: &Event) -> String {
    match event {
        Event::UpdateRequested(e) => request(e),
        Event::PauseRequested(e) => asked(&e.by, &e.why),
        Event::ResumeRequested(e) => asked(&e.by, &e.why),
        Event::CancelRequested(e) => {
            let instead = e.superseded_by.map(|u| format!("in favour of {u}")).unwrap_or_default();
            join([instead, asked(&e.by, &e.why)])
        }
        Event::RollbackRequested(e) => asked(&e.by, &e.why),
        Event::RetryRequested(e) => answers(e.answers, &e.check, &e.by, &e.why),
        Event::ApprovalGranted(e) => answers(e.answers, &e.check, &e.by, &e.why),
        Event::CheckWaived(e) => answers(e.answers, &e.check, &e.by, &e.why),
        Event::WorkerAssigned(e) => {
            let because = match e.reason {
                AssignedBecause::Admitted => "which admitted it",
                AssignedBecause::Silent => "the one before fell silent",
                AssignedBecause::HandedOver => "the one before handed it over",
            };
            format!("{}, {because}", e.worker)
        }
        Event::UpdateAccepted(e) => format!("cluster {}", e.cluster_id),
        Event::UpdateRejected(e) => reasons(&e.reasons),
        Event::UpdatePlanned(e) => {
            format!("{} voters, {} members, in order {}", e.voters.0, e.members.len(), names(&e.order))
        }
        Event::CommandRefused(e) => {
            format!("{} at {}: {}", e.command.type_name, e.command.revision, reasons(&e.reasons))
        }
        Event::NodeSelected(e) => format!("{}: {}", e.role, e.because),
        Event::NodeSkipped(e) => format!("{}: {}", e.role, e.because),
        Event::PriorityLoweringRequested(e) => join([format!("{} → {}", e.original, e.priority), attempt(e.attempt)]),
        Event::PriorityLowered(e) => format!("{} → {}", e.original, e.priority),
        Event::ResignationRequested(e) => attempt(e.attempt),
        Event::LeadershipTransferred(e) => format!("{} leads, epoch {}", e.new_leader, e.epoch),
        Event::InstanceStopRequested(e) => {
            join([format!("{}, may return as {}", e.instance, types(&e.return_types)), attempt(e.attempt)])
        }
        Event::InstanceStopped(e) => format!("{}, {}", e.instance, e.instance_type),
        Event::TypeModificationRequested(e) => {
            join([format!("{} → {}", e.instance, e.instance_type), attempt(e.attempt)])
        }
        Event::TypeModified(e) => join([format!("{} is {}", e.instance, e.instance_type), ticket(e.return_ticket)]),
        Event::InstanceStartRequested(e) => {
            join([format!("{} as {}", e.instance, e.instance_type), attempt(e.attempt)])
        }
        Event::InstanceStarted(e) => join([format!("{} as {}", e.instance, e.instance_type), ticket(e.return_ticket)]),
        Event::InstanceStartFailed(e) => format!("{} as {}: {}", e.instance, e.instance_type, e.code),
        Event::InstanceRebootRequested(e) => e.instance.to_string(),
        Event::InstanceRebooted(e) => {
            join([e.instance.to_string(), e.code.as_ref().map(|c| format!("refused: {c}")).unwrap_or_default()])
        }
        Event::TagRequested(e) => {
            let what =
                if e.remove { format!("{} without {}", e.instance, e.value) } else { tag(&e.instance, &e.value) };
            join([what, attempt(e.attempt)])
        }
        Event::Tagged(e) => tag(&e.instance, &e.value),
        Event::Untagged(e) => join([
            e.instance.to_string(),
            e.code.as_ref().map(|c| format!("{} MAY STAND STILL: {c}", e.value)).unwrap_or_default(),
        ]),
        Event::NodeRejoined(e) => format!("{}, epoch {}, writer {}", e.state, e.epoch, e.writer),
        Event::CaughtUp(e) => {
            let kept = match e.data_kept.kept {
                DataKept::Yes => "data kept",
                DataKept::No => "DATA LOST",
                DataKept::Unknown => "data perhaps lost",
            };
            let behind = format!("{}, {:.1}s behind, index {:.1}s", e.state, e.delay_seconds, e.index_delay_seconds);
            format!("{behind}, {kept}: {}", e.data_kept.how)
        }
        Event::ForeignChangeSeen(e) => format!("{}: found {}, expected {}", e.what, e.found, e.expected),
        Event::PriorityRestorationRequested(e) => join([format!("to {}", e.priority), attempt(e.attempt)]),
        Event::PriorityRestored(e) => {
            let by = match e.by {
                RestoredBy::Call => "a call",
                RestoredBy::Restart => "the restart",
            };
            format!("{} by {by}", e.priority)
        }
        Event::NodeUpdated(e) => format!("{} after {}", e.instance_type, short_seconds(e.seconds.total)),
        Event::NodeRolledBack(e) => format!("{}: {}; {}", e.instance_type, e.code, e.remedy),
        Event::NodeFailed(e) => format!("{}, left {}; {}", e.code, e.left_in, e.remedy),
        Event::StepDelayed(e) => {
            let behind = if e.numbers.is_empty() { String::new() } else { format!(" ({})", numbers(&e.numbers)) };
            format!("{}, {}: {}{behind}", e.step, e.reason, e.detail)
        }
        Event::ApprovalAwaited(e) => format!("{}: {}", e.gate, e.detail),
        Event::UpdatePaused(e) => asked(&e.by, &e.why),
        Event::UpdateResumed(e) => asked(&e.by, &e.why),
        Event::UpdateParked(e) => format!("{}: {}; {}", e.code, e.found, e.remedy),
        Event::UpdateCompleted(e) => end(e.seconds, e.elections, &e.not_running),
        Event::UpdateFailed(e) => {
            join([format!("{}: {}", e.code, e.remedy), end(e.seconds, e.elections, &e.not_running)])
        }
        Event::UpdateCancelled(e) => join([asked(&e.by, &e.why), end(e.seconds, e.elections, &e.not_running)]),
        Event::UpdateSuperseded(e) => {
            join([format!("by {}", e.superseded_by), end(e.seconds, e.elections, &e.not_running)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::Story;
    use super::*;

    fn text(story: &Story) -> String {
        story.history.iter().map(|r| format!("{}\n", Line::of(r))).collect()
    }

    #[test]
    fn a_whole_update() {
        let mut story = Story::planned();
        story.select("esdb-1", Role::Leader).resign("esdb-1").change("esdb-1");
        story.say(UpdateCompleted { seconds: 89.0, nodes: vec![], elections: 1, not_running: vec![] });
        assert_eq!(
            text(&story),
            "\
00:00:00Z     0  UpdateRequested                           Ec2InstanceTypeUpdate of prod, to m6i.xlarge, by ada: more memory
00:00:01Z     1  WorkerAssigned                            w1, which admitted it
00:00:02Z     2  UpdateAccepted                            cluster 10.0.1.11:2113
00:00:02Z     3  UpdatePlanned                             3 voters, 4 members, in order esdb-4, esdb-2, esdb-3, esdb-1
00:00:03Z     4  NodeSelected                  esdb-1      Leader: its turn
00:00:03Z     5  PriorityLoweringRequested     esdb-1      3 → -1
00:00:05Z     6  PriorityLowered               esdb-1      3 → -1
00:00:05Z     7  ResignationRequested          esdb-1
00:00:07Z     8  LeadershipTransferred         esdb-1      esdb-2 leads, epoch 7
00:00:08Z     9  InstanceStopRequested         esdb-1      i-01, may return as m6i.xlarge, m6i.large
00:00:53Z    10  InstanceStopped               esdb-1      i-01, m6i.large
00:00:53Z    11  TypeModificationRequested     esdb-1      i-01 → m6i.xlarge
00:00:54Z    12  TypeModified                  esdb-1      i-01 is m6i.xlarge
00:00:54Z    13  InstanceStartRequested        esdb-1      i-01 as m6i.xlarge
00:01:19Z    14  InstanceStarted               esdb-1      i-01 as m6i.xlarge
00:01:22Z    15  NodeRejoined                  esdb-1      CatchingUp, epoch 7, writer 10
00:01:30Z    16  CaughtUp                      esdb-1      Follower, 1.1s behind, index 1.2s, data kept: its first commit was not lower
00:01:30Z    17  PriorityRestored              esdb-1      3 by the restart
00:01:30Z    18  NodeUpdated                   esdb-1      m6i.xlarge after 1m24s
00:01:30Z    19  UpdateCompleted                           after 1m29s, 1 election
"
        );
    }

    #[test]
    fn what_people_and_strangers_write() {
        let mut story = Story::planned();
        story.say(PauseRequested { by: Some("ada".into()), why: Some("lunch\u{1b}[2J".into()) });
        story.say(UpdatePaused { by: Some("ada".into()), why: None });
        story.record(Body::Unreadable { type_name: "Nonsense".into(), problem: "no type of this contract".into() });
        story.say(CommandRefused {
            command: CommandRef { type_name: "Nonsense".into(), revision: Revision(6) },
            reasons: vec![Reason {
                code: "unreadable".into(),
                found: "no type of this contract".into(),
                wanted: "a command of the contract, as JSON".into(),
                remedy: "append a corrected command".into(),
            }],
        });
        story.record(Body::Newer { type_name: "NodeMoved".into() });
        assert_eq!(
            text(&story),
            "\
00:00:00Z     0  UpdateRequested                           Ec2InstanceTypeUpdate of prod, to m6i.xlarge, by ada: more memory
00:00:01Z     1  WorkerAssigned                            w1, which admitted it
00:00:02Z     2  UpdateAccepted                            cluster 10.0.1.11:2113
00:00:02Z     3  UpdatePlanned                             3 voters, 4 members, in order esdb-4, esdb-2, esdb-3, esdb-1
00:00:02Z     4  PauseRequested                            by ada: lunch·[2J
00:00:02Z     5  UpdatePaused                              by ada
00:00:02Z     6  Nonsense                                  cannot be read: no type of this contract
00:00:02Z     7  CommandRefused                            Nonsense at 6: unreadable: found no type of this contract, wanted a command of the contract, as JSON; append a corrected command
00:00:02Z     8  NodeMoved                                 written by a newer version of this program
"
        );
    }

    #[test]
    fn ends_name_nodes_that_do_not_run() {
        let failed = UpdateFailed {
            code: "startFailed".into(),
            remedy: "start it by hand".into(),
            seconds: 700.0,
            nodes: vec![],
            elections: 0,
            not_running: vec!["esdb-2".into()],
        };
        assert_eq!(
            essence(&failed.into()),
            "startFailed: start it by hand, after 11m40s, 0 elections, NOT RUNNING: esdb-2"
        );
    }
}
