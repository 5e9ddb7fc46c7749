//! TLS and users, end to end: the real adapters against a secure simulated cluster.
#![cfg(all(feature = "esdb", feature = "ec2"))]

mod wire_support;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use esdb_rollout::domain::ids::{Address, InstanceId, Revision, StreamName};
use esdb_rollout::domain::instance::InstanceState;
use esdb_rollout::domain::quorum::Voters;
use esdb_rollout::ec2::{AwsConfig, Ec2Fleet};
use esdb_rollout::esdb::{AdminConfig, Credentials, EventStoreLog, HttpAdmin, StoreConfig};
use esdb_rollout::exit::Exit;
use esdb_rollout::ports::{AppendError, ClusterAdmin, EventLog, Expected, Fleet, NewEvent, NodeError, ReadError};
use esdb_rollout::rehearsal::{Folder, Options, Progress, Secrets, VERSION, Verdict, Wishes, run};
use esdb_rollout::sim::model::WorldConfig;
use esdb_rollout::update::limits::FIRST_ANSWER_TIMEOUT;
use esdb_rollout::update::observed::Policy;
use esdb_rollout::update::strategy::Strategy;
use esdb_rollout::worker::{ClusterHandle, survey};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracing_subscriber::EnvFilter;
use uuid::Uuid;
use wire_support::{Cluster, config};

/// What is logged meanwhile, by everybody.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the lines").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// From now on, for the whole process: our own lines to the last, and the libraries' down to `debug`.
    fn capture() -> Lines {
        static LINES: std::sync::OnceLock<Lines> = std::sync::OnceLock::new();
        let begin = || {
            let lines = Lines::default();
            let writer = lines.clone();
            let filter = EnvFilter::new("debug,esdb_rollout=trace");
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .try_init()
                .expect("the only subscriber of this process");
            lines
        };
        LINES.get_or_init(begin).clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("the lines")).into_owned()
    }
}

/// A password in each of the forms in which it may come to light.
fn forms(Credentials { user, password }: &Credentials) -> Vec<String> {
    vec![password.clone(), STANDARD.encode(format!("{user}:{password}")), STANDARD.encode(password)]
}

fn assert_secret(what: &str, text: &str, logins: &[Credentials]) {
    for login in logins {
        for form in forms(login) {
            if let Some(at) = text.find(&form) {
                let from = (0..=at.saturating_sub(300)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
                panic!("{what} shows a secret of {}: {}", login.user, text[from..at].escape_debug());
            }
        }
    }
}

fn logins(secrets: &Secrets) -> Vec<Credentials> {
    secrets.users().filter_map(|user| secrets.credentials(user)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_update_over_tls_by_a_user_of_few_rights() {
    let lines = Lines::capture();
    let options = Options {
        wishes: Wishes {
            seed: 11,
            speed: 100.0,
            voters: 3,
            replicas: 1,
            version: VERSION.to_owned(),
            target_type: "m6i.xlarge".into(),
            fallback_types: Vec::new(),
            faults: Vec::new(),
            tls: Some(Folder::Temporary),
            atom_pub: false,
        },
        strategy: Strategy::Ec2InstanceTypeUpdate,
        on_failure: None,
        on_silent_node: None,
        kill_worker: false,
        time_limit: Duration::from_secs(300),
    };
    let (mut known, mut folder, mut history) = (Vec::new(), PathBuf::new(), String::new());
    let report = run(&options, &mut |progress| match progress {
        Progress::Ready(stage) => {
            let secrets = stage.secrets().expect("a secure stage");
            known = logins(secrets);
            folder = secrets.folder().to_owned();
            let config = stage.config_file("worker");
            assert!(config.contains("tls = true") && config.contains("?tls=true"), "{config}");
            assert_secret("the configuration", &config, &known);
            let file = std::fs::read_to_string(secrets.credentials_file("worker")).expect("the worker's credentials");
            assert_eq!(file.trim_end(), format!("worker:{}", secrets.credentials("worker").expect("a login").password));
        }
        Progress::Looked(look) => history = format!("{:?}", look.history),
        Progress::WorkerKilled => panic!("nobody asked for that"),
    })
    .await
    .unwrap();
    assert_eq!((report.verdict, report.exit), (Verdict::Completed, Exit::Completed), "{}", report.text());
    assert_eq!((report.elections, report.writes.lost, report.writes.duplicated), (1, 0, 0), "{}", report.text());
    assert!(report.writes.acknowledged > 100, "{}", report.text());
    assert_eq!(report.remarks, Vec::<String>::new());
    assert_eq!(known.len(), 4);
    assert!(!folder.exists(), "the temporary folder goes with the stage");
    assert!(history.contains("UpdateCompleted"), "{history}");
    assert_secret("the history", &history, &known);
    assert_secret("the report", &serde_json::to_string(&report).unwrap(), &known);
    let text = lines.text();
    assert!(text.lines().count() > 100, "the lines were captured");
    assert_secret("a line of the log", &text, &known);
}

/// A secure cluster, and how a client may go wrong.
struct Secure {
    cluster: Cluster,
    files: TempDir,
}

impl Secure {
    /// With certificates for these names, the same for all nodes.
    async fn start(names: &[&str]) -> Secure {
        let world = WorldConfig { ec2_stop: Duration::from_secs(5), ..config(VERSION) };
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let (cluster, ca) = Cluster::start_secure(world, |_| names.clone()).await;
        cluster.until("a leader", |w| w.leader().is_some()).await;
        let files = tempfile::tempdir().expect("a folder");
        std::fs::write(files.path().join("ca.pem"), ca).expect("the CA");
        Secure { cluster, files }
    }

    fn ca(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    fn store(&self, ca_file: PathBuf, user: Option<Credentials>) -> EventStoreLog {
        let hosts: Vec<String> = self.cluster.addresses[..3].iter().map(Address::to_string).collect();
        let connection = format!("esdb://{}?tls=true", hosts.join(","));
        let config =
            StoreConfig { connection, ca_file: Some(ca_file), credentials: user, connection_name: "test".into() };
        EventStoreLog::new(config).expect("a store")
    }

    fn admin(&self, ca_file: PathBuf, credentials: Option<Credentials>) -> HttpAdmin {
        HttpAdmin::new(AdminConfig { tls: true, ca_file: Some(ca_file), credentials }).expect("a client")
    }

    /// The cluster as a worker with these adapters knows it.
    async fn handle(&self, admin: HttpAdmin) -> ClusterHandle {
        let nodes = (0..4).map(|n| {
            let instance: InstanceId = self.cluster.world.with(|w| w.instance_of(n).clone());
            let address = Some(self.cluster.addresses[n].clone());
            (
                format!("esdb-{n}").as_str().into(),
                esdb_rollout::worker::NodeMapping { instance, address, address_translated: false },
            )
        });
        ClusterHandle {
            seeds: self.cluster.addresses.clone(),
            voters: Some(Voters(3)),
            nodes: nodes.collect::<BTreeMap<_, _>>(),
            policy: Policy {
                allowed_types: vec![],
                max_replication_delay: Duration::from_secs(5),
                first_answer_timeout: FIRST_ANSWER_TIMEOUT,
                fence: true,
            },
            admin: Arc::new(admin),
            fleet: ec2(&self.cluster).await,
        }
    }

    /// What a survey refuses: code and what was found of each reason.
    async fn refusals(&self, admin: HttpAdmin) -> Vec<(String, String)> {
        let survey = survey(&self.handle(admin).await, None).await;
        assert_eq!(survey.missing, Vec::<String>::new());
        for reason in &survey.reasons {
            assert!(!reason.remedy.is_empty() && !reason.wanted.is_empty(), "{reason:?}");
        }
        survey.reasons.into_iter().map(|r| (r.code.to_string(), r.found)).collect()
    }

    async fn end(self) {
        let (states, elections) =
            self.cluster.world.with(|w| ((0..4).map(|n| w.instance_state(n)).collect::<Vec<_>>(), w.elections()));
        assert_eq!(states, [InstanceState::Running; 4], "nothing was stopped");
        assert_eq!(elections, 0, "nobody resigned");
        self.cluster.wire.shutdown().await;
    }
}

async fn ec2(cluster: &Cluster) -> Arc<dyn Fleet> {
    let endpoint = format!("http://{}", cluster.wire.ec2_endpoint().expect("EC2 is served"));
    let aws = AwsConfig { region: Some("eu-west-1".into()), endpoint: Some(endpoint), ..AwsConfig::default() };
    Arc::new(Ec2Fleet::connect_with_key(aws, "AKIASIMULATED0000000", "simulated").await.expect("EC2"))
}

fn login(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::new(user, password))
}

fn event(n: u128) -> NewEvent {
    NewEvent {
        id: Uuid::from_u128(n),
        event_type: "Tested".into(),
        data: json!({ "n": n as u64 }),
        metadata: Value::Null,
    }
}

/// The certificate is not one of the CA that the configuration names, or not for the name by which the node is called.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_accepted_is_told_and_nothing_is_asked() {
    Lines::capture();
    let stream = StreamName::from("clusterUpdate-x");
    let other = Secure::start(&["127.0.0.1"]).await;
    for (names, ca, found) in [
        (["127.0.0.1"].as_slice(), Some(other.ca()), "invalid peer certificate"),
        (["127.9.9.9", "esdb.example"].as_slice(), None, "certificate not valid for name"),
    ] {
        let secure = Secure::start(names).await;
        let ca = ca.unwrap_or_else(|| secure.ca());
        let ops = login("operator", "Op3rator-secret");
        let admin = secure.admin(ca.clone(), ops.clone());
        let node = secure.cluster.addresses[0].clone();
        let error = admin.gossip(&node).await.unwrap_err();
        assert!(matches!(&error, NodeError::Tls { .. }) && error.to_string().contains(found), "{error}");
        let error = admin.set_priority(&node, -1).await.unwrap_err();
        assert!(matches!(error, NodeError::Tls { .. }), "{error}");
        let refusals = secure.refusals(admin).await;
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert!(refusals[0].0 == "nodeNotTrusted" && refusals[0].1.contains(found), "{refusals:?}");

        let log = secure.store(ca, ops);
        let error = log.read_last(&stream).await.unwrap_err();
        assert!(matches!(error, ReadError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(found) && error.to_string().contains("ca_file"), "{error}");
        let error = log.append(&stream, Expected::NoStream, vec![event(1)]).await.unwrap_err();
        // The client library gives no answer at all where it cannot connect so: then nobody knows.
        assert!(matches!(error, AppendError::Unavailable { .. } | AppendError::Unknown { .. }), "{error}");
        assert!(error.to_string().contains(found) && error.to_string().contains("ca_file"), "{error}");
        assert_eq!(log.probe().await.answered, 0);
        secure.end().await;
    }
    other.end().await;
}

/// A node that gossips its name, and whose certificate holds nothing else: it is called by that, and its instance is found by what that
/// resolves to.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_name_is_called_by_it_and_matched_by_its_address() {
    Lines::capture();
    let mut world = config(VERSION);
    (world.voters, world.replicas) = (1, 0);
    world.names.truncate(1);
    world.addresses = vec![Address::new("localhost", world.addresses[0].port)];
    let (cluster, ca) = Cluster::start_secure(world, |_| vec!["localhost".to_owned()]).await;
    cluster.until("a leader", |w| w.leader().is_some()).await;
    let files = tempfile::tempdir().expect("a folder");
    let ca_file = files.path().join("ca.pem");
    std::fs::write(&ca_file, ca).expect("the CA");
    let operator = login("operator", "Op3rator-secret");
    let (node, by_ip) = (cluster.addresses[0].clone(), Address::new("127.0.0.1", cluster.addresses[0].port));
    let admin =
        HttpAdmin::new(AdminConfig { tls: true, ca_file: Some(ca_file.clone()), credentials: operator.clone() });
    let admin = admin.expect("a client");
    assert_eq!(admin.gossip(&node).await.expect("an answer").server, node);
    let error = admin.gossip(&by_ip).await.unwrap_err();
    assert!(matches!(error, NodeError::Tls { .. }), "the certificate holds the name alone: {error}");
    assert!(admin.resolve("localhost").await.expect("addresses").contains(&Ipv4Addr::LOCALHOST.into()));

    let handle = ClusterHandle {
        seeds: vec![node.clone()],
        voters: None,
        nodes: BTreeMap::new(),
        policy: Policy {
            allowed_types: vec![],
            max_replication_delay: Duration::from_secs(5),
            first_answer_timeout: FIRST_ANSWER_TIMEOUT,
            fence: true,
        },
        admin: Arc::new(admin),
        fleet: ec2(&cluster).await,
    };
    let found = survey(&handle, None).await;
    assert_eq!((found.reasons.len(), found.missing.len(), found.voters), (0, 0, Some(Voters(1))), "{found:?}");
    let members: Vec<_> = found.members.values().map(|m| (m.address.clone(), m.instance.id.clone())).collect();
    assert_eq!(members, [(node.clone(), cluster.world.with(|w| w.instance_of(0).clone()))]);

    let connection = format!("esdb+discover://{node}?tls=true");
    let store =
        StoreConfig { connection, ca_file: Some(ca_file), credentials: operator, connection_name: "test".into() };
    let log = EventStoreLog::new(store).expect("a store");
    log.append(&StreamName::from("orders-1"), Expected::NoStream, vec![event(1)])
        .await
        .expect("the node is found by gossip");
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_refused_what_they_may_not_and_told_why() {
    let lines = Lines::capture();
    let secure = Secure::start(&["127.0.0.1"]).await;
    let known = [
        Credentials::new("operator", "Op3rator-secret"),
        Credentials::new("worker", "W0rker-secret"),
        Credentials::new("operator", "Wr0ng-secret"),
    ];
    let node = secure.cluster.addresses[secure.cluster.leader()].clone();
    let stream = StreamName::from("clusterUpdate-x");
    let mut errors = String::new();
    let mut note = |error: &dyn std::fmt::Display| {
        let text = error.to_string();
        errors.push_str(&text);
        text
    };

    // A wrong password, no right, and no user at all.
    for (user, why) in [
        (Some(known[2].clone()), "user `operator` and its password do not match"),
        (Some(known[1].clone()), "user `worker` has no right to it"),
        (None, "no user was given"),
    ] {
        let admin = secure.admin(secure.ca(), user);
        admin.gossip(&node).await.expect("gossip is open");
        assert!(admin.live(&node).await.expect("health is open"));
        for error in [admin.set_priority(&node, -1).await, admin.resign(&node).await] {
            let error = error.unwrap_err();
            assert!(matches!(&error, NodeError::Status { status: 401, .. }) && note(&error).contains(why), "{error}");
        }
        let refusals = secure.refusals(admin).await;
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert!(refusals[0].0 == "nodeUserDenied" && note(&refusals[0].1).contains(why), "{refusals:?}");
    }
    let operator = secure.admin(secure.ca(), Some(known[0].clone()));
    assert_eq!(secure.refusals(operator.clone()).await, []);
    operator.set_priority(&node, 0).await.expect("an operator may");

    // The store: a wrong password gets nothing, any user streams, and $all only who was let.
    let wrong = secure.store(secure.ca(), Some(known[2].clone()));
    let error = wrong.append(&stream, Expected::NoStream, vec![event(1)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Denied { .. }), "{error}");
    assert!(note(&error).contains("does not know this user with this password"), "{error}");
    let error = wrong.read_last(&stream).await.unwrap_err();
    assert!(matches!(error, ReadError::Denied { .. }) && note(&error).contains("correct the credentials"), "{error}");

    let log = secure.store(secure.ca(), Some(known[0].clone()));
    log.append(&stream, Expected::NoStream, vec![event(1)]).await.expect("any user may append");
    assert_eq!(log.read(&stream, Revision(0), 10).await.expect("any user may read").len(), 1);
    let error = log.end_of_log().await.unwrap_err();
    assert!(matches!(error, ReadError::Denied { .. }) && note(&error).contains("access denied"), "{error}");
    let error = log.let_read_all("operator").await.unwrap_err();
    assert!(matches!(error, AppendError::Denied { .. }) && note(&error).contains("access denied"), "{error}");
    let admin = secure.store(secure.ca(), login("admin", "changeit"));
    assert!(admin.let_read_all("operator").await.expect("an admin may let read"));
    assert!(!admin.let_read_all("operator").await.expect("an admin may let read"), "once is enough");
    assert!(admin.let_read_all("worker").await.expect("an admin may let read"), "another one joins");
    assert!(log.end_of_log().await.expect("it was let").is_some());
    assert!(admin.end_of_log().await.expect("admins still may").is_some());
    let metadata = admin.read_last(&StreamName::from("$$$all")).await.expect("metadata").expect("an event");
    assert_eq!(metadata.data, json!({"$acl": {"$r": ["$admins", "operator", "worker"]}}));

    assert_secret("an error", &errors, &known);
    assert_secret("a line of the log", &lines.text(), &known);
    secure.end().await;
}
