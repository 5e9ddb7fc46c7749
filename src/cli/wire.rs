//! The composition root: adapters, worker and commands, made of the configuration. Nothing else names an adapter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::cli::failure::Failure;
use crate::cli::worker::LogFormat;
use crate::cli::{
    Cli, Command, command, configuration, fresh_id, history, init, list, plan, projections, rehearse, sim, start,
    status, watch, worker,
};
use crate::codec::Writer;
use crate::config::{Cluster, Config, LoginSource};
use crate::domain::ids::{ClusterName, Incarnation, InstanceId, UpdateId};
use crate::domain::quorum::Voters;
use crate::ec2::{AwsConfig, Ec2Fleet, OwnMachine, own_machine};
use crate::esdb::{AdminConfig, Credentials, EventStoreLog, HttpAdmin, Projections, ProjectionsLeader, StoreConfig};
use crate::exit::Exit;
use crate::ports::{EventLog, SystemClock};
use crate::update::limits::FIRST_ANSWER_TIMEOUT;
use crate::update::observed::Policy;
use crate::worker::{ClusterHandle, NodeMapping, Worker};

/// Log lines of commands that end: what the libraries say of their tries would drown what the command says.
const OUR_ERRORS: &str = "esdb_rollout=error";

/// Log lines of a worker. The store's client library warns of the CA file on an insecure connection, which it is given lest it look for the
/// system's certificates.
const WORKER_LINES: &str = "info,eventstore=error";

/// Does what the command line says.
pub async fn run(cli: Cli) -> Result<Exit, Failure> {
    let Cli { global, command } = cli;
    if let Command::Rehearse(args) = &command {
        // Elections and refused connections are the matter of a rehearsal.
        log_lines(LogFormat::Text, OUR_ERRORS)?;
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
        log_lines(args.log_format, WORKER_LINES)?;
        let worker = assemble(&config, args, clock).await?;
        return worker::run(args, worker).await;
    }
    log_lines(LogFormat::Text, OUR_ERRORS)?;
    if let Command::Projections(args) = &command {
        return projections::run(args, &store_projections(&config)?).await;
    }
    let log = store(&config, "esdb-rollout")?;
    match command {
        Command::Plan(args) => {
            let wish = args.request.wish(&config)?;
            let cluster = handle(plan::cluster_of(&wish, &config)?, &OwnInstance::default()).await?;
            plan::run(&args, wish, &cluster, &log, Arc::new(clock)).await
        }
        Command::Start(args) => start::run(args, &config, &log, &clock).await,
        Command::Status(args) => status::run(args, &config, &log, &clock).await,
        Command::Watch(args) => watch::run(args, &log, &clock).await,
        Command::History(args) => history::run(args, &log, &clock).await,
        Command::List(args) => {
            let states = if args.no_projections { None } else { KeptStates::find(&config).await };
            let states = states.as_ref().map(|s| s as &dyn list::UpdateStates);
            list::run(args, &config, &log, states, &clock).await
        }
        Command::Pause(args) => command::pause(args, &log, &clock).await,
        Command::Resume(args) => command::resume(args, &log, &clock).await,
        Command::Cancel(args) => command::cancel(args, &log, &clock).await,
        Command::Retry(args) => command::retry(args, &log, &clock).await,
        Command::Rollback(args) => command::rollback(args, &log, &clock).await,
        Command::Approve(args) => command::approve(args, &log, &clock).await,
        Command::Init(args) => init::run(args, &log, &clock).await,
        Command::Worker(_) | Command::Projections(_) | Command::Rehearse(_) | Command::Sim(_) => {
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

fn store_config(config: &Config, connection_name: &str) -> Result<StoreConfig, Failure> {
    let Some(store) = &config.store else {
        return Err(Failure::usage(
            "no store is named: give --store esdb://HOST:2113, set ESDB_ROLLOUT_STORE, or add [store] with `connection` to the \
             configuration file",
        ));
    };
    Ok(StoreConfig {
        connection: store.connection.clone(),
        ca_file: store.ca_file.clone(),
        credentials: credentials(store.login.as_ref())?,
        connection_name: connection_name.to_owned(),
    })
}

/// The store.
pub fn store(config: &Config, connection_name: &str) -> Result<EventStoreLog, Failure> {
    let made = EventStoreLog::new(store_config(config, connection_name)?);
    made.map_err(|e| Failure::usage(e).during("the store"))
}

fn store_projections(config: &Config) -> Result<Projections, Failure> {
    let made = Projections::new(&store_config(config, "")?);
    made.map_err(|e| Failure::usage(e).during("the store"))
}

/// The states that the projection keeps, where it runs.
struct KeptStates {
    leader: ProjectionsLeader,
    /// It did not answer in time once: it is not waited for again.
    silent: AtomicBool,
}

impl KeptStates {
    /// Time to find out whether the projection runs. Without it everything is read as ever, so this is not worth waiting for.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

    async fn find(config: &Config) -> Option<Self> {
        let asked = async {
            let leader = store_projections(config)?.leader().await?;
            let runs = leader.status(projections::UPDATE_STATE).await?.is_some_and(|s| s.is_running());
            Ok::<_, Failure>(runs.then_some(KeptStates { leader, silent: AtomicBool::new(false) }))
        };
        match tokio::time::timeout(Self::PATIENCE, asked).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the projections cannot be asked");
                None
            }
            Err(_) => None,
        }
    }
}

#[async_trait]
impl list::UpdateStates for KeptStates {
    async fn state(&self, update: UpdateId) -> Option<Value> {
        if self.silent.load(Ordering::Relaxed) {
            return None;
        }
        let stream = update.stream();
        let asked = self.leader.state(projections::UPDATE_STATE, stream.as_str());
        match tokio::time::timeout(Self::PATIENCE, asked).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, %update, "the projection does not tell the state");
                None
            }
            Err(_) => {
                self.silent.store(true, Ordering::Relaxed);
                None
            }
        }
    }
}

/// A worker for every cluster of the configuration.
pub async fn assemble(config: &Config, args: &worker::WorkerArgs, clock: SystemClock) -> Result<Worker, Failure> {
    let (name, limits) = (args.worker_name(), args.limits(config));
    if config.clusters.is_empty() {
        return Err(Failure::usage(
            "no cluster is configured: add [clusters.NAME] with `seeds` to the configuration file",
        ));
    }
    // The server lists connections by this name, and takes ASCII only.
    let plain: String = name.as_str().chars().filter(|c| c.is_ascii_graphic()).collect();
    let log: Arc<dyn EventLog> = Arc::new(store(config, &format!("esdb-rollout worker {plain}"))?);
    let own = OwnInstance { configured: args.own_instance.clone(), ..OwnInstance::default() };
    let mut clusters = BTreeMap::new();
    for (cluster, configured) in &config.clusters {
        let handle = handle(configured, &own).await.map_err(|e| e.during(format!("cluster {cluster}")))?;
        clusters.insert(cluster.clone(), handle);
    }
    let writer = Writer { worker: name, incarnation: Incarnation(fresh_id()) };
    let clusters: Arc<BTreeMap<ClusterName, ClusterHandle>> = Arc::new(clusters);
    Ok(Worker { writer, clusters, log, clock: Arc::new(clock), limits })
}

/// The instance that this process runs on: as configured, else as found once.
#[derive(Default)]
struct OwnInstance {
    configured: Option<InstanceId>,
    found: OnceCell<OwnMachine>,
}

impl OwnInstance {
    async fn among(&self, fleet: &Ec2Fleet) -> OwnMachine {
        if let Some(id) = &self.configured {
            return id.clone().into();
        }
        if fleet.is_moved() {
            return OwnMachine::default();
        }
        let found = self.found.get_or_init(|| async {
            let found = own_machine().await;
            match &found {
                OwnMachine { instance: Some(own), .. } => {
                    tracing::info!(instance = %own, "runs on an instance, which it will not stop");
                }
                OwnMachine { is_of_ec2: true, .. } => tracing::warn!(
                    "runs on an instance, and neither a metadata service nor the firmware says on which: the addresses of this machine \
                     must tell; in a container they do not, and --own-instance does"
                ),
                OwnMachine { .. } => {
                    tracing::info!("nothing says that this runs on an instance: the addresses of this machine must tell");
                }
            }
            found
        });
        found.await.clone()
    }
}

async fn handle(cluster: &Cluster, own: &OwnInstance) -> Result<ClusterHandle, Failure> {
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
    let (checked, own) = tokio::join!(fleet.check_credentials(), own.among(&fleet));
    if let Err(error) = checked {
        tracing::warn!(%error, "EC2 does not let this worker describe instances: requests are refused (ec2Denied) and running updates wait until it does");
    }
    let map = |(name, node): (&_, &crate::config::Node)| {
        let (instance, address) = (node.instance.clone(), node.address.clone());
        (Clone::clone(name), NodeMapping { instance, address, address_translated: node.address_translated })
    };
    Ok(ClusterHandle {
        seeds: cluster.seeds.clone(),
        voters: cluster.voters.map(Voters),
        nodes: cluster.nodes.iter().map(map).collect(),
        policy: Policy {
            allowed_types: cluster.allowed_types.clone(),
            max_replication_delay: cluster.max_replication_delay,
            first_answer_timeout: cluster.first_answer_timeout.unwrap_or(FIRST_ANSWER_TIMEOUT),
            fence: cluster.fence,
        },
        admin: Arc::new(admin),
        fleet: Arc::new(fleet.running_on(own)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_metadata_service_is_not_asked_where_ec2_is_another_or_the_instance_is_named() {
        let aws = AwsConfig {
            region: Some("eu-west-1".into()),
            endpoint: Some("http://127.0.0.1:1".into()),
            ..AwsConfig::default()
        };
        let simulated = Ec2Fleet::connect(aws).await.unwrap();
        let own = OwnInstance::default();
        assert_eq!((own.among(&simulated).await, own.found.get()), (OwnMachine::default(), None));
        let aws = AwsConfig { region: Some("eu-west-1".into()), ..AwsConfig::default() };
        let real = Ec2Fleet::connect(aws).await.unwrap();
        let named = OwnInstance { configured: Some("i-0abc".into()), ..OwnInstance::default() };
        assert_eq!((named.among(&real).await.instance, named.found.get()), (Some("i-0abc".into()), None));
    }
}
