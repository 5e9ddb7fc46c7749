//! The store's nodes, asked one by one and without a leader: for the return ticket, when there may be none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use eventstore::{Client, ReadStreamOptions, StreamPosition};
use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::connection::Ask;
use super::runtime::Aside;
use super::store::{Inner, stored, stream_options};
use crate::domain::cluster::{NodeState, View};
use crate::domain::ids::{Address, StreamName};
use crate::ports::{ClusterAdmin, LocalRead, StoreProbe, StoredEvent};

/// Time for one node to answer: two rounds make a probe, and fit a call.
pub(super) const NODE_TIME: Duration = Duration::from_millis(1500);
/// Time for a node to give a whole stream, its client's connection included. With the look for nodes it makes one call.
const READ_TIME: Duration = Duration::from_millis(2500);

/// What is held of a stream as each node has it: events, and bytes of their data. An update has some hundred events of a kilobyte each; one that
/// has more than this was flooded.
const EVENTS_MAX: usize = 100_000;
const BYTES_MAX: usize = 64 << 20;

/// What was last learnt of the store's nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Every member seen, and whether it votes.
    members: BTreeMap<Address, bool>,
    /// `ClusterSize`, from a node that said it.
    cluster_size: Option<u32>,
    /// The greatest number of voting members in one view.
    most_voters: usize,
}

/// A probe, and by which names the nodes that answered are known.
pub(super) struct Probed {
    pub(super) probe: StoreProbe,
    /// Nodes that answered and may vote: where each was reached.
    reached: Vec<Address>,
}

/// Asks every node of the connection string and of gossip. A read-only replica counts neither as voter nor as answer. Where no
/// node says `ClusterSize`, voters are the members in the largest view, and at least the hosts of the connection string that are not known to be replicas: rather too
/// many, with which a majority is harder to reach.
pub(super) async fn probe(inner: &Inner) -> Probed {
    let mut known = inner.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut asked: BTreeSet<Address> = BTreeSet::new();
    let mut views: Vec<(Address, View)> = Vec::new();
    // The second round asks whom the first one named.
    for _ in 0..2 {
        let hosts = inner.target.hosts.iter();
        let next: Vec<Address> = hosts.chain(known.members.keys()).filter(|a| !asked.contains(*a)).cloned().collect();
        let next: BTreeSet<Address> = next.into_iter().collect();
        if next.is_empty() {
            break;
        }
        let answers = join_all(next.iter().map(|node| async move {
            let (view, size) = tokio::join!(inner.nodes.gossip(node), inner.nodes.cluster_size(node));
            (node.clone(), view, size)
        }));
        for (node, view, size) in answers.await {
            match view {
                Ok(view) => {
                    known.learn(&view);
                    views.push((node.clone(), view));
                }
                Err(error) => tracing::debug!(%node, %error, "a node of the store does not answer"),
            }
            match size {
                Ok(size) => known.cluster_size = size.or(known.cluster_size),
                Err(error) => tracing::debug!(%node, %error, "a node of the store does not say its cluster's size"),
            }
        }
        asked.extend(next);
    }
    *inner.known.lock().unwrap_or_else(PoisonError::into_inner) = known.clone();
    evaluate(&known, &inner.target.hosts, &views)
}

impl Known {
    fn learn(&mut self, view: &View) {
        // A manager entry is a seed that was not reached: perhaps a ghost, perhaps another name of a member.
        let members = view.members.iter().filter(|m| m.state != NodeState::Manager);
        self.members.extend(members.clone().map(|m| (m.address.clone(), !m.is_read_only_replica)));
        self.most_voters = self.most_voters.max(members.filter(|m| !m.is_read_only_replica).count());
    }
}

fn evaluate(known: &Known, hosts: &[Address], views: &[(Address, View)]) -> Probed {
    let mut answered: BTreeMap<Address, Address> = BTreeMap::new();
    let mut leader_reported = false;
    for (reached, view) in views {
        leader_reported |= view.members.iter().any(|m| m.is_alive && m.state == NodeState::Leader);
        // The node's own address tells nodes apart that were reached by two names.
        // A node that does not say that it may vote does not count.
        if view.own().is_some_and(|own| !own.is_read_only_replica) {
            answered.entry(view.server.clone()).or_insert_with(|| reached.clone());
        }
    }
    let voting_hosts = hosts.iter().filter(|h| known.members.get(*h) != Some(&false)).count();
    let guessed = known.most_voters.max(voting_hosts);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let probe = StoreProbe {
        voters: known.cluster_size.unwrap_or_else(|| count(guessed)),
        answered: count(answered.len()),
        leader_reported,
    };
    Probed { probe, reached: answered.into_values().collect() }
}

/// The whole stream; `None` where that is more than is held.
async fn read_whole(
    client: &Client,
    stream: &str,
    options: &ReadStreamOptions,
) -> eventstore::Result<Option<Vec<StoredEvent>>> {
    // A node that does not have the stream says so in place of the first event.
    let mut reading = client.read_stream(stream, options).await?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    loop {
        let event = match reading.next().await {
            Ok(Some(event)) => event,
            Ok(None) | Err(eventstore::Error::ResourceNotFound) => return Ok(Some(events)),
            Err(error) => return Err(error),
        };
        bytes += event.get_original_event().data.len();
        if bytes > BYTES_MAX || events.len() >= EVENTS_MAX {
            return Ok(None);
        }
        events.extend(stored(event));
    }
}

/// Reads the stream from every voting node that answers, all at once. A node that does not give the whole stream in time is
/// left out: half a history is worse than none.
pub(super) async fn read(inner: &Inner, stream: &StreamName) -> Vec<LocalRead> {
    let nodes = probe(inner).await.reached;
    let deadline = Instant::now() + READ_TIME;
    // One runtime for these clients, put away with what they leak, also where whoever waits for the answer is cancelled.
    let runtime = match Aside::new("esdb-nodes") {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, "no runtime to read the store's nodes one by one");
            return Vec::new();
        }
    };
    let mut tasks = JoinSet::new();
    for node in nodes {
        let settings = match inner.target.settings(Ask::Node(&node)) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::warn!(%node, %error, "no client for a node of the store");
                continue;
            }
        };
        let options = stream_options(StreamPosition::Start, usize::MAX, inner.credentials());
        let (stream, handle) = (stream.0.clone(), runtime.handle.clone());
        let reading = async move {
            let read = async {
                let client = Client::with_runtime_handle(handle, settings)?;
                read_whole(&client, &stream, &options).await
            };
            let read = timeout_at(deadline, read).await;
            (node, read)
        };
        tasks.spawn_on(reading, &runtime.handle);
    }
    let mut reads = Vec::new();
    while let Ok(Some(ended)) = timeout_at(deadline, tasks.join_next()).await {
        match ended {
            Ok((node, Ok(Ok(Some(events))))) => reads.push(LocalRead { node, events }),
            Ok((node, Ok(Ok(None)))) => {
                tracing::warn!(%node, "the stream is longer than is read from a node of the store")
            }
            Ok((node, Ok(Err(error)))) => {
                tracing::debug!(%node, %error, "a node of the store does not give the stream")
            }
            Ok((node, Err(_))) => tracing::debug!(%node, "a node of the store does not give the stream in time"),
            Err(error) => tracing::warn!(%error, "the client library failed while reading a node of the store"),
        }
    }
    reads.sort_by(|a, b| a.node.cmp(&b.node));
    reads
}
