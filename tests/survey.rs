//! What refuses an update before anything is touched: instances that cannot be told apart, and an EC2 that says no.

mod rig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::cluster::{ReplicaSubscription, View};
use esdb_rollout::domain::ids::{Address, InstanceId, InstanceType};
use esdb_rollout::domain::inspection::Inspection;
use esdb_rollout::domain::instance::{Instance, TypeInfo};
use esdb_rollout::ports::{CallClass, ClusterAdmin, Done, Fleet, FleetError, NodeError, Wanted};
use esdb_rollout::sim::model::WorldConfig;
use esdb_rollout::update::state::End;
use esdb_rollout::worker::{ClusterHandle, NodeMapping, StartPoint, Stop, preview, survey};
use rig::{Rig, lines, quick_world, request};

/// An EC2 that differs from the world's in what it finds.
struct Odd {
    inner: Arc<dyn Fleet>,
    find: fn(Vec<Instance>) -> Result<Vec<Instance>, FleetError>,
}

#[async_trait]
impl Fleet for Odd {
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        self.inner.describe(ids).await
    }
    async fn find(&self, w: &Wanted) -> Result<Vec<Instance>, FleetError> {
        (self.find)(self.inner.find(w).await?)
    }
    async fn type_info(&self, t: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        self.inner.type_info(t).await
    }
    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        self.inner.inspect(instances).await
    }
    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        panic!("{id} is stopped")
    }
    async fn modify_type(&self, id: &InstanceId, _: &InstanceType) -> Result<Done, FleetError> {
        panic!("{id} is modified")
    }
    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        panic!("{id} is started")
    }
    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        panic!("{id} is rebooted")
    }
    async fn tag(&self, id: &InstanceId, _: &str) -> Result<Done, FleetError> {
        panic!("{id} is tagged")
    }
    async fn untag(&self, id: &InstanceId, _: &str) -> Result<Done, FleetError> {
        panic!("{id} is untagged")
    }
}

fn a_twin(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    found.extend(found.first().cloned().map(|i| Instance { id: InstanceId::from("i-0000000000000f00d"), ..i }));
    Ok(found)
}

/// An instance of another network, which has the address of the first as a secondary one.
fn an_overlap(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    found.extend(found.first().cloned().map(|mut i| {
        i.id = InstanceId::from("i-0000000000000f00d");
        i.details.addresses = i.private_ip.into_iter().collect();
        Instance { private_ip: Some([172, 16, 0, 9].into()), name_tag: None, private_dns: None, ..i }
    }));
    Ok(found)
}

/// Other machines than the nodes', called as the nodes are.
fn namesakes(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    for i in &mut found {
        i.name_tag = i.private_ip.map(|ip| ip.to_string());
        elsewhere(i);
        i.details.addresses.clear();
    }
    Ok(found)
}

/// Gives an instance another primary address; the one it had stays, as a secondary one.
fn elsewhere(i: &mut Instance) {
    i.details.addresses = i.private_ip.into_iter().collect();
    i.private_ip = Some([172, 16, 0, u8::try_from(i.id.as_str().len()).unwrap()].into());
}

fn a_missing_one(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    found.pop();
    Ok(found)
}

fn a_spot_instance(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    found.iter_mut().for_each(|i| i.lifecycle = Some("spot".into()));
    Ok(found)
}

fn another_architecture(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    found.iter_mut().for_each(|i| i.architecture = Some("arm64".into()));
    Ok(found)
}

fn no_credentials(_: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    let call = "DescribeInstances".to_owned();
    Err(FleetError {
        call,
        class: CallClass::Denied,
        code: "NoCredentials".into(),
        message: "none found".into(),
        request_id: None,
    })
}

fn no_answer(_: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
    let call = "DescribeInstances".to_owned();
    Err(FleetError {
        call,
        class: CallClass::Unknown,
        code: "Timeout".into(),
        message: "10 s".into(),
        request_id: None,
    })
}

type Found = fn(Vec<Instance>) -> Result<Vec<Instance>, FleetError>;

#[tokio::test(start_paused = true)]
async fn what_is_not_exactly_one_sound_instance_a_node_refuses_the_update() {
    let table: [(Found, &str); 8] = [
        (a_twin, "severalInstances"),
        (an_overlap, "severalInstances"),
        (namesakes, "noInstance"),
        (a_missing_one, "noInstance"),
        (a_spot_instance, "spotInstance"),
        (another_architecture, "architectureDiffers"),
        (no_credentials, "ec2Denied"),
        (no_answer, "clusterNotObservable"),
    ];
    for (find, code) in table {
        let rig = Rig::new(quick_world(31));
        let odd = Rig { fleet: Arc::new(Odd { inner: rig.fleet.clone(), find }), ..rig.share() };
        odd.append(request("m6i.xlarge").into(), 1).await;
        let (worker, _stop) = odd.spawn(0);
        let (history, state) = odd.ended(Duration::from_secs(600)).await;
        let Some(End::Rejected(end)) = state.end else { panic!("{code}: {}", lines(&history)) };
        assert!(end.reasons.iter().any(|r| r.code == code && !r.remedy.is_empty()), "{code}: {:?}", end.reasons);
        worker.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn any_private_address_tells_the_instance_and_a_name_does_where_no_address_can() {
    fn by_secondary(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
        found.iter_mut().for_each(elsewhere);
        Ok(found)
    }
    fn by_public_name(mut found: Vec<Instance>) -> Result<Vec<Instance>, FleetError> {
        for i in &mut found {
            (i.name_tag, i.details.public_ip) = (i.private_ip.map(|ip| ip.to_string()), i.private_ip);
            elsewhere(i);
            i.details.addresses.clear();
        }
        Ok(found)
    }
    for find in [by_secondary as Found, by_public_name] {
        let rig = Rig::new(quick_world(33));
        let mut handle = rig.worker(0).clusters.values().next().unwrap().clone();
        handle.fleet = Arc::new(Odd { inner: rig.fleet.clone(), find });
        let found = preview(&handle, &*rig.log, &rig.clock, &request("m6i.xlarge"), &[]).await;
        assert_eq!(found.survey.reasons, vec![]);
        for member in found.survey.members.values() {
            let ip = member.address.host.parse().unwrap();
            let instance = rig.fleet.find(&Wanted::PrivateIps(vec![ip])).await.unwrap();
            assert_eq!(instance.iter().map(|i| &i.id).collect::<Vec<_>>(), [&member.instance.id]);
        }
    }
}

type Configured = fn(&mut ClusterHandle);

/// Node `n` of the configuration, with the instance of node `of`.
fn mapping(h: &ClusterHandle, n: usize, of: usize) -> NodeMapping {
    let instance = InstanceId(format!("i-{:017x}", 10 + of));
    NodeMapping { instance, address: Some(h.seeds[n].clone()), address_translated: false }
}

#[tokio::test(start_paused = true)]
async fn what_the_configuration_says_refuses_too() {
    let one_for_two = |h: &mut ClusterHandle| {
        h.nodes = [("a".into(), mapping(h, 0, 0)), ("b".into(), mapping(h, 1, 0))].into();
    };
    let nobody_says = |h: &mut ClusterHandle| {
        h.voters = None;
        h.admin = Arc::new(Mute(h.admin.clone()));
    };
    let swapped = |h: &mut ClusterHandle| {
        h.nodes = [("a".into(), mapping(h, 0, 1)), ("b".into(), mapping(h, 1, 0))].into();
    };
    let bounded = |h: &mut ClusterHandle| h.policy.allowed_types = vec!["r6i.*".into()];
    let table: [(Configured, &str); 4] = [
        (one_for_two, "oneInstanceTwoNodes"),
        (swapped, "instanceAddressDiffers"),
        (nobody_says, "votersUnknown"),
        (bounded, "typeNotAllowed"),
    ];
    for (spoil, code) in table {
        let rig = Rig::new(quick_world(32));
        let mut worker = rig.worker(0);
        let mut handle = worker.clusters.values().next().unwrap().clone();
        spoil(&mut handle);
        worker.clusters = Arc::new([("prod".into(), handle)].into());
        rig.append(request("m6i.xlarge").into(), 1).await;
        let (_stop, stopped) = tokio::sync::watch::channel(Stop::No);
        let worker = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
        let (history, state) = rig.ended(Duration::from_secs(600)).await;
        let Some(End::Rejected(end)) = state.end else { panic!("{code}: {}", lines(&history)) };
        let codes: BTreeSet<&str> = end.reasons.iter().map(|r| r.code.as_str()).collect();
        assert_eq!(codes, [code].into(), "{:?}", end.reasons);
        worker.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_configured_instance_is_believed_where_no_address_can_speak_against_it() {
    // Addresses of the nodes, whether they are translated, and what speaks against each of two instances that are swapped.
    let table: [(&str, bool, &[&str]); 3] = [
        ("10.0.1.", false, &["10.0.1.1:2113 is at 10.0.1.1", "10.0.1.2:2113 is at 10.0.1.2"]),
        ("10.0.1.", true, &[]),
        ("127.0.0.", false, &[]),
    ];
    for (net, address_translated, against) in table {
        let addresses = (1..=4).map(|n| Address::new(format!("{net}{n}"), 2113)).collect();
        let rig = Rig::new(WorldConfig { addresses, ..quick_world(34) });
        let mut handle = rig.worker(0).clusters.values().next().unwrap().clone();
        let node = |n: usize, of: usize| NodeMapping { address_translated, ..mapping(&handle, n, of) };
        handle.nodes = [("a".into(), node(0, 1)), ("b".into(), node(1, 0))].into();
        let found = survey(&handle, None).await;
        assert_eq!(found.reasons.len(), against.len(), "{:?}", found.reasons);
        for (reason, found) in found.reasons.iter().zip(against) {
            assert!(reason.code == "instanceAddressDiffers" && reason.found.contains(found), "{reason:?}");
        }
        let named = [("a", "i-0000000000000000b"), ("b", "i-0000000000000000a")];
        for (name, instance) in named.into_iter().filter(|_| against.is_empty()) {
            assert_eq!(found.members[&name.into()].instance.id.as_str(), instance);
        }
    }
}

/// Nodes that do not say how many they are.
struct Mute(Arc<dyn ClusterAdmin>);

#[async_trait]
impl ClusterAdmin for Mute {
    async fn gossip(&self, n: &Address) -> Result<View, NodeError> {
        self.0.gossip(n).await
    }
    async fn live(&self, n: &Address) -> Result<bool, NodeError> {
        self.0.live(n).await
    }
    async fn cluster_size(&self, _: &Address) -> Result<Option<u32>, NodeError> {
        Ok(None)
    }
    async fn replication(&self, n: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        self.0.replication(n).await
    }
    async fn scavenge(&self, n: &Address) -> Result<Option<String>, NodeError> {
        self.0.scavenge(n).await
    }
    async fn set_priority(&self, n: &Address, _: i32) -> Result<(), NodeError> {
        panic!("{n} is told something")
    }
    async fn resign(&self, n: &Address) -> Result<(), NodeError> {
        panic!("{n} is told something")
    }
    async fn resolve(&self, h: &str) -> Result<Vec<std::net::IpAddr>, NodeError> {
        self.0.resolve(h).await
    }
}
