//! What a check is: data, and a function that looks.

use std::fmt;
use std::time::Duration;

use crate::domain::ids::{InstanceType, NodeName};
use crate::domain::inspection::Unanswered;
use crate::domain::instance::{Instance, InstanceState, TypeInfo};
use crate::domain::quorum::Voters;
use crate::domain::time::Moment;
use crate::update::event::{PlannedMember, Severity, UpdateRequested};
use crate::update::limits::SURVEY_TIMEOUT;
use crate::update::observed::{Observed, Survey, SurveyedMember};

/// A cluster that is not healthy is looked at for this long before that is taken for its state: roles settle within seconds of an
/// election, and a node that fell behind for a moment is level again soon.
const HEALTHY_WITHIN: Duration = Duration::from_secs(30);

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Theme {
    /// The request.
    Request,
    /// The nodes, as a whole.
    Cluster,
    /// Which instance belongs to which node.
    Mapping,
    /// The instances.
    Instance,
    /// The wanted types.
    Type,
    /// Rights and quotas.
    Account,
    /// How long, and what else may come in between.
    Outlook,
}

impl fmt::Display for Theme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Theme::Request => "Request",
            Theme::Cluster => "Cluster",
            Theme::Mapping => "Mapping",
            Theme::Instance => "Instances",
            Theme::Type => "Types",
            Theme::Account => "Account",
            Theme::Outlook => "Outlook",
        })
    }
}

/// What came of looking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Not to be asked here.
    NotApplicable,
    /// As wanted.
    Passed(String),
    /// It could not be told.
    Unknown(String),
    /// Not as wanted, but here that refuses nothing.
    Warned(String),
    /// Not as wanted.
    Failed(String),
    /// Not seen yet: worth another look.
    Pending(String),
}

impl Verdict {
    /// Failed if so, else passed.
    pub(super) fn failed_if(bad: bool, found: impl Into<String>) -> Self {
        if bad { Verdict::Failed(found.into()) } else { Verdict::Passed(found.into()) }
    }

    /// The worst of several; what is said alike is said once.
    pub(super) fn worst(all: impl IntoIterator<Item = Verdict>) -> Verdict {
        all.into_iter().max().unwrap_or(Verdict::NotApplicable)
    }
}

/// Who looks.
#[derive(Clone, Copy)]
pub(super) enum Find {
    /// At the cluster as a whole.
    Cluster(fn(&Scene<'_>) -> Verdict),
    /// At each node that something will be done to ([`to_be_done`]).
    Node(fn(&Scene<'_>, &OneNode<'_>) -> Verdict),
    /// At every member.
    Member(fn(&Scene<'_>, &OneNode<'_>) -> Verdict),
    /// The survey, which found a reason or else this.
    Survey(&'static str),
    /// Whoever handles the request: where a plan is made, it has passed, and need not be mentioned.
    Elsewhere,
}

/// A check, as data.
#[derive(Clone, Copy)]
pub struct Check {
    /// Stable code; it names what is wrong if it fails.
    pub code: &'static str,
    /// What it is about.
    pub theme: Theme,
    /// What its failure means.
    pub severity: Severity,
    /// Whether a person may waive it.
    pub waivable: bool,
    /// Whether its failure is part of the plan's digest.
    pub digested: bool,
    /// What is wanted.
    pub wanted: &'static str,
    /// How to mend it.
    pub remedy: &'static str,
    pub(super) find: Find,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

/// Everything a check may look at.
pub(super) struct Scene<'a> {
    pub request: &'a UpdateRequested,
    pub survey: &'a Survey,
    pub observed: &'a Observed<'a>,
    pub now: Moment,
    /// Since when the cluster has been looked at.
    pub since: Moment,
    pub voters: Option<Voters>,
    /// The members that have been seen.
    pub members: Vec<PlannedMember>,
    /// Those to be done, in order.
    pub order: Vec<NodeName>,
}

impl Scene<'_> {
    pub fn planned(&self, node: &NodeName) -> Option<&PlannedMember> {
        self.members.iter().find(|m| &m.node == node)
    }

    /// What is not healthy yet: worth another look for a while, and then what the check makes of it.
    pub fn unless_patient(&self, found: String, verdict: fn(String) -> Verdict) -> Verdict {
        if self.now.since(self.since) > HEALTHY_WITHIN { verdict(found) } else { Verdict::Pending(found) }
    }

    /// What EC2 left unanswered: worth asking again for as long as a survey may take, and then unknown.
    pub fn unanswered(&self, error: &Unanswered) -> Verdict {
        if error.may_pass() && self.now.since(self.since) <= SURVEY_TIMEOUT {
            Verdict::Pending(error.why.clone())
        } else {
            Verdict::Unknown(error.why.clone())
        }
    }

    /// What EC2 offers under the name of the type that an instance has (`None`: no such type any more), if it was asked.
    pub fn offered_as_present(&self, instance: &Instance) -> Option<Result<Option<&TypeInfo>, &Unanswered>> {
        let wanted = || self.survey.types.get(&instance.instance_type).map(|t| Ok(t.as_ref()));
        let present = self.survey.present_types.get(&instance.instance_type);
        present.map(|answer| answer.as_ref().map(Option::as_ref)).or_else(wanted)
    }

    /// What EC2 says of the type that an instance has.
    pub fn present_type(&self, instance: &Instance) -> Option<&TypeInfo> {
        self.offered_as_present(instance)?.ok().flatten()
    }
}

pub(super) fn chosen(request: &UpdateRequested, node: &NodeName) -> bool {
    request.nodes.as_ref().is_none_or(|nodes| nodes.contains(node))
}

/// Whether anything will be done to a node: it is among those asked for, and does not run as it shall already.
pub fn to_be_done(request: &UpdateRequested, node: &NodeName, instance: &Instance) -> bool {
    let change = request.strategy.change(request, node, instance, &instance.instance_type);
    let runs = instance.state == InstanceState::Running;
    chosen(request, node) && !(change.already.is_some() && runs)
}

/// One member, and what will be done to it.
pub(super) struct OneNode<'a> {
    pub name: &'a NodeName,
    pub member: &'a SurveyedMember,
    pub instance: &'a Instance,
    /// Whether anything will be done to it.
    pub to_be_done: bool,
    /// Types it may be started with that it does not have.
    pub new_types: Vec<InstanceType>,
}

impl OneNode<'_> {
    /// Judges each type it may be started with that EC2 knows, beside the one it has.
    pub fn each_type(&self, scene: &Scene<'_>, judge: impl Fn(&TypeInfo) -> Verdict) -> Verdict {
        let known = self.new_types.iter().filter_map(|t| scene.survey.types.get(t).and_then(Option::as_ref));
        Verdict::worst(known.map(judge))
    }
}
