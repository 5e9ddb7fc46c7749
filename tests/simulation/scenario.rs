//! What a seed draws: the cluster, the request, which faults are on, how hard, and who does what when. Swarm-style: most faults are off in
//! most seeds, so that each gets the stage to itself now and then.

use std::time::Duration;

use esdb_rollout::domain::ids::Address;
use esdb_rollout::sim::model::{Fault, WorldConfig};
use esdb_rollout::sim::world::Random;
use esdb_rollout::update::limits::FIRST_ANSWER_TIMEOUT;

use crate::people::{self, Person};
use crate::rare;

/// A thing that happens to the cluster, to a worker, or that a person does.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Freeze(usize),
    Thaw(usize),
    Kill(usize),
    /// The process ends with exit code 0 and its supervisor leaves it at that.
    Exit(usize),
    /// Whoever leads ends at once: an unplanned election.
    KillLeader,
    FreezeLeader,
    PersonStops(usize),
    PersonStarts(usize),
    PersonModifies(usize, &'static str),
    PersonSetsPriority(usize, i32),
    /// Somebody who reads another store tags the instance as theirs, whatever it says.
    PersonTags(usize),
    /// Whatever tag there is of an update, it is removed.
    PersonUntags(usize),
    /// The node's volume hangs while its sockets live: where a voter is down already, the store leads and can commit nothing.
    HangVolume(usize),
    FreeVolume(usize),
    /// An append takes at least so long, and up to twice of it.
    StoreIsSlow(Duration),
    StoreIsQuick,
    /// While its machine is stopped, the node's volume loses all but this many percent.
    LoseData(usize, u32),
    /// The store, where it is not the cluster.
    StoreLeaderDies,
    StoreFreezes,
    StoreThaws,
    CrashWorker(usize),
    PauseWorker(usize, Duration),
    /// The worker's subscription stays open and says nothing for so long.
    SilenceFeed(usize, Duration),
    /// The store, or the nodes, or EC2, cannot be reached from this worker for so long.
    CutOff(usize, Side, Duration),
    /// The machines' calendars jump by so many seconds.
    ClockSteps(i64),
    Command(Command),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Store,
    Nodes,
    Ec2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Pause,
    Resume,
    Cancel,
    Retry,
    Garbage,
    SecondRequest,
    /// An update of the same cluster under another id.
    Rival,
    Rollback,
    /// An approval, or a retry, that answers this revision, whatever stands there.
    Approve(u64),
    RetryOf(u64),
    /// A waiver of this check.
    Waive(&'static str),
    /// Another one, in whose favour the one asked for last is to end.
    Supersede,
}

/// How often, in percent, what goes between a worker and the world goes wrong; 0 is off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wire {
    /// An append never arrives.
    pub append_lost: u32,
    /// An append arrives, its answer does not.
    pub append_answer_lost: u32,
    /// An append arrives seconds after it was given up.
    pub append_late: u32,
    /// An append arrives twice.
    pub append_twice: u32,
    pub read_lost: u32,
    pub node_lost: u32,
    /// A node's answer takes up to 2.9 s.
    pub node_slow: u32,
    /// A view shows a second leader (as real views do for up to 2.5 s after an election).
    pub view_contradicts: u32,
    pub node_call_refused: u32,
    pub node_call_answer_lost: u32,
    /// An EC2 call that changes something fails with a code of the catalogue, without effect.
    pub ec2_refused: u32,
    pub ec2_answer_lost: u32,
    /// The call takes effect within its ten seconds, after the worker stopped listening.
    pub ec2_late: u32,
    pub describe_fails: u32,
    /// EC2 says what was true up to ten seconds ago.
    pub describe_stale: u32,
    /// An instance is missing in a description.
    pub describe_misses: u32,
    /// Added to every answer, milliseconds at most.
    pub slow_ms: u64,
    /// The worker dies before, or after, an append or a call that changes something; in thousandths.
    pub crash_permille: u32,
}

/// EC2 codes that a call to change something can fail with (those of the failure catalogue that a call answers with).
pub const EC2_CODES: &[&str] = &[
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "ReservationCapacityExceeded",
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    "Unsupported",
    "InvalidParameterValue",
    "InvalidParameterCombination",
    "OperationNotPermitted",
    "IncorrectInstanceState",
    "InvalidInstanceID.NotFound",
    "RequestLimitExceeded",
    "UnauthorizedOperation",
    "AuthFailure",
    "InternalError",
    "ServiceUnavailable",
    "PendingVerification",
    "OptInRequired",
    "Blocked",
];

/// What a call ends with that was carried out and whose answer does not say so.
pub const UNANSWERED: &[&str] =
    &["Timeout", "Timeout", "Unreachable", "Unreadable", "NoCode", "InternalError", "ServiceUnavailable"];

/// One thing that goes wrong, at one place, once: for the cases that are played exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub site: Site,
    /// Which of them, counted over all workers from 0.
    pub at: usize,
    pub wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// An append to an update's stream or to the admissions of a cluster.
    Append,
    /// A call that changes something.
    Call,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Refused without effect: trying again soon may help.
    Soon,
    /// Refused without effect, for want of capacity.
    Capacity,
    /// Refused without effect, for a state that has not settled.
    Unsettled,
    /// Refused without effect until somebody mends something.
    Mending,
    /// Refused without effect until the credentials are renewed.
    Credentials,
    /// Refused without effect, for good.
    Never,
    /// It has its effect, and no answer comes.
    DoneUnheard,
    /// It has no effect, and no answer comes.
    LostUnheard,
    /// It arrives, is answered, and arrives once more after so many milliseconds.
    Twice(u64),
    /// It arrives after the worker stopped listening.
    Late,
    /// The worker dies before it leaves.
    CrashBefore,
    /// The worker dies after it was done and before it is heard.
    CrashAfter,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub world: WorldConfig,
    /// Whether the update streams live on another cluster.
    pub store_elsewhere: bool,
    pub workers: usize,
    /// Seconds after which each worker comes up.
    pub worker_starts: Vec<Duration>,
    /// Whether the worker asks the nodes how many voters there are.
    pub ask_voters: bool,
    pub request: serde_json::Value,
    /// Whoever answers what waits for a person; nobody before everything is well, if absent.
    pub person: Option<Person>,
    /// Whether the request or a person asks for more than a type.
    pub steered: bool,
    pub first_answer_timeout: Duration,
    pub wire: Wire,
    pub acts: Vec<(Duration, Act)>,
    pub planned: Option<Planned>,
    /// From then on half of the cluster is well again, and a majority with it; a minute later everything is.
    pub heal_at: Duration,
    /// How long a worker that died stays away, at most.
    pub respawn: Duration,
    /// Once everything is well, an update ends within this.
    pub ends_within: Duration,
}

/// A start that failed for ten minutes is tried again every ten.
const ENDS_WITHIN: Duration = Duration::from_secs(45 * 60);

/// Value with which another installation's update tags its instances.
pub const STRANGER: &str = "00000000-0000-4000-8000-00000000beef@7";

/// The type that is wanted.
pub const TARGET: &str = "m6i.xlarge";
/// The type that is there.
pub const OLD: &str = "m6i.large";

impl Scenario {
    /// Nothing goes wrong.
    pub fn calm(seed: u64) -> Self {
        let mut r = Random::named(seed, "calm");
        let voters = 3;
        let replicas = 1;
        let count = voters + replicas;
        Scenario {
            seed,
            world: WorldConfig {
                seed,
                voters,
                replicas,
                addresses: (1..=count).map(|n| Address::new(format!("10.0.1.{n}"), 2113)).collect(),
                names: (1..=count).map(|n| format!("esdb-{n}")).collect(),
                version: if r.percent(50) { "23.10.5.0" } else { "24.10.0.0" }.into(),
                instance_type: OLD.into(),
                offered_types: [OLD, TARGET, "m6i.2xlarge"].map(|t| (t.to_owned(), "x86_64".to_owned())).to_vec(),
                ec2_stop: Duration::from_secs(4),
                ec2_start: Duration::from_secs(3),
                boot: Duration::from_secs(1),
                catch_up_bytes_per_second: 50_000_000,
                load_bytes_per_second: 50_000,
                initial_log_bytes: 2_000_000,
                faults: vec![],
            },
            store_elsewhere: false,
            workers: 1,
            worker_starts: vec![Duration::ZERO],
            ask_voters: false,
            request: serde_json::json!({ "cluster": "prod", "targetInstanceType": TARGET, "by": "ann" }),
            person: None,
            steered: false,
            first_answer_timeout: FIRST_ANSWER_TIMEOUT,
            wire: Wire::default(),
            acts: vec![],
            planned: None,
            heal_at: Duration::ZERO,
            respawn: Duration::from_secs(30),
            ends_within: ENDS_WITHIN,
        }
    }

    /// What this seed draws.
    pub fn drawn(seed: u64) -> Self {
        let mut r = Random::named(seed, "scenario");
        let mut s = Self::calm(seed);
        if r.percent(4) {
            return s;
        }
        s.world.replicas = usize::try_from(r.below(3)).unwrap_or(0);
        if r.percent(8) {
            s.world.voters = 5;
        }
        let few = people::few_voters(&mut s);
        let (voters, count) = (s.world.voters, s.world.voters + s.world.replicas);
        s.world.addresses = (1..=count).map(|n| Address::new(format!("10.0.1.{n}"), 2113)).collect();
        s.world.names = (1..=count).map(|n| format!("esdb-{n}")).collect();
        let (slow_stop, slow_start) = (r.percent(20), r.percent(20));
        s.world.ec2_stop = r.millis(1_000, if slow_stop { 60_000 } else { 8_000 });
        s.world.ec2_start = r.millis(1_000, if slow_start { 40_000 } else { 6_000 });
        s.world.boot = r.millis(300, 4_000);
        if r.percent(15) {
            // A clone for long: what a node lacks takes up to minutes to fetch.
            s.world.initial_log_bytes = 10_000_000;
            s.world.catch_up_bytes_per_second = 100_000 + r.below(1_000_000);
        }
        s.store_elsewhere = r.percent(15) || few;
        s.ask_voters = r.percent(30);
        s.workers = match r.below(10) {
            0..=4 => 1,
            5..=7 => 2,
            _ => 3,
        };
        let together = r.percent(50);
        s.worker_starts = (0..s.workers).map(|_| if together { Duration::ZERO } else { r.millis(0, 60_000) }).collect();
        s.request = request(&mut r);
        s.wire = wire(&mut r);
        s.world.faults = world_faults(&mut r, count);
        s.heal_at = r.millis(60_000, 240_000);
        s.respawn = r.millis(200, 60_000);
        s.acts = acts(&mut r, voters, count, s.workers, s.store_elsewhere, s.heal_at);
        people::draw(&mut s);
        rare::draw(&mut s);
        s
    }
}

fn request(r: &mut Random) -> serde_json::Value {
    let mut request = serde_json::json!({ "cluster": "prod", "targetInstanceType": TARGET, "by": "ann" });
    if r.percent(20) {
        request["fallbackTypes"] = serde_json::json!(["m6i.2xlarge"]);
    }
    if r.percent(10) {
        request = serde_json::json!({ "cluster": "prod", "strategy": "Ec2InstanceRestart", "by": "ann" });
    }
    if r.percent(10) {
        request["dwellSeconds"] = serde_json::json!(r.below(15));
    }
    if r.percent(10) {
        let gate = ["beforeLeader", "afterFirst", "eachNode"][r.below(3) as usize];
        request["gates"] = serde_json::json!([gate]);
    }
    if r.percent(10) {
        request["nodeTimeoutSeconds"] = serde_json::json!(20 + r.below(200));
    }
    request
}

fn wire(r: &mut Random) -> Wire {
    let mut on = |chance: u32, most: u64| if r.percent(chance) { 1 + r.below(most) as u32 } else { 0 };
    Wire {
        append_lost: on(15, 30),
        append_answer_lost: on(20, 40),
        append_late: on(15, 30),
        append_twice: on(15, 60),
        read_lost: on(15, 30),
        node_lost: on(10, 15),
        node_slow: on(10, 30),
        view_contradicts: on(8, 10),
        node_call_refused: on(12, 50),
        node_call_answer_lost: on(12, 50),
        ec2_refused: on(20, 50),
        ec2_answer_lost: on(20, 60),
        ec2_late: on(15, 60),
        describe_fails: on(15, 50),
        describe_stale: on(15, 60),
        describe_misses: on(10, 30),
        slow_ms: u64::from(on(10, 1500)),
        crash_permille: on(30, 60),
    }
}

fn world_faults(r: &mut Random, count: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    let node = |r: &mut Random| r.below(count as u64) as usize;
    if r.percent(12) {
        let code = EC2_CODES[r.below(EC2_CODES.len() as u64) as usize].to_owned();
        let times = if r.percent(30) { u32::MAX } else { 1 + r.below(4) as u32 };
        let instance_type = if r.percent(80) { TARGET } else { OLD }.to_owned();
        faults.push(Fault::StartFails { instance_type, code, times });
    }
    if r.percent(10) {
        faults.push(Fault::ResignationsIgnored { times: 1 + r.below(3) as u32 });
    }
    if r.percent(10) {
        faults.push(Fault::ResignedLeaderWinsAgain { times: 1 + r.below(3) as u32 });
    }
    if r.percent(8) {
        faults.push(Fault::ComesBackEmpty { node: node(r) });
    }
    if r.percent(10) {
        let for_ = (r.percent(70)).then(|| r.millis(1_000, 120_000));
        faults.push(Fault::StaysSilent { node: node(r), for_ });
    }
    for _ in 0..2 {
        if r.percent(10) {
            faults.push(Fault::ExitsOnceAfterRejoining { node: node(r) });
        }
    }
    if r.percent(10) {
        faults.push(Fault::Throttled { percent: 1 + r.below(60) as u32 });
    }
    if r.percent(10) {
        let reasons = [
            "Server.InsufficientInstanceCapacity",
            "Server.InternalError",
            "Client.InternalError",
            "Client.VolumeLimitExceeded",
        ];
        faults.push(Fault::FallsBackToStopped {
            node: Some(node(r)),
            reason: reasons[r.below(4) as usize].to_owned(),
            times: 1,
        });
    }
    faults
}

fn acts(
    r: &mut Random,
    voters: usize,
    count: usize,
    workers: usize,
    store_elsewhere: bool,
    until: Duration,
) -> Vec<(Duration, Act)> {
    let mut acts: Vec<(Duration, Act)> = Vec::new();
    let end = until.as_millis() as u64;
    let mut lost_data = false;
    // Which kinds are on in this seed, and how many of each.
    for kind in 0..19 {
        if !r.percent(12) {
            continue;
        }
        for _ in 0..1 + r.below(3) {
            let at = r.millis(0, end);
            let n = r.below(count as u64) as usize;
            let voter = r.below(voters as u64) as usize;
            let worker = r.below(workers as u64) as usize;
            let later = at + r.millis(500, 60_000);
            match kind {
                0 => acts.extend([(at, Act::Freeze(n)), (later, Act::Thaw(n))]),
                1 => acts.push((at, Act::Kill(n))),
                2 => acts.push((at, Act::Exit(n))),
                3 => acts.push((at, Act::KillLeader)),
                4 => {
                    acts.extend([(at, Act::FreezeLeader)].into_iter().chain((0..voters).map(|v| (later, Act::Thaw(v)))))
                }
                5 => acts.extend([(at, Act::PersonStops(n)), (later, Act::PersonStarts(n))]),
                6 => acts.push((at, Act::PersonStarts(n))),
                7 => acts.push((at, Act::PersonModifies(n, ["m6i.2xlarge", OLD, TARGET][r.below(3) as usize]))),
                8 => acts.push((at, Act::PersonSetsPriority(voter, r.below(5) as i32 - 2))),
                9 if !lost_data => {
                    lost_data = true;
                    let percent = r.below(101) as u32;
                    // Tried all the time: the machine must be stopped for it.
                    acts.extend(
                        (0..end / 500).map(|i| (Duration::from_millis(i * 500), Act::LoseData(voter, percent))),
                    );
                }
                9 => {}
                10 if store_elsewhere => acts.push((at, Act::StoreLeaderDies)),
                11 if store_elsewhere => acts.extend([(at, Act::StoreFreezes), (later, Act::StoreThaws)]),
                10 | 11 => acts.push((at, Act::KillLeader)),
                12 => acts.push((at, Act::CrashWorker(worker))),
                13 => acts.push((at, Act::PauseWorker(worker, r.millis(500, 90_000)))),
                14 => acts.push((at, Act::SilenceFeed(worker, r.millis(5_000, 120_000)))),
                15 => {
                    let side = [Side::Store, Side::Nodes, Side::Ec2][r.below(3) as usize];
                    acts.push((at, Act::CutOff(worker, side, r.millis(500, 90_000))));
                }
                16 => acts.push((at, Act::ClockSteps(r.below(7200) as i64 - 3600))),
                18 => acts.push((at, Act::Command(Command::Supersede))),
                _ => {
                    let command = [
                        Command::Pause,
                        Command::Resume,
                        Command::Cancel,
                        Command::Retry,
                        Command::Garbage,
                        Command::SecondRequest,
                        Command::Rival,
                    ][r.below(7) as usize];
                    acts.push((at, Act::Command(command)));
                    if command == Command::Pause {
                        acts.push((later, Act::Command(Command::Resume)));
                    }
                }
            }
        }
    }
    if r.percent(8) {
        for _ in 0..1 + r.below(2) {
            let (at, n) = (r.millis(0, end), r.below(count as u64) as usize);
            let later = at + r.millis(500, 60_000);
            match r.below(3) {
                0 => acts.extend([(at, Act::PersonTags(n)), (later, Act::PersonUntags(n))]),
                1 => acts.push((at, Act::PersonTags(n))),
                _ => acts.push((at, Act::PersonUntags(n))),
            }
        }
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}
