//! Exit codes: a contract with scripts.

use std::process::ExitCode;

use crate::domain::ids::NodeName;
use crate::update::state::{End, State};

/// How a command ends, for whoever runs it from a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// The command did what it was asked to; the update has completed.
    Completed = 0,
    /// Anything that has no code of its own.
    Other = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The plan, the request or the command was refused.
    Refused = 3,
    /// The update failed; all nodes are running.
    Failed = 4,
    /// The update ended and a node is not running.
    NodeNotRunning = 5,
    /// The update was cancelled; all nodes are running.
    Cancelled = 6,
    /// The update is parked or waits for a person.
    Waiting = 7,
    /// The time given by `--timeout` has passed.
    TimedOut = 8,
    /// The store or AWS cannot be reached.
    Unreachable = 9,
    /// The person ended the watching (SIGINT); the update goes on.
    Interrupted = 130,
}

/// Lines for help texts.
pub const HELP: &str = "\
Exit codes:
  0 completed                       5 ended, and a node is not running
  1 anything else                   6 cancelled
  2 usage or configuration          7 parked, or waiting for a person
  3 refused                         8 --timeout has passed
  4 failed, all nodes running       9 the store or AWS cannot be reached
  130 interrupted by Ctrl-C: what was asked for goes on";

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code of an update's verdict; `None` while it runs by itself.
    ///
    /// A node that is not running outranks the verdict: at night that is what matters.
    pub fn of(state: &State) -> Option<Exit> {
        let unless_down = |exit: Exit, down: &[NodeName]| if down.is_empty() { exit } else { Exit::NodeNotRunning };
        match &state.end {
            Some(End::Completed(e)) => Some(unless_down(Exit::Completed, &e.not_running)),
            Some(End::Failed(e)) => Some(unless_down(Exit::Failed, &e.not_running)),
            Some(End::Cancelled(e)) => Some(unless_down(Exit::Cancelled, &e.not_running)),
            Some(End::Superseded(e)) => Some(unless_down(Exit::Cancelled, &e.not_running)),
            Some(End::Rejected(_)) => Some(Exit::Refused),
            None if state.needs_a_person() => Some(Exit::Waiting),
            // It waits for a person, who ends it.
            None if state.broken.is_some() => Some(Exit::Other),
            None => None,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::event::*;
    use crate::update::state::{AwaitedApproval, ForeignChange};

    fn ended(end: End) -> State {
        State { end: Some(end), ..State::default() }
    }

    #[test]
    fn every_verdict_has_its_code() {
        let (nodes, elections, seconds) = (Vec::new, 0, 1.0);
        let down = || vec![NodeName::from("esdb-2")];
        let completed =
            |not_running| End::Completed(UpdateCompleted { seconds, nodes: nodes(), elections, not_running });
        let failed = |not_running| {
            let (code, remedy) = ("x".to_owned(), "y".to_owned());
            End::Failed(UpdateFailed { code, remedy, seconds, nodes: nodes(), elections, not_running })
        };
        let cancelled = |not_running| {
            End::Cancelled(UpdateCancelled { by: None, why: None, seconds, nodes: nodes(), elections, not_running })
        };
        let superseded = |not_running| {
            let superseded_by = crate::domain::ids::UpdateId(uuid::Uuid::nil());
            End::Superseded(UpdateSuperseded { superseded_by, seconds, nodes: nodes(), elections, not_running })
        };
        let parked = UpdateParked { code: "x".into(), found: "y".into(), remedy: "z".into() };
        let awaited = AwaitedApproval { gate: Gate::AfterFirst, node: None, revision: crate::domain::ids::Revision(9) };
        let foreign = ForeignChange { node: NodeName::from("esdb-2"), what: "x".into(), found: "y".into() };
        let table = [
            (ended(completed(vec![])), Some(0)),
            (ended(End::Rejected(UpdateRejected { reasons: vec![] })), Some(3)),
            (ended(failed(vec![])), Some(4)),
            (ended(failed(down())), Some(5)),
            (ended(completed(down())), Some(5)),
            (ended(cancelled(down())), Some(5)),
            (ended(cancelled(vec![])), Some(6)),
            (ended(superseded(vec![])), Some(6)),
            (State { parked: Some(parked), ..State::default() }, Some(7)),
            (State { awaited: Some(awaited), ..State::default() }, Some(7)),
            (State { broken: Some("at revision 3".into()), ..State::default() }, Some(1)),
            (State { paused: Some(UpdatePaused::default()), ..State::default() }, None),
            (State { paused: Some(UpdatePaused::default()), foreign: Some(foreign), ..State::default() }, Some(7)),
            (State::default(), None),
        ];
        for (state, code) in table {
            assert_eq!(Exit::of(&state).map(Exit::code), code, "{state:?}");
        }
    }

    #[test]
    fn help_names_every_code() {
        for code in 0..=9 {
            assert!(HELP.contains(&format!("{code} ")), "{code}");
        }
    }
}
