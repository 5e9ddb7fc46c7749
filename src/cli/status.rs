//! `status`: where an update is.

use clap::{Args, ValueEnum};

use crate::cli::failure::Failure;
use crate::cli::follow::show;
use crate::cli::heard::silence;
use crate::cli::store::{Followed, admissions, awaited_turn, held_back};
use crate::cli::untaken::{never_obeyed, untaken};
use crate::cli::watch::JSON_HELP;
use crate::cli::{Output, cluster_or_only, print, update_id};
use crate::config::Config;
use crate::domain::ids::UpdateId;
use crate::exit::{self, Exit};
use crate::ports::{Clock, EventLog};
use crate::views::article::StatusDocument;

/// How a status is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    /// For people.
    #[default]
    Table,
    /// One object on one line.
    Json,
    /// The article's status document.
    Article,
}

/// Options of `status`.
#[derive(Args, Debug)]
#[command(after_help = format!("\
{JSON_HELP}
--output article prints the status document of the article \"Scaling up/down EventStoreDB without downtime\", field for field.

With --exit-code the code is the update's:
{}
and 1 while it runs.

Examples:
  esdb-rollout status 6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6
  esdb-rollout status --cluster prod --output json", exit::HELP))]
pub struct StatusArgs {
    /// The update; else the active one of the cluster, a request that waits, or its last
    #[arg(value_name = "ID", value_parser = update_id, conflicts_with = "cluster")]
    pub id: Option<UpdateId>,
    /// The cluster [default: the only one configured]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    pub output: StatusOutput,
    /// End with the exit code of the update
    #[arg(long)]
    pub exit_code: bool,
}

/// Prints where an update is.
pub async fn run(args: StatusArgs, config: &Config, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let update = match args.id {
        Some(id) => id,
        None => {
            let cluster = cluster_or_only(args.cluster.as_deref(), config)?;
            let admissions = admissions(log, &cluster).await?;
            let waits = match admissions.active {
                Some(_) => None,
                None => untaken(log, clock, std::slice::from_ref(&cluster)).await?.pop(),
            };
            admissions.active.or(waits.map(|w| w.update)).or(admissions.ever.last().copied()).ok_or_else(|| {
                Failure::other(anyhow::anyhow!(
                    "cluster {cluster} has had no update in this store; check the name and the store, or begin one with `esdb-rollout start`"
                ))
            })?
        }
    };
    let followed = Followed::read(log, clock, update).await?;
    let mut progress = followed.progress(clock);
    let mut told = held_back(log, clock, config, &followed).await?;
    if told.is_none() {
        told = never_obeyed(log, &followed).await?;
    }
    if told.is_none() {
        told = awaited_turn(log, clock, update, &followed.state).await?;
    }
    progress.waiting = told.or(progress.waiting);
    progress.worker_silent_seconds = silence(log, clock, &followed.state).await;
    match args.output {
        StatusOutput::Table => show(&progress, Output::Table)?,
        StatusOutput::Json => show(&progress, Output::Json)?,
        StatusOutput::Article => {
            let document = StatusDocument::of(&followed.state, &followed.history, clock.wall());
            print(&serde_json::to_string_pretty(&document).map_err(Failure::other)?)?;
        }
    }
    Ok(if args.exit_code { Exit::of(&followed.state).unwrap_or(Exit::Other) } else { Exit::Completed })
}
