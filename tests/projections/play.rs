//! The histories, played by a worker on the simulated world.

use std::time::Duration;

use esdb_rollout::domain::ids::{InstanceId, UpdateId};
use esdb_rollout::domain::instance::{Instance, InstanceState};
use esdb_rollout::sim::model::{Fault, Record};
use esdb_rollout::update::event::{
    CancelRequested, Event, OnFailure, OnSilentNode, PauseRequested, ResumeRequested, RetryRequested,
    RollbackRequested, UpdateRequested,
};
use esdb_rollout::update::state::fold;

use crate::rig::{Rig, quick_world, request};

/// The instance of the node in hand.
async fn instance_in_hand(rig: &Rig) -> InstanceId {
    fold(&rig.history().await).in_hand.unwrap().instance
}

/// Somebody else gives an instance a type that no one asked for.
fn retyped(rig: &Rig, instance: &InstanceId, state: InstanceState) {
    rig.world.with(|w| {
        let n = (0..w.node_count()).find(|n| w.instance_of(*n) == instance).unwrap();
        let is = w.describe_instances(std::slice::from_ref(instance)).unwrap().remove(0);
        w.follow_instance(n, &Instance { state, instance_type: "m6i.2xlarge".into(), ..is });
    });
}

/// Plays the history of this name, and gives what then stands in its stream.
pub async fn play(name: &str) -> Vec<Record> {
    let limit = Duration::from_secs(3600);
    let mut config = quick_world(11);
    if matches!(name, "rolled-back" | "held-and-retried") {
        config.faults.extend(Fault::by_name("capacity", &config, "m6i.xlarge"));
    }
    if name == "rebooted" {
        config.faults.push(Fault::StaysSilent { node: 0, for_: None });
    }
    let rig = Rig::new(config);
    match name {
        "paused-and-cancelled" => {
            rig.append(request("m6i.xlarge").into(), 1).await;
            let (_worker, _stop) = rig.spawn(0);
            rig.until("InstanceStopped", 1).await;
            rig.append(Event::PauseRequested(PauseRequested { by: Some("ann".into()), why: None }), 2).await;
            rig.until("UpdatePaused", 1).await;
            rig.append(Event::ResumeRequested(ResumeRequested::default()), 3).await;
            rig.until("InstanceStopped", 2).await;
            let enough = CancelRequested { by: Some("ann".into()), why: Some("enough".into()), superseded_by: None };
            rig.append(Event::CancelRequested(enough), 4).await;
            rig.ended(limit).await;
        }
        "superseded" => {
            rig.append(request("m6i.xlarge").into(), 1).await;
            let (_worker, _stop) = rig.spawn(0);
            rig.until("InstanceStopped", 2).await;
            let request = UpdateRequested { supersedes: Some(rig.update), ..request("m6i.2xlarge") };
            let next = Rig { update: UpdateId(uuid::Uuid::from_u128(0x5)), ..rig.share() };
            next.append(request.into(), 2).await;
            rig.ended(limit).await;
        }
        "rolled-back-on-request" => {
            rig.append(request("m6i.xlarge").into(), 1).await;
            let (_worker, _stop) = rig.spawn(0);
            rig.until("InstanceStopped", 2).await;
            let slow = RollbackRequested { by: Some("ann".into()), why: Some("slow".into()) };
            rig.append(Event::RollbackRequested(slow), 2).await;
            rig.ended(limit).await;
        }
        "changed-by-others" => {
            rig.append(request("m6i.xlarge").into(), 1).await;
            let (_worker, _stop) = rig.spawn(0);
            rig.until("InstanceStopRequested", 1).await;
            let first = instance_in_hand(&rig).await;
            retyped(&rig, &first, InstanceState::Stopped);
            rig.until("UpdatePaused", 1).await;
            let other = rig.world.with(|w| (0..3).map(|n| w.instance_of(n).clone()).find(|i| *i != first)).unwrap();
            retyped(&rig, &other, InstanceState::Running);
            rig.append(Event::ResumeRequested(ResumeRequested::default()), 2).await;
            rig.until("UpdatePaused", 2).await;
            rig.append(Event::CancelRequested(CancelRequested::default()), 3).await;
            rig.ended(limit).await;
        }
        "rebooted" => {
            let request = UpdateRequested { on_silent_node: Some(OnSilentNode::Reboot), ..request("m6i.xlarge") };
            rig.run(request, limit).await;
        }
        "held-and-retried" => {
            let request = UpdateRequested { on_failure: Some(OnFailure::Hold), ..request("m6i.xlarge") };
            rig.append(request.into(), 1).await;
            let (_worker, _stop) = rig.spawn(0);
            rig.until("UpdateParked", 1).await;
            let answers = fold(&rig.history().await).failure.unwrap().revision;
            let retry = RetryRequested { answers, check: None, node: None, until: None, by: None, why: None };
            rig.append(Event::RetryRequested(retry), 2).await;
            rig.until("UpdateParked", 2).await;
            rig.append(Event::CancelRequested(CancelRequested::default()), 3).await;
            rig.ended(limit).await;
        }
        "rejected" => drop(rig.run(request("m5.huge"), limit).await),
        _ => drop(rig.run(request("m6i.xlarge"), limit).await),
    }
    let stream = rig.update.stream().to_string();
    rig.world.with(|w| w.committed()).into_iter().filter(|r| r.stream == stream).collect()
}
