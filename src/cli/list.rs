//! `list`: the updates of the clusters.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::store::{admissions, read_state};
use crate::cli::{Output, note, print};
use crate::config::Config;
use crate::domain::ids::{ClusterName, UpdateId};
use crate::exit::Exit;
use crate::ports::{Clock, EventLog};
use crate::views::progress::Progress;
use crate::views::{columns, short_seconds};

/// Options of `list`.
#[derive(Args, Debug)]
#[command(after_help = "\
Shows updates that were admitted. A request that was rejected before (an unknown cluster, a cluster that is busy) is not among them:
its id shows it with `status`. --output json prints one update a line, as `status --output json` does.

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
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Prints the updates of the clusters, newest first.
pub async fn run(args: ListArgs, config: &Config, log: &dyn EventLog, clock: &dyn Clock) -> Result<Exit, Failure> {
    let clusters: Vec<ClusterName> = match &args.cluster {
        Some(name) => vec![ClusterName::from(name.as_str())],
        None if config.clusters.is_empty() => {
            return Err(Failure::usage("no cluster is configured: give --cluster NAME, or a configuration file"));
        }
        None => config.clusters.keys().cloned().collect(),
    };
    let mut found = Vec::new();
    for cluster in &clusters {
        let mut ids: Vec<UpdateId> = Vec::new();
        for id in admissions(log, cluster).await?.ever.into_iter().rev() {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        for id in ids.into_iter().take(args.limit) {
            let (history, state) = read_state(log, clock, id).await?;
            found.push(Progress::of(id, &state, &history, clock.wall()));
        }
    }
    match args.output {
        Output::Json => {
            for progress in &found {
                print(&serde_json::to_string(progress).map_err(Failure::other)?)?;
            }
        }
        Output::Table if found.is_empty() => note("no updates"),
        Output::Table => print(&columns(&rows(&found)))?,
    }
    Ok(Exit::Completed)
}

fn rows(found: &[Progress]) -> Vec<Vec<String>> {
    let titles = ["ID", "CLUSTER", "VERDICT", "REQUESTED", "TOOK", "BY", "WHAT", "WHY"].map(String::from).to_vec();
    let row = |p: &Progress| {
        vec![
            p.update.to_string(),
            p.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
            p.verdict.to_owned(),
            p.requested_at.map(|at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()).unwrap_or_default(),
            short_seconds(p.seconds),
            p.by.clone().unwrap_or_default(),
            p.what(),
            p.why.clone().unwrap_or_default(),
        ]
    };
    std::iter::once(titles).chain(found.iter().map(row)).collect()
}
