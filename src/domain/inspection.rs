//! What else can be asked of EC2 before anything is touched. Each answer stands for itself: what could not be asked says so, and is
//! never taken for a good one.

use std::collections::BTreeMap;
use std::fmt;

use super::ec2::CallClass;
use super::ids::InstanceId;

/// An answer, or why there is none.
pub type Asked<T> = Result<T, String>;

/// Why EC2 gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// What the error asks for.
    pub class: CallClass,
    /// In words.
    pub why: String,
}

impl Unanswered {
    /// An answer without what was asked for: it will not be another one for asking again.
    pub fn silent(why: String) -> Self {
        Unanswered { class: CallClass::Terminal, why }
    }

    /// Whether the same question may be answered in a while, without anybody's doing.
    pub fn may_pass(&self) -> bool {
        match self.class {
            CallClass::Retry | CallClass::Unknown => true,
            CallClass::Wait
            | CallClass::Capacity
            | CallClass::Terminal
            | CallClass::Denied
            | CallClass::Unauthenticated => false,
        }
    }
}

/// An answer of EC2, or why there is none.
pub type Answer<T> = Result<T, Unanswered>;

/// A call that an update makes, as IAM names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `ec2:StopInstances`.
    Stop,
    /// `ec2:StartInstances`.
    Start,
    /// `ec2:ModifyInstanceAttribute`.
    Modify,
    /// `ec2:RebootInstances`.
    Reboot,
    /// `ec2:CreateTags`.
    Tag,
    /// `ec2:DeleteTags`.
    Untag,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 6] = [Verb::Stop, Verb::Start, Verb::Modify, Verb::Reboot, Verb::Tag, Verb::Untag];

    /// The API's name of the call.
    pub fn action(self) -> &'static str {
        match self {
            Verb::Stop => "StopInstances",
            Verb::Start => "StartInstances",
            Verb::Modify => "ModifyInstanceAttribute",
            Verb::Reboot => "RebootInstances",
            Verb::Tag => "CreateTags",
            Verb::Untag => "DeleteTags",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action())
    }
}

/// What came of a dry run, which proves permission and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// `DryRunOperation`: the call would have been made.
    Allowed,
    /// It would have been refused, with EC2's words: for want of the right, or of credentials.
    Denied(String),
    /// Any other answer.
    Unknown(Unanswered),
}

impl From<Unanswered> for Right {
    /// What an error of a dry run proves; `DryRunOperation`, which is none, is not for here.
    fn from(error: Unanswered) -> Self {
        match error.class {
            CallClass::Denied | CallClass::Unauthenticated => Right::Denied(error.why),
            CallClass::Retry | CallClass::Unknown | CallClass::Wait | CallClass::Capacity | CallClass::Terminal => {
                Right::Unknown(error)
            }
        }
    }
}

/// Attributes of one instance that `DescribeInstances` does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `disableApiStop`: whether EC2 refuses to stop it.
    pub stop_protected: Answer<bool>,
    /// `instanceInitiatedShutdownBehavior`: `stop` or `terminate`.
    pub shutdown_behavior: Answer<String>,
}

/// Something AWS will do to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledEvent {
    /// `instance-stop`, `instance-retirement`, `system-reboot`, …
    pub code: String,
    /// Words of AWS.
    pub description: String,
    /// The earliest moment.
    pub not_before: Option<jiff::Timestamp>,
}

/// An EBS volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: String,
    /// The instance it is attached to.
    pub instance: InstanceId,
    /// I/O operations per second it is provisioned with.
    pub iops: Option<u32>,
    /// Throughput it is provisioned with, MiB/s; of gp3 alone.
    pub throughput: Option<u32>,
    /// The key it is encrypted with, if it is.
    pub kms_key: Option<String>,
}

/// What was asked, and answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// By instance.
    pub attributes: BTreeMap<InstanceId, Attributes>,
    /// By instance; one without events may be missing.
    pub events: Option<Answer<BTreeMap<InstanceId, Vec<ScheduledEvent>>>>,
    /// Volumes of all instances.
    pub volumes: Option<Answer<Vec<Volume>>>,
    /// Dry runs: the worst answer over all instances to which something is done.
    pub rights: BTreeMap<Verb, Right>,
}

impl Inspection {
    /// Everything that EC2 left unanswered.
    pub fn unanswered(&self) -> impl Iterator<Item = &Unanswered> {
        let attributes = self
            .attributes
            .values()
            .flat_map(|a| a.stop_protected.as_ref().err().into_iter().chain(a.shutdown_behavior.as_ref().err()));
        let events = self.events.iter().filter_map(|e| e.as_ref().err());
        let volumes = self.volumes.iter().filter_map(|v| v.as_ref().err());
        let rights = self.rights.values().filter_map(|right| match right {
            Right::Unknown(error) => Some(error),
            Right::Allowed | Right::Denied(_) => None,
        });
        attributes.chain(events).chain(volumes).chain(rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_nobodys_fault_is_asked_again() {
        let passes = |class| Unanswered { class, why: String::new() }.may_pass();
        assert!(passes(CallClass::Retry) && passes(CallClass::Unknown));
        for class in
            [CallClass::Wait, CallClass::Capacity, CallClass::Terminal, CallClass::Denied, CallClass::Unauthenticated]
        {
            assert!(!passes(class), "{class:?}");
        }
        assert!(!Unanswered::silent("no volume".into()).may_pass());
    }
}
