//! Plays one scenario from its beginning to its end, in virtual time, and says what the judge found.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esdb_rollout::codec::Writer;
use esdb_rollout::domain::ids::{ClusterName, UpdateId, WorkerName};
use esdb_rollout::domain::instance::{FENCE_TAG, InstanceState};
use esdb_rollout::domain::quorum::Voters;
use esdb_rollout::ports::{Expected, NewEvent, SystemClock};
use esdb_rollout::sim::model::{Fault, Reachability, WorldConfig};
use esdb_rollout::sim::ports::SimPorts;
use esdb_rollout::sim::world::{Random, SimWorld, World};
use esdb_rollout::update::observed::Policy;
use esdb_rollout::worker::{ClusterHandle, Limits, StartPoint, Stop, Worker, WorkerError};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::bugs::Bug;
use crate::judge::{Breach, Judge, SEEDS, who};
use crate::people::{self, Answering};
use crate::ports::{Calendar, Life, Stage, Wired};
use crate::scenario::{Act, Command, STRANGER, Scenario, Side};

/// How often the judge looks, between the calls.
const LOOK: Duration = Duration::from_millis(100);
/// From a majority that is well to everything being well.
const REST_HEALS_AFTER: Duration = Duration::from_secs(60);
/// What is still disturbed after the end.
const AFTERMATH: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Debug)]
pub struct Played {
    pub breaches: Vec<Breach>,
    pub trace: String,
    pub verdict: String,
    pub calls: u64,
    pub lasted: Duration,
    /// Appends and calls of the kinds that can be planned to go wrong.
    pub counted: [usize; 2],
    /// How often each instance was stopped.
    pub stops: Vec<u32>,
}

/// Plays a scenario on a runtime of its own.
pub fn play(scenario: &Scenario, bug: Option<Bug>) -> Played {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&scenario.seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    // The worlds begin inside: their time is the runtime's.
    runtime.block_on(async { Play::new(scenario.clone(), bug).run().await })
}

struct Running {
    life: Arc<Life>,
    task: JoinHandle<Result<(), WorkerError>>,
    _stop: watch::Sender<Stop>,
}

struct Slot {
    running: Option<Running>,
    comes_up: Instant,
    lives: u32,
}

struct Play {
    scenario: Scenario,
    stage: Arc<Stage>,
    cluster: SimPorts,
    store: SimPorts,
    workers: Vec<Slot>,
    random: Random,
    began: Instant,
    update: Uuid,
    /// The one that was asked for last, of those of which one superseded the other.
    newest: Uuid,
    commands: u32,
    /// Held by each command that is not written down yet.
    under_way: Arc<()>,
    answering: Answering,
    healed: bool,
}

impl Play {
    fn new(scenario: Scenario, bug: Option<Bug>) -> Self {
        let seed = scenario.seed;
        let cluster = SimWorld::new(World::new(scenario.world.clone()));
        let store = if scenario.store_elsewhere {
            let config = WorldConfig {
                faults: vec![],
                seed: seed ^ 0x5707e,
                voters: 3,
                replicas: 0,
                ..Scenario::calm(seed).world
            };
            SimWorld::new(World::new(config))
        } else {
            cluster.clone()
        };
        let mut judge = cluster.with(|w| Judge::new(w));
        if scenario.world.faults.iter().any(|f| matches!(f, Fault::SomebodyChangesType { .. })) {
            (0..scenario.world.names.len()).for_each(|n| judge.person_changed_type(n));
        }
        let stage = Arc::new(Stage {
            cluster: cluster.clone(),
            store: store.clone(),
            store_elsewhere: scenario.store_elsewhere,
            judge: Mutex::new(judge),
            wire: scenario.wire.clone(),
            faulty: AtomicBool::new(true),
            appends_take: Mutex::new(None),
            calendar: Mutex::new(0),
            bug,
            planned: scenario.planned,
            counted: Default::default(),
        });
        let began = Instant::now();
        Play {
            stage,
            cluster: SimPorts::new(cluster, seed),
            store: SimPorts::new(store, seed + 1),
            workers: scenario
                .worker_starts
                .iter()
                .map(|after| Slot { running: None, comes_up: began + *after, lives: 0 })
                .collect(),
            random: Random::named(seed, "play"),
            began,
            update: Uuid::from_u128(0xabc0_0001),
            newest: Uuid::from_u128(0xabc0_0001),
            commands: 0,
            under_way: Arc::default(),
            answering: Answering::default(),
            healed: false,
            scenario,
        }
    }

    async fn run(mut self) -> Played {
        self.stage.note(format_args!("{:?}", self.scenario));
        let request = self.scenario.request.clone();
        self.command("UpdateRequested", request, self.update).await;
        let acts = std::mem::take(&mut self.scenario.acts);
        let calm = acts.is_empty()
            && !self.scenario.steered
            && self.scenario.wire == crate::scenario::Wire::default()
            && self.scenario.world.faults.is_empty();
        let mut next = 0;
        let quorum_at = self.began + self.scenario.heal_at;
        let mut all_at = quorum_at + if calm { Duration::ZERO } else { REST_HEALS_AFTER };
        let mut quorum_healed = false;
        let mut tick = self.began;
        loop {
            while let Some((_, act)) = acts.get(next).filter(|(at, _)| self.began + *at <= tick) {
                // Nothing more is disturbed once all is well, which may be early: where everything had ended for a while.
                if (tick < quorum_at && !self.healed) || calm {
                    self.act(act.clone()).await;
                }
                next += 1;
            }
            self.tend_workers();
            if !quorum_healed && tick >= quorum_at {
                quorum_healed = true;
                self.heal(true);
            }
            if !self.healed && tick >= all_at {
                self.healed = true;
                self.heal(false);
            }
            self.count_hands();
            // A command that arrives from here on is seen at the next look.
            let said_all = Arc::strong_count(&self.under_way) == 1;
            self.stage.look(|_, _| ());
            self.answer().await;
            if said_all && self.ended() {
                if self.healed {
                    break;
                }
                // There is nothing left to disturb.
                all_at = all_at.min(tick + AFTERMATH);
            }
            if self.healed && self.whole_second(tick) {
                self.help().await;
            }
            let within = self.scenario.ends_within;
            if tick >= all_at + within {
                let now = self.stage.cluster.with(|w| w.now());
                let what = format!("all has been well for {} s, and the update has not ended", within.as_secs());
                self.stage.judge(|j| j.breach("L1", now, what));
                break;
            }
            tick += LOOK;
            sleep_until(tick).await;
        }
        // Everything has ended; whatever was on its way arrives.
        sleep(Duration::from_secs(15)).await;
        let update = self.update;
        let calm = calm && self.scenario.planned.is_none();
        self.stage.look(|j, w| j.at_the_end(w, update, calm));
        for slot in &mut self.workers {
            if let Some(running) = slot.running.take() {
                running.task.abort();
            }
        }
        let lasted = self.began.elapsed();
        let counted = [0, 1].map(|site: usize| self.stage.counted[site].load(Ordering::SeqCst));
        self.stage.judge(|j| Played {
            breaches: std::mem::take(&mut j.breaches),
            verdict: verdict(j, update),
            trace: std::mem::take(&mut j.trace),
            calls: j.calls,
            lasted,
            counted,
            stops: j.stops(),
        })
    }

    /// Tells the judge whether a worker reaches the store and EC2, and whether whoever holds the update lives. One that does not reach EC2 leaves it
    /// to another once, and that one may not reach it either.
    fn count_hands(&self) {
        let lives = || self.workers.iter().filter_map(|w| w.running.as_ref()).map(|r| &r.life).filter(|l| !l.is_dead());
        let free = lives().any(|l| !l.is_paused() && !l.is_cut(Side::Store) && !l.is_cut(Side::Ec2));
        self.stage.judge(|j| {
            let holder = j.holder();
            let holder = lives().find(|l| Some(l.incarnation) == holder);
            j.hands_are_free(free && !holder.is_some_and(|l| l.is_cut(Side::Ec2)), holder.is_some());
        });
    }

    fn whole_second(&self, tick: Instant) -> bool {
        (tick - self.began).subsec_millis() == 0
    }

    fn ended(&self) -> bool {
        let update = self.update;
        self.stage.judge(|j| {
            let ended = |u: &Uuid| j.histories.get(u).is_some_and(|h| h.iter().any(crate::judge::Entry::is_end));
            ended(&update) && j.active.is_none() && j.histories.keys().all(ended)
        })
    }

    /// Starts workers that are due, and notices those that died.
    fn tend_workers(&mut self) {
        for i in 0..self.workers.len() {
            let now = Instant::now();
            let gone = self.workers[i].running.as_ref().is_some_and(|r| r.life.is_dead() || r.task.is_finished());
            if gone && let Some(running) = self.workers[i].running.take() {
                running.task.abort();
                let most = self.scenario.respawn.as_millis() as u64;
                let away = if self.healed { Duration::from_secs(2) } else { self.random.millis(100, most.max(101)) };
                self.workers[i].comes_up = now + away;
                self.stage.note(format_args!("{} is gone", who(running.life.incarnation)));
                let now = self.stage.cluster.with(|w| w.now());
                self.stage.judge(|j| j.worker_dies(now));
            }
            if self.workers[i].running.is_none() && self.workers[i].comes_up <= now {
                self.workers[i].lives += 1;
                let running = self.spawn(i, self.workers[i].lives);
                self.stage.note(format_args!("{} comes up", who(running.life.incarnation)));
                self.workers[i].running = Some(running);
            }
        }
    }

    fn spawn(&self, i: usize, life: u32) -> Running {
        let life = Life::new(self.scenario.seed, i, life);
        let now = self.stage.cluster.with(|w| w.now());
        self.stage.judge(|j| j.comes_up(life.incarnation, now));
        let wired = Arc::new(Wired {
            stage: self.stage.clone(),
            life: life.clone(),
            log: self.store.event_log(),
            admin: self.cluster.cluster_admin(),
            fleet: self.cluster.fleet(),
            described: Arc::default(),
            views: Arc::default(),
        });
        let config = &self.scenario.world;
        let handle = ClusterHandle {
            seeds: config.addresses.iter().take(SEEDS).cloned().collect(),
            voters: (!self.scenario.ask_voters).then(|| Voters(u32::try_from(config.voters).expect("few"))),
            nodes: BTreeMap::new(),
            policy: Policy {
                allowed_types: vec![],
                max_replication_delay: Duration::from_secs(5),
                first_answer_timeout: self.scenario.first_answer_timeout,
                fence: true,
            },
            admin: wired.clone(),
            fleet: wired.clone(),
        };
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let worker = Worker {
            writer: Writer { worker: WorkerName::from(format!("w{}", i + 1).as_str()), incarnation: life.incarnation },
            clusters: Arc::new(BTreeMap::from([(ClusterName::from("prod"), handle)])),
            log: wired,
            clock: Arc::new(Calendar {
                stage: self.stage.clone(),
                inner: SystemClock::start_at(start + self.began.elapsed()),
            }),
            limits: Limits::default(),
        };
        let (stop, stopped) = watch::channel(Stop::No);
        let task = tokio::spawn(worker.run(StartPoint::CheckpointOrBeginning, stopped));
        Running { life, task, _stop: stop }
    }

    /// Appends a command, as somebody who tries until it stands.
    async fn command(&mut self, kind: &str, data: serde_json::Value, update: Uuid) {
        self.commands += 1;
        let event = NewEvent {
            id: Uuid::from_u128(0xc0_0000 + u128::from(self.commands)),
            event_type: kind.to_owned(),
            data,
            metadata: serde_json::Value::Null,
        };
        let log = self.store.event_log();
        let stream = UpdateId(update).stream();
        let under_way = self.under_way.clone();
        tokio::spawn(async move {
            for _ in 0..2000 {
                if let Ok(last) = log.read_last(&stream).await {
                    let expected = Expected::after(last.map(|e| e.revision));
                    if log.append(&stream, expected, vec![event.clone()]).await.is_ok() {
                        break;
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
            drop(under_way);
        });
    }

    async fn act(&mut self, act: Act) {
        let quiet = matches!(act, Act::LoseData(..));
        if !quiet {
            self.stage.note(format_args!("act {act:?}"));
        }
        let running = |i: usize| self.workers[i].running.as_ref();
        match act {
            Act::Freeze(n) => self.stage.cluster.with(|w| w.freeze(n)),
            Act::Thaw(n) => self.stage.cluster.with(|w| w.unfreeze(n)),
            Act::Kill(n) => self.stage.cluster.with(|w| w.kill(n)),
            Act::Exit(n) => self.stage.cluster.with(|w| w.shutdown(n)),
            Act::KillLeader => self.stage.cluster.with(|w| w.leader().into_iter().for_each(|l| w.kill(l))),
            Act::FreezeLeader => self.stage.cluster.with(|w| w.leader().into_iter().for_each(|l| w.freeze(l))),
            // What EC2 answers to a person is the person's business.
            Act::PersonStops(n) => drop(self.stage.cluster.with(|w| w.stop_instances(&[w.instance_of(n).clone()]))),
            Act::PersonStarts(n) => drop(self.stage.cluster.with(|w| w.start_instances(&[w.instance_of(n).clone()]))),
            Act::PersonModifies(n, to) => {
                let done = self.stage.cluster.with(|w| {
                    let id = w.instance_of(n).clone();
                    w.modify_instance_type(&id, &to.into())
                });
                if done.is_ok() {
                    self.stage.judge(|j| j.person_changed_type(n));
                }
            }
            Act::PersonSetsPriority(n, priority) => {
                self.stage.cluster.with(|w| w.set_priority(n, priority));
                self.stage.judge(|j| j.person_changed_priority(n));
            }
            Act::PersonTags(n) => self.stage.cluster.with(|w| {
                w.facts_mut().instances[n].details.tags.insert(FENCE_TAG.into(), STRANGER.into());
            }),
            Act::PersonUntags(n) => self.stage.cluster.with(|w| {
                w.facts_mut().instances[n].details.tags.remove(FENCE_TAG);
            }),
            Act::HangVolume(n) => self.stage.cluster.with(|w| w.hang_volume(n)),
            Act::FreeVolume(n) => self.stage.cluster.with(|w| w.free_volume(n)),
            Act::StoreIsSlow(least) => *self.stage.appends_take.lock().unwrap() = Some(least),
            Act::StoreIsQuick => *self.stage.appends_take.lock().unwrap() = None,
            Act::LoseData(n, percent) => {
                let lost = self.stage.cluster.with(|w| {
                    let off = w.instance_state(n) == InstanceState::Stopped;
                    if off {
                        w.lose_data(n, percent);
                    }
                    off
                });
                if lost {
                    self.stage.note(format_args!("act {act:?}"));
                }
            }
            Act::StoreLeaderDies => self.stage.store.with(|w| w.leader().into_iter().for_each(|l| w.kill(l))),
            Act::StoreFreezes => self.stage.store.with(|w| (0..2).for_each(|n| w.freeze(n))),
            Act::StoreThaws => self.stage.store.with(|w| (0..3).for_each(|n| w.unfreeze(n))),
            Act::CrashWorker(i) => {
                if let Some(r) = running(i) {
                    r.task.abort();
                }
            }
            Act::PauseWorker(i, for_) => running(i).into_iter().for_each(|r| r.life.pause(for_)),
            Act::SilenceFeed(i, for_) => running(i).into_iter().for_each(|r| r.life.silence(for_)),
            Act::CutOff(i, side, for_) => running(i).into_iter().for_each(|r| r.life.cut_off(side, for_)),
            Act::ClockSteps(by) => self.stage.step_calendar(|calendar| *calendar += by),
            Act::Command(command) => {
                let update = self.update;
                let (kind, data, to) = match command {
                    Command::Pause => ("PauseRequested", json!({}), update),
                    Command::Resume => ("ResumeRequested", json!({}), update),
                    Command::Cancel => ("CancelRequested", json!({ "by": "ann" }), update),
                    Command::Retry => ("RetryRequested", json!({ "answers": 0, "by": people::APPROVER }), update),
                    Command::Garbage => ("PauseRequested", json!("text"), update),
                    Command::SecondRequest => ("UpdateRequested", self.scenario.request.clone(), update),
                    Command::Supersede => {
                        let old = self.newest;
                        self.newest = Uuid::from_u128(old.as_u128() + 0x10);
                        let mut request = self.scenario.request.clone();
                        request["supersedes"] = json!(old);
                        ("UpdateRequested", request, self.newest)
                    }
                    Command::Rival => ("UpdateRequested", self.scenario.request.clone(), Uuid::from_u128(0xabc0_0002)),
                    Command::Rollback => ("RollbackRequested", json!({ "by": "ann" }), update),
                    Command::Approve(answers) => {
                        ("ApprovalGranted", json!({ "answers": answers, "by": people::APPROVER }), update)
                    }
                    Command::RetryOf(answers) => {
                        ("RetryRequested", json!({ "answers": answers, "by": people::APPROVER }), update)
                    }
                    Command::Waive(check) => (
                        "CheckWaived",
                        json!({ "answers": 0, "check": check, "why": "it is known", "by": "ann" }),
                        update,
                    ),
                };
                self.command(kind, data, to).await;
            }
        }
    }

    /// Whoever watches the update answers what waits for a person.
    async fn answer(&mut self) {
        let Some(person) = self.scenario.person.as_ref().filter(|_| !self.healed) else { return };
        let now = self.began.elapsed();
        let (answering, random) = (&mut self.answering, &mut self.random);
        self.stage.judge(|j| answering.notice(person, random, now, &j.histories));
        for said in self.answering.due(now) {
            self.stage.note(format_args!("says {} {}", said.kind, said.data));
            self.command(said.kind, said.data, said.update).await;
        }
    }

    /// Ends what is wrong: with a majority of the voters and the store first, then with everything.
    fn heal(&mut self, quorum_only: bool) {
        self.stage.note(if quorum_only { "a majority is well" } else { "everything is well" });
        let judge = &self.stage.judge;
        self.stage.cluster.with(|w| {
            w.cease_faults();
            let voters = w.config().voters;
            let ours: Vec<usize> = (0..w.node_count()).filter(|n| judge.lock().unwrap().is_ours(*n)).collect();
            // The one that is down by our doing is the product's to bring back.
            let mut well = 0;
            for n in 0..w.node_count() {
                if quorum_only && well > voters / 2 {
                    break;
                }
                if !ours.contains(&n) {
                    mend(w, n);
                    well += 1;
                }
            }
        });
        if self.stage.store_elsewhere {
            self.stage.store.with(|w| (0..3).for_each(|n| mend(w, n)));
        }
        if !quorum_only {
            // The other installation is done.
            let strange = |tag: &String| tag == STRANGER;
            self.stage.cluster.with(|w| {
                for facts in &mut w.facts_mut().instances {
                    if facts.details.tags.get(FENCE_TAG).is_some_and(strange) {
                        facts.details.tags.remove(FENCE_TAG);
                    }
                }
            });
            self.stage.faulty.store(false, Ordering::SeqCst);
            let by_the_calendar = ["window", "notBefore"].iter().any(|key| self.scenario.request.get(key).is_some());
            if by_the_calendar {
                self.stage.step_calendar(|calendar| *calendar = 0);
            }
            for running in self.workers.iter().filter_map(|s| s.running.as_ref()) {
                running.life.heal();
            }
        }
    }

    /// What a person does once everything is well: lets go on what waits for one, starts what is not the product's to start.
    async fn help(&mut self) {
        let judge = &self.stage.judge;
        self.stage.cluster.with(|w| {
            for n in 0..w.node_count() {
                let ours = judge.lock().unwrap().is_ours(n);
                if !ours || w.instance_state(n) == InstanceState::Running {
                    mend(w, n);
                }
            }
        });
        let waits: Vec<(Uuid, &'static str, serde_json::Value)> = self.stage.judge(|j| {
            let helped = |(update, history): (&Uuid, &Vec<_>)| people::helps(history).map(|(k, d)| (*update, k, d));
            j.histories.iter().filter_map(helped).collect()
        });
        for (update, kind, data) in waits {
            self.command(kind, data, update).await;
        }
    }
}

/// Makes a node well: its instance runs, its process answers.
fn mend(w: &mut World, n: usize) {
    w.unfreeze(n);
    w.free_volume(n);
    let id = w.instance_of(n).clone();
    match w.instance_state(n) {
        InstanceState::Stopped => drop(w.start_instances(&[id])),
        // A process that is gone for good, or mute for good: the machine is rebooted. One that starts is let be.
        InstanceState::Running if w.is_stuck(n) => drop(w.reboot_instance(&id)),
        _ => {}
    }
    debug_assert!(matches!(w.reachability(n), Reachability::Answers | Reachability::Refused | Reachability::Silent));
}

fn verdict(judge: &Judge, update: Uuid) -> String {
    let history = judge.histories.get(&update);
    let end = history.and_then(|h| h.iter().find(|e| e.is_end()));
    end.map_or("none".to_owned(), |e| {
        let code = e.data.get("code").and_then(|c| c.as_str()).unwrap_or_default();
        format!("{} {code}", e.kind).trim().to_owned()
    })
}
