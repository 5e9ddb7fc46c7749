//! A rehearsal: a whole update on a simulated cluster, with all that runs in production.
//!
//! Simulated are the cluster and EC2, on loopback. Real are the worker, the adapters, the client library, the AWS SDK and every constant of
//! ours. The store is the very cluster that is updated, and a client appends to it all the time.

mod follow;
mod report;
mod secure;
mod stage;
mod waits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

pub use report::{NodeReport, Report, Verdict, Writes};
pub use secure::{Folder, Secrets, WORKER};
pub use stage::{
    ACCESS_KEY_ID, BadWish, CLUSTER, Ec2Of, NODE_PORT, REGION, SECRET_ACCESS_KEY, START_TYPE, Stage, StageError,
    VERSION, Wishes, world_config,
};
pub use waits::Waits;

use crate::codec::{CHECKPOINT, CheckpointMoved, EncodeError, Writer, encode_command, encode_record};
use crate::config::DEFAULT_MAX_REPLICATION_DELAY;
use crate::domain::ids::{CHECKPOINT_STREAM, Incarnation, Revision, StreamName, UpdateId, WorkerName};
use crate::domain::quorum::Voters;
use crate::ec2::{AwsConfig, Ec2Fleet};
use crate::esdb::{ConfigError, EventStoreLog, HttpAdmin, ProbeError, Seen, WriteProbe};
use crate::exit::Exit;
use crate::ports::{AppendError, Clock, EventLog, Expected, FleetError, ReadError, StoredEvent, SystemClock};
use crate::sim::model::Fault;
use crate::update::event::{Event, OnFailure, OnSilentNode, UpdateRequested};
use crate::update::limits::FIRST_ANSWER_TIMEOUT;
use crate::update::observed::Policy;
use crate::update::state::{Body, Recorded, State};
use crate::update::strategy::Strategy;
use crate::worker::{ClusterHandle, Limits, StartPoint, Stop, Worker, WorkerError, read_all, read_update};
use report::Measured;

/// Stream of the probe.
const PROBE_STREAM: &str = "probe";
/// Rest between two looks at the update's stream.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time for the probe's first append: a client connects within a second or two.
const BEGIN_WITHIN: Duration = Duration::from_secs(15);
/// A call to the store that met an election is repeated for so long.
const STORE_WITHIN: Duration = Duration::from_secs(60);
/// Nobody answers in a rehearsal: an update that waits for a person for so long has come to its end. What clears up by itself does
/// so in a refresh or two.
const NOBODY_CAME: Duration = Duration::from_secs(10);
/// Time for a worker to come to a safe point once the update has ended: the release is one append.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Where a fault is over by itself, so long after it is: the longest rest between two tries of the worker is five minutes.
const MENDED: Duration = Duration::from_secs(6 * 60);
/// A silent node is never given up sooner than this, however quick the world: a process that truncates is started three times.
const FIRST_ANSWER_LEAST: Duration = Duration::from_secs(60);
/// Namespace of a rehearsal's ids: its world begins with it, so that the same seed may give the same ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6573_6462_2d72_6f6c_6c6f_7574_0000_0003);

/// After how long a node counts as silent: the configuration's value, as much shorter as the world is quicker.
pub fn first_answer_timeout(speed: f64) -> Duration {
    FIRST_ANSWER_TIMEOUT.div_f64(speed.max(1.0)).max(FIRST_ANSWER_LEAST)
}

/// How long an update may wait for a person: where a fault is over by itself, nobody needs to come.
fn patience(faults: &[Fault]) -> Duration {
    let passes = faults.iter().filter_map(Fault::passes_after).max();
    passes.map_or(NOBODY_CAME, |after| after + MENDED)
}

/// What to rehearse.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The world.
    pub wishes: Wishes,
    /// What is done to each node.
    pub strategy: Strategy,
    /// What to do after a failure.
    pub on_failure: Option<OnFailure>,
    /// What to do with a node that stays silent.
    pub on_silent_node: Option<OnSilentNode>,
    /// Kill the worker when the first instance is stopped, and start another.
    pub kill_worker: bool,
    /// Give up after this time.
    pub time_limit: Duration,
}

/// What happens meanwhile, for whoever watches.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The cluster answers and the probe writes; the update is about to be asked for.
    Ready(&'a Stage),
    /// The update was looked at.
    Looked(Look<'a>),
    /// The worker was killed, and another was started.
    WorkerKilled,
}

/// How an update stands meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Which.
    pub update: UpdateId,
    /// Its history so far.
    pub history: &'a [Recorded],
    /// What it folds to.
    pub state: &'a State,
    /// What the probe has seen.
    pub writes: Seen,
    /// When this was, by the calendar.
    pub at: jiff::Timestamp,
}

/// Why a rehearsal came to no report.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The simulated cluster could not be made.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// An adapter could not be made.
    #[error("a client of the simulated cluster could not be made")]
    Adapter(#[from] ConfigError),
    /// The EC2 client could not be made.
    #[error("a client of the simulated EC2 could not be made")]
    Fleet(#[from] FleetError),
    /// Something could not be written down.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The store takes nothing.
    #[error("the simulated store does not take {what}")]
    Append {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: AppendError,
    },
    /// The store gives nothing.
    #[error("the simulated store does not give {what}")]
    Read {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The worker stopped by itself.
    #[error("the worker stopped by itself")]
    Worker(#[source] WorkerError),
    /// The worker died.
    #[error("the worker died: {0}")]
    WorkerDied(String),
    /// The probe did not begin.
    #[error("the probe's first append was not acknowledged within {} s", BEGIN_WITHIN.as_secs())]
    ProbeSilent,
    /// The probe stopped by itself.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// Runs a rehearsal to its end.
///
/// # Errors
/// Whatever keeps it from coming to a report; an update that fails is a report.
pub async fn run(options: &Options, progress: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<Report, RehearsalError> {
    let stage = Stage::open(&options.wishes).await?;
    let result = on_stage(options, &stage, progress).await;
    stage.close().await;
    result
}

async fn on_stage(
    options: &Options,
    stage: &Stage,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Report, RehearsalError> {
    let seed = options.wishes.seed;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    // The admin prepares the store, once; the worker's user has few rights, and the probe's no more than an application.
    let log = EventStoreLog::new(stage.store("rehearsal", "admin"))?;
    let mut probe = WriteProbe::start(&stage.store("probe", "app"), StreamName::from(PROBE_STREAM))?;
    if !probe.has_begun(BEGIN_WITHIN).await {
        return Err(if probe.is_finished() { ended(probe).await } else { RehearsalError::ProbeSilent });
    }
    let writer = |number| Writer {
        worker: WorkerName(format!("rehearsal-{number}")),
        incarnation: Incarnation(derived(seed, &format!("worker {number}"))),
    };
    prepare(&log, stage.secrets().is_some(), &writer(1), clock.wall()).await?;
    let mut worker = Working::start(options, stage, writer(1), Arc::clone(&clock)).await?;
    progress(Progress::Ready(stage));

    let patience = patience(&stage.world.with(|w| w.config().faults.clone()));
    let elections_before = stage.world.with(|w| w.elections());
    let update = UpdateId(derived(seed, "update"));
    let began = clock.now();
    request(options, &log, update).await?;

    let mut history: Vec<Recorded> = Vec::new();
    let mut state = State::default();
    let mut waits_since = None;
    let mut killed = false;
    let timed_out = loop {
        let next = state.last_revision().map_or(Revision(0), Revision::next);
        match read_update(&log, update, next, clock.now()).await {
            Ok(new) => {
                for recorded in new {
                    state.evolve(&recorded);
                    history.push(recorded);
                }
            }
            // An election: the next look tells.
            Err(error @ ReadError::Unavailable { .. }) => tracing::debug!(%error, "the update cannot be read now"),
            Err(source @ (ReadError::Denied { .. } | ReadError::Refused { .. })) => {
                return Err(RehearsalError::Read { what: "the update", source });
            }
        }
        progress(Progress::Looked(Look {
            update,
            history: &history,
            state: &state,
            writes: probe.seen(),
            at: clock.wall(),
        }));
        let now = clock.now();
        match Exit::of(&state) {
            None => waits_since = None,
            Some(Exit::Waiting) if now.since(*waits_since.get_or_insert(now)) < patience => {}
            Some(_) => break false,
        }
        if now.since(began) >= options.time_limit {
            break true;
        }
        if probe.is_finished() {
            return Err(ended(probe).await);
        }
        if worker.task.is_finished() {
            return Err(worker.ended().await);
        }
        if options.kill_worker && !killed && has_stopped_an_instance(&history) {
            killed = true;
            worker.kill().await;
            worker = Working::start(options, stage, writer(2), Arc::clone(&clock)).await?;
            progress(Progress::WorkerKilled);
        }
        sleep(LOOK_EVERY).await;
    };
    let wall = clock.now().since(began);
    let elections = stage.world.with(|w| w.elections()) - elections_before;

    let seen = probe.finish().await?;
    let mut remarks = Vec::new();
    if let Some(remark) = worker.stop().await? {
        remarks.push(remark);
    }
    let stored = read_back(&log, &StreamName::from(PROBE_STREAM), &*clock).await?;
    let measured = Measured {
        seed,
        speed: options.wishes.speed,
        elections,
        wall,
        waits: Waits::of(&stage.world.with(|w| w.config().clone()), wall),
        writes: Writes::compare(seen, &stored),
        timed_out,
    };
    Ok(Report::new(&history, &state, measured, remarks))
}

/// Why a probe that ended by itself did so.
async fn ended(probe: WriteProbe) -> RehearsalError {
    match probe.finish().await {
        Ok(_) => RehearsalError::ProbeSilent,
        Err(error) => RehearsalError::Probe(error),
    }
}

fn derived(seed: u64, what: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{seed}\n{what}").as_bytes())
}

fn has_stopped_an_instance(history: &[Recorded]) -> bool {
    history.iter().any(|r| matches!(&r.body, Body::Event(e) if matches!(**e, Event::InstanceStopped(_))))
}

/// Says from where on commands are obeyed, and lets the worker's user read on, as `init` does on a fresh store.
async fn prepare(
    log: &EventStoreLog,
    has_users: bool,
    writer: &Writer,
    at: jiff::Timestamp,
) -> Result<(), RehearsalError> {
    let refused = |source| RehearsalError::Append { what: "the checkpoint", source };
    let stream = StreamName::from(CHECKPOINT_STREAM);
    let end = log.end_of_log().await.map_err(|source| RehearsalError::Read { what: "the end of its log", source })?;
    if let Some(end) = end {
        let event = encode_record(&stream, CHECKPOINT, &CheckpointMoved::from(end), None, writer, at)?;
        log.append(&stream, Expected::NoStream, vec![event]).await.map_err(refused)?;
    }
    log.set_max_count(&stream, 1).await.map_err(refused)?;
    if has_users {
        let refused = |source| RehearsalError::Append { what: "the worker's right to read $all", source };
        log.let_read_all(WORKER).await.map_err(refused)?;
    }
    Ok(())
}

/// Appends the request, as any client of the store would.
async fn request(options: &Options, log: &EventStoreLog, update: UpdateId) -> Result<(), RehearsalError> {
    let target = match options.strategy {
        Strategy::Ec2InstanceTypeUpdate => Some(options.wishes.target_type.clone()),
        Strategy::Ec2InstanceRestart => None,
    };
    let request = UpdateRequested {
        cluster: CLUSTER.into(),
        strategy: options.strategy,
        target_instance_type: target,
        nodes: None,
        fallback_types: Some(options.wishes.fallback_types.clone()).filter(|types| !types.is_empty()),
        on_failure: options.on_failure,
        on_silent_node: options.on_silent_node,
        node_timeout_seconds: None,
        plan_digest: None,
        gates: None,
        not_before: None,
        window: None,
        dwell_seconds: None,
        // Fewer than three voters are refused without it; a rehearsal harms nobody.
        accept_downtime: (options.wishes.voters < 3).then_some(true),
        replicas_together: None,
        supersedes: None,
        resumes: None,
        by: Some("rehearsal".to_owned()),
        why: None,
    };
    let id = derived(options.wishes.seed, "request");
    let event = encode_command(&request.into(), id, json!({ "$correlationId": update.0 }))?;
    let sent = log.append(&update.stream(), Expected::NoStream, vec![event]).await;
    sent.map(drop).map_err(|source| RehearsalError::Append { what: "the request", source })
}

/// A stream as it is at the end; an election is waited for.
async fn read_back(
    log: &EventStoreLog,
    stream: &StreamName,
    clock: &dyn Clock,
) -> Result<Vec<StoredEvent>, RehearsalError> {
    let began = clock.now();
    loop {
        match read_all(log, stream, Revision(0)).await {
            Ok(events) => return Ok(events),
            Err(error @ ReadError::Unavailable { .. }) if clock.now().since(began) < STORE_WITHIN => {
                tracing::debug!(%error, "the probe's stream cannot be read now");
                sleep(LOOK_EVERY).await;
            }
            Err(source) => return Err(RehearsalError::Read { what: "the probe's stream", source }),
        }
    }
}

/// A worker at work.
struct Working {
    stop: watch::Sender<Stop>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Working {
    /// Starts a worker, with adapters of its own.
    async fn start(
        options: &Options,
        stage: &Stage,
        writer: Writer,
        clock: Arc<dyn Clock>,
    ) -> Result<Working, RehearsalError> {
        let aws = AwsConfig {
            region: Some(REGION.to_owned()),
            endpoint: Some(stage.ec2_url().to_owned()),
            ..AwsConfig::default()
        };
        let fleet = Ec2Fleet::connect_with_key(aws, ACCESS_KEY_ID, SECRET_ACCESS_KEY).await?;
        let admin = HttpAdmin::new(stage.admin(WORKER))?;
        let voters = stage.world.with(|w| w.config().voters);
        let handle = ClusterHandle {
            seeds: stage.addresses.clone(),
            voters: u32::try_from(voters).ok().map(Voters),
            nodes: BTreeMap::new(),
            policy: Policy {
                allowed_types: Vec::new(),
                max_replication_delay: DEFAULT_MAX_REPLICATION_DELAY,
                first_answer_timeout: first_answer_timeout(options.wishes.speed),
                fence: true,
            },
            admin: Arc::new(admin),
            fleet: Arc::new(fleet),
        };
        let worker = Worker {
            log: Arc::new(EventStoreLog::new(stage.store(writer.worker.as_str(), WORKER))?),
            writer,
            clusters: Arc::new(BTreeMap::from([(stage.cluster(), handle)])),
            clock,
            limits: Limits::default(),
        };
        let (stop, stopped) = watch::channel(Stop::No);
        Ok(Working { stop, task: tokio::spawn(worker.run(StartPoint::Checkpoint, stopped)) })
    }

    /// Kills it, as a machine that loses its power would.
    async fn kill(mut self) {
        self.task.abort();
        if let Err(error) = (&mut self.task).await
            && !error.is_cancelled()
        {
            tracing::error!(%error, "the worker died before it was killed");
        }
    }

    /// Stops it at a safe point. A remark, if it does not come to one.
    async fn stop(mut self) -> Result<Option<String>, RehearsalError> {
        self.stop.send_replace(Stop::AtSafePoint);
        match timeout(STOP_WITHIN, &mut self.task).await {
            Ok(Ok(Ok(()))) => Ok(None),
            Ok(Ok(Err(error))) => Err(RehearsalError::Worker(error)),
            Ok(Err(error)) => Err(RehearsalError::WorkerDied(error.to_string())),
            Err(_) => Ok(Some(format!("the worker came to no safe point within {} s", STOP_WITHIN.as_secs()))),
        }
    }

    /// Why it ended by itself.
    async fn ended(mut self) -> RehearsalError {
        match (&mut self.task).await {
            Ok(Ok(())) => RehearsalError::WorkerDied("it stopped without having been asked to".to_owned()),
            Ok(Err(error)) => RehearsalError::Worker(error),
            Err(error) => RehearsalError::WorkerDied(error.to_string()),
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.task.abort();
    }
}
