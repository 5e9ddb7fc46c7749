//! Looks at a cluster as a worker would before it admits and plans an update, and does nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::observer::{Cadence, Observer, Sight};
use super::store::read_all;
use super::supersede::{Standing, standing};
use super::{ClusterHandle, survey};
use crate::codec::Admissions;
use crate::domain::ids::{Address, Incarnation, NodeName, Revision, UpdateId};
use crate::domain::watch::ClusterWatch;
use crate::ports::{Clock, EventLog, ReadError};
use crate::update::event::{Reason, UpdateRequested};
use crate::update::limits::SURVEY_TIMEOUT;
use crate::update::observed::{Observed, StoreSeen, Survey};
use crate::update::plan::{Assessment, Waiver, assess, check_request};

/// Rest between two surveys.
const SURVEY_EVERY: Duration = Duration::from_secs(2);

/// Rest between two looks at what has been seen.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The update of a request that has not been made.
const NOBODY: UpdateId = UpdateId(uuid::Uuid::nil());

/// What came of looking: what a worker would find, and the survey it rests on.
#[derive(Clone, Debug)]
pub struct Preview {
    /// What speaks against the request itself, and against its turn among the updates of its cluster.
    pub refused: Vec<Reason>,
    /// What was found.
    pub assessment: Assessment,
    /// What it rests on.
    pub survey: Survey,
}

/// Looks until everything has been seen, or for as long as a worker would before it gives up.
pub async fn preview(
    cluster: &ClusterHandle,
    log: &dyn EventLog,
    clock: &std::sync::Arc<dyn Clock>,
    request: &UpdateRequested,
    waivers: &[Waiver],
) -> Preview {
    let (refused, ahead) = place(cluster, log, &**clock, request).await;
    let since = clock.now();
    let mut seen: Option<Survey> = None;
    let mut surveyed_at = since;
    let mut watch = ClusterWatch::default();
    let mut eyes: Option<Observer> = None;
    loop {
        let due = seen.as_ref().is_none_or(|s| s.is_worth_another() && clock.now().since(surveyed_at) >= SURVEY_EVERY);
        let survey = match seen.take() {
            Some(survey) if !due => survey,
            before => {
                let found = survey(cluster, Some((request, log))).await.or_before(before);
                surveyed_at = clock.now();
                if let Some((fresh, opened)) = open(cluster, clock, &found, &watch) {
                    watch = fresh;
                    eyes = Some(opened);
                }
                found
            }
        };
        while let Some(sight) = eyes.as_mut().and_then(|eyes| eyes.sights.try_recv().ok()) {
            absorb(&mut watch, sight);
        }
        let now = clock.now();
        let (instances, store) = (BTreeMap::new(), StoreSeen::default());
        let observed = Observed {
            // Nobody's: nothing is held, and nothing is done.
            me: Incarnation(uuid::Uuid::nil()),
            // By the time that it begins, what is ahead of it has ended and taken its tag away.
            update: ahead.unwrap_or(NOBODY),
            watch: &watch,
            instances: &instances,
            fleet_trouble: None,
            intent: None,
            ticket_called: None,
            ticket_type: None,
            appends_fail_since: None,
            store: &store,
            survey: Some(&survey),
            policy: &cluster.policy,
            own_instance: None,
            took_over_at: None,
            ticket_spent: false,
            ticket_in_vain: false,
            wall: clock.wall(),
        };
        let assessment = assess(request, &survey, waivers, &observed, since, now);
        if assessment.missing.is_empty() || !survey.reasons.is_empty() || now.since(since) > SURVEY_TIMEOUT {
            return Preview { refused, assessment, survey };
        }
        seen = Some(survey);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What speaks against a request before the cluster is looked at, and the update that ends before it begins.
async fn place(
    cluster: &ClusterHandle,
    log: &dyn EventLog,
    clock: &dyn Clock,
    request: &UpdateRequested,
) -> (Vec<Reason>, Option<UpdateId>) {
    let allowed = &cluster.policy.allowed_types;
    let mut refused = check_request(request, allowed);
    let found = async {
        let admissions = read_all(log, &request.cluster.admission_stream(), Revision(0)).await?;
        standing(log, clock, NOBODY, request, allowed, &Admissions::fold(&admissions)).await
    };
    let ahead = match found.await {
        Ok(Standing::Free | Standing::Ended(_)) => None,
        Ok(Standing::Refused(reasons)) => {
            refused.extend(reasons.into_iter().filter(|r| !refused.contains(r)).collect::<Vec<_>>());
            None
        }
        Ok(Standing::Claimed(before)) => Some(before),
        Ok(Standing::MayClaim { active, .. }) => active,
        Err(error) => {
            refused.push(not_read(&error));
            None
        }
    };
    (refused, ahead)
}

fn not_read(error: &ReadError) -> Reason {
    Reason {
        code: "storeNotRead".into(),
        found: error.to_string(),
        wanted: "the updates of the cluster: a worker admits nothing while the store does not tell them".into(),
        remedy: "check the connection string, the network, that the store has a leader, and the user's rights, and ask again"
            .into(),
    }
}

/// Opens the eyes on the members found, if they are others than before.
fn open(
    cluster: &ClusterHandle,
    clock: &std::sync::Arc<dyn Clock>,
    survey: &Survey,
    watch: &ClusterWatch,
) -> Option<(ClusterWatch, Observer)> {
    let nodes: BTreeMap<NodeName, Address> =
        survey.members.iter().map(|(n, m)| (n.clone(), m.address.clone())).collect();
    if nodes.is_empty() || watch.nodes().map(|(n, _)| n).eq(nodes.keys()) {
        return None;
    }
    let fresh = ClusterWatch::new(nodes.keys().cloned());
    let instances = survey.members.values().map(|m| m.instance.id.clone()).collect();
    let eyes = Observer::new(nodes, instances, cluster.admin.clone(), cluster.fleet.clone(), clock.clone());
    eyes.set_cadence(Cadence::BUSY);
    Some((fresh, eyes))
}

fn absorb(watch: &mut ClusterWatch, sight: Sight) {
    match sight {
        Sight::Node(node, at, answer) => watch.absorb(&node, at, answer),
        Sight::Replication(at, subscriptions) => watch.absorb_replication(at, &subscriptions),
        // The survey has described them.
        Sight::Instances(..) => {}
    }
}
