//! What a plan is judged by beside members and instances: asked once, when it is known who they are.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ClusterHandle;
use super::store::{read_all, read_update};
use crate::codec::Admissions;
use crate::domain::ids::{ClusterName, InstanceId, InstanceType, NodeName, Revision};
use crate::domain::inspection::{Asked, Unanswered};
use crate::domain::instance::Instance;
use crate::domain::time::Moment;
use crate::ports::EventLog;
use crate::update::event::UpdateRequested;
use crate::update::observed::{PastChange, Survey, SurveyedMember};
use crate::update::plan::to_be_done;
use crate::update::state::fold;

/// Past updates that a prediction is made from: machines and load change, and a plan should not wait for long reads.
const PAST_UPDATES: usize = 3;

/// Streams of past updates that are read at most.
const PAST_READS: usize = 8;

/// Time for the past; a plan does without.
const PAST_TIME: Duration = Duration::from_secs(10);

/// Asks all that can be asked of EC2, the nodes and the store without changing anything.
pub(super) async fn inspect(
    cluster: &ClusterHandle,
    request: &UpdateRequested,
    log: &dyn EventLog,
    survey: &mut Survey,
) {
    let mut present: Vec<InstanceType> = survey.members.values().map(|m| m.instance.instance_type.clone()).collect();
    present.sort();
    present.dedup();
    for t in present.into_iter().filter(|t| !survey.types.contains_key(t)) {
        let described = cluster.fleet.type_info(&t).await.map_err(Unanswered::from);
        survey.present_types.insert(t, described);
    }
    let of_member =
        |(name, m): (&NodeName, &SurveyedMember)| (m.instance.id.clone(), started_with(request, name, &m.instance));
    let instances: BTreeMap<InstanceId, Vec<InstanceType>> = survey.members.iter().map(of_member).collect();
    survey.inspection = cluster.fleet.inspect(&instances).await;
    let mut scavenges = BTreeMap::new();
    for (name, member) in &survey.members {
        let said = cluster.admin.scavenge(&member.address).await;
        scavenges.insert(name.clone(), said.map_err(|error| error.to_string()));
    }
    survey.scavenges = scavenges;
    survey.past = match tokio::time::timeout(PAST_TIME, past(&request.cluster, log)).await {
        Ok(past) => past,
        Err(_) => Err(format!("past updates could not be read within {} s", PAST_TIME.as_secs())),
    };
}

/// The types that an instance may be started with; its own, with which it goes back, among them. None where nothing is done to it.
fn started_with(request: &UpdateRequested, node: &NodeName, instance: &Instance) -> Vec<InstanceType> {
    if !to_be_done(request, node, instance) {
        return Vec::new();
    }
    request.strategy.change(request, node, instance, &instance.instance_type).return_types
}

/// How long each node was out of service in the last updates of the cluster.
async fn past(cluster: &ClusterName, log: &dyn EventLog) -> Asked<Vec<PastChange>> {
    let admissions = read_all(log, &cluster.admission_stream(), Revision(0)).await.map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    let mut updates = 0;
    for update in Admissions::fold(&admissions).ever.iter().rev().take(PAST_READS) {
        let history = read_update(log, *update, Revision(0), Moment::default()).await.map_err(|e| e.to_string())?;
        let state = fold(&history);
        let changes = state.phases.iter().filter(|(_, p)| p.stop > 0.0);
        let before = found.len();
        found.extend(changes.map(|(node, p)| PastChange {
            node: node.clone(),
            out_of_service: p.stop + p.modify + p.start + p.rejoin + p.catch_up,
        }));
        updates += usize::from(found.len() > before);
        if updates == PAST_UPDATES {
            break;
        }
    }
    Ok(found)
}
