//! How long an update takes against the sum of what cannot be avoided, and against the machine of the article, in virtual time.
//!
//! Waits are computed from the world's configured durations, gates from constants of the rules; nothing is taken from the run.

mod rig;

use std::time::Duration;

use esdb_rollout::domain::ids::InstanceType;
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::sim::model::WorldConfig;
use esdb_rollout::update::limits::FENCE_APART;
use esdb_rollout::update::state::End;
use rig::{Rig, lines, request, world};

/// Gossip, the beat at which a node's own entry is refreshed at the latest.
const GOSSIP: Duration = Duration::from_secs(2);

/// From the POST to a new leader (recorded: 0.06–1.8 s, median 0.9 s).
const ELECTION: Duration = Duration::from_millis(900);

/// Stop, start, boot, and fetching what was written meanwhile; for every node; and one election.
fn unavoidable(config: &WorldConfig) -> Duration {
    let down = config.ec2_stop + config.ec2_start + config.boot;
    let missed = down.as_secs_f64() * config.load_bytes_per_second as f64;
    let rate = (config.catch_up_bytes_per_second - config.load_bytes_per_second) as f64;
    let each = down + Duration::from_secs_f64(missed / rate);
    each * (config.voters + config.replicas) as u32 + ELECTION
}

/// The gates of the safety rules: agreement in two refreshes of every view before the first stop and again after the one change of
/// leader; the lowered priority seen in the leader's own entry; three refreshes of each node that comes back, the first of which the
/// node has when it is level, so two more; each instance's tag looked at twice before it is written and again before the stop.
fn gates(config: &WorldConfig) -> Duration {
    let agreement = 2 * GOSSIP;
    let priority = GOSSIP;
    let caught_up = 2 * GOSSIP;
    let fence = 2 * FENCE_APART;
    2 * agreement + priority + (fence + caught_up) * (config.voters + config.replicas) as u32
}

/// The article's machine: one iteration every five seconds, each doing at most one thing, `/health/live` for caught up.
async fn article(rig: &Rig, target: &InstanceType) -> Duration {
    let tick = Duration::from_secs(5);
    let began = rig.clock.now();
    let voters = rig.world.with(|w| w.config().voters);
    let nodes = rig.world.with(|w| w.node_count());
    let mut left: Vec<usize> = (0..nodes).collect();
    while !left.is_empty() {
        let leader = rig.world.with(|w| w.leader());
        let next = *left.iter().min_by_key(|n| (**n < voters, leader == Some(**n), **n)).unwrap();
        let id = rig.world.with(|w| w.instance_of(next).clone());
        let address = rig.world.with(|w| w.address(next).clone());
        let lowered = &mut false;
        while rig.world.with(|w| w.leader()) == Some(next) {
            tokio::time::sleep(tick).await;
            if *lowered {
                rig.admin.resign(&address).await.unwrap();
            } else {
                rig.admin.set_priority(&address, -1).await.unwrap();
                *lowered = true;
            }
        }
        tokio::time::sleep(tick).await;
        rig.fleet.stop(&id).await.unwrap();
        loop {
            tokio::time::sleep(tick).await;
            if rig.fleet.describe(std::slice::from_ref(&id)).await.unwrap()[0].state == InstanceState::Stopped {
                break;
            }
        }
        rig.fleet.modify_type(&id, target).await.unwrap();
        tokio::time::sleep(tick).await;
        rig.fleet.start(&id).await.unwrap();
        loop {
            tokio::time::sleep(tick).await;
            if rig.admin.live(&address).await.unwrap_or(false) {
                break;
            }
        }
        tokio::time::sleep(tick).await;
        left.retain(|n| *n != next);
    }
    rig.clock.now().since(began)
}

#[tokio::test(start_paused = true)]
async fn an_update_takes_its_waits_and_gates_and_at_most_two_percent_more() {
    println!("seed  ours s  waits s  gates s  ours/(waits+gates)  article s  article/ours");
    let mut ratios = Vec::new();
    for seed in [1, 2, 3, 4, 5] {
        let config = world(seed);
        let (waits, gates) = (unavoidable(&config), gates(&config));
        let rig = Rig::new(config.clone());
        let began = rig.clock.now();
        let (history, state) = rig.run(request("m6i.xlarge"), Duration::from_secs(3600)).await;
        assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
        let first = history.first().unwrap().at;
        let ours = history.last().unwrap().at.duration_since(first).unsigned_abs();
        assert!(ours <= rig.clock.now().since(began));
        let theirs = article(&Rig::new(config), &InstanceType::from("m6i.xlarge")).await;
        let ratio = ours.as_secs_f64() / (waits + gates).as_secs_f64();
        println!(
            "{seed:>4} {:>7.1} {:>8.1} {:>8.1} {ratio:>19.3} {:>10.1} {:>13.2}",
            ours.as_secs_f64(),
            waits.as_secs_f64(),
            gates.as_secs_f64(),
            theirs.as_secs_f64(),
            theirs.as_secs_f64() / ours.as_secs_f64()
        );
        ratios.push(ratio);
    }
    for ratio in ratios {
        assert!(ratio <= 1.02, "{ratio:.3}");
    }
}
