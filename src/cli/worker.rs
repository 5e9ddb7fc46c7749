//! `worker`: does the work, until it is asked to stop.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::failure::Failure;
use crate::cli::init::may_not_read_all;
use crate::cli::note;
use crate::cli::store::{admissions, read_state};
use crate::config::{Config, DEFAULT_MAX_CONCURRENT, default_worker_name};
use crate::domain::ids::{ClusterName, InstanceId, WorkerName};
use crate::exit::Exit;
use crate::ports::{Clock, EventLog};
use crate::worker::{Limits, StartPoint, Stop, Worker, WorkerError};

/// Options of `worker`.
#[derive(Args, Debug)]
#[command(after_help = "\
Carries out the updates of every cluster in its configuration. Several workers may run: one holds an update, and another takes over
within 20 s or so when it falls silent. A new update is taken by the one with the fewest in hand. SIGTERM or Ctrl-C: takes nothing new
in hand, hands over what it has as soon as no node is out of service by its doing, and ends: another worker takes that over at once.
A second one ends it at once, and whatever it had in hand waits for the next worker.

How much at a time: one update over all clusters that this worker knows, unless `[store] max_concurrent_updates` says otherwise; one by
this worker, unless --max-concurrent-updates does. The others wait, the oldest first, and `status` says so. With --stop-after-failures N
nothing new begins once N updates of these clusters have failed one after the other: a completed one starts the count again, and so
does a person with `esdb-rollout resume --after-failures`. What was begun is always resumed, whatever the limits: a node may be down.

Log lines go to stderr; RUST_LOG filters them (default: info,eventstore=error).

Examples:
  esdb-rollout worker --config /etc/esdb-rollout.toml --log-format json
  RUST_LOG=esdb_rollout=debug esdb-rollout worker --name blue")]
pub struct WorkerArgs {
    /// Name of this worker; each must have one of its own [default: the host's name]
    #[arg(long, env = "ESDB_ROLLOUT_WORKER_NAME")]
    pub name: Option<String>,
    /// Updates that this worker has in hand at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one, env = "ESDB_ROLLOUT_MAX_CONCURRENT_UPDATES")]
    pub max_concurrent_updates: usize,
    /// After N failed updates in a row (1 to 20), begin no new one until a person says so [default: go on]
    #[arg(long, value_name = "N", value_parser = up_to_twenty)]
    pub stop_after_failures: Option<usize>,
    /// EC2 instance that this worker runs on, which it will not stop [default: as the instance's metadata service says, else the firmware, else by address;
    /// neither tells in a container with a network of its own, where one hop is all that the service's answers may travel]
    #[arg(long, value_name = "ID", value_parser = instance_id, env = "ESDB_ROLLOUT_OWN_INSTANCE")]
    pub own_instance: Option<InstanceId>,
    /// Without a checkpoint, read the log from its beginning; a store whose requests were never initialised obeys all of them
    #[arg(long)]
    pub from_beginning: bool,
    /// How log lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl WorkerArgs {
    /// The worker's name.
    pub fn worker_name(&self) -> WorkerName {
        self.name.as_deref().map_or_else(default_worker_name, WorkerName::from)
    }

    /// How much it does at a time.
    pub fn limits(&self, config: &Config) -> Limits {
        Limits {
            own: self.max_concurrent_updates,
            fleet: config.store.as_ref().map_or(DEFAULT_MAX_CONCURRENT, |s| s.max_concurrent_updates),
            failures: self.stop_after_failures,
        }
    }
}

fn instance_id(text: &str) -> Result<InstanceId, String> {
    let id = Some(text).filter(|id| id.len() > 2 && id.starts_with("i-"));
    id.map(InstanceId::from).ok_or_else(|| "expected an instance id, such as i-0abc".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number from 1".to_owned())
}

fn up_to_twenty(text: &str) -> Result<usize, String> {
    at_least_one(text).ok().filter(|n| *n <= 20).ok_or_else(|| "expected a whole number from 1 to 20".to_owned())
}

/// Runs a worker until it is asked to stop.
pub async fn run(args: &WorkerArgs, worker: Worker) -> Result<Exit, Failure> {
    let start = if args.from_beginning { StartPoint::CheckpointOrBeginning } else { StartPoint::Checkpoint };
    let listen =
        |kind| signal(kind).map_err(|e| Failure::other(anyhow::Error::new(e).context("cannot listen for signals")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(Stop::No);
    let (log, clock) = (worker.log.clone(), worker.clock.clone());
    let clusters: Vec<ClusterName> = worker.clusters.keys().cloned().collect();
    let mut running = tokio::spawn(worker.run(start, stopped));
    let mut asked = false;
    loop {
        let signalled = tokio::select! {
            ended = &mut running => return result(ended),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if asked {
            tracing::warn!(signal = signalled, "ends at once; what it had in hand waits for the next worker");
            running.abort();
            return Ok(Exit::Other);
        }
        asked = true;
        note(
            "stopping: takes nothing new in hand, and waits until no node is out of service by its doing; once more to end at once",
        );
        stop.send_replace(Stop::AtSafePoint);
        tokio::spawn(say_what_it_waits_for(log.clone(), clock.clone(), clusters.clone()));
    }
}

/// What helps after a fault of ours.
const START_AGAIN: &str = "the worker died; start it again: it resumes from the streams";

fn result(ended: Result<Result<(), WorkerError>, tokio::task::JoinError>) -> Result<Exit, Failure> {
    match ended {
        Ok(Ok(())) => {
            tracing::info!("stopped; no node is out of service by its doing");
            Ok(Exit::Completed)
        }
        Ok(Err(error @ WorkerError::Store(_))) => {
            Err(Failure::unreachable(format!("{error}; check the store and the user's rights")))
        }
        Ok(Err(WorkerError::MayNotReadAll(error))) => Err(may_not_read_all(error)),
        Ok(Err(error @ WorkerError::NoHeartbeat(_))) => Err(Failure::unreachable(error)),
        Ok(Err(error @ (WorkerError::NotInitialised | WorkerError::NamesakeAlive(_)))) => Err(Failure::usage(error)),
        Ok(Err(error @ WorkerError::Died(_))) => Err(Failure::other(anyhow::Error::new(error).context(START_AGAIN))),
        Err(panic) => Err(Failure::other(anyhow::Error::new(panic).context(START_AGAIN))),
    }
}

/// Names what is in hand, as far as the store says so in time.
async fn say_what_it_waits_for(log: Arc<dyn EventLog>, clock: Arc<dyn Clock>, clusters: Vec<ClusterName>) {
    let look = async {
        for cluster in &clusters {
            let Some(update) = admissions(&*log, cluster).await?.active else { continue };
            let (_, state) = read_state(&*log, &*clock, update).await?;
            if let Some(hand) = state.in_hand.as_ref().filter(|h| h.step.out_of_service()) {
                note(&format!("waits for {} of cluster {cluster}, which is {}", hand.node, hand.step));
            }
        }
        Ok::<(), Failure>(())
    };
    match tokio::time::timeout(Duration::from_secs(10), look).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot say what it waits for"),
        Err(_) => tracing::warn!("cannot say what it waits for: the store does not answer in time"),
    }
}
