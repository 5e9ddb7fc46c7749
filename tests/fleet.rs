//! Three worker processes and several simulated clusters over the wire, one store: workers are killed (SIGKILL) or asked to leave (SIGTERM) at
//! random, by seed, and started again, until every update has ended.
//!
//! A small fleet where nobody says otherwise; `ESDB_ROLLOUT_FLEET_CLUSTERS=20` plays a large one, `ESDB_ROLLOUT_FLEET_SEED` another course.
#![cfg(all(feature = "esdb", feature = "ec2"))]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use esdb_rollout::sim::world::Random;
use judge::{is_end, judge};
use serde_json::Value;
use tempfile::TempDir;

#[path = "processes/judge.rs"]
mod judge;

const WORKERS: usize = 3;

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is {text:?}")),
        Err(_) => default,
    }
}

/// Seconds since the fleet came up.
#[expect(clippy::disallowed_methods, reason = "the processes under test live in real time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

struct Fleet {
    dir: TempDir,
    clusters: usize,
    _sims: Vec<Process>,
}

impl Fleet {
    /// One `sim` a cluster; the first cluster holds the store, and is updated, too.
    fn new(clusters: usize, seed: u64) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let mut sims = Vec::new();
        for n in 0..clusters {
            // Addresses of this process's own, so that two runs of the tests do not meet.
            let net = format!("127.{}.{}", 1 + std::process::id() % 200, 100 + n);
            let sim = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"))
                .args(["sim", "--seed", &(seed * 100 + n as u64).to_string(), "--speed", "20", "--port", "2178"])
                .args(["--replicas", if n % 2 == 0 { "0" } else { "1" }])
                .args(["--base-ip", &format!("{net}.1"), "--ec2-ip", &format!("{net}.100"), "--ec2-port", "4578"])
                .arg("--write-config")
                .arg(dir.path().join(format!("sim-{n}.toml")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(dir.path().join(format!("sim-{n}.log"))).unwrap())
                .spawn()
                .unwrap();
            sims.push(Process(sim));
        }
        let fleet = Fleet { dir, clusters, _sims: sims };
        for _ in 0..600 {
            if fleet.configure() && fleet.run(&["init"]).is_ok() {
                return fleet;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the simulated clusters do not serve: {}", fleet.log("sim-0.log"));
    }

    /// One configuration of all: the store of the first, and every cluster under a name of its own.
    fn configure(&self) -> bool {
        let mut text = String::new();
        for n in 0..self.clusters {
            let Ok(one) = std::fs::read_to_string(self.dir.path().join(format!("sim-{n}.toml"))) else { return false };
            let Some((store, cluster)) = one.split_once("[clusters.sim]") else { return false };
            if n == 0 {
                text.push_str(store);
                text.push_str(&format!("max_concurrent_updates = {}\n", self.clusters.min(6)));
            }
            text.push_str(&format!("[clusters.sim-{n}]{cluster}\n"));
        }
        std::fs::write(self.dir.path().join("fleet.toml"), text).is_ok()
    }

    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"));
        let file: PathBuf = self.dir.path().join("fleet.toml");
        command.env("ESDB_ROLLOUT_CONFIG", file).env_remove("RUST_LOG").stdin(Stdio::null());
        command.env("AWS_ACCESS_KEY_ID", "simulated").env("AWS_SECRET_ACCESS_KEY", "simulated");
        command
    }

    fn run(&self, line: &[&str]) -> Result<String, String> {
        let output = self.command().args(line).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        if output.status.success() { Ok(stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    fn worker(&self, number: usize, life: usize) -> Process {
        let log = File::create(self.dir.path().join(format!("worker-{number}-{life}.log"))).unwrap();
        let mut command = self.command();
        command.args(["worker", "--name", &format!("w{number}"), "--max-concurrent-updates", "3"]);
        Process(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn start(&self, cluster: usize) -> String {
        let name = format!("sim-{cluster}");
        let line = ["start", "--cluster", &name, "--target-type", "m6i.xlarge"];
        let id = (0..20).find_map(|_| self.run(&line).ok()).expect("the store takes a request");
        id.trim().to_owned()
    }

    fn history(&self, update: &str) -> Vec<Value> {
        // The store is one of the clusters being updated: a read may meet an election.
        let lines = (0..20).find_map(|_| self.run(&["history", update, "--output", "json"]).ok());
        lines.expect("a history").lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

/// The number of the worker that holds an update.
fn holder(history: &[Value]) -> Option<usize> {
    let assigned = history.iter().rev().find(|e| e["type"] == "WorkerAssigned")?;
    assigned["data"]["worker"].as_str()?.strip_prefix('w')?.parse().ok()
}

#[test]
fn workers_that_die_and_leave_at_random_lose_no_update_of_a_fleet() {
    let clusters = from_environment("ESDB_ROLLOUT_FLEET_CLUSTERS", 2) as usize;
    let seed = from_environment("ESDB_ROLLOUT_FLEET_SEED", 1);
    let mut random = Random::named(seed, "fleet");
    let fleet = Fleet::new(clusters, seed);
    let began = now();
    let mut workers: Vec<(Process, usize)> = (0..WORKERS).map(|n| (fleet.worker(n, 0), 0)).collect();
    let updates: Vec<String> = (0..clusters).map(|n| fleet.start(n)).collect();
    let mut open: Vec<&String> = updates.iter().collect();
    // A fleet of two is disturbed twice, which is what its updates last for; larger ones more often, and never to the very end.
    let mut disturbances = if clusters <= 2 { 2 } else { 3 * clusters as u64 };
    let gap = |random: &mut Random| random.millis(6_000, 20_000);
    let mut next = gap(&mut random);
    let (mut killed, mut left) = (0, 0);
    let limit = Duration::from_secs(180 + 120 * clusters as u64);
    while !open.is_empty() {
        std::thread::sleep(Duration::from_millis(500));
        for (n, (process, life)) in workers.iter_mut().enumerate() {
            if let Some(status) = process.0.try_wait().unwrap() {
                panic!("w{n} ended by itself: {status}\n{}", fleet.log(&format!("worker-{n}-{life}.log")));
            }
        }
        if began.elapsed() >= next && disturbances > 0 {
            disturbances -= 1;
            // Mostly one that holds something: whoever holds the first update that goes on.
            let holder = open.iter().find_map(|update| holder(&fleet.history(update)));
            let any = random.below(WORKERS as u64) as usize;
            let n = holder.filter(|_| killed + left < 2 || random.percent(70)).unwrap_or(any);
            let (process, life) = &mut workers[n];
            // The first is asked to leave, the second is killed, and then it is anybody's guess.
            if killed + left == 1 || killed + left > 1 && random.percent(60) {
                killed += 1;
                process.0.kill().unwrap();
            } else {
                left += 1;
                let asked = Command::new("kill").args(["-TERM", &process.0.id().to_string()]).status().unwrap();
                assert!(asked.success());
            }
            let status = process.0.wait().unwrap();
            println!("{:>6.1} s: w{n} is gone: {status}", began.elapsed().as_secs_f64());
            *life += 1;
            *process = fleet.worker(n, *life);
            next = began.elapsed() + gap(&mut random);
        }
        open.retain(|update| !fleet.history(update).iter().any(is_end));
        if began.elapsed() > limit {
            let logs: Vec<String> =
                workers.iter().enumerate().map(|(n, (_, life))| fleet.log(&format!("worker-{n}-{life}.log"))).collect();
            panic!("{open:?} have not ended after {limit:?}\n{}", logs.join("\n\n"));
        }
    }
    let mut assignments: BTreeMap<String, usize> = BTreeMap::new();
    for update in &updates {
        let history = fleet.history(update);
        judge(&history);
        for assigned in history.iter().filter(|e| e["type"] == "WorkerAssigned") {
            *assignments.entry(assigned["data"]["reason"].to_string()).or_default() += 1;
        }
    }
    assert!(killed > 0 && left > 0, "{killed} killed, {left} asked to leave");
    assert!(assignments.keys().any(|reason| reason != "\"admitted\""), "nothing was taken over: {assignments:?}");
    println!(
        "{clusters} clusters, seed {seed}: {:.0} s, {killed} killed, {left} asked to leave, taken {assignments:?}",
        began.elapsed().as_secs_f64()
    );
}
