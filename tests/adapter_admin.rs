//! The node calls over real HTTP, against a server of a few lines.
#![cfg(feature = "esdb")]
#![expect(clippy::disallowed_methods, reason = "a test measures how long a call took")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::routing::any;
use esdb_rollout::domain::cluster::NodeState;
use esdb_rollout::domain::ids::Address;
use esdb_rollout::esdb::{AdminConfig, Credentials, HttpAdmin};
use esdb_rollout::ports::{ClusterAdmin, NodeError};

/// A request as the server saw it: method and path, user, body.
type Seen = (String, Option<String>, Vec<u8>);

#[derive(Clone)]
struct Node {
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: fn(&str) -> Response<Body>,
}

async fn handle(State(node): State<Node>, request: Request) -> Response<Body> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let user = request.headers().get("authorization").map(|h| h.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap().to_vec();
    node.seen.lock().unwrap().push((what.clone(), user, body));
    (node.answer)(&what)
}

async fn serve(answer: fn(&str) -> Response<Body>) -> (Address, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let app = Router::new().fallback(any(handle)).with_state(Node { seen: seen.clone(), answer });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, seen)
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

fn json(text: &'static str) -> Response<Body> {
    Response::builder().header("content-type", "application/json").body(Body::from(text)).unwrap()
}

/// The answer of a gRPC server that fails or succeeds before it sends a message.
fn grpc(code: u8, message: &str) -> Response<Body> {
    let builder =
        Response::builder().header("content-type", "application/grpc").header("grpc-status", code.to_string());
    builder.header("grpc-message", message).body(Body::empty()).unwrap()
}

/// The answer of a gRPC server that sends an empty message, and its status in the trailers.
fn grpc_with_trailers(code: u16) -> Response<Body> {
    use http_body_util::BodyExt;
    let mut trailers = axum::http::HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    let body = http_body_util::Full::new(axum::body::Bytes::from_static(&[0; 5]));
    let body = body.with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

fn admin() -> HttpAdmin {
    let credentials = Some(Credentials::new("admin", "s3cret"));
    HttpAdmin::new(AdminConfig { tls: false, ca_file: None, credentials }).unwrap()
}

fn healthy(what: &str) -> Response<Body> {
    match what {
        "GET /gossip" => json(include_str!("recorded/gossip-23.10.5.json")),
        "GET /health/live" => status(204),
        "GET /info/options" => json(r#"[{"name":"ClusterSize","value":"3"}]"#),
        "GET /stats/replication" => json(include_str!("recorded/replication-23.10.5.json")),
        "POST /admin/node/priority/-1" | "POST /admin/node/resign" => status(200),
        _ => status(404),
    }
}

#[tokio::test]
async fn credentials_go_where_they_belong_and_nowhere_else() {
    let (node, seen) = serve(healthy).await;
    let admin = admin();
    let view = admin.gossip(&node).await.unwrap();
    assert_eq!(view.own().unwrap().state, NodeState::Follower);
    assert!(admin.live(&node).await.unwrap());
    assert_eq!(admin.cluster_size(&node).await.unwrap(), Some(3));
    assert_eq!(admin.replication(&node).await.unwrap().len(), 3);
    admin.set_priority(&node, -1).await.unwrap();
    admin.resign(&node).await.unwrap();

    let basic = Some("Basic YWRtaW46czNjcmV0".to_owned());
    let seen: Vec<(String, Option<String>)> =
        seen.lock().unwrap().iter().map(|(w, u, _)| (w.clone(), u.clone())).collect();
    let expected = [
        ("GET /gossip", None),
        ("GET /health/live", None),
        ("GET /info/options", basic.clone()),
        ("GET /stats/replication", basic.clone()),
        ("POST /admin/node/priority/-1", basic.clone()),
        ("POST /admin/node/resign", basic),
    ];
    assert_eq!(seen, expected.map(|(w, u)| (w.to_owned(), u)));
}

#[tokio::test]
async fn where_the_admin_routes_are_off_grpc_does_it() {
    let (node, seen) = serve(|what| match what {
        "POST /event_store.client.operations.Operations/SetNodePriority" => grpc_with_trailers(0),
        "POST /event_store.client.operations.Operations/ResignNode" => grpc(0, ""),
        _ => status(404),
    })
    .await;
    let admin = admin();
    admin.set_priority(&node, -1).await.unwrap();
    admin.resign(&node).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    // Field 1, the varint of −1 in ten bytes, behind the five-byte prefix.
    assert_eq!(seen[1].2, [&[0, 0, 0, 0, 11, 8][..], &[0xff; 9], &[1]].concat());
    assert_eq!(seen[3].2, [0; 5]);
    assert!(seen.iter().all(|(_, user, _)| user.is_some()));
    assert_eq!(admin.cluster_size(&node).await.unwrap(), None, "a node without /info/options does not say");
}

#[tokio::test]
async fn refusals_by_either_door() {
    let (node, _) = serve(|what| match what {
        "POST /event_store.client.operations.Operations/ResignNode" => grpc(7, "Access Denied"),
        "POST /event_store.client.operations.Operations/SetNodePriority" => grpc_with_trailers(16),
        "POST /admin/node/priority/5" | "GET /stats/replication" => status(401),
        "GET /health/live" => status(503),
        "GET /gossip" => json("{}"),
        "GET /info/options" => status(307),
        _ => status(404),
    })
    .await;
    let admin = admin();
    let code = |e: NodeError| match e {
        NodeError::Status { status, .. } => status,
        NodeError::Refused { .. } | NodeError::TimedOut { .. } | NodeError::Tls { .. } | NodeError::Other { .. } => {
            panic!("{e}")
        }
    };
    assert_eq!(code(admin.resign(&node).await.unwrap_err()), 403);
    assert_eq!(code(admin.set_priority(&node, 0).await.unwrap_err()), 401);
    assert_eq!(code(admin.set_priority(&node, 5).await.unwrap_err()), 401);
    assert_eq!(code(admin.replication(&node).await.unwrap_err()), 401);
    assert_eq!(code(admin.cluster_size(&node).await.unwrap_err()), 307, "a redirect is not followed");
    assert!(!admin.live(&node).await.unwrap());
    let error = admin.gossip(&node).await.unwrap_err();
    assert!(matches!(&error, NodeError::Other { .. }), "{error}");
    assert!(!error.to_string().contains("s3cret"));
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
    drop(listener);
    let admin = admin();
    assert_eq!(admin.gossip(&node).await.unwrap_err(), NodeError::Refused { node: node.clone() });
    assert_eq!(admin.resign(&node).await.unwrap_err(), NodeError::Refused { node });
}

#[tokio::test]
async fn a_frozen_node_times_out() {
    // Accepts by its backlog, and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
    let began = Instant::now();
    let error = admin().set_priority(&node, -1).await.unwrap_err();
    assert_eq!(error, NodeError::TimedOut { node, after_ms: 3000 });
    assert!(began.elapsed() < Duration::from_millis(3500));
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_something_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail\r\n").await.unwrap();
        }
    });
    let error = admin().gossip(&node).await.unwrap_err();
    assert!(matches!(error, NodeError::Other { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_an_end_is_held_no_further_than_any_node_speaks() {
    let (node, _) = serve(|_| {
        let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 20]));
        Response::builder().body(Body::from_stream(endless)).unwrap()
    })
    .await;
    match admin().gossip(&node).await {
        Err(NodeError::Other { found, .. }) => assert!(found.starts_with("an answer of more than"), "{found}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn names_resolve() {
    let admin = admin();
    assert_eq!(admin.resolve("10.1.2.3").await.unwrap(), ["10.1.2.3".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!admin.resolve("localhost").await.unwrap().is_empty());
    let error = admin.resolve("no-such-host.invalid").await.unwrap_err();
    assert!(matches!(error, NodeError::Other { .. }), "{error}");
}

#[test]
fn a_bad_ca_file_says_so() {
    let config = AdminConfig { tls: true, ca_file: Some("/no/such/ca.pem".into()), credentials: None };
    let error = HttpAdmin::new(config).unwrap_err();
    assert!(error.to_string().contains("/no/such/ca.pem"), "{error}");
}
