//! `pause`, `resume`, `cancel`, `retry`, `rollback`, `approve`: commands to a running update; `retry` and `rollback` of one that has ended ask
//! for a new update.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::heard::silence;
use crate::cli::store::{self, Followed};
use crate::cli::{fresh_id, note, print, update_id};
use crate::domain::ids::{InstanceType, NodeName, Revision, UpdateId};
use crate::exit::Exit;
use crate::ports::{Clock, EventLog};
use crate::update::event::*;
use crate::update::react::verdict_word;
use crate::update::state::{Body, End, State};
use crate::worker::FailuresReviewed;

/// For so long the worker's answer is awaited. A worker answers when it next looks, a second at most, unless the store is away.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Rest between two looks for the answer.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Who asks, and why.
#[derive(Args, Clone, Debug)]
pub struct Asked {
    /// Who asks
    #[arg(long, value_name = "WHO", env = "USER", hide_env_values = true)]
    pub by: Option<String>,
    /// Why, for whoever reads the history
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
}

/// Options of `pause`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the revision of the command, and waits up to 10 s for the worker's answer. Exit code 3 if the command was refused.

Example:
  esdb-rollout pause 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6 --why 'month-end run'")]
pub struct PauseArgs {
    /// The update
    #[arg(value_name = "ID", value_parser = update_id)]
    pub id: UpdateId,
    /// Who and why.
    #[command(flatten)]
    pub asked: Asked,
}

/// Options of `cancel`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the revision of the command, and does not wait: it is answered by the end of the update, which comes once every node runs. Follow
that with `watch`. A request that has not begun ends at once; an update that it supersedes has been asked to end and stays so. To end an
update in favour of another one, ask for that: `start --supersede ID`. Exit code 3 if the update has ended.

Example:
  esdb-rollout cancel 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6 --why 'the wrong type'")]
pub struct CancelArgs {
    /// The update
    #[arg(value_name = "ID", value_parser = update_id)]
    pub id: UpdateId,
    /// Who and why.
    #[command(flatten)]
    pub asked: Asked,
}

/// Options of `resume`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the revision of the command, and waits up to 10 s for the worker's answer. Exit code 3 if the command was refused.

--after-failures is about no update: workers that stopped after so many failed updates (--stop-after-failures) begin new ones again.

Examples:
  esdb-rollout resume 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6
  esdb-rollout resume --after-failures --why 'the image was broken'")]
pub struct ResumeArgs {
    /// The update
    #[arg(value_name = "ID", value_parser = update_id, required_unless_present = "after_failures")]
    pub id: Option<UpdateId>,
    /// The updates that failed have been looked at: let new ones begin
    #[arg(long, conflicts_with = "id")]
    pub after_failures: bool,
    /// Who and why.
    #[command(flatten)]
    pub asked: Asked,
}

/// Options of `approve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the revision of the command, and waits up to 10 s for the worker's answer. Exit code 3 if it was refused. Without --answers, or with
another revision than the one that is awaited now, nothing is granted: what to type is printed, and the exit code is 2.

Example:
  esdb-rollout approve 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6 --answers 42")]
pub struct ApproveArgs {
    /// The update
    #[arg(value_name = "ID", value_parser = update_id)]
    pub id: UpdateId,
    /// Revision of the ApprovalAwaited that is answered: `status` shows it; nothing is granted without it
    #[arg(long, value_name = "REVISION")]
    pub answers: Option<u64>,
    /// Who and why.
    #[command(flatten)]
    pub asked: Asked,
}

/// Pauses an update.
pub async fn pause(args: PauseArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let Asked { by, why } = args.asked;
    send(args.id, PauseRequested { by, why }.into(), log, clock).await
}

/// Lets an update go on, or new ones begin.
pub async fn resume(args: ResumeArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let Asked { by, why } = args.asked;
    let Some(id) = args.id else {
        store::review_failures(log, clock, &FailuresReviewed { by, why }).await?;
        note("new updates may begin");
        return Ok(Exit::Completed);
    };
    send(id, ResumeRequested { by, why }.into(), log, clock).await
}

/// Cancels an update.
pub async fn cancel(args: CancelArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let Asked { by, why } = args.asked;
    let revision =
        store::command(log, clock, args.id, &CancelRequested { superseded_by: None, by, why }.into()).await?;
    print(&revision.to_string())?;
    note(&format!("asked for; it ends as soon as every node runs: esdb-rollout watch {}", args.id));
    match Followed::read(log, clock, args.id).await {
        Ok(followed) => {
            let mut progress = followed.progress(clock);
            progress.worker_silent_seconds = silence(log, clock, &followed.state).await;
            if let Some(silence) = progress.silence() {
                note(&silence);
            }
        }
        // The command is written; only whether somebody is there to obey it is not seen.
        Err(error) => tracing::debug!(%error, "whether its worker is heard cannot be read"),
    }
    Ok(Exit::Completed)
}

/// Options of `retry` and `rollback`.
#[derive(Args, Debug)]
#[command(after_help = "\
Of a running update: prints the revision of the command, and waits up to 10 s for its answer. `retry` lets the step that it is parked at
begin anew, or takes the node again that it is held after. `rollback` brings every node done so far back to the type it had, by the same
rules, and ends it as cancelled. Exit code 3 if the command was refused.
Of an update that has ended: asks for a new one, and prints its id. `retry` asks for the same again (nodes that are done are skipped),
`rollback` for the types that the nodes had before.

Examples:
  esdb-rollout retry 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6
  esdb-rollout rollback 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6 --why 'slower than before'")]
pub struct AgainArgs {
    /// The update
    #[arg(value_name = "ID", value_parser = update_id)]
    pub id: UpdateId,
    /// Who and why.
    #[command(flatten)]
    pub asked: Asked,
}

/// Tries again what an update waits at; of one that has ended, asks for the same in a new one.
pub async fn retry(args: AgainArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let followed = Followed::read(log, clock, args.id).await?;
    let Asked { by, why } = args.asked;
    let state = &followed.state;
    if state.end.is_some() {
        return ask_anew(args.id, same_again(state, args.id, by, why)?, log, clock).await;
    }
    if state.cancelled.is_some() {
        return Err(Failure::refused(format!(
            "update {} is being cancelled: it goes on by itself until every node runs, and then ends; see what it waits for with `esdb-rollout status {}`",
            args.id, args.id
        )));
    }
    let parked = state.parked.as_ref().and(state.parked_at);
    let held = state.failure.as_ref().filter(|_| state.held()).map(|f| f.revision);
    let Some(answers) = parked.or(held) else {
        return Err(Failure::refused(format!(
            "update {} waits for no retry; see what it does with `esdb-rollout status {}`",
            args.id, args.id
        )));
    };
    send(args.id, RetryRequested { answers, check: None, node: None, until: None, by, why }.into(), log, clock).await
}

/// Brings back what an update has done; of one that has ended, by a new one.
pub async fn rollback(args: AgainArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let followed = Followed::read(log, clock, args.id).await?;
    let Asked { by, why } = args.asked;
    if followed.state.end.is_some() {
        return ask_anew(args.id, way_back(&followed.state, args.id, by, why)?, log, clock).await;
    }
    send(args.id, RollbackRequested { by, why }.into(), log, clock).await
}

async fn ask_anew(
    of: UpdateId,
    request: UpdateRequested,
    log: &dyn EventLog,
    clock: &dyn Clock,
) -> Result<Exit, Failure> {
    let update = UpdateId(fresh_id());
    store::request(log, clock, update, &[request.into()]).await?;
    print(&update.to_string())?;
    note(&format!("{of} has ended; a new update is asked for: esdb-rollout watch {update}"));
    Ok(Exit::Completed)
}

/// The same request, without what belonged to its moment.
fn same_again(
    state: &State,
    of: UpdateId,
    by: Option<String>,
    why: Option<String>,
) -> Result<UpdateRequested, Failure> {
    let Some(request) = &state.request else {
        return Err(Failure::refused(format!("update {of} has no readable request to repeat; ask with `start`")));
    };
    if matches!(state.end, Some(End::Completed(_))) {
        return Err(Failure::refused(format!("update {of} completed: there is nothing to retry")));
    }
    Ok(UpdateRequested {
        plan_digest: None,
        not_before: None,
        supersedes: None,
        by,
        why: Some(why.unwrap_or_else(|| format!("retry of {of}"))),
        ..request.clone()
    })
}

/// The types that the nodes had before, as a request: one type for all of them, since a request names one.
fn way_back(state: &State, of: UpdateId, by: Option<String>, why: Option<String>) -> Result<UpdateRequested, Failure> {
    let mut nodes: BTreeMap<InstanceType, Vec<NodeName>> = BTreeMap::new();
    for node in state.to_roll_back() {
        if let Some(member) = state.member(node) {
            nodes.entry(member.old_type.clone()).or_default().push(node.clone());
        }
    }
    let Some(request) = state.request.as_ref().filter(|_| !nodes.is_empty()) else {
        return Err(Failure::refused(format!("update {of} left no node with another type than before")));
    };
    let (1, Some((old, back))) = (nodes.len(), nodes.first_key_value()) else {
        let commands: Vec<String> = nodes
            .iter()
            .map(|(old, nodes)| {
                let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                format!(
                    "esdb-rollout start --cluster {} --target-type {old} --nodes {}",
                    request.cluster,
                    nodes.join(",")
                )
            })
            .collect();
        return Err(Failure::refused(format!(
            "the nodes of update {of} had several types, and an update gives one; ask one after the other:\n{}",
            commands.join("\n")
        )));
    };
    Ok(UpdateRequested {
        target_instance_type: Some(old.clone()),
        nodes: Some(back.clone()),
        fallback_types: None,
        plan_digest: None,
        not_before: None,
        window: None,
        supersedes: None,
        resumes: None,
        by,
        why: Some(why.unwrap_or_else(|| format!("rollback of {of}"))),
        ..request.clone()
    })
}

/// Grants an approval.
pub async fn approve(args: ApproveArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let followed = Followed::read(log, clock, args.id).await?;
    let awaited = followed.state.awaited.as_ref();
    let answers = match (args.answers, awaited) {
        (Some(answers), Some(awaited)) if awaited.revision == Revision(answers) => awaited.revision,
        (_, Some(awaited)) => {
            let node = awaited.node.as_ref().map(|n| format!(", for {n}")).unwrap_or_default();
            let found = args.answers.map_or("no --answers".to_owned(), |a| format!("--answers {a}"));
            return Err(Failure::usage(format!(
                "update {} awaits the approval {}{node}, by revision {}; found {found}; to grant it: esdb-rollout approve {} --answers {}",
                args.id, awaited.gate, awaited.revision, args.id, awaited.revision
            )));
        }
        (_, None) => {
            let text = format!(
                "update {} awaits no approval; see what it does with `esdb-rollout status {}`",
                args.id, args.id
            );
            return Err(Failure::refused(text));
        }
    };
    let Asked { by, why } = args.asked;
    send(args.id, ApprovalGranted { answers, check: None, node: None, until: None, by, why }.into(), log, clock).await
}

/// Appends a command, prints its revision, and waits a while for its answer.
async fn send(update: UpdateId, command: Event, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let revision = store::command(log, clock, update, &command).await?;
    print(&revision.to_string())?;
    let began = clock.now();
    let mut followed = Followed::read(log, clock, update).await?;
    loop {
        if let Some(reasons) = refusal(&followed, revision) {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            return Err(Failure::refused(format!("{} was refused: {}", command.type_name(), reasons.join("; "))));
        }
        if obeyed(&followed.state, revision, &command) {
            note(&said(update, &command));
            return Ok(Exit::Completed);
        }
        if followed.state.end.is_some() {
            let verdict = verdict_word(&followed.state);
            return Err(Failure::refused(format!("update {update} has ended meanwhile: {verdict}")));
        }
        if clock.now().since(began) >= ANSWER_WITHIN {
            note(&format!(
                "no worker has answered within {} s; the command stands in the stream, and the next worker answers it",
                ANSWER_WITHIN.as_secs()
            ));
            return Ok(Exit::Completed);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(error) = followed.read_on(log, clock).await {
            // The command is written; only its answer is not seen.
            tracing::debug!(%error, "the answer cannot be read yet");
        }
    }
}

/// Whether a command took hold. The end alone answers a rollback; the fold says sooner whether it is under way.
fn obeyed(state: &State, revision: Revision, command: &Event) -> bool {
    match command {
        Event::RollbackRequested(asked) => state.rollback.as_ref() == Some(asked),
        _ => !state.unanswered.iter().any(|u| u.revision == revision),
    }
}

fn said(update: UpdateId, command: &Event) -> String {
    match command {
        Event::RollbackRequested(_) => {
            format!("the update ends once every node done so far is back: esdb-rollout watch {update}")
        }
        _ => format!("{} was obeyed", command.type_name()),
    }
}

fn refusal(followed: &Followed, revision: Revision) -> Option<Vec<Reason>> {
    followed.history.iter().find_map(|recorded| {
        let Body::Event(event) = &recorded.body else { return None };
        let Event::CommandRefused(refused) = &**event else { return None };
        (refused.command.revision == revision).then(|| refused.reasons.clone())
    })
}
