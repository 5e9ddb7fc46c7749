//! AtomPub on the simulated nodes, as `curl` speaks it: what the recordings do not show is as in the server's documentation.
#![cfg(feature = "esdb")]

#[path = "wire_support/mod.rs"]
mod support;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use support::{Cluster, PATIENCE, config};

const FEED: &str = "application/vnd.eventstore.atom+json";
const EVENTS: &str = "application/vnd.eventstore.events+json";

fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(PATIENCE).build().expect("a client")
}

fn event(n: u32) -> String {
    format!(
        r#"{{"eventId": "00000000-0000-4000-8000-{n:012}", "eventType": "noted", "data": {{"z": {n}, "a": 1.10}}}}"#
    )
}

async fn sent(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

async fn feed(http: &reqwest::Client, url: &str) -> Value {
    let response = sent(http.get(url).header("accept", FEED)).await;
    assert_eq!(response.status(), 200, "{url}");
    serde_json::from_str(&response.text().await.expect("a body")).expect("JSON")
}

/// The address to which a feed leads under this name.
fn link<'a>(feed: &'a Value, relation: &str) -> Option<&'a str> {
    let links = feed["links"].as_array().expect("links");
    links.iter().find(|l| l["relation"] == relation).and_then(|l| l["uri"].as_str())
}

fn titles(feed: &Value) -> Vec<&str> {
    feed["entries"].as_array().expect("entries").iter().filter_map(|e| e["title"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_followed_by_its_links() {
    let cluster = Cluster::start_with_atom_pub(config("23.10.5.0")).await;
    let http = client();
    let at = |path: &str| cluster.http(cluster.leader(), path);
    let many = format!("[{}]", (0..25).map(event).collect::<Vec<_>>().join(","));
    for _ in 0..2 {
        let append = http.post(at("/streams/clusterUpdate-1")).header("content-type", EVENTS).body(many.clone());
        let response = sent(append.header("es-expectedversion", "-1")).await;
        assert_eq!(response.status(), 201, "and once more, which is the same append");
        assert_eq!(response.headers()["location"], at("/streams/clusterUpdate-1/0").as_str());
    }

    // From the newest page to the oldest, and forwards again to where nothing is yet.
    let head = feed(&http, &at("/streams/clusterUpdate-1")).await;
    assert_eq!((titles(&head)[0], titles(&head).len()), ("24@clusterUpdate-1", 20));
    assert_eq!((&head["headOfStream"], head["entries"][0]["eventType"].as_str()), (&Value::Bool(true), None));
    let older = feed(&http, link(&head, "next").expect("more")).await;
    assert_eq!(titles(&older), [4, 3, 2, 1, 0].map(|n| format!("{n}@clusterUpdate-1")));
    assert_eq!(link(&older, "next"), None);
    let last = feed(&http, link(&head, "last").expect("the oldest")).await;
    assert_eq!((titles(&last)[0], titles(&last)[19]), ("19@clusterUpdate-1", "0@clusterUpdate-1"));
    let newer = feed(&http, link(&last, "previous").expect("newer")).await;
    assert_eq!(titles(&newer).len(), 5);
    let end = link(&newer, "previous").expect("the end").to_owned();
    assert_eq!((titles(&feed(&http, &end).await).len(), link(&feed(&http, &end).await, "previous")), (0, None));

    // Who waits is told of the next event when it comes.
    let waits = sent(http.get(&end).header("accept", FEED).header("es-longpoll", "15"));
    let appends = async {
        let append = http.post(at("/streams/clusterUpdate-1")).header("content-type", "application/json");
        let append = append.header("es-eventtype", "noted").body(r#"{"late":true}"#);
        // Without an id it is sent on to an address that makes it one that may be repeated.
        assert_eq!(sent(append).await.status(), 201);
    };
    let (found, ()) = tokio::join!(waits, appends);
    let found: Value = serde_json::from_str(&found.text().await.expect("a body")).expect("JSON");
    assert_eq!(titles(&found), ["25@clusterUpdate-1"]);

    // What is known already is not sent again.
    let first = sent(http.get(at("/streams/clusterUpdate-1")).header("accept", FEED)).await;
    let again = http.get(at("/streams/clusterUpdate-1")).header("accept", FEED);
    let again = sent(again.header("if-none-match", first.headers()["etag"].clone())).await;
    assert_eq!(again.status(), 304);
    let full = sent(http.get(at("/streams/clusterUpdate-1/0/forward/5")).header("accept", FEED)).await;
    assert_eq!(full.headers()["cache-control"], "max-age=31536000, private");

    // An event alone, as its data with order and digits kept, or as an entry.
    let data = sent(http.get(at("/streams/clusterUpdate-1/7")).header("accept", "application/json")).await;
    assert_eq!(data.text().await.expect("a body"), "{\n  \"z\": 7,\n  \"a\": 1.10\n}");
    let entry = feed(&http, &at("/streams/clusterUpdate-1/7")).await;
    assert_eq!((&entry["summary"], &entry["content"]["data"]["z"]), (&"noted".into(), &7.into()));
    let newest = sent(http.get(at("/streams/clusterUpdate-1/head")).header("accept", "application/json")).await;
    assert_eq!(newest.text().await.expect("a body"), "{\n  \"late\": true\n}");

    // All, page by page, as it is written.
    let mut seen = Vec::new();
    let mut all = feed(&http, &at("/streams/%24all/00000000000000000000000000000000/forward/10?embed=rich")).await;
    while !titles(&all).is_empty() {
        let page = all["entries"].as_array().expect("entries").iter().rev();
        seen.extend(page.filter(|e| e["streamId"] == "clusterUpdate-1").map(|e| e["eventNumber"].clone()));
        all = feed(&http, &format!("{}?embed=rich", link(&all, "previous").expect("on"))).await;
    }
    assert_eq!(seen, (0..26).map(Value::from).collect::<Vec<_>>());
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_have_metadata_and_end() {
    let cluster = Cluster::start_with_atom_pub(config("23.10.5.0")).await;
    let http = client();
    let at = |path: &str| cluster.http(cluster.leader(), path);
    let events = format!("[{},{},{}]", event(1), event(2), event(3));
    let append = async |expected: &str| {
        let request = http.post(at("/streams/s")).header("content-type", EVENTS).body(events.clone());
        sent(request.header("es-expectedversion", expected)).await
    };
    assert_eq!(append("-4").await.headers()["es-currentversion"], "-1");
    assert_eq!(append("-1").await.status(), 201);
    let metadata = http.post(at("/streams/s/metadata")).header("content-type", "application/json");
    let metadata = metadata.header("es-eventid", "00000000-0000-4000-8000-000000000009").body(r#"{"$maxCount":1}"#);
    assert_eq!(sent(metadata).await.status(), 201);
    let kept = sent(http.get(at("/streams/s/metadata")).header("accept", "application/json")).await;
    assert_eq!(kept.text().await.expect("a body"), "{\n  \"$maxCount\": 1\n}");
    assert_eq!(titles(&feed(&http, &at("/streams/s/0/forward/10")).await), ["2@s"]);

    for (hard, after) in [("false", 404), ("true", 410)] {
        let removal = sent(http.delete(at("/streams/s")).header("es-harddelete", hard)).await;
        assert_eq!(removal.status(), 204);
        assert_eq!(sent(http.get(at("/streams/s")).header("accept", FEED)).await.status(), after);
    }
    assert_eq!(append("-2").await.status(), 410);
    cluster.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said() {
    let cluster = Cluster::start_with_atom_pub(config("23.10.5.0")).await;
    let http = client();
    let at = |path: &str| cluster.http(cluster.leader(), path);
    let post = |headers: &[(&str, &str)], body: &str| {
        headers.iter().fold(http.post(at("/streams/s")).body(body.to_owned()), |r, (k, v)| r.header(*k, *v))
    };
    let typed = ("content-type", "application/json");
    let named = ("es-eventtype", "t");
    for (headers, body, status, sentence) in [
        (&[("content-type", EVENTS)][..], "[]", 400, "Write request body invalid."),
        (&[("content-type", EVENTS)], "{", 400, "Write request body invalid."),
        (&[("content-type", EVENTS)], r#"[{"eventType":"t","data":{}}]"#, 400, "Empty eventId provided."),
        (&[typed, named, ("es-eventid", "no")], "{}", 400, "ES-EventId header in wrong format."),
        (
            &[typed, named, ("es-eventid", "00000000-0000-4000-8000-000000000001"), ("es-expectedversion", "-7")],
            "{}",
            400,
            "ES-ExpectedVersion header in wrong format.",
        ),
        (&[("content-type", "text/xml"), named], "<a/>", 415, "the simulated nodes take application/json"),
    ] {
        let response = sent(post(headers, body)).await;
        assert_eq!(response.status(), status, "{headers:?}");
        let text = response.text().await.expect("a body");
        assert!(text.starts_with(sentence), "{headers:?}: {text}");
    }
    let large = format!("\"{}\"", "x".repeat(1_100_000));
    let large = post(&[typed, named, ("es-eventid", "00000000-0000-4000-8000-000000000002")], &large);
    assert_eq!(sent(large).await.status(), 413);
    for (path, accept, status) in [
        ("/streams/s/abc", FEED, 400),
        ("/streams/s/0/forward/0", FEED, 400),
        ("/streams/%24all/xyz/backward/1", FEED, 400),
        ("/streams/s/0/forward/9", "application/atom+xml", 406),
        ("/streams/s", "*/*", 406),
        ("/streams/s", "application/vnd.eventstore.streamdesc+json", 200),
    ] {
        let response = sent(http.get(at(path)).header("accept", accept)).await;
        assert_eq!(response.status(), status, "{path}");
        assert!(!response.text().await.expect("a body").is_empty(), "{path}: a sentence");
    }
    assert_eq!(sent(http.request(Method::PUT, at("/streams/s"))).await.status(), 405);
    cluster.wire.shutdown().await;

    let off = Cluster::start(config("23.10.5.0")).await;
    let info = sent(http.get(off.http(0, "/info"))).await.text().await.expect("a body");
    assert!(info.contains("\"atomPub\": false"), "{info}");
    assert_eq!(sent(http.get(off.http(0, "/streams/s")).header("accept", FEED)).await.status(), 404);
    off.wire.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_have_the_rights_that_they_have_elsewhere() {
    let (cluster, ca) = Cluster::start_secure(config("23.10.5.0"), |_| vec!["127.0.0.1".to_owned()]).await;
    let ca = reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate");
    let http = reqwest::Client::builder().timeout(PATIENCE).tls_built_in_root_certs(false).add_root_certificate(ca);
    let http = http.build().expect("a client");
    let at = |path: &str| cluster.https(cluster.leader(), path);
    let body = |n| format!("[{}]", event(n));
    let append = async |user: Option<&str>, path: &str, body: String| {
        let request = http.post(at(path)).header("content-type", EVENTS).body(body);
        let request = match user {
            Some("worker") => request.basic_auth("worker", Some("W0rker-secret")),
            Some(user) => request.basic_auth(user, Some("changeit")),
            None => request,
        };
        sent(request).await.status().as_u16()
    };
    assert_eq!(append(None, "/streams/s", body(1)).await, 401);
    assert_eq!(append(Some("worker"), "/streams/s", body(1)).await, 201);
    assert_eq!(append(Some("worker"), "/streams/%24system", body(2)).await, 401);
    assert_eq!(append(Some("admin"), "/streams/%24system", body(2)).await, 201);
    let acl = r#"[{"eventId": "00000000-0000-4000-8000-000000000008", "eventType": "$metadata", "data": {"$acl": {"$w": "$admins"}}}]"#;
    assert_eq!(append(Some("admin"), "/streams/s/metadata", acl.to_owned()).await, 201);
    assert_eq!(append(Some("worker"), "/streams/s", body(3)).await, 401, "the stream is the admins' now");
    cluster.wire.shutdown().await;
}
