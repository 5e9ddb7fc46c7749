//! A small simulated cluster on loopback ports.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod recorded;

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use esdb_rollout::domain::ids::Address;
use esdb_rollout::sim::model::{AllStart, Direction, NodeIx, ReadOutcome, WorldConfig};
use esdb_rollout::sim::wire::{ADMINS, Certificates, OPS, Options, Security, User, WireCluster, serve, serve_with};
use esdb_rollout::sim::world::{SimWorld, World};
use tokio::time::timeout;

/// Longest that a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses on this machine that were free a moment ago.
pub fn free_addresses(count: usize) -> Vec<Address> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
    held.iter().map(|l| Address::new("127.0.0.1", l.local_addr().expect("its address").port())).collect()
}

/// Three voters and a replica.
pub fn config(version: &str) -> WorldConfig {
    WorldConfig {
        seed: 7,
        voters: 3,
        replicas: 1,
        addresses: free_addresses(4),
        names: (1..=4).map(|i| format!("node-{i}")).collect(),
        version: version.to_owned(),
        instance_type: "m6i.large".to_owned(),
        offered_types: [("m6i.large", "x86_64"), ("m6i.xlarge", "x86_64"), ("m7g.large", "arm64")]
            .map(|(name, architecture)| (name.to_owned(), architecture.to_owned()))
            .to_vec(),
        ec2_stop: Duration::from_millis(600),
        ec2_start: Duration::from_millis(300),
        boot: Duration::from_millis(300),
        catch_up_bytes_per_second: 50_000_000,
        load_bytes_per_second: 0,
        initial_log_bytes: 0,
        faults: Vec::new(),
    }
}

/// The users that a server makes, and two more: one that operates, and one without groups.
pub fn users() -> Vec<User> {
    vec![
        User::new("admin", "changeit", &[ADMINS]),
        User::new("ops", "changeit", &[OPS]),
        User::new("operator", "Op3rator-secret", &[OPS]),
        User::new("worker", "W0rker-secret", &[]),
    ]
}

/// A served cluster.
pub struct Cluster {
    pub world: SimWorld,
    pub wire: WireCluster,
    pub addresses: Vec<Address>,
}

impl Cluster {
    pub async fn start(config: WorldConfig) -> Cluster {
        let addresses = config.addresses.clone();
        let world = SimWorld::new(World::new(config));
        let wire = serve(world.clone(), None).await.expect("the cluster is served");
        Cluster { world, wire, addresses }
    }

    /// An insecure cluster with AtomPub on.
    pub async fn start_with_atom_pub(config: WorldConfig) -> Cluster {
        let addresses = config.addresses.clone();
        let world = SimWorld::new(World::new(config));
        let options = Options { security: None, atom_pub: true };
        let wire = serve_with(world.clone(), None, options).await.expect("the cluster is served");
        Cluster { world, wire, addresses }
    }

    /// A secure cluster with AtomPub on: node `n` has a certificate for `names(n)`. Its CA's certificate comes with it.
    pub async fn start_secure(config: WorldConfig, names: impl Fn(NodeIx) -> Vec<String>) -> (Cluster, String) {
        let addresses = config.addresses.clone();
        let names: Vec<_> = (0..addresses.len()).map(names).collect();
        let certificates = Certificates::make(&names).expect("certificates");
        let ca = certificates.ca_pem().to_owned();
        let world = SimWorld::new(World::new(config));
        let security = Security::new(certificates, users());
        let options = Options { security: Some(security), atom_pub: true };
        let wire = serve_with(world.clone(), None, options).await.expect("the cluster is served");
        (Cluster { world, wire, addresses }, ca)
    }

    pub fn leader(&self) -> NodeIx {
        self.world.with(|w| w.leader()).expect("a leader")
    }

    pub fn follower(&self) -> NodeIx {
        let leader = self.leader();
        (0..3).find(|&n| n != leader).expect("a follower")
    }

    pub fn replica(&self) -> NodeIx {
        3
    }

    pub fn http(&self, n: NodeIx, path: &str) -> String {
        format!("http://{}{path}", self.addresses[n])
    }

    pub fn https(&self, n: NodeIx, path: &str) -> String {
        format!("https://{}{path}", self.addresses[n])
    }

    /// A connection string that names all voters.
    pub fn voters(&self) -> String {
        let hosts: Vec<_> = self.addresses[..3].iter().map(Address::to_string).collect();
        format!("esdb://{}?tls=false&maxDiscoverAttempts=5&discoveryInterval=100&gossipTimeout=1000", hosts.join(","))
    }

    /// Waits until the world is as told.
    pub async fn until(&self, what: &str, holds: impl Fn(&mut World) -> bool) {
        let wait = async {
            loop {
                let (version, done) = self.world.with(|w| (w.version(), holds(w)));
                if done {
                    return;
                }
                self.world.changed(version).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

/// Whether all nodes that answer have all that the leader has, and know that it is committed.
pub fn all_know_all(world: &mut World) -> bool {
    let end = |world: &mut World, n| match world.read_all(n, false, AllStart::End, Direction::Forwards, None, 0, None) {
        ReadOutcome::Found(page) => Some(page.next),
        ReadOutcome::NoStream | ReadOutcome::StreamDeleted | ReadOutcome::NotHandled(_) => None,
    };
    let ends: Vec<_> = (0..world.node_count()).filter_map(|n| end(world, n)).collect();
    ends.iter().all(|e| Some(e) == ends.first())
}
