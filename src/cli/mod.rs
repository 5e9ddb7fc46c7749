//! The command line: one file a subcommand, and the composition root ([`wire`]), which alone names the adapters.
//!
//! Data goes to stdout, everything else to stderr. Commands other than `worker` and `init` are clients: they need the store and
//! nothing else.

pub mod command;
pub mod failure;
pub mod follow;
pub mod heard;
pub mod history;
pub mod init;
pub mod list;
pub mod plan;
#[cfg(all(feature = "esdb", feature = "ec2"))]
pub mod projections;
#[cfg(all(feature = "esdb", feature = "ec2"))]
pub mod rehearse;
pub mod request;
#[cfg(all(feature = "esdb", feature = "ec2"))]
pub mod sim;
pub mod start;
pub mod status;
pub mod store;
pub mod untaken;
pub mod watch;
#[cfg(all(feature = "esdb", feature = "ec2"))]
pub mod wire;
pub mod worker;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use uuid::Uuid;

use crate::cli::failure::Failure;
use crate::config::{Config, Overrides};
use crate::domain::ids::{ClusterName, UPDATE_PREFIX, UpdateId};

/// Rolling changes of an EventStoreDB (KurrentDB) cluster on AWS EC2, without downtime.
#[derive(Debug, Parser)]
#[command(name = "esdb-rollout", version, max_term_width = 120, after_help = AFTER_HELP)]
pub struct Cli {
    /// Where the configuration and the store are.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
First time, on the machine that is to do the work:
  esdb-rollout init
  esdb-rollout worker
Then, where the cluster can be reached, to see what would be done:
  esdb-rollout plan --cluster prod --target-type m6i.xlarge
And from anywhere:
  esdb-rollout start --cluster prod --target-type m6i.xlarge --why 'more memory' --wait
  esdb-rollout watch ID

Without --config the file ./esdb-rollout.toml is read, if there is one.";

/// Options of every command.
#[derive(Args, Clone)]
pub struct Global {
    /// Configuration file [default: ./esdb-rollout.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "ESDB_ROLLOUT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Connection string of the store, in place of the configured one (user and password: ESDB_ROLLOUT_STORE_USER, _PASSWORD)
    #[arg(long, global = true, value_name = "ESDB://…", env = "ESDB_ROLLOUT_STORE", hide_env_values = true)]
    pub store: Option<String>,
}

impl std::fmt::Debug for Global {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let store = self.store.as_deref().map(crate::config::without_password);
        f.debug_struct("Global").field("config", &self.config).field("store", &store).finish()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what an update would do, and what speaks against it; nothing is done
    Plan(plan::PlanArgs),
    /// Ask for an update of a cluster
    Start(start::StartArgs),
    /// Show where an update is
    Status(status::StatusArgs),
    /// Follow an update to its end
    Watch(watch::WatchArgs),
    /// Show every event of an update
    History(history::HistoryArgs),
    /// List the updates of the clusters, newest first
    List(list::ListArgs),
    /// Keep states and links in the store's own projections engine
    #[cfg(all(feature = "esdb", feature = "ec2"))]
    Projections(projections::ProjectionsArgs),
    /// Pause an update before its next stop
    Pause(command::PauseArgs),
    /// Go on after a pause
    Resume(command::ResumeArgs),
    /// End an update with every node running
    Cancel(command::CancelArgs),
    /// Try again what an update is parked at or failed at
    Retry(command::AgainArgs),
    /// Bring back every node that an update has changed
    Rollback(command::AgainArgs),
    /// Grant the approval that an update waits for
    Approve(command::ApproveArgs),
    /// Do the work: carry out the updates of the configured clusters
    Worker(worker::WorkerArgs),
    /// Prepare a store: requests are obeyed from now on
    Init(init::InitArgs),
    /// Rehearse an update on a simulated cluster and EC2, with all that runs in production
    #[cfg(all(feature = "esdb", feature = "ec2"))]
    Rehearse(rehearse::RehearseArgs),
    /// Serve a simulated cluster and EC2 on loopback, to try the other commands on
    #[cfg(all(feature = "esdb", feature = "ec2"))]
    Sim(sim::SimArgs),
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// One object on one line.
    Json,
}

/// Names an update: its id, or its stream.
pub fn update_id(text: &str) -> Result<UpdateId, String> {
    Uuid::parse_str(text.strip_prefix(UPDATE_PREFIX).unwrap_or(text)).map(UpdateId).map_err(|_| {
        "expected the id that `start` printed, such as 6f1c2a34-…; `esdb-rollout list` shows those there are".into()
    })
}

/// A duration: `90`, `90s`, `15m`, `2h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let factor = match unit {
        "h" => 3600.0,
        "m" => 60.0,
        _ => 1.0,
    };
    let seconds = f64::from_str(number).ok().map(|n| n * factor).filter(|s| s.is_finite() && (0.0..1e9).contains(s));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected seconds, or a number with s, m or h: 90, 15m, 2h".into())
}

/// The cluster that a command is about: the one named, or the only one configured.
pub fn cluster_or_only(named: Option<&str>, config: &Config) -> Result<ClusterName, Failure> {
    if let Some(name) = named {
        return Ok(ClusterName::from(name));
    }
    let mut names = config.clusters.keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err(Failure::usage("which cluster is not said: give --cluster NAME")),
        (Some(_), Some(_)) => {
            let names: Vec<&str> = config.clusters.keys().map(ClusterName::as_str).collect();
            Err(Failure::usage(format!("which cluster is not said: give --cluster with one of {}", names.join(", "))))
        }
    }
}

/// Prints data to stdout, with a line's end after it.
///
/// # Errors
/// Whoever read it has gone, which is no fault ([`Failure::BrokenPipe`]), or stdout cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.trim_end_matches('\n').as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
        .map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                Failure::BrokenPipe
            } else {
                Failure::other(anyhow::Error::new(error).context("cannot write to stdout"))
            }
        })
}

/// Says something on stderr. If nobody can read it there, there is nobody to tell.
pub fn note(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}

/// A fresh random id, for what people ask for: two may ask for the same.
#[expect(
    clippy::disallowed_methods,
    reason = "commands, updates and incarnations have no content to derive an id from"
)]
pub fn fresh_id() -> Uuid {
    Uuid::new_v4()
}

/// The configuration that the options and the environment name.
pub fn configuration(global: &Global) -> Result<Config, Failure> {
    let overrides = Overrides {
        file: global.config.clone(),
        store: global.store.clone(),
        store_user: std::env::var("ESDB_ROLLOUT_STORE_USER").ok(),
        store_password: std::env::var("ESDB_ROLLOUT_STORE_PASSWORD").ok(),
    };
    crate::config::load(&overrides).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ids_and_durations() {
        let id = "6f1c2a34-0000-4000-8000-000000000001";
        assert_eq!(update_id(id), update_id(&format!("clusterUpdate-{id}")));
        assert!(update_id("prod").unwrap_err().contains("list"));
        for (text, seconds) in [("90", 90.0), ("1.5s", 1.5), ("15m", 900.0), ("2h", 7200.0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)));
        }
        for text in ["", "m", "-1", "1d", "inf"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_only_cluster_need_not_be_named() {
        let text = "[clusters.prod]\nseeds = [\"a:1\"]\n";
        let mut config = crate::config::parse("x.toml".as_ref(), text).unwrap();
        assert_eq!(cluster_or_only(None, &config).unwrap(), "prod".into());
        assert_eq!(cluster_or_only(Some("other"), &config).unwrap(), "other".into());
        let prod = config.clusters[&ClusterName::from("prod")].clone();
        config.clusters.insert("test".into(), prod);
        assert!(cluster_or_only(None, &config).unwrap_err().to_string().contains("prod, test"));
    }
}
