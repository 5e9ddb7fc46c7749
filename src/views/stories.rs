//! Small histories for tests of views, written by hand.

use std::time::Duration;

use uuid::Uuid;

use crate::domain::catch_up::{DataJudgement, DataKept};
use crate::domain::cluster::NodeState;
use crate::domain::ids::*;
use crate::domain::instance::InstanceState;
use crate::domain::quorum::Voters;
use crate::domain::time::Moment;
use crate::update::event::*;
use crate::update::state::{Body, Recorded};

pub const UPDATE: UpdateId = UpdateId(Uuid::from_u128(0xabc));

/// A history, and the time since its beginning.
pub struct Story {
    pub history: Vec<Recorded>,
    seconds: u64,
}

pub fn request() -> UpdateRequested {
    serde_json::from_value(serde_json::json!({
        "cluster": "prod", "targetInstanceType": "m6i.xlarge", "by": "ada", "why": "more memory", "nodeTimeoutSeconds": 5000
    }))
    .expect("a request")
}

pub fn instance(node: &str) -> InstanceId {
    InstanceId(node.replace("esdb-", "i-0"))
}

fn member(node: &str, role: Role, priority: i32) -> PlannedMember {
    PlannedMember {
        node: node.into(),
        address: Address::new(node.replace("esdb-", "10.0.1.1"), 2113),
        role,
        instance: instance(node),
        zone: Some("eu-west-1a".into()),
        old_type: "m6i.large".into(),
        new_type: "m6i.xlarge".into(),
        priority,
        version: Some("23.10.5.0".into()),
        instance_state: Some(crate::domain::instance::InstanceState::Running),
        stale_fence: None,
    }
}

pub fn ec2(state: InstanceState) -> Ec2Word {
    Ec2Word { state, reason: None, request_id: None }
}

pub fn phases(total: f64) -> PhaseSeconds {
    PhaseSeconds { prepare: 1.0, stop: 45.0, modify: 1.0, start: 25.0, rejoin: 3.0, catch_up: total - 75.0, total }
}

impl Story {
    pub fn requested() -> Self {
        let mut story = Story { history: Vec::new(), seconds: 0 };
        story.say(request());
        story
    }

    pub fn planned() -> Self {
        let mut story = Self::requested();
        story.pass(1).say(WorkerAssigned {
            worker: "w1".into(),
            incarnation: Incarnation(Uuid::from_u128(1)),
            reason: AssignedBecause::Admitted,
        });
        story.pass(1).say(UpdateAccepted { request: request(), cluster_id: "10.0.1.11:2113".into() });
        story.say(UpdatePlanned {
            voters: Voters(3),
            members: vec![
                member("esdb-1", Role::Leader, 3),
                member("esdb-2", Role::Follower, 2),
                member("esdb-3", Role::Follower, 0),
                member("esdb-4", Role::ReadOnlyReplica, 0),
            ],
            order: ["esdb-4", "esdb-2", "esdb-3", "esdb-1"].map(NodeName::from).to_vec(),
            checks: vec![PlannedCheck { code: "votersUp".into(), found: "3 of 3".into(), ..PlannedCheck::default() }],
            digest: "d1".into(),
        });
        story
    }

    /// Skips two nodes, updates a follower and the leader, and completes.
    pub fn completed() -> Self {
        let mut story = Self::planned();
        story.skip("esdb-4", Role::ReadOnlyReplica).skip("esdb-3", Role::Follower);
        story.select("esdb-2", Role::Follower).change("esdb-2");
        story.select("esdb-1", Role::Leader).resign("esdb-1").change("esdb-1");
        story.say(UpdateCompleted { seconds: 190.0, nodes: vec![], elections: 1, not_running: vec![] });
        story
    }

    pub fn now(&self) -> jiff::Timestamp {
        let zero: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        zero + Duration::from_secs(self.seconds)
    }

    pub fn last(&self) -> Revision {
        self.history.last().expect("a history").revision
    }

    pub fn pass(&mut self, seconds: u64) -> &mut Self {
        self.seconds += seconds;
        self
    }

    pub fn say(&mut self, event: impl Into<Event>) -> &mut Self {
        self.record(Body::Event(Box::new(event.into())))
    }

    pub fn record(&mut self, body: Body) -> &mut Self {
        let revision = Revision(self.history.len() as u64);
        let seen = Moment(Duration::from_secs(self.seconds));
        self.history.push(Recorded {
            revision,
            id: Uuid::from_u128(u128::from(revision.0)),
            at: self.now(),
            seen,
            body,
        });
        self
    }

    pub fn skip(&mut self, node: &str, role: Role) -> &mut Self {
        let because = "its type is m6i.xlarge already, it runs and has caught up".into();
        self.say(NodeSkipped { node: node.into(), attempt: 1, role, because, observed: vec![] })
    }

    pub fn select(&mut self, node: &str, role: Role) -> &mut Self {
        self.pass(1).say(NodeSelected {
            node: node.into(),
            attempt: 1,
            role,
            because: "its turn".into(),
            observed: vec![],
        })
    }

    pub fn lower(&mut self, node: &str) -> &mut Self {
        let node = NodeName::from(node);
        self.say(PriorityLoweringRequested {
            node: node.clone(),
            attempt: 1,
            original: 3,
            priority: -1,
            observed: vec![],
        });
        self.pass(2).say(PriorityLowered { node, attempt: 1, original: 3, priority: -1, observed: vec![] })
    }

    pub fn resign(&mut self, node: &str) -> &mut Self {
        self.lower(node);
        let node = NodeName::from(node);
        self.say(ResignationRequested {
            node: node.clone(),
            attempt: 1,
            from: ProcessId(Uuid::from_u128(9)),
            epoch: Some(6),
            observed: vec![],
        });
        self.pass(2).say(LeadershipTransferred {
            node,
            attempt: 1,
            new_leader: "esdb-2".into(),
            epoch: 7,
            observed: vec![],
        })
    }

    pub fn stop(&mut self, node: &str) -> &mut Self {
        self.pass(1).say(InstanceStopRequested {
            node: node.into(),
            attempt: 1,
            instance: instance(node),
            return_types: vec!["m6i.xlarge".into(), "m6i.large".into()],
            baseline: None,
            process: None,
            observed: vec![],
        })
    }

    /// From the stop to the new type, 46 s.
    pub fn modify(&mut self, node: &str) -> &mut Self {
        self.stop(node).pass(45);
        let (name, instance) = (NodeName::from(node), instance(node));
        let (old, new) = (InstanceType::from("m6i.large"), InstanceType::from("m6i.xlarge"));
        let observed = vec![Evidence { what: "stopped".into(), by: "ec2".into(), age_seconds: 0.2 }];
        self.say(InstanceStopped {
            node: name.clone(),
            attempt: 1,
            instance: instance.clone(),
            instance_type: old,
            ec2: ec2(InstanceState::Stopped),
            observed,
        });
        self.say(TypeModificationRequested {
            node: name.clone(),
            attempt: 1,
            instance: instance.clone(),
            instance_type: new.clone(),
            observed: vec![],
        });
        self.pass(1).say(TypeModified {
            node: name,
            attempt: 1,
            instance,
            instance_type: new,
            ec2: ec2(InstanceState::Stopped),
            return_ticket: false,
            observed: vec![],
        })
    }

    /// From the stop to the first answer, 75 s.
    pub fn rejoin(&mut self, node: &str) -> &mut Self {
        self.modify(node);
        let (name, instance) = (NodeName::from(node), instance(node));
        let new = InstanceType::from("m6i.xlarge");
        self.say(InstanceStartRequested {
            node: name.clone(),
            attempt: 1,
            instance: instance.clone(),
            instance_type: new.clone(),
            observed: vec![],
        });
        self.pass(25).say(InstanceStarted {
            node: name.clone(),
            attempt: 1,
            instance,
            instance_type: new,
            ec2: ec2(InstanceState::Running),
            return_ticket: false,
            observed: vec![],
        });
        self.pass(3).say(NodeRejoined {
            node: name,
            attempt: 1,
            instance_id_of_process: ProcessId(Uuid::from_u128(5)),
            state: NodeState::CatchingUp,
            epoch: 7,
            writer: 10,
            commit: 10,
            observed: vec![],
        })
    }

    /// All of a node after its selection, 83 s.
    pub fn change(&mut self, node: &str) -> &mut Self {
        self.rejoin(node).pass(8).say(CaughtUp {
            node: node.into(),
            attempt: 1,
            instance_id_of_process: ProcessId(Uuid::from_u128(5)),
            state: NodeState::Follower,
            epoch: 7,
            delay_seconds: 1.1,
            index_delay_seconds: 1.2,
            samples: vec![],
            data_kept: DataJudgement { kept: DataKept::Yes, how: "its first commit was not lower".into() },
            observed: vec![],
        });
        if node == "esdb-1" {
            self.say(PriorityRestored {
                node: node.into(),
                attempt: 1,
                priority: 3,
                by: RestoredBy::Restart,
                observed: vec![],
            });
        }
        self.say(NodeUpdated {
            node: node.into(),
            attempt: 1,
            instance_type: "m6i.xlarge".into(),
            seconds: phases(84.0),
            observed: vec![],
        })
    }
}
