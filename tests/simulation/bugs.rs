//! Bugs that the product does not have, each put between it and the world, where it shows as it would if the product had it. The product's code
//! knows nothing of them. Each must be caught by a named rule in a bounded number of seeds.

use std::time::Duration;

use esdb_rollout::domain::cluster::{NodeState, View};
use esdb_rollout::domain::ids::{Address, StreamName};
use esdb_rollout::domain::instance::{FENCE_TAG, Instance};
use esdb_rollout::ports::*;
use esdb_rollout::sim::model::Fault;
use esdb_rollout::update::action::Call;
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use crate::ports::Wired;
use crate::scenario::{Act, Command, STRANGER, Scenario};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The leader passes for a follower.
    SkipsLeaderCheck,
    /// A voter that does not answer passes for one that follows and has caught up.
    SkipsQuorumCheck,
    /// An intent is written down after its call.
    AppendsAfterActing,
    /// Ids are random.
    RandomIds,
    /// `/health/live` passes for caught up.
    TrustsHealthLive,
    /// A priority is not given back.
    ForgetsThePriority,
    /// A leader resigns without its priority lowered first.
    ResignsWithoutPriority,
    /// Ids do not name the incarnation.
    IdsWithoutIncarnation,
    /// The SDK repeats a stop by itself.
    SdkRepeatsTheStop,
    /// Voters are counted by looking at gossip.
    CountsVotersFromGossip,
    /// The act window is not looked at.
    IgnoresTheWindow,
    /// The cluster is released before the update has ended.
    ReleasesEarly,
    /// Another update's tag on an instance is not looked at.
    OverlooksAnothersTag,
    /// The tag is not removed, and not looked for afterwards.
    ForgetsTheTag,
    /// A gate is not waited at.
    DoesNotWaitForTheApproval,
    /// Nodes are begun whenever it likes.
    BeginsOutsideTheWindow,
    /// A pause is not obeyed.
    ActsWhilePaused,
    /// A node that answers passes for a silent one, and is rebooted.
    RebootsWhatAnswers,
    /// After a failure it ends, although it was to wait for a person.
    DoesNotHold,
    /// A rollback leaves what was done as it is.
    ForgetsTheRollback,
    /// A fault of EC2's passes for a refusal, although the call was carried out.
    TakesAFaultForARefusal,
    /// A voter that lags passes for one that has what the leader has.
    OverlooksALaggingVoter,
    /// A node that was stopped is never started.
    LeavesItStopped,
}

/// Nothing goes wrong but the bug, and the request asks for more.
fn asked(seed: u64, more: serde_json::Value) -> Scenario {
    let mut s = Scenario::calm(seed);
    for (key, value) in more.as_object().into_iter().flatten() {
        s.request[key] = value.clone();
    }
    s.steered = true;
    s.heal_at = Duration::from_secs(120);
    s
}

impl Bug {
    /// Each with the rule that must catch it.
    pub const ALL: &[(Bug, &str)] = &[
        (Bug::SkipsLeaderCheck, "S2"),
        (Bug::SkipsQuorumCheck, "S3"),
        (Bug::AppendsAfterActing, "S4"),
        (Bug::RandomIds, "S8"),
        (Bug::TrustsHealthLive, "caught up"),
        (Bug::ForgetsThePriority, "S7"),
        (Bug::ResignsWithoutPriority, "S10"),
        (Bug::IdsWithoutIncarnation, "S4"),
        (Bug::SdkRepeatsTheStop, "S4"),
        (Bug::CountsVotersFromGossip, "S3"),
        (Bug::IgnoresTheWindow, "S4"),
        (Bug::ReleasesEarly, "S9"),
        (Bug::OverlooksAnothersTag, "fence"),
        (Bug::ForgetsTheTag, "fence"),
        (Bug::DoesNotWaitForTheApproval, "gate"),
        (Bug::BeginsOutsideTheWindow, "window"),
        (Bug::ActsWhilePaused, "L3"),
        (Bug::RebootsWhatAnswers, "reboot"),
        (Bug::DoesNotHold, "hold"),
        (Bug::ForgetsTheRollback, "rollback"),
        (Bug::TakesAFaultForARefusal, "S6"),
        (Bug::OverlooksALaggingVoter, "S3"),
        (Bug::LeavesItStopped, "S6"),
    ];

    /// What a seed plays to find this bug: what it draws, except where a rare thing is needed.
    pub fn scenario(self, seed: u64) -> Scenario {
        match self {
            Bug::ResignsWithoutPriority => Scenario::calm(seed),
            Bug::ForgetsThePriority => {
                let mut s = Scenario::calm(seed);
                s.world.faults.push(Fault::ResignationsIgnored { times: u32::MAX });
                s.heal_at = Duration::from_secs(600);
                s
            }
            Bug::TrustsHealthLive => {
                let mut s = Scenario::calm(seed);
                s.world.ec2_stop = Duration::from_secs(60);
                s.world.load_bytes_per_second = 400_000;
                s.world.catch_up_bytes_per_second = 800_000;
                s
            }
            Bug::IdsWithoutIncarnation => {
                let mut s = Scenario::calm(seed);
                s.workers = 2;
                s.worker_starts = vec![Duration::ZERO; 2];
                // What they read is old when it comes: else one leaves the update to the other.
                s.wire.slow_ms = 3_000;
                s
            }
            Bug::CountsVotersFromGossip => {
                let mut s = Scenario::calm(seed);
                s.ask_voters = true;
                s.world.voters = 5;
                s.world.replicas = 0;
                s.world.addresses = (1..=5).map(|n| Address::new(format!("10.0.1.{n}"), 2113)).collect();
                s.world.names = (1..=5).map(|n| format!("esdb-{n}")).collect();
                s.acts = vec![(Duration::ZERO, Act::Exit(3)), (Duration::ZERO, Act::Exit(4))];
                s.worker_starts = vec![Duration::from_secs(20)];
                s.heal_at = Duration::from_secs(200);
                s
            }
            Bug::OverlooksAnothersTag => {
                let mut s = Scenario::calm(seed);
                s.acts = vec![(Duration::ZERO, Act::PersonTags(0))];
                s.heal_at = Duration::from_secs(600);
                s
            }
            Bug::ForgetsTheTag | Bug::TakesAFaultForARefusal => Scenario::calm(seed),
            Bug::OverlooksALaggingVoter => {
                // Before the next node it lags for longer than the judge allows.
                let mut s = asked(seed, json!({ "dwellSeconds": 20 }));
                s.acts = vec![(Duration::from_secs(1), Act::HangVolume(2))];
                s
            }
            Bug::LeavesItStopped => {
                let mut s = Scenario::calm(seed);
                s.heal_at = Duration::from_secs(400);
                s
            }
            Bug::DoesNotWaitForTheApproval => asked(seed, json!({ "gates": ["beforeLeader"] })),
            Bug::BeginsOutsideTheWindow => {
                let mut s =
                    asked(seed, json!({ "window": { "cron": "*/3 * * * *", "minutes": 1, "timeZone": "UTC" } }));
                s.world.ec2_stop = Duration::from_secs(20);
                s
            }
            Bug::ActsWhilePaused => {
                let mut s = asked(seed, json!({}));
                s.acts = vec![(Duration::from_secs(20), Act::Command(Command::Pause))];
                s.heal_at = Duration::from_secs(200);
                s
            }
            Bug::RebootsWhatAnswers => {
                let mut s = asked(seed, json!({ "onSilentNode": "reboot" }));
                s.first_answer_timeout = Duration::from_secs(60);
                s
            }
            Bug::DoesNotHold => {
                let mut s = asked(seed, json!({ "onFailure": "hold" }));
                let reason = "Client.InternalError".to_owned();
                s.world.faults.push(Fault::FallsBackToStopped { node: Some(1), reason, times: 1 });
                s.heal_at = Duration::from_secs(600);
                s
            }
            Bug::ForgetsTheRollback => {
                let mut s = asked(seed, json!({}));
                s.acts = vec![(Duration::from_secs(40), Act::Command(Command::Rollback))];
                s.heal_at = Duration::from_secs(200);
                s
            }
            Bug::SkipsLeaderCheck
            | Bug::SkipsQuorumCheck
            | Bug::AppendsAfterActing
            | Bug::RandomIds
            | Bug::SdkRepeatsTheStop
            | Bug::IgnoresTheWindow
            | Bug::ReleasesEarly => Scenario::drawn(seed),
        }
    }

    /// What a worker reads is as the product would take it that has the bug.
    pub fn reads(self, event: &mut StoredEvent) {
        let kind = event.event_type.as_str();
        let mut leave_out = |key: &str| {
            if let (true, Some(data)) = (kind == "UpdateRequested", event.data.as_object_mut()) {
                data.remove(key);
            }
        };
        match self {
            Bug::DoesNotWaitForTheApproval => leave_out("gates"),
            Bug::BeginsOutsideTheWindow => leave_out("window"),
            Bug::ActsWhilePaused if kind == "PauseRequested" => event.data = json!("not understood"),
            Bug::DoesNotHold => leave_out("onFailure"),
            Bug::ForgetsTheRollback if kind == "RollbackRequested" => event.event_type = "CancelRequested".into(),
            _ => {}
        }
    }

    pub async fn append(
        self,
        wired: &Wired,
        s: &StreamName,
        e: Expected,
        mut v: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        match self {
            Bug::AppendsAfterActing if v.len() == 1 && v[0].event_type.ends_with("StopRequested") => {
                let (wired, stream) = (wired.clone(), s.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_secs(1)).await;
                    // Acknowledged already; there is nobody to tell.
                    drop(wired.append_as_ever(&stream, e, v).await);
                });
                let last = match e {
                    Expected::NoStream => esdb_rollout::domain::ids::Revision(0),
                    Expected::Exact(r) => r.next(),
                };
                return Ok(Appended { last });
            }
            Bug::RandomIds => {
                for (i, event) in v.iter_mut().enumerate() {
                    let of = event.id.as_u128().rotate_left(7) ^ i as u128;
                    event.id = uuid::Builder::from_random_bytes(of.to_be_bytes()).into_uuid();
                }
            }
            Bug::IdsWithoutIncarnation => {
                for (i, event) in v.iter_mut().enumerate() {
                    let text = format!("{s} {e:?} {i} {}", event.event_type);
                    event.id = Uuid::new_v5(&Uuid::NAMESPACE_URL, text.as_bytes());
                }
            }
            Bug::ReleasesEarly if v.iter().any(|event| event.event_type == "NodeSelected") => {
                let update = s.as_str().trim_start_matches("clusterUpdate-").to_owned();
                let admissions = StreamName::from("updatedCluster-prod");
                if let Ok(Some(last)) = wired.log.read_last(&admissions).await
                    && last.event_type == "UpdateAdmitted"
                {
                    let event = NewEvent {
                        id: Uuid::new_v5(&Uuid::NAMESPACE_URL, update.as_bytes()),
                        event_type: "UpdateReleased".into(),
                        data: json!({ "update": update }),
                        metadata: json!({}),
                    };
                    // Whether it stands is for the judge to see.
                    drop(wired.log.append(&admissions, Expected::Exact(last.revision), vec![event]).await);
                }
            }
            _ => {}
        }
        wired.append_as_ever(s, e, v).await
    }

    pub async fn gossip(
        self,
        wired: &Wired,
        node: &Address,
        answer: Result<View, NodeError>,
    ) -> Result<View, NodeError> {
        match self {
            Bug::SkipsLeaderCheck => answer.map(|mut view| {
                let leads = |s: NodeState| s == NodeState::Leader;
                let leader = view.members.iter().position(|m| m.is_alive && leads(m.state));
                let follower = view.members.iter().rposition(|m| m.is_alive && m.state == NodeState::Follower);
                if let (Some(l), Some(f)) = (leader, follower) {
                    view.members[l].state = NodeState::Follower;
                    view.members[f].state = NodeState::Leader;
                }
                view
            }),
            Bug::SkipsQuorumCheck => {
                let n = wired.stage.cluster.with(|w| (0..w.node_count()).find(|n| w.address(*n) == node));
                let ours = n.is_some_and(|n| wired.stage.judge(|j| j.is_ours(n)));
                let mut views = wired.views.lock().unwrap();
                match answer {
                    Ok(view) => {
                        views.insert(node.clone(), view.clone());
                        Ok(view)
                    }
                    Err(error) if ours => Err(error),
                    Err(error) => {
                        let newest = views.values().flat_map(|v| v.own()).map(|e| (e.writer, e.last_commit)).max();
                        let leader =
                            views.values().filter_map(View::own).find(|e| e.state == NodeState::Leader).cloned();
                        let now = wired.stage.cluster.with(|w| w.now());
                        let Some(mut view) = views.get(node).cloned() else { return Err(error) };
                        let server = view.server.clone();
                        for m in &mut view.members {
                            if m.address == server {
                                m.time_stamp = format!("{}", now.as_millis() / 1000);
                                m.state = NodeState::Follower;
                                if let Some((writer, commit)) = newest {
                                    m.writer = writer;
                                    m.last_commit = commit;
                                }
                                if let Some(leader) = &leader {
                                    m.epoch = leader.epoch;
                                    m.epoch_id = leader.epoch_id;
                                }
                            } else if let Some(leader) = &leader {
                                if m.address == leader.address {
                                    *m = leader.clone();
                                } else if m.state == NodeState::Leader {
                                    m.state = NodeState::Follower;
                                }
                            }
                        }
                        Ok(view)
                    }
                }
            }
            Bug::TrustsHealthLive | Bug::OverlooksALaggingVoter => {
                let n = wired.stage.cluster.with(|w| (0..w.node_count()).find(|n| w.address(*n) == node));
                if self == Bug::OverlooksALaggingVoter && n.is_some_and(|n| wired.stage.judge(|j| j.is_ours(n))) {
                    return answer;
                }
                let live = wired.admin.live(node).await.unwrap_or(false);
                let mut views = wired.views.lock().unwrap();
                let mut view = answer?;
                if view.own().is_some_and(|e| e.state == NodeState::Leader) {
                    views.insert(node.clone(), view.clone());
                } else if live
                    && let Some((writer, commit)) =
                        views.values().filter_map(View::own).map(|e| (e.writer, e.last_commit)).max()
                {
                    let server = view.server.clone();
                    for m in view.members.iter_mut().filter(|m| m.address == server) {
                        m.writer = writer;
                        m.last_commit = commit;
                    }
                }
                Ok(view)
            }
            // As the product would see it that does not look: what it set is what it wants to see.
            Bug::ForgetsThePriority => answer.map(|mut view| {
                let wanted = wired.stage.judge(|j| j.wanted_priorities());
                for m in &mut view.members {
                    if let Some(0) = wanted.get(&m.address.to_string()) {
                        m.priority = 0;
                    }
                }
                view
            }),
            Bug::ResignsWithoutPriority => answer.map(|mut view| {
                let wanted = wired.stage.judge(|j| j.wanted_priorities());
                for m in &mut view.members {
                    if let Some(priority) = wanted.get(&m.address.to_string()) {
                        m.priority = *priority;
                    }
                }
                view
            }),
            // Dead members vanish from gossip after half an hour: here at once.
            Bug::CountsVotersFromGossip => answer.map(|mut view| {
                view.members.retain(|m| m.is_alive);
                view
            }),
            Bug::RebootsWhatAnswers => {
                let n = wired.stage.cluster.with(|w| (0..w.node_count()).find(|n| w.address(*n) == node));
                if n.is_some_and(|n| wired.stage.judge(|j| j.comes_back(n))) {
                    return Err(NodeError::TimedOut { node: node.clone(), after_ms: 3000 });
                }
                answer
            }
            Bug::AppendsAfterActing
            | Bug::RandomIds
            | Bug::IdsWithoutIncarnation
            | Bug::SdkRepeatsTheStop
            | Bug::IgnoresTheWindow
            | Bug::DoesNotWaitForTheApproval
            | Bug::BeginsOutsideTheWindow
            | Bug::ActsWhilePaused
            | Bug::DoesNotHold
            | Bug::ForgetsTheRollback
            | Bug::TakesAFaultForARefusal
            | Bug::LeavesItStopped
            | Bug::ReleasesEarly
            | Bug::OverlooksAnothersTag
            | Bug::ForgetsTheTag => answer,
        }
    }

    pub async fn cluster_size(
        self,
        wired: &Wired,
        node: &Address,
        answer: Result<Option<u32>, NodeError>,
    ) -> Result<Option<u32>, NodeError> {
        if self != Bug::CountsVotersFromGossip {
            return answer;
        }
        let view = wired.admin.gossip(node).await?;
        Ok(u32::try_from(view.members.iter().filter(|m| m.is_alive && !m.is_read_only_replica).count()).ok())
    }

    /// What is described, as the product would see it.
    pub fn describe(self, wired: &Wired, instances: &mut [Instance]) {
        for instance in instances {
            let unseen = instance.fence().is_some_and(|tag| {
                let foreign = tag.starts_with(STRANGER);
                let dropped = || wired.stage.judge(|j| j.wants_removed(tag));
                self == Bug::OverlooksAnothersTag && foreign || self == Bug::ForgetsTheTag && dropped()
            });
            if unseen {
                instance.details.tags.remove(FENCE_TAG);
            }
        }
    }

    /// Whether this call is never made.
    pub fn forgets(self, call: &Call) -> bool {
        match call {
            Call::SetPriority { priority, .. } => {
                self == Bug::ForgetsThePriority && *priority >= 0
                    || self == Bug::ResignsWithoutPriority && *priority < 0
            }
            Call::Untag { .. } => self == Bug::ForgetsTheTag,
            Call::StartInstance { .. } => self == Bug::LeavesItStopped,
            Call::Tag { .. }
            | Call::Resign { .. }
            | Call::StopInstance { .. }
            | Call::ModifyType { .. }
            | Call::RebootInstance { .. } => false,
        }
    }

    pub async fn stop(self, wired: &Wired, call: Call) -> Result<Done, FleetError> {
        match self {
            Bug::SdkRepeatsTheStop => {
                let (again, later) = (wired.clone(), call.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_secs(3)).await;
                    // Nobody waits for its answer.
                    drop(again.stop_as_ever(later).await);
                });
            }
            Bug::IgnoresTheWindow => sleep(Duration::from_secs(7)).await,
            Bug::TakesAFaultForARefusal => {
                let done = wired.stop_as_ever(call).await?;
                let refusal = FleetError {
                    call: "StopInstances".into(),
                    class: CallClass::Terminal,
                    code: "NoCode".into(),
                    message: "not what was expected".into(),
                    request_id: done.request_id,
                };
                return Err(refusal);
            }
            _ => {}
        }
        wired.stop_as_ever(call).await
    }
}
