//! The second look before a call: one sound scene, and each way to spoil it with the rule that must object.

#[path = "hostile/instance.rs"]
mod instance;

use std::collections::BTreeMap;
use std::time::Duration;

use esdb_rollout::domain::cluster::{MemberEntry, NodeState, View};
use esdb_rollout::domain::ids::{
    Address, Incarnation, InstanceId, InstanceType, NodeName, ProcessId, Revision, UpdateId,
};
use esdb_rollout::domain::instance::{FENCE_TAG, Instance, InstanceDetails, InstanceState};
use esdb_rollout::domain::time::Moment;
use esdb_rollout::domain::watch::{Answer, ClusterWatch};
use esdb_rollout::update::action::{Action, Call, Warrant};
use esdb_rollout::update::audit::{Stranded, audit, audit_rescue};
use esdb_rollout::update::event::Event;
use esdb_rollout::update::limits::TAKE_OVER_QUIET;
use esdb_rollout::update::observed::{InstanceSeen, IntentInHand, Observed, Policy, StoreSeen};
use esdb_rollout::update::react::{Next, react};
use esdb_rollout::update::safety::{self, Blocker};
use esdb_rollout::update::state::{Body, Recorded, State, fold};
use serde_json::{Value, json};
use uuid::Uuid;

const ME: Incarnation = Incarnation(Uuid::from_u128(7));
const UPDATE: UpdateId = UpdateId(Uuid::from_u128(9));
const OTHER: UpdateId = UpdateId(Uuid::from_u128(10));
const NOW: Moment = Moment(Duration::from_secs(90));

fn ago(seconds: u64) -> Moment {
    Moment(NOW.0 - Duration::from_secs(seconds))
}

fn tag(update: UpdateId, revision: u64) -> String {
    format!("{update}@{revision}")
}

/// Spoils a scene.
type Spoil = Box<dyn Fn(&mut Scene)>;

/// Everything that an audit looks at.
struct Scene {
    events: Vec<(&'static str, Value)>,
    /// State, epoch and writer of each node, the replica last.
    nodes: Vec<(NodeState, i32, i64)>,
    /// Nodes that do not answer.
    silent: Vec<usize>,
    /// A view (of the first node in the pair) that also calls that node leader, or what else it calls it.
    second_leader: Option<(usize, usize)>,
    called: NodeState,
    /// A node whose index is far behind its log.
    unindexed: Option<usize>,
    /// A living member of no plan, in every view.
    stranger: Option<NodeState>,
    /// Looks made, one a second, the last at [`NOW`].
    looks: u64,
    instance_state: InstanceState,
    /// The tags on the instance in hand and on that of the leader, and how old what EC2 said is.
    tags: [Option<String>; 2],
    described: u64,
    fence: bool,
    intent: Option<IntentInHand>,
    store: StoreSeen,
    me: Incarnation,
    own_instance: Option<InstanceId>,
    took_over_at: Option<Moment>,
    ticket_spent: bool,
    ticket_in_vain: bool,
    /// The type that the ticket gave, and the one that EC2 says.
    ticket_type: Option<InstanceType>,
    has: &'static str,
    /// For how many seconds appends have failed.
    appends_fail: Option<u64>,
    action: Action,
}

fn name(n: usize) -> NodeName {
    NodeName(format!("esdb-{}", n + 1))
}

fn id(n: usize) -> InstanceId {
    InstanceId(format!("i-{n}"))
}

fn stop(n: usize) -> Call {
    Call::StopInstance { instance: id(n) }
}

fn sound() -> Scene {
    let member = |n: usize, role: &str| {
        json!({ "node": name(n), "address": { "host": "10.0.0.1", "port": n }, "role": role, "instance": id(n), "oldType": "a.old",
                "newType": "a.new", "priority": 0 })
    };
    let members = [member(0, "Follower"), member(1, "Leader"), member(2, "Follower"), member(3, "ReadOnlyReplica")];
    let request = json!({ "cluster": "prod", "targetInstanceType": "a.new" });
    let events = vec![
        ("UpdateRequested", request.clone()),
        ("WorkerAssigned", json!({ "worker": "w", "incarnation": ME, "reason": "admitted" })),
        ("UpdateAccepted", json!({ "request": request, "clusterId": "c" })),
        ("UpdatePlanned", json!({ "voters": 3, "members": members, "order": [name(0)], "checks": [], "digest": "" })),
        ("NodeSelected", json!({ "node": name(0), "attempt": 1, "role": "Follower", "because": "" })),
        (
            "InstanceStopRequested",
            json!({ "node": name(0), "attempt": 1, "instance": id(0), "returnTypes": ["a.new", "a.old"], "baseline": null, "process": null }),
        ),
    ];
    let voter = |state| (state, 1, 500);
    Scene {
        events,
        nodes: vec![
            voter(NodeState::Follower),
            voter(NodeState::Leader),
            voter(NodeState::Follower),
            voter(NodeState::ReadOnlyReplica),
        ],
        silent: vec![],
        second_leader: None,
        called: NodeState::Leader,
        unindexed: None,
        stranger: None,
        looks: 5,
        instance_state: InstanceState::Running,
        tags: [Some(tag(UPDATE, 4)), None],
        described: 0,
        fence: true,
        intent: Some(IntentInHand {
            revision: Revision(5),
            first_sent: ago(1),
            acknowledged: Some(ago(1)),
            called: None,
        }),
        store: StoreSeen::default(),
        me: ME,
        own_instance: None,
        took_over_at: None,
        ticket_spent: false,
        ticket_in_vain: false,
        appends_fail: None,
        ticket_type: None,
        has: "a.old",
        action: Action { node: name(0), call: stop(0), warrant: Warrant::Intent(Revision(5)) },
    }
}

impl Scene {
    fn state(&self) -> State {
        let history: Vec<Recorded> = self
            .events
            .iter()
            .enumerate()
            .map(|(i, (event_type, data))| {
                let event: Event = serde_json::from_value(json!({ "type": event_type, "data": data })).unwrap();
                Recorded {
                    revision: Revision(i as u64),
                    id: Uuid::from_u128(i as u128),
                    at: jiff::Timestamp::UNIX_EPOCH,
                    seen: ago(1),
                    body: Body::Event(Box::new(event)),
                }
            })
            .collect();
        fold(&history)
    }

    fn watch(&self) -> ClusterWatch {
        let mut watch = ClusterWatch::new((0..self.nodes.len()).map(name));
        for look in 1..=self.looks {
            let at = ago(self.looks - look);
            // The leader first, so that the others are measured against what it just said.
            for n in [1, 0, 2, 3].into_iter().filter(|n| *n < self.nodes.len()) {
                let answer = if self.silent.contains(&n) {
                    Answer::Silent { why: "refused".into() }
                } else {
                    Answer::View { view: self.view(n, look), live: Some(true) }
                };
                watch.absorb(&name(n), at, answer);
            }
        }
        watch
    }

    fn view(&self, of: usize, look: u64) -> View {
        let entry = |n: usize, (state, epoch, writer): (NodeState, i32, i64), is_alive: bool| MemberEntry {
            process: ProcessId(Uuid::from_u128(n as u128 + 1)),
            time_stamp: look.to_string(),
            state,
            is_alive,
            address: address(n as u16),
            replication: address(n as u16 + 1000),
            last_commit: if self.unindexed == Some(n) { 100 } else { writer },
            writer,
            chaser: writer,
            epoch_position: 0,
            epoch,
            epoch_id: Uuid::nil(),
            priority: 0,
            is_read_only_replica: n == 3,
            version: None,
        };
        let members = (0..self.nodes.len()).map(|n| {
            let (state, epoch, writer) = self.nodes[n];
            let state = if self.second_leader == Some((of, n)) { self.called } else { state };
            entry(n, (state, epoch, writer), !self.silent.contains(&n))
        });
        let stranger = self.stranger.map(|state| entry(9, (state, 1, 500), true));
        let members = members.chain(stranger).collect();
        View { server: address(of as u16), members }
    }

    /// The rules that object.
    fn objections(&self) -> Vec<&'static str> {
        self.look(|state, observed| match audit(&self.action, state, observed, NOW) {
            Ok(()) => vec![],
            Err(found) => found.into_iter().map(|v| v.rule).collect(),
        })
    }

    /// What keeps the first node from being stopped, by the rules that decide.
    fn blockers(&self) -> Vec<Blocker> {
        self.judge(|scene| safety::stop_blockers(scene, &name(0)))
    }

    fn judge<T>(&self, judge: impl FnOnce(&safety::Scene<'_>) -> T) -> T {
        self.look(|state, observed| {
            let max_delay = observed.policy.max_replication_delay;
            let plan = state.plan.as_ref().unwrap();
            judge(&safety::Scene { state, plan, watch: observed.watch, max_delay, now: NOW })
        })
    }

    /// What is decided in it.
    fn next(&self) -> Next {
        self.look(|state, observed| react(state, observed, NOW))
    }

    fn look<T>(&self, look: impl FnOnce(&State, &Observed<'_>) -> T) -> T {
        let (state, watch) = (self.state(), self.watch());
        assert_eq!(state.broken, None);
        let described = |n: usize, tag: &Option<String>| {
            let tags = tag.iter().map(|t| (FENCE_TAG.to_owned(), t.clone())).collect();
            let details = InstanceDetails { tags, ..InstanceDetails::default() };
            Instance { details, ..instance::instance(id(n), InstanceType::from(self.has), self.instance_state) }
        };
        let at = ago(self.described);
        let [mine, leaders] = &self.tags;
        let (instance, leaders) = (described(0, mine), described(1, leaders));
        let seen = InstanceSeen { times: 2, ..InstanceSeen::first(instance, at) };
        let observed = Observed {
            me: self.me,
            update: UPDATE,
            watch: &watch,
            instances: &BTreeMap::from([(id(0), seen), (id(1), InstanceSeen::first(leaders, NOW))]),
            fleet_trouble: None,
            intent: self.intent.as_ref(),
            ticket_called: None,
            ticket_type: self.ticket_type.as_ref(),
            appends_fail_since: self.appends_fail.map(ago),
            store: &self.store,
            survey: None,
            policy: &Policy {
                allowed_types: vec![],
                max_replication_delay: Duration::from_secs(5),
                first_answer_timeout: Duration::from_secs(8),
                fence: self.fence,
            },
            own_instance: self.own_instance.as_ref(),
            took_over_at: self.took_over_at,
            ticket_spent: self.ticket_spent,
            ticket_in_vain: self.ticket_in_vain,
            wall: jiff::Timestamp::UNIX_EPOCH,
        };
        look(&state, &observed)
    }
}

/// The scene in which a stop is asked for, and a worker that has just heard what came after it.
#[test]
fn a_stop_is_not_called_once_the_update_is_not_to_go_on() {
    let stops = |s: &Scene| matches!(s.next(), Next::Act(a) if a.call == stop(0));
    let unfenced = || Scene { fence: false, ..sound() };
    let mut s = unfenced();
    assert!(stops(&s), "{:?}", s.next());
    s.events.push(("PauseRequested", json!({})));
    assert!(matches!(s.next(), Next::Record(f) if matches!(f[..], [Event::UpdatePaused(_)])), "{:?}", s.next());
    s.events.push(("UpdatePaused", json!({})));
    assert!(matches!(s.next(), Next::Wait(w) if w.code == "stopCalledOff"), "{:?}", s.next());
    let mut s = unfenced();
    s.events.push(("CancelRequested", json!({})));
    assert!(matches!(s.next(), Next::Wait(w) if w.code == "stopCalledOff"), "{:?}", s.next());
}

/// Answers are appended, and the store may be away for as long as the node is, or refuse them.
#[test]
fn what_brings_a_node_back_comes_before_the_answer_to_a_command() {
    let mut s = sound();
    let stopped = json!({ "node": name(0), "attempt": 1, "instance": id(0), "type": "a.old", "ec2": { "state": "stopped" }, "observed": [] });
    s.events.push(("InstanceStopped", stopped));
    s.events.push(("PauseRequested", json!({})));
    (s.instance_state, s.silent) = (InstanceState::Stopped, vec![0]);
    s.intent = None;
    assert!(
        matches!(s.next(), Next::Record(f) if matches!(f[..], [Event::TypeModificationRequested(_)])),
        "{:?}",
        s.next()
    );
    s.store = StoreSeen { away_since: Some(Moment::default()), leader_reported: Some(false), ..StoreSeen::default() };
    let starts = |next: Next| match next {
        Next::Act(a) => {
            a.call == Call::StartInstance { instance: id(0) } && a.warrant == Warrant::ReturnTicket(Revision(5))
        }
        Next::Record(_) | Next::Wait(_) | Next::Done(_) => false,
    };
    assert!(starts(s.next()), "{:?}", s.next());
    // While it has nothing to do but to wait, commands are answered.
    s.store = StoreSeen::default();
    s.instance_state = InstanceState::Stopping;
    assert!(matches!(s.next(), Next::Record(f) if matches!(f[..], [Event::UpdatePaused(_)])), "{:?}", s.next());
}

#[test]
fn each_way_to_spoil_a_stop_is_objected_to_by_its_rule() {
    assert_eq!(sound().objections(), Vec::<&str>::new(), "the sound scene");
    let table: [(&str, &str, Spoil); 30] = [
        ("S9", "this worker runs on it", Box::new(|s| s.own_instance = Some(id(0)))),
        ("S4", "another worker holds it", Box::new(|s| s.me = Incarnation(Uuid::from_u128(8)))),
        ("S4", "the intent is another's", Box::new(|s| s.intent = None)),
        ("S4", "the window has passed", Box::new(|s| s.intent.as_mut().unwrap().first_sent = ago(6))),
        ("S4", "the call was made", Box::new(|s| s.intent.as_mut().unwrap().called = Some((NOW, None)))),
        ("S4", "the intent was only read back", Box::new(|s| s.intent.as_mut().unwrap().acknowledged = None)),
        ("S4", "it was taken over a moment ago", Box::new(|s| s.took_over_at = Some(ago(9)))),
        ("S4", "the warrant is an older intent", Box::new(|s| s.action.warrant = Warrant::Intent(Revision(4)))),
        (
            "S4",
            "a return ticket is no warrant to stop",
            Box::new(|s| s.action.warrant = Warrant::ReturnTicket(Revision(5))),
        ),
        ("S5", "another node than the one in hand", Box::new(|s| s.action.node = name(2))),
        ("S5", "another node's instance", Box::new(|s| s.action.call = stop(2))),
        ("S9", "the instance carries no tag", Box::new(|s| s.tags[0] = None)),
        ("S9", "the instance carries another's tag", Box::new(|s| s.tags[0] = Some(tag(OTHER, 4)))),
        ("S9", "the tag only begins as this update's", Box::new(|s| s.tags[0] = Some(format!("{UPDATE}0@4")))),
        ("S9", "the tag was seen long ago", Box::new(|s| s.described = 6)),
        ("S2", "it leads", Box::new(|s| s.nodes.swap(0, 1))),
        ("S2", "a view calls it leader as well", Box::new(|s| s.second_leader = Some((2, 0)))),
        (
            "S2",
            "a view calls it a leader to be",
            Box::new(|s| (s.second_leader, s.called) = (Some((2, 0)), NodeState::PreLeader)),
        ),
        ("S2", "a view calls another leader as well", Box::new(|s| s.second_leader = Some((3, 2)))),
        ("S2", "nobody leads", Box::new(|s| s.nodes[1].0 = NodeState::Unknown)),
        ("S2", "only one refresh was seen", Box::new(|s| s.looks = 1)),
        ("S2", "the replica does not answer", Box::new(|s| s.silent = vec![3])),
        ("S3", "another voter does not answer", Box::new(|s| s.silent = vec![2])),
        ("S3", "another voter is catching up", Box::new(|s| s.nodes[2].0 = NodeState::CatchingUp)),
        ("S3", "another voter is far behind", Box::new(|s| s.nodes[2].2 = 100)),
        ("S3", "another voter's index is far behind", Box::new(|s| s.unindexed = Some(2))),
        ("S3", "a living stranger", Box::new(|s| s.stranger = Some(NodeState::Follower))),
        (
            "S2",
            "a stranger leads",
            Box::new(|s| (s.nodes[1].0, s.stranger) = (NodeState::Follower, Some(NodeState::Leader))),
        ),
        ("S3", "more voters are configured", Box::new(|s| s.events[3].1["voters"] = json!(5))),
        (
            "S6",
            "the old type is not the last to return with",
            Box::new(|s| s.events[5].1["returnTypes"] = json!(["a.old", "a.new"])),
        ),
    ];
    assert_eq!(sound().blockers(), []);
    // Of what has never been heard the plan says whether it votes.
    let unheard = Scene { silent: vec![2, 3], ..sound() };
    let not_ready = |b: Blocker| if let Blocker::VoterNotReady(n, _) = b { Some(n) } else { None };
    let waits_for: Vec<NodeName> = unheard.blockers().into_iter().filter_map(not_ready).collect();
    assert_eq!(waits_for, [name(2)]);
    // One lost answer does not say that a node is down, and whoever is down need not agree.
    let silent = |looks| Scene { silent: vec![0], looks, ..sound() }.blockers();
    assert!(matches!(silent(sound().looks)[..], [Blocker::NoAgreement(_)]), "{:?}", silent(sound().looks));
    assert_eq!(silent(11), []);
    for (rule, what, spoil) in table {
        // That downtime is accepted changes nothing where three vote.
        for accepts in [false, true] {
            let mut scene = sound();
            scene.events[0].1["acceptDowntime"] = json!(accepts);
            spoil(&mut scene);
            let found = scene.objections();
            assert!(found.contains(&rule), "{what}: {rule} is wanted, found {found:?}");
            // What decides objects by itself.
            let blockers = scene.blockers();
            assert!(!matches!(rule, "S2" | "S3") || !blockers.is_empty(), "{what}: nothing blocks the stop");
        }
    }
}

#[test]
fn a_cluster_without_a_fence_needs_no_tag() {
    let mut scene = sound();
    scene.fence = false;
    scene.tags = [None, None];
    assert_eq!(scene.objections(), Vec::<&str>::new());
}

/// The tag is to be written: its intent is the sixth event.
fn tagging() -> Scene {
    let mut scene = sound();
    scene.events[5] = (
        "TagRequested",
        json!({ "node": name(0), "attempt": 1, "instance": id(0), "type": "a.old", "value": tag(UPDATE, 5) }),
    );
    scene.tags[0] = None;
    scene.action.call = Call::Tag { instance: id(0), value: tag(UPDATE, 5) };
    scene
}

/// The tag was written, and is to be removed.
fn untagging() -> Scene {
    let mut scene = tagging();
    let data = json!({ "node": name(0), "attempt": 1, "instance": id(0), "type": "a.old", "value": tag(UPDATE, 5), "remove": true });
    scene.events.push(("TagRequested", data));
    scene.tags[0] = Some(tag(UPDATE, 5));
    scene.action = Action {
        node: name(0),
        call: Call::Untag { instance: id(0), value: tag(UPDATE, 5) },
        warrant: Warrant::Intent(Revision(6)),
    };
    scene.intent = scene.intent.map(|i| IntentInHand { revision: Revision(6), ..i });
    scene
}

#[test]
fn each_way_to_spoil_a_call_about_a_tag_is_objected_to_by_its_rule() {
    let stale = |s: &mut Scene| {
        s.tags[0] = Some(tag(OTHER, 4));
        s.events[3].1["members"][0]["staleFence"] = json!(tag(OTHER, 4));
    };
    let call = |value: String| Call::Tag { instance: id(0), value };
    let table: [(Option<&str>, &str, Spoil); 15] = [
        (None, "none", Box::new(|_| ())),
        (None, "a tag of this update's stands", Box::new(|s| s.tags[0] = Some(tag(UPDATE, 3)))),
        (None, "another's tag that was taken for left behind", Box::new(stale)),
        (
            Some("S9"),
            "another value than the one that was taken for left behind",
            Box::new(move |s| {
                stale(s);
                s.tags[0] = Some(tag(OTHER, 5));
            }),
        ),
        (Some("S9"), "another's tag stands", Box::new(|s| s.tags[0] = Some(tag(OTHER, 4)))),
        (Some("S9"), "a tag that names no update stands", Box::new(|s| s.tags[0] = Some(String::new()))),
        (Some("S9"), "another's tag stands on another instance", Box::new(|s| s.tags[1] = Some(tag(OTHER, 4)))),
        (Some("S9"), "it was described long ago", Box::new(|s| s.described = 6)),
        (Some("S9"), "the cluster has no fence", Box::new(|s| s.fence = false)),
        (Some("S4"), "the value is another intent's", Box::new(move |s| s.action.call = call(tag(UPDATE, 4)))),
        (Some("S4"), "the value is another update's", Box::new(move |s| s.action.call = call(tag(OTHER, 5)))),
        (Some("S4"), "the intent is another's", Box::new(|s| s.intent = None)),
        (Some("S4"), "it was taken over a moment ago", Box::new(|s| s.took_over_at = Some(ago(9)))),
        (Some("S4"), "the intent is one to stop", Box::new(|s| s.events[5] = sound().events.remove(5))),
        (
            Some("S5"),
            "another node's instance",
            Box::new(|s| s.action.call = Call::Tag { instance: id(2), value: tag(UPDATE, 5) }),
        ),
    ];
    let judge = |scene: Scene, rule: Option<&str>, what: &str| {
        let found = scene.objections();
        match rule {
            None => assert_eq!(found, Vec::<&str>::new(), "{what}"),
            Some(rule) => assert!(found.contains(&rule), "{what}: {rule} is wanted, found {found:?}"),
        }
    };
    for (rule, what, spoil) in table {
        let mut scene = tagging();
        spoil(&mut scene);
        judge(scene, rule, what);
    }
    let untag = |n: usize, value: String| Call::Untag { instance: id(n), value };
    let table: [(Option<&str>, &str, Spoil); 6] = [
        (None, "none", Box::new(|_| ())),
        (None, "the cluster has no fence any more", Box::new(|s| s.fence = false)),
        (Some("S9"), "another's tag", Box::new(move |s| s.action.call = untag(0, tag(OTHER, 5)))),
        (Some("S4"), "a value that is not asked for", Box::new(move |s| s.action.call = untag(0, tag(UPDATE, 4)))),
        (Some("S4"), "its call was made", Box::new(|s| s.intent.iter_mut().for_each(|i| i.called = Some((NOW, None))))),
        (Some("S5"), "another node's instance", Box::new(move |s| s.action.call = untag(2, tag(UPDATE, 5)))),
    ];
    for (rule, what, spoil) in table {
        let mut scene = untagging();
        spoil(&mut scene);
        judge(scene, rule, what);
    }
}

#[test]
fn a_return_ticket_brings_back_and_does_nothing_else() {
    let away = |seconds: u64, leader: Option<bool>, majority| StoreSeen {
        away_since: Some(ago(seconds)),
        leader_reported: leader,
        voters: 3,
        folded_from_majority: majority,
    };
    let ticket = |call: Call, store: StoreSeen, state: InstanceState| Scene {
        action: Action { node: name(0), call, warrant: Warrant::ReturnTicket(Revision(5)) },
        instance_state: state,
        silent: vec![0, 1, 2],
        intent: None,
        store,
        ..sound()
    };
    let start = || Call::StartInstance { instance: id(0) };
    let modify = |to: &str| Call::ModifyType { instance: id(0), to: InstanceType::from(to) };
    let stopped = InstanceState::Stopped;
    // By a `WorkerAssigned` that stands at this revision.
    let took_over = |at: usize, call: Call, store: StoreSeen| {
        let mut scene = ticket(call, store, InstanceState::Stopped);
        let mut assigned = scene.events.iter().find(|(t, _)| *t == "WorkerAssigned").unwrap().clone();
        assigned.1["reason"] = json!("silent");
        if at < 5 {
            scene.events[1].1 = assigned.1
        } else {
            scene.events.insert(at, assigned)
        }
        scene.took_over_at = Some(ago(9));
        scene
    };
    let open = || ticket(start(), away(10, Some(false), true), InstanceState::Stopped);
    let in_vain = |to: &str| Scene {
        ticket_in_vain: true,
        ..ticket(modify(to), away(10, Some(false), false), InstanceState::Stopped)
    };
    let table = [
        (in_vain("a.old"), None),
        (in_vain("a.new"), Some("S4")),
        (Scene { ticket_in_vain: true, ..took_over(6, modify("a.old"), away(10, Some(false), false)) }, Some("S4")),
        (Scene { ticket_spent: true, ..open() }, Some("S4")),
        (Scene { described: 6, ..open() }, Some("S6")),
        (Scene { tags: [Some(tag(OTHER, 4)), None], ..open() }, Some("S9")),
        (Scene { tags: [Some(tag(OTHER, 4)), None], fence: false, ..open() }, None),
        (Scene { tags: [None, None], ..open() }, None),
        (ticket(start(), away(10, Some(false), false), stopped), None),
        (ticket(modify("a.old"), away(10, Some(false), true), stopped), None),
        (ticket(start(), away(9, Some(false), true), stopped), Some("S4")),
        (ticket(start(), away(10, Some(true), true), stopped), Some("S4")),
        (ticket(start(), away(10, None, true), stopped), Some("S4")),
        (ticket(start(), StoreSeen::default(), stopped), Some("S4")),
        // It leads and takes nothing.
        (Scene { appends_fail: Some(60), ..ticket(start(), StoreSeen::default(), stopped) }, None),
        (Scene { appends_fail: Some(60), ..ticket(start(), away(1, Some(true), false), stopped) }, None),
        (Scene { appends_fail: Some(59), ..ticket(start(), StoreSeen::default(), stopped) }, Some("S4")),
        (Scene { appends_fail: Some(60), ..ticket(modify("a.old"), away(10, Some(true), true), stopped) }, Some("S4")),
        (Scene { appends_fail: Some(60), ..ticket(stop(0), StoreSeen::default(), InstanceState::Running) }, Some("S4")),
        (ticket(modify("a.old"), away(10, Some(false), false), stopped), Some("S4")),
        (ticket(modify("a.huge"), away(10, Some(false), true), stopped), Some("S6")),
        (ticket(start(), away(10, Some(false), true), InstanceState::Running), Some("S6")),
        (ticket(stop(0), away(10, Some(false), true), InstanceState::Running), Some("S4")),
        (ticket(Call::StartInstance { instance: id(2) }, away(10, Some(false), true), stopped), Some("S5")),
        // Who took the update over before it asked for the stop holds a ticket of its own; who did so after it does not.
        (took_over(1, modify("a.old"), away(10, Some(false), true)), None),
        (took_over(6, start(), away(10, Some(false), true)), Some("S4")),
        (took_over(6, modify("a.old"), away(10, Some(false), true)), Some("S4")),
    ];
    for (i, (scene, rule)) in table.into_iter().enumerate() {
        let found = scene.objections();
        match rule {
            None => assert_eq!(found, Vec::<&str>::new(), "line {i}"),
            Some(rule) => assert!(found.contains(&rule), "line {i}: {rule} is wanted, found {found:?}"),
        }
    }
}

/// Whatever was done on it is a fact, once facts can be written.
#[test]
fn a_type_that_was_given_on_the_return_ticket_is_recorded_as_such() {
    let mut s = sound();
    (s.instance_state, s.silent, s.intent) = (InstanceState::Stopped, vec![0], None);
    let told = |s: &Scene| match s.next() {
        Next::Record(facts) => facts
            .iter()
            .map(|fact| match fact {
                Event::InstanceStopped(e) => format!("stopped as {}", e.instance_type),
                Event::TypeModified(e) => format!("given {}, {}", e.instance_type, e.return_ticket),
                Event::InstanceStarted(e) => format!("started as {}, {}", e.instance_type, e.return_ticket),
                other => other.type_name().to_owned(),
            })
            .collect(),
        other => vec![format!("{other:?}")],
    };
    assert_eq!(told(&s), ["stopped as a.old"]);
    (s.ticket_type, s.has) = (Some("a.new".into()), "a.new");
    assert_eq!(told(&s), ["stopped as a.old", "given a.new, true"]);
    let stopped = json!({ "node": name(0), "attempt": 1, "instance": id(0), "type": "a.old", "ec2": { "state": "stopped" }, "observed": [] });
    s.events.push(("InstanceStopped", stopped));
    assert_eq!(told(&s), ["given a.new, true"]);
    s.instance_state = InstanceState::Running;
    assert_eq!(told(&s), ["given a.new, true", "started as a.new, true"]);
    let given = json!({ "node": name(0), "attempt": 1, "instance": id(0), "type": "a.new", "ec2": { "state": "stopped" }, "returnTicket": true, "observed": [] });
    s.events.push(("TypeModified", given));
    assert_eq!(told(&s), ["started as a.new, true"]);
}

#[test]
fn a_replacement_waits_longer_and_starts_the_instance_as_it_is() {
    let state = sound().state();
    let judge = |call: Call, revision: u64, away: u64, times: u32| {
        let action = Action { node: name(0), call, warrant: Warrant::ReturnTicket(Revision(revision)) };
        let scene = Stranded {
            away_for: Duration::from_secs(away),
            stopped_times: times,
            stopped_for: Duration::from_secs(5),
            leads: false,
            anothers: false,
        };
        let led = |stopped| Stranded { leads: true, stopped_for: Duration::from_secs(stopped), ..scene };
        assert!(
            audit_rescue(&action, &state, &led(59)).is_err(),
            "the store leads, and whoever holds the update may be at it"
        );
        let long = audit_rescue(&action, &state, &led(60)).is_ok();
        assert_eq!(long, audit_rescue(&action, &state, &scene).is_ok(), "for a minute nobody was");
        let anothers = Stranded { anothers: true, ..scene };
        assert!(audit_rescue(&action, &state, &anothers).is_err(), "somebody else has it in hand");
        audit_rescue(&action, &state, &scene).is_ok()
    };
    let start = |n: usize| Call::StartInstance { instance: id(n) };
    assert!(judge(start(0), 5, 60, 2));
    assert!(!judge(start(0), 5, 59, 2), "a minute");
    assert!(!judge(start(0), 5, 60, 1), "twice");
    assert!(!judge(start(0), 4, 60, 2), "the last stop intent");
    assert!(!judge(start(1), 5, 60, 2), "the instance in hand");
    assert!(!judge(stop(0), 5, 60, 2), "a start");
    assert!(!judge(Call::ModifyType { instance: id(0), to: InstanceType::from("a.old") }, 5, 60, 2), "as it is");
}

/// A sound scene of another call than a stop: what stands in the stream up to its intent, and the call.
fn calling(call: Call, of: usize, facts: &[(&'static str, Value)]) -> Scene {
    let mut s = sound();
    s.events.truncate(5);
    s.events[4].1["node"] = json!(name(of));
    for (event_type, data) in facts {
        let mut data = data.clone();
        let always = json!({ "node": name(of), "attempt": 1, "instance": id(of), "type": "a.old", "ec2": { "state": "stopped" } });
        for (key, value) in always.as_object().unwrap() {
            data.as_object_mut().unwrap().entry(key).or_insert(value.clone());
        }
        s.events.push((event_type, data));
    }
    let revision = Revision(s.events.len() as u64 - 1);
    s.intent = Some(IntentInHand { revision, first_sent: ago(1), acknowledged: Some(ago(1)), called: None });
    s.action = Action { node: name(of), call, warrant: Warrant::Intent(revision) };
    s
}

fn address(n: u16) -> Address {
    Address::new("10.0.0.1", n)
}

fn lowering(priority: i32) -> Scene {
    let facts = [("PriorityLoweringRequested", json!({ "original": 3, "priority": -1 }))];
    calling(Call::SetPriority { address: address(1), priority }, 1, &facts)
}

fn resigning() -> Scene {
    let lowered = json!({ "original": 0, "priority": -1 });
    let facts = [
        ("PriorityLoweringRequested", lowered.clone()),
        ("PriorityLowered", lowered),
        ("ResignationRequested", json!({ "from": Uuid::from_u128(2) })),
    ];
    calling(Call::Resign { address: address(1) }, 1, &facts)
}

/// The node is stopped, and its next intent is this one.
fn stopped(intent: &'static str, call: Call) -> Scene {
    let stop = json!({ "returnTypes": ["a.new", "a.old"], "baseline": null, "process": null });
    let facts = [("InstanceStopRequested", stop), ("InstanceStopped", json!({})), (intent, json!({}))];
    Scene { instance_state: InstanceState::Stopped, silent: vec![0], ..calling(call, 0, &facts) }
}

fn modifying(to: &str) -> Scene {
    stopped("TypeModificationRequested", Call::ModifyType { instance: id(0), to: to.into() })
}

fn rebooting() -> Scene {
    let stop = json!({ "returnTypes": ["a.new", "a.old"], "baseline": null, "process": null });
    let facts = [
        ("InstanceStopRequested", stop),
        ("InstanceStopped", json!({})),
        ("InstanceStartRequested", json!({})),
        ("InstanceStarted", json!({})),
        ("InstanceRebootRequested", json!({})),
    ];
    let mut s = calling(Call::RebootInstance { instance: id(0) }, 0, &facts);
    s.events[0].1["onSilentNode"] = json!("reboot");
    Scene { silent: vec![0], looks: 10, ..s }
}

/// The stop in a cluster of fewer than three voters, where its owner accepts the downtime.
fn few(voters: usize) -> Scene {
    let mut s = sound();
    s.events[0].1["acceptDowntime"] = json!(true);
    s.events[3].1["voters"] = json!(voters);
    s.events[3].1["members"].as_array_mut().unwrap().truncate(voters);
    if voters == 1 {
        s.nodes.swap(0, 1);
    }
    s.nodes.truncate(voters);
    s
}

#[test]
fn each_way_to_spoil_another_call_is_objected_to_by_its_rule() {
    let late = |s: &mut Scene, ms: u64| {
        let intent = s.intent.as_mut().unwrap();
        intent.first_sent = Moment(NOW.0 - Duration::from_millis(ms));
    };
    let another = |call: Call| move |s: &mut Scene| s.action.call = call.clone();
    let quiet = |s: &mut Scene| s.took_over_at = Some(ago(9));
    let rows: Vec<(&str, Scene, Spoil, Option<&str>)> = vec![
        ("the window's last moment", sound(), Box::new(move |s| late(s, 5_000)), None),
        (
            "the call of a worker before cannot come any more",
            sound(),
            Box::new(|s| s.took_over_at = Some(Moment(NOW.0 - TAKE_OVER_QUIET))),
            None,
        ),
        ("past the window", sound(), Box::new(move |s| late(s, 5_001)), Some("S4")),
        (
            "a node that is down already is stopped",
            sound(),
            Box::new(|s| {
                s.silent = vec![0];
                s.looks = 11;
            }),
            None,
        ),
        ("one that has not answered for four seconds", sound(), Box::new(|s| s.silent = vec![0]), Some("S2")),
        ("lowers", lowering(-1), Box::new(|_| ()), None),
        ("gives back", lowering(3), Box::new(|_| ()), None),
        ("sets something else", lowering(0), Box::new(|_| ()), Some("S7")),
        (
            "lowers another's",
            lowering(-1),
            Box::new(another(Call::SetPriority { address: address(0), priority: -1 })),
            Some("S5"),
        ),
        ("lowers after a take-over", lowering(-1), Box::new(quiet), Some("S4")),
        ("resigns", resigning(), Box::new(|_| ()), None),
        ("another resigns", resigning(), Box::new(another(Call::Resign { address: address(0) })), Some("S5")),
        ("one that follows resigns", resigning(), Box::new(|s| s.nodes.swap(0, 1)), Some("S2")),
        ("resigns after a take-over", resigning(), Box::new(quiet), Some("S4")),
        (
            "resigns beside a living stranger",
            resigning(),
            Box::new(|s| s.stranger = Some(NodeState::Follower)),
            Some("S3"),
        ),
        (
            "resigns beside a seed that was not reached",
            resigning(),
            Box::new(|s| s.stranger = Some(NodeState::Manager)),
            None,
        ),
        ("resigns, another silent", resigning(), Box::new(|s| s.silent = vec![2]), Some("S3")),
        ("resigns, another far behind", resigning(), Box::new(|s| s.nodes[2].2 = 100), Some("S3")),
        ("stops on another intent", stopped("TypeModificationRequested", stop(0)), Box::new(|_| ()), Some("S4")),
        ("changes the type, even after a take-over", modifying("a.new"), Box::new(quiet), None),
        ("changes it to a type of no ticket", modifying("a.huge"), Box::new(|_| ()), Some("S6")),
        (
            "changes the type of what runs",
            modifying("a.new"),
            Box::new(|s| s.instance_state = InstanceState::Running),
            Some("S6"),
        ),
        (
            "changes another's",
            modifying("a.new"),
            Box::new(another(Call::ModifyType { instance: id(1), to: "a.new".into() })),
            Some("S5"),
        ),
        (
            "starts, even after a take-over",
            stopped("InstanceStartRequested", Call::StartInstance { instance: id(0) }),
            Box::new(quiet),
            None,
        ),
        (
            "starts another",
            stopped("InstanceStartRequested", Call::StartInstance { instance: id(1) }),
            Box::new(|_| ()),
            Some("S5"),
        ),
        ("reboots", rebooting(), Box::new(|_| ()), None),
        ("reboots unasked", rebooting(), Box::new(|s| s.events[0].1["onSilentNode"] = json!("hold")), Some("S6")),
        ("reboots what answers", rebooting(), Box::new(|s| s.silent = vec![]), Some("S6")),
        ("reboots what it has hardly listened to", rebooting(), Box::new(|s| s.looks = 8), Some("S6")),
        ("reboots, and reaches nobody", rebooting(), Box::new(|s| s.silent = vec![0, 1, 2, 3]), Some("S6")),
        ("reboots what is stopped", rebooting(), Box::new(|s| s.instance_state = InstanceState::Stopped), Some("S6")),
        ("reboots another", rebooting(), Box::new(another(Call::RebootInstance { instance: id(1) })), Some("S5")),
        ("reboots its own machine", rebooting(), Box::new(|s| s.own_instance = Some(id(0))), Some("S9")),
        ("reboots after a take-over", rebooting(), Box::new(quiet), Some("S4")),
        ("stops the sole voter, which leads", few(1), Box::new(|_| ()), None),
        ("the same, not accepted", few(1), Box::new(|s| s.events[0].1["acceptDowntime"] = json!(false)), Some("S2")),
        ("stops one of two", few(2), Box::new(|_| ()), None),
        ("the same, not accepted", few(2), Box::new(|s| s.events[0].1["acceptDowntime"] = json!(false)), Some("S3")),
        ("one of two that leads", few(2), Box::new(|s| s.nodes.swap(0, 1)), Some("S2")),
        ("the other of two silent", few(2), Box::new(|s| s.silent = vec![1]), Some("S3")),
    ];
    for (what, mut scene, spoil, rule) in rows {
        spoil(&mut scene);
        let found = scene.objections();
        match rule {
            None => assert_eq!(found, Vec::<&str>::new(), "{what}"),
            Some(rule) => assert!(found.contains(&rule), "{what}: {rule} is wanted, found {found:?}"),
        }
    }
}

/// Of which node, of what scene, and what blocks its stop and its resignation.
type Blocked = (&'static str, usize, Scene, &'static [&'static str], &'static [&'static str]);

/// By the rules that decide: every reason there is, and no other.
#[test]
fn a_stop_and_a_resignation_are_blocked_by_each_reason_there_is() {
    const DOWN: u64 = 11;
    let down = |s: Scene, who: &[usize]| Scene { silent: who.to_vec(), looks: DOWN, ..s };
    let refusing = |mut s: Scene| {
        s.events[0].1["acceptDowntime"] = json!(false);
        s
    };
    let unselected = |mut s: Scene| {
        s.events.truncate(4);
        s
    };
    let leading = |mut s: Scene| {
        s.nodes.swap(0, 1);
        s
    };
    let voters = |mut s: Scene, voters: usize| {
        s.events[3].1["voters"] = json!(voters);
        s
    };
    let beside = |stranger: NodeState, s: Scene| Scene { stranger: Some(stranger), ..s };
    let called = |of: usize, leader: usize| Scene { second_leader: Some((of, leader)), ..sound() };
    let of = |n: usize, state: NodeState| {
        let mut s = sound();
        s.nodes[n].0 = state;
        s
    };
    let rows: Vec<Blocked> = vec![
        ("a follower", 0, sound(), &[], &["agreementAwaited"]),
        ("the leader", 1, unselected(sound()), &["leads"], &[]),
        ("another than the one in hand", 2, sound(), &["outOfService"], &["agreementAwaited"]),
        ("the replica", 3, unselected(sound()), &[], &["agreementAwaited"]),
        ("nobody", 7, sound(), &["notPlanned"], &["agreementAwaited"]),
        ("one that leads", 0, leading(sound()), &["leads"], &[]),
        ("a view calls it leader", 0, called(2, 0), &["agreementAwaited", "calledLeader"], &["agreementAwaited"]),
        (
            "a view calls it a leader to be",
            0,
            Scene { called: NodeState::PreLeader, ..called(2, 0) },
            &["calledLeader"],
            &["agreementAwaited"],
        ),
        ("a view calls another leader", 0, called(2, 3), &["agreementAwaited"], &["agreementAwaited"]),
        ("down", 0, down(sound(), &[0]), &[], &["agreementAwaited"]),
        (
            "another voter down",
            0,
            down(sound(), &[2]),
            &["agreementAwaited", "voterNotReady"],
            &["agreementAwaited", "voterNotReady"],
        ),
        (
            "another voter down, of a replica",
            3,
            unselected(down(sound(), &[2])),
            &["agreementAwaited"],
            &["agreementAwaited", "voterNotReady"],
        ),
        (
            "another catches up",
            0,
            of(2, NodeState::CatchingUp),
            &["voterNotReady"],
            &["agreementAwaited", "voterNotReady"],
        ),
        (
            "the leader resigns beside one that catches up",
            1,
            unselected(of(2, NodeState::CatchingUp)),
            &["leads", "voterNotReady"],
            &["voterNotReady"],
        ),
        ("the replica catches up", 0, of(3, NodeState::PreReadOnlyReplica), &[], &["agreementAwaited"]),
        (
            "a voter more is configured",
            0,
            voters(sound(), 4),
            &["unexpectedMember"],
            &["unexpectedMember", "agreementAwaited"],
        ),
        ("a seed that was not reached", 0, beside(NodeState::Manager, sound()), &[], &["agreementAwaited"]),
        (
            "a living stranger",
            0,
            beside(NodeState::Follower, sound()),
            &["unexpectedMember"],
            &["unexpectedMember", "agreementAwaited"],
        ),
        (
            "the leader beside a stranger",
            1,
            beside(NodeState::Follower, unselected(sound())),
            &["unexpectedMember", "leads"],
            &["unexpectedMember"],
        ),
        (
            "a voter less is configured",
            0,
            voters(sound(), 2),
            &["unexpectedMember", "tooFewVoters"],
            &["unexpectedMember", "agreementAwaited"],
        ),
        ("one of two", 0, few(2), &[], &["agreementAwaited"]),
        ("one of two, not accepted", 0, refusing(few(2)), &["tooFewVoters"], &["agreementAwaited"]),
        ("one of two, down", 0, down(few(2), &[0]), &[], &["agreementAwaited"]),
        ("one of two that leads", 0, leading(few(2)), &["leads"], &[]),
        (
            "one of two, the other down",
            0,
            down(few(2), &[1]),
            &["agreementAwaited", "voterNotReady"],
            &["agreementAwaited", "voterNotReady"],
        ),
        ("the sole one", 0, few(1), &[], &[]),
        ("the sole one, not accepted", 0, refusing(few(1)), &["tooFewVoters", "leads"], &[]),
        ("the sole one, down", 0, down(few(1), &[0]), &[], &["agreementAwaited"]),
        (
            "the sole one, down, not accepted",
            0,
            refusing(down(few(1), &[0])),
            &["tooFewVoters", "agreementAwaited"],
            &["agreementAwaited"],
        ),
        (
            "the sole one, not heard just now",
            0,
            Scene { silent: vec![0], ..few(1) },
            &["agreementAwaited"],
            &["agreementAwaited"],
        ),
    ];
    for (what, n, scene, stop, resignation) in rows {
        let codes = |blockers: Vec<Blocker>| blockers.iter().map(Blocker::code).collect::<Vec<_>>();
        let found =
            scene.judge(|s| [safety::stop_blockers(s, &name(n)), safety::resign_blockers(s, &name(n))].map(codes));
        assert_eq!(found, [stop, resignation], "{what}");
    }
}
