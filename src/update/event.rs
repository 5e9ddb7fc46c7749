//! What stands in the streams.
//!
//! **A storage contract.** Type names, field names and meanings are stored for good and scripted against by others: new fields may come,
//! nothing is renamed or reused. `tests/events/` holds the stored JSON of each type, frozen.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::strategy::Strategy;
use crate::domain::catch_up::{Baseline, DataJudgement};
use crate::domain::cluster::NodeState;
use crate::domain::ids::{
    Address, ClusterName, Incarnation, InstanceId, InstanceType, NodeName, ProcessId, Revision, UpdateId, WorkerName,
};
use crate::domain::instance::InstanceState;
use crate::domain::quorum::Voters;

macro_rules! events {
    ($( $(#[$doc:meta])* $kind:ident $name:ident ),* $(,)?) => {
        /// An event of an update's stream. The stored type is the variant's name.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(tag = "type", content = "data")]
        pub enum Event {
            $( $(#[$doc])* $name($name), )*
        }

        impl Event {
            /// Every stored type, in the order of the contract.
            pub const TYPES: &'static [&'static str] = &[$( stringify!($name) ),*];

            /// The stored type.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $( Event::$name(_) => stringify!($name), )*
                }
            }

            /// Whether anyone may append it (a command) or only the worker that holds the update (a fact).
            pub fn kind(&self) -> Kind {
                match self {
                    $( Event::$name(_) => Kind::$kind, )*
                }
            }

            /// The kind of a stored type, if it is one of ours.
            pub fn kind_of(type_name: &str) -> Option<Kind> {
                match type_name {
                    $( stringify!($name) => Some(Kind::$kind), )*
                    _ => None,
                }
            }
        }

        $( impl From<$name> for Event {
            fn from(data: $name) -> Event {
                Event::$name(data)
            }
        } )*
    };
}

/// Who may append an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anyone.
    Command,
    /// The worker that holds the update.
    Fact,
}

events! {
    /// Asks for an update: the first event of its stream.
    Command UpdateRequested,
    /// Asks to pause before the next stop.
    Command PauseRequested,
    /// Asks to go on after a pause.
    Command ResumeRequested,
    /// Asks to end the update with every node running.
    Command CancelRequested,
    /// Asks to bring the nodes changed so far back to their old types.
    Command RollbackRequested,
    /// Asks to try again what a fact says has failed.
    Command RetryRequested,
    /// Grants what an `ApprovalAwaited` waits for.
    Command ApprovalGranted,
    /// Waives a named check.
    Command CheckWaived,
    /// The worker that took the update, and why.
    Fact WorkerAssigned,
    /// The request was understood and will be carried out.
    Fact UpdateAccepted,
    /// The request will not be carried out: an end.
    Fact UpdateRejected,
    /// What will be done, to whom, in which order.
    Fact UpdatePlanned,
    /// A command was not obeyed.
    Fact CommandRefused,
    /// A node was taken in hand.
    Fact NodeSelected,
    /// A node needs nothing.
    Fact NodeSkipped,
    /// Intent: lower a node's priority.
    Fact PriorityLoweringRequested,
    /// The priority is lowered.
    Fact PriorityLowered,
    /// Intent: make the leader resign.
    Fact ResignationRequested,
    /// Another node leads now.
    Fact LeadershipTransferred,
    /// Intent: stop an instance. Also the return ticket: it names the types with which it may be started again.
    Fact InstanceStopRequested,
    /// The instance is stopped.
    Fact InstanceStopped,
    /// Intent: change the type of a stopped instance.
    Fact TypeModificationRequested,
    /// The type is changed.
    Fact TypeModified,
    /// Intent: start an instance.
    Fact InstanceStartRequested,
    /// The instance runs.
    Fact InstanceStarted,
    /// The instance would not start with that type.
    Fact InstanceStartFailed,
    /// Intent: reboot an instance that runs while its node is silent.
    Fact InstanceRebootRequested,
    /// The reboot was accepted.
    Fact InstanceRebooted,
    /// Intent: write the update's tag on an instance, or remove it.
    Fact TagRequested,
    /// The instance carries the update's tag.
    Fact Tagged,
    /// The instance does not carry the update's tag any more, or it could not be removed.
    Fact Untagged,
    /// The node answers again, as a new process.
    Fact NodeRejoined,
    /// The node has really caught up.
    Fact CaughtUp,
    /// Something was changed that this update did not change.
    Fact ForeignChangeSeen,
    /// Intent: give a node its priority back.
    Fact PriorityRestorationRequested,
    /// The priority is what it was.
    Fact PriorityRestored,
    /// The node is done.
    Fact NodeUpdated,
    /// The node runs again as it was before.
    Fact NodeRolledBack,
    /// The node could not be done.
    Fact NodeFailed,
    /// The next step waits, and why. Written when the reason changes.
    Fact StepDelayed,
    /// The update waits for a person's approval.
    Fact ApprovalAwaited,
    /// The update is paused.
    Fact UpdatePaused,
    /// The update goes on.
    Fact UpdateResumed,
    /// The update cannot go on without a person.
    Fact UpdateParked,
    /// An end: all nodes done.
    Fact UpdateCompleted,
    /// An end: it failed.
    Fact UpdateFailed,
    /// An end: it was cancelled.
    Fact UpdateCancelled,
    /// An end: another update took its place.
    Fact UpdateSuperseded,
}

/// Asks for an update of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdateRequested {
    /// The cluster, by its configured name.
    pub cluster: ClusterName,
    /// What is done to each node.
    #[serde(default)]
    pub strategy: Strategy,
    /// The wanted type; for `Ec2InstanceTypeUpdate` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_instance_type: Option<InstanceType>,
    /// The nodes to be done; all, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeName>>,
    /// Types to try, in order, where the wanted one will not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_types: Option<Vec<InstanceType>>,
    /// What to do after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// What to do with a node that runs and does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_silent_node: Option<OnSilentNode>,
    /// Time limit of each node, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_timeout_seconds: Option<f64>,
    /// Refuse if the plan's digest is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_digest: Option<String>,
    /// Where to wait for an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates: Option<Vec<Gate>>,
    /// Not before this moment. What it supersedes is ended before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<jiff::Timestamp>,
    /// Take nodes out of service within this window only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Rest between two nodes, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dwell_seconds: Option<f64>,
    /// Accept that fewer than three voters cannot be changed without downtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_downtime: Option<bool>,
    /// Take the read-only replicas together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_together: Option<bool>,
    /// End that update of the same cluster in favour of this one, which waits until it has ended. It is asked to end at once, as by a
    /// `CancelRequested`, whatever `notBefore` and `window` say of this one: they say when this one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<UpdateId>,
    /// What another run has done to the nodes, where this update goes on from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<Vec<ResumedNode>>,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What another run says of a node. What can be seen is looked at anew: this only adds what cannot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResumedNode {
    /// The node.
    pub node: NodeName,
    /// Whether it is said to be done.
    #[serde(default)]
    pub done: bool,
    /// Its priority before that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_priority: Option<i32>,
    /// Time already spent on it, seconds: it counts towards its time limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent_seconds: Option<f64>,
}

impl UpdateRequested {
    /// What another run says of a node.
    pub fn resumed(&self, node: &NodeName) -> Option<&ResumedNode> {
        self.resumes.iter().flatten().find(|r| &r.node == node)
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// Bring the node in hand back as it was.
    RollBackNode,
    /// Bring all nodes done so far back.
    RollBackAll,
    /// Leave everything as it runs.
    Hold,
}

/// What to do with a node whose instance runs and that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum OnSilentNode {
    /// Wait for a person.
    Hold,
    /// Reboot the instance once.
    Reboot,
}

/// A point at which an approval can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Gate {
    /// Before the leader is taken, or a node in hand that has come to lead resigns.
    BeforeLeader,
    /// After the first node.
    AfterFirst,
    /// Before each node but the first.
    EachNode,
    /// Before the next voter, where it is unknown whether a node kept its data.
    DataUnknown,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gate::BeforeLeader => "beforeLeader",
            Gate::AfterFirst => "afterFirst",
            Gate::EachNode => "eachNode",
            Gate::DataUnknown => "dataUnknown",
        })
    }
}

/// A time window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When it opens.
    pub cron: String,
    /// For how long, minutes.
    pub minutes: u32,
    /// IANA name.
    pub time_zone: String,
}

macro_rules! plain_commands {
    ($( $(#[$doc:meta])* $name:ident ),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Who asks.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub by: Option<String>,
            /// Why.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub why: Option<String>,
        }
    )* };
}
plain_commands! {
    /// Asks to pause before the next stop.
    PauseRequested,
    /// Asks to go on after a pause.
    ResumeRequested,
    /// Asks to bring the nodes changed so far back to their old types.
    RollbackRequested,
}

/// Asks to end the update with every node running.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CancelRequested {
    /// The update of the same cluster in whose favour it shall end, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<UpdateId>,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

macro_rules! answering_commands {
    ($( $(#[$doc:meta])* $name:ident ),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Revision of the fact it answers.
            pub answers: Revision,
            /// The check it is about.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub check: Option<String>,
            /// The node it is about.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub node: Option<NodeName>,
            /// Until when it holds.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub until: Option<jiff::Timestamp>,
            /// Who asks.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub by: Option<String>,
            /// Why.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub why: Option<String>,
        }
    )* };
}
answering_commands! {
    /// Asks to try again what a fact says has failed.
    RetryRequested,
    /// Grants what an `ApprovalAwaited` waits for.
    ApprovalGranted,
    /// Waives a named check.
    CheckWaived,
}

/// One thing that was observed: what, who said it, and how old it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// What.
    pub what: String,
    /// Who said it: a node, `ec2`, `store`.
    pub by: String,
    /// How old it was, seconds.
    pub age_seconds: f64,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Stable code.
    pub code: String,
    /// What was found.
    pub found: String,
    /// What was wanted.
    pub wanted: String,
    /// How to mend it.
    pub remedy: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, wanted {}; {}", self.code, self.found, self.wanted, self.remedy)
    }
}

/// Why a worker took an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum AssignedBecause {
    /// It admitted it.
    Admitted,
    /// The worker that held it fell silent.
    Silent,
    /// The worker that held it handed it over.
    HandedOver,
}

/// The worker that holds the update from here on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WorkerAssigned {
    /// Its name.
    pub worker: WorkerName,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Why.
    pub reason: AssignedBecause,
}

/// The request was understood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdateAccepted {
    /// The request as understood.
    pub request: UpdateRequested,
    /// Canonical id of the cluster: the addresses of its expected members, sorted.
    pub cluster_id: String,
}

/// The request will not be carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdateRejected {
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Role of a node, as gossip spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Role {
    /// Leads.
    Leader,
    /// Follows.
    Follower,
    /// Read-only replica.
    ReadOnlyReplica,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Leader => "Leader",
            Role::Follower => "Follower",
            Role::ReadOnlyReplica => "ReadOnlyReplica",
        })
    }
}

/// A member as planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PlannedMember {
    /// The node.
    pub node: NodeName,
    /// Its HTTP address.
    pub address: Address,
    /// Its role when planned.
    pub role: Role,
    /// Its instance.
    pub instance: InstanceId,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its type when planned.
    pub old_type: InstanceType,
    /// Its type afterwards.
    pub new_type: InstanceType,
    /// Its priority when planned.
    pub priority: i32,
    /// Its server version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// State of its instance when planned. Missing in histories older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_state: Option<InstanceState>,
    /// Another update's tag on its instance, which a person took for left behind: this value, and no other, may be overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_fence: Option<String>,
}

/// A check of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PlannedCheck {
    /// Stable code.
    pub code: String,
    /// What was found.
    pub found: String,
    /// What came of it. Missing, like all that follows, in histories older than the field: there every check listed had passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<CheckOutcome>,
    /// What it means if it has not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// What was wanted, if it has not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// How to mend it, if it has not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Who waived it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waived_by: Option<String>,
    /// Why it was waived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Until when it is waived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum CheckOutcome {
    /// It is as wanted.
    Passed,
    /// It is not.
    Failed,
    /// It could not be told.
    Unknown,
}

/// What a check that has not passed means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The update is refused.
    Refuse,
    /// A person should know before it begins.
    Warn,
    /// Told for the record.
    Info,
}

/// What will be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdatePlanned {
    /// Voting nodes: from configuration or `/info/options`, never from gossip.
    pub voters: Voters,
    /// All expected members, those that are not to be done included.
    pub members: Vec<PlannedMember>,
    /// The nodes to be done, in order as of now; roles are read again before every step.
    pub order: Vec<NodeName>,
    /// What was checked.
    pub checks: Vec<PlannedCheck>,
    /// Digest of members and order.
    pub digest: String,
}

/// A command was not obeyed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CommandRefused {
    /// Which.
    pub command: CommandRef,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Names a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CommandRef {
    /// Its stored type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its revision.
    pub revision: Revision,
}

macro_rules! node_facts {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$fdoc:meta])* $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// The node.
            pub node: NodeName,
            /// The try this belongs to, from 1.
            pub attempt: u32,
            $( $(#[$fdoc])* pub $field: $ty, )*
            /// What it rests on.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub observed: Vec<Evidence>,
        }
    )* };
}

/// What EC2 said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Ec2Word {
    /// The state.
    pub state: InstanceState,
    /// Code of the state reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Request id of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// One measurement of a node that catches up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CatchUpSample {
    /// How long before the fact it was taken, seconds.
    pub age_seconds: f64,
    /// Replication delay, seconds.
    pub delay_seconds: f64,
    /// Index delay, seconds.
    pub index_delay_seconds: f64,
    /// Writer position, bytes.
    pub writer: i64,
}

/// Seconds per phase of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PhaseSeconds {
    /// From selection until its stop was asked for: agreement, priority, resignation.
    pub prepare: f64,
    /// Until stopped.
    pub stop: f64,
    /// Until its type was changed.
    pub modify: f64,
    /// Until running.
    pub start: f64,
    /// Until the process answered.
    pub rejoin: f64,
    /// Until caught up.
    pub catch_up: f64,
    /// All of it.
    pub total: f64,
}

/// Who gave a priority back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum RestoredBy {
    /// A call.
    Call,
    /// The restart of the process, which starts with its configured priority.
    Restart,
}

node_facts! {
    /// A node was taken in hand.
    NodeSelected {
        /// Its role then.
        role: Role,
        /// Why it and not another.
        because: String,
    }
    /// A node needs nothing.
    NodeSkipped {
        /// Its role then.
        role: Role,
        /// Why.
        because: String,
    }
    /// Intent: lower a node's priority.
    PriorityLoweringRequested {
        /// From.
        original: i32,
        /// To: below the lowest of all voters.
        priority: i32,
    }
    /// The priority is lowered: the node's own entry says so.
    PriorityLowered {
        /// From.
        original: i32,
        /// To.
        priority: i32,
    }
    /// Intent: make the leader resign.
    ResignationRequested {
        /// The process that leads.
        from: ProcessId,
        /// Its epoch. What it grew by until another node led is the number of elections that the resignations caused. Missing in
        /// histories older than the field.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<i32>,
    }
    /// Another node leads, and all views agree.
    LeadershipTransferred {
        /// The node that leads now.
        new_leader: NodeName,
        /// Its epoch.
        epoch: i32,
    }
    /// Intent: stop an instance.
    InstanceStopRequested {
        /// The instance.
        instance: InstanceId,
        /// Types with which it may be started again, in order, the old one last.
        return_types: Vec<InstanceType>,
        /// Positions before the stop; absent where the node did not answer.
        baseline: Option<Baseline>,
        /// The process that is stopped; absent where the node did not answer.
        process: Option<ProcessId>,
    }
    /// The instance is stopped.
    InstanceStopped {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// What EC2 said.
        ec2: Ec2Word,
    }
    /// Intent: change the type of a stopped instance.
    TypeModificationRequested {
        /// The instance.
        instance: InstanceId,
        /// To.
        #[serde(rename = "type")]
        instance_type: InstanceType,
    }
    /// The type is changed.
    TypeModified {
        /// The instance.
        instance: InstanceId,
        /// To.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// What EC2 said.
        ec2: Ec2Word,
        /// Done while the store had no leader.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        return_ticket: bool,
    }
    /// Intent: start an instance.
    InstanceStartRequested {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
    }
    /// The instance runs.
    InstanceStarted {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// What EC2 said.
        ec2: Ec2Word,
        /// Done while the store had no leader.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        return_ticket: bool,
    }
    /// The instance would not start with that type, or its type could not be changed.
    InstanceStartFailed {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// EC2's code.
        code: String,
        /// Whether the same type is worth another try.
        again: bool,
        /// What EC2 said.
        ec2: Ec2Word,
    }
    /// Intent: reboot an instance.
    InstanceRebootRequested {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
    }
    /// EC2 accepted the reboot, or may have: it is made once.
    InstanceRebooted {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// What EC2 said.
        ec2: Ec2Word,
        /// EC2's code, where it refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    }
    /// Intent: write the update's tag on an instance, or remove it. The tag is a fence outside the store: whoever else would work on the
    /// instance sees it.
    TagRequested {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// The tag's value: the update's id, `@`, and the revision of the fact that asked for it to be written.
        value: String,
        /// Whether it is removed. It is written if this is missing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        remove: bool,
    }
    /// EC2 says, twice in a row, that the instance carries the update's tag.
    Tagged {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// The tag's value.
        value: String,
        /// What EC2 said.
        ec2: Ec2Word,
    }
    /// EC2 says, twice in a row, that the instance does not carry the update's tag any more; or, with a code, that is not to be had and the
    /// update goes on without it.
    Untagged {
        /// The instance.
        instance: InstanceId,
        /// Its type.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// The tag's last value.
        value: String,
        /// What EC2 said.
        ec2: Ec2Word,
        /// Why it may stand still: EC2's code, or ours. A person removes it then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    }
    /// The node answers again, as a new process.
    NodeRejoined {
        /// The process.
        instance_id_of_process: ProcessId,
        /// Its first state seen.
        state: NodeState,
        /// Its first epoch seen.
        epoch: i32,
        /// Its first writer position seen, bytes.
        writer: i64,
        /// Its first commit position seen, bytes.
        commit: i64,
    }
    /// The node has really caught up.
    CaughtUp {
        /// The process.
        instance_id_of_process: ProcessId,
        /// Its state.
        state: NodeState,
        /// Its epoch, the leader's.
        epoch: i32,
        /// Replication delay, seconds.
        delay_seconds: f64,
        /// Index delay, seconds.
        index_delay_seconds: f64,
        /// The measurements it rests on.
        samples: Vec<CatchUpSample>,
        /// Whether the data came back with it.
        data_kept: DataJudgement,
    }
    /// Something was changed that this update did not change.
    ForeignChangeSeen {
        /// What.
        what: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    }
    /// Intent: give a node its priority back.
    PriorityRestorationRequested {
        /// To.
        priority: i32,
    }
    /// The priority is what it was.
    PriorityRestored {
        /// To.
        priority: i32,
        /// Who did it.
        by: RestoredBy,
    }
    /// The node is done.
    NodeUpdated {
        /// Its type now.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// Seconds per phase.
        seconds: PhaseSeconds,
    }
    /// The node runs again as it was before.
    NodeRolledBack {
        /// Its type now.
        #[serde(rename = "type")]
        instance_type: InstanceType,
        /// Seconds per phase.
        seconds: PhaseSeconds,
        /// Why.
        code: String,
        /// What a person should do.
        remedy: String,
    }
    /// The node could not be done.
    NodeFailed {
        /// Stable code.
        code: String,
        /// What a person should do.
        remedy: String,
        /// What the node was left in.
        left_in: String,
    }
}

/// A number behind a reason to wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Number {
    /// What it counts, with its unit.
    pub name: String,
    /// How much.
    pub value: f64,
}

/// The next step waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StepDelayed {
    /// The node in hand, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The step that waits.
    pub step: String,
    /// Stable code of the reason.
    pub reason: String,
    /// In words.
    pub detail: String,
    /// The numbers behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<Number>,
}

/// The update waits for an approval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ApprovalAwaited {
    /// Which.
    pub gate: Gate,
    /// The node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// What to know before granting it.
    pub detail: String,
}

/// The update is paused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdatePaused {
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The update goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdateResumed {
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The update cannot go on without a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpdateParked {
    /// Stable code.
    pub code: String,
    /// What was found.
    pub found: String,
    /// What a person should do.
    pub remedy: String,
}

/// How one node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum NodeResult {
    /// Not begun.
    Pending,
    /// Needed nothing.
    Skipped,
    /// Done.
    Updated,
    /// Brought back as it was.
    RolledBack,
    /// Failed.
    Failed,
}

impl fmt::Display for NodeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NodeResult::Pending => "pending",
            NodeResult::Skipped => "skipped",
            NodeResult::Updated => "updated",
            NodeResult::RolledBack => "rolledBack",
            NodeResult::Failed => "failed",
        })
    }
}

/// One node at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeOutcome {
    /// The node.
    pub node: NodeName,
    /// How it ended.
    pub result: NodeResult,
    /// What it was left in, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_in: Option<String>,
}

macro_rules! ends {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$fdoc:meta])* $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $( $(#[$fdoc])* pub $field: $ty, )*
            /// From acceptance to here, seconds; at least, after a take-over.
            pub seconds: f64,
            /// How each node ended.
            pub nodes: Vec<NodeOutcome>,
            /// Elections this update caused.
            pub elections: u32,
            /// Nodes that are not seen to run: empty, or a person is needed now.
            pub not_running: Vec<NodeName>,
        }
    )* };
}
ends! {
    /// An end: all nodes done.
    UpdateCompleted {}
    /// An end: it failed.
    UpdateFailed {
        /// Stable code.
        code: String,
        /// What a person should do.
        remedy: String,
    }
    /// An end: it was cancelled.
    UpdateCancelled {
        /// Who asked.
        by: Option<String>,
        /// Why.
        why: Option<String>,
    }
    /// An end: another update took its place.
    UpdateSuperseded {
        /// Which.
        superseded_by: UpdateId,
    }
}

impl Event {
    /// Whether it says how an update that was planned came to its end.
    pub fn ends_the_update(&self) -> bool {
        matches!(
            self,
            Event::UpdateCompleted(_) | Event::UpdateFailed(_) | Event::UpdateCancelled(_) | Event::UpdateSuperseded(_)
        )
    }
}

/// An event of a cluster's admission stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", content = "data")]
pub enum AdmissionEvent {
    /// The update is the cluster's active one.
    UpdateAdmitted(Admission),
    /// The cluster is free again.
    UpdateReleased(Admission),
}

/// Names an update in an admission stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// The update.
    pub update: UpdateId,
}
