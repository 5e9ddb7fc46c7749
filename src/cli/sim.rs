//! `sim`: a simulated cluster and EC2, served until it is told to stop.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::failure::Failure;
use crate::cli::rehearse::{faults, fresh_seed, known_faults};
use crate::cli::{note, print};
use crate::domain::ids::{Address, InstanceType};
use crate::ec2::{AwsConfig, Ec2Fleet};
use crate::exit::Exit;
use crate::rehearsal::{
    CLUSTER, Ec2Of, Folder, NODE_PORT, REGION, START_TYPE, Secrets, Stage, StageError, VERSION, WORKER, Wishes,
};

/// Options of `sim`.
#[derive(Args, Debug)]
#[command(after_help = after_help())]
pub struct SimArgs {
    /// Seed of the simulated world [default: a random one, which is printed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// How much quicker than real EC2 transitions, boot and catch-up are
    #[arg(long, default_value_t = 10.0)]
    pub speed: f64,
    /// Voting nodes
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Read-only replicas
    #[arg(long, default_value_t = 1)]
    pub replicas: usize,
    /// Server version to simulate
    #[arg(long, default_value = VERSION)]
    pub server_version: String,
    /// Address of the first node; the others follow, one address each
    #[arg(long, default_value_t = Ipv4Addr::new(127, 0, 10, 1))]
    pub base_ip: Ipv4Addr,
    /// Port of the nodes
    #[arg(long, default_value_t = NODE_PORT)]
    pub port: u16,
    /// Address of EC2
    #[arg(long, default_value_t = Ipv4Addr::new(127, 0, 10, 100))]
    pub ec2_ip: Ipv4Addr,
    /// Port of EC2
    #[arg(long, default_value_t = 4566)]
    pub ec2_port: u16,
    /// Let the nodes follow the instances of this EC2 (moto, LocalStack), found by the nodes' addresses, and serve none
    #[arg(long, value_name = "URL", conflicts_with_all = ["ec2_ip", "ec2_port"])]
    pub ec2_endpoint: Option<String>,
    /// Region of the instances at --ec2-endpoint
    #[arg(long, value_name = "REGION", default_value = REGION, requires = "ec2_endpoint")]
    pub ec2_region: String,
    /// A fault to play, or `list`; may be repeated
    #[arg(long, value_name = "NAME")]
    pub fault: Vec<String>,
    /// Type of which starts fail, for faults that name no type themselves
    #[arg(long, default_value = "m6i.xlarge")]
    pub target_type: String,
    /// Serve streams over plain HTTP as well, for curl: /streams/NAME in JSON
    #[arg(long)]
    pub enable_atom_pub_over_http: bool,
    /// Serve TLS with certificates of a CA made for this run, and know users: admin, ops, worker (in $ops) and app (without groups)
    #[arg(long)]
    pub tls: bool,
    /// Folder for the CA's certificate and the users' credentials [default: a temporary one, which goes with the cluster]
    #[arg(long, value_name = "FOLDER", requires = "tls")]
    pub tls_folder: Option<PathBuf>,
    /// User that the configuration names: admin, ops, worker or app
    #[arg(long, value_name = "USER", default_value = WORKER, requires = "tls", value_parser = stage_user)]
    pub tls_user: String,
    /// Write the configuration there as well
    #[arg(long, value_name = "FILE")]
    pub write_config: Option<PathBuf>,
}

fn after_help() -> String {
    format!(
        "\
Prints, once it serves, a configuration file and the environment for the other commands, and goes on until Ctrl-C or SIGTERM. Each node
refuses connections while its instance is not running, and comes back with its data. Nothing is kept.

With --tls the nodes answer each user as a secure 23.10.5 does: priorities, resignations and statistics are for $ops and $admins, $all is for
$admins until somebody else is let. Keys never leave the process; passwords are new each time.

Faults:
{}
Examples:
  esdb-rollout sim --write-config sim.toml
then, in another terminal:
  export AWS_ACCESS_KEY_ID=simulated AWS_SECRET_ACCESS_KEY=simulated
  esdb-rollout --config sim.toml init
  esdb-rollout --config sim.toml worker
and in a third:
  esdb-rollout --config sim.toml start --target-type m6i.xlarge --wait
With TLS and users, a worker of few rights:
  esdb-rollout sim --tls --tls-folder sim-tls --write-config sim.toml
  esdb-rollout --config sim.toml init --worker-user worker --credentials-file sim-tls/sim-admin.cred",
        faults("  ")
    )
}

/// Serves a simulated cluster until it is told to stop.
pub async fn run(args: &SimArgs) -> Result<Exit, Failure> {
    if args.fault.iter().any(|name| name == "list") {
        print(&faults(""))?;
        return Ok(Exit::Completed);
    }
    let listen =
        |kind| signal(kind).map_err(|e| Failure::other(anyhow::Error::new(e).context("cannot listen for signals")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let wishes = Wishes {
        seed: args.seed.unwrap_or_else(fresh_seed),
        speed: args.speed,
        voters: args.nodes,
        replicas: args.replicas,
        version: args.server_version.clone(),
        target_type: InstanceType::from(args.target_type.as_str()),
        fallback_types: Vec::new(),
        faults: known_faults(&args.fault),
        tls: args.tls.then(|| args.tls_folder.clone().map_or(Folder::Temporary, Folder::Named)),
        atom_pub: args.enable_atom_pub_over_http,
    };
    let addresses = addresses(args.base_ip, args.port, args.nodes.saturating_add(args.replicas))?;
    let ec2 = match &args.ec2_endpoint {
        None => Ec2Of::World(Some(SocketAddr::from((args.ec2_ip, args.ec2_port)))),
        Some(url) => foreign(url, &args.ec2_region).await?,
    };
    let stage = Stage::open_at(&wishes, addresses, ec2).await.map_err(|error| match error {
        StageError::Wish(wish) => Failure::usage(wish),
        StageError::Instances(text) => Failure::usage(text),
        StageError::Ec2(error) => Failure::unreachable(error).during("the instances of --ec2-endpoint"),
        other @ StageError::Serve(_) => Failure::other(other),
    })?;
    let config = stage.config_file(&args.tls_user);
    if let Some(path) = &args.write_config {
        std::fs::write(path, &config).map_err(|e| {
            Failure::other(
                anyhow::Error::new(e).context(format!("cannot write the configuration to {}", path.display())),
            )
        })?;
    }
    print(&described(&stage, &wishes, &config))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    note("the simulated cluster ends");
    stage.close().await;
    Ok(Exit::Completed)
}

/// Somebody else's EC2.
async fn foreign(url: &str, region: &str) -> Result<Ec2Of, Failure> {
    let config = AwsConfig { region: Some(region.to_owned()), endpoint: Some(url.to_owned()), ..AwsConfig::default() };
    let fleet = Ec2Fleet::connect(config).await.map_err(Failure::usage)?;
    Ok(Ec2Of::Foreign { fleet: Box::new(fleet), region: region.to_owned(), url: url.to_owned() })
}

/// A user that a secure stage has.
fn stage_user(name: &str) -> Result<String, String> {
    if Secrets::has_user(name) {
        Ok(name.to_owned())
    } else {
        Err("expected one of admin, ops, worker, app".to_owned())
    }
}

/// One address a node, from `first` on.
fn addresses(first: Ipv4Addr, port: u16, count: usize) -> Result<Vec<Address>, Failure> {
    let nth = |n: usize| {
        let ip = u32::try_from(n).ok().and_then(|n| first.to_bits().checked_add(n)).map(Ipv4Addr::from_bits)?;
        Some(Address::new(ip.to_string(), port))
    };
    let too_many = || Failure::usage(format!("--base-ip: expected {count} addresses from {first} on, found fewer"));
    (0..count).map(nth).collect::<Option<Vec<_>>>().ok_or_else(too_many)
}

fn described(stage: &Stage, wishes: &Wishes, config: &str) -> String {
    let Wishes { seed, speed, voters, replicas, .. } = wishes;
    let environment: Vec<String> =
        stage.environment().iter().map(|(name, value)| format!("# export {name}={value}")).collect();
    let secure = stage.secrets().map_or_else(String::new, |secrets| {
        let users: Vec<&str> = secrets.users().collect();
        let folder = secrets.folder().display();
        let fate = if secrets.is_temporary() { ", which goes with it" } else { "" };
        format!(
            "# It speaks TLS and has the users {}; their files are in {folder}{fate}. Once, as an admin:\n\
             #   esdb-rollout init --worker-user {WORKER} --credentials-file {}\n",
            users.join(", "),
            secrets.credentials_file("admin").display()
        )
    });
    format!(
        "# A simulated cluster `{CLUSTER}`: {voters} voting and {replicas} read-only nodes, seed {seed}, speed {speed}.\n# EC2{}:\n{}\n\
         {secure}\n{config}",
        if stage.ec2_is_ours() { format!(" has them on {START_TYPE} and takes any access key") } else { String::new() },
        environment.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_addresses_of_their_own() {
        let found = addresses(Ipv4Addr::new(127, 0, 10, 254), 2113, 3).unwrap();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.10.254:2113", "127.0.10.255:2113", "127.0.11.0:2113"]);
        assert!(addresses(Ipv4Addr::BROADCAST, 2113, 2).is_err());
    }
}
