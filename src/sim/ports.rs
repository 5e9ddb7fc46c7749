//! The port face: the worker's ports over a simulated world, in process and in the time of tokio's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use super::model::{
    AllStart, Direction, Ec2Fault, ExpectedRevision, NodeIx, NotHandled, ProposedEvent, Reachability, ReadOutcome,
    Record, StreamPage, StreamStart, Write, WriteOutcome,
};
use super::world::{AllPage, CompiledFilter, Random, SimWorld, World};
use crate::domain::cluster::{NodeState, ReplicaSubscription, View};
use crate::domain::ec2::classify;
use crate::domain::ids::{Address, InstanceId, InstanceType, Revision, StreamName};
use crate::domain::inspection::{Answer, Attributes, Inspection, Right, Unanswered, Verb};
use crate::domain::instance::{FENCE_TAG, Instance, InstanceState, TypeInfo};
use crate::ports::{
    AppendError, Appended, ClusterAdmin, Done, EventLog, Expected, Feed, Fleet, FleetError, LocalRead, NewEvent,
    NodeError, Position, ReadError, StartFrom, StoreProbe, StoredEvent, Wanted,
};

/// How long a node has for an answer.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a node has to say who leads, while others can be asked.
const GOSSIP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long each node has to say who leads, where all of them are asked.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a call to the store goes on trying.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// After so long without a sign of life a subscription is given up (HTTP/2 keepalive: 10 s and 10 s, seen after 16 s).
const KEEPALIVE: Duration = Duration::from_secs(16);
/// Events of a subscription under way.
const WINDOW: usize = 64;
/// Records after which a subscription is told how far it was looked.
const LOOKED_EVERY: usize = 500;

/// Makes the ports. They share one world, and one generator for their latencies.
#[derive(Clone, Debug)]
pub struct SimPorts {
    world: SimWorld,
    random: Arc<Mutex<Random>>,
}

/// Why a node gave no answer.
enum Unreached {
    Refused,
    Silent,
}

/// What the next try of a call to the store is to do.
enum Next {
    /// Ask this node.
    Ask(NodeIx),
    /// Find the leader.
    Find,
}

impl SimPorts {
    /// Ports over this world; `seed` is of their latencies only.
    pub fn new(world: SimWorld, seed: u64) -> SimPorts {
        SimPorts { world, random: Arc::new(Mutex::new(Random::named(seed, "ports"))) }
    }

    /// The world.
    pub fn world(&self) -> &SimWorld {
        &self.world
    }

    /// The store of events, on the cluster of this world.
    pub fn event_log(&self) -> Arc<dyn EventLog> {
        Arc::new(self.clone())
    }

    /// The nodes of this world.
    pub fn cluster_admin(&self) -> Arc<dyn ClusterAdmin> {
        Arc::new(self.clone())
    }

    /// The instances of this world.
    pub fn fleet(&self) -> Arc<dyn Fleet> {
        Arc::new(self.clone())
    }

    fn draw<T>(&self, f: impl FnOnce(&mut Random) -> T) -> T {
        f(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn travel(&self) {
        let latency = self.draw(|r| r.micros(1000, 5000));
        sleep(latency).await;
    }

    /// Waits for a node to answer, or to refuse, or until `within` is over.
    async fn reach(&self, n: NodeIx, within: Duration) -> Result<(), Unreached> {
        self.travel().await;
        let answer = async {
            let mut since = 0;
            loop {
                match self.world.with(|w| w.reachability(n)) {
                    Reachability::Answers => return Ok(()),
                    Reachability::Refused => return Err(Unreached::Refused),
                    Reachability::Silent => since = self.world.changed(since).await,
                }
            }
        };
        timeout(within, answer).await.unwrap_or(Err(Unreached::Silent))
    }

    // Cluster.

    fn index(&self, node: &Address, what: &str) -> Result<NodeIx, NodeError> {
        self.world.with(|w| (0..w.node_count()).find(|&n| w.address(n) == node)).ok_or_else(|| NodeError::Other {
            node: node.clone(),
            what: what.to_owned(),
            found: "no such node".to_owned(),
        })
    }

    async fn ask<T>(
        &self,
        node: &Address,
        what: &str,
        f: impl FnOnce(&mut World, NodeIx) -> T,
    ) -> Result<T, NodeError> {
        let n = self.index(node, what)?;
        match self.reach(n, NODE_TIMEOUT).await {
            Ok(()) => Ok(self.world.with(|w| f(w, n))),
            Err(Unreached::Refused) => Err(NodeError::Refused { node: node.clone() }),
            Err(Unreached::Silent) => Err(NodeError::TimedOut { node: node.clone(), after_ms: 3000 }),
        }
    }

    // Store.

    /// The leader, as the first node that answers and knows one says.
    async fn find_leader(&self) -> Option<NodeIx> {
        let count = self.world.with(|w| w.node_count());
        for n in 0..count {
            if self.reach(n, GOSSIP_TIMEOUT).await.is_ok()
                && let Some(leader) = self.world.with(|w| leader_in(w, &w.view(n)))
            {
                return Some(leader);
            }
        }
        None
    }

    /// The nodes that answer, all asked at once. A machine that is off swallows what is sent to it: whoever asks waits in vain.
    async fn answering(&self) -> Vec<NodeIx> {
        self.travel().await;
        let answers = || {
            self.world.with(|w| {
                let all: Vec<NodeIx> = (0..w.node_count()).collect();
                let swallows = |n: &NodeIx| {
                    w.instance_state(*n) != InstanceState::Running || w.reachability(*n) == Reachability::Silent
                };
                let waits = all.iter().any(swallows);
                let answering: Vec<NodeIx> =
                    all.into_iter().filter(|n| w.reachability(*n) == Reachability::Answers).collect();
                (answering, waits)
            })
        };
        let (first, waits) = answers();
        if !waits {
            return first;
        }
        sleep(PROBE_TIMEOUT).await;
        answers().0.into_iter().chain(first).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What to do after a node did not handle a request; waits as long as is meet.
    async fn after(&self, why: &NotHandled) -> Next {
        match why {
            NotHandled::NotLeader(leader) => {
                sleep(PAUSE / 5).await;
                let known = self.world.with(|w| (0..w.node_count()).find(|&n| w.address(n) == leader));
                known.map_or(Next::Find, Next::Ask)
            }
            NotHandled::NotReady | NotHandled::NoLeaderInfo => {
                sleep(PAUSE).await;
                Next::Find
            }
        }
    }

    /// Asks the leader until it answers or time is over; then says what was found last.
    async fn read_leader<T>(
        &self,
        what: &str,
        f: impl Fn(&World, NodeIx) -> ReadOutcome<T>,
    ) -> Result<Option<T>, ReadError> {
        let until = Instant::now() + STORE_TIMEOUT;
        let mut found = "no node answers".to_owned();
        let tries = async {
            let mut next = Next::Find;
            loop {
                let leader = match next {
                    Next::Ask(n) => Some(n),
                    Next::Find => self.find_leader().await,
                };
                let Some(n) = leader else {
                    found = "no leader is known".to_owned();
                    sleep(PAUSE).await;
                    next = Next::Find;
                    continue;
                };
                match self.reach(n, NODE_TIMEOUT).await {
                    Ok(()) => match self.world.with(|w| f(w, n)) {
                        ReadOutcome::Found(page) => return Ok(Some(page)),
                        ReadOutcome::NoStream => return Ok(None),
                        ReadOutcome::StreamDeleted => {
                            return Err(ReadError::Refused {
                                what: what.to_owned(),
                                found: "the stream is deleted".to_owned(),
                            });
                        }
                        ReadOutcome::NotHandled(why) => {
                            found = format!("{why:?}");
                            next = self.after(&why).await;
                        }
                    },
                    Err(unreached) => {
                        found = unreached_text(&unreached).to_owned();
                        sleep(PAUSE / 2).await;
                        next = Next::Find;
                    }
                }
            }
        };
        match timeout_at(until, tries).await {
            Ok(answer) => answer,
            Err(_) => Err(ReadError::Unavailable { what: what.to_owned(), found }),
        }
    }

    /// Appends, and repeats itself with the same ids while time is left.
    async fn append_events(
        &self,
        stream: &StreamName,
        expected: ExpectedRevision,
        events: Vec<ProposedEvent>,
    ) -> Result<Appended, AppendError> {
        let until = Instant::now() + STORE_TIMEOUT;
        let mut found = "no node answers".to_owned();
        // Whether a try was sent whose outcome is not known.
        let mut sent = false;
        let tries = async {
            let mut next = Next::Find;
            loop {
                let leader = match next {
                    Next::Ask(n) => Some(n),
                    Next::Find => self.find_leader().await,
                };
                let Some(n) = leader else {
                    found = "no leader is known".to_owned();
                    sleep(PAUSE).await;
                    next = Next::Find;
                    continue;
                };
                if let Err(unreached) = self.reach(n, NODE_TIMEOUT).await {
                    found = unreached_text(&unreached).to_owned();
                    sleep(PAUSE / 2).await;
                    next = Next::Find;
                    continue;
                }
                let before = sent;
                sent = true;
                let outcome = self.world.write(n, true, stream.as_str(), expected, Write::Append(events.clone())).await;
                // The answer travels back; whoever stops listening meanwhile does not know it.
                self.travel().await;
                match outcome {
                    WriteOutcome::Done { last_revision: Some(last), .. } => {
                        return Ok(Appended { last: Revision(last) });
                    }
                    WriteOutcome::Done { last_revision: None, .. } => {
                        return Err(AppendError::Refused {
                            stream: stream.clone(),
                            found: "nothing was appended".to_owned(),
                        });
                    }
                    WriteOutcome::WrongExpectedVersion { .. } => {
                        return Err(AppendError::Conflict { stream: stream.clone() });
                    }
                    WriteOutcome::StreamDeleted => {
                        return Err(AppendError::Refused {
                            stream: stream.clone(),
                            found: "the stream is deleted".to_owned(),
                        });
                    }
                    WriteOutcome::TooLarge => {
                        return Err(AppendError::Refused { stream: stream.clone(), found: "too large".to_owned() });
                    }
                    WriteOutcome::NotHandled(why) => {
                        sent = before;
                        found = format!("{why:?}");
                        next = self.after(&why).await;
                    }
                    WriteOutcome::TimedOut(why) => {
                        found = format!("Operation timed out: {why}");
                        next = Next::Find;
                    }
                }
            }
        };
        match timeout_at(until, tries).await {
            Ok(answer) => answer,
            Err(_) if sent => Err(AppendError::Unknown { stream: stream.clone(), found }),
            Err(_) => Err(AppendError::Unavailable { stream: stream.clone(), found }),
        }
    }

    async fn read_page(
        &self,
        stream: &StreamName,
        from: StreamStart,
        direction: Direction,
        max: usize,
    ) -> Result<Vec<StoredEvent>, ReadError> {
        let page: Option<StreamPage> = self
            .read_leader(stream.as_str(), |w, n| w.read_stream(n, true, stream.as_str(), from, direction, max))
            .await?;
        Ok(page.map_or_else(Vec::new, |p| p.records.iter().map(stored).collect()))
    }

    async fn read_all_back(&self, max: usize) -> Result<Vec<Record>, ReadError> {
        let page: Option<AllPage> = self
            .read_leader("the end of $all", |w, n| {
                w.read_all(n, true, AllStart::End, Direction::Backwards, None, max, None)
            })
            .await?;
        Ok(page.map_or_else(Vec::new, |p| p.records))
    }

    /// Feeds a subscription until nobody listens.
    async fn feed(self, from: StartFrom, filter: CompiledFilter, to: mpsc::Sender<Feed>) {
        let mut next = match from {
            StartFrom::Beginning => 0,
            StartFrom::After(position) => position.commit + 1,
        };
        let listen = async {
            loop {
                let Some(n) = self.find_leader().await else {
                    sleep(PAUSE).await;
                    continue;
                };
                if self.reach(n, NODE_TIMEOUT).await.is_err() {
                    sleep(PAUSE).await;
                    continue;
                }
                match self.feed_from(n, &mut next, &filter, &to).await {
                    Ok(why) => {
                        if to.send(Feed::Reconnecting(why)).await.is_err() {
                            return;
                        }
                        sleep(PAUSE).await;
                    }
                    Err(_) => return,
                }
            }
        };
        tokio::select! {
            () = listen => {}
            () = to.closed() => {}
        }
    }

    /// Feeds from one node, whatever its role becomes, until its process ends or falls silent; says why it stopped.
    async fn feed_from(
        &self,
        n: NodeIx,
        next: &mut u64,
        filter: &CompiledFilter,
        to: &mpsc::Sender<Feed>,
    ) -> Result<String, mpsc::error::SendError<Feed>> {
        let generation = self.world.with(|w| w.process_generation(n));
        let mut caught_up = false;
        let mut looked = 0;
        let mut heard = Instant::now();
        let mut since;
        loop {
            let (version, reachability, now_generation, page) = self.world.with(|w| {
                let page =
                    w.read_all(n, false, AllStart::Position(*next), Direction::Forwards, Some(filter), WINDOW, None);
                (w.version(), w.reachability(n), w.process_generation(n), page)
            });
            since = version;
            if now_generation != generation {
                return Ok("the node's process ended".to_owned());
            }
            match (reachability, page) {
                (Reachability::Refused, _) => return Ok("the connection was refused".to_owned()),
                (Reachability::Silent, _) if heard.elapsed() >= KEEPALIVE => return Ok("no sign of life".to_owned()),
                (Reachability::Silent, _) => {
                    // Wakes up for the keepalive's sake as well as for the world's.
                    let _woken = timeout(Duration::from_secs(1), self.world.changed(since)).await;
                    continue;
                }
                (Reachability::Answers, ReadOutcome::Found(page)) => {
                    heard = Instant::now();
                    let more = !page.end;
                    if !page.records.is_empty() {
                        self.travel().await;
                    }
                    for record in &page.records {
                        to.send(Feed::Event(stored(record))).await?;
                    }
                    *next = page.next.max(*next);
                    looked += page.looked;
                    if let Some(last) = page.last.filter(|_| looked >= LOOKED_EVERY) {
                        looked = 0;
                        to.send(Feed::Looked(Position { commit: last, prepare: last })).await?;
                    }
                    if more {
                        continue;
                    }
                    if !caught_up {
                        caught_up = true;
                        to.send(Feed::CaughtUp).await?;
                    }
                }
                (Reachability::Answers, ReadOutcome::NotHandled(why)) => return Ok(format!("{why:?}")),
                (Reachability::Answers, ReadOutcome::NoStream | ReadOutcome::StreamDeleted) => {
                    return Ok("the log is gone".to_owned());
                }
            }
            self.world.changed(since).await;
        }
    }

    // Instances.

    async fn ec2<T>(
        &self,
        call: &str,
        f: impl FnOnce(&mut World) -> Result<T, Ec2Fault>,
    ) -> Result<(T, Option<String>), FleetError> {
        self.travel().await;
        let request_id = Some(self.draw(Random::uuid).to_string());
        let answer = self.world.with(f);
        self.travel().await;
        match answer {
            Ok(found) => Ok((found, request_id)),
            Err(fault) => Err(FleetError {
                call: call.to_owned(),
                class: classify(&fault.code),
                code: fault.code,
                message: fault.message,
                request_id,
            }),
        }
    }
}

impl SimPorts {
    async fn attribute(&self, id: &InstanceId, name: &str) -> Answer<String> {
        let answer = self.ec2("DescribeInstanceAttribute", |w| w.instance_attribute(id, name)).await;
        answer.map(|(value, _)| value).map_err(Unanswered::from)
    }
}

fn unreached_text(why: &Unreached) -> &'static str {
    match why {
        Unreached::Refused => "the leader refuses the connection",
        Unreached::Silent => "the leader does not answer",
    }
}

/// The living leader that a view names; its own entry first.
fn leader_in(world: &World, view: &View) -> Option<NodeIx> {
    let leads = |state| state == NodeState::Leader;
    let own = view.own().filter(|e| leads(e.state));
    let named = own.or_else(|| view.members.iter().find(|e| e.is_alive && leads(e.state)))?;
    (0..world.node_count()).find(|&n| *world.address(n) == named.address)
}

/// A record as the port gives it.
fn stored(record: &Record) -> StoredEvent {
    let data = record.is_json.then(|| serde_json::from_slice(&record.data).ok()).flatten();
    let is_json = data.is_some();
    let created = i128::from(record.created_ticks) * 100;
    StoredEvent {
        stream: StreamName(record.stream.clone()),
        revision: Revision(record.revision),
        position: Some(Position { commit: record.position, prepare: record.position }),
        id: record.id,
        event_type: record.event_type.clone(),
        data: data.unwrap_or(Value::Null),
        metadata: serde_json::from_slice(&record.metadata).unwrap_or(Value::Null),
        is_json,
        created: jiff::Timestamp::from_nanosecond(created).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
    }
}

#[async_trait]
impl ClusterAdmin for SimPorts {
    async fn gossip(&self, node: &Address) -> Result<View, NodeError> {
        self.ask(node, "GET /gossip", |w, n| w.view(n)).await
    }

    async fn live(&self, node: &Address) -> Result<bool, NodeError> {
        self.ask(node, "GET /health/live", |w, n| w.live(n)).await
    }

    async fn cluster_size(&self, node: &Address) -> Result<Option<u32>, NodeError> {
        self.ask(node, "GET /info/options", |w, _| u32::try_from(w.config().voters).ok()).await
    }

    async fn replication(&self, node: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        self.ask(node, "GET /stats/replication", |w, n| w.replication(n)).await
    }

    async fn scavenge(&self, node: &Address) -> Result<Option<String>, NodeError> {
        self.ask(node, "GET /admin/scavenge/current", |w, n| w.facts().scavenges.get(&n).cloned()).await
    }

    async fn set_priority(&self, node: &Address, priority: i32) -> Result<(), NodeError> {
        self.ask(node, "POST /admin/node/priority", |w, n| w.set_priority(n, priority)).await
    }

    async fn resign(&self, node: &Address) -> Result<(), NodeError> {
        self.ask(node, "POST /admin/node/resign", |w, n| w.resign(n)).await
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, NodeError> {
        self.travel().await;
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        Err(NodeError::Other {
            node: Address::new(host, 0),
            what: "resolving the name".to_owned(),
            found: "there are no names in this world, only addresses".to_owned(),
        })
    }
}

impl SimPorts {
    /// Changes a stream's metadata; `change` says whether there is anything to write. Says whether it wrote.
    async fn change_metadata(
        &self,
        stream: &StreamName,
        change: impl FnOnce(&mut Map<String, Value>) -> bool,
    ) -> Result<bool, AppendError> {
        let metastream = StreamName(format!("$${stream}"));
        let last = self.read_last(&metastream).await.map_err(|e| match e {
            ReadError::Unavailable { found, .. } => AppendError::Unavailable { stream: metastream.clone(), found },
            ReadError::Denied { found, .. } => AppendError::Denied { stream: metastream.clone(), found },
            ReadError::Refused { found, .. } => AppendError::Refused { stream: metastream.clone(), found },
        })?;
        let mut content = last.as_ref().and_then(|e| e.data.as_object().cloned()).unwrap_or_default();
        if !change(&mut content) {
            return Ok(false);
        }
        let expected = last.map_or(ExpectedRevision::NoStream, |e| ExpectedRevision::Exact(e.revision.0));
        let data = Value::Object(content).to_string();
        let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{metastream}{expected:?}{data}").as_bytes());
        let event = ProposedEvent {
            id,
            event_type: "$metadata".to_owned(),
            is_json: true,
            data: data.into_bytes(),
            metadata: Vec::new(),
        };
        self.append_events(&metastream, expected, vec![event]).await?;
        Ok(true)
    }
}

#[async_trait]
impl EventLog for SimPorts {
    async fn append(
        &self,
        stream: &StreamName,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        if events.is_empty() {
            return Err(AppendError::Refused { stream: stream.clone(), found: "an append needs an event".to_owned() });
        }
        let expected = match expected {
            Expected::NoStream => ExpectedRevision::NoStream,
            Expected::Exact(Revision(n)) => ExpectedRevision::Exact(n),
        };
        let events = events
            .into_iter()
            .map(|e| ProposedEvent {
                id: e.id,
                event_type: e.event_type,
                is_json: true,
                data: e.data.to_string().into_bytes(),
                metadata: e.metadata.to_string().into_bytes(),
            })
            .collect();
        self.append_events(stream, expected, events).await
    }

    async fn read(&self, stream: &StreamName, from: Revision, max: usize) -> Result<Vec<StoredEvent>, ReadError> {
        self.read_page(stream, StreamStart::Revision(from.0), Direction::Forwards, max).await
    }

    async fn read_last(&self, stream: &StreamName) -> Result<Option<StoredEvent>, ReadError> {
        Ok(self.read_page(stream, StreamStart::End, Direction::Backwards, 1).await?.pop())
    }

    async fn end_of_log(&self) -> Result<Option<Position>, ReadError> {
        let last = self.read_all_back(1).await?.pop();
        Ok(last.map(|r| Position { commit: r.position, prepare: r.position }))
    }

    async fn read_back(
        &self,
        prefixes: &[&str],
        max: usize,
        look_at_most: usize,
    ) -> Result<(Vec<StoredEvent>, usize), ReadError> {
        let filter = CompiledFilter::stream_prefixes(prefixes);
        let mut found = Vec::new();
        let mut looked = 0;
        for record in self.read_all_back(look_at_most).await? {
            if found.len() == max {
                break;
            }
            looked += 1;
            if filter.matches(&record.stream, &record.event_type) {
                found.push(stored(&record));
            }
        }
        Ok((found, looked))
    }

    async fn subscribe(&self, from: StartFrom, prefixes: &[&str]) -> mpsc::Receiver<Feed> {
        let (to, feed) = mpsc::channel(WINDOW);
        tokio::spawn(self.clone().feed(from, CompiledFilter::stream_prefixes(prefixes), to));
        feed
    }

    async fn set_max_count(&self, stream: &StreamName, max_count: u64) -> Result<bool, AppendError> {
        self.change_metadata(stream, |content| {
            if content.get("$maxCount").and_then(Value::as_u64) == Some(max_count) {
                return false;
            }
            content.insert("$maxCount".to_owned(), json!(max_count));
            true
        })
        .await
    }

    async fn let_read_all(&self, user: &str) -> Result<bool, AppendError> {
        self.change_metadata(&StreamName::from("$all"), |content| {
            let readers = &mut content.entry("$acl").or_insert_with(|| json!({}))["$r"];
            let mut list = readers.as_array().cloned().unwrap_or_else(|| vec![json!("$admins")]);
            if list.contains(&json!(user)) {
                return false;
            }
            list.push(json!(user));
            *readers = Value::Array(list);
            true
        })
        .await
    }

    async fn read_everywhere(&self, stream: &StreamName) -> Vec<LocalRead> {
        let mut all = Vec::new();
        let voters = self.world.with(|w| w.config().voters);
        for n in self.answering().await.into_iter().filter(|n| *n < voters) {
            let (node, outcome) = self.world.with(|w| {
                let page =
                    w.read_stream(n, false, stream.as_str(), StreamStart::Start, Direction::Forwards, usize::MAX);
                (w.address(n).clone(), page)
            });
            match outcome {
                ReadOutcome::Found(page) => {
                    all.push(LocalRead { node, events: page.records.iter().map(stored).collect() })
                }
                ReadOutcome::NoStream | ReadOutcome::StreamDeleted => all.push(LocalRead { node, events: Vec::new() }),
                ReadOutcome::NotHandled(_) => {}
            }
        }
        all
    }

    async fn probe(&self) -> StoreProbe {
        let answering = self.answering().await;
        self.world.with(|w| {
            let voters = w.config().voters;
            StoreProbe {
                voters: u32::try_from(voters).unwrap_or(u32::MAX),
                answered: answering.iter().map(|n| u32::from(*n < voters)).sum(),
                leader_reported: answering.iter().any(|n| leader_in(w, &w.view(*n)).is_some()),
            }
        })
    }
}

#[async_trait]
impl Fleet for SimPorts {
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        let (all, _) = self.ec2("DescribeInstances", |w| w.describe_instances(&[])).await?;
        Ok(all.into_iter().filter(|i| ids.contains(&i.id)).collect())
    }

    async fn find(&self, wanted: &Wanted) -> Result<Vec<Instance>, FleetError> {
        let (all, _) = self.ec2("DescribeInstances", |w| w.describe_instances(&[])).await?;
        let fits = |i: &Instance| match wanted {
            Wanted::PrivateIps(ips) => ips.iter().any(|ip| i.has_address(*ip)),
            Wanted::PrivateDns(names) => i.private_dns.as_ref().is_some_and(|name| names.contains(name)),
            Wanted::Tag { key, values } => {
                key == "Name" && i.name_tag.as_ref().is_some_and(|name| values.contains(name))
            }
        };
        Ok(all.into_iter().filter(fits).collect())
    }

    async fn type_info(&self, instance_type: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        self.travel().await;
        Ok(self.world.with(|w| {
            let mut of_type = w.config().offered_types.iter().filter(|(name, _)| *name == instance_type.0);
            let architecture = of_type.next().map(|(_, architecture)| architecture.clone())?;
            let offered = |zone: &String| !w.facts().not_offered.contains(&(instance_type.0.clone(), zone.clone()));
            Some(TypeInfo {
                instance_type: instance_type.clone(),
                zones: w.zones().into_iter().filter(offered).collect(),
                details: w.facts().type_details(&instance_type.0, &architecture),
                architectures: vec![architecture],
            })
        }))
    }

    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        let ids: &[InstanceId] = &instances.keys().cloned().collect::<Vec<_>>();
        let mut attributes = BTreeMap::new();
        for id in ids {
            let stop_protected = self.attribute(id, "disableApiStop").await.map(|value| value == "true");
            let shutdown_behavior = self.attribute(id, "instanceInitiatedShutdownBehavior").await;
            attributes.insert(id.clone(), Attributes { stop_protected, shutdown_behavior });
        }
        let events = self.ec2("DescribeInstanceStatus", |w| w.scheduled_events(ids)).await;
        let volumes = self.ec2("DescribeVolumes", |w| w.volumes(ids)).await;
        let mut rights = BTreeMap::new();
        for verb in Verb::ALL {
            let least = if verb == Verb::Modify { 2 } else { 1 };
            let touched: Vec<(&InstanceId, &Vec<InstanceType>)> =
                instances.iter().filter(|(_, types)| types.len() >= least).collect();
            if touched.is_empty() {
                continue;
            }
            let ids: Vec<InstanceId> = touched.iter().map(|(id, _)| (*id).clone()).collect();
            let types: Vec<&InstanceType> = match verb {
                Verb::Modify => touched.iter().flat_map(|(_, types)| *types).collect(),
                Verb::Stop | Verb::Start | Verb::Reboot | Verb::Tag | Verb::Untag => Vec::new(),
            };
            let right = match self.ec2(verb.action(), |w| w.dry_run(verb.action(), &ids, &types)).await {
                Err(e) if e.code == "DryRunOperation" => Right::Allowed,
                Err(e) => Unanswered::from(e).into(),
                Ok(((), _)) => Right::Unknown(Unanswered::silent(format!("a dry run of {verb} was carried out"))),
            };
            rights.insert(verb, right);
        }
        Inspection {
            attributes,
            events: Some(events.map(|(events, _)| events.into_iter().collect()).map_err(Unanswered::from)),
            volumes: Some(volumes.map(|(volumes, _)| volumes).map_err(Unanswered::from)),
            rights,
        }
    }

    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        let (_, request_id) = self.ec2("StopInstances", |w| w.stop_instances(std::slice::from_ref(id))).await?;
        Ok(Done { request_id })
    }

    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        let ((), request_id) = self.ec2("ModifyInstanceAttribute", |w| w.modify_instance_type(id, to)).await?;
        Ok(Done { request_id })
    }

    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        let (_, request_id) = self.ec2("StartInstances", |w| w.start_instances(std::slice::from_ref(id))).await?;
        Ok(Done { request_id })
    }

    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        let ((), request_id) = self.ec2("RebootInstances", |w| w.reboot_instance(id)).await?;
        Ok(Done { request_id })
    }

    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        let tag = (FENCE_TAG.to_owned(), value.to_owned());
        let ids = std::slice::from_ref(id);
        let ((), request_id) = self.ec2("CreateTags", |w| w.create_tags(ids, &[tag])).await?;
        Ok(Done { request_id })
    }

    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        let tag = (FENCE_TAG.to_owned(), Some(value.to_owned()));
        let ids = std::slice::from_ref(id);
        let ((), request_id) = self.ec2("DeleteTags", |w| w.delete_tags(ids, &[tag])).await?;
        Ok(Done { request_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::instance::InstanceState;
    use crate::ports::CallClass;
    use crate::sim::model::{Fault, WorldConfig};
    use crate::sim::world::tests::config;

    fn ports(config: WorldConfig) -> SimPorts {
        let seed = config.seed;
        SimPorts::new(SimWorld::new(World::new(config)), seed)
    }

    fn new_event(n: u64) -> NewEvent {
        let id = Uuid::from_u128(u128::from(n) + 1);
        NewEvent { id, event_type: "counted".into(), data: json!({ "n": n }), metadata: json!({}) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_and_a_subscriber_live_through_a_resignation_and_a_kill() {
        let ports = ports(config(11));
        let log = ports.event_log();
        let stream = StreamName::from("clusterUpdate-1");
        let mut feed = log.subscribe(StartFrom::Beginning, &["clusterUpdate-"]).await;
        let mut expected = Expected::NoStream;
        for n in 0..100 {
            if n == 30 {
                let leader = ports.world.with(|w| w.leader().expect("settled"));
                let address = ports.world.with(|w| w.address(leader).clone());
                ports.cluster_admin().set_priority(&address, -1).await.expect("it answers");
                ports.cluster_admin().resign(&address).await.expect("it answers");
            }
            if n == 60 {
                ports.world.with(|w| w.leader().into_iter().for_each(|l| w.kill(l)));
            }
            let mut appended = log.append(&stream, expected, vec![new_event(n)]).await;
            for _ in 0..5 {
                if !matches!(appended, Err(AppendError::Unavailable { .. } | AppendError::Unknown { .. })) {
                    break;
                }
                appended = log.append(&stream, expected, vec![new_event(n)]).await;
            }
            let last = appended.expect("appended in the end").last;
            assert_eq!(last, Revision(n));
            expected = Expected::Exact(last);
        }
        assert_eq!(
            log.append(&stream, Expected::Exact(Revision(5)), vec![new_event(1000)]).await,
            Err(AppendError::Conflict { stream: stream.clone() })
        );
        let read = log.read(&stream, Revision(10), 1000).await.expect("readable");
        assert_eq!(read.iter().map(|e| e.revision.0).collect::<Vec<_>>(), (10..100).collect::<Vec<_>>());
        assert_eq!(log.read_last(&stream).await.expect("readable").expect("an event").data, json!({ "n": 99 }));
        let (mut next, mut caught_up) = (0, false);
        while next < 100 {
            match timeout(Duration::from_secs(60), feed.recv()).await.expect("it comes").expect("it never ends") {
                Feed::Event(event) => {
                    assert_eq!(event.revision, Revision(next), "each event once, in order");
                    next += 1;
                }
                Feed::CaughtUp => caught_up = true,
                // Whether it has to depends on which node it was on; nothing is lost either way.
                Feed::Looked(_) | Feed::Reconnecting(_) => {}
            }
        }
        assert!(caught_up);
        let (back, looked) = log.read_back(&["clusterUpdate-"], 3, 50).await.expect("readable");
        assert_eq!((back.len(), looked), (3, 3));
        assert_eq!(log.end_of_log().await.expect("readable"), back[0].position);
        assert_eq!(log.set_max_count(&stream, 10).await, Ok(true));
        assert_eq!(log.set_max_count(&stream, 10).await, Ok(false));
        assert_eq!(log.read(&stream, Revision(0), 1000).await.expect("readable").len(), 10);
        sleep(Duration::from_secs(15)).await;
        let everywhere = log.read_everywhere(&stream).await;
        assert!(everywhere.len() == 3 && everywhere.iter().all(|l| l.events.len() == 10));
        assert_eq!(log.probe().await, StoreProbe { voters: 3, answered: 3, leader_reported: true });
    }

    /// Polls every node, appends now and then, resigns once; everything seen, with its time.
    async fn run(seed: u64, polls: u32) -> String {
        let ports = ports(WorldConfig { load_bytes_per_second: 8_000_000, ..config(seed) });
        let (log, admin) = (ports.event_log(), ports.cluster_admin());
        let stream = StreamName::from("s-1");
        let mut feed = log.subscribe(StartFrom::Beginning, &["s-"]).await;
        let begun = Instant::now();
        let mut trace = String::new();
        for poll in 0..polls {
            sleep(Duration::from_millis(500)).await;
            let nodes: Vec<Address> = ports.world.with(|w| (0..4).map(|n| w.address(n).clone()).collect());
            for node in &nodes {
                if poll == 20 {
                    admin.resign(node).await.expect("it answers");
                }
                trace += &format!("{:?} {:?}\n", begun.elapsed(), admin.gossip(node).await);
            }
            if poll % 10 == 0 {
                let expected = Expected::after((poll / 10).checked_sub(1).map(|r| Revision(u64::from(r))));
                trace += &format!("{:?}\n", log.append(&stream, expected, vec![new_event(u64::from(poll))]).await);
            }
            while let Ok(event) = feed.try_recv() {
                trace += &format!("{:?} {event:?}\n", begun.elapsed());
            }
        }
        trace
    }

    #[test]
    fn the_same_seed_gives_the_same_answers_at_the_same_times() {
        let trace = |seed| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
            runtime.block_on(run(seed, 60))
        };
        assert!(trace(5) == trace(5), "the same seed gave different traces");
        assert!(trace(5) != trace(6), "different seeds gave the same trace");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_quorum_the_store_says_so_within_its_time() {
        let ports = ports(config(12));
        let log = ports.event_log();
        let stream = StreamName::from("s");
        sleep(Duration::from_secs(1)).await;
        let leader = ports.world.with(|w| w.leader().expect("settled"));
        let others: Vec<NodeIx> = (0..3).filter(|n| *n != leader).collect();
        ports.world.with(|w| others.iter().for_each(|n| w.shutdown(*n)));
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        assert!(matches!(
            log.append(&stream, Expected::NoStream, vec![new_event(0)]).await,
            Err(AppendError::Unknown { .. })
        ));
        assert!(begun.elapsed() <= Duration::from_millis(5100), "{:?}", begun.elapsed());
        assert!(matches!(
            log.append(&stream, Expected::NoStream, vec![new_event(0)]).await,
            Err(AppendError::Unavailable { .. })
        ));
        assert!(matches!(log.read(&stream, Revision(0), 1).await, Err(ReadError::Unavailable { .. })));
        sleep(Duration::from_secs(5)).await;
        assert_eq!(log.probe().await, StoreProbe { voters: 3, answered: 1, leader_reported: false });
        let address = ports.world.with(|w| w.address(others[0]).clone());
        assert_eq!(ports.cluster_admin().gossip(&address).await, Err(NodeError::Refused { node: address }));
        ports.world.with(|w| w.freeze(leader));
        let address = ports.world.with(|w| w.address(leader).clone());
        let begun = Instant::now();
        assert!(matches!(ports.cluster_admin().live(&address).await, Err(NodeError::TimedOut { .. })));
        assert!(begun.elapsed() >= NODE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_stopped_changed_and_started() {
        let code = "InsufficientInstanceCapacity".to_owned();
        let faults = vec![Fault::StartFails { instance_type: "m6i.xlarge".into(), code, times: 1 }];
        let ports = ports(WorldConfig { faults, ..config(13) });
        let fleet = ports.fleet();
        let by_tag = Wanted::Tag { key: "Name".into(), values: vec!["node-4".into()] };
        let found = fleet.find(&by_tag).await.expect("EC2 answers");
        let id = found[0].id.clone();
        let to = InstanceType::from("m6i.xlarge");
        assert_eq!(fleet.modify_type(&id, &to).await.expect_err("it runs").class, CallClass::Wait);
        fleet.stop(&id).await.expect("it runs");
        sleep(Duration::from_secs(46)).await;
        fleet.modify_type(&id, &to).await.expect("it is stopped");
        assert_eq!(fleet.start(&id).await.expect_err("no capacity").class, CallClass::Capacity);
        fleet.start(&id).await.expect("capacity is back");
        sleep(Duration::from_secs(26)).await;
        let now = fleet.describe(&[id, InstanceId::from("i-00000000")]).await.expect("EC2 answers");
        assert_eq!((now.len(), now[0].state, &now[0].instance_type), (1, InstanceState::Running, &to));
        let info = fleet.type_info(&InstanceType::from("m7g.large")).await.expect("EC2 answers").expect("offered");
        assert_eq!(info.architectures, ["arm64"]);
        assert_eq!(fleet.type_info(&InstanceType::from("no.such")).await, Ok(None));
        sleep(Duration::from_secs(30)).await;
        let admin = ports.cluster_admin();
        let node = Address::new("10.0.0.4", 2113);
        assert_eq!(admin.live(&node).await, Ok(true));
        assert_eq!(admin.cluster_size(&node).await, Ok(Some(3)));
    }
}
