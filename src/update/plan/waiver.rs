//! Waivers: a person takes a named check upon themselves, for one node or all, for a time.

use super::catalogue;
use crate::domain::ids::{NodeName, Revision};
use crate::update::event::{CheckWaived, CommandRef, CommandRefused, Event, Reason};

/// A waiver that stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiver {
    /// Revision of the command.
    pub revision: Revision,
    /// The check.
    pub check: String,
    /// The node; absent: every one.
    pub node: Option<NodeName>,
    /// Until when it holds.
    pub until: Option<jiff::Timestamp>,
    /// Who waived it.
    pub by: Option<String>,
    /// Why.
    pub why: Option<String>,
}

impl Waiver {
    /// The waiver that a command asks for, if the plan can take it.
    pub fn of(revision: Revision, command: &CheckWaived) -> Option<Self> {
        refusal(command).is_none().then(|| Self {
            revision,
            check: command.check.clone().unwrap_or_default(),
            node: command.node.clone(),
            until: command.until,
            by: command.by.clone(),
            why: command.why.clone(),
        })
    }

    /// Whether it is about this finding, and holds now.
    pub(super) fn covers(&self, check: &str, node: Option<&NodeName>, wall: jiff::Timestamp) -> bool {
        self.check == check
            && (self.node.is_none() || self.node.as_ref() == node)
            && self.until.is_none_or(|until| until > wall)
    }
}

/// Why a waiver cannot be taken, whatever the cluster.
pub fn refusal(command: &CheckWaived) -> Option<Reason> {
    let reason = |code: &str, found: String, wanted: &str, remedy: &str| {
        Some(Reason { code: code.into(), found, wanted: wanted.into(), remedy: remedy.into() })
    };
    let code = command.check.as_deref().unwrap_or_default();
    if command.answers != Revision(0) {
        let found = format!("an answer to revision {}", command.answers);
        return reason(
            "notSupported",
            found,
            "a waiver of a check of the plan: an answer to revision 0",
            "start a new update with the waiver",
        );
    }
    match catalogue::find(code) {
        None => reason(
            "unknownCheck",
            format!("check `{code}`"),
            "the code of a check",
            "take the code from `esdb-rollout plan`",
        ),
        Some(check) if !check.waivable => {
            reason("notWaivable", format!("check {code}"), "a check that may be waived", check.remedy)
        }
        Some(_) if command.why.as_deref().is_none_or(|why| why.trim().is_empty()) => reason(
            "whyMissing",
            format!("no reason to waive {code}"),
            "a reason, for whoever reads the history",
            "say why",
        ),
        Some(_) => None,
    }
}

/// The answer to a waiver, if it needs one of its own: one that the plan takes is answered by the plan.
pub fn answer(command: &CheckWaived, of: CommandRef, planned: bool) -> Option<Event> {
    let late = || Reason {
        code: "planned".into(),
        found: "an update whose plan stands".into(),
        wanted: "a waiver that comes before the plan".into(),
        remedy: "cancel, and start a new update with the waiver".into(),
    };
    let reason = if planned { Some(late()) } else { refusal(command) };
    reason.map(|reason| CommandRefused { command: of, reasons: vec![reason] }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiver_holds_until_its_moment_and_not_at_it() {
        let until: jiff::Timestamp = "2026-01-02T00:00:00Z".parse().expect("a moment");
        let (revision, check) = (Revision(1), "fence".to_owned());
        let waiver = Waiver { revision, check, node: None, until: Some(until), by: None, why: None };
        let second = jiff::SignedDuration::from_secs(1);
        let holds = |wall: jiff::Timestamp| waiver.covers("fence", None, wall);
        assert_eq!([holds(until - second), holds(until), holds(until + second)], [true, false, false]);
    }
}
