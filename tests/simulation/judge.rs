//! The judge: what must hold (S1–S10 of the rules), judged by the world's own truth — what was really called, what a quorum of the store has
//! really acknowledged, who really serves — and by raw JSON. It shares no code with what decides or audits in the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use esdb_rollout::domain::cluster::NodeState;
use esdb_rollout::domain::ids::Incarnation;
use esdb_rollout::domain::instance::{FENCE_TAG, InstanceState};
use esdb_rollout::sim::model::{Reachability, Record};
use esdb_rollout::sim::world::World;
use esdb_rollout::update::action::Call;
use serde_json::Value;
use uuid::Uuid;

/// What was true of a node for longer than this could be known: an answer is believed for 4 s, may have taken 3 s, and is asked for every
/// half second.
const KNOWABLE: Duration = Duration::from_secs(8);
/// The same of what a node holds: a sample of its and one of the leader's are two seconds old by themselves.
const LEVEL_KNOWABLE: Duration = Duration::from_secs(12);
/// From the first send of an intent to its call.
const ACT_WINDOW: Duration = Duration::from_secs(5);
/// Nothing but the return of the node in hand is called for so long after a take-over.
const QUIET: Duration = Duration::from_secs(15);
/// Appends must have failed for so long before a return ticket is used.
const TICKET: Duration = Duration::from_secs(10);
/// What was true of an instance for longer than this could be known: EC2 says what was true ten seconds ago, its answer takes up to
/// ten, and may then be acted upon for a few more.
const EC2_KNOWABLE: Duration = Duration::from_secs(30);
/// Nodes whose addresses every worker is configured with.
pub const SEEDS: usize = 3;
/// Instances are described at least this often (every 15 s, slower while EC2 throttles).
const DESCRIBED: Duration = Duration::from_secs(100);

/// A node that is down by our doing is started within this, where a worker reaches store and EC2 and EC2 does what it is asked for: a stop is
/// noticed within 15 s, an update whose worker died is taken over within half a minute, the return ticket of a replacement opens after one, and
/// after another where the store leads and takes nothing.
const STARTED: Duration = Duration::from_secs(180);
/// The same once EC2 refused a start: the longest rest between two of them is five minutes and a quarter of that.
const STARTED_AGAIN: Duration = Duration::from_secs(180 + 375);
/// A return ticket opens where nothing was acknowledged in time for so long although the store has a leader.
const TICKET_WITH_LEADER: Duration = Duration::from_secs(60);

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub rule: &'static str,
    pub at: Duration,
    pub what: String,
}

/// A fact or command of an update's stream, raw.
#[derive(Clone, Debug)]
pub struct Entry {
    pub revision: u64,
    pub id: Uuid,
    pub kind: String,
    pub data: Value,
    pub incarnation: Option<Uuid>,
    /// When it was seen to stand.
    pub at: Duration,
}

impl Entry {
    pub fn text(&self, key: &str) -> &str {
        self.data.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn is_end(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "UpdateCompleted" | "UpdateFailed" | "UpdateCancelled" | "UpdateRejected" | "UpdateSuperseded"
        )
    }

    pub fn is_intent(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "PriorityLoweringRequested"
                | "ResignationRequested"
                | "InstanceStopRequested"
                | "TypeModificationRequested"
                | "InstanceStartRequested"
                | "InstanceRebootRequested"
                | "PriorityRestorationRequested"
                | "TagRequested"
        )
    }

    /// Of the intent about a tag: whether it is removed.
    fn removes(&self) -> bool {
        self.data.get("remove").and_then(Value::as_bool) == Some(true)
    }

    pub fn is_command(&self) -> bool {
        self.incarnation.is_none()
    }

    /// What a list in its data holds; nothing where there is none.
    pub fn list(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.data.get(key).and_then(Value::as_array).into_iter().flatten()
    }

    /// The members of a plan; of anything else none.
    fn planned(&self) -> impl Iterator<Item = &str> {
        let members = self.list("members").filter(|_| self.kind == "UpdatePlanned");
        members.filter_map(|member| member.get("node").and_then(Value::as_str))
    }

    /// Whether a check of a plan failed for this.
    fn tells(&self, code: &str, of: &str) -> bool {
        let says = |check: &Value, key: &str, wanted: &str| {
            check.get(key).and_then(Value::as_str).is_some_and(|text| text.contains(wanted))
        };
        self.list("checks").any(|c| says(c, "code", code) && says(c, "outcome", "failed") && says(c, "found", of))
    }
}

/// One node, as it is.
#[derive(Clone, Debug, Default)]
struct Truth {
    /// Since when it has led without interruption.
    leads_since: Option<Duration>,
    /// Since when its process has answered without interruption.
    answers_since: Option<Duration>,
    /// Since when it has been out of service without interruption.
    lost_since: Option<Duration>,
    /// Since when its instance has not run.
    off_since: Option<Duration>,
    /// Since when its instance has run.
    runs_since: Option<Duration>,
    /// When it last served, level with the leader.
    level_at: Option<Duration>,
    /// Stopped by the product, and not seen level since.
    ours: bool,
    /// Since when its instance has been stopped by our doing while nothing kept the product from starting it.
    startable_since: Option<Duration>,
    /// Whether EC2 refused to start it, or did not say what came of it, since it was stopped by our doing.
    start_failed: bool,
    /// A call of the product to stop it, on its way.
    stop_called: Option<Duration>,
    state: Option<InstanceState>,
    /// Whether it was somebody else who stopped it last.
    foreign_stop: bool,
    /// Whether a person changed its type or its priority.
    type_foreign: bool,
    priority_foreign: bool,
    /// Since when its instance has not carried the active update's tag, and since when it has carried another's.
    unfenced_since: Option<Duration>,
    anothers_since: Option<Duration>,
    stops: u32,
}

/// When the store last answered a worker about an update, and until when it had not for as long as opens a return ticket.
#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Duration,
    away_until: Option<Duration>,
}

impl Heard {
    fn again(&mut self, at: Duration, opens: Duration) {
        if at.saturating_sub(self.last) >= opens {
            self.away_until = Some(at);
        }
        self.last = at;
    }

    /// Whoever decides does so by what was so a moment ago.
    fn was_away(&self, now: Duration, opens: Duration) -> bool {
        let just_now = self.away_until.is_some_and(|until| now.saturating_sub(until) < KNOWABLE);
        now.saturating_sub(self.last) >= opens || just_now
    }
}

#[derive(Debug)]
pub struct Judge {
    voters: usize,
    nodes: Vec<Truth>,
    names: Vec<String>,
    instances: Vec<String>,
    addresses: Vec<String>,
    read_to: usize,
    pub histories: BTreeMap<Uuid, Vec<Entry>>,
    pub admissions: Vec<(String, Uuid)>,
    /// The update that is active, by what a quorum has acknowledged.
    pub active: Option<Uuid>,
    /// When each event was first sent, and by whom.
    sent: BTreeMap<Uuid, (Duration, Incarnation)>,
    /// Intents of which a call was made.
    called: BTreeSet<Uuid>,
    /// When a worker last had an append to an update's stream, or a read of it by who drives it, acknowledged.
    heard: BTreeMap<(Incarnation, Uuid), Heard>,
    /// When appends of a worker to an update's stream were last acknowledged in time for a call, and whether the last one was.
    written: BTreeMap<(Incarnation, Uuid), Heard>,
    in_time: BTreeMap<(Incarnation, Uuid), bool>,
    came_up: BTreeMap<Incarnation, Duration>,
    /// Whether a worker can do what there is to do, and whether whoever holds the active update lives.
    hands_free: bool,
    holder_lives: bool,
    pub breaches: Vec<Breach>,
    pub trace: String,
    pub calls: u64,
    /// When each node had last been level as it was first said to have caught up, by that fact's id.
    level_then: BTreeMap<Uuid, Vec<Option<Duration>>>,
    /// What the present leader held, and when.
    leader_writer: Vec<(Duration, i64)>,
    led_last: Option<usize>,
    /// By how many seconds the calendars are off, from when on.
    calendar: Vec<(Duration, i64)>,
}

impl Judge {
    pub fn new(world: &World) -> Self {
        let count = world.node_count();
        Judge {
            voters: world.config().voters,
            nodes: vec![Truth::default(); count],
            names: world.config().names.clone(),
            instances: (0..count).map(|n| world.instance_of(n).0.clone()).collect(),
            addresses: (0..count).map(|n| world.address(n).to_string()).collect(),
            read_to: 0,
            histories: BTreeMap::new(),
            admissions: Vec::new(),
            active: None,
            sent: BTreeMap::new(),
            called: BTreeSet::new(),
            heard: BTreeMap::new(),
            written: BTreeMap::new(),
            in_time: BTreeMap::new(),
            came_up: BTreeMap::new(),
            hands_free: false,
            holder_lives: false,
            breaches: Vec::new(),
            trace: String::new(),
            calls: 0,
            level_then: BTreeMap::new(),
            leader_writer: Vec::new(),
            led_last: None,
            calendar: vec![(Duration::ZERO, 0)],
        }
    }

    pub fn note(&mut self, at: Duration, what: impl std::fmt::Display) {
        let _ = writeln!(self.trace, "{:9.3} {what}", at.as_secs_f64());
    }

    pub fn breach(&mut self, rule: &'static str, at: Duration, what: String) {
        self.note(at, format_args!("!!! {rule}: {what}"));
        self.breaches.push(Breach { rule, at, what });
    }

    pub fn person_changed_type(&mut self, n: usize) {
        self.nodes[n].type_foreign = true;
    }

    pub fn person_changed_priority(&mut self, n: usize) {
        self.nodes[n].priority_foreign = true;
    }

    /// Whether a node was stopped by the product, and has a process again that is not yet recorded as caught up: for a bug that does not see it.
    pub fn comes_back(&self, n: usize) -> bool {
        let history = self.active.and_then(|update| self.histories.get(&update));
        let last = history.and_then(|h| h.iter().rev().find(|e| e.text("node") == self.names[n]));
        last.is_some_and(|e| matches!(e.kind.as_str(), "InstanceStarted" | "InstanceRebootRequested"))
    }

    pub fn comes_up(&mut self, who: Incarnation, at: Duration) {
        self.came_up.insert(who, at);
    }

    /// The store answered a worker that reads an update's stream on, or appends to it.
    pub fn acknowledges(&mut self, who: Incarnation, update: Uuid, at: Duration) {
        let up = self.came_up.get(&who).copied().unwrap_or_default();
        self.heard.entry((who, update)).or_insert(Heard { last: up, away_until: None }).again(at, TICKET);
    }

    /// An append of a worker was acknowledged after so long, or came to nothing. A store that is in time for a call is so twice in a row.
    pub fn writes(&mut self, who: Incarnation, update: Uuid, at: Duration, took: Option<Duration>) {
        let in_time = took.is_some_and(|took| took <= ACT_WINDOW);
        let before = self.in_time.insert((who, update), in_time);
        if in_time && before != Some(false) {
            self.is_served(who, update, at);
        }
    }

    /// The store serves a worker well enough for a node to be brought back.
    fn is_served(&mut self, who: Incarnation, update: Uuid, at: Duration) {
        let up = self.came_up.get(&who).copied().unwrap_or_default();
        let served = self.written.entry((who, update)).or_insert(Heard { last: up, away_until: None });
        served.again(at, TICKET_WITH_LEADER);
    }

    /// Whether a worker reaches the store and EC2, and can do what there is to do; and whether whoever holds the active update lives.
    pub fn hands_are_free(&mut self, free: bool, holder_lives: bool) {
        (self.hands_free, self.holder_lives) = (free, holder_lives);
    }

    /// A read of the store got lost: while nobody who lives holds the update, that is what a take-over waits for.
    pub fn read_fails(&mut self, now: Duration) {
        if !self.holder_lives {
            self.start_may_wait(now);
        }
    }

    pub fn worker_dies(&mut self, now: Duration) {
        self.start_may_wait(now);
    }

    fn start_may_wait(&mut self, now: Duration) {
        self.nodes.iter_mut().for_each(|node| node.startable_since = node.startable_since.map(|_| now));
    }

    /// EC2 refused something, or did not say what is, or what became of it.
    pub fn ec2_fails(&mut self, now: Duration, call: Option<&Call>) {
        let started = match call {
            Some(Call::StartInstance { instance }) => self.of_instance(&instance.0),
            Some(_) | None => None,
        };
        self.start_may_wait(now);
        if let Some(n) = started {
            self.nodes[n].start_failed = true;
        }
    }

    /// Who holds the active update.
    pub fn holder(&self) -> Option<Incarnation> {
        holder_of(self.histories.get(&self.active?)?).map(Incarnation)
    }

    pub fn calendar_steps(&mut self, at: Duration, off: i64) {
        self.calendar.push((at, off));
    }

    /// What the calendars said then; nothing while they jumped.
    fn wall(&self, at: Duration) -> Option<jiff::Timestamp> {
        let jumps = self.calendar.iter().skip(1).any(|(step, _)| at.abs_diff(*step) < Duration::from_secs(1));
        let (_, off) = self.calendar.iter().rev().find(|(since, _)| *since <= at)?;
        let began: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        (!jumps).then(|| began + jiff::SignedDuration::from_secs(*off) + at)
    }

    pub fn is_ours(&self, n: usize) -> bool {
        self.nodes[n].ours
    }

    /// The priority that each node was last meant to have, by address: for bugs that do not look.
    pub fn wanted_priorities(&self) -> BTreeMap<String, i32> {
        let mut wanted = BTreeMap::new();
        for entry in self.histories.values().flatten() {
            if matches!(entry.kind.as_str(), "PriorityLoweringRequested" | "PriorityRestorationRequested")
                && let Some(n) = self.names.iter().position(|name| name == entry.text("node"))
                && let Some(priority) = entry.data.get("priority").and_then(Value::as_i64)
            {
                wanted.insert(self.addresses[n].clone(), i32::try_from(priority).unwrap_or_default());
            }
        }
        wanted
    }

    /// Whether the removal of this tag was asked for: for a bug that does not look whether it is gone.
    pub fn wants_removed(&self, tag: &str) -> bool {
        let mut intents = self.histories.values().flatten().filter(|e| e.kind == "TagRequested");
        intents.any(|e| e.removes() && e.text("value") == tag)
    }

    pub fn stops(&self) -> Vec<u32> {
        self.nodes.iter().map(|n| n.stops).collect()
    }

    /// An event is sent to the store.
    pub fn sends(&mut self, id: Uuid, kind: &str, who: Incarnation, at: Duration) {
        self.sent.entry(id).or_insert((at, who));
        if kind == "CaughtUp" {
            self.level_then.entry(id).or_default();
        }
    }

    /// Looks at everything.
    pub fn look(&mut self, cluster: &World, store: &World) {
        self.look_at_nodes(cluster);
        self.keep_levels();
        self.read(cluster, store);
    }

    fn look_at_nodes(&mut self, w: &World) {
        let now = w.now();
        let leader = w.leader();
        let writer = leader.and_then(|l| w.view(l).own().map(|e| e.writer));
        // What a leader before held and nobody else is truncated: nobody owes it to the present one.
        if leader.is_some() && leader != self.led_last {
            self.led_last = leader;
            self.leader_writer.clear();
        }
        if let Some(writer) = writer
            && self.leader_writer.last().is_none_or(|(at, _)| now.saturating_sub(*at) >= Duration::from_secs(1))
        {
            self.leader_writer.push((now, writer));
            if self.leader_writer.len() > 60 {
                self.leader_writer.remove(0);
            }
        }
        for n in 0..self.nodes.len() {
            let answers = w.reachability(n) == Reachability::Answers;
            let state = w.own_state(n);
            let in_charge = matches!(state, NodeState::Leader | NodeState::PreLeader | NodeState::ResigningLeader);
            let serves =
                answers && matches!(state, NodeState::Leader | NodeState::Follower | NodeState::ReadOnlyReplica);
            let instance = w.instance_state(n);
            let level = serves && (leader == Some(n) || self.level(w, n, now));
            let tag = w.facts().instances[n].details.tags.get(FENCE_TAG);
            let ours = tag.is_some_and(|t| self.active.is_some_and(|u| t.starts_with(&format!("{u}@"))));
            let truth = &mut self.nodes[n];
            set(&mut truth.unfenced_since, !ours, now);
            set(&mut truth.anothers_since, tag.is_some() && !ours, now);
            set(&mut truth.leads_since, in_charge && leader == Some(n), now);
            set(&mut truth.answers_since, answers, now);
            set(&mut truth.lost_since, !serves, now);
            set(&mut truth.off_since, instance != InstanceState::Running, now);
            set(&mut truth.runs_since, instance == InstanceState::Running, now);
            if level {
                truth.level_at = Some(now);
            }
            let ran = truth.state.is_none_or(|s| s == InstanceState::Running);
            let stops = matches!(instance, InstanceState::Stopping | InstanceState::Stopped);
            truth.state = Some(instance);
            let mut stopped = false;
            if ran && stops {
                truth.stops += 1;
                truth.foreign_stop = truth.stop_called.is_none();
                if truth.stop_called.take().is_some() {
                    truth.ours = true;
                    stopped = true;
                }
            }
            if truth.stop_called.is_some_and(|at| now.saturating_sub(at) > Duration::from_secs(12)) {
                truth.stop_called = None;
            }
            if truth.ours && level && !stops {
                truth.ours = false;
            }
            let startable = truth.ours && !truth.foreign_stop && instance == InstanceState::Stopped;
            set(&mut truth.startable_since, startable && self.hands_free, now);
            truth.start_failed &= truth.ours;
            let within = if truth.start_failed { STARTED_AGAIN } else { STARTED };
            if let Some(since) = truth.startable_since.filter(|since| now.saturating_sub(*since) > within) {
                truth.startable_since = Some(now);
                let waited = now.saturating_sub(since).as_secs();
                let what =
                    format!("{} is stopped by our doing, and nobody has started it for {waited} s", self.names[n]);
                self.breach("S6", now, what);
            }
            if stopped && n < self.voters {
                let ours: Vec<&str> =
                    (0..self.voters).filter(|m| self.nodes[*m].ours).map(|m| self.names[m].as_str()).collect();
                if ours.len() > 1 {
                    let what = format!("{} are out of service by our doing", ours.join(" and "));
                    self.breach("S1", now, what);
                }
            }
        }
    }

    /// Keeps when each node was level last, for what was said of one since the last look.
    fn keep_levels(&mut self) {
        for then in self.level_then.values_mut().filter(|then| then.is_empty()) {
            *then = self.nodes.iter().map(|n| n.level_at).collect();
        }
    }

    /// Whether a node holds what the leader held twenty seconds ago.
    fn level(&self, w: &World, n: usize, now: Duration) -> bool {
        let Some(own) = w.view(n).own().map(|e| e.writer) else { return false };
        let before = now.saturating_sub(Duration::from_secs(20));
        let owed = self.leader_writer.iter().rev().find(|(at, _)| *at <= before).or(self.leader_writer.first());
        owed.is_none_or(|(_, writer)| own >= *writer)
    }

    /// Reads what a quorum of the store has acknowledged since.
    fn read(&mut self, cluster: &World, store: &World) {
        let len = store.committed_len();
        if len == self.read_to {
            return;
        }
        let now = cluster.now();
        let ours = |stream: &str| stream.starts_with("clusterUpdate-") || stream.starts_with("updatedCluster-");
        let fresh: Vec<Record> = store.committed_from(self.read_to).filter(|r| ours(&r.stream)).cloned().collect();
        self.read_to = len;
        for record in fresh {
            let data: Value = serde_json::from_slice(&record.data).unwrap_or(Value::Null);
            let Some(update) = record.stream.strip_prefix("clusterUpdate-").and_then(|u| u.parse::<Uuid>().ok()) else {
                let update =
                    data.get("update").and_then(Value::as_str).and_then(|u| u.parse().ok()).unwrap_or_default();
                self.admission(now, &record.event_type, update);
                continue;
            };
            let meta: Value = serde_json::from_slice(&record.metadata).unwrap_or(Value::Null);
            let incarnation = meta.get("incarnation").and_then(Value::as_str).and_then(|i| i.parse().ok());
            let (revision, id, kind) = (record.revision, record.id, record.event_type);
            self.fact(cluster, update, Entry { revision, id, kind, data, incarnation, at: now });
        }
    }

    fn admission(&mut self, now: Duration, kind: &str, update: Uuid) {
        self.note(now, format_args!("store {kind} {}", short(update)));
        self.admissions.push((kind.to_owned(), update));
        match kind {
            "UpdateAdmitted" => {
                if let Some(active) = self.active {
                    self.breach("S9", now, format!("{} is admitted while {} is active", short(update), short(active)));
                }
                self.active = Some(update);
            }
            _ => {
                if self.active != Some(update) {
                    self.breach("S9", now, format!("{} is released and is not active", short(update)));
                }
                let ended = self.histories.get(&update).is_some_and(|h| h.iter().any(Entry::is_end));
                if !ended {
                    self.breach("S9", now, format!("{} is released before its end", short(update)));
                }
                self.active = None;
            }
        }
    }

    /// A fact or a command stands.
    fn fact(&mut self, w: &World, update: Uuid, entry: Entry) {
        let now = w.now();
        let node = entry.text("node");
        let mut shown = format!("store {}@{} {}", short(update), entry.revision, entry.kind);
        if !node.is_empty() {
            shown += &format!(" {node}");
        }
        for key in ["type", "reason", "code", "gate", "what", "found"] {
            if let Some(value) = entry.data.get(key).and_then(Value::as_str) {
                shown += &format!(" {key}={value}");
            }
        }
        if let Some(i) = entry.incarnation {
            shown += &format!(" by {}", who(Incarnation(i)));
        }
        self.note(now, shown);
        let sent = self.sent.get(&entry.id).map_or(now, |(at, _)| *at);
        let wall = self.wall(sent);
        let history = self.histories.entry(update).or_default();
        let mut broken: Vec<(&'static str, String)> = Vec::new();
        if entry.revision != history.len() as u64 {
            broken.push(("S8", format!("revision {} stands where {} is next", entry.revision, history.len())));
        }
        // A client that sends a command again, expecting any revision, may write it twice after a change of leader (so recorded).
        if !entry.is_command() && history.iter().any(|e| e.id == entry.id) {
            broken.push(("S8", format!("the id of {} stands twice", entry.kind)));
        }
        if !entry.is_command() {
            broken.extend(judge_fact(history, &entry));
            broken.extend(crate::policy::judge(history, &entry, sent, wall));
        }
        if let Some((_, sender)) = self.sent.get(&entry.id)
            && entry.incarnation.is_some_and(|i| i != sender.0)
        {
            broken.push(("S8", "it says another writer than it had".into()));
        }
        history.push(entry.clone());
        for (rule, what) in broken {
            self.breach(rule, now, format!("{} at {}: {what}", entry.kind, entry.revision));
        }
        self.judge_truth(w, update, &entry);
    }

    /// Facts against the world.
    fn judge_truth(&mut self, w: &World, update: Uuid, entry: &Entry) {
        let now = w.now();
        if entry.kind == "UpdatePlanned" {
            self.judge_who_is_left_out(now, entry);
        }
        let Some(n) = self.names.iter().position(|name| name == entry.text("node")) else {
            if entry.is_end() && entry.kind != "UpdateRejected" {
                let named: BTreeSet<&str> = entry.list("notRunning").filter_map(Value::as_str).collect();
                // What no member knew as the plan was made is told by the plan.
                let planned: Vec<String> =
                    self.histories[&update].iter().flat_map(Entry::planned).map(str::to_owned).collect();
                for n in 0..self.nodes.len() {
                    let off = self.off_for_long(n, now) && planned.contains(&self.names[n]);
                    if off && !named.contains(self.names[n].as_str()) {
                        let what = format!("{} does not run, and the end does not say so", self.names[n]);
                        self.breach("S6", now, what);
                    }
                    // What somebody stopped meanwhile is his, where the end says that it does not run.
                    let theirs = self.nodes[n].foreign_stop && named.contains(self.names[n].as_str());
                    if self.nodes[n].ours && !theirs {
                        let what = format!(
                            "{} was stopped by us and is not back at the end, which names {named:?} as not running",
                            self.names[n]
                        );
                        self.breach("S6", now, what);
                    }
                }
            }
            return;
        };
        if entry.kind == "CaughtUp" {
            // It may stand long after it was said.
            let said = self.sent.get(&entry.id).map_or(now, |(at, _)| *at);
            let level = self.level_then.get(&entry.id).and_then(|then| then.get(n).copied().flatten());
            if level.is_none_or(|at| said.saturating_sub(at) > KNOWABLE) {
                let state = w.own_state(n);
                self.breach("caught up", now, format!("{} has not caught up: it is {state}", self.names[n]));
            }
        }
    }

    /// Whether EC2 must have said of its instance by now that it does not run.
    fn off_for_long(&self, n: usize, now: Duration) -> bool {
        self.nodes[n].off_since.is_some_and(|since| now.saturating_sub(since) > DESCRIBED)
    }

    /// A node that is down may be forgotten by all members: whoever configured it is told.
    fn judge_who_is_left_out(&mut self, now: Duration, plan: &Entry) {
        for n in 0..self.nodes.len().min(SEEDS) {
            if self.off_for_long(n, now)
                && plan.planned().all(|node| node != self.names[n])
                && !plan.tells("missingMember", &self.addresses[n])
            {
                self.breach(
                    "S6",
                    now,
                    format!("{} does not run, and the plan does not say that it leaves it out", self.names[n]),
                );
            }
        }
    }

    /// A call that changes something leaves a worker.
    pub fn call(&mut self, w: &World, me: Incarnation, call: &Call) {
        let now = w.now();
        self.calls += 1;
        self.note(now, format_args!("{} calls: {call}", who(me)));
        let (kinds, target): (&[&str], Option<usize>) = match call {
            Call::StopInstance { instance } => (&["InstanceStopRequested"], self.of_instance(&instance.0)),
            Call::ModifyType { instance, .. } => (&["TypeModificationRequested"], self.of_instance(&instance.0)),
            Call::StartInstance { instance } => (&["InstanceStartRequested"], self.of_instance(&instance.0)),
            Call::RebootInstance { instance } => (&["InstanceRebootRequested"], self.of_instance(&instance.0)),
            Call::Tag { instance, .. } | Call::Untag { instance, .. } => {
                (&["TagRequested"], self.of_instance(&instance.0))
            }
            Call::Resign { address } => (&["ResignationRequested"], self.of_address(&address.to_string())),
            Call::SetPriority { address, .. } => {
                (&["PriorityLoweringRequested", "PriorityRestorationRequested"], self.of_address(&address.to_string()))
            }
        };
        let Some(n) = target else {
            return self.breach("S5", now, format!("{call}: no node of this cluster"));
        };
        let Some(update) = self.active else {
            return self.breach("S4", now, format!("{call}: no update is active"));
        };
        let history = self.histories.get(&update).cloned().unwrap_or_default();
        if history.iter().any(Entry::is_end) {
            self.breach("S4", now, format!("{call}: the update has ended"));
        }
        if let Call::Resign { .. } = call {
            let turn = history.iter().rev().filter(|e| e.text("node") == self.names[n]);
            let lowered = turn.take_while(|e| e.kind != "NodeSelected").any(|e| e.kind == "PriorityLowered");
            // A person may have lowered it.
            let priority = |m: usize| w.view(m).own().map(|e| e.priority);
            let lowest =
                (0..self.voters).filter(|m| *m != n).all(|m| priority(m).is_none_or(|p| Some(p) > priority(n)));
            if !lowered && !lowest {
                self.breach("S10", now, format!("{call}: its priority was not lowered in this turn"));
            }
        }
        self.judge_plan(now, &history, n, call);
        self.judge_warrant(now, &history, n, me, kinds, call);
        self.judge_service(w, n, me, call);
        self.judge_fence(now, &history, n, update, call);
    }

    /// A call came back without effect.
    pub fn refused(&mut self, call: &Call) {
        if let Call::StopInstance { instance } = call
            && let Some(n) = self.of_instance(&instance.0)
        {
            self.nodes[n].stop_called = None;
        }
    }

    fn judge_plan(&mut self, now: Duration, history: &[Entry], n: usize, call: &Call) {
        let plan = history.iter().find(|e| e.kind == "UpdatePlanned");
        let mut members = plan.into_iter().flat_map(|p| p.list("members"));
        let planned = members.find(|m| m.get("node").and_then(Value::as_str) == Some(&self.names[n]));
        let instance = planned.and_then(|m| m.get("instance")).and_then(Value::as_str);
        if instance != Some(self.instances[n].as_str()) {
            self.breach("S5", now, format!("{call}: not in the plan"));
        }
        let voters = plan.and_then(|p| p.data.get("voters")).and_then(Value::as_u64);
        if voters != Some(self.voters as u64) {
            let what = format!("{call}: the plan says {voters:?} voters, {} are configured", self.voters);
            self.breach("S3", now, what);
        }
    }

    /// S4: with its recorded intent, by whom it was written, once, within the window; or with the return ticket.
    fn judge_warrant(
        &mut self,
        now: Duration,
        history: &[Entry],
        n: usize,
        me: Incarnation,
        kinds: &[&str],
        call: &Call,
    ) {
        let node = self.names[n].clone();
        let newest = history.iter().rev().find(|e| e.is_intent());
        let intent = newest.filter(|e| kinds.contains(&e.kind.as_str()) && e.text("node") == node);
        let mut why = Vec::new();
        match intent {
            None => why.push("its intent is not the newest that stands".to_owned()),
            Some(e) => {
                if e.incarnation != Some(me.0) {
                    why.push("its intent was written by another".into());
                }
                match self.sent.get(&e.id) {
                    Some((first, _)) if now.saturating_sub(*first) <= ACT_WINDOW + Duration::from_millis(20) => {}
                    Some((first, _)) => {
                        why.push(format!("its intent was sent {:.1} s ago", now.saturating_sub(*first).as_secs_f64()));
                    }
                    None => why.push("its intent was never sent".into()),
                }
                if !self.called.insert(e.id) {
                    why.push("its call was made already".into());
                }
                let answered = history.iter().any(|f| {
                    f.revision > e.revision
                        && f.text("node") == node
                        && matches!(
                            f.kind.as_str(),
                            "InstanceStopped"
                                | "TypeModified"
                                | "InstanceStarted"
                                | "InstanceStartFailed"
                                | "LeadershipTransferred"
                                | "PriorityLowered"
                                | "PriorityRestored"
                                | "Tagged"
                                | "Untagged"
                        )
                });
                if answered {
                    why.push("its intent has been answered".into());
                }
                let asked_for = match call {
                    Call::ModifyType { to, .. } => e.text("type") == to.0,
                    Call::SetPriority { priority, .. } => {
                        e.data.get("priority").and_then(Value::as_i64) == Some(i64::from(*priority))
                    }
                    Call::Tag { value, .. } => e.text("value") == value && !e.removes(),
                    Call::Untag { value, .. } => e.text("value") == value && e.removes(),
                    Call::StopInstance { .. }
                    | Call::StartInstance { .. }
                    | Call::RebootInstance { .. }
                    | Call::Resign { .. } => true,
                };
                if !asked_for {
                    why.push("the intent says something else".into());
                }
            }
        }
        if why.is_empty() {
            let assigned = history.iter().rev().find(|e| e.kind == "WorkerAssigned");
            let taken_over = assigned.filter(|e| e.text("reason") != "admitted" && e.incarnation == Some(me.0));
            let quiet =
                taken_over.and_then(|e| self.sent.get(&e.id)).is_some_and(|(at, _)| now.saturating_sub(*at) < QUIET);
            let returns = matches!(call, Call::ModifyType { .. } | Call::StartInstance { .. });
            if quiet && !returns {
                self.breach("S4", now, format!("{call}: so soon after a take-over"));
            }
            // Where the return ticket is open as well, it may have been by that, and the store serves nobody.
            if let (Call::StartInstance { .. }, Some(update)) = (call, self.active)
                && !self.ticket_is_open(me, now)
            {
                self.is_served(me, update, now);
            }
            return;
        }
        // The return ticket.
        let stop = history.iter().rev().find(|e| e.kind == "InstanceStopRequested");
        let for_it = stop.is_some_and(|e| e.text("node") == node);
        let returns = match call {
            Call::StartInstance { .. } => true,
            Call::ModifyType { to, .. } => {
                stop.is_some_and(|e| e.list("returnTypes").any(|t| t.as_str() == Some(&to.0)))
            }
            Call::StopInstance { .. }
            | Call::RebootInstance { .. }
            | Call::Tag { .. }
            | Call::Untag { .. }
            | Call::Resign { .. }
            | Call::SetPriority { .. } => false,
        };
        let away = self.ticket_is_open(me, now);
        // EC2 may say for a while what was true before, and what runs is started once more without effect.
        let runs = self.nodes[n].runs_since.is_some_and(|since| now.saturating_sub(since) >= EC2_KNOWABLE);
        if !(for_it && returns && away && !runs) {
            self.breach("S4", now, format!("{call}: {}", why.join(", ")));
        }
    }

    /// Whether the store has kept this worker from recording for as long as opens a return ticket.
    fn ticket_is_open(&self, me: Incarnation, now: Duration) -> bool {
        let of = (me, self.active.unwrap_or_default());
        let up = self.came_up.get(&me).copied().unwrap_or_default();
        let since_up = Heard { last: up, away_until: None };
        self.heard.get(&of).unwrap_or(&since_up).was_away(now, TICKET)
            || self.written.get(&of).unwrap_or(&since_up).was_away(now, TICKET_WITH_LEADER)
    }

    /// S1, S2, S3, S6: who serves.
    fn judge_service(&mut self, w: &World, n: usize, me: Incarnation, call: &Call) {
        let now = w.now();
        let takes = matches!(call, Call::StopInstance { .. } | Call::Resign { .. });
        if let Call::RebootInstance { .. } = call
            && let Some(since) = self.nodes[n].answers_since.filter(|since| now.saturating_sub(*since) >= KNOWABLE)
        {
            let answered = now.saturating_sub(since).as_secs_f64();
            self.breach("reboot", now, format!("{call}: {} has answered for {answered:.1} s", self.names[n]));
        }
        if !matches!(call, Call::ModifyType { .. } | Call::StartInstance { .. } | Call::RebootInstance { .. }) {
            let down: Vec<usize> = (0..self.nodes.len()).filter(|m| *m != n && self.nodes[*m].ours).collect();
            for m in down {
                let what = format!("{call}, while {} is down by our doing", self.names[m]);
                self.breach(if n < self.voters && m < self.voters { "S1" } else { "S6" }, now, what);
            }
        }
        if let Call::StopInstance { .. } = call {
            self.nodes[n].stop_called = Some(now);
            if let Some(since) = self.nodes[n].leads_since
                && now.saturating_sub(since) >= KNOWABLE
                && self.voters > 1
            {
                let what =
                    format!("{call} by {}: it has led for {:.1} s", who(me), now.saturating_sub(since).as_secs_f64());
                self.breach("S2", now, what);
            }
        }
        if takes && n < self.voters {
            for m in (0..self.voters).filter(|m| *m != n) {
                if let Some(since) = self.nodes[m].lost_since
                    && now.saturating_sub(since) >= KNOWABLE
                {
                    let what = format!(
                        "{call}, while voter {} has been {} for {:.1} s",
                        self.names[m],
                        w.own_state(m),
                        now.saturating_sub(since).as_secs_f64()
                    );
                    self.breach("S3", now, what);
                }
                let level = self.nodes[m].level_at;
                if level.is_none_or(|at| now.saturating_sub(at) >= LEVEL_KNOWABLE) {
                    let what = format!("{call}, while voter {} has not been level since {level:?}", self.names[m]);
                    self.breach("S3", now, what);
                }
                let leads = self.nodes[m].leads_since.filter(|since| now.saturating_sub(*since) >= KNOWABLE);
                if let (Some(since), Call::Resign { .. }) = (leads, call) {
                    let leads = now.saturating_sub(since).as_secs_f64();
                    let what = format!("{call}, while {} has led for {leads:.1} s", self.names[m]);
                    self.breach("S2", now, what);
                }
            }
        }
    }

    /// The fence outside the store: no stop without this update's tag on the instance, none written over another's, and nothing about tags
    /// while the node is out of service.
    fn judge_fence(&mut self, now: Duration, history: &[Entry], n: usize, update: Uuid, call: &Call) {
        let long = |since: Option<Duration>| since.is_some_and(|at| now.saturating_sub(at) >= EC2_KNOWABLE);
        let (unfenced, anothers) = (long(self.nodes[n].unfenced_since), long(self.nodes[n].anothers_since));
        if let Call::StopInstance { .. } = call
            && unfenced
        {
            self.breach("fence", now, format!("{call}: it does not carry the tag of {}", short(update)));
        }
        let (Call::Tag { value, .. } | Call::Untag { value, .. }) = call else { return };
        if !value.starts_with(&format!("{update}@")) {
            self.breach("fence", now, format!("{call}: the value is not one of {}", short(update)));
        }
        if let Call::Tag { .. } = call
            && anothers
        {
            self.breach("fence", now, format!("{call}: it carries another's tag"));
        }
        let of_node = history.iter().rev().filter(|e| e.text("node") == self.names[n]);
        let service = of_node.map(|e| (e.kind.as_str(), e.text("what")));
        let down = service
            .take_while(|(kind, _)| *kind != "NodeSelected")
            .find(|(kind, what)| matches!(*kind, "CaughtUp" | "InstanceStopRequested") || *what == "stopNotDone")
            .is_some_and(|(kind, _)| kind == "InstanceStopRequested");
        if down {
            self.breach("fence", now, format!("{call}: {} is out of service", self.names[n]));
        }
    }

    /// No tag is left on an instance, unless the history says so.
    fn fences_left(&mut self, w: &World) {
        for n in 0..self.nodes.len() {
            let Some(tag) = w.facts().instances[n].details.tags.get(FENCE_TAG) else { continue };
            let whose = self.histories.iter().find(|(u, _)| tag.starts_with(&format!("{u}@")));
            let Some((update, history)) = whose else { continue };
            let last = history.iter().rev().find(|e| e.kind == "Untagged" && e.text("node") == self.names[n]);
            if last.is_none_or(|e| e.text("code").is_empty()) {
                let what = format!("{} still carries a tag of {}", self.names[n], short(*update));
                self.breach("fence", w.now(), what);
            }
        }
    }

    fn of_instance(&self, id: &str) -> Option<usize> {
        self.instances.iter().position(|i| i == id)
    }

    fn of_address(&self, address: &str) -> Option<usize> {
        self.addresses.iter().position(|a| a == address)
    }

    /// Everything is well, and the update has ended: what must be so now.
    pub fn at_the_end(&mut self, w: &World, update: Uuid, calm: bool) {
        let now = w.now();
        for n in 0..self.nodes.len() {
            if w.instance_state(n) != InstanceState::Running && !self.nodes[n].foreign_stop {
                let what = format!("{} does not run", self.names[n]);
                self.breach("S6", now, what);
            }
            let priority = w.view(n).own().map(|e| e.priority);
            if !self.nodes[n].priority_foreign && priority.is_some_and(|p| p != 0) {
                let what = format!("{} is left with priority {}", self.names[n], priority.unwrap_or_default());
                self.breach("S7", now, what);
            }
        }
        self.fences_left(w);
        let history = self.histories.get(&update).cloned().unwrap_or_default();
        let results = crate::policy::results(&history);
        // What is said of a node last: one that was updated may have been brought back since.
        for e in results.values().filter(|e| e.kind == "NodeUpdated" || e.kind == "NodeRolledBack") {
            let Some(n) = self.names.iter().position(|name| name == e.text("node")) else { continue };
            let is = w.instance_type(n).to_owned();
            // An update that came after this one may have changed it again.
            let again = self.histories.iter().filter(|(other, _)| **other != update).flat_map(|(_, h)| h);
            let mut again = again.filter(|f| f.text("node") == e.text("node"));
            // On a return ticket nobody could write down that it was: the result of that update says so.
            let again = again.any(|f| match f.kind.as_str() {
                "TypeModified" => true,
                "NodeUpdated" | "NodeRolledBack" => f.text("type") == is,
                _ => false,
            });
            if is != e.text("type") && !self.nodes[n].type_foreign && !again {
                let what = format!("{} is {is}, its {} says {}", self.names[n], e.kind, e.text("type"));
                self.breach("S8", now, what);
            }
        }
        let completed = history.iter().any(|e| e.kind == "UpdateCompleted");
        if calm {
            if !completed {
                self.breach("L1", now, "nothing went wrong, and the update did not complete".into());
            }
            if w.elections() > 1 {
                self.breach("S10", now, format!("nothing went wrong, and {} elections were held", w.elections()));
            }
            if self.nodes.iter().any(|n| n.stops != 1) {
                let what = format!("nothing went wrong, and instances were stopped {:?} times", self.stops());
                self.breach("S8", now, what);
            }
        }
    }
}

fn holder_of(history: &[Entry]) -> Option<Uuid> {
    history.iter().rev().find(|e| e.kind == "WorkerAssigned").and_then(|e| e.incarnation)
}

/// S8 and L3: a fact against the facts before it.
fn judge_fact(history: &[Entry], entry: &Entry) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    let node = entry.text("node");
    if entry.id.get_version_num() != 5 {
        broken.push(("S8", "its id is not derived from what it says".to_owned()));
    }
    if history.iter().any(Entry::is_end) && entry.kind != "CommandRefused" {
        broken.push(("S8", "after the end".into()));
    }
    let holder = holder_of(history);
    match entry.kind.as_str() {
        "WorkerAssigned" => {
            let named = entry.data.get("incarnation").and_then(Value::as_str).and_then(|i| i.parse::<Uuid>().ok());
            if named != entry.incarnation {
                broken.push(("S8", "it names another than its writer".into()));
            }
            if named == holder {
                broken.push(("S8", "its writer held the update already".into()));
            }
        }
        "UpdateRejected" | "CommandRefused" => {}
        _ if holder != entry.incarnation => broken.push(("S8", "its writer does not hold the update".into())),
        _ => {}
    }
    let once: &[&str] = &["UpdateAccepted", "UpdatePlanned"];
    if once.contains(&entry.kind.as_str()) && history.iter().any(|e| e.kind == entry.kind) {
        broken.push(("S8", "it stands already".into()));
    }
    let results: &[&str] = &["NodeUpdated", "NodeRolledBack", "NodeFailed", "NodeSkipped"];
    // What a person may have said since: then a node that has a result is taken once more.
    let last_result = history.iter().rposition(|e| results.contains(&e.kind.as_str()) && e.text("node") == node);
    let last_selected = history.iter().rposition(|e| e.kind == "NodeSelected" && e.text("node") == node);
    let in_hand = last_selected > last_result;
    if results.contains(&entry.kind.as_str()) && last_result.is_some() && !in_hand {
        // One that failed and is taken again may be found as it is wanted.
        let retried = last_result.is_some_and(|at| history[at..].iter().any(|e| e.kind == "UpdateResumed"));
        let skipped_again = entry.kind == "NodeSkipped" && (goes_back(history) || retried);
        if !skipped_again {
            broken.push(("S8", "the node has a result already".into()));
        }
    }
    if entry.kind == "NodeSelected" {
        let again = last_result.is_some_and(|at| {
            let since = &history[at..];
            let retried = since.iter().any(|e| e.kind == "UpdateResumed");
            let done = history[at].kind == "NodeUpdated";
            if done { goes_back(history) } else { retried }
        });
        if last_selected.is_some() && !again {
            broken.push(("S8", "the node was selected already".into()));
        }
        let nodes: BTreeSet<&str> =
            history.iter().filter(|e| e.kind == "NodeSelected").map(|e| e.text("node")).collect();
        let open = nodes.iter().any(|n| {
            let last =
                |kinds: &[&str]| history.iter().rposition(|e| kinds.contains(&e.kind.as_str()) && e.text("node") == *n);
            last(&["NodeSelected"]) > last(results)
        });
        if open {
            broken.push(("S8", "another node is in hand".into()));
        }
    }
    // Each outcome answers one intent.
    let intents: &[&str] = match entry.kind.as_str() {
        "InstanceStopped" => &["InstanceStopRequested"],
        "TypeModified" => &["TypeModificationRequested"],
        "InstanceStarted" => &["InstanceStartRequested"],
        // A type that cannot be set cannot be started.
        "InstanceStartFailed" => &["InstanceStartRequested", "TypeModificationRequested"],
        "PriorityLowered" => &["PriorityLoweringRequested"],
        "LeadershipTransferred" => &["ResignationRequested"],
        "Tagged" => &["TagRequested"],
        _ => &[],
    };
    let by_ticket = entry.data.get("returnTicket").and_then(Value::as_bool) == Some(true);
    if !intents.is_empty() && !by_ticket {
        let open = |e: &&Entry| intents.contains(&e.kind.as_str());
        let last = history.iter().rev().find(|e| e.text("node") == node && (open(e) || e.kind == entry.kind));
        if last.filter(open).is_none() {
            broken.push(("S8", format!("no open {} stands before it", intents.join(" or "))));
        }
    }
    // A node's turn does not end while its instance carries the tag.
    let tagged = |node: &str| {
        let of_tag = |e: &&Entry| matches!(e.kind.as_str(), "TagRequested" | "Untagged") && e.text("node") == node;
        history.iter().rev().find(of_tag).is_some_and(|e| e.kind == "TagRequested")
    };
    let over = results.contains(&entry.kind.as_str()) && tagged(node);
    let ended = entry.is_end() && history.iter().any(|e| e.kind == "NodeSelected" && tagged(e.text("node")));
    if (over || ended) && entry.text("code") != "instanceTerminated" {
        broken.push(("fence", "the tag is still to be removed".into()));
    }
    // L3: cancel takes hold before the next stop; pause is policy's.
    if entry.kind == "InstanceStopRequested" {
        let last = |kinds: &[&str]| history.iter().rev().find(|e| kinds.contains(&e.kind.as_str()));
        let cancelled = last(&["CancelRequested"]).is_some_and(|e| e.revision > 0);
        let again = history.iter().rev().take_while(|e| e.kind != "NodeSelected").any(|e| e.kind == "InstanceStopped");
        if cancelled && !again {
            broken.push(("L3", "cancelled".into()));
        }
    }
    broken
}

/// Whether somebody asked to bring back what was done, by a command or by the request where a node failed.
pub fn goes_back(history: &[Entry]) -> bool {
    // Before the plan there is nothing to bring back: that is refused.
    let planned = history.iter().position(|e| e.kind == "UpdatePlanned").unwrap_or(history.len());
    let by_command = history[planned..].iter().any(|e| e.kind == "RollbackRequested");
    let policy = history.first().is_some_and(|e| e.text("onFailure") == "rollBackAll");
    // What somebody else did to a node is no failure of it: the update pauses, and goes on where a person says so.
    let failed = history
        .iter()
        .any(|e| e.kind == "NodeFailed" || e.kind == "NodeRolledBack" && e.text("code") != "foreignChange");
    by_command || policy && failed
}

fn set(since: &mut Option<Duration>, holds: bool, now: Duration) {
    if holds {
        since.get_or_insert(now);
    } else {
        *since = None;
    }
}

pub fn short(update: Uuid) -> String {
    format!("u{}", update.as_u128() & 0xff)
}

/// `w2.3`: the third life of worker 2.
pub fn who(incarnation: Incarnation) -> String {
    let n = incarnation.0.as_u128() & 0xffff_ffff;
    format!("w{}.{}", n >> 16, n & 0xffff)
}
