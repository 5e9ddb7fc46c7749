use super::*;
use crate::domain::ids::{InstanceId, InstanceType};
use crate::domain::instance::InstanceState;
use crate::sim::model::{Ec2Fault, ExpectedRevision, Fault, ProposedEvent, Write, WriteOutcome};

/// A cluster of three voters and a replica, as the tests like it.
pub(crate) fn config(seed: u64) -> WorldConfig {
    WorldConfig {
        seed,
        voters: 3,
        replicas: 1,
        addresses: (1..=4).map(|i| Address::new(format!("10.0.0.{i}"), 2113)).collect(),
        names: (1..=4).map(|i| format!("node-{i}")).collect(),
        version: "23.10.5.0".to_owned(),
        instance_type: "m6i.large".to_owned(),
        offered_types: vec![
            ("m6i.large".to_owned(), "x86_64".to_owned()),
            ("m6i.xlarge".to_owned(), "x86_64".to_owned()),
            ("m7g.large".to_owned(), "arm64".to_owned()),
        ],
        ec2_stop: Duration::from_secs(45),
        ec2_start: Duration::from_secs(25),
        boot: Duration::from_secs(10),
        catch_up_bytes_per_second: 50_000_000,
        load_bytes_per_second: 0,
        initial_log_bytes: 0,
        faults: Vec::new(),
    }
}

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

impl World {
    fn pass(&mut self, s: f64) {
        self.advance_to(self.now + seconds(s));
    }

    /// Roles, one letter each, by every view: what the recorded timelines print.
    fn roles(&self) -> String {
        let one = |v: View| {
            let mut members = v.members;
            members.sort_by(|a, b| a.address.cmp(&b.address));
            let text: Vec<String> = members
                .iter()
                .map(|m| format!("{}{}/e{}", m.state, if m.is_alive { "" } else { "(dead)" }, m.epoch))
                .collect();
            text.join(" ")
        };
        (0..self.node_count())
            .map(|n| format!("n{}[{:?}] {}\n", n + 1, self.reachability(n), one(self.view(n))))
            .collect()
    }

    /// Whether every view of every node that answers shows the same settled cluster.
    fn is_settled(&self) -> bool {
        let leader = self.leader();
        let expected = |n: NodeIx| {
            if Some(n) == leader {
                NodeState::Leader
            } else if n < self.config.voters {
                NodeState::Follower
            } else {
                NodeState::ReadOnlyReplica
            }
        };
        leader.is_some()
            && (0..self.node_count()).all(|n| {
                let view = self.view(n);
                view.members.len() == self.node_count()
                    && (0..self.node_count()).all(|m| {
                        view.member(self.address(m))
                            .is_some_and(|e| e.is_alive && e.state == expected(m) && e.process == self.process_id(m))
                    })
            })
    }

    fn pass_until(&mut self, most: f64, mut until: impl FnMut(&World) -> bool) -> Option<Duration> {
        let from = self.now;
        while self.now < from + seconds(most) {
            if until(self) {
                return Some(self.now - from);
            }
            self.pass(0.01);
        }
        None
    }

    fn append_one(&mut self, n: NodeIx, stream: &str, expected: ExpectedRevision, id: u128) -> WriteOutcome {
        match self.write(n, true, stream, expected, Write::Append(vec![event(id)])) {
            WriteStart::Now(outcome) => outcome,
            WriteStart::Pending(id) => loop {
                if let Some(outcome) = self.write_outcome(id) {
                    break outcome;
                }
                self.pass(0.001);
            },
        }
    }

    /// What everybody says of everything, for comparison.
    fn dump(&self) -> String {
        let views: Vec<View> = (0..self.node_count()).map(|n| self.view(n)).collect();
        format!(
            "{:?} {views:?} {:?}",
            self.now,
            (0..self.node_count()).map(|n| self.replication(n)).collect::<Vec<_>>()
        )
    }
}

fn event(id: u128) -> ProposedEvent {
    ProposedEvent {
        id: Uuid::from_u128(id),
        event_type: "t".into(),
        is_json: true,
        data: b"{}".to_vec(),
        metadata: Vec::new(),
    }
}

fn voters(w: &World) -> std::ops::Range<NodeIx> {
    0..w.config.voters
}

fn a_follower(w: &World) -> NodeIx {
    voters(w).find(|n| Some(*n) != w.leader()).expect("three voters have a follower")
}

fn change_type(w: &mut World, n: NodeIx) {
    let id = w.instance_of(n).clone();
    w.stop_instances(std::slice::from_ref(&id)).expect("it runs");
    w.pass_until(120.0, |w| w.nodes[n].machine.state == InstanceState::Stopped).expect("it stops");
    w.modify_instance_type(&id, &InstanceType::from("m6i.xlarge")).expect("it is stopped");
    w.start_instances(&[id]).expect("it is stopped");
    w.pass_until(120.0, |w| w.reachability(n) == Reachability::Answers).expect("it boots");
}

/// A bit of everything; what every node says, every 50 ms.
fn scenario(seed: u64) -> String {
    let mut w = World::new(WorldConfig { load_bytes_per_second: 1_000_000, ..config(seed) });
    let mut trace = String::new();
    for step in 0..1200_u128 {
        w.pass(0.05);
        let Some(l) = w.leader() else { continue };
        match step {
            100 => w.resign(l),
            200 => w.kill(l),
            300 => w.freeze(l),
            500 => (0..4).for_each(|n| w.unfreeze(n)),
            600 => drop(w.stop_instances(&[InstanceId("i-0000000000000000d".into())])),
            _ if step % 7 == 0 => drop(w.write(l, true, "s", ExpectedRevision::Any, Write::Append(vec![event(step)]))),
            _ => {}
        }
        trace += &w.dump();
    }
    trace
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    assert!(scenario(7) == scenario(7), "the same seed and calls gave different traces");
    assert!(scenario(7) != scenario(8), "different seeds gave the same trace");
}

/// Resigns the leader of many worlds, with or without lowering its priority; how often it won again.
fn won_again(version: &str, priority: i32, load: u64) -> usize {
    let trial = |seed| {
        let mut w =
            World::new(WorldConfig { version: version.to_owned(), load_bytes_per_second: load, ..config(seed) });
        w.pass(7.0 + seed as f64 * 0.013);
        let l = w.leader().expect("settled");
        w.set_priority(l, priority);
        w.resign(l);
        let took = w.pass_until(30.0, |w| w.elections() == 1).expect("somebody wins");
        assert!(
            took >= Duration::from_millis(50) && took < Duration::from_secs(5),
            "seed {seed}: new leader after {took:?}"
        );
        let again = w.leader() == Some(l);
        let settled = w.pass_until(30.0, World::is_settled).expect("all agree in the end");
        assert!(settled < Duration::from_secs(15), "seed {seed}: settled after {settled:?}");
        w.pass(20.0);
        assert!(w.elections() == 1 && w.is_settled(), "seed {seed}: {} elections\n{}", w.elections(), w.roles());
        again
    };
    (0..200).filter(|seed| trial(*seed)).count()
}

#[test]
fn a_leader_that_resigns_with_lower_priority_never_wins() {
    assert_eq!(won_again("23.10.5.0", -1, 0), 0);
    assert_eq!(won_again("23.10.5.0", -1, 2_000_000), 0);
}

#[test]
fn with_equal_priorities_it_wins_about_half_the_time_before_24_10_and_never_since() {
    let again = won_again("23.10.5.0", 0, 0);
    assert!((60..=140).contains(&again), "won {again} of 200");
    assert_eq!(won_again("24.10.0.0", 0, 0), 0);
    assert_eq!(won_again("26.1.0.0", 0, 0), 0);
}

#[test]
fn resigning_takes_as_long_as_recorded_and_views_contradict_each_other_meanwhile() {
    let (mut leader, mut agreed, mut contradicting) = (Vec::new(), Vec::new(), 0);
    for seed in 0..200 {
        let mut w = World::new(config(seed));
        w.pass(7.0 + seed as f64 * 0.013);
        let l = w.leader().expect("settled");
        w.set_priority(l, -1);
        w.resign(l);
        leader.push(w.pass_until(30.0, |w| w.elections() == 1).expect("somebody wins"));
        let two = |w: &World| {
            let leaders = |v: &View| v.members.iter().filter(|m| m.is_alive && m.state == NodeState::Leader).count();
            (0..4).any(|n| leaders(&w.view(n)) != 1)
        };
        contradicting += usize::from(two(&w));
        let one_leader = |w: &World| {
            let l = w.leader().map(|l| w.process_id(l));
            (0..4).all(|n| {
                let leaders: Vec<_> = w
                    .view(n)
                    .members
                    .iter()
                    .filter(|m| m.is_alive && m.state == NodeState::Leader)
                    .map(|m| m.process)
                    .collect();
                leaders.len() == 1 && leaders.first() == l.as_ref()
            })
        };
        agreed.push(w.pass_until(30.0, one_leader).expect("views agree on the leader in the end"));
    }
    leader.sort();
    agreed.sort();
    assert!(leader[100] > seconds(0.5) && leader[100] < seconds(1.3), "median {:?}", leader[100]);
    assert!(contradicting > 100, "views contradicted each other in {contradicting} of 200");
    assert!(agreed[100] < seconds(2.5), "median {:?}", agreed[100]);
}

#[test]
fn a_follower_that_comes_back_under_load_fetches_what_it_missed() {
    for seed in 0..10 {
        let mut w = World::new(WorldConfig {
            load_bytes_per_second: 8_000_000,
            initial_log_bytes: 500_000_000,
            catch_up_bytes_per_second: 60_000_000,
            ..config(seed)
        });
        w.pass(5.0);
        let n = a_follower(&w);
        let before = w.nodes[n].log.end();
        change_type(&mut w, n);
        let missed = w.nodes[w.leader().expect("it stays")].log.end() - before;
        assert!(!w.live(n) && w.own_state(n) == NodeState::Initializing);
        w.pass_until(5.0, |w| w.own_state(n) == NodeState::CatchingUp).expect("it is behind");
        assert!(!w.live(n));
        let took = w.pass_until(60.0, |w| w.own_state(n) == NodeState::Follower).expect("it arrives");
        assert!(
            took > seconds(missed as f64 / 60e6) && took < seconds(missed as f64 / 40e6 + 3.0),
            "{missed} bytes took {took:?}"
        );
        assert!(w.live(n));
        let l = w.leader().expect("it stays");
        let sent = w
            .replication(l)
            .into_iter()
            .find(|s| s.endpoint.host == w.address(n).host)
            .expect("subscribed")
            .total_bytes_sent;
        assert!(sent >= missed && sent < 2 * missed, "{sent} sent of {missed}");
        assert_eq!(w.elections(), 0);
    }
}

#[test]
fn a_replica_says_it_is_ready_at_once_and_a_node_without_data_refills() {
    let faults = vec![Fault::ComesBackEmpty { node: 3 }];
    let mut w =
        World::new(WorldConfig { faults, initial_log_bytes: 400_000_000, load_bytes_per_second: 100_000, ..config(3) });
    w.pass(5.0);
    change_type(&mut w, 3);
    let first = w.view(3).own().cloned().expect("own entry");
    assert_eq!((first.epoch, first.writer), (-1, 0));
    w.pass_until(5.0, |w| w.own_state(3) == NodeState::ReadOnlyReplica).expect("subscribed");
    assert!(w.live(3), "a replica is live as soon as it is subscribed");
    assert!(w.nodes[3].log.end() < 100_000_000, "it is far behind");
    w.pass_until(30.0, |w| w.nodes[3].log.end() >= 400_000_000).expect("it refills");
    let l = w.leader().expect("settled");
    let subscriptions = w.replication(l);
    let sent = subscriptions.iter().find(|s| s.endpoint.host == "10.0.0.4").expect("subscribed").total_bytes_sent;
    assert!(sent >= 400_000_000, "the leader sent {sent}");
    assert!(subscriptions.iter().all(|s| s.endpoint.port == REPLICATION_PORT));
}

#[test]
fn expectations_and_repeats() {
    let mut w = World::new(config(5));
    let l = w.leader().expect("settled");
    let done = |o: &WriteOutcome| {
        let WriteOutcome::Done { last_revision, position } = o else { panic!("{o:?}") };
        (*last_revision, *position)
    };
    let wrong = |current| WriteOutcome::WrongExpectedVersion { current };
    use ExpectedRevision::{Any, Exact, NoStream, StreamExists};
    // Never existed.
    assert_eq!(w.append_one(l, "s", StreamExists, 1), wrong(None));
    assert_eq!(w.append_one(l, "s", Exact(0), 1), wrong(None));
    let first = w.append_one(l, "s", NoStream, 1);
    assert_eq!(done(&first).0, Some(0));
    // Repeats.
    assert_eq!(w.append_one(l, "s", NoStream, 1), first);
    assert_eq!(w.append_one(l, "s", Any, 1), first);
    assert_eq!(w.append_one(l, "s", NoStream, 2), wrong(Some(0)));
    // As expected: no look at ids.
    assert_eq!(done(&w.append_one(l, "s", Exact(0), 1)).0, Some(1));
    assert_eq!(w.append_one(l, "s", Exact(2), 9), wrong(Some(1)));
    let third = w.append_one(l, "s", Exact(1), 3);
    assert_eq!(w.append_one(l, "s", Exact(1), 3), third);
    assert_eq!(w.append_one(l, "s", Exact(0), 3), wrong(Some(2)));
    assert_eq!(done(&w.append_one(l, "s", StreamExists, 4)).0, Some(3));
    // Two at once, the second of which is another one.
    let two = Write::Append(vec![event(3), event(99)]);
    assert_eq!(w.write(l, true, "s", Exact(1), two), WriteStart::Now(wrong(Some(3))));
    let empty = w.write(l, true, "s", Exact(1), Write::Append(Vec::new()));
    assert_eq!(empty, WriteStart::Now(wrong(Some(3))));
    let large = ProposedEvent { data: vec![0; 1_048_577], ..event(50) };
    assert_eq!(w.write(l, true, "s", Any, Write::Append(vec![large])), WriteStart::Now(WriteOutcome::TooLarge));
    // Deleted, and written again: numbers go on, what was is hidden.
    assert!(matches!(w.write(l, true, "s", Exact(3), Write::Delete), WriteStart::Pending(_)));
    w.pass(0.1);
    let read = |w: &World, from, direction| w.read_stream(l, true, "s", from, direction, 100);
    assert_eq!(read(&w, StreamStart::Start, Direction::Forwards), ReadOutcome::NoStream);
    assert_eq!(w.append_one(l, "s", StreamExists, 5), WriteOutcome::StreamDeleted);
    assert_eq!(done(&w.append_one(l, "s", NoStream, 5)).0, Some(4));
    let ReadOutcome::Found(page) = read(&w, StreamStart::Start, Direction::Forwards) else { panic!("it exists again") };
    assert_eq!((page.records.len(), page.first, page.last), (1, 4, 4));
    // Rules of the stream.
    for id in 6..10 {
        w.append_one(l, "s", Any, id);
    }
    let rule = ProposedEvent { data: br#"{"$maxCount":2}"#.to_vec(), ..event(60) };
    assert!(matches!(w.write(l, true, "$$s", Any, Write::Append(vec![rule])), WriteStart::Pending(_)));
    w.pass(0.1);
    let ReadOutcome::Found(page) = read(&w, StreamStart::End, Direction::Backwards) else { panic!("it exists") };
    assert_eq!(page.records.iter().map(|r| r.revision).collect::<Vec<_>>(), [8, 7]);
    let ReadOutcome::Found(page) = w.read_stream(l, true, "$$s", StreamStart::Start, Direction::Forwards, 10) else {
        panic!("written")
    };
    assert_eq!(page.records.len(), 1, "a metastream shows its last event only");
    // Gone for good.
    assert!(matches!(w.write(l, true, "s", Any, Write::Tombstone), WriteStart::Pending(_)));
    w.pass(0.1);
    assert_eq!(read(&w, StreamStart::Start, Direction::Forwards), ReadOutcome::StreamDeleted);
    assert_eq!(w.append_one(l, "s", Any, 70), WriteOutcome::StreamDeleted);
    // Over the whole log: everything is there, epochs are not shown.
    let filter = CompiledFilter::stream_prefixes(&["s"]);
    let ReadOutcome::Found(all) = w.read_all(l, true, AllStart::Start, Direction::Forwards, Some(&filter), 100, None)
    else {
        panic!("a leader reads")
    };
    assert!(all.end && all.records.len() == 10, "{} records", all.records.len());
    let ReadOutcome::Found(back) = w.read_all(l, true, AllStart::End, Direction::Backwards, None, 100, None) else {
        panic!()
    };
    assert!(back.end && back.records.iter().all(|r| r.stream != "$epoch-information"));
    let middle = back.records[3].position;
    let ReadOutcome::Found(part) = w.read_all(l, true, AllStart::Position(middle), Direction::Forwards, None, 1, None)
    else {
        panic!()
    };
    assert_eq!((part.records[0].position, part.next, part.end), (middle, back.records[2].position, false));
}

#[test]
fn without_a_quorum_writes_time_out_and_then_are_not_taken() {
    let mut w = World::new(config(9));
    w.pass(3.0);
    let l = w.leader().expect("settled");
    let others: Vec<NodeIx> = voters(&w).filter(|n| *n != l).collect();
    others.iter().for_each(|n| w.shutdown(*n));
    w.pass(0.7);
    let from = w.now;
    assert_eq!(w.append_one(l, "s", ExpectedRevision::NoStream, 1), WriteOutcome::TimedOut("Commit phase timeout."));
    let took = w.now - from;
    assert!(took >= seconds(2.0) && took < seconds(3.1), "{took:?}");
    w.resign(l);
    w.pass(1.5);
    assert_eq!(w.own_state(l), NodeState::Unknown, "it retired after three seconds");
    assert_eq!(w.append_one(l, "s", ExpectedRevision::NoStream, 2), WriteOutcome::NotHandled(NotHandled::NotReady));
    assert_eq!(w.read_stream(l, false, "s", StreamStart::Start, Direction::Forwards, 1), ReadOutcome::NoStream);
    assert_eq!(
        w.read_stream(l, true, "s", StreamStart::Start, Direction::Forwards, 1),
        ReadOutcome::NotHandled(NotHandled::NotReady)
    );
    w.pass(5.0);
    let WriteStart::Pending(id) = w.write(3, false, "s", ExpectedRevision::Any, Write::Append(vec![event(3)])) else {
        panic!()
    };
    let took =
        w.pass_until(10.0, |w| matches!(w.writes[&id].outcome(), Some(WriteOutcome::TimedOut("Forwarding timeout"))));
    assert!(took.expect("it ends") > seconds(4.2));
    assert!(w.live(l) && w.live(3), "health is sticky");
    // One comes back: writes work again.
    let generation = w.nodes[others[0]].generation;
    w.supervise(others[0], generation);
    w.pass_until(30.0, |w| w.leader().is_some()).expect("a quorum is back");
    let now = w.leader().expect("just seen");
    assert!(matches!(w.append_one(now, "t", ExpectedRevision::NoStream, 4), WriteOutcome::Done { .. }));
}

#[test]
fn a_leader_that_is_stopped_costs_one_election_and_comes_back_as_a_follower() {
    for seed in 0..20 {
        let mut w = World::new(config(seed));
        w.pass(3.0);
        let l = w.leader().expect("settled");
        let id = w.process_id(l);
        change_type(&mut w, l);
        w.pass_until(30.0, World::is_settled).expect("settled");
        assert_eq!(w.elections(), 1, "seed {seed}");
        assert!(w.leader() != Some(l) && w.process_id(l) != id);
        assert_eq!(w.describe_instances(&[w.instance_of(l).clone()]).expect("known")[0].instance_type.0, "m6i.xlarge");
    }
}

#[test]
fn clusters_of_other_sizes_live_too() {
    for size in [1, 2, 5] {
        let mut w = World::new(WorldConfig {
            voters: size,
            replicas: 1,
            addresses: (1..=6).map(|i| Address::new(format!("10.0.0.{i}"), 2113)).collect(),
            names: (1..=6).map(|i| format!("node-{i}")).collect(),
            ..config(size as u64)
        });
        w.pass(5.0);
        let l = w.leader().expect("settled");
        w.resign(l);
        w.pass_until(10.0, |w| w.elections() == 1).expect("somebody leads again");
        w.pass_until(20.0, World::is_settled).expect("all agree");
        let l = w.leader().expect("settled");
        w.kill(l);
        w.pass(1.0);
        w.pass_until(60.0, World::is_settled).expect("all agree");
        let l = w.leader().expect("settled");
        assert!(matches!(w.append_one(l, "s", ExpectedRevision::NoStream, 1), WriteOutcome::Done { .. }));
    }
}

#[test]
fn the_dead_are_remembered_for_half_an_hour() {
    let mut w = World::new(config(4));
    w.pass(5.0);
    let n = a_follower(&w);
    w.shutdown(n);
    w.pass(30.0);
    let l = w.leader().expect("a follower is not missed");
    let dead = w.view(l).member(w.address(n)).cloned().expect("still remembered");
    assert!(!dead.is_alive && matches!(dead.state, NodeState::Follower | NodeState::ShuttingDown));
    w.pass(1790.0);
    assert_eq!(w.view(l).members.len(), 3);
}

#[test]
fn an_ex_leader_cuts_its_tail_with_an_extra_start_or_two() {
    for (version, starts) in [("23.10.5.0", 2), ("26.1.0.0", 3)] {
        let mut w = World::new(WorldConfig { version: version.to_owned(), ..config(6) });
        w.pass(3.0);
        let l = w.leader().expect("settled");
        let others: Vec<NodeIx> = voters(&w).filter(|n| *n != l).collect();
        others.iter().for_each(|n| w.shutdown(*n));
        w.pass(0.7);
        w.append_one(l, "s", ExpectedRevision::NoStream, 1);
        w.shutdown(l);
        w.pass(1.0);
        for n in others {
            let generation = w.nodes[n].generation;
            w.supervise(n, generation);
        }
        w.pass_until(30.0, |w| w.leader().is_some()).expect("the others go on");
        let before = w.nodes[l].generation;
        w.supervise(l, before);
        w.pass_until(60.0, World::is_settled).expect("it rejoins");
        // Each start and each end counts; the last start has no end.
        assert_eq!(w.nodes[l].generation - before, 2 * starts - 1, "{version}");
        assert_eq!(w.nodes[l].log.last_revision("s"), None);
    }
}

#[test]
fn ec2_says_what_ec2_says() {
    let faults = vec![Fault::StartFails {
        instance_type: "m6i.large".into(),
        code: "InsufficientInstanceCapacity".into(),
        times: 1,
    }];
    let mut w = World::new(WorldConfig { faults, ..config(1) });
    let id = w.instance_of(0).clone();
    assert_eq!(id.0, "i-0000000000000000a");
    let code = |r: Result<_, Ec2Fault>| r.map(|_: ()| ()).map_err(|f| f.code);
    let err = |code: &str| Err(code.to_owned());
    let to = InstanceType::from("m6i.xlarge");
    assert_eq!(code(w.modify_instance_type(&id, &to)), err("IncorrectInstanceState"));
    assert_eq!(code(w.modify_instance_type(&InstanceId::from("i-00000000"), &to)), err("InvalidInstanceID.NotFound"));
    assert_eq!(code(w.modify_instance_type(&InstanceId::from("node-1"), &to)), err("InvalidInstanceID.Malformed"));
    let ids = std::slice::from_ref(&id);
    assert_eq!(
        w.start_instances(ids).expect("runs already"),
        [(id.clone(), InstanceState::Running, InstanceState::Running)]
    );
    assert_eq!(w.stop_instances(ids).expect("runs"), [(id.clone(), InstanceState::Running, InstanceState::Stopping)]);
    assert_eq!(w.stop_instances(ids).expect("stops"), [(id.clone(), InstanceState::Stopping, InstanceState::Stopping)]);
    assert_eq!(code(w.start_instances(ids).map(drop)), err("IncorrectInstanceState"));
    w.pass(1.0);
    assert_eq!(w.reachability(0), Reachability::Refused);
    w.pass(45.0);
    assert_eq!(code(w.modify_instance_type(&id, &InstanceType::from("m7g.large"))), err("InvalidParameterValue"));
    assert_eq!(code(w.modify_instance_type(&id, &InstanceType::from("x.y"))), err("InvalidParameterValue"));
    assert_eq!(code(w.start_instances(ids).map(drop)), err("InsufficientInstanceCapacity"));
    assert_eq!(
        w.start_instances(ids).expect("capacity is back"),
        [(id, InstanceState::Stopped, InstanceState::Pending)]
    );
    w.pass(25.0 + 9.0);
    assert_eq!(w.reachability(0), Reachability::Refused);
    w.pass(2.0);
    assert_eq!(w.reachability(0), Reachability::Answers);
}

/// Kills, freezes and resigns at random while it writes; afterwards all that was acknowledged is there, everywhere, once.
#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    let mut exits = 0;
    for seed in 0..60 {
        let mut w = World::new(WorldConfig { load_bytes_per_second: 300_000, ..config(seed) });
        let mut chance = Random::named(seed, "chaos");
        let mut pending: Vec<(WriteId, u128)> = Vec::new();
        let mut acknowledged = BTreeSet::new();
        for step in 0..2400_u128 {
            w.pass(0.05);
            let n = usize::try_from(chance.below(4)).expect("small");
            match chance.below(200) {
                0 => w.kill(n),
                1 => w.freeze(n),
                2..=5 => w.unfreeze(n),
                6 => w.resign(n),
                7 => w.leader().into_iter().for_each(|l| w.kill(l)),
                _ => {}
            }
            let to = w.leader().unwrap_or(n);
            let write = Write::Append(vec![event(step)]);
            if let WriteStart::Pending(id) =
                w.write(to, false, &format!("s-{}", step % 5), ExpectedRevision::Any, write)
            {
                pending.push((id, step));
            }
            pending.retain(|(id, step)| match w.write_outcome(*id) {
                Some(WriteOutcome::Done { .. }) => !acknowledged.insert(*step),
                Some(_) => false,
                None => true,
            });
            exits += w.nodes.iter().filter(|n| n.cut_to.is_some()).count();
        }
        (0..4).for_each(|n| w.unfreeze(n));
        assert!(w.pass_until(120.0, World::is_settled).is_some(), "seed {seed}: does not settle\n{}", w.roles());
        w.pass(1.0);
        assert!(acknowledged.len() > 300, "seed {seed}: only {} writes", acknowledged.len());
        let truth: BTreeSet<u128> = w.committed().iter().map(|r| r.id.as_u128()).collect();
        assert!(acknowledged.iter().all(|id| truth.contains(id)), "seed {seed}: an acknowledged write is gone");
        for node in &w.nodes {
            let same = node.log.records().iter().zip(&w.truth).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
            assert!(
                same + 20 > w.truth.len() && same >= node.committed.min(w.truth.len()),
                "seed {seed}: logs part at {same}"
            );
        }
    }
    assert!(exits > 0, "no ex-leader had to cut its log");
}

#[test]
fn ten_minutes_pass_quickly() {
    let mut w =
        World::new(WorldConfig { load_bytes_per_second: 8_000_000, initial_log_bytes: 1_000_000_000, ..config(1) });
    w.pass(600.0);
    assert!(w.is_settled() && w.elections() == 0);
}

#[test]
fn stats() {
    let mut to_leader = vec![];
    let mut settled = vec![];
    let mut replica = vec![];
    let mut again = 0;
    for seed in 0..200 {
        let mut w = World::new(config(seed));
        w.pass(7.0 + seed as f64 * 0.013);
        let l = w.leader().unwrap();
        let before = w.elections();
        w.resign(l);
        to_leader.push(w.pass_until(60.0, |w| w.elections() > before).unwrap());
        if w.leader() == Some(l) {
            again += 1;
        }
        let t = w.now;
        w.pass_until(60.0, |w| {
            w.own_state(3) == NodeState::ReadOnlyReplica
                && (0..3).all(|n| matches!(w.own_state(n), NodeState::Leader | NodeState::Follower))
        });
        replica.push(w.now - t);
        w.pass_until(60.0, World::is_settled).unwrap();
        settled.push(w.now - t);
    }
    for v in [&mut to_leader, &mut replica, &mut settled] {
        v.sort();
        println!("{:?} {:?} {:?} {:?} {:?}", v[0], v[50], v[100], v[180], v[199]);
    }
    println!("again {again}");
}

#[test]
fn a_node_follows_the_instance_of_another_ec2() {
    let mut w = World::new(config(3));
    let mut seen = w.describe_instances(&[]).unwrap().remove(1);
    seen.id = InstanceId::from("i-0123456789abcdef0");
    let first = w.process_id(1);
    w.follow_instance(1, &seen);
    w.pass(5.0);
    assert_eq!((w.instance_of(1), w.process_id(1)), (&seen.id, first), "a first look changes nothing");

    seen.state = InstanceState::Stopped;
    w.follow_instance(1, &seen);
    assert_eq!(w.reachability(1), Reachability::Refused);
    w.pass(60.0);
    assert_eq!(w.reachability(1), Reachability::Refused, "no supervisor starts what has no machine");
    seen.state = InstanceState::Pending;
    w.follow_instance(1, &seen);
    seen.state = InstanceState::Running;
    w.follow_instance(1, &seen);
    w.pass_until(60.0, World::is_settled).unwrap();
    let second = w.process_id(1);
    assert_ne!(second, first);

    // Stopped and started between two looks.
    seen.instance_type = InstanceType::from("m6i.xlarge");
    w.follow_instance(1, &seen);
    w.pass_until(60.0, World::is_settled).unwrap();
    assert_ne!(w.process_id(1), second);

    seen.state = InstanceState::Unrecognized;
    w.follow_instance(1, &seen);
    assert_eq!((w.instance_state(1), w.reachability(1)), (InstanceState::Running, Reachability::Answers));
}
