//! `list`: the updates of the clusters.

use async_trait::async_trait;
use clap::Args;
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::heard::silences;
use crate::cli::store::{Followed, awaited_turn, unreadable};
use crate::cli::untaken::untaken;
use crate::cli::{Output, note, print};
use crate::codec::{Admissions, decode};
use crate::config::Config;
use crate::domain::ids::{ClusterName, Revision, UpdateId};
use crate::exit::Exit;
use crate::ports::{Clock, EventLog};
use crate::update::state::{State, fold};
use crate::views::progress::Progress;
use crate::views::projected::Projected;
use crate::views::{columns, short_seconds};
use crate::worker::{heir, read_all, read_update};

/// Options of `list`.
#[derive(Args, Debug)]
#[command(after_help = "\
Shows updates that were admitted, a request that waits for the active update to end, which it supersedes, and requests that no worker
has taken yet (the user needs to read $all for those). A request that was rejected before (an unknown cluster, a cluster that is busy)
is not among them: its id shows it with `status`. Below the table it says whose worker is silent, and which nodes do not run.
--output json prints one update a line, as `status --output json` does.

Where the projection of `projections deploy` runs, its states are asked instead of reading whole streams; what it does not vouch for, or
has not seen to its last event yet, is read as ever. The answer is the same.

Examples:
  esdb-rollout list
  esdb-rollout list --cluster prod --limit 3 --output json")]
pub struct ListArgs {
    /// The cluster [default: all that are configured]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// At most so many of each cluster
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Read the streams, whatever projections run
    #[arg(long)]
    pub no_projections: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// The states of updates that a projection keeps.
#[async_trait]
pub trait UpdateStates: Send + Sync {
    /// The state of an update; none if the projection has none, or cannot be asked.
    async fn state(&self, update: UpdateId) -> Option<Value>;
}

/// Prints the updates of the clusters, newest first.
pub async fn run(
    args: ListArgs,
    config: &Config,
    log: &dyn EventLog,
    states: Option<&dyn UpdateStates>,
    clock: &dyn Clock,
) -> Result<Exit, Failure> {
    let clusters: Vec<ClusterName> = match &args.cluster {
        Some(name) => vec![ClusterName::from(name.as_str())],
        None if config.clusters.is_empty() => {
            return Err(Failure::usage("no cluster is configured: give --cluster NAME, or a configuration file"));
        }
        None => config.clusters.keys().cloned().collect(),
    };
    let mut found = Vec::new();
    let mut all_told = true;
    // Whose workers are listened to, by their places among those found.
    let mut active: Vec<(usize, State)> = Vec::new();
    let untaken = untaken(log, clock, &clusters).await?;
    for cluster in &clusters {
        let mut ids: Vec<UpdateId> = Vec::new();
        let admissions = match read_all(log, &cluster.admission_stream(), Revision(0)).await {
            Ok(events) => Admissions::fold(&events),
            Err(error) => {
                unreadable(error, format!("the updates of {cluster}"))?;
                all_told = false;
                continue;
            }
        };
        if let Some(active) = admissions.active {
            // It is not admitted before that one has ended.
            let heir = heir(log, clock, active, cluster).await;
            ids.extend(heir.map_err(|e| Failure::from(e).during(format!("reading update {active}")))?);
        }
        let waits = ids.clone();
        let others = |f: &&Followed| !waits.contains(&f.update) && !admissions.ever.contains(&f.update);
        for followed in untaken.iter().rev().filter(|f| f.is_of(cluster)).filter(others).take(args.limit) {
            found.push(followed.progress(clock));
        }
        for id in admissions.ever.into_iter().rev() {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        for id in ids.into_iter().take(args.limit) {
            // What it waits for stands in another's stream as well.
            let projected = match states.filter(|_| !args.no_projections && !waits.contains(&id)) {
                Some(states) => projected(states, log, clock, id).await?,
                None => None,
            };
            if let Some(projected) = projected {
                tracing::debug!(update = %id, "told by the projection");
                if admissions.active == Some(id) {
                    active.push((found.len(), projected.state().clone()));
                }
                found.push(projected.progress(id, clock.wall()));
            } else {
                let history = match read_update(log, id, Revision(0), clock.now()).await {
                    Ok(history) => history,
                    Err(error) => {
                        let active = if admissions.active == Some(id) { ", the active one" } else { "" };
                        unreadable(error, format!("update {id} of {cluster}{active}"))?;
                        all_told = false;
                        continue;
                    }
                };
                let state = fold(&history);
                let mut progress = Progress::of(id, &state, &history, clock.wall());
                if let Some(why) = awaited_turn(log, clock, id, &state).await? {
                    progress.waiting = Some(why);
                }
                if admissions.active == Some(id) {
                    active.push((found.len(), state));
                }
                found.push(progress);
            }
        }
    }
    let states: Vec<&State> = active.iter().map(|(_, state)| state).collect();
    let silent = silences(log, clock, &states).await;
    for ((place, _), silent) in active.iter().zip(silent) {
        if let Some(progress) = found.get_mut(*place) {
            progress.worker_silent_seconds = silent;
        }
    }
    match args.output {
        Output::Json => {
            for progress in &found {
                print(&serde_json::to_string(progress).map_err(Failure::other)?)?;
            }
        }
        Output::Table if found.is_empty() && all_told => note("no updates"),
        Output::Table => {
            let mut text = columns(&rows(&found));
            for progress in &found {
                if let Some(trouble) = progress.trouble() {
                    text.push_str(&format!("{}: {trouble}\n", progress.update));
                }
            }
            print(&text)?;
        }
    }
    Ok(if all_told { Exit::Completed } else { Exit::Other })
}

/// What the projection says of an update, if it vouches for it and has seen its last event.
async fn projected(
    states: &dyn UpdateStates,
    log: &dyn EventLog,
    clock: &dyn Clock,
    update: UpdateId,
) -> Result<Option<Projected>, Failure> {
    let Some(mut projected) = states.state(update).await.as_ref().and_then(Projected::read) else { return Ok(None) };
    let stream = update.stream();
    let during = |e| Failure::from(e).during(format!("reading update {update}"));
    let last = log.read_last(&stream).await.map_err(during)?;
    if last.map(|e| e.revision) != Some(projected.revision()) {
        tracing::debug!(%update, "the projection has not seen the last event");
        return Ok(None);
    }
    if !projected.knows_when() {
        let Some(first) = log.read(&stream, Revision(0), 1).await.map_err(during)?.into_iter().next() else {
            return Ok(None);
        };
        projected.requested(decode(&first, clock.now()).at);
    }
    Ok(Some(projected))
}

fn rows(found: &[Progress]) -> Vec<Vec<String>> {
    let titles = ["ID", "CLUSTER", "VERDICT", "REQUESTED", "TOOK", "BY", "WHAT", "WHY"].map(String::from).to_vec();
    let row = |p: &Progress| {
        vec![
            p.update.to_string(),
            p.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
            p.standing().to_owned(),
            p.requested_at.map(|at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default(),
            short_seconds(p.seconds),
            p.by.clone().unwrap_or_default(),
            p.what(),
            p.why.clone().unwrap_or_default(),
        ]
    };
    std::iter::once(titles).chain(found.iter().map(row)).collect()
}
