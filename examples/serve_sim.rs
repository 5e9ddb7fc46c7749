//! Serves a simulated cluster on loopback until its standard input ends: three voters and a replica from the port that the
//! first argument names (2113 if there is none), and EC2. Prints where.

use std::time::Duration;

use esdb_rollout::domain::ids::Address;
use esdb_rollout::sim::model::WorldConfig;
use esdb_rollout::sim::wire::serve;
use esdb_rollout::sim::world::{SimWorld, World};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let first: u16 = std::env::args().nth(1).map_or(Ok(2113), |port| port.parse())?;
    let world = SimWorld::new(World::new(WorldConfig {
        seed: 1,
        voters: 3,
        replicas: 1,
        addresses: (0..4).map(|n| Address::new("127.0.0.1", first + n)).collect(),
        names: (1..=4).map(|n| format!("node-{n}")).collect(),
        version: "23.10.5.0".to_owned(),
        instance_type: "m6i.large".to_owned(),
        offered_types: vec![
            ("m6i.large".to_owned(), "x86_64".to_owned()),
            ("m6i.xlarge".to_owned(), "x86_64".to_owned()),
        ],
        ec2_stop: Duration::from_secs(5),
        ec2_start: Duration::from_secs(3),
        boot: Duration::from_secs(2),
        catch_up_bytes_per_second: 50_000_000,
        load_bytes_per_second: 0,
        initial_log_bytes: 0,
        faults: Vec::new(),
    }));
    let cluster = serve(world, None).await?;
    println!("nodes 127.0.0.1:{first}-{}, EC2 http://{}", first + 3, cluster.ec2_endpoint());
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    cluster.shutdown().await;
    Ok(())
}
