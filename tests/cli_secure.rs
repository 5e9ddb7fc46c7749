//! The commands against `sim --tls`: prepared by an admin, refused to a user of no rights, and never telling a password.
#![cfg(all(feature = "esdb", feature = "ec2"))]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    dir: TempDir,
    /// What every command said, for the secrets that must not be in it.
    said: String,
    _sim: Process,
}

impl Stage {
    fn new() -> Stage {
        // Addresses of this process's own, so that two runs of the tests do not meet.
        let net = format!("127.{}.78", 1 + std::process::id() % 200);
        let dir = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(dir.path().join("sim.log")).unwrap();
        let path = |name: &str| dir.path().join(name);
        let sim = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"))
            .args(["sim", "--seed", "6", "--speed", "50", "--port", "2178", "--base-ip", &format!("{net}.1"), "--tls"])
            .args(["--ec2-ip", &format!("{net}.100"), "--ec2-port", "4578"])
            .arg("--tls-folder")
            .arg(path("tls"))
            .arg("--write-config")
            .arg(path("sim.toml"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(path("sim.out")).unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut stage = Stage { dir, said: String::new(), _sim: Process(sim) };
        for _ in 0..300 {
            // A stream that does not exist can be read as soon as there is a leader, by any user.
            if stage.path("sim.toml").exists() && stage.run(&["list"]).0 == 0 {
                return stage;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the simulated cluster does not serve: {} {}", stage.text("sim.log"), stage.said);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until a process has written this to its log.
    fn until_said(&self, log: &str, what: &str) {
        for _ in 0..300 {
            if self.text(log).contains(what) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("not said: {what}\n{}", self.text(log));
    }

    fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"));
        command.env("ESDB_ROLLOUT_CONFIG", config).env_remove("RUST_LOG").stdin(Stdio::null());
        command.env("AWS_ACCESS_KEY_ID", "simulated").env("AWS_SECRET_ACCESS_KEY", "simulated");
        command
    }

    /// Runs a command; gives its exit code, stdout and stderr.
    fn run(&mut self, line: &[&str]) -> (i32, String, String) {
        let output = self.command(&self.path("sim.toml")).args(line).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        self.said.push_str(&stdout);
        self.said.push_str(&stderr);
        (output.status.code().unwrap_or(-1), stdout, stderr)
    }

    /// A configuration in which the cluster is reached as another user, or with another password.
    fn config_as(&self, credentials: &Path) -> PathBuf {
        let text = self.text("sim.toml");
        let (store, cluster) = text.split_once("[clusters.").unwrap();
        let ours = self.path("tls").canonicalize().unwrap().join("sim-worker.cred");
        let changed = cluster.replace(&ours.display().to_string(), &credentials.display().to_string());
        assert_ne!(changed, cluster);
        let path = credentials.with_extension("toml");
        std::fs::write(&path, format!("{store}[clusters.{changed}")).unwrap();
        path
    }
}

#[test]
fn what_a_user_may_not_is_said_and_nothing_is_stopped() {
    let mut stage = Stage::new();
    let passwords: Vec<String> = ["admin", "ops", "worker", "app"]
        .iter()
        .map(|user| stage.text(&format!("tls/sim-{user}.cred")).trim_end().split_once(':').unwrap().1.to_owned())
        .collect();
    assert!(passwords.iter().all(|p| p.len() >= 32), "passwords that nobody guesses");
    let admin = stage.path("tls/sim-admin.cred").display().to_string();

    // The worker's user may not read $all until an admin lets it.
    let (code, _, stderr) = stage.run(&["init"]);
    assert!(code == 1 && stderr.contains("--worker-user"), "{code} {stderr}");
    let mut early = stage.command(&stage.path("sim.toml"));
    early.args(["worker", "--name", "w0", "--from-beginning"]).stdout(Stdio::null());
    let early = Process(early.stderr(std::fs::File::create(stage.path("early")).unwrap()).spawn().unwrap());
    stage.until_said("early", "waiting for the store");
    let (code, _, stderr) = stage.run(&["init", "--worker-user", "worker"]);
    assert!(code == 1 && stderr.contains("--credentials-file"), "{code} {stderr}");
    let (code, _, stderr) = stage.run(&["init", "--worker-user", "$ops", "--credentials-file", &admin]);
    assert!(code == 2 && stderr.contains("login name"), "{code} {stderr}");
    let let_read = ["init", "--worker-user", "worker", "--credentials-file", &admin];
    let (code, stdout, stderr) = stage.run(&[&let_read[..], &["--dry-run"]].concat());
    assert!(code == 0 && stdout.contains("would let user worker read $all"), "{stdout}{stderr}");
    let (code, stdout, stderr) = stage.run(&let_read);
    assert!(code == 0 && stdout.contains("user worker may read $all from now on"), "{stdout}{stderr}");
    let (code, stdout, stderr) = stage.run(&let_read);
    assert!(code == 0 && stdout.contains("already"), "{stdout}{stderr}");
    stage.until_said("early", "begins");
    drop(early);
    let (code, stdout, stderr) = stage.run(&["init"]);
    assert!(code == 0 && stdout.contains("it was not moved"), "{stdout}{stderr}");

    // A user of the cluster who is no operator, and a wrong password: refused before anything is touched.
    let wrong = stage.path("tls/wrong.cred");
    std::fs::write(&wrong, "worker:Wr0ng-secret\n").unwrap();
    for (credentials, why) in [
        (stage.path("tls/sim-app.cred"), "user `app` has no right to it"),
        (wrong, "user `worker` and its password do not match"),
    ] {
        let config = stage.config_as(&credentials);
        let name = credentials.file_stem().unwrap().to_str().unwrap().to_owned();
        let log = std::fs::File::create(stage.path(&name)).unwrap();
        let mut command = stage.command(&config);
        let worker =
            command.args(["worker", "--name", &name]).env("RUST_LOG", "debug").stderr(log).stdout(Stdio::null());
        let worker = Process(worker.spawn().unwrap());
        let (code, stdout, stderr) =
            stage.run(&["start", "--cluster", "sim", "--target-type", "m6i.xlarge", "--wait", "--timeout", "90s"]);
        assert_eq!(code, 3, "{stdout}{stderr}{}", stage.text(&name));
        let (code, listed, _) = stage.run(&["list", "--output", "json"]);
        assert_eq!(code, 0);
        let newest: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
        let update = newest["update"].as_str().unwrap_or_else(|| panic!("{newest}"));
        let (code, history, _) = stage.run(&["history", update, "--output", "json"]);
        assert_eq!(code, 0);
        assert!(history.contains("nodeUserDenied") && history.contains(why), "{history}");
        assert!(!history.contains("InstanceStopRequested"), "nothing was stopped: {history}");
        drop(worker);
        let log = stage.text(&name);
        stage.said.push_str(&log);
    }
    stage.said.push_str(&(stage.text("sim.out") + &stage.text("sim.log")));
    for secret in passwords.iter().map(String::as_str).chain(["Wr0ng-secret"]) {
        assert!(!stage.said.contains(secret), "a password was said");
    }
}
