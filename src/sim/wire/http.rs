//! HTTP on the nodes' ports: gossip, health, information, and the operator's requests; streams, if AtomPub is on, are in `atom`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::{Deserialize, Serialize};
use tonic::Status;
use uuid::Uuid;

use super::{Node, Version, atom};
use crate::domain::cluster::{MemberEntry, NodeState};
use crate::domain::ids::Address;

/// What the server lets browsers send, and since 25.0 besides.
const ALLOWED_HEADERS: &str = "Content-Type, X-Requested-With, X-Forwarded-Host, X-Forwarded-Prefix, X-PINGOTHER, Authorization, \
    ES-LongPoll, ES-ExpectedVersion, ES-EventId, ES-EventType, ES-RequireMaster, ES-RequireLeader, ES-HardDelete, ES-ResolveLinkTos";
const NEWER_ALLOWED_HEADERS: &str = "Content-Type, X-Requested-With, X-Forwarded-Host, X-Forwarded-Prefix, X-PINGOTHER, \
    Authorization, Kurrent-LongPoll, Kurrent-ExpectedVersion, Kurrent-EventId, Kurrent-EventType, Kurrent-RequireLeader, \
    Kurrent-HardDelete, Kurrent-ResolveLinkTos, ES-LongPoll, ES-ExpectedVersion, ES-EventId, ES-EventType, ES-RequireMaster, \
    ES-RequireLeader, ES-HardDelete, ES-ResolveLinkTos";

const GET: &str = "GET, OPTIONS";
const POST: &str = "POST, OPTIONS";
const SCAVENGE: &str = "DELETE, OPTIONS";
const NAMED_SCAVENGE: &str = "DELETE, GET, OPTIONS";
const JSON: &str = "application/json; charset=utf-8";
const XML: &str = "application/xml; charset=utf-8";
const FRESH: &str = "max-age=0, no-cache, must-revalidate";
/// The client TCP port that nodes up to 23.10 announce.
const CLIENT_TCP_PORT: u16 = 1113;

/// The HTTP half of a node's port. What looks like a gRPC call to a service that is not here is answered as one.
pub(super) fn router(node: Node) -> Router {
    let route_get = |methods: &'static str| {
        move |State(node): State<Node>, method: Method| async move { other_method(&node, &method, methods) }
    };
    let streams = if node.atom_pub { atom::router() } else { Router::new() };
    streams
        .route("/health/live", get(live).fallback(no_method))
        .route("/gossip", get(gossip).fallback(route_get(GET)))
        .route("/info", get(info).fallback(route_get(GET)))
        .route("/info/options", get(options).fallback(route_get(GET)))
        .route("/ping", get(ping).fallback(route_get(GET)))
        .route("/stats/replication", get(replication).fallback(route_get("GET, GET, OPTIONS")))
        .route("/admin/node/priority/:priority", post(priority).fallback(route_get(POST)))
        .route("/admin/node/resign", post(resign).fallback(route_get(POST)))
        .route("/admin/scavenge", post(scavenge).fallback(route_get(POST)))
        .route("/admin/scavenge/current", get(current_scavenge).delete(scavenge).fallback(route_get(NAMED_SCAVENGE)))
        .route("/admin/scavenge/last", get(last_scavenge).delete(scavenge).fallback(route_get(SCAVENGE)))
        .route("/admin/scavenge/:id", delete(scavenge).fallback(route_get(SCAVENGE)))
        .route("/admin/shutdown", post(shutdown).fallback(route_get(POST)))
        .fallback(nothing_here)
        .with_state(node)
        .layer(axum::middleware::map_response(server_name))
}

async fn server_name(mut response: Response) -> Response {
    response.headers_mut().entry(axum::http::header::SERVER).or_insert(HeaderValue::from_static("Kestrel"));
    response
}

/// An answer with the headers that the server puts on all of them.
pub(super) fn answer(
    version: &Version,
    status: StatusCode,
    methods: Option<&'static str>,
    content_type: Option<&'static str>,
    body: impl Into<Body>,
) -> Response {
    let newer = version.at_least(25, 0);
    let mut response = (status, body.into()).into_response();
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    let mut put = |name: &'static str, value: &'static str| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    put("access-control-allow-headers", if newer { NEWER_ALLOWED_HEADERS } else { ALLOWED_HEADERS });
    put("access-control-allow-origin", "*");
    put(
        "access-control-expose-headers",
        if newer {
            "Location, Kurrent-Position, Kurrent-CurrentVersion, ES-Position, ES-CurrentVersion, "
        } else {
            "Location, ES-Position, ES-CurrentVersion"
        },
    );
    if let Some(methods) = methods {
        put("access-control-allow-methods", methods);
    }
    if let Some(content_type) = content_type {
        put("content-type", content_type);
    }
    response
}

fn json(version: &Version, methods: &'static str, cache: Option<&'static str>, body: &impl Serialize) -> Response {
    let text = match serde_json::to_string_pretty(body) {
        Ok(text) => text,
        Err(error) => {
            return answer(
                version,
                StatusCode::INTERNAL_SERVER_ERROR,
                Some(methods),
                Some("text/plain"),
                error.to_string(),
            );
        }
    };
    let mut response = answer(version, StatusCode::OK, Some(methods), Some(JSON), text);
    if let Some(cache) = cache {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    }
    response
}

pub(super) fn other_method(node: &Node, method: &Method, methods: &'static str) -> Response {
    let status = if method == Method::OPTIONS { StatusCode::OK } else { StatusCode::METHOD_NOT_ALLOWED };
    answer(&node.version, status, Some(methods), None, Body::empty())
}

async fn no_method() -> StatusCode {
    StatusCode::METHOD_NOT_ALLOWED
}

async fn nothing_here(State(node): State<Node>, uri: Uri, headers: HeaderMap) -> Response {
    let grpc = headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        let method = uri.path().trim_start_matches('/');
        let sentence = format!(
            "the simulated cluster does not know {method}: it serves Streams, Gossip, ServerFeatures, and a part of Operations and Projections"
        );
        return Status::unimplemented(sentence).into_http().map(Body::new);
    }
    if node.version.at_least(25, 0) {
        return StatusCode::NOT_FOUND.into_response();
    }
    answer(&node.version, StatusCode::NOT_FOUND, None, None, Body::empty())
}

#[derive(Deserialize)]
struct LiveQuery {
    #[serde(rename = "liveCode")]
    live_code: Option<String>,
}

async fn live(State(node): State<Node>, Query(query): Query<LiveQuery>) -> StatusCode {
    if !node.world.with(|w| w.live(node.n)) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let wanted = query.live_code.filter(|_| node.version.at_least(24, 10)).and_then(|code| code.parse().ok());
    wanted.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::NO_CONTENT)
}

/// A view, as `/gossip` spells it. The order of the keys is the server's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Gossip {
    members: Vec<Member>,
    server_ip: String,
    server_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    instance_id: Uuid,
    time_stamp: String,
    state: NodeState,
    is_alive: bool,
    internal_tcp_ip: String,
    internal_tcp_port: u16,
    internal_secure_tcp_port: u16,
    external_tcp_ip: String,
    external_tcp_port: u16,
    external_secure_tcp_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    internal_http_end_point_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    internal_http_end_point_port: Option<u16>,
    http_end_point_ip: String,
    http_end_point_port: u16,
    last_commit_position: i64,
    writer_checkpoint: i64,
    chaser_checkpoint: i64,
    epoch_position: i64,
    epoch_number: i32,
    epoch_id: Uuid,
    node_priority: i32,
    is_read_only_replica: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    es_version: Option<String>,
}

impl Member {
    fn of(node: &Node, entry: MemberEntry) -> Member {
        let Address { host, port } = entry.address;
        let newer = node.version.at_least(24, 10);
        let client_port = if newer { 0 } else { CLIENT_TCP_PORT };
        // A port is announced as the plain or as the secure one.
        let either = |port: u16| if node.security.is_some() { (0, port) } else { (port, 0) };
        let (internal_tcp_port, internal_secure_tcp_port) = either(entry.replication.port);
        let (external_tcp_port, external_secure_tcp_port) = either(client_port);
        Member {
            instance_id: entry.process.0,
            time_stamp: entry.time_stamp,
            state: entry.state,
            is_alive: entry.is_alive,
            internal_tcp_ip: entry.replication.host,
            internal_tcp_port,
            internal_secure_tcp_port,
            external_tcp_ip: host.clone(),
            external_tcp_port,
            external_secure_tcp_port,
            internal_http_end_point_ip: newer.then(|| host.clone()),
            internal_http_end_point_port: newer.then_some(port),
            http_end_point_ip: host,
            http_end_point_port: port,
            last_commit_position: entry.last_commit,
            writer_checkpoint: entry.writer,
            chaser_checkpoint: entry.chaser,
            epoch_position: entry.epoch_position,
            epoch_number: entry.epoch,
            epoch_id: entry.epoch_id,
            node_priority: entry.priority,
            is_read_only_replica: entry.is_read_only_replica,
            es_version: entry.version,
        }
    }

    /// Names and values, as XML has them.
    fn elements(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("InstanceId", Some(self.instance_id.to_string())),
            ("TimeStamp", Some(self.time_stamp.to_string())),
            ("State", Some(self.state.to_string())),
            ("IsAlive", Some(self.is_alive.to_string())),
            ("InternalTcpIp", Some(self.internal_tcp_ip.to_string())),
            ("InternalTcpPort", Some(self.internal_tcp_port.to_string())),
            ("InternalSecureTcpPort", Some(self.internal_secure_tcp_port.to_string())),
            ("ExternalTcpIp", Some(self.external_tcp_ip.to_string())),
            ("ExternalTcpPort", Some(self.external_tcp_port.to_string())),
            ("ExternalSecureTcpPort", Some(self.external_secure_tcp_port.to_string())),
            ("InternalHttpEndPointIp", self.internal_http_end_point_ip.as_ref().map(ToString::to_string)),
            ("InternalHttpEndPointPort", self.internal_http_end_point_port.as_ref().map(ToString::to_string)),
            ("HttpEndPointIp", Some(self.http_end_point_ip.to_string())),
            ("HttpEndPointPort", Some(self.http_end_point_port.to_string())),
            ("LastCommitPosition", Some(self.last_commit_position.to_string())),
            ("WriterCheckpoint", Some(self.writer_checkpoint.to_string())),
            ("ChaserCheckpoint", Some(self.chaser_checkpoint.to_string())),
            ("EpochPosition", Some(self.epoch_position.to_string())),
            ("EpochNumber", Some(self.epoch_number.to_string())),
            ("EpochId", Some(self.epoch_id.to_string())),
            ("NodePriority", Some(self.node_priority.to_string())),
            ("IsReadOnlyReplica", Some(self.is_read_only_replica.to_string())),
            ("ESVersion", self.es_version.as_ref().map(ToString::to_string)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// A view, as it is spelled for who accepts XML alone.
fn gossip_xml(gossip: &Gossip) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><ClientClusterInfo \
                   xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                   xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\"><Members>"
        .to_owned();
    for member in &gossip.members {
        let elements = member.elements().into_iter();
        let elements: String = elements.map(|(name, value)| format!("<{name}>{}</{name}>", escaped(&value))).collect();
        xml.push_str(&format!("<ClientMemberInfo>{elements}</ClientMemberInfo>"));
    }
    let Gossip { server_ip, server_port, .. } = gossip;
    let server = escaped(server_ip);
    xml + &format!("</Members><ServerIp>{server}</ServerIp><ServerPort>{server_port}</ServerPort></ClientClusterInfo>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

async fn gossip(State(node): State<Node>, headers: HeaderMap) -> Response {
    let view = node.world.with(|w| w.view(node.n));
    let body = Gossip {
        members: view.members.into_iter().map(|m| Member::of(&node, m)).collect(),
        server_ip: view.server.host,
        server_port: view.server.port,
    };
    let accepts = headers.get(ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    if ["application/xml", "text/xml"].contains(&accepts) {
        let content_type = if accepts == "text/xml" { "text/xml; charset=utf-8" } else { XML };
        let mut response = answer(&node.version, StatusCode::OK, Some(GET), Some(content_type), gossip_xml(&body));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(FRESH));
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        return response;
    }
    json(&node.version, GET, Some(FRESH), &body)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(skip_serializing_if = "Option::is_none")]
    db_version: Option<String>,
    es_version: String,
    state: String,
    features: Features,
    authentication: Authentication,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Features {
    projections: bool,
    user_management: bool,
    atom_pub: bool,
}

#[derive(Serialize)]
struct Authentication {
    r#type: &'static str,
    properties: Option<[(); 0]>,
}

async fn info(State(node): State<Node>) -> Response {
    let newer = node.version.at_least(25, 0);
    let body = Info {
        db_version: newer.then(|| node.version.text.clone()),
        es_version: node.version.text.clone(),
        state: node.world.with(|w| w.own_state(node.n)).to_string().to_lowercase(),
        features: Features { projections: true, user_management: false, atom_pub: node.atom_pub },
        authentication: Authentication {
            r#type: if node.security.is_some() { "internal" } else { "insecure" },
            properties: newer.then_some([]),
        },
    };
    json(&node.version, GET, None, &body)
}

/// An option of the server, as `/info/options` lists it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerOption {
    name: &'static str,
    description: &'static str,
    group: &'static str,
    allowed_values: Option<&'static str>,
    value: String,
    configuration_source: &'static str,
    deprecation_message: Option<&'static str>,
}

async fn options(State(node): State<Node>) -> Response {
    let (voters, replica, address) = node.world.with(|w| {
        let voters = w.config().voters;
        (voters, node.n >= voters, w.address(node.n).clone())
    });
    let option = |name, group, description, value: String| ServerOption {
        name,
        description,
        group,
        allowed_values: None,
        value,
        configuration_source: "Command Line",
        deprecation_message: None,
    };
    let body = [
        option("ClusterSize", "Cluster", "The number of nodes in the cluster.", voters.to_string()),
        option("ReadOnlyReplica", "Cluster", "Sets this node as a read only replica.", replica.to_string()),
        option("NodePriority", "Cluster", "The node priority used during leader election.", "0".to_owned()),
        option("NodeIp", "Interface", "The IP Address for the node.", address.host),
        option("NodePort", "Interface", "The Port to run the HTTP server on.", address.port.to_string()),
        option(
            "Insecure",
            "Application",
            "Disable Authentication, Authorization and TLS on all TCP/HTTP interfaces.",
            node.security.is_none().to_string(),
        ),
    ];
    json(&node.version, GET, None, &body)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ping {
    text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_type_id: Option<u32>,
    label: &'static str,
}

async fn ping(State(node): State<Node>) -> Response {
    let msg_type_id = (!node.version.at_least(25, 0)).then_some(123);
    json(&node.version, GET, None, &Ping { text: "Ping request successfully handled", msg_type_id, label: "Http" })
}

/// One replica, as the leader's `/stats/replication` lists it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Replica {
    subscription_id: Uuid,
    connection_id: Uuid,
    subscription_endpoint: String,
    total_bytes_sent: u64,
    total_bytes_received: u64,
    pending_send_bytes: u64,
    pending_received_bytes: u64,
    send_queue_size: u64,
}

async fn replication(State(node): State<Node>) -> Response {
    let replicas: Vec<_> = node
        .world
        .with(|w| w.replication(node.n))
        .into_iter()
        .map(|r| Replica {
            subscription_id: r.subscription,
            connection_id: Uuid::new_v5(&r.subscription, b"connection"),
            subscription_endpoint: format!("Unspecified/{}", r.endpoint),
            total_bytes_sent: r.total_bytes_sent,
            total_bytes_received: 0,
            pending_send_bytes: 0,
            pending_received_bytes: 0,
            send_queue_size: 0,
        })
        .collect();
    json(&node.version, "GET, GET, OPTIONS", Some("max-age=1, public"), &replicas)
}

async fn priority(State(node): State<Node>, Path(priority): Path<String>) -> Response {
    match priority.parse() {
        Ok(priority) => {
            node.world.with(|w| w.set_priority(node.n, priority));
            answer(&node.version, StatusCode::OK, Some(POST), None, Body::empty())
        }
        Err(_) => answer(
            &node.version,
            StatusCode::BAD_REQUEST,
            Some(POST),
            Some("text/plain"),
            "nodePriority must be an integer.",
        ),
    }
}

async fn resign(State(node): State<Node>) -> Response {
    node.world.with(|w| w.resign(node.n));
    answer(&node.version, StatusCode::OK, Some(POST), None, Body::empty())
}

/// None runs, unless the world is told that one does.
async fn current_scavenge(State(node): State<Node>) -> Response {
    let id = node.world.with(|w| w.facts().scavenges.get(&node.n).cloned());
    let link = id.as_ref().map(|id| format!("/admin/scavenge/{id}")).unwrap_or_default();
    let found = format!("ScavengeId: {}, ScavengeLink: {link}", id.unwrap_or_default());
    answer(&node.version, StatusCode::OK, Some(NAMED_SCAVENGE), Some("text/plain; charset=utf-8"), found)
}

/// Since 25.0 the last one is told; there never was any.
async fn last_scavenge(State(node): State<Node>) -> Response {
    if node.version.at_least(25, 0) { scavenge(State(node)).await } else { other_method(&node, &Method::GET, SCAVENGE) }
}

async fn scavenge(State(node): State<Node>) -> Response {
    let sentence = "the simulated cluster has no scavenging: nothing is ever removed from its log";
    let text = Some("text/plain; charset=utf-8");
    answer(&node.version, StatusCode::NOT_IMPLEMENTED, Some(POST), text, sentence)
}

async fn shutdown(State(node): State<Node>) -> Response {
    node.world.with(|w| w.shutdown(node.n));
    answer(&node.version, StatusCode::OK, Some(POST), None, Body::empty())
}
