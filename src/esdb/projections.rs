//! The store's projections, asked of its leader: every other node lets the call hang.

use std::collections::BTreeSet;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;
use prost_types::value::Kind;
use serde_json::{Map, Value};

use super::ConfigError;
use super::admin::HttpAdmin;
use super::connection::{StoreConfig, Target};
use super::unary::{Answer, Refusal};
use crate::domain::cluster::NodeState;
use crate::domain::ids::Address;
use crate::ports::{ClusterAdmin, NodeError};

/// Time for one call. Creating and resetting write to the log and may meet a subsystem that is just starting.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Service of all calls.
const SERVICE: &str = "projections.Projections";

/// Why projections could not be asked or told.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionsError {
    /// No node of the store names a leader.
    #[error("no node of the store that answers names a leader: {found}")]
    NoLeader {
        /// What was met.
        found: String,
    },
    /// The leader does not answer.
    #[error(
        "the store's leader does not answer: {0}; projections run on the leader only, and not while it is being replaced"
    )]
    Node(#[from] NodeError),
    /// The leader runs no projections.
    #[error("the store's nodes run no projections; start them with RunProjections=All")]
    Off,
    /// The leader refuses.
    #[error("the store refuses {what}: {found}")]
    Refused {
        /// Which call.
        what: String,
        /// What it said.
        found: String,
    },
}

/// Where a projection is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionStatus {
    /// As the server words it: `Running`, `Stopped`, `Faulted (Enabled)`, …
    pub status: String,
    /// Why it is faulted; empty otherwise.
    pub reason: String,
    /// Where it is.
    pub position: String,
    /// Percent; −1 before its first event.
    pub progress: f32,
}

impl ProjectionStatus {
    /// Whether it stands by an error.
    pub fn is_faulted(&self) -> bool {
        self.status.starts_with("Faulted")
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.status.starts_with("Stopped") || self.status.starts_with("Aborted")
    }

    /// Whether it works.
    pub fn is_running(&self) -> bool {
        self.status.starts_with("Running")
    }
}

/// What a projection is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectionText {
    /// Its JavaScript.
    pub text: String,
    /// Whether it may emit.
    pub emit: bool,
}

/// The store's projections.
#[derive(Clone, Debug)]
pub struct Projections {
    nodes: HttpAdmin,
    hosts: Vec<Address>,
}

/// The projections' manager: the node that led a moment ago.
#[derive(Clone, Debug)]
pub struct ProjectionsLeader {
    nodes: HttpAdmin,
    node: Address,
}

impl Projections {
    /// Checks the configuration; connects to nobody yet.
    ///
    /// # Errors
    /// A connection string or CA file with which no client can be made.
    pub fn new(config: &StoreConfig) -> Result<Self, ConfigError> {
        let target = Target::of(config)?;
        let nodes =
            HttpAdmin::with(target.tls, target.verify, target.ca_file.as_deref(), target.credentials, CALL_TIME)?;
        Ok(Self { nodes, hosts: target.hosts })
    }

    /// Finds the leader by gossip.
    ///
    /// # Errors
    /// No node of the connection string answers, or none names a leader.
    pub async fn leader(&self) -> Result<ProjectionsLeader, ProjectionsError> {
        let views = self.hosts.iter().map(|host| self.nodes.gossip(host));
        let mut found = BTreeSet::new();
        for view in futures::future::join_all(views).await {
            let view = match view {
                Ok(view) => view,
                Err(error) => {
                    found.insert(error.to_string());
                    continue;
                }
            };
            if let Some(leader) = view.members.iter().find(|m| m.is_alive && m.state == NodeState::Leader) {
                return Ok(ProjectionsLeader { nodes: self.nodes.clone(), node: leader.address.clone() });
            }
            found.insert(format!("{} names none", view.server));
        }
        Err(ProjectionsError::NoLeader { found: Vec::from_iter(found).join(", ") })
    }
}

impl ProjectionsLeader {
    /// The text of a projection; none if there is no such projection.
    ///
    /// # Errors
    /// The leader does not answer, or not with a text.
    pub async fn text(&self, name: &str) -> Result<Option<ProjectionText>, ProjectionsError> {
        let path = format!("/projection/{}/query?config=yes", utf8_percent_encode(name, NON_ALPHANUMERIC));
        let body = match self.nodes.get_known(&self.node, &path).await {
            Ok(body) => body,
            // The same where there are no projections at all: the statistics tell.
            Err(NodeError::Status { status: 404, .. }) => {
                return match self.status(name).await? {
                    None => Ok(None),
                    Some(_) => Err(refused("GET the text of", name, "404 for a projection that there is")),
                };
            }
            Err(error) => return Err(error.into()),
        };
        let body: Value =
            serde_json::from_slice(&body).map_err(|e| refused("GET the text of", name, &format!("no JSON: {e}")))?;
        let (text, emit) =
            (body.get("query").and_then(Value::as_str), body.get("emitEnabled").and_then(Value::as_bool));
        match (text, emit) {
            (Some(text), Some(emit)) => Ok(Some(ProjectionText { text: text.to_owned(), emit })),
            _ => Err(refused("GET the text of", name, "no query or no emitEnabled in it")),
        }
    }

    /// Creates a continuous projection, which starts at once and may not emit.
    ///
    /// # Errors
    /// The leader does not answer, or refuses.
    pub async fn create(&self, name: &str, text: &str) -> Result<(), ProjectionsError> {
        let continuous = Some(Named { name: name.to_owned() });
        self.tell("Create", name, &Request { options: Some(Creation { continuous, query: text.to_owned() }) }).await
    }

    /// Gives a projection this text, and takes or gives it the right to emit.
    ///
    /// # Errors
    /// The leader does not answer, or refuses.
    pub async fn update(&self, name: &str, text: &str, emit: bool) -> Result<(), ProjectionsError> {
        let change = Change { name: name.to_owned(), query: text.to_owned(), emit_enabled: Some(emit) };
        self.tell("Update", name, &Request { options: Some(change) }).await
    }

    /// Starts a projection.
    ///
    /// # Errors
    /// The leader does not answer, or refuses.
    pub async fn enable(&self, name: &str) -> Result<(), ProjectionsError> {
        self.tell("Enable", name, &Request { options: Some(Named { name: name.to_owned() }) }).await
    }

    /// Stops a projection.
    ///
    /// # Errors
    /// The leader does not answer, or refuses.
    pub async fn disable(&self, name: &str) -> Result<(), ProjectionsError> {
        self.tell("Disable", name, &Request { options: Some(checkpointed(name)) }).await
    }

    /// Lets a projection begin anew.
    ///
    /// # Errors
    /// The leader does not answer, or refuses.
    pub async fn reset(&self, name: &str) -> Result<(), ProjectionsError> {
        self.tell("Reset", name, &Request { options: Some(checkpointed(name)) }).await
    }

    /// Where a projection is; none if there is no such projection. One whose text cannot be loaded is faulted, though the server
    /// then says no more than that its handler threw.
    ///
    /// # Errors
    /// The leader does not answer, or refuses.
    pub async fn status(&self, name: &str) -> Result<Option<ProjectionStatus>, ProjectionsError> {
        let request = Request { options: Some(Named { name: name.to_owned() }) };
        let messages = match self.ask("Statistics", name, &request).await? {
            Ok(messages) => messages,
            Err(refusal) if is_missing(&refusal) => return Ok(None),
            Err(refusal) if refusal.code == 2 && refusal.message.contains("thrown by handler") => {
                return Ok(Some(ProjectionStatus {
                    status: "Faulted".to_owned(),
                    reason: format!("its text cannot be loaded (the server says: {})", refusal.message),
                    position: String::new(),
                    progress: -1.0,
                }));
            }
            Err(refusal) => return Err(refused("Statistics of", name, &refusal.to_string())),
        };
        let Some(first) = messages.first() else { return Ok(None) };
        let decoded: Statistics = decode("Statistics of", name, first)?;
        Ok(decoded.details.map(|d| ProjectionStatus {
            status: d.status,
            reason: d.state_reason,
            position: d.position,
            progress: d.progress,
        }))
    }

    /// The state of a partition; an empty object where it has none, none where there is no such projection.
    ///
    /// # Errors
    /// The leader does not answer, or refuses.
    pub async fn state(&self, name: &str, partition: &str) -> Result<Option<Value>, ProjectionsError> {
        let options = Partition { name: name.to_owned(), partition: partition.to_owned() };
        match self.ask("State", name, &Request { options: Some(options) }).await? {
            Ok(messages) => {
                let first = messages.first().map(Vec::as_slice).unwrap_or_default();
                let decoded: State = decode("State of", name, first)?;
                Ok(Some(decoded.state.map_or(Value::Null, json)))
            }
            Err(refusal) if is_missing(&refusal) => Ok(None),
            Err(refusal) => Err(refused("State of", name, &refusal.to_string())),
        }
    }

    async fn tell(&self, method: &str, name: &str, message: &impl Message) -> Result<(), ProjectionsError> {
        let answer = self.ask(method, name, message).await?;
        answer.map(drop).map_err(|refusal| refused(method, name, &refusal.to_string()))
    }

    async fn ask(
        &self,
        method: &str,
        name: &str,
        message: &impl Message,
    ) -> Result<Result<Vec<Vec<u8>>, Refusal>, ProjectionsError> {
        match self.nodes.call(&self.node, &format!("{SERVICE}/{method}"), message).await? {
            Answer::Ok(messages) => Ok(Ok(messages)),
            Answer::Status(Refusal { code: 12, .. }) => Err(ProjectionsError::Off),
            Answer::Status(Refusal { http: 404, code: 2, .. }) => Err(ProjectionsError::Off),
            Answer::Status(refusal)
                if matches!(refusal.http, 401 | 403) || refusal.message.contains("received NotAuthorized") =>
            {
                Err(refused(method, name, &format!("{refusal}; a user in $admins or $ops may")))
            }
            Answer::Status(refusal) => Ok(Err(refusal)),
        }
    }
}

fn refused(what: &str, name: &str, found: &str) -> ProjectionsError {
    ProjectionsError::Refused { what: format!("{what} {name}"), found: found.to_owned() }
}

/// 23.10 words it as an envelope, 24.6 and later have a code for it.
fn is_missing(refusal: &Refusal) -> bool {
    refusal.code == 5 || (refusal.code == 2 && refusal.message.contains("received NotFound"))
}

fn decode<M: Message + Default>(what: &str, name: &str, bytes: &[u8]) -> Result<M, ProjectionsError> {
    M::decode(bytes).map_err(|e| refused(what, name, &format!("an answer that cannot be read: {e}")))
}

fn checkpointed(name: &str) -> Checkpointed {
    Checkpointed { name: name.to_owned(), write_checkpoint: true }
}

/// As JSON; whole numbers as such, since the service knows numbers with a fraction only.
fn json(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(b),
        Some(Kind::StringValue(s)) => Value::String(s),
        Some(Kind::NumberValue(n)) => number(n),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(s)) => {
            Value::Object(s.fields.into_iter().map(|(k, v)| (k, json(v))).collect::<Map<_, _>>())
        }
    }
}

fn number(n: f64) -> Value {
    /// Above it, not every whole number is one of these.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and small enough")]
    if n.fract() == 0.0 && n.abs() < EXACT { Value::from(n as i64) } else { Value::from(n) }
}

#[derive(Clone, PartialEq, Message)]
struct Request<O: Message + Default> {
    #[prost(message, optional, tag = "1")]
    options: Option<O>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Creation {
    #[prost(message, optional, tag = "3")]
    continuous: Option<Named>,
    #[prost(string, tag = "4")]
    query: String,
}

#[derive(Clone, PartialEq, Message)]
struct Change {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    query: String,
    #[prost(bool, optional, tag = "3")]
    emit_enabled: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Checkpointed {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    write_checkpoint: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Partition {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    partition: String,
}

#[derive(Clone, PartialEq, Message)]
struct Statistics {
    #[prost(message, optional, tag = "1")]
    details: Option<Details>,
}

#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(string, tag = "8")]
    status: String,
    #[prost(string, tag = "9")]
    state_reason: String,
    #[prost(string, tag = "12")]
    position: String,
    #[prost(float, tag = "13")]
    progress: f32,
}

#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(message, optional, tag = "1")]
    state: Option<prost_types::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_come_back_whole() {
        let value = |kind| prost_types::Value { kind: Some(kind) };
        let list = prost_types::ListValue {
            values: vec![value(Kind::NumberValue(3.0)), value(Kind::NumberValue(0.5)), value(Kind::NumberValue(1e20))],
        };
        assert_eq!(json(value(Kind::ListValue(list))).to_string(), "[3,0.5,1e+20]");
    }

    #[test]
    fn a_creation_says_nothing_of_emitting() {
        let continuous = Some(Named { name: "a".into() });
        let request = Request { options: Some(Creation { continuous, query: "b".into() }) };
        assert_eq!(request.encode_to_vec(), [10, 8, 26, 3, 10, 1, b'a', 34, 1, b'b']);
    }
}
