//! The rules for *caught up* and for *agreement*, replayed over recordings of real clusters (`tests/recorded/`).
//!
//! The recordings hold no `timeStamp` of gossip entries, so something has to stand in for a refresh:
//!
//! * `restart-*.jsonl`: a change of any value of the node's own entry. They were taken under write load, where every refresh moves the
//!   writer position. A node that cannot write refreshes unseen: fewer refreshes than there were, never more.
//! * `timeline-*.log` hold no positions. A node refreshes its own entry when its own state changes and with its gossip round, every 2 s.
//!   Whether other changes of its view came with a refresh is not known, so both readings are replayed ([`StandIn`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use esdb_rollout::domain::agreement::{Agreement, judge};
use esdb_rollout::domain::catch_up::{Behind, NotCaughtUp, REFRESHES_NEEDED, SPAN_NEEDED, level};
use esdb_rollout::domain::cluster::{MemberEntry, NodeState, View};
use esdb_rollout::domain::ids::{Address, NodeName, ProcessId};
use esdb_rollout::domain::time::Moment;
use esdb_rollout::domain::watch::{Answer, ClusterWatch};
use serde::Deserialize;
use uuid::Uuid;

/// `maxReplicationDelay` by default.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Between two gossip rounds of a node, after its first twenty, which are 100 ms apart.
const GOSSIP_ROUND: Duration = Duration::from_secs(2);
/// Within this the rule has to fire once all views agree.
const PROMPT: Duration = Duration::from_secs(3);
/// Between two looks of this observer where the recording has only changes.
const LOOK: Duration = Duration::from_millis(100);

const RESTARTS: [&str; 10] = [
    "23.10.5/restart-follower-SIGKILL.jsonl",
    "23.10.5/restart-follower-SIGTERM-60000x8.jsonl",
    "23.10.5/restart-follower-SIGTERM.jsonl",
    "23.10.5/restart-leader-SIGKILL.jsonl",
    "23.10.5/restart-leader-SIGTERM.jsonl",
    "23.10.5/restart-replica-SIGTERM.jsonl",
    "26.1.0/restart-follower-SIGTERM.jsonl",
    "26.1.0/restart-leader-SIGKILL-3.jsonl",
    "26.1.0/restart-leader-SIGTERM.jsonl",
    "26.1.0/restart-replica-SIGTERM.jsonl",
];

type Number = u32;

fn recorded(file: &str) -> String {
    let path = folder().join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded")
}

/// Recordings whose name starts with `prefix`, as `version/file`.
fn files(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for version in ["23.10.5", "26.1.0"] {
        for entry in fs::read_dir(folder().join(version)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with(prefix) {
                found.push(format!("{version}/{name}"));
            }
        }
    }
    found.sort();
    found
}

fn name(node: Number) -> NodeName {
    NodeName(format!("n{node}"))
}

fn address(node: Number) -> Address {
    Address::new(format!("n{node}"), 2113)
}

fn seconds(t: f64) -> Moment {
    Moment(Duration::from_millis((t * 1000.0).round() as u64))
}

fn state(word: &str) -> NodeState {
    let state = serde_json::from_value(serde_json::Value::String(word.to_owned())).unwrap();
    assert_ne!(state, NodeState::Unrecognized, "the state {word}");
    state
}

/// The process that stands for a node, or for one life of it.
fn process(node: Number, life: u32) -> ProcessId {
    ProcessId(Uuid::from_u128(u128::from(node) << 32 | u128::from(life)))
}

fn entry(node: Number, process: ProcessId, state: NodeState, is_alive: bool) -> MemberEntry {
    MemberEntry {
        process,
        time_stamp: String::new(),
        state,
        is_alive,
        address: address(node),
        replication: Address::new(format!("n{node}"), 1112),
        last_commit: 0,
        writer: 0,
        chaser: 0,
        epoch_position: 0,
        epoch: 0,
        epoch_id: Uuid::nil(),
        priority: 0,
        is_read_only_replica: node == 4,
        version: None,
    }
}

// Restarts.

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Own {
    state: String,
    inst: String,
    epoch: i32,
    writer: i64,
    chaser: i64,
    commit: i64,
}

/// States by member, and whether it is called alive.
type SeenView = BTreeMap<Number, (String, bool)>;

#[derive(Debug, Deserialize)]
struct Sample {
    t: f64,
    health: Vec<Option<u16>>,
    own: BTreeMap<Number, Option<Own>>,
    #[serde(default)]
    views: BTreeMap<Number, Option<SeenView>>,
    mark: Option<String>,
}

/// A sample with the views that were still standing filled in.
struct Look {
    at: Moment,
    live: BTreeMap<Number, Option<bool>>,
    own: BTreeMap<Number, Option<Own>>,
    views: BTreeMap<Number, Option<SeenView>>,
}

struct Restart {
    node: Number,
    /// When the process was started.
    start: Moment,
    /// When the recording's own observer called it caught up.
    summary: Moment,
    looks: Vec<Look>,
}

impl Restart {
    fn read(file: &str) -> Restart {
        let text = recorded(file);
        let mut lines = text.lines();
        let head: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        let after_start = head["summary"]["after_start"]["caught up"].as_f64().unwrap();
        let mut started = None;
        let mut views = BTreeMap::new();
        let mut looks = Vec::new();
        for line in lines {
            let sample: Sample = serde_json::from_str(line).unwrap();
            if let Some(node) = sample.mark.as_ref().and_then(|m| m.strip_prefix("start n")) {
                started = Some((node.parse().unwrap(), sample.t));
            }
            views.extend(sample.views);
            let live = (1..).zip(&sample.health).map(|(n, h)| (n, h.map(|code| code == 204))).collect();
            looks.push(Look { at: seconds(sample.t), live, own: sample.own, views: views.clone() });
        }
        let (node, t) = started.expect("a start");
        Restart { node, start: seconds(t), summary: seconds(t + after_start), looks }
    }

    fn before(&self) -> &str {
        &self.looks[0].own[&self.node].as_ref().unwrap().inst
    }

    /// The own entry of the started process, if it serves: its role, and the epoch of the leader.
    fn serving<'a>(&self, look: &'a Look) -> Option<&'a Own> {
        let own = look.own[&self.node].as_ref()?;
        let role = if self.node == 4 { "ReadOnlyReplica" } else { "Follower" };
        let leader = look.own.values().flatten().find(|o| o.state == "Leader")?;
        (own.inst != self.before() && own.state == role && own.epoch == leader.epoch).then_some(own)
    }

    /// The moment from which the node is really back, reckoned without the rule: it serves, and has written and indexed all that its
    /// leader was known to have written and indexed [`MAX_DELAY`] before.
    fn truth(&self) -> Moment {
        let back = |look: &Look| {
            let Some(own) = self.serving(look) else { return false };
            let known = self.looks.iter().filter(|l| look.at.since(l.at) >= MAX_DELAY);
            let mut leaders = known.flat_map(|l| l.own.values().flatten()).filter(|o| o.state == "Leader");
            leaders.all(|leader| own.writer >= leader.writer && own.commit >= leader.commit)
        };
        self.looks.iter().find(|l| back(l)).expect("it comes back").at
    }

    /// The moment from which all views show the same, with one leader and the node in its role.
    fn agreed(&self) -> Moment {
        let truth = self.truth();
        let agree = |look: &Look| {
            let first = look.views[&1].as_ref();
            let leaders = first.map_or(0, |v| v.values().filter(|(s, alive)| *alive && s == "Leader").count());
            look.views.values().all(|v| v.is_some() && v.as_ref() == first)
                && leaders == 1
                && self.serving(look).is_some()
        };
        let last_not = self.looks.iter().rposition(|l| l.at < truth || !agree(l)).unwrap();
        self.looks.get(last_not + 1).expect("all views agree in the end").at
    }
}

/// In which order the answers of one sample arrive: not recorded, so it must not matter.
#[derive(Clone, Copy, Debug)]
enum Order {
    Up,
    Down,
}

/// Feeds looks to a watch.
struct Observer {
    node: Number,
    before: String,
    watch: ClusterWatch,
    /// Each node's last own entry, and its refreshes so far.
    last: BTreeMap<Number, (Own, u64)>,
    processes: BTreeMap<String, ProcessId>,
    order: Order,
}

impl Observer {
    fn new(restart: &Restart, order: Order) -> Self {
        Observer {
            node: restart.node,
            before: restart.before().to_owned(),
            watch: ClusterWatch::new((1..=4).map(name)),
            last: BTreeMap::new(),
            processes: BTreeMap::new(),
            order,
        }
    }

    fn process(&mut self, node: Number, inst: &str) -> ProcessId {
        let life = self.processes.len() as u32 + 1;
        *self.processes.entry(inst.to_owned()).or_insert_with(|| process(node, life))
    }

    /// `also` refreshes that node's entry though its values did not change.
    fn absorb(&mut self, look: &Look, at: Moment, also: Option<Number>) {
        for (node, own) in &look.own {
            let Some(own) = own else { continue };
            let refreshes = self.last.get(node).map_or(0, |(before, n)| n + u64::from(before != own));
            self.last.insert(*node, (own.clone(), refreshes + u64::from(also == Some(*node))));
        }
        let mut nodes: Vec<Number> = look.own.keys().copied().collect();
        if matches!(self.order, Order::Down) {
            nodes.reverse();
        }
        for node in nodes {
            let answer = self.answer(look, node);
            self.watch.absorb(&name(node), at, answer);
        }
    }

    fn answer(&mut self, look: &Look, node: Number) -> Answer {
        let (Some(own), Some(Some(seen))) = (&look.own[&node], look.views.get(&node)) else {
            return Answer::Silent { why: "recorded".into() };
        };
        let mut members = Vec::new();
        for (member, (word, alive)) in seen {
            if *member == node {
                continue;
            }
            // Views were recorded without ids: a member is whom its node last said it was.
            let inst = self.last.get(member).map_or_else(|| format!("n{member}"), |(o, _)| o.inst.clone());
            let process = self.process(*member, &inst);
            members.push(entry(*member, process, state(word), *alive));
        }
        let process = self.process(node, &own.inst);
        members.push(MemberEntry {
            time_stamp: self.last[&node].1.to_string(),
            epoch: own.epoch,
            writer: own.writer,
            chaser: own.chaser,
            last_commit: own.commit,
            ..entry(node, process, state(&own.state), true)
        });
        Answer::View { view: View { server: address(node), members }, live: look.live[&node] }
    }

    /// The rule, as the product asks it: a new process, level with the leader, agreement, and then health.
    fn caught_up(&self, now: Moment) -> bool {
        let track = self.watch.node(&name(self.node)).unwrap();
        let new = track.own(now).is_some_and(|own| Some(&own.process) != self.processes.get(&self.before));
        new && self.level(now).is_ok() && self.agreed(now) && track.live.is_some_and(|(_, live)| live)
    }

    fn level(&self, now: Moment) -> Result<(), NotCaughtUp> {
        level(self.watch.node(&name(self.node)).unwrap(), self.watch.samples(), MAX_DELAY, now)
    }

    fn agreed(&self, now: Moment) -> bool {
        matches!(judge(&self.watch, &(1..=4).map(name).collect(), &BTreeSet::new(), now), Agreement::Yes { .. })
    }
}

/// What came of replaying a restart.
#[derive(Debug)]
struct Fired {
    /// When the rule fired.
    at: Moment,
    /// Whether the recording had ended.
    continued: bool,
}

/// Replays a restart. Most recordings end about 2 s after the node serves, before three refreshes can span 2 s. Those are continued
/// by what is known of the node: its values stay, and it refreshes its entry once more, with its next gossip round, at the latest
/// [`GOSSIP_ROUND`] after its last refresh. Nothing is made up for the others: they stay as last seen.
fn replay(restart: &Restart, order: Order) -> Fired {
    let mut observer = Observer::new(restart, order);
    let mut fired = None;
    let mut refreshed = (0, Moment::default());
    for look in &restart.looks {
        observer.absorb(look, look.at, None);
        if let Some((_, refreshes)) = observer.last.get(&restart.node)
            && *refreshes != refreshed.0
        {
            refreshed = (*refreshes, look.at);
        }
        let caught_up = observer.caught_up(look.at);
        let back = look.at.since(restart.truth());
        match observer.level(look.at) {
            // Until it is started it is the old process that is asked about.
            _ if look.at <= restart.start => {}
            Err(NotCaughtUp::Confirming { refreshes, span }) => {
                assert!(refreshes == 0 || look.at >= restart.truth(), "{}: counts a refresh, and is not back", look.at);
                assert!(span <= back, "{}: counts refreshes from before it was back", look.at);
            }
            Ok(()) => {
                assert!(back >= SPAN_NEEDED, "{}: level, and back for {back:?}", look.at)
            }
            Err(_) => {}
        }
        if fired.is_none() && caught_up {
            fired = Some(look.at);
        }
        assert!(fired.is_none() || caught_up, "{}: caught up at {fired:?}, and then not any more", look.at);
    }
    if let Some(at) = fired {
        return Fired { at, continued: false };
    }
    let last = restart.looks.last().unwrap();
    assert!(observer.agreed(last.at), "the recording ends without agreement");
    match observer.level(last.at) {
        Err(NotCaughtUp::Confirming { refreshes, .. }) => {
            assert!(refreshes >= REFRESHES_NEEDED, "only {refreshes} refreshes")
        }
        other => panic!("at the end of the recording only time may be missing, not {other:?}"),
    }
    let round = refreshed.1.after(GOSSIP_ROUND);
    let mut now = last.at;
    while now < round {
        now = now.after(LOOK);
        let also = (now >= round).then_some(restart.node);
        observer.absorb(last, now, also);
        let caught_up = observer.caught_up(now);
        assert_eq!(caught_up, also.is_some(), "{now}: caught up with the next gossip round, not before");
    }
    Fired { at: now, continued: true }
}

#[test]
fn every_recording_of_a_restart_is_replayed() {
    assert_eq!(files("restart-"), RESTARTS);
}

#[test]
fn caught_up_is_never_true_before_the_node_is_back_and_soon_after_it_is() {
    println!("{:<48} {:>8} {:>8} {:>8} {:>8}", "recording", "start", "back", "agreed", "fired");
    for file in RESTARTS {
        let restart = Restart::read(file);
        let (truth, agreed) = (restart.truth(), restart.agreed());
        assert!(truth >= restart.summary, "{file}: back at {truth}, by its own observer at {}", restart.summary);
        for order in [Order::Up, Order::Down] {
            let fired = replay(&restart, order);
            let note = if fired.continued { " (after the recording's end)" } else { "" };
            println!("{file:<48} {:>8} {truth:>8} {agreed:>8} {:>8}{note}", restart.start, fired.at);
            assert!(fired.at >= truth, "{file} {order:?}: true at {}, back at {truth}", fired.at);
            if fired.continued {
                // Refreshes that span 2 s, and one round's wait for the last of them.
                let bound = truth.after(SPAN_NEEDED + GOSSIP_ROUND);
                assert!(fired.at <= bound, "{file} {order:?}: true at {}, not by {bound}", fired.at);
            } else {
                let bound = agreed.after(PROMPT);
                assert!(fired.at <= bound, "{file} {order:?}: true at {}, all views agreed at {agreed}", fired.at);
            }
        }
    }
}

/// A node that kept its data and its connection is never measured to be far behind, whatever its bytes say; one that fetches is.
#[test]
fn a_delay_in_seconds_tells_a_healthy_node_from_one_that_fetches() {
    let healthy = Duration::from_millis(2100);
    for file in RESTARTS {
        let restart = Restart::read(file);
        let mut observer = Observer::new(&restart, Order::Up);
        let mut worst = Duration::ZERO;
        let mut measured = 0;
        let mut fetching = Vec::new();
        // Others are measured only while the leader stays: what a change of leader does to them is not their health.
        let led = restart.looks.iter().all(|l| l.own.values().flatten().any(|o| o.state == "Leader"));
        for look in &restart.looks {
            observer.absorb(look, look.at, None);
            for node in 1..=4 {
                let newest = observer.watch.node(&name(node)).and_then(|t| t.refreshes.back());
                let Some((refresh, delay)) =
                    newest.and_then(|r| r.delay.map(|d| (r, d))).filter(|(r, _)| r.at == look.at)
                else {
                    continue;
                };
                if node != restart.node && led {
                    if let Behind::By(by) = delay.replication {
                        worst = worst.max(by);
                        measured += 1;
                    }
                } else if node == restart.node && refresh.own.state == NodeState::CatchingUp {
                    fetching.push(delay.replication.duration());
                }
            }
        }
        assert!(worst <= healthy, "{file}: a healthy node measured {worst:?} behind");
        assert!(!led || measured > 10, "{file}: {measured} measurements");
        println!(
            "{file}: at worst {worst:?} behind; while fetching {:?} to {:?}",
            fetching.iter().min(),
            fetching.iter().max()
        );
        if file.contains("60000x8") {
            let most = fetching.iter().max().copied().unwrap_or_default();
            assert!(most >= Duration::from_secs(25), "{file}: 330 MB to fetch, and only {most:?} behind");
            assert!(fetching[0] >= Duration::from_secs(25), "{file}: {:?} behind at first", fetching[0]);
        }
    }
}

/// What the rule is there for: these would have been taken for caught up by their state and `/health/live`.
#[test]
fn state_and_health_alone_are_early() {
    let restart = Restart::read("26.1.0/restart-replica-SIGTERM.jsonl");
    let look =
        restart.looks.iter().find(|l| restart.serving(l).is_some() && l.live[&restart.node] == Some(true)).unwrap();
    let own = restart.serving(look).unwrap();
    let leader = look.own.values().flatten().find(|o| o.state == "Leader").unwrap();
    assert!(look.at < restart.truth());
    assert!(own.writer < leader.writer / 3, "{} of {} bytes", own.writer, leader.writer);
}

// Timelines.

/// Timelines in which a view shows two living leaders.
const CONTESTED: [&str; 3] = [
    "23.10.5/timeline-leader-frozen.log",
    "23.10.5/timeline-resign-equal-priorities.log",
    "26.1.0/timeline-leader-frozen.log",
];

/// What stands in for a refresh of a node's own entry, besides its gossip round.
#[derive(Clone, Copy, Debug, PartialEq)]
enum StandIn {
    /// Any change of its view: at least as many refreshes as there were, so the rule says *yes* as early as it ever could.
    AnyChange,
    /// A change of its own entry: at most as many as there were, so the rule says *yes* as late as it ever could.
    OwnChange,
}

#[derive(Clone, Debug, PartialEq)]
struct Member {
    state: NodeState,
    alive: bool,
    epoch: i32,
}

/// What a node answers from some moment on.
#[derive(Clone, Debug)]
enum Served {
    View(BTreeMap<Number, Member>),
    /// It is frozen, or hangs: the same process may answer again.
    Nothing,
    /// It refuses the connection: whatever answers next is another process.
    Refusal,
}

/// The lines of a timeline that say what a node serves, and the moments at which something was done.
fn timeline(file: &str) -> (Vec<(Moment, Number, Served)>, Vec<Moment>) {
    let mut served = Vec::new();
    let mut done = Vec::new();
    for line in recorded(file).lines() {
        let mut words = line.split_whitespace();
        let (t, what) = (words.next().unwrap(), words.next().unwrap());
        if what != "gossip" {
            assert!(["health", "info", "------"].contains(&what), "{file}: {line}");
            if what == "------" {
                done.push(seconds(t.parse().unwrap()));
            }
            continue;
        }
        let node = words.next().and_then(|n| n.strip_prefix('n')).unwrap().parse().unwrap();
        let rest: Vec<&str> = words.collect();
        let answer = match rest.as_slice() {
            ["None", "TimeoutError:", ..] => Served::Nothing,
            ["None", "ConnectionRefusedError:" | "ConnectionResetError:", ..] => Served::Refusal,
            members => Served::View(members.iter().map(|word| member(word)).collect()),
        };
        served.push((seconds(t.parse().unwrap()), node, answer));
    }
    (served, done)
}

/// Reads `3:Leader(dead)/p0/e1`.
fn member(word: &str) -> (Number, Member) {
    let (node, rest) = word.split_once(':').unwrap();
    let parts: Vec<&str> = rest.split('/').collect();
    let [state_word, _, epoch] = parts.as_slice() else { panic!("{word}") };
    let alive = !state_word.ends_with("(dead)");
    let epoch = epoch.strip_prefix('e').unwrap().parse().unwrap();
    (node.parse().unwrap(), Member { state: state(state_word.trim_end_matches("(dead)")), alive, epoch })
}

/// One node of a timeline, as it stands.
struct Standing {
    since: Moment,
    /// The view it serves; `None`: no answer.
    view: Option<View>,
    /// Whom its last view named as leader.
    named: Vec<ProcessId>,
    refreshes: u64,
    refreshed: Moment,
    /// The first of its refreshes that named, from its beginning on, the leaders that are named now.
    steady: u64,
}

impl Standing {
    fn own(&self) -> Option<&MemberEntry> {
        self.view.as_ref().and_then(View::own)
    }

    /// Puts the number of the refresh into its entries.
    fn stamped(&self) -> Option<View> {
        let mut view = self.view.clone()?;
        view.members.iter_mut().for_each(|m| m.time_stamp = self.refreshes.to_string());
        Some(view)
    }
}

/// A view with the processes that were alive when it was served.
fn view(node: Number, members: &BTreeMap<Number, Member>, lives: &BTreeMap<Number, u32>) -> View {
    let entries = members.iter().map(|(member, seen)| MemberEntry {
        epoch: seen.epoch,
        ..entry(*member, process(*member, lives.get(member).copied().unwrap_or(0)), seen.state, seen.alive)
    });
    View { server: address(node), members: entries.collect() }
}

/// Whom a view names, reckoned apart from the product.
fn led_by(view: &View) -> Vec<ProcessId> {
    view.members.iter().filter(|m| m.state == NodeState::Leader && m.is_alive).map(|m| m.process).collect()
}

/// What came of replaying a timeline.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Moments at which the rule said *yes*.
    yes: usize,
    /// Moments at which a view showed two living leaders.
    contested: usize,
    /// Since when it says so.
    since: Option<Moment>,
    /// Moments at which it took a *yes* back though nothing had been done and no node had fallen silent.
    taken_back: Vec<Moment>,
    /// Moments at which every view had named the same one leader for long enough, by the timeline itself.
    settled: usize,
}

/// Replays a timeline, a look every [`LOOK`], and at each checks the rule against what stands in the timeline.
fn replay_timeline(file: &str, stand_in: StandIn) -> Told {
    let (lines, done) = timeline(file);
    let expected: BTreeSet<Number> = (1..=4).collect();
    let mut watch = ClusterWatch::new(expected.iter().map(|n| name(*n)));
    let mut standing: BTreeMap<Number, Standing> = BTreeMap::new();
    let mut lives = BTreeMap::new();
    let mut told = Told::default();
    let mut lines = lines.iter().filter(|(_, node, _)| expected.contains(node)).peekable();
    let mut now = lines.peek().unwrap_or_else(|| panic!("{file} says nothing of the nodes")).0;
    while lines.peek().is_some() {
        // One look takes one change of a node at most, so that none is skipped.
        let mut changed = BTreeSet::new();
        while let Some((_, node, served)) = lines.next_if(|(at, node, _)| *at <= now && !changed.contains(node)) {
            changed.insert(*node);
            let view = match served {
                Served::View(members) => Some(view(*node, members, &lives)),
                Served::Nothing => None,
                Served::Refusal => {
                    *lives.entry(*node).or_default() += 1;
                    None
                }
            };
            let s = standing.entry(*node).or_insert_with(|| Standing {
                since: now,
                view: None,
                named: Vec::new(),
                refreshes: 0,
                refreshed: now,
                steady: 0,
            });
            s.since = now;
            let Some(view) = view else {
                s.view = None;
                continue;
            };
            let refresh = stand_in == StandIn::AnyChange || s.own() != view.own();
            if refresh {
                s.refreshes += 1;
                s.refreshed = now;
            }
            let named = led_by(&view);
            if named != s.named {
                s.named = named;
                s.steady = s.refreshes + u64::from(!refresh);
            }
            s.view = Some(view);
        }
        for (node, s) in &mut standing {
            if s.view.is_some() && now.since(s.refreshed) >= GOSSIP_ROUND {
                s.refreshes += 1;
                s.refreshed = now;
            }
            let answer = match s.stamped() {
                Some(view) => Answer::View { view, live: None },
                None => Answer::Silent { why: "recorded".into() },
            };
            watch.absorb(&name(*node), now, answer);
        }
        check(file, &watch, &standing, stand_in, now, &done, &mut told);
        now = now.after(LOOK);
    }
    told
}

fn check(
    file: &str,
    watch: &ClusterWatch,
    standing: &BTreeMap<Number, Standing>,
    stand_in: StandIn,
    now: Moment,
    done: &[Moment],
    told: &mut Told,
) {
    let expected: BTreeSet<NodeName> = (1..=4).map(name).collect();
    let silent: BTreeSet<NodeName> =
        (1..=4).filter(|n| standing.get(n).is_none_or(|s| s.view.is_none())).map(name).collect();
    let views: Vec<View> = standing.values().filter_map(|s| s.view.clone()).collect();
    let contested = views.iter().any(|v| led_by(v).len() > 1);
    told.contested += usize::from(contested);

    // As it is asked for all, and, while one node is down, for all but that one.
    let nobody = BTreeSet::new();
    let all = judge(watch, &expected, &nobody, now);
    let but_the_silent = judge(watch, &expected, if silent.len() == 1 { &silent } else { &nobody }, now);
    for verdict in [&all, &but_the_silent] {
        let Agreement::Yes { leader, node, .. } = verdict else { continue };
        assert!(!contested, "{file} {stand_in:?} {now}: {verdict:?} while a view shows two living leaders");
        for view in &views {
            assert_eq!(led_by(view), [*leader], "{file} {stand_in:?} {now}: the view of {}", view.server);
        }
        for (n, s) in standing.iter().filter(|(_, s)| s.view.is_some()) {
            assert!(s.refreshes > s.steady, "{file} {stand_in:?} {now}: n{n} has named the leader in one refresh only");
        }
        let leading: Vec<NodeName> = standing
            .iter()
            .filter(|(_, s)| s.own().is_some_and(|own| own.state == NodeState::Leader))
            .map(|(n, _)| name(*n))
            .collect();
        assert_eq!(leading, std::slice::from_ref(node), "{file} {stand_in:?} {now}: who says of itself that it leads");
    }
    let yes = matches!(all, Agreement::Yes { .. });
    told.yes += usize::from(yes);
    if yes {
        told.since.get_or_insert(now);
    } else if let Some(since) = told.since.take()
        && silent.is_empty()
        && !done.iter().any(|at| (since..=now).contains(at))
    {
        told.taken_back.push(now);
    }

    // A change that brings a refresh is the first of two; one that falls into a refresh spoils it, and two have to follow.
    let rest = match stand_in {
        StandIn::AnyChange => GOSSIP_ROUND,
        StandIn::OwnChange => GOSSIP_ROUND + GOSSIP_ROUND,
    };
    let one = views.first().map(led_by).filter(|l| l.len() == 1);
    let settled = silent.len() <= 1
        && one.is_some_and(|one| views.iter().all(|v| led_by(v) == one))
        && standing.values().any(|s| s.own().is_some_and(|own| own.state == NodeState::Leader))
        && (1..=4).all(|n| standing.get(&n).is_some_and(|s| now.since(s.since) > rest));
    told.settled += usize::from(settled);
    let said = matches!(but_the_silent, Agreement::Yes { .. });
    assert!(said || !settled, "{file} {stand_in:?} {now}: settled, and {but_the_silent:?}");
}

#[test]
fn agreement_is_never_yes_while_two_lead_and_yes_when_all_is_settled() {
    let timelines = files("timeline-");
    assert_eq!(timelines.len(), 14, "{timelines:?}");
    for stand_in in [StandIn::AnyChange, StandIn::OwnChange] {
        let mut contested = Vec::new();
        let mut settled = 0;
        for file in &timelines {
            let told = replay_timeline(file, stand_in);
            assert_eq!(told.taken_back, [], "{file} {stand_in:?}: said yes too early");
            println!("{file:<48} {stand_in:?}: {told:?}");
            settled += told.settled;
            if told.contested > 0 {
                contested.push(file.as_str());
            }
        }
        assert_eq!(contested, CONTESTED, "where two lead");
        assert!(settled > 0, "{stand_in:?}: nothing is ever settled, so that nothing was asked");
    }
}
