//! HTTP.

use super::support::recorded::{File, HTTP, HTTP_26_1, comparable};
use super::support::{PATIENCE, config};
use super::*;

/// The keys of a pretty-printed JSON text, each with its depth, in their order; of a list of likes only the first.
fn keys(body: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for line in body.lines() {
        if let Some((key, _)) = line.split_once("\":")
            && !seen.contains(&key.to_owned())
        {
            seen.push(key.to_owned());
        }
    }
    seen
}

/// The names of the elements of an XML text, in their order.
fn elements(body: &str) -> Vec<&str> {
    body.split('<').filter_map(|piece| piece.split_once('>')).map(|(name, _)| name).collect()
}

/// Without the moments, which are each cluster's own.
fn timeless(body: &str) -> String {
    let line = |line: &str| match line.split_once("\"updated\": \"") {
        Some((indent, _)) => format!("{indent}\"updated\":"),
        None => line.to_owned(),
    };
    body.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The node that a recorded request went to: of leader, follower and replica.
fn asked([leader, follower, replica]: [usize; 3], case: &str) -> usize {
    if case.contains("replica") && !case.contains("replication") {
        replica
    } else if case.contains("follower") || case.starts_with("resign with") {
        // The leader resigns only where the recording says so.
        follower
    } else {
        leader
    }
}

#[tokio::test]
async fn http_answers_as_recorded() {
    replay(&HTTP, "23.10.5.0", "127.0.1", [1, 2, 4]).await;
}

#[tokio::test]
async fn http_of_a_newer_server_answers_as_recorded() {
    replay(&HTTP_26_1, "26.1.0-prerelease", "127.0.2", [2, 1, 4]).await;
}

/// Replays a file against a cluster of this version; the recorded leader, follower and replica had these addresses.
async fn replay(file: &File, version: &str, net: &str, recorded: [u8; 3]) {
    let cluster = Cluster::start_with_atom_pub(config(version)).await;
    let http = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
    let http = http.build().expect("a client");
    // The recorded nodes, as ours.
    let nodes = [cluster.leader(), cluster.follower(), cluster.replica()];
    let ours = |text: &str| {
        recorded.iter().zip(nodes).fold(text.to_owned(), |text, (host, n)| {
            text.replace(&format!("{net}.{host}:2113"), &cluster.addresses[n].to_string())
        })
    };
    for recording in file.lines() {
        let case = recording["case"].as_str().expect("a case").to_owned();
        let node = asked(nodes, &case);
        let (method, path) = recording["request"].as_str().and_then(|r| r.split_once(' ')).expect("a request");
        let mut request = http.request(method.parse().expect("a method"), cluster.http(node, path));
        for (key, value) in recording["requestHeaders"].as_object().expect("headers") {
            request = request.header(key, value.as_str().expect("text"));
        }
        if let Some(body) = recording["requestBody"].as_str() {
            request = request.body(body.to_owned());
        }
        let response = request.send().await.unwrap_or_else(|e| panic!("{case}: {e}"));
        if let Some(excuse) = file.excuse(&recording) {
            let status = response.status().as_u16().to_string();
            let sentence = response.text().await.expect("a sentence");
            assert!(excuse.starts_with(&status) && sentence.contains("scavenging"), "{case}: {status} {sentence}");
            continue;
        }
        assert_eq!(u64::from(response.status().as_u16()), recording["status"].as_u64().expect("a status"), "{case}");
        for (key, value) in recording["headers"].as_object().expect("headers") {
            let answered = response.headers().get(key).map(|v| comparable(key, v.to_str().expect("ASCII")));
            if key != "Content-Length" {
                assert_eq!(answered, value.as_str().map(|v| comparable(key, &ours(v))), "{case}: {key}");
            }
        }
        let recorded = recording["body"].as_str().expect("a body");
        let answered = response.text().await.expect("a body");
        if case.contains("over HTTP") {
            // Long bodies were cut by the recorder.
            let (answered, recorded) = (timeless(&answered), timeless(&ours(recorded)));
            let enough = if recorded.len() > 2000 { answered.split_at(recorded.len()).0 } else { &answered };
            assert_eq!(enough, recorded, "{case}");
        } else if recorded.starts_with("<?xml") {
            let cut = elements(recorded).len();
            assert_eq!(elements(&answered).into_iter().take(cut).collect::<Vec<_>>(), elements(recorded), "{case}");
        } else if recorded.starts_with(['{', '[']) && recorded.len() > 2 {
            let cut = if serde_json::from_str::<Value>(recorded).is_ok() { usize::MAX } else { keys(recorded).len() };
            assert_eq!(keys(&answered).into_iter().take(cut).collect::<Vec<_>>(), keys(recorded), "{case}");
        } else {
            assert_eq!(answered, recorded, "{case}");
        }
        if case.starts_with("info") {
            let features =
                |text: &str| serde_json::from_str::<Value>(text).map(|v| v["features"].clone()).expect("JSON");
            for feature in ["userManagement", "atomPub"] {
                assert_eq!(features(&answered)[feature], features(recorded)[feature], "{case}: {feature}");
            }
        }
    }
    cluster.wire.shutdown().await;
}
