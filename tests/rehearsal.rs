//! A rehearsal, as `rehearse` runs it: real adapters over loopback, real time.
#![cfg(all(feature = "esdb", feature = "ec2"))]

use std::time::Duration;

use esdb_rollout::exit::Exit;
use esdb_rollout::rehearsal::{Options, Progress, Report, VERSION, Verdict, Wishes, run};
use esdb_rollout::update::event::{NodeResult, Role};
use esdb_rollout::update::strategy::Strategy;

/// EC2 in no time: what is left are the gates.
fn options(seed: u64, faults: &[&str]) -> Options {
    Options {
        wishes: Wishes {
            seed,
            speed: 100.0,
            voters: 3,
            replicas: 1,
            version: VERSION.to_owned(),
            target_type: "m6i.xlarge".into(),
            fallback_types: Vec::new(),
            faults: faults.iter().map(|f| (*f).to_owned()).collect(),
            tls: None,
            atom_pub: false,
        },
        strategy: Strategy::Ec2InstanceTypeUpdate,
        on_failure: None,
        on_silent_node: None,
        kill_worker: false,
        time_limit: Duration::from_secs(300),
    }
}

fn roles(report: &Report) -> Vec<Role> {
    report.nodes.iter().filter_map(|n| n.role_at_selection).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_update_costs_one_election_and_no_write() {
    let mut ready = 0;
    let mut read = 0;
    let report = run(&options(1, &[]), &mut |progress| match progress {
        Progress::Ready(stage) => {
            ready += 1;
            assert_eq!(stage.addresses.len(), 4);
            assert!(stage.config_file("worker").contains("tls = false"));
        }
        Progress::Looked(look) => {
            assert!(look.history.len() >= read, "a history only grows");
            read = look.history.len();
        }
        Progress::WorkerKilled => panic!("nobody asked for that"),
    })
    .await
    .unwrap();
    assert_eq!((report.verdict, report.exit), (Verdict::Completed, Exit::Completed), "{}", report.text());
    assert_eq!((report.elections, report.writes.lost, report.writes.duplicated), (1, 0, 0), "{}", report.text());
    assert!(report.writes.acknowledged > 100, "{}", report.text());
    assert_eq!((ready, read as u64), (1, report.events));
    assert_eq!(roles(&report), [Role::ReadOnlyReplica, Role::Follower, Role::Follower, Role::Leader]);
    for node in &report.nodes {
        assert_eq!(node.result, NodeResult::Updated);
        assert_eq!(node.to_type.as_ref().map(|t| t.as_str()), Some("m6i.xlarge"));
        assert!(node.seconds.as_ref().is_some_and(|s| s.total > 0.0));
    }
    assert_eq!(report.remarks, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_no_zone_supports_fails_with_every_node_running() {
    let report = run(&options(2, &["start-unsupported"]), &mut |_| ()).await.unwrap();
    assert_eq!((report.verdict, report.exit), (Verdict::Failed, Exit::Failed), "{}", report.text());
    assert_eq!((report.elections, report.writes.lost, report.writes.duplicated), (0, 0, 0), "{}", report.text());
    assert_eq!(report.nodes.len(), 1, "the first failure is the last node: {}", report.text());
    assert_eq!(report.nodes[0].to_type.as_ref().map(|t| t.as_str()), Some("m6i.large"));
}

#[tokio::test]
async fn an_unknown_fault_is_refused_before_anything_begins() {
    let error = run(&options(3, &["gremlins"]), &mut |_| panic!("nothing begins")).await.unwrap_err();
    assert!(error.to_string().contains("expected one of capacity"), "{error}");
}
