//! Finds the expected members of a cluster and the one instance of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ClusterHandle;
use super::inspect::inspect;
use super::own_machine::is_own_machine;
use crate::domain::cluster::NodeState;
use crate::domain::ids::{Address, InstanceId, NodeName};
use crate::domain::inspection::Inspection;
use crate::domain::instance::Instance;
use crate::domain::quorum::Voters;
use crate::ports::{CallClass, EventLog, FleetError, NodeError, Wanted};
use crate::update::event::{Reason, UpdateRequested};
use crate::update::observed::{Survey, SurveyedMember};

/// Surveys a cluster. Whatever did not answer is named in `missing`, and worth another survey; `reasons` are final.
/// With a request, and the store that holds the cluster's past updates, all that the request's plan is judged by is asked as well.
pub async fn survey(cluster: &ClusterHandle, asked: Option<(&UpdateRequested, &dyn EventLog)>) -> Survey {
    let mut survey = Survey {
        voters: cluster.voters,
        members: BTreeMap::new(),
        types: BTreeMap::new(),
        present_types: BTreeMap::new(),
        inspection: Inspection::default(),
        scavenges: BTreeMap::new(),
        past: Err("past updates were not asked for".into()),
        absent: Vec::new(),
        reasons: Vec::new(),
        missing: Vec::new(),
    };
    let (addresses, silent) = addresses(cluster, &mut survey).await;
    if addresses.is_empty() {
        return survey;
    }
    let members = resolve(cluster, addresses).await;
    if let Err(error) = match_instances(cluster, &members, &mut survey).await {
        fleet_failed(error, &mut survey);
        return survey;
    }
    survey.absent = absent(cluster, &members, silent, &survey.members).await;
    if let Some((request, log)) = asked {
        for t in request.target_instance_type.iter().chain(request.fallback_types.iter().flatten()) {
            match cluster.fleet.type_info(t).await {
                Ok(info) => {
                    survey.types.insert(t.clone(), info);
                }
                Err(error) => fleet_failed(error, &mut survey),
            }
        }
        // What is refused or must be looked at again anyway needs no more questions.
        if survey.reasons.is_empty() && survey.missing.is_empty() {
            inspect(cluster, request, log, &mut survey).await;
        }
    }
    survey
}

/// Rights and credentials do not come by waiting; anything else may.
fn fleet_failed(error: FleetError, survey: &mut Survey) {
    if matches!(error.class, CallClass::Denied | CallClass::Unauthenticated) {
        survey.reasons.push(Reason {
            code: "ec2Denied".into(),
            found: error.to_string(),
            wanted: "credentials that may describe, stop, modify and start the cluster's instances".into(),
            remedy: "give the worker a profile, a role or environment credentials for this cluster, and ask again"
                .into(),
        });
    } else {
        survey.missing.push(error.to_string());
    }
}

/// Addresses of all members that any seed knows, and the seeds that do not answer; and the number of voters where it is not configured.
async fn addresses<'a>(
    cluster: &'a ClusterHandle,
    survey: &mut Survey,
) -> (BTreeSet<Address>, BTreeMap<&'a Address, NodeError>) {
    let mut found = BTreeSet::new();
    let mut silent = BTreeMap::new();
    let mut untrusted: BTreeMap<Address, String> = BTreeMap::new();
    for seed in &cluster.seeds {
        match cluster.admin.gossip(seed).await {
            Ok(view) => {
                found.extend(view.members.iter().filter(|m| m.state != NodeState::Manager).map(|m| m.address.clone()))
            }
            Err(error) => {
                if let NodeError::Tls { .. } = error {
                    untrusted.insert(seed.clone(), error.to_string());
                }
                silent.insert(seed, error);
            }
        }
    }
    if !found.is_empty() {
        // A seed may be another name of a member, which its certificate need not hold; a member is called by its own.
        for member in found.iter().filter(|m| !cluster.seeds.contains(m)) {
            if let Err(error @ NodeError::Tls { .. }) = cluster.admin.gossip(member).await {
                untrusted.insert(member.clone(), error.to_string());
            }
        }
        untrusted.retain(|node, _| found.contains(node));
    }
    if !untrusted.is_empty() {
        survey.reasons.push(Reason {
            code: "nodeNotTrusted".into(),
            found: untrusted.into_values().collect::<Vec<_>>().join(", "),
            wanted: "TLS on every node, with a certificate of the configured CA for the address by which the node is called".into(),
            remedy: "correct `ca_file` of the cluster in the worker's configuration, or the nodes' certificates, and ask again".into(),
        });
        return (BTreeSet::new(), silent);
    }
    if found.is_empty() {
        let why: Vec<String> = silent.values().map(NodeError::to_string).collect();
        survey.missing.push(format!("no seed answers: {}", why.join(", ")));
        return (found, silent);
    }
    let mut sizes = BTreeSet::new();
    for address in found.iter().filter(|_| cluster.voters.is_none()) {
        if let Ok(Some(size)) = cluster.admin.cluster_size(address).await {
            sizes.insert(size);
        }
    }
    match (cluster.voters, sizes.len(), sizes.first()) {
        (Some(_), ..) => {}
        (None, 1, Some(size)) => survey.voters = Some(Voters(*size)),
        (None, 0, _) | (None, _, None) => survey.reasons.push(Reason {
            code: "votersUnknown".into(),
            found: "no node says its ClusterSize (it needs an admin or ops user)".into(),
            wanted: "the number of voting nodes".into(),
            remedy: "set `voters` of the cluster in the worker's configuration".into(),
        }),
        (None, _, Some(_)) => survey.reasons.push(Reason {
            code: "votersDiffer".into(),
            found: format!("nodes say different ClusterSizes: {sizes:?}"),
            wanted: "the same on every node".into(),
            remedy: "correct the nodes' configuration".into(),
        }),
    }
    check_user(cluster, &found, survey).await;
    (found, silent)
}

/// Addresses of members, and what each resolves to, seen from here.
type Resolved = BTreeMap<Address, Vec<IpAddr>>;

async fn resolve(cluster: &ClusterHandle, addresses: BTreeSet<Address>) -> Resolved {
    let mut ips = Resolved::new();
    for address in addresses {
        // A name that does not resolve from here may still be an instance's private DNS name, or its tag.
        let resolved = cluster.admin.resolve(&address.host).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "not resolved");
            Vec::new()
        });
        ips.insert(address, resolved);
    }
    ips
}

/// What the configuration names and no member knows. Gossip forgets who is down after half an hour, and with each restart of the others
/// (`DeadMemberRemovalPeriodSec` of the server): a node that is down may be left out of the update by nothing but that.
async fn absent(
    cluster: &ClusterHandle,
    members: &Resolved,
    silent: BTreeMap<&Address, NodeError>,
    surveyed: &BTreeMap<NodeName, SurveyedMember>,
) -> Vec<String> {
    let mut absent = Vec::new();
    for (seed, error) in silent.into_iter().filter(|(seed, _)| !members.contains_key(seed)) {
        // A seed may be another name of a member; one that does not resolve is none that we could know of.
        let own = cluster.admin.resolve(&seed.host).await.unwrap_or_default();
        if !members.iter().any(|(member, ips)| member.port == seed.port && ips.iter().any(|ip| own.contains(ip))) {
            absent.push(format!("no member knows {seed}, a seed, which does not answer: {error}"));
        }
    }
    for (name, node) in &cluster.nodes {
        let is_member = match &node.address {
            Some(address) => members.contains_key(address),
            None => surveyed.values().any(|member| member.instance.id == node.instance),
        };
        if !is_member {
            absent.push(format!("no member is {name}, on {}", node.instance));
        }
    }
    absent
}

/// Whether the user may tell nodes anything, before the first is touched: the leader, which alone is told something, comes last. What only an
/// operator may ask, and what changes nothing, is asked of the first node that answers; users are the same on all.
async fn check_user(cluster: &ClusterHandle, addresses: &BTreeSet<Address>, survey: &mut Survey) {
    for address in addresses {
        match cluster.admin.replication(address).await {
            Ok(_) => return,
            Err(error @ NodeError::Status { status: 401 | 403, .. }) => {
                survey.reasons.push(Reason {
                    code: "nodeUserDenied".into(),
                    found: error.to_string(),
                    wanted: "a user that may set priorities and resign nodes: a member of $ops or $admins".into(),
                    remedy: "correct `credentials_file` of the cluster in the worker's configuration, or put its user in $ops, and ask again"
                        .into(),
                });
                return;
            }
            Err(error) => tracing::debug!(%error, "does not say whether the user may operate it"),
        }
    }
}

/// Whether an instance has the name of a node, and no address speaks against it: a name that resolves to a machine is that machine's, whatever
/// an instance of another network is called.
fn is_named(instance: &Instance, host: &str, resolved: &[IpAddr]) -> bool {
    let named = [&instance.private_dns, &instance.name_tag].into_iter().any(|name| name.as_deref() == Some(host));
    let public = instance.details.public_ip;
    named && resolved.iter().all(|ip| ip.is_loopback() || Some(*ip) == public)
}

/// Why an instance that is configured for a node is not the one that listens at its address, if addresses speak against it. Loopback proves
/// nothing, and neither does an instance of which no address is known.
fn is_elsewhere(instance: &Instance, address: &Address, resolved: &[IpAddr]) -> Option<Reason> {
    let own: BTreeSet<IpAddr> = instance.addresses().chain(instance.details.public_ip).collect();
    let told: Vec<&IpAddr> = resolved.iter().filter(|ip| !ip.is_loopback()).collect();
    if own.is_empty() || told.is_empty() || told.iter().any(|ip| own.contains(ip)) {
        return None;
    }
    let list = |ips: Vec<String>| ips.join(", ");
    Some(Reason {
        code: "instanceAddressDiffers".into(),
        found: format!(
            "{address} is at {}, {} has {}",
            list(told.iter().map(|ip| ip.to_string()).collect()),
            instance.id,
            list(own.iter().map(IpAddr::to_string).collect())
        ),
        wanted: "for each configured node the instance that has its address".into(),
        remedy: "correct instance_id or address in [clusters.<name>.nodes.<node>] of the worker's configuration; where NAT gives the \
                 instance this address, set address_translated = true there"
            .into(),
    })
}

async fn match_instances(cluster: &ClusterHandle, members: &Resolved, survey: &mut Survey) -> Result<(), FleetError> {
    let all_ips: Vec<IpAddr> = members.values().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let hosts: Vec<String> = members.keys().map(|a| a.host.clone()).collect();
    let mut candidates: BTreeMap<InstanceId, Instance> = BTreeMap::new();
    let mut wanted = vec![Wanted::PrivateDns(hosts.clone()), Wanted::Tag { key: "Name".into(), values: hosts.clone() }];
    if !all_ips.is_empty() {
        wanted.push(Wanted::PrivateIps(all_ips));
    }
    for w in &wanted {
        for instance in cluster.fleet.find(w).await? {
            candidates.insert(instance.id.clone(), instance);
        }
    }
    let configured: Vec<InstanceId> = cluster.nodes.values().map(|n| n.instance.clone()).collect();
    if !configured.is_empty() {
        for instance in cluster.fleet.describe(&configured).await? {
            candidates.insert(instance.id.clone(), instance);
        }
    }

    let mut owner: BTreeMap<InstanceId, Address> = BTreeMap::new();
    for (address, resolved) in members {
        let by_config = cluster.nodes.values().find(|n| n.address.as_ref() == Some(address));
        let matching: Vec<&Instance> = match by_config {
            Some(node) => candidates.get(&node.instance).into_iter().collect(),
            None => {
                let by_ip: Vec<&Instance> =
                    candidates.values().filter(|i| resolved.iter().any(|ip| i.has_address(*ip))).collect();
                let by_name = || candidates.values().filter(|i| is_named(i, &address.host, resolved));
                if by_ip.is_empty() { by_name().collect() } else { by_ip }
            }
        };
        let [instance] = matching.as_slice() else {
            let ids: Vec<&str> = matching.iter().map(|i| i.id.as_str()).collect();
            survey.reasons.push(Reason {
                code: if matching.is_empty() { "noInstance" } else { "severalInstances" }.into(),
                found: if ids.is_empty() {
                    format!("no instance for {address}")
                } else {
                    format!("{} for {address}", ids.join(", "))
                },
                wanted: "exactly one instance for each member".into(),
                remedy:
                    "name it: [clusters.<name>.nodes.<node>] with instance_id and address in the worker's configuration"
                        .into(),
            });
            continue;
        };
        if let Some(other) = owner.insert(instance.id.clone(), address.clone()) {
            survey.reasons.push(Reason {
                code: "oneInstanceTwoNodes".into(),
                found: format!("{} for both {other} and {address}", instance.id),
                wanted: "exactly one instance for each member".into(),
                remedy: "name them: [clusters.<name>.nodes.<node>] with instance_id and address in the worker's configuration".into(),
            });
            continue;
        }
        if by_config.is_some_and(|node| !node.address_translated)
            && let Some(reason) = is_elsewhere(instance, address, resolved)
        {
            survey.reasons.push(reason);
            continue;
        }
        let configured_name =
            cluster.nodes.iter().find(|(_, n)| n.instance == instance.id).map(|(name, _)| name.clone());
        let tagged = instance.name_tag.as_deref().filter(|t| !t.is_empty()).map(NodeName::from);
        let mut name = configured_name.or(tagged).unwrap_or_else(|| NodeName(address.to_string()));
        if survey.members.contains_key(&name) {
            name = NodeName(address.to_string());
        }
        let is_own_machine = is_own_machine(&*cluster.fleet, instance);
        let member = SurveyedMember {
            address: address.clone(),
            resolved: resolved.clone(),
            instance: (*instance).clone(),
            is_own_machine,
        };
        survey.members.insert(name, member);
    }
    Ok(())
}
