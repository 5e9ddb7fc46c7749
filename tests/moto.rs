//! Against moto, an EC2 that is not of our making: a whole update by separate processes, and the script with which a container's node
//! follows its instance.
//!
//! Where moto is more lenient than AWS, and this proves nothing: it knows no `stopping` and no `pending` (StopInstances ends in `stopped` at
//! once), changes the type of an instance that runs, has capacity for every type, keeps the launch time over a stop, takes loopback
//! addresses for a subnet, checks no signature, authorizes every dry run, schedules no event, and does not say whether ENA is enabled or what
//! CPU options an instance has.
#![cfg(all(feature = "esdb", feature = "ec2"))]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

const NODES: [&str; 4] = ["esdb-1", "esdb-2", "esdb-3", "esdb-4"];

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is no fault of the test's.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Moto {
    python: PathBuf,
    /// Addresses of this process's own, so that two runs of the tests do not meet.
    net: String,
    url: String,
    dir: TempDir,
    _server: Process,
}

impl Moto {
    /// `None` if there is no Python to run it with.
    fn start(net: u8) -> Option<Moto> {
        let Some(python) = std::env::var_os("ESDB_ROLLOUT_PYTHON").map(PathBuf::from) else {
            eprintln!(
                "NOT RUN against moto: ESDB_ROLLOUT_PYTHON names no interpreter with tests/python/requirements.txt"
            );
            return None;
        };
        let net = format!("127.{}.{net}", 1 + std::process::id() % 200);
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("moto.log")).unwrap();
        let server = Command::new(&python)
            .arg(root().join("compose/ec2.py"))
            .args(["-H", &format!("{net}.100"), "-p", "5077"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("http://{net}.100:5077");
        let moto = Moto { python, net, url, dir, _server: Process(server) };
        moto.until("moto answers", "moto.log", || {
            std::net::TcpStream::connect(format!("{}.100:5077", moto.net)).is_ok()
        });
        Some(moto)
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    #[expect(clippy::disallowed_methods, reason = "the processes under test live in real time")]
    fn until(&self, what: &str, log: &str, holds: impl Fn() -> bool) {
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(std::time::Instant::now() < limit, "never: {what}\n{}", self.log(log));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("AWS_ACCESS_KEY_ID", "moto").env("AWS_SECRET_ACCESS_KEY", "moto").env("AWS_REGION", "eu-west-1");
        command.env("AWS_DEFAULT_REGION", "eu-west-1").env("AWS_ENDPOINT_URL_EC2", &self.url);
        command
            .env("ESDB_ROLLOUT_CONFIG", self.dir.path().join("sim.toml"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    fn rollout(&self, line: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_esdb-rollout")).args(line).output().unwrap()
    }

    fn background(&self, log: &str, mut command: Command) -> Process {
        let log = File::create(self.dir.path().join(log)).unwrap();
        Process(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn run_python(&self, line: &[&str]) -> String {
        let output = self.command(&self.python).args(line).output().unwrap();
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the script that fills the EC2 of `docker-compose.yml`.
    fn seed(&self) -> String {
        let nodes: Vec<String> =
            NODES.iter().enumerate().map(|(n, name)| format!("{name}={}.{}", self.net, n + 1)).collect();
        let script = root().join("compose/seed.py");
        let mut line = vec![script.to_str().unwrap().to_owned(), format!("{}.0/24", self.net), "m6i.large".to_owned()];
        line.extend(nodes);
        self.run_python(&line.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What one asks of EC2 with boto3; `ec2` is the client, `named(name)` an instance.
    fn boto(&self, code: &str) -> String {
        let prelude = "import boto3\nec2 = boto3.client('ec2')\ndef named(name):\n    found = ec2.describe_instances(Filters=[{'Name': \
                       'tag:Name', 'Values': [name]}])\n    return found['Reservations'][0]['Instances'][0]\n";
        self.run_python(&["-c", &format!("{prelude}{code}")])
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_whole_update_with_moto_as_ec2() {
    let Some(moto) = Moto::start(78) else { return };
    let first = format!("{}.1", moto.net);
    let sim =
        ["sim", "--seed", "5", "--speed", "20", "--port", "2178", "--base-ip", &first, "--ec2-endpoint", &moto.url];
    let none = moto.rollout(&sim);
    assert_eq!(none.status.code(), Some(2));
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(said.contains(&format!("the instance of the node at {first}: expected one")), "{said}");

    let made = moto.seed();
    assert_eq!(made.matches(" made").count(), NODES.len(), "{made}");
    let again = moto.seed();
    assert_eq!(again, made.replace(" made", " is there"), "the second time changes nothing");

    let mut command = moto.command(env!("CARGO_BIN_EXE_esdb-rollout"));
    command.args(sim).arg("--write-config").arg(moto.dir.path().join("sim.toml"));
    let _sim = moto.background("sim.log", command);
    moto.until("the cluster serves", "sim.log", || moto.rollout(&["init"]).status.success());
    let mut command = moto.command(env!("CARGO_BIN_EXE_esdb-rollout"));
    command.args(["worker", "--name", "w1"]);
    let _worker = moto.background("worker.log", command);

    let plan = moto.rollout(&["plan", "--target-type", "m6i.xlarge", "--output", "json"]);
    let plan: Value = serde_json::from_slice(&plan.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&plan.stderr)));
    let objects = |c: &&Value| c["outcome"] != "passed" && c["severity"] != "info";
    let mut objections: Vec<&str> =
        plan["checks"].as_array().unwrap().iter().filter(objects).filter_map(|c| c["code"].as_str()).collect();
    objections.dedup();
    assert_eq!(plan["verdict"], "readyWithWarnings", "{plan:#}");
    assert_eq!(
        objections,
        ["cpuOptions", "enaMissing", "vcpuQuota"],
        "what moto does not say is unknown, and nothing else: {plan:#}"
    );

    let started = moto.rollout(&["start", "--target-type", "m6i.xlarge", "--wait", "--timeout", "5m"]);
    let said = format!("{}\n{}", String::from_utf8_lossy(&started.stderr), moto.log("worker.log"));
    assert_eq!(started.status.code(), Some(0), "{said}");

    let update = String::from_utf8(started.stdout).unwrap();
    let update = update.lines().next().unwrap().trim();
    let history = moto.rollout(&["history", update, "--output", "json"]);
    let history: Vec<Value> =
        String::from_utf8(history.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for fact in ["InstanceStopped", "TypeModified", "InstanceStarted", "NodeRejoined", "CaughtUp", "NodeUpdated"] {
        let mut nodes: Vec<&str> =
            history.iter().filter(|e| e["type"] == fact).filter_map(|e| e["data"]["node"].as_str()).collect();
        nodes.sort_unstable();
        assert_eq!(nodes, NODES, "{fact}, once a node\n{said}");
    }
    let plan = history.iter().find(|e| e["type"] == "UpdatePlanned").unwrap();
    for (n, name) in NODES.iter().enumerate() {
        let line = made.lines().nth(n).unwrap();
        let member = plan["data"]["members"].as_array().unwrap().iter().find(|m| m["node"] == *name).unwrap();
        assert!(line.contains(member["instance"].as_str().unwrap()), "{line}: {member}");
        let now = moto.boto(&format!("i = named('{name}'); print(i['InstanceType'], i['State']['Name'])"));
        assert_eq!(now.trim(), "m6i.xlarge running", "{name}");
    }
}

#[test]
fn a_container_follows_its_instance() {
    let Some(moto) = Moto::start(79) else { return };
    let mut command = moto.command(root().join("compose/follow-instance.sh"));
    command.env("INSTANCE_NAME", "esdb-1").args(["sleep", "600"]);
    let mut follower = moto.background("follower.log", command);
    let log = || moto.log("follower.log");
    let starts = || log().matches(": starts sleep 600").count();

    // Without an instance nothing is started; moto has answered often enough by the time it has made four.
    moto.seed();
    moto.until("it starts", "follower.log", || starts() == 1);
    moto.boto("ec2.stop_instances(InstanceIds=[named('esdb-1')['InstanceId']])");
    moto.until("it stops", "follower.log", || log().contains("running m6i.large -> stopped m6i.large: stops process"));
    moto.boto("ec2.start_instances(InstanceIds=[named('esdb-1')['InstanceId']])");
    moto.until("it starts again", "follower.log", || starts() == 2);
    moto.boto(
        "i = [named('esdb-1')['InstanceId']]\nec2.stop_instances(InstanceIds=i)\n\
         ec2.modify_instance_attribute(InstanceId=i[0], InstanceType={'Value': 'm6i.xlarge'})\nec2.start_instances(InstanceIds=i)",
    );
    // Whether the stop itself was seen is a matter of chance.
    moto.until("it starts with the new type", "follower.log", || {
        log().contains("running m6i.xlarge: starts sleep 600")
    });

    let id = follower.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(follower.0.wait().unwrap().success());
    let last = log();
    let last = last.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(log().contains(&format!("this container ends: stops process {last}")), "{}", log());
    assert!(!Path::new(&format!("/proc/{last}")).exists(), "the process outlives its container: {}", log());
}
