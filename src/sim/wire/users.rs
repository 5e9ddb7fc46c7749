//! Users of a secure cluster, and what each may do: as recorded of 23.10.5, and for the rest as its policy has it
//! (`LegacyAuthorizationProviderFactory`, `LegacyStreamPermissionAssertion`).

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, SERVER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tonic::{Code, Status};

use super::{Node, status};
use crate::sim::model::{Direction, ReadOutcome, StreamStart};

/// Members may do everything.
pub const ADMINS: &str = "$admins";
/// Members may operate nodes, and see of streams what anybody may.
pub const OPS: &str = "$ops";
/// In a list of roles: every user. Anonymous callers are none (`AllowAnonymousStreamAccess` is off).
const EVERYBODY: &str = "$all";
/// The whole log, as a stream.
pub(super) const ALL: &str = "$all";

/// A user.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Password.
    pub password: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl User {
    /// A user in these groups.
    pub fn new(name: &str, password: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        User { name: name.to_owned(), password: password.to_owned(), groups }
    }

    fn is(&self, role: &str) -> bool {
        self.name == role || self.groups.iter().any(|g| g == role)
    }

    fn is_admin(&self) -> bool {
        self.is(ADMINS) || self.name == "admin"
    }

    fn may_operate(&self) -> bool {
        self.is_admin() || self.is(OPS) || self.name == "ops"
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// The cluster is insecure: whoever it is may do everything.
    System,
    /// No credentials.
    Anonymous,
    /// A user.
    User(Arc<User>),
}

impl Caller {
    /// The caller as [`guard`] noted it. A call that did not pass there is nobody's.
    pub fn of(extensions: &tonic::Extensions) -> Caller {
        extensions.get::<Caller>().cloned().unwrap_or(Caller::Anonymous)
    }

    fn may_operate(&self) -> bool {
        match self {
            Caller::System => true,
            Caller::Anonymous => false,
            Caller::User(user) => user.may_operate(),
        }
    }

    fn is_admin(&self) -> bool {
        match self {
            Caller::System => true,
            Caller::Anonymous => false,
            Caller::User(user) => user.is_admin(),
        }
    }

    fn is_known(&self) -> bool {
        match self {
            Caller::System | Caller::User(_) => true,
            Caller::Anonymous => false,
        }
    }
}

/// What one does with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Read,
    Write,
    Delete,
}

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing, not even that credentials are right.
    Nothing,
    /// That credentials are right, if there are any.
    Anyone,
    /// A user.
    Known,
    /// A member of `$ops` or `$admins`.
    Operator,
    /// A member of `$admins`.
    Admin,
    /// A right to a stream.
    Stream(Right, String),
    /// The same as [`Need::Operator`], told by the projections' manager, which words it so.
    ProjectionOwner,
}

impl Node {
    /// Fails unless the caller may do that with the stream.
    pub(super) fn authorize(&self, caller: &Caller, right: Right, stream: &str) -> Result<(), Status> {
        if self.may(caller, right, stream) { Ok(()) } else { Err(status::access_denied()) }
    }

    /// Whether the caller may do that with the stream.
    pub(super) fn may(&self, caller: &Caller, right: Right, stream: &str) -> bool {
        let user = match caller {
            Caller::System => return true,
            Caller::Anonymous => return false,
            Caller::User(user) => user,
        };
        if user.is_admin() {
            return true;
        }
        // What is done to a metadata stream needs the right to the metadata of the stream that it is about.
        let (subject, key) = match (stream.strip_prefix("$$"), right) {
            (Some(subject), Right::Read) => (subject, "$mr"),
            (Some(subject), Right::Write | Right::Delete) => (subject, "$mw"),
            (None, Right::Read) => (stream, "$r"),
            (None, Right::Write) => (stream, "$w"),
            (None, Right::Delete) => (stream, "$d"),
        };
        match self.roles(subject, key) {
            Some(roles) => roles.iter().any(|role| role == EVERYBODY || user.is(role)),
            None => !subject.starts_with('$'),
        }
    }

    /// Who has a right by the stream's own metadata, as this node has it.
    fn roles(&self, stream: &str, key: &str) -> Option<Vec<String>> {
        let metadata = format!("$${stream}");
        let read =
            self.world.with(|w| w.read_stream(self.n, false, &metadata, StreamStart::End, Direction::Backwards, 1));
        let record = match read {
            ReadOutcome::Found(page) => page.records.into_iter().next()?,
            // A node that cannot look it up falls back to the default, so that it may deny what it will allow later.
            ReadOutcome::NoStream | ReadOutcome::StreamDeleted | ReadOutcome::NotHandled(_) => return None,
        };
        let metadata: Value = serde_json::from_slice(&record.data).ok()?;
        match metadata.get("$acl")?.get(key)? {
            Value::String(role) => Some(vec![role.clone()]),
            Value::Array(roles) => Some(roles.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }

    /// A replica of a secure cluster forwards nothing: its users are no system user.
    pub(super) fn requires_leader(&self, metadata: &tonic::metadata::MetadataMap) -> bool {
        let replica = || self.world.with(|w| self.n >= w.config().voters);
        super::requires_leader(metadata) || (self.security.is_some() && replica())
    }
}

/// Lets pass who may, and notes who it is.
pub(super) async fn guard(State(node): State<Node>, mut request: Request, next: Next) -> Response {
    let Some(security) = node.security.as_deref() else {
        request.extensions_mut().insert(Caller::System);
        return next.run(request).await;
    };
    let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    let need = if grpc { need_of_call(request.uri().path()) } else { need_of(request.method(), request.uri().path()) };
    if need == Need::Nothing {
        request.extensions_mut().insert(Caller::Anonymous);
        return next.run(request).await;
    }
    let Some(caller) = authenticate(&security.users, request.headers()) else {
        return if grpc { call_refused(Status::unauthenticated("Unauthenticated")) } else { unauthorized(true) };
    };
    let may = match &need {
        Need::Nothing | Need::Anyone => true,
        Need::Known => caller.is_known(),
        Need::Operator => caller.may_operate(),
        Need::Admin => caller.is_admin(),
        Need::Stream(right, stream) => node.may(&caller, *right, stream),
        Need::ProjectionOwner if caller.is_known() && !caller.may_operate() => {
            let text = "Envelope callback expected Updated, received NotAuthorized instead";
            return call_refused(Status::new(Code::Unknown, text));
        }
        Need::ProjectionOwner => caller.is_known(),
    };
    if !may {
        return if grpc { call_refused(status::access_denied()) } else { unauthorized(false) };
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// The caller; none if there are credentials that do not hold.
fn authenticate(users: &[Arc<User>], headers: &HeaderMap) -> Option<Caller> {
    let Some(given) = headers.get(AUTHORIZATION) else { return Some(Caller::Anonymous) };
    let (scheme, encoded) = given.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    users.iter().find(|u| u.name == name && u.password == password).cloned().map(Caller::User)
}

/// What an HTTP request needs.
fn need_of(method: &Method, path: &str) -> Need {
    let mut parts = path.split('/').skip(1);
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("health", _) => Need::Nothing,
        _ if method == Method::OPTIONS => Need::Anyone,
        ("info", Some("options")) | ("admin", _) | ("stats", Some("replication" | "tcp")) => Need::Operator,
        ("" | "gossip" | "info" | "ping" | "web", _) => Need::Anyone,
        ("streams", Some(stream)) => {
            let stream = percent_encoding::percent_decode_str(stream).decode_utf8_lossy().into_owned();
            let stream = if parts.next() == Some("metadata") { format!("$${stream}") } else { stream };
            let right = match *method {
                Method::GET | Method::HEAD => Right::Read,
                Method::DELETE => Right::Delete,
                _ => Right::Write,
            };
            Need::Stream(right, stream)
        }
        ("users", _) => Need::Admin,
        _ => Need::Known,
    }
}

/// What a gRPC call needs; the Streams service looks at the stream itself.
fn need_of_call(path: &str) -> Need {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    match (service.strip_prefix("event_store.client.").unwrap_or(service), method) {
        ("gossip.Gossip" | "server_features.ServerFeatures" | "streams.Streams" | "monitoring.Monitoring", _) => {
            Need::Anyone
        }
        ("operations.Operations", _) => Need::Operator,
        ("projections.Projections", "State" | "Result" | "Statistics") => Need::Known,
        ("projections.Projections", "Delete" | "RestartSubsystem") => Need::Operator,
        ("projections.Projections", _) => Need::ProjectionOwner,
        ("persistent_subscriptions.PersistentSubscriptions", "Read" | "GetInfo" | "List") => Need::Known,
        ("persistent_subscriptions.PersistentSubscriptions", _) => Need::Operator,
        ("users.Users", "Details" | "ChangePassword") => Need::Known,
        ("users.Users", _) => Need::Admin,
        _ => Need::Known,
    }
}

fn call_refused(status: Status) -> Response {
    status.into_http().map(Body::new)
}

/// 401: with a challenge for who gave wrong credentials, and without for who gave none, or has no right.
fn unauthorized(wrong: bool) -> Response {
    let mut response = (StatusCode::UNAUTHORIZED, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(SERVER, HeaderValue::from_static("Kestrel"));
    if wrong {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("X-Basic realm=\"ESDB\""));
    }
    response
}
