//! The preflight: a sound scene, and each way to spoil it. One row, one check.

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::cluster::{NodeState, ReplicaSubscription, View};
use esdb_rollout::domain::ec2::classify;
use esdb_rollout::domain::ids::{Address, InstanceId, InstanceType, ProcessId, Revision, UpdateId};
use esdb_rollout::domain::inspection::{Inspection, ScheduledEvent, Unanswered, Verb, Volume};
use esdb_rollout::domain::instance::{FENCE_TAG, Instance, InstanceDetails, TypeDetails, TypeInfo};
use esdb_rollout::domain::quorum::Voters;
use esdb_rollout::ports::{ClusterAdmin, Done, Fleet, FleetError, NodeError, Wanted};
use esdb_rollout::sim::model::WorldConfig;
use esdb_rollout::sim::world::World;
use esdb_rollout::update::event::{
    CheckOutcome, CheckWaived, Event, OnSilentNode, PlannedCheck, Role, Severity, UpdateRequested,
};
use esdb_rollout::update::plan::{Assessment, CATALOGUE, Waiver};
use esdb_rollout::update::state::{Body, End, Recorded};
use esdb_rollout::worker::{ClusterHandle, NodeMapping, preview};
use rig::{Rig, lines, quick_world, request};
use uuid::Uuid;

use CheckOutcome::{Failed, Unknown};
use Severity::{Refuse, Warn};

/// A cluster to which nothing can be objected: r6i.large has the memory of m6i.xlarge, and half its processors.
fn sound() -> WorldConfig {
    let x86 = [
        "m6i.xlarge",
        "r6i.large",
        "c6i.large",
        "m6i.2xlarge",
        "m6i.4xlarge",
        "t3.2xlarge",
        "m6id.xlarge",
        "m6a.xlarge",
        "m4.xlarge",
        "x2iedn.xlarge",
    ];
    let mut offered_types: Vec<(String, String)> = x86.map(|t| (t.to_owned(), "x86_64".to_owned())).to_vec();
    offered_types.push(("r7g.large".into(), "arm64".into()));
    WorldConfig { instance_type: "m6i.xlarge".into(), offered_types, ..quick_world(1) }
}

struct Scene {
    config: WorldConfig,
    request: UpdateRequested,
    waivers: Vec<Waiver>,
    world: fn(&mut World),
    handle: fn(&mut ClusterHandle),
    view: fn(View) -> View,
    scavenge: Option<NodeError>,
}

impl Scene {
    fn sound() -> Self {
        let request = request("r6i.large");
        Scene { config: sound(), request, waivers: vec![], world: |_| {}, handle: |_| {}, view: |v| v, scavenge: None }
    }

    async fn look(self) -> Assessment {
        let rig = Rig::new(self.config);
        rig.world.with(self.world);
        let mut handle = rig.worker(0).clusters.values().next().unwrap().clone();
        handle.admin = Arc::new(Odd { inner: handle.admin.clone(), view: self.view, scavenge: self.scavenge });
        (self.handle)(&mut handle);
        preview(&handle, &*rig.log, &rig.clock, &self.request, &self.waivers).await.assessment
    }
}

/// Nodes that show something else than they are.
struct Odd {
    inner: Arc<dyn ClusterAdmin>,
    view: fn(View) -> View,
    scavenge: Option<NodeError>,
}

#[async_trait]
impl ClusterAdmin for Odd {
    async fn gossip(&self, n: &Address) -> Result<View, NodeError> {
        self.inner.gossip(n).await.map(self.view)
    }
    async fn live(&self, n: &Address) -> Result<bool, NodeError> {
        self.inner.live(n).await
    }
    async fn cluster_size(&self, n: &Address) -> Result<Option<u32>, NodeError> {
        self.inner.cluster_size(n).await
    }
    async fn replication(&self, n: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        self.inner.replication(n).await
    }
    async fn scavenge(&self, n: &Address) -> Result<Option<String>, NodeError> {
        match &self.scavenge {
            Some(error) => Err(error.clone()),
            None => self.inner.scavenge(n).await,
        }
    }
    async fn set_priority(&self, n: &Address, _: i32) -> Result<(), NodeError> {
        panic!("{n} is told something")
    }
    async fn resign(&self, n: &Address) -> Result<(), NodeError> {
        panic!("{n} is told something")
    }
    async fn resolve(&self, h: &str) -> Result<Vec<std::net::IpAddr>, NodeError> {
        self.inner.resolve(if h == ANOTHER_NAME { "10.0.1.4" } else { h }).await
    }
}

/// A name of the replica's address, by which no node is called.
const ANOTHER_NAME: &str = "replica.example";

/// Checks that have not passed, those for the record aside.
fn objections(found: &Assessment) -> Vec<&PlannedCheck> {
    let objects = |c: &&PlannedCheck| c.outcome != Some(CheckOutcome::Passed) && c.severity != Some(Severity::Info);
    found.checks.iter().filter(objects).collect()
}

/// The replica's instance.
fn instance(w: &mut World) -> &mut esdb_rollout::sim::world::InstanceFacts {
    &mut w.facts_mut().instances[3]
}

fn of_instance(w: &mut World) -> &mut InstanceDetails {
    &mut instance(w).details
}

fn of_type(w: &mut World, name: &str, spoil: fn(&mut TypeDetails)) {
    let mut details = w.facts().type_details(name, "x86_64");
    spoil(&mut details);
    w.facts_mut().types.insert(name.into(), details);
}

fn of_target(w: &mut World, spoil: fn(&mut TypeDetails)) {
    of_type(w, "r6i.large", spoil);
}

fn deny(w: &mut World, action: &str) {
    w.facts_mut().denied.insert(action.into());
}

fn no_way_back(w: &mut World) {
    w.facts_mut().not_offered.insert(("m6i.xlarge".into(), "eu-west-1b".into()));
}

fn restart() -> UpdateRequested {
    serde_json::from_value(serde_json::json!({ "cluster": "prod", "strategy": "Ec2InstanceRestart" })).unwrap()
}

fn deny_the_replica(w: &mut World) {
    let id = w.instance_of(3).clone();
    w.facts_mut().denied_instances.insert(id);
}

fn event(at: &str, description: &str) -> ScheduledEvent {
    ScheduledEvent {
        code: "instance-retirement".into(),
        description: description.into(),
        not_before: Some(at.parse().unwrap()),
    }
}

/// A request with these fields beside, while AWS will retire an instance in a week.
fn in_a_week(s: &mut Scene, beside: serde_json::Value) {
    let mut asked = serde_json::to_value(&s.request).unwrap();
    asked.as_object_mut().unwrap().extend(beside.as_object().unwrap().clone());
    s.request = serde_json::from_value(asked).unwrap();
    s.world = |w| instance(w).events = vec![event("2026-01-08T12:00:00Z", "")];
}

fn the_replica(view: &mut View, spoil: impl Fn(&mut esdb_rollout::domain::cluster::MemberEntry)) {
    if view.server.host == "10.0.1.4" {
        view.members.iter_mut().filter(|m| m.address.host == "10.0.1.4").for_each(spoil);
    }
}

fn without_data_of(ahead: i64, mut view: View) -> View {
    the_replica(&mut view, |m| (m.writer, m.last_commit) = (m.writer - ahead, m.last_commit - ahead));
    view
}

fn two_leaders(mut view: View) -> View {
    if view.server.host == "10.0.1.4" {
        view.members
            .iter_mut()
            .for_each(|m| m.state = if m.is_read_only_replica { m.state } else { NodeState::Leader });
    }
    view
}

fn voters_behind(mut view: View) -> View {
    let own = view.server.clone();
    let mut followers = view.members.iter_mut().filter(|m| m.address == own && m.state == NodeState::Follower);
    followers.by_ref().for_each(|m| (m.writer, m.last_commit) = (1000, 1000));
    view
}

/// A member that joins after the members were found: the first views do not show it.
fn a_newcomer(mut view: View) -> View {
    let looks = NEWCOMER.with(|n| n.replace(n.get() + 1));
    // The first look at each of the four finds the members.
    if looks >= 4 {
        let mut newcomer = view.members[0].clone();
        newcomer.address = Address::new("10.0.1.9", 2113);
        newcomer.process = ProcessId(Uuid::from_u128(9));
        newcomer.state = NodeState::CatchingUp;
        view.members.push(newcomer);
    }
    view
}

/// Names an instance in the configuration, as that of the node `spare`.
fn name(h: &mut ClusterHandle, address: Option<Address>, instance: &str) {
    let node = NodeMapping { instance: instance.into(), address, address_translated: false };
    h.nodes.insert("spare".into(), node);
}

thread_local! {
    static NEWCOMER: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

type Spoil = fn(&mut Scene);

type Row = (&'static str, CheckOutcome, Severity, Spoil);

/// Each check, and a way to spoil the sound scene that it alone objects to.
const TABLE: &[Row] = &[
    ("unknownNode", Failed, Refuse, |s| s.request.nodes = Some(vec!["esdb-1".into(), "esdb-9".into()])),
    ("priorityLeftLowered", Failed, Refuse, |s| {
        let resumes = serde_json::json!([{ "node": "esdb-2", "done": true, "originalPriority": 3 }]);
        s.request.resumes = serde_json::from_value(resumes).unwrap();
    }),
    ("planDigestDiffers", Failed, Refuse, |s| s.request.plan_digest = Some("another".into())),
    ("votersDiffer", Failed, Refuse, |s| s.handle = |h| h.voters = Some(Voters(5))),
    ("tooFewVoters", Failed, Refuse, |s| (s.config.voters, s.config.replicas) = (1, 3)),
    ("evenVoters", Failed, Warn, |s| (s.config.voters, s.config.replicas) = (4, 0)),
    ("unknownMember", Failed, Refuse, |s| s.view = a_newcomer),
    ("missingMember", Failed, Warn, |s| s.handle = |h| h.seeds.push(Address::new("10.0.1.9", 2113))),
    ("missingMember", Failed, Warn, |s| s.handle = |h| name(h, None, "i-0000000000000000f")),
    ("missingMember", Failed, Warn, |s| {
        s.handle = |h| name(h, Some(Address::new("10.0.1.9", 2113)), "i-0000000000000000f")
    }),
    ("memberDown", Failed, Warn, |s| s.world = |w| w.freeze(3)),
    ("notCaughtUp", Failed, Warn, |s| s.view = |v| without_data_of(5_000_000, v)),
    ("leaderNotAgreed", Failed, Refuse, |s| s.view = two_leaders),
    ("mixedVersions", Failed, Warn, |s| {
        s.view = |mut v| {
            the_replica(&mut v, |m| m.version = Some("24.10.0".into()));
            v
        }
    }),
    ("mixedVersions", Unknown, Warn, |s| {
        s.view = |mut v| {
            v.members.iter_mut().for_each(|m| m.version = None);
            v
        }
    }),
    ("scavengeRunning", Failed, Warn, |s| s.world = |w| _ = w.facts_mut().scavenges.insert(3, "9cd55be2".into())),
    ("ownMachine", Failed, Refuse, |s| s.config.addresses[3] = own_address()),
    ("ownMachine", Unknown, Warn, |s| {
        s.request.nodes = Some(vec!["esdb-4".into()]);
        s.handle = |h| {
            let (inner, asked) = (h.fleet.clone(), Arc::default());
            h.fleet = Arc::new(Spoken { from_some_instance: true, ..Spoken::new(inner, asked) });
        };
    }),
    ("publicAddress", Failed, Refuse, |s| s.world = |w| of_instance(w).public_ip = Some([10, 0, 1, 4].into())),
    ("publicAddress", Failed, Refuse, |s| {
        s.world = |w| {
            of_instance(w).public_ip = Some([54, 1, 2, 3].into());
            of_instance(w).public_dns = Some("10.0.1.4".into());
        }
    }),
    ("instanceState", Failed, Warn, |s| {
        s.world = |w| {
            let id = w.instance_of(3).clone();
            w.stop_instances(&[id]).unwrap();
        }
    }),
    ("instanceStoreRoot", Failed, Refuse, |s| s.world = |w| instance(w).root_device = "instance-store".into()),
    ("stopProtection", Failed, Refuse, |s| s.world = |w| instance(w).stop_protected = true),
    ("terminateOnShutdown", Failed, Refuse, |s| s.world = |w| instance(w).shutdown_behavior = "terminate".into()),
    ("spotInstance", Failed, Refuse, |s| s.world = |w| instance(w).lifecycle = Some("spot".into())),
    ("hibernation", Failed, Refuse, |s| s.world = |w| instance(w).hibernation = true),
    ("autoScalingGroup", Failed, Refuse, |s| s.world = |w| instance(w).auto_scaling_group = Some("asg".into())),
    ("scheduledEvent", Failed, Refuse, |s| s.world = |w| instance(w).events = vec![event("2026-01-01T20:00:00Z", "")]),
    ("scheduledEvent", Failed, Warn, |s| s.world = |w| instance(w).events = vec![event("2026-01-09T00:00:00Z", "")]),
    // On another voter than the one in hand it costs the quorum: on one that is not asked for, and on one that is done already.
    ("scheduledEvent", Failed, Refuse, |s| {
        s.request.nodes = Some(vec!["esdb-1".into()]);
        s.world = |w| w.facts_mut().instances[1].events = vec![event("2026-01-01T20:00:00Z", "")];
    }),
    ("scheduledEvent", Failed, Refuse, |s| {
        let done = serde_json::json!({
            "cluster": "prod", "strategy": "Ec2InstanceRestart", "resumes": [{ "node": "esdb-2", "done": true }]
        });
        s.request = serde_json::from_value(done).unwrap();
        s.world = |w| w.facts_mut().instances[1].events = vec![event("2026-01-01T20:00:00Z", "")];
    }),
    // An update that may last for days meets what begins in days.
    ("scheduledEvent", Failed, Refuse, |s| in_a_week(s, serde_json::json!({ "gates": ["afterFirst"] }))),
    ("scheduledEvent", Failed, Refuse, |s| {
        in_a_week(s, serde_json::json!({ "window": { "cron": "0 2 * * SAT", "minutes": 60, "timeZone": "UTC" } }))
    }),
    ("scheduledEvent", Failed, Refuse, |s| in_a_week(s, serde_json::json!({ "dwellSeconds": 200_000 }))),
    ("scheduledEvent", Failed, Refuse, |s| in_a_week(s, serde_json::json!({ "notBefore": "2026-01-08T00:00:00Z" }))),
    ("scheduledEvent", Failed, Warn, |s| in_a_week(s, serde_json::json!({ "dwellSeconds": 3600, "gates": [] }))),
    ("scheduledEvent", Unknown, Warn, |s| s.world = |w| deny(w, "DescribeInstanceStatus")),
    ("fence", Failed, Refuse, |s| s.world = |w| _ = of_instance(w).tags.insert(FENCE_TAG.into(), "another@7".into())),
    ("placementGroup", Failed, Warn, |s| s.world = |w| of_instance(w).placement_group = Some("near".into())),
    ("dedicatedHost", Failed, Warn, |s| s.world = |w| of_instance(w).tenancy = Some("host".into())),
    ("capacityReservation", Failed, Refuse, |s| {
        s.world = |w| of_instance(w).capacity_reservation = Some("cr-1".into())
    }),
    ("creditsLost", Failed, Warn, |s| {
        (s.config.instance_type, s.request) = ("t2.xlarge".into(), restart());
        s.config.offered_types.push(("t2.xlarge".into(), "x86_64".into()));
    }),
    ("cpuOptions", Failed, Warn, |s| s.world = |w| of_instance(w).threads_per_core = Some(1)),
    ("encryptedVolumes", Unknown, Warn, |s| s.world = |w| instance(w).volumes[0].kms_key = Some("arn:key".into())),
    ("unknownInstanceType", Failed, Refuse, |s| s.request.fallback_types = Some(vec!["x9.huge".into()])),
    ("typeNotOffered", Failed, Refuse, |s| {
        s.world = |w| _ = w.facts_mut().not_offered.insert(("r6i.large".into(), "eu-west-1b".into()))
    }),
    // The way back, and all that a restart has.
    ("presentTypeNotOffered", Failed, Refuse, |s| s.world = no_way_back),
    ("presentTypeNotOffered", Failed, Refuse, |s| (s.request, s.world) = (restart(), no_way_back)),
    ("virtualizationDiffers", Failed, Refuse, |s| {
        s.world = |w| of_instance(w).virtualization = Some("paravirtual".into())
    }),
    ("architectureDiffers", Failed, Refuse, |s| {
        s.config.offered_types.iter_mut().filter(|(t, _)| t == "r6i.large").for_each(|(_, a)| *a = "arm64".into())
    }),
    ("bootModeDiffers", Failed, Refuse, |s| {
        s.world = |w| {
            of_instance(w).boot_mode = Some("legacy-bios".into());
            of_target(w, |t| t.boot_modes = vec!["uefi".into()]);
        }
    }),
    ("enaMissing", Failed, Refuse, |s| s.world = |w| of_instance(w).ena = Some(false)),
    ("enaMissing", Unknown, Warn, |s| s.world = |w| of_instance(w).ena = None),
    ("ebsOptimizedUnsupported", Failed, Refuse, |s| {
        s.world = |w| {
            of_instance(w).ebs_optimized = Some(true);
            of_target(w, |t| t.ebs_optimized = Some("unsupported".into()));
        }
    }),
    ("ebsOptimizedUnsupported", Unknown, Warn, |s| {
        s.world = |w| {
            of_instance(w).ebs_optimized = None;
            of_target(w, |t| t.ebs_optimized = Some("unsupported".into()));
        }
    }),
    ("virtualizationDiffers", Unknown, Warn, |s| s.world = |w| of_target(w, |t| t.virtualization = vec![])),
    ("tooManyInterfaces", Failed, Refuse, |s| s.world = |w| of_instance(w).interfaces = 4),
    // The primary interface is not counted.
    ("tooManyVolumes", Failed, Refuse, |s| {
        s.world = |w| {
            of_instance(w).interfaces = 2;
            of_target(w, |t| t.max_volumes = Some(1));
        }
    }),
    ("hypervisorChanges", Failed, Warn, |s| {
        s.world = |w| of_type(w, "m6i.xlarge", |t| t.hypervisor = Some("xen".into()))
    }),
    ("hypervisorChanges", Failed, Warn, |s| s.world = |w| of_target(w, |t| t.hypervisor = Some("xen".into()))),
    ("hypervisorChanges", Failed, Warn, |s| {
        s.world = |w| {
            of_type(w, "m6i.xlarge", |t| t.hypervisor = Some("xen".into()));
            of_target(w, |t| (t.hypervisor, t.bare_metal) = (None, Some(true)));
        }
    }),
    ("hypervisorChanges", Failed, Warn, |s| {
        s.world = |w| {
            of_type(w, "m6i.xlarge", |t| (t.hypervisor, t.bare_metal) = (None, Some(true)));
            of_target(w, |t| t.hypervisor = Some("xen".into()));
        }
    }),
    ("hypervisorChanges", Failed, Warn, |s| s.world = |w| of_target(w, |t| t.instance_storage = Some(true))),
    ("hypervisorChanges", Unknown, Warn, |s| s.world = |w| of_target(w, |t| t.hypervisor = None)),
    ("ebsIopsShrink", Failed, Warn, |s| s.world = |w| instance(w).volumes[0].throughput = Some(500)),
    ("ebsIopsShrink", Failed, Warn, |s| s.world = |w| instance(w).volumes[0].iops = Some(16_000)),
    ("burstableType", Failed, Warn, |s| s.world = |w| of_target(w, |t| t.burstable = Some(true))),
    ("memoryShrinks", Failed, Warn, |s| s.request.target_instance_type = Some("c6i.large".into())),
    ("stopDenied", Failed, Refuse, |s| s.world = |w| deny(w, "StopInstances")),
    ("startDenied", Failed, Refuse, |s| s.world = |w| deny(w, "StartInstances")),
    ("modifyDenied", Failed, Refuse, |s| s.world = |w| deny(w, "ModifyInstanceAttribute")),
    ("modifyDenied", Failed, Refuse, |s| s.world = |w| _ = w.facts_mut().denied_types.insert("r6i.large".into())),
    ("modifyDenied", Failed, Refuse, |s| {
        s.request.fallback_types = Some(vec!["m6a.xlarge".into()]);
        s.world = |w| _ = w.facts_mut().denied_types.insert("m6a.xlarge".into());
    }),
    ("rebootDenied", Failed, Refuse, |s| {
        s.request.on_silent_node = Some(OnSilentNode::Reboot);
        s.world = |w| deny(w, "RebootInstances");
    }),
    ("tagDenied", Failed, Refuse, |s| s.world = |w| deny(w, "CreateTags")),
    ("tagDenied", Failed, Refuse, |s| s.world = |w| deny(w, "DeleteTags")),
    ("vcpuQuota", Unknown, Warn, |s| s.request.target_instance_type = Some("m6i.2xlarge".into())),
    ("vcpuQuota", Unknown, Warn, |s| s.request.fallback_types = Some(vec!["m6i.2xlarge".into()])),
    ("vcpuQuota", Unknown, Warn, |s| s.request.target_instance_type = Some("x2iedn.xlarge".into())),
    ("infrastructureAsCode", Failed, Warn, |s| {
        s.world = |w| _ = of_instance(w).tags.insert("aws:cloudformation:stack-name".into(), "db".into())
    }),
];

/// Several checks must object, each for its own reason.
const TOGETHER: &[(&[&str], Spoil)] = &[
    // Two voters that lag leave no margin.
    (&["notCaughtUp", "quorumMargin"], |s| s.view = voters_behind),
    // What EC2 may not be asked is unknown, of each.
    (&["encryptedVolumes", "ebsIopsShrink"], |s| s.world = |w| deny(w, "DescribeVolumes")),
    (&["stopProtection", "terminateOnShutdown"], |s| s.world = |w| deny(w, "DescribeInstanceAttribute")),
    // A policy that allows some instances only.
    (&["stopDenied", "startDenied", "modifyDenied", "tagDenied"], |s| s.world = deny_the_replica),
    // Disks of the type's own are lost, and those that stay are counted without them.
    (&["instanceStoreData", "hypervisorChanges"], |s| {
        s.world = |w| of_type(w, "m6i.xlarge", |t| t.instance_storage = Some(true))
    }),
    // Of a type that is gone nothing else is known.
    (&["presentTypeNotOffered", "instanceStoreData"], |s| {
        s.request = restart();
        s.handle = |h| {
            let (inner, asked) = (h.fleet.clone(), Arc::default());
            h.fleet = Arc::new(Spoken { of_present: |_| Some(Ok(None)), ..Spoken::new(inner, asked) });
        };
    }),
];

/// Checks that the survey makes: where no member has been found nothing is said of them.
const SURVEYED: [&str; 8] = [
    "nodeNotTrusted",
    "nodeUserDenied",
    "votersUnknown",
    "noInstance",
    "severalInstances",
    "oneInstanceTwoNodes",
    "instanceAddressDiffers",
    "ec2Denied",
];

/// What is wrong is told once, a check either passes or does not, all in the catalogue's order, and whoever must mend something is told what
/// is wanted and how.
fn in_order(found: &Assessment, what: &str) {
    let told: Vec<(&str, Option<&str>, &str)> =
        found.checks.iter().map(|c| (c.code.as_str(), c.node.as_ref().map(|n| n.as_str()), c.found.as_str())).collect();
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len(), "{what}: told twice: {told:?}");
    let place = |code: &str| CATALOGUE.iter().position(|known| known.code == code);
    let places = told.iter().map(|t| t.0).filter(|code| *code != "planDigestDiffers").map(place);
    assert!(places.is_sorted(), "{what}: not in the catalogue's order: {told:?}");
    let failed: Vec<_> = found.checks.iter().filter(|c| c.outcome != Some(CheckOutcome::Passed)).collect();
    for check in failed {
        let says = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
        assert!(says(&check.wanted) && says(&check.remedy), "{what}: {check:?}");
    }
    assert!(found.checks.iter().all(|c| !c.found.is_empty() && c.severity.is_some()), "{what}: {:?}", found.checks);
    for reason in &found.reasons {
        assert!(!reason.wanted.is_empty() && !reason.remedy.is_empty(), "{what}: {reason:?}");
    }
}

/// Checks that other tests show to fail, and where.
const ELSEWHERE: &[(&str, &str)] = &[
    ("typeNotAllowed", "tests/survey.rs"),
    ("clusterNotObservable", "tests/survey.rs"),
    ("nodeNotTrusted", "tests/secure.rs"),
    ("nodeUserDenied", "tests/secure.rs"),
    ("votersUnknown", "tests/survey.rs"),
    ("noInstance", "tests/survey.rs"),
    ("severalInstances", "tests/survey.rs"),
    ("oneInstanceTwoNodes", "tests/survey.rs"),
    ("instanceAddressDiffers", "tests/survey.rs"),
    ("ec2Denied", "tests/survey.rs"),
];

/// The table of `docs/checks.md`, from the catalogue.
fn document() -> String {
    let mut text = String::new();
    let mut theme = None;
    for c in CATALOGUE {
        if theme != Some(c.theme) {
            theme = Some(c.theme);
            text += &format!(
                "\n## {}\n\n| code | means | waivable | digest | wanted | remedy | shown by |\n| --- | --- | --- | --- | --- | --- | --- |\n",
                c.theme
            );
        }
        let severity = match c.severity {
            Severity::Refuse => "refuses",
            Severity::Warn => "warns",
            Severity::Info => "told",
        };
        let shown = ELSEWHERE.iter().find(|(code, _)| *code == c.code).map_or("tests/plan.rs", |(_, file)| file);
        let mark = |set: bool| if set { "yes" } else { "" };
        text += &format!(
            "| `{}` | {severity} | {} | {} | {} | {} | `{shown}` |\n",
            c.code,
            mark(c.waivable),
            mark(c.digested),
            c.wanted,
            c.remedy
        );
    }
    text
}

const MARK: &str = "<!-- from the catalogue: ESDB_ROLLOUT_BLESS=1 cargo test --test plan -->\n";

#[test]
fn the_document_of_the_checks_is_the_catalogue_and_each_is_shown_where_it_says() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("docs/checks.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let (head, table) = written.split_once(MARK).expect("the mark");
    if std::env::var_os("ESDB_ROLLOUT_BLESS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{}", document())).unwrap();
    } else {
        assert_eq!(table, document(), "docs/checks.md is out of date");
    }
    for (code, file) in ELSEWHERE {
        let source = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(source.contains(&format!("\"{code}\"")), "{file} shows {code}");
    }
    let codes: BTreeSet<&str> = CATALOGUE.iter().map(|c| c.code).collect();
    assert_eq!(codes.len(), CATALOGUE.len(), "a code is one check's");
}

/// An address of the machine that the tests run on: the one it would send from.
fn own_address() -> Address {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent; a machine without a way out has loopback, which proves nothing.
    let out = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    Address::new(out.map_or_else(|_| "127.0.0.1".to_owned(), |a| a.ip().to_string()), 2113)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_objected_to_a_sound_scene_and_each_check_objects_to_its_own_spoil_alone() {
    let found = Scene::sound().look().await;
    assert_eq!(objections(&found), Vec::<&PlannedCheck>::new());
    assert_eq!((found.missing.as_slice(), found.reasons.as_slice()), (&[][..], &[][..]));
    let passed: BTreeSet<&str> =
        found.checks.iter().filter(|c| c.outcome == Some(CheckOutcome::Passed)).map(|c| c.code.as_str()).collect();
    in_order(&found, "the sound scene");
    let protection = found.checks.iter().find(|c| c.code == "stopProtection").unwrap();
    assert!(protection.found.starts_with("esdb-1, esdb-2, esdb-3, esdb-4: "), "{protection:?}");
    assert!(found.checks.iter().any(|c| c.code == "terminateOnShutdown" && c.found.ends_with("esdb-4: stop")));
    for code in SURVEYED {
        assert!(passed.contains(code), "{code} passes in the sound scene");
    }
    let told: Vec<&str> =
        found.checks.iter().filter(|c| c.severity == Some(Severity::Info)).map(|c| &*c.code).collect();
    assert_eq!(told, ["restartPolicy", "exposure"]);
    let elections: Vec<u32> = found.steps.iter().map(|s| s.elections).collect();
    assert_eq!(elections, [0, 0, 0, 1]);

    for (n, (code, outcome, severity, spoil)) in TABLE.iter().enumerate() {
        let mut scene = Scene::sound();
        spoil(&mut scene);
        if *code == "ownMachine" && scene.config.addresses[3].host == "127.0.0.1" {
            continue;
        }
        let found = scene.look().await;
        let objections = objections(&found);
        let codes: BTreeSet<&str> = objections.iter().map(|c| c.code.as_str()).collect();
        let allowed: BTreeSet<&str> = match *code {
            // A node whose instance is stopped is down.
            "instanceState" => ["instanceState", "memberDown", "scavengeRunning"].into(),
            // A frozen node says nothing of scavenges.
            "memberDown" => ["memberDown", "scavengeRunning"].into(),
            code => [code].into(),
        };
        assert!(codes.contains(code) && codes.is_subset(&allowed), "{code}: {objections:#?}");
        let of_it = objections.iter().find(|c| c.code == *code).unwrap();
        assert_eq!((of_it.outcome, of_it.severity), (Some(*outcome), Some(*severity)), "{code}, row {n}: {of_it:?}");
        in_order(&found, code);
        assert_eq!(found.reasons.iter().any(|r| r.code == *code), *severity == Refuse, "{code}: {:?}", found.reasons);
        assert_eq!(found.warnings().any(|c| c.code == *code), *severity == Warn, "{code}");
    }
    for (wanted, spoil) in TOGETHER {
        let mut scene = Scene::sound();
        spoil(&mut scene);
        let found = scene.look().await;
        let codes: BTreeSet<&str> = objections(&found).iter().map(|c| c.code.as_str()).collect();
        assert_eq!(codes, wanted.iter().copied().collect(), "{:#?}", objections(&found));
    }
    // Every check of the catalogue is shown to fail somewhere, and every one that looks by itself to pass.
    let info = ["restartPolicy", "exposure"];
    for check in CATALOGUE {
        let rows = TABLE.iter().map(|r| r.0).chain(TOGETHER.iter().flat_map(|r| r.0.iter().copied()));
        let elsewhere = ELSEWHERE.iter().any(|(code, _)| *code == check.code);
        assert!(rows.clone().any(|c| c == check.code) || elsewhere || info.contains(&check.code), "{}", check.code);
        let request = ["unknownNode", "priorityLeftLowered", "planDigestDiffers", "rebootDenied"];
        let asked = elsewhere || request.contains(&check.code) || info.contains(&check.code);
        assert!(passed.contains(check.code) || asked, "{} passes in the sound scene", check.code);
    }
}

#[tokio::test(start_paused = true)]
async fn variants_that_are_no_fault() {
    let table: &[Spoil] = &[
        // A seed that is a member's other name, and does not answer by it.
        |s| s.handle = |h| h.seeds.push(Address::new(ANOTHER_NAME, 2113)),
        // An Elastic IP outlives a stop; a public address that gossip does not use may go.
        |s| s.world = |w| (of_instance(w).public_ip, of_instance(w).elastic_ip) = (Some([10, 0, 1, 4].into()), true),
        |s| s.world = |w| of_instance(w).public_ip = Some([54, 1, 2, 3].into()),
        // AWS tells for a week what is over.
        |s| s.world = |w| instance(w).events = vec![event("2026-01-01T20:00:00Z", "[Completed] retired")],
        // What is wrong with an instance that nothing is done to.
        |s| {
            s.request.nodes = Some(vec!["esdb-1".into()]);
            s.world = |w| instance(w).stop_protected = true;
        },
        |s| (s.request.nodes, s.world) = (Some(vec!["esdb-1".into()]), deny_the_replica),
        |s| {
            s.request = restart();
            s.request.resumes =
                serde_json::from_value(serde_json::json!([{ "node": "esdb-4", "done": true }])).unwrap();
            s.world = deny_the_replica;
        },
        // Of the type that is the way back EC2 is asked again.
        |s| {
            s.handle = |h| {
                let (inner, asked) = (h.fleet.clone(), Arc::default());
                let of_present = |n| (n < 3).then(|| Err(failed("DescribeInstanceTypes", "RequestLimitExceeded")));
                h.fleet = Arc::new(Spoken { of_present, ..Spoken::new(inner, asked) });
            };
        },
        // Nothing is to be done, and no right is needed.
        |s| {
            s.request.target_instance_type = Some("m6i.xlarge".into());
            s.world = |w| deny(w, "StopInstances");
        },
        // A restart keeps the type: hibernation and a reservation are no hindrance, nor is a right that is not needed.
        |s| {
            s.request = restart();
            s.world = |w| {
                instance(w).hibernation = true;
                of_instance(w).capacity_reservation = Some("cr-1".into());
                deny(w, "ModifyInstanceAttribute");
            }
        },
        // The primary interface has a place of its own, and on Xen all have.
        |s| s.world = |w| of_target(w, |t| t.max_volumes = Some(1)),
        |s| {
            s.world = |w| {
                of_instance(w).interfaces = 3;
                of_type(w, "m6i.xlarge", |t| t.hypervisor = Some("xen".into()));
                of_target(w, |t| (t.hypervisor, t.max_volumes) = (Some("xen".into()), Some(1)));
            }
        },
        // Bare metal names its disks as Nitro does.
        |s| s.world = |w| of_target(w, |t| (t.hypervisor, t.bare_metal) = (None, Some(true))),
        // Volumes that are provisioned with more than the present type sustains.
        |s| {
            s.world = |w| {
                (instance(w).volumes[0].iops, instance(w).volumes[0].throughput) = (Some(16_000), Some(1000));
                of_target(w, |t| (t.baseline_iops, t.baseline_throughput) = (Some(6000), Some(160)));
            }
        },
        // The tag of the update itself, which is nobody's as long as it is not asked for.
        |s| s.world = |w| _ = of_instance(w).tags.insert(FENCE_TAG.into(), format!("{}@7", UpdateId(Uuid::nil()))),
        // What says nothing of how it boots does so as x86 always did, and what only prefers UEFI does either way.
        |s| {
            s.world = |w| {
                of_instance(w).boot_mode = None;
                of_target(w, |t| t.boot_modes = vec!["legacy-bios".into()]);
            }
        },
        |s| {
            s.world = |w| {
                of_instance(w).boot_mode = Some("uefi-preferred".into());
                of_target(w, |t| t.boot_modes = vec!["legacy-bios".into()]);
            }
        },
        // Of a type whose limits EC2 does not tell nothing is missed where nothing is provisioned.
        |s| {
            s.world = |w| {
                w.facts_mut().instances.iter_mut().for_each(|i| i.volumes.clear());
                of_target(w, |t| (t.baseline_iops, t.baseline_throughput) = (None, None));
            }
        },
        // A type that is always optimized for EBS.
        |s| {
            s.world = |w| {
                of_instance(w).ebs_optimized = Some(true);
                of_target(w, |t| t.ebs_optimized = Some("default".into()));
            }
        },
        // A volume of somebody else's instance.
        |s| {
            s.world = |w| {
                let id = "i-0000000000000beef".into();
                instance(w).volumes.push(Volume {
                    id: "vol-x".into(),
                    instance: id,
                    iops: Some(64_000),
                    throughput: Some(4000),
                    kms_key: None,
                });
            }
        },
    ];
    for (n, spoil) in table.iter().enumerate() {
        let mut scene = Scene::sound();
        spoil(&mut scene);
        let found = scene.look().await;
        assert_eq!(objections(&found), Vec::<&PlannedCheck>::new(), "variant {n}");
    }
}

/// What is wrong with the plan is part of it; what will have passed by the time it is carried out is not.
#[tokio::test(start_paused = true)]
async fn what_is_wrong_makes_another_digest_where_it_is_of_the_plan() {
    let digest = |spoil: Spoil| async move {
        let mut scene = Scene::sound();
        spoil(&mut scene);
        scene.look().await.plan.expect("a plan").digest
    };
    let sound = digest(|_| {}).await;
    assert_eq!(sound, digest(|s| s.world = |w| _ = w.facts_mut().scavenges.insert(3, "9cd55be2".into())).await);
    let one = digest(|s| s.world = |w| instance(w).auto_scaling_group = Some("one".into())).await;
    let other = digest(|s| s.world = |w| instance(w).auto_scaling_group = Some("other".into())).await;
    assert_eq!(BTreeSet::from([sound, one, other]).len(), 3, "what is found is part of it");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_nothing_is_said_of_the_members() {
    let mut scene = Scene::sound();
    scene.world = |w| (0..4).for_each(|n| w.freeze(n));
    let found = scene.look().await;
    let of_survey: Vec<&str> = found.checks.iter().map(|c| c.code.as_str()).filter(|c| SURVEYED.contains(c)).collect();
    assert_eq!(of_survey, Vec::<&str>::new());
    assert_eq!(objections(&found), Vec::<&PlannedCheck>::new());
    assert!(found.checks.iter().all(|c| c.code != "leaderNotAgreed"), "{:?}", found.checks);
    assert!(found.plan.is_none() && !found.missing.is_empty(), "{found:?}");
}

/// What the survey refuses is told once, and all the rest is looked at.
#[tokio::test(start_paused = true)]
async fn beside_what_the_survey_refuses_the_rest_is_looked_at() {
    let mut scene = Scene::sound();
    scene.handle = |h| {
        let seeds = h.seeds.clone();
        // Each is the other's.
        for (n, of) in [(0, 1), (1, 0)] {
            let instance = InstanceId(format!("i-{:017x}", 10 + of));
            let mapping = NodeMapping { instance, address: Some(seeds[n].clone()), address_translated: false };
            h.nodes.insert(format!("n{n}").as_str().into(), mapping);
        }
    };
    let found = scene.look().await;
    in_order(&found, "two that are swapped");
    let refused: BTreeSet<&str> = found.reasons.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(refused, ["instanceAddressDiffers"].into());
    let passed: Vec<&str> =
        found.checks.iter().filter(|c| c.outcome == Some(CheckOutcome::Passed)).map(|c| c.code.as_str()).collect();
    assert!(passed.contains(&"votersUnknown") && passed.contains(&"publicAddress"), "{passed:?}");
    assert!(!passed.contains(&"instanceAddressDiffers"));
}

/// Of a sole voter that is down nobody else can say who leads; of every other node that is down the others do.
#[tokio::test(start_paused = true)]
async fn who_leads_is_judged_wherever_somebody_can_say() {
    let look = |voters: usize, down: usize| async move {
        let mut scene = Scene::sound();
        (scene.config.voters, scene.config.replicas, scene.request.accept_downtime) = (voters, 4 - voters, Some(true));
        scene.world = match down {
            0 => |w| w.freeze(0),
            _ => |w| w.freeze(3),
        };
        let found = scene.look().await;
        found.checks.into_iter().find(|c| c.code == "leaderNotAgreed").map(|c| c.found)
    };
    assert_eq!(look(1, 0).await, None);
    assert_eq!(look(1, 3).await.as_deref(), Some("every node names esdb-1"));
    let found = Scene::sound().look().await;
    let leader = found.plan.iter().flat_map(|p| &p.members).find(|m| m.role == Role::Leader).unwrap().node.clone();
    let names = format!("every node names {leader}");
    assert!(found.checks.iter().any(|c| c.code == "leaderNotAgreed" && c.found == names), "{:?}", found.checks);
    assert_eq!(look(3, 3).await, Some(names));
}

/// Whom all name is no member: that is no agreement, however long one waits.
#[tokio::test(start_paused = true)]
async fn a_stranger_that_leads_is_not_agreed_on() {
    let mut scene = Scene::sound();
    scene.view = |view| {
        let members = view.members.len();
        let mut view = a_newcomer(view);
        for m in view.members.iter_mut().filter(|m| m.state == NodeState::Leader).take(members) {
            m.state = NodeState::Follower;
        }
        view.members[members..].iter_mut().for_each(|m| (m.state, m.is_alive) = (NodeState::Leader, true));
        view
    };
    let found = scene.look().await;
    let refused: Vec<&str> = found.reasons.iter().map(|r| r.code.as_str()).collect();
    assert!(refused.contains(&"leaderNotAgreed"), "{refused:?} {:?}", found.missing);
}

/// The only voter is stopped as leader, and nobody is elected.
#[tokio::test(start_paused = true)]
async fn the_leader_of_one_voter_costs_no_election() {
    let mut scene = Scene::sound();
    (scene.config.voters, scene.config.replicas, scene.request.accept_downtime) = (1, 3, Some(true));
    let found = scene.look().await;
    assert_eq!(found.steps.iter().map(|s| s.elections).collect::<Vec<_>>(), [0; 4]);
}

/// A person takes another's tag for left behind on one instance, and on no other.
#[tokio::test(start_paused = true)]
async fn a_tag_is_left_behind_where_a_person_says_so() {
    let mut scene = Scene::sound();
    scene.world = |w| {
        for n in [0, 3] {
            w.facts_mut().instances[n].details.tags.insert(FENCE_TAG.into(), "another@7".into());
        }
        w.facts_mut().instances[0].stop_protected = true;
    };
    scene.waivers = vec![waiver("fence", Some("esdb-4"), None), waiver("stopProtection", None, None)];
    let plan = scene.look().await.plan.expect("a plan");
    let left: Vec<(&str, Option<&str>)> =
        plan.members.iter().map(|m| (m.node.as_str(), m.stale_fence.as_deref())).collect();
    assert_eq!(left, [("esdb-1", None), ("esdb-2", None), ("esdb-3", None), ("esdb-4", Some("another@7"))]);
}

#[tokio::test(start_paused = true)]
async fn every_key_of_a_nodes_volumes_is_named() {
    let mut scene = Scene::sound();
    scene.world = |w| {
        let first = instance(w).volumes[0].clone();
        let volume =
            |id: &str, key: Option<&str>| Volume { id: id.into(), kms_key: key.map(Into::into), ..first.clone() };
        let keys = [("vol-1", Some("key/b")), ("vol-2", Some("key/a")), ("vol-3", None), ("vol-4", Some("key/b"))];
        instance(w).volumes = keys.map(|(id, key)| volume(id, key)).to_vec();
        instance(w).volumes.iter_mut().for_each(|v| (v.iops, v.throughput) = (Some(100), None));
    };
    let found = scene.look().await;
    let [check] = objections(&found)[..] else { panic!("{:?}", objections(&found)) };
    assert_eq!(check.found, "volumes of esdb-4 are encrypted: vol-2 with key/a, vol-1 and vol-4 with key/b");
    let remedy = check.remedy.as_deref().unwrap();
    for right in ["CreateGrant", "Decrypt", "DescribeKey", "GenerateDataKeyWithoutPlaintext", "ReEncrypt*"] {
        assert!(remedy.contains(&format!("kms:{right}")), "{remedy}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_voter_that_lags_is_taken_first_and_is_no_hindrance_unless_it_is_not_to_be_done() {
    let spoil = |nodes: Option<Vec<&str>>| {
        let mut scene = Scene::sound();
        scene.request.nodes = nodes.map(|n| n.into_iter().map(Into::into).collect());
        scene.world = |w| {
            let follower = (0..3).find(|n| w.leader() != Some(*n)).unwrap();
            w.freeze(follower);
        };
        scene
    };
    let found = spoil(None).look().await;
    assert_eq!(found.reasons, vec![]);
    let down = found.warnings().find(|c| c.code == "memberDown").and_then(|c| c.node.clone()).expect("one is down");
    let others: Vec<&str> = ["esdb-1", "esdb-2", "esdb-3"].into_iter().filter(|n| *n != down.as_str()).collect();
    let found = spoil(Some(others)).look().await;
    assert_eq!(found.reasons.iter().map(|r| r.code.as_str()).collect::<Vec<_>>(), ["quorumMargin"]);
}

/// An EC2 that says something else of what bears on a stop, each time that it is asked.
struct Spoken {
    inner: Arc<dyn Fleet>,
    asked: Arc<AtomicU32>,
    /// Whether this worker runs on an instance, of which nothing tells which it is.
    from_some_instance: bool,
    looked: AtomicU32,
    /// What it says of the type that the instances have, each time that it is asked.
    of_present: fn(u32) -> Option<Result<Option<TypeInfo>, FleetError>>,
    say: fn(u32, &mut Inspection),
}

impl Spoken {
    fn new(inner: Arc<dyn Fleet>, asked: Arc<AtomicU32>) -> Self {
        let looked = AtomicU32::new(0);
        Spoken { inner, asked, from_some_instance: false, looked, of_present: |_| None, say: |_, _| {} }
    }
}

#[async_trait]
impl Fleet for Spoken {
    fn runs_on_some_instance(&self) -> bool {
        self.from_some_instance
    }
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        self.inner.describe(ids).await
    }
    async fn find(&self, w: &Wanted) -> Result<Vec<Instance>, FleetError> {
        self.inner.find(w).await
    }
    async fn type_info(&self, t: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        let said = if t.as_str() == "m6i.xlarge" { (self.of_present)(self.looked.fetch_add(1, SeqCst)) } else { None };
        match said {
            Some(said) => said,
            None => self.inner.type_info(t).await,
        }
    }
    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        let mut said = self.inner.inspect(instances).await;
        (self.say)(self.asked.fetch_add(1, SeqCst), &mut said);
        said
    }
    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.stop(id).await
    }
    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        self.inner.modify_type(id, to).await
    }
    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.start(id).await
    }
    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.inner.reboot(id).await
    }
    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.inner.tag(id, value).await
    }
    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.inner.untag(id, value).await
    }
}

/// A call that EC2 failed with this code.
fn failed(call: &str, code: &str) -> FleetError {
    let (call, code, message) = (call.to_owned(), code.to_owned(), String::new());
    FleetError { call, class: classify(&code), code, message, request_id: None }
}

/// What such a call answers.
fn error(call: &str, code: &str) -> Unanswered {
    failed(call, code).into()
}

#[tokio::test(start_paused = true)]
async fn what_ec2_leaves_unanswered_is_asked_again_and_then_unknown_and_whatever_denies_refuses() {
    fn throttled(i: &mut Inspection) {
        let error = |call: &str| error(call, "RequestLimitExceeded");
        for attributes in i.attributes.values_mut() {
            attributes.stop_protected = Err(error("DescribeInstanceAttribute"));
        }
        i.events = Some(Err(error("DescribeInstanceStatus")));
        i.volumes = Some(Err(error("DescribeVolumes")));
        i.rights.insert(Verb::Stop, error("StopInstances").into());
    }
    type Say = fn(u32, &mut Inspection);
    let table: [(Say, &[&str], &str); 4] = [
        (
            |n, i| {
                if n == 0 {
                    throttled(i)
                }
            },
            &[],
            "completed",
        ),
        (
            |_, i| throttled(i),
            &["stopProtection", "scheduledEvent", "encryptedVolumes", "ebsIopsShrink", "stopDenied"],
            "completed",
        ),
        (
            |_, i| _ = i.rights.insert(Verb::Stop, error("StopInstances", "AccessDenied").into()),
            &["stopDenied"],
            "rejected",
        ),
        (
            |_, i| _ = i.rights.insert(Verb::Start, error("StartInstances", "ExpiredToken").into()),
            &["startDenied"],
            "rejected",
        ),
    ];
    for (say, objects, end) in table {
        let rig = Rig::new(sound());
        let asked = Arc::new(AtomicU32::new(0));
        let spoken = Arc::new(Spoken { say, ..Spoken::new(rig.fleet.clone(), asked.clone()) });
        let rig = Rig { fleet: spoken, ..rig.share() };
        let (history, state) = rig.run(request("r6i.large"), Duration::from_secs(3600)).await;
        let codes = |codes: Vec<&str>| codes.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        let found = match state.end {
            Some(End::Completed(_)) if end == "completed" => {
                let plan = state.plan.as_ref().unwrap();
                let objects =
                    |c: &&PlannedCheck| c.outcome != Some(CheckOutcome::Passed) && c.severity != Some(Severity::Info);
                assert!(plan.checks.iter().filter(objects).all(|c| c.outcome == Some(CheckOutcome::Unknown)));
                codes(plan.checks.iter().filter(objects).map(|c| c.code.as_str()).collect())
            }
            Some(End::Rejected(ref e)) if end == "rejected" => {
                codes(e.reasons.iter().map(|r| r.code.as_str()).collect())
            }
            _ => panic!("{}", lines(&history)),
        };
        assert_eq!(found, codes(objects.to_vec()));
        let again = asked.load(SeqCst);
        assert!(
            if objects.len() > 1 { again > 10 } else { again == if end == "completed" { 2 } else { 1 } },
            "{again}"
        );
    }
}

fn waiver(check: &str, node: Option<&str>, until: Option<&str>) -> Waiver {
    let until = until.map(|t| t.parse().unwrap());
    let (by, why) = (Some("ada".into()), Some("seen, and accepted".into()));
    Waiver { revision: Revision(1), check: check.into(), node: node.map(Into::into), until, by, why }
}

#[tokio::test(start_paused = true)]
async fn a_waiver_holds_for_its_check_its_node_and_its_time() {
    let table = [
        (waiver("stopProtection", None, None), true),
        (waiver("stopProtection", Some("esdb-4"), None), true),
        (waiver("stopProtection", Some("esdb-4"), Some("2026-01-02T00:00:00Z")), true),
        (waiver("stopProtection", Some("esdb-3"), None), false),
        (waiver("stopProtection", None, Some("2025-12-31T00:00:00Z")), false),
        (waiver("spotInstance", None, None), false),
    ];
    let mut digests = BTreeSet::new();
    for (waiver, holds) in table {
        let mut scene = Scene::sound();
        scene.world = |w| instance(w).stop_protected = true;
        scene.waivers = vec![waiver.clone()];
        let found = scene.look().await;
        assert_eq!(found.reasons.is_empty(), holds, "{waiver:?}");
        let check = found.checks.iter().find(|c| c.code == "stopProtection").unwrap();
        assert_eq!(check.waived_by.as_deref(), holds.then_some("ada"), "{waiver:?}");
        assert_eq!(check.until, if holds { waiver.until } else { None });
        digests.insert(found.plan.unwrap().digest);
    }
    assert_eq!(digests.len(), 1, "a waiver changes nothing of what was found");
    // Whatever stands in a stream: what protects the cluster is not waived.
    let mut scene = Scene::sound();
    scene.handle = |h| h.voters = Some(Voters(5));
    scene.waivers = vec![waiver("votersDiffer", None, None)];
    assert_eq!(scene.look().await.reasons[0].code, "votersDiffer");
}

fn waived(check: &str, answers: u64, why: Option<&str>) -> Event {
    let why = why.map(Into::into);
    CheckWaived {
        answers: Revision(answers),
        check: Some(check.into()),
        node: None,
        until: None,
        by: Some("ada".into()),
        why,
    }
    .into()
}

fn refusals(history: &[Recorded]) -> Vec<(u64, String)> {
    let refused = |r: &Recorded| match &r.body {
        Body::Event(e) => match &**e {
            Event::CommandRefused(c) => Some((c.command.revision.0, c.reasons[0].code.clone())),
            _ => None,
        },
        _ => None,
    };
    history.iter().filter_map(refused).collect()
}

#[tokio::test(start_paused = true)]
async fn a_worker_takes_the_waivers_that_come_before_its_plan_and_answers_the_others() {
    let rig = Rig::new(sound());
    rig.world.with(|w| instance(w).events = vec![event("2026-01-01T20:00:00Z", "")]);
    rig.append(request("r6i.large").into(), 1).await;
    let commands = [
        waived("scheduledEvent", 0, Some("a stop is what it asks for")),
        waived("votersDiffer", 0, Some("x")),
        waived("noSuchCheck", 0, Some("x")),
        waived("stopProtection", 7, Some("x")),
        waived("stopProtection", 0, None),
    ];
    for (n, command) in commands.into_iter().enumerate() {
        rig.append(command, 10 + n as u128).await;
    }
    let (worker, _stop) = rig.spawn(0);
    rig.until("UpdatePlanned", 1).await;
    rig.append(waived("burstableType", 0, Some("late")), 20).await;
    let (history, state) = rig.ended(Duration::from_secs(3600)).await;
    worker.abort();
    assert!(matches!(state.end, Some(End::Completed(_))), "{}", lines(&history));
    let mut refused = refusals(&history);
    let late = refused.pop().unwrap();
    let expected = [(2, "notWaivable"), (3, "unknownCheck"), (4, "notSupported"), (5, "whyMissing")];
    assert_eq!(refused, expected.map(|(r, c)| (r, c.to_owned())));
    assert_eq!(late.1, "planned");
    assert!(state.unanswered.is_empty());
    let plan = state.plan.unwrap();
    let check = plan.checks.iter().find(|c| c.code == "scheduledEvent" && c.waived_by.is_some()).expect("waived");
    assert_eq!((check.severity, check.why.as_deref()), (Some(Refuse), Some("a stop is what it asks for")));
    assert!(plan.checks.iter().any(|c| c.code == "ownMachine" && c.outcome == Some(CheckOutcome::Passed)));
    assert!(serde_json::to_string(&plan).unwrap().len() < 30_000, "a plan is a small event");

    // The next update of the cluster knows how long a node is out of service.
    let next = Rig { update: UpdateId(Uuid::from_u128(77)), ..rig.share() };
    let (history, state) = next.run_as(1, request("m6i.xlarge"), Duration::from_secs(3600)).await;
    let End::Rejected(end) = state.end.unwrap() else { panic!("{}", lines(&history)) };
    assert_eq!(end.reasons[0].code, "scheduledEvent", "no waiver outlives its update");
}

#[tokio::test(start_paused = true)]
async fn other_work_is_another_plan() {
    let requests = [
        serde_json::json!({ "cluster": "prod", "targetInstanceType": "m6i.xlarge" }),
        serde_json::json!({ "cluster": "prod", "strategy": "Ec2InstanceRestart" }),
        serde_json::json!({ "cluster": "prod", "targetInstanceType": "r6i.large" }),
        serde_json::json!({ "cluster": "prod", "targetInstanceType": "r6i.large", "fallbackTypes": ["m6id.xlarge"] }),
    ];
    let mut digests = BTreeSet::new();
    for request in requests.clone() {
        let scene = Scene { request: serde_json::from_value(request).unwrap(), ..Scene::sound() };
        digests.insert(scene.look().await.plan.unwrap().digest);
    }
    assert_eq!(digests.len(), requests.len());
}

#[tokio::test(start_paused = true)]
async fn the_past_foretells_and_the_digest_holds_until_something_changes() {
    let rig = Rig::new(sound());
    let handle = rig.worker(1).clusters.values().next().unwrap().clone();
    let look = |request: UpdateRequested| {
        let (handle, rig) = (handle.clone(), rig.share());
        async move { preview(&handle, &*rig.log, &rig.clock, &request, &[]).await.assessment }
    };
    let exposure = |checks: &[PlannedCheck]| checks.iter().find(|c| c.code == "exposure").unwrap().outcome;
    assert_eq!(exposure(&look(request("m6i.xlarge")).await.checks), Some(CheckOutcome::Unknown), "nothing is past");
    let (_, state) = rig.run(request("r6i.large"), Duration::from_secs(3600)).await;
    assert!(matches!(state.end, Some(End::Completed(_))));
    let found = look(request("m6i.xlarge")).await;
    assert_eq!(exposure(&found.checks), Some(CheckOutcome::Passed), "{:?}", found.checks);
    for step in &found.steps {
        let phases = &state.phases[&step.node];
        let was = phases.stop + phases.modify + phases.start + phases.rejoin + phases.catch_up;
        assert!((step.out_of_service.unwrap() - was).abs() < 0.01, "{step:?}");
        assert!(was > 7.0, "the world takes 7 s to stop and start");
    }

    let digest = found.plan.unwrap().digest;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let mut wanted = request("m6i.xlarge");
    wanted.plan_digest = Some(digest.clone());
    assert_eq!(look(wanted.clone()).await.reasons, vec![], "lag and time are not in it");
    rig.world.with(|w| of_instance(w).placement_group = Some("near".into()));
    let found = look(wanted.clone()).await;
    assert_eq!(found.reasons[0].code, "planDigestDiffers");
    assert!(found.reasons[0].found.contains(&digest));

    // A worker refuses it as well.
    let next = Rig { update: UpdateId(Uuid::from_u128(78)), ..rig.share() };
    let (_, state) = next.run_as(2, wanted, Duration::from_secs(600)).await;
    let Some(End::Rejected(end)) = state.end else { panic!("{:?}", state.end) };
    assert_eq!(end.reasons[0].code, "planDigestDiffers");
}
