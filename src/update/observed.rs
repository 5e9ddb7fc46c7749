//! What a decision may rest on beside the stream: all of it fresh, none of it recorded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::action::CallOutcome;
use crate::domain::ids::{Incarnation, InstanceId, InstanceType, NodeName, Revision, UpdateId};
use crate::domain::inspection::{Answer, Asked, Inspection, Unanswered};
use crate::domain::instance::{Instance, InstanceState, TypeInfo};
use crate::domain::quorum::Voters;
use crate::domain::time::Moment;
use crate::domain::watch::ClusterWatch;
use crate::update::event::Reason;

/// An instance as last described.
#[derive(Clone, Debug)]
pub struct InstanceSeen {
    /// What EC2 said.
    pub instance: Instance,
    /// When.
    pub at: Moment,
    /// Since when, without interruption, EC2 has said this state; and how often.
    pub state_since: Moment,
    /// Descriptions in a row with this state.
    pub times: u32,
    /// Whether `pending` was seen since the last start call (a start that falls back to `stopped` failed).
    pub pending_seen: bool,
    /// Since when, without interruption, EC2 has said this value of the fence's tag, or that there is none.
    pub fence_since: Moment,
    /// Descriptions in a row with it, since the last call that wrote or removed it.
    pub fence_times: u32,
}

impl InstanceSeen {
    /// An instance described for the first time.
    pub fn first(instance: Instance, at: Moment) -> Self {
        let pending_seen = instance.state == InstanceState::Pending;
        Self { instance, at, state_since: at, times: 1, pending_seen, fence_since: at, fence_times: 1 }
    }
}

/// The intent this worker wrote last: it may be acted upon once, within the window.
#[derive(Clone, Debug)]
pub struct IntentInHand {
    /// Its revision.
    pub revision: Revision,
    /// When its append was first sent.
    pub first_sent: Moment,
    /// When the store acknowledged it. Of one that was only read back nobody knows how many voters hold it: no call is made for it.
    pub acknowledged: Option<Moment>,
    /// When its call was made, and what came of it.
    pub called: Option<(Moment, Option<CallOutcome>)>,
}

/// The store, as this worker experiences it.
#[derive(Clone, Debug, Default)]
pub struct StoreSeen {
    /// Since when appends and reads got no answer or a no-leader answer; `None` while they succeed.
    pub away_since: Option<Moment>,
    /// Whether an answering node of the store reports a leader; `None` if nobody has been asked since.
    pub leader_reported: Option<bool>,
    /// Its voters, as the same nodes said; 0 if nobody has been asked since.
    pub voters: u32,
    /// Whether the history was folded from a majority of the store's voters, read without their leader.
    pub folded_from_majority: bool,
}

/// What the plan is made of: found before acceptance, from configuration, nodes and EC2.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Voting nodes.
    pub voters: Option<Voters>,
    /// Expected members and the instance of each.
    pub members: BTreeMap<NodeName, SurveyedMember>,
    /// The wanted types: what EC2 offers under each name (`None`: no such type).
    pub types: BTreeMap<InstanceType, Option<TypeInfo>>,
    /// The types that the instances have now, those among the wanted ones aside (`None`: no such type any more).
    pub present_types: BTreeMap<InstanceType, Answer<Option<TypeInfo>>>,
    /// What else EC2 says of the instances.
    pub inspection: Inspection,
    /// Scavenges that run, by node (`Err`: the node does not say).
    pub scavenges: BTreeMap<NodeName, Asked<Option<String>>>,
    /// Seconds out of service of each node in past updates of this cluster, the latest first.
    pub past: Asked<Vec<PastChange>>,
    /// What the configuration names and no member knows, for people.
    pub absent: Vec<String>,
    /// What speaks against the update already: mapping, rights, names.
    pub reasons: Vec<Reason>,
    /// What is still missing, for people; empty when complete.
    pub missing: Vec<String>,
}

impl Survey {
    /// Whether another survey may find what this one did not: a member or an instance, or what EC2 left unanswered for now.
    pub fn is_worth_another(&self) -> bool {
        let types = self.present_types.values().filter_map(|answer| answer.as_ref().err());
        !self.missing.is_empty() || self.inspection.unanswered().chain(types).any(Unanswered::may_pass)
    }

    /// This survey; or the one before it, which found everybody, where this one was to hear more from EC2 and found less.
    pub fn or_before(self, before: Option<Survey>) -> Survey {
        match before {
            Some(before) if before.missing.is_empty() && !self.missing.is_empty() && self.reasons.is_empty() => before,
            Some(_) | None => self,
        }
    }
}

/// One expected member, as surveyed.
#[derive(Clone, Debug)]
pub struct SurveyedMember {
    /// Where it listens.
    pub address: crate::domain::ids::Address,
    /// What its address resolves to, seen from here; empty if it does not.
    pub resolved: Vec<IpAddr>,
    /// Its instance.
    pub instance: Instance,
    /// Whether it is the machine this worker runs on; `None` where that cannot be told.
    pub is_own_machine: Option<bool>,
}

/// One node of a past update.
#[derive(Clone, Debug, PartialEq)]
pub struct PastChange {
    /// The node.
    pub node: NodeName,
    /// From the request to stop it until it had caught up, seconds.
    pub out_of_service: f64,
}

/// Limits from the worker's own configuration.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Patterns of instance types a request may ask for; empty: any.
    pub allowed_types: Vec<String>,
    /// Limit of replication and index delay.
    pub max_replication_delay: Duration,
    /// From `running` to the first answer of the process; then a silent node is rebooted, or a person is called.
    pub first_answer_timeout: Duration,
    /// Whether instances are tagged while they are in hand, and another update's tag is respected.
    pub fence: bool,
}

/// Everything a decision may rest on beside the stream.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// This worker's incarnation.
    pub me: Incarnation,
    /// The update: its tag is told from another's by it.
    pub update: UpdateId,
    /// What was seen of the cluster.
    pub watch: &'a ClusterWatch,
    /// What was seen of the instances.
    pub instances: &'a BTreeMap<InstanceId, InstanceSeen>,
    /// The last failure to describe them, if the last try failed.
    pub fleet_trouble: Option<&'a str>,
    /// This worker's last intent.
    pub intent: Option<&'a IntentInHand>,
    /// When the return ticket was last used.
    pub ticket_called: Option<Moment>,
    /// The type that the node's instance was given on it.
    pub ticket_type: Option<&'a InstanceType>,
    /// The store.
    pub store: &'a StoreSeen,
    /// Since when one append of this worker after the other has come to nothing, or was acknowledged after the act window, although the store
    /// has a leader; `None` once two in a row were taken in time, a start was called for one, or one was refused for good, or where none was
    /// tried of late.
    pub appends_fail_since: Option<Moment>,
    /// The survey; only before the plan stands.
    pub survey: Option<&'a Survey>,
    /// Limits.
    pub policy: &'a Policy,
    /// The instance that this worker runs on, as far as it is known to be one of the cluster's.
    pub own_instance: Option<&'a InstanceId>,
    /// When this worker's `WorkerAssigned` was first sent, if it took the update over from another.
    pub took_over_at: Option<Moment>,
    /// Whether the node in hand was back once since its stop: then the return ticket has done what it is for.
    pub ticket_spent: bool,
    /// Whether a start on the return ticket was refused as no repetition cures, or several came to nothing: then the node goes back to the type
    /// that it had.
    pub ticket_in_vain: bool,
    /// The calendar, for `notBefore` only.
    pub wall: jiff::Timestamp,
}
