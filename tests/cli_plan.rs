//! `plan` as a person runs it: the AWS SDK and the nodes' HTTP against a simulated cluster on loopback ports, spoilt or not.
#![cfg(all(feature = "esdb", feature = "ec2"))]

mod wire_support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use esdb_rollout::domain::inspection::ScheduledEvent;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;
use wire_support::{Cluster, config};

/// Longest that one command may take.
const PATIENCE: Duration = Duration::from_secs(120);

struct Stage {
    cluster: Cluster,
    dir: TempDir,
}

impl Stage {
    async fn new() -> Stage {
        let mut world = config("23.10.5.0");
        world.instance_type = "m6i.xlarge".into();
        world.offered_types = ["m6i.xlarge", "r6i.large", "m4.xlarge"].map(|t| (t.into(), "x86_64".into())).to_vec();
        world.offered_types.push(("r7g.large".into(), "arm64".into()));
        let cluster = Cluster::start(world).await;
        cluster.until("a leader", |w| w.leader().is_some()).await;
        let stage = Stage { cluster, dir: tempfile::tempdir().expect("a directory") };
        std::fs::write(stage.file(), stage.configuration()).expect("the configuration");
        stage
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("esdb-rollout.toml")
    }

    fn configuration(&self) -> String {
        let (ec2, addresses) = (self.cluster.wire.ec2_endpoint().expect("EC2 is served"), &self.cluster.addresses);
        let seeds: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
        let mut text = format!(
            "[store]\nconnection = \"{}\"\n\n[clusters.prod]\nseeds = [{}]\nvoters = 3\ntls = false\n\
             aws = {{ region = \"eu-west-1\", endpoint = \"http://{ec2}\" }}\n",
            self.cluster.voters(),
            seeds.join(", ")
        );
        for (n, address) in addresses.iter().enumerate() {
            let instance = self.cluster.world.with(|w| w.instance_of(n).clone());
            let node = format!("[clusters.prod.nodes.esdb-{}]\ninstance_id = \"{instance}\"\n", n + 1);
            text.push_str(&format!("{node}address = \"{address}\"\n"));
        }
        text
    }

    async fn run(&self, line: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esdb-rollout"));
        command.args(line).env("ESDB_ROLLOUT_CONFIG", self.file()).env("USER", "ada").env_remove("RUST_LOG");
        command.env("AWS_ACCESS_KEY_ID", "simulated").env("AWS_SECRET_ACCESS_KEY", "simulated");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.unwrap_or_else(|_| panic!("never ended: {line:?}"));
        let output = output.expect("the command runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
    }

    async fn plan(&self, line: &[&str]) -> (i32, Value) {
        let all = [&["plan", "--output", "json"], line].concat();
        let (code, stdout, stderr) = self.run(&all).await;
        (code, serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}\n{stderr}")))
    }
}

/// Codes of the checks that have not passed, those for the record aside, with outcome and severity.
fn objections(plan: &Value) -> BTreeSet<(&str, &str, &str)> {
    let checks = plan["checks"].as_array().expect("checks").iter();
    let told = checks.map(|c| {
        let text = |key: &str| c[key].as_str().unwrap_or_default();
        (text("code"), text("outcome"), text("severity"))
    });
    told.filter(|(_, outcome, severity)| *outcome != "passed" && *severity != "info").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_shown_and_nothing_is_done() {
    let stage = Stage::new().await;
    let (code, plan) = stage.plan(&["--target-type", "r6i.large", "--strict"]).await;
    assert_eq!(objections(&plan), BTreeSet::new());
    assert_eq!((code, plan["verdict"].as_str()), (0, Some("ready")));
    let steps = plan["steps"].as_array().unwrap();
    let of = |key: &str| steps.iter().map(|s| s[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("elections"), [0, 0, 0, 1]);
    assert_eq!(steps[0]["role"], "ReadOnlyReplica");
    assert_eq!(steps[3]["role"], "Leader");
    assert!(of("toType").iter().all(|t| t == "r6i.large"));
    let digest = plan["digest"].as_str().unwrap();

    // For people, with the digest to ask with.
    let (code, table, _) = stage.run(&["plan", "--target-type", "r6i.large", "--plan-digest", digest]).await;
    assert_eq!(code, 0, "{table}");
    for line in
        [&*format!("digest: {digest}"), "ready", "elections: 1; one node less for: unknown", "note     restartPolicy"]
    {
        assert!(table.contains(line), "{line} in {table}");
    }
    let (code, other) = stage.plan(&["--target-type", "r6i.large", "--plan-digest", "0123456789abcdef"]).await;
    assert_eq!((code, other["reasons"][0]["code"].as_str()), (3, Some("planDigestDiffers")));

    // Every unknown key of the configuration is named.
    let text = stage.configuration().replace("tls = false", "tls = false\nvoterz = 3") + "\n[clustrs]\nx = 1\n";
    std::fs::write(stage.file(), text).unwrap();
    let (code, _, stderr) = stage.run(&["plan", "--target-type", "r6i.large"]).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("voterz") && stderr.contains("clustrs"), "{stderr}");
    assert_eq!(stage.cluster.world.with(|w| (w.elections(), w.instance_type(3).to_owned())), (0, "m6i.xlarge".into()));
    stage.cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_seen_over_the_wire_and_can_be_waived() {
    let stage = Stage::new().await;
    stage.cluster.world.with(|w| {
        let facts = w.facts_mut();
        facts.denied.insert("StartInstances".into());
        facts.scavenges.insert(3, "9cd55be2".into());
        facts.not_offered.insert(("r6i.large".into(), "eu-west-1b".into()));
        let mut details = facts.type_details("r6i.large", "x86_64");
        details.burstable = Some(true);
        details.boot_modes = vec!["legacy-bios".into()];
        (details.max_interfaces, details.max_volumes, details.baseline_iops) = (Some(2), Some(2), Some(2000));
        (details.vcpus, details.memory_mib) = (Some(16), Some(1024));
        facts.types.insert("r6i.large".into(), details);
        let mut present = facts.type_details("m6i.xlarge", "x86_64");
        (present.hypervisor, present.instance_storage) = (Some("xen".into()), Some(true));
        facts.types.insert("m6i.xlarge".into(), present);
        let spoilt = &mut facts.instances[3];
        spoilt.stop_protected = true;
        spoilt.shutdown_behavior = "terminate".into();
        spoilt.root_device = "instance-store".into();
        spoilt.lifecycle = Some("spot".into());
        spoilt.hibernation = true;
        spoilt.auto_scaling_group = Some("asg".into());
        spoilt.volumes[0].kms_key = Some("arn:aws:kms:eu-west-1:1:key/1".into());
        let (description, not_before) = ("to be stopped".into(), "2020-01-01T00:00:00Z".parse().ok());
        spoilt.events = vec![ScheduledEvent { code: "instance-stop".into(), description, not_before }];
        let details = &mut spoilt.details;
        details.ena = Some(false);
        details.boot_mode = Some("uefi".into());
        details.virtualization = Some("paravirtual".into());
        details.public_ip = Some([127, 0, 0, 1].into());
        details.interfaces = 3;
        details.placement_group = Some("near".into());
        details.tenancy = Some("host".into());
        details.capacity_reservation = Some("cr-1".into());
        details.tags.insert("terraform".into(), "true".into());
    });
    let (code, plan) = stage.plan(&["--target-type", "r6i.large"]).await;
    let refused = [
        "startDenied",
        "typeNotOffered",
        "bootModeDiffers",
        "tooManyInterfaces",
        "tooManyVolumes",
        "stopProtection",
        "terminateOnShutdown",
        "instanceStoreRoot",
        "instanceStoreData",
        "spotInstance",
        "hibernation",
        "autoScalingGroup",
        "scheduledEvent",
        "enaMissing",
        "virtualizationDiffers",
        "publicAddress",
        "capacityReservation",
    ];
    let warned = [
        "scavengeRunning",
        "burstableType",
        "ebsIopsShrink",
        "memoryShrinks",
        "hypervisorChanges",
        "placementGroup",
        "dedicatedHost",
        "infrastructureAsCode",
    ];
    let mut expected: BTreeSet<(&str, &str, &str)> = refused.map(|c| (c, "failed", "refuse")).into();
    expected.extend(warned.map(|c| (c, "failed", "warn")));
    expected.extend(["encryptedVolumes", "vcpuQuota"].map(|c| (c, "unknown", "warn")));
    assert_eq!(objections(&plan), expected);
    assert_eq!((code, plan["verdict"].as_str()), (3, Some("refused")));
    stage.cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_asked_is_unknown_and_a_waiver_makes_ready() {
    let stage = Stage::new().await;
    stage.cluster.world.with(|w| {
        for action in ["DescribeInstanceAttribute", "DescribeInstanceStatus", "DescribeVolumes"] {
            w.facts_mut().denied.insert(action.into());
        }
        w.facts_mut().instances[3].auto_scaling_group = Some("asg".into());
    });
    let line = ["--target-type", "r6i.large"];
    let waive = [&line[..], &["--waive", "autoScalingGroup@esdb-4", "--why", "its processes are suspended"]].concat();
    let unknown = ["stopProtection", "terminateOnShutdown", "scheduledEvent", "encryptedVolumes", "ebsIopsShrink"];
    let (code, plan) = stage.plan(&waive).await;
    let mut expected: BTreeSet<(&str, &str, &str)> = unknown.map(|c| (c, "unknown", "warn")).into();
    expected.insert(("autoScalingGroup", "failed", "refuse"));
    assert_eq!(objections(&plan), expected);
    assert_eq!((code, plan["verdict"].as_str()), (0, Some("readyWithWarnings")));
    let waived = plan["checks"].as_array().unwrap().iter().find(|c| c["code"] == "autoScalingGroup").unwrap();
    assert_eq!((&waived["waivedBy"], &waived["why"]), (&"ada".into(), &"its processes are suspended".into()));
    let found = plan["checks"].as_array().unwrap().iter().find(|c| c["code"] == "stopProtection").unwrap();
    assert!(found["found"].as_str().unwrap().contains("UnauthorizedOperation"), "{found}");

    assert_eq!(stage.plan(&[&waive[..], &["--strict"]].concat()).await.0, 3, "warnings are not ready with --strict");
    assert_eq!(stage.plan(&line).await.0, 3, "nothing is waived by itself");

    // Asked for in the same words, the waiver stands behind the request, in one append.
    let start = [&["start"], &waive[..], &["--plan-digest", plan["digest"].as_str().unwrap()]].concat();
    let (code, id, stderr) = stage.run(&start).await;
    assert_eq!(code, 0, "{stderr}");
    let (_, history, _) = stage.run(&["history", id.trim(), "--output", "json"]).await;
    let history: Vec<Value> = history.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(history[0]["data"]["planDigest"], plan["digest"]);
    assert_eq!((history[1]["type"].as_str(), history[1]["data"]["answers"].as_u64()), (Some("CheckWaived"), Some(0)));
    let (_, status, _) = stage.run(&["status", id.trim()]).await;
    assert!(status.contains("WAIVED: autoScalingGroup of esdb-4 by ada: its processes are suspended"), "{status}");
    stage.cluster.wire.shutdown().await;
}
