//! `docs/simulator.md` says what is true: each recorded line, and what is not simulated.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::support::recorded::{FILES, File};
use super::support::{PATIENCE, config};
use super::*;

const REFRESH: &str = "ESDB_ROLLOUT_REFRESH_DOCS=1 cargo test --test wire_recorded docs";
const BEGIN: &str = "<!-- the recorded lines: refreshed by tests/wire_recorded/docs.rs -->\n";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/simulator.md")
}

/// The lines of a file, each case once with the callers who get the same.
fn table(file: &File) -> String {
    let text =
        |recording: &Recording, key: &str| recording.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut rows: Vec<(String, &str, Vec<String>)> = Vec::new();
    for recording in file.lines() {
        let (case, told, caller) = (text(&recording, "case"), file.told(&recording), text(&recording, "as"));
        match rows.iter_mut().find(|(c, t, _)| *c == case && *t == told) {
            Some((_, _, callers)) => callers.push(caller),
            None => rows.push((case, told, vec![caller])),
        }
    }
    let mut table = format!(
        "\n### {}\n\n`tests/recorded/{}`, replayed by `{}`\n\n| recorded line | the nodes' answer |\n| --- | --- |\n",
        file.what, file.name, file.replayed_by
    );
    for (case, told, callers) in rows {
        let callers = callers.join(", ");
        let who = if callers.is_empty() { String::new() } else { format!(" (as {callers})") };
        // Writing to a text cannot fail.
        let _ = writeln!(table, "| `{case}`{who} | {told} |");
    }
    table
}

#[test]
fn each_recorded_line_is_told() {
    let kept = std::fs::read_to_string(page()).expect("docs/simulator.md");
    let (before, _) = kept.split_once(BEGIN).expect("the place of the tables");
    let made = FILES.iter().fold(format!("{before}{BEGIN}"), |text, file| text + &table(file));
    if std::env::var_os("ESDB_ROLLOUT_REFRESH_DOCS").is_some() {
        std::fs::write(page(), &made).expect("the page is written");
    } else {
        assert!(kept == made, "the tables are not what the recordings give; refresh them: {REFRESH}");
    }

    // No recording of calls is left out, and no excuse is without its line.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    for entry in std::fs::read_dir(folder).expect("the recordings") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        // Those of the projections are told of, and asked for, by `wire_projections`.
        let elsewhere = name.starts_with("projections-");
        assert!(
            !name.ends_with(".jsonl") || elsewhere || FILES.iter().any(|f| f.name == name),
            "{name} is not told of"
        );
    }
    for file in FILES {
        let lines = file.lines();
        for case in file.excused.iter().map(|(c, ..)| c).chain(file.noted.iter().map(|(c, _)| c)) {
            assert!(lines.iter().any(|l| l["case"] == *case), "{case} is not recorded");
        }
    }
}

/// Calls that are not simulated. The page names each.
const CALLS: &[&str] = &[
    "persistent_subscriptions.PersistentSubscriptions/Create",
    "persistent_subscriptions.PersistentSubscriptions/Read",
    "users.Users/Create",
    "users.Users/Details",
    "monitoring.Monitoring/Stats",
    "redaction.Redaction/GetEventPositions",
    "operations.Operations/StartScavenge",
    "operations.Operations/StopScavenge",
    "operations.Operations/MergeIndexes",
    "operations.Operations/RestartPersistentSubscriptions",
];

/// Requests that are not simulated: method, path, what is accepted, status. The page names each path.
const REQUESTS: &[(&str, &str, &str, u16)] = &[
    ("POST", "/admin/scavenge", "*/*", 501),
    ("GET", "/streams/$all/filtered", "application/json", 501),
    ("GET", "/streams/NAME", "application/atom+xml", 406),
    ("GET", "/subscriptions", "application/json", 404),
    ("GET", "/users", "application/json", 404),
];

#[tokio::test]
async fn what_is_not_simulated_says_so() {
    let cluster = Cluster::start_with_atom_pub(config("23.10.5.0")).await;
    let page = std::fs::read_to_string(page()).expect("docs/simulator.md");
    let http = reqwest::Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    for call in CALLS {
        let sentence = services::not_implemented(&http, &cluster, &format!("/event_store.client.{call}")).await;
        assert!(sentence.starts_with("the simulated cluster "), "{call}: {sentence}");
        let (service, method) = call.split_once('/').expect("a method");
        let service = service.rsplit('.').next().unwrap_or_default();
        assert!(
            page.contains(&format!("`{service}`")) || page.contains(&format!("`{method}`")),
            "{call} is not told of"
        );
    }
    for (method, path, accept, status) in REQUESTS {
        let request = http.request(method.parse().expect("a method"), cluster.http(cluster.leader(), path));
        let response = request.header("accept", *accept).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), *status, "{path}");
        let sentence = response.text().await.expect("a body");
        assert!(*status == 404 || sentence.starts_with("the simulated "), "{path}: {sentence}");
        assert!(page.contains(&format!("`{path}`")), "{path} is not told of");
    }
    cluster.wire.shutdown().await;
}
