//! What answers a command.

use super::super::event::*;
use super::super::plan::answer_waiver;
use super::super::state::State;

pub(super) fn refusal(command: CommandRef, code: &str, found: String, wanted: &str, remedy: &str) -> Event {
    let reasons = vec![Reason { code: code.into(), found, wanted: wanted.into(), remedy: remedy.into() }];
    CommandRefused { command, reasons }.into()
}

/// The fact that answers the oldest command that needs one now.
pub fn answer_command(state: &State) -> Option<Event> {
    for u in &state.unanswered {
        let command = CommandRef { type_name: u.type_name.clone(), revision: u.revision };
        let event = match &u.command {
            Err(problem) => {
                return Some(refusal(
                    command,
                    "unreadable",
                    problem.clone(),
                    "a command of the contract, as JSON",
                    "append a corrected command",
                ));
            }
            Ok(event) => event,
        };
        // An end answers the cancellation that it obeys, a rejection as well.
        if matches!(**event, Event::CancelRequested(_)) && state.ended_at.is_some_and(|end| u.revision < end) {
            continue;
        }
        if state.end.is_some() {
            return Some(refusal(
                command,
                "ended",
                "an update that has ended".into(),
                "a running update",
                "start a new one: `esdb-rollout retry` and `esdb-rollout rollback` make it from this one",
            ));
        }
        let answer = match &**event {
            Event::UpdateRequested(_) => refusal(
                command,
                "secondRequest",
                "a second request".into(),
                "one request a stream",
                "append it to a fresh stream",
            ),
            Event::PauseRequested(c) if state.paused.is_none() => {
                UpdatePaused { by: c.by.clone(), why: c.why.clone() }.into()
            }
            Event::PauseRequested(_) => refusal(
                command,
                "alreadyPaused",
                "a paused update".into(),
                "a running update",
                "nothing needs to be done",
            ),
            Event::ResumeRequested(c) if state.paused.is_some() => {
                UpdateResumed { by: c.by.clone(), why: c.why.clone() }.into()
            }
            Event::ResumeRequested(_) => refusal(
                command,
                "notPaused",
                "an update that is not paused".into(),
                "a paused update",
                "nothing needs to be done",
            ),
            // Answered by its end, once every node runs.
            Event::CancelRequested(_) => continue,
            Event::RollbackRequested(c) if state.rollback.as_ref() == Some(c) => continue,
            Event::RollbackRequested(_) => refusal(
                command,
                "nothingToRollBack",
                match (&state.cancelled, &state.rollback) {
                    (Some(_), _) => "an update that is being cancelled".into(),
                    (None, Some(_)) => "an update that is being rolled back already".into(),
                    (None, None) => "an update without a plan: nothing was changed yet".into(),
                },
                "a running update that goes forwards",
                "see what it does with `status`; cancel ends it with every node as it runs",
            ),
            Event::RetryRequested(c) => {
                if state.granting.first() == Some(&u.revision) {
                    UpdateResumed { by: c.by.clone(), why: c.why.clone() }.into()
                } else if state.cancelled.is_some() {
                    refusal(
                        command,
                        "nothingToRetry",
                        "an update that is being cancelled".into(),
                        "an update that goes on",
                        "nothing needs to be done: it goes on by itself until every node runs, and then ends",
                    )
                } else {
                    refusal(
                        command,
                        "nothingToRetry",
                        format!("an answer to revision {}", c.answers),
                        "the revision of the UpdateParked, or of the failure, that it waits at",
                        "see what it waits for with `status`",
                    )
                }
            }
            Event::ApprovalGranted(c) => {
                if state.granting.first() == Some(&u.revision) {
                    UpdateResumed { by: c.by.clone(), why: c.why.clone() }.into()
                } else {
                    refusal(
                        command,
                        "nothingToApprove",
                        format!("an answer to revision {}", c.answers),
                        "the revision of the last ApprovalAwaited, once",
                        "look for ApprovalAwaited with `history`",
                    )
                }
            }
            // One that the plan takes is answered by the plan.
            Event::CheckWaived(c) => {
                let taken = state.waivers.iter().any(|w| w.revision == u.revision);
                match answer_waiver(c, command, state.plan.is_some()) {
                    Some(answer) if !taken => answer,
                    Some(_) | None => continue,
                }
            }
            Event::WorkerAssigned(_)
            | Event::UpdateAccepted(_)
            | Event::UpdateRejected(_)
            | Event::UpdatePlanned(_)
            | Event::CommandRefused(_)
            | Event::NodeSelected(_)
            | Event::NodeSkipped(_)
            | Event::PriorityLoweringRequested(_)
            | Event::PriorityLowered(_)
            | Event::ResignationRequested(_)
            | Event::LeadershipTransferred(_)
            | Event::InstanceStopRequested(_)
            | Event::InstanceStopped(_)
            | Event::TypeModificationRequested(_)
            | Event::TypeModified(_)
            | Event::InstanceStartRequested(_)
            | Event::InstanceStarted(_)
            | Event::InstanceStartFailed(_)
            | Event::InstanceRebootRequested(_)
            | Event::InstanceRebooted(_)
            | Event::TagRequested(_)
            | Event::Tagged(_)
            | Event::Untagged(_)
            | Event::NodeRejoined(_)
            | Event::CaughtUp(_)
            | Event::ForeignChangeSeen(_)
            | Event::PriorityRestorationRequested(_)
            | Event::PriorityRestored(_)
            | Event::NodeUpdated(_)
            | Event::NodeRolledBack(_)
            | Event::NodeFailed(_)
            | Event::StepDelayed(_)
            | Event::ApprovalAwaited(_)
            | Event::UpdatePaused(_)
            | Event::UpdateResumed(_)
            | Event::UpdateParked(_)
            | Event::UpdateCompleted(_)
            | Event::UpdateFailed(_)
            | Event::UpdateCancelled(_)
            | Event::UpdateSuperseded(_) => continue,
        };
        return Some(answer);
    }
    None
}
