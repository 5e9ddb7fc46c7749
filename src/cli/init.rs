//! `init`: prepares a store. Sets the checkpoint from which commands are obeyed, once.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::store::read_state;
use crate::cli::{fresh_id, note, print};
use crate::codec::{CHECKPOINT, CheckpointMoved, Writer, encode_record};
use crate::config::default_worker_name;
use crate::domain::ids::{CHECKPOINT_STREAM, Incarnation, StreamName, UPDATE_PREFIX, UpdateId};
use crate::exit::Exit;
use crate::ports::{AppendError, Clock, EventLog, Expected, Position, ReadError};
use crate::views::columns;
use crate::worker::checkpoint;

/// Conflicts after which `init` gives up: nobody else writes there but another `init`, or a worker that found a checkpoint.
const CONFLICTS_MAX: u32 = 5;

/// Options of `init`.
#[derive(Args, Debug)]
#[command(after_help = "\
Sets the checkpoint at the present end of the log, so that a worker obeys requests from now on and does not read a production log from
its beginning. A checkpoint that exists is never moved. Requests that stand in the log already, unanswered, are listed: they will not
be obeyed; `start` what is still wanted.

In a store with users the worker needs to read $all, which only $admins may until somebody else is let. A worker of few rights is a user
in $ops (for the cluster that it updates) that --worker-user lets read $all; what else it does there any user may. That takes an admin, once;
the configuration needs none.

Examples:
  esdb-rollout init --dry-run
  esdb-rollout init
  esdb-rollout init --worker-user rollout --credentials-file admin.cred")]
pub struct InitArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Look this many events back for requests that nobody answered
    #[arg(long, value_name = "EVENTS", default_value_t = 50_000)]
    pub look_back: usize,
    /// Let this user of the store read $all (adds it to `$acl` `$r` of $all; needs a member of $admins)
    #[arg(long, value_name = "USER")]
    pub worker_user: Option<String>,
    /// File with `user:password` of the store to use for this command, in place of the configured one
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
}

/// Prepares the store.
pub async fn run(args: InitArgs, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let stream = StreamName::from(CHECKPOINT_STREAM);
    if let Some(user) = &args.worker_user {
        let_read_all(user, args.dry_run, log).await?;
    }
    let mut conflicts = 0;
    let fresh = loop {
        let (revision, existing) = checkpoint(log).await?;
        if let Some(position) = existing {
            print(&format!("the checkpoint stands at {position}; it was not moved"))?;
            break false;
        }
        let position = log.end_of_log().await.map_err(may_not_read_all)?.unwrap_or(Position { commit: 0, prepare: 0 });
        if args.dry_run {
            print(&format!("would set the checkpoint at {position}, the end of the log"))?;
            break true;
        }
        let writer = Writer { worker: default_worker_name(), incarnation: Incarnation(fresh_id()) };
        let record = CheckpointMoved::from(position);
        let event =
            encode_record(&stream, CHECKPOINT, &record, revision, &writer, clock.wall()).map_err(Failure::other)?;
        match log.append(&stream, Expected::after(revision), vec![event]).await {
            Ok(_) => {
                print(&format!(
                    "the checkpoint stands at {position}, the end of the log: requests are obeyed from now on"
                ))?;
                break true;
            }
            Err(AppendError::Conflict { .. }) if conflicts < CONFLICTS_MAX => conflicts += 1,
            Err(error) => return Err(Failure::from(error).during("setting the checkpoint")),
        }
    };
    keep_one(args.dry_run, &stream, log).await?;
    if fresh {
        list_unanswered(args.look_back, log, clock).await?;
    }
    Ok(Exit::Completed)
}

/// Lets the worker's user read the whole log.
async fn let_read_all(user: &str, dry_run: bool, log: &dyn EventLog) -> Result<(), Failure> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if user.is_empty() || user.starts_with('$') || !user.chars().all(plain) {
        let found = user.escape_default();
        return Err(Failure::usage(format!("--worker-user: expected the login name of one user, found `{found}`")));
    }
    if dry_run {
        return print(&format!("would let user {user} read $all, if it may not already ($acl of $all)"));
    }
    match log.let_read_all(user).await {
        Ok(true) => print(&format!("user {user} may read $all from now on ($acl of $all)")),
        Ok(false) => print(&format!("user {user} may read $all already; nothing was written")),
        Err(error @ AppendError::Denied { .. }) => Err(Failure::other(anyhow::anyhow!(
            "{error}; only a member of $admins may: name one with --credentials-file, for this command alone"
        ))
        .during(format!("letting user {user} read $all"))),
        Err(error) => Err(Failure::from(error).during(format!("letting user {user} read $all"))),
    }
}

/// What to do about a user who may not read the whole log, which the worker needs to.
pub(super) fn may_not_read_all(error: ReadError) -> Failure {
    match error {
        ReadError::Denied { .. } => Failure::other(anyhow::anyhow!(
            "{error}; the worker finds requests in $all, which only $admins may read until somebody else is let: \
             `esdb-rollout init --worker-user USER --credentials-file FILE`, with the credentials of an admin"
        )),
        ReadError::Unavailable { .. } | ReadError::Refused { .. } => Failure::from(error),
    }
}

/// Only the last checkpoint means anything.
async fn keep_one(dry_run: bool, stream: &StreamName, log: &dyn EventLog) -> Result<(), Failure> {
    if dry_run {
        return print(&format!("would have the store keep one event of {stream} ($maxCount 1)"));
    }
    let wrote = log
        .set_max_count(stream, 1)
        .await
        .map_err(|e| Failure::from(e).during(format!("setting $maxCount of {stream}")))?;
    if wrote { print(&format!("the store keeps one event of {stream} ($maxCount 1)")) } else { Ok(()) }
}

/// Requests that stand in the log and that no worker will see, because the checkpoint is after them.
async fn list_unanswered(look_back: usize, log: &dyn EventLog, clock: &dyn Clock) -> Result<(), Failure> {
    let (events, looked_at) = log.read_back(&[UPDATE_PREFIX], look_back, look_back).await.map_err(may_not_read_all)?;
    let mut updates: Vec<UpdateId> = Vec::new();
    for update in events.iter().filter_map(|e| UpdateId::from_stream(&e.stream)) {
        if !updates.contains(&update) {
            updates.push(update);
        }
    }
    let mut rows = Vec::new();
    for update in updates {
        let (_, state) = read_state(log, clock, update).await?;
        if state.holder.is_some() || state.end.is_some() || state.last.is_none() {
            continue;
        }
        let request = state.request.as_ref();
        rows.push(vec![
            update.to_string(),
            state.requested_at.map(|at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default(),
            request.map_or("unreadable".into(), |r| r.cluster.to_string()),
            request.and_then(|r| r.target_instance_type.clone()).map(|t| t.0).unwrap_or_default(),
            request.and_then(|r| r.by.clone()).unwrap_or_default(),
        ]);
    }
    note(&format!("looked {looked_at} events back for requests that nobody answered: {} found", rows.len()));
    if rows.is_empty() {
        return Ok(());
    }
    rows.insert(0, ["UNANSWERED", "REQUESTED", "CLUSTER", "TARGET", "BY"].map(String::from).to_vec());
    print(&columns(&rows))?;
    note("they will not be obeyed; `esdb-rollout start` what is still wanted");
    Ok(())
}
