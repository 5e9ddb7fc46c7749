//! The store is the cluster being updated, and loses its leader while our node is down: bringing that node back is the cure.

mod rig;

use std::time::Duration;

use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::update::event::Event;
use esdb_rollout::update::state::{Body, End, Recorded};
use rig::{Rig, lines, outline, quick_world, request};

#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_another_voter_is_lost() {
    another_voter_is_lost(false, Duration::from_secs(60)).await;
}

/// The worst case: the worker is killed then too, and its successor finds a store that does not serve.
#[tokio::test(start_paused = true)]
async fn the_node_is_brought_back_when_the_worker_is_lost_as_well() {
    another_voter_is_lost(true, Duration::from_secs(180)).await;
}

/// Another voter freezes right after ours was stopped: one of three is left, and nothing can be appended.
async fn another_voter_is_lost(worker_too: bool, back_within: Duration) {
    let mut config = quick_world(21);
    config.ec2_stop = Duration::from_secs(20);
    config.ec2_start = Duration::from_secs(10);
    let rig = Rig::new(config);
    rig.append(request("m6i.xlarge").into(), 1).await;
    let (worker, _stop) = rig.spawn(0);
    // The replica goes first; the voter after it is the one.
    rig.until("InstanceStopRequested", 2).await;
    let outline = outline(&rig.history().await);
    let node = outline.lines().rfind(|l| l.starts_with("InstanceStopRequested")).and_then(|l| l.split("esdb-").nth(1));
    let ours = node.unwrap().parse::<usize>().unwrap() - 1;
    while rig.world.with(|w| w.instance_state(ours)) == InstanceState::Running {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let leader = rig.world.with(|w| w.leader()).unwrap();
    let other = (0..3).find(|n| *n != ours && *n != leader).unwrap();
    rig.world.with(|w| w.freeze(other));
    let _successor = worker_too.then(|| {
        worker.abort();
        rig.spawn(1)
    });
    let lost_at = rig.clock.now();
    while rig.world.with(|w| w.instance_state(ours)) != InstanceState::Running {
        // The stop takes 20 s; the ticket opens after 10 s without a leader, for a successor after 60 s; the start takes 10 s.
        assert!(rig.clock.now().since(lost_at) < back_within, "the node is not brought back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    rig.until("StepDelayed", 1).await;
    rig.world.with(|w| w.unfreeze(other));
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    let shown = lines(&history);
    let started_by_ticket = |r: &Recorded| match &r.body {
        Body::Event(event) => matches!(&**event, Event::InstanceStarted(s) if s.return_ticket),
        Body::Unreadable { .. } | Body::Newer { .. } => false,
    };
    assert_eq!(history.iter().filter(|r| started_by_ticket(r)).count(), 1, "{shown}");
    let Some(End::Failed(end)) = state.end else { panic!("{:?}\n{shown}", state.end) };
    assert_eq!((end.code.as_str(), end.not_running.len()), ("storeLost", 0), "{shown}");
}
