//! One worker's ports: the world's, with everything that can go wrong on the way to it and back. Also where the worker dies or is paused,
//! where the judge hears of what is sent and called, and where a seeded bug sits.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use esdb_rollout::domain::cluster::{NodeState, ReplicaSubscription, View};
use esdb_rollout::domain::ec2::classify;
use esdb_rollout::domain::ids::{Address, Incarnation, InstanceId, InstanceType, Revision, StreamName};
use esdb_rollout::domain::inspection::Inspection;
use esdb_rollout::domain::instance::{Instance, TypeInfo};
use esdb_rollout::domain::time::Moment;
use esdb_rollout::ports::*;
use esdb_rollout::sim::world::{Random, SimWorld};
use esdb_rollout::update::action::Call;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::bugs::Bug;
use crate::judge::{Judge, who};
use crate::scenario::{EC2_CODES, Planned, Side, Site, UNANSWERED, Wire, Wrong};

/// What a client of the store gives one call.
const CALL_BUDGET: Duration = Duration::from_secs(5);

/// An append that arrives late does so within this.
const APPENDS_LATE: Duration = Duration::from_secs(12);

/// What one seed's workers share.
pub struct Stage {
    pub cluster: SimWorld,
    pub store: SimWorld,
    pub store_elsewhere: bool,
    pub judge: Mutex<Judge>,
    pub wire: Wire,
    /// Whether the wire still plays its faults.
    pub faulty: AtomicBool,
    /// How long an append takes at least, while the store is slow.
    pub appends_take: Mutex<Option<Duration>>,
    /// Seconds by which the calendars are off.
    pub calendar: Mutex<i64>,
    pub bug: Option<Bug>,
    pub planned: Option<Planned>,
    /// Appends and calls so far, of those that [`Planned`] counts.
    pub counted: [AtomicUsize; 2],
}

impl Stage {
    pub fn judge<T>(&self, f: impl FnOnce(&mut Judge) -> T) -> T {
        f(&mut self.judge.lock().unwrap())
    }

    /// The judge looks at everything as it is now, and `f` is done to both.
    pub fn look<T>(&self, f: impl FnOnce(&mut Judge, &mut esdb_rollout::sim::world::World) -> T) -> T {
        if self.store_elsewhere {
            self.store.with(|store| {
                self.cluster.with(|cluster| {
                    self.judge(|j| {
                        j.look(cluster, store);
                        f(j, cluster)
                    })
                })
            })
        } else {
            self.cluster.with(|w| {
                self.judge(|j| {
                    j.look(w, w);
                    f(j, w)
                })
            })
        }
    }

    /// What goes wrong with this one, which is counted.
    fn plan(&self, site: Site) -> Option<Wrong> {
        let at = self.counted[site as usize].fetch_add(1, Ordering::SeqCst);
        let wrong = self.planned.filter(|p| p.site == site && p.at == at)?.wrong;
        self.note(format_args!("{wrong:?}"));
        Some(wrong)
    }

    /// The machines' calendars jump.
    pub fn step_calendar(&self, step: impl FnOnce(&mut i64)) {
        let mut calendar = self.calendar.lock().unwrap();
        step(&mut calendar);
        let now = self.cluster.with(|w| w.now());
        self.judge(|j| j.calendar_steps(now, *calendar));
    }

    pub fn note(&self, what: impl std::fmt::Display) {
        let now = self.cluster.with(|w| w.now());
        self.judge(|j| j.note(now, what));
    }
}

/// One life of one worker.
pub struct Life {
    pub incarnation: Incarnation,
    dead: AtomicBool,
    pub died: Notify,
    paused_until: Mutex<Instant>,
    cut_until: [Mutex<Instant>; 3],
    silent_until: Mutex<Instant>,
    random: Mutex<Random>,
}

impl Life {
    pub fn new(seed: u64, worker: usize, number: u32) -> Arc<Self> {
        let now = Instant::now();
        let incarnation = Incarnation(uuid::Uuid::from_u128(((worker as u128 + 1) << 16) | u128::from(number)));
        Arc::new(Life {
            incarnation,
            dead: AtomicBool::new(false),
            died: Notify::new(),
            paused_until: Mutex::new(now),
            cut_until: [Mutex::new(now), Mutex::new(now), Mutex::new(now)],
            silent_until: Mutex::new(now),
            random: Mutex::new(Random::named(seed, &format!("wire {worker} {number}"))),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub fn pause(&self, for_: Duration) {
        *self.paused_until.lock().unwrap() = Instant::now() + for_;
    }

    pub fn cut_off(&self, side: Side, for_: Duration) {
        *self.cut_until[side as usize].lock().unwrap() = Instant::now() + for_;
    }

    pub fn silence(&self, for_: Duration) {
        *self.silent_until.lock().unwrap() = Instant::now() + for_;
    }

    /// Everything that was done to this life ends now.
    pub fn heal(&self) {
        let now = Instant::now();
        for until in [&self.paused_until, &self.silent_until].into_iter().chain(&self.cut_until) {
            let mut until = until.lock().unwrap();
            *until = now.min(*until);
        }
    }

    pub fn is_paused(&self) -> bool {
        *self.paused_until.lock().unwrap() > Instant::now()
    }

    pub fn is_cut(&self, side: Side) -> bool {
        *self.cut_until[side as usize].lock().unwrap() > Instant::now()
    }
}

/// What EC2 said, and when.
type Described = Vec<(Instant, Vec<Instance>)>;

/// A worker's ports.
#[derive(Clone)]
pub struct Wired {
    pub stage: Arc<Stage>,
    pub life: Arc<Life>,
    pub log: Arc<dyn EventLog>,
    pub admin: Arc<dyn ClusterAdmin>,
    pub fleet: Arc<dyn Fleet>,
    /// Descriptions of late, for answers that are stale.
    pub described: Arc<Mutex<Described>>,
    /// Good views of late, for a bug that believes them.
    pub views: Arc<Mutex<BTreeMap<Address, View>>>,
}

impl Wired {
    fn draw<T>(&self, f: impl FnOnce(&mut Random) -> T) -> T {
        f(&mut self.life.random.lock().unwrap())
    }

    fn chance(&self, percent: impl Fn(&Wire) -> u32) -> bool {
        let percent = percent(&self.stage.wire);
        percent > 0 && self.stage.faulty.load(Ordering::SeqCst) && self.draw(|r| r.percent(percent))
    }

    /// The worker dies here, now and then.
    async fn may_die(&self, where_: &str) {
        let permille = u64::from(self.stage.wire.crash_permille);
        if permille > 0 && self.stage.faulty.load(Ordering::SeqCst) && self.draw(|r| r.below(1000) < permille) {
            self.die(where_).await;
        }
    }

    pub async fn die(&self, where_: &str) {
        self.stage.note(format_args!("{} dies {where_}", who(self.life.incarnation)));
        self.life.dead.store(true, Ordering::SeqCst);
        self.life.died.notify_one();
        std::future::pending::<()>().await;
    }

    /// An answer comes back: not while the worker is paused, and late if everything is slow.
    async fn back<T>(&self, answer: T) -> T {
        let slow = self.stage.wire.slow_ms;
        if slow > 0 && self.stage.faulty.load(Ordering::SeqCst) {
            let late = self.draw(|r| r.millis(0, slow));
            sleep(late).await;
        }
        loop {
            let until = *self.life.paused_until.lock().unwrap();
            if until <= Instant::now() {
                return answer;
            }
            sleep_until(until).await;
        }
    }

    fn of_update(stream: &StreamName) -> Option<uuid::Uuid> {
        stream.as_str().strip_prefix("clusterUpdate-").and_then(|u| u.parse().ok())
    }

    fn acknowledged(&self, stream: &StreamName) {
        if let Some(update) = Self::of_update(stream) {
            let now = self.stage.cluster.with(|w| w.now());
            self.stage.judge(|j| j.acknowledges(self.life.incarnation, update, now));
        }
    }

    /// An append to an update's stream has come back, after so long.
    fn came_back(&self, stream: &StreamName, taken: bool, after: Duration) {
        if let Some(update) = Self::of_update(stream) {
            let now = self.stage.cluster.with(|w| w.now());
            self.stage.judge(|j| j.writes(self.life.incarnation, update, now, taken.then_some(after)));
        }
    }

    fn counted(stream: &StreamName) -> bool {
        stream.as_str().starts_with("clusterUpdate-") || stream.as_str().starts_with("updatedCluster-")
    }

    async fn read_fails<T>(&self, what: &str) -> Result<(), Result<T, ReadError>> {
        if self.life.is_cut(Side::Store) {
            sleep(Duration::from_secs(5)).await;
        } else if self.chance(|w| w.read_lost) {
            let now = self.stage.cluster.with(|w| w.now());
            self.stage.judge(|j| j.read_fails(now));
            let after = self.draw(|r| r.millis(1, 5000));
            sleep(after).await;
        } else {
            return Ok(());
        }
        Err(Err(ReadError::Unavailable { what: what.to_owned(), found: "no answer".into() }))
    }

    async fn appended(
        &self,
        stream: &StreamName,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        let unknown = || AppendError::Unknown { stream: stream.clone(), found: "no answer".into() };
        let now = self.stage.cluster.with(|w| w.now());
        self.stage.judge(|j| events.iter().for_each(|e| j.sends(e.id, &e.event_type, self.life.incarnation, now)));
        if self.life.is_cut(Side::Store) {
            sleep(Duration::from_secs(5)).await;
            return Err(AppendError::Unavailable { stream: stream.clone(), found: "no answer".into() });
        }
        let planned = if Self::counted(stream) { self.stage.plan(Site::Append) } else { None };
        match planned {
            Some(Wrong::CrashBefore) => self.die("before an append").await,
            Some(Wrong::LostUnheard) => {
                sleep(Duration::from_secs(5)).await;
                return Err(unknown());
            }
            Some(_) | None => {}
        }
        if self.chance(|w| w.append_lost) {
            let after = self.draw(|r| r.millis(1, 5000));
            sleep(after).await;
            return Err(unknown());
        }
        let slow = *self.stage.appends_take.lock().unwrap();
        let slow = slow
            .filter(|_| self.stage.faulty.load(Ordering::SeqCst))
            .map(|least| self.draw(|r| r.millis(least.as_millis() as u64, 2 * least.as_millis() as u64)));
        // What was sent arrives, whatever becomes of the sender.
        let (log, to, wired) = (self.log.clone(), stream.clone(), self.clone());
        let late = self.chance(|w| w.append_late).then(|| self.draw(|r| r.millis(1, APPENDS_LATE.as_millis() as u64)));
        let late = if planned == Some(Wrong::Late) { Some(Duration::from_secs(7)) } else { late };
        let again = match planned {
            Some(Wrong::Twice(after)) => Some(Duration::from_millis(after)),
            Some(_) | None => self.chance(|w| w.append_twice).then_some(Duration::ZERO),
        };
        let sent = tokio::spawn(async move {
            sleep(late.or(slow).unwrap_or_default()).await;
            let first = log.append(&to, expected, events.clone()).await;
            if let Some(after) = again {
                let once_more = async move {
                    let again = log.append(&to, expected, events).await;
                    wired.stage.note(format_args!("sent twice: {again:?}"));
                };
                if after.is_zero() {
                    once_more.await;
                } else {
                    tokio::spawn(async move {
                        sleep(after).await;
                        once_more.await;
                    });
                }
            }
            first
        });
        if late.is_some() {
            sleep(Duration::from_secs(5)).await;
            return Err(unknown());
        }
        let Ok(answer) = timeout(CALL_BUDGET, sent).await else { return Err(unknown()) };
        let answer = answer.expect("an append does not panic");
        match planned {
            Some(Wrong::CrashAfter) => self.die("after an append").await,
            Some(Wrong::DoneUnheard) => {
                sleep(Duration::from_secs(5)).await;
                return Err(unknown());
            }
            Some(_) | None => {}
        }
        if self.chance(|w| w.append_answer_lost) {
            let after = self.draw(|r| r.millis(1, 4000));
            sleep(after).await;
            return Err(unknown());
        }
        if answer.is_ok() {
            self.acknowledged(stream);
        }
        answer
    }

    /// A call that changes something, of which the judge hears when it leaves.
    async fn calls<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        call: Call,
        effect: impl Fn() -> F + Send + 'static,
        refusal: impl Fn(Wrong) -> T,
        faults: impl Fn(&Self) -> CallFault<T>,
    ) -> T {
        self.may_die(&format!("before: {call}")).await;
        let planned = self.stage.plan(Site::Call);
        if planned == Some(Wrong::CrashBefore) {
            self.die(&format!("before: {call}")).await;
        }
        let me = self.life.incarnation;
        self.stage.look(|judge, world| judge.call(world, me, &call));
        let what = call.to_string();
        if planned.is_some() {
            self.ec2_fails(Some(&call));
        }
        let fault = match planned {
            None | Some(Wrong::CrashBefore | Wrong::CrashAfter) => faults(self),
            Some(
                wrong @ (Wrong::Soon
                | Wrong::Capacity
                | Wrong::Unsettled
                | Wrong::Mending
                | Wrong::Credentials
                | Wrong::Never),
            ) => CallFault::Refused(refusal(wrong)),
            Some(Wrong::DoneUnheard) => CallFault::Late(Duration::ZERO),
            Some(Wrong::Late) => CallFault::Late(Duration::from_millis(9_900)),
            Some(Wrong::LostUnheard) => CallFault::Lost,
            Some(Wrong::Twice(after)) => CallFault::Twice(Duration::from_millis(after)),
        };
        let answer = match fault {
            CallFault::None => tokio::spawn(effect()).await.expect("a call does not panic"),
            CallFault::Twice(after) => {
                let answer = tokio::spawn(effect()).await.expect("a call does not panic");
                let stage = self.stage.clone();
                tokio::spawn(async move {
                    sleep(after).await;
                    stage.note(format_args!("arrives once more: {what}"));
                    effect().await;
                });
                answer
            }
            CallFault::Lost => {
                self.stage.note(format_args!("lost: {what}"));
                self.stage.judge(|j| j.refused(&call));
                std::future::pending().await
            }
            CallFault::Refused(error) => {
                self.stage.note(format_args!("refused: {what}"));
                self.stage.judge(|j| j.refused(&call));
                error
            }
            CallFault::AnswerLost(error, after) => {
                let done = tokio::spawn(effect());
                sleep(after).await;
                drop(done.await);
                self.stage.note(format_args!("answer lost: {what}"));
                error
            }
            CallFault::Late(after) => {
                let stage = self.stage.clone();
                tokio::spawn(async move {
                    sleep(after).await;
                    stage.note(format_args!("arrives late: {what}"));
                    effect().await;
                });
                std::future::pending().await
            }
        };
        self.may_die(&format!("after: {call}")).await;
        if planned == Some(Wrong::CrashAfter) {
            self.die(&format!("after: {call}")).await;
        }
        self.back(answer).await
    }

    async fn fleet_call(&self, call: Call) -> Result<Done, FleetError> {
        let fleet = self.fleet.clone();
        let name = match &call {
            Call::StopInstance { .. } => "StopInstances",
            Call::ModifyType { .. } => "ModifyInstanceAttribute",
            Call::StartInstance { .. } => "StartInstances",
            Call::RebootInstance { .. } => "RebootInstances",
            Call::Tag { .. } => "CreateTags",
            Call::Untag { .. } => "DeleteTags",
            Call::SetPriority { .. } | Call::Resign { .. } => "none of EC2's",
        };
        let again = call.clone();
        let effect = move || {
            let (fleet, call) = (fleet.clone(), again.clone());
            async move {
                match call {
                    Call::StopInstance { instance } => fleet.stop(&instance).await,
                    Call::ModifyType { instance, to } => fleet.modify_type(&instance, &to).await,
                    Call::StartInstance { instance } => fleet.start(&instance).await,
                    Call::RebootInstance { instance } => fleet.reboot(&instance).await,
                    Call::Tag { instance, value } => fleet.tag(&instance, &value).await,
                    Call::Untag { instance, value } => fleet.untag(&instance, &value).await,
                    Call::SetPriority { .. } | Call::Resign { .. } => Ok(Done { request_id: None }),
                }
            }
        };
        let error = |code: &str, class: CallClass| {
            let message = "as the catalogue says".into();
            Err(FleetError { call: name.into(), class, code: code.into(), message, request_id: None })
        };
        let refusal = |wrong| {
            let code = match wrong {
                Wrong::Capacity => "InsufficientInstanceCapacity",
                Wrong::Unsettled => "IncorrectInstanceState",
                Wrong::Mending => "UnauthorizedOperation",
                Wrong::Credentials => "RequestExpired",
                Wrong::Never => "InvalidParameterValue",
                _ => "RequestLimitExceeded",
            };
            error(code, classify(code))
        };
        let fault = |wired: &Self| {
            if wired.life.is_cut(Side::Ec2) {
                return CallFault::Refused(error("Unreachable", CallClass::Unknown));
            }
            if wired.chance(|w| w.ec2_refused) {
                let code = wired.draw(|r| r.pick(EC2_CODES)).expect("there are codes");
                return CallFault::Refused(error(code, classify(code)));
            }
            if wired.chance(|w| w.ec2_answer_lost) {
                let after = wired.draw(|r| r.millis(1, 9000));
                let code = wired.draw(|r| r.pick(UNANSWERED)).expect("there are codes");
                return CallFault::AnswerLost(error(code, classify(code)), after);
            }
            if wired.chance(|w| w.ec2_late) {
                return CallFault::Late(wired.draw(|r| r.millis(1, 9900)));
            }
            CallFault::None
        };
        let what = call.clone();
        let answer = self
            .calls(call, effect, refusal, |wired| {
                let fault = fault(wired);
                if !matches!(fault, CallFault::None) {
                    wired.ec2_fails(Some(&what));
                }
                fault
            })
            .await;
        if answer.is_err() {
            self.ec2_fails(Some(&what));
        }
        answer
    }

    /// EC2 did not do what it was asked for, or did not say so.
    fn ec2_fails(&self, call: Option<&Call>) {
        let now = self.stage.cluster.with(|w| w.now());
        self.stage.judge(|j| j.ec2_fails(now, call));
    }

    async fn node_call(&self, node: &Address, call: Call) -> Result<(), NodeError> {
        let admin = self.admin.clone();
        let again = call.clone();
        let effect = move || {
            let (admin, call) = (admin.clone(), again.clone());
            async move {
                match call {
                    Call::SetPriority { address, priority } => admin.set_priority(&address, priority).await,
                    Call::Resign { address } => admin.resign(&address).await,
                    Call::StopInstance { .. }
                    | Call::ModifyType { .. }
                    | Call::StartInstance { .. }
                    | Call::RebootInstance { .. }
                    | Call::Tag { .. }
                    | Call::Untag { .. } => Ok(()),
                }
            }
        };
        let refusal = |wrong| {
            let status = match wrong {
                Wrong::Mending => 401,
                Wrong::Never => 404,
                _ => 503,
            };
            Err(NodeError::Status { node: node.clone(), what: "the call".into(), status })
        };
        self.calls(call, effect, refusal, |wired| {
            let lost = || Err(NodeError::TimedOut { node: node.clone(), after_ms: 3000 });
            if wired.life.is_cut(Side::Nodes) {
                return CallFault::Refused(lost());
            }
            if wired.chance(|w| w.node_call_refused) {
                let status = wired.draw(|r| r.pick(&[401, 404, 500, 503])).expect("there are some");
                return CallFault::Refused(Err(NodeError::Status {
                    node: node.clone(),
                    what: "the call".into(),
                    status,
                }));
            }
            if wired.chance(|w| w.node_call_answer_lost) {
                let after = wired.draw(|r| r.millis(1, 2900));
                return CallFault::AnswerLost(lost(), after);
            }
            CallFault::None
        })
        .await
    }

    async fn asks<T>(&self, node: &Address, ask: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
        if self.life.is_cut(Side::Nodes) || self.chance(|w| w.node_lost) {
            sleep(Duration::from_secs(3)).await;
            return Err(NodeError::TimedOut { node: node.clone(), after_ms: 3000 });
        }
        let answer = ask.await;
        if self.chance(|w| w.node_slow) {
            let after = self.draw(|r| r.millis(1, 2900));
            sleep(after).await;
        }
        self.back(answer).await
    }
}

/// What goes wrong with one call that changes something.
enum CallFault<T> {
    None,
    /// It has no effect, and this is the answer.
    Refused(T),
    /// It has its effect, and this is what is heard, after so long.
    AnswerLost(T, Duration),
    /// It has its effect after so long, and nothing is heard.
    Late(Duration),
    /// It has no effect, and nothing is heard.
    Lost,
    /// It has its effect, is answered, and arrives once more after so long.
    Twice(Duration),
}

#[async_trait]
impl EventLog for Wired {
    async fn append(&self, s: &StreamName, e: Expected, v: Vec<NewEvent>) -> Result<Appended, AppendError> {
        let kinds: Vec<String> = v.iter().map(|e| e.event_type.clone()).collect();
        let sent = Instant::now();
        if Self::counted(s) {
            self.may_die(&format!("before {}", kinds.join("+"))).await;
        }
        let answer = match self.stage.bug {
            Some(bug) => bug.append(self, s, e, v).await,
            None => self.appended(s, e, v).await,
        };
        if Self::counted(s) {
            if let Err(error) = &answer {
                self.stage.note(format_args!("{}: {}: {error}", who(self.life.incarnation), kinds.join("+")));
            }
            self.may_die(&format!("after {}", kinds.join("+"))).await;
        }
        let answer = self.back(answer).await;
        self.came_back(s, answer.is_ok(), sent.elapsed());
        answer
    }

    async fn read(&self, s: &StreamName, from: Revision, max: usize) -> Result<Vec<StoredEvent>, ReadError> {
        if let Err(failed) = self.read_fails(s.as_str()).await {
            return self.back(failed).await;
        }
        let mut answer = self.log.read(s, from, max).await;
        // Who drives the update reads on; whoever reads it from its beginning does so for a command, and tells nobody of it.
        if answer.is_ok() && from > Revision(0) {
            self.acknowledged(s);
        }
        if let (Some(bug), Ok(events)) = (self.stage.bug, &mut answer) {
            events.iter_mut().for_each(|e| bug.reads(e));
        }
        self.back(answer).await
    }

    async fn read_last(&self, s: &StreamName) -> Result<Option<StoredEvent>, ReadError> {
        if let Err(failed) = self.read_fails(s.as_str()).await {
            return self.back(failed).await;
        }
        let answer = self.log.read_last(s).await;
        self.back(answer).await
    }

    async fn end_of_log(&self) -> Result<Option<Position>, ReadError> {
        self.log.end_of_log().await
    }

    async fn read_back(&self, p: &[&str], max: usize, look: usize) -> Result<(Vec<StoredEvent>, usize), ReadError> {
        self.log.read_back(p, max, look).await
    }

    async fn subscribe(&self, from: StartFrom, p: &[&str]) -> mpsc::Receiver<Feed> {
        let mut inner = self.log.subscribe(from, p).await;
        let (to, feed) = mpsc::channel(64);
        let life = self.life.clone();
        tokio::spawn(async move {
            loop {
                let item = tokio::select! {
                    item = inner.recv() => item,
                    () = to.closed() => None,
                };
                let Some(item) = item else { return };
                loop {
                    let until = *life.silent_until.lock().unwrap();
                    let now = Instant::now();
                    if until <= now {
                        break;
                    }
                    // By steps: the silence may be ended from outside.
                    sleep_until(until.min(now + Duration::from_secs(1))).await;
                }
                if to.send(item).await.is_err() {
                    return;
                }
            }
        });
        feed
    }

    async fn let_read_all(&self, user: &str) -> Result<bool, AppendError> {
        self.log.let_read_all(user).await
    }

    async fn set_max_count(&self, s: &StreamName, n: u64) -> Result<bool, AppendError> {
        if self.life.is_cut(Side::Store) {
            sleep(Duration::from_secs(5)).await;
            return Err(AppendError::Unavailable { stream: s.clone(), found: "no answer".into() });
        }
        let answer = self.log.set_max_count(s, n).await;
        self.back(answer).await
    }

    async fn read_everywhere(&self, s: &StreamName) -> Vec<LocalRead> {
        if self.life.is_cut(Side::Store) {
            return self.back(Vec::new()).await;
        }
        let answer = self.log.read_everywhere(s).await;
        self.back(answer).await
    }

    async fn probe(&self) -> StoreProbe {
        if self.life.is_cut(Side::Store) {
            return self.back(StoreProbe { voters: 3, ..StoreProbe::default() }).await;
        }
        let answer = self.log.probe().await;
        self.back(answer).await
    }
}

#[async_trait]
impl ClusterAdmin for Wired {
    async fn gossip(&self, n: &Address) -> Result<View, NodeError> {
        let answer = self.asks(n, self.admin.gossip(n)).await;
        let mut answer = match self.stage.bug {
            Some(bug) => bug.gossip(self, n, answer).await,
            None => answer,
        };
        if let Ok(view) = &mut answer
            && self.chance(|w| w.view_contradicts)
            && let Some(at) = self.draw(|r| r.pick(&(0..view.members.len()).collect::<Vec<_>>()))
            && view.members[at].address != view.server
        {
            view.members[at].state = NodeState::Leader;
        }
        answer
    }

    async fn live(&self, n: &Address) -> Result<bool, NodeError> {
        self.asks(n, self.admin.live(n)).await
    }

    async fn cluster_size(&self, n: &Address) -> Result<Option<u32>, NodeError> {
        let answer = self.asks(n, self.admin.cluster_size(n)).await;
        match self.stage.bug {
            Some(bug) => bug.cluster_size(self, n, answer).await,
            None => answer,
        }
    }

    async fn replication(&self, n: &Address) -> Result<Vec<ReplicaSubscription>, NodeError> {
        self.asks(n, self.admin.replication(n)).await
    }

    async fn scavenge(&self, n: &Address) -> Result<Option<String>, NodeError> {
        self.asks(n, self.admin.scavenge(n)).await
    }

    async fn set_priority(&self, n: &Address, p: i32) -> Result<(), NodeError> {
        let call = Call::SetPriority { address: n.clone(), priority: p };
        match self.stage.bug {
            Some(bug) if bug.forgets(&call) => Ok(()),
            Some(_) | None => self.node_call(n, call).await,
        }
    }

    async fn resign(&self, n: &Address) -> Result<(), NodeError> {
        self.node_call(n, Call::Resign { address: n.clone() }).await
    }

    async fn resolve(&self, h: &str) -> Result<Vec<IpAddr>, NodeError> {
        self.admin.resolve(h).await
    }
}

#[async_trait]
impl Fleet for Wired {
    async fn describe(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, FleetError> {
        let failure = |code: &str| FleetError {
            call: "DescribeInstances".into(),
            class: classify(code),
            code: code.into(),
            message: "as the catalogue says".into(),
            request_id: None,
        };
        if self.life.is_cut(Side::Ec2) {
            sleep(Duration::from_secs(10)).await;
            return Err(FleetError { class: CallClass::Unknown, ..failure("Timeout") });
        }
        if self.chance(|w| w.describe_fails) {
            self.ec2_fails(None);
            let code = self.draw(|r| r.pick(&["RequestLimitExceeded", "InternalError", "UnauthorizedOperation"]));
            return Err(failure(code.expect("there are some")));
        }
        let mut answer = self.fleet.describe(ids).await.inspect_err(|_| self.ec2_fails(None))?;
        if let Some(bug) = self.stage.bug {
            bug.describe(self, &mut answer);
        }
        let now = Instant::now();
        let stale = self.chance(|w| w.describe_stale).then(|| self.draw(|r| r.millis(0, 10_000)));
        if stale.is_some() {
            self.ec2_fails(None);
        }
        {
            let mut kept = self.described.lock().unwrap();
            kept.retain(|(at, _)| now.duration_since(*at) <= Duration::from_secs(10));
            kept.push((now, answer.clone()));
            if let Some(age) = stale
                && let Some((_, old)) = kept.iter().find(|(at, _)| now.duration_since(*at) <= age)
            {
                answer.clone_from(old);
            }
        }
        if self.chance(|w| w.describe_misses) && !answer.is_empty() {
            let at = self.draw(|r| r.below(answer.len() as u64)) as usize;
            answer.remove(at);
            self.ec2_fails(None);
        }
        Ok(self.back(answer).await)
    }

    async fn find(&self, w: &Wanted) -> Result<Vec<Instance>, FleetError> {
        let mut answer = self.fleet.find(w).await;
        if let (Some(bug), Ok(found)) = (self.stage.bug, &mut answer) {
            bug.describe(self, found);
        }
        self.back(answer).await
    }

    async fn type_info(&self, t: &InstanceType) -> Result<Option<TypeInfo>, FleetError> {
        let answer = self.fleet.type_info(t).await;
        self.back(answer).await
    }

    async fn inspect(&self, instances: &BTreeMap<InstanceId, Vec<InstanceType>>) -> Inspection {
        let answer = self.fleet.inspect(instances).await;
        self.back(answer).await
    }

    async fn stop(&self, id: &InstanceId) -> Result<Done, FleetError> {
        let call = Call::StopInstance { instance: id.clone() };
        match self.stage.bug {
            Some(bug) => bug.stop(self, call).await,
            None => self.fleet_call(call).await,
        }
    }

    async fn modify_type(&self, id: &InstanceId, to: &InstanceType) -> Result<Done, FleetError> {
        self.fleet_call(Call::ModifyType { instance: id.clone(), to: to.clone() }).await
    }

    async fn start(&self, id: &InstanceId) -> Result<Done, FleetError> {
        let call = Call::StartInstance { instance: id.clone() };
        match self.stage.bug {
            Some(bug) if bug.forgets(&call) => Ok(Done { request_id: None }),
            Some(_) | None => self.fleet_call(call).await,
        }
    }

    async fn reboot(&self, id: &InstanceId) -> Result<Done, FleetError> {
        self.fleet_call(Call::RebootInstance { instance: id.clone() }).await
    }

    async fn tag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        self.fleet_call(Call::Tag { instance: id.clone(), value: value.to_owned() }).await
    }

    async fn untag(&self, id: &InstanceId, value: &str) -> Result<Done, FleetError> {
        let call = Call::Untag { instance: id.clone(), value: value.to_owned() };
        match self.stage.bug {
            Some(bug) if bug.forgets(&call) => Ok(Done { request_id: None }),
            Some(_) | None => self.fleet_call(call).await,
        }
    }
}

impl Wired {
    /// The way a bug takes to the store, past or through the usual one.
    pub async fn append_as_ever(&self, s: &StreamName, e: Expected, v: Vec<NewEvent>) -> Result<Appended, AppendError> {
        self.appended(s, e, v).await
    }

    pub async fn stop_as_ever(&self, call: Call) -> Result<Done, FleetError> {
        self.fleet_call(call).await
    }
}

/// The worker's clock: monotonic time as ever, a calendar that jumps.
pub struct Calendar {
    pub stage: Arc<Stage>,
    pub inner: SystemClock,
}

impl Clock for Calendar {
    fn now(&self) -> Moment {
        self.inner.now()
    }

    fn wall(&self) -> jiff::Timestamp {
        let off = jiff::SignedDuration::from_secs(*self.stage.calendar.lock().unwrap());
        self.inner.wall() + off
    }
}
