//! The article's documents: its input, taken as a request; its status document, field for field, as a view of an update.

use serde::{Deserialize, Serialize};

use super::{seconds_between, spans};
use crate::domain::ids::{ClusterName, InstanceId, InstanceType, NodeName};
use crate::update::event::{NodeResult, PlannedMember, ResumedNode, Role, UpdateRequested};
use crate::update::limits::NODE_TIMEOUT;
use crate::update::state::{End, InHand, Recorded, State, Step};
use crate::update::strategy::Strategy;

/// Seconds between two runs of the article's machine.
const ITERATION_SECONDS: f64 = 5.0;

/// The article's input document, or its status document, from which a new update goes on: its nodes are looked at anew, those that are
/// said to be done as well; what cannot be seen (the priority a node had, the time spent on it, a restart) is taken from it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Input {
    /// What is done to each node.
    #[serde(default)]
    pub update_strategy: Strategy,
    /// The wanted type.
    pub target_instance_type: Option<InstanceType>,
    /// Runs of the machine after which a node has timed out.
    pub max_number_of_iterations_per_node_update: Option<u64>,
    /// The nodes of a status document. A node that is not listed is not touched.
    pub event_store_node_updates: Option<Vec<InputNode>>,
}

/// A node of a status document, as far as it is read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InputNode {
    /// Its name.
    pub node_name: NodeName,
    /// Overall.
    pub node_update_status: Status,
    /// Its priority before.
    pub original_node_priority: Option<i32>,
    /// Runs of the machine for it so far.
    pub update_iterations: Option<u64>,
}

impl InputNode {
    fn into_resumed(self) -> ResumedNode {
        let done = match self.node_update_status {
            Status::Success => true,
            Status::Pending | Status::InProgress | Status::Failed => false,
        };
        // A node that failed, or waits, begins anew; the time of one that was under way goes on.
        let under_way = self.node_update_status == Status::InProgress;
        ResumedNode {
            node: self.node_name,
            done,
            original_priority: self.original_node_priority,
            spent_seconds: self.update_iterations.filter(|_| under_way).map(|n| n as f64 * ITERATION_SECONDS),
        }
    }
}

impl Input {
    /// Whether a document is one of the article's, by its field names.
    pub fn recognises(document: &serde_json::Value) -> bool {
        ["UpdateStrategy", "TargetInstanceType", "MaxNumberOfIterationsPerNodeUpdate", "EventStoreNodeUpdates"]
            .iter()
            .any(|name| document.get(name).is_some())
    }

    /// The same as a request.
    pub fn into_request(self, cluster: ClusterName) -> UpdateRequested {
        let resumes: Option<Vec<ResumedNode>> =
            self.event_store_node_updates.map(|nodes| nodes.into_iter().map(InputNode::into_resumed).collect());
        let nodes = resumes.as_ref().map(|nodes| nodes.iter().map(|r| r.node.clone()).collect());
        UpdateRequested {
            cluster,
            strategy: self.update_strategy,
            target_instance_type: self.target_instance_type,
            nodes,
            fallback_types: None,
            on_failure: None,
            on_silent_node: None,
            node_timeout_seconds: self.max_number_of_iterations_per_node_update.map(|n| n as f64 * ITERATION_SECONDS),
            plan_digest: None,
            gates: None,
            not_before: None,
            window: None,
            dwell_seconds: None,
            accept_downtime: None,
            replicas_together: None,
            supersedes: None,
            resumes,
            by: None,
            why: None,
        }
    }
}

/// Status of a node or of the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Not begun.
    Pending,
    /// Begun.
    InProgress,
    /// Ended well.
    Success,
    /// Ended otherwise.
    Failed,
}

/// The step a node is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StatusDetail {
    /// Not begun.
    Pending,
    /// In hand.
    NodeSelected,
    /// Its priority is lowered.
    PriorityLowered,
    /// Another node leads.
    Resigned,
    /// Its instance is stopped.
    InstanceStopped,
    /// Its type is changed.
    TypeModified,
    /// Its instance runs.
    InstanceStarted,
    /// It has caught up.
    CaughtUp,
    /// Done.
    Success,
    /// Failed, or brought back as it was.
    Failed,
    /// Needed nothing.
    Skipped,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeUpdate {
    /// Its name.
    pub node_name: NodeName,
    /// The step it is at.
    pub node_update_status_detail: StatusDetail,
    /// Overall.
    pub node_update_status: Status,
    /// Its role when selected, before that when planned.
    pub node_type: Role,
    /// Its host.
    pub node_address: String,
    /// Its port.
    pub node_port: u16,
    /// Its instance.
    pub ec2_instance_id: InstanceId,
    /// Its priority before it was lowered, by this update or by the one that it goes on from.
    pub original_node_priority: i32,
    /// Its priority by the last fact that says so.
    pub current_node_priority: i32,
    /// Whole times five seconds in hand, with those of the update that it goes on from.
    pub update_iterations: u64,
}

/// The article's status document.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StatusDocument {
    /// The nodes, in processing order.
    pub event_store_node_updates: Vec<NodeUpdate>,
    /// The whole update.
    pub cluster_update_status: Status,
    /// As asked for.
    pub update_strategy: Strategy,
    /// As asked for.
    pub target_instance_type: Option<InstanceType>,
    /// The node's time limit, in times of five seconds.
    pub max_number_of_iterations_per_node_update: u64,
}

impl StatusDocument {
    /// The update with this history, which folds to `state`, at `now`.
    pub fn of(state: &State, history: &[Recorded], now: jiff::Timestamp) -> Self {
        let request = state.request.as_ref();
        let limit = request.and_then(|r| r.node_timeout_seconds).unwrap_or(NODE_TIMEOUT.as_secs_f64());
        Self {
            event_store_node_updates: nodes(state, history, now),
            cluster_update_status: match (&state.end, state.accepted_at) {
                (Some(End::Completed(_)), _) => Status::Success,
                (Some(End::Failed(_) | End::Cancelled(_) | End::Rejected(_) | End::Superseded(_)), _) => Status::Failed,
                (None, Some(_)) => Status::InProgress,
                (None, None) => Status::Pending,
            },
            update_strategy: request.map(|r| r.strategy).unwrap_or_default(),
            target_instance_type: request.and_then(|r| r.target_instance_type.clone()),
            max_number_of_iterations_per_node_update: iterations(limit),
        }
    }
}

fn iterations(seconds: f64) -> u64 {
    (seconds / ITERATION_SECONDS).max(0.0) as u64
}

fn nodes(state: &State, history: &[Recorded], now: jiff::Timestamp) -> Vec<NodeUpdate> {
    let Some(plan) = &state.plan else { return Vec::new() };
    let spans = spans(history);
    let others = plan.order.iter().filter(|n| !state.order.contains(n));
    let members = state.order.iter().chain(others).filter_map(|name| state.member(name));
    members
        .map(|member| {
            let hand = state.in_hand.as_ref().filter(|h| h.node == member.node);
            let seconds = spans.get(&member.node).map_or(0.0, |s| seconds_between(s.from, s.to.unwrap_or(now)));
            node(state, member, hand, seconds)
        })
        .collect()
}

fn node(state: &State, member: &PlannedMember, hand: Option<&InHand>, seconds: f64) -> NodeUpdate {
    let (detail, status) = match (hand, state.results.get(&member.node).map(|o| o.result)) {
        (Some(hand), _) => (reached(hand), Status::InProgress),
        (None, Some(NodeResult::Updated)) => (StatusDetail::Success, Status::Success),
        (None, Some(NodeResult::Skipped)) => (StatusDetail::Skipped, Status::Success),
        (None, Some(NodeResult::RolledBack | NodeResult::Failed)) => (StatusDetail::Failed, Status::Failed),
        (None, Some(NodeResult::Pending) | None) => (StatusDetail::Pending, Status::Pending),
    };
    let resumed = state.request.as_ref().and_then(|r| r.resumed(&member.node));
    let spent = resumed.and_then(|r| r.spent_seconds).unwrap_or(0.0);
    let lowered = hand.and_then(|h| h.lowered);
    let original = lowered.map(|l| l.original).or(resumed.and_then(|r| r.original_priority)).unwrap_or(member.priority);
    NodeUpdate {
        node_name: member.node.clone(),
        node_update_status_detail: detail,
        node_update_status: status,
        node_type: state.roles.get(&member.node).copied().unwrap_or(member.role),
        node_address: member.address.host.clone(),
        node_port: member.address.port,
        ec2_instance_id: member.instance.clone(),
        original_node_priority: original,
        current_node_priority: match hand.and_then(|h| h.lowered.map(|l| (h.step, l))) {
            Some((Step::LoweringPriority, lowered)) => lowered.original,
            Some((_, lowered)) => lowered.to,
            None => member.priority,
        },
        update_iterations: iterations(seconds + spent),
    }
}

/// The last of the article's steps that the node in hand has reached and not fallen behind again.
fn reached(hand: &InHand) -> StatusDetail {
    let milestones = [
        (Step::CaughtUp, StatusDetail::CaughtUp),
        (Step::Started, StatusDetail::InstanceStarted),
        (Step::Modified, StatusDetail::TypeModified),
        (Step::Stopped, StatusDetail::InstanceStopped),
        (Step::Transferred, StatusDetail::Resigned),
        (Step::PriorityLowered, StatusDetail::PriorityLowered),
    ];
    let reached = milestones.into_iter().find(|(step, _)| *step <= hand.step && hand.marks.contains_key(step));
    reached.map_or(StatusDetail::NodeSelected, |(_, detail)| detail)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::stories::Story;
    use super::*;
    use crate::update::event::{NodeFailed, RollbackRequested};
    use crate::update::state::fold;

    fn of(story: &Story) -> Value {
        serde_json::to_value(StatusDocument::of(&fold(&story.history), &story.history, story.now())).unwrap()
    }

    #[test]
    fn an_input_document_becomes_a_request() {
        let document = json!({
            "UpdateStrategy": "Ec2InstanceTypeUpdate", "TargetInstanceType": "t2.xlarge", "MaxNumberOfIterationsPerNodeUpdate": 1000
        });
        assert!(Input::recognises(&document));
        let input: Input = serde_json::from_value(document).unwrap();
        let request = input.into_request("prod".into());
        assert_eq!(
            serde_json::to_value(request).unwrap(),
            json!({
                "cluster": "prod", "strategy": "Ec2InstanceTypeUpdate", "targetInstanceType": "t2.xlarge", "nodeTimeoutSeconds": 5000.0
            })
        );
        assert!(!Input::recognises(&json!({ "targetInstanceType": "t2.xlarge" })));
    }

    #[test]
    fn an_unknown_strategy_names_those_there_are() {
        let error = serde_json::from_value::<Input>(json!({ "UpdateStrategy": "Reboot" })).unwrap_err().to_string();
        assert!(error.contains("Ec2InstanceRestart"), "{error}");
    }

    #[test]
    fn a_status_document_field_for_field() {
        let mut story = Story::planned();
        story.skip("esdb-4", Role::ReadOnlyReplica);
        story.select("esdb-2", Role::Follower).change("esdb-2");
        story.select("esdb-1", Role::Leader).lower("esdb-1").pass(3);
        let node = |name: &str,
                    detail: &str,
                    status: &str,
                    role: &str,
                    host: &str,
                    id: &str,
                    priorities: (i32, i32),
                    n: u64| {
            json!({
                "NodeName": name, "NodeUpdateStatusDetail": detail, "NodeUpdateStatus": status, "NodeType": role,
                "NodeAddress": host, "NodePort": 2113, "Ec2InstanceId": id, "OriginalNodePriority": priorities.0,
                "CurrentNodePriority": priorities.1, "UpdateIterations": n
            })
        };
        assert_eq!(
            of(&story),
            json!({
                "EventStoreNodeUpdates": [
                    node("esdb-4", "Skipped", "Success", "ReadOnlyReplica", "10.0.1.14", "i-04", (0, 0), 0),
                    node("esdb-2", "Success", "Success", "Follower", "10.0.1.12", "i-02", (2, 2), 16),
                    node("esdb-1", "PriorityLowered", "InProgress", "Leader", "10.0.1.11", "i-01", (3, -1), 1),
                    node("esdb-3", "Pending", "Pending", "Follower", "10.0.1.13", "i-03", (0, 0), 0),
                ],
                "ClusterUpdateStatus": "InProgress",
                "UpdateStrategy": "Ec2InstanceTypeUpdate",
                "TargetInstanceType": "m6i.xlarge",
                "MaxNumberOfIterationsPerNodeUpdate": 1000
            })
        );
    }

    #[test]
    fn steps_as_reached() {
        let detail = |story: &Story| {
            of(story)["EventStoreNodeUpdates"][0]["NodeUpdateStatusDetail"].as_str().unwrap().to_owned()
        };
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).stop("esdb-2");
        assert_eq!(detail(&story), "NodeSelected", "a follower that is being stopped has not resigned");
        let mut story = Story::planned();
        story.select("esdb-1", Role::Leader).resign("esdb-1").stop("esdb-1");
        assert_eq!(detail(&story), "Resigned");
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).modify("esdb-2");
        assert_eq!(detail(&story), "TypeModified");
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).rejoin("esdb-2");
        assert_eq!(detail(&story), "InstanceStarted");
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).say(NodeFailed {
            node: "esdb-2".into(),
            attempt: 1,
            code: "x".into(),
            remedy: "y".into(),
            left_in: "z".into(),
            observed: vec![],
        });
        assert_eq!(detail(&story), "Failed");
    }

    #[test]
    fn a_node_that_is_brought_back_is_in_progress_and_its_time_is_that_of_this_turn() {
        let mut story = Story::planned();
        story.select("esdb-2", Role::Follower).change("esdb-2");
        story.pass(1000).say(RollbackRequested::default());
        story.select("esdb-2", Role::Follower).stop("esdb-2").pass(11);
        let node = &of(&story)["EventStoreNodeUpdates"][0];
        assert_eq!(
            (&node["NodeUpdateStatus"], &node["NodeUpdateStatusDetail"], &node["UpdateIterations"]),
            (&json!("InProgress"), &json!("NodeSelected"), &json!(2))
        );
    }

    #[test]
    fn a_resumed_update_keeps_the_original_priority_and_the_time_spent() {
        let mut story = Story::planned();
        let resumes = json!({
            "cluster": "prod", "targetInstanceType": "m6i.xlarge",
            "resumes": [{ "node": "esdb-2", "originalPriority": 7, "spentSeconds": 50.0 }]
        });
        let request: crate::update::event::UpdateRequested = serde_json::from_value(resumes).unwrap();
        story.history[0].body = crate::update::state::Body::Event(Box::new(request.into()));
        story.select("esdb-2", Role::Follower).pass(10);
        let node = &of(&story)["EventStoreNodeUpdates"][0];
        assert_eq!((&node["OriginalNodePriority"], &node["UpdateIterations"]), (&json!(7), &json!(12)));
    }

    #[test]
    fn the_whole_update() {
        assert_eq!(of(&Story::requested())["ClusterUpdateStatus"], "Pending");
        assert_eq!(of(&Story::completed())["ClusterUpdateStatus"], "Success");
        assert_eq!(of(&Story::requested())["EventStoreNodeUpdates"], json!([]));
    }
}
