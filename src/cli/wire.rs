//! The composition root: adapters, worker and commands, made of the configuration. Nothing else names an adapter.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cli::failure::Failure;
use crate::cli::worker::LogFormat;
use crate::cli::{
    Cli, Command, command, configuration, fresh_id, history, init, list, rehearse, sim, start, status, watch, worker,
};
use crate::codec::Writer;
use crate::config::{Cluster, Config, LoginSource};
use crate::domain::ids::{ClusterName, Incarnation, WorkerName};
use crate::domain::quorum::Voters;
use crate::ec2::{AwsConfig, Ec2Fleet};
use crate::esdb::{AdminConfig, Credentials, EventStoreLog, HttpAdmin, StoreConfig};
use crate::exit::Exit;
use crate::ports::{EventLog, SystemClock};
use crate::update::limits::FIRST_ANSWER_TIMEOUT;
use crate::update::observed::Policy;
use crate::worker::{ClusterHandle, NodeMapping, Worker};

/// Does what the command line says.
pub async fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    if let Command::Rehearse(args) = &command {
        // Elections and refused connections are the matter of a rehearsal: what the libraries say of them would drown its lines.
        log_lines(LogFormat::Text, "esdb_rollout=error")?;
        return rehearse::run(args).await;
    }
    if let Command::Sim(args) = &command {
        log_lines(LogFormat::Text, "warn")?;
        return sim::run(args).await;
    }
    let mut config = configuration(&global)?;
    if let Command::Init(init::InitArgs { credentials_file: Some(path), .. }) = &command
        && let Some(store) = &mut config.store
    {
        store.login = Some(LoginSource::File(path.clone()));
    }
    let clock = SystemClock::start();
    if let Command::Worker(args) = &command {
        log_lines(args.log_format, "info")?;
        return worker::run(args, assemble(&config, args.worker_name(), clock).await?).await;
    }
    log_lines(LogFormat::Text, "error")?;
    let log = store(&config, "esdb-rollout")?;
    match command {
        Command::Start(args) => start::run(args, &config, &log, &clock).await,
        Command::Status(args) => status::run(args, &config, &log, &clock).await,
        Command::Watch(args) => watch::run(args, &log, &clock).await,
        Command::History(args) => history::run(args, &log, &clock).await,
        Command::List(args) => list::run(args, &config, &log, &clock).await,
        Command::Pause(args) => command::pause(args, &log, &clock).await,
        Command::Resume(args) => command::resume(args, &log, &clock).await,
        Command::Cancel(args) => command::cancel(args, &log, &clock).await,
        Command::Approve(args) => command::approve(args, &log, &clock).await,
        Command::Init(args) => init::run(args, &log, &clock).await,
        Command::Worker(_) | Command::Rehearse(_) | Command::Sim(_) => {
            Err(Failure::usage("this command is begun before the store of a client"))
        }
    }
}

fn log_lines(format: LogFormat, default: &str) -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => tracing_subscriber::EnvFilter::try_new(&text).map_err(|e| {
            Failure::usage(format!("RUST_LOG: expected a filter such as info,esdb_rollout=debug; found `{text}`: {e}"))
        })?,
        Ok(_) | Err(_) => tracing_subscriber::EnvFilter::new(default),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let lines = lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let set = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    set.map_err(|e| Failure::other(anyhow::anyhow!("log lines cannot be written: {e}")))
}

fn credentials(login: Option<&LoginSource>) -> Result<Option<Credentials>, Failure> {
    let login = login.map(LoginSource::load).transpose()?;
    Ok(login.map(|l| Credentials::new(l.user, l.password)))
}

/// The store.
pub fn store(config: &Config, connection_name: &str) -> Result<EventStoreLog, Failure> {
    let Some(store) = &config.store else {
        return Err(Failure::usage(
            "no store is named: give --store esdb://HOST:2113, set ESDB_ROLLOUT_STORE, or add [store] with `connection` to the \
             configuration file",
        ));
    };
    let made = EventStoreLog::new(StoreConfig {
        connection: store.connection.clone(),
        ca_file: store.ca_file.clone(),
        credentials: credentials(store.login.as_ref())?,
        connection_name: connection_name.to_owned(),
    });
    made.map_err(|e| Failure::usage(e).during("the store"))
}

/// A worker for every cluster of the configuration.
pub async fn assemble(config: &Config, name: WorkerName, clock: SystemClock) -> Result<Worker, Failure> {
    if config.clusters.is_empty() {
        return Err(Failure::usage(
            "no cluster is configured: add [clusters.NAME] with `seeds` to the configuration file",
        ));
    }
    // The server lists connections by this name, and takes ASCII only.
    let plain: String = name.as_str().chars().filter(|c| c.is_ascii_graphic()).collect();
    let log: Arc<dyn EventLog> = Arc::new(store(config, &format!("esdb-rollout worker {plain}"))?);
    let mut clusters = BTreeMap::new();
    for (cluster, configured) in &config.clusters {
        let handle = handle(configured).await.map_err(|e| e.during(format!("cluster {cluster}")))?;
        clusters.insert(cluster.clone(), handle);
    }
    let writer = Writer { worker: name, incarnation: Incarnation(fresh_id()) };
    let clusters: Arc<BTreeMap<ClusterName, ClusterHandle>> = Arc::new(clusters);
    Ok(Worker { writer, clusters, log, clock: Arc::new(clock) })
}

async fn handle(cluster: &Cluster) -> Result<ClusterHandle, Failure> {
    let admin = HttpAdmin::new(AdminConfig {
        tls: cluster.tls,
        ca_file: cluster.ca_file.clone(),
        credentials: credentials(cluster.login.as_ref())?,
    })
    .map_err(Failure::usage)?;
    let aws = &cluster.aws;
    let fleet = Ec2Fleet::connect(AwsConfig {
        region: aws.region.clone(),
        profile: aws.profile.clone(),
        role_arn: aws.role_arn.clone(),
        endpoint: aws.endpoint.clone(),
    })
    .await
    // Only what is configured is looked at here; nobody is called yet.
    .map_err(Failure::usage)?;
    if let Err(error) = fleet.check_credentials().await {
        tracing::warn!(%error, "EC2 does not let this worker describe instances; updates wait until it does");
    }
    let map = |(name, node): (&_, &crate::config::Node)| {
        (Clone::clone(name), NodeMapping { instance: node.instance.clone(), address: node.address.clone() })
    };
    Ok(ClusterHandle {
        seeds: cluster.seeds.clone(),
        voters: cluster.voters.map(Voters),
        nodes: cluster.nodes.iter().map(map).collect(),
        policy: Policy {
            allowed_types: cluster.allowed_types.clone(),
            max_replication_delay: cluster.max_replication_delay,
            first_answer_timeout: cluster.first_answer_timeout.unwrap_or(FIRST_ANSWER_TIMEOUT),
        },
        admin: Arc::new(admin),
        fleet: Arc::new(fleet),
    })
}
