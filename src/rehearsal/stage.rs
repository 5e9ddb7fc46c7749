//! The stage: a simulated cluster and its EC2 on loopback addresses, and how the product is pointed at them.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;

use super::follow;
use super::secure::{Folder, Secrets};
use crate::domain::ids::{Address, ClusterName, InstanceType};
use crate::esdb::{AdminConfig, StoreConfig};
use crate::ports::{Clock, Fleet, FleetError, SystemClock};
use crate::sim::model::{Fault, WorldConfig};
use crate::sim::wire::{Options, WireCluster, serve_nodes, serve_with};
use crate::sim::world::{SimWorld, World};

/// Name of the simulated cluster.
pub const CLUSTER: &str = "sim";
/// Region of the simulated EC2.
pub const REGION: &str = "eu-west-1";
/// Access key for the simulated EC2, which checks none.
pub const ACCESS_KEY_ID: &str = "AKIASIMULATED0000000";
/// Secret of that key.
pub const SECRET_ACCESS_KEY: &str = "simulated";
/// Type of the instances at the start.
pub const START_TYPE: &str = "m6i.large";
/// Server version, where none is asked for.
pub const VERSION: &str = "23.10.5.0";
/// Port of the nodes, EventStoreDB's own.
pub const NODE_PORT: u16 = 2113;

/// EC2 at speed 1, from StopInstances to `stopped`.
const EC2_STOP: Duration = Duration::from_secs(45);
/// EC2 at speed 1, from StartInstances to `running`.
const EC2_START: Duration = Duration::from_secs(25);
/// Operating system and process at speed 1, from `running` to the first answer.
const BOOT: Duration = Duration::from_secs(10);
/// Writes of other clients, bytes per second. At speed 1 a node misses 80 MB; a greater speed shortens the time it is away, and with it what it has
/// to fetch.
const LOAD: u64 = 1_000_000;
/// Bytes per second at which a node fetches what it missed.
const FETCH: u64 = 20_000_000;
/// Bytes of log at the start.
const INITIAL_LOG: u64 = 200_000_000;
/// Types that EC2 offers, with their architecture; the wanted type joins them.
const OFFERED: [(&str, &str); 6] = [
    ("m6i.large", "x86_64"),
    ("m6i.xlarge", "x86_64"),
    ("m6i.2xlarge", "x86_64"),
    ("r6i.large", "x86_64"),
    ("r6i.xlarge", "x86_64"),
    ("m7g.large", "arm64"),
];

/// A mistake in what was asked of a simulated world.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct BadWish {
    /// What is wrong.
    pub what: &'static str,
    /// What would be right.
    pub expected: String,
    /// What there is.
    pub found: String,
}

/// What is asked of a simulated world.
#[derive(Clone, Debug, PartialEq)]
pub struct Wishes {
    /// Seed of everything random in it.
    pub seed: u64,
    /// How much quicker than real EC2 transitions, boot and what is to be fetched are. All else takes its real time.
    pub speed: f64,
    /// Voting nodes.
    pub voters: usize,
    /// Read-only replicas.
    pub replicas: usize,
    /// Server version.
    pub version: String,
    /// The type an update will ask for: faults strike it.
    pub target_type: InstanceType,
    /// Types to fall back to, which EC2 offers as well.
    pub fallback_types: Vec<InstanceType>,
    /// Names of faults to play.
    pub faults: Vec<String>,
    /// TLS and users, and where their files go; none: an insecure cluster.
    pub tls: Option<Folder>,
    /// Streams over plain HTTP as well.
    pub atom_pub: bool,
}

/// The configuration of a world as wished, with its nodes at these addresses.
///
/// # Errors
/// A wish that cannot be granted.
pub fn world_config(wishes: &Wishes, addresses: Vec<Address>) -> Result<WorldConfig, BadWish> {
    let bad = |what, expected: &str, found: String| Err(BadWish { what, expected: expected.to_owned(), found });
    if !(wishes.speed.is_finite() && (0.1..=1000.0).contains(&wishes.speed)) {
        return bad("the speed", "a number from 0.1 to 1000", wishes.speed.to_string());
    }
    if wishes.voters == 0 || wishes.voters + wishes.replicas > MAX_NODES {
        let found = format!("{} and {} read-only replicas", wishes.voters, wishes.replicas);
        return bad("the number of voting nodes", &format!("1 or more, and {MAX_NODES} nodes at most"), found);
    }
    if !looks_like_a_version(&wishes.version) {
        return bad(
            "the server version",
            "three or four numbers with dots, such as 23.10.5.0",
            format!("`{}`", wishes.version),
        );
    }
    let sped = |real: Duration| real.div_f64(wishes.speed);
    let mut offered: Vec<(String, String)> = OFFERED.map(|(t, a)| (t.to_owned(), a.to_owned())).to_vec();
    for wanted in wishes.fallback_types.iter().chain([&wishes.target_type]) {
        if !offered.iter().any(|(t, _)| t == wanted.as_str()) && looks_like_a_type(wanted.as_str()) {
            offered.push((wanted.0.clone(), architecture(wanted.as_str()).to_owned()));
        }
    }
    let mut config = WorldConfig {
        seed: wishes.seed,
        voters: wishes.voters,
        replicas: wishes.replicas,
        names: (1..=addresses.len()).map(|n| format!("esdb-{n}")).collect(),
        addresses,
        version: wishes.version.clone(),
        instance_type: START_TYPE.to_owned(),
        offered_types: offered,
        ec2_stop: sped(EC2_STOP),
        ec2_start: sped(EC2_START),
        boot: sped(BOOT),
        catch_up_bytes_per_second: FETCH,
        load_bytes_per_second: LOAD,
        initial_log_bytes: INITIAL_LOG,
        faults: Vec::new(),
    };
    for name in &wishes.faults {
        match Fault::by_name(name, &config, wishes.target_type.as_str()) {
            Some(fault) => config.faults.push(fault),
            None => {
                let known: Vec<&str> = Fault::NAMES.iter().map(|(name, _)| *name).collect();
                return bad("the fault", &format!("one of {}", known.join(", ")), format!("`{name}`"));
            }
        }
    }
    Ok(config)
}

/// Nodes that one block of loopback addresses has room for, EC2's own aside.
const MAX_NODES: usize = 90;

/// As the servers tell it: what they can do, and how the clients speak with them, goes by its numbers.
fn looks_like_a_version(text: &str) -> bool {
    let numbers: Vec<&str> = text.split('.').collect();
    (3..=4).contains(&numbers.len()) && numbers.iter().all(|n| n.parse::<u16>().is_ok() && !n.starts_with('+'))
}

/// `family.size`: anything else shall be refused as a type that does not exist.
fn looks_like_a_type(name: &str) -> bool {
    name.split_once('.').is_some_and(|(family, size)| {
        let word =
            |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        word(family) && word(size) && family.bytes().any(|b| b.is_ascii_digit())
    })
}

/// Architecture by name: Graviton families carry a `g` behind their generation.
fn architecture(instance_type: &str) -> &'static str {
    let family = instance_type.split('.').next().unwrap_or_default();
    let after_generation =
        family.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim_start_matches(|c: char| c.is_ascii_digit());
    if after_generation.contains('g') { "arm64" } else { "x86_64" }
}

/// A simulated cluster that is being served.
#[derive(Debug)]
pub struct Stage {
    /// The world.
    pub world: SimWorld,
    /// Addresses of the nodes, voters first.
    pub addresses: Vec<Address>,
    /// Region of the instances.
    region: String,
    /// URL of EC2.
    ec2_url: String,
    wire: WireCluster,
    secrets: Option<Secrets>,
    /// Lets the nodes follow the instances of somebody else's EC2.
    follower: JoinSet<()>,
}

/// Which EC2 has the instances.
pub enum Ec2Of {
    /// The simulated one, served there; at a free port of 127.0.0.1 if `None`.
    World(Option<SocketAddr>),
    /// Somebody else's: each node follows the instance that has its private address.
    Foreign {
        /// How it is asked.
        fleet: Box<dyn Fleet>,
        /// Its region.
        region: String,
        /// Its URL.
        url: String,
    },
}

impl Stage {
    /// Opens a stage at addresses that are free: each node gets a loopback address of its own, since instances are matched with
    /// nodes by address. Two stages at once get different ones.
    ///
    /// # Errors
    /// A wish that cannot be granted, or no free addresses.
    pub async fn open(wishes: &Wishes) -> Result<Stage, StageError> {
        let count = wishes.voters + wishes.replicas;
        let blocks = 20..=250_u8;
        // Where to begin differs from process to process, so that two that begin together seldom meet.
        let offset = std::process::id() as usize % blocks.len();
        let mut last = None;
        for block in blocks.clone().cycle().skip(offset).take(blocks.len()) {
            let host = |n: usize| u8::try_from(n + 1).map(|n| Ipv4Addr::new(127, 0, block, n));
            let Ok(hosts) = (0..count).map(host).collect::<Result<Vec<_>, _>>() else { break };
            let free = hosts.iter().try_for_each(|h| TcpListener::bind((*h, NODE_PORT)).map(drop));
            let opened = match free {
                Ok(()) => {
                    let addresses = hosts.iter().map(|h| Address::new(h.to_string(), NODE_PORT)).collect();
                    Stage::open_at(wishes, addresses, Ec2Of::World(None)).await
                }
                Err(error) => Err(StageError::Serve(error)),
            };
            match opened {
                // Somebody took it: the next block.
                Err(StageError::Serve(error)) if error.kind() == io::ErrorKind::AddrInUse => last = Some(error),
                other => return other,
            }
        }
        Err(StageError::Serve(last.unwrap_or_else(|| io::Error::other("no block of loopback addresses has room"))))
    }

    /// Opens a stage at these addresses, with this EC2.
    ///
    /// # Errors
    /// A wish that cannot be granted, an address that is not free, or a node that has not exactly one instance.
    pub async fn open_at(wishes: &Wishes, addresses: Vec<Address>, ec2: Ec2Of) -> Result<Stage, StageError> {
        let config = world_config(wishes, addresses.clone())?;
        let (secrets, security) = match &wishes.tls {
            None => (None, None),
            Some(folder) => {
                let (secrets, security) = Secrets::make(folder, &addresses).await.map_err(StageError::Serve)?;
                (Some(secrets), Some(security))
            }
        };
        let options = Options { security, atom_pub: wishes.atom_pub };
        let mut world = World::new(config);
        world.begin_at(SystemClock::start().wall().as_second());
        let world = SimWorld::new(world);
        let mut follower = JoinSet::new();
        let (wire, region, ec2_url) = match ec2 {
            Ec2Of::World(at) => {
                let wire = serve_with(world.clone(), at, options).await.map_err(StageError::Serve)?;
                let at = wire.ec2_endpoint().ok_or_else(|| StageError::Serve(io::Error::other("no EC2 is served")))?;
                (wire, REGION.to_owned(), format!("http://{at}"))
            }
            Ec2Of::Foreign { fleet, region, url } => {
                let ids = follow::instances(&world, &*fleet).await?;
                let wire = serve_nodes(world.clone(), options).await.map_err(StageError::Serve)?;
                follower.spawn(follow::follow(world.clone(), fleet, ids));
                (wire, region, url)
            }
        };
        Ok(Stage { world, addresses, region, ec2_url, wire, secrets, follower })
    }

    /// Whether EC2 is the simulated one.
    pub fn ec2_is_ours(&self) -> bool {
        self.follower.is_empty()
    }

    /// URL of the EC2 endpoint.
    pub fn ec2_url(&self) -> &str {
        &self.ec2_url
    }

    /// Connection string of the cluster, as a store.
    pub fn connection(&self) -> String {
        let hosts: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        format!("esdb://{}?tls={}", hosts.join(","), self.secrets.is_some())
    }

    /// The cluster as a store, under this connection name; as this user, if it has users.
    pub fn store(&self, connection_name: &str, user: &str) -> StoreConfig {
        StoreConfig {
            connection: self.connection(),
            connection_name: connection_name.to_owned(),
            ca_file: self.secrets.as_ref().map(Secrets::ca_file),
            credentials: self.secrets.as_ref().and_then(|s| s.credentials(user)),
        }
    }

    /// How its nodes are reached; as this user, if it has users.
    pub fn admin(&self, user: &str) -> AdminConfig {
        AdminConfig {
            tls: self.secrets.is_some(),
            ca_file: self.secrets.as_ref().map(Secrets::ca_file),
            credentials: self.secrets.as_ref().and_then(|s| s.credentials(user)),
        }
    }

    /// The files of a secure stage.
    pub fn secrets(&self) -> Option<&Secrets> {
        self.secrets.as_ref()
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> ClusterName {
        ClusterName::from(CLUSTER)
    }

    /// A configuration file that points the product at this stage; as this user, if it has users.
    pub fn config_file(&self, user: &str) -> String {
        let quoted: Vec<String> = self.addresses.iter().map(|a| format!("\"{a}\"")).collect();
        let voters = self.world.with(|w| w.config().voters);
        let (tls, files) = match &self.secrets {
            None => (false, String::new()),
            Some(secrets) => {
                let quoted = |path: PathBuf| toml::Value::from(path.display().to_string()).to_string();
                let (ca, login) = (quoted(secrets.ca_file()), quoted(secrets.credentials_file(user)));
                (true, format!("ca_file = {ca}\ncredentials_file = {login}\n"))
            }
        };
        format!(
            "[store]\nconnection = \"{}\"\n{files}\n[clusters.{CLUSTER}]\nseeds = [{}]\nvoters = {voters}\ntls = {tls}\n{files}\
             aws = {{ region = \"{}\", endpoint = \"{}\" }}\n",
            self.connection(),
            quoted.join(", "),
            self.region,
            self.ec2_url,
        )
    }

    /// Environment with which the AWS SDK and command line call that EC2; the keys of somebody else's are not known here.
    pub fn environment(&self) -> BTreeMap<&'static str, String> {
        let mut environment =
            BTreeMap::from([("AWS_REGION", self.region.clone()), ("AWS_ENDPOINT_URL_EC2", self.ec2_url.clone())]);
        if self.ec2_is_ours() {
            environment.insert("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned());
            environment.insert("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.to_owned());
        }
        environment
    }

    /// Ends it: all connections, and the world's time.
    pub async fn close(self) {
        drop(self.follower);
        self.world.stop();
        self.wire.shutdown().await;
    }
}

/// Why a stage could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A wish that cannot be granted.
    #[error(transparent)]
    Wish(#[from] BadWish),
    /// EC2 is not reached.
    #[error("the instances that the nodes are to follow cannot be described")]
    Ec2(#[from] FleetError),
    /// Nodes and instances do not match.
    #[error("{0}")]
    Instances(String),
    /// An address is not free, or not this machine's.
    #[error("the simulated cluster cannot be served")]
    Serve(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes() -> Wishes {
        Wishes {
            seed: 1,
            speed: 10.0,
            voters: 3,
            replicas: 1,
            version: VERSION.to_owned(),
            target_type: "m6i.xlarge".into(),
            fallback_types: Vec::new(),
            faults: Vec::new(),
            tls: None,
            atom_pub: false,
        }
    }

    fn config(wishes: &Wishes) -> Result<WorldConfig, BadWish> {
        world_config(wishes, (1..=4).map(|n| Address::new(format!("127.0.9.{n}"), 2113)).collect())
    }

    #[test]
    fn speed_shortens_ec2_and_boot_and_nothing_else() {
        let quick = config(&wishes()).unwrap();
        let real = config(&Wishes { speed: 1.0, ..wishes() }).unwrap();
        assert_eq!((real.ec2_stop, real.ec2_start), (Duration::from_secs(45), Duration::from_secs(25)));
        assert_eq!((quick.ec2_stop, quick.ec2_start, quick.boot), (EC2_STOP / 10, EC2_START / 10, BOOT / 10));
        let shortened = WorldConfig { ec2_stop: quick.ec2_stop, ec2_start: quick.ec2_start, boot: quick.boot, ..real };
        assert_eq!(shortened, quick);
    }

    #[test]
    fn wishes_that_cannot_be_granted_say_what_could() {
        let mistakes = [
            (Wishes { speed: 0.0, ..wishes() }, "the speed: expected a number from 0.1 to 1000, found 0"),
            (Wishes { speed: f64::NAN, ..wishes() }, "the speed: expected a number from 0.1 to 1000, found NaN"),
            (Wishes { voters: 0, ..wishes() }, "the number of voting nodes: expected 1 or more, and 90 nodes at most"),
            (Wishes { faults: vec!["gremlins".into()], ..wishes() }, "the fault: expected one of capacity, "),
            (
                Wishes { version: "foo".into(), ..wishes() },
                "the server version: expected three or four numbers with dots, such as 23.10.5.0, found `foo`",
            ),
            (Wishes { version: "23.10".into(), ..wishes() }, "the server version: expected three or four numbers"),
            (Wishes { version: "23.10.+5".into(), ..wishes() }, "the server version: expected three or four numbers"),
        ];
        for (wishes, text) in mistakes {
            let error = config(&wishes).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        let all = Fault::NAMES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(config(&Wishes { faults: all, ..wishes() }).unwrap().faults.len(), Fault::NAMES.len());
    }

    #[test]
    fn the_wanted_type_is_offered_if_it_can_be_one() {
        for (name, architecture) in
            [("c7i.4xlarge", Some("x86_64")), ("r8gd.large", Some("arm64")), ("nonsense", None), ("a.b", None)]
        {
            let config = config(&Wishes { target_type: name.into(), ..wishes() }).unwrap();
            let found = config.offered_types.iter().find(|(t, _)| t == name).map(|(_, a)| a.as_str());
            assert_eq!(found, architecture, "{name}");
        }
    }
}
