//! What the tests with separate processes stand on.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// A process that ends with its guard.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A simulated cluster and EC2 in a process of their own, and how others are started beside it.
pub struct Stage {
    /// The first node's address; the others follow, EC2 is at the 100th.
    pub first: String,
    pub dir: TempDir,
    _sim: Process,
}

impl Stage {
    pub fn new(block: u8) -> Stage {
        Stage::with(block, &["--speed", "20"])
    }

    pub fn with(block: u8, wishes: &[&str]) -> Stage {
        // Addresses of this process's own, so that two runs of the tests do not meet, and a block for each test.
        let net = format!("127.{}.{block}", 1 + std::process::id() % 200);
        let first = format!("{net}.1");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sim.toml");
        let log = std::fs::File::create(dir.path().join("sim.log")).unwrap();
        let sim = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"))
            .args(["sim", "--seed", "5", "--port", "2177", "--base-ip", &first])
            .args(wishes)
            .args([
                "--enable-atom-pub-over-http",
                "--ec2-ip",
                &format!("{net}.100"),
                "--ec2-port",
                "4577",
                "--write-config",
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let stage = Stage { first, dir, _sim: Process(sim) };
        for _ in 0..300 {
            if stage.file().exists() && stage.try_run(&["init"]).is_ok() {
                return stage;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the simulated cluster does not serve: {}", stage.log("sim.log"));
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("sim.toml")
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"));
        command.env("ESDB_ROLLOUT_CONFIG", self.file()).env_remove("RUST_LOG").stdin(Stdio::null());
        command.env("AWS_ACCESS_KEY_ID", "simulated").env("AWS_SECRET_ACCESS_KEY", "simulated");
        command
    }

    pub fn try_run(&self, line: &[&str]) -> Result<String, String> {
        let output = self.command().args(line).output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        if output.status.success() { Ok(stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    pub fn worker(&self, number: usize) -> Process {
        let log = std::fs::File::create(self.dir.path().join(format!("worker-{number}.log"))).unwrap();
        Process(self.command().args(["worker", "--name", "w1"]).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub fn history(&self, update: &str) -> Vec<Value> {
        // The store is the cluster being updated: a read may meet an election.
        let lines = (0..20).find_map(|_| self.try_run(&["history", update, "--output", "json"]).ok());
        lines.expect("a history").lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "the processes under test live in real time")]
    pub fn until(&self, worker: &mut Process, number: usize, update: &str, fact: &str, times: usize) {
        // A take-over takes 35 s, an intent whose call may have been lost is settled after 45 s, a node is done in 10 s.
        let limit = std::time::Instant::now() + Duration::from_secs(240);
        while std::time::Instant::now() < limit {
            if let Some(status) = worker.0.try_wait().unwrap() {
                panic!("the worker ended by itself: {status}\n{}", self.log(&format!("worker-{number}.log")));
            }
            if self.history(update).iter().filter(|e| e["type"] == fact).count() >= times {
                return;
            }
            std::thread::sleep(Duration::from_millis(150));
        }
        let types: Vec<Value> = self.history(update).into_iter().map(|mut e| e["type"].take()).collect();
        panic!("{fact} does not come\n{types:?}\n{}", self.log(&format!("worker-{number}.log")));
    }
}
