//! HTTP.

use super::support::recorded::HTTP;
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

#[tokio::test]
async fn http_answers_as_recorded() {
    let cluster = Cluster::start(config("23.10.5.0")).await;
    let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
    for recording in HTTP.lines() {
        let case = recording["case"].as_str().expect("a case").to_owned();
        if HTTP.excuse(&recording).is_some() {
            continue;
        }
        let node = if case.contains("replica") && !case.contains("replication") {
            cluster.replica()
        } else if case.contains("follower") || case.starts_with("resign with") {
            // The leader resigns only where a test is about that.
            cluster.follower()
        } else {
            cluster.leader()
        };
        let (method, path) = recording["request"].as_str().and_then(|r| r.split_once(' ')).expect("a request");
        let mut request = http.request(method.parse().expect("a method"), cluster.http(node, path));
        for (key, value) in recording["requestHeaders"].as_object().expect("headers") {
            request = request.header(key, value.as_str().expect("text"));
        }
        let response = request.send().await.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(u64::from(response.status().as_u16()), recording["status"].as_u64().expect("a status"), "{case}");
        for (key, value) in recording["headers"].as_object().expect("headers") {
            let ours = response.headers().get(key).map(|v| v.to_str().expect("ASCII"));
            if key != "Content-Length" {
                assert_eq!(ours, value.as_str(), "{case}: {key}");
            }
        }
        let recorded = recording["body"].as_str().expect("a body");
        let ours = response.text().await.expect("a body");
        if recorded.starts_with(['{', '[']) && recorded.len() > 2 {
            // Long bodies were cut by the recorder.
            let cut = if serde_json::from_str::<Value>(recorded).is_ok() { usize::MAX } else { keys(recorded).len() };
            assert_eq!(keys(&ours).into_iter().take(cut).collect::<Vec<_>>(), keys(recorded), "{case}");
        } else {
            assert_eq!(ours, recorded, "{case}");
        }
    }
    cluster.wire.shutdown().await;
}
