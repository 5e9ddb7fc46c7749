use super::*;
use crate::sim::model::{ExpectedRevision, ProposedEvent, Write, WriteOutcome};

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
fn show() {
    let mut w = World::new(config(std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)));
    let what = std::env::var("WHAT").unwrap_or_default();
    w.pass(5.0);
    print!("{}", w.roles());
    let l = w.leader().unwrap();
    let f = (0..3).find(|n| *n != l).unwrap();
    match what.as_str() {
        "kill" => w.kill(l),
        "freeze" => w.freeze(l),
        "freeze-follower" => w.freeze(f),
        "stop" => {
            let id = w.instance_of(f).clone();
            w.stop_instances(&[id]).unwrap();
        }
        _ => {
            w.set_priority(l, -1);
            w.resign(l);
        }
    }
    let mut last = String::new();
    for i in 0..12000 {
        w.pass(0.01);
        if i == 1600 && what.starts_with("freeze") {
            w.unfreeze(l);
            w.unfreeze(f);
            println!("unfrozen");
        }
        if i == 5000 && what == "stop" {
            let id = w.instance_of(f).clone();
            w.start_instances(&[id]).unwrap();
            println!("started");
        }
        let r = w.roles();
        if r != last {
            println!("{:?}", w.now);
            for (a, b) in r.lines().zip(last.lines().chain(std::iter::repeat(""))) {
                if a != b {
                    println!("   {a}");
                }
            }
            last = r;
        }
    }
}
